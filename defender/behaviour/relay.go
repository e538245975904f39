package behaviour

import (
	"cmp"
	"fmt"
	"math"
	"slices"

	"github.com/vauban-iot/vauban/defender/alert"
)

// Thresholds of a relay: what came in from one host went out to another in the same window, within an eighth, three times in ten minutes.
const (
	relayBytes = 8 << 10
	relayTimes = 3
	relayTime  = 10 * minute
	// maxLarge is how many flows of a window are compared with each other, the largest: an honest window has 128.
	maxLarge = 256
)

// relays looks for flows of which one carries on what the other brought. One of them is with a host on the Internet that came to the
// device by itself or is unknown: a gateway that passes on what devices in its house say is none.
func (w *watch) relays(s span, flows []flow) {
	if s.late || s.seconds > minute {
		return
	}
	large := w.scratch.large[:0]
	for i := range flows {
		if flows[i].in+flows[i].ex >= relayBytes {
			large = append(large, &flows[i])
		}
	}
	if len(large) > maxLarge {
		slices.SortStableFunc(large, func(a, b *flow) int { return cmp.Compare(b.in+b.ex, a.in+a.ex) })
	}
	defer func() { clear(large); w.scratch.large = large[:0] }()
	large = large[:min(len(large), maxLarge)]
	for _, a := range large {
		if !a.public || a.proto != tcp && a.proto != udp || a.out && w.familiar(a) {
			continue
		}
		for _, b := range large {
			if a == b || !b.out || b.host == a.host || !alike(a.in, b.ex) || !alike(a.ex, b.in) {
				continue
			}
			w.pair(s, a, b)
		}
	}
}

// familiar reports whether the remote of a flow is no news.
func (w *watch) familiar(v *flow) bool { return w.known(neighbourhood(v.remote)) }

// alike reports whether two amounts differ by no more than an eighth and the headers of a few packets.
func alike(x, y float64) bool { return math.Abs(x-y) <= max(x, y)/8+256 }

func (w *watch) pair(s span, a, b *flow) {
	d := w.d
	key := mix(a.host ^ mix(b.host))
	at := 0
	for i := range d.relays {
		if d.relays[i].key == key {
			at = i
			break
		}
		if d.relays[i].last < d.relays[at].last {
			at = i
		}
	}
	if len(d.relays) == 0 || d.relays[at].key != key {
		if len(d.relays) < maxRelays {
			d.relays = append(d.relays, pair{})
			at = len(d.relays) - 1
		}
		d.relays[at] = pair{key: key, first: s.at}
	}
	p := &d.relays[at]
	if s.at > p.last+relayTime && p.n > 0 {
		*p = pair{key: key, first: s.at}
	}
	if p.last == s.at && p.n > 0 {
		return
	}
	p.n++
	p.last = s.at
	if p.n < relayTimes {
		return
	}
	if w.raise(s, Finding{
		Detector: Relay, Type: alert.PortForwarding, Indicator: a.remote.String() + " to " + endpoint(b), Since: from(p.first), Sureness: 80,
		Expected: "no traffic that the device passes on between others",
		Seen:     fmt.Sprintf("what %s sends goes on to %s, and back, in %d windows, of which the last had %s", a.remote, endpoint(b), p.n, amount(a.in+a.ex)),
	}, a, b) {
		w.strike(s.at)
	}
}
