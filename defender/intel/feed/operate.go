package feed

import (
	"context"
	"net/netip"
	"strings"

	"github.com/vauban-iot/vauban/defender/intel"
	"github.com/vauban-iot/vauban/fault"
)

// What operators do. All of it is written to the store, from where every server takes it.

// Feeds lists the feeds, without their secrets.
func (m *Manager) Feeds(ctx context.Context) ([]Feed, error) {
	all, err := m.cfg.Store.Feeds(ctx)
	for i := range all {
		all[i].Config = all[i].Redacted()
	}
	return all, err
}

// Feed returns one without its secrets; fault.NotFound.
func (m *Manager) Feed(ctx context.Context, name string) (Feed, error) {
	f, err := m.cfg.Store.Feed(ctx, name)
	f.Config = f.Redacted()
	return f, err
}

// Put adds a feed, or changes one; secrets that are given as they are shown stay. fault.Invalid.
func (m *Manager) Put(ctx context.Context, c Config) (Feed, error) {
	if err := c.Check(); err != nil {
		return Feed{}, err
	}
	all, err := m.cfg.Store.Feeds(ctx)
	if err != nil {
		return Feed{}, err
	}
	fresh := true
	for i := range all {
		fresh = fresh && all[i].Name != c.Name
	}
	if fresh && len(all) >= maxFeeds {
		return Feed{}, fault.New(fault.Invalid, "there are %d feeds already; remove one first", maxFeeds)
	}
	err = m.cfg.Store.PutFeed(ctx, c.Name, func(old *Feed) (Feed, error) {
		next := Feed{Config: c}
		if old == nil {
			return next, next.restore(nil)
		}
		if err := next.restore(&old.Config); err != nil {
			return next, err
		}
		if next.sameSource(&old.Config) {
			next.State = old.State
			next.State.NextAttempt = m.cfg.Now() // whatever changed may be what it failed by
			next.State.Failures = 0
		}
		return next, nil
	})
	if err != nil {
		return Feed{}, err
	}
	return m.Feed(ctx, c.Name)
}

// Delete removes a feed with all it gave; fault.NotFound.
func (m *Manager) Delete(ctx context.Context, name string) error {
	return m.cfg.Store.DeleteFeed(ctx, name)
}

// Refresh has a feed fetched now; accept takes it even if it shrank. fault.NotFound, and fault.Invalid when it is disabled.
func (m *Manager) Refresh(ctx context.Context, name string, accept bool) error {
	f, err := m.cfg.Store.Feed(ctx, name)
	if err != nil {
		return err
	}
	if f.Disabled {
		return fault.New(fault.Invalid, "feed %s is disabled", name)
	}
	return m.cfg.Store.WantFeed(ctx, name, m.cfg.Now(), accept)
}

// Exemptions lists what the operator allows.
func (m *Manager) Exemptions(ctx context.Context) ([]Exemption, error) {
	return m.cfg.Store.Exemptions(ctx)
}

// Exempt allows a value; fault.Invalid.
func (m *Manager) Exempt(ctx context.Context, value, note string) (Exemption, error) {
	text, _, err := ParseExemption(value)
	if err != nil {
		return Exemption{}, err
	}
	if len(note) > 1000 {
		return Exemption{}, fault.New(fault.Invalid, "a note has 1000 bytes at most")
	}
	all, err := m.cfg.Store.Exemptions(ctx)
	if err != nil {
		return Exemption{}, err
	}
	if len(all) >= maxAllowed {
		return Exemption{}, fault.New(fault.Invalid, "there are %d exemptions already; a feed with use allow takes more", maxAllowed)
	}
	e := Exemption{Value: text, Note: note, Added: m.cfg.Now().UTC()}
	return e, m.cfg.Store.PutExemption(ctx, e)
}

// Unexempt ends an exemption; fault.NotFound.
func (m *Manager) Unexempt(ctx context.Context, value string) error {
	text, _, err := ParseExemption(value)
	if err != nil {
		return err
	}
	return m.cfg.Store.DeleteExemption(ctx, text)
}

// Lookup says what this server knows of an address, with or without a port, or a domain; fault.Invalid.
func (m *Manager) Lookup(value string) (intel.Verdict, error) {
	value = strings.TrimSpace(value)
	set := m.cfg.Engine.Current()
	if a, err := netip.ParseAddr(value); err == nil {
		return set.Explain(netip.AddrPortFrom(a, 0)), nil
	}
	if ap, err := netip.ParseAddrPort(value); err == nil {
		return set.Explain(ap), nil
	}
	v, reason := set.ExplainDomain(value)
	if reason != "" {
		return v, fault.New(fault.Invalid, "%q cannot be looked up: it is neither an address, with or without a port, nor a domain (%s)", value, reason)
	}
	return v, nil
}
