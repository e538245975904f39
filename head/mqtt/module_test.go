package mqtt_test

import (
	"context"
	"encoding/json"
	"testing"
	"time"

	"github.com/vauban-iot/vauban/hub/command"
	"github.com/vauban-iot/vauban/hub/registry"
	"github.com/vauban-iot/vauban/iot"
	wire "github.com/vauban-iot/vauban/wire/mqtt"
)

// module creates one, with its device.
func (s *server) module(t *testing.T) registry.Identity {
	t.Helper()
	d := s.device(t)
	return s.Device(t, iot.ID{Device: d.ID.Device, Module: "filter"})
}

// What a device does on its connection, a module does on its own: both at once, and neither hears the other.
func TestModule_BesideItsDevice(t *testing.T) { overBoth(t, testModule_BesideItsDevice) }

func testModule_BesideItsDevice(t *testing.T, shared *server) {
	t.Parallel()
	m := shared.module(t)
	id := m.ID
	parent, err := shared.Hub.Device(t.Context(), iot.ID{Device: id.Device})
	if err != nil {
		t.Fatal(err)
	}
	device, module := shared.connect(t, parent), shared.connect(t, m)
	device.Subscribe(0, twinAnswers, desiredOnly, methods)
	module.Subscribe(0, twinAnswers, desiredOnly, methods)

	// Telemetry, with the output's name.
	module.Publish(events(id)+"%24.on=alerts&k=v/", []byte("hot"))
	module.Publish(events(id), []byte("plain"))
	ms := shared.Messages(t, id, 2)
	if ms[0].From != id || ms[0].SystemProperty("iothub-outputname") != "alerts" || string(ms[0].Body) != "hot" || len(ms[0].Properties) != 1 {
		t.Errorf("got %+v", ms[0])
	}
	if ms[1].SystemProperty("iothub-outputname") != "" || ms[1].Generation != m.Generation {
		t.Errorf("got %+v", ms[1])
	}

	// Twins: one each.
	report(t, module, 2, `{"of":"module"}`)
	report(t, device, 2, `{"of":"device"}`)
	if got, want := getTwin(t, module, "1"), `{"desired":{"$version":1},"reported":{"of":"module","$version":2}}`; got != want {
		t.Errorf("the module's twin is %s, want %s", got, want)
	}
	shared.desired(t, id, `{"for":"module"}`)
	if p := module.NextPublish(); string(p.Topic) != "$iothub/twin/PATCH/properties/desired/?$version=2" || string(p.Payload) != `{"for":"module","$version":2}` {
		t.Errorf("got %q %s", p.Topic, p.Payload)
	}

	// Methods.
	done := make(chan command.Result, 1)
	go func() {
		r, err := shared.Invoke(context.Background(), id, command.Method{Name: "reset", Payload: json.RawMessage(`{"a":1}`), ResponseTimeout: 10 * time.Second})
		if err != nil {
			t.Error(err)
		}
		done <- r
	}()
	rid, payload := call(t, module, "reset")
	if string(payload) != `{"a":1}` {
		t.Errorf("payload %s", payload)
	}
	module.Publish0(answer(201, rid), []byte(`"done"`))
	if r := <-done; r.Status != 201 || string(r.Payload) != `"done"` {
		t.Errorf("got %+v", r)
	}
	device.Silent(30 * time.Millisecond)

	shared.connected(t, id, true)
	shared.connected(t, parent.ID, true)
	module.Disconnect()
	shared.connected(t, id, false)
	shared.connected(t, parent.ID, true)
	// A module must not publish as its device, nor the other way round.
	module = shared.connect(t, m)
	module.Publish0(events(parent.ID), nil)
	module.Closed()
	device.Send(wire.AppendPublish(nil, &wire.Publish{Topic: []byte(events(id))}))
	device.Closed()
}

func TestModule_GoesWithItsDevice(t *testing.T) { overBoth(t, testModule_GoesWithItsDevice) }

func testModule_GoesWithItsDevice(t *testing.T, shared *server) {
	t.Parallel()
	m := shared.module(t)
	c := shared.connect(t, m)
	status := registry.Disabled
	if _, err := shared.UpdateDevice(t.Context(), iot.ID{Device: m.ID.Device}, nil, registry.Change{Status: &status}); err != nil {
		t.Fatal(err)
	}
	c.Closed()
	shared.refused(t, shared.hello(m), 3)
	status = registry.Enabled
	if _, err := shared.UpdateDevice(t.Context(), iot.ID{Device: m.ID.Device}, nil, registry.Change{Status: &status}); err != nil {
		t.Fatal(err)
	}
	c = shared.connect(t, m)
	if err := shared.DeleteDevice(t.Context(), iot.ID{Device: m.ID.Device}, nil); err != nil {
		t.Fatal(err)
	}
	c.Closed()
	shared.refused(t, shared.hello(m), 5)
}
