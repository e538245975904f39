package version

import (
	"slices"
	"strings"
)

// What a version of Alpine is made of, in the order in which apk has it: of two versions that are the same so far, the one that ends
// later is newer, unless it goes on with a suffix of pre-releases.
const (
	apkFirst = iota
	apkDigit
	apkLetter
	apkSuffix
	apkSuffixNumber
	apkHash
	apkRevision
	apkEnd
	apkInvalid
)

var (
	before = []string{"alpha", "beta", "pre", "rc"}
	after  = []string{"cvs", "svn", "git", "hg", "p"}
)

type apkScanner struct {
	rest  string
	token int
	text  string
}

// rank of a suffix; negative: a pre-release.
func rank(suffix string) int {
	if i := slices.Index(before, suffix); i >= 0 {
		return i - len(before)
	}
	return slices.Index(after, suffix) + 1
}

func (s *apkScanner) take(token, n int) {
	if n == 0 {
		s.token = apkInvalid
		return
	}
	s.token, s.text, s.rest = token, s.rest[:n], s.rest[n:]
}

// next moves to the next token.
func (s *apkScanner) next() {
	was := s.token
	if s.rest == "" {
		s.token, s.text = apkEnd, ""
		return
	}
	c := s.rest[0]
	switch {
	case was == apkInvalid:
	case c == '.' && was <= apkDigit:
		s.rest = s.rest[1:]
		s.take(apkDigit, span(s.rest, digit))
	case 'a' <= c && c <= 'z' && was <= apkDigit:
		s.take(apkLetter, 1)
	case c == '_' && was <= apkSuffixNumber:
		s.rest = s.rest[1:]
		s.take(apkSuffix, span(s.rest, letter))
		if s.token == apkSuffix && rank(s.text) == 0 {
			s.token = apkInvalid
		}
	case digit(c) && was == apkSuffix:
		s.take(apkSuffixNumber, span(s.rest, digit))
	case c == '~' && was < apkHash:
		s.rest = s.rest[1:]
		s.take(apkHash, span(s.rest, func(c byte) bool { return digit(c) || 'a' <= c && c <= 'f' }))
	case strings.HasPrefix(s.rest, "-r") && was < apkRevision:
		s.rest = s.rest[2:]
		s.take(apkRevision, span(s.rest, digit))
	default:
		s.token = apkInvalid
	}
}

// Apk compares versions of Alpine packages as apk does.
func Apk(a, b string) int {
	sa, sb := apkScanner{rest: strings.TrimSpace(a)}, apkScanner{rest: strings.TrimSpace(b)}
	sa.take(apkFirst, span(sa.rest, digit))
	sb.take(apkFirst, span(sb.rest, digit))
	for {
		if sa.token == apkInvalid || sb.token == apkInvalid { // no versions: apk has no order for them
			return strings.Compare(a, b)
		}
		if sa.token != sb.token {
			break
		}
		if sa.token == apkEnd {
			return 0
		}
		if c := apkToken(&sa, &sb); c != 0 {
			return c
		}
		sa.next()
		sb.next()
	}
	switch {
	case sa.token == apkSuffix && rank(sa.text) < 0:
		return -1
	case sb.token == apkSuffix && rank(sb.text) < 0:
		return 1
	}
	return sign(sa.token < sb.token)
}

func apkToken(a, b *apkScanner) int {
	switch a.token {
	case apkSuffix:
		return rank(a.text) - rank(b.text)
	case apkLetter, apkHash:
		return strings.Compare(a.text, b.text)
	case apkDigit:
		if a.text[0] == '0' || b.text[0] == '0' { // a fraction
			return strings.Compare(a.text, b.text)
		}
	}
	return numbers(a.text, b.text)
}
