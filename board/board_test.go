package board

import (
	"context"
	"errors"
	"fmt"
	"math"
	"strings"
	"testing"
	"time"

	"github.com/vauban-iot/vauban/rtos"
)

func profile() Profile {
	return Profile{
		Name: "test", ClockHz: 80_000_000, RAM: []Memory{{"sram1", 96 << 10}, {"sram2", 32 << 10}},
		Flash: 1 << 20, KernelFlash: 64 << 10, Boot: 2 * time.Millisecond, Power: Currents{Run: 8000, Sleep: 3000, Stop: 1, Standby: 0.5},
	}
}

func newBoard(t *testing.T, cfg Config) *Board {
	t.Helper()
	if cfg.Name == "" {
		cfg.Name = "lamp-1"
	}
	cfg.Profile = profile()
	b, err := New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(b.Close)
	return b
}

func thread(k *rtos.Kernel, name string, stack uint32, entry func()) {
	c := rtos.ThreadConfig{Name: name, Stack: k.Reserve(stack), Priority: 10, Start: rtos.AutoStart, Entry: func(uint32) { entry() }}
	if s := k.CreateThread(new(rtos.Thread), c); s != rtos.Success {
		panic(s)
	}
}

// start loads a firmware of one thread, and powers the board on.
func start(t *testing.T, b *Board, entry func(k *rtos.Kernel)) {
	t.Helper()
	f := Firmware{Name: "app", Version: "1.0", Define: func(k *rtos.Kernel) { thread(k, "main", 1024, func() { entry(k) }) }}
	if err := b.Load(f); err != nil {
		t.Fatal(err)
	}
	if err := b.PowerOn(); err != nil {
		t.Fatal(err)
	}
}

func TestBoard_ResetStartsAnewWhileTimeGoesOn(t *testing.T) {
	t.Parallel()
	b := newBoard(t, Config{})
	var reasons []Reset
	var times []time.Duration
	hooks := 0
	if err := b.OnReset(func() { hooks++ }); err != nil {
		t.Fatal(err)
	}
	start(t, b, func(k *rtos.Kernel) {
		reasons = append(reasons, b.Reason())
		times = append(times, b.Uptime())
		k.Sleep(100) // a second, but for the tick that is under way
		if len(reasons) == 1 {
			b.Reset(SoftwareReset)
			t.Error("Reset returned to the firmware")
		}
		if len(reasons) == 2 {
			b.Standby(time.Minute)
			t.Error("Standby returned to the firmware")
		}
	})
	if err := b.RunFor(2 * time.Minute); err != nil {
		t.Fatal(err)
	}
	if got, want := fmt.Sprint(reasons), "[power on software standby]"; got != want {
		t.Errorf("reasons %s, want %s", got, want)
	}
	if hooks != 3 || b.Resets(SoftwareReset) != 1 || b.Resets(StandbyReset) != 1 || b.Resets(PowerOnReset) != 1 {
		t.Errorf("%d hooks, %v resets", hooks, b.resets)
	}
	for i, want := range []time.Duration{0, time.Second + 2*time.Millisecond, 62*time.Second + 4*time.Millisecond} {
		if d := times[i] - want; d < -11*time.Millisecond || d > 11*time.Millisecond {
			t.Errorf("start %d at %v, want about %v", i, times[i], want)
		}
	}
	if d := b.Uptime() - 2*time.Minute; d < 0 || d > time.Millisecond {
		t.Errorf("uptime %v", b.Uptime())
	}
}

func TestBoard_HowTimeIsCutChangesNothing(t *testing.T) {
	t.Parallel()
	run := func(step time.Duration) string {
		var log strings.Builder
		b := newBoard(t, Config{})
		start(t, b, func(k *rtos.Kernel) {
			fmt.Fprintln(&log, b.Now(), b.Reason())
			k.Sleep(30)
			k.Compute(12345)
			fmt.Fprintln(&log, b.Now())
			b.Standby(700 * time.Millisecond)
		})
		for at := time.Duration(300) * time.Millisecond; at < 5*time.Second; at += 450 * time.Millisecond {
			if err := b.At(b.Cycles(at), func() { fmt.Fprintln(&log, "input", at, b.Now()) }); err != nil {
				t.Fatal(err)
			}
		}
		for at := step; at <= 6*time.Second; at += step {
			if err := b.RunUntil(b.Cycles(at)); err != nil {
				t.Fatal(err)
			}
		}
		return log.String()
	}
	whole := run(6 * time.Second)
	if strings.Count(whole, "standby") < 4 || strings.Count(whole, "input") < 3 {
		t.Fatalf("too little happened:\n%s", whole)
	}
	if got := run(10 * time.Millisecond); got != whole {
		t.Errorf("in steps:\n%s\nwhole:\n%s", got, whole)
	}
}

func TestBoard_InputsWaitThroughResetsButNobodyHearsThemInStandby(t *testing.T) {
	t.Parallel()
	b := newBoard(t, Config{})
	var heard []time.Duration
	start(t, b, func(k *rtos.Kernel) {
		if b.Reason() == PowerOnReset {
			k.Sleep(100)
			b.Standby(time.Second)
		}
	})
	for _, at := range []time.Duration{500 * time.Millisecond, 1500 * time.Millisecond, 3 * time.Second} {
		if err := b.At(b.Cycles(at), func() { heard = append(heard, at) }); err != nil {
			t.Fatal(err)
		}
	}
	if err := b.RunFor(5 * time.Second); err != nil {
		t.Fatal(err)
	}
	if got := fmt.Sprint(heard); got != "[500ms 3s]" || len(b.stimuli) != 0 {
		t.Errorf("heard %s, %d wait", got, len(b.stimuli))
	}
}

func TestBoard_CrashIsReportedAndOthersGoOn(t *testing.T) {
	t.Parallel()
	var told []CrashReport
	b := newBoard(t, Config{Events: 4, OnCrash: func(r CrashReport) { told = append(told, r) }})
	other := newBoard(t, Config{Name: "lamp-2"})
	rounds := 0
	start(t, other, func(k *rtos.Kernel) {
		for {
			k.Sleep(1)
			rounds++
		}
	})
	var ready rtos.Semaphore
	start(t, b, func(k *rtos.Kernel) {
		k.CreateSemaphore(&ready, "ready", 3)
		k.PushStack(200)
		for range 3 {
			ready.Get(rtos.NoWait)
		}
		samples := make([]int, len(told))
		samples[3]++
	})
	err := b.RunFor(time.Second)
	crash, ok := errors.AsType[*CrashError](err)
	if !ok {
		t.Fatalf("a run gave %v, want a CrashError", err)
	}
	r := crash.Report
	if r.Thread != "main" || r.Where != "thread" || !strings.Contains(r.Value, "index out of range") || !strings.Contains(r.Stack, "board_test.go") {
		t.Errorf("report %+v", r)
	}
	if r.Size != 1024 || r.Used < 200 || r.Firmware != "app" || r.Version != "1.0" || r.Board != "lamp-1" {
		t.Errorf("report %+v", r)
	}
	if len(r.Events) != 4 || r.Events[0].Object != "ready" || r.Events[3].By != "main" || r.Events[3].ID != uint32(rtos.EventSemaphoreGet) {
		t.Errorf("events %+v", r.Events)
	}
	if len(told) != 1 || b.RunFor(time.Second) == nil {
		t.Errorf("told %d times; a crashed board ran on", len(told))
	}
	for _, want := range []string{"crash of lamp-1", "thread main, stack", "ready", "THREAD", "index out of range"} {
		if s := r.String(); !strings.Contains(s, want) {
			t.Errorf("no %q in\n%s", want, s)
		}
	}
	if err := other.RunFor(time.Second); err != nil || rounds < 98 {
		t.Errorf("the other board: %d rounds, %v", rounds, err)
	}
	b.Reset(PinReset)
	if err := b.RunFor(time.Second); err == nil || b.Reason() != PinReset || len(told) != 2 {
		t.Errorf("after the reset button: %v, started by %v, told %d times", err, b.Reason(), len(told))
	}
	if err := b.PowerOn(); err != nil {
		t.Errorf("after a crash: %v", err)
	}
}

func TestBoard_NewFirmwareAtAReset(t *testing.T) {
	t.Parallel()
	b := newBoard(t, Config{})
	start(t, b, func(k *rtos.Kernel) {
		k.Sleep(10)
		b.Reset(SoftwareReset)
	})
	ran := false
	second := Firmware{Name: "app", Version: "2.0", Define: func(k *rtos.Kernel) { thread(k, "main", 1024, func() { ran = true }) }}
	if err := b.Load(second); err != nil {
		t.Fatal(err)
	}
	if err := b.RunFor(time.Second); err != nil || !ran || b.Firmware().Version != "2.0" {
		t.Errorf("the new firmware ran: %v, %v", ran, err)
	}
	third := Firmware{Name: "app", Version: "3.0", Define: func(k *rtos.Kernel) { thread(k, "main", 200<<10, func() {}) }}
	if err := b.Load(third); err != nil {
		t.Fatal(err)
	}
	b.Reset(SoftwareReset)
	if _, ok := errors.AsType[*BudgetError](b.RunFor(time.Second)); !ok {
		t.Error("a firmware that does not fit started at a reset")
	}
	if err := b.Load(second); err != nil {
		t.Fatal(err)
	}
	if err := b.PowerOn(); err != nil {
		t.Errorf("with a firmware that fits: %v", err)
	}
}

func TestBoard_CrashReboots(t *testing.T) {
	t.Parallel()
	for _, where := range []string{"thread", "interrupt", "initialization"} {
		b := newBoard(t, Config{Reboot: true, Events: -1})
		starts := 0
		err := b.Load(Firmware{Name: "app", Define: func(k *rtos.Kernel) {
			if starts++; starts == 3 {
				return
			}
			switch where {
			case "initialization":
				panic("broken")
			case "interrupt":
				k.At(1000, func() { panic("broken") })
			case "thread":
				thread(k, "main", 1024, func() { panic("broken") })
			}
		}})
		if err != nil {
			t.Fatal(err)
		}
		if err := b.PowerOn(); err != nil {
			t.Fatal(err)
		}
		if err := b.RunFor(time.Second); err != nil {
			t.Errorf("%s: %v", where, err)
		}
		r, ok := b.Crash()
		if starts != 3 || b.Resets(CrashReset) != 2 || b.Reason() != CrashReset || !ok || r.Where != where || r.Value != "broken" || len(r.Events) != 0 {
			t.Errorf("%s: %d starts, %d crashes, reason %v, report %+v", where, starts, b.Resets(CrashReset), b.Reason(), r)
		}
	}
}

func TestBoard_BudgetRefusesWhatDoesNotFit(t *testing.T) {
	t.Parallel()
	create := func(stacks ...uint32) func(k *rtos.Kernel) {
		return func(k *rtos.Kernel) {
			for i, n := range stacks {
				thread(k, fmt.Sprintf("t%d", i), n, func() {})
			}
		}
	}
	for _, c := range []struct {
		name  string
		f     Firmware
		wants []string // empty: it fits
	}{
		{"fits", Firmware{Parts: []Part{{Name: "app", Flash: 200 << 10, RAM: 60 << 10}}, Define: create(30<<10, 30<<10)}, nil},
		{"fits to the last", Firmware{Parts: []Part{{Name: "app", Flash: 1 << 20, RAM: 96 << 10}}, Define: create(30 << 10)}, nil},
		{"image", Firmware{Parts: []Part{{Name: "app", Flash: 1<<20 + 1}}, Define: create()}, []string{"1048577 bytes of flash", "app"}},
		{"kernel", Firmware{Parts: []Part{{Name: "net", Flash: 65537, Kernel: true}}, Define: create()}, []string{"kernel's parts take 65537 bytes of flash, of which 65536"}},
		{"static", Firmware{Parts: []Part{{Name: "big", RAM: 97 << 10}}, Define: create()}, []string{"part big of 99328 bytes does not fit any bank", "nowhere"}},
		{"bank", Firmware{Parts: []Part{{Name: "dma", RAM: 33 << 10, Bank: "sram2"}}, Define: create()}, []string{"does not fit sram2"}},
		{"no bank", Firmware{Parts: []Part{{Name: "dma", RAM: 1, Bank: "ccm"}}, Define: create()}, []string{`"ccm", which this board does not have`}},
		{"stacks", Firmware{Parts: []Part{{Name: "app", RAM: 60 << 10}}, Define: create(30<<10, 30<<10, 30<<10)}, []string{"stack t", "of 30720 bytes", "control blocks"}},
		{"queue", Firmware{Define: func(k *rtos.Kernel) { k.CreateQueue(new(rtos.Queue), "inbox", 1, make([]byte, 100<<10)) }}, []string{"queue inbox of 102400 bytes"}},
		{"pool", Firmware{Define: func(k *rtos.Kernel) { k.CreateBlockPool(new(rtos.BlockPool), "packets", 1200, make([]byte, 100<<10)) }}, []string{"block pool packets"}},
		{"reserved", Firmware{Define: func(k *rtos.Kernel) { k.Reserve(100 << 10) }}, []string{"reserved other of 102400 bytes"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			b := newBoard(t, Config{})
			err := b.Load(c.f)
			if err == nil {
				err = b.PowerOn()
			}
			if len(c.wants) == 0 {
				if err != nil {
					t.Error(err)
				}
				return
			}
			if _, ok := errors.AsType[*BudgetError](err); !ok {
				t.Fatalf("got %v, want a BudgetError", err)
			}
			for _, want := range c.wants {
				if !strings.Contains(err.Error(), want) {
					t.Errorf("no %q in:\n%v", want, err)
				}
			}
			if b.RunFor(time.Second) == nil {
				t.Error("it runs all the same")
			}
		})
	}
}

func TestBoard_StacksOutOfAPoolCountOnce(t *testing.T) {
	t.Parallel()
	b := newBoard(t, Config{})
	err := b.Load(Firmware{Name: "app", Define: func(k *rtos.Kernel) {
		pool := new(rtos.BytePool)
		k.CreateBytePool(pool, "memory", make([]byte, 64<<10))
		for range 3 {
			var m rtos.Memory
			if s := pool.Allocate(&m, 16<<10, rtos.NoWait); s != rtos.Success {
				panic(s)
			}
			c := rtos.ThreadConfig{Name: "worker", Stack: m.Region(), Priority: 9, Start: rtos.AutoStart, Entry: func(uint32) {}}
			if s := k.CreateThread(new(rtos.Thread), c); s != rtos.Success {
				panic(s)
			}
		}
	}})
	if err != nil {
		t.Fatal(err)
	}
	if err := b.PowerOn(); err != nil {
		t.Fatal(err)
	}
	if s := b.Budget().String(); strings.Contains(s, "worker") || !strings.Contains(s, "memory") {
		t.Errorf("budget:\n%s", s)
	}
}

func TestBoard_MemoryEndsWhileItRuns(t *testing.T) {
	t.Parallel()
	b := newBoard(t, Config{})
	got := 0
	start(t, b, func(k *rtos.Kernel) {
		for k.Reserve(1024).Start != 0 {
			got++
		}
	})
	if err := b.RunFor(time.Second); err != nil {
		t.Fatal(err)
	}
	if got < 120 || got > 127 {
		t.Errorf("a firmware got %d KB of RAM that has 128 and a little in use", got)
	}
}

func TestBoard_Energy(t *testing.T) {
	t.Parallel()
	b := newBoard(t, Config{})
	start(t, b, func(k *rtos.Kernel) {
		if b.Reason() == StandbyReset {
			return
		}
		k.Compute(b.Cycles(10 * time.Second))
		b.Draw("led", 2000)
		k.Sleep(1000)
		b.Draw("led", 0)
		b.SetIdle(Stop)
		k.Sleep(1000)
		b.Standby(10 * time.Second)
	})
	if err := b.RunFor(40 * time.Second); err != nil {
		t.Fatal(err)
	}
	e := b.Energy()
	for p, d := range e.Time {
		if d < 9900*time.Millisecond || d > 10100*time.Millisecond {
			t.Errorf("%v for %v, want 10s", Power(p), d)
		}
	}
	if want := (8000 + 3000 + 1 + 0.5 + 2000) / 360.0; math.Abs(e.Charge-want) > 0.3 {
		t.Errorf("%.2f µAh, want %.2f", e.Charge, want)
	}
	if b.SetIdle(Standby) == nil || b.SetIdle(Run) == nil {
		t.Error("a processor cannot wait in standby")
	}
}

func TestBoard_Refusals(t *testing.T) {
	t.Parallel()
	if _, err := New(Config{Name: "x", Events: 5000}); err == nil || !strings.Contains(err.Error(), "ClockHz") || !strings.Contains(err.Error(), "Events") || !strings.Contains(err.Error(), "RAM") {
		t.Errorf("got %v", err)
	}
	b := newBoard(t, Config{})
	if b.PowerOn() == nil || b.Load(Firmware{}) == nil || b.RunFor(1) == nil || b.Run(t.Context()) == nil || b.Post(func() {}) == nil || b.After(1, func() {}) == nil {
		t.Error("a board without firmware does something")
	}
	start(t, b, func(*rtos.Kernel) {})
	if b.PowerOn() == nil {
		t.Error("powered on twice")
	}
	for range maxStimuli {
		if err := b.At(1<<60, func() {}); err != nil {
			t.Fatal(err)
		}
	}
	if b.At(1<<60, func() {}) == nil {
		t.Error("inputs have no bound")
	}
	for i := range maxLoads {
		if err := b.Draw(fmt.Sprint(i), 1); err != nil {
			t.Fatal(err)
		}
	}
	if b.Draw("one more", 1) == nil {
		t.Error("loads have no bound")
	}
	for range maxHooks {
		if err := b.OnReset(func() {}); err != nil {
			t.Fatal(err)
		}
	}
	if b.OnReset(func() {}) == nil {
		t.Error("hooks have no bound")
	}
	if _, err := Published("threadx", "windows"); err == nil || !strings.Contains(err.Error(), "windows") {
		t.Errorf("got %v", err)
	}
}

func TestPublished_FitsTheKernelsPart(t *testing.T) {
	t.Parallel()
	parts, err := Published("threadx", "netx-ip", "netx-tcp", "netx-udp", "netx-dhcp", "netx-dns", "netx-sntp", "netx-mqtt", "netx-tls")
	if err != nil {
		t.Fatal(err)
	}
	b := newBoard(t, Config{})
	g := b.account(Firmware{Parts: parts}, nil)
	if len(g.Problems) != 0 || g.Kernel < 48<<10 || g.Kernel > 50<<10 { // about 49 KB (rtos §24.2)
		t.Errorf("%d bytes, problems %q", g.Kernel, g.Problems)
	}
}

func TestBoard_RealTime(t *testing.T) {
	t.Parallel()
	b := newBoard(t, Config{RealTime: true})
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	got := make(chan Reset, 10)
	start(t, b, func(k *rtos.Kernel) {
		got <- b.Reason()
		if b.Reason() != SoftwareReset {
			b.After(b.Cycles(20*time.Millisecond), func() { b.Reset(SoftwareReset) })
			return
		}
		b.After(b.Cycles(time.Hour), func() {}) // is ended with the kernel
		k.Post(func() { cancel() })
	})
	if err := b.Run(ctx); err != nil && !errors.Is(err, context.Canceled) {
		t.Fatal(err)
	}
	if first, second := <-got, <-got; first != PowerOnReset || second != SoftwareReset {
		t.Errorf("%v, %v", first, second)
	}
	if b.RunFor(time.Second) == nil || b.At(0, func() {}) == nil {
		t.Error("RunFor or At are for virtual time")
	}
}
