package behaviour

import (
	"fmt"
	"net/netip"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/vauban-iot/vauban/defender/alert"
	"github.com/vauban-iot/vauban/iot"
)

// Thresholds at the door.
const (
	// stuffedIDs is on how many identities one address fails within ten minutes. A house whose devices all lost their clock
	// shows expired tokens, which do not count: their keys are right.
	stuffedIDs = 10
	// stuffedAddrs and stuffedTries: from how many places, and how often, somebody fails to be one identity within ten minutes.
	stuffedAddrs, stuffedTries = 4, 10
	// turns is how often an identity changed between the same two places, each time within turnTime. A house that gets a new address
	// changes once, one with two lines seldom back and forth twice.
	turns    = 4
	turnTime = 10 * minute
)

// Bounds of the door. What is beyond is counted and not judged.
const (
	maxPlaces = 200_000 // identities
	maxKnocks = 8192    // addresses, and identities, that failed within ten minutes
)

// Door hears who connects, and who could not prove itself, at this server. It is safe for concurrent use and never waits.
type Door struct {
	off  atomic.Uint32
	lost atomic.Uint64

	mu     sync.Mutex
	places map[iot.ID]*place
	addrs  map[netip.Addr]*knocks
	ids    map[string]*knocks
}

type place struct {
	here, before netip.Addr
	at, since    uint32
	turns        int
}

type knocks struct {
	slot  uint32
	n     int
	who   distinct
	first [3]string // of those it was
	told  bool
}

// NewDoor returns a door that heard nobody.
func NewDoor() *Door {
	return &Door{places: make(map[iot.ID]*place), addrs: make(map[netip.Addr]*knocks), ids: make(map[string]*knocks)}
}

// Disable switches these detectors off, and all others on.
func (d *Door) Disable(names []string) { d.off.Store(mask(names)) }

// Lost returns how many events were not judged for want of room.
func (d *Door) Lost() uint64 { return d.lost.Load() }

// Knock is a finding at the door. ID is the zero one when it is about an address.
type Knock struct {
	Finding
	ID     iot.ID
	Remote netip.Addr
}

// address reads an address with or without a port.
func address(remote string) (netip.Addr, bool) {
	ap, err := netip.ParseAddrPort(remote)
	if err == nil {
		return ap.Addr().Unmap().WithZone(""), true
	}
	a, err := netip.ParseAddr(remote)
	return a.Unmap().WithZone(""), err == nil
}

// Connected hears that an identity opened a session from an address, with or without a port.
func (d *Door) Connected(id iot.ID, remote string, t time.Time) (k Knock, found bool) {
	a, ok := address(remote)
	if !ok || d.off.Load()&bit[TwoPlaces] != 0 {
		return k, false
	}
	at := clock(t)
	d.mu.Lock()
	defer d.mu.Unlock()
	p := d.places[id]
	if p == nil {
		if len(d.places) >= maxPlaces {
			d.lost.Add(1)
			for other, o := range d.places { // anybody who does not move
				if o.turns == 0 {
					delete(d.places, other)
				}
				break
			}
			if len(d.places) >= maxPlaces {
				return k, false
			}
		}
		d.places[id] = &place{here: a, at: at}
		return k, false
	}
	soon := at < p.at+turnTime && p.at < at+turnTime
	switch here := neighbourhood(a); {
	case here == neighbourhood(p.here):
		p.here, p.at = a, at
		return k, false
	case !soon, p.before.IsValid() && here != neighbourhood(p.before): // it moved on, or is somewhere else again
		*p = place{here: a, before: p.here, at: at, since: p.at, turns: 1}
		return k, false
	}
	if p.turns == 0 {
		p.since = p.at
	}
	p.here, p.before, p.at = a, p.here, at
	p.turns++
	if p.turns < turns {
		return k, false
	}
	k = Knock{ID: id, Remote: a, Finding: Finding{
		Detector: TwoPlaces, Type: alert.TwoPlaces, At: t.UTC(), Since: from(p.since), Sureness: 80,
		Expected: "one place, or a move from one to another",
		Seen:     fmt.Sprintf("%d changes between %s and %s", p.turns, p.before, a),
	}}
	p.turns = 0
	return k, true
}

// Refused hears that somebody at an address could not prove to be an identity, which need not exist.
func (d *Door) Refused(id, remote string, t time.Time) (found []Knock) {
	a, ok := address(remote)
	if !ok || d.off.Load()&bit[Stuffing] != 0 {
		return nil
	}
	at := clock(t)
	d.mu.Lock()
	defer d.mu.Unlock()
	if k := slot(d, d.addrs, a, at); k != nil && k.add(hashText(9, id), id) >= stuffedIDs && !k.told {
		k.told = true
		found = append(found, Knock{Remote: a, Finding: Finding{
			Detector: Stuffing, Type: alert.CredentialStuffing, Indicator: a.String(), At: t.UTC(), Since: from(k.slot), Sureness: 75,
			Expected: fmt.Sprintf("failures of fewer than %d identities in ten minutes from one address", stuffedIDs),
			Seen:     fmt.Sprintf("failures of about %d identities, such as %s", k.who.count(), k.some()),
		}})
	}
	if k := slot(d, d.ids, id, at); k != nil && k.add(neighbourhood(a), a.String()) >= stuffedAddrs && k.n >= stuffedTries && !k.told {
		k.told = true
		found = append(found, Knock{ID: iot.ID{Device: id}, Remote: a, Finding: Finding{
			Detector: Stuffing, Type: alert.CredentialStuffing, Indicator: "from many addresses", At: t.UTC(), Since: from(k.slot), Sureness: 75,
			Expected: fmt.Sprintf("fewer than %d failures in ten minutes from fewer than %d places", stuffedTries, stuffedAddrs),
			Seen:     fmt.Sprintf("%d failures from about %d places, such as %s", k.n, k.who.count(), k.some()),
		}})
	}
	return found
}

func (k *knocks) add(hash uint64, name string) int {
	before := k.who
	k.who.add(hash)
	k.n++
	if before != k.who {
		for i := range k.first {
			if k.first[i] == "" {
				k.first[i] = name
				break
			}
		}
	}
	return k.who.count()
}

func (k *knocks) some() string {
	n := 0
	for n < len(k.first) && k.first[n] != "" {
		n++
	}
	return strings.Join(k.first[:n], ", ")
}

// slot returns the knocks of somebody within ten minutes; nil: there are too many.
func slot[K comparable](d *Door, m map[K]*knocks, key K, at uint32) *knocks {
	k := m[key]
	if k != nil && at < k.slot+10*minute && k.slot <= at+stepBack {
		return k
	}
	if k == nil && len(m) >= maxKnocks {
		for other, o := range m {
			if at >= o.slot+10*minute || o.slot > at+stepBack {
				delete(m, other)
			}
		}
		if len(m) >= maxKnocks {
			d.lost.Add(1)
			return nil
		}
	}
	k = &knocks{slot: at}
	m[key] = k
	return k
}
