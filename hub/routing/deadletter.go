package routing

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/vauban-iot/vauban/fault"
	"github.com/vauban-iot/vauban/iot"
)

// DeadLetter is a message that an endpoint did not take, as it would have been delivered.
type DeadLetter struct {
	Sequence int64 // of its first coming, given by the store
	Endpoint string
	Message  iot.Message // List leaves all but its stamps (ids, source, times) empty
	Died     time.Time
	Reason   string
	Attempts int  // how often it came here
	Replay   bool // it waits to be delivered again
	Size     int  // in bytes, as it is kept
}

// Limits of the dead letters of one endpoint. Beyond them the oldest go.
const (
	MaxDeadLetters     = 10_000
	MaxDeadLetterBytes = 64 << 20
	maxReason          = 500
)

// Letters is a choice of dead letters of one endpoint.
type Letters struct {
	Endpoint  string
	Sequences []int64 // nil: all
	Replay    bool    // only those that wait to be delivered again
	After     int64   // only those with a greater sequence
	Limit     int     // of a list
}

// Count is what an endpoint's dead letters come to.
type Count struct {
	Messages, Waiting int // Waiting ones are to be delivered again
	Bytes             int64
	Oldest            time.Time // when the oldest died
}

// DeadLetterStore keeps dead letters. Every write is on disk when the call returns.
type DeadLetterStore interface {
	// Bury adds messages, or, of those that are there already, changes time and reason and takes back that they are to be
	// delivered again. Then the oldest of the endpoint go until at most keep messages of together at most bytes are left;
	// it returns how many went.
	Bury(ctx context.Context, endpoint string, ms []*iot.Message, reasons []string, now time.Time, keep int, bytes int64) (gone int, err error)
	// DeadLetters lists dead letters in order, without bodies and properties.
	DeadLetters(ctx context.Context, l Letters) ([]DeadLetter, error)
	// DeadLetter returns one, whole; fault.NotFound.
	DeadLetter(ctx context.Context, endpoint string, sequence int64) (DeadLetter, error)
	// ReplayLetters marks dead letters to be delivered again and returns how many there are.
	ReplayLetters(ctx context.Context, l Letters) (int, error)
	// DropLetters removes dead letters and returns how many there were.
	DropLetters(ctx context.Context, l Letters) (int, error)
	// CountLetters counts those of all endpoints that have some.
	CountLetters(ctx context.Context) (map[string]Count, error)
}

// Refusal is the error of a [Sink] that took all messages but some, which it will never take.
type Refusal struct {
	Messages []*iot.Message
	Reasons  []error // of each
}

// Refuse adds a message.
func (r *Refusal) Refuse(m *iot.Message, reason error) {
	r.Messages, r.Reasons = append(r.Messages, m), append(r.Reasons, reason)
}

// Err is r when there is a message in it, as fault.Invalid.
func (r *Refusal) Err() error {
	if len(r.Messages) == 0 {
		return nil
	}
	return fault.Wrap(fault.Invalid, r, "%d messages are refused: %v", len(r.Messages), r.Reasons[0])
}

// Error implements error.
func (r *Refusal) Error() string { return errors.Join(r.Reasons...).Error() }

// bury makes dead letters of messages. reasons has one for all of them, or one for each.
func (r *Runner) bury(ctx context.Context, ms []*iot.Message, reasons ...error) error {
	if len(ms) == 0 {
		return nil
	}
	texts := make([]string, len(ms))
	for i := range ms {
		texts[i] = strings.ToValidUTF8(reasons[min(i, len(reasons)-1)].Error(), "?")
		if len(texts[i]) > maxReason {
			texts[i] = strings.ToValidUTF8(texts[i][:maxReason], "")
		}
		texts[i] = strings.ReplaceAll(texts[i], "\x00", "?")
	}
	if r.Dead != nil {
		gone, err := r.Dead.Bury(ctx, r.Endpoint.Name, ms, texts, r.now(), MaxDeadLetters, MaxDeadLetterBytes)
		if err != nil {
			return fmt.Errorf("keep dead letters of %s: %w", r.Endpoint.Name, err)
		}
		if gone > 0 {
			r.report(Lost, gone)
			r.Logger.Warn("the dead letters of an endpoint are over their bound; the oldest are gone", "endpoint", r.Endpoint.Name, "messages", gone)
		}
	}
	r.report(DeadLettered, len(ms))
	r.Logger.Error("messages were not delivered and are dead letters now", "endpoint", r.Endpoint.Name, "messages", len(ms),
		"first", ms[0].Sequence, "last", ms[len(ms)-1].Sequence, "reason", texts[0])
	return nil
}

// Pauses between looks for dead letters that are to be delivered again.
const (
	replayPeriod = time.Second
	replayPause  = 10 * time.Second // after a failure
	replayChunk  = 100
)

// RunReplays delivers dead letters that somebody asked to be delivered again, until ctx ends.
func (r *Runner) RunReplays(ctx context.Context) error {
	for {
		pause := replayPeriod
		n, err := r.replay(ctx)
		switch {
		case ctx.Err() != nil:
			return nil
		case err != nil:
			r.Logger.Warn("dead letters are not delivered yet, trying again", "endpoint", r.Endpoint.Name, "err", err)
			pause = replayPause
		case n == replayChunk:
			continue
		}
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(pause):
		}
	}
}

// replay delivers some dead letters and returns how many it looked at. The failure of an endpoint leaves them waiting.
func (r *Runner) replay(ctx context.Context) (int, error) {
	waiting, err := r.Dead.DeadLetters(ctx, Letters{Endpoint: r.Endpoint.Name, Replay: true, Limit: replayChunk})
	if err != nil || len(waiting) == 0 {
		return 0, err
	}
	var ms []*iot.Message
	at := make(map[uint64]int64)
	for _, l := range waiting {
		whole, err := r.Dead.DeadLetter(ctx, r.Endpoint.Name, l.Sequence)
		if fault.Is(err, fault.NotFound) {
			continue // dropped meanwhile
		}
		if err != nil {
			return 0, err
		}
		ms = append(ms, &whole.Message)
		at[whole.Message.Sequence] = l.Sequence
	}
	if len(ms) == 0 {
		return len(waiting), nil
	}
	err = r.give(ctx, ms)
	refusal, refused := errors.AsType[*Refusal](err)
	switch {
	case err == nil:
	case refused:
		if err := r.bury(ctx, refusal.Messages, refusal.Reasons...); err != nil {
			return 0, err
		}
		for _, m := range refusal.Messages {
			delete(at, m.Sequence)
		}
	case fault.Is(err, fault.Invalid):
		return len(waiting), r.bury(ctx, ms, err)
	default:
		return 0, err
	}
	done := make([]int64, 0, len(at))
	for _, sequence := range at {
		done = append(done, sequence)
	}
	if len(done) == 0 {
		return len(waiting), nil
	}
	slices.Sort(done)
	r.report(Delivered, len(done))
	_, err = r.Dead.DropLetters(ctx, Letters{Endpoint: r.Endpoint.Name, Sequences: done})
	return len(waiting), err
}
