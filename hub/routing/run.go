package routing

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"time"

	"github.com/vauban-iot/vauban/bus"
	"github.com/vauban-iot/vauban/fault"
	"github.com/vauban-iot/vauban/hub/telemetry"
	"github.com/vauban-iot/vauban/hub/twin"
	"github.com/vauban-iot/vauban/iot"
)

// Sink takes messages for one endpoint. Deliver returns when the messages are safe there; they are given again
// when it fails, so a receiver may see one twice. Its error is fault.Invalid for messages that will never be taken.
type Sink interface {
	Deliver(ctx context.Context, ms []*iot.Message) error
}

// Log is the telemetry log as a runner needs it; see [bus.Log].
type Log interface {
	Work(ctx context.Context, name string, handle func(bus.Entry) error) error
}

// Twins finds the twin of a sender.
type Twins interface {
	Twin(ctx context.Context, id iot.ID) (twin.Twin, error)
}

// Outcome of a delivery, for metrics.
type Outcome string

// The outcomes.
const (
	Delivered    Outcome = "delivered"
	Retried      Outcome = "retried"
	DeadLettered Outcome = "dead_lettered"
)

// Runner works through the log for one endpoint, at its own pace: a slow or dead endpoint delays no other.
type Runner struct {
	Table    *Table
	Endpoint Endpoint
	Sink     Sink
	Log      Log
	Twins    Twins
	Report   func(o Outcome, messages int) // may be nil
	Logger   *slog.Logger

	entry uint64 // the one at hand
	done  uint64 // sequence of the last message of it that was settled
	since time.Time
}

// giveUp is how long an endpoint may refuse before its messages are dropped (hub-service §7.1).
const giveUp = 24 * time.Hour

// maxDelivery bounds what one Deliver is given.
const maxDelivery = 500

// Run delivers until ctx ends.
func (r *Runner) Run(ctx context.Context) error {
	return r.Log.Work(ctx, "route-"+r.Endpoint.Name, func(e bus.Entry) error { return r.handle(ctx, e) })
}

func (r *Runner) report(o Outcome, n int) {
	if r.Report != nil {
		r.Report(o, n)
	}
}

// handle delivers what an entry holds for the endpoint. When it fails the log gives the entry again; what was
// settled of it is not sent again while this server lives.
func (r *Runner) handle(ctx context.Context, e bus.Entry) error {
	if r.entry != e.Sequence {
		r.entry, r.done, r.since = e.Sequence, 0, time.Now()
	}
	var batch []*iot.Message
	flush := func() error {
		if len(batch) == 0 {
			return nil
		}
		if err := r.deliver(ctx, batch); err != nil {
			return err
		}
		r.done = batch[len(batch)-1].Sequence
		batch = batch[:0]
		return nil
	}
	err := telemetry.Decode(e.Sequence, e.Data, func(m *iot.Message) error {
		if m.Sequence <= r.done || m.Source != iot.Telemetry || m.Enqueued.Before(r.Endpoint.Created) {
			return nil
		}
		d, err := r.document(ctx, m)
		if err != nil {
			return err
		}
		if !slices.Contains(r.Table.targets(d), r.Endpoint.Name) {
			return nil
		}
		kept := *r.Table.enriched(d, r.Endpoint.Name)
		if batch = append(batch, &kept); len(batch) == maxDelivery {
			return flush()
		}
		return nil
	})
	if errors.Is(err, telemetry.ErrCorrupt) {
		r.Logger.Warn("log entry cannot be read; it is skipped", "entry", e.Sequence, "endpoint", r.Endpoint.Name, "err", err)
		err = nil
	}
	if err != nil {
		return err
	}
	return flush()
}

func (r *Runner) document(ctx context.Context, m *iot.Message) (*document, error) {
	d := &document{m: m, twin: func() (twin.Twin, bool) { return twin.Twin{}, false }}
	if !r.Table.needTwin {
		return d, nil
	}
	t, err := r.Twins.Twin(ctx, m.From)
	switch {
	case err == nil:
		d.twin = func() (twin.Twin, bool) { return t, true }
	case !fault.Is(err, fault.NotFound): // a deleted sender has no twin any more
		return nil, fmt.Errorf("read the twin of %s: %w", m.From, err)
	}
	return d, nil
}

// deliver hands a batch to the sink. What the sink will never take is dropped, with a trace; so is everything
// of an entry that it refuses for too long.
func (r *Runner) deliver(ctx context.Context, ms []*iot.Message) error {
	err := r.Sink.Deliver(ctx, ms)
	switch {
	case err == nil:
		r.report(Delivered, len(ms))
		return nil
	case ctx.Err() != nil:
		return err
	case fault.Is(err, fault.Invalid), time.Since(r.since) > giveUp:
		r.report(DeadLettered, len(ms))
		r.Logger.Error("messages were not delivered and are given up", "endpoint", r.Endpoint.Name, "messages", len(ms),
			"first", ms[0].Sequence, "last", ms[len(ms)-1].Sequence, "err", err)
		return nil
	default:
		r.report(Retried, len(ms))
		return err
	}
}
