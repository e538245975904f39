package rtos

// Performance is a set of groups of counters (rtos §15).
type Performance uint8

// The groups, as ThreadX's TX_..._ENABLE_PERFORMANCE_INFO.
const (
	PerfThread Performance = 1 << iota
	PerfQueue
	PerfSemaphore
	PerfMutex
	PerfEvent
	PerfBlockPool
	PerfBytePool
	PerfTimer

	AllPerformance Performance = 0xFF
)

// ThreadPerformance counts what a thread did, and what was done to it.
type ThreadPerformance struct {
	Resumptions          uint32
	Suspensions          uint32
	SolicitedPreemptions uint32 // by what threads did
	InterruptPreemptions uint32 // by what interrupts did
	PriorityInversions   uint32
	TimeSlices           uint32
	Relinquishes         uint32
	Timeouts             uint32
	WaitAborts           uint32
	LastPreempting       *Thread // nil in the sums of the system
}

// ThreadSystemPerformance is the sum over all threads, and how often the processor was given back.
type ThreadSystemPerformance struct {
	ThreadPerformance
	NonIdleReturns uint32 // another thread was ready
	IdleReturns    uint32
}

// QueuePerformance counts what happened to a queue.
type QueuePerformance struct {
	Sent, Received, EmptySuspensions, FullSuspensions, FullErrors, Timeouts uint32
}

// SemaphorePerformance counts what happened to a semaphore.
type SemaphorePerformance struct{ Puts, Gets, Suspensions, Timeouts uint32 }

// MutexPerformance counts what happened to a mutex.
type MutexPerformance struct {
	Puts, Gets, Suspensions, Timeouts, Inversions, Inheritances uint32
}

// EventPerformance counts what happened to a group of event flags.
type EventPerformance struct{ Sets, Gets, Suspensions, Timeouts uint32 }

// BlockPoolPerformance counts what happened to a block pool.
type BlockPoolPerformance struct{ Allocates, Releases, Suspensions, Timeouts uint32 }

// BytePoolPerformance counts what happened to a byte pool.
type BytePoolPerformance struct {
	Allocates, Releases, Searched, Merges, Splits, Suspensions, Timeouts uint32
}

// TimerPerformance counts what happened to a timer; ExpirationAdjusts are the rounds of the wheel that a long timer waited.
type TimerPerformance struct {
	Activates, Reactivates, Deactivates, Expirations, ExpirationAdjusts uint32
}

type totals struct {
	thread    ThreadSystemPerformance
	queue     QueuePerformance
	semaphore SemaphorePerformance
	mutex     MutexPerformance
	event     EventPerformance
	block     BlockPoolPerformance
	byte      BytePoolPerformance
	timer     TimerPerformance
}

func (k *Kernel) countPreemption(of, by *Thread) {
	switch {
	case k.systemState == 0:
		of.counts.SolicitedPreemptions++
		k.totals.thread.SolicitedPreemptions++
	case k.systemState < InitializeInProgress:
		of.counts.InterruptPreemptions++
		k.totals.thread.InterruptPreemptions++
	}
	of.counts.LastPreempting = by
}

func (k *Kernel) countReturn() {
	if k.execute == nil {
		k.totals.thread.IdleReturns++
	} else {
		k.totals.thread.NonIdleReturns++
	}
}

func (k *Kernel) countExpiry(t *timeout, fires bool) {
	if fires {
		k.totals.timer.Expirations++
	} else {
		k.totals.timer.ExpirationAdjusts++
	}
	if t.timer == nil {
		return
	}
	if fires {
		t.timer.counts.Expirations++
	} else {
		t.timer.counts.ExpirationAdjusts++
	}
}

// performance is one PerformanceInfo service: FeatureNotEnabled unless its group is kept, PtrError for an object that
// is none.
func performance[T any](k *Kernel, group Performance, live bool, event EventID, addr uint32, from, to *T) Status {
	k.charge(k.costs.Call)
	if k.perf&group == 0 {
		return FeatureNotEnabled
	}
	if !live {
		return PtrError
	}
	k.trace(event, addr, 0, 0, 0)
	if to != nil {
		*to = *from
	}
	return Success
}

// ThreadPerformance copies the counters of o to out, which may be nil. It answers FeatureNotEnabled unless PerfThread is kept,
// PtrError when o is not a thread.
func (k *Kernel) ThreadPerformance(o *Thread, out *ThreadPerformance) Status {
	if o == nil || o.id != threadID {
		return performance[ThreadPerformance](k, PerfThread, false, 0, 0, nil, nil)
	}
	return performance(k, PerfThread, true, EventThreadPerf, o.addr, &o.counts, out)
}

// ThreadSystemPerformance copies the sums over all objects ever created to out, which may be nil.
func (k *Kernel) ThreadSystemPerformance(out *ThreadSystemPerformance) Status {
	return performance(k, PerfThread, true, EventThreadSystemPerf, 0, &k.totals.thread, out)
}

// QueuePerformance copies the counters of o to out, which may be nil. It answers FeatureNotEnabled unless PerfQueue is kept,
// PtrError when o is not a queue.
func (k *Kernel) QueuePerformance(o *Queue, out *QueuePerformance) Status {
	if o == nil || o.id != queueID {
		return performance[QueuePerformance](k, PerfQueue, false, 0, 0, nil, nil)
	}
	return performance(k, PerfQueue, true, EventQueuePerf, o.addr, &o.counts, out)
}

// QueueSystemPerformance copies the sums over all objects ever created to out, which may be nil.
func (k *Kernel) QueueSystemPerformance(out *QueuePerformance) Status {
	return performance(k, PerfQueue, true, EventQueueSystemPerf, 0, &k.totals.queue, out)
}

// SemaphorePerformance copies the counters of o to out, which may be nil. It answers FeatureNotEnabled unless PerfSemaphore is kept,
// PtrError when o is not a semaphore.
func (k *Kernel) SemaphorePerformance(o *Semaphore, out *SemaphorePerformance) Status {
	if o == nil || o.id != semaphoreID {
		return performance[SemaphorePerformance](k, PerfSemaphore, false, 0, 0, nil, nil)
	}
	return performance(k, PerfSemaphore, true, EventSemaphorePerf, o.addr, &o.counts, out)
}

// SemaphoreSystemPerformance copies the sums over all objects ever created to out, which may be nil.
func (k *Kernel) SemaphoreSystemPerformance(out *SemaphorePerformance) Status {
	return performance(k, PerfSemaphore, true, EventSemaphoreSystemPerf, 0, &k.totals.semaphore, out)
}

// MutexPerformance copies the counters of o to out, which may be nil. It answers FeatureNotEnabled unless PerfMutex is kept,
// PtrError when o is not a mutex.
func (k *Kernel) MutexPerformance(o *Mutex, out *MutexPerformance) Status {
	if o == nil || o.id != mutexID {
		return performance[MutexPerformance](k, PerfMutex, false, 0, 0, nil, nil)
	}
	return performance(k, PerfMutex, true, EventMutexPerf, o.addr, &o.counts, out)
}

// MutexSystemPerformance copies the sums over all objects ever created to out, which may be nil.
func (k *Kernel) MutexSystemPerformance(out *MutexPerformance) Status {
	return performance(k, PerfMutex, true, EventMutexSystemPerf, 0, &k.totals.mutex, out)
}

// EventFlagsPerformance copies the counters of o to out, which may be nil. It answers FeatureNotEnabled unless PerfEvent is kept,
// PtrError when o is not a group.
func (k *Kernel) EventFlagsPerformance(o *EventFlags, out *EventPerformance) Status {
	if o == nil || o.id != eventID {
		return performance[EventPerformance](k, PerfEvent, false, 0, 0, nil, nil)
	}
	return performance(k, PerfEvent, true, EventEventFlagsPerf, o.addr, &o.counts, out)
}

// EventFlagsSystemPerformance copies the sums over all objects ever created to out, which may be nil.
func (k *Kernel) EventFlagsSystemPerformance(out *EventPerformance) Status {
	return performance(k, PerfEvent, true, EventEventFlagsSystemPerf, 0, &k.totals.event, out)
}

// BlockPoolPerformance copies the counters of o to out, which may be nil. It answers FeatureNotEnabled unless PerfBlockPool is kept,
// PtrError when o is not a pool.
func (k *Kernel) BlockPoolPerformance(o *BlockPool, out *BlockPoolPerformance) Status {
	if o == nil || o.id != blockPoolID {
		return performance[BlockPoolPerformance](k, PerfBlockPool, false, 0, 0, nil, nil)
	}
	return performance(k, PerfBlockPool, true, EventBlockPoolPerf, o.addr, &o.counts, out)
}

// BlockPoolSystemPerformance copies the sums over all objects ever created to out, which may be nil.
func (k *Kernel) BlockPoolSystemPerformance(out *BlockPoolPerformance) Status {
	return performance(k, PerfBlockPool, true, EventBlockPoolSystemPerf, 0, &k.totals.block, out)
}

// BytePoolPerformance copies the counters of o to out, which may be nil. It answers FeatureNotEnabled unless PerfBytePool is kept,
// PtrError when o is not a pool.
func (k *Kernel) BytePoolPerformance(o *BytePool, out *BytePoolPerformance) Status {
	if o == nil || o.id != bytePoolID {
		return performance[BytePoolPerformance](k, PerfBytePool, false, 0, 0, nil, nil)
	}
	return performance(k, PerfBytePool, true, EventBytePoolPerf, o.addr, &o.counts, out)
}

// BytePoolSystemPerformance copies the sums over all objects ever created to out, which may be nil.
func (k *Kernel) BytePoolSystemPerformance(out *BytePoolPerformance) Status {
	return performance(k, PerfBytePool, true, EventBytePoolSystemPerf, 0, &k.totals.byte, out)
}

// TimerPerformance copies the counters of o to out, which may be nil. It answers FeatureNotEnabled unless PerfTimer is kept,
// PtrError when o is not a timer.
func (k *Kernel) TimerPerformance(o *Timer, out *TimerPerformance) Status {
	if o == nil || o.id != timerID {
		return performance[TimerPerformance](k, PerfTimer, false, 0, 0, nil, nil)
	}
	return performance(k, PerfTimer, true, EventTimerPerf, o.addr, &o.counts, out)
}

// TimerSystemPerformance copies the sums over all objects ever created to out, which may be nil.
func (k *Kernel) TimerSystemPerformance(out *TimerPerformance) Status {
	return performance(k, PerfTimer, true, EventTimerSystemPerf, 0, &k.totals.timer, out)
}
