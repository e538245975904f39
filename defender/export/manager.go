package export

import (
	"context"
	"errors"
	"log/slog"
	"path/filepath"
	"slices"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promauto"

	"github.com/vauban-iot/vauban/defender/alert"
	"github.com/vauban-iot/vauban/defender/posture"
	"github.com/vauban-iot/vauban/defender/record"
	"github.com/vauban-iot/vauban/fault"
	"github.com/vauban-iot/vauban/internal/nonce"
)

// EventSource is the part of [record.Store] that exports read.
type EventSource interface {
	SecurityEvents(ctx context.Context, f record.Filter) ([]record.Event, error)
	EventsAfter(ctx context.Context, s record.Span, limit int) ([]record.Event, error)
	CountEvents(ctx context.Context, after record.Place, most int) (int, error)
}

// RecommendationSource is the part of [posture.Store] that exports read.
type RecommendationSource interface {
	Recommendations(ctx context.Context, f posture.Filter) ([]posture.Recommendation, error)
}

// ManagerConfig is what a Manager needs.
type ManagerConfig struct {
	Store           Store                // required
	Alerts          alert.Changes        // required
	Events          EventSource          // required
	Recommendations RecommendationSource // nil: there are none
	Dir             string               // of the files of exports: each has a folder below it; required
	Host            string               // of the hub
	Version         string               // of Vauban
	Now             func() time.Time     // nil: time.Now
	Logger          *slog.Logger         // nil: slog.Default
	Registerer      prometheus.Registerer

	open func(c *Config) (sender, error) // of tests
}

// Manager keeps exports and runs them.
type Manager struct {
	cfg ManagerConfig
	m   metrics
}

type metrics struct {
	items   *prometheus.CounterVec
	failing *prometheus.GaugeVec
	waiting *prometheus.GaugeVec
}

// look is how long a change of an export, or something new to send, may go unseen.
const look = time.Second

// NewManager returns a manager; it sends nothing before Run.
func NewManager(cfg ManagerConfig) (*Manager, error) {
	if cfg.Store == nil || cfg.Alerts == nil || cfg.Events == nil || cfg.Dir == "" {
		return nil, errors.New("export: Store, Alerts, Events and Dir are required")
	}
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	if cfg.Logger == nil {
		cfg.Logger = slog.Default()
	}
	f := promauto.With(cfg.Registerer)
	return &Manager{cfg: cfg, m: metrics{
		items:   f.NewCounterVec(prometheus.CounterOpts{Name: "vauban_export_items_total", Help: "Items of exports, by outcome: sent, or given_up because they were too old or refused for good."}, []string{"export", "outcome"}),
		failing: f.NewGaugeVec(prometheus.GaugeOpts{Name: "vauban_export_failing_seconds", Help: "How long an export has failed; 0: it does not."}, []string{"export"}),
		waiting: f.NewGaugeVec(prometheus.GaugeOpts{Name: "vauban_export_waiting", Help: "What an export did not send yet, counted up to 10,000 of each sort, at its last attempt."}, []string{"export"}),
	}}, nil
}

// sender brings items to their receiver. When send returns nil the receiver has them all.
type sender interface {
	// send returns fault.Invalid when the receiver will never take them.
	send(ctx context.Context, items []item) error
	close()
}

func (m *Manager) sender(c *Config) (sender, error) {
	if m.cfg.open != nil {
		return m.cfg.open(c)
	}
	switch c.Kind {
	case Files:
		bound := c.MaxBytes
		if bound == 0 {
			bound = defaultMaxBytes
		}
		return &files{dir: filepath.Join(m.cfg.Dir, c.Name), maxBytes: bound, rotate: rotateAt, now: m.cfg.Now}, nil
	case Webhook:
		return &webhook{newPoster(c, m.cfg.Now), c}, nil
	case LogAnalytics:
		return newLogAnalytics(c, m.cfg.Now), nil
	case Syslog:
		return newSyslog(c, m.cfg.Host)
	}
	return nil, fault.New(fault.Invalid, "export %s: there is no kind %q", c.Name, c.Kind)
}

// Run sends until ctx ends. Exports that are added, changed and deleted are followed within a second.
func (m *Manager) Run(ctx context.Context) error {
	type running struct {
		*worker
		cancel context.CancelFunc
		done   chan struct{}
	}
	all := make(map[string]*running)
	stop := func(name string) {
		w := all[name]
		w.cancel()
		<-w.done
		delete(all, name)
	}
	defer func() {
		for _, w := range all {
			w.cancel()
		}
		for _, w := range all {
			<-w.done
		}
	}()
	tick := time.NewTicker(look)
	defer tick.Stop()
	var last State
	for complained := false; ; {
		exports, err := m.cfg.Store.Exports(ctx)
		var heads State
		if err == nil && len(exports) > 0 {
			heads, err = m.heads(ctx)
		}
		if err != nil {
			if ctx.Err() == nil && !complained {
				m.cfg.Logger.Warn("exports cannot be read; trying again", "err", err)
			}
			complained = true
		} else {
			complained = false
			for name, w := range all {
				at := slices.IndexFunc(exports, func(e Export) bool { return e.Name == name && e.Generation == w.e.Generation })
				if at < 0 {
					stop(name)
					m.forget(name)
				}
			}
			for _, e := range exports {
				if w := all[e.Name]; w == nil && !e.Disabled {
					ctx, cancel := context.WithCancel(ctx)
					w := &running{&worker{m: m, e: e, wake: make(chan struct{}, 1), log: m.cfg.Logger.With("export", e.Name)}, cancel, make(chan struct{})}
					all[e.Name] = w
					go func() {
						defer close(w.done)
						w.run(ctx)
					}()
				} else if w != nil && heads != last {
					select {
					case w.wake <- struct{}{}:
					default:
					}
				}
			}
			last = heads
		}
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
	}
}

func (m *Manager) forget(name string) {
	m.m.failing.DeleteLabelValues(name)
	m.m.waiting.DeleteLabelValues(name)
}

// heads are the places of what is newest.
func (m *Manager) heads(ctx context.Context) (s State, err error) {
	if s.Alerts, err = m.cfg.Alerts.LastAlertChange(ctx); err != nil {
		return s, err
	}
	events, err := m.cfg.Events.SecurityEvents(ctx, record.Filter{Limit: 1})
	if err != nil {
		return s, err
	}
	if len(events) > 0 {
		s.Events = events[0].Place
	}
	if m.cfg.Recommendations != nil {
		rs, err := m.cfg.Recommendations.Recommendations(ctx, posture.Filter{Limit: 1})
		if err != nil {
			return s, err
		}
		if len(rs) > 0 {
			s.Recommendations = rs[0].Sequence
		}
	}
	return s, nil
}

// waiting counts what e did not send yet.
func (m *Manager) waiting(ctx context.Context, e *Export) (w Waiting, err error) {
	if slices.Contains(e.Data, Alerts) {
		if w.Alerts, err = m.cfg.Alerts.CountAlertChanges(ctx, e.State.Alerts, MaxWaiting); err != nil {
			return w, err
		}
	}
	if slices.Contains(e.Data, Events) {
		if w.Events, err = m.cfg.Events.CountEvents(ctx, e.State.Events, MaxWaiting); err != nil {
			return w, err
		}
	}
	if slices.Contains(e.Data, Recommendations) && m.cfg.Recommendations != nil {
		rs, err := m.cfg.Recommendations.Recommendations(ctx, posture.Filter{After: e.State.Recommendations, Oldest: true, Limit: 1000})
		if err != nil {
			return w, err
		}
		w.Recommendations = len(rs)
	}
	return w, nil
}

// What operators do. All of it is written to the store, from where the server that exports takes it.

func (m *Manager) shown(ctx context.Context, e *Export) (err error) {
	e.Waiting, err = m.waiting(ctx, e)
	e.Config = e.Redacted()
	return err
}

// Exports lists the exports, without their secrets.
func (m *Manager) Exports(ctx context.Context) ([]Export, error) {
	all, err := m.cfg.Store.Exports(ctx)
	for i := range all {
		if err := m.shown(ctx, &all[i]); err != nil {
			return nil, err
		}
	}
	return all, err
}

// Export returns one without its secrets; fault.NotFound.
func (m *Manager) Export(ctx context.Context, name string) (Export, error) {
	e, err := m.cfg.Store.Export(ctx, name)
	if err == nil {
		err = m.shown(ctx, &e)
	}
	return e, err
}

// Put adds an export, or changes one, which then goes on where it was; secrets that are given as they are shown stay. fault.Invalid,
// fault.QuotaExceeded.
func (m *Manager) Put(ctx context.Context, c Config) (e Export, created bool, err error) {
	if err := c.Check(); err != nil {
		return e, false, err
	}
	now, err := m.heads(ctx)
	if err != nil {
		return e, false, err
	}
	if c.From == "beginning" {
		now = State{}
	}
	err = m.cfg.Store.PutExport(ctx, c.Name, func(old *Export) (Export, error) {
		next := Export{Config: c, State: now}
		created = old == nil
		if old == nil {
			if err := next.restore(nil); err != nil {
				return next, err
			}
			return next, next.Check()
		}
		if err := next.restore(&old.Config); err != nil {
			return next, err
		}
		if err := next.Check(); err != nil { // of a key that was not there before
			return next, err
		}
		next.State = old.State
		next.State.NextAttempt = time.Time{} // whatever changed may be what it failed by
		for _, d := range c.Data {
			if slices.Contains(old.Data, d) {
				continue
			}
			switch d { // what it did not send before begins like a new export's
			case Alerts:
				next.State.Alerts = now.Alerts
			case Events:
				next.State.Events = now.Events
			case Recommendations:
				next.State.Recommendations = now.Recommendations
			}
		}
		return next, nil
	})
	if err != nil {
		return e, false, err
	}
	e, err = m.Export(ctx, c.Name)
	return e, created, err
}

// Delete removes an export; what it wrote to files stays. fault.NotFound.
func (m *Manager) Delete(ctx context.Context, name string) error {
	return m.cfg.Store.DeleteExport(ctx, name)
}

// Test sends an item that says that it is a test, now, from this server; fault.NotFound, fault.Unavailable when the receiver does not take it.
func (m *Manager) Test(ctx context.Context, name string) error {
	e, err := m.cfg.Store.Export(ctx, name)
	if err != nil {
		return err
	}
	s, err := m.sender(&e.Config)
	if err != nil {
		return err
	}
	defer s.close()
	now := m.cfg.Now().UTC()
	c := alert.Change{Alert: alert.Alert{
		ID: nonce.New(), Type: "Vauban_Test", Severity: alert.Informational, Title: "Test of an export",
		Description: "This is a test of the export " + name + ". Nothing happened.", Source: "export " + name, Day: now.Format(time.DateOnly),
		Count: 1, FirstSeen: now, LastSeen: now, Status: alert.Resolved,
	}, Born: alert.Place{Change: 1}, Place: alert.Place{Change: 1}, At: now}
	items := newWriter(&e.Config, m.cfg.Host, m.cfg.Version).alert(&c, alert.Place{Change: 1})
	if err := s.send(ctx, items); err != nil {
		return fault.New(fault.Unavailable, "the test was not taken: %v", err)
	}
	return nil
}
