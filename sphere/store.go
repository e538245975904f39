package sphere

import (
	"context"
	"time"

	"github.com/vauban-iot/vauban/sphere/report"
)

// Store keeps the state of the Security Service. Every write is on disk when the call returns. A change function sees what
// earlier writes did, runs inside the transaction of the write, must be pure, and may run more than once; its error is
// returned as it is and nothing is written. Times are kept to the microsecond. Names that are unique compare by their folded form
// (ASCII lower case). Lists are in order of the bytes of their key, after the given one ("" from the start), at most limit.
//
// What takes a tenant neither reads nor writes anything of another, whatever the ids say.
type Store interface {
	TenantStore
	ProductStore
	DeviceStore
	SoftwareStore
	DeploymentStore
	CAStore
	EventStore
	// InitSetting keeps value, sealed, under name unless something stands there already, and returns what stands.
	InitSetting(ctx context.Context, name string, value []byte) ([]byte, error)
}

// TenantStore keeps tenants and who has roles in them.
type TenantStore interface {
	// CreateTenant makes a tenant with its first member and its first CA, all or nothing; fault.AlreadyExists when the id is taken.
	CreateTenant(ctx context.Context, t Tenant, m Member, ca StoredCA) error
	// Tenant returns one; fault.NotFound.
	Tenant(ctx context.Context, id string) (Tenant, error)
	// UpdateTenant changes one; fault.NotFound.
	UpdateTenant(ctx context.Context, id string, change func(Tenant) (Tenant, error)) (Tenant, error)
	// Tenants lists by id.
	Tenants(ctx context.Context, after string, limit int) ([]Tenant, error)
	// Members lists all of a tenant, by folded user.
	Members(ctx context.Context, tenant string) ([]Member, error)
	// Memberships lists all of a user, by tenant.
	Memberships(ctx context.Context, user string) ([]Member, error)
	// Membership returns one; fault.NotFound.
	Membership(ctx context.Context, tenant, user string) (Member, error)
	// ChangeMembers replaces the members of a tenant by what change makes of them, which holds no user twice. Changes of one tenant follow each
	// other. fault.NotFound when there is no such tenant.
	ChangeMembers(ctx context.Context, tenant string, change func([]Member) ([]Member, error)) error
}

// ProductStore keeps products and their device groups.
type ProductStore interface {
	// Product returns one; fault.NotFound.
	Product(ctx context.Context, tenant, id string) (Product, error)
	// PutProduct creates or replaces; change sees what stands or nil. fault.AlreadyExists when another of the tenant has
	// the name, fault.NotFound when there is no such tenant.
	PutProduct(ctx context.Context, tenant, id string, change func(*Product) (Product, error)) (Product, error)
	// DeleteProduct removes one with its groups when check returns nil; fault.NotFound, and fault.AlreadyExists while devices are in it.
	DeleteProduct(ctx context.Context, tenant, id string, check func(Product) error) error
	// Products lists by folded name.
	Products(ctx context.Context, tenant, after string, limit int) ([]Product, error)

	// DeviceGroup returns one; fault.NotFound.
	DeviceGroup(ctx context.Context, tenant, id string) (DeviceGroup, error)
	// PutDeviceGroups creates or replaces groups of one product, all or nothing. change sees all groups of the product, by folded name, and returns
	// those to write: new ones and new versions. fault.AlreadyExists when two of the product would have one name, fault.NotFound when there is no
	// such product. What is deployed to a group stays as it is.
	PutDeviceGroups(ctx context.Context, tenant, product string, change func([]DeviceGroup) ([]DeviceGroup, error)) ([]DeviceGroup, error)
	// DeleteDeviceGroup removes one with its deployments when check returns nil; fault.NotFound, and fault.AlreadyExists while devices are in it.
	DeleteDeviceGroup(ctx context.Context, tenant, id string, check func(DeviceGroup) error) error
	// DeviceGroups lists by product and then folded name; those of one product, or with "" all. The order's key is [GroupKey].
	DeviceGroups(ctx context.Context, tenant, product, after string, limit int) ([]DeviceGroup, error)
}

// GroupKey is the place of a group in lists.
func GroupKey(g DeviceGroup) string { return g.Product + "/" + Fold(g.Name) }

// DeviceStore keeps devices, what was known of them before, and what was granted to them.
type DeviceStore interface {
	// ManufactureRecord returns a tenant's record of a device; fault.NotFound.
	ManufactureRecord(ctx context.Context, tenant, device string) (ManufactureRecord, error)
	// AnyManufactureRecord returns a record of a device, whoever's: one that reserves it before others, and of those the oldest; fault.NotFound.
	AnyManufactureRecord(ctx context.Context, device string) (ManufactureRecord, error)
	// PutManufactureRecords writes records of one tenant in one transaction. check sees what stands (the tenant's own or nil) and for
	// whom the device is reserved ("" for nobody); its error, which becomes the record's, leaves that one as it is.
	PutManufactureRecords(
		ctx context.Context, tenant string, records []ManufactureRecord, check func(i int, now *ManufactureRecord, reservedFor string) error,
	) ([]error, error)
	// ManufactureRecords lists those of a tenant by device.
	ManufactureRecords(ctx context.Context, tenant, after string, limit int) ([]ManufactureRecord, error)
	// ReservedFor returns the tenant for which a device is reserved, or "".
	ReservedFor(ctx context.Context, device string) (string, error)

	// SpendChallenge remembers a nonce until a time; fault.AlreadyExists when it is remembered already. It forgets what ended before now.
	SpendChallenge(ctx context.Context, nonce string, until, now time.Time) error

	// TenantDevice returns a tenant's device with its capabilities that do not expire before now; fault.NotFound.
	TenantDevice(ctx context.Context, tenant, id string, now time.Time) (Device, error)
	// ClaimedDevice returns a device whoever owns it, as TenantDevice does; fault.NotFound. It is for what the device itself has proven.
	ClaimedDevice(ctx context.Context, id string, now time.Time) (Device, error)
	// PutClaimedDevices creates or changes devices in one transaction. change is called for each id and sees what stands, whoever owns it, or nil;
	// its error, which becomes the id's, leaves that one as it is. It changes neither product nor group of one that stands, and a new one has none.
	// The results stand at the place of their ids, of which none is twice.
	PutClaimedDevices(ctx context.Context, ids []string, change func(i int, now *Device) (Device, error)) ([]Device, []error, error)
	// AssignDevices moves devices of a tenant to a group of the tenant, or with "" to none. check sees each device before. All or nothing:
	// fault.NotFound names what is not there, and the error of check is returned as it is.
	AssignDevices(ctx context.Context, tenant string, ids []string, group string, check func(Device) (Device, error)) error
	// TenantDevices lists those of a tenant by id, without capabilities and images.
	TenantDevices(ctx context.Context, tenant string, f DeviceFilter, after string, limit int) ([]Device, error)
	// CountTenantDevices counts them.
	CountTenantDevices(ctx context.Context, tenant string, f DeviceFilter) (int64, error)
	// AddCapability keeps the record of what was granted to a device; fault.NotFound when the tenant has no such device.
	AddCapability(ctx context.Context, tenant string, c Capability) error
}

// SoftwareStore keeps what devices may run. The tenant "" is the installation.
type SoftwareStore interface {
	// PutRelease creates or changes one; change sees what stands under tenant, kind, feed and version, or nil.
	PutRelease(ctx context.Context, key Release, change func(*Release) (Release, error)) (Release, error)
	// Releases lists all of a tenant.
	Releases(ctx context.Context, tenant string) ([]Release, error)
	// PutMinimum keeps a minimum, in place of the one of its tenant, feed and From, and forgets those of the feed that another one, begun
	// before now, has taken over from.
	PutMinimum(ctx context.Context, m Minimum, now time.Time) error
	// Minimums lists all of a tenant, by feed and From.
	Minimums(ctx context.Context, tenant string) ([]Minimum, error)
}

// DeploymentStore keeps what is deployed to device groups.
type DeploymentStore interface {
	// AddDeployment makes one the deployment in force of its group, with the number after the one before, and forgets those of the group that are
	// older than the latest keep. fault.NotFound when the tenant has no such group, fault.AlreadyExists when the tenant has a deployment of that id.
	AddDeployment(ctx context.Context, d Deployment, keep int) (Deployment, error)
	// Deployment returns one of a group; fault.NotFound.
	Deployment(ctx context.Context, tenant, group, id string) (Deployment, error)
	// Deployments lists by group and then number, the latest first; those of one group, or with "" all. The order's key is [DeploymentKey].
	Deployments(ctx context.Context, tenant, group, after string, limit int) ([]Deployment, error)
}

// CAStore keeps CAs. Keys are sealed at rest.
type CAStore interface {
	// TenantCAs lists all of a tenant, oldest first.
	TenantCAs(ctx context.Context, tenant string) ([]StoredCA, error)
	// ChangeTenantCAs writes what change returns, which sees all of a tenant, oldest first: new ones and new versions. Changes of one tenant follow
	// each other, on whatever server. fault.NotFound when there is no such tenant.
	ChangeTenantCAs(ctx context.Context, tenant string, change func([]StoredCA) ([]StoredCA, error)) error
}

// EventStore keeps what devices tell of failures, by the day.
type EventStore interface {
	// AppendDeviceEvents adds events of one device of a tenant: to what stands of the same UTC day (of End), type, class and description, or as
	// new. It then forgets what the device told and ended before since, and the oldest of what is more than keep.
	AppendDeviceEvents(ctx context.Context, tenant, device string, events []report.Event, since time.Time, keep int) error
	// DeviceEvents returns those of a tenant, or of the devices that are in one of its groups now, that ended at since or later. Days are put
	// together again; the latest come first, at most limit.
	DeviceEvents(ctx context.Context, tenant, group string, since time.Time, limit int) ([]report.Event, error)
}
