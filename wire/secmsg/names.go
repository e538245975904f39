package secmsg

import (
	"encoding/json"
	"net/netip"
	"strings"
)

// Resolution is a name that a device looked up, with addresses that it got for it.
type Resolution struct {
	Name      string // in lower case
	Addresses []netip.Addr
	Item      int // which of the event's details it is
}

const maxResolved = 16 // addresses of a resolution

// Resolutions returns what an event says about names. No published schema has an event for them (defender §1.4). Events of the name
// DNS, whose payload objects have Name or QueryName and a list Addresses, are read, and the member DnsName of a connection's ExtraDetails.
func (e *Event) Resolutions() []Resolution {
	lookup := strings.EqualFold(e.Name, "DNS")
	if !lookup && e.Name != "ConnectionCreate" {
		return nil
	}
	var all []Resolution
	for i, item := range e.Payload {
		raw, ok := item.(Raw)
		if !ok {
			continue
		}
		var v struct {
			Name, QueryName text
			Addresses       []text
			RemoteAddress   text
			ExtraDetails    json.RawMessage
		}
		if json.Unmarshal(raw, &v) != nil {
			continue
		}
		r := Resolution{Name: string(first(v.Name, v.QueryName)), Item: i}
		if !lookup {
			var extra struct{ DnsName text } //nolint:revive // as on the wire
			if json.Unmarshal(v.ExtraDetails, &extra) != nil {
				continue
			}
			r.Name, v.Addresses = string(extra.DnsName), []text{v.RemoteAddress}
		}
		r.Name = strings.ToLower(strings.TrimSuffix(r.Name, "."))
		if r.Name == "" || len(r.Name) > 253 || strings.ContainsFunc(r.Name, func(c rune) bool { return c <= ' ' || c > '~' }) {
			continue
		}
		for _, a := range v.Addresses[:min(len(v.Addresses), maxResolved)] {
			if parsed, err := netip.ParseAddr(string(a)); err == nil {
				r.Addresses = append(r.Addresses, parsed.Unmap().WithZone(""))
			}
		}
		if len(r.Addresses) > 0 {
			all = append(all, r)
		}
	}
	return all
}
