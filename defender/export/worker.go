package export

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"slices"
	"time"

	"github.com/vauban-iot/vauban/defender/posture"
	"github.com/vauban-iot/vauban/defender/record"
	"github.com/vauban-iot/vauban/fault"
)

// Bounds of what is sent at once.
const (
	pageUnits = 100     // that are read of one sort
	maxItems  = 500     // of one delivery, unless one place has more
	maxBytes  = 1 << 20 // idem
)

// Bounds of trying again.
const (
	firstWait  = time.Second
	longWait   = 5 * time.Minute
	maxRefused = 5 // times that a receiver may refuse the items of one place for good
)

// worker runs one export, as it is configured in one generation.
type worker struct {
	m    *Manager
	e    Export
	wake chan struct{}
	log  *slog.Logger

	refused int // times that the first place that waits was refused for good
	alone   int // so many places are sent one by one: one of them was refused
}

// run sends until ctx ends.
func (w *worker) run(ctx context.Context) {
	s, err := w.m.sender(&w.e.Config)
	if err != nil {
		w.log.Error("export cannot run", "err", err)
		return
	}
	defer s.close()
	if wait := min(w.e.State.NextAttempt.Sub(w.m.cfg.Now()), longWait); wait > 0 && !pause(ctx, wait) {
		return
	}
	for {
		more, err := w.step(ctx, s)
		switch {
		case ctx.Err() != nil:
			return
		case fault.Is(err, fault.PreconditionFailed): // another generation is there, and another worker soon
			<-ctx.Done()
			return
		case err != nil:
			if !pause(ctx, w.failed(ctx, err)) {
				return
			}
		case !more:
			select {
			case <-ctx.Done():
				return
			case <-w.wake:
			}
		}
	}
}

func pause(ctx context.Context, d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
		return false
	case <-t.C:
		return true
	}
}

// step sends what comes next of each sort; more tells whether there may be more.
func (w *worker) step(ctx context.Context, s sender) (more bool, err error) {
	for _, d := range AllData { // in one order: alerts do not wait behind a flood of events
		if !slices.Contains(w.e.Data, d) {
			continue
		}
		units, full, err := w.next(ctx, d)
		if err != nil {
			return false, fmt.Errorf("read %s: %w", d, err)
		}
		if err := w.deliver(ctx, s, units); err != nil {
			return false, err
		}
		more = more || full
	}
	return more, nil
}

// next reads what comes next of a sort; full tells that it is as much as is read at once.
func (w *worker) next(ctx context.Context, d Data) (units []unit, full bool, err error) {
	out := newWriter(&w.e.Config, w.m.cfg.Host, w.m.cfg.Version)
	switch d {
	case Alerts:
		cs, err := w.m.cfg.Alerts.AlertChanges(ctx, w.e.State.Alerts, pageUnits)
		for i := range cs {
			c := &cs[i]
			u := unit{at: c.At, move: func(s *State) { s.Alerts = c.Place }}
			if w.e.wants(c.Severity) {
				u.items = out.alert(c, w.e.State.Alerts)
			}
			units = append(units, u)
		}
		return units, len(cs) == pageUnits, err
	case Recommendations:
		if w.m.cfg.Recommendations == nil {
			return nil, false, nil
		}
		rs, err := w.m.cfg.Recommendations.Recommendations(ctx, posture.Filter{After: w.e.State.Recommendations, Oldest: true, Limit: pageUnits})
		for i := range rs {
			r := &rs[i]
			u := unit{at: r.StatusChanged, move: func(s *State) { s.Recommendations = r.Sequence }}
			if w.e.wants(r.Severity) {
				u.items = out.recommendation(r)
			}
			units = append(units, u)
		}
		return units, len(rs) == pageUnits, err
	default:
		es, err := w.m.cfg.Events.EventsAfter(ctx, record.Span{After: w.e.State.Events}, pageUnits)
		for i := range es {
			e := &es[i]
			units = append(units, unit{at: e.Enqueued, items: out.event(e), move: func(s *State) { s.Events = e.Place }})
		}
		return units, len(es) == pageUnits, err
	}
}

// deliver sends units in order, and remembers after each part how far that is.
func (w *worker) deliver(ctx context.Context, s sender, units []unit) error {
	for len(units) > 0 {
		n, full, old, items := w.part(units)
		if old > 0 {
			w.gaveUp(old, "they were older than "+w.e.giveUpAfter().String())
		}
		if len(items) > 0 {
			w.e.State.LastAttempt = w.m.cfg.Now().UTC()
			err := w.send(ctx, s, items, full)
			if fault.Is(err, fault.Invalid) && full > 1 {
				w.alone = n // to find out which of them it does not take
				continue
			}
			if err != nil {
				return err
			}
		}
		units[n-1].move(&w.e.State)
		w.refused, w.alone = 0, max(0, w.alone-n)
		if err := w.save(ctx); err != nil {
			return err
		}
		units = units[n:]
	}
	return nil
}

// part is what is sent next of units: the first n, of which full have items; or n whose old items are given up.
func (w *worker) part(units []unit) (n, full, old int, items []item) {
	var cutoff time.Time
	if now, since := w.m.cfg.Now(), w.e.State.FailedSince; !since.IsZero() && now.Sub(since) >= w.e.giveUpAfter() {
		cutoff = now.Add(-w.e.giveUpAfter())
	}
	size := 0
	for _, u := range units {
		if u.at.Before(cutoff) {
			if len(items) > 0 {
				break
			}
			old += len(u.items)
			n++
			continue
		}
		if old > 0 {
			break // what is given up is counted with its own place
		}
		more := 0
		for i := range u.items {
			more += len(u.items[i].text)
		}
		if len(items) > 0 && len(u.items) > 0 && (w.alone > 0 || len(items)+len(u.items) > maxItems || size+more > maxBytes) {
			break
		}
		items, size = append(items, u.items...), size+more
		if n++; len(u.items) > 0 {
			full++
		}
	}
	return n, full, old, items
}

// send delivers items, which are of so many places. Those of one place that are refused for good too often are given up; of
// several, fault.Invalid is returned.
func (w *worker) send(ctx context.Context, s sender, items []item, places int) error {
	err := s.send(ctx, items)
	switch {
	case err == nil:
		now := w.m.cfg.Now().UTC()
		st := &w.e.State
		if st.Failures > 0 {
			w.log.Info("export goes on", "failures", st.Failures, "since", st.FailedSince)
		}
		st.LastSuccess, st.Sent = now, st.Sent+int64(len(items))
		st.NextAttempt, st.FailedSince, st.Failures, st.Error = time.Time{}, time.Time{}, 0, ""
		w.m.m.items.WithLabelValues(w.e.Name, "sent").Add(float64(len(items)))
		w.m.m.failing.WithLabelValues(w.e.Name).Set(0)
		w.m.m.waiting.WithLabelValues(w.e.Name).Set(0)
		return nil
	case !fault.Is(err, fault.Invalid) || places > 1:
		return err
	}
	if w.refused++; w.refused < maxRefused {
		return err
	}
	w.gaveUp(len(items), fmt.Sprintf("the receiver refused them %d times: %v", w.refused, err))
	return nil
}

// gaveUp counts items that nobody will get.
func (w *worker) gaveUp(items int, why string) {
	w.e.State.GivenUp += int64(items)
	w.e.State.LastGivenUp = clip(fmt.Sprintf("%s: %d items: %s", w.m.cfg.Now().UTC().Format(time.RFC3339), items, why))
	w.m.m.items.WithLabelValues(w.e.Name, "given_up").Add(float64(items))
	w.log.Warn("export gave items up", "items", items, "why", why)
}

// clip bounds a text of the state.
func clip(s string) string {
	const longest = 1000
	if len(s) > longest {
		return string([]rune(s[:longest])) + "..."
	}
	return s
}

// save keeps the state.
func (w *worker) save(ctx context.Context) error {
	return w.m.cfg.Store.SetExportState(ctx, w.e.Name, w.e.Generation, w.e.State)
}

// failed writes down a failure, and returns when to try again: after 1, 2, 4... seconds up to 5 minutes, and not all at the same moment.
func (w *worker) failed(ctx context.Context, err error) time.Duration {
	now := w.m.cfg.Now().UTC()
	st := &w.e.State
	wait := longWait
	if st.Failures < 9 {
		wait = min(longWait, firstWait<<st.Failures)
	}
	wait = wait/2 + rand.N(wait/2+1) //nolint:gosec // no secret
	if e, ok := errors.AsType[*fault.Error](err); ok {
		wait = max(wait, e.RetryAfter)
	}
	st.Failures++
	if st.FailedSince.IsZero() {
		st.FailedSince = now
	}
	st.LastAttempt, st.NextAttempt, st.Error = now, now.Add(wait), clip(err.Error())
	if st.Failures == 1 || st.Failures == 10 || st.Failures%100 == 0 {
		w.log.Warn("export fails; it is tried again", "failures", st.Failures, "next", st.NextAttempt, "err", err)
	}
	w.m.m.failing.WithLabelValues(w.e.Name).Set(now.Sub(st.FailedSince).Seconds())
	if waiting, err := w.m.waiting(ctx, &w.e); err == nil {
		w.m.m.waiting.WithLabelValues(w.e.Name).Set(float64(waiting.Alerts + waiting.Recommendations + waiting.Events))
	}
	if err := w.save(ctx); err != nil && ctx.Err() == nil && !fault.Is(err, fault.PreconditionFailed) {
		w.log.Warn("the state of an export is not kept", "err", err)
	}
	return wait
}
