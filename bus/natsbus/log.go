package natsbus

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/vauban-iot/vauban/bus"
	"github.com/vauban-iot/vauban/fault"
)

type eventLog struct {
	b       *Bus
	name    string
	subject string
	stream  jetstream.Stream
}

var _ bus.Log = (*eventLog)(nil)

// Log opens a log, creating it on first use.
func (b *Bus) Log(ctx context.Context, cfg bus.LogConfig) (bus.Log, error) {
	maxBytes := cfg.MaxBytes
	if maxBytes == 0 {
		maxBytes = -1
	}
	l := &eventLog{b: b, name: cfg.Name, subject: "vauban.log." + cfg.Name}
	var err error
	l.stream, err = b.js.CreateOrUpdateStream(ctx, jetstream.StreamConfig{
		Name:     "vauban-" + cfg.Name,
		Subjects: []string{l.subject},
		Storage:  jetstream.FileStorage,
		Replicas: b.cfg.Replicas,
		MaxAge:   cfg.MaxAge,
		MaxBytes: maxBytes,
		Discard:  jetstream.DiscardOld,
		// Appends carry no ids: a caller that retries may write twice, as at-least-once allows.
		Duplicates: 100 * time.Millisecond,
	})
	if err != nil {
		return nil, fmt.Errorf("natsbus: log %s: %w", cfg.Name, err)
	}
	return l, nil
}

// Append implements bus.Log.
func (l *eventLog) Append(ctx context.Context, data []byte) (uint64, error) {
	if len(data) > bus.MaxEntry {
		return 0, fault.New(fault.TooLarge, "an entry of %d bytes is over the log's limit of %d", len(data), bus.MaxEntry)
	}
	ack, err := l.b.js.PublishMsg(ctx, &nats.Msg{Subject: l.subject, Data: data})
	if err != nil {
		return 0, fault.Wrap(fault.Unavailable, err, "the log cannot be written")
	}
	return ack.Sequence, nil
}

// Follow implements bus.Log.
func (l *eventLog) Follow(ctx context.Context, from bus.Start, ready func(), handle func(bus.Entry) error) error {
	cfg := jetstream.OrderedConsumerConfig{DeliverPolicy: jetstream.DeliverAllPolicy}
	if from == bus.Latest {
		cfg.DeliverPolicy = jetstream.DeliverNewPolicy
	}
	c, err := l.stream.OrderedConsumer(ctx, cfg)
	if err != nil {
		return l.ended(ctx, err)
	}
	return l.read(ctx, c, followAhead, ready, func(m jetstream.Msg) error { return l.give(m, handle) })
}

// How many entries a reader takes ahead. One that acknowledges takes none: what waits behind a slow entry would be
// thought lost and come a second time.
const (
	followAhead = 64
	workAhead   = 1
)

// ackWait is how long an entry may be worked on without a sign of life, and so how long another reader waits for the
// one that a dead reader held.
const ackWait = 30 * time.Second

// retryPause is how long a failed entry waits before Work gives it again.
const retryPause = time.Second

// Work implements bus.Log.
func (l *eventLog) Work(ctx context.Context, name string, handle func(bus.Entry) error) error {
	c, err := l.stream.CreateOrUpdateConsumer(ctx, jetstream.ConsumerConfig{
		Durable:       name,
		DeliverPolicy: jetstream.DeliverAllPolicy,
		AckPolicy:     jetstream.AckAllPolicy,
		AckWait:       l.b.ackWait,
		MaxAckPending: 1024,
	})
	if err != nil {
		return l.ended(ctx, err)
	}
	done := &acks{every: l.b.ackWait / 30, log: l.b.cfg.Logger, reader: name}
	defer done.flush()
	return l.read(ctx, c, workAhead, nil, func(m jetstream.Msg) error {
		defer signs(m, l.b.ackWait/3)()
		for {
			err := l.give(m, handle)
			if err == nil {
				done.add(m)
				return nil
			}
			l.b.cfg.Logger.Warn("log reader failed, trying again", "reader", name, "err", err)
			select {
			case <-ctx.Done():
				return ctx.Err()
			case <-time.After(retryPause):
			}
		}
	})
}

// acks acknowledges what a reader is done with, the newest for all before it, at most once in a while: for every
// acknowledgement the server writes and syncs a file beside the log that devices wait for.
type acks struct {
	every  time.Duration
	log    *slog.Logger
	reader string

	mu    sync.Mutex
	last  jetstream.Msg // not acknowledged yet; nil: none
	timer *time.Timer   // runs flush; nil: none
}

func (a *acks) add(m jetstream.Msg) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.last = m
	if a.timer == nil {
		a.timer = time.AfterFunc(a.every, a.flush)
	}
}

func (a *acks) flush() {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.timer != nil {
		a.timer.Stop()
		a.timer = nil
	}
	if a.last == nil {
		return
	}
	if err := a.last.Ack(); err != nil {
		a.log.Warn("a reader's place in the log was not kept; it will be given entries again", "reader", a.reader, "err", err)
	}
	a.last = nil
}

// signs tells the server that an entry is worked on, until stop is called, or it would deliver it a second time
// behind our back.
func signs(m jetstream.Msg, every time.Duration) (stop func()) {
	var mu sync.Mutex
	var timer *time.Timer
	mu.Lock()
	defer mu.Unlock()
	timer = time.AfterFunc(every, func() {
		mu.Lock()
		defer mu.Unlock()
		if timer != nil {
			_ = m.InProgress() // when it fails the entry comes again, which its reader must bear
			timer.Reset(every)
		}
	})
	return func() {
		mu.Lock()
		defer mu.Unlock()
		timer.Stop()
		timer = nil
	}
}

func (l *eventLog) read(ctx context.Context, c jetstream.Consumer, ahead int, ready func(), handle func(jetstream.Msg) error) error {
	it, err := c.Messages(jetstream.PullMaxMessages(ahead))
	if err != nil {
		return l.ended(ctx, err)
	}
	stop := context.AfterFunc(ctx, it.Stop)
	defer stop()
	defer it.Stop()
	if ready != nil {
		ready()
	}
	for {
		m, err := it.Next()
		if err != nil {
			return l.ended(ctx, err)
		}
		if err := handle(m); err != nil {
			return l.ended(ctx, err)
		}
	}
}

func (l *eventLog) give(m jetstream.Msg, handle func(bus.Entry) error) error {
	meta, err := m.Metadata()
	if err != nil {
		return fmt.Errorf("natsbus: log %s: %w", l.name, err)
	}
	return handle(bus.Entry{Sequence: meta.Sequence.Stream, Time: meta.Timestamp, Data: m.Data()})
}

// ended turns the errors of a stopping reader into nil.
func (l *eventLog) ended(ctx context.Context, err error) error {
	if ctx.Err() != nil || errors.Is(err, jetstream.ErrMsgIteratorClosed) && l.b.nc.IsClosed() {
		return nil
	}
	return fmt.Errorf("natsbus: log %s: %w", l.name, err)
}
