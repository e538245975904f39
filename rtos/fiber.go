package rtos

import "iter"

// A thread runs as a coroutine that is made when it is first dispatched. next switches into it; yield, called by
// the thread itself, switches back to the scheduler. Neither allocates.

// begin makes the thread's coroutine.
func (t *Thread) begin() {
	t.killed = false
	t.next, _ = iter.Pull(t.main)
}

// park gives the processor to the scheduler, until the thread is switched to again.
func (t *Thread) park() {
	if !t.yield(struct{}{}) || t.killed {
		panic(killed{})
	}
}

func (t *Thread) main(yield func(struct{}) bool) {
	t.yield = yield
	t.ending = Completed
	if !t.guarded((*Thread).enter) {
		if t.killed || t.k.stop != nil {
			return
		}
		t.ending = Terminated
	}
	t.guarded((*Thread).finish)
}

// guarded reports whether f came to its end. A panic is reported; the unwinding of a thread that was ended stops here.
func (t *Thread) guarded(f func(*Thread)) (done bool) {
	defer func() {
		if done {
			return
		}
		// A nil value is Goexit, which goes on to whoever drives the kernel.
		if v := recover(); v != nil {
			if _, ok := v.(killed); !ok {
				t.k.fault(t, v)
			}
		}
	}()
	f(t)
	return true
}

// enter is where a thread begins.
func (t *Thread) enter() {
	if n := t.entryExit; n != nil {
		n(t, ThreadEntry)
	}
	t.entry(t.input)
}

// finish is what happens when the entry function returned.
func (t *Thread) finish() {
	k := t.k
	k.releaseMutexes(t)
	t.state = t.ending
	t.suspending = true
	t.timer.remaining = 0
	k.preemptDisable++
	k.window(WindowSuspend)
	if n := t.entryExit; n != nil {
		n(t, ThreadExit)
	}
	k.unready(t)
	if k.perf&PerfThread != 0 {
		k.countReturn()
	}
	if k.current == t {
		k.slice = 0
		k.leave()
	}
}

// maxRefusals is how often a thread may recover from its own end before it is left alone for ever.
const maxRefusals = 64

// unwind ends t's coroutine where it stands. Its deferred functions run, now; services that they call panic again.
func (k *Kernel) unwind(t *Thread) {
	if t.next == nil {
		return
	}
	next, now, nested := k.next, k.now, k.unwinding
	k.unwinding, k.next = t, 0
	t.killed = true
	t.refusals = 0
	t.next()
	t.next, t.yield = nil, nil
	k.unwinding, k.next, k.now = nested, next, now
}

// refuse is called when the thread that is being unwound calls a service.
func (k *Kernel) refuse(t *Thread) {
	if t.refusals++; t.refusals > maxRefusals {
		k.fault(t, "the thread recovers from its own end, again and again: its goroutine is lost")
		for {
			t.yield(struct{}{})
		}
	}
	panic(killed{})
}
