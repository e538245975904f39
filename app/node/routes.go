package node

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promauto"
	"golang.org/x/sync/errgroup"

	"github.com/vauban-iot/vauban/fault"
	"github.com/vauban-iot/vauban/hub/routing"
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
	mu        sync.Mutex // one change at a time
	wake      chan struct{}
}

const routingSetting = "hub/routing"

// routingPeriod is how late a change made on another server is seen.
const routingPeriod = 2 * time.Second

func newRoutes(n *Node, folder string) *routes {
	return &routes{n: n, folder: folder, wake: make(chan struct{}, 1), delivered: promauto.With(n.metrics).NewCounterVec(prometheus.CounterOpts{
		Name: "vauban_routing_messages_total", Help: "Messages of routes, by endpoint and outcome: delivered, retried, dead_lettered.",
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
	select {
	case r.wake <- struct{}{}:
	default:
	}
	return text, nil
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
		s, err = jsonlines.New(r.folder, r.n.cfg.Hostname, e)
		return s, nil, err
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
	for _, e := range t.Endpoints {
		s, done, err := r.sink(e)
		if err != nil {
			r.n.log.Error("endpoint cannot be used", "endpoint", e.Name, "err", err)
			continue
		}
		runner := &routing.Runner{
			Table: t, Endpoint: e, Sink: s, Log: r.n.facts, Twins: r.n.State, Logger: r.n.log,
			Report: func(o routing.Outcome, messages int) {
				r.delivered.WithLabelValues(e.Name, string(o)).Add(float64(messages))
			},
		}
		g.Go(func() error {
			if done != nil {
				defer done()
			}
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
