package storagetest

import (
	"errors"
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/vauban-iot/vauban/fault"
	"github.com/vauban-iot/vauban/hub/registry"
	"github.com/vauban-iot/vauban/hub/twin"
	"github.com/vauban-iot/vauban/internal/secret"
	"github.com/vauban-iot/vauban/iot"
)

// Registry is what every registry.Store promises.
func Registry(t *testing.T, open Open) {
	t.Run("what is created comes back", func(t *testing.T) {
		s, ctx := open(t), t.Context()
		d := device("lamp-1")
		d.StatusTime = Start
		ok(t, s.Create(ctx, d, twin.Twin{ID: iot.ID{Device: "ignored"}}))
		d.StatusTime = kept(Start)
		same(t, "identity", must(s.Identity(ctx, d.ID))(t), d)
		same(t, "twin's id", must(s.Twin(ctx, d.ID))(t).ID, d.ID)

		bare := registry.Identity{ID: iot.ID{Device: "bare"}, Status: registry.Disabled, Authentication: registry.Authentication{Type: registry.CertificateAuthority}}
		ok(t, s.Create(ctx, bare, twin.Twin{}))
		same(t, "bare identity", must(s.Identity(ctx, bare.ID))(t), bare)

		_, err := s.Identity(ctx, iot.ID{Device: "LAMP-1"})
		wantKind(t, "an id in other case", err, fault.NotFound)
		wantKind(t, "create again", s.Create(ctx, d, twin.Twin{}), fault.AlreadyExists)
	})

	t.Run("times come back in UTC and zero stays zero", func(t *testing.T) {
		s, ctx := open(t), t.Context()
		d := device("d")
		d.StatusTime = Start.In(time.FixedZone("Tokyo", 9*3600))
		ok(t, s.Create(ctx, d, twin.Twin{}))
		got := must(s.Identity(ctx, d.ID))(t)
		if want := kept(Start); got.StatusTime != want || !got.LastActivity.IsZero() {
			t.Errorf("got status time %v and activity %v, want %v and zero", got.StatusTime, got.LastActivity, want)
		}
	})

	t.Run("of many creators one wins", func(t *testing.T) {
		s, ctx := open(t), t.Context()
		won := make([]bool, 16)
		parallel(t, len(won), func(i int) error {
			err := s.Create(ctx, device("d"), twin.Twin{})
			won[i] = err == nil
			if fault.Is(err, fault.AlreadyExists) {
				return nil
			}
			return err
		})
		n := 0
		for _, w := range won {
			if w {
				n++
			}
		}
		if n != 1 {
			t.Errorf("%d creators won, want 1", n)
		}
	})

	t.Run("an update writes all but presence and id", func(t *testing.T) {
		s, ctx := open(t), t.Context()
		create(t, s, "d", "other")
		id := iot.ID{Device: "d"}
		yes := true
		ok(t, s.SetPresence(ctx, []registry.Presence{{ID: id, Connected: &yes, Time: Start, Activity: Start}}))
		want := device("d")
		want.Connected, want.ConnectionTime, want.LastActivity = true, kept(Start), kept(Start)
		same(t, "before", must(s.Identity(ctx, id))(t), want)
		change := func(d registry.Identity) (registry.Identity, error) {
			d.ETag, d.Status, d.StatusReason, d.StatusTime = "new", registry.Disabled, "", Start.Add(time.Hour)
			d.Authentication = registry.Authentication{Type: registry.SelfSigned, PrimaryThumbprint: "AA", SecondaryThumbprint: "BB", SecondaryKey: secret.New([]byte("k"))}
			d.Edge, d.Scope, d.ParentScopes, d.Generation = false, "", nil, "2"
			return d, nil
		}
		want, _ = change(want)
		want.StatusTime = kept(want.StatusTime)
		got := must(s.Update(ctx, id, func(d registry.Identity) (registry.Identity, error) {
			d, err := change(d)
			d.ID, d.Connected, d.ConnectionTime, d.LastActivity, d.Pending = iot.ID{Device: "other"}, false, time.Time{}, time.Time{}, 7
			return d, err
		}))(t)
		same(t, "returned", got, want)
		same(t, "stored", must(s.Identity(ctx, id))(t), want)
		same(t, "the other", must(s.Identity(ctx, iot.ID{Device: "other"}))(t), device("other"))
	})

	t.Run("a refused change leaves everything", func(t *testing.T) {
		s, ctx := open(t), t.Context()
		create(t, s, "d")
		id := iot.ID{Device: "d"}
		stale := iot.ParseMatch(`"stale"`)
		_, err := s.Update(ctx, id, func(d registry.Identity) (registry.Identity, error) {
			d.StatusReason = "changed"
			return d, stale.Check(d.ETag)
		})
		wantKind(t, "stale update", err, fault.PreconditionFailed)
		_, err = s.Update(ctx, id, func(d registry.Identity) (registry.Identity, error) { return d, errNo })
		wantNo(t, "update", err)
		err = s.Delete(ctx, id, func(d registry.Identity) error { return stale.Check(d.ETag) }, nil)
		wantKind(t, "stale delete", err, fault.PreconditionFailed)
		wantNo(t, "delete", s.Delete(ctx, id, func(registry.Identity) error { return errNo }, nil))
		same(t, "identity", must(s.Identity(ctx, id))(t), device("d"))

		_, err = s.Update(ctx, iot.ID{Device: "none"}, func(d registry.Identity) (registry.Identity, error) {
			t.Error("change ran for a missing device")
			return d, nil
		})
		wantKind(t, "update of a missing device", err, fault.NotFound)
		wantKind(t, "delete of a missing device", s.Delete(ctx, iot.ID{Device: "none"}, func(registry.Identity) error { return nil }, nil), fault.NotFound)
	})

	t.Run("a deleted device takes everything along", func(t *testing.T) {
		s, ctx := open(t), t.Context()
		create(t, s, "d", "d2")
		ids := []iot.ID{{Device: "d"}, {Device: "d", Module: "m1"}, {Device: "d", Module: "m2"}}
		fill := func() {
			for _, id := range ids {
				if id.Module != "" {
					ok(t, s.Create(ctx, module("d", id.Module), twin.Twin{}))
				}
				must(s.Enqueue(ctx, mail(id, "x"), 50, Start))(t)
				ok(t, s.SaveSession(ctx, id, []iot.Subscription{{Filter: "#", QoS: 1}}))
			}
		}
		fill()
		wantKind(t, "module of no device", s.Create(ctx, module("none", "m"), twin.Twin{}), fault.NotFound)
		ok(t, s.Delete(ctx, ids[2], func(registry.Identity) error { return nil }, nil))
		must(s.Identity(ctx, ids[0]))(t)
		must(s.Identity(ctx, ids[1]))(t)
		_, err := s.Identity(ctx, ids[2])
		wantKind(t, "the deleted module", err, fault.NotFound)

		ok(t, s.Delete(ctx, ids[0], func(registry.Identity) error { return nil }, nil))
		for _, id := range ids {
			_, err := s.Identity(ctx, id)
			wantKind(t, "identity "+id.String(), err, fault.NotFound)
			_, err = s.Twin(ctx, id)
			wantKind(t, "twin "+id.String(), err, fault.NotFound)
			if _, found, err := s.Session(ctx, id); found || err != nil {
				t.Errorf("session of %s: found %v, error %v; want none", id, found, err)
			}
			if got := must(s.Lock(ctx, id, 10, Start, Start.Add(time.Minute)))(t); len(got) > 0 {
				t.Errorf("%s still has mail: %v", id, got)
			}
		}
		same(t, "neighbour", must(s.Identity(ctx, iot.ID{Device: "d2"}))(t), device("d2"))

		// A device of the same name starts anew.
		create(t, s, "d")
		if d := must(s.Identity(ctx, ids[0]))(t); d.Pending != 0 {
			t.Errorf("a new device has %d pending messages", d.Pending)
		}
	})

	t.Run("modules below a device", func(t *testing.T) {
		s, ctx := open(t), t.Context()
		below := []registry.Identity{module("edge", registry.EdgeHub), module("edge", registry.EdgeAgent)}
		below[0].ManagedBy, below[0].Authentication = "iotEdge", registry.Authentication{Type: registry.None}
		ok(t, s.Create(ctx, device("edge"), twin.Twin{}, below...))
		create(t, s, "edge2", "edgd")
		ok(t, s.Create(ctx, module("edge2", "m"), twin.Twin{}))
		for _, m := range below {
			same(t, m.ID.String(), must(s.Identity(ctx, m.ID))(t), m)
			if got := must(s.Twin(ctx, m.ID))(t); got.ID != m.ID || got.DesiredVersion != 1 {
				t.Errorf("the twin of %v is %+v, want an empty one", m.ID, got)
			}
		}
		wantKind(t, "again", s.Create(ctx, device("edge"), twin.Twin{}, below...), fault.AlreadyExists)
		wantKind(t, "below a device that is there", s.Create(ctx, device("other"), twin.Twin{}, below...), fault.AlreadyExists)
		_, err := s.Identity(ctx, iot.ID{Device: "other"})
		wantKind(t, "the device of which a part was refused", err, fault.NotFound)

		a := module("edge", "a")
		a.ManagedBy = "somebody"
		ok(t, s.Create(ctx, a, twin.Twin{}))
		same(t, "modules", must(s.Modules(ctx, "edge"))(t), []registry.Identity{below[1], below[0], a})
		a.ManagedBy = ""
		must(s.Update(ctx, a.ID, func(registry.Identity) (registry.Identity, error) { return a, nil }))(t)
		same(t, "changed module", must(s.Identity(ctx, a.ID))(t), a)
		if got := must(s.Modules(ctx, "none"))(t); len(got) != 0 {
			t.Errorf("a device that is not there has modules %v", got)
		}
	})

	t.Run("of many modules at once so many are made", func(t *testing.T) {
		s, ctx := open(t), t.Context()
		ok(t, s.Create(ctx, device("d"), twin.Twin{}, module("d", registry.EdgeHub), module("d", registry.EdgeAgent)))
		refused := make([]bool, 2*registry.MaxModules)
		parallel(t, len(refused), func(i int) error {
			err := s.Create(ctx, module("d", fmt.Sprint("m", i)), twin.Twin{})
			refused[i] = errors.Is(err, registry.ErrTooManyModules)
			if refused[i] {
				return nil
			}
			return err
		})
		made := must(s.Modules(ctx, "d"))(t)
		if n := len(made) - 2; n != registry.MaxModules {
			t.Errorf("%d modules were made, want %d", n, registry.MaxModules)
		}
		wantKind(t, "one that is there", s.Create(ctx, made[5], twin.Twin{}), fault.AlreadyExists)
		ok(t, s.Delete(ctx, made[5].ID, func(registry.Identity) error { return nil }, nil))
		ok(t, s.Create(ctx, module("d", "instead"), twin.Twin{}))
	})

	t.Run("lists are pages in byte order, without modules", func(t *testing.T) {
		s, ctx := open(t), t.Context()
		var want []string
		for i := range 25 {
			want = append(want, fmt.Sprintf("dev-%02d", i))
		}
		want = append(want, awkward...)
		create(t, s, want...)
		slices.Sort(want)
		for _, id := range []string{"dev-03", "a", "%"} {
			ok(t, s.Create(ctx, module(id, "m"), twin.Twin{}))
		}
		var got []string
		after := ""
		for {
			page := must(s.List(ctx, after, 7))(t)
			for _, d := range page {
				same(t, "listed identity", d, device(d.ID.Device))
				got = append(got, d.ID.Device)
			}
			if len(page) < 7 {
				break
			}
			after = got[len(got)-1]
		}
		same(t, "ids", got, want)
	})

	t.Run("awkward ids are just ids", func(t *testing.T) {
		s, ctx := open(t), t.Context()
		create(t, s, awkward...)
		for _, id := range awkward {
			same(t, "identity", must(s.Identity(ctx, iot.ID{Device: id}))(t), device(id))
			ok(t, s.Delete(ctx, iot.ID{Device: id}, func(registry.Identity) error { return nil }, nil))
			_, err := s.Identity(ctx, iot.ID{Device: id})
			wantKind(t, "deleted "+id, err, fault.NotFound)
		}
		if left := must(s.Statistics(ctx))(t); left.Total != 0 {
			t.Errorf("%d devices are left, want none", left.Total)
		}
	})

	t.Run("broken text is refused", func(t *testing.T) {
		s, ctx := open(t), t.Context()
		for _, text := range []string{"\xff", "a\x00b"} {
			d := device("d")
			d.StatusReason = text
			wantKind(t, "create", s.Create(ctx, d, twin.Twin{}), fault.Invalid)
			_, err := s.Identity(ctx, iot.ID{Device: text})
			wantKind(t, "read", err, fault.Invalid)
		}
		_, err := s.Identity(ctx, iot.ID{Device: "d"})
		wantKind(t, "the refused device", err, fault.NotFound)
	})

	t.Run("presence", func(t *testing.T) {
		s, ctx := open(t), t.Context()
		yes, no := true, false
		var ps []registry.Presence
		for i := range 150 {
			id := fmt.Sprintf("d%03d", 149-i)
			create(t, s, id)
			ps = append(ps, registry.Presence{ID: iot.ID{Device: id}, Connected: &yes, Time: Start.Add(time.Duration(i) * time.Second), Activity: Start})
			ps = append(ps, registry.Presence{ID: iot.ID{Device: id, Module: "unknown"}, Connected: &yes, Time: Start})
		}
		ok(t, s.Create(ctx, module("d000", "m"), twin.Twin{}))
		ok(t, s.SetPresence(ctx, ps))
		for i := range 150 {
			d := must(s.Identity(ctx, ps[2*i].ID))(t)
			want := device(d.ID.Device)
			want.Connected, want.ConnectionTime, want.LastActivity = true, kept(ps[2*i].Time), kept(Start)
			same(t, "connected", d, want)
		}
		same(t, "statistics", must(s.Statistics(ctx))(t), registry.Statistics{Total: 150, Enabled: 150, Connected: 150})

		// Only activity; a batch in which the last word counts; older activity changes nothing.
		d0, d1, d2 := iot.ID{Device: "d000"}, iot.ID{Device: "d001"}, iot.ID{Device: "d002"}
		later := Start.Add(time.Hour)
		before := must(s.Identity(ctx, d0))(t)
		ok(t, s.SetPresence(ctx, []registry.Presence{
			{ID: d0, Activity: later},
			{ID: d1, Connected: &no, Time: later}, {ID: d1, Connected: &yes, Time: later.Add(1e9)}, {ID: d1, Activity: later},
			{ID: d2, Connected: &no, Time: later, Activity: Start.Add(-time.Hour)},
			{ID: iot.ID{Device: "d000", Module: "m"}, Connected: &yes, Time: later},
		}))
		before.LastActivity = kept(later)
		same(t, "activity only", must(s.Identity(ctx, d0))(t), before)
		if d := must(s.Identity(ctx, d1))(t); !d.Connected || d.ConnectionTime != kept(later.Add(1e9)) || d.LastActivity != kept(later) {
			t.Errorf("after two changes in one batch: %v %v %v", d.Connected, d.ConnectionTime, d.LastActivity)
		}
		if d := must(s.Identity(ctx, d2))(t); d.Connected || d.ConnectionTime != kept(later) || d.LastActivity != kept(Start) {
			t.Errorf("after a disconnect: %v %v %v", d.Connected, d.ConnectionTime, d.LastActivity)
		}
		ok(t, s.SetPresence(ctx, nil))

		ok(t, s.ResetPresence(ctx, "", later.Add(time.Hour), nil))
		same(t, "statistics after a reset", must(s.Statistics(ctx))(t), registry.Statistics{Total: 150, Enabled: 150})
		if d := must(s.Identity(ctx, d1))(t); d.Connected || d.ConnectionTime != kept(later.Add(time.Hour)) {
			t.Errorf("after a reset: %v %v", d.Connected, d.ConnectionTime)
		}
		if d := must(s.Identity(ctx, d2))(t); d.ConnectionTime != kept(later) {
			t.Errorf("a reset moved the time of a device that was not connected to %v", d.ConnectionTime)
		}
	})

	t.Run("presence of several nodes", func(t *testing.T) {
		s, ctx := open(t), t.Context()
		create(t, s, "d", "e")
		d, e := iot.ID{Device: "d"}, iot.ID{Device: "e"}
		yes, no := true, false
		set := func(ps ...registry.Presence) {
			t.Helper()
			ok(t, s.SetPresence(ctx, ps))
		}
		want := func(what string, id iot.ID, connected bool, at time.Time) {
			t.Helper()
			if got := must(s.Identity(ctx, id))(t); got.Connected != connected || got.ConnectionTime != kept(at) {
				t.Errorf("%s: connected %v since %v, want %v since %v", what, got.Connected, got.ConnectionTime, connected, kept(at))
			}
		}
		at := func(n int) time.Time { return Start.Add(time.Duration(n) * time.Minute) }
		set(registry.Presence{ID: d, Node: "a", Connected: &yes, Time: at(1)}, registry.Presence{ID: e, Node: "a", Connected: &yes, Time: at(1)})
		set(registry.Presence{ID: d, Node: "b", Connected: &yes, Time: at(2)})
		set(registry.Presence{ID: d, Node: "a", Connected: &no, Time: at(3)})
		want("the old node's disconnect", d, true, at(2))
		ok(t, s.ResetPresence(ctx, "a", at(4), nil))
		want("the other node starts anew", d, true, at(2))
		want("its own node starts anew", e, false, at(4))
		set(registry.Presence{ID: d, Node: "b", Connected: &no, Time: at(5)})
		want("the node's own disconnect", d, false, at(5))

		set(registry.Presence{ID: d, Node: "a", Connected: &yes, Time: at(6)}, registry.Presence{ID: e, Node: "b", Connected: &yes, Time: at(6)})
		same(t, "dead nodes at first", must(s.KeepNode(ctx, "a", at(10), at(9), nil))(t), []string(nil))
		same(t, "dead nodes while both live", must(s.KeepNode(ctx, "b", at(10), at(9), nil))(t), []string(nil))
		same(t, "dead nodes", must(s.KeepNode(ctx, "b", at(20), at(19), nil))(t), []string{"a"})
		want("a device of the dead node", d, false, at(20))
		want("a device of the living one", e, true, at(6))
		same(t, "dead nodes afterwards", must(s.KeepNode(ctx, "b", at(21), at(19), nil))(t), []string(nil))
	})

	t.Run("statistics count devices", func(t *testing.T) {
		s, ctx := open(t), t.Context()
		same(t, "empty", must(s.Statistics(ctx))(t), registry.Statistics{})
		create(t, s, "a", "b", "c")
		ok(t, s.Create(ctx, module("a", "m"), twin.Twin{}))
		must(s.Update(ctx, iot.ID{Device: "b"}, func(d registry.Identity) (registry.Identity, error) {
			d.Status = registry.Disabled
			return d, nil
		}))(t)
		same(t, "three", must(s.Statistics(ctx))(t), registry.Statistics{Total: 3, Enabled: 2, Disabled: 1})
	})
}
