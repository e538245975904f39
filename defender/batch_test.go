package defender

import (
	"context"
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/vauban-iot/vauban/bus"
	"github.com/vauban-iot/vauban/defender/record"
	"github.com/vauban-iot/vauban/wire/secmsg"
)

// gathers handles entries as a log gives them that has the next one already.
func (b *bench) gathers(t *testing.T, entries []bus.Entry) {
	t.Helper()
	for i, e := range entries {
		e.More = i < len(entries)-1
		if err := b.entry(t.Context(), e); err != nil && !errors.Is(err, bus.ErrLater) {
			t.Fatal(err)
		}
	}
}

// A crash between what is kept and the place in the log: what was counted comes again together with what was not.
func TestDetector_GatheredReplaysCountOnce(t *testing.T) {
	t.Parallel()
	b := newBench(t, setOf("203.0.113.5"))
	body := activity(flow("10.0.0.1:1", "203.0.113.5:1", "TCP", 1, 1))
	for range 3 {
		submit(t, b.log, message("a", "", "", noon, body), message("a", "", "", noon, body))
	}
	b.gathers(t, b.log.entries[:2])
	if got := b.alerts.alerts; len(got) != 1 || got[0].Count != 4 {
		t.Fatalf("before the crash: %+v, want one alert of 4", got)
	}
	again := newBench(t, setOf("203.0.113.5"))
	again.alerts = b.alerts
	again.cfg.Alerts = b.alerts
	again.gathers(t, b.log.entries)
	if got := b.alerts.alerts; len(got) != 1 || got[0].Count != 6 {
		t.Errorf("after the crash: %+v, want one alert of 6", got)
	}
}

// What one lead could not keep is left to who leads next: it must not come with what is read later.
func TestDetector_BeginsWithNothingGathered(t *testing.T) {
	t.Parallel()
	store := &failing{memoryAlerts: new(memoryAlerts), failures: 1}
	b := newBench(t, setOf("203.0.113.5"))
	b.cfg.Alerts = store
	body := activity(flow("10.0.0.1:1", "203.0.113.5:1", "TCP", 1, 1))
	submit(t, b.log, message("a", "", "", noon, body))
	if err := b.entry(t.Context(), b.log.entries[0]); err == nil {
		t.Fatal("the store did not fail")
	}
	b.log.entries = nil // others did it
	submit(t, b.log, message("b", "", "", noon, body))
	b.log.entries[0].Sequence = 2
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- b.Run(ctx) }()
	until(t, "the entry of the second lead is kept", func() bool {
		store.mu.Lock()
		defer store.mu.Unlock()
		return len(store.events) > 0
	})
	cancel()
	if err := <-done; err != nil {
		t.Fatal(err)
	}
	if store.events[0].Device != "b" || len(store.events) != 1 {
		t.Errorf("kept %+v, want the event of b alone", store.events)
	}
}

// Small messages that unfold to many rows fill a batch by their rows.
func TestDetector_GathersByWhatIsKept(t *testing.T) {
	t.Parallel()
	b := newBench(t, setOf("203.0.113.5"))
	b.cfg.Now = func() time.Time { return noon } // no time passes
	var flows []secmsg.Flow
	for range 1000 {
		flows = append(flows, flow("10.0.0.1:1", "192.0.2.1:2", "TCP", 1, 1))
	}
	body := activity(flows...)
	for range maxBatch/len(body) - 1 {
		submit(t, b.log, message("a", "", "", noon, body))
	}
	for i, e := range b.log.entries {
		e.More = true
		if err := b.entry(t.Context(), e); err == nil {
			var rows int
			for _, v := range b.alerts.events {
				for _, d := range v.Details {
					rows += len(d)
				}
			}
			if rows > 2*maxBatch {
				t.Errorf("%d bytes of rows were gathered before they were kept", rows)
			}
			return
		} else if !errors.Is(err, bus.ErrLater) {
			t.Fatalf("entry %d: %v", i, err)
		}
	}
	t.Error("the messages were gathered without an end")
}

// Messages of a batch have their own events and no others', also when the memory of an earlier batch is used again.
func TestBatch_WhoseEvents(t *testing.T) {
	t.Parallel()
	var b batch
	for round := range 3 {
		want := []int{2, 1, 3, 1}
		for i, n := range want {
			r, all := reading{first: len(b.events)}, b.events
			for range n {
				all = append(all, record.Event{Device: fmt.Sprint(round, "-", i)})
			}
			b.add(r, all)
		}
		b.complete()
		for i, n := range want {
			got := b.readings[i].events
			if len(got) != n || cap(got) != n {
				t.Fatalf("message %d has %d events with room for %d, want %d", i, len(got), cap(got), n)
			}
			for _, e := range got {
				if e.Device != fmt.Sprint(round, "-", i) {
					t.Errorf("message %d of round %d has an event of %s", i, round, e.Device)
				}
			}
		}
		if b.clear(); len(b.readings) != 0 || len(b.events) != 0 || b.size != 0 {
			t.Fatalf("what is kept is not forgotten: %+v", b)
		}
	}
}
