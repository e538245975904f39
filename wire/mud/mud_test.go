package mud

import (
	"errors"
	"fmt"
	"net/netip"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
)

func sample(t testing.TB) []byte {
	t.Helper()
	text, err := os.ReadFile("testdata/thermostat.json")
	if err != nil {
		t.Fatal(err)
	}
	return text
}

var equal = cmp.Options{cmpopts.EquateEmpty(), cmp.Comparer(func(a, b netip.Prefix) bool { return a == b })}

func TestParse(t *testing.T) {
	t.Parallel()
	f, err := Parse(sample(t))
	if err != nil {
		t.Fatal(err)
	}
	from, to := new(FromDevice), new(ToDevice)
	out := func(protocol int, p Peer, ports ...Ports) Rule {
		return Rule{Version: 4, Protocol: protocol, Peer: p, Remote: ports}
	}
	cloud := out(TCP, Peer{Kind: DNSName, Name: "cloud.things.example"}, Ports{443, 443})
	cloud.Initiated = from
	back := cloud
	back.Direction = ToDevice
	want := File{
		URL: "https://things.example/mud/thermostat-2", LastUpdate: time.Date(2026, 1, 10, 11, 0, 0, 0, time.UTC), CacheValidity: 24, Supported: true,
		SystemInfo: "Wall thermostat, second edition", Manufacturer: "Things of Example", Model: "thermostat-2",
		Rules: []Rule{
			cloud,
			out(UDP, Peer{Kind: Network, Prefix: netip.MustParsePrefix("192.0.2.0/24")}, Ports{123, 123}),
			out(TCP, Peer{Kind: MyController}, Ports{8883, 8884}),
			out(TCP, Peer{Kind: SameManufacturer}),
			out(-1, Peer{Kind: Model, Name: "https://things.example/mud/display-1"}),
			out(-1, Peer{Kind: Manufacturer, Name: "other.example"}),
			out(-1, Peer{Kind: Controller, Name: "urn:example:boiler"}),
			out(ICMP, Peer{Kind: Network, Prefix: netip.MustParsePrefix("198.51.100.1/32")}),
			{Version: 6, Protocol: UDP, Peer: Peer{Kind: LocalNetworks}, Remote: []Ports{{49152, 65535}}},
			back,
			{Direction: ToDevice, Version: 4, Protocol: TCP, Peer: Peer{Kind: LocalNetworks}, Local: []Ports{{0, 22}, {24, 65535}}, Initiated: to},
		},
		Notes: []string{`"marked" of access list "out4" was left out: it matches "ipv4 dscp", of which agents do not tell`},
	}
	if d := cmp.Diff(want, f, equal); d != "" {
		t.Errorf("-want +got:\n%s", d)
	}
}

func TestParse_Refuses(t *testing.T) {
	t.Parallel()
	good := string(sample(t))
	for _, c := range []struct{ old, new, want string }{
		{`"mud-version": 1`, `"mud-version": 2`, "mud-version is not 1"},
		{`https://things.example/mud/thermostat-2`, `http://things.example/x`, "https address"},
		{`https://things.example/mud/thermostat-2`, `https://things.example/` + strings.Repeat("x", 253), "253 are allowed"},
		{`2026-01-10T12:00:00+01:00`, `yesterday`, "last-update"},
		{`"cache-validity": 24`, `"cache-validity": 169`, "1 to 168"},
		{`"is-supported": true,`, ``, "is-supported"},
		{`{"name": "out6"}`, `{"name": "out7"}`, "not there"},
		{`"name": "unused"`, `"name": "in4"`, "taken"},
		{`"protocol": 17`, `"protocol": 6`, "udp and protocol 6"},
		{`192.0.2.77/24`, `2001:db8::/32`, "is not of ipv4"},
		{`192.0.2.77/24`, `192.0.2.77`, "no range of addresses"},
		{`"lower-port": 8883`, `"lower-port": 8885`, "no range"},
		{`"operator": "neq"`, `"operator": "almost"`, "operator"},
		{`"port": 123`, `"port": 70000`, "70000"},
		{`"forwarding": "drop"`, `"forwarding": "maybe"`, "forwarding"},
		{`{"name": "cloud", "matches": {"ipv4": {"protocol": 6, "ietf-acldns:dst`, `{"name": "no", "actions": {"forwarding": "reject"}}, {"name": "cloud", "matches": {"ipv4": {"protocol": 6, "ietf-acldns:dst`, "which drops"},
		{`Cloud.Things.example.`, `cloud things`, "is no name"},
		{`"from-device"}}, "actions"`, `"both"}}, "actions"`, "from-device or to-device"},
		{`{"same-manufacturer": [null]}`, `{"same-manufacturer": [null], "my-controller": [null]}`, "twice"},
		{`{"ietf-mud:mud": {"local-networks": [null]}, "ipv4": {},`, `{"ietf-mud:mud": {"local-networks": [null]}, "ipv6": {},`, "ipv6 in a list of type"},
		{`"ietf-mud:mud": {
    "mud`, `"mud": {
    "mud`, "no member ietf-mud:mud"},
		{`"systeminfo": "`, `"systeminfo": "` + strings.Repeat("y", 255), "255 are allowed"},
	} {
		text := strings.Replace(good, c.old, c.new, 1)
		if text == good {
			t.Errorf("%q is not in the sample", c.old)
		}
		if _, err := Parse([]byte(text)); !errors.Is(err, ErrMalformed) || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%q in place of %q: %v, want %q", c.new, c.old, err, c.want)
		}
	}
	if _, err := Parse(make([]byte, MaxSize+1)); !errors.Is(err, ErrMalformed) {
		t.Errorf("a large file: %v", err)
	}
	many := `{"name":"a","matches":{"ipv4":{}},"actions":{"forwarding":"accept"}},`
	text := `{"ietf-mud:mud":{"mud-version":1,"mud-url":"https://a.example/","last-update":"2026-01-10T12:00:00Z","is-supported":true,
		"from-device-policy":{"access-lists":{"access-list":[{"name":"a"}]}}},"ietf-access-control-list:acls":{"acl":[{"name":"a","type":"ipv4-acl-type","aces":{"ace":[` +
		strings.TrimSuffix(strings.Repeat(many, MaxRules+1), ",") + `]}}]}}`
	if _, err := Parse([]byte(text)); err == nil || !strings.Contains(err.Error(), "over 2000 entries") {
		t.Errorf("many entries: %v", err)
	}
}

func TestParse_ReadsTheDraftsName(t *testing.T) {
	t.Parallel()
	text := strings.Replace(string(sample(t)), "ietf-access-control-list:acls", "ietf-access-control-list:access-lists", 1)
	if f, err := Parse([]byte(text)); err != nil || len(f.Rules) != 11 {
		t.Errorf("%d rules, %v", len(f.Rules), err)
	}
}

// plainRules are rules with one range of ports each, in an order of their own.
func plainRules(rules []Rule) []string {
	var all []string
	for _, r := range rules {
		for _, l := range orAll(r.Local) {
			for _, m := range orAll(r.Remote) {
				text := fmt.Sprint(r.Direction, r.Version, r.Protocol, r.Peer)
				for _, p := range []*Ports{l, m} {
					if p != nil {
						text += fmt.Sprint(*p)
					} else {
						text += "all"
					}
				}
				if r.Initiated != nil {
					text += r.Initiated.String()
				}
				all = append(all, text)
			}
		}
	}
	slices.Sort(all)
	return all
}

func TestAppend_IsReadBack(t *testing.T) {
	t.Parallel()
	f, err := Parse(sample(t))
	if err != nil {
		t.Fatal(err)
	}
	text, err := f.Append(nil)
	if err != nil {
		t.Fatal(err)
	}
	again, err := Parse(text)
	if err != nil {
		t.Fatalf("%v\n%s", err, text)
	}
	if d := cmp.Diff(plainRules(f.Rules), plainRules(again.Rules)); d != "" {
		t.Error(d)
	}
	f.Rules, again.Rules, f.Notes = nil, nil, nil
	if d := cmp.Diff(f, again, equal); d != "" {
		t.Error(d)
	}
	for _, bad := range []File{{URL: "x"}, {URL: f.URL, Rules: []Rule{{}}}, {URL: f.URL, Rules: []Rule{{Version: 4, Protocol: ICMP, Local: []Ports{{1, 1}}}}}} {
		if _, err := bad.Append(nil); err == nil {
			t.Errorf("%+v was written", bad)
		}
	}
}

func FuzzParse(f *testing.F) {
	f.Add(sample(f))
	f.Add([]byte(`{"ietf-mud:mud":{"mud-version":1,"mud-url":"https://a.example/","last-update":"2026-01-10T12:00:00Z","is-supported":true}}`))
	f.Fuzz(func(t *testing.T, text []byte) {
		file, err := Parse(text)
		if err != nil {
			if !errors.Is(err, ErrMalformed) {
				t.Errorf("%v does not say what it is", err)
			}
			return
		}
		out, err := file.Append(nil)
		if err != nil {
			t.Fatalf("what was read cannot be written: %v", err)
		}
		want := plainRules(file.Rules)
		if len(out) > MaxSize || len(want) > MaxRules {
			return // ranges became entries of their own
		}
		again, err := Parse(out)
		if err != nil {
			t.Fatalf("what was written cannot be read: %v\n%s", err, out)
		}
		if d := cmp.Diff(want, plainRules(again.Rules)); d != "" {
			t.Error(d)
		}
	})
}
