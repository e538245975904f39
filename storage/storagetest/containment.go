package storagetest

import (
	"testing"
	"time"

	"github.com/vauban-iot/vauban/fault"
	"github.com/vauban-iot/vauban/hub/registry"
	"github.com/vauban-iot/vauban/hub/twin"
	"github.com/vauban-iot/vauban/iot"
)

// Containment is what every registry.Store promises about devices that are held back.
func Containment(t *testing.T, open Open) {
	s, ctx := open(t), t.Context()
	to := func(level registry.Level) func(registry.Containment) (registry.Containment, error) {
		return func(c registry.Containment) (registry.Containment, error) {
			return registry.Containment{Device: c.Device, Level: level, Reason: "why", By: "who", Since: Start, Before: &registry.Containment{Device: c.Device, Level: c.Level}}, nil
		}
	}
	_, err := s.Contain(ctx, "pump", to(registry.Cut))
	wantKind(t, "a device that is not there", err, fault.NotFound)
	_, err = s.Containment(ctx, "pump")
	wantKind(t, "that of a device that is not there", err, fault.NotFound)

	pump := device("pump")
	module := registry.Identity{ID: iot.ID{Device: "pump", Module: "m"}, Status: registry.Enabled, Authentication: pump.Authentication}
	ok(t, s.Create(ctx, pump, twin.Twin{}, module))
	ok(t, s.Create(ctx, device("fan"), twin.Twin{}))
	same(t, "of a new device", must(s.Containment(ctx, "pump"))(t), registry.Containment{Device: "pump"})

	want := registry.Containment{Device: "pump", Level: registry.Cut, Reason: "why", By: "who", Since: kept(Start), Before: &registry.Containment{Device: "pump"}}
	given := must(s.Contain(ctx, "pump", to(registry.Cut)))(t)
	given.Since = kept(given.Since)
	same(t, "as given back", given, want)
	same(t, "as kept", must(s.Containment(ctx, "pump"))(t), want)
	for _, id := range []iot.ID{pump.ID, module.ID} {
		if d := must(s.Identity(ctx, id))(t); d.Containment != registry.Cut {
			t.Errorf("the identity %s has the level %s", id, d.Containment)
		}
	}
	must(s.Contain(ctx, "fan", to(registry.Observe)))(t)
	names := func(after string, limit int) (names []string) {
		for _, c := range must(s.Contained(ctx, after, limit))(t) {
			names = append(names, c.Device)
		}
		return names
	}
	same(t, "all", names("", 9), []string{"fan", "pump"})
	same(t, "a page", names("fan", 9), []string{"pump"})
	same(t, "one", names("", 1), []string{"fan"})
	must(s.Contain(ctx, "fan", to(registry.Free)))(t)
	same(t, "without those released", names("", 9), []string{"pump"})
	if c := must(s.Containment(ctx, "fan"))(t); c.Before == nil || c.Before.Level != registry.Observe {
		t.Errorf("a release remembers %+v", c.Before)
	}

	_, err = s.Contain(ctx, "pump", func(registry.Containment) (registry.Containment, error) {
		return registry.Containment{}, fault.New(fault.PreconditionFailed, "no")
	})
	wantKind(t, "a change that is refused", err, fault.PreconditionFailed)
	same(t, "after it", must(s.Containment(ctx, "pump"))(t), want)

	// It is not written with the identity, and stays when the device goes.
	must(s.Update(ctx, pump.ID, func(d registry.Identity) (registry.Identity, error) {
		d.Containment, d.StatusReason, d.StatusTime = registry.Free, "changed", Start.Add(time.Hour)
		return d, nil
	}))(t)
	if d := must(s.Identity(ctx, pump.ID))(t); d.Containment != registry.Cut {
		t.Errorf("an update of the identity left the level %s", d.Containment)
	}
	remove := func(device string) { // in both ways
		if device == "pump" {
			ok(t, s.Delete(ctx, pump.ID, func(registry.Identity) error { return nil }, nil))
		} else {
			ok(t, s.ChangeDevices(ctx, []string{device}, func(rs []registry.Record) { rs[0].Write = registry.Remove }))
		}
		_, err := s.Identity(ctx, iot.ID{Device: device})
		wantKind(t, "the identity of "+device, err, fault.NotFound)
	}
	remove("pump")
	same(t, "of the deleted device", must(s.Containment(ctx, "pump"))(t), want)
	same(t, "all, with it", names("", 9), []string{"pump"})
	ok(t, s.Create(ctx, pump, twin.Twin{}))
	same(t, "of the device made anew", must(s.Containment(ctx, "pump"))(t), want)
	if d := must(s.Identity(ctx, pump.ID))(t); d.Containment != registry.Cut {
		t.Errorf("the device made anew has the level %s", d.Containment)
	}
	// One that is lifted while the device is away leaves nothing, and neither does one that holds nothing back.
	must(s.Contain(ctx, "fan", to(registry.TelemetryOnly)))(t)
	remove("pump")
	remove("fan")
	same(t, "all, without devices", names("", 9), []string{"fan", "pump"})
	must(s.Contain(ctx, "fan", to(registry.Observe)))(t)
	if c := must(s.Containment(ctx, "fan"))(t); c.Level != registry.Observe {
		t.Errorf("changed while the device is away: %+v", c)
	}
	for _, device := range []string{"fan", "pump"} {
		must(s.Contain(ctx, device, to(registry.Free)))(t)
		_, err = s.Containment(ctx, device)
		wantKind(t, "lifted while the device is away", err, fault.NotFound)
		_, err = s.Contain(ctx, device, to(registry.Cut))
		wantKind(t, "contained again while it is away", err, fault.NotFound)
	}
	for _, device := range []string{"fan", "pump"} {
		ok(t, s.Create(ctx, registry.Identity{ID: iot.ID{Device: device}, Status: registry.Enabled, Authentication: pump.Authentication}, twin.Twin{}))
		must(s.Contain(ctx, device, to(registry.Observe)))(t)
		must(s.Contain(ctx, device, to(registry.Free)))(t)
		remove(device)
		ok(t, s.Create(ctx, registry.Identity{ID: iot.ID{Device: device}, Status: registry.Enabled, Authentication: pump.Authentication}, twin.Twin{}))
		same(t, "the past of "+device, must(s.Containment(ctx, device))(t), registry.Containment{Device: device})
	}
}
