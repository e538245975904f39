package mqtt_test

import (
	"strings"
	"testing"

	"github.com/vauban-iot/vauban/hub/registry"
	wire "github.com/vauban-iot/vauban/wire/mqtt"
)

// What a client sees whose device is contained, and one that connects through a contained gateway.
func TestContainment(t *testing.T) { overBoth(t, testContainment) }

func testContainment(t *testing.T, shared *server) {
	t.Parallel()
	gateway := shared.edge(t)
	leaf := shared.leaf(t, gateway)
	name := gateway.device.ID.Device
	below := onBehalf(leaf.ID, shared.Token(gateway.hub), leaf.ID.Device, name)
	connect := func() (own, through interface{ Closed() }) {
		c := shared.connect(t, gateway.hub)
		l := shared.dial(t)
		if _, code := l.Connect(below); code != 0 {
			t.Fatalf("CONNACK %d", code)
		}
		return c, l
	}
	contain := func(level registry.Level) {
		t.Helper()
		if _, err := shared.Contain(t.Context(), name, level, "it scans", "ada"); err != nil {
			t.Fatal(err)
		}
	}
	own, through := connect()
	e, err := shared.ContainmentEffect(t.Context(), name, registry.TelemetryOnly)
	if err != nil || e.Below != 1 || e.BelowConnected != 1 || len(e.Sessions) != 1 || e.Sessions[0] != gateway.hub.ID.String() {
		t.Errorf("effect %+v, %v", e, err)
	}
	contain(registry.TelemetryOnly)
	own.Closed()
	through.Closed()

	// Both may come back. Telemetry is taken; the twin is refused as a disabled device's would be, with the reason.
	for _, h := range []struct {
		id    registry.Identity
		hello wire.Connect
	}{{gateway.hub, shared.hello(gateway.hub)}, {leaf, below}} {
		c := shared.dial(t)
		if _, code := c.Connect(h.hello); code != 0 {
			t.Fatalf("CONNACK %d", code)
		}
		c.Publish(events(h.id.ID), []byte("still here"))
		shared.Messages(t, h.id.ID, 1)
		c.Subscribe(0, twinAnswers)
		c.Publish0("$iothub/twin/GET/?$rid=1", nil)
		if p := c.NextPublish(); string(p.Topic) != "$iothub/twin/res/401/?$rid=1" || !strings.Contains(string(p.Payload), "contained") {
			t.Errorf("the twin is answered by %s %s", p.Topic, p.Payload)
		}
		c.Disconnect()
	}

	own, through = connect()
	contain(registry.Cut)
	own.Closed()
	through.Closed()
	shared.refused(t, shared.hello(gateway.hub), 3) // as a disabled device: it tries again
	shared.refused(t, below, 3)
	shared.accepted(t, shared.hello(leaf)) // by its own key: only the gateway is contained
	if _, err := shared.Uncontain(t.Context(), name, "ada"); err != nil {
		t.Fatal(err)
	}
	if _, err := shared.Contain(t.Context(), name, registry.Free, "", "ada"); err != nil {
		t.Fatal(err)
	}
	shared.accepted(t, shared.hello(gateway.hub))
	shared.accepted(t, below)
}
