package rtos

import (
	"errors"
	"fmt"
	"math"
	"math/rand/v2"
	"sync/atomic"
	"time"
)

// Kernel is the kernel of one board. See the package comment for who may call it.
type Kernel struct {
	// What every service reads comes first.
	now       Cycles
	idled     Cycles // of now, without a ready thread
	next      Cycles // when now gets here, observe must look: a tick, an interrupt, the end of the run
	current   *Thread
	execute   *Thread // who should run
	attention atomic.Bool

	systemState    uint32
	preemptDisable uint32
	windows        Windows
	checked        bool
	masked         bool // interrupts are disabled by the running thread
	notify         bool
	perf           Performance
	tracer         Tracer
	costs          Costs

	// The scheduler (rtos §5).
	highest   uint32 // best ready priority, MaxPriorities when there is none
	ready     []*Thread
	readyMap  bitmap
	preempted bitmap
	slice     uint32  // ticks that the running thread's time slice has left
	fiber     *Thread // whose coroutine runs; nil while the scheduler itself does
	unwinding *Thread // who is being ended

	dispatches uint64

	// Time.
	clock      uint32
	tickAt     Cycles
	tickCycles Cycles
	limit      Cycles
	waiting    interruptHeap
	sequence   uint64
	sliceOver  bool
	timers     wheel
	real       *pacer // nil in virtual time
	posted     mailbox

	cfg      Config
	started  bool
	running  bool
	stop     error
	memory   uint32 // RAM handed out
	control  uint32 // next control block's address
	random   *rand.Rand
	onStack  func(*Thread)
	threads  created[Thread]
	sems     created[Semaphore]
	mutexes  created[Mutex]
	groups   created[EventFlags]
	queues   created[Queue]
	blocks   created[BlockPool]
	bytes    created[BytePool]
	appTimer created[Timer]
	totals   totals
}

// ErrStopped is what a run returns after [Kernel.Stop].
var ErrStopped = errors.New("rtos: the kernel was stopped")

// New makes a kernel: its time is 0 and nothing runs. It reports all that is wrong with cfg.
func New(cfg Config) (*Kernel, error) {
	cfg = cfg.orDefaults()
	if err := cfg.validate(); err != nil {
		return nil, fmt.Errorf("rtos: kernel of %s: %w", cfg.Name, err)
	}
	k := &Kernel{
		cfg: cfg, costs: cfg.Costs, windows: cfg.Windows, perf: cfg.Performance,
		checked: !cfg.DisableErrorChecking, notify: !cfg.DisableNotifyCallbacks,
		highest: cfg.MaxPriorities, ready: make([]*Thread, cfg.MaxPriorities),
		tickCycles: Cycles(cfg.ClockHz / uint64(cfg.TicksPerSecond)),
		control:    controlStart, systemState: InitializeInProgress,
		limit: math.MaxUint64, next: math.MaxUint64,
	}
	k.tickAt = k.tickCycles
	k.waiting.max, k.posted.max = cfg.MaxInterrupts, cfg.MaxInterrupts
	if cfg.RandomStackFill {
		k.random = rand.New(rand.NewPCG(cfg.Seed, 0))
	}
	if cfg.RealTime {
		k.real = newPacer(k)
	}
	k.initTimers()
	if cfg.Tracer != nil {
		k.SetTracer(cfg.Tracer)
	}
	k.systemState = InitializeAlmostDone
	return k, nil
}

// Start is ThreadX's kernel entry up to the scheduler: define creates the application's first objects in the
// initialization state, where services may not wait and thresholds do not count yet. Then the system state is 0.
func (k *Kernel) Start(define func(k *Kernel)) error {
	if k.started {
		return fmt.Errorf("rtos: kernel of %s is started already", k.cfg.Name)
	}
	k.started = true
	k.systemState = InitializeInProgress
	if err := k.guard(func() { define(k) }); err != nil {
		return err
	}
	k.preemptDisable = 0
	k.systemState = 0
	return nil
}

// RunUntil plays the board in virtual time until its clock is at t or a little later: what was under way at t is
// finished up to the next point where interrupts are noticed. How a stretch of time is cut into runs changes nothing in what happens.
// It returns an error once the kernel stopped: ErrStopped, or a *FaultError.
func (k *Kernel) RunUntil(t Cycles) error {
	if k.real != nil {
		return fmt.Errorf("rtos: kernel of %s runs in real time: use Run", k.cfg.Name)
	}
	return k.run(t)
}

// RunFor plays the board for d of its own time.
func (k *Kernel) RunFor(d time.Duration) error { return k.RunUntil(k.now + k.Cycles(d)) }

func (k *Kernel) run(t Cycles) error {
	switch {
	case !k.started:
		return fmt.Errorf("rtos: kernel of %s is not started", k.cfg.Name)
	case k.running:
		return fmt.Errorf("rtos: kernel of %s runs already", k.cfg.Name)
	case k.stop != nil:
		return k.stop
	}
	k.running = true
	defer func() { k.running, k.fiber = false, nil }() // whatever ends the run, Goexit in a thread included
	k.limit = t
	k.rearm()
	if err := k.guard(k.schedule); err != nil {
		return err
	}
	return k.stop
}

// NextEvent is the earliest time at which the kernel has something to do, for a loop that drives many boards. It is
// false when nothing will ever happen unless an interrupt comes from outside.
func (k *Kernel) NextEvent() (Cycles, bool) {
	if k.stop != nil {
		return 0, false
	}
	if k.execute != nil || k.attention.Load() {
		return k.now, true
	}
	at, ok := k.nextTick()
	if w, any := k.waiting.first(); any && (!ok || w < at) {
		at, ok = w, true
	}
	return max(at, k.now), ok
}

// Stop ends the run: RunUntil and Run return ErrStopped, now and whenever called again. Other goroutines stop a kernel
// by k.Post(k.Stop).
func (k *Kernel) Stop() {
	if k.stop == nil {
		k.stop = ErrStopped
	}
	k.next = 0
	if k.real != nil {
		k.real.poke()
	}
}

// Close ends all threads: each is unwound from where it stands, its deferred functions run and services they call do not
// return. The kernel may not be running, and is of no use afterwards.
func (k *Kernel) Close() {
	if k.running {
		panic("rtos: Close of a running kernel")
	}
	if k.stop == nil {
		k.stop = ErrStopped
	}
	for t, n := k.threads.first, k.threads.count; n > 0; t, n = t.node.next, n-1 {
		k.unwind(t)
	}
}

// Now is the board's time: cycles since it was started.
func (k *Kernel) Now() Cycles {
	if k.real != nil {
		return k.real.now()
	}
	return k.now
}

// Cycles says how many cycles of the core clock d lasts.
func (k *Kernel) Cycles(d time.Duration) Cycles {
	s, r := d/time.Second, d%time.Second
	return Cycles(s)*Cycles(k.cfg.ClockHz) + Cycles(r)*Cycles(k.cfg.ClockHz)/Cycles(time.Second)
}

// Duration says how long c cycles of the core clock last.
func (k *Kernel) Duration(c Cycles) time.Duration {
	hz := Cycles(k.cfg.ClockHz)
	return time.Duration(c/hz)*time.Second + time.Duration(c%hz*Cycles(time.Second)/hz)
}

// Config is what the kernel was made of, with its defaults filled in.
func (k *Kernel) Config() Config { return k.cfg }

// SystemState is 0 while threads run, the nesting depth inside interrupts, and at least InitializeInProgress before the
// scheduler starts.
func (k *Kernel) SystemState() uint32 { return k.systemState }

// Reserve takes size bytes, rounded up to the alignment, from the board's RAM, as firmware does from
// first_unused_memory. It answers the null region when there is not enough left.
func (k *Kernel) Reserve(size uint32) Region {
	a := k.cfg.Alignment
	if size > k.cfg.MemorySize-k.memory {
		return Region{}
	}
	r := Region{Start: memoryStart + k.memory, Size: size}
	k.memory = min((k.memory+size+a-1)/a*a, k.cfg.MemorySize)
	return r
}

// LimitMemory lets Reserve hand out no more than size bytes in all from now on, for a board that knows only after its
// first objects were created how much of its RAM is left.
func (k *Kernel) LimitMemory(size uint32) { k.cfg.MemorySize = max(min(size, maxMemory), k.memory) }

// Reserved says how many bytes of RAM Reserve handed out, for stacks, pools and queues.
func (k *Kernel) Reserved() uint32 { return k.memory }

// ControlMemory says how many bytes the control blocks of all objects ever created take on a 32-bit board.
func (k *Kernel) ControlMemory() uint32 { return k.control - controlStart }

// Compute lets c cycles pass in which the caller works without calling the kernel. Interrupts and preemption happen on
// time; what is left is done when the thread runs again. In real time it keeps the processor busy for that long.
func (k *Kernel) Compute(c Cycles) {
	if k.real != nil {
		k.real.compute(c)
		return
	}
	c = max(c, 1)
	for {
		if k.now >= k.next || k.attention.Load() {
			k.observe()
		}
		if c == 0 {
			return
		}
		until := k.next
		if k.masked || k.systemState != 0 {
			until = k.limit
		}
		step := c
		if until > k.now {
			step = min(c, until-k.now)
		}
		k.now += step
		c -= step
	}
}

// charge lets a call's time pass, and what happens in that time happen.
func (k *Kernel) charge(c uint32) {
	k.now += Cycles(c)
	if k.now >= k.next || k.attention.Load() {
		k.observe()
	}
}

// adopt gives an object its place in the kernel. An object that is created anew keeps its address.
func (k *Kernel) adopt(o *object, id uint32, name string, size uint32) {
	if o.k != k || o.addr == 0 {
		o.addr = k.control
		k.control += size
	}
	o.k, o.id, o.name = k, id, name
}

// Where a call comes from decides what it may do (rtos §3, §18).

// mayCreate: initialization and threads.
func (k *Kernel) mayCreate() bool {
	return k.current != &k.timers.thread && (k.systemState == 0 || k.systemState >= InitializeInProgress)
}

// mayDelete: threads.
func (k *Kernel) mayDelete() bool { return k.systemState == 0 && k.current != &k.timers.thread }

// mayWait: threads.
func (k *Kernel) mayWait() bool {
	return k.systemState == 0 && k.current != nil && k.current != &k.timers.thread
}

// inISR: an interrupt, not initialization.
func (k *Kernel) inISR() bool { return k.systemState != 0 && k.systemState < InitializeInProgress }

// cannotBlock is what the raw layer asks before it suspends the caller.
func (k *Kernel) cannotBlock() bool { return k.preemptDisable != 0 || !k.mayWait() }

// bitmap is a set of priorities. Words are looked up through a summary, so that finding the first takes two steps.
type bitmap struct {
	words   [maxPriorities / 32]uint32
	summary uint32
}
