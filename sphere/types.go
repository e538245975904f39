package sphere

import (
	"crypto/x509"
	"time"

	"github.com/vauban-iot/vauban/internal/secret"
	"github.com/vauban-iot/vauban/iot"
)

// Caller is who asks, as sign-in found out.
type Caller struct {
	// Subject is the name that sign-in vouches for and roles are given to: a mail address, or a subject of a token. It compares
	// without regard to ASCII case. Empty: nobody, who may do nothing.
	Subject string
	// Admin is an administrator of the installation, who looks after what belongs to no tenant, and after who administers each
	// tenant. It gives no right to a tenant's data: for that he gives himself a role, and the audit shows it.
	Admin bool
}

// Tenant holds everything else. The Integrated interfaces call it a catalog.
type Tenant struct {
	ID      string // GUID, lower case
	Name    string // ^[A-Za-z0-9_-]{1,50}$; several tenants may have the same
	ETag    iot.ETag
	Created time.Time
	Updated time.Time
}

// Role is a set of rights in one tenant (sphere §13).
type Role string

// The roles, from the most rights to the fewest.
const (
	Administrator Role = "Administrator" // everything
	Contributor   Role = "Contributor"   // adds and changes, but deletes nothing
	Reader        Role = "Reader"        // reads
)

// Roles lists the roles there are (`role show-types`).
func Roles() []Role { return []Role{Administrator, Contributor, Reader} }

// Member is a user with roles in a tenant.
type Member struct {
	Tenant string
	User   string // as it was typed; compares without regard to ASCII case
	Roles  []Role // at least one, in order of Roles
	Added  time.Time
}

// User is who a caller is to this service.
type User struct {
	Name        string
	Admin       bool     // of the installation
	Memberships []Member // in order of tenant
}

// Product is a model of device.
type Product struct {
	Tenant      string
	ID          string // GUID
	Name        string // unique in the tenant without regard to case; 1 to 50 letters, digits and inner spaces
	Description string // at most 100 characters
	ETag        iot.ETag
	Created     time.Time
	Updated     time.Time
}

// OSFeed is where devices of a group get their operating system from (sphere §4.3).
type OSFeed string

// The feeds. RetailEval gets releases before Retail does.
const (
	Retail     OSFeed = "Retail"
	RetailEval OSFeed = "RetailEval"
)

// UpdatePolicy says whether devices of a group get applications from the service.
type UpdatePolicy string

// The policies.
const (
	UpdateAll            UpdatePolicy = "UpdateAll"
	No3rdPartyAppUpdates UpdatePolicy = "No3rdPartyAppUpdates"
)

// Where data of a group's devices may be, in ARM's words.
const (
	RegionNone = "None"
	RegionEU   = "EU"
)

// Pseudo names in ARM paths: product and group of devices that have none; ".default" is the CA that issues, too.
const (
	PseudoDefault    = ".default"
	PseudoUnassigned = ".unassigned"
)

// DeviceGroup is what devices of one product have in common.
type DeviceGroup struct {
	Tenant           string
	ID               string // GUID
	Product          string // id of its product; never changes
	Name             string // unique in the product, as Product.Name
	Description      string
	OSFeed           OSFeed
	UpdatePolicy     UpdatePolicy
	AllowCrashDumps  bool   // dumps hold memory, which may hold anything: off by default
	RegionalBoundary string // RegionNone, RegionEU
	// Deployment is the one in force; nil: nothing is deployed. It is made by CreateDeployment alone.
	Deployment *Deployment
	ETag       iot.ETag
	Created    time.Time
	Updated    time.Time
}

// ManufacturingState is how far a device is in its making. It goes one way (sphere §7.2).
type ManufacturingState string

// The states, in order. Unknown is a device that never told.
const (
	StateUnknown         ManufacturingState = "Unknown"
	StateBlank           ManufacturingState = "Blank"
	StateModule1Complete ManufacturingState = "Module1Complete"
	StateDeviceComplete  ManufacturingState = "DeviceComplete"
)

// ManufactureRecord is what is known of a device before it is claimed.
type ManufactureRecord struct {
	Tenant    string // whose record it is
	Device    string // id: hash of PublicKey
	PublicKey []byte // SubjectPublicKeyInfo, DER
	ChipSKU   string
	// EndorsementKey names the TPM of the device: SHA-256 of its endorsement public key, 64 hex digits, or empty.
	EndorsementKey string
	// Voucher is the device key's signature over the tenant (package claim), or nil.
	Voucher []byte
	// Reserved says that an administrator of the installation uploaded the record: the device is made for this tenant, and
	// no other may claim it.
	Reserved bool
	By       string // who uploaded it
	Created  time.Time
}

// How a device was claimed.
const (
	ByProof       = "proof"       // it signed a challenge
	ByVoucher     = "voucher"     // it signed a voucher when it was made
	ByReservation = "reservation" // the installation reserved it for the tenant
)

// Device is a claimed device. Its tenant never changes.
type Device struct {
	ID             string // 128 lower-case hex digits
	Tenant         string
	Product        string // id; empty: unassigned
	Group          string // id; empty: unassigned
	PublicKey      []byte // SubjectPublicKeyInfo, DER
	ChipSKU        string
	EndorsementKey string // as in ManufactureRecord
	State          ManufacturingState
	Enabled        bool // a disabled one gets no certificates
	HardwareRoot   bool // its last attestation was rooted in hardware (a TPM)

	Claimed    time.Time
	ClaimedBy  string
	ClaimedHow string // ByProof, ByVoucher, ByReservation

	// What its last attestation told; zero before the first.
	LastInstalledOSVersion string
	LastAvailableOSVersion string // newest release of its feed at that time
	LastUpdateCheck        time.Time
	LastOSUpdate           time.Time // when LastInstalledOSVersion last changed
	LastAttested           time.Time // when it last got a client certificate
	BootCounter            uint64    // highest it ever showed
	Installed              []Image   // what was measured

	// Capabilities that it was granted and that have not expired. Lists leave them out.
	Capabilities []Capability

	ETag    iot.ETag
	Updated time.Time
}

// Capability is the record of a capability file that was made for a device (sphere §7.1).
type Capability struct {
	ID      string // GUID
	Device  string
	Kinds   []string  // CapabilityAppDevelopment, CapabilityFieldServicing
	Expires time.Time // to the second
	Granted time.Time
	By      string
}

// Kinds of capabilities.
const (
	CapabilityAppDevelopment = "appDevelopment"
	CapabilityFieldServicing = "fieldServicing"
)

// DeviceFilter selects devices; the zero value selects all. Conditions add up.
type DeviceFilter struct {
	Product    string // id
	Group      string // id
	Unassigned bool   // in no group
	State      ManufacturingState
	ChipSKU    string
	Enabled    *bool
}

// Page is a place in a list. The zero value is its begin.
type Page struct {
	Token string // NextToken of the page before
	Limit int    // at most this many, 1 to MaxPage; 0: DefaultPage
}

// Sizes of pages.
const (
	DefaultPage = 100
	MaxPage     = 1000
)

// List is one page.
type List[T any] struct {
	Items     []T
	NextToken string // empty: this is the last
}

// Image is one image on a device, or released for devices.
type Image struct {
	Component string `json:"componentId"` // GUID, the same for all versions
	ID        string `json:"imageId"`     // GUID of this version
	SHA256    string `json:"sha256"`      // 64 lower-case hex digits, of the whole image
}

// Kinds of releases.
const (
	ReleaseOS          = "os"          // a whole operating system: a device runs exactly one of these sets
	ReleaseApplication = "application" // images that may run beside it
)

// Release is a set of images that devices may run.
type Release struct {
	Tenant   string // whose devices; empty: all devices of the installation
	Kind     string // ReleaseOS, ReleaseApplication
	Feed     OSFeed // of an OS; empty for applications
	Version  string // numbers with dots between, such as 26.11.1
	Images   []Image
	Released time.Time // counts from then on
	// Withdrawn is when it stopped to count; zero: it counts.
	Withdrawn time.Time
	By        string
}

// Minimum is the oldest OS version that gets client certificates, from a time on.
type Minimum struct {
	Tenant  string // empty: all
	Feed    OSFeed
	Version string
	From    time.Time
	By      string
}

// CAStatus is the state of a CA in ARM's words.
type CAStatus string

// The states. Inactive is both the successor that does not issue yet and the predecessor that issues no more but whose
// certificates are still good.
const (
	CAActive   CAStatus = "Active"
	CAInactive CAStatus = "Inactive"
	CAExpired  CAStatus = "Expired"
	CARevoked  CAStatus = "Revoked"
)

// CA is a certificate authority of a tenant as callers see it: without its key.
type CA struct {
	Tenant      string
	Serial      string // upper-case hex; its name in ARM paths
	Subject     string // RFC 2253
	Thumbprint  string // SHA-1, upper-case hex: Azure's name for it, not a measure of security
	Status      CAStatus
	NotBefore   time.Time
	NotAfter    time.Time
	ActiveFrom  time.Time // when it begins, or began, to issue
	Revoked     time.Time
	Certificate *x509.Certificate
}

// StoredCA is a CA as stores keep it. The key is sealed at rest.
type StoredCA struct {
	Tenant      string
	Serial      string
	Certificate []byte        // DER
	Key         secret.Secret // PKCS #8
	NotAfter    time.Time     // of the certificate
	ActiveFrom  time.Time
	Revoked     time.Time // zero: it is not
	Created     time.Time
}

// CertificateKind tells the two certificates of a device apart (sphere §4.4).
type CertificateKind string

// The kinds.
const (
	// ClientCertificate is below the tenant's CA, for the customer's services: hub, provisioning, gateways.
	ClientCertificate CertificateKind = "client"
	// UpdateCertificate is for this installation's update and report services alone. It is below another root, so that no
	// relying party of the tenant takes it.
	UpdateCertificate CertificateKind = "update"
)

// Issued is a certificate for a device.
type Issued struct {
	Chain     []byte // PEM: leaf, CA; without the root
	Leaf      *x509.Certificate
	NotBefore time.Time
	NotAfter  time.Time
}
