package sphere_test

import (
	"crypto/x509"
	"encoding/hex"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/vauban-iot/vauban/fault"
	"github.com/vauban-iot/vauban/internal/conform"
	"github.com/vauban-iot/vauban/iot"
	"github.com/vauban-iot/vauban/sphere"
	"github.com/vauban-iot/vauban/wire/capability"
)

// The five default groups with the feeds and policies of sphere §4.3, and dumps off.
func TestGenerateDefaultGroups(t *testing.T) {
	t.Parallel()
	conform.Covers(t, "SPH-16")
	w, ctx := newWorld(t), t.Context()
	tenant := w.tenant(ann)
	product := must(w.CreateProduct(ctx, ann, tenant, "Lamp", "lights"))(t)
	// One of the names is taken, in other letters and with another policy.
	own := must(w.CreateDeviceGroup(ctx, ann, tenant, product.ID, sphere.GroupChange{Name: ptr("PRODUCTION"), UpdatePolicy: ptr(sphere.No3rdPartyAppUpdates)}))(t)
	five := must(w.GenerateDefaultGroups(ctx, ann, tenant, product.ID))(t)
	want := []struct {
		name   string
		feed   sphere.OSFeed
		policy sphere.UpdatePolicy
	}{
		{"Development", "Retail", "No3rdPartyAppUpdates"},
		{"Field Test", "Retail", "UpdateAll"},
		{"PRODUCTION", "Retail", "No3rdPartyAppUpdates"},
		{"Field Test OS Evaluation", "RetailEval", "UpdateAll"},
		{"Production OS Evaluation", "RetailEval", "UpdateAll"},
	}
	if len(five) != len(want) {
		t.Fatalf("got %v", five)
	}
	for i, g := range five {
		kept := must(w.DeviceGroup(ctx, ann, tenant, g.ID))(t)
		if kept.Name != want[i].name || kept.OSFeed != want[i].feed || kept.UpdatePolicy != want[i].policy || kept.AllowCrashDumps || kept.RegionalBoundary != "None" || kept.Product != product.ID {
			t.Errorf("number %d is %+v, want %v", i, kept, want[i])
		}
	}
	if five[2].ID != own.ID {
		t.Error("the group that stood was replaced")
	}
	again := must(w.GenerateDefaultGroups(ctx, ann, tenant, product.ID))(t)
	for i := range again {
		if again[i].ID != five[i].ID {
			t.Errorf("%s was made twice", again[i].Name)
		}
	}
	other := must(w.CreateProduct(ctx, ann, tenant, "Oven", ""))(t)
	if fresh := must(w.GenerateDefaultGroups(ctx, ann, tenant, other.ID))(t); fresh[2].Name != "Production" || fresh[2].UpdatePolicy != sphere.UpdateAll {
		t.Errorf("got %+v", fresh[2])
	}
	if all := must(w.DeviceGroups(ctx, ann, tenant, "", sphere.Page{}))(t); len(all.Items) != 10 {
		t.Errorf("%d groups", len(all.Items))
	}
	g := must(w.DeviceGroupByName(ctx, ann, tenant, product.ID, "field test"))(t)
	if g.ID != five[1].ID {
		t.Errorf("got %+v", g)
	}
	if p := must(w.ProductByName(ctx, ann, tenant, "LAMP"))(t); p.ID != product.ID {
		t.Errorf("got %+v", p)
	}
	for _, name := range []string{"", "Lam", "Lamp ", "Lampe", "zzz", "0"} {
		_, err := w.ProductByName(ctx, ann, tenant, name)
		wantKind(t, "product "+name, err, fault.NotFound)
		_, err = w.DeviceGroupByName(ctx, ann, tenant, product.ID, name)
		wantKind(t, "group "+name, err, fault.NotFound)
	}
}

func TestNames(t *testing.T) {
	t.Parallel()
	w, ctx := newWorld(t), t.Context()
	tenant := w.tenant(ann)
	for _, name := range []string{"", " a", "a ", "a-b", ".default", ".unassigned", "a\tb", "é", strings.Repeat("x", 51), "\u212a"} {
		_, err := w.CreateProduct(ctx, ann, tenant, name, "")
		wantKind(t, fmt.Sprintf("%q", name), err, fault.Invalid)
	}
	for _, name := range []string{"a", "A 1", strings.Repeat("x", 50)} {
		must(w.CreateProduct(ctx, ann, tenant, name, ""))(t)
	}
	_, err := w.CreateProduct(ctx, ann, tenant, "a 1", "")
	wantKind(t, "a name in other case", err, fault.AlreadyExists)
	_, err = w.CreateProduct(ctx, ann, tenant, "b", strings.Repeat("x", 101))
	wantKind(t, "a long description", err, fault.Invalid)
	product := must(w.ProductByName(ctx, ann, tenant, "a"))(t)
	for what, c := range map[string]sphere.GroupChange{
		"no name":    {},
		"bad name":   {Name: ptr("/")},
		"bad feed":   {Name: ptr("g"), OSFeed: ptr(sphere.OSFeed("retail"))},
		"bad policy": {Name: ptr("g"), UpdatePolicy: ptr(sphere.UpdatePolicy("NoUpdates"))},
		"bad region": {Name: ptr("g"), RegionalBoundary: ptr("Mars")},
	} {
		_, err := w.CreateDeviceGroup(ctx, ann, tenant, product.ID, c)
		wantKind(t, what, err, fault.Invalid)
	}
}

// Two people who change one thing do not undo each other's work.
func TestETags(t *testing.T) {
	t.Parallel()
	w, ctx := newWorld(t), t.Context()
	tenant := w.tenant(ann)
	p := must(w.CreateProduct(ctx, ann, tenant, "Lamp", "old"))(t)
	g := must(w.CreateDeviceGroup(ctx, ann, tenant, p.ID, sphere.GroupChange{Name: ptr("One")}))(t)
	d, _ := w.claimed(ann, tenant, g.ID)
	tn := must(w.Tenant(ctx, ann, tenant))(t)
	for what, change := range map[string]func(m *iot.Match) (iot.ETag, error){
		"tenant": func(m *iot.Match) (iot.ETag, error) {
			v, err := w.UpdateTenant(ctx, ann, tenant, "New", m)
			return v.ETag, err
		},
		"product": func(m *iot.Match) (iot.ETag, error) {
			v, err := w.UpdateProduct(ctx, ann, tenant, p.ID, sphere.ProductChange{Name: ptr("Lamp 2")}, m)
			return v.ETag, err
		},
		"group": func(m *iot.Match) (iot.ETag, error) {
			v, err := w.UpdateDeviceGroup(ctx, ann, tenant, g.ID, sphere.GroupChange{Name: ptr("Two"), OSFeed: ptr(sphere.RetailEval)}, m)
			return v.ETag, err
		},
		"device": func(m *iot.Match) (iot.ETag, error) {
			v, err := w.SetDeviceEnabled(ctx, ann, tenant, d.ID, true, m)
			return v.ETag, err
		},
	} {
		old := map[string]iot.ETag{"tenant": tn.ETag, "product": p.ETag, "group": g.ETag, "device": must(w.Service.Device(ctx, ann, tenant, d.ID))(t).ETag}[what]
		_, err := change(iot.ParseMatch(`"other"`))
		wantKind(t, what+" with another tag", err, fault.PreconditionFailed)
		next, err := change(iot.ParseMatch(`"` + string(old) + `"`))
		ok(t, err)
		if next == old {
			t.Errorf("%s keeps its tag", what)
		}
		_, err = change(iot.ParseMatch(`"` + string(old) + `"`))
		wantKind(t, what+" with the old tag", err, fault.PreconditionFailed)
		_, err = change(nil)
		ok(t, err)
	}
	stale := iot.ParseMatch(`"` + string(p.ETag) + `"`)
	wantKind(t, "delete with an old tag", w.DeleteProduct(ctx, ann, tenant, p.ID, stale), fault.PreconditionFailed)
	wantKind(t, "delete with an old tag", w.DeleteDeviceGroup(ctx, ann, tenant, g.ID, stale), fault.PreconditionFailed)
	wantKind(t, "assign with an old tag", w.AssignDevices(ctx, ann, tenant, []string{d.ID}, "", stale), fault.PreconditionFailed)
	wantKind(t, "delete with devices", w.DeleteProduct(ctx, ann, tenant, p.ID, nil), fault.AlreadyExists)
	wantKind(t, "delete with devices", w.DeleteDeviceGroup(ctx, ann, tenant, g.ID, nil), fault.AlreadyExists)
	ok(t, w.AssignDevices(ctx, ann, tenant, []string{d.ID}, sphere.PseudoUnassigned, nil))
	ok(t, w.DeleteProduct(ctx, ann, tenant, p.ID, nil))
	_, err := w.DeviceGroup(ctx, ann, tenant, g.ID)
	wantKind(t, "a group of a deleted product", err, fault.NotFound)
}

// Lists come in pages whose tokens say where to go on, also when the list changes meanwhile.
func TestPages(t *testing.T) {
	t.Parallel()
	w, ctx := newWorld(t), t.Context()
	tenant := w.tenant(ann)
	product := must(w.CreateProduct(ctx, ann, tenant, "Lamp", ""))(t)
	group := must(w.CreateDeviceGroup(ctx, ann, tenant, product.ID, sphere.GroupChange{Name: ptr("One")}))(t)
	in := map[string]bool{}
	for i := range 7 {
		id := ""
		if i%2 == 0 {
			id = group.ID
		}
		d, _ := w.claimed(ann, tenant, id)
		in[d.ID] = id != ""
	}
	for what, f := range map[string]sphere.DeviceFilter{"all": {}, "in": {Group: strings.ToUpper(group.ID)}, "of": {Product: product.ID}, "none": {Unassigned: true}} {
		seen := map[string]bool{}
		p := sphere.Page{Limit: 2}
		for {
			l := must(w.Devices(ctx, ann, tenant, f, p))(t)
			if len(l.Items) > 2 || len(l.Items) == 0 {
				t.Fatalf("%s: a page of %d", what, len(l.Items))
			}
			for _, d := range l.Items {
				if seen[d.ID] {
					t.Errorf("%s: %s is there twice", what, d.ID)
				}
				seen[d.ID] = true
			}
			if p.Token = l.NextToken; p.Token == "" {
				break
			}
		}
		want := map[string]int{"all": 7, "in": 4, "of": 4, "none": 3}[what]
		if n := must(w.CountDevices(ctx, ann, tenant, f))(t); len(seen) != want || n != int64(want) {
			t.Errorf("%s: %d devices, counted %d, want %d", what, len(seen), n, want)
		}
	}
	for _, p := range []sphere.Page{{Limit: -1}, {Limit: 1001}, {Token: "x"}, {Token: "MTo"}, {Token: "MTph/w"}, {Token: strings.Repeat("A", 2000)}} {
		_, err := w.Devices(ctx, ann, tenant, sphere.DeviceFilter{}, p)
		wantKind(t, fmt.Sprint(p), err, fault.Invalid)
	}
}

func FuzzPageToken(f *testing.F) {
	f.Add("MTph")
	f.Add("")
	f.Fuzz(func(t *testing.T, token string) { sphere.CheckToken(token) })
}

// What was granted shows in the inventory until it ends.
func TestCapabilities(t *testing.T) {
	t.Parallel()
	w, ctx := newWorld(t), t.Context()
	tenant := w.tenant(ann)
	d, _ := w.claimed(ann, tenant, "")
	grant := func(expires time.Time, kinds ...string) error {
		k, data, err := w.GrantCapability(ctx, ann, tenant, d.ID, kinds, expires)
		if err != nil {
			return err
		}
		file := must(capability.Parse(data))(t)
		var raw [64]byte
		must(hex.Decode(raw[:], []byte(d.ID)))(t)
		ok(t, file.Verify(capability.Check{DeviceID: raw, Now: w.clock(), Signers: []*x509.Certificate{w.CapabilitySigner()}}))
		if !file.Expires.Equal(k.Expires) || len(file.Capabilities) != len(kinds) || hex.EncodeToString(file.ImageID[:]) != strings.ReplaceAll(k.ID, "-", "") || file.Has(capability.AppDevelopment) != slices.Contains(kinds, "appDevelopment") {
			t.Errorf("the file is %+v, the record %+v", file, k)
		}
		return nil
	}
	for _, kinds := range [][]string{nil, {"root"}, {"appDevelopment", "appDevelopment"}, {"appDevelopment", "fieldServicing", "appDevelopment"}} {
		wantKind(t, fmt.Sprint(kinds), grant(time.Time{}, kinds...), fault.Invalid)
	}
	wantKind(t, "in the past", grant(start, "appDevelopment"), fault.Invalid)
	wantKind(t, "in a hundred years", grant(start.AddDate(100, 0, 0), "appDevelopment"), fault.Invalid)
	ok(t, grant(start.Add(time.Hour), "appDevelopment", "fieldServicing"))
	w.sleep(time.Second)
	ok(t, grant(time.Time{}, "fieldServicing"))
	got := must(w.Service.Device(ctx, ann, tenant, d.ID))(t).Capabilities
	if len(got) != 2 || !got[0].Expires.Equal(start.Add(time.Hour)) || len(got[0].Kinds) != 2 || got[0].By != ann.Subject || got[0].ID == "" || !got[1].Expires.Equal(w.clock().Add(365*day)) {
		t.Errorf("got %+v", got)
	}
	if !must(w.device.Policy(ctx, d.ID))(t).Development {
		t.Error("the policy does not allow development")
	}
	w.sleep(time.Hour)
	if got := must(w.Service.Device(ctx, ann, tenant, d.ID))(t).Capabilities; len(got) != 1 {
		t.Errorf("got %+v", got)
	}
	if must(w.device.Policy(ctx, d.ID))(t).Development {
		t.Error("the policy allows development for ever")
	}
}
