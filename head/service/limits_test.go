package service_test

import (
	"encoding/json"
	"fmt"
	"log/slog"
	"net/http/httptest"
	"strconv"
	"strings"
	"testing"

	"github.com/vauban-iot/vauban/fault"
	"github.com/vauban-iot/vauban/head/service"
	"github.com/vauban-iot/vauban/hub/hubtest"
	"github.com/vauban-iot/vauban/hub/throttle"
	"github.com/vauban-iot/vauban/iot"
)

// limited is a head with the world's limiter.
func limited(t testing.TB, change func(*service.Head)) *server {
	t.Helper()
	w := hubtest.New(t, hubtest.Options{Memory: true})
	h := service.New(w.Hub, w.Guard, slog.New(w.Log))
	h.Limit(w.Throttle)
	if change != nil {
		change(h)
	}
	s := &server{World: w, Server: httptest.NewUnstartedServer(h)}
	s.StartTLS()
	t.Cleanup(s.Server.Close)
	return s
}

func (s *server) throttle(t testing.TB, limits string) {
	t.Helper()
	l, err := throttle.Parse([]byte(`{"limits":{` + limits + `}}`))
	if err != nil {
		t.Fatal(err)
	}
	s.Throttle.Set(l)
}

// Every kind of request has a limit of its own, and beyond it gets 429 in form A, or in form B where methods are called.
func TestThrottle_Services(t *testing.T) {
	t.Parallel()
	s := limited(t, nil)
	id := s.World.Device(t, iot.ID{Device: "limited"}).ID.Device
	for _, c := range []struct {
		limit, method, path, body string
		first                     int // status while there is room
		formB                     bool
	}{
		{"registry", "GET", "/devices/" + id, "", 200, false},
		{"registry", "GET", "/statistics/devices", "", 200, false},
		{"twinReads", "GET", "/twins/" + id, "", 200, false},
		{"twinReads", "GET", "/digitaltwins/" + id, "", 200, false},
		{"twinUpdates", "PATCH", "/twins/" + id, `{"tags":{"a":1}}`, 200, false},
		{"twinQueries", "POST", "/devices/query", `{"query":"SELECT * FROM devices"}`, 200, false},
		{"cloudToDeviceSends", "POST", "/devices/" + id + "/messages/deviceBound", "x", 204, false},
		{"jobs", "GET", "/jobs/v2/query", "", 200, false},
		{"configurations", "GET", "/configurations", "", 200, false},
		{"directMethods", "POST", "/twins/" + id + "/methods", `{"methodName":"m","responseTimeoutInSeconds":5}`, 404, true},
	} {
		s.throttle(t, "") // what was taken is forgotten
		s.throttle(t, `"`+c.limit+`":"1/min"`)
		if a := s.send(t, c.method, c.path, c.body, "Authorization", s.as("iothubowner")); a.StatusCode != c.first {
			t.Errorf("%s %s: %d %s, want %d", c.method, c.path, a.StatusCode, a.body, c.first)
		}
		a := s.send(t, c.method, c.path, c.body, "Authorization", s.as("iothubowner"))
		if a.StatusCode != 429 || a.header("iothub-errorcode") != "ThrottlingException" || !strings.Contains(a.header("Content-Type"), "application/json") {
			t.Errorf("%s %s beyond %s: %d %s %v, want 429", c.method, c.path, c.limit, a.StatusCode, a.body, a.Header)
		}
		if n, err := strconv.Atoi(a.header("Retry-After")); err != nil || n < 55 || n > 61 {
			t.Errorf("%s %s: Retry-After %q, want about a minute", c.method, c.path, a.header("Retry-After"))
		}
		message, _ := a.document(t)["Message"].(string)
		if c.formB {
			var inner struct {
				ErrorCode int
				Message   string
			}
			if err := json.Unmarshal([]byte(message), &inner); err != nil || inner.ErrorCode != 429001 || inner.Message == "" {
				t.Errorf("%s %s: message %q, want form B with 429001", c.method, c.path, message)
			}
		} else if code, text, ok := strings.Cut(message, ";"); !ok || code != "ErrorCode:ThrottlingException" || text == "" {
			t.Errorf("%s %s: message %q, want form A", c.method, c.path, message)
		}
		if a := s.send(t, "DELETE", "/devices/"+id+"/commands", "", "Authorization", s.as("iothubowner")); a.StatusCode != 200 {
			t.Errorf("with %s used up something without a limit answers %d", c.limit, a.StatusCode)
		}
	}
	// Wrong credentials take nothing from those with good ones.
	s.throttle(t, `"twinReads":"1/min"`)
	for range 3 {
		if a := s.send(t, "GET", "/twins/"+id, "", "Authorization", "SharedAccessSignature nonsense"); a.StatusCode != 401 {
			t.Errorf("status %d", a.StatusCode)
		}
	}
	if a := s.send(t, "GET", "/twins/"+id, "", "Authorization", s.as("service")); a.StatusCode != 200 {
		t.Errorf("after three refusals: %d", a.StatusCode)
	}
	// Off again.
	s.throttle(t, "")
	for range 5 {
		if a := s.send(t, "GET", "/twins/"+id, "", "Authorization", s.as("service")); a.StatusCode != 200 {
			t.Errorf("without limits: %d", a.StatusCode)
		}
	}
}

// A request for many counts as many, and a method by its size.
func TestThrottle_Counts(t *testing.T) {
	t.Parallel()
	s := limited(t, nil)
	rows := func(from, n int) string {
		var list []string
		for i := range n {
			list = append(list, fmt.Sprintf(`{"id":"bulk-%d","importMode":"create"}`, from+i))
		}
		return "[" + strings.Join(list, ",") + "]"
	}
	s.throttle(t, `"registry":"10/min"`)
	if a := s.send(t, "POST", "/devices", rows(0, 9), "Authorization", s.as("iothubowner")); a.StatusCode != 200 {
		t.Errorf("9 of 10: %d %s", a.StatusCode, a.body)
	}
	if a := s.send(t, "POST", "/devices", rows(9, 5), "Authorization", s.as("iothubowner")); a.StatusCode != 429 {
		t.Errorf("5 more: %d %s", a.StatusCode, a.body)
	}
	s.throttle(t, "")
	if a := s.send(t, "GET", "/devices/bulk-9", "", "Authorization", s.as("iothubowner")); a.StatusCode != 404 {
		t.Errorf("a refused bulk operation made a device: %d", a.StatusCode)
	}
	s.throttle(t, `"directMethods":"3/min"`)
	large := `{"methodName":"m","responseTimeoutInSeconds":5,"payload":"` + strings.Repeat("x", 9000) + `"}` // three steps
	if a := s.send(t, "POST", "/twins/bulk-0/methods", large, "Authorization", s.as("iothubowner")); a.StatusCode != 404 {
		t.Errorf("a large method: %d %s", a.StatusCode, a.body)
	}
	if a := s.send(t, "POST", "/twins/bulk-0/methods", `{"methodName":"m"}`, "Authorization", s.as("iothubowner")); a.StatusCode != 429 {
		t.Errorf("one more method: %d %s", a.StatusCode, a.body)
	}
}

// The quota of a day refuses messages with the code of Azure.
func TestQuota_Messages(t *testing.T) {
	t.Parallel()
	s := limited(t, nil)
	d := s.World.Device(t, iot.ID{Device: "limited"})
	s.throttle(t, `"dailyMessages":"2/day"`)
	for i, want := range []int{204, 204, 403} {
		a := s.send(t, "POST", "/devices/"+d.ID.Device+"/messages/deviceBound", "x", "Authorization", s.as("service"))
		if a.StatusCode != want || want == 403 && a.header("iothub-errorcode") != "IotHubQuotaExceeded" {
			t.Errorf("message %d: %d %s, want %d", i+1, a.StatusCode, a.body, want)
		}
	}
}

// A caller that may not come from where it is gets 401 on every path, with no hint why.
func TestAdmit(t *testing.T) {
	t.Parallel()
	var asked []string
	s := limited(t, func(h *service.Head) {
		h.Admit(func(remote string) (string, error) {
			asked = append(asked, remote)
			return "", fault.Wrap(fault.Unauthorized, fmt.Errorf("rule of a secret name"), "unauthorized")
		})
	})
	for _, path := range []string{"/devices", "/twins/d", "/nothing", "/jobs/v2/query"} {
		a := s.send(t, "GET", path, "", "Authorization", s.as("iothubowner"))
		if a.StatusCode != 401 || a.header("iothub-errorcode") != "IotHubUnauthorized" || strings.Contains(string(a.body), "rule") {
			t.Errorf("%s: %d %s", path, a.StatusCode, a.body)
		}
	}
	if len(asked) != 4 || !strings.HasPrefix(asked[0], "127.0.0.1:") {
		t.Errorf("asked about %q", asked)
	}
}

// Every change leaves one record that says who, what, on what and how it ended, and holds no secret; reads leave none.
func TestAudit(t *testing.T) {
	t.Parallel()
	s := serve(t)
	const id = "audited"
	key := "MDEyMzQ1Njc4OWFiY2RlZg=="
	for _, c := range []struct {
		policy, method, path, body string
		status                     int
		want                       string // of the record; empty: there must be none
	}{
		{"iothubowner", "PUT", "/devices/" + id, `{"deviceId":"` + id + `","authentication":{"symmetricKey":{"primaryKey":"` + key + `","secondaryKey":"` + key + `"}}}`, 200,
			`who="iothubowner" what="PUT /devices/*" target="devices/` + id + `" outcome="done" status="200"`},
		{"registryReadWrite", "PUT", "/devices/" + id, `{"deviceId":"` + id + `"}`, 409, `who="registryReadWrite" what="PUT /devices/*" target="devices/` + id + `" outcome="refused" status="409" code="DeviceAlreadyExists"`},
		{"registryRead", "DELETE", "/devices/" + id, ``, 401, `who="registryRead" what="DELETE /devices/*" target="devices/` + id + `" outcome="refused" status="401" code="IotHubUnauthorizedAccess"`},
		{"service", "PATCH", "/twins/" + id, `{"tags":{"password":"xyzzy"}}`, 200, `who="service" what="PATCH /twins/*" target="twins/` + id + `" outcome="done" status="200"`},
		{"service", "POST", "/twins/" + id + "/methods", `{"methodName":"m","payload":"xyzzy","responseTimeoutInSeconds":5}`, 404, `what="POST /twins/*/methods" target="twins/` + id + `/methods" outcome="refused" status="404" code="DeviceNotOnline"`},
		{"service", "POST", "/devices/" + id + "/messages/deviceBound", "xyzzy", 204, `what="POST /devices/*/messages/deviceBound" target="devices/` + id + `/messages/deviceBound" outcome="done" status="204"`},
		{"iothubowner", "POST", "/devices", `[{"id":"` + id + `","importMode":"create"},{"id":"` + id + `-2","importMode":"create"}]`, 400,
			`what="POST /devices" target="devices" outcome="refused" status="400" rows="[create ` + id + `: DeviceAlreadyExists create ` + id + `-2]"`},
		{"iothubowner", "POST", "/devices/keys/regenerate", `{"policyKey":"primaryKey","devices":[{"id":"` + id + `"},{"id":"nobody"}]}`, 207,
			`what="POST /devices/keys/regenerate" target="devices/keys/regenerate" outcome="done" status="207" key="primaryKey" rows="[` + id + ` nobody: DeviceNotFound]"`},
		{"iothubowner", "PUT", "/configurations/c1", `{"id":"c1","content":{"deviceContent":{"properties.desired.a":1}},"targetCondition":"*","priority":1}`, 200, `what="PUT /configurations/*" target="configurations/c1" outcome="done" status="200"`},
		{"service", "PUT", "/jobs/v2/j-" + id, `{"jobId":"j-` + id + `","type":"scheduleUpdateTwin","updateTwin":{"tags":{}},"queryCondition":"false","maxExecutionTimeInSeconds":60}`, 200, `who="service" what="PUT /jobs/v2/*" target="jobs/v2/j-` + id + `" outcome="done"`},
		{"iothubowner", "DELETE", "/devices/" + id, ``, 204, `what="DELETE /devices/*" target="devices/` + id + `" outcome="done" status="204"`},
		{"registryRead", "GET", "/devices", ``, 200, ""},
		{"service", "POST", "/devices/query", `{"query":"SELECT * FROM devices"}`, 200, ""},
		{"registryRead", "POST", "/configurations/testQueries", `{"targetCondition":"*"}`, 200, ""},
		{"service", "GET", "/messages/serviceBound/feedback", ``, 204, ""},
		{"service", "DELETE", "/messages/serviceBound/feedback/unknown", ``, 412, ""},
		{"nobody", "DELETE", "/devices/" + id, ``, 401, ""},
	} {
		before := len(s.audit())
		token := "SharedAccessSignature sr=x&sig=eA%3D%3D&se=1&skn=nobody"
		if c.policy != "nobody" {
			token = s.as(c.policy)
		}
		a := s.send(t, c.method, c.path, c.body, "Authorization", token)
		if a.StatusCode != c.status {
			t.Errorf("%s %s: %d %s, want %d", c.method, c.path, a.StatusCode, a.body, c.status)
		}
		var records []string
		hubtest.Until(t, "the audit record of "+c.method+" "+c.path, func() bool { // it is written after the answer
			records = s.audit()[before:]
			return c.want == "" || len(records) > 0
		})
		if c.want == "" && len(records) != 0 || c.want != "" && (len(records) != 1 || !strings.Contains(records[0], c.want) || !strings.Contains(records[0], `from="127.0.0.1:`)) {
			t.Errorf("%s %s left %q, want %q", c.method, c.path, records, c.want)
		}
	}
	for _, record := range s.audit() {
		for _, secret := range []string{key, "xyzzy", "SharedAccessSignature", s.policy("service").Primary.Base64()} {
			if strings.Contains(record, secret) {
				t.Errorf("the record %q holds the secret %q", record, secret)
			}
		}
	}
}

func (s *server) audit() []string {
	var records []string
	for _, l := range s.Log.Lines(slog.LevelInfo, `audit="true"`) {
		records = append(records, l.Text)
	}
	return records
}
