package ui

import (
	"net/url"
	"strings"
	"testing"

	"github.com/vauban-iot/vauban/defender/alert"
	"github.com/vauban-iot/vauban/hub/registry"
	"github.com/vauban-iot/vauban/hub/twin"
)

func TestContain_ShowsTheEffectFirst(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.hub.put(device("lamp"), twin.Twin{})
	c := w.cookie(t)
	if got := w.page(t, "/console/contain?device=lamp"); strings.Contains(got, `value="contain"`) || !strings.Contains(text(t, got), "Nothing changes before you confirm it") {
		t.Error("a device can be contained without having seen what that does")
	}
	got := text(t, w.page(t, "/console/contain?device=lamp&level=cut"))
	for _, s := range []string{"Refused direct methods", "Allowed telemetry", "and 10 more", "2 messages, which stay", "3, of which 1 are connected", "Set it to cut"} {
		if !strings.Contains(got, s) {
			t.Errorf("the effect lacks %q: %s", s, got)
		}
	}
	form := func(pairs ...string) url.Values { return query(append([]string{"device", "lamp"}, pairs...)...) }
	for name, tc := range map[string]struct {
		form   url.Values
		status int
		says   string
	}{
		"no device":       {query("device", "absent", "from", "none", "level", "cut", "do", "contain"), 404, "There is no such device."},
		"no level":        {form("from", "none", "level", "off", "do", "contain"), 400, "the level must be one of none, observe, telemetry-only, cut"},
		"nothing to do":   {form("from", "none"), 400, "nothing that can be done"},
		"nothing to undo": {form("from", "none", "do", "undo"), 412, "there is nothing to undo"},
		"another effect":  {form("from", "observe", "level", "cut", "do", "contain"), 412, "Meanwhile the level of this device became none. Look at the effect again."},
		"too much":        {form("from", "none", "level", "cut", "do", "contain", "reason", strings.Repeat("x", maxForm)), 413, "The form is over"},
	} {
		if rec := w.ask("POST", "/console/contain", tc.form.Encode(), with(c)); rec.Code != tc.status || !strings.Contains(rec.Body.String(), tc.says) {
			t.Errorf("%s: %d %s; want %d, %q", name, rec.Code, text(t, rec.Body.String()), tc.status, tc.says)
		}
	}
	if rec := w.ask("POST", "/console/contain", form("from", "none", "level", "cut", "do", "contain").Encode()); rec.Code != 303 || !strings.HasPrefix(rec.Header().Get("Location"), "/console/sign-in") {
		t.Errorf("a stranger: %d", rec.Code)
	}
	if h := w.holds.all["lamp"]; h.Level != registry.Free {
		t.Fatalf("a refused form contained it: %+v", h)
	}
	post := func(form url.Values) {
		t.Helper()
		if rec := w.ask("POST", "/console/contain", form.Encode(), with(c)); rec.Code != 303 || rec.Header().Get("Location") != "/console/contain?device=lamp" {
			t.Fatalf("%v: %d %s", form, rec.Code, text(t, rec.Body.String()))
		}
	}
	post(form("from", "none", "level", "cut", "do", "contain", "reason", " scans the plant "))
	if h := w.holds.all["lamp"]; h.Level != registry.Cut || h.Reason != "scans the plant" || h.By != "admin" {
		t.Errorf("contained as %+v", h)
	}
	w.alerts.raise(alert.Alert{ID: "a1", Device: "lamp"})
	for _, page := range []string{"/console/contain?device=lamp", "/console/device?id=lamp", "/console/alert?id=a1"} {
		if got := text(t, w.page(t, page)); !strings.Contains(got, "Contained: cut") || !strings.Contains(got, "scans the plant") {
			t.Errorf("%s does not say how the device is held back: %s", page, got)
		}
	}
	post(form("from", "cut", "do", "undo"))
	if h := w.holds.all["lamp"]; h.Level != registry.Free {
		t.Errorf("undone it is %+v", h)
	}
	logged := w.logged.String()
	for _, s := range []string{
		`who=admin what="POST /console/contain" target=contain outcome=done status=303 device=lamp level=cut reason="scans the plant"`,
		`outcome=done status=303 device=lamp undone=true level=none`, `outcome=refused status=412 device=lamp`,
	} {
		if !strings.Contains(logged, s) {
			t.Errorf("the audit lacks %s in %s", s, logged)
		}
	}
	w.alerts.raise(alert.Alert{ID: "a2", Device: "gone"})
	if got := w.page(t, "/console/alert?id=a2"); strings.Contains(got, "/console/contain") {
		t.Error("the page of an alert about a device that is gone offers to contain it")
	}
}

func TestAlerts_Choices(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.alerts.raise(alert.Alert{Device: "a", Group: "plant", Type: alert.TiConnection, Severity: alert.High, Title: "Alpha", Status: alert.Open})
	w.alerts.raise(alert.Alert{Device: "b", Type: alert.Beaconing, Severity: alert.Low, Title: "Beta", Status: alert.Resolved})
	for q, want := range map[string]string{
		"type=" + alert.TiConnection: "Alpha", "type=" + alert.Beaconing: "Beta", "severity=High": "Alpha", "severity=Low": "Beta", "status=resolved": "Beta",
		"device=a": "Alpha", "group=plant": "Alpha", "group=plant&severity=Low": "", "type=none&group=a/b&device=a/b&severity=x&status=y": "Alpha Beta",
	} {
		page := w.page(t, "/console/alerts?"+q)
		for _, title := range []string{"Alpha", "Beta"} {
			if strings.Contains(page, title+"</h3>") != strings.Contains(want, title) {
				t.Errorf("%s: %s is shown wrongly", q, title)
			}
		}
		if none := strings.Contains(page, "No alert fits."); none != (want == "") {
			t.Errorf("%s: says that nothing fits: %v", q, none)
		}
		if !strings.Contains(page, `data-stream="/console/alerts/stream`) {
			t.Errorf("%s is not live", q)
		}
	}
}
