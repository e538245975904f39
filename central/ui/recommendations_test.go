package ui

import (
	"fmt"
	"net/url"
	"strings"
	"testing"

	"github.com/vauban-iot/vauban/defender/alert"
	"github.com/vauban-iot/vauban/defender/posture"
	"github.com/vauban-iot/vauban/hub/twin"
)

func TestRecommendations_ScoreShowsItsArithmetic(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	if got := text(t, w.page(t, "/console/recommendations")); !strings.Contains(got, "The fleet : no score") || !strings.Contains(got, "vauban device create") {
		t.Errorf("without devices: %s", got)
	}
	w = newWorld(t)
	w.hygiene.totals = posture.Totals{Devices: 4, Unhealthy: 2, Lost: 30 + 100, Tallies: []posture.Tally{
		{Type: posture.OpenPorts, Severity: alert.High, Devices: 1, Weight: 30}, {Type: posture.InstallAgent, Severity: alert.Low, Devices: 2, Weight: 120},
		{Type: posture.IPFilterPermissiveRule, HubTakes: 12},
	}}
	got := text(t, w.page(t, "/console/recommendations"))
	// 100 - 7.5 - 30 - 12 + 5 = 55.5
	for _, s := range []string{"The fleet : 56 of 100", "2 of 4 devices", "1 device −7.5", "2 devices −30", "the hub −12", "Given back: nothing has less than 0 +5", "Score, rounded 56"} {
		if !strings.Contains(got, s) {
			t.Errorf("the arithmetic lacks %q: %s", s, got)
		}
	}
}

func TestRecommendations_ChoicesAndPages(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	for i := range recommendationsPerPage + 1 {
		w.hygiene.list = append(w.hygiene.list, posture.Recommendation{ID: fmt.Sprint("r", i), Sequence: uint64(1000 - i), Type: posture.OpenPorts, Device: "lamp", State: posture.Active, Title: "Open ports"})
	}
	first := w.page(t, "/console/recommendations?type=IoT_OpenPorts&device=lamp&group=plant")
	if !strings.Contains(first, "id=r49") || strings.Contains(first, "id=r50") || !strings.Contains(first, `href="/console/recommendations?before=951&amp;device=lamp&amp;type=IoT_OpenPorts"`) {
		t.Error("the first page does not hold 50, with a way to the next")
	}
	if next := w.page(t, "/console/recommendations?before=951"); !strings.Contains(next, "id=r50") || strings.Contains(next, "id=r49") || strings.Contains(next, "score-title") {
		t.Error("the next page does not hold the last one alone")
	}
	for q, want := range map[string]posture.Filter{
		"":                           {State: posture.Active},
		"state=all&severity=High":    {Severity: alert.High},
		"state=Resolved&group=plant": {State: posture.Resolved, Group: "plant"},
		"hub=true&device=lamp":       {State: posture.Active, Hub: true},
		"state=x&severity=x&type=x&device=a/b&group=a/b&before=-1": {State: posture.Active},
	} {
		w.hygiene.asked = nil
		w.page(t, "/console/recommendations?"+q)
		want.Limit = recommendationsPerPage
		if got := w.hygiene.asked[0]; got != want {
			t.Errorf("%q asks for %+v, want %+v", q, got, want)
		}
	}
	w.hygiene.list = nil
	if got := text(t, w.page(t, "/console/recommendations")); !strings.Contains(got, "vauban recommendation list") {
		t.Errorf("an empty list teaches nothing: %s", got)
	}
}

func TestRecommendations_OfADevice(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.hub.put(device("lamp"), twin.Twin{})
	w.hygiene.totals = posture.Totals{Devices: 1, Unhealthy: 1, Lost: 12}
	for i := range recommendationsOfDevice + 5 {
		w.hygiene.list = append(w.hygiene.list, posture.Recommendation{ID: fmt.Sprint("r", i), Device: "lamp", State: posture.Active, Title: fmt.Sprint("Title", i)})
	}
	got := text(t, w.page(t, "/console/device?id=lamp"))
	if !strings.Contains(got, "88 of 100") || !strings.Contains(got, "Title9 There are more.") || strings.Contains(got, "Title10") {
		t.Errorf("the device's page has no score, or not the first ten: %s", got)
	}
}

func TestRecommendations_TypesAreSwitched(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	c := w.cookie(t)
	send := func(name, what string) int {
		return w.ask("POST", "/console/recommendation-types", url.Values{"type": {name}, "do": {what}}.Encode(), with(c)).Code
	}
	for _, r := range []struct {
		name, what string
		status     int
	}{{"nothing", "disable", 404}, {posture.OpenPorts, "", 400}, {posture.OpenPorts, "disable", 303}} {
		if got := send(r.name, r.what); got != r.status {
			t.Errorf("%s %s: %d, want %d", r.what, r.name, got, r.status)
		}
	}
	if !w.hygiene.disabled[posture.OpenPorts] || !strings.Contains(w.page(t, "/console/recommendation-types"), `value="enable" aria-label="Enable `+posture.Lookup(posture.OpenPorts).Title) {
		t.Error("it is not disabled, or the page does not say so")
	}
	if send(posture.OpenPorts, "enable") != 303 || w.hygiene.disabled[posture.OpenPorts] {
		t.Error("it is not enabled again")
	}
	if !strings.Contains(w.logged.String(), `who=admin what="POST /console/recommendation-types" target=recommendation-types outcome=done status=303 type=IoT_OpenPorts enabled=false resolved=2`) {
		t.Error("the audit has no record")
	}
}
