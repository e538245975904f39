package rtos

// wheelSlots is how far ahead the wheel looks, in ticks. What is further away goes round again.
const wheelSlots = 32

// wheel holds everything that waits for a tick: application timers, sleeps and timeouts (rtos §7).
type wheel struct {
	slots   [wheelSlots]slot
	current int
	expired bool // the current slot has something, and waits for the timer thread

	thread    Thread
	pending   slot     // expired, not yet processed
	again     slot     // the one being processed, when it is to be inserted again
	running   *timeout // the one being processed
	processed bool     // the timer thread's coroutine is in the middle of its work
}

// slot is a circular list of timeouts, first come first.
type slot struct {
	head  *timeout
	index int8 // in the wheel; negative for the two lists beside it
}

// timeout is what stands in the wheel: part of a Thread or of a Timer.
type timeout struct {
	remaining  uint32 // ticks
	reschedule uint32 // zero: once
	next, prev *timeout
	list       *slot // nil: not active
	thread     *Thread
	timer      *Timer
}

func (k *Kernel) initTimers() {
	w := &k.timers
	for i := range w.slots {
		w.slots[i].index = int8(i)
	}
	w.pending.index, w.again.index = -1, -1
	_ = k.createThread(&w.thread, ThreadConfig{
		Name: "System Timer Thread", Entry: k.expireForever, Stack: Region{controlStart - timerStack, timerStack},
	}, 0)
}

const timerStack = 1024

// insert puts t into the wheel, where it is not yet, when it has something to wait for.
func (w *wheel) insert(t *timeout) {
	if t.remaining == 0 || t.remaining == WaitForever || t.list != nil {
		return
	}
	s := &w.slots[(w.current+int(min(t.remaining, wheelSlots))-1)%wheelSlots]
	if s.head == nil {
		s.head, t.next, t.prev = t, t, t
	} else {
		last := s.head.prev
		last.next, s.head.prev = t, t
		t.next, t.prev = s.head, last
	}
	t.list = s
}

// cancel takes t out of the wheel.
func (t *timeout) cancel() {
	l := t.list
	if l == nil {
		return
	}
	if t.next == t {
		if l.head == t {
			l.head = nil
		}
	} else {
		t.next.prev = t.prev
		t.prev.next = t.next
		if l.head == t {
			t.next.list = l
			l.head = t.next
		}
	}
	t.list = nil
}

// ticksLeft is when t fires, if it is in the wheel.
func (w *wheel) ticksLeft(t *timeout) uint32 {
	left := uint32((int(t.list.index)-w.current+wheelSlots)%wheelSlots) + 1
	if t.remaining > wheelSlots {
		left += t.remaining - wheelSlots
	}
	return left
}

// tick is the kernel's part of a tick interrupt: the clock, the time slice, what expired, and then the end of the slice
// (rtos §5, §7).
func (k *Kernel) tick() {
	k.systemState++
	k.now += Cycles(k.costs.Interrupt)
	if f := k.cfg.OnTick; f != nil {
		f()
	}
	k.now += Cycles(k.costs.Tick)
	w := &k.timers
	k.clock++
	if k.slice != 0 {
		if k.slice--; k.slice == 0 {
			k.sliceOver = true
		}
	}
	if w.slots[w.current].head != nil {
		w.expired = true
	} else {
		w.current = (w.current + 1) % wheelSlots
	}
	if w.expired {
		k.preemptDisable++
		k.systemResume(&w.thread)
	}
	if k.sliceOver {
		k.rotate()
	}
	k.systemState--
}

// expireForever is the timer thread: callbacks and timeouts run in it, at priority 0.
func (k *Kernel) expireForever(uint32) {
	w := &k.timers
	for {
		w.processed = true
		k.expireSlot()
		w.processed = false
		if !w.expired {
			k.suspendTimerThread()
			k.systemReturn()
		}
	}
}

func (k *Kernel) suspendTimerThread() {
	t := &k.timers.thread
	t.state = Suspended
	t.suspending = true
	k.preemptDisable++
	k.window(WindowSuspend)
	k.unready(t)
}

// expireInline does the timer thread's work without switching to it, when there are no callbacks in it but only threads to
// wake. Nothing can preempt the timer thread, so nobody can tell the difference.
func (k *Kernel) expireInline() bool {
	w := &k.timers
	if w.processed {
		return false
	}
	if head := w.slots[w.current].head; head != nil {
		for t := head; ; {
			if t.timer != nil {
				return false
			}
			if t = t.next; t == head {
				break
			}
		}
	}
	for {
		k.expireSlot()
		if !w.expired {
			break
		}
	}
	k.suspendTimerThread()
	if k.perf&PerfThread != 0 {
		k.countReturn()
	}
	if k.current == &w.thread {
		k.leave()
	}
	return true
}

// expireSlot processes all that is in the current slot.
func (k *Kernel) expireSlot() {
	w := &k.timers
	s := &w.slots[w.current]
	w.pending.head, s.head = s.head, nil
	if w.pending.head != nil {
		w.pending.head.list = &w.pending
	}
	w.current = (w.current + 1) % wheelSlots
	w.expired = false
	k.window(WindowTimerThread)
	for w.pending.head != nil {
		t := w.pending.head
		if t.next == t {
			w.pending.head = nil
		} else {
			t.next.prev = t.prev
			t.prev.next = t.next
			t.next.list = &w.pending
			w.pending.head = t.next
		}
		w.again.head = nil
		fires := t.remaining <= wheelSlots
		if fires {
			t.remaining = t.reschedule
		} else {
			t.remaining -= wheelSlots
		}
		if k.perf&PerfTimer != 0 {
			k.countExpiry(t, fires)
		}
		if t.remaining != 0 {
			// It is inserted again unless it is deactivated meanwhile.
			t.list, t.next, t.prev = &w.again, t, t
			w.again.head = t
		} else {
			t.list = nil
		}
		w.running = t
		k.now += Cycles(k.costs.Expiry)
		k.window(WindowTimerThread)
		if fires {
			if t.thread != nil {
				k.expire(t.thread)
			} else {
				t.timer.callback(t.timer.input)
			}
		}
		w.running = nil
		if w.again.head == t {
			if fires && k.perf&PerfTimer != 0 {
				k.totals.timer.Reactivates++
				if t.timer != nil {
					t.timer.counts.Reactivates++
				}
			}
			t.list = nil
			w.insert(t)
		}
		w.again.head = nil
		k.window(WindowTimerThread)
	}
}

// Timer calls a function after a number of ticks, once or again and again. Make it live with [Kernel.CreateTimer].
type Timer struct {
	object
	node     link[Timer]
	timeout  timeout
	callback func(input uint32)
	input    uint32
	counts   TimerPerformance
}

func (t *Timer) links() *link[Timer] { return t.node.links() }

func (t *Timer) bad() bool { return t == nil || t.k == nil }

const timerSize = 44

// CreateTimer makes t live: callback runs in the timer thread, at priority 0, after initial ticks and then every
// reschedule ticks (zero: once). activate is AutoActivate or NoActivate. Callers: initialization, threads.
func (k *Kernel) CreateTimer(t *Timer, name string, callback func(input uint32), input, initial, reschedule, activate uint32) Status {
	k.charge(k.costs.Call)
	if k.checked {
		switch {
		case t == nil || t.node.next != nil:
			return TimerError
		case initial == 0:
			return TickError
		case activate > AutoActivate:
			return ActivateError
		case !k.mayCreate():
			return CallerError
		}
	}
	*t = Timer{object: object{k: t.k, addr: t.addr}, callback: callback, input: input}
	t.timeout = timeout{remaining: initial, reschedule: reschedule, timer: t}
	k.adopt(&t.object, timerID, name, timerSize)
	link1(&k.appTimer, t)
	if k.tracer != nil {
		k.tracer.Created(t.describe())
		k.trace(EventTimerCreate, t.addr, initial, reschedule, activate)
	}
	if activate == AutoActivate {
		k.activate(t)
	}
	return Success
}

func (t *Timer) describe() ObjectInfo {
	return ObjectInfo{Kind: KindTimer, Address: t.addr, Name: t.name, Parameter1: t.timeout.remaining, Parameter2: t.timeout.reschedule}
}

func (k *Kernel) activate(t *Timer) {
	if k.perf&PerfTimer != 0 {
		t.counts.Activates++
		k.totals.timer.Activates++
	}
	k.timers.insert(&t.timeout)
}

// Activate starts a timer that is not active, with what remains. Callers: everybody.
func (t *Timer) Activate() Status {
	if t.bad() {
		return TimerError
	}
	k := t.k
	k.charge(k.costs.Call)
	if k.checked && t.id != timerID {
		return TimerError
	}
	k.trace(EventTimerActivate, t.addr, 0, 0, 0)
	if t.timeout.list != nil || t.timeout.remaining == 0 {
		return ActivateError
	}
	k.activate(t)
	return Success
}

// Deactivate stops a timer; the ticks that remain are kept for Activate. Callers: everybody.
func (t *Timer) Deactivate() Status {
	if t.bad() {
		return TimerError
	}
	k := t.k
	k.charge(k.costs.Call)
	if k.checked && t.id != timerID {
		return TimerError
	}
	if k.perf&PerfTimer != 0 {
		t.counts.Deactivates++
		k.totals.timer.Deactivates++
	}
	if k.tracer != nil {
		k.trace(EventTimerDeactivate, t.addr, k.stackPointer(), 0, 0)
	}
	o := &t.timeout
	if o.list == nil {
		return Success
	}
	switch {
	case o.list.index >= 0:
		o.remaining = k.timers.ticksLeft(o)
	case k.timers.running != o && o.remaining > wheelSlots:
		o.remaining -= wheelSlots
	default:
		o.remaining = o.reschedule
	}
	o.cancel()
	return Success
}

// Change gives a timer that is not active new ticks; an active one stays as it is, and the answer is Success all the same.
// Callers: threads, timers, interrupts.
func (t *Timer) Change(initial, reschedule uint32) Status {
	if t.bad() {
		return TimerError
	}
	k := t.k
	k.charge(k.costs.Call)
	if k.checked {
		switch {
		case t.id != timerID:
			return TimerError
		case initial == 0:
			return TickError
		case k.systemState >= InitializeInProgress:
			return CallerError
		}
	}
	k.trace(EventTimerChange, t.addr, initial, reschedule, 0)
	if t.timeout.list == nil {
		t.timeout.remaining, t.timeout.reschedule = initial, reschedule
	}
	return Success
}

// Delete ends t. Callers: threads.
func (t *Timer) Delete() Status {
	if t.bad() {
		return TimerError
	}
	k := t.k
	k.charge(k.costs.Call)
	if k.checked {
		switch {
		case t.id != timerID:
			return TimerError
		case !k.mayDelete():
			return CallerError
		}
	}
	t.timeout.cancel()
	if k.tracer != nil {
		k.trace(EventTimerDelete, t.addr, 0, 0, 0)
		k.tracer.Deleted(t.addr)
	}
	t.id = 0
	unlink1(&k.appTimer, t)
	return Success
}

// TimerInfo is what [Timer.Info] tells.
type TimerInfo struct {
	Name       string
	Active     bool
	Remaining  uint32
	Reschedule uint32
	Next       *Timer
}

// Info fills out, which may be nil. Callers: everybody.
func (t *Timer) Info(out *TimerInfo) Status {
	if t.bad() {
		return TimerError
	}
	k := t.k
	k.charge(k.costs.Call)
	if k.checked && t.id != timerID {
		return TimerError
	}
	if k.tracer != nil {
		k.trace(EventTimerInfo, t.addr, k.stackPointer(), 0, 0)
	}
	if out == nil {
		return Success
	}
	o := &t.timeout
	left := o.remaining
	if o.list != nil {
		switch {
		case o.list.index >= 0:
			left = k.timers.ticksLeft(o)
		case k.timers.running != o && left > wheelSlots:
			left -= wheelSlots
		default:
			left = 0
		}
	}
	*out = TimerInfo{t.name, o.list != nil, left, o.reschedule, t.node.next}
	return Success
}

// Time is the tick counter. Callers: everybody.
func (k *Kernel) Time() uint32 {
	k.charge(k.costs.Call)
	if k.tracer != nil {
		k.trace(EventTimeGet, k.clock, k.stackPointer(), 0, 0)
	}
	return k.clock
}

// SetTime sets the tick counter. Timers are not disturbed. Callers: threads, timers, interrupts.
func (k *Kernel) SetTime(ticks uint32) {
	k.charge(k.costs.Call)
	k.trace(EventTimeSet, ticks, 0, 0, 0)
	k.clock = ticks
}
