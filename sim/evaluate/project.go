package evaluate

import (
	"math"
	"net/netip"
	"time"

	"github.com/vauban-iot/vauban/sim/traffic"
	"github.com/vauban-iot/vauban/wire/secmsg"
)

// projector turns connections of one host into what a board there would tell (defender §6.3): windows of ten seconds, bytes of IP payload, a long
// connection spread over its windows, at most 64 flows of each family in a window.
type projector struct {
	host   netip.Addr
	open   []share
	window int64 // the one that is filled; in windows since 1970
	flows  []secmsg.Flow
	places map[tuple]int
	family [2]int
	labels map[string]struct{}
	emit   func(start time.Time, flows []secmsg.Flow, labels []string) error

	lost    int // flows beyond the cache
	unspent int // connections that were too many to be spread
}

type tuple struct {
	local, remote netip.AddrPort
	protocol      uint8
}

// share is a connection that is under way.
type share struct {
	t        tuple
	from, to int64 // microseconds
	in, out  uint64
	spentIn  uint64
	spentOut uint64
	label    string
}

const (
	windowMicros = 10_000_000
	maxOpen      = 4096
	// maxQuiet is how long nothing but connections under way is followed, window by window.
	maxQuiet = 7 * 24 * 360
)

func newProjector(host netip.Addr, emit func(time.Time, []secmsg.Flow, []string) error) *projector {
	return &projector{host: host, places: make(map[tuple]int), labels: make(map[string]struct{}), window: math.MinInt64, emit: emit}
}

// add takes a connection of the host, by time.
func (p *projector) add(v *row, label string) error {
	at := v.at / windowMicros
	if p.window == math.MinInt64 {
		p.window = at
	}
	if err := p.advance(at); err != nil {
		return err
	}
	s := share{t: tuple{v.orig, v.resp, v.protocol}, from: v.at, to: v.at + int64(v.last)*1000, in: v.in, out: v.out, label: label}
	if v.orig.Addr() != p.host {
		s.t.local, s.t.remote, s.in, s.out = v.resp, v.orig, v.out, v.in
		if label != "" {
			s.label = label + targetSuffix
		}
	}
	if s.to/windowMicros > at {
		if len(p.open) < maxOpen {
			p.open = append(p.open, s)
			return nil
		}
		p.unspent++
		s.to = s.from
	}
	p.spend(&s)
	return nil
}

// targetSuffix marks an attack of which the host was the target, which it can do nothing about.
const targetSuffix = ", as its target"

// spend puts into the window what belongs there.
func (p *projector) spend(s *share) {
	end := (p.window + 1) * windowMicros
	in, out := s.in, s.out
	if s.to > s.from {
		done := min(1, float64(min(end, s.to)-s.from)/float64(s.to-s.from))
		in, out = uint64(float64(s.in)*done)-s.spentIn, uint64(float64(s.out)*done)-s.spentOut
		s.spentIn += in
		s.spentOut += out
	}
	if s.label != "" {
		p.labels[s.label] = struct{}{}
	}
	if at, ok := p.places[s.t]; ok {
		p.flows[at].BytesIn += in
		p.flows[at].BytesOut += out
		return
	}
	if in+out == 0 {
		return // a board counts bytes
	}
	family := 0
	if s.t.remote.Addr().Is6() {
		family = 1
	}
	if p.family[family] == traffic.Cache {
		p.lost++
		return
	}
	p.family[family]++
	p.places[s.t] = len(p.flows)
	p.flows = append(p.flows, secmsg.Flow{Local: s.t.local, Remote: s.t.remote, Protocol: protocols[s.t.protocol], BytesIn: in, BytesOut: out})
}

// advance ends windows until to.
func (p *projector) advance(to int64) error {
	for p.window < to {
		keep := p.open[:0]
		for i := range p.open {
			s := &p.open[i]
			p.spend(s)
			if s.to >= (p.window+1)*windowMicros {
				keep = append(keep, *s)
			}
		}
		p.open = keep
		if err := p.flush(); err != nil {
			return err
		}
		if p.window++; len(p.open) == 0 {
			p.window = to
		}
	}
	return nil
}

func (p *projector) flush() error {
	if len(p.flows) == 0 && len(p.labels) == 0 {
		return nil
	}
	labels := make([]string, 0, len(p.labels))
	for l := range p.labels {
		labels = append(labels, l)
	}
	err := p.emit(time.UnixMicro(p.window*windowMicros).UTC(), p.flows, labels)
	p.flows = p.flows[:0]
	p.family = [2]int{}
	clear(p.places)
	clear(p.labels)
	return err
}

// end ends all that is under way, up to a week.
func (p *projector) end() error {
	if p.window == math.MinInt64 {
		return nil
	}
	last := p.window
	for i := range p.open {
		last = max(last, p.open[i].to/windowMicros)
	}
	return p.advance(min(last, p.window+maxQuiet) + 1)
}
