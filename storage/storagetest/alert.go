package storagetest

import (
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/vauban-iot/vauban/defender/alert"
	"github.com/vauban-iot/vauban/fault"
)

// Alerts is what every alert.Store promises.
func Alerts(t *testing.T, open Open) {
	sample := func(id, device, indicator string, message uint64) alert.Alert {
		return alert.Alert{ID: id, Type: "IoT_X", Severity: alert.High, Title: "t ☂", Description: "d '%_", Device: device, Module: "m",
			Indicator: indicator, Source: "list.txt:3", Day: "2026-01-02", Remote: "192.0.2.1", Local: "10.0.0.1", Protocol: "tcp", Direction: "out",
			Count: 2, FirstSeen: kept(Start), LastSeen: kept(Start), LastMessage: message,
			Status: alert.Open, Remediation: alert.Lookup("IoT_X").Remediation}
	}
	raise := func(t *testing.T, s Store, a alert.Alert) (alert.Alert, bool) {
		t.Helper()
		got, created, err := s.Raise(t.Context(), a)
		ok(t, err)
		return got, created
	}

	t.Run("repeats are counted, replays are not", func(t *testing.T) {
		s, ctx := open(t), t.Context()
		want := sample("a1", "d", "192.0.2.0/24", 10)
		got, created := raise(t, s, want)
		want.Sequence = got.Sequence
		same(t, "first", got, want)
		if !created || got.Sequence == 0 {
			t.Errorf("first: created %v, sequence %d", created, got.Sequence)
		}

		again := sample("a2", "d", "192.0.2.0/24", 11)
		again.Count, again.LastSeen, again.Remote, again.FirstSeen = 3, Start.Add(time.Hour), "192.0.2.9", Start.Add(time.Hour)
		want.Count, want.LastSeen, want.LastMessage = 5, kept(Start.Add(time.Hour)), 11
		got, created = raise(t, s, again)
		same(t, "second", got, want)
		if created {
			t.Error("a repeat made a second alert")
		}

		for _, message := range []uint64{11, 10, 1} {
			replay := again
			replay.LastMessage, replay.LastSeen = message, Start.Add(5*time.Hour)
			got, created = raise(t, s, replay)
			same(t, "replay", got, want)
			if created {
				t.Error("a replay made a second alert")
			}
		}
		// What is found by looking back makes an alert, and changes none.
		back := again
		back.Retro, back.LastMessage = true, 99
		got, created = raise(t, s, back)
		same(t, "looking back", got, want)
		back.Day, back.LastSeen = "2026-01-01", kept(Start)
		if got, again := raise(t, s, back); created || !again || got.Retro {
			t.Errorf("looking back: created %v, then %v: %+v", created, again, got)
		}
		// A message that arrives late counts, but time does not go back.
		late := again
		late.LastMessage, late.LastSeen = 12, Start.Add(-time.Hour)
		want.Count, want.LastMessage = 8, 12
		got, _ = raise(t, s, late)
		same(t, "late", got, want)
		same(t, "listed", must(s.Alerts(ctx, alert.Filter{Before: want.Sequence + 1}))(t), []alert.Alert{want})
	})

	t.Run("device, module, indicator and day tell alerts apart", func(t *testing.T) {
		s := open(t)
		base := sample("0", "d", "i", 1)
		raise(t, s, base)
		for i, change := range []func(*alert.Alert){
			func(a *alert.Alert) { a.Device = "D" },
			func(a *alert.Alert) { a.Module = "" },
			func(a *alert.Alert) { a.Indicator = "I" },
			func(a *alert.Alert) { a.Day = "2026-01-03" },
		} {
			a := base
			a.ID = fmt.Sprint(i + 1)
			change(&a)
			if _, created := raise(t, s, a); !created {
				t.Errorf("change %d was taken for a repeat", i)
			}
		}
		other := sample("0", "d2", "i", 1)
		_, _, err := s.Raise(t.Context(), other)
		wantKind(t, "an id that is taken", err, fault.AlreadyExists)
	})

	t.Run("pages, newest first", func(t *testing.T) {
		s, ctx := open(t), t.Context()
		var all []alert.Alert
		for i := range 130 {
			a, _ := raise(t, s, sample(fmt.Sprint(i), fmt.Sprintf("d%d", i%2), fmt.Sprint(i), 1))
			if i > 0 && a.Sequence <= all[0].Sequence {
				t.Errorf("sequence %d follows %d", a.Sequence, all[0].Sequence)
			}
			all = slices.Insert(all, 0, a)
		}
		same(t, "default limit", must(s.Alerts(ctx, alert.Filter{}))(t), all[:100])
		same(t, "all", must(s.Alerts(ctx, alert.Filter{Limit: 5000}))(t), all)
		same(t, "next page", must(s.Alerts(ctx, alert.Filter{Before: all[9].Sequence, Limit: 10}))(t), all[10:20])
		same(t, "what is new", must(s.Alerts(ctx, alert.Filter{After: all[3].Sequence}))(t), all[:3])
		same(t, "nothing new", must(s.Alerts(ctx, alert.Filter{After: 1 << 63}))(t), []alert.Alert{})
		var odd []alert.Alert
		for _, a := range all {
			if a.Device == "d1" {
				odd = append(odd, a)
			}
		}
		same(t, "of one device", must(s.Alerts(ctx, alert.Filter{Device: "d1"}))(t), odd)
		same(t, "page of one device", must(s.Alerts(ctx, alert.Filter{Device: "d1", Before: odd[4].Sequence, After: odd[8].Sequence, Limit: 9}))(t), odd[5:8])
		same(t, "of a pattern", must(s.Alerts(ctx, alert.Filter{Device: "d%"}))(t), []alert.Alert{})
	})

	t.Run("concurrent raises make one alert and lose no count", func(t *testing.T) {
		s, ctx := open(t), t.Context()
		made := make([]bool, 20)
		parallel(t, len(made), func(i int) error {
			// The same message number everywhere: of these, exactly the first counts.
			_, created, err := s.Raise(ctx, sample(fmt.Sprint("r", i), "d", "i", 7))
			made[i] = created
			return err
		})
		n := 0
		for _, m := range made {
			if m {
				n++
			}
		}
		all := must(s.Alerts(ctx, alert.Filter{}))(t)
		if n != 1 || len(all) != 1 || all[0].Count != 2 {
			t.Errorf("created %d times, stored %+v; want one alert with count 2", n, all)
		}
	})

	keptOf := func(t *testing.T, s Store) (ids []string) {
		t.Helper()
		for _, a := range must(s.Alerts(t.Context(), alert.Filter{}))(t) {
			ids = append(ids, a.ID)
		}
		slices.Reverse(ids)
		return ids
	}

	t.Run("what is kept", func(t *testing.T) {
		s, ctx := open(t), t.Context()
		at := func(day int) time.Time { return Start.Add(time.Duration(day) * 24 * time.Hour) }
		for i, id := range []string{"open", "dismissed", "resolved", "suppressed", "late", "open2", "grown", "resolved2"} {
			raise(t, s, sample(id, id, "192.0.2.1", uint64(i+1)))
		}
		judge := func(id string, status alert.Status, day int) {
			t.Helper()
			must(s.Judge(ctx, id, alert.Verdict{Status: status, By: "ada", Time: at(day)}))(t)
		}
		judge("late", alert.Resolved, 9) // closed later than those behind it
		judge("dismissed", alert.Dismissed, 2)
		judge("resolved", alert.Resolved, 3)
		judge("resolved2", alert.Resolved, 5)
		judge("grown", alert.Resolved, 1)
		again := sample("x", "grown", "192.0.2.1", 99)
		again.LastSeen = at(2)
		raise(t, s, again) // it is open again
		must(s.Suppress(ctx, alert.Suppression{ID: "s", Device: "suppressed", By: "ada", Created: at(1), Expires: at(50)}))(t)
		left := func(what string, want ...string) {
			t.Helper()
			same(t, what, keptOf(t, s), want)
		}
		prune := func(day, keep, wantOld, wantMany int) {
			t.Helper()
			old, many, err := s.PruneAlerts(ctx, at(day), keep)
			ok(t, err)
			if old != wantOld || many != wantMany {
				t.Errorf("forgotten: %d of age, %d beyond %d; want %d, %d", old, many, keep, wantOld, wantMany)
			}
		}
		prune(2, 100, 0, 0)
		left("closed on the day itself", "open", "dismissed", "resolved", "suppressed", "late", "open2", "grown", "resolved2")
		prune(4, 100, 2, 0)
		left("closed before the fourth day", "open", "suppressed", "late", "open2", "grown", "resolved2")
		prune(4, 6, 0, 0)
		prune(4, 5, 0, 1)
		left("the first that was closed", "open", "suppressed", "late", "open2", "grown")
		prune(4, 3, 0, 2)
		left("closed before suppressed", "open", "open2", "grown")
		prune(4, 1, 0, 2)
		left("the oldest open ones, when there is nothing else", "grown")
		prune(100, 1, 0, 0)
		left("open ones know no age", "grown")
		raise(t, s, sample("many", "many", "192.0.2.1", 1))

		// Dismissals of a type and day go with the alerts they were about.
		key := alert.AggregateKey{Type: "IoT_X", Day: "2026-01-02"}
		must(s.DismissAggregate(ctx, key, alert.Verdict{By: "ada", Time: at(3)}))(t)
		prune(4, 100, 2, 0)
		got, _ := raise(t, s, sample("after", "d", "192.0.2.1", 1))
		same(t, "after the dismissal is forgotten", got.Status, alert.Open)
	})

	t.Run("more than a step at once", func(t *testing.T) {
		s, ctx := open(t), t.Context()
		var as []alert.Alert
		for i := range 1100 {
			as = append(as, sample(fmt.Sprint("a", i), fmt.Sprint("d", i), "192.0.2.1", uint64(i+1)))
		}
		must(s.Record(ctx, nil, as))(t)
		must(s.DismissAggregate(ctx, alert.AggregateKey{Type: "IoT_X", Day: "2026-01-02"}, alert.Verdict{By: "ada", Time: Start}))(t)
		old, many, err := s.PruneAlerts(ctx, Start.Add(time.Hour), 10)
		ok(t, err)
		if old != 1100 || many != 0 {
			t.Errorf("%d and %d were forgotten, want all 1100 by age", old, many)
		}
	})

	t.Run("a reader who continues misses nothing", func(t *testing.T) {
		s, ctx := open(t), t.Context()
		stop := make(chan struct{})
		seen := make(chan map[string]bool)
		go func() {
			got := map[string]bool{}
			defer func() { seen <- got }()
			var last uint64
			for stopping := false; ; {
				select {
				case <-stop:
					stopping = true
				default:
				}
				as, err := s.Alerts(ctx, alert.Filter{After: last, Limit: 1000})
				if err != nil || (stopping && len(as) == 0) {
					return
				}
				for _, a := range as {
					got[a.ID] = true
					last = max(last, a.Sequence)
				}
			}
		}()
		parallel(t, 20, func(i int) error {
			for j := range 10 {
				id := fmt.Sprintf("%d/%d", i, j)
				if _, _, err := s.Raise(ctx, sample(id, "d", id, 1)); err != nil {
					return err
				}
			}
			return nil
		})
		close(stop)
		if got := <-seen; len(got) != 200 {
			t.Errorf("the reader saw %d of 200 alerts", len(got))
		}
	})
}
