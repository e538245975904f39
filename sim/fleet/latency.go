package fleet

import (
	"context"
	"math"
	"math/bits"
	"net"
	"sync/atomic"
	"time"

	"github.com/vauban-iot/vauban/board/network"
)

// timed is a board's network that takes the time, by the machine's clock, from what is written on a TCP connection to what comes next.
type timed struct {
	network.Stack
	run *run
}

func (t timed) Dial(ctx context.Context, nw, address string) (net.Conn, error) {
	c, err := t.Stack.Dial(ctx, nw, address)
	if err != nil || nw != "tcp" {
		return c, err
	}
	return &timedConn{Conn: c, run: t.run}, nil
}

type timedConn struct {
	net.Conn
	run     *run
	written atomic.Int64 // since the run began; 0: nothing that was not answered
}

func (c *timedConn) Write(b []byte) (int, error) {
	c.written.CompareAndSwap(0, int64(time.Since(c.run.begun))|1)
	return c.Conn.Write(b)
}

func (c *timedConn) Read(b []byte) (int, error) {
	n, err := c.Conn.Read(b)
	if at := c.written.Load(); n > 0 && at != 0 && c.written.CompareAndSwap(at, 0) {
		c.run.latency[c.run.step(c.run.now())].add(time.Since(c.run.begun) - time.Duration(at))
	}
	return n, err
}

// latencies counts how long messages took, in each step of a series. Anybody may add.
type latencies [steps]histogram

// histogram counts durations in classes of which each is at most an eighth longer than the one before.
type histogram [classes]atomic.Uint32

const (
	classBits = 3
	classes   = 27 << classBits // up to two minutes, in microseconds
)

func class(d time.Duration) int {
	us := uint64(max(d.Microseconds(), 0))
	if us < 1<<classBits {
		return int(us)
	}
	shift := bits.Len64(us) - 1 - classBits
	return min((shift+1)<<classBits|int(us>>shift&(1<<classBits-1)), classes-1)
}

// longest is the upper end of a class, in milliseconds.
func longest(class int) float64 {
	if class < 1<<classBits {
		return float64(class) / 1000
	}
	shift := class>>classBits - 1
	return float64(uint64(class&(1<<classBits-1)|1<<classBits)+1) * math.Pow(2, float64(shift)) / 1000
}

func (h *histogram) add(d time.Duration) { h[class(d)].Add(1) }

// sum sums up histograms.
func sum(hs []histogram) Latency {
	var counts [classes]int64
	var l Latency
	for i := range hs {
		for c := range hs[i] {
			n := int64(hs[i][c].Load())
			counts[c] += n
			l.Count += n
		}
	}
	seen := int64(0)
	for c, n := range counts {
		if n == 0 {
			continue
		}
		seen += n
		l.Max = longest(c)
		if l.P50 == 0 && seen*2 >= l.Count {
			l.P50 = l.Max
		}
		if l.P99 == 0 && seen*100 >= l.Count*99 {
			l.P99 = l.Max
		}
	}
	return l
}
