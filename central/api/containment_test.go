package api

import (
	"context"
	"strings"
	"testing"

	"github.com/vauban-iot/vauban/fault"
	"github.com/vauban-iot/vauban/hub/hubtest"
	"github.com/vauban-iot/vauban/hub/registry"
	"github.com/vauban-iot/vauban/iot"
)

func TestContainment(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	hub := hubtest.New(t, hubtest.Options{Memory: true})
	for _, name := range []string{"fan", "lamp", "pump"} {
		hub.Device(t, iot.ID{Device: name})
	}
	w.cfg.Containment = hub
	var err error
	if w.API, err = New(w.cfg); err != nil {
		t.Fatal(err)
	}
	var c registry.Containment
	w.decode(t, 200, "GET", "/api/containment/lamp", "", &c)
	if c.Device != "lamp" || c.Level != registry.Free || c.Before != nil {
		t.Errorf("of a new device: %+v", c)
	}
	var e registry.Effect
	w.decode(t, 200, "GET", "/api/containment/lamp/effect?level=cut", "", &e)
	if e.To != registry.Cut || len(e.Refused) == 0 || e.Sessions == nil {
		t.Errorf("effect %+v", e)
	}
	w.decode(t, 200, "PUT", "/api/containment/lamp", `{"level":"cut","reason":"it scans"}`, &c)
	if c.Level != registry.Cut || c.By != operator || c.Reason != "it scans" || c.Before == nil || c.Since.IsZero() {
		t.Errorf("cut: %+v", c)
	}
	w.decode(t, 200, "PUT", "/api/containment/fan", `{"level":"observe"}`, nil)
	var page ContainmentPage
	w.decode(t, 200, "GET", "/api/containment?limit=1", "", &page)
	if len(page.Contained) != 1 || page.Contained[0].Device != "fan" || page.Next != "fan" {
		t.Errorf("first page %+v", page)
	}
	page = ContainmentPage{}
	w.decode(t, 200, "GET", "/api/containment?after=fan", "", &page)
	if len(page.Contained) != 1 || page.Contained[0].Device != "lamp" || page.Next != "" {
		t.Errorf("second page %+v", page)
	}
	c = registry.Containment{}
	w.decode(t, 200, "POST", "/api/containment/lamp/undo", "", &c)
	if c.Level != registry.Free || c.Before != nil {
		t.Errorf("undone: %+v", c)
	}
	for _, bad := range []struct {
		method, target, body string
		status               int
		code                 string
	}{
		{"GET", "/api/containment/ghost", "", 404, "NotFound"},
		{"GET", "/api/containment?limit=0", "", 400, "InvalidArgument"},
		{"GET", "/api/containment/lamp/effect", "", 400, "InvalidArgument"},
		{"GET", "/api/containment/ghost/effect?level=cut", "", 404, "NotFound"},
		{"PUT", "/api/containment/lamp", `{"level":"quarantine"}`, 400, "MalformedRequest"},
		{"PUT", "/api/containment/lamp", `{}`, 400, "InvalidArgument"},
		{"PUT", "/api/containment/lamp", `{`, 400, "MalformedRequest"},
		{"PUT", "/api/containment/lamp", `{"level":"none"}`, 409, "AlreadyExists"},
		{"PUT", "/api/containment/ghost", `{"level":"cut"}`, 404, "NotFound"},
		{"PUT", "/api/containment/pump", `{"level":"cut","reason":"` + strings.Repeat("x", registry.MaxReason+1) + `"}`, 400, "InvalidArgument"},
		{"POST", "/api/containment/lamp/undo", "", 412, "PreconditionFailed"},
		{"POST", "/api/containment/ghost/undo", "", 404, "NotFound"},
	} {
		refused(t, w.ask(t, bad.method, bad.target, bad.body), bad.status, bad.code)
	}
	// Every use is in the audit log, with who, which device, which level and why.
	for _, want := range []string{`target=containment/lamp`, `level=cut`, `reason="it scans"`, `target=containment/lamp/undo`} {
		if !strings.Contains(w.logged.String(), want) {
			t.Errorf("the log has no %s:\n%s", want, w.logged.String())
		}
	}
}

// nobody is a ContainmentStore of a hub without devices.
type nobody struct{}

var errNobody = fault.New(fault.NotFound, "there is no such device")

func (nobody) Containment(context.Context, string) (c registry.Containment, err error) {
	return c, errNobody
}

func (nobody) Contained(context.Context, string, int) ([]registry.Containment, error) {
	return nil, nil
}

func (nobody) Contain(context.Context, string, registry.Level, string, string) (c registry.Containment, err error) {
	return c, errNobody
}

func (nobody) Uncontain(context.Context, string, string) (c registry.Containment, err error) {
	return c, errNobody
}

func (nobody) ContainmentEffect(context.Context, string, registry.Level) (e registry.Effect, err error) {
	return e, errNobody
}
