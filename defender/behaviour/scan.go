package behaviour

import (
	"fmt"

	"github.com/vauban-iot/vauban/defender/alert"
)

// Thresholds of scans. An honest device asks a handful of hosts that are away: time servers of a pool, a broker's addresses. A scanner
// asks hundreds, of which a board's cache of 64 flows shows at most that many in a window, and 4 of the firmware before 6.1.5.
const (
	scanHosts      = 12 // in a window
	scanHostsLong  = 30 // in a window of more than a minute
	scanDoors      = 6  // in a window, on a port that is there to be broken into
	sweepHosts     = 12 // pinged in a window
	slowHosts      = 30 // within one to two hours
	slowDoors      = 12
	cacheFlows     = 64 // of one family, in a board (defender §3.1)
	cacheSaturated = 56 // distinct hosts among those
)

// doors are ports that worms try and that devices have little reason to ask for.
var doors = map[uint16]bool{22: true, 23: true, 445: true, 2222: true, 2323: true, 3389: true, 5555: true, 7547: true, 8291: true, 9527: true, 23231: true, 37215: true, 52869: true}

// fan is how many hosts a window asked for one service.
type fan struct {
	service uint32
	hosts   distinct
	n       int
	first   [9]*flow
}

// fans looks for scans.
func (w *watch) fans(s span, flows []flow) {
	fans := w.scratch.fans[:0]
	var all distinct
	family := [2]int{}
	unanswered := 0
	for i := range flows {
		v := &flows[i]
		all.add(v.host)
		if v.remote.Is4() {
			family[0]++
		} else {
			family[1]++
		}
		// Who answers at a door is asked all the same. Agents that count no bytes do not say who answered.
		if !v.failed && !(v.out && doors[v.port] && v.proto == tcp) && !(v.proto == icmp && v.out) && (v.counted || !v.out || cloud[v.port]) {
			continue
		}
		if v.failed {
			unanswered++
		}
		at := -1
		for j := range fans {
			if fans[j].service == v.service() {
				at = j
			}
		}
		if at < 0 {
			if len(fans) == cacheFlows {
				continue // who asks for so many services scans ports, not hosts
			}
			fans = append(fans, fan{service: v.service()})
			at = len(fans) - 1
		}
		f := &fans[at]
		f.hosts.add(v.host)
		if f.n < len(f.first) {
			f.first[f.n] = v
		}
		f.n++
	}
	w.scratch.fans = fans[:0]
	loud := false
	for i := range fans {
		f := &fans[i]
		n := f.hosts.count()
		if w.fast(s, f, n) {
			loud = true
			continue
		}
		w.slow(s, f)
	}
	wide := float64(all.count())
	if !loud && wide >= cacheSaturated && max(family[0], family[1]) >= cacheFlows && s.seconds <= minute &&
		(unanswered >= cacheFlows/2 || !w.learning(s.at) && wide > 4*w.d.Wide) {
		if w.raise(s, Finding{
			Detector: Scan, Type: alert.NetworkScan, Indicator: "flow cache", Sureness: 80,
			Expected: fmt.Sprintf("at most %.0f hosts in %d s", max(1, w.d.Wide), s.seconds),
			Seen:     fmt.Sprintf("%.0f hosts in %d s, as many as the cache of flows holds", wide, s.seconds),
		}, &flows[0]) {
			w.strike(s.at)
		}
	} else if !loud && s.seconds <= minute {
		w.d.Wide = max(w.d.Wide*0.9999, wide)
	}
}

// fast finds many hosts in one window.
func (w *watch) fast(s span, f *fan, n int) bool {
	proto, port := f.service>>16, uint16(f.service)
	least, name, sure := scanHosts, Scan, 85
	switch {
	case proto == icmp:
		least, name = sweepHosts, Sweep
	case proto == tcp && doors[port]:
		least, sure = scanDoors, 95
	}
	if s.seconds > minute || !f.first[0].counted {
		least = max(least, scanHostsLong)
	}
	if n < least {
		return false
	}
	what := "asked about %d hosts for %s in %d s, of which hardly one answered"
	if name == Sweep {
		what = "pinged about %[1]d hosts in %[3]d s"
	}
	if w.raise(s, Finding{
		Detector: name, Type: alert.NetworkScan, Indicator: serviceName(f.service), Sureness: sure,
		Expected: fmt.Sprintf("fewer than %d hosts in such a time", least), Seen: sprintf(what, n, serviceName(f.service), s.seconds),
	}, f.flows()...) {
		w.strike(s.at)
	}
	return true
}

func (f *fan) flows() []*flow { return f.first[:min(f.n, len(f.first))] }

// slow finds many hosts in one to two hours.
func (w *watch) slow(s span, f *fan) {
	if s.late || !f.first[0].counted {
		return
	}
	d := w.d
	now := s.at / hour
	at := -1
	for i := range d.Sweeps {
		if d.Sweeps[i].Service == f.service {
			at = i
		}
	}
	switch {
	case at >= 0:
	case len(d.Sweeps) < maxSweeps:
		d.Sweeps = append(d.Sweeps, sweep{Service: f.service, Hour: now, Since: s.at})
		at = len(d.Sweeps) - 1
	default:
		at = 0
		for i := range d.Sweeps {
			if d.Sweeps[i].Last < d.Sweeps[at].Last {
				at = i
			}
		}
		d.Sweeps[at] = sweep{Service: f.service, Hour: now, Since: s.at}
	}
	w.count(s, f, &d.Sweeps[at])
}

func (w *watch) count(s span, f *fan, c *sweep) {
	switch now := s.at / hour; now {
	case c.Hour:
	case c.Hour + 1:
		c.Past, c.Now, c.Hour, c.Since = c.Now, distinct{}, now, c.Hour*hour
	default:
		c.Past, c.Now, c.Hour, c.Since = distinct{}, distinct{}, now, s.at
	}
	c.Last = s.at
	c.Now = c.Now.or(&f.hosts)
	union := c.Now.or(&c.Past)
	n := union.count()
	least, name := slowHosts, SlowScan
	switch proto, port := f.service>>16, uint16(f.service); {
	case proto == icmp:
		name = Sweep
	case proto == tcp && doors[port]:
		least = slowDoors
	}
	if n < least {
		return
	}
	if w.raise(s, Finding{
		Detector: name, Type: alert.NetworkScan, Indicator: serviceName(f.service) + " slowly", Since: from(c.Since), Sureness: 80,
		Expected: fmt.Sprintf("fewer than %d hosts in one to two hours", least),
		Seen:     fmt.Sprintf("asked about %d hosts for %s, one after the other", n, serviceName(f.service)),
	}, f.flows()...) {
		w.strike(s.at)
	}
}

// sprintf is fmt.Sprintf for formats that vary.
func sprintf(format string, args ...any) string { return fmt.Sprintf(format, args...) }
