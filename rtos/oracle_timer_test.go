package rtos

var timerScenarios = []scenario{
	{"S66", "the tick counter is read and set", func(o *oracle) {
		o.thread(new(Thread), 16, 16, 0, AutoStart, func() {
			o.k.SetTime(0)
			o.ok(o.k.Sleep(35))
			o.ticked(35, int(o.k.Time()))
			o.k.SetTime(7)
			o.ticked(7, int(o.k.Time()))
			o.done()
		})
	}},
	{"S67", "a timer, stopped and changed", func(o *oracle) {
		n, tm := o.timers(2, func(i int) [2]uint32 { return [][2]uint32{{1, 18}, {1000, 1000}}[i] }, AutoActivate)
		var bad Timer
		bad.k = o.k
		none := func(uint32) {}
		o.want(CallerError, tm[0].Delete())
		o.want(CallerError, tm[0].Change(1, 1))
		o.thread(new(Thread), 16, 16, 3, AutoStart, func() {
			o.simpleTimer(n, tm)
			o.ok(tm[0].Deactivate(), tm[1].Deactivate(), tm[0].Change(100, 100), tm[1].Change(100, 100), tm[0].Activate(), tm[1].Activate())
			for _, b := range []*Timer{nil, {}, &bad} {
				for _, s := range []Status{b.Activate(), b.Deactivate(), b.Change(1, 1), b.Delete(), b.Info(nil)} {
					o.want(TimerError, s)
				}
			}
			o.want(TickError, tm[0].Change(0, 1))
			o.want(TimerError, o.k.CreateTimer(nil, "", none, 0, 1, 18, AutoActivate))
			o.want(TimerError, o.k.CreateTimer(&tm[0], "", none, 0, 1, 18, AutoActivate))
			o.want(TickError, o.k.CreateTimer(&bad, "", none, 0, 0, 18, AutoActivate))
			o.want(ActivateError, o.k.CreateTimer(&bad, "", none, 0, 1, 18, 4000))
			refused := func() {
				o.want(CallerError, tm[0].Delete())
				o.want(CallerError, o.k.CreateTimer(&bad, "", none, 0, 1, 18, AutoActivate))
			}
			o.contexts(refused, refused)
			o.ok(tm[0].Delete(), tm[1].Delete())
			o.want(TimerError, tm[0].Delete())
			// Ticks of WaitForever are accepted and never come.
			var never, once Timer
			o.ok(o.k.CreateTimer(&never, "never", func(uint32) { o.check(false, "fired") }, 0, WaitForever, 0, NoActivate), never.Activate())
			fired := 0
			o.ok(o.k.CreateTimer(&once, "once", func(v uint32) { fired += int(v) }, 5, 3, 0, AutoActivate))
			o.ok(o.k.Sleep(70))
			o.counts([]int{5}, fired)
			o.want(ActivateError, once.Activate()) // nothing remains
			o.done()
		})
	}},
	{"S68", "three timers of the same time", func(o *oracle) {
		n, tm := o.timers(3, func(int) [2]uint32 { return [2]uint32{100, 200} }, AutoActivate)
		o.thread(new(Thread), 16, 16, 3, AutoStart, func() {
			o.ok(o.k.Sleep(301))
			o.timed(n[0] == 2 && n[1] == 2 && n[2] == 2, "%v, want 2 each", n)
			o.ok(tm[0].Deactivate(), tm[1].Deactivate(), tm[2].Deactivate())
			o.ok(o.k.Sleep(100))
			o.timed(n[0] == 2 && n[1] == 2 && n[2] == 2, "%v, want 2 each", n)
			for i := range tm {
				o.ok(tm[i].Change(100, uint32(i)+1), tm[i].Activate())
			}
			o.ok(o.k.Sleep(200))
			o.ticked(103, n[0])
			o.ticked(53, n[1])
			o.ticked(36, n[2])
			o.ok(tm[0].Deactivate(), tm[1].Deactivate(), tm[2].Deactivate(), tm[0].Delete(), tm[2].Delete(), tm[1].Delete())
			o.done()
		})
	}},
	{"S69", "three timers of 1, 2 and 3 ticks", func(o *oracle) {
		n, tm := o.timers(3, func(i int) [2]uint32 { return [2]uint32{uint32(i) + 1, uint32(i) + 1} }, NoActivate)
		o.thread(new(Thread), 16, 16, 3, AutoStart, func() {
			o.ok(o.k.Sleep(1))
			o.ok(tm[0].Activate(), tm[1].Activate(), tm[2].Activate())
			o.ok(o.k.Sleep(300))
			o.ticked(300, n[0])
			o.ticked(150, n[1])
			o.ticked(100, n[2])
			o.done()
		})
	}},
	{"S70", "stopping and starting keeps what remains", func(o *oracle) { timerStops(o, 29, []uint32{2, 3, 4, 5, 6, 7}, 2) }},
	{"S71", "stopping and starting a timer longer than the wheel", func(o *oracle) { timerStops(o, 100, []uint32{20, 35, 2, 1, 2, 5}, 35) }},
	{"S72", "a callback stops its own timer", func(o *oracle) {
		var tm Timer
		fired := 0
		o.ok(o.k.CreateTimer(&tm, "timer", func(uint32) {
			o.want(CallerError, o.k.Sleep(1))
			fired++
			o.ok(tm.Deactivate())
		}, 0, 13, 23, NoActivate))
		o.thread(new(Thread), 16, 16, 3, AutoStart, func() {
			o.ok(tm.Activate())
			o.want(ActivateError, tm.Activate())
			o.ok(o.k.Sleep(14))
			o.timed(fired == 1, "fired %d times at 14 ticks", fired)
			o.ok(o.k.Sleep(24))
			o.counts([]int{1}, fired)
			fired = 0
			o.ok(tm.Activate(), o.k.Sleep(47))
			o.timed(fired == 1, "fired %d times in 47 ticks", fired)
			o.done()
		})
	}},
	{"S73", "information about timers", func(o *oracle) {
		n, tm := o.timers(2, func(i int) [2]uint32 { return [][2]uint32{{1, 18}, {1000, 1000}}[i] }, AutoActivate)
		o.thread(new(Thread), 16, 16, 3, AutoStart, func() {
			o.simpleTimer(n, tm)
			info := func(active bool, remaining, reschedule uint32) {
				o.Helper()
				var i TimerInfo
				o.ok(tm[0].Info(&i))
				o.timed(i.Active == active && i.Remaining == remaining && i.Reschedule == reschedule && i.Next == &tm[1], "%+v", i)
			}
			o.ok(tm[0].Info(nil))
			info(true, 1, 1)
			o.ok(tm[0].Deactivate())
			info(false, 1, 1)
			o.ok(tm[0].Change(100, 200), tm[0].Activate())
			info(true, 100, 200)
			o.ok(tm[0].Change(5, 5)) // active: nothing changes
			info(true, 100, 200)
			var p TimerPerformance
			o.want(FeatureNotEnabled, o.k.TimerPerformance(&tm[0], &p))
			o.want(FeatureNotEnabled, o.k.TimerPerformance(nil, nil))
			o.want(FeatureNotEnabled, o.k.TimerSystemPerformance(&p))
			o.done()
		})
	}},
}

var otherScenarios = []scenario{
	{"S74", "interrupts are disabled and enabled", func(o *oracle) {
		o.thread(new(Thread), 17, 17, 100, AutoStart, func() {
			before := o.k.InterruptControl(IntDisable)
			o.check(before == IntEnable, "interrupts were disabled")
			now := o.k.Time()
			o.k.Compute(o.k.tickCycles * 3)
			o.check(o.k.Time() == now, "a tick came")
			o.check(o.k.InterruptControl(before) == IntDisable, "interrupts were not disabled")
			o.ok(o.k.Sleep(2))
			o.timed(o.k.Time() >= now+2, "ticks were lost")
			o.done()
		})
	}},
}

// simpleTimer is the course of S67 and S73: a timer of (1,18), stopped, changed to (100,1), and started again.
func (o *oracle) simpleTimer(n []int, tm []Timer) {
	o.ok(o.k.Sleep(19))
	o.timed(n[0] == 2, "fired %d times in 19 ticks, want 2", n[0])
	o.ok(tm[0].Deactivate(), o.k.Sleep(19))
	o.timed(n[0] == 2, "fired %d times after it was stopped, want 2", n[0])
	o.ok(tm[0].Change(100, 1))
	o.k.SetTime(0)
	o.ok(tm[0].Activate(), o.k.Sleep(120))
	o.ticked(23, n[0])
	o.ticked(120, int(o.k.Time()))
}

// timers makes timers that count.
func (o *oracle) timers(count int, ticks func(i int) [2]uint32, activate uint32) ([]int, []Timer) {
	n, tm := make([]int, count), make([]Timer, count)
	for i := range tm {
		t := ticks(i)
		o.ok(o.k.CreateTimer(&tm[i], "timer", func(v uint32) {
			o.check(v == 0x1234, "input %x", v)
			o.check(o.k.current == &o.k.timers.thread && o.k.current.priority == 0, "not in the timer thread")
			n[i]++
		}, 0x1234, t[0], t[1], activate))
	}
	return n, tm
}

func timerStops(o *oracle, initial uint32, sleeps []uint32, last uint32) {
	n, tm := o.timers(1, func(int) [2]uint32 { return [2]uint32{initial, 31} }, NoActivate)
	o.thread(new(Thread), 16, 16, 3, AutoStart, func() {
		o.ok(o.k.Sleep(10), tm[0].Activate())
		for _, s := range sleeps {
			o.ok(o.k.Sleep(s), tm[0].Deactivate(), tm[0].Activate())
		}
		o.timed(n[0] == 0, "fired %d times too early", n[0])
		o.ok(o.k.Sleep(last), tm[0].Deactivate())
		o.timed(n[0] == 1, "fired %d times, want 1", n[0])
		o.done()
	})
}
