package configuration_test

import (
	"fmt"
	"testing"

	"github.com/vauban-iot/vauban/hub/fleet/configuration"
	"github.com/vauban-iot/vauban/hub/hubtest"
	"github.com/vauban-iot/vauban/hub/twin"
	"github.com/vauban-iot/vauban/iot"
)

func TestRun_SurvivesRestart(t *testing.T) {
	w := hubtest.New(t, hubtest.Options{Memory: true})
	ctx := t.Context()
	id := iot.ID{Device: "d1"}
	w.Device(t, id)
	ch, err := configuration.Parse("c1", []byte(`{"targetCondition":"*","content":{"deviceContent":{"properties.desired.x":{"y":1}}}}`))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := w.CreateConfiguration(ctx, ch); err != nil {
		t.Fatal(err)
	}
	read := func(id iot.ID) twin.Twin {
		t.Helper()
		tw, err := w.Store.Twin(ctx, id)
		if err != nil {
			t.Fatal(err)
		}
		return tw
	}
	until := func(id iot.ID, want string) {
		t.Helper()
		hubtest.Until(t, fmt.Sprintf("%s to have %s", id, want), func() bool { return string(read(id).Desired) == want })
	}
	until(id, `{"x":{"y":1}}`)
	version := read(id).DesiredVersion

	w.Restart(t)
	other := iot.ID{Device: "d2"}
	w.Device(t, other)
	until(other, `{"x":{"y":1}}`) // so d1 was looked at as well
	if got := read(id).DesiredVersion; got != version {
		t.Errorf("desired version %d after the restart, want %d: nothing was to write", got, version)
	}

	// The last configuration goes while the hub is down: the next one cleans up.
	w.Close()
	w.Restart(t)
	if err := w.DeleteConfiguration(ctx, "c1", nil); err != nil {
		t.Fatal(err)
	}
	w.Restart(t)
	until(id, `{}`)
	until(other, `{}`)
	if tw := read(id); tw.Configurations != nil || tw.Configured != nil {
		t.Errorf("the twin remembers %s %s", tw.Configurations, tw.Configured)
	}
}
