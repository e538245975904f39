package mqtt_test

import (
	"encoding/json"
	"fmt"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/vauban-iot/vauban/fault"
	"github.com/vauban-iot/vauban/head/mqtt"
	"github.com/vauban-iot/vauban/head/mqtt/mqtttest"
	"github.com/vauban-iot/vauban/hub/hubtest"
	"github.com/vauban-iot/vauban/hub/throttle"
	"github.com/vauban-iot/vauban/internal/conform"
	"github.com/vauban-iot/vauban/iot"
	wire "github.com/vauban-iot/vauban/wire/mqtt"
)

// throttled is a connected device of a hub with limits, in a bubble.
func throttled(t *testing.T, id iot.ID, limits string) (*hubtest.World, *bubble, *mqtttest.Client) {
	t.Helper()
	w := hubtest.New(t, hubtest.Options{Memory: true})
	d := w.Device(t, id)
	b := newBubble(t, w.Hub)
	c := b.dial()
	if _, code := c.Connect(hello(d.ID, w.Token(d))); code != 0 {
		t.Fatalf("CONNACK %d", code)
	}
	l, err := throttle.Parse([]byte(`{"limits":{` + limits + `}}`))
	if err != nil {
		t.Fatal(err)
	}
	w.Throttle.Set(l)
	return w, b, c
}

// A device that asks too often: its twin calls and its telemetry.
func TestThrottle_Device(t *testing.T) {
	t.Parallel()
	conform.Covers(t, "HD-106")
	t.Run("twin calls get 429", throttledTwin)
	t.Run("telemetry is delayed, then the device is dropped", throttledTelemetry)
}

func throttledTwin(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		_, b, c := throttled(t, newID(), `"twinReads":"2/s","twinUpdates":"1/min"`)
		c.Subscribe(0, "$iothub/twin/res/#")
		begin := time.Now()
		for i := range 6 {
			c.Publish0(fmt.Sprintf("$iothub/twin/GET/?$rid=%d", i), nil)
		}
		// Two at once; then one every half second, for those whose turn comes within a second of their asking.
		for i, want := range []time.Duration{0, 0, 500, 1000, 1500, 2000} {
			p := c.NextPublish()
			if topic := fmt.Sprintf("$iothub/twin/res/200/?$rid=%d", i); string(p.Topic) != topic || time.Since(begin) != want*time.Millisecond {
				t.Errorf("read %d: %s after %v, want 200 after %v", i, p.Topic, time.Since(begin), want*time.Millisecond)
			}
		}
		c.Publish0("$iothub/twin/PATCH/properties/reported/?$rid=a", []byte(`{"x":1}`))
		if p := c.NextPublish(); !strings.HasPrefix(string(p.Topic), "$iothub/twin/res/204/?$rid=a") {
			t.Errorf("the first update: %s", p.Topic)
		}
		c.Publish0("$iothub/twin/PATCH/properties/reported/?$rid=b", []byte(`{"x":2}`))
		p := c.NextPublish()
		var e struct {
			ErrorCode    int
			TrackingID   string
			Message      string
			TimestampUTC string
		}
		if err := json.Unmarshal(p.Payload, &e); err != nil || string(p.Topic) != "$iothub/twin/res/429/?$rid=b" || e.ErrorCode != 429001 || e.Message == "" || e.TrackingID == "" {
			t.Errorf("the second update: %s %s, want 429 with error JSON", p.Topic, p.Payload)
		}
		c.Publish0("$iothub/twin/GET/?$rid=c", nil) // the connection stands
		if p := c.NextPublish(); string(p.Topic) != "$iothub/twin/res/200/?$rid=c" {
			t.Errorf("a read after a refused update: %s", p.Topic)
		}
		c.Disconnect()
		b.stop()
	})
}

// Telemetry beyond the limit is acknowledged later and later, in its order; beyond the backlog the device is dropped, and what was
// accepted is on the log once.
func throttledTelemetry(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		id := newID()
		w, b, c := throttled(t, id, `"telemetry":"2/s"`)
		begin := time.Now()
		send := func(i int) {
			c.Send(wire.AppendPublish(nil, &wire.Publish{QoS: 1, PacketID: uint16(i + 1), Topic: []byte(events(id)), Payload: []byte{byte(i)}}))
		}
		for i := range 8 {
			send(i)
		}
		c.Send([]byte{0xc0, 0}) // a ping behind them is answered at once: the connection is not held up
		pong := false
		for i, want := range []time.Duration{0, 0, 500, 1000, 1500, 2000, 2500, 3000} {
			packet := c.Next()
			for packet[0] == 0xd0 {
				if time.Since(begin) >= 500*time.Millisecond {
					t.Errorf("the ping was answered after %v", time.Since(begin))
				}
				pong = true
				packet = c.Next()
			}
			if packet[0] != 0x40 || int(packet[3]) != i+1 || (time.Since(begin)-want*time.Millisecond).Abs() > time.Millisecond {
				t.Errorf("packet % x after %v, want the PUBACK of %d after %v", packet, time.Since(begin), i+1, want*time.Millisecond)
			}
		}
		if !pong {
			t.Error("the ping was not answered")
		}
		time.Sleep(time.Minute)
		for i := range 12 { // a burst of 2, and 10 in the 5 seconds of the backlog
			send(i)
		}
		send(12) // one more
		acks := 0
		for packet, ok := c.Try(); ok; packet, ok = c.Try() {
			if packet[0] == 0x40 {
				acks++
			}
		}
		if acks >= 12 {
			t.Errorf("%d messages were acknowledged before the device was dropped", acks)
		}
		b.stop()
		if lines := b.log.Lines(0, "connection closed"); len(lines) != 1 || lines[0].Attr("kind") != fault.Throttled.String() {
			t.Errorf("the close is logged as %v", lines)
		}
		ms := w.Messages(t, id, 20)
		if len(ms) != 20 {
			t.Errorf("%d messages are on the log, want 8 and 12", len(ms))
		}
		for i, m := range ms {
			want := i
			if i >= 8 {
				want = i - 8
			}
			if int(m.Body[0]) != want {
				t.Errorf("message %d of the log is %d, want %d: the order is lost", i, m.Body[0], want)
			}
		}
	})
}

func TestThrottle_Connections(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		w, b, c := throttled(t, newID(), `"connections":"1/min"`)
		c.Disconnect()
		d := w.Device(t, newID())
		for i, want := range []byte{0, 3} {
			c := b.dial()
			if _, code := c.Connect(hello(d.ID, w.Token(d))); code != want {
				t.Errorf("connection %d: CONNACK %d, want %d", i+1, code, want)
			}
			c.Drop()
		}
		time.Sleep(time.Minute)
		c = b.dial()
		if _, code := c.Connect(hello(d.ID, w.Token(d))); code != 0 {
			t.Errorf("a minute later: CONNACK %d", code)
		}
		c.Disconnect()
		b.stop()
	})
}

// A device is let in, and dropped when it sends, once the messages of the day are used up.
func TestThrottle_Quota(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		id := newID()
		_, b, c := throttled(t, id, `"dailyMessages":"2/day"`)
		c.Publish(events(id), []byte("1"))
		c.Publish(events(id), []byte("2"))
		c.Send(wire.AppendPublish(nil, &wire.Publish{QoS: 1, PacketID: 9, Topic: []byte(events(id)), Payload: []byte("3")}))
		c.Closed()
		b.stop()
		if lines := b.log.Lines(0, "connection closed"); len(lines) != 1 || lines[0].Attr("kind") != fault.QuotaExceeded.String() {
			t.Errorf("the close is logged as %v", lines)
		}
	})
}

// A refused address gets CONNACK 5 and no hint, over TLS as over WebSocket; an admitted one is stamped with its rule, and a
// session ends when the rules change.
func TestAdmit(t *testing.T) {
	t.Parallel()
	s := start(t, hubtest.Options{})
	var refuse bool
	s.stopHead()
	admitted := func(remote string) (string, error) {
		if !strings.HasPrefix(remote, "127.0.0.1:") {
			t.Errorf("asked about %q", remote)
		}
		if refuse {
			return "", fault.New(fault.Unauthorized, "unauthorized")
		}
		return "loopback", nil
	}
	if err := s.serveWith("127.0.0.1:0", func(c *mqtt.Config) { c.Admit = admitted }); err != nil {
		t.Fatal(err)
	}
	d := s.device(t)
	c := s.connect(t, d)
	c.Publish(events(d.ID), []byte("x"))
	if m := s.Messages(t, d.ID, 1)[0]; m.AuthMethod != `{"scope":"device","type":"sas","issuer":"iothub","acceptingIpFilterRule":"loopback"}` {
		t.Errorf("stamped %s", m.AuthMethod)
	}
	s.head.Recheck()
	c.Publish(events(d.ID), []byte("y"))
	refuse = true
	s.refused(t, s.hello(d), 5)
	s.head.Recheck()
	c.Closed()
}
