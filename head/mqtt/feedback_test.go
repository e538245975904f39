package mqtt_test

import (
	"encoding/json"
	"strings"
	"testing"
	"time"

	"github.com/vauban-iot/vauban/hub/hubtest"
	"github.com/vauban-iot/vauban/hub/notice"
	"github.com/vauban-iot/vauban/internal/conform"
	"github.com/vauban-iot/vauban/iot"
	wire "github.com/vauban-iot/vauban/wire/mqtt"
)

// A PUBACK completes: the message does not come again, and whoever asked hears of it.
func TestC2D_PubackCompletes(t *testing.T) {
	t.Parallel()
	conform.Covers(t, "HD-48")
	s := start(t, hubtest.Options{}) // the queue of feedback is the hub's
	d := s.device(t)
	c := s.connect(t, d)
	c.Subscribe(1, c2dFilter(d.ID))
	for _, ack := range []string{"none", "negative", "positive", "full"} {
		if _, err := s.Send(t.Context(), iot.Mail{To: d.ID, MessageID: ack, Ack: ack}); err != nil {
			t.Fatal(err)
		}
	}
	var held uint16 // the last one gets no PUBACK yet
	for i := range 4 {
		if held = c.NextPublish().PacketID; i < 3 {
			c.Send(wire.AppendPuback(nil, held))
		}
	}
	got := map[string]string{}
	feedback := func() {
		b, err := s.ReadNotices(t.Context(), notice.Feedback)
		if err != nil {
			t.Fatal(err)
		}
		for _, n := range b.Notices {
			var r struct{ OriginalMessageID, StatusCode, DeviceID string }
			if err := json.Unmarshal(n.Document, &r); err != nil || r.DeviceID != d.ID.Device {
				t.Fatalf("record %s: %v", n.Document, err)
			}
			got[r.OriginalMessageID] = r.StatusCode
		}
	}
	hubtest.Until(t, "feedback", func() bool { feedback(); return len(got) > 0 })
	if len(got) != 1 || got["positive"] != "Success" {
		t.Errorf("feedback %v, want that message positive succeeded", got)
	}
	c.Send(wire.AppendPuback(nil, held))
	hubtest.Until(t, "feedback", func() bool { feedback(); return len(got) > 1 })
	if len(got) != 2 || got["full"] != "Success" {
		t.Errorf("feedback %v, want that message full succeeded, too", got)
	}
	c.Disconnect()

	s.Clock.Add(2 * time.Minute) // no lock is left to lapse
	c = s.connect(t, d)
	c.Subscribe(1, c2dFilter(d.ID))
	if _, err := s.Send(t.Context(), iot.Mail{To: d.ID, MessageID: "after"}); err != nil {
		t.Fatal(err)
	}
	p := c.NextPublish()
	if p.Dup || !strings.Contains(string(p.Topic), "%24.mid=after&") {
		t.Errorf("after the reconnect comes %s, want the new message", p.Topic)
	}
	c.Disconnect()
}
