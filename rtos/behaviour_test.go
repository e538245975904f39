package rtos

import (
	"slices"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/vauban-iot/vauban/internal/conform"
)

func TestCosts_EveryCallTakesTimeAndIdleJumps(t *testing.T) {
	t.Parallel()
	conform.Covers(t, "RTOS-25")
	play(t, Config{}, func(o *oracle) {
		k := o.k
		var th, spare Thread
		var s Semaphore
		var m Mutex
		var g EventFlags
		var q Queue
		var b BlockPool
		var p BytePool
		var tm Timer
		var old, actual uint32
		var block Block
		var mem Memory
		word := make([]uint32, 1)
		stack := k.Reserve(1024)
		o.thread(&th, 20, 20, 0, DontStart, func() {})
		calls := []struct {
			name string
			call func()
		}{
			{"CreateSemaphore", func() { k.CreateSemaphore(&s, "", 1) }}, {"Semaphore.Get", func() { s.Get(NoWait) }}, {"Semaphore.Put", func() { s.Put() }},
			{"Semaphore.CeilingPut", func() { s.CeilingPut(9) }}, {"Semaphore.Prioritize", func() { s.Prioritize() }}, {"Semaphore.Info", func() { s.Info(nil) }},
			{"Semaphore.PutNotify", func() { s.PutNotify(nil) }}, {"SemaphorePerformance", func() { k.SemaphorePerformance(&s, nil) }},
			{"Semaphore.Delete", func() { s.Delete() }},
			{"CreateMutex", func() { k.CreateMutex(&m, "", Inherit) }}, {"Mutex.Get", func() { m.Get(NoWait) }}, {"Mutex.Put", func() { m.Put() }},
			{"Mutex.Prioritize", func() { m.Prioritize() }}, {"Mutex.Info", func() { m.Info(nil) }}, {"Mutex.Delete", func() { m.Delete() }},
			{"CreateEventFlags", func() { k.CreateEventFlags(&g, "") }}, {"EventFlags.Set", func() { g.Set(1, Or) }},
			{"EventFlags.Get", func() { g.Get(1, Or, &actual, NoWait) }}, {"EventFlags.SetNotify", func() { g.SetNotify(nil) }},
			{"EventFlags.Info", func() { g.Info(nil) }}, {"EventFlags.Delete", func() { g.Delete() }},
			{"CreateQueue", func() { k.CreateQueue(&q, "", 1, make([]byte, 8)) }}, {"Queue.Send", func() { q.Send(word, NoWait) }},
			{"Queue.FrontSend", func() { q.FrontSend(word, NoWait) }}, {"Queue.Receive", func() { q.Receive(word, NoWait) }}, {"Queue.Flush", func() { q.Flush() }},
			{"Queue.Prioritize", func() { q.Prioritize() }}, {"Queue.SendNotify", func() { q.SendNotify(nil) }}, {"Queue.Info", func() { q.Info(nil) }},
			{"Queue.Delete", func() { q.Delete() }},
			{"CreateBlockPool", func() { k.CreateBlockPool(&b, "", 8, make([]byte, 64)) }}, {"BlockPool.Allocate", func() { b.Allocate(&block, NoWait) }},
			{"Block.Release", func() { block.Release() }}, {"BlockPool.Prioritize", func() { b.Prioritize() }}, {"BlockPool.Info", func() { b.Info(nil) }},
			{"BlockPool.Delete", func() { b.Delete() }},
			{"CreateBytePool", func() { k.CreateBytePool(&p, "", make([]byte, 128)) }}, {"BytePool.Allocate", func() { p.Allocate(&mem, 8, NoWait) }},
			{"Memory.Release", func() { mem.Release() }}, {"BytePool.Prioritize", func() { p.Prioritize() }}, {"BytePool.Info", func() { p.Info(nil) }},
			{"BytePool.Delete", func() { p.Delete() }},
			{"CreateTimer", func() { k.CreateTimer(&tm, "", func(uint32) {}, 0, 9, 9, NoActivate) }}, {"Timer.Activate", func() { tm.Activate() }},
			{"Timer.Change", func() { tm.Change(1, 1) }}, {"Timer.Info", func() { tm.Info(nil) }}, {"Timer.Deactivate", func() { tm.Deactivate() }},
			{"Timer.Delete", func() { tm.Delete() }},
			{"CreateThread", func() { k.CreateThread(&spare, ThreadConfig{Stack: stack, Entry: func(uint32) {}, Priority: 20}) }},
			{"Thread.Info", func() { th.Info(nil) }}, {"Thread.EntryExitNotify", func() { th.EntryExitNotify(nil) }},
			{"Thread.ChangePriority", func() { th.ChangePriority(21, &old) }}, {"Thread.ChangeThreshold", func() { th.ChangeThreshold(20, &old) }},
			{"Thread.ChangeTimeSlice", func() { th.ChangeTimeSlice(2, &old) }}, {"Thread.Resume", func() { th.Resume() }}, {"Thread.Suspend", func() { th.Suspend() }},
			{"Thread.WaitAbort", func() { th.WaitAbort() }}, {"Thread.Terminate", func() { th.Terminate() }}, {"Thread.Reset", func() { th.Reset() }},
			{"Thread.Delete", func() { spare.Terminate(); now := k.now; spare.Delete(); o.check(k.now > now, "Thread.Delete is free") }},
			{"Sleep", func() { k.Sleep(0) }}, {"Relinquish", func() { k.Relinquish() }}, {"Identify", func() { k.Identify() }}, {"Time", func() { k.Time() }},
			{"SetTime", func() { k.SetTime(0) }}, {"InterruptControl", func() { k.InterruptControl(IntEnable) }}, {"TraceEvent", func() { k.TraceEvent(4096, [4]uint32{}) }},
			{"StackErrorNotify", func() { k.StackErrorNotify(nil) }}, {"Interrupt", func() { k.Interrupt(func() {}) }}, {"Compute", func() { k.Compute(0) }},
		}
		o.thread(new(Thread), 16, 16, 0, AutoStart, func() {
			for _, c := range calls {
				now := k.now
				c.call()
				o.check(k.now > now, "%s is free", c.name)
			}
			now := k.now
			k.Compute(12345)
			o.check(k.now >= now+12345 && k.now < now+12345+5000, "Compute(12345) took %d cycles", k.now-now)
			// Nothing is ready for a long time: the next thing to happen comes at its exact cycle.
			ran := Cycles(0)
			at := k.tickAt + 2_999_999*k.tickCycles + 5077
			if err := k.At(at, func() { ran = k.now }); err != nil {
				o.Fatal(err)
			}
			o.ok(k.Sleep(3_000_001))
			o.check(ran == at+Cycles(k.costs.Interrupt), "the interrupt for cycle %d came at %d", at, ran)
			o.done()
		})
	})
}

// TestWindows_Selectable lets a workload go through all windows, with each of them open alone.
func TestWindows_Selectable(t *testing.T) {
	t.Parallel()
	conform.Covers(t, "RTOS-26")
	for w := range numWindows {
		t.Run(w.String(), func(t *testing.T) {
			t.Parallel()
			for _, open := range []Windows{In(w), NoWindows, AllWindows} {
				hits, inside := 0, 0
				var o *oracle
				cfg := Config{Windows: open, OnWindow: func(got Window) {
					if open == In(w) && got != w {
						t.Errorf("window %v is open beside %v", got, w)
					}
					if got == w {
						hits++
						o.k.Interrupt(func() {
							if o.k.preemptDisable != 0 {
								inside++
							}
						})
					}
				}}
				play(t, cfg, func(x *oracle) { o = x; visitWindows(o) })
				switch {
				case open == NoWindows && hits != 0:
					t.Errorf("%d visits although it is closed", hits)
				case open != NoWindows && hits == 0:
					t.Error("never visited")
				case open != NoWindows && inside == 0 && w != WindowByteSearch && w != WindowTimerThread:
					t.Error("no interrupt landed while preemption was disabled")
				}
			}
		})
	}
}

func visitWindows(o *oracle) {
	k := o.k
	var s Semaphore
	var m, inherit Mutex
	var g EventFlags
	var q Queue
	var b BlockPool
	var p BytePool
	var block Block
	var mem Memory
	o.ok(k.CreateSemaphore(&s, "", 0), k.CreateMutex(&m, "", NoInherit), k.CreateEventFlags(&g, ""), k.CreateQueue(&q, "", 1, make([]byte, 8)))
	o.ok(k.CreateBlockPool(&b, "", 8, make([]byte, 12)), k.CreateBytePool(&p, "", make([]byte, 108)), k.CreateMutex(&inherit, "", Inherit))
	var holder, peer Thread
	o.thread(&holder, 25, 12, 0, DontStart, func() { o.ok(peer.Resume(), k.Sleep(1)) })
	o.thread(&peer, 11, 11, 0, DontStart, func() { o.ok(peer.Suspend()) })
	o.thread(new(Thread), 20, 20, 0, AutoStart, func() {
		o.ok(m.Get(NoWait), b.Allocate(&block, NoWait), p.Allocate(&mem, 80, NoWait))
		var actual uint32
		waits := []func(){
			func() { s.Get(WaitForever) }, func() { m.Get(WaitForever) }, func() { g.Get(1, Or, &actual, WaitForever) },
			func() { q.Receive(make([]uint32, 1), WaitForever) }, func() { b.Allocate(new(Block), WaitForever) }, func() { p.Allocate(new(Memory), 60, WaitForever) },
		}
		for _, wait := range waits {
			for range 3 {
				o.thread(new(Thread), 15, 15, 0, AutoStart, wait)
			}
		}
		o.ok(s.Prioritize(), m.Prioritize(), q.Prioritize(), b.Prioritize(), p.Prioritize())
		o.ok(s.Put(), m.Put(), g.Set(1, Or), q.Send([]uint32{1}, NoWait), block.Release(), mem.Release())
		var other Thread
		o.thread(&other, 15, 15, 0, DontStart, func() { o.ok(inherit.Get(WaitForever)) })
		o.ok(inherit.Get(NoWait), other.Resume(), inherit.Put())
		o.ok(holder.Resume(), k.Sleep(5))
		o.done()
	})
}

func TestNotify_Callbacks(t *testing.T) {
	t.Parallel()
	conform.Covers(t, "RTOS-27")
	play(t, Config{}, func(o *oracle) {
		k := o.k
		var log []string
		say := func(s string) { log = append(log, s) }
		var s Semaphore
		var g EventFlags
		var q Queue
		var t1, t2, t3 Thread
		o.ok(k.CreateSemaphore(&s, "", 0), k.CreateEventFlags(&g, ""), k.CreateQueue(&q, "", 1, make([]byte, 8)))
		o.ok(s.PutNotify(func(x *Semaphore) { o.check(x == &s, "semaphore"); say("put") }))
		o.ok(g.SetNotify(func(x *EventFlags) { o.check(x == &g, "group"); say("set") }))
		o.ok(q.SendNotify(func(x *Queue) { o.check(x == &q, "queue"); say("sent") }))
		var actual uint32
		o.thread(&t1, 15, 15, 0, DontStart, func() { s.Get(WaitForever); say("got") })
		o.thread(&t2, 15, 15, 0, DontStart, func() { g.Get(6, Or, &actual, WaitForever); say("flags") })
		o.thread(&t3, 15, 15, 0, DontStart, func() { g.Get(6, Or, &actual, WaitForever); say("flags") })
		o.ok(t1.EntryExitNotify(func(x *Thread, what uint32) {
			o.check(x == &t1, "thread")
			say([]string{"enters", "ends"}[what])
		}))
		var sender Thread
		o.thread(&sender, 15, 15, 0, DontStart, func() { o.ok(q.Send([]uint32{9}, WaitForever)) })
		o.thread(new(Thread), 16, 16, 0, AutoStart, func() {
			o.ok(s.Put(), s.Get(NoWait))
			o.ok(t1.Resume(), s.Put())                   // the waiter runs before the callback
			o.ok(g.Set(1, Or), g.Set(0, And))            // And tells nobody
			o.ok(t2.Resume(), t3.Resume(), g.Set(2, Or)) // with several waiters the callback comes before they run
			o.ok(q.Send([]uint32{1}, NoWait), q.FrontSend([]uint32{1}, NoWait))
			o.want(QueueFull, q.Send([]uint32{1}, NoWait))
			o.ok(sender.Resume(), q.Receive(make([]uint32, 1), NoWait)) // the sender who waited tells it when it goes on
			o.ok(s.PutNotify(nil), s.CeilingPut(5))
			want := []string{"put", "enters", "got", "ends", "put", "set", "set", "flags", "flags", "sent", "sent", "sent"}
			o.check(slices.Equal(log, want), "%s", cmp.Diff(want, log))
			o.done()
		})
	})
	play(t, Config{DisableNotifyCallbacks: true}, func(o *oracle) {
		var s Semaphore
		var g EventFlags
		var q Queue
		var t1 Thread
		o.thread(&t1, 15, 15, 0, DontStart, func() {})
		o.ok(o.k.CreateSemaphore(&s, "", 0), o.k.CreateEventFlags(&g, ""), o.k.CreateQueue(&q, "", 1, make([]byte, 8)))
		for _, got := range []Status{
			s.PutNotify(func(*Semaphore) {}), g.SetNotify(func(*EventFlags) {}), q.SendNotify(func(*Queue) {}), t1.EntryExitNotify(func(*Thread, uint32) {}),
		} {
			o.want(FeatureNotEnabled, got)
		}
		o.thread(new(Thread), 16, 16, 0, AutoStart, o.done)
	})
}

func TestPerformance_Counters(t *testing.T) {
	t.Parallel()
	conform.Covers(t, "RTOS-28")
	// Nothing is kept, or all: the course is the same.
	course := func(enabled bool) func(o *oracle) {
		return func(o *oracle) {
			k := o.k
			var t0, t1 Thread
			var s Semaphore
			var m Mutex
			var g EventFlags
			var q Queue
			var b BlockPool
			var p BytePool
			var tm Timer
			o.ok(k.CreateSemaphore(&s, "", 0), k.CreateMutex(&m, "", Inherit), k.CreateEventFlags(&g, ""), k.CreateQueue(&q, "", 1, make([]byte, 4)))
			o.ok(k.CreateBlockPool(&b, "", 8, make([]byte, 12)), k.CreateBytePool(&p, "", make([]byte, 108)))
			o.ok(k.CreateTimer(&tm, "", func(uint32) {}, 0, 40, 1, NoActivate))
			word := make([]uint32, 1)
			var actual uint32
			o.thread(&t0, 16, 16, 5, AutoStart, func() {
				o.want(NoInstance, s.Get(2))
				o.ok(s.Put())
				o.want(CeilingExceeded, s.CeilingPut(1))
				o.ok(s.Get(NoWait))
				o.ok(m.Get(NoWait), t1.Resume(), m.Put())
				o.want(NoEvents, g.Get(1, Or, &actual, 1))
				o.ok(g.Set(1, Or))
				o.want(QueueEmpty, q.Receive(word, 1))
				o.ok(q.Send(word, NoWait))
				o.want(QueueFull, q.Send(word, NoWait))
				o.want(QueueFull, q.Send(word, 1))
				o.want(QueueFull, q.FrontSend(word, NoWait))
				o.ok(q.Receive(word, NoWait))
				var block Block
				o.ok(b.Allocate(&block, NoWait))
				o.want(NoMemory, b.Allocate(new(Block), 1))
				o.ok(block.Release())
				var m1, m2, m3 Memory
				o.ok(p.Allocate(&m1, 24, NoWait), p.Allocate(&m2, 24, NoWait))
				o.want(NoMemory, p.Allocate(&m3, 80, 1))
				o.ok(m1.Release(), m2.Release(), p.Allocate(&m3, 80, NoWait))
				o.ok(tm.Activate(), k.Sleep(42), tm.Deactivate())
				k.Relinquish()
				o.compare(enabled, &t0, &s, &m, &g, &q, &b, &p, &tm)
				o.done()
			})
			o.thread(&t1, 15, 15, 0, DontStart, func() { o.ok(m.Get(WaitForever), m.Put()) })
		}
	}
	play(t, Config{Performance: AllPerformance}, course(true))
	play(t, Config{}, course(false))
	// One group does not turn on another.
	play(t, Config{Performance: PerfQueue}, func(o *oracle) {
		var q Queue
		o.ok(o.k.CreateQueue(&q, "", 1, make([]byte, 4)), o.k.QueuePerformance(&q, nil), o.k.QueueSystemPerformance(nil))
		o.want(FeatureNotEnabled, o.k.SemaphoreSystemPerformance(nil))
		o.want(FeatureNotEnabled, o.k.ThreadSystemPerformance(nil))
		o.thread(new(Thread), 16, 16, 0, AutoStart, o.done)
	})
}

// compare looks at all counters, or sees to it that there are none.
func (o *oracle) compare(enabled bool, t *Thread, s *Semaphore, m *Mutex, g *EventFlags, q *Queue, b *BlockPool, p *BytePool, tm *Timer) {
	k := o.k
	var tc ThreadPerformance
	var ts ThreadSystemPerformance
	var sc, ss SemaphorePerformance
	var mc, ms MutexPerformance
	var gc, gs EventPerformance
	var qc, qs QueuePerformance
	var bc, bs BlockPoolPerformance
	var pc, ps BytePoolPerformance
	var mt, mts TimerPerformance
	live := []Status{
		k.ThreadPerformance(t, &tc), k.ThreadPerformance(t, nil), k.ThreadSystemPerformance(&ts), k.SemaphorePerformance(s, &sc), k.SemaphoreSystemPerformance(&ss),
		k.MutexPerformance(m, &mc), k.MutexSystemPerformance(&ms), k.EventFlagsPerformance(g, &gc), k.EventFlagsSystemPerformance(&gs),
		k.QueuePerformance(q, &qc), k.QueueSystemPerformance(&qs), k.BlockPoolPerformance(b, &bc), k.BlockPoolSystemPerformance(&bs),
		k.BytePoolPerformance(p, &pc), k.BytePoolSystemPerformance(&ps), k.TimerPerformance(tm, &mt), k.TimerSystemPerformance(&mts),
		k.TimerSystemPerformance(nil),
	}
	null := []Status{
		k.ThreadPerformance(nil, nil), k.SemaphorePerformance(nil, nil), k.MutexPerformance(nil, nil), k.EventFlagsPerformance(nil, nil),
		k.QueuePerformance(nil, nil), k.BlockPoolPerformance(nil, nil), k.BytePoolPerformance(nil, nil), k.TimerPerformance(nil, nil),
		k.QueuePerformance(new(Queue), nil),
	}
	want, wantNull := Success, PtrError
	if !enabled {
		want, wantNull = FeatureNotEnabled, FeatureNotEnabled
	}
	for i := range live {
		o.check(live[i] == want, "service %d: %v, want %v", i, live[i], want)
	}
	for i := range null {
		o.check(null[i] == wantNull, "null object %d: %v, want %v", i, null[i], wantNull)
	}
	if !enabled {
		return
	}
	o.check(tc.LastPreempting != nil, "nobody preempted")
	tc.LastPreempting = nil
	same := func(what string, want, got any) {
		o.Helper()
		if d := cmp.Diff(want, got); d != "" {
			o.Errorf("%s: %s", what, d)
		}
	}
	// Suspended by six timeouts, a sleep, and by being moved to the inherited priority and back; resumed from these, and at its creation.
	// The other thread preempted at its resume, and at the put.
	same("thread", ThreadPerformance{Resumptions: 10, Suspensions: 9, SolicitedPreemptions: 2, Timeouts: 6}, tc)
	same("semaphore", SemaphorePerformance{Puts: 2, Gets: 2, Suspensions: 1, Timeouts: 1}, sc)
	same("mutex", MutexPerformance{Puts: 2, Gets: 2, Suspensions: 1, Inversions: 1, Inheritances: 1}, mc)
	same("event flags", EventPerformance{Sets: 1, Gets: 1, Suspensions: 1, Timeouts: 1}, gc)
	same("queue", QueuePerformance{Sent: 4, Received: 2, EmptySuspensions: 1, FullSuspensions: 1, FullErrors: 1, Timeouts: 2}, qc)
	same("block pool", BlockPoolPerformance{Allocates: 2, Releases: 1, Suspensions: 1, Timeouts: 1}, bc)
	same("timer", TimerPerformance{Activates: 1, Reactivates: 3, Deactivates: 1, Expirations: 3, ExpirationAdjusts: 1}, mt)
	o.check(pc.Allocates == 4 && pc.Releases == 2 && pc.Merges == 2 && pc.Splits == 2 && pc.Suspensions == 1 && pc.Timeouts == 1 && pc.Searched >= 5, "byte pool: %+v", pc)
	same("sums", []any{sc, mc, gc, qc, bc, pc}, []any{ss, ms, gs, qs, bs, ps})
	o.check(ts.Resumptions > tc.Resumptions && ts.IdleReturns >= 7 && ts.NonIdleReturns > 0 && ts.PriorityInversions == 1, "threads: %+v", ts)
	o.check(mts.Expirations == 3+7 && mts.ExpirationAdjusts == 2, "timers: %+v", mts)
}

func TestStack_FillCheckAndHandler(t *testing.T) {
	t.Parallel()
	conform.Covers(t, "RTOS-29")
	for _, random := range []bool{false, true} {
		play(t, Config{StackChecking: true, RandomStackFill: random, Seed: 7}, func(o *oracle) {
			k := o.k
			var t0, t1, t2, deep Thread
			var errors []*Thread
			o.ok(k.StackErrorNotify(func(x *Thread) { errors = append(errors, x) }))
			o.thread(&t0, 15, 15, 0, AutoStart, func() {
				o.ok(t1.Resume(), t0.Suspend())
				o.check(len(errors) > 0 && !slices.ContainsFunc(errors, func(x *Thread) bool { return x != &t2 }), "%d errors", len(errors))

				// What a thread says that it uses is what the image shows, and the most of it is remembered.
				errors = nil
				o.ok(k.StackErrorNotify(func(x *Thread) { errors = append(errors, x) }))
				o.ok(deep.Resume())
				o.ok(k.Sleep(1))
				i := deep.StackInfo()
				o.check(i.High == savedContext+600 && i.Used == savedContext, "%d bytes used of %d, at most %d", i.Used, i.Size, i.High)
				o.check(!slices.Contains(errors, &deep), "an error before the overflow")
				o.ok(k.Sleep(2))
				o.check(slices.Contains(errors, &deep), "the overflow was not found")
				o.done()
			})
			o.thread(&t1, 16, 16, 0, DontStart, func() {
				fill := t2.StackInfo().Image[0]
				o.check(random != (fill == 0xEFEFEFEF), "filled with %x", fill)
				o.check(fill>>24 == fill&0xFF, "filled with %x", fill)
				for i := range t2.stack.image {
					t2.stack.image[i] = 0x11111111
				}
				o.ok(t2.Resume(), t1.Suspend())
			})
			o.thread(&t2, 17, 17, 0, DontStart, func() { o.ok(t0.Resume()) })
			o.thread(&deep, 14, 14, 0, DontStart, func() {
				k.PushStack(600)
				k.PopStack(600)
				o.ok(k.Sleep(2))
				k.PushStack(2000)
				o.ok(k.Sleep(2))
			})
		})
	}
	// Without checking the sizes are accounted for, and there is no handler.
	play(t, Config{}, func(o *oracle) {
		var th Thread
		o.thread(&th, 16, 16, 0, AutoStart, func() {
			o.want(FeatureNotEnabled, o.k.StackErrorNotify(func(*Thread) {}))
			o.k.PushStack(5000)
			o.k.PopStack(5000)
			i := th.StackInfo()
			o.check(i.High == savedContext+5000 && i.Image == nil, "%+v", i)
			o.done()
		})
	})
	// The analyzer finds what a thread wrote without saying so.
	play(t, Config{StackChecking: true}, func(o *oracle) {
		var th Thread
		o.thread(&th, 16, 16, 0, AutoStart, func() {
			i := th.StackInfo()
			top := len(i.Image) - 1
			for w := top - 50; w < top; w++ {
				i.Image[w] = 1
			}
			o.ok(o.k.Sleep(1))
			o.check(th.StackInfo().High == 200, "at most %d bytes, want 200", th.StackInfo().High)
			o.done()
		})
	})
}

func TestTimers_LongWaitsAreExact(t *testing.T) {
	t.Parallel()
	play(t, Config{}, func(o *oracle) {
		o.thread(new(Thread), 16, 16, 0, AutoStart, func() {
			for _, ticks := range []uint32{1, 2, 31, 32, 33, 63, 64, 65, 96, 97, 1000, 100_000} {
				o.k.SetTime(0)
				o.ok(o.k.Sleep(ticks))
				o.check(o.k.Time() == ticks, "a sleep of %d ticks took %d", ticks, o.k.clock)
			}
			o.done()
		})
	})
}

func TestRun_CutsDoNotMatter(t *testing.T) {
	t.Parallel()
	whole := busyTrace(t, 1, func(k *Kernel) {
		if err := k.RunFor(3 * time.Second); err != nil {
			t.Error(err)
		}
	})
	cut := busyTrace(t, 1, func(k *Kernel) {
		for i := Cycles(0); k.now < k.Cycles(3*time.Second); i++ {
			if err := k.RunUntil(k.now + 1 + i*i%7919); err != nil {
				t.Error(err)
				return
			}
		}
	})
	n := min(len(whole), len(cut))
	if n < 5000 || !slices.Equal(whole[:n], cut[:n]) {
		t.Errorf("traces of %d and %d events differ", len(whole), len(cut))
	}
}
