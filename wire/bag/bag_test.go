package bag

import (
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestParse(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		name, in string
		want     []Property
	}{
		{"empty", "", nil},
		{"only separators", "?&&", nil},
		{"one pair", "a=1", []Property{{Name: "a", Value: "1"}}},
		{"leading question mark", "?a=1", []Property{{Name: "a", Value: "1"}}},
		{"second question mark belongs to the name", "??a=1", []Property{{Name: "?a", Value: "1"}}},
		{"slash ends the bag", "a=1/b=2", []Property{{Name: "a", Value: "1"}}},
		{"slash alone", "/a=1", nil},
		{"escaped slash does not end it", "a=x%2Fy", []Property{{Name: "a", Value: "x/y"}}},
		{"plus stays", "a+b=c+d", []Property{{Name: "a+b", Value: "c+d"}}},
		{"null and empty differ", "a&b=", []Property{{Name: "a", Null: true}, {Name: "b"}}},
		{"split at the first equals sign", "a=b=c", []Property{{Name: "a", Value: "b=c"}}},
		{"empty pairs and names are skipped", "&a=1&&=x&", []Property{{Name: "a", Value: "1"}}},
		{"last duplicate wins in the first's place", "a=1&b=2&%61=3", []Property{{Name: "a", Value: "3"}, {Name: "b", Value: "2"}}},
		{"system names raw and encoded", "$.ct=x&%24.mid=y", []Property{{Name: "$.ct", Value: "x"}, {Name: "$.mid", Value: "y"}}},
		{".NET telemetry", "%24.cid=1&k=%C3%A4%20%c3%a4/", []Property{{Name: "$.cid", Value: "1"}, {Name: "k", Value: "ä ä"}}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			got, err := Parse(tt.in)
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(tt.want, got); diff != "" {
				t.Errorf("Parse(%q) (-want +got):\n%s", tt.in, diff)
			}
		})
	}
}

func TestParse_Refuses(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		name, in string
		want     error
	}{
		{"cut escape", "a=%2", ErrMalformed},
		{"lone percent", "%=1", ErrMalformed},
		{"escape that is not hexadecimal", "a=%2G", ErrMalformed},
		{"sign in an escape", "a=%+1", ErrMalformed},
		{"not UTF-8", "a=%FF", ErrMalformed},
		{"raw bytes that are not UTF-8", "a\xff=1", ErrMalformed},
		{"too many pairs", strings.Repeat("a&", MaxProperties+1), ErrTooMany},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			if got, err := Parse(tt.in); !errors.Is(err, tt.want) || got != nil {
				t.Errorf("Parse = %v, %v; want nil, %v", got, err, tt.want)
			}
		})
	}
}

func TestParse_FullBag(t *testing.T) {
	t.Parallel()
	var in strings.Builder
	for i := range MaxProperties {
		fmt.Fprintf(&in, "k%d=old&", i%(MaxProperties/2))
	}
	got, err := Parse(in.String())
	if err != nil {
		t.Fatal(err)
	}
	if len(got) != MaxProperties/2 {
		t.Errorf("%d properties, want every name once: %d", len(got), MaxProperties/2)
	}
}

func TestAppend(t *testing.T) {
	t.Parallel()
	got := string(Append([]byte("devices/d/messages/devicebound/"), []Property{
		{Name: "$.mid", Value: "m 1"},
		{Value: "nameless"},
		{Name: "k", Null: true},
		{Name: "e"},
		{Name: "AZaz09-._~", Value: "!'()*+/?ä"},
	}))
	const want = "devices/d/messages/devicebound/%24.mid=m%201&k&e=&AZaz09-._~=%21%27%28%29%2A%2B%2F%3F%C3%A4"
	if got != want {
		t.Errorf("got  %s\nwant %s", got, want)
	}
	if got := Append(nil, nil); len(got) != 0 {
		t.Errorf("empty bag is %q", got)
	}
}

func TestUnescape_ReturnsTheSameStringWhenNothingIsEscaped(t *testing.T) {
	s := strings.Repeat("x", 100)
	if n := testing.AllocsPerRun(10, func() { _, _ = Unescape(s) }); n != 0 {
		t.Errorf("%v allocations, want none", n)
	}
}

func FuzzParse(f *testing.F) {
	for _, s := range []string{"", "?a=1&b", "$.ct=application%2Fjson&%24.on=x/", "a=%zz", "=&&a==", "%3D=%26", "a=1&a=2"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		props, err := Parse(s)
		if err != nil {
			if props != nil {
				t.Fatalf("Parse(%q) = %v with error %v", s, props, err)
			}
			return
		}
		text := string(Append(nil, props))
		again, err := Parse(text)
		if err != nil {
			t.Fatalf("Parse(%q), appended from %q: %v", text, s, err)
		}
		if diff := cmp.Diff(props, again); diff != "" {
			t.Fatalf("%q came back from %q changed:\n%s", s, text, diff)
		}
	})
}

func FuzzUnescape(f *testing.F) {
	f.Add("a%20b+c")
	f.Add("%")
	f.Fuzz(func(t *testing.T, s string) {
		d, err := Unescape(s)
		if err != nil {
			if d != "" {
				t.Fatalf("Unescape(%q) = %q with error %v", s, d, err)
			}
			return
		}
		if again, err := Unescape(string(Escape(nil, d))); err != nil || again != d {
			t.Fatalf("%q escaped and back is %q, %v", d, again, err)
		}
	})
}

func BenchmarkParse(b *testing.B) {
	b.ReportAllocs()
	for b.Loop() {
		if _, err := Parse("$.ct=application%2Fjson&$.ce=utf-8&temperatureAlert=false"); err != nil {
			b.Fatal(err)
		}
	}
}
