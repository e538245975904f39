package metric

import (
	"fmt"
	"slices"

	"github.com/vauban-iot/vauban/rtos"
)

// Test is one of Thread-Metric's tests.
type Test struct {
	Name   string // one word, for command lines
	Title  string // as Thread-Metric prints it
	Unit   string // what a unit of its work is
	Switch bool   // it measures switching between threads; otherwise what one thread does alone
	begin  func(p *port) (total func() uint64, wrong func() string)
}

// Tests are all eight, in Thread-Metric's order.
func Tests() []Test { return slices.Clone(tests) }

// Find is the test with a name.
func Find(name string) (Test, bool) {
	for _, t := range tests {
		if t.Name == name {
			return t, true
		}
	}
	return Test{}, false
}

var tests = []Test{
	{"basic", "Basic Single Thread Processing", "a pass over 1024 words", false, basic},
	{"cooperative", "Cooperative Scheduling", "a relinquish among five threads", true, cooperative},
	{"preemptive", "Preemptive Scheduling", "a resume of, and switch to, the next of five threads", true, preemptive},
	{"interrupt", "Interrupt Processing", "an interrupt that puts a semaphore, and the get", false, interrupt},
	{"interrupt-preemption", "Interrupt Preemption Processing", "an interrupt that resumes a thread, which preempts", true, interruptPreemption},
	{"message", "Message Processing", "send and receive of 16 bytes", false, message},
	{"synchronization", "Synchronization Processing", "get and put of a semaphore", false, synchronization},
	{"memory", "Memory Allocation", "allocation and release of 128 bytes", false, memory},
}

func nothing() string { return "" }

const passWords = 1024

func basic(p *port) (func() uint64, func() string) {
	var words [passWords]uint32
	var passes uint64
	p.thread(0, 10, func() {
		for {
			n := uint32(passes)
			for i := range words {
				words[i] = (words[i] + n) ^ words[i]
			}
			passes++
			p.passed()
		}
	})
	p.resume(0)
	return func() uint64 { return passes }, func() string {
		if passes == 0 {
			return "its thread did nothing"
		}
		return ""
	}
}

// alike is the consistency check of tests whose counters go up in turn.
func alike(counters []uint64) func() string {
	return func() string {
		var sum uint64
		for _, c := range counters {
			sum += c
		}
		average := sum / uint64(len(counters))
		for i, c := range counters {
			if c+1 < average || c > average+1 {
				return fmt.Sprintf("counter %d is at %d, the average at %d", i, c, average)
			}
		}
		return ""
	}
}

func sum(counters []uint64) func() uint64 {
	return func() (n uint64) {
		for _, c := range counters {
			n += c
		}
		return n
	}
}

func cooperative(p *port) (func() uint64, func() string) {
	counters := make([]uint64, 5)
	for i := range counters {
		p.thread(i, 3, func() {
			for {
				p.k.Relinquish()
				counters[i]++
			}
		})
		p.resume(i)
	}
	return sum(counters), alike(counters)
}

func preemptive(p *port) (func() uint64, func() string) {
	counters := make([]uint64, 5)
	for i := range counters {
		p.thread(i, 10-uint32(i), func() {
			for {
				if i < 4 {
					p.resume(i + 1) // back when all above ran and suspended themselves
				}
				counters[i]++
				if i > 0 {
					p.suspend(i)
				}
			}
		})
	}
	p.resume(0)
	return sum(counters), alike(counters)
}

func interrupt(p *port) (func() uint64, func() string) {
	counters := make([]uint64, 2) // the thread's and the handler's
	p.createGate(0)
	p.isr = func() {
		counters[1]++
		p.must(p.gate.Put())
	}
	p.thread(0, 10, func() {
		for {
			p.interrupt()
			p.must(p.gate.Get(rtos.NoWait))
			counters[0]++
		}
	})
	p.resume(0)
	return func() uint64 { return counters[1] }, alike(counters)
}

func interruptPreemption(p *port) (func() uint64, func() string) {
	counters := make([]uint64, 3) // two threads' and the handler's
	p.isr = func() {
		counters[2]++
		p.resume(0)
	}
	p.thread(0, 3, func() {
		for {
			counters[0]++
			p.suspend(0)
		}
	})
	p.thread(1, 10, func() {
		for {
			p.interrupt() // back when thread 0 has run
			counters[1]++
		}
	})
	p.resume(1)
	return func() uint64 { return counters[2] }, alike(counters)
}

func message(p *port) (func() uint64, func() string) {
	var n uint64
	var bad bool
	p.createQueue()
	p.thread(0, 10, func() {
		sent := [4]uint32{0x11112222, 0x33334444, 0x55556666, 0x77778888}
		var got [4]uint32
		for {
			p.must(p.queue.Send(sent[:], rtos.NoWait))
			p.must(p.queue.Receive(got[:], rtos.NoWait))
			if got[3] != sent[3] {
				bad = true
			}
			sent[3]++
			n++
		}
	})
	p.resume(0)
	return func() uint64 { return n }, func() string {
		if bad {
			return "a message was received that was not sent"
		}
		return ""
	}
}

func synchronization(p *port) (func() uint64, func() string) {
	var n uint64
	p.createGate(1)
	p.thread(0, 10, func() {
		for {
			p.must(p.gate.Get(rtos.NoWait))
			p.must(p.gate.Put())
			n++
		}
	})
	p.resume(0)
	return func() uint64 { return n }, nothing
}

func memory(p *port) (func() uint64, func() string) {
	var n uint64
	p.createPool()
	p.thread(0, 10, func() {
		for {
			p.must(p.pool.Allocate(&p.block, rtos.NoWait))
			p.must(p.block.Release())
			n++
		}
	})
	p.resume(0)
	return func() uint64 { return n }, nothing
}
