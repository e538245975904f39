package rtos

import "math/bits"

func (b *bitmap) set(p uint32) {
	b.words[p/32] |= 1 << (p % 32)
	b.summary |= 1 << (p / 32)
}

func (b *bitmap) clear(p uint32) {
	b.words[p/32] &^= 1 << (p % 32)
	if b.words[p/32] == 0 {
		b.summary &^= 1 << (p / 32)
	}
}

func (b *bitmap) empty() bool { return b.summary == 0 }

// first is the best priority in a set that is not empty.
func (b *bitmap) first() uint32 {
	w := uint32(bits.TrailingZeros32(b.summary))
	return w*32 + uint32(bits.TrailingZeros32(b.words[w]))
}

// schedule runs threads until the run's limit, or the kernel stops. It stands on the goroutine that called run; threads
// come back to it when they give up the processor.
func (k *Kernel) schedule() {
	for {
		if k.now >= k.next || k.attention.Load() {
			k.observe()
			if k.pausing() {
				return
			}
		}
		t := k.execute
		if k.current != nil && k.preemptDisable != 0 {
			t = k.current // it stopped inside of a service, at the end of the last run
		}
		if t == nil {
			if k.current != nil {
				k.leave()
			}
			if !k.idle() {
				return
			}
			continue
		}
		if t != k.current {
			if k.current != nil {
				k.leave()
			}
			k.current = t
			t.runs++
			k.dispatches++
			k.slice = t.timeSlice
			k.masked = t.masked
			if k.cfg.StackChecking {
				k.checkStack(t)
			}
			k.trace(EventRunning, 0, 0, 0, 0)
			k.now += Cycles(k.costs.Switch)
			if k.now >= k.next || k.attention.Load() {
				continue // an interrupt came while the thread was restored
			}
		}
		if t == &k.timers.thread && k.expireInline() {
			continue
		}
		k.fiber = t
		if t.next == nil {
			t.begin()
		}
		if _, alive := t.next(); !alive {
			t.next, t.yield = nil, nil
		} else if t.state == Terminated {
			k.unwind(t) // it ended itself
		}
		k.fiber = nil
	}
}

// leave takes the processor from the current thread, which keeps what is left of its time slice.
func (k *Kernel) leave() {
	t := k.current
	if k.slice != 0 {
		t.timeSlice = k.slice
		k.slice = 0
	}
	t.masked = k.masked
	k.masked = false
	k.current = nil
}

// systemReturn gives the processor back to the scheduler. It returns when the thread is dispatched again. Called by the
// scheduler itself, or by what runs on its stack, it does nothing: the scheduler looks anyway.
func (k *Kernel) systemReturn() {
	t := k.fiber
	if t == nil || t != k.current {
		return
	}
	if k.cfg.StackChecking {
		k.checkStack(t)
	}
	k.leave()
	t.park()
}

// preemptCheck switches to the thread that should run, where that is allowed.
func (k *Kernel) preemptCheck() {
	if k.current != k.execute && k.systemState == 0 && k.preemptDisable == 0 {
		if k.perf&PerfThread != 0 {
			k.countReturn()
		}
		k.systemReturn()
	}
}

// systemResume makes t ready, or ends its being suspended under way. The caller incremented preemptDisable; it is
// decremented here (rtos §5).
func (k *Kernel) systemResume(t *Thread) {
	if t.timer.list != nil {
		t.timer.cancel()
	} else {
		t.timer.remaining = 0
	}
	before := t.state
	k.preemptDisable--
	switch {
	case t.suspending:
		if t.state != Completed && t.state != Terminated {
			if t.delayedSuspend {
				// It keeps suspending, now for the one who asked.
				t.delayedSuspend = false
				t.state = Suspended
			} else {
				t.suspending = false
				t.state = Ready
			}
			if k.perf&PerfThread != 0 {
				t.counts.Resumptions++
				k.totals.thread.Resumptions++
			}
		}
	case t.state == Ready:
	case t.delayedSuspend:
		t.delayedSuspend = false
		t.state = Suspended
	default:
		k.makeReady(t)
	}
	if k.tracer != nil {
		k.trace(EventThreadResume, t.addr, uint32(before), k.stackPointer(), k.execute.address())
	}
	k.preemptCheck()
}

func (k *Kernel) makeReady(t *Thread) {
	t.state = Ready
	if k.perf&PerfThread != 0 {
		t.counts.Resumptions++
		k.totals.thread.Resumptions++
	}
	p := t.priority
	head := k.ready[p]
	if head != nil {
		// Whoever is ahead at this priority, or holds a threshold, goes first.
		last := head.readyPrev
		last.readyNext, head.readyPrev = t, t
		t.readyPrev, t.readyNext = last, head
		return
	}
	k.ready[p] = t
	t.readyNext, t.readyPrev = t, t
	k.readyMap.set(p)
	if p >= k.highest {
		return
	}
	k.highest = p
	e := k.execute
	if e == nil {
		k.execute = t
		return
	}
	if p >= e.threshold {
		return
	}
	if e.threshold != e.priority {
		k.preempted.set(e.priority)
	}
	if k.perf&PerfThread != 0 {
		k.countPreemption(e, t)
	}
	k.execute = t
}

// systemSuspend takes t from the ready threads, unless its suspension was called off in a window. The caller
// set its state and suspending, and incremented preemptDisable; it is decremented here.
func (k *Kernel) systemSuspend(t *Thread) {
	k.unready(t)
	k.preemptCheck()
}

func (k *Kernel) unready(t *Thread) {
	if t == k.current {
		if r := t.timer.remaining; r != NoWait && r != WaitForever {
			k.timers.insert(&t.timer)
		}
		k.slice = t.newTimeSlice
	}
	k.preemptDisable--
	if k.perf&PerfThread != 0 {
		t.counts.Suspensions++
		k.totals.thread.Suspensions++
	}
	if !t.suspending {
		return
	}
	t.suspending = false
	k.remove(t)
	if k.tracer != nil {
		k.trace(EventThreadSuspend, t.addr, uint32(t.state), k.stackPointer(), k.execute.address())
	}
}

// remove takes t from its ready list, and finds who should run.
func (k *Kernel) remove(t *Thread) {
	p := t.priority
	if t.readyNext != t {
		t.readyNext.readyPrev = t.readyPrev
		t.readyPrev.readyNext = t.readyNext
		if k.ready[p] == t {
			k.ready[p] = t.readyNext
			k.preempted.clear(p)
		}
	} else {
		k.ready[p] = nil
		k.readyMap.clear(p)
		k.preempted.clear(p)
		if k.readyMap.empty() {
			k.highest = k.cfg.MaxPriorities
			k.execute = nil
			return
		}
		k.highest = k.readyMap.first()
	}
	if t != k.execute {
		return
	}
	k.execute = k.ready[k.highest]
	if k.preempted.empty() {
		return
	}
	k.preemptDisable++
	k.window(WindowSystemSuspend)
	k.preemptDisable--
	if k.preempted.empty() {
		return
	}
	// A thread that was preempted while it held a threshold goes on before ready threads that may not preempt it.
	q := k.preempted.first()
	if holder := k.ready[q]; holder != nil && k.highest >= holder.threshold {
		k.execute = holder
		k.preempted.clear(q)
	}
}

// Relinquish lets the other ready threads of the caller's priority run first, and, whatever the caller's threshold, those of
// higher priority. From an interrupt or without a thread it does nothing.
func (k *Kernel) Relinquish() {
	k.charge(k.costs.Thread)
	t := k.current
	if t == nil || k.systemState != 0 {
		return
	}
	k.slice = t.newTimeSlice
	if t.readyNext != t {
		k.ready[t.priority] = t.readyNext
		k.execute = t.readyNext
	}
	if k.highest < t.priority {
		k.execute = k.ready[k.highest]
	}
	if k.tracer != nil {
		k.trace(EventThreadRelinquish, k.stackPointer(), k.execute.address(), 0, 0)
	}
	if k.execute != t && k.preemptDisable == 0 {
		if k.perf&PerfThread != 0 {
			t.counts.Relinquishes++
			k.totals.thread.Relinquishes++
			k.totals.thread.NonIdleReturns++
		}
		k.systemReturn()
	}
}

// rotate is the end of the running thread's time slice, in the tick interrupt.
func (k *Kernel) rotate() {
	k.sliceOver = false
	t := k.current
	if t == nil || t.state != Ready {
		return
	}
	t.timeSlice = t.newTimeSlice
	k.slice = t.timeSlice
	if t.readyNext != t && t.priority == t.threshold {
		k.ready[t.priority] = t.readyNext
		k.execute = k.ready[k.highest]
		if k.perf&PerfThread != 0 {
			t.counts.TimeSlices++
			k.totals.thread.TimeSlices++
		}
	}
	if k.tracer != nil {
		k.trace(EventTimeSlice, k.execute.address(), k.systemState, k.preemptDisable, k.stackPointer())
	}
}
