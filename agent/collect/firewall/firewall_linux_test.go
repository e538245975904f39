package firewall

import (
	"os/exec"
	"slices"
	"strings"
	"testing"

	"github.com/vauban-iot/vauban/agent/collect/netnstest"
	"github.com/vauban-iot/vauban/wire/secmsg"
)

const ruleset = `table inet f {
	chain input { type filter hook input priority 0; policy drop;
		ct state established,related accept
		iifname lo accept
		tcp dport { 22, 80-90 } ip saddr 10.0.0.0/8 accept
		ip6 saddr fd00::/8 udp dport 53 counter accept
		ct state new tcp dport 443 accept
		meta l4proto icmp accept
		tcp dport 8080 jump other
		iifname "wan0" tcp dport 8883 accept
		drop
	}
	chain other { ip saddr 192.0.2.1 reject
	}
	chain out { type filter hook output priority 0; ip daddr != 10.0.0.1 accept; }
	chain nat { type nat hook output priority 0; tcp dport 1 accept; }
}
table bridge b { chain input { type filter hook input priority 0; policy drop; }
}
`

func take(t *testing.T, n netnstest.Namespace, s *Snapshot, source string) []secmsg.FirewallRule {
	t.Helper()
	var rules []secmsg.FirewallRule
	n.Do(t, func() error {
		all, err := s.Take(t.Context())
		for _, o := range all {
			if o.Event != "FirewallConfiguration" || o.Hits != 1 || o.Time.IsZero() {
				t.Errorf("observation %+v", o)
			}
			rules = append(rules, o.Item.(secmsg.FirewallRule))
		}
		return err
	})
	if got := s.Source(); got != source && !strings.HasPrefix(got, source+" (") {
		t.Errorf("the source is %s, want %s", got, source)
	}
	return rules
}

func same(t *testing.T, got, want []secmsg.FirewallRule) {
	t.Helper()
	for i := range want {
		want[i].Enabled = true
	}
	for i := range max(len(got), len(want)) {
		if i >= len(got) || i >= len(want) || got[i] != want[i] {
			t.Fatalf("rule %d: got %+v, want %+v", i, got[min(i, len(got)):min(len(got), i+1)], want[min(i, len(want)):min(len(want), i+1)])
		}
	}
}

func command(t *testing.T, n netnstest.Namespace, stdin, name string, args ...string) {
	t.Helper()
	n.Do(t, func() error {
		cmd := exec.Command(name, args...)
		cmd.Stdin = strings.NewReader(stdin)
		out, err := cmd.CombinedOutput()
		if err != nil {
			t.Errorf("%s: %s (make deps installs it)", name, out)
		}
		return err
	})
}

var none = []secmsg.FirewallRule{
	{Action: "Allow", Priority: 1, Direction: "In", ChainName: "INPUT"}, {Action: "Allow", Priority: 1, ChainName: "FORWARD"}, {Action: "Allow", Priority: 1, Direction: "Out", ChainName: "OUTPUT"},
}

func TestNft(t *testing.T) {
	t.Parallel()
	p := netnstest.New(t)
	var s Snapshot
	same(t, take(t, p.Here, &s, "nft"), slices.Clone(none))
	command(t, p.Here, ruleset, "nft", "-f", "-")
	same(t, take(t, p.Here, &s, "nft"), []secmsg.FirewallRule{
		{Action: "Other", Priority: 1, Direction: "In", ChainName: "INPUT", Application: "ct state established,related"},
		{Action: "Other", Priority: 2, Direction: "In", ChainName: "INPUT", Application: "iifname lo"},
		{Action: "Allow", Priority: 3, Direction: "In", ChainName: "INPUT", Protocol: "tcp", DestinationPort: "22,80-90", SourceAddress: "10.0.0.0/8"},
		{Action: "Allow", Priority: 4, Direction: "In", ChainName: "INPUT", Protocol: "udp", DestinationPort: "53", SourceAddress: "fd00::/8"},
		{Action: "Allow", Priority: 5, Direction: "In", ChainName: "INPUT", Protocol: "tcp", DestinationPort: "443"},
		{Action: "Allow", Priority: 6, Direction: "In", ChainName: "INPUT", Protocol: "icmp"},
		{Action: "Other", Priority: 7, Direction: "In", ChainName: "INPUT", Protocol: "tcp", DestinationPort: "8080", Application: "jump other"},
		{Action: "Allow", Priority: 8, Direction: "In", ChainName: "INPUT", Protocol: "tcp", DestinationPort: "8883", Application: "iifname wan0"},
		{Action: "Deny", Priority: 9, Direction: "In", ChainName: "INPUT"},
		{Action: "Allow", Priority: 1, Direction: "Out", ChainName: "OUTPUT", DestinationAddress: "!10.0.0.1"},
		{Action: "Deny", Priority: 1, ChainName: "other", SourceAddress: "192.0.2.1"},
		{Action: "Deny", Priority: 10, Direction: "In", ChainName: "INPUT"},
		{Action: "Allow", Priority: 1, ChainName: "FORWARD"},
		{Action: "Allow", Priority: 2, Direction: "Out", ChainName: "OUTPUT"},
	})
}

func TestIptables(t *testing.T) {
	t.Parallel()
	p := netnstest.New(t)
	s := Snapshot{look: func(tool string) (string, error) {
		if strings.HasSuffix(tool, "nft") {
			return "", exec.ErrNotFound
		}
		return exec.LookPath(tool)
	}}
	same(t, take(t, p.Here, &s, "iptables-save"), slices.Clone(none))
	for _, rule := range []string{
		"-P INPUT DROP", "-A INPUT -i lo -j ACCEPT", "-A INPUT -m conntrack --ctstate ESTABLISHED,RELATED -j ACCEPT", "-N other",
		"-A INPUT -p tcp -s 10.0.0.0/8 --dport 22 -m conntrack --ctstate NEW -j ACCEPT", "-A INPUT -p udp -m multiport --dports 5,6:7 ! -s 192.0.2.1 -j DROP",
		"-A INPUT -p tcp --dport 1 -m comment --comment x\\ y -j other", "-A INPUT -m mark --mark 7 -j ACCEPT", "-A other -j REJECT",
	} {
		command(t, p.Here, "", "sh", "-c", "iptables "+rule)
	}
	want := []secmsg.FirewallRule{
		{Action: "Other", Priority: 1, Direction: "In", ChainName: "INPUT", Application: "iifname lo"},
		{Action: "Other", Priority: 2, Direction: "In", ChainName: "INPUT", Application: "ct state related,established"},
		{Action: "Allow", Priority: 3, Direction: "In", ChainName: "INPUT", Protocol: "tcp", SourceAddress: "10.0.0.0/8", DestinationPort: "22"},
		{Action: "Deny", Priority: 4, Direction: "In", ChainName: "INPUT", Protocol: "udp", SourceAddress: "!192.0.2.1/32", DestinationPort: "5,6-7"},
		{Action: "Other", Priority: 5, Direction: "In", ChainName: "INPUT", Protocol: "tcp", DestinationPort: "1", Application: "jump other"},
		{Action: "Other", Priority: 6, Direction: "In", ChainName: "INPUT", Application: "mark"},
		{Action: "Deny", Priority: 1, ChainName: "other"},
		{Action: "Allow", Priority: 7, Direction: "In", ChainName: "INPUT"}, // for IPv6 is open
		{Action: "Allow", Priority: 1, ChainName: "FORWARD"},
		{Action: "Allow", Priority: 1, Direction: "Out", ChainName: "OUTPUT"},
	}
	same(t, take(t, p.Here, &s, "iptables-save"), slices.Clone(want))
	command(t, p.Here, "", "ip6tables", "-P", "INPUT", "DROP")
	want[7].Action = "Deny"
	same(t, take(t, p.Here, &s, "iptables-save"), want)
}

func TestTake_WithoutTools(t *testing.T) {
	t.Parallel()
	s := Snapshot{look: func(string) (string, error) { return "", exec.ErrNotFound }}
	if all, err := s.Take(t.Context()); all != nil || err == nil || !strings.Contains(err.Error(), "install nftables or iptables") {
		t.Errorf("%v, %v", all, err)
	}
}

func FuzzParse(f *testing.F) {
	f.Add(`{"nftables":[{"chain":{"family":"inet","table":"f","name":"i","type":"filter","hook":"input","policy":"drop"}},{"rule":{"family":"inet","table":"f","chain":"i","expr":[{"match":{"op":"==","left":{"payload":{"protocol":"tcp","field":"dport"}},"right":{"set":[1,{"range":[2,3]},{"elem":{"val":{"prefix":{"addr":"a","len":1}}}}]}}},{"xt":{"name":"n"}},{"accept":null}]}}]}`)
	f.Add("*filter\n:INPUT DROP [0:0]\n-A INPUT ! -s 1.2.3.4 --comment \"a \\\" b\" -j ACCEPT\nCOMMIT\n")
	f.Fuzz(func(t *testing.T, s string) {
		chains, _ := parseNft([]byte(s))
		chains = append(chains, parseIptables([]byte(s), v4Only)...)
		for _, r := range tell(chains) {
			if r.Action != secmsg.Allow && r.Action != secmsg.Deny && r.Action != secmsg.Other || len(r.Application) > 3*maxText || len(r.SourceAddress) > 3*maxText {
				t.Errorf("%+v", r)
			}
		}
	})
}
