package intel

import (
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net/netip"
	"strings"
	"testing"
	"testing/iotest"

	"github.com/google/go-cmp/cmp"
)

var comparePrefix = cmp.Comparer(func(a, b netip.Prefix) bool { return a == b })

func TestParseList(t *testing.T) {
	t.Parallel()
	const text = "\ufeff# heading\r\n" +
		"203.0.113.5\r\n" +
		"\n" +
		"  198.51.100.7/24\t# trailing, host bits\n" +
		"2001:DB8::1\n" +
		"::ffff:192.0.2.1\n" +
		"::ffff:192.0.2.128/121#mapped\n" +
		"2001:db8:1::/48\n" +
		"203.0.113.5 evil\n" +
		"bad\x1b[31m.example\n" +
		"0.0.0.0/0\n" +
		"fe80::1%eth0\n" +
		"10.0.0.0/33\n" +
		"192.0.2.9"
	indicators, warnings := ParseList("l.txt", strings.NewReader(text))
	indicator := func(value, text string, line int) Indicator {
		return Indicator{netip.MustParsePrefix(value), text, "l.txt", line}
	}
	want := []Indicator{
		indicator("203.0.113.5/32", "203.0.113.5", 2),
		indicator("198.51.100.0/24", "198.51.100.7/24", 4),
		indicator("2001:db8::1/128", "2001:DB8::1", 5),
		indicator("192.0.2.1/32", "::ffff:192.0.2.1", 6),
		indicator("192.0.2.128/25", "::ffff:192.0.2.128/121", 7),
		indicator("2001:db8:1::/48", "2001:db8:1::/48", 8),
		indicator("192.0.2.9/32", "192.0.2.9", 14),
	}
	if d := cmp.Diff(want, indicators, comparePrefix); d != "" {
		t.Errorf("indicators (-want +got):\n%s", d)
	}
	wantWarnings := []Warning{
		{"l.txt", 9, "203.0.113.5 evil", "neither an address nor a prefix"},
		{"l.txt", 10, `bad\x1b[31m.example`, "neither an address nor a prefix"},
		{"l.txt", 11, "0.0.0.0/0", "the prefix holds every address"},
		{"l.txt", 12, "fe80::1%eth0", "addresses with a zone are local to one machine"},
		{"l.txt", 13, "10.0.0.0/33", "neither an address nor a prefix"},
	}
	if d := cmp.Diff(wantWarnings, warnings); d != "" {
		t.Errorf("warnings (-want +got):\n%s", d)
	}
}

func TestParseList_Bounds(t *testing.T) {
	t.Parallel()
	pad := func(s string, n int) string { return s + strings.Repeat(" ", n-len(s)) }
	in := pad("192.0.2.1", 4096) + "\r\n" + // the longest
		pad("192.0.2.2", 100000) + "\n" +
		"192.0.2.3\n" +
		"# a comment may be long " + strings.Repeat("x", 9000) + "\n" +
		strings.Repeat("\x00", 5000) + "\n" +
		"192.0.2.4\n" + strings.Repeat("y", 9000)
	got, warnings := ParseList("l.txt", strings.NewReader(in))
	if len(got) != 3 || got[1].Line != 3 || got[2].Line != 6 {
		t.Errorf("got %v", got)
	}
	if len(warnings) != 3 || warnings[0].Line != 2 || warnings[1].Line != 5 || warnings[2].Line != 7 {
		t.Errorf("warnings %v", warnings)
	}
	for _, w := range warnings {
		if len(w.Text) > maxText+3 || strings.ContainsRune(w.Text, 0) {
			t.Errorf("warning text %q", w.Text)
		}
	}

	_, warnings = ParseList("l.txt", strings.NewReader(strings.Repeat("?\n", 5000)))
	if len(warnings) != maxWarnings || warnings[maxWarnings-1].Reason != "4001 more lines cannot be read" {
		t.Errorf("%d warnings, the last %v", len(warnings), warnings[len(warnings)-1])
	}

	got, warnings = ParseList("l.txt", io.MultiReader(strings.NewReader("192.0.2.1\n192.0.2"), iotest.ErrReader(errors.New("disk on fire"))))
	if len(got) != 1 || len(warnings) != 1 || !strings.Contains(warnings[0].Reason, "disk on fire") {
		t.Errorf("a failing reader: %v, %v", got, warnings)
	}
}

func TestSet_Match(t *testing.T) {
	t.Parallel()
	a, _ := ParseList("a.txt", strings.NewReader("203.0.113.0/24\n2001:db8::/32\n203.0.113.5\n"))
	b, _ := ParseList("b.txt", strings.NewReader("203.0.113.5/32\n203.0.0.0/16\n2001:db8::1\n"))
	s := NewSet(a, b)
	if s.Len() != 5 {
		t.Errorf("%d values, want 5", s.Len())
	}
	for addr, want := range map[string]string{
		"203.0.113.5":        "a.txt:3", // the first of two files that list it
		"203.0.113.6":        "a.txt:1",
		"203.0.114.1":        "b.txt:2",
		"203.1.0.0":          "",
		"::ffff:203.0.113.5": "a.txt:3",
		"2001:db8::1":        "b.txt:3",
		"2001:db8::1%eth0":   "b.txt:3",
		"2001:db8::2":        "a.txt:2",
		"2001:db9::":         "",
		"::203.0.113.5":      "",
	} {
		got, ok := s.Match(netip.MustParseAddr(addr))
		if ok != (want != "") || ok && got.Source() != want {
			t.Errorf("Match(%s) = %v, %v; want %q", addr, got, ok, want)
		}
	}
	if got, ok := s.Match(netip.Addr{}); ok {
		t.Errorf("no address matches %v", got)
	}
	var none *Set
	if _, ok := none.Match(netip.MustParseAddr("192.0.2.1")); ok || none.Len() != 0 {
		t.Error("a nil set holds something")
	}
}

func FuzzParseList(f *testing.F) {
	f.Add([]byte("\ufeff# x\r\n203.0.113.5\n::ffff:192.0.2.128/121#\n2001:db8::/32\n0.0.0.0/0\n?\n"))
	f.Fuzz(func(t *testing.T, in []byte) {
		indicators, warnings := ParseList("f", strings.NewReader(string(in)))
		s := NewSet(indicators)
		for _, i := range indicators {
			if i.Value != i.Value.Masked() || i.Value.Addr().Is4In6() && i.Value.Bits() >= 96 || i.Value.Bits() == 0 || i.Line < 1 {
				t.Errorf("indicator %+v", i)
			}
			if _, ok := s.Match(i.Value.Addr()); !ok && !i.Value.Addr().Is4In6() {
				t.Errorf("%v is listed and does not match", i)
			}
			if again, _ := ParseList("f", strings.NewReader(i.Text)); len(again) != 1 || again[0].Value != i.Value {
				t.Errorf("%q alone gives %v, want %v", i.Text, again, i.Value)
			}
		}
		for _, w := range warnings {
			for _, r := range w.Text {
				if r < ' ' || r > '~' {
					t.Errorf("warning text %q", w.Text)
				}
			}
		}
	})
}

func BenchmarkSet_Match(b *testing.B) {
	const n = 1_000_000
	r := rand.New(rand.NewPCG(1, 2))
	indicators := make([]Indicator, n)
	for i := range indicators {
		v := r.Uint32()
		a := netip.AddrFrom4([4]byte{byte(v >> 24), byte(v >> 16), byte(v >> 8), byte(v)})
		indicators[i] = Indicator{Value: netip.PrefixFrom(a, 32), Text: "x", File: "f", Line: i}
	}
	s := NewSet(indicators)
	for _, bb := range []struct {
		name string
		addr func(i int) netip.Addr
	}{
		{"listed", func(i int) netip.Addr { return indicators[i%n].Value.Addr() }},
		{"unlisted", func(i int) netip.Addr {
			v := uint32(i) * 2654435761
			return netip.AddrFrom4([4]byte{byte(v >> 24), byte(v >> 16), byte(v >> 8), byte(v)})
		}},
	} {
		b.Run(bb.name, func(b *testing.B) {
			for i := 0; b.Loop(); i++ {
				s.Match(bb.addr(i))
			}
		})
	}
}

func BenchmarkParseAndSet(b *testing.B) {
	var text strings.Builder
	for i := range 100_000 {
		fmt.Fprintf(&text, "%d.%d.%d.1\n", 1+i>>16, i>>8&255, i&255)
	}
	for b.Loop() {
		l, _ := ParseList("f", strings.NewReader(text.String()))
		NewSet(l)
	}
}
