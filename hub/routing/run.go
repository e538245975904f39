package routing

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"sync"
	"time"

	"github.com/vauban-iot/vauban/bus"
	"github.com/vauban-iot/vauban/fault"
	"github.com/vauban-iot/vauban/hub/telemetry"
	"github.com/vauban-iot/vauban/hub/twin"
	"github.com/vauban-iot/vauban/iot"
)

// Sink takes messages for one endpoint. Deliver returns when the messages are safe there; they are given again
// when it fails, so a receiver may see one twice. Its error is fault.Invalid for messages that will never be taken, and
// holds a [Refusal] when those are some of them and the rest is safe.
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
	Lost         Outcome = "lost" // a dead letter that went for newer ones
)

// Runner works through the log for one endpoint, at its own pace: a slow or dead endpoint delays no other.
type Runner struct {
	Table    *Table
	Endpoint Endpoint
	Sink     Sink
	Log      Log
	Twins    Twins
	Dead     DeadLetterStore               // nil: what is not taken is gone
	Now      func() time.Time              // nil: time.Now
	Report   func(o Outcome, messages int) // may be nil
	Logger   *slog.Logger

	entry uint64 // the one at hand
	done  uint64 // sequence of the last message of it that was settled

	delivering sync.Mutex // sinks are for one at a time
}

// giveUp is how old a message may become before an endpoint that fails makes it a dead letter (hub-service §7.1).
const giveUp = 24 * time.Hour

// maxMessage is the most that a message may have once it is enriched (hub-service §7.3).
const maxMessage = 256 << 10

func (r *Runner) now() time.Time {
	if r.Now == nil {
		return time.Now()
	}
	return r.Now()
}

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
		r.entry, r.done = e.Sequence, 0
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
		if m.Sequence <= r.done || m.Enqueued.Before(r.Endpoint.Created) {
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
		if len(kept.Properties) > len(m.Properties) && size(&kept) > maxMessage {
			if err := flush(); err != nil { // what is settled grows in order
				return err
			}
			if err := r.bury(ctx, []*iot.Message{&kept}, errEnriched); err != nil {
				return err
			}
			r.done = m.Sequence
			return nil
		}
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

var errEnriched = fault.New(fault.TooLarge, "with its enrichments the message has more than %d bytes", maxMessage)

// size counts as Azure does: the body, values of system properties, names and values of application properties
// (hub-service §10).
func size(m *iot.Message) int {
	n := len(m.Body)
	for _, p := range m.System {
		n += len(p.Value)
	}
	for _, p := range m.Properties {
		n += len(p.Name) + len(p.Value)
	}
	return n
}

// give hands messages to the sink.
func (r *Runner) give(ctx context.Context, ms []*iot.Message) error {
	r.delivering.Lock()
	defer r.delivering.Unlock()
	return r.Sink.Deliver(ctx, ms)
}

// deliver hands a batch to the sink. What the sink will never take becomes a dead letter; so does what became too old
// while the sink failed.
func (r *Runner) deliver(ctx context.Context, ms []*iot.Message) error {
	err := r.give(ctx, ms)
	refusal, some := errors.AsType[*Refusal](err)
	switch {
	case err == nil:
		r.report(Delivered, len(ms))
		return nil
	case some:
		r.report(Delivered, len(ms)-len(refusal.Messages))
		return r.bury(ctx, refusal.Messages, refusal.Reasons...)
	case fault.Is(err, fault.Invalid):
		return r.bury(ctx, ms, err)
	case ctx.Err() != nil:
		return err
	}
	old := 0
	for old < len(ms) && r.now().Sub(ms[old].Enqueued) > giveUp {
		old++
	}
	if old == 0 {
		r.report(Retried, len(ms))
		return err
	}
	if err := r.bury(ctx, ms[:old], fmt.Errorf("it was tried for %v: %w", giveUp, err)); err != nil {
		return err
	}
	r.done = ms[old-1].Sequence
	if old < len(ms) {
		r.report(Retried, len(ms)-old)
		return err
	}
	return nil
}
