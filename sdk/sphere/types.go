package sphere

import (
	"fmt"
	"strings"
	"time"
)

// OSFeed is where devices of a group get their operating system from. Its values are those of the wire.
type OSFeed int

// The feeds.
const (
	Retail     OSFeed = 0
	RetailEval OSFeed = 1 // gets releases earlier
)

var feeds = []string{"Retail", "RetailEval"}

func (f OSFeed) String() string { return word(feeds, int(f)) }

// ParseOSFeed reads a name, without case.
func ParseOSFeed(s string) (OSFeed, error) { return parse[OSFeed]("OS feed", feeds, s) }

// UpdatePolicy says whether devices of a group get applications from the service.
type UpdatePolicy int

// The policies.
const (
	UpdateAll            UpdatePolicy = 0
	No3rdPartyAppUpdates UpdatePolicy = 1
)

var policies = []string{"UpdateAll", "No3rdPartyAppUpdates"}

func (p UpdatePolicy) String() string { return word(policies, int(p)) }

// ParseUpdatePolicy reads a name, without case.
func ParseUpdatePolicy(s string) (UpdatePolicy, error) {
	return parse[UpdatePolicy]("update policy", policies, s)
}

// Region bounds where crash dumps may be kept.
type Region int

// The regions.
const (
	RegionNone Region = 0
	RegionEU   Region = 1
)

var regions = []string{"None", "EU"}

func (r Region) String() string { return word(regions, int(r)) }

// ParseRegion reads a name, without case.
func ParseRegion(s string) (Region, error) {
	return parse[Region]("regional data boundary", regions, s)
}

// ManufacturingState is how far a device is in its making. It goes one way.
type ManufacturingState int

// The states.
const (
	StateUnknown         ManufacturingState = 0
	StateBlank           ManufacturingState = 1
	StateModule1Complete ManufacturingState = 2
	StateDeviceComplete  ManufacturingState = 3
)

var states = []string{"Unknown", "Blank", "Module1Complete", "DeviceComplete"}

func (s ManufacturingState) String() string { return word(states, int(s)) }

// ParseManufacturingState reads a name, without case.
func ParseManufacturingState(s string) (ManufacturingState, error) {
	return parse[ManufacturingState]("manufacturing state", states, s)
}

// CertificateStatus is the state of a tenant's CA.
type CertificateStatus int

// The states. Inactive is a successor that does not issue yet, or a predecessor that issues no more but whose certificates are still good.
const (
	CertificateActive   CertificateStatus = 0
	CertificateInactive CertificateStatus = 1
	CertificateExpired  CertificateStatus = 2
	CertificateRevoked  CertificateStatus = 3
)

var statuses = []string{"Active", "Inactive", "Expired", "Revoked"}

func (s CertificateStatus) String() string { return word(statuses, int(s)) }

// CapabilityKind is what a capability file allows. The numbers are those in the file.
type CapabilityKind int

// The kinds.
const (
	AppDevelopment CapabilityKind = 11
	FieldServicing CapabilityKind = 13
)

func (k CapabilityKind) String() string {
	switch k {
	case AppDevelopment:
		return "appDevelopment"
	case FieldServicing:
		return "fieldServicing"
	}
	return fmt.Sprint(int(k))
}

// ParseCapabilityKind reads a name as tools write it (appDevelopment, fieldServicing), without case.
func ParseCapabilityKind(s string) (CapabilityKind, error) {
	for _, k := range []CapabilityKind{AppDevelopment, FieldServicing} {
		if strings.EqualFold(s, k.String()) {
			return k, nil
		}
	}
	return 0, fmt.Errorf("there is no capability %q; there are appDevelopment and fieldServicing", s)
}

// ReleaseKind tells releases apart.
type ReleaseKind int

// The kinds.
const (
	ReleaseOS          ReleaseKind = 0 // a whole operating system: a device runs exactly one of these sets
	ReleaseApplication ReleaseKind = 1 // images that may run beside it
)

var kinds = []string{"os", "application"}

func (k ReleaseKind) String() string { return word(kinds, int(k)) }

// ParseReleaseKind reads a name, without case.
func ParseReleaseKind(s string) (ReleaseKind, error) {
	return parse[ReleaseKind]("kind of release", kinds, s)
}

// Role is a set of rights in one tenant.
type Role string

// The roles.
const (
	Administrator Role = "Administrator" // everything
	Contributor   Role = "Contributor"   // adds and changes, deletes nothing
	Reader        Role = "Reader"        // reads
)

func word(words []string, i int) string {
	if i >= 0 && i < len(words) {
		return words[i]
	}
	return fmt.Sprint(i)
}

func parse[T ~int](what string, words []string, s string) (T, error) {
	for i, w := range words {
		if strings.EqualFold(s, w) {
			return T(i), nil
		}
	}
	return 0, fmt.Errorf("there is no %s %q; there are %s", what, s, strings.Join(words, ", "))
}

// Me is who the caller is to the service.
type Me struct {
	UserID        string `json:"UserId"`        // what roles are given to
	Administrator bool   `json:"Administrator"` // of the installation
	Roles         []TenantRoles
}

// TenantRoles are roles in one tenant.
type TenantRoles struct {
	TenantID   string `json:"TenantId"`
	TenantName string `json:"TenantName"`
	RoleNames  []Role
}

// Tenant holds everything else.
type Tenant struct {
	ID         string `json:"Id"` // GUID, lower case
	Name       string
	CreatedUTC time.Time `json:"CreatedUtc"`
}

// User is who has roles in a tenant.
type User struct {
	UserID   string    `json:"UserId"` // mail address
	AddedUTC time.Time `json:"AddedUtc"`
	Roles    []TenantRoles
}

// Product is a model of device.
type Product struct {
	ID          string `json:"Id"` // GUID
	TenantID    string `json:"TenantId"`
	Name        string
	Description string
	CreatedUTC  time.Time `json:"CreatedUtc"`
	UpdatedUTC  time.Time `json:"UpdatedUtc"`
}

// ProductChange is what a new product has, or an update sets; nil leaves a field.
type ProductChange struct {
	Name        *string `json:",omitempty"`
	Description *string `json:",omitempty"`
}

// DeviceGroup is what devices of one product have in common.
type DeviceGroup struct {
	ID                        string `json:"Id"` // GUID
	TenantID                  string `json:"TenantId"`
	ProductID                 string `json:"ProductId"`
	Name                      string
	Description               string
	OSFeed                    OSFeed       `json:"OsFeedType"`
	UpdatePolicy              UpdatePolicy `json:"UpdatePolicy"`
	AllowCrashDumpsCollection bool
	RegionalDataBoundary      Region
	CurrentDeployment         Deployment // in force; its ID is empty where nothing is deployed
	CreatedUTC                time.Time  `json:"CreatedUtc"`
	UpdatedUTC                time.Time  `json:"UpdatedUtc"`
}

// Deployment is one image set for the devices of a group.
type Deployment struct {
	ID                string     `json:"Id"` // GUID
	TenantID          string     `json:"TenantId"`
	DeployedImages    []string   // ids
	DeploymentDateUTC *time.Time `json:"DeploymentDateUtc"`
}

// Target is what a device should get of its group's deployment.
type Target struct {
	Deployment *Deployment // in force in the device's group; nil: none
	Images     []Image     `json:"Items"` // all of the deployment, or none
	Reason     string      // why there are none
}

// DeviceGroupChange is what a new group has, or an update sets; nil leaves a field, or means the default: Retail, UpdateAll, no dumps, no boundary.
type DeviceGroupChange struct {
	Name                      *string       `json:",omitempty"`
	Description               *string       `json:",omitempty"`
	OSFeed                    *OSFeed       `json:"OsFeedType,omitempty"`
	UpdatePolicy              *UpdatePolicy `json:",omitempty"`
	AllowCrashDumpsCollection *bool         `json:",omitempty"`
	RegionalDataBoundary      *Region       `json:",omitempty"`
}

// Device is a claimed device. Times are zero, and texts empty, of what it never told.
type Device struct {
	DeviceID               string `json:"DeviceId"` // 128 lower-case hex digits
	TenantID               string `json:"TenantId"`
	ProductID              string `json:"ProductId"`     // empty: unassigned
	DeviceGroupID          string `json:"DeviceGroupId"` // empty: unassigned
	ChipSKU                string `json:"ChipSku"`
	ManufacturingState     ManufacturingState
	Enabled                bool       // a disabled one gets no certificates
	HardwareRoot           bool       // its last attestation was rooted in hardware (a TPM)
	LastInstalledOSVersion string     `json:"LastInstalledOSVersion"`
	LastAvailableOSVersion string     `json:"LastAvailableOSVersion"`
	LastUpdateCheckUTC     *time.Time `json:"LastUpdateCheckUTC"`
	LastOSUpdateUTC        *time.Time `json:"LastOsUpdateUTC"`
	LastAttestedUTC        *time.Time `json:"LastAttestedUTC"`
	ClaimedUTC             *time.Time `json:"ClaimedUTC"`
	ClaimedBy              string
	// Capabilities that it was granted and that have not expired. Lists leave them out.
	Capabilities []Capability
}

// Capability is the record of a capability file that was made for a device.
type Capability struct {
	ID           string           `json:"Id"`
	Capabilities []CapabilityKind // what it allows
	GrantedUTC   time.Time        `json:"GrantedUtc"`
	GrantedBy    string
	ExpiresUTC   *time.Time `json:"ExpiresUtc"` // nil: never
}

// Image is one image on a device, or released for devices.
type Image struct {
	ComponentID string `json:"ComponentId"` // GUID, the same for all versions
	ImageID     string `json:"ImageId"`     // GUID of this version
	SHA256      string `json:"Sha256"`      // 64 hex digits, of the whole image
}

// DeviceFilter selects devices; the zero value selects all. Conditions add up.
type DeviceFilter struct {
	Product    string // id
	Group      string // id
	Unassigned bool   // in no group
	ChipSKU    string
	State      *ManufacturingState
	Enabled    *bool
}

// Proof is a device's answer to a claim challenge, as its servicing API gives it.
type Proof struct {
	Challenge string
	PublicKey []byte // SubjectPublicKeyInfo, DER
	Signature []byte
	// What the device says of itself; a manufacture record of the tenant counts more.
	ChipSKU            string             `json:"ChipSku,omitempty"`
	EndorsementKey     string             `json:"EndorsementKey,omitempty"` // SHA-256 of its TPM's endorsement public key, 64 hex digits
	ManufacturingState ManufacturingState `json:"ManufacturingState"`
	DeviceGroupID      string             `json:"DeviceGroupId,omitempty"` // the group it is put into; empty: none
}

// Claimed is what became of one device that was claimed by its id.
type Claimed struct {
	DeviceID string   `json:"DeviceId"`
	Claimed  bool     // false without an error: it was the tenant's already
	Error    *Problem `json:"Error"`
}

// Problem is why one of many did not succeed.
type Problem struct {
	ErrorCode string
	Title     string
	Details   string
}

// ManufactureRecord is what is known of a device before it is claimed.
type ManufactureRecord struct {
	DeviceID       string `json:"DeviceId,omitempty"` // may be left out of an upload
	PublicKey      []byte // SubjectPublicKeyInfo, DER
	ChipSKU        string `json:"ChipSku,omitempty"`
	EndorsementKey string `json:"EndorsementKey,omitempty"`
	Voucher        []byte `json:"Voucher,omitempty"` // the device key's signature over the tenant; nil: none
	// Of records that stand.
	Reserved   bool      `json:"Reserved,omitempty"`
	UploadedBy string    `json:"UploadedBy,omitempty"`
	CreatedUTC time.Time `json:"CreatedUtc,omitzero"`
}

// Uploaded is what became of one record of an upload.
type Uploaded struct {
	DeviceID string   `json:"DeviceId"` // empty when the key could not be read
	Error    *Problem `json:"Error"`
}

// Certificate is a CA of a tenant.
type Certificate struct {
	TenantID     string `json:"TenantId"`
	Thumbprint   string // SHA-1, upper-case hex
	SerialNumber string
	Subject      string
	Status       CertificateStatus
	IsActive     bool // it issues now
	IsRevoked    bool
	NotBeforeUTC time.Time  `json:"NotBeforeUtc"`
	NotAfterUTC  time.Time  `json:"NotAfterUtc"`
	ActiveFrom   time.Time  `json:"ActiveFromUtc"` // when it begins, or began, to issue
	RevokedUTC   *time.Time `json:"RevokedUtc"`
	Certificate  []byte     // DER
}

// Release is a set of images that devices may run.
type Release struct {
	TenantID     string      `json:"TenantId,omitempty"` // empty: of the installation
	Kind         ReleaseKind `json:"Kind"`
	OSFeed       OSFeed      `json:"OsFeedType"` // of an OS
	Version      string      // numbers with dots between
	Images       []Image
	ReleasedUTC  *time.Time `json:"ReleasedUtc,omitempty"`  // counts from then on; nil in a new one: now
	WithdrawnUTC *time.Time `json:"WithdrawnUtc,omitempty"` // nil: it counts
	PublishedBy  string     `json:"PublishedBy,omitempty"`
}

// Minimum is the oldest OS version that gets client certificates, from a time on.
type Minimum struct {
	TenantID string     `json:"TenantId,omitempty"` // empty: of the installation
	OSFeed   OSFeed     `json:"OsFeedType"`
	Version  string     // empty lifts it
	FromUTC  *time.Time `json:"FromUtc,omitempty"` // nil in a new one: now
	SetBy    string     `json:"SetBy,omitempty"`
}

// Insight is what a device told of a failure.
type Insight struct {
	DeviceID      string `json:"DeviceId"`
	Description   string
	StartUTC      time.Time `json:"StartTimestampUtc"`
	EndUTC        time.Time `json:"EndTimestampUtc"`
	EventCategory string
	EventClass    string
	EventType     string
	EventCount    int64
}
