package stm32l475

import (
	"runtime"
	"testing"
	"time"

	"github.com/vauban-iot/vauban/board"
	"github.com/vauban-iot/vauban/rtos"
)

// BenchmarkBoards makes boards that have run, and says what one takes of memory.
func BenchmarkBoards(b *testing.B) {
	var before, after runtime.MemStats
	runtime.GC()
	runtime.ReadMemStats(&before)
	var all []*Board
	for b.Loop() {
		hw, err := New(Config{Board: board.Config{Name: "lamp"}})
		if err != nil {
			b.Fatal(err)
		}
		err = hw.Load(board.Firmware{Name: "app", Define: func(k *rtos.Kernel) {
			k.CreateThread(new(rtos.Thread), rtos.ThreadConfig{Name: "main", Stack: k.Reserve(4096), Priority: 10, Start: rtos.AutoStart, Entry: func(uint32) {
				for {
					k.Sleep(100)
				}
			}})
		}})
		if err == nil {
			err = hw.PowerOn()
		}
		if err == nil {
			err = hw.RunFor(3 * time.Second)
		}
		if err != nil {
			b.Fatal(err)
		}
		all = append(all, hw)
	}
	runtime.GC()
	runtime.ReadMemStats(&after)
	used := after.HeapAlloc + after.StackInuse - before.HeapAlloc - before.StackInuse
	b.ReportMetric(float64(used)/float64(len(all)), "bytes/board")
	for _, hw := range all {
		hw.Close()
	}
}
