package baseline

import (
	"cmp"
	"fmt"
	"strconv"
	"strings"
)

// distro is a distribution in the words of the grammar: Debian, Ubuntu, RedHat, CentOS, Oracle, SLES, and the ID of
// /etc/os-release for others.
type distro struct {
	name    string
	version string // 12, 18.04; empty: not known
	id      string // as in os-release: debian
	number  string // VERSION_ID
}

// distroNames are the grammar's names of what os-release calls ID.
var distroNames = map[string]string{
	"debian": "Debian", "ubuntu": "Ubuntu", "rhel": "RedHat", "centos": "CentOS", "ol": "Oracle", "sles": "SLES",
	// The same numbers of versions as their model.
	"raspbian": "Debian", "rocky": "RedHat", "almalinux": "RedHat",
}

func (m *machine) readDistro() distro {
	vars := map[string]string{}
	for _, path := range []string{"/etc/os-release", "/usr/lib/os-release"} {
		lines, err := m.lines(path)
		if err != nil {
			continue
		}
		for _, l := range lines {
			if k, v, ok := strings.Cut(l, "="); ok {
				vars[k] = strings.Trim(v, `"'`)
			}
		}
		break
	}
	d := distro{id: plainID(vars["ID"], "linux"), number: plainID(vars["VERSION_ID"], "any")}
	if n, ok := distroNames[d.id]; ok {
		d.name, d.version = n, vars["VERSION_ID"]
		return d
	}
	d.name, d.version = d.id, vars["VERSION_ID"]
	for like := range strings.FieldsSeq(vars["ID_LIKE"]) {
		if n, ok := distroNames[like]; ok {
			d.name, d.version = n, "" // its versions count otherwise
			break
		}
	}
	return d
}

// plainID keeps what a part of a check's id may hold.
func plainID(s, otherwise string) string {
	s = strings.Map(func(r rune) rune {
		switch {
		case r >= 'A' && r <= 'Z':
			return r + 'a' - 'A'
		case r >= 'a' && r <= 'z', r >= '0' && r <= '9', r == '.', r == '_':
			return r
		}
		return -1
	}, s)
	return cmp.Or(s[:min(len(s), 32)], otherwise)
}

// matches says whether a check is for this distribution (defender §3.4): *, A|B, !A, A=6, A>=7, A<7, joined by |, of which
// one must hold, or all after a leading and|.
func (d distro) matches(expr string) (bool, error) {
	expr = strings.TrimSpace(expr)
	if expr == "" || expr == "*" {
		return true, nil
	}
	expr, all := strings.CutPrefix(expr, "and|")
	result := all
	for term := range strings.SplitSeq(expr, "|") {
		ok, err := d.term(strings.TrimSpace(term))
		if err != nil {
			return false, fmt.Errorf("distro %q: %w", expr, err)
		}
		if all {
			result = result && ok
		} else {
			result = result || ok
		}
	}
	return result, nil
}

func (d distro) term(term string) (bool, error) {
	if term == "*" {
		return true, nil
	}
	rest, not := strings.CutPrefix(term, "!")
	name, op, version := rest, "", ""
	if i := strings.IndexAny(rest, "<>="); i >= 0 {
		name, op = rest[:i], rest[i:i+1]
		version = rest[i+1:]
		if op != "=" {
			if v, ok := strings.CutPrefix(version, "="); ok {
				op, version = op+"=", v
			}
		}
		if !isVersion(version) {
			return false, fmt.Errorf("%q has no version number after %s", term, op)
		}
	}
	if name == "" || strings.ContainsAny(name, " !") {
		return false, fmt.Errorf("%q names no distribution", term)
	}
	ok := strings.EqualFold(name, d.name) || strings.EqualFold(name, d.id)
	if ok && op != "" {
		if !isVersion(d.version) {
			return not, nil // an unknown version is none of those meant
		}
		c := compareVersions(d.version, version)
		switch op {
		case "=":
			ok = c == 0
		case ">":
			ok = c > 0
		case ">=":
			ok = c >= 0
		case "<":
			ok = c < 0
		case "<=":
			ok = c <= 0
		}
	}
	return ok != not, nil
}

func isVersion(s string) bool {
	if s == "" || len(s) > 32 {
		return false
	}
	for part := range strings.SplitSeq(s, ".") {
		if _, err := strconv.ParseUint(part, 10, 32); err != nil {
			return false
		}
	}
	return true
}

// compareVersions compares as many parts as b has: 6.10 equals 6, and is not above it.
func compareVersions(a, b string) int {
	as, bs := strings.Split(a, "."), strings.Split(b, ".")
	for i, part := range bs {
		x := uint64(0)
		if i < len(as) {
			x, _ = strconv.ParseUint(as[i], 10, 32)
		}
		y, _ := strconv.ParseUint(part, 10, 32)
		if c := cmp.Compare(x, y); c != 0 {
			return c
		}
	}
	return 0
}
