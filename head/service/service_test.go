package service_test

import (
	"bytes"
	"context"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"net/url"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/vauban-iot/vauban/access"
	"github.com/vauban-iot/vauban/fault"
	"github.com/vauban-iot/vauban/head/service"
	"github.com/vauban-iot/vauban/hub/hubtest"
	"github.com/vauban-iot/vauban/hub/registry"
	"github.com/vauban-iot/vauban/internal/conform"
	"github.com/vauban-iot/vauban/iot"
	"github.com/vauban-iot/vauban/wire/bag"
	"github.com/vauban-iot/vauban/wire/sas"
)

// server is the head behind HTTPS in front of a hub on a real store.
type server struct {
	*hubtest.World
	*httptest.Server
}

func serve(t testing.TB) *server {
	t.Helper()
	w := hubtest.New(t, hubtest.Options{Memory: true})
	s := &server{World: w, Server: httptest.NewUnstartedServer(service.New(w.Hub, w.Guard, slog.New(w.Log)))}
	s.StartTLS()
	t.Cleanup(s.Server.Close)
	return s
}

func (s *server) policy(name string) access.Policy {
	for _, p := range s.Policies {
		if p.Name == name {
			return p
		}
	}
	panic("no policy " + name)
}

// as is a token of a policy, good for an hour.
func (s *server) as(policy string) string {
	p := s.policy(policy)
	return sas.Sign(hubtest.Host, p.Primary.Reveal(), s.Clock.Now().Add(time.Hour), p.Name)
}

// answer is a response with its body.
type answer struct {
	*http.Response
	body []byte
}

func (a answer) document(t testing.TB) map[string]any {
	t.Helper()
	var m map[string]any
	if err := json.Unmarshal(a.body, &m); err != nil {
		t.Fatalf("status %d, body %q: %v", a.StatusCode, a.body, err)
	}
	return m
}

// header is a header's value, whatever the spelling of its name.
func (a answer) header(name string) string {
	for k, v := range a.Header {
		if strings.EqualFold(k, name) {
			return strings.Join(v, ", ")
		}
	}
	return ""
}

// send sends a request to the path as it stands; headers are pairs.
func (s *server) send(t testing.TB, method, path, body string, headers ...string) answer {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), method, s.URL, strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	raw, query, _ := strings.Cut(path, "?")
	// The path must reach the wire letter by letter.
	req.URL.Path, req.URL.RawPath, req.URL.RawQuery = mustUnescape(t, raw), raw, query
	req.URL.Opaque = "//" + req.URL.Host + raw
	for i := 0; i < len(headers); i += 2 {
		req.Header[headers[i]] = []string{headers[i+1]}
	}
	resp, err := s.Client().Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return answer{resp, b}
}

func mustUnescape(t testing.TB, s string) string {
	t.Helper()
	u, err := url.PathUnescape(s)
	if err != nil {
		return s
	}
	return u
}

// owner sends a request as iothubowner and wants status.
func (s *server) owner(t testing.TB, status int, method, path, body string, headers ...string) answer {
	t.Helper()
	a := s.send(t, method, path, body, append([]string{"Authorization", s.as("iothubowner")}, headers...)...)
	if a.StatusCode != status {
		t.Fatalf("%s %s: status %d %s, want %d", method, path, a.StatusCode, a.body, status)
	}
	return a
}

var tracking = regexp.MustCompile(`^Tracking ID:[0-9a-f]{32}-G:1-TimeStamp:\d\d/\d\d/\d{4} \d\d:\d\d:\d\d$`)

// formA checks a refusal in the form of everything but methods (hub-service §2.9).
func formA(t testing.TB, a answer, status int, code string) {
	t.Helper()
	if a.StatusCode != status {
		t.Errorf("status %d %s, want %d", a.StatusCode, a.body, status)
		return
	}
	if got := a.header("iothub-errorcode"); got != code {
		t.Errorf("iothub-errorcode %q, want %s", got, code)
	}
	if got := a.header("Content-Type"); got != "application/json; charset=utf-8" {
		t.Errorf("content type %q", got)
	}
	if a.header("x-ms-request-id") == "" {
		t.Error("no x-ms-request-id")
	}
	var body map[string]string
	if err := json.Unmarshal(a.body, &body); err != nil || len(body) != 2 {
		t.Errorf("body %s: %v, want Message and ExceptionMessage", a.body, err)
		return
	}
	text, ok := strings.CutPrefix(body["Message"], "ErrorCode:"+code+";")
	if !ok || text == "" || strings.Contains(text, ";") {
		t.Errorf("message %q, want ErrorCode:%s; and a text", body["Message"], code)
	}
	if !tracking.MatchString(body["ExceptionMessage"]) {
		t.Errorf("exception message %q", body["ExceptionMessage"])
	}
}

// formB checks a refusal in the form of methods.
func formB(t testing.TB, a answer, status int, code string, number float64) {
	t.Helper()
	if a.StatusCode != status || a.Header.Get("iothub-errorcode") != code || a.Header.Get("Content-Type") != "application/json; charset=utf-8" {
		t.Errorf("status %d, code %q, type %q, %s; want %d %s", a.StatusCode, a.Header.Get("iothub-errorcode"), a.Header.Get("Content-Type"), a.body, status, code)
		return
	}
	outer := a.document(t)
	text, _ := outer["Message"].(string)
	var inner map[string]any
	if err := json.Unmarshal([]byte(text), &inner); err != nil || outer["ExceptionMessage"] != "" {
		t.Errorf("body %s: %v", a.body, err)
		return
	}
	if inner["errorCode"] != number || inner["message"] == "" || len(fmt.Sprint(inner["trackingId"])) != 32 {
		t.Errorf("detail %v, want %v", inner, number)
	}
	if _, err := time.Parse(time.RFC3339Nano, fmt.Sprint(inner["timestampUtc"])); err != nil {
		t.Error(err)
	}
	for k, v := range inner {
		if _, bad := v.(map[string]any); bad {
			t.Errorf("%s is an object, which the .NET client cannot read", k)
		}
	}
}

// board is a connected device.
type board struct {
	session iot.Session

	mu      sync.Mutex
	patches []string
	closed  error
	answer  func(name string, payload []byte) (int, []byte, error) // nil: silence
}

func (b *board) Method(name string, payload []byte, reply func(int, []byte, error)) {
	b.mu.Lock()
	answer := b.answer
	b.mu.Unlock()
	if answer != nil {
		reply(answer(name, payload))
	}
}

func (b *board) Desired(_ int64, patch []byte) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.patches = append(b.patches, string(patch))
}

func (b *board) MailWaits() {}

func (b *board) Close(reason error) {
	b.mu.Lock()
	b.closed = reason
	b.mu.Unlock()
	go b.session.End(context.Background()) // a link must not block
}

func (b *board) seen() []string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return slices.Clone(b.patches)
}

func (s *server) connect(t testing.TB, d registry.Identity, f iot.Feature) *board {
	t.Helper()
	b := &board{}
	opened, err := s.Connect(t.Context(), s.Credentials(d), iot.Opening{Clean: true}, b)
	if err != nil {
		t.Fatal(err)
	}
	b.session = opened.Session
	t.Cleanup(func() { b.session.End(context.Background()) })
	b.session.Listen(f)
	return b
}

func (s *server) device(t testing.TB, id string) registry.Identity {
	t.Helper()
	return s.World.Device(t, iot.ID{Device: id})
}

func TestPaths(t *testing.T) {
	t.Parallel()
	conform.Covers(t, "HS-002", "HS-099")
	s := serve(t)
	for _, id := range []string{"d1", "d#1", "50%25", "a%b"} {
		s.device(t, id)
	}
	for _, test := range []struct{ path, want string }{
		{"/devices/d1", "d1"},
		{"/devices/d1/", "d1"},
		{"/devices%2Fd1", "d1"},
		{"/devices%2fd1", "d1"},
		{"/DEVICES/d1", "d1"},
		{"/devices/d%231", "d#1"},
		{"/devices%2Fd%25231", "d#1"}, // encoded twice
		{"/devices%2Fd%231", "d#1"},   // encoded as a whole only
		{"/devices/a%25b", "a%b"},     // azure-iothub
		{"/devices%2Fa%25b", "a%b"},   // explorer, where the escape is broken after one decoding
		{"/devices/50%2525", "50%25"},
		{"/devices%2F50%2525", "50%25"}, // explorer, where it is not
	} {
		if got := s.owner(t, 200, "GET", test.path+"?api-version=2021-04-12", "").document(t)["deviceId"]; got != test.want {
			t.Errorf("GET %s gives %v, want %s", test.path, got, test.want)
		}
		twin := strings.Replace(strings.ToLower(test.path), "/devices", "/twins", 1)
		if got := s.owner(t, 200, "GET", twin, "").document(t)["deviceId"]; got != test.want {
			t.Errorf("GET %s gives %v, want %s", twin, got, test.want)
		}
	}
	for i, path := range []string{
		"/devices%2Fd%25231%2Fmessages%2FdeviceBound", "/devices/d%231/messages/deviceBound", "/devices/d%231/messages/devicebound/", "/Devices/d%231/Messages/DEVICEBOUND",
	} {
		body := fmt.Sprint("mail ", i)
		a := s.owner(t, 204, "POST", path+"?api-version=2020-09-30", body, "Content-Type", "text/plain")
		if len(a.body) != 0 {
			t.Errorf("204 with the body %q", a.body)
		}
	}
	b := s.connect(t, must(s.World.Hub.Device(t.Context(), iot.ID{Device: "d#1"})), iot.CloudToDevice)
	mails, err := b.session.Mail(t.Context(), 10)
	if err != nil || len(mails) != 4 {
		t.Fatalf("%d mails, %v", len(mails), err)
	}
	for i, m := range mails {
		if want := fmt.Sprint("mail ", i); string(m.Body) != want || m.MessageID == "" {
			t.Errorf("mail %q with id %q, want %q", m.Body, m.MessageID, want)
		}
	}
}

func must[T any](v T, err error) T {
	if err != nil {
		panic(err)
	}
	return v
}

func TestVersionsAndContentType(t *testing.T) {
	t.Parallel()
	conform.Covers(t, "HS-003", "HS-004")
	s := serve(t)
	b := s.connect(t, s.device(t, "d1"), iot.Methods)
	b.answer = func(string, []byte) (int, []byte, error) { return 200, []byte(`"ok"`), nil }
	s.device(t, "d2")
	bodies := make(map[string]string)
	for _, version := range []string{"", "?api-version=2020-09-30", "?api-version=2021-04-12", "?api-version=2024-03-31"} {
		for _, r := range []struct{ method, path, body string }{
			{"GET", "/devices/d1", ""},
			{"GET", "/devices/", ""},
			{"GET", "/twins/d1", ""},
			{"GET", "/statistics/devices", ""},
			{"GET", "/statistics/service", ""},
			{"POST", "/twins/d1/methods", `{"methodName":"m"}`},
			{"PUT", "/twins/d2", `{}`},
			{"PATCH", "/twins/d2", `{"tags":{"a":1}}`},
		} {
			a := s.owner(t, 200, r.method, r.path+version, r.body)
			if got := a.Header.Get("Content-Type"); got != "application/json; charset=utf-8" {
				t.Errorf("%s %s%s: content type %q", r.method, r.path, version, got)
			}
			if r.path == "/twins/d2" {
				continue // every write counts, so no two answers are alike
			}
			if first, ok := bodies[r.method+r.path]; ok && first != string(a.body) {
				t.Errorf("%s %s answers %s, and with %s %s", r.method, r.path, first, version, a.body)
			}
			bodies[r.method+r.path] = string(a.body)
		}
		id := "v" + strings.TrimPrefix(version, "?api-version=")
		for _, a := range []answer{
			s.owner(t, 200, "PUT", "/devices/"+id+version, "{}"),
			s.owner(t, 200, "PUT", "/devices/"+id+version, "{}", "If-Match", "*"),
			s.owner(t, 409, "PUT", "/devices/"+id+version, "{}"),
			s.owner(t, 404, "GET", "/devices/none"+version, ""),
			s.owner(t, 404, "POST", "/twins/none/methods"+version, `{"methodName":"m"}`),
			s.owner(t, 405, "PATCH", "/devices/d1"+version, ""),
			s.owner(t, 404, "GET", "/nothing"+version, ""),
			s.send(t, "GET", "/devices/d1"+version, ""),
		} {
			if got := a.Header.Get("Content-Type"); got != "application/json; charset=utf-8" {
				t.Errorf("%s %s: content type %q", a.Request.Method, a.Request.URL, got)
			}
		}
		s.owner(t, 204, "POST", "/devices/"+id+"/messages/deviceBound"+version, "x")
		s.owner(t, 204, "DELETE", "/devices/"+id+version, "")
	}
}

func TestTokens(t *testing.T) {
	t.Parallel()
	conform.Covers(t, "HS-005")
	s := serve(t)
	s.device(t, "d1")
	s.device(t, "d2")
	p := s.policy("iothubowner")
	now := s.Clock.Now()
	token := func(sr string, key []byte, at time.Time, format string) string {
		// The signature of Sign, over sr as it stands.
		signed := signRaw(sr, key, at)
		return fmt.Sprintf(format, sr, url.QueryEscape(signed), at.Unix(), p.Name)
	}
	const usual = "SharedAccessSignature sr=%[1]s&sig=%[2]s&se=%[3]d&skn=%[4]s"
	later, key := now.Add(time.Hour), p.Primary.Reveal()
	for name, auth := range map[string]string{
		"plain sr":                  token(hubtest.Host, key, later, usual),
		"encoded sr":                token("hub%2Eexample%2Enet", key, later, usual),
		"encoded in lower case":     token("hub%2eexample%2enet%2fdevices%2fd1", key, later, usual),
		"sr in upper case":          token("HUB.example.NET", key, later, usual),
		"sr with a port":            token(hubtest.Host+":443", key, later, usual),
		"sr of the device itself":   token(hubtest.Host+"/devices/d1", key, later, usual),
		"sr with a slash":           token(hubtest.Host+"/", key, later, usual),
		"se first":                  token(hubtest.Host, key, later, "SharedAccessSignature se=%[3]d&skn=%[4]s&sig=%[2]s&sr=%[1]s"),
		"skn first":                 token(hubtest.Host, key, later, "SharedAccessSignature skn=%[4]s&sig=%[2]s&sr=%[1]s&se=%[3]d"),
		"names in upper case":       token(hubtest.Host, key, later, "SharedAccessSignature SR=%[1]s&SIG=%[2]s&SE=%[3]d&SKN=%[4]s"),
		"the far future":            token(hubtest.Host, key, now.AddDate(500, 0, 0), usual),
		"the secondary key":         token(hubtest.Host, p.Secondary.Reveal(), later, usual),
		"signature in lower escape": strings.ReplaceAll(strings.ReplaceAll(token(hubtest.Host, key, later, usual), "%2B", "%2b"), "%3D", "%3d"),
	} {
		if a := s.send(t, "GET", "/devices/d1", "", "Authorization", auth); a.StatusCode != 200 {
			t.Errorf("%s: %d %s", name, a.StatusCode, a.body)
		}
	}
	for name, auth := range map[string]string{
		"no token":                 "",
		"no signature":             "SharedAccessSignature sr=" + hubtest.Host,
		"another scheme":           "Bearer x",
		"expired":                  token(hubtest.Host, key, now.Add(-access.Skew-time.Minute), usual),
		"wrong key":                token(hubtest.Host, bytes.Repeat([]byte("k"), 32), later, usual),
		"another policy's key":     token(hubtest.Host, s.policy("service").Primary.Reveal(), later, usual),
		"wrong host":               token("other.example.net", key, later, usual),
		"another device":           token(hubtest.Host+"/devices/d2", key, later, usual),
		"a prefix of the id":       token(hubtest.Host+"/devices/d", key, later, usual),
		"unknown policy":           token(hubtest.Host, key, later, "SharedAccessSignature sr=%[1]s&sig=%[2]s&se=%[3]d&skn=nobody"),
		"no policy":                token(hubtest.Host, key, later, "SharedAccessSignature sr=%[1]s&sig=%[2]s&se=%[3]d"),
		"the text of the key":      token(hubtest.Host, []byte(p.Primary.Base64()), later, usual),
		"signed for another day":   strings.Replace(token(hubtest.Host, key, later, usual), fmt.Sprint("se=", later.Unix()), fmt.Sprint("se=", later.Unix()+1), 1),
		"signed for another place": strings.Replace(token("x"+hubtest.Host, key, later, usual), "sr=x", "sr=", 1),
	} {
		t.Run(name, func(t *testing.T) {
			for _, r := range []struct{ method, path, body string }{{"GET", "/devices/d1", ""}, {"PUT", "/devices/d1", "{"}, {"DELETE", "/devices/d1", ""}, {"PATCH", "/twins/d1", "{"}} {
				formA(t, s.send(t, r.method, r.path, r.body, "Authorization", auth), 401, "IotHubUnauthorized")
			}
		})
	}
	s.owner(t, 200, "GET", "/devices/d1", "")
}

// signRaw signs sr as it stands, where sas.Sign encodes it.
func signRaw(sr string, key []byte, at time.Time) string {
	return base64.StdEncoding.EncodeToString(sas.DeriveKey(key, fmt.Sprintf("%s\n%d", sr, at.Unix())))
}

func TestRights(t *testing.T) {
	t.Parallel()
	conform.Covers(t, "HS-006")
	s := serve(t)
	d := s.device(t, "d1")
	b := s.connect(t, d, iot.Methods)
	b.answer = func(string, []byte) (int, []byte, error) { return 200, []byte("null"), nil }
	all := []string{"iothubowner", "service", "device", "registryRead", "registryReadWrite"}
	for _, test := range []struct {
		method, path, body string
		allowed            string
	}{
		{"GET", "/devices/d1", "", "iothubowner registryRead registryReadWrite"},
		{"GET", "/devices", "", "iothubowner registryRead registryReadWrite"},
		{"GET", "/statistics/devices", "", "iothubowner registryRead registryReadWrite"},
		{"GET", "/statistics/service", "", "iothubowner registryRead registryReadWrite"},
		{"PUT", "/devices/new", "{}", "iothubowner registryReadWrite"},
		{"PUT", "/devices/d1", "{}", "iothubowner registryReadWrite"},
		{"DELETE", "/devices/new", "", "iothubowner registryReadWrite"},
		{"POST", "/devices/d1/messages/deviceBound", "x", "iothubowner service"},
		{"GET", "/twins/d1", "", "iothubowner service registryRead registryReadWrite"},
		{"PATCH", "/twins/d1", "{}", "iothubowner service registryReadWrite"},
		{"PUT", "/twins/d1", "{}", "iothubowner service registryReadWrite"},
		{"POST", "/twins/d1/methods", `{"methodName":"m"}`, "iothubowner service"},
	} {
		// The refused ones first: they must have changed nothing.
		for _, policy := range all {
			if slices.Contains(strings.Fields(test.allowed), policy) {
				continue
			}
			t.Run(test.method+" "+test.path+" as "+policy, func(t *testing.T) {
				a := s.send(t, test.method, test.path, test.body, "Authorization", s.as(policy))
				if strings.HasSuffix(test.path, "/methods") {
					formB(t, a, 401, "IotHubUnauthorizedAccess", 401002)
				} else {
					formA(t, a, 401, "IotHubUnauthorizedAccess")
				}
			})
		}
		if test.path == "/devices/new" && test.method == "PUT" {
			formA(t, s.owner(t, 404, "GET", test.path, ""), 404, "DeviceNotFound")
		}
		for _, policy := range strings.Fields(test.allowed) {
			a := s.send(t, test.method, test.path, test.body, "Authorization", s.as(policy))
			if a.StatusCode == 401 || a.StatusCode >= 500 {
				t.Errorf("%s %s as %s: %d %s", test.method, test.path, policy, a.StatusCode, a.body)
			}
		}
	}
	// Nor does a device's own key open this API.
	formA(t, s.send(t, "GET", "/twins/d1", "", "Authorization", s.Token(d)), 401, "IotHubUnauthorized")
}

func TestDelete_TakesEverything(t *testing.T) {
	t.Parallel()
	conform.Covers(t, "HS-024")
	s := serve(t)
	first := s.owner(t, 200, "PUT", "/devices/d1", "{}").document(t)
	s.World.Device(t, iot.ID{Device: "d1", Module: "m1"})
	s.owner(t, 200, "PATCH", "/twins/d1", `{"tags":{"a":1}}`)
	s.owner(t, 204, "POST", "/devices/d1/messages/deviceBound", "old")
	if n := s.owner(t, 200, "GET", "/devices/d1", "").document(t)["cloudToDeviceMessageCount"]; n != 1.0 {
		t.Errorf("%v messages wait, want 1", n)
	}
	b := s.connect(t, must(s.World.Hub.Device(t.Context(), iot.ID{Device: "d1"})), 0)

	formA(t, s.owner(t, 412, "DELETE", "/devices/d1", "", "If-Match", `"other"`), 412, "PreconditionFailed")
	if a := s.owner(t, 204, "DELETE", "/devices/d1", "", "If-Match", `"*"`); len(a.body) != 0 {
		t.Errorf("204 with the body %q", a.body)
	}
	hubtest.Until(t, "the deleted device to be disconnected", func() bool {
		b.mu.Lock()
		defer b.mu.Unlock()
		return fault.Is(b.closed, fault.NotFound)
	})
	formA(t, s.owner(t, 404, "GET", "/devices/d1", ""), 404, "DeviceNotFound")
	formA(t, s.owner(t, 404, "GET", "/twins/d1", ""), 404, "DeviceNotFound")
	formA(t, s.owner(t, 404, "DELETE", "/devices/d1", "", "If-Match", `"*"`), 404, "DeviceNotFound")
	formA(t, s.owner(t, 404, "POST", "/devices/d1/messages/deviceBound", "x"), 404, "DeviceNotFound")
	if _, err := s.World.Hub.Device(t.Context(), iot.ID{Device: "d1", Module: "m1"}); !fault.Is(err, fault.NotFound) {
		t.Errorf("the module: %v, want it gone", err)
	}

	s.Clock.Add(time.Millisecond)
	second := s.owner(t, 200, "PUT", "/devices/d1", "{}").document(t)
	if second["generationId"] == first["generationId"] || second["cloudToDeviceMessageCount"] != 0.0 {
		t.Errorf("made anew: %v", second)
	}
	if twin := s.owner(t, 200, "GET", "/twins/d1", "").document(t); len(twin["tags"].(map[string]any)) != 0 || twin["version"] != 2.0 {
		t.Errorf("its twin: %v", twin)
	}
	b = s.connect(t, must(s.World.Hub.Device(t.Context(), iot.ID{Device: "d1"})), iot.CloudToDevice)
	if mails, err := b.session.Mail(t.Context(), 10); err != nil || len(mails) != 0 {
		t.Errorf("its queue: %v, %v", mails, err)
	}
}

func TestList(t *testing.T) {
	t.Parallel()
	conform.Covers(t, "HS-025")
	s := serve(t)
	const n = 1001
	var g sync.WaitGroup
	for i := range n {
		g.Go(func() {
			if _, err := s.CreateDevice(context.Background(), registry.Identity{ID: iot.ID{Device: fmt.Sprintf("d%04d", i)}}); err != nil {
				t.Error(err)
			}
		})
	}
	g.Wait()
	s.World.Device(t, iot.ID{Device: "d0000", Module: "no-device"})
	for query, want := range map[string]int{"": 1000, "?api-version=2021-04-12": 1000, "?top=1000": 1000, "?top=7": 7, "?top=1": 1} {
		for _, path := range []string{"/devices/", "/devices"} {
			var list []map[string]any
			a := s.owner(t, 200, "GET", path+query, "")
			if err := json.Unmarshal(a.body, &list); err != nil {
				t.Fatal(err)
			}
			ids := make(map[any]bool)
			for _, d := range list {
				ids[d["deviceId"]] = true
				if d["moduleId"] != nil || d["authentication"] == nil {
					t.Fatalf("listed: %v", d)
				}
			}
			if len(list) != want || len(ids) != want {
				t.Errorf("%s%s: %d devices, %d different, want %d", path, query, len(list), len(ids), want)
			}
		}
	}
	for _, top := range []string{"0", "-1", "1001", "many", "1.5"} {
		formA(t, s.owner(t, 400, "GET", "/devices?top="+top, ""), 400, "ArgumentInvalid")
	}
	if a := serve(t).owner(t, 200, "GET", "/devices/", ""); string(a.body) != "[]" {
		t.Errorf("no devices: %s", a.body)
	}
}

// members of hub-service §2.3, with the JSON types they have.
var members = map[string]string{
	"deviceId": "string", "generationId": "string", "etag": "string", "connectionState": "string", "status": "string", "statusReason": "string|nil",
	"connectionStateUpdatedTime": "string", "statusUpdatedTime": "string", "lastActivityTime": "string", "cloudToDeviceMessageCount": "float64",
	"authentication": "map[string]interface {}", "capabilities": "map[string]interface {}", "deviceScope": "string|absent", "parentScopes": "[]interface {}",
}

func TestIdentity_Document(t *testing.T) {
	t.Parallel()
	conform.Covers(t, "HS-027", "HS-028")
	s := serve(t)
	one, two := strings.Repeat("ab", 20), strings.Repeat("0123456789abcdef", 4)
	colons := strings.TrimSuffix(regexp.MustCompile("..").ReplaceAllString(two, "$0:"), ":")
	null := map[string]any{"primaryKey": nil, "secondaryKey": nil}
	for _, test := range []struct {
		name, body, kind string
		keys             bool
		prints           map[string]any
	}{
		{"sas", `{"authentication":{"type":"sas"}}`, "sas", true, map[string]any{"primaryThumbprint": nil, "secondaryThumbprint": nil}},
		{"inferred-sas", `{"authentication":{}}`, "sas", true, map[string]any{"primaryThumbprint": nil, "secondaryThumbprint": nil}},
		{"inferred", `{"authentication":{"symmetricKey":{"primaryKey":"","secondaryKey":""},"x509Thumbprint":{"primaryThumbprint":"` + one + `","secondaryThumbprint":"` + colons + `"}}}`,
			"selfSigned", false, map[string]any{"primaryThumbprint": strings.ToUpper(one), "secondaryThumbprint": strings.ToUpper(two)}},
		{"secondary-only", `{"authentication":{"x509Thumbprint":{"secondaryThumbprint":"` + one + `"}}}`,
			"selfSigned", false, map[string]any{"primaryThumbprint": nil, "secondaryThumbprint": strings.ToUpper(one)}},
		{"ca", `{"authentication":{"type":"certificateAuthority","symmetricKey":{"primaryKey":"","secondaryKey":""}}}`,
			"certificateAuthority", false, map[string]any{"primaryThumbprint": nil, "secondaryThumbprint": nil}},
		{"none", `{"authentication":{"type":"none"}}`, "none", false, map[string]any{"primaryThumbprint": nil, "secondaryThumbprint": nil}},
	} {
		t.Run(test.name, func(t *testing.T) {
			put := s.owner(t, 200, "PUT", "/devices/"+test.name, test.body)
			get := s.owner(t, 200, "GET", "/devices/"+test.name, "")
			if !bytes.Equal(put.body, get.body) {
				t.Errorf("written %s, read %s", put.body, get.body)
			}
			d := get.document(t)
			for name, kinds := range members {
				v, there := d[name]
				got := fmt.Sprintf("%T", v)
				if !there {
					got = "absent"
				} else if v == nil {
					got = "nil"
				}
				if !slices.Contains(strings.Split(kinds, "|"), got) {
					t.Errorf("%s is %s, want %s", name, got, kinds)
				}
			}
			for name := range d {
				if members[name] == "" {
					t.Errorf("%s is no member of an identity", name)
				}
			}
			if want := fmt.Sprintf("%q", d["etag"]); get.Header.Get("ETag") != want {
				t.Errorf("ETag %s, want %s", get.Header.Get("ETag"), want)
			}
			auth := d["authentication"].(map[string]any)
			if auth["type"] != test.kind || len(auth) != 3 {
				t.Errorf("authentication %v, want type %s and both sub-objects", auth, test.kind)
			}
			keys := auth["symmetricKey"].(map[string]any)
			if test.keys == (keys["primaryKey"] == nil) || test.keys == (keys["secondaryKey"] == nil) || len(keys) != len(null) {
				t.Errorf("keys %v", keys)
			}
			if got := fmt.Sprint(auth["x509Thumbprint"]); got != fmt.Sprint(test.prints) {
				t.Errorf("thumbprints %v, want %v", got, test.prints)
			}
			if edge := d["capabilities"].(map[string]any)["iotEdge"]; edge != false {
				t.Errorf("capabilities %v", d["capabilities"])
			}
		})
	}
}

func TestStatistics(t *testing.T) {
	t.Parallel()
	conform.Covers(t, "HS-032")
	s := serve(t)
	check := func(total, enabled, disabled, connected int) {
		t.Helper()
		want := fmt.Sprintf(`{"totalDeviceCount":%d,"enabledDeviceCount":%d,"disabledDeviceCount":%d}`, total, enabled, disabled)
		if got := s.owner(t, 200, "GET", "/statistics/devices", ""); string(got.body) != want {
			t.Errorf("devices %s, want %s", got.body, want)
		}
		want = fmt.Sprintf(`{"connectedDeviceCount":%d}`, connected)
		hubtest.Until(t, want, func() bool { return string(s.owner(t, 200, "GET", "/statistics/service", "").body) == want })
	}
	check(0, 0, 0, 0)
	d1, d2 := s.device(t, "d1"), s.device(t, "d2")
	s.World.Device(t, iot.ID{Device: "d1", Module: "m"})
	s.owner(t, 200, "PUT", "/devices/d3", `{"status":"disabled"}`)
	check(3, 2, 1, 0)
	s.connect(t, d1, 0)
	b := s.connect(t, d2, 0)
	check(3, 2, 1, 2)
	b.session.End(t.Context())
	check(3, 2, 1, 1)
	s.owner(t, 200, "PUT", "/devices/d1", `{"status":"disabled"}`, "If-Match", "*")
	check(3, 1, 2, 0)
	s.owner(t, 204, "DELETE", "/devices/d3", "")
	check(2, 1, 1, 0)
}

func TestRefusals(t *testing.T) {
	t.Parallel()
	conform.Covers(t, "HS-036")
	s := serve(t)
	s.device(t, "d1")
	big := `{"statusReason":"` + strings.Repeat("x", 64<<10) + `"}`
	for _, test := range []struct {
		name, method, path, body string
		headers                  []string
		status                   int
		code                     string
	}{
		{"broken JSON", "PUT", "/devices/d2", "{", nil, 400, "IotHubFormatError"},
		{"another kind of JSON", "PUT", "/devices/d2", "[]", nil, 400, "IotHubFormatError"},
		{"no body", "PUT", "/devices/d2", "", nil, 400, "IotHubFormatError"},
		{"another id in the body", "PUT", "/devices/d2", `{"deviceId":"d3"}`, nil, 400, "ArgumentInvalid"},
		{"bad id", "PUT", "/devices/d%202", `{}`, nil, 400, "ArgumentInvalid"},
		{"id with a slash", "PUT", "/devices/a%2Fb", `{}`, nil, 400, "ArgumentInvalid"},
		{"long id", "PUT", "/devices/" + strings.Repeat("d", 129), `{}`, nil, 400, "ArgumentInvalid"},
		{"unknown status", "PUT", "/devices/d2", `{"status":"on"}`, nil, 400, "ArgumentInvalid"},
		{"long reason", "PUT", "/devices/d2", `{"statusReason":"` + strings.Repeat("é", 129) + `"}`, nil, 400, "ArgumentInvalid"},
		{"reason of another type", "PUT", "/devices/d2", `{"statusReason":1}`, nil, 400, "ArgumentInvalid"},
		{"unknown authentication", "PUT", "/devices/d2", `{"authentication":{"type":"tpm"}}`, nil, 400, "ArgumentInvalid"},
		{"key that is no base64", "PUT", "/devices/d2", `{"authentication":{"symmetricKey":{"primaryKey":"?"}}}`, nil, 400, "ArgumentInvalid"},
		{"short key", "PUT", "/devices/d2", `{"authentication":{"symmetricKey":{"primaryKey":"AAAA"}}}`, nil, 400, "ArgumentInvalid"},
		{"self-signed without a thumbprint", "PUT", "/devices/d2", `{"authentication":{"type":"selfSigned"}}`, nil, 400, "ArgumentInvalid"},
		{"bad thumbprint", "PUT", "/devices/d2", `{"authentication":{"x509Thumbprint":{"primaryThumbprint":"12"}}}`, nil, 400, "ArgumentInvalid"},
		{"unknown parent", "PUT", "/devices/d2", `{"deviceScope":"ms-azure-iot-edge://x-1"}`, nil, 400, "InvalidDeviceScope"},
		{"exists", "PUT", "/devices/d1", `{}`, nil, 409, "DeviceAlreadyExists"},
		{"over the limit", "PUT", "/devices/d2", big, nil, 413, "MessageTooLarge"},
		{"update of nobody", "PUT", "/devices/d2", `{}`, []string{"If-Match", "*"}, 404, "DeviceNotFound"},
		{"stale update", "PUT", "/devices/d1", `{}`, []string{"If-Match", `"x"`}, 412, "PreconditionFailed"},
		{"get of nobody", "GET", "/devices/d2", "", nil, 404, "DeviceNotFound"},
		{"delete of nobody", "DELETE", "/devices/d2", "", nil, 404, "DeviceNotFound"},
		{"stale delete", "DELETE", "/devices/d1", "", []string{"If-Match", "x"}, 412, "PreconditionFailed"},
		{"twin of nobody", "GET", "/twins/d2", "", nil, 404, "DeviceNotFound"},
		{"patch of nobody", "PATCH", "/twins/d2", "{}", nil, 404, "DeviceNotFound"},
		{"replacement of nobody", "PUT", "/twins/d2", "{}", nil, 404, "DeviceNotFound"},
		{"broken patch", "PATCH", "/twins/d1", "{", nil, 400, "IotHubFormatError"},
		{"stale patch", "PATCH", "/twins/d1", "{}", []string{"If-Match", `"abc"`}, 412, "PreconditionFailed"},
		{"patch over the limit", "PATCH", "/twins/d1", `{"tags":{"a":"` + strings.Repeat("x", 256<<10) + `"}}`, nil, 413, "MessageTooLarge"},
		{"mail to nobody", "POST", "/devices/d2/messages/deviceBound", "x", nil, 404, "DeviceNotFound"},
		{"mail over the limit", "POST", "/devices/d1/messages/deviceBound", strings.Repeat("x", 64<<10+1), nil, 413, "MessageTooLarge"},
		{"mail with a bad ack", "POST", "/devices/d1/messages/deviceBound", "x", []string{"iothub-ack", "maybe"}, 400, "ArgumentInvalid"},
		{"mail with a bad expiry", "POST", "/devices/d1/messages/deviceBound", "x", []string{"iothub-expiry", "soon"}, 400, "ArgumentInvalid"},
		{"mail that is late", "POST", "/devices/d1/messages/deviceBound", "x", []string{"iothub-expiry", "2001-01-01T00:00:00Z"}, 400, "ArgumentInvalid"},
		{"unknown path", "GET", "/unknown/c1", "", nil, 404, "GenericNotFound"},
		{"root", "GET", "/", "", nil, 404, "GenericNotFound"},
		{"other method", "PATCH", "/devices/d1", "{}", nil, 405, "GenericMethodNotAllowed"},
	} {
		t.Run(test.name, func(t *testing.T) {
			formA(t, s.owner(t, test.status, test.method, test.path, test.body, test.headers...), test.status, test.code)
		})
	}
	if d := s.owner(t, 200, "GET", "/devices", ""); bytes.Count(d.body, []byte("generationId")) != 1 {
		t.Errorf("a refusal left something behind: %s", d.body)
	}
	for _, l := range s.Log.Lines(slog.LevelInfo, "service request refused") {
		if l.Attr("status") == "" || l.Attr("code") == "" || l.Attr("tracking") == "" {
			t.Errorf("log line %v", l)
		}
	}
	if n := len(s.Log.Lines(slog.LevelError, "")); n != 0 {
		t.Errorf("%d refusals were logged as our errors", n)
	}

	t.Run("a full queue", func(t *testing.T) {
		for range 50 {
			s.owner(t, 204, "POST", "/devices/d1/messages/deviceBound", "x")
		}
		formA(t, s.owner(t, 403, "POST", "/devices/d1/messages/deviceBound", "x"), 403, "DeviceMaximumQueueDepthExceeded")
	})
}

func TestMail_Headers(t *testing.T) {
	t.Parallel()
	s := serve(t)
	d := s.device(t, "d1")
	b := s.connect(t, d, iot.CloudToDevice)
	expires := s.Clock.Now().Add(10 * time.Minute).UTC().Truncate(time.Second)
	s.owner(t, 204, "POST", "/devices/d1/messages/deviceBound", "\x00\xff", "iothub-messageid", "m1", "iothub-correlationid", "c1", "iothub-userid", "u1",
		"iothub-ack", "Full", "iothub-expiry", expires.Format(time.RFC3339), "ContentType", "text/plain", "ContentEncoding", "utf-8", "iothub-app-color", "Red & blue",
		"Content-Type", "application/octet-stream", "X-Other", "no property")
	mails, err := b.session.Mail(t.Context(), 10)
	if err != nil || len(mails) != 1 {
		t.Fatalf("%v, %v", mails, err)
	}
	m := mails[0]
	if string(m.Body) != "\x00\xff" || m.MessageID != "m1" || m.Ack != "full" || !m.Expires.Equal(expires) {
		t.Errorf("mail %+v", m)
	}
	if got := text(m.System); got != "content-encoding=utf-8 content-type=text/plain correlation-id=c1 user-id=u1" {
		t.Errorf("system properties %s", got)
	}
	if got := text(m.Properties); got != "color=Red & blue" {
		t.Errorf("properties %s", got)
	}
}

func text(ps []bag.Property) string {
	var list []string
	for _, p := range ps {
		list = append(list, p.Name+"="+p.Value)
	}
	slices.Sort(list)
	return strings.Join(list, " ")
}

func TestCodes_EveryKind(t *testing.T) {
	t.Parallel()
	want := map[fault.Kind]string{
		fault.Internal: "500 ServerError", fault.Invalid: "400 ArgumentInvalid", fault.Malformed: "400 IotHubFormatError", fault.InvalidScope: "400 InvalidDeviceScope",
		fault.Unauthorized: "401 IotHubUnauthorized", fault.Forbidden: "401 IotHubUnauthorizedAccess", fault.Disabled: "403 DeviceDisabled",
		fault.QueueFull: "403 DeviceMaximumQueueDepthExceeded", fault.QuotaExceeded: "403 IotHubQuotaExceeded", fault.NotFound: "404 DeviceNotFound", fault.NotOnline: "404 DeviceNotOnline",
		fault.ConnectionClosed: "404 DeviceConnectionClosedRemotely", fault.AlreadyExists: "409 DeviceAlreadyExists", fault.PreconditionFailed: "412 PreconditionFailed",
		fault.LockLost: "412 DeviceMessageLockLost", fault.TooLarge: "413 MessageTooLarge", fault.Throttled: "429 ThrottlingException",
		fault.BadDeviceResponse: "502 GenericBadGateway", fault.Unavailable: "503 ServiceUnavailable", fault.Timeout: "504 GatewayTimeout",
	}
	w := hubtest.New(t, hubtest.Options{Memory: true})
	for _, k := range fault.Kinds() {
		t.Run(k.String(), func(t *testing.T) {
			log := &hubtest.Log{}
			h := service.New(failing{w.Hub, &fault.Error{Kind: k, Public: "public; text", RetryAfter: 1500 * time.Millisecond, Err: io.ErrUnexpectedEOF}}, open{}, slog.New(log))
			for _, path := range []string{"/devices/d1", "/nowhere"} {
				r := httptest.NewRequest("GET", "https://hub"+path, nil)
				rec := httptest.NewRecorder()
				h.ServeHTTP(rec, r)
				if path == "/nowhere" {
					continue
				}
				got := fmt.Sprintf("%d %s", rec.Code, answer{rec.Result(), nil}.header("iothub-errorcode"))
				if got != want[k] {
					t.Errorf("%s, want %s", got, want[k])
				}
				_, code, _ := strings.Cut(want[k], " ")
				formA(t, answer{rec.Result(), rec.Body.Bytes()}, rec.Code, code)
				if rec.Header().Get("Retry-After") != "2" {
					t.Errorf("retry-after %q", rec.Header().Get("Retry-After"))
				}
				if bytes.Contains(rec.Body.Bytes(), []byte("unexpected EOF")) {
					t.Errorf("the cause is told to the peer: %s", rec.Body)
				}
				if k == fault.Internal && bytes.Contains(rec.Body.Bytes(), []byte("public")) {
					t.Errorf("an internal error is told to the peer: %s", rec.Body)
				}
			}
			ours := k == fault.Internal || k == fault.Unavailable
			if n := len(log.Lines(slog.LevelError, "service request refused")); (n == 1) != ours {
				t.Errorf("%d error lines", n)
			}
			if n := len(log.Lines(slog.LevelDebug, "")); n != 2 {
				t.Errorf("%d log lines for two refusals", n)
			}
		})
	}
}

// failing is a hub whose devices cannot be read.
type failing struct {
	service.Core
	err error
}

func (f failing) Device(context.Context, iot.ID) (registry.Identity, error) {
	return registry.Identity{}, f.err
}

type open struct{}

func (open) Authorize(string, access.Right, ...string) error { return nil }
