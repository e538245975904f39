package rtos

import "slices"

var mutexScenarios = []scenario{
	{"S29", "what a mutex does and refuses", func(o *oracle) {
		t, _ := o.threads(4)
		var m [9]Mutex
		k := o.k
		for i, inherit := range []uint32{NoInherit, NoInherit, Inherit, Inherit} {
			o.ok(k.CreateMutex(&m[i], "mutex", inherit))
		}
		o.ok(k.CreateMutex(&m[8], "mutex 8", NoInherit))
		o.ok(m[0].Get(NoWait), m[0].Get(NoWait), m[0].Put(), m[0].Put()) // initialization may own one
		o.want(WaitError, m[0].Get(1))
		o.want(CallerError, m[0].Delete())
		o.thread(&t[0], 16, 16, 0, AutoStart, func() {
			o.want(MutexError, k.CreateMutex(nil, "", Inherit))
			o.want(MutexError, k.CreateMutex(&m[2], "", Inherit))
			o.want(InheritError, k.CreateMutex(&m[4], "", 14))
			m[4].k = k
			for _, bad := range []*Mutex{nil, {}, &m[4]} {
				for _, s := range []Status{bad.Delete(), bad.Get(NoWait), bad.Put(), bad.Prioritize(), bad.Info(nil)} {
					o.want(MutexError, s)
				}
			}
			o.ok(m[0].Get(NoWait))
			o.counts([]int{1}, int(m[0].count))
			o.ok(m[0].Get(NoWait))
			o.counts([]int{2}, int(m[0].count))
			o.ok(m[0].Put())
			o.counts([]int{1}, int(m[0].count))
			o.ok(m[0].Put())
			o.check(m[0].owner == nil && m[0].count == 0, "still owned")
			k.Relinquish()
			o.want(NotAvailable, m[1].Get(NoWait))
			k.Relinquish()
			o.states(Completed, &t[1])
			o.counts([]int{0, 0}, int(m[6].count), int(m[7].count))
			o.ok(m[0].Delete(), m[1].Delete())
			o.ok(m[2].Get(NoWait), m[3].Get(NoWait))
			o.contexts(func() {
				o.want(CallerError, k.CreateMutex(&m[4], "", NoInherit))
				o.want(CallerError, m[2].Delete())
				o.want(WaitError, m[2].Get(100))
				o.want(CallerError, m[2].Get(NoWait))
				o.want(CallerError, m[2].Put())
			}, func() {
				o.want(CallerError, k.CreateMutex(&m[4], "", NoInherit))
				o.want(CallerError, m[2].Delete())
				o.want(WaitError, m[2].Get(100))
				o.want(NotAvailable, m[2].Get(NoWait))
			})
			o.ok(m[2].Put())
			o.want(NotOwned, m[2].Put())
			o.ok(m[2].Delete())
			o.ok(m[8].Get(WaitForever), t[2].Resume(), t[3].Resume(), k.Sleep(2), m[8].Put(), m[3].Delete())
			o.done()
		})
		o.thread(&t[1], 16, 16, 0, AutoStart, func() {
			o.ok(m[1].Get(NoWait))
			k.Relinquish()
			o.ok(m[1].Put())
			o.ok(k.CreateMutex(&m[6], "", NoInherit), k.CreateMutex(&m[7], "", NoInherit))
			o.ok(m[6].Get(NoWait), m[7].Get(NoWait), m[6].Get(NoWait), m[7].Get(NoWait))
		})
		for i := 2; i < 4; i++ {
			o.thread(&t[i], 18, 18, 0, DontStart, func() {
				for {
					o.ok(m[8].Get(WaitForever), m[8].Put())
				}
			})
		}
	}},
	{"S30", "a put preempts", func(o *oracle) { mutexPut(o, 15, 1) }},
	{"S31", "a put does not preempt its equal", func(o *oracle) { mutexPut(o, 16, 0) }},
	{"S32", "a mutex is deleted under its waiters", func(o *oracle) {
		t, n := o.threads(3)
		var m Mutex
		o.ok(o.k.CreateMutex(&m, "mutex", NoInherit))
		o.thread(&t[0], 16, 16, 100, AutoStart, func() {
			o.ok(m.Get(NoWait))
			o.k.Relinquish()
			o.states(MutexSuspended, &t[1], &t[2])
			o.ok(m.Delete())
			o.counts([]int{0, 0}, n[1], n[2])
			o.k.Relinquish()
			o.counts([]int{1, 1}, n[1], n[2])
			o.done()
		})
		for i := 1; i < 3; i++ {
			o.thread(&t[i], 16, 16, 100, AutoStart, func() {
				o.want(Deleted, m.Get(WaitForever))
				n[i]++
			})
		}
	}},
	{"S33", "threads are terminated while they wait for a mutex", func(o *oracle) {
		t, n := o.threads(3)
		var m Mutex
		o.ok(o.k.CreateMutex(&m, "mutex", NoInherit))
		o.thread(&t[0], 16, 16, 100, AutoStart, func() {
			o.ok(m.Get(NoWait))
			o.k.Relinquish()
			o.counts([]int{1, 1}, n[1], n[2])
			o.ok(t[1].Terminate(), t[2].Terminate())
			o.counts([]int{0}, int(m.waiters.count))
			o.ok(m.Put())
			o.k.Relinquish()
			o.ok(o.k.Sleep(50))
			o.counts([]int{1, 1}, n[1], n[2])
			o.done()
		})
		for i, wait := range []uint32{33, 44} {
			o.thread(&t[i+1], 16, 16, 100, AutoStart, func() {
				n[i+1]++
				m.Get(wait)
				n[i+1]++
			})
		}
	}},
	{"S34", "a wait for a mutex times out", func(o *oracle) {
		var m Mutex
		o.ok(o.k.CreateMutex(&m, "mutex", Inherit), m.Get(NoWait)) // owned by initialization
		o.thread(new(Thread), 16, 16, 100, AutoStart, func() {
			o.k.SetTime(0)
			o.want(NotAvailable, m.Get(33))
			o.ticked(33, int(o.k.Time()))
			o.done()
		})
	}},
	{"S35", "priority inheritance", func(o *oracle) {
		t, n := o.threads(8)
		var m [4]Mutex
		for i := range m {
			o.ok(o.k.CreateMutex(&m[i], "mutex", Inherit))
		}
		prio := func(want int) {
			o.Helper()
			o.check(int(t[0].priority) == want, "thread 0 runs at %d, want %d", t[0].priority, want)
		}
		o.thread(&t[0], 16, 16, 100, AutoStart, func() {
			o.ok(t[4].Resume())
			o.counts([]int{1, 1, 10, 32}, n[4], n[5], int(t[4].priority), int(t[4].inheritPriority))
			o.ok(m[0].Get(NoWait), m[1].Get(NoWait), m[2].Get(NoWait), m[2].Put())
			o.ok(t[1].Resume())
			o.counts([]int{1}, n[1])
			prio(15)
			o.ok(m[0].Put())
			o.counts([]int{2}, n[1])
			prio(16)
			o.ok(m[0].Get(NoWait), o.k.Sleep(20))
			o.counts([]int{3}, n[1])
			prio(15)
			o.ok(t[2].Resume())
			prio(14)
			o.ok(m[0].Put())
			o.counts([]int{4, 2}, n[1], n[2])
			prio(16)
			o.ok(m[0].Get(NoWait))
			o.timed(t[1].state == Sleeping && t[2].state == Sleeping, "%v %v", t[1].state, t[2].state)
			t[1].WaitAbort()
			t[2].WaitAbort()
			prio(14)
			o.ok(t[1].Terminate(), t[2].Terminate(), m[0].Put())
			o.counts([]int{5, 3}, n[1], n[2])
			prio(16)
			o.ok(m[3].Get(WaitForever), t[7].Resume(), t[6].Resume())
			prio(6)
			o.ok(m[3].Put())
			o.counts([]int{1, 1}, n[6], n[7])
			prio(16)
			o.done()
		})
		loop := func(i int) func() {
			return func() {
				if i == 2 {
					o.ok(m[2].Get(WaitForever))
				}
				for {
					n[i]++
					if m[0].Get(WaitForever) == Success && m[0].Put() == Success {
						n[i]++
					}
					o.k.Sleep(10)
				}
			}
		}
		o.thread(&t[1], 15, 15, 100, DontStart, loop(1))
		o.thread(&t[2], 14, 14, 100, DontStart, loop(2))
		o.thread(&t[4], 10, 10, 100, DontStart, func() {
			o.ok(m[0].Get(WaitForever), m[1].Get(WaitForever), m[1].Get(WaitForever), m[1].Get(WaitForever), m[2].Get(WaitForever), t[5].Resume())
			o.check(t[4].priority == 8, "thread 4 runs at %d", t[4].priority)
			n[4]++
		})
		o.thread(&t[5], 8, 8, 100, DontStart, func() {
			o.ok(m[0].Get(WaitForever))
			n[5]++
		})
		for _, i := range []int{6, 7} {
			o.thread(&t[i], uint32(i), uint32(i), 100, DontStart, func() {
				o.ok(m[3].Get(WaitForever))
				n[i]++
			})
		}
	}},
	{"S36", "nested inheritance, given back in every order", func(o *oracle) {
		t, n := o.threads(7)
		var m [4]Mutex
		for i, inherit := range []uint32{NoInherit, Inherit, Inherit, Inherit} {
			o.ok(o.k.CreateMutex(&m[i], "mutex", inherit))
		}
		prio := func(want int) {
			o.Helper()
			o.check(int(t[0].priority) == want, "thread 0 runs at %d, want %d", t[0].priority, want)
		}
		orders := []struct{ puts, priorities [3]int }{
			{[3]int{2, 1, 0}, [3]int{8, 15, 15}},
			{[3]int{0, 1, 2}, [3]int{4, 4, 15}},
			{[3]int{2, 0, 1}, [3]int{8, 8, 15}},
			{[3]int{1, 0, 2}, [3]int{4, 4, 15}},
			{[3]int{1, 2, 0}, [3]int{4, 15, 15}},
			{[3]int{0, 2, 1}, [3]int{4, 8, 15}},
		}
		o.thread(&t[0], 16, 1, 0, AutoStart, func() {
			o.ok(m[3].Get(WaitForever))
			for round := range 50 {
				o.ok(m[0].Get(WaitForever), m[1].Get(WaitForever), m[2].Get(WaitForever))
				o.ok(t[1].Resume(), t[2].Resume())
				o.ok(t[0].Suspend())
				o.ok(t[3].Resume())
				prio(4)
				order := orders[round%6]
				for i, put := range order.puts {
					o.ok(m[put].Put())
					prio(order.priorities[i])
				}
			}
			o.counts([]int{50}, n[3])
			o.ok(t[6].Resume())
			prio(15)
			o.ok(t[4].Resume())
			prio(4)
			o.ok(t[5].Resume())
			prio(2)
			o.ok(o.k.Sleep(1))
			o.ok(m[3].Put())
			prio(15)
			o.counts([]int{1, 1, 0}, n[4], n[5], n[6])
			o.ok(o.k.Sleep(2))
			o.counts([]int{1, 1, 1}, n[4], n[5], n[6])
			o.done()
		})
		waits := func(i, mutex int) func() {
			return func() {
				for _, threshold := range slices.Repeat([]uint32{14, 8}, 25) {
					n[i]++
					var old uint32
					o.ok(t[0].ChangePriority(15, &old))
					// The owner's user threshold, which an owner that inherits may not fall below.
					o.ok(t[0].ChangeThreshold(threshold, &old))
					o.ok(m[mutex].Get(WaitForever), m[mutex].Put(), t[i].Suspend())
				}
			}
		}
		o.thread(&t[1], 8, 8, 0, DontStart, waits(1, 1))
		o.thread(&t[2], 4, 4, 0, DontStart, waits(2, 2))
		o.thread(&t[3], 30, 1, 0, AutoStart, func() {
			for {
				t[0].Resume() // at the end it sleeps
				n[3]++
				o.ok(t[3].Suspend())
			}
		})
		for i, p := range []uint32{4, 2, 30} {
			o.thread(&t[4+i], p, p, 0, DontStart, func() {
				for {
					o.ok(m[3].Get(WaitForever))
					n[4+i]++
					o.ok(m[3].Put(), t[4+i].Suspend())
				}
			})
		}
	}},
}

// mutexPut lets thread 1 wait for what thread 0 owns, and puts it; ran is how often thread 1 ran right afterwards.
func mutexPut(o *oracle, priority uint32, ran int) {
	t, n := o.threads(2)
	var m Mutex
	o.ok(o.k.CreateMutex(&m, "mutex", NoInherit))
	o.thread(&t[0], 16, 16, 100, AutoStart, func() {
		o.ok(m.Get(NoWait), t[1].Resume())
		o.k.Relinquish()
		o.states(MutexSuspended, &t[1])
		o.ok(m.Put())
		o.counts([]int{ran}, n[1])
		o.check(m.owner == &t[1] || ran == 1, "the mutex was not handed over")
		o.k.Relinquish()
		o.counts([]int{1}, n[1])
		o.done()
	})
	o.thread(&t[1], priority, priority, 100, DontStart, func() {
		o.ok(m.Get(WaitForever))
		n[1]++
		o.ok(m.Put())
	})
}
