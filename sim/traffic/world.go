package traffic

import (
	"encoding/binary"
	"fmt"
	"math"
	"math/rand/v2"
	"net/netip"
	"slices"
	"time"
)

// world is what all devices share: addresses of services, and what happens to whole groups.
type world struct {
	hub     []netip.Addr // of the cloud's front, which rotates
	ntp     []netip.Addr // of the pool
	names   []netip.Addr // public name servers
	updates []netip.Addr // of the network that delivers updates
	vendor  map[string]netip.Addr
	next    map[string]netip.Addr // where new firmware talks to
	storm   map[string]int        // day on which a group reboots again and again
	rollout map[string]int        // day on which a group gets new firmware
	outage  int                   // day on which the Internet is away for half an hour
}

// public is any address of the Internet.
func public(r *rand.Rand) netip.Addr {
	for {
		var b [4]byte
		binary.BigEndian.PutUint32(b[:], r.Uint32())
		a := netip.AddrFrom4(b)
		if b[0] > 0 && b[0] < 224 && a.IsGlobalUnicast() && !a.IsPrivate() && !(b[0] == 100 && b[1]&0xc0 == 64) && b[0] != 127 && b[3] != 0 && b[3] != 255 {
			return a
		}
	}
}

func some(r *rand.Rand, n int) []netip.Addr {
	all := make([]netip.Addr, n)
	for i := range all {
		all[i] = public(r)
	}
	return all
}

func newWorld(r *rand.Rand, days int) world {
	w := world{hub: some(r, 3), ntp: some(r, 40), names: some(r, 2), updates: some(r, 12), vendor: map[string]netip.Addr{}, next: map[string]netip.Addr{}, storm: map[string]int{}, rollout: map[string]int{}}
	for _, g := range groups {
		w.vendor[g.name], w.next[g.name] = public(r), public(r)
		w.storm[g.name], w.rollout[g.name] = 1+r.IntN(max(1, days-1)), 1+r.IntN(max(1, days-1))
	}
	w.outage = r.IntN(days)
	return w
}

// profile is what the devices of a group do all day.
type profile struct {
	name      string
	protocol  uint16  // port on which they talk to the hub
	transport string  //
	keepAlive float64 // seconds
	telemetry float64
	size      float64
	update    uint16 // port from which they fetch updates
	camera    bool
	gateway   bool
	poll      float64 // seconds between questions to the vendor's cloud; 0: none
	pollPort  uint16
	publicDNS bool
	v6        bool
	silent    bool // what it says of its software stays the same with new firmware
}

var groups = []profile{
	{name: "thermostat", protocol: 8883, transport: "TCP", keepAlive: 120, telemetry: 60, size: 420, update: 443},
	{name: "camera", protocol: 8883, transport: "TCP", keepAlive: 60, telemetry: 300, size: 300, update: 443, camera: true, poll: 900, pollPort: 443},
	{name: "meter", protocol: 5684, transport: "UDP", keepAlive: 240, telemetry: 120, size: 180, update: 80, silent: true, poll: 3600, pollPort: 80},
	{name: "gateway", protocol: 8883, transport: "TCP", keepAlive: 240, telemetry: 30, size: 2600, update: 443, gateway: true, silent: true},
	{name: "lock", protocol: 5671, transport: "TCP", keepAlive: 90, telemetry: 600, size: 350, update: 443, publicDNS: true, v6: true},
}

// plan is a device with its habits.
type plan struct {
	*Device
	i       int
	profile profile
	hub     netip.Addr
	ntp     []netip.Addr
	poll    float64 // of the time, in seconds
	names   netip.Addr
	house   [2]byte // of its local network
	place   [2]netip.Addr
	weekday int // of its update
	moves   int // day on which the house has a new address
	offline int // day on which it cannot send for a while
	onset   int // second of the run at which its attack begins; -1: never
	evil    [2]netip.Addr
	draw    float64 // of the attack's strength, 0..1
	twin    float64
	service uint16 // that a scan asks for
	rollout int    // day on which it gets new firmware
}

func newPlan(f *Fleet, i int, attack Attack) *plan {
	r := f.rand("device", i)
	w := &f.world
	g := groups[i%len(groups)]
	p := &plan{
		Device: &Device{ID: fmt.Sprintf("%s-%04d", g.name, i), Group: g.name, Attack: attack}, i: i, profile: g,
		hub: w.hub[r.IntN(len(w.hub))], poll: math.Pow(2, float64(6+r.IntN(5))), house: [2]byte{byte(r.IntN(256)), byte(2 + r.IntN(200))},
		place: [2]netip.Addr{public(r), public(r)}, weekday: r.IntN(7),
		moves: r.IntN(f.cfg.Days * 3), offline: r.IntN(f.cfg.Days * 3), onset: -1, evil: [2]netip.Addr{public(r), public(r)}, draw: r.Float64(), twin: r.Float64(),
	}
	for range 4 {
		p.ntp = append(p.ntp, w.ntp[r.IntN(len(w.ntp))])
	}
	if p.names = netip.AddrFrom4([4]byte{192, 168, p.house[0], 1}); g.publicDNS {
		p.names = w.names[r.IntN(len(w.names))]
	}
	if r.IntN(10) == 0 { // a clock without a battery
		p.Skew = -time.Duration(r.IntN(20*365*24)) * time.Hour
	} else if r.IntN(20) == 0 {
		p.Skew = time.Duration(r.IntN(365*24)) * time.Hour
	}
	if p.rollout = w.rollout[g.name]; i/len(groups)%20 == 7 { // one of those that try it first
		p.rollout = max(1, p.rollout-1)
	}
	if attack != "" {
		// Within the second day, early enough to see what becomes of it.
		p.onset = dayLong + r.IntN(dayLong/2)
		p.Onset = f.start.Add(time.Duration(p.onset) * time.Second)
		p.service = [...]uint16{22, 445, 80, 8080, 554, 502}[r.IntN(6)]
	}
	return p
}

func (p *plan) local(day int) netip.Addr {
	last := p.house[1]
	if day >= p.moves && p.moves > 0 { // another lease
		last ^= 1
	}
	return netip.AddrFrom4([4]byte{192, 168, p.house[0], last})
}

func (p *plan) local6() netip.Addr {
	return netip.AddrFrom16([16]byte{0x20, 0x01, 0x0d, 0xb8, 0, 1, 0, p.house[0], 15: p.house[1]})
}

// every adds times from an own phase on, with a spread around the period.
func every(r *rand.Rand, from, to, period, spread float64, each func(at float64)) {
	for at := from + r.Float64()*period; at < to; at += period * (1 + spread*(2*r.Float64()-1)) {
		each(at)
	}
}

// stream is a day of the device.
func (p *plan) stream(f *Fleet, day int) *stream {
	r := f.rand("day", p.i*MaxDays+day)
	g, w := &p.profile, &f.world
	pool, updates := slices.Clone(p.ntp), w.updates[r.IntN(len(w.updates))]
	s := &stream{p: p, day: day, start: f.start.AddDate(0, 0, day), rng: r, local: p.local(day), logins: map[int][]Login{}, os: map[int]string{}}
	session := ephemeralPort(r)
	add := func(t talk) { s.talks = append(s.talks, t) }
	lookup := func(at float64) {
		add(talk{at: at, proto: "UDP", local: ephemeralPort(r), remote: netip.AddrPortFrom(p.names, 53), in: 80 + 120*r.Float64(), out: 40 + 25*r.Float64()})
	}
	rolled := day > p.rollout
	version := "Azure RTOS 6.2"
	if rolled && !g.silent {
		version = "Azure RTOS 6.3"
	}
	away := [2]float64{-1, -1}
	if day == w.outage {
		begin := 3600 * (8 + 8*f.rand("outage", day).Float64())
		away = [2]float64{begin, begin + 1800}
	}
	out := func(at float64) bool { return at >= away[0] && at < away[1] }

	connect := func(at float64) {
		lookup(at)
		if g.transport == "TCP" {
			add(talk{at: at + 0.2, lasts: 2, proto: "TCP", local: session, remote: netip.AddrPortFrom(p.hub, g.protocol), in: 4200, out: 1300})
		} else {
			add(talk{at: at + 0.2, lasts: 2, proto: "UDP", local: session, remote: netip.AddrPortFrom(p.hub, g.protocol), in: 2600, out: 900})
		}
	}
	connect(30 * r.Float64())
	s.os[0] = version
	// What goes to the hub. The cloud's front sometimes has another address.
	hub := p.hub
	if r.IntN(4) == 0 {
		hub = w.hub[r.IntN(len(w.hub))]
	}
	say := func(at, in, ex float64) {
		if out(at) { // nobody answers
			add(talk{at: at, lasts: 5, proto: g.transport, local: ephemeralPort(r), remote: netip.AddrPortFrom(hub, g.protocol), out: 120})
			return
		}
		add(talk{at: at, lasts: 0.5, proto: g.transport, local: session, remote: netip.AddrPortFrom(hub, g.protocol), in: in, out: ex})
	}
	every(r, 0, dayLong, g.keepAlive, 0, func(at float64) { say(at, 63, 95) })
	every(r, 0, dayLong, g.telemetry, 0.02, func(at float64) { say(at, 70, g.size*(0.8+0.4*r.Float64())) })
	// Time, from servers of a pool that change now and then.
	n := r.IntN(len(pool))
	every(r, 0, dayLong, p.poll, 0.01, func(at float64) {
		if r.IntN(200) == 0 {
			pool[n] = w.ntp[r.IntN(len(w.ntp))]
			n = r.IntN(len(pool))
			lookup(at)
		}
		t := talk{at: at, proto: "UDP", local: 123, remote: netip.AddrPortFrom(pool[n], 123), in: 56, out: 56}
		if out(at) || r.IntN(50) == 0 {
			t.in = 0
		}
		add(t)
	})
	every(r, 0, dayLong, 1800, 0.5, lookup)
	// Discovery in the house.
	every(r, 0, dayLong, 1800, 0.1, func(at float64) {
		add(talk{at: at, proto: "UDP", local: 5353, remote: netip.MustParseAddrPort("224.0.0.251:5353"), out: 220})
		add(talk{at: at + 1, proto: "UDP", local: 1900, remote: netip.MustParseAddrPort("239.255.255.250:1900"), out: 180})
		for range r.IntN(5) {
			add(talk{at: at + 2, proto: "UDP", local: 1900, remote: p.neighbour(r, 1900), in: 330})
		}
	})
	if g.poll > 0 {
		to := w.vendor[g.name]
		if rolled {
			to = w.next[g.name]
		}
		every(r, 0, dayLong, g.poll, 0.05, func(at float64) {
			add(talk{at: at, lasts: 1, proto: "TCP", local: ephemeralPort(r), remote: netip.AddrPortFrom(to, g.pollPort), in: 5200, out: 1900})
		})
	} else if rolled { // new firmware tells its maker how it is
		every(r, 0, dayLong, 600, 0.02, func(at float64) {
			add(talk{at: at, lasts: 1, proto: "TCP", local: ephemeralPort(r), remote: netip.AddrPortFrom(w.next[g.name], 443), in: 4100, out: 1500})
		})
	}
	if g.camera {
		p.record(s, r)
	}
	if g.gateway {
		p.serve(s, r)
	}
	if g.v6 {
		six := netip.MustParseAddr("2001:db8:5::53")
		every(r, 0, dayLong, 1200, 0.2, func(at float64) {
			add(talk{at: at, proto: "ICMP", remote: netip.AddrPortFrom(six, 0), in: 64, out: 64})
		})
	}
	// Updates: small ones each week, a large one with new firmware, within the working day of the group.
	update := func(at, size float64) {
		lookup(at)
		add(talk{at: at + 1, lasts: 20 + size/50_000, proto: "TCP", local: ephemeralPort(r), remote: netip.AddrPortFrom(updates, g.update), in: size, out: size / 60})
	}
	if day%7 == p.weekday {
		update(3600*(1+3*r.Float64()), 150_000+300_000*r.Float64())
	}
	if day == p.rollout {
		at := 3600 * (9 + 2*r.Float64())
		update(at, 600_000+1_200_000*r.Float64())
		connect(at + 120)
		if !g.silent {
			s.os[int(at+130)/seconds] = "Azure RTOS 6.3"
		}
		every(r, at+180, dayLong, 600, 0.02, func(at float64) {
			add(talk{at: at, lasts: 1, proto: "TCP", local: ephemeralPort(r), remote: netip.AddrPortFrom(w.next[g.name], 443), in: 4100, out: 1500})
		})
	}
	if day == w.storm[g.name] { // power that comes and goes
		for at := 3600 * (14 + r.Float64()); at < 3600*16; at += 60 + 240*r.Float64() {
			connect(at)
			add(talk{at: at + 1, proto: "UDP", local: 123, remote: netip.AddrPortFrom(pool[n], 123), in: 56, out: 56})
			add(talk{at: at, proto: "UDP", local: 68, remote: netip.AddrPortFrom(netip.AddrFrom4([4]byte{192, 168, p.house[0], 1}), 67), in: 320, out: 310})
		}
	}
	if r.IntN(15) == 0 { // somebody looks after it, from the house
		begin := 3600 * (9 + 8*r.Float64())
		add(talk{at: begin, lasts: 600, proto: "TCP", local: 80, remote: p.neighbour(r, ephemeralPort(r)), in: 60_000, out: 800_000})
		add(talk{at: begin + 30, lasts: 300, proto: "TCP", local: 22, remote: p.neighbour(r, ephemeralPort(r)), in: 20_000, out: 60_000})
		s.logins[int(begin)/seconds] = []Login{{"admin", netip.AddrFrom4([4]byte{192, 168, p.house[0], 77}), true}, {"admin", netip.AddrFrom4([4]byte{192, 168, p.house[0], 77}), false}}
	}
	if r.IntN(20) == 0 { // the house is searched for what is in it
		begin := 3600 * 24 * r.Float64()
		for port := range uint16(40) {
			add(talk{at: begin + float64(port)/8, proto: "TCP", local: port*13 + 21, remote: p.neighbour(r, ephemeralPort(r)), in: 40, out: 20})
		}
	}
	if r.IntN(400) == 0 { // somebody has it report to a broker of his own, too; nobody could tell this from a beacon
		own := netip.AddrPortFrom(p.place[1].Next().Next(), 8883)
		every(r, 3600*(8+10*r.Float64()), dayLong, 60, 0, func(at float64) {
			add(talk{at: at, lasts: 0.5, proto: "TCP", local: session ^ 1, remote: own, in: 70, out: 260})
		})
	}
	if day == p.offline {
		begin := r.IntN(windows - 720)
		s.away = [2]int{begin, begin + 120 + r.IntN(600)}
	}
	p.attack(f, s, day)
	slices.SortStableFunc(s.talks, func(a, b talk) int {
		switch {
		case a.at < b.at:
			return -1
		case a.at > b.at:
			return 1
		}
		return 0
	})
	return s
}

func ephemeralPort(r *rand.Rand) uint16 { return uint16(49152 + r.IntN(16384)) }

func (p *plan) neighbour(r *rand.Rand, port uint16) netip.AddrPort {
	return netip.AddrPortFrom(netip.AddrFrom4([4]byte{192, 168, p.house[0], byte(210 + r.IntN(40))}), port)
}

// record is a camera: a recorder in the house, clips in the cloud, and a relay for its app.
func (p *plan) record(s *stream, r *rand.Rand) {
	recorder := netip.AddrPortFrom(netip.AddrFrom4([4]byte{192, 168, p.house[0], 5}), 5004)
	for range 3 + r.IntN(5) { // somebody watches
		s.talks = append(s.talks, talk{at: dayLong * 0.95 * r.Float64(), lasts: 60 + 900*r.Float64(), proto: "UDP", local: 5004, remote: recorder, out: 80e6 * (0.2 + r.Float64())})
	}
	for range 10 + r.IntN(20) { // something moved
		s.talks = append(s.talks, talk{at: dayLong * 0.99 * r.Float64(), lasts: 15, proto: "TCP", local: ephemeralPort(r), remote: netip.AddrPortFrom(p.hub, 443), in: 30_000, out: 1.5e6 + 3e6*r.Float64()})
	}
	relay := netip.AddrPortFrom(p.ntp[0].Next(), 10001)
	every(r, 0, dayLong, 25, 0.02, func(at float64) {
		s.talks = append(s.talks, talk{at: at, proto: "UDP", local: 10001, remote: relay, in: 36, out: 44})
	})
}

// serve is a gateway: what talks to it in the house goes on to the hub, in its own words.
func (p *plan) serve(s *stream, r *rand.Rand) {
	for n := range 12 {
		from := netip.AddrPortFrom(netip.AddrFrom4([4]byte{192, 168, p.house[0], byte(100 + n)}), ephemeralPort(r))
		meter := netip.AddrPortFrom(netip.AddrFrom4([4]byte{192, 168, p.house[0], byte(140 + n)}), 502)
		every(r, 0, dayLong, 120, 0.1, func(at float64) {
			s.talks = append(s.talks, talk{at: at, lasts: 0.2, proto: "TCP", local: 8883, remote: from, in: 480, out: 70})
			s.talks = append(s.talks, talk{at: at, lasts: 0.2, proto: "TCP", local: 50000 + uint16(n), remote: meter, in: 60, out: 52})
		})
	}
}

// visits are the device's connections to the hub.
func (p *plan) visits(f *Fleet, day int) []Visit {
	r := f.rand("visits", p.i*MaxDays+day)
	w := &f.world
	var all []Visit
	start := f.start.AddDate(0, 0, day)
	add := func(at float64, from netip.Addr, refused bool, label Attack) {
		all = append(all, Visit{At: start.Add(time.Duration(at * float64(time.Second))), ID: p.ID, Remote: from, Refused: refused, Label: label})
	}
	home := p.place[0]
	if day >= p.moves && p.moves > 0 {
		home = p.place[1]
	}
	for range 1 + r.IntN(4) {
		add(dayLong*r.Float64(), home, false, "")
	}
	if day == p.moves { // the line is new: for a while the old one still works
		add(3600, p.place[0], false, "")
		add(3700, p.place[1], false, "")
	}
	if day == w.storm[p.profile.name] {
		for at := 3600 * (14 + r.Float64()); at < 3600*16; at += 60 + 240*r.Float64() {
			add(at, home, false, "")
		}
	}
	if r.IntN(100) == 0 { // a second line takes over, and gives back
		at := dayLong * 0.9 * r.Float64()
		add(at, p.place[1].Next(), false, "")
		add(at+400+3000*r.Float64(), home, false, "")
	}
	if r.IntN(50) == 0 { // it tries with a key that is no longer right
		for at := dayLong / 2.0; at < dayLong/2+3600; at += 60 {
			add(at, home, true, "")
		}
	}
	if p.Attack == StolenKey && p.onset >= 0 && day*dayLong <= p.onset && p.onset < (day+1)*dayLong {
		at := float64(p.onset % dayLong)
		for range 12 {
			add(at, p.evil[0], false, StolenKey)
			at += 2 + 40*r.Float64()
			add(at, home, false, StolenKey)
			at += 2 + 200*r.Float64()
		}
	}
	return all
}

// strangers are those who try credentials: one address on many identities for each device that is to be attacked so.
func (f *Fleet) strangers(day int) []Visit {
	var all []Visit
	for _, p := range f.plans {
		if p.Attack != Stuffing || p.onset < day*dayLong || p.onset >= (day+1)*dayLong {
			continue
		}
		r := f.rand("strangers", p.i)
		at := f.start.Add(time.Duration(p.onset) * time.Second)
		for range 40 {
			v := Visit{At: at, ID: p.ID, Remote: p.evil[0], Refused: true, Label: Stuffing, target: p.ID}
			if p.draw < 0.5 { // many identities from one address
				v.ID = fmt.Sprintf("%s-%04d", groups[r.IntN(len(groups))].name, r.IntN(2000))
			} else { // one from many
				v.Remote = public(r)
			}
			all = append(all, v)
			at = at.Add(time.Duration(1+r.IntN(12)) * time.Second)
		}
	}
	return all
}
