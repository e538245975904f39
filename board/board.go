// Package board is what every virtual board has: a processor that runs one rtos.Kernel, RAM and flash that a firmware
// must fit into, power, resets and their reasons, and a report when the firmware crashes. What is particular to one
// model of board, its pins and chips, stands in a room of its own (board/stm32l475).
//
// A board lives longer than its kernel: each reset starts a new one, while the board's clock goes on. Like kernels,
// boards share nothing, and a board in virtual time does the same from the same seed and inputs on any machine. A board
// is used by its own firmware and, between runs, by whoever drives it; only Post may be called by other goroutines.
//
// A firmware is Go code on the kernel. What it would take on a chip is declared, and checked as declared; nothing here
// measures what a C compiler would make of it. No certification of any product is claimed (docs/board.md).
package board

import (
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/vauban-iot/vauban/rtos"
)

// Profile is a model of board.
type Profile struct {
	Name           string
	ClockHz        uint64        // core clock
	TicksPerSecond uint32        // of the kernel; zero: 100
	RAM            []Memory      // in the order in which the linker fills them
	Flash          uint32        // bytes for the firmware's image
	KernelFlash    uint32        // bytes of it that parts marked Kernel may take; zero: all
	Boot           time.Duration // from a reset to the firmware's first instruction
	Power          Currents
}

// Memory is a bank of RAM. An object lies wholly in one bank.
type Memory struct {
	Name  string
	Bytes uint32
}

// Config describes one board.
type Config struct {
	Name     string
	Profile  Profile
	Seed     uint64    // of all that is random on this board
	Epoch    time.Time // the world's time when the board is powered on; zero: 2026-01-01 00:00 UTC
	RealTime bool      // Run drives, by the monotonic clock; otherwise RunUntil

	// Kernel's costs, windows, priorities, checks and counters. Name, clock, tick, memory, seed, RealTime, Tracer and OnFault are the board's.
	Kernel rtos.Config

	Tracer rtos.Tracer // told of every event, over all resets; nil: nobody
	Events int         // how many of the last events a crash report has; zero: 32, negative: none, at most 4096

	Reboot  bool              // after a crash the board is reset; otherwise it stands still and runs return a *CrashError
	OnCrash func(CrashReport) // told of each crash; nil: nobody
}

// Firmware is what runs on a board.
type Firmware struct {
	Name    string
	Version string
	Parts   []Part               // what it takes besides what Define creates
	Define  func(k *rtos.Kernel) // creates the first objects, after each reset
}

type state uint8

const (
	off state = iota
	running
	waiting // a reset or standby: the next kernel starts at wake
	crashed
)

const (
	maxEvents   = 4096
	maxStimuli  = 1024 // inputs from outside that wait for their time
	maxHooks    = 64
	defaultRing = 32
)

// Board is a virtual board.
type Board struct {
	cfg      Config
	firmware Firmware
	recorder recorder
	hooks    []func()

	state   state
	reason  Reset // why the present kernel was started
	pending Reset // why the next one will be
	resets  [len(resetWords)]uint32
	base    rtos.Cycles // the board's time when the present kernel started
	wake    rtos.Cycles // when the next one starts
	crash   *CrashReport
	started started

	stimuli []stimulus
	order   uint64
	meter   meter

	mu     sync.Mutex // the kernel may be looked for by Post while a reset exchanges it
	kernel *rtos.Kernel
	timers timers // real time only: interrupts that peripherals wait for
}

type stimulus struct {
	at    rtos.Cycles
	order uint64
	do    func()
}

// New makes a board without firmware, without power. It reports what is wrong with cfg.
func New(cfg Config) (*Board, error) {
	p := &cfg.Profile
	var errs []error
	bad := func(format string, args ...any) { errs = append(errs, fmt.Errorf(format, args...)) }
	if p.ClockHz == 0 {
		bad("Profile.ClockHz: a board needs a clock")
	}
	if p.Flash == 0 || len(p.RAM) == 0 {
		bad("Profile: a board needs Flash and RAM")
	}
	for _, m := range p.RAM {
		if m.Name == "" || m.Bytes == 0 {
			bad("Profile.RAM: a bank needs a name and a size: %q has %d bytes", m.Name, m.Bytes)
		}
	}
	if p.Boot < 0 {
		bad("Profile.Boot: %v is negative", p.Boot)
	}
	if cfg.Events > maxEvents {
		bad("Events: %d is more than %d", cfg.Events, maxEvents)
	}
	if len(errs) != 0 {
		return nil, fmt.Errorf("board: config of %q: %w", cfg.Name, errors.Join(errs...))
	}
	if p.TicksPerSecond == 0 {
		p.TicksPerSecond = 100
	}
	if p.KernelFlash == 0 {
		p.KernelFlash = p.Flash
	}
	if cfg.Events == 0 {
		cfg.Events = defaultRing
	}
	if cfg.Epoch.IsZero() {
		cfg.Epoch = time.Date(2026, time.January, 1, 0, 0, 0, 0, time.UTC)
	}
	b := &Board{cfg: cfg, meter: meter{idle: Sleep}}
	b.recorder.also = cfg.Tracer
	if n := cfg.Events; n > 0 {
		b.recorder.ring = make([]rtos.Event, 0, n)
	}
	return b, nil
}

// Config is what the board was made of, with its defaults filled in.
func (b *Board) Config() Config { return b.cfg }

// Name is the one given at creation.
func (b *Board) Name() string { return b.cfg.Name }

// Kernel is the present one; nil while there is none.
func (b *Board) Kernel() *rtos.Kernel {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.kernel
}

// Firmware is the one that was loaded.
func (b *Board) Firmware() Firmware { return b.firmware }

// OnReset registers f to be called at each reset, standby and power on: a peripheral's registers take their first values.
// There is no kernel then. Reason tells why.
func (b *Board) OnReset(f func()) error {
	if len(b.hooks) == maxHooks {
		return fmt.Errorf("board %s: %d peripherals are told of resets already", b.cfg.Name, maxHooks)
	}
	b.hooks = append(b.hooks, f)
	return nil
}

// Load puts f into the board's flash, which takes effect at the next power on or reset. It is refused with a
// *BudgetError when its declared parts do not fit.
func (b *Board) Load(f Firmware) error {
	if f.Define == nil {
		return fmt.Errorf("board %s: firmware %q defines nothing to run", b.cfg.Name, f.Name)
	}
	if budget := b.account(f, nil); len(budget.Problems) != 0 {
		return &BudgetError{Board: b.cfg.Name, Firmware: f.Name, Budget: budget}
	}
	b.firmware = f
	return nil
}

// PowerOn starts the firmware. It is refused with a *BudgetError when what the firmware creates does not fit the RAM.
func (b *Board) PowerOn() error {
	if b.firmware.Define == nil {
		return fmt.Errorf("board %s has no firmware: Load one first", b.cfg.Name)
	}
	if b.state == running || b.state == waiting {
		return fmt.Errorf("board %s is on already", b.cfg.Name)
	}
	b.crash = nil
	b.became(PowerOnReset)
	return b.boot()
}

// PowerOff takes the power away: the kernel ends where it is. The board may not be running. Flash keeps what it has.
func (b *Board) PowerOff() {
	b.shut()
	b.state = off
}

// Close ends the board. It may not be running.
func (b *Board) Close() { b.PowerOff() }

// became sets why the next firmware is started, and resets the peripherals.
func (b *Board) became(reason Reset) {
	b.reason = reason
	b.resets[reason]++
	for _, f := range b.hooks {
		f()
	}
}

func (b *Board) boot() error {
	b.pending = 0
	b.state = off
	cfg := b.cfg.Kernel
	cfg.Name, cfg.ClockHz, cfg.TicksPerSecond = b.cfg.Name, b.cfg.Profile.ClockHz, b.cfg.Profile.TicksPerSecond
	cfg.MemorySize, cfg.Seed, cfg.RealTime = 0, b.cfg.Seed, b.cfg.RealTime
	cfg.Tracer, cfg.OnFault = &b.recorder, b.fault
	k, err := rtos.New(cfg)
	if err != nil {
		return err
	}
	b.recorder.reset()
	b.meter.begin()
	b.setKernel(k)
	err = k.Start(b.firmware.Define)
	if fault, ok := errors.AsType[*rtos.FaultError](err); ok && b.crash != nil {
		return b.crashed(fault)
	}
	if err != nil {
		b.shut()
		return err
	}
	b.started = started{b.firmware, b.recorder.items(k)}
	budget := b.Budget()
	if len(budget.Problems) != 0 {
		b.shut()
		return &BudgetError{Board: b.cfg.Name, Firmware: b.firmware.Name, Budget: budget}
	}
	k.LimitMemory(k.Reserved() + budget.free())
	if b.cfg.Events < 0 {
		k.SetTracer(b.cfg.Tracer)
	}
	b.state = running
	b.reschedule()
	return nil
}

// shut ends the present kernel and keeps the time.
func (b *Board) shut() {
	k := b.Kernel()
	if k == nil {
		return
	}
	b.account1(k)
	b.base += k.Now()
	b.setKernel(nil)
	k.Close()
}

func (b *Board) setKernel(k *rtos.Kernel) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.kernel = k
	b.stopTimers()
}

// Now is the board's time: cycles of its core clock since it was first powered on, over all resets and standby.
func (b *Board) Now() rtos.Cycles {
	if k := b.Kernel(); k != nil {
		return b.base + k.Now()
	}
	return b.base
}

// Uptime is Now as a duration.
func (b *Board) Uptime() time.Duration { return b.duration(b.Now()) }

// Time is the world's time at the board. A firmware does not know it: it asks a server, or its RTC.
func (b *Board) Time() time.Time { return b.cfg.Epoch.Add(b.Uptime()) }

func (b *Board) duration(c rtos.Cycles) time.Duration {
	hz := rtos.Cycles(b.cfg.Profile.ClockHz)
	return time.Duration(c/hz)*time.Second + time.Duration(c%hz*rtos.Cycles(time.Second)/hz)
}

// Cycles says how many cycles of the core clock d lasts.
func (b *Board) Cycles(d time.Duration) rtos.Cycles {
	hz := rtos.Cycles(b.cfg.Profile.ClockHz)
	s, r := d/time.Second, d%time.Second
	return rtos.Cycles(s)*hz + rtos.Cycles(r)*hz/rtos.Cycles(time.Second)
}

// Duration says how long c cycles of the core clock last.
func (b *Board) Duration(c rtos.Cycles) time.Duration { return b.duration(c) }

// Busy lets d pass in which the caller works without calling the kernel, as a driver does that waits for its peripheral.
// Outside of the firmware it does nothing.
func (b *Board) Busy(d time.Duration) {
	if k := b.kernel; k != nil && b.state != waiting && (k.Current() != nil || k.SystemState() != 0) {
		k.Compute(b.Cycles(d))
	}
}

// RunUntil plays the board in virtual time until its clock is at t, through resets. It returns a *CrashError once the
// firmware crashed (and Config.Reboot is not set), and a *BudgetError when a new firmware does not fit after a reset.
func (b *Board) RunUntil(t rtos.Cycles) error {
	if b.cfg.RealTime {
		return fmt.Errorf("board %s runs in real time: use Run", b.cfg.Name)
	}
	for {
		switch b.state {
		case off:
			return fmt.Errorf("board %s is off", b.cfg.Name)
		case crashed:
			return &CrashError{*b.crash}
		case waiting:
			if b.wake > t {
				b.pass(max(b.base, t))
				return nil
			}
			b.pass(b.wake)
			if err := b.boot(); err != nil {
				return err
			}
			continue
		}
		if t < b.base {
			return nil
		}
		if err := b.settle(b.kernel.RunUntil(t - b.base)); err != nil || b.state == running {
			return err
		}
	}
}

// RunFor plays the board for d of its own time.
func (b *Board) RunFor(d time.Duration) error { return b.RunUntil(b.Now() + b.Cycles(d)) }

// settle looks at why a run ended, and does what is to be done about it.
func (b *Board) settle(err error) error {
	if fault, ok := errors.AsType[*rtos.FaultError](err); ok {
		return b.crashed(fault)
	}
	if errors.Is(err, rtos.ErrStopped) && b.pending != 0 {
		after := b.Cycles(b.cfg.Profile.Boot)
		if b.pending == StandbyReset {
			after += b.wake
		}
		b.shut()
		b.wait(after)
		return nil
	}
	return err
}

// wait leaves the board without a kernel for c cycles.
func (b *Board) wait(c rtos.Cycles) {
	b.became(b.pending)
	b.state = waiting
	b.wake = b.base + c
}

// pass lets time go by without a kernel.
func (b *Board) pass(to rtos.Cycles) {
	s := Standby
	if b.pending != StandbyReset {
		s = Run // the processor comes out of reset
	}
	b.meter.spend(s, b.duration(to-b.base))
	b.base = to
}

// NextEvent is the earliest time at which the board has something to do, for a loop that drives many boards. It is false
// when nothing will ever happen unless something comes from outside.
func (b *Board) NextEvent() (rtos.Cycles, bool) {
	switch b.state {
	case waiting:
		return b.wake, true
	case running:
		at, ok := b.kernel.NextEvent()
		return b.base + at, ok
	}
	return 0, false
}

// At lets something happen to the board from outside, in virtual time, at a moment of its clock: a button is pressed, a
// byte or a packet comes. It happens as an interrupt does, in the order of the calls where moments are the same, and
// survives resets; what comes while there is no kernel is lost. It is refused when 1024 wait already.
func (b *Board) At(t rtos.Cycles, do func()) error {
	if b.cfg.RealTime {
		return fmt.Errorf("board %s runs in real time: use Post", b.cfg.Name)
	}
	if len(b.stimuli) == maxStimuli {
		return fmt.Errorf("board %s: %d inputs wait already", b.cfg.Name, maxStimuli)
	}
	s := stimulus{at: max(t, b.Now()), order: b.order, do: do}
	if b.state == running {
		if err := b.schedule(s); err != nil {
			return err
		}
	}
	b.order++
	b.stimuli = append(b.stimuli, s)
	return nil
}

func (b *Board) schedule(s stimulus) error {
	return b.kernel.At(s.at-b.base, func() {
		b.stimuli = slices.DeleteFunc(b.stimuli, func(x stimulus) bool { return x.order == s.order })
		s.do()
	})
}

// reschedule gives what waits from outside to a new kernel.
func (b *Board) reschedule() {
	b.stimuli = slices.DeleteFunc(b.stimuli, func(s stimulus) bool { return s.at < b.base })
	for _, s := range b.stimuli {
		if b.schedule(s) != nil {
			return // as many as a kernel takes
		}
	}
}

// Post lets isr happen as an interrupt as soon as the kernel notices. Any goroutine may call it. It is refused while
// there is no kernel: nobody hears it.
func (b *Board) Post(isr func()) error {
	k := b.Kernel()
	if k == nil {
		return fmt.Errorf("board %s is in reset", b.cfg.Name)
	}
	return k.Post(isr)
}

// After lets isr happen as an interrupt c cycles from now, unless the board is reset before: what peripherals use to
// finish their work.
func (b *Board) After(c rtos.Cycles, isr func()) error {
	k := b.Kernel()
	if k == nil {
		return fmt.Errorf("board %s is in reset", b.cfg.Name)
	}
	if !b.cfg.RealTime {
		return k.At(k.Now()+c, isr)
	}
	return b.later(k, c, isr)
}
