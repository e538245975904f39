package mud

import (
	"bytes"
	"encoding/json"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strings"
	"time"
	"unicode/utf8"
)

// The members of a file. Files of the draft called the lists access-lists.
type document struct {
	MUD  *description `json:"ietf-mud:mud"`
	ACLs *lists       `json:"ietf-access-control-list:acls"`
	Old  *lists       `json:"ietf-access-control-list:access-lists"`
}

type description struct {
	Version       *int     `json:"mud-version"`
	URL           string   `json:"mud-url"`
	LastUpdate    string   `json:"last-update"`
	Signature     string   `json:"mud-signature"`
	CacheValidity *int     `json:"cache-validity"`
	Supported     *bool    `json:"is-supported"`
	SystemInfo    string   `json:"systeminfo"`
	Manufacturer  string   `json:"mfg-name"`
	Model         string   `json:"model-name"`
	Firmware      string   `json:"firmware-rev"`
	Software      string   `json:"software-rev"`
	Documentation string   `json:"documentation"`
	Extensions    []string `json:"extensions"`
	From          policy   `json:"from-device-policy"`
	To            policy   `json:"to-device-policy"`
}

type policy struct {
	Lists struct {
		List []struct {
			Name string `json:"name"`
		} `json:"access-list"`
	} `json:"access-lists"`
}

type lists struct {
	ACL []json.RawMessage `json:"acl"`
}

type list struct {
	Name string `json:"name"`
	Type string `json:"type"`
	ACEs struct {
		ACE []json.RawMessage `json:"ace"`
	} `json:"aces"`
}

type entry struct {
	Name    string                                `json:"name"`
	Matches map[string]map[string]json.RawMessage `json:"matches"`
	Actions struct {
		Forwarding string `json:"forwarding"`
	} `json:"actions"`
}

// Parse reads a MUD file. Its errors wrap ErrMalformed.
func Parse(text []byte) (File, error) {
	if len(text) > MaxSize {
		return File{}, malformed("it has %d bytes, %d are allowed", len(text), MaxSize)
	}
	if !utf8.Valid(text) {
		return File{}, malformed("it is not UTF-8")
	}
	var d document
	if err := json.Unmarshal(bytes.TrimPrefix(text, []byte("\xef\xbb\xbf")), &d); err != nil {
		return File{}, malformed("%v", err)
	}
	if d.MUD == nil {
		return File{}, malformed("it has no member ietf-mud:mud")
	}
	f, err := d.MUD.file()
	if err != nil {
		return File{}, err
	}
	acls := d.ACLs
	if acls == nil {
		acls = d.Old
	}
	if acls == nil {
		acls = &lists{}
	}
	if len(acls.ACL) > maxLists {
		return File{}, malformed("it has %d access lists, %d are allowed", len(acls.ACL), maxLists)
	}
	byName := make(map[string]list, len(acls.ACL))
	for i, raw := range acls.ACL {
		var l list
		if err := json.Unmarshal(raw, &l); err != nil {
			return File{}, malformed("access list %d: %v", i, err)
		}
		if _, twice := byName[l.Name]; twice || l.Name == "" {
			return File{}, malformed("access list %d: its name %s is taken, or none", i, quote(l.Name))
		}
		byName[l.Name] = l
	}
	for _, p := range []struct {
		direction Direction
		policy    policy
	}{{FromDevice, d.MUD.From}, {ToDevice, d.MUD.To}} {
		if len(p.policy.Lists.List) > maxLists {
			return File{}, malformed("the %s-policy names %d access lists, %d are allowed", p.direction, len(p.policy.Lists.List), maxLists)
		}
		for _, ref := range p.policy.Lists.List {
			l, ok := byName[ref.Name]
			if !ok {
				return File{}, malformed("the %s-policy names the access list %s, which is not there", p.direction, quote(ref.Name))
			}
			if err := f.list(p.direction, &l); err != nil {
				return File{}, err
			}
		}
	}
	return f, nil
}

func (d *description) file() (File, error) {
	f := File{
		URL: d.URL, CacheValidity: 48, SystemInfo: d.SystemInfo, Manufacturer: d.Manufacturer, Model: d.Model, Firmware: d.Firmware, Software: d.Software,
		Documentation: d.Documentation, Signature: d.Signature, Extensions: d.Extensions,
	}
	if d.Version == nil || *d.Version != 1 {
		return f, malformed("mud-version is not 1")
	}
	if err := checkURL(d.URL); err != nil {
		return f, err
	}
	var err error
	if f.LastUpdate, err = time.Parse(time.RFC3339, d.LastUpdate); err != nil {
		return f, malformed("last-update is %s; it is a time such as 2026-01-02T15:04:05Z", quote(d.LastUpdate))
	}
	f.LastUpdate = f.LastUpdate.UTC()
	if y := f.LastUpdate.Year(); y < 1 || y > 9999 {
		return f, malformed("last-update is in the year %d", y)
	}
	if d.CacheValidity != nil {
		if f.CacheValidity = *d.CacheValidity; f.CacheValidity < 1 || f.CacheValidity > 168 {
			return f, malformed("cache-validity is %d, not 1 to 168 hours", f.CacheValidity)
		}
	}
	if d.Supported == nil {
		return f, malformed("is-supported is not there")
	}
	f.Supported = *d.Supported
	if len(d.Extensions) > maxLists {
		return f, malformed("it has %d extensions", len(d.Extensions))
	}
	for what, s := range map[string]string{
		"systeminfo": d.SystemInfo, "mfg-name": d.Manufacturer, "model-name": d.Model, "firmware-rev": d.Firmware, "software-rev": d.Software, "documentation": d.Documentation, "mud-signature": d.Signature,
	} {
		if len(s) > maxText {
			return f, malformed("%s has %d bytes, %d are allowed", what, len(s), maxText)
		}
	}
	for _, e := range d.Extensions {
		f.note("the extension %s is not known; what it adds is not used", quote(e))
	}
	return f, nil
}

func (f *File) note(format string, args ...any) {
	if len(f.Notes) < maxNotes {
		f.Notes = append(f.Notes, fmt.Sprintf(format, args...))
	}
}

// list adds the entries of an access list that accept. First match decides, and what nothing matches is dropped: an entry that drops
// something changes nothing behind the last that accepts, and is refused before one.
func (f *File) list(direction Direction, l *list) error {
	dropped := ""
	for i, raw := range l.ACEs.ACE {
		var e entry
		if err := json.Unmarshal(raw, &e); err != nil {
			return malformed("access list %s, entry %d: %v", quote(l.Name), i, err)
		}
		place := fmt.Sprintf("%s of access list %s", quote(e.Name), quote(l.Name))
		switch forwarding := plain(e.Actions.Forwarding); forwarding {
		case "accept":
			if dropped != "" {
				return malformed("%s accepts behind %s, which drops: exceptions are not known here; list what is accepted alone", place, dropped)
			}
		case "drop", "reject":
			dropped = place
			continue
		default:
			return malformed("%s: forwarding is %s, not accept, drop or reject", place, quote(forwarding))
		}
		rules, reason, err := e.rules(direction, l.Type)
		if err != nil {
			return malformed("%s: %v", place, err)
		}
		if reason != "" {
			f.note("%s was left out: %s", place, reason)
			continue
		}
		if len(f.Rules)+len(rules) > MaxRules {
			return malformed("it has over %d entries", MaxRules)
		}
		f.Rules = append(f.Rules, rules...)
	}
	return nil
}

// plain is a name without the module before it.
func plain(s string) string {
	if _, after, ok := strings.Cut(s, ":"); ok {
		return after
	}
	return s
}

// rules are those of an entry, one for each version of IP. reason says why it is none that can be used.
func (e *entry) rules(direction Direction, kind string) (rules []Rule, reason string, err error) {
	versions := versionsOf(kind)
	r := Rule{Direction: direction, Protocol: -1}
	own, other, short := "source", "destination", "dst"
	if direction == ToDevice {
		own, other, short = other, own, "src"
	}
	peer := func(p Peer) error {
		if r.Peer.Kind != Any {
			return fmt.Errorf("it names the other side twice, as %s and as %s", r.Peer.Kind, p.Kind)
		}
		r.Peer = p
		return nil
	}
	transport := ""
	for _, container := range slices.Sorted(maps.Keys(e.Matches)) {
		members := e.Matches[container]
		switch container {
		case "ipv4", "ipv6":
			v := int(container[3] - '0')
			if !slices.Contains(versions, v) && len(versions) > 0 {
				return nil, "", fmt.Errorf("%s in a list of type %s", container, quote(kind))
			}
			versions = []int{v}
		case "tcp", "udp", "icmp":
			if transport != "" {
				return nil, "", fmt.Errorf("it matches %s and %s", transport, container)
			}
			transport = container
		case "ietf-mud:mud", "mud":
		default:
			return nil, "it matches " + quote(container) + ", of which agents do not tell", nil
		}
		for _, member := range slices.Sorted(maps.Keys(members)) {
			raw := members[member]
			where := container + " " + member
			switch m := plain(member); {
			case strings.HasPrefix(container, "ip") && m == "protocol":
				var n uint8
				if err := json.Unmarshal(raw, &n); err != nil {
					return nil, "", fmt.Errorf("%s: %w", where, err)
				}
				r.Protocol = int(n)
			case strings.HasPrefix(container, "ip") && m == other+"-"+container+"-network":
				p, err := network(raw, container)
				if err != nil {
					return nil, "", fmt.Errorf("%s: %w", where, err)
				}
				if err := peer(Peer{Kind: Network, Prefix: p}); err != nil {
					return nil, "", err
				}
			case strings.HasPrefix(container, "ip") && m == short+"-dnsname":
				s, err := str(raw)
				if err != nil {
					return nil, "", fmt.Errorf("%s: %w", where, err)
				}
				n, ok := name(s)
				if !ok {
					return nil, "", fmt.Errorf("%s: %s is no name", where, quote(s))
				}
				if err := peer(Peer{Kind: DNSName, Name: n}); err != nil {
					return nil, "", err
				}
			case (container == "tcp" || container == "udp") && (m == own+"-port" || m == other+"-port"):
				p, err := ports(raw)
				if err != nil {
					return nil, "", fmt.Errorf("%s: %w", where, err)
				}
				if m == own+"-port" {
					r.Local = p
				} else {
					r.Remote = p
				}
			case container == "tcp" && m == "direction-initiated":
				s, err := str(raw)
				if err != nil {
					return nil, "", fmt.Errorf("%s: %w", where, err)
				}
				switch s {
				case FromDevice.String():
					r.Initiated = new(FromDevice)
				case ToDevice.String():
					r.Initiated = new(ToDevice)
				default:
					return nil, "", fmt.Errorf("%s is %s, not from-device or to-device", where, quote(s))
				}
			case container == "ietf-mud:mud" || container == "mud":
				i := slices.Index(kindNames[:], m)
				if i < int(LocalNetworks) {
					return nil, "it matches " + quote(where) + ", which is not known", nil
				}
				p := Peer{Kind: PeerKind(i)}
				if p.Kind >= Controller {
					if p.Name, err = str(raw); err != nil || p.Name == "" || len(p.Name) > maxText {
						return nil, "", fmt.Errorf("%s is not a text of 1 to %d bytes", where, maxText)
					}
				}
				if err := peer(p); err != nil {
					return nil, "", err
				}
			default:
				return nil, "it matches " + quote(where) + ", of which agents do not tell", nil
			}
		}
	}
	if transport != "" {
		if reason, err := r.carry(transport, versions); reason != "" || err != nil {
			return nil, reason, err
		}
	}
	if len(versions) == 0 {
		return nil, "its list is of type " + quote(kind) + ", of which agents do not tell", nil
	}
	for _, v := range versions {
		one := r
		one.Version = v
		if transport == "icmp" {
			one.Protocol = map[int]int{4: ICMP, 6: ICMPv6}[v]
		}
		rules = append(rules, one)
	}
	return rules, "", nil
}

// carry takes the protocol from the container of transport.
func (r *Rule) carry(transport string, versions []int) (reason string, err error) {
	n := map[string]int{"tcp": TCP, "udp": UDP, "icmp": ICMP}[transport]
	if transport == "icmp" && r.Protocol == ICMPv6 && slices.Equal(versions, []int{6}) {
		n = ICMPv6
	}
	if r.Protocol >= 0 && r.Protocol != n {
		return "", fmt.Errorf("it matches %s and protocol %d", transport, r.Protocol)
	}
	r.Protocol = n
	return "", nil
}

func versionsOf(kind string) []int {
	switch plain(kind) {
	case "ipv4-acl-type", "mixed-eth-ipv4-acl-type":
		return []int{4}
	case "ipv6-acl-type", "mixed-eth-ipv6-acl-type":
		return []int{6}
	case "mixed-eth-ipv4-ipv6-acl-type":
		return []int{4, 6}
	}
	return nil
}

func str(raw json.RawMessage) (s string, err error) {
	err = json.Unmarshal(raw, &s)
	return s, err
}

func network(raw json.RawMessage, container string) (netip.Prefix, error) {
	s, err := str(raw)
	if err != nil {
		return netip.Prefix{}, err
	}
	p, err := netip.ParsePrefix(s)
	if err != nil || p.Addr().Is4In6() {
		return p, fmt.Errorf("%s is no range of addresses", quote(s))
	}
	if p.Addr().Is4() != (container == "ipv4") {
		return p, fmt.Errorf("%s is not of %s", quote(s), container)
	}
	return p.Masked(), nil
}

// ports reads a range or an operator with a port (RFC 8519 §4.3).
func ports(raw json.RawMessage) ([]Ports, error) {
	var v struct {
		Operator *string `json:"operator"`
		Port     *uint16 `json:"port"`
		Lower    *uint16 `json:"lower-port"`
		Upper    *uint16 `json:"upper-port"`
	}
	if err := json.Unmarshal(raw, &v); err != nil {
		return nil, err
	}
	if v.Lower != nil && v.Upper != nil && v.Port == nil {
		if *v.Lower > *v.Upper {
			return nil, fmt.Errorf("%d to %d is no range", *v.Lower, *v.Upper)
		}
		return []Ports{{*v.Lower, *v.Upper}}, nil
	}
	if v.Port == nil || v.Lower != nil || v.Upper != nil {
		return nil, fmt.Errorf("a port has operator and port, or lower-port and upper-port")
	}
	operator := "eq"
	if v.Operator != nil {
		operator = plain(*v.Operator)
	}
	const last = 1<<16 - 1
	switch p := *v.Port; operator {
	case "eq":
		return []Ports{{p, p}}, nil
	case "lte":
		return []Ports{{0, p}}, nil
	case "gte":
		return []Ports{{p, last}}, nil
	case "neq":
		var all []Ports
		if p > 0 {
			all = append(all, Ports{0, p - 1})
		}
		if p < last {
			all = append(all, Ports{p + 1, last})
		}
		return all, nil
	}
	return nil, fmt.Errorf("the operator %s is not eq, lte, gte or neq", quote(operator))
}
