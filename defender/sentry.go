package defender

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promauto"

	"github.com/vauban-iot/vauban/defender/alert"
	"github.com/vauban-iot/vauban/defender/record"
	"github.com/vauban-iot/vauban/internal/nonce"
	"github.com/vauban-iot/vauban/iot"
)

// Keeper is what a [Sentry] needs of a store.
type Keeper interface {
	Record(ctx context.Context, events []record.Event, alerts []alert.Alert) ([]alert.Raised, error)
	Wake(ctx context.Context, now time.Time) (shown int, err error)
}

// Sentry raises alerts about what the hub itself sees (defender §2.2), and ends suppressions in time. Who tells it something waits for
// nothing: what comes within a second becomes one write, whoever knocks how often.
type Sentry struct {
	store Keeper
	log   *slog.Logger
	lost  prometheus.Counter
	wake  chan struct{}

	mu      sync.Mutex
	pending map[alert.Key]*alert.Alert
}

const (
	sentryPause = time.Second
	wakePeriod  = 5 * time.Second
	// maxPending bounds what waits: one alert a day for each registered device and type, as long as the store is away.
	maxPending = 10_000
)

// NewSentry returns a sentry; Run writes what it heard.
func NewSentry(store Keeper, log *slog.Logger, reg prometheus.Registerer) (*Sentry, error) {
	if store == nil {
		return nil, errors.New("defender: a sentry needs a store")
	}
	if log == nil {
		log = slog.Default()
	}
	return &Sentry{store: store, log: log, wake: make(chan struct{}, 1), pending: make(map[alert.Key]*alert.Alert), lost: promauto.With(reg).NewCounter(prometheus.CounterOpts{
		Name: "vauban_defender_hub_alerts_lost_total", Help: "Events of the hub that became no alert because too many waited for the store.",
	})}, nil
}

// Seen hears of an event: which type of alert it makes, about whom (the zero ID: the hub), what tells it from others of the type, one
// sentence for people, and facts for the evidence.
func (s *Sentry) Seen(kind string, id iot.ID, indicator, text string, facts map[string]string, at time.Time) {
	details, err := json.Marshal(facts)
	if err != nil {
		panic(err) // texts always marshal
	}
	at = at.UTC()
	k := alert.Lookup(kind)
	a := &alert.Alert{
		ID: nonce.New(), Type: k.Name, Severity: k.Severity, Title: k.Title, Description: text, Device: id.Device, Module: id.Module, Indicator: indicator,
		Source: "hub", Day: at.Format(time.DateOnly), Remote: withoutPort(facts["remoteAddress"]), Count: 1, FirstSeen: at, LastSeen: at,
	}
	a.Add(alert.Evidence{Time: at, Event: k.Name, Details: details})
	s.add(a)
}

// withoutPort is an address as alerts show it, of one with a port or without; the evidence has both.
func withoutPort(remote string) string {
	if ap, err := netip.ParseAddrPort(remote); err == nil {
		return hostOf(ap.Addr())
	}
	return remote
}

// add puts an alert to those that wait.
func (s *Sentry) add(a *alert.Alert) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if have, ok := s.pending[a.Key()]; ok {
		have.Merge(*a)
		return
	}
	if len(s.pending) >= maxPending {
		s.lost.Inc()
		return
	}
	s.pending[a.Key()] = a
	select {
	case s.wake <- struct{}{}:
	default:
	}
}

// Run writes until ctx ends, and what is left then.
func (s *Sentry) Run(ctx context.Context) error {
	tick := time.NewTicker(wakePeriod)
	defer tick.Stop()
	for {
		var pause <-chan time.Time
		select {
		case <-ctx.Done():
			s.flush(context.WithoutCancel(ctx))
			return nil
		case <-tick.C:
			if n, err := s.store.Wake(ctx, time.Now()); err != nil && ctx.Err() == nil {
				s.log.Warn("suppressions do not end yet", "err", err)
			} else if n > 0 {
				s.log.Info("suppressed alerts are open again", "alerts", n)
			}
			continue
		case <-s.wake:
			pause = time.After(sentryPause)
		}
		select {
		case <-ctx.Done():
		case <-pause:
			s.flush(ctx)
		}
	}
}

func (s *Sentry) flush(ctx context.Context) {
	s.mu.Lock()
	now := s.pending
	s.pending = make(map[alert.Key]*alert.Alert)
	s.mu.Unlock()
	alerts := make([]alert.Alert, 0, len(now))
	for _, a := range now {
		alerts = append(alerts, *a)
	}
	if len(alerts) == 0 {
		return
	}
	raised, err := s.store.Record(ctx, nil, alerts)
	if err != nil {
		if ctx.Err() == nil {
			s.log.Warn("alerts about the hub wait for the store", "alerts", len(alerts), "err", err)
		}
		s.back(now)
		return
	}
	for i := range raised {
		if r := &raised[i]; r.Created {
			s.log.Info("alert raised", "device", r.Device, "module", r.Module, "type", r.Type, "indicator", r.Indicator, "source", r.Source, "status", string(r.Status))
		}
	}
}

// back puts alerts back that could not be written.
func (s *Sentry) back(old map[alert.Key]*alert.Alert) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for k, a := range s.pending {
		if have, ok := old[k]; ok {
			have.Merge(*a)
		} else if len(old) < maxPending {
			old[k] = a
		} else {
			s.lost.Add(float64(a.Count))
		}
	}
	s.pending = old
	select {
	case s.wake <- struct{}{}:
	default:
	}
}

// Raise keeps alerts of rules over time; see package window.
func (s *Sentry) Raise(ctx context.Context, alerts []alert.Alert) error {
	raised, err := s.store.Record(ctx, nil, alerts)
	if err != nil {
		return fmt.Errorf("raise %d alerts: %w", len(alerts), err)
	}
	for i := range raised {
		if r := &raised[i]; r.Created {
			s.log.Info("alert raised", "device", r.Device, "type", r.Type, "group", r.Group, "source", r.Source, "status", string(r.Status))
		}
	}
	return nil
}
