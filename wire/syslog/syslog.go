// Package syslog writes messages of RFC 5424, and the frames in which they go over TLS (RFC 5425) and TCP (RFC 6587): the length in
// octets, a space, the message.
package syslog

import (
	"strconv"
	"strings"
	"time"
	"unicode/utf8"
)

// Severity of RFC 5424 section 6.2.1, from 0, an emergency, to 7.
type Severity int

// The severities that are used.
const (
	Critical      Severity = 2
	Error         Severity = 3
	Warning       Severity = 4
	Notice        Severity = 5
	Informational Severity = 6
)

// Facility of RFC 5424 section 6.2.1.
type Facility int

// Security is the facility of security and authorization messages.
const Security Facility = 4

// Message is one message. Texts that the header cannot carry are replaced.
type Message struct {
	Facility Facility
	Severity Severity
	Time     time.Time // zero: not known
	Host     string
	App      string
	ID       string // MSGID: the kind of message
	Text     string // UTF-8
}

// MaxText bounds the text of one message; a longer one is cut. Receivers should take 8192 octets (RFC 5425 section 4.3.1), and common ones do.
const MaxText = 8000

// Append appends a message: header, no structured data, text.
func Append(dst []byte, m *Message) []byte {
	dst = append(dst, '<')
	dst = strconv.AppendInt(dst, int64(min(max(m.Facility, 0), 23))*8+int64(min(max(m.Severity, 0), 7)), 10)
	dst = append(dst, ">1 "...)
	if t := m.Time.UTC(); m.Time.IsZero() || t.Year() < 0 || t.Year() > 9999 {
		dst = append(dst, '-')
	} else {
		dst = t.AppendFormat(dst, "2006-01-02T15:04:05.000000Z07:00") // six digits at most (section 6.2.3)
	}
	dst = appendName(append(dst, ' '), m.Host, 255)
	dst = appendName(append(dst, ' '), m.App, 48)
	dst = append(dst, " -"...) // no process: a restart is no news to the reader
	dst = appendName(append(dst, ' '), m.ID, 32)
	dst = append(dst, " - "...)
	text := m.Text
	if len(text) > MaxText {
		n := MaxText
		for !utf8.RuneStart(text[n]) && n > MaxText-utf8.UTFMax {
			n--
		}
		text = text[:n]
	}
	return append(dst, clean.Replace(text)...)
}

// A line feed would end the message for receivers that do not count octets, and a NUL for those written in C.
var clean = strings.NewReplacer("\n", " ", "\r", " ", "\x00", " ")

// appendName writes a field of the header, which has printable ASCII only.
func appendName(dst []byte, s string, most int) []byte {
	if s == "" {
		return append(dst, '-')
	}
	for i := 0; i < len(s) && i < most; i++ {
		if c := s[i]; c > 0x20 && c < 0x7f {
			dst = append(dst, c)
		} else {
			dst = append(dst, '_')
		}
	}
	return dst
}

// AppendFrame appends a message in a frame that counts its octets.
func AppendFrame(dst, message []byte) []byte {
	dst = strconv.AppendInt(dst, int64(len(message)), 10)
	return append(append(dst, ' '), message...)
}
