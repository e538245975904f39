package traffic

import (
	"math/rand/v2"
	"net/netip"
	"slices"
)

// Attack is what an infected device does.
type Attack string

// The attacks.
const (
	Mirai        Attack = "mirai"        // telnet scan, a hundred to a thousand a second; a loader; a master on an odd port
	Gafgyt       Attack = "gafgyt"       // UDP floods on command
	Torii        Attack = "torii"        // a master over TLS, seldom
	DNSTunnel    Attack = "dns-tunnel"   // data in names
	Exfiltration Attack = "exfiltration" // much, at once
	Drip         Attack = "drip"         // little by little
	SlowScan     Attack = "slow-scan"    // a host a minute
	Beacon       Attack = "beacon"       // a master with a jitter of 0 to 50 %
	PingSweep    Attack = "icmp-sweep"   //
	SYNFlood     Attack = "syn-flood"    //
	Forward      Attack = "port-forward" // somebody outside reaches into the house through it
	Payload      Attack = "payload"      // a loader, and no more
	Guessing     Attack = "guessing"     // of passwords of the device itself
	Stuffing     Attack = "stuffing"     // of credentials, at the hub
	StolenKey    Attack = "stolen-key"   // of the device, used elsewhere meanwhile
	OddProtocol  Attack = "odd-protocol" // it begins to speak to a chat
	OldCacheScan Attack = "scan-4-flows" // Mirai's scan as firmware before 6.1.5 sees it
	IPv6Beacon   Attack = "beacon-ipv6"  //
	TorPeers     Attack = "p2p-c2"       // masters that change from hour to hour: nobody claims to find it
)

// Attacks are all of them.
var Attacks = []Attack{Mirai, Gafgyt, Torii, DNSTunnel, Exfiltration, Drip, SlowScan, Beacon, PingSweep, SYNFlood, Forward, Payload, Guessing, Stuffing, StolenKey, OddProtocol, OldCacheScan, IPv6Beacon, TorPeers}

// Known reports whether there is such an attack.
func Known(a Attack) bool { return slices.Contains(Attacks, a) }

// burst fills windows with what is too much to be planned.
type burst struct {
	from, to int // windows of the day
	fill     func(s *stream, w *Window, n int)
	quiet    func(n int) bool // nil: never
}

func (b *burst) on(n int) bool {
	return b != nil && b.from <= n && n < b.to && (b.quiet == nil || !b.quiet(n))
}

// attack adds what the device does from its onset on.
func (p *plan) attack(f *Fleet, s *stream, day int) {
	if p.onset < 0 || p.onset >= (day+1)*dayLong {
		return
	}
	r := f.rand("attack", p.i*MaxDays+day)
	begin := float64(max(0, p.onset-day*dayLong))
	add := func(t talk) {
		t.label = p.Attack
		s.talks = append(s.talks, t)
	}
	at := func(a netip.Addr, port uint16) netip.AddrPort { return netip.AddrPortFrom(a, port) }
	first := p.onset/dayLong == day
	master := func(port uint16, period, jitter, in, out float64) {
		every(r, begin, dayLong, period, jitter, func(t float64) {
			add(talk{at: t, lasts: 0.5, proto: "TCP", local: ephemeralPort(r), remote: at(p.evil[0], port), in: in * (0.9 + 0.2*r.Float64()), out: out * (0.9 + 0.2*r.Float64())})
		})
	}
	load := func(t float64) {
		add(talk{at: t, lasts: 4, proto: "TCP", local: ephemeralPort(r), remote: at(p.evil[1], [...]uint16{80, 8080, 81}[r.IntN(3)]), in: 40_000 + 200_000*r.Float64(), out: 1200})
	}
	from := int(begin) / seconds
	switch p.Attack {
	case Mirai:
		if first {
			load(begin)
		}
		master([...]uint16{23, 48101, 666, 1791}[p.i%4], 60, 0, 82, 86)
		rate := 100 * (1 + 9*p.draw) // a second
		s.burst = &burst{from: from, to: windows, fill: func(s *stream, w *Window, n int) { p.scan(s, w, int(rate*seconds), 40) }}
	case OldCacheScan:
		s.burst = &burst{from: from, to: windows, fill: func(s *stream, w *Window, n int) { p.scan(s, w, 4, 40) }}
	case Gafgyt:
		master(23, 60, 0, 80, 90)
		// A minute or two on command, some times a day.
		s.burst = &burst{from: from, to: windows, quiet: func(n int) bool { return n%900 >= 12 }, fill: func(s *stream, w *Window, n int) {
			target := at(netip.AddrFrom4([4]byte{203, 0, 113, byte(n / 900)}), 0)
			rate := 200_000 * (1 + 20*p.draw) // bytes a second
			for range 8 {
				w.add(talk{proto: "UDP", remote: netip.AddrPortFrom(target.Addr(), uint16(1024+s.rng.IntN(60000))), out: rate * seconds / 8, label: Gafgyt}, netip.AddrPortFrom(s.local, ephemeralPort(s.rng)), 1)
			}
		}}
	case SYNFlood:
		s.burst = &burst{from: from, to: windows, quiet: func(n int) bool { return n%1800 >= 18 }, fill: func(s *stream, w *Window, n int) {
			target := at(netip.AddrFrom4([4]byte{198, 51, 100, byte(n / 1800)}), 80)
			per := 40 * 1000 * (1 + 4*p.draw) * seconds / Cache
			for i := range Cache {
				w.add(talk{proto: "TCP", remote: target, out: per, label: SYNFlood}, netip.AddrPortFrom(s.local, uint16(10000+i)), 1)
			}
		}}
	case Torii:
		master(443, 400+800*p.draw, 0.2, 900, 700)
	case Beacon:
		master([...]uint16{443, 8443, 4782, 1337}[p.i%4], 30+570*p.draw, 0.5*p.twin, 300, 250)
	case IPv6Beacon:
		to := netip.AddrPortFrom(netip.AddrFrom16([16]byte{0x2a, 0x01, 4, 0xf8, byte(p.i), 1, 15: byte(p.i)}), 8443)
		every(r, begin, dayLong, 120, 0.3*p.twin, func(t float64) {
			s.talks = append(s.talks, talk{at: t, proto: "TCP", local: ephemeralPort(r), remote: to, in: 300, out: 250, label: p.Attack})
		})
	case TorPeers:
		every(r, begin, dayLong, 300, 0.4, func(t float64) {
			peer := f.rand("peer", p.i*10000+day*24+int(t)/3600)
			add(talk{at: t, lasts: 1, proto: "TCP", local: ephemeralPort(r), remote: at(public(peer), 443), in: 2000, out: 900})
		})
	case DNSTunnel:
		rate := 60 + 400*p.draw // bytes of questions a second
		every(r, begin, min(begin+4*3600, dayLong), 2, 0.5, func(t float64) {
			add(talk{at: t, proto: "UDP", local: ephemeralPort(r), remote: at(p.names, 53), in: 3 * rate, out: 2 * rate})
		})
	case Exfiltration:
		if first {
			size := 20e6 + 200e6*p.draw
			add(talk{at: begin, lasts: 600 + 2400*p.twin, proto: "TCP", local: ephemeralPort(r), remote: at(p.evil[0], 443), in: size / 80, out: size})
		}
	case Drip:
		every(r, begin, dayLong, 300, 0.9, func(t float64) {
			add(talk{at: t, lasts: 2, proto: "TCP", local: ephemeralPort(r), remote: at(p.evil[0], 443), in: 900, out: 6000 + 8000*r.Float64()})
		})
	case SlowScan:
		every(r, begin, dayLong, 60, 0.3, func(t float64) {
			add(talk{at: t, proto: "TCP", local: ephemeralPort(r), remote: at(public(r), p.service), out: 80, in: float64(20 * r.IntN(2))})
		})
	case PingSweep:
		if first {
			for i := range 254 {
				to := netip.AddrFrom4([4]byte{192, 168, p.house[0], byte(i + 1)})
				add(talk{at: begin + float64(i)*(0.05+p.draw), proto: "ICMP", remote: at(to, 0), out: 64, in: float64(64 * (r.IntN(10) / 9))})
			}
		}
	case Forward:
		intruder := at(p.evil[0], ephemeralPort(r))
		inside := at(netip.AddrFrom4([4]byte{192, 168, p.house[0], 20}), 445)
		for t := begin; t < min(begin+1800, dayLong-10); t += seconds {
			asked, said := 4000+20000*r.Float64(), 9000+90000*r.Float64()
			add(talk{at: t, proto: "TCP", local: 4455, remote: intruder, in: asked, out: said, inbound: true, goes: true})
			add(talk{at: t, proto: "TCP", local: 51000, remote: inside, goes: true, in: said * (0.98 + 0.02*r.Float64()), out: asked * (0.98 + 0.02*r.Float64())})
		}
	case Payload:
		if first {
			load(begin)
		}
	case OddProtocol:
		every(r, begin, dayLong, 2000, 0.9, func(t float64) {
			add(talk{at: t, lasts: 2, proto: "TCP", local: ephemeralPort(r), remote: at(p.evil[0], 6667), in: 900, out: 400})
		})
	case Guessing:
		if first {
			for i := range 40 {
				n := min(int(begin)/seconds+i, windows-1)
				s.logins[n] = append(s.logins[n], Login{"root", p.evil[0], i < 39})
			}
		}
	}
}

// scan asks random hosts for telnet. A board's cache holds the first.
func (p *plan) scan(s *stream, w *Window, n, size int) {
	from := netip.AddrPortFrom(s.local, p.scanPort())
	for range min(n, Cache+Cache/4) {
		port := uint16(23)
		if s.rng.IntN(10) == 0 {
			port = 2323
		}
		t := talk{proto: "TCP", remote: netip.AddrPortFrom(public(s.rng), port), out: float64(size), label: p.Attack}
		if s.rng.IntN(100) == 0 {
			t.in = 40
		}
		w.add(t, from, 1)
	}
}

// scanPort is the one port from which a scanner sends all.
func (p *plan) scanPort() uint16 {
	return uint16(1024 + rand.New(rand.NewPCG(uint64(p.i), 7)).IntN(64000))
}
