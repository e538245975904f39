package node

import (
	"context"
	"os"
	"runtime/debug"
	"runtime/metrics"
	"time"
)

// How much garbage may gather between two collections. With a small heap Go would collect many times a second under
// load, and each collection takes processor time from devices that wait, for some 25 ms on two processors; with a large one,
// which is mostly sessions that sleep, as much again as the sessions need would lie about.
const (
	leastGarbage = 32 << 20 // bytes
	mostGarbage  = 3        // one part in so many of what lives
	// Under load there is room for what is allocated in so many seconds, so that fewer than one message in a hundred meets a collection.
	loadTime    = 8
	loadGarbage = 512 << 20 // bytes, at most
	loadPart    = 16        // one part in so many of the machine's memory, at most
)

const heapPeriod = 2 * time.Second

// A server whose devices are silent gives back what their coming took: handshakes leave several times the memory
// that sessions keep.
const (
	quiet      = 1 << 20 // bytes allocated in a period; less is silence
	worthwhile = 8 << 20 // bytes allocated since memory was given back; less is not worth a collection
)

// paceCollector sets how often Go collects garbage by what lives, unless the operator set GOGC.
func paceCollector(ctx context.Context) error {
	if os.Getenv("GOGC") != "" {
		return nil
	}
	before := debug.SetGCPercent(100)
	defer debug.SetGCPercent(before)
	heap := []metrics.Sample{{Name: "/gc/heap/live:bytes"}, {Name: "/gc/heap/allocs:bytes"}}
	t := time.NewTicker(heapPeriod)
	defer t.Stop()
	set, most := 100, min(loadGarbage, machineMemory()/loadPart)
	var last, returned uint64 // bytes allocated: when it was looked at, when memory was given back
	for {
		metrics.Read(heap)
		live, allocated := heap[0].Value.Uint64(), heap[1].Value.Uint64()
		// Every change stops the world for a moment: small ones are not worth it.
		if p := gcPercent(live, min(most, (allocated-last)*loadTime/uint64(heapPeriod/time.Second))); p > set+set/8 || p < set-set/8 {
			debug.SetGCPercent(p)
			set = p
		}
		if silent(allocated-last, allocated-returned) {
			debug.FreeOSMemory()
			returned = allocated
		}
		last = allocated
		select {
		case <-ctx.Done():
			return nil
		case <-t.C:
		}
	}
}

// silent reports whether memory should be given back, by what was allocated since the last look and since it last was.
func silent(lately, since uint64) bool { return lately < quiet && since > worthwhile }

// gcPercent is what Go calls GOGC: garbage in percent of what lives. load is the garbage that there is to be room for.
func gcPercent(live, load uint64) int {
	return int(max(leastGarbage, live/mostGarbage, load) * 100 / max(live, 4<<20))
}
