package response

import (
	"fmt"
	"math/rand/v2"
	"time"

	"github.com/vauban-iot/vauban/rtos"
	"github.com/vauban-iot/vauban/rtos/trace"
)

// Simulation is what a run of the model on the kernel showed.
type Simulation struct {
	Threads []Observed `json:"threads"` // in the model's order
	Trace   []byte     `json:"-"`       // of the longest response compared with its deadline; nil unless asked for
	Of      string     `json:"traceOf,omitempty"`
}

// MaxTime bounds the virtual time of a simulation, traceSize the trace that it keeps.
const (
	MaxTime   = 24 * time.Hour
	traceSize = 256 << 10
)

// Simulate plays the model on the kernel for some virtual time. When interrupts come first, how late they are, and how much of its cost a job takes are
// drawn from seed; the same seed plays the same. keep asks for the trace of the longest response.
func (m *Model) Simulate(d time.Duration, seed uint64, keep bool) (*Simulation, error) {
	if d <= 0 || d > MaxTime {
		return nil, fmt.Errorf("a simulation of %v is not between nothing and %v", d, MaxTime)
	}
	k, err := rtos.New(rtos.Config{Name: m.Board, ClockHz: m.ClockHz, TicksPerSecond: m.TicksPerSecond, Costs: m.Costs})
	if err != nil {
		return nil, err
	}
	defer k.Close()
	random := rand.New(rand.NewPCG(seed, 0))
	mutexes := make([]rtos.Mutex, len(m.Mutexes))
	timers := make([]rtos.Timer, len(m.Timers))
	threads := make([]rtos.Thread, len(m.Threads))
	gates := make([]rtos.Semaphore, len(m.Threads))
	var pool rtos.BytePool
	var failed error
	must := func(s rtos.Status) {
		if s != rtos.Success && failed == nil {
			failed = fmt.Errorf("the simulation of the model failed: %w", s)
			k.Stop()
		}
	}
	byName := map[string]*rtos.Mutex{}
	watches := make([]Watch, len(m.Threads))
	// All threads have come to their semaphores by then.
	begin := m.tick() + rtos.Cycles(len(m.Threads)*8)*rtos.Cycles(m.Costs.Semaphore+m.Costs.Switch+m.Costs.Interrupt)
	err = k.Start(func(k *rtos.Kernel) {
		for i, x := range m.Mutexes {
			inherit := rtos.Inherit
			if x.NoInherit {
				inherit = rtos.NoInherit
			}
			must(k.CreateMutex(&mutexes[i], x.Name, inherit))
			byName[x.Name] = &mutexes[i]
		}
		must(k.CreateBytePool(&pool, "pool", make([]byte, 64*MaxThreads)))
		for i, x := range m.Timers {
			must(k.CreateTimer(&timers[i], x.Name, func(uint32) { k.Compute(rtos.Cycles(x.Cost)) }, 0, 1+random.Uint32N(x.Period), x.Period, rtos.AutoActivate))
		}
		for i := range m.Threads {
			t := &m.Threads[i]
			own := rand.New(rand.NewPCG(seed, uint64(i)+1))
			must(k.CreateSemaphore(&gates[i], "jobs of "+t.Name, 0))
			must(k.CreateThread(&threads[i], rtos.ThreadConfig{
				Name: t.Name, Stack: k.Reserve(512), Priority: t.Priority, Threshold: rtos.PreemptBelow(t.threshold), TimeSlice: t.TimeSlice, Start: rtos.AutoStart,
				Entry: func(uint32) {
					for {
						must(gates[i].Get(rtos.WaitForever))
						m.work(k, t, byName, &pool, own, must)
					}
				},
			}))
			first := begin
			if own.IntN(4) != 0 { // often all come at once
				first += rtos.Cycles(own.Uint64N(uint64(t.period)))
			}
			arrival := func(n uint64) rtos.Cycles { return first + rtos.Cycles(n)*t.period }
			watches[i] = Watch{&threads[i], &gates[i], t.deadline, arrival}
			n, last := uint64(0), rtos.Cycles(0)
			var isr func()
			schedule := func() {
				at := arrival(n)
				if t.jitter > 0 && own.IntN(3) != 0 {
					at += rtos.Cycles(own.Uint64N(uint64(t.jitter) + 1))
				}
				last = max(last, at)
				n++
				if err := k.At(last, isr); err != nil && failed == nil {
					failed = err
				}
			}
			isr = func() {
				must(gates[i].Put())
				schedule()
			}
			schedule()
		}
	})
	if err != nil {
		return nil, err
	}
	o := NewObserver(watches...)
	s := &Simulation{}
	if keep {
		r := trace.NewRecorder(k, nil)
		must(r.Enable(rtos.Region{Start: 0x6000_0000, Size: traceSize}, uint32(len(m.Threads)*2+len(m.Mutexes)+len(m.Timers)+4)))
		o.Next = r
		worst := 0.0
		o.OnWorst = func(i int, j Job) {
			if of := float64(j.Response()) / float64(m.Threads[i].deadline); of > worst {
				worst, s.Trace, s.Of = of, r.Bytes(), m.Threads[i].Name
			}
		}
	}
	k.SetTracer(o)
	if err := k.RunFor(d); err != nil && failed == nil {
		return nil, err
	}
	if failed != nil {
		return nil, failed
	}
	for i := range m.Threads {
		s.Threads = append(s.Threads, o.Observed(i))
	}
	return s, nil
}

// work is one job: its sections, with what is left of its cost before, between and after them.
func (m *Model) work(k *rtos.Kernel, t *ModelThread, mutexes map[string]*rtos.Mutex, pool *rtos.BytePool, own *rand.Rand, must func(rtos.Status)) {
	rest := t.Cost
	for _, s := range t.Sections {
		rest -= s.Cost
	}
	share := func(c uint64) rtos.Cycles {
		if own.IntN(3) == 0 {
			c -= own.Uint64N(c/2 + 1)
		}
		return rtos.Cycles(c)
	}
	part := rest / uint64(len(t.Sections)+1)
	compute := func(c uint64) {
		if c > 0 {
			k.Compute(share(c))
		}
	}
	compute(rest - part*uint64(len(t.Sections)))
	if t.Fragments > 0 {
		var memory rtos.Memory
		if pool.Allocate(&memory, 20, rtos.NoWait) == rtos.Success {
			must(memory.Release())
		}
	}
	for _, s := range t.Sections {
		must(mutexes[s.Mutex].Get(rtos.WaitForever))
		if s.Nested != "" {
			must(mutexes[s.Nested].Get(rtos.WaitForever))
		}
		compute(s.Cost)
		if s.Nested != "" {
			must(mutexes[s.Nested].Put())
		}
		must(mutexes[s.Mutex].Put())
		compute(part)
	}
}
