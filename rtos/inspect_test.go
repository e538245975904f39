package rtos

import (
	"slices"
	"testing"
)

func TestInspect_TakesNoTime(t *testing.T) {
	t.Parallel()
	var low, high Thread
	var m Mutex
	k := newBoard(t, Config{}, func(k *Kernel) {
		k.CreateMutex(&m, "m", Inherit)
		spawn(k, &low, "low", 20, func() {
			m.Get(WaitForever)
			high.Resume()
			k.Compute(1e6)
		})
		k.CreateThread(&high, ThreadConfig{Name: "high", Stack: k.Reserve(512), Priority: 7, Entry: func(uint32) { m.Get(WaitForever) }})
	})
	if err := k.RunUntil(500_000); err != nil {
		t.Fatal(err)
	}
	now := k.Now()
	var names []string
	for x := range k.Threads() {
		names = append(names, x.Name()+" "+x.State().String())
	}
	want := []string{"System Timer Thread TX_SUSPENDED", "low TX_READY", "high TX_MUTEX_SUSP"}
	if !slices.Equal(names, want) {
		t.Errorf("%q, want %q", names, want)
	}
	if p, th := low.Priority(); p != 7 || th != 7 || k.Current() != &low || low.Runs() != 2 || k.Ticks() != 0 || k.Now() != now {
		t.Errorf("priority %d, threshold %d, %d runs, tick %d", p, th, low.Runs(), k.Ticks())
	}
	for range k.Threads() {
		break
	}
}
