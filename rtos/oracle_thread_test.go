package rtos

var threadScenarios = []scenario{
	{"S01", "thresholds do not count in initialization", func(o *oracle) {
		t, n := o.threads(3)
		o.thread(&t[2], 17, 0, 0, AutoStart, func() { n[2]++ })
		o.thread(&t[1], 16, 0, 0, AutoStart, func() { n[1]++ })
		o.thread(&t[0], 15, 0, 0, DontStart, func() {
			o.counts([]int{0, 0}, n[1], n[2])
			o.ok(o.k.Sleep(2))
			o.counts([]int{1, 1}, n[1], n[2])
			o.done()
		})
		o.ok(t[0].Resume())
	}},
	{"S02", "relinquish goes round", func(o *oracle) {
		t, n := o.threads(4)
		for i := range t {
			o.thread(&t[i], 16, 16, 0, AutoStart, func() {
				for j := range t {
					want := 0
					if j < i {
						want = 1
					}
					o.check(n[j] == want, "thread %d sees that thread %d ran %d times", i, j, n[j])
				}
				n[i]++
				if i == 3 {
					o.states(Ready, &t[0], &t[1], &t[2])
					o.k.Relinquish()
					o.states(Completed, &t[0], &t[1], &t[2])
					o.done()
				}
				o.k.Relinquish()
			})
		}
	}},
	{"S03", "resumed threads of higher priority run inside resume", func(o *oracle) {
		t, n := o.threads(6)
		for i, p := range []uint32{13, 16, 16, 16, 15} {
			o.thread(&t[i], p, p, 0, AutoStart, func() {
				for {
					n[i]++
					o.ok(t[i].Suspend())
				}
			})
		}
		o.thread(&t[5], 17, 17, 0, AutoStart, func() {
			want := []int{1, 1, 1, 1, 1}
			o.counts(want, n[:5]...)
			for i := range want {
				o.ok(t[i].Resume())
				want[i]++
				o.counts(want, n[:5]...)
				o.states(Suspended, &t[0], &t[1], &t[2], &t[3], &t[4])
			}
			o.k.Relinquish()
			o.counts(want, n[:5]...)
			o.done()
		})
	}},
	{"S04", "a threshold holds them back until relinquish", func(o *oracle) {
		t, n := o.threads(6)
		for i, p := range []uint32{13, 16, 16, 16, 15} {
			o.thread(&t[i], p, p, 0, AutoStart, func() {
				for {
					n[i]++
					o.ok(t[i].Suspend())
				}
			})
		}
		o.thread(&t[5], 31, 13, 0, AutoStart, func() {
			o.counts([]int{1, 1, 1, 1, 1}, n[:5]...)
			for i := range 5 {
				o.ok(t[i].Resume())
				o.states(Ready, &t[i])
			}
			o.counts([]int{1, 1, 1, 1, 1}, n[:5]...)
			o.k.Relinquish()
			o.counts([]int{2, 2, 2, 2, 2}, n[:5]...)
			o.states(Suspended, &t[0], &t[1], &t[2], &t[3], &t[4])
			o.done()
		})
	}},
	{"S05", "a ready thread is suspended before it runs", func(o *oracle) {
		t, n := o.threads(5)
		o.thread(&t[0], 16, 16, 0, AutoStart, func() {
			o.ok(t[1].Resume(), t[2].Resume(), t[3].Resume())
			o.counts([]int{0, 0, 1, 0}, n[1:]...)
			o.ok(t[1].Suspend(), t[4].Resume())
			o.counts([]int{0, 0, 1, 0}, n[1:]...)
			o.k.Relinquish()
			o.counts([]int{0, 1, 1, 1}, n[1:]...)
			o.done()
		})
		o.thread(&t[1], 16, 16, 0, DontStart, func() { n[1]++ })
		o.thread(&t[2], 16, 16, 0, DontStart, func() { o.check(n[4] == 0, "thread 4 was first"); n[2]++ })
		o.thread(&t[3], 15, 15, 0, DontStart, func() { n[3]++ })
		o.thread(&t[4], 16, 16, 0, DontStart, func() { o.check(n[2] == 1, "thread 2 was not first"); n[4]++ })
	}},
	{"S06", "thresholds on thresholds", func(o *oracle) {
		var t0, t1, t2, t2a, t3, t4 Thread
		var n1, n2, n2a, n3, n4 int
		o.thread(&t0, 31, 16, 0, AutoStart, func() {
			o.ok(t1.Resume())
			o.counts([]int{0, 0, 0, 0, 0}, n1, n2, n2a, n3, n4)
			o.ok(t2.Resume())
			o.counts([]int{0, 1, 1, 1, 1}, n1, n2, n2a, n3, n4)
			var old uint32
			o.ok(t0.ChangeThreshold(17, &old))
			o.counts([]int{1, 1, 1, 1, 1}, n1, n2, n2a, n3, n4)
			o.check(o.k.preempted.empty(), "somebody is preempted")
			o.check(old == 16, "the old threshold was %d", old)
			o.done()
		})
		o.thread(&t1, 16, 16, 0, DontStart, func() { n1++ })
		o.thread(&t2, 15, 10, 0, DontStart, func() {
			o.ok(t3.Resume(), t2a.Resume())
			o.counts([]int{0, 0, 0, 0, 0}, n1, n2, n2a, n3, n4)
			o.ok(t4.Resume())
			o.counts([]int{0, 0, 0, 0, 1}, n1, n2, n2a, n3, n4)
			o.k.Relinquish()
			o.counts([]int{0, 0, 1, 1, 1}, n1, n2, n2a, n3, n4)
			n2++
		})
		o.thread(&t2a, 15, 15, 0, DontStart, func() { o.check(n3 == 1, "thread 3 was not first"); n2a++ })
		o.thread(&t3, 11, 11, 0, DontStart, func() { n3++ })
		o.thread(&t4, 9, 9, 0, DontStart, func() { n4++ })
	}},
	{"S07", "a chain of thresholds", func(o *oracle) {
		// Each resumes the next better one, which runs at once. 6/5 lets both 4/3 and 3/2 run, which resume 2/1 and 1/1.
		levels := [][2]uint32{{30, 29}, {28, 27}, {26, 25}, {24, 23}, {22, 21}, {20, 19}, {18, 17}, {16, 15}, {14, 13}, {12, 11}, {10, 9}, {8, 7},
			{6, 5}, {4, 3}, {3, 2}, {2, 1}, {1, 1}}
		resumes := map[int][]int{12: {13, 14}, 13: {15}, 14: {16}, 15: nil, 16: nil}
		t, n := o.threads(len(levels))
		var t0 Thread
		for i, l := range levels {
			next, ok := resumes[i]
			if !ok {
				next = []int{i + 1}
			}
			o.thread(&t[i], l[0], l[1], 0, DontStart, func() {
				for _, j := range next {
					o.ok(t[j].Resume())
					o.check(n[j] == 1, "thread %d/%d did not run inside of its resume", levels[j][0], levels[j][1])
				}
				n[i]++
				if i == 0 {
					o.ok(t0.Resume())
				}
			})
		}
		o.thread(&t0, 31, 17, 0, AutoStart, func() {
			o.ok(t[0].Resume())
			o.check(n[0] == 0, "30/29 ran although the threshold is 17")
			o.ok(t0.Suspend())
			for i := range n {
				o.check(n[i] == 1, "thread %d ran %d times", i, n[i])
			}
			o.done()
		})
	}},
	{"S08-S10", "changes of the threshold", func(o *oracle) {
		var t0, t1, t2 Thread
		var n1, n2 int
		var m Mutex
		o.thread(&t0, 16, 15, 0, AutoStart, func() {
			var old uint32
			o.ok(t1.Resume())
			o.counts([]int{0, 0}, n1, n2)
			o.ok(t0.ChangeThreshold(15, &old))
			o.counts([]int{0, 0}, n1, n2)
			o.ok(t0.ChangeThreshold(16, &old))
			o.counts([]int{1, 0, 15}, n1, n2, int(old))
			o.ok(t2.ChangeThreshold(11, &old))
			o.counts([]int{1, 0, 14}, n1, n2, int(old))
			o.ok(t0.ChangeThreshold(15, &old))
			o.counts([]int{1, 0, 16}, n1, n2, int(old))
			o.ok(t2.Resume())
			o.counts([]int{1, 1}, n1, n2)
			for i := range 24 {
				o.ok(t0.ChangeThreshold(14, &old), t2.Resume())
				o.check(n2 == i+1, "threshold 14, and thread 2 ran %d times", n2)
				o.ok(t0.ChangeThreshold(15, &old))
				o.check(n2 == i+2, "threshold 15, and thread 2 ran %d times", n2)
			}
			o.ok(t0.ChangePriority(7, &old), t1.ChangePriority(5, &old))
			o.ok(t0.ChangeThreshold(0, &old))
			o.check(old == 7, "the old threshold was %d", old)
			o.ok(m.Get(WaitForever), t1.Resume(), t0.Suspend())
			o.ok(t0.ChangeThreshold(old, &old))
			o.counts([]int{0, 5, 5}, int(old), int(t0.priority), int(t0.threshold))
			o.ok(m.Put())
			o.counts([]int{7, 7}, int(t0.priority), int(t0.threshold))
			o.want(ThresholdError, t0.ChangeThreshold(8, &old))
			o.done()
		})
		o.thread(&t1, 15, 15, 0, AutoStart, func() {
			o.ok(t1.Suspend())
			n1++
			o.ok(t1.Suspend())
			o.ok(t0.Resume(), m.Get(WaitForever), m.Put())
		})
		o.thread(&t2, 14, 14, 0, DontStart, func() {
			for {
				n2++
				o.ok(t2.Suspend())
			}
		})
		o.ok(o.k.CreateMutex(&m, "mutex", Inherit))
	}},
	{"S11", "changes of the priority", func(o *oracle) {
		var t0, t1, t2 Thread
		var n1, n2 int
		loop := func(t *Thread, n *int) func() {
			return func() {
				for {
					*n++
					o.ok(t.Suspend())
				}
			}
		}
		o.thread(&t0, 16, 16, 0, AutoStart, func() {
			var old uint32
			steps := []struct {
				t       *Thread
				to, old uint32
				ran1    int
				resume1 bool
			}{
				{&t0, 22, 16, 0, false},
				{&t0, 16, 22, 0, false},
				{&t0, 7, 16, 0, false},
				{&t1, 21, 22, 0, false},
				{&t0, 22, 7, 1, false},
				{&t0, 8, 22, 1, false},
				{&t1, 19, 21, 1, false},
				{&t1, 8, 19, 1, true},
				{&t1, 7, 8, 2, false},
				{&t0, 7, 8, 2, false},
			}
			for i, s := range steps {
				if s.resume1 {
					o.ok(t1.Resume())
					o.check(n1 == s.ran1, "thread 1 ran at its resume")
				}
				o.ok(s.t.ChangePriority(s.to, &old))
				o.check(old == s.old && n1 == s.ran1 && n2 == 0, "step %d: old priority %d, thread 1 ran %d times, thread 2 %d", i, old, n1, n2)
			}
			o.done()
		})
		o.thread(&t1, 22, 22, 0, AutoStart, loop(&t1, &n1))
		o.thread(&t2, 30, 1, 0, AutoStart, loop(&t2, &n2))
	}},
	{"S11", "an interrupt suspends a thread that changes its priority", func(o *oracle) {
		// Upstream waits for a tick to land there; here the window's own hook puts the interrupt there.
		if !o.open(WindowThreadSuspend) {
			o.thread(new(Thread), 1, 1, 0, AutoStart, o.done)
			return
		}
		var t0, t3, t4 Thread
		var n4 int
		hit := false
		o.thread(&t0, 16, 16, 0, AutoStart, func() {
			o.ok(t3.Resume())
			o.check(hit, "no interrupt landed in the change")
			o.states(Suspended, &t3)
			o.counts([]int{1}, n4)
			o.done()
		})
		o.thread(&t3, 5, 5, 0, DontStart, func() {
			o.ok(t4.Resume())
			var old uint32
			o.k.cfg.OnWindow = func(w Window) {
				if w == WindowThreadSuspend && t3.state == PriorityChange && !hit {
					hit = true
					o.k.Interrupt(func() { o.ok(t3.Suspend()) })
				}
			}
			o.ok(t3.ChangePriority(6, &old))
			o.check(false, "thread 3 goes on")
		})
		o.thread(&t4, 6, 6, 0, DontStart, func() { n4++ })
	}},
	{"S12", "a time slice with nobody else", func(o *oracle) {
		o.thread(new(Thread), 16, 16, 1, AutoStart, func() {
			for o.k.Time() <= 18 {
			}
			o.done()
		})
	}},
	{"S13", "time slices share the processor, but not above a threshold", func(o *oracle) {
		t, n := o.threads(5)
		spin := func(i int) func() {
			return func() {
				for {
					n[i]++
					o.k.Identify()
				}
			}
		}
		o.thread(&t[0], 16, 16, 2, AutoStart, spin(0))
		o.thread(&t[1], 16, 16, 4, AutoStart, spin(1))
		o.thread(&t[2], 15, 15, 0, AutoStart, func() {
			o.ok(o.k.Sleep(48))
			o.timed(n[1] > n[0]+n[0]/4, "thread 1 ran %d times, thread 0 %d", n[1], n[0])
			if !o.real {
				ratio := float64(n[1]) / float64(n[0])
				o.check(ratio > 1.99 && ratio < 2.01, "slices of 4 and 2 ticks give a ratio of %.3f", ratio)
			}
			o.ok(t[0].Suspend(), t[1].Suspend())
			o.ok(o.k.Sleep(4))
			o.timed(n[3] > 0, "thread 3 did not run")
			o.check(n[4] == 0, "thread 4 ran %d times", n[4])
			o.done()
		})
		o.thread(&t[3], 18, 17, 2, AutoStart, spin(3))
		o.thread(&t[4], 18, 18, 4, AutoStart, spin(4))
	}},
	{"S14", "changes of the time slice", func(o *oracle) {
		var t0, t1 Thread
		o.thread(&t0, 16, 16, 100, AutoStart, func() {
			var old uint32
			o.ok(t1.ChangeTimeSlice(33, &old))
			o.counts([]int{200, 33}, int(old), int(t1.newTimeSlice))
			o.ok(o.k.Sleep(1))
			o.ok(t0.ChangeTimeSlice(66, &old))
			o.counts([]int{100, 66}, int(old), int(t0.newTimeSlice))
			o.timed(o.k.slice == 66, "%d ticks are left", o.k.slice)
			o.ok(t1.ChangeTimeSlice(2, &old))
			o.ok(o.k.Sleep(8))
			o.done()
		})
		o.thread(&t1, 22, 22, 200, AutoStart, func() {
			for {
				o.k.Identify()
			}
		})
	}},
	{"S15", "a thread suspends itself", func(o *oracle) {
		t, n := o.threads(2)
		o.thread(&t[0], 16, 16, 0, AutoStart, func() {
			n[0]++
			o.ok(t[0].Suspend())
			n[0]++
		})
		o.thread(&t[1], 16, 16, 0, AutoStart, func() {
			o.states(Suspended, &t[0])
			o.counts([]int{1}, n[0])
			o.done()
		})
	}},
	{"S16", "a sleep of 18 ticks", func(o *oracle) {
		o.thread(new(Thread), 16, 16, 0, AutoStart, func() {
			o.k.SetTime(0)
			o.ok(o.k.Sleep(18))
			o.ticked(18, int(o.k.Time()))
			o.done()
		})
	}},
	{"S17", "a control block that was used for something else", func(o *oracle) {
		t := &Thread{state: MutexSuspended, priority: 77, suspending: true, delayedSuspend: true, status: Deleted, runs: 5, timeSlice: 9, ownedCount: 3}
		o.thread(t, 16, 16, 0, AutoStart, func() {
			o.k.SetTime(0)
			o.ok(o.k.Sleep(9), o.k.Sleep(9))
			o.ticked(18, int(o.k.Time()))
			o.done()
		})
	}},
	{"S18", "three threads sleep", func(o *oracle) {
		t, n := o.threads(4)
		for i := range 3 {
			o.thread(&t[i], 16, 16, 0, AutoStart, func() {
				for {
					n[i]++
					o.ok(o.k.Sleep(33))
				}
			})
		}
		o.thread(&t[3], 15, 15, 0, AutoStart, func() {
			o.ok(o.k.Sleep(101))
			o.timed(n[0] == 4 && n[1] == 4 && n[2] == 4, "%v, want 4 each", n[:3])
			o.done()
		})
	}},
	{"S19", "a sleep of 100 ticks", func(o *oracle) {
		isrs := 0
		var s Semaphore
		o.ok(o.k.CreateSemaphore(&s, "semaphore", 0))
		var t0 Thread
		o.thread(&t0, 16, 16, 3, AutoStart, func() {
			o.ok(o.k.Sleep(0))
			if o.open(WindowSuspend) {
				// The semaphore is put while its waiter is on the list and its timeout is not yet in the wheel.
				hit := false
				o.k.cfg.OnWindow = func(w Window) {
					if w == WindowSuspend && t0.state == SemaphoreSuspended && !hit {
						hit = true
						o.check(o.k.preemptDisable == 1 && t0.timer.list == nil, "preemption is disabled %d times", o.k.preemptDisable)
						o.k.Interrupt(func() { o.ok(s.Put()) })
					}
				}
				o.ok(s.Get(20))
				o.check(hit, "no interrupt landed there")
				o.k.cfg.OnWindow = nil
			}
			o.isr = func() {
				o.want(CallerError, o.k.Sleep(100))
				isrs++
			}
			o.k.SetTime(0)
			o.ok(o.k.Sleep(100))
			o.ticked(100, int(o.k.Time()))
			o.check(isrs > 0, "no interrupt")
			o.done()
		})
	}},
	{"S20", "a sleeping thread is terminated", func(o *oracle) {
		t, n := o.threads(2)
		exits := 0
		o.thread(&t[0], 16, 16, 0, AutoStart, func() {
			o.ok(o.k.Sleep(5))
			o.ok(t[1].Terminate())
			o.counts([]int{1, 1, 0}, n[1], exits, int(o.k.preemptDisable))
			o.states(Terminated, &t[1])
			o.want(SuspendError, t[1].Suspend())
			o.done()
		})
		o.thread(&t[1], 15, 15, 0, AutoStart, func() {
			for {
				n[1]++
				o.k.Sleep(100)
			}
		})
		o.ok(t[1].EntryExitNotify(func(_ *Thread, what uint32) {
			if what == ThreadExit {
				exits++
			}
		}))
	}},
	{"S21", "a thread returns", func(o *oracle) {
		t, n := o.threads(3)
		var entries, exits int
		o.thread(&t[0], 16, 16, 0, AutoStart, func() { n[0]++ })
		o.ok(t[0].EntryExitNotify(countEntries(&entries, &exits)))
		o.thread(&t[1], 17, 17, 0, AutoStart, func() {
			o.states(Completed, &t[0])
			o.counts([]int{1, 1, 1, 0}, n[0], entries, exits, n[2])
			o.want(DeleteError, t[2].Delete())
			o.want(SuspendError, t[0].Suspend())
			o.ok(t[0].Delete())
			o.want(ThreadError, t[0].Delete())
			o.done()
		})
		o.thread(&t[2], 18, 18, 0, AutoStart, func() { n[2]++ })
	}},
	{"S22", "a thread is reset and runs again", func(o *oracle) {
		t, n := o.threads(3)
		var entries, exits int
		o.thread(&t[0], 16, 16, 0, AutoStart, func() { n[0]++ })
		o.ok(t[0].EntryExitNotify(countEntries(&entries, &exits)))
		o.thread(&t[1], 17, 17, 0, AutoStart, func() {
			o.want(DeleteError, t[2].Delete())
			o.states(Completed, &t[0])
			o.counts([]int{1, 1, 1}, n[0], entries, exits)
			o.want(NotDone, t[2].Reset())
			o.want(NotDone, t[1].Reset())
			o.ok(t[0].Reset())
			o.states(Suspended, &t[0])
			o.counts([]int{1, 1, 1}, n[0], entries, exits)
			o.ok(t[0].Terminate(), t[0].Reset(), t[0].Resume())
			o.states(Completed, &t[0])
			o.counts([]int{2, 2, 3, 0}, n[0], entries, exits, n[2])
			o.done()
		})
		o.thread(&t[2], 18, 18, 0, AutoStart, func() { n[2]++ })
	}},
	{"S23", "threads are terminated and deleted", func(o *oracle) {
		t, n := o.threads(4)
		var s Semaphore
		o.ok(o.k.CreateSemaphore(&s, "semaphore", 0))
		var entries, exits, entries3, exits3 int
		o.thread(&t[0], 16, 16, 0, AutoStart, func() {
			o.k.Relinquish()
			o.states(Terminated, &t[1])
			o.states(Suspended, &t[2])
			o.states(SemaphoreSuspended, &t[3])
			o.counts([]int{1, 1, 1, 0}, entries, exits, entries3, exits3)
			o.ok(t[2].Terminate(), t[2].Delete(), t[1].Delete(), t[3].Terminate(), t[3].Delete())
			o.counts([]int{1, 1, 0, 1, 0}, n[1], n[2], n[3], exits3, int(s.waiters.count))
			o.done()
		})
		o.thread(&t[1], 16, 16, 0, AutoStart, func() {
			o.check(o.k.Identify() == &t[1], "identify")
			n[1]++
			t[1].Terminate()
			o.check(false, "the thread outlived its end")
		})
		o.ok(t[1].EntryExitNotify(countEntries(&entries, &exits)))
		o.thread(&t[2], 16, 16, 0, AutoStart, func() {
			o.check(o.k.Identify() == &t[2], "identify")
			n[2]++
			t[2].Suspend()
		})
		o.thread(&t[3], 12, 12, 0, AutoStart, func() {
			s.Get(WaitForever)
			n[3]++
		})
		o.ok(t[3].EntryExitNotify(countEntries(&entries3, &exits3)))
	}},
	{"S24", "a sleep is aborted", func(o *oracle) {
		t, n := o.threads(2)
		o.thread(&t[0], 16, 16, 0, AutoStart, func() {
			o.states(Sleeping, &t[1])
			o.ok(t[1].WaitAbort())
			o.states(Suspended, &t[1])
			o.counts([]int{1}, n[1])
			o.want(WaitAbortError, t[1].WaitAbort())
			o.want(WaitAbortError, t[0].WaitAbort())
			o.done()
		})
		o.thread(&t[1], 15, 15, 0, AutoStart, func() {
			o.want(WaitAborted, o.k.Sleep(1_000_000_000))
			n[1]++
			t[1].Suspend()
			n[1]++
		})
	}},
	{"S24", "waits are aborted while interrupts put", func(o *oracle) {
		t, n := o.threads(2)
		var s Semaphore
		puts, inside := 0, 0
		o.ok(o.k.CreateSemaphore(&s, "semaphore", 0))
		var timer Timer
		o.ok(o.k.CreateTimer(&timer, "timer", func(uint32) {}, 0, 1, 1, AutoActivate))
		o.thread(&t[0], 17, 17, 100, AutoStart, func() {
			o.isr = func() {
				o.want(CallerError, o.k.Sleep(1))
				if o.k.preemptDisable != 0 {
					inside++
				}
				o.ok(s.Put())
				puts++
			}
			for inside < 10 && (n[0] < 100 || o.open(WindowSuspend)) {
				st := s.Get(uint32(n[0]%5) + 1)
				o.check(st == Success || st == WaitAborted, "get: %v", st)
				o.check(o.k.preemptDisable == 0, "preemption is disabled")
				if st == Success {
					n[0]++
				}
			}
			o.isr = nil
			o.check(n[0] == puts-int(s.count), "%d got, %d put, %d left", n[0], puts, s.count)
			o.check(o.open(WindowSuspend) || inside == 0, "%d interrupts inside of services", inside)
			o.done()
		})
		o.thread(&t[1], 17, 17, 100, AutoStart, func() {
			for {
				t[0].WaitAbort()
				o.k.Relinquish()
			}
		})
	}},
	{"S25", "a suspension waits for the end of a wait", func(o *oracle) {
		t, n := o.threads(3)
		var s0, s1 Semaphore
		o.ok(o.k.CreateSemaphore(&s0, "semaphore 0", 0), o.k.CreateSemaphore(&s1, "semaphore 1", 0))
		set, seen := false, 0
		o.thread(&t[0], 2, 2, 0, AutoStart, func() {
			o.k.Relinquish()
			o.states(SemaphoreSuspended, &t[1])
			o.want(ResumeError, t[1].Resume())
			o.ok(t[1].Suspend(), s0.Put())
			o.states(Suspended, &t[1])
			o.k.Relinquish()
			o.counts([]int{0}, n[1])
			o.ok(t[1].Resume())
			o.k.Relinquish()
			o.counts([]int{1}, n[1])
			o.ok(t[1].Suspend())
			o.want(SuspendLifted, t[1].Resume())
			o.ok(s0.Put())
			o.k.Relinquish()
			o.counts([]int{2}, n[1])
			o.states(SemaphoreSuspended, &t[1])
			o.ok(t[1].Suspend(), t[1].WaitAbort())
			o.states(Suspended, &t[1])
			if !o.open(WindowSuspend) {
				o.done()
			}
			// An interrupt suspends a thread that is about to be suspended, and ends its wait.
			o.isr = func() {
				if t[2].suspending && !set {
					set = true
					seen = n[2]
					o.ok(t[2].Suspend())
					o.check(t[2].delayedSuspend, "no delayed suspension")
					o.ok(t[2].WaitAbort())
					o.states(Suspended, &t[2])
				}
			}
			o.ok(t[2].Resume())
			for !set {
				t[2].WaitAbort()
				o.k.Relinquish()
			}
			o.k.Relinquish()
			o.counts([]int{seen}, n[2])
			o.states(Suspended, &t[2])
			o.done()
		})
		o.thread(&t[1], 2, 2, 0, AutoStart, func() {
			for s0.Get(WaitForever) == Success {
				n[1]++
			}
		})
		o.thread(&t[2], 1, 1, 0, DontStart, func() {
			for {
				s1.Get(WaitForever)
				n[2]++
			}
		})
	}},
	{"S26", "stacks are not checked unless asked for", func(o *oracle) {
		o.want(FeatureNotEnabled, o.k.StackErrorNotify(func(*Thread) {}))
		o.thread(new(Thread), 16, 16, 0, AutoStart, func() { o.done() })
	}},
	{"S27", "information about threads", func(o *oracle) {
		t, _ := o.threads(2)
		o.thread(&t[0], 16, 16, 0, AutoStart, func() {
			o.ok(t[0].Info(nil))
			var info ThreadInfo
			o.ok(t[0].Info(&info))
			o.check(info.State == Ready && info.Priority == 16 && info.Threshold == 16 && info.TimeSlice == 0 && info.RunCount == 1 && info.Next == &t[1],
				"%+v", info)
			var p ThreadPerformance
			var sp ThreadSystemPerformance
			o.want(FeatureNotEnabled, o.k.ThreadPerformance(&t[0], &p))
			o.want(FeatureNotEnabled, o.k.ThreadPerformance(nil, nil))
			o.want(FeatureNotEnabled, o.k.ThreadSystemPerformance(&sp))
			o.done()
		})
		o.thread(&t[1], 17, 17, 0, AutoStart, func() {})
	}},
	{"S28", "what the checked layer refuses of threads", func(o *oracle) {
		t, n := o.threads(5)
		k := o.k
		stack := k.Reserve(1024)
		create := func(t *Thread, change func(*ThreadConfig)) Status {
			c := ThreadConfig{Entry: func(uint32) {}, Stack: k.Reserve(1024), Priority: 16, Threshold: PreemptBelow(16)}
			change(&c)
			return k.CreateThread(t, c)
		}
		same := func(*ThreadConfig) {}
		o.thread(&t[0], 16, 16, 0, AutoStart, func() {
			n[0]++
			o.want(ThreadError, create(nil, same))
			o.want(ThreadError, create(&t[1], same))
			o.want(PtrError, create(&t[2], func(c *ThreadConfig) { c.Stack = Region{} }))
			o.want(PtrError, create(&t[2], func(c *ThreadConfig) { c.Stack = stack }))
			o.want(PtrError, create(&t[2], func(c *ThreadConfig) { c.Stack.Start = stack.Start + 1000 }))
			o.want(PtrError, create(&t[2], func(c *ThreadConfig) { c.Entry = nil }))
			o.want(SizeError, create(&t[2], func(c *ThreadConfig) { c.Stack.Size = 1 }))
			o.want(PriorityError, create(&t[2], func(c *ThreadConfig) { c.Priority = 5000 }))
			o.want(ThresholdError, create(&t[2], func(c *ThreadConfig) { c.Threshold = PreemptBelow(17) }))
			o.want(StartError, create(&t[2], func(c *ThreadConfig) { c.Start = 3456 }))
			var old uint32
			t[3].k, t[3].id = k, 0
			for _, bad := range []*Thread{nil, {}, &t[3]} {
				for _, s := range []Status{
					bad.Delete(), bad.Info(nil), bad.EntryExitNotify(nil), bad.ChangeThreshold(1, &old), bad.ChangePriority(1, &old),
					bad.ChangeTimeSlice(1, &old), bad.Reset(), bad.Resume(), bad.Suspend(), bad.Terminate(), bad.WaitAbort(),
				} {
					o.want(ThreadError, s)
				}
			}
			o.want(PtrError, t[0].ChangeThreshold(1, nil))
			o.want(ThresholdError, t[0].ChangeThreshold(17, &old))
			o.want(PtrError, t[0].ChangePriority(1, nil))
			o.want(PriorityError, t[0].ChangePriority(2046, &old))
			o.want(PtrError, t[0].ChangeTimeSlice(1, nil))
			o.contexts(func() {
				o.want(CallerError, create(&t[2], same))
				for _, s := range []Status{
					t[1].Delete(), t[1].ChangeThreshold(1, &old), t[1].ChangePriority(1, &old), t[1].Reset(), t[1].Terminate(),
					t[1].ChangeTimeSlice(1, &old), k.Sleep(10),
				} {
					o.want(CallerError, s)
				}
				k.Relinquish() // does nothing
			}, func() {
				o.want(CallerError, create(&t[2], same))
				o.want(CallerError, t[1].Reset())
				o.want(CallerError, k.Sleep(1))
			})
			o.done()
		})
		o.ok(k.CreateThread(&t[1], ThreadConfig{Entry: func(uint32) {}, Stack: stack, Priority: 20}))
		o.want(CallerError, k.Sleep(1))
		o.want(CallerError, t[1].Delete())
		o.want(CallerError, t[1].Terminate())
		o.want(CallerError, t[1].Reset())
	}},
}

func countEntries(entries, exits *int) func(*Thread, uint32) {
	return func(_ *Thread, what uint32) {
		if what == ThreadEntry {
			*entries++
		} else {
			*exits++
		}
	}
}
