package service_test

import (
	"strings"
	"testing"

	"github.com/vauban-iot/vauban/internal/conform"
)

func TestDigitalTwin(t *testing.T) {
	conform.Covers(t, "HS-048", "HS-049")
	t.Parallel()
	s := serve(t)
	s.owner(t, 200, "PUT", "/devices/d1", `{"deviceId":"d1"}`)
	get := func() answer { return s.owner(t, 200, "GET", "/digitaltwins/d1?api-version=2021-04-12", "") }
	a := get()
	is(t, "fresh", a.document(t), `{"$dtId":"d1","$metadata":{}}`)
	if got := a.header("ETag"); got != `"AAAAAAAAAAE="` {
		t.Errorf("ETag %s, want the twin's", got)
	}

	a = s.owner(t, 202, "PATCH", "/digitaltwins/d1?api-version=2021-04-12", `[{"op":"add","path":"/th","value":{"$metadata":{},"target":20.4}},{"op":"add","path":"/p","value":"x"}]`, "If-Match", a.header("ETag"))
	if got, want := a.header("Location"), "/digitaltwins/d1"; !strings.HasPrefix(got, "https://") || !strings.HasSuffix(got, want) || len(a.body) != 0 {
		t.Errorf("Location %q with body %q, want a URL that ends in %s and no body", got, a.body, want)
	}
	etag := a.header("ETag")
	if etag == `"AAAAAAAAAAE="` || etag != get().header("ETag") {
		t.Errorf("ETag %s after the patch, and %s when read", etag, get().header("ETag"))
	}
	desired, _, version := section(t, s.owner(t, 200, "GET", "/twins/d1", "").document(t), "desired")
	is(t, "desired", desired, `{"th":{"__t":"c","target":20.4},"p":"x"}`)
	if version != 2 {
		t.Errorf("$version %d, want 2", version)
	}
	doc := get().document(t)
	meta := doc["th"].(map[string]any)["$metadata"].(map[string]any)["target"].(map[string]any)
	if meta["desiredValue"] != 20.4 || meta["desiredVersion"] != 2.0 {
		t.Errorf("metadata %v, want the desired value and its version", meta)
	}

	formA(t, s.send(t, "PATCH", "/digitaltwins/d1", `[]`, "Authorization", s.as("service"), "If-Match", `"AAAAAAAAAAE="`), 412, "PreconditionFailed")
	s.owner(t, 202, "PATCH", "/digitaltwins/d1", `[{"op":"remove","path":"/p"}]`, "If-Match", "*")
	refused := s.send(t, "PATCH", "/digitaltwins/d1", `[{"op":"add","path":"/p","value":[]}]`, "Authorization", s.as("service"))
	formA(t, refused, 400, "ArgumentInvalid")
	s.owner(t, 200, "PATCH", "/twins/d1", `{"properties":{"desired":{"loose":{"a":1}}}}`)
	refused = s.send(t, "PATCH", "/digitaltwins/d1", `[{"op":"add","path":"/loose/a","value":2}]`, "Authorization", s.as("service"))
	formA(t, refused, 400, "ArgumentInvalid")
	if want := "ErrorCode:ArgumentInvalid;operation"; strings.Contains(string(refused.body), want) || !strings.Contains(string(refused.body), "ErrorCode:ArgumentInvalid;'loose' exists within the device twin and is not digital twin conformant property") {
		t.Errorf("refused with %s", refused.body)
	}
	formA(t, s.send(t, "PATCH", "/digitaltwins/d1", `{`, "Authorization", s.as("service")), 400, "IotHubFormatError")
	formA(t, s.send(t, "GET", "/digitaltwins/nobody", "", "Authorization", s.as("service")), 404, "DeviceNotFound")
	formA(t, s.send(t, "GET", "/digitaltwins/d1", "", "Authorization", s.as("registryRead")), 401, "IotHubUnauthorizedAccess")
}

func TestDigitalTwin_Commands(t *testing.T) {
	conform.Covers(t, "HS-050")
	t.Parallel()
	s := serve(t)
	s.calls(t, "d1", func(name string, payload []byte) (int, []byte, error) {
		if name == "silent" {
			return 204, nil, nil
		}
		return 207, []byte(`{"name":"` + name + `","was":` + string(payload) + `}`), nil
	})
	for _, test := range []struct{ path, body, status, want string }{
		{"/digitaltwins/d1/commands/reboot?api-version=2021-04-12", `"3"`, "207", `{"name":"reboot","was":"3"}`},
		{"/digitaltwins/d1/commands/reboot", ``, "207", `{"name":"reboot","was":null}`},
		{"/digitaltwins/d1/components/th/commands/report?connectTimeoutInSeconds=1&responseTimeoutInSeconds=5", `{"since":1}`, "207", `{"name":"th*report","was":{"since":1}}`},
		{"/digitaltwins/d1/commands/silent", `null`, "204", `null`},
	} {
		a := s.owner(t, 200, "POST", test.path, test.body)
		if string(a.body) != test.want || a.header("x-ms-command-statuscode") != test.status || a.header("x-ms-request-id") == "" {
			t.Errorf("%s: %s with status %q, want %s with %s", test.path, a.body, a.header("x-ms-command-statuscode"), test.want, test.status)
		}
	}
	s.owner(t, 200, "PUT", "/devices/off", `{"deviceId":"off"}`)
	for _, test := range []struct {
		path, body string
		status     int
		part       string
	}{
		{"/digitaltwins/off/commands/reboot", `1`, 404, `\"errorCode\":404103`},
		{"/digitaltwins/nobody/commands/reboot", `1`, 404, `\"errorCode\":404001`},
		{"/digitaltwins/d1/commands/re-boot", `1`, 400, `\"errorCode\":400004`},
		{"/digitaltwins/d1/commands/reboot?responseTimeoutInSeconds=1", `1`, 400, `\"errorCode\":400004`},
		{"/digitaltwins/d1/commands/reboot?responseTimeoutInSeconds=NaN", `1`, 400, `\"errorCode\":400004`},
		{"/digitaltwins/d1/commands/reboot", `{`, 400, `\"errorCode\":400006`},
	} {
		a := s.send(t, "POST", test.path, test.body, "Authorization", s.as("service"))
		if a.StatusCode != test.status || !strings.Contains(string(a.body), test.part) {
			t.Errorf("%s: %d %s, want %d with %s", test.path, a.StatusCode, a.body, test.status, test.part)
		}
	}
}
