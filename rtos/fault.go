package rtos

import (
	"errors"
	"fmt"
	"runtime/debug"
)

// Fault is a panic in code of the board: what a hard fault is on a chip.
type Fault struct {
	Board  string  // Config.Name
	Thread *Thread // who ran; nil in initialization and in interrupts that found nobody running
	Where  string  // "thread", "interrupt" or "initialization"
	Time   Cycles
	Value  any    // what was panicked with
	Stack  []byte // the Go stack, as text
}

// FaultAction is what becomes of a fault.
type FaultAction int

const (
	StopKernel      FaultAction = iota // the run returns a *FaultError
	TerminateThread                    // the thread is terminated as by Terminate; only in threads outside of services
)

// FaultError is what a run returns after a fault stopped the kernel. Other kernels go on.
type FaultError struct{ Fault Fault }

func (e *FaultError) Error() string {
	name := "no thread"
	if e.Fault.Thread != nil {
		name = "thread " + e.Fault.Thread.name
	}
	return fmt.Sprintf("rtos: kernel of %s: panic in %s (%s): %v", e.Fault.Board, e.Fault.Where, name, e.Fault.Value)
}

// killed unwinds a thread that will never run again. Code of threads must not recover from it.
type killed struct{}

const maxFaultStack = 16 << 10

//go:noinline
func (k *Kernel) fault(t *Thread, v any) FaultAction {
	f := Fault{Board: k.cfg.Name, Thread: t, Where: "thread", Time: k.Now(), Value: v, Stack: debug.Stack()}
	if len(f.Stack) > maxFaultStack {
		f.Stack = f.Stack[:maxFaultStack]
	}
	switch {
	case k.systemState >= InitializeInProgress:
		f.Where = "initialization"
	case k.systemState != 0:
		f.Where = "interrupt"
	}
	action := StopKernel
	if k.cfg.OnFault != nil {
		action = k.cfg.OnFault(f)
	}
	if k.unwinding != nil {
		return TerminateThread // its thread is being ended anyway
	}
	if f.Where != "thread" || t == nil || t == &k.timers.thread || k.preemptDisable != 0 {
		action = StopKernel // the kernel's own state may be half changed, or nothing would time out any more
	}
	if action == StopKernel && (k.stop == nil || errors.Is(k.stop, ErrStopped)) {
		k.stop = &FaultError{f}
		k.next = 0
	}
	return action
}

// guard runs f on the scheduler's own stack; a panic there stops the kernel.
func (k *Kernel) guard(f func()) (err error) {
	defer func() {
		if v := recover(); v != nil {
			k.fault(k.current, v)
			err = k.stop
		}
	}()
	f()
	return nil
}
