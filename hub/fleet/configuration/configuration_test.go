package configuration

import (
	"encoding/json"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/vauban-iot/vauban/fault"
	"github.com/vauban-iot/vauban/hub/twin"
	"github.com/vauban-iot/vauban/iot"
)

func TestSystemQueries(t *testing.T) {
	for _, test := range []struct {
		kind            Kind
		condition, want string
	}{
		{ForDevices, "", ""}, {ForDevices, "*", "select deviceId from devices"}, {ForDevices, " tags.a='x' ", "select deviceId from devices where tags.a='x'"},
		{ForDevices, "FROM devices WHERE tags.a = 1", "select deviceId from devices where tags.a = 1"},
		{ForEdge, "*", "select deviceId from devices where capabilities.iotEdge = true"}, {ForEdge, "tags.a = 1", "select deviceId from devices where capabilities.iotEdge = true and tags.a = 1"},
		{ForModules, "from devices.modules where moduleId='m'", "select deviceId from devices.modules where moduleId='m'"}, {ForModules, "*", "select deviceId from devices.modules"},
	} {
		c := Configuration{ID: "c", Condition: test.condition}
		got := c.systemQueries(test.kind)
		if got["targetedCount"] != test.want {
			t.Errorf("%s %q: %q, want %q", test.kind, test.condition, got["targetedCount"], test.want)
		}
		for name, text := range got {
			if err := checkQuery(text); text != "" && err != nil {
				t.Errorf("%s of %s is not executable: %v", name, test.kind, err)
			}
		}
	}
}

func TestDifference(t *testing.T) {
	for _, test := range []struct{ old, next, want string }{
		{`{}`, `{}`, `{}`}, {`{"a":1}`, `{"a":1.0}`, `{"a":1.0}`}, {`{"a":1,"b":{"c":1,"d":2}}`, `{"b":{"c":1,"e":3}}`, `{"a":null,"b":{"d":null,"e":3}}`},
		{`{"a":{"b":1}}`, `{"a":2}`, `{"a":2}`}, {`{"a":2}`, `{"a":{"b":1}}`, `{"a":{"b":1}}`}, {`{"a":[1,2]}`, `{"a":[1,2]}`, `{}`},
	} {
		if got := string(marshal(difference(parseTree(json.RawMessage(test.old)), parseTree(json.RawMessage(test.next))))); got != test.want {
			t.Errorf("from %s to %s: %s, want %s", test.old, test.next, got, test.want)
		}
	}
}

func TestUnset_PrunesWhatIsEmpty(t *testing.T) {
	for _, test := range []struct{ tree, path, want string }{
		{`{"a":{"b":{"c":1}},"x":1}`, "a.b.c", `{"x":1}`}, {`{"a":{"b":{"c":1},"d":2}}`, "a.b.c", `{"a":{"d":2}}`}, {`{"a":1}`, "a.b", `{"a":1}`}, {`{"a":1}`, "b", `{"a":1}`},
	} {
		v := parseTree(json.RawMessage(test.tree))
		unset(v, strings.Split(test.path, "."))
		if got := string(marshal(v)); got != test.want {
			t.Errorf("%s without %s: %s, want %s", test.tree, test.path, got, test.want)
		}
	}
}

func TestLayered(t *testing.T) {
	for raw, want := range map[string]bool{
		`{"modulesContent":{"$edgeAgent":{"properties.desired":{}}}}`:                                         false,
		`{"modulesContent":{"$edgeAgent":{"properties.desired.modules.a":{}},"a":{"properties.desired":{}}}}`: true,
		`{"modulesContent":{"a":{"properties.desired":{}}}}`:                                                  true,
	} {
		c, err := parseContent(json.RawMessage(raw))
		if err != nil || c.layered() != want {
			t.Errorf("%s: layered %v, %v; want %v", raw, c.layered(), err, want)
		}
	}
}

func TestBefore(t *testing.T) {
	at := time.Unix(100, 0)
	rules := []*rule{
		{Configuration: Configuration{ID: "a", Priority: 1, Created: at}}, {Configuration: Configuration{ID: "b", Priority: 2, Created: at}},
		{Configuration: Configuration{ID: "c", Priority: 2, Created: at.Add(1)}}, {Configuration: Configuration{ID: "d", Priority: 1, Created: at}},
	}
	slices.SortFunc(rules, before)
	var got string
	for _, r := range rules {
		got += r.ID
	}
	if got != "cbad" {
		t.Errorf("order %s, want cbad", got)
	}
}

// FuzzParse: what is accepted shows as JSON, and its settings make a twin or are refused in words for the caller.
func FuzzParse(f *testing.F) {
	f.Add([]byte(`{"content":{"deviceContent":{"properties.desired.a.b":1e400,"properties.desired":{"a":{"c":[null]}}}},"targetCondition":"*","priority":1,"labels":{"a":"b"},"metrics":{"queries":{"n":"select * from devices"}}}`))
	f.Add([]byte(`{"content":{"modulesContent":{"$edgeAgent":{"properties.desired":{"modules":{"a":1}}},"a":{"properties.desired.x":{"y":{}}}}},"targetCondition":"from devices where"}`))
	f.Fuzz(func(t *testing.T, body []byte) {
		ch, err := Parse("c", body)
		if err != nil {
			return
		}
		c := Configuration{ID: "c", Revision: 1, Content: ch.Content}.merged(ch)
		if len(c.Content) == 0 {
			return
		}
		if err := c.check(); err != nil {
			if fault.KindOf(err) == fault.Internal {
				t.Fatalf("refused with %v", err)
			}
			return
		}
		if !json.Valid(c.Document()) {
			t.Fatalf("document %s", c.Document())
		}
		r := &rule{Configuration: c}
		r.content, _ = parseContent(c.Content)
		for _, p := range plan([]*rule{r}) {
			if _, _, err := twin.New(iot.ID{}).Apply(twin.Patch{Desired: marshal(difference(tree{}, p.desired)), HasDesired: true, By: c.ID}, time.Time{}); err != nil && fault.KindOf(err) == fault.Internal {
				t.Fatal(err)
			}
		}
	})
}
