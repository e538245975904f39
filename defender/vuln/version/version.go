// Package version orders versions as each package manager does (defender §5): dpkg, rpm, apk, semantic versions and those of Python.
// Every comparison is total: any two texts have an order, also those that are no versions.
package version

import (
	"cmp"
	"strings"
)

// Compare returns a negative number when a is older than b, 0 when they are the same, a positive one when a is newer.
type Compare func(a, b string) int

// For returns the order of an ecosystem of OSV, with or without a release behind its colon; nil: it is not known, and versions are
// only the same or not.
func For(ecosystem string) Compare {
	base, _, _ := strings.Cut(ecosystem, ":")
	switch base {
	case "Debian", "Ubuntu":
		return Deb
	case "Alpine", "Alpaquita", "Wolfi", "Chainguard":
		return Apk
	case "Red Hat", "Rocky Linux", "AlmaLinux", "Azure Linux", "openSUSE", "SUSE", "Mageia", "openEuler":
		return RPM
	case "Go", "npm", "crates.io", "Hex", "Bitnami", "Linux":
		return Semantic
	case "PyPI":
		return PEP440
	}
	return nil
}

func digit(c byte) bool  { return '0' <= c && c <= '9' }
func letter(c byte) bool { return 'a' <= c|0x20 && c|0x20 <= 'z' }

// numbers compares texts of digits of any length.
func numbers(a, b string) int {
	a, b = strings.TrimLeft(a, "0"), strings.TrimLeft(b, "0")
	return cmp.Or(cmp.Compare(len(a), len(b)), strings.Compare(a, b))
}

// span returns how many bytes s begins with that are in.
func span(s string, in func(byte) bool) int {
	n := 0
	for n < len(s) && in(s[n]) {
		n++
	}
	return n
}

// epoch cuts the number before the colon off; none is 0.
func epoch(s string) (number, rest string) {
	if n := span(s, digit); n > 0 && n < len(s) && s[n] == ':' {
		return s[:n], s[n+1:]
	}
	return "", strings.TrimPrefix(s, ":")
}

// Deb compares versions of Debian packages, epoch:upstream-revision, as dpkg does (deb-version(7)).
func Deb(a, b string) int {
	ea, a := epoch(strings.TrimSpace(a))
	eb, b := epoch(strings.TrimSpace(b))
	if c := numbers(ea, eb); c != 0 {
		return c
	}
	ua, ra := revision(a)
	ub, rb := revision(b)
	return cmp.Or(debPart(ua, ub), debPart(ra, rb))
}

func revision(s string) (upstream, revision string) {
	if i := strings.LastIndexByte(s, '-'); i >= 0 {
		return s[:i], s[i+1:]
	}
	return s, ""
}

// weight orders what is no digit: a tilde before the end, the end before letters, letters before the rest.
func weight(s string) int {
	switch {
	case s == "" || digit(s[0]):
		return 0
	case s[0] == '~':
		return -1
	case letter(s[0]):
		return int(s[0])
	}
	return int(s[0]) + 256
}

func debPart(a, b string) int {
	for a != "" || b != "" {
		for a != "" && !digit(a[0]) || b != "" && !digit(b[0]) {
			if c := cmp.Compare(weight(a), weight(b)); c != 0 {
				return c
			}
			a, b = a[min(1, len(a)):], b[min(1, len(b)):]
		}
		na, nb := span(a, digit), span(b, digit)
		if c := numbers(a[:na], b[:nb]); c != 0 {
			return c
		}
		a, b = a[na:], b[nb:]
	}
	return 0
}

// RPM compares epoch:version-release as rpm does. A release counts when both have one.
func RPM(a, b string) int {
	ea, a := epoch(strings.TrimSpace(a))
	eb, b := epoch(strings.TrimSpace(b))
	if c := numbers(ea, eb); c != 0 {
		return c
	}
	va, ra := revision(a)
	vb, rb := revision(b)
	if c := rpmPart(va, vb); c != 0 || ra == "" || rb == "" {
		return c
	}
	return rpmPart(ra, rb)
}

func rpmPart(a, b string) int {
	if a == b {
		return 0
	}
	separator := func(c byte) bool { return !digit(c) && !letter(c) && c != '~' && c != '^' }
	for a != "" || b != "" {
		a, b = a[span(a, separator):], b[span(b, separator):]
		if ta, tb := strings.HasPrefix(a, "~"), strings.HasPrefix(b, "~"); ta || tb { // before everything, also the end
			if ta != tb {
				return sign(tb)
			}
			a, b = a[1:], b[1:]
			continue
		}
		if ca, cb := strings.HasPrefix(a, "^"), strings.HasPrefix(b, "^"); ca || cb { // after the end, before everything else
			switch {
			case ca && cb:
				a, b = a[1:], b[1:]
				continue
			case a == "":
				return -1
			case b == "":
				return 1
			}
			return sign(cb)
		}
		if a == "" || b == "" {
			break
		}
		kind := letter
		if digit(a[0]) {
			kind = digit
		}
		na, nb := span(a, kind), span(b, kind)
		if nb == 0 { // numbers are newer than letters
			return sign(digit(a[0]))
		}
		c := 0
		if digit(a[0]) {
			c = numbers(a[:na], b[:nb])
		} else {
			c = strings.Compare(a[:na], b[:nb])
		}
		if c != 0 {
			return c
		}
		a, b = a[na:], b[nb:]
	}
	return cmp.Compare(len(a), len(b))
}

func sign(newer bool) int {
	if newer {
		return 1
	}
	return -1
}
