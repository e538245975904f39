// Package diskbus is the bus of a server that stands alone: its logs are files of this machine, synced before an
// append is acknowledged, and its mailboxes reach the sessions of this process.
//
// A log is a folder of segments, each named after its first sequence number:
//
//	segment: "vblog" 0 0 1, first sequence (8), when it was begun (8), then entries
//	entry:   length of data (4), checksum (4), when it was taken (8), data
//
// Numbers are big-endian, times are nanoseconds since 1970, the checksum is CRC-32C over the entry's sequence
// number, time and data. Beside the segments, place.NAME keeps how far the reader NAME came.
package diskbus

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"sync"
	"syscall"
	"time"

	"github.com/vauban-iot/vauban/bus"
	"github.com/vauban-iot/vauban/fault"
)

// Config says where the logs are and what happens with calls.
type Config struct {
	Dir string // folder of the logs; made when it is missing
	// Handle receives the calls of every mailbox Listen opened, one at a time, so it must return
	// at once. Nil: Listen may not be used.
	Handle func(bus.Call)
	Now    func() time.Time // nil: time.Now
	Logger *slog.Logger     // nil: slog.Default()
}

// Bus is an open folder of logs and the mailboxes of this process.
type Bus struct {
	cfg    Config
	claim  *os.File // locked: one process at a time
	calls  chan bus.Call
	closed chan struct{}
	done   sync.WaitGroup

	mu    sync.Mutex
	boxes map[string]int // how many listen
	logs  []*eventLog
}

var _ bus.Bus = (*Bus)(nil)

// maxPendingCalls bounds the calls that wait for Handle. When it is full a Request waits and a Send is dropped.
const maxPendingCalls = 16 << 10

// trimPeriod is how late old entries may go.
const trimPeriod = time.Minute

// Open opens the folder. Close must be called.
func Open(cfg Config) (*Bus, error) {
	if cfg.Logger == nil {
		cfg.Logger = slog.Default()
	}
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	if err := os.MkdirAll(cfg.Dir, 0o700); err != nil {
		return nil, fmt.Errorf("diskbus: %w", err)
	}
	claim, err := os.OpenFile(filepath.Join(cfg.Dir, "lock"), os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, fmt.Errorf("diskbus: %w", err)
	}
	if err := syscall.Flock(int(claim.Fd()), syscall.LOCK_EX|syscall.LOCK_NB); err != nil {
		claim.Close()
		return nil, fmt.Errorf("diskbus: another server uses the logs in %s; stop it first", cfg.Dir)
	}
	b := &Bus{cfg: cfg, claim: claim, calls: make(chan bus.Call, maxPendingCalls), closed: make(chan struct{}), boxes: make(map[string]int)}
	b.done.Go(b.dispatch)
	b.done.Go(b.trim)
	return b, nil
}

// Close ends every reader and the dispatch of calls.
func (b *Bus) Close() {
	close(b.closed)
	b.done.Wait()
	b.mu.Lock()
	defer b.mu.Unlock()
	for _, l := range b.logs {
		l.close()
	}
	b.claim.Close()
}

func (b *Bus) trim() {
	t := time.NewTicker(trimPeriod)
	defer t.Stop()
	for {
		select {
		case <-b.closed:
			return
		case <-t.C:
			b.mu.Lock()
			logs := b.logs
			b.mu.Unlock()
			for _, l := range logs {
				l.trim()
			}
		}
	}
}

func (b *Bus) dispatch() {
	for {
		select {
		case <-b.closed:
			return
		case c := <-b.calls:
			if b.cfg.Handle != nil {
				b.cfg.Handle(c)
			}
		}
	}
}

var errClosed = fault.New(fault.Unavailable, "the bus is closed")

// Listen implements bus.Post.
func (b *Bus) Listen(name string) (func(), error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.boxes[name]++
	return sync.OnceFunc(func() {
		b.mu.Lock()
		defer b.mu.Unlock()
		if b.boxes[name]--; b.boxes[name] == 0 {
			delete(b.boxes, name)
		}
	}), nil
}

func (b *Bus) listeners(name string) int {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.boxes[name]
}

// Request implements bus.Post.
func (b *Bus) Request(ctx context.Context, name string, data []byte) ([]byte, error) {
	n := b.listeners(name)
	if n == 0 {
		return nil, fault.New(fault.NotOnline, "the device is not connected")
	}
	answers := make(chan []byte, n)
	call := bus.Call{Name: name, Data: append([]byte(nil), data...), Reply: func(data []byte) {
		select {
		case answers <- append([]byte(nil), data...):
		default: // somebody answered twice
		}
	}}
	for range n {
		select {
		case b.calls <- call:
		case <-ctx.Done():
			return nil, timedOut(ctx)
		case <-b.closed:
			return nil, errClosed
		}
	}
	select {
	case a := <-answers:
		return a, nil
	case <-ctx.Done():
		return nil, timedOut(ctx)
	case <-b.closed:
		return nil, errClosed
	}
}

func timedOut(ctx context.Context) error {
	if errors.Is(ctx.Err(), context.DeadlineExceeded) {
		return fault.Wrap(fault.Timeout, ctx.Err(), "no answer in time")
	}
	return fault.Wrap(fault.Unavailable, ctx.Err(), "the caller has gone")
}

// Send implements bus.Post.
func (b *Bus) Send(name string, data []byte) error {
	n := b.listeners(name)
	if n == 0 {
		return nil
	}
	call := bus.Call{Name: name, Data: append([]byte(nil), data...), Reply: func([]byte) {}}
	for range n {
		select {
		case b.calls <- call:
		default:
			return fault.New(fault.Unavailable, "too many calls wait")
		}
	}
	return nil
}

// Log opens a log, creating it on first use.
func (b *Bus) Log(_ context.Context, cfg bus.LogConfig) (bus.Log, error) {
	l, err := openLog(b, filepath.Join(b.cfg.Dir, cfg.Name), cfg)
	if err != nil {
		return nil, fmt.Errorf("diskbus: log %s: %w", cfg.Name, err)
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	b.logs = append(b.logs, l)
	return l, nil
}
