package api

import (
	"strings"
	"testing"

	"github.com/vauban-iot/vauban/defender/baseline"
	"github.com/vauban-iot/vauban/defender/baseline/baselinetest"
	"github.com/vauban-iot/vauban/defender/intel"
	"github.com/vauban-iot/vauban/wire/mud"
)

func (w *world) newBaselines(t *testing.T) {
	t.Helper()
	store := &baselinetest.World{}
	var err error
	w.baselines, err = baseline.New(baseline.Config{
		Log: store, Store: store, Raise: store.Raise, Intel: func() *intel.Set { return nil }, Groups: store, Hub: baseline.Controller{Host: "hub.example"},
	})
	if err != nil {
		t.Fatal(err)
	}
}

const lampMUD = `{"ietf-mud:mud":{"mud-version":1,"mud-url":"https://lamps.example/lamp","last-update":"2026-01-02T03:04:05Z","is-supported":true,"systeminfo":"Lamp",
	"from-device-policy":{"access-lists":{"access-list":[{"name":"out"}]}}},
	"ietf-access-control-list:acls":{"acl":[{"name":"out","type":"ipv4-acl-type","aces":{"ace":[
	{"name":"a","matches":{"ipv4":{"protocol":6,"destination-ipv4-network":"192.0.2.1/32"},"tcp":{"destination-port":{"operator":"eq","port":443}}},"actions":{"forwarding":"accept"}}]}}]}}`

func TestBaselines(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	const plant = "/api/baselines/plant%20%E2%98%82"
	refused(t, w.ask(t, "GET", plant, ""), 404, "NotFound")
	for _, step := range []string{"/propose", "/enforce", "/relax", "/promote"} {
		refused(t, w.ask(t, "POST", plant+step, ""), 404, "NotFound")
	}
	refused(t, w.ask(t, "GET", plant+"/preview", ""), 404, "NotFound")
	refused(t, w.ask(t, "GET", plant+"/mud", ""), 404, "NotFound")
	refused(t, w.ask(t, "DELETE", plant, ""), 404, "NotFound")
	refused(t, w.ask(t, "POST", plant+"/learn", `{"minTime":"soon"}`), 400, "InvalidArgument")
	refused(t, w.ask(t, "POST", plant+"/learn", `{"minDays":3}`), 400, "MalformedRequest")
	refused(t, w.ask(t, "POST", plant+"/learn", `{"minTime":"`+strings.Repeat("x", maxSettings)+`"}`), 413, "TooLarge")
	refused(t, w.ask(t, "POST", "/api/baselines/"+strings.Repeat("x", 65)+"/learn", ""), 400, "InvalidArgument")
	var b baseline.Baseline
	w.decode(t, 200, "POST", plant+"/learn", "", &b)
	if b.State != baseline.Learning || b.Group != "plant ☂" || b.By != "operator" || b.Terms.MinTime != "168h0m0s" || b.Terms.MinDevices != 3 || b.Entries == nil || b.Limits == nil {
		t.Errorf("%+v", b)
	}
	if message := refused(t, w.ask(t, "POST", plant+"/propose", ""), 412, "PreconditionFailed"); !strings.Contains(message, "0 of 3 devices") {
		t.Error(message)
	}
	refused(t, w.ask(t, "PATCH", plant, `{}`), 400, "InvalidArgument")
	refused(t, w.ask(t, "PATCH", plant, `{"remove":["x"]}`), 412, "PreconditionFailed")
	refused(t, w.ask(t, "PUT", plant+"/mud", "{"), 400, "MalformedRequest")
	refused(t, w.ask(t, "PUT", plant+"/mud", strings.Repeat(" ", mud.MaxSize+1)), 413, "TooLarge")
	refused(t, w.ask(t, "PUT", plant+"/mud?merge=perhaps", lampMUD), 400, "InvalidArgument")
	refused(t, w.ask(t, "PUT", plant+"/mud?merge=true", lampMUD), 412, "PreconditionFailed")
	w.decode(t, 200, "PUT", plant+"/mud", lampMUD, &b)
	if b.State != baseline.Proposed || len(b.Entries) != 1 || b.Entries[0].Says() != "to 192.0.2.1, TCP port 443" || b.MUD.URL != "https://lamps.example/lamp" {
		t.Errorf("%+v", b)
	}
	refused(t, w.ask(t, "PATCH", plant, `{"decisions":{"x":"accepted"}}`), 404, "NotFound")
	refused(t, w.ask(t, "PATCH", plant, `{"add":[{"kind":"peer","direction":"Up"}]}`), 400, "InvalidArgument")
	w.decode(t, 200, "PATCH", plant, `{"decisions":{"`+b.Entries[0].ID+`":"rejected"},"limits":[{"measure":"messages","max":60}],"names":{"time.example":["192.0.2.7"]}}`, &b)
	if b.Entries[0].Decision != baseline.Rejected || b.Limits[0].Max != 60 || len(b.Names) != 1 {
		t.Errorf("%+v", b)
	}
	w.decode(t, 200, "POST", plant+"/enforce", "", &b)
	var list struct{ Value []baseline.Baseline }
	w.decode(t, 200, "GET", "/api/baselines", "", &list)
	if len(list.Value) != 1 || list.Value[0].State != baseline.Enforced || list.Value[0].Version != 4 {
		t.Errorf("%+v", list)
	}
	var p baseline.Preview
	refused(t, w.ask(t, "GET", plant+"/preview?days=8", ""), 400, "InvalidArgument")
	refused(t, w.ask(t, "GET", plant+"/preview?days=x", ""), 400, "InvalidArgument")
	w.decode(t, 200, "GET", plant+"/preview?days=1", "", &p)
	if p.Alerts != 0 || p.Examples == nil || p.Version != 4 {
		t.Errorf("%+v", p)
	}
	var promoted baseline.Promotion
	w.decode(t, 200, "POST", plant+"/promote", "", &promoted)
	w.decode(t, 200, "POST", plant+"/relax", "", &b)
	if rec := w.ask(t, "GET", plant+"/mud?url=https://a.example/x&systeminfo=Lamps", ""); rec.Code != 200 || rec.Header().Get("Content-Type") != "application/mud+json" {
		t.Errorf("%d %s", rec.Code, rec.Body)
	} else if f, err := mud.Parse(rec.Body.Bytes()); err != nil || f.SystemInfo != "Lamps" {
		t.Errorf("%+v, %v", f, err)
	}
	refused(t, w.ask(t, "GET", plant+"/mud?url=http://a.example/x", ""), 400, "InvalidArgument")
	w.decode(t, 204, "DELETE", plant, "", nil)
	// Every change by a person is in the audit.
	for _, want := range []string{"POST /api/baselines/{group}/learn", "PATCH /api/baselines/{group}", "POST /api/baselines/{group}/enforce", "POST /api/baselines/{group}/relax",
		"POST /api/baselines/{group}/promote", "PUT /api/baselines/{group}/mud", "DELETE /api/baselines/{group}", "mudUrl=https://lamps.example/lamp", "state=enforced"} {
		if !strings.Contains(w.logged.String(), want) {
			t.Errorf("the audit has no %q", want)
		}
	}
}
