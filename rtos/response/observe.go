package response

import (
	"github.com/vauban-iot/vauban/rtos"
	"github.com/vauban-iot/vauban/rtos/trace"
)

// Job is one job of a thread, in cycles of the board's clock.
type Job struct {
	Number  uint64      `json:"number"`
	Arrival rtos.Cycles `json:"arrivalCycles"`
	Release rtos.Cycles `json:"releaseCycles"` // its semaphore was put
	Start   rtos.Cycles `json:"startCycles"`   // the thread was dispatched with it
	Finish  rtos.Cycles `json:"finishCycles"`  // the thread asked for the next
}

// Response is how long the job took from its arrival.
func (j Job) Response() rtos.Cycles { return j.Finish - j.Arrival }

// Watch is a thread to observe: it does a job for each put of its semaphore, and between jobs waits there.
type Watch struct {
	Thread   *rtos.Thread
	Gate     *rtos.Semaphore
	Deadline rtos.Cycles
	Arrival  func(job uint64) rtos.Cycles // nil: a job arrives when it is released
}

// Observed is what was seen of one thread.
type Observed struct {
	Jobs   uint64 `json:"jobs"`
	Missed uint64 `json:"missed"`
	Worst  Job    `json:"worst"`
}

// maxPending bounds the released jobs of a thread that are remembered.
const maxPending = 4096

// Observer is a kernel's tracer that measures the jobs of threads. What it is told goes on to Next, and when a deadline is missed, at the first event after
// it, an event trace.EventDeadlineMissed goes there, too. It takes none of the board's time.
type Observer struct {
	Next    rtos.Tracer // nil: nobody
	OnWorst func(thread int, j Job)
	OnMiss  func(thread int, j Job)

	watches []watched
	nearest rtos.Cycles // the first deadline that may be missed
}

type watched struct {
	Watch
	Observed
	pending  []Job // released, the oldest first
	released uint64
	missed   uint64 // jobs before this were told to have missed, or finished
	waiting  bool   // it is at its semaphore
}

var _ rtos.Tracer = (*Observer)(nil)

// NewObserver makes an observer of threads, to be given to Kernel.SetTracer before their first job.
func NewObserver(ws ...Watch) *Observer {
	o := &Observer{nearest: ^rtos.Cycles(0)}
	for _, w := range ws {
		o.watches = append(o.watches, watched{Watch: w})
	}
	return o
}

// Observed is what was seen so far of the thread with a number, in the order of NewObserver.
func (o *Observer) Observed(thread int) Observed { return o.watches[thread].Observed }

// Created is called by the kernel.
func (o *Observer) Created(i rtos.ObjectInfo) {
	if o.Next != nil {
		o.Next.Created(i)
	}
}

// Deleted is called by the kernel.
func (o *Observer) Deleted(address uint32) {
	if o.Next != nil {
		o.Next.Deleted(address)
	}
}

// Event is called by the kernel.
func (o *Observer) Event(e rtos.Event) {
	if o.Next != nil {
		o.Next.Event(e)
	}
	if e.Time > o.nearest {
		o.late(e)
	}
	switch e.ID {
	case rtos.EventSemaphorePut:
		for i := range o.watches {
			w := &o.watches[i]
			if w.Gate.Address() != e.Info[0] || len(w.pending) == maxPending {
				continue
			}
			j := Job{Number: w.released, Arrival: e.Time, Release: e.Time}
			if w.Arrival != nil {
				j.Arrival = w.Arrival(w.released)
			}
			w.released++
			w.pending = append(w.pending, j)
			o.nearest = min(o.nearest, j.Arrival+w.Deadline)
		}
	case rtos.EventRunning:
		for i := range o.watches {
			if w := &o.watches[i]; w.Thread.Address() == e.Thread && len(w.pending) > 0 && w.pending[0].Start == 0 {
				w.pending[0].Start = e.Time
			}
		}
	case rtos.EventSemaphoreGet:
		for i := range o.watches {
			if w := &o.watches[i]; w.Gate.Address() == e.Info[0] && w.Thread.Address() == e.Thread {
				o.next(i, e)
			}
		}
	}
}

// next is a thread that is done with a job, or comes to its semaphore for the first time.
func (o *Observer) next(i int, e rtos.Event) {
	w := &o.watches[i]
	if !w.waiting {
		w.waiting = true
		return
	}
	if len(w.pending) == 0 {
		return
	}
	j := w.pending[0]
	j.Finish = e.Time
	if j.Start == 0 {
		j.Start = j.Release
	}
	w.pending = append(w.pending[:0], w.pending[1:]...)
	if len(w.pending) > 0 {
		w.pending[0].Start = e.Time // it goes on with the next at once
	}
	w.Jobs++
	if j.Response() > w.Worst.Response() {
		w.Worst = j
		if o.OnWorst != nil {
			o.OnWorst(i, j)
		}
	}
}

// late tells of all deadlines that passed with the job not done.
func (o *Observer) late(e rtos.Event) {
	o.nearest = ^rtos.Cycles(0)
	for i := range o.watches {
		w := &o.watches[i]
		for _, j := range w.pending {
			at := j.Arrival + w.Deadline
			switch {
			case j.Number < w.missed:
			case e.Time > at:
				w.missed = j.Number + 1
				w.Missed++
				if o.Next != nil {
					m := e
					m.ID = trace.EventDeadlineMissed
					m.Info = [4]uint32{w.Thread.Address(), uint32(j.Number), uint32(min(e.Time-j.Arrival, 0xFFFFFFFF)), uint32(min(w.Deadline, 0xFFFFFFFF))}
					o.Next.Event(m)
				}
				if o.OnMiss != nil {
					o.OnMiss(i, j)
				}
			default:
				o.nearest = min(o.nearest, at)
			}
		}
	}
}
