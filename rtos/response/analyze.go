package response

import (
	"fmt"

	"github.com/vauban-iot/vauban/rtos"
)

// Bound is what the analysis says of one thread.
type Bound struct {
	Thread   string      `json:"thread"`
	Bounded  bool        `json:"bounded"`
	Response rtos.Cycles `json:"responseCycles"` // from the arrival to the end of the job
	Deadline rtos.Cycles `json:"deadlineCycles"`
	Meets    bool        `json:"meetsDeadline"`
	Why      string      `json:"why,omitempty"` // it misses, or has no bound
	Terms    []Term      `json:"terms,omitempty"`
}

// Term is a part of a response; all terms of a bound are its sum.
type Term struct {
	What   string      `json:"what"`
	Count  uint64      `json:"count"`
	Cycles rtos.Cycles `json:"cycles"` // altogether; for Earlier jobs less than nothing is taken off elsewhere
}

// Analysis is what the model means.
type Analysis struct {
	Bounds      []Bound  `json:"bounds"`
	Warnings    []string `json:"warnings"`
	Utilization float64  `json:"utilization"` // of the processor by all, the kernel's work included
}

// demand is work that arrives at most every period, with jitter.
type demand struct {
	what           string
	cost           rtos.Cycles
	period, jitter rtos.Cycles
}

// limit is where a busy period is taken for endless.
const (
	limit    = rtos.Cycles(1) << 52
	maxSteps = 20_000
	maxJobs  = 2_000
)

// by is how many arrive in a window of w, its end included or not.
func (d demand) by(w rtos.Cycles, closed bool) rtos.Cycles {
	if closed {
		return (w+d.jitter)/d.period + 1
	}
	return (w + d.jitter + d.period - 1) / d.period
}

// job is what one job of t takes of the processor: its own work, the calls in it, and the switches to it and back, two more for each mutex that
// it may have to wait for.
func (m *Model) job(t *ModelThread) rtos.Cycles {
	c := m.Costs
	locks := rtos.Cycles(0)
	for _, s := range t.Sections {
		locks++
		if s.Nested != "" {
			locks++
		}
	}
	e := rtos.Cycles(t.Cost) + rtos.Cycles(c.Semaphore) + locks*2*rtos.Cycles(c.Mutex) + (2+2*locks)*rtos.Cycles(c.Switch)
	if t.Fragments > 0 {
		e += 2*rtos.Cycles(c.Byte) + 2*rtos.Cycles(t.Fragments+1)*rtos.Cycles(c.Fragment)
	}
	return e
}

// system is the work that comes before all threads.
func (m *Model) system() []demand {
	c := m.Costs
	ds := []demand{{"tick interrupts", rtos.Cycles(c.Interrupt + c.Tick), m.tick(), 0}}
	for i := range m.Timers {
		t := &m.Timers[i]
		run := rtos.Cycles(c.Expiry) + 2*rtos.Cycles(c.Switch)
		// A timer of more than 32 ticks goes round the wheel.
		rounds := rtos.Cycles((t.Period+31)/32 - 1)
		ds = append(ds, demand{"timer " + t.Name, run*(1+rounds) + rtos.Cycles(t.Cost), rtos.Cycles(t.Period) * m.tick(), 0})
	}
	for i := range m.Threads {
		t := &m.Threads[i]
		ds = append(ds, demand{"interrupts of " + t.Name, rtos.Cycles(c.Interrupt + c.Semaphore), t.period, t.jitter})
	}
	return ds
}

// Analyze bounds the response of each thread (rtos §20): Wang and Saksena's analysis with preemption-thresholds, in which a job's start and its end are
// found one after the other. Threads of the same priority count as if they were of higher priority, which bounds every order
// among them, time slices included; a thread that may have to wait for a mutex has no use of its threshold, because it gives up the processor.
// The model must have been checked.
func (m *Model) Analyze() Analysis {
	a := Analysis{Warnings: []string{}}
	users := map[string][]*ModelThread{}
	for i := range m.Threads {
		t := &m.Threads[i]
		seen := map[string]bool{}
		for _, s := range t.Sections {
			for _, n := range []string{s.Mutex, s.Nested} {
				if n != "" && !seen[n] {
					seen[n] = true
					users[n] = append(users[n], t)
				}
			}
			if s.Nested != "" {
				a.Warnings = append(a.Warnings, fmt.Sprintf("thread %s waits for mutex %s while it holds %s: inheritance is one level deep and does not bound that", t.Name, s.Nested, s.Mutex))
			}
		}
		if t.Fragments > 0 {
			a.Warnings = append(a.Warnings, fmt.Sprintf("thread %s uses a byte pool: the search takes as long as there are fragments, and the bound holds only up to %d", t.Name, t.Fragments))
		}
	}
	// Above this priority, the best of those who use them, mutexes without a bound do not matter.
	unbounded, reason := uint32(32), ""
	spoil := func(name, why string) {
		for _, t := range users[name] {
			if t.Priority < unbounded {
				unbounded = t.Priority
			}
		}
		reason = why
	}
	for i := range m.Threads {
		for _, s := range m.Threads[i].Sections {
			if s.Nested != "" {
				why := fmt.Sprintf("thread %s waits for mutex %s while it holds %s", m.Threads[i].Name, s.Nested, s.Mutex)
				spoil(s.Mutex, why)
				spoil(s.Nested, why)
			}
		}
	}
	for _, x := range m.Mutexes {
		if x.NoInherit && len(users[x.Name]) > 1 {
			a.Warnings = append(a.Warnings, fmt.Sprintf("mutex %s does not inherit: whoever has a priority between those of its users may delay them without end", x.Name))
			spoil(x.Name, fmt.Sprintf("mutex %s does not inherit", x.Name))
		}
	}
	for _, d := range m.system() {
		a.Utilization += float64(d.cost) / float64(d.period)
	}
	for i := range m.Threads {
		t := &m.Threads[i]
		a.Utilization += float64(m.job(t)) / float64(t.period)
	}
	// From the lowest priority up: how many jobs a thread does without giving up the processor decides how long its threshold keeps others away.
	a.Bounds = make([]Bound, len(m.Threads))
	rows := make([]rtos.Cycles, len(m.Threads))
	for p := uint32(31); p > 0; p-- {
		for i := range m.Threads {
			t := &m.Threads[i]
			if t.Priority != p {
				continue
			}
			b := &a.Bounds[i]
			*b = Bound{Thread: t.Name, Deadline: t.deadline}
			if t.Priority >= unbounded {
				b.Why = "there is no bound: " + reason
			} else {
				rows[i] = m.bound(t, users, rows, b)
			}
		}
	}
	return a
}

// bound fills b in, and answers how many jobs t may do one after the other without waiting for the next: more than one when a job may last into
// the time of the next, 0 when there is no bound. rows has that of the threads of lower priority.
func (m *Model) bound(t *ModelThread, users map[string][]*ModelThread, rows []rtos.Cycles, b *Bound) rtos.Cycles {
	c := m.Costs
	own := m.job(t)
	shared := false
	ceiling := func(name string) uint32 {
		best := uint32(32)
		for _, u := range users[name] {
			best = min(best, u.Priority)
		}
		return best
	}
	for _, s := range t.Sections {
		shared = shared || len(users[s.Mutex]) > 1
	}
	before := m.system() // what comes before the start
	if m.slices(t.Priority) {
		before = append(before, demand{"ends of time slices", rtos.Cycles(c.Switch), m.tick(), 0})
	}
	after := append([]demand(nil), before...)
	var blocking []Term
	latency := rtos.Cycles(0)
	for _, v := range m.costs() {
		latency = max(latency, rtos.Cycles(v))
	}
	blocking = append(blocking, Term{"a service of another that is not interrupted", 1, latency})
	var holder Term
	var sections Term
	for i := range m.Threads {
		o := &m.Threads[i]
		d := demand{"thread " + o.Name, m.job(o), o.period, o.jitter}
		switch {
		case o == t:
		case o.Priority <= t.Priority:
			before = append(before, d)
			if shared || t.threshold == t.Priority || o.Priority < t.threshold {
				after = append(after, d)
			}
		default:
			if o.threshold <= t.Priority {
				if rows[i] == 0 {
					b.Why = fmt.Sprintf("there is no bound: thread %s has none, and its threshold keeps it running", o.Name)
					return 0
				}
				if rows[i]*d.cost > holder.Cycles {
					holder = Term{"thread " + o.Name + ", whose threshold keeps it running", uint64(rows[i]), rows[i] * d.cost}
				}
			}
			// Each may be in one section, or wait for it: a mutex is handed to who waits, so that one mutex can block several times.
			longest := rtos.Cycles(0)
			for _, s := range o.Sections {
				if ceiling(s.Mutex) <= t.Priority {
					longest = max(longest, rtos.Cycles(s.Cost)+2*rtos.Cycles(c.Mutex+c.Switch))
				}
			}
			if longest > 0 && o.threshold <= t.Priority {
				longest = rows[i] * d.cost // having given the mutex up it goes on, because of its threshold
			}
			if longest > 0 {
				sections.Count++
				sections.Cycles += longest
			}
		}
	}
	if holder.Count > 0 {
		// When a thread of lower priority gives a mutex up and falls, a ready one with a threshold is chosen before the waiter is ready.
		holder.Count *= 1 + sections.Count
		holder.Cycles *= 1 + rtos.Cycles(sections.Count)
		blocking = append(blocking, holder)
	}
	if sections.Count > 0 {
		sections.What = "mutexes held by threads of lower priority"
		blocking = append(blocking, sections)
	}
	var blocked rtos.Cycles
	for _, x := range blocking {
		blocked += x.Cycles
	}
	self := demand{t.Name, own, t.period, t.jitter}
	busy, ok := fix(func(w rtos.Cycles) rtos.Cycles { return blocked + work(before, w, false) + self.by(w, false)*own }, blocked+own)
	if !ok || self.by(busy, false) > maxJobs {
		b.Why = "there is no bound: what runs at this priority and above needs more time than there is"
		return 0
	}
	var worst rtos.Cycles
	for q := range self.by(busy, false) {
		start, ok1 := fix(func(w rtos.Cycles) rtos.Cycles { return blocked + q*own + work(before, w, true) }, blocked+q*own)
		end, ok2 := fix(func(w rtos.Cycles) rtos.Cycles {
			return start + own + work(after, w, false) - min(work(after, start, true), work(after, w, false))
		}, start+own)
		if !ok1 || !ok2 {
			b.Why = "there is no bound: what runs at this priority and above needs more time than there is"
			return 0
		}
		r := end + t.jitter - q*t.period
		if r <= worst {
			continue
		}
		worst = r
		b.Terms = []Term{{"its own job", 1, own}}
		if t.jitter > 0 {
			b.Terms = append(b.Terms, Term{"jitter of its interrupt", 1, t.jitter})
		}
		b.Terms = append(b.Terms, blocking...)
		counts := map[string]rtos.Cycles{}
		for _, d := range after {
			if n := d.by(end, false); n > d.by(start, true) {
				counts[d.what] = n - d.by(start, true)
			}
		}
		for _, d := range before {
			if n := d.by(start, true) + counts[d.what]; n > 0 {
				b.Terms = append(b.Terms, Term{d.what, uint64(n), n * d.cost})
			}
		}
		if q > 0 {
			b.Terms = append(b.Terms, Term{"its own earlier jobs, as far as they last into its time", uint64(q), q*own - min(q*own, q*t.period)})
		}
	}
	b.Bounded, b.Response, b.Meets = true, worst, worst <= t.deadline
	if !b.Meets {
		big := b.Terms[0]
		for _, x := range b.Terms[1:] {
			if x.Cycles > big.Cycles {
				big = x
			}
		}
		b.Why = fmt.Sprintf("it may take %.1f us, %.1f us longer than its deadline; most of that is %s, %.1f us", m.Micros(worst), m.Micros(worst-t.deadline), big.What, m.Micros(big.Cycles))
	}
	if worst <= t.period {
		return 1
	}
	return self.by(busy, false)
}

// slices reports whether time slices may end while a thread of this priority waits.
func (m *Model) slices(priority uint32) bool {
	for i := range m.Threads {
		if t := &m.Threads[i]; t.TimeSlice > 0 && t.Priority <= priority {
			return true
		}
	}
	return false
}

func work(ds []demand, w rtos.Cycles, closed bool) (sum rtos.Cycles) {
	for _, d := range ds {
		sum += d.by(w, closed) * d.cost
		if sum > limit {
			return limit
		}
	}
	return sum
}

// fix iterates f from w up to its least fixed point.
func fix(f func(rtos.Cycles) rtos.Cycles, w rtos.Cycles) (rtos.Cycles, bool) {
	for range maxSteps {
		next := f(w)
		if next <= w {
			return w, true
		}
		if next >= limit {
			return 0, false
		}
		w = next
	}
	return 0, false
}
