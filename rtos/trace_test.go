package rtos

import (
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestTrace_EventsInTraceXsWords(t *testing.T) {
	t.Parallel()
	r := &recorder{}
	var events []Event
	r.event = func(e Event) { events = append(events, e) }
	play(t, Config{}, func(o *oracle) {
		k := o.k
		var s Semaphore
		var q Queue
		var low, high Thread
		o.want(NotDone, k.TraceEvent(EventUserStart, [4]uint32{}))
		o.ok(k.CreateSemaphore(&s, "gate", 3), k.CreateQueue(&q, "mail", 2, make([]byte, 32)))
		o.thread(&high, 10, 10, 0, DontStart, func() {})
		o.thread(&low, 20, 15, 0, AutoStart, func() {
			k.SetTracer(r)
			kinds := make([]ObjectKind, len(r.created))
			for i, c := range r.created {
				kinds[i] = c.Kind
			}
			o.check(slices.Equal(kinds, []ObjectKind{KindThread, KindThread, KindThread, KindQueue, KindSemaphore}), "registry: %v", kinds)
			o.check(r.created[4] == ObjectInfo{Kind: KindSemaphore, Address: s.Address(), Name: "gate", Parameter1: 3}, "%+v", r.created[4])
			o.check(r.created[3] == ObjectInfo{Kind: KindQueue, Address: q.Address(), Name: "mail", Parameter1: 32, Parameter2: 2}, "%+v", r.created[3])

			at := func(id EventID, info ...uint32) Event {
				e := Event{ID: id, Thread: low.Address(), Priority: 0x80000000 | 15<<16 | 20}
				copy(e.Info[:], info)
				return e
			}
			expect := func(want ...Event) {
				o.Helper()
				for i := range events {
					o.check(events[i].Time > 0 && events[i].Time <= k.now, "event %d at %d", i, events[i].Time)
					events[i].Time = 0
				}
				o.check(slices.Equal(events, want), "%s", cmp.Diff(want, events))
				events = nil
			}
			sp := low.stack.Start + low.stack.Size - low.stack.used
			o.ok(s.Get(5), k.TraceEvent(EventUserStart+7, [4]uint32{1, 2, 3, 4}))
			expect(at(EventSemaphoreGet, s.Address(), 5, 3, sp), at(EventUserStart+7, 1, 2, 3, 4))
			o.ok(q.Send([]uint32{1, 2}, NoWait))
			expect(at(EventQueueSend, q.Address(), sp, NoWait, 0))

			// A preemption, with who runs next in the events of the scheduler.
			o.ok(high.Resume())
			ofHigh := func(id EventID, info ...uint32) Event {
				e := at(id, info...)
				e.Thread, e.Priority = high.Address(), 0x80000000|10<<16|10
				return e
			}
			highSP := high.stack.Start + high.stack.Size - high.stack.used
			expect(
				at(EventThreadResumeAPI, high.Address(), uint32(Suspended), sp),
				at(EventThreadResume, high.Address(), uint32(Suspended), sp, high.Address()),
				ofHigh(EventRunning),
				ofHigh(EventThreadSuspend, high.Address(), uint32(Completed), highSP, low.Address()),
				at(EventRunning),
			)
			k.Interrupt(func() { k.Time() })
			inISR := func(id EventID, info ...uint32) Event {
				e := at(id, info...)
				e.Thread, e.Priority = ContextISR, low.Address()
				return e
			}
			expect(inISR(EventISREnter, sp, 0, 1, 0), inISR(EventTimeGet, k.clock, sp), inISR(EventISRExit, sp, 0, 1, 0))
			o.ok(s.Delete(), high.Delete())
			o.check(slices.Equal(r.deleted, []uint32{s.Address(), high.Address()}), "deleted: %x", r.deleted)
			k.SetTracer(nil)
			events = nil
			k.Time()
			o.check(len(events) == 0, "traced after the end")
			o.done()
		})
	})
	// From the beginning on: initialization has a word of its own.
	newBoard(t, Config{Tracer: r}, func(k *Kernel) {
		events = nil
		k.CreateSemaphore(new(Semaphore), "early", 0)
		if len(events) != 1 || events[0].Thread != ContextInitialization {
			t.Errorf("%+v", events)
		}
	})
}

func TestInfo_OfEveryObject(t *testing.T) {
	t.Parallel()
	play(t, Config{}, func(o *oracle) {
		k := o.k
		var s, s2 Semaphore
		var m, m2 Mutex
		var g, g2 EventFlags
		var q, q2 Queue
		var b, b2 BlockPool
		var p, p2 BytePool
		area := func() []byte { return make([]byte, 108) }
		o.ok(k.CreateSemaphore(&s, "s", 0), k.CreateSemaphore(&s2, "s2", 4), k.CreateMutex(&m, "m", Inherit), k.CreateMutex(&m2, "m2", NoInherit))
		o.ok(k.CreateEventFlags(&g, "g"), k.CreateEventFlags(&g2, "g2"), k.CreateQueue(&q, "q", 1, area()[:8]), k.CreateQueue(&q2, "q2", 1, area()))
		o.ok(k.CreateBlockPool(&b, "b", 50, area()), k.CreateBlockPool(&b2, "b2", 20, area()), k.CreateBytePool(&p, "p", area()), k.CreateBytePool(&p2, "p2", area()))
		ts := make([]Thread, 6)
		var actual uint32
		waits := []func(){
			func() { s.Get(WaitForever) }, func() { m.Get(WaitForever) }, func() { g.Get(4, And, &actual, WaitForever) },
			func() { q.Send([]uint32{9}, WaitForever) }, func() { b.Allocate(new(Block), WaitForever) }, func() { p.Allocate(new(Memory), 90, WaitForever) },
		}
		for i := range ts {
			o.thread(&ts[i], 10, 10, 0, DontStart, waits[i])
		}
		var self Thread
		o.thread(&self, 20, 20, 0, AutoStart, func() {
			var blocks [2]Block
			var mem Memory
			o.ok(m.Get(NoWait), m.Get(NoWait), g.Set(3, Or), q.Send([]uint32{1}, NoWait), q.Send([]uint32{2}, NoWait))
			o.ok(b.Allocate(&blocks[0], NoWait), p.Allocate(&mem, 24, NoWait))
			o.want(NoMemory, b.Allocate(&blocks[1], NoWait))
			for i := range ts {
				o.ok(ts[i].Resume())
			}
			k.Relinquish() // the owner of the mutex runs at its waiter's priority
			var si SemaphoreInfo
			var mi MutexInfo
			var gi EventFlagsInfo
			var qi QueueInfo
			var bi BlockPoolInfo
			var pi BytePoolInfo
			o.ok(s.Info(&si), m.Info(&mi), g.Info(&gi), q.Info(&qi), b.Info(&bi), p.Info(&pi))
			o.ok(s.Info(nil), m.Info(nil), g.Info(nil), q.Info(nil), b.Info(nil), p.Info(nil))
			o.check(si == SemaphoreInfo{"s", 0, &ts[0], 1, &s2}, "%+v", si)
			o.check(mi == MutexInfo{"m", 2, &self, &ts[1], 1, &m2}, "%+v", mi)
			o.check(gi == EventFlagsInfo{"g", 3, &ts[2], 1, &g2}, "%+v", gi)
			o.check(qi == QueueInfo{"q", 2, 0, &ts[3], 1, &q2}, "%+v", qi)
			o.check(bi == BlockPoolInfo{"b", 0, 1, &ts[4], 1, &b2}, "%+v", bi)
			o.check(pi == BytePoolInfo{"p", 68, 3, &ts[5], 1, &p2}, "%+v", pi)
			// The lists are circular.
			o.ok(s2.Info(&si))
			o.check(si.Next == &s && si.Count == 4 && si.FirstSuspended == nil, "%+v", si)
			o.done()
		})
	})
}

func TestReserve_HandsOutRAM(t *testing.T) {
	t.Parallel()
	k, err := New(Config{MemorySize: 1000})
	if err != nil {
		t.Fatal(err)
	}
	defer k.Close()
	a, b := k.Reserve(401), k.Reserve(400)
	if a.Start != memoryStart || a.Size != 401 || b.Start != memoryStart+404 || k.Reserved() != 804 {
		t.Errorf("%+v %+v, %d bytes", a, b, k.Reserved())
	}
	if c := k.Reserve(200); c != (Region{}) {
		t.Errorf("%+v of 196 bytes", c)
	}
	if c := k.Reserve(196); c.Size != 196 || k.Reserved() != 1000 || k.Reserve(1) != (Region{}) {
		t.Errorf("%+v, %d bytes", c, k.Reserved())
	}
	if got := k.ControlMemory(); got != threadSize {
		t.Errorf("control blocks take %d bytes: the timer thread's are %d", got, threadSize)
	}

	// Stacks out of pools, as demos of ThreadX do it, and none where RAM ran out.
	k, err = New(Config{})
	if err != nil {
		t.Fatal(err)
	}
	defer k.Close()
	ran := 0
	if err := k.Start(func(k *Kernel) {
		var p BytePool
		var b BlockPool
		var m Memory
		var block Block
		k.CreateBytePool(&p, "p", make([]byte, 2000))
		k.CreateBlockPool(&b, "b", 600, make([]byte, 1300))
		p.Allocate(&m, 512, NoWait)
		b.Allocate(&block, NoWait)
		for _, c := range []struct {
			stack Region
			want  Status
		}{{m.Region(), Success}, {block.Region(), Success}, {m.Region(), PtrError}, {Memory{}.Region(), PtrError}, {Block{}.Region(), PtrError}} {
			if got := k.CreateThread(new(Thread), ThreadConfig{Stack: c.stack, Entry: func(uint32) { ran++ }, Start: AutoStart}); got != c.want {
				t.Errorf("stack %+v: %v, want %v", c.stack, got, c.want)
			}
		}
	}); err != nil {
		t.Fatal(err)
	}
	if err := k.RunFor(1e9); err != nil || ran != 2 {
		t.Errorf("%d threads ran: %v", ran, err)
	}
}
