package syslog

import (
	"fmt"
	"regexp"
	"strings"
	"testing"
	"time"
	"unicode/utf8"
)

func TestAppend(t *testing.T) {
	t.Parallel()
	at := time.Date(2026, 1, 2, 3, 4, 5, 678901234, time.FixedZone("", 3600))
	for _, c := range []struct {
		name string
		m    Message
		want string
	}{
		{"all there is", Message{Security, Critical, at, "hub.example", "vauban", "alert-create", "CEF:0|☂"}, "<34>1 2026-01-02T02:04:05.678901Z hub.example vauban - alert-create - CEF:0|☂"},
		{"nothing", Message{}, "<0>1 - - - - - - "},
		{"what the header cannot carry", Message{99, 9, at.AddDate(9000, 0, 0), "a b", "☂", strings.Repeat("x", 40), "one\ntwo\r\x00"}, "<191>1 - a_b ___ - " + strings.Repeat("x", 32) + " - one two  "},
	} {
		if got := string(Append(nil, &c.m)); got != c.want {
			t.Errorf("%s\ngot  %q\nwant %q", c.name, got, c.want)
		}
	}
	if got := string(AppendFrame([]byte("x"), []byte("☂y"))); got != "x4 ☂y" {
		t.Errorf("a frame is %q", got)
	}
	long := Append(nil, &Message{Text: strings.Repeat("☂", MaxText)})
	if len(long) > MaxText+100 || !utf8.Valid(long) {
		t.Errorf("a long text has %d bytes, valid %v", len(long), utf8.Valid(long))
	}
}

// header is the grammar of RFC 5424 section 6, as far as we use it.
var header = regexp.MustCompile(`^<(0|[1-9][0-9]?|1[0-8][0-9]|19[01])>1 (-|\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}Z) [!-~]{1,255} [!-~]{1,48} - [!-~]{1,32} - ([^\n\r\x00]*)$`)

func FuzzAppend(f *testing.F) {
	f.Add(4, 2, int64(1767323045), "hub", "vauban", "id", "text")
	f.Add(-1, 99, int64(-1<<62), "", "a b", "\n", "x\ny")
	f.Fuzz(func(t *testing.T, facility, severity int, seconds int64, host, app, id, text string) {
		m := Append(nil, &Message{Facility(facility), Severity(severity), time.Unix(seconds, 0), host, app, id, text})
		if !header.Match(m) {
			t.Errorf("%q is no message of RFC 5424", m)
		}
		var n int
		frame := AppendFrame(nil, m)
		if _, err := fmt.Sscanf(string(frame), "%d ", &n); err != nil || string(frame) != fmt.Sprintf("%d %s", len(m), m) {
			t.Errorf("frame %q, %v", frame, err)
		}
	})
}
