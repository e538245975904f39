package ui

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"net/http"
	"net/http/httptest"
	"net/url"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/net/html"

	"github.com/vauban-iot/vauban/bus"
	"github.com/vauban-iot/vauban/central/live"
	"github.com/vauban-iot/vauban/defender/alert"
	"github.com/vauban-iot/vauban/defender/baseline"
	"github.com/vauban-iot/vauban/defender/behaviour"
	"github.com/vauban-iot/vauban/defender/export"
	"github.com/vauban-iot/vauban/defender/group"
	"github.com/vauban-iot/vauban/defender/intel"
	"github.com/vauban-iot/vauban/defender/intel/feed"
	"github.com/vauban-iot/vauban/defender/posture"
	"github.com/vauban-iot/vauban/defender/privacy"
	"github.com/vauban-iot/vauban/defender/record"
	"github.com/vauban-iot/vauban/fault"
	"github.com/vauban-iot/vauban/hub/registry"
	"github.com/vauban-iot/vauban/hub/telemetry"
	"github.com/vauban-iot/vauban/hub/twin"
	"github.com/vauban-iot/vauban/internal/secret"
	"github.com/vauban-iot/vauban/iot"
)

const password = "ramparts and ravelins"

// hub is a registry with twins in memory.
type hub struct {
	mu      sync.Mutex
	devices map[string]registry.Identity
	twins   map[string]twin.Twin
	more    int // devices that exist beyond those of a list
	err     error
	lists   int
}

func (h *hub) put(d registry.Identity, t twin.Twin) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.devices[d.ID.Device], h.twins[d.ID.Device] = d, t
}

func (h *hub) remove(id string) {
	h.mu.Lock()
	defer h.mu.Unlock()
	delete(h.devices, id)
}

func (h *hub) fail(err error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.err = err
}

func (h *hub) Devices(_ context.Context, top int) ([]registry.Identity, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.lists++
	all := slices.SortedFunc(maps.Values(h.devices), func(a, b registry.Identity) int { return cmp.Compare(a.ID.Device, b.ID.Device) })
	return all[:min(top, len(all))], h.err
}

func (h *hub) Device(_ context.Context, id iot.ID) (registry.Identity, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if d, ok := h.devices[id.Device]; ok || h.err != nil {
		return d, h.err
	}
	return registry.Identity{}, fault.New(fault.NotFound, "no such device")
}

func (h *hub) Twin(ctx context.Context, id iot.ID) (registry.Identity, twin.Twin, error) {
	d, err := h.Device(ctx, id)
	h.mu.Lock()
	defer h.mu.Unlock()
	return d, h.twins[id.Device], err
}

func (h *hub) Statistics(context.Context) (registry.Statistics, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	s := registry.Statistics{Total: len(h.devices) + h.more}
	for _, d := range h.devices {
		if d.Connected {
			s.Connected++
		}
		if d.Status == registry.Disabled {
			s.Disabled++
		}
	}
	return s, h.err
}

// alerts is an alert store in memory, newest first.
type alerts struct {
	mu   sync.Mutex
	list []alert.Alert

	suppressions []alert.Suppression
}

func (s *alerts) raise(a alert.Alert) {
	s.mu.Lock()
	defer s.mu.Unlock()
	a.Sequence = uint64(len(s.list) + 1)
	s.list = append([]alert.Alert{a}, s.list...)
}

func (s *alerts) Alert(_ context.Context, id string) (alert.Alert, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, a := range s.list {
		if a.ID == id {
			a.Explain()
			return a, nil
		}
	}
	return alert.Alert{}, fault.New(fault.NotFound, "alert %s does not exist", id)
}

func (s *alerts) Judge(_ context.Context, id string, v alert.Verdict) (alert.Alert, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for i := range s.list {
		if a := &s.list[i]; a.ID == id {
			if a.Status == alert.Dismissed {
				return *a, fault.New(fault.PreconditionFailed, "it is dismissed")
			}
			a.Status, a.StatusBy, a.Comment, a.StatusTime = v.Status, v.By, v.Comment, v.Time
			return *a, nil
		}
	}
	return alert.Alert{}, fault.New(fault.NotFound, "alert %s does not exist", id)
}

func (s *alerts) Suppress(_ context.Context, p alert.Suppression) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.suppressions = append(s.suppressions, p)
	return 1, nil
}

func (s *alerts) Alerts(_ context.Context, f alert.Filter) ([]alert.Alert, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	var found []alert.Alert
	for _, a := range s.list {
		if (f.Device == "" || f.Device == a.Device) && (f.Type == "" || f.Type == a.Type) && (f.Severity == "" || f.Severity == a.Severity) &&
			(f.Status == "" || f.Status == a.Status) && (f.Group == "" || f.Group == a.Group) && (f.Before == 0 || a.Sequence < f.Before) && len(found) < f.Limit {
			found = append(found, a)
		}
	}
	return found, nil
}

// holds is containment in memory.
type holds struct {
	mu  sync.Mutex
	hub *hub
	all map[string]registry.Containment
}

func (s *holds) Containment(ctx context.Context, device string) (registry.Containment, error) {
	if _, err := s.hub.Device(ctx, iot.ID{Device: device}); err != nil {
		return registry.Containment{}, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	c := s.all[device]
	c.Device = device
	return c, nil
}

func (s *holds) set(device string, c registry.Containment) (registry.Containment, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.all[device] = c
	s.hub.mu.Lock()
	defer s.hub.mu.Unlock()
	d := s.hub.devices[device]
	d.Containment = c.Level
	s.hub.devices[device] = d
	return c, nil
}

func (s *holds) Contain(ctx context.Context, device string, level registry.Level, reason, by string) (registry.Containment, error) {
	before, err := s.Containment(ctx, device)
	if err != nil {
		return before, err
	}
	return s.set(device, registry.Containment{Device: device, Level: level, Reason: reason, By: by, Since: time.Unix(0, 0), Before: &before})
}

func (s *holds) Uncontain(ctx context.Context, device, by string) (registry.Containment, error) {
	c, err := s.Containment(ctx, device)
	if err != nil || c.Before == nil {
		return c, cmp.Or(err, fault.New(fault.PreconditionFailed, "there is nothing to undo"))
	}
	return s.set(device, *c.Before)
}

func (s *holds) ContainmentEffect(_ context.Context, device string, to registry.Level) (registry.Effect, error) {
	return registry.Effect{Device: device, To: to, Sessions: slices.Repeat([]string{device + "/module"}, 30), Refused: []string{"direct methods"}, Allowed: []string{"telemetry"}, Waiting: 2, Below: 3, BelowConnected: 1}, nil
}

// hygiene is a store of recommendations in memory, the last changed first.
type hygiene struct {
	mu       sync.Mutex
	list     []posture.Recommendation
	totals   posture.Totals
	disabled posture.Disabled
	asked    []posture.Filter
}

func (s *hygiene) Recommendations(_ context.Context, f posture.Filter) ([]posture.Recommendation, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.asked = append(s.asked, f)
	var found []posture.Recommendation
	for _, r := range s.list {
		if (f.Device == "" || f.Device == r.Device) && (f.State == "" || f.State == r.State) && (f.Type == "" || f.Type == r.Type) && (!f.Hub || r.Device == "") &&
			(f.Before == 0 || r.Sequence < f.Before) && len(found) < f.Limit {
			found = append(found, r)
		}
	}
	return found, nil
}

func (s *hygiene) Recommendation(_ context.Context, id string) (posture.Recommendation, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, r := range s.list {
		if r.ID == id {
			return r, nil
		}
	}
	return posture.Recommendation{}, fault.New(fault.NotFound, "no such recommendation")
}

func (s *hygiene) Totals(context.Context, posture.Whole) (posture.Totals, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.totals, nil
}

func (s *hygiene) Disabled(context.Context) (posture.Disabled, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return maps.Clone(s.disabled), nil
}

func (s *hygiene) Enable(_ context.Context, enabled bool, _ time.Time, names ...string) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, n := range names {
		if delete(s.disabled, n); !enabled {
			s.disabled[n] = true
		}
	}
	return 2, nil
}

// settings are in memory.
type settings struct {
	mu  sync.Mutex
	all map[string][]byte
}

func (s *settings) Setting(_ context.Context, name string) ([]byte, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.all[name], nil
}

func (s *settings) UpdateSetting(_ context.Context, name string, change func([]byte) ([]byte, error)) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	v, err := change(s.all[name])
	if err == nil {
		s.all[name] = v
	}
	return err
}

func (s *settings) SecurityGroups(context.Context, []string) (map[string]string, error) {
	return nil, nil
}

// groupSizes are counted already.
type groupSizes []group.Size

func (s groupSizes) GroupSizes(_ context.Context, limit int) ([]group.Size, int, error) {
	return s[:min(len(s), limit)], 3, nil
}

// baselines are those of groups in memory.
type baselines struct {
	mu  sync.Mutex
	all map[string]baseline.Baseline
	mud []byte
}

func (s *baselines) Baseline(_ context.Context, name string) (baseline.Baseline, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if b, ok := s.all[name]; ok {
		return b, nil
	}
	return baseline.Baseline{}, fault.New(fault.NotFound, "no baseline")
}

func (s *baselines) State(ctx context.Context, name string) (baseline.State, error) {
	b, err := s.Baseline(ctx, name)
	if err != nil {
		return baseline.Off, nil
	}
	return b.State, nil
}

func (s *baselines) become(ctx context.Context, name, by string, change func(*baseline.Baseline)) (baseline.Baseline, error) {
	b, err := s.Baseline(ctx, name)
	if err != nil {
		return b, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	b.By = by
	b.Version++
	change(&b)
	s.all[name] = b
	return b, nil
}

func (s *baselines) Learn(ctx context.Context, name, by string, t baseline.Terms) (baseline.Baseline, error) {
	s.mu.Lock()
	s.all[name] = baseline.Baseline{Group: name}
	s.mu.Unlock()
	return s.become(ctx, name, by, func(b *baseline.Baseline) { b.State, b.Terms = baseline.Learning, t })
}

func (s *baselines) Propose(ctx context.Context, name, by string) (baseline.Baseline, error) {
	return s.become(ctx, name, by, func(b *baseline.Baseline) { b.State = baseline.Proposed })
}

func (s *baselines) Enforce(ctx context.Context, name, by string) (baseline.Baseline, error) {
	return s.become(ctx, name, by, func(b *baseline.Baseline) { b.State = baseline.Enforced })
}

func (s *baselines) Relax(ctx context.Context, name, by string) (baseline.Baseline, error) {
	return s.become(ctx, name, by, func(b *baseline.Baseline) { b.State = baseline.Proposed })
}

func (s *baselines) Edit(ctx context.Context, name, by string, e baseline.Edit) (baseline.Baseline, error) {
	return s.become(ctx, name, by, func(b *baseline.Baseline) {
		b.Entries = slices.Clone(b.Entries)
		for i := range b.Entries {
			if d, ok := e.Decisions[b.Entries[i].ID]; ok {
				b.Entries[i].Decision, b.Entries[i].DecidedBy = d, by
			}
		}
		b.Limits = slices.Clone(b.Limits)
		for i := range b.Limits {
			for _, l := range e.Limits {
				if l.Measure == b.Limits[i].Measure {
					b.Limits[i].Decision = l.Decision
				}
			}
		}
	})
}

func (s *baselines) TurnOff(_ context.Context, name string) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.all, name)
	return nil
}

func (s *baselines) Preview(ctx context.Context, name string, days int) (baseline.Preview, error) {
	b, err := s.Baseline(ctx, name)
	return baseline.Preview{
		Group: name, Version: b.Version, Messages: 70, Devices: 4, Alerts: 3 * days, Alerting: 2, Types: map[string]int{alert.BaselinePeer: 3 * days}, Partial: true,
		Loudest: []baseline.Loud{{Device: name, Alerts: 5}}, Examples: []alert.Alert{{Device: name, Title: name, Description: name}}, Unresolved: []string{name},
	}, err
}

func (s *baselines) ImportMUD(ctx context.Context, name, by string, text []byte, merge bool) (baseline.Baseline, error) {
	s.mu.Lock()
	s.mud = text
	s.all[name] = baseline.Baseline{Group: name}
	s.mu.Unlock()
	return s.become(ctx, name, by, func(b *baseline.Baseline) {
		b.State, b.MUD = baseline.Proposed, &baseline.Maker{URL: "https://maker.example/x", Supported: merge}
	})
}

func (s *baselines) ExportMUD(ctx context.Context, name, _, _ string) ([]byte, error) {
	_, err := s.Baseline(ctx, name)
	return []byte(`{"ietf-mud:mud":{}}`), err
}

// feeds are those of threat intelligence in memory, and the switches of detectors.
// exports are some, and take every test but that of one called broken.
type exports struct {
	list   []export.Export
	tested []string
}

func (s *exports) Exports(context.Context) ([]export.Export, error) { return s.list, nil }

func (s *exports) Test(_ context.Context, name string) error {
	if name == "broken" {
		return fault.New(fault.Unavailable, "the test was not taken: no route")
	}
	s.tested = append(s.tested, name)
	return nil
}

// said is what agents said, newest first.
type said struct {
	list  []record.Event
	asked []record.Filter
}

func (s *said) SecurityEvents(_ context.Context, f record.Filter) ([]record.Event, error) {
	s.asked = append(s.asked, f)
	return s.list[:min(len(s.list), f.Limit)], nil
}

type feeds struct {
	mu      sync.Mutex
	list    []feed.Feed
	verdict intel.Verdict
	asked   []string
	off     map[string]bool
}

func (s *feeds) Feeds(context.Context) ([]feed.Feed, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.list, nil
}

func (s *feeds) Refresh(_ context.Context, name string, accept bool) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	for i := range s.list {
		if s.list[i].Name == name {
			s.asked = append(s.asked, fmt.Sprint(name, " ", accept))
			return nil
		}
	}
	return fault.New(fault.NotFound, "there is no feed %q", name)
}

func (s *feeds) Lookup(value string) (intel.Verdict, error) {
	if strings.Contains(value, " ") {
		return intel.Verdict{}, fault.New(fault.Invalid, "%q is no address", value)
	}
	return s.verdict, nil
}

func (s *feeds) Detectors(context.Context) ([]behaviour.State, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return []behaviour.State{{Name: "scan", Title: "Scans", Types: []string{alert.NetworkScan}, Enabled: !s.off["scan"]}}, nil
}

func (s *feeds) SwitchDetector(_ context.Context, name string, enabled bool) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if name != "scan" {
		return fault.New(fault.NotFound, "there is no detector %q", name)
	}
	s.off[name] = !enabled
	return nil
}

// log is a telemetry log in memory with one reader.
type log struct {
	mu sync.Mutex
	n  uint64
	in chan bus.Entry
}

func (l *log) Append(_ context.Context, data []byte) (uint64, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.n++
	if l.in != nil {
		l.in <- bus.Entry{Sequence: l.n, Data: slices.Clone(data)}
	}
	return l.n, nil
}

func (l *log) Follow(ctx context.Context, _ bus.Start, ready func(), handle func(bus.Entry) error) error {
	in := make(chan bus.Entry, 10000)
	l.mu.Lock()
	l.in = in
	l.mu.Unlock()
	ready()
	for {
		select {
		case <-ctx.Done():
			return nil
		case e := <-in:
			if err := handle(e); err != nil {
				return err
			}
		}
	}
}

// clock is a time that tests move.
type clock struct {
	mu sync.Mutex
	at time.Time
}

func (c *clock) now() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.at
}

func (c *clock) pass(d time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.at = c.at.Add(d)
}

// world is a console on fakes that work.
type world struct {
	*Console
	hub    *hub
	alerts *alerts
	holds  *holds
	clock  *clock
	intake *telemetry.Intake
	logged *lockedBuffer

	hygiene   *hygiene
	groups    *group.Book
	sizes     groupSizes
	baselines *baselines
	feeds     *feeds
	exports   *exports
	said      *said
}

type lockedBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *lockedBuffer) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *lockedBuffer) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}

func newWorld(t testing.TB) *world {
	t.Helper()
	l := &log{}
	feed := live.New(l, slog.New(slog.DiscardHandler))
	w := &world{
		hub:    &hub{devices: make(map[string]registry.Identity), twins: make(map[string]twin.Twin)},
		alerts: &alerts{}, clock: &clock{at: time.Date(2026, 11, 2, 10, 0, 0, 0, time.UTC)}, intake: telemetry.NewIntake(l, nil), logged: &lockedBuffer{},
	}
	w.hygiene = &hygiene{disabled: posture.Disabled{}}
	w.holds = &holds{hub: w.hub, all: make(map[string]registry.Containment)}
	w.feeds = &feeds{off: make(map[string]bool)}
	w.exports, w.said = &exports{}, &said{}
	kept := &settings{all: make(map[string][]byte)}
	w.groups, w.baselines = group.NewBook(kept, nil), &baselines{all: make(map[string]baseline.Baseline)}
	guard, err := privacy.New(privacy.Config{Store: kept, Key: secret.New([]byte("key"))})
	if err != nil {
		t.Fatal(err)
	}
	w.Console, err = New(Config{
		Intel: w.feeds, Detectors: w.feeds, Exports: w.exports, Events: w.said,
		Groups: w.groups, GroupSizes: &w.sizes, Privacy: guard, Baselines: w.baselines,
		Password: secret.New([]byte(password)), Devices: w.hub, Alerts: w.alerts, Feed: feed, Containment: w.holds, Recommendations: w.hygiene, Version: "1.2.3", Hostname: "hub.example",
		Now: w.clock.now, Logger: slog.New(slog.NewTextHandler(w.logged, &slog.HandlerOptions{Level: slog.LevelDebug})),
	})
	if err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(context.Background())
	var wg sync.WaitGroup
	wg.Go(func() { feed.Run(ctx) })
	wg.Go(func() { w.intake.Run(ctx) })
	t.Cleanup(func() {
		stop()
		wg.Wait()
	})
	return w
}

func device(id string) registry.Identity {
	return registry.Identity{
		ID: iot.ID{Device: id}, Generation: "1", Status: registry.Enabled,
		Authentication: registry.Authentication{Type: registry.SAS, PrimaryKey: secret.New([]byte("primary key material"))},
	}
}

// ask sends a request from a browser with the given cookies and changes.
func (w *world) ask(method, target, form string, change ...func(*http.Request)) *httptest.ResponseRecorder {
	r := httptest.NewRequest(method, target, strings.NewReader(form))
	if form != "" {
		r.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	}
	for _, c := range change {
		c(r)
	}
	rec := httptest.NewRecorder()
	w.ServeHTTP(rec, r)
	return rec
}

func with(c *http.Cookie) func(*http.Request) { return func(r *http.Request) { r.AddCookie(c) } }

func from(address string) func(*http.Request) {
	return func(r *http.Request) { r.RemoteAddr = address }
}

func signInForm(user, password string) string {
	return url.Values{"user": {user}, "password": {password}}.Encode()
}

// cookie is that of a fresh session.
func (w *world) cookie(t testing.TB) *http.Cookie {
	t.Helper()
	rec := w.ask("POST", "/console/sign-in", signInForm("admin", password))
	for _, c := range rec.Result().Cookies() {
		if c.Name == cookieName && c.Value != "" {
			return c
		}
	}
	t.Fatalf("signing in answered %d without a cookie", rec.Code)
	return nil
}

// page fetches a page of somebody who is signed in.
func (w *world) page(t testing.TB, target string) string {
	t.Helper()
	rec := w.ask("GET", target, "", with(w.cookie(t)))
	if rec.Code != 200 {
		t.Fatalf("GET %s: %d %s", target, rec.Code, rec.Body)
	}
	return rec.Body.String()
}

// text is what a page says, without markup.
func text(t testing.TB, page string) string {
	t.Helper()
	var b strings.Builder
	for z := html.NewTokenizer(strings.NewReader(page)); ; {
		switch z.Next() {
		case html.ErrorToken:
			if !errors.Is(z.Err(), io.EOF) {
				t.Fatal(z.Err())
			}
			return strings.Join(strings.Fields(b.String()), " ")
		case html.TextToken:
			b.Write(z.Text())
			b.WriteByte(' ')
		}
	}
}

var (
	livePages      = []string{"/console/devices", "/console/device?id=lamp", "/console/alerts", "/console/alerts?status=open"}
	pagesOfConsole = append([]string{
		"/console/contain?device=lamp", "/console/contain?device=lamp&level=cut", "/console/recommendations", "/console/recommendation-types",
		"/console/groups", "/console/group?name=plant", "/console/baseline?group=plant", "/console/feeds?value=192.0.2.1", "/console/detectors",
	}, livePages...)
)

func TestConsole_StrangersSeeNothing(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.hub.put(device("lamp"), twin.Twin{})
	forged := &http.Cookie{Name: cookieName, Value: "forged"}
	for _, cookies := range [][]func(*http.Request){nil, {with(forged)}, {with(&http.Cookie{Name: cookieName})}} {
		for _, target := range pagesOfConsole {
			rec := w.ask("GET", target, "", cookies...)
			if got := rec.Header().Get("Location"); rec.Code != 303 || !strings.HasPrefix(got, "/console/sign-in") || strings.Contains(rec.Body.String(), "hub.example") {
				t.Errorf("%s: %d to %q with %q, want the sign-in page", target, rec.Code, got, rec.Body)
			}
			if !slices.Contains(livePages, target) {
				continue
			}
			stream, query, _ := strings.Cut(target, "?")
			if rec := w.ask("GET", stream+"/stream?"+query, "", cookies...); rec.Code != 401 {
				t.Errorf("%s/stream: %d, want 401", target, rec.Code)
			}
		}
	}
	for _, target := range []string{"/console/sign-in", "/console/assets/" + w.assets.names["console.css"]} {
		if rec := w.ask("GET", target, ""); rec.Code != 200 {
			t.Errorf("%s: %d, want 200", target, rec.Code)
		}
	}
}

func TestConsole_EveryAnswerIsGuarded(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	for _, c := range []struct {
		method, target string
		status         int
	}{
		{"GET", "/", 303},
		{"GET", "/console", 303},
		{"GET", "/console/", 303},
		{"GET", "/console/nothing", 404},
		{"GET", "/console/assets/nothing.js", 404},
		{"GET", "/console/device", 404},
		{"GET", "/console/device?id=absent", 404},
		{"GET", "/console/device?id=a/b", 404},
		{"GET", "/console/device/stream?id=a/b", 404},
		{"GET", "/console/alerts?before=x", 200},
		{"DELETE", "/console/devices", 405},
		{"GET", "/console/sign-out", 404},
		{"PUT", "/console/nothing", 405},
	} {
		rec := w.ask(c.method, c.target, "", with(w.cookie(t)))
		if rec.Code != c.status {
			t.Errorf("%s %s: %d, want %d", c.method, c.target, rec.Code, c.status)
		}
		h := rec.Header()
		if got := h.Get("Content-Security-Policy"); !strings.HasPrefix(got, "default-src 'none'; ") || strings.Contains(got, "unsafe") {
			t.Errorf("%s %s: content security policy %q", c.method, c.target, got)
		}
		for name, want := range map[string]string{
			"X-Content-Type-Options": "nosniff", "Referrer-Policy": "same-origin", "Cross-Origin-Opener-Policy": "same-origin", "Cache-Control": "no-store",
		} {
			if got := h.Get(name); got != want {
				t.Errorf("%s %s: %s is %q, want %q", c.method, c.target, name, got, want)
			}
		}
	}
}

func TestConsole_FailuresAreExplainedAndOpaque(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.hub.fail(errors.New("disk secret"))
	rec := w.ask("GET", "/console/device?id=lamp", "", with(w.cookie(t)))
	if rec.Code != 500 || strings.Contains(rec.Body.String(), "disk secret") || !strings.Contains(w.logged.String(), "disk secret") {
		t.Errorf("%d %s; want 500, with the reason in the log alone", rec.Code, rec.Body)
	}
	w.hub.fail(fault.New(fault.Unavailable, "the store is closed"))
	if rec := w.ask("GET", "/console/device?id=lamp", "", with(w.cookie(t))); rec.Code != 503 || !strings.Contains(rec.Body.String(), "the store is closed") {
		t.Errorf("%d %s; want 503 with the reason", rec.Code, rec.Body)
	}
	for _, k := range fault.Kinds() {
		w.hub.fail(fault.New(k, "public words"))
		if rec := w.ask("GET", "/console/device?id=lamp", "", with(w.cookie(t))); rec.Code < 400 {
			t.Errorf("%v: %d, want a failure", k, rec.Code)
		}
	}
}

func TestAssets(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	page := w.ask("GET", "/console/sign-in", "").Body.String()
	for plain, hashed := range w.assets.names {
		rec := w.ask("GET", assetPath+hashed, "")
		if rec.Code != 200 || rec.Header().Get("Cache-Control") != "public, max-age=31536000, immutable" || rec.Header().Get("Content-Type") == "" {
			t.Errorf("%s: %d, %v", hashed, rec.Code, rec.Header())
		}
		if w.ask("GET", assetPath+plain, "").Code != 404 {
			t.Errorf("%s is served under a name that could be kept for too long", plain)
		}
		if strings.HasSuffix(plain, ".css") {
			for ref := range strings.SplitSeq(rec.Body.String(), "url(") {
				name, _, _ := strings.Cut(ref, ")")
				if _, ok := w.assets.files[name]; !ok && strings.HasSuffix(name, ".svg") {
					t.Errorf("%s refers to %s, which does not exist", plain, name)
				}
			}
		}
		used := strings.Contains(page, hashed)
		for _, other := range w.assets.files {
			used = used || bytes.Contains(other.data, []byte(hashed))
		}
		if !used {
			t.Errorf("%s is used by nothing", plain)
		}
	}
}

func TestDevices_Page(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	if got := text(t, w.page(t, "/console/devices")); !strings.Contains(got, "No device yet") || !strings.Contains(got, "vauban device create lamp-1") {
		t.Errorf("an empty list teaches nothing: %s", got)
	}
	on := device("Lamp-1")
	on.Connected, on.LastActivity = true, time.Date(2026, 11, 2, 9, 59, 58, 0, time.UTC)
	off := device("press-7")
	off.Status, off.Authentication.Type = registry.Disabled, registry.CertificateAuthority
	for _, d := range []registry.Identity{on, off} {
		w.hub.put(d, twin.Twin{})
	}
	for _, c := range []struct {
		query       string
		has, hasNot []string
	}{
		{"", []string{"2 ", "Lamp-1 Connected Enabled 2026-11-02 09:59:58 UTC Symmetric key", "press-7 Disconnected Disabled never X.509, signed by a CA"}, []string{"No device", "the first 1000"}},
		{"?q=lAmP", []string{"Lamp-1"}, []string{"press-7"}},
		{"?q=%3Cb%3E", []string{"No device id contains <b> ."}, []string{"Lamp-1", "press-7"}},
		{"?q=" + strings.Repeat("x", 500), []string{"No device id contains " + strings.Repeat("x", 128) + " ."}, nil},
	} {
		c2 := newWorld(t) // its cache is fresh
		c2.hub.devices, c2.hub.twins = w.hub.devices, w.hub.twins
		got := html.UnescapeString(text(t, c2.page(t, "/console/devices"+c.query)))
		for _, s := range c.has {
			if !strings.Contains(got, s) {
				t.Errorf("%q: the page does not say %q: %s", c.query, s, got)
			}
		}
		for _, s := range c.hasNot {
			if strings.Contains(got, s) {
				t.Errorf("%q: the page says %q: %s", c.query, s, got)
			}
		}
	}
}

func TestDevices_MoreThanThePageHolds(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	for i := range devicesPerPage {
		w.hub.put(device(fmt.Sprintf("a-%04d", i)), twin.Twin{})
	}
	w.hub.put(device("zebra"), twin.Twin{}) // the list ends before it
	got := w.page(t, "/console/devices")
	if !strings.Contains(text(t, got), "There are 1001 devices; the list holds the first 1000") || strings.Contains(got, "zebra") {
		t.Error("the page does not say that it holds the first 1000 of 1001")
	}
	if got := w.page(t, "/console/devices?q=zebra"); !strings.Contains(got, `href="/console/device?id=zebra"`) {
		t.Error("a device beyond the list is not found by its whole id")
	}
	if got := text(t, w.page(t, "/console/devices?q=zeb")); !strings.Contains(got, "No device id contains zeb") {
		t.Errorf("half an id: %s", got)
	}
}

func TestDevice_Page(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.hub.put(device("lamp"), twin.Twin{
		Desired: json.RawMessage(`{"interval":5}`), DesiredVersion: 3, Reported: json.RawMessage(`{"a":{"b":1.50}}`), ReportedVersion: 7, ModelID: "dtmi:example:lamp;1",
	})
	w.alerts.raise(alert.Alert{Device: "another", Title: "Not this one", Severity: alert.High})
	w.alerts.raise(alert.Alert{Type: alert.TiConnection, Device: "lamp", Title: "This one", Severity: alert.High, Count: 2, Indicator: "203.0.113.0/24", Source: "x.txt:4"})
	page := w.page(t, "/console/device?id=lamp")
	got := html.UnescapeString(text(t, page))
	for _, s := range []string{`{ "interval": 5 }`, `{ "a": { "b": 1.50 } }`, "Version 3", "Version 7", "dtmi:example:lamp;1", "This one", "2 flows", "203.0.113.0/24", "x.txt:4", "vauban monitor --device lamp"} {
		if !strings.Contains(got, s) {
			t.Errorf("the page does not say %q: %s", s, got)
		}
	}
	for _, s := range []string{"Not this one", "primary key material", "cHJpbWFyeSBrZXkgbWF0ZXJpYWw", password} {
		if strings.Contains(page, s) {
			t.Errorf("the page says %q", s)
		}
	}
	if !strings.Contains(page, `data-stream="/console/device/stream?id=lamp"`) {
		t.Error("the page names no stream")
	}
}

func TestAlerts_AreJudged(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.alerts.raise(alert.Alert{ID: "a1", Type: alert.TiConnection, Device: "lamp", Title: "This one", Severity: alert.High, Indicator: "203.0.113.5", Evidence: []alert.Evidence{{Event: "NetworkActivity", Details: []byte(`{"remote_address":"203.0.113.5"}`)}}})
	page := text(t, w.page(t, "/console/alert?id=a1"))
	for _, want := range []string{"Open", "NetworkActivity", "203.0.113.5", "T0885", "Command and Control", "block the address", "Dismiss for good"} {
		if !strings.Contains(page, want) {
			t.Errorf("the page lacks %q: %s", want, page)
		}
	}
	c := w.cookie(t)
	for name, tc := range map[string]struct {
		form   url.Values
		status int
	}{
		"an unknown alert": {url.Values{"id": {"a2"}, "do": {"dismiss"}}, 404},
		"nothing to do":    {url.Values{"id": {"a1"}}, 400},
		"no time":          {url.Values{"id": {"a1"}, "do": {"suppress"}, "hours": {"9"}}, 400},
		"a long comment":   {url.Values{"id": {"a1"}, "do": {"dismiss"}, "comment": {strings.Repeat("x", 1500)}}, 400},
	} {
		if rec := w.ask("POST", "/console/alert", tc.form.Encode(), with(c)); rec.Code != tc.status {
			t.Errorf("%s: %d", name, rec.Code)
		}
	}
	if rec := w.ask("POST", "/console/alert", url.Values{"id": {"a1"}, "do": {"dismiss"}}.Encode()); rec.Code != 303 || !strings.HasPrefix(rec.Header().Get("Location"), "/console/sign-in") {
		t.Errorf("a stranger: %d", rec.Code)
	}
	if a, _ := w.alerts.Alert(t.Context(), "a1"); a.Status != "" {
		t.Errorf("a refused form changed it: %+v", a)
	}
	post := func(form url.Values) {
		t.Helper()
		rec := w.ask("POST", "/console/alert", form.Encode(), with(c))
		if rec.Code != 303 || rec.Header().Get("Location") != "/console/alert?id=a1" {
			t.Errorf("%v: %d %s", form, rec.Code, rec.Body)
		}
	}
	post(url.Values{"id": {"a1"}, "do": {"suppress"}, "hours": {"24"}, "comment": {"works"}})
	if p := w.alerts.suppressions[0]; p.Type != alert.TiConnection || p.Device != "lamp" || p.Indicator != "203.0.113.5" || p.Reason != "works" || p.By != "admin" ||
		p.Expires.Sub(p.Created) != 24*time.Hour || p.Check(p.Created) != nil {
		t.Errorf("suppressed %+v", p)
	}
	post(url.Values{"id": {"a1"}, "do": {"resolve"}})
	post(url.Values{"id": {"a1"}, "do": {"dismiss"}, "comment": {"known"}})
	page = text(t, w.page(t, "/console/alert?id=a1"))
	if !strings.Contains(page, "Dismissed") || !strings.Contains(page, "known") || strings.Contains(page, "Dismiss for good") {
		t.Errorf("afterwards: %s", page)
	}
	if !strings.Contains(w.logged.String(), `msg=change audit=true who=admin what="POST /console/alert" target=alert outcome=done status=303 alert=a1 do=dismiss type=IoT_TiConnection device=lamp`) {
		t.Error("the audit has no record")
	}
}

func TestAlerts_Pages(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	if got := text(t, w.page(t, "/console/alerts")); !strings.Contains(got, "The walls hold.") {
		t.Errorf("without alerts: %s", got)
	}
	w = newWorld(t)
	for i := range alertsPerPage + 1 {
		w.alerts.raise(alert.Alert{Device: fmt.Sprintf("d%d", i+1), Title: "t", Severity: alert.High})
	}
	first := w.page(t, "/console/alerts")
	if !strings.Contains(first, "id=d101") || strings.Contains(first, `id=d1"`) || !strings.Contains(first, `href="/console/alerts?before=2"`) || !strings.Contains(first, "data-stream") {
		t.Error("the first page does not hold the newest 100, live, with a way to older ones")
	}
	older := w.page(t, "/console/alerts?before=2")
	if strings.Contains(older, "id=d101") || !strings.Contains(older, `id=d1"`) || strings.Contains(older, "data-stream") {
		t.Error("the second page does not hold the last one, standing still")
	}
}
