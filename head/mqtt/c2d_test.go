package mqtt_test

import (
	"fmt"
	"log/slog"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/vauban-iot/vauban/fault"
	"github.com/vauban-iot/vauban/hub/hubtest"
	"github.com/vauban-iot/vauban/internal/conform"
	"github.com/vauban-iot/vauban/iot"
	"github.com/vauban-iot/vauban/wire/bag"
	wire "github.com/vauban-iot/vauban/wire/mqtt"
)

func TestC2D_Topic(t *testing.T) { overBoth(t, testC2D_Topic) }

func testC2D_Topic(t *testing.T, shared *server) {
	t.Parallel()
	conform.Covers(t, "HD-44", "HD-45", "HD-46")
	d := shared.device(t)
	c := shared.connect(t, d)
	c.Subscribe(1, c2dFilter(d.ID))
	at := time.Now().Add(time.Hour).UTC().Truncate(time.Second)
	whole := strings.ReplaceAll(at.Format("2006-01-02T15:04:05"), ":", "%3A") + ".0000000Z"
	part := strings.Replace(whole, ".0000000Z", ".1234560Z", 1)
	created := func(text string) []bag.Property {
		return []bag.Property{{Name: "iothub-creation-time-utc", Value: text}}
	}
	to := "&%24.to=%2Fdevices%2F" + d.ID.Device + "%2Fmessages%2Fdevicebound"
	for name, tc := range map[string]struct {
		mail iot.Mail
		bag  string
	}{
		"bare":     {iot.Mail{}, "%24.mid=m&%24.exp=" + whole + to},
		"fraction": {iot.Mail{Expires: at.Add(123456 * time.Microsecond)}, "%24.mid=m&%24.exp=" + part + to},
		"everything": {
			iot.Mail{
				MessageID: "m 1", Ack: "full",
				System: append(created("2026-02-03T04:05:06+01:00"),
					bag.Property{Name: "correlation-id", Value: "c"}, bag.Property{Name: "content-type", Value: "text/plain"}, bag.Property{Name: "user-id"}),
				Properties: []bag.Property{{Name: "a b", Value: "c/d&e=f+g"}, {Name: "empty"}, {Name: "null", Null: true}, {Name: "z", Value: "ü"}},
			},
			"%24.mid=m%201&%24.ctime=2026-02-03T03%3A05%3A06.0000000Z&%24.cid=c&%24.ct=text%2Fplain&%24.exp=" + whole + "&iothub-ack=full" +
				to + "&a%20b=c%2Fd%26e%3Df%2Bg&z=%C3%BC",
		},
		"ack none":               {iot.Mail{Ack: "none"}, "%24.mid=m&%24.exp=" + whole + to},
		"creation time unusable": {iot.Mail{System: created("yesterday")}, "%24.mid=m&%24.exp=" + whole + to},
		"creation time too fine": {iot.Mail{System: created("2026-02-03T04:05:06.123456789Z")}, "%24.mid=m&%24.ctime=2026-02-03T04%3A05%3A06.1234567Z&%24.exp=" + whole + to},
	} {
		tc.mail.To = d.ID
		if tc.mail.MessageID == "" {
			tc.mail.MessageID = "m"
		}
		if tc.mail.Expires.IsZero() {
			tc.mail.Expires = at
		}
		if _, err := shared.Send(t.Context(), tc.mail); err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		p := c.NextPublish()
		c.Send(wire.AppendPuback(nil, p.PacketID))
		if diff := cmp.Diff("devices/"+d.ID.Device+"/messages/devicebound/"+tc.bag, string(p.Topic)); diff != "" {
			t.Errorf("%s: topic differs (-want +got):\n%s", name, diff)
		}
	}
	c.Disconnect()
}

// Without a subscription nothing is delivered; with one the queue comes, ten at a time.
func TestC2D_Window(t *testing.T) { overBoth(t, testC2D_Window) }

func testC2D_Window(t *testing.T, shared *server) {
	t.Parallel()
	d := shared.device(t)
	c := shared.connect(t, d)
	const n = 25
	for i := range n {
		shared.mail(t, d.ID, fmt.Sprint(i))
	}
	c.Silent(30 * time.Millisecond)
	c.Subscribe(1, c2dFilter(d.ID))
	var waiting []uint16
	for i := range 10 {
		p := c.NextPublish()
		if string(p.Payload) != fmt.Sprint(i) || p.Dup {
			t.Fatalf("message %d: %q, DUP %v", i, p.Payload, p.Dup)
		}
		waiting = append(waiting, p.PacketID)
	}
	c.Silent(50 * time.Millisecond)
	// Acknowledged out of order, and an unknown id: both are fine.
	c.Send(wire.AppendPuback(wire.AppendPuback(nil, 60000), waiting[7]))
	waiting = append(waiting[:7], waiting[8:]...)
	for i := 10; i < n; i++ {
		p := c.NextPublish()
		if string(p.Payload) != fmt.Sprint(i) {
			t.Fatalf("got %q, want message %d", p.Payload, i)
		}
		c.Send(wire.AppendPuback(nil, p.PacketID))
	}
	for _, id := range waiting {
		c.Send(wire.AppendPuback(nil, id))
	}
	shared.pending(t, d.ID, 0)
	c.Disconnect()
}

// pending waits until n messages are in the queue of id.
func (s *server) pending(t *testing.T, id iot.ID, n int) {
	t.Helper()
	hubtest.Until(t, fmt.Sprintf("%d messages to wait for %v", n, id), func() bool {
		d, err := s.Hub.Device(t.Context(), id)
		return err == nil && d.Pending == n
	})
}

func TestC2D_Redelivery(t *testing.T) { overBoth(t, testC2D_Redelivery) }

func testC2D_Redelivery(t *testing.T, shared *server) {
	t.Parallel()
	conform.Covers(t, "HD-47")
	d := shared.device(t)
	c, _ := shared.resume(t, d)
	c.Subscribe(1, c2dFilter(d.ID))
	shared.mail(t, d.ID, "one")
	shared.mail(t, d.ID, "two")
	if p := c.NextPublish(); p.Dup {
		t.Error("the first delivery has DUP")
	}
	second := c.NextPublish()
	c.Send(wire.AppendPuback(nil, second.PacketID))
	shared.pending(t, d.ID, 1)
	c.Silent(50 * time.Millisecond) // not on the same connection
	c.Drop()
	shared.connected(t, d.ID, false)
	c, _ = shared.resume(t, d)
	if p := takeMail(t, c, "one"); !p.Dup {
		t.Error("the redelivery lacks DUP")
	}
	// Acknowledged messages are never seen again.
	shared.pending(t, d.ID, 0)
	c.Disconnect()
	c, _ = shared.resume(t, d)
	c.Silent(50 * time.Millisecond)
	c.Disconnect()
}

func TestC2D_QoS0(t *testing.T) { overBoth(t, testC2D_QoS0) }

func testC2D_QoS0(t *testing.T, shared *server) {
	t.Parallel()
	conform.Covers(t, "HD-49")
	d := shared.device(t)
	c, _ := shared.resume(t, d)
	c.Subscribe(0, c2dFilter(d.ID))
	shared.mail(t, d.ID, "once")
	if p := c.NextPublish(); string(p.Payload) != "once" || p.QoS != 0 || p.Dup {
		t.Errorf("got %+v, want QoS 0", p)
	}
	shared.pending(t, d.ID, 0)
	c.Drop()
	shared.connected(t, d.ID, false)
	c, _ = shared.resume(t, d)
	c.Silent(50 * time.Millisecond)
	c.Disconnect()
}

// The parts of HD-50 that need no feedback.
func TestC2D_QueueLimit(t *testing.T) { overBoth(t, testC2D_QueueLimit) }

func testC2D_QueueLimit(t *testing.T, shared *server) {
	t.Parallel()
	d := shared.device(t)
	send := func() error {
		_, err := shared.service.Do(t.Context(), "POST", "/devices/"+d.ID.Device+"/messages/deviceBound", "", nil, []byte("x"))
		return err
	}
	for range 50 {
		if err := send(); err != nil {
			t.Fatal(err)
		}
	}
	if e := serviceError(t, send()); e.Status != 403 || e.Code != "DeviceMaximumQueueDepthExceeded" {
		t.Errorf("the 51st message is answered %d %s, want 403 DeviceMaximumQueueDepthExceeded", e.Status, e.Code)
	}
	if _, err := shared.Send(t.Context(), iot.Mail{To: d.ID, Body: []byte("x")}); !fault.Is(err, fault.QueueFull) {
		t.Errorf("got %v, want queue full", err)
	}
}

func TestC2D_Expired(t *testing.T) {
	t.Parallel()
	s := start(t, hubtest.Options{})
	d := s.device(t)
	if _, err := s.Send(t.Context(), iot.Mail{To: d.ID, Body: []byte("stale"), Expires: s.Clock.Now().Add(time.Minute)}); err != nil {
		t.Fatal(err)
	}
	s.mail(t, d.ID, "fresh")
	s.Clock.Add(2 * time.Minute)
	c := s.connect(t, d)
	c.Subscribe(1, c2dFilter(d.ID))
	takeMail(t, c, "fresh")
	c.Silent(30 * time.Millisecond)
	c.Disconnect()
}

func TestC2D_RefusedToTheSender(t *testing.T) { overBoth(t, testC2D_RefusedToTheSender) }

func testC2D_RefusedToTheSender(t *testing.T, shared *server) {
	t.Parallel()
	d := shared.device(t)
	module := shared.Device(t, iot.ID{Device: d.ID.Device, Module: "m"})
	for name, tc := range map[string]struct {
		mail iot.Mail
		want fault.Kind
	}{
		"unknown device":      {iot.Mail{To: iot.ID{Device: "nobody"}}, fault.NotFound},
		"module":              {iot.Mail{To: module.ID}, fault.Invalid},
		"over 64 KB":          {iot.Mail{To: d.ID, Body: make([]byte, 64<<10+1)}, fault.TooLarge},
		"over 64 KB in all":   {iot.Mail{To: d.ID, Body: make([]byte, 64<<10-2), Properties: []bag.Property{{Name: "ab", Value: "c"}}}, fault.TooLarge},
		"over a topic's room": {iot.Mail{To: d.ID, Properties: []bag.Property{{Name: "k", Value: strings.Repeat("/", 21<<10)}}}, fault.TooLarge},
		"expired already":     {iot.Mail{To: d.ID, Expires: time.Now().Add(-time.Second)}, fault.Invalid},
		"unknown ack":         {iot.Mail{To: d.ID, Ack: "maybe"}, fault.Invalid},
	} {
		if _, err := shared.Send(t.Context(), tc.mail); !fault.Is(err, tc.want) {
			t.Errorf("%s: got %v, want kind %v", name, err, tc.want)
		}
	}
	// The largest that is allowed arrives whole.
	c := shared.connect(t, d)
	c.Subscribe(1, c2dFilter(d.ID))
	big := iot.Mail{To: d.ID, MessageID: "m", Body: make([]byte, 48<<10), Properties: []bag.Property{{Name: "k", Value: strings.Repeat("x", 15<<10)}}}
	if _, err := shared.Send(t.Context(), big); err != nil {
		t.Fatal(err)
	}
	if p := c.NextPublish(); len(p.Payload) != 48<<10 || !strings.HasSuffix(string(p.Topic), big.Properties[0].Value) {
		t.Errorf("got %d bytes on a topic of %d", len(p.Payload), len(p.Topic))
	}
	c.Disconnect()
	if lines := shared.Log.Lines(slog.LevelWarn, d.ID.Device); cmp.Diff(len(lines), 0) != "" {
		t.Errorf("warnings in the log: %v", lines)
	}
}
