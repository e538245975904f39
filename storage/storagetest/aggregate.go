package storagetest

import (
	"fmt"
	"testing"
	"time"

	"github.com/vauban-iot/vauban/defender/alert"
	"github.com/vauban-iot/vauban/fault"
)

// Aggregates is what every alert.AggregateStore promises.
func Aggregates(t *testing.T, open Open) {
	serial := 0
	raise := func(t *testing.T, s Store, device, kind, day string, severity alert.Severity, count int) alert.Alert {
		t.Helper()
		serial++
		a, _, err := s.Raise(t.Context(), alert.Alert{
			ID: fmt.Sprintf("a%d", serial), Type: kind, Severity: severity, Device: device, Indicator: fmt.Sprint(serial), Day: day, Count: count,
			FirstSeen: Start.Add(time.Duration(serial) * time.Minute), LastSeen: Start.Add(time.Duration(serial) * time.Minute),
		})
		ok(t, err)
		return a
	}
	verdict := alert.Verdict{Status: alert.Dismissed, By: "me", Time: kept(Start)}
	judge := func(t *testing.T, s Store, a alert.Alert, status alert.Status) {
		t.Helper()
		_, err := s.Judge(t.Context(), a.ID, alert.Verdict{Status: status, By: "me", Time: Start})
		ok(t, err)
	}
	key := func(day, kind string) alert.AggregateKey { return alert.AggregateKey{Day: day, Type: kind} }
	bare := func(all []alert.Aggregate) (keys []string) {
		for _, a := range all {
			keys = append(keys, fmt.Sprintf("%s %s %s %d/%d", a.Day, a.Type, a.Severity, a.Count, a.Open))
		}
		return keys
	}

	t.Run("sums of a type and a day, the newest first", func(t *testing.T) {
		s, ctx := open(t), t.Context()
		same(t, "of nothing", must(s.Aggregates(ctx, alert.AggregateKey{}, 10))(t), []alert.Aggregate{})
		raise(t, s, "d1", "T", "2026-01-02", alert.Low, 3)
		last := raise(t, s, "d2", "T", "2026-01-02", alert.High, 4)
		raise(t, s, "d1", "T", "2026-01-02", alert.Medium, 2)
		raise(t, s, "", "H", "2026-01-02", alert.Informational, 1)
		raise(t, s, "d1", "T", "2026-01-01", alert.Low, 1)
		raise(t, s, "d1", "t", "2026-01-03", alert.Medium, 1)
		gone := raise(t, s, "d1", "G", "2026-01-03", alert.High, 1)
		judge(t, s, gone, alert.Resolved)
		half := raise(t, s, "d3", "T", "2026-01-01", alert.High, 5)
		judge(t, s, half, alert.Dismissed)

		all := must(s.Aggregates(ctx, alert.AggregateKey{}, 10))(t)
		same(t, "all", bare(all), []string{"2026-01-03 t Medium 1/1", "2026-01-02 H Informational 1/1", "2026-01-02 T High 9/3", "2026-01-01 T High 6/1"})
		same(t, "devices", all[2].Devices[1], alert.DeviceCount{Device: "d2", Count: 4, Last: kept(last.LastSeen)})
		if d := all[2].Devices[0]; d.Device != "d1" || d.Count != 5 || !all[2].OfDevices || all[1].OfDevices || all[1].Devices != nil || all[2].Dismissed {
			t.Errorf("got %+v and %+v", all[1], all[2])
		}
		var pages []alert.Aggregate
		for after := (alert.AggregateKey{}); ; {
			page := must(s.Aggregates(ctx, after, 1))(t)
			if pages = append(pages, page...); len(page) == 0 {
				break
			}
			after = key(page[0].Day, page[0].Type)
		}
		same(t, "page by page", pages, all)
		same(t, "one", must(s.Aggregate(ctx, key("2026-01-02", "T")))(t), all[2])
		same(t, "one that is over", bare([]alert.Aggregate{must(s.Aggregate(ctx, key("2026-01-03", "G")))(t)}), []string{"2026-01-03 G High 1/0"})
		_, err := s.Aggregate(ctx, key("2026-01-02", "t"))
		wantKind(t, "one that is not there", err, fault.NotFound)
	})

	t.Run("the devices with the most, and no more than there may be", func(t *testing.T) {
		s, ctx := open(t), t.Context()
		for i := range alert.MaxTopDevices + 2 {
			raise(t, s, fmt.Sprintf("d%02d", i), "T", "2026-01-02", alert.Low, i+1)
		}
		got := must(s.Aggregates(ctx, alert.AggregateKey{}, 10))(t)[0].Devices
		if len(got) != alert.MaxTopDevices || got[0].Device != "d11" || got[9].Device != "d02" {
			t.Errorf("got %+v", got)
		}
	})

	t.Run("a dismissed day stays dismissed", func(t *testing.T) {
		s, ctx := open(t), t.Context()
		k := key("2026-01-02", "T")
		_, err := s.DismissAggregate(ctx, k, verdict)
		wantKind(t, "nothing to dismiss", err, fault.NotFound)
		if a := raise(t, s, "d0", "T", "2026-01-02", alert.High, 1); a.Status != alert.Open {
			t.Errorf("what was refused dismissed an alert: %+v", a)
		}
		resolved := raise(t, s, "d1", "T", "2026-01-02", alert.High, 1)
		judge(t, s, resolved, alert.Resolved)
		raise(t, s, "d1", "U", "2026-01-02", alert.High, 1)
		raise(t, s, "d1", "T", "2026-01-03", alert.High, 1)
		if n := must(s.DismissAggregate(ctx, k, verdict))(t); n != 2 {
			t.Errorf("%d alerts were dismissed, want 2", n)
		}
		later := verdict
		later.Time, later.By = Start.Add(time.Hour), "you"
		if n := must(s.DismissAggregate(ctx, k, later))(t); n != 0 {
			t.Errorf("dismissing again changed %d alerts", n)
		}
		// One that nobody had seen yet, and one that grows.
		fresh := raise(t, s, "d9", "T", "2026-01-02", alert.High, 1)
		if fresh.Status != alert.Dismissed || fresh.StatusBy != "me" || !fresh.StatusTime.Equal(verdict.Time) {
			t.Errorf("a later alert of the day is %+v", fresh)
		}
		again := resolved
		again.Count = 4
		grown, created, err := s.Raise(ctx, again)
		if ok(t, err); created || grown.Status != alert.Dismissed || grown.Count != 5 {
			t.Errorf("an alert that grows is %+v", grown)
		}
		same(t, "read again", must(s.Alert(ctx, fresh.ID))(t).Status, alert.Dismissed)
		same(t, "left", bare(must(s.Aggregates(ctx, alert.AggregateKey{}, 10))(t)), []string{"2026-01-03 T High 1/1", "2026-01-02 U High 1/1"})
		if a := must(s.Aggregate(ctx, k))(t); !a.Dismissed || a.Open != 0 || a.Count != 7 {
			t.Errorf("the dismissed one is %+v", a)
		}
	})

	t.Run("a suppression does not open what is dismissed", func(t *testing.T) {
		s, ctx := open(t), t.Context()
		a := raise(t, s, "d", "T", "2026-01-02", alert.High, 1)
		must(s.Suppress(ctx, alert.Suppression{ID: "s", Type: "T", By: "me", Created: Start, Expires: Start.Add(time.Hour)}))(t)
		must(s.DismissAggregate(ctx, key("2026-01-02", "T"), verdict))(t)
		must(s.Unsuppress(ctx, "s", Start))(t)
		same(t, "status", must(s.Alert(ctx, a.ID))(t).Status, alert.Dismissed)
	})

	t.Run("no alert slips through a dismissal", func(t *testing.T) {
		s, ctx := open(t), t.Context()
		raise(t, s, "first", "T", "2026-01-02", alert.High, 1)
		parallel(t, 21, func(i int) error {
			if i == 10 {
				_, err := s.DismissAggregate(ctx, key("2026-01-02", "T"), verdict)
				return err
			}
			id := fmt.Sprintf("p%d", i)
			_, _, err := s.Raise(ctx, alert.Alert{ID: id, Type: "T", Severity: alert.Low, Device: id, Day: "2026-01-02", Count: 1, FirstSeen: Start, LastSeen: Start})
			return err
		})
		if a := must(s.Aggregate(ctx, key("2026-01-02", "T")))(t); a.Open != 0 || a.Count != 21 {
			t.Errorf("after all: %+v", a)
		}
	})

	t.Run("analytics", func(t *testing.T) {
		s, ctx := open(t), t.Context()
		same(t, "of nothing", must(s.AlertAnalytics(ctx, "2026-01-01", 3))(t), alert.Analytics{})
		for i, n := range []int{1, 4, 3, 2} {
			for range n {
				raise(t, s, fmt.Sprintf("d%d", i), "A", "2026-01-02", alert.Medium, 7)
			}
		}
		raise(t, s, "d0", "B", "2026-01-03", alert.Low, 1)
		raise(t, s, "d1", "A", "2026-01-03", alert.High, 1)
		raise(t, s, "d1", "C", "2025-12-31", alert.Informational, 1)
		raise(t, s, "d1", "D", "2026-01-03", alert.Informational, 1)
		raise(t, s, "", "E", "2026-01-03", alert.High, 100)
		judge(t, s, raise(t, s, "d0", "F", "2026-01-03", alert.High, 1), alert.Dismissed)
		got := must(s.AlertAnalytics(ctx, "2026-01-02", 3))(t)
		for i := range got.Devices {
			got.Devices[i].Last = time.Time{}
		}
		same(t, "analytics", got, alert.Analytics{
			Total: alert.SeverityCount{High: 2, Medium: 10, Low: 1},
			Days: []alert.DayCount{
				{Day: "2026-01-02", SeverityCount: alert.SeverityCount{Medium: 10}}, {Day: "2026-01-03", SeverityCount: alert.SeverityCount{High: 1, Low: 1}},
			},
			Devices: []alert.DeviceCount{{Device: "d1", Count: 7}, {Device: "d2", Count: 3}, {Device: "d0", Count: 2}},
			Types:   []alert.TypeCount{{Type: "A", Severity: alert.High, Count: 11}, {Type: "B", Severity: alert.Low, Count: 1}, {Type: "C", Severity: alert.Informational, Count: 1}},
		})
	})

	t.Run("alerts by when they began, and about the hub", func(t *testing.T) {
		s, ctx := open(t), t.Context()
		a, b, hub := raise(t, s, "d", "T", "2026-01-02", alert.Low, 1), raise(t, s, "d", "T", "2026-01-02", alert.Low, 1), raise(t, s, "", "T", "2026-01-02", alert.Low, 1)
		same(t, "from", must(s.Alerts(ctx, alert.Filter{From: b.FirstSeen}))(t), []alert.Alert{hub, b})
		same(t, "to", must(s.Alerts(ctx, alert.Filter{To: b.FirstSeen}))(t), []alert.Alert{b, a})
		same(t, "between", must(s.Alerts(ctx, alert.Filter{From: b.FirstSeen, To: b.FirstSeen}))(t), []alert.Alert{b})
		same(t, "of the hub", must(s.Alerts(ctx, alert.Filter{OfHub: true}))(t), []alert.Alert{hub})
	})
}
