package stm32l475

import (
	"bytes"
	"errors"
	"fmt"
	"math"
	"strings"
	"testing"
	"time"

	"github.com/vauban-iot/vauban/board"
	"github.com/vauban-iot/vauban/board/driver"
	"github.com/vauban-iot/vauban/board/environment"
	"github.com/vauban-iot/vauban/board/fat"
	"github.com/vauban-iot/vauban/board/flash"
	"github.com/vauban-iot/vauban/board/i2c"
	"github.com/vauban-iot/vauban/board/wear"
	"github.com/vauban-iot/vauban/rtos"
)

// boot makes a board whose firmware is one thread.
func boot(t *testing.T, cfg Config, entry func(b *Board, k *rtos.Kernel)) *Board {
	t.Helper()
	if cfg.Board.Name == "" {
		cfg.Board.Name = "lamp-1"
	}
	b, err := New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(b.Close)
	err = b.Load(board.Firmware{Name: "app", Version: "1", Define: func(k *rtos.Kernel) {
		c := rtos.ThreadConfig{Name: "main", Stack: k.Reserve(4096), Priority: 10, Start: rtos.AutoStart, Entry: func(uint32) { entry(b, k) }}
		if s := k.CreateThread(new(rtos.Thread), c); s != rtos.Success {
			panic(s)
		}
	}})
	if err == nil {
		err = b.PowerOn()
	}
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func run(t *testing.T, b *Board, d time.Duration) {
	t.Helper()
	if err := b.RunFor(d); err != nil {
		t.Fatal(err)
	}
}

func check(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func TestBoard_LEDButtonAndInterrupt(t *testing.T) {
	t.Parallel()
	var pressed rtos.Semaphore
	var led []string
	b := boot(t, Config{}, func(b *Board, k *rtos.Kernel) {
		k.CreateSemaphore(&pressed, "pressed", 0)
		if b.GPIO.Write(LED2, true) == nil {
			t.Error("a pin that is no output was written")
		}
		check(t, b.GPIO.Configure(LED2, Output, NoPull))
		check(t, b.GPIO.Configure(Button, Input, NoPull))
		check(t, b.GPIO.Interrupt(Button, Falling, func() { pressed.Put() }))
		for {
			pressed.Get(rtos.WaitForever)
			check(t, b.GPIO.Toggle(LED2))
		}
	})
	check(t, b.GPIO.Watch(LED2, func(high bool) {
		led = append(led, fmt.Sprintf("%v at %v", high, b.Uptime().Truncate(time.Millisecond)))
	}))
	for i := range 3 {
		at := time.Duration(i+1) * 100 * time.Millisecond
		check(t, b.At(b.Cycles(at), func() { check(t, b.GPIO.Press(true)) }))
		check(t, b.At(b.Cycles(at+50*time.Millisecond), func() { check(t, b.GPIO.Press(false)) }))
	}
	run(t, b, time.Second)
	if got, want := strings.Join(led, ", "), "true at 100ms, false at 200ms, true at 300ms"; got != want {
		t.Errorf("LED: %s, want %s", got, want)
	}
	if !b.GPIO.Level(LED2) || b.GPIO.Level(LED1) || !b.GPIO.Read(Button) {
		t.Error("levels")
	}
	if l := b.Energy().Loads; len(l) != 1 || l[0].Name != "led PB14" || math.Abs(l[0].Charge-2000*0.8/3600) > 0.01 {
		t.Errorf("loads %+v", l)
	}
	b.Reset(board.PinReset)
	run(t, b, time.Millisecond)
	if b.GPIO.Level(LED2) {
		t.Error("the LED is on through a reset")
	}
}

func TestGPIO_PinsAsTheChipHasThem(t *testing.T) {
	t.Parallel()
	b, err := New(Config{})
	check(t, err)
	g := b.GPIO
	if LED2.String() != "PB14" || LED1.String() != "PA5" || Button.String() != "PC13" {
		t.Errorf("%v %v %v", LED1, LED2, Button)
	}
	for _, p := range []Pin{PF0, PG0 + 3, PH0 + 2, pins, 255} {
		if g.Configure(p, Input, NoPull) == nil || g.Drive(p, true) == nil || g.Release(p) == nil || g.Watch(p, nil) == nil || g.Write(p, true) == nil || g.Read(p) || g.Interrupt(p, Rising, func() {}) == nil {
			t.Errorf("pin %v is there", p)
		}
	}
	if g.Configure(PA0, Alternate+1, NoPull) == nil || g.Configure(PA0, Input, PullDown+1) == nil {
		t.Error("an unknown mode")
	}
	check(t, g.Configure(PA0, Input, PullUp))
	if !g.Read(PA0) {
		t.Error("an open input with a pull-up is low")
	}
	check(t, g.Configure(PA0, Input, PullDown))
	check(t, g.Drive(PA0, true))
	if !g.Read(PA0) {
		t.Error("an input that is driven high is low")
	}
	check(t, g.Release(PA0))
	if g.Read(PA0) {
		t.Error("an open input with a pull-down is high")
	}
	edges := 0
	check(t, g.Configure(PB0, Input, NoPull))
	check(t, g.Interrupt(PA0, Rising|Falling, func() { edges++ }))
	if err := g.Interrupt(PB0, Rising, func() {}); err == nil || !strings.Contains(err.Error(), "PA0") {
		t.Errorf("two pins on a line: %v", err)
	}
	for _, level := range []bool{true, true, false} {
		check(t, g.Drive(PA0, level))
	}
	if edges != 2 {
		t.Errorf("%d edges, want 2", edges)
	}
	check(t, g.Interrupt(PA0, 0, nil))
	check(t, g.Drive(PA0, true))
	check(t, g.Interrupt(PB0, Rising, func() { edges++ }))
	check(t, g.Drive(PB0, true))
	check(t, g.Drive(PB0, false))
	if edges != 3 {
		t.Errorf("%d edges, want 3", edges)
	}
	check(t, g.Configure(PD0, OpenDrain, PullUp))
	if check(t, g.Write(PD0, false)); g.Level(PD0) {
		t.Error("an open drain does not pull")
	}
	if check(t, g.Write(PD0, true)); !g.Level(PD0) {
		t.Error("an open drain that lets go is low in spite of a pull-up")
	}
	for range maxWatchers {
		check(t, g.Watch(PA0, func(bool) {}))
	}
	if g.Watch(PA0, func(bool) {}) == nil {
		t.Error("watchers have no bound")
	}
}

func TestUART_TakesLineTimeBothWays(t *testing.T) {
	t.Parallel()
	var out bytes.Buffer
	var took time.Duration
	var came []string
	var ready rtos.Semaphore
	b := boot(t, Config{Console: func(p []byte) { out.Write(p) }}, func(b *Board, k *rtos.Kernel) {
		k.CreateSemaphore(&ready, "ready", 0)
		b.Console.OnReceive(func() { ready.Put() })
		begin := b.Uptime()
		fmt.Fprintf(b.Console, "%s\r\n", strings.Repeat("x", 1150)) // 1152 bytes of ten bits: a tenth of a second
		took = b.Uptime() - begin
		var p [8]byte
		for {
			ready.Get(rtos.WaitForever)
			n, _ := b.Console.Read(p[:])
			came = append(came, fmt.Sprintf("%s at %v", p[:n], b.Uptime().Round(10*time.Microsecond)))
		}
	})
	check(t, b.At(b.Cycles(time.Second), func() { check(t, b.Console.Type([]byte("abc"))) }))
	run(t, b, 2*time.Second)
	if out.Len() != 1152 || took < 100*time.Millisecond || took > 101*time.Millisecond {
		t.Errorf("%d bytes in %v, want 1152 in 100ms", out.Len(), took)
	}
	if got, want := strings.Join(came, ", "), "a at 1.00009s, b at 1.00018s, c at 1.00026s"; got != want {
		t.Errorf("received %s, want %s", got, want)
	}
}

func TestUART_WhatNobodyReadsIsLost(t *testing.T) {
	t.Parallel()
	got := 0
	b := boot(t, Config{}, func(b *Board, k *rtos.Kernel) {
		k.Sleep(100)
		p := make([]byte, 1000)
		got, _ = b.Console.Read(p)
		if b.Console.SetBaud(10) == nil || b.Console.SetBaud(9600) != nil {
			t.Error("baud rates")
		}
	})
	check(t, b.Console.Type(make([]byte, 300)))
	if b.Console.Type(make([]byte, 4000)) == nil {
		t.Error("the line has no bound")
	}
	run(t, b, 2*time.Second)
	if _, lost := b.Console.Counts(); got != 256 || lost != 44 {
		t.Errorf("%d bytes read, %d lost, want 256 and 44", got, lost)
	}
	b.PowerOff()
	if b.Console.Type([]byte{1}) == nil {
		t.Error("a board without power listens")
	}
}

// sample is a firmware that reads all sensors every second, and says what they said.
func sample(log *strings.Builder) func(b *Board, k *rtos.Kernel) {
	return func(b *Board, k *rtos.Kernel) {
		var h driver.HTS221
		var p driver.LPS22HB
		var m driver.LIS3MDL
		var a driver.LSM6DSL
		if err := errors.Join(h.Open(b.I2C), p.Open(b.I2C), m.Open(b.I2C), a.Open(b.I2C)); err != nil {
			panic(err)
		}
		for {
			k.Sleep(100)
			humidity, err1 := h.Humidity()
			temperature, err2 := h.Temperature()
			pressure, err3 := p.Pressure()
			field, err4 := m.Field()
			acceleration, err5 := a.Acceleration()
			rotation, err6 := a.Rotation()
			if err := errors.Join(err1, err2, err3, err4, err5, err6); err != nil {
				panic(err)
			}
			word, _ := b.RNG.Word()
			fmt.Fprintf(log, "%d %.2f %.2f %.2f %.0f %.0f %.0f %08x\n", b.Now(), humidity, temperature, pressure, field, acceleration, rotation, word)
		}
	}
}

func TestBoard_RepeatsBySeed(t *testing.T) {
	t.Parallel()
	play := func(seed uint64, step time.Duration) (string, [12]byte) {
		var log strings.Builder
		b := boot(t, Config{Board: board.Config{Seed: seed}}, sample(&log))
		for at := step; at <= time.Minute; at += step {
			check(t, b.RunUntil(b.Cycles(at)))
		}
		return log.String(), b.UniqueID()
	}
	first, id := play(1, time.Minute)
	if again, same := play(1, 30*time.Millisecond); again != first || same != id {
		t.Error("the same seed, played in small steps, gave something else")
	}
	if other, id2 := play(2, time.Minute); other == first || id2 == id {
		t.Error("another seed gave the same")
	}
	if strings.Count(first, "\n") < 55 {
		t.Errorf("too little happened:\n%s", first)
	}
	b, err := New(Config{Board: board.Config{Seed: 1}})
	check(t, err)
	var humidity, temperature, pressure float64
	var now uint64
	line := strings.Split(first, "\n")[30]
	if _, err := fmt.Sscan(line, &now, &humidity, &temperature, &pressure); err != nil {
		t.Fatal(line, err)
	}
	at := b.Config().Epoch.Add(b.Duration(rtos.Cycles(now)))
	if p := b.Place(); math.Abs(humidity-p.Humidity(at)) > 3.5 || math.Abs(temperature-p.Temperature(at)) > 0.5 || math.Abs(pressure-p.Pressure(at)) > 1 {
		t.Errorf("the firmware says %s; it is %.2f, %.2f, %.2f", line, p.Humidity(at), p.Temperature(at), p.Pressure(at))
	}
}

func TestBoard_SensorsThatFail(t *testing.T) {
	t.Parallel()
	var errs []error
	b := boot(t, Config{Fault: func(address uint8, now time.Duration) error {
		if now > 2*time.Second && address == 0x5F {
			return i2c.ErrNoAcknowledge
		}
		return nil
	}}, func(b *Board, k *rtos.Kernel) {
		var h driver.HTS221
		check(t, h.Open(b.I2C))
		for range 4 {
			k.Sleep(100)
			_, err := h.Humidity()
			errs = append(errs, err)
		}
	})
	run(t, b, 10*time.Second)
	if len(errs) != 4 || errs[0] != nil || !errors.Is(errs[3], i2c.ErrNoAcknowledge) {
		t.Errorf("errors %v", errs)
	}
}

func TestWatchdog_ResetsWhoDoesNotFeedIt(t *testing.T) {
	t.Parallel()
	var reasons []board.Reset
	var last time.Duration
	var starts []time.Duration
	b := boot(t, Config{}, func(b *Board, k *rtos.Kernel) {
		reasons = append(reasons, b.Reason())
		starts = append(starts, b.Uptime())
		if b.Watchdog.Start(3, 1) == nil || b.Watchdog.Start(512, 1) == nil || b.Watchdog.Start(4, 4096) == nil {
			t.Error("values that the chip does not have")
		}
		if len(reasons) == 3 {
			return // not started: a reset stopped it
		}
		check(t, b.Watchdog.Start(32, 999)) // a second, as exact as the oscillator
		for range 30 {
			k.Sleep(50)
			b.Watchdog.Feed()
			last = b.Uptime()
		}
		if len(reasons) == 1 {
			k.Sleep(10_000)
		}
		for { // a loop that never ends
			k.Compute(10_000)
		}
	})
	run(t, b, 2*time.Minute)
	if got := fmt.Sprint(reasons); got != "[power on independent watchdog independent watchdog]" || b.Resets(board.WatchdogReset) != 2 {
		t.Fatalf("reasons %s", got)
	}
	if late := starts[2] - last; late < 950*time.Millisecond || late > 1060*time.Millisecond {
		t.Errorf("the board was reset %v after it was fed last", late)
	}
}

func TestRTC_DriftsAndKeepsItsRegisters(t *testing.T) {
	t.Parallel()
	set := time.Date(2026, 11, 28, 7, 0, 0, 0, time.UTC)
	starts, alarms := 0, 0
	b := boot(t, Config{DriftPPM: 20}, func(b *Board, k *rtos.Kernel) {
		starts++
		v, err := b.RTC.Backup(31)
		check(t, err)
		if starts == 1 {
			if b.RTC.Valid() || b.RTC.Time().Year() != 2000 || v != 0 {
				t.Error("a clock that was never set")
			}
			b.RTC.Set(set)
			check(t, b.RTC.SetBackup(31, 0xC0FFEE))
			check(t, b.RTC.Alarm(time.Hour, func() { alarms++ }))
			k.Sleep(2 * 360_000)
			b.Standby(time.Hour)
		}
		if v != 0xC0FFEE || !b.RTC.Valid() {
			t.Errorf("start %d (%v): backup register %#x", starts, b.Reason(), v)
		}
		if starts == 2 {
			b.Reset(board.SoftwareReset)
		}
	})
	run(t, b, 100_000*time.Second)
	if got, want := b.RTC.Time(), set.Add(100_002*time.Second); got.Sub(want).Abs() > time.Millisecond || starts != 3 || alarms != 1 {
		t.Errorf("the clock shows %v, want %v; %d starts, %d alarms", got, want, starts, alarms)
	}
	if b.RTC.SetBackup(32, 1) == nil || b.RTC.Alarm(0, nil) == nil {
		t.Error("refusals")
	}
	if _, err := b.RTC.Backup(-1); err == nil {
		t.Error("refusals")
	}
	b.PowerOff()
	starts = -100
	check(t, b.PowerOn())
	if v, _ := b.RTC.Backup(31); v != 0 || b.RTC.Valid() {
		t.Error("the clock lives without power")
	}
	if _, err := New(Config{DriftPPM: 2000}); err == nil {
		t.Error("a clock that is off by 2000 millionths")
	}
}

func TestRNG_KeysNeedRealEntropy(t *testing.T) {
	t.Parallel()
	seeded, err := New(Config{Board: board.Config{Seed: 1}})
	check(t, err)
	if _, err := seeded.RNG.Keys(); !errors.Is(err, ErrSeeded) {
		t.Errorf("keys from a seed: %v", err)
	}
	real, err := New(Config{Board: board.Config{Seed: 1}, RealEntropy: true})
	check(t, err)
	keys, err := real.RNG.Keys()
	check(t, err)
	var a, b [33]byte
	if _, err := keys.Read(a[:]); err != nil {
		t.Fatal(err)
	}
	if _, err := seeded.RNG.Read(b[:]); err != nil || a == b {
		t.Error("real entropy is the seed's", err)
	}
	seeded.RNG.Fail()
	if n, err := seeded.RNG.Read(b[:]); n != 0 || !errors.Is(err, ErrEntropy) {
		t.Errorf("a sick generator gave %d bytes, %v", n, err)
	}
	seeded.RNG.Recover()
	if _, err := seeded.RNG.Word(); err != nil {
		t.Error(err)
	}
	seeded.RNG.source = same{}
	for range 2 {
		_, err = seeded.RNG.Word()
	}
	if !errors.Is(err, ErrEntropy) {
		t.Errorf("a source that repeats itself: %v", err)
	}
}

type same struct{}

func (same) Uint64() uint64 { return 42 << 32 }

// A firmware keeps its settings in files on the chip on QSPI; the supply fails in the middle of a write, and again and again.
func TestBoard_SettingsOutliveBrownouts(t *testing.T) {
	t.Parallel()
	const first, pages = 0, 64
	saved := 0
	var reasons []board.Reset
	b := boot(t, Config{}, func(b *Board, k *rtos.Kernel) {
		reasons = append(reasons, b.Reason())
		w, err := wear.Mount(b.QSPI, first, pages)
		var v *fat.Volume
		switch {
		case errors.Is(err, wear.ErrNotFormatted):
			w, err = wear.Format(b.QSPI, first, pages)
			check(t, err)
			v, err = fat.Format(w, "settings")
		case err == nil:
			v, err = fat.Mount(w)
		}
		check(t, err)
		if saved > 0 {
			data, err := v.ReadFile("state")
			check(t, err)
			if n := len(data); n != saved*100 && n != (saved+1)*100 {
				t.Errorf("after %v %d bytes were there, saved were %d", b.Reason(), n, saved*100)
			}
			saved = len(data) / 100
		}
		switch n := len(reasons); { // in the middle of a command, or at some time
		case n < 10:
			b.QSPI.CutAt(uint64(20*n), func() { b.Reset(board.BrownoutReset) })
		case n < 30:
			check(t, b.After(b.Cycles(time.Duration(n*7)*time.Millisecond), func() { b.Reset(board.BrownoutReset) }))
		}
		for range 5 {
			if err := v.WriteFile("state", make([]byte, (saved+1)*100), b.RTC.Time()); err != nil {
				t.Fatal(err)
			}
			saved++
		}
	})
	run(t, b, time.Minute)
	if b.Resets(board.BrownoutReset) != 29 || saved < 10 {
		t.Errorf("%d brown-outs, %d saved, reasons %v", b.Resets(board.BrownoutReset), saved, reasons)
	}
}

func TestBoard_FlashKeepsItsPart(t *testing.T) {
	t.Parallel()
	b, err := New(Config{})
	check(t, err)
	if i, q := b.Internal.Geometry(), b.QSPI.Geometry(); i.Size != 1<<20 || i.Page != 2048 || q.Size != 8<<20 || q.Page != 4096 {
		t.Errorf("%+v %+v", i, q)
	}
	if err := b.Internal.Program(0, []byte("12345678")); err != nil || !errors.Is(b.Internal.Program(0, []byte("12345678")), flash.ErrNotErased) {
		t.Error("a word is programmed twice")
	}
	p := Profile()
	if p.RAM[0].Bytes+p.RAM[1].Bytes != 128<<10 || p.Flash != 1<<20 || p.KernelFlash != 64<<10 {
		t.Errorf("profile %+v", p)
	}
}

func TestBoard_AResetEndsWhatInternalFlashDoesAndNotWhatTheOtherDoes(t *testing.T) {
	t.Parallel()
	half := false
	for seed := range uint64(12) {
		b := boot(t, Config{Board: board.Config{Seed: seed}}, func(b *Board, k *rtos.Kernel) {
			if b.Reason() != board.PowerOnReset {
				return
			}
			chips := []*flash.Chip{b.Internal, b.QSPI}
			for _, c := range chips {
				check(t, c.Program(0, make([]byte, 2048)))
			}
			if seed&1 == 0 {
				chips[0] = chips[1]
			}
			check(t, b.After(b.Cycles(10*time.Millisecond), func() { b.Reset(board.WatchdogReset) }))
			_ = chips[0].Erase(0)
			t.Error("an erase took less than 10 ms")
		})
		run(t, b, time.Second)
		erased := func(c *flash.Chip) int {
			p := make([]byte, 2048)
			check(t, c.Read(0, p))
			return bytes.Count(p, []byte{0xFF})
		}
		if seed&1 == 0 && erased(b.QSPI) != 2048 {
			t.Errorf("the chip on QSPI did not end its erase: %d bytes", erased(b.QSPI))
		}
		half = half || seed&1 == 1 && erased(b.Internal) != 2048
	}
	if !half {
		t.Error("the internal flash ended all its erases in spite of resets")
	}
}

// Neighbours at one site see related weather.
func TestBoards_OfOneSite(t *testing.T) {
	t.Parallel()
	site := environment.NewSite(9, environment.Outdoor())
	var said [2]float64
	for i := range said {
		seed := uint64(i)
		b := boot(t, Config{Board: board.Config{Seed: seed}, Place: environment.NewPlace(site, seed, 0)}, func(b *Board, k *rtos.Kernel) {
			var p driver.LPS22HB
			check(t, p.Open(b.I2C))
			k.Sleep(100)
			v, err := p.Pressure()
			check(t, err)
			said[i] = v
		})
		run(t, b, 2*time.Second)
	}
	if said[0] == said[1] || math.Abs(said[0]-said[1]) > 4 {
		t.Errorf("pressures of neighbours: %v", said)
	}
}

func BenchmarkBoard(b *testing.B) {
	var log strings.Builder
	hw, err := New(Config{Board: board.Config{Name: "bench", Events: -1}})
	if err != nil {
		b.Fatal(err)
	}
	entry := sample(&log)
	err = hw.Load(board.Firmware{Name: "app", Define: func(k *rtos.Kernel) {
		k.CreateThread(new(rtos.Thread), rtos.ThreadConfig{Name: "main", Stack: k.Reserve(4096), Priority: 10, Start: rtos.AutoStart, Entry: func(uint32) { entry(hw, k) }})
	}})
	if err == nil {
		err = hw.PowerOn()
	}
	if err != nil {
		b.Fatal(err)
	}
	defer hw.Close()
	b.ReportAllocs()
	for b.Loop() {
		if err := hw.RunFor(time.Second); err != nil { // all sensors are read once
			b.Fatal(err)
		}
		log.Reset()
	}
}
