package service_test

import (
	"encoding/json"
	"fmt"
	"net/http"
	"net/url"
	"strings"
	"testing"

	"github.com/vauban-iot/vauban/hub/registry"
	"github.com/vauban-iot/vauban/hub/twin"
	"github.com/vauban-iot/vauban/internal/conform"
	"github.com/vauban-iot/vauban/iot"
)

// fleet fills a hub with devices and modules to ask for.
func fleet(t *testing.T) *server {
	s := serve(t)
	for i, site := range []string{"lyon", "lyon", "paris", ""} {
		id := fmt.Sprintf("d%d", i)
		edge := ""
		if i == 0 {
			edge = `,"capabilities":{"iotEdge":true}`
		}
		s.owner(t, 200, "PUT", "/devices/"+id, fmt.Sprintf(`{"deviceId":%q,"status":%q%s}`, id, []string{"enabled", "disabled"}[i%2], edge))
		patch := fmt.Sprintf(`{"tags":{"floor":%d},"properties":{"desired":{"v":%d}}}`, i, i)
		if site != "" {
			patch = fmt.Sprintf(`{"tags":{"site":%q,"floor":%d},"properties":{"desired":{"v":%d}}}`, site, i, i)
		}
		s.owner(t, 200, "PATCH", "/twins/"+id, patch)
	}
	for _, id := range []iot.ID{{Device: "d1", Module: "m1"}, {Device: "d1", Module: "m2"}, {Device: "d2", Module: "m1"}} {
		if err := s.Store.Create(t.Context(), registry.Identity{ID: id, Status: registry.Enabled, Authentication: registry.Authentication{Type: registry.None}}, twin.New(id)); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := s.Store.UpdateTwin(t.Context(), iot.ID{Device: "d1"}, func(tw twin.Twin) (twin.Twin, error) {
		return tw.ApplyReported([]byte(`{"t":21.5}`), 0, s.Clock.Now())
	}); err != nil {
		t.Fatal(err)
	}
	return s
}

// ask sends a query and returns its rows as one text.
func (s *server) ask(t *testing.T, text string, headers ...string) (answer, string) {
	t.Helper()
	body, err := json.Marshal(map[string]string{"query": text})
	if err != nil {
		t.Fatal(err)
	}
	a := s.owner(t, 200, "POST", "/devices/query?api-version=2021-04-12", string(body), headers...)
	return a, string(a.body)
}

func TestQuery(t *testing.T) {
	conform.Covers(t, "HS-060", "HS-063", "HS-064", "HS-065", "HS-067", "HS-068")
	t.Parallel()
	s := fleet(t)
	scope := s.owner(t, 200, "GET", "/devices/d0", "").document(t)["deviceScope"].(string)
	s.owner(t, 200, "PUT", "/devices/child", fmt.Sprintf(`{"deviceId":"child","deviceScope":%q}`, scope))
	for _, c := range []struct{ query, want, itemType string }{
		// Of shipped clients, as they are sent (hub-service §4.4).
		{"SELECT deviceId as DeviceId,\n status as Status,\n connectionState as ConnectionState,\r\n capabilities.iotEdge as IotEdge, statusUpdatedTime as StatusUpdatedTime, modelId as ModelId FROM devices WHERE STARTSWITH(devices.deviceId, 'd0')",
			`[{"DeviceId":"d0","Status":"enabled","ConnectionState":"Disconnected","IotEdge":true,"ModelId":""}]`, "Raw"},
		{"SELECT deviceId FROM devices WHERE (capabilities.iotEdge=true AND status='enabled')", `[{"deviceId":"d0"}]`, "Raw"},
		{"select deviceId from devices where array_contains(parentScopes, '" + scope + "')", `[{"deviceId":"child"}]`, "Raw"},
		{"SELECT deviceId, deviceScope FROM devices WHERE deviceScope = '" + scope + "'", `[{"deviceId":"child","deviceScope":"` + scope + `"},{"deviceId":"d0","deviceScope":"` + scope + `"}]`, "Raw"},
		{"SELECT deviceId, moduleId FROM devices.modules WHERE deviceId in ['d1']", `[{"deviceId":"d1","moduleId":"m1"},{"deviceId":"d1","moduleId":"m2"}]`, "Raw"},
		{"SELECT moduleId, devices.modules.deviceId FROM devices.modules WHERE devices.modules.moduleId = 'm1'", `[{"moduleId":"m1","deviceId":"d1"},{"moduleId":"m1","deviceId":"d2"}]`, "Raw"},
		{"SELECT * FROM devices.jobs WHERE devices.jobs.jobId = 'x'", `[]`, "DeviceJob"},

		{`sElEcT DEVICEID fRoM devices wHeRe tags.site = "lyon"`, `[{"deviceId":"d0"},{"deviceId":"d1"}]`, "Raw"},
		{"SELECT deviceId AS id, tags.floor FROM devices WHERE tags.floor IN [1, 2] AND NOT tags.site = 'paris'", `[{"id":"d1","floor":1}]`, "Raw"},
		{"SELECT deviceId FROM devices WHERE tags.floor NIN [0, 1, 2]", `[{"deviceId":"d3"}]`, "Raw"},
		{"SELECT deviceId FROM devices WHERE tags.floor * 2 + 1 = 5", `[{"deviceId":"d2"}]`, "Raw"},
		{"SELECT deviceId FROM devices WHERE is_defined(properties.reported.t)", `[{"deviceId":"d1"}]`, "Raw"},
		{"SELECT deviceId FROM devices WHERE properties.desired.$version = 2 AND properties.reported.$version = 2", `[{"deviceId":"d1"}]`, "Raw"},
		{"SELECT deviceId FROM devices WHERE properties.desired.$metadata.v.$lastUpdatedVersion = 2 AND tags.floor = 0", `[{"deviceId":"d0"}]`, "Raw"},
		{"SELECT deviceId FROM devices WHERE configurations.[[some-id]].status = 'Applied'", `[]`, "Raw"},

		{"SELECT deviceId FROM devices WHERE tags.site > 1", `[]`, "Raw"},
		{"SELECT deviceId FROM devices WHERE NOT tags.site = 'lyon'", `[{"deviceId":"d2"}]`, "Raw"},
		{"SELECT deviceId FROM devices WHERE tags.site", `[]`, "Raw"},

		{"SELECT COUNT() AS total FROM devices", `[{"total":5}]`, "Raw"},
		{"SELECT tags.site AS site, COUNT() AS numberOfDevices, MAX(tags.floor) AS top, AVG(tags.floor), SUM(tags.floor), MIN(tags.floor) FROM devices WHERE is_defined(tags.site) GROUP BY tags.site",
			`[{"site":"lyon","numberOfDevices":2,"top":1,"avg":0.5,"sum":1,"min":0},{"site":"paris","numberOfDevices":1,"top":2,"avg":2,"sum":2,"min":2}]`, "Raw"},
		{"SELECT status, COUNT() FROM devices GROUP BY status", `[{"status":"enabled","count":3},{"status":"disabled","count":2}]`, "Raw"},
	} {
		a, got := s.ask(t, c.query)
		if got != c.want || a.header("x-ms-item-type") != c.itemType {
			t.Errorf("%s\n got %s of type %s\nwant %s of type %s", c.query, got, a.header("x-ms-item-type"), c.want, c.itemType)
		}
	}

	for text, place := range map[string]string{
		"": "SELECT should", "SELECT * FROM": "line 1, column 14", "SELECT * FROM devices WHERE a == 1": "no operator",
		"SELECT * FROM devices ORDER BY x": "the end should", "SELECT deviceId FROM devices.jobs": "only SELECT *",
	} {
		body, _ := json.Marshal(map[string]string{"query": text})
		a := s.send(t, "POST", "/devices/query", string(body), "Authorization", s.as("service"))
		formA(t, a, 400, "ArgumentInvalid")
		if !strings.Contains(string(a.body), place) {
			t.Errorf("%q is refused with %s, which does not say %q", text, a.body, place)
		}
	}
	formA(t, s.send(t, "POST", "/devices/query", `{"query":`, "Authorization", s.as("service")), 400, "IotHubFormatError")
	formA(t, s.send(t, "POST", "/devices/query", `{}`, "Authorization", s.as("service")), 400, "ArgumentInvalid")
	formA(t, s.send(t, "POST", "/devices/query", `{"query":"SELECT * FROM devices"}`, "Authorization", s.as("device")), 401, "IotHubUnauthorizedAccess")
}

func TestQuery_Pages(t *testing.T) {
	t.Parallel()
	s := fleet(t)
	const text = "SELECT * FROM devices"
	var ids []string
	token := ""
	for pages := 0; ; pages++ {
		headers := []string{"x-ms-max-item-count", "3"}
		if token != "" {
			headers = append(headers, "x-ms-continuation", token)
		}
		a, body := s.ask(t, text, headers...)
		var rows []map[string]any
		if err := json.Unmarshal([]byte(body), &rows); err != nil {
			t.Fatal(err)
		}
		for _, r := range rows {
			id := r["deviceId"].(string)
			ids = append(ids, id)
			// A row is the twin as it is read alone.
			alone := s.owner(t, 200, "GET", "/twins/"+url.PathEscape(id), "")
			row, _ := json.Marshal(r)
			doc, _ := json.Marshal(alone.document(t))
			if string(row) != string(doc) {
				t.Errorf("row of %s\n  is %s\ntwin %s", id, row, doc)
			}
		}
		if got := a.header("x-ms-item-type"); got != "Twin" {
			t.Errorf("item type is %q, want Twin", got)
		}
		more := false
		for name, values := range a.Header {
			if http.CanonicalHeaderKey(name) == http.CanonicalHeaderKey("x-ms-continuation") {
				more, token = true, values[0]
			}
		}
		if !more {
			if pages != 1 {
				t.Errorf("the answer came in %d pages, want 2", pages+1)
			}
			break
		}
		if token == "" || strings.Trim(token, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_") != "" {
			t.Fatalf("the continuation token is %q", token)
		}
	}
	if got := strings.Join(ids, " "); got != "d0 d1 d2 d3" {
		t.Errorf("the pages hold %q, want every device once", got)
	}
	for _, headers := range [][]string{{"x-ms-max-item-count", "0"}, {"x-ms-max-item-count", "1001"}, {"x-ms-max-item-count", "many"}, {"x-ms-continuation", "bm9uc2Vuc2U"}} {
		a := s.send(t, "POST", "/devices/query", `{"query":"SELECT * FROM devices"}`, append([]string{"Authorization", s.as("service")}, headers...)...)
		formA(t, a, 400, "ArgumentInvalid")
	}
}
