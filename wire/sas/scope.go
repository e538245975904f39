package sas

import (
	"slices"
	"strings"

	"github.com/vauban-iot/vauban/wire/bag"
)

// Scope is what a token is good for: a host and the path below it.
type Scope struct {
	Host string   // lower case, without port
	Path []string // decoded once; empty: the whole host
}

// Scope reads the token's resource by the rules of hub-device §6.2. It says nothing about the
// signature. The error is ErrMalformed.
//
// A '?' may be part of a device id, so only ?api-version= starts a query.
func (t Token) Scope() (Scope, error) {
	s, err := bag.Unescape(t.Resource)
	if err != nil {
		return Scope{}, malformed("sr cannot be decoded")
	}
	if _, after, ok := strings.Cut(s, "://"); ok {
		s = after
	}
	host, path, _ := strings.Cut(s, "/")
	host, _, _ = strings.Cut(host, "?")
	host = strings.ToLower(cutPort(host))
	if host == "" {
		return Scope{}, malformed("sr without a host")
	}
	return Scope{Host: host, Path: splitPath(path)}, nil
}

// splitPath drops what documentation samples append to a resource: ?api-version=... or
// /api-version=... . Where an id stands, right after devices or modules, the text is an id:
// to drop it would widen the token to every device.
func splitPath(s string) []string {
	s = strings.TrimRight(s, "/")
	if s == "" {
		return nil
	}
	path := strings.Split(s, "/")
	last := len(path) - 1
	before, _, found := strings.Cut(path[last], "?api-version=")
	if found || strings.HasPrefix(path[last], "api-version=") {
		isID := last > 0 && (path[last-1] == "devices" || path[last-1] == "modules")
		switch {
		case found && before != "":
			path[last] = before
		case !isID:
			path = path[:last]
		}
	}
	for len(path) > 0 && path[len(path)-1] == "" {
		path = path[:len(path)-1]
	}
	if len(path) == 0 {
		return nil
	}
	return path
}

// cutPort takes :port off a host name; an IPv6 address must be in brackets to have one.
func cutPort(host string) string {
	i := strings.LastIndexByte(host, ':')
	if i < 0 || strings.Trim(host[i+1:], "0123456789") != "" {
		return host
	}
	if strings.Contains(host[:i], ":") && !strings.HasSuffix(host[:i], "]") {
		return host
	}
	return host[:i]
}

// Covers reports whether the scope names one of hosts, in any case, and path or a part of
// the way to it. A segment of the scope matches as it is or decoded once more, since .NET
// encodes ids before it encodes the whole (hub-device §6.2.4). Segments are case-sensitive.
func (s Scope) Covers(hosts []string, path ...string) bool {
	if len(s.Path) > len(path) || !slices.ContainsFunc(hosts, s.isHost) {
		return false
	}
	for i, seg := range s.Path {
		if seg == path[i] {
			continue
		}
		if again, err := bag.Unescape(seg); err != nil || again != path[i] {
			return false
		}
	}
	return true
}

func (s Scope) isHost(host string) bool {
	return s.Host != "" && strings.EqualFold(s.Host, host)
}
