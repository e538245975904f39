package rtos

var memoryScenarios = []scenario{
	{"S60", "what a block pool does and refuses", func(o *oracle) {
		var p [4]BlockPool
		k := o.k
		area := func() []byte { return make([]byte, 320) }
		o.ok(k.CreateBlockPool(&p[0], "pool 0", 100, area()), k.CreateBlockPool(&p[1], "pool 1", 100, area()))
		o.want(SizeError, k.CreateBlockPool(&p[2], "pool 2", 100, make([]byte, 50)))
		var b [4]Block
		o.want(WaitError, p[0].Allocate(&b[0], 1))
		o.want(CallerError, p[0].Delete())
		o.thread(new(Thread), 17, 17, 100, AutoStart, func() {
			o.want(PoolError, k.CreateBlockPool(nil, "", 100, area()))
			o.want(PoolError, k.CreateBlockPool(&p[0], "", 100, area()))
			o.want(PtrError, k.CreateBlockPool(&p[2], "", 100, nil))
			o.want(SizeError, k.CreateBlockPool(&p[2], "", 100, make([]byte, 100)))
			p[2].k = k
			for _, bad := range []*BlockPool{nil, {}, &p[2]} {
				for _, s := range []Status{bad.Delete(), bad.Allocate(nil, NoWait), bad.Prioritize(), bad.Info(nil)} {
					o.want(PoolError, s)
				}
			}
			o.want(PtrError, p[0].Allocate(nil, NoWait))
			o.want(PtrError, Block{}.Release())
			for range 2 {
				for i := range 3 {
					o.ok(p[0].Allocate(&b[i], NoWait))
					o.check(len(b[i].Bytes()) == 100, "a block of %d bytes", len(b[i].Bytes()))
					for j := range b[i].Bytes() {
						b[i].Bytes()[j] = byte(0xE0 + i)
					}
				}
				o.want(NoMemory, p[0].Allocate(&b[3], NoWait))
				for i := range 3 {
					o.check(b[i].Bytes()[0] == byte(0xE0+i) && b[i].Bytes()[99] == byte(0xE0+i), "block %d was written over", i)
					o.ok(b[i].Release())
					o.want(PtrError, b[i].Release())
				}
			}
			// The block released last goes first.
			last := b[2]
			o.ok(p[0].Allocate(&b[0], NoWait))
			o.check(b[0] == last, "not the last one released")
			o.ok(b[0].Release())
			o.contexts(func() {
				o.want(CallerError, k.CreateBlockPool(&p[2], "", 100, area()))
				o.want(CallerError, p[0].Delete())
				o.want(WaitError, p[0].Allocate(&b[0], WaitForever))
			}, func() {
				o.want(CallerError, k.CreateBlockPool(&p[2], "", 100, area()))
				o.want(CallerError, p[0].Delete())
				o.want(WaitError, p[0].Allocate(&b[0], 10))
			})
			o.ok(p[0].Delete(), p[1].Delete())
			o.want(PoolError, p[1].Delete())
			o.want(PtrError, b[0].Release())
			o.done()
		})
	}},
	{"S61", "released blocks go to who waits", func(o *oracle) {
		t, n := o.threads(3)
		var p BlockPool
		o.ok(o.k.CreateBlockPool(&p, "pool", 100, make([]byte, 320)))
		o.thread(&t[0], 17, 17, 100, AutoStart, func() {
			var b [3]Block
			for i := range b {
				o.ok(p.Allocate(&b[i], NoWait))
			}
			o.k.Relinquish()
			o.ok(b[2].Release())
			o.counts([]int{0}, n[1])
			o.k.Relinquish()
			o.counts([]int{1}, n[1])
			o.ok(p.Allocate(&b[2], NoWait), t[2].Resume())
			o.k.Relinquish()
			o.ok(b[2].Release())
			o.counts([]int{1, 0}, n[1], n[2])
			o.k.Relinquish()
			o.k.Relinquish()
			o.counts([]int{3, 1}, n[1], n[2])
			o.done()
		})
		for i := 1; i < 3; i++ {
			start := AutoStart
			if i == 2 {
				start = DontStart
			}
			o.thread(&t[i], 17, 17, 100, start, func() {
				for {
					var b Block
					o.ok(p.Allocate(&b, WaitForever))
					b.Bytes()[99] = 1
					n[i]++
					o.ok(b.Release())
					o.k.Relinquish()
				}
			})
		}
	}},
	{"S61", "threads are terminated while they wait for a block", func(o *oracle) {
		t, n := o.threads(3)
		var p BlockPool
		var b Block
		o.ok(o.k.CreateBlockPool(&p, "pool", 100, make([]byte, 104)), p.Allocate(&b, NoWait))
		terminated(o, t, n, &p.waiters, BlockSuspended, func() { p.Allocate(new(Block), 40) }, func() { o.ok(b.Release()) })
	}},
	{"S64", "threads are terminated while they wait for bytes", func(o *oracle) {
		t, n := o.threads(3)
		var p BytePool
		var m Memory
		o.ok(o.k.CreateBytePool(&p, "pool", make([]byte, 108)), p.Allocate(&m, 60, NoWait))
		terminated(o, t, n, &p.waiters, ByteSuspended, func() { p.Allocate(new(Memory), 60, 40) }, func() { o.ok(m.Release()) })
	}},
	{"S62", "waits for a block time out", func(o *oracle) {
		var p BlockPool
		o.ok(o.k.CreateBlockPool(&p, "pool", 100, make([]byte, 320)))
		memoryTimeouts(o, func() {
			var b [3]Block
			o.ok(p.Allocate(&b[0], NoWait), p.Allocate(&b[1], NoWait), p.Allocate(&b[2], NoWait))
		}, func() Status { return p.Allocate(new(Block), 10) })
	}},
	{"S62", "waits for bytes time out", func(o *oracle) {
		var p BytePool
		o.ok(o.k.CreateBytePool(&p, "pool", make([]byte, 108)))
		memoryTimeouts(o, func() { o.ok(p.Allocate(new(Memory), 60, NoWait)) }, func() Status { return p.Allocate(new(Memory), 60, 10) })
	}},
	{"S63", "what a byte pool does and refuses", func(o *oracle) {
		var p [5]BytePool
		k := o.k
		area4 := make([]byte, 300)
		o.ok(k.CreateBytePool(&p[0], "pool 0", make([]byte, 108)), k.CreateBytePool(&p[1], "pool 1", make([]byte, 200)))
		var m [5]Memory
		o.ok(p[1].Allocate(&m[0], 24, NoWait))
		o.want(WaitError, p[1].Allocate(&m[1], 24, 1))
		o.want(CallerError, p[1].Delete())
		// In initialization: blocks next to each other come together while a search goes on from behind them.
		o.ok(k.CreateBytePool(&p[4], "pool 4", area4))
		o.ok(p[4].Allocate(&m[0], 80, NoWait))
		search := p[4].search
		o.ok(p[4].Allocate(&m[1], 80, NoWait), p[4].Allocate(&m[2], 80, NoWait), m[0].Release(), m[1].Release())
		p[4].search = search
		o.ok(p[4].Allocate(&m[3], 120, NoWait), p[4].Allocate(&m[4], 40, NoWait))
		take := func(pool, i int, size uint32) {
			o.Helper()
			o.ok(p[pool].Allocate(&m[i], size, NoWait))
			o.check(len(m[i].Bytes()) == int(size), "%d bytes, want %d", len(m[i].Bytes()), size)
			for j := range m[i].Bytes() {
				m[i].Bytes()[j] = 0xFF
			}
		}
		give := func(is ...int) {
			o.Helper()
			for _, i := range is {
				o.ok(m[i].Release())
			}
		}
		o.thread(new(Thread), 17, 17, 100, AutoStart, func() {
			o.want(PoolError, k.CreateBytePool(nil, "", make([]byte, 108)))
			o.want(PoolError, k.CreateBytePool(&p[0], "", make([]byte, 108)))
			o.want(PtrError, k.CreateBytePool(&p[2], "", nil))
			o.want(SizeError, k.CreateBytePool(&p[2], "", make([]byte, 1)))
			o.want(SizeError, k.CreateBytePool(&p[2], "", make([]byte, 99)))
			p[2].k = k
			for _, bad := range []*BytePool{nil, {}, &p[2]} {
				for _, s := range []Status{bad.Delete(), bad.Allocate(nil, 0, NoWait), bad.Prioritize(), bad.Info(nil)} {
					o.want(PoolError, s)
				}
			}
			o.want(PtrError, p[0].Allocate(nil, 24, NoWait))
			o.want(SizeError, p[0].Allocate(&m[0], 240000, NoWait))
			o.want(SizeError, p[0].Allocate(&m[0], 0, NoWait))
			o.want(PtrError, Memory{}.Release())

			o.check(p[0].available == 100 && p[0].fragments == 2, "%d bytes in %d fragments", p[0].available, p[0].fragments)
			three := func() {
				take(0, 0, 24)
				take(0, 1, 24)
				take(0, 2, 24)
				o.want(NoMemory, p[0].Allocate(&m[3], 24, NoWait))
			}
			three()
			give(0)
			o.want(PtrError, m[0].Release())
			// The search goes back to what was released, although there is room behind it.
			var a, b, c Memory
			o.ok(p[1].Allocate(&a, 24, NoWait), p[1].Allocate(&b, 24, NoWait), a.Release(), p[1].Allocate(&c, 24, NoWait))
			o.check(c == a, "not the first that fits")
			give(1, 2)
			three()
			give(0, 1, 2)
			take(0, 2, 88)
			o.want(NoMemory, p[0].Allocate(&m[3], 24, NoWait))
			give(2)
			take(0, 0, 24)
			take(0, 1, 24)
			take(0, 2, 24)
			give(1)
			p[0].search = m[2].at - 8
			take(0, 1, 24)
			give(2, 1, 0)
			p[0].search = m[2].at - 8
			take(0, 2, 88)
			o.contexts(func() {
				o.want(WaitError, p[0].Allocate(&m[3], 24, 100))
				o.want(CallerError, p[0].Allocate(&m[3], 24, NoWait))
				o.want(CallerError, k.CreateBytePool(&p[2], "", make([]byte, 108)))
				o.want(CallerError, p[0].Delete())
				o.want(CallerError, m[2].Release())
			}, func() {
				o.want(CallerError, k.CreateBytePool(&p[2], "", make([]byte, 108)))
				o.want(CallerError, p[0].Allocate(&m[3], 24, NoWait))
				o.want(CallerError, p[0].Allocate(&m[3], 24, 100))
				o.want(CallerError, p[0].Delete())
				o.want(CallerError, m[2].Release())
			})
			o.ok(p[0].Delete(), p[1].Delete(), p[4].Delete())
			o.want(PtrError, m[2].Release())

			o.ok(k.CreateBytePool(&p[4], "pool 4", area4))
			all := p[4].available
			take(4, 0, 84)
			take(4, 1, 84)
			take(4, 2, 84)
			o.want(NoMemory, p[4].Allocate(&m[3], 24, NoWait))
			give(2)
			behind := p[4].search
			give(1, 0)
			p[4].search = behind
			take(4, 0, 168)
			give(0)
			take(4, 0, 84)
			take(4, 1, 84)
			take(4, 2, 84)
			give(0, 1, 2)
			o.check(p[4].available == all, "%d bytes of %d are available", p[4].available, all)
			p[4].search = behind
			p[4].fragments = 0xFFFFFFFF // a corrupt pool finds nothing, and no crash
			o.want(NoMemory, p[4].Allocate(&m[0], 168, NoWait))
			o.done()
		})
	}},
	{"S64", "released bytes go to who waits", func(o *oracle) {
		t, n := o.threads(4)
		var p BytePool
		o.ok(o.k.CreateBytePool(&p, "pool", make([]byte, 108)))
		o.thread(&t[0], 17, 17, 100, AutoStart, func() {
			var m Memory
			o.ok(p.Allocate(&m, 60, NoWait))
			o.k.Relinquish()
			o.ok(m.Release())
			o.k.Relinquish()
			o.counts([]int{1}, n[1])
			o.ok(p.Allocate(&m, 60, NoWait), t[2].Resume())
			o.k.Relinquish()
			o.ok(m.Release())
			o.counts([]int{1, 0}, n[1], n[2])
			o.k.Relinquish()
			o.k.Relinquish()
			o.counts([]int{3, 1}, n[1], n[2])
			// Two waiters, of which the first is not satisfied by half of the pool: the second waits behind it.
			o.ok(t[1].Terminate(), t[2].Terminate())
			o.ok(p.Allocate(&m, 60, NoWait), t[3].Resume())
			o.states(ByteSuspended, &t[3])
			if o.open(WindowByteSearch) {
				// The waiter goes away while the search looks for it; what was found is free again, and the waiter takes it by itself.
				hit := false
				o.k.cfg.OnWindow = func(w Window) {
					if w == WindowByteSearch && !hit {
						hit = true
						o.k.Interrupt(func() { o.ok(t[3].WaitAbort()) })
					}
				}
				o.ok(m.Release())
				o.check(hit, "no interrupt landed in the search")
				o.k.cfg.OnWindow = nil
			} else {
				o.ok(t[3].WaitAbort(), m.Release())
				o.ok(t[3].Resume())
			}
			o.states(Suspended, &t[3])
			o.counts([]int{1}, n[3])
			o.check(p.available == 100, "%d bytes are available", p.available)
			o.done()
		})
		for i := 1; i < 3; i++ {
			start := AutoStart
			if i == 2 {
				start = DontStart
			}
			o.thread(&t[i], 17, 17, 100, start, func() {
				for {
					var m Memory
					o.ok(p.Allocate(&m, 60, WaitForever))
					n[i]++
					o.ok(m.Release())
					o.k.Relinquish()
				}
			})
		}
		o.thread(&t[3], 16, 16, 100, DontStart, func() {
			var m Memory
			if st := p.Allocate(&m, 90, WaitForever); st != Success {
				o.want(WaitAborted, st)
				if !o.open(WindowByteSearch) {
					o.ok(t[3].Suspend())
				}
				o.ok(p.Allocate(&m, 90, WaitForever))
			}
			n[3]++
			o.ok(m.Release())
			o.ok(t[3].Suspend())
		})
	}},
	{"S65", "three threads take each other's bytes", func(o *oracle) {
		t, n := o.threads(3)
		var p BytePool
		o.ok(o.k.CreateBytePool(&p, "pool", make([]byte, 108)))
		all := p.available
		end := false
		o.thread(&t[0], 17, 17, 1, AutoStart, func() {
			o.k.SetTime(0)
			contend(o, &p, 60, &n[0], func() bool { return o.k.Time() > 128 })
			end = true
			o.ok(o.k.Sleep(2))
			o.timed(t[1].state == Completed && t[2].state == Completed, "%v %v", t[1].state, t[2].state)
			o.check(p.available == all, "%d bytes of %d are available", p.available, all)
			o.check(n[0] > 0 && n[1] > 0 && n[2] > 0, "rounds %v", n)
			o.done()
		})
		o.thread(&t[1], 17, 17, 1, AutoStart, func() { contend(o, &p, 30, &n[1], func() bool { return end }) })
		o.thread(&t[2], 17, 17, 1, AutoStart, func() { contend(o, &p, 12, &n[2], func() bool { return end }) })
	}},
}

func contend(o *oracle, p *BytePool, size uint32, rounds *int, end func() bool) {
	for !end() {
		var m Memory
		o.ok(p.Allocate(&m, size, WaitForever))
		for i := range m.Bytes() {
			m.Bytes()[i] = 0xEF
		}
		o.ok(m.Release())
		*rounds++
	}
}

func memoryTimeouts(o *oracle, take func(), wait func() Status) {
	t, n := o.threads(3)
	o.thread(&t[0], 17, 17, 100, AutoStart, func() {
		take()
		o.ok(o.k.Sleep(64))
		o.ticked(6, n[1])
		o.ticked(3, n[2])
		o.done()
	})
	loop := func(i int) {
		for wait() == NoMemory {
			n[i]++
		}
	}
	o.thread(&t[1], 17, 17, 100, AutoStart, func() { loop(1) })
	o.thread(&t[2], 17, 17, 100, AutoStart, func() {
		o.ok(o.k.Sleep(32))
		loop(2)
	})
}

// terminated lets threads 1 and 2 wait for what thread 0 terminates them in.
func terminated(o *oracle, t []Thread, n []int, list *waitList, state State, wait, release func()) {
	o.thread(&t[0], 17, 17, 100, AutoStart, func() {
		o.k.Relinquish()
		o.states(state, &t[1], &t[2])
		o.ok(t[1].Terminate(), t[2].Terminate())
		o.states(Terminated, &t[1], &t[2])
		release()
		o.k.Relinquish()
		o.ok(o.k.Sleep(50))
		o.counts([]int{1, 1, 0}, n[1], n[2], int(list.count))
		o.done()
	})
	for i := 1; i < 3; i++ {
		o.thread(&t[i], 17, 17, 100, AutoStart, func() {
			n[i]++
			wait()
			n[i]++
		})
	}
}
