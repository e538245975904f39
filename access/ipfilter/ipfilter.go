// Package ipfilter decides by a caller's address whether it may reach a hub: Azure's IP filter, in its classic
// and in its newer form (hub-service §9.1).
//
//	f, err := ipfilter.Parse([]byte(`{"networkRuleSets":{"defaultAction":"Deny","ipRules":[
//	    {"filterName":"plant","action":"Allow","ipMask":"10.0.0.0/8"}]}}`))
//	rule, ok := f.Admits(addr, ipfilter.DeviceAPI)
package ipfilter

import (
	"encoding/json"
	"net/netip"
	"strings"

	"github.com/vauban-iot/vauban/fault"
)

// Limits of one filter (hub-service §9.1).
const (
	maxRules = 10
	maxName  = 128
)

// Target is the part of a hub that a rule is about.
type Target string

// The targets, in the words of Azure's provisioning service, whose rules have them.
const (
	All        Target = "all"
	DeviceAPI  Target = "deviceApi"
	ServiceAPI Target = "serviceApi"
)

// Targets are those that callers reach; All stands for them together.
var Targets = []Target{DeviceAPI, ServiceAPI}

// Config is the filter of a hub in one of its two forms. The zero value admits everybody.
type Config struct {
	// Rules are the classic form: the first whose mask holds the caller's address decides, and when there is none, the
	// caller is admitted.
	Rules []Rule `json:"ipFilterRules,omitempty"`
	// RuleSet is the newer form.
	RuleSet *RuleSet `json:"networkRuleSets,omitempty"`
}

// Rule is one line of a filter.
type Rule struct {
	Name   string `json:"filterName"`
	Action string `json:"action"`           // Accept or Reject; in a rule set Allow
	Mask   string `json:"ipMask"`           // CIDR, or one address
	Target Target `json:"target,omitempty"` // empty: all
}

// RuleSet admits what a rule holds, and does its default action with all others.
type RuleSet struct {
	DefaultAction string `json:"defaultAction"` // Allow or Deny
	// ApplyToBuiltIn is kept for tools that read it back. It has no effect as long as there is no Event Hubs endpoint.
	ApplyToBuiltIn bool   `json:"applyToBuiltInEventHubEndpoint"`
	Rules          []Rule `json:"ipRules"`
}

type line struct {
	name   string
	mask   netip.Prefix
	target Target
	admit  bool
}

// Filter is a configuration ready for use. It does not change; the zero value, and nil, admit everybody.
type Filter struct {
	Config
	lines []line
	deny  bool // callers in no line
}

// Parse reads a configuration and checks it whole: fault.Malformed and Invalid.
func Parse(text []byte) (*Filter, error) {
	var c Config
	if err := json.Unmarshal(text, &c); err != nil {
		return nil, fault.Wrap(fault.Malformed, err, "the network rules cannot be read: %v", err)
	}
	f := &Filter{Config: c}
	rules, good, bad := c.Rules, "accept", "reject"
	if c.RuleSet != nil {
		if len(c.Rules) > 0 {
			return nil, fault.New(fault.Invalid, "send either ipFilterRules or networkRuleSets")
		}
		rules, good, bad = c.RuleSet.Rules, "allow", ""
		switch strings.ToLower(c.RuleSet.DefaultAction) {
		case "allow":
		case "deny":
			f.deny = true
		default:
			return nil, fault.New(fault.Invalid, "defaultAction must be Allow or Deny, not %q", c.RuleSet.DefaultAction)
		}
	}
	if len(rules) > maxRules {
		return nil, fault.New(fault.Invalid, "%d rules; %d are allowed", len(rules), maxRules)
	}
	seen := map[string]bool{}
	for i, r := range rules {
		if r.Name == "" || len(r.Name) > maxName || seen[strings.ToLower(r.Name)] {
			return nil, fault.New(fault.Invalid, "rule %d: filterName must have 1 to %d characters and be given once", i+1, maxName)
		}
		seen[strings.ToLower(r.Name)] = true
		l := line{name: r.Name, target: r.Target}
		switch action := strings.ToLower(r.Action); {
		case action == good:
			l.admit = true
		case action == bad && bad != "":
		case bad == "":
			return nil, fault.New(fault.Invalid, "rule %q: action must be Allow, not %q", r.Name, r.Action)
		default:
			return nil, fault.New(fault.Invalid, "rule %q: action must be Accept or Reject, not %q", r.Name, r.Action)
		}
		switch r.Target {
		case "", All, DeviceAPI, ServiceAPI:
		default:
			return nil, fault.New(fault.Invalid, "rule %q: target must be %s, %s or %s, not %q", r.Name, All, DeviceAPI, ServiceAPI, r.Target)
		}
		var err error
		if l.mask, err = mask(r.Mask); err != nil {
			return nil, fault.Wrap(fault.Invalid, err, "rule %q: ipMask must be an address or a prefix such as 10.0.0.0/8, not %q", r.Name, r.Mask)
		}
		f.lines = append(f.lines, l)
	}
	return f, nil
}

func mask(text string) (netip.Prefix, error) {
	if !strings.Contains(text, "/") {
		a, err := netip.ParseAddr(text)
		if err != nil {
			return netip.Prefix{}, err
		}
		a = plain(a)
		return a.Prefix(a.BitLen())
	}
	p, err := netip.ParsePrefix(text)
	if err != nil {
		return p, err
	}
	if a := p.Addr(); a.Is4In6() && p.Bits() >= 96 {
		p = netip.PrefixFrom(a.Unmap(), p.Bits()-96)
	}
	return p.Masked(), nil
}

// plain is an address without what differs between sockets of the same peer.
func plain(a netip.Addr) netip.Addr { return a.Unmap().WithZone("") }

// Admits reports whether a caller from a may reach target, and the rule that says so; rule is empty when none does.
func (f *Filter) Admits(a netip.Addr, target Target) (rule string, ok bool) {
	if f == nil {
		return "", true
	}
	a = plain(a)
	for _, l := range f.lines {
		if (l.target == "" || l.target == All || l.target == target) && l.mask.Contains(a) {
			return l.name, l.admit
		}
	}
	return "", !f.deny
}

// DeniesRest reports whether callers that no rule is about are denied. In the classic form that is what rules do that reject all
// addresses, for everybody.
func (f *Filter) DeniesRest() bool {
	if f == nil {
		return false
	}
	var v4, v6 bool
	for _, l := range f.lines {
		if !l.admit && l.mask.Bits() == 0 && (l.target == "" || l.target == All) {
			v4, v6 = v4 || l.mask.Addr().Is4(), v6 || l.mask.Addr().Is6()
		}
	}
	return f.deny || v4 && v6
}

// Admitting returns the rules that admit callers, each with its addresses.
func (f *Filter) Admitting() (rules []Rule, addresses []netip.Prefix) {
	if f == nil {
		return nil, nil
	}
	all := f.Rules
	if f.RuleSet != nil {
		all = f.RuleSet.Rules
	}
	for i, l := range f.lines {
		if l.admit {
			rules, addresses = append(rules, all[i]), append(addresses, l.mask)
		}
	}
	return rules, addresses
}
