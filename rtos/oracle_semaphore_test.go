package rtos

var semaphoreScenarios = []scenario{
	{"S38", "what a semaphore does and refuses", func(o *oracle) {
		var s [4]Semaphore
		k := o.k
		o.ok(k.CreateSemaphore(&s[0], "semaphore 0", 1), k.CreateSemaphore(&s[1], "semaphore 1", 1))
		o.want(WaitError, s[0].Get(1))
		o.want(CallerError, s[0].Delete())
		o.thread(new(Thread), 16, 16, 100, AutoStart, func() {
			o.want(SemaphoreError, k.CreateSemaphore(nil, "", 1))
			o.want(SemaphoreError, k.CreateSemaphore(&s[0], "", 1))
			s[2].k = k
			for _, bad := range []*Semaphore{nil, {}, &s[2]} {
				for _, st := range []Status{bad.Delete(), bad.Get(NoWait), bad.Put(), bad.CeilingPut(0), bad.Prioritize(), bad.Info(nil), bad.PutNotify(nil)} {
					o.want(SemaphoreError, st)
				}
			}
			o.want(InvalidCeiling, s[0].CeilingPut(0))
			o.ok(s[0].Get(NoWait))
			o.want(NoInstance, s[0].Get(NoWait))
			o.ok(s[1].Put())
			o.counts([]int{2}, int(s[1].count))
			o.ok(s[1].Get(NoWait), s[1].Get(NoWait))
			refused := func() {
				o.want(CallerError, k.CreateSemaphore(&s[2], "", 1))
				o.want(CallerError, s[0].Delete())
				o.want(WaitError, s[0].Get(100))
				o.want(NoInstance, s[0].Get(NoWait))
			}
			o.contexts(refused, refused)
			o.ok(s[0].Delete(), s[1].Delete())
			o.want(SemaphoreError, s[1].Delete())
			o.ok(k.CreateSemaphore(&s[3], "wraps", 0xFFFFFFFF), s[3].Put())
			o.counts([]int{0}, int(s[3].count))
			o.done()
		})
	}},
	{"S39", "a put preempts", func(o *oracle) {
		t, n := o.threads(2)
		var s Semaphore
		o.ok(o.k.CreateSemaphore(&s, "semaphore", 0))
		o.thread(&t[0], 16, 16, 100, AutoStart, func() {
			o.counts([]int{1}, n[1])
			o.ok(s.Put())
			o.counts([]int{2}, n[1])
			o.done()
		})
		o.thread(&t[1], 15, 15, 100, AutoStart, func() {
			for {
				n[1]++
				o.ok(s.Get(WaitForever))
			}
		})
	}},
	{"S40", "puts do not preempt equals", func(o *oracle) {
		t, n, s := o.takers()
		o.thread(&t[0], 16, 16, 100, AutoStart, func() {
			notified := 0
			o.ok(s.PutNotify(func(*Semaphore) { notified++ }))
			o.ok(s.Put(), s.Get(NoWait))
			o.k.Relinquish()
			o.counts([]int{1}, n[1])
			o.ok(s.Put())
			o.counts([]int{1}, n[1])
			o.k.Relinquish()
			o.counts([]int{3}, n[1])
			o.ok(t[2].Resume())
			o.k.Relinquish()
			o.ok(s.Put(), s.Put())
			o.k.Relinquish()
			o.counts([]int{5, 3, 4}, n[1], n[2], notified)
			o.done()
		})
		o.ok(t[1].Resume())
	}},
	{"S41", "a ceiling", func(o *oracle) {
		t, n, s := o.takers()
		o.thread(&t[0], 16, 16, 100, AutoStart, func() {
			o.ok(s.CeilingPut(2), s.CeilingPut(2))
			o.want(CeilingExceeded, s.CeilingPut(2))
			o.ok(s.Get(NoWait), s.Get(NoWait))
			o.k.Relinquish()
			o.counts([]int{1}, n[1])
			o.ok(s.CeilingPut(2))
			o.counts([]int{1}, n[1])
			o.k.Relinquish()
			o.counts([]int{3}, n[1])
			o.ok(t[2].Resume())
			o.k.Relinquish()
			o.ok(s.CeilingPut(2), s.CeilingPut(2))
			o.k.Relinquish()
			o.counts([]int{5, 3}, n[1], n[2])
			o.ok(s.CeilingPut(2))
			o.counts([]int{5}, n[1])
			o.k.Relinquish()
			o.counts([]int{7, 3}, n[1], n[2])
			o.want(ResumeError, t[2].Resume())
			o.k.Relinquish()
			o.ok(s.CeilingPut(2), s.CeilingPut(2))
			o.k.Relinquish()
			o.counts([]int{9, 5}, n[1], n[2])
			o.done()
		})
		o.ok(t[1].Resume())
	}},
	{"S42", "a wait for a semaphore times out", func(o *oracle) {
		var s Semaphore
		o.ok(o.k.CreateSemaphore(&s, "semaphore", 0))
		o.thread(new(Thread), 16, 16, 100, AutoStart, func() {
			o.k.SetTime(0)
			o.want(NoInstance, s.Get(33))
			o.ticked(33, int(o.k.Time()))
			o.counts([]int{0}, int(s.waiters.count))
			o.done()
		})
	}},
	{"S43", "a semaphore is deleted under its waiters", func(o *oracle) {
		t, n := o.threads(3)
		var s Semaphore
		o.ok(o.k.CreateSemaphore(&s, "semaphore", 0))
		o.thread(&t[0], 16, 16, 100, AutoStart, func() {
			o.k.Relinquish()
			o.states(SemaphoreSuspended, &t[1], &t[2])
			o.ok(s.Delete())
			o.counts([]int{0, 0}, n[1], n[2])
			o.k.Relinquish()
			o.counts([]int{1, 1}, n[1], n[2])
			o.done()
		})
		for i := 1; i < 3; i++ {
			o.thread(&t[i], 16, 16, 100, AutoStart, func() {
				o.want(Deleted, s.Get(WaitForever))
				n[i]++
			})
		}
	}},
	{"S43", "threads are terminated while they wait for a semaphore", func(o *oracle) {
		t, n := o.threads(3)
		var s Semaphore
		o.ok(o.k.CreateSemaphore(&s, "semaphore", 0))
		o.thread(&t[0], 16, 16, 100, AutoStart, func() {
			o.k.Relinquish()
			o.counts([]int{1, 1}, n[1], n[2])
			o.ok(t[1].Terminate(), t[2].Terminate(), s.Put(), s.Put())
			o.counts([]int{0, 2}, int(s.waiters.count), int(s.count))
			o.k.Relinquish()
			o.ok(o.k.Sleep(50))
			o.counts([]int{1, 1}, n[1], n[2])
			o.done()
		})
		for i, wait := range []uint32{33, 44} {
			o.thread(&t[i+1], 16, 16, 100, AutoStart, func() {
				n[i+1]++
				s.Get(wait)
				n[i+1]++
			})
		}
	}},
}

// takers makes threads 1 and 2, at priority 16 and suspended, that count before and after each instance that they get.
func (o *oracle) takers() ([]Thread, []int, *Semaphore) {
	t, n := o.threads(3)
	s := new(Semaphore)
	o.ok(o.k.CreateSemaphore(s, "semaphore", 0))
	for i := 1; i < 3; i++ {
		o.thread(&t[i], 16, 16, 100, DontStart, func() {
			for {
				n[i]++
				o.ok(s.Get(WaitForever))
				n[i]++
			}
		})
	}
	return t, n, s
}
