// Package firewall tells the rules of the machine's packet filter, in the words of the older agents (defender §1.3): by nft, or by
// iptables-save where there is no nft. It never changes one.
//
// What those words have no place for stands in Application, and a rule that by such a condition admits no new connection, of
// established ones or of the loopback interface, is Other. The last rule of INPUT, FORWARD and OUTPUT is the policy: Deny if that holds for IPv4 and
// IPv6, for what denies only one of them leaves the other open.
package firewall

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os/exec"
	"strings"
	"sync/atomic"
	"time"

	"github.com/vauban-iot/vauban/agent/collect"
	"github.com/vauban-iot/vauban/wire/secmsg"
)

const (
	maxOutput = 8 << 20 // bytes of a tool's listing
	maxRules  = 1024
	maxText   = 256 // bytes of one value
)

// Snapshot lists rules. The zero value is ready.
type Snapshot struct {
	source atomic.Pointer[string]
	look   func(tool string) (string, error) // tests hide tools; nil: exec.LookPath
}

var _ collect.Snapshot = (*Snapshot)(nil)

// Source says where it looked last.
func (s *Snapshot) Source() string {
	if p := s.source.Load(); p != nil {
		return *p
	}
	return "not started"
}

// Take returns a FirewallRule for each rule and policy.
func (s *Snapshot) Take(ctx context.Context) ([]collect.Observation, error) {
	chains, source, err := s.chains(ctx)
	if err != nil {
		return nil, err
	}
	s.source.Store(&source)
	rules := tell(chains)
	if n := len(rules); n > maxRules {
		err = fmt.Errorf("%d rules are more than the %d that are told", n, maxRules)
		rules = append(rules[:maxRules-3:maxRules-3], rules[n-3:]...) // the policies stay
	}
	now := time.Now()
	all := make([]collect.Observation, 0, len(rules))
	for _, r := range rules {
		all = append(all, collect.Observation{Event: "FirewallConfiguration", Time: now, Hits: 1, Item: r})
	}
	return all, err
}

func (s *Snapshot) chains(ctx context.Context) ([]chain, string, error) {
	nft, err := s.run(ctx, "nft", "-j", "list", "ruleset")
	if err == nil {
		chains, err := parseNft(nft)
		return chains, "nft", err
	}
	v4, err4 := s.run(ctx, "iptables-save")
	v6, err6 := s.run(ctx, "ip6tables-save")
	if err4 != nil && err6 != nil {
		return nil, "", fmt.Errorf("the firewall's rules cannot be read: %w; %w; install nftables or iptables, and run the agent as root", err, err4)
	}
	return append(parseIptables(v4, v4Only), parseIptables(v6, v6Only)...), fmt.Sprintf("iptables-save (no nft: %v)", err), nil
}

func (s *Snapshot) run(ctx context.Context, tool string, args ...string) ([]byte, error) {
	look := s.look
	if look == nil {
		look = exec.LookPath
	}
	path, err := look(tool)
	if err != nil {
		for _, dir := range []string{"/usr/sbin/", "/sbin/"} { // which a service's PATH may lack
			if path, err = look(dir + tool); err == nil {
				break
			}
		}
		if err != nil {
			return nil, fmt.Errorf("%s: %w", tool, exec.ErrNotFound)
		}
	}
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, path, args...)
	cmd.Env = []string{"LC_ALL=C", "PATH=/usr/sbin:/usr/bin:/sbin:/bin"}
	var complaint limited
	cmd.Stderr = &complaint
	out, err := cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	if err := cmd.Start(); err != nil {
		return nil, err
	}
	b, err := io.ReadAll(io.LimitReader(out, maxOutput+1))
	_, _ = io.Copy(io.Discard, out)
	if failed := cmd.Wait(); failed != nil {
		return nil, fmt.Errorf("%s: %w: %.200s", tool, failed, strings.TrimSpace(string(complaint)))
	}
	if err == nil && len(b) > maxOutput {
		err = errors.New(tool + " lists more than 8 MiB")
	}
	return b, err
}

// limited keeps the begin of what a tool complains about.
type limited []byte

func (l *limited) Write(b []byte) (int, error) {
	*l = append(*l, b[:min(len(b), maxText-len(*l))]...)
	return len(b), nil
}

// The families a chain is about.
const (
	v4Only = 1 << iota
	v6Only
)

// chain is a chain of rules. hook is input, forward or output, or "" for one that others jump to.
type chain struct {
	name, hook string
	families   int
	deny       bool // its policy
	rules      []secmsg.FirewallRule
}

// condition adds what the words of a rule have no place for.
func condition(r *secmsg.FirewallRule, text string) {
	if r.Application != "" {
		text = r.Application + "; " + text
	}
	r.Application = cut(text)
}

func cut(s string) string {
	if len(s) > maxText {
		s = s[:maxText-3] + "..."
	}
	return strings.ToValidUTF8(s, "\uFFFD")
}

// tell numbers the rules of each hook, those of other chains after them, and ends with the policies.
func tell(chains []chain) []secmsg.FirewallRule {
	var all, policies []secmsg.FirewallRule
	for _, hook := range []string{"input", "forward", "output", ""} {
		direction := map[string]string{"input": secmsg.In, "output": secmsg.Out}[hook]
		priority, denied := 0, 0
		for _, c := range chains {
			if c.hook != hook {
				continue
			}
			if c.deny {
				denied |= c.families
			}
			if hook == "" {
				priority = 0
			}
			for _, r := range c.rules {
				priority++
				r.Enabled, r.Priority, r.Direction, r.ChainName = true, priority, direction, cut(c.name)
				if hook != "" {
					r.ChainName = strings.ToUpper(hook)
				}
				for _, s := range []*string{&r.SourceAddress, &r.SourcePort, &r.DestinationAddress, &r.DestinationPort, &r.Protocol, &r.Application} {
					*s = cut(*s)
				}
				all = append(all, r)
			}
		}
		if hook != "" {
			p := secmsg.FirewallRule{Enabled: true, Action: secmsg.Allow, Priority: priority + 1, Direction: direction, ChainName: strings.ToUpper(hook)}
			if denied == v4Only|v6Only {
				p.Action = secmsg.Deny
			}
			policies = append(policies, p)
		}
	}
	return append(all, policies...)
}
