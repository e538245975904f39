package response

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"
	"time"

	"github.com/vauban-iot/vauban/internal/conform"
	"github.com/vauban-iot/vauban/rtos"
	"github.com/vauban-iot/vauban/rtos/trace"
)

// drawn makes a model at random: few threads, thresholds, shared mutexes, slices, timers, jitter, and a load around what can be scheduled.
func drawn(seed uint64) *Model {
	r := rand.New(rand.NewPCG(seed, 99))
	m := &Model{ClockHz: 1_000_000, TicksPerSecond: 200}
	m.Costs = rtos.Costs{Call: 2, Thread: 6, Semaphore: 4, Mutex: 5, Event: 6, Queue: 5, Word: 1, Block: 4, Byte: 6, Fragment: 1, Switch: 8, Interrupt: 3, Tick: 3, Expiry: 6, Window: 1}
	for i := range r.IntN(3) {
		m.Mutexes = append(m.Mutexes, ModelMutex{Name: fmt.Sprintf("m%d", i)})
	}
	for i := range r.IntN(3) {
		m.Timers = append(m.Timers, ModelTimer{fmt.Sprintf("timer%d", i), 1 + r.Uint32N(50), r.Uint64N(100)})
	}
	n := 2 + r.IntN(5)
	load := 0.3 + 0.65*r.Float64()
	for i := range n {
		period := 2000 + r.Uint64N(30_000)
		t := ModelThread{Name: fmt.Sprintf("t%d", i), Priority: 1 + r.Uint32N(6), Period: fmt.Sprintf("%dus", period)}
		t.Cost = max(uint64(float64(period)*load/float64(n)*(0.5+r.Float64())), 20)
		if r.IntN(2) == 0 {
			th := 1 + r.Uint32N(t.Priority)
			t.Threshold = &th
		}
		if r.IntN(3) == 0 {
			t.TimeSlice = 1 + r.Uint32N(2)
		}
		if r.IntN(3) == 0 {
			t.Jitter = fmt.Sprintf("%dus", r.Uint64N(period/2))
		}
		if r.IntN(6) == 0 {
			t.Fragments = 8
		}
		left := t.Cost
		for range r.IntN(3) {
			if len(m.Mutexes) == 0 {
				break
			}
			c := r.Uint64N(left/2 + 1)
			left -= c
			t.Sections = append(t.Sections, Section{Mutex: m.Mutexes[r.IntN(len(m.Mutexes))].Name, Cost: c})
		}
		m.Threads = append(m.Threads, t)
	}
	return m
}

// The judge of the analysis: whatever the model, no response that is observed is longer than the bound.
func TestAnalyze_ObservedIsNeverMore(t *testing.T) {
	t.Parallel()
	conform.Covers(t, "RTOS-36")
	models := uint64(4000)
	if testing.Short() {
		models = 400
	}
	bounded, jobs, tight := 0, uint64(0), 0
	for seed := range models {
		m := drawn(seed)
		if err := m.Check(); err != nil {
			t.Fatalf("seed %d: %v", seed, err)
		}
		a := m.Analyze()
		s, err := m.Simulate(700*time.Millisecond, seed, false)
		if err != nil {
			t.Fatalf("seed %d: %v", seed, err)
		}
		for i, b := range a.Bounds {
			o := s.Threads[i]
			jobs += o.Jobs
			if !b.Bounded {
				continue
			}
			bounded++
			if r := o.Worst.Response(); r > b.Response {
				t.Errorf("seed %d: %s took %d cycles, the bound is %d: %+v\n%+v", seed, b.Thread, r, b.Response, m.Threads, b.Terms)
			} else if r*10 > b.Response*8 {
				tight++
			}
			if b.Meets && o.Missed > 0 {
				t.Errorf("seed %d: %s missed %d deadlines that it meets", seed, b.Thread, o.Missed)
			}
		}
		if t.Failed() {
			t.FailNow()
		}
	}
	if bounded < int(models)*2 || jobs < models*100 || tight < int(models)/8 {
		t.Errorf("%d threads with a bound, %d jobs, %d bounds come near to what is seen: the test shows little", bounded, jobs, tight)
	}
	t.Logf("%d models, %d threads with a bound, %d jobs; in %d cases more than 80 %% of the bound was seen", models, bounded, jobs, tight)

	// Chains of mutexes, mutexes without inheritance and byte pools are warned of, and the first two have no bound.
	m := &Model{Mutexes: []ModelMutex{{Name: "a"}, {Name: "b"}, {Name: "c", NoInherit: true}}, Threads: []ModelThread{
		{Name: "above", Priority: 1, Period: "10ms", Cost: 1000},
		{Name: "chain", Priority: 5, Period: "10ms", Cost: 1000, Sections: []Section{{"a", 100, "b"}}},
		{Name: "user", Priority: 7, Period: "10ms", Cost: 1000, Fragments: 9, Sections: []Section{{"c", 100, ""}}},
		{Name: "last", Priority: 8, Period: "10ms", Cost: 1000, Sections: []Section{{"c", 100, ""}}},
	}}
	if err := m.Check(); err != nil {
		t.Fatal(err)
	}
	a := m.Analyze()
	if w := strings.Join(a.Warnings, "\n"); len(a.Warnings) != 3 || !strings.Contains(w, "waits for mutex b while it holds a") || !strings.Contains(w, "mutex c does not inherit") || !strings.Contains(w, "user uses a byte pool") {
		t.Errorf("%q", a.Warnings)
	}
	for i, want := range []bool{true, false, false, false} {
		if a.Bounds[i].Bounded != want {
			t.Errorf("%+v", a.Bounds[i])
		}
	}
}

const missing = `clock_hz = 1000000
[costs]
Call = 1
[[thread]]
name = "fast"
priority = 3
period = "10ms"
deadline = "2ms"
cost = 1500
[[thread]]
name = "slow"
priority = 9
threshold = 2
period = "50ms"
cost = 9000
`

func TestAnalyze_SaysWhoMissesAndWhy(t *testing.T) {
	t.Parallel()
	m, err := Load("m.toml", []byte(missing))
	if err != nil {
		t.Fatal(err)
	}
	a := m.Analyze()
	b := a.Bounds[0]
	if b.Meets || !b.Bounded || !strings.Contains(b.Why, "thread slow, whose threshold keeps it running") {
		t.Errorf("%+v", b)
	}
	var sum rtos.Cycles
	for _, x := range b.Terms {
		sum += x.Cycles
	}
	if sum != b.Response {
		t.Errorf("terms of %d cycles, a bound of %d", sum, b.Response)
	}
	if !a.Bounds[1].Meets {
		t.Errorf("%+v", a.Bounds[1])
	}
	s, err := m.Simulate(5*time.Second, 1, true)
	if err != nil {
		t.Fatal(err)
	}
	if s.Threads[0].Missed == 0 || s.Threads[1].Missed != 0 || s.Of != "fast" {
		t.Errorf("%+v of %s", s.Threads, s.Of)
	}
	if j := s.Threads[0].Worst; !(j.Arrival <= j.Release && j.Release <= j.Start && j.Start < j.Finish) {
		t.Errorf("%+v", j)
	}
	tr, err := trace.Parse(s.Trace)
	if err != nil {
		t.Fatal(err)
	}
	missed := false
	for _, e := range tr.Events {
		missed = missed || e.ID == trace.EventDeadlineMissed && e.Info[3] == 2000
	}
	if !missed {
		t.Error("the missed deadline is not in the trace")
	}
	again, err := m.Simulate(5*time.Second, 1, true)
	if err != nil || !bytes.Equal(s.Trace, again.Trace) {
		t.Errorf("the same seed makes another trace: %v", err)
	}
	// Without the threshold it is in time.
	m.Threads[1].threshold = 9
	if b := m.Analyze().Bounds[0]; !b.Meets {
		t.Errorf("%+v", b)
	}
	// More than the processor has.
	m.Threads[0].Cost = 20_000
	if b := m.Analyze().Bounds[0]; b.Bounded || !strings.Contains(b.Why, "more time than there is") {
		t.Errorf("%+v", b)
	}
}

func TestLoad_Refusals(t *testing.T) {
	t.Parallel()
	for _, c := range []struct{ text, want string }{
		{"", "m.toml:1: thread: 0 threads"},
		{"x = 1\n", "m.toml:1:1: unknown setting x"},
		{"x = \n", "m.toml:1:"},
		{"board = \"pdp11\"\n", `m.toml:1: board: unknown board "pdp11"`},
		{"clock_hz = 10\n", "m.toml:1: clock_hz: 10 Hz"},
		{strings.Replace(missing, "priority = 9", "priority = 0", 1), "m.toml:12: priority: 0 is not between 1 and 31"},
		{strings.Replace(missing, "threshold = 2", "threshold = 12", 1), "m.toml:13: threshold: 12 is not between 1 and the priority, 9"},
		{strings.Replace(missing, `"2ms"`, `"soon"`, 1), `m.toml:8: deadline: "soon" is not a time`},
		{strings.Replace(missing, "cost = 1500", "cost = 0", 1), "m.toml:9: cost: 0 cycles"},
		{strings.Replace(missing, `"slow"`, `"fast"`, 1), `m.toml:11: name: "fast" is empty or used twice`},
		{missing + "[[thread.section]]\nmutex = \"bus\"\ncost = 1\n", `m.toml:17: mutex: there is no mutex "bus"`},
		{missing + "[[thread.section]]\nmutex = \"bus\"\ncost = 10000\n[[mutex]]\nname = \"bus\"\n", "its sections take longer than the whole job"},
		{missing + "[[timer]]\nperiod_ticks = 0\n", "m.toml:17: period_ticks: 0 is not between"},
		{strings.Repeat("#", MaxModel+1), "more than a model may have"},
		{"[costs]\nSwitch = 2000000\n" + missing[strings.Index(missing, "[[thread]]"):], "2000000 cycles for a service"},
	} {
		if _, err := Load("m.toml", []byte(c.text)); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%v, want %q", err, c.want)
		}
	}
}

func FuzzLoad(f *testing.F) {
	f.Add([]byte(missing))
	f.Fuzz(func(t *testing.T, text []byte) {
		m, err := Load("m", text)
		if err == nil && len(m.Analyze().Bounds) != len(m.Threads) {
			t.Error("a thread without an answer")
		}
	})
}
