package node

import (
	"context"
	"os"
	"runtime/debug"
	"runtime/metrics"
	"time"
)

// How much garbage may gather between two collections. With a small heap Go would collect many times a second under
// load, and each collection takes processor time from devices that wait; with a large one, which is mostly sessions
// that sleep, as much again as the sessions need would lie about.
const (
	leastGarbage = 32 << 20 // bytes
	mostGarbage  = 3        // one part in so many of what lives
)

const heapPeriod = 2 * time.Second

// paceCollector sets how often Go collects garbage by what lives, unless the operator set GOGC.
func paceCollector(ctx context.Context) error {
	if os.Getenv("GOGC") != "" {
		return nil
	}
	before := debug.SetGCPercent(100)
	defer debug.SetGCPercent(before)
	live := []metrics.Sample{{Name: "/gc/heap/live:bytes"}}
	t := time.NewTicker(heapPeriod)
	defer t.Stop()
	set := 100
	for {
		metrics.Read(live)
		// Every change stops the world for a moment: small ones are not worth it.
		if p := gcPercent(live[0].Value.Uint64()); p > set+set/8 || p < set-set/8 {
			debug.SetGCPercent(p)
			set = p
		}
		select {
		case <-ctx.Done():
			return nil
		case <-t.C:
		}
	}
}

// gcPercent is what Go calls GOGC: garbage in percent of what lives.
func gcPercent(live uint64) int {
	return int(max(leastGarbage, live/mostGarbage) * 100 / max(live, 4<<20))
}
