package metric

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/vauban-iot/vauban/rtos"
)

// port is the porting layer: what Thread-Metric asks of a kernel. Threads are created suspended and without time slice; priorities are 1, the
// highest, to 31.
type port struct {
	k       *rtos.Kernel
	threads [6]rtos.Thread
	queue   rtos.Queue
	gate    rtos.Semaphore
	pool    rtos.BlockPool
	block   rtos.Block
	isr     func() // what the software interrupt does
	real    bool
	failed  rtos.Status // the first service that did not succeed
}

// The sizes of ThreadX's own porting layer.
const (
	stackSize = 2096
	queueSize = 200
	poolSize  = 2048
	blockSize = 128
	reporter  = 5 // the reporting thread's number
)

func (p *port) must(s rtos.Status) {
	if s != rtos.Success && p.failed == rtos.Success {
		p.failed = s
	}
}

func (p *port) thread(id int, priority uint32, entry func()) {
	p.must(p.k.CreateThread(&p.threads[id], rtos.ThreadConfig{
		Name: fmt.Sprintf("Thread-Metric %d", id), Stack: p.k.Reserve(stackSize), Priority: priority, Start: rtos.DontStart, Entry: func(uint32) { entry() },
	}))
}

func (p *port) resume(id int)  { p.must(p.threads[id].Resume()) }
func (p *port) suspend(id int) { p.must(p.threads[id].Suspend()) }

func (p *port) createQueue() {
	p.must(p.k.CreateQueue(&p.queue, "Thread-Metric", 4, make([]byte, queueSize)))
}
func (p *port) createGate(n uint32) {
	p.must(p.k.CreateSemaphore(&p.gate, "Thread-Metric", n))
}
func (p *port) createPool() {
	p.must(p.k.CreateBlockPool(&p.pool, "Thread-Metric", blockSize, make([]byte, poolSize)))
}

// interrupt is a trap instruction: it returns when the interrupt, and what it made ready, is over.
func (p *port) interrupt() {
	if p.k.Interrupt(p.isr) != nil && p.failed == rtos.Success {
		p.failed = rtos.NotDone
	}
}

// passCycles is what a pass of the basic test costs in virtual time: nine cycles for each of its words, on a Cortex-M4.
const passCycles = 9 * passWords

// passed tells the kernel of a pass that called no service, so that ticks are noticed. In real time the pass took its time already.
func (p *port) passed() {
	if p.real {
		p.k.Identify()
		return
	}
	p.k.Compute(passCycles)
}

// Result is what one test did in one period.
type Result struct {
	Test   string        `json:"test"`
	Title  string        `json:"title"`
	Total  uint64        `json:"total"`  // Thread-Metric's "Time Period Total", in units
	Period time.Duration `json:"period"` // nanoseconds: of the board's time in virtual time, measured in real time
	Wrong  string        `json:"wrong,omitempty"`
}

// PerUnit is the time of one unit in nanoseconds.
func (r Result) PerUnit() float64 {
	if r.Total == 0 {
		return 0
	}
	return float64(r.Period) / float64(r.Total)
}

// MaxPeriod bounds a test.
const MaxPeriod = time.Hour

// Virtual runs a test for a period of virtual time. The same kernel and costs give the same total on any machine.
func Virtual(t Test, period time.Duration, costs rtos.Costs) (Result, error) {
	return run(t, period, rtos.Config{Costs: costs}, func(k *rtos.Kernel) error { return k.RunUntil(1 << 62) })
}

// Real runs a test for a period of real time, with ticks of the machine's clock, as Thread-Metric is run elsewhere.
func Real(ctx context.Context, t Test, period time.Duration) (Result, error) {
	return run(t, period, rtos.Config{RealTime: true}, func(k *rtos.Kernel) error { return k.Run(ctx) })
}

func run(t Test, period time.Duration, cfg rtos.Config, drive func(*rtos.Kernel) error) (Result, error) {
	r := Result{Test: t.Name, Title: t.Title}
	cfg.Name = t.Name
	k, err := rtos.New(cfg)
	if err != nil {
		return r, err
	}
	defer k.Close()
	tick := time.Second / time.Duration(k.Config().TicksPerSecond)
	if period < tick || period > MaxPeriod {
		return r, fmt.Errorf("a period of %v is not between a tick of %v and %v", period, tick, MaxPeriod)
	}
	p := &port{k: k, real: cfg.RealTime}
	var began rtos.Cycles
	err = k.Start(func(k *rtos.Kernel) {
		total, wrong := t.begin(p)
		p.thread(reporter, 2, func() {
			began = k.Now()
			before := total()
			p.must(k.Sleep(uint32(period / tick)))
			r.Period = k.Duration(k.Now() - began)
			r.Total = total() - before
			r.Wrong = wrong()
			k.Stop()
		})
		p.resume(reporter)
	})
	if err != nil {
		return r, err
	}
	if err = drive(k); !errors.Is(err, rtos.ErrStopped) {
		return r, err
	}
	switch {
	case p.failed != rtos.Success:
		return r, fmt.Errorf("%s: a service failed: %w", t.Title, p.failed)
	case r.Wrong != "":
		return r, fmt.Errorf("%s: %s", t.Title, r.Wrong)
	}
	return r, nil
}
