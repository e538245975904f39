package rtos

import (
	"errors"
	"strings"
	"testing"
	"time"
)

func newBoard(t *testing.T, cfg Config, define func(k *Kernel)) *Kernel {
	t.Helper()
	k, err := New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(k.Close)
	if err := k.Start(define); err != nil {
		t.Fatal(err)
	}
	return k
}

func spawn(k *Kernel, t *Thread, name string, priority uint32, entry func()) {
	if s := k.CreateThread(t, ThreadConfig{Name: name, Stack: k.Reserve(512), Priority: priority, Start: AutoStart, Entry: func(uint32) { entry() }}); s != Success {
		panic(s)
	}
}

func TestFault_StopsOneKernelOnly(t *testing.T) {
	t.Parallel()
	var told []Fault
	broken := newBoard(t, Config{Name: "broken", OnFault: func(f Fault) FaultAction { told = append(told, f); return StopKernel }}, func(k *Kernel) {
		spawn(k, new(Thread), "reader", 10, func() {
			k.Sleep(3)
			samples := make([]int, 3)
			samples[len(told)+5]++
		})
	})
	ticks := 0
	good := newBoard(t, Config{}, func(k *Kernel) {
		spawn(k, new(Thread), "counter", 10, func() {
			for {
				ticks++
				k.Sleep(1)
			}
		})
	})
	for i := range 10 {
		at := good.Cycles(time.Duration(i+1) * 10 * time.Millisecond)
		if err := good.RunUntil(at); err != nil {
			t.Fatal(err)
		}
		err := broken.RunUntil(at)
		if i < 2 && err != nil || i > 3 && err == nil {
			t.Fatalf("slice %d: %v", i, err)
		}
		if err == nil {
			continue
		}
		f, ok := errors.AsType[*FaultError](err)
		if !ok || !strings.Contains(err.Error(), "kernel of broken: panic in thread (thread reader)") || !strings.Contains(err.Error(), "index out of range") {
			t.Fatalf("%v", err)
		}
		if f.Fault.Thread.Name() != "reader" || !strings.Contains(string(f.Fault.Stack), "fault_test.go") || len(told) != 1 || told[0].Time != f.Fault.Time {
			t.Errorf("told %d times, of %v", len(told), f.Fault.Thread.Name())
		}
	}
	if ticks < 10 {
		t.Errorf("the other board ran for %d ticks", ticks)
	}
}

func TestFault_TerminatesTheThread(t *testing.T) {
	t.Parallel()
	var m Mutex
	var bad Thread
	exits, got := 0, false
	k := newBoard(t, Config{OnFault: func(f Fault) FaultAction { return TerminateThread }}, func(k *Kernel) {
		k.CreateMutex(&m, "m", Inherit)
		spawn(k, &bad, "bad", 15, func() {
			m.Get(WaitForever)
			k.Sleep(2)
			panic("broken sensor")
		})
		bad.EntryExitNotify(func(_ *Thread, what uint32) { exits += int(what) })
		spawn(k, new(Thread), "good", 10, func() {
			k.Sleep(1)
			got = m.Get(5) == Success
		})
	})
	if err := k.RunFor(time.Second); err != nil {
		t.Fatal(err)
	}
	if !got || exits != 1 || bad.state != Terminated || bad.Delete() != Success {
		t.Errorf("mutex released: %v, %d exits, state %v", got, exits, bad.state)
	}
}

func TestFault_OutsideOfThreadsAlwaysStops(t *testing.T) {
	t.Parallel()
	terminate := func(Fault) FaultAction { return TerminateThread }
	for _, c := range []struct {
		name, where string
		define      func(k *Kernel)
	}{
		{"interrupt of an idle board", "interrupt", func(k *Kernel) { k.At(1000, func() { panic("isr") }) }},
		{"interrupt of a thread", "interrupt", func(k *Kernel) {
			k.At(1000, func() { panic("isr") })
			spawn(k, new(Thread), "t", 10, func() { k.Compute(1e6) })
		}},
		{"timer", "thread", func(k *Kernel) {
			k.CreateTimer(new(Timer), "t", func(uint32) { panic("timer") }, 0, 1, 1, AutoActivate)
		}},
		{"inside of a service", "thread", func(k *Kernel) {
			var g EventFlags
			k.CreateEventFlags(&g, "g")
			g.SetNotify(func(*EventFlags) {})
			var victim Thread
			spawn(k, &victim, "victim", 20, func() { k.Sleep(100) })
			victim.EntryExitNotify(func(_ *Thread, what uint32) {
				if what == ThreadExit {
					panic("in a callback while preemption is disabled")
				}
			})
			spawn(k, new(Thread), "t", 21, func() { victim.Terminate() })
		}},
	} {
		t.Run(c.name, func(t *testing.T) {
			k := newBoard(t, Config{OnFault: terminate}, c.define)
			err := k.RunFor(time.Second)
			if f, ok := errors.AsType[*FaultError](err); !ok || f.Fault.Where != c.where {
				t.Errorf("%v", err)
			}
			if again := k.RunFor(time.Second); again != err {
				t.Errorf("then %v", again)
			}
		})
	}
	k, err := New(Config{})
	if err != nil {
		t.Fatal(err)
	}
	defer k.Close()
	if err := k.Start(func(*Kernel) { panic("define") }); err == nil || !strings.Contains(err.Error(), "initialization") {
		t.Errorf("in initialization: %v", err)
	}
}

func TestTerminate_UnwindsWhereItStands(t *testing.T) {
	t.Parallel()
	var log []string
	var victim, stubborn Thread
	var s Semaphore
	faults := 0
	k := newBoard(t, Config{OnFault: func(Fault) FaultAction { faults++; return StopKernel }}, func(k *Kernel) {
		k.CreateSemaphore(&s, "s", 0)
		spawn(k, &victim, "victim", 10, func() {
			defer func() { log = append(log, "outer") }()
			defer func() {
				s.Put() // services do not return any more
				log = append(log, "never")
			}()
			s.Get(WaitForever)
			log = append(log, "never")
		})
		spawn(k, &stubborn, "stubborn", 10, func() {
			for {
				func() {
					defer func() { _ = recover() }()
					k.Sleep(1)
				}()
			}
		})
		spawn(k, new(Thread), "killer", 20, func() {
			now := k.Now()
			victim.Terminate()
			log = append(log, "terminated")
			if k.Now() > now+1000 {
				t.Error("the end of a thread takes the board's time")
			}
			if victim.Reset() != Success || victim.Resume() != Success {
				t.Error("reset")
			}
			stubborn.Terminate()
			k.Sleep(5)
		})
	})
	if err := k.RunFor(time.Second); err != nil {
		t.Fatal(err)
	}
	if strings.Join(log, ",") != "outer,terminated" || s.count != 0 {
		t.Errorf("%v", log)
	}
	if victim.state != SemaphoreSuspended || faults != 1 {
		t.Errorf("state %v, %d faults", victim.state, faults)
	}
	k.Close()
	if strings.Join(log, ",") != "outer,terminated,outer" {
		t.Errorf("after Close: %v", log)
	}
}

// A thread that stands where the last run ended is terminated between two runs.
func TestTerminate_BetweenRuns(t *testing.T) {
	t.Parallel()
	var spinner Thread
	rounds, ends := 0, 0
	k := newBoard(t, Config{}, func(k *Kernel) {
		spawn(k, &spinner, "spinner", 10, func() {
			defer func() { ends++ }()
			for {
				rounds++
				k.Compute(1000)
			}
		})
	})
	if err := k.RunUntil(10_500); err != nil {
		t.Fatal(err)
	}
	before := rounds
	if s := spinner.Terminate(); s != Success || ends != 1 {
		t.Fatalf("%v, %d ends", s, ends)
	}
	if s := spinner.Reset(); s != Success {
		t.Fatal(s)
	}
	spinner.Resume()
	if err := k.RunUntil(20_000); err != nil {
		t.Fatal(err)
	}
	if ends != 1 || rounds <= before {
		t.Errorf("%d ends, %d rounds after %d", ends, rounds, before)
	}
}
