package posture

import (
	"cmp"
	"encoding/json"
	"net/netip"
	"slices"
	"strconv"
	"strings"

	"github.com/vauban-iot/vauban/wire/secmsg"
)

// FirewallRule is a rule of a device's firewall, in the words of the event FirewallConfiguration (defender §1.3).
type FirewallRule struct {
	Priority           word `json:",omitempty"`
	Direction          word `json:",omitempty"`
	ChainName          word `json:",omitempty"`
	Action             word
	Application        word `json:",omitempty"`
	Protocol           word `json:",omitempty"`
	SourceAddress      word `json:",omitempty"`
	SourcePort         word `json:",omitempty"`
	DestinationAddress word `json:",omitempty"`
	DestinationPort    word `json:",omitempty"`

	enabled bool
}

// into and out say which way a rule is about; forwarded traffic is of no concern here.
func (r *FirewallRule) into() bool {
	return strings.EqualFold(string(r.Direction), "In") || r.Direction == "" && strings.EqualFold(string(r.ChainName), "INPUT")
}

func (r *FirewallRule) out() bool {
	return strings.EqualFold(string(r.Direction), "Out") || r.Direction == "" && strings.EqualFold(string(r.ChainName), "OUTPUT")
}

// all reports whether a rule is about all traffic. A policy is written like that, as the last rule of its chain.
func (r *FirewallRule) all() bool {
	for _, w := range []word{r.Application, r.SourcePort, r.DestinationPort} {
		if !anything(w) {
			return false
		}
	}
	for _, w := range []word{r.SourceAddress, r.DestinationAddress} {
		if !anyAddress(w) {
			return false
		}
	}
	return anything(r.Protocol) || strings.EqualFold(string(r.Protocol), "all")
}

func anything(w word) bool {
	return w == "" || w == "*" || strings.EqualFold(string(w), "any") || strings.EqualFold(string(w), "all")
}

func anyAddress(w word) bool {
	return anything(w) || w == "0.0.0.0/0" || w == "::/0" || w == "0.0.0.0" || w == "::"
}

// What is wide: more addresses than a network of 10.0.0.0/8 or an IPv6 site of /32 has, or more ports than this.
const (
	widestV4    = 8
	widestV6    = 32
	widestPorts = 1000
)

func wideAddress(w word) bool {
	if anyAddress(w) {
		return true
	}
	return slices.ContainsFunc(list(w), func(s string) bool {
		if p, err := netip.ParsePrefix(s); err == nil {
			if p.Addr().Is4() {
				return p.Bits() < widestV4
			}
			return p.Bits() < widestV6
		}
		if address, mask, ok := strings.Cut(s, "/"); ok { // 10.0.0.0/255.0.0.0
			a, err1 := netip.ParseAddr(address)
			m, err2 := netip.ParseAddr(mask)
			return err1 == nil && err2 == nil && a.Is4() && m.Is4() && m.As4()[0] != 0xff
		}
		if from, to, ok := strings.Cut(s, "-"); ok {
			a, err1 := netip.ParseAddr(strings.TrimSpace(from))
			b, err2 := netip.ParseAddr(strings.TrimSpace(to))
			return err1 == nil && err2 == nil && a.Is4() && b.Is4() && int(b.As4()[0])-int(a.As4()[0]) > 1
		}
		return false // an address, or a tag such as LocalSubnet
	})
}

func widePort(w word) bool {
	if anything(w) {
		return true
	}
	return slices.ContainsFunc(list(w), func(s string) bool {
		from, to, ok := strings.Cut(strings.ReplaceAll(s, ":", "-"), "-")
		if !ok {
			return false
		}
		a, err1 := strconv.ParseUint(strings.TrimSpace(from), 10, 16)
		b, err2 := strconv.ParseUint(strings.TrimSpace(to), 10, 16)
		return err1 == nil && err2 == nil && b > a && b-a >= widestPorts
	})
}

func list(w word) []string {
	parts := strings.FieldsFunc(string(w), func(r rune) bool { return r == ',' || r == ';' || r == ' ' })
	return parts[:min(len(parts), 1000)]
}

// firewallRule reads a rule of JSON 1.0 or of schema 3.0, whose members have the same names.
func firewallRule(item secmsg.Item) (FirewallRule, bool) {
	switch it := item.(type) {
	case secmsg.FirewallRule:
		return FirewallRule{
			Priority: word(strconv.Itoa(it.Priority)), Direction: word(it.Direction), ChainName: word(it.ChainName), Action: word(it.Action),
			Application: word(it.Application), Protocol: word(it.Protocol), SourceAddress: word(it.SourceAddress), SourcePort: word(it.SourcePort),
			DestinationAddress: word(it.DestinationAddress), DestinationPort: word(it.DestinationPort), enabled: it.Enabled,
		}, true
	case secmsg.Raw:
		var r struct {
			FirewallRule
			Enabled *bool
		}
		if json.Unmarshal(it, &r) == nil {
			r.enabled = r.Enabled == nil || *r.Enabled
			return r.FirewallRule, true
		}
	}
	return FirewallRule{}, false
}

// firewall judges a snapshot. One without any rule says nothing: an agent that cannot read the firewall sends it, too.
func (v *view) firewall(events []*secmsg.Event) {
	var rules []FirewallRule
	for _, e := range events {
		for _, item := range e.Payload {
			r, ok := firewallRule(item)
			if !ok {
				continue
			}
			for _, w := range []*word{&r.Priority, &r.Direction, &r.ChainName, &r.Action, &r.Application, &r.Protocol, &r.SourceAddress, &r.SourcePort, &r.DestinationAddress, &r.DestinationPort} {
				*w = word(clip(string(*w)))
			}
			rules = append(rules, r)
		}
	}
	if len(rules) == 0 {
		return
	}
	slices.SortStableFunc(rules, func(a, b FirewallRule) int {
		x, err1 := strconv.Atoi(string(a.Priority))
		y, err2 := strconv.Atoi(string(b.Priority))
		if err1 != nil || err2 != nil {
			return 0
		}
		return cmp.Compare(x, y)
	})
	policies := []string{}
	for _, way := range []struct {
		kind, chain string
		about       func(*FirewallRule) bool
		addresses   func(*FirewallRule) word // of the others
		ports       func(*FirewallRule) word // that are reached
	}{
		{PermissiveInputRules, "INPUT", (*FirewallRule).into, func(r *FirewallRule) word { return r.SourceAddress }, func(r *FirewallRule) word { return r.DestinationPort }},
		{PermissiveOutputRules, "OUTPUT", (*FirewallRule).out, func(r *FirewallRule) word { return r.DestinationAddress }, func(r *FirewallRule) word { return r.DestinationPort }},
	} {
		var wide []FirewallRule
		var chain []*FirewallRule
		for i := range rules {
			if r := &rules[i]; r.enabled && way.about(r) {
				chain = append(chain, r)
			}
		}
		for i, r := range chain {
			allow := strings.EqualFold(string(r.Action), "Allow")
			if r.all() {
				switch last := i == len(chain)-1; {
				case allow && last:
					policies = append(policies, way.chain)
				case allow:
					wide = append(wide, *r)
				}
				if !strings.EqualFold(string(r.Action), "Other") {
					break // nothing behind it is reached
				}
				continue
			}
			if allow && (wideAddress(way.addresses(r)) || widePort(way.ports(r))) {
				wide = append(wide, *r)
			}
		}
		v.judge(way.kind, len(wide) > 0, fitting(wide, func(some []FirewallRule, more int) any {
			text, err := json.Marshal(some)
			if err != nil {
				text = []byte("[]") // texts always marshal
			}
			return struct {
				Rules string // JSON in a text, as Azure has it (defender §2.4)
				More  int    `json:",omitempty"`
			}{string(text), more}
		}))
	}
	v.judge(PermissiveFirewallPolicy, len(policies) > 0, struct{ Chains []string }{policies})
}
