package rtos

import "testing"

func TestKernel_IdleIsTheTimeWithoutAReadyThread(t *testing.T) {
	t.Parallel()
	k := newBoard(t, Config{}, func(k *Kernel) {
		spawn(k, new(Thread), "half", 10, func() {
			for {
				k.Compute(800_000) // a tick
				k.Sleep(1)
			}
		})
	})
	if err := k.RunUntil(80_000_000); err != nil {
		t.Fatal(err)
	}
	if idle := k.Idle(); idle < 35_000_000 || idle > 45_000_000 {
		t.Errorf("%d cycles of 80,000,000 were idle, want about half", idle)
	}
}

func TestKernel_LimitMemory(t *testing.T) {
	t.Parallel()
	k := newBoard(t, Config{}, func(k *Kernel) { k.Reserve(1000) })
	k.LimitMemory(1500)
	if k.Reserve(501).Start != 0 || k.Reserve(500).Start == 0 || k.Reserve(1).Start != 0 {
		t.Error("Reserve does not keep to the limit")
	}
	k.LimitMemory(10)
	if k.Reserved() != 1500 || k.Reserve(1).Start != 0 {
		t.Error("what was handed out is taken back")
	}
}
