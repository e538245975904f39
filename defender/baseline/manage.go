package baseline

import (
	"context"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"time"

	"github.com/vauban-iot/vauban/defender/group"
	"github.com/vauban-iot/vauban/fault"
)

// latest saves what this server learned, so that the store has it.
func (s *Service) latest(ctx context.Context) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.running {
		return nil
	}
	return s.save(ctx)
}

// stale makes the next message see what was changed.
func (s *Service) stale() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.read = time.Time{}
}

// memoryOf is what the store has of a group.
func (s *Service) memoryOf(ctx context.Context, name string) (*memory, error) {
	saved, err := s.cfg.Store.Learned(ctx, name)
	if fault.Is(err, fault.NotFound) {
		return newMemory(), nil
	}
	if err != nil {
		return nil, err
	}
	return parseMemory(saved.Data)
}

// progress fills in what is learned so far.
func (s *Service) progress(ctx context.Context, b *Baseline) error {
	if b.State != Learning {
		return nil
	}
	m, err := s.memoryOf(ctx, b.Group)
	if err != nil {
		return err
	}
	sum := m.summary(&b.Terms, s.cfg.Now())
	b.Learned = &sum
	return nil
}

// Baselines lists all, by group; those that learn with what there is so far.
func (s *Service) Baselines(ctx context.Context) ([]Baseline, error) {
	if err := s.latest(ctx); err != nil {
		return nil, err
	}
	all, err := s.cfg.Store.Baselines(ctx)
	if err != nil {
		return nil, err
	}
	for i := range all {
		if err := s.progress(ctx, &all[i]); err != nil {
			return nil, err
		}
	}
	return all, nil
}

// Baseline returns that of a group; fault.NotFound.
func (s *Service) Baseline(ctx context.Context, name string) (Baseline, error) {
	if err := s.latest(ctx); err != nil {
		return Baseline{}, err
	}
	b, err := s.cfg.Store.Baseline(ctx, name)
	if fault.Is(err, fault.NotFound) {
		return b, none(name)
	}
	if err != nil {
		return b, err
	}
	return b, s.progress(ctx, &b)
}

// State is that of a group's baseline; Off for one that has none.
func (s *Service) State(ctx context.Context, name string) (State, error) {
	b, err := s.cfg.Store.Baseline(ctx, name)
	if fault.Is(err, fault.NotFound) {
		return Off, nil
	}
	return b.State, err
}

func none(name string) error {
	return fault.New(fault.NotFound, "the security group %q has no baseline; begin one with: vauban baseline learn", name)
}

// change runs one change of a baseline that stands, and returns it changed.
func (s *Service) change(ctx context.Context, name, by string, change func(*Baseline) error) (Baseline, error) {
	var result Baseline
	err := s.cfg.Store.UpdateBaseline(ctx, name, func(stands *Baseline) (*Baseline, error) {
		if stands == nil {
			return nil, none(name)
		}
		next := *stands
		next.Entries, next.Limits = slices.Clone(stands.Entries), slices.Clone(stands.Limits)
		if err := change(&next); err != nil {
			return nil, err
		}
		next.Version, next.By = stands.Version+1, by
		if next.State != stands.State {
			next.Since = s.cfg.Now().UTC()
		}
		result = next
		return &next, nil
	})
	s.stale()
	return result, err
}

// Learn begins to learn, or begins anew: what was learned, and the baseline that stood, are forgotten.
func (s *Service) Learn(ctx context.Context, name, by string, t Terms) (Baseline, error) {
	if err := group.CheckName(name); err != nil {
		return Baseline{}, err
	}
	if err := t.complete(); err != nil {
		return Baseline{}, err
	}
	now := s.cfg.Now().UTC()
	t.Since = now
	n, err := s.cfg.Store.CountBaselines(ctx)
	if err != nil {
		return Baseline{}, err
	}
	var result Baseline
	err = s.cfg.Store.UpdateBaseline(ctx, name, func(stands *Baseline) (*Baseline, error) {
		// The time makes epochs differ even when a baseline was deleted between them.
		result = Baseline{Group: name, State: Learning, Version: 1, Epoch: now.UnixMicro(), Since: now, By: by, Terms: t}
		if stands != nil {
			result.Version, result.Epoch = stands.Version+1, max(result.Epoch, stands.Epoch+1)
			result.Names = stands.Names
		} else if n >= MaxGroups {
			return nil, fault.New(fault.QuotaExceeded, "there are %d baselines already; turn one off", MaxGroups)
		}
		return &result, nil
	})
	s.stale()
	if err != nil {
		return Baseline{}, err
	}
	return result, s.progress(ctx, &result)
}

// Propose makes a proposal of what was learned; of a proposal, a new one, in which decisions of people and what they added stay.
// fault.PreconditionFailed when it has not learned enough, or is enforced.
func (s *Service) Propose(ctx context.Context, name, by string) (Baseline, error) {
	if err := s.latest(ctx); err != nil {
		return Baseline{}, err
	}
	m, err := s.memoryOf(ctx, name)
	if err != nil {
		return Baseline{}, err
	}
	return s.change(ctx, name, by, func(b *Baseline) error {
		if b.State == Enforced {
			return fault.New(fault.PreconditionFailed, "the baseline of %q is enforced; relax it before it is proposed anew", name)
		}
		if b.Terms.Since.IsZero() {
			return fault.New(fault.PreconditionFailed, "the baseline of %q was imported and learned nothing; begin with: vauban baseline learn", name)
		}
		sum := m.summary(&b.Terms, s.cfg.Now())
		if len(sum.Waits) > 0 {
			return fault.New(fault.PreconditionFailed, "the baseline of %q has not learned enough: %s", name, strings.Join(sum.Waits, "; "))
		}
		entries, limits := m.propose(&b.Terms, &sum, listedBy(s.cfg.Intel(), s.cfg.Now()))
		b.keep(entries, limits)
		b.State, b.Learned = Proposed, &sum
		return b.bounded()
	})
}

// keep puts a proposal in place of the learned entries, with what people decided and added, and what a MUD file said.
func (b *Baseline) keep(entries []Entry, limits []Limit) {
	for _, old := range b.Entries {
		i := slices.IndexFunc(entries, func(e Entry) bool { return e.ID == old.ID })
		switch {
		case i >= 0 && old.DecidedBy != "" && entries[i].Decision != Rejected:
			entries[i].Decision, entries[i].DecidedBy, entries[i].Reason, entries[i].Source = old.Decision, old.DecidedBy, old.Reason, old.Source
		case i >= 0 && old.Source == FromMUD && entries[i].Decision != Rejected:
			entries[i].Decision, entries[i].Source, entries[i].Reason = old.Decision, old.Source, old.Reason
		case i < 0 && (old.DecidedBy != "" || old.Source != FromLearning):
			old.Devices, old.Coverage, old.Count, old.Days, old.BytesIn, old.BytesOut = 0, 0, 0, 0, 0, 0
			entries = append(entries, old)
		}
	}
	arrange(entries)
	for i := range limits {
		if m, err := parseMeasure(limits[i].Measure); err == nil {
			if old := b.limit(m); old != nil && old.By != "" {
				limits[i].Min, limits[i].Max, limits[i].Decision, limits[i].By, limits[i].Reason = old.Min, old.Max, old.Decision, old.By, old.Reason
			}
		}
	}
	for _, old := range b.Limits {
		if old.By != "" && !slices.ContainsFunc(limits, func(l Limit) bool { return l.Measure == old.Measure }) {
			limits = append(limits, old)
		}
	}
	b.Entries, b.Limits = entries, limits
}

func (b *Baseline) bounded() error {
	if len(b.Entries) > MaxEntries {
		return fault.New(fault.TooLarge, "the baseline would have %d entries, %d are allowed", len(b.Entries), MaxEntries)
	}
	return nil
}

// Edit is a change that a person makes to a proposal, or to what is enforced.
type Edit struct {
	Decisions map[string]Decision `json:"decisions,omitempty"` // by the id of the entry: accepted, rejected or held
	Add       []Entry             `json:"add,omitempty"`       // kind, direction, protocol, peer, ports, name, hoursUtc, reason
	Remove    []string            `json:"remove,omitempty"`    // ids
	Limits    []LimitEdit         `json:"limits,omitempty"`
	Names     map[string][]string `json:"names,omitempty"` // addresses and prefixes of names and classes; none: they are forgotten
}

// LimitEdit sets a limit; absent members stay.
type LimitEdit struct {
	Measure  string   `json:"measure"`
	Min      *uint64  `json:"min,omitempty"`
	Max      *uint64  `json:"max,omitempty"`
	Decision Decision `json:"decision,omitempty"`
}

// Edit carries out a person's edit, whole or not at all; fault.Invalid, fault.NotFound for an id that is not there.
func (s *Service) Edit(ctx context.Context, name, by string, edit Edit) (Baseline, error) {
	if len(edit.Decisions)+len(edit.Add)+len(edit.Remove)+len(edit.Limits)+len(edit.Names) == 0 {
		return Baseline{}, fault.New(fault.Invalid, "the edit changes nothing; it has decisions, add, remove, limits or names")
	}
	listed := listedBy(s.cfg.Intel(), s.cfg.Now())
	return s.change(ctx, name, by, func(b *Baseline) error {
		if b.State == Learning && len(edit.Decisions)+len(edit.Add)+len(edit.Remove)+len(edit.Limits) > 0 {
			return fault.New(fault.PreconditionFailed, "the baseline of %q still learns; propose it first (names alone may be given now)", name)
		}
		for id, d := range edit.Decisions {
			e := b.entry(id)
			if e == nil {
				return fault.New(fault.NotFound, "the baseline of %q has no entry %.40q", name, id)
			}
			if d != Accepted && d != Rejected && d != Held {
				return fault.New(fault.Invalid, "decision %.40q is not accepted, rejected or held", d)
			}
			if d == Accepted {
				if err := e.unlisted(listed); err != nil {
					return err
				}
			}
			e.Decision, e.DecidedBy = d, by
		}
		for _, id := range edit.Remove {
			if b.entry(id) == nil {
				return fault.New(fault.NotFound, "the baseline of %q has no entry %.40q", name, id)
			}
			b.Entries = slices.DeleteFunc(b.Entries, func(e Entry) bool { return e.ID == id })
		}
		for _, given := range edit.Add {
			e := Entry{
				Kind: given.Kind, Direction: given.Direction, Protocol: given.Protocol, Peer: given.Peer, Ports: given.Ports, Name: given.Name, Hours: slices.Clone(given.Hours),
				Reason: given.Reason, Decision: Accepted, Source: FromPerson, DecidedBy: by,
			}
			if err := e.identify(); err != nil {
				return err
			}
			if err := e.unlisted(listed); err != nil {
				return err
			}
			if old := b.entry(e.ID); old != nil {
				old.Decision, old.DecidedBy, old.Hours = Accepted, by, e.Hours
				continue
			}
			b.Entries = append(b.Entries, e)
		}
		for _, given := range edit.Limits {
			if err := b.setLimit(given, by); err != nil {
				return err
			}
		}
		if err := b.setNames(edit.Names); err != nil {
			return err
		}
		arrange(b.Entries)
		return b.bounded()
	})
}

// unlisted refuses a peer that threat intelligence lists.
func (e *Entry) unlisted(listed lister) error {
	if e.Kind != Peer {
		return nil
	}
	why := ""
	if a, err := netip.ParseAddr(e.Peer); err == nil {
		var port uint16
		if ranges, err := parsePorts(e.Ports); err == nil && len(ranges) == 1 && ranges[0].first == ranges[0].last {
			port = ranges[0].first
		}
		why = listed(a, "", port)
	} else if isName(e.Peer) {
		why = listed(netip.Addr{}, e.Peer, 0)
	}
	if why == "" {
		return nil
	}
	return fault.New(fault.Invalid, "%s is not accepted: %s; when it is good, allow it first: vauban intel allow add %s", e.Peer, why, e.Peer)
}

func (b *Baseline) setLimit(given LimitEdit, by string) error {
	m, err := parseMeasure(given.Measure)
	if err != nil {
		return err
	}
	l := b.limit(m)
	if l == nil {
		if given.Max == nil {
			return fault.New(fault.Invalid, "there is no limit of %s yet; give its max", m)
		}
		b.Limits = append(b.Limits, Limit{Measure: m.String(), Decision: Accepted})
		l = &b.Limits[len(b.Limits)-1]
	}
	if given.Min != nil {
		l.Min = *given.Min
	}
	if given.Max != nil {
		l.Max = *given.Max
	}
	switch given.Decision {
	case "":
	case Accepted, Rejected, Held:
		l.Decision = given.Decision
	default:
		return fault.New(fault.Invalid, "decision %.40q is not accepted, rejected or held", given.Decision)
	}
	if l.Min > 0 && m != Messages {
		return fault.New(fault.Invalid, "%s has no min; agents report only what there was", m)
	}
	if l.Min > l.Max {
		return fault.New(fault.Invalid, "%s: min %d is above max %d", m, l.Min, l.Max)
	}
	l.By, l.Reason = by, "set by a person"
	return nil
}

// setNames adds given addresses; a name without any is forgotten.
func (b *Baseline) setNames(given map[string][]string) error {
	if len(given) == 0 {
		return nil
	}
	all := make(map[string][]string, len(b.Names)+len(given))
	for n, a := range b.Names {
		all[n] = a
	}
	for n, addresses := range given {
		peer, err := checkPeer(n)
		if err != nil {
			return err
		}
		if _, err := netip.ParseAddr(peer); err == nil || strings.Contains(peer, "/") && !strings.Contains(peer, ":") || peer == AnyPeer || peer == LocalNetworks {
			return fault.New(fault.Invalid, "names: %s is no name or class that needs addresses", peer)
		}
		delete(all, peer)
		if len(addresses) == 0 {
			continue
		}
		if len(addresses) > maxGiven {
			return fault.New(fault.Invalid, "names: %s has %d addresses, %d are allowed", peer, len(addresses), maxGiven)
		}
		for _, a := range addresses {
			_, err := netip.ParseAddr(a)
			if _, err2 := netip.ParsePrefix(a); err != nil && err2 != nil {
				return fault.New(fault.Invalid, "names: %.60q of %s is no address or prefix", a, peer)
			}
		}
		all[peer] = slices.Clone(addresses)
	}
	if len(all) > maxNames {
		return fault.New(fault.Invalid, "there would be %d names, %d are allowed", len(all), maxNames)
	}
	b.Names = all
	return nil
}

// Enforce makes deviations alerts; fault.PreconditionFailed for one that is not proposed.
func (s *Service) Enforce(ctx context.Context, name, by string) (Baseline, error) {
	return s.change(ctx, name, by, func(b *Baseline) error {
		switch b.State {
		case Enforced:
			return fault.New(fault.PreconditionFailed, "the baseline of %q is enforced already", name)
		case Learning:
			return fault.New(fault.PreconditionFailed, "the baseline of %q still learns; propose it first, and read it", name)
		}
		b.State = Enforced
		return nil
	})
}

// Relax makes an enforced baseline a proposal again: nothing is an alert, and it goes on learning.
func (s *Service) Relax(ctx context.Context, name, by string) (Baseline, error) {
	return s.change(ctx, name, by, func(b *Baseline) error {
		if b.State != Enforced {
			return fault.New(fault.PreconditionFailed, "the baseline of %q is not enforced", name)
		}
		b.State = Proposed
		return nil
	})
}

// TurnOff forgets a baseline and what was learned; fault.NotFound.
func (s *Service) TurnOff(ctx context.Context, name string) error {
	err := s.cfg.Store.UpdateBaseline(ctx, name, func(stands *Baseline) (*Baseline, error) {
		if stands == nil {
			return nil, none(name)
		}
		return nil, nil
	})
	s.stale()
	return err
}

// Promotion is what Promote wrote.
type Promotion struct {
	Group  string   `json:"group"`
	Rule   string   `json:"ruleType"`
	Values []string `json:"allowlistValues"`
	Added  int      `json:"added"`
}

// Promote writes the peers to which an enforced baseline lets devices connect into the rule ConnectionToIpNotAllowed of the group,
// beside what the rule allows already. The rule knows addresses alone: no ports, no names. fault.PreconditionFailed when a peer has none.
func (s *Service) Promote(ctx context.Context, name string) (Promotion, error) {
	p := Promotion{Group: name, Rule: group.ToIPNotAllowed}
	b, err := s.cfg.Store.Baseline(ctx, name)
	if fault.Is(err, fault.NotFound) {
		return p, none(name)
	}
	if err != nil {
		return p, err
	}
	if b.State != Enforced {
		return p, fault.New(fault.PreconditionFailed, "the baseline of %q is %s; only an enforced one is written into rules", name, b.State)
	}
	rules, err := s.cfg.Groups.Group(ctx, name)
	if fault.Is(err, fault.NotFound) {
		rules, err = group.Empty(), nil
	}
	if err != nil {
		return p, err
	}
	i := slices.IndexFunc(rules.Allow, func(r group.AllowRule) bool { return r.RuleType == group.ToIPNotAllowed })
	if i < 0 {
		return p, fmt.Errorf("baseline: group %s has no rule %s", name, group.ToIPNotAllowed)
	}
	values := map[string]bool{}
	before := 0
	if rules.Allow[i].IsEnabled {
		for _, v := range rules.Allow[i].Values {
			values[v] = true
		}
		before = len(values)
	}
	m, err := s.memoryOf(ctx, name)
	if err != nil {
		return p, err
	}
	var unresolved []string
	for _, e := range b.Entries {
		if e.Kind != Peer || e.Direction != Out || e.Decision != Accepted {
			continue
		}
		if e.Peer == AnyPeer {
			return p, fault.New(fault.PreconditionFailed, "the baseline of %q lets devices connect to any address (entry %s); a rule would say nothing", name, e.ID)
		}
		prefixes, known := b.addresses(e.Peer, &s.cfg.Hub)
		for a, names := range m.Watch.Names {
			if slices.ContainsFunc(names, func(n alias) bool { return n.Sure && n.Name == e.Peer }) {
				prefixes, known = append(slices.Clone(prefixes), netip.PrefixFrom(a, a.BitLen())), true
			}
		}
		if !known {
			unresolved = append(unresolved, e.Peer)
		}
		for _, x := range prefixes {
			values[x.String()] = true
		}
	}
	if len(unresolved) > 0 {
		slices.Sort(unresolved)
		return p, fault.New(fault.PreconditionFailed, "no address is known of %s: give it with: vauban baseline edit %s --resolve NAME=ADDRESS", strings.Join(slices.Compact(unresolved), ", "), name)
	}
	for v := range values {
		p.Values = append(p.Values, v)
	}
	slices.Sort(p.Values)
	p.Added = len(p.Values) - before
	rules.Allow[i].IsEnabled, rules.Allow[i].Values = true, p.Values
	text, err := rules.Text()
	if err != nil {
		return p, err
	}
	// Parsed as a person's rules are: too many values are refused in the same words.
	if rules, err = group.Parse(text); err != nil {
		return p, err
	}
	_, err = s.cfg.Groups.Put(ctx, name, rules)
	return p, err
}
