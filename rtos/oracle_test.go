package rtos

import (
	"context"
	"fmt"
	"runtime"
	"slices"
	"testing"
	"time"

	"github.com/vauban-iot/vauban/internal/conform"
)

// The oracle: the scenarios of rtos §22, restated from ThreadX's regression suite. Each creates its objects in initialization and
// ends when one of its threads calls done. Numbers of ticks are exact in virtual time.

type scenario struct {
	id   string
	name string
	run  func(o *oracle)
}

// all are the scenarios, from the files beside this one.
func all() []scenario {
	return slices.Concat(threadScenarios, mutexScenarios, semaphoreScenarios, eventScenarios, prioritizeScenarios, queueScenarios, memoryScenarios,
		timerScenarios, otherScenarios)
}

// proven are the items that a scenario, in all its modes, stands for as a whole.
var proven = map[string][]string{
	"S01": {"RTOS-9"}, "S02": {"RTOS-5"}, "S04": {"RTOS-5", "RTOS-7"}, "S06": {"RTOS-6", "RTOS-7"}, "S11": {"RTOS-15"}, "S22": {"RTOS-13"},
	"S24": {"RTOS-11"}, "S25": {"RTOS-10", "RTOS-11"}, "S36": {"RTOS-14"}, "S08-S10": {"RTOS-14"}, "S45": {"RTOS-17"}, "S46": {"RTOS-17"},
	"S50": {"RTOS-17"}, "S54": {"RTOS-18"}, "S56": {"RTOS-18"}, "S57": {"RTOS-19"}, "S58": {"RTOS-19"}, "S60": {"RTOS-20"}, "S63": {"RTOS-20"},
	"S67": {"RTOS-23"}, "S70": {"RTOS-22"}, "S71": {"RTOS-22"}, "S72": {"RTOS-23"},
}

type oracle struct {
	*testing.T
	k     *Kernel
	real  bool
	isr   func() // runs in each tick interrupt, before the kernel's part
	over  bool
	again string // in real time: what was off by more ticks than is allowed
}

var oracleModes = []struct {
	name    string
	windows Windows
}{
	{"all windows", AllWindows},
	{"not interruptable", NotInterruptableWindows},
	{"atomic", NoWindows},
}

func TestOracle_VirtualTime(t *testing.T) {
	t.Parallel()
	conform.Covers(t, "RTOS-31") // with what rtos/trace shows of S74
	for _, mode := range oracleModes {
		t.Run(mode.name, func(t *testing.T) {
			t.Parallel()
			for _, s := range all() {
				t.Run(s.id+" "+s.name, func(t *testing.T) {
					conform.Covers(t, proven[s.id]...)
					o := &oracle{T: t}
					// A clock that is slow for its tick makes the scenarios short; the odd length lets ticks drift against the loops.
					o.start(Config{ClockHz: 1_003_700, Windows: mode.windows}, s)
					defer o.k.Close()
					for !o.over {
						if err := o.k.RunFor(100 * time.Second); err != nil && !o.over {
							t.Fatal(err)
						} else if !o.over {
							t.Fatalf("not done at tick %d", o.k.clock)
						}
					}
				})
			}
		})
	}
}

// In real time a number of ticks may be off by one, as upstream allows. A machine that is too busy for that gets longer ticks; what does
// not depend on ticks must be right at once.
func TestOracle_RealTime(t *testing.T) {
	t.Parallel()
	conform.Covers(t, "RTOS-32") // with what rtos/trace shows of S74
	for _, s := range all() {
		t.Run(s.id+" "+s.name, func(t *testing.T) {
			t.Parallel()
			for hz := uint32(1000); ; hz /= 2 {
				o := &oracle{T: t, real: true}
				o.start(Config{TicksPerSecond: hz, Windows: AllWindows, RealTime: true}, s)
				ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
				err := o.k.Run(ctx)
				cancel()
				tick := o.k.clock
				o.k.Close()
				switch {
				case o.over:
					return
				case o.again == "":
					t.Fatalf("not done at tick %d: %v", tick, err)
				case hz < 50:
					t.Fatal(o.again)
				}
				t.Logf("with %d ticks a second: %s", hz, o.again)
			}
		})
	}
}

func (o *oracle) start(cfg Config, s scenario) {
	o.Helper()
	cfg.OnTick = func() {
		if o.isr != nil {
			o.isr()
		}
	}
	k, err := New(cfg)
	if err != nil {
		o.Fatal(err)
	}
	o.k = k
	if err := k.Start(func(*Kernel) { s.run(o) }); err != nil {
		o.Fatal(err)
	}
}

// leave ends the scenario; it does not return.
func (o *oracle) leave() {
	o.k.Stop()
	o.k.Compute(1)
}

// done ends a scenario that went well.
func (o *oracle) done() {
	if o.k.preemptDisable != 0 {
		o.Errorf("preemption is disabled %d times", o.k.preemptDisable)
	}
	o.over = true
	o.leave()
}

// check is for what must hold whatever the time.
func (o *oracle) check(ok bool, format string, args ...any) {
	o.Helper()
	if !ok {
		o.Fatalf("at tick %d: "+format, append([]any{o.k.clock}, args...)...)
	}
}

func (o *oracle) want(want, got Status) {
	o.Helper()
	o.check(want == got, "%v, want %v", got, want)
}

func (o *oracle) ok(statuses ...Status) {
	o.Helper()
	for _, s := range statuses {
		o.want(Success, s)
	}
}

// counts compares counters that do not depend on time.
func (o *oracle) counts(want []int, got ...int) {
	o.Helper()
	o.check(slices.Equal(want, got), "counters %v, want %v", got, want)
}

// ticked compares numbers that depend on ticks.
func (o *oracle) ticked(want, got int) {
	o.Helper()
	o.timed(want == got || o.real && got >= want-1 && got <= want+1, "%d, want %d", got, want)
}

// timed is for what holds unless ticks are off.
func (o *oracle) timed(ok bool, format string, args ...any) {
	o.Helper()
	if ok {
		return
	}
	text := fmt.Sprintf("at tick %d: "+format, append([]any{o.k.clock}, args...)...)
	if !o.real {
		o.Fatal(text)
	}
	_, _, line, _ := runtime.Caller(1)
	o.again = fmt.Sprintf("line %d: %s", line, text)
	o.leave()
}

// thread creates a thread; number is the priority and threshold given as in the reference.
func (o *oracle) thread(t *Thread, priority, threshold, slice, start uint32, entry func()) {
	o.Helper()
	o.want(Success, o.tryThread(t, priority, threshold, slice, start, entry))
}

func (o *oracle) tryThread(t *Thread, priority, threshold, slice, start uint32, entry func()) Status {
	return o.k.CreateThread(t, ThreadConfig{
		Name: "thread", Entry: func(uint32) { entry() }, Stack: o.k.Reserve(1024), Priority: priority, Threshold: PreemptBelow(threshold),
		TimeSlice: slice, Start: start,
	})
}

// spare makes n threads that nobody names, and their counters.
func (o *oracle) threads(n int) ([]Thread, []int) { return make([]Thread, n), make([]int, n) }

// open reports that interrupts may land in a window.
func (o *oracle) open(w Window) bool { return o.k.windows&In(w) != 0 }

func (o *oracle) states(want State, ts ...*Thread) {
	o.Helper()
	for i, t := range ts {
		o.check(t.state == want, "thread %d is in state %v, want %v", i, t.state, want)
	}
}

// contexts calls f in a tick interrupt and g in a timer's callback, at least once each, and goes on after them. Statuses
// that they compare are wrong or right whatever the time.
func (o *oracle) contexts(inISR, inTimer func()) {
	o.Helper()
	isrs, calls := 0, 0
	var timer Timer
	o.ok(o.k.CreateTimer(&timer, "contexts", func(uint32) { inTimer(); calls++ }, 0, 1, 1, AutoActivate))
	o.isr = func() { inISR(); isrs++ }
	o.k.Sleep(3)
	o.isr = nil
	o.ok(timer.Delete())
	o.check(isrs > 0 && calls > 0, "the interrupt ran %d times, the timer %d", isrs, calls)
}
