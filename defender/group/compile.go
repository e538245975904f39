package group

import (
	"encoding/json"
	"fmt"
	"net/netip"
	"path"
	"strconv"
	"strings"
	"time"

	"github.com/vauban-iot/vauban/hub/activity"
	"github.com/vauban-iot/vauban/wire/secmsg"
)

// ranges are the prefixes of a list.
type ranges struct {
	of   map[netip.Prefix]struct{}
	bits [2][]int // lengths there are, of IPv4 and IPv6
}

func newRanges(values []string) (*ranges, error) {
	r := &ranges{of: make(map[netip.Prefix]struct{}, len(values))}
	have := map[[2]int]bool{}
	for _, v := range values {
		p, err := parsePrefix(v)
		if err != nil {
			return nil, err
		}
		r.of[p] = struct{}{}
		family := family(p.Addr())
		if k := [2]int{family, p.Bits()}; !have[k] {
			have[k] = true
			r.bits[family] = append(r.bits[family], p.Bits())
		}
	}
	return r, nil
}

func family(a netip.Addr) int {
	if a.Is4() {
		return 0
	}
	return 1
}

func (r *ranges) holds(a netip.Addr) bool {
	for _, bits := range r.bits[family(a)] {
		if p, err := a.Prefix(bits); err == nil {
			if _, ok := r.of[p]; ok {
				return true
			}
		}
	}
	return false
}

// Window is a rule over time that is enabled.
type Window struct {
	Kind     activity.Kind
	Min, Max int
	Size     time.Duration
}

// Compiled are the rules of a group that are enabled, ready to judge. It does not change.
type Compiled struct {
	Windows    []Window
	to, from   [2]*ranges // allowed, denied; nil: no rule
	users      [2]map[string]bool
	processes  [2]map[string]bool
	thresholds []ThresholdRule
}

const (
	allowed = 0
	denied  = 1
)

// Compile makes rules ready. Those of Parse always compile. alias is what a user's name is called in messages that are masked; nil: they are not.
func Compile(r Rules, alias func(user string) string) (*Compiled, error) {
	c := &Compiled{}
	for _, w := range r.Window {
		if !w.IsEnabled {
			continue
		}
		size, err := ParseWindow(w.Window)
		if err != nil {
			return nil, err
		}
		k, ok := activity.Parse(strings.TrimSuffix(w.RuleType, suffix))
		if !ok {
			return nil, fmt.Errorf("group: no rule %q", w.RuleType)
		}
		c.Windows = append(c.Windows, Window{k, w.Min, w.Max, size})
	}
	for _, t := range r.Threshold {
		if t.IsEnabled {
			c.thresholds = append(c.thresholds, t)
		}
	}
	add := func(name string, list int, values []string) (err error) {
		switch name {
		case ToIPNotAllowed, ToIPDenied:
			c.to[list], err = newRanges(values)
		case FromIPNotAllowed, FromIPDenied:
			c.from[list], err = newRanges(values)
		case UserNotAllowed, UserDenied:
			c.users[list] = set(values)
			if alias != nil {
				for _, v := range values {
					c.users[list][alias(v)] = true
				}
			}
		case ProcessOffList, ProcessDenied:
			c.processes[list] = set(values)
		}
		return err
	}
	for _, a := range r.Allow {
		if a.IsEnabled {
			if err := add(a.RuleType, allowed, a.Values); err != nil {
				return nil, err
			}
		}
	}
	for _, d := range r.Deny {
		if d.IsEnabled {
			if err := add(d.RuleType, denied, d.Values); err != nil {
				return nil, err
			}
		}
	}
	return c, nil
}

func set(values []string) map[string]bool {
	m := make(map[string]bool, len(values))
	for _, v := range values {
		m[v] = true
	}
	return m
}

// Judges reports whether c says anything about a security message.
func (c *Compiled) Judges() bool {
	return c != nil && (len(c.thresholds) > 0 || c.to != [2]*ranges{} || c.from != [2]*ranges{} ||
		c.users[allowed] != nil || c.users[denied] != nil || c.processes[allowed] != nil || c.processes[denied] != nil)
}

// Finding is a rule that a security message broke.
type Finding struct {
	Rule  string // ruleType
	Text  string // what broke it first, for people
	Flow  *secmsg.Flow
	Count int
	// Items are what broke it: indexes of the event and of the item among the event's details; at most maxItems.
	Items [][2]int
}

const maxItems = 10

// Judge returns the rules that a message broke, each once.
func (c *Compiled) Judge(r *secmsg.Report) []Finding {
	if !c.Judges() {
		return nil
	}
	var found []Finding
	place := map[string]int{}
	broke := func(rule string, event, item, n int, f *secmsg.Flow, text func() string) {
		at, ok := place[rule]
		if !ok {
			at = len(found)
			place[rule] = at
			found = append(found, Finding{Rule: rule, Text: text(), Flow: f})
		}
		found[at].Count += n
		if item >= 0 && len(found[at].Items) < maxItems {
			found[at].Items = append(found[at].Items, [2]int{event, item})
		}
	}
	remotes, sent, flows := map[netip.Addr]bool{}, uint64(0), false
	for i := range r.Events {
		e := &r.Events[i]
		for j := range e.Flows {
			f := &e.Flows[j]
			remote := f.Remote.Addr().Unmap()
			flows = true
			sent += f.BytesOut
			if !remote.IsValid() || remote.IsLoopback() || remote.IsUnspecified() {
				continue
			}
			remotes[remote] = true
			lists, rules, what := c.to, [2]string{ToIPNotAllowed, ToIPDenied}, "connected to "
			if inbound(f) {
				lists, rules, what = c.from, [2]string{FromIPNotAllowed, FromIPDenied}, "was connected to from "
			}
			text := func() string { return what + endpoint(f.Remote) + " over " + f.Protocol }
			if l := lists[allowed]; l != nil && !l.holds(remote) {
				broke(rules[allowed], i, f.Item, 1, f, text)
			}
			if l := lists[denied]; l != nil && l.holds(remote) {
				broke(rules[denied], i, f.Item, 1, f, text)
			}
		}
		for _, l := range e.Logins() {
			if l.Failed || l.User == "" {
				continue
			}
			text := func() string { return "had a login by user " + strconv.QuoteToASCII(cut(l.User)) }
			if u := c.users[allowed]; u != nil && !u[l.User] {
				broke(UserNotAllowed, i, l.Item, int(min(l.Hits, 1<<30)), nil, text)
			}
			if c.users[denied][l.User] {
				broke(UserDenied, i, l.Item, int(min(l.Hits, 1<<30)), nil, text)
			}
		}
		for _, p := range e.Started() {
			if p.Executable == "" {
				continue
			}
			base := path.Base(strings.ReplaceAll(p.Executable, `\`, "/"))
			listed := func(m map[string]bool) bool { return m[p.Executable] || m[base] }
			text := func() string { return "started " + strconv.QuoteToASCII(cut(p.Executable)) }
			if m := c.processes[allowed]; m != nil && !listed(m) {
				broke(ProcessOffList, i, p.Item, int(p.HitCount), nil, text)
			}
			if listed(c.processes[denied]) {
				broke(ProcessDenied, i, p.Item, int(p.HitCount), nil, text)
			}
		}
	}
	if !flows {
		return found // the message says nothing about traffic
	}
	for _, t := range c.thresholds {
		n, what := len(remotes), "remote addresses"
		if t.RuleType == BytesOutInRange {
			n, what = int(min(sent, maxRange+1)), "bytes sent"
		}
		if n < t.Min || n > t.Max {
			broke(t.RuleType, 0, -1, 1, nil, func() string { return fmt.Sprintf("reported %d %s where %d to %d are allowed", n, what, t.Min, t.Max) })
		}
	}
	return found
}

// ephemeral is where the ports of who connects begin, in the ranges of Linux and NetX.
const ephemeral = 32768

// inbound reports whether the other side began. Agents of JSON 1.0 and of schema 3.0 say so. A flow of FlatBuffers has both
// directions and nothing that says who began, so ports tell, and a flow whose ports tell nothing counts as outbound (defender §1.2, §6.3).
func inbound(f *secmsg.Flow) bool {
	if f.Began || f.BytesIn == 0 && f.BytesOut == 0 && f.Direction != "" {
		return f.Direction == secmsg.In
	}
	local, remote := f.Local.Port(), f.Remote.Port()
	if local == 0 && remote == 0 { // ICMP
		return f.BytesOut == 0 && f.BytesIn > 0
	}
	return local < ephemeral && remote >= ephemeral
}

func endpoint(a netip.AddrPort) string {
	if a.Port() == 0 {
		return a.Addr().Unmap().String()
	}
	return a.Addr().Unmap().String() + " port " + strconv.Itoa(int(a.Port()))
}

func cut(s string) string { return s[:min(len(s), 80)] }

// Count is how much of the agents' activity a message tells of, see package activity.
func Count(r *secmsg.Report) (connections, failedLogins int) {
	for i := range r.Events {
		e := &r.Events[i]
		for j := range e.Flows {
			connections += int(min(max(e.Flows[j].Hits, 1), 1<<20))
		}
		for _, l := range e.Logins() {
			if l.Failed {
				failedLogins += int(min(l.Hits, 1<<20))
			}
		}
	}
	return min(connections, 1<<30), min(failedLogins, 1<<30)
}

// Text is a group's rules as they are stored.
func (r Rules) Text() (json.RawMessage, error) { return json.Marshal(r) }
