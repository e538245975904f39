package firmware

import (
	"time"

	"github.com/vauban-iot/vauban/board/chance"
)

// Backoff says how long to wait before something is tried again: Least, then twice as long each time, at most Most, and on
// top of that up to Jitter of it, so that boards that lost a hub together come back apart.
type Backoff struct {
	Least, Most time.Duration
	Jitter      float64
	Seed        uint64

	failures int
	drawn    uint64
}

// Next is the wait after one more failure.
func (b *Backoff) Next() time.Duration {
	d := b.Most
	if b.failures < 30 && b.Least<<b.failures < b.Most {
		d = b.Least << b.failures
		b.failures++
	}
	b.drawn++
	return d + time.Duration(b.Jitter*chance.Unit(b.Seed, b.drawn)*float64(d))
}

// Reset is for a success.
func (b *Backoff) Reset() { b.failures = 0 }
