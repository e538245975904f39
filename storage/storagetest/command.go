package storagetest

import (
	"fmt"
	"regexp"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/vauban-iot/vauban/fault"
	"github.com/vauban-iot/vauban/hub/twin"
	"github.com/vauban-iot/vauban/iot"
	"github.com/vauban-iot/vauban/wire/bag"
)

func mail(to iot.ID, messageID string) iot.Mail {
	return iot.Mail{
		To: to, MessageID: messageID, Enqueued: kept(Start), Expires: kept(Start.Add(time.Hour)), Ack: "full",
		System:     []bag.Property{{Name: "iothub-correlationid", Value: "c & <☂>"}},
		Properties: []bag.Property{{Name: "a", Value: "1"}, {Name: "a", Value: "2"}, {Name: "", Value: ""}, {Name: "null", Null: true}, {Name: "'%_", Value: "\u0000"}},
		Body:       []byte{0, 1, 0xff},
	}
}

var uuid = regexp.MustCompile(`^[0-9a-f]{8}-[0-9a-f]{4}-4[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}$`)

// Mailbox is what every command.Mailbox promises.
func Mailbox(t *testing.T, open Open) {
	id := iot.ID{Device: "d"}
	minute := Start.Add(time.Minute)
	start := func(t *testing.T) Store {
		s := open(t)
		create(t, s, "d", "e")
		return s
	}
	ids := func(ms []iot.Mail) (all []string) {
		for _, m := range ms {
			all = append(all, m.MessageID)
		}
		return all
	}

	t.Run("mail comes back in order, locked", func(t *testing.T) {
		s, ctx := start(t), t.Context()
		var want []iot.Mail
		for i := range 5 {
			m := mail(id, fmt.Sprintf("m%d", i))
			m.Sequence = must(s.Enqueue(ctx, m, 50, Start))(t)
			if i > 0 && m.Sequence <= want[i-1].Sequence {
				t.Errorf("sequence %d follows %d", m.Sequence, want[i-1].Sequence)
			}
			want = append(want, m)
		}
		must(s.Enqueue(ctx, mail(iot.ID{Device: "e"}, "other"), 50, Start))(t)
		if n := must(s.Identity(ctx, id))(t).Pending; n != 5 {
			t.Errorf("%d messages are pending, want 5", n)
		}
		got := must(s.Lock(ctx, id, 3, Start, minute))(t)
		got = append(got, must(s.Lock(ctx, id, 10, Start, minute))(t)...)
		tokens := map[string]bool{}
		for _, m := range got {
			tokens[m.LockToken] = true
			if !uuid.MatchString(m.LockToken) {
				t.Errorf("lock token %q is not a random UUID", m.LockToken)
			}
		}
		if len(tokens) != 5 {
			t.Errorf("%d different lock tokens, want 5", len(tokens))
		}
		if d := cmp.Diff(want, got, cmpopts.IgnoreFields(iot.Mail{}, "LockToken")); d != "" {
			t.Errorf("mail (-want +got):\n%s", d)
		}
		if again := must(s.Lock(ctx, id, 10, Start, minute))(t); len(again) != 0 {
			t.Errorf("locked mail was locked again: %v", ids(again))
		}
	})

	t.Run("bare mail", func(t *testing.T) {
		s, ctx := start(t), t.Context()
		want := iot.Mail{To: id}
		want.Sequence = must(s.Enqueue(ctx, want, 1, Start))(t)
		must(s.Expire(ctx, Start.AddDate(100, 0, 0)))(t)
		got := must(s.Lock(ctx, id, 1, Start, minute))(t)
		if len(got) != 1 {
			t.Fatalf("got %d messages, want the one that never expires", len(got))
		}
		got[0].LockToken = ""
		same(t, "mail", got[0], want)
	})

	t.Run("complete needs the last token", func(t *testing.T) {
		s, ctx := start(t), t.Context()
		must(s.Enqueue(ctx, mail(id, "m"), 50, Start))(t)
		wantKind(t, "no token", s.Settle(ctx, id, "", iot.Completed, 10, Start), fault.LockLost)
		first := must(s.Lock(ctx, id, 1, Start, minute))(t)[0]
		wantKind(t, "another device's token", s.Settle(ctx, iot.ID{Device: "e"}, first.LockToken, iot.Completed, 10, Start), fault.LockLost)
		second := must(s.Lock(ctx, id, 1, minute, minute.Add(time.Minute)))(t)
		if len(second) != 1 || !second[0].Delivered || first.Delivered {
			t.Fatalf("after the lock's time: got %+v, want one redelivery", second)
		}
		wantKind(t, "token of the lock before", s.Settle(ctx, id, first.LockToken, iot.Completed, 10, Start), fault.LockLost)
		ok(t, s.Settle(ctx, id, second[0].LockToken, iot.Completed, 10, Start))
		wantKind(t, "complete twice", s.Settle(ctx, id, second[0].LockToken, iot.Completed, 10, Start), fault.LockLost)
		if n := must(s.Identity(ctx, id))(t).Pending; n != 0 {
			t.Errorf("%d messages are pending, want none", n)
		}
	})

	t.Run("a token outlives its time and a release", func(t *testing.T) {
		s, ctx := start(t), t.Context()
		must(s.Enqueue(ctx, mail(id, "m"), 50, Start))(t)
		m := must(s.Lock(ctx, id, 1, Start, Start.Add(time.Millisecond)))(t)[0]
		ok(t, s.Release(ctx, id))
		ok(t, s.Settle(ctx, id, m.LockToken, iot.Completed, 10, Start))
	})

	t.Run("release makes one device's mail visible", func(t *testing.T) {
		s, ctx := start(t), t.Context()
		other := iot.ID{Device: "e"}
		for _, to := range []iot.ID{id, other} {
			must(s.Enqueue(ctx, mail(to, "1"), 50, Start))(t)
			must(s.Enqueue(ctx, mail(to, "2"), 50, Start))(t)
			must(s.Lock(ctx, to, 10, Start, minute))(t)
		}
		ok(t, s.Release(ctx, id))
		ok(t, s.Release(ctx, iot.ID{Device: "none"}))
		got := must(s.Lock(ctx, id, 10, Start, minute))(t)
		same(t, "released", ids(got), []string{"1", "2"})
		for _, m := range got {
			if !m.Delivered {
				t.Errorf("message %s is not marked as delivered before", m.MessageID)
			}
		}
		if got := must(s.Lock(ctx, other, 10, Start, minute))(t); len(got) > 0 {
			t.Errorf("another device's mail was released: %v", ids(got))
		}
	})

	t.Run("expired mail is neither delivered nor counted", func(t *testing.T) {
		s, ctx := start(t), t.Context()
		for i := range 3 {
			m := mail(id, fmt.Sprint(i))
			m.Expires = Start.Add(time.Duration(i+1) * time.Minute)
			must(s.Enqueue(ctx, m, 3, Start))(t)
		}
		_, err := s.Enqueue(ctx, mail(id, "x"), 3, Start)
		wantKind(t, "a full queue", err, fault.QueueFull)
		must(s.Enqueue(ctx, mail(iot.ID{Device: "e"}, "y"), 3, Start))(t)
		must(s.Enqueue(ctx, mail(id, "3"), 3, minute))(t) // number 0 expires at this very moment
		same(t, "locked", ids(must(s.Lock(ctx, id, 10, minute, minute.Add(1)))(t)), []string{"1", "2", "3"})
		if n := must(s.Expire(ctx, Start.Add(2*time.Minute)))(t); n != 2 {
			t.Errorf("%d messages expired, want 2", n)
		}
		ok(t, s.Release(ctx, id))
		same(t, "left", ids(must(s.Lock(ctx, id, 10, minute, minute))(t)), []string{"2", "3"})
	})

	t.Run("the limit holds against many senders", func(t *testing.T) {
		s, ctx := start(t), t.Context()
		parallel(t, 40, func(i int) error {
			_, err := s.Enqueue(ctx, mail(id, fmt.Sprint(i)), 10, Start)
			if fault.Is(err, fault.QueueFull) {
				return nil
			}
			return err
		})
		if n := must(s.Identity(ctx, id))(t).Pending; n != 10 {
			t.Errorf("%d messages are pending, want 10", n)
		}
	})

	t.Run("two sessions never lock the same message", func(t *testing.T) {
		s, ctx := start(t), t.Context()
		for i := range 20 {
			must(s.Enqueue(ctx, mail(id, fmt.Sprint(i)), 50, Start))(t)
		}
		got := make([][]iot.Mail, 8)
		parallel(t, len(got), func(i int) (err error) {
			for range 10 {
				ms, err := s.Lock(ctx, id, 3, Start, minute)
				if err != nil {
					return err
				}
				got[i] = append(got[i], ms...)
			}
			return nil
		})
		seen := map[uint64]bool{}
		for _, ms := range got {
			for _, m := range ms {
				if seen[m.Sequence] {
					t.Errorf("message %s was locked twice", m.MessageID)
				}
				seen[m.Sequence] = true
			}
		}
		if len(seen) != 20 {
			t.Errorf("%d messages were locked, want 20", len(seen))
		}
	})

	t.Run("abandoned mail comes back until it was abandoned too often", func(t *testing.T) {
		s, ctx := start(t), t.Context()
		must(s.Enqueue(ctx, mail(id, "m"), 50, Start))(t)
		must(s.Enqueue(ctx, mail(id, "later"), 50, Start))(t)
		for i := range 3 {
			// A lock that lapses and one that is released count nothing.
			must(s.Lock(ctx, id, 1, Start, Start.Add(1)))(t)
			ok(t, s.Release(ctx, id))
			m := must(s.Lock(ctx, id, 1, Start, minute))(t)[0]
			if m.MessageID != "m" || m.DeliveryCount != i {
				t.Fatalf("got %s with delivery count %d, want m with %d", m.MessageID, m.DeliveryCount, i)
			}
			ok(t, s.Settle(ctx, id, m.LockToken, iot.Abandoned, 3, minute))
			wantKind(t, "settle what was abandoned", s.Settle(ctx, id, m.LockToken, iot.Completed, 3, minute), fault.LockLost)
		}
		same(t, "left", ids(must(s.Lock(ctx, id, 10, Start, minute))(t)), []string{"later"})
		same(t, "feedback", feedback(t, s), []string{"m DeliveryCountExceeded " + iot.FormatTime(minute)})
	})

	t.Run("rejected mail is gone", func(t *testing.T) {
		s, ctx := start(t), t.Context()
		must(s.Enqueue(ctx, mail(id, "m"), 50, Start))(t)
		m := must(s.Lock(ctx, id, 1, Start, minute))(t)[0]
		wantKind(t, "another device's token", s.Settle(ctx, iot.ID{Device: "e"}, m.LockToken, iot.Rejected, 10, Start), fault.LockLost)
		ok(t, s.Settle(ctx, id, m.LockToken, iot.Rejected, 10, Start))
		wantKind(t, "settle twice", s.Settle(ctx, id, m.LockToken, iot.Rejected, 10, Start), fault.LockLost)
		if n := must(s.Identity(ctx, id))(t).Pending; n != 0 {
			t.Errorf("%d messages are pending, want none", n)
		}
		same(t, "feedback", feedback(t, s), []string{"m Rejected " + iot.FormatTime(Start)})
	})

	t.Run("who asked hears of it", func(t *testing.T) {
		for _, c := range []struct {
			ack                string
			good, bad, expired bool
		}{{"none", false, false, false}, {"", false, false, false}, {"positive", true, false, false}, {"negative", false, true, true}, {"full", true, true, true}} {
			s, ctx := start(t), t.Context()
			for _, name := range []string{"good", "dead", "no", "late"} {
				m := mail(id, name)
				m.Ack = c.ack
				if name == "late" {
					m.Expires = minute
				}
				must(s.Enqueue(ctx, m, 50, Start))(t)
			}
			ms := must(s.Lock(ctx, id, 10, Start, minute))(t)
			ok(t, s.Settle(ctx, id, ms[0].LockToken, iot.Completed, 10, Start))
			ok(t, s.Settle(ctx, id, ms[1].LockToken, iot.Abandoned, 1, Start))
			ok(t, s.Settle(ctx, id, ms[2].LockToken, iot.Rejected, 10, Start))
			if n := must(s.Expire(ctx, minute.Add(time.Second)))(t); n != 1 {
				t.Errorf("%d messages expired, want 1", n)
			}
			now := " " + iot.FormatTime(Start)
			var want []string
			if c.good {
				want = append(want, "good Success"+now)
			}
			if c.bad {
				want = append(want, "dead DeliveryCountExceeded"+now, "no Rejected"+now)
			}
			if c.expired {
				want = append(want, "late Expired "+iot.FormatTime(kept(minute)))
			}
			same(t, "feedback for "+c.ack, feedback(t, s), want)
		}
	})

	t.Run("purge", func(t *testing.T) {
		s, ctx := start(t), t.Context()
		for i, ack := range []string{"full", "none", "negative", "positive"} {
			m := mail(id, fmt.Sprint(i))
			m.Ack = ack
			must(s.Enqueue(ctx, m, 50, Start))(t)
		}
		must(s.Enqueue(ctx, mail(iot.ID{Device: "e"}, "other"), 50, Start))(t)
		locked := must(s.Lock(ctx, id, 1, Start, minute))(t)[0]
		if n := must(s.Purge(ctx, id, Start))(t); n != 4 {
			t.Errorf("%d messages were purged, want 4", n)
		}
		wantKind(t, "settle what was purged", s.Settle(ctx, id, locked.LockToken, iot.Completed, 10, Start), fault.LockLost)
		now := " Purged " + iot.FormatTime(Start)
		same(t, "feedback", feedback(t, s), []string{"0" + now, "2" + now})
		if n := must(s.Purge(ctx, id, Start))(t); n != 0 {
			t.Errorf("%d messages were purged from an empty queue", n)
		}
		if n := must(s.Identity(ctx, iot.ID{Device: "e"}))(t).Pending; n != 1 {
			t.Errorf("another device has %d messages pending, want 1", n)
		}
		_, err := s.Purge(ctx, iot.ID{Device: "none"}, Start)
		wantKind(t, "purge a stranger", err, fault.NotFound)
	})

	t.Run("more expires than fits one round", func(t *testing.T) {
		s, ctx := start(t), t.Context()
		const n = 1001 // two rounds and one
		for i := range n {
			m := mail(id, fmt.Sprint(i))
			m.Ack = ""
			must(s.Enqueue(ctx, m, n, Start))(t)
		}
		if got := must(s.Expire(ctx, Start.AddDate(1, 0, 0)))(t); got != n {
			t.Errorf("%d messages expired, want %d", got, n)
		}
	})

	t.Run("no mail for strangers", func(t *testing.T) {
		s, ctx := start(t), t.Context()
		_, err := s.Enqueue(ctx, mail(iot.ID{Device: "none"}, "m"), 50, Start)
		wantKind(t, "enqueue", err, fault.NotFound)
		_, err = s.Enqueue(ctx, mail(iot.ID{Device: "d", Module: "none"}, "m"), 50, Start)
		wantKind(t, "enqueue for a module", err, fault.NotFound)
		if got := must(s.Lock(ctx, iot.ID{Device: "none"}, 1, Start, minute))(t); len(got) > 0 {
			t.Errorf("a stranger got mail: %v", ids(got))
		}
	})
}

// Sessions is what every command.Sessions promises.
func Sessions(t *testing.T, open Open) {
	s, ctx := open(t), t.Context()
	create(t, s, "d")
	id := iot.ID{Device: "d"}
	check := func(what string, want []iot.Subscription, wantOK bool) {
		t.Helper()
		subs, found, err := s.Session(ctx, id)
		ok(t, err)
		if found != wantOK {
			t.Errorf("%s: session found %v, want %v", what, found, wantOK)
		}
		same(t, what, subs, want)
	}
	check("before", nil, false)
	ok(t, s.DropSession(ctx, id))
	subs := []iot.Subscription{{Filter: "$iothub/twin/res/#", QoS: 0}, {Filter: "devices/d/messages/devicebound/#", QoS: 1}, {Filter: "é<>&'"}}
	ok(t, s.SaveSession(ctx, id, subs))
	check("saved", subs, true)
	ok(t, s.SaveSession(ctx, id, subs[:1]))
	check("replaced", subs[:1], true)
	ok(t, s.SaveSession(ctx, id, nil))
	check("without subscriptions", nil, true)
	ok(t, s.DropSession(ctx, id))
	check("dropped", nil, false)
	wantKind(t, "a stranger's session", s.SaveSession(ctx, iot.ID{Device: "none"}, subs), fault.NotFound)
	ok(t, s.DropSession(ctx, iot.ID{Device: "none"}))

	ok(t, s.Create(ctx, module("d", "m"), twin.Twin{}))
	ok(t, s.SaveSession(ctx, iot.ID{Device: "d", Module: "m"}, subs))
	check("a module's session is its own", nil, false)
}
