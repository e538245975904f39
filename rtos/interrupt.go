package rtos

import (
	"fmt"
	"math"
	"sync"
)

// Window names a point inside of services where an interrupt may land (rtos §14.3), while the service has disabled preemption.
type Window uint8

// The windows. ThreadX built with TX_NOT_INTERRUPTABLE keeps only the first six.
const (
	WindowSemaphorePrioritize Window = iota // after each waiter looked at
	WindowQueuePrioritize
	WindowMutexPrioritize
	WindowBlockPoolPrioritize
	WindowBytePoolPrioritize
	WindowByteSearch    // after each fragment looked at; preemption is allowed there
	WindowEventSet      // before each waiter is looked at
	WindowThreadCreate  // before a new thread is started
	WindowThreadSuspend // before a ready thread is taken from its list: suspend, changes of priority
	WindowSystemSuspend // before a thread that holds a threshold is looked for
	WindowSuspend       // between a caller's being put on a wait list and its giving up the processor
	WindowResume        // between a waiter's being taken from a list and its becoming ready
	WindowMutexPut      // while the owner's priority is worked out
	WindowTimerThread   // around each callback
	numWindows
)

var windowWords = [numWindows]string{
	"semaphore prioritize", "queue prioritize", "mutex prioritize", "block pool prioritize", "byte pool prioritize", "byte pool search",
	"event flags set", "thread create", "thread suspend", "system suspend", "suspend", "resume", "mutex put", "timer thread",
}

func (w Window) String() string {
	if w < numWindows {
		return windowWords[w]
	}
	return "no window"
}

// Windows is a set of windows.
type Windows uint32

// In makes a set of windows.
func In(windows ...Window) Windows {
	var s Windows
	for _, w := range windows {
		s |= 1 << w
	}
	return s
}

const (
	NoWindows               Windows = 0                           // services are atomic
	NotInterruptableWindows Windows = 1<<(WindowByteSearch+1) - 1 // what TX_NOT_INTERRUPTABLE leaves
	AllWindows              Windows = 1<<numWindows - 1           // ThreadX's default build
)

// window lets interrupts in, if it is open.
func (k *Kernel) window(w Window) {
	if k.windows&(1<<w) != 0 {
		k.openWindow(w)
	}
}

func (k *Kernel) openWindow(w Window) {
	if k.systemState >= InitializeInProgress {
		return
	}
	if f := k.cfg.OnWindow; f != nil && k.systemState == 0 && !k.masked {
		f(w)
	}
	k.charge(k.costs.Window)
}

// Postures of InterruptControl, as on ThreadX's Linux port.
const (
	IntEnable  uint32 = 0
	IntDisable uint32 = 1
)

// InterruptControl disables or enables interrupts for the calling thread, and answers what it was before. Interrupts that
// come while they are disabled happen when they are enabled again. Another thread that runs meanwhile has its own posture. Callers:
// threads, timers, interrupts.
func (k *Kernel) InterruptControl(posture uint32) uint32 {
	k.charge(k.costs.Call)
	if k.tracer != nil {
		k.trace(EventInterruptControl, posture, k.stackPointer(), 0, 0)
	}
	before := IntEnable
	if k.masked {
		before = IntDisable
	}
	k.masked = posture == IntDisable
	if before == IntDisable && !k.masked && (k.now >= k.next || k.attention.Load()) {
		k.observe()
	}
	return before
}

// Interrupt is an interrupt, now: isr runs before Interrupt returns, with the system state raised, and if it made a better
// thread ready that one runs, too. While interrupts are disabled it waits until they are enabled. Inside of an interrupt it nests.
func (k *Kernel) Interrupt(isr func()) error {
	if k.masked && k.systemState == 0 {
		return k.At(k.now, isr)
	}
	k.isr(isr)
	if k.systemState == 0 && k.preemptDisable == 0 && k.fiber != nil && k.execute != k.fiber {
		k.systemReturn()
	}
	return nil
}

func (k *Kernel) isr(f func()) {
	masked := k.masked
	k.systemState++
	k.now += Cycles(k.costs.Interrupt)
	if k.tracer != nil {
		k.trace(EventISREnter, k.stackPointer(), 0, k.systemState, k.preemptDisable)
	}
	f()
	if k.tracer != nil {
		k.trace(EventISRExit, k.stackPointer(), 0, k.systemState, k.preemptDisable)
	}
	k.systemState--
	k.masked = masked // the interrupted thread's posture is restored with it
}

// At lets an interrupt happen at a time of the board's clock, in virtual time; a time that is over means now. Interrupts of one
// moment happen in the order of the calls, before that moment's tick. It is refused when Config.MaxInterrupts wait already.
func (k *Kernel) At(t Cycles, isr func()) error {
	if k.real != nil {
		return fmt.Errorf("rtos: kernel of %s runs in real time: use Post", k.cfg.Name)
	}
	k.sequence++
	if !k.waiting.push(pendingInterrupt{t, k.sequence, isr}) {
		return fmt.Errorf("rtos: kernel of %s: %d interrupts wait already (MaxInterrupts)", k.cfg.Name, k.waiting.max)
	}
	if k.running {
		k.rearm()
	}
	return nil
}

// Post lets an interrupt happen as soon as the kernel notices, and may be called from any goroutine. It is refused when
// Config.MaxInterrupts wait already. In virtual time the moment depends on the goroutines' timing: for runs that are to be repeated use At.
func (k *Kernel) Post(isr func()) error {
	if !k.posted.put(isr) {
		return fmt.Errorf("rtos: kernel of %s: %d posted interrupts wait already (MaxInterrupts)", k.cfg.Name, k.posted.max)
	}
	k.attention.Store(true)
	if k.real != nil {
		k.real.poke()
	}
	return nil
}

// mailbox is where other goroutines leave interrupts.
type mailbox struct {
	mu    sync.Mutex
	isrs  []func()
	spare []func()
	max   int
}

func (m *mailbox) put(f func()) bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	if len(m.isrs) >= m.max {
		return false
	}
	m.isrs = append(m.isrs, f)
	return true
}

func (m *mailbox) take() []func() {
	m.mu.Lock()
	defer m.mu.Unlock()
	taken := m.isrs
	m.isrs, m.spare = m.spare[:0], taken
	return taken
}

// pausing reports that the run is over for now.
func (k *Kernel) pausing() bool { return k.now >= k.limit || k.stop != nil }

// rearm works out when to look next.
func (k *Kernel) rearm() {
	if k.stop != nil {
		k.next = 0
		return
	}
	if k.real != nil {
		k.next = min(k.limit, k.now+k.real.lookAfter())
		return
	}
	k.next = min(k.limit, k.tickAt)
	if t, ok := k.waiting.first(); ok {
		k.next = min(k.next, t)
	}
}

// observe lets happen what is due: interrupts, and what they lead to. It is called wherever interrupts are
// enabled, on the running thread's stack or the scheduler's.
func (k *Kernel) observe() {
	if t := k.unwinding; t != nil {
		k.refuse(t)
	}
	if k.systemState != 0 {
		return
	}
	t := k.fiber
	for {
		if !k.masked && k.stop == nil {
			k.deliver()
		}
		if t == nil || !k.pausing() {
			break
		}
		t.park() // the end of a run; the next one goes on here
	}
	if t != nil && k.preemptDisable == 0 && k.execute != t {
		k.systemReturn()
	}
}

// deliver runs all interrupts that are due.
func (k *Kernel) deliver() {
	if k.attention.Load() {
		k.attention.Store(false)
		for _, f := range k.posted.take() {
			k.isr(f)
		}
	}
	if k.real != nil {
		k.real.deliver()
		return
	}
	for k.stop == nil {
		if t, ok := k.waiting.first(); ok && t <= k.now && t <= k.tickAt {
			k.isr(k.waiting.pop().isr)
		} else if k.tickAt <= k.now {
			k.tickAt += k.tickCycles
			k.tick()
		} else {
			break
		}
	}
	k.rearm()
}

// nextTick is the first tick that has something to do while nothing is ready. It is false when no tick has.
func (k *Kernel) nextTick() (Cycles, bool) {
	if k.cfg.OnTick != nil {
		return k.tickAt, true
	}
	w := &k.timers
	for i := range wheelSlots {
		if w.slots[(w.current+i)%wheelSlots].head != nil {
			return k.tickAt + Cycles(i)*k.tickCycles, true
		}
	}
	return 0, false
}

// idle waits for the next event while nothing is ready. In virtual time it jumps there; ticks without an effect are only counted. It reports
// false when the run is over.
func (k *Kernel) idle() bool {
	if k.real != nil {
		from := k.real.now()
		more := k.real.idle()
		k.idled += k.real.now() - from
		return more
	}
	to := k.limit
	if at, ticks := k.nextTick(); ticks {
		to = min(to, at)
	}
	if at, interrupts := k.waiting.first(); interrupts {
		to = min(to, at)
	}
	if to == math.MaxUint64 {
		return false // nothing will ever happen, and nobody said until when
	}
	if k.cfg.OnTick == nil && to > k.tickAt {
		n := (to - k.tickAt + k.tickCycles - 1) / k.tickCycles // those before to
		k.clock += uint32(n)
		k.timers.current = (k.timers.current + int(n%wheelSlots)) % wheelSlots
		k.tickAt += n * k.tickCycles
	}
	if to > k.now {
		k.idled += to - k.now
		k.now = to
	}
	return true
}

// Idle is how much of the kernel's time passed while no thread was ready: when a processor sleeps.
func (k *Kernel) Idle() Cycles { return k.idled }

// interruptHeap holds interrupts by time, and by the order of their coming at one time.
type interruptHeap struct {
	items []pendingInterrupt
	max   int
}

type pendingInterrupt struct {
	at       Cycles
	sequence uint64
	isr      func()
}

func (p pendingInterrupt) before(q pendingInterrupt) bool {
	return p.at < q.at || p.at == q.at && p.sequence < q.sequence
}

func (h *interruptHeap) first() (Cycles, bool) {
	if len(h.items) == 0 {
		return 0, false
	}
	return h.items[0].at, true
}

func (h *interruptHeap) push(p pendingInterrupt) bool {
	if len(h.items) >= h.max {
		return false
	}
	h.items = append(h.items, p)
	for i := len(h.items) - 1; i > 0; {
		up := (i - 1) / 2
		if !h.items[i].before(h.items[up]) {
			break
		}
		h.items[i], h.items[up] = h.items[up], h.items[i]
		i = up
	}
	return true
}

func (h *interruptHeap) pop() pendingInterrupt {
	top := h.items[0]
	last := len(h.items) - 1
	h.items[0] = h.items[last]
	h.items[last] = pendingInterrupt{}
	h.items = h.items[:last]
	for i := 0; ; {
		c := 2*i + 1
		if c >= last {
			break
		}
		if c+1 < last && h.items[c+1].before(h.items[c]) {
			c++
		}
		if !h.items[c].before(h.items[i]) {
			break
		}
		h.items[i], h.items[c] = h.items[c], h.items[i]
		i = c
	}
	return top
}
