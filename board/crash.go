package board

import (
	"fmt"
	"strings"
	"time"

	"github.com/vauban-iot/vauban/rtos"
)

// CrashReport is what is known about a panic of the firmware: what a hard fault handler writes on a chip.
type CrashReport struct {
	Board    string
	Firmware string
	Version  string
	Uptime   time.Duration // of the board
	Reset    Reset         // why the run that crashed had been started
	Where    string        // "thread", "interrupt" or "initialization"
	Thread   string        // who ran; empty: nobody
	Value    string        // what was panicked with
	Stack    string        // the Go stack
	Used     uint32        // of the thread's declared stack, bytes
	Size     uint32
	Threads  []ThreadLine
	Events   []EventLine // the last ones, the oldest first
}

// ThreadLine is a thread when the firmware crashed.
type ThreadLine struct {
	Name       string
	State      string
	Priority   uint32
	Runs       uint32
	Used, Size uint32 // of its declared stack
}

// EventLine is an event of the kernel, with TraceX's number (rtos §16).
type EventLine struct {
	Uptime time.Duration
	ID     uint32
	By     string // the thread that ran, "interrupt" or "initialization"
	Object string // the name of what it was about, where it has one
	Info   [4]uint32
}

const maxValue = 1 << 10

// CrashError is what a run returns when the firmware crashed. Other boards go on.
type CrashError struct{ Report CrashReport }

func (e *CrashError) Error() string {
	r := &e.Report
	by := ""
	if r.Thread != "" {
		by = " (thread " + r.Thread + ")"
	}
	return fmt.Sprintf("board %s: firmware %s %s crashed after %v in %s%s: %s", r.Board, r.Firmware, r.Version, r.Uptime, r.Where, by, r.Value)
}

// Crash is the last crash since the board was powered on.
func (b *Board) Crash() (CrashReport, bool) {
	if b.crash == nil {
		return CrashReport{}, false
	}
	return *b.crash, true
}

// fault is what the kernel calls in the middle of a panic.
func (b *Board) fault(f rtos.Fault) rtos.FaultAction {
	r := CrashReport{
		Board: b.cfg.Name, Firmware: b.firmware.Name, Version: b.firmware.Version, Reset: b.reason,
		Uptime: b.duration(b.base + f.Time), Where: f.Where, Value: text(f.Value), Stack: string(f.Stack),
	}
	if t := f.Thread; t != nil {
		s := t.StackInfo()
		r.Thread, r.Used, r.Size = t.Name(), s.Used, s.Size
	}
	for t := range b.kernel.Threads() {
		s := t.StackInfo()
		priority, _ := t.Priority()
		r.Threads = append(r.Threads, ThreadLine{t.Name(), t.State().String(), priority, t.Runs(), s.High, s.Size})
	}
	for e := range b.recorder.last() {
		line := EventLine{Uptime: b.duration(b.base + e.Time), ID: uint32(e.ID), Info: e.Info}
		switch e.Thread {
		case rtos.ContextISR:
			line.By = "interrupt"
		case rtos.ContextInitialization:
			line.By = "initialization"
		default:
			line.By = b.recorder.name(e.Thread)
		}
		line.Object = b.recorder.name(e.Info[0])
		r.Events = append(r.Events, line)
	}
	b.crash = &r
	return rtos.StopKernel
}

// text is what a panic says; a value whose own Error or String panics is not asked twice.
func text(v any) (s string) {
	defer func() {
		if recover() != nil {
			s = fmt.Sprintf("%T", v)
		}
	}()
	s = strings.ToValidUTF8(fmt.Sprint(v), "?")
	if len(s) > maxValue {
		s = strings.ToValidUTF8(s[:maxValue], "")
	}
	return s
}

// crashed ends the run after a fault.
func (b *Board) crashed(f *rtos.FaultError) error {
	b.shut()
	if b.crash == nil {
		return f
	}
	if b.cfg.OnCrash != nil {
		b.cfg.OnCrash(*b.crash)
	}
	if b.cfg.Reboot {
		b.pending = CrashReset
		b.wait(b.Cycles(max(b.cfg.Profile.Boot, time.Millisecond))) // or a firmware that crashes at once would stop time
		return nil
	}
	b.state = crashed
	return &CrashError{*b.crash}
}

// String is the report as a console shows it.
func (r CrashReport) String() string {
	var s strings.Builder
	fmt.Fprintf(&s, "crash of %s (%s %s) after %v in %s: %s\n", r.Board, r.Firmware, r.Version, r.Uptime, r.Where, r.Value)
	if r.Thread != "" {
		fmt.Fprintf(&s, "thread %s, stack %d of %d bytes, started by %v reset\n", r.Thread, r.Used, r.Size, r.Reset)
	}
	fmt.Fprintf(&s, "\n%-24s %-12s %8s %8s %13s\n", "THREAD", "STATE", "PRIORITY", "RUNS", "STACK")
	for _, t := range r.Threads {
		fmt.Fprintf(&s, "%-24s %-12s %8d %8d %6d/%6d\n", t.Name, t.State, t.Priority, t.Runs, t.Used, t.Size)
	}
	if len(r.Events) != 0 {
		fmt.Fprintf(&s, "\n%16s %5s  %-20s %-20s\n", "TIME", "EVENT", "BY", "OBJECT")
		for _, e := range r.Events {
			fmt.Fprintf(&s, "%16v %5d  %-20s %-20s %08x %08x %08x %08x\n", e.Uptime, e.ID, e.By, e.Object, e.Info[0], e.Info[1], e.Info[2], e.Info[3])
		}
	}
	s.WriteString("\n" + r.Stack)
	return s.String()
}
