// Package defender compares what devices report about their traffic with lists of known bad
// addresses, and raises alerts. Its [Detector] follows the telemetry log with a memory of its
// own place, so that a restart neither misses nor counts twice.
package defender

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"strconv"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promauto"

	"github.com/vauban-iot/vauban/bus"
	"github.com/vauban-iot/vauban/defender/alert"
	"github.com/vauban-iot/vauban/defender/intel"
	"github.com/vauban-iot/vauban/hub/telemetry"
	"github.com/vauban-iot/vauban/internal/nonce"
	"github.com/vauban-iot/vauban/iot"
	"github.com/vauban-iot/vauban/wire/secmsg"
)

// Reader is the telemetry log as the detector needs it; see [bus.Log].
type Reader interface {
	Work(ctx context.Context, name string, handle func(bus.Entry) error) error
}

// Config of a Detector.
type Config struct {
	Log    Reader            // required
	Intel  func() *intel.Set // the indicators in use now; required
	Alerts alert.Store       // required
	// Raised hears of every new alert and of every one that grew, in order, with its
	// stored form. After a failure or a restart it may hear the same again. It may be nil.
	Raised     func(alert.Alert)
	Logger     *slog.Logger          // nil: slog.Default
	Registerer prometheus.Registerer // may be nil
}

// Worker is the name under which the log remembers the detector's place.
const Worker = "defender"

// TiConnection is the type of the alert for traffic with a listed address (defender §2.1).
const TiConnection = "IoT_TiConnection"

// Detector raises alerts from security messages.
type Detector struct {
	cfg Config
	log *slog.Logger
	m   metrics
}

type metrics struct {
	messages  *prometheus.CounterVec
	malformed prometheus.Counter
	versions  prometheus.Counter
	skipped   prometheus.Counter
	beats     prometheus.Counter
	flows     prometheus.Counter
	alerts    *prometheus.CounterVec
	corrupt   prometheus.Counter
}

// New makes a detector; Run starts it.
func New(cfg Config) (*Detector, error) {
	if cfg.Log == nil || cfg.Intel == nil || cfg.Alerts == nil {
		return nil, errors.New("defender: Log, Intel and Alerts are required")
	}
	if cfg.Logger == nil {
		cfg.Logger = slog.Default()
	}
	f := promauto.With(cfg.Registerer)
	counter := func(name, help string) prometheus.Counter {
		return f.NewCounter(prometheus.CounterOpts{Name: "vauban_defender_" + name + "_total", Help: help})
	}
	return &Detector{cfg: cfg, log: cfg.Logger, m: metrics{
		messages:  f.NewCounterVec(prometheus.CounterOpts{Name: "vauban_defender_messages_total", Help: "Security messages read, by encoding."}, []string{"encoding"}),
		malformed: counter("malformed_messages", "Security messages that could not be read."),
		versions:  counter("unknown_versions", "Security messages of a schema version that is not known."),
		skipped:   counter("skipped_events", "Events that were left out of readable security messages."),
		beats:     counter("heartbeats", "Events that only say that a device is alive."),
		flows:     counter("flows", "Flows compared with the indicators."),
		alerts:    f.NewCounterVec(prometheus.CounterOpts{Name: "vauban_defender_alerts_total", Help: "Alerts raised, by outcome: new, or repeated when one stood already."}, []string{"outcome"}),
		corrupt:   counter("corrupt_entries", "Log entries that could not be read; what they held behind the damage was skipped."),
	}}, nil
}

// Run works through the log until ctx ends.
func (d *Detector) Run(ctx context.Context) error {
	return d.cfg.Log.Work(ctx, Worker, func(e bus.Entry) error { return d.entry(ctx, e) })
}

// entry handles a batch. Only a store that fails is an error, for which the log gives the
// entry again: messages already counted are known by their sequence (alert.Store.Raise).
func (d *Detector) entry(ctx context.Context, e bus.Entry) error {
	err := telemetry.Decode(e.Sequence, e.Data, func(m *iot.Message) error {
		if m.IsEvent() || !m.IsSecurity() {
			return nil
		}
		return d.message(ctx, m)
	})
	if errors.Is(err, telemetry.ErrCorrupt) {
		d.m.corrupt.Inc()
		d.log.Warn("log entry cannot be read; it is skipped", "entry", e.Sequence, "err", err)
		return nil
	}
	return err
}

func (d *Detector) message(ctx context.Context, m *iot.Message) error {
	report, err := secmsg.Decode(indicator(m), m.Body)
	if err != nil {
		d.m.malformed.Inc()
		d.log.Warn("security message cannot be read", "device", m.From.Device, "module", m.From.Module, "sequence", m.Sequence, "err", err)
		return nil
	}
	d.m.messages.WithLabelValues(report.Encoding).Inc()
	d.m.skipped.Add(float64(report.Skipped))
	if report.UnknownVersion {
		d.m.versions.Inc()
	}
	for _, note := range report.Notes {
		d.log.Debug("security message is odd", "device", m.From.Device, "module", m.From.Module, "sequence", m.Sequence, "note", note)
	}
	for _, a := range d.match(m, &report) {
		stored, created, err := d.cfg.Alerts.Raise(ctx, a)
		if err != nil {
			return fmt.Errorf("raise an alert for %s about %s: %w", m.From, a.Indicator, err)
		}
		switch {
		case created:
			d.m.alerts.WithLabelValues("new").Inc()
			d.log.Info("alert raised", "device", a.Device, "module", a.Module, "type", a.Type, "indicator", a.Indicator, "source", a.Source)
		case stored.LastMessage > m.Sequence:
			continue // counted before a restart
		default:
			d.m.alerts.WithLabelValues("repeated").Inc()
		}
		if d.cfg.Raised != nil {
			d.cfg.Raised(stored)
		}
	}
	return nil
}

// indicator is the message type indicator: an application property (defender §1.1).
func indicator(m *iot.Message) string {
	for i := range m.Properties {
		if m.Properties[i].Name == "mti" {
			return m.Properties[i].Value
		}
	}
	return ""
}

// match makes one alert for each indicator that flows of the message touch. Times are the
// hub's: device clocks may be wrong (defender §7).
func (d *Detector) match(m *iot.Message, report *secmsg.Report) []alert.Alert {
	set := d.cfg.Intel()
	var found []alert.Alert
	places := make(map[string]int)
	for i := range report.Events {
		e := &report.Events[i]
		if e.IsHeartbeat() {
			d.m.beats.Inc()
		}
		d.m.flows.Add(float64(len(e.Flows)))
		for j := range e.Flows {
			f := &e.Flows[j]
			hit, own, ok := listed(set, f)
			if !ok {
				continue
			}
			if at, ok := places[hit.Text]; ok {
				found[at].Count++
				continue
			}
			places[hit.Text] = len(found)
			found = append(found, newAlert(m, f, hit, own))
		}
	}
	return found
}

// listed finds the indicator of a flow: of its remote side or, when the device itself has a
// public address, of its own.
func listed(set *intel.Set, f *secmsg.Flow) (hit intel.Indicator, own, ok bool) {
	if hit, ok = set.Match(f.Remote.Addr()); ok {
		return hit, false, true
	}
	if a := f.Local.Addr().Unmap(); a.IsGlobalUnicast() && !a.IsPrivate() {
		hit, ok = set.Match(a)
		return hit, true, ok
	}
	return intel.Indicator{}, false, false
}

func newAlert(m *iot.Message, f *secmsg.Flow, hit intel.Indicator, own bool) alert.Alert {
	at := m.Enqueued.UTC()
	return alert.Alert{
		ID: nonce.New(), Type: TiConnection, Severity: alert.High,
		Title: "Suspicious IP address communication", Description: describe(m.From, f, hit, own),
		Device: m.From.Device, Module: m.From.Module,
		Indicator: hit.Text, Source: hit.Source(), Day: at.Format(time.DateOnly),
		Remote: host(f.Remote.Addr()), Local: host(f.Local.Addr()), Protocol: f.Protocol, Direction: f.Direction,
		Count: 1, FirstSeen: at, LastSeen: at, LastMessage: m.Sequence,
	}
}

func describe(from iot.ID, f *secmsg.Flow, hit intel.Indicator, own bool) string {
	if own {
		return fmt.Sprintf("The address %s of device %s is on a list of known bad addresses (%s, as %s). "+
			"Others may have seen the device take part in an attack: check its software, and change its credentials if it was taken over.",
			host(f.Local.Addr()), from, hit.Source(), hit.Text)
	}
	what := "exchanged traffic with"
	switch f.Direction {
	case secmsg.In:
		what = "received traffic from"
	case secmsg.Out:
		what = "sent traffic to"
	}
	return fmt.Sprintf("Device %s %s %s over %s, which is on a list of known bad addresses (%s, as %s). "+
		"Find out what on the device talks to it and block the address; if the device was taken over, "+
		"disable its identity, install its software anew and change its credentials.",
		from, what, endpoint(f.Remote), f.Protocol, hit.Source(), hit.Text)
}

// host is an address as alerts show it.
func host(a netip.Addr) string {
	if !a.IsValid() {
		return ""
	}
	return a.Unmap().String()
}

// endpoint adds the port, when there is one.
func endpoint(a netip.AddrPort) string {
	if a.Port() == 0 { // ICMP
		return host(a.Addr())
	}
	return host(a.Addr()) + " port " + strconv.Itoa(int(a.Port()))
}
