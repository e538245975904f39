package dps_test

import (
	"fmt"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/vauban-iot/vauban/dps"
	"github.com/vauban-iot/vauban/dps/dpstest"
	"github.com/vauban-iot/vauban/internal/conform"
	"github.com/vauban-iot/vauban/wire/sas"
)

func TestLimits(t *testing.T) {
	conform.Covers(t, "DPS-33")
	refused := func(t *testing.T, what string, r dps.Reply) {
		t.Helper()
		if r.Status != 429 || r.ErrorCode != 429001 || r.RetryAfter < 1 || r.RetryAfter > 300 {
			t.Errorf("%s: %d %s, retry-after %d; want 429 with a delay", what, r.Status, r.Body, r.RetryAfter)
		}
	}
	t.Run("of one device", func(t *testing.T) {
		w := dpstest.New(t)
		mine, other := caller(t, w, device(t, w, "d1", "")), caller(t, w, device(t, w, "d2", ""))
		op := w.Register(t.Context(), mine, nil).OperationID
		n := 0
		for w.Status(t.Context(), mine, op).Status == 200 {
			n++
		}
		if n != 19 {
			t.Errorf("%d requests after the first were let through at once, want 19", n)
		}
		refused(t, "a question too many", w.Status(t.Context(), mine, op))
		refused(t, "a registration too many", w.Register(t.Context(), mine, nil))
		if r := w.Register(t.Context(), other, nil); r.Status != 202 {
			t.Errorf("another device is refused, too: %d %s", r.Status, r.Body)
		}
		w.Clock.Add(time.Second)
		if r := w.Status(t.Context(), mine, op); r.Status != 200 {
			t.Errorf("a second later: %d", r.Status)
		}
	})
	t.Run("of all devices", func(t *testing.T) {
		w := dpstest.NewWith(t, func(c *dps.Config) { c.Limits.Registrations = 10 })
		put(t, w, true, "g", symmetric(groupKey, otherKey, ""))
		reg := func(i int) dps.Reply {
			id := fmt.Sprintf("d%d", i)
			return w.Register(t.Context(), caller(t, w, byToken(id, token(w, id, sas.DeriveKey(decode(t, groupKey), id)))), nil)
		}
		for i := range 10 {
			if r := reg(i); r.Status != 202 {
				t.Fatalf("registration %d: %d %s", i, r.Status, r.Body)
			}
		}
		r := reg(10)
		refused(t, "the eleventh", r)
		if _, ok := w.Hub.Device("d10"); ok {
			t.Error("it was assigned all the same")
		}
		w.Clock.Add(time.Duration(r.RetryAfter) * time.Second)
		if r := reg(10); r.Status != 202 {
			t.Errorf("when it was told to come back: %d %s", r.Status, r.Body)
		}
	})
}

// TestStorm lets 10,000 devices register at the same moment. Those that cannot be served are told different times, and when
// everybody comes back when told, everybody is served: there is no second storm.
func TestStorm(t *testing.T) {
	devices := 10_000
	if testing.Short() {
		devices = 3000
	}
	w := dpstest.New(t)
	put(t, w, true, "g", symmetric(groupKey, otherKey, ""))
	due := map[int][]int{0: nil} // second: devices that come
	for i := range devices {
		due[0] = append(due[0], i)
	}
	assigned, tries, most, last := 0, 0, 0, 0
	for second := 0; len(due) > 0; second++ {
		now := due[second]
		delete(due, second)
		if second > 0 {
			w.Clock.Add(time.Second)
			most = max(most, len(now))
		}
		if second > 120 {
			t.Fatalf("%d devices are not assigned after 2 minutes", devices-assigned)
		}
		var mu sync.Mutex
		var wg sync.WaitGroup
		for part := range slices.Chunk(now, max(1, len(now)/4)) {
			wg.Go(func() {
				for _, i := range part {
					id := fmt.Sprintf("d%d", i)
					r := w.Register(t.Context(), caller(t, w, byToken(id, token(w, id, sas.DeriveKey(decode(t, groupKey), id)))), nil)
					mu.Lock()
					tries++
					switch {
					case r.Status == 202:
						assigned++
						last = second
					case r.Status == 429 && r.RetryAfter > 0:
						due[second+r.RetryAfter] = append(due[second+r.RetryAfter], i)
					default:
						t.Errorf("%s: %d %s", id, r.Status, r.Body)
					}
					mu.Unlock()
				}
			})
		}
		wg.Wait()
	}
	t.Logf("%d assigned after %d tries in %d s; at most %d came in one second", assigned, tries, last, most)
	if assigned != devices {
		t.Errorf("%d of %d are assigned", assigned, devices)
	}
	if tries > devices*5/2 || most > 1500 || last > 20 {
		t.Errorf("%d tries, at most %d in a second, over after %d s: the spread does not hold", tries, most, last)
	}
}

// BenchmarkRegister measures registrations with keys derived from a group's, each of a new device, to the disk. The work order wants at least
// 500/s on two cores.
func BenchmarkRegister(b *testing.B) {
	w := dpstest.NewWith(b, func(c *dps.Config) { c.Limits = dps.Limits{Registrations: 1e9, Device: 1e9} })
	put(b, w, true, "g", symmetric(groupKey, otherKey, ""))
	var next int
	var mu sync.Mutex
	b.SetParallelism(16)
	b.RunParallel(func(pb *testing.PB) {
		for pb.Next() {
			mu.Lock()
			next++
			id := fmt.Sprintf("d%d", next)
			mu.Unlock()
			who, err := w.Authenticate(b.Context(), byToken(id, token(w, id, sas.DeriveKey(decode(b, groupKey), id))))
			if err != nil {
				b.Error(err)
				return
			}
			if r := w.Register(b.Context(), who, nil); r.Status != 202 {
				b.Errorf("%d %s", r.Status, r.Body)
				return
			}
		}
	})
	b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "registrations/s")
}
