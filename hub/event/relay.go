package event

import (
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"time"

	"github.com/vauban-iot/vauban/hub/telemetry"
	"github.com/vauban-iot/vauban/iot"
)

// Fact is an event that is not on the log yet.
type Fact struct {
	Sequence int64  // grows with every fact of the store and is never used twice
	Data     []byte // a batch of hub/telemetry
}

// Store keeps facts until they are on the log. The stores of other rooms add them, each in the transaction of the change
// it tells of.
type Store interface {
	// Facts returns the oldest, at most limit.
	Facts(ctx context.Context, limit int) ([]Fact, error)
	// ForgetFacts removes facts.
	ForgetFacts(ctx context.Context, sequences []int64) error
}

// Log is the telemetry log as a relay needs it; see [bus.Log].
type Log interface {
	Append(ctx context.Context, data []byte) (uint64, error)
}

// Relay moves events from the store to the log, in their order. After a crash it may move one a second time.
type Relay struct {
	Store    Store
	Log      Log
	Interest *Interest
	Report   func(iot.MessageSource) // hears of every event on the log; may be nil
	Logger   *slog.Logger
}

// Pauses of a relay. While nobody wants events it only looks for what is left of an earlier interest, or of that of
// another server.
const (
	period     = 100 * time.Millisecond
	idlePeriod = 2 * time.Second
	retryPause = time.Second
	chunk      = 500
)

// Run moves events until ctx ends. It must run on one server at a time.
func (r *Relay) Run(ctx context.Context) error {
	for {
		pause := idlePeriod
		n, err := r.move(ctx)
		switch {
		case ctx.Err() != nil:
			return nil
		case err != nil:
			r.Logger.Warn("events wait for the log", "err", err)
			pause = retryPause
		case n == chunk:
			continue
		case r.Interest.Any():
			pause = period
		}
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(pause):
		}
	}
}

func (r *Relay) move(ctx context.Context) (int, error) {
	facts, err := r.Store.Facts(ctx, chunk)
	if err != nil || len(facts) == 0 {
		return 0, err
	}
	sequences := make([]int64, len(facts))
	var es []*iot.Message
	size := 0
	flush := func() error {
		if len(es) == 0 {
			return nil
		}
		if _, err := r.Log.Append(ctx, telemetry.Batch(es...)); err != nil {
			return fmt.Errorf("append events: %w", err)
		}
		for _, e := range es {
			if r.Report != nil {
				r.Report(e.Source)
			}
		}
		es, size = nil, 0
		return nil
	}
	for i, f := range facts {
		sequences[i] = f.Sequence
		err := telemetry.Decode(0, f.Data, func(m *iot.Message) error {
			own := *m
			if m.Source == iot.DeviceConnectionState {
				own.Body = number(f.Sequence)
			}
			es = append(es, &own)
			return nil
		})
		if err != nil {
			r.Logger.Error("an event cannot be read; it is left out", "sequence", f.Sequence, "err", err)
		}
		if size += len(f.Data); size > maxAppend {
			if err := flush(); err != nil {
				return 0, err
			}
		}
	}
	if err := flush(); err != nil {
		return 0, err
	}
	return len(facts), r.Store.ForgetFacts(ctx, sequences)
}

// maxAppend keeps entries of the log at the size of others.
const maxAppend = 512 << 10

type sequence struct {
	Number string `json:"sequenceNumber"`
}

// number is the body of a connection event: its number among all facts, which grows as text (hub-service §7.4).
func number(n int64) []byte {
	b, err := json.Marshal(sequence{fmt.Sprintf("%064X", n)})
	if err != nil {
		panic(err) // a text always marshals
	}
	return b
}
