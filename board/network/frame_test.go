package network

import (
	"encoding/binary"
	"fmt"
	"net/netip"
	"testing"

	"github.com/vauban-iot/vauban/wire/secmsg"
)

func frame4(proto byte, id, fragment uint16, payload []byte) []byte {
	b := append([]byte{2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 2, 8, 0, 0x45, 0}, binary.BigEndian.AppendUint16(nil, uint16(20+len(payload)))...)
	b = binary.BigEndian.AppendUint16(b, id)
	b = binary.BigEndian.AppendUint16(b, fragment)
	b = append(b, 64, proto, 0, 0, 10, 0, 0, 2, 10, 0, 0, 3)
	return append(b, payload...)
}

func frame6(next byte, payload []byte) []byte {
	b := append([]byte{2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 2, 0x86, 0xDD, 0x60, 0, 0, 0}, binary.BigEndian.AppendUint16(nil, uint16(len(payload)))...)
	b = append(b, next, 64)
	from, to := netip.MustParseAddr("fd00::2").As16(), netip.MustParseAddr("fd00::3").As16()
	return append(append(append(b, from[:]...), to[:]...), payload...)
}

func transport(n int, source, destination uint16) []byte {
	b := make([]byte, n)
	binary.BigEndian.PutUint16(b, source)
	binary.BigEndian.PutUint16(b[2:], destination)
	return b
}

func TestParser(t *testing.T) {
	t.Parallel()
	tcp, udp := transport(25, 1000, 8883), transport(12, 1001, 53)
	cut := frame4(6, 1, 0, tcp)
	for _, tt := range []struct {
		name    string
		frame   []byte
		verdict Verdict
		want    string
	}{
		{"TCP", frame4(6, 1, 0, tcp), Counted, "10.0.0.2:1000 10.0.0.3:8883 TCP 25"},
		{"UDP, padded to the least frame", append(frame4(17, 1, 0, udp), make([]byte, 20)...), Counted, "10.0.0.2:1001 10.0.0.3:53 UDP 12"},
		{"ICMP has no ports", frame4(1, 1, 0, make([]byte, 40)), Counted, "10.0.0.2:0 10.0.0.3:0 ICMP 40"},
		{"TCP over IPv6", frame6(6, tcp), Counted, "[fd00::2]:1000 [fd00::3]:8883 TCP 25"},
		{"UDP after a hop-by-hop header", frame6(0, append([]byte{17, 0, 0, 0, 0, 0, 0, 0}, udp...)), Counted, "[fd00::2]:1001 [fd00::3]:53 UDP 12"},
		{"ARP", append([]byte{2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 2, 8, 6}, make([]byte, 28)...), Other, ""},
		{"IGMP", frame4(2, 1, 0, make([]byte, 8)), Other, ""},
		{"cut", cut[:len(cut)-1], Torn, ""},
		{"half a header", cut[:20], Torn, ""},
		{"TCP without its header", frame4(6, 1, 0, tcp[:19]), Torn, ""},
		{"a later fragment alone", frame4(17, 1, 100, udp), Torn, ""},
		{"an extension header beyond the packet", frame6(0, []byte{17, 255, 0, 0, 0, 0, 0, 0}), Torn, ""},
	} {
		var p Parser
		k, v := p.Parse(tt.frame)
		got := ""
		if v == Counted {
			got = fmt.Sprintf("%s %s %s %d", k.Source, k.Destination, k.Protocol, k.Payload)
		}
		if v != tt.verdict || got != tt.want {
			t.Errorf("%s: verdict %d, %q; want %d, %q", tt.name, v, got, tt.verdict, tt.want)
		}
	}
}

func TestParser_FragmentsGoToTheirFlow(t *testing.T) {
	t.Parallel()
	var o Observer
	o.Sent(frame4(17, 7, 0x2000, transport(1480, 1001, 53)))
	o.Sent(frame4(17, 7, 185, make([]byte, 100)))
	o.Sent(frame4(17, 8, 185, make([]byte, 100)))
	a := o.Flows.Collect()
	if len(a.Flows) != 1 || a.Flows[0].BytesOut != 1580 || a.Torn != 1 {
		t.Errorf("%+v; want one flow of 1580 bytes, and the fragment of another packet torn", a)
	}
}

func TestObserver(t *testing.T) {
	t.Parallel()
	var o Observer
	o.Sent(frame4(6, 1, 0, transport(25, 1000, 8883)))
	answer := frame4(6, 1, 0, transport(20, 8883, 1000))
	copy(answer[26:], []byte{10, 0, 0, 3, 10, 0, 0, 2})
	o.Received(answer)
	all := frame4(17, 1, 0, transport(12, 68, 67))
	all[0] = 0xFF
	o.Received(all)
	a := o.Flows.Collect()
	want := secmsg.Flow{Local: netip.MustParseAddrPort("10.0.0.2:1000"), Remote: netip.MustParseAddrPort("10.0.0.3:8883"), Protocol: "TCP", BytesIn: 20, BytesOut: 25}
	if len(a.Flows) != 1 || a.Flows[0] != want {
		t.Fatalf("%+v; want both directions in one entry, and no broadcast that came in: %+v", a.Flows, want)
	}
	b := secmsg.AppendFlatBuffers(nil, secmsg.Report{Agent: "defender-iot-micro-agent", AgentVersion: "3.5.4", Events: []secmsg.Event{{Name: "NetworkActivity", Flows: a.Flows}}})
	r, err := secmsg.Decode("2.3-1-0-0", b)
	if err != nil || len(r.Events) != 1 || len(r.Events[0].Flows) != 1 || r.Events[0].Flows[0].BytesOut != 25 {
		t.Errorf("what the platform reads: %+v, %v", r, err)
	}
	if a := o.Flows.Collect(); len(a.Flows) != 0 {
		t.Errorf("%+v is told twice", a.Flows)
	}
}

func TestFlows_Full(t *testing.T) {
	t.Parallel()
	var f Flows
	for i := range FlowLimit + 6 {
		for _, a := range []netip.Addr{netip.AddrFrom4([4]byte{10, 0, 1, byte(i)}), netip.AddrFrom16([16]byte{0xFD, 15: byte(i)})} {
			f.Add(Flow{Remote: netip.AddrPortFrom(a, 80)}, true, 40)
		}
	}
	if a := f.Collect(); len(a.Flows) != 2*FlowLimit || a.Full != 12 {
		t.Errorf("%d flows and %d packets without room; want %d and 12 (defender §3.1)", len(a.Flows), a.Full, 2*FlowLimit)
	}
}

func FuzzParser(f *testing.F) {
	f.Add(frame4(6, 1, 0, transport(25, 1, 2)), frame4(17, 1, 100, nil))
	f.Add(frame6(0, append([]byte{44, 0, 0, 0, 0, 0, 0, 0, 17, 0, 0, 1, 0, 0, 0, 9}, transport(12, 1, 2)...)), frame6(44, []byte{17, 0, 0, 9, 0, 0, 0, 9}))
	f.Fuzz(func(t *testing.T, a, b []byte) {
		var p Parser
		for _, frame := range [][]byte{a, b, a} {
			k, v := p.Parse(frame)
			switch {
			case v != Counted && k != Packet{}:
				t.Fatalf("verdict %d with %+v", v, k)
			case v == Counted && (k.Payload < 0 || k.Payload > len(frame)-FrameHeader-20 || !k.Source.IsValid() || k.Source.Addr().Is4() != k.Destination.Addr().Is4()):
				t.Fatalf("%+v from a frame of %d bytes", k, len(frame))
			}
		}
	})
}

func FuzzAnswers(f *testing.F) {
	f.Add(make([]byte, 48))
	f.Fuzz(func(t *testing.T, b []byte) {
		query := make([]byte, 48)
		if at, err := parseTime(b, query); err == nil && at.IsZero() {
			t.Fatal("a time that is none")
		}
		if n := len(b); n > 1 {
			parseAnswer(b, binary.BigEndian.Uint16(b), question(t))
		}
	})
}
