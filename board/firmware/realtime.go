package firmware

import (
	"context"
	"errors"
	"fmt"
	"runtime/debug"
	"time"

	"github.com/vauban-iot/vauban/rtos"
)

// What goes on in other goroutines stands in this file: the rest of the room may start none, and may not look at the machine's clock.

// awaitReal lets call run in a goroutine, while other threads go on. cancel ends ctx.
func (c *Caller) awaitReal(ctx context.Context, cancel context.CancelFunc, k *rtos.Kernel, call func(ctx context.Context) error) error {
	s := c.seat(k)
	r := result{done: make(chan struct{})}
	defer func() {
		cancel()
		<-r.done
	}()
	go r.run(ctx, k, s, call)
	if status := s.done.Get(rtos.WaitForever); status != rtos.Success {
		cancel()
		<-r.done
		for s.done.Get(rtos.NoWait) == rtos.Success { // it may have been put all the same
		}
		return fmt.Errorf("the thread's wait ended: %w", status.Err())
	}
	<-r.done
	if r.panicked != nil {
		panic(r.panicked)
	}
	return r.err
}

// result is what comes of a call in its goroutine.
type result struct {
	err      error
	panicked *Panic
	done     chan struct{}
}

// Panic is what a thread panics with whose call panicked in its goroutine.
type Panic struct {
	Value any
	Stack string // of the goroutine
}

func (p *Panic) Error() string { return fmt.Sprint(p.Value) }

var errExit = errors.New("the call ended its goroutine")

func (r *result) run(ctx context.Context, k *rtos.Kernel, s *seat, call func(ctx context.Context) error) {
	r.err = errExit // of runtime.Goexit
	func() {
		defer func() {
			if v := recover(); v != nil {
				r.panicked = &Panic{v, string(debug.Stack())}
			}
		}()
		r.err = call(ctx)
	}()
	defer close(r.done)
	for k.Post(func() { Must(s.done.Put()) }) != nil { // as many interrupts wait as the kernel takes
		select {
		case <-ctx.Done():
			return
		case <-time.After(time.Millisecond):
		}
	}
}
