package mqtt_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"testing"
	"time"

	"github.com/vauban-iot/vauban/fault"
	"github.com/vauban-iot/vauban/head/mqtt/mqtttest"
	"github.com/vauban-iot/vauban/hub/command"
	"github.com/vauban-iot/vauban/hub/hubtest"
	"github.com/vauban-iot/vauban/hub/registry"
	"github.com/vauban-iot/vauban/hub/twin"
	"github.com/vauban-iot/vauban/internal/conform"
	"github.com/vauban-iot/vauban/iot"
	wire "github.com/vauban-iot/vauban/wire/mqtt"
)

func c2dFilter(id iot.ID) string { return "devices/" + id.Device + "/messages/devicebound/#" }

// mail sends a cloud-to-device message.
func (s *server) mail(t *testing.T, id iot.ID, body string) {
	t.Helper()
	if _, err := s.Send(t.Context(), iot.Mail{To: id, Body: []byte(body)}); err != nil {
		t.Fatal(err)
	}
}

// takeMail expects a cloud-to-device message at QoS 1 and completes it.
func takeMail(t *testing.T, c *mqtttest.Client, body string) wire.Publish {
	t.Helper()
	p := c.NextPublish()
	if string(p.Payload) != body || p.QoS != 1 || p.PacketID == 0 {
		t.Fatalf("got %q at QoS %d with id %d, want %q at 1", p.Payload, p.QoS, p.PacketID, body)
	}
	c.Send(wire.AppendPuback(nil, p.PacketID))
	return p
}

// connected waits until the registry shows id connected, or not.
func (s *server) connected(t *testing.T, id iot.ID, want bool) {
	t.Helper()
	hubtest.Until(t, fmt.Sprintf("%v to be connected: %v", id, want), func() bool {
		d, err := s.Hub.Device(context.Background(), id)
		return err == nil && d.Connected == want
	})
}

func TestSession_SubscriptionsOutliveTheConnection(t *testing.T) {
	overBoth(t, testSession_SubscriptionsOutliveTheConnection)
}

func testSession_SubscriptionsOutliveTheConnection(t *testing.T, shared *server) {
	t.Parallel()
	conform.Covers(t, "HD-21", "HD-22")
	d := shared.device(t)
	c, present := shared.resume(t, d)
	if present {
		t.Error("the first connection reports a stored session")
	}
	c.Subscribe(1, c2dFilter(d.ID))
	c.Subscribe(0, "$iothub/methods/POST/#", "$iothub/twin/PATCH/properties/desired/#")
	c.Drop()
	shared.connected(t, d.ID, false)

	c, present = shared.resume(t, d)
	if !present {
		t.Error("the stored session is not reported")
	}
	shared.mail(t, d.ID, "one")
	takeMail(t, c, "one")
	if _, _, err := shared.PatchTwin(t.Context(), d.ID, nil, twin.Patch{HasDesired: true, Desired: []byte(`{"a":1}`)}); err != nil {
		t.Fatal(err)
	}
	if p := c.NextPublish(); string(p.Topic) != "$iothub/twin/PATCH/properties/desired/?$version=2" {
		t.Errorf("got %q, want the desired patch", p.Topic)
	}
	// What was unsubscribed stays so; the rest stays, too.
	id := c.ID()
	c.Send(wire.AppendUnsubscribe(nil, id, []string{"$iothub/twin/PATCH/properties/desired/#"}))
	c.Expect(wire.AppendUnsuback(nil, id))
	c.Disconnect()
	c, present = shared.resume(t, d)
	if !present {
		t.Error("the stored session is not reported after DISCONNECT")
	}
	if _, _, err := shared.PatchTwin(t.Context(), d.ID, nil, twin.Patch{HasDesired: true, Desired: []byte(`{"a":2}`)}); err != nil {
		t.Fatal(err)
	}
	c.Silent(50 * time.Millisecond)
	c.Disconnect()

	// Clean session 1 forgets it all, for good.
	c = shared.connect(t, d)
	shared.mail(t, d.ID, "two")
	c.Silent(50 * time.Millisecond)
	c.Subscribe(1, c2dFilter(d.ID))
	takeMail(t, c, "two")
	c.Disconnect()
	c, present = shared.resume(t, d)
	if present {
		t.Error("a session is reported that a clean one had deleted, or that a clean one left behind")
	}
	shared.mail(t, d.ID, "three")
	c.Silent(50 * time.Millisecond)
	c.Disconnect()
}

// One filter of two that mean the same goes; what they mean stays subscribed.
func TestSession_UnsubscribeOneSpelling(t *testing.T) {
	overBoth(t, testSession_UnsubscribeOneSpelling)
}

func testSession_UnsubscribeOneSpelling(t *testing.T, shared *server) {
	t.Parallel()
	d := shared.device(t)
	c := shared.connect(t, d)
	c.Subscribe(1, c2dFilter(d.ID), "devices/+/messages/devicebound/#")
	id := c.ID()
	c.Send(wire.AppendUnsubscribe(nil, id, []string{"devices/+/messages/devicebound/#", "never/subscribed"}))
	c.Expect(wire.AppendUnsuback(nil, id))
	shared.mail(t, d.ID, "still here")
	takeMail(t, c, "still here")
	id = c.ID()
	c.Send(wire.AppendUnsubscribe(nil, id, []string{c2dFilter(d.ID)}))
	c.Expect(wire.AppendUnsuback(nil, id))
	shared.mail(t, d.ID, "gone")
	c.Silent(50 * time.Millisecond)
	c.Disconnect()
}

func TestSession_Restart(t *testing.T) {
	t.Parallel()
	conform.Covers(t, "HD-23")
	s := start(t, hubtest.Options{})
	d, clean := s.device(t), s.device(t)
	c, _ := s.resume(t, d)
	c.Subscribe(1, c2dFilter(d.ID))
	c.Subscribe(0, "$iothub/methods/POST/#")
	forgetful := s.connect(t, clean)
	forgetful.Subscribe(1, c2dFilter(clean.ID))
	c.Publish(events(d.ID), []byte("before"))
	s.mail(t, d.ID, "taken, not acknowledged")
	c.NextPublish()
	s.restart(t)
	for _, c := range []*mqtttest.Client{c, forgetful} {
		if err := c.Drained(); !errors.Is(err, io.EOF) {
			t.Errorf("the stop ended a connection with %v, want a close_notify", err)
		}
	}
	if x, err := s.Hub.Device(t.Context(), d.ID); err != nil || x.Connected {
		t.Errorf("after the restart the device shows as connected (%v)", err)
	}

	c, present := s.resume(t, d)
	if !present {
		t.Fatal("the stored session was lost in the restart")
	}
	if p := takeMail(t, c, "taken, not acknowledged"); !p.Dup {
		t.Error("the message comes again without DUP")
	}
	go func() {
		s.Hub.Invoke(context.Background(), d.ID, command.Method{Name: "ping", ResponseTimeout: 5 * time.Second})
	}()
	if p := c.NextPublish(); !strings.HasPrefix(string(p.Topic), "$iothub/methods/POST/ping/?$rid=") {
		t.Errorf("got %q, want the method", p.Topic)
	}
	c.Disconnect()
	if c, present = s.resume(t, clean); present {
		t.Error("a clean session is reported after the restart")
	}
	c.Disconnect()
	s.Messages(t, d.ID, 1)
}

// What may be proven of HD-103 without AMQP and the SDKs: devices see close_notify, what they
// sent is on disk and acknowledged, and they come back.
func TestSession_StopDrains(t *testing.T) {
	t.Parallel()
	s := start(t, hubtest.Options{})
	const n = 20
	var ds []registry.Identity
	var cs []*mqtttest.Client
	for range n {
		d := s.device(t)
		c := s.connect(t, d)
		var b []byte
		for i := range 50 {
			b = wire.AppendPublish(b, &wire.Publish{QoS: 1, PacketID: uint16(i + 1), Topic: []byte(events(d.ID)), Payload: fmt.Append(nil, i)})
		}
		c.Send(b)
		ds, cs = append(ds, d), append(cs, c)
	}
	s.restart(t)
	for i, c := range cs {
		acked := 0
		for ; ; acked++ {
			b, ok := c.Try()
			if !ok {
				break
			}
			if want := wire.AppendPuback(nil, uint16(acked+1)); string(b) != string(want) {
				t.Fatalf("device %d: packet %x, want %x", i, b, want)
			}
		}
		if err := c.Drained(); !errors.Is(err, io.EOF) {
			t.Errorf("device %d: the stop ended the connection with %v, want a close_notify", i, err)
		}
		for j, m := range s.Messages(t, ds[i].ID, acked) {
			if string(m.Body) != fmt.Sprint(j) {
				t.Errorf("device %d: message %d holds %q", i, j, m.Body)
			}
		}
		s.connect(t, ds[i]).Disconnect()
	}
}

func TestSession_Takeover(t *testing.T) { overBoth(t, testSession_Takeover) }

func testSession_Takeover(t *testing.T, shared *server) {
	t.Parallel()
	conform.Covers(t, "HD-26")
	d := shared.device(t)
	h := shared.hello(d)
	h.Will = &wire.Will{Topic: events(d.ID) + "why=gone", Payload: []byte("last words")}
	old := shared.dial(t)
	if _, code := old.Connect(h); code != 0 {
		t.Fatal(code)
	}
	begin := time.Now()
	c := shared.connect(t, d)
	old.Closed()
	if took := time.Since(begin); took > time.Second {
		t.Errorf("the old connection was closed after %v, want at most 1 s", took)
	}
	m := shared.Messages(t, d.ID, 1)[0]
	if string(m.Body) != "last words" {
		t.Errorf("got message %q, want the will", m.Body)
	}
	c.Publish(events(d.ID), []byte("the new one lives"))
	shared.connected(t, d.ID, true)
	line := shared.oneLine(t, `device="`+d.ID.Device+`"`)
	if !strings.Contains(line.Text, "connected again") {
		t.Errorf("got line %s, want it to name the takeover", line.Text)
	}
	c.Disconnect()
}

// A message the old connection had not acknowledged belongs to the new one, at once.
func TestSession_TakeoverRedelivers(t *testing.T) { overBoth(t, testSession_TakeoverRedelivers) }

func testSession_TakeoverRedelivers(t *testing.T, shared *server) {
	t.Parallel()
	d := shared.device(t)
	old, _ := shared.resume(t, d)
	old.Subscribe(1, c2dFilter(d.ID))
	shared.mail(t, d.ID, "unacknowledged")
	old.NextPublish()
	c, _ := shared.resume(t, d)
	if p := takeMail(t, c, "unacknowledged"); !p.Dup {
		t.Error("the message comes again without DUP")
	}
	c.Disconnect()
}

func TestSession_TakeoverStorm(t *testing.T) {
	t.Parallel()
	conform.Covers(t, "HD-102")
	s := start(t, hubtest.Options{})
	d := s.device(t)
	idle := s.Post.Open()
	var last *mqtttest.Client
	var all []*mqtttest.Client
	for range 100 {
		c, _ := s.resume(t, d)
		c.Send(wire.AppendSubscribe(nil, c.ID(), []wire.Subscription{{Filter: "$iothub/methods/POST/#"}, {Filter: c2dFilter(d.ID), QoS: 1}}))
		all, last = append(all, c), c
	}
	for i, c := range all[:99] {
		if err := c.Drained(); !errors.Is(err, io.EOF) {
			t.Errorf("connection %d ended with %v, want a close_notify", i, err)
		}
	}
	hubtest.Until(t, "one connection to be left", func() bool { return s.head.Connections() == 1 && s.Router.Count() == 1 })
	if n := s.Post.Open() - idle; n != 1 {
		t.Errorf("%d mailboxes are open, want 1", n)
	}
	last.Expect(wire.AppendSuback(nil, 1, []byte{0, 1}))
	s.connected(t, d.ID, true)
	// It works, and each command comes once.
	done := make(chan error, 1)
	go func() {
		_, err := s.Hub.Invoke(context.Background(), d.ID, command.Method{Name: "who", ResponseTimeout: 10 * time.Second})
		done <- err
	}()
	p := last.NextPublish()
	_, rid, _ := strings.Cut(string(p.Topic), "$rid=")
	last.Publish0("$iothub/methods/res/200/?$rid="+rid, []byte("{}"))
	if err := <-done; err != nil {
		t.Error(err)
	}
	last.Silent(50 * time.Millisecond)
	last.Disconnect()
	hubtest.Until(t, "no connection to be left", func() bool { return s.head.Connections() == 0 && s.Post.Open() == idle })
}

// Two connections of one identity that come at the same moment: one of them stays.
func TestSession_TakeoverRace(t *testing.T) { overBoth(t, testSession_TakeoverRace) }

func testSession_TakeoverRace(t *testing.T, shared *server) {
	t.Parallel()
	for range 20 {
		d := shared.device(t)
		h := shared.hello(d)
		a, b := shared.dial(t), shared.dial(t)
		a.Send(wire.AppendConnect(nil, &h))
		b.Send(wire.AppendConnect(nil, &h))
		ended := make(chan *mqtttest.Client, 2)
		for _, c := range []*mqtttest.Client{a, b} {
			go func() { c.Drained(); ended <- c }()
		}
		lost := <-ended
		select {
		case <-ended:
			t.Fatal("both connections were closed")
		case <-time.After(30 * time.Millisecond):
		}
		kept := a
		if lost == a {
			kept = b
		}
		if err := kept.TrySend(wire.AppendPublish(nil, &wire.Publish{Topic: []byte(events(d.ID)), Payload: []byte("here")})); err != nil {
			t.Fatal(err)
		}
		shared.Messages(t, d.ID, 1)
		shared.connected(t, d.ID, true)
		kept.Drop()
		<-ended
	}
}

func TestSession_DeviceGoesAway(t *testing.T) { overBoth(t, testSession_DeviceGoesAway) }

func testSession_DeviceGoesAway(t *testing.T, shared *server) {
	t.Parallel()
	t.Run("disabled", func(t *testing.T) {
		t.Parallel()
		d := shared.device(t)
		c := shared.connect(t, d)
		status := registry.Disabled
		if _, err := shared.UpdateDevice(t.Context(), d.ID, nil, registry.Change{Status: &status}); err != nil {
			t.Fatal(err)
		}
		c.Closed()
		shared.connected(t, d.ID, false)
		shared.refused(t, shared.hello(d), 3)
	})
	t.Run("deleted", func(t *testing.T) {
		t.Parallel()
		d := shared.device(t)
		c := shared.connect(t, d)
		if err := shared.DeleteDevice(t.Context(), d.ID, nil); err != nil {
			t.Fatal(err)
		}
		c.Closed()
		shared.refused(t, shared.hello(d), 5)
	})
	t.Run("while a method is on its way", func(t *testing.T) {
		t.Parallel()
		d := shared.device(t)
		c := shared.connect(t, d)
		c.Subscribe(0, "$iothub/methods/POST/#")
		done := make(chan error, 1)
		go func() {
			_, err := shared.Invoke(context.Background(), d.ID, command.Method{Name: "wait", ResponseTimeout: 30 * time.Second})
			done <- err
		}()
		c.NextPublish()
		c.Drop()
		select {
		case err := <-done:
			if !fault.Is(err, fault.ConnectionClosed) {
				t.Errorf("the caller got %v, want connection closed", err)
			}
		case <-time.After(hubtest.Patience):
			t.Error("the caller still waits for a device that left")
		}
	})
}
