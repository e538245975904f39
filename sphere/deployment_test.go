package sphere_test

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/vauban-iot/vauban/fault"
	"github.com/vauban-iot/vauban/internal/conform"
	"github.com/vauban-iot/vauban/sphere"
)

// app is an image that is released as an application, in the tenant or, with "", in the installation.
func (w *world) app(tenant, version string, images ...sphere.Image) sphere.Release {
	w.t.Helper()
	c := ann
	if tenant == "" {
		c = root
	}
	return must(w.PublishRelease(ctxOf(w), c, tenant, sphere.Release{Kind: sphere.ReleaseApplication, Version: version, Images: images}))(w.t)
}

// appImage is image with an id of its component's own.
func appImage(n int, version string) sphere.Image {
	m := image(n, version)
	m.ID = m.Component[len(m.Component)-1:] + m.ID[1:]
	return m
}

func (w *world) group(tenant, product, name string, policy sphere.UpdatePolicy) sphere.DeviceGroup {
	w.t.Helper()
	return must(w.CreateDeviceGroup(ctxOf(w), ann, tenant, product, sphere.GroupChange{Name: &name, UpdatePolicy: &policy}))(w.t)
}

// Device groups, and deployments of one image set each, of which the latest is in force.
func TestDeployment(t *testing.T) {
	t.Parallel()
	conform.Covers(t, "SPH-17")
	w, ctx := newWorld(t), t.Context()
	tenant := w.tenant(ann)
	product := must(w.CreateProduct(ctx, ann, tenant, "Lamp", ""))(t).ID
	one, two := w.group(tenant, product, "One", sphere.UpdateAll), w.group(tenant, product, "Two", sphere.UpdateAll)
	first, second, third := appImage(1, "1"), appImage(2, "1"), appImage(1, "2")
	w.app(tenant, "1", first)
	w.app("", "1", second)
	w.app(tenant, "2", third)

	_, err := w.Deployment(ctx, ann, tenant, one.ID, sphere.PseudoDefault)
	wantKind(t, "before the first", err, fault.NotFound)
	d1, created, err := w.CreateDeployment(ctx, ann, tenant, strings.ToUpper(one.ID), "", []string{strings.ToUpper(second.ID), first.ID})
	ok(t, err)
	if !created || d1.Group != one.ID || d1.Tenant != tenant || d1.By != ann.Subject || !d1.Created.Equal(start) || !slices.Equal(d1.Images, []sphere.Image{first, second}) {
		t.Errorf("got %v, %+v", created, d1)
	}
	w.sleep(time.Minute)
	id := newGUID(t)
	d2, _, err := w.CreateDeployment(ctx, ann, tenant, one.ID, strings.ToUpper(id), []string{third.ID})
	ok(t, err)
	if d2.ID != id || !slices.Equal(d2.ImageIDs(), []string{third.ID}) {
		t.Errorf("got %+v", d2)
	}
	if all := must(w.Deployments(ctx, ann, tenant, one.ID, sphere.Page{}))(t).Items; len(all) != 2 || all[0].ID != d2.ID || all[1].ID != d1.ID {
		t.Errorf("history: %+v", all)
	}
	for _, name := range []string{".default", ".DEFAULT", d2.ID, strings.ToUpper(d2.ID)} {
		if d := must(w.Deployment(ctx, ann, tenant, one.ID, name))(t); d.ID != d2.ID {
			t.Errorf("%s is %+v", name, d)
		}
	}
	if g := must(w.DeviceGroup(ctx, ann, tenant, one.ID))(t); g.Deployment == nil || g.Deployment.ID != d2.ID {
		t.Errorf("in force: %+v", g.Deployment)
	}
	if g := must(w.UpdateDeviceGroup(ctx, ann, tenant, one.ID, sphere.GroupChange{Description: ptr("x")}, nil))(t); g.Deployment == nil || g.Deployment.ID != d2.ID {
		t.Errorf("after a change of the group: %+v", g.Deployment)
	}
	if g := must(w.DeviceGroup(ctx, ann, tenant, two.ID))(t); g.Deployment != nil {
		t.Errorf("of another group: %+v", g.Deployment)
	}
	_, err = w.Deployment(ctx, ann, tenant, two.ID, d2.ID)
	wantKind(t, "one of another group", err, fault.NotFound)
	_, err = w.Deployments(ctx, ann, tenant, newGUID(t), sphere.Page{})
	wantKind(t, "of a missing group", err, fault.NotFound)

	// A request that is sent again.
	again, created, err := w.CreateDeployment(ctx, ann, tenant, one.ID, d2.ID, []string{third.ID})
	if ok(t, err); created || again.Number != d2.Number {
		t.Errorf("again: %v, %+v", created, again)
	}
	for what, c := range map[string]struct {
		group, id string
		images    []string
	}{
		"other images under its id": {one.ID, d2.ID, []string{first.ID}},
		"one that was in force":     {one.ID, d1.ID, d1.ImageIDs()},
		"the id in another group":   {two.ID, d2.ID, []string{third.ID}},
	} {
		_, _, err := w.CreateDeployment(ctx, ann, tenant, c.group, c.id, c.images)
		wantKind(t, what, err, fault.AlreadyExists)
	}
	if n := len(w.audited("CreateDeployment")); n != 2 {
		t.Errorf("%d records in the audit, want 2", n)
	}

	// The history is bounded.
	for range 50 {
		_, _, err := w.CreateDeployment(ctx, ann, tenant, one.ID, "", []string{first.ID})
		ok(t, err)
	}
	if all := must(w.Deployments(ctx, ann, tenant, "", sphere.Page{}))(t).Items; len(all) != 50 || all[0].Number != 52 {
		t.Errorf("%d are kept, the latest is %d", len(all), all[0].Number)
	}
}

// What may be deployed: image sets that are released as applications, now.
func TestDeployment_Refused(t *testing.T) {
	t.Parallel()
	w, ctx := newWorld(t), t.Context()
	tenant, others := w.tenant(ann), w.tenant(bob)
	product := must(w.CreateProduct(ctx, ann, tenant, "Lamp", ""))(t).ID
	g := w.group(tenant, product, "One", sphere.UpdateAll)
	good, os, foreign, early, gone, wrong := appImage(1, "1"), appImage(2, "1"), appImage(3, "1"), appImage(4, "1"), appImage(5, "1"), appImage(6, "1")
	w.app(tenant, "1", good)
	w.app(tenant, "2", appImage(1, "2"))
	must(w.PublishRelease(ctx, ann, tenant, sphere.Release{Kind: sphere.ReleaseOS, Feed: sphere.Retail, Version: "1", Images: []sphere.Image{os}}))(t)
	must(w.PublishRelease(ctx, bob, others, sphere.Release{Kind: sphere.ReleaseApplication, Version: "1", Images: []sphere.Image{foreign}}))(t)
	must(w.PublishRelease(ctx, ann, tenant, sphere.Release{Kind: sphere.ReleaseApplication, Version: "3", Images: []sphere.Image{early}, Released: start.Add(time.Hour)}))(t)
	w.app(tenant, "4", gone)
	ok(t, w.WithdrawRelease(ctx, ann, tenant, sphere.ReleaseApplication, "", "4"))
	w.app(tenant, "5", wrong)
	wrong.SHA256 = strings.Repeat("cd", 32)
	w.app(tenant, "6", wrong)

	many := make([]string, 65)
	for i := range many {
		many[i] = good.ID
	}
	for what, c := range map[string]struct {
		id     string
		images []string
		kind   fault.Kind
		says   string
	}{
		"no images":                     {"", nil, fault.Invalid, "1 to 64 images"},
		"too many images":               {"", many, fault.Invalid, "1 to 64 images"},
		"no id of an image":             {"", []string{"lamp"}, fault.Invalid, `GUID, not "lamp"`},
		"no id of a deployment":         {"first", []string{good.ID}, fault.Invalid, `GUID, not "first"`},
		"an unknown image":              {"", []string{good.ID, newGUID(t)}, fault.Invalid, "publish a release of kind application with it first"},
		"an image of an OS":             {"", []string{os.ID}, fault.Invalid, "no release of applications that counts holds image " + os.ID},
		"an image of another tenant":    {"", []string{foreign.ID}, fault.Invalid, "no release of applications that counts holds image"},
		"an image that is not out yet":  {"", []string{early.ID}, fault.Invalid, "no release of applications that counts holds image"},
		"an image that was withdrawn":   {"", []string{gone.ID}, fault.Invalid, "no release of applications that counts holds image"},
		"an image twice":                {"", []string{good.ID, good.ID}, fault.Invalid, "are both of component"},
		"two versions of one component": {"", []string{good.ID, appImage(1, "2").ID}, fault.Invalid, "are both of component"},
		"an image that is two":          {"", []string{wrong.ID}, fault.AlreadyExists, "released with different contents"},
	} {
		_, _, err := w.CreateDeployment(ctx, ann, tenant, g.ID, c.id, c.images)
		wantKind(t, what, err, c.kind)
		if !strings.Contains(fault.Public(err), c.says) {
			t.Errorf("%s: %q does not say %q", what, fault.Public(err), c.says)
		}
	}
	for _, group := range []string{newGUID(t), ".unassigned", ".default", ""} {
		_, _, err := w.CreateDeployment(ctx, ann, tenant, group, "", []string{good.ID})
		wantKind(t, fmt.Sprintf("group %q", group), err, fault.NotFound)
	}
	w.sleep(time.Hour) // it is out
	_, _, err := w.CreateDeployment(ctx, ann, tenant, g.ID, "", []string{early.ID})
	ok(t, err)
}

// A device gets the whole set of its group, or nothing of it.
func TestTargetedImages(t *testing.T) {
	t.Parallel()
	w, ctx := newWorld(t), t.Context()
	tenant := w.tenant(ann)
	product := must(w.CreateProduct(ctx, ann, tenant, "Lamp", ""))(t).ID
	g, held := w.group(tenant, product, "One", sphere.UpdateAll), w.group(tenant, product, "Held", sphere.No3rdPartyAppUpdates)
	a, b := appImage(1, "1"), appImage(2, "1")
	w.app(tenant, "1", a)
	w.app(tenant, "2", b)
	d, _ := w.claimed(ann, tenant, "")
	want := func(what string, images []sphere.Image, deployed bool, says string) {
		t.Helper()
		got := must(w.TargetedImages(ctx, ann, tenant, strings.ToUpper(d.ID)))(t)
		if !slices.Equal(got.Images, images) || (got.Deployment != nil) != deployed || !strings.Contains(got.Reason, says) || (says == "") != (got.Reason == "") {
			t.Errorf("%s: got %+v", what, got)
		}
	}
	want("in no group", nil, false, "in no device group")
	ok(t, w.AssignDevices(ctx, ann, tenant, []string{d.ID}, g.ID, nil))
	want("nothing is deployed", nil, false, `nothing is deployed to device group "One"`)
	for _, group := range []string{g.ID, held.ID} {
		_, _, err := w.CreateDeployment(ctx, ann, tenant, group, "", []string{a.ID, b.ID})
		ok(t, err)
	}
	want("deployed", []sphere.Image{a, b}, true, "")
	ok(t, w.AssignDevices(ctx, ann, tenant, []string{d.ID}, held.ID, nil))
	want("a group without updates", nil, true, "No3rdPartyAppUpdates")
	ok(t, w.AssignDevices(ctx, ann, tenant, []string{d.ID}, g.ID, nil))
	_, _, err := w.GrantCapability(ctx, ann, tenant, d.ID, []string{sphere.CapabilityFieldServicing}, time.Time{})
	ok(t, err)
	want("with another capability", []sphere.Image{a, b}, true, "")
	_, _, err = w.GrantCapability(ctx, ann, tenant, d.ID, []string{sphere.CapabilityAppDevelopment}, start.Add(time.Hour))
	ok(t, err)
	want("with a development capability", nil, true, "appDevelopment")
	w.sleep(time.Hour)
	want("after it ended", []sphere.Image{a, b}, true, "")
	ok(t, w.WithdrawRelease(ctx, ann, tenant, sphere.ReleaseApplication, "", "2"))
	want("one image is withdrawn", nil, true, "image "+b.ID+" of the deployment is not released any more")
	// Another file under the image's id is not what was deployed.
	other := b
	other.SHA256 = strings.Repeat("cd", 32)
	w.app(tenant, "3", other)
	want("another file has its id", nil, true, "not released any more")
	w.app(tenant, "2", b)
	want("it counts again", []sphere.Image{a, b}, true, "")
	_, err = w.TargetedImages(ctx, ann, tenant, newKey(t).id)
	wantKind(t, "a missing device", err, fault.NotFound)
	_, err = w.TargetedImages(ctx, ann, tenant, "x")
	wantKind(t, "no device id", err, fault.NotFound)
}
