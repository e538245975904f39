package sphere_test

import (
	"bytes"
	"encoding/csv"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/vauban-iot/vauban/fault"
	"github.com/vauban-iot/vauban/sphere"
	"github.com/vauban-iot/vauban/sphere/report"
)

func TestPolicy(t *testing.T) {
	t.Parallel()
	w, ctx := newWorld(t), t.Context()
	mine, theirs := w.tenant(ann), w.tenant(bob)
	product := must(w.CreateProduct(ctx, ann, mine, "Lamp", ""))(t)
	five := must(w.GenerateDefaultGroups(ctx, ann, mine, product.ID))(t)
	d, _ := w.claimed(ann, mine, "")
	e, _ := w.claimed(bob, theirs, "")
	policy := func(d sphere.Device) sphere.Policy { t.Helper(); return must(w.device.Policy(ctx, d.ID))(t) }
	os := func(p sphere.Policy) string {
		var vs []string
		for _, r := range p.OS {
			vs = append(vs, r.Version)
		}
		return strings.Join(vs, " ")
	}
	if p := policy(d); len(p.OS) != 0 || p.Feed != sphere.Retail || p.Tenant != mine || p.Judge("1", nil).Trusted {
		t.Errorf("without releases: %+v", p)
	}
	_, err := w.PublishRelease(ctx, ann, "", release("26.1", sphere.Retail))
	wantKind(t, "a tenant's administrator publishes for all", err, fault.Forbidden)
	for _, v := range []string{"26.9", "26.10"} {
		must(w.PublishRelease(ctx, root, "", release(v, sphere.Retail)))(t)
	}
	must(w.PublishRelease(ctx, root, "", release("27.1", sphere.RetailEval)))(t)
	soon := release("26.11", sphere.Retail)
	soon.Released = w.clock().Add(time.Hour)
	must(w.PublishRelease(ctx, root, "", soon))(t)
	must(w.PublishRelease(ctx, ann, mine, release("26.10.1", sphere.Retail)))(t)
	app := sphere.Release{Kind: sphere.ReleaseApplication, Version: "1", Images: []sphere.Image{image(2, "1")}}
	must(w.PublishRelease(ctx, ann, mine, app))(t)
	if p := policy(d); os(p) != "26.10.1 26.10 26.9" || p.Latest != "26.10.1" || len(p.Applications) != 1 || p.Minimum != "" {
		t.Errorf("got %+v", p)
	}
	if p := policy(e); os(p) != "26.10 26.9" || len(p.Applications) != 0 {
		t.Errorf("the other tenant has %+v", p)
	}
	if rs := must(w.Releases(ctx, bob, ""))(t); len(rs) != 4 || rs[0].Version != "26.9" || rs[3].Version != "27.1" {
		t.Errorf("got %+v", rs)
	}
	must(w.PublishRelease(ctx, ann, mine, release("26.10.1", sphere.Retail)))(t) // the same again
	other := release("26.10.1", sphere.Retail)
	other.Images = []sphere.Image{image(1, "9")}
	_, err = w.PublishRelease(ctx, ann, mine, other)
	wantKind(t, "other images under one version", err, fault.AlreadyExists)
	w.sleep(time.Hour)
	if p := policy(d); p.Latest != "26.11" {
		t.Errorf("got %+v", p)
	}
	ok(t, w.AssignDevices(ctx, ann, mine, []string{d.ID}, five[3].ID, nil))
	if p := policy(d); p.Feed != sphere.RetailEval || os(p) != "27.1" {
		t.Errorf("in the evaluation group: %+v", p)
	}
	ok(t, w.AssignDevices(ctx, ann, mine, []string{d.ID}, "", nil))

	// The stricter minimum that has begun counts.
	must(w.SetMinimum(ctx, root, "", sphere.Retail, "26.9", time.Time{}))(t)
	must(w.SetMinimum(ctx, ann, mine, sphere.Retail, "26.5", time.Time{}))(t)
	if p := policy(d); p.Minimum != "26.9" {
		t.Errorf("got %+v", p)
	}
	must(w.SetMinimum(ctx, ann, mine, sphere.Retail, "26.10", w.clock().Add(time.Hour)))(t)
	if p := policy(d); p.Minimum != "26.9" {
		t.Errorf("an hour before: %+v", p)
	}
	w.sleep(time.Hour)
	if p := policy(d); p.Minimum != "26.10" || policy(e).Minimum != "26.9" {
		t.Errorf("got %+v", p)
	}
	for i := range 300 { // what is over makes room
		w.sleep(time.Second)
		must(w.SetMinimum(ctx, ann, mine, sphere.Retail, fmt.Sprintf("26.%d", i), time.Time{}))(t)
	}
	w.sleep(time.Second)
	must(w.SetMinimum(ctx, ann, mine, sphere.Retail, "", time.Time{}))(t)
	if p := policy(d); p.Minimum != "26.9" {
		t.Errorf("lifted: %+v", p)
	}
	ok(t, w.WithdrawRelease(ctx, ann, mine, sphere.ReleaseOS, sphere.Retail, "26.10.1"))
	ok(t, w.WithdrawRelease(ctx, ann, mine, sphere.ReleaseApplication, "", "1"))
	wantKind(t, "what is not there", w.WithdrawRelease(ctx, ann, mine, sphere.ReleaseOS, sphere.Retail, "1"), fault.NotFound)
	if p := policy(d); os(p) != "26.11 26.10 26.9" || len(p.Applications) != 0 {
		t.Errorf("withdrawn: %+v", p)
	}
	must(w.PublishRelease(ctx, ann, mine, app))(t)
	if p := policy(d); len(p.Applications) != 1 {
		t.Errorf("published again: %+v", p)
	}

	bad := func(change func(*sphere.Release)) error {
		r := release("1", sphere.Retail)
		change(&r)
		_, err := w.PublishRelease(ctx, ann, mine, r)
		return err
	}
	for what, change := range map[string]func(*sphere.Release){
		"no version":        func(r *sphere.Release) { r.Version = "" },
		"a word":            func(r *sphere.Release) { r.Version = "new" },
		"an empty number":   func(r *sphere.Release) { r.Version = "1..2" },
		"a huge number":     func(r *sphere.Release) { r.Version = "99999999999999999999" },
		"no feed":           func(r *sphere.Release) { r.Feed = "" },
		"another kind":      func(r *sphere.Release) { r.Kind = "firmware" },
		"a feed of apps":    func(r *sphere.Release) { r.Kind = sphere.ReleaseApplication },
		"no images":         func(r *sphere.Release) { r.Images = nil },
		"a bad hash":        func(r *sphere.Release) { r.Images[0].SHA256 = "ab" },
		"a bad component":   func(r *sphere.Release) { r.Images[0].Component = "ab" },
		"a component twice": func(r *sphere.Release) { r.Images = append(r.Images, image(1, "2")) },
	} {
		wantKind(t, what, bad(change), fault.Invalid)
	}
}

func TestJudge(t *testing.T) {
	t.Parallel()
	os := func(version string, images ...sphere.Image) sphere.Release {
		return sphere.Release{Kind: sphere.ReleaseOS, Version: version, Images: images}
	}
	kernel, root := image(1, "2"), image(2, "2")
	p := sphere.Policy{
		Minimum: "2", Applications: []sphere.Image{image(3, "1"), image(3, "2")},
		OS: []sphere.Release{os("3", image(1, "9")), os("3", image(1, "3")), os("2.0", kernel, root), os("1", image(1, "1"))},
	}
	upper := sphere.Image{Component: strings.ToUpper(kernel.Component), ID: strings.ToUpper(kernel.ID), SHA256: strings.ToUpper(kernel.SHA256)}
	for what, c := range map[string]struct {
		version          string
		measured         []sphere.Image
		trusted, current bool
	}{
		"the OS alone":                {"2.0", []sphere.Image{kernel, root}, true, true},
		"in capitals":                 {"2.0", []sphere.Image{root, upper}, true, true},
		"with an application":         {"2.0", []sphere.Image{kernel, root, image(3, "2")}, true, true},
		"an old OS":                   {"1", []sphere.Image{image(1, "1")}, true, false},
		"either of two sets":          {"3", []sphere.Image{image(1, "3")}, true, true},
		"another version's image":     {"2.0", []sphere.Image{image(1, "3"), root}, false, false},
		"a part of the OS":            {"2.0", []sphere.Image{kernel}, false, false},
		"nothing":                     {"2.0", nil, false, false},
		"an application of nobody":    {"2.0", []sphere.Image{kernel, root, image(3, "3")}, false, false},
		"a component that is extra":   {"2.0", []sphere.Image{kernel, root, image(4, "1")}, false, false},
		"two of one component":        {"2.0", []sphere.Image{kernel, root, image(3, "1"), image(3, "2")}, false, false},
		"a version of nobody":         {"4", []sphere.Image{kernel, root}, false, false},
		"an equal version, otherwise": {"2", []sphere.Image{kernel, root}, false, false},
	} {
		v := p.Judge(c.version, c.measured)
		if v.Trusted != c.trusted || v.Current != c.current || v.Current == (v.Reason != "") || v.Trusted == (v.OS == nil) {
			t.Errorf("%s: got %+v", what, v)
		}
	}
	p.Development = true
	if v := p.Judge("2.0", []sphere.Image{kernel, root, image(4, "1")}); !v.Current {
		t.Errorf("in development: %+v", v)
	}
	if v := p.Judge("2.0", []sphere.Image{kernel, image(4, "1")}); v.Trusted {
		t.Errorf("in development, with a broken OS: %+v", v)
	}
}

func TestCompareVersions(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		a, b string
		want int
	}{{"1", "1", 0}, {"22.9", "22.10", -1}, {"22.02", "22.2", 0}, {"1.0.0", "1", 0}, {"1.0.1", "1", 1}, {"", "", 0}, {"x", "0", 0}, {"2", "1.9.9", 1}} {
		if got := sphere.CompareVersions(c.a, c.b); got != c.want || sphere.CompareVersions(c.b, c.a) != -c.want {
			t.Errorf("%q and %q: %d, want %d", c.a, c.b, got, c.want)
		}
	}
}

func TestRecordAttested(t *testing.T) {
	t.Parallel()
	w, ctx := newWorld(t), t.Context()
	tenant := w.tenant(ann)
	d, _ := w.claimed(ann, tenant, "")
	must(w.PublishRelease(ctx, root, "", release("26.2", sphere.Retail)))(t)
	a := sphere.Attested{OSVersion: "26.1", Installed: []sphere.Image{image(1, "26.1")}, BootCounter: 5, HardwareRoot: true}
	got := must(w.device.RecordAttested(ctx, d.ID, a))(t)
	if got.LastInstalledOSVersion != "26.1" || got.LastAvailableOSVersion != "26.2" || !got.LastUpdateCheck.Equal(start) || !got.LastOSUpdate.Equal(start) ||
		!got.LastAttested.IsZero() || got.BootCounter != 5 || !got.HardwareRoot || len(got.Installed) != 1 || got.ETag == d.ETag {
		t.Errorf("got %+v", got)
	}
	w.sleep(time.Hour)
	a.Client = true
	got = must(w.device.RecordAttested(ctx, d.ID, a))(t)
	if !got.LastOSUpdate.Equal(start) || !got.LastUpdateCheck.Equal(start.Add(time.Hour)) || !got.LastAttested.Equal(start.Add(time.Hour)) {
		t.Errorf("got %+v", got)
	}
	a.OSVersion = "26.2"
	if got = must(w.device.RecordAttested(ctx, d.ID, a))(t); !got.LastOSUpdate.Equal(start.Add(time.Hour)) {
		t.Errorf("got %+v", got)
	}
	for _, counter := range []uint64{4, 0} {
		a.BootCounter = counter
		_, err := w.device.RecordAttested(ctx, d.ID, a)
		wantKind(t, "a boot counter that goes back", err, fault.PreconditionFailed)
	}
	a.BootCounter = 6
	for what, change := range map[string]func(*sphere.Attested){
		"a strange version": func(a *sphere.Attested) { a.OSVersion = "x" },
		"too many images":   func(a *sphere.Attested) { a.Installed = make([]sphere.Image, 129) },
		"a long image":      func(a *sphere.Attested) { a.Installed = []sphere.Image{{Component: strings.Repeat("x", 37)}} },
	} {
		bad := a
		change(&bad)
		_, err := w.device.RecordAttested(ctx, d.ID, bad)
		wantKind(t, what, err, fault.Invalid)
	}
	if now := must(w.device.Device(ctx, d.ID))(t); now.BootCounter != 5 {
		t.Errorf("got %+v", now)
	}
}

// A report has the last 14 days and the latest 1000 events, each once with a count.
func TestErrorReport(t *testing.T) {
	t.Parallel()
	w, ctx := newWorld(t), t.Context()
	tenant := w.tenant(ann)
	product := must(w.CreateProduct(ctx, ann, tenant, "Lamp", ""))(t)
	group := must(w.GenerateDefaultGroups(ctx, ann, tenant, product.ID))(t)[0]
	d, _ := w.claimed(ann, tenant, group.ID)
	crash := report.Event{Type: report.AppCrash, Class: "c", Category: "app", Description: "exit 1", Start: w.clock()}
	for range 15 { // each day
		ok(t, w.device.Report(ctx, d.ID, []report.Event{crash}))
		w.sleep(day)
		crash.Start = w.clock()
	}
	es := must(w.ErrorReport(ctx, ann, tenant, ""))(t)
	if len(es) != 1 || es[0].Count != 14 || !es[0].Start.Equal(start.Add(day)) || !es[0].End.Equal(start.Add(14*day)) || es[0].Device != d.ID {
		t.Fatalf("got %+v", es)
	}
	// More than is downloaded, from five devices, of which one floods.
	for i := range 5 {
		d, _ := w.claimed(ann, tenant, "")
		n := 249
		if i == 0 {
			n = 1000
		}
		for from := 0; from < n; from += report.MaxUpload {
			var many []report.Event
			for j := from; j < min(n, from+report.MaxUpload); j++ {
				many = append(many, report.Event{Type: "x", Description: fmt.Sprint(j), Start: w.clock()})
			}
			ok(t, w.device.Report(ctx, d.ID, many))
		}
	}
	counts := map[string]int{}
	es = must(w.ErrorReport(ctx, ann, tenant, ""))(t)
	for _, e := range es {
		counts[e.Device]++
	}
	if len(es) != 1000 {
		t.Errorf("%d events of %d devices, want 1000", len(es), len(counts))
	}
	for _, n := range counts {
		if n > report.MaxKept {
			t.Errorf("%d events of one device", n)
		}
	}
	if of := must(w.ErrorReport(ctx, ann, tenant, strings.ToUpper(group.ID)))(t); len(of) != 1 || of[0].Count != 14 {
		t.Errorf("of the group: %+v", of)
	}
	_, err := w.ErrorReport(ctx, ann, tenant, product.ID)
	wantKind(t, "a group that is not there", err, fault.NotFound)
	wantKind(t, "too many at once", w.device.Report(ctx, d.ID, make([]report.Event, report.MaxUpload+1)), fault.Invalid)
	wantKind(t, "one bad among good", w.device.Report(ctx, d.ID, []report.Event{{Type: "good", Start: w.clock()}, {}}), fault.Invalid)
	for _, e := range must(w.ErrorReport(ctx, ann, tenant, group.ID))(t) {
		if e.Type == "good" {
			t.Error("half of an upload was kept")
		}
	}

	var file bytes.Buffer
	ok(t, report.WriteCSV(&file, es, false))
	rows := must(csv.NewReader(&file).ReadAll())(t)
	if len(rows) != 1001 || strings.Join(rows[0], ",") != "Device ID,Event Type,Event Class,Event Count,Description,Start Time (UTC),End Time (UTC)" {
		t.Errorf("%d rows under %v", len(rows), rows[0])
	}
}

// BenchmarkDeviceSide is what one attestation asks of this room and its store: the policy, a record, two certificates.
func BenchmarkDeviceSide(b *testing.B) {
	w, ctx := newWorld(b), b.Context()
	tenant := w.tenant(ann)
	d, k := w.claimed(ann, tenant, "")
	for i := range 20 {
		must(w.PublishRelease(ctx, root, "", release(fmt.Sprintf("26.%d", i), sphere.Retail)))(b)
	}
	b.RunParallel(func(pb *testing.PB) {
		for pb.Next() {
			p := must(w.device.Policy(ctx, d.ID))(b)
			if v := p.Judge("26.19", []sphere.Image{image(1, "26.19")}); !v.Current {
				b.Error(v.Reason)
			}
			must(w.device.RecordAttested(ctx, d.ID, sphere.Attested{OSVersion: "26.19", Client: true}))(b)
			for _, kind := range []sphere.CertificateKind{sphere.ClientCertificate, sphere.UpdateCertificate} {
				must(w.device.Issue(ctx, d.ID, k.Public(), kind))(b)
			}
		}
	})
}
