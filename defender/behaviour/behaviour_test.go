package behaviour

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/vauban-iot/vauban/defender/alert"
	"github.com/vauban-iot/vauban/iot"
	"github.com/vauban-iot/vauban/wire/secmsg"
)

var start = time.Date(2026, 3, 2, 0, 0, 0, 0, time.UTC)

// lab is an engine with one device under test, which has a day behind it.
type lab struct {
	t        *testing.T
	e        *Engine
	id       iot.ID
	at       time.Time
	sequence uint64
	found    []Finding
}

func newLab(t *testing.T) *lab {
	l := &lab{t: t, e: NewEngine(Config{}), id: iot.ID{Device: "board"}, at: start}
	for range 25 { // a day of honest life
		l.window(flowOf("TCP", 50001, "198.51.100.10:8883", 120, 400), flowOf("TCP", 50003, "198.51.100.11:443", 900, 400), flowOf("UDP", 50004, "192.168.1.1:53", 90, 40))
		l.at = l.at.Add(time.Hour)
	}
	l.found = nil
	return l
}

func flowOf(protocol string, local uint16, remote string, in, out uint64) secmsg.Flow {
	return secmsg.Flow{Local: netip.AddrPortFrom(netip.MustParseAddr("192.168.1.5"), local), Remote: netip.MustParseAddrPort(remote), Protocol: protocol, BytesIn: in, BytesOut: out}
}

// window sends a window of ten seconds, and moves on.
func (l *lab) window(flows ...secmsg.Flow) []Finding {
	l.at = l.at.Add(10 * time.Second)
	return l.event(secmsg.Event{Name: "NetworkActivity", Time: l.at, Interval: 10 * time.Second, Flows: flows})
}

func (l *lab) event(events ...secmsg.Event) []Finding {
	l.sequence++
	found := l.e.Observe(Message{From: l.id, Group: "plant", Sequence: l.sequence, Enqueued: l.at, Report: &secmsg.Report{Events: events}})
	l.found = append(l.found, found...)
	return found
}

func (l *lab) wait(d time.Duration) { l.at = l.at.Add(d) }

// want fails unless exactly the types were found, in any number.
func (l *lab) want(types ...string) {
	l.t.Helper()
	var got []string
	for _, f := range l.found {
		if !slices.Contains(got, f.Type) {
			got = append(got, f.Type)
		}
		if f.Expected == "" || f.Seen == "" || f.Sureness < 1 || f.Sureness > 100 || f.Indicator == "" || f.At.IsZero() || alert.Lookup(f.Type).Severity == "" || len(alert.Lookup(f.Type).Techniques) == 0 {
			l.t.Errorf("it explains too little: %+v", f)
		}
	}
	slices.Sort(got)
	slices.Sort(types)
	if !slices.Equal(got, types) {
		l.t.Errorf("found %q, want %q: %+v", got, types, l.found)
	}
}

func many(n int, of func(i int) secmsg.Flow) []secmsg.Flow {
	all := make([]secmsg.Flow, n)
	for i := range all {
		all[i] = of(i)
	}
	return all
}

func host(i int) string { return fmt.Sprintf("203.%d.%d.%d", i/60000, i/250%240, 1+i%250) }

// Each detector, just beyond its threshold and just below.
func TestEngine_Detectors(t *testing.T) {
	t.Parallel()
	silent := func(port, n int) func(l *lab) {
		return func(l *lab) {
			l.window(many(n, func(i int) secmsg.Flow {
				return flowOf("TCP", 50000, fmt.Sprintf("%s:%d", host(i*7), port), 0, 60)
			})...)
		}
	}
	beacon := func(n int, period, jitter time.Duration, remote string) func(l *lab) {
		return func(l *lab) {
			for i := range n {
				l.wait(period + time.Duration(i*7%11-5)*jitter/5)
				l.window(flowOf("TCP", 50002, remote, 300, 250))
			}
		}
	}
	for name, tc := range map[string]struct {
		do   func(l *lab)
		want []string
	}{
		"telnet of few hosts": {silent(23, 4), []string{alert.NewProtocol}},
		"telnet of many":      {silent(23, 9), []string{alert.NetworkScan, alert.NewProtocol}},
		"web of some":         {silent(80, 8), nil},
		"web of many":         {silent(80, 16), []string{alert.NetworkScan}},
		"refusals are no answers": {func(l *lab) {
			l.window(many(16, func(i int) secmsg.Flow { return flowOf("TCP", 50000, host(i*7)+":81", 20, 40) })...)
		}, []string{alert.NetworkScan, alert.NewProtocol}},
		"answers are": {func(l *lab) {
			l.window(many(16, func(i int) secmsg.Flow { return flowOf("TCP", 50000, host(i*7)+":443", 4000, 900) })...)
		}, nil},
		"a host a minute": {func(l *lab) {
			for i := range 40 {
				l.wait(50 * time.Second)
				l.window(flowOf("TCP", uint16(50000+i), host(i*31)+":81", 0, 80))
			}
		}, []string{alert.NetworkScan}},
		"the same host each minute": {func(l *lab) {
			for i := range 60 {
				l.wait(50 * time.Second)
				l.window(flowOf("TCP", uint16(50000+i), "203.0.113.7:81", 0, 80))
			}
		}, nil},
		"pings": {func(l *lab) {
			l.window(many(20, func(i int) secmsg.Flow { return flowOf("ICMP", 0, fmt.Sprintf("192.168.1.%d:0", i+10), 0, 64) })...)
		}, []string{alert.NetworkScan}},
		"a full cache": {func(l *lab) {
			l.window(many(64, func(i int) secmsg.Flow {
				return flowOf("UDP", 50000, fmt.Sprintf("%s:%d", host(i*7), 12000+i*31), 0, 60)
			})...)
		}, []string{alert.NetworkScan}},
		"a flood": {func(l *lab) {
			for range 3 {
				l.window(flowOf("UDP", 50000, "203.0.113.7:80", 0, 600_000))
			}
		}, []string{alert.DenialOfService}},
		"an upload over TCP": {func(l *lab) {
			for range 3 {
				l.window(flowOf("TCP", 50000, "198.51.100.10:8883", 3000, 900_000))
			}
		}, nil},
		"a beacon":                   {beacon(20, 2*time.Minute, 0, "203.0.113.7:4444"), []string{alert.Beaconing, alert.NewProtocol}},
		"a beacon with jitter":       {beacon(40, 2*time.Minute, time.Minute, "203.0.113.7:4444"), []string{alert.Beaconing, alert.NewProtocol}},
		"too few beats":              {beacon(11, 2*time.Minute, 0, "203.0.113.7:8443"), nil},
		"regular, to a known host":   {beacon(200, 2*time.Minute, 0, "198.51.100.10:8883"), nil},
		"a beacon on a cloud's port": {beacon(80, 2*time.Minute, 0, "203.0.113.7:8883"), []string{alert.Beaconing}},
		"names": {func(l *lab) {
			for range 60 {
				l.window(flowOf("UDP", 50000, "192.168.1.1:53", 900, 300))
			}
		}, nil},
		"a tunnel in names": {func(l *lab) {
			for range 60 {
				l.window(flowOf("UDP", 50000, "192.168.1.1:53", 9000, 3000))
			}
		}, []string{alert.DNSTunnel}},
		"an upload to somebody new": {func(l *lab) {
			for range 10 {
				l.window(flowOf("TCP", 50000, "203.0.113.7:443", 20_000, 500_000))
			}
		}, []string{alert.EgressData}},
		"little by little": {func(l *lab) {
			for i := range 60 {
				l.wait(time.Duration(1+i%9) * 100 * time.Second)
				l.window(flowOf("TCP", 50000, "203.0.113.7:443", 800, 9_000))
			}
		}, []string{alert.EgressData}},
		"a payload": {func(l *lab) {
			l.window(flowOf("TCP", 50000, "203.0.113.7:8080", 90_000, 900))
			l.wait(70 * time.Minute)
			l.window(flowOf("TCP", 50001, "198.51.100.10:8883", 120, 400))
			l.wait(70 * time.Minute)
			l.window(flowOf("TCP", 50001, "198.51.100.10:8883", 120, 400))
		}, []string{alert.PayloadDownload, alert.NewProtocol}},
		"a relay": {func(l *lab) {
			for range 4 {
				l.window(flowOf("TCP", 4455, "203.0.113.7:50123", 30_000, 90_000), flowOf("TCP", 50001, "192.168.1.20:443", 89_000, 30_500))
			}
		}, []string{alert.PortForwarding, alert.NewProtocol}},
		"a gateway": {func(l *lab) {
			for range 20 {
				l.window(flowOf("TCP", 8883, "192.168.1.20:50123", 30_000, 9_000), flowOf("TCP", 50001, "198.51.100.10:8883", 9_000, 30_000))
			}
		}, nil},
		"a chat": {func(l *lab) { l.window(flowOf("TCP", 50001, "203.0.113.7:6667", 900, 300)) }, []string{alert.NewProtocol}},
		"passwords": {func(l *lab) {
			for i := range 12 {
				result := "Fail"
				if i == 11 {
					result = "Success"
				}
				l.event(login(result))
			}
		}, []string{alert.BruteForce, alert.BruteForceSucceeded}},
		"a forgotten password": {func(l *lab) {
			for range 5 {
				l.event(login("Fail"))
			}
			l.event(login("Success"))
		}, nil},
		"discovery in the house": {func(l *lab) {
			for range 30 {
				l.window(flowOf("UDP", 1900, "239.255.255.250:1900", 0, 200), flowOf("UDP", 5353, "224.0.0.251:5353", 0, 200), flowOf("UDP", 68, "255.255.255.255:67", 0, 300))
			}
		}, nil},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			l := newLab(t)
			tc.do(l)
			l.want(tc.want...)
			// The same with the detectors off finds nothing.
			l = newLab(t)
			var all []string
			for _, d := range Detectors() {
				all = append(all, d.Name)
			}
			l.e.Disable(all)
			tc.do(l)
			l.want()
		})
	}
}

func login(result string) secmsg.Event {
	return secmsg.Event{Name: "Login", Payload: []secmsg.Item{secmsg.Raw(fmt.Sprintf(`{"Operation":"login","Result":%q,"UserName":"root","RemoteAddress":"203.0.113.9"}`, result))}}
}

// Agents of JSON 1.0 count no bytes: a scan on a door shows all the same, and their connections to clouds are no scan.
func TestEngine_FlowsWithoutBytes(t *testing.T) {
	t.Parallel()
	for port, want := range map[uint16][]string{23: {alert.NetworkScan, alert.NewProtocol}, 443: nil} {
		l := newLab(t)
		var events []secmsg.Event
		for i := range 40 {
			f := flowOf("TCP", 50000, fmt.Sprintf("%s:%d", host(i*7), port), 0, 0)
			f.Direction = secmsg.Out
			events = append(events, secmsg.Event{Name: "ConnectionCreate", Flows: []secmsg.Flow{f}})
		}
		l.at = l.at.Add(time.Minute)
		l.event(events...)
		l.want(want...)
	}
}

// The Linux agent says who began: that many come to a port of the device is no scan by it, whatever the ports look like. And a
// lot of bytes over two hours is no flood.
func TestEngine_LinuxSaysWhoBeganAndHowLong(t *testing.T) {
	t.Parallel()
	for direction, want := range map[string][]string{secmsg.In: nil, secmsg.Out: {alert.NetworkScan, alert.NewProtocol}} {
		l := newLab(t)
		l.window(many(60, func(i int) secmsg.Flow {
			f := flowOf("TCP", 50000, fmt.Sprintf("%s:23", host(i*7)), 40, 40)
			f.Direction, f.Began = direction, true
			return f
		})...)
		l.want(want...)
	}
	for interval, want := range map[time.Duration][]string{10 * time.Second: {alert.DenialOfService}, 2 * time.Hour: nil} {
		l := newLab(t)
		f := flowOf("UDP", 50000, "198.51.100.10:8883", 0, 60_000_000)
		f.Direction, f.Began = secmsg.Out, true
		l.wait(2 * time.Hour)
		l.event(secmsg.Event{Name: "NetworkActivity", Time: l.at, Interval: interval, Flows: []secmsg.Flow{f}})
		l.want(want...)
	}
}

// What several devices of a group begin to do is no news of the next one: new firmware is no beacon.
func TestEngine_GroupsKnow(t *testing.T) {
	t.Parallel()
	for _, peers := range []int{0, 5} {
		l := newLab(t)
		for p := range peers {
			id := iot.ID{Device: fmt.Sprintf("peer-%d", p)}
			l.e.Observe(Message{From: id, Group: "plant", Enqueued: l.at, Report: &secmsg.Report{Events: []secmsg.Event{{Name: "NetworkActivity", Interval: 10 * time.Second,
				Flows: []secmsg.Flow{flowOf("TCP", 50000, "203.0.113.7:8883", 900, 400)}}}}})
		}
		for range 100 {
			l.wait(2 * time.Minute)
			l.window(flowOf("TCP", 50002, "203.0.113.9:8883", 300, 250))
		}
		if peers == 0 {
			l.want(alert.Beaconing)
		} else {
			l.want()
		}
	}
}

// flooded is what leaves no doubt that a device was taken over.
var flooded = flowOf("UDP", 50000, "203.1.2.3:80", 0, 600_000_000)

// Devices that were caught teach their group nothing: a botnet does not make its own host usual.
func TestEngine_CaughtDevicesTeachNobody(t *testing.T) {
	t.Parallel()
	for _, caught := range []bool{false, true} {
		l := newLab(t)
		board := l.id
		for p := range 5 {
			l.id = iot.ID{Device: fmt.Sprintf("peer-%d", p)}
			if caught {
				l.window(flooded)
			}
			l.window(flowOf("TCP", 50000, "203.0.113.7:8883", 900, 400))
		}
		if caught {
			l.want(alert.DenialOfService)
		}
		l.id, l.found = board, nil
		for range 100 {
			l.wait(2 * time.Minute)
			l.window(flowOf("TCP", 50002, "203.0.113.9:8883", 300, 250))
		}
		if caught {
			l.want(alert.Beaconing)
		} else {
			l.want()
		}
	}
}

// Nor do they teach themselves: what a device begins after it was caught is not of its normal life, though it is young.
func TestEngine_CaughtDevicesLearnNothing(t *testing.T) {
	t.Parallel()
	for _, caught := range []bool{false, true} {
		l := newLab(t)
		l.id = iot.ID{Device: "young"}
		for i := range 26 {
			l.wait(time.Hour)
			l.window(flowOf("TCP", 50001, "198.51.100.10:8883", 120, 400))
			if i == 1 && caught {
				l.window(flooded)
			}
			if i == 2 {
				l.window(flowOf("TCP", 50002, "203.0.113.9:8883", 300, 250))
			}
		}
		l.found = nil
		for range 100 {
			l.wait(2 * time.Minute)
			l.window(flowOf("TCP", 50002, "203.0.113.9:8883", 300, 250))
		}
		if caught {
			l.want(alert.Beaconing)
		} else {
			l.want()
		}
	}
}

// A message is judged once; a finding is told again only after a while.
func TestEngine_OnceEach(t *testing.T) {
	t.Parallel()
	l := newLab(t)
	flood := flowOf("UDP", 50000, "203.0.113.7:80", 0, 60_000_000)
	if found := l.window(flood); len(found) != 1 || len(found[0].Items) != 1 {
		t.Fatalf("%+v", found)
	}
	l.sequence--
	if found := l.event(secmsg.Event{Name: "NetworkActivity", Interval: 10 * time.Second, Flows: []secmsg.Flow{flood}}); len(found) > 0 {
		t.Errorf("a message that was judged already: %+v", found)
	}
	l.sequence++
	for range 30 {
		l.window(flood)
	}
	if len(l.found) != 1 {
		t.Errorf("%d findings in five minutes", len(l.found))
	}
	l.wait(10 * time.Minute)
	if found := l.window(flood); len(found) != 1 {
		t.Errorf("later: %+v", found)
	}
}

// The hub's time is the reference: whatever a device's clock says, and in whatever order what it says comes, it is judged alike.
func TestEngine_Clocks(t *testing.T) {
	t.Parallel()
	for name, skew := range map[string]time.Duration{"right": 0, "decades behind": -30 * 365 * 24 * time.Hour, "years ahead": 8 * 365 * 24 * time.Hour} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			l := newLab(t)
			var at time.Time
			for range 40 { // a beacon, by a clock that is wrong
				l.wait(2 * time.Minute)
				l.at = l.at.Add(10 * time.Second)
				found := l.event(secmsg.Event{Name: "NetworkActivity", Time: l.at.Add(skew), Interval: 10 * time.Second, Flows: []secmsg.Flow{flowOf("TCP", 50002, "203.0.113.7:8444", 300, 250)}})
				if len(found) > 0 && at.IsZero() {
					at = found[0].At
				}
			}
			if l.want(alert.Beaconing); at.After(l.at) || at.Before(start) {
				t.Errorf("found at %v, by the hub's clock it is %v", at, l.at)
			}
		})
	}
	t.Run("within a message", func(t *testing.T) {
		t.Parallel()
		l := newLab(t)
		// Two windows of a flood; the clock of the device tells that they follow each other. The newest is now.
		l.at = l.at.Add(time.Hour)
		odd := time.Date(1975, 1, 1, 0, 0, 0, 0, time.UTC)
		flood := func(at time.Time) secmsg.Event {
			return secmsg.Event{Name: "NetworkActivity", Time: at, Interval: 10 * time.Second, Flows: []secmsg.Flow{flowOf("UDP", 50000, "203.0.113.7:80", 0, 600_000)}}
		}
		found := l.event(flood(odd), flood(odd.Add(10*time.Second)))
		if len(found) != 1 || !found[0].At.Equal(l.at) {
			t.Errorf("%+v, want one at %v", found, l.at)
		}
	})
	t.Run("late", func(t *testing.T) {
		t.Parallel()
		// Hours of honest traffic that come at once, in messages and in one, are no tunnel and no loss of data.
		for _, batch := range []int{1, 30} {
			l := newLab(t)
			for range 1000 {
				l.window(flowOf("UDP", 50000, "192.168.1.1:53", 900, 100), flowOf("TCP", 50001, "198.51.100.10:8883", 900, 30_000))
			}
			var events []secmsg.Event
			for i := range 2000 {
				events = append(events, secmsg.Event{Name: "NetworkActivity", Time: start.Add(time.Duration(i) * 10 * time.Second), Interval: 10 * time.Second,
					Flows: []secmsg.Flow{flowOf("UDP", 50000, "192.168.1.1:53", 900, 100), flowOf("TCP", 50001, "198.51.100.10:8883", 900, 30_000)}})
				if len(events) == batch {
					l.event(events...)
					events = nil
				}
			}
			l.want()
		}
	})
	t.Run("late, and an attack", func(t *testing.T) {
		t.Parallel()
		l := newLab(t)
		scan := many(20, func(i int) secmsg.Flow { return flowOf("TCP", 50000, host(i*7)+":2323", 0, 40) })
		now := l.at
		found := l.event(
			secmsg.Event{Name: "NetworkActivity", Time: now.Add(-3 * time.Hour), Interval: 10 * time.Second, Flows: scan},
			secmsg.Event{Name: "NetworkActivity", Time: now, Interval: 10 * time.Second, Flows: []secmsg.Flow{flowOf("TCP", 50001, "198.51.100.10:8883", 120, 400)}})
		at := slices.IndexFunc(found, func(f Finding) bool { return f.Type == alert.NetworkScan })
		if at < 0 || !found[at].At.Equal(now.Add(-3*time.Hour)) {
			t.Errorf("%+v", found)
		}
	})
	t.Run("the hub's clock goes back", func(t *testing.T) {
		t.Parallel()
		l := newLab(t)
		right := l.at
		l.at = right.AddDate(1, 0, 0) // a server whose clock is a year ahead takes a message
		l.window(flowOf("TCP", 50001, "198.51.100.10:8883", 120, 400))
		l.at = right
		for range 20 {
			l.wait(2 * time.Minute)
			l.window(flowOf("TCP", 50002, "203.0.113.7:4444", 300, 250))
		}
		l.want(alert.Beaconing, alert.NewProtocol)
		if at := l.found[len(l.found)-1].At; at.After(l.at) {
			t.Errorf("found at %v, now is %v", at, l.at)
		}
	})
}

// Devices that do everything cannot make their state grow, and when there is no more room who is silent is forgotten.
func TestEngine_Bounds(t *testing.T) {
	t.Parallel()
	e := NewEngine(Config{MaxBytes: 100 * MaxOfDevice})
	at := start
	for round := range 4 {
		for d := range 300 {
			at = at.Add(time.Second)
			flows := many(64, func(i int) secmsg.Flow {
				return flowOf([]string{"TCP", "UDP", "ICMP"}[i%3], uint16(50000+i), fmt.Sprintf("%s:%d", host(round*9999+d*641+i*257), 1+(i*d)%30000), uint64(20000+i), uint64(90000-i))
			})
			var events []secmsg.Event
			for i := range 6 {
				events = append(events, secmsg.Event{Name: "NetworkActivity", Time: at.Add(time.Duration(i) * time.Minute), Interval: 10 * time.Second, Flows: flows[i*10:]})
			}
			e.Observe(Message{From: iot.ID{Device: strings.Repeat("d", 100) + fmt.Sprint(d)}, Group: fmt.Sprint(d), Enqueued: at, Report: &secmsg.Report{Events: events}})
		}
	}
	s := e.Stats()
	if s.Bytes > 100*MaxOfDevice || s.Devices < 100 || s.Devices > 299 || s.Dropped == 0 {
		t.Errorf("%+v", s)
	}
	sum := int64(0)
	for id, d := range e.devices {
		if size := d.size(); size > MaxOfDevice {
			t.Errorf("%s takes %d bytes", id, size)
		}
		sum += d.size()
	}
	if sum != s.Bytes {
		t.Errorf("%d bytes are counted, %d are there", s.Bytes, sum)
	}
	if len(e.groups) > maxGroups+1 {
		t.Errorf("%d groups", len(e.groups))
	}
	for name, g := range e.groups {
		if len(g.Known) > maxKnown {
			t.Errorf("group %s knows %d", name, len(g.Known))
		}
	}
}

// What was learned outlives a restart: a beacon that had half its beats is found, and a known host stays known.
func TestEngine_SaveAndLoad(t *testing.T) {
	t.Parallel()
	l := newLab(t)
	beat := func(n int) {
		for range n {
			l.wait(2 * time.Minute)
			l.window(flowOf("TCP", 50002, "203.0.113.7:8444", 300, 250), flowOf("TCP", 50001, "198.51.100.10:8883", 120, 400))
		}
	}
	beat(8)
	l.want()
	next := NewEngine(Config{})
	for part := range Shards {
		if !l.e.Changed(part) {
			continue
		}
		data, err := l.e.Save(part)
		if err != nil {
			t.Fatal(err)
		}
		if l.e.Changed(part) {
			t.Error("a part that was written has no news")
		}
		if err := next.Load(data); err != nil {
			t.Fatal(err)
		}
	}
	if a, b := l.e.Stats(), next.Stats(); a.Devices != b.Devices || b.Bytes == 0 {
		t.Errorf("%+v became %+v", a, b)
	}
	l.e = next
	l.sequence--
	if l.beatAgain(); len(l.found) != 0 {
		t.Errorf("a message from before is judged again: %+v", l.found)
	}
	beat(9)
	l.want(alert.Beaconing)
	if err := next.Load([]byte("no")); err == nil {
		t.Error("damaged state is read")
	}
}

func (l *lab) beatAgain() { l.window(flowOf("UDP", 50000, "203.0.113.99:80", 0, 90_000_000)) }

func BenchmarkObserve(b *testing.B) {
	e := NewEngine(Config{})
	flows := many(10, func(i int) secmsg.Flow {
		return flowOf("TCP", uint16(50000+i), fmt.Sprintf("198.51.100.%d:8883", i), 300, 200)
	})
	report := &secmsg.Report{Events: []secmsg.Event{{Name: "NetworkActivity", Interval: 10 * time.Second, Flows: flows}}}
	ids := make([]iot.ID, 10_000)
	for i := range ids {
		ids[i] = iot.ID{Device: fmt.Sprintf("device-%05d", i)}
	}
	at, n := start, 0
	b.ReportAllocs()
	for b.Loop() {
		if n++; n%len(ids) == 0 {
			at = at.Add(10 * time.Second)
		}
		e.Observe(Message{From: ids[n%len(ids)], Group: "plant", Enqueued: at, Report: report})
	}
	b.ReportMetric(float64(e.Stats().Bytes)/float64(e.Stats().Devices), "bytes/device")
}
