package twin

import (
	"encoding/json"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/vauban-iot/vauban/fault"
	"github.com/vauban-iot/vauban/internal/conform"
	"github.com/vauban-iot/vauban/iot"
)

var (
	first  = time.Date(2026, 1, 2, 3, 4, 5, 600, time.UTC)
	second = first.Add(time.Hour)
)

func raw(s string) json.RawMessage { return json.RawMessage(s) }

// with is a fresh twin whose sections were written once.
func with(t *testing.T, tags, desired, reported string) Twin {
	t.Helper()
	tw, _, err := New(iot.ID{Device: "d"}).Apply(Patch{Tags: raw(tags), HasTags: true, Desired: raw(desired), HasDesired: true}, first)
	if err != nil {
		t.Fatal(err)
	}
	if tw, err = tw.ApplyReported([]byte(reported), 0, first); err != nil {
		t.Fatal(err)
	}
	return tw
}

func TestTwin_Fresh(t *testing.T) {
	tw := New(iot.ID{Device: "d"})
	const empty = `{"$metadata":{"$lastUpdated":"0001-01-01T00:00:00Z"},"$version":1}`
	if got, want := string(tw.Properties()), `{"desired":`+empty+`,"reported":`+empty+`}`; got != want {
		t.Errorf("properties of a fresh twin:\n got %s\nwant %s", got, want)
	}
	if got := tw.ETag(); got != "AAAAAAAAAAE=" {
		t.Errorf("ETag of a fresh twin is %q, want AAAAAAAAAAE=", got)
	}
	if got, want := string(tw.DeviceView()), `{"desired":{"$version":1},"reported":{"$version":1}}`; got != want {
		t.Errorf("device view of a fresh twin: got %s, want %s", got, want)
	}
}

func TestTwin_Apply(t *testing.T) {
	conform.Covers(t, "HS-045", "HD-56")
	for _, c := range []struct {
		name                string
		tags, desired       string // before
		patch               string // a PATCH body
		wantTags, wantProps string
		push                string // "" for none
		versions            int64  // how much Version grows
	}{
		{
			"members merge, null deletes, arrays replace", `{"site":"lyon","floor":{"n":1,"m":2}}`, `{"a":1,"o":{"x":1,"y":[1,2]}}`,
			`{"tags":{"floor":{"n":null,"k":3}},"properties":{"desired":{"a":null,"o":{"y":[3]},"b":{"c":null,"d":true}}}}`,
			`{"site":"lyon","floor":{"m":2,"k":3}}`, `{"o":{"x":1,"y":[3]},"b":{"d":true}}`,
			`{"a":null,"o":{"y":[3]},"b":{"c":null,"d":true},"$version":3}`, 1,
		},
		{
			"null empties a section", `{"a":1}`, `{"b":1,"c":{"d":2}}`, `{"tags":null,"properties":{"desired":null}}`,
			`{}`, `{}`, `{"b":null,"c":null,"$version":3}`, 1,
		},
		{"tags alone leave desired", `{"a":1}`, `{"b":1}`, `{"tags":{"a":2}}`, `{"a":2}`, `{"b":1}`, "", 1},
		{"the same value is a write", `{}`, `{"b":1}`, `{"properties":{"desired":{"b":1}}}`, `{}`, `{"b":1}`, `{"b":1,"$version":3}`, 1},
		{"an empty section is none", `{"a":1}`, `{"b":1}`, `{"tags":{},"properties":{"desired":{}}}`, `{"a":1}`, `{"b":1}`, "", 0},
		{"a value takes an object's place", `{}`, `{"o":{"x":1}}`, `{"properties":{"desired":{"o":7}}}`, `{}`, `{"o":7}`, `{"o":7,"$version":3}`, 1},
		{"an object takes a value's place", `{}`, `{"o":7}`, `{"properties":{"desired":{"o":{"x":1}}}}`, `{}`, `{"o":{"x":1}}`, `{"o":{"x":1},"$version":3}`, 1},
		{
			"a whole document sent back changes its sections only", `{"a":1}`, `{"b":1}`,
			`{"deviceId":"x","etag":"y","version":99,"tags":{"a":1},"properties":{"desired":{"b":2,"$metadata":{"$lastUpdated":"z","b":{}},"$version":77},"reported":{"r":1}}}`,
			`{"a":1}`, `{"b":2}`, `{"b":2,"$version":3}`, 1,
		},
		{
			"digits and text survive", `{}`, `{}`,
			`{"properties":{"desired":{"big":4503599627370495,"small":-4503599627370496,"f":1.10,"e":1E2,"s":"<&>\u00e9\/","dist*^1":"ok","é☂":[1.0, {"k":null}]}}}`,
			`{}`, `{"big":4503599627370495,"small":-4503599627370496,"f":1.10,"e":1E2,"s":"<&>\u00e9\/","dist*^1":"ok","é☂":[1.0,{"k":null}]}`,
			`{"big":4503599627370495,"small":-4503599627370496,"f":1.10,"e":1E2,"s":"<&>\u00e9\/","dist*^1":"ok","é☂":[1.0,{"k":null}],"$version":3}`, 1,
		},
	} {
		t.Run(c.name, func(t *testing.T) {
			before := with(t, c.tags, c.desired, `{"r":1}`)
			p, err := ParsePatch([]byte(c.patch))
			if err != nil {
				t.Fatal(err)
			}
			// An empty section is written by with() as nothing, so versions are counted from before.
			shift := before.DesiredVersion - 2
			got, push, err := before.Apply(p, second)
			if err != nil {
				t.Fatal(err)
			}
			if s := text(got.Tags); s != c.wantTags {
				t.Errorf("tags are %s, want %s", s, c.wantTags)
			}
			if s := text(got.Desired); s != c.wantProps {
				t.Errorf("desired is %s, want %s", s, c.wantProps)
			}
			if want := strings.Replace(c.push, `"$version":3`, `"$version":`+string('3'+rune(shift)), 1); string(push) != want {
				t.Errorf("pushed %s, want %s", push, want)
			}
			if grown := got.Version - before.Version; grown != c.versions {
				t.Errorf("version grew by %d, want %d", grown, c.versions)
			}
			if same := got.ETag() == before.ETag(); same != (c.versions == 0) {
				t.Errorf("ETag went from %s to %s", before.ETag(), got.ETag())
			}
			if grown := got.DesiredVersion - before.DesiredVersion; grown != 0 != (c.push != "") {
				t.Errorf("desired version grew by %d", grown)
			}
			if got.ReportedVersion != before.ReportedVersion || string(got.Reported) != string(before.Reported) {
				t.Error("a service's patch touched the reported properties")
			}
		})
	}
}

func text(j json.RawMessage) string {
	if len(j) == 0 {
		return "{}"
	}
	return string(j)
}

func TestTwin_Replace(t *testing.T) {
	before := with(t, `{"a":1}`, `{"keep":1,"gone":2,"o":{"x":1,"y":2},"flat":{"z":1}}`, `{"r":1}`)
	p, err := ParsePatch([]byte(`{"unknown":{"x":[]},"properties":{"desired":{"keep":1,"o":{"x":9,"n":null},"flat":5,"new":{"d":1}}}}`))
	if err != nil {
		t.Fatal(err)
	}
	got, push, err := before.Replace(p, second)
	if err != nil {
		t.Fatal(err)
	}
	if s := text(got.Tags); s != "{}" {
		t.Errorf("tags are %s, want none", s)
	}
	if want := `{"keep":1,"o":{"x":9},"flat":5,"new":{"d":1}}`; string(got.Desired) != want {
		t.Errorf("desired is %s, want %s", got.Desired, want)
	}
	if want := `{"gone":null,"o":{"y":null,"x":9},"flat":5,"new":{"d":1},"$version":3}`; string(push) != want {
		t.Errorf("pushed %s, want %s", push, want)
	}
	// A device that merges what it is told holds what is stored.
	device := mustTree(before.Desired).merged(mustTree(push))
	device.remove("$version")
	var a, b any
	if json.Unmarshal(device.text(), &a) != nil || json.Unmarshal(got.Desired, &b) != nil || !cmp.Equal(a, b) {
		t.Errorf("the device ends with %s, the twin with %s", device.text(), got.Desired)
	}

	got, _, err = got.Replace(Patch{}, second)
	if err != nil || text(got.Tags) != "{}" || text(got.Desired) != "{}" {
		t.Errorf("an empty document leaves tags %s and desired %s (%v), want neither", got.Tags, got.Desired, err)
	}
}

func TestTwin_Metadata(t *testing.T) {
	conform.Covers(t, "HS-045")
	tw := with(t, `{}`, `{"a":1,"o":{"x":1,"y":2},"gone":{"k":1},"flat":{"z":1}}`, `{"r":{"s":1}}`)
	tw, _, err := tw.Apply(Patch{Desired: raw(`{"o":{"y":3},"gone":null,"flat":1}`), HasDesired: true}, second)
	if err != nil {
		t.Fatal(err)
	}
	const one, two = `"$lastUpdated":"2026-01-02T03:04:05.0000006Z","$lastUpdatedVersion":2`, `"$lastUpdated":"2026-01-02T04:04:05.0000006Z","$lastUpdatedVersion":3`
	want := `{` + two + `,"a":{` + one + `},"o":{` + two + `,"x":{` + one + `},"y":{` + two + `}},"flat":{` + two + `}}`
	if got := string(tw.DesiredMetadata); got != want {
		t.Errorf("desired metadata\n got %s\nwant %s", got, want)
	}
	if tw, err = tw.ApplyReported([]byte(`{"r":{"s":null}}`), 0, second); err != nil {
		t.Fatal(err)
	}
	want = `{"$lastUpdated":"2026-01-02T04:04:05.0000006Z","r":{"$lastUpdated":"2026-01-02T04:04:05.0000006Z"}}`
	if got := string(tw.ReportedMetadata); got != want {
		t.Errorf("reported metadata\n got %s\nwant %s", got, want)
	}
}

func TestTwin_ApplyReported(t *testing.T) {
	tw := with(t, `{}`, `{"d":1}`, `{"a":1}`)
	if _, err := tw.ApplyReported([]byte(`{"b":1}`), 7, second); !fault.Is(err, fault.PreconditionFailed) {
		t.Errorf("a patch on version 7 of a twin of version 2: got %v, want precondition failed", err)
	}
	got, err := tw.ApplyReported([]byte(` {"b" : {"c":1}, "a":null, "$version":9} `), 2, second)
	if err != nil {
		t.Fatal(err)
	}
	if string(got.Reported) != `{"b":{"c":1}}` || got.ReportedVersion != 3 || got.Version != tw.Version {
		t.Errorf("got %s version %d (twin %d), want {\"b\":{\"c\":1}} version 3 (twin %d)", got.Reported, got.ReportedVersion, got.Version, tw.Version)
	}
	if view := string(got.DeviceView()); view != `{"desired":{"d":1,"$version":2},"reported":{"b":{"c":1},"$version":3}}` {
		t.Errorf("device view is %s", view)
	}
}

func TestTwin_Refuses(t *testing.T) {
	deep := func(levels int) string { return strings.Repeat(`{"a":`, levels) + "1" + strings.Repeat("}", levels) }
	quoted := func(n int) string { return `"` + strings.Repeat("x", n) + `"` }
	wide := func(n int) string { // n bytes of content
		var parts []string
		for i := 0; n > 0; i++ {
			m := min(n, 1000)
			parts = append(parts, fmt.Sprintf(`"%c":"%s"`, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ"[i], strings.Repeat("x", m-1)))
			n -= m
		}
		return "{" + strings.Join(parts, ",") + "}"
	}
	for _, c := range []struct {
		name, text string
		tags       bool
		want       fault.Kind // Internal: accepted
	}{
		{"depth 10", deep(10), false, fault.Internal},
		{"depth 11", deep(11), false, fault.Invalid},
		{"depth 11 by arrays", `{"a":` + strings.Repeat("[", 10) + "1" + strings.Repeat("]", 10) + "}", false, fault.Invalid},
		{"32 KB", wide(32 << 10), false, fault.Internal},
		{"32 KB and a byte", wide(32<<10 + 1), false, fault.Invalid},
		{"8 KB of tags", wide(8 << 10), true, fault.Internal},
		{"8 KB of tags and a byte", wide(8<<10 + 1), true, fault.Invalid},
		{"a string of 4 KB", `{"a":` + quoted(4096) + `}`, false, fault.Internal},
		{"a string over 4 KB", `{"a":` + quoted(4097) + `}`, false, fault.Invalid},
		{"a string over 4 KB in an array", `{"a":[` + quoted(4097) + `]}`, false, fault.Invalid},
		{"a key of 1 KB", `{` + quoted(1024) + `:1}`, false, fault.Internal},
		{"a key over 1 KB", `{` + quoted(1025) + `:1}`, false, fault.Invalid},
		{"a dot in a key", `{"a.b":1}`, false, fault.Invalid},
		{"a dollar in a key", `{"a":{"$b":1}}`, false, fault.Invalid},
		{"a space in a key", `{"a b":1}`, false, fault.Invalid},
		{"an escaped control character in a key", `{"a\u0007":1}`, false, fault.Invalid},
		{"a forbidden key in an array", `{"a":[{"b.c":1}]}`, false, fault.Invalid},
		{"an empty key", `{"":1}`, false, fault.Invalid},
		{"the largest integer", `{"a":4503599627370496}`, false, fault.Internal},
		{"one more", `{"a":4503599627370497}`, false, fault.Invalid},
		{"the smallest integer", `{"a":-4503599627370496}`, false, fault.Internal},
		{"one less", `{"a":-4503599627370497}`, false, fault.Invalid},
		{"an array", `[]`, false, fault.Invalid},
		{"a word", `true`, false, fault.Invalid},
		{"no JSON", `{"a":`, false, fault.Malformed},
		{"nothing", ` `, false, fault.Malformed},
		{"no UTF-8", "{\"a\":\"\xff\"}", false, fault.Malformed},
		{"too many members", `{` + strings.Repeat(`"k":null,`, maxMembers) + `"k":null}`, false, fault.Invalid},
	} {
		t.Run(c.name, func(t *testing.T) {
			before := New(iot.ID{Device: "d"})
			p := Patch{Desired: raw(c.text), HasDesired: true}
			if c.tags {
				p = Patch{Tags: raw(c.text), HasTags: true}
			}
			for verb, err := range map[string]error{
				"PATCH": second2(before.Apply(p, second)), "PUT": second2(before.Replace(p, second)), "reported": second1(before.ApplyReported([]byte(c.text), 0, second)),
			} {
				if c.tags && verb == "reported" {
					continue
				}
				if c.want == fault.Internal && err != nil || c.want != fault.Internal && !fault.Is(err, c.want) {
					t.Errorf("%s: got %v (%v), want %v", verb, err, fault.KindOf(err), c.want)
				}
			}
		})
	}
	for _, body := range []string{`[]`, `{"tags":`, `"x"`, `{"properties":[]}`, `{"properties":7}`} {
		if _, err := ParsePatch([]byte(body)); !fault.Is(err, fault.Malformed) && !fault.Is(err, fault.Invalid) {
			t.Errorf("ParsePatch(%s): got %v, want a refusal", body, err)
		}
	}
	if _, err := New(iot.ID{}).ApplyReported([]byte("null"), 0, first); !fault.Is(err, fault.Invalid) {
		t.Errorf("reported null: got %v, want invalid", err)
	}
}

func second1(_ Twin, err error) error                    { return err }
func second2(_ Twin, _ json.RawMessage, err error) error { return err }

// FuzzTwin requires that whatever is accepted leaves a twin that reads back, that a second
// merge of the same patch changes no value, and that a listening device ends with what is stored.
func FuzzTwin(f *testing.F) {
	for _, s := range []string{`{}`, `{"a":{"b":[1,{"c":null}]},"d":"\ud800"}`, `null`, `{"a":1e999,"$version":{"x":[]}}`, `{"a":{},"a":1}`} {
		f.Add(`{"a":{"x":1},"b":2}`, s)
	}
	f.Fuzz(func(t *testing.T, old, patch string) {
		tw, _, err := New(iot.ID{Device: "d"}).Apply(Patch{Desired: raw(old), HasDesired: true}, first)
		if err != nil {
			return
		}
		for verb, how := range map[string]func(Patch, time.Time) (Twin, json.RawMessage, error){"PATCH": tw.Apply, "PUT": tw.Replace} {
			next, push, err := how(Patch{Desired: raw(patch), HasDesired: true}, second)
			if err != nil {
				if next.DesiredVersion != 0 || push != nil {
					t.Fatalf("%s failed with %v and still returned a twin", verb, err)
				}
				continue
			}
			for what, doc := range map[string][]byte{"device view": next.DeviceView(), "properties": next.Properties()} {
				if !json.Valid(doc) {
					t.Fatalf("%s: %s is no JSON: %s", verb, what, doc)
				}
			}
			if push == nil {
				continue
			}
			device := mustTree(tw.Desired).merged(mustTree(push))
			device.remove("$version")
			if got, want := device.size(), mustTree(next.Desired).size(); got != want || !json.Valid(push) {
				t.Fatalf("%s of %s on %s: the device ends with %s, the twin with %s", verb, patch, old, device.text(), next.Desired)
			}
		}
		if again, err := tw.ApplyReported([]byte(patch), 0, first); err == nil {
			twice, err := again.ApplyReported([]byte(patch), 0, first)
			if err != nil || string(twice.Reported) != string(again.Reported) || string(twice.ReportedMetadata) != string(again.ReportedMetadata) {
				t.Fatalf("merging %s twice: %s then %s (%v)", patch, again.Reported, twice.Reported, err)
			}
		}
	})
}

func BenchmarkTwin_ApplyReported(b *testing.B) {
	tw := New(iot.ID{Device: "d"})
	tw, err := tw.ApplyReported([]byte(`{"temperature":21.5,"firmware":{"version":"1.2.3","state":"ok"},"interval":10,"list":[1,2,3]}`), 0, first)
	if err != nil {
		b.Fatal(err)
	}
	patch := []byte(`{"temperature":22.25,"firmware":{"state":"updating"}}`)
	b.ReportAllocs()
	for b.Loop() {
		if _, err := tw.ApplyReported(patch, 0, second); err != nil {
			b.Fatal(err)
		}
	}
}
