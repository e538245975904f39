package baseline

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promauto"

	"github.com/vauban-iot/vauban/bus"
	"github.com/vauban-iot/vauban/defender/alert"
	"github.com/vauban-iot/vauban/defender/group"
	"github.com/vauban-iot/vauban/defender/intel"
	"github.com/vauban-iot/vauban/fault"
	"github.com/vauban-iot/vauban/hub/telemetry"
	"github.com/vauban-iot/vauban/iot"
	"github.com/vauban-iot/vauban/wire/secmsg"
)

// Reader is the telemetry log; see [bus.Log].
type Reader interface {
	Work(ctx context.Context, name string, handle func(bus.Entry) error) error
	Follow(ctx context.Context, from bus.Start, ready func(), handle func(bus.Entry) error) error
}

// Groups are the rules of security groups, which an enforced baseline may be written into; see [group.Book].
type Groups interface {
	Group(ctx context.Context, name string) (group.Rules, error)
	Put(ctx context.Context, name string, r group.Rules) (created bool, err error)
}

// Config of a Service.
type Config struct {
	Log     Reader                                                // required
	Store   Store                                                 // required
	Raise   func(ctx context.Context, alerts []alert.Alert) error // keeps alerts, on disk when it returns; required
	Intel   func() *intel.Set                                     // the indicators in use; required
	Groups  Groups                                                // required
	Hub     Controller                                            // what my-controller stands for
	Now     func() time.Time                                      // nil: time.Now
	Logger  *slog.Logger                                          // nil: slog.Default
	Metrics prometheus.Registerer                                 // may be nil
}

// Worker is the name under which the log remembers the service's place.
const Worker = "baseline"

// Times of the service.
const (
	// freshness is how late a change that a person made counts, on whichever server.
	freshness = time.Second
	// membership is how late a changed tag SecurityGroup counts.
	membership = 30 * time.Second
	maxCached  = 200_000 // devices whose group is remembered
	tickPeriod = 10 * time.Second
	savePeriod = time.Minute
	// unwatched is how long nobody may have watched without the hours of that time being left out.
	unwatched = 2 * time.Minute
	// silence is how long nothing may come before the clock ends an hour, in place of a message of the next one.
	silence = 2 * time.Minute
)

// team is a group with a baseline: what it is, and what is remembered of it.
type team struct {
	doc    Baseline
	judge  *compiled // of an enforced one
	memory *memory
	dirty  bool
}

type cached struct {
	group string
	at    time.Time
}

// Service learns and judges (Run, on one server), and does what people ask for (its other methods, on any).
type Service struct {
	cfg Config
	log *slog.Logger
	m   serviceMetrics

	previewing sync.Mutex // one at a time

	// mu protects all below. It is held while an entry of the log is handled, until its alerts are kept: what is saved never says that
	// a message is done whose alerts are not.
	mu      sync.Mutex
	running bool
	teams   map[string]*team
	read    time.Time // when the baselines were
	members map[string]cached
	pending []alert.Alert // of messages that are done in memory
	heard   time.Time     // when an entry of the log came
	hour    int64         // to which all groups were turned; 0: not all
}

type serviceMetrics struct {
	messages   prometheus.Counter
	deviations *prometheus.CounterVec
	baselines  *prometheus.GaugeVec
	lost       prometheus.Counter
	saves      prometheus.Counter
}

// New makes a service.
func New(cfg Config) (*Service, error) {
	if cfg.Log == nil || cfg.Store == nil || cfg.Raise == nil || cfg.Intel == nil || cfg.Groups == nil {
		return nil, errors.New("baseline: Log, Store, Raise, Intel and Groups are required")
	}
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	if cfg.Logger == nil {
		cfg.Logger = slog.Default()
	}
	f := promauto.With(cfg.Metrics)
	return &Service{cfg: cfg, log: cfg.Logger, m: serviceMetrics{
		messages:   f.NewCounter(prometheus.CounterOpts{Name: "vauban_baseline_messages_total", Help: "Messages of devices whose security group has a baseline that learns or judges."}),
		deviations: f.NewCounterVec(prometheus.CounterOpts{Name: "vauban_baseline_deviations_total", Help: "Deviations of messages from enforced baselines, by type of alert."}, []string{"type"}),
		baselines:  f.NewGaugeVec(prometheus.GaugeOpts{Name: "vauban_baselines", Help: "Baselines of security groups, by state, on the server that learns."}, []string{"state"}),
		lost:       f.NewCounter(prometheus.CounterOpts{Name: "vauban_baseline_unmeasured_messages_total", Help: "Messages of devices beyond the 20,000 of a group whose volumes are measured."}),
		saves:      f.NewCounter(prometheus.CounterOpts{Name: "vauban_baseline_saves_total", Help: "Times that what was learned of a group was saved."}),
	}}, nil
}

// Run learns and judges until ctx ends, and saves what it learned then. One server of a cluster runs it.
func (s *Service) Run(ctx context.Context) error {
	s.mu.Lock()
	s.running, s.teams, s.members, s.pending = true, make(map[string]*team), make(map[string]cached), nil
	s.read, s.heard, s.hour = time.Time{}, s.cfg.Now(), 0
	s.mu.Unlock()
	done := make(chan struct{})
	ctx, cancel := context.WithCancel(ctx)
	go func() {
		defer close(done)
		s.ticks(ctx)
	}()
	err := s.cfg.Log.Work(ctx, Worker, func(e bus.Entry) error { return s.entry(ctx, e) })
	cancel()
	<-done
	s.mu.Lock()
	defer s.mu.Unlock()
	if saveErr := s.save(context.WithoutCancel(ctx)); saveErr != nil {
		s.log.Warn("what was learned since the last minute is not kept", "err", saveErr)
	}
	s.running, s.teams = false, nil
	return err
}

func (s *Service) ticks(ctx context.Context) {
	tick := time.NewTicker(tickPeriod)
	defer tick.Stop()
	saved := s.cfg.Now()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		s.mu.Lock()
		now := s.cfg.Now()
		err := s.refresh(ctx)
		if err == nil && now.Sub(s.heard) >= silence { // nothing waits in the log
			if err = s.turn(ctx, now); err == nil {
				err = s.flush(ctx)
			}
		}
		if err == nil && now.Sub(saved) >= savePeriod {
			if err = s.save(ctx); err == nil {
				saved = now
			}
		}
		s.mu.Unlock()
		if err != nil && ctx.Err() == nil {
			s.log.Warn("baselines wait for the store", "err", err)
		}
	}
}

// refresh reads what people changed. mu is held.
func (s *Service) refresh(ctx context.Context) error {
	now := s.cfg.Now()
	if !s.read.IsZero() && now.Sub(s.read) < freshness && !now.Before(s.read) {
		return nil
	}
	all, err := s.cfg.Store.Baselines(ctx)
	if err != nil {
		return fmt.Errorf("read the baselines: %w", err)
	}
	stand := make(map[string]bool, len(all))
	states := map[State]int{}
	for _, b := range all {
		stand[b.Group] = true
		states[b.State]++
		t := s.teams[b.Group]
		if t != nil && t.doc.Version == b.Version && t.doc.Epoch == b.Epoch {
			continue
		}
		if t == nil || t.doc.Epoch != b.Epoch {
			m, err := s.remember(ctx, b.Group)
			if err != nil {
				return err
			}
			t = &team{memory: m}
			s.teams[b.Group] = t
			s.hour = 0
		}
		t.doc, t.judge = b, nil
		if b.State == Enforced {
			t.judge = compile(&b, &s.cfg.Hub)
		}
	}
	maps.DeleteFunc(s.teams, func(name string, _ *team) bool { return !stand[name] })
	for _, state := range []State{Learning, Proposed, Enforced} {
		s.m.baselines.WithLabelValues(string(state)).Set(float64(states[state]))
	}
	s.read = now
	return nil
}

// remember reads what was saved of a group; mu is held.
func (s *Service) remember(ctx context.Context, name string) (*memory, error) {
	saved, err := s.cfg.Store.Learned(ctx, name)
	if fault.Is(err, fault.NotFound) {
		return newMemory(), nil
	}
	if err != nil {
		return nil, fmt.Errorf("read what was learned of group %s: %w", name, err)
	}
	m, err := parseMemory(saved.Data)
	if err != nil {
		s.log.Error("what was learned of a group begins anew", "group", name, "err", err)
		return newMemory(), nil
	}
	// Hours in which nobody watched are no hours of silence.
	if s.cfg.Now().Sub(m.Watched) > unwatched {
		m.Watch.Partial = true
	}
	return m, nil
}

// save keeps what changed; mu is held.
func (s *Service) save(ctx context.Context) error {
	var all []Saved
	var saved []*team
	for name, t := range s.teams {
		if !t.dirty {
			continue
		}
		t.memory.Watched = s.cfg.Now().UTC()
		text, err := t.memory.text()
		if err != nil {
			return err
		}
		all, saved = append(all, Saved{Group: name, Epoch: t.doc.Epoch, Data: text}), append(saved, t)
	}
	if len(all) == 0 {
		return nil
	}
	if err := s.cfg.Store.SaveLearned(ctx, all); err != nil {
		return fmt.Errorf("save what was learned of %d groups: %w", len(all), err)
	}
	for _, t := range saved {
		t.dirty = false
	}
	s.m.saves.Add(float64(len(all)))
	return nil
}

// flush keeps alerts of messages that are done; mu is held.
func (s *Service) flush(ctx context.Context) error {
	if len(s.pending) == 0 {
		return nil
	}
	if err := s.cfg.Raise(ctx, s.pending); err != nil {
		return fmt.Errorf("keep %d alerts about deviations: %w", len(s.pending), err)
	}
	s.pending = nil
	return nil
}

// entry handles a batch of the log. After a store failed it gets the entry again: messages that are done are known by their sequence.
func (s *Service) entry(ctx context.Context, e bus.Entry) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.heard = s.cfg.Now()
	if err := s.flush(ctx); err != nil {
		return err
	}
	if err := s.refresh(ctx); err != nil {
		return err
	}
	if len(s.teams) == 0 {
		return nil // nobody asked for anything
	}
	// Messages alias the entry, which stands until this returns. What cannot be read was told of by the detector.
	var messages []iot.Message
	_ = telemetry.Decode(e.Sequence, e.Data, func(m *iot.Message) error {
		if !m.IsEvent() {
			messages = append(messages, *m)
		}
		return nil
	})
	if err := s.place(ctx, messages); err != nil {
		return err
	}
	for i := range messages {
		if err := s.message(ctx, &messages[i]); err != nil {
			return err
		}
	}
	return s.flush(ctx)
}

// place finds the groups of devices; mu is held.
func (s *Service) place(ctx context.Context, messages []iot.Message) error {
	now := s.cfg.Now()
	var ask []string
	for i := range messages {
		device := messages[i].From.Device
		if c, ok := s.members[device]; !ok || now.Sub(c.at) >= membership {
			s.members[device] = cached{c.group, now}
			ask = append(ask, device)
		}
	}
	if len(ask) == 0 {
		return nil
	}
	tags, err := s.cfg.Store.SecurityGroups(ctx, ask)
	if err != nil {
		for _, device := range ask {
			delete(s.members, device)
		}
		return fmt.Errorf("read the groups of devices: %w", err)
	}
	if len(s.members) > maxCached {
		// Those of this entry stay.
		clear(s.members)
		for i := range messages {
			ask = append(ask, messages[i].From.Device)
		}
		if tags, err = s.cfg.Store.SecurityGroups(ctx, ask); err != nil {
			return fmt.Errorf("read the groups of devices: %w", err)
		}
	}
	for _, device := range ask {
		s.members[device] = cached{groupOf(tags, device), now}
	}
	return nil
}

// message learns from a message, or judges it; mu is held.
func (s *Service) message(ctx context.Context, m *iot.Message) error {
	t := s.teams[s.members[m.From.Device].group]
	if t == nil || m.Sequence <= t.memory.Done {
		return nil
	}
	when := m.Enqueued
	if now := s.cfg.Now(); when.After(now) { // by a server whose clock is ahead
		when = now
	}
	if when.Before(t.doc.Terms.Since) {
		return nil // of before its learning
	}
	if err := s.turn(ctx, when); err != nil {
		return err
	}
	s.m.messages.Inc()
	var report *secmsg.Report
	if m.IsSecurity() {
		r, err := secmsg.Decode(mti(m), m.Body)
		if err != nil {
			t.memory.Done = m.Sequence
			return nil // the detector says so
		}
		report = &r
	}
	found, lost := t.observe(m.From.Device, report, when.Unix())
	if lost {
		s.m.lost.Inc()
	}
	for _, d := range found {
		s.m.deviations.WithLabelValues(d.kind).Inc()
		s.pend(t.judge.alert(d, m.From, m.Sequence, when))
	}
	t.memory.Done, t.dirty = m.Sequence, true
	return nil
}

// pend adds an alert to those of this entry.
func (s *Service) pend(a alert.Alert) {
	for i := range s.pending {
		if s.pending[i].Key() == a.Key() {
			s.pending[i].Merge(a)
			return
		}
	}
	s.pending = append(s.pending, a)
}

// observe takes a message in. lost says that there are too many devices to measure this one.
func (t *team) observe(device string, report *secmsg.Report, at int64) (found []*deviation, lost bool) {
	w := &t.memory.Watch
	d := w.enter(device, at)
	if d == nil {
		d, lost = &member{hash: hashOf(device), First: at, Last: at}, true
	}
	if report != nil {
		for i := range report.Events {
			w.resolve(&report.Events[i], d.hash, at)
		}
	}
	d.count(report, at)
	if t.judge != nil {
		return t.judge.judge(w, d, report, at), lost
	}
	t.memory.Lessons.learn(w, d, report, at)
	return nil, lost
}

// turn ends the hours of all groups before a time, and pends the alerts about devices that were quiet; mu is held.
func (s *Service) turn(ctx context.Context, at time.Time) error {
	if at.Unix()/hour <= s.hour {
		return nil
	}
	for name, t := range s.teams {
		w := &t.memory.Watch
		if now := at.Unix() / hour; w.Hour == now || w.Hour > now {
			continue
		}
		var members map[string]bool
		if t.judge != nil && t.judge.limits[Messages] != nil && t.judge.limits[Messages].Min > 0 && w.Hour != 0 && !w.Partial {
			var err error
			if members, err = s.enabled(ctx, name, w); err != nil {
				return err
			}
		}
		_, _ = w.turn(at.Unix(), t.close(func(device string, sent uint64, ended int64) {
			if members[device] {
				s.m.deviations.WithLabelValues(alert.BaselineQuiet).Inc()
				s.pend(t.judge.quiet(device, sent, ended))
			}
		}))
		t.dirty = true
	}
	s.hour = at.Unix() / hour
	return nil
}

// close returns what the end of an hour does with each device.
func (t *team) close(quiet func(device string, sent uint64, ended int64)) func(string, *member) {
	if t.judge == nil {
		return t.memory.Lessons.close
	}
	l := t.judge.limits[Messages]
	if l == nil || l.Min == 0 {
		return nil
	}
	ended := t.memory.Watch.Hour
	return func(device string, m *member) {
		// One that never sent telemetry has nothing to be quiet about.
		if m.Heard != 0 && m.Now[Messages] < l.Min {
			quiet(device, m.Now[Messages], ended)
		}
	}
}

// enabled are the devices of a group that exist and may connect, of those that are watched.
func (s *Service) enabled(ctx context.Context, name string, w *watch) (map[string]bool, error) {
	all := make(map[string]bool)
	const page = 5000
	for after := ""; ; {
		members, err := s.cfg.Store.GroupMembers(ctx, name, name == group.Default, after, page)
		if err != nil {
			return nil, fmt.Errorf("list the devices of group %s: %w", name, err)
		}
		for _, d := range members {
			if w.Members[d] != nil {
				all[d] = true
			}
		}
		if len(members) < page {
			return all, nil
		}
		after = members[len(members)-1]
	}
}

// mti is the message type indicator, an application property (defender §1.1).
func mti(m *iot.Message) string {
	for i := range m.Properties {
		if m.Properties[i].Name == "mti" {
			return m.Properties[i].Value
		}
	}
	return ""
}
