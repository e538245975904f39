package https_test

import (
	"bufio"
	"bytes"
	"crypto/tls"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/vauban-iot/vauban/head/https"
	"github.com/vauban-iot/vauban/hub/hubtest"
	"github.com/vauban-iot/vauban/hub/registry"
	"github.com/vauban-iot/vauban/internal/conform"
	"github.com/vauban-iot/vauban/iot"
	"github.com/vauban-iot/vauban/pki/pkitest"
	"github.com/vauban-iot/vauban/wire/bag"
	"github.com/vauban-iot/vauban/wire/sas"
)

// server is the head behind TLS in front of a hub on a real store.
type server struct {
	*hubtest.World
	*httptest.Server
}

func serve(t testing.TB) *server {
	t.Helper()
	w := hubtest.New(t, hubtest.Options{Memory: true})
	s := &server{World: w, Server: httptest.NewUnstartedServer(https.New(w.Hub, slog.New(w.Log)))}
	s.TLS = &tls.Config{ClientAuth: tls.RequestClientCert}
	s.StartTLS()
	t.Cleanup(s.Server.Close)
	return s
}

// answer is a response as it stood on the wire.
type answer struct {
	status int
	header map[string]string // names letter by letter
	body   []byte
}

// call sends a request and reads the answer without any library that would fold the names of headers.
func (s *server) call(t testing.TB, cert *tls.Certificate, method, target string, header map[string]string, body string) answer {
	t.Helper()
	cfg := &tls.Config{InsecureSkipVerify: true}
	if cert != nil {
		cfg.Certificates = []tls.Certificate{*cert}
	}
	c, err := tls.Dial("tcp", s.Listener.Addr().String(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	c.SetDeadline(time.Now().Add(hubtest.Patience))
	var b bytes.Buffer
	fmt.Fprintf(&b, "%s %s HTTP/1.1\r\nHost: %s\r\nConnection: close\r\nContent-Length: %d\r\n", method, target, hubtest.Host, len(body))
	for name, value := range header {
		fmt.Fprintf(&b, "%s: %s\r\n", name, value)
	}
	b.WriteString("\r\n" + body)
	if _, err := c.Write(b.Bytes()); err != nil {
		t.Fatal(err)
	}
	raw, err := io.ReadAll(c)
	if err != nil && len(raw) == 0 {
		t.Fatal(err)
	}
	head, rest, _ := strings.Cut(string(raw), "\r\n\r\n")
	lines := strings.Split(head, "\r\n")
	a := answer{header: map[string]string{}}
	if _, err := fmt.Sscanf(lines[0], "HTTP/1.1 %d", &a.status); err != nil {
		t.Fatalf("status line %q: %v", lines[0], err)
	}
	for _, l := range lines[1:] {
		name, value, _ := strings.Cut(l, ": ")
		a.header[name] = value
	}
	// The body through the library again: it may be chunked.
	r, err := http.ReadResponse(bufio.NewReader(strings.NewReader(string(raw))), nil)
	if err != nil {
		t.Fatalf("%q: %v", rest, err)
	}
	if a.body, err = io.ReadAll(r.Body); err != nil {
		t.Fatal(err)
	}
	return a
}

// as calls with d's own token.
func (s *server) as(t testing.TB, d registry.Identity, method, target string, header map[string]string, body string) answer {
	t.Helper()
	all := map[string]string{"Authorization": s.Token(d)}
	for k, v := range header {
		all[k] = v
	}
	return s.call(t, nil, method, target, all, body)
}

func (a answer) want(t testing.TB, status int) answer {
	t.Helper()
	if a.status != status {
		t.Fatalf("status %d, want %d; header %v, body %s", a.status, status, a.header, a.body)
	}
	return a
}

const version = "?api-version=2020-09-30"

func TestTelemetry_Single(t *testing.T) {
	t.Parallel()
	s := serve(t)
	d := s.Device(t, iot.ID{Device: "d"})
	m := s.Device(t, iot.ID{Device: "d", Module: "m"})
	header := map[string]string{ // as Node writes them
		"iothub-to": "/devices/d/messages/events", "IoTHub-MessageId": "id 1", "IoTHub-CorrelationId": "c", "IoTHub-UserId": "u",
		"IoTHub-Expiry": "2030-01-01T00:00:00Z", "IoTHub-Ack": "full", "iothub-contenttype": "application/json",
		"iothub-contentencoding": "utf-8", "iothub-interface-id": iot.SecurityInterface, "dt-subject": "part",
		"iothub-app-Temp": "21 °C", "iothub-app-empty": "", "iothub-app-iothub-message-source": "forged", "X-Other": "ignored",
	}
	for i, target := range []string{"/devices/d/messages/events", "/devices/d/messages/events/", "/DEVICES/d/Messages/EVENTS", "/devices/d/modules/m/messages/events"} {
		who := d
		if strings.Contains(target, "modules") {
			who = m
		}
		a := s.as(t, who, "POST", target+version, header, fmt.Sprintf("\x00body %d\xff", i)).want(t, 204)
		if len(a.body) > 0 {
			t.Errorf("%s: the answer has the body %q", target, a.body)
		}
	}
	got := s.Messages(t, d.ID, 3)
	got = append(got, s.Messages(t, m.ID, 1)...)
	for i, g := range got {
		if want := fmt.Sprintf("\x00body %d\xff", i); string(g.Body) != want {
			t.Errorf("message %d has the body %q, want %q", i, g.Body, want)
		}
		for name, want := range map[string]string{
			"message-id": "id 1", "correlation-id": "c", "user-id": "u", "to": "/devices/d/messages/events", "content-type": "application/json",
			"absolute-expiry-time": "2030-01-01T00:00:00Z", "content-encoding": "utf-8", "dt-subject": "part",
		} {
			if v := g.SystemProperty(name); v != want {
				t.Errorf("message %d: %s is %q, want %q", i, name, v, want)
			}
		}
		want := []bag.Property{{Name: "empty", Value: ""}, {Name: "iothub-ack", Value: "full"}, {Name: "temp", Value: "21 °C"}}
		if diff := cmp.Diff(want, g.Properties); diff != "" {
			t.Errorf("properties of message %d (-want +got):\n%s", i, diff)
		}
		scope := "device"
		if g.From.Module != "" {
			scope = "module"
		}
		if method := `{"scope":"` + scope + `","type":"sas","issuer":"iothub","acceptingIpFilterRule":null}`; g.AuthMethod != method || !g.IsSecurity() || g.Source != iot.Telemetry || g.Generation == "" || g.Enqueued.IsZero() {
			t.Errorf("message %d is stamped %+v, want method %s", i, g, method)
		}
	}
}

func TestTelemetry_Batch(t *testing.T) {
	t.Parallel()
	conform.Covers(t, "HD-76")
	s := serve(t)
	d := s.Device(t, iot.ID{Device: "d"})
	s.as(t, d, "POST", "/devices/d/messages/events"+version, map[string]string{"Content-Type": "application/octet-stream"}, "single").want(t, 204)
	s.as(t, d, "POST", "/devices/d/messages/events"+version, map[string]string{"Content-Type": "application/vnd.microsoft.iothub.json; charset=utf-8"}, `[
		{"body":"AP8=","properties":{"iothub-app-MyProp":"v","iothub-messageid":"1","IoTHub-CorrelationId":"c","other":"ignored"}},
		{"body":"AQ==","base64Encoded":true},
		{"body":"plain text: AQ== ü","base64Encoded":false,"properties":{"iothub-app-n":7,"iothub-app-b":true,"iothub-app-z":null}},
		{"body":""}]`).want(t, 204)
	got := s.Messages(t, d.ID, 5)
	for i, want := range []string{"single", "\x00\xff", "\x01", "plain text: AQ== ü", ""} {
		if string(got[i].Body) != want {
			t.Errorf("message %d has the body %q, want %q", i, got[i].Body, want)
		}
	}
	if got[1].SystemProperty("message-id") != "1" || got[1].SystemProperty("correlation-id") != "c" || len(got[1].System) != 2 {
		t.Errorf("system properties %v", got[1].System)
	}
	if diff := cmp.Diff([]bag.Property{{Name: "MyProp", Value: "v"}}, got[1].Properties); diff != "" {
		t.Errorf("properties (-want +got):\n%s", diff)
	}
	if diff := cmp.Diff([]bag.Property{{Name: "b", Value: "true"}, {Name: "n", Value: "7"}, {Name: "z", Value: ""}}, got[3].Properties); diff != "" {
		t.Errorf("properties (-want +got):\n%s", diff)
	}
}

func TestTelemetry_Refused(t *testing.T) {
	t.Parallel()
	s := serve(t)
	d := s.Device(t, iot.ID{Device: "d"})
	batch := map[string]string{"Content-Type": "application/vnd.microsoft.iothub.json"}
	const target = "/devices/d/messages/events"
	most := strings.Repeat("x", 256<<10)
	s.as(t, d, "POST", target, nil, most).want(t, 204)
	for name, c := range map[string]struct {
		header map[string]string
		body   string
		status int
	}{
		"one byte too many":   {nil, most + "x", 413},
		"a property too many": {map[string]string{"iothub-app-a": ""}, most, 413},
		"bad UTF-8":           {map[string]string{"iothub-app-a": "\xff"}, "", 400},
		"no JSON":             {batch, "[", 400},
		"no array":            {batch, `{"body":""}`, 400},
		"empty batch":         {batch, `[]`, 400},
		"no body":             {batch, `[{"body":""},{}]`, 400},
		"null":                {batch, `[null]`, 400},
		"no base64":           {batch, `[{"body":"a b"}]`, 400},
		"a tree as property":  {batch, `[{"body":"","properties":{"iothub-app-a":{}}}]`, 400},
		"too many messages":   {batch, "[" + strings.Repeat(`{"body":""},`, 5000) + `{"body":""}]`, 413},
		"batch too long":      {batch, `[{"body":"` + most + `"}]`, 413},
	} {
		t.Run(name, func(t *testing.T) { s.as(t, d, "POST", target, c.header, c.body).want(t, c.status) })
	}
	if got := s.Messages(t, d.ID, 1); len(got) != 1 {
		t.Errorf("%d messages in the log, want one", len(got))
	}
}

// send queues a message with every property there is.
func (s *server) send(t testing.TB, device, id string) {
	t.Helper()
	_, err := s.Send(t.Context(), iot.Mail{
		To: iot.ID{Device: device}, MessageID: id, Ack: "full", Body: []byte("\x00body " + id + "\xff"),
		System: []bag.Property{
			{Name: "correlation-id", Value: "c 1"}, {Name: "user-id", Value: "u"}, {Name: "content-type", Value: "application/json"},
			{Name: "content-encoding", Value: "utf-8"},
		},
		Properties: []bag.Property{{Name: "MyProp", Value: "v ü"}, {Name: "x\r\nETag", Value: "forged"}, {Name: "line", Value: "a\r\nETag: forged"}},
	})
	if err != nil {
		t.Fatal(err)
	}
}

func (s *server) receive(t testing.TB, d registry.Identity) (token string, a answer) {
	t.Helper()
	a = s.as(t, d, "GET", "/devices/"+d.ID.Device+"/messages/devicebound"+version, nil, "").want(t, 200)
	return strings.Trim(a.header["ETag"], `"`), a
}

func TestC2D_Headers(t *testing.T) {
	t.Parallel()
	conform.Covers(t, "HD-73")
	s := serve(t)
	d := s.Device(t, iot.ID{Device: "d"})
	s.send(t, "d", "m")
	_, a := s.receive(t, d)
	if string(a.body) != "\x00body m\xff" {
		t.Errorf("body %q", a.body)
	}
	for name, want := range map[string]string{
		"ETag": `^"[0-9a-f-]{36}"$`, "iothub-messageid": `^m$`, "iothub-correlationid": `^c 1$`, "iothub-userid": `^u$`,
		"iothub-to": `^/devices/d/messages/devicebound$`, "iothub-ack": `^full$`, "iothub-app-MyProp": `^v ü$`,
		"ContentType": `^application/json$`, "ContentEncoding": `^utf-8$`, "iothub-contenttype": `^application/json$`, "iothub-contentencoding": `^utf-8$`,
		"iothub-sequencenumber": `^[0-9]+$`, "iothub-deliverycount": `^0$`, "iothub-app-line": `^a  ETag: forged$`,
		"iothub-expiry": `^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{7}Z$`, "iothub-enqueuedtime": `^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{7}Z$`,
	} {
		if got, ok := a.header[name]; !ok || !regexp.MustCompile(want).MatchString(got) {
			t.Errorf("header %s is %q, want %s; all: %v", name, got, want, a.header)
		}
	}
}

func TestC2D_Settlement(t *testing.T) {
	t.Parallel()
	conform.Covers(t, "HD-74", "HD-75")
	s := serve(t)
	d := s.Device(t, iot.ID{Device: "d"})
	s.as(t, d, "GET", "/devices/d/messages/devicebound"+version, nil, "").want(t, 204)
	for _, c := range []struct {
		name, method, suffix string
		again                bool // the message comes back
	}{
		{"complete", "DELETE", "%s" + version, false},
		{"reject", "DELETE", "%s" + version + "&reject", false},
		{"reject with a value", "DELETE", "%s" + version + "&Reject=true", false},
		{"abandon", "POST", "%s/abandon" + version, true},
		{"abandon with a slash", "POST", "%s/Abandon/" + version, true},
		{"quoted token", "DELETE", "%%22%s%%22" + version, false},
	} {
		for _, path := range []string{"devicebound", "deviceBound", "DEVICEBOUND"} {
			s.send(t, "d", c.name)
			a := s.as(t, d, "GET", "/devices/d/messages/"+path+version, nil, "").want(t, 200)
			token := strings.Trim(a.header["ETag"], `"`)
			s.as(t, d, "GET", "/devices/d/messages/devicebound"+version, nil, "").want(t, 204) // it is locked
			target := "/devices/d/messages/" + path + "/" + fmt.Sprintf(c.suffix, token)
			// If-Match is sent by all, with or without quotes.
			s.as(t, d, c.method, target, map[string]string{"If-Match": `"` + token + `"`}, "").want(t, 204)
			lost := s.as(t, d, c.method, target, nil, "").want(t, 412)
			if lost.header["iothub-errorcode"] != "DeviceMessageLockLost" {
				t.Errorf("%s: second settlement is refused with %q", c.name, lost.header["iothub-errorcode"])
			}
			if !c.again {
				s.as(t, d, "GET", "/devices/d/messages/devicebound"+version, nil, "").want(t, 204)
				continue
			}
			token, again := s.receive(t, d)
			if again.header["iothub-messageid"] != c.name || again.header["iothub-deliverycount"] != "1" {
				t.Errorf("%s: message %s comes again with delivery count %s", c.name, again.header["iothub-messageid"], again.header["iothub-deliverycount"])
			}
			s.as(t, d, "DELETE", "/devices/d/messages/devicebound/"+token+version, nil, "").want(t, 204)
		}
	}
}

func TestC2D_DeliveryCount(t *testing.T) {
	t.Parallel()
	s := serve(t)
	d := s.Device(t, iot.ID{Device: "d"})
	s.send(t, "d", "m")
	for i := range 10 {
		s.receive(t, d)
		s.Clock.Add(61 * time.Second) // this lock lapses and counts nothing
		token, a := s.receive(t, d)
		if want := fmt.Sprint(i); a.header["iothub-deliverycount"] != want {
			t.Fatalf("delivery count %s, want %s", a.header["iothub-deliverycount"], want)
		}
		s.as(t, d, "POST", "/devices/d/messages/devicebound/"+token+"/abandon"+version, nil, "").want(t, 204)
	}
	s.as(t, d, "GET", "/devices/d/messages/devicebound"+version, nil, "").want(t, 204)
}

func TestC2D_LockTimeout(t *testing.T) {
	t.Parallel()
	s := serve(t)
	d := s.Device(t, iot.ID{Device: "d"})
	s.send(t, "d", "m")
	const target = "/devices/d/messages/devicebound" + version
	for _, c := range []struct {
		query, header string
		lock          time.Duration
	}{
		{"", "", time.Minute}, {"&iothub-messagelocktimeout=10", "", 10 * time.Second}, {"", "20", 20 * time.Second},
		{"&IoTHub-MessageLockTimeout=10", "20", 10 * time.Second}, {"&iothub-messagelocktimeout=1", "", 5 * time.Second}, {"&iothub-messagelocktimeout=999999", "", 5 * time.Minute},
	} {
		header := map[string]string{}
		if c.header != "" {
			header["iothub-messagelocktimeout"] = c.header
		}
		s.as(t, d, "GET", target+c.query, header, "").want(t, 200)
		s.Clock.Add(c.lock - 2*time.Second)
		s.as(t, d, "GET", target, nil, "").want(t, 204)
		s.Clock.Add(4 * time.Second)
	}
	for _, bad := range []string{"x", "-1", "1e3", "99999999999"} {
		s.as(t, d, "GET", target+"&iothub-messagelocktimeout="+bad, nil, "").want(t, 400)
	}
}

func TestAuthentication(t *testing.T) {
	t.Parallel()
	s := serve(t)
	d, other := s.Device(t, iot.ID{Device: "d"}), s.Device(t, iot.ID{Device: "other"})
	m := s.Device(t, iot.ID{Device: "d", Module: "m"})
	odd := s.Device(t, iot.ID{Device: "a#%b"})
	ca := pkitest.NewCA(t, "root")
	s.Trust(ca.Cert)
	s.DeviceWith(t, iot.ID{Device: "signed"}, registry.Authentication{Type: registry.CertificateAuthority})
	disabled := s.Device(t, iot.ID{Device: "disabled"})
	status := registry.Disabled
	if _, err := s.UpdateDevice(t.Context(), disabled.ID, nil, registry.Change{Status: &status}); err != nil {
		t.Fatal(err)
	}
	good, stranger := ca.Leaf(t, "signed"), pkitest.NewCA(t, "root").Leaf(t, "signed")
	now := s.Clock.Now()
	key := d.Authentication.PrimaryKey.Reveal()
	policy := func(name string) string {
		for _, p := range s.Policies {
			if p.Name == name {
				return sas.Sign(hubtest.Host, p.Primary.Reveal(), now.Add(time.Hour), name)
			}
		}
		panic(name)
	}
	for name, c := range map[string]struct {
		device string
		token  string
		cert   *tls.Certificate
		status int
	}{
		"own key":                   {"d", s.Token(d), nil, 204},
		"own key, odd id":           {"a%23%25b", s.Token(odd), nil, 204},
		"policy with DeviceConnect": {"d", policy("device"), nil, 204},
		"policy without":            {"d", policy("registryRead"), nil, 401},
		"certificate":               {"signed", "", &good, 204},
		"token before certificate":  {"signed", s.Token(d), &good, 401},
		"stranger's certificate":    {"signed", "", &stranger, 401},
		"certificate for another":   {"d", "", &good, 401},
		"nothing":                   {"d", "", nil, 401},
		"no token at all":           {"d", "Bearer x", nil, 401},
		"another device's token":    {"d", s.Token(other), nil, 401},
		"its module's token":        {"d", s.Token(m), nil, 401},
		"its token for a module":    {"d/modules/m", s.Token(d), nil, 401},
		"module":                    {"d/modules/m", s.Token(m), nil, 204},
		"expired":                   {"d", sas.Sign(hubtest.Resource(d.ID), key, now.Add(-6*time.Minute), ""), nil, 401},
		"another hub's":             {"d", sas.Sign("else.example.net/devices/d", key, now.Add(time.Hour), ""), nil, 401},
		"unknown device":            {"none", policy("device"), nil, 401},
		"disabled":                  {"disabled", s.Token(disabled), nil, 403},
	} {
		t.Run(name, func(t *testing.T) {
			header := map[string]string{}
			if c.token != "" {
				header["Authorization"] = c.token
			}
			a := s.call(t, c.cert, "POST", "/devices/"+c.device+"/messages/events"+version, header, "x").want(t, c.status)
			if c.status == 401 && a.header["iothub-errorcode"] != "IotHubUnauthorized" {
				t.Errorf("error code %q", a.header["iothub-errorcode"])
			}
		})
	}
	if lines := s.Log.Lines(slog.LevelDebug, "sig="); len(lines) > 0 {
		t.Errorf("the log holds a token: %s", lines[0].Text)
	}
}

func TestVisit_LastActivity(t *testing.T) {
	t.Parallel()
	s := serve(t)
	d := s.Device(t, iot.ID{Device: "d"})
	s.as(t, d, "POST", "/devices/d/messages/events", nil, "x").want(t, 204)
	hubtest.Until(t, "the last activity", func() bool {
		now, err := s.Hub.Device(t.Context(), d.ID)
		if err != nil {
			t.Fatal(err)
		}
		if now.Connected {
			t.Fatal("a device without a connection counts as connected")
		}
		return !now.LastActivity.IsZero()
	})
}

func TestOwns(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		method, path string
		want         bool
	}{
		{"POST", "devices/d/messages/events", true},
		{"GET", "devices/d/messages/events", true}, // answered with 405
		{"POST", "devices/d/modules/m/messages/events", true},
		{"GET", "devices/d/messages/deviceBound", true},
		{"POST", "devices/d/messages/deviceBound", false}, // a service sends
		{"DELETE", "devices/d/messages/devicebound/t", true},
		{"POST", "devices/d/messages/devicebound/t/abandon", true},
		{"GET", "devices/d/modules/m/messages/devicebound", false},
		{"POST", "Devices/d/FILES", true},
		{"POST", "devices/d/files/notifications", true},
		{"POST", "devices/d/files/notifications/x", true},
		{"POST", "devices/d/modules/m/files", true},
		{"GET", "devices/d", false},
		{"PUT", "devices/d/modules/m", false},
		{"GET", "devices/d/modules", false},
		{"DELETE", "devices/d/commands", false},
		{"GET", "twins/d/messages/events", false},
		{"GET", "devices/files", false},
		{"POST", "devices/modules/files", true}, // a device called modules
		{"POST", "", false},
	} {
		if got := https.Owns(c.method, strings.Split(c.path, "/")); got != c.want {
			t.Errorf("%s /%s: %v, want %v", c.method, c.path, got, c.want)
		}
	}
}

func TestRefusals(t *testing.T) {
	t.Parallel()
	conform.Covers(t, "HD-77")
	s := serve(t)
	d := s.Device(t, iot.ID{Device: "d"})
	for _, c := range []struct {
		method, target, body string
		status               int
		code                 string
	}{
		{"PUT", "/devices/d/messages/events", "", 405, "GenericMethodNotAllowed"},
		{"GET", "/devices/d/messages/nothing", "", 404, "GenericNotFound"},
		{"DELETE", "/devices/d/messages/devicebound/unknown", "", 412, "DeviceMessageLockLost"},
		{"POST", "/devices/d/messages/devicebound/unknown/abandon", "", 412, "DeviceMessageLockLost"},
		{"POST", "/devices/d/messages/events", strings.Repeat("x", 256<<10+1), 413, "MessageTooLarge"},
		{"POST", "/devices/d/files", "{", 400, "IotHubFormatError"},
		{"POST", "/devices/d/files", `{"blobName":"a"}`, 400, "DefaultStorageEndpointNotConfigured"},
		{"POST", "/devices/d/files/notifications", `{"correlationId":"x"}`, 400, "DefaultStorageEndpointNotConfigured"},
	} {
		a := s.as(t, d, c.method, c.target, nil, c.body).want(t, c.status)
		checkRefusal(t, a, c.code)
	}
}

// checkRefusal reads a refusal as Node (parseErrorBody cuts at ':' and ';') and .NET (compares the
// name with the header) do.
func checkRefusal(t *testing.T, a answer, code string) {
	t.Helper()
	if a.header["iothub-errorcode"] != code || a.header["Content-Type"] != "application/json; charset=utf-8" ||
		a.header["iothub-servicetrackingid"] == "" || a.header["x-ms-request-id"] == "" {
		t.Errorf("want the code %s and tracking ids in the header %v", code, a.header)
	}
	var body struct{ Message, ExceptionMessage string }
	if err := json.Unmarshal(a.body, &body); err != nil {
		t.Fatalf("body %s: %v", a.body, err)
	}
	parts := strings.Split(body.Message, ";")
	if len(parts) != 2 || parts[0] != "ErrorCode:"+code || parts[1] == "" || strings.Count(parts[0], ":") != 1 {
		t.Errorf("Message %q, want ErrorCode:%s;text", body.Message, code)
	}
	if !regexp.MustCompile(`^Tracking ID:[0-9a-f]{32}-TimeStamp:\d\d/\d\d/\d{4} \d\d:\d\d:\d\d$`).MatchString(body.ExceptionMessage) {
		t.Errorf("ExceptionMessage %q", body.ExceptionMessage)
	}
}
