package storagetest

import (
	"encoding/json"
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/vauban-iot/vauban/defender/alert"
	"github.com/vauban-iot/vauban/defender/group"
	"github.com/vauban-iot/vauban/defender/record"
	"github.com/vauban-iot/vauban/defender/window"
	"github.com/vauban-iot/vauban/fault"
	"github.com/vauban-iot/vauban/hub/activity"
	"github.com/vauban-iot/vauban/hub/registry"
	"github.com/vauban-iot/vauban/hub/twin"
	"github.com/vauban-iot/vauban/iot"
)

// AlertLives is what a store promises about what becomes of alerts.
func AlertLives(t *testing.T, open Open) {
	sample := func(id, kind, device, indicator string, message uint64) alert.Alert {
		a := alert.Alert{ID: id, Type: kind, Severity: alert.Low, Title: "t", Device: device, Group: "plant", Indicator: indicator, Day: "2026-01-02",
			Count: 1, FirstSeen: kept(Start), LastSeen: kept(Start), LastMessage: message}
		a.Add(alert.Evidence{Message: message, Time: kept(Start), Event: "Process", Form: "json", Details: json.RawMessage(`{"a":"☂<'%"}`)})
		return a
	}
	raise := func(t *testing.T, s Store, a alert.Alert) alert.Alert {
		t.Helper()
		got, _, err := s.Raise(t.Context(), a)
		ok(t, err)
		return got
	}
	status := func(t *testing.T, s Store, id string) alert.Status {
		t.Helper()
		return must(s.Alert(t.Context(), id))(t).Status
	}
	day := Start.Add(24 * time.Hour)

	t.Run("evidence is kept, up to its bound, and lists leave it out", func(t *testing.T) {
		s := open(t)
		for i := range uint64(alert.MaxEvidence + 2) {
			raise(t, s, sample(fmt.Sprint("a", i), "IoT_TiConnection", "d", "i", i+1))
		}
		got := must(s.Alert(t.Context(), "a0"))(t)
		if got.Count != alert.MaxEvidence+2 || len(got.Evidence) != alert.MaxEvidence || got.Group != "plant" || got.Status != alert.Open {
			t.Errorf("got %+v", got)
		}
		same(t, "the first evidence", got.Evidence[0], sample("", "", "", "", 1).Evidence[0])
		if len(got.Tactics) == 0 || len(got.Techniques) == 0 || len(got.Remediation) == 0 {
			t.Errorf("nothing is said of the type: %+v", got)
		}
		if list := must(s.Alerts(t.Context(), alert.Filter{}))(t); len(list) != 1 || list[0].Evidence != nil {
			t.Errorf("listed: %+v", list)
		}
		_, err := s.Alert(t.Context(), "nobody")
		wantKind(t, "an unknown alert", err, fault.NotFound)
	})

	t.Run("types tell alerts apart, and what has no message always counts", func(t *testing.T) {
		s := open(t)
		raise(t, s, sample("a", "IoT_A", "", "i", 0))
		raise(t, s, sample("b", "IoT_B", "", "i", 0))
		if got := raise(t, s, sample("c", "IoT_A", "", "i", 0)); got.ID != "a" || got.Count != 2 {
			t.Errorf("got %+v", got)
		}
		for f, want := range map[alert.Filter]int{{}: 2, {Type: "IoT_A"}: 1, {Severity: alert.Low}: 2, {Severity: alert.High}: 0, {Status: alert.Open}: 2, {Status: alert.Dismissed}: 0} {
			if got := len(must(s.Alerts(t.Context(), f))(t)); got != want {
				t.Errorf("%+v lists %d, want %d", f, got, want)
			}
		}
	})

	t.Run("lists by the security group that a device is in now", func(t *testing.T) {
		s, ctx := open(t), t.Context()
		for id, tags := range map[string]string{"in": `{"SecurityGroup":"plant ☂"}`, "out": `{"SecurityGroup":"plant"}`, "untagged": "", "odd": `{"SecurityGroup":7}`} {
			tw := twin.New(iot.ID{Device: id})
			if tags != "" {
				tw.Tags = json.RawMessage(tags)
			}
			ok(t, s.Create(ctx, device(id), tw))
			raise(t, s, sample(id, "IoT_A", id, "i", 0))
		}
		raise(t, s, sample("hub", "IoT_A", "", "i", 0))
		for name, want := range map[string][]string{"plant ☂": {"in"}, "plant": {"out"}, "Plant": nil, group.Default: {"odd", "untagged"}} {
			var got []string
			for _, a := range must(s.Alerts(ctx, alert.Filter{Group: name, Type: "IoT_A"}))(t) {
				got = append(got, a.ID)
			}
			slices.Sort(got)
			if !slices.Equal(got, want) {
				t.Errorf("%s lists %q, want %q", name, got, want)
			}
		}
	})

	t.Run("dismissed is for good, resolved opens again", func(t *testing.T) {
		s, ctx := open(t), t.Context()
		for i, id := range []string{"a", "b"} {
			raise(t, s, sample(id, "IoT_A", id, "i", uint64(i+1)))
		}
		v := alert.Verdict{Status: alert.Dismissed, By: "ada", Comment: "known ☂", Time: kept(day)}
		got := must(s.Judge(ctx, "a", v))(t)
		if got.Status != alert.Dismissed || got.StatusBy != "ada" || got.Comment != "known ☂" || !got.StatusTime.Equal(v.Time) || len(got.Evidence) != 1 {
			t.Errorf("dismissed: %+v", got)
		}
		must(s.Judge(ctx, "a", alert.Verdict{Status: alert.Dismissed, By: "bob", Time: day}))(t)
		_, err := s.Judge(ctx, "a", alert.Verdict{Status: alert.Resolved, By: "bob", Time: day})
		wantKind(t, "resolve what is dismissed", err, fault.PreconditionFailed)
		_, err = s.Judge(ctx, "nobody", v)
		wantKind(t, "an unknown alert", err, fault.NotFound)
		if got := raise(t, s, sample("x", "IoT_A", "a", "i", 9)); got.Status != alert.Dismissed || got.Count != 2 || got.StatusBy != "ada" {
			t.Errorf("seen again: %+v", got)
		}
		must(s.Judge(ctx, "b", alert.Verdict{Status: alert.Resolved, By: "ada", Time: day}))(t)
		raise(t, s, sample("x", "IoT_A", "b", "i", 2)) // a replay
		if got := status(t, s, "b"); got != alert.Resolved {
			t.Errorf("a replay made it %s", got)
		}
		if got := raise(t, s, sample("x", "IoT_A", "b", "i", 9)); got.Status != alert.Open || got.StatusBy != "" {
			t.Errorf("seen again: %+v", got)
		}
	})

	t.Run("suppressions hold back until they expire", func(t *testing.T) {
		s, ctx := open(t), t.Context()
		for i, id := range []string{"a", "b", "c"} {
			raise(t, s, sample(id, "IoT_A", id, "i", uint64(i+1)))
		}
		must(s.Judge(ctx, "c", alert.Verdict{Status: alert.Dismissed, By: "ada", Time: Start}))(t)
		p := alert.Suppression{ID: "s1", Type: "IoT_A", Device: "a", Reason: "works", By: "ada", Created: kept(Start), Expires: kept(day)}
		if n := must(s.Suppress(ctx, p))(t); n != 1 || status(t, s, "a") != alert.Suppressed || status(t, s, "b") != alert.Open {
			t.Errorf("%d were hidden", n)
		}
		got := must(s.Alert(ctx, "a"))(t)
		if got.Suppression != "s1" || !got.SuppressedUntil.Equal(p.Expires) || got.StatusBy != "ada" || got.Comment != "works" {
			t.Errorf("suppressed: %+v", got)
		}
		_, err := s.Suppress(ctx, p)
		wantKind(t, "the same again", err, fault.AlreadyExists)
		// New ones are held back, and so is what others resolved and is seen again.
		if got := raise(t, s, sample("d", "IoT_A", "a", "other", 5)); got.Status != alert.Suppressed || got.Suppression != "s1" {
			t.Errorf("a new alert: %+v", got)
		}
		must(s.Judge(ctx, "a", alert.Verdict{Status: alert.Resolved, By: "ada", Time: Start}))(t)
		if got := raise(t, s, sample("x", "IoT_A", "a", "i", 6)); got.Status != alert.Suppressed || got.Count != 2 {
			t.Errorf("seen again: %+v", got)
		}
		late := sample("e", "IoT_A", "a", "late", 7)
		late.LastSeen = day.Add(time.Second)
		if got := raise(t, s, late); got.Status != alert.Open {
			t.Errorf("after the end: %+v", got)
		}
		if n := must(s.Suppress(ctx, alert.Suppression{ID: "s2", Indicator: "i", By: "ada", Created: Start, Expires: day.Add(time.Hour)}))(t); n != 1 {
			t.Errorf("%d were hidden by the indicator, want b", n)
		}
		same(t, "listed", must(s.Suppressions(ctx, Start))(t)[0], p)
		if n := len(must(s.Suppressions(ctx, day))(t)); n != 1 {
			t.Errorf("%d are in force at the end of the first", n)
		}
		if n := must(s.Wake(ctx, day.Add(-time.Second)))(t); n != 0 || status(t, s, "a") != alert.Suppressed {
			t.Errorf("%d woke too early", n)
		}
		if n := must(s.Wake(ctx, day))(t); n != 2 || status(t, s, "a") != alert.Open || status(t, s, "d") != alert.Open || status(t, s, "b") != alert.Suppressed {
			t.Errorf("%d woke", n)
		}
		if n := must(s.Unsuppress(ctx, "s2", day))(t); n != 1 || status(t, s, "b") != alert.Open || status(t, s, "c") != alert.Dismissed {
			t.Errorf("%d were shown", n)
		}
		_, err = s.Unsuppress(ctx, "s2", day)
		wantKind(t, "it is gone", err, fault.NotFound)
		if n := len(must(s.Suppressions(ctx, Start))(t)); n != 0 {
			t.Errorf("%d are left", n)
		}
	})
}

// SecurityEvents is what a record.Store promises.
func SecurityEvents(t *testing.T, open Open) {
	event := func(message uint64, ordinal int, device string) record.Event {
		return record.Event{
			Place: record.Place{Message: message, Ordinal: ordinal}, Device: device, Module: "m", Enqueued: kept(Start).Add(time.Duration(message) * time.Minute), Time: kept(Start),
			ID: "e", Name: "ListeningPorts", Kind: "Security", Category: "Periodic", Agent: "a ☂", AgentVersion: "1", Form: "json", Schema: record.Broken, Left: 3,
			Notes: []string{"n"}, Details: []json.RawMessage{json.RawMessage(`{"b":1, "a":"\u0000"}`), json.RawMessage(`{}`)},
		}
	}
	fill := func(t *testing.T, s Store) (all []record.Event) {
		for i := range 20 {
			e := event(uint64(i/2+1), i%2, fmt.Sprint("d", i%3))
			if i == 7 {
				e.Name, e.Problem, e.Details, e.Empty, e.Time, e.Notes = record.InvalidMessage, "broken", nil, true, time.Time{}, nil
			}
			all = append([]record.Event{e}, all...)
			_, err := s.Record(t.Context(), []record.Event{e}, nil)
			ok(t, err)
		}
		return all
	}
	t.Run("what was kept comes back, newest first", func(t *testing.T) {
		s, ctx := open(t), t.Context()
		all := fill(t, s)
		same(t, "all", must(s.SecurityEvents(ctx, record.Filter{}))(t), all)
		same(t, "a page", must(s.SecurityEvents(ctx, record.Filter{Before: all[4].Place, Limit: 3}))(t), all[5:8])
		same(t, "invalid", must(s.SecurityEvents(ctx, record.Filter{Invalid: true}))(t), []record.Event{all[12]})
		same(t, "by name", must(s.SecurityEvents(ctx, record.Filter{Name: record.InvalidMessage}))(t), []record.Event{all[12]})
		same(t, "by time", must(s.SecurityEvents(ctx, record.Filter{From: all[5].Enqueued, To: all[3].Enqueued}))(t), all[4:6])
		if n := len(must(s.SecurityEvents(ctx, record.Filter{Device: "d1"}))(t)); n != 7 {
			t.Errorf("d1 has %d", n)
		}
		again := all[0]
		again.Name = "other"
		_, err := s.Record(ctx, []record.Event{again}, nil)
		ok(t, err)
		same(t, "given again", must(s.SecurityEvents(ctx, record.Filter{Limit: 1}))(t), all[:1])
	})
	t.Run("events and their alerts are kept together, or not at all", func(t *testing.T) {
		s, ctx := open(t), t.Context()
		a := alert.Alert{ID: "a", Type: "T", Device: "d", Day: "2026-01-02", Count: 2, FirstSeen: Start, LastSeen: Start, LastMessage: 4}
		raised := must(s.Record(ctx, []record.Event{event(1, 0, "d")}, []alert.Alert{a}))(t)
		if len(raised) != 1 || !raised[0].Created || !raised[0].Counted || raised[0].Sequence == 0 {
			t.Errorf("raised %+v", raised)
		}
		if raised = must(s.Record(ctx, nil, []alert.Alert{a}))(t); raised[0].Created || raised[0].Counted || raised[0].Count != 2 {
			t.Errorf("again %+v", raised)
		}
		other := a
		other.Device = "d2" // its id is taken
		_, err := s.Record(ctx, []record.Event{event(2, 0, "d")}, []alert.Alert{other})
		wantKind(t, "an id that is taken", err, fault.AlreadyExists)
		if n := len(must(s.SecurityEvents(ctx, record.Filter{}))(t)); n != 1 {
			t.Errorf("%d events, want the first", n)
		}
	})
	// Many at a time and few are kept in different ways, and are one list.
	batches := []int{3, 300, 1, 700, 2, 280, 4}
	many := func(t *testing.T, s Store) (all []record.Event) {
		for _, n := range batches {
			var batch []record.Event
			for range n {
				i := len(all)
				e := event(uint64(i/2+1), i%2, fmt.Sprint("d", i%30))
				if i%100 == 7 {
					e.Name, e.Problem, e.Details, e.Empty, e.Time, e.Notes = record.InvalidMessage, "broken", nil, true, time.Time{}, nil
				}
				if i == 400 {
					e.Device = "rare"
				}
				all, batch = append(all, e), append(batch, e)
			}
			_, err := s.Record(t.Context(), batch, nil)
			ok(t, err)
		}
		return all
	}
	newest := func(all []record.Event, limit int, keep func(record.Event) bool) (out []record.Event) {
		for _, e := range slices.Backward(all) {
			if keep(e) && len(out) < limit {
				out = append(out, e)
			}
		}
		return out
	}
	t.Run("many at a time are listed as few are", func(t *testing.T) {
		s, ctx := open(t), t.Context()
		all := many(t, s)
		everything := func(record.Event) bool { return true }
		same(t, "all", must(s.SecurityEvents(ctx, record.Filter{Limit: 1000}))(t), newest(all, 1000, everything))
		var pages []record.Event
		for f := (record.Filter{Limit: 110}); ; f.Before = pages[len(pages)-1].Place {
			page := must(s.SecurityEvents(ctx, f))(t)
			if len(page) == 0 {
				break
			}
			pages = append(pages, page...)
		}
		same(t, "pages", pages, newest(all, len(all), everything))
		for _, c := range []struct {
			name string
			f    record.Filter
			keep func(record.Event) bool
		}{
			{"a device", record.Filter{Device: "d7"}, func(e record.Event) bool { return e.Device == "d7" }},
			{"a rare device", record.Filter{Device: "rare"}, func(e record.Event) bool { return e.Device == "rare" }},
			{"nobody", record.Filter{Device: "none"}, func(record.Event) bool { return false }},
			{"invalid ones", record.Filter{Invalid: true}, func(e record.Event) bool { return e.Problem != "" }},
			{"a name", record.Filter{Name: record.InvalidMessage}, func(e record.Event) bool { return e.Problem != "" }},
			{"a time", record.Filter{From: all[310].Enqueued, To: all[360].Enqueued}, func(e record.Event) bool {
				return !e.Enqueued.Before(all[310].Enqueued) && e.Enqueued.Before(all[360].Enqueued)
			}},
			{"behind a place", record.Filter{Before: all[302].Place, Device: "d2"}, func(e record.Event) bool { return e.Device == "d2" && e.Place.Compare(all[302].Place) < 0 }},
		} {
			same(t, c.name, must(s.SecurityEvents(ctx, c.f))(t), newest(all, 100, c.keep))
		}
		var ascending []record.Event
		for span := (record.Span{}); ; span.After = ascending[len(ascending)-1].Place {
			page := must(s.EventsAfter(ctx, span, 170))(t)
			if len(page) == 0 {
				break
			}
			ascending = append(ascending, page...)
		}
		same(t, "in order", ascending, all)
		same(t, "of a time", must(s.EventsAfter(ctx, record.Span{After: all[4].Place, From: all[295].Enqueued, To: all[310].Enqueued}, 0))(t), all[294:310])
		for _, i := range []int{0, 2, 3, 150, 302, 303, 900, len(all) - 1} {
			if n := must(s.CountEvents(ctx, all[i].Place, 10_000))(t); n != len(all)-1-i {
				t.Errorf("%d events are behind number %d of %d", n, i, len(all))
			}
		}
		if n := must(s.CountEvents(ctx, record.Place{}, 500))(t); n != 500 {
			t.Errorf("counted up to 500: %d", n)
		}
	})
	t.Run("one between many is in its place", func(t *testing.T) {
		s, ctx := open(t), t.Context()
		var all []record.Event
		for i := range 300 {
			all = append(all, event(uint64(2*i+2), 0, "d1"))
		}
		_, err := s.Record(ctx, all, nil)
		ok(t, err)
		one := event(301, 0, "d2")
		_, err = s.Record(ctx, []record.Event{one}, nil)
		ok(t, err)
		same(t, "the newest", must(s.SecurityEvents(ctx, record.Filter{Limit: 1}))(t), all[299:])
		same(t, "the oldest", must(s.EventsAfter(ctx, record.Span{}, 1))(t), all[:1])
		same(t, "around it", must(s.EventsAfter(ctx, record.Span{After: all[148].Place}, 3))(t), []record.Event{all[149], one, all[150]})
	})
	t.Run("many that are given again stay what they were", func(t *testing.T) {
		s, ctx := open(t), t.Context()
		all := many(t, s)
		again := slices.Clone(all[2:1100])
		for i := range again {
			again[i].Agent = "other"
		}
		next := event(10_000, 0, "d1")
		_, err := s.Record(ctx, append(again, next), nil)
		ok(t, err)
		_, err = s.Record(ctx, again[400:420], nil)
		ok(t, err)
		var got []record.Event
		for span := (record.Span{}); ; span.After = got[len(got)-1].Place {
			page := must(s.EventsAfter(ctx, span, 1000))(t)
			if len(page) == 0 {
				break
			}
			got = append(got, page...)
		}
		same(t, "after a crash", got, append(all, next))
	})
	t.Run("of many the oldest go", func(t *testing.T) {
		s, ctx := open(t), t.Context()
		all := many(t, s)
		size := int64(len(`[{"b":1, "a":"\u0000"},{}]`))
		count := func(f record.Span) (n int) {
			for {
				page := must(s.EventsAfter(ctx, f, 1000))(t)
				if len(page) == 0 {
					return n
				}
				n, f.After = n+len(page), page[len(page)-1].Place
			}
		}
		if n := must(s.PruneEvents(ctx, Start.Add(-time.Hour), len(all), 1<<40))(t); n != 0 || count(record.Span{}) != len(all) {
			t.Errorf("%d went, none is too old or too many", n)
		}
		// Of a device exactly, wherever they are.
		mine := newest(all, len(all), func(e record.Event) bool { return e.Device == "d5" })
		if n := must(s.PruneDevice(ctx, "d5", 12, 1<<40))(t); n != len(mine)-12 {
			t.Errorf("%d of %d events of the device went", n, len(mine))
		}
		same(t, "of the device", must(s.SecurityEvents(ctx, record.Filter{Device: "d5"}))(t), mine[:12])
		if must(s.PruneDevice(ctx, "d5", 100, 3*size))(t); len(must(s.SecurityEvents(ctx, record.Filter{Device: "d5"}))(t)) != 3 {
			t.Error("events of a device weigh more than they may")
		}
		left := len(all) - len(mine) + 3
		if n := count(record.Span{}); n != left {
			t.Errorf("%d events are left, want %d", n, left)
		}
		// Of all, at least as many as may stay, and at most a batch more.
		for _, c := range []struct {
			keep  int
			bytes int64
			least int
		}{{900, 1 << 40, 900}, {100_000, 100 * size, 100}} {
			must(s.PruneEvents(ctx, Start, c.keep, c.bytes))(t)
			if n := count(record.Span{}); n < c.least || n > c.least+700 || n >= left {
				t.Errorf("%d events are left of %d, want %d or a batch more", n, left, c.least)
			} else {
				left = n
			}
		}
		newestLeft := must(s.SecurityEvents(ctx, record.Filter{Limit: 1}))(t)
		same(t, "the newest stays", newestLeft, all[len(all)-1:])
		if must(s.PruneEvents(ctx, all[len(all)-4].Enqueued, 100_000, 1<<40))(t); count(record.Span{}) != 4 {
			t.Errorf("%d events are left, want those that are young", count(record.Span{}))
		}
		must(s.PruneEvents(ctx, Start.Add(100*time.Hour), 10, 1<<40))(t)
		if n := count(record.Span{}); n != 0 {
			t.Errorf("%d are left, all are too old", n)
		}
	})
	t.Run("the oldest go", func(t *testing.T) {
		s, ctx := open(t), t.Context()
		all := fill(t, s)
		count := func() int { return len(must(s.SecurityEvents(ctx, record.Filter{}))(t)) }
		if n := must(s.PruneEvents(ctx, Start.Add(-time.Hour), 20, 1<<40))(t); n != 0 || count() != 20 {
			t.Errorf("%d went, none is too old or too many", n)
		}
		if n := must(s.PruneEvents(ctx, all[17].Enqueued, 20, 1<<40))(t); n != 2 || count() != 18 {
			t.Errorf("%d were too old", n)
		}
		if n := must(s.PruneEvents(ctx, Start, 10, 1<<40))(t); n != 8 || count() != 10 {
			t.Errorf("%d were too many", n)
		}
		size := int64(len(`[{"b":1, "a":"\u0000"},{}]`))
		if n := must(s.PruneDevice(ctx, "d1", 100, 2*size))(t); n == 0 || len(must(s.SecurityEvents(ctx, record.Filter{Device: "d1"}))(t)) != 2 {
			t.Errorf("%d of d1 were too large", n)
		}
		if must(s.PruneEvents(ctx, Start, 100, 6*size))(t); count() != 6 {
			t.Errorf("%d are left, want those that fit", count())
		}
		mine := len(must(s.SecurityEvents(ctx, record.Filter{Device: "d0"}))(t))
		must(s.PruneDevice(ctx, "d0", 1, 1<<40))(t)
		if left := len(must(s.SecurityEvents(ctx, record.Filter{Device: "d0"}))(t)); left != 1 || count() != 6-mine+1 {
			t.Errorf("d0 has %d of %d left, all %d", left, mine, count())
		}
		if n := must(s.PruneEvents(ctx, Start.Add(time.Hour), 10, 1<<40))(t); count() != 0 {
			t.Errorf("%d went, all are too old", n)
		}
	})
}

// Activity is what a window.Store promises.
func Activity(t *testing.T, open Open) {
	t.Run("sums and peaks by device", func(t *testing.T) {
		s, ctx := open(t), t.Context()
		for range 2 {
			ok(t, s.AddActivity(ctx, []activity.Count{
				{Kind: activity.MqttD2CMessages, Device: "a", Minute: 10, N: 3}, {Kind: activity.MqttD2CMessages, Device: "a", Minute: 11, N: 1},
				{Kind: activity.MqttD2CMessages, Device: "b", Minute: 12, N: 9}, {Kind: activity.ActiveConnections, Device: "a", Minute: 10, N: 5},
				{Kind: activity.ActiveConnections, Device: "a", Minute: 11, N: 2},
			}))
		}
		same(t, "sums", must(s.Activity(ctx, activity.MqttD2CMessages, 10, 12, 1))(t), []window.Sum{{Device: "a", N: 8}})
		same(t, "loud ones", must(s.Activity(ctx, activity.MqttD2CMessages, 10, 13, 9))(t), []window.Sum{{Device: "b", N: 18}})
		same(t, "peaks", must(s.Activity(ctx, activity.ActiveConnections, 10, 13, 1))(t), []window.Sum{{Device: "a", N: 5}})
		ok(t, s.ForgetActivity(ctx, 11))
		same(t, "after some is forgotten", must(s.Activity(ctx, activity.MqttD2CMessages, 0, 20, 1))(t), []window.Sum{{Device: "a", N: 2}, {Device: "b", N: 18}})
	})
	t.Run("groups are those of the tag at this moment", func(t *testing.T) {
		s, ctx := open(t), t.Context()
		add := func(id, tags string) {
			tw := twin.New(iot.ID{Device: id})
			tw.Tags = json.RawMessage(tags)
			ok(t, s.Create(ctx, device(id), tw))
		}
		add("a", `{"SecurityGroup":"plant ☂"}`)
		add("b", `{"site":{"SecurityGroup":"plant ☂"}}`)
		add("c", `{"SecurityGroup":7}`)
		add("d", `{"SecurityGroup":"default"}`)
		add("e", `{"SecurityGroup":"Plant ☂"}`)
		off := device("f")
		off.Status = registry.Disabled
		ok(t, s.Create(ctx, off, twin.New(off.ID)))
		same(t, "tags", must(s.SecurityGroups(ctx, []string{"a", "b", "c", "d", "nobody"}))(t), map[string]string{"a": "plant ☂", "d": "default"})
		same(t, "members", must(s.GroupMembers(ctx, "plant ☂", false, "", 10))(t), []string{"a"})
		same(t, "of default", must(s.GroupMembers(ctx, "default", true, "", 10))(t), []string{"b", "c", "d"})
		same(t, "a page", must(s.GroupMembers(ctx, "default", true, "b", 1))(t), []string{"c"})
		sizes, untagged, err := s.GroupSizes(ctx, 10)
		ok(t, err)
		same(t, "sizes", sizes, []group.Size{{Name: "Plant ☂", Devices: 1}, {Name: "default", Devices: 1}, {Name: "plant ☂", Devices: 1}})
		if untagged != 3 { // b, c and f
			t.Errorf("%d devices name no group, want 3", untagged)
		}
		few, _, err := s.GroupSizes(ctx, 1)
		ok(t, err)
		same(t, "the first", few, sizes[:1])
		_, err = s.UpdateTwin(ctx, iot.ID{Device: "a"}, func(tw twin.Twin) (twin.Twin, error) {
			tw.Tags = json.RawMessage(`{"SecurityGroup":"Plant ☂"}`)
			return tw, nil
		})
		ok(t, err)
		same(t, "changed", must(s.SecurityGroups(ctx, []string{"a"}))(t), map[string]string{"a": "Plant ☂"})
		same(t, "members then", must(s.GroupMembers(ctx, "Plant ☂", false, "", 10))(t), []string{"a", "e"})
	})
}
