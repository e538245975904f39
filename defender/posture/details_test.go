package posture_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/vauban-iot/vauban/defender/alert"
	"github.com/vauban-iot/vauban/defender/posture"
	"github.com/vauban-iot/vauban/defender/record"
	"github.com/vauban-iot/vauban/fault"
	"github.com/vauban-iot/vauban/iot"
	"github.com/vauban-iot/vauban/wire/secmsg"
)

func TestWatcher_Snapshots(t *testing.T) {
	t.Parallel()
	port := func(n int) string {
		return fmt.Sprintf(`[{"Protocol":"TCP","LocalAddress":"0.0.0.0","LocalPort":%d}]`, n)
	}
	at := func(hour int, payload string) string {
		return strings.ReplaceAll(event("ListeningPorts", payload), "2026-03-04T08:00:00", fmt.Sprintf("2026-03-04T%02d:00:00", hour))
	}
	open := func(b *bench, about iot.ID) (list []uint16) {
		r := b.want("now", posture.OpenPorts, about, posture.Active)
		var d struct{ OpenPorts []posture.Port }
		b.check(json.Unmarshal(r.Data, &d))
		for _, p := range d.OpenPorts {
			list = append(list, p.Port)
		}
		return list
	}
	b := newBench(t)
	b.say(agent1, "", fmt.Sprintf(v1, strings.Join([]string{at(7, port(7)), at(9, port(9)), at(8, port(8)), at(9, port(10))}, ",")))
	if got := open(b, agent1); !slices.Equal(got, []uint16{9, 10}) {
		t.Errorf("of several snapshots %v count, want both parts of the latest", got)
	}
	b.say(agent2, "", fmt.Sprintf(v1, at(1, port(11))))
	b.say(agent2, "", fmt.Sprintf(v1, at(1, "[]")))
	b.want("clean", posture.OpenPorts, agent2, posture.Resolved)
	if got := open(b, agent1); len(got) != 2 {
		t.Errorf("another agent of the device changed it: %v", got)
	}
	b.say(agent1, "", fmt.Sprintf(v1, event("LocalUsers", `[{"UserName":"root"}]`)))
	b.say(agent1, "", "not readable")
	if got := open(b, agent1); len(got) != 2 {
		t.Errorf("a message about something else changed it: %v", got)
	}
	var many []string
	for i := range 3000 {
		many = append(many, strings.Trim(port(i+1), "[]"))
	}
	b.report(agent1, "ListeningPorts", "["+strings.Join(many, ",")+"]")
	r := b.want("many", posture.OpenPorts, agent1, posture.Active)
	var d struct {
		OpenPorts []posture.Port
		More      int
	}
	b.check(json.Unmarshal(r.Data, &d))
	if len(r.Data) > posture.MaxData || len(d.OpenPorts) == 0 || len(d.OpenPorts)+d.More != 3000 {
		t.Errorf("%d bytes name %d of 3000 ports and %d more", len(r.Data), len(d.OpenPorts), d.More)
	}
}

func TestWatcher_Firewall(t *testing.T) {
	t.Parallel()
	rule := func(action, chain, source, destination, port string) string {
		return fmt.Sprintf(`{"Enabled":true,"Action":%q,"ChainName":%q,"SourceAddress":%q,"DestinationAddress":%q,"DestinationPort":%q}`, action, chain, source, destination, port)
	}
	const in, out, policy = posture.PermissiveInputRules, posture.PermissiveOutputRules, posture.PermissiveFirewallPolicy
	for _, c := range []struct {
		condition string
		rules     []string
		want      string // the types that are active
	}{
		{"a network and a port", []string{rule("Allow", "INPUT", "10.0.0.0/8", "", "443"), rule("Deny", "INPUT", "", "", "")}, ""},
		{"everybody, to a port", []string{rule("Allow", "INPUT", "*", "", "443"), rule("Deny", "INPUT", "", "", "")}, in},
		{"half of the world", []string{rule("Allow", "INPUT", "128.0.0.0/1", "", "443")}, in},
		{"half of the world, by its mask", []string{rule("Allow", "INPUT", "128.0.0.0/128.0.0.0", "", "443")}, in},
		{"a network, by its mask", []string{rule("Allow", "INPUT", "10.0.0.0/255.0.0.0", "", "443")}, ""},
		{"half of the world, as a range", []string{rule("Allow", "INPUT", "128.0.0.0-255.255.255.255", "", "443")}, in},
		{"much of IPv6", []string{rule("Allow", "INPUT", "2000::/3", "", "443")}, in},
		{"a tag and ports", []string{rule("Allow", "INPUT", "LocalSubnet", "", "443,8000-8010")}, ""},
		{"many ports", []string{rule("Allow", "INPUT", "10.0.0.1", "", "443,1024-65535")}, in},
		{"all ports, out", []string{rule("Allow", "OUTPUT", "", "10.0.0.1", "")}, out},
		{"a port of everybody, out", []string{rule("allow", "OUTPUT", "", "::/0", "8883")}, out},
		{"behind what denies all", []string{rule("Deny", "INPUT", "", "", ""), rule("Allow", "INPUT", "*", "", "443"), rule("Allow", "INPUT", "", "", "")}, ""},
		{"behind what jumps", []string{rule("Other", "INPUT", "", "", ""), rule("Allow", "INPUT", "*", "", "443")}, in},
		{"everything, by a rule in the middle", []string{rule("Allow", "INPUT", "", "", ""), rule("Deny", "INPUT", "", "", "")}, in},
		{"everything, by the policy", []string{rule("Allow", "INPUT", "", "", "")}, policy},
		{"what is forwarded", []string{rule("Allow", "FORWARD", "", "", "")}, ""},
		{"what is disabled", []string{strings.Replace(rule("Allow", "INPUT", "", "", ""), "true", "false", 1)}, ""},
		{"a rule that cannot be read", []string{`{"Enabled":"perhaps","Action":"Allow","ChainName":"INPUT"}`, rule("Deny", "INPUT", "", "", "")}, ""},
	} {
		t.Run(c.condition, func(t *testing.T) {
			t.Parallel()
			b := newBench(t)
			b.report(agent1, "FirewallConfiguration", "["+strings.Join(c.rules, ",")+"]")
			check := func() {
				t.Helper()
				for _, kind := range []string{in, out, policy} {
					if r, _ := b.stands(kind, agent1); (r.State == posture.Active) != (kind == c.want) {
						t.Errorf("%s is %q: %s", kind, r.State, r.Data)
					}
				}
			}
			check()
			b.report(agent1, "FirewallConfiguration", "[]") // it could not be read this time
			check()
		})
	}
}

// The Linux agent's own schema is read as JSON 1.0 is.
func TestWatcher_Linux(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	ports := func(all ...secmsg.Item) { b.linux(agent2, secmsg.Event{Name: "ListeningPorts", Payload: all}) }
	ports(
		secmsg.ListeningPort{Local: netip.MustParseAddrPort("0.0.0.0:8888"), Protocol: "TCP", ProcessID: 7, Executable: "/usr/bin/nc"},
		secmsg.ListeningPort{Local: netip.MustParseAddrPort("[::1]:25"), Protocol: "TCP"})
	if r := b.want("open", posture.OpenPorts, agent2, posture.Active); string(r.Data) != `{"OpenPorts":[{"Protocol":"TCP","LocalAddress":"0.0.0.0","LocalPort":8888,"Executable":"/usr/bin/nc"}]}` {
		t.Errorf("additional data %s", r.Data)
	}
	ports() // an event without content
	b.want("closed", posture.OpenPorts, agent2, posture.Resolved)

	rule := func(priority int, action, direction, chain, source, port string) secmsg.Item {
		return secmsg.FirewallRule{Enabled: true, Priority: priority, Action: action, Direction: direction, ChainName: chain, SourceAddress: source, DestinationPort: port}
	}
	firewall := func(all ...secmsg.Item) { b.linux(agent2, secmsg.Event{Name: "FirewallConfiguration", Payload: all}) }
	firewall(rule(3, secmsg.Allow, secmsg.In, "INPUT", "", ""), rule(2, secmsg.Allow, secmsg.In, "INPUT", "", "22"), rule(1, secmsg.Allow, secmsg.Out, "OUTPUT", "", ""))
	r := b.want("from everywhere", posture.PermissiveInputRules, agent2, posture.Active)
	if !strings.Contains(string(r.Data), `\"DestinationPort\":\"22\"`) || !strings.Contains(string(r.Data), `\"Priority\":\"2\"`) {
		t.Errorf("additional data %s", r.Data)
	}
	if r := b.want("policies", posture.PermissiveFirewallPolicy, agent2, posture.Active); string(r.Data) != `{"Chains":["INPUT","OUTPUT"]}` {
		t.Errorf("additional data %s", r.Data)
	}
	off := rule(2, secmsg.Allow, secmsg.In, "INPUT", "", "22").(secmsg.FirewallRule)
	off.Enabled = false
	firewall(rule(1, secmsg.Allow, secmsg.In, "INPUT", "10.0.0.0/8", "22"), off, rule(3, secmsg.Deny, secmsg.In, "INPUT", "", ""), rule(1, secmsg.Deny, secmsg.Out, "OUTPUT", "", ""))
	b.want("few may enter", posture.PermissiveInputRules, agent2, posture.Resolved)
	b.want("policies deny", posture.PermissiveFirewallPolicy, agent2, posture.Resolved)

	check := func(result string) {
		b.linux(agent2, secmsg.Event{Name: "Baseline", Checks: []secmsg.BaselineCheck{{ID: "DIoTTest", Result: result, Severity: "CRITICAL"}}})
	}
	check("FAIL")
	if r := b.want("the self test", posture.CISBenchmarks+"_DIoTTest", agent2, posture.Active); r.Severity != alert.High {
		t.Errorf("%+v", r)
	}
	check("PASS")
	b.want("the self test, passed", posture.CISBenchmarks+"_DIoTTest", agent2, posture.Resolved)
}

// Boards of FlatBuffers tell of open ports without a program.
func TestWatcher_FlatBuffersPorts(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	b.micro(agent2, "ListeningPorts", `{"ipv4_ports":[{"local_address":0,"common":{"local_port":8888}}],"ipv6_ports":[{"local_address":[0,0,0,16777216],"common":{"local_port":25}}]}`)
	if r := b.want("open", posture.OpenPorts, agent2, posture.Active); string(r.Data) != `{"OpenPorts":[{"Protocol":"TCP","LocalAddress":"0.0.0.0","LocalPort":8888}]}` {
		t.Errorf("additional data %s", r.Data)
	}
}

func TestWatcher_ChecksAreBounded(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	var checks []string
	for i := range 300 {
		severity := "WARNING"
		if i == 299 {
			severity = "CRITICAL"
		}
		checks = append(checks, fmt.Sprintf(`{"id":"CIS %d/☂","result":"FAIL","severity":%q,"description":"x"}`, i, severity))
	}
	b.micro(agent2, "Baseline", `{"baseline_checks":[`+strings.Join(checks, ",")+`]}`)
	alone := all(b)
	if n := len(alone); n != 251 {
		t.Errorf("%d recommendations of 300 checks", n)
	}
	if r := b.want("the gravest", posture.CISBenchmarks+"_CIS_299", agent2, posture.Active); r.Severity != alert.High {
		t.Errorf("%+v", r)
	}
	var d struct{ Failed int }
	b.check(json.Unmarshal(b.want("the others", posture.Baseline, agent2, posture.Active).Data, &d))
	if d.Failed != 50 {
		t.Errorf("%d are told of together", d.Failed)
	}
	// One check of the family is switched off by itself.
	if n, err := b.book.Enable(t.Context(), false, b.now, posture.CISBenchmarks+"_CIS_17"); err != nil || n != 1 {
		t.Errorf("%d were resolved, %v", n, err)
	}
	b.micro(agent2, "Baseline", `{"baseline_checks":[`+strings.Join(checks[:19], ",")+`]}`)
	b.want("switched off", posture.CISBenchmarks+"_CIS_17", agent2, posture.Resolved)
	b.want("not switched off", posture.CISBenchmarks+"_CIS_18", agent2, posture.Active)
	b.want("no longer failed", posture.CISBenchmarks+"_CIS_299", agent2, posture.Resolved)
	b.want("no longer too many", posture.Baseline, agent2, posture.Resolved)
}

func TestJudge_WhatIsAsItShouldBe(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	// A device and its own module may have the same key, and both keys of an identity may be one.
	b.add(dev, keys(1, 1), "", "", "")
	b.add(agent1, keys(1, 2), "", "", "")
	// Devices of no group need not be alike, and two of a group are no majority.
	for i, d := range []string{"a", "b", "c", "g1", "g2"} {
		tags := ""
		if i > 2 {
			tags = `{"SecurityGroup":"pair"}`
		}
		b.add(iot.ID{Device: d}, signed, "", "", tags)
		b.add(iot.ID{Device: d, Module: "m"}, signed, fmt.Sprintf(`{"x":%d}`, i), "", "")
		b.add(iot.ID{Device: d, Module: posture.AgentModule}, signed, "", "", "")
	}
	// One of twelve tries a new firmware; others say nothing that can be compared.
	for i := range 12 {
		version := "2.0"
		if i == 3 {
			version = "3.0-rc1"
		}
		b.add(iot.ID{Device: fmt.Sprint("f", i)}, signed, "", fmt.Sprintf(`{"firmware":{"version":{"value":%q}},"deviceInformation":{"model":"x"}}`, version), "")
	}
	b.add(iot.ID{Device: "odd"}, signed, "", `{"firmwareVersion":["1"],"deviceInformation":{"model":"x"}}`, "")
	b.look()
	for _, r := range all(b) {
		if r.Type != posture.InstallAgent && r.Type != posture.SymmetricKey {
			t.Errorf("%s about %s: %s", r.Type, r.Of(), r.Data)
		}
	}
	// A version that a tenth runs is the newest.
	b.reports(iot.ID{Device: "f4"}, `{"firmware":{"version":{"value":"3.0-rc1"}}}`)
	b.look()
	b.want("2 of 12 run it", posture.OldFirmware, iot.ID{Device: "f5"}, posture.Active)
	b.want("it runs it", posture.OldFirmware, iot.ID{Device: "f3"}, "")
	// A device that is gone has no recommendations.
	b.remove(iot.ID{Device: "f5"})
	b.look()
	b.want("it is gone", posture.OldFirmware, iot.ID{Device: "f5"}, posture.Resolved)
	b.now = b.now.Add(91 * 24 * time.Hour)
	b.look()
	b.want("long after", posture.OldFirmware, iot.ID{Device: "f5"}, "")
}

// A fleet of more pages than one, of which half share a key.
func TestJudge_Pages(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	const n = 1203
	for i := range n {
		a := signed
		if i%2 == 0 {
			a = keys(9, 9)
		}
		b.add(iot.ID{Device: fmt.Sprintf("d%04d", i)}, a, "", "", "")
	}
	b.look()
	count := func(kind string) int {
		totals, err := b.store.Totals(t.Context(), posture.Whole{})
		b.check(err)
		for _, y := range totals.Tallies {
			if y.Type == kind {
				return y.Devices
			}
		}
		return 0
	}
	if a, s := count(posture.InstallAgent), count(posture.SharedCredentials); a != n || s != (n+1)/2 {
		t.Errorf("%d have no agent and %d share a key", a, s)
	}
	for i := 0; i < n; i += 2 {
		b.authenticate(iot.ID{Device: fmt.Sprintf("d%04d", i)}, signed)
	}
	b.look()
	if s := count(posture.SharedCredentials); s != 0 {
		t.Errorf("%d still share a key", s)
	}
}

func TestScoreOf(t *testing.T) {
	t.Parallel()
	s := posture.ScoreOf(posture.Whole{Group: "g"}, posture.Totals{})
	if s.Score != 100 || s.Group != "g" || s.Lines == nil {
		t.Errorf("of nothing: %+v", s)
	}
	// Three devices: one lost 130, of which 100 count, one 12, one nothing. The hub takes 4 more.
	s = posture.ScoreOf(posture.Whole{}, posture.Totals{Devices: 3, Unhealthy: 2, Lost: 112, Tallies: []posture.Tally{
		{Type: "a", Severity: alert.High, Devices: 1, Weight: 130}, {Type: "b", Severity: alert.Medium, Devices: 1, Weight: 12}, {Type: "h", Severity: alert.Low, HubTakes: 4},
	}})
	sum := 0.0
	for _, l := range s.Lines {
		sum += l.Takes
	}
	if s.Score != 59 || s.Unhealthy != 2 || s.GivenBack != 10 || int(100-sum+s.GivenBack+0.5) != s.Score || s.Lines[0].Type != "a" || s.Lines[1].Takes != 4 || !s.Lines[2].Hub {
		t.Errorf("got %+v", s)
	}
	if s = posture.ScoreOf(posture.Whole{}, posture.Totals{Devices: 1, Lost: 100, Tallies: []posture.Tally{{Type: "a", Devices: 1, Weight: 100, HubTakes: 30}}}); s.Score != 0 || s.GivenBack != 30 {
		t.Errorf("nothing has less than 0: %+v", s)
	}
	for _, v := range []alert.Severity{alert.High, alert.Medium, alert.Low, alert.Informational} {
		if posture.Graver(posture.Weight(v)) != v {
			t.Errorf("the weight of %s says another severity", v)
		}
	}
}

func TestBook_Refuses(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	for _, names := range [][]string{{"IoT_Nothing"}, {posture.OpenPorts, ""}, {posture.CISBenchmarks + "_"}, {posture.CISBenchmarks + "_" + strings.Repeat("x", 200)}, {posture.OpenPorts + "_x"}} {
		if _, err := b.book.Enable(t.Context(), false, b.now, names...); !fault.Is(err, fault.Invalid) {
			t.Errorf("%q: %v", names, err)
		}
	}
	var many []string
	for i := range 1001 {
		many = append(many, fmt.Sprint(posture.CISBenchmarks, "_", i))
	}
	if _, err := b.book.Enable(t.Context(), false, b.now, many...); !fault.Is(err, fault.QuotaExceeded) {
		t.Errorf("too many: %v", err)
	}
	if d, err := b.book.Disabled(t.Context()); err != nil || len(d) != 0 {
		t.Errorf("refused, and yet %v, %v", d, err)
	}
	b.check(b.store.PutSetting(t.Context(), "defender/recommendations", []byte("{")))
	if _, err := posture.NewBook(b.store, b.store).Disabled(t.Context()); err == nil {
		t.Error("a damaged setting was read")
	}
}

// linkStore fails when it is told to.
type linkStore struct {
	mu   sync.Mutex
	fail bool
	kept map[iot.ID]posture.Link
}

func (s *linkStore) KeepLinks(_ context.Context, links []posture.Link) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.fail {
		return errors.New("the disk is full")
	}
	for _, k := range links {
		s.kept[k.ID] = k
	}
	return nil
}

func TestLinks_WaitForTheStore(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		s := &linkStore{fail: true, kept: map[iot.ID]posture.Link{}}
		reg := prometheus.NewRegistry()
		l, err := posture.NewLinks(s, slog.New(slog.DiscardHandler), reg)
		if err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithCancel(t.Context())
		var wg sync.WaitGroup
		wg.Go(func() { _ = l.Run(ctx) })
		l.Seen(iot.Credentials{ID: dev, Remote: "192.0.2.1:7", TLSVersion: 0x0303})
		l.Seen(iot.Credentials{ID: agent1, Remote: "nowhere", Certificates: certificate(morning, 1)})
		time.Sleep(5 * time.Second)
		l.Seen(iot.Credentials{ID: dev, Remote: "[::ffff:192.0.2.2]:7", TLSVersion: 0x0304, Token: "t", Certificates: certificate(morning, 1)})
		s.mu.Lock()
		s.fail = false
		s.mu.Unlock()
		time.Sleep(5 * time.Second)
		s.mu.Lock()
		got, other := s.kept[dev], s.kept[agent1]
		s.mu.Unlock()
		if got.Version != 0x0304 || got.Remote != netip.MustParseAddr("192.0.2.2") || !got.NotAfter.IsZero() {
			t.Errorf("the later link does not stand: %+v", got)
		}
		if other.Remote.IsValid() || !other.NotBefore.Equal(morning) {
			t.Errorf("what failed was lost: %+v", other)
		}
		s.mu.Lock()
		s.fail = true
		s.mu.Unlock()
		for i := range 100_010 {
			l.Seen(iot.Credentials{ID: iot.ID{Device: fmt.Sprint(i)}})
		}
		families, err := reg.Gather()
		if err != nil || families[0].GetMetric()[0].GetCounter().GetValue() < 10 {
			t.Errorf("what was too much is not counted: %v, %v", families, err)
		}
		cancel()
		wg.Wait()
	})
}

// keeper is a WatcherStore that checks what it is given.
type keeper struct{ t testing.TB }

func (k keeper) Assess(_ context.Context, a posture.Assessment) ([]posture.Recommendation, error) {
	if len(a.Findings) > 2*250 {
		k.t.Errorf("%d findings of one message", len(a.Findings))
	}
	for _, f := range a.Findings {
		text, err := json.Marshal(f.Data)
		if err != nil || len(text) > posture.MaxData || !posture.Known(f.Type) || !slices.ContainsFunc(a.Scope.Types, func(s string) bool { return s == f.Type || s == posture.Family(f.Type) }) {
			k.t.Errorf("%q with %d bytes in the scope %q: %v", f.Type, len(text), a.Scope.Types, err)
		}
	}
	return nil, nil
}

func (k keeper) SecurityEvents(context.Context, record.Filter) ([]record.Event, error) {
	return []record.Event{{Details: []json.RawMessage{json.RawMessage(`{"MessagesSent":"18446744073709551615","MessagesUnder4KB":-1}`), json.RawMessage(`{"MessagesSent":4294967295,"MessagesUnder4KB":"7"}`)}}}, nil
}

func FuzzWatcher(f *testing.F) {
	for _, e := range []string{
		event("ListeningPorts", `[{"Protocol":"tcp","LocalPort":"8888","LocalAddress":"0.0.0.0"},{"local_port":7,"local_address":"::1","protocol":"UDP"}]`),
		event("FirewallConfiguration", chains("Allow", "Allow", fmt.Sprintf(firewall, "Allow", 2, "INPUT", "In", "TCP", "0.0.0.0/0", "1.1.1.1-2.2.2.2", "1:9,7"))),
		event("OSBaseline", `[{"CceId":"CCE-1","Result":"Fail","Severity":"Critical"}]`),
		event("Baseline", `[{"CceId":"☂/__","Result":"fail","Severity":"important"}]`),
		event("ConfigurationError", `[{"ConfigurationName":"x","ErrorType":"Conflict","UsedConfiguration":7,"Message":null}]`),
		event("MessageStatistics", `[{"MessagesSent":10,"MessagesUnder4KB":1}]`),
	} {
		f.Add("", []byte(fmt.Sprintf(v1, e)))
	}
	f.Add("2.3-0-1-0", []byte(`{"security_module_id":"m","events":[{"payload_type":"Baseline","payload":{"baseline_checks":[{"id":"DIoTTest","result":"FAIL"}]}},{"payload_type":"ListeningPorts","payload":{"ipv4_ports":[{"local_address":1,"common":{"local_port":9}}]}}]}`))
	f.Fuzz(func(t *testing.T, mti string, body []byte) {
		r, err := secmsg.Decode(mti, body)
		if err != nil {
			return
		}
		w, err := posture.NewWatcher(keeper{t}, func(context.Context) (posture.Disabled, error) { return nil, nil }, nil)
		if err != nil {
			t.Fatal(err)
		}
		if err := w.Reported(t.Context(), &iot.Message{From: agent1, Sequence: 1}, &r); err != nil {
			t.Error(err)
		}
	})
}
