package throttle

import (
	"context"
	"fmt"
	"math"
	"sync"
	"sync/atomic"
	"time"

	"github.com/vauban-iot/vauban/fault"
)

// Patience is how long an operation waits for its turn before it is refused. Callers of REST, and devices that ask for
// their twin, have patience for seconds.
const Patience = time.Second

// Backlog is how long telemetry waits before it is refused; an acknowledgement may take that long.
const Backlog = 5 * time.Second

// bucket holds what may be taken at once. Below zero it is owed to those who wait.
type bucket struct {
	rate  Rate
	level float64
	at    time.Time
}

// Limiter keeps a configuration. It is safe for concurrent use; a nil one limits nothing.
type Limiter struct {
	now func() time.Time

	active atomic.Uint32 // a bit for every operation that is limited
	usage  *Usage

	mu      sync.Mutex
	limits  *Limits
	buckets [operations]bucket
}

// New returns a limiter that limits nothing yet. now may be nil: time.Now. usage, when not nil, counts the messages of a day.
func New(now func() time.Time, usage *Usage) *Limiter {
	if now == nil {
		now = time.Now
	}
	return &Limiter{now: now, usage: usage, limits: &Limits{}}
}

// Set puts limits in force. One that stays as it was keeps what was taken from it.
func (l *Limiter) Set(limits *Limits) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.limits = limits
	var active uint32
	for o := range operations {
		r := limits.rates[o]
		if r.N > 0 {
			active |= 1 << o
		}
		if b := &l.buckets[o]; b.rate != r {
			*b = bucket{rate: r, level: r.capacity(), at: l.now()}
		}
	}
	l.active.Store(active)
	if l.usage != nil {
		l.usage.limit.Store(int64(limits.daily))
	}
}

// Limits returns what is in force.
func (l *Limiter) Limits() *Limits {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.limits
}

// Limited reports whether an operation is limited at all.
func (l *Limiter) Limited(o Operation) bool { return l != nil && l.active.Load()&(1<<o) != 0 }

// Take takes n of an operation and says how long it has to wait for its turn. When that were longer than patience
// nothing is taken and the error is fault.Throttled. Turns come in the order of the calls. Whoever takes more than a whole
// burst waits as for a burst: it would never be served otherwise.
func (l *Limiter) Take(o Operation, n int, patience time.Duration) (time.Duration, error) {
	if !l.Limited(o) {
		return 0, nil
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	b := &l.buckets[o]
	if b.rate.N == 0 {
		return 0, nil // the limit went a moment ago
	}
	now := l.now()
	if d := now.Sub(b.at); d > 0 {
		b.level = math.Min(b.rate.capacity(), b.level+d.Seconds()*b.rate.perSecond())
		b.at = now
	}
	left := b.level - math.Min(float64(n), b.rate.capacity())
	wait := time.Duration(0)
	if left < 0 {
		wait = time.Duration(math.Ceil(-left / b.rate.perSecond() * float64(time.Second)))
	}
	if wait > patience {
		return 0, &fault.Error{
			Kind: fault.Throttled, Public: fmt.Sprintf("the limit of %s is %s", o, b.rate), RetryAfter: wait,
		}
	}
	b.level = left
	return wait, nil
}

// Wait takes n of an operation and waits for its turn, for Patience at most: fault.Throttled.
func (l *Limiter) Wait(ctx context.Context, o Operation, n int) error {
	return l.wait(ctx, o, n, Patience)
}

// Patiently is Wait without an end, for what nobody waits for.
func (l *Limiter) Patiently(ctx context.Context, o Operation, n int) error {
	return l.wait(ctx, o, n, math.MaxInt64)
}

func (l *Limiter) wait(ctx context.Context, o Operation, n int, patience time.Duration) error {
	d, err := l.Take(o, n, patience)
	if err != nil || d == 0 {
		return err
	}
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return nil
	case <-ctx.Done():
		return fault.Wrap(fault.Timeout, context.Cause(ctx), "the caller left before its turn")
	}
}

// Message counts a message of size bytes against the quota of the day: fault.QuotaExceeded.
func (l *Limiter) Message(size int) error {
	if l == nil || l.usage == nil {
		return nil
	}
	return l.usage.take(l.now(), int64(Steps(size)))
}

// UsageStore counts the messages of a day, of all servers of a hub.
type UsageStore interface {
	// AddUsage adds to the count of a day, given as 2026-05-01, and returns it. Days long past may be forgotten.
	AddUsage(ctx context.Context, day string, messages int64) (int64, error)
}

// Usage counts messages, in steps of 4 KiB, by days of UTC. It is safe for concurrent use; a message costs a few atomic
// operations.
type Usage struct {
	store UsageStore
	now   func() time.Time

	limit   atomic.Int64 // 0: none
	today   atomic.Int64 // days since 1970
	known   atomic.Int64 // count of the store, when it was last asked
	pending atomic.Int64 // what is not there yet

	mu sync.Mutex // held while the day turns, and while a count is taken over
}

// NewUsage returns a count that Run keeps in store. now may be nil: time.Now.
func NewUsage(store UsageStore, now func() time.Time) *Usage {
	if now == nil {
		now = time.Now
	}
	return &Usage{store: store, now: now}
}

const secondsOfDay = 24 * 60 * 60

// turn begins a new day. What of the last one was not stored yet is left out: the day is over.
func (u *Usage) turn(now time.Time) (today int64) {
	today = now.Unix() / secondsOfDay
	if u.today.Load() == today {
		return today
	}
	u.mu.Lock()
	defer u.mu.Unlock()
	if u.today.Load() != today {
		u.known.Store(0)
		u.pending.Store(0)
		u.today.Store(today)
	}
	return today
}

func (u *Usage) take(now time.Time, n int64) error {
	u.turn(now)
	pending := u.pending.Add(n)
	if limit := u.limit.Load(); limit > 0 && u.known.Load()+pending > limit {
		u.pending.Add(-n)
		next := now.UTC().Truncate(day).Add(day)
		return &fault.Error{
			Kind: fault.QuotaExceeded, Public: fmt.Sprintf("the %d messages of the day are used up", limit), RetryAfter: next.Sub(now),
		}
	}
	return nil
}

// Today is how many messages of the day are counted, of all servers when Run runs.
func (u *Usage) Today() int64 {
	u.turn(u.now())
	return u.known.Load() + u.pending.Load()
}

// usagePeriod is how late one server hears of what others counted, and how much of the count a crash forgets.
const usagePeriod = 5 * time.Second

// Run keeps the count until ctx ends. report hears of failures; it may be nil.
func (u *Usage) Run(ctx context.Context, report func(error)) error {
	tick := time.NewTicker(usagePeriod)
	defer tick.Stop()
	for {
		if err := u.save(ctx); err != nil && ctx.Err() == nil && report != nil {
			report(err)
		}
		select {
		case <-ctx.Done():
			return u.save(context.WithoutCancel(ctx))
		case <-tick.C:
		}
	}
}

func (u *Usage) save(ctx context.Context) error {
	today := u.turn(u.now())
	n := u.pending.Load()
	total, err := u.store.AddUsage(ctx, time.Unix(today*secondsOfDay, 0).UTC().Format(time.DateOnly), n)
	if err != nil {
		return err
	}
	u.mu.Lock()
	defer u.mu.Unlock()
	if u.today.Load() == today {
		u.pending.Add(-n)
		u.known.Store(total)
	}
	return nil
}
