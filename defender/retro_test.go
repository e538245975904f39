package defender

import (
	"context"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/vauban-iot/vauban/bus"
	"github.com/vauban-iot/vauban/defender/alert"
	"github.com/vauban-iot/vauban/defender/intel"
	"github.com/vauban-iot/vauban/fault"
	"github.com/vauban-iot/vauban/hub/telemetry"
	"github.com/vauban-iot/vauban/internal/conform"
	"github.com/vauban-iot/vauban/iot"
)

// Follow hands over what there is and waits, as bus.Log promises.
func (l *memoryLog) Follow(ctx context.Context, _ bus.Start, ready func(), handle func(bus.Entry) error) error {
	if ready != nil {
		ready()
	}
	l.mu.Lock()
	all := slices.Clone(l.entries)
	l.mu.Unlock()
	for _, e := range all {
		if err := handle(e); err != nil {
			return err
		}
	}
	<-ctx.Done()
	return nil
}

// memory keeps what was compared.
type memory struct {
	mu   sync.Mutex
	text []byte
}

func (m *memory) done(context.Context) ([]byte, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.text == nil {
		return nil, fault.New(fault.NotFound, "nothing yet")
	}
	return m.text, nil
}

func (m *memory) save(_ context.Context, text []byte) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.text = text
	return nil
}

func list(t *testing.T, name, version string, lines ...string) *intel.Block {
	t.Helper()
	b := intel.NewBuilder(intel.Source{Name: name, Version: version})
	if err := intel.ReadList(strings.NewReader(strings.Join(lines, "\n")), b); err != nil {
		t.Fatal(err)
	}
	return b.Block()
}

func until(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for end := time.Now().Add(20 * time.Second); !ok(); time.Sleep(10 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("not: %s", what)
		}
	}
}

// Traffic of the last days meets an indicator that comes later: one alert for each device and day, which counts all of it. What is too old, and what
// had been found already, makes none; and a pass is made for news only, over restarts too.
func TestDetector_LooksBack(t *testing.T) {
	t.Parallel()
	conform.Covers(t, "DEF-33")
	synctest.Test(t, looksBack)
}

func looksBack(t *testing.T) {
	engine := intel.NewEngine(nil)
	engine.Put(intel.ToMatch, list(t, "old", "1", "203.0.113.1"))
	b := newBench(t, engine.Current)
	now := time.Now().UTC()
	noon := func(days int) time.Time {
		return time.Date(now.Year(), now.Month(), now.Day(), 0, 0, 1, 0, time.UTC).AddDate(0, 0, -days)
	}
	body := activity(flow("10.0.0.1:1", "203.0.113.1:1", "TCP", 1, 1), flow("10.0.0.1:1", "203.0.113.2:4444", "UDP", 1, 1))
	submit(t, b.log, message("d", "", "", noon(9), body), message("d", "", "", noon(2), body), message("d", "m", "", noon(2), body))
	submit(t, b.log, message("d", "", "", noon(2).Add(time.Hour), body), message("d", "", "", noon(1), body),
		iot.Message{Source: iot.Telemetry, From: iot.ID{Device: "d"}, Enqueued: noon(1), Body: body}, message("d", "", "", noon(1), []byte("?")))
	if _, err := b.log.Append(t.Context(), []byte("not a batch")); err != nil {
		t.Fatal(err)
	}
	for i := range b.log.entries {
		b.log.entries[i].Time = noon(9)
		if i > 0 {
			b.log.entries[i].Time = noon(1)
		}
	}
	b.log.entries[0].Time = noon(2)
	b.work(t)
	before := len(b.alerts.alerts)

	var kept memory
	var passes atomic.Int64
	start := func() (stop func()) {
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error, 1)
		h := Hindsight{
			Log: b.log, Days: 7, Done: kept.done, Save: func(ctx context.Context, text []byte) error { passes.Add(1); return kept.save(ctx, text) },
			Sources: engine.Versions, Pause: time.Millisecond,
		}
		go func() { done <- b.LookBack(ctx, h) }()
		return func() {
			cancel()
			if err := <-done; err != nil {
				t.Error(err)
			}
		}
	}
	stop := start()
	until(t, "a first pass", func() bool { return passes.Load() == 1 })
	if got, _ := b.alerts.Alerts(t.Context(), alert.Filter{}); len(got) != before {
		t.Errorf("what was found already was found again: %+v", got[before:])
	}
	engine.Put(intel.ToMatch, list(t, "new", "1", "203.0.113.2:4444", "203.0.113.3"))
	until(t, "a pass over the new feed", func() bool { return passes.Load() == 2 })
	got, _ := b.alerts.Alerts(t.Context(), alert.Filter{})
	type row struct {
		module, day string
		count       int
	}
	var rows []row
	for _, a := range got[before:] {
		if a.Indicator != "203.0.113.2:4444" || a.Source != "new:1" || !strings.HasSuffix(a.Description, "younger than the traffic.") {
			t.Errorf("alert %+v", a)
		}
		rows = append(rows, row{a.Module, a.Day, a.Count})
	}
	slices.SortFunc(rows, func(x, y row) int { return strings.Compare(x.day+x.module, y.day+y.module) })
	want := []row{{"", noon(2).Format(time.DateOnly), 2}, {"m", noon(2).Format(time.DateOnly), 1}, {"", noon(1).Format(time.DateOnly), 1}}
	if !slices.Equal(rows, want) {
		t.Errorf("found %v, want %v", rows, want)
	}

	// Less is no news, and a restart neither.
	engine.Put(intel.ToMatch, list(t, "new", "2", "203.0.113.2:4444"))
	stop()
	stop = start()
	time.Sleep(time.Hour) // thousands of looks
	if n := passes.Load(); n != 2 {
		t.Errorf("%d passes, want 2", n)
	}
	stop()
	// What came while nobody looked is compared at the start.
	engine.Put(intel.ToMatch, list(t, "new", "3", "203.0.113.2:4444", "203.0.113.9"))
	stop = start()
	until(t, "a pass after the restart", func() bool { return passes.Load() == 3 })
	stop()
	if err := b.LookBack(t.Context(), Hindsight{}); err != nil {
		t.Errorf("no days: %v", err)
	}
}

// TCP, UDP, ICMP and whatever else; both families; both directions and both ends; ports when the indicator has one.
func TestDetector_MatchesEveryFlow(t *testing.T) {
	t.Parallel()
	conform.Covers(t, "DEF-30")
	set := setOf("203.0.113.1", "203.0.113.2:4444", "2001:db8::/32", "198.51.100.0/24", "198.51.99.1:23", "[2001:db9::1]:5683")
	for _, tc := range []struct {
		local, remote, protocol string
		in, out                 uint64
		want                    string
	}{
		{"10.0.0.1:1", "203.0.113.1:443", "TCP", 0, 9, "203.0.113.1"},
		{"10.0.0.1:1", "203.0.113.1:443", "UDP", 9, 0, "203.0.113.1"},
		{"10.0.0.1:0", "203.0.113.1:0", "ICMP", 9, 9, "203.0.113.1"},
		{"10.0.0.1:1", "203.0.113.2:4444", "TCP", 9, 9, "203.0.113.2:4444"},
		{"10.0.0.1:4444", "203.0.113.2:4443", "TCP", 9, 9, ""},
		{"10.0.0.1:0", "203.0.113.2:0", "ICMP", 9, 9, ""},
		{"[fd00::1]:1", "[2001:db8::7]:53", "UDP", 0, 9, "2001:db8::/32"},
		{"[fd00::1]:0", "[2001:db8::7]:0", "ICMP", 9, 0, "2001:db8::/32"},
		{"[fd00::1]:1", "[2001:db9::1]:5683", "UDP", 9, 9, "[2001:db9::1]:5683"},
		{"[fd00::1]:1", "[2001:db9::1]:5684", "UDP", 9, 9, ""},
		{"198.51.100.7:22", "192.0.2.1:50000", "TCP", 9, 0, "198.51.100.0/24"},
		{"198.51.99.1:23", "192.0.2.1:50000", "TCP", 9, 0, "198.51.99.1:23"},
		{"198.51.99.1:22", "192.0.2.1:23", "TCP", 9, 0, ""},
	} {
		b := newBench(t, set)
		body := activity(flow(tc.local, tc.remote, tc.protocol, tc.in, tc.out))
		submit(t, b.log, message("d", "", "", noon, body), message("d", "", "", noon, body))
		b.work(t)
		got, _ := b.alerts.Alerts(t.Context(), alert.Filter{})
		switch {
		case tc.want == "" && len(got) == 0:
		case len(got) != 1 || got[0].Indicator != tc.want || got[0].Count != 2 || got[0].Protocol != tc.protocol:
			t.Errorf("%s %s -> %s: %+v, want one alert about %q", tc.protocol, tc.local, tc.remote, got, tc.want)
		}
	}
}

func TestDetector_SeverityIsTheConfidence(t *testing.T) {
	t.Parallel()
	builder := intel.NewBuilder(intel.Source{Name: "feed"})
	for i, c := range []int{10, 49, 50, 74, 75, 100} {
		it := intel.Item{Value: netip.PrefixFrom(netip.AddrFrom4([4]byte{203, 0, 113, byte(i)}), 32), Confidence: c, Ref: "id", Labels: []string{"mirai"}}
		if reason := builder.Add(&it); reason != "" {
			t.Fatal(reason)
		}
	}
	set := intel.NewSet(builder.Block())
	b := newBench(t, func() *intel.Set { return set })
	for i := range 6 {
		submit(t, b.log, message("d", "", "", noon, activity(flow("10.0.0.1:1", netip.AddrPortFrom(netip.AddrFrom4([4]byte{203, 0, 113, byte(i)}), 1).String(), "TCP", 1, 1))))
	}
	b.work(t)
	var got []alert.Severity
	for _, a := range b.alerts.alerts {
		got = append(got, a.Severity)
		if !strings.Contains(a.Description, "(feed:id, as "+a.Indicator+": mirai)") {
			t.Errorf("description %q", a.Description)
		}
	}
	if want := []alert.Severity{alert.Low, alert.Low, alert.Medium, alert.Medium, alert.High, alert.High}; !slices.Equal(got, want) {
		t.Errorf("severities %v, want %v", got, want)
	}
}

// A device that connects from a listed address is one alert a day; whoever connects never waits.
func TestDetector_Connections(t *testing.T) {
	t.Parallel()
	b := newBench(t, setOf("203.0.113.5", "203.0.113.6:1883"))
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	id := iot.ID{Device: "d"}
	for range 2 * maxConnections {
		b.Connected(id, "203.0.113.5:50000")
	}
	b.Connected(id, "nowhere")
	if n := b.counter(t, "unseen_connections"); n != maxConnections {
		t.Errorf("%v connections were not looked at, want %d", n, maxConnections)
	}
	go func() { done <- b.RunConnections(ctx) }()
	until(t, "the alert", func() bool { a, _ := b.alerts.Alerts(ctx, alert.Filter{}); return len(a) == 1 })
	until(t, "an empty queue", func() bool { return len(b.connections) == 0 })
	b.Connected(id, "203.0.113.6:1883") // the port is the client's
	b.Connected(id, "198.51.100.1:1")
	b.Connected(iot.ID{Device: "e", Module: "m"}, "[::ffff:203.0.113.5]:50000")
	until(t, "the second alert", func() bool { a, _ := b.alerts.Alerts(ctx, alert.Filter{}); return len(a) == 2 })
	cancel()
	if err := <-done; err != nil {
		t.Error(err)
	}
	got, _ := b.alerts.Alerts(t.Context(), alert.Filter{})
	if a := got[0]; a.Device != "d" || a.Indicator != "203.0.113.5" || a.Count != 1 || a.Remote != "203.0.113.5" || a.Type != TiConnection || !strings.Contains(a.Description, "connected to the hub from 203.0.113.5") {
		t.Errorf("alert %+v", a)
	}
	// Traffic of that day counts on from it.
	submit(t, b.log, message("d", "", "", time.Now(), activity(flow("10.0.0.1:1", "203.0.113.5:1", "TCP", 1, 1))))
	b.work(t)
	if got, _ := b.alerts.Alerts(t.Context(), alert.Filter{}); len(got) != 2 || got[0].Count != 2 || got[0].LastMessage != telemetry.Sequence(1, 0) {
		t.Errorf("after traffic: %+v", got)
	}
}
