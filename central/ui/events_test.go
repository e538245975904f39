package ui

import (
	"encoding/json"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/vauban-iot/vauban/defender/record"
)

func TestEvents_OfOneDevice(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	if got := text(t, w.page(t, "/console/events?id=lamp-1")); !strings.Contains(got, "Nothing was said of this device.") {
		t.Errorf("without events: %s", got)
	}
	if got := text(t, w.page(t, "/console/events?id=lamp-1&name=X")); !strings.Contains(got, "No event fits.") {
		t.Errorf("with a filter that fits none: %s", got)
	}
	at := time.Date(2026, 11, 2, 9, 0, 0, 0, time.UTC)
	w.said.list = []record.Event{
		{Place: record.Place{Message: 90}, Enqueued: at, Time: at.Add(-time.Hour), Name: "NetworkActivity", Agent: "defender-iot-micro-agent", AgentVersion: "3.5.4", Details: []json.RawMessage{json.RawMessage(`{"remote":1}`), json.RawMessage(`{"remote":2}`)}, Left: 3},
		{Place: record.Place{Message: 89}, Enqueued: at, Time: at.Add(-time.Second), Module: "m", Name: "Heartbeat", Empty: true},
		{Place: record.Place{Message: 88}, Enqueued: at, Name: record.InvalidMessage, Problem: "offset 4: no table", Notes: []string{"a note"}, Details: []json.RawMessage{json.RawMessage(`{"mti":"9"}`)}},
	}
	got := text(t, w.page(t, "/console/events?id=lamp-1"))
	for _, s := range []string{
		`NetworkActivity defender-iot-micro-agent 3.5.4 2026-11-02 09:00:00 UTC by its clock 2026-11-02 08:00:00 UTC 5 items {"remote":1} {"remote":2} 3 are not kept.`,
		"Heartbeat m 2026-11-02 09:00:00 UTC nothing more", `Not read offset 4: no table a note 1 item { "mti": "9" }`,
	} {
		if !strings.Contains(got, s) {
			t.Errorf("the page does not say %q: %s", s, got)
		}
	}
	for i := len(w.said.list); i < eventsPerPage; i++ {
		w.said.list = append(w.said.list, record.Event{Place: record.Place{Message: uint64(90 - i), Ordinal: 2}, Name: "Heartbeat"})
	}
	w.said.asked = nil
	page := w.page(t, "/console/events?id=lamp-1&name=Heartbeat&invalid=true")
	if !strings.Contains(page, `href="/console/events?before=66.2&amp;id=lamp-1&amp;invalid=true&amp;name=Heartbeat"`) {
		t.Error("there is no way to older events")
	}
	w.page(t, "/console/events?before=66.2&id=lamp-1")
	want := []record.Filter{
		{Device: "lamp-1", Name: "Heartbeat", Invalid: true, Limit: eventsPerPage},
		{Device: "lamp-1", Before: record.Place{Message: 66, Ordinal: 2}, Limit: eventsPerPage},
	}
	if d := cmp.Diff(want, w.said.asked); d != "" {
		t.Errorf("asked for (-want +got):\n%s", d)
	}
	c := w.cookie(t)
	for path, status := range map[string]int{"/console/events?id=a+b": 404, "/console/events": 404, "/console/events?id=d&before=x": 400} {
		if rec := w.ask("GET", path, "", with(c)); rec.Code != status {
			t.Errorf("%s: %d, want %d", path, rec.Code, status)
		}
	}
	if !strings.Contains(w.page(t, "/console/events?id=lamp-1"), `href="/console/device?id=lamp-1"`) {
		t.Error("there is no way back to the device")
	}
}
