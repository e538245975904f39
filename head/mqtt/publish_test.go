package mqtt_test

import (
	"bytes"
	"fmt"
	"log/slog"
	"strings"
	"testing"
	"time"

	"github.com/vauban-iot/vauban/head/mqtt/mqtttest"
	"github.com/vauban-iot/vauban/internal/conform"
	"github.com/vauban-iot/vauban/wire/bag"
	wire "github.com/vauban-iot/vauban/wire/mqtt"
)

func property(ps []bag.Property, name string) (bag.Property, bool) {
	for _, p := range ps {
		if p.Name == name {
			return p, true
		}
	}
	return bag.Property{}, false
}

func TestPublish_QoS(t *testing.T) { overBoth(t, testPublish_QoS) }

func testPublish_QoS(t *testing.T, shared *server) {
	t.Parallel()
	conform.Covers(t, "HD-28")
	d := shared.device(t)
	c := shared.connect(t, d)
	c.Send(wire.AppendSubscribe(nil, 9, []wire.Subscription{
		{Filter: c2dFilter(d.ID), QoS: 2}, {Filter: "$iothub/methods/POST/#", QoS: 0}, {Filter: "$iothub/twin/res/#", QoS: 1},
	}))
	c.Expect([]byte{0x90, 5, 0, 9, 1, 0, 1})
	shared.mail(t, d.ID, "at QoS 1")
	takeMail(t, c, "at QoS 1")
	c.Send(wire.AppendPublish(nil, &wire.Publish{QoS: 2, PacketID: 10, Topic: []byte(events(d.ID)), Payload: []byte("x")}))
	c.Closed()
}

func TestPublish_SubackAndUnsuback(t *testing.T) { overBoth(t, testPublish_SubackAndUnsuback) }

func testPublish_SubackAndUnsuback(t *testing.T, shared *server) {
	t.Parallel()
	conform.Covers(t, "HD-29")
	d := shared.device(t)
	c := shared.connect(t, d)
	filters := []wire.Subscription{
		{Filter: c2dFilter(d.ID), QoS: 1}, {Filter: "$iothub/methods/POST/#", QoS: 0}, {Filter: "$iothub/twin/res/#", QoS: 2},
		{Filter: "$iothub/unknown/#", QoS: 0}, {Filter: "$iothub/twin/PATCH/properties/desired/#", QoS: 1},
	}
	c.Send(wire.AppendSubscribe(nil, 0x1234, filters))
	c.Expect([]byte{0x90, 7, 0x12, 0x34, 1, 0, 1, 0, 1})
	c.Send(wire.AppendUnsubscribe(nil, 0x4321, []string{c2dFilter(d.ID), "$iothub/twin/res/#"}))
	c.Expect([]byte{0xb0, 2, 0x43, 0x21})
	c.Disconnect()
}

func TestPublish_PlusFilterIsForTheCallerOnly(t *testing.T) {
	overBoth(t, testPublish_PlusFilterIsForTheCallerOnly)
}

func testPublish_PlusFilterIsForTheCallerOnly(t *testing.T, shared *server) {
	t.Parallel()
	conform.Covers(t, "HD-30")
	one, two := shared.device(t), shared.device(t)
	a, b := shared.connect(t, one), shared.connect(t, two)
	a.Subscribe(1, "devices/+/messages/devicebound/#")
	b.Subscribe(1, "devices/+/messages/devicebound/#")
	shared.mail(t, two.ID, "for two")
	if p := takeMail(t, b, "for two"); !strings.HasPrefix(string(p.Topic), "devices/"+two.ID.Device+"/messages/devicebound/") {
		t.Errorf("topic %q does not name the device", p.Topic)
	}
	shared.mail(t, one.ID, "for one")
	takeMail(t, a, "for one")
	a.Silent(30 * time.Millisecond)
	b.Silent(time.Millisecond)
	a.Disconnect()
	b.Disconnect()
}

// Each breach closes the connection, is one line in the log, and touches nobody else.
func TestPublish_BreachesCloseTheConnection(t *testing.T) {
	overBoth(t, testPublish_BreachesCloseTheConnection)
}

func testPublish_BreachesCloseTheConnection(t *testing.T, shared *server) {
	t.Parallel()
	conform.Covers(t, "HD-31")
	neighbour := shared.device(t)
	n := shared.connect(t, neighbour)
	other := shared.device(t).ID.Device
	publish := func(topic string) func(string) []byte {
		return func(string) []byte {
			return wire.AppendPublish(nil, &wire.Publish{QoS: 1, PacketID: 7, Topic: []byte(topic), Payload: []byte("forged")})
		}
	}
	subscribe := func(filter string) func(string) []byte {
		return func(string) []byte { return wire.AppendSubscribe(nil, 7, []wire.Subscription{{Filter: filter}}) }
	}
	for name, tc := range map[string]struct {
		packet func(own string) []byte
		kind   string
	}{
		"publish as another device":      {publish("devices/" + other + "/messages/events/"), "forbidden"},
		"publish as another's module":    {publish("devices/" + other + "/modules/m/messages/events/"), "forbidden"},
		"publish as a module of its own": {func(own string) []byte { return publish("devices/" + own + "/modules/m/messages/events/")(own) }, "forbidden"},
		"publish C2D to another":         {publish("devices/" + other + "/messages/devicebound/"), "invalid"},
		"subscribe to another's C2D":     {subscribe("devices/" + other + "/messages/devicebound/#"), "forbidden"},
		"subscribe to another's module":  {subscribe("devices/" + other + "/modules/m/#"), "forbidden"},
		"subscribe below another":        {subscribe("devices/" + other + "/#"), "forbidden"},
		"own telemetry in another case":  {func(own string) []byte { return publish("devices/" + strings.ToUpper(own) + "/messages/events/")(own) }, "forbidden"},
		"unknown topic":                  {publish("some/topic"), "invalid"},
		"unknown $iothub topic":          {publish("$iothub/nothing"), "invalid"},
		"desired topic":                  {publish("$iothub/twin/PATCH/properties/desired/?$version=1"), "invalid"},
		"twin GET without $rid":          {publish("$iothub/twin/GET/"), "invalid"},
		"twin PATCH without $rid":        {publish("$iothub/twin/PATCH/properties/reported/?$version=1"), "invalid"},
		"provisioning topic on a hub":    {publish("$dps/registrations/PUT/iotdps-register/?$rid=1"), "invalid"},
		"broken bag":                     {func(own string) []byte { return publish("devices/" + own + "/messages/events/a=%zz")(own) }, "malformed"},
		"malformed PUBLISH":              {func(string) []byte { return []byte{0x32, 3, 0, 9, 'x'} }, "malformed"},
		"PUBLISH with packet id 0":       {func(string) []byte { return []byte{0x32, 5, 0, 1, 'x', 0, 0} }, "malformed"},
		"PUBLISH with QoS 3":             {func(string) []byte { return []byte{0x36, 5, 0, 1, 'x', 0, 1} }, "malformed"},
		"SUBSCRIBE without a filter":     {func(string) []byte { return []byte{0x82, 2, 0, 1} }, "malformed"},
		"SUBSCRIBE with wrong flags":     {func(string) []byte { return []byte{0x80, 6, 0, 1, 0, 1, 'x', 0} }, "malformed"},
		"UNSUBSCRIBE without a filter":   {func(string) []byte { return []byte{0xa2, 2, 0, 1} }, "malformed"},
		"PUBACK of three bytes":          {func(string) []byte { return []byte{0x40, 3, 0, 1, 2} }, "malformed"},
		"reserved packet type":           {func(string) []byte { return []byte{0xf0, 0} }, "malformed"},
		"PINGRESP from a client":         {func(string) []byte { return []byte{0xd0, 0} }, "invalid"},
		"PUBREL from a client":           {func(string) []byte { return []byte{0x62, 2, 0, 1} }, "invalid"},
		"remaining length of five bytes": {func(string) []byte { return []byte{0x30, 0xff, 0xff, 0xff, 0xff, 0x7f} }, "malformed"},
		"packet of a quarter gigabyte":   {func(string) []byte { return []byte{0x30, 0xff, 0xff, 0xff, 0x7f} }, "malformed"},
		"topic that is not UTF-8":        {func(string) []byte { return []byte{0x30, 3, 0, 1, 0xff} }, "malformed"},
		"QoS 2":                          {func(string) []byte { return []byte{0x34, 5, 0, 1, 'x', 0, 1} }, "invalid"},
		"message one byte over the limit": {func(own string) []byte {
			return wire.AppendPublish(nil, &wire.Publish{QoS: 1, PacketID: 7, Topic: []byte("devices/" + own + "/messages/events/"), Payload: make([]byte, 262145)})
		}, "too large"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			d := shared.device(t)
			c := shared.connect(t, d)
			c.Publish(events(d.ID), []byte("sound"))
			c.TrySend(tc.packet(d.ID.Device))
			c.Closed()
			line := shared.oneLine(t, `device="`+d.ID.Device+`"`)
			if line.Attr("kind") != tc.kind || line.Level != slog.LevelInfo {
				t.Errorf("got %v line %s, want kind %q", line.Level, line.Text, tc.kind)
			}
			if ms := shared.Messages(t, d.ID, 1); len(ms) != 1 {
				t.Errorf("the log holds %d messages, want only the sound one", len(ms))
			}
			shared.connected(t, d.ID, false)
		})
	}
	t.Cleanup(func() { // when all of the above are over
		n.Publish(events(neighbour.ID), []byte("undisturbed"))
		shared.Messages(t, neighbour.ID, 1)
		n.Disconnect()
	})
}

func TestPublish_AcksInOrder(t *testing.T) { overBoth(t, testPublish_AcksInOrder) }

func testPublish_AcksInOrder(t *testing.T, shared *server) {
	t.Parallel()
	conform.Covers(t, "HD-32")
	d := shared.device(t)
	c := shared.connect(t, d)
	const n = 1000
	var b []byte
	for i := range n {
		b = wire.AppendPublish(b, &wire.Publish{QoS: 1, PacketID: uint16(i + 1), Topic: []byte(events(d.ID)), Payload: fmt.Append(nil, i)})
	}
	c.Send(b)
	for i := range n {
		c.Expect(wire.AppendPuback(nil, uint16(i+1)))
	}
	// Every one was on the log before its PUBACK, in order.
	ms := shared.Messages(t, d.ID, n)
	if len(ms) != n {
		t.Fatalf("%d messages in the log, want %d", len(ms), n)
	}
	for i, m := range ms {
		if string(m.Body) != fmt.Sprint(i) {
			t.Fatalf("message %d holds %q", i, m.Body)
		}
	}
	c.Disconnect()
}

func TestPublish_RequestsAtQoS1AreAcked(t *testing.T) {
	overBoth(t, testPublish_RequestsAtQoS1AreAcked)
}

func testPublish_RequestsAtQoS1AreAcked(t *testing.T, shared *server) {
	t.Parallel()
	conform.Covers(t, "HD-33")
	d := shared.device(t)
	c := shared.connect(t, d)
	c.Publish("$iothub/twin/GET/?$rid=1", nil)
	c.Publish("$iothub/twin/PATCH/properties/reported/?$rid=2", []byte(`{"a":1}`))
	c.Publish("$iothub/methods/res/200/?$rid=3", []byte(`{}`))
	c.Disconnect()
}

func TestPublish_RetainAndDup(t *testing.T) { overBoth(t, testPublish_RetainAndDup) }

func testPublish_RetainAndDup(t *testing.T, shared *server) {
	t.Parallel()
	conform.Covers(t, "HD-34")
	d := shared.device(t)
	c := shared.connect(t, d)
	for i, p := range []wire.Publish{{}, {Retain: true}, {Dup: true}, {Retain: true, Dup: true}} {
		p.QoS, p.PacketID, p.Topic, p.Payload = 1, uint16(i+1), []byte(events(d.ID)+"k=v"), []byte("x")
		c.Send(wire.AppendPublish(nil, &p))
		c.Expect(wire.AppendPuback(nil, uint16(i+1)))
	}
	for i, m := range shared.Messages(t, d.ID, 4) {
		r, retained := property(m.Properties, "mqtt-retain")
		if want := i == 1 || i == 3; retained != want || want && r.Value != "true" {
			t.Errorf("message %d: mqtt-retain %v %q, want %v", i, retained, r.Value, want)
		}
		dup, duplicated := property(m.Properties, "mqtt-dup")
		if want := i >= 2; duplicated != want || want && dup.Value != "true" {
			t.Errorf("message %d: mqtt-dup %v %q, want %v", i, duplicated, dup.Value, want)
		}
	}
	// Nothing is kept for those who subscribe later.
	c.Subscribe(1, "devices/"+d.ID.Device+"/messages/events/#", "devices/"+d.ID.Device+"/#", c2dFilter(d.ID), "#")
	c.Silent(50 * time.Millisecond)
	c.Disconnect()
}

func TestPublish_Will(t *testing.T) { overBoth(t, testPublish_Will) }

func testPublish_Will(t *testing.T, shared *server) {
	t.Parallel()
	conform.Covers(t, "HD-35")
	for _, tc := range []struct {
		name      string
		end       func(c *mqtttest.Client)
		published bool
	}{
		{"abrupt close", func(c *mqtttest.Client) {
			c.Drop()
		}, true},
		{"malformed packet", func(c *mqtttest.Client) {
			c.Send([]byte{0, 0})
		}, true},
		{"DISCONNECT", func(c *mqtttest.Client) {
			c.Disconnect()
		}, false},
	} {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			d := shared.device(t)
			h := shared.hello(d)
			h.Will = &wire.Will{Topic: events(d.ID) + "%24.ct=text%2Fplain&why=x", Payload: []byte("last words"), QoS: 1, Retain: true}
			c := shared.dial(t)
			if _, code := c.Connect(h); code != 0 {
				t.Fatal(code)
			}
			c.Publish(events(d.ID), []byte("first"))
			tc.end(c)
			shared.connected(t, d.ID, false)
			// Whatever the end brought is in the log before this one.
			c = shared.connect(t, d)
			c.Publish(events(d.ID), []byte("after"))
			c.Disconnect()
			want := 2
			if tc.published {
				want = 3
			}
			ms := shared.Messages(t, d.ID, want)
			if len(ms) != want {
				t.Fatalf("%d messages, want %d", len(ms), want)
			}
			if !tc.published {
				return
			}
			m := ms[1]
			kind, _ := property(m.Properties, "iothub-MessageType")
			why, _ := property(m.Properties, "why")
			retain, _ := property(m.Properties, "mqtt-retain")
			if string(m.Body) != "last words" || kind.Value != "Will" || why.Value != "x" || retain.Value != "true" || m.SystemProperty("content-type") != "text/plain" {
				t.Errorf("got body %q, system %v, properties %v", m.Body, m.System, m.Properties)
			}
		})
	}
}

func TestPublish_LargestMessage(t *testing.T) { overBoth(t, testPublish_LargestMessage) }

func testPublish_LargestMessage(t *testing.T, shared *server) {
	t.Parallel()
	conform.Covers(t, "HD-36")
	d := shared.device(t)
	c := shared.connect(t, d)
	body := bytes.Repeat([]byte{0xa5}, 262144)
	c.Publish(events(d.ID), body)
	if m := shared.Messages(t, d.ID, 1)[0]; !bytes.Equal(m.Body, body) {
		t.Errorf("the log holds %d bytes, want the 262144 sent", len(m.Body))
	}
	c.TrySend(wire.AppendPublish(nil, &wire.Publish{QoS: 1, PacketID: 99, Topic: []byte(events(d.ID)), Payload: append(body, 0)}))
	c.Closed()
	// Properties count, too.
	c = shared.connect(t, d)
	c.TrySend(wire.AppendPublish(nil, &wire.Publish{QoS: 1, PacketID: 99, Topic: []byte(events(d.ID) + "a=b"), Payload: body[:262143]}))
	c.Closed()
	c = shared.connect(t, d)
	c.Publish(events(d.ID)+"a=b", body[:262142])
	c.Disconnect()
	if ms := shared.Messages(t, d.ID, 2); len(ms) != 2 {
		t.Errorf("%d messages in the log, want 2", len(ms))
	}
}

// A message that is acknowledged is durable whatever happens to the connection in between.
func TestPublish_ManyDevicesAtOnce(t *testing.T) { overBoth(t, testPublish_ManyDevicesAtOnce) }

func testPublish_ManyDevicesAtOnce(t *testing.T, shared *server) {
	t.Parallel()
	const n, each = 30, 100
	for range n {
		t.Run("", func(t *testing.T) {
			t.Parallel()
			d := shared.device(t)
			c := shared.connect(t, d)
			var b []byte
			for i := range each {
				b = wire.AppendPublish(b, &wire.Publish{QoS: 1, PacketID: uint16(i + 1), Topic: []byte(events(d.ID)), Payload: fmt.Append(nil, i)})
			}
			// Cut anywhere: packets do not come in the pieces they were written in.
			for len(b) > 0 {
				k := min(len(b), 1+len(b)%97)
				c.Send(b[:k])
				b = b[k:]
			}
			for i := range each {
				c.Expect(wire.AppendPuback(nil, uint16(i+1)))
			}
			c.Disconnect()
			for i, m := range shared.Messages(t, d.ID, each) {
				if string(m.Body) != fmt.Sprint(i) {
					t.Fatalf("message %d holds %q", i, m.Body)
				}
			}
		})
	}
}
