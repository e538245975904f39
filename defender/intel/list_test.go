package intel

import (
	"errors"
	"io"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"testing/iotest"
	"time"

	"github.com/google/go-cmp/cmp"
)

// collect reads a list.
func collect(t testing.TB, name, text string) (*Block, *Builder) {
	t.Helper()
	b := NewBuilder(Source{Name: name, Own: true})
	if err := ReadList(strings.NewReader(text), b); err != nil {
		t.Fatal(err)
	}
	return b.Block(), b
}

func items(b *Block) (all []string) {
	for it := range b.Each {
		value := it.Domain
		if value == "" {
			value = it.Value.String()
		}
		all = append(all, Indicator{Value: value, Port: it.Port}.String())
	}
	return all
}

func at(s string) netip.AddrPort {
	if ap, err := netip.ParseAddrPort(s); err == nil {
		return ap
	}
	return netip.AddrPortFrom(netip.MustParseAddr(s), 0)
}

func TestReadList(t *testing.T) {
	t.Parallel()
	const text = "\ufeff# heading\r\n" +
		"203.0.113.5\r\n" +
		"\n" +
		"  198.51.100.7/24\t# trailing, host bits\n" +
		"2001:DB8::1\n" +
		"::ffff:192.0.2.1\n" +
		"::ffff:192.0.2.128/121#mapped\n" +
		"2001:db8:1::/48 ; SBL1\n" +
		"203.0.113.5 evil\n" +
		"bad\x1b[31m.example\n" +
		"0.0.0.0/0\n" +
		"fe80::1%eth0\n" +
		"10.0.0.0/33\n" +
		"192.0.2.9:4444\n" +
		"[2001:db8::2]:53\n" +
		"Evil.Example.\n" +
		"c2.example:8443\n" +
		"http://192.0.2.77/mozi.m\n" +
		"https://user@payload.example:8080/x?y#z\n" +
		"0.0.0.0 ads.example localhost www.ads.example\n" +
		"||tracker.example^\n" +
		"! comment\n" +
		"// comment\n" +
		"co.uk\n" +
		"com\n" +
		"münchen.example\n" +
		"1.2.3.4.5\n" +
		"rubbish\n" +
		"01.2.3.4\n" +
		"203.0.113.5\n" + // again
		"203.0.113.4"
	block, b := collect(t, "l.txt", text)
	want := []string{
		"192.0.2.1/32", "192.0.2.9/32:4444", "192.0.2.77/32:80", "203.0.113.4/32", "203.0.113.5/32",
		"2001:db8::1/128", "[2001:db8::2/128]:53",
		"192.0.2.128/25", "198.51.100.0/24", "2001:db8:1::/48",
		"ads.example", "c2.example:8443", "evil.example", "payload.example", "tracker.example", "www.ads.example", "xn--mnchen-3ya.example",
	}
	if d := cmp.Diff(want, items(block)); d != "" {
		t.Errorf("indicators (-want +got):\n%s", d)
	}
	wantWarnings := []Warning{
		{"l.txt", 9, "203.0.113.5 evil", neither},
		{"l.txt", 10, `bad\x1b[31m.example`, neither},
		{"l.txt", 11, "0.0.0.0/0", "the prefix holds every address"},
		{"l.txt", 12, "fe80::1%eth0", "addresses with a zone are local to one machine"},
		{"l.txt", 13, "10.0.0.0/33", neither},
		{"l.txt", 24, "co.uk", "a public suffix, which many share"},
		{"l.txt", 25, "com", neither},
		{"l.txt", 27, "1.2.3.4.5", neither},
		{"l.txt", 28, "rubbish", neither},
		{"l.txt", 29, "01.2.3.4", neither},
	}
	if d := cmp.Diff(wantWarnings, b.Warnings); d != "" {
		t.Errorf("warnings (-want +got):\n%s", d)
	}
}

func TestReadList_Bounds(t *testing.T) {
	t.Parallel()
	pad := func(s string, n int) string { return s + strings.Repeat(" ", n-len(s)) }
	in := pad("192.0.2.1", 4096) + "\r\n" + // the longest
		pad("192.0.2.2", 100000) + "\n" +
		"192.0.2.3\n" +
		"# a comment may be long " + strings.Repeat("x", 9000) + "\n" +
		strings.Repeat("\x00", 5000) + "\n" +
		"192.0.2.4\n" + strings.Repeat("y", 9000)
	block, b := collect(t, "l.txt", in)
	if got := items(block); !slices.Equal(got, []string{"192.0.2.1/32", "192.0.2.3/32", "192.0.2.4/32"}) {
		t.Errorf("got %v", got)
	}
	if w := b.Warnings; len(w) != 3 || w[0].Line != 2 || w[1].Line != 5 || w[2].Line != 7 {
		t.Errorf("warnings %v", w)
	}
	for _, w := range b.Warnings {
		if len(w.Text) > maxText+3 || strings.ContainsRune(w.Text, 0) {
			t.Errorf("warning text %q", w.Text)
		}
	}
	if _, b := collect(t, "l", strings.Repeat("?\n", 5000)); len(b.Warnings) != maxWarnings || b.BadLines != 5000 {
		t.Errorf("%d warnings of %d bad lines", len(b.Warnings), b.BadLines)
	}
	broken := io.MultiReader(strings.NewReader("192.0.2.1\n192.0.2"), iotest.ErrReader(errors.New("disk on fire")))
	if err := ReadList(broken, NewBuilder(Source{Name: "l"})); err == nil || !strings.Contains(err.Error(), "disk on fire") {
		t.Errorf("a failing reader: %v", err)
	}
}

func FuzzReadList(f *testing.F) {
	f.Add([]byte("\ufeff# x\r\n203.0.113.5\n::ffff:192.0.2.128/121#\n2001:db8::/32\n0.0.0.0/0\n?\nevil.example\n0.0.0.0 ads.example\nhttp://1.2.3.4:80/\n"))
	f.Fuzz(func(t *testing.T, in []byte) {
		b := NewBuilder(Source{Name: "f", Own: true})
		if err := ReadList(strings.NewReader(string(in)), b); err != nil {
			t.Fatal(err)
		}
		block := b.Block()
		s := NewSet(block)
		for it := range block.Each {
			if it.Domain != "" {
				if _, ok := s.MatchDomain("a."+it.Domain, time.Now()); !ok && it.Port == 0 && len(it.Domain) < 250 {
					t.Errorf("%q is listed and a name below it does not match", it.Domain)
				}
				continue
			}
			if v := it.Value; v != v.Masked() || v.Addr().Is4In6() && v.Bits() >= 96 || v.Bits() == 0 || it.Line < 1 {
				t.Errorf("indicator %+v", it)
			}
			if _, ok := s.Match(netip.AddrPortFrom(it.Value.Addr(), it.Port), time.Now()); !ok && !it.Value.Addr().Is4In6() {
				t.Errorf("%v is listed and does not match", it)
			}
		}
		for _, w := range b.Warnings {
			for _, r := range w.Text {
				if r < ' ' || r > '~' {
					t.Errorf("warning text %q", w.Text)
				}
			}
		}
	})
}
