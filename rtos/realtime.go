package rtos

// This is the only file of the kernel that looks at the wall clock.

import (
	"context"
	"fmt"
	"math"
	"sync/atomic"
	"time"
)

// pacer drives a kernel in real time. A goroutine of its own looks at the monotonic clock twice in a tick and calls for the kernel's attention
// when a tick is due; the kernel takes it at its next call, or at once when idle. Where all processors are busy that goroutine may be
// late by many milliseconds, so a kernel that is busy looks at the clock by itself as well, every few dozen calls.
//
// A tick that is late, because the machine was busy or interrupts were disabled, is not lost: ticks that are
// missing are made up one at a time, half a tick apart, so that threads still run between them, in the order in which
// they would have run. Only when the kernel is more than maxBehind late are ticks dropped, and counted.
type pacer struct {
	k       *Kernel
	start   time.Time
	period  time.Duration
	taken   atomic.Int64 // ticks delivered or dropped
	last    time.Time    // when the last one was delivered
	wake    chan struct{}
	ended   atomic.Bool
	late    uint64
	dropped uint64
	jitter  uint32
}

// lookAfter is about how many cycles of calls pass before a busy kernel looks at the clock. The distance varies, so that ticks are
// noticed everywhere in a loop of calls.
func (p *pacer) lookAfter() Cycles {
	p.jitter = p.jitter*1664525 + 1013904223
	return 1024 + Cycles(p.jitter>>22)
}

const maxBehind = time.Second

func newPacer(k *Kernel) *pacer {
	return &pacer{k: k, period: k.Duration(k.tickCycles), wake: make(chan struct{}, 1)}
}

// Run drives the board in real time until ctx ends, the kernel is stopped, or a fault stops it. After ctx ended it may be run again; its clock
// stood still meanwhile.
func (k *Kernel) Run(ctx context.Context) error {
	p := k.real
	if p == nil {
		return fmt.Errorf("rtos: kernel of %s runs in virtual time: use RunUntil, or set Config.RealTime", k.cfg.Name)
	}
	p.ended.Store(false)
	p.start = time.Now().Add(-time.Duration(p.taken.Load()) * p.period)
	p.last = time.Now()
	stop := context.AfterFunc(ctx, func() {
		p.ended.Store(true)
		k.attention.Store(true)
		p.poke()
	})
	defer stop()
	done := make(chan struct{})
	stopped := make(chan struct{})
	go func() {
		defer close(stopped)
		p.pace(done)
	}()
	defer func() {
		close(done)
		<-stopped
	}()
	if err := k.run(math.MaxUint64); err != nil {
		return err
	}
	return ctx.Err()
}

// pace calls for attention when a tick is due, until done.
func (p *pacer) pace(done <-chan struct{}) {
	half := p.period / 2
	timer := time.NewTimer(half)
	defer timer.Stop()
	for {
		select {
		case <-done:
			return
		case <-timer.C:
		}
		passed := time.Since(p.start)
		if int64(passed/p.period) > p.taken.Load() {
			p.k.attention.Store(true)
			p.poke()
		}
		timer.Reset(half - passed%half)
	}
}

// poke wakes an idle kernel.
func (p *pacer) poke() {
	select {
	case p.wake <- struct{}{}:
	default:
	}
}

// now is the board's time.
func (p *pacer) now() Cycles {
	if p.start.IsZero() {
		return 0
	}
	return p.k.Cycles(time.Since(p.start))
}

// deliver takes one tick, if one is due and the last was not just now.
func (p *pacer) deliver() {
	k := p.k
	if p.ended.Load() {
		k.limit = 0
		k.rearm()
		return
	}
	now := time.Now()
	due := int64(now.Sub(p.start) / p.period)
	taken := p.taken.Load()
	defer k.rearm()
	if due <= taken || now.Sub(p.last) < p.period*3/8 {
		return
	}
	if behind := due - taken; behind > 1 {
		p.late++
		if most := max(int64(maxBehind/p.period), 1); behind > most {
			p.dropped += uint64(behind - most)
			taken = due - most
		}
	}
	p.taken.Store(taken + 1)
	p.last = now
	k.tick()
}

// idle sleeps until a tick, a posted interrupt or the end of the run.
func (p *pacer) idle() bool {
	if !p.k.attention.Load() && p.k.stop == nil {
		<-p.wake
	}
	return true
}

// compute keeps the processor busy for as long as c cycles last. Time in which other threads ran does not count.
func (p *pacer) compute(c Cycles) {
	k := p.k
	left := k.Duration(c)
	last := time.Now()
	for {
		if due := int64(last.Sub(p.start)/p.period) > p.taken.Load(); due || k.now >= k.next || k.attention.Load() {
			runs := k.dispatches
			k.observe()
			if runs != k.dispatches {
				last = time.Now()
			}
		}
		now := time.Now()
		if left -= now.Sub(last); left <= 0 {
			return
		}
		last = now
	}
}

// LateTicks says how many ticks came more than a whole tick late, and how many were dropped because the board was more than a
// second behind. Both stay 0 in virtual time.
func (k *Kernel) LateTicks() (late, dropped uint64) {
	if k.real == nil {
		return 0, 0
	}
	return k.real.late, k.real.dropped
}
