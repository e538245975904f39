package signin

import (
	"net/netip"
	"sync"
	"time"
)

// maxDebtors are remembered; beyond it the one with the least debt is forgotten.
const maxDebtors = 8192

// limiter lets each K do something burst times at once and once more after each every. Each time moves the
// moment at which K is free of debt by every.
type limiter[K comparable] struct {
	now   func() time.Time
	every time.Duration
	most  time.Duration // of debt

	mu  sync.Mutex
	due map[K]time.Time
}

func newLimiter[K comparable](now func() time.Time, burst int, every time.Duration) *limiter[K] {
	return &limiter[K]{now: now, every: every, most: time.Duration(burst) * every, due: map[K]time.Time{}}
}

// take counts one, or says how long to wait. What comes too early does not count, so that whoever keeps
// trying is not kept out for longer.
func (l *limiter[K]) take(k K) (wait time.Duration) {
	now := l.now()
	l.mu.Lock()
	defer l.mu.Unlock()
	due, known := l.due[k]
	if !known && len(l.due) >= maxDebtors {
		l.makeRoomLocked(now)
	}
	if due.Before(now) {
		due = now
	}
	due = due.Add(l.every)
	if wait := due.Sub(now.Add(l.most)); wait > 0 {
		return wait
	}
	l.due[k] = due
	return 0
}

// giveBack takes one back that take counted.
func (l *limiter[K]) giveBack(k K) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if due, ok := l.due[k]; ok {
		l.due[k] = due.Add(-l.every)
	}
}

// forget clears k.
func (l *limiter[K]) forget(k K) {
	l.mu.Lock()
	defer l.mu.Unlock()
	delete(l.due, k)
}

func (l *limiter[K]) makeRoomLocked(now time.Time) {
	var least K
	earliest := now.Add(l.most + 1)
	for k, due := range l.due {
		if !due.After(now) {
			delete(l.due, k)
		} else if due.Before(earliest) {
			least, earliest = k, due
		}
	}
	if len(l.due) >= maxDebtors {
		delete(l.due, least)
	}
}

// placeOf is whom an attempt counts against: an IPv4 address, or the /64 that one IPv6 subscriber has
// to choose addresses from. Unknown addresses are one place.
func placeOf(a netip.Addr) netip.Prefix {
	a = a.Unmap().WithZone("")
	bits := 32
	if a.Is6() {
		bits = 64
	}
	p, err := a.Prefix(bits)
	if err != nil {
		return netip.Prefix{}
	}
	return p
}
