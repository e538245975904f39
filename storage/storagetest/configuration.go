package storagetest

import (
	"testing"
	"time"

	"github.com/vauban-iot/vauban/fault"
	"github.com/vauban-iot/vauban/hub/fleet/configuration"
	"github.com/vauban-iot/vauban/hub/twin"
	"github.com/vauban-iot/vauban/iot"
)

// Configurations is what every configuration.Store promises.
func Configurations(t *testing.T, open Open) {
	s, ctx := open(t), t.Context()
	kind := "assignment"
	full := configuration.Configuration{
		ID: "b", Revision: 1, SchemaVersion: "2.0", ContentType: &kind, Labels: map[string]string{"a": "☂"}, Content: raw(`{"deviceContent":{"properties.desired.x":1.50}}`),
		Condition: "tags.a = 'x'", Priority: 1 << 40, Queries: map[string]string{"n": "select * from devices"}, Created: Start, Updated: Start.Add(time.Second),
	}
	ok(t, s.CreateConfiguration(ctx, full, 2))
	wantKind(t, "a second of the same id", s.CreateConfiguration(ctx, configuration.Configuration{ID: "b"}, 2), fault.AlreadyExists)
	ok(t, s.CreateConfiguration(ctx, configuration.Configuration{ID: "a", Content: raw(`{}`)}, 2))
	wantKind(t, "a third where two are allowed", s.CreateConfiguration(ctx, configuration.Configuration{ID: "c"}, 2), fault.QueueFull)
	same(t, "configuration", must(s.Configuration(ctx, "b"))(t), full)
	_, err := s.Configuration(ctx, "B")
	wantKind(t, "an unknown one", err, fault.NotFound)
	results := configuration.Results{System: map[string]int{"targetedCount": 3}, Custom: map[string]int{"n": 4}}
	ok(t, s.SaveResults(ctx, "b", results))
	ok(t, s.SaveResults(ctx, "nobody", results))
	_, err = s.UpdateConfiguration(ctx, "b", func(c configuration.Configuration) (configuration.Configuration, error) {
		c.Priority = 9
		return c, errNo
	})
	wantNo(t, "update that is refused", err)
	_, err = s.UpdateConfiguration(ctx, "nobody", func(c configuration.Configuration) (configuration.Configuration, error) { return c, nil })
	wantKind(t, "update of an unknown one", err, fault.NotFound)
	full.Priority, full.Results = 2, results
	same(t, "updated", must(s.UpdateConfiguration(ctx, "b", func(c configuration.Configuration) (configuration.Configuration, error) {
		c.Priority, c.Results = 2, configuration.Results{}
		return c, nil
	}))(t), full)
	all := must(s.Configurations(ctx))(t)
	if len(all) != 2 || all[0].ID != "a" {
		t.Errorf("all: %+v, want a and b", all)
	}
	same(t, "the second", all[1], full)
	wantNo(t, "delete that is refused", s.DeleteConfiguration(ctx, "b", func(configuration.Configuration) error { return errNo }))
	ok(t, s.DeleteConfiguration(ctx, "b", func(c configuration.Configuration) error {
		same(t, "what a check sees", c, full)
		return nil
	}))
	wantKind(t, "delete of an unknown one", s.DeleteConfiguration(ctx, "b", func(configuration.Configuration) error { return nil }), fault.NotFound)

	// What is remembered in a twin comes back with it.
	create(t, s, "d")
	id := iot.ID{Device: "d"}
	set := func(seen, private string) twin.Twin {
		return must(s.UpdateTwin(ctx, id, func(tw twin.Twin) (twin.Twin, error) {
			tw.Configurations, tw.Configured = raw(seen), raw(private)
			return tw, nil
		}))(t)
	}
	same(t, "a twin without configurations", must(s.Twin(ctx, id))(t), twin.Twin{ID: id, Version: 1, Tags: raw(`{}`), Desired: raw(`{}`), DesiredMetadata: raw(`{}`),
		DesiredVersion: 1, Reported: raw(`{}`), ReportedMetadata: raw(`{}`), ReportedVersion: 1})
	want := set(`{"a":{"status":"Applied"}}`, `{"x": 1}`)
	same(t, "stored", must(s.Twin(ctx, id))(t), want)
	if set("", "").Configurations != nil || must(s.Twin(ctx, id))(t).Configured != nil {
		t.Error("an empty text does not come back as nil")
	}
}
