package version

import (
	"cmp"
	"regexp"
	"strings"
)

// pep is a version as PEP 440 has it, with the spellings that it normalizes.
var pep = regexp.MustCompile(`^v?(?:(\d+)!)?(\d+(?:\.\d+)*)(?:[-_.]?(alpha|a|beta|b|preview|pre|c|rc)[-_.]?(\d*))?((?:-(\d+))|(?:[-_.]?(post|rev|r)[-_.]?(\d*)))?([-_.]?dev[-_.]?(\d*))?(?:\+([a-z0-9]+(?:[-_.][a-z0-9]+)*))?$`)

// PEP440 compares versions of Python packages. Those that PEP 440 does not know are older than all it knows, as packaging had it.
func PEP440(a, b string) int {
	a, b = strings.ToLower(strings.TrimSpace(a)), strings.ToLower(strings.TrimSpace(b))
	ma, mb := pep.FindStringSubmatch(a), pep.FindStringSubmatch(b)
	switch {
	case ma == nil && mb == nil:
		return strings.Compare(a, b)
	case ma == nil:
		return -1
	case mb == nil:
		return 1
	}
	return cmp.Or(numbers(ma[1], mb[1]), dotted(ma[2], mb[2], true), phase(ma)-phase(mb), numbers(ma[4], mb[4]),
		optional(ma[5], ma[6]+ma[8], mb[5], mb[6]+mb[8], false), optional(ma[9], ma[10], mb[9], mb[10], true), local(ma[11], mb[11]))
}

// phase orders what comes before a release: a developer's build of no phase, alpha, beta, candidates, the release.
func phase(m []string) int {
	switch {
	case m[3] == "" && m[5] == "" && m[9] != "":
		return 0
	case m[3] == "":
		return 4
	case m[3][0] == 'a':
		return 1
	case m[3][0] == 'b':
		return 2
	}
	return 3
}

// optional compares a part that may be missing. last: one without it comes last, not first.
func optional(a, na, b, nb string, last bool) int {
	if (a == "") != (b == "") {
		return sign((b == "") != last)
	}
	return numbers(na, nb)
}

// local compares the part behind the plus: none is first, words before numbers, shorter before longer.
func local(a, b string) int {
	split := func(s string) []string {
		return strings.FieldsFunc(s, func(r rune) bool { return strings.ContainsRune("-_.", r) })
	}
	la, lb := split(a), split(b)
	for i := range min(len(la), len(lb)) {
		na, nb := span(la[i], digit) == len(la[i]), span(lb[i], digit) == len(lb[i])
		c := 0
		switch {
		case na && nb:
			c = numbers(la[i], lb[i])
		case na != nb:
			c = sign(na)
		default:
			c = strings.Compare(la[i], lb[i])
		}
		if c != 0 {
			return c
		}
	}
	return cmp.Compare(len(la), len(lb))
}
