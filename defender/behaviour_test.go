package defender

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/vauban-iot/vauban/bus"
	"github.com/vauban-iot/vauban/defender/alert"
	"github.com/vauban-iot/vauban/defender/behaviour"
	"github.com/vauban-iot/vauban/defender/intel"
	"github.com/vauban-iot/vauban/defender/record"
	"github.com/vauban-iot/vauban/fault"
	"github.com/vauban-iot/vauban/hub/telemetry"
	"github.com/vauban-iot/vauban/internal/conform"
	"github.com/vauban-iot/vauban/iot"
	"github.com/vauban-iot/vauban/wire/bag"
	"github.com/vauban-iot/vauban/wire/secmsg"
)

// memorySettings are settings, some of which cannot be read.
type memorySettings struct {
	mu   sync.Mutex
	kept map[string][]byte
}

func (s *memorySettings) Setting(_ context.Context, name string) ([]byte, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if v, ok := s.kept[name]; ok {
		return v, nil
	}
	return nil, fault.New(fault.NotFound, "there is no setting %s", name)
}

func (s *memorySettings) PutSetting(_ context.Context, name string, value []byte) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.kept == nil {
		s.kept = make(map[string][]byte)
	}
	s.kept[name] = value
	return nil
}

// scans is a message of a device that asks many hosts for telnet.
func scans(device string, enqueued, clock time.Time) *iot.Message {
	var flows []secmsg.Flow
	for i := range 20 {
		flows = append(flows, secmsg.Flow{Local: netip.MustParseAddrPort("192.168.1.5:40000"), Remote: netip.MustParseAddrPort(fmt.Sprintf("203.0.113.%d:23", i*7+1)), Protocol: "TCP", BytesOut: 40})
	}
	return secured(device, enqueued, secmsg.Event{Name: "NetworkActivity", Time: clock, Interval: 10 * time.Second, Flows: flows})
}

func secured(device string, enqueued time.Time, events ...secmsg.Event) *iot.Message {
	return &iot.Message{
		From: iot.ID{Device: device}, Enqueued: enqueued, System: []bag.Property{{Name: "iothub-interface-id", Value: iot.SecurityInterface}}, Properties: []bag.Property{{Name: "mti", Value: "2.3-1-0-0"}},
		Body: secmsg.AppendFlatBuffers(nil, secmsg.Report{Agent: "defender-iot-micro-agent", AgentVersion: "3.5.4", Events: events}),
	}
}

// failing is a store that fails at first.
type failing struct {
	*memoryAlerts
	failures int
}

func (f *failing) Record(ctx context.Context, events []record.Event, alerts []alert.Alert) ([]alert.Raised, error) {
	if f.failures > 0 {
		f.failures--
		return nil, errors.New("the store is away")
	}
	return f.memoryAlerts.Record(ctx, events, alerts)
}

// What behaviour finds becomes an alert that explains itself and shows its evidence; a store that is away loses none; what was learned is kept at
// the end and read at the next beginning.
func TestDetector_Behaviour(t *testing.T) {
	t.Parallel()
	settings := new(memorySettings)
	store := &failing{memoryAlerts: new(memoryAlerts), failures: 2}
	engine := behaviour.NewEngine(behaviour.Config{})
	groups := 0
	d, err := New(Config{
		Log: newMemoryLog(), Intel: func() *intel.Set { return nil }, Alerts: store, Behaviour: engine, Learned: settings, Registerer: prometheus.NewRegistry(),
		Members: func(context.Context, []string) (map[string]string, error) {
			groups++
			return map[string]string{"lamp": "plant"}, nil
		},
	})
	if err != nil {
		t.Fatal(err)
	}
	at := time.Date(2026, 5, 1, 10, 0, 0, 0, time.UTC)
	entry := bus.Entry{Sequence: 7, Data: telemetry.Batch(scans("lamp", at, at), secured("other", at, secmsg.Event{Name: "Heartbeat", Time: at}))}
	for range 2 {
		if err := d.entry(t.Context(), entry); err == nil {
			t.Fatal("a store that is away is no error")
		}
	}
	for range 2 { // once more, as after a crash
		if err := d.entry(t.Context(), entry); err != nil {
			t.Fatal(err)
		}
	}
	all, err := store.Alerts(t.Context(), alert.Filter{Type: alert.NetworkScan})
	if err != nil {
		t.Fatal(err)
	}
	if len(all) != 1 {
		t.Fatalf("%d alerts: %+v", len(all), all)
	}
	a := all[0]
	if a.Device != "lamp" || a.Indicator != "TCP port 23" || a.Severity != alert.High || a.Source != "behaviour: scan" || a.Count != 1 || a.Remote != "203.0.113.1" || a.LastMessage != telemetry.Sequence(7, 0) {
		t.Errorf("%+v", a)
	}
	for _, word := range []string{"Expected: ", "hosts for TCP port 23", "Since 2026-05-01 10:00:00"} {
		if !strings.Contains(a.Description, word) {
			t.Errorf("%q lacks %q", a.Description, word)
		}
	}
	full := behaviourAlert(iot.ID{Device: "lamp"}, behaviour.Finding{Detector: behaviour.Scan, Type: alert.NetworkScan, Indicator: "x", At: at, Since: at.Add(-48 * time.Hour), Expected: "e", Seen: "s", Sureness: 30})
	var facts map[string]any
	if err := json.Unmarshal(full.Evidence[0].Details, &facts); err != nil || facts["expected"] != "e" || facts["seen"] != "s" || facts["detector"] != "scan" || facts["since"] == nil {
		t.Errorf("facts %v, %v", facts, err)
	}
	if full.Severity != alert.Low || full.Day != "2026-05-01" || full.FirstSeen.Format(time.DateOnly) != full.Day {
		t.Errorf("%+v", full)
	}
	if groups == 0 || engine.Stale(iot.ID{Device: "lamp"}, at.Add(time.Minute)) || !engine.Stale(iot.ID{Device: "lamp"}, at.Add(time.Hour)) {
		t.Error("the group of a device is asked for every ten minutes")
	}

	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	d.keepLearned(ctx) // at the end all that changed is written
	next := behaviour.NewEngine(behaviour.Config{})
	d2, err := New(Config{Log: newMemoryLog(), Intel: func() *intel.Set { return nil }, Alerts: store, Behaviour: next, Learned: settings})
	if err != nil {
		t.Fatal(err)
	}
	settings.kept[partSetting(99)] = []byte("of no part")
	if err := d2.remember(t.Context()); err != nil || next.Stats().Devices != engine.Stats().Devices {
		t.Errorf("%+v after a restart, %+v before: %v", next.Stats(), engine.Stats(), err)
	}
	for name := range settings.kept {
		settings.kept[name] = []byte("damaged")
	}
	if err := d2.remember(t.Context()); err != nil || next.Stats().Devices != 0 {
		t.Errorf("damaged: %+v, %v", next.Stats(), err)
	}
}

// The clock policy of the whole detector: the hub's time stands on every alert and every event, whoever raises it; a device's own decides nothing but the
// order inside a message, whether it is decades late, in the future, or says nothing.
func TestDetector_ClockPolicy(t *testing.T) {
	t.Parallel()
	conform.Covers(t, "DEF-41")
	at := time.Date(2026, 5, 1, 23, 59, 50, 0, time.UTC)
	for name, clock := range map[string]time.Time{
		"right": at, "none": {}, "1970": time.Unix(1, 0), "2099": time.Date(2099, 1, 1, 0, 0, 0, 0, time.UTC), "a minute ahead, on the next day": at.Add(time.Minute),
	} {
		b := newBench(t, setOf("203.0.113.0/24"))
		engine := behaviour.NewEngine(behaviour.Config{})
		d, err := New(Config{Log: b.log, Intel: b.cfg.Intel, Alerts: b.alerts, Behaviour: engine})
		if err != nil {
			t.Fatal(err)
		}
		m := scans("lamp", at, clock)
		if err := d.entry(t.Context(), bus.Entry{Sequence: 3, Data: telemetry.Batch(m)}); err != nil {
			t.Fatal(err)
		}
		all, err := b.alerts.Alerts(t.Context(), alert.Filter{Device: "lamp"})
		if err != nil {
			t.Fatal(err)
		}
		kinds := map[string]bool{}
		for _, a := range all {
			kinds[a.Type] = true
			if a.Day != "2026-05-01" || !a.FirstSeen.Equal(at) || !a.LastSeen.Equal(at) {
				t.Errorf("clock %s: %s of %s, %v to %v", name, a.Type, a.Day, a.FirstSeen, a.LastSeen)
			}
		}
		if !kinds[alert.TiConnection] || !kinds[alert.NetworkScan] {
			t.Errorf("clock %s: raised %v", name, kinds)
		}
	}
}
