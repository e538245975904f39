package intel

import (
	"strings"

	"golang.org/x/net/idna"
	"golang.org/x/net/publicsuffix"
)

const notDomain = "not a domain"

// maxDomain is the longest name (RFC 1035 2.3.4).
const maxDomain = 253

// NormalizeDomain is the one spelling of a name: lower case, punycode, without the final dot. reason says why it
// cannot be an indicator: a public suffix (com, co.uk, github.io) would list the names of strangers.
func NormalizeDomain(name string) (domain, reason string) {
	name = strings.TrimSuffix(strings.TrimPrefix(name, "*."), ".")
	const none = notDomain
	if name == "" || len(name) > maxDomain {
		return "", none
	}
	if !plain(name) {
		var err error
		if name, err = idna.Lookup.ToASCII(name); err != nil || !plain(name) {
			return "", none
		}
	}
	if last := name[strings.LastIndexByte(name, '.')+1:]; strings.Trim(last, "0123456789") == "" {
		return "", none
	}
	if suffix, _ := publicsuffix.PublicSuffix(name); suffix == name {
		return "", "a public suffix, which many share"
	}
	return name, ""
}

// plain reports whether name is already lower-case labels of letters, digits, - and _.
func plain(name string) bool {
	label := 0
	for i := range len(name) {
		switch c := name[i]; {
		case c >= 'a' && c <= 'z', c >= '0' && c <= '9', c == '-', c == '_':
			if label++; label > 63 {
				return false
			}
		case c == '.':
			if label == 0 {
				return false
			}
			label = 0
		default:
			return false
		}
	}
	return label > 0 && len(name) <= maxDomain
}

// suffixes calls yield for name and the names above it, down to the one below the public suffix.
func suffixes(name string, yield func(string) bool) {
	end, _ := publicsuffix.PublicSuffix(name)
	for len(name) > len(end) {
		if !yield(name) {
			return
		}
		_, above, ok := strings.Cut(name, ".")
		if !ok {
			return
		}
		name = above
	}
}
