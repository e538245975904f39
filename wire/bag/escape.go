package bag

import (
	"fmt"
	"strings"
	"unicode/utf8"
)

const upperHex = "0123456789ABCDEF"

// Escape appends s with every byte outside A-Z a-z 0-9 - . _ ~ as %XX in upper case:
// the unreserved set of RFC 3986 §2.3, so a '$' becomes %24 and a space %20.
func Escape(dst []byte, s string) []byte {
	for i := range len(s) {
		if c := s[i]; unreserved(c) {
			dst = append(dst, c)
		} else {
			dst = append(dst, '%', upperHex[c>>4], upperHex[c&15])
		}
	}
	return dst
}

// Unescape decodes %XX in either case and nothing else: '+' stays '+'. It returns s itself
// when there is nothing to decode, and ErrMalformed for a broken escape or a result that is not UTF-8.
func Unescape(s string) (string, error) {
	if i := strings.IndexByte(s, '%'); i >= 0 {
		b := make([]byte, i, len(s))
		copy(b, s)
		for ; i < len(s); i++ {
			c := s[i]
			if c == '%' {
				if i+2 >= len(s) {
					return "", fmt.Errorf("%w: cut percent escape", ErrMalformed)
				}
				hi, lo := unhex(s[i+1]), unhex(s[i+2])
				if hi > 15 || lo > 15 {
					return "", fmt.Errorf("%w: percent escape is not hexadecimal", ErrMalformed)
				}
				c = hi<<4 | lo
				i += 2
			}
			b = append(b, c)
		}
		s = string(b)
	}
	if !utf8.ValidString(s) {
		return "", fmt.Errorf("%w: not UTF-8", ErrMalformed)
	}
	return s, nil
}

func unreserved(c byte) bool {
	switch {
	case 'a' <= c && c <= 'z', 'A' <= c && c <= 'Z', '0' <= c && c <= '9':
		return true
	}
	return c == '-' || c == '.' || c == '_' || c == '~'
}

// unhex returns the digit's value, or 255 for anything that is no hexadecimal digit.
func unhex(c byte) byte {
	switch {
	case '0' <= c && c <= '9':
		return c - '0'
	case 'a' <= c && c <= 'f':
		return c - 'a' + 10
	case 'A' <= c && c <= 'F':
		return c - 'A' + 10
	}
	return 255
}
