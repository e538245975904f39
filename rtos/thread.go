package rtos

// Thread is a thread's control block. Make it live with [Kernel.CreateThread].
type Thread struct {
	object
	node link[Thread]

	// The scheduler's.
	state              State
	suspending         bool // its suspension is under way
	delayedSuspend     bool // to be suspended when its wait ends
	masked             bool // it disabled interrupts
	killed             bool
	ending             State
	priority           uint32 // effective
	threshold          uint32
	userPriority       uint32 // without inheritance
	userThreshold      uint32
	inheritPriority    uint32 // MaxPriorities: none
	timeSlice          uint32
	newTimeSlice       uint32
	runs               uint32
	readyNext          *Thread
	readyPrev          *Thread
	next               func() (struct{}, bool)
	yield              func(struct{}) bool
	refusals           int
	timer              timeout
	waiting            waiter // the object it waits for
	waitNext, waitPrev *Thread
	status             Status // what the wait ends with
	front              bool   // it waits to send to the front
	wanted             uint32 // event flags, or bytes
	option             uint32
	got                uint32 // event flags, or where memory is
	message            [maxWords]uint32
	owned              *Mutex
	ownedCount         uint32

	entry     func(input uint32)
	input     uint32
	entryExit func(*Thread, uint32)
	stack     stack
	counts    ThreadPerformance
}

func (t *Thread) links() *link[Thread] { return t.node.links() }

func (t *Thread) address() uint32 {
	if t == nil {
		return 0
	}
	return t.addr
}

// waiter is an object that threads wait for. cleanup takes a thread off its list when the wait ends otherwise than by
// the object: by timeout, abort or termination.
type waiter interface{ cleanup(t *Thread) }

// What an entry and exit callback is told.
const (
	ThreadEntry uint32 = 0
	ThreadExit  uint32 = 1
)

// Threshold is a preemption-threshold: only threads of higher priority, that is of a lower number, may preempt.
// The zero value is the thread's own priority, ordinary preemption.
type Threshold uint32

// PreemptBelow makes the threshold n: only threads whose priority number is below n may preempt.
func PreemptBelow(n uint32) Threshold { return Threshold(n + 1) }

// ThreadConfig says what a thread is made of.
type ThreadConfig struct {
	Name      string
	Entry     func(input uint32)
	Input     uint32
	Stack     Region // from Reserve or a pool; the minimum is Config.MinimumStack
	Priority  uint32
	Threshold Threshold
	TimeSlice uint32 // ticks before threads of the same priority get their turn; zero: none
	Start     uint32 // DontStart (the thread is suspended) or AutoStart
}

// threadSize and its like are the sizes of ThreadX's control blocks on a 32-bit board, in bytes.
const threadSize = 176

// CreateThread makes t live. Callers: initialization, threads.
func (k *Kernel) CreateThread(t *Thread, c ThreadConfig) Status {
	k.charge(k.costs.Thread)
	threshold := c.Priority
	if c.Threshold != 0 {
		threshold = uint32(c.Threshold - 1)
	}
	if k.checked {
		switch {
		case t == nil || t.node.next != nil:
			return ThreadError
		case c.Stack.Start == 0 || k.stackInUse(c.Stack) || c.Entry == nil:
			return PtrError
		case c.Stack.Size < k.cfg.MinimumStack:
			return SizeError
		case c.Priority >= k.cfg.MaxPriorities:
			return PriorityError
		case threshold > c.Priority:
			return ThresholdError
		case c.Start > AutoStart:
			return StartError
		case !k.mayCreate():
			return CallerError
		}
	}
	return k.createThread(t, c, threshold)
}

func (k *Kernel) createThread(t *Thread, c ThreadConfig, threshold uint32) Status {
	*t = Thread{
		object: object{k: t.k, addr: t.addr},
		entry:  c.Entry, input: c.Input,
		priority: c.Priority, userPriority: c.Priority, threshold: threshold, userThreshold: threshold,
		inheritPriority: k.cfg.MaxPriorities, timeSlice: c.TimeSlice, newTimeSlice: c.TimeSlice, state: Suspended,
	}
	t.timer.thread = t
	t.stack.build(k, c.Stack)
	k.adopt(&t.object, threadID, c.Name, threadSize)
	link1(&k.threads, t)
	if k.tracer != nil {
		k.tracer.Created(t.describe())
		k.trace(EventThreadCreate, t.addr, c.Priority, c.Stack.Start, c.Stack.Size)
	}
	k.preemptDisable++
	if c.Start == AutoStart {
		k.resumeIgnoringThreshold(t, WindowThreadCreate)
		return Success
	}
	k.window(WindowThreadCreate)
	k.preemptDisable--
	k.preemptCheck()
	return Success
}

// resumeIgnoringThreshold resumes t. Until initialization ends, thresholds do not count: the first thread to run is the one with the
// highest priority (rtos §4).
func (k *Kernel) resumeIgnoringThreshold(t *Thread, w Window) {
	e := k.execute
	if k.systemState < InitializeInProgress || e == nil {
		k.window(w)
		k.systemResume(t)
		return
	}
	saved := e.threshold
	e.threshold = e.priority
	k.systemResume(t)
	e.threshold = saved
}

func (t *Thread) describe() ObjectInfo {
	return ObjectInfo{Kind: KindThread, Address: t.addr, Name: t.name, Parameter1: t.stack.Start, Parameter2: t.stack.Size, Priority: t.priority}
}

// bad reports that t is no thread of a kernel, for services that check nothing else first.
func (t *Thread) bad() bool { return t == nil || t.k == nil }

// Delete takes a completed or terminated thread out of its kernel. Callers: threads, timers.
func (t *Thread) Delete() Status {
	if t.bad() {
		return ThreadError
	}
	k := t.k
	k.charge(k.costs.Thread)
	if k.checked {
		switch {
		case k.systemState != 0:
			return CallerError
		case t.id != threadID:
			return ThreadError
		}
	}
	if t.state != Completed && t.state != Terminated {
		return DeleteError
	}
	if k.tracer != nil {
		k.trace(EventThreadDelete, t.addr, k.stackPointer(), 0, 0)
		k.tracer.Deleted(t.addr)
	}
	t.id = 0
	unlink1(&k.threads, t)
	return Success
}

// Suspend suspends t: at once when it is ready, at the end of its wait when it waits. Callers: everybody.
func (t *Thread) Suspend() Status {
	if t.bad() {
		return ThreadError
	}
	k := t.k
	k.charge(k.costs.Thread)
	if k.checked && t.id != threadID {
		return ThreadError
	}
	if k.tracer != nil {
		k.trace(EventThreadSuspendAPI, t.addr, uint32(t.state), k.stackPointer(), 0)
	}
	switch t.state {
	case Ready:
		if k.systemState == 0 && k.current == t && k.preemptDisable != 0 {
			return SuspendError
		}
		t.state = Suspended
		t.suspending = true
		t.timer.remaining = 0
		k.preemptDisable++
		k.window(WindowThreadSuspend)
		k.systemSuspend(t)
		return Success
	case Terminated, Completed:
		return SuspendError
	case Suspended:
		return Success
	}
	t.delayedSuspend = true
	return Success
}

// Resume makes a suspended thread ready. When t still waits and was to be suspended afterwards, that is called off:
// SuspendLifted. Callers: everybody.
func (t *Thread) Resume() Status {
	if t.bad() {
		return ThreadError
	}
	k := t.k
	k.charge(k.costs.Thread)
	if k.checked && t.id != threadID {
		return ThreadError
	}
	if k.tracer != nil {
		k.trace(EventThreadResumeAPI, t.addr, uint32(t.state), k.stackPointer(), 0)
	}
	switch {
	case t.state == Suspended:
		k.preemptDisable++
		k.resumeIgnoringThreshold(t, WindowResume)
		return Success
	case t.delayedSuspend:
		t.delayedSuspend = false
		return SuspendLifted
	}
	return ResumeError
}

// Sleep suspends the caller for a number of ticks. The first may be a short one. Callers: threads.
func (k *Kernel) Sleep(ticks uint32) Status {
	k.charge(k.costs.Thread)
	t := k.current
	switch {
	case !k.mayWait():
		return CallerError
	case ticks == 0:
		return Success
	case k.preemptDisable != 0:
		return CallerError
	}
	if k.tracer != nil {
		k.trace(EventThreadSleep, ticks, uint32(t.state), k.stackPointer(), 0)
	}
	t.state = Sleeping
	t.waiting = nil
	t.suspending = true
	t.status = Success
	t.timer.remaining = ticks
	k.preemptDisable++
	k.window(WindowSuspend)
	k.systemSuspend(t)
	return t.status
}

// wait suspends the current thread in state until the object wakes it or ticks pass, and answers how that ended. The caller put it on
// the object's list.
func (k *Kernel) wait(t *Thread, o waiter, state State, ticks uint32) {
	t.waiting = o
	t.state = state
	t.suspending = true
	t.timer.remaining = ticks
	k.preemptDisable++
	k.window(WindowSuspend)
}

// wake makes a waiter ready, with its wait's status.
func (k *Kernel) wake(t *Thread, s Status) {
	t.waiting = nil
	t.status = s
	k.preemptDisable++
	k.window(WindowResume)
	k.systemResume(t)
}

// expire is the end of a thread's timeout or sleep.
func (k *Kernel) expire(t *Thread) {
	if t.state == Sleeping {
		k.preemptDisable++
		k.window(WindowResume)
		k.systemResume(t)
		return
	}
	if k.perf&PerfThread != 0 {
		t.counts.Timeouts++
		k.totals.thread.Timeouts++
	}
	if o := t.waiting; o != nil {
		o.cleanup(t)
	}
}

// WaitAbort ends t's wait or sleep with WaitAborted. Callers: everybody.
func (t *Thread) WaitAbort() Status {
	if t.bad() {
		return ThreadError
	}
	k := t.k
	k.charge(k.costs.Thread)
	if k.checked && t.id != threadID {
		return ThreadError
	}
	k.trace(EventThreadWaitAbort, t.addr, uint32(t.state), 0, 0)
	if t.state < Sleeping {
		return WaitAbortError
	}
	k.preemptDisable++
	switch {
	case t.state == Sleeping:
		t.state = Suspended
		t.status = WaitAborted
		t.waiting = nil
		k.window(WindowResume)
	case t.waiting == nil:
		k.window(WindowResume) // its wait ended already
	default:
		t.state = Suspended
		t.status = WaitAborted
		o := t.waiting
		k.window(WindowResume)
		o.cleanup(t)
	}
	if t.status != WaitAborted {
		k.preemptDisable--
		return WaitAbortError
	}
	if k.perf&PerfThread != 0 {
		t.counts.WaitAborts++
		k.totals.thread.WaitAborts++
	}
	k.systemResume(t)
	return Success
}

// Terminate ends t for good, whatever it does; mutexes that it owns are released. A thread that ended already stays as it is.
// The thread's deferred functions run before Terminate returns. Callers: threads, timers.
func (t *Thread) Terminate() Status {
	if t.bad() {
		return ThreadError
	}
	k := t.k
	k.charge(k.costs.Thread)
	if k.checked {
		switch {
		case t.id != threadID:
			return ThreadError
		case k.systemState != 0:
			return CallerError
		}
	}
	t.timer.cancel()
	if k.tracer != nil {
		k.trace(EventThreadTerminate, t.addr, uint32(t.state), k.stackPointer(), 0)
	}
	if t.state != Terminated && t.state != Completed {
		k.preemptDisable++
		if t.state == Ready {
			t.state = Terminated
			t.suspending = true
			t.timer.remaining = 0
			k.preemptDisable++
			k.window(WindowSuspend)
			if n := t.entryExit; n != nil {
				n(t, ThreadExit)
			}
			k.systemSuspend(t)
		} else {
			t.state = Terminated
			t.suspending = true
			o := t.waiting
			k.window(WindowSuspend)
			if o != nil {
				o.cleanup(t)
			}
			t.suspending = false
			if n := t.entryExit; n != nil {
				n(t, ThreadExit)
			}
		}
		k.releaseMutexes(t)
		if t != k.fiber {
			k.unwind(t)
			if t == k.current {
				k.leave() // it stood where the last run ended
			}
		}
		k.preemptDisable--
	}
	k.preemptCheck()
	return Success
}

// Reset prepares a completed or terminated thread to run again from its start; it is suspended. Callers: threads.
func (t *Thread) Reset() Status {
	if t.bad() {
		return ThreadError
	}
	k := t.k
	k.charge(k.costs.Thread)
	if k.checked {
		switch {
		case t.id != threadID:
			return ThreadError
		case !k.mayDelete():
			return CallerError
		}
	}
	if t == k.current || t.state != Completed && t.state != Terminated {
		return NotDone
	}
	t.stack.build(k, t.stack.Region)
	t.state = Suspended
	k.trace(EventThreadReset, t.addr, uint32(t.state), 0, 0)
	return Success
}

// ChangePriority gives t a new priority, and the same threshold. old gets the one before. A ready thread goes behind others
// of its new priority; a running one goes on as long as nobody better is ready. Callers: threads, timers.
func (t *Thread) ChangePriority(priority uint32, old *uint32) Status {
	if t.bad() {
		return ThreadError
	}
	k := t.k
	k.charge(k.costs.Thread)
	if k.checked {
		switch {
		case t.id != threadID:
			return ThreadError
		case old == nil:
			return PtrError
		case priority >= k.cfg.MaxPriorities:
			return PriorityError
		case k.systemState != 0:
			return CallerError
		}
	}
	*old = t.userPriority
	k.trace(EventThreadPriorityChange, t.addr, priority, t.priority, uint32(t.state))
	if t.state != Ready {
		t.setUserPriority(priority)
		return Success
	}
	e, before := k.execute, t.priority
	k.preemptDisable += 3
	t.state = PriorityChange
	t.suspending = true
	t.timer.remaining = 0
	k.window(WindowThreadSuspend)
	k.systemSuspend(t)
	t.setUserPriority(priority)
	k.systemResume(t)
	k.preemptDisable--
	if n := k.execute; t != n && t.state == Ready && t.priority <= n.priority && t == e {
		k.execute = t
		if before < priority {
			k.ready[t.priority] = t
		}
	}
	k.preemptCheck()
	return Success
}

func (t *Thread) setUserPriority(p uint32) {
	t.userPriority, t.userThreshold = p, p
	t.priority = min(p, t.inheritPriority)
	t.threshold = t.priority
}

// ChangeThreshold gives t a new preemption-threshold, a priority number not above its own priority's. old gets the one
// before. A ready thread that it now lets through runs at once. Callers: threads, timers.
func (t *Thread) ChangeThreshold(threshold uint32, old *uint32) Status {
	if t.bad() {
		return ThreadError
	}
	k := t.k
	k.charge(k.costs.Thread)
	if k.checked {
		switch {
		case t.id != threadID:
			return ThreadError
		case old == nil:
			return PtrError
		case k.systemState != 0:
			return CallerError
		}
	}
	k.trace(EventThreadPreemptionChange, t.addr, threshold, t.threshold, uint32(t.state))
	if threshold > t.userPriority {
		return ThresholdError
	}
	if t.userPriority == threshold && k.ready[t.priority] == t {
		k.preempted.clear(t.priority)
	}
	*old = t.userThreshold
	t.userThreshold = threshold
	t.threshold = min(threshold, t.inheritPriority)
	if k.highest >= t.priority || k.highest >= threshold || k.execute != t {
		return Success
	}
	if t.threshold != t.priority {
		k.preempted.set(t.priority)
	}
	if k.perf&PerfThread != 0 {
		k.countPreemption(t, k.ready[k.highest])
	}
	k.execute = k.ready[k.highest]
	k.preemptCheck()
	return Success
}

// ChangeTimeSlice gives t a new time slice in ticks, which starts now. old gets the one before. Callers: threads, timers.
func (t *Thread) ChangeTimeSlice(ticks uint32, old *uint32) Status {
	if t.bad() {
		return ThreadError
	}
	k := t.k
	k.charge(k.costs.Thread)
	if k.checked {
		switch {
		case t.id != threadID:
			return ThreadError
		case old == nil:
			return PtrError
		case k.systemState != 0:
			return CallerError
		}
	}
	k.trace(EventThreadTimeSliceChange, t.addr, ticks, t.newTimeSlice, 0)
	*old = t.newTimeSlice
	t.timeSlice, t.newTimeSlice = ticks, ticks
	if t == k.current {
		k.slice = ticks
	}
	return Success
}

// EntryExitNotify registers f to be called when t begins and when it ends, with ThreadEntry or ThreadExit; nil for nobody.
func (t *Thread) EntryExitNotify(f func(*Thread, uint32)) Status {
	if t.bad() {
		return ThreadError
	}
	k := t.k
	k.charge(k.costs.Call)
	if k.checked && t.id != threadID {
		return ThreadError
	}
	if !k.notify {
		return FeatureNotEnabled
	}
	if k.tracer != nil {
		k.trace(EventThreadEntryExitNotify, t.addr, uint32(t.state), k.stackPointer(), 0)
	}
	t.entryExit = f
	return Success
}

// Identify is the thread that runs, or that an interrupt interrupted; nil when there is none.
func (k *Kernel) Identify() *Thread {
	k.charge(k.costs.Call)
	k.trace(EventThreadIdentify, 0, 0, 0, 0)
	return k.current
}

// ThreadInfo is what [Thread.Info] tells.
type ThreadInfo struct {
	Name          string
	State         State
	RunCount      uint32
	Priority      uint32 // its own, without inheritance
	Threshold     uint32
	TimeSlice     uint32 // ticks left
	Next          *Thread
	NextSuspended *Thread // the next in the list of who waits for the same object
}

// Info fills out, which may be nil. Callers: everybody.
func (t *Thread) Info(out *ThreadInfo) Status {
	if t.bad() {
		return ThreadError
	}
	k := t.k
	k.charge(k.costs.Call)
	if k.checked && t.id != threadID {
		return ThreadError
	}
	k.trace(EventThreadInfo, t.addr, uint32(t.state), 0, 0)
	if out != nil {
		*out = ThreadInfo{t.name, t.state, t.runs, t.userPriority, t.userThreshold, t.timeSlice, t.node.next, t.waitNext}
	}
	return Success
}
