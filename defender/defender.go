// Package defender keeps what security agents report, compares it with lists of known bad addresses and
// with the rules of the devices' security groups, and raises alerts. Its [Detector] follows the telemetry log with a
// memory of its own place, so that a restart neither misses nor counts twice.
package defender

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promauto"

	"github.com/vauban-iot/vauban/bus"
	"github.com/vauban-iot/vauban/defender/alert"
	"github.com/vauban-iot/vauban/defender/behaviour"
	"github.com/vauban-iot/vauban/defender/group"
	"github.com/vauban-iot/vauban/defender/host"
	"github.com/vauban-iot/vauban/defender/intel"
	"github.com/vauban-iot/vauban/defender/record"
	"github.com/vauban-iot/vauban/hub/telemetry"
	"github.com/vauban-iot/vauban/internal/nonce"
	"github.com/vauban-iot/vauban/iot"
	"github.com/vauban-iot/vauban/wire/secmsg"
)

// Reader is the telemetry log as the detector needs it; see [bus.Log].
type Reader interface {
	Work(ctx context.Context, name string, handle func(bus.Entry) error) error
}

// Store is what a detector needs of [alert.Store] and [record.Store].
type Store interface {
	Raise(ctx context.Context, a alert.Alert) (stored alert.Alert, created bool, err error)
	Record(ctx context.Context, events []record.Event, alerts []alert.Alert) ([]alert.Raised, error)
	PruneEvents(ctx context.Context, before time.Time, keep int, bytes int64) (int, error)
	PruneDevice(ctx context.Context, device string, keep int, bytes int64) (int, error)
	PruneAlerts(ctx context.Context, before time.Time, keep int) (old, many int, err error)
}

// Config of a Detector.
type Config struct {
	Log    Reader            // required
	Intel  func() *intel.Set // the indicators in use now; required
	Alerts Store             // keeps events and alerts; required
	// Groups returns the rules of the security groups that have some; nil: there are none.
	Groups func(ctx context.Context) (map[string]*group.Compiled, error)
	// Members returns the tag SecurityGroup of devices that have one. It is required with Groups.
	Members func(ctx context.Context, devices []string) (map[string]string, error)
	// Active hears how many connections and failed logins the agent of a device told of; may be nil.
	Active func(device string, at time.Time, connections, failedLogins int)
	// Host finds attacks in what agents say of their devices; see [host.Engine]. It may be nil.
	Host Judge
	// Reported judges what a message says of how its device is set up, once its events are kept; see [posture.Watcher]. When it fails, the
	// log gives the entry again. It may be nil.
	Reported func(ctx context.Context, m *iot.Message, r *secmsg.Report) error
	// Raised hears of every new alert and of every one that grew, in order, with its
	// stored form. After a failure or a restart it may hear the same again. It may be nil.
	Raised func(alert.Alert)
	// Behaviour judges devices by their past and their group; nil: nobody does. Learned keeps what it knows, over restarts; may be nil.
	Behaviour  *behaviour.Engine
	Learned    Settings
	AlertAge   time.Duration         // how long closed alerts are kept; 0: alert.MaxAge; alert.MinAge at least
	Now        func() time.Time      // nil: time.Now
	Logger     *slog.Logger          // nil: slog.Default
	Registerer prometheus.Registerer // may be nil
}

// Worker is the name under which the log remembers the detector's place.
const Worker = "defender"

// TiConnection is the type of the alert for traffic with a listed address (defender §2.1).
const TiConnection = alert.TiConnection

// Detector raises alerts from security messages.
type Detector struct {
	cfg Config
	log *slog.Logger
	m   metrics

	handled     atomic.Uint64 // the last log entry that was compared
	connections chan connection
	prune       pruner
	watch       *watcher                  // nil: there is none
	batch       batch                     // of Run alone
	resumed     time.Time                 // when it went on after a rest; of Run alone
	gathers     bool                      // the log gives several entries in one go; of Run alone
	intrusions  map[uint64][]host.Finding // of messages that the store has not taken yet: each is judged once, and the log may give it again
}

type metrics struct {
	messages  *prometheus.CounterVec
	malformed prometheus.Counter
	versions  prometheus.Counter
	skipped   prometheus.Counter
	beats     prometheus.Counter
	flows     prometheus.Counter
	kept      prometheus.Counter
	cut       prometheus.Counter
	broken    prometheus.Counter
	alerts    *prometheus.CounterVec
	forgotten *prometheus.CounterVec
	corrupt   prometheus.Counter
	passes    prometheus.Counter
	found     prometheus.Counter
	unseen    prometheus.Counter
}

// New makes a detector; Run starts it.
func New(cfg Config) (*Detector, error) {
	if cfg.Log == nil || cfg.Intel == nil || cfg.Alerts == nil || cfg.Groups != nil && cfg.Members == nil {
		return nil, errors.New("defender: Log, Intel and Alerts are required, and Members with Groups")
	}
	if cfg.Logger == nil {
		cfg.Logger = slog.Default()
	}
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	cfg.AlertAge = max(cmp.Or(cfg.AlertAge, alert.MaxAge), alert.MinAge)
	f := promauto.With(cfg.Registerer)
	counter := func(name, help string) prometheus.Counter {
		return f.NewCounter(prometheus.CounterOpts{Name: "vauban_defender_" + name + "_total", Help: help})
	}
	var watch *watcher
	if cfg.Behaviour != nil {
		watch = newWatcher(cfg.Behaviour, cfg.Registerer)
	}
	return &Detector{cfg: cfg, log: cfg.Logger, watch: watch, connections: make(chan connection, maxConnections), intrusions: make(map[uint64][]host.Finding), m: metrics{
		messages:  f.NewCounterVec(prometheus.CounterOpts{Name: "vauban_defender_messages_total", Help: "Security messages read, by encoding."}, []string{"encoding"}),
		malformed: counter("malformed_messages", "Security messages that could not be read."),
		versions:  counter("unknown_versions", "Security messages of a schema version that is not known."),
		skipped:   counter("skipped_events", "Events that were left out of readable security messages."),
		beats:     counter("heartbeats", "Events that only say that a device is alive."),
		flows:     counter("flows", "Flows compared with the indicators."),
		kept:      counter("events", "Security events kept."),
		cut:       counter("items_not_kept", "Payload items that were too many to be kept."),
		broken:    counter("schema_broken_messages", "Messages of JSON 1.0 that break the published schema, and are read all the same."),
		alerts:    f.NewCounterVec(prometheus.CounterOpts{Name: "vauban_defender_alerts_total", Help: "Alerts raised, by outcome: new, or repeated when one stood already."}, []string{"outcome"}),
		forgotten: f.NewCounterVec(prometheus.CounterOpts{Name: "vauban_defender_alerts_forgotten_total", Help: "Alerts that are not kept any more, by reason: age of closed ones, or bound."}, []string{"reason"}),
		passes:    counter("retro_passes", "Times that the kept flows were compared with new indicators."),
		found:     counter("retro_alerts", "Alerts raised by comparing kept flows with new indicators."),
		unseen:    counter("unseen_connections", "Connections of devices that were not compared because too many came at once."),
		corrupt:   counter("corrupt_entries", "Log entries that could not be read; what they held behind the damage was skipped."),
	}}, nil
}

// Run works through the log until ctx ends.
func (d *Detector) Run(ctx context.Context) error {
	d.batch = batch{} // another server may have led meanwhile, and kept it
	if err := d.remember(ctx); err != nil {
		return err
	}
	var beside, after sync.WaitGroup
	ctx, cancel := context.WithCancel(ctx)
	read, done := context.WithCancel(context.WithoutCancel(ctx))
	beside.Go(func() { d.keepBounds(ctx) })
	after.Go(func() { d.keepLearned(read) }) // until nothing is learned any more
	err := d.cfg.Log.Work(ctx, Worker, func(e bus.Entry) error { return d.entry(ctx, e) })
	cancel()
	beside.Wait()
	done()
	after.Wait()
	return err
}

// reading is a security message that could be read.
type reading struct {
	entry  uint64 // of the log
	m      iot.Message
	report secmsg.Report
	first  int            // of its events among those of the batch
	events []record.Event // once the batch is complete
}

// maxBatch is how many bytes of messages are gathered for one transaction, but for the entry that reaches it.
const maxBatch = 4 << 20

// gathering bounds how long entries wait for others, so that all are kept in one transaction. It is short beside the second in which an alert
// is to be there, and only what comes faster than it is judged waits at all.
const gathering = 200 * time.Millisecond

// breath is how long after a transaction the next may begin, where the log gives in one go what gathers meanwhile: a thousand small ones in a second
// would take the processor from the devices that wait for their acknowledgements.
const breath = 50 * time.Millisecond

// batch is what was read of the log and is not kept yet.
type batch struct {
	readings []reading
	events   []record.Event // of the readings, in their order
	size     int            // bytes of bodies, and of the rows they unfold to
	since    time.Time      // when the first was read
	done     uint64         // the last entry that was read whole
}

// add adds a reading, whose events are the last ones of all.
func (b *batch) add(r reading, all []record.Event) {
	b.size += len(r.m.Body)
	for i := range all[r.first:] {
		for _, row := range all[r.first+i].Details {
			b.size += len(row)
		}
	}
	b.readings, b.events = append(b.readings, r), all
}

// complete says which events are whose.
func (b *batch) complete() {
	for i := range b.readings {
		last := len(b.events)
		if i+1 < len(b.readings) {
			last = b.readings[i+1].first
		}
		b.readings[i].events = b.events[b.readings[i].first:last:last]
	}
}

// maxSpare is how many readings and events there is room for from batch to batch, without asking for memory each time.
const maxSpare = 8192

// clear forgets what is kept.
func (b *batch) clear() {
	clear(b.readings)
	clear(b.events)
	b.readings, b.events, b.size = b.readings[:0], b.events[:0], 0
	if cap(b.readings) > maxSpare || cap(b.events) > maxSpare {
		b.readings, b.events = nil, nil
	}
}

// entry handles an entry of the log, together with those that are there behind it. Only a store that fails is an error, for which the log gives the
// entry again: events that are kept are left alone, and messages already counted are known by their sequence (alert.Store.Raise).
func (d *Detector) entry(ctx context.Context, e bus.Entry) error {
	if err := d.take(e); err != nil {
		return err
	}
	d.gathers = d.gathers || e.More
	if b := &d.batch; e.More && (len(b.readings) == 0 || b.size < maxBatch && d.cfg.Now().Sub(b.since) < gathering) {
		if len(b.readings) == 0 {
			d.handled.Store(e.Sequence)
			return nil
		}
		return bus.ErrLater
	}
	kept := len(d.batch.readings) > 0
	if err := d.keep(ctx); err != nil {
		return err
	}
	d.handled.Store(e.Sequence)
	if d.gathers && kept {
		select {
		case <-time.After(breath):
		case <-ctx.Done():
		}
	}
	return nil
}

// yield lets those go first who wait for an acknowledgement: after a few messages it rests for twice as long as they took, so that a second's
// messages are judged all over the second. Who is behind hurries, and only lets go of the processor: by sleeping, for runtime.Gosched would go on
// at once while others wait for a thread that the machine has put aside.
func (d *Detector) yield(i int, enqueued time.Time) {
	if i%stretchMessages != stretchMessages-1 {
		return
	}
	nap := 2 * min(time.Since(d.resumed), maxStretch)
	if d.cfg.Now().Sub(enqueued) > hurry {
		nap = shortNap
	}
	time.Sleep(nap)
	d.resumed = time.Now()
}

const (
	stretchMessages = 8
	maxStretch      = time.Millisecond
	shortNap        = 50 * time.Microsecond
	hurry           = 400 * time.Millisecond
)

// take reads an entry into the batch, once.
func (d *Detector) take(e bus.Entry) error {
	b := &d.batch
	if b.done == e.Sequence { // it is given again because it could not be kept
		return nil
	}
	err := telemetry.Decode(e.Sequence, e.Data, func(m *iot.Message) error {
		if m.IsEvent() || !m.IsSecurity() {
			return nil
		}
		if len(b.readings) == 0 {
			b.since = d.cfg.Now()
		}
		d.yield(len(b.readings), m.Enqueued)
		own := *m
		own.Body = bytes.Clone(m.Body) // the entry's data is good until this returns
		b.add(d.read(&own, b.events))
		b.readings[len(b.readings)-1].entry = e.Sequence
		return nil
	})
	if errors.Is(err, telemetry.ErrCorrupt) {
		d.m.corrupt.Inc()
		d.log.Warn("log entry cannot be read; it is skipped", "entry", e.Sequence, "err", err)
		err = nil
	}
	if err == nil {
		b.done = e.Sequence
	}
	return err
}

// keep writes the batch.
func (d *Detector) keep(ctx context.Context) error {
	d.batch.complete()
	if err := d.handle(ctx, d.batch.readings, d.batch.events); err != nil {
		return err
	}
	d.batch.clear()
	return nil
}

// read decodes a message and appends its events to all; the event of one that cannot be read says so.
func (d *Detector) read(m *iot.Message, all []record.Event) (reading, []record.Event) {
	mti := m.Property(secmsg.Indicator)
	report, err := secmsg.Decode(mti, m.Body)
	if err != nil {
		d.m.malformed.Inc()
		d.log.Warn("security message cannot be read", "device", m.From.Device, "module", m.From.Module, "sequence", m.Sequence, "err", err)
		return reading{m: *m, first: len(all)}, append(all, record.Invalid(m, mti, err))
	}
	d.m.messages.WithLabelValues(report.Encoding).Inc()
	d.m.skipped.Add(float64(report.Skipped))
	if report.UnknownVersion {
		d.m.versions.Inc()
	}
	for _, note := range report.Notes {
		d.log.Debug("security message is odd", "device", m.From.Device, "module", m.From.Module, "sequence", m.Sequence, "note", note)
	}
	r := reading{m: *m, report: report, first: len(all)}
	all = record.AppendEvents(all, m, &report)
	if all[r.first].Schema == record.Broken {
		d.m.broken.Inc()
	}
	for i := range all[r.first:] {
		d.m.cut.Add(float64(all[r.first+i].Left))
	}
	return r, all
}

// handle keeps the events of messages and raises their alerts, all in one transaction.
func (d *Detector) handle(ctx context.Context, readings []reading, events []record.Event) error {
	if len(readings) == 0 {
		return nil
	}
	rules, err := d.rulesOf(ctx, readings)
	if err != nil {
		return err
	}
	if err := d.groupsFor(ctx, readings); err != nil {
		return err
	}
	var alerts []alert.Alert
	// Alerts of one entry are one, those of several are not: after a crash the log gives again what was counted already, beside what was not, and the
	// store knows by the last message of each.
	type key struct {
		alert.Key
		entry uint64
	}
	places := make(map[key]int)
	for i := range readings {
		r := &readings[i]
		d.yield(i, r.m.Enqueued)
		found := append(d.match(r), d.judge(r, rules[r.m.From.Device])...)
		found = append(found, d.observe(r)...)
		intrusions, err := d.intrude(ctx, r)
		if err != nil {
			return err
		}
		found = append(found, intrusions...)
		for _, a := range found {
			k := key{a.Key(), r.entry}
			if at, ok := places[k]; ok {
				alerts[at].Merge(a)
				continue
			}
			places[k] = len(alerts)
			alerts = append(alerts, a)
		}
	}
	raised, err := d.cfg.Alerts.Record(ctx, events, alerts)
	if err != nil {
		return fmt.Errorf("keep %d security events and %d alerts: %w", len(events), len(alerts), err)
	}
	if d.watch != nil {
		clear(d.watch.raised)
	}
	clear(d.intrusions)
	d.m.kept.Add(float64(len(events)))
	for i := range readings {
		r := &readings[i]
		d.prune.wrote(r.m.From.Device, r.events)
		if d.cfg.Active != nil {
			connections, failed := group.Count(&r.report)
			d.cfg.Active(r.m.From.Device, r.m.Enqueued, connections, failed)
		}
	}
	for i := range raised {
		d.told(&raised[i])
	}
	if d.cfg.Reported == nil {
		return nil
	}
	for i := range readings {
		if err := d.cfg.Reported(ctx, &readings[i].m, &readings[i].report); err != nil {
			return err
		}
	}
	return nil
}

// told counts what became of an alert.
func (d *Detector) told(r *alert.Raised) {
	switch {
	case r.Created:
		d.m.alerts.WithLabelValues("new").Inc()
		d.log.Info("alert raised", "device", r.Device, "module", r.Module, "type", r.Type, "indicator", r.Indicator, "source", r.Source, "status", string(r.Status))
	case !r.Counted:
		return // counted before a restart
	default:
		d.m.alerts.WithLabelValues("repeated").Inc()
	}
	d.tell(r.Alert)
}

func (d *Detector) tell(a alert.Alert) {
	if d.cfg.Raised != nil {
		d.cfg.Raised(a)
	}
}

// devices of some messages, each once.
func devices(readings []reading) []string {
	var all []string
	seen := make(map[string]bool, len(readings))
	for i := range readings {
		if id := readings[i].m.From.Device; !seen[id] {
			seen[id] = true
			all = append(all, id)
		}
	}
	return all
}

// rulesOf returns the rules of the groups in which the devices are at this moment: a changed tag counts at once.
func (d *Detector) rulesOf(ctx context.Context, readings []reading) (map[string]membership, error) {
	if d.cfg.Groups == nil {
		return nil, nil
	}
	groups, err := d.cfg.Groups(ctx)
	if err != nil {
		return nil, fmt.Errorf("read the security groups: %w", err)
	}
	judging := false
	for _, c := range groups {
		judging = judging || c.Judges()
	}
	if !judging {
		return nil, nil
	}
	ids := devices(readings)
	tags, err := d.cfg.Members(ctx, ids)
	if err != nil {
		return nil, fmt.Errorf("read the groups of devices: %w", err)
	}
	all := make(map[string]membership, len(ids))
	for _, id := range ids {
		name, ok := tags[id]
		if !ok {
			name = group.Default
		}
		all[id] = membership{name, groups[name]}
	}
	return all, nil
}

// membership is a group's name and its rules; nil: it has none.
type membership struct {
	name  string
	rules *group.Compiled
}

// match makes the alerts of a message about listed addresses.
func (d *Detector) match(r *reading) []alert.Alert {
	for i := range r.report.Events {
		e := &r.report.Events[i]
		if e.IsHeartbeat() {
			d.m.beats.Inc()
		}
		d.m.flows.Add(float64(len(e.Flows)))
	}
	return found(d.cfg.Intel(), &r.m, &r.report)
}

// maxOfMessage bounds the alerts of one message about listed addresses: an honest one has 128 flows.
const maxOfMessage = 256

// found makes one alert for each indicator that flows of the message touch. Times are the
// hub's: device clocks may be wrong (defender §7).
func found(set *intel.Set, m *iot.Message, report *secmsg.Report) []alert.Alert {
	var all []alert.Alert
	places := make(map[string]int)
	for i := range report.Events {
		e := &report.Events[i]
		var details []json.RawMessage // made when they are needed
		var form string
		for j := range e.Flows {
			f := &e.Flows[j]
			hit, own, ok := listed(set, f, m.Enqueued)
			if !ok {
				continue
			}
			key := hit.String()
			at, ok := places[key]
			if !ok {
				if len(all) == maxOfMessage {
					continue
				}
				at = len(all)
				places[key] = at
				all = append(all, newAlert(m, f, hit, own))
			}
			all[at].Count++
			if len(all[at].Evidence) == alert.MaxEvidence {
				continue
			}
			if details == nil {
				details, form = e.Details()
			}
			all[at].Add(alert.Evidence{Message: m.Sequence, Time: m.Enqueued.UTC(), Event: e.Name, Form: form, Details: record.Safe(details[f.Item])})
		}
	}
	return all
}

// judge makes one alert for each rule of its device's group that the message breaks.
func (d *Detector) judge(r *reading, in membership) []alert.Alert {
	if !in.rules.Judges() {
		return nil
	}
	at := r.m.Enqueued.UTC()
	var found []alert.Alert
	for _, f := range in.rules.Judge(&r.report) {
		kind := alert.Lookup(alert.Custom(f.Rule))
		a := alert.Alert{
			ID: nonce.New(), Type: kind.Name, Severity: kind.Severity, Title: kind.Title,
			Description: fmt.Sprintf("Device %s %s, which the rule %s of its security group %s does not allow.", r.m.From, f.Text, f.Rule, in.name),
			Device:      r.m.From.Device, Module: r.m.From.Module, Group: in.name, Indicator: f.Rule, Source: "security group " + in.name, Day: at.Format(time.DateOnly),
			Count: f.Count, FirstSeen: at, LastSeen: at, LastMessage: r.m.Sequence,
		}
		if f.Flow != nil {
			a.Remote, a.Local, a.Protocol, a.Direction = hostOf(f.Flow.Remote.Addr()), hostOf(f.Flow.Local.Addr()), f.Flow.Protocol, f.Flow.Direction
		}
		for _, item := range f.Items {
			if item[0] < len(r.events) && item[1] < len(r.events[item[0]].Details) {
				a.Add(r.events[item[0]].Evidence(item[1]))
			}
		}
		found = append(found, a)
	}
	return found
}

// listed finds the indicator of a flow: of its remote side or, when the device itself has a
// public address, of its own.
func listed(set *intel.Set, f *secmsg.Flow, seen time.Time) (hit intel.Indicator, own, ok bool) {
	if hit, ok = set.Match(f.Remote, seen); ok {
		return hit, false, true
	}
	if a := f.Local.Addr().Unmap(); a.IsGlobalUnicast() && !a.IsPrivate() {
		hit, ok = set.Match(f.Local, seen)
		return hit, true, ok
	}
	return intel.Indicator{}, false, false
}

// severity is what the confidence of an indicator makes of traffic with it.
func severity(confidence int) alert.Severity {
	switch {
	case confidence >= 75:
		return alert.High
	case confidence >= 50:
		return alert.Medium
	}
	return alert.Low
}

func newAlert(m *iot.Message, f *secmsg.Flow, hit intel.Indicator, own bool) alert.Alert {
	at := m.Enqueued.UTC()
	return alert.Alert{
		ID: nonce.New(), Type: TiConnection, Severity: severity(hit.Confidence),
		Title: "Suspicious IP address communication", Description: describe(m.From, f, hit, own),
		Device: m.From.Device, Module: m.From.Module,
		Indicator: hit.String(), Source: hit.Place(), Day: at.Format(time.DateOnly),
		Remote: hostOf(f.Remote.Addr()), Local: hostOf(f.Local.Addr()), Protocol: f.Protocol, Direction: f.Direction,
		FirstSeen: at, LastSeen: at, LastMessage: m.Sequence,
	}
}

func describe(from iot.ID, f *secmsg.Flow, hit intel.Indicator, own bool) string {
	if own {
		return fmt.Sprintf("The address %s of device %s is on a list of known bad addresses (%s, as %s). "+
			"Others may have seen the device take part in an attack: check its software, and change its credentials if it was taken over.",
			hostOf(f.Local.Addr()), from, hit.Place(), known(hit))
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
		from, what, endpoint(f.Remote), f.Protocol, hit.Place(), known(hit))
}

// known is the indicator with what its source says of it.
func known(hit intel.Indicator) string {
	text := hit.String()
	if len(hit.Labels) > 0 {
		text += ": " + strings.Join(hit.Labels, ", ")
	}
	return text
}

// hostOf is an address as alerts show it.
func hostOf(a netip.Addr) string {
	if !a.IsValid() {
		return ""
	}
	return a.Unmap().String()
}

// endpoint adds the port, when there is one.
func endpoint(a netip.AddrPort) string {
	if a.Port() == 0 { // ICMP
		return hostOf(a.Addr())
	}
	return hostOf(a.Addr()) + " port " + strconv.Itoa(int(a.Port()))
}
