package storagetest

import (
	"encoding/json"
	"fmt"
	"net/netip"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/vauban-iot/vauban/defender/alert"
	"github.com/vauban-iot/vauban/defender/posture"
	"github.com/vauban-iot/vauban/defender/record"
	"github.com/vauban-iot/vauban/fault"
	"github.com/vauban-iot/vauban/hub/registry"
	"github.com/vauban-iot/vauban/hub/twin"
	"github.com/vauban-iot/vauban/iot"
)

// Posture is what a posture.Store promises.
func Posture(t *testing.T, open Open) {
	hour := func(n int) time.Time { return kept(Start).Add(time.Duration(n) * time.Hour) }
	about := func(device string) iot.ID { return iot.ID{Device: device} }
	finding := func(kind, device, why string) posture.Finding {
		return posture.Finding{Type: kind, About: about(device), Data: map[string]string{"Why": why}}
	}
	// of is an assessment of open ports and TLS of devices.
	of := func(at int, first, last string, found ...posture.Finding) posture.Assessment {
		return posture.Assessment{At: hour(at), Scope: posture.Scope{Types: []string{posture.OpenPorts, posture.VulnerableTLSCipherSuite}, First: first, Last: last}, Findings: found}
	}
	outline := func(rs []posture.Recommendation) string {
		var lines []string
		for i := range rs {
			lines = append(lines, fmt.Sprintf("%s %s %s", rs[i].Of(), strings.TrimPrefix(rs[i].Type, "IoT_"), rs[i].State))
		}
		return strings.Join(lines, ", ")
	}
	want := func(t *testing.T, what string, got []posture.Recommendation, lines string) {
		t.Helper()
		if g := outline(got); g != lines {
			t.Errorf("%s: got %q, want %q", what, g, lines)
		}
	}
	add := func(t *testing.T, s Store, id iot.ID, tags string) {
		t.Helper()
		d := device(id.Device)
		d.ID = id
		tw := twin.New(id)
		if tags != "" {
			tw.Tags = json.RawMessage(tags)
		}
		ok(t, s.Create(t.Context(), d, tw))
	}

	t.Run("a recommendation resolves and comes back as the same", func(t *testing.T) {
		s, ctx := open(t), t.Context()
		got := must(s.Assess(ctx, of(0, "a", "c", finding(posture.OpenPorts, "b", "☂<'%\x00"))))(t)
		want(t, "new", got, "b OpenPorts Active")
		first := got[0]
		text := `{"Why":"☂<'%\u0000"}`
		if first.ID != posture.ID(posture.OpenPorts, about("b")) || first.Severity != alert.Medium || !first.Discovered.Equal(hour(0)) || !first.FirstEvaluated.Equal(hour(0)) ||
			!first.Resolved.IsZero() || string(first.Data) != text || first.Title == "" || first.TypeID == "" || len(first.Remediation) == 0 {
			t.Errorf("new: %+v", first)
		}
		same(t, "read", must(s.Recommendation(ctx, first.ID))(t), first)
		_, err := s.Recommendation(ctx, "nobody")
		wantKind(t, "an unknown one", err, fault.NotFound)
		if got := must(s.Assess(ctx, of(1, "a", "c", finding(posture.OpenPorts, "b", "☂<'%\x00"))))(t); len(got) != 0 {
			t.Errorf("nothing changed, and yet %q", outline(got))
		}
		got = must(s.Assess(ctx, of(2, "b", "b", finding(posture.OpenPorts, "b", "other"))))(t)
		if want(t, "other data", got, "b OpenPorts Active"); !got[0].StatusChanged.Equal(hour(0)) || got[0].Sequence <= first.Sequence || string(got[0].Data) != `{"Why":"other"}` {
			t.Errorf("other data: %+v", got[0])
		}
		got = must(s.Assess(ctx, of(3, "a", "c")))(t)
		if want(t, "over", got, "b OpenPorts Resolved"); !got[0].Resolved.Equal(hour(3)) || !got[0].StatusChanged.Equal(hour(3)) || string(got[0].Data) != `{"Why":"other"}` {
			t.Errorf("over: %+v", got[0])
		}
		same(t, "read when it is over", must(s.Recommendation(ctx, first.ID))(t), got[0])
		if got := must(s.Assess(ctx, of(4, "a", "c")))(t); len(got) != 0 {
			t.Errorf("still over, and yet %q", outline(got))
		}
		got = must(s.Assess(ctx, of(5, "a", "c", finding(posture.OpenPorts, "b", "again"))))(t)
		if want(t, "again", got, "b OpenPorts Active"); got[0].ID != first.ID || !got[0].FirstEvaluated.Equal(hour(0)) || !got[0].Discovered.Equal(hour(5)) || !got[0].StatusChanged.Equal(hour(5)) || !got[0].Resolved.IsZero() {
			t.Errorf("again: %+v", got[0])
		}
		same(t, "read again", must(s.Recommendation(ctx, first.ID))(t), got[0])
	})

	t.Run("nothing outside of its scope changes", func(t *testing.T) {
		s, ctx := open(t), t.Context()
		all := of(0, "", "")
		all.Scope.First, all.Scope.Open = "\x01", true
		all.Scope.Types = append(all.Scope.Types, posture.CISBenchmarks)
		for _, d := range []string{"a", "b", "c"} {
			all.Findings = append(all.Findings, finding(posture.OpenPorts, d, ""), finding(posture.CISBenchmarks+"_1", d, ""))
		}
		all.Findings = append(all.Findings, posture.Finding{Type: posture.OpenPorts, About: iot.ID{Device: "b", Module: "m"}, Severity: alert.High})
		if got := must(s.Assess(ctx, all))(t); len(got) != 7 {
			t.Fatalf("new: %q", outline(got))
		}
		hub := posture.Assessment{At: hour(0), Scope: posture.Scope{Types: []string{posture.IPFilterDenyAll}}, Findings: []posture.Finding{{Type: posture.IPFilterDenyAll}}}
		want(t, "of the hub", must(s.Assess(ctx, hub))(t), " IPFilter_DenyAll Active")
		none := ""
		module := of(1, "b", "b")
		module.Scope.Module = &none
		want(t, "of the device, not its module", must(s.Assess(ctx, module))(t), "b OpenPorts Resolved")
		family := posture.Assessment{At: hour(2), Scope: posture.Scope{Types: []string{posture.CISBenchmarks}, First: "a", Last: "b"}, Findings: []posture.Finding{finding(posture.CISBenchmarks+"_2", "b", "")}}
		want(t, "a family", must(s.Assess(ctx, family))(t), "b CISBenchmarks_2 Active, a CISBenchmarks_1 Resolved, b CISBenchmarks_1 Resolved")
		rest := of(3, "b\x01", "")
		rest.Scope.Open = true
		want(t, "behind b", must(s.Assess(ctx, rest))(t), "c OpenPorts Resolved")
		same(t, "none of it is without types", must(s.Assess(ctx, posture.Assessment{Scope: posture.Scope{Open: true}}))(t), []posture.Recommendation(nil))
		hub.Findings, hub.At = nil, hour(4)
		want(t, "of the hub", must(s.Assess(ctx, hub))(t), " IPFilter_DenyAll Resolved")
		want(t, "what is left", must(s.Recommendations(ctx, posture.Filter{State: posture.Active, Oldest: true}))(t),
			"a OpenPorts Active, c CISBenchmarks_1 Active, b/m OpenPorts Active, b CISBenchmarks_2 Active")
	})

	t.Run("an older message changes nothing", func(t *testing.T) {
		s, ctx := open(t), t.Context()
		said := func(message uint64, found ...posture.Finding) posture.Assessment {
			a := of(int(message), "a", "a", found...)
			a.Message = message
			return a
		}
		must(s.Assess(ctx, said(5, finding(posture.OpenPorts, "a", "5"))))(t)
		for _, a := range []posture.Assessment{said(4), said(4, finding(posture.OpenPorts, "a", "4"))} {
			if got := must(s.Assess(ctx, a))(t); len(got) != 0 {
				t.Errorf("an older message made %q", outline(got))
			}
		}
		must(s.Assess(ctx, said(7)))(t)
		if got := must(s.Assess(ctx, said(6, finding(posture.OpenPorts, "a", "6"))))(t); len(got) != 0 {
			t.Errorf("an older message opened %q", outline(got))
		}
		want(t, "a newer one", must(s.Assess(ctx, said(8, finding(posture.OpenPorts, "a", "8"))))(t), "a OpenPorts Active")
	})

	t.Run("lists narrow and page", func(t *testing.T) {
		s, ctx := open(t), t.Context()
		add(t, s, about("a"), `{"SecurityGroup":"plant ☂"}`)
		for _, d := range []string{"b", "c"} {
			add(t, s, about(d), "")
		}
		must(s.Assess(ctx, of(0, "a", "c", finding(posture.OpenPorts, "a", ""), finding(posture.VulnerableTLSCipherSuite, "a", ""), finding(posture.OpenPorts, "b", ""), finding(posture.OpenPorts, "c", ""))))(t)
		must(s.Assess(ctx, of(1, "c", "c")))(t)
		must(s.Assess(ctx, posture.Assessment{At: hour(2), Scope: posture.Scope{Types: []string{posture.InstallAgent, posture.CISBenchmarks}, First: "b", Last: "b"},
			Findings: []posture.Finding{finding(posture.InstallAgent, "b", ""), finding(posture.CISBenchmarks+"_x", "b", "")}}))(t)
		must(s.Assess(ctx, posture.Assessment{At: hour(3), Scope: posture.Scope{Types: []string{posture.IPFilterDenyAll}}, Findings: []posture.Finding{{Type: posture.IPFilterDenyAll}}}))(t)
		for _, c := range []struct {
			f    posture.Filter
			want int
		}{
			{posture.Filter{}, 7}, {posture.Filter{Device: "a"}, 2}, {posture.Filter{Hub: true}, 1}, {posture.Filter{Type: posture.OpenPorts}, 3},
			{posture.Filter{State: posture.Resolved}, 1}, {posture.Filter{State: posture.Active, Type: posture.OpenPorts}, 2}, {posture.Filter{Severity: alert.Low}, 1},
			{posture.Filter{Type: posture.CISBenchmarks}, 1}, {posture.Filter{Type: posture.CISBenchmarks + "_x"}, 1}, {posture.Filter{Type: posture.CISBenchmarks + "_y"}, 0},
			{posture.Filter{Group: "plant ☂"}, 2}, {posture.Filter{Group: "default"}, 4}, {posture.Filter{Group: "Plant ☂"}, 0},
		} {
			if got := must(s.Recommendations(ctx, c.f))(t); len(got) != c.want {
				t.Errorf("%+v lists %q, want %d", c.f, outline(got), c.want)
			}
		}
		newest := must(s.Recommendations(ctx, posture.Filter{}))(t)
		oldest := must(s.Recommendations(ctx, posture.Filter{Oldest: true}))(t)
		for i := range newest {
			same(t, "the other way round", newest[i], oldest[len(oldest)-1-i])
		}
		same(t, "a page", must(s.Recommendations(ctx, posture.Filter{Before: newest[1].Sequence, Limit: 2}))(t), newest[2:4])
		same(t, "what follows", must(s.Recommendations(ctx, posture.Filter{After: oldest[4].Sequence, Oldest: true, Limit: 1}))(t), oldest[5:6])
	})

	t.Run("totals are of registered devices, and take each family once", func(t *testing.T) {
		s, ctx := open(t), t.Context()
		add(t, s, about("a"), `{"SecurityGroup":"plant"}`)
		add(t, s, iot.ID{Device: "a", Module: "m"}, "")
		for _, d := range []string{"b", "c", "d"} {
			add(t, s, about(d), "")
		}
		types := []string{posture.OpenPorts, posture.CISBenchmarks, posture.SharedCredentials, posture.InstallAgent, posture.PrivilegedDockerOptions, posture.ExpiringAuthority, posture.InconsistentModuleSettings}
		found := []posture.Finding{
			finding(posture.OpenPorts, "a", ""), {Type: posture.OpenPorts, About: iot.ID{Device: "a", Module: "m"}},
			{Type: posture.CISBenchmarks + "_1", About: about("b"), Severity: alert.High}, {Type: posture.CISBenchmarks + "_2", About: about("b"), Severity: alert.Low},
			finding(posture.InstallAgent, "b", ""), finding(posture.InstallAgent, "gone", ""),
		}
		for _, kind := range []string{posture.SharedCredentials, posture.PrivilegedDockerOptions, posture.OpenPorts, posture.ExpiringAuthority, posture.CISBenchmarks + "_3"} {
			found = append(found, posture.Finding{Type: kind, About: about("c"), Severity: alert.High})
		}
		must(s.Assess(ctx, posture.Assessment{At: hour(0), Scope: posture.Scope{Types: types, First: "\x01", Open: true}, Findings: found}))(t)
		must(s.Assess(ctx, posture.Assessment{At: hour(0), Scope: posture.Scope{Types: []string{posture.OpenPorts, posture.ExpiringAuthority}}, Findings: []posture.Finding{{Type: posture.ExpiringAuthority}}}))(t)
		low, mid, high := posture.Weight(alert.Low), posture.Weight(alert.Medium), posture.Weight(alert.High)
		got := must(s.Totals(ctx, posture.Whole{}))(t)
		same(t, "the fleet", got, posture.Totals{Devices: 4, Unhealthy: 3, Lost: mid + (high + low) + 100, Tallies: []posture.Tally{
			{Type: posture.CISBenchmarks, Severity: alert.High, Devices: 2, Count: 3, Weight: 2 * high},
			{Type: posture.ExpiringAuthority, Severity: alert.High, Devices: 1, Count: 2, Weight: high, HubTakes: high},
			{Type: posture.InstallAgent, Severity: alert.Low, Devices: 1, Count: 1, Weight: low},
			{Type: posture.OpenPorts, Severity: alert.High, Devices: 2, Count: 3, Weight: mid + high},
			{Type: posture.PrivilegedDockerOptions, Severity: alert.High, Devices: 1, Count: 1, Weight: high},
			{Type: posture.SharedCredentials, Severity: alert.High, Devices: 1, Count: 1, Weight: high},
		}})
		same(t, "a group", must(s.Totals(ctx, posture.Whole{Group: "plant"}))(t), posture.Totals{Devices: 1, Unhealthy: 1, Lost: mid,
			Tallies: []posture.Tally{{Type: posture.OpenPorts, Severity: alert.Medium, Devices: 1, Count: 2, Weight: mid}}})
		if got := must(s.Totals(ctx, posture.Whole{Group: "default"}))(t); got.Devices != 3 || got.Unhealthy != 2 {
			t.Errorf("the default group: %+v", got)
		}
		same(t, "a device that is well", must(s.Totals(ctx, posture.Whole{Device: "d"}))(t), posture.Totals{Devices: 1})
		if got := must(s.Totals(ctx, posture.Whole{Device: "b"}))(t); got.Lost != high+low || len(got.Tallies) != 2 {
			t.Errorf("a device: %+v", got)
		}
		_, err := s.Totals(ctx, posture.Whole{Device: "gone"})
		wantKind(t, "a device that is gone", err, fault.NotFound)
	})

	t.Run("types are resolved as a whole, and what is gone with its device", func(t *testing.T) {
		s, ctx := open(t), t.Context()
		add(t, s, about("a"), "")
		add(t, s, iot.ID{Device: "a", Module: "m"}, "")
		all := of(0, "a", "c", finding(posture.OpenPorts, "a", ""), finding(posture.VulnerableTLSCipherSuite, "b", ""), finding(posture.CISBenchmarks+"_1", "a", ""), finding(posture.CISBenchmarks+"_2", "a", ""),
			posture.Finding{Type: posture.VulnerableTLSCipherSuite, About: iot.ID{Device: "a", Module: "m"}}, posture.Finding{Type: posture.VulnerableTLSCipherSuite, About: iot.ID{Device: "a", Module: "gone"}})
		all.Scope.Types = append(all.Scope.Types, posture.CISBenchmarks)
		must(s.Assess(ctx, all))(t)
		if n := must(s.ResolveTypes(ctx, []string{posture.OpenPorts, posture.CISBenchmarks + "_2"}, hour(1)))(t); n != 2 {
			t.Errorf("%d were resolved", n)
		}
		if n := must(s.ResolveTypes(ctx, []string{posture.CISBenchmarks}, hour(2)))(t); n != 1 {
			t.Errorf("%d of the family were resolved", n)
		}
		resolved, forgotten, err := s.Tidy(ctx, hour(3), hour(-1))
		if ok(t, err); resolved != 2 || forgotten != 0 {
			t.Errorf("%d were resolved and %d forgotten, want those of nobody resolved", resolved, forgotten)
		}
		want(t, "left", must(s.Recommendations(ctx, posture.Filter{State: posture.Active}))(t), "a/m VulnerableTLSCipherSuite Active")
		for i := range 4 { // each change has a sequence of its own, over all
			got := must(s.Recommendations(ctx, posture.Filter{State: posture.Resolved}))(t)
			if len(got) != 5 || i > 0 && got[i].Sequence >= got[i-1].Sequence {
				t.Errorf("resolved: %+v", got)
			}
		}
		if _, forgotten, err = s.Tidy(ctx, hour(4), hour(2)); err != nil || forgotten != 2 {
			t.Errorf("%d were forgotten, %v", forgotten, err)
		}
		if got := must(s.Recommendations(ctx, posture.Filter{}))(t); len(got) != 4 {
			t.Errorf("left: %q", outline(got))
		}
	})

	t.Run("what is known of devices comes by device, with keys", func(t *testing.T) {
		s, ctx := open(t), t.Context()
		d := device("a")
		tw := twin.New(d.ID)
		tw.ModelID, tw.Tags, tw.Desired, tw.Reported = "dtmi:x;1", json.RawMessage(`{"SecurityGroup":"plant ☂"}`), json.RawMessage(`{"d":1}`), json.RawMessage(`{"r":1}`)
		ok(t, s.Create(ctx, d, tw))
		id := iot.ID{Device: "a", Module: posture.MicroAgentModule}
		m := device("a")
		m.ID = id
		tw = twin.New(id)
		tw, _, err := tw.Apply(twin.Patch{Desired: json.RawMessage(`{"x":2}`), HasDesired: true}, kept(Start))
		ok(t, err)
		ok(t, s.Create(ctx, m, tw))
		add(t, s, iot.ID{Device: "a", Module: "other"}, "")
		x := device("b")
		x.Authentication = registry.Authentication{Type: registry.SelfSigned, PrimaryThumbprint: strings.Repeat("A", 40), SecondaryThumbprint: strings.Repeat("B", 40)}
		ok(t, s.Create(ctx, x, twin.New(x.ID)))
		add(t, s, about("c"), `{"SecurityGroup":7}`)
		_, err = s.Record(ctx, []record.Event{{Place: record.Place{Message: 1}, Device: "b", Module: "m", Name: "Heartbeat"}}, nil)
		ok(t, err)
		link := posture.Link{ID: about("b"), Remote: netip.MustParseAddr("2001:db8::1"), Version: 0x0303, CipherSuite: 0xc027, NotBefore: hour(0), NotAfter: hour(1), At: hour(0)}
		ok(t, s.KeepLinks(ctx, []posture.Link{link, {ID: iot.ID{Device: "a"}, At: hour(0)}, {ID: about("gone"), At: hour(0)}}))
		got := must(s.DeviceFacts(ctx, "", 2))(t)
		if len(got) != 4 || got[0].ID != about("a") || got[1].ID != id || got[2].ID.Module != "other" || got[3].ID != about("b") {
			t.Fatalf("got %+v", got)
		}
		a, agent, other, b := got[0], got[1], got[2], got[3]
		if a.Group != "plant ☂" || a.ModelID != "dtmi:x;1" || string(a.Reported) != `{"r":1}` || len(a.Desired) != 0 || a.SecurityMessage || a.Link.Remote.IsValid() {
			t.Errorf("the device: %+v", a)
		}
		same(t, "its keys", a.Authentication, d.Authentication)
		if string(agent.Desired) != `{"x":2}` || !agent.DesiredUpdated.Equal(kept(Start).Truncate(100*time.Nanosecond)) || len(agent.Reported) == 0 || agent.Group != "plant ☂" {
			t.Errorf("the agent: %+v", agent)
		}
		if len(other.Desired) == 0 || len(other.Reported) != 0 {
			t.Errorf("another module: %+v", other)
		}
		same(t, "its thumbprints", b.Authentication, x.Authentication)
		if diff := cmp.Diff(link, b.Link, cmpopts.EquateComparable(netip.Addr{})); diff != "" || !b.SecurityMessage {
			t.Errorf("the link of b: %s", diff)
		}
		link.Remote, link.Version, link.NotBefore, link.NotAfter, link.At = netip.MustParseAddr("192.0.2.1"), 0x0304, time.Time{}, time.Time{}, hour(2)
		ok(t, s.KeepLinks(ctx, []posture.Link{link}))
		got = must(s.DeviceFacts(ctx, "a", 10))(t)
		if len(got) != 2 || got[1].ID != about("c") || got[1].Group != "" {
			t.Fatalf("behind a: %+v", got)
		}
		if diff := cmp.Diff(link, got[0].Link, cmpopts.EquateComparable(netip.Addr{})); diff != "" {
			t.Errorf("the later link: %s", diff)
		}
		many := make([]record.Event, 300)
		for i := range many {
			many[i] = record.Event{Place: record.Place{Message: uint64(10 + i)}, Device: "c", Module: "m", Name: "Heartbeat"}
		}
		_, err = s.Record(ctx, many, nil)
		ok(t, err)
		if got := must(s.DeviceFacts(ctx, "b", 10))(t); got[0].ID != about("c") || !got[0].SecurityMessage {
			t.Errorf("c said much: %+v", got)
		}
		if got := must(s.DeviceFacts(ctx, "c", 10))(t); len(got) != 0 {
			t.Errorf("behind the last: %+v", got)
		}
		_, _, err = s.Tidy(ctx, hour(3), hour(0)) // forgets the link of nobody, and no other
		ok(t, err)
		if got := must(s.DeviceFacts(ctx, "a", 1))(t); !got[0].Link.Remote.IsValid() {
			t.Errorf("tidied away: %+v", got)
		}
	})

	t.Run("sequences are seen in their order", func(t *testing.T) {
		s, ctx := open(t), t.Context()
		const writers, each = 4, 10
		var wg sync.WaitGroup
		for w := range writers {
			wg.Go(func() {
				for i := range each {
					d := fmt.Sprintf("d%d-%02d", w, i)
					if _, err := s.Assess(ctx, of(0, d, d, finding(posture.OpenPorts, d, ""))); err != nil {
						t.Error(err)
					}
				}
			})
		}
		done := make(chan struct{})
		go func() { wg.Wait(); close(done) }()
		var after uint64
		seen := 0
		for last := false; ; {
			list := must(s.Recommendations(ctx, posture.Filter{After: after, Oldest: true}))(t)
			for i := range list {
				after = list[i].Sequence
				seen++
			}
			if last {
				break
			}
			select {
			case <-done:
				last = true
			default:
			}
		}
		if seen != writers*each {
			t.Errorf("a follower saw %d of %d", seen, writers*each)
		}
	})
}
