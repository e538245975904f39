package hub_test

import (
	"context"
	"testing"
	"testing/synctest"
	"time"

	"github.com/vauban-iot/vauban/fault"
	"github.com/vauban-iot/vauban/hub/command"
	"github.com/vauban-iot/vauban/hub/fleet/job"
	"github.com/vauban-iot/vauban/hub/hubtest"
	"github.com/vauban-iot/vauban/hub/throttle"
	"github.com/vauban-iot/vauban/iot"
)

// number is what Azure's metric of that name has come to.
func number(t *testing.T, w *hubtest.World, name string) (total float64) {
	t.Helper()
	families, err := w.Metrics.Gather()
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range families {
		for _, m := range f.GetMetric() {
			for _, l := range m.GetLabel() {
				if l.GetName() == "azure_name" && l.GetValue() == name {
					total += m.GetCounter().GetValue()
				}
			}
		}
	}
	return total
}

func limit(t *testing.T, w *hubtest.World, limits string) {
	t.Helper()
	l, err := throttle.Parse([]byte(`{"limits":{` + limits + `}}`))
	if err != nil {
		t.Fatal(err)
	}
	w.Throttle.Set(l)
}

// Messages that nobody fetched in time are counted once, each.
func TestMeter_ExpiredMail(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		w := memory(t)
		w.Device(t, lamp)
		for range 3 {
			if _, err := w.Send(t.Context(), iot.Mail{To: lamp, Body: []byte("x")}); err != nil {
				t.Fatal(err)
			}
		}
		time.Sleep(31 * time.Second)
		if n := number(t, w, "C2DMessagesExpired"); n != 0 {
			t.Errorf("%v messages expired at once", n)
		}
		w.Clock.Add(2 * time.Hour)
		time.Sleep(2 * time.Minute)
		if n := number(t, w, "C2DMessagesExpired"); n != 3 {
			t.Errorf("%v messages expired, want 3", n)
		}
	})
}

// A job that cannot run at all counts as failed, one that ran as completed.
func TestMeter_Jobs(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		w := memory(t)
		now := w.Clock.Now()
		damaged := job.Job{ID: "damaged", Type: job.UpdateTwin, Status: job.Queued, Condition: "nonsense (", Update: []byte(`{`), Created: now, Start: now, MaxTime: time.Minute}
		if err := w.Store.CreateJob(t.Context(), damaged, 10); err != nil {
			t.Fatal(err)
		}
		sound, err := job.Parse("sound", []byte(`{"jobId":"sound","type":"scheduleUpdateTwin","updateTwin":{"tags":{}},"queryCondition":"*","maxExecutionTimeInSeconds":60}`))
		if err != nil {
			t.Fatal(err)
		}
		if _, err := w.CreateJob(t.Context(), sound); err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Minute)
		if f, c := number(t, w, "jobs.failed"), number(t, w, "jobs.completed"); f != 1 || c != 1 {
			t.Errorf("%v failed and %v completed, want one each", f, c)
		}
	})
}

// What jobs do with devices waits for its turn and is not refused.
func TestThrottle_Jobs(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		w := memory(t)
		for _, id := range []string{"a", "b", "c", "d", "e"} {
			w.Device(t, iot.ID{Device: id})
		}
		limit(t, w, `"jobDevices":"1/min"`)
		j, err := job.Parse("j", []byte(`{"jobId":"j","type":"scheduleUpdateTwin","updateTwin":{"tags":{"done":true}},"queryCondition":"*","maxExecutionTimeInSeconds":3600}`))
		if err != nil {
			t.Fatal(err)
		}
		begin := time.Now()
		if _, err := w.CreateJob(t.Context(), j); err != nil {
			t.Fatal(err)
		}
		for {
			got, s, err := w.Job(t.Context(), "j")
			if err != nil {
				t.Fatal(err)
			}
			if got.Status == job.Completed {
				if s.Succeeded != 5 {
					t.Errorf("%+v", s)
				}
				break
			}
			time.Sleep(time.Second)
		}
		if took := time.Since(begin); took < 4*time.Minute || took > 5*time.Minute {
			t.Errorf("5 devices at one a minute took %v", took)
		}
	})
}

// What devices without a session ask for has limits, too.
func TestThrottle_Visits(t *testing.T) {
	t.Parallel()
	w := memory(t)
	d := w.Device(t, lamp)
	v, err := w.Visit(t.Context(), iot.Credentials{ID: lamp, Host: hubtest.Host, Token: w.Token(d)})
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		condition, limit string
		do               func(ctx context.Context) error
		want             fault.Kind
	}{
		{"the messages of a day", `"dailyMessages":"1/day"`, func(ctx context.Context) error { return v.Telemetry(ctx, []iot.Message{{Body: []byte("x")}}) }, fault.QuotaExceeded},
		{"messages to devices", `"cloudToDeviceReceives":"1/min"`, func(ctx context.Context) error { _, _, err := v.Receive(ctx, time.Minute); return err }, fault.Throttled},
		{"methods of modules", `"directMethods":"1/min"`, func(ctx context.Context) error {
			_, err := w.InvokeFrom(ctx, iot.ID{Device: lamp.Device, Module: "m"}, iot.ID{Device: lamp.Device, Module: "n"}, command.Method{Name: "x", ResponseTimeout: 5 * time.Second})
			if fault.Is(err, fault.NotFound) {
				return nil // there is no such module, but it was asked for
			}
			return err
		}, fault.Throttled},
		{"telemetry", `"telemetry":"1/min"`, func(ctx context.Context) error { return v.Telemetry(ctx, []iot.Message{{Body: []byte("x")}}) }, fault.Throttled},
	} {
		limit(t, w, "")
		limit(t, w, c.limit)
		if err := c.do(t.Context()); err != nil {
			t.Errorf("%s, the first: %v", c.condition, err)
		}
		if err := c.do(t.Context()); !fault.Is(err, c.want) {
			t.Errorf("%s, the second: %v, want %v", c.condition, err, c.want)
		}
	}
}
