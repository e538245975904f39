package rtos

import (
	"errors"
	"fmt"
)

// Cycles counts cycles of a board's core clock.
type Cycles uint64

// Config describes a board's kernel. The zero value is a Cortex-M4 at 80 MHz with a tick of 10 ms.
type Config struct {
	Name string // for messages about this kernel

	ClockHz        uint64 // core clock; zero: 80 MHz
	TicksPerSecond uint32 // zero: 100
	MaxPriorities  uint32 // a multiple of 32 up to 1024; zero: 32. Priority 0 is the highest
	MinimumStack   uint32 // smallest stack that CreateThread takes, in bytes; zero: 200
	PointerSize    uint32 // of the board, 4 or 8 bytes: what pools keep for themselves; zero: 4
	Alignment      uint32 // ThreadX's ALIGN_TYPE, 4 or 8 bytes; zero: 4
	MemorySize     uint32 // RAM that Reserve hands out, in bytes; zero: as much as fits the address space

	Costs   Costs   // what calls cost in virtual time; zero: DefaultCosts
	Windows Windows // where interrupts may land inside of services; zero: nowhere

	StackChecking   bool   // keep a filled image of each declared stack and check it; costs its size in memory
	RandomStackFill bool   // with StackChecking: a fill for each thread drawn from Seed instead of 0xEF
	Seed            uint64 // of all that is random in this kernel

	DisableErrorChecking   bool        // services skip the checked layer, as TX_DISABLE_ERROR_CHECKING does
	DisableNotifyCallbacks bool        // notify services answer FeatureNotEnabled
	Performance            Performance // which counters are kept; the others answer FeatureNotEnabled

	MaxInterrupts int // interrupts that may wait to happen (At, Post); zero: 1024

	Tracer   Tracer                  // told of every event; nil: nobody
	OnTick   func()                  // runs in each tick interrupt, before the kernel's own part
	OnWindow func(Window)            // runs at each open window; it may call Interrupt
	OnFault  func(Fault) FaultAction // a thread panicked; nil: the kernel stops

	RealTime bool // ticks come from the monotonic clock and Run drives; otherwise RunUntil drives
}

// Costs says how many cycles of virtual time the kernel's own work takes. A field that is zero takes its
// value from [DefaultCosts]: nothing is free, or loops of calls would never see a tick (rtos §1).
type Costs struct {
	Call      uint32 // a service that is not named below
	Thread    uint32 // suspend, resume, relinquish, sleep and other services that change threads
	Semaphore uint32 // get, put
	Mutex     uint32 // get, put
	Event     uint32 // get, set
	Queue     uint32 // send, receive
	Word      uint32 // each word of a message copied
	Block     uint32 // block allocate, release
	Byte      uint32 // byte allocate, release
	Fragment  uint32 // each fragment that a byte pool looks at
	Switch    uint32 // dispatch of a thread
	Interrupt uint32 // entry to and exit from an interrupt
	Tick      uint32 // the kernel's part of a tick interrupt, beside Interrupt
	Expiry    uint32 // each timer or timeout that expires, before its callback
	Window    uint32 // each open window inside of a service
}

// DefaultCosts are those of ThreadX's published figures (rtos §24.1) in cycles: at 200 MHz suspend and resume take
// 0.6 µs, a queue send 0.3 µs, a semaphore get 0.2 µs and a context switch 0.4 µs. What is not published is estimated
// from these. A board that was measured brings its own table.
func DefaultCosts() Costs {
	return Costs{
		Call: 20, Thread: 60, Semaphore: 40, Mutex: 50, Event: 60, Queue: 56, Word: 1, Block: 40, Byte: 60, Fragment: 12,
		Switch: 80, Interrupt: 24, Tick: 30, Expiry: 60, Window: 6,
	}
}

func (c Costs) orDefaults() Costs {
	d := DefaultCosts()
	for _, f := range []struct{ p, d *uint32 }{
		{&c.Call, &d.Call}, {&c.Thread, &d.Thread}, {&c.Semaphore, &d.Semaphore}, {&c.Mutex, &d.Mutex}, {&c.Event, &d.Event},
		{&c.Queue, &d.Queue}, {&c.Word, &d.Word}, {&c.Block, &d.Block}, {&c.Byte, &d.Byte}, {&c.Fragment, &d.Fragment},
		{&c.Switch, &d.Switch}, {&c.Interrupt, &d.Interrupt}, {&c.Tick, &d.Tick}, {&c.Expiry, &d.Expiry}, {&c.Window, &d.Window},
	} {
		if *f.p == 0 {
			*f.p = *f.d
		}
	}
	return c
}

func or[T comparable](v, zero T) T {
	var none T
	if v == none {
		return zero
	}
	return v
}

func (c Config) orDefaults() Config {
	c.Name = or(c.Name, "board")
	c.ClockHz = or(c.ClockHz, 80_000_000)
	c.TicksPerSecond = or(c.TicksPerSecond, 100)
	c.MaxPriorities = or(c.MaxPriorities, 32)
	c.MinimumStack = or(c.MinimumStack, 200)
	c.PointerSize = or(c.PointerSize, 4)
	c.Alignment = or(c.Alignment, 4)
	c.MaxInterrupts = or(c.MaxInterrupts, 1024)
	c.MemorySize = or(c.MemorySize, maxMemory)
	c.Costs = c.Costs.orDefaults()
	return c
}

// validate reports everything that is wrong, at once.
func (c Config) validate() error {
	var errs []error
	bad := func(format string, args ...any) { errs = append(errs, fmt.Errorf(format, args...)) }
	if c.MaxPriorities%32 != 0 || c.MaxPriorities > maxPriorities {
		bad("MaxPriorities: %d is not a multiple of 32 between 32 and %d", c.MaxPriorities, maxPriorities)
	}
	if c.PointerSize != 4 && c.PointerSize != 8 {
		bad("PointerSize: %d is neither 4 nor 8 bytes", c.PointerSize)
	}
	if c.Alignment != 4 && c.Alignment != 8 {
		bad("Alignment: %d is neither 4 nor 8 bytes", c.Alignment)
	}
	if c.ClockHz/uint64(c.TicksPerSecond) < uint64(minTickCycles) {
		bad("TicksPerSecond: a tick of %d Hz leaves less than %d cycles of a clock of %d Hz", c.TicksPerSecond, minTickCycles, c.ClockHz)
	}
	if c.MemorySize > maxMemory {
		bad("MemorySize: %d is more than %d bytes", c.MemorySize, maxMemory)
	}
	if c.MaxInterrupts < 0 {
		bad("MaxInterrupts: %d is negative", c.MaxInterrupts)
	}
	if c.RandomStackFill && !c.StackChecking {
		bad("RandomStackFill: needs StackChecking")
	}
	return errors.Join(errs...)
}

const (
	maxPriorities = 1024
	// A tick interrupt must leave time for something else.
	minTickCycles = 500

	memoryStart  = 0x2000_0000 // where SRAM begins on Cortex-M
	controlStart = 0x1000_0000 // control blocks get their addresses here
	maxMemory    = 0x1000_0000
)

// Region is a piece of the board's RAM: what ThreadX is given as a pointer and a size. The zero value is the null
// pointer. Nothing is stored in it; it lets the kernel check and account for memory as on the board.
type Region struct {
	Start uint32
	Size  uint32
}

func (r Region) end() uint32 { return r.Start + r.Size - 1 }
