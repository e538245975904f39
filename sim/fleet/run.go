package fleet

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net/netip"
	"runtime"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/vauban-iot/vauban/board"
	"github.com/vauban-iot/vauban/internal/secret"
)

// Config of a run. Fields are required unless they say otherwise.
type Config struct {
	File *File
	To   *Installation
	// Workers is how many boards run at the same time in virtual time; 0: 256. Most of them wait for the installation.
	Workers int
	// Progress is told how it goes, about each second; nil: nobody.
	Progress func(Progress)
	// Clock is what the installation lives by; nil: it lives by the machine's.
	Clock *Clock
}

// Clock shows the time of the boards of a run, and stands still before and after it. In real time it is the machine's.
type Clock struct {
	file  *File
	epoch time.Time
	run   atomic.Pointer[run]
}

// NewClock is the clock of a run of f that begins about now.
func NewClock(f *File) *Clock { return &Clock{file: f, epoch: f.start(time.Now())} }

// Now is the boards' time, as far as all of them are.
func (c *Clock) Now() time.Time {
	if c.file.RealTime {
		return time.Now()
	}
	if r := c.run.Load(); r != nil {
		return c.epoch.Add(r.now())
	}
	return c.epoch
}

// Progress is how a run goes.
type Progress struct {
	Boards   int           // in all
	Up       int           // switched on and not stopped
	Time     time.Duration // of the boards
	Duration time.Duration
	Took     time.Duration
	Messages uint64
	Connects uint64
	Resets   uint64
	Alerts   int
}

// Speed is the boards' time in the machine's.
func (p Progress) Speed() float64 { return p.Time.Seconds() / max(p.Took.Seconds(), 1e-9) }

const (
	defaultWorkers = 256
	maxWorkers     = 4096
)

// run is one run of a fleet.
type run struct {
	cfg   Config
	file  *File
	to    *Installation
	keys  map[*Boards]secret.Secret
	epoch time.Time
	world *world
	units []*unit
	parts map[*Boards][]board.Part // of the firmware, by entry
	begun time.Time
	cut   context.Context // whose end ends the boards; nil: nothing does
	took  time.Duration
	clock atomic.Int64 // of the boards, nanoseconds
	up    atomic.Int64 // boards that were not given up

	series  series
	latency *latencies
	watch   *watch
	mu      sync.Mutex
	crashes []string
}

// steps is how many a series has.
const steps = 240

// series counts over the boards' time. Sums do not depend on who adds first.
type series struct {
	step                       time.Duration
	messages, connects, resets row
}

type row struct {
	total atomic.Uint64
	steps [steps]atomic.Uint64
}

func (r *run) count(row *row, at time.Duration, n uint64) {
	row.total.Add(n)
	row.steps[r.step(at)].Add(n)
}

// step is the one of the series that a moment is in.
func (r *run) step(at time.Duration) int { return int(min(max(at/r.series.step, 0), steps-1)) }

// Run plays the fleet until its time is over or ctx ends, and reports what became of it, in both cases. Nothing that it started is left.
func Run(ctx context.Context, cfg Config) (*Report, error) {
	f := cfg.File
	if err := f.reaches(cfg.To); err != nil {
		return nil, err
	}
	if cfg.Workers == 0 {
		cfg.Workers = defaultWorkers
	}
	if cfg.Workers < 0 || cfg.Workers > maxWorkers {
		return nil, fmt.Errorf("%d workers; want 1 to %d", cfg.Workers, maxWorkers)
	}
	plan := f.Plan()
	r := &run{cfg: cfg, file: f, to: cfg.To, parts: map[*Boards][]board.Part{}, begun: time.Now()}
	r.epoch = f.start(r.begun)
	if cfg.Clock != nil {
		r.epoch = cfg.Clock.epoch
		cfg.Clock.run.Store(r)
	}
	if end := r.epoch.Add(f.Duration); !f.RealTime && end.After(r.begun.Add(time.Minute)) {
		return nil, fmt.Errorf("the run would end at %s, which is in the future, and installations refuse what comes from there; choose an earlier epoch, or none", end.Format(time.RFC3339))
	}
	r.latency = new(latencies)
	r.series.step = max((f.Duration+steps-1)/steps, time.Second)
	var err error
	if r.keys, err = cfg.To.enroll(ctx, f); err != nil {
		return nil, err
	}
	if r.watch, err = newWatch(ctx, r, plan); err != nil {
		return nil, err
	}
	err = r.play(ctx, plan)
	if err != nil && ctx.Err() == nil {
		return nil, err
	}
	return r.report(plan), nil
}

// make makes the network and the boards on it, and switches them on.
func (r *run) make(ctx context.Context, plan *Plan) (err error) {
	by := make(map[netip.Addr]*unit, len(plan.Boards)) // complete before the first board runs
	r.world, err = openWorld(ctx, r.file, r.to, func(board netip.Addr) time.Time {
		if u := by[board]; u != nil && !r.file.RealTime {
			return u.hw.Time()
		}
		return time.Now()
	})
	for i := range plan.Boards {
		if err != nil {
			return err
		}
		var u *unit
		if u, err = r.open(ctx, &plan.Boards[i]); err != nil {
			return fmt.Errorf("board %s: %w", plan.Boards[i].ID, err)
		}
		r.units = append(r.units, u)
		r.up.Add(1)
		by[plan.Boards[i].Address.Addr()] = u
	}
	return err
}

// play makes the boards, runs them and ends them.
func (r *run) play(ctx context.Context, plan *Plan) error {
	inner, cancel := context.WithCancel(ctx)
	r.cut = inner
	defer cancel()
	defer func() {
		cancel()
		r.each(func(u *unit) { u.close() })
		if r.world != nil {
			r.world.close()
		}
	}()
	if err := r.make(inner, plan); err != nil {
		return err
	}
	r.begun = time.Now() // for who watches, too
	watching := make(chan struct{})
	watched, unwatch := context.WithCancel(inner)
	go func() {
		defer close(watching)
		r.watch.follow(watched)
	}()
	stop := func() { unwatch(); <-watching }
	defer stop()
	if r.file.RealTime {
		r.real(inner)
	} else {
		r.virtual(inner)
	}
	r.took = time.Since(r.begun)
	stop()
	r.watch.settle(ctx)
	return nil
}

// each calls f for all boards, on as many goroutines as run them.
func (r *run) each(f func(*unit)) {
	var wg sync.WaitGroup
	var next atomic.Int64
	for range min(r.cfg.Workers, len(r.units)) {
		wg.Go(func() {
			for i := int(next.Add(1)) - 1; i < len(r.units); i = int(next.Add(1)) - 1 {
				f(r.units[i])
			}
		})
	}
	wg.Wait()
}

// virtual plays all boards from window to window.
func (r *run) virtual(ctx context.Context) {
	work := make(chan *unit)
	var wg sync.WaitGroup
	var window sync.WaitGroup
	var t time.Duration
	for range min(r.cfg.Workers, len(r.units)) {
		wg.Go(func() {
			for u := range work {
				u.until(t)
				window.Done()
			}
		})
	}
	defer func() { close(work); wg.Wait() }()
	for t < r.file.Duration && ctx.Err() == nil {
		t = min(t+r.file.Window, r.file.Duration)
		for _, u := range r.units {
			if !u.idle(t) {
				window.Add(1)
				work <- u
			}
		}
		window.Wait()
		if ctx.Err() != nil {
			return // boards may have been cut in the middle of the window
		}
		r.clock.Store(int64(t))
		r.pace(ctx, t)
	}
	for _, u := range r.units { // those that had nothing to do stand behind
		u.until(t)
	}
}

// pace waits when the boards are faster than they shall be.
func (r *run) pace(ctx context.Context, t time.Duration) {
	if r.file.Speed == 0 {
		return
	}
	due := r.begun.Add(time.Duration(float64(t) / r.file.Speed))
	select {
	case <-ctx.Done():
	case <-time.After(time.Until(due)):
	}
}

// real runs each board on a goroutine of its own.
func (r *run) real(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, r.file.Duration)
	defer cancel()
	var wg sync.WaitGroup
	for _, u := range r.units {
		wg.Go(func() { u.live(ctx) })
	}
	wg.Wait()
	r.clock.Store(int64(min(time.Since(r.begun), r.file.Duration)))
}

// live runs the board in real time until ctx ends.
func (u *unit) live(ctx context.Context) {
	for ctx.Err() == nil {
		slice, cancel := ctx, context.CancelFunc(func() {})
		act := u.next < len(u.actions)
		if act {
			slice, cancel = context.WithTimeout(ctx, u.actions[u.next].at-u.hw.Uptime())
		}
		err := u.hw.Run(slice)
		cancel()
		if _, crashed := errors.AsType[*board.CrashError](err); crashed {
			<-slice.Done() // it stands still
		} else if err != nil && slice.Err() == nil {
			u.stop(err)
			return
		}
		if act && ctx.Err() == nil {
			u.act(u.actions[u.next])
			u.next++
		}
	}
}

// now is the boards' time, for who watches.
func (r *run) now() time.Duration {
	if at := time.Duration(r.clock.Load()); at > 0 || !r.file.RealTime {
		return at
	}
	return min(time.Since(r.begun), r.file.Duration)
}

func (r *run) crash(c board.CrashReport) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if len(r.crashes) < maxCrashes {
		r.crashes = append(r.crashes, c.String())
	}
}

// report puts together what became of the run.
func (r *run) report(plan *Plan) *Report {
	f := r.file
	reached := r.now()
	word := "virtual"
	if f.RealTime {
		word = "real"
	}
	did := Did{Name: f.Name, Seed: f.Seed, Epoch: r.epoch, Duration: f.Duration.Seconds(), Reached: reached.Seconds(), Time: word, Boards: len(plan.Boards), Each: []BoardDid{}, Groups: []Group{}}
	for _, u := range r.units {
		b := u.report(reached)
		did.Each = append(did.Each, b)
		did.Counts.add(&b.Counts)
		i := slices.IndexFunc(did.Groups, func(g Group) bool { return g.Name == b.Group })
		if i < 0 {
			i = len(did.Groups)
			did.Groups = append(did.Groups, Group{Name: b.Group})
		}
		did.Groups[i].Boards++
		did.Groups[i].Counts.add(&b.Counts)
	}
	slices.SortFunc(did.Groups, func(a, b Group) int { return cmp.Compare(a.Name, b.Name) })
	n := int(min((f.Duration+r.series.step-1)/r.series.step, steps))
	values := func(row *row) []uint64 {
		vs := make([]uint64, n)
		for i := range row.steps {
			vs[min(i, n-1)] += row.steps[i].Load()
		}
		return vs
	}
	did.Series = Series{Step: r.series.step.Seconds(), Messages: values(&r.series.messages), Connects: values(&r.series.connects), Resets: values(&r.series.resets)}

	ran := Ran{Started: r.begun.UTC(), Took: r.took.Seconds(), Speed: reached.Seconds() / max(r.took.Seconds(), 1e-9), PerSecond: float64(did.Telemetry+did.Security) / max(r.took.Seconds(), 1e-9), Crashes: r.crashes}
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	ran.Memory = m.HeapInuse + m.StackInuse
	ran.Latency = sum(r.latency[:])
	for i := range n {
		last := i + 1
		if i == n-1 {
			last = steps
		}
		ran.Latencies = append(ran.Latencies, sum(r.latency[i:last]))
	}
	r.watch.report(&ran, did.Each)
	return &Report{Fleet: did, Run: ran}
}
