package rtos

var eventScenarios = []scenario{
	{"S44", "what event flags do and refuse", func(o *oracle) {
		var g [4]EventFlags
		k := o.k
		o.ok(k.CreateEventFlags(&g[0], "group 0"), k.CreateEventFlags(&g[1], "group 1"))
		var actual uint32
		o.want(WaitError, g[0].Get(1, Or, &actual, 1))
		o.want(CallerError, g[0].Delete())
		o.thread(new(Thread), 16, 16, 100, AutoStart, func() {
			o.want(GroupError, k.CreateEventFlags(nil, ""))
			o.want(GroupError, k.CreateEventFlags(&g[0], ""))
			g[2].k = k
			for _, bad := range []*EventFlags{nil, {}, &g[2]} {
				for _, s := range []Status{
					bad.Delete(), bad.Get(0x80008000, And, &actual, NoWait), bad.Set(0x80008000, Or), bad.SetNotify(nil), bad.Info(nil),
				} {
					o.want(GroupError, s)
				}
			}
			o.want(PtrError, g[0].Get(0x80008000, And, nil, NoWait))
			o.want(OptionError, g[0].Get(0x80008000, 14, &actual, NoWait))
			o.want(OptionError, g[0].Set(0x80008000, 14))
			o.want(OptionError, g[0].Set(0x80008000, OrClear))
			for option := Or; option <= AndClear; option++ {
				o.want(NoEvents, g[0].Get(0x80008000, option, &actual, NoWait))
			}
			o.ok(g[0].Set(0x80008000, Or), g[0].Set(0x80000000, And), g[0].Set(0x00008000, Or))
			get := func(flags, option uint32, want Status, value uint32) {
				o.Helper()
				o.want(want, g[0].Get(flags, option, &actual, NoWait))
				o.check(want != Success || actual == value, "actual %x, want %x", actual, value)
			}
			get(0x80008000, And, Success, 0x80008000)
			get(0x80008000, Or, Success, 0x80008000)
			get(0x80008000, AndClear, Success, 0x80008000)
			get(0x80008000, OrClear, NoEvents, 0)
			o.ok(g[0].Set(0x80008000, Or))
			get(0x00008000, OrClear, Success, 0x80008000)
			get(0x80008000, OrClear, Success, 0x80000000)
			o.want(NoEvents, g[0].Get(0, Or, &actual, WaitForever))
			refused := func() {
				o.want(CallerError, k.CreateEventFlags(&g[2], ""))
				o.want(CallerError, g[0].Delete())
				o.want(WaitError, g[0].Get(1, Or, &actual, 100))
				o.want(WaitError, g[0].Get(1, 14, &actual, 100)) // before the option is looked at
			}
			o.contexts(refused, refused)
			o.ok(g[0].Delete(), g[1].Delete())
			o.done()
		})
	}},
	{"S45", "three wait for the same flags", func(o *oracle) { eventScan(o, And) }},
	{"S46", "the first of three consumes the flags", func(o *oracle) { eventScan(o, AndClear) }},
	{"S47", "two wait for different flags", func(o *oracle) { eventBits(o, And) }},
	{"S47", "two wait for different flags and consume them", func(o *oracle) { eventBits(o, AndClear) }},
	{"S48", "waits for flags time out", func(o *oracle) {
		t, n := o.threads(4)
		var g EventFlags
		o.ok(o.k.CreateEventFlags(&g, "group"))
		o.thread(&t[0], 17, 17, 100, AutoStart, func() {
			var actual uint32
			o.ok(g.Set(1, Or), t[3].Resume(), o.k.Sleep(1), g.Set(2, Or), o.k.Sleep(2))
			o.ok(t[1].Resume(), t[2].Resume(), o.k.Sleep(1))
			o.ok(g.Get(1, AndClear, &actual, WaitForever), o.k.Sleep(63))
			// Timeouts at ticks 2, 4 ... 64, and the last one comes before this thread goes on: 33, which ThreadX's Linux port counts, too.
			// The reference names 32 and allows for 33.
			o.ticked(33, n[1])
			o.ticked(13, n[2])
			o.done()
		})
		waits := func(i int, flags, option, wait uint32) func() {
			return func() {
				for {
					n[i]++
					var actual uint32
					if g.Get(flags, option, &actual, wait) != NoEvents {
						return
					}
				}
			}
		}
		o.thread(&t[1], 16, 16, 100, DontStart, waits(1, 0x80000000, AndClear, 2))
		o.thread(&t[2], 16, 16, 100, DontStart, waits(2, 0x8000, AndClear, 5))
		o.thread(&t[3], 18, 18, 100, DontStart, waits(3, 2, And, 5))
	}},
	{"S49", "threads are terminated while they wait for flags", func(o *oracle) {
		t, n := o.threads(3)
		var g EventFlags
		o.ok(o.k.CreateEventFlags(&g, "group"))
		o.thread(&t[0], 17, 17, 100, AutoStart, func() {
			o.counts([]int{1, 1}, n[1], n[2])
			o.ok(t[1].Terminate(), t[2].Terminate(), g.Set(0xFFFFFFFF, Or))
			o.counts([]int{1, 1, 0}, n[1], n[2], int(g.waiters.count))
			o.done()
		})
		for i := 1; i < 3; i++ {
			o.thread(&t[i], 16, 16, 100, AutoStart, func() {
				for {
					n[i]++
					var actual uint32
					g.Get(0x80008000, AndClear, &actual, WaitForever)
				}
			})
		}
	}},
	{"S49", "a single thread that waits is terminated", func(o *oracle) {
		t, n := o.threads(3)
		var g EventFlags
		o.ok(o.k.CreateEventFlags(&g, "group"))
		o.thread(&t[0], 17, 17, 100, AutoStart, func() {
			for _, step := range []struct {
				set  uint32
				want int
			}{{0x80000, 1}, {0x800000, 2}, {1, 2}, {0x80001, 3}} {
				o.ok(g.Set(step.set, Or))
				o.check(n[2] == step.want, "set %x: thread 2 ran %d times, want %d", step.set, n[2], step.want)
			}
			o.ok(t[2].Terminate())
			o.counts([]int{0, 0}, int(o.k.preemptDisable), int(g.waiters.count))
			o.done()
		})
		o.thread(&t[2], 16, 16, 100, AutoStart, func() {
			var actual uint32
			for _, option := range []uint32{AndClear, OrClear, AndClear} {
				n[2]++
				o.ok(g.Get(0x880000, option, &actual, WaitForever))
			}
			n[2]++
		})
	}},
	{"S50", "interrupts set and clear flags while a set looks through the waiters", func(o *oracle) {
		sets := 0
		var g EventFlags
		isr := func() {
			if g.flags&3 != 0 || g.waiters.count != 2 {
				return
			}
			var actual uint32
			o.ok(g.Set(3, Or), g.Set(0xFFFFFFFC, And), g.Set(0x30000, Or), g.Set(0xFFFEFFFF, And), g.Set(0xFFFDFFFC, And))
			o.want(NoEvents, g.Get(0x30000, Or, &actual, NoWait))
			o.ok(g.Set(0xC0, Or), g.Get(0x80, Or, &actual, NoWait), g.Get(0xC0, OrClear, &actual, NoWait))
			o.check(actual == 0xC4, "actual %x, want C4", actual)
			sets++
		}
		eventInterrupted(o, &g, isr, &sets, Success)
	}},
	{"S51", "interrupts abort both waiters while a set looks through them", func(o *oracle) {
		aborts := 0
		var g EventFlags
		var waiters [2]*Thread
		isr := func() {
			if g.flags&3 != 0 || g.waiters.count != 2 {
				return
			}
			o.ok(g.Set(4, Or), waiters[0].WaitAbort(), waiters[1].WaitAbort())
			aborts++
		}
		waiters = eventInterrupted(o, &g, isr, &aborts, WaitAborted)
	}},
}

// eventScan sets flag after flag under three waiters, of which the first may consume them.
func eventScan(o *oracle, first uint32) {
	t, n := o.threads(5)
	var g EventFlags
	notified := 0
	o.ok(o.k.CreateEventFlags(&g, "group"), g.SetNotify(func(*EventFlags) { notified++ }))
	o.thread(&t[0], 17, 17, 100, AutoStart, func() {
		for i := range 32 {
			o.ok(g.Set(1<<i, Or))
			if i < 31 {
				o.counts([]int{1, 1, 1}, n[1:4]...)
			}
		}
		o.counts([]int{2, 2, 2, 32}, n[1], n[2], n[3], notified)
		o.ok(g.Set(0, And), t[4].Resume())
		o.counts([]int{1, 32}, n[4], notified)
		o.ok(g.Set(1, Or))
		o.counts([]int{2}, n[4])
		o.done()
	})
	for i := 1; i < 4; i++ {
		option := And
		if i == 1 {
			option = first
		}
		o.thread(&t[i], 16, 16, 100, AutoStart, func() {
			for {
				n[i]++
				var actual uint32
				o.ok(g.Get(0x80008000, option, &actual, WaitForever))
				o.check(actual == 0xFFFFFFFF, "actual %x", actual)
				if i == 1 {
					if first == AndClear {
						o.check(g.flags == 0x7FFF7FFF, "%x is set after the first waiter", g.flags)
					}
					o.ok(g.Set(0, And))
				}
			}
		})
	}
	o.thread(&t[4], 16, 16, 100, DontStart, func() {
		for {
			n[4]++
			var actual uint32
			o.ok(g.Get(1, OrClear, &actual, WaitForever))
			o.check(actual == 1, "actual %x", actual)
		}
	})
}

// eventBits lets two threads wait for one flag each.
func eventBits(o *oracle, option uint32) {
	t, n := o.threads(3)
	var g EventFlags
	bits := []uint32{0, 0x80000000, 0x8000}
	o.ok(o.k.CreateEventFlags(&g, "group"))
	o.thread(&t[0], 17, 17, 100, AutoStart, func() {
		o.ok(g.Set(bits[1], Or))
		o.counts([]int{2, 1}, n[1], n[2])
		o.ok(g.Set(0, And), g.Set(bits[2], Or))
		o.counts([]int{2, 2}, n[1], n[2])
		o.done()
	})
	for i := 1; i < 3; i++ {
		o.thread(&t[i], 16, 16, 100, AutoStart, func() {
			for {
				n[i]++
				var actual uint32
				o.ok(g.Get(bits[i], option, &actual, WaitForever))
				o.check(actual == bits[i], "actual %x", actual)
				if option == And {
					o.ok(g.Set(0, And))
				}
			}
		})
	}
}

// eventInterrupted lets thread 2 set a flag that satisfies nobody while the interrupts of isr end the waits of threads 0 and
// 1, which each get status, as often as *times says.
func eventInterrupted(o *oracle, g *EventFlags, isr func(), times *int, status Status) [2]*Thread {
	t, n := o.threads(3)
	inside := 0
	o.ok(o.k.CreateEventFlags(g, "group"), g.SetNotify(func(*EventFlags) {}))
	var timer Timer
	o.ok(o.k.CreateTimer(&timer, "timer", func(uint32) {}, 0, 1, 1, AutoActivate))
	wait := func(i int) {
		var actual uint32
		got := g.Get(2>>i, OrClear, &actual, 4)
		o.timed(got == status || o.over, "get: %v", got)
		o.check(o.k.preemptDisable == 0, "preemption is disabled")
		n[i]++
	}
	o.thread(&t[0], 17, 17, 100, AutoStart, func() {
		o.isr = func() {
			if o.k.preemptDisable != 0 {
				inside++
			}
			isr()
		}
		for inside < 40 && (o.open(WindowEventSet) || n[0] < 100) {
			wait(0)
		}
		o.isr = nil
		o.k.Relinquish()
		o.counts([]int{*times, *times}, n[0], n[1])
		o.check(o.open(WindowEventSet) || inside == 0, "%d interrupts inside of services", inside)
		o.done()
	})
	o.thread(&t[1], 17, 17, 100, AutoStart, func() {
		for {
			wait(1)
		}
	})
	o.thread(&t[2], 17, 17, 100, AutoStart, func() {
		for {
			o.ok(g.Set(4, Or))
			o.check(g.flags&0x300C0 == 0, "%x is set: what the interrupt cleared came back", g.flags)
			o.k.Relinquish()
		}
	})
	return [2]*Thread{&t[0], &t[1]}
}
