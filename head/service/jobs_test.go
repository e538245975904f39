package service_test

import (
	"encoding/json"
	"fmt"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/vauban-iot/vauban/hub/hubtest"
	"github.com/vauban-iot/vauban/internal/conform"
)

// finished waits until a job has the status and returns its document.
func (s *server) finished(t *testing.T, id, status string) map[string]any {
	t.Helper()
	var doc map[string]any
	hubtest.Until(t, "job "+id+" to be "+status, func() bool {
		doc = s.owner(t, 200, "GET", "/jobs/v2/"+id+"?api-version=2021-04-12", "").document(t)
		return doc["status"] == status
	})
	return doc
}

func TestJobs(t *testing.T) {
	conform.Covers(t, "HS-066", "HS-074", "HS-077")
	t.Parallel()
	s := fleet(t)
	s.calls(t, "on", func(name string, payload []byte) (int, []byte, error) {
		return 207, []byte(`{"name":"` + name + `","was":` + string(payload) + `}`), nil
	})
	put := func(id, body string) answer {
		t.Helper()
		return s.owner(t, 200, "PUT", "/jobs/v2/"+id+"?api-version=2021-04-12", body)
	}
	doc := put("j1", `{"jobId":"j1","type":"scheduleUpdateTwin","updateTwin":{"etag":"*","tags":{"job":1}},"queryCondition":"tags.site = 'lyon'","startTime":"`+s.Clock.Now().UTC().Format(time.RFC3339Nano)+`","maxExecutionTimeInSeconds":60}`).document(t)
	if doc["status"] != "queued" || doc["jobId"] != "j1" || doc["type"] != "scheduleUpdateTwin" || doc["maxExecutionTimeInSeconds"] != 60.0 {
		t.Errorf("the answer is %v", doc)
	}
	formA(t, s.send(t, "PUT", "/jobs/v2/j1", `{"type":"scheduleUpdateTwin","updateTwin":{},"queryCondition":"*"}`, "Authorization", s.as("service")), 409, "JobAlreadyExists")
	doc = s.finished(t, "j1", "completed")
	is(t, "statistics", doc["deviceJobStatistics"], `{"deviceCount":2,"failedCount":0,"succeededCount":2,"runningCount":0,"pendingCount":0}`)
	is(t, "updateTwin", doc["updateTwin"], `{"etag":"*","tags":{"job":1}}`)
	if doc["cloudToDeviceMethod"] != nil || doc["failureReason"] != nil || doc["endTime"] == nil {
		t.Errorf("a finished job is %v", doc)
	}
	_, rows := s.ask(t, "SELECT deviceId FROM devices WHERE tags.job = 1")
	if rows != `[{"deviceId":"d0"},{"deviceId":"d1"}]` {
		t.Errorf("the job changed %s", rows)
	}

	for id, c := range map[string]struct {
		condition string
		devices   int
	}{
		"all": {`*`, 5}, "equal": {`deviceId = 'on'`, 1}, "in": {`deviceId IN ['on', 'd0']`, 2}, "nobody": {`deviceId = 'x'`, 0},
		"modules": {`FROM devices.modules WHERE deviceId = 'd1'`, 2},
	} {
		put(id, fmt.Sprintf(`{"type":"scheduleDeviceMethod","cloudToDeviceMethod":{"methodName":"m","payload":{"b":1,"a":1.50}},"queryCondition":%q}`, c.condition))
		doc := s.finished(t, id, "completed")
		st := doc["deviceJobStatistics"].(map[string]any)
		if st["deviceCount"] != float64(c.devices) || st["succeededCount"].(float64)+st["failedCount"].(float64) != float64(c.devices) {
			t.Errorf("%s: %v, want %d devices", c.condition, st, c.devices)
		}
	}
	a, body := s.ask(t, "SELECT * FROM devices.jobs WHERE devices.jobs.jobId = 'in'")
	var got []map[string]any
	if err := json.Unmarshal([]byte(body), &got); err != nil || len(got) != 2 || a.header("x-ms-item-type") != "DeviceJob" {
		t.Fatalf("%s of type %s: %v", body, a.header("x-ms-item-type"), err)
	}
	is(t, "error", got[0]["error"], `{"code":"404103","description":"the device is not connected"}`)
	is(t, "outcome", got[1]["outcome"], `{"deviceMethodResponse":{"status":207,"payload":{"name":"m","was":{"b":1,"a":1.50}}}}`)
	for name, want := range map[string]any{"deviceId": "on", "jobId": "in", "jobType": "scheduleDeviceMethod", "status": "completed", "error": nil} {
		if got[1][name] != want {
			t.Errorf("%s is %v, want %v", name, got[1][name], want)
		}
	}
	for _, name := range []string{"startTimeUtc", "endTimeUtc", "createdDateTimeUtc", "lastUpdatedDateTimeUtc"} {
		if _, err := time.Parse(time.RFC3339, got[1][name].(string)); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
	_, body = s.ask(t, "SELECT * FROM devices.jobs WHERE jobId = 'modules' AND status = 'failed'")
	if strings.Count(body, `"moduleId"`) != 2 {
		t.Errorf("rows of modules: %s", body)
	}

	// Pages stand by key.
	n := 0
	for token := ""; ; n++ {
		headers := []string{"x-ms-max-item-count", "1"}
		if token != "" {
			headers = append(headers, "x-ms-continuation", token)
		}
		a, body := s.ask(t, "SELECT * FROM devices.jobs WHERE deviceId = 'd0'", headers...)
		if strings.Count(body, `"jobId"`) != 1 {
			t.Fatalf("a page holds %s", body)
		}
		if token = a.header("x-ms-continuation"); token == "" {
			break
		}
	}
	if n != 2 { // j1, all, in
		t.Errorf("%d pages, want 3", n+1)
	}
}

func TestJobs_TimeAndCancel(t *testing.T) {
	conform.Covers(t, "HS-075")
	t.Parallel()
	s := serve(t)
	s.owner(t, 200, "PUT", "/devices/d1", `{"deviceId":"d1"}`)
	later := func(id string, in time.Duration) {
		s.owner(t, 200, "PUT", "/jobs/v2/"+id, fmt.Sprintf(`{"type":"scheduleTwinUpdate","updateTwin":{"tags":{"x":1}},"queryCondition":"*","startTime":%q}`, s.Clock.Now().Add(in).UTC().Format(time.RFC3339)))
	}
	later("far", 24*time.Hour)
	later("far2", 24*time.Hour)
	later("now", -time.Hour)
	s.finished(t, "now", "completed")
	if doc := s.finished(t, "far", "scheduled"); doc["endTime"] != nil {
		t.Errorf("a job of tomorrow ended: %v", doc)
	}
	if doc := s.owner(t, 200, "POST", "/jobs/v2/far/cancel?api-version=2021-04-12", "").document(t); doc["status"] != "cancelled" {
		t.Errorf("cancelled: %v", doc)
	}
	formA(t, s.send(t, "POST", "/jobs/v2/far/cancel", "", "Authorization", s.as("service")), 412, "PreconditionFailed")
	formA(t, s.send(t, "POST", "/jobs/v2/now/cancel", "", "Authorization", s.as("service")), 412, "PreconditionFailed")
	formA(t, s.send(t, "POST", "/jobs/v2/none/cancel", "", "Authorization", s.as("service")), 404, "JobNotFound")
	formA(t, s.send(t, "GET", "/jobs/v2/none", "", "Authorization", s.as("service")), 404, "JobNotFound")
	formA(t, s.send(t, "GET", "/jobs/v2/far", "", "Authorization", s.as("registryRead")), 401, "IotHubUnauthorizedAccess")
	s.Clock.Add(25 * time.Hour)
	s.finished(t, "far2", "completed")
	if doc := s.finished(t, "far", "cancelled"); doc["deviceJobStatistics"].(map[string]any)["deviceCount"] != 0.0 {
		t.Errorf("a cancelled job ran: %v", doc)
	}
}

func TestJobs_List(t *testing.T) {
	conform.Covers(t, "HS-076")
	t.Parallel()
	s := serve(t)
	tomorrow := s.Clock.Now().Add(24 * time.Hour).UTC().Format(time.RFC3339)
	for i, body := range []string{
		`"type":"scheduleUpdateTwin","updateTwin":{},"queryCondition":"*"`,
		`"type":"scheduleDeviceMethod","cloudToDeviceMethod":{"methodName":"m"},"queryCondition":"*"`,
		`"type":"scheduleUpdateTwin","updateTwin":{},"queryCondition":"*","startTime":"` + tomorrow + `"`,
	} {
		s.owner(t, 200, "PUT", fmt.Sprint("/jobs/v2/j", i), "{"+body+"}")
	}
	s.finished(t, "j0", "completed")
	s.finished(t, "j1", "completed")
	list := func(params string, headers ...string) (string, string) {
		t.Helper()
		a := s.owner(t, 200, "GET", "/jobs/v2/query?api-version=2021-04-12"+params, "", headers...)
		var docs []struct{ JobID string }
		if err := json.Unmarshal(a.body, &docs); err != nil {
			t.Fatalf("%s: %v", a.body, err)
		}
		if got := a.header("x-ms-item-type"); got != "JobResponse" {
			t.Errorf("item type %q", got)
		}
		if _, ok := a.Header[http.CanonicalHeaderKey("x-ms-continuation")]; ok && a.header("x-ms-continuation") == "" {
			t.Error("an empty continuation")
		}
		var ids []string
		for _, d := range docs {
			ids = append(ids, d.JobID)
		}
		return strings.Join(ids, " "), a.header("x-ms-continuation")
	}
	for params, want := range map[string]string{
		"": "j0 j1 j2", "&jobType=scheduleUpdateTwin": "j0 j2", "&jobStatus=completed": "j0 j1", "&jobStatus=Scheduled&jobType=scheduleupdatetwin": "j2", "&jobStatus=failed": "",
	} {
		if got, next := list(params); got != want || next != "" {
			t.Errorf("%s: %q, next %q; want %q", params, got, next, want)
		}
	}
	first, next := list("", "x-ms-max-item-count", "2")
	second, last := list("", "x-ms-max-item-count", "2", "x-ms-continuation", next)
	if first != "j0 j1" || second != "j2" || next == "" || last != "" {
		t.Errorf("pages %q (next %q) and %q (next %q)", first, next, second, last)
	}
	if a := s.owner(t, 200, "GET", "/jobs?api-version=2021-04-12", ""); string(a.body) != "[]" {
		t.Errorf("imports and exports: %s", a.body)
	}
	for _, path := range []string{"/jobs/v2/query?jobType=x", "/jobs/v2/query?jobStatus=x"} {
		formA(t, s.send(t, "GET", path, "", "Authorization", s.as("service")), 400, "ArgumentInvalid")
	}
	formA(t, s.send(t, "GET", "/jobs/v2/query", "", "Authorization", s.as("service"), "x-ms-continuation", "%"), 400, "ArgumentInvalid")
	formA(t, s.send(t, "PUT", "/jobs/v2/bad", `{"type":"scheduleDeviceMethod","cloudToDeviceMethod":{"methodName":"m","responseTimeoutInSeconds":1},"queryCondition":"*"}`, "Authorization", s.as("service")), 400, "ArgumentInvalid")
}
