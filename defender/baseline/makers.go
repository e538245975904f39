package baseline

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"net/url"
	"slices"
	"strings"
	"unicode/utf8"

	"github.com/vauban-iot/vauban/defender/group"
	"github.com/vauban-iot/vauban/fault"
	"github.com/vauban-iot/vauban/wire/mud"
)

// ImportMUD makes a proposal of what a maker says of its device (RFC 8520). merge adds it to what was learned, which may be a proposal
// already; without it, the file stands alone. fault.Malformed for a file that cannot be used.
func (s *Service) ImportMUD(ctx context.Context, name, by string, text []byte, merge bool) (Baseline, error) {
	if err := group.CheckName(name); err != nil {
		return Baseline{}, err
	}
	f, err := mud.Parse(text)
	if err != nil {
		return Baseline{}, fault.Wrap(fault.Malformed, err, "the MUD file cannot be used: %s", strings.TrimPrefix(err.Error(), mud.ErrMalformed.Error()+": "))
	}
	if err := s.latest(ctx); err != nil {
		return Baseline{}, err
	}
	m, err := s.memoryOf(ctx, name)
	if err != nil {
		return Baseline{}, err
	}
	n, err := s.cfg.Store.CountBaselines(ctx)
	if err != nil {
		return Baseline{}, err
	}
	now := s.cfg.Now().UTC()
	listed := listedBy(s.cfg.Intel(), now)
	entries, notes := imported(&f, listed)
	maker := &Maker{URL: f.URL, LastUpdate: f.LastUpdate, SystemInfo: f.SystemInfo, Manufacturer: f.Manufacturer, Model: f.Model, Supported: f.Supported, Notes: notes}
	var result Baseline
	err = s.cfg.Store.UpdateBaseline(ctx, name, func(stands *Baseline) (*Baseline, error) {
		next := Baseline{Group: name, Epoch: now.UnixMicro()}
		switch {
		case stands == nil && merge:
			return nil, fault.New(fault.PreconditionFailed, "the security group %q has no baseline to merge with; import the file alone", name)
		case stands == nil:
			if n >= MaxGroups {
				return nil, fault.New(fault.QuotaExceeded, "there are %d baselines already; turn one off", MaxGroups)
			}
		case stands.State == Enforced:
			return nil, fault.New(fault.PreconditionFailed, "the baseline of %q is enforced; relax it before a file is imported", name)
		default:
			next = *stands
			next.Entries, next.Limits = nil, nil
		}
		if merge {
			next.Entries, next.Limits = slices.Clone(stands.Entries), slices.Clone(stands.Limits)
			if stands.State == Learning {
				sum := m.summary(&stands.Terms, now)
				if len(sum.Waits) > 0 {
					return nil, fault.New(fault.PreconditionFailed, "the baseline of %q has not learned enough to merge with: %s", name, strings.Join(sum.Waits, "; "))
				}
				next.Entries, next.Limits = m.propose(&stands.Terms, &sum, listed)
				next.Learned = &sum
			}
		}
		for _, e := range entries {
			old := next.entry(e.ID)
			switch {
			case old == nil:
				next.Entries = append(next.Entries, e)
			case old.DecidedBy == "" && old.Decision == Held: // the maker vouches for what few devices did
				old.Decision, old.Source, old.Reason = Accepted, FromMUD, e.Reason
			}
		}
		arrange(next.Entries)
		if next.State != Proposed {
			next.Since = now
		}
		next.State, next.Version, next.By, next.MUD = Proposed, next.Version+1, by, maker
		result = next
		return &next, next.bounded()
	})
	s.stale()
	return result, err
}

// imported are the entries of a file, each once: most connections are two rules there, one for each direction of packets.
func imported(f *mud.File, listed lister) (all []Entry, notes []string) {
	notes = slices.Clone(f.Notes)
	note := func(format string, args ...any) {
		if text := fmt.Sprintf(format, args...); len(notes) < maxExpected*10 && !slices.Contains(notes, text) {
			notes = append(notes, text)
		}
	}
	for i := range f.Rules {
		r := &f.Rules[i]
		e := Entry{Kind: Peer, Direction: Out, Decision: Accepted, Source: FromMUD, Reason: clean("declared in " + f.URL)}
		switch {
		case r.Initiated != nil:
			if *r.Initiated == mud.ToDevice {
				e.Direction = In
			}
		case len(r.Remote) > 0:
		case len(r.Local) > 0, r.Direction == mud.ToDevice:
			e.Direction = In
		}
		own, other := r.Remote, r.Local
		if e.Direction == In {
			own, other = other, own
		}
		if len(other) > 0 {
			note("ports of who begins are not judged (rule %d)", i)
		}
		var ranges []portRange
		for _, p := range own {
			ranges = append(ranges, portRange{p.First, p.Last})
		}
		e.Ports = portsText(ranges)
		switch r.Protocol {
		case mud.TCP:
			e.Protocol = "TCP"
		case mud.UDP:
			e.Protocol = "UDP"
		case mud.ICMP, mud.ICMPv6:
			e.Protocol = "ICMP"
		case -1:
			e.Protocol = AnyProtocol
		default:
			note("protocol %d is left out; agents tell of TCP, UDP and ICMP (rule %d)", r.Protocol, i)
			continue
		}
		switch r.Peer.Kind {
		case mud.Any:
			e.Peer = AnyPeer
		case mud.Network:
			e.Peer = r.Peer.Prefix.String()
		case mud.DNSName:
			e.Peer = r.Peer.Name
		case mud.LocalNetworks, mud.SameManufacturer, mud.MyController:
			e.Peer = r.Peer.Kind.String()
		default:
			e.Peer = r.Peer.Kind.String() + ":" + r.Peer.Name
		}
		if err := e.identify(); err != nil {
			note("rule %d is left out: %s", i, fault.Public(err))
			continue
		}
		if err := e.unlisted(listed); err != nil {
			e.Decision, e.Reason = Rejected, clean(fault.Public(err))
		}
		if !slices.ContainsFunc(all, func(o Entry) bool { return o.ID == e.ID }) {
			all = append(all, e)
		}
	}
	return all, notes
}

// ExportMUD writes the accepted peers of a baseline as a MUD file: address is its mud-url, empty for the one of an imported file or one at
// this hub; info is what systeminfo says. Hours, volumes, programs and users have no words there.
func (s *Service) ExportMUD(ctx context.Context, name, address, info string) ([]byte, error) {
	b, err := s.cfg.Store.Baseline(ctx, name)
	if fault.Is(err, fault.NotFound) {
		return nil, none(name)
	}
	if err != nil {
		return nil, err
	}
	if b.State == Learning {
		return nil, fault.New(fault.PreconditionFailed, "the baseline of %q still learns; propose it first", name)
	}
	f := mud.File{URL: address, LastUpdate: s.cfg.Now().UTC(), CacheValidity: 48, Supported: true, SystemInfo: info}
	if b.MUD != nil {
		f.Manufacturer, f.Model = b.MUD.Manufacturer, b.MUD.Model
		if f.URL == "" {
			f.URL = b.MUD.URL
		}
		if f.SystemInfo == "" {
			f.SystemInfo = b.MUD.SystemInfo
		}
	}
	if f.URL == "" {
		f.URL = "https://" + s.cfg.Hub.Host + "/mud/" + url.PathEscape(name)
	}
	if f.SystemInfo == "" {
		f.SystemInfo = "devices of the security group " + name
	}
	if len(f.SystemInfo) > 60 || !utf8.ValidString(f.SystemInfo) { // RFC 8520 §3.6
		return nil, fault.New(fault.Invalid, "systeminfo has %d bytes, 60 are allowed", len(f.SystemInfo))
	}
	f.Rules = s.rules(&b)
	text, err := f.Append(nil)
	if errors.Is(err, mud.ErrMalformed) {
		return nil, fault.Wrap(fault.Invalid, err, "%s", strings.TrimPrefix(err.Error(), mud.ErrMalformed.Error()+": "))
	}
	if err != nil {
		return nil, err
	}
	if _, err := mud.Parse(text); err != nil {
		return nil, fault.Wrap(fault.TooLarge, err, "the baseline of %q makes no MUD file that others may read: %v", name, err)
	}
	return text, nil
}

// rules are those of the accepted peers, one for each direction of packets and version of IP.
func (s *Service) rules(b *Baseline) []mud.Rule {
	var all []mud.Rule
	for i := range b.Entries {
		e := &b.Entries[i]
		if e.Kind != Peer || e.Decision != Accepted {
			continue
		}
		peer, versions := s.cfg.Hub.peer(e)
		ranges, _ := parsePorts(e.Ports) // identify checked it
		var ports []mud.Ports
		for _, r := range ranges {
			ports = append(ports, mud.Ports{First: r.first, Last: r.last})
		}
		protocols := map[string][]int{"TCP": {mud.TCP}, "UDP": {mud.UDP}, "ICMP": {mud.ICMP}, AnyProtocol: {-1}}[e.Protocol]
		if e.Protocol == AnyProtocol && len(ports) > 0 {
			protocols = []int{mud.TCP, mud.UDP} // which have ports
		}
		for _, protocol := range protocols {
			for _, version := range versions {
				for _, direction := range []mud.Direction{mud.FromDevice, mud.ToDevice} {
					r := mud.Rule{Direction: direction, Version: version, Protocol: protocol, Peer: peer}
					if protocol == mud.ICMP && version == 6 {
						r.Protocol = mud.ICMPv6
					}
					if r.Remote = ports; e.Direction == In {
						r.Remote, r.Local = nil, ports
					}
					if protocol == mud.TCP {
						r.Initiated = new(mud.FromDevice)
						if e.Direction == In {
							r.Initiated = new(mud.ToDevice)
						}
					}
					if protocol != mud.TCP && len(ports) == 0 && (direction == mud.FromDevice) != (e.Direction == Out) && e.Protocol == AnyProtocol {
						continue // nothing there tells who begins, and each direction is an entry of its own
					}
					all = append(all, r)
				}
			}
		}
	}
	return all
}

// peer is how a MUD file names the peer of an entry: the hub is my-controller.
func (c *Controller) peer(e *Entry) (mud.Peer, []int) {
	both := []int{4, 6}
	ours := mud.Peer{Kind: mud.MyController}
	if e.Peer == MyController || c.Host != "" && e.Peer == strings.ToLower(c.Host) {
		return ours, both
	}
	if a, err := netip.ParseAddr(e.Peer); err == nil {
		if ranges, err := parsePorts(e.Ports); err == nil && len(ranges) == 1 && ranges[0].first == ranges[0].last && e.Direction == Out &&
			slices.Contains(c.Addresses, a) && slices.Contains(c.Ports, ranges[0].first) {
			return ours, both
		}
		return mud.Peer{Kind: mud.Network, Prefix: netip.PrefixFrom(a, a.BitLen())}, version(a)
	}
	if p, err := netip.ParsePrefix(e.Peer); err == nil {
		return mud.Peer{Kind: mud.Network, Prefix: p}, version(p.Addr())
	}
	switch e.Peer {
	case AnyPeer:
		return mud.Peer{}, both
	case LocalNetworks:
		return mud.Peer{Kind: mud.LocalNetworks}, both
	case SameManufacturer:
		return mud.Peer{Kind: mud.SameManufacturer}, both
	}
	for i, c := range classes {
		if value, ok := strings.CutPrefix(e.Peer, c); ok {
			return mud.Peer{Kind: []mud.PeerKind{mud.Controller, mud.Manufacturer, mud.Model}[i], Name: value}, both
		}
	}
	return mud.Peer{Kind: mud.DNSName, Name: e.Peer}, both
}

func version(a netip.Addr) []int {
	if a.Is4() {
		return []int{4}
	}
	return []int{6}
}
