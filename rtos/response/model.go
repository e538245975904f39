// Package response says how long the threads of a board may take to answer: a worst-case response-time analysis of a model of
// its threads (rtos §20), and beside it what a simulation of the same model on the kernel observed. The first is a bound as far as the
// model is true; the second is only what was seen.
package response

import (
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/pelletier/go-toml/v2"

	"github.com/vauban-iot/vauban/rtos"
)

// Limits of a model.
const (
	MaxModel    = 256 << 10 // bytes of its file
	MaxThreads  = 64
	MaxMutexes  = 64
	MaxTimers   = 64
	MaxSections = 32 // of one thread
	maxCycles   = 1 << 40
	maxPeriod   = 24 * time.Hour
)

// Model is a board and what runs on it. Costs are worst cases in cycles of the core clock.
type Model struct {
	Board          string        `toml:"board"` // a name of Boards; default stm32l475
	ClockHz        uint64        `toml:"clock_hz"`
	TicksPerSecond uint32        `toml:"ticks_per_second"`
	Costs          rtos.Costs    `toml:"costs"` // of the kernel's own work; what is missing is the board's
	Mutexes        []ModelMutex  `toml:"mutex"`
	Timers         []ModelTimer  `toml:"timer"`
	Threads        []ModelThread `toml:"thread"`
}

// ModelMutex is a mutex.
type ModelMutex struct {
	Name      string `toml:"name"`
	NoInherit bool   `toml:"no_inherit"`
}

// ModelTimer is an application timer: its callback runs in the timer thread.
type ModelTimer struct {
	Name   string `toml:"name"`
	Period uint32 `toml:"period_ticks"`
	Cost   uint64 `toml:"cost"`
}

// ModelThread does a job whenever an interrupt puts its semaphore.
type ModelThread struct {
	Name      string    `toml:"name"`
	Priority  uint32    `toml:"priority"`
	Threshold *uint32   `toml:"threshold"` // default: its priority
	TimeSlice uint32    `toml:"time_slice"`
	Period    string    `toml:"period"`   // the least time between two arrivals
	Deadline  string    `toml:"deadline"` // after the arrival; default: the period
	Jitter    string    `toml:"jitter"`   // how late the interrupt may come after the arrival
	Cost      uint64    `toml:"cost"`     // of a job, its sections included, without the kernel's own work
	Fragments uint32    `toml:"byte_pool_fragments"`
	Sections  []Section `toml:"section"`

	period, deadline, jitter rtos.Cycles
	threshold                uint32
}

// Section is a stretch of a job in which it holds a mutex, and perhaps takes a second one.
type Section struct {
	Mutex  string `toml:"mutex"`
	Cost   uint64 `toml:"cost"`
	Nested string `toml:"nested"` // a mutex that is taken while Mutex is held
}

// Board is a table of what is known of a board.
type Board struct {
	Name    string
	ClockHz uint64
	Costs   rtos.Costs
}

// Boards are the cost tables that there are. Both have ThreadX's published cycles: nothing was measured on a chip, and a model of a board
// that was measured brings its own costs.
func Boards() []Board {
	return []Board{{"stm32l475", 80_000_000, rtos.DefaultCosts()}, {"published", 200_000_000, rtos.DefaultCosts()}}
}

// Load reads a model. name is for messages. All that is wrong is told at once, with its line.
func Load(name string, text []byte) (*Model, error) {
	if len(text) > MaxModel {
		return nil, fmt.Errorf("%s: %d bytes are more than a model may have, %d", name, len(text), MaxModel)
	}
	m := &Model{}
	d := toml.NewDecoder(strings.NewReader(string(text)))
	d.DisallowUnknownFields()
	if err := d.Decode(m); err != nil {
		if strict, ok := errors.AsType[*toml.StrictMissingError](err); ok {
			var all []error
			for i := range strict.Errors {
				e := &strict.Errors[i]
				row, col := e.Position()
				all = append(all, fmt.Errorf("%s:%d:%d: unknown setting %s", name, row, col, strings.Join(e.Key(), ".")))
			}
			return nil, errors.Join(all...)
		}
		if e, ok := errors.AsType[*toml.DecodeError](err); ok {
			row, col := e.Position()
			return nil, fmt.Errorf("%s:%d:%d: %w", name, row, col, err)
		}
		return nil, fmt.Errorf("%s: %w", name, err)
	}
	lines := strings.Split(string(text), "\n")
	return m, m.check(func(table string, n int, key string) string {
		return fmt.Sprintf("%s:%d", name, lineOf(lines, table, n, key))
	})
}

// lineOf is the line of a key in the n-th [[table]], or else of the table, or else 1.
func lineOf(lines []string, table string, n int, key string) int {
	at, inside, best := -1, table == "", 1
	for i, l := range lines {
		l = strings.TrimSpace(l)
		if strings.HasPrefix(l, "[") {
			if l == "[["+table+"]]" || strings.HasPrefix(l, "[["+table+"]] ") {
				at++
				if at == n {
					best = i + 1
				}
			}
			inside = table != "" && at == n && strings.HasPrefix(l, "[["+table)
			continue
		}
		k, _, ok := strings.Cut(l, "=")
		if inside && ok && strings.TrimSpace(k) == key {
			return i + 1
		}
	}
	return best
}

// Check completes a model that was made by a program, and reports all that is wrong with it.
func (m *Model) Check() error {
	return m.check(func(table string, n int, key string) string {
		if table == "" {
			return "model"
		}
		return fmt.Sprintf("%s %d", table, n+1)
	})
}

func (m *Model) check(place func(table string, n int, key string) string) error {
	var errs []error
	bad := func(table string, n int, key, format string, args ...any) {
		errs = append(errs, fmt.Errorf("%s: %s: %s", place(table, n, key), key, fmt.Sprintf(format, args...)))
	}
	if m.Board == "" {
		m.Board = Boards()[0].Name
	}
	known := false
	for _, b := range Boards() {
		if b.Name == m.Board {
			known = true
			if m.ClockHz == 0 {
				m.ClockHz = b.ClockHz
			}
		}
	}
	if !known {
		bad("", 0, "board", "unknown board %q (want stm32l475 or published)", m.Board)
	}
	if m.TicksPerSecond == 0 {
		m.TicksPerSecond = 100
	}
	if m.ClockHz < 1000 || m.ClockHz > 10_000_000_000 || m.ClockHz/uint64(m.TicksPerSecond) < 500 {
		bad("", 0, "clock_hz", "%d Hz with %d ticks a second: want 1000 to 10^10 Hz and at least 500 cycles a tick", m.ClockHz, m.TicksPerSecond)
		return errors.Join(errs...)
	}
	// The kernel fills in the costs that are missing.
	k, err := rtos.New(rtos.Config{ClockHz: m.ClockHz, TicksPerSecond: m.TicksPerSecond, Costs: m.Costs})
	if err != nil {
		bad("", 0, "clock_hz", "%v", err)
		return errors.Join(errs...)
	}
	defer k.Close()
	m.Costs = k.Config().Costs
	for _, v := range m.costs() {
		if v > 1<<20 {
			bad("", 0, "costs", "%d cycles for a service are more than %d", v, 1<<20)
		}
	}
	if len(m.Threads) == 0 || len(m.Threads) > MaxThreads || len(m.Mutexes) > MaxMutexes || len(m.Timers) > MaxTimers {
		bad("", 0, "thread", "%d threads, %d mutexes, %d timers: want 1 to %d, up to %d and %d", len(m.Threads), len(m.Mutexes), len(m.Timers), MaxThreads, MaxMutexes, MaxTimers)
		return errors.Join(errs...)
	}
	mutexes := map[string]bool{}
	for i, x := range m.Mutexes {
		if x.Name == "" || mutexes[x.Name] {
			bad("mutex", i, "name", "%q is empty or used twice", x.Name)
		}
		mutexes[x.Name] = true
	}
	for i, x := range m.Timers {
		if x.Period == 0 || x.Period > 1<<24 {
			bad("timer", i, "period_ticks", "%d is not between 1 and %d", x.Period, 1<<24)
		}
		if x.Cost > maxCycles {
			bad("timer", i, "cost", "%d cycles are more than %d", x.Cost, uint64(maxCycles))
		}
	}
	threads := map[string]bool{}
	for i := range m.Threads {
		t := &m.Threads[i]
		if t.Name == "" || threads[t.Name] {
			bad("thread", i, "name", "%q is empty or used twice", t.Name)
		}
		threads[t.Name] = true
		if t.Priority == 0 || t.Priority > 31 {
			bad("thread", i, "priority", "%d is not between 1 and 31 (0 is the timer thread's)", t.Priority)
		}
		t.threshold = t.Priority
		if t.Threshold != nil {
			t.threshold = *t.Threshold
			if t.threshold == 0 || t.threshold > t.Priority {
				bad("thread", i, "threshold", "%d is not between 1 and the priority, %d", t.threshold, t.Priority)
			}
		}
		length := func(key, text string, least time.Duration, to *rtos.Cycles) {
			d, err := time.ParseDuration(text)
			if err != nil || d < least || d > maxPeriod {
				bad("thread", i, key, "%q is not a time between %v and %v, such as \"10ms\"", text, least, maxPeriod)
			}
			*to = k.Cycles(d)
		}
		length("period", t.Period, time.Microsecond, &t.period)
		t.deadline = t.period
		if t.Deadline != "" {
			length("deadline", t.Deadline, time.Microsecond, &t.deadline)
		}
		if t.Jitter != "" {
			length("jitter", t.Jitter, 0, &t.jitter)
		}
		if t.Cost == 0 || t.Cost > maxCycles {
			bad("thread", i, "cost", "%d cycles are not between 1 and %d", t.Cost, uint64(maxCycles))
		}
		if t.Fragments > 1<<16 {
			bad("thread", i, "byte_pool_fragments", "%d are more than %d", t.Fragments, 1<<16)
		}
		if len(t.Sections) > MaxSections {
			bad("thread", i, "section", "%d are more than %d", len(t.Sections), MaxSections)
		}
		left := t.Cost
		for _, s := range t.Sections {
			if !mutexes[s.Mutex] || s.Nested != "" && !mutexes[s.Nested] {
				bad("thread", i, "mutex", "there is no mutex %q", strings.Trim(s.Mutex+" "+s.Nested, " "))
			}
			if s.Nested == s.Mutex {
				bad("thread", i, "nested", "%q is held already", s.Nested)
			}
			if s.Cost > left {
				bad("thread", i, "cost", "its sections take longer than the whole job")
				break
			}
			left -= s.Cost
		}
	}
	return errors.Join(errs...)
}

func (m *Model) costs() []uint32 {
	c := m.Costs
	return []uint32{c.Call, c.Thread, c.Semaphore, c.Mutex, c.Event, c.Queue, c.Word, c.Block, c.Byte, c.Fragment, c.Switch, c.Interrupt, c.Tick, c.Expiry, c.Window}
}

// tick is the length of a tick in cycles.
func (m *Model) tick() rtos.Cycles { return rtos.Cycles(m.ClockHz / uint64(m.TicksPerSecond)) }

// Micros is a number of cycles in microseconds.
func (m *Model) Micros(c rtos.Cycles) float64 { return float64(c) * 1e6 / float64(m.ClockHz) }
