package host

import (
	"context"
	"errors"
	"maps"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/vauban-iot/vauban/defender/alert"
	"github.com/vauban-iot/vauban/fault"
)

// fleet is a SilenceStore.
type fleet struct {
	mu      sync.Mutex
	last    map[string]time.Time
	alerts  []alert.Alert
	setting []byte
	fail    error
}

func (f *fleet) Quiet(_ context.Context, after, until time.Time, from string, limit int) (all []Quiet, err error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, d := range slices.Sorted(maps.Keys(f.last)) {
		if t := f.last[d]; t.After(after) && !t.After(until) && d > from && len(all) < limit {
			all = append(all, Quiet{d, t})
		}
	}
	return all, f.fail
}

func (f *fleet) Heard(context.Context, []string) (map[string]time.Time, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	return maps.Clone(f.last), nil
}

// change lets do change what the store has.
func (f *fleet) change(do func()) {
	f.mu.Lock()
	defer f.mu.Unlock()
	do()
}

func (f *fleet) Alerts(_ context.Context, q alert.Filter) (all []alert.Alert, err error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, a := range slices.Backward(f.alerts) {
		if a.Type == q.Type && a.Status == q.Status && (q.Before == 0 || a.Sequence < q.Before) && len(all) < q.Limit {
			all = append(all, a)
		}
	}
	return all, nil
}

func (f *fleet) Judge(_ context.Context, id string, v alert.Verdict) (alert.Alert, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for i := range f.alerts {
		if a := &f.alerts[i]; a.ID == id {
			a.Status, a.StatusBy, a.Comment = v.Status, v.By, v.Comment
			return *a, nil
		}
	}
	return alert.Alert{}, fault.New(fault.NotFound, "no alert %s", id)
}

func (f *fleet) Setting(context.Context, string) ([]byte, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.setting == nil {
		return nil, fault.New(fault.NotFound, "no setting")
	}
	return f.setting, nil
}

func (f *fleet) PutSetting(_ context.Context, _ string, value []byte) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.setting = value
	return nil
}

func (f *fleet) raise(_ context.Context, all []alert.Alert) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, a := range all {
		a.Sequence, a.Status = uint64(len(f.alerts)+1), alert.Open
		f.alerts = append(f.alerts, a)
	}
	return nil
}

// outline is device and status of each alert.
func (f *fleet) outline() string {
	f.mu.Lock()
	defer f.mu.Unlock()
	var all []string
	for _, a := range f.alerts {
		all = append(all, a.Device+" "+string(a.Status))
	}
	return strings.Join(all, ", ")
}

func TestWatch(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		f := &fleet{last: map[string]time.Time{"lamp": time.Now(), "old": time.Now().Add(-30 * 24 * time.Hour)}}
		run := func() (stop func()) {
			ctx, cancel := context.WithCancel(t.Context())
			done := make(chan error, 1)
			go func() { done <- NewWatch(f, f.raise, nil).Run(ctx) }()
			return func() {
				cancel()
				if err := <-done; err != nil {
					t.Error(err)
				}
			}
		}
		want := func(what, want string) {
			t.Helper()
			synctest.Wait()
			if got := f.outline(); got != want {
				t.Errorf("%s: %s, want %s", what, got, want)
			}
		}
		stop := run()
		want("at first", "old open")
		time.Sleep(71 * time.Hour)
		want("almost silent", "old open")
		time.Sleep(time.Hour + silencePeriod)
		want("silent", "old open, lamp open")
		if a := f.alerts[1]; a.Severity != alert.Low || a.Day != a.FirstSeen.Format(time.DateOnly) || len(a.Evidence) != 1 || !strings.Contains(a.Description, "72 hours") {
			t.Errorf("%+v", a)
		}
		time.Sleep(48 * time.Hour)
		want("told once", "old open, lamp open")
		synctest.Wait()
		f.change(func() {
			f.last["lamp"] = time.Now()
			delete(f.last, "old")
		})
		time.Sleep(silencePeriod)
		want("speaks again, and is gone", "old resolved, lamp resolved")
		time.Sleep(73 * time.Hour)
		want("silent again", "old resolved, lamp resolved, lamp open")

		// A store that is away: the next look tells.
		synctest.Wait()
		f.change(func() {
			f.fail = errors.New("away")
			f.last["door"] = time.Now().Add(time.Minute - Silent)
		})
		time.Sleep(silencePeriod)
		synctest.Wait()
		f.change(func() { f.fail = nil })
		time.Sleep(silencePeriod)
		want("after a failure", "old resolved, lamp resolved, lamp open, door open")

		// The servers were away for a week: devices have an hour to come back.
		stop()
		f.change(func() { f.last["bell"], f.last["gate"] = time.Now(), time.Now() })
		time.Sleep(7 * 24 * time.Hour)
		stop = run()
		time.Sleep(30 * time.Minute)
		synctest.Wait()
		want("who can have come back?", "old resolved, lamp resolved, lamp open, door open")
		f.change(func() { f.last["bell"] = time.Now() })
		time.Sleep(time.Hour)
		want("who did not", "old resolved, lamp resolved, lamp open, door open, gate open")
		stop()
	})
}
