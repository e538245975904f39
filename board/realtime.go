package board

import (
	"context"
	"fmt"
	"time"

	"github.com/vauban-iot/vauban/rtos"
)

// What only real time needs stands in this file: the rest of the room may not look at the machine's clock.

type timers map[*time.Timer]struct{}

// Run drives the board in real time, through resets, until ctx ends. It returns a *CrashError as RunUntil does.
func (b *Board) Run(ctx context.Context) error {
	for {
		switch b.state {
		case off:
			return fmt.Errorf("board %s is off", b.cfg.Name)
		case crashed:
			return &CrashError{*b.crash}
		case waiting:
			select {
			case <-ctx.Done():
				return ctx.Err()
			case <-time.After(b.duration(b.wake - b.base)):
			}
			b.pass(b.wake)
			if err := b.boot(); err != nil {
				return err
			}
			continue
		}
		err := b.settle(b.kernel.Run(ctx))
		if err != nil || b.state == running {
			return err
		}
	}
}

// later lets isr happen as an interrupt c cycles from now, unless k is ended before.
func (b *Board) later(k *rtos.Kernel, c rtos.Cycles, isr func()) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.timers == nil {
		b.timers = make(timers)
	}
	if len(b.timers) >= maxStimuli {
		return fmt.Errorf("board %s: %d interrupts of peripherals wait already", b.cfg.Name, maxStimuli)
	}
	var t *time.Timer
	t = time.AfterFunc(b.duration(c), func() {
		b.mu.Lock()
		_, mine := b.timers[t]
		delete(b.timers, t)
		b.mu.Unlock()
		if mine {
			_ = k.Post(isr) // a kernel that takes no more interrupts loses this one, as a chip does
		}
	})
	b.timers[t] = struct{}{}
	return nil
}

// stopTimers ends what peripherals wait for. The caller holds mu.
func (b *Board) stopTimers() {
	for t := range b.timers { // in no order: all of them are stopped
		t.Stop()
	}
	clear(b.timers)
}
