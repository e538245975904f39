// Package intel keeps threat intelligence lists: files of addresses and prefixes, one a
// line, that the traffic of devices is compared with. A [Library] watches a folder of them and
// offers the current [Set], which readers use without waiting for anyone.
package intel

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"strconv"
	"strings"

	"github.com/gaissmai/bart"
)

// Indicator is one listed address or prefix.
type Indicator struct {
	Value netip.Prefix // masked; IPv4-mapped IPv6 is IPv4
	Text  string       // as listed
	File  string
	Line  int
}

// Source is the file and line of i.
func (i Indicator) Source() string { return i.File + ":" + strconv.Itoa(i.Line) }

// Warning is a line that was left out.
type Warning struct {
	File   string
	Line   int
	Text   string // at most 80 bytes of it, with what cannot be printed escaped
	Reason string
}

func (w Warning) String() string {
	return fmt.Sprintf("%s:%d: %s: %s", w.File, w.Line, w.Text, w.Reason)
}

// Set is a fixed set of indicators. Its methods may be called from any goroutine; a nil Set
// is empty.
type Set struct{ table bart.Table[*Indicator] }

// NewSet joins lists. Of several indicators with one value the first counts. The set keeps
// the lists; they may not be changed afterwards.
func NewSet(lists ...[]Indicator) *Set {
	s := new(Set)
	for _, l := range lists {
		for i := range l {
			s.table.Modify(l[i].Value, func(v *Indicator, ok bool) (*Indicator, bool) {
				if !ok {
					v = &l[i]
				}
				return v, false
			})
		}
	}
	return s
}

// Match finds the indicator with the longest prefix that contains addr.
func (s *Set) Match(addr netip.Addr) (Indicator, bool) {
	if s == nil || !addr.IsValid() {
		return Indicator{}, false
	}
	// bart leaves both to its caller.
	i, ok := s.table.Lookup(addr.Unmap().WithZone(""))
	if !ok {
		return Indicator{}, false
	}
	return *i, true
}

// Len is the number of different values.
func (s *Set) Len() int {
	if s == nil {
		return 0
	}
	return s.table.Size()
}

const (
	maxLine     = 4 << 10 // longer lines are left out
	maxWarnings = 1000    // kept per list; the last then says how many more there were
	maxText     = 80      // bytes of a warning's text
)

// ParseList reads a list: an address or prefix a line, with comments from # to the end of the
// line. Lines that are neither are left out with a warning; so is everything behind a failure
// to read. Host bits of a prefix are ignored. At most 1000 warnings are returned, the last of
// which then counts the rest.
func ParseList(name string, r io.Reader) ([]Indicator, []Warning) {
	l := parse(name, r)
	if l.err != nil {
		l.warn(l.lines, "", "the file cannot be read further: "+l.err.Error())
	}
	if more := l.bad - len(l.warnings); more > 0 {
		l.warnings = append(l.warnings[:maxWarnings-1], Warning{File: name, Reason: fmt.Sprintf("%d more lines cannot be read", more+1)})
	}
	return l.indicators, l.warnings
}

type list struct {
	name       string
	indicators []Indicator
	warnings   []Warning // the first maxWarnings
	bad        int       // lines left out
	lines      int
	err        error // of the reader
}

func (l *list) warn(line int, text, reason string) {
	l.bad++
	if len(l.warnings) < maxWarnings {
		l.warnings = append(l.warnings, Warning{File: l.name, Line: line, Text: printable(text), Reason: reason})
	}
}

// printable cuts and escapes text that may be anything.
func printable(s string) string {
	cut := len(s) > maxText
	if cut {
		s = s[:maxText]
	}
	q := strconv.QuoteToASCII(s)
	s = q[1 : len(q)-1]
	if len(s) > maxText { // escapes made it longer
		s, cut = s[:maxText], true
	}
	if cut {
		s += "..."
	}
	return s
}

func parse(name string, r io.Reader) *list {
	l := &list{name: strings.ToValidUTF8(name, "\uFFFD")}
	in := bufio.NewReaderSize(r, maxLine+2) // and its CRLF
	for {
		raw, err := in.ReadSlice('\n')
		if len(raw) == 0 && err == io.EOF {
			return l
		}
		l.lines++
		line := string(raw)
		if l.lines == 1 {
			line = strings.TrimPrefix(line, "\ufeff")
		}
		long := errors.Is(err, bufio.ErrBufferFull)
		for errors.Is(err, bufio.ErrBufferFull) {
			_, err = in.ReadSlice('\n')
		}
		switch {
		case err != nil && err != io.EOF:
			l.err = err
			return l
		case long && !strings.HasPrefix(strings.TrimLeft(line, " \t"), "#"):
			l.warn(l.lines, line, "the line is longer than 4 KiB")
		case !long:
			l.line(line)
		}
	}
}

func (l *list) line(line string) {
	text, _, _ := strings.Cut(line, "#")
	if text = strings.TrimSpace(text); text == "" {
		return
	}
	value, reason := parseValue(text)
	if reason != "" {
		l.warn(l.lines, text, reason)
		return
	}
	l.indicators = append(l.indicators, Indicator{Value: value, Text: strings.Clone(text), File: l.name, Line: l.lines})
}

func parseValue(text string) (p netip.Prefix, reason string) {
	const neither = "neither an address nor a prefix"
	if strings.Contains(text, "/") {
		p, err := netip.ParsePrefix(text)
		if err != nil {
			return netip.Prefix{}, neither
		}
		if a, bits := p.Addr(), p.Bits(); a.Is4In6() && bits >= 96 {
			p = netip.PrefixFrom(a.Unmap(), bits-96)
		}
		if p.Bits() == 0 {
			return netip.Prefix{}, "the prefix holds every address"
		}
		return p.Masked(), ""
	}
	a, err := netip.ParseAddr(text)
	switch {
	case err != nil:
		return netip.Prefix{}, neither
	case a.Zone() != "":
		return netip.Prefix{}, "addresses with a zone are local to one machine"
	}
	a = a.Unmap()
	return netip.PrefixFrom(a, a.BitLen()), ""
}
