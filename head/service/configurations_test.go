package service_test

import (
	"encoding/json"
	"fmt"
	"strings"
	"testing"

	"github.com/vauban-iot/vauban/hub/hubtest"
	"github.com/vauban-iot/vauban/internal/conform"
)

// desired waits until the desired properties of an identity are as told.
func (s *server) desired(t *testing.T, path, want string) (metadata map[string]any, version int) {
	t.Helper()
	var w any
	if err := json.Unmarshal([]byte(want), &w); err != nil {
		t.Fatal(err)
	}
	wanted, _ := json.Marshal(w)
	got := ""
	defer func() {
		if t.Failed() {
			t.Logf("desired of %s: %s", path, got)
		}
	}()
	hubtest.Until(t, path+" to have "+want, func() bool {
		a := s.send(t, "GET", "/twins/"+path, "", "Authorization", s.as("iothubowner"))
		if a.StatusCode != 200 {
			return false
		}
		var d map[string]any
		d, metadata, version = section(t, a.document(t), "desired")
		b, _ := json.Marshal(d)
		got = string(b)
		return got == string(wanted)
	})
	return metadata, version
}

// statuses waits until the configurations of a twin are as told: id status, in order of ids.
func (s *server) statuses(t *testing.T, path, want string) {
	t.Helper()
	got := ""
	hubtest.Until(t, path+" to have configurations "+want, func() bool {
		seen, _ := s.owner(t, 200, "GET", "/twins/"+path, "").document(t)["configurations"].(map[string]any)
		b, _ := json.Marshal(seen)
		got = strings.NewReplacer(`{"status":"`, "", `"}`, "", `"`, "", "{", "", "}", "", ":", " ", "null", "").Replace(string(b))
		return got == want
	})
}

func (s *server) configure(t *testing.T, id string, priority int, condition, content string) map[string]any {
	t.Helper()
	return s.owner(t, 200, "PUT", "/configurations/"+id+"?api-version=2021-04-12",
		fmt.Sprintf(`{"id":%q,"schemaVersion":"1.0","priority":%d,"targetCondition":%q,"content":%s,"etag":"*"}`, id, priority, condition, content)).document(t)
}

func TestConfigurations(t *testing.T) {
	conform.Covers(t, "HS-079")
	t.Parallel()
	s := serve(t)
	doc := s.configure(t, "c-1", 10, "tags.site = 'lyon'", `{"deviceContent":{"properties.desired.fan":{"speed":1.50}}}`)
	for _, name := range []string{"id", "schemaVersion", "labels", "content", "contentType", "targetCondition", "createdTimeUtc", "lastUpdatedTimeUtc", "priority", "systemMetrics", "metrics", "etag"} {
		if _, ok := doc[name]; !ok {
			t.Errorf("a configuration has no %s", name)
		}
	}
	if doc["etag"] != "MQ==" {
		t.Errorf("the first etag is %v", doc["etag"])
	}
	is(t, "content", doc["content"], `{"deviceContent":{"properties.desired.fan":{"speed":1.5}},"moduleContent":null,"modulesContent":null}`)
	is(t, "metrics", doc["metrics"], `{"results":{},"queries":{}}`)
	owner := func(method, path, body string, headers ...string) answer {
		t.Helper()
		return s.send(t, method, path, body, append([]string{"Authorization", s.as("iothubowner")}, headers...)...)
	}
	formA(t, owner("PUT", "/configurations/c-1", `{"content":{"deviceContent":{}}}`), 409, "ConfigurationAlreadyExists")
	formA(t, owner("PUT", "/configurations/c-1", `{"content":{"deviceContent":{"properties.desired.fan":{"speed":2}}}}`, "If-Match", "*"), 400, "CannotModifyImmutableConfigurationContent")
	formA(t, owner("PUT", "/configurations/c-1", `{"priority":11}`, "If-Match", `"abc"`), 412, "PreconditionFailed")
	formA(t, owner("PUT", "/configurations/c-1", `{"targetCondition":"tags.a = "}`, "If-Match", "*"), 400, "InvalidConfigurationTargetCondition")
	body, _ := json.Marshal(doc)
	changed := s.owner(t, 200, "PUT", "/configurations/c-1", strings.Replace(string(body), `"priority":10`, `"priority":12`, 1), "If-Match", `"MQ=="`).document(t)
	if changed["priority"] != 12.0 || changed["etag"] != "Mg==" || changed["targetCondition"] != "tags.site = 'lyon'" {
		t.Errorf("changed: %v", changed)
	}
	changed = s.owner(t, 200, "PUT", "/configurations/c-1", `{"targetCondition":"*","labels":{"a":"b"}}`, "If-Match", "*").document(t)
	if changed["priority"] != 12.0 || changed["targetCondition"] != "*" {
		t.Errorf("absent members do not stay: %v", changed)
	}
	for _, bad := range []string{
		`{}`, `{"content":{}}`, `{"content":{"deviceContent":{},"moduleContent":{}}}`, `{"content":{"deviceContent":{"desired.x":1}}}`,
		`{"content":{"deviceContent":{"properties.desired.":1}}}`, `{"content":{"deviceContent":{"properties.desired.a b":1}}}`, `{"content":{"otherContent":{}}}`,
		`{"content":{"deviceContent":{}},"priority":-1}`, `{"content":{"deviceContent":{}},"metrics":{"queries":{"a":"select"}}}`,
		`{"content":{"modulesContent":{"m":{"properties.desired":1}}}}`,
	} {
		formA(t, owner("PUT", "/configurations/bad", bad), 400, "ArgumentInvalid")
	}
	formA(t, owner("PUT", "/configurations/bad", `{"content":{"moduleContent":{}},"targetCondition":"tags.a = 1"}`), 400, "InvalidConfigurationTargetCondition")
	formA(t, owner("GET", "/configurations/none", ""), 404, "ConfigurationNotFound")
	formA(t, owner("DELETE", "/configurations/none", ""), 404, "ConfigurationNotFound")
	formA(t, s.send(t, "PUT", "/configurations/c-2", `{}`, "Authorization", s.as("registryRead")), 401, "IotHubUnauthorizedAccess")

	s.configure(t, "c-2", 1, "", `{"deviceContent":{}}`)
	for path, want := range map[string]int{"/configurations": 2, "/configurations/?top=1": 1, "/configurations?top=20": 2} {
		var all []map[string]any
		if a := owner("GET", path, ""); json.Unmarshal(a.body, &all) != nil || len(all) != want {
			t.Errorf("%s: %s, want %d", path, a.body, want)
		}
	}
	a := s.owner(t, 200, "POST", "/configurations/testQueries", `{"targetCondition":"tags.x = ","customMetricQueries":{"good":"select deviceId from devices","bad":"select"}}`).document(t)
	errs, _ := a["customMetricQueryErrors"].(map[string]any)
	if text, _ := a["targetConditionError"].(string); text == "" || len(errs) != 1 || errs["bad"] == "" {
		t.Errorf("testQueries: %v", a)
	}
	is(t, "testQueries", s.owner(t, 200, "POST", "/configurations/testQueries", `{"targetCondition":"tags.x = 1"}`).document(t), `{"targetConditionError":null,"customMetricQueryErrors":{}}`)
	s.owner(t, 204, "DELETE", "/configurations/c-2", "")
	formA(t, owner("DELETE", "/configurations/c-1", "", "If-Match", `"abc"`), 412, "PreconditionFailed")
	s.owner(t, 204, "DELETE", "/configurations/c-1", "", "If-Match", `"*"`)
}

func TestConfigurations_Apply(t *testing.T) {
	conform.Covers(t, "HS-080", "HS-081")
	t.Parallel()
	s := fleet(t) // d0 and d1 in lyon, d2 in paris; modules m1 and m2 of d1, m1 of d2
	s.configure(t, "low", 1, "tags.site = 'lyon'", `{"deviceContent":{"properties.desired.fan":{"speed":1},"properties.desired.low":true}}`)
	meta, _ := s.desired(t, "d0", `{"v":0,"fan":{"speed":1},"low":true}`)
	fan := meta["fan"].(map[string]any)["speed"].(map[string]any)
	if fan["$lastUpdatedBy"] != "low" || fan["$lastUpdatedByDigest"] == "" || meta["v"].(map[string]any)["$lastUpdatedBy"] != nil {
		t.Errorf("metadata %v, want the configuration's name at what it wrote", meta)
	}
	s.statuses(t, "d0", "low Applied")
	s.statuses(t, "d2", "")
	s.configure(t, "high", 5, "tags.floor <= 1", `{"deviceContent":{"properties.desired.fan.speed":2,"properties.desired.high.deep":{"a":1}}}`)
	s.desired(t, "d0", `{"v":0,"fan":{"speed":2},"high":{"deep":{"a":1}}}`)
	s.statuses(t, "d0", "high Applied,low Targeted")
	// Of two with equal priority the later one wins.
	s.Clock.Add(1)
	s.configure(t, "later", 5, "deviceId = 'd0'", `{"deviceContent":{"properties.desired":{"fan":{"speed":3}}}}`)
	s.desired(t, "d0", `{"v":0,"fan":{"speed":3}}`)
	s.statuses(t, "d0", "high Targeted,later Applied,low Targeted")
	s.statuses(t, "d1", "high Applied,low Targeted")

	for query, want := range map[string]string{
		"SELECT deviceId FROM devices WHERE configurations.[[high]].status = 'Applied'": `[{"deviceId":"d1"}]`,
		"SELECT deviceId FROM devices WHERE is_defined(configurations.low)":             `[{"deviceId":"d0"},{"deviceId":"d1"}]`,
	} {
		if _, got := s.ask(t, query); got != want {
			t.Errorf("%s: %s, want %s", query, got, want)
		}
	}
	// A user's edit stays until something else applies.
	s.owner(t, 200, "PATCH", "/twins/d1", `{"properties":{"desired":{"fan":{"speed":9}}}}`)
	// Metrics count, with the texts that programs know.
	s.owner(t, 200, "PUT", "/configurations/high", `{"metrics":{"queries":{"edge":"select deviceId from devices where capabilities.iotEdge = true"}}}`, "If-Match", "*")
	var doc map[string]any
	hubtest.Until(t, "results", func() bool {
		doc = s.owner(t, 200, "GET", "/configurations/high", "").document(t)
		b, _ := json.Marshal([]any{doc["systemMetrics"].(map[string]any)["results"], doc["metrics"].(map[string]any)["results"]})
		return string(b) == `[{"appliedCount":1,"targetedCount":2},{"edge":1}]`
	})
	is(t, "system metrics", doc["systemMetrics"].(map[string]any)["queries"],
		`{"targetedCount":"select deviceId from devices where tags.floor <= 1","appliedCount":"select deviceId from devices where configurations.[[high]].status = 'Applied'"}`)
	for _, text := range doc["systemMetrics"].(map[string]any)["queries"].(map[string]any) {
		s.ask(t, text.(string))
	}
	s.desired(t, "d1", `{"v":1,"fan":{"speed":9},"high":{"deep":{"a":1}}}`)

	// Leaving: the next one applies; without any, what configurations wrote is gone. Coming back applies again.
	s.owner(t, 204, "DELETE", "/configurations/later", "")
	s.desired(t, "d0", `{"v":0,"fan":{"speed":2},"high":{"deep":{"a":1}}}`)
	s.owner(t, 200, "PATCH", "/twins/d0", `{"tags":{"floor":7}}`)
	s.desired(t, "d0", `{"v":0,"fan":{"speed":1},"low":true}`)
	s.owner(t, 200, "PATCH", "/twins/d0", `{"tags":{"site":"oslo"}}`)
	s.desired(t, "d0", `{"v":0}`)
	s.statuses(t, "d0", "")
	s.owner(t, 200, "PATCH", "/twins/d0", `{"tags":{"site":"lyon"}}`)
	s.desired(t, "d0", `{"v":0,"fan":{"speed":1},"low":true}`)

	// Modules.
	s.configure(t, "mod", 1, "from devices.modules where moduleId = 'm1'", `{"moduleContent":{"properties.desired.x":1}}`)
	s.desired(t, "d1/modules/m1", `{"x":1}`)
	s.desired(t, "d2/modules/m1", `{"x":1}`)
	s.desired(t, "d1/modules/m2", `{}`)
	s.statuses(t, "d1/modules/m1", "mod Applied")
	// After the last one is gone nothing is remembered.
	for _, id := range []string{"low", "high", "mod"} {
		s.owner(t, 204, "DELETE", "/configurations/"+id, "")
	}
	s.desired(t, "d1/modules/m1", `{}`)
	s.desired(t, "d1", `{"v":1}`)
	s.statuses(t, "d1", "")
	s.statuses(t, "d2/modules/m1", "")
}

func TestConfigurations_Edge(t *testing.T) {
	conform.Covers(t, "HS-082")
	t.Parallel()
	s := serve(t)
	s.owner(t, 200, "PUT", "/devices/e1", `{"deviceId":"e1","capabilities":{"iotEdge":true}}`)
	s.owner(t, 200, "PUT", "/devices/plain", `{"deviceId":"plain"}`)
	s.owner(t, 200, "PATCH", "/twins/e1", `{"tags":{"site":"lyon"}}`)
	const base = `{"modulesContent":{"$edgeAgent":{"properties.desired":{"schemaVersion":"1.1","modules":{"a":{"v":1}}}},"$edgeHub":{"properties.desired":{"routes":{"r":"x"}}},"a":{"properties.desired":{"p":1,"q":{"r":1}}}}}`
	s.configure(t, "base", 10, "*", base)
	s.desired(t, "e1/modules/$edgeAgent", `{"schemaVersion":"1.1","modules":{"a":{"v":1}}}`)
	s.desired(t, "e1/modules/$edgeHub", `{"routes":{"r":"x"}}`)
	s.desired(t, "e1/modules/a", `{"p":1,"q":{"r":1}}`)
	if m := s.owner(t, 200, "GET", "/devices/e1/modules/a", "").document(t); m["managedBy"] != "iotEdge" || m["authentication"].(map[string]any)["type"] != "sas" {
		t.Errorf("the module is %v", m)
	}
	s.statuses(t, "e1", "base Applied")
	s.statuses(t, "e1/modules/$edgeAgent", "base Applied")
	s.statuses(t, "plain", "")

	s.configure(t, "layer2", 12, "tags.site = 'lyon'", `{"modulesContent":{"$edgeAgent":{"properties.desired.modules.b":{"v":2}},"b":{"properties.desired":{"b":2}},"a":{"properties.desired.q.r":3}}}`)
	s.configure(t, "layer1", 11, "tags.site = 'lyon'", `{"modulesContent":{"$edgeAgent":{"properties.desired.modules.b":{"v":1}},"b":{"properties.desired":{"b":1,"gone":1}},"a":{"properties.desired.q.r":2,"properties.desired.l":1}}}`)
	s.configure(t, "below", 9, "*", `{"modulesContent":{"a":{"properties.desired.below":1}}}`)
	s.statuses(t, "e1", "base Applied,below Targeted,layer1 Applied,layer2 Applied")
	s.desired(t, "e1/modules/$edgeAgent", `{"schemaVersion":"1.1","modules":{"a":{"v":1},"b":{"v":2}}}`)
	s.desired(t, "e1/modules/a", `{"p":1,"q":{"r":3},"l":1}`)
	s.desired(t, "e1/modules/b", `{"b":2}`)

	var doc map[string]any
	hubtest.Until(t, "results", func() bool {
		doc = s.owner(t, 200, "GET", "/configurations/base", "").document(t)["systemMetrics"].(map[string]any)
		b, _ := json.Marshal(doc["results"])
		return string(b) == `{"appliedCount":1,"reportedFailedCount":0,"reportedSuccessfulCount":0,"targetedCount":1}`
	})
	const applied = `select deviceId from devices.modules where moduleId = '$edgeAgent' and configurations.[[base]].status = 'Applied'`
	is(t, "queries", doc["queries"], `{"targetedCount":"select deviceId from devices where capabilities.iotEdge = true","appliedCount":"`+applied+`",
		"reportedSuccessfulCount":"`+applied+` and properties.desired.$version = properties.reported.lastDesiredVersion and properties.reported.lastDesiredStatus.code = 200",
		"reportedFailedCount":"`+applied+` and properties.desired.$version = properties.reported.lastDesiredVersion and properties.reported.lastDesiredStatus.code != 200"}`)

	// Layers go with their condition, and so does the module that only they had.
	s.owner(t, 200, "PATCH", "/twins/e1", `{"tags":{"site":"paris"}}`)
	s.desired(t, "e1/modules/a", `{"p":1,"q":{"r":1}}`)
	s.statuses(t, "e1", "base Applied,below Targeted")
	formA(t, s.send(t, "GET", "/devices/e1/modules/b", "", "Authorization", s.as("iothubowner")), 404, "ModuleNotFound")
	// Without any deployment the last set of modules stays.
	for _, id := range []string{"base", "below", "layer1", "layer2"} {
		s.owner(t, 204, "DELETE", "/configurations/"+id, "")
	}
	s.statuses(t, "e1", "")
	s.statuses(t, "e1/modules/$edgeAgent", "")
	s.desired(t, "e1/modules/a", `{"p":1,"q":{"r":1}}`)
}

func TestApplyConfigurationContent(t *testing.T) {
	conform.Covers(t, "HS-083")
	t.Parallel()
	s := serve(t)
	s.owner(t, 200, "PUT", "/devices/e1", `{"deviceId":"e1","capabilities":{"iotEdge":true}}`)
	s.owner(t, 200, "PUT", "/devices/d1", `{"deviceId":"d1"}`)
	const content = `{"modulesContent":{"$edgeAgent":{"properties.desired":{"modules":{"a":{}}}},"$edgeHub":{"properties.desired":{}},"a":{"properties.desired":{"p":1}}},"deviceContent":null}`
	if a := s.owner(t, 204, "POST", "/devices/e1/applyConfigurationContent?api-version=2021-04-12", content); len(a.body) != 0 {
		t.Errorf("the body is %s", a.body)
	}
	var ms []struct{ ModuleID string }
	if err := json.Unmarshal(s.owner(t, 200, "GET", "/devices/e1/modules", "").body, &ms); err != nil || len(ms) != 3 {
		t.Errorf("modules %v, %v; want three", ms, err)
	}
	s.desired(t, "e1/modules/a", `{"p":1}`)
	s.owner(t, 204, "POST", "/devices/e1/applyConfigurationContent", strings.NewReplacer(`"a":{}`, `"b":{}`, `"a":{"p`, `"b":{"p`).Replace(content))
	formA(t, s.send(t, "GET", "/devices/e1/modules/a", "", "Authorization", s.as("iothubowner")), 404, "ModuleNotFound")
	s.owner(t, 204, "POST", "/devices/d1/applyConfigurationContent", `{"deviceContent":{"properties.desired.x.y":1}}`)
	s.desired(t, "d1", `{"x":{"y":1}}`)
	for path, body := range map[string]string{"d1": content, "e1": `{"moduleContent":{}}`} {
		formA(t, s.send(t, "POST", "/devices/"+path+"/applyConfigurationContent", body, "Authorization", s.as("iothubowner")), 400, "ArgumentInvalid")
	}
	formA(t, s.send(t, "POST", "/devices/none/applyConfigurationContent", content, "Authorization", s.as("iothubowner")), 404, "DeviceNotFound")
	formA(t, s.send(t, "POST", "/devices/d1/applyConfigurationContent", `{`, "Authorization", s.as("iothubowner")), 400, "IotHubFormatError")
}
