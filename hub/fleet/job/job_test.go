package job_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/vauban-iot/vauban/fault"
	"github.com/vauban-iot/vauban/hub/command"
	"github.com/vauban-iot/vauban/hub/fleet/job"
	"github.com/vauban-iot/vauban/hub/query"
	"github.com/vauban-iot/vauban/hub/registry"
	"github.com/vauban-iot/vauban/hub/twin"
	"github.com/vauban-iot/vauban/internal/secret"
	"github.com/vauban-iot/vauban/iot"
	"github.com/vauban-iot/vauban/storage/sqlite"
	"github.com/vauban-iot/vauban/storage/sqlstore"
)

// devices is a hub of that many devices, which counts what is asked of each.
type devices struct {
	n    int
	hold func(ctx context.Context, id iot.ID) error // before a device does its part; may be nil

	mu    sync.Mutex
	asked map[iot.ID]int
	peak  int
	now   int
}

func (d *devices) Find(_ context.Context, _ *query.Condition, visit func(iot.ID) error) error {
	for i := range d.n {
		if err := visit(iot.ID{Device: fmt.Sprintf("d%04d", i)}); err != nil {
			return err
		}
	}
	return nil
}

func (d *devices) do(ctx context.Context, id iot.ID) error {
	d.mu.Lock()
	d.now++
	d.peak = max(d.peak, d.now)
	d.mu.Unlock()
	defer func() {
		d.mu.Lock()
		d.now--
		d.mu.Unlock()
	}()
	if d.hold != nil {
		if err := d.hold(ctx, id); err != nil {
			return err
		}
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.asked == nil {
		d.asked = make(map[iot.ID]int)
	}
	d.asked[id]++
	return nil
}

func (d *devices) PatchTwin(ctx context.Context, id iot.ID, _ *iot.Match, _ twin.Patch) (registry.Identity, twin.Twin, error) {
	return registry.Identity{}, twin.Twin{}, d.do(ctx, id)
}

func (d *devices) Invoke(ctx context.Context, id iot.ID, _ command.Method) (command.Result, error) {
	return command.Result{Status: 200}, d.do(ctx, id)
}

func open(t *testing.T) *sqlstore.Store {
	t.Helper()
	dir := t.TempDir()
	sealer, err := secret.OpenSealer(filepath.Join(dir, "key"))
	if err != nil {
		t.Fatal(err)
	}
	s, err := sqlite.Open(t.Context(), sqlite.Config{Path: filepath.Join(dir, "state.db"), Sealer: sealer})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	return s
}

// run runs a service until stop is called, which waits for its end.
func run(t *testing.T, cfg job.Config) (s *job.Service, stop func()) {
	t.Helper()
	s = job.New(cfg)
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- s.Run(ctx) }()
	stop = sync.OnceFunc(func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
	t.Cleanup(stop)
	return s, stop
}

func until(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for end := time.Now().Add(20 * time.Second); !ok(); time.Sleep(2 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("waited in vain for %s", what)
		}
	}
}

func create(t *testing.T, s *job.Service, id, body string) job.Job {
	t.Helper()
	j, err := job.Parse(id, []byte(body))
	if err != nil {
		t.Fatal(err)
	}
	if j, err = s.Create(t.Context(), j); err != nil {
		t.Fatal(err)
	}
	return j
}

const (
	update = `{"type":"scheduleUpdateTwin","updateTwin":{"tags":{"a":1}},"queryCondition":"*"}`
	method = `{"type":"scheduleDeviceMethod","cloudToDeviceMethod":{"methodName":"m"},"queryCondition":"*"}`
)

func TestRun_SurvivesRestart(t *testing.T) {
	for _, test := range []struct {
		name, body string
		aborted    bool // devices that were being asked are not asked again
	}{{"twin update", update, false}, {"method", method, true}} {
		t.Run(test.name, func(t *testing.T) {
			store := open(t)
			const n = 300
			hub := &devices{n: n}
			begun := make(chan struct{}, n)
			hub.hold = func(ctx context.Context, id iot.ID) error {
				if id.Device < "d0100" {
					return nil
				}
				begun <- struct{}{}
				<-ctx.Done()
				return ctx.Err()
			}
			cfg := job.Config{Store: store, Hub: hub, Finder: hub}
			s, stop := run(t, cfg)
			create(t, s, "j1", test.body)
			for range 64 {
				<-begun // every worker holds one
			}
			if j, st, err := s.Job(t.Context(), "j1"); err != nil || j.Status != job.Running || st.Devices != n {
				t.Fatalf("the job is %v with %+v, %v; want it running over %d devices", j.Status, st, err, n)
			}
			stop()

			hub.hold = nil
			s, _ = run(t, cfg)
			var st job.Statistics
			until(t, "the end of the job", func() bool {
				j, now, err := s.Job(t.Context(), "j1")
				st = now
				return err == nil && j.Status == job.Completed
			})
			want := job.Statistics{Devices: n, Succeeded: n}
			if test.aborted {
				want = job.Statistics{Devices: n, Succeeded: n - 64, Failed: 64}
			}
			if st != want {
				t.Errorf("statistics %+v, want %+v", st, want)
			}
			if hub.peak > 64 {
				t.Errorf("%d devices were asked at once, 64 are allowed", hub.peak)
			}
			for id, times := range hub.asked {
				if times != 1 {
					t.Errorf("%v was asked %d times", id, times)
				}
			}
			if err := store.ScanRows(t.Context(), job.Scan{}, func(r *job.Row) error {
				if r.Status == job.RowFailed && (r.Code != "503001" || r.Reason == "") {
					t.Errorf("row of %v failed with %q %q", r.ID, r.Code, r.Reason)
				}
				return nil
			}); err != nil {
				t.Fatal(err)
			}
		})
	}
}

func TestRun_CancelAndTime(t *testing.T) {
	store := open(t)
	hub := &devices{n: 100}
	release := make(chan struct{})
	hub.hold = func(ctx context.Context, _ iot.ID) error {
		select {
		case <-release:
			return nil
		case <-ctx.Done():
			return fault.Wrap(fault.Timeout, ctx.Err(), "no answer in time")
		}
	}
	s, _ := run(t, job.Config{Store: store, Hub: hub, Finder: hub})
	// Its time ends before any device answers.
	create(t, s, "late", strings.Replace(method, `{`, `{"maxExecutionTimeInSeconds":1,`, 1))
	until(t, "the end of the job's time", func() bool {
		j, st, err := s.Job(t.Context(), "late")
		return err == nil && j.Status == job.Completed && st == job.Statistics{Devices: 100, Failed: 100} && !j.End.IsZero()
	})

	create(t, s, "cut", method)
	until(t, "devices at work", func() bool {
		hub.mu.Lock()
		defer hub.mu.Unlock()
		return hub.now == 64
	})
	j, st, err := s.Cancel(t.Context(), "cut")
	if err != nil || j.Status != job.Cancelled || st.Devices != 100 {
		t.Fatalf("cancelled: %v %+v %v", j.Status, st, err)
	}
	close(release)
	until(t, "answers of the devices that had been asked", func() bool {
		_, st, err := s.Job(t.Context(), "cut")
		return err == nil && st == job.Statistics{Devices: 100, Succeeded: 64}
	})
	if _, _, err := s.Cancel(t.Context(), "cut"); !fault.Is(err, fault.PreconditionFailed) {
		t.Errorf("a second cancel: %v", err)
	}
	if _, _, err := s.Cancel(t.Context(), "nobody"); !fault.Is(err, fault.NotFound) {
		t.Errorf("cancel of an unknown job: %v", err)
	}
}

func TestRun_OthersWait(t *testing.T) {
	store := open(t)
	hub := &devices{n: 1}
	release := make(chan struct{})
	hub.hold = func(ctx context.Context, _ iot.ID) error {
		select {
		case <-release:
		case <-ctx.Done():
			return ctx.Err()
		}
		return nil
	}
	s, _ := run(t, job.Config{Store: store, Hub: hub, Finder: hub})
	for i := range 12 {
		create(t, s, fmt.Sprint("j", i), update)
	}
	count := func(status job.Status) int {
		jobs, err := store.Jobs(t.Context(), job.Filter{Status: status, Limit: 100})
		if err != nil {
			t.Fatal(err)
		}
		return len(jobs)
	}
	until(t, "ten running jobs", func() bool { return count(job.Running) == 10 && count(job.Queued) == 2 })
	close(release)
	until(t, "the end of all jobs", func() bool { return count(job.Completed) == 12 })
}

func TestList_Pages(t *testing.T) {
	hub := &devices{}
	s := job.New(job.Config{Store: open(t), Hub: hub, Finder: hub})
	for i := range 5 {
		create(t, s, fmt.Sprint("j", i), update)
	}
	var got []string
	for token, pages := "", 0; pages < 9; pages++ {
		docs, next, err := s.List(t.Context(), job.Filter{Limit: 2}, token)
		if err != nil {
			t.Fatal(err)
		}
		for _, d := range docs {
			var doc struct{ JobID string }
			if err := json.Unmarshal(d, &doc); err != nil {
				t.Fatal(err)
			}
			got = append(got, doc.JobID)
		}
		if token = next; token == "" {
			break
		}
	}
	if want := "j0 j1 j2 j3 j4"; strings.Join(got, " ") != want {
		t.Errorf("the pages hold %v, want %s", got, want)
	}
	for _, f := range []job.Filter{{Limit: 0}, {Limit: job.MaxPage + 1}} {
		if _, _, err := s.List(t.Context(), f, ""); !fault.Is(err, fault.Invalid) {
			t.Errorf("a page of %d: %v", f.Limit, err)
		}
	}
	if _, _, err := s.List(t.Context(), job.Filter{Limit: 1}, "-1"); !fault.Is(err, fault.Invalid) {
		t.Errorf("a foreign token: %v", err)
	}
}

func TestParse_Refusals(t *testing.T) {
	for _, test := range []struct {
		name, body string
		kind       fault.Kind
	}{
		{"no JSON", `{`, fault.Malformed},
		{"another id", `{"jobId":"j2"}`, fault.Invalid},
		{"no type", `{"queryCondition":"*"}`, fault.Invalid},
		{"no update", `{"type":"scheduleUpdateTwin","queryCondition":"*"}`, fault.Invalid},
		{"an etag", `{"type":"scheduleUpdateTwin","updateTwin":{"etag":"x"},"queryCondition":"*"}`, fault.Invalid},
		{"an update that breaks a rule", `{"type":"scheduleUpdateTwin","updateTwin":{"tags":{"a.b":1}},"queryCondition":"*"}`, fault.Invalid},
		{"no method", `{"type":"scheduleDeviceMethod","queryCondition":"*"}`, fault.Invalid},
		{"no condition", `{"type":"scheduleTwinUpdate","updateTwin":{}}`, fault.Invalid},
		{"a condition that does not parse", `{"type":"scheduleTwinUpdate","updateTwin":{},"queryCondition":"a = "}`, fault.Invalid},
		{"a condition over jobs", `{"type":"scheduleTwinUpdate","updateTwin":{},"queryCondition":"FROM devices.jobs WHERE jobId = 'x'"}`, fault.Invalid},
		{"a start that is no time", `{"type":"scheduleTwinUpdate","updateTwin":{},"queryCondition":"*","startTime":"soon"}`, fault.Invalid},
		{"no time at all", `{"type":"scheduleTwinUpdate","updateTwin":{},"queryCondition":"*","maxExecutionTimeInSeconds":-1}`, fault.Invalid},
		{"too much time", `{"type":"scheduleTwinUpdate","updateTwin":{},"queryCondition":"*","maxExecutionTimeInSeconds":1e9}`, fault.Invalid},
	} {
		if _, err := job.Parse("j1", []byte(test.body)); !fault.Is(err, test.kind) {
			t.Errorf("%s: %v, want %v", test.name, err, test.kind)
		}
	}
	if _, err := job.Parse("a b", []byte(update)); !fault.Is(err, fault.Invalid) {
		t.Errorf("an id with a space: %v", err)
	}
}

func TestRow_Find(t *testing.T) {
	r := &job.Row{Job: "j", Type: job.DeviceMethod, ID: iot.ID{Device: "d"}, Status: job.RowCompleted, Result: json.RawMessage(`{"status":200,"payload":{"a":[1.50]}}`), Created: time.Unix(0, 0)}
	for where, want := range map[string]bool{
		"jobId = 'j' AND deviceId = 'd' AND status = 'completed'": true, "devices.jobs.JOBID = 'j'": true,
		"outcome.deviceMethodResponse.payload.a[0] = 1.5": true, "createdDateTimeUtc > '1969-01-01'": true, "createdTimeUtc < '1971'": true,
		"is_defined(endTimeUtc)": true, "endTimeUtc = null": true, "error = null": true, "error.code = '404103'": false, "tags.a = 1": false,
	} {
		q, err := query.Parse("SELECT * FROM devices.jobs WHERE " + where)
		if err != nil {
			t.Fatal(err)
		}
		if got := q.Matches(r); got != want {
			t.Errorf("%s: %v, want %v", where, got, want)
		}
	}
}

// FuzzParse: what is accepted shows as JSON.
func FuzzParse(f *testing.F) {
	f.Add([]byte(update))
	f.Add([]byte(method))
	f.Add([]byte(`{"type":"scheduledevicemethod","cloudToDeviceMethod":{"methodName":"m","payload":[1e400],"responseTimeoutInSeconds":1e300},"queryCondition":"FROM devices.modules","startTime":"2026-01-02T03:04:05Z","maxExecutionTimeInSeconds":2.5}`))
	f.Fuzz(func(t *testing.T, body []byte) {
		j, err := job.Parse("j", body)
		if err != nil {
			if e, ok := errors.AsType[*fault.Error](err); !ok || e.Kind == fault.Internal {
				t.Fatalf("refused with %v", err)
			}
			return
		}
		if !json.Valid(j.Document(job.Statistics{})) {
			t.Fatalf("document %s", j.Document(job.Statistics{}))
		}
	})
}
