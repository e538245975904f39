package configuration

import (
	"cmp"
	"context"
	"maps"
	"slices"
	"sync"
	"time"

	"github.com/vauban-iot/vauban/fault"
	"github.com/vauban-iot/vauban/hub/query"
	"github.com/vauban-iot/vauban/hub/registry"
	"github.com/vauban-iot/vauban/hub/twin"
	"github.com/vauban-iot/vauban/iot"
)

// An evaluation looks at every twin, so it pauses for as long as keeps it below a twentieth of the time.
const (
	shortestPause = 2 * time.Second
	pauseFactor   = 20
	appliers      = 16 // twins written at once
)

// Run applies configurations until ctx ends. It must run on one server at a time.
func (s *Service) Run(ctx context.Context) error {
	left := true // twins may remember configurations that are gone
	for {
		began := time.Now()
		var err error
		if left, err = s.evaluate(ctx, left); err != nil && ctx.Err() == nil {
			s.log.Error("configurations not evaluated; tried again", "err", err)
			left = true
		}
		pause := time.NewTimer(max(shortestPause, pauseFactor*time.Since(began)))
		select {
		case <-ctx.Done():
			pause.Stop()
			return nil
		case <-s.wake:
		case <-pause.C:
		}
		pause.Stop()
	}
}

// rule is a configuration that can be applied.
type rule struct {
	Configuration
	content content
	target  *query.Condition
}

// before orders rules by who wins: a higher priority, then the later created (hub-service §5.5).
func before(a, b *rule) int {
	return cmp.Or(cmp.Compare(b.Priority, a.Priority), b.Created.Compare(a.Created), cmp.Compare(a.ID, b.ID))
}

// evaluate looks at every twin once and does what is to do. always says to look even when there is no configuration;
// the result is whether the next evaluation must.
func (s *Service) evaluate(ctx context.Context, always bool) (again bool, err error) {
	all, err := s.cfg.Store.Configurations(ctx)
	if err != nil {
		return true, err
	}
	byKind := map[Kind][]*rule{}
	for _, c := range all {
		r := &rule{Configuration: c}
		if r.content, err = parseContent(c.Content); err != nil {
			s.log.Warn("a stored configuration cannot be read", "configuration", c.ID, "err", err)
			continue
		}
		if r.target, err = c.target(r.content.kind); err != nil {
			s.log.Warn("a stored configuration has a condition that cannot be read", "configuration", c.ID, "err", err)
			continue
		}
		byKind[r.content.kind] = append(byKind[r.content.kind], r)
	}
	for _, rules := range byKind {
		slices.SortFunc(rules, before)
	}
	failed := false
	if always || len(byKind[ForDevices])+len(byKind[ForEdge]) > 0 {
		ok, err := s.pass(ctx, false, byKind[ForDevices], byKind[ForEdge])
		if err != nil {
			return true, err
		}
		failed = failed || !ok
	}
	if always || len(byKind[ForModules]) > 0 {
		ok, err := s.pass(ctx, true, byKind[ForModules], nil)
		if err != nil {
			return true, err
		}
		failed = failed || !ok
	}
	for _, c := range all {
		if err := s.measure(ctx, c); err != nil {
			return true, err
		}
	}
	// One more look after the last configuration went, so that nothing is remembered of it.
	return failed || len(all) > 0, nil
}

// pass evaluates devices, or modules, and applies what changed. ok is false when some could not be written.
func (s *Service) pass(ctx context.Context, modules bool, own, edge []*rule) (ok bool, err error) {
	type task struct {
		id iot.ID
		do func() error
	}
	work := make(chan task)
	var crew sync.WaitGroup
	var mu sync.Mutex // protects ok and warned
	ok = true
	for range appliers {
		crew.Go(func() {
			for t := range work {
				err := t.do()
				mu.Lock()
				switch {
				case err == nil, fault.Is(err, fault.NotFound): // a device that went meanwhile
					delete(s.warned, t.id.String())
				default:
					ok = false
					if ctx.Err() == nil && !s.warned[t.id.String()] { // once: a twin that is full stays full
						s.warned[t.id.String()] = true
						s.log.Warn("a configuration was not applied; it is tried again", "device", t.id.Device, "module", t.id.Module, "err", err)
					}
				}
				mu.Unlock()
			}
		})
	}
	var reads []query.Expr
	for _, r := range slices.Concat(own, edge) {
		reads = append(reads, r.target.Where)
	}
	err = s.cfg.Fleet.Each(ctx, modules, reads, func(d registry.Identity, t twin.Twin, doc query.Document) error {
		id := t.ID
		had := stateOf(t)
		targets := map[string]string{}
		var winner *rule
		for _, r := range own {
			if !r.target.Matches(doc) {
				continue
			}
			targets[r.ID] = targeted
			if winner == nil {
				winner, targets[r.ID] = r, applied
			}
		}
		var layers []*rule
		if d.Edge {
			layers = stack(edge, doc, targets)
		}
		by, digest := "", ""
		if winner != nil {
			by, digest = winner.ID, winner.content.digest
		}
		if maps.Equal(had.Targets, targets) && had.By == by && had.Digest == digest && had.Edge == digestOf(layers) {
			return nil
		}
		do := func() error {
			// The deployment first: a device whose status says Applied has its modules.
			if err := s.applyEdge(ctx, id.Device, had, layers); err != nil {
				return err
			}
			return s.applyTwin(ctx, id, had, targets, winner)
		}
		if modules {
			do = func() error { return s.applyTwin(ctx, id, had, targets, winner) }
		}
		select {
		case work <- task{id, do}:
			return nil
		case <-ctx.Done():
			return ctx.Err()
		}
	})
	close(work)
	crew.Wait()
	return ok, err
}

// stack finds the deployments of an edge device: the base that wins, and the layers above it from the lowest up. targets gets
// the status of all that select the device.
func stack(edge []*rule, doc query.Document, targets map[string]string) []*rule {
	var above []*rule
	var base *rule
	for _, r := range edge { // the winner first
		if !r.target.Matches(doc) {
			continue
		}
		targets[r.ID] = targeted
		switch {
		case base != nil:
		case r.content.layered():
			above = append(above, r)
		default:
			base = r
		}
	}
	if base == nil {
		return nil // layers need something to stand on
	}
	layers := []*rule{base}
	for _, r := range slices.Backward(above) {
		if r.Priority > base.Priority {
			layers = append(layers, r)
		}
	}
	for _, r := range layers {
		targets[r.ID] = applied
	}
	return layers
}

// measure counts what a configuration's queries find.
func (s *Service) measure(ctx context.Context, c Configuration) error {
	kind, err := KindOf(c.Content)
	if err != nil {
		return nil // logged before
	}
	r := Results{System: map[string]int{}, Custom: map[string]int{}}
	count := func(queries map[string]string, to map[string]int) error {
		for name, text := range queries {
			if text == "" {
				to[name] = 0
				continue
			}
			n, err := s.cfg.Fleet.Count(ctx, text)
			switch {
			case err == nil:
				to[name] = n
			case fault.Is(err, fault.Timeout), fault.Is(err, fault.Invalid), fault.Is(err, fault.TooLarge):
				s.log.Warn("a metric of a configuration cannot be counted", "configuration", c.ID, "metric", name, "err", err)
			default:
				return err
			}
		}
		return nil
	}
	if err := count(c.systemQueries(kind), r.System); err != nil {
		return err
	}
	if err := count(c.Queries, r.Custom); err != nil {
		return err
	}
	if maps.Equal(r.System, c.Results.System) && maps.Equal(r.Custom, c.Results.Custom) {
		return nil
	}
	return s.cfg.Store.SaveResults(ctx, c.ID, r)
}
