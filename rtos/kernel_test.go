package rtos_test

import (
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/vauban-iot/vauban/rtos"
)

func TestKernel_PreemptsAndSleepsInVirtualTime(t *testing.T) {
	t.Parallel()
	k, err := rtos.New(rtos.Config{})
	if err != nil {
		t.Fatal(err)
	}
	defer k.Close()
	var got []string
	var sem rtos.Semaphore
	var high, low rtos.Thread
	if err := k.Start(func(k *rtos.Kernel) {
		k.CreateSemaphore(&sem, "sem", 0)
		k.CreateThread(&low, rtos.ThreadConfig{Name: "low", Stack: k.Reserve(1024), Priority: 16, Start: rtos.AutoStart, Entry: func(uint32) {
			got = append(got, "low puts")
			sem.Put()
			got = append(got, "low goes on")
			k.Sleep(18)
			if now := k.Time(); now != 18 {
				t.Errorf("woken at tick %d, want 18", now)
			}
		}})
		k.CreateThread(&high, rtos.ThreadConfig{Name: "high", Stack: k.Reserve(1024), Priority: 15, Start: rtos.AutoStart, Entry: func(uint32) {
			got = append(got, "high waits")
			sem.Get(rtos.WaitForever)
			got = append(got, "high has it")
		}})
	}); err != nil {
		t.Fatal(err)
	}
	if err := k.RunFor(time.Second); err != nil {
		t.Fatal(err)
	}
	if d := cmp.Diff([]string{"high waits", "low puts", "high has it", "low goes on"}, got); d != "" {
		t.Error(d)
	}
	if now := k.Now(); now < 80_000_000 || now > 80_001_000 {
		t.Errorf("the clock is at %d cycles after a second of 80 MHz", now)
	}
}

func TestKernel_RefusesBadConfigurationAllAtOnce(t *testing.T) {
	t.Parallel()
	_, err := rtos.New(rtos.Config{MaxPriorities: 33, PointerSize: 5, Alignment: 3, ClockHz: 1000, RandomStackFill: true, MaxInterrupts: -1, MemorySize: 1 << 31})
	if err == nil {
		t.Fatal("accepted")
	}
	for _, field := range []string{"MaxPriorities", "PointerSize", "Alignment", "TicksPerSecond", "RandomStackFill", "MaxInterrupts", "MemorySize"} {
		if !strings.Contains(err.Error(), field) {
			t.Errorf("%q says nothing of %s", err, field)
		}
	}
}

func TestKernel_UseOutOfOrderIsAnError(t *testing.T) {
	t.Parallel()
	k, err := rtos.New(rtos.Config{})
	if err != nil {
		t.Fatal(err)
	}
	defer k.Close()
	if k.SystemState() != rtos.InitializeAlmostDone {
		t.Errorf("state %x before start", k.SystemState())
	}
	if err := k.RunUntil(1); err == nil {
		t.Error("ran without being started")
	}
	if err := k.Run(t.Context()); err == nil {
		t.Error("ran in real time")
	}
	if err := k.Start(func(*rtos.Kernel) {}); err != nil {
		t.Fatal(err)
	}
	if err := k.Start(func(*rtos.Kernel) {}); err == nil {
		t.Error("started twice")
	}
	if _, ok := k.NextEvent(); ok {
		t.Error("an empty board expects something")
	}
	k.Stop()
	if err := k.RunUntil(1); !errors.Is(err, rtos.ErrStopped) {
		t.Errorf("after Stop: %v", err)
	}
}
