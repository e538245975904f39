package hubtest

import (
	"context"
	"slices"
	"sync"
	"time"

	"github.com/vauban-iot/vauban/bus"
	"github.com/vauban-iot/vauban/fault"
)

// Memory is a log and mailboxes without a disk. It waits only on channels, so time in a
// testing/synctest bubble passes over it.
type Memory struct {
	handle func(bus.Call)

	mu      sync.Mutex
	boxes   map[string]int
	entries []bus.Entry
	grown   chan struct{} // closed when entries grow
}

var (
	_ bus.Log  = (*Memory)(nil)
	_ bus.Post = (*Memory)(nil)
)

// NewMemory hands calls to handle.
func NewMemory(handle func(bus.Call)) *Memory {
	return &Memory{handle: handle, boxes: make(map[string]int), grown: make(chan struct{})}
}

// Append implements bus.Log.
func (m *Memory) Append(_ context.Context, data []byte) (uint64, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	n := uint64(len(m.entries) + 1)
	m.entries = append(m.entries, bus.Entry{Sequence: n, Time: time.Now(), Data: slices.Clone(data)})
	close(m.grown)
	m.grown = make(chan struct{})
	return n, nil
}

// Follow implements bus.Log.
func (m *Memory) Follow(ctx context.Context, from bus.Start, ready func(), handle func(bus.Entry) error) error {
	m.mu.Lock()
	next := 0
	if from == bus.Latest {
		next = len(m.entries)
	}
	m.mu.Unlock()
	if ready != nil {
		ready()
	}
	for {
		m.mu.Lock()
		todo, grown := m.entries[next:], m.grown
		m.mu.Unlock()
		for _, e := range todo {
			if err := handle(e); err != nil {
				return err
			}
			next++
		}
		select {
		case <-ctx.Done():
			return nil
		case <-grown:
		}
	}
}

// Work implements bus.Log; it remembers nothing across restarts.
func (m *Memory) Work(ctx context.Context, _ string, handle func(bus.Entry) error) error {
	return m.Follow(ctx, bus.Earliest, nil, handle)
}

// Listen implements bus.Post.
func (m *Memory) Listen(name string) (func(), error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.boxes[name]++
	return func() {
		m.mu.Lock()
		defer m.mu.Unlock()
		m.boxes[name]--
	}, nil
}

// Send implements bus.Post.
func (m *Memory) Send(name string, data []byte) error {
	if m.listening(name) {
		m.handle(bus.Call{Name: name, Data: data, Reply: func([]byte) {}})
	}
	return nil
}

func (m *Memory) listening(name string) bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.boxes[name] > 0
}

// Request implements bus.Post.
func (m *Memory) Request(ctx context.Context, name string, data []byte) ([]byte, error) {
	if !m.listening(name) {
		return nil, fault.New(fault.NotOnline, "the device is not connected")
	}
	answer := make(chan []byte, 1)
	m.handle(bus.Call{Name: name, Data: data, Reply: func(b []byte) {
		select {
		case answer <- b:
		default:
		}
	}})
	select {
	case b := <-answer:
		return b, nil
	case <-ctx.Done():
		return nil, fault.Wrap(fault.Timeout, ctx.Err(), "no answer in time")
	}
}
