package fleet

import (
	"time"

	"github.com/vauban-iot/vauban/board/chance"
)

// retransmit is how long TCP waits before it sends again what was lost, the first time; each further time it waits twice as long.
const (
	retransmit = 200 * time.Millisecond
	attempts   = 6
)

// trip is what a request and its answer take on the link.
func (l *Link) trip(seed uint64) time.Duration {
	d := 2*l.Latency + time.Duration((chance.Unit(seed, 0)+chance.Unit(seed, 1))*float64(l.Jitter))
	lost := 1 - (1-l.Loss)*(1-l.Loss) // either of the two
	for n := range uint64(attempts) {
		if chance.Unit(seed, 2+n) >= lost {
			break
		}
		d += retransmit << n
	}
	return d
}
