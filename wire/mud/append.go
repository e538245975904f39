package mud

import (
	"encoding/json"
	"fmt"
	"time"
)

// Append writes f at the end of dst. A port list of several ranges becomes an entry for each; a rule whose Version is neither 4 nor 6 is
// an error, as is an address of f that Parse would refuse.
func (f File) Append(dst []byte) ([]byte, error) {
	if err := checkURL(f.URL); err != nil {
		return nil, err
	}
	type object = map[string]any
	names := map[[2]int]string{}
	aces := map[[2]int][]object{}
	for i, r := range f.Rules {
		if r.Version != 4 && r.Version != 6 {
			return nil, fmt.Errorf("mud: rule %d is of version %d", i, r.Version)
		}
		at := [2]int{int(r.Direction), r.Version}
		names[at] = fmt.Sprintf("%s-v%d", r.Direction, r.Version)
		ip, container := object{}, fmt.Sprintf("ipv%d", r.Version)
		own, other, short := "source", "destination", "dst"
		if r.Direction == ToDevice {
			own, other, short = other, own, "src"
		}
		if r.Protocol >= 0 {
			ip["protocol"] = r.Protocol
		}
		matches := object{container: ip}
		switch r.Peer.Kind {
		case Any:
		case Network:
			ip[other+"-"+container+"-network"] = r.Peer.Prefix.String()
		case DNSName:
			ip["ietf-acldns:"+short+"-dnsname"] = r.Peer.Name
		case LocalNetworks, SameManufacturer, MyController:
			matches["ietf-mud:mud"] = object{r.Peer.Kind.String(): []any{nil}} // an empty leaf (RFC 7951 §6.9)
		default:
			matches["ietf-mud:mud"] = object{r.Peer.Kind.String(): r.Peer.Name}
		}
		transport := map[int]string{TCP: "tcp", UDP: "udp"}[r.Protocol]
		if transport == "" && (len(r.Local) > 0 || len(r.Remote) > 0 || r.Initiated != nil) {
			return nil, fmt.Errorf("mud: rule %d has ports, and is neither TCP nor UDP", i)
		}
		for _, local := range orAll(r.Local) {
			for _, remote := range orAll(r.Remote) {
				one := object{}
				for k, v := range matches {
					one[k] = v
				}
				segment := object{}
				for _, side := range []struct {
					name string
					*Ports
				}{{own, local}, {other, remote}} {
					switch {
					case side.Ports == nil:
					case side.First == side.Last:
						segment[side.name+"-port"] = object{"operator": "eq", "port": side.First}
					default:
						segment[side.name+"-port"] = object{"lower-port": side.First, "upper-port": side.Last}
					}
				}
				if r.Initiated != nil && transport == "tcp" {
					segment["ietf-mud:direction-initiated"] = r.Initiated.String()
				}
				if len(segment) > 0 {
					one[transport] = segment
				}
				aces[at] = append(aces[at], object{"name": fmt.Sprintf("%s-%d", names[at], len(aces[at])), "matches": one, "actions": object{"forwarding": "accept"}})
			}
		}
	}
	description := object{
		"mud-version": 1, "mud-url": f.URL, "last-update": f.LastUpdate.UTC().Format(time.RFC3339), "is-supported": f.Supported, "systeminfo": f.SystemInfo,
	}
	if f.CacheValidity != 0 {
		description["cache-validity"] = f.CacheValidity
	}
	for k, v := range map[string]string{
		"mfg-name": f.Manufacturer, "model-name": f.Model, "firmware-rev": f.Firmware, "software-rev": f.Software, "documentation": f.Documentation, "mud-signature": f.Signature,
	} {
		if v != "" {
			description[k] = v
		}
	}
	acls := []object{}
	for _, d := range []Direction{FromDevice, ToDevice} {
		refs := []object{}
		for _, v := range []int{4, 6} {
			at := [2]int{int(d), v}
			if len(aces[at]) == 0 {
				continue
			}
			refs = append(refs, object{"name": names[at]})
			acls = append(acls, object{"name": names[at], "type": fmt.Sprintf("ipv%d-acl-type", v), "aces": object{"ace": aces[at]}})
		}
		if len(refs) > 0 {
			description[d.String()+"-policy"] = object{"access-lists": object{"access-list": refs}}
		}
	}
	text, err := json.MarshalIndent(object{"ietf-mud:mud": description, "ietf-access-control-list:acls": object{"acl": acls}}, "", "  ")
	return append(append(dst, text...), '\n'), err
}

func orAll(p []Ports) []*Ports {
	if len(p) == 0 {
		return []*Ports{nil}
	}
	all := make([]*Ports, len(p))
	for i := range p {
		all[i] = &p[i]
	}
	return all
}
