package ui

import (
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/vauban-iot/vauban/defender/export"
)

func TestExports_TellTheirHealth(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	if got := text(t, w.page(t, "/console/exports")); !strings.Contains(got, "No export yet") || !strings.Contains(got, "vauban export create") {
		t.Errorf("without exports: %s", got)
	}
	at := time.Date(2026, 11, 2, 9, 0, 0, 0, time.UTC)
	w.exports.list = []export.Export{
		{
			Config:  export.Config{Name: "broken", Kind: "webhook", Format: "ocsf", Data: []export.Data{"alerts", "events"}, URL: "https://soc.example/s3cret/in"},
			State:   export.State{LastAttempt: at, NextAttempt: at.Add(time.Minute), FailedSince: at, Failures: 3, Error: "no route", Sent: 5, GivenUp: 2, LastGivenUp: "alert 7 is too old"},
			Waiting: export.Waiting{Alerts: 4, Events: export.MaxWaiting},
		},
		{Config: export.Config{Name: "good", Kind: "syslog", Format: "cef", Address: "siem.example:6514"}, State: export.State{LastAttempt: at, LastSuccess: at, Sent: 12}},
		{Config: export.Config{Name: "new", Kind: "files"}},
		{Config: export.Config{Name: "off", Kind: "loganalytics", URL: "https://x.example/", Workspace: "w-1", Disabled: true}},
	}
	page := w.page(t, "/console/exports")
	got := text(t, page)
	for _, s := range []string{
		"broken webhook ocsf alerts, events soc.example Failed 3 times since 2026-11-02 09:00:00 UTC no route again 2026-11-02 09:01:00 UTC ; what is older than 72h is given up Test 5 2 given up alert 7 is too old 4 alerts 10000 or more events",
		"good syslog cef siem.example:6514 Healthy Test 12 nothing 2026-11-02 09:00:00 UTC", "new files Nothing sent yet Test", "workspace w-1 Disabled 0 nothing",
	} {
		if !strings.Contains(got, s) {
			t.Errorf("the page does not say %q: %s", s, got)
		}
	}
	if strings.Contains(page, "s3cret") {
		t.Error("the page shows the path of a webhook, which may be a secret")
	}
	c := w.cookie(t)
	for _, tc := range []struct {
		name, do string
		status   int
	}{{"good", "test", 303}, {"broken", "test", 503}, {"good", "", 400}} {
		if rec := w.ask("POST", "/console/exports", query("name", tc.name, "do", tc.do).Encode(), with(c)); rec.Code != tc.status {
			t.Errorf("%s %s: %d, want %d", tc.do, tc.name, rec.Code, tc.status)
		}
	}
	if !slices.Equal(w.exports.tested, []string{"good"}) {
		t.Errorf("tested %q", w.exports.tested)
	}
	if !strings.Contains(text(t, w.page(t, "/console/exports?tested=good")), "The test of good was taken.") {
		t.Error("nobody says that the test was taken")
	}
	if !strings.Contains(w.logged.String(), `what="POST /console/exports" target=exports outcome=done status=303 export=good`) {
		t.Error("the audit has no record")
	}
}
