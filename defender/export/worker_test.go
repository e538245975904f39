package export

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/vauban-iot/vauban/defender/alert"
	"github.com/vauban-iot/vauban/defender/posture"
	"github.com/vauban-iot/vauban/defender/record"
	"github.com/vauban-iot/vauban/fault"
)

// memory is a store, and what is exported.
type memory struct {
	mu         sync.Mutex
	exports    map[string]Export
	generation int64
	saves      int
	changes    []alert.Change
	events     []record.Event
	advice     []posture.Recommendation
}

func (m *memory) Exports(context.Context) ([]Export, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	var all []Export
	for _, e := range m.exports {
		all = append(all, e)
	}
	slices.SortFunc(all, func(a, b Export) int { return strings.Compare(a.Name, b.Name) })
	return all, nil
}

func (m *memory) Export(_ context.Context, name string) (Export, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	e, ok := m.exports[name]
	if !ok {
		return e, fault.New(fault.NotFound, "export %s does not exist", name)
	}
	return e, nil
}

func (m *memory) PutExport(_ context.Context, name string, change func(*Export) (Export, error)) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	var old *Export
	if e, ok := m.exports[name]; ok {
		old = &e
	}
	next, err := change(old)
	if err != nil {
		return err
	}
	m.generation++
	next.Generation = m.generation
	m.exports[name] = next
	return nil
}

func (m *memory) DeleteExport(_ context.Context, name string) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	delete(m.exports, name)
	return nil
}

func (m *memory) SetExportState(_ context.Context, name string, generation int64, s State) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	e, ok := m.exports[name]
	if !ok || e.Generation != generation {
		return fault.New(fault.PreconditionFailed, "changed")
	}
	m.saves++
	e.State = s
	m.exports[name] = e
	return nil
}

func (m *memory) AlertChanges(_ context.Context, after alert.Place, limit int) (all []alert.Change, err error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, c := range m.changes {
		if c.Place.After(after) && len(all) < limit {
			all = append(all, c)
		}
	}
	return all, nil
}

func (m *memory) CountAlertChanges(ctx context.Context, after alert.Place, most int) (int, error) {
	all, err := m.AlertChanges(ctx, after, most)
	return len(all), err
}

func (m *memory) LastAlertChange(context.Context) (alert.Place, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	return alert.Place{Change: int64(len(m.changes)), Sequence: 1<<53 - 1}, nil
}

func (m *memory) AlertsChanged(context.Context, time.Time, time.Time, uint64, int) ([]alert.Change, error) {
	return nil, errors.ErrUnsupported
}

func (m *memory) SecurityEvents(context.Context, record.Filter) ([]record.Event, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if len(m.events) == 0 {
		return nil, nil
	}
	return m.events[len(m.events)-1:], nil
}

func (m *memory) EventsAfter(_ context.Context, s record.Span, limit int) (all []record.Event, err error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, e := range m.events {
		if e.Message > s.After.Message && len(all) < limit {
			all = append(all, e)
		}
	}
	return all, nil
}

func (m *memory) CountEvents(ctx context.Context, after record.Place, most int) (int, error) {
	all, err := m.EventsAfter(ctx, record.Span{After: after}, most)
	return len(all), err
}

func (m *memory) Recommendations(_ context.Context, f posture.Filter) (all []posture.Recommendation, err error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if !f.Oldest {
		return m.advice[max(0, len(m.advice)-1):], nil
	}
	for _, r := range m.advice {
		if r.Sequence > f.After && len(all) < f.Limit {
			all = append(all, r)
		}
	}
	return all, nil
}

// raise adds a new alert.
func (m *memory) raise(ids ...string) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, id := range ids {
		p := alert.Place{Change: int64(len(m.changes) + 1), Sequence: int64(len(m.changes) + 1)}
		m.changes = append(m.changes, alert.Change{Place: p, Born: p, At: time.Now(), Alert: alert.Alert{ID: id, Type: "IoT_X", Severity: alert.High, Status: alert.Open, FirstSeen: time.Now(), LastSeen: time.Now()}})
	}
}

func (m *memory) state(name string) State {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.exports[name].State
}

// receiver takes what a test lets it.
type receiver struct {
	mu     sync.Mutex
	answer func(items []item) error // nil: takes all
	got    []string
	tries  []time.Time
}

func (r *receiver) close() {}

func (r *receiver) send(_ context.Context, items []item) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.tries = append(r.tries, time.Now())
	if r.answer != nil {
		if err := r.answer(items); err != nil {
			return err
		}
	}
	for _, it := range items {
		r.got = append(r.got, idOf(it))
	}
	return nil
}

// idOf finds the alert in a row.
func idOf(it item) string {
	_, rest, _ := strings.Cut(string(it.text), `"SystemAlertId":"`)
	id, _, _ := strings.Cut(rest, `"`)
	return id
}

func (r *receiver) set(answer func([]item) error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.answer = answer
}

// tried are the moments of all tries so far.
func (r *receiver) tried() []time.Time {
	r.mu.Lock()
	defer r.mu.Unlock()
	return slices.Clone(r.tries)
}

func (r *receiver) taken() []string {
	r.mu.Lock()
	defer r.mu.Unlock()
	return slices.Clone(r.got)
}

type bench struct {
	*memory
	*receiver
	m *Manager
}

func newBench(t *testing.T, c Config) *bench {
	t.Helper()
	b := &bench{memory: &memory{exports: make(map[string]Export)}, receiver: &receiver{}}
	var err error
	b.m, err = NewManager(ManagerConfig{Store: b, Alerts: b, Events: b, Recommendations: b, Dir: t.TempDir(), Host: "hub.example", Logger: slog.New(slog.DiscardHandler), open: func(*Config) (sender, error) { return b.receiver, nil }})
	if err != nil {
		t.Fatal(err)
	}
	c.Name, c.Kind = "x", Files
	if _, _, err := b.m.Put(t.Context(), c); err != nil {
		t.Fatal(err)
	}
	return b
}

// run runs the manager until stop.
func (b *bench) run(t *testing.T) (stop func()) {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error)
	go func() { done <- b.m.Run(ctx) }()
	synctest.Wait()
	return func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	}
}

func numbers(from, to int) (all []string) {
	for i := from; i <= to; i++ {
		all = append(all, fmt.Sprint("a", i))
	}
	return all
}

func TestManager_SendsInOrderAndGoesOn(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t, Config{})
		b.raise(numbers(1, 250)...)
		stop := b.run(t)
		time.Sleep(2 * time.Second)
		if got := b.taken(); !slices.Equal(got, numbers(1, 250)) {
			t.Fatalf("%d items: %q", len(got), got)
		}
		b.raise("a251")
		time.Sleep(2 * time.Second)
		stop()
		b.raise("a252")
		defer b.run(t)() // after a restart
		time.Sleep(2 * time.Second)
		if got := b.taken(); !slices.Equal(got, numbers(1, 252)) {
			t.Errorf("%d items; the end is %q", len(got), got[250:])
		}
		if st := b.state("x"); st.Sent != 252 || st.Failures != 0 || st.LastSuccess.IsZero() {
			t.Errorf("state %+v", st)
		}
	})
}

func TestManager_TriesAgainLaterAndLater(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t, Config{})
		b.raise("a1", "a2")
		b.set(func([]item) error { return errors.New("connection refused") })
		start := time.Now()
		stop := b.run(t)
		time.Sleep(time.Hour)
		st := b.state("x")
		if st.Failures < 12 || st.Failures > 35 || st.Error != "connection refused" || !st.FailedSince.Equal(start.UTC()) || st.NextAttempt.Before(time.Now()) {
			t.Errorf("after an hour: %+v", st)
		}
		tried := b.tried()
		for i := 1; i < len(tried)-1; i++ {
			wait, most := tried[i].Sub(tried[i-1]), min(longWait, firstWait<<min(i-1, 20))
			if wait < most/2 || wait > most {
				t.Errorf("try %d came after %v, want %v to %v", i+1, wait, most/2, most)
			}
		}
		if e, err := b.m.Export(t.Context(), "x"); err != nil || e.Waiting.Alerts != 2 {
			t.Errorf("waiting %+v, %v", e.Waiting, err)
		}
		// A restart does not hammer on it.
		stop()
		tries := len(b.tried())
		stop = b.run(t)
		if len(b.tried()) != tries {
			t.Error("it is tried at once after a restart")
		}
		b.set(nil)
		time.Sleep(longWait)
		stop()
		if st := b.state("x"); !slices.Equal(b.taken(), numbers(1, 2)) || st.Failures != 0 || st.Error != "" || !st.FailedSince.IsZero() {
			t.Errorf("%q, %+v", b.taken(), st)
		}
	})
}

func TestManager_RetryAfter(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t, Config{})
		b.raise("a1")
		b.set(func([]item) error {
			return &fault.Error{Kind: fault.Unavailable, Public: "later", RetryAfter: time.Minute}
		})
		defer b.run(t)()
		time.Sleep(59 * time.Second)
		if len(b.tried()) != 1 {
			t.Errorf("%d tries within the minute", len(b.tried()))
		}
		time.Sleep(2 * time.Second)
		if len(b.tried()) != 2 {
			t.Errorf("%d tries after the minute", len(b.tried()))
		}
	})
}

func TestManager_GivesUpWhatIsOld(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t, Config{GiveUpAfter: "24h"})
		b.raise("a1", "a2")
		b.set(func([]item) error { return errors.New("no") })
		stop := b.run(t)
		time.Sleep(20 * time.Hour)
		b.raise("a3")
		if st := b.state("x"); st.GivenUp != 0 {
			t.Errorf("too early: %+v", st)
		}
		time.Sleep(6 * time.Hour)
		if st := b.state("x"); st.GivenUp != 2 || !strings.Contains(st.LastGivenUp, "2 items: they were older than 24h") {
			t.Errorf("after the time: %+v", st)
		}
		b.set(nil)
		time.Sleep(10 * time.Minute)
		stop()
		if got := b.taken(); !slices.Equal(got, []string{"a3"}) {
			t.Errorf("taken %q", got)
		}
	})
	// What is old but was never tried is tried first: the server was off for days.
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t, Config{})
		b.raise("a1")
		time.Sleep(30 * 24 * time.Hour)
		defer b.run(t)()
		if got := b.taken(); !slices.Equal(got, []string{"a1"}) {
			t.Errorf("taken %q", got)
		}
	})
}

// An item that its receiver will never take goes after five tries, alone, and the others pass in order.
func TestManager_RefusedForGood(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t, Config{})
		b.raise(numbers(1, 5)...)
		refusals := 0
		b.set(func(items []item) error {
			for _, it := range items {
				if idOf(it) == "a3" {
					refusals++
					return fault.New(fault.Invalid, "not a3")
				}
			}
			return nil
		})
		defer b.run(t)()
		time.Sleep(2 * time.Minute)
		st := b.state("x")
		if got := b.taken(); !slices.Equal(got, []string{"a1", "a2", "a4", "a5"}) || st.GivenUp != 1 || st.Sent != 4 || st.Failures != 0 {
			t.Errorf("taken %q, %+v", got, st)
		}
		if refusals != 1+maxRefused {
			t.Errorf("refused %d times", refusals)
		}
	})
}

func TestManager_LeavesOutAndFollowsChanges(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t, Config{MinSeverity: alert.High, Data: []Data{Alerts}})
		b.raise("a1", "a2", "a3")
		b.changes[1].Severity = alert.Medium
		b.events = []record.Event{{Place: record.Place{Message: 1}, Name: "Heartbeat", Enqueued: time.Now()}}
		defer b.run(t)()
		time.Sleep(2 * time.Second)
		if got := b.taken(); !slices.Equal(got, []string{"a1", "a3"}) {
			t.Errorf("taken %q", got)
		}
		put := func(c Config) {
			t.Helper()
			c.Name, c.Kind = "x", Files
			if _, created, err := b.m.Put(t.Context(), c); err != nil || created {
				t.Fatal(created, err)
			}
			time.Sleep(2 * time.Second)
		}
		put(Config{Data: []Data{Alerts}, Disabled: true})
		b.raise("a4")
		time.Sleep(time.Minute)
		if len(b.taken()) != 2 {
			t.Errorf("a disabled export sends %q", b.taken()[2:])
		}
		put(Config{Data: []Data{Alerts, Events}})
		if got := b.taken(); !slices.Equal(got, []string{"a1", "a3", "a4"}) {
			t.Errorf("enabled: %q", got)
		}
		b.change(func() {
			b.events = append(b.events, record.Event{Place: record.Place{Message: 2}, Name: "Heartbeat", Enqueued: time.Now()})
		})
		time.Sleep(2 * time.Second)
		if st := b.state("x"); st.Sent != 4 || st.Events.Message != 2 {
			t.Errorf("events that came after they were wanted: %+v", st)
		}
		if err := b.m.Delete(t.Context(), "x"); err != nil {
			t.Fatal(err)
		}
		time.Sleep(2 * time.Second)
		b.raise("a5")
		time.Sleep(time.Minute)
		if got := b.taken(); slices.Contains(got, "a5") {
			t.Error("a deleted export sends")
		}
	})
}

func (b *bench) change(f func()) {
	b.memory.mu.Lock()
	defer b.memory.mu.Unlock()
	f()
}

func TestManager_Recommendations(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t, Config{Data: []Data{Recommendations}, From: "beginning", Format: OCSF})
		for i := range uint64(150) {
			b.advice = append(b.advice, posture.Recommendation{ID: fmt.Sprint(i), Sequence: i + 1, Type: posture.OpenPorts, Severity: alert.Medium, State: posture.Active, StatusChanged: time.Now()})
		}
		defer b.run(t)()
		time.Sleep(2 * time.Second)
		if st := b.state("x"); st.Sent != 150 || st.Recommendations != 150 {
			t.Errorf("%+v", st)
		}
	})
}

// What is told of an alert depends on what was told before.
func TestWriter_Alert(t *testing.T) {
	t.Parallel()
	at := alert.Place{Change: 5, Sequence: 5}
	for _, c := range []struct {
		name         string
		born, change int64
		status       alert.Status
		want         []string
	}{
		{"new", 6, 6, alert.Open, []string{"alert-create"}},
		{"new, and counted on", 6, 9, alert.Open, []string{"alert-create"}},
		{"new and closed already", 6, 9, alert.Resolved, []string{"alert-create", "alert-close"}},
		{"known and grown", 2, 9, alert.Open, []string{"alert-update"}},
		{"known and held back", 2, 9, alert.Suppressed, []string{"alert-update"}},
		{"known and dismissed", 2, 9, alert.Dismissed, []string{"alert-close"}},
	} {
		for _, f := range []Format{OCSF, CEF} {
			w := newWriter(&Config{Kind: Syslog, Format: f}, "hub", "1")
			change := &alert.Change{Born: alert.Place{Change: c.born, Sequence: 9}, Place: alert.Place{Change: c.change, Sequence: 9}, Alert: alert.Alert{ID: "x", Status: c.status, Severity: alert.Low}}
			var got []string
			for _, it := range w.alert(change, at) {
				got = append(got, it.id)
			}
			if !slices.Equal(got, c.want) {
				t.Errorf("%s as %s: %q, want %q", c.name, f, got, c.want)
			}
		}
		w := newWriter(&Config{Format: Table}, "hub", "1")
		if got := w.alert(&alert.Change{Born: at, Place: at, Alert: alert.Alert{Status: c.status}}, alert.Place{}); len(got) != 1 {
			t.Errorf("%s: %d rows", c.name, len(got))
		}
	}
}
