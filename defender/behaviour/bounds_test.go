package behaviour

import (
	"net/netip"
	"testing"
	"time"

	"github.com/vauban-iot/vauban/iot"
	"github.com/vauban-iot/vauban/wire/secmsg"
)

// aWindowOf is a window of n flows to as many hosts, of the size at which each alone would be a flood.
func aWindowOf(n int) secmsg.Event {
	e := secmsg.Event{Name: "NetworkActivity", Interval: 10 * time.Second}
	for i := range n {
		a := netip.AddrFrom4([4]byte{8, byte(i >> 16), byte(i >> 8), byte(i)})
		e.Flows = append(e.Flows, secmsg.Flow{
			Local: netip.MustParseAddrPort("10.0.0.1:40000"), Remote: netip.AddrPortFrom(a, 443), Protocol: "TCP", BytesIn: 1, BytesOut: 45 << 20, Item: i,
		})
	}
	return e
}

// A message may name 20,000 hosts, and must not make as many alerts.
func TestEngine_FindingsOfOneMessage(t *testing.T) {
	t.Parallel()
	e := NewEngine(Config{})
	for i, n := range []int{10, 5000} {
		r := secmsg.Report{Events: []secmsg.Event{aWindowOf(n)}}
		found := e.Observe(Message{From: iot.ID{Device: "d"}, Sequence: uint64(i + 1), Enqueued: time.Unix(1_800_000_000+int64(i)*day, 0), Report: &r})
		if len(found) < min(n, maxFound) || len(found) > maxFound {
			t.Errorf("%d hosts flooded: %d findings, want %d", n, len(found), min(n, maxFound))
		}
	}
	if got := e.Stats().Untold; got < 5000-maxFound {
		t.Errorf("%d findings are counted as left out", got)
	}
}

// Comparing all flows of a window with all others takes seconds when there are 20,000; the largest are enough. A relay among small ones is found.
func TestEngine_RelayAmongManyFlows(t *testing.T) {
	t.Parallel()
	e := NewEngine(Config{})
	e.Disable([]string{Flood})
	in := secmsg.Flow{Local: netip.MustParseAddrPort("10.0.0.1:8080"), Remote: netip.MustParseAddrPort("203.0.113.7:50000"), Protocol: "TCP", BytesIn: 1 << 30, BytesOut: 1 << 28}
	out := secmsg.Flow{Local: netip.MustParseAddrPort("10.0.0.1:50001"), Remote: netip.MustParseAddrPort("198.51.100.7:443"), Protocol: "TCP", BytesIn: 1 << 28, BytesOut: 1 << 30}
	relay := false
	for i := range 4 {
		w := aWindowOf(2000)
		for j := range w.Flows {
			w.Flows[j].BytesOut = uint64(10_000 + 50_000*j) // no two are alike
		}
		w.Flows = append(w.Flows, in, out)
		r := secmsg.Report{Events: []secmsg.Event{w}}
		for _, f := range e.Observe(Message{From: iot.ID{Device: "d"}, Sequence: uint64(i + 1), Enqueued: time.Unix(1_800_000_000+int64(i)*60, 0), Report: &r}) {
			relay = relay || f.Detector == Relay
		}
		if n := cap(e.scratch.large); n > 1<<14 {
			t.Errorf("%d flows are held for the next window", n)
		}
	}
	if !relay {
		t.Error("the relay is not found")
	}
}
