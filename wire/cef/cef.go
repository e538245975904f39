// Package cef writes the Common Event Format of ArcSight, version 0 (CEF:0), which most SIEM systems read from syslog (defender §5):
// a header of seven fields between bars, and an extension of key=value pairs.
//
// Texts may hold anything: what CEF cannot carry is escaped or replaced, and what is too long is cut.
package cef

import (
	"strconv"
	"strings"
	"unicode/utf8"
)

// Event is one event.
type Event struct {
	Vendor, Product, Version string
	Class                    string // signature id: tells kinds of events apart
	Name                     string // for people
	Severity                 int    // 0 (lowest) to 10
	Extension                []Field
}

// Field is a pair of the extension. Fields without a value are left out.
type Field struct {
	Key   string // letters, digits, and _ only; others are left out
	Value string
}

// Bounds of what is written; longer texts are cut.
const (
	maxHeader = 512
	maxValue  = 1023 // what ArcSight's dictionary allows the longest of its own keys
)

// Append appends e, without a line feed at the end.
func Append(dst []byte, e *Event) []byte {
	dst = append(dst, "CEF:0"...)
	for _, h := range []string{e.Vendor, e.Product, e.Version, e.Class, e.Name} {
		dst = appendHeader(append(dst, '|'), h)
	}
	dst = strconv.AppendInt(append(dst, '|'), int64(min(max(e.Severity, 0), 10)), 10)
	dst = append(dst, '|')
	first := true
	for _, f := range e.Extension {
		key := cleanKey(f.Key)
		if key == "" || f.Value == "" {
			continue
		}
		if !first {
			dst = append(dst, ' ')
		}
		first = false
		dst = appendValue(append(append(dst, key...), '='), f.Value)
	}
	return dst
}

// cut shortens s to at most n bytes, between characters.
func cut(s string, n int) string {
	if len(s) <= n {
		return s
	}
	for n > 0 && !utf8.RuneStart(s[n]) {
		n--
	}
	return s[:n]
}

// appendHeader escapes bars and backslashes; a header has no line breaks.
func appendHeader(dst []byte, s string) []byte {
	for _, r := range cut(s, maxHeader) { // invalid bytes are U+FFFD
		switch {
		case r == '|' || r == '\\':
			dst = append(dst, '\\', byte(r))
		case r < 0x20 || r == 0x7f:
			dst = append(dst, ' ')
		default:
			dst = utf8.AppendRune(dst, r)
		}
	}
	return dst
}

// appendValue escapes equal signs, backslashes and line breaks. White space at the ends would be taken for the space between pairs.
func appendValue(dst []byte, s string) []byte {
	for _, r := range strings.TrimSpace(cut(s, maxValue)) {
		switch {
		case r == '=' || r == '\\':
			dst = append(dst, '\\', byte(r))
		case r == '\n':
			dst = append(dst, `\n`...)
		case r == '\r':
			dst = append(dst, `\r`...)
		case r < 0x20 || r == 0x7f:
			dst = append(dst, ' ')
		default:
			dst = utf8.AppendRune(dst, r)
		}
	}
	return dst
}

func cleanKey(k string) string {
	return strings.Map(func(r rune) rune {
		if r == '_' || r >= '0' && r <= '9' || r >= 'A' && r <= 'Z' || r >= 'a' && r <= 'z' {
			return r
		}
		return -1
	}, k)
}
