package baseline_test

import (
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/vauban-iot/vauban/defender/alert"
	"github.com/vauban-iot/vauban/defender/baseline"
	"github.com/vauban-iot/vauban/defender/baseline/baselinetest"
	"github.com/vauban-iot/vauban/defender/group"
	"github.com/vauban-iot/vauban/defender/intel"
	"github.com/vauban-iot/vauban/fault"
	"github.com/vauban-iot/vauban/iot"
	"github.com/vauban-iot/vauban/wire/bag"
	"github.com/vauban-iot/vauban/wire/secmsg"
)

const plant = "plant"

// stage is a world with a service that runs on it.
type stage struct {
	world *baselinetest.World
	*baseline.Service
	t    *testing.T
	stop func()
}

func newStage(t *testing.T, devices int) *stage {
	t.Helper()
	s := &stage{world: &baselinetest.World{Groups: map[string]string{}}, t: t}
	for i := range devices {
		s.world.Groups[fmt.Sprint("d", i)] = plant
	}
	s.start()
	return s
}

// bad is what the operator lists.
const bad = "203.0.113.99"

func (s *stage) start() {
	s.t.Helper()
	list := intel.NewBuilder(intel.Source{Name: "mine", Own: true})
	err := intel.ReadList(strings.NewReader(bad+"\nevil.example\n"), list)
	if err != nil {
		s.t.Fatal(err)
	}
	set := intel.NewSet(list.Block())
	s.Service, err = baseline.New(baseline.Config{
		Log: s.world, Store: s.world, Raise: s.world.Raise, Intel: func() *intel.Set { return set }, Groups: s.world, Logger: slog.New(slog.DiscardHandler),
		Hub: baseline.Controller{Host: "hub.example", Addresses: []netip.Addr{netip.MustParseAddr("198.51.100.10")}, Ports: []uint16{8883}},
	})
	if err != nil {
		s.t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(s.t.Context())
	done := make(chan error, 1)
	go func() { done <- s.Run(ctx) }()
	s.stop = func() {
		cancel()
		if err := <-done; err != nil {
			s.t.Error(err)
		}
	}
}

func flow(local, remote, protocol string) secmsg.Flow {
	return secmsg.Flow{Local: netip.MustParseAddrPort(local), Remote: netip.MustParseAddrPort(remote), Protocol: protocol, BytesIn: 100, BytesOut: 300}
}

func out(remote string) secmsg.Flow { return flow("10.0.0.9:49152", remote, "TCP") }

func security(device string, body []byte, indicator string) iot.Message {
	m := iot.Message{From: iot.ID{Device: device}, Body: body, System: []bag.Property{{Name: "iothub-interface-id", Value: iot.SecurityInterface}}}
	if indicator != "" {
		m.Properties = []bag.Property{{Name: "mti", Value: indicator}}
	}
	return m
}

// report is a message of FlatBuffers.
func report(device string, flows ...secmsg.Flow) iot.Message {
	return security(device, secmsg.AppendFlatBuffers(nil, secmsg.Report{Agent: "a", Events: []secmsg.Event{{Name: "NetworkActivity", Flows: flows}}}), "2.3-1-0-0")
}

// says is a message of JSON 1.0 with one event.
func says(device, name, payload string) iot.Message {
	return security(device, fmt.Appendf(nil, `{"AgentVersion":"1","AgentId":"x","MessageSchemaVersion":"1.0","Events":[{"EventType":"Security","Category":"Triggered","Name":%q,"Payload":[%s]}]}`, name, payload), "")
}

func telemetry(device string) iot.Message {
	return iot.Message{From: iot.ID{Device: device}, Body: []byte("{}")}
}

// send writes one entry and waits until it is handled.
func (s *stage) send(messages ...iot.Message) {
	s.world.Append(time.Now(), messages...)
	synctest.Wait()
}

// hours of an honest group: each device talks to the hub, asks for the time, and sends ten messages. In the hours that extra names, it does more.
func (s *stage) hours(n int, extra func(hour int, device string) []iot.Message) {
	for h := range n {
		for part := range 5 {
			var all []iot.Message
			for device := range s.world.Groups {
				all = append(all, telemetry(device), telemetry(device))
				if part == 0 {
					all = append(all, report(device, out("198.51.100.10:8883"), flow("10.0.0.9:123", "192.0.2.123:123", "UDP")),
						says(device, "ProcessCreate", `{"Executable":"/usr/bin/pumpd","CommandLine":"pumpd","UserId":"0"}`),
						says(device, "ConnectionCreate", `{"RemoteAddress":"198.51.100.10","RemotePort":"8883","LocalAddress":"10.0.0.9","LocalPort":"50001","Direction":"Out","Protocol":"tcp"},
							{"RemoteAddress":"198.51.100.10","RemotePort":"8883","LocalAddress":"10.0.0.9","LocalPort":"50001","Direction":"In","Protocol":"Tcp"}`))
					if extra != nil {
						all = append(all, extra(h, device)...)
					}
				}
			}
			s.send(all...)
			time.Sleep(12 * time.Minute)
		}
	}
}

func must[T any](v T, err error) func(t *testing.T) T {
	return func(t *testing.T) T {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		return v
	}
}

func wantKind(t *testing.T, what string, err error, k fault.Kind, text string) {
	t.Helper()
	if !fault.Is(err, k) || !strings.Contains(fault.Public(err), text) {
		t.Errorf("%s: %v, want %v with %q", what, err, k, text)
	}
}

func find(t *testing.T, b baseline.Baseline, peer, ports string) baseline.Entry {
	t.Helper()
	for _, e := range b.Entries {
		if (e.Peer == peer || e.Name == peer) && e.Ports == ports {
			return e
		}
	}
	t.Fatalf("no entry %s %s among %+v", peer, ports, b.Entries)
	return baseline.Entry{}
}

func TestService_LearnsProposesEnforces(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		s := newStage(t, 6)
		defer func() { s.stop() }()
		ctx := t.Context()
		_, err := s.Baseline(ctx, plant)
		wantKind(t, "off", err, fault.NotFound, "has no baseline")
		b := must(s.Learn(ctx, plant, "ann", baseline.Terms{MinShare: 0.4}))(t)
		if b.State != baseline.Learning || len(b.Learned.Waits) != 2 {
			t.Errorf("%+v", b)
		}
		if !slices.Contains(b.Learned.Waits, "it has learned for less than a minute of 7 days") {
			t.Errorf("it waits for %q", b.Learned.Waits)
		}
		s.hours(24, nil)
		_, err = s.Propose(ctx, plant, "ann")
		wantKind(t, "too early", err, fault.PreconditionFailed, "it has learned for 24 hours of 7 days")
		_, err = s.Enforce(ctx, plant, "ann")
		wantKind(t, "unread", err, fault.PreconditionFailed, "propose it first")

		s.hours(7*24, func(h int, device string) []iot.Message {
			switch {
			case device == "d1": // taken over while the others learn: beacons, floods, a program of its own
				return []iot.Message{report(device, out("203.0.113.66:4444"), secmsg.Flow{Local: netip.MustParseAddrPort("10.0.0.9:49153"), Remote: netip.MustParseAddrPort("203.0.113.66:4444"), Protocol: "TCP", BytesOut: 1 << 30}),
					says(device, "ProcessCreate", `{"Executable":"/tmp/x"}`)}
			case h%24 == 2: // an update service in the night, whose address differs for each device
				return []iot.Message{report(device, out(fmt.Sprintf("192.0.2.1%s:443", strings.TrimPrefix(device, "d")))), report(device, out("192.0.2.200:8443"))}
			case h == 5:
				return []iot.Message{report(device, out(bad+":443")), says(device, "Login", `{"UserName":"service","Result":"Success","Operation":"Login"}`)}
			}
			return nil
		})
		b = must(s.Propose(ctx, plant, "ann"))(t)
		if b.State != baseline.Proposed || b.By != "ann" || b.Learned.Devices != 6 || b.Learned.Threshold != 3 {
			t.Fatalf("%+v", b)
		}
		for _, c := range []struct {
			peer, ports string
			decision    baseline.Decision
			reason      string
			devices     int
		}{
			{"198.51.100.10", "8883", baseline.Accepted, "seen on 6 of 6 devices; 3 are needed", 6},
			{"192.0.2.123", "123", baseline.Accepted, "6 of 6", 6},
			{"203.0.113.66", "4444", baseline.Held, "seen on 1 of 6 devices; 3 are needed", 1},
			{bad, "443", baseline.Rejected, "threat intelligence lists it (mine:1, as 203.0.113.99)", 5},
			{"192.0.2.0/24", "443", baseline.Accepted, "5 addresses of it, seen on 5 of 6", 5},
			{"192.0.2.200", "8443", baseline.Accepted, "5 of 6", 5},
			{"/usr/bin/pumpd", "", baseline.Accepted, "6 of 6", 6},
			{"/tmp/x", "", baseline.Held, "1 of 6", 1},
			{"service", "", baseline.Accepted, "5 of 6", 5},
		} {
			e := find(t, b, c.peer, c.ports)
			if e.Decision != c.decision || !strings.Contains(e.Reason, c.reason) || e.Devices != c.devices || e.First.IsZero() || e.Last.Before(e.First) || e.Count == 0 || e.Days == 0 {
				t.Errorf("%s: %+v", c.peer, e)
			}
		}
		if len(b.Entries) != 9 {
			t.Errorf("%d entries: %+v", len(b.Entries), b.Entries)
		}
		night := find(t, b, "192.0.2.200", "8443")
		if !slices.Equal(night.Hours, []int{1, 2, 3}) {
			t.Errorf("hours %v", night.Hours)
		}
		limits := map[string]baseline.Limit{}
		for _, l := range b.Limits {
			limits[l.Measure] = l
		}
		// Ten messages an hour from each; the flood of one device raises no limit.
		if l := limits["messages"]; l.Max != 60 || l.Min != 2 || l.Median != 10 || l.Hours < 6*24*7 {
			t.Errorf("messages %+v", l)
		}
		if l := limits["bytesOut"]; l.Max != 16<<10 || l.Decision != baseline.Accepted || !strings.Contains(l.Reason, "3 devices reached") {
			t.Errorf("bytesOut %+v", l)
		}

		// A person decides.
		evil := find(t, b, "203.0.113.66", "4444")
		_, err = s.Edit(ctx, plant, "ann", baseline.Edit{Decisions: map[string]baseline.Decision{find(t, b, bad, "443").ID: baseline.Accepted}})
		wantKind(t, "a listed peer", err, fault.Invalid, "vauban intel allow add")
		_, err = s.Edit(ctx, plant, "ann", baseline.Edit{Add: []baseline.Entry{{Kind: baseline.Peer, Direction: "Out", Protocol: "TCP", Peer: "Evil.example", Ports: "443"}}})
		wantKind(t, "a listed name", err, fault.Invalid, "evil.example")
		b = must(s.Edit(ctx, plant, "ann", baseline.Edit{
			Decisions: map[string]baseline.Decision{evil.ID: baseline.Rejected},
			Add:       []baseline.Entry{{Kind: baseline.Peer, Direction: "In", Protocol: "tcp", Peer: "10.1.2.3/16", Ports: "80"}},
		}))(t)
		if e := find(t, b, "10.1.0.0/16", "80"); e.Source != baseline.FromPerson || e.DecidedBy != "ann" || e.Decision != baseline.Accepted {
			t.Errorf("%+v", e)
		}

		// Before it counts, it says what it would do.
		p := must(s.Preview(ctx, plant, 7))(t)
		// d1 on each of 8 UTC days: its peer, its program, its volume; the listed address on one day for five devices.
		if p.Devices != 6 || p.Alerting != 6 || p.Types[alert.BaselinePeer] < 7+5 || p.Types[alert.BaselineVolume] < 7 || p.Loudest[0].Device != "d1" || p.Partial || len(p.Examples) != 20 {
			t.Errorf("preview %+v", p)
		}
		if n := len(s.world.Raised()); n != 0 {
			t.Errorf("%d alerts before it is enforced", n)
		}
		if b = must(s.Enforce(ctx, plant, "bob"))(t); b.State != baseline.Enforced || b.By != "bob" {
			t.Errorf("%+v", b)
		}
		_, err = s.Propose(ctx, plant, "ann")
		wantKind(t, "propose what is enforced", err, fault.PreconditionFailed, "relax it")
		time.Sleep(2 * time.Second)

		began := time.Now().UTC()
		s.send(report("d2", out("198.51.100.10:8883"), out("192.0.2.77:443"), flow("10.0.0.9:80", "10.1.9.9:40000", "TCP")), telemetry("d2")) // as expected
		if all := s.world.Raised(); len(all) != 0 {
			t.Fatalf("expected things raise %+v", all)
		}
		s.send(report("d2", out("203.0.113.66:4444")), report("d2", out("203.0.113.66:4444")), report("d2", out("198.51.100.10:22")),
			says("d2", "ProcessCreate", `{"Executable":"/tmp/x","CommandLine":"/tmp/x -d"}`), says("d2", "Login", `{"UserName":"root","Result":"Success","Operation":"Login","RemoteAddress":"10.9.9.9"}`))
		if began.Hour() >= 1 && began.Hour() <= 3 {
			t.Fatalf("it is %v", began)
		}
		s.send(report("d3", out("192.0.2.200:8443")))
		flood := make([]iot.Message, 61)
		for i := range flood {
			flood[i] = telemetry("d4")
		}
		s.send(flood...)
		since := "Since " + began.Format(time.DateTime) + " UTC."
		for _, want := range []struct{ kind, device, indicator, text string }{
			{alert.BaselinePeer, "d2", "Out TCP 203.0.113.66:4444", "Device d2 connected to 203.0.113.66 by TCP port 4444. The baseline of its security group plant expects: to 192.0.2.123, UDP port 123; to 198.51.100.10, TCP port 8883; to 192.0.2.0/24, TCP port 443; to 192.0.2.200, TCP port 8443, at 01-04 h UTC. " + since},
			{alert.BaselineProcess, "d2", "/tmp/x", `Device d2 started "/tmp/x". The baseline of its security group plant expects: one of 1 programs: "/usr/bin/pumpd". ` + since},
			{alert.BaselinePort, "d2", "Out TCP 198.51.100.10:22", "expects: to 198.51.100.10, TCP port 8883. " + since},
			{alert.BaselineUser, "d2", "root", `was signed in to by user "root". The baseline of its security group plant expects: one of 1 users: "service". ` + since},
			{alert.BaselineRate, "d4", "messages", "Device d4 had 61 messages since " + began.Truncate(time.Hour).Format("15:04") + " UTC. The baseline of its security group plant expects: at most 60 messages in an hour (half of the hours had at most 10 messages, 99 of 100 at most 10 messages). "},
			{alert.BaselineTime, "d3", "Out TCP 192.0.2.200:8443", "expects: to 192.0.2.200, TCP port 8443, at 01-04 h UTC. "},
		} {
			all := s.world.Raised()
			if len(all) != 6 {
				t.Fatalf("%d alerts: %+v", len(all), all)
			}
			i := slices.IndexFunc(all, func(a alert.Alert) bool { return a.Type == want.kind })
			if i < 0 {
				t.Errorf("no %s", want.kind)
				continue
			}
			a := all[i]
			if a.Device != want.device || a.Indicator != want.indicator || !strings.Contains(a.Description, want.text) || a.Group != plant || a.Severity != alert.Medium || a.Day != began.Format(time.DateOnly) {
				t.Errorf("got  %s %s %q %q\nwant %s %q %q", a.Type, a.Device, a.Indicator, a.Description, want.device, want.indicator, want.text)
			}
			var details struct {
				SecurityGroup string
				Seen          map[string]any
				Expected      []string
				Since         time.Time
			}
			if err := json.Unmarshal(a.Evidence[0].Details, &details); err != nil || details.SecurityGroup != plant || len(details.Seen) == 0 || len(details.Expected) == 0 || details.Since.IsZero() {
				t.Errorf("evidence %s, %v", a.Evidence[0].Details, err)
			}
			if want.kind == alert.BaselinePeer && (a.Count != 2 || a.Remote != "203.0.113.66" || a.Direction != "Out" || len(a.Evidence) != 4 || a.Evidence[1].Form != secmsg.FlatBuffers) {
				t.Errorf("%+v", a)
			}
		}

		// The next day is an alert of its own, which says since when.
		time.Sleep(24 * time.Hour)
		s.send(report("d2", out("203.0.113.66:4444")))
		all := s.world.Raised()
		i := slices.IndexFunc(all, func(a alert.Alert) bool { return a.Type == alert.BaselinePeer && a.Day != began.Format(time.DateOnly) })
		if i < 0 || !strings.Contains(all[i].Description, since) {
			t.Errorf("on the next day: %+v", all)
		}

		// What is enforced becomes a rule on request.
		promoted := must(s.Promote(ctx, plant))(t)
		want := []string{"192.0.2.0/24", "192.0.2.123/32", "192.0.2.200/32", "198.51.100.10/32"}
		if !slices.Equal(promoted.Values, want) || promoted.Added != 4 {
			t.Errorf("%+v", promoted)
		}
		rule := s.world.Rules[plant].Allow[slices.IndexFunc(s.world.Rules[plant].Allow, func(r group.AllowRule) bool { return r.RuleType == promoted.Rule })]
		if !rule.IsEnabled || !slices.Equal(rule.Values, want) || promoted.Rule != "ConnectionToIpNotAllowed" {
			t.Errorf("%+v", rule)
		}

		n := len(s.world.Raised())
		must(s.Relax(ctx, plant, "ann"))(t)
		time.Sleep(2 * time.Second)
		s.send(report("d2", out("203.0.113.77:1")))
		if len(s.world.Raised()) != n {
			t.Error("a relaxed baseline raises alerts")
		}
		if b = must(s.Propose(ctx, plant, "ann"))(t); find(t, b, "203.0.113.66", "4444").Decision != baseline.Rejected || find(t, b, "10.1.0.0/16", "80").Decision != baseline.Accepted {
			t.Errorf("proposed anew, decisions are lost: %+v", b.Entries)
		}
		if b = must(s.Learn(ctx, plant, "ann", baseline.Terms{}))(t); b.Learned.Messages != 0 || len(b.Entries) != 0 || b.State != baseline.Learning {
			t.Errorf("learned anew: %+v", b)
		}
		if err := s.TurnOff(ctx, plant); err != nil {
			t.Error(err)
		}
		wantKind(t, "off twice", s.TurnOff(ctx, plant), fault.NotFound, "no baseline")
	})
}
