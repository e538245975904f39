package sphere

import (
	"bytes"
	"cmp"
	"encoding/json"
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/vauban-iot/vauban/fault"
	"github.com/vauban-iot/vauban/head/rest"
	"github.com/vauban-iot/vauban/iot"
	"github.com/vauban-iot/vauban/sphere"
	"github.com/vauban-iot/vauban/sphere/claim"
	"github.com/vauban-iot/vauban/sphere/deviceid"
	"github.com/vauban-iot/vauban/sphere/report"
	"github.com/vauban-iot/vauban/wire/capability"
)

// reply answers with JSON, and an ETag unless it is empty.
func (q *request) reply(status int, tag iot.ETag, v any) error {
	b, err := json.Marshal(v)
	if err != nil {
		return err
	}
	rest.JSON(q.w, status, string(tag), b)
	return nil
}

func (q *request) done() error {
	q.w.WriteHeader(http.StatusNoContent)
	return nil
}

// file answers with bytes of a type, for clients to save.
func (q *request) file(kind, name string, data []byte) error {
	q.w.Header().Set("Content-Type", kind)
	q.w.Header().Set("Content-Disposition", `attachment; filename="`+name+`"`)
	q.w.WriteHeader(http.StatusOK)
	q.w.Write(data) // a peer that left is no error of ours
	return nil
}

// Media types of files.
const (
	binary = "application/octet-stream"
	cer    = "application/pkix-cert"
	p7b    = "application/x-pkcs7-certificates"
	csv    = "text/csv; charset=utf-8"
)

// envelope is a list (sphere §11.1).
type envelope[T any] struct {
	Items             []T
	ContinuationToken *string
}

// continuation is the header in which Azure's clients send a token back.
const continuation = "Sphere-Continuation"

// page reads which part of a list is asked for.
func (q *request) page(scope string) (sphere.Page, error) {
	p := sphere.Page{}
	if n := q.query.Get("maxItems"); n != "" {
		var err error
		if p.Limit, err = strconv.Atoi(n); err != nil || p.Limit < 1 || p.Limit > sphere.MaxPage {
			return p, fault.New(fault.Invalid, "maxItems is 1 to %d", sphere.MaxPage)
		}
	}
	if t := cmp.Or(q.query.Get("continuationToken"), q.Header.Get(continuation)); t != "" {
		b, err := q.h.open(pageToken, scope, t)
		if err != nil {
			return p, err
		}
		p.Token = string(b)
	}
	return p, nil
}

// list answers with one page. A token is good for the list that gave it: its route, names in the path and what it was filtered by.
func list[T, V any](q *request, by string, get func(sphere.Page) (sphere.List[T], error), view func(T) V) error {
	scope := scopeOf(q.rt.path, sphere.Fold(q.args["tenant"]), sphere.Fold(q.args["product"]), sphere.Fold(q.args["group"]), by)
	p, err := q.page(scope)
	if err != nil {
		return err
	}
	l, err := get(p)
	if err != nil {
		return err
	}
	e := envelope[V]{Items: each(l.Items, view)}
	if l.NextToken != "" {
		t := q.h.seal(pageToken, scope, []byte(l.NextToken))
		e.ContinuationToken = &t
	}
	return q.reply(http.StatusOK, "", e)
}

// whole answers with a list that has no pages.
func whole[T, V any](q *request, items []T, err error, view func(T) V) error {
	if err != nil {
		return err
	}
	return q.reply(http.StatusOK, "", envelope[V]{Items: each(items, view)})
}

func (h *Head) me(q *request) error {
	u, err := h.core.Me(q.Context(), q.caller)
	if err != nil {
		return err
	}
	v := meView{u.Name, u.Admin, []rolesView{}}
	for _, m := range u.Memberships {
		t, err := h.core.Tenant(q.Context(), q.caller, m.Tenant)
		if fault.Is(err, fault.NotFound) {
			continue // the role was taken in between
		}
		if err != nil {
			return err
		}
		v.Roles = append(v.Roles, rolesView{m.Tenant, t.Name, m.Roles})
	}
	return q.reply(http.StatusOK, "", v)
}

func (h *Head) roleNames(q *request) error {
	return whole(q, sphere.Roles(), nil, func(r sphere.Role) sphere.Role { return r })
}

func (h *Head) tenants(q *request) error {
	// The caller is part of it: a place among one's own tenants is none among another's.
	return list(q, sphere.Fold(q.caller.Subject), func(p sphere.Page) (sphere.List[sphere.Tenant], error) {
		return h.core.Tenants(q.Context(), q.caller, p)
	}, viewTenant)
}

type nameBody struct{ Name string }

func (h *Head) createTenant(q *request) error {
	b, err := decode[nameBody](q)
	if err != nil {
		return err
	}
	t, err := h.core.CreateTenant(q.Context(), q.caller, b.Name)
	if err != nil {
		return err
	}
	rest.Note(q.Context(), "tenant", t.ID)
	return q.reply(http.StatusCreated, t.ETag, viewTenant(t))
}

func (h *Head) getTenant(q *request) error {
	t, err := h.core.Tenant(q.Context(), q.caller, q.args["tenant"])
	if err != nil {
		return err
	}
	return q.reply(http.StatusOK, t.ETag, viewTenant(t))
}

func (h *Head) patchTenant(q *request) error {
	b, err := decode[nameBody](q)
	if err != nil {
		return err
	}
	t, err := h.core.UpdateTenant(q.Context(), q.caller, q.args["tenant"], b.Name, q.match())
	if err != nil {
		return err
	}
	return q.reply(http.StatusOK, t.ETag, viewTenant(t))
}

func (h *Head) users(q *request) error {
	all, err := h.core.Members(q.Context(), q.caller, q.args["tenant"])
	return whole(q, all, err, viewUser)
}

func (h *Head) userRoles(q *request) error {
	all, err := h.core.Members(q.Context(), q.caller, q.args["tenant"])
	if err != nil {
		return err
	}
	for _, m := range all {
		if sphere.Fold(m.User) == sphere.Fold(q.args["user"]) {
			return q.reply(http.StatusOK, "", userRolesView{viewUser(m).Roles})
		}
	}
	return fault.New(fault.NotFound, "user %q has no role in this tenant", q.args["user"])
}

func (h *Head) addRole(q *request) error {
	b, err := decode[struct{ RoleName sphere.Role }](q)
	if err != nil {
		return err
	}
	m, err := h.core.AddRole(q.Context(), q.caller, q.args["tenant"], q.args["user"], b.RoleName)
	if err != nil {
		return err
	}
	rest.Note(q.Context(), "role", b.RoleName)
	return q.reply(http.StatusOK, "", userRolesView{viewUser(m).Roles})
}

func (h *Head) removeRole(q *request) error {
	if err := h.core.RemoveRole(q.Context(), q.caller, q.args["tenant"], q.args["user"], sphere.Role(q.args["role"])); err != nil {
		return err
	}
	return q.done()
}

func (h *Head) products(q *request) error {
	return list(q, "", func(p sphere.Page) (sphere.List[sphere.Product], error) {
		return h.core.Products(q.Context(), q.caller, q.args["tenant"], p)
	}, viewProduct)
}

type productBody struct{ Name, Description *string }

func (h *Head) createProduct(q *request) error {
	b, err := decode[productBody](q)
	if err != nil {
		return err
	}
	p, err := h.core.CreateProduct(q.Context(), q.caller, q.args["tenant"], value(b.Name), value(b.Description))
	if err != nil {
		return err
	}
	rest.Note(q.Context(), "product", p.ID)
	return q.reply(http.StatusCreated, p.ETag, viewProduct(p))
}

func value(s *string) string {
	if s == nil {
		return ""
	}
	return *s
}

func (h *Head) getProduct(q *request) error {
	p, err := h.core.Product(q.Context(), q.caller, q.args["tenant"], q.args["product"])
	if err != nil {
		return err
	}
	return q.reply(http.StatusOK, p.ETag, viewProduct(p))
}

func (h *Head) patchProduct(q *request) error {
	b, err := decode[productBody](q)
	if err != nil {
		return err
	}
	p, err := h.core.UpdateProduct(q.Context(), q.caller, q.args["tenant"], q.args["product"], sphere.ProductChange(b), q.match())
	if err != nil {
		return err
	}
	return q.reply(http.StatusOK, p.ETag, viewProduct(p))
}

func (h *Head) deleteProduct(q *request) error {
	if err := h.core.DeleteProduct(q.Context(), q.caller, q.args["tenant"], q.args["product"], q.match()); err != nil {
		return err
	}
	return q.done()
}

func (h *Head) productGroups(q *request) error {
	// Asked first, so that an unknown product is one, and not one without groups.
	if _, err := h.core.Product(q.Context(), q.caller, q.args["tenant"], q.args["product"]); err != nil {
		return err
	}
	return h.deviceGroups(q)
}

func (h *Head) deviceGroups(q *request) error {
	return list(q, "", func(p sphere.Page) (sphere.List[sphere.DeviceGroup], error) {
		return h.core.DeviceGroups(q.Context(), q.caller, q.args["tenant"], q.args["product"], p)
	}, viewGroup)
}

func (h *Head) defaultGroups(q *request) error {
	gs, err := h.core.GenerateDefaultGroups(q.Context(), q.caller, q.args["tenant"], q.args["product"])
	return whole(q, gs, err, viewGroup)
}

type groupBody struct {
	ProductID                 string `json:"ProductId"`
	Name                      *string
	Description               *string
	OSFeedType                *int `json:"OsFeedType"`
	UpdatePolicy              *int
	AllowCrashDumpsCollection *bool
	RegionalDataBoundary      *int
}

func (b groupBody) change() (c sphere.GroupChange, err error) {
	c = sphere.GroupChange{Name: b.Name, Description: b.Description, AllowCrashDumps: b.AllowCrashDumpsCollection}
	if c.OSFeed, err = wordOf("OsFeedType", feeds, b.OSFeedType); err != nil {
		return c, err
	}
	if c.UpdatePolicy, err = wordOf("UpdatePolicy", policies, b.UpdatePolicy); err != nil {
		return c, err
	}
	c.RegionalBoundary, err = wordOf("RegionalDataBoundary", regions, b.RegionalDataBoundary)
	return c, err
}

func (h *Head) createGroup(q *request) error {
	b, err := decode[groupBody](q)
	if err != nil {
		return err
	}
	c, err := b.change()
	if err != nil {
		return err
	}
	g, err := h.core.CreateDeviceGroup(q.Context(), q.caller, q.args["tenant"], b.ProductID, c)
	if err != nil {
		return err
	}
	rest.Note(q.Context(), "group", g.ID)
	return q.reply(http.StatusCreated, g.ETag, viewGroup(g))
}

func (h *Head) getGroup(q *request) error {
	g, err := h.core.DeviceGroup(q.Context(), q.caller, q.args["tenant"], q.args["group"])
	if err != nil {
		return err
	}
	return q.reply(http.StatusOK, g.ETag, viewGroup(g))
}

func (h *Head) patchGroup(q *request) error {
	b, err := decode[groupBody](q)
	if err != nil {
		return err
	}
	c, err := b.change()
	if err != nil {
		return err
	}
	g, err := h.core.UpdateDeviceGroup(q.Context(), q.caller, q.args["tenant"], q.args["group"], c, q.match())
	if err != nil {
		return err
	}
	return q.reply(http.StatusOK, g.ETag, viewGroup(g))
}

func (h *Head) deleteGroup(q *request) error {
	if err := h.core.DeleteDeviceGroup(q.Context(), q.caller, q.args["tenant"], q.args["group"], q.match()); err != nil {
		return err
	}
	return q.done()
}

// pseudo reports whether a name is that of no product and no group.
func pseudo(name string) bool {
	return strings.EqualFold(name, sphere.PseudoUnassigned) || strings.EqualFold(name, sphere.PseudoDefault)
}

// deviceFilter reads which devices are asked for, from path and query, and checks that what the path names is there.
func (h *Head) deviceFilter(q *request) (f sphere.DeviceFilter, err error) {
	ctx, tenant := q.Context(), q.args["tenant"]
	f.Product, f.Group = q.query.Get("productId"), q.query.Get("deviceGroupId")
	if id := q.args["product"]; id != "" {
		if _, err := h.core.Product(ctx, q.caller, tenant, id); err != nil {
			return f, err
		}
		f.Product = id
	}
	if id := q.args["group"]; id != "" && !pseudo(id) {
		if _, err := h.core.DeviceGroup(ctx, q.caller, tenant, id); err != nil {
			return f, err
		}
		f.Group = id
	} else if id != "" {
		f.Group = id
	}
	if pseudo(f.Group) {
		f.Group, f.Unassigned = "", true
	}
	f.ChipSKU = q.query.Get("chipSku")
	if s := q.query.Get("manufacturingState"); s != "" {
		n, err := strconv.Atoi(s)
		if err != nil {
			n = -1
		}
		w, err := wordOf("manufacturingState", states, &n)
		if err != nil {
			return f, err
		}
		f.State = *w
	}
	if s := q.query.Get("enabled"); s != "" {
		on, err := strconv.ParseBool(s)
		if err != nil {
			return f, fault.New(fault.Invalid, "enabled is true or false")
		}
		f.Enabled = &on
	}
	return f, nil
}

func (h *Head) devices(q *request) error {
	f, err := h.deviceFilter(q)
	if err != nil {
		return err
	}
	enabled := ""
	if f.Enabled != nil {
		enabled = strconv.FormatBool(*f.Enabled)
	}
	by := scopeOf(sphere.Fold(f.Product), sphere.Fold(f.Group), strconv.FormatBool(f.Unassigned), f.ChipSKU, string(f.State), enabled)
	return list(q, by, func(p sphere.Page) (sphere.List[sphere.Device], error) {
		return h.core.Devices(q.Context(), q.caller, q.args["tenant"], f, p)
	}, viewDevice)
}

func (h *Head) countDevices(q *request) error {
	f, err := h.deviceFilter(q)
	if err != nil {
		return err
	}
	n, err := h.core.CountDevices(q.Context(), q.caller, q.args["tenant"], f)
	if err != nil {
		return err
	}
	return q.reply(http.StatusOK, "", struct{ Count int64 }{n})
}

func (h *Head) claimChallenge(q *request) error {
	c, err := h.core.ClaimChallenge(q.Context(), q.caller, q.args["tenant"])
	if err != nil {
		return err
	}
	return q.reply(http.StatusOK, "", struct {
		Challenge        string
		ExpiresInSeconds int
	}{c, int(claim.Life / time.Second)})
}

func (h *Head) claim(q *request) error {
	b, err := decode[struct {
		Challenge          string
		PublicKey          []byte
		Signature          []byte
		ChipSKU            string `json:"ChipSku"`
		EndorsementKey     string
		ManufacturingState *int
		DeviceGroupID      string `json:"DeviceGroupId"`
	}](q)
	if err != nil {
		return err
	}
	p := sphere.Proof{Challenge: b.Challenge, PublicKey: b.PublicKey, Signature: b.Signature, ChipSKU: b.ChipSKU, EndorsementKey: b.EndorsementKey}
	state, err := wordOf("ManufacturingState", states, b.ManufacturingState)
	if err != nil {
		return err
	}
	if state != nil {
		p.State = *state
	}
	d, claimed, err := h.core.Claim(q.Context(), q.caller, q.args["tenant"], p, b.DeviceGroupID)
	if fault.Is(err, fault.Unauthorized) {
		// It is the device that proved nothing. The caller is signed in, and need not do so again.
		return fault.Wrap(fault.Forbidden, err, "%s", fault.Public(err))
	}
	if err != nil {
		return err
	}
	rest.Note(q.Context(), "device", d.ID, "new", claimed)
	status := http.StatusOK
	if claimed {
		status = http.StatusCreated
	}
	return q.reply(status, d.ETag, struct {
		Device  deviceView
		Claimed bool
	}{viewDevice(d), claimed})
}

func (h *Head) claimKnown(q *request) error {
	b, err := decode[struct {
		DeviceIdentifiers []string
		DeviceGroupID     string `json:"DeviceGroupId"`
	}](q)
	if err != nil {
		return err
	}
	os, err := h.claimByIDs(q, q.args["tenant"], b.DeviceIdentifiers, b.DeviceGroupID)
	return whole(q, os, err, func(o sphere.Outcome) outcomeView { return outcomeView{o.Device, o.Claimed, problemOf(o.Err)} })
}

// claimByIDs claims what records let the tenant claim.
func (h *Head) claimByIDs(q *request, tenant string, devices []string, group string) ([]sphere.Outcome, error) {
	os, err := h.core.ClaimKnown(q.Context(), q.caller, tenant, devices, group)
	if err != nil {
		return nil, err
	}
	failed := 0
	for _, o := range os {
		if o.Err != nil {
			failed++
		}
	}
	rest.Note(q.Context(), "devices", len(os), "failed", failed)
	return os, nil
}

func (h *Head) getDevice(q *request) error {
	d, err := h.core.Device(q.Context(), q.caller, q.args["tenant"], q.args["device"])
	if err != nil {
		return err
	}
	return q.reply(http.StatusOK, d.ETag, viewDevice(d))
}

func (h *Head) patchDevice(q *request) error {
	b, err := decode[struct {
		DeviceGroupID      *string `json:"DeviceGroupId"`
		ManufacturingState *int
	}](q)
	if err != nil {
		return err
	}
	ctx, tenant, device := q.Context(), q.args["tenant"], q.args["device"]
	switch {
	case (b.DeviceGroupID == nil) == (b.ManufacturingState == nil):
		return fault.New(fault.Invalid, "the body has either DeviceGroupId or ManufacturingState")
	case b.DeviceGroupID != nil:
		group := *b.DeviceGroupID
		if pseudo(group) {
			group = ""
		}
		if err := h.core.AssignDevices(ctx, q.caller, tenant, []string{device}, group, q.match()); err != nil {
			return err
		}
		rest.Note(ctx, "group", group)
		return h.getDevice(q)
	}
	state, err := wordOf("ManufacturingState", states, b.ManufacturingState)
	if err != nil {
		return err
	}
	d, err := h.core.SetManufacturingState(ctx, q.caller, tenant, device, *state, q.match())
	if err != nil {
		return err
	}
	rest.Note(ctx, "state", *state)
	return q.reply(http.StatusOK, d.ETag, viewDevice(d))
}

func (h *Head) enableDevice(q *request) error  { return h.switchDevice(q, true) }
func (h *Head) disableDevice(q *request) error { return h.switchDevice(q, false) }

func (h *Head) switchDevice(q *request, on bool) error {
	d, err := h.core.SetDeviceEnabled(q.Context(), q.caller, q.args["tenant"], q.args["device"], on, q.match())
	if err != nil {
		return err
	}
	return q.reply(http.StatusOK, d.ETag, viewDevice(d))
}

func (h *Head) deviceImages(q *request) error {
	d, err := h.core.Device(q.Context(), q.caller, q.args["tenant"], q.args["device"])
	if err != nil {
		return err
	}
	return q.reply(http.StatusOK, "", envelope[imageView]{Items: viewImages(d.Installed)})
}

// capabilityFile makes one.
func (h *Head) capabilityFile(q *request, tenant, device string, ids []capability.ID, expires time.Time) ([]byte, error) {
	g, file, err := h.core.GrantCapability(q.Context(), q.caller, tenant, device, each(ids, capability.ID.String), expires)
	if err == nil {
		rest.Note(q.Context(), "capability", g.ID, "kinds", g.Kinds, "expires", g.Expires)
	}
	return file, err
}

func (h *Head) capability(q *request) error {
	type body struct {
		Capabilities []capability.ID
		ExpiresUTC   time.Time `json:"ExpiresUtc"`
	}
	var b body
	var err error
	if text := bytes.TrimSpace(q.body); len(text) > 0 && text[0] == '[' { // Azure's is a list alone
		b.Capabilities, err = decode[[]capability.ID](q)
	} else {
		b, err = decode[body](q)
	}
	if err != nil {
		return err
	}
	file, err := h.capabilityFile(q, q.args["tenant"], q.args["device"], b.Capabilities, b.ExpiresUTC)
	if err != nil {
		return err
	}
	return q.file(binary, "device.capability", file)
}

func (h *Head) capabilitySigner(q *request) error {
	return q.file(cer, "capability-signer.cer", h.core.CapabilitySigner().Raw)
}

func (h *Head) manufactureRecords(q *request) error {
	return list(q, "", func(p sphere.Page) (sphere.List[sphere.ManufactureRecord], error) {
		return h.core.ManufactureRecords(q.Context(), q.caller, q.args["tenant"], p)
	}, viewRecord)
}

func (h *Head) uploadRecords(q *request) error {
	b, err := decode[struct{ Items []recordView }](q)
	if err != nil {
		return err
	}
	records := each(b.Items, func(v recordView) sphere.ManufactureRecord {
		return sphere.ManufactureRecord{Device: v.DeviceID, PublicKey: v.PublicKey, ChipSKU: v.ChipSKU, EndorsementKey: v.EndorsementKey, Voucher: v.Voucher}
	})
	errs, err := h.core.UploadManufactureRecords(q.Context(), q.caller, q.args["tenant"], records)
	if err != nil {
		return err
	}
	out := make([]uploadedView, len(errs))
	failed := 0
	for i, err := range errs {
		_, id, _ := deviceid.ParseKey(records[i].PublicKey) // empty for what is no key, which err says
		out[i] = uploadedView{id, problemOf(err)}
		if err != nil {
			failed++
		}
	}
	rest.Note(q.Context(), "records", len(errs), "failed", failed)
	return q.reply(http.StatusOK, "", envelope[uploadedView]{Items: out})
}

func (h *Head) certificates(q *request) error {
	all, err := h.core.CAs(q.Context(), q.caller, q.args["tenant"])
	return whole(q, all, err, viewCertificate)
}

func (q *request) certificate(c sphere.CA, err error) error {
	if err != nil {
		return err
	}
	rest.Note(q.Context(), "certificate", c.Serial)
	return q.reply(http.StatusOK, "", viewCertificate(c))
}

func (h *Head) getCertificate(q *request) error {
	return q.certificate(h.core.CA(q.Context(), q.caller, q.args["tenant"], q.args["certificate"]))
}

func (h *Head) rotate(q *request) error {
	c, err := h.core.RotateCA(q.Context(), q.caller, q.args["tenant"])
	if err != nil {
		return err
	}
	rest.Note(q.Context(), "certificate", c.Serial)
	return q.reply(http.StatusCreated, "", viewCertificate(c))
}

func (h *Head) activate(q *request) error {
	return q.certificate(h.core.ActivateCA(q.Context(), q.caller, q.args["tenant"], q.args["certificate"]))
}

func (h *Head) revoke(q *request) error {
	return q.certificate(h.core.RevokeCA(q.Context(), q.caller, q.args["tenant"], q.args["certificate"]))
}

func (h *Head) certificateContent(q *request) error {
	c, err := h.core.CA(q.Context(), q.caller, q.args["tenant"], q.args["certificate"])
	if err != nil {
		return err
	}
	return q.file(cer, c.Thumbprint+".cer", c.Certificate.Raw)
}

func (h *Head) certificateChain(q *request) error {
	b, err := h.core.CAChain(q.Context(), q.caller, q.args["tenant"], q.args["certificate"])
	if err != nil {
		return err
	}
	return q.file(p7b, "chain.p7b", b)
}

func (h *Head) proofOfPossession(q *request) error {
	b, err := decode[struct{ ProofOfPossessionNonce string }](q)
	if err != nil {
		return err
	}
	c, err := h.core.CAProof(q.Context(), q.caller, q.args["tenant"], q.args["certificate"], b.ProofOfPossessionNonce)
	if err != nil {
		return err
	}
	return q.file(cer, "proof.cer", c.Raw)
}

func (h *Head) insights(q *request) error {
	events, err := h.core.ErrorReport(q.Context(), q.caller, q.args["tenant"], "")
	return whole(q, events, err, viewInsight)
}

func (h *Head) errorReport(q *request) error {
	integrated, err := strconv.ParseBool(cmp.Or(q.query.Get("integrated"), "false"))
	if err != nil {
		return fault.New(fault.Invalid, "integrated is true or false")
	}
	events, err := h.core.ErrorReport(q.Context(), q.caller, q.args["tenant"], q.args["group"])
	if err != nil {
		return err
	}
	var b bytes.Buffer
	if err := report.WriteCSV(&b, events, integrated); err != nil {
		return err
	}
	return q.file(csv, "error-report.csv", b.Bytes())
}

func (h *Head) releases(q *request) error {
	all, err := h.core.Releases(q.Context(), q.caller, q.args["tenant"])
	return whole(q, all, err, viewRelease)
}

type releaseBody struct {
	Kind        *int
	OSFeedType  *int `json:"OsFeedType"`
	Version     string
	Images      []imageView
	ReleasedUTC time.Time `json:"ReleasedUtc"`
}

// kind reads what a release is of: applications have no feed, whatever is said of one.
func (b releaseBody) kind() (kind string, feed sphere.OSFeed, err error) {
	k, err := wordOf("Kind", kinds, b.Kind)
	if err != nil {
		return "", "", err
	}
	if k == nil {
		return "", "", fault.New(fault.Invalid, "Kind is missing")
	}
	f, err := wordOf("OsFeedType", feeds, b.OSFeedType)
	if err != nil || f == nil || *k != sphere.ReleaseOS {
		return *k, "", err
	}
	return *k, *f, nil
}

func (h *Head) publish(q *request) error {
	b, err := decode[releaseBody](q)
	if err != nil {
		return err
	}
	r := sphere.Release{Version: b.Version, Released: b.ReleasedUTC}
	if r.Kind, r.Feed, err = b.kind(); err != nil {
		return err
	}
	for _, m := range b.Images {
		r.Images = append(r.Images, sphere.Image{Component: m.ComponentID, ID: m.ImageID, SHA256: m.SHA256})
	}
	if r, err = h.core.PublishRelease(q.Context(), q.caller, q.args["tenant"], r); err != nil {
		return err
	}
	rest.Note(q.Context(), "kind", r.Kind, "feed", r.Feed, "version", r.Version)
	return q.reply(http.StatusCreated, "", viewRelease(r))
}

func (h *Head) withdraw(q *request) error {
	b, err := decode[releaseBody](q)
	if err != nil {
		return err
	}
	kind, feed, err := b.kind()
	if err != nil {
		return err
	}
	if err := h.core.WithdrawRelease(q.Context(), q.caller, q.args["tenant"], kind, feed, b.Version); err != nil {
		return err
	}
	rest.Note(q.Context(), "kind", kind, "feed", feed, "version", b.Version)
	return q.done()
}

func (h *Head) minimums(q *request) error {
	all, err := h.core.Minimums(q.Context(), q.caller, q.args["tenant"])
	return whole(q, all, err, viewMinimum)
}

func (h *Head) setMinimum(q *request) error {
	b, err := decode[struct {
		OSFeedType *int `json:"OsFeedType"`
		Version    string
		FromUTC    time.Time `json:"FromUtc"`
	}](q)
	if err != nil {
		return err
	}
	feed, err := wordOf("OsFeedType", feeds, b.OSFeedType)
	if err != nil {
		return err
	}
	if feed == nil {
		return fault.New(fault.Invalid, "OsFeedType is missing")
	}
	m, err := h.core.SetMinimum(q.Context(), q.caller, q.args["tenant"], *feed, b.Version, b.FromUTC)
	if err != nil {
		return err
	}
	rest.Note(q.Context(), "feed", *feed, "version", m.Version)
	return q.reply(http.StatusOK, "", viewMinimum(m))
}
