package ui

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/vauban-iot/vauban/defender/intel"
	"github.com/vauban-iot/vauban/defender/intel/feed"
)

func TestFeeds_TellTheirHealth(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	if got := text(t, w.page(t, "/console/feeds")); !strings.Contains(got, "No feed yet") || !strings.Contains(got, "vauban intel feed add") {
		t.Errorf("without feeds: %s", got)
	}
	at := time.Date(2026, 11, 2, 9, 0, 0, 0, time.UTC)
	w.feeds.list = []feed.Feed{
		{Config: feed.Config{Name: "bad", URL: "https://a.example/"}, State: feed.State{LastAttempt: at, Failures: 3, Error: "no route"}},
		{Config: feed.Config{Name: "good", File: "x.txt", Use: feed.Allow}, State: feed.State{LastAttempt: at, LastSuccess: at, Indicators: 12, BadLines: 2}},
		{Config: feed.Config{Name: "less"}, State: feed.State{LastAttempt: at, Warning: "it shrank"}},
		{Config: feed.Config{Name: "new", Disabled: true}},
	}
	for i := range feedsPerPage {
		w.feeds.list = append(w.feeds.list, feed.Feed{Config: feed.Config{Name: fmt.Sprintf("z%02d", i)}})
	}
	page := w.page(t, "/console/feeds")
	got := text(t, page)
	for _, s := range []string{"Failed 3 times no route", "what it lists is exempt x.txt Healthy Refresh 12 2 unreadable 2026-11-02 09:00:00 UTC", "Not taken it shrank Refresh Take it even so", "Disabled 0", "Not fetched yet"} {
		if !strings.Contains(got, s) {
			t.Errorf("the page does not say %q: %s", s, got)
		}
	}
	if !strings.Contains(page, `href="/console/feeds?after=z45"`) || strings.Contains(page, "z46") {
		t.Error("the first page does not hold 50 feeds, with a way to the next")
	}
	if next := w.page(t, "/console/feeds?after=z45"); !strings.Contains(next, "z49") || strings.Contains(next, "z45<") {
		t.Error("the second page does not hold the others")
	}
	c := w.cookie(t)
	for _, tc := range []struct {
		name, do string
		status   int
	}{{"bad", "refresh", 303}, {"less", "accept", 303}, {"none", "refresh", 404}, {"bad", "", 400}} {
		if rec := w.ask("POST", "/console/feeds", query("name", tc.name, "do", tc.do).Encode(), with(c)); rec.Code != tc.status {
			t.Errorf("%s %s: %d, want %d", tc.do, tc.name, rec.Code, tc.status)
		}
	}
	if want := []string{"bad false", "less true"}; !slices.Equal(w.feeds.asked, want) {
		t.Errorf("refreshed %q, want %q", w.feeds.asked, want)
	}
	if !strings.Contains(w.logged.String(), `what="POST /console/feeds" target=feeds outcome=done status=303 feed=less accept=true`) {
		t.Error("the audit has no record")
	}
}

func TestFeeds_Lookup(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	for _, c := range []struct {
		value   string
		verdict intel.Verdict
		says    []string
	}{
		{"no+address", intel.Verdict{}, []string{"is no address"}},
		{"192.0.2.1", intel.Verdict{}, []string{"Traffic with it matches nothing", "No feed and no list has it."}},
		{"192.0.2.1", intel.Verdict{Match: &intel.Indicator{Value: "192.0.2.0/24"}, Listed: slices.Repeat([]intel.Listed{{Indicator: intel.Indicator{Value: "192.0.2.0/24", Source: "mine", Confidence: 75}}}, maxListed+3)},
			[]string{"Traffic with it is an alert", "by mine , confidence 75", "3 more are not shown."}},
		{"192.0.2.1", intel.Verdict{Exempt: "192.0.2.0/28", Listed: []intel.Listed{{Ignored: "exempt"}}}, []string{"It is exempt: 192.0.2.0/28", "does not count: exempt"}},
	} {
		w.feeds.verdict = c.verdict
		got := text(t, w.page(t, "/console/feeds?value="+c.value))
		for _, s := range c.says {
			if !strings.Contains(got, s) {
				t.Errorf("%s: the page does not say %q: %s", c.value, s, got)
			}
		}
	}
}

func TestDetectors_AreSwitched(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	c := w.cookie(t)
	for _, tc := range []struct {
		name, do string
		status   int
	}{{"none", "disable", 404}, {"scan", "", 400}, {"scan", "disable", 303}} {
		if rec := w.ask("POST", "/console/detectors", query("name", tc.name, "do", tc.do).Encode(), with(c)); rec.Code != tc.status {
			t.Errorf("%s %s: %d, want %d", tc.do, tc.name, rec.Code, tc.status)
		}
	}
	if got := text(t, w.page(t, "/console/detectors")); !w.feeds.off["scan"] || !strings.Contains(got, "IoT_NetworkScan Off Switch on") {
		t.Errorf("it is not off, or the page does not say so: %s", got)
	}
}
