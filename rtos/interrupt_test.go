package rtos

import (
	"context"
	"errors"
	"runtime"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/vauban-iot/vauban/internal/conform"
)

func TestAt_OrderAndBounds(t *testing.T) {
	t.Parallel()
	var got []int
	k := newBoard(t, Config{MaxInterrupts: 4}, func(*Kernel) {})
	k.cfg.OnTick = func() { got = append(got, 100) }
	tick := k.tickCycles
	for i, at := range []Cycles{tick, tick - 5, tick, 0} {
		if err := k.At(at, func() {
			if k.SystemState() != 1 {
				t.Error("not in an interrupt")
			}
			got = append(got, i)
		}); err != nil {
			t.Fatal(err)
		}
	}
	if err := k.At(1, func() {}); err == nil {
		t.Error("a fifth interrupt was taken")
	}
	if next, ok := k.NextEvent(); !ok || next != 0 {
		t.Errorf("next event at %d, %v", next, ok)
	}
	if err := k.RunUntil(tick + 1); err != nil {
		t.Fatal(err)
	}
	if want := []int{3, 1, 0, 2, 100}; !slices.Equal(got, want) {
		t.Errorf("order %v, want %v", got, want)
	}
}

func TestNextEvent_SkipsIdleTicks(t *testing.T) {
	t.Parallel()
	woken := uint32(0)
	k := newBoard(t, Config{}, func(k *Kernel) {
		spawn(k, new(Thread), "sleeper", 10, func() {
			k.Sleep(20)
			woken = k.Time()
		})
	})
	if err := k.RunUntil(100_000); err != nil {
		t.Fatal(err)
	}
	if next, ok := k.NextEvent(); !ok || next != 20*k.tickCycles {
		t.Errorf("next event at %d, %v; want %d", next, ok, 20*k.tickCycles)
	}
	if err := k.RunUntil(19 * k.tickCycles); err != nil || woken != 0 {
		t.Errorf("%v, woken at %d", err, woken)
	}
	if err := k.RunUntil(30 * k.tickCycles); err != nil || woken != 20 {
		t.Errorf("%v, woken at %d", err, woken)
	}
	if _, ok := k.NextEvent(); ok {
		t.Error("something is expected of an idle board")
	}
	if now := k.Time(); now != 30 && now != 31 {
		t.Errorf("tick %d", now)
	}
}

func TestInterrupt_NestsAndPreemptsAtItsEnd(t *testing.T) {
	t.Parallel()
	var got []string
	var high Thread
	k := newBoard(t, Config{}, func(k *Kernel) {
		spawn(k, &high, "high", 5, func() {
			for {
				high.Suspend()
				got = append(got, "high")
			}
		})
		spawn(k, new(Thread), "low", 10, func() {
			k.Interrupt(func() {
				k.Interrupt(func() {
					if k.SystemState() != 2 {
						t.Errorf("nested %d deep", k.SystemState())
					}
					high.Resume()
				})
				got = append(got, "outer")
			})
			got = append(got, "low")
			k.InterruptControl(IntDisable)
			k.Interrupt(func() { got = append(got, "late") })
			got = append(got, "masked")
			k.InterruptControl(IntEnable)
			got = append(got, "end")
		})
	})
	if err := k.RunFor(time.Second); err != nil {
		t.Fatal(err)
	}
	if want := []string{"outer", "high", "low", "masked", "late", "end"}; !slices.Equal(got, want) {
		t.Errorf("%q, want %q", got, want)
	}
}

func TestRealTime_PostsFromOtherGoroutines(t *testing.T) {
	t.Parallel()
	const posts = 200
	got := 0
	var s Semaphore
	k := newBoard(t, Config{RealTime: true, MaxInterrupts: posts}, func(k *Kernel) {
		k.CreateSemaphore(&s, "s", 0)
		spawn(k, new(Thread), "taker", 10, func() {
			for got < posts {
				if s.Get(WaitForever) == Success {
					got++
				}
			}
			k.Stop()
		})
	})
	var wg sync.WaitGroup
	for range 4 {
		wg.Go(func() {
			for range posts / 4 {
				if err := k.Post(func() { s.Put() }); err != nil {
					t.Error(err)
				}
			}
		})
	}
	if err := k.Run(t.Context()); !errors.Is(err, ErrStopped) {
		t.Error(err)
	}
	wg.Wait()
	if got != posts {
		t.Errorf("%d of %d", got, posts)
	}
	if err := k.At(0, func() {}); err == nil {
		t.Error("At in real time")
	}
}

// Ticks that the machine was too late for are made up one by one, so nothing that waits for them is lost or out of order.
func TestRealTime_LateTicksAreMadeUp(t *testing.T) {
	t.Parallel()
	var order []int
	k := newBoard(t, Config{RealTime: true, TicksPerSecond: 1000}, func(k *Kernel) {
		for i := range 5 {
			spawn(k, new(Thread), "sleeper", 10, func() {
				k.Sleep(uint32(10 - 2*i))
				order = append(order, 10-2*i)
				if i == 0 {
					k.Stop()
				}
			})
		}
		spawn(k, new(Thread), "hog", 5, func() {
			time.Sleep(20 * time.Millisecond) // 20 ticks in which the kernel sees nothing
		})
	})
	start := time.Now()
	if err := k.Run(t.Context()); !errors.Is(err, ErrStopped) {
		t.Fatal(err)
	}
	if !slices.Equal(order, []int{2, 4, 6, 8, 10}) {
		t.Errorf("woken in the order %v", order)
	}
	late, dropped := k.LateTicks()
	if late == 0 || dropped != 0 || time.Since(start) < 20*time.Millisecond {
		t.Errorf("%d late ticks, %d dropped", late, dropped)
	}
}

func TestRealTime_StopsWithItsContextAndGoesOn(t *testing.T) {
	t.Parallel()
	k := newBoard(t, Config{RealTime: true, TicksPerSecond: 1000}, func(k *Kernel) {
		spawn(k, new(Thread), "spinner", 10, func() {
			for {
				k.Compute(1000)
			}
		})
	})
	for range 3 {
		ctx, cancel := context.WithTimeout(t.Context(), 10*time.Millisecond)
		before := k.clock
		if err := k.Run(ctx); !errors.Is(err, context.DeadlineExceeded) {
			t.Error(err)
		}
		cancel()
		if k.clock == before {
			t.Error("no ticks")
		}
	}
	if err := k.RunUntil(1); err == nil {
		t.Error("RunUntil in real time")
	}
}

// Not parallel, for it measures memory.
func TestBoards_TakeLittleMemory(t *testing.T) {
	conform.Covers(t, "RTOS-34")
	const boards, threads, limit = 10_000, 5, 256 << 20
	used := func() uint64 {
		runtime.GC()
		var m runtime.MemStats
		runtime.ReadMemStats(&m)
		return m.HeapInuse + m.StackInuse + m.GCSys + m.OtherSys
	}
	before := used()
	ks := make([]*Kernel, boards)
	slept := 0
	for i := range ks {
		k, err := New(Config{})
		if err != nil {
			t.Fatal(err)
		}
		if err := k.Start(func(k *Kernel) {
			for range threads {
				spawn(k, new(Thread), "sampler", 16, func() {
					for {
						slept++
						k.Sleep(100)
					}
				})
			}
		}); err != nil {
			t.Fatal(err)
		}
		if err := k.RunFor(1500 * time.Millisecond); err != nil {
			t.Fatal(err)
		}
		ks[i] = k
	}
	if slept != boards*threads*2 {
		t.Errorf("%d sleeps", slept)
	}
	if total := used() - before; total > limit && !raceDetector { // whose stacks are larger
		t.Errorf("%d boards of %d threads take %d MiB, more than %d", boards, threads, total>>20, limit>>20)
	}
	if perRun := testing.AllocsPerRun(10, func() {
		for _, k := range ks[:10] {
			if err := k.RunFor(10 * time.Second); err != nil {
				t.Fatal(err)
			}
		}
	}); perRun != 0 {
		t.Errorf("%v allocations in 500 switches", perRun)
	}
	for _, k := range ks {
		k.Close()
	}
}
