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

	idle atomic.Int64 // until when, in nanoseconds since 1970, no group is known to mask anything; 0: look

	mu       sync.Mutex // nothing is waited for while it is held
	policies map[string]Policy
	read     time.Time
	members  map[string]member
	failed   time.Time // until when the store is not asked again, as it failed
	// Looks that are under way: of a device, and at the policies. What they bring counts if no policy was put meanwhile.
	looks   map[string]*look
	reading *look
	puts    uint64
}

// look is one that others wait for, too.
type look struct {
	done     chan struct{}
	puts     uint64
	policies map[string]Policy // of a look at those
	policy   Policy            // of a look at a device
	err      error
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
	return &Guard{cfg: cfg, members: make(map[string]member), looks: make(map[string]*look)}, nil
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
	// A look that is under way may bring what stood before: the next message begins another.
	g.mu.Lock()
	defer g.mu.Unlock()
	g.puts++
	g.read, g.reading = time.Time{}, nil
	clear(g.looks)
	g.idle.Store(0)
	return err
}

// Mask writes over what the policy of the sender's group says. When the policies or the group cannot be read, everything that any policy could ask for
// is masked, and for a second nobody asks again.
func (g *Guard) Mask(m *iot.Message) {
	if m.IsEvent() || !m.IsSecurity() || g.idle.Load() > g.cfg.Now().UnixNano() {
		return
	}
	p := g.policy(m.From.Device)
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

// everything is masked while nobody knows what should be.
var everything = Policy{UserNames: true, CommandLines: true}

// policy is that of a device's group. Messages of one device wait for one look at the store, those of others for none of it; a store that
// failed is left alone for a while, in which whoever is not known is masked at once.
func (g *Guard) policy(device string) Policy {
	now := g.cfg.Now()
	g.mu.Lock()
	if p, ok := g.known(device, now); ok {
		g.mu.Unlock()
		return p
	}
	if now.Before(g.failed) {
		g.mu.Unlock()
		return everything
	}
	l := g.looks[device]
	if l != nil {
		g.mu.Unlock()
		<-l.done
		return l.policy
	}
	l = &look{done: make(chan struct{}), puts: g.puts}
	g.looks[device] = l
	g.mu.Unlock()

	defer close(l.done)
	var group string
	if l.policy, group, l.err = g.look(device); l.err != nil {
		g.cfg.Logger.Error("security groups of devices cannot be read; messages are masked", "device", device, "err", l.err)
		l.policy = everything
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.looks[device] == l {
		delete(g.looks, device)
	}
	switch {
	case l.err != nil:
		g.failed = g.cfg.Now().Add(freshness)
	case group != "" && l.puts == g.puts:
		if len(g.members) >= maxMembers {
			clear(g.members)
		}
		g.members[device] = member{group, now}
	}
	return l.policy
}

// look asks the store. No group: none masks anything.
func (g *Guard) look(device string) (p Policy, name string, err error) {
	ctx, cancel := context.WithTimeout(context.Background(), lookTime)
	defer cancel()
	all, err := g.current(ctx)
	if err != nil || len(all) == 0 {
		return Policy{}, "", err
	}
	groups, err := g.cfg.Store.SecurityGroups(ctx, []string{device})
	if err != nil {
		return Policy{}, "", err
	}
	name, ok := groups[device]
	if !ok {
		name = group.Default
	}
	return all[name], name, nil
}

// current are the policies, read once within freshness for all devices.
func (g *Guard) current(ctx context.Context) (map[string]Policy, error) {
	now := g.cfg.Now()
	g.mu.Lock()
	if now.Sub(g.read) < freshness {
		defer g.mu.Unlock()
		return g.policies, nil
	}
	l := g.reading
	if l != nil {
		g.mu.Unlock()
		select {
		case <-l.done:
			return l.policies, l.err
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
	l = &look{done: make(chan struct{}), puts: g.puts}
	g.reading = l
	g.mu.Unlock()

	defer close(l.done)
	l.policies, l.err = g.Policies(ctx)
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.reading == l {
		g.reading = nil
	}
	if l.err == nil && l.puts == g.puts {
		g.policies, g.read = l.policies, now
		if len(l.policies) == 0 {
			g.idle.Store(now.Add(freshness).UnixNano())
		}
	}
	return l.policies, l.err
}

// known is what was read within freshness. mu must be held.
func (g *Guard) known(device string, now time.Time) (Policy, bool) {
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
