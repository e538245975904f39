// Package privacy decides which texts about people are not kept: user names and command lines in the security messages of a group
// are written over before the message is stored anywhere (defender §8, item 44).
package privacy

import (
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base32"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/vauban-iot/vauban/defender/group"
	"github.com/vauban-iot/vauban/fault"
	"github.com/vauban-iot/vauban/internal/secret"
	"github.com/vauban-iot/vauban/iot"
	"github.com/vauban-iot/vauban/wire/secmsg"
)

// Policy says what of a group's security messages is masked.
type Policy struct {
	// UserNames become pseudonyms: the same name is the same pseudonym in this installation, and nobody without its key can tell which.
	UserNames bool `json:"userNames"`
	// CommandLines keep their first word.
	CommandLines bool `json:"commandLines"`
}

// MaxPolicies is how many groups may have one.
const MaxPolicies = group.MaxGroups

// Unreadable is what is kept of a message that is to be masked and cannot be read.
const Unreadable = "a message of %d bytes that cannot be read was not kept, as its group's user names or command lines are masked: %v"

// Store keeps the policies in one setting, and knows the groups of devices.
type Store interface {
	group.Store
	// SecurityGroups returns the groups of those devices that name one.
	SecurityGroups(ctx context.Context, devices []string) (map[string]string, error)
}

const setting = "defender/privacy"

// freshness is how late a change of a policy that another server made, and a change of a device's group, are seen.
const freshness = time.Second

// maxMembers is how many devices' groups are remembered.
const maxMembers = 100_000

// Config of a Guard.
type Config struct {
	Store  Store         // required
	Key    secret.Secret // of the pseudonyms; required
	Logger *slog.Logger  // nil: slog.Default
	Now    func() time.Time
}

// Guard masks messages. It is safe for concurrent use.
type Guard struct {
	cfg Config

	idle  atomic.Int64 // until when, in nanoseconds since 1970, no group is known to mask anything; 0: look
	looks sync.Mutex   // one look at the store at a time

	mu       sync.Mutex
	policies map[string]Policy
	read     time.Time
	members  map[string]member
}

type member struct {
	group string
	read  time.Time
}

// New returns a guard.
func New(cfg Config) (*Guard, error) {
	if cfg.Store == nil || cfg.Key.IsZero() {
		return nil, errors.New("privacy: Store and Key are required")
	}
	if cfg.Logger == nil {
		cfg.Logger = slog.Default()
	}
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	return &Guard{cfg: cfg, members: make(map[string]member)}, nil
}

func parse(text []byte) (map[string]Policy, error) {
	all := map[string]Policy{}
	if len(text) == 0 {
		return all, nil
	}
	if err := json.Unmarshal(text, &all); err != nil {
		return nil, fmt.Errorf("setting %s is damaged: %w", setting, err)
	}
	return all, nil
}

// Policies returns those of all groups that mask something.
func (g *Guard) Policies(ctx context.Context) (map[string]Policy, error) {
	text, err := g.cfg.Store.Setting(ctx, setting)
	if err != nil && !fault.Is(err, fault.NotFound) {
		return nil, err
	}
	return parse(text)
}

// Put sets the policy of a group, which need not have rules. It holds from the next message on, on other servers within a second.
func (g *Guard) Put(ctx context.Context, name string, p Policy) error {
	if err := group.CheckName(name); err != nil {
		return err
	}
	err := g.cfg.Store.UpdateSetting(ctx, setting, func(text []byte) ([]byte, error) {
		all, err := parse(text)
		if err != nil {
			return nil, err
		}
		if p == (Policy{}) {
			delete(all, name)
		} else {
			if _, stands := all[name]; !stands && len(all) >= MaxPolicies {
				return nil, fault.New(fault.QuotaExceeded, "%d groups mask something already", MaxPolicies)
			}
			all[name] = p
		}
		return json.Marshal(all)
	})
	// A look that is under way may bring what stood before: the next message looks again behind it.
	g.looks.Lock()
	defer g.looks.Unlock()
	g.mu.Lock()
	g.read = time.Time{}
	g.mu.Unlock()
	g.idle.Store(0)
	return err
}

// Mask writes over what the policy of the sender's group says. When the policies or the group cannot be read, everything that any policy could ask for
// is masked.
func (g *Guard) Mask(m *iot.Message) {
	if m.IsEvent() || !m.IsSecurity() || g.idle.Load() > g.cfg.Now().UnixNano() {
		return
	}
	p, err := g.policy(m.From.Device)
	if err != nil {
		g.cfg.Logger.Error("the security group of a device cannot be read; its message is masked", "device", m.From.Device, "err", err)
		p = Policy{UserNames: true, CommandLines: true}
	}
	if p == (Policy{}) {
		return
	}
	var mask secmsg.Mask
	if p.UserNames {
		mask.User = g.users
	}
	if p.CommandLines {
		mask.Command = Command
	}
	mask.Text = func(string) string { return "[masked]" }
	body, err := secmsg.Rewrite(m.Property(secmsg.Indicator), m.Body, mask)
	if err != nil {
		body = fmt.Appendf(nil, Unreadable, len(m.Body), err)
	}
	m.Body = body
}

// lookTime bounds a look at the store: a device waits for it.
const lookTime = 5 * time.Second

// policy is that of a device's group.
func (g *Guard) policy(device string) (Policy, error) {
	now := g.cfg.Now()
	if p, ok := g.known(device, now); ok {
		return p, nil
	}
	g.looks.Lock()
	defer g.looks.Unlock()
	if p, ok := g.known(device, now); ok { // somebody looked meanwhile
		return p, nil
	}
	ctx, cancel := context.WithTimeout(context.Background(), lookTime)
	defer cancel()
	all, err := g.current(ctx, now)
	if err != nil {
		return Policy{}, err
	}
	if len(all) == 0 {
		g.idle.Store(now.Add(freshness).UnixNano())
		return Policy{}, nil
	}
	groups, err := g.cfg.Store.SecurityGroups(ctx, []string{device})
	if err != nil {
		return Policy{}, err
	}
	name, ok := groups[device]
	if !ok {
		name = group.Default
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	if len(g.members) >= maxMembers {
		clear(g.members)
	}
	g.members[device] = member{name, now}
	return all[name], nil
}

// current are the policies, read once within freshness. looks must be held.
func (g *Guard) current(ctx context.Context, now time.Time) (map[string]Policy, error) {
	g.mu.Lock()
	all, read := g.policies, g.read
	g.mu.Unlock()
	if now.Sub(read) < freshness {
		return all, nil
	}
	all, err := g.Policies(ctx)
	if err != nil {
		return nil, err
	}
	g.mu.Lock()
	g.policies, g.read = all, now
	g.mu.Unlock()
	return all, nil
}

func (g *Guard) known(device string, now time.Time) (Policy, bool) {
	g.mu.Lock()
	defer g.mu.Unlock()
	m, ok := g.members[device]
	if !ok || now.Sub(m.read) >= freshness || now.Sub(g.read) >= freshness {
		return Policy{}, false
	}
	return g.policies[m.group], true
}

// Pseudonym is what a user's name becomes.
func (g *Guard) Pseudonym(name string) string {
	mac := hmac.New(sha256.New, g.cfg.Key.Reveal())
	mac.Write([]byte(name))
	return "user-" + strings.ToLower(base32.StdEncoding.EncodeToString(mac.Sum(nil)[:10]))
}

// users masks a name, or several with semicolons between them, as names of groups come.
func (g *Guard) users(names string) string {
	var masked []string
	for name := range strings.SplitSeq(names, ";") {
		if name != "" {
			name = g.Pseudonym(name)
		}
		masked = append(masked, name)
	}
	return strings.Join(masked, ";")
}

// Command is what a command line becomes: its first word, and a mark when there were more.
func Command(line string) string {
	line = strings.TrimSpace(line)
	if line == "" {
		return ""
	}
	end := strings.IndexAny(line, " \t\r\n")
	if q := line[0]; q == '"' || q == '\'' {
		if closing := strings.IndexByte(line[1:], q); closing >= 0 {
			end = closing + 2
		}
	}
	if end < 0 || end == len(line) {
		return line
	}
	return line[:end] + " [masked]"
}
