package storagetest

import (
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/vauban-iot/vauban/fault"
	"github.com/vauban-iot/vauban/hub/fleet"
	"github.com/vauban-iot/vauban/hub/fleet/job"
	"github.com/vauban-iot/vauban/iot"
)

// Jobs is what every job.Store promises.
func Jobs(t *testing.T, open Open) {
	s, ctx := open(t), t.Context()
	full := job.Job{
		ID: "j1", Type: job.DeviceMethod, Condition: "tags.a = '☂'", Method: raw(`{ "methodName":"m", "payload":1.50 }`),
		Created: kept(Start), Start: kept(Start.Add(time.Hour)), MaxTime: 90 * time.Second, Status: job.Scheduled,
	}
	ok(t, s.CreateJob(ctx, full, 2))
	wantKind(t, "a second job of the same id", s.CreateJob(ctx, job.Job{ID: "j1", Type: job.UpdateTwin}, 9), fault.AlreadyExists)
	got := must(s.Job(ctx, "j1"))(t)
	full.Sequence = got.Sequence
	same(t, "job", got, full)
	_, err := s.Job(ctx, "J1")
	wantKind(t, "an unknown job", err, fault.NotFound)
	_, err = s.UpdateJob(ctx, "J1", nil, func(j job.Job) (job.Job, error) { return j, nil })
	wantKind(t, "update of an unknown job", err, fault.NotFound)
	ok(t, s.CreateJob(ctx, job.Job{ID: "j2", Type: job.UpdateTwin, Update: raw(`{}`), Condition: "*", Created: kept(Start), Start: kept(Start), MaxTime: time.Second, Status: job.Queued}, 2))
	wantKind(t, "a third unfinished job where two are allowed", s.CreateJob(ctx, job.Job{ID: "j3", Status: job.Queued}, 2), fault.QueueFull)

	names := func(f job.Filter) string {
		t.Helper()
		if f.Limit == 0 {
			f.Limit = 10
		}
		var all []string
		for _, j := range must(s.Jobs(ctx, f))(t) {
			all = append(all, j.ID)
		}
		return strings.Join(all, " ")
	}
	for _, c := range []struct {
		f    job.Filter
		want string
	}{
		{job.Filter{}, "j1 j2"}, {job.Filter{Limit: 1}, "j1"}, {job.Filter{After: got.Sequence}, "j2"},
		{job.Filter{Type: job.UpdateTwin}, "j2"}, {job.Filter{Status: job.Scheduled}, "j1"}, {job.Filter{Type: job.UpdateTwin, Status: job.Scheduled}, ""},
		{job.Filter{Due: Start.Add(time.Second)}, "j2"}, {job.Filter{Due: Start.Add(time.Hour + time.Second)}, "j1 j2"},
	} {
		if got := names(c.f); got != c.want {
			t.Errorf("filter %+v finds %q, want %q", c.f, got, c.want)
		}
	}

	ids := []iot.ID{{Device: "b"}, {Device: "a", Module: "m"}, {Device: "a"}, {Device: "B"}}
	ok(t, s.AddRows(ctx, full, ids, Start))
	ok(t, s.AddRows(ctx, full, []iot.ID{{Device: "a"}, {Device: "c"}}, Start.Add(time.Hour)))
	ok(t, s.AddRows(ctx, job.Job{ID: "j2", Type: job.UpdateTwin}, ids[:1], Start))
	all := func(f job.Scan) string {
		t.Helper()
		var rows []string
		ok(t, s.ScanRows(ctx, f, func(r *job.Row) error {
			rows = append(rows, fmt.Sprintf("%s:%s:%s", r.Job, r.ID, r.Status))
			return nil
		}))
		return strings.Join(rows, " ")
	}
	same(t, "rows", all(job.Scan{}), "j1:B:pending j1:a:pending j1:a/m:pending j1:b:pending j1:c:pending j2:b:pending")
	same(t, "rows of a device", all(job.Scan{Device: "b"}), "j1:b:pending j2:b:pending")
	same(t, "rows behind one", all(job.Scan{Job: "j1", AfterJob: "j1", After: iot.ID{Device: "a", Module: "m"}}), "j1:b:pending j1:c:pending")
	if err := s.ScanRows(ctx, job.Scan{}, func(*job.Row) error { return fleet.ErrStop }); !errors.Is(err, fleet.ErrStop) {
		t.Errorf("a scan that its visitor ends returns %v", err)
	}

	pending := must(s.PendingRows(ctx, "j1", iot.ID{Device: "B"}, 2))(t)
	if len(pending) != 2 || pending[0].ID != (iot.ID{Device: "a"}) || pending[1].ID != (iot.ID{Device: "a", Module: "m"}) {
		t.Fatalf("pending rows behind B: %v", pending)
	}
	same(t, "a new row", pending[0], job.Row{Job: "j1", Type: job.DeviceMethod, ID: iot.ID{Device: "a"}, Status: job.RowPending, Created: kept(Start), Updated: kept(Start)})
	done := pending[0]
	done.Status, done.Start, done.End, done.Updated = job.RowCompleted, kept(Start), kept(Start.Add(1)), kept(Start.Add(time.Second))
	done.Result = raw(`{"status":200,"payload": 1.50}`)
	busy := pending[1]
	busy.Status = job.RowRunning
	ok(t, s.SaveRows(ctx, []job.Row{busy, done}))
	var seen job.Row
	ok(t, s.ScanRows(ctx, job.Scan{Job: "j1", Device: "a"}, func(r *job.Row) error {
		if r.ID.Module == "" {
			seen = *r
		}
		return nil
	}))
	same(t, "a finished row", seen, done)
	same(t, "statistics", must(s.JobStatistics(ctx, []string{"j1", "j2", "J"}))(t), map[string]job.Statistics{
		"j1": {Devices: 5, Succeeded: 1, Running: 1, Pending: 3}, "j2": {Devices: 1, Pending: 1}, "J": {},
	})

	ok(t, s.AbortRows(ctx, job.Row{Status: job.RowFailed, End: Start, Updated: Start, Code: "503001", Reason: "stopped"}))
	_, err = s.UpdateJob(ctx, "j1", &job.Row{Status: job.RowCanceled, End: Start, Updated: Start}, func(j job.Job) (job.Job, error) { return j, errNo })
	wantNo(t, "update that is refused", err)
	over := must(s.UpdateJob(ctx, "j1", &job.Row{Status: job.RowCanceled, End: Start, Updated: Start}, func(j job.Job) (job.Job, error) {
		j.Status, j.Failure, j.Began, j.End, j.Listed = job.Cancelled, "why", Start, Start.Add(time.Minute), true
		return j, nil
	}))(t)
	full.Status, full.Failure, full.Began, full.End, full.Listed = job.Cancelled, "why", kept(Start), kept(Start.Add(time.Minute)), true
	same(t, "what an update returns", over, full)
	same(t, "what it wrote", must(s.Job(ctx, "j1"))(t), full)
	same(t, "rows of a cancelled job", all(job.Scan{Job: "j1"}), "j1:B:canceled j1:a:completed j1:a/m:failed j1:b:canceled j1:c:canceled")
	same(t, "rows of another", all(job.Scan{Job: "j2"}), "j2:b:pending")

	ok(t, s.ForgetJobs(ctx, Start.Add(time.Minute)))
	same(t, "jobs that are too young", names(job.Filter{}), "j1 j2")
	ok(t, s.ForgetJobs(ctx, Start.Add(2*time.Minute)))
	same(t, "what stays", names(job.Filter{})+" "+all(job.Scan{}), "j2 j2:b:pending")

	t.Run("scans go over chunks", func(t *testing.T) {
		var many []iot.ID
		for i := range 1500 {
			many = append(many, iot.ID{Device: fmt.Sprintf("d%04d", i)})
		}
		ok(t, s.AddRows(ctx, job.Job{ID: "j2", Type: job.UpdateTwin}, many, Start))
		n := 0
		ok(t, s.ScanRows(ctx, job.Scan{Job: "j2"}, func(*job.Row) error { n++; return nil }))
		same(t, "rows", n, 1501)
	})
}
