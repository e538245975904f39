package sphere_test

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/vauban-iot/vauban/fault"
	"github.com/vauban-iot/vauban/internal/conform"
	"github.com/vauban-iot/vauban/sphere"
	"github.com/vauban-iot/vauban/sphere/report"
	"github.com/vauban-iot/vauban/sphere/tenantca"
)

// estate is a tenant with one of everything.
type estate struct {
	tenant, product, empty, group, spare string // ids; the product empty has no devices, nor has the group spare
	productName, groupName               string
	device                               string
	known                                string // reserved and not claimed
	ca                                   string // serial
	successor                            string
	version                              string
	deployment, image                    string // ids; the image is released as an application
	admin, contributor, reader           sphere.Caller
}

func (w *world) estate(prefix string) estate {
	t, ctx := w.t, ctxOf(w)
	e := estate{
		admin: sphere.Caller{Subject: prefix + "-admin"}, contributor: sphere.Caller{Subject: prefix + "-contributor"}, reader: sphere.Caller{Subject: prefix + "-reader"},
		productName: prefix + " product", groupName: prefix + " group", version: "26.1",
	}
	e.tenant = must(w.CreateTenant(ctx, e.admin, prefix+"-tenant"))(t).ID
	must(w.AddRole(ctx, e.admin, e.tenant, e.contributor.Subject, sphere.Contributor))(t)
	must(w.AddRole(ctx, e.admin, e.tenant, e.reader.Subject, sphere.Reader))(t)
	e.product = must(w.CreateProduct(ctx, e.admin, e.tenant, e.productName, prefix))(t).ID
	e.empty = must(w.CreateProduct(ctx, e.admin, e.tenant, prefix+" empty", ""))(t).ID
	e.group = must(w.CreateDeviceGroup(ctx, e.admin, e.tenant, e.product, sphere.GroupChange{Name: &e.groupName}))(t).ID
	e.spare = must(w.CreateDeviceGroup(ctx, e.admin, e.tenant, e.product, sphere.GroupChange{Name: ptr(prefix + " spare")}))(t).ID
	d, _ := w.claimed(e.admin, e.tenant, e.group)
	e.device = d.ID
	k := newKey(t)
	ok(t, errors.Join(must(w.UploadManufactureRecords(ctx, root, e.tenant, []sphere.ManufactureRecord{{PublicKey: k.der, ChipSKU: prefix + "sku"}}))(t)...))
	e.known = k.id
	must(w.PublishRelease(ctx, e.admin, e.tenant, release(e.version, sphere.Retail)))(t)
	app := image(7, "1")
	app.ID = newGUID(t) // of this tenant alone
	must(w.PublishRelease(ctx, e.admin, e.tenant, sphere.Release{Kind: sphere.ReleaseApplication, Version: "1", Images: []sphere.Image{app}}))(t)
	made, _, err := w.CreateDeployment(ctx, e.admin, e.tenant, e.group, "", []string{app.ID})
	ok(t, err)
	e.deployment, e.image = made.ID, app.ID
	must(w.SetMinimum(ctx, e.admin, e.tenant, sphere.Retail, "26.1", time.Time{}))(t)
	_, _, err = w.GrantCapability(ctx, e.admin, e.tenant, e.device, []string{sphere.CapabilityFieldServicing}, time.Time{})
	ok(t, err)
	ok(t, w.device.Report(ctx, e.device, []report.Event{{Type: report.AppCrash, Description: prefix + " crashed", Start: w.clock()}}))
	e.ca = must(w.CA(ctx, e.admin, e.tenant, sphere.PseudoDefault))(t).Serial
	e.successor = must(w.RotateCA(ctx, e.admin, e.tenant))(t).Serial
	return e
}

func newGUID(t testing.TB) string {
	var b [16]byte
	must(rand.Read(b[:]))(t)
	return fmt.Sprintf("%x-%x-%x-%x-%x", b[:4], b[4:6], b[6:8], b[8:10], b[10:])
}

func release(version string, feed sphere.OSFeed) sphere.Release {
	return sphere.Release{Kind: sphere.ReleaseOS, Feed: feed, Version: version, Images: []sphere.Image{image(1, version)}}
}

// image is a version of the n-th component.
func image(n int, version string) sphere.Image {
	id := strings.Repeat("0", 8-len(version)) + strings.ReplaceAll(version, ".", "0")
	return sphere.Image{
		Component: "00000000-0000-4000-8000-00000000000" + string(rune('0'+n)), ID: "00000000-0000-4000-9000-0000" + id,
		SHA256: strings.Repeat("ab", 28) + id,
	}
}

// snapshot is all that is kept of a tenant.
func (w *world) snapshot(tenant string) string {
	t, ctx, s := w.t, context.Background(), w.store
	var devices []sphere.Device
	for _, d := range must(s.TenantDevices(ctx, tenant, sphere.DeviceFilter{}, "", 1000))(t) {
		devices = append(devices, must(s.TenantDevice(ctx, tenant, d.ID, start))(t))
	}
	type ca struct {
		sphere.StoredCA
		Secret [sha256.Size]byte
	}
	var cas []ca
	for _, c := range must(s.TenantCAs(ctx, tenant))(t) {
		cas = append(cas, ca{c, sha256.Sum256(c.Key.Reveal())})
	}
	b := must(json.Marshal([]any{
		must(s.Tenant(ctx, tenant))(t), must(s.Members(ctx, tenant))(t), must(s.Products(ctx, tenant, "", 1000))(t), must(s.DeviceGroups(ctx, tenant, "", "", 1000))(t),
		devices, must(s.ManufactureRecords(ctx, tenant, "", 1000))(t), must(s.Releases(ctx, tenant))(t), must(s.Minimums(ctx, tenant))(t), cas,
		must(s.DeviceEvents(ctx, tenant, "", time.Time{}, 1000))(t), must(s.Deployments(ctx, tenant, "", "", 1000))(t),
	}))(t)
	return string(b)
}

// operation is one method of Service, called for a tenant with ids out of an estate.
type operation struct {
	least        sphere.Role // "": any signed-in caller
	installation bool        // an administrator of the installation, without a role
	noTenant     bool        // it names none
	do           func(w *world, c sphere.Caller, tenant string, e estate) (any, error)
}

// operations is the whole of Service: TestMatrix fails when one is missing. What it says of roles is written down here once more, from sphere §13,
// apart from the table that Service asks.
var operations = map[string]operation{
	"Me": {noTenant: true, do: func(w *world, c sphere.Caller, _ string, _ estate) (any, error) { return w.Me(ctxOf(w), c) }},
	"Tenants": {noTenant: true, do: func(w *world, c sphere.Caller, _ string, _ estate) (any, error) {
		return w.Tenants(ctxOf(w), c, sphere.Page{})
	}},
	"CreateTenant": {noTenant: true, do: func(w *world, c sphere.Caller, _ string, _ estate) (any, error) {
		return w.CreateTenant(ctxOf(w), c, "new")
	}},
	"Tenant": {least: sphere.Reader, installation: true, do: func(w *world, c sphere.Caller, tenant string, _ estate) (any, error) {
		return w.Tenant(ctxOf(w), c, tenant)
	}},
	"UpdateTenant": {least: sphere.Administrator, do: func(w *world, c sphere.Caller, tenant string, _ estate) (any, error) {
		return w.UpdateTenant(ctxOf(w), c, tenant, "renamed", nil)
	}},
	"Members": {least: sphere.Reader, installation: true, do: func(w *world, c sphere.Caller, tenant string, _ estate) (any, error) {
		return w.Members(ctxOf(w), c, tenant)
	}},
	"AddRole": {least: sphere.Administrator, installation: true, do: func(w *world, c sphere.Caller, tenant string, _ estate) (any, error) {
		return w.AddRole(ctxOf(w), c, tenant, "mallory", sphere.Administrator)
	}},
	"RemoveRole": {least: sphere.Administrator, installation: true, do: func(w *world, c sphere.Caller, tenant string, e estate) (any, error) {
		return nil, w.RemoveRole(ctxOf(w), c, tenant, e.reader.Subject, sphere.Reader)
	}},

	"Products": {least: sphere.Reader, do: func(w *world, c sphere.Caller, tenant string, _ estate) (any, error) {
		return w.Products(ctxOf(w), c, tenant, sphere.Page{})
	}},
	"Product": {least: sphere.Reader, do: func(w *world, c sphere.Caller, tenant string, e estate) (any, error) {
		return w.Product(ctxOf(w), c, tenant, e.product)
	}},
	"ProductByName": {least: sphere.Reader, do: func(w *world, c sphere.Caller, tenant string, e estate) (any, error) {
		return w.ProductByName(ctxOf(w), c, tenant, e.productName)
	}},
	"CreateProduct": {least: sphere.Contributor, do: func(w *world, c sphere.Caller, tenant string, e estate) (any, error) {
		return w.CreateProduct(ctxOf(w), c, tenant, "New one", "")
	}},
	"UpdateProduct": {least: sphere.Contributor, do: func(w *world, c sphere.Caller, tenant string, e estate) (any, error) {
		return w.UpdateProduct(ctxOf(w), c, tenant, e.product, sphere.ProductChange{Description: ptr("changed")}, nil)
	}},
	"DeleteProduct": {least: sphere.Administrator, do: func(w *world, c sphere.Caller, tenant string, e estate) (any, error) {
		return nil, w.DeleteProduct(ctxOf(w), c, tenant, e.empty, nil)
	}},

	"DeviceGroups": {least: sphere.Reader, do: func(w *world, c sphere.Caller, tenant string, e estate) (any, error) {
		of, err := w.DeviceGroups(ctxOf(w), c, tenant, e.product, sphere.Page{})
		all, err2 := w.DeviceGroups(ctxOf(w), c, tenant, "", sphere.Page{})
		return []any{of, all}, errors.Join(err, err2)
	}},
	"DeviceGroup": {least: sphere.Reader, do: func(w *world, c sphere.Caller, tenant string, e estate) (any, error) {
		return w.DeviceGroup(ctxOf(w), c, tenant, e.group)
	}},
	"DeviceGroupByName": {least: sphere.Reader, do: func(w *world, c sphere.Caller, tenant string, e estate) (any, error) {
		return w.DeviceGroupByName(ctxOf(w), c, tenant, e.product, e.groupName)
	}},
	"CreateDeviceGroup": {least: sphere.Contributor, do: func(w *world, c sphere.Caller, tenant string, e estate) (any, error) {
		return w.CreateDeviceGroup(ctxOf(w), c, tenant, e.product, sphere.GroupChange{Name: ptr("New one")})
	}},
	"GenerateDefaultGroups": {least: sphere.Contributor, do: func(w *world, c sphere.Caller, tenant string, e estate) (any, error) {
		return w.GenerateDefaultGroups(ctxOf(w), c, tenant, e.product)
	}},
	"UpdateDeviceGroup": {least: sphere.Contributor, do: func(w *world, c sphere.Caller, tenant string, e estate) (any, error) {
		return w.UpdateDeviceGroup(ctxOf(w), c, tenant, e.group, sphere.GroupChange{AllowCrashDumps: ptr(true)}, nil)
	}},
	"DeleteDeviceGroup": {least: sphere.Administrator, do: func(w *world, c sphere.Caller, tenant string, e estate) (any, error) {
		return nil, w.DeleteDeviceGroup(ctxOf(w), c, tenant, e.spare, nil)
	}},

	"ManufactureRecords": {least: sphere.Reader, installation: true, do: func(w *world, c sphere.Caller, tenant string, e estate) (any, error) {
		return w.ManufactureRecords(ctxOf(w), c, tenant, sphere.Page{})
	}},
	"UploadManufactureRecords": {least: sphere.Administrator, installation: true, do: func(w *world, c sphere.Caller, tenant string, e estate) (any, error) {
		errs, err := w.UploadManufactureRecords(ctxOf(w), c, tenant, []sphere.ManufactureRecord{{PublicKey: newKey(w.t).der}})
		return nil, errors.Join(append(errs, err)...)
	}},
	"ClaimChallenge": {least: sphere.Contributor, do: func(w *world, c sphere.Caller, tenant string, e estate) (any, error) {
		return w.ClaimChallenge(ctxOf(w), c, tenant)
	}},
	"Claim": {least: sphere.Contributor, do: func(w *world, c sphere.Caller, tenant string, e estate) (any, error) {
		d, _, err := w.Claim(ctxOf(w), c, tenant, w.proof(e.admin, e.tenant, newKey(w.t)), e.group)
		return d, err
	}},
	"ClaimKnown": {least: sphere.Contributor, do: func(w *world, c sphere.Caller, tenant string, e estate) (any, error) {
		os, err := w.ClaimKnown(ctxOf(w), c, tenant, []string{e.known}, "")
		for i := range os {
			err = errors.Join(err, os[i].Err)
		}
		return nil, err
	}},

	"Devices": {least: sphere.Reader, do: func(w *world, c sphere.Caller, tenant string, e estate) (any, error) {
		all, err := w.Devices(ctxOf(w), c, tenant, sphere.DeviceFilter{}, sphere.Page{})
		in, err2 := w.Devices(ctxOf(w), c, tenant, sphere.DeviceFilter{Group: e.group}, sphere.Page{})
		return []any{all, in}, errors.Join(err, err2)
	}},
	"Device": {least: sphere.Reader, do: func(w *world, c sphere.Caller, tenant string, e estate) (any, error) {
		return w.Service.Device(ctxOf(w), c, tenant, e.device)
	}},
	"CountDevices": {least: sphere.Reader, do: func(w *world, c sphere.Caller, tenant string, e estate) (any, error) {
		return w.CountDevices(ctxOf(w), c, tenant, sphere.DeviceFilter{Product: e.product})
	}},
	"AssignDevices": {least: sphere.Contributor, do: func(w *world, c sphere.Caller, tenant string, e estate) (any, error) {
		return nil, errors.Join(w.AssignDevices(ctxOf(w), c, tenant, []string{e.device}, e.spare, nil), w.AssignDevices(ctxOf(w), c, tenant, []string{e.device}, "", nil))
	}},
	"SetManufacturingState": {least: sphere.Contributor, do: func(w *world, c sphere.Caller, tenant string, e estate) (any, error) {
		return w.SetManufacturingState(ctxOf(w), c, tenant, e.device, sphere.StateDeviceComplete, nil)
	}},
	"SetDeviceEnabled": {least: sphere.Administrator, do: func(w *world, c sphere.Caller, tenant string, e estate) (any, error) {
		return w.SetDeviceEnabled(ctxOf(w), c, tenant, e.device, false, nil)
	}},
	"GrantCapability": {least: sphere.Contributor, do: func(w *world, c sphere.Caller, tenant string, e estate) (any, error) {
		k, _, err := w.GrantCapability(ctxOf(w), c, tenant, e.device, []string{sphere.CapabilityAppDevelopment}, time.Time{})
		return k, err
	}},

	"Releases": {least: sphere.Reader, do: func(w *world, c sphere.Caller, tenant string, _ estate) (any, error) {
		return w.Releases(ctxOf(w), c, tenant)
	}},
	"PublishRelease": {least: sphere.Contributor, do: func(w *world, c sphere.Caller, tenant string, _ estate) (any, error) {
		return w.PublishRelease(ctxOf(w), c, tenant, release("27.1", sphere.RetailEval))
	}},
	"WithdrawRelease": {least: sphere.Administrator, do: func(w *world, c sphere.Caller, tenant string, e estate) (any, error) {
		return nil, w.WithdrawRelease(ctxOf(w), c, tenant, sphere.ReleaseOS, sphere.Retail, e.version)
	}},
	"Minimums": {least: sphere.Reader, do: func(w *world, c sphere.Caller, tenant string, _ estate) (any, error) {
		return w.Minimums(ctxOf(w), c, tenant)
	}},
	"SetMinimum": {least: sphere.Administrator, do: func(w *world, c sphere.Caller, tenant string, _ estate) (any, error) {
		return w.SetMinimum(ctxOf(w), c, tenant, sphere.Retail, "25.1", time.Time{})
	}},

	"Deployments": {least: sphere.Reader, do: func(w *world, c sphere.Caller, tenant string, e estate) (any, error) {
		of, err := w.Deployments(ctxOf(w), c, tenant, e.group, sphere.Page{})
		all, err2 := w.Deployments(ctxOf(w), c, tenant, "", sphere.Page{})
		return []any{of, all}, errors.Join(err, err2)
	}},
	"Deployment": {least: sphere.Reader, do: func(w *world, c sphere.Caller, tenant string, e estate) (any, error) {
		now, err := w.Deployment(ctxOf(w), c, tenant, e.group, sphere.PseudoDefault)
		one, err2 := w.Deployment(ctxOf(w), c, tenant, e.group, e.deployment)
		return []any{now, one}, errors.Join(err, err2)
	}},
	"CreateDeployment": {least: sphere.Contributor, do: func(w *world, c sphere.Caller, tenant string, e estate) (any, error) {
		d, _, err := w.CreateDeployment(ctxOf(w), c, tenant, e.group, "", []string{e.image})
		return d, err
	}},
	"TargetedImages": {least: sphere.Reader, do: func(w *world, c sphere.Caller, tenant string, e estate) (any, error) {
		return w.TargetedImages(ctxOf(w), c, tenant, e.device)
	}},

	"CAs": {least: sphere.Reader, do: func(w *world, c sphere.Caller, tenant string, _ estate) (any, error) {
		return w.CAs(ctxOf(w), c, tenant)
	}},
	"CA": {least: sphere.Reader, do: func(w *world, c sphere.Caller, tenant string, e estate) (any, error) {
		return w.CA(ctxOf(w), c, tenant, e.ca)
	}},
	"CAChain": {least: sphere.Reader, do: func(w *world, c sphere.Caller, tenant string, e estate) (any, error) {
		return w.CAChain(ctxOf(w), c, tenant, e.ca)
	}},
	"CAProof": {least: sphere.Contributor, do: func(w *world, c sphere.Caller, tenant string, e estate) (any, error) {
		cert, err := w.CAProof(ctxOf(w), c, tenant, e.ca, "CODE")
		if err != nil {
			return nil, err
		}
		return tenantca.Serial(cert), nil
	}},
	"RotateCA": {least: sphere.Administrator, do: func(w *world, c sphere.Caller, tenant string, e estate) (any, error) {
		w.sleep(46 * 24 * time.Hour) // the successor issues: another may be made
		return w.RotateCA(ctxOf(w), c, tenant)
	}},
	"ActivateCA": {least: sphere.Administrator, do: func(w *world, c sphere.Caller, tenant string, e estate) (any, error) {
		return w.ActivateCA(ctxOf(w), c, tenant, e.successor)
	}},
	"RevokeCA": {least: sphere.Administrator, do: func(w *world, c sphere.Caller, tenant string, e estate) (any, error) {
		return w.RevokeCA(ctxOf(w), c, tenant, e.ca)
	}},

	"ErrorReport": {least: sphere.Reader, do: func(w *world, c sphere.Caller, tenant string, e estate) (any, error) {
		all, err := w.ErrorReport(ctxOf(w), c, tenant, "")
		of, err2 := w.ErrorReport(ctxOf(w), c, tenant, e.group)
		return []any{all, of}, errors.Join(err, err2)
	}},
}

// ofNoCaller are the methods of Service that nobody outside calls.
var ofNoCaller = []string{"CapabilitySigner", "DeviceSide", "Root", "Run"}

// Every method of Service, asked by everybody: who has no role in a tenant learns nothing of it, not even that it is there, and changes nothing of
// it; who has one does what sphere §13 lets it do, in all that is below the tenant.
func TestMatrix(t *testing.T) {
	conform.Covers(t, "SPH-27")
	methods := map[string]bool{}
	for m := range reflect.TypeFor[*sphere.Service]().Methods() {
		methods[m.Name] = true
		takesCaller := m.Type.NumIn() > 2 && m.Type.In(2) == reflect.TypeFor[sphere.Caller]()
		_, listed := operations[m.Name]
		exempt := false
		for _, name := range ofNoCaller {
			exempt = exempt || name == m.Name
		}
		if listed == exempt || listed != takesCaller {
			t.Errorf("%s: it takes a caller: %v; it is in the matrix: %v, or exempt: %v", m.Name, takesCaller, listed, exempt)
		}
	}
	for name, op := range operations {
		if !methods[name] {
			t.Errorf("%s is in the matrix and not in Service", name)
		}
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t)
			a, b := w.estate("aaa"), w.estate("bbb")
			before := w.snapshot(a.tenant)
			missing := "00000000-0000-4000-8000-00000000ffff"

			_, err := op.do(w, sphere.Caller{}, a.tenant, a)
			wantKind(t, "nobody", err, fault.Unauthorized)
			_, err = op.do(w, sphere.Caller{Admin: true}, a.tenant, a)
			wantKind(t, "nobody who says to be an administrator", err, fault.Unauthorized)

			stranger := sphere.Caller{Subject: "stranger"}
			for who, c := range map[string]sphere.Caller{"a stranger": stranger, "the other tenant's administrator": b.admin, "the other tenant's reader": b.reader} {
				got, err := op.do(w, c, a.tenant, a)
				if op.noTenant {
					ok(t, err)
				} else {
					wantKind(t, who, err, fault.NotFound)
					_, there := op.do(w, c, strings.ToUpper(missing), a)
					if is, want := fault.Public(first(err)), strings.ReplaceAll(fault.Public(first(there)), strings.ToUpper(missing), a.tenant); is != want {
						t.Errorf("%s is told %q of a tenant that is there, and %q of one that is not", who, is, want)
					}
				}
				nothingOf(t, w, a, got, err)
			}
			// A tenant of one's own does not help with ids of another's.
			got, err := op.do(w, b.admin, b.tenant, a)
			nothingOf(t, w, a, got, err)
			if after := w.snapshot(a.tenant); after != before {
				t.Fatalf("others changed the tenant:\n%s", cmp.Diff(before, after))
			}

			_, err = op.do(w, root, a.tenant, a)
			switch {
			case op.noTenant || op.installation:
				ok(t, err)
			default:
				wantKind(t, "an administrator of the installation without a role", err, fault.NotFound)
			}
			if op.noTenant {
				return
			}

			w = newWorld(t)
			a = w.estate("aaa")
			members := []struct {
				role sphere.Role
				c    sphere.Caller
			}{{sphere.Reader, a.reader}, {sphere.Contributor, a.contributor}, {sphere.Administrator, a.admin}}
			allowed := false
			for _, m := range members {
				before := w.snapshot(a.tenant)
				got, err := op.do(w, m.c, strings.ToUpper(a.tenant), a)
				if m.role == op.least {
					allowed = true
					if err != nil {
						t.Errorf("%s: %v", m.role, err)
					}
					continue
				}
				if !allowed {
					wantKind(t, string(m.role), err, fault.Forbidden)
					if after := w.snapshot(a.tenant); after != before || got != nil && reflect.ValueOf(got).Kind() != reflect.Slice && !reflect.ValueOf(got).IsZero() {
						t.Errorf("%s: it is refused, and got %v, or changed something", m.role, got)
					}
					continue
				}
				if fault.Is(err, fault.Forbidden) {
					t.Errorf("%s: %v", m.role, err)
				}
			}
		})
	}
}

// first is one of joined errors.
func first(err error) error {
	if many, ok := err.(interface{ Unwrap() []error }); ok {
		for _, e := range many.Unwrap() {
			if e != nil {
				return e
			}
		}
	}
	return err
}

// nothingOf checks that an answer holds nothing of an estate. An error may repeat what was asked for.
func nothingOf(t *testing.T, w *world, e estate, got any, err error) {
	t.Helper()
	text := string(must(json.Marshal(got))(t))
	for what, s := range map[string]string{
		"tenant": e.tenant, "tenant's name": "aaa-tenant", "product": e.product, "group": e.group, "device": e.device, "known device": e.known, "CA": e.ca, "successor": e.successor,
		"event": "aaa crashed", "member": e.admin.Subject, "SKU": "aaasku", "deployment": e.deployment, "image": e.image,
	} {
		if strings.Contains(text, s) {
			t.Errorf("the answer holds the other's %s: %s", what, text)
		}
	}
	if n, is := got.(int64); is && n != 0 {
		t.Errorf("it counted %d devices of the other", n)
	}
	_ = err
}

// The roles of an installation's administrator, and of one who has several.
func TestRoles(t *testing.T) {
	t.Parallel()
	w, ctx := newWorld(t), t.Context()
	tenant := w.tenant(ann)
	must(w.AddRole(ctx, ann, tenant, "Bob@Example.NET", sphere.Reader))(t)
	must(w.AddRole(ctx, ann, tenant, "bob@example.net", sphere.Contributor))(t)
	m := must(w.AddRole(ctx, ann, tenant, "bob@example.net", sphere.Contributor))(t)
	if len(m.Roles) != 2 || m.Roles[0] != sphere.Contributor || m.User != "Bob@Example.NET" {
		t.Errorf("got %v", m)
	}
	if me := must(w.Me(ctx, sphere.Caller{Subject: "BOB@example.net"}))(t); len(me.Memberships) != 1 || me.Memberships[0].Tenant != tenant {
		t.Errorf("got %v", me)
	}
	must(w.CreateProduct(ctx, bob, tenant, "Lamp", ""))(t)
	ok(t, w.RemoveRole(ctx, ann, tenant, bob.Subject, sphere.Contributor))
	_, err := w.CreateProduct(ctx, bob, tenant, "Oven", "")
	wantKind(t, "a revoked role", err, fault.Forbidden)
	must(w.Products(ctx, bob, tenant, sphere.Page{}))(t)
	ok(t, w.RemoveRole(ctx, ann, tenant, bob.Subject, sphere.Reader))
	_, err = w.Products(ctx, bob, tenant, sphere.Page{})
	wantKind(t, "a revoked user", err, fault.NotFound)
	wantKind(t, "once more", w.RemoveRole(ctx, ann, tenant, bob.Subject, sphere.Reader), fault.NotFound)

	wantKind(t, "the last Administrator", w.RemoveRole(ctx, ann, tenant, ann.Subject, sphere.Administrator), fault.AlreadyExists)
	wantKind(t, "the last Administrator, by the installation", w.RemoveRole(ctx, root, tenant, ann.Subject, sphere.Administrator), fault.AlreadyExists)
	must(w.AddRole(ctx, root, tenant, bob.Subject, sphere.Administrator))(t)
	ok(t, w.RemoveRole(ctx, bob, tenant, ann.Subject, sphere.Administrator))
	for _, role := range []sphere.Role{"", "administrator", "Owner"} {
		_, err := w.AddRole(ctx, bob, tenant, "eve", role)
		wantKind(t, "role "+string(role), err, fault.Invalid)
	}
	_, err = w.AddRole(ctx, bob, tenant, "eve\n", sphere.Reader)
	wantKind(t, "a name with a line break", err, fault.Invalid)
	if n := len(w.audited("RemoveRole")); n != 3 {
		t.Errorf("%d records of removed roles, want 3", n)
	}

	// Two administrators who remove each other at once leave one.
	must(w.AddRole(ctx, bob, tenant, ann.Subject, sphere.Administrator))(t)
	done := make(chan error, 2)
	go func() { done <- w.RemoveRole(ctx, bob, tenant, ann.Subject, sphere.Administrator) }()
	go func() { done <- w.RemoveRole(ctx, ann, tenant, bob.Subject, sphere.Administrator) }()
	if e1, e2 := <-done, <-done; e1 == nil && e2 == nil {
		t.Error("no Administrator is left")
	}
}

func TestTenants(t *testing.T) {
	t.Parallel()
	w, ctx := newWorld(t), t.Context()
	for range 10 {
		w.tenant(ann)
	}
	_, err := w.CreateTenant(ctx, ann, "Contoso")
	wantKind(t, "the eleventh", err, fault.QuotaExceeded)
	w.tenant(root)
	bobs := w.tenant(bob)
	for _, name := range []string{"", "a b", "ä", strings.Repeat("x", 51), "a\n"} {
		_, err := w.CreateTenant(ctx, bob, name)
		wantKind(t, name, err, fault.Invalid)
	}
	var mine, all []string
	walk := func(c sphere.Caller) (ids []string) {
		for p := (sphere.Page{Limit: 4}); ; {
			l := must(w.Tenants(ctx, c, p))(t)
			for _, x := range l.Items {
				ids = append(ids, x.ID)
			}
			if p.Token = l.NextToken; p.Token == "" {
				return ids
			}
		}
	}
	if mine, all = walk(ann), walk(root); len(mine) != 10 || len(all) != 12 {
		t.Errorf("%d and %d tenants, want 10 and 12", len(mine), len(all))
	}
	if one := walk(bob); len(one) != 1 || one[0] != bobs {
		t.Errorf("got %v", one)
	}
	tn := must(w.Tenant(ctx, bob, strings.ToUpper(bobs)))(t)
	if tn.ID != bobs || tn.ETag == "" || !tn.Created.Equal(start) {
		t.Errorf("got %v", tn)
	}
}
