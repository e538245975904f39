package rtos

import "iter"

// What follows is for those who watch a board from outside, and for tracers: unlike services it takes no time of the
// board's, so that looking changes nothing.

// Current is the thread that runs, or that an interrupt interrupted; nil when there is none.
func (k *Kernel) Current() *Thread { return k.current }

// Threads are the live threads in the order of their creation, the kernel's timer thread first.
func (k *Kernel) Threads() iter.Seq[*Thread] {
	return func(yield func(*Thread) bool) {
		for t, n := k.threads.first, k.threads.count; n > 0; n-- {
			next := t.node.next
			if !yield(t) {
				return
			}
			t = next
		}
	}
}

// Ticks is the tick counter, as Time tells it.
func (k *Kernel) Ticks() uint32 { return k.clock }

// State is what t does.
func (t *Thread) State() State { return t.state }

// Priority is t's effective priority and threshold, inherited or its own.
func (t *Thread) Priority() (priority, threshold uint32) { return t.priority, t.threshold }

// Runs says how often t was dispatched.
func (t *Thread) Runs() uint32 { return t.runs }
