package rtos_test

import (
	"fmt"
	"runtime"
	"testing"

	"github.com/vauban-iot/vauban/rtos"
)

// board makes a kernel for a benchmark, and runs its first thread until it ends.
func board(b *testing.B, cfg rtos.Config, define func(k *rtos.Kernel)) {
	k, err := rtos.New(cfg)
	if err != nil {
		b.Fatal(err)
	}
	defer k.Close()
	if err := k.Start(define); err != nil {
		b.Fatal(err)
	}
	b.ReportAllocs()
	b.ResetTimer()
	for range 1 << 30 {
		if err := k.RunUntil(k.Now() + 1<<40); err == rtos.ErrStopped {
			return
		} else if err != nil {
			b.Fatal(err)
		}
	}
}

// BenchmarkSwitch is one switch from thread to thread: two threads that relinquish in turn.
func BenchmarkSwitch(b *testing.B) {
	board(b, rtos.Config{}, func(k *rtos.Kernel) {
		n := 0
		for range 2 {
			k.CreateThread(new(rtos.Thread), rtos.ThreadConfig{
				Name: "t", Stack: k.Reserve(1024), Priority: 16, Start: rtos.AutoStart,
				Entry: func(uint32) {
					for n < b.N {
						n++
						k.Relinquish()
					}
					k.Stop()
				},
			})
		}
	})
}

// BenchmarkPair is what Thread-Metric's three unblocked tests do in one unit.
func BenchmarkPair(b *testing.B) {
	single := func(b *testing.B, create func(k *rtos.Kernel), unit func()) {
		board(b, rtos.Config{}, func(k *rtos.Kernel) {
			create(k)
			k.CreateThread(new(rtos.Thread), rtos.ThreadConfig{
				Name: "t", Stack: k.Reserve(1024), Priority: 10, Start: rtos.AutoStart,
				Entry: func(uint32) {
					for range b.N {
						unit()
					}
					k.Stop()
				},
			})
		})
	}
	b.Run("queue", func(b *testing.B) {
		var q rtos.Queue
		single(b, func(k *rtos.Kernel) { k.CreateQueue(&q, "q", 4, make([]byte, 160)) }, func() {
			message := [4]uint32{1, 2, 3, 4}
			q.Send(message[:], rtos.NoWait)
			q.Receive(message[:], rtos.NoWait)
		})
	})
	b.Run("semaphore", func(b *testing.B) {
		var s rtos.Semaphore
		single(b, func(k *rtos.Kernel) { k.CreateSemaphore(&s, "s", 1) }, func() {
			s.Get(rtos.NoWait)
			s.Put()
		})
	})
	b.Run("block", func(b *testing.B) {
		var p rtos.BlockPool
		single(b, func(k *rtos.Kernel) { k.CreateBlockPool(&p, "p", 128, make([]byte, 2048)) }, func() {
			var m rtos.Block
			p.Allocate(&m, rtos.NoWait)
			m.Release()
		})
	})
}

// BenchmarkBoards is what 10,000 boards of five threads take in memory: each thread has run and sleeps.
func BenchmarkBoards(b *testing.B) {
	const boards, threads = 10_000, 5
	for range b.N {
		var before, after runtime.MemStats
		runtime.GC()
		runtime.ReadMemStats(&before)
		ks := make([]*rtos.Kernel, boards)
		for i := range ks {
			k, err := rtos.New(rtos.Config{})
			if err != nil {
				b.Fatal(err)
			}
			err = k.Start(func(k *rtos.Kernel) {
				for range threads {
					k.CreateThread(new(rtos.Thread), rtos.ThreadConfig{
						Name: "sampler", Stack: k.Reserve(1024), Priority: 16, Start: rtos.AutoStart,
						Entry: func(uint32) {
							for {
								k.Sleep(1000)
							}
						},
					})
				}
			})
			if err != nil {
				b.Fatal(err)
			}
			if err := k.RunFor(25e9); err != nil {
				b.Fatal(err)
			}
			ks[i] = k
		}
		runtime.GC()
		runtime.ReadMemStats(&after)
		used := after.HeapInuse + after.StackInuse + after.GCSys + after.OtherSys - before.HeapInuse - before.StackInuse - before.GCSys - before.OtherSys
		b.ReportMetric(float64(used)/boards, "B/board")
		b.ReportMetric(float64(used)/(1<<20), "MiB/fleet")
		for _, k := range ks {
			k.Close()
		}
	}
}

// BenchmarkDay is a virtual day of one board that samples every 10 s.
func BenchmarkDay(b *testing.B) {
	for range b.N {
		k, err := rtos.New(rtos.Config{})
		if err != nil {
			b.Fatal(err)
		}
		samples := 0
		err = k.Start(func(k *rtos.Kernel) {
			k.CreateThread(new(rtos.Thread), rtos.ThreadConfig{
				Name: "sampler", Stack: k.Reserve(1024), Priority: 16, Start: rtos.AutoStart,
				Entry: func(uint32) {
					for {
						samples++
						k.Compute(20_000)
						k.Sleep(1000)
					}
				},
			})
		})
		if err == nil {
			err = k.RunFor(24 * 3600e9)
		}
		k.Close()
		if err != nil || samples != 8640 {
			b.Fatal(fmt.Errorf("%d samples: %w", samples, err))
		}
	}
}
