// Package intel keeps threat intelligence: the addresses, prefixes and domains that the traffic of devices is compared with. A [Builder]
// collects what one source lists into a [Block]; an [Engine] holds the blocks of all sources and offers the current [Set], which readers use without
// waiting for anyone; a [Library] watches a folder of plain lists. Package format reads what others publish, package feed fetches it.
//
// Ten million IPv4 addresses take 142 MB, and the answer "not listed" some tens of nanoseconds: a bitmap of the neighbourhoods in which something is
// listed answers for most addresses, a binary fuse filter for nearly all others, before anything is searched in a sorted array of 12 bytes an
// address; only true prefixes are in a tree (github.com/gaissmai/bart).
package intel

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"net/url"
	"strconv"
	"strings"
)

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

const (
	maxLine     = 4 << 10 // longer lines are left out
	maxWarnings = 100     // kept per source
	maxText     = 80      // bytes of a warning's text
)

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

// ReadList reads a list: an address, prefix, domain or URL a line, an address or domain also with a port. Comments are from # or ; to the end of the
// line, and lines that begin with // or !. Lines of hosts files (0.0.0.0 name) and of ad blockers (||name^) are domains. What is none of these
// is counted as bad, and so are lines above 4 KiB. Host bits of a prefix are ignored. The error is the reader's.
func ReadList(r io.Reader, b *Builder) error {
	return Lines(r, func(n int, line []byte, long bool) {
		if long {
			if t := strings.TrimLeft(string(line), " \t"); !strings.HasPrefix(t, "#") && !strings.HasPrefix(t, ";") {
				b.Bad(n, string(line), "the line is longer than 4 KiB")
			}
			return
		}
		readLine(b, n, line)
	})
}

// Lines hands each line to yield, without its end; of one above 4 KiB the beginning, and long is true. The line is good until yield returns.
func Lines(r io.Reader, yield func(n int, line []byte, long bool)) error {
	in := bufio.NewReaderSize(r, maxLine+2) // and its CRLF
	for n := 1; ; n++ {
		line, err := in.ReadSlice('\n')
		if len(line) == 0 && err == io.EOF {
			return nil
		}
		long := errors.Is(err, bufio.ErrBufferFull)
		if long {
			line = append([]byte(nil), line...)
		}
		for errors.Is(err, bufio.ErrBufferFull) {
			_, err = in.ReadSlice('\n')
		}
		if err != nil && err != io.EOF {
			return err
		}
		if n == 1 && len(line) >= 3 && string(line[:3]) == "\xef\xbb\xbf" {
			line = line[3:]
		}
		for len(line) > 0 && (line[len(line)-1] == '\n' || line[len(line)-1] == '\r') {
			line = line[:len(line)-1]
		}
		yield(n, line, long)
	}
}

func readLine(b *Builder, n int, line []byte) {
	// The common line first: an address and nothing else.
	if a, ok := parse4(line); ok {
		if reason := b.Add(&Item{Value: hostPrefix(address(a)), Line: n}); reason != "" {
			b.Bad(n, string(line), reason)
		}
		return
	}
	text := string(line)
	if i := strings.IndexAny(text, "#;"); i >= 0 {
		text = text[:i]
	}
	if text = strings.TrimSpace(text); text == "" || strings.HasPrefix(text, "//") || strings.HasPrefix(text, "!") {
		return
	}
	if first, names, ok := strings.Cut(strings.ReplaceAll(text, "\t", " "), " "); ok {
		switch first {
		case "0.0.0.0", "127.0.0.1", "::", "::1":
		default:
			b.Bad(n, text, neither)
			return
		}
		for name := range strings.FieldsSeq(names) {
			if !strings.Contains(name, ".") || name == "localhost.localdomain" || name == first {
				continue // the machine's own names
			}
			if reason := b.Add(&Item{Domain: name, Line: n}); reason != "" {
				b.Bad(n, text, reason)
			}
		}
		return
	}
	if inner, ok := strings.CutPrefix(text, "||"); ok {
		text = strings.TrimSuffix(inner, "^")
	}
	it, reason := ParseValue(text)
	it.Line = n
	if reason == "" {
		reason = b.Add(&it)
	}
	if reason != "" {
		b.Bad(n, text, reason)
	}
}

const neither = "neither an address, a prefix, a domain nor a URL"

// ParseValue reads an indicator in any spelling: address, prefix, domain, URL, the first and third also with a port. reason says why it is none.
// The domain is not yet normal.
func ParseValue(text string) (it Item, reason string) {
	switch {
	case strings.Contains(text, "://"):
		return parseURL(text)
	case strings.Contains(text, "/"):
		p, err := netip.ParsePrefix(text)
		if err != nil {
			return it, neither
		}
		if it.Value = unmapped(p); it.Value.Bits() == 0 {
			return it, "the prefix holds every address"
		}
		it.Value = it.Value.Masked()
		return it, ""
	}
	if a, err := netip.ParseAddr(text); err == nil {
		if a.Zone() != "" {
			return it, "addresses with a zone are local to one machine"
		}
		it.Value = hostPrefix(a.Unmap())
		return it, ""
	}
	if ap, err := netip.ParseAddrPort(text); err == nil && ap.Addr().Zone() == "" {
		it.Value, it.Port = hostPrefix(ap.Addr().Unmap()), ap.Port()
		return it, ""
	}
	if host, port, ok := strings.Cut(text, ":"); ok {
		p, err := strconv.ParseUint(port, 10, 16)
		if err != nil {
			return it, neither
		}
		text, it.Port = host, uint16(p)
	}
	if !strings.Contains(text, ".") {
		return it, neither
	}
	name, reason := NormalizeDomain(text)
	if reason == notDomain {
		reason = neither
	}
	it.Domain = name
	return it, reason
}

// parseURL takes the host of a URL, which is what traffic shows, and with an address its port.
func parseURL(text string) (it Item, reason string) {
	u, err := url.Parse(text)
	if err != nil || u.Hostname() == "" {
		return it, "not a URL"
	}
	var port uint64
	switch {
	case u.Port() != "":
		if port, err = strconv.ParseUint(u.Port(), 10, 16); err != nil {
			return it, "not a URL"
		}
	case u.Scheme == "https":
		port = 443
	case u.Scheme == "http":
		port = 80
	}
	if a, err := netip.ParseAddr(u.Hostname()); err == nil {
		if a.Zone() != "" {
			return it, "addresses with a zone are local to one machine"
		}
		it.Value, it.Port = hostPrefix(a.Unmap()), uint16(port)
		return it, ""
	}
	it.Domain, reason = NormalizeDomain(u.Hostname())
	return it, reason
}

// parse4 reads what is nothing but an IPv4 address, as netip does, without making a string of it.
func parse4(s []byte) (n uint32, ok bool) {
	if len(s) < 7 || len(s) > 15 {
		return 0, false
	}
	part, digits, parts := uint32(0), 0, 0
	for _, c := range s {
		switch {
		case c >= '0' && c <= '9':
			if digits > 0 && part == 0 || digits == 3 {
				return 0, false // 01 is octal to some
			}
			part = part*10 + uint32(c-'0')
			digits++
		case c == '.' && digits > 0 && part < 256 && parts < 3:
			n, part, digits = n<<8|part, 0, 0
			parts++
		default:
			return 0, false
		}
	}
	if parts != 3 || digits == 0 || part > 255 {
		return 0, false
	}
	return n<<8 | part, true
}
