package firewall

import (
	"bufio"
	"bytes"
	"strings"

	"github.com/vauban-iot/vauban/wire/secmsg"
)

// parseIptables reads the filter table of what iptables-save prints.
func parseIptables(b []byte, families int) []chain {
	at := map[string]int{}
	var chains []chain
	filter := false
	s := bufio.NewScanner(bytes.NewReader(b))
	s.Buffer(nil, 1<<20)
	for s.Scan() {
		line := strings.TrimSpace(s.Text())
		switch {
		case strings.HasPrefix(line, "*"):
			filter = line == "*filter"
		case !filter || line == "" || line[0] == '#':
		case line[0] == ':':
			f := strings.Fields(line[1:])
			if len(f) < 2 || len(chains) >= 4096 {
				continue
			}
			c := chain{name: f[0], families: families, deny: f[1] == "DROP" || f[1] == "REJECT"}
			switch f[0] {
			case "INPUT", "FORWARD", "OUTPUT":
				c.hook = strings.ToLower(f[0])
			}
			at[f[0]] = len(chains)
			chains = append(chains, c)
		default:
			if args := words(line); len(args) > 2 && args[0] == "-A" {
				if i, ok := at[args[1]]; ok {
					chains[i].rules = append(chains[i].rules, iptablesRule(args[2:]))
				}
			}
		}
	}
	return chains
}

// words splits a line at blanks; what stands in quotes is one word.
func words(line string) []string {
	var all []string
	var word strings.Builder
	quoted, open := false, false
	for i := 0; i < len(line); i++ {
		switch c := line[i]; {
		case c == '\\' && quoted && i+1 < len(line):
			i++
			word.WriteByte(line[i])
		case c == '"':
			quoted, open = !quoted, true
		case c == ' ' && !quoted:
			if open {
				all = append(all, word.String())
			}
			word.Reset()
			open = false
		default:
			word.WriteByte(c)
			open = true
		}
	}
	if open {
		all = append(all, word.String())
	}
	return all
}

// iptablesRule reads the options of a rule.
func iptablesRule(args []string) secmsg.FirewallRule {
	r := secmsg.FirewallRule{Action: secmsg.Other}
	narrow, not := false, ""
	for i := 0; i < len(args); i++ {
		value := func() string {
			if i+1 < len(args) {
				i++
				return not + args[i]
			}
			return ""
		}
		option := args[i]
		switch option {
		case "!":
			not = "!"
			continue
		case "-s":
			r.SourceAddress = value()
		case "-d":
			r.DestinationAddress = value()
		case "-p":
			r.Protocol = value()
		case "--sport", "--sports":
			r.SourcePort = strings.ReplaceAll(value(), ":", "-")
		case "--dport", "--dports":
			r.DestinationPort = strings.ReplaceAll(value(), ":", "-")
		case "-i", "-o":
			v := value()
			condition(&r, map[string]string{"-i": "iifname ", "-o": "oifname "}[option]+v)
			narrow = narrow || v == "lo"
		case "--state", "--ctstate":
			narrow = states(&r, value()) || narrow
		case "-m", "--comment", "--limit", "--limit-burst", "--reject-with", "--icmp-type", "--icmpv6-type":
			value()
		case "-j", "-g":
			switch v := value(); v {
			case "ACCEPT":
				r.Action = secmsg.Allow
			case "DROP", "REJECT":
				r.Action = secmsg.Deny
			default:
				condition(&r, "jump "+v)
			}
		default:
			if strings.HasPrefix(option, "--") {
				condition(&r, not+strings.TrimPrefix(option, "--"))
				narrow = true // it may ask for anything
			}
		}
		not = ""
	}
	if narrow && r.Action == secmsg.Allow {
		r.Action = secmsg.Other
	}
	return r
}
