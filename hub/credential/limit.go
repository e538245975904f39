package credential

import (
	"sync"
	"time"

	"github.com/vauban-iot/vauban/fault"
	"github.com/vauban-iot/vauban/iot"
)

// How often one identity is issued a certificate. Each server of a cluster counts for itself.
const (
	burst  = 10
	refill = 6 * time.Minute
	// maxCounted bounds the identities that are counted. One that is forgotten begins with a whole burst.
	maxCounted = 100_000
)

// limits counts requests. Of each identity it keeps when its bucket will be full again: that is all a bucket needs.
type limits struct {
	mu    sync.Mutex
	full  map[iot.ID]time.Time
	swept time.Time
}

// take takes one request of id; fault.Throttled.
func (l *limits) take(id iot.ID, now time.Time) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	full := l.full[id]
	if full.Before(now) {
		full = now
	}
	full = full.Add(refill)
	if wait := full.Sub(now) - burst*refill; wait > 0 {
		return &fault.Error{Kind: fault.Throttled, Public: "the device asks for certificates too often", RetryAfter: wait}
	}
	if l.full == nil {
		l.full = make(map[iot.ID]time.Time)
	}
	l.sweepLocked(now)
	l.full[id] = full
	return nil
}

// giveBack undoes a take whose request came to nothing.
func (l *limits) giveBack(id iot.ID) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if full, ok := l.full[id]; ok {
		l.full[id] = full.Add(-refill)
	}
}

// sweepLocked forgets identities whose buckets are full, and all of them when they are too many.
func (l *limits) sweepLocked(now time.Time) {
	if len(l.full) < maxCounted && now.Sub(l.swept) < refill {
		return
	}
	l.swept = now
	for id, full := range l.full {
		if !full.After(now) || len(l.full) >= maxCounted {
			delete(l.full, id)
		}
	}
}
