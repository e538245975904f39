package rtos

import "slices"

var queueScenarios = []scenario{
	{"S53", "messages of 1 word", func(o *oracle) { queueBasic(o, 1) }},
	{"S53", "messages of 2 words", func(o *oracle) { queueBasic(o, 2) }},
	{"S53", "messages of 4 words", func(o *oracle) { queueBasic(o, 4) }},
	{"S53", "messages of 8 words", func(o *oracle) { queueBasic(o, 8) }},
	{"S53", "messages of 16 words", func(o *oracle) { queueBasic(o, 16) }},
	{"S53", "what a queue refuses", func(o *oracle) {
		var q [4]Queue
		k := o.k
		m := make([]uint32, 1)
		o.ok(k.CreateQueue(&q[0], "queue 0", 1, make([]byte, 4)))
		o.want(WaitError, q[0].Receive(m, 1))
		o.want(CallerError, q[0].Delete())
		o.thread(new(Thread), 16, 16, 100, AutoStart, func() {
			o.want(QueueError, k.CreateQueue(nil, "", 1, make([]byte, 12)))
			o.want(QueueError, k.CreateQueue(&q[0], "", 1, make([]byte, 12)))
			o.want(SizeError, k.CreateQueue(&q[1], "", 0, make([]byte, 12)))
			o.want(SizeError, k.CreateQueue(&q[1], "", 47, make([]byte, 12)))
			o.want(SizeError, k.CreateQueue(&q[1], "", 1, make([]byte, 1)))
			o.want(PtrError, k.CreateQueue(&q[1], "", 1, nil))
			q[1].k = k
			for _, bad := range []*Queue{nil, {}, &q[1]} {
				for _, s := range []Status{
					bad.Delete(), bad.Flush(), bad.Send(m, NoWait), bad.FrontSend(m, NoWait), bad.Receive(m, NoWait), bad.Prioritize(), bad.Info(nil),
					bad.SendNotify(nil),
				} {
					o.want(QueueError, s)
				}
			}
			o.want(PtrError, q[0].Send(nil, NoWait))
			o.want(PtrError, q[0].FrontSend(nil, NoWait))
			o.want(PtrError, q[0].Receive(nil, NoWait))
			refused := func() {
				o.want(CallerError, k.CreateQueue(&q[1], "", 1, make([]byte, 12)))
				o.want(CallerError, q[0].Delete())
				o.want(WaitError, q[0].FrontSend(m, 100))
				o.want(WaitError, q[0].Send(m, 100))
				o.want(WaitError, q[0].Receive(m, 100))
				o.want(QueueEmpty, q[0].Receive(m, NoWait))
			}
			o.contexts(refused, refused)
			o.ok(q[0].Delete())
			o.done()
		})
	}},
	{"S54", "a message goes straight to who waits", func(o *oracle) {
		t, n := o.threads(3)
		var q Queue
		o.ok(o.k.CreateQueue(&q, "queue", 2, make([]byte, 24)))
		o.thread(&t[0], 16, 16, 100, AutoStart, func() {
			o.counts([]int{0}, n[1])
			o.ok(q.Send([]uint32{1, 0}, NoWait))
			o.counts([]int{1, 0}, n[1], int(q.enqueued))
			o.ok(t[2].Resume())
			o.counts([]int{2}, int(q.waiters.count))
			o.ok(q.Send([]uint32{2, 0}, NoWait), q.Send([]uint32{2, 0}, NoWait))
			o.counts([]int{2, 1}, n[1], n[2])
			o.done()
		})
		for i, first := range []uint32{1, 2} {
			start := AutoStart
			if i == 1 {
				start = DontStart
			}
			o.thread(&t[i+1], 15, 15, 100, start, func() {
				for want := first; ; want++ {
					m := make([]uint32, 2)
					o.ok(q.Receive(m, WaitForever))
					o.check(m[0] == want, "message %d, want %d", m[0], want)
					n[i+1]++
				}
			})
		}
	}},
	{"S55", "senders wait for a full queue of 2 words", func(o *oracle) { queueFull(o, 2) }},
	{"S55", "senders wait for a full queue of 1 word, made anew", func(o *oracle) { queueFull(o, 1) }},
	{"S56", "front sends of 1 word", func(o *oracle) { queueFront(o, 1) }},
	{"S56", "front sends of 2 words", func(o *oracle) { queueFront(o, 2) }},
	{"S57", "a flush resumes senders", func(o *oracle) {
		t, n := o.threads(3)
		var q Queue
		o.ok(o.k.CreateQueue(&q, "queue", 1, make([]byte, 12)))
		o.thread(&t[0], 16, 16, 100, AutoStart, func() {
			for range 3 {
				o.ok(q.Send([]uint32{1}, NoWait))
			}
			o.k.Relinquish()
			o.states(QueueSuspended, &t[1], &t[2])
			o.ok(q.Flush())
			o.counts([]int{0, 0, 0}, n[1], n[2], int(q.enqueued))
			o.k.Relinquish()
			o.counts([]int{1, 1, 0}, n[1], n[2], int(q.enqueued))
			o.want(QueueEmpty, q.Receive(make([]uint32, 1), NoWait))
			for range 3 {
				o.ok(q.Send([]uint32{1}, NoWait))
			}
			o.want(QueueFull, q.Send([]uint32{1}, NoWait))
			o.ok(q.Flush(), q.Flush())
			o.counts([]int{0}, int(q.enqueued))
			o.ok(q.Send([]uint32{7}, NoWait))
			m := make([]uint32, 1)
			o.ok(q.Receive(m, NoWait))
			o.check(m[0] == 7, "message %d after the flush", m[0])
			o.done()
		})
		for i := 1; i < 3; i++ {
			o.thread(&t[i], 16, 16, 100, AutoStart, func() {
				o.ok(q.Send([]uint32{9}, WaitForever))
				n[i]++
			})
		}
	}},
	{"S58", "waits for a queue time out", func(o *oracle) {
		t, n := o.threads(3)
		var full, empty Queue
		o.ok(o.k.CreateQueue(&full, "full", 2, make([]byte, 24)), o.k.CreateQueue(&empty, "empty", 2, make([]byte, 24)))
		o.thread(&t[0], 17, 17, 100, AutoStart, func() {
			m := []uint32{1, 2}
			o.ok(full.Send(m, NoWait), full.Send(m, NoWait), full.Send(m, NoWait))
			o.counts([]int{0, 0}, n[1], n[2])
			o.want(QueueFull, full.FrontSend(m, 3))
			o.counts([]int{0, 0}, n[1], n[2])
			o.want(QueueFull, full.Send(m, 32))
			o.timed(n[1] == 1 && n[2] == 1, "%v, want 1 each", n[1:])
			o.done()
		})
		for i := 1; i < 3; i++ {
			o.thread(&t[i], 17, 17, 100, AutoStart, func() {
				for empty.Receive(make([]uint32, 2), 20) == QueueEmpty {
					n[i]++
				}
			})
		}
	}},
	{"S59", "a thread is terminated while it waits for a queue", func(o *oracle) {
		t, n := o.threads(2)
		var q Queue
		o.ok(o.k.CreateQueue(&q, "queue", 2, make([]byte, 24)))
		o.thread(&t[0], 16, 16, 100, AutoStart, func() {
			o.k.Relinquish()
			o.states(QueueSuspended, &t[1])
			o.ok(t[1].Terminate())
			o.states(Terminated, &t[1])
			o.counts([]int{0, 1}, int(q.waiters.count), n[1])
			o.done()
		})
		o.thread(&t[1], 16, 16, 100, AutoStart, func() {
			n[1]++
			q.Receive(make([]uint32, 2), WaitForever)
			n[1]++
		})
	}},
}

// queueBasic fills and empties queues for one message and for three.
func queueBasic(o *oracle, words uint32) {
	var q1, q3 Queue
	o.ok(o.k.CreateQueue(&q1, "one", words, make([]byte, 4*words)), o.k.CreateQueue(&q3, "three", words, make([]byte, 12*words)))
	message := func(of uint32) []uint32 {
		m := make([]uint32, words)
		for i := range m {
			m[i] = of<<8 + uint32(i)
		}
		return m
	}
	o.thread(new(Thread), 16, 16, 100, AutoStart, func() {
		got := make([]uint32, words)
		of := uint32(1)
		for _, c := range []struct {
			q        *Queue
			capacity uint32
		}{{&q1, 1}, {&q3, 3}} {
			for range 2 {
				for i := range c.capacity {
					o.ok(c.q.Send(message(of+i), NoWait))
				}
				o.want(QueueFull, c.q.Send(message(0), NoWait))
				for i := range c.capacity {
					o.ok(c.q.Receive(got, NoWait))
					o.check(slices.Equal(got, message(of+i)), "received %x, want %x", got, message(of+i))
				}
				o.want(QueueEmpty, c.q.Receive(got, NoWait))
				of += c.capacity
			}
		}
		// Once more, begun in the middle of the ring.
		o.ok(q3.Send(message(90), NoWait), q3.Receive(got, NoWait))
		for i := range uint32(3) {
			o.ok(q3.Send(message(i), NoWait))
		}
		for i := range uint32(3) {
			o.ok(q3.Receive(got, NoWait))
			o.check(slices.Equal(got, message(i)), "received %x over the end, want %x", got, message(i))
		}
		o.done()
	})
}

// queueFull lets two senders wait while a reader raises the priority of the later one at each message.
func queueFull(o *oracle, words uint32) {
	t, n := o.threads(3)
	var q Queue
	area := make([]byte, 12*words)
	o.ok(o.k.CreateQueue(&q, "queue", words, area))
	message := func(v uint32) []uint32 { return []uint32{v, 0}[:words] }
	o.thread(&t[0], 16, 16, 100, AutoStart, func() {
		if words == 1 {
			o.ok(q.Delete())
			o.ok(o.k.CreateQueue(&q, "queue", words, area))
		}
		o.ok(t[1].Resume(), t[2].Resume())
		v := uint32(100)
		got := make([]uint32, words)
		o.ok(q.Send(message(v), NoWait), q.Send(message(v), NoWait), q.Send(message(v), NoWait))
		o.ok(q.Receive(got, NoWait), q.Receive(got, NoWait))
		o.ok(q.Send(message(v+1), NoWait), q.Send(message(v+2), NoWait))
		o.counts([]int{0}, n[1])
		o.ok(q.Send(message(v+3), WaitForever))
		o.counts([]int{5, 1}, n[1], n[2])
		o.done()
	})
	o.thread(&t[1], 17, 16, 100, DontStart, func() {
		for want := uint32(100); ; want++ {
			got := make([]uint32, words)
			o.ok(q.Receive(got, WaitForever))
			o.check(got[0] == want, "message %d, want %d", got[0], want)
			var old uint32
			o.ok(t[2].ChangePriority(15, &old))
			n[1]++
		}
	})
	o.thread(&t[2], 16, 16, 100, DontStart, func() {
		o.ok(q.Send(message(104), WaitForever))
		n[2]++
	})
}

// queueFront sends to the front of a queue of two, with and without waiting.
func queueFront(o *oracle, words uint32) {
	t, n := o.threads(3)
	var q Queue
	o.ok(o.k.CreateQueue(&q, "queue", words, make([]byte, 8*words)))
	message := func(v uint32) []uint32 { return []uint32{v, 0}[:words] }
	receive := func(want uint32, wait uint32) {
		o.Helper()
		got := make([]uint32, words)
		o.ok(q.Receive(got, wait))
		o.check(got[0] == want, "received %x, want %x", got[0], want)
	}
	o.thread(&t[0], 16, 16, 100, AutoStart, func() {
		o.ok(q.Send(message(0x12345678), NoWait), q.FrontSend(message(0xF000001), NoWait))
		receive(0xF000001, NoWait)
		receive(0x12345678, NoWait)
		o.want(QueueEmpty, q.Receive(make([]uint32, words), NoWait))
		o.ok(t[1].Resume())
		o.k.Relinquish()
		o.ok(t[2].Resume())
		o.states(QueueSuspended, &t[1], &t[2])
		o.ok(q.FrontSend(message(0xFF00002), NoWait), q.FrontSend(message(0xFF00002), NoWait))
		o.states(Suspended, &t[2])
		o.k.Relinquish()
		o.want(QueueFull, q.FrontSend(message(0xFF00003), NoWait))
		o.ok(q.FrontSend(message(0xFF00003), WaitForever))
		o.ok(t[2].Resume())
		o.ok(q.FrontSend(message(0xFF00004), WaitForever))
		o.counts([]int{1}, n[1])
		o.done()
	})
	o.thread(&t[1], 16, 16, 100, DontStart, func() {
		receive(0xFF00002, WaitForever)
		o.ok(q.Send(message(0xEE000001), WaitForever), q.FrontSend(message(0xEE000002), WaitForever))
		o.k.Relinquish()
		receive(0xFF00003, NoWait)
		receive(0xEE000002, NoWait)
		receive(0xEE000001, NoWait)
		o.ok(q.Send(message(0xEE000003), WaitForever), q.FrontSend(message(0xEE000004), WaitForever))
		o.k.Relinquish()
		receive(0xFF00004, NoWait)
		receive(0xDD000001, NoWait)
		receive(0xEE000004, NoWait)
		receive(0xEE000003, NoWait)
		n[1]++
	})
	o.thread(&t[2], 15, 15, 100, DontStart, func() {
		receive(0xFF00002, WaitForever)
		o.ok(t[2].Suspend())
		o.ok(q.FrontSend(message(0xDD000001), WaitForever))
	})
}
