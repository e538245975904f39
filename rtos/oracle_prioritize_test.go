package rtos

// One scenario for the five kinds of objects that can be prioritized.
var prioritizeScenarios = []scenario{
	{"S37", "prioritize: mutex", func(o *oracle) {
		var m, bad Mutex
		bad.k = o.k
		o.ok(o.k.CreateMutex(&m, "mutex", NoInherit))
		prioritizes(o, WindowMutexPrioritize, MutexError, &m.waiters, (*Mutex)(nil).Prioritize, bad.Prioritize, m.Prioritize,
			func() Status { return m.Get(NoWait) }, func() Status { return m.Get(WaitForever) }, MutexSuspended)
	}},
	{"S52", "prioritize: semaphore", func(o *oracle) {
		var s, bad Semaphore
		bad.k = o.k
		o.ok(o.k.CreateSemaphore(&s, "semaphore", 0))
		prioritizes(o, WindowSemaphorePrioritize, SemaphoreError, &s.waiters, (*Semaphore)(nil).Prioritize, bad.Prioritize, s.Prioritize,
			func() Status { return Success }, func() Status { return s.Get(WaitForever) }, SemaphoreSuspended)
	}},
	{"S52", "prioritize: queue", func(o *oracle) {
		var q, bad Queue
		bad.k = o.k
		o.ok(o.k.CreateQueue(&q, "queue", 1, make([]byte, 24)))
		prioritizes(o, WindowQueuePrioritize, QueueError, &q.waiters, (*Queue)(nil).Prioritize, bad.Prioritize, q.Prioritize,
			func() Status { return Success }, func() Status { return q.Receive(make([]uint32, 1), WaitForever) }, QueueSuspended)
	}},
	{"S52", "prioritize: block pool", func(o *oracle) {
		var p, bad BlockPool
		bad.k = o.k
		var b Block
		o.ok(o.k.CreateBlockPool(&p, "pool", 100, make([]byte, 120)))
		prioritizes(o, WindowBlockPoolPrioritize, PoolError, &p.waiters, (*BlockPool)(nil).Prioritize, bad.Prioritize, p.Prioritize,
			func() Status { return p.Allocate(&b, NoWait) }, func() Status { return p.Allocate(&b, WaitForever) }, BlockSuspended)
	}},
	{"S52", "prioritize: byte pool", func(o *oracle) {
		var p, bad BytePool
		bad.k = o.k
		var m Memory
		o.ok(o.k.CreateBytePool(&p, "pool", make([]byte, 108)))
		prioritizes(o, WindowBytePoolPrioritize, PoolError, &p.waiters, (*BytePool)(nil).Prioritize, bad.Prioritize, p.Prioritize,
			func() Status { return p.Allocate(&m, 80, NoWait) }, func() Status { return p.Allocate(&m, 60, WaitForever) }, ByteSuspended)
	}},
}

func prioritizes(o *oracle, w Window, failure Status, list *waitList, null, notCreated, prioritize, take, wait func() Status, state State) {
	t, n := o.threads(7)
	o.thread(&t[0], 17, 17, 100, AutoStart, func() {
		head := func(want int) {
			o.Helper()
			o.check(list.head == &t[want], "thread %d is not at the head", want)
		}
		o.want(failure, null())
		o.want(failure, notCreated())
		o.ok(prioritize(), take())
		o.ok(t[1].Resume(), t[2].Resume())
		o.states(state, &t[1], &t[2])
		head(1)
		o.ok(prioritize())
		head(2)
		o.ok(prioritize())
		head(2)
		o.want(ResumeError, t[1].Resume())
		o.want(ResumeError, t[2].Resume())
		for i := 3; i < 7; i++ {
			o.ok(t[i].Resume())
		}
		head(2)
		o.ok(prioritize())
		head(3)
		if o.open(w) {
			// Interrupts change the list while it is looked through: first the head goes, then another one.
			for hits := 0; hits < 2; {
				o.isr = func() {
					if o.k.preemptDisable == 0 || hits == 2 {
						return
					}
					if hits++; hits == 1 {
						o.ok(t[3].WaitAbort())
					} else {
						o.ok(t[5].WaitAbort())
					}
				}
				o.ok(prioritize())
			}
			o.isr = nil
		} else {
			o.ok(t[3].WaitAbort(), t[5].WaitAbort(), prioritize())
		}
		head(4)
		o.check(list.count == 4, "%d wait", list.count)
		// Nobody but the best one was moved: the others still stand in the order of their coming.
		order := []*Thread{&t[4], &t[2], &t[1], &t[6]}
		for i, w := 0, list.head; i < len(order); i, w = i+1, w.waitNext {
			o.check(w == order[i], "place %d is wrong", i)
		}
		o.done()
	})
	for i, p := range []uint32{16, 15, 3, 4, 5, 6} {
		o.thread(&t[i+1], p, p, 100, DontStart, func() {
			o.want(WaitAborted, wait())
			n[i+1]++
		})
	}
}
