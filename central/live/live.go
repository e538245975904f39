// Package live shows device messages to people at the moment they arrive.
//
// A [Feed] reads the telemetry log from its present end and hands every message to the
// [Subscription]s that want it. It reads only while there is one: an installation nobody
// watches spends nothing on it. Devices and the log never wait for a watcher: each
// subscription keeps a bounded number of messages and bytes, and when its reader is slower than
// its devices the oldest ones are dropped and counted.
package live

import (
	"bytes"
	"context"
	"log/slog"
	"sync"
	"time"

	"github.com/vauban-iot/vauban/bus"
	"github.com/vauban-iot/vauban/fault"
	"github.com/vauban-iot/vauban/hub/telemetry"
	"github.com/vauban-iot/vauban/iot"
)

// Log is the telemetry log as the feed needs it; see [bus.Log].
type Log interface {
	Follow(ctx context.Context, from bus.Start, ready func(), handle func(bus.Entry) error) error
}

// Limits of a feed.
const (
	maxSubscriptions = 128
	maxQueued        = 512     // messages that wait in one subscription
	maxQueuedBytes   = 4 << 20 // and their bodies
)

// Pauses of a feed.
const (
	retryPause = time.Second     // after the log failed
	placeLimit = 5 * time.Second // how long a Subscribe waits for the log
)

// Feed hands the messages of the log to those who watch. Its methods may be called from
// any goroutine.
type Feed struct {
	log    Log
	logger *slog.Logger
	wake   chan struct{} // of Run, when somebody subscribed

	mu      sync.Mutex // taken before a subscription's own
	subs    map[*Subscription]struct{}
	current []*Subscription // what subs holds; replaced, never changed
	placed  chan struct{}   // closed once the reader of the present subscriptions is in place
	stop    context.CancelFunc
}

// New returns a feed of log; Run serves it.
func New(log Log, logger *slog.Logger) *Feed {
	return &Feed{
		log: log, logger: logger, wake: make(chan struct{}, 1),
		subs: make(map[*Subscription]struct{}), placed: make(chan struct{}),
	}
}

// Run reads the log while somebody is subscribed, until ctx ends. A log that fails is
// tried again; what was appended meanwhile is not shown.
func (f *Feed) Run(ctx context.Context) error {
	for ctx.Err() == nil {
		f.mu.Lock()
		if len(f.subs) == 0 {
			f.mu.Unlock()
			select {
			case <-ctx.Done():
			case <-f.wake:
			}
			continue
		}
		reading, stop := context.WithCancel(ctx)
		placed := f.placed
		f.stop = stop
		f.mu.Unlock()

		err := f.log.Follow(reading, bus.Latest, func() { close(placed) }, f.entry)
		wanted := reading.Err() == nil
		stop()
		f.mu.Lock()
		if f.placed == placed && isClosed(placed) { // otherwise somebody waits for it still
			f.placed = make(chan struct{})
		}
		f.mu.Unlock()
		if !wanted {
			continue
		}
		if err != nil {
			f.logger.Warn("live messages are interrupted", "err", err)
		}
		select {
		case <-ctx.Done():
		case <-time.After(retryPause):
		}
	}
	return nil
}

func isClosed(c <-chan struct{}) bool {
	select {
	case <-c:
		return true
	default:
		return false
	}
}

// entry hands out one batch of the log.
func (f *Feed) entry(e bus.Entry) error {
	f.mu.Lock()
	subs := f.current
	f.mu.Unlock()
	if len(subs) == 0 {
		return nil
	}
	err := telemetry.Decode(e.Sequence, e.Data, func(m *iot.Message) error {
		if m.IsEvent() { // watchers asked for messages
			return nil
		}
		var kept *iot.Message
		for _, s := range subs {
			if s.device != "" && s.device != m.From.Device {
				continue
			}
			if kept == nil { // the entry's memory is not ours
				c := *m
				c.Body = bytes.Clone(m.Body)
				kept = &c
			}
			s.put(kept)
		}
		return nil
	})
	if err != nil { // Defender, which must read everything, warns
		f.logger.Debug("log entry cannot be shown", "entry", e.Sequence, "err", err)
	}
	return nil
}

// Subscribe begins to watch the messages of a device and its modules, or of all devices when device is
// empty. What is appended after Subscribe returned is seen. The
// errors are fault.Throttled, when too many watch, and fault.Unavailable.
func (f *Feed) Subscribe(ctx context.Context, device string) (*Subscription, error) {
	s := &Subscription{feed: f, device: device, ready: make(chan struct{}, 1)}
	f.mu.Lock()
	if len(f.subs) >= maxSubscriptions {
		f.mu.Unlock()
		return nil, fault.New(fault.Throttled, "%d readers watch messages already", maxSubscriptions)
	}
	f.subs[s] = struct{}{}
	f.changed()
	placed := f.placed
	f.mu.Unlock()
	select {
	case f.wake <- struct{}{}:
	default:
	}
	limit := time.NewTimer(placeLimit)
	defer limit.Stop()
	select {
	case <-placed:
		return s, nil
	case <-limit.C:
		s.Close()
		return nil, fault.New(fault.Unavailable, "the message log cannot be read at this moment")
	case <-ctx.Done():
		s.Close()
		return nil, fault.Wrap(fault.Unavailable, ctx.Err(), "the request ended")
	}
}

// changed publishes the subscriptions anew; mu must be held.
func (f *Feed) changed() {
	f.current = make([]*Subscription, 0, len(f.subs))
	for s := range f.subs {
		f.current = append(f.current, s)
	}
}

// Subscription is one watcher. It has one reader.
type Subscription struct {
	feed   *Feed
	device string
	ready  chan struct{}

	mu    sync.Mutex // leaf: nothing is taken while it is held
	queue []*iot.Message
	bytes int
	lost  int
}

// Ready gives a value when Take has something.
func (s *Subscription) Ready() <-chan struct{} { return s.ready }

// Take returns the messages that wait, oldest first, and how many were lost before them
// because nobody took them in time. Messages are shared with other subscriptions:
// they must not be changed.
func (s *Subscription) Take() (ms []*iot.Message, lost int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	ms, lost = s.queue, s.lost
	s.queue, s.bytes, s.lost = nil, 0, 0
	return ms, lost
}

// Close ends the subscription. A second call does nothing.
func (s *Subscription) Close() {
	f := s.feed
	f.mu.Lock()
	defer f.mu.Unlock()
	if _, ok := f.subs[s]; !ok {
		return
	}
	delete(f.subs, s)
	f.changed()
	if len(f.subs) == 0 {
		// Whoever subscribes next waits for a reader of its own.
		f.placed = make(chan struct{})
		if f.stop != nil {
			f.stop()
		}
	}
}

func (s *Subscription) put(m *iot.Message) {
	s.mu.Lock()
	for len(s.queue) > 0 && (len(s.queue) >= maxQueued || s.bytes+len(m.Body) > maxQueuedBytes) {
		s.bytes -= len(s.queue[0].Body)
		s.queue[0] = nil
		s.queue = s.queue[1:]
		s.lost++
	}
	s.queue = append(s.queue, m)
	s.bytes += len(m.Body)
	s.mu.Unlock()
	select {
	case s.ready <- struct{}{}:
	default:
	}
}
