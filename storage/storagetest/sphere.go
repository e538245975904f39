package storagetest

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/vauban-iot/vauban/fault"
	"github.com/vauban-iot/vauban/internal/secret"
	"github.com/vauban-iot/vauban/iot"
	"github.com/vauban-iot/vauban/sphere"
	"github.com/vauban-iot/vauban/sphere/report"
)

// sphereGUID is the n-th id of a test.
func sphereGUID(n int) string { return fmt.Sprintf("00000000-0000-4000-8000-%012x", n) }

func sphereDeviceID(n int) string { return fmt.Sprintf("%0128x", n) }

func sphereCA(tenant, serial string) sphere.StoredCA {
	return sphere.StoredCA{
		Tenant: tenant, Serial: serial, Certificate: []byte{1, 0, 255}, Key: secret.New([]byte("key of " + serial)),
		NotAfter: kept(Start.Add(time.Hour)), ActiveFrom: kept(Start), Created: kept(Start),
	}
}

// sphereTenant makes the n-th tenant, whose administrator is Ann@example.org.
func sphereTenant(t testing.TB, s Store, n int) string {
	t.Helper()
	id := sphereGUID(n)
	ok(t, s.CreateTenant(t.Context(),
		sphere.Tenant{ID: id, Name: "Contoso", ETag: "e", Created: kept(Start), Updated: kept(Start)},
		sphere.Member{User: "Ann@example.org", Roles: []sphere.Role{sphere.Administrator}, Added: kept(Start)},
		sphereCA("", fmt.Sprintf("AA%d", n))))
	return id
}

func sphereProduct(tenant, id, name string) sphere.Product {
	return sphere.Product{Tenant: tenant, ID: id, Name: name, Description: "☂", ETag: iot.ETag("e-" + id), Created: kept(Start), Updated: kept(Start)}
}

func sphereGroup(tenant, product, id, name string) sphere.DeviceGroup {
	return sphere.DeviceGroup{
		Tenant: tenant, ID: id, Product: product, Name: name, Description: "☂", OSFeed: sphere.RetailEval, UpdatePolicy: sphere.No3rdPartyAppUpdates,
		AllowCrashDumps: true, RegionalBoundary: sphere.RegionEU, ETag: iot.ETag("e-" + id), Created: kept(Start), Updated: kept(Start),
	}
}

func sphereDevice(tenant string, n int) sphere.Device {
	return sphere.Device{
		ID: sphereDeviceID(n), Tenant: tenant, PublicKey: []byte{0, 1, byte(n)}, ChipSKU: "MT3620AN", EndorsementKey: "ek", State: sphere.StateBlank, Enabled: true,
		HardwareRoot: true, Claimed: kept(Start), ClaimedBy: "Ann@example.org", ClaimedHow: sphere.ByProof,
		LastInstalledOSVersion: "26.1", LastAvailableOSVersion: "26.2", LastUpdateCheck: kept(Start), LastOSUpdate: kept(Start.Add(1e9)), LastAttested: kept(Start.Add(2e9)),
		BootCounter: 1<<63 + 1, Installed: []sphere.Image{{Component: "c", ID: "i", SHA256: "s"}}, ETag: "e", Updated: kept(Start),
	}
}

func putSphereDevice(t testing.TB, s Store, d sphere.Device) {
	t.Helper()
	ds, errs, err := s.PutClaimedDevices(t.Context(), []string{d.ID}, func(_ int, _ *sphere.Device) (sphere.Device, error) { return d, nil })
	ok(t, errors.Join(append(errs, err)...))
	d.Product, d.Group = ds[0].Product, ds[0].Group
	same(t, "returned", ds[0], d)
}

// Sphere is what every sphere.Store promises.
func Sphere(t *testing.T, open Open) {
	t.Run("Tenants", func(t *testing.T) { sphereTenants(t, open) })
	t.Run("Products", func(t *testing.T) { sphereProducts(t, open) })
	t.Run("Devices", func(t *testing.T) { sphereDevices(t, open) })
	t.Run("Manufacture", func(t *testing.T) { sphereManufacture(t, open) })
	t.Run("Software", func(t *testing.T) { sphereSoftware(t, open) })
	t.Run("Deployments", func(t *testing.T) { sphereDeployments(t, open) })
	t.Run("CAs", func(t *testing.T) { sphereCAs(t, open) })
	t.Run("Events", func(t *testing.T) { sphereEvents(t, open) })
}

func sphereTenants(t *testing.T, open Open) {
	s, ctx := open(t), t.Context()
	a, b := sphereTenant(t, s, 2), sphereTenant(t, s, 1)
	err := s.CreateTenant(ctx, sphere.Tenant{ID: a}, sphere.Member{User: "Eve", Roles: []sphere.Role{sphere.Administrator}}, sphereCA(a, "EE"))
	wantKind(t, "a second of that id", err, fault.AlreadyExists)
	_, err = s.Tenant(ctx, sphereGUID(9))
	wantKind(t, "a missing tenant", err, fault.NotFound)
	want := sphere.Tenant{ID: a, Name: "Contoso", ETag: "e", Created: kept(Start), Updated: kept(Start)}
	same(t, "tenant", must(s.Tenant(ctx, a))(t), want)
	same(t, "its CA", must(s.TenantCAs(ctx, a))(t), []sphere.StoredCA{sphereCA(a, "AA2")})

	_, err = s.UpdateTenant(ctx, a, func(now sphere.Tenant) (sphere.Tenant, error) {
		same(t, "seen", now, want)
		now.Name = "x"
		return now, errNo
	})
	wantNo(t, "update", err)
	want.Name, want.ETag = "Fabrikam", "e2"
	same(t, "updated", must(s.UpdateTenant(ctx, a, func(sphere.Tenant) (sphere.Tenant, error) { return want, nil }))(t), want)
	same(t, "tenant", must(s.Tenant(ctx, a))(t), want)
	_, err = s.UpdateTenant(ctx, sphereGUID(9), func(n sphere.Tenant) (sphere.Tenant, error) { return n, nil })
	wantKind(t, "update of a missing one", err, fault.NotFound)
	if _, err := s.UpdateTenant(ctx, a, func(n sphere.Tenant) (sphere.Tenant, error) { n.ID = b; return n, nil }); err == nil {
		t.Error("a change became another tenant")
	}
	first := must(s.Tenants(ctx, "", 1))(t)
	same(t, "page 1", first[0].ID, b)
	same(t, "page 2", must(s.Tenants(ctx, b, 2))(t), []sphere.Tenant{want})

	ann := sphere.Member{Tenant: a, User: "Ann@example.org", Roles: []sphere.Role{sphere.Administrator}, Added: kept(Start)}
	bob := sphere.Member{Tenant: a, User: "BOB", Roles: []sphere.Role{sphere.Contributor, sphere.Reader}, Added: kept(Start)}
	same(t, "member", must(s.Membership(ctx, a, "ANN@example.ORG"))(t), ann)
	_, err = s.Membership(ctx, a, "bob")
	wantKind(t, "a stranger", err, fault.NotFound)
	ok(t, s.ChangeMembers(ctx, a, func(all []sphere.Member) ([]sphere.Member, error) {
		same(t, "seen", all, []sphere.Member{ann})
		return append(all, bob), nil
	}))
	same(t, "members", must(s.Members(ctx, a))(t), []sphere.Member{ann, bob})
	same(t, "of the other tenant", len(must(s.Members(ctx, b))(t)), 1)
	annB := ann
	annB.Tenant = b
	same(t, "memberships", must(s.Memberships(ctx, "ann@EXAMPLE.org"))(t), []sphere.Member{annB, ann})
	wantNo(t, "change", s.ChangeMembers(ctx, a, func([]sphere.Member) ([]sphere.Member, error) { return nil, errNo }))
	wantKind(t, "change in a missing tenant", s.ChangeMembers(ctx, sphereGUID(9), func(m []sphere.Member) ([]sphere.Member, error) { return m, nil }), fault.NotFound)
	parallel(t, 16, func(i int) error {
		return s.ChangeMembers(ctx, b, func(all []sphere.Member) ([]sphere.Member, error) {
			return append(all, sphere.Member{User: fmt.Sprint("u", i), Roles: []sphere.Role{sphere.Reader}}), nil
		})
	})
	same(t, "after 16 changes at once", len(must(s.Members(ctx, b))(t)), 17)
}

func sphereProducts(t *testing.T, open Open) {
	s, ctx := open(t), t.Context()
	a, b := sphereTenant(t, s, 1), sphereTenant(t, s, 2)
	put := func(p sphere.Product) error {
		got, err := s.PutProduct(ctx, p.Tenant, p.ID, func(*sphere.Product) (sphere.Product, error) { return p, nil })
		if err == nil {
			same(t, "returned", got, p)
		}
		return err
	}
	lamp, oven := sphereProduct(a, sphereGUID(11), "Lamp"), sphereProduct(a, sphereGUID(10), "oven")
	other := sphereProduct(b, sphereGUID(11), "Lamp") // the same id and name in another tenant
	for _, p := range []sphere.Product{lamp, oven, other} {
		ok(t, put(p))
	}
	wantKind(t, "the name in other case", put(sphereProduct(a, sphereGUID(12), "LAMP")), fault.AlreadyExists)
	wantKind(t, "in a missing tenant", put(sphereProduct(sphereGUID(9), sphereGUID(12), "x")), fault.NotFound)
	same(t, "one", must(s.Product(ctx, a, lamp.ID))(t), lamp)
	_, err := s.Product(ctx, b, oven.ID)
	wantKind(t, "through another tenant", err, fault.NotFound)
	same(t, "page 1", must(s.Products(ctx, a, "", 1))(t), []sphere.Product{lamp})
	same(t, "page 2", must(s.Products(ctx, a, "lamp", 9))(t), []sphere.Product{oven})
	_, err = s.PutProduct(ctx, a, oven.ID, func(now *sphere.Product) (sphere.Product, error) {
		same(t, "seen", *now, oven)
		return lamp, errNo
	})
	wantNo(t, "put", err)
	oven.Name = "OVEN"
	ok(t, put(oven))
	same(t, "respelled", must(s.Product(ctx, a, oven.ID))(t), oven)

	groups := func(tenant, product string, gs ...sphere.DeviceGroup) error {
		got, err := s.PutDeviceGroups(ctx, tenant, product, func([]sphere.DeviceGroup) ([]sphere.DeviceGroup, error) { return slices.Clone(gs), nil })
		if err == nil {
			same(t, "returned", got, gs)
		}
		return err
	}
	g1, g2 := sphereGroup(a, lamp.ID, sphereGUID(21), "One"), sphereGroup(a, lamp.ID, sphereGUID(20), "two")
	g3 := sphereGroup(a, oven.ID, sphereGUID(23), "one")
	gb := sphereGroup(b, lamp.ID, sphereGUID(21), "One")
	ok(t, groups(a, lamp.ID, g1, g2))
	ok(t, groups(a, oven.ID, g3))
	ok(t, groups(b, lamp.ID, gb))
	wantKind(t, "the name in other case", groups(a, lamp.ID, sphereGroup(a, lamp.ID, sphereGUID(24), "ONE")), fault.AlreadyExists)
	wantKind(t, "one name twice", groups(a, lamp.ID, sphereGroup(a, lamp.ID, sphereGUID(24), "n"), sphereGroup(a, lamp.ID, sphereGUID(25), "N")), fault.AlreadyExists)
	wantKind(t, "of another tenant's product", groups(b, oven.ID, sphereGroup(b, oven.ID, sphereGUID(24), "x")), fault.NotFound)
	if err := groups(a, lamp.ID, g3); err == nil {
		t.Error("a group went to another product")
	}
	g1.Name = "ONE"
	ok(t, groups(a, lamp.ID, g1))
	same(t, "one", must(s.DeviceGroup(ctx, a, g1.ID))(t), g1)
	_, err = s.DeviceGroup(ctx, b, g3.ID)
	wantKind(t, "through another tenant", err, fault.NotFound)
	all := must(s.DeviceGroups(ctx, a, "", "", 9))(t)
	same(t, "all", len(all), 3)
	same(t, "the first", all[0], g3) // of the product with the lesser id
	var walked []sphere.DeviceGroup
	for after := ""; ; after = sphere.GroupKey(walked[len(walked)-1]) {
		page := must(s.DeviceGroups(ctx, a, "", after, 1))(t)
		if len(page) == 0 {
			break
		}
		walked = append(walked, page...)
	}
	same(t, "by pages", walked, all)
	same(t, "of one product", must(s.DeviceGroups(ctx, a, lamp.ID, "", 9))(t), all[1:])

	d := sphereDevice(a, 1)
	putSphereDevice(t, s, d)
	ok(t, s.AssignDevices(ctx, a, []string{d.ID}, g1.ID, func(d sphere.Device) (sphere.Device, error) { return d, nil }))
	agree := func(sphere.DeviceGroup) error { return nil }
	wantKind(t, "delete a group with devices", s.DeleteDeviceGroup(ctx, a, g1.ID, agree), fault.AlreadyExists)
	wantKind(t, "delete a product with devices", s.DeleteProduct(ctx, a, lamp.ID, func(sphere.Product) error { return nil }), fault.AlreadyExists)
	wantKind(t, "delete through another tenant", s.DeleteDeviceGroup(ctx, b, g2.ID, agree), fault.NotFound)
	wantKind(t, "delete through another tenant", s.DeleteProduct(ctx, b, oven.ID, func(sphere.Product) error { return nil }), fault.NotFound)
	wantNo(t, "delete", s.DeleteDeviceGroup(ctx, a, g2.ID, func(g sphere.DeviceGroup) error { same(t, "checked", g, g2); return errNo }))
	ok(t, s.DeleteDeviceGroup(ctx, a, g2.ID, agree))
	wantNo(t, "delete", s.DeleteProduct(ctx, a, oven.ID, func(p sphere.Product) error { same(t, "checked", p, oven); return errNo }))
	ok(t, s.DeleteProduct(ctx, a, oven.ID, func(sphere.Product) error { return nil }))
	same(t, "left", must(s.DeviceGroups(ctx, a, "", "", 9))(t), []sphere.DeviceGroup{g1})
	same(t, "of the other tenant", must(s.DeviceGroups(ctx, b, "", "", 9))(t), []sphere.DeviceGroup{gb})
	parallel(t, 8, func(i int) error { // one of many with a name wins
		err := put(sphereProduct(b, sphereGUID(100+i), "race"))
		if fault.Is(err, fault.AlreadyExists) {
			return nil
		}
		return err
	})
	same(t, "after a race", len(must(s.Products(ctx, b, "", 20))(t)), 2)
}

func sphereDevices(t *testing.T, open Open) {
	s, ctx := open(t), t.Context()
	a, b := sphereTenant(t, s, 1), sphereTenant(t, s, 2)
	one, two, foreign := sphereDevice(a, 1), sphereDevice(a, 2), sphereDevice(b, 3)
	two.Enabled, two.State, two.ChipSKU, two.Installed = false, sphere.StateDeviceComplete, "", nil
	for _, d := range []sphere.Device{two, one, foreign} {
		putSphereDevice(t, s, d)
	}
	putSphereDevice(t, s, sphere.Device{ID: sphereDeviceID(4), Tenant: b}) // bare
	same(t, "bare", must(s.ClaimedDevice(ctx, sphereDeviceID(4), Start))(t), sphere.Device{ID: sphereDeviceID(4), Tenant: b})

	same(t, "one", must(s.TenantDevice(ctx, a, one.ID, Start))(t), one)
	same(t, "whoever owns it", must(s.ClaimedDevice(ctx, foreign.ID, Start))(t), foreign)
	_, err := s.TenantDevice(ctx, a, foreign.ID, Start)
	wantKind(t, "through another tenant", err, fault.NotFound)
	_, err = s.ClaimedDevice(ctx, sphereDeviceID(9), Start)
	wantKind(t, "a missing one", err, fault.NotFound)

	// Some of many are refused.
	ds, errs, err := s.PutClaimedDevices(ctx, []string{foreign.ID, one.ID}, func(i int, now *sphere.Device) (sphere.Device, error) {
		d := *now
		if d.Tenant != a {
			return d, errNo
		}
		d.ETag, d.Group, d.Product = "e2", "g", "p" // a group is not set this way
		return d, nil
	})
	ok(t, err)
	wantNo(t, "the foreign one", errs[0])
	one.ETag = "e2"
	same(t, "results", ds, []sphere.Device{{}, one})
	same(t, "changed", must(s.TenantDevice(ctx, a, one.ID, Start))(t), one)
	same(t, "unchanged", must(s.TenantDevice(ctx, b, foreign.ID, Start))(t), foreign)
	if _, _, err := s.PutClaimedDevices(ctx, []string{foreign.ID}, func(_ int, now *sphere.Device) (sphere.Device, error) {
		now.Tenant = a
		return *now, nil
	}); err == nil {
		t.Error("a device went to another tenant")
	}
	same(t, "unchanged", must(s.TenantDevice(ctx, b, foreign.ID, Start))(t), foreign)

	product, group := sphereGUID(10), sphereGUID(20)
	must(s.PutProduct(ctx, a, product, func(*sphere.Product) (sphere.Product, error) { return sphereProduct(a, product, "p"), nil }))(t)
	must(s.PutDeviceGroups(ctx, a, product, func([]sphere.DeviceGroup) ([]sphere.DeviceGroup, error) {
		return []sphere.DeviceGroup{sphereGroup(a, product, group, "g")}, nil
	}))(t)
	keep := func(d sphere.Device) (sphere.Device, error) {
		d.ETag = "moved"
		return d, nil
	}
	wantKind(t, "assign to a missing group", s.AssignDevices(ctx, a, []string{one.ID}, sphereGUID(21), keep), fault.NotFound)
	wantKind(t, "assign to another tenant's group", s.AssignDevices(ctx, b, []string{foreign.ID}, group, keep), fault.NotFound)
	wantKind(t, "assign with another tenant's device", s.AssignDevices(ctx, a, []string{one.ID, foreign.ID}, group, keep), fault.NotFound)
	wantNo(t, "assign", s.AssignDevices(ctx, a, []string{one.ID}, group, func(d sphere.Device) (sphere.Device, error) { same(t, "checked", d, one); return d, errNo }))
	same(t, "unchanged", must(s.TenantDevice(ctx, a, one.ID, Start))(t), one)
	ok(t, s.AssignDevices(ctx, a, []string{two.ID, one.ID}, group, keep))
	one.Product, one.Group, one.ETag = product, group, "moved"
	two.Product, two.Group, two.ETag = product, group, "moved"
	same(t, "moved", must(s.TenantDevice(ctx, a, one.ID, Start))(t), one)
	putSphereDevice(t, s, one)
	same(t, "a change keeps the group", must(s.TenantDevice(ctx, a, one.ID, Start))(t), one)
	ok(t, s.AssignDevices(ctx, a, []string{two.ID}, "", keep))
	two.Product, two.Group = "", ""

	listed := one
	listed.Installed = nil
	yes, no := true, false
	for what, c := range map[string]struct {
		f    sphere.DeviceFilter
		want []sphere.Device
	}{
		"all":        {sphere.DeviceFilter{}, []sphere.Device{listed, two}},
		"product":    {sphere.DeviceFilter{Product: product}, []sphere.Device{listed}},
		"group":      {sphere.DeviceFilter{Group: group}, []sphere.Device{listed}},
		"unassigned": {sphere.DeviceFilter{Unassigned: true}, []sphere.Device{two}},
		"state":      {sphere.DeviceFilter{State: sphere.StateDeviceComplete}, []sphere.Device{two}},
		"sku":        {sphere.DeviceFilter{ChipSKU: "MT3620AN"}, []sphere.Device{listed}},
		"enabled":    {sphere.DeviceFilter{Enabled: &yes}, []sphere.Device{listed}},
		"disabled":   {sphere.DeviceFilter{Enabled: &no}, []sphere.Device{two}},
		"both":       {sphere.DeviceFilter{Enabled: &no, Group: group}, nil},
	} {
		same(t, what, must(s.TenantDevices(ctx, a, c.f, "", 9))(t), c.want)
		same(t, "count of "+what, must(s.CountTenantDevices(ctx, a, c.f))(t), int64(len(c.want)))
	}
	same(t, "a group of another tenant", len(must(s.TenantDevices(ctx, b, sphere.DeviceFilter{Group: group}, "", 9))(t)), 0)
	same(t, "page 1", must(s.TenantDevices(ctx, a, sphere.DeviceFilter{}, "", 1))(t), []sphere.Device{listed})
	same(t, "page 2", must(s.TenantDevices(ctx, a, sphere.DeviceFilter{}, one.ID, 1))(t), []sphere.Device{two})

	k := sphere.Capability{ID: sphereGUID(30), Device: one.ID, Kinds: []string{"appDevelopment", "fieldServicing"}, Expires: kept(Start.Add(time.Hour)), Granted: kept(Start), By: "Ann"}
	never := sphere.Capability{ID: sphereGUID(31), Device: one.ID, Kinds: []string{"fieldServicing"}, Granted: kept(Start.Add(time.Second)), By: "Ann"}
	ok(t, s.AddCapability(ctx, a, k))
	ok(t, s.AddCapability(ctx, a, never))
	wantKind(t, "a capability through another tenant", s.AddCapability(ctx, b, k), fault.NotFound)
	same(t, "in force", must(s.TenantDevice(ctx, a, one.ID, Start))(t).Capabilities, []sphere.Capability{k, never})
	same(t, "later", must(s.ClaimedDevice(ctx, one.ID, k.Expires))(t).Capabilities, []sphere.Capability{never})

	var claimed [8]bool // of many claims of one device one wins
	parallel(t, 8, func(i int) error {
		_, errs, err := s.PutClaimedDevices(ctx, []string{sphereDeviceID(50)}, func(_ int, now *sphere.Device) (sphere.Device, error) {
			claimed[i] = now == nil
			if now != nil {
				return sphere.Device{}, errNo
			}
			return sphereDevice([]string{a, b}[i%2], 50), nil
		})
		if err == nil && errs[0] != nil && errs[0] != errNo {
			err = errs[0]
		}
		return err
	})
	n := 0
	for _, won := range claimed {
		if won {
			n++
		}
	}
	same(t, "winners", n, 1)

	ok(t, s.SpendChallenge(ctx, "n", Start.Add(time.Minute), Start))
	wantKind(t, "twice", s.SpendChallenge(ctx, "n", Start.Add(time.Minute), Start.Add(time.Minute)), fault.AlreadyExists)
	ok(t, s.SpendChallenge(ctx, "n", Start.Add(time.Hour), Start.Add(time.Minute+time.Second))) // it was forgotten
}

func sphereManufacture(t *testing.T, open Open) {
	s, ctx := open(t), t.Context()
	a, b := sphereTenant(t, s, 1), sphereTenant(t, s, 2)
	record := func(tenant string, n int, reserved bool) sphere.ManufactureRecord {
		return sphere.ManufactureRecord{
			Tenant: tenant, Device: sphereDeviceID(n), PublicKey: []byte{byte(n)}, ChipSKU: "sku", EndorsementKey: "ek", Voucher: []byte{1}, Reserved: reserved,
			By: "Ann", Created: kept(Start),
		}
	}
	any := func(int, *sphere.ManufactureRecord, string) error { return nil }
	put := func(tenant string, rs ...sphere.ManufactureRecord) {
		t.Helper()
		ok(t, errors.Join(must(s.PutManufactureRecords(ctx, tenant, rs, any))(t)...))
	}
	put(a, record(a, 2, false), record(a, 1, true))
	put(b, record(b, 2, false))
	same(t, "one", must(s.ManufactureRecord(ctx, a, sphereDeviceID(1)))(t), record(a, 1, true))
	_, err := s.ManufactureRecord(ctx, b, sphereDeviceID(1))
	wantKind(t, "through another tenant", err, fault.NotFound)
	same(t, "page 1", must(s.ManufactureRecords(ctx, a, "", 1))(t), []sphere.ManufactureRecord{record(a, 1, true)})
	same(t, "page 2", must(s.ManufactureRecords(ctx, a, sphereDeviceID(1), 9))(t), []sphere.ManufactureRecord{record(a, 2, false)})
	same(t, "reserved", must(s.ReservedFor(ctx, sphereDeviceID(1)))(t), a)
	same(t, "not reserved", must(s.ReservedFor(ctx, sphereDeviceID(2)))(t), "")
	same(t, "unknown", must(s.ReservedFor(ctx, sphereDeviceID(3)))(t), "")
	errs := must(s.PutManufactureRecords(ctx, b, []sphere.ManufactureRecord{record(b, 1, false), record(b, 2, true)}, func(i int, now *sphere.ManufactureRecord, reserved string) error {
		if i == 0 {
			if now != nil || reserved != a {
				t.Errorf("check saw %v, %q", now, reserved)
			}
			return errNo
		}
		same(t, "seen", *now, record(b, 2, false))
		return nil
	}))(t)
	wantNo(t, "the first", errs[0])
	same(t, "errors", errs[1] == nil, true)
	same(t, "reserved", must(s.ReservedFor(ctx, sphereDeviceID(2)))(t), b)
	later := record(a, 2, false)
	later.Created = kept(Start.Add(-time.Hour))
	put(a, later)
	same(t, "any", must(s.AnyManufactureRecord(ctx, sphereDeviceID(2)))(t), record(b, 2, true)) // reserved counts more than old
	same(t, "any", must(s.AnyManufactureRecord(ctx, sphereDeviceID(1)))(t), record(a, 1, true))
	_, err = s.AnyManufactureRecord(ctx, sphereDeviceID(9))
	wantKind(t, "none", err, fault.NotFound)
	_, err = s.PutManufactureRecords(ctx, sphereGUID(9), []sphere.ManufactureRecord{record("", 5, false)}, any)
	wantKind(t, "in a missing tenant", err, fault.NotFound)
}

func sphereSoftware(t *testing.T, open Open) {
	s, ctx := open(t), t.Context()
	a := sphereTenant(t, s, 1)
	r := sphere.Release{
		Tenant: a, Kind: sphere.ReleaseOS, Feed: sphere.Retail, Version: "26.1", Images: []sphere.Image{{Component: "c", ID: "i", SHA256: "s"}},
		Released: kept(Start), Withdrawn: kept(Start.Add(time.Hour)), By: "Ann",
	}
	put := func(r sphere.Release) {
		t.Helper()
		same(t, "returned", must(s.PutRelease(ctx, r, func(*sphere.Release) (sphere.Release, error) { return r, nil }))(t), r)
	}
	put(r)
	everywhere := r
	everywhere.Tenant = ""
	put(everywhere)
	app := sphere.Release{Tenant: a, Kind: sphere.ReleaseApplication, Version: "1"}
	put(app)
	same(t, "tenant's", must(s.Releases(ctx, a))(t), []sphere.Release{app, r})
	same(t, "installation's", must(s.Releases(ctx, ""))(t), []sphere.Release{everywhere})
	_, err := s.PutRelease(ctx, r, func(now *sphere.Release) (sphere.Release, error) {
		same(t, "seen", *now, r)
		return r, errNo
	})
	wantNo(t, "put", err)
	if _, err := s.PutRelease(ctx, r, func(*sphere.Release) (sphere.Release, error) { return everywhere, nil }); err == nil {
		t.Error("a release went to another tenant")
	}
	r.Withdrawn = time.Time{}
	put(r)
	same(t, "changed", must(s.Releases(ctx, a))(t), []sphere.Release{app, r})

	minimum := func(tenant string, feed sphere.OSFeed, version string, from time.Duration) sphere.Minimum {
		return sphere.Minimum{Tenant: tenant, Feed: feed, Version: version, From: kept(Start.Add(from)), By: "Ann"}
	}
	m1, m2, m3 := minimum(a, sphere.Retail, "1", 0), minimum(a, sphere.Retail, "2", time.Hour), minimum(a, sphere.RetailEval, "3", 0)
	for _, m := range []sphere.Minimum{m2, m1, m3, minimum("", sphere.Retail, "9", 0)} {
		ok(t, s.PutMinimum(ctx, m, Start))
	}
	same(t, "minimums", must(s.Minimums(ctx, a))(t), []sphere.Minimum{m1, m2, m3})
	m4 := minimum(a, sphere.Retail, "4", 2*time.Hour)
	ok(t, s.PutMinimum(ctx, m4, Start.Add(time.Hour))) // m1 is past
	same(t, "minimums", must(s.Minimums(ctx, a))(t), []sphere.Minimum{m2, m4, m3})
	same(t, "installation's", len(must(s.Minimums(ctx, ""))(t)), 1)
}

func sphereDeployments(t *testing.T, open Open) {
	s, ctx := open(t), t.Context()
	a, b := sphereTenant(t, s, 1), sphereTenant(t, s, 2)
	product, one, two := sphereGUID(10), sphereGUID(20), sphereGUID(21)
	for _, tenant := range []string{a, b} { // with the same ids
		must(s.PutProduct(ctx, tenant, product, func(*sphere.Product) (sphere.Product, error) { return sphereProduct(tenant, product, "p"), nil }))(t)
		must(s.PutDeviceGroups(ctx, tenant, product, func([]sphere.DeviceGroup) ([]sphere.DeviceGroup, error) {
			return []sphere.DeviceGroup{sphereGroup(tenant, product, one, "one"), sphereGroup(tenant, product, two, "two")}, nil
		}))(t)
	}
	deployment := func(tenant, group string, n int) sphere.Deployment {
		return sphere.Deployment{
			Tenant: tenant, Group: group, ID: sphereGUID(n), Created: kept(Start.Add(time.Duration(n) * time.Second)), By: "Ann",
			Images: []sphere.Image{{Component: "c", ID: fmt.Sprint("i", n), SHA256: "s"}},
		}
	}
	add := func(tenant, group string, n int, number int64) sphere.Deployment {
		t.Helper()
		d := deployment(tenant, group, n)
		got := must(s.AddDeployment(ctx, d, 3))(t)
		d.Number = number
		same(t, "returned", got, d)
		return d
	}
	same(t, "nothing is deployed", must(s.DeviceGroup(ctx, a, one))(t).Deployment == nil, true)
	d1, d2 := add(a, one, 31, 1), add(a, one, 30, 2)
	other, foreign := add(a, two, 32, 1), add(b, one, 31, 1) // the same id in another tenant
	_, err := s.AddDeployment(ctx, deployment(a, two, 31), 3)
	wantKind(t, "an id that is taken", err, fault.AlreadyExists)
	_, err = s.AddDeployment(ctx, deployment(a, sphereGUID(22), 39), 3)
	wantKind(t, "to a missing group", err, fault.NotFound)
	_, err = s.AddDeployment(ctx, deployment(sphereGUID(9), one, 39), 3)
	wantKind(t, "in a missing tenant", err, fault.NotFound)

	same(t, "one", must(s.Deployment(ctx, a, one, d1.ID))(t), d1)
	same(t, "of that id in another tenant", must(s.Deployment(ctx, b, one, d1.ID))(t), foreign)
	_, err = s.Deployment(ctx, b, one, d2.ID)
	wantKind(t, "through another tenant", err, fault.NotFound)
	_, err = s.Deployment(ctx, a, two, d1.ID)
	wantKind(t, "through another group", err, fault.NotFound)
	want := sphereGroup(a, product, one, "one")
	want.Deployment = &d2
	same(t, "in force", must(s.DeviceGroup(ctx, a, one))(t), want)
	want2 := sphereGroup(a, product, two, "two")
	want2.Deployment = &other
	same(t, "in force, listed", must(s.DeviceGroups(ctx, a, "", "", 9))(t), []sphere.DeviceGroup{want, want2})
	same(t, "a change sees it", must(s.PutDeviceGroups(ctx, a, product, func(all []sphere.DeviceGroup) ([]sphere.DeviceGroup, error) {
		same(t, "seen", all, []sphere.DeviceGroup{want, want2})
		all[0].Description, all[0].Deployment = "new", nil
		return all[:1], nil
	}))(t)[0].Description, "new")
	want.Description = "new"
	same(t, "a change leaves it", must(s.DeviceGroup(ctx, a, one))(t), want)

	same(t, "all", must(s.Deployments(ctx, a, "", "", 9))(t), []sphere.Deployment{d2, d1, other})
	same(t, "of a group", must(s.Deployments(ctx, a, one, "", 9))(t), []sphere.Deployment{d2, d1})
	same(t, "of a group, after the first", must(s.Deployments(ctx, a, one, sphere.DeploymentKey(d2), 9))(t), []sphere.Deployment{d1})
	same(t, "of a group, after an earlier one", must(s.Deployments(ctx, a, two, sphere.DeploymentKey(d2), 9))(t), []sphere.Deployment{other})
	same(t, "of a group, after a later one", len(must(s.Deployments(ctx, a, one, sphere.DeploymentKey(other), 9))(t)), 0)
	var walked []sphere.Deployment
	for after := ""; ; after = sphere.DeploymentKey(walked[len(walked)-1]) {
		page := must(s.Deployments(ctx, a, "", after, 1))(t)
		if len(page) == 0 {
			break
		}
		walked = append(walked, page...)
	}
	same(t, "by pages", walked, []sphere.Deployment{d2, d1, other})
	same(t, "of the other tenant", must(s.Deployments(ctx, b, "", "", 9))(t), []sphere.Deployment{foreign})

	d3, d4 := add(a, one, 33, 3), add(a, one, 34, 4) // one more than is kept
	same(t, "kept", must(s.Deployments(ctx, a, one, "", 9))(t), []sphere.Deployment{d4, d3, d2})
	parallel(t, 8, func(i int) error {
		_, err := s.AddDeployment(ctx, deployment(b, two, 40+i), 100)
		return err
	})
	numbers := map[int64]bool{}
	for _, d := range must(s.Deployments(ctx, b, two, "", 20))(t) {
		numbers[d.Number] = true
	}
	same(t, "numbers after a race", len(numbers) == 8 && numbers[1] && numbers[8], true)

	ok(t, s.DeleteDeviceGroup(ctx, a, one, func(sphere.DeviceGroup) error { return nil }))
	same(t, "left", must(s.Deployments(ctx, a, "", "", 9))(t), []sphere.Deployment{other})
	ok(t, s.DeleteProduct(ctx, a, product, func(sphere.Product) error { return nil }))
	same(t, "left", len(must(s.Deployments(ctx, a, "", "", 9))(t)), 0)
}

func sphereCAs(t *testing.T, open Open) {
	s, ctx := open(t), t.Context()
	a, b := sphereTenant(t, s, 1), sphereTenant(t, s, 2)
	first, second := sphereCA(a, "AA1"), sphereCA(a, "B0")
	second.Created = kept(Start.Add(time.Second))
	wantNo(t, "change", s.ChangeTenantCAs(ctx, a, func(all []sphere.StoredCA) ([]sphere.StoredCA, error) {
		same(t, "seen", all, []sphere.StoredCA{first})
		return []sphere.StoredCA{second}, errNo
	}))
	first.Revoked, first.ActiveFrom = kept(Start.Add(time.Minute)), kept(Start.Add(time.Second))
	ok(t, s.ChangeTenantCAs(ctx, a, func([]sphere.StoredCA) ([]sphere.StoredCA, error) { return []sphere.StoredCA{second, first}, nil }))
	same(t, "CAs", must(s.TenantCAs(ctx, a))(t), []sphere.StoredCA{first, second})
	same(t, "of the other tenant", must(s.TenantCAs(ctx, b))(t), []sphere.StoredCA{sphereCA(b, "AA2")})
	wantKind(t, "of a missing tenant", s.ChangeTenantCAs(ctx, sphereGUID(9), func([]sphere.StoredCA) ([]sphere.StoredCA, error) { return nil, nil }), fault.NotFound)

	parallel(t, 8, func(i int) error { // one of many makes a successor
		return s.ChangeTenantCAs(ctx, b, func(all []sphere.StoredCA) ([]sphere.StoredCA, error) {
			if len(all) > 1 {
				return nil, nil
			}
			return []sphere.StoredCA{sphereCA(b, fmt.Sprintf("C%d", i))}, nil
		})
	})
	same(t, "after a race", len(must(s.TenantCAs(ctx, b))(t)), 2)
}

func sphereEvents(t *testing.T, open Open) {
	s, ctx := open(t), t.Context()
	a, b := sphereTenant(t, s, 1), sphereTenant(t, s, 2)
	one, two, foreign := sphereDevice(a, 1), sphereDevice(a, 2), sphereDevice(b, 3)
	for _, d := range []sphere.Device{one, two, foreign} {
		putSphereDevice(t, s, d)
	}
	noon := time.Date(2026, 3, 10, 12, 0, 0, 0, time.UTC)
	event := func(d sphere.Device, description string, count int64, start, end time.Duration) report.Event {
		return report.Event{Device: d.ID, Type: "AppCrash", Class: "c", Category: "old", Description: description, Count: count, Start: noon.Add(start), End: noon.Add(end)}
	}
	long := noon.Add(-1000 * time.Hour)
	add := func(d sphere.Device, es ...report.Event) {
		t.Helper()
		ok(t, s.AppendDeviceEvents(ctx, d.Tenant, d.ID, es, long, 100))
	}
	add(one, event(one, "x", 2, -time.Hour, 0), event(one, "x", 3, -2*time.Hour, -time.Hour))
	newer := event(one, "x", 5, 20*time.Hour, 24*time.Hour) // the next day
	newer.Category = "new"
	add(one, newer, event(one, "☂", 1, 0, time.Minute))
	add(two, event(two, "x", 1, 0, 2*time.Minute))
	add(foreign, event(foreign, "x", 1, 0, 3*time.Minute))
	wantKind(t, "through another tenant", s.AppendDeviceEvents(ctx, b, one.ID, []report.Event{newer}, long, 100), fault.NotFound)

	whole := event(one, "x", 10, -2*time.Hour, 24*time.Hour)
	whole.Category = "new"
	want := []report.Event{whole, event(two, "x", 1, 0, 2*time.Minute), event(one, "☂", 1, 0, time.Minute)}
	same(t, "all", must(s.DeviceEvents(ctx, a, "", long, 10))(t), want)
	same(t, "the latest", must(s.DeviceEvents(ctx, a, "", long, 2))(t), want[:2])
	same(t, "of the other tenant", len(must(s.DeviceEvents(ctx, b, "", long, 10))(t)), 1)
	recent := must(s.DeviceEvents(ctx, a, "", noon.Add(time.Hour), 10))(t)
	same(t, "since then", recent, []report.Event{newer})

	product, group := sphereGUID(10), sphereGUID(20)
	must(s.PutProduct(ctx, a, product, func(*sphere.Product) (sphere.Product, error) { return sphereProduct(a, product, "p"), nil }))(t)
	must(s.PutDeviceGroups(ctx, a, product, func([]sphere.DeviceGroup) ([]sphere.DeviceGroup, error) {
		return []sphere.DeviceGroup{sphereGroup(a, product, group, "g")}, nil
	}))(t)
	ok(t, s.AssignDevices(ctx, a, []string{two.ID}, group, func(d sphere.Device) (sphere.Device, error) { return d, nil }))
	same(t, "of a group", must(s.DeviceEvents(ctx, a, group, long, 10))(t), want[1:2])
	same(t, "of a group through another tenant", len(must(s.DeviceEvents(ctx, b, group, long, 10))(t)), 0)

	// What is too old, and the oldest of too many, goes.
	ok(t, s.AppendDeviceEvents(ctx, a, one.ID, []report.Event{event(one, "y", 1, 25*time.Hour, 25*time.Hour)}, noon.Add(time.Second), 2))
	got := must(s.DeviceEvents(ctx, a, "", long, 10))(t)
	same(t, "kept", got, []report.Event{event(one, "y", 1, 25*time.Hour, 25*time.Hour), newer, want[1]})
	parallel(t, 8, func(int) error {
		return s.AppendDeviceEvents(ctx, b, foreign.ID, []report.Event{event(foreign, "race", 1, 0, 0), event(foreign, strings.Repeat("z", 1000), 1, 0, 0)}, long, 100)
	})
	for _, e := range must(s.DeviceEvents(context.WithoutCancel(ctx), b, "", long, 10))(t) {
		if e.Description == "race" && e.Count != 8 {
			t.Errorf("%d of 8 are there", e.Count)
		}
	}
}
