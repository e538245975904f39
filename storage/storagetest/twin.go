package storagetest

import (
	"encoding/json"
	"testing"

	"github.com/vauban-iot/vauban/fault"
	"github.com/vauban-iot/vauban/hub/twin"
	"github.com/vauban-iot/vauban/iot"
)

// verbatim is JSON that every reformatting would damage.
const verbatim = `{ "n": 12345678901234567890123, "f": 1.10, "e":1E2,
	"esc":"\u0000\u00e9\/<&>", "é☂𝄞": {"a":null}, "a":1, "a":2, "'%_": [ ] }`

// Twins is what every twin.Store promises.
func Twins(t *testing.T, open Open) {
	raw := func(s string) json.RawMessage { return json.RawMessage(s) }

	t.Run("JSON survives byte for byte", func(t *testing.T) {
		s, ctx := open(t), t.Context()
		id := iot.ID{Device: "d"}
		want := twin.Twin{ID: id, ModelID: "dtmi:com:example;1", Version: 1, Tags: raw(verbatim), Desired: raw(`{"a":1}`), DesiredMetadata: raw(`{"m":1}`),
			DesiredVersion: 1 << 62, Reported: raw(verbatim), ReportedMetadata: raw(`{"r":1}`), ReportedVersion: 9}
		ok(t, s.Create(ctx, device("d"), want))
		same(t, "created", must(s.Twin(ctx, id))(t), want)
		want.Version, want.Desired, want.Reported, want.ModelID = 2, raw(verbatim), raw(`{"x":0.10000000000000000001}`), ""
		same(t, "returned", must(s.UpdateTwin(ctx, id, func(twin.Twin) (twin.Twin, error) {
			w := want
			w.ID.Device = "other"
			return w, nil
		}))(t), want)
		same(t, "stored", must(s.Twin(ctx, id))(t), want)
	})

	t.Run("nil trees read as empty objects", func(t *testing.T) {
		s, ctx := open(t), t.Context()
		create(t, s, "d")
		id := iot.ID{Device: "d"}
		want := twin.Twin{ID: id, Version: 1, Tags: raw(`{}`), Desired: raw(`{}`), DesiredMetadata: raw(`{}`),
			DesiredVersion: 1, Reported: raw(`{}`), ReportedMetadata: raw(`{}`), ReportedVersion: 1}
		same(t, "created", must(s.Twin(ctx, id))(t), want)
		same(t, "updated", must(s.UpdateTwin(ctx, id, func(tw twin.Twin) (twin.Twin, error) {
			tw.Tags, tw.Desired, tw.DesiredMetadata, tw.Reported, tw.ReportedMetadata = nil, nil, nil, nil, nil
			return tw, nil
		}))(t), want)
		same(t, "stored", must(s.Twin(ctx, id))(t), want)
	})

	t.Run("a stale version changes nothing", func(t *testing.T) {
		s, ctx := open(t), t.Context()
		create(t, s, "d")
		id := iot.ID{Device: "d"}
		before := must(s.Twin(ctx, id))(t)
		got, err := s.UpdateTwin(ctx, id, func(tw twin.Twin) (twin.Twin, error) {
			tw.Tags = raw(`{"changed":true}`)
			return tw, fault.New(fault.PreconditionFailed, "version %d", tw.Version)
		})
		wantKind(t, "update", err, fault.PreconditionFailed)
		same(t, "returned with an error", got, twin.Twin{})
		_, err = s.UpdateTwin(ctx, id, func(tw twin.Twin) (twin.Twin, error) { return tw, errNo })
		wantNo(t, "update", err)
		same(t, "stored", must(s.Twin(ctx, id))(t), before)
	})

	t.Run("no identity, no twin", func(t *testing.T) {
		s, ctx := open(t), t.Context()
		_, err := s.Twin(ctx, iot.ID{Device: "none"})
		wantKind(t, "read", err, fault.NotFound)
		_, err = s.UpdateTwin(ctx, iot.ID{Device: "none"}, func(tw twin.Twin) (twin.Twin, error) { return tw, nil })
		wantKind(t, "update", err, fault.NotFound)
	})

	t.Run("modules have their own twin", func(t *testing.T) {
		s, ctx := open(t), t.Context()
		create(t, s, "d")
		ok(t, s.Create(ctx, module("d", "m"), twin.Twin{Version: 5}))
		must(s.UpdateTwin(ctx, iot.ID{Device: "d", Module: "m"}, func(tw twin.Twin) (twin.Twin, error) {
			tw.Version++
			return tw, nil
		}))(t)
		if d, m := must(s.Twin(ctx, iot.ID{Device: "d"}))(t).Version, must(s.Twin(ctx, iot.ID{Device: "d", Module: "m"}))(t).Version; d != 1 || m != 6 {
			t.Errorf("got versions %d and %d, want 1 and 6", d, m)
		}
	})

	t.Run("concurrent updates of one twin lose nothing", func(t *testing.T) {
		s, ctx := open(t), t.Context()
		create(t, s, "d")
		id := iot.ID{Device: "d"}
		const writers, each = 50, 4
		parallel(t, writers, func(int) error {
			for range each {
				if _, err := s.UpdateTwin(ctx, id, func(tw twin.Twin) (twin.Twin, error) {
					tw.Version++
					return tw, nil
				}); err != nil {
					return err
				}
			}
			return nil
		})
		if got := must(s.Twin(ctx, id))(t).Version; got != 1+writers*each {
			t.Errorf("got version %d, want %d", got, 1+writers*each)
		}
	})
}
