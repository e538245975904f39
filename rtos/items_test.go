package rtos

import (
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/vauban-iot/vauban/internal/conform"
)

// play runs a board in virtual time until one of its threads calls done.
func play(t *testing.T, cfg Config, define func(o *oracle)) {
	t.Helper()
	o := &oracle{T: t}
	if cfg.ClockHz == 0 {
		cfg.ClockHz = 1_003_700
	}
	o.start(cfg, scenario{run: define})
	defer o.k.Close()
	if err := o.k.RunFor(1_000_000 * time.Second); !o.over {
		t.Fatalf("not done at tick %d: %v", o.k.clock, err)
	}
}

func TestStatus_NumbersAndWords(t *testing.T) {
	t.Parallel()
	conform.Covers(t, "RTOS-1")
	for i, word := range []string{
		"SUCCESS", "DELETED", "POOL_ERROR", "PTR_ERROR", "WAIT_ERROR", "SIZE_ERROR", "GROUP_ERROR", "NO_EVENTS", "OPTION_ERROR", "QUEUE_ERROR",
		"QUEUE_EMPTY", "QUEUE_FULL", "SEMAPHORE_ERROR", "NO_INSTANCE", "THREAD_ERROR", "PRIORITY_ERROR", "NO_MEMORY", "DELETE_ERROR",
		"RESUME_ERROR", "CALLER_ERROR", "SUSPEND_ERROR", "TIMER_ERROR", "TICK_ERROR", "ACTIVATE_ERROR", "THRESH_ERROR", "SUSPEND_LIFTED",
		"WAIT_ABORTED", "WAIT_ABORT_ERROR", "MUTEX_ERROR", "NOT_AVAILABLE", "NOT_OWNED", "INHERIT_ERROR", "NOT_DONE", "CEILING_EXCEEDED",
		"INVALID_CEILING",
	} {
		if got := Status(i).String(); got != "TX_"+word {
			t.Errorf("%#x is %s, want TX_%s", i, got, word)
		}
	}
	named := []struct {
		s    Status
		want uint32
	}{
		{Success, 0}, {Deleted, 1}, {PoolError, 2}, {PtrError, 3}, {WaitError, 4}, {SizeError, 5}, {GroupError, 6}, {NoEvents, 7}, {OptionError, 8},
		{QueueError, 9}, {QueueEmpty, 0xA}, {QueueFull, 0xB}, {SemaphoreError, 0xC}, {NoInstance, 0xD}, {ThreadError, 0xE}, {PriorityError, 0xF},
		{NoMemory, 0x10}, {StartError, 0x10}, {DeleteError, 0x11}, {ResumeError, 0x12}, {CallerError, 0x13}, {SuspendError, 0x14}, {TimerError, 0x15},
		{TickError, 0x16}, {ActivateError, 0x17}, {ThresholdError, 0x18}, {SuspendLifted, 0x19}, {WaitAborted, 0x1A}, {WaitAbortError, 0x1B},
		{MutexError, 0x1C}, {NotAvailable, 0x1D}, {NotOwned, 0x1E}, {InheritError, 0x1F}, {NotDone, 0x20}, {CeilingExceeded, 0x21},
		{InvalidCeiling, 0x22}, {FeatureNotEnabled, 0xFF},
	}
	for _, n := range named {
		if uint32(n.s) != n.want {
			t.Errorf("%v is %#x, want %#x", n.s, uint32(n.s), n.want)
		}
	}
	if Success.Err() != nil || NoInstance.Err() != NoInstance || FeatureNotEnabled.String() != "TX_FEATURE_NOT_ENABLED" || Status(0x77).String() != "TX_UNKNOWN" {
		t.Error("errors and words")
	}
	for i, word := range []string{
		"READY", "COMPLETED", "TERMINATED", "SUSPENDED", "SLEEP", "QUEUE_SUSP", "SEMAPHORE_SUSP", "EVENT_FLAG", "BLOCK_MEMORY", "BYTE_MEMORY",
		"IO_DRIVER", "FILE", "TCP_IP", "MUTEX_SUSP", "PRIORITY_CHANGE",
	} {
		if got := State(i).String(); got != "TX_"+word {
			t.Errorf("state %d is %s, want TX_%s", i, got, word)
		}
	}
	states := []State{Ready, Completed, Terminated, Suspended, Sleeping, QueueSuspended, SemaphoreSuspended, EventSuspended, BlockSuspended,
		ByteSuspended, IODriver, File, TCPIP, MutexSuspended, PriorityChange}
	for i, s := range states {
		if int(s) != i {
			t.Errorf("%v is %d, want %d", s, s, i)
		}
	}
}

// Each step repairs what the step before complained of, so that the order of the checks shows.
func TestChecked_OrderOfChecks(t *testing.T) {
	t.Parallel()
	conform.Covers(t, "RTOS-2")
	play(t, Config{}, func(o *oracle) {
		k := o.k
		var live Thread
		var q, newQueue Queue
		var p, newPool BytePool
		var g EventFlags
		var m, newMutex Mutex
		var tm, newTimer Timer
		o.ok(k.CreateQueue(&q, "", 1, make([]byte, 4)), k.CreateBytePool(&p, "", make([]byte, 108)), k.CreateEventFlags(&g, ""))
		o.ok(k.CreateMutex(&m, "", Inherit), k.CreateTimer(&tm, "", func(uint32) {}, 0, 1000, 0, NoActivate))
		o.thread(&live, 10, 10, 0, DontStart, func() {})
		stack := k.Reserve(1024)
		o.thread(new(Thread), 16, 16, 0, AutoStart, func() {
			old, actual := uint32(0), uint32(0)
			mem := new(Memory)
			// From an interrupt, where the check of the caller comes last.
			o.contexts(func() {
				var c ThreadConfig
				c.Priority, c.Threshold, c.Start, c.Stack.Size = 5000, PreemptBelow(6000), 7, 1
				nt := new(Thread)
				order := func(steps ...Status) func(Status) {
					i := 0
					return func(got Status) {
						o.Helper()
						o.check(got == steps[i], "step %d: %v, want %v", i, got, steps[i])
						i++
					}
				}
				step := order(ThreadError, PtrError, PtrError, SizeError, PriorityError, ThresholdError, StartError, CallerError)
				step(k.CreateThread(&live, c))
				step(k.CreateThread(nt, c))
				c.Stack.Start = stack.Start
				step(k.CreateThread(nt, c))
				c.Entry = func(uint32) {}
				step(k.CreateThread(nt, c))
				c.Stack.Size = 1024
				step(k.CreateThread(nt, c))
				c.Priority = 20
				step(k.CreateThread(nt, c))
				c.Threshold = 0
				step(k.CreateThread(nt, c))
				c.Start = AutoStart
				step(k.CreateThread(nt, c))

				step = order(QueueError, PtrError, SizeError, SizeError, CallerError)
				step(k.CreateQueue(&q, "", 0, nil))
				step(k.CreateQueue(&newQueue, "", 0, nil))
				step(k.CreateQueue(&newQueue, "", 17, make([]byte, 100)))
				step(k.CreateQueue(&newQueue, "", 2, make([]byte, 7)))
				step(k.CreateQueue(&newQueue, "", 2, make([]byte, 8)))

				step = order(PoolError, PtrError, SizeError, CallerError)
				step(k.CreateBytePool(&p, "", nil))
				step(k.CreateBytePool(&newPool, "", nil))
				step(k.CreateBytePool(&newPool, "", make([]byte, 99)))
				step(k.CreateBytePool(&newPool, "", make([]byte, 100)))

				step = order(PoolError, PtrError, SizeError, SizeError, WaitError, CallerError)
				step((*BytePool)(nil).Allocate(nil, 0, 1))
				step(p.Allocate(nil, 0, 1))
				step(p.Allocate(mem, 0, 1))
				step(p.Allocate(mem, 1000, 1))
				step(p.Allocate(mem, 10, 1))
				step(p.Allocate(mem, 10, NoWait))

				step = order(MutexError, InheritError, CallerError)
				step(k.CreateMutex(&m, "", 5))
				step(k.CreateMutex(&newMutex, "", 5))
				step(k.CreateMutex(&newMutex, "", Inherit))
				step = order(MutexError, WaitError, CallerError)
				step((*Mutex)(nil).Get(1))
				step(m.Get(1))
				step(m.Get(NoWait))

				step = order(TimerError, TickError, ActivateError, CallerError)
				step(k.CreateTimer(&tm, "", nil, 0, 0, 0, 9))
				step(k.CreateTimer(&newTimer, "", nil, 0, 0, 0, 9))
				step(k.CreateTimer(&newTimer, "", nil, 0, 1, 0, 9))
				step(k.CreateTimer(&newTimer, "", nil, 0, 1, 0, AutoActivate))

				step = order(GroupError, PtrError, WaitError, OptionError, NoEvents)
				step((*EventFlags)(nil).Get(1, 14, nil, 1))
				step(g.Get(1, 14, nil, 1))
				step(g.Get(1, 14, &actual, 1))
				step(g.Get(1, 14, &actual, NoWait))
				step(g.Get(1, Or, &actual, NoWait))

				step = order(ThreadError, PtrError, PriorityError, CallerError)
				step((*Thread)(nil).ChangePriority(5000, nil))
				step(live.ChangePriority(5000, nil))
				step(live.ChangePriority(5000, &old))
				step(live.ChangePriority(5, &old))
				// Here ThreadX looks at the caller before it looks at the threshold.
				step = order(ThreadError, PtrError, CallerError)
				step((*Thread)(nil).ChangeThreshold(5000, nil))
				step(live.ChangeThreshold(5000, nil))
				step(live.ChangeThreshold(5000, &old))
				step = order(QueueError, PtrError, WaitError, QueueEmpty)
				step((*Queue)(nil).Receive(nil, 1))
				step(q.Receive(nil, 1))
				step(q.Receive(make([]uint32, 1), 1))
				step(q.Receive(make([]uint32, 1), NoWait))
			}, func() {})
			o.done()
		})
	})
	// The raw layer, which the kernel uses inside, is what is left without error checking.
	play(t, Config{DisableErrorChecking: true}, func(o *oracle) {
		var s Semaphore
		var g EventFlags
		var actual uint32
		o.ok(o.k.CreateSemaphore(&s, "", 1), o.k.CreateEventFlags(&g, ""))
		o.thread(new(Thread), 16, 16, 0, AutoStart, func() {
			o.want(CeilingExceeded, s.CeilingPut(0))
			o.ok(g.Set(3, OrClear), g.Get(1, 4, &actual, NoWait))
			o.contexts(func() {
				o.ok(s.Get(100)) // there is one
				o.want(NoInstance, s.Get(100))
				o.ok(s.Put())
			}, func() {})
			s.id = 0
			o.ok(s.Get(NoWait))
			o.done()
		})
	})
}

// objects are all kinds of objects with how they are made and ended, for tables over services and contexts.
type object1 struct {
	kind   string
	create func() Status
	delete func() Status
}

func objects(o *oracle) []object1 {
	k := o.k
	var t Thread
	var s Semaphore
	var m Mutex
	var g EventFlags
	var q Queue
	var b BlockPool
	var p BytePool
	var tm Timer
	stack := k.Reserve(1024)
	return []object1{
		{"thread", func() Status {
			return k.CreateThread(&t, ThreadConfig{Stack: stack, Entry: func(uint32) {}, Priority: 20})
		}, func() Status {
			if k.systemState == 0 {
				t.Terminate()
			}
			return t.Delete()
		}},
		{"semaphore", func() Status { return k.CreateSemaphore(&s, "", 0) }, s.Delete},
		{"mutex", func() Status { return k.CreateMutex(&m, "", Inherit) }, m.Delete},
		{"event flags", func() Status { return k.CreateEventFlags(&g, "") }, g.Delete},
		{"queue", func() Status { return k.CreateQueue(&q, "", 1, make([]byte, 8)) }, q.Delete},
		{"block pool", func() Status { return k.CreateBlockPool(&b, "", 8, make([]byte, 64)) }, b.Delete},
		{"byte pool", func() Status { return k.CreateBytePool(&p, "", make([]byte, 128)) }, p.Delete},
		{"timer", func() Status { return k.CreateTimer(&tm, "", func(uint32) {}, 0, 9, 9, NoActivate) }, tm.Delete},
	}
}

func TestChecked_WhoMayCreateAndDelete(t *testing.T) {
	t.Parallel()
	conform.Covers(t, "RTOS-3")
	play(t, Config{}, func(o *oracle) {
		inInit := objects(o)
		for _, x := range inInit {
			o.ok(x.create())
			o.want(CallerError, x.delete())
		}
		fresh, inThread := objects(o), objects(o)
		o.thread(new(Thread), 16, 16, 0, AutoStart, func() {
			for _, x := range inThread {
				o.check(x.create() == Success, "create %s in a thread", x.kind)
			}
			refused := func(where string, threads bool) func() {
				return func() {
					for i, x := range fresh {
						o.check(x.create() == CallerError, "create %s in %s", x.kind, where)
						if x.kind != "thread" || threads {
							o.check(inThread[i].delete() == CallerError, "delete %s in %s", x.kind, where)
						}
					}
				}
			}
			// ThreadX's table lets the timer thread delete threads (rtos §18).
			o.contexts(refused("an interrupt", true), refused("a timer", false))
			for i := range inThread {
				o.check(inThread[i].delete() == Success && inInit[i].delete() == Success, "delete %s in a thread", inThread[i].kind)
			}
			o.done()
		})
	})
}

func TestChecked_WaitsOutsideOfThreads(t *testing.T) {
	t.Parallel()
	conform.Covers(t, "RTOS-4")
	play(t, Config{}, func(o *oracle) {
		k := o.k
		var s Semaphore
		var m Mutex
		var g EventFlags
		var q Queue
		var b BlockPool
		var p BytePool
		o.ok(k.CreateSemaphore(&s, "", 1), k.CreateMutex(&m, "", Inherit), k.CreateEventFlags(&g, ""), k.CreateQueue(&q, "", 1, make([]byte, 8)),
			k.CreateBlockPool(&b, "", 8, make([]byte, 64)), k.CreateBytePool(&p, "", make([]byte, 128)))
		word := make([]uint32, 1)
		waits := func(bytes Status) func() {
			return func() {
				for _, wait := range []uint32{1, 100, WaitForever} {
					var actual uint32
					for i, got := range []Status{
						s.Get(wait), m.Get(wait), g.Get(1, 14, &actual, wait), q.Send(word, wait), q.FrontSend(word, wait), q.Receive(word, wait),
						b.Allocate(new(Block), wait),
					} {
						o.check(got == WaitError, "service %d with %d: %v", i, wait, got)
					}
					o.want(bytes, p.Allocate(new(Memory), 8, wait))
				}
			}
		}
		waits(WaitError)()
		o.thread(new(Thread), 16, 16, 0, AutoStart, func() {
			o.contexts(waits(WaitError), waits(CallerError)) // a timer may not even ask a byte pool
			o.done()
		})
	})
}

func TestTimeSlice_SavedReloadedAndDisabled(t *testing.T) {
	t.Parallel()
	conform.Covers(t, "RTOS-8")
	play(t, Config{}, func(o *oracle) {
		k := o.k
		var t0, t1, high Thread
		ran := 0
		o.thread(&high, 10, 10, 0, AutoStart, func() {
			o.ok(k.Sleep(4))
			o.check(t0.timeSlice == 6, "%d ticks of the slice are kept over a preemption, want 6", t0.timeSlice)
			o.ok(k.Sleep(3))
			o.check(t0.timeSlice == 3, "%d ticks are kept, want 3", t0.timeSlice)
		})
		o.thread(&t0, 16, 16, 10, AutoStart, func() {
			k.Compute(k.tickCycles*7 + 100)
			o.check(k.slice == 3 && ran == 0, "%d ticks are left", k.slice)
			k.Relinquish()
			o.check(k.slice == 10, "%d ticks are left after relinquish, want 10", k.slice)
			k.Compute(k.tickCycles * 4)
			o.ok(k.Sleep(1))
			o.check(k.slice == 10, "%d ticks are left after a suspension, want 10", k.slice)
			var old uint32
			seen := ran
			o.ok(t0.ChangeThreshold(15, &old))
			k.Compute(k.tickCycles * 25)
			o.check(ran == seen, "thread 1 ran although the threshold is not the priority")
			o.ok(t0.ChangeThreshold(16, &old))
			k.Compute(k.tickCycles * 25)
			o.check(ran > seen, "thread 1 did not run")
			o.done()
		})
		o.thread(&t1, 16, 16, 2, AutoStart, func() {
			for {
				ran++
				k.Relinquish()
			}
		})
	})
}

func TestThread_EndReleasesMutexesAndNotifiesOnce(t *testing.T) {
	t.Parallel()
	conform.Covers(t, "RTOS-12")
	for _, how := range []string{"returns", "terminates itself", "is terminated ready", "is terminated waiting"} {
		t.Run(how, func(t *testing.T) {
			play(t, Config{Windows: AllWindows}, func(o *oracle) {
				k := o.k
				var t0, t1, t2 Thread
				var m [2]Mutex
				var entries, exits int
				o.ok(k.CreateMutex(&m[0], "", Inherit), k.CreateMutex(&m[1], "", NoInherit))
				o.thread(&t1, 15, 15, 0, AutoStart, func() {
					o.ok(m[0].Get(NoWait), m[0].Get(NoWait), m[1].Get(NoWait))
					switch how {
					case "returns":
						o.ok(t2.Resume())
					case "terminates itself":
						o.ok(t2.Resume())
						t1.Terminate()
					case "is terminated ready":
						o.ok(t2.Resume())
						k.Relinquish()
						k.Relinquish()
					case "is terminated waiting":
						o.ok(t2.Resume())
						k.Sleep(1000)
					}
				})
				o.ok(t1.EntryExitNotify(countEntries(&entries, &exits)))
				got := 0
				o.thread(&t2, 20, 20, 0, DontStart, func() {
					o.ok(m[0].Get(WaitForever), m[1].Get(WaitForever))
					got++
				})
				var old uint32
				o.thread(&t0, 16, 16, 0, AutoStart, func() {
					if how == "is terminated ready" {
						o.ok(t1.ChangePriority(17, &old))
					}
					o.ok(t1.Terminate())
					o.ok(t1.Terminate())
					o.ok(k.Sleep(1))
					o.counts([]int{1, 1, 1}, entries, exits, got)
					o.check(t1.owned == nil && t1.ownedCount == 0, "mutexes are still owned")
					o.done()
				})
			})
		})
	}
}

func TestWaitLists_FirstComeFirstServed(t *testing.T) {
	t.Parallel()
	conform.Covers(t, "RTOS-16")
	type object struct {
		wait, wake, prioritize func() Status
	}
	for name, make1 := range map[string]func(o *oracle) object{
		"semaphore": func(o *oracle) object {
			var s Semaphore
			o.ok(o.k.CreateSemaphore(&s, "", 0))
			return object{func() Status { return s.Get(WaitForever) }, s.Put, s.Prioritize}
		},
		"mutex": func(o *oracle) object {
			var m Mutex
			o.ok(o.k.CreateMutex(&m, "", NoInherit))
			// Who has it ends, and so gives it to the next one.
			return object{func() Status { return m.Get(WaitForever) }, m.Put, m.Prioritize}
		},
		"queue receivers": func(o *oracle) object {
			var q Queue
			o.ok(o.k.CreateQueue(&q, "", 1, make([]byte, 4)))
			return object{func() Status { return q.Receive(make([]uint32, 1), WaitForever) }, func() Status { return q.Send([]uint32{1}, NoWait) }, q.Prioritize}
		},
		"queue senders": func(o *oracle) object {
			var q Queue
			o.ok(o.k.CreateQueue(&q, "", 1, make([]byte, 4)), q.Send([]uint32{1}, NoWait))
			return object{func() Status { return q.Send([]uint32{1}, WaitForever) }, func() Status { return q.Receive(make([]uint32, 1), NoWait) }, q.Prioritize}
		},
		"block pool": func(o *oracle) object {
			var p BlockPool
			var b Block
			o.ok(o.k.CreateBlockPool(&p, "", 8, make([]byte, 12)), p.Allocate(&b, NoWait))
			return object{func() Status { return p.Allocate(&b, WaitForever) }, func() Status { return b.Release() }, p.Prioritize}
		},
		"byte pool": func(o *oracle) object {
			var p BytePool
			var m Memory
			o.ok(o.k.CreateBytePool(&p, "", make([]byte, 108)), p.Allocate(&m, 80, NoWait))
			return object{func() Status { return p.Allocate(&m, 80, WaitForever) }, func() Status { return m.Release() }, p.Prioritize}
		},
		"event flags": func(o *oracle) object {
			var g EventFlags
			o.ok(o.k.CreateEventFlags(&g, ""))
			var actual uint32
			return object{func() Status { return g.Get(1, Or, &actual, WaitForever) }, func() Status { return g.Set(1, Or) }, nil}
		},
	} {
		t.Run(name, func(t *testing.T) {
			for _, prioritized := range []bool{false, true} {
				play(t, Config{}, func(o *oracle) {
					x := make1(o)
					if prioritized && x.prioritize == nil {
						o.thread(new(Thread), 1, 1, 0, AutoStart, o.done)
						return
					}
					var order []int
					ts := make([]Thread, 5)
					o.thread(new(Thread), 30, 30, 0, AutoStart, func() {
						if name == "mutex" {
							o.ok(x.wait()) // to own it
						}
						for _, i := range []int{3, 1, 4, 0, 2} {
							o.ok(ts[i].Resume())
						}
						if prioritized {
							o.ok(x.prioritize())
						}
						for len(order) < 5 {
							o.ok(x.wake())
						}
						want := []int{3, 1, 4, 0, 2}
						switch {
						case prioritized:
							want = []int{0, 3, 1, 4, 2} // one goes to the head, the others stay in order
						case name == "event flags":
							want = []int{0, 1, 2, 3, 4} // all at once, and then by priority
						}
						o.check(slices.Equal(order, want), "order %v, want %v", order, want)
						o.done()
					})
					for i := range ts {
						o.thread(&ts[i], uint32(10+i), uint32(10+i), 0, DontStart, func() {
							o.ok(x.wait())
							order = append(order, i)
						})
					}
				})
			}
		})
	}
}

func TestPools_PointerSizeAndAlignment(t *testing.T) {
	t.Parallel()
	conform.Covers(t, "RTOS-21")
	for _, c := range []struct {
		pointer, align    uint32
		available, blocks uint32 // of a byte pool of 206 bytes; blocks of 30 bytes in 206
		size              int    // a block's
	}{
		{0, 0, 196, 5, 32}, {4, 4, 196, 5, 32}, {8, 8, 184, 5, 32}, {8, 4, 192, 5, 32}, {4, 8, 188, 5, 32},
	} {
		t.Run(fmt.Sprintf("%d/%d", c.pointer, c.align), func(t *testing.T) {
			play(t, Config{PointerSize: c.pointer, Alignment: c.align}, func(o *oracle) {
				var p BytePool
				var b BlockPool
				o.ok(o.k.CreateBytePool(&p, "", make([]byte, 206)), o.k.CreateBlockPool(&b, "", 30, make([]byte, 206)))
				o.thread(new(Thread), 16, 16, 0, AutoStart, func() {
					o.check(p.available == c.available, "%d bytes are available, want %d", p.available, c.available)
					o.check(b.total == c.blocks && b.size == uint32(c.size), "%d blocks of %d bytes, want %d", b.total, b.size, c.blocks)
					var all []Memory
					for {
						var m Memory
						if p.Allocate(&m, 21, NoWait) != Success {
							break
						}
						all = append(all, m)
					}
					rounded := (21 + o.k.cfg.Alignment - 1) / o.k.cfg.Alignment * o.k.cfg.Alignment
					want := int((c.available) / (rounded + p.overhead()))
					o.check(len(all) == want, "%d pieces of 21 bytes, want %d", len(all), want)
					for i, m := range all {
						for j := range m.Bytes() {
							m.Bytes()[j] = byte(i)
						}
					}
					for i, m := range all {
						o.check(m.Bytes()[0] == byte(i) && m.Bytes()[20] == byte(i), "piece %d was written over", i)
						o.ok(m.Release())
					}
					o.check(p.available == c.available, "%d bytes came back, want %d", p.available, c.available)
					o.done()
				})
			})
		})
	}
}

func TestTick_Order(t *testing.T) {
	t.Parallel()
	conform.Covers(t, "RTOS-24")
	var order []string
	tracer := &recorder{event: func(e Event) {
		switch {
		case e.ID == EventTimeSlice:
			order = append(order, "time slice")
		case e.ID == EventThreadResume && e.Thread == ContextISR:
			order = append(order, "expiry")
		}
	}}
	play(t, Config{Tracer: tracer}, func(o *oracle) {
		k := o.k
		o.thread(new(Thread), 16, 16, 3, AutoStart, func() {
			o.isr = func() {
				order = append(order, fmt.Sprintf("hook: clock %d, slice %d", k.clock, k.slice))
			}
			k.Compute(k.tickCycles*3 + 500)
			o.isr = nil
			want := []string{
				"hook: clock 0, slice 3", "hook: clock 1, slice 2", "hook: clock 2, slice 1", "expiry", "time slice",
			}
			o.check(slices.Equal(order, want), "%s", cmp.Diff(want, order))
			o.done()
		})
		o.ok(k.CreateTimer(new(Timer), "", func(uint32) {}, 0, 3, 0, AutoActivate))
	})
}

// recorder is a tracer for tests.
type recorder struct {
	event   func(Event)
	created []ObjectInfo
	deleted []uint32
}

func (r *recorder) Event(e Event) {
	if r.event != nil {
		r.event(e)
	}
}
func (r *recorder) Created(o ObjectInfo)   { r.created = append(r.created, o) }
func (r *recorder) Deleted(address uint32) { r.deleted = append(r.deleted, address) }

func TestPriorities_Thousand(t *testing.T) {
	t.Parallel()
	play(t, Config{MaxPriorities: 1024}, func(o *oracle) {
		priorities := []uint32{1000, 31, 992, 32, 500, 64, 33, 63, 991, 1023}
		var order []uint32
		ts := make([]Thread, len(priorities))
		for i, p := range priorities {
			o.thread(&ts[i], p, p, 0, AutoStart, func() { order = append(order, p) })
		}
		// A threshold in another word of the map than those that it holds back.
		var holder, held, better Thread
		o.thread(&holder, 980, 40, 0, DontStart, func() {
			o.ok(held.Resume())
			order = append(order, 980)
			o.ok(better.Resume())
			order = append(order, 981)
		})
		o.thread(&held, 45, 45, 0, DontStart, func() { order = append(order, 45) })
		o.thread(&better, 12, 12, 0, DontStart, func() { order = append(order, 12) })
		o.thread(new(Thread), 1023, 1023, 0, AutoStart, func() {
			slices.Sort(priorities)
			o.check(slices.Equal(order, priorities), "order %v", order)
			order = nil
			o.ok(holder.Resume())
			o.check(slices.Equal(order, []uint32{980, 12, 981, 45}), "order %v", order)
			var old uint32
			o.want(PriorityError, ts[0].ChangePriority(1024, &old))
			o.done()
		})
	})
}

func TestMutex_WhoGetsItAndWhatItInherits(t *testing.T) {
	t.Parallel()
	play(t, Config{Windows: AllWindows}, func(o *oracle) {
		k := o.k
		var m, m2 Mutex
		ts := make([]Thread, 4)
		var order []int
		o.ok(k.CreateMutex(&m, "m", Inherit), k.CreateMutex(&m2, "m2", Inherit))
		o.thread(&ts[0], 20, 20, 0, AutoStart, func() {
			o.ok(m.Get(NoWait), ts[3].Resume(), ts[2].Resume(), ts[1].Resume())
			o.check(ts[0].priority == 10, "the owner runs at %d", ts[0].priority)
			o.ok(m.Put())
			o.ok(k.Sleep(2))
			o.check(slices.Equal(order, []int{1, 2, 3}), "order %v", order)
			o.done()
		})
		for i, p := range []uint32{10, 12, 14} {
			o.thread(&ts[i+1], p, p, 0, DontStart, func() {
				if i == 0 {
					o.ok(m2.Get(NoWait))
				}
				o.ok(m.Get(WaitForever))
				order = append(order, i+1)
				if i == 0 {
					// The new owner may fall only to the best of those who still wait.
					var old uint32
					o.ok(ts[1].ChangePriority(18, &old), m2.Put())
					o.check(ts[1].priority == 12, "the new owner runs at %d, want 12", ts[1].priority)
				}
				o.ok(m.Put())
			})
		}
	})
}

func TestPrioritize_FirstAmongEquals(t *testing.T) {
	t.Parallel()
	play(t, Config{}, func(o *oracle) {
		var s Semaphore
		ts := make([]Thread, 4)
		o.ok(o.k.CreateSemaphore(&s, "s", 0))
		o.thread(new(Thread), 30, 30, 0, AutoStart, func() {
			for i := range ts {
				o.ok(ts[i].Resume())
			}
			o.ok(s.Prioritize())
			for i, want := range []*Thread{&ts[1], &ts[0], &ts[2], &ts[3]} {
				o.check(s.waiters.head == want, "place %d", i)
				o.ok(s.Put())
			}
			o.done()
		})
		for i, p := range []uint32{9, 5, 5, 7} {
			o.thread(&ts[i], p, p, 0, DontStart, func() { o.ok(s.Get(WaitForever)) })
		}
	})
}

// The wait is over and the thread not yet ready: too late for an abort.
func TestWaitAbort_TooLate(t *testing.T) {
	t.Parallel()
	var o *oracle
	var waiter Thread
	hits := 0
	cfg := Config{Windows: AllWindows, OnWindow: func(w Window) {
		if w == WindowResume && waiter.state == SemaphoreSuspended && waiter.waiting == nil {
			hits++
			o.k.Interrupt(func() { o.want(WaitAbortError, waiter.WaitAbort()) })
		}
	}}
	play(t, cfg, func(x *oracle) {
		o = x
		var s Semaphore
		got := false
		o.ok(o.k.CreateSemaphore(&s, "s", 0))
		o.thread(&waiter, 10, 10, 0, AutoStart, func() {
			o.ok(s.Get(WaitForever))
			got = true
		})
		o.thread(new(Thread), 16, 16, 0, AutoStart, func() {
			o.ok(s.Put())
			o.check(got && hits == 1, "got it: %v, %d interrupts", got, hits)
			o.done()
		})
	})
}

// A set looks through two waiters while an interrupt suspends one of them and aborts its wait: it stays suspended.
func TestEventSet_AbortedWaiterStaysSuspended(t *testing.T) {
	t.Parallel()
	var o *oracle
	var a, b Thread
	hits := 0
	cfg := Config{Windows: AllWindows, OnWindow: func(w Window) {
		if w == WindowEventSet && a.state == EventSuspended && hits == 0 {
			hits++
			o.k.Interrupt(func() { o.ok(a.Suspend(), a.WaitAbort()) })
		}
	}}
	play(t, cfg, func(x *oracle) {
		o = x
		var g EventFlags
		o.ok(o.k.CreateEventFlags(&g, "g"))
		var statuses []Status
		wait := func() {
			var actual uint32
			statuses = append(statuses, g.Get(1, Or, &actual, WaitForever))
		}
		o.thread(&a, 10, 10, 0, AutoStart, wait)
		o.thread(&b, 10, 10, 0, AutoStart, wait)
		o.thread(new(Thread), 16, 16, 0, AutoStart, func() {
			o.ok(g.Set(1, Or))
			o.check(hits == 1 && slices.Equal(statuses, []Status{Success}), "%d interrupts, %v", hits, statuses)
			o.states(Suspended, &a)
			o.ok(a.Resume())
			o.check(slices.Equal(statuses, []Status{Success, WaitAborted}) && g.waiters.count == 0, "%v", statuses)
			o.done()
		})
	})
}
