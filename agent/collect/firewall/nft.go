package firewall

import (
	"encoding/json"
	"fmt"
	"strconv"
	"strings"

	"github.com/vauban-iot/vauban/wire/secmsg"
)

// parseNft reads what `nft -j list ruleset` prints (libnftables-json).
func parseNft(b []byte) ([]chain, error) {
	var list struct {
		Objects []struct {
			Chain *struct{ Family, Table, Name, Type, Hook, Policy string }
			Rule  *struct {
				Family, Table, Chain string
				Expr                 []map[string]json.RawMessage
			}
		} `json:"nftables"`
	}
	if err := json.Unmarshal(b, &list); err != nil {
		return nil, fmt.Errorf("nft lists its rules in another form: %w", err)
	}
	type place struct{ family, table, name string }
	at := map[place]int{}
	var chains []chain
	for _, o := range list.Objects {
		switch {
		case o.Chain != nil:
			c := chain{name: o.Chain.Name, families: families(o.Chain.Family)}
			switch o.Chain.Hook {
			case "input", "forward", "output":
				if o.Chain.Type == "filter" {
					c.hook, c.deny = o.Chain.Hook, o.Chain.Policy == "drop"
				}
			}
			if c.families != 0 && (c.hook != "" || o.Chain.Hook == "") {
				at[place{o.Chain.Family, o.Chain.Table, o.Chain.Name}] = len(chains)
				chains = append(chains, c)
			}
		case o.Rule != nil:
			if i, ok := at[place{o.Rule.Family, o.Rule.Table, o.Rule.Chain}]; ok {
				chains[i].rules = append(chains[i].rules, nftRule(o.Rule.Expr))
			}
		}
	}
	return chains, nil
}

func families(name string) int {
	switch name {
	case "ip":
		return v4Only
	case "ip6":
		return v6Only
	case "inet":
		return v4Only | v6Only
	}
	return 0 // of bridges and devices
}

// nftRule turns statements into a rule.
func nftRule(statements []map[string]json.RawMessage) secmsg.FirewallRule {
	r := secmsg.FirewallRule{Action: secmsg.Other}
	narrow := false // it admits nothing new
	for _, s := range statements {
		for kind, v := range s {
			switch kind {
			case "accept":
				r.Action = secmsg.Allow
			case "drop", "reject":
				r.Action = secmsg.Deny
			case "match":
				narrow = nftMatch(&r, v) || narrow
			case "jump", "goto":
				var j struct{ Target string }
				_ = json.Unmarshal(v, &j)
				condition(&r, kind+" "+j.Target)
			case "xt":
				var x struct{ Name string }
				_ = json.Unmarshal(v, &x)
				condition(&r, "xt "+x.Name)
				narrow = true // it may ask for anything
			case "counter", "log", "limit", "quota", "comment":
			default:
				condition(&r, kind)
			}
		}
	}
	if narrow && r.Action == secmsg.Allow {
		r.Action = secmsg.Other
	}
	return r
}

// nftMatch adds a condition, and reports whether new connections cannot meet it.
func nftMatch(r *secmsg.FirewallRule, raw json.RawMessage) (narrow bool) {
	var m struct {
		Op   string
		Left struct {
			Payload *struct{ Protocol, Field string }
			Meta    *struct{ Key string }
			CT      *struct{ Key string } `json:"ct"`
		}
		Right json.RawMessage
	}
	if json.Unmarshal(raw, &m) != nil {
		condition(r, "a condition that is not understood")
		return true
	}
	right := nftValue(m.Right, 0)
	if m.Op == "!=" {
		right = "!" + right
	}
	switch l := m.Left; {
	case l.Payload != nil:
		switch f := l.Payload.Field; f {
		case "saddr":
			r.SourceAddress = right
		case "daddr":
			r.DestinationAddress = right
		case "sport":
			r.SourcePort, r.Protocol = right, protocolOf(r.Protocol, l.Payload.Protocol)
		case "dport":
			r.DestinationPort, r.Protocol = right, protocolOf(r.Protocol, l.Payload.Protocol)
		case "protocol", "nexthdr":
			r.Protocol = right
		default:
			r.Protocol = protocolOf(r.Protocol, l.Payload.Protocol)
			condition(r, l.Payload.Protocol+" "+f+" "+right)
		}
	case l.Meta != nil && l.Meta.Key == "l4proto":
		r.Protocol = right
	case l.Meta != nil && l.Meta.Key == "nfproto":
		condition(r, right)
	case l.Meta != nil:
		condition(r, l.Meta.Key+" "+right)
		return strings.HasSuffix(l.Meta.Key, "ifname") && right == "lo" || strings.HasSuffix(l.Meta.Key, "if") && right == "lo"
	case l.CT != nil && l.CT.Key == "state":
		return states(r, right)
	default:
		condition(r, "a condition that is not understood")
		return true
	}
	return false
}

func protocolOf(known, of string) string {
	if known != "" || of == "th" || of == "ip" || of == "ip6" {
		return known
	}
	return of
}

// states takes the states of connections that a rule is about. The first packet of one is new.
func states(r *secmsg.FirewallRule, list string) (narrow bool) {
	if strings.Contains(strings.ToLower(list), "new") && !strings.HasPrefix(list, "!") {
		return false
	}
	condition(r, "ct state "+strings.ToLower(list))
	return true
}

// nftValue writes a value as the older agents do: lists with commas, ranges with a dash.
func nftValue(raw json.RawMessage, depth int) string {
	if len(raw) == 0 || depth > 3 {
		return ""
	}
	join := func(parts []json.RawMessage, by string) string {
		var all []string
		for _, p := range parts[:min(len(parts), 64)] {
			all = append(all, nftValue(p, depth+1))
		}
		return strings.Join(all, by)
	}
	switch raw[0] {
	case '"':
		var s string
		_ = json.Unmarshal(raw, &s)
		return s
	case '[':
		var l []json.RawMessage
		_ = json.Unmarshal(raw, &l)
		return join(l, ",")
	case '{':
		var v struct {
			Prefix *struct {
				Addr json.RawMessage
				Len  int
			}
			Range, Set []json.RawMessage
			Elem       *struct{ Val json.RawMessage }
		}
		if json.Unmarshal(raw, &v) != nil {
			return "?"
		}
		switch {
		case v.Prefix != nil:
			return nftValue(v.Prefix.Addr, depth+1) + "/" + strconv.Itoa(v.Prefix.Len)
		case v.Range != nil:
			return join(v.Range, "-")
		case v.Set != nil:
			return join(v.Set, ",")
		case v.Elem != nil:
			return nftValue(v.Elem.Val, depth+1)
		}
		return "?"
	}
	return string(raw)
}
