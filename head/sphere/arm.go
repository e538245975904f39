package sphere

import (
	"encoding/base64"
	"net/http"
	"regexp"
	"strings"
	"time"

	"github.com/vauban-iot/vauban/fault"
	"github.com/vauban-iot/vauban/head/arm"
	"github.com/vauban-iot/vauban/head/rest"
	"github.com/vauban-iot/vauban/sphere"
	"github.com/vauban-iot/vauban/sphere/report"
	"github.com/vauban-iot/vauban/sphere/tenantca"
	"github.com/vauban-iot/vauban/wire/capability"
)

// free is what a subscription or a resource group may be called: nothing here has them, they are echoed.
var free = regexp.MustCompile(`^[\p{L}\p{N}_.()-]{1,90}$`)

// Rules of names in paths (sphere §4.3, §11.2).
var (
	catalogName = regexp.MustCompile(`^[A-Za-z0-9_-]{1,50}$`)
	childName   = regexp.MustCompile(`^([A-Za-z0-9]|[A-Za-z0-9][A-Za-z0-9 ]{0,48}[A-Za-z0-9])$`)
	// deploymentName is an id, or what stands for the deployment in force.
	deploymentName = regexp.MustCompile(`^(?i:\.default|[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12})$`)
	deviceName     = regexp.MustCompile(`^[A-Za-z0-9-]{128}$`)
)

// openARM checks what all requests of ARM have in common, and finds the tenant that the path calls a catalog.
func (h *Head) openARM(q *request) error {
	if err := arm.CheckVersion(q.option("api-version"), armVersion); err != nil {
		return err
	}
	for _, what := range []string{"subscription", "resourceGroup"} {
		if s, ok := q.args[what]; ok && !free.MatchString(s) {
			return fault.New(fault.Invalid, "the name of a %s has 1 to 90 letters, digits and ._()-", what)
		}
	}
	for what, rule := range map[string]*regexp.Regexp{
		"catalog": catalogName, "product": childName, "deviceGroup": childName, "device": deviceName, "deployment": deploymentName,
	} {
		if s, ok := q.args[what]; ok && !rule.MatchString(s) && !(rule == childName && pseudo(s)) {
			return fault.New(fault.Invalid, "%q is no name of a %s: %s", s, what, rule)
		}
	}
	q.groups = map[string]groupName{}
	name, named := q.args["catalog"]
	if !named || q.rt.method == http.MethodPut && q.rt.path == catalog {
		return nil
	}
	var err error
	q.tenant, err = h.catalog(q, name)
	return err
}

// catalog finds the tenant of that name among the caller's, or by its id. What others have is not there.
func (h *Head) catalog(q *request, name string) (sphere.Tenant, error) {
	var found []sphere.Tenant
	for p := (sphere.Page{Limit: sphere.MaxPage}); ; {
		l, err := h.core.Tenants(q.Context(), q.caller, p)
		if err != nil {
			return sphere.Tenant{}, err
		}
		for _, t := range l.Items {
			if strings.EqualFold(t.ID, name) {
				return t, nil
			}
			if sphere.Fold(t.Name) == sphere.Fold(name) {
				found = append(found, t)
			}
		}
		if p.Token = l.NextToken; p.Token == "" {
			break
		}
	}
	switch len(found) {
	case 0:
		return sphere.Tenant{}, fault.New(fault.NotFound, "catalog %q does not exist", name)
	case 1:
		return found[0], nil
	}
	return sphere.Tenant{}, fault.New(fault.AlreadyExists, "%d tenants are called %q; say which by its id in the catalog's place", len(found), name)
}

// defaultResourceGroup stands in ids of what was listed without one.
const defaultResourceGroup = "vauban"

// id is a resource's: the path of a catalog and what follows.
func (q *request) id(t sphere.Tenant, children ...string) string {
	group := q.args["resourceGroup"]
	if group == "" {
		group = defaultResourceGroup
	}
	return strings.Join(append([]string{"/subscriptions", q.args["subscription"], "resourceGroups", group, "providers", provider, "catalogs", t.Name}, children...), "/")
}

// resource is one of ARM.
type resource struct {
	ID         string            `json:"id"`
	Name       string            `json:"name"`
	Type       string            `json:"type"`
	Location   string            `json:"location,omitempty"`
	Tags       map[string]string `json:"tags,omitempty"`
	Properties any               `json:"properties"`
	System     *systemData       `json:"systemData,omitempty"`
}

type systemData struct {
	By       string     `json:"createdBy,omitempty"`
	Created  *time.Time `json:"createdAt,omitempty"`
	Modified *time.Time `json:"lastModifiedAt,omitempty"`
}

// properties of a resource. All that stands here is there: provisioningState says so.
type properties map[string]any

func (q *request) resource(id, kind string, p properties, created, modified time.Time) resource {
	p["provisioningState"] = "Succeeded"
	r := resource{ID: id, Name: id[strings.LastIndexByte(id, '/')+1:], Type: provider + "/" + kind, Properties: p}
	if !created.IsZero() {
		r.System = &systemData{Created: instant(created), Modified: instant(modified)}
	}
	return r
}

// item makes an item of a list from a resource.
func (r resource) item() (item, error) {
	return item{r, func(name string) any {
		if name == "name" {
			return r.Name
		}
		p, _ := r.Properties.(properties)
		return p[name]
	}}, nil
}

// Fields that filters know.
var (
	catalogFields     = []string{"name", "tenantId"}
	productFields     = []string{"name", "description"}
	groupFields       = []string{"name", "description", "osFeedType", "updatePolicy", "allowCrashDumpsCollection", "regionalDataBoundary", "hasDeployment"}
	deviceFields      = []string{"name", "deviceId", "chipSku", "lastInstalledOsVersion", "lastAvailableOsVersion"}
	deploymentFields  = []string{"name", "deploymentId"}
	certificateFields = []string{"name", "status", "subject", "thumbprint"}
	insightFields     = []string{"deviceId", "eventType", "eventClass", "eventCategory", "description"}
)

func (q *request) catalogOf(t sphere.Tenant) resource {
	r := q.resource(q.id(t), "catalogs", properties{"tenantId": t.ID}, t.Created, t.Updated)
	r.Location = "global"
	return r
}

func (h *Head) armCatalogs(q *request) error {
	return armList(q, "", catalogFields, func(_ string, p sphere.Page) (sphere.List[sphere.Tenant], error) {
		return h.core.Tenants(q.Context(), q.caller, p)
	}, func(t sphere.Tenant) (item, error) { return q.catalogOf(t).item() })
}

func (h *Head) armCatalog(q *request) error {
	t, err := h.core.Tenant(q.Context(), q.caller, q.tenant.ID)
	if err != nil {
		return err
	}
	return q.reply(http.StatusOK, t.ETag, q.catalogOf(t))
}

// armPutCatalog makes a tenant, unless the caller made one of that name before. Nothing of a catalog can be set.
//
// A tenant of that name that another made is no success: whoever gives somebody a role in a tenant with a name that is waited for would
// otherwise get the devices that are then claimed into it, for ever.
func (h *Head) armPutCatalog(q *request) error {
	if _, err := decodeSome[struct{}](q); err != nil {
		return err
	}
	h.catalogMu.Lock()
	defer h.catalogMu.Unlock()
	t, err := h.catalog(q, q.args["catalog"])
	if err == nil {
		mine, err := h.made(q, t)
		if err != nil {
			return err
		}
		if !mine {
			return fault.New(fault.AlreadyExists, "a catalog %q that you did not make is there already; its tenant is %s", t.Name, t.ID)
		}
		return q.reply(http.StatusOK, t.ETag, q.catalogOf(t))
	}
	if !fault.Is(err, fault.NotFound) {
		return err
	}
	if t, err = h.core.CreateTenant(q.Context(), q.caller, q.args["catalog"]); err != nil {
		return err
	}
	rest.Note(q.Context(), "tenant", t.ID)
	return q.reply(http.StatusCreated, t.ETag, q.catalogOf(t))
}

// made reports whether the caller made a tenant: its first member came with it.
func (h *Head) made(q *request, t sphere.Tenant) (bool, error) {
	u, err := h.core.Me(q.Context(), q.caller)
	for _, m := range u.Memberships {
		if m.Tenant == t.ID && m.Added.Equal(t.Created) {
			return true, err
		}
	}
	return false, err
}

// armTarget is the product and group that a path names. The zero product and group are those of devices without one.
type armTarget struct {
	product sphere.Product
	group   sphere.DeviceGroup
}

// target finds what the path names below the catalog.
func (h *Head) target(q *request, product, group string) (t armTarget, err error) {
	if product != "" && !pseudo(product) {
		if t.product, err = h.core.ProductByName(q.Context(), q.caller, q.tenant.ID, product); err != nil {
			return t, err
		}
	}
	if group == "" {
		return t, nil
	}
	if pseudo(group) != pseudo(product) {
		return t, fault.New(fault.NotFound, "device group %q does not exist in product %q; devices without a group are in .unassigned of .unassigned", group, product)
	}
	if !pseudo(group) {
		t.group, err = h.core.DeviceGroupByName(q.Context(), q.caller, q.tenant.ID, t.product.ID, group)
	}
	return t, err
}

// real is target for what can be changed.
func (h *Head) real(q *request) (armTarget, error) {
	if pseudo(q.args["product"]) || pseudo(q.args["deviceGroup"]) {
		return armTarget{}, fault.New(fault.Invalid, ".default and .unassigned stand for devices without a group; they are not made, changed or filled")
	}
	return h.target(q, q.args["product"], q.args["deviceGroup"])
}

func (h *Head) armCountDevices(q *request) error {
	t, err := h.target(q, q.args["product"], q.args["deviceGroup"])
	if err != nil {
		return err
	}
	f := sphere.DeviceFilter{Product: t.product.ID, Group: t.group.ID, Unassigned: pseudo(q.args["product"])}
	n, err := h.core.CountDevices(q.Context(), q.caller, q.tenant.ID, f)
	if err != nil {
		return err
	}
	return q.reply(http.StatusOK, "", map[string]int64{"value": n})
}

// Products.

func (q *request) productOf(p sphere.Product) resource {
	return q.resource(q.id(q.tenant, "products", p.Name), "catalogs/products", properties{"description": p.Description}, p.Created, p.Updated)
}

// nobodys is the resource of a pseudo name.
func (q *request) nobodys(kind string, p properties, children ...string) error {
	return q.reply(http.StatusOK, "", q.resource(q.id(q.tenant, children...), kind, p, time.Time{}, time.Time{}))
}

func (h *Head) armProducts(q *request) error {
	return armList(q, "", productFields, func(_ string, p sphere.Page) (sphere.List[sphere.Product], error) {
		return h.core.Products(q.Context(), q.caller, q.tenant.ID, p)
	}, func(p sphere.Product) (item, error) { return q.productOf(p).item() })
}

func (h *Head) armProduct(q *request) error {
	if name := q.args["product"]; pseudo(name) {
		if err := h.readable(q); err != nil {
			return err
		}
		return q.nobodys("catalogs/products", properties{"description": ""}, "products", name)
	}
	t, err := h.target(q, q.args["product"], "")
	if err != nil {
		return err
	}
	return q.reply(http.StatusOK, t.product.ETag, q.productOf(t.product))
}

// armProductBody is a product's or its change.
type armProductBody struct {
	Properties struct {
		Description *string `json:"description"`
	} `json:"properties"`
}

func (h *Head) armPutProduct(q *request) error {
	b, err := decodeSome[armProductBody](q)
	if err != nil {
		return err
	}
	t, err := h.real(q)
	if fault.Is(err, fault.NotFound) && q.match() == nil {
		p, err := h.core.CreateProduct(q.Context(), q.caller, q.tenant.ID, q.args["product"], value(b.Properties.Description))
		if err != nil {
			return err
		}
		return q.reply(http.StatusCreated, p.ETag, q.productOf(p))
	}
	if err != nil {
		return err
	}
	description := value(b.Properties.Description) // a PUT leaves nothing of what was
	return h.changeProduct(q, t.product, sphere.ProductChange{Description: &description})
}

func (h *Head) armPatchProduct(q *request) error {
	b, err := decode[armProductBody](q)
	if err != nil {
		return err
	}
	t, err := h.real(q)
	if err != nil {
		return err
	}
	return h.changeProduct(q, t.product, sphere.ProductChange{Description: b.Properties.Description})
}

func (h *Head) changeProduct(q *request, p sphere.Product, c sphere.ProductChange) error {
	p, err := h.core.UpdateProduct(q.Context(), q.caller, q.tenant.ID, p.ID, c, q.match())
	if err != nil {
		return err
	}
	return q.reply(http.StatusOK, p.ETag, q.productOf(p))
}

// gone answers a DELETE, for which ARM wants success also of what is not there. Whoever may not read the catalog is not told so.
func (q *request) gone(err error) error {
	if fault.Is(err, fault.NotFound) {
		err = q.h.readable(q)
	}
	if err != nil {
		return err
	}
	return q.done()
}

// readable asks the domain whether the caller may read the catalog, for answers that are made of nothing the domain was asked.
func (h *Head) readable(q *request) error {
	_, err := h.core.Products(q.Context(), q.caller, q.tenant.ID, sphere.Page{Limit: 1})
	return err
}

func (h *Head) armDeleteProduct(q *request) error {
	t, err := h.real(q)
	if err != nil {
		return q.gone(err)
	}
	return q.gone(h.core.DeleteProduct(q.Context(), q.caller, q.tenant.ID, t.product.ID, q.match()))
}

func (h *Head) armDefaultGroups(q *request) error {
	t, err := h.real(q)
	if err != nil {
		return err
	}
	gs, err := h.core.GenerateDefaultGroups(q.Context(), q.caller, q.tenant.ID, t.product.ID)
	if err != nil {
		return err
	}
	return q.reply(http.StatusOK, "", map[string]any{"value": each(gs, func(g sphere.DeviceGroup) resource { return q.groupOf(t.product.Name, g) })})
}

// Device groups.

// groupName are the names of a group and its product.
type groupName struct{ product, group string }

var nowhere = groupName{sphere.PseudoUnassigned, sphere.PseudoUnassigned}

// nameOf finds the names of a group, "" being none. Each is asked for once in a request.
func (h *Head) nameOf(q *request, group string) (groupName, error) {
	if group == "" {
		return nowhere, nil
	}
	if n, ok := q.groups[group]; ok {
		return n, nil
	}
	g, err := h.core.DeviceGroup(q.Context(), q.caller, q.tenant.ID, group)
	if err != nil {
		return groupName{}, err
	}
	name, err := h.productName(q, g.Product)
	if err != nil {
		return groupName{}, err
	}
	n := groupName{name, g.Name}
	q.groups[group] = n
	return n, nil
}

func (h *Head) productName(q *request, id string) (string, error) {
	if n, ok := q.groups["product "+id]; ok {
		return n.product, nil
	}
	p, err := h.core.Product(q.Context(), q.caller, q.tenant.ID, id)
	if err != nil {
		return "", err
	}
	q.groups["product "+id] = groupName{product: p.Name}
	return p.Name, nil
}

// enabled is a boolean in ARM's words.
func enabled(b bool) string {
	if b {
		return "Enabled"
	}
	return "Disabled"
}

func (q *request) groupOf(product string, g sphere.DeviceGroup) resource {
	return q.resource(q.id(q.tenant, "products", product, "deviceGroups", g.Name), "catalogs/products/deviceGroups", properties{
		"description": g.Description, "osFeedType": string(g.OSFeed), "updatePolicy": string(g.UpdatePolicy),
		"allowCrashDumpsCollection": enabled(g.AllowCrashDumps), "regionalDataBoundary": g.RegionalBoundary, "hasDeployment": g.Deployment != nil,
	}, g.Created, g.Updated)
}

func (h *Head) armGroups(q *request) error {
	t, err := h.target(q, q.args["product"], "")
	if err != nil {
		return err
	}
	get := func(_ string, p sphere.Page) (sphere.List[sphere.DeviceGroup], error) {
		return h.core.DeviceGroups(q.Context(), q.caller, q.tenant.ID, t.product.ID, p)
	}
	if pseudo(q.args["product"]) { // which has no groups but the pseudo one
		get = func(string, sphere.Page) (sphere.List[sphere.DeviceGroup], error) {
			return sphere.List[sphere.DeviceGroup]{}, h.readable(q)
		}
	}
	return armList(q, "", groupFields, get, func(g sphere.DeviceGroup) (item, error) { return q.groupOf(t.product.Name, g).item() })
}

// armAllGroups lists those of all products; a body may ask for one name.
func (h *Head) armAllGroups(q *request) error {
	b, err := decodeSome[struct {
		Name string `json:"deviceGroupName"`
	}](q)
	if err != nil {
		return err
	}
	if b.Name != "" && !childName.MatchString(b.Name) && !pseudo(b.Name) {
		return fault.New(fault.Invalid, "%q is no name of a device group", b.Name)
	}
	return armList(q, b.Name, groupFields, func(name string, p sphere.Page) (sphere.List[sphere.DeviceGroup], error) {
		l, err := h.core.DeviceGroups(q.Context(), q.caller, q.tenant.ID, "", p)
		if name == "" || err != nil {
			return l, err
		}
		kept := l.Items[:0]
		for _, g := range l.Items {
			if sphere.Fold(g.Name) == sphere.Fold(name) {
				kept = append(kept, g)
			}
		}
		l.Items = kept
		return l, nil
	}, func(g sphere.DeviceGroup) (item, error) {
		name, err := h.productName(q, g.Product)
		if err != nil {
			return item{}, err
		}
		return q.groupOf(name, g).item()
	})
}

func (h *Head) armGroup(q *request) error {
	t, err := h.target(q, q.args["product"], q.args["deviceGroup"])
	if err != nil {
		return err
	}
	if pseudo(q.args["deviceGroup"]) {
		if err := h.readable(q); err != nil {
			return err
		}
		return q.nobodys("catalogs/products/deviceGroups", properties{"description": "", "hasDeployment": false}, "products", q.args["product"], "deviceGroups", q.args["deviceGroup"])
	}
	return q.reply(http.StatusOK, t.group.ETag, q.groupOf(t.product.Name, t.group))
}

type armGroupBody struct {
	Properties struct {
		Description               *string              `json:"description"`
		OSFeedType                *sphere.OSFeed       `json:"osFeedType"`
		UpdatePolicy              *sphere.UpdatePolicy `json:"updatePolicy"`
		AllowCrashDumpsCollection *string              `json:"allowCrashDumpsCollection"`
		RegionalDataBoundary      *string              `json:"regionalDataBoundary"`
	} `json:"properties"`
}

// change reads what a body sets. The words are checked by the domain.
func (b armGroupBody) change() (sphere.GroupChange, error) {
	p := b.Properties
	c := sphere.GroupChange{Description: p.Description, OSFeed: p.OSFeedType, UpdatePolicy: p.UpdatePolicy, RegionalBoundary: p.RegionalDataBoundary}
	if s := p.AllowCrashDumpsCollection; s != nil {
		on := *s == "Enabled"
		if !on && *s != "Disabled" {
			return c, fault.New(fault.Invalid, "allowCrashDumpsCollection is Enabled or Disabled")
		}
		c.AllowCrashDumps = &on
	}
	return c, nil
}

func (h *Head) armPutGroup(q *request) error {
	b, err := decodeSome[armGroupBody](q)
	if err != nil {
		return err
	}
	c, err := b.change()
	if err != nil {
		return err
	}
	t, err := h.real(q)
	if fault.Is(err, fault.NotFound) && t.product.ID != "" && q.match() == nil {
		name := q.args["deviceGroup"]
		c.Name = &name
		g, err := h.core.CreateDeviceGroup(q.Context(), q.caller, q.tenant.ID, t.product.ID, c)
		if err != nil {
			return err
		}
		return q.reply(http.StatusCreated, g.ETag, q.groupOf(t.product.Name, g))
	}
	if err != nil {
		return err
	}
	// A PUT leaves nothing of what was: what it does not name gets its default.
	fill(&c.Description, "")
	fill(&c.OSFeed, sphere.Retail)
	fill(&c.UpdatePolicy, sphere.UpdateAll)
	fill(&c.AllowCrashDumps, false)
	fill(&c.RegionalBoundary, sphere.RegionNone)
	return h.changeGroup(q, t, c)
}

func fill[T any](p **T, v T) {
	if *p == nil {
		*p = &v
	}
}

func (h *Head) armPatchGroup(q *request) error {
	b, err := decode[armGroupBody](q)
	if err != nil {
		return err
	}
	c, err := b.change()
	if err != nil {
		return err
	}
	t, err := h.real(q)
	if err != nil {
		return err
	}
	return h.changeGroup(q, t, c)
}

func (h *Head) changeGroup(q *request, t armTarget, c sphere.GroupChange) error {
	g, err := h.core.UpdateDeviceGroup(q.Context(), q.caller, q.tenant.ID, t.group.ID, c, q.match())
	if err != nil {
		return err
	}
	return q.reply(http.StatusOK, g.ETag, q.groupOf(t.product.Name, g))
}

func (h *Head) armDeleteGroup(q *request) error {
	t, err := h.real(q)
	if err != nil {
		return q.gone(err)
	}
	return q.gone(h.core.DeleteDeviceGroup(q.Context(), q.caller, q.tenant.ID, t.group.ID, q.match()))
}

// Devices.

func (h *Head) deviceResource(q *request, d sphere.Device) (resource, error) {
	n, err := h.nameOf(q, d.Group)
	if err != nil {
		return resource{}, err
	}
	p := properties{"deviceId": d.ID}
	for name, v := range map[string]string{"chipSku": d.ChipSKU, "lastInstalledOsVersion": d.LastInstalledOSVersion, "lastAvailableOsVersion": d.LastAvailableOSVersion} {
		if v != "" {
			p[name] = v
		}
	}
	for name, v := range map[string]time.Time{"lastOsUpdateUtc": d.LastOSUpdate, "lastUpdateRequestUtc": d.LastUpdateCheck} {
		if !v.IsZero() {
			p[name] = v.UTC()
		}
	}
	return q.resource(q.id(q.tenant, "products", n.product, "deviceGroups", n.group, "devices", d.ID), "catalogs/products/deviceGroups/devices", p, d.Claimed, d.Updated), nil
}

func (h *Head) armDevices(q *request) error {
	t, err := h.target(q, q.args["product"], q.args["deviceGroup"])
	if err != nil {
		return err
	}
	f := sphere.DeviceFilter{Group: t.group.ID, Unassigned: pseudo(q.args["deviceGroup"])}
	return armList(q, "", deviceFields, func(_ string, p sphere.Page) (sphere.List[sphere.Device], error) {
		return h.core.Devices(q.Context(), q.caller, q.tenant.ID, f, p)
	}, func(d sphere.Device) (item, error) {
		r, err := h.deviceResource(q, d)
		if err != nil {
			return item{}, err
		}
		return r.item()
	})
}

// device finds the one that the path names, which must be in the group that the path names.
func (h *Head) device(q *request) (sphere.Device, error) {
	t, err := h.target(q, q.args["product"], q.args["deviceGroup"])
	if err != nil {
		return sphere.Device{}, err
	}
	d, err := h.core.Device(q.Context(), q.caller, q.tenant.ID, q.args["device"])
	if err == nil && d.Group != t.group.ID {
		err = fault.New(fault.NotFound, "device %s is not in this device group", d.ID)
	}
	return d, err
}

func (q *request) device(h *Head, d sphere.Device, err error) error {
	if err != nil {
		return err
	}
	r, err := h.deviceResource(q, d)
	if err != nil {
		return err
	}
	return q.reply(http.StatusOK, d.ETag, r)
}

func (h *Head) armDevice(q *request) error {
	d, err := h.device(q)
	return q.device(h, d, err)
}

// armPutDevice claims one by its id, as far as manufacture records let the tenant.
func (h *Head) armPutDevice(q *request) error {
	if _, err := decodeSome[struct{}](q); err != nil {
		return err
	}
	t, err := h.target(q, q.args["product"], q.args["deviceGroup"])
	if err != nil {
		return err
	}
	os, err := h.claimByIDs(q, q.tenant.ID, []string{q.args["device"]}, t.group.ID)
	if err != nil {
		return err
	}
	if os[0].Err != nil {
		return os[0].Err
	}
	d, err := h.core.Device(q.Context(), q.caller, q.tenant.ID, q.args["device"])
	return q.device(h, d, err)
}

func (h *Head) armPatchDevice(q *request) error {
	b, err := decode[struct {
		Properties struct {
			DeviceGroupID *string `json:"deviceGroupId"`
		} `json:"properties"`
	}](q)
	if err != nil {
		return err
	}
	if b.Properties.DeviceGroupID == nil {
		return fault.New(fault.Invalid, "the body has properties.deviceGroupId")
	}
	d, err := h.device(q)
	if err != nil {
		return err
	}
	to, err := h.groupByID(q, *b.Properties.DeviceGroupID)
	if err != nil {
		return err
	}
	if err := h.core.AssignDevices(q.Context(), q.caller, q.tenant.ID, []string{d.ID}, to, q.match()); err != nil {
		return err
	}
	rest.Note(q.Context(), "group", to)
	d, err = h.core.Device(q.Context(), q.caller, q.tenant.ID, d.ID)
	return q.device(h, d, err)
}

// groupByID reads the ARM id of a device group in the catalog of the request, or one of the names that mean none.
func (h *Head) groupByID(q *request, id string) (string, error) {
	if pseudo(id) {
		return "", nil
	}
	segments := strings.Split(strings.Trim(id, "/"), "/")
	bad := fault.New(fault.Invalid, "deviceGroupId is the id of a device group of this catalog: /subscriptions/.../catalogs/%s/products/<product>/deviceGroups/<group>, or .unassigned", q.tenant.Name)
	args, ok := (&route{words: strings.Split(groupOf, "/")}).is(segments)
	if !ok || len(id) > 1024 {
		return "", bad
	}
	if c := args["catalog"]; sphere.Fold(c) != sphere.Fold(q.tenant.Name) && sphere.Fold(c) != q.tenant.ID {
		return "", bad
	}
	t, err := h.target(q, args["product"], args["deviceGroup"])
	if fault.Is(err, fault.NotFound) {
		err = fault.Wrap(fault.Invalid, err, "%s", fault.Public(err))
	}
	return t.group.ID, err
}

func (h *Head) armCapability(q *request) error {
	b, err := decode[struct {
		Capabilities []string `json:"capabilities"`
	}](q)
	if err != nil {
		return err
	}
	ids := make([]capability.ID, len(b.Capabilities))
	for i, s := range b.Capabilities {
		if ids[i], err = capability.ParseID(s); err != nil {
			return fault.Wrap(fault.Invalid, err, "capabilities are ApplicationDevelopment and FieldServicing")
		}
	}
	d, err := h.device(q)
	if err != nil {
		return err
	}
	file, err := h.capabilityFile(q, q.tenant.ID, d.ID, ids, time.Time{})
	if err != nil {
		return err
	}
	return q.reply(http.StatusOK, "", map[string][]byte{"image": file})
}

func (h *Head) armInsights(q *request) error {
	return armList(q, "", insightFields, sliced(func() ([]report.Event, error) {
		return h.core.ErrorReport(q.Context(), q.caller, q.tenant.ID, "")
	}), func(e report.Event) (item, error) {
		i := e.Insight()
		fields := map[string]any{"deviceId": i.DeviceID, "eventType": i.EventType, "eventClass": i.EventClass, "eventCategory": i.EventCategory, "description": i.Description}
		return item{i, func(name string) any { return fields[name] }}, nil
	})
}

// Certificates.

func certificateProperties(c sphere.CA) properties {
	return properties{
		"certificate": base64.StdEncoding.EncodeToString(c.Certificate.Raw), "status": string(c.Status), "subject": c.Subject, "thumbprint": c.Thumbprint,
		"notBeforeUtc": c.NotBefore.UTC(), "expiryUtc": c.NotAfter.UTC(),
	}
}

func (q *request) certificateOf(c sphere.CA) resource {
	return q.resource(q.id(q.tenant, "certificates", c.Serial), "catalogs/certificates", certificateProperties(c), time.Time{}, time.Time{})
}

func (h *Head) armCertificates(q *request) error {
	return armList(q, "", certificateFields, sliced(func() ([]sphere.CA, error) {
		return h.core.CAs(q.Context(), q.caller, q.tenant.ID)
	}), func(c sphere.CA) (item, error) { return q.certificateOf(c).item() })
}

func (h *Head) armCertificate(q *request) error {
	c, err := h.core.CA(q.Context(), q.caller, q.tenant.ID, q.args["certificate"])
	if err != nil {
		return err
	}
	return q.reply(http.StatusOK, "", q.certificateOf(c))
}

func (h *Head) armCertChain(q *request) error {
	b, err := h.core.CAChain(q.Context(), q.caller, q.tenant.ID, q.args["certificate"])
	if err != nil {
		return err
	}
	return q.reply(http.StatusOK, "", map[string][]byte{"certificateChain": b})
}

func (h *Head) armProof(q *request) error {
	b, err := decode[struct {
		Nonce string `json:"proofOfPossessionNonce"`
	}](q)
	if err != nil {
		return err
	}
	c, err := h.core.CAProof(q.Context(), q.caller, q.tenant.ID, q.args["certificate"], b.Nonce)
	if err != nil {
		return err
	}
	return q.reply(http.StatusOK, "", certificateProperties(sphere.CA{
		Certificate: c, Status: sphere.CAActive, Subject: c.Subject.String(), Thumbprint: tenantca.Thumbprint(c), NotBefore: c.NotBefore, NotAfter: c.NotAfter,
	}))
}
