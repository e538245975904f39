package defender

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/prometheus/client_golang/prometheus"

	"github.com/vauban-iot/vauban/bus"
	"github.com/vauban-iot/vauban/defender/alert"
	"github.com/vauban-iot/vauban/defender/intel"
	"github.com/vauban-iot/vauban/defender/record"
	"github.com/vauban-iot/vauban/hub/telemetry"
	"github.com/vauban-iot/vauban/internal/conform"
	"github.com/vauban-iot/vauban/iot"
	"github.com/vauban-iot/vauban/wire/bag"
	"github.com/vauban-iot/vauban/wire/secmsg"
)

// memoryLog keeps entries and works as bus.Log promises: a failed entry is given again.
type memoryLog struct {
	mu      sync.Mutex
	entries []bus.Entry
	more    chan struct{}
}

func newMemoryLog() *memoryLog { return &memoryLog{more: make(chan struct{}, 1)} }

func (l *memoryLog) Append(_ context.Context, data []byte) (uint64, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.entries = append(l.entries, bus.Entry{Sequence: uint64(len(l.entries) + 1), Data: bytes.Clone(data)})
	select {
	case l.more <- struct{}{}:
	default:
	}
	return uint64(len(l.entries)), nil
}

func (l *memoryLog) Work(ctx context.Context, name string, handle func(bus.Entry) error) error {
	if name != "defender" {
		return errors.New("the wrong worker " + name)
	}
	for next := 0; ; {
		l.mu.Lock()
		var e *bus.Entry
		if next < len(l.entries) {
			e = &l.entries[next]
		}
		l.mu.Unlock()
		switch {
		case e == nil:
			select {
			case <-ctx.Done():
				return nil
			case <-l.more:
			}
		case handle(*e) == nil:
			next++
		case ctx.Err() != nil:
			return nil
		}
	}
}

// memoryAlerts is an alert.Store.
type memoryAlerts struct {
	mu     sync.Mutex
	alerts []alert.Alert
	fail   map[int]bool // calls of Raise that fail
	calls  int
	replay bool // nothing counts

	events   []record.Event
	evidence []alert.Evidence
	pruned   []string // how PruneAlerts was asked
}

var errStore = errors.New("the disk is full")

func (s *memoryAlerts) Raise(_ context.Context, a alert.Alert) (alert.Alert, bool, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.calls++
	if s.fail[s.calls] {
		return alert.Alert{}, false, errStore
	}
	for i := range s.alerts {
		have := &s.alerts[i]
		if have.Device == a.Device && have.Module == a.Module && have.Type == a.Type && have.Indicator == a.Indicator && have.Day == a.Day {
			if !a.Retro && a.LastMessage > have.LastMessage {
				have.Count += a.Count
				have.LastMessage, have.LastSeen = a.LastMessage, a.LastSeen
			}
			return *have, false, nil
		}
	}
	a.Sequence = uint64(len(s.alerts) + 1)
	s.alerts = append(s.alerts, a)
	return a, true, nil
}

func (s *memoryAlerts) Alerts(context.Context, alert.Filter) ([]alert.Alert, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return append([]alert.Alert(nil), s.alerts...), nil
}

// Record implements Store: all of it or nothing.
func (s *memoryAlerts) Record(ctx context.Context, events []record.Event, alerts []alert.Alert) ([]alert.Raised, error) {
	s.mu.Lock()
	before := slices.Clone(s.alerts)
	s.mu.Unlock()
	var raised []alert.Raised
	for _, a := range alerts {
		evidence := a.Evidence
		a.Evidence = nil
		have := len(s.alerts)
		stored, created, err := s.Raise(ctx, a)
		s.mu.Lock()
		if err != nil {
			s.alerts = before
			s.mu.Unlock()
			return nil, err
		}
		s.evidence = append(s.evidence, evidence...)
		s.mu.Unlock()
		raised = append(raised, alert.Raised{Alert: stored, Created: created, Counted: created || len(s.alerts) == have && stored.LastMessage == a.LastMessage && !s.replay})
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.events = append(s.events, events...)
	return raised, nil
}

func (s *memoryAlerts) PruneEvents(context.Context, time.Time, int, int64) (int, error) {
	return 0, nil
}
func (s *memoryAlerts) PruneDevice(context.Context, string, int, int64) (int, error) { return 0, nil }

func (s *memoryAlerts) PruneAlerts(_ context.Context, before time.Time, keep int) (old, many int, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.pruned = append(s.pruned, fmt.Sprintf("before %s, beyond %d", before.Format(time.RFC3339), keep))
	return 2, 3, nil
}

type acked struct{ t *testing.T }

func (a acked) Acked(_ uint64, err error) {
	if err != nil {
		a.t.Error(err)
	}
}

// submit puts messages on the log as the hub does: in one batch.
func submit(t *testing.T, log *memoryLog, messages ...iot.Message) {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	in := telemetry.NewIntake(log, nil)
	for i := range messages {
		in.Submit(&messages[i], acked{t}, uint64(i))
	}
	cancel()
	if err := in.Run(ctx); err != nil {
		t.Fatal(err)
	}
}

var noon = time.Date(2026, 3, 4, 12, 0, 0, 0, time.UTC)

func message(device, module, mti string, at time.Time, body []byte) iot.Message {
	m := iot.Message{
		Source: iot.Telemetry, From: iot.ID{Device: device, Module: module}, Enqueued: at, Body: body,
		System: []bag.Property{{Name: "iothub-interface-id", Value: "URN:azureiot:Security:SecurityAgent:1"}},
	}
	if mti != "" {
		m.Properties = []bag.Property{{Name: "other", Value: "1.0-0-0-0"}, {Name: "mti", Value: mti}}
	}
	return m
}

func flow(local, remote, protocol string, in, out uint64) secmsg.Flow {
	return secmsg.Flow{Local: netip.MustParseAddrPort(local), Remote: netip.MustParseAddrPort(remote), Protocol: protocol, BytesIn: in, BytesOut: out}
}

func activity(flows ...secmsg.Flow) []byte {
	return secmsg.AppendFlatBuffers(nil, secmsg.Report{Agent: "defender-iot-micro-agent", AgentVersion: "3.5.4", Events: []secmsg.Event{
		// The id and the time repeat in all messages, as after a reboot with a weak seed.
		{ID: "0d0b0a09080706051513121110" + "0f0e0d", Name: "NetworkActivity", Time: time.Unix(7, 0), Interval: 10 * time.Second, Flows: flows},
	}})
}

func setOf(lines ...string) func() *intel.Set {
	b := intel.NewBuilder(intel.Source{Name: "bad.txt", Own: true})
	if err := intel.ReadList(strings.NewReader(strings.Join(lines, "\n")), b); err != nil {
		panic(err) // a strings.Reader does not fail
	}
	s := intel.NewSet(b.Block())
	return func() *intel.Set { return s }
}

type bench struct {
	*Detector
	log    *memoryLog
	alerts *memoryAlerts
	text   *bytes.Buffer // of the logger; only while nothing runs
	reg    *prometheus.Registry
	mu     sync.Mutex
	raised []alert.Alert
}

func newBench(t *testing.T, set func() *intel.Set) *bench {
	t.Helper()
	b := &bench{log: newMemoryLog(), alerts: new(memoryAlerts), text: new(bytes.Buffer), reg: prometheus.NewRegistry()}
	var err error
	b.Detector, err = New(Config{
		Log: b.log, Intel: set, Alerts: b.alerts, Registerer: b.reg,
		Logger: slog.New(slog.NewTextHandler(b.text, &slog.HandlerOptions{Level: slog.LevelDebug})),
		Raised: func(a alert.Alert) {
			b.mu.Lock()
			defer b.mu.Unlock()
			b.raised = append(b.raised, a)
		},
	})
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// work handles every entry once.
func (b *bench) work(t *testing.T) {
	t.Helper()
	for _, e := range b.log.entries {
		if err := b.entry(t.Context(), e); err != nil {
			t.Fatal(err)
		}
	}
}

func (b *bench) counter(t *testing.T, name string) float64 {
	t.Helper()
	families, err := b.reg.Gather()
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range families {
		if f.GetName() == "vauban_defender_"+name+"_total" {
			return f.GetMetric()[0].GetCounter().GetValue()
		}
	}
	t.Fatalf("no metric %s", name)
	return 0
}

func same(t *testing.T, got, want []alert.Alert) {
	t.Helper()
	for i := range got {
		if len(got[i].ID) != 32 || got[i].Title == "" || got[i].Description == "" {
			t.Errorf("alert %d: id %q, title %q, description %q", i, got[i].ID, got[i].Title, got[i].Description)
		}
		got[i].ID, got[i].Title, got[i].Description = "", "", ""
	}
	if d := cmp.Diff(want, got); d != "" {
		t.Errorf("alerts (-want +got):\n%s", d)
	}
}

func TestDetector_FlatBuffers(t *testing.T) {
	t.Parallel()
	conform.Covers(t, "DEF-3", "DEF-9") // no content type, device and module; the same event id counts
	b := newBench(t, setOf("203.0.113.5", "203.0.113.0/24", "2001:db8::/32", "198.51.100.9"))
	submit(t, b.log,
		message("d1", "", "2.3-1-0-0", noon, activity(
			flow("192.168.1.10:49152", "192.168.1.1:8883", "TCP", 10, 20),
			flow("192.168.1.10:50000", "203.0.113.5:4444", "TCP", 0, 20),
			flow("192.168.1.10:50001", "203.0.113.5:4445", "UDP", 5, 20),
			flow("192.168.1.10:0", "203.0.113.77:0", "ICMP", 5, 5),
			flow("[fd00::10]:0", "[2001:db8::5]:0", "ICMP", 64, 0),
		)),
		iot.Message{Source: iot.Telemetry, From: iot.ID{Device: "d1"}, Enqueued: noon, Body: activity(flow("10.0.0.1:1", "203.0.113.5:1", "TCP", 1, 1))}, // plain telemetry
		message("d1", "agent", "", noon, activity(flow("10.0.0.1:1", "203.0.113.5:1", "TCP", 1, 1))),
		message("d2", "", "2.0-1-0-0", noon, activity(flow("198.51.100.9:1", "192.0.2.1:1", "TCP", 1, 1), flow("10.1.1.1:1", "[::ffff:203.0.113.5]:1", "UDP", 1, 1))),
	)
	submit(t, b.log,
		message("d1", "", "2.3-1-0-0", noon.Add(time.Hour), activity(flow("192.168.1.10:50000", "203.0.113.5:4444", "TCP", 0, 20))),
		message("d1", "", "2.3-1-0-0", noon.Add(12*time.Hour), activity(flow("192.168.1.10:50000", "203.0.113.5:4444", "TCP", 0, 20))), // midnight
	)
	b.work(t)

	want := func(sequence uint64, device, module, indicator string, line int, day, remote, local, protocol, direction string, count int, first, last time.Time, message uint64) alert.Alert {
		return alert.Alert{
			Sequence: sequence, Type: "IoT_TiConnection", Severity: alert.High, Device: device, Module: module, Indicator: indicator,
			Source: "bad.txt:" + strconv.Itoa(line), Day: day, Remote: remote, Local: local, Protocol: protocol, Direction: direction,
			Count: count, FirstSeen: first, LastSeen: last, LastMessage: message,
		}
	}
	one, two := telemetry.Sequence(1, 0), telemetry.Sequence(2, 0)
	const day = "2026-03-04"
	expected := []alert.Alert{
		want(1, "d1", "", "203.0.113.5", 1, day, "203.0.113.5", "192.168.1.10", "TCP", "Out", 3, noon, noon.Add(time.Hour), two),
		want(2, "d1", "", "203.0.113.0/24", 2, day, "203.0.113.77", "192.168.1.10", "ICMP", "", 1, noon, noon, one),
		want(3, "d1", "", "2001:db8::/32", 3, day, "2001:db8::5", "fd00::10", "ICMP", "In", 1, noon, noon, one),
		want(4, "d1", "agent", "203.0.113.5", 1, day, "203.0.113.5", "10.0.0.1", "TCP", "", 1, noon, noon, one+2),
		want(5, "d2", "", "198.51.100.9", 4, day, "192.0.2.1", "198.51.100.9", "TCP", "", 1, noon, noon, one+3),
		want(6, "d2", "", "203.0.113.5", 1, day, "203.0.113.5", "10.1.1.1", "UDP", "", 1, noon, noon, one+3),
		want(7, "d1", "", "203.0.113.5", 1, "2026-03-05", "203.0.113.5", "192.168.1.10", "TCP", "Out", 1, noon.Add(12*time.Hour), noon.Add(12*time.Hour), two+1),
	}
	got, _ := b.alerts.Alerts(t.Context(), alert.Filter{})
	same(t, got, expected)
	if len(b.raised) != 8 || b.raised[6].Count != 3 || b.raised[6].Sequence != 1 {
		t.Errorf("%d calls of Raised: %+v", len(b.raised), b.raised)
	}

	b.work(t) // all of it again, as after a crash
	got, _ = b.alerts.Alerts(t.Context(), alert.Filter{})
	same(t, got, expected)
}

func TestDetector_Descriptions(t *testing.T) {
	t.Parallel()
	b := newBench(t, setOf("203.0.113.5", "198.51.100.9"))
	submit(t, b.log, message("cam", "", "", noon, activity(
		flow("192.168.1.10:1", "203.0.113.5:4444", "TCP", 0, 20), flow("198.51.100.9:1", "192.0.2.1:1", "TCP", 1, 1),
	)))
	b.work(t)
	for i, want := range []string{
		"Device cam sent traffic to 203.0.113.5 port 4444 over TCP, which is on a list of known bad addresses (bad.txt:1, as 203.0.113.5). ",
		"The address 198.51.100.9 of device cam is on a list of known bad addresses (bad.txt:2, as 198.51.100.9). ",
	} {
		if got := b.alerts.alerts[i].Description; !strings.HasPrefix(got, want) {
			t.Errorf("description %q, want it to begin with %q", got, want)
		}
	}
}

func TestDetector_JSON(t *testing.T) {
	t.Parallel()
	b := newBench(t, setOf("203.0.113.5"))
	submit(t, b.log, message("d", "azureiotsecurity", "", noon, []byte(`{"AgentVersion":"0.0.5","AgentId":"x","MessageSchemaVersion":"1.0","Events":[
		{"EventType":"Security","Category":"Aggregated","Name":"ConnectionCreate","Id":"1","TimestampUTC":"1999-01-01T00:00:00","Payload":[
			{"Direction":"In","Protocol":"tcp","RemoteAddress":"203.0.113.5","RemotePort":0,"LocalAddress":"10.0.0.4","LocalPort":"22"},
			{"Direction":"Out","Protocol":"tcp","RemoteAddress":"203.0.113.5","RemotePort":"9","LocalAddress":"10.0.0.4","LocalPort":"22"}]},
		{"Name":"Heartbeat","Payload":[]}]}`)))
	b.work(t)
	got, _ := b.alerts.Alerts(t.Context(), alert.Filter{})
	same(t, got, []alert.Alert{{
		Sequence: 1, Type: TiConnection, Severity: alert.High, Device: "d", Module: "azureiotsecurity", Indicator: "203.0.113.5", Source: "bad.txt:1",
		Day: "2026-03-04", Remote: "203.0.113.5", Local: "10.0.0.4", Protocol: "TCP", Direction: "In", Count: 2, FirstSeen: noon, LastSeen: noon, LastMessage: telemetry.Sequence(1, 0),
	}})
	if n := b.counter(t, "heartbeats"); n != 1 {
		t.Errorf("%v heartbeats, want 1", n)
	}
}

// An event that says it is a security message is none: no device sent it.
func TestDetector_LeavesEventsOut(t *testing.T) {
	t.Parallel()
	b := newBench(t, setOf("203.0.113.0/24"))
	m := message("d", "", "", time.Unix(0, 0), []byte(`{"AgentVersion":"0.0.6"`)) // which would be counted as malformed
	m.Source = iot.TwinChange
	submit(t, b.log, m)
	b.work(t)
	if n := b.counter(t, "malformed_messages"); n != 0 {
		t.Errorf("%v events were read as messages", n)
	}
	m.Source = iot.Telemetry
	submit(t, b.log, m)
	b.work(t)
	if n := b.counter(t, "malformed_messages"); n != 1 {
		t.Errorf("%v messages were counted, want the one that is no event", n)
	}
}

func TestDetector_BrokenAmongGood(t *testing.T) {
	t.Parallel()
	b := newBench(t, setOf("203.0.113.5"))
	good := activity(flow("10.0.0.1:1", "203.0.113.5:1", "TCP", 1, 1))
	submit(t, b.log,
		message("broken", "m", "2.3-1-0-0", noon, good[:len(good)-20]),
		message("good", "", "2.3-1-0-0", noon, good),
		message("empty", "", "", noon, nil),
		message("newer", "", "2.9-1-0-0", noon, good),
	)
	if _, err := b.log.Append(t.Context(), []byte("not a batch")); err != nil {
		t.Fatal(err)
	}
	cut := b.log.entries[0].Data
	if _, err := b.log.Append(t.Context(), cut[:len(cut)-1]); err != nil { // the first records are whole
		t.Fatal(err)
	}
	submit(t, b.log, message("after", "", "2.3-1-0-0", noon, good))
	b.work(t)

	var devices []string
	for _, a := range b.alerts.alerts {
		devices = append(devices, a.Device)
	}
	if d := cmp.Diff([]string{"good", "newer", "after"}, devices); d != "" {
		t.Errorf("devices with alerts (-want +got):\n%s", d)
	}
	log := b.text.String()
	if !strings.Contains(log, "device=broken module=m sequence=65536 err=\"secmsg: malformed message: offset ") {
		t.Errorf("the broken message is not logged with its place:\n%s", log)
	}
	if n := strings.Count(log, "log entry cannot be read"); n != 2 {
		t.Errorf("%d corrupt entries logged, want 2", n)
	}
	for name, want := range map[string]float64{"malformed_messages": 4, "unknown_versions": 1, "corrupt_entries": 2} {
		if got := b.counter(t, name); got != want {
			t.Errorf("%s is %v, want %v", name, got, want)
		}
	}
}

// A store that fails stops the entry; given again, what was counted stays counted once.
func TestDetector_RunRetriesAfterTheStoreFailed(t *testing.T) {
	t.Parallel()
	b := newBench(t, setOf("203.0.113.5"))
	b.alerts.fail = map[int]bool{2: true, 5: true}
	body := activity(flow("10.0.0.1:1", "203.0.113.5:1", "TCP", 1, 1))
	submit(t, b.log, message("a", "", "", noon, body), message("b", "", "", noon, body), message("a", "", "", noon, body))
	if err := b.entry(t.Context(), b.log.entries[0]); !errors.Is(err, errStore) {
		t.Fatalf("got %v, want the store's error", err)
	}

	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- b.Run(ctx) }()
	for end := time.Now().Add(5 * time.Second); ; time.Sleep(time.Millisecond) {
		got, _ := b.alerts.Alerts(ctx, alert.Filter{})
		if len(got) == 2 && got[0].Count == 2 && got[1].Count == 1 {
			break
		}
		if time.Now().After(end) {
			t.Fatalf("alerts %+v", got)
		}
	}
	cancel()
	if err := <-done; err != nil {
		t.Errorf("Run: %v", err)
	}
}

func TestDetector_UsesAChangedListWithinASecond(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	lists, err := intel.New(intel.Config{Dir: dir, Logger: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	b := newBench(t, lists.Current)
	ctx, cancel := context.WithCancel(t.Context())
	var running sync.WaitGroup
	running.Go(func() {
		if err := lists.Run(ctx); err != nil {
			t.Error(err)
		}
	})
	running.Go(func() {
		if err := b.Run(ctx); err != nil {
			t.Error(err)
		}
	})
	defer running.Wait()
	defer cancel()
	body := activity(flow("10.0.0.1:1", "203.0.113.5:1", "TCP", 1, 1))
	submit(t, b.log, message("a", "", "", noon, body))

	if err := os.WriteFile(filepath.Join(dir, "bad.txt"), []byte("203.0.113.0/24\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	for end := time.Now().Add(time.Second); ; time.Sleep(20 * time.Millisecond) {
		submit(t, b.log, message("a", "", "", noon, body))
		if got, _ := b.alerts.Alerts(ctx, alert.Filter{}); len(got) == 1 {
			break
		}
		if time.Now().After(end) {
			t.Fatal("no alert a second after the address was listed")
		}
	}
}

func TestNew_NamesWhatIsMissing(t *testing.T) {
	t.Parallel()
	if _, err := New(Config{}); err == nil {
		t.Error("a detector without a log was made")
	}
	d, err := New(Config{Log: newMemoryLog(), Intel: func() *intel.Set { return nil }, Alerts: new(memoryAlerts)})
	if err != nil {
		t.Fatal(err)
	}
	log := newMemoryLog()
	submit(t, log, message("a", "", "", noon, activity(flow("10.0.0.1:1", "203.0.113.5:1", "TCP", 1, 1))))
	if err := d.entry(t.Context(), log.entries[0]); err != nil {
		t.Errorf("without any indicators: %v", err)
	}
}

func BenchmarkDetector(b *testing.B) {
	log := newMemoryLog()
	in := telemetry.NewIntake(log, nil)
	var flows []secmsg.Flow
	for range 10 {
		flows = append(flows, flow("10.0.0.1:1", "192.0.2.1:443", "TCP", 1, 1))
	}
	m := message("a", "", "2.3-1-0-0", noon, activity(flows...))
	const messages = 100
	for range messages {
		in.Submit(&m, ignore{}, 0)
	}
	ctx, cancel := context.WithCancel(b.Context())
	cancel()
	if err := in.Run(ctx); err != nil {
		b.Fatal(err)
	}
	d, err := New(Config{Log: log, Intel: setOf("203.0.113.5"), Alerts: new(memoryAlerts), Logger: slog.New(slog.DiscardHandler)})
	if err != nil {
		b.Fatal(err)
	}
	for b.Loop() {
		if err := d.entry(b.Context(), log.entries[0]); err != nil {
			b.Fatal(err)
		}
	}
	b.ReportMetric(float64(messages*b.N)/b.Elapsed().Seconds(), "messages/s")
}

type ignore struct{}

func (ignore) Acked(uint64, error) {}

// Alerts are forgotten minute by minute, by the age that the operator set, and counted.
func TestDetector_ForgetsAlerts(t *testing.T) {
	t.Parallel()
	for set, want := range map[time.Duration]string{0: "before 2025-10-04T03:05:05Z", 30 * 24 * time.Hour: "before 2025-12-03T03:05:05Z", time.Hour: "before 2025-12-26T03:05:05Z"} {
		synctest.Test(t, func(t *testing.T) {
			s, metrics := &memoryAlerts{}, prometheus.NewRegistry()
			began := time.Now()
			d, err := New(Config{
				Log: quiet{}, Intel: func() *intel.Set { return nil }, Alerts: s, AlertAge: set, Registerer: metrics, Logger: slog.New(slog.DiscardHandler),
				Now: func() time.Time { return time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC).Add(time.Since(began)) },
			})
			if err != nil {
				t.Fatal(err)
			}
			ctx, stop := context.WithTimeout(t.Context(), 90*time.Second)
			defer stop()
			if err := d.Run(ctx); err != nil {
				t.Error(err)
			}
			s.mu.Lock()
			defer s.mu.Unlock()
			if len(s.pruned) != 1 || s.pruned[0] != want+", beyond 1000000" {
				t.Errorf("set to %v: %q, want %q", set, s.pruned, want)
			}
			families, err := metrics.Gather()
			if err != nil {
				t.Fatal(err)
			}
			counts := map[string]float64{}
			for _, f := range families {
				if f.GetName() == "vauban_defender_alerts_forgotten_total" {
					for _, m := range f.GetMetric() {
						counts[m.GetLabel()[0].GetValue()] = m.GetCounter().GetValue()
					}
				}
			}
			if diff := cmp.Diff(map[string]float64{"age": 2, "bound": 3}, counts); diff != "" {
				t.Error(diff)
			}
		})
	}
}

// quiet is a log to which nothing comes.
type quiet struct{}

func (quiet) Work(ctx context.Context, _ string, _ func(bus.Entry) error) error {
	<-ctx.Done()
	return nil
}
