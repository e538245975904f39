package rtos

// EventID names an event with the number that TraceX knows (rtos §16).
type EventID uint32

// Events, with what their four words of information are. ThreadX gives the address of a local variable where these say
// stack; here it is where the thread's declared stack ends at that moment.
const (
	EventThreadResume  EventID = 1 // thread, state before, stack, next thread
	EventThreadSuspend EventID = 2 // thread, new state, stack, next thread
	EventISREnter      EventID = 3 // stack, number, system state, preempt disable
	EventISRExit       EventID = 4 // the same
	EventTimeSlice     EventID = 5 // next thread, system state, preempt disable, stack
	EventRunning       EventID = 6 // the thread was dispatched; ThreadX tells it only when tracing begins

	EventBlockAllocate         EventID = 10 // pool, memory, wait, blocks left
	EventBlockPoolCreate       EventID = 11 // pool, start, blocks, block size
	EventBlockPoolDelete       EventID = 12 // pool, stack
	EventBlockPoolInfo         EventID = 13 // pool
	EventBlockPoolPerf         EventID = 14 // pool
	EventBlockPoolSystemPerf   EventID = 15
	EventBlockPoolPrioritize   EventID = 16 // pool, suspended, stack
	EventBlockRelease          EventID = 17 // pool, memory, suspended, stack
	EventByteAllocate          EventID = 20 // pool, memory, size, wait
	EventBytePoolCreate        EventID = 21 // pool, start, size, stack
	EventBytePoolDelete        EventID = 22 // pool, stack
	EventBytePoolInfo          EventID = 23 // pool
	EventBytePoolPerf          EventID = 24 // pool
	EventBytePoolSystemPerf    EventID = 25
	EventBytePoolPrioritize    EventID = 26 // pool, suspended, stack
	EventByteRelease           EventID = 27 // pool, memory, suspended, available
	EventEventFlagsCreate      EventID = 30 // group, stack
	EventEventFlagsDelete      EventID = 31 // group, stack
	EventEventFlagsGet         EventID = 32 // group, requested, current, option
	EventEventFlagsInfo        EventID = 33 // group
	EventEventFlagsPerf        EventID = 34 // group
	EventEventFlagsSystemPerf  EventID = 35
	EventEventFlagsSet         EventID = 36 // group, flags, option, suspended
	EventEventFlagsSetNotify   EventID = 37 // group
	EventInterruptControl      EventID = 40 // posture, stack
	EventMutexCreate           EventID = 50 // mutex, inherit, stack
	EventMutexDelete           EventID = 51 // mutex, stack
	EventMutexGet              EventID = 52 // mutex, wait, owner, own count
	EventMutexInfo             EventID = 53 // mutex
	EventMutexPerf             EventID = 54 // mutex
	EventMutexSystemPerf       EventID = 55
	EventMutexPrioritize       EventID = 56 // mutex, suspended, stack
	EventMutexPut              EventID = 57 // mutex, owner, own count, stack
	EventQueueCreate           EventID = 60 // queue, words, start, size
	EventQueueDelete           EventID = 61 // queue, stack
	EventQueueFlush            EventID = 62 // queue, stack
	EventQueueFrontSend        EventID = 63 // queue, source, wait, enqueued
	EventQueueInfo             EventID = 64 // queue
	EventQueuePerf             EventID = 65 // queue
	EventQueueSystemPerf       EventID = 66
	EventQueuePrioritize       EventID = 67 // queue, suspended, stack
	EventQueueReceive          EventID = 68 // queue, destination, wait, enqueued
	EventQueueSend             EventID = 69 // queue, source, wait, enqueued
	EventQueueSendNotify       EventID = 70 // queue
	EventSemaphoreCeilingPut   EventID = 80 // semaphore, count, suspended, ceiling
	EventSemaphoreCreate       EventID = 81 // semaphore, count, stack
	EventSemaphoreDelete       EventID = 82 // semaphore, stack
	EventSemaphoreGet          EventID = 83 // semaphore, wait, count, stack
	EventSemaphoreInfo         EventID = 84 // semaphore
	EventSemaphorePerf         EventID = 85 // semaphore
	EventSemaphoreSystemPerf   EventID = 86
	EventSemaphorePrioritize   EventID = 87  // semaphore, suspended, stack
	EventSemaphorePut          EventID = 88  // semaphore, count, suspended, stack
	EventSemaphorePutNotify    EventID = 89  // semaphore
	EventThreadCreate          EventID = 100 // thread, priority, stack start, stack size
	EventThreadDelete          EventID = 101 // thread, stack
	EventThreadEntryExitNotify EventID = 102 // thread, state, stack
	EventThreadIdentify        EventID = 103
	EventThreadInfo            EventID = 104 // thread, state
	EventThreadPerf            EventID = 105 // thread, state
	EventThreadSystemPerf      EventID = 106

	EventThreadPreemptionChange EventID = 107 // thread, new threshold, old threshold, state
	EventThreadPriorityChange   EventID = 108 // thread, new priority, old priority, state
	EventThreadRelinquish       EventID = 109 // stack, next thread
	EventThreadReset            EventID = 110 // thread, state
	EventThreadResumeAPI        EventID = 111 // thread, state, stack
	EventThreadSleep            EventID = 112 // ticks, state, stack
	EventThreadStackErrorNotify EventID = 113
	EventThreadSuspendAPI       EventID = 114 // thread, state, stack
	EventThreadTerminate        EventID = 115 // thread, state, stack
	EventThreadTimeSliceChange  EventID = 116 // thread, new, old
	EventThreadWaitAbort        EventID = 117 // thread, state
	EventTimeGet                EventID = 120 // time, stack
	EventTimeSet                EventID = 121 // time
	EventTimerActivate          EventID = 122 // timer
	EventTimerChange            EventID = 123 // timer, initial, reschedule
	EventTimerCreate            EventID = 124 // timer, initial, reschedule, activate
	EventTimerDeactivate        EventID = 125 // timer, stack
	EventTimerDelete            EventID = 126 // timer
	EventTimerInfo              EventID = 127 // timer, stack
	EventTimerPerf              EventID = 128 // timer
	EventTimerSystemPerf        EventID = 129

	EventUserStart EventID = 4096 // to 65535: the application's own, with TraceEvent
)

// Event is something that happened, in TraceX's words.
type Event struct {
	ID       EventID
	Time     Cycles
	Thread   uint32 // the current thread's address, or ContextISR, ContextInitialization; 0: nobody runs
	Priority uint32 // 0x80000000 | threshold<<16 | priority; in an interrupt, the interrupted thread's address
	Info     [4]uint32
}

// What stands in Event.Thread when no thread does.
const (
	ContextISR            uint32 = 0xFFFFFFFF
	ContextInitialization uint32 = 0xF0F0F0F0
)

// ObjectKind is a type of object, with the number that TraceX knows.
type ObjectKind uint8

// The kinds of objects.
const (
	KindThread     ObjectKind = 1
	KindTimer      ObjectKind = 2
	KindQueue      ObjectKind = 3
	KindSemaphore  ObjectKind = 4
	KindMutex      ObjectKind = 5
	KindEventFlags ObjectKind = 6
	KindBlockPool  ObjectKind = 7
	KindBytePool   ObjectKind = 8
)

// ObjectInfo describes an object for a trace's registry.
type ObjectInfo struct {
	Kind       ObjectKind
	Address    uint32 // as in Event.Info
	Name       string
	Parameter1 uint32 // as in TraceX's registry: stack start, ticks, size, count...
	Parameter2 uint32
	Priority   uint32 // of a thread
}

// Tracer is told of what happens in a kernel. Its methods run on the kernel's own goroutine, in the middle of services: they may not
// call the kernel. Without a tracer an event costs a comparison.
type Tracer interface {
	Event(Event)
	Created(ObjectInfo)
	Deleted(address uint32)
}

// SetTracer starts tracing, with all objects that exist as created, or ends it with nil.
func (k *Kernel) SetTracer(t Tracer) {
	k.tracer = t
	if t == nil {
		return
	}
	each(&k.threads, func(o *Thread) { t.Created(o.describe()) })
	each(&k.appTimer, func(o *Timer) { t.Created(o.describe()) })
	each(&k.queues, func(o *Queue) { t.Created(o.describe()) })
	each(&k.sems, func(o *Semaphore) { t.Created(o.describe()) })
	each(&k.mutexes, func(o *Mutex) { t.Created(o.describe()) })
	each(&k.groups, func(o *EventFlags) { t.Created(o.describe()) })
	each(&k.blocks, func(o *BlockPool) { t.Created(o.describe()) })
	each(&k.bytes, func(o *BytePool) { t.Created(o.describe()) })
}

func each[T any, P linked[T]](c *created[T], f func(P)) {
	for p, n := P(c.first), c.count; n > 0; p, n = P(p.links().next), n-1 {
		f(p)
	}
}

// TraceEvent inserts an event of the application's own, numbered from EventUserStart on. It answers NotDone when nobody
// traces.
func (k *Kernel) TraceEvent(id EventID, info [4]uint32) Status {
	k.charge(k.costs.Call)
	if k.tracer == nil {
		return NotDone
	}
	k.emit(id, info[0], info[1], info[2], info[3])
	return Success
}

func (k *Kernel) trace(id EventID, a, b, c, d uint32) {
	if k.tracer != nil {
		k.emit(id, a, b, c, d)
	}
}

//go:noinline
func (k *Kernel) emit(id EventID, a, b, c, d uint32) {
	e := Event{ID: id, Time: k.Now(), Info: [4]uint32{a, b, c, d}}
	t := k.current
	switch {
	case k.systemState >= InitializeInProgress:
		e.Thread = ContextInitialization
	case k.systemState != 0:
		e.Thread = ContextISR
		e.Priority = t.address()
	case t != nil:
		e.Thread = t.addr
		e.Priority = 0x80000000 | t.threshold<<16 | t.priority
	}
	k.tracer.Event(e)
}
