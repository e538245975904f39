package sphere

import (
	"encoding/json"
	"slices"
	"strings"
	"time"

	"github.com/vauban-iot/vauban/fault"
	"github.com/vauban-iot/vauban/sphere"
	"github.com/vauban-iot/vauban/sphere/report"
	"github.com/vauban-iot/vauban/wire/capability"
)

// Words of the domain in the order of their numbers in the public API.
var (
	feeds    = []sphere.OSFeed{sphere.Retail, sphere.RetailEval}
	policies = []sphere.UpdatePolicy{sphere.UpdateAll, sphere.No3rdPartyAppUpdates}
	regions  = []string{sphere.RegionNone, sphere.RegionEU}
	states   = []sphere.ManufacturingState{sphere.StateUnknown, sphere.StateBlank, sphere.StateModule1Complete, sphere.StateDeviceComplete}
	statuses = []sphere.CAStatus{sphere.CAActive, sphere.CAInactive, sphere.CAExpired, sphere.CARevoked}
	kinds    = []string{sphere.ReleaseOS, sphere.ReleaseApplication}
)

// number is a word's; what is none of the words is 0.
func number[T comparable](words []T, w T) int { return max(slices.Index(words, w), 0) }

// wordOf is the word of a number; nil stays nil.
func wordOf[T any](what string, words []T, n *int) (*T, error) {
	if n == nil {
		return nil, nil
	}
	if *n < 0 || *n >= len(words) {
		return nil, fault.New(fault.Invalid, "%s is a number from 0 to %d", what, len(words)-1)
	}
	return &words[*n], nil
}

// stamp is a time as stores keep it, so that what was just made reads as it will be read.
func stamp(t time.Time) time.Time { return t.UTC().Truncate(time.Microsecond) }

// instant is a time, or null.
func instant(t time.Time) *time.Time {
	if t.IsZero() {
		return nil
	}
	t = stamp(t)
	return &t
}

// text is a text, or null.
func text(s string) *string {
	if s == "" {
		return nil
	}
	return &s
}

// decode reads the JSON of a body. Members that this service does not know are left aside, as Azure does.
func decode[T any](q *request) (T, error) {
	var v T
	if err := json.Unmarshal(q.body, &v); err != nil {
		return v, fault.Wrap(fault.Malformed, err, "the body is not the JSON this call takes")
	}
	return v, nil
}

// decodeSome is decode for bodies that may be left out.
func decodeSome[T any](q *request) (T, error) {
	if len(strings.TrimSpace(string(q.body))) == 0 {
		var v T
		return v, nil
	}
	return decode[T](q)
}

type meView struct {
	UserID        string `json:"UserId"`
	Administrator bool
	Roles         []rolesView
}

type rolesView struct {
	TenantID   string `json:"TenantId"`
	TenantName string `json:",omitempty"`
	RoleNames  []sphere.Role
}

type userRolesView struct{ Roles []rolesView }

type userView struct {
	UserID   string    `json:"UserId"`
	AddedUTC time.Time `json:"AddedUtc"`
	Roles    []rolesView
}

func viewUser(m sphere.Member) userView {
	return userView{m.User, stamp(m.Added), []rolesView{{TenantID: m.Tenant, RoleNames: m.Roles}}}
}

type tenantView struct {
	ID         string `json:"Id"`
	Name       string
	CreatedUTC time.Time `json:"CreatedUtc"`
}

func viewTenant(t sphere.Tenant) tenantView { return tenantView{t.ID, t.Name, stamp(t.Created)} }

type productView struct {
	ID          string `json:"Id"`
	TenantID    string `json:"TenantId"`
	Name        string
	Description string
	CreatedUTC  time.Time `json:"CreatedUtc"`
	UpdatedUTC  time.Time `json:"UpdatedUtc"`
}

func viewProduct(p sphere.Product) productView {
	return productView{p.ID, p.Tenant, p.Name, p.Description, stamp(p.Created), stamp(p.Updated)}
}

type groupView struct {
	ID                        string `json:"Id"`
	TenantID                  string `json:"TenantId"`
	ProductID                 string `json:"ProductId"`
	Name                      string
	Description               string
	OSFeedType                int `json:"OsFeedType"`
	UpdatePolicy              int
	AllowCrashDumpsCollection bool
	RegionalDataBoundary      int
	CurrentDeployment         deploymentView
	CreatedUTC                time.Time `json:"CreatedUtc"`
	UpdatedUTC                time.Time `json:"UpdatedUtc"`
}

// deploymentView is empty but for its tenant where nothing is deployed.
type deploymentView struct {
	ID                *string `json:"Id"`
	TenantID          string  `json:"TenantId"`
	DeployedImages    []string
	DeploymentDateUTC *time.Time `json:"DeploymentDateUtc"`
}

func viewDeployment(d sphere.Deployment) deploymentView {
	return deploymentView{text(d.ID), d.Tenant, d.ImageIDs(), instant(d.Created)}
}

// targetView is what a device should get, as a list with what it comes from, or why it is empty.
type targetView struct {
	Deployment *deploymentView
	Items      []imageView
	Reason     *string
}

func viewGroup(g sphere.DeviceGroup) groupView {
	current := deploymentView{TenantID: g.Tenant, DeployedImages: []string{}}
	if g.Deployment != nil {
		current = viewDeployment(*g.Deployment)
	}
	return groupView{
		g.ID, g.Tenant, g.Product, g.Name, g.Description, number(feeds, g.OSFeed), number(policies, g.UpdatePolicy), g.AllowCrashDumps,
		number(regions, g.RegionalBoundary), current, stamp(g.Created), stamp(g.Updated),
	}
}

type capabilityView struct {
	ID           string `json:"Id"`
	Capabilities []capability.ID
	GrantedUTC   time.Time `json:"GrantedUtc"`
	GrantedBy    string
	ExpiresUTC   *time.Time `json:"ExpiresUtc"`
}

type deviceView struct {
	DeviceID               string  `json:"DeviceId"`
	TenantID               string  `json:"TenantId"`
	ProductID              *string `json:"ProductId"`
	DeviceGroupID          *string `json:"DeviceGroupId"`
	ChipSKU                *string `json:"ChipSku"`
	ManufacturingState     int
	Enabled                bool
	HardwareRoot           bool
	LastInstalledOSVersion *string
	LastAvailableOSVersion *string
	LastUpdateCheckUTC     *time.Time
	LastOSUpdateUTC        *time.Time `json:"LastOsUpdateUTC"`
	LastAttestedUTC        *time.Time
	ClaimedUTC             *time.Time
	ClaimedBy              string
	Capabilities           []capabilityView
}

func viewDevice(d sphere.Device) deviceView {
	v := deviceView{
		d.ID, d.Tenant, text(d.Product), text(d.Group), text(d.ChipSKU), number(states, d.State), d.Enabled, d.HardwareRoot,
		text(d.LastInstalledOSVersion), text(d.LastAvailableOSVersion), instant(d.LastUpdateCheck), instant(d.LastOSUpdate), instant(d.LastAttested),
		instant(d.Claimed), d.ClaimedBy, []capabilityView{},
	}
	for _, c := range d.Capabilities {
		ids := []capability.ID{}
		for _, k := range c.Kinds {
			if id, err := capability.ParseID(k); err == nil {
				ids = append(ids, id)
			}
		}
		v.Capabilities = append(v.Capabilities, capabilityView{c.ID, ids, stamp(c.Granted), c.By, instant(c.Expires)})
	}
	return v
}

type imageView struct {
	ComponentID string `json:"ComponentId"`
	ImageID     string `json:"ImageId"`
	SHA256      string `json:"Sha256"`
}

func viewImages(images []sphere.Image) []imageView {
	out := make([]imageView, len(images))
	for i, m := range images {
		out[i] = imageView{m.Component, m.ID, m.SHA256}
	}
	return out
}

type outcomeView struct {
	DeviceID string `json:"DeviceId"`
	Claimed  bool
	Error    *problem
}

type uploadedView struct {
	DeviceID string `json:"DeviceId"`
	Error    *problem
}

type recordView struct {
	DeviceID       string `json:"DeviceId"`
	PublicKey      []byte
	ChipSKU        string `json:"ChipSku"`
	EndorsementKey string
	Voucher        []byte
	Reserved       bool
	UploadedBy     string
	CreatedUTC     time.Time `json:"CreatedUtc"`
}

func viewRecord(r sphere.ManufactureRecord) recordView {
	return recordView{r.Device, r.PublicKey, r.ChipSKU, r.EndorsementKey, r.Voucher, r.Reserved, r.By, stamp(r.Created)}
}

type certificateView struct {
	TenantID      string `json:"TenantId"`
	Thumbprint    string
	SerialNumber  string
	Subject       string
	Status        int
	IsActive      bool
	IsRevoked     bool
	NotBeforeUTC  time.Time  `json:"NotBeforeUtc"`
	NotAfterUTC   time.Time  `json:"NotAfterUtc"`
	ActiveFromUTC time.Time  `json:"ActiveFromUtc"`
	RevokedUTC    *time.Time `json:"RevokedUtc"`
	Certificate   []byte
}

func viewCertificate(c sphere.CA) certificateView {
	return certificateView{
		c.Tenant, c.Thumbprint, c.Serial, c.Subject, number(statuses, c.Status), c.Status == sphere.CAActive, !c.Revoked.IsZero(),
		stamp(c.NotBefore), stamp(c.NotAfter), stamp(c.ActiveFrom), instant(c.Revoked), c.Certificate.Raw,
	}
}

type releaseView struct {
	TenantID     *string `json:"TenantId"`
	Kind         int
	OSFeedType   int `json:"OsFeedType"`
	Version      string
	Images       []imageView
	ReleasedUTC  time.Time  `json:"ReleasedUtc"`
	WithdrawnUTC *time.Time `json:"WithdrawnUtc"`
	PublishedBy  string
}

func viewRelease(r sphere.Release) releaseView {
	return releaseView{
		text(r.Tenant), number(kinds, r.Kind), number(feeds, r.Feed), r.Version, viewImages(r.Images), stamp(r.Released), instant(r.Withdrawn), r.By,
	}
}

type minimumView struct {
	TenantID   *string `json:"TenantId"`
	OSFeedType int     `json:"OsFeedType"`
	Version    string
	FromUTC    time.Time `json:"FromUtc"`
	SetBy      string
}

func viewMinimum(m sphere.Minimum) minimumView {
	return minimumView{text(m.Tenant), number(feeds, m.Feed), m.Version, stamp(m.From), m.By}
}

type insightView struct {
	DeviceID          string `json:"DeviceId"`
	Description       string
	StartTimestampUTC string `json:"StartTimestampUtc"`
	EndTimestampUTC   string `json:"EndTimestampUtc"`
	EventCategory     string
	EventClass        string
	EventType         string
	EventCount        int64
}

func viewInsight(e report.Event) insightView { return insightView(e.Insight()) }

// each views a list.
func each[T, V any](items []T, view func(T) V) []V {
	out := make([]V, len(items))
	for i, v := range items {
		out[i] = view(v)
	}
	return out
}
