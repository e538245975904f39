// Package firmware is what firmwares in Go on a virtual board share: how a thread of the kernel calls what blocks, such as
// a network; how it hears of what other goroutines have for it; and how long it waits before it tries again.
//
// A thread never waits for a goroutine by itself: while a thread of a kernel stands still, all of them do. [Caller.Await] is the
// way around that, in both kinds of time.
//
// In real time the call runs in a goroutine, and the thread waits for a semaphore that is put by an interrupt when it
// is done. Other threads go on.
//
// In virtual time the call runs to its end at once, while the board's clock stands still, and then a latency passes that the
// seed chooses. So what a board does depends on what a call answered and never on how long this machine took for it: the same
// seed and the same answers give the same run, byte for byte.
//
// What others have for a board by themselves, such as a hub's commands, comes by an [Inbox] at the next moment at which the kernel
// looks. In virtual time that moment is whichever the clock happens to be at, and such runs do not repeat.
//
// A board may be reset, or crash, at any call. Threads then end where they stand with their deferred functions run, as in a panic, so what a
// firmware opened it closes with defer; services of the kernel do not return any more in there. Await ends its own call this way:
// its context is cancelled, and nothing is left of it when the next kernel starts.
package firmware

import (
	"context"
	"fmt"
	"time"

	"github.com/vauban-iot/vauban/board"
	"github.com/vauban-iot/vauban/board/chance"
	"github.com/vauban-iot/vauban/rtos"
)

// Caller lets threads of one board's firmware call what blocks. It lives over resets.
type Caller struct {
	board *board.Board
	ctx   context.Context
	// Delay is what the n-th call takes besides in virtual time, such as by the way to the platform; nil: nothing.
	Delay func(n uint64) time.Duration
	seed  uint64
	calls uint64 // since the board was made: each has a latency of its own

	kernel *rtos.Kernel
	seats  []*seat // of the kernel's threads that have called
}

// seat is where a thread waits for its call in real time.
type seat struct {
	thread *rtos.Thread
	done   rtos.Semaphore
}

// New returns a Caller for b. When ctx ends so do all calls, those that are still to come at once.
func New(ctx context.Context, b *board.Board) *Caller {
	return &Caller{board: b, ctx: ctx, seed: chance.Seed(b.Config().Seed, "latency")}
}

// maxSeats is how many threads of a kernel may call.
const maxSeats = 64

// Await calls call for the thread that runs, and returns what it returns. Only threads may. call must end soon once its context
// does, and may use nothing of the kernel. A panic in it is one of the thread.
//
// In virtual time half to one and a half of typical pass after call has returned, and what Delay says.
func (c *Caller) Await(typical time.Duration, call func(ctx context.Context) error) error {
	k := c.board.Kernel()
	if k == nil || k.Current() == nil || k.SystemState() != 0 {
		panic("firmware: only a thread may await something")
	}
	ctx, cancel := context.WithCancel(c.ctx)
	defer cancel()
	if !c.board.Config().RealTime {
		err := call(ctx)
		if latency := c.latency(typical); latency > 0 {
			_ = k.Sleep(Ticks(k, latency)) // aborted or not, the call is over
		}
		return err
	}
	return c.awaitReal(ctx, cancel, k, call)
}

func (c *Caller) latency(typical time.Duration) time.Duration {
	c.calls++
	d := typical/2 + time.Duration(chance.Unit(c.seed, c.calls)*float64(typical))
	if c.Delay != nil {
		d += c.Delay(c.calls)
	}
	return d
}

// seat is the one of the present thread.
func (c *Caller) seat(k *rtos.Kernel) *seat {
	if c.kernel != k {
		c.kernel, c.seats = k, nil
	}
	t := k.Current()
	for _, s := range c.seats {
		if s.thread == t {
			return s
		}
	}
	if len(c.seats) == maxSeats {
		panic(fmt.Sprintf("firmware: more than %d threads of one kernel await something", maxSeats))
	}
	s := &seat{thread: t}
	Must(k.CreateSemaphore(&s.done, "await "+t.Name(), 0))
	c.seats = append(c.seats, s)
	return s
}

// Must is for services of the kernel that do not fail in a firmware that is right: it crashes the board when one does.
func Must(s rtos.Status) {
	if s != rtos.Success {
		panic("a service of the kernel failed: " + s.String())
	}
}

// Ticks is how many ticks of k last at least d; 1 or more.
func Ticks(k *rtos.Kernel, d time.Duration) uint32 {
	tick := time.Second / time.Duration(k.Config().TicksPerSecond)
	return uint32(min(max((d+tick-1)/tick, 1), time.Duration(rtos.WaitForever-1)))
}
