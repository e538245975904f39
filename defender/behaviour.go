package defender

import (
	"context"
	"encoding/json"
	"fmt"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promauto"

	"github.com/vauban-iot/vauban/defender/alert"
	"github.com/vauban-iot/vauban/defender/behaviour"
	"github.com/vauban-iot/vauban/defender/group"
	"github.com/vauban-iot/vauban/fault"
	"github.com/vauban-iot/vauban/internal/nonce"
	"github.com/vauban-iot/vauban/iot"
)

// Settings keeps what detectors learned; see the store's settings.
type Settings interface {
	Setting(ctx context.Context, name string) ([]byte, error)
	PutSetting(ctx context.Context, name string, value []byte) error
}

// watcher judges what devices do by what they did before.
type watcher struct {
	engine   *behaviour.Engine
	findings *prometheus.CounterVec
	lost     prometheus.Counter // parts that could not be read
	// raised are alerts of messages that the store has not taken yet: the engine judges each message once, and the log may give it again.
	raised map[uint64][]alert.Alert
}

func newWatcher(engine *behaviour.Engine, reg prometheus.Registerer) *watcher {
	f := promauto.With(reg)
	f.NewGaugeFunc(prometheus.GaugeOpts{Name: "vauban_defender_behaviour_devices", Help: "Devices whose behaviour is remembered."}, func() float64 { return float64(engine.Stats().Devices) })
	f.NewGaugeFunc(prometheus.GaugeOpts{Name: "vauban_defender_behaviour_bytes", Help: "Memory that their behaviour takes, about."}, func() float64 { return float64(engine.Stats().Bytes) })
	f.NewCounterFunc(prometheus.CounterOpts{Name: "vauban_defender_behaviour_forgotten_total", Help: "Devices whose behaviour was forgotten for want of memory; they are learned anew."}, func() float64 {
		return float64(engine.Stats().Dropped)
	})
	f.NewCounterFunc(prometheus.CounterOpts{Name: "vauban_defender_findings_left_out_total", Help: "Findings beyond 64 of one message, which become no alerts."}, func() float64 {
		return float64(engine.Stats().Untold)
	})
	return &watcher{
		engine: engine, raised: make(map[uint64][]alert.Alert),
		findings: f.NewCounterVec(prometheus.CounterOpts{Name: "vauban_defender_findings_total", Help: "What detectors of behaviour found, by detector."}, []string{"detector"}),
		lost:     f.NewCounter(prometheus.CounterOpts{Name: "vauban_defender_behaviour_lost_parts_total", Help: "Parts of what was learned that could not be read at a start."}),
	}
}

// groupsFor tells the engine the groups of devices for which it does not know them.
func (d *Detector) groupsFor(ctx context.Context, readings []reading) error {
	if d.watch == nil || d.cfg.Members == nil {
		return nil
	}
	at := make(map[string][]int)
	var ask []string
	for i := range readings {
		m := &readings[i].m
		if !d.watch.engine.Stale(m.From, m.Enqueued) {
			continue
		}
		if len(at[m.From.Device]) == 0 {
			ask = append(ask, m.From.Device)
		}
		at[m.From.Device] = append(at[m.From.Device], i)
	}
	if len(ask) == 0 {
		return nil
	}
	tags, err := d.cfg.Members(ctx, ask)
	if err != nil {
		return fmt.Errorf("read the groups of devices: %w", err)
	}
	for device, places := range at {
		name, ok := tags[device]
		if !ok {
			name = group.Default
		}
		for _, i := range places {
			d.watch.engine.Group(readings[i].m.From, name, readings[i].m.Enqueued)
		}
	}
	return nil
}

// observe makes the alerts of a message that is not like its device.
func (d *Detector) observe(r *reading) []alert.Alert {
	w := d.watch
	if w == nil || len(r.report.Events) == 0 {
		return nil
	}
	if kept, ok := w.raised[r.m.Sequence]; ok {
		return kept
	}
	var all []alert.Alert
	for _, f := range w.engine.Observe(behaviour.Message{From: r.m.From, Sequence: r.m.Sequence, Enqueued: r.m.Enqueued, Report: &r.report}) {
		w.findings.WithLabelValues(f.Detector).Inc()
		a := behaviourAlert(r.m.From, f)
		a.LastMessage = r.m.Sequence
		for _, item := range f.Items {
			if item[0] < len(r.events) && item[1] < len(r.events[item[0]].Details) {
				a.Add(r.events[item[0]].Evidence(item[1]))
			}
		}
		all = append(all, a)
	}
	if len(all) > 0 {
		w.raised[r.m.Sequence] = all
	}
	return all
}

// behaviourAlert explains a finding: what was expected, what was seen, and since when.
func behaviourAlert(id iot.ID, f behaviour.Finding) alert.Alert {
	kind := alert.Lookup(f.Type)
	at, since := f.At.UTC(), f.Since.UTC()
	if f.Since.IsZero() || since.After(at) {
		since = at
	}
	who := "Device " + id.String()
	if id.Device == "" {
		who = "Somebody at " + f.Indicator
	}
	a := alert.Alert{
		ID: nonce.New(), Type: kind.Name, Severity: kind.Severity, Title: kind.Title, Device: id.Device, Module: id.Module,
		Description: fmt.Sprintf("%s: %s. Expected: %s. Since %s.", who, f.Seen, f.Expected, since.Format(time.DateTime)),
		Indicator:   f.Indicator, Source: "behaviour: " + f.Detector, Day: at.Format(time.DateOnly), Count: 1, FirstSeen: since, LastSeen: at,
	}
	// FirstSeen does not come before the day of the alert, by which it is found.
	if a.FirstSeen.Format(time.DateOnly) < a.Day {
		a.FirstSeen = at.Truncate(24 * time.Hour)
	}
	if f.Sureness < 50 {
		a.Severity = alert.Low
	}
	if f.Flow != nil {
		a.Remote, a.Local, a.Protocol, a.Direction = hostOf(f.Flow.Remote.Addr()), hostOf(f.Flow.Local.Addr()), f.Flow.Protocol, f.Flow.Direction
	}
	facts, err := json.Marshal(map[string]any{"detector": f.Detector, "expected": f.Expected, "seen": f.Seen, "since": since, "sureness": f.Sureness})
	if err != nil {
		panic(err) // texts, a time and a number always marshal
	}
	a.Add(alert.Evidence{Time: at, Event: f.Type, Details: facts})
	return a
}

// Knocked raises what a [behaviour.Door] found.
func (s *Sentry) Knocked(k behaviour.Knock) {
	a := behaviourAlert(k.ID, k.Finding)
	a.Source = "hub: " + k.Detector
	a.Remote = hostOf(k.Remote)
	s.add(&a)
}

// Times of keeping what was learned.
const (
	// savePeriod is from one part to the next: all are written in about eleven minutes, which is what a crash forgets.
	savePeriod = 10 * time.Second
	// saveTime bounds the writing of all parts at a stop.
	saveTime = 20 * time.Second
)

func partSetting(part int) string { return fmt.Sprintf("defender/behaviour/%02d", part) }

// remember reads what was learned before. What cannot be read is learned anew.
func (d *Detector) remember(ctx context.Context) error {
	if d.watch == nil || d.cfg.Learned == nil {
		return nil
	}
	d.watch.engine.Reset() // another server may have led meanwhile
	clear(d.watch.raised)
	for part := range behaviour.Shards {
		data, err := d.cfg.Learned.Setting(ctx, partSetting(part))
		if fault.Is(err, fault.NotFound) {
			continue
		}
		if err != nil {
			return fmt.Errorf("read what is known of devices: %w", err)
		}
		if err := d.watch.engine.Load(data); err != nil {
			d.watch.lost.Inc()
			d.log.Warn("some devices are learned anew", "part", part, "err", err)
		}
	}
	return nil
}

// keepLearned writes one part after the other until ctx ends, and all that changed then.
func (d *Detector) keepLearned(ctx context.Context) {
	if d.watch == nil || d.cfg.Learned == nil {
		return
	}
	tick := time.NewTicker(savePeriod)
	defer tick.Stop()
	for part := 0; ; part = (part + 1) % behaviour.Shards {
		select {
		case <-ctx.Done():
			last, cancel := context.WithTimeout(context.WithoutCancel(ctx), saveTime)
			defer cancel()
			for part := range behaviour.Shards {
				d.keepPart(last, part)
			}
			return
		case <-tick.C:
			d.keepPart(ctx, part)
		}
	}
}

func (d *Detector) keepPart(ctx context.Context, part int) {
	if !d.watch.engine.Changed(part) {
		return
	}
	data, err := d.watch.engine.Save(part)
	if err == nil {
		err = d.cfg.Learned.PutSetting(ctx, partSetting(part), data)
	}
	if err != nil && ctx.Err() == nil {
		d.log.Warn("what is known of devices is not kept yet", "part", part, "err", err)
	}
}
