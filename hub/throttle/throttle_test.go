package throttle_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/vauban-iot/vauban/config"
	"github.com/vauban-iot/vauban/fault"
	"github.com/vauban-iot/vauban/hub/throttle"
)

func limits(t testing.TB, text string) *throttle.Limits {
	t.Helper()
	l, err := throttle.Parse([]byte(text))
	if err != nil {
		t.Fatal(err)
	}
	return l
}

// Without a configuration, and without a limiter, nothing is limited.
func TestLimiter_OffByDefault(t *testing.T) {
	t.Parallel()
	var none *throttle.Limiter
	for _, l := range []*throttle.Limiter{none, throttle.New(nil, nil), throttle.New(nil, throttle.NewUsage(&store{}, nil))} {
		for o := range len(throttle.Names) {
			for range 10_000 {
				if d, err := l.Take(throttle.Operation(o), 100, 0); d != 0 || err != nil {
					t.Fatalf("%v: %v, %v", throttle.Operation(o), d, err)
				}
			}
		}
		if err := l.Message(1 << 20); err != nil {
			t.Error(err)
		}
	}
}

// A burst of a whole period passes, then everybody waits for a turn, and whoever would wait too long is refused and told when
// to come back.
func TestLimiter_DelaysThenRefuses(t *testing.T) {
	t.Parallel()
	clock := time.Unix(1_800_000_000, 0)
	l := throttle.New(func() time.Time { return clock }, nil)
	l.Set(limits(t, `{"limits":{"twinReads":"10/s"}}`))
	for i := range 10 {
		if d, err := l.Take(throttle.TwinReads, 1, 0); d != 0 || err != nil {
			t.Fatalf("number %d of a burst of 10: %v, %v", i+1, d, err)
		}
	}
	for i := range 10 { // each stands behind the one before
		want := time.Duration(i+1) * 100 * time.Millisecond
		if d, err := l.Take(throttle.TwinReads, 1, time.Second); err != nil || (d-want).Abs() > time.Microsecond {
			t.Errorf("number %d behind the burst waits %v, %v; want %v", i+1, d, err, want)
		}
	}
	_, err := l.Take(throttle.TwinReads, 1, time.Second)
	e, ok := errors.AsType[*fault.Error](err)
	if !ok || e.Kind != fault.Throttled || (e.RetryAfter-1100*time.Millisecond).Abs() > time.Microsecond || !strings.Contains(e.Public, "10/s") {
		t.Errorf("number 11 behind the burst: %#v, want a refusal that names the limit and 1.1 s", err)
	}
	if d, err := l.Take(throttle.TwinUpdates, 1, 0); d != 0 || err != nil {
		t.Errorf("an operation that is not limited: %v, %v", d, err)
	}
	clock = clock.Add(2 * time.Second) // what was refused took nothing: one second pays the queue, the next fills the bucket
	for i := range 10 {
		if d, err := l.Take(throttle.TwinReads, 1, 0); d != 0 || err != nil {
			t.Errorf("number %d after two seconds: %v, %v", i+1, d, err)
		}
	}
	if _, err := l.Take(throttle.TwinReads, 1, 0); !fault.Is(err, fault.Throttled) {
		t.Errorf("more than a burst: %v", err)
	}
}

func TestLimiter_Changes(t *testing.T) {
	t.Parallel()
	clock := time.Unix(1_800_000_000, 0)
	l := throttle.New(func() time.Time { return clock }, nil)
	take := func(o throttle.Operation, n int) bool {
		t.Helper()
		_, err := l.Take(o, n, 0)
		return err == nil
	}
	l.Set(limits(t, `{"limits":{"registry":"2/min","twinQueries":"1/min"}}`))
	if !take(throttle.Registry, 2) || take(throttle.Registry, 1) || !take(throttle.Queries, 1) {
		t.Fatal("the limit is not the one that was set")
	}
	l.Set(limits(t, `{"limits":{"registry":"2/min","twinQueries":"5/min"}}`))
	if take(throttle.Registry, 1) {
		t.Error("a limit that stayed forgot what was taken")
	}
	if !take(throttle.Queries, 5) || take(throttle.Queries, 1) {
		t.Error("a limit that changed is not the new one")
	}
	clock = clock.Add(time.Minute)
	if !take(throttle.Registry, 100) || take(throttle.Registry, 1) {
		t.Error("more than a whole burst is never served, or is free")
	}
	l.Set(limits(t, `{}`))
	if !take(throttle.Registry, 1000) || l.Limited(throttle.Registry) {
		t.Error("a limit stays when it is switched off")
	}
}

func TestLimiter_Wait(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		l := throttle.New(nil, nil)
		l.Set(limits(t, `{"limits":{"jobs":"2/s","jobDevices":"1/s"}}`))
		begin := time.Now()
		for range 4 {
			if err := l.Wait(t.Context(), throttle.Jobs, 1); err != nil {
				t.Fatal(err)
			}
		}
		if d := time.Since(begin); d != time.Second {
			t.Errorf("4 at 2 a second took %v, want the burst at once and then half a second each", d)
		}
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		if err := l.Wait(ctx, throttle.Jobs, 1); !fault.Is(err, fault.Timeout) {
			t.Errorf("a caller that left: %v", err)
		}
		if err := l.Wait(t.Context(), throttle.Jobs, 2); !fault.Is(err, fault.Throttled) {
			t.Errorf("one that would wait for longer than %v: %v", throttle.Patience, err)
		}
		begin = time.Now()
		for range 10 {
			if err := l.Patiently(t.Context(), throttle.JobDevices, 1); err != nil {
				t.Fatal(err)
			}
		}
		if d := time.Since(begin); d != 9*time.Second {
			t.Errorf("10 at 1 a second took %v, want 9 s", d)
		}
	})
}

// The configuration file knows every limit, under its name.
func TestNames_OfTheFile(t *testing.T) {
	t.Parallel()
	if want := append(slices.Clone(throttle.Names[:]), throttle.DailyMessages); !slices.Equal(config.Limits, want) {
		t.Errorf("the file has %q, the hub %q", config.Limits, want)
	}
}

func TestCompile(t *testing.T) {
	t.Parallel()
	for condition, c := range map[string]struct {
		text string
		want map[string]string
	}{
		"one unit of S1": {`{"tier":"S1"}`, map[string]string{
			"connections": "100/s", "telemetry": "100/s", "cloudToDeviceSends": "100/min", "cloudToDeviceReceives": "1000/min", "fileUploads": "100/min",
			"directMethods": "40/s", "twinReads": "100/s", "twinUpdates": "50/s", "twinQueries": "20/min", "registry": "100/min", "jobs": "100/min",
			"jobDevices": "10/s", "configurations": "20/min", "dailyMessages": "400000/day",
		}},
		"many units of S1":       {`{"tier":"s1","units":10}`, map[string]string{"telemetry": "120/s", "registry": "1000/min", "twinReads": "100/s", "dailyMessages": "4000000/day"}},
		"many units of S2":       {`{"tier":"S2","units":20}`, map[string]string{"telemetry": "2400/s", "twinReads": "200/s", "twinUpdates": "100/s", "configurations": "20/min"}},
		"S3":                     {`{"tier":"S3"}`, map[string]string{"telemetry": "6000/s", "directMethods": "6144/s", "twinQueries": "1000/min"}},
		"a tier with exceptions": {`{"tier":"S1","limits":{"telemetry":"off","registry":"0.5/s","dailyMessages":"off"}}`, map[string]string{"telemetry": "off", "registry": "0.5/s", "dailyMessages": "off", "jobs": "100/min"}},
		"nothing":                {`{}`, map[string]string{"telemetry": "off", "dailyMessages": "off"}},
		"one limit":              {`{"limits":{"dailyMessages":"10/day"}}`, map[string]string{"dailyMessages": "10/day", "registry": "off"}},
	} {
		got := limits(t, c.text).Effective()
		if len(got) != len(throttle.Names)+1 {
			t.Errorf("%s: %d limits", condition, len(got))
		}
		for name, want := range c.want {
			if got[name] != want {
				t.Errorf("%s: %s is %s, want %s", condition, name, got[name], want)
			}
		}
	}
	for _, bad := range []string{
		`{"tier":"S4"}`, `{"units":2}`, `{"tier":"S1","units":-1}`, `{"limits":{"tea":"1/s"}}`, `{"limits":{"registry":"0/s"}}`, `{"limits":{"registry":"-1/s"}}`,
		`{"limits":{"registry":"1/year"}}`, `{"limits":{"registry":"1/day"}}`, `{"limits":{"registry":"NaN/s"}}`, `{"limits":{"registry":""}}`,
		`{"limits":{"dailyMessages":"1/s"}}`,
	} {
		if _, err := throttle.Parse([]byte(bad)); !fault.Is(err, fault.Invalid) {
			t.Errorf("%s: %v, want invalid", bad, err)
		}
	}
	if _, err := throttle.Parse([]byte(`{"limits":3}`)); !fault.Is(err, fault.Malformed) {
		t.Errorf("limits that are no object: %v", err)
	}
	if got := []int{throttle.Steps(0), throttle.Steps(4096), throttle.Steps(4097), throttle.Steps(256 << 10)}; !slices.Equal(got, []int{1, 1, 2, 64}) {
		t.Errorf("steps of 4 KiB: %v", got)
	}
}

// store counts in memory.
type store struct {
	mu   sync.Mutex
	days map[string]int64
	err  error
}

func (s *store) AddUsage(_ context.Context, day string, n int64) (int64, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.err != nil {
		return 0, s.err
	}
	if s.days == nil {
		s.days = map[string]int64{}
	}
	s.days[day] += n
	return s.days[day], nil
}

// The quota holds for all servers together, across a restart, until midnight.
func TestUsage_Quota(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		s := &store{}
		run := func() (l *throttle.Limiter, u *throttle.Usage, stop func()) {
			u = throttle.NewUsage(s, nil)
			l = throttle.New(nil, u)
			l.Set(limits(t, `{"limits":{"dailyMessages":"10/day"}}`))
			ctx, cancel := context.WithCancel(t.Context())
			done := make(chan error)
			go func() { done <- u.Run(ctx, func(err error) { t.Error(err) }) }()
			synctest.Wait()
			return l, u, func() {
				cancel()
				if err := <-done; err != nil {
					t.Error(err)
				}
			}
		}
		one, counted, stopOne := run()
		two, _, stopTwo := run()
		if err := one.Message(3*4096 + 1); err != nil { // four steps
			t.Fatal(err)
		}
		for range 3 {
			if err := two.Message(10); err != nil {
				t.Fatal(err)
			}
		}
		time.Sleep(11 * time.Second)
		if n := counted.Today(); n != 7 {
			t.Errorf("%d messages are counted, want 7 of both servers", n)
		}
		stopOne()
		one, _, stopOne = run()
		err := one.Message(4 * 4096)
		if e, ok := errors.AsType[*fault.Error](err); !ok || e.Kind != fault.QuotaExceeded || e.RetryAfter <= 23*time.Hour {
			t.Errorf("the eleventh message, on a server that started again: %#v", err)
		}
		if err := one.Message(3 * 4096); err != nil {
			t.Errorf("the tenth: %v", err)
		}
		if err := one.Message(1); !fault.Is(err, fault.QuotaExceeded) {
			t.Errorf("one more: %v", err)
		}
		time.Sleep(24 * time.Hour) // the bubble begins at midnight of UTC
		if err := one.Message(1); err != nil {
			t.Errorf("the next day: %v", err)
		}
		stopOne()
		stopTwo()
		if got := fmt.Sprint(s.days); got != "map[2000-01-01:10 2000-01-02:1]" {
			t.Errorf("the store has %s", got)
		}
	})
}

// A store that fails costs no message and no count.
func TestUsage_StoreFails(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		s := &store{err: errors.New("disk")}
		u := throttle.NewUsage(s, nil)
		l := throttle.New(nil, u)
		ctx, cancel := context.WithCancel(t.Context())
		failures := 0
		done := make(chan error)
		go func() { done <- u.Run(ctx, func(error) { failures++ }) }()
		if err := l.Message(1); err != nil {
			t.Error(err)
		}
		time.Sleep(6 * time.Second)
		s.mu.Lock()
		s.err = nil
		s.mu.Unlock()
		time.Sleep(5 * time.Second)
		cancel()
		if err := <-done; err != nil || failures != 2 || s.days["2000-01-01"] != 1 {
			t.Errorf("%v, %d failures reported, stored %v", err, failures, s.days)
		}
	})
}
