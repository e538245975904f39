package telemetry

import (
	"context"
	"sync"

	"github.com/vauban-iot/vauban/fault"
	"github.com/vauban-iot/vauban/iot"
)

// Publisher puts one batch on the log and returns once it is on disk.
type Publisher interface {
	Append(ctx context.Context, data []byte) (uint64, error)
}

// Limits of one batch. The first message of an idle hub is written at once; while a
// batch is on its way to the disk the next one fills, so batches grow with the load
// and no message ever waits for a timer.
const (
	maxBatchMessages = 4000
	maxBatchBytes    = 1 << 20
	maxWaitingBytes  = 16 << 20 // beyond it new messages are refused as throttled; heads stop reading long before
)

// Intake groups messages and writes them. Submit may be called from any goroutine.
type Intake struct {
	log    Publisher
	report func(messages, bytes int, err error) // for metrics; may be nil

	wake chan struct{}

	mu      sync.Mutex
	waiting []*batch // the last one is still open
	bytes   int
	stopped bool
	spare   []*batch
}

type batch struct {
	data []byte
	acks []pendingAck
}

type pendingAck struct {
	ack   iot.Acker
	token uint64
}

// NewIntake writes to log. report, when not nil, hears of every batch.
func NewIntake(log Publisher, report func(messages, bytes int, err error)) *Intake {
	return &Intake{log: log, report: report, wake: make(chan struct{}, 1)}
}

var errStopping = fault.New(fault.Unavailable, "the hub is stopping")

// Submit queues m; ack hears of it once it is on disk or cannot be. m is copied.
func (in *Intake) Submit(m *iot.Message, ack iot.Acker, token uint64) {
	in.mu.Lock()
	if in.stopped || in.bytes > maxWaitingBytes {
		err := errStopping
		if !in.stopped {
			err = fault.New(fault.Throttled, "too many messages wait for the disk")
		}
		in.mu.Unlock()
		ack.Acked(token, err)
		return
	}
	var b *batch
	if n := len(in.waiting); n > 0 {
		b = in.waiting[n-1]
	}
	if b == nil || len(b.acks) >= maxBatchMessages || len(b.data) >= maxBatchBytes {
		b = in.newBatch()
		in.waiting = append(in.waiting, b)
	}
	before := len(b.data)
	b.data = appendRecord(b.data, m)
	b.acks = append(b.acks, pendingAck{ack, token})
	in.bytes += len(b.data) - before
	in.mu.Unlock()
	select {
	case in.wake <- struct{}{}:
	default:
	}
}

func (in *Intake) newBatch() *batch {
	if n := len(in.spare); n > 0 {
		b := in.spare[n-1]
		in.spare = in.spare[:n-1]
		return b
	}
	return &batch{data: []byte{version}}
}

// Run writes batches until ctx ends, then writes what was accepted and refuses the rest.
func (in *Intake) Run(ctx context.Context) error {
	for {
		select {
		case <-ctx.Done():
			in.mu.Lock()
			in.stopped = true
			in.mu.Unlock()
			in.drain(context.WithoutCancel(ctx))
			return nil
		case <-in.wake:
			in.drain(ctx)
		}
	}
}

func (in *Intake) drain(ctx context.Context) {
	// A batch that was taken must be written even when ctx ends meanwhile: its
	// devices wait for the outcome.
	ctx = context.WithoutCancel(ctx)
	for {
		in.mu.Lock()
		if len(in.waiting) == 0 {
			in.mu.Unlock()
			return
		}
		b := in.waiting[0]
		in.waiting[0] = nil
		in.waiting = in.waiting[1:]
		in.mu.Unlock()

		_, err := in.log.Append(ctx, b.data)
		if in.report != nil {
			in.report(len(b.acks), len(b.data), err)
		}
		for _, p := range b.acks {
			p.ack.Acked(p.token, err)
		}

		in.mu.Lock()
		in.bytes -= len(b.data) - 1
		if len(in.spare) < 4 && cap(b.data) <= 4*maxBatchBytes {
			clear(b.acks)
			b.acks, b.data = b.acks[:0], b.data[:1]
			in.spare = append(in.spare, b)
		}
		in.mu.Unlock()
	}
}
