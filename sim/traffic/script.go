package traffic

import (
	"cmp"
	"fmt"
	"math"
	"net/netip"
	"slices"
	"time"
)

// Act is one thing that an infected device does on the wire, or that is done to it.
type Act struct {
	At       time.Duration // since the onset
	Lasts    time.Duration // over which its bytes are spread
	Protocol string        // TCP, UDP or ICMP
	Local    uint16        // the port; zero for ICMP
	Remote   netip.AddrPort
	In, Out  uint64 // bytes of IP payload
	Inbound  bool   // the remote began
	Goes     bool   // the same conversation goes on in a later act

	Visit *Visit // in the place of all that: somebody at the hub's door
}

// Script is what an attack does on one device from its onset on, day after day: the conversations of which a [Fleet] makes windows,
// without what the device does else. The same seed gives the same ones.
type Script struct {
	fleet  *Fleet
	plan   *plan
	stream *stream // of the present day
	day    int     // the one after it
	window int     // of the present day, the next one
	rest   []Act   // of the present day, by time
	acts   []Act   // of the present window, by time
}

// NewScript writes the script of an attack. masters are whom the device talks to, at most two; the seed chooses those that are missing.
func NewScript(a Attack, seed uint64, masters ...netip.Addr) (*Script, error) {
	if !Known(a) {
		return nil, fmt.Errorf("there is no attack %q; want one of %v", a, Attacks)
	}
	if a == Guessing {
		return nil, fmt.Errorf("the attack %s is seen in logins, of which boards do not tell", a)
	}
	f := &Fleet{cfg: Config{Seed: seed, Days: 2}, start: time.Unix(0, 0).UTC()}
	f.world = newWorld(f.rand("world", 0), f.cfg.Days)
	p := newPlan(f, int(seed%MaxDevices), a)
	if len(masters) > len(p.evil) {
		return nil, fmt.Errorf("%d masters; an attack has %d at most", len(masters), len(p.evil))
	}
	copy(p.evil[:], masters)
	p.onset = 0
	f.plans = []*plan{p}
	return newScript(f, p), nil
}

func newScript(f *Fleet, p *plan) *Script {
	return &Script{fleet: f, plan: p, day: p.onset / dayLong, window: windows}
}

// Masters are whom the device talks to: the first commands it and takes what it stole, the second hands out programs.
func (s *Script) Masters() []netip.Addr { return slices.Clone(s.plan.evil[:]) }

// Next is the next act. It is false when there is no other.
func (s *Script) Next() (a Act, ok bool) {
	for len(s.acts) == 0 {
		if s.window == windows && !s.open() {
			return Act{}, false
		}
		s.fill()
	}
	a, s.acts = s.acts[0], s.acts[1:]
	return a, true
}

// open begins the next day. It is false when nothing happens on it: then nothing does on any later one.
func (s *Script) open() bool {
	p, day := s.plan, s.day
	s.day++
	s.window = 0
	s.stream = &stream{p: p, day: day, rng: s.fleet.rand("day", p.i*MaxDays+day), logins: map[int][]Login{}, local: p.local(0)}
	p.attack(s.fleet, s.stream, day)
	for _, t := range s.stream.talks {
		s.rest = append(s.rest, Act{
			At: s.at(t.at), Lasts: duration(t.lasts), Protocol: t.proto, Local: t.local, Remote: t.remote,
			In: uint64(math.Round(t.in)), Out: uint64(math.Round(t.out)), Inbound: t.inbound, Goes: t.goes,
		})
	}
	for _, v := range slices.Concat(s.fleet.strangers(day), p.visits(s.fleet, day)) {
		if v.Label == p.Attack && v.Target() == p.ID && (v.Refused || v.Remote == p.evil[0]) { // the device's own are its own
			s.rest = append(s.rest, Act{At: v.At.Sub(s.fleet.start) - s.onset(), Visit: &v})
		}
	}
	byTime(s.rest)
	return len(s.rest) > 0 || s.stream.burst != nil
}

func duration(seconds float64) time.Duration { return time.Duration(seconds * float64(time.Second)) }

// at is a second of the present day since the onset.
func (s *Script) at(second float64) time.Duration {
	return time.Duration(s.day-1)*24*time.Hour + duration(second) - s.onset()
}

func (s *Script) onset() time.Duration { return time.Duration(s.plan.onset) * time.Second }

func byTime(acts []Act) {
	slices.SortStableFunc(acts, func(a, b Act) int { return cmp.Compare(a.At, b.At) })
}

// fill makes the acts of the next window: the talks that begin in it, and each flow of a burst at a moment of its own.
func (s *Script) fill() {
	n := s.window
	s.window++
	end := s.at(float64(s.window * seconds))
	i := 0
	for i < len(s.rest) && s.rest[i].At < end {
		i++
	}
	s.acts, s.rest = append(s.acts[:0], s.rest[:i]...), s.rest[i:]
	if !s.stream.burst.on(n) {
		return
	}
	var w Window
	s.stream.burst.fill(s.stream, &w, n)
	for i, f := range w.Flows {
		at := s.at((float64(n) + (float64(i)+0.5)/float64(len(w.Flows))) * seconds)
		s.acts = append(s.acts, Act{At: at, Protocol: f.Protocol, Local: f.Local.Port(), Remote: f.Remote, In: f.BytesIn, Out: f.BytesOut})
	}
	byTime(s.acts)
}
