package network

import (
	"net/netip"
	"sync"

	"github.com/vauban-iot/vauban/wire/secmsg"
)

// FlowLimit is how many flows of each family are kept between two collections: the cache of
// the security module (defender §3.1). Packets of further flows are counted only.
const FlowLimit = 64

// Protocol is one that the security module knows (defender §1.2).
type Protocol uint8

const (
	TCP Protocol = iota
	UDP
	ICMP // and ICMPv6
)

func (p Protocol) String() string { return [...]string{"TCP", "UDP", "ICMP"}[p] }

// Flow is the key of a flow, seen from the board. ICMP has no ports.
type Flow struct {
	Local, Remote netip.AddrPort
	Protocol      Protocol
}

// Activity is what a board sent and received between two collections. Both directions of a
// flow are one entry, in the order in which they were first seen. Bytes are of IP payloads:
// transport header and data.
type Activity struct {
	Flows []secmsg.Flow
	Full  uint64 // packets of flows that the table had no room for
	Torn  uint64 // packets that could not be given to a flow: broken, or fragments without their first
}

// Flows counts the packets of a board by flow. The zero value is ready.
type Flows struct {
	mu      sync.Mutex
	entries []entry
	count   [2]int // of IPv4, IPv6
	full    uint64
	torn    uint64
}

type entry struct {
	Flow
	in, out uint64
}

// Add counts a packet's IP payload of n bytes.
func (t *Flows) Add(f Flow, out bool, n int) {
	if n <= 0 {
		return
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	e := t.entry(f)
	switch {
	case e == nil:
		t.full++
	case out:
		e.out += uint64(n)
	default:
		e.in += uint64(n)
	}
}

// entry finds or makes the entry of f; nil: the table is full. It looks through at most
// 128 entries and keeps no index: most boards have five flows, and there are many boards.
func (t *Flows) entry(f Flow) *entry {
	for i := range t.entries {
		if t.entries[i].Flow == f {
			return &t.entries[i]
		}
	}
	family := 0
	if f.Remote.Addr().Is6() {
		family = 1
	}
	if t.count[family] == FlowLimit {
		return nil
	}
	t.count[family]++
	t.entries = append(t.entries, entry{Flow: f})
	return &t.entries[len(t.entries)-1]
}

func (t *Flows) tear() {
	t.mu.Lock()
	t.torn++
	t.mu.Unlock()
}

// Collect gives what was counted since the last call, and forgets it.
func (t *Flows) Collect() Activity {
	t.mu.Lock()
	defer t.mu.Unlock()
	a := Activity{Full: t.full, Torn: t.torn}
	if len(t.entries) > 0 {
		a.Flows = make([]secmsg.Flow, len(t.entries))
	}
	for i, e := range t.entries {
		a.Flows[i] = secmsg.Flow{Local: e.Local, Remote: e.Remote, Protocol: e.Protocol.String(), BytesIn: e.in, BytesOut: e.out}
	}
	t.entries, t.count, t.full, t.torn = t.entries[:0], [2]int{}, 0, 0
	return a
}
