package dps

import (
	"math/rand/v2"
	"sync"
	"time"

	"github.com/vauban-iot/vauban/fault"
)

// Limits says how often devices may ask. Each server of a cluster counts for itself.
type Limits struct {
	// Registrations a second of all devices together; 0: 1000. A burst of as many as in a second is let through at once.
	Registrations float64
	// Requests a second of one device, registrations and questions for their outcome together; 0: 2. A burst of 20 is let through.
	Device float64
}

const (
	defaultRegistrations = 1000
	defaultDevice        = 2
	deviceBurst          = 20
	// maxRetry is the longest time that C clients wait for (dps §3).
	maxRetry = 300 * time.Second
	// maxBuckets bounds how many devices are counted. One that is forgotten begins with a whole burst.
	maxBuckets = 100_000
)

// bucket holds the requests that may still be made.
type bucket struct {
	left float64
	at   time.Time
}

// take takes one out of a bucket that fills at rate up to burst; it returns how long until there is one.
func (b *bucket) take(now time.Time, rate, burst float64) time.Duration {
	if b.at.IsZero() {
		b.left, b.at = burst, now
	}
	if d := now.Sub(b.at).Seconds(); d > 0 {
		b.left, b.at = min(b.left+d*rate, burst), now
	}
	if b.left < 1 {
		return max(time.Duration((1-b.left)/rate*float64(time.Second)), 1)
	}
	b.left--
	return 0
}

// limits refuses what is asked too often.
type limits struct {
	Limits

	mu      sync.Mutex
	all     bucket
	promise time.Time          // until when places are given away
	devices map[string]*bucket // by folded registration id
	swept   time.Time
}

func newLimits(l Limits) *limits {
	if l.Registrations <= 0 {
		l.Registrations = defaultRegistrations
	}
	if l.Device <= 0 {
		l.Device = defaultDevice
	}
	return &limits{Limits: l, devices: make(map[string]*bucket)}
}

// device counts a request of one device.
func (l *limits) device(id string, now time.Time) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	b := l.devices[id]
	if b == nil {
		l.sweepLocked(now)
		b = &bucket{}
		l.devices[id] = b
	}
	if wait := b.take(now, l.Device, deviceBurst); wait > 0 {
		return &fault.Error{Kind: fault.Throttled, Public: "the device asks too often", RetryAfter: wait}
	}
	return nil
}

// sweepLocked forgets devices whose buckets are full again, and all of them when they are too many.
func (l *limits) sweepLocked(now time.Time) {
	full := time.Duration(deviceBurst / l.Device * float64(time.Second))
	if len(l.devices) < maxBuckets && now.Sub(l.swept) < full {
		return
	}
	l.swept = now
	for id, b := range l.devices {
		if now.Sub(b.at) > full || len(l.devices) >= maxBuckets {
			delete(l.devices, id)
		}
	}
}

// registration counts a registration. When there are too many it gives the device a place of its own to come back at, so
// that those which were refused together do not come back together.
func (l *limits) registration(now time.Time) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	rate := l.Registrations
	if l.all.take(now, rate, max(rate, 1)) == 0 {
		return nil
	}
	// The first second belongs to those who come by themselves.
	if first := now.Add(time.Second); l.promise.Before(first) {
		l.promise = first
	}
	l.promise = l.promise.Add(time.Duration(float64(time.Second) / rate))
	wait := l.promise.Sub(now)
	if wait > maxRetry { // more than the queue holds: anywhere in its second half
		l.promise = now.Add(maxRetry)
		wait = maxRetry/2 + rand.N(maxRetry/2)
	}
	return &fault.Error{Kind: fault.Throttled, Public: "too many devices register at once", RetryAfter: wait}
}
