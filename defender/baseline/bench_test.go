package baseline

import (
	"context"
	"fmt"
	"net/netip"
	"testing"
	"time"

	"github.com/vauban-iot/vauban/iot"
	"github.com/vauban-iot/vauban/wire/secmsg"
)

func benchReport() secmsg.Report {
	r := secmsg.Report{Agent: "a", Events: []secmsg.Event{{Name: "NetworkActivity"}}}
	for i := range 10 {
		r.Events[0].Flows = append(r.Events[0].Flows, secmsg.Flow{
			Local: netip.MustParseAddrPort("10.0.0.9:49152"), Remote: netip.AddrPortFrom(netip.AddrFrom4([4]byte{192, 0, 2, byte(i)}), 443), Protocol: "TCP", BytesIn: 10, BytesOut: 20,
		})
	}
	return r
}

// BenchmarkObserve is the cost of a security message with ten flows, of 1000 devices, without and with its decoding.
func BenchmarkObserve(b *testing.B) {
	r := benchReport()
	body := secmsg.AppendFlatBuffers(nil, r)
	devices := make([]string, 1000)
	for i := range devices {
		devices[i] = fmt.Sprint("device-", i)
	}
	learning := func() *team { return &team{doc: Baseline{Group: "g", State: Learning}, memory: newMemory()} }
	judging := func() *team {
		t := learning()
		for i := range 10 {
			t.doc.Entries = append(t.doc.Entries, Entry{Kind: Peer, Direction: Out, Protocol: "TCP", Peer: fmt.Sprintf("192.0.2.%d", i), Ports: "443", Decision: Accepted})
		}
		t.doc.State, t.judge = Enforced, compile(&t.doc, nil)
		return t
	}
	at := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC).Unix()
	for name, t := range map[string]*team{"learning": learning(), "enforced": judging()} {
		b.Run(name, func(b *testing.B) {
			b.ReportAllocs()
			for i := 0; b.Loop(); i++ {
				t.observe(devices[i%len(devices)], &r, at)
			}
		})
		b.Run(name+" and decoding", func(b *testing.B) {
			b.ReportAllocs()
			for i := 0; b.Loop(); i++ {
				report, err := secmsg.Decode("2.3-1-0-0", body)
				if err != nil {
					b.Fatal(err)
				}
				t.observe(devices[i%len(devices)], &report, at)
			}
		})
	}
	t := learning()
	s := &Service{cfg: Config{Now: time.Now}, teams: map[string]*team{"g": t}, members: map[string]cached{"device-1": {group: "other"}}}
	b.Run("message of a group without a baseline", func(b *testing.B) {
		b.ReportAllocs()
		m := iot.Message{From: iot.ID{Device: "device-1"}, Sequence: 1}
		for b.Loop() {
			if err := s.message(context.Background(), &m); err != nil {
				b.Fatal(err)
			}
		}
	})
}
