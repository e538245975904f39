package storagetest

import (
	"encoding/json"
	"fmt"
	"testing"
	"time"

	"github.com/vauban-iot/vauban/defender/alert"
	"github.com/vauban-iot/vauban/defender/export"
	"github.com/vauban-iot/vauban/defender/record"
	"github.com/vauban-iot/vauban/fault"
)

// AlertChanges is what every alert.Changes promises.
func AlertChanges(t *testing.T, open Open) {
	sample := func(id string, message uint64) alert.Alert {
		a := alert.Alert{ID: id, Type: "IoT_X", Severity: alert.High, Device: "d", Indicator: id, Day: "2026-01-02", Count: 1, FirstSeen: kept(Start), LastSeen: kept(Start), LastMessage: message}
		a.Add(alert.Evidence{Message: message, Time: kept(Start), Event: "Process", Form: "json", Details: json.RawMessage(`{"a":"☂<"}`)})
		return a
	}
	raise := func(t *testing.T, s Store, a alert.Alert) alert.Alert {
		t.Helper()
		got, _, err := s.Raise(t.Context(), a)
		ok(t, err)
		return got
	}
	behind := func(t *testing.T, s Store, p alert.Place) []alert.Change {
		t.Helper()
		all := must(s.AlertChanges(t.Context(), p, 1000))(t)
		if n := must(s.CountAlertChanges(t.Context(), p, 1000))(t); n != len(all) {
			t.Errorf("%d changes are counted, %d listed", n, len(all))
		}
		return all
	}
	ids := func(cs []alert.Change) (all []string) {
		for _, c := range cs {
			all = append(all, c.ID)
		}
		return all
	}

	t.Run("what changes an alert, and what does not", func(t *testing.T) {
		s, ctx := open(t), t.Context()
		if at := must(s.LastAlertChange(ctx))(t); len(behind(t, s, at)) != 0 || at.After(must(s.LastAlertChange(ctx))(t)) {
			t.Errorf("without an alert: %v", at)
		}
		raise(t, s, sample("a", 1))
		first := behind(t, s, alert.Place{})
		if len(first) != 1 || first[0].ID != "a" || first[0].Born != first[0].Place || !first[0].At.Equal(kept(Start)) || len(first[0].Evidence) != 1 || len(first[0].Remediation) == 0 {
			t.Fatalf("made: %+v", first)
		}
		at := first[0].Place
		moved := func(what string, want bool) {
			t.Helper()
			cs := behind(t, s, at)
			if (len(cs) == 1) != want {
				t.Errorf("%s: %d changes", what, len(cs))
			}
			if len(cs) > 0 {
				if cs[0].Born != first[0].Born || !cs[0].Place.After(at) {
					t.Errorf("%s: %v born %v behind %v", what, cs[0].Place, cs[0].Born, at)
				}
				at = cs[0].Place
			}
		}
		for count := 2; count <= 9; count++ {
			a := sample("a", uint64(count))
			a.LastSeen = Start.Add(time.Duration(count) * time.Minute)
			raise(t, s, a)
			moved(fmt.Sprint("count ", count), count == 2 || count == 4 || count == 8)
		}
		raise(t, s, sample("a", 3))
		moved("a replay", false)
		later := Start.Add(time.Hour)
		must(s.Judge(ctx, "a", alert.Verdict{Status: alert.Resolved, By: "op", Time: later}))(t)
		if cs := behind(t, s, at); len(cs) != 1 || !cs[0].At.Equal(kept(later)) || !cs[0].Closed() {
			t.Errorf("resolved: %+v", cs)
		}
		moved("resolved", true)
		raise(t, s, sample("a", 20))
		moved("open again", true)
		must(s.Suppress(ctx, alert.Suppression{ID: "s", Device: "d", By: "op", Created: later, Expires: later.Add(time.Hour)}))(t)
		moved("held back", true)
		must(s.Unsuppress(ctx, "s", later))(t)
		moved("shown", true)
		must(s.Suppress(ctx, alert.Suppression{ID: "s2", Device: "d", By: "op", Created: later, Expires: later.Add(time.Hour)}))(t)
		moved("held back again", true)
		must(s.Wake(ctx, later.Add(2*time.Hour)))(t)
		moved("woken", true)
		must(s.Wake(ctx, later.Add(2*time.Hour)))(t)
		moved("nothing to wake", false)
		must(s.Judge(ctx, "a", alert.Verdict{Status: alert.Dismissed, By: "op", Time: later}))(t)
		moved("dismissed", true)
		must(s.Judge(ctx, "a", alert.Verdict{Status: alert.Dismissed, By: "op", Time: later}))(t)
		moved("dismissed again", false)
		if cs := behind(t, s, must(s.LastAlertChange(ctx))(t)); len(cs) != 0 {
			t.Errorf("behind the last: %+v", cs)
		}
	})

	t.Run("order, pages, and many at once", func(t *testing.T) {
		s, ctx := open(t), t.Context()
		for i := range 5 {
			raise(t, s, sample(fmt.Sprint("a", i), 1))
		}
		must(s.Judge(ctx, "a1", alert.Verdict{Status: alert.Resolved, Time: Start}))(t)
		all := behind(t, s, alert.Place{})
		same(t, "in the order of changes", ids(all), []string{"a0", "a2", "a3", "a4", "a1"})
		page := must(s.AlertChanges(ctx, all[1].Place, 2))(t)
		same(t, "a page", ids(page), []string{"a3", "a4"})
		at := must(s.LastAlertChange(ctx))(t)
		must(s.Suppress(ctx, alert.Suppression{ID: "s", Device: "d", By: "op", Created: Start, Expires: Start.Add(time.Hour)}))(t)
		held := behind(t, s, at)
		same(t, "held back at once", ids(held), []string{"a0", "a2", "a3", "a4"})
		same(t, "the rest of those", ids(behind(t, s, held[1].Place)), []string{"a3", "a4"})
		at = must(s.LastAlertChange(ctx))(t)
		must(s.DismissAggregate(ctx, alert.AggregateKey{Day: "2026-01-02", Type: "IoT_X"}, alert.Verdict{Status: alert.Dismissed, By: "op", Time: Start}))(t)
		same(t, "dismissed at once", ids(behind(t, s, at)), []string{"a0", "a1", "a2", "a3", "a4"})
		if n := must(s.CountAlertChanges(ctx, alert.Place{}, 3))(t); n != 3 {
			t.Errorf("counted up to 3: %d", n)
		}
	})

	t.Run("alerts of a time", func(t *testing.T) {
		s, ctx := open(t), t.Context()
		for i := range 4 {
			a := sample(fmt.Sprint("a", i), 1)
			a.LastSeen = Start.Add(time.Duration(i) * time.Hour)
			raise(t, s, a)
		}
		list := func(from, to time.Time, after uint64, limit int) []string {
			return ids(must(s.AlertsChanged(ctx, from, to, after, limit))(t))
		}
		same(t, "all", list(time.Time{}, time.Time{}, 0, 0), []string{"a0", "a1", "a2", "a3"})
		same(t, "a part", list(kept(Start.Add(time.Hour)), kept(Start.Add(3*time.Hour)), 0, 0), []string{"a1", "a2"})
		first := must(s.AlertsChanged(ctx, time.Time{}, time.Time{}, 0, 1))(t)
		same(t, "the next page", list(time.Time{}, time.Time{}, first[0].Sequence, 2), []string{"a1", "a2"})
	})

	t.Run("a reader who continues misses nothing, whoever writes", func(t *testing.T) {
		s, ctx := open(t), t.Context()
		stop := make(chan struct{})
		seen := make(chan map[string]alert.Status)
		go func() {
			got := make(map[string]alert.Status)
			defer func() { seen <- got }()
			var at alert.Place
			for stopping := false; ; {
				select {
				case <-stop:
					stopping = true
				default:
				}
				cs, err := s.AlertChanges(ctx, at, 7)
				if err != nil || stopping && len(cs) == 0 {
					return
				}
				for _, c := range cs {
					got[c.ID] = c.Status
					at = c.Place
				}
			}
		}()
		parallel(t, 16, func(i int) error {
			for j := range 5 {
				id := fmt.Sprintf("%d/%d", i, j)
				if _, err := s.Record(ctx, nil, []alert.Alert{sample(id, 1)}); err != nil {
					return err
				}
				if _, err := s.Judge(ctx, id, alert.Verdict{Status: alert.Resolved, Time: Start}); err != nil {
					return err
				}
				if _, _, err := s.Raise(ctx, sample(id, 2)); err != nil {
					return err
				}
			}
			return nil
		})
		close(stop)
		got := <-seen
		open := 0
		for _, st := range got {
			if st == alert.Open {
				open++
			}
		}
		if open != 80 {
			t.Errorf("the reader saw %d alerts, %d as they are at the end, of 80", len(got), open)
		}
	})

	t.Run("events in order", func(t *testing.T) {
		s, ctx := open(t), t.Context()
		var events []record.Event
		for i := range uint64(3) {
			for j := range 2 {
				events = append(events, record.Event{Place: record.Place{Message: 10 + i, Ordinal: j}, Device: "d", Enqueued: kept(Start.Add(time.Duration(i) * time.Hour)), Name: "Process", Details: []json.RawMessage{json.RawMessage(`{"a":1}`)}})
			}
		}
		must(s.Record(ctx, events, nil))(t)
		places := func(span record.Span, limit int) (all []record.Place) {
			for _, e := range must(s.EventsAfter(ctx, span, limit))(t) {
				all = append(all, e.Place)
			}
			return all
		}
		same(t, "all", places(record.Span{}, 0), []record.Place{{Message: 10}, {Message: 10, Ordinal: 1}, {Message: 11}, {Message: 11, Ordinal: 1}, {Message: 12}, {Message: 12, Ordinal: 1}})
		same(t, "a page", places(record.Span{After: record.Place{Message: 10}}, 2), []record.Place{{Message: 10, Ordinal: 1}, {Message: 11}})
		same(t, "a time", places(record.Span{From: kept(Start.Add(time.Hour)), To: kept(Start.Add(2 * time.Hour))}, 0), []record.Place{{Message: 11}, {Message: 11, Ordinal: 1}})
		if n := must(s.CountEvents(ctx, record.Place{Message: 11}, 100))(t); n != 3 {
			t.Errorf("%d events are behind", n)
		}
		if n := must(s.CountEvents(ctx, record.Place{}, 4))(t); n != 4 {
			t.Errorf("counted up to 4: %d", n)
		}
	})
}

// Exports is what every export.Store promises.
func Exports(t *testing.T, open Open) {
	config := func(name string) export.Config {
		return export.Config{Name: name, Kind: export.Webhook, Data: []export.Data{export.Alerts}, Format: export.OCSF, URL: "https://x.example/☂", Token: "s3cret", Headers: map[string]string{"K": "s3cret"}}
	}
	put := func(e export.Export) func(*export.Export) (export.Export, error) {
		return func(*export.Export) (export.Export, error) { return e, nil }
	}
	s, ctx := open(t), t.Context()
	_, err := s.Export(ctx, "a")
	wantKind(t, "a missing export", err, fault.NotFound)
	wantKind(t, "deleting it", s.DeleteExport(ctx, "a"), fault.NotFound)
	wantKind(t, "its state", s.SetExportState(ctx, "a", 1, export.State{}), fault.PreconditionFailed)

	ok(t, s.PutExport(ctx, "b", put(export.Export{Config: config("b")})))
	state := export.State{Alerts: alert.Place{Change: 3, Sequence: 1<<53 - 1}, Events: record.Place{Message: 1 << 52, Ordinal: 4}, Recommendations: 9, Error: "no ☂", FailedSince: kept(Start), Failures: 2, Sent: 5}
	ok(t, s.PutExport(ctx, "a", func(old *export.Export) (export.Export, error) {
		if old != nil {
			t.Errorf("%+v stands already", old)
		}
		return export.Export{Config: config("x"), State: state}, nil
	}))
	wantNo(t, "a change that refuses", s.PutExport(ctx, "a", func(*export.Export) (export.Export, error) { return export.Export{}, errNo }))
	a := must(s.Export(ctx, "a"))(t)
	same(t, "kept", a, export.Export{Config: config("a"), Generation: a.Generation, State: state})
	all := must(s.Exports(ctx))(t)
	if len(all) != 2 || all[0].Name != "a" || all[1].Name != "b" {
		t.Errorf("listed: %+v", all)
	}
	state.Sent = 6
	ok(t, s.SetExportState(ctx, "a", a.Generation, state))
	same(t, "its new state", must(s.Export(ctx, "a"))(t).State, state)
	ok(t, s.PutExport(ctx, "a", func(old *export.Export) (export.Export, error) {
		next := *old
		next.Disabled = true
		return next, nil
	}))
	b := must(s.Export(ctx, "a"))(t)
	if b.Generation == a.Generation || !b.Disabled || b.State.Sent != 6 {
		t.Errorf("changed: %+v", b)
	}
	wantKind(t, "the state of an old generation", s.SetExportState(ctx, "a", a.Generation, export.State{}), fault.PreconditionFailed)
	ok(t, s.DeleteExport(ctx, "a"))
	ok(t, s.PutExport(ctx, "a", put(export.Export{Config: config("a")})))
	if c := must(s.Export(ctx, "a"))(t); c.Generation == a.Generation || c.Generation == b.Generation {
		t.Errorf("a generation is used again: %d", c.Generation)
	}
	for i := range export.MaxExports - 2 {
		ok(t, s.PutExport(ctx, fmt.Sprint("n", i), put(export.Export{Config: config("n")})))
	}
	wantKind(t, "one too many", s.PutExport(ctx, "z", put(export.Export{Config: config("z")})), fault.QuotaExceeded)
	ok(t, s.PutExport(ctx, "b", put(export.Export{Config: config("b")})))
}
