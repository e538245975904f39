// Package traffic makes the network traffic of a fleet of devices, honest and infected, as their security agents would tell of it: windows
// of ten seconds, and who connects to the hub from where. Nothing is random but by the seed: the same one gives the same bytes.
//
// A [Fleet] is a generator of device-days (defender §6.4). Honest devices belong to groups with profiles: time, names, keep-alive and
// telemetry over MQTT, AMQP or CoAP, updates each week, discovery in the house, recordings of cameras. What is honest and looks like trouble is
// there, too: reboot storms, new firmware that talks to new hosts, addresses of clouds that rotate, a new address of the house, outages,
// clocks that are years off. Infected devices do the same, and one attack from the second day on. Each window says what is in it.
package traffic

import (
	"cmp"
	"container/heap"
	"fmt"
	"iter"
	"math"
	"math/rand/v2"
	"net/netip"
	"slices"
	"time"

	"github.com/vauban-iot/vauban/wire/secmsg"
)

// Config of a fleet.
type Config struct {
	Seed    uint64
	Honest  int       // devices without an attack
	Attacks int       // devices of each attack
	Days    int       // of traffic, the first of which is honest everywhere
	Start   time.Time // of it, truncated to a day; zero: 2026-01-05, a Monday
}

// Bounds of a fleet, for memory: what a device does in a day takes about 200 KB.
const (
	MaxDevices = 20_000
	MaxDays    = 60
)

const (
	seconds = 10 // of a window
	dayLong = 86400
	windows = dayLong / seconds
)

// Device is one of a fleet.
type Device struct {
	ID     string
	Group  string
	Attack Attack        // empty: honest
	Onset  time.Time     // when the attack begins; zero: never
	Skew   time.Duration // of its clock
}

// Window is what an agent saw in ten seconds. A window without flows is not told.
type Window struct {
	Device *Device
	Start  time.Time // by a clock that is right
	Flows  []secmsg.Flow
	Labels []Attack // of each flow; empty: honest
	Logins []Login
	OS     string // not empty: the device says what runs on it
	// Arrives is when the hub gets it: at its end or, when the device was offline, later.
	Arrives time.Time
}

// Login is somebody who tried to sign in on the device.
type Login struct {
	User   string
	Remote netip.Addr
	Failed bool
}

// Visit is a connection to the hub.
type Visit struct {
	At      time.Time
	ID      string
	Remote  netip.Addr
	Refused bool
	Label   Attack
	target  string
}

// Target is the device of the fleet that the visit is about, or whose attack it is part of.
func (v *Visit) Target() string {
	if v.target != "" {
		return v.target
	}
	return v.ID
}

// Step is a window or a visit, whichever is not nil.
type Step struct {
	Window *Window
	Visit  *Visit
}

// Infected reports whether any of the window is an attack's.
func (w *Window) Infected() bool {
	return slices.ContainsFunc(w.Labels, func(a Attack) bool { return a != "" })
}

// Fleet is a number of devices with their traffic.
type Fleet struct {
	cfg     Config
	start   time.Time
	world   world
	Devices []*Device
	plans   []*plan
}

// New makes a fleet.
func New(cfg Config) (*Fleet, error) {
	if cfg.Honest < 0 || cfg.Attacks < 0 || cfg.Days < 2 || cfg.Days > MaxDays || cfg.Honest+cfg.Attacks*len(Attacks) < 1 || cfg.Honest+cfg.Attacks*len(Attacks) > MaxDevices {
		return nil, fmt.Errorf("a fleet has 1 to %d devices and 2 to %d days", MaxDevices, MaxDays)
	}
	if cfg.Start.IsZero() {
		cfg.Start = time.Date(2026, 1, 5, 0, 0, 0, 0, time.UTC)
	}
	f := &Fleet{cfg: cfg, start: cfg.Start.UTC().Truncate(24 * time.Hour)}
	f.world = newWorld(f.rand("world", 0), cfg.Days)
	add := func(attack Attack, n int) {
		for range n {
			i := len(f.Devices)
			p := newPlan(f, i, attack)
			f.Devices = append(f.Devices, p.Device)
			f.plans = append(f.plans, p)
		}
	}
	add("", cfg.Honest)
	for _, a := range Attacks {
		add(a, cfg.Attacks)
	}
	return f, nil
}

// rand is a source of its own for each purpose, so that one more device changes no other.
func (f *Fleet) rand(purpose string, n int) *rand.Rand {
	h := f.cfg.Seed
	for _, c := range []byte(purpose) {
		h = h*1099511628211 + uint64(c)
	}
	return rand.New(rand.NewPCG(h, uint64(n)*0x9e3779b97f4a7c15+1))
}

// Steps are all windows and visits, by time. It may be walked again.
func (f *Fleet) Steps() iter.Seq[Step] {
	return func(yield func(Step) bool) {
		for day := range f.cfg.Days {
			if !f.day(day, yield) {
				return
			}
		}
	}
}

// Of are the windows of one device, by time.
func (f *Fleet) Of(i int) iter.Seq[*Window] {
	return func(yield func(*Window) bool) {
		for day := range f.cfg.Days {
			s := f.plans[i].stream(f, day)
			for w := s.next(); w != nil; w = s.next() {
				if !yield(w) {
					return
				}
			}
		}
	}
}

func (f *Fleet) day(day int, yield func(Step) bool) bool {
	var q queue
	var visits []Visit
	for i, p := range f.plans {
		s := p.stream(f, day)
		visits = append(visits, p.visits(f, day)...)
		if w := s.next(); w != nil {
			q = append(q, &head{s, w, i})
		}
	}
	visits = append(visits, f.strangers(day)...)
	slices.SortStableFunc(visits, func(a, b Visit) int { return cmp.Or(a.At.Compare(b.At), cmp.Compare(a.ID, b.ID)) })
	heap.Init(&q)
	for len(q) > 0 {
		h := q[0]
		for len(visits) > 0 && visits[0].At.Before(h.w.Arrives) {
			if !yield(Step{Visit: &visits[0]}) {
				return false
			}
			visits = visits[1:]
		}
		if !yield(Step{Window: h.w}) {
			return false
		}
		if h.w = h.s.next(); h.w == nil {
			heap.Pop(&q)
			continue
		}
		heap.Fix(&q, 0)
	}
	for i := range visits {
		if !yield(Step{Visit: &visits[i]}) {
			return false
		}
	}
	return true
}

type head struct {
	s *stream
	w *Window
	i int
}

type queue []*head

func (q queue) Len() int { return len(q) }
func (q queue) Less(i, j int) bool {
	if !q[i].w.Arrives.Equal(q[j].w.Arrives) {
		return q[i].w.Arrives.Before(q[j].w.Arrives)
	}
	return q[i].i < q[j].i
}
func (q queue) Swap(i, j int) { q[i], q[j] = q[j], q[i] }
func (q *queue) Push(x any)   { *q = append(*q, x.(*head)) }
func (q *queue) Pop() any {
	last := (*q)[len(*q)-1]
	*q = (*q)[:len(*q)-1]
	return last
}

// talk is one conversation of a device.
type talk struct {
	at, lasts float64 // seconds of the day
	proto     string
	local     uint16
	remote    netip.AddrPort
	in, out   float64 // IP payload
	inbound   bool    // the remote began
	goes      bool    // the same conversation goes on in another talk
	label     Attack
}

// stream turns a day of talks into windows.
type stream struct {
	p      *plan
	day    int
	start  time.Time
	talks  []talk // by time, those to come
	open   []talk // that last
	window int
	burst  *burst
	rng    *rand.Rand
	logins map[int][]Login
	local  netip.Addr
	os     map[int]string
	away   [2]int // windows that are told later, at the end of it
	late   []*Window
}

// next is the next window in which something happened; nil: the day is over.
func (s *stream) next() *Window {
	for {
		if s.window >= s.away[1] && len(s.late) > 0 {
			w := s.late[0]
			s.late = s.late[1:]
			return w
		}
		if s.window >= windows {
			return nil
		}
		n := s.window
		s.window++
		w := s.make(n)
		switch {
		case w == nil:
		case s.away[0] <= n && n < s.away[1]:
			w.Arrives = s.start.Add(time.Duration(s.away[1]*seconds) * time.Second)
			s.late = append(s.late, w)
		default:
			return w
		}
	}
}

func (s *stream) make(n int) *Window {
	begin, end := float64(n*seconds), float64((n+1)*seconds)
	for len(s.talks) > 0 && s.talks[0].at < end {
		s.open = append(s.open, s.talks[0])
		s.talks = s.talks[1:]
	}
	logins, os := s.logins[n], s.os[n]
	if len(s.open) == 0 && !s.burst.on(n) && logins == nil && os == "" {
		return nil
	}
	w := &Window{Device: s.p.Device, Start: s.start.Add(time.Duration(n*seconds) * time.Second), Logins: logins, OS: os}
	w.Arrives = w.Start.Add(seconds * time.Second)
	keep := s.open[:0]
	for _, t := range s.open {
		share := 1.0
		if t.lasts > 0 { // spread over its windows (defender §6.3)
			share = (min(t.at+t.lasts, end) - max(t.at, begin)) / t.lasts
		}
		from := s.local
		if t.remote.Addr().Is6() {
			from = s.p.local6()
		}
		w.add(t, netip.AddrPortFrom(from, t.local), share)
		if t.at+t.lasts > end {
			keep = append(keep, t)
		}
	}
	s.open = keep
	if s.burst.on(n) {
		s.burst.fill(s, w, n)
	}
	w.limit()
	return w
}

// add counts a share of a talk; one 5-tuple is one flow.
func (w *Window) add(t talk, local netip.AddrPort, share float64) {
	in, out := uint64(math.Round(t.in*share)), uint64(math.Round(t.out*share))
	if in+out == 0 {
		return
	}
	for i := range w.Flows {
		if f := &w.Flows[i]; f.Local == local && f.Remote == t.remote && f.Protocol == t.proto && w.Labels[i] == t.label {
			f.BytesIn += in
			f.BytesOut += out
			return
		}
	}
	w.Flows = append(w.Flows, secmsg.Flow{Local: local, Remote: t.remote, Protocol: t.proto, BytesIn: in, BytesOut: out})
	w.Labels = append(w.Labels, t.label)
}

// Cache is how many flows of each family a board keeps in a window (defender §3.1); later ones are lost.
const Cache = 64

func (w *Window) limit() {
	var n [2]int
	at := 0
	for i, f := range w.Flows {
		family := 0
		if f.Remote.Addr().Is6() {
			family = 1
		}
		if n[family]++; n[family] <= Cache {
			w.Flows[at], w.Labels[at] = f, w.Labels[i]
			at++
		}
	}
	w.Flows, w.Labels = w.Flows[:at], w.Labels[:at]
}
