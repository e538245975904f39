package version

import (
	"cmp"
	"strings"
)

// Semantic compares versions by semver.org's precedence. A leading v, fewer numbers than three and more are read too; build metadata
// does not count.
func Semantic(a, b string) int {
	ra, pa := semantic(a)
	rb, pb := semantic(b)
	if c := dotted(ra, rb, true); c != 0 {
		return c
	}
	switch {
	case pa == pb:
		return 0
	case pa == "": // the release itself
		return 1
	case pb == "":
		return -1
	}
	return dotted(pa, pb, false)
}

func semantic(s string) (release, pre string) {
	s = strings.TrimSpace(s)
	s = strings.TrimPrefix(strings.TrimPrefix(s, "v"), "V")
	s, _, _ = strings.Cut(s, "+")
	release, pre, _ = strings.Cut(s, "-")
	return release, pre
}

// dotted compares identifiers between dots. In a release missing ones are 0; in what stands before one, more identifiers are newer.
func dotted(a, b string, release bool) int {
	for a != "" || b != "" {
		if !release && (a == "" || b == "") {
			return cmp.Compare(len(a), len(b))
		}
		var ia, ib string
		ia, a, _ = strings.Cut(a, ".")
		ib, b, _ = strings.Cut(b, ".")
		na, nb := span(ia, digit) == len(ia), span(ib, digit) == len(ib)
		c := 0
		switch {
		case na && nb:
			c = numbers(ia, ib)
		case na != nb: // numbers before words
			c = sign(nb)
		default:
			c = strings.Compare(ia, ib)
		}
		if c != 0 {
			return c
		}
	}
	return 0
}
