package cef

import (
	"strings"
	"testing"
	"unicode/utf8"
)

func TestAppend(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name string
		e    Event
		want string
	}{
		{"the sample of the specification", Event{"Security", "threatmanager", "1.0", "100", "worm successfully stopped", 10, []Field{{"src", "10.0.0.1"}, {"dst", "2.1.2.2"}, {"spt", "1232"}}},
			"CEF:0|Security|threatmanager|1.0|100|worm successfully stopped|10|src=10.0.0.1 dst=2.1.2.2 spt=1232"},
		{"bars and backslashes of a header", Event{"a|b", `c\d`, "1", "x=y", "line\nbreak", 3, nil}, `CEF:0|a\|b|c\\d|1|x=y|line break|3|`},
		{"equal signs, backslashes, lines and bars of a value", Event{"v", "p", "1", "c", "n", 0, []Field{{"msg", " a=b\\c\r\nd|e "}, {"act", "blocked a ="}}},
			`CEF:0|v|p|1|c|n|0|msg=a\=b\\c\r\nd|e act=blocked a \=`},
		{"empty values, odd keys and severities", Event{"", "", "", "", "", 99, []Field{{"a", ""}, {"b c", "1"}, {"=", "2"}}}, "CEF:0||||||10|bc=1"},
		{"what is no text", Event{"v", "p", "1", "c", "n\xff\x00", -1, []Field{{"a", "\xff\x01b"}}}, "CEF:0|v|p|1|c|n\uFFFD |0|a=\uFFFD b"},
	} {
		if got := string(Append(nil, &c.e)); got != c.want {
			t.Errorf("%s\ngot  %q\nwant %q", c.name, got, c.want)
		}
	}
	long := Append(nil, &Event{Name: strings.Repeat("☂", 1000), Extension: []Field{{"msg", strings.Repeat("☂", 1000)}}})
	if len(long) > 1600 || !utf8.Valid(long) {
		t.Errorf("%d bytes of long texts, valid %v", len(long), utf8.Valid(long))
	}
}

// parse reads an event as the specification says, and refuses what a strict reader would.
func parse(t *testing.T, s string) (header []string, fields map[string]string) {
	t.Helper()
	s, ok := strings.CutPrefix(s, "CEF:0|")
	if !ok {
		t.Fatalf("%q does not begin as it should", s)
	}
	var field strings.Builder
	for len(header) < 6 {
		if s == "" {
			t.Fatalf("the header ends after %q", header)
		}
		switch c := s[0]; c {
		case '|':
			header = append(header, field.String())
			field.Reset()
		case '\\':
			if len(s) < 2 || s[1] != '|' && s[1] != '\\' {
				t.Fatalf("a wrong escape in a header: %q", s)
			}
			field.WriteByte(s[1])
			s = s[1:]
		case '\n', '\r':
			t.Fatal("a line break in a header")
		default:
			field.WriteByte(c)
		}
		s = s[1:]
	}
	fields = make(map[string]string)
	for s != "" {
		key, rest, ok := strings.Cut(s, "=")
		if !ok || key == "" || strings.ContainsAny(key, ` \|`) {
			t.Fatalf("no pair: %q", s)
		}
		var value strings.Builder
		s = rest
		begin := -1 // of what may be the next key
		for i := 0; i < len(s); i++ {
			if s[i] == '\\' {
				i++
				continue
			}
			if s[i] == ' ' {
				begin = i
			}
			if s[i] == '=' {
				if begin < 0 {
					t.Fatalf("a bare equal sign: %q", s)
				}
				break
			}
			if i == len(s)-1 {
				begin = len(s)
			}
		}
		if s == "" || !strings.Contains(unescaped(s), "=") {
			begin = len(s)
		}
		raw := s[:begin]
		s = strings.TrimPrefix(s[begin:], " ")
		for i := 0; i < len(raw); i++ {
			c := raw[i]
			switch c {
			case '\\':
				i++
				if i == len(raw) || !strings.ContainsRune(`\=nr`, rune(raw[i])) {
					t.Fatalf("a wrong escape in a value: %q", raw)
				}
				c = map[byte]byte{'\\': '\\', '=': '=', 'n': '\n', 'r': '\r'}[raw[i]]
			case '\n', '\r':
				t.Fatalf("a line break in a value: %q", raw)
			}
			value.WriteByte(c)
		}
		fields[key] = value.String()
	}
	return header, fields
}

// unescaped is s without its escapes.
func unescaped(s string) string {
	var b strings.Builder
	for i := 0; i < len(s); i++ {
		if s[i] == '\\' {
			i++
			continue
		}
		b.WriteByte(s[i])
	}
	return b.String()
}

// Whatever the texts are, a strict reader finds them again, as far as CEF carries them.
func FuzzAppend(f *testing.F) {
	f.Add("name", "a=b c=d", "x|y\\z")
	f.Add("n|\\", " = = ", "\r\n\\n")
	f.Add("", "cs1Label=x", "\x00\xff")
	f.Fuzz(func(t *testing.T, name, one, two string) {
		text := Append(nil, &Event{Vendor: "V", Name: name, Extension: []Field{{"msg", one}, {"cs1", two}}})
		if !utf8.Valid(text) {
			t.Fatalf("%q is no UTF-8", text)
		}
		header, fields := parse(t, string(text))
		clean := func(s string, most int, breaks bool) string {
			return strings.Map(func(r rune) rune { // which gives U+FFFD for what is no text
				if r < 0x20 && !(breaks && (r == '\n' || r == '\r')) || r == 0x7f {
					return ' '
				}
				return r
			}, cut(s, most))
		}
		if want := clean(name, maxHeader, false); header[4] != want {
			t.Errorf("name %q, want %q", header[4], want)
		}
		for key, v := range map[string]string{"msg": one, "cs1": two} {
			if want := clean(strings.TrimSpace(cut(v, maxValue)), maxValue, true); fields[key] != want {
				t.Errorf("%s is %q, want %q in %q", key, fields[key], want, text)
			}
		}
	})
}
