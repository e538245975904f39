package mqtt_test

import (
	"bytes"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"testing"
	"time"

	paho "github.com/eclipse/paho.mqtt.golang"

	"github.com/vauban-iot/vauban/head/mqtt/mqtttest"
	"github.com/vauban-iot/vauban/hub/hubtest"
	"github.com/vauban-iot/vauban/hub/registry"
	"github.com/vauban-iot/vauban/internal/conform"
	"github.com/vauban-iot/vauban/pki"
	"github.com/vauban-iot/vauban/pki/pkitest"
	wire "github.com/vauban-iot/vauban/wire/mqtt"
)

// Most of what a WebSocket must do is in the tests that run overBoth; here is what it alone has.

func (s *server) dialSocket(t *testing.T, path string, certs ...tls.Certificate) *mqtttest.Client {
	t.Helper()
	return mqtttest.DialWebSocket(t, s.web, path, "mqtt", &tls.Config{RootCAs: s.roots, ServerName: hubtest.Host, Certificates: certs})
}

func TestSocket_QueryChangesNothing(t *testing.T) {
	t.Parallel()
	conform.Covers(t, "HD-6")
	cert := pkitest.SelfSigned(t, "whatever")
	one, _ := pki.Thumbprints(cert.Leaf)
	byKey := shared.device(t)
	byCert := shared.DeviceWith(t, newID(), registry.Authentication{Type: registry.SelfSigned, PrimaryThumbprint: one})
	for _, query := range []string{"", "?iothub-no-client-cert=true", "?iothub-no-client-cert=false", "?"} {
		for name, d := range map[string]registry.Identity{"key": byKey, "certificate": byCert} {
			h := hello(d.ID, "")
			if name == "key" {
				h = shared.hello(d)
			}
			c := shared.dialSocket(t, "/$iothub/websocket"+query, cert)
			if _, code := c.Connect(h); code != 0 {
				t.Errorf("query %q, device with a %s: CONNACK %d", query, name, code)
			}
			c.Publish(events(d.ID), []byte(query))
			c.Disconnect()
		}
		c := shared.dialSocket(t, "/$iothub/websocket"+query)
		if _, code := c.Connect(hello(byCert.ID, "")); code != 5 {
			t.Errorf("query %q, no certificate: CONNACK %d, want 5", query, code)
		}
		c.Closed()
	}
}

func TestSocket_FramesHaveNoMeaning(t *testing.T) {
	t.Parallel()
	conform.Covers(t, "HD-8")
	d := shared.device(t)
	body := bytes.Repeat([]byte("x"), 40<<10)
	h := shared.hello(d)
	var all []byte
	all = wire.AppendConnect(all, &h)
	all = wire.AppendSubscribe(all, 1, []wire.Subscription{{Filter: c2dFilter(d.ID), QoS: 1}})
	all = wire.AppendPublish(all, &wire.Publish{QoS: 1, PacketID: 2, Topic: []byte(events(d.ID)), Payload: []byte("small")})
	all = wire.AppendPublish(all, &wire.Publish{QoS: 1, PacketID: 3, Topic: []byte(events(d.ID)), Payload: body})
	all = wire.AppendPingreq(all)
	for i, size := range []int{1, 2, 7, 1000, len(all) / 2, len(all)} {
		c := shared.dialSocket(t, "/$iothub/websocket")
		for rest := all; len(rest) > 0; {
			n := min(size, len(rest))
			if len(rest) < len(all)-2000 && size < 1000 {
				n = min(4096+size, len(rest)) // the long body need not come byte by byte
			}
			c.Send(rest[:n]) // a frame each
			rest = rest[n:]
		}
		left := map[string]bool{
			string(wire.AppendConnack(nil, false, 0)): true, string(wire.AppendSuback(nil, 1, []byte{1})): true,
			string(wire.AppendPuback(nil, 2)): true, string(wire.AppendPuback(nil, 3)): true, string(wire.AppendPingresp(nil)): true,
		}
		for range 5 {
			got := string(c.Next())
			if !left[got] {
				t.Fatalf("frames of %d bytes: got %x, want one of the five answers", size, got)
			}
			delete(left, got)
		}
		ms := shared.Messages(t, d.ID, 2*(i+1))
		if string(ms[2*i].Body) != "small" || !bytes.Equal(ms[2*i+1].Body, body) {
			t.Errorf("frames of %d bytes: the messages arrived as %d and %d bytes", size, len(ms[2*i].Body), len(ms[2*i+1].Body))
		}
		c.Disconnect()
	}
}

func TestSocket_Provisioning(t *testing.T) {
	t.Parallel()
	conform.Covers(t, "DPS-1")
	p := startProvisioning(t)
	cfg := &tls.Config{RootCAs: p.roots, ServerName: hubtest.Host}
	socket := func(path, protocol string) func() *mqtttest.Client {
		return func() *mqtttest.Client { return mqtttest.DialWebSocket(t, p.web, path, protocol, cfg) }
	}
	for name, dial := range map[string]func() *mqtttest.Client{
		"tls": func() *mqtttest.Client { return mqtttest.Dial(t, p.address, cfg) },
		"hub": socket("/$iothub/websocket", "mqtt"), "hub-c": socket("/$iothub/websocket", "MQTT"),
		"root": socket("/", "mqtt"), "root-c": socket("/", "MQTT"),
	} {
		id := "reg-by-" + name
		p.enroll(t, id, "")
		c := dial()
		if present, code := c.Connect(p.hello(id)); code != 0 || present {
			t.Fatalf("%s: CONNACK %d, session present %v; want 0, false", name, code, present)
		}
		c.Subscribe(1, provisioningAnswers)
		c.Publish("$dps/registrations/PUT/iotdps-register/?$rid=1", []byte(`{"registrationId":"`+id+`"}`))
		status, _, body, _ := reply(t, c)
		if op, _ := body["operationId"].(string); status != "202" || op == "" {
			t.Errorf("register by %s: %s %v", name, status, body)
		}
		c.Disconnect()
	}
}

// At a stop devices on WebSockets are drained like others: what was accepted is acknowledged, and
// the connection ends in an orderly way.
func TestSocket_StopDrains(t *testing.T) {
	t.Parallel()
	s := start(t, hubtest.Options{})
	d := s.device(t)
	c := s.dialSocket(t, "/$iothub/websocket")
	if _, code := c.Connect(s.hello(d)); code != 0 {
		t.Fatalf("CONNACK %d", code)
	}
	silent := s.dialSocket(t, "/$iothub/websocket") // never sends its CONNECT
	const n = 500
	for i := range n {
		c.Send(wire.AppendPublish(nil, &wire.Publish{QoS: 1, PacketID: uint16(i + 1), Topic: []byte(events(d.ID)), Payload: []byte("x")}))
	}
	c.Expect(wire.AppendPuback(nil, 1))
	done := make(chan struct{})
	go func() {
		defer close(done)
		s.stopHead()
	}()
	acked := 1
	for {
		b, ok := c.Try()
		if !ok {
			break
		}
		acked++
		if !bytes.Equal(b, wire.AppendPuback(nil, uint16(acked))) {
			t.Fatalf("packet %d is %x, want PUBACK %d", acked, b, acked)
		}
	}
	if err := c.Drained(); !errors.Is(err, io.EOF) {
		t.Errorf("the connection ended with %v, want an orderly close", err)
	}
	if err := silent.Drained(); !errors.Is(err, io.EOF) {
		t.Errorf("the silent connection ended with %v, want an orderly close", err)
	}
	select {
	case <-done:
	case <-time.After(mqtttest.Patience):
		t.Fatal("the head did not stop")
	}
	s.Messages(t, d.ID, acked)
	// A head that stopped takes nobody.
	late := s.dialSocket(t, "/$iothub/websocket")
	if err := late.Drained(); err == nil {
		t.Error("a stopped head holds a connection")
	}
	s.stopHead = func() {}
}

// paho speaks WebSocket by a library of its own.
func TestSocket_Paho(t *testing.T) {
	t.Parallel()
	d := shared.device(t)
	mails := make(chan paho.Message, 1)
	opts := shared.paho(d).SetAutoReconnect(false)
	opts.Servers = nil
	opts.AddBroker("wss://" + shared.web + "/$iothub/websocket")
	c := paho.NewClient(opts)
	wait(t, c.Connect())
	wait(t, c.Subscribe(c2dFilter(d.ID), 1, func(_ paho.Client, m paho.Message) { mails <- m }))
	var pubs []paho.Token
	for i := range 100 {
		pubs = append(pubs, c.Publish(events(d.ID)+"n="+fmt.Sprint(i), 1, false, bytes.Repeat([]byte("x"), i*100)))
	}
	for _, p := range pubs {
		wait(t, p)
	}
	shared.Messages(t, d.ID, 100)
	shared.mail(t, d.ID, "hello")
	select {
	case m := <-mails:
		if string(m.Payload()) != "hello" {
			t.Errorf("got %q", m.Payload())
		}
	case <-time.After(mqtttest.Patience):
		t.Error("no message came")
	}
	shared.pending(t, d.ID, 0)
	c.Disconnect(100)
	shared.connected(t, d.ID, false)
}
