package sphere_test

import (
	"bytes"
	"errors"
	"reflect"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/vauban-iot/vauban/fault"
	"github.com/vauban-iot/vauban/internal/conform"
	"github.com/vauban-iot/vauban/sphere"
	"github.com/vauban-iot/vauban/sphere/claim"
	"github.com/vauban-iot/vauban/sphere/report"
)

// Claiming wants a proof, is idempotent for the owner, refuses all others, and has no way back.
func TestClaim(t *testing.T) {
	t.Parallel()
	conform.Covers(t, "SPH-15")
	w, ctx := newWorld(t), t.Context()
	mine, theirs := w.tenant(ann), w.tenant(bob)
	k := newKey(t)

	p := w.proof(ann, mine, k)
	for what, c := range map[string]struct {
		change func(*sphere.Proof)
		kind   fault.Kind
	}{
		"no signature":               {func(p *sphere.Proof) { p.Signature = nil }, fault.Unauthorized},
		"a changed signature":        {func(p *sphere.Proof) { p.Signature = append(bytes.Clone(p.Signature), 0) }, fault.Unauthorized},
		"another device's signature": {func(p *sphere.Proof) { p.Signature = must(claim.Sign(newKey(t), p.Challenge))(t) }, fault.Unauthorized},
		"another device's key":       {func(p *sphere.Proof) { p.PublicKey = newKey(t).der }, fault.Unauthorized},
		"a voucher for a signature":  {func(p *sphere.Proof) { p.Signature = must(claim.SignVoucher(k, mine))(t) }, fault.Unauthorized},
		"no key":                     {func(p *sphere.Proof) { p.PublicKey = nil }, fault.Invalid},
		"no challenge":               {func(p *sphere.Proof) { p.Challenge = "" }, fault.Invalid},
		"a challenge of its own":     {func(p *sphere.Proof) { *p = selfMade(t, k, p.Challenge) }, fault.Invalid},
		"a strange state":            {func(p *sphere.Proof) { p.State = "Broken" }, fault.Invalid},
		"a strange endorsement key":  {func(p *sphere.Proof) { p.EndorsementKey = "abc" }, fault.Invalid},
		"an SKU with a line break":   {func(p *sphere.Proof) { p.ChipSKU = "a\nb" }, fault.Invalid},
	} {
		bad := p
		c.change(&bad)
		_, _, err := w.Claim(ctx, ann, mine, bad, "")
		wantKind(t, what, err, c.kind)
	}
	_, _, err := w.Claim(ctx, bob, theirs, p, "")
	wantKind(t, "a challenge of another tenant", err, fault.Invalid)
	_, _, err = w.Claim(ctx, ann, mine, p, "00000000-0000-4000-8000-000000000000")
	wantKind(t, "a group that is not there", err, fault.NotFound)
	if n := must(w.CountDevices(ctx, ann, mine, sphere.DeviceFilter{}))(t); n != 0 {
		t.Fatalf("%d devices were claimed without proof", n)
	}

	d, fresh, err := w.Claim(ctx, ann, mine, p, "") // none of the failed tries used the challenge up
	ok(t, err)
	if !fresh || d.ID != k.id || d.Tenant != mine || !d.Enabled || d.ClaimedHow != sphere.ByProof || d.ClaimedBy != ann.Subject || !d.Claimed.Equal(start) ||
		d.State != sphere.StateUnknown || d.Group != "" || d.ChipSKU != "MT3620AN" || !bytes.Equal(d.PublicKey, k.der) {
		t.Errorf("got %+v", d)
	}
	_, _, err = w.Claim(ctx, ann, mine, p, "")
	wantKind(t, "a challenge for the second time", err, fault.Invalid)
	other := newKey(t)
	p.PublicKey, p.Signature = other.der, must(claim.Sign(other, p.Challenge))(t)
	_, _, err = w.Claim(ctx, ann, mine, p, "")
	wantKind(t, "a used challenge for another device", err, fault.Invalid)

	late := w.proof(ann, mine, other)
	w.sleep(claim.Life)
	_, _, err = w.Claim(ctx, ann, mine, late, "")
	wantKind(t, "an old challenge", err, fault.Invalid)

	again, fresh, err := w.Claim(ctx, ann, mine, w.proof(ann, mine, k), "")
	ok(t, err)
	if fresh || !reflect.DeepEqual(again, d) {
		t.Errorf("a second claim of the owner changed %+v to %+v", d, again)
	}
	_, _, err = w.Claim(ctx, bob, theirs, w.proof(bob, theirs, k), "")
	wantKind(t, "a claim of another", err, fault.AlreadyExists)
	if strings.Contains(fault.Public(err), mine) || strings.Contains(fault.Public(err), ann.Subject) {
		t.Errorf("the refusal tells whose it is: %v", err)
	}
	if still := must(w.Service.Device(ctx, ann, mine, strings.ToUpper(k.id)))(t); !reflect.DeepEqual(still, d) {
		t.Errorf("now it is %+v", still)
	}
	if records := w.audited("Claim"); len(records) < 3 || records[len(records)-1]["outcome"] != "refused" {
		t.Errorf("the audit has %v", records)
	}
	for m := range reflect.TypeFor[*sphere.Service]().Methods() {
		if name := strings.ToLower(m.Name); strings.Contains(name, "unclaim") || strings.Contains(name, "deletedevice") && name != "deletedevicegroup" || strings.Contains(name, "transfer") {
			t.Errorf("%s looks like a way to lose a device", m.Name)
		}
	}
}

// selfMade is a challenge with one bit changed, signed well.
func selfMade(t *testing.T, k deviceKey, challenge string) sphere.Proof {
	b := []byte(challenge)
	b[3] ^= 1
	return sphere.Proof{Challenge: string(b), PublicKey: k.der, Signature: must(claim.Sign(k, string(b)))(t)}
}

// Of two tenants that claim one device at once, on two servers, one gets it.
func TestClaim_Race(t *testing.T) {
	t.Parallel()
	w, ctx := newWorld(t), t.Context()
	mine, theirs := w.tenant(ann), w.tenant(bob)
	second := w.another()
	for range 10 {
		k := newKey(t)
		p1, p2 := w.proof(ann, mine, k), w.proof(bob, theirs, k)
		var e1, e2 error
		var wg sync.WaitGroup
		wg.Go(func() { _, _, e1 = w.Claim(ctx, ann, mine, p1, "") })
		wg.Go(func() { _, _, e2 = second.Claim(ctx, bob, theirs, p2, "") })
		wg.Wait()
		if (e1 == nil) == (e2 == nil) || !fault.Is(errors.Join(e1, e2), fault.AlreadyExists) {
			t.Fatalf("got %v and %v", e1, e2)
		}
	}
}

// Knowing a device's id, or even its key, does not get it.
func TestClaimKnown(t *testing.T) {
	t.Parallel()
	w, ctx := newWorld(t), t.Context()
	mine, theirs := w.tenant(ann), w.tenant(bob)
	upload := func(c sphere.Caller, tenant string, r sphere.ManufactureRecord) error {
		t.Helper()
		return errors.Join(must(w.UploadManufactureRecords(ctx, c, tenant, []sphere.ManufactureRecord{r}))(t)...)
	}
	known := func(c sphere.Caller, tenant string, k deviceKey) sphere.Outcome {
		t.Helper()
		return must(w.ClaimKnown(ctx, c, tenant, []string{strings.ToUpper(k.id)}, ""))(t)[0]
	}
	plain, vouched, reserved, unknown := newKey(t), newKey(t), newKey(t), newKey(t)
	ok(t, upload(ann, mine, sphere.ManufactureRecord{PublicKey: plain.der, ChipSKU: "SKU"}))
	ok(t, upload(ann, mine, sphere.ManufactureRecord{PublicKey: vouched.der, Device: strings.ToUpper(vouched.id), Voucher: must(claim.SignVoucher(vouched, strings.ToUpper(mine)))(t)}))
	ok(t, upload(root, mine, sphere.ManufactureRecord{PublicKey: reserved.der, ChipSKU: "SKU"}))

	for what, c := range map[string]struct {
		r    sphere.ManufactureRecord
		kind fault.Kind
	}{
		"another id":                 {sphere.ManufactureRecord{PublicKey: plain.der, Device: reserved.id}, fault.Invalid},
		"no key":                     {sphere.ManufactureRecord{Device: plain.id}, fault.Invalid},
		"a voucher for another":      {sphere.ManufactureRecord{PublicKey: unknown.der, Voucher: must(claim.SignVoucher(unknown, mine))(t)}, fault.Unauthorized},
		"another device's voucher":   {sphere.ManufactureRecord{PublicKey: unknown.der, Voucher: must(claim.SignVoucher(plain, theirs))(t)}, fault.Unauthorized},
		"a challenge for a voucher":  {sphere.ManufactureRecord{PublicKey: unknown.der, Voucher: must(claim.Sign(unknown, theirs))(t)}, fault.Unauthorized},
		"the bytes of another thing": {sphere.ManufactureRecord{PublicKey: []byte("key")}, fault.Invalid},
	} {
		wantKind(t, what, upload(bob, theirs, c.r), c.kind)
	}
	twice := must(w.UploadManufactureRecords(ctx, bob, theirs, []sphere.ManufactureRecord{{PublicKey: unknown.der}, {PublicKey: unknown.der}}))(t)
	if twice[0] != nil || !fault.Is(twice[1], fault.Invalid) {
		t.Errorf("one device twice: %v", twice)
	}

	// The thief knows all keys, says so, and gets none: nor does he learn which are known or claimed elsewhere.
	said := map[string]bool{}
	for _, k := range []deviceKey{plain, vouched, reserved, unknown} {
		ok(t, upload(bob, theirs, sphere.ManufactureRecord{PublicKey: k.der}))
		o := known(bob, theirs, k)
		wantKind(t, "a claim by id", o.Err, fault.NotFound)
		said[strings.ReplaceAll(fault.Public(o.Err), k.id, "")] = true
	}
	if len(said) != 1 {
		t.Errorf("he is told %v", said)
	}
	// A reserved device does not even go to who holds it.
	_, _, err := w.Claim(ctx, bob, theirs, w.proof(bob, theirs, reserved), "")
	wantKind(t, "a reserved device in the wrong hands", err, fault.AlreadyExists)
	wantKind(t, "a second reservation", upload(root, theirs, sphere.ManufactureRecord{PublicKey: reserved.der}), fault.AlreadyExists)
	wantKind(t, "a change of a reserved record", upload(ann, mine, sphere.ManufactureRecord{PublicKey: reserved.der}), fault.Forbidden)

	if d := must(w.device.Known(ctx, plain.id))(t); d.Tenant != "" || !bytes.Equal(d.PublicKey, plain.der) || !d.Enabled {
		t.Errorf("before it is claimed: %+v", d)
	}
	wantKind(t, "one's own without voucher", known(ann, mine, plain).Err, fault.NotFound)
	for k, how := range map[*deviceKey]string{&vouched: sphere.ByVoucher, &reserved: sphere.ByReservation} {
		o := known(ann, mine, *k)
		d := must(w.Service.Device(ctx, ann, mine, k.id))(t)
		if o.Err != nil || !o.Claimed || d.ClaimedHow != how {
			t.Errorf("%s: %+v, %+v", how, o, d)
		}
		if o := known(ann, mine, *k); o.Err != nil || o.Claimed {
			t.Errorf("%s again: %+v", how, o)
		}
	}
	if n := len(w.audited("ClaimKnown")); n != 4 {
		t.Errorf("%d records of claims, want 4", n)
	}
	d, _, err := w.Claim(ctx, ann, mine, w.proof(ann, mine, plain), "")
	if ok(t, err); d.ChipSKU != "SKU" {
		t.Errorf("the manufacture record does not count: %+v", d)
	}
	// It is the tenant's now, so to name it is no failure, with a record that proves nothing and without one.
	if o := known(ann, mine, plain); o.Err != nil || o.Claimed {
		t.Errorf("one's own, claimed by a proof: %+v", o)
	}
	bare, _ := w.claimed(ann, mine, "")
	if o := must(w.ClaimKnown(ctx, ann, mine, []string{bare.ID}, ""))(t)[0]; o.Err != nil || o.Claimed || o.Device != bare.ID {
		t.Errorf("one's own without a record: %+v", o)
	}
	wantKind(t, "it, by another", must(w.ClaimKnown(ctx, bob, theirs, []string{bare.ID}, ""))(t)[0].Err, fault.NotFound)
	wantKind(t, "a reservation of another's device", upload(root, theirs, sphere.ManufactureRecord{PublicKey: plain.der}), fault.AlreadyExists)
	for _, ids := range [][]string{nil, {"x"}, {strings.Repeat("g", 128)}, make([]string, 1001)} {
		if _, err := w.ClaimKnown(ctx, ann, mine, ids, ""); err == nil {
			t.Errorf("%d strange ids were taken", len(ids))
		}
	}
}

// A thousand devices are claimed at once, into a group.
func TestClaimKnown_Many(t *testing.T) {
	if testing.Short() {
		t.Skip("claims a thousand devices; run without -short")
	}
	t.Parallel()
	w, ctx := newWorld(t), t.Context()
	tenant := w.tenant(ann)
	product := must(w.CreateProduct(ctx, ann, tenant, "Lamp", ""))(t)
	group := must(w.GenerateDefaultGroups(ctx, ann, tenant, product.ID))(t)[1]
	var records []sphere.ManufactureRecord
	var ids []string
	for range 1000 {
		k := newKey(t)
		records, ids = append(records, sphere.ManufactureRecord{PublicKey: k.der}), append(ids, k.id)
	}
	ok(t, errors.Join(must(w.UploadManufactureRecords(ctx, root, tenant, records))(t)...))
	began := time.Now()
	for _, o := range must(w.ClaimKnown(ctx, ann, tenant, ids, group.ID))(t) {
		if o.Err != nil || !o.Claimed {
			t.Fatalf("got %+v", o)
		}
	}
	t.Logf("1000 claims in %v", time.Since(began))
	if n := must(w.CountDevices(ctx, ann, tenant, sphere.DeviceFilter{Group: group.ID}))(t); n != 1000 {
		t.Errorf("%d devices are in the group", n)
	}
}

// Manufacturing states go one way, whoever moves them.
func TestManufacturingState(t *testing.T) {
	t.Parallel()
	w, ctx := newWorld(t), t.Context()
	tenant := w.tenant(ann)
	d, _ := w.claimed(ann, tenant, "")
	set := func(s sphere.ManufacturingState) error {
		_, err := w.SetManufacturingState(ctx, ann, tenant, d.ID, s, nil)
		return err
	}
	state := func(want sphere.ManufacturingState) {
		t.Helper()
		if got := must(w.Service.Device(ctx, ann, tenant, d.ID))(t).State; got != want {
			t.Errorf("it is %s, want %s", got, want)
		}
	}
	state(sphere.StateUnknown)
	for _, s := range []sphere.ManufacturingState{sphere.StateBlank, sphere.StateUnknown, "", "deviceComplete"} {
		wantKind(t, string(s), set(s), fault.Invalid)
	}
	ok(t, w.device.RecordState(ctx, d.ID, sphere.StateBlank))
	state(sphere.StateBlank)
	ok(t, set(sphere.StateModule1Complete))
	wantKind(t, "the device says Blank again", w.device.RecordState(ctx, d.ID, sphere.StateBlank), fault.Invalid)
	ok(t, set(sphere.StateModule1Complete))
	ok(t, w.device.RecordState(ctx, d.ID, sphere.StateDeviceComplete))
	state(sphere.StateDeviceComplete)
	ok(t, w.device.RecordState(ctx, d.ID, sphere.StateDeviceComplete))
	wantKind(t, "back", set(sphere.StateModule1Complete), fault.AlreadyExists)
	wantKind(t, "back, by the device", w.device.RecordState(ctx, d.ID, sphere.StateModule1Complete), fault.AlreadyExists)
	state(sphere.StateDeviceComplete)

	e, _ := w.claimed(ann, tenant, "")
	must(w.SetManufacturingState(ctx, ann, tenant, e.ID, sphere.StateDeviceComplete, nil))(t) // the middle may be left out
}

// DeviceSide takes a device's id, and reaches nothing but that device.
func TestDeviceSide_OneDeviceOnly(t *testing.T) {
	t.Parallel()
	w, ctx := newWorld(t), t.Context()
	tenant := w.tenant(ann)
	stranger := newKey(t)
	calls := map[string]func(id string) error{
		"Device": func(id string) error { _, err := w.device.Device(ctx, id); return err },
		"Known":  func(id string) error { _, err := w.device.Known(ctx, id); return err },
		"IssueBetween": func(id string) error {
			_, err := w.device.IssueBetween(ctx, id, stranger.Public(), sphere.UpdateCertificate, start, start.Add(time.Hour))
			return err
		},
		"Policy": func(id string) error { _, err := w.device.Policy(ctx, id); return err },
		"Issue": func(id string) error {
			_, err := w.device.Issue(ctx, id, stranger.Public(), sphere.UpdateCertificate)
			return err
		},
		"Authenticate": func(id string) error { _, _, err := w.device.Authenticate(ctx, nil); return err },
		"RecordAttested": func(id string) error {
			_, err := w.device.RecordAttested(ctx, id, sphere.Attested{OSVersion: "1"})
			return err
		},
		"RecordState": func(id string) error { return w.device.RecordState(ctx, id, sphere.StateDeviceComplete) },
		"Report":      func(id string) error { return w.device.Report(ctx, id, []report.Event{{Type: "x", Start: start}}) },
	}
	a, _ := w.claimed(ann, tenant, "")
	b, _ := w.claimed(ann, tenant, "")
	for m := range reflect.TypeFor[sphere.DeviceSide]().Methods() {
		call := calls[m.Name]
		if call == nil {
			t.Errorf("%s is not in this test", m.Name)
			continue
		}
		if m.Name == "Authenticate" { // see TestAuthenticate
			continue
		}
		wantKind(t, m.Name+" of a device that is not claimed", call(stranger.id), fault.NotFound)
		wantKind(t, m.Name+" of no id", call("x"), fault.NotFound)
		ok(t, call(strings.ToUpper(a.ID)))
	}
	if now := must(w.Service.Device(ctx, ann, tenant, b.ID))(t); !reflect.DeepEqual(now, b) {
		t.Errorf("another device became %+v", now)
	}
	if es := must(w.ErrorReport(ctx, ann, tenant, ""))(t); len(es) != 1 || es[0].Device != a.ID {
		t.Errorf("got %v", es)
	}
}
