package digitaltwin

import (
	"encoding/json"
	"strings"
	"testing"
	"time"

	"github.com/vauban-iot/vauban/fault"
	"github.com/vauban-iot/vauban/hub/twin"
	"github.com/vauban-iot/vauban/iot"
)

var at = time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)

const stamp = "2026-01-02T03:04:05.0000000Z"

func twinOf(t testing.TB, desired, reported string) twin.Twin {
	t.Helper()
	tw, _, err := twin.New(iot.ID{Device: "d1"}).Apply(twin.Patch{Desired: json.RawMessage(desired), HasDesired: true}, at)
	if err != nil {
		t.Fatal(err)
	}
	if reported != "" {
		if tw, err = tw.ApplyReported([]byte(reported), 0, at); err != nil {
			t.Fatal(err)
		}
	}
	return tw
}

func TestDocument(t *testing.T) {
	const when = `"lastUpdateTime":"` + stamp + `"`
	for _, test := range []struct{ name, model, desired, reported, want string }{
		{"fresh", "", `{}`, ``, `{"$dtId":"d1","$metadata":{}}`},
		{"model", "dtmi:com:example:T;1", `{}`, ``, `{"$dtId":"d1","$metadata":{"$model":"dtmi:com:example:T;1"}}`},
		{"read-only", "", `{}`, `{"serial":"a<b"}`, `{"$dtId":"d1","$metadata":{"serial":{` + when + `}},"serial":"a<b"}`},
		{"desired only", "", `{"target":20.40}`, ``, `{"$dtId":"d1","$metadata":{"target":{"desiredValue":20.40,"desiredVersion":2,` + when + `}}}`},
		{
			"acknowledged", "", `{"target":20.4}`, `{"target":{"value":20.5,"ac":200,"av":4,"ad":"ok"}}`,
			`{"$dtId":"d1","$metadata":{"target":{"ackCode":200,"ackDescription":"ok","ackVersion":4,"desiredValue":20.4,"desiredVersion":2,` + when + `}},"target":20.5}`,
		},
		{"without description", "", `{}`, `{"p":{"value":{"a":1},"ac":200,"av":4}}`, `{"$dtId":"d1","$metadata":{"p":{"ackCode":200,"ackVersion":4,` + when + `}},"p":{"a":1}}`},
		{"an object that is no acknowledgement", "", `{}`, `{"p":{"value":1,"ac":200}}`, `{"$dtId":"d1","$metadata":{"p":{` + when + `}},"p":{"ac":200,"value":1}}`},
		{
			"component", "", `{"th":{"__t":"c","target":1}}`, `{"th":{"__t":"c","max":2}}`,
			`{"$dtId":"d1","$metadata":{},"th":{"$metadata":{"max":{` + when + `},"target":{"desiredValue":1,"desiredVersion":2,` + when + `}},"max":2}}`,
		},
		{"component of the device only", "", `{}`, `{"th":{"__t":"c"}}`, `{"$dtId":"d1","$metadata":{},"th":{"$metadata":{}}}`},
	} {
		t.Run(test.name, func(t *testing.T) {
			tw := twinOf(t, test.desired, test.reported)
			tw.ModelID = test.model
			if got := string(Document(tw)); got != test.want {
				t.Errorf("got  %s\nwant %s", got, test.want)
			}
		})
	}
}

func TestPatch(t *testing.T) {
	for _, test := range []struct{ name, desired, reported, patch, want string }{
		{"add a property", `{}`, ``, `[{"op":"add","path":"/p","value":1.50}]`, `{"p":1.50}`},
		{"replace what is reported", `{}`, `{"p":1}`, `[{"op":"replace","path":"/p","value":{"a":{"b":true}}}]`, `{"p":{"a":{"b":true}}}`},
		{"replace an object as a whole", `{"p":{"a":1,"b":{"c":1,"d":2}}}`, ``, `[{"op":"replace","path":"/p","value":{"b":{"d":3}}}]`, `{"p":{"b":{"d":3}}}`},
		{"remove a property", `{"p":1,"q":2}`, ``, `[{"op":"remove","path":"/p"}]`, `{"q":2}`},
		{"remove what is only reported", `{"q":2}`, `{"p":1}`, `[{"op":"remove","path":"/p"}]`, `{"q":2}`},
		{"add to a component", `{"c":{"__t":"c","q":1}}`, ``, `[{"op":"add","path":"/c/p","value":1}]`, `{"c":{"__t":"c","q":1,"p":1}}`},
		{"add to a component of the device", `{}`, `{"c":{"__t":"c"}}`, `[{"op":"add","path":"/c/p","value":1}]`, `{"c":{"__t":"c","p":1}}`},
		{"add to a component nobody knows", `{}`, ``, `[{"op":"add","path":"/c/p","value":1}]`, `{"c":{"__t":"c","p":1}}`},
		{"remove from a component", `{"c":{"__t":"c","p":1,"q":2}}`, ``, `[{"op":"remove","path":"/c/p"}]`, `{"c":{"__t":"c","q":2}}`},
		{"add a component", `{}`, ``, `[{"op":"add","path":"/c","value":{"$metadata":{}}}]`, `{"c":{"__t":"c"}}`},
		{"replace a component", `{"c":{"__t":"c","p":1,"q":{"r":1}}}`, ``, `[{"op":"replace","path":"/c","value":{"q":{"s":2},"$metadata":{}}}]`, `{"c":{"__t":"c","q":{"s":2}}}`},
		{"remove a component", `{"c":{"__t":"c","p":1},"q":2}`, ``, `[{"op":"remove","path":"/c"}]`, `{"q":2}`},
		{"operations in order", `{"c":{"__t":"c","p":1,"q":2}}`, ``, `[{"op":"remove","path":"/c"},{"op":"add","path":"/c/p","value":3},{"op":"add","path":"/x","value":1},{"op":"remove","path":"/x"}]`, `{"c":{"__t":"c","p":3}}`},
		{"a component, then a property of it", `{}`, ``, `[{"op":"add","path":"/c","value":{"$metadata":{},"p":1,"q":2}},{"op":"remove","path":"/c/p"}]`, `{"c":{"__t":"c","q":2}}`},
		{"nothing", `{"p":1}`, ``, `[]`, `{"p":1}`},
	} {
		t.Run(test.name, func(t *testing.T) {
			p, err := ParsePatch([]byte(test.patch))
			if err != nil {
				t.Fatal(err)
			}
			tw := twinOf(t, test.desired, test.reported)
			patch, err := p.Of(tw)
			if err != nil {
				t.Fatal(err)
			}
			next, _, err := tw.Apply(patch, at)
			if err != nil {
				t.Fatal(err)
			}
			if got, want := string(marshal(parse(next.Desired))), string(marshal(parse(json.RawMessage(test.want)))); got != want {
				t.Errorf("desired is %s, want %s", got, want)
			}
		})
	}
}

func TestPatch_TouchesOnlyItsPlace(t *testing.T) {
	tw := twinOf(t, `{"c":{"__t":"c","p":1,"q":2}}`, "")
	p, err := ParsePatch([]byte(`[{"op":"replace","path":"/c/p","value":1}]`))
	if err != nil {
		t.Fatal(err)
	}
	patch, err := p.Of(tw)
	if err != nil {
		t.Fatal(err)
	}
	if got := string(patch.Desired); got != `{"c":{"p":1}}` {
		t.Errorf("the patch is %s: versions of other properties would move", got)
	}
}

func TestPatch_Refusals(t *testing.T) {
	long := strings.Repeat("a", 65)
	for _, test := range []struct {
		name, desired, reported, patch string
		kind                           fault.Kind
		part                           string
	}{
		{"no array", `{}`, ``, `{"op":"add"}`, fault.Malformed, "JSON Patch"},
		{"unknown op", `{}`, ``, `[{"op":"move","path":"/p"}]`, fault.Invalid, "operation 0"},
		{"the whole", `{}`, ``, `[{"op":"add","path":"","value":1}]`, fault.Invalid, "path"},
		{"too deep a path", `{}`, ``, `[{"op":"add","path":"/a/b/c","value":1}]`, fault.Invalid, "path"},
		{"metadata", `{}`, ``, `[{"op":"add","path":"/$metadata/p","value":1}]`, fault.Invalid, "$metadata"},
		{"no value", `{}`, ``, `[{"op":"add","path":"/p"}]`, fault.Invalid, "value"},
		{"null", `{}`, ``, `[{"op":"add","path":"/p","value":null}]`, fault.Invalid, "null"},
		{"array", `{}`, ``, `[{"op":"add","path":"/p","value":{"a":[1]}}]`, fault.Invalid, "array"},
		{"too deep a value", `{}`, ``, `[{"op":"add","path":"/p","value":{"a":{"b":{"c":{"d":{"e":{}}}}}}}]`, fault.Invalid, "deeper"},
		{"a digit first", `{}`, ``, `[{"op":"add","path":"/1p","value":1}]`, fault.Invalid, "1p"},
		{"an underscore last", `{}`, ``, `[{"op":"add","path":"/p_","value":1}]`, fault.Invalid, "p_"},
		{"a long name", `{}`, ``, `[{"op":"add","path":"/` + long + `","value":1}]`, fault.Invalid, "64"},
		{"a name inside", `{}`, ``, `[{"op":"add","path":"/p","value":{"a-b":1}}]`, fault.Invalid, "a-b"},
		{"metadata with content", `{}`, ``, `[{"op":"add","path":"/c","value":{"$metadata":{"$model":"x"}}}]`, fault.Invalid, "$metadata"},
		{"the marker by hand", `{}`, ``, `[{"op":"add","path":"/c","value":{"__t":"c"}}]`, fault.Invalid, "__t"},
		{"a component without metadata", `{"c":{"__t":"c"}}`, ``, `[{"op":"replace","path":"/c","value":{"p":1}}]`, fault.Invalid, "$metadata"},
		{"a property of a property", `{"c":{"p":1}}`, ``, `[{"op":"add","path":"/c/p","value":1}]`, fault.Invalid, "'c' exists within the device twin and is not digital twin conformant property"},
		{"a reported property taken for a component", `{}`, `{"c":1}`, `[{"op":"add","path":"/c/p","value":1}]`, fault.Invalid, "'c' exists within"},
		{"a component over a property", `{"c":1}`, ``, `[{"op":"add","path":"/c","value":{"$metadata":{}}}]`, fault.Invalid, "'c' exists within"},
		{"remove nothing", `{}`, ``, `[{"op":"remove","path":"/p"}]`, fault.Invalid, "'p' does not exist"},
		{"remove nothing from a component", `{"c":{"__t":"c"}}`, ``, `[{"op":"remove","path":"/c/p"}]`, fault.Invalid, "'c/p' does not exist"},
		{"too many", `{}`, ``, `[` + strings.Repeat(`{"op":"add","path":"/p","value":1},`, maxOperations) + `{}]`, fault.Invalid, "1001 operations"},
	} {
		t.Run(test.name, func(t *testing.T) {
			p, err := ParsePatch([]byte(test.patch))
			if err == nil {
				_, err = p.Of(twinOf(t, test.desired, test.reported))
			}
			if !fault.Is(err, test.kind) || !strings.Contains(fault.Public(err), test.part) {
				t.Errorf("got %v (%v), want %v with %q", err, fault.KindOf(err), test.kind, test.part)
			}
		})
	}
}

func TestMethod(t *testing.T) {
	for _, test := range []struct{ component, name, want string }{
		{"", "reboot", "reboot"}, {"thermostat1", "getMaxMinReport", "thermostat1*getMaxMinReport"}, {"", "a*b", ""}, {"a*b", "c", ""}, {"", "", ""},
	} {
		got, err := Method(test.component, test.name)
		if got != test.want || (err != nil) != (test.want == "") {
			t.Errorf("Method(%q, %q) is %q, %v; want %q", test.component, test.name, got, err, test.want)
		}
	}
}

// FuzzPatch: what a patch makes is always a twin that shows as a digital twin.
func FuzzPatch(f *testing.F) {
	f.Add([]byte(`[{"op":"add","path":"/c","value":{"$metadata":{},"p":{"a":1}}},{"op":"remove","path":"/c/p"}]`), `{"c":{"__t":"c","p":1}}`)
	f.Add([]byte(`[{"op":"replace","path":"/p","value":1e2},{"op":"remove","path":"/p"}]`), `{"p":{"q":[1,{"r":null}]}}`)
	f.Fuzz(func(t *testing.T, body []byte, desired string) {
		p, err := ParsePatch(body)
		if err != nil {
			return
		}
		tw, _, err := twin.New(iot.ID{Device: "d1"}).Apply(twin.Patch{Desired: json.RawMessage(desired), HasDesired: true}, at)
		if err != nil {
			return
		}
		patch, err := p.Of(tw)
		if err != nil {
			return
		}
		next, _, err := tw.Apply(patch, at)
		if err != nil {
			return
		}
		if !json.Valid(Document(next)) {
			t.Fatalf("document %s of desired %s", Document(next), next.Desired)
		}
	})
}
