package fleet

import (
	"cmp"
	"context"
	"net/http"
	"slices"
	"sync"
	"time"
)

// watch looks at the installation while the boards run, and tells how it goes.
type watch struct {
	run    *run
	client *http.Client // nil: alerts are not read
	boards map[string]*Board
	after  uint64 // the last alert that is known

	mu       sync.Mutex
	seen     []Seen
	unlisted int
}

const (
	lookEvery   = 250 * time.Millisecond
	tellEvery   = time.Second
	maxAlerts   = 10_000 // that a report has
	settleLooks = 4
	settleMost  = 15 * time.Second
)

func newWatch(ctx context.Context, r *run, plan *Plan) (*watch, error) {
	w := &watch{run: r, boards: make(map[string]*Board, len(plan.Boards))}
	for i := range plan.Boards {
		w.boards[plan.Boards[i].ID] = &plan.Boards[i]
	}
	if r.to.API == "" {
		return w, nil
	}
	w.client = &http.Client{Transport: &http.Transport{TLSClientConfig: r.to.tls()}, Timeout: 30 * time.Second}
	was, err := r.to.alerts(ctx, w.client, 0, 1)
	if err != nil {
		return nil, err
	}
	if len(was) > 0 {
		w.after = was[0].Sequence
	}
	return w, nil
}

// follow looks until ctx ends.
func (w *watch) follow(ctx context.Context) {
	look, tell := time.NewTicker(lookEvery), time.NewTicker(tellEvery)
	defer look.Stop()
	defer tell.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-look.C:
			_ = w.look(ctx) // the next look sees what this one did not
		case <-tell.C:
			if w.run.cfg.Progress != nil {
				w.run.cfg.Progress(w.progress())
			}
		}
	}
}

// look reads the alerts that are new.
func (w *watch) look(ctx context.Context) error {
	if w.client == nil {
		return nil
	}
	now := w.run.now()
	fresh, err := w.run.to.alerts(ctx, w.client, w.after, maxAlerts)
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, a := range fresh {
		w.after = max(w.after, a.Sequence)
		b := w.boards[a.Device]
		at := now
		if w.run.cfg.Clock != nil { // the hub's time is the boards': what was last seen is at most a moment after it was raised
			at = min(max(a.LastSeen.Sub(w.run.epoch), 0), now)
		}
		switch {
		case b == nil:
		case len(w.seen) == maxAlerts:
			w.unlisted++
		default:
			s := Seen{Device: a.Device, Type: a.Type, Severity: a.Severity, Title: a.Title, At: at.Seconds()}
			for _, o := range b.Attacks { // by time: the last one that had begun
				if o.At <= at {
					s.Attack, s.After = o.Name, (at - o.At).Seconds()
				}
			}
			w.seen = append(w.seen, s)
		}
	}
	return err
}

// settle looks until nothing new has come for a while: what the boards sent last is still judged.
func (w *watch) settle(ctx context.Context) {
	if w.client == nil {
		return
	}
	defer w.client.CloseIdleConnections()
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), settleMost)
	defer cancel()
	for quiet := 0; quiet < settleLooks && ctx.Err() == nil; quiet++ {
		was := w.after
		if w.look(ctx) == nil && w.after > was {
			quiet = -1
		}
		select {
		case <-ctx.Done():
		case <-time.After(lookEvery):
		}
	}
}

func (w *watch) progress() Progress {
	r := w.run
	w.mu.Lock()
	alerts := len(w.seen) + w.unlisted
	w.mu.Unlock()
	return Progress{
		Boards: len(r.units), Up: int(r.up.Load()), Time: r.now(), Duration: r.file.Duration, Took: time.Since(r.begun),
		Messages: r.series.messages.total.Load(), Connects: r.series.connects.total.Load(), Resets: r.series.resets.total.Load(), Alerts: alerts,
	}
}

// report adds what was seen to a report.
func (w *watch) report(ran *Ran, boards []BoardDid) {
	ran.Alerts, ran.Unlisted, ran.Detections = append([]Seen{}, w.seen...), w.unlisted, []Detection{}
	slices.SortStableFunc(ran.Alerts, func(a, b Seen) int { return cmp.Compare(a.At, b.At) })
	for _, a := range ran.Alerts {
		if a.Attack == "" {
			ran.FalseAlerts++
		}
	}
	for _, b := range boards {
		for _, a := range b.Attacks {
			i := slices.IndexFunc(ran.Detections, func(d Detection) bool { return d.Attack == a.Name })
			if i < 0 {
				i = len(ran.Detections)
				ran.Detections = append(ran.Detections, Detection{Attack: a.Name, Types: []string{}})
			}
			ran.Detections[i].Boards++
		}
	}
	slices.SortFunc(ran.Detections, func(a, b Detection) int { return cmp.Compare(a.Attack, b.Attack) })
	for i := range ran.Detections {
		ran.Detections[i].judge(ran.Alerts)
	}
}

// judge counts the boards about which an alert came.
func (d *Detection) judge(alerts []Seen) {
	first := map[string]bool{}
	var after []float64
	for _, a := range alerts { // by time
		if a.Attack != d.Attack {
			continue
		}
		if !first[a.Device] {
			first[a.Device] = true
			after = append(after, a.After)
		}
		if !slices.Contains(d.Types, a.Type) {
			d.Types = append(d.Types, a.Type)
		}
	}
	slices.Sort(after)
	slices.Sort(d.Types)
	if d.Found = len(after); d.Found > 0 {
		d.Median = after[d.Found/2]
	}
}
