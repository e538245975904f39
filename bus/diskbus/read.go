package diskbus

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"time"

	"github.com/vauban-iot/vauban/bus"
)

// reader goes through a log. It is used by one goroutine.
type reader struct {
	log    *eventLog
	name   string // for messages
	next   uint64 // the entry it wants
	first  uint64 // its segment; 0: none is open
	file   *os.File
	window window
	limit  int64 // how far the segment may be read
	ended  bool  // the segment will not grow
}

// read makes a reader whose first entry is next, or the oldest one kept when that is gone.
func (l *eventLog) read(name string, next uint64) *reader {
	return &reader{log: l, name: name, next: next}
}

func (r *reader) close() {
	if r.file != nil {
		r.file.Close()
	}
}

// take returns the next entry, waiting for it. It fails with errStopped when ctx or the bus ends. The entry's data is
// good until the next call.
func (r *reader) take(ctx context.Context) (bus.Entry, error) {
	for {
		if r.file != nil {
			e, err := r.window.next(r.next, r.limit)
			switch {
			case err == nil:
				if r.stopped(ctx) {
					return bus.Entry{}, errStopped
				}
				r.next++
				return e, nil
			case !errors.Is(err, io.EOF) && !r.ended:
				return bus.Entry{}, fmt.Errorf("diskbus: log %s, entry %d in %s: %w", r.log.cfg.Name, r.next, r.file.Name(), err)
			case !errors.Is(err, io.EOF):
				r.passOver(err)
			}
		}
		if err := r.advance(ctx); err != nil {
			return bus.Entry{}, err
		}
	}
}

// more reports whether an entry is there behind the last one taken.
func (r *reader) more() bool {
	if r.window.off < r.limit {
		return true
	}
	r.log.mu.Lock()
	defer r.log.mu.Unlock()
	return r.log.next > r.next
}

var errStopped = errors.New("the reader is stopped")

func (r *reader) stopped(ctx context.Context) bool {
	select {
	case <-ctx.Done():
		return true
	case <-r.log.bus.closed:
		return true
	default:
		return false
	}
}

// passOver leaves a segment that is damaged from the window's place on.
func (r *reader) passOver(err error) {
	r.log.log.Error("a part of the log is damaged and is passed over", "reader", r.name, "file", r.file.Name(), "offset", r.window.off, "err", err)
	r.file.Close()
	r.file = nil
}

// advance learns how far the segment reaches now, goes to the next one when it is read, or waits for more.
func (r *reader) advance(ctx context.Context) error {
	l := r.log
	l.mu.Lock()
	i := slices.IndexFunc(l.segments, func(s segment) bool { return s.first == r.first })
	last := len(l.segments) - 1
	if r.file != nil && i >= 0 && (l.segments[i].size > r.limit || i < last && !r.ended) {
		r.limit, r.ended = l.segments[i].size, i < last
		l.mu.Unlock()
		return nil
	}
	if r.file != nil && i == last {
		changed := l.changed
		l.watched = true
		l.mu.Unlock()
		select {
		case <-changed:
			return nil
		case <-ctx.Done():
			return errStopped
		case <-l.bus.closed:
			return errStopped
		}
	}
	// The segment is read, or gone, or this is the start: find the one that holds r.next, or the first behind it. A
	// damaged segment holds r.next too, but was left: go on behind it.
	at := 0
	for at < last && l.segments[at+1].first <= r.next {
		at++
	}
	if l.segments[at].first <= r.first && at < last {
		at++
	}
	s, ended, end := l.segments[at], at < last, l.next
	l.mu.Unlock()
	r.close()
	return r.open(s, ended, end)
}

// open goes to the entry r.next in s, or to the first of s when that is later. end is the entry behind all.
func (r *reader) open(s segment, ended bool, end uint64) error {
	f, err := os.Open(segmentPath(r.log.dir, s.first))
	if errors.Is(err, os.ErrNotExist) {
		r.file = nil
		return nil // it has become too old since; look again
	} else if err != nil {
		return fmt.Errorf("diskbus: log %s: %w", r.log.cfg.Name, err)
	}
	r.file, r.first, r.limit, r.ended = f, s.first, s.size, ended
	r.window = window{file: f, off: segmentHead, buf: r.window.buf[:0]}
	if s.first > r.next {
		if r.next > 1 {
			r.log.log.Warn("entries were removed before they were read", "reader", r.name, "from", r.next, "to", s.first-1)
		}
		r.next = s.first
	}
	if r.next >= end && !ended {
		r.next, r.window.off = end, s.size // behind end: the log lost what was not on disk when the reader noted its place
		return nil
	}
	for seq := s.first; seq < r.next; seq++ {
		if _, err := r.window.next(seq, r.limit); err != nil && ended {
			r.passOver(err)
			return nil
		} else if err != nil {
			return fmt.Errorf("diskbus: log %s, entry %d in %s: %w", r.log.cfg.Name, seq, f.Name(), err)
		}
	}
	return nil
}

// Follow implements bus.Log.
func (l *eventLog) Follow(ctx context.Context, from bus.Start, ready func(), handle func(bus.Entry) error) error {
	next := uint64(1)
	if from == bus.Latest {
		l.mu.Lock()
		next = l.next
		l.mu.Unlock()
	}
	r := l.read("follower", next)
	defer func() { r.close() }()
	if ready != nil {
		ready()
	}
	for {
		e, err := r.take(ctx)
		if errors.Is(err, errStopped) {
			return nil
		} else if err != nil {
			return err
		}
		if err := handle(e); err != nil {
			if ctx.Err() != nil {
				return nil
			}
			return err
		}
	}
}

// retryPause is how long a failed entry waits before Work gives it again.
const retryPause = time.Second

// Work implements bus.Log. A name works once at a time.
func (l *eventLog) Work(ctx context.Context, name string, handle func(bus.Entry) error) error {
	l.mu.Lock()
	if l.working[name] {
		l.mu.Unlock()
		return fmt.Errorf("diskbus: log %s: the reader %s is at work already", l.cfg.Name, name)
	}
	l.working[name] = true
	l.mu.Unlock()
	defer func() {
		l.mu.Lock()
		delete(l.working, name)
		l.mu.Unlock()
	}()
	p, err := openPlace(l.dir, name)
	if err != nil {
		return fmt.Errorf("diskbus: log %s: %w", l.cfg.Name, err)
	}
	defer p.close()
	r := l.read(name, p.done+1)
	defer func() { r.close() }()
	for {
		e, err := r.take(ctx)
		if errors.Is(err, errStopped) {
			return nil
		} else if err != nil {
			return err
		}
		e.More = r.more()
		var later bool
		for {
			err := handle(e)
			if later = errors.Is(err, bus.ErrLater); later || err == nil {
				break
			}
			if ctx.Err() != nil {
				return nil
			}
			l.log.Warn("log reader failed, trying again", "reader", name, "err", err)
			select {
			case <-ctx.Done():
				return nil
			case <-l.bus.closed:
				return nil
			case <-time.After(retryPause):
			}
		}
		if later {
			continue
		}
		if err := p.set(e.Sequence, l.bus.cfg.Now()); err != nil {
			l.log.Warn("a reader's place in the log was not kept; it will be given entries again", "reader", name, "err", err)
		}
	}
}
