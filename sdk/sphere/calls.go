package sphere

import (
	"context"
	"net/http"
	"net/url"
	"strconv"
	"time"
)

const (
	get    = http.MethodGet
	post   = http.MethodPost
	put    = http.MethodPut
	patch  = http.MethodPatch
	remove = http.MethodDelete
)

// at joins a path below the API: the words at even places are as they are, the others, names, are escaped.
func at(parts ...string) string {
	path := "/v2"
	for i, p := range parts {
		if i%2 == 1 {
			p = url.PathEscape(p)
		}
		path += "/" + p
	}
	return path
}

// Me returns who the caller is, with all its roles.
func (c *Client) Me(ctx context.Context) (Me, error) {
	return call[Me](ctx, c, get, at("me"), nil, nil)
}

// RoleNames lists the roles there are.
func (c *Client) RoleNames(ctx context.Context) ([]Role, error) {
	return all[Role](ctx, c, at("roles"), nil)
}

// Tenants lists the caller's, or all for an administrator of the installation.
func (c *Client) Tenants(ctx context.Context) ([]Tenant, error) {
	return all[Tenant](ctx, c, at("tenants"), nil)
}

// CreateTenant makes a tenant, whose first Administrator is the caller.
func (c *Client) CreateTenant(ctx context.Context, name string) (Tenant, error) {
	return call[Tenant](ctx, c, post, at("tenants"), nil, map[string]string{"Name": name})
}

// Tenant returns one by its id.
func (c *Client) Tenant(ctx context.Context, tenant string) (Tenant, error) {
	return call[Tenant](ctx, c, get, at("tenants", tenant), nil, nil)
}

// RenameTenant renames one.
func (c *Client) RenameTenant(ctx context.Context, tenant, name string) (Tenant, error) {
	return call[Tenant](ctx, c, patch, at("tenants", tenant), nil, map[string]string{"Name": name})
}

// Users lists who has roles in a tenant.
func (c *Client) Users(ctx context.Context, tenant string) ([]User, error) {
	return all[User](ctx, c, at("tenants", tenant, "users"), nil)
}

// Roles returns a user's roles in a tenant.
func (c *Client) Roles(ctx context.Context, tenant, user string) ([]Role, error) {
	return rolesOf(call[roles](ctx, c, get, at("tenants", tenant, "users", user, "role"), nil, nil))
}

// AddRole gives a user, named by its mail address, a role beside those it has. It need not have an account yet.
func (c *Client) AddRole(ctx context.Context, tenant, user string, role Role) ([]Role, error) {
	return rolesOf(call[roles](ctx, c, post, at("tenants", tenant, "users", user, "role"), nil, map[string]Role{"RoleName": role}))
}

// RemoveRole takes a role from a user; 409 for the last Administrator.
func (c *Client) RemoveRole(ctx context.Context, tenant, user string, role Role) error {
	_, err := c.Do(ctx, remove, at("tenants", tenant, "users", user, "role", string(role)), nil, nil)
	return err
}

type roles struct{ Roles []TenantRoles }

func rolesOf(r roles, err error) ([]Role, error) {
	if err != nil || len(r.Roles) == 0 {
		return nil, err
	}
	return r.Roles[0].RoleNames, nil
}

// Products lists a tenant's.
func (c *Client) Products(ctx context.Context, tenant string) ([]Product, error) {
	return all[Product](ctx, c, at("tenants", tenant, "products"), nil)
}

// Product returns one by its id.
func (c *Client) Product(ctx context.Context, tenant, product string) (Product, error) {
	return call[Product](ctx, c, get, at("tenants", tenant, "products", product), nil, nil)
}

// CreateProduct makes one without groups; its name is required. 409 when the name is taken.
func (c *Client) CreateProduct(ctx context.Context, tenant string, with ProductChange) (Product, error) {
	return call[Product](ctx, c, post, at("tenants", tenant, "products"), nil, with)
}

// UpdateProduct changes one.
func (c *Client) UpdateProduct(ctx context.Context, tenant, product string, change ProductChange) (Product, error) {
	return call[Product](ctx, c, patch, at("tenants", tenant, "products", product), nil, change)
}

// DeleteProduct removes one with its groups; 409 while devices are in it.
func (c *Client) DeleteProduct(ctx context.Context, tenant, product string) error {
	_, err := c.Do(ctx, remove, at("tenants", tenant, "products", product), nil, nil)
	return err
}

// CreateDefaultDeviceGroups makes those of the five default groups that a product does not have, and returns all five.
func (c *Client) CreateDefaultDeviceGroups(ctx context.Context, tenant, product string) ([]DeviceGroup, error) {
	l, err := call[struct{ Items []DeviceGroup }](ctx, c, post, at("tenants", tenant, "products", product, "devicegroups"), nil, nil)
	return l.Items, err
}

// DeviceGroups lists those of a product, or with "" all of a tenant.
func (c *Client) DeviceGroups(ctx context.Context, tenant, product string) ([]DeviceGroup, error) {
	if product == "" {
		return all[DeviceGroup](ctx, c, at("tenants", tenant, "devicegroups"), nil)
	}
	return all[DeviceGroup](ctx, c, at("tenants", tenant, "products", product, "devicegroups"), nil)
}

// DeviceGroup returns one by its id.
func (c *Client) DeviceGroup(ctx context.Context, tenant, group string) (DeviceGroup, error) {
	return call[DeviceGroup](ctx, c, get, at("tenants", tenant, "devicegroups", group), nil, nil)
}

// CreateDeviceGroup makes one; its name is required. 409 when the name is taken in the product.
func (c *Client) CreateDeviceGroup(ctx context.Context, tenant, product string, with DeviceGroupChange) (DeviceGroup, error) {
	return call[DeviceGroup](ctx, c, post, at("tenants", tenant, "devicegroups"), nil, struct {
		ProductID string `json:"ProductId"`
		DeviceGroupChange
	}{product, with})
}

// UpdateDeviceGroup changes one.
func (c *Client) UpdateDeviceGroup(ctx context.Context, tenant, group string, change DeviceGroupChange) (DeviceGroup, error) {
	return call[DeviceGroup](ctx, c, patch, at("tenants", tenant, "devicegroups", group), nil, change)
}

// DeleteDeviceGroup removes one; 409 while devices are in it.
func (c *Client) DeleteDeviceGroup(ctx context.Context, tenant, group string) error {
	_, err := c.Do(ctx, remove, at("tenants", tenant, "devicegroups", group), nil, nil)
	return err
}

// CurrentDeployment is the name of the deployment in force in any group.
const CurrentDeployment = ".default"

// Deployments lists what was deployed to a device group, the latest, which is in force, first.
func (c *Client) Deployments(ctx context.Context, tenant, group string) ([]Deployment, error) {
	return all[Deployment](ctx, c, at("tenants", tenant, "devicegroups", group, "deployments"), nil)
}

// Deployment returns one of a device group by its id, or by [CurrentDeployment]; 404 where nothing is deployed.
func (c *Client) Deployment(ctx context.Context, tenant, group, deployment string) (Deployment, error) {
	return call[Deployment](ctx, c, get, at("tenants", tenant, "devicegroups", group, "deployments", deployment), nil, nil)
}

// CreateDeployment puts a set of images in force for a device group. They are named by their ids, and releases of applications must hold them; 400
// for one that none holds. id is the deployment's own, a GUID, with which a call may be made again when its answer was lost; empty: the service makes one.
func (c *Client) CreateDeployment(ctx context.Context, tenant, group, id string, images []string) (Deployment, error) {
	body := map[string]any{"DeployedImages": images}
	if id != "" {
		body["Id"] = id
	}
	return call[Deployment](ctx, c, post, at("tenants", tenant, "devicegroups", group, "deployments"), nil, body)
}

// TargetedImages returns what a device should get of its group's deployment.
func (c *Client) TargetedImages(ctx context.Context, tenant, device string) (Target, error) {
	return call[Target](ctx, c, get, at("tenants", tenant, "devices", device, "targetedImages"), nil, nil)
}

func (f DeviceFilter) query() url.Values {
	q := url.Values{}
	set := func(name, value string) {
		if value != "" {
			q.Set(name, value)
		}
	}
	set("productId", f.Product)
	set("deviceGroupId", f.Group)
	set("chipSku", f.ChipSKU)
	if f.Unassigned {
		set("deviceGroupId", ".unassigned")
	}
	if f.State != nil {
		set("manufacturingState", strconv.Itoa(int(*f.State)))
	}
	if f.Enabled != nil {
		set("enabled", strconv.FormatBool(*f.Enabled))
	}
	return q
}

// Devices lists a tenant's, without their capabilities.
func (c *Client) Devices(ctx context.Context, tenant string, f DeviceFilter) ([]Device, error) {
	return all[Device](ctx, c, at("tenants", tenant, "devices"), f.query())
}

// EachDevice is Devices without keeping them all: it ends with the first error of do.
func (c *Client) EachDevice(ctx context.Context, tenant string, f DeviceFilter, do func(Device) error) error {
	return each(ctx, c, at("tenants", tenant, "devices"), f.query(), do)
}

// CountDevices counts them.
func (c *Client) CountDevices(ctx context.Context, tenant string, f DeviceFilter) (int64, error) {
	n, err := call[struct{ Count int64 }](ctx, c, get, at("tenants", tenant, "devices")+"/count", f.query(), nil)
	return n.Count, err
}

// Device returns one with its capabilities.
func (c *Client) Device(ctx context.Context, tenant, device string) (Device, error) {
	return call[Device](ctx, c, get, at("tenants", tenant, "devices", device), nil, nil)
}

// AssignDevice moves a device to a group, named by its id, or with "" to none.
func (c *Client) AssignDevice(ctx context.Context, tenant, device, group string) (Device, error) {
	if group == "" {
		group = ".unassigned"
	}
	return call[Device](ctx, c, patch, at("tenants", tenant, "devices", device), nil, map[string]string{"DeviceGroupId": group})
}

// SetManufacturingState moves a device on: to Module1Complete or DeviceComplete. 409 for a way back.
func (c *Client) SetManufacturingState(ctx context.Context, tenant, device string, state ManufacturingState) (Device, error) {
	return call[Device](ctx, c, patch, at("tenants", tenant, "devices", device), nil, map[string]ManufacturingState{"ManufacturingState": state})
}

// EnableDevice says whether a device gets certificates.
func (c *Client) EnableDevice(ctx context.Context, tenant, device string, enabled bool) (Device, error) {
	do := "disable"
	if enabled {
		do = "enable"
	}
	return call[Device](ctx, c, post, at("tenants", tenant, "devices", device, do), nil, nil)
}

// DeviceImages lists what a device measured last.
func (c *Client) DeviceImages(ctx context.Context, tenant, device string) ([]Image, error) {
	return all[Image](ctx, c, at("tenants", tenant, "devices", device, "images"), nil)
}

// ClaimChallenge makes the text that a device signs so that it may be claimed, once, within the time that is returned.
func (c *Client) ClaimChallenge(ctx context.Context, tenant string) (challenge string, life time.Duration, err error) {
	a, err := call[struct {
		Challenge        string
		ExpiresInSeconds int
	}](ctx, c, post, at("tenants", tenant, "claimChallenge"), nil, nil)
	return a.Challenge, time.Duration(a.ExpiresInSeconds) * time.Second, err
}

// Claim makes a device the tenant's, for ever. claimed is false when it was the tenant's already; 409 when it is another's.
func (c *Client) Claim(ctx context.Context, tenant string, p Proof) (d Device, claimed bool, err error) {
	a, err := call[struct {
		Device  Device
		Claimed bool
	}](ctx, c, post, at("tenants", tenant, "devices"), nil, p)
	return a.Device, a.Claimed, err
}

// ClaimKnown claims at most 1000 devices by their ids alone, into a group or with "" into none: those that the tenant's manufacture records allow it for.
func (c *Client) ClaimKnown(ctx context.Context, tenant string, devices []string, group string) ([]Claimed, error) {
	l, err := call[struct{ Items []Claimed }](ctx, c, post, at("tenants", tenant, "devices", "claim"), nil, map[string]any{"DeviceIdentifiers": devices, "DeviceGroupId": group})
	return l.Items, err
}

// DownloadCapability makes a capability file for a device. The zero time takes the service's default.
func (c *Client) DownloadCapability(ctx context.Context, tenant, device string, kinds []CapabilityKind, expires time.Time) ([]byte, error) {
	body := map[string]any{"Capabilities": kinds}
	if !expires.IsZero() {
		body["ExpiresUtc"] = expires.UTC()
	}
	return c.Do(ctx, post, at("tenants", tenant, "devices", device, "capabilities"), nil, body)
}

// CapabilitySigner returns the certificate, in DER, that signs capability files. Devices have to trust it.
func (c *Client) CapabilitySigner(ctx context.Context) ([]byte, error) {
	return c.Do(ctx, get, at("capabilitySigner"), nil, nil)
}

// ManufactureRecords lists what is known of devices of a tenant, claimed or not.
func (c *Client) ManufactureRecords(ctx context.Context, tenant string) ([]ManufactureRecord, error) {
	return all[ManufactureRecord](ctx, c, at("tenants", tenant, "manufactureRecords"), nil)
}

// UploadManufactureRecords keeps what is known of devices, at most 1000 at once. The answers stand at the places of the records.
func (c *Client) UploadManufactureRecords(ctx context.Context, tenant string, records []ManufactureRecord) ([]Uploaded, error) {
	l, err := call[struct{ Items []Uploaded }](ctx, c, post, at("tenants", tenant, "manufactureRecords"), nil, map[string]any{"Items": records})
	return l.Items, err
}

// Certificates lists the CAs of a tenant, oldest first: also those that expired or were revoked.
func (c *Client) Certificates(ctx context.Context, tenant string) ([]Certificate, error) {
	return all[Certificate](ctx, c, at("tenants", tenant, "certificates"), nil)
}

// Certificate returns one by its thumbprint or serial number, or by ".default" the one that issues now.
func (c *Client) Certificate(ctx context.Context, tenant, name string) (Certificate, error) {
	return call[Certificate](ctx, c, get, at("tenants", tenant, "certificates", name), nil, nil)
}

// CertificateContent returns one as a .cer file: DER.
func (c *Client) CertificateContent(ctx context.Context, tenant, name string) ([]byte, error) {
	return c.Do(ctx, get, at("tenants", tenant, "certificates", name, "content"), nil, nil)
}

// CertificateChain returns the chain of one as a .p7b file.
func (c *Client) CertificateChain(ctx context.Context, tenant, name string) ([]byte, error) {
	return c.Do(ctx, get, at("tenants", tenant, "certificates", name, "chain"), nil, nil)
}

// CertificateProof returns a .cer file that proves to a relying party, which made up the code, that the tenant holds the CA's key.
func (c *Client) CertificateProof(ctx context.Context, tenant, name, code string) ([]byte, error) {
	return c.Do(ctx, post, at("tenants", tenant, "certificates", name, "proofOfPossession"), nil, map[string]string{"ProofOfPossessionNonce": code})
}

// RotateCertificate makes a successor of the CA that issues now. It issues in 45 days, or when ActivateCertificate says so; 409 while one waits.
func (c *Client) RotateCertificate(ctx context.Context, tenant string) (Certificate, error) {
	return call[Certificate](ctx, c, post, at("tenants", tenant, "certificates"), nil, nil)
}

// ActivateCertificate has a successor issue from now on.
func (c *Client) ActivateCertificate(ctx context.Context, tenant, name string) (Certificate, error) {
	return call[Certificate](ctx, c, post, at("tenants", tenant, "certificates", name, "activate"), nil, nil)
}

// RevokeCertificate ends a CA for good. Relying parties have to forget it themselves.
func (c *Client) RevokeCertificate(ctx context.Context, tenant, name string) (Certificate, error) {
	return call[Certificate](ctx, c, post, at("tenants", tenant, "certificates", name, "revoke"), nil, nil)
}

// of is the path of what a tenant has or, with "", the installation.
func of(tenant, what string) string {
	if tenant == "" {
		return at(what)
	}
	return at("tenants", tenant, what)
}

// Releases lists those of a tenant or, with "", of the installation: withdrawn ones, too.
func (c *Client) Releases(ctx context.Context, tenant string) ([]Release, error) {
	return all[Release](ctx, c, of(tenant, "releases"), nil)
}

// PublishRelease has devices of a tenant or, with "", of all tenants trust a set of images.
func (c *Client) PublishRelease(ctx context.Context, tenant string, r Release) (Release, error) {
	return call[Release](ctx, c, post, of(tenant, "releases"), nil, r)
}

// WithdrawRelease ends the trust in a release.
func (c *Client) WithdrawRelease(ctx context.Context, tenant string, kind ReleaseKind, feed OSFeed, version string) error {
	_, err := c.Do(ctx, post, of(tenant, "releases")+"/withdraw", nil, map[string]any{"Kind": kind, "OsFeedType": feed, "Version": version})
	return err
}

// Minimums lists those of a tenant or, with "", of the installation.
func (c *Client) Minimums(ctx context.Context, tenant string) ([]Minimum, error) {
	return all[Minimum](ctx, c, of(tenant, "minimums"), nil)
}

// SetMinimum says which OS version devices of a feed need at least for a client certificate.
func (c *Client) SetMinimum(ctx context.Context, tenant string, m Minimum) (Minimum, error) {
	return call[Minimum](ctx, c, put, of(tenant, "minimums"), nil, m)
}

// Insights lists what a tenant's devices told of failures in the last 14 days, at most 1000 events, the latest first.
func (c *Client) Insights(ctx context.Context, tenant string) ([]Insight, error) {
	return all[Insight](ctx, c, at("tenants", tenant, "getDeviceInsights"), nil)
}

// ErrorReport is Insights as a CSV file, of a device group or, with "", of the whole tenant. integrated adds the column Event Category.
func (c *Client) ErrorReport(ctx context.Context, tenant, group string, integrated bool) ([]byte, error) {
	path := at("tenants", tenant, "errorReport")
	if group != "" {
		path = at("tenants", tenant, "devicegroups", group, "errorReport")
	}
	return c.Do(ctx, get, path, url.Values{"integrated": {strconv.FormatBool(integrated)}}, nil)
}
