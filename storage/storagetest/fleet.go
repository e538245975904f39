package storagetest

import (
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/vauban-iot/vauban/fault"
	"github.com/vauban-iot/vauban/hub/fleet"
	"github.com/vauban-iot/vauban/hub/registry"
	"github.com/vauban-iot/vauban/hub/twin"
	"github.com/vauban-iot/vauban/iot"
)

// corpus is a small fleet in which every kind of value, and some awkward ones, occur.
var corpus = []struct {
	device, module          string
	tags, desired, reported string
	disabled                bool
}{
	{"a1", "", `{"site":"lyon","floor":3,"o":{"k":"x"},"b":true}`, `{"i":1}`, `{"t":21.5,"fw":{"v":"1.2"},"on":true,"d":0.50}`, false},
	{"a2", "", `{"site":"lyon","floor":3.0,"b":false}`, `{"i":2}`, `{"t":19,"fw":{"v":"1.3"},"on":false,"d":1e2}`, true},
	{"a3", "", `{"site":"paris","floor":"3","n":null}`, `{}`, `{"t":"warm","on":1,"d":100.000,"e":"q\"x"}`, false},
	{"b#%'", "", `{"site":"Lyon","é☂":"𝄞","list":[1,2]}`, `{"o":{"p":{"q":[{"r":1}]}}}`, `{"t":-5e2,"fw":"1.2"}`, false},
	{"b2", "", `{}`, `{"s":"tab\tnul\u0000quote\"é"}`, `{"big":4503599627370495,"f":0.1,"s":"tab\tnul\u0000quote\"é","e":"é","d":-7}`, false},
	{"c1", "", `{"site":"` + strings.Repeat("x", 300) + `1"}`, `{}`, `{"t":null}`, false},
	{"c2", "", `{"site":"` + strings.Repeat("x", 300) + `2"}`, `{}`, `{"e":"\u00e9","d":0.5000000000000000000001}`, false},
	{"a1", "m1", `{"site":"lyon"}`, `{"x":1}`, `{"t":1}`, false},
	{"a1", "m2", `{"site":"lyon"}`, `{}`, `{}`, false},
	{"b2", "m1", `{}`, `{"x":1}`, `{}`, false},
}

// questions are queries over the corpus and the ids they find, the same on every backend.
var questions = []struct{ where, want string }{
	{``, "a1 a2 a3 b#%' b2 c1 c2"},
	{`tags.site = 'lyon'`, "a1 a2"},
	{`'lyon' = tags.site`, "a1 a2"},
	{`tags.site = 'lyon' AND tags.b = true`, "a1"},
	{`tags.site = 'lyon' AND tags.floor = 3 AND tags.b = false`, "a2"},
	{`tags.site IN ['lyon', 'paris', 'rome']`, "a1 a2 a3"},
	{`tags.site != 'lyon'`, "a3 b#%' c1 c2"},
	{`NOT tags.site = 'lyon'`, "a3 b#%' c1 c2"},
	{`tags.floor = 3`, "a1 a2"},
	{`tags.floor = '3'`, "a3"},
	{`tags.floor > 2`, "a1 a2"},
	{`tags.n = null`, ""}, // a null removes: no twin holds one
	{`tags.o.k = 'x'`, "a1"},
	{`tags.é☂ = '𝄞'`, "b#%'"},
	{`tags.list = 1`, ""},
	{`array_contains(tags.list, 2)`, "b#%'"},
	{`tags.site = '` + strings.Repeat("x", 300) + `2'`, "c2"},
	{`tags.site = 'lyon' OR tags.site = 'paris'`, "a1 a2 a3"},
	{`tags.site = undefined`, ""},
	{`properties.reported.t > 20`, "a1"},
	{`20 < properties.reported.t`, "a1"},
	{`properties.reported.t <= 19`, "a2 b#%'"},
	{`properties.reported.t = 19.0`, "a2"},
	{`properties.reported.t = 'warm'`, "a3"},
	{`properties.reported.t < 'x'`, "a3"},
	{`properties.reported.t = null`, ""},
	{`properties.reported.on = true`, "a1"},
	{`properties.reported.on = 1`, "a3"},
	{`properties.reported.on = false`, "a2"},
	{`properties.reported.fw.v = '1.2'`, "a1"},
	{`properties.reported.fw = '1.2'`, "b#%'"},
	{`properties.reported.f = 0.1 AND properties.reported.big = 4503599627370495`, "b2"},
	{`properties.reported.e = 'é'`, "b2 c2"},
	{`properties.reported.e = "q\"x"`, "a3"},
	{`properties.reported.d = 0.5`, "a1 c2"},
	{`properties.reported.d = 100`, "a2 a3"},
	{`properties.reported.d = -7`, "b2"},
	{`properties.reported.s = "tab\tnul\u0000quote\"é"`, "b2"},
	{`properties.desired.s = properties.reported.s`, "b2"},
	{`properties.desired.o.p.q[0].r = 1`, "b#%'"},
	{`properties.desired.$version = 2 AND properties.reported.$version = 2 AND is_defined(properties.desired.$metadata.i)`, "a1 a2"},
	{`is_defined(properties.reported.t)`, "a1 a2 a3 b#%'"},
	{`deviceId = 'a2'`, "a2"},
	{`DeviceId IN ['a2', "b#%'"]`, "a2 b#%'"},
	{`STARTSWITH(devices.deviceId, 'a')`, "a1 a2 a3"},
	{`deviceId > 'b'`, "b#%' b2 c1 c2"},
	{`status = 'disabled'`, "a2"},
	{`status = 'enabled' AND tags.site = 'lyon'`, "a1"},
	{`connectionState = 'Disconnected' AND capabilities.iotEdge = false AND authenticationType = 'sas' AND deviceId = 'a1'`, "a1"},
	{`deviceId = tags.site`, ""},
}

// Fleet is what every fleet.Store promises: the same answers to the same questions.
func Fleet(t *testing.T, open Open) {
	s := open(t)
	ctx := t.Context()
	for _, c := range corpus {
		id := iot.ID{Device: c.device, Module: c.module}
		tw, _, err := twin.New(id).Apply(twin.Patch{Tags: raw(c.tags), HasTags: true, Desired: raw(c.desired), HasDesired: true}, Start)
		ok(t, err)
		tw, err = tw.ApplyReported([]byte(c.reported), 0, Start)
		ok(t, err)
		d := registry.Identity{ID: id, Status: registry.Enabled, Generation: "1", ETag: "e", Authentication: registry.Authentication{Type: registry.SAS}}
		if c.disabled {
			d.Status = registry.Disabled
		}
		ok(t, s.Create(ctx, d, tw))
	}
	f := fleet.New(s)

	t.Run("questions", func(t *testing.T) {
		for _, q := range questions {
			text := "SELECT deviceId FROM devices"
			if q.where != "" {
				text += " WHERE " + q.where
			}
			if got := strings.Join(ids(t, f, text, 100), " "); got != q.want {
				t.Errorf("%s finds %q, want %q", q.where, got, q.want)
			}
			// The same through whole documents, in pages of two.
			if got := strings.Join(ids(t, f, strings.Replace(text, "deviceId", "*", 1), 2), " "); got != q.want {
				t.Errorf("%s finds %q in pages, want %q", q.where, got, q.want)
			}
		}
	})

	t.Run("modules", func(t *testing.T) {
		for where, want := range map[string]string{
			``: "a1/m1 a1/m2 b2/m1", ` WHERE tags.site = 'lyon'`: "a1/m1 a1/m2", ` WHERE deviceId in ['b2']`: "b2/m1",
			` WHERE devices.modules.moduleId = 'm1'`: "a1/m1 b2/m1", ` WHERE tags.site = 'lyon' AND properties.reported.t = 1`: "a1/m1",
		} {
			for _, size := range []int{1, 100} {
				if got := strings.Join(ids(t, f, "SELECT * FROM devices.modules"+where, size), " "); got != want {
					t.Errorf("modules%s in pages of %d: got %q, want %q", where, size, got, want)
				}
			}
		}
	})

	t.Run("documents", func(t *testing.T) {
		p := must(f.Query(ctx, "SELECT * FROM devices WHERE deviceId = 'a1'", 0, ""))(t)
		d, tw := must(s.Identity(ctx, iot.ID{Device: "a1"}))(t), must(s.Twin(ctx, iot.ID{Device: "a1"}))(t)
		if want := string(registry.TwinDocument(d, tw)); len(p.Items) != 1 || string(p.Items[0]) != want || p.ItemType != "Twin" || p.Next != "" {
			t.Errorf("got %s of type %s, next %q; want one document %s", p.Items, p.ItemType, p.Next, want)
		}
		p = must(f.Query(ctx, "SELECT DeviceId, tags.floor AS f, properties.reported.big, STATUS FROM devices WHERE deviceId IN ['a1', 'b2']", 0, ""))(t)
		if got, want := fmt.Sprintf("%s %s", p.Items, p.ItemType), `[{"deviceId":"a1","f":3,"status":"enabled"} {"deviceId":"b2","big":4503599627370495,"status":"enabled"}] Raw`; got != want {
			t.Errorf("projection: got %s, want %s", got, want)
		}
	})

	t.Run("groups", func(t *testing.T) {
		p := must(f.Query(ctx, "SELECT tags.site AS site, COUNT() AS n, MAX(properties.reported.t) AS hot FROM devices WHERE tags.floor = 3 OR status = 'disabled' GROUP BY tags.site", 0, ""))(t)
		if got := fmt.Sprintf("%s", p.Items); got != `[{"site":"lyon","n":2,"hot":21.5}]` {
			t.Errorf("groups: got %s", got)
		}
		p = must(f.Query(ctx, "SELECT COUNT() AS total FROM devices.modules", 0, ""))(t)
		if got := fmt.Sprintf("%s", p.Items); got != `[{"total":3}]` {
			t.Errorf("count: got %s", got)
		}
		var all []string
		for token := ""; ; {
			p := must(f.Query(ctx, "SELECT deviceId, COUNT() FROM devices GROUP BY deviceId", 3, token))(t)
			for _, item := range p.Items {
				all = append(all, string(item))
			}
			if token = p.Next; token == "" {
				break
			}
		}
		if len(all) != 7 {
			t.Errorf("groups in pages: %d, want 7: %s", len(all), all)
		}
	})

	t.Run("TOP counts over pages", func(t *testing.T) {
		if got := ids(t, f, "SELECT TOP 3 * FROM devices", 2); len(got) != 3 {
			t.Errorf("got %q, want three", got)
		}
	})

	t.Run("a page stands when rows come and go", func(t *testing.T) {
		p := must(f.Query(ctx, "SELECT deviceId FROM devices WHERE tags.site IN ['lyon', 'paris']", 1, ""))(t)
		_, err := f.Query(ctx, "SELECT deviceId FROM devices WHERE tags.site = 'paris'", 1, p.Next)
		wantKind(t, "another query's token", err, fault.Invalid)
		_, err = f.Query(ctx, "SELECT * FROM devices", 1, "nonsense")
		wantKind(t, "a nonsense token", err, fault.Invalid)
		id := iot.ID{Device: "a0"}
		ok(t, s.Create(ctx, registry.Identity{ID: id, Status: registry.Enabled, Authentication: registry.Authentication{Type: registry.SAS}}, twin.Twin{Tags: raw(`{"site":"lyon"}`)}))
		next := must(f.Query(ctx, "SELECT deviceId FROM devices WHERE tags.site IN ['lyon', 'paris']", 9, p.Next))(t)
		if got := fmt.Sprintf("%s", next.Items); got != `[{"deviceId":"a2"} {"deviceId":"a3"}]` {
			t.Errorf("the page after a1: got %s", got)
		}
		ok(t, s.Delete(ctx, id, func(registry.Identity) error { return nil }, nil))
	})

	t.Run("the index follows the tags", func(t *testing.T) {
		id := iot.ID{Device: "a3"}
		find := func(where string) []string { return ids(t, f, "SELECT deviceId FROM devices WHERE "+where, 10) }
		for _, step := range []struct{ tags, where, want string }{
			{`{"site":"oslo","deep":{"er":"y"}}`, `tags.site = 'oslo'`, "a3"},
			{`{"site":"oslo","deep":{"er":"y"}}`, `tags.deep.er = 'y'`, "a3"},
			{`{"deep":{"er":["y"]}}`, `tags.deep.er = 'y'`, ""},
			{`{"deep":7}`, `tags.site = 'oslo'`, ""},
			{`{"deep":7}`, `tags.deep = 7`, "a3"},
			{`{}`, `tags.deep = 7`, ""},
		} {
			must(s.UpdateTwin(ctx, id, func(tw twin.Twin) (twin.Twin, error) {
				tw.Tags = raw(step.tags)
				return tw, nil
			}))(t)
			if got := strings.Join(find(step.where), " "); got != step.want {
				t.Errorf("tags %s: %s finds %q, want %q", step.tags, step.where, got, step.want)
			}
		}
	})
}

func raw(s string) json.RawMessage { return json.RawMessage(s) }

// ids runs a query to its last page and returns the ids of its rows.
func ids(t testing.TB, f *fleet.Fleet, text string, size int) []string {
	t.Helper()
	var found []string
	for token := ""; ; {
		p := must(f.Query(t.Context(), text, size, token))(t)
		for _, item := range p.Items {
			var d struct{ DeviceID, ModuleID string }
			ok(t, json.Unmarshal(item, &d))
			if d.ModuleID != "" {
				d.DeviceID += "/" + d.ModuleID
			}
			found = append(found, d.DeviceID)
		}
		if len(p.Items) > size {
			t.Errorf("%s: a page has %d items, %d were asked for", text, len(p.Items), size)
		}
		if token = p.Next; token == "" {
			if !slices.IsSorted(found) {
				t.Errorf("%s: %q is not in order", text, found)
			}
			return found
		}
	}
}
