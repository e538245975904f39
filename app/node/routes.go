package node

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promauto"
	"golang.org/x/sync/errgroup"

	"github.com/vauban-iot/vauban/fault"
	"github.com/vauban-iot/vauban/hub/event"
	"github.com/vauban-iot/vauban/hub/meter"
	"github.com/vauban-iot/vauban/hub/routing"
	"github.com/vauban-iot/vauban/iot"
	"github.com/vauban-iot/vauban/sink/avrofile"
	"github.com/vauban-iot/vauban/sink/jsonlines"
	"github.com/vauban-iot/vauban/sink/kafkasink"
	"github.com/vauban-iot/vauban/sink/natsink"
	"github.com/vauban-iot/vauban/sink/webhook"
)

// routes keeps the routing and runs one reader of the log for each endpoint.
type routes struct {
	n         *Node
	folder    string // of storage endpoints
	delivered *prometheus.CounterVec

	letters, letterBytes *prometheus.GaugeVec

	plain atomic.Bool // see routing.Table.Plain
	known bool        // want succeeded, or gave up
	mu    sync.Mutex  // one change at a time
	wake  chan struct{}
}

const routingSetting = "hub/routing"

// routingPeriod is how late a change made on another server is seen.
const routingPeriod = 2 * time.Second

func newRoutes(n *Node, folder string) *routes {
	if err := avrofile.Recover(folder); err != nil {
		n.log.Error("files of routed messages that a crash left open keep their ending .part", "folder", folder, "err", err)
	}
	letters := promauto.With(n.metrics).NewGaugeVec(prometheus.GaugeOpts{
		Name: "vauban_routing_dead_letters", Help: "Dead letters that are kept, by endpoint.",
	}, []string{"endpoint"})
	letterBytes := promauto.With(n.metrics).NewGaugeVec(prometheus.GaugeOpts{
		Name: "vauban_routing_dead_letter_bytes", Help: "Bytes of the dead letters that are kept, by endpoint.",
	}, []string{"endpoint"})
	return &routes{n: n, letters: letters, letterBytes: letterBytes, folder: folder, wake: make(chan struct{}, 1), delivered: promauto.With(n.metrics).NewCounterVec(prometheus.CounterOpts{
		Name: "vauban_routing_messages_total", Help: "Messages of routes, by endpoint and outcome: delivered, retried, dead_lettered, lost (dead letters that went for newer ones).",
	}, []string{"endpoint", "outcome"})}
}

// Routing implements api.RoutingStore.
func (r *routes) Routing(ctx context.Context) ([]byte, error) {
	text, err := r.n.State.Setting(ctx, routingSetting)
	if fault.Is(err, fault.NotFound) {
		return []byte(`{"endpoints":[],"routes":[],"enrichments":[]}`), nil
	}
	return text, err
}

// PutRouting implements api.RoutingStore.
func (r *routes) PutRouting(ctx context.Context, text []byte) ([]byte, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	table, err := routing.Parse(r.n.cfg.Hostname, text)
	if err != nil {
		return nil, err
	}
	before, err := r.table(ctx)
	if err != nil {
		return nil, err
	}
	made := map[string]time.Time{}
	for _, e := range before.Endpoints {
		made[e.Name] = e.Created
	}
	for i := range table.Endpoints {
		e := &table.Endpoints[i]
		if _, _, err := r.sink(*e); err != nil {
			return nil, err
		}
		e.Created = made[e.Name]
		if e.Created.IsZero() {
			e.Created = time.Now().UTC()
		}
	}
	if text, err = json.Marshal(table.Config); err != nil {
		return nil, err
	}
	if err := r.n.State.PutSetting(ctx, routingSetting, text); err != nil {
		return nil, err
	}
	r.n.interest.Want(routingSetting, table.Sources()...)
	r.plain.Store(table.Plain())
	select {
	case r.wake <- struct{}{}:
	default:
	}
	return text, nil
}

// want says which events the present routing takes. When that cannot be known, what was known stays; at first it is all.
func (r *routes) want(ctx context.Context) {
	t, err := r.table(ctx)
	switch {
	case err == nil:
		r.n.interest.Want(routingSetting, t.Sources()...)
		r.plain.Store(t.Plain())
		r.known = true
	case ctx.Err() == nil && !r.known:
		r.n.log.Error("the routing is not known; events of all sources are kept", "err", err)
		r.n.interest.Want(routingSetting, event.Sources...)
		r.known = true
	}
}

// watch keeps the interest in events fresh: routes may change on another server.
func (r *routes) watch(ctx context.Context) error {
	tick := time.NewTicker(routingPeriod)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
			r.mu.Lock() // or what was read before a change here could undo it
			r.want(ctx)
			r.mu.Unlock()
			r.count(ctx)
		}
	}
}

// deadLetters are those of the present routing, for the operator.
type deadLetters struct {
	routing.DeadLetterStore
	r *routes
}

// ReplayLetters implements api.DeadLetterStore.
func (d deadLetters) ReplayLetters(ctx context.Context, l routing.Letters) (int, error) {
	t, err := d.r.table(ctx)
	if err != nil {
		return 0, err
	}
	if !slices.ContainsFunc(t.Endpoints, func(e routing.Endpoint) bool { return e.Name == l.Endpoint }) {
		return 0, fault.New(fault.Invalid, "the routing has no endpoint %q any more; nothing can be delivered to it", l.Endpoint)
	}
	return d.DeadLetterStore.ReplayLetters(ctx, l)
}

// DropLetters implements api.DeadLetterStore.
func (d deadLetters) DropLetters(ctx context.Context, l routing.Letters) (int, error) {
	defer d.r.count(ctx)
	return d.DeadLetterStore.DropLetters(ctx, l)
}

// count shows how many dead letters there are.
func (r *routes) count(ctx context.Context) {
	counts, err := r.n.State.CountLetters(ctx)
	if err != nil {
		if ctx.Err() == nil {
			r.n.log.Warn("dead letters not counted", "err", err)
		}
		return
	}
	r.letters.Reset()
	r.letterBytes.Reset()
	for endpoint, c := range counts {
		r.letters.WithLabelValues(endpoint).Set(float64(c.Messages))
		r.letterBytes.WithLabelValues(endpoint).Set(float64(c.Bytes))
	}
}

// newRelay makes what moves events to the log.
func newRelay(n *Node) *event.Relay {
	events := promauto.With(n.metrics).NewCounterVec(prometheus.CounterOpts{
		Name: "vauban_events_total", Help: "Events written to the log beside telemetry, by source.",
	}, []string{"source"})
	return &event.Relay{Store: n.State, Log: n.facts, Interest: n.interest, Logger: n.log, Report: func(s iot.MessageSource) {
		events.WithLabelValues(string(s)).Inc()
	}}
}

func (r *routes) table(ctx context.Context) (*routing.Table, error) {
	text, err := r.Routing(ctx)
	if err != nil {
		return nil, err
	}
	t, err := routing.Parse(r.n.cfg.Hostname, text)
	if err != nil {
		return nil, fmt.Errorf("the stored routing cannot be used: %w", err)
	}
	return t, nil
}

// sink makes what delivers to an endpoint; close may be nil.
func (r *routes) sink(e routing.Endpoint) (s routing.Sink, done func(), err error) {
	switch e.Type {
	case "webhook":
		s, err = webhook.New(e)
		return s, nil, err
	case "nats":
		n, err := natsink.New(e)
		if err != nil {
			return nil, nil, err
		}
		return n, n.Close, nil
	case "kafka":
		k, err := kafkasink.New(e)
		if err != nil {
			return nil, nil, err
		}
		return k, k.Close, nil
	case "storage":
		if e.Encoding == "" || strings.EqualFold(e.Encoding, "JSON") {
			s, err = jsonlines.New(r.folder, r.n.cfg.Hostname, e)
			return s, nil, err
		}
		a, err := avrofile.New(r.folder, r.n.cfg.Hostname, e)
		if err != nil {
			return nil, nil, err
		}
		return a, a.Close, nil
	}
	return nil, nil, fault.New(fault.Invalid, "endpoint %q: unknown type %q (want \"webhook\", \"nats\", \"kafka\" or \"storage\")", e.Name, e.Type)
}

// run keeps the readers of the present routing, and starts them anew when it changes.
func (r *routes) run(ctx context.Context) error {
	var current []byte
	stop := func() {}
	defer func() { stop() }()
	tick := time.NewTicker(routingPeriod)
	defer tick.Stop()
	for {
		text, err := r.Routing(ctx)
		switch {
		case err != nil && ctx.Err() == nil:
			r.n.log.Error("routing not read, trying again", "err", err)
		case err == nil && !bytes.Equal(text, current):
			stop()
			current = text
			stop = r.start(ctx)
		}
		select {
		case <-ctx.Done():
			return nil
		case <-r.wake:
		case <-tick.C:
		}
	}
}

func (r *routes) start(ctx context.Context) (stop func()) {
	t, err := r.table(ctx)
	if err != nil {
		r.n.log.Error("no message is routed", "err", err)
		return func() {}
	}
	ctx, cancel := context.WithCancel(ctx)
	var g errgroup.Group
	if !t.Plain() {
		tally := &routing.Tally{Table: t, Log: r.n.facts, Twins: r.n.State, Logger: r.n.log, Report: func(fallback, orphaned int) {
			r.n.meter.Add(meter.EgressFallback, fallback)
			r.n.meter.Add(meter.EgressOrphaned, orphaned)
		}}
		g.Go(func() error {
			if err := tally.Run(ctx); err != nil && ctx.Err() == nil {
				r.n.log.Error("messages without a route are not counted any longer", "err", err)
			}
			return nil
		})
	}
	for _, e := range t.Endpoints {
		bare, done, err := r.sink(e)
		if err != nil {
			r.n.log.Error("endpoint cannot be used", "endpoint", e.Name, "err", err)
			continue
		}
		s := &meteredSink{Sink: bare, meter: r.n.meter, endpoint: e}
		runner := &routing.Runner{
			Table: t, Endpoint: e, Sink: s, Log: r.n.facts, Twins: r.n.State, Dead: r.n.State, Logger: r.n.log,
			Report: func(o routing.Outcome, messages int) {
				r.delivered.WithLabelValues(e.Name, string(o)).Add(float64(messages))
				if o == routing.DeadLettered {
					s.buried(messages)
				}
			},
		}
		g.Go(func() error {
			var replays sync.WaitGroup
			replays.Go(func() { _ = runner.RunReplays(ctx) }) // it ends with ctx only
			if done != nil {
				defer done()
			}
			defer replays.Wait()
			for ctx.Err() == nil {
				if err := runner.Run(ctx); err != nil && ctx.Err() == nil {
					r.n.log.Error("a route stopped and is started again", "endpoint", e.Name, "err", err)
				}
				select {
				case <-ctx.Done():
				case <-time.After(leadRetry):
				}
			}
			return nil
		})
	}
	return func() {
		cancel()
		_ = g.Wait() // runners log their errors
	}
}
