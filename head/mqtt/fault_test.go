package mqtt_test

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"net"
	"net/http"
	"testing"
	"time"

	"github.com/vauban-iot/vauban/head/mqtt"
	"github.com/vauban-iot/vauban/head/mqtt/mqtttest"
	"github.com/vauban-iot/vauban/hub/hubtest"
	wire "github.com/vauban-iot/vauban/wire/mqtt"
)

// faulty is a head in front of the shared hub that misbehaves when asked to.
func faulty(t *testing.T) *server {
	t.Helper()
	s := &server{World: shared.World, roots: shared.roots, service: shared.service}
	log := &hubtest.Log{}
	head, err := mqtt.New(mqtt.Config{Core: shared.Hub, TLS: authority.DeviceTLS(), Logger: slog.New(log), FaultInjection: true})
	if err != nil {
		t.Fatal(err)
	}
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	s.address = ln.Addr().String()
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- head.Run(ctx, ln) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
	var stop func()
	if s.web, stop, err = serveWeb(func() *mqtt.Server { return head }, http.NotFoundHandler(), log); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(stop)
	return s
}

// What may be proven of HD-104 without AMQP: each fault that MQTT has. The message that asks is neither
// acknowledged nor stored.
func TestFaults(t *testing.T) {
	t.Parallel()
	s := faulty(t)
	sockets := *s
	sockets.sockets = true
	const property = "AzIoTHub_FaultOperation"
	ask := func(kind, reason string, more string) string {
		return property + "Type=" + kind + "&" + property + "CloseReason=" + reason + more
	}
	for name, s := range map[string]*server{"TLS": s, "WebSocket": &sockets} {
		t.Run(name, func(t *testing.T) {
			send := func(t *testing.T, c *mqtttest.Client, topic string) {
				t.Helper()
				c.Send(wire.AppendPublish(nil, &wire.Publish{QoS: 1, PacketID: c.ID(), Topic: []byte(topic), Payload: []byte("x")}))
			}
			for name, tc := range map[string]struct {
				bag     string
				orderly bool
			}{
				"KillTcp boom":        {ask("KillTcp", "boom", ""), false},
				"KillTcp byebye":      {ask("KillTcp", "byebye", ""), true},
				"ShutDownMqtt":        {ask("ShutDownMqtt", "byebye", ""), true},
				"KillTcp after while": {ask("KillTcp", "boom", "&"+property+"DelayInSecs=1&"+property+"DurationInSecs=5"), false},
			} {
				t.Run(name, func(t *testing.T) {
					t.Parallel()
					d := s.device(t)
					c := s.connect(t, d)
					c.Publish(events(d.ID), []byte("before"))
					began := time.Now()
					send(t, c, events(d.ID)+tc.bag)
					if name == "KillTcp after while" {
						c.Publish(events(d.ID), []byte("meanwhile"))
					}
					err := c.End()
					if errors.Is(err, io.EOF) != tc.orderly {
						t.Errorf("the connection ended with %v, want orderly: %v", err, tc.orderly)
					}
					want := 1
					if name == "KillTcp after while" {
						want = 2
						if time.Since(began) < time.Second {
							t.Error("the fault came too early")
						}
					}
					c = s.connect(t, d) // at once
					c.Publish(events(d.ID), []byte("after"))
					if ms := s.Messages(t, d.ID, want+1); len(ms) != want+1 || string(ms[want].Body) != "after" {
						t.Errorf("%d messages are stored, want %d", len(ms), want+1)
					}
					c.Disconnect()
				})
			}
			t.Run("InvokeAuthError", func(t *testing.T) {
				t.Parallel()
				d, other := s.device(t), s.device(t)
				c := s.connect(t, d)
				send(t, c, events(d.ID)+ask("InvokeAuthError", "boom", "&"+property+"DurationInSecs=1"))
				c.Drained()
				s.refused(t, s.hello(d), 5)
				s.accepted(t, s.hello(other))
				hubtest.Until(t, "the device to be let in again", func() bool {
					c := s.dial(t)
					_, code := c.Connect(s.hello(d))
					c.Drop()
					return code == 0
				})
			})
			for _, kind := range []string{"InvokeThrottling", "InvokeMaxMessageQuota"} {
				t.Run(kind, func(t *testing.T) {
					t.Parallel()
					d := s.device(t)
					c := s.connect(t, d)
					send(t, c, events(d.ID)+ask(kind, "boom", "&"+property+"DurationInSecs=1"))
					c.Drained()
					c = s.connect(t, d) // it may connect, but is severed when it sends
					send(t, c, events(d.ID))
					c.Drained()
					hubtest.Until(t, "a message to be taken again", func() bool {
						c := s.connect(t, d)
						defer c.Drop()
						id := c.ID()
						c.Send(wire.AppendPublish(nil, &wire.Publish{QoS: 1, PacketID: id, Topic: []byte(events(d.ID)), Payload: []byte("x")}))
						b, ok := c.Try()
						return ok && string(b) == string(wire.AppendPuback(nil, id))
					})
				})
			}
			t.Run("a fault of AMQP is an ordinary message", func(t *testing.T) {
				t.Parallel()
				d := s.device(t)
				c := s.connect(t, d)
				c.Publish(events(d.ID)+ask("KillAmqpConnection", "boom", ""), []byte("x"))
				s.Messages(t, d.ID, 1)
				c.Disconnect()
			})
		})
	}
	t.Run("without the switch a message is a message", func(t *testing.T) {
		t.Parallel()
		d := shared.device(t)
		c := shared.connect(t, d)
		c.Publish(events(d.ID)+ask("KillTcp", "boom", ""), []byte("x"))
		if m := shared.Messages(t, d.ID, 1)[0]; len(m.Properties) != 2 {
			t.Errorf("got %+v", m)
		}
		c.Disconnect()
	})
}
