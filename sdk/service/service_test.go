package service_test

import (
	"context"
	"crypto/tls"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	head "github.com/vauban-iot/vauban/head/service"
	"github.com/vauban-iot/vauban/hub/hubtest"
	"github.com/vauban-iot/vauban/hub/registry"
	"github.com/vauban-iot/vauban/iot"
	"github.com/vauban-iot/vauban/sdk/service"
)

// world is a hub, whose own Device reads and whose Device of hubtest makes.
type world struct{ *hubtest.World }

func (w world) make(t *testing.T, id string) registry.Identity {
	t.Helper()
	return w.World.Device(t, iot.ID{Device: id})
}

// serve is a client of a real hub's service API.
func serve(t *testing.T) (world, *service.Client) {
	t.Helper()
	w := hubtest.New(t, hubtest.Options{Memory: true})
	s := httptest.NewTLSServer(head.New(w.Hub, w.Guard, slog.New(w.Log)))
	t.Cleanup(s.Close)
	return world{w}, client(t, s, w.Policies[0].ConnectionString(hubtest.Host))
}

// client trusts s and reaches it whatever its host is called.
func client(t *testing.T, s *httptest.Server, connectionString string) *service.Client {
	t.Helper()
	c, err := service.New(service.Config{
		ConnectionString: connectionString, Address: s.Listener.Addr().String(),
		TLS: &tls.Config{RootCAs: s.Client().Transport.(*http.Transport).TLSClientConfig.RootCAs, ServerName: "example.com", MinVersion: tls.VersionTLS12},
	})
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// refused wants an Error of the hub.
func refused(t *testing.T, err error, status int, code string) {
	t.Helper()
	e, ok := errors.AsType[*service.Error](err)
	if !ok || e.Status != status || e.Code != code || e.Message == "" || strings.Contains(e.Message, "ErrorCode") || strings.HasPrefix(e.Message, "{") {
		t.Errorf("error %#v, want %d %s with a readable text", err, status, code)
		return
	}
	if want := e.Message + " (" + code + ")"; e.Error() != want {
		t.Errorf("error text %q, want %q", e.Error(), want)
	}
}

func TestNew(t *testing.T) {
	t.Parallel()
	key := base64.StdEncoding.EncodeToString(make([]byte, 32))
	for _, cs := range []string{
		"", "nonsense", "HostName=h", "HostName=h;SharedAccessKeyName=p", "HostName=h;SharedAccessKey=" + key,
		"HostName=h;SharedAccessKeyName=p;SharedAccessKey=?", "HostName=h;DeviceId=d;SharedAccessKey=" + key,
	} {
		if c, err := service.New(service.Config{ConnectionString: cs}); err == nil {
			t.Errorf("%q gives the client %v", cs, c)
		} else if strings.Contains(err.Error(), key) {
			t.Errorf("the error holds the key: %v", err)
		}
	}
}

func TestDevices(t *testing.T) {
	t.Parallel()
	w, c := serve(t)
	ctx := t.Context()
	one, two := base64.StdEncoding.EncodeToString(make([]byte, 32)), base64.StdEncoding.EncodeToString(make([]byte, 64))
	thumbprint := strings.Repeat("AB", 20)
	for _, test := range []struct {
		name string
		in   service.Device
		kind string
		want func(service.Identity) bool
	}{
		{"keys made", service.Device{ID: "a#1%"}, "sas", func(d service.Identity) bool {
			k := d.Authentication.SymmetricKey
			return k.PrimaryKey != "" && k.SecondaryKey != "" && k.PrimaryKey != k.SecondaryKey
		}},
		{"keys given", service.Device{ID: "b", PrimaryKey: one, SecondaryKey: two}, "sas", func(d service.Identity) bool {
			return d.Authentication.SymmetricKey.PrimaryKey == one && d.Authentication.SymmetricKey.SecondaryKey == two
		}},
		{"thumbprint", service.Device{ID: "c", SecondaryThumbprint: thumbprint}, "selfSigned", func(d service.Identity) bool {
			return d.Authentication.X509Thumbprint.SecondaryThumbprint == thumbprint && d.Authentication.SymmetricKey.PrimaryKey == ""
		}},
		{"certificate", service.Device{ID: "d", CertificateSigned: true}, "certificateAuthority", func(service.Identity) bool { return true }},
		{"edge", service.Device{ID: "e", Edge: true}, "sas", func(d service.Identity) bool {
			return strings.Contains(string(d.Raw), `"iotEdge":true`)
		}},
		{"disabled", service.Device{ID: "f", Disabled: true}, "sas", func(d service.Identity) bool { return d.Status == "disabled" }},
	} {
		t.Run(test.name, func(t *testing.T) {
			made, err := c.CreateDevice(ctx, test.in)
			if err != nil {
				t.Fatal(err)
			}
			got, err := c.Device(ctx, test.in.ID)
			if err != nil || string(got.Raw) != string(made.Raw) {
				t.Errorf("made %s, read %s: %v", made.Raw, got.Raw, err)
			}
			if got.DeviceID != test.in.ID || got.ETag == "" || got.GenerationID == "" || got.ConnectionState != "Disconnected" ||
				(got.Status == "disabled") != test.in.Disabled || got.Authentication.Type != test.kind || !test.want(got) {
				t.Errorf("identity %s", got.Raw)
			}
			_, err = c.CreateDevice(ctx, test.in)
			refused(t, err, 409, "DeviceAlreadyExists")
		})
	}
	if ds, err := c.Devices(ctx, 1000); err != nil || len(ds) != 6 || ds[0].DeviceID == "" || len(ds[0].Raw) == 0 {
		t.Errorf("list %v, %v", ds, err)
	}
	if ds, err := c.Devices(ctx, 2); err != nil || len(ds) != 2 {
		t.Errorf("list of two: %v, %v", ds, err)
	}
	_, err := c.Devices(ctx, 0)
	refused(t, err, 400, "ArgumentInvalid")
	if err := c.DeleteDevice(ctx, "a#1%"); err != nil {
		t.Error(err)
	}
	refused(t, c.DeleteDevice(ctx, "a#1%"), 404, "DeviceNotFound")
	_, err = c.Device(ctx, "a#1%")
	refused(t, err, 404, "DeviceNotFound")
	if _, err := w.Hub.Device(ctx, iot.ID{Device: "b"}); err != nil {
		t.Errorf("another device went along: %v", err)
	}
}

func TestTwin(t *testing.T) {
	t.Parallel()
	w, c := serve(t)
	w.make(t, "d")
	ctx := t.Context()
	raw, err := c.PatchTwin(ctx, "d", []byte(`{"tags":{"a":1}}`), "")
	if err != nil {
		t.Fatal(err)
	}
	read, err := c.Twin(ctx, "d")
	if err != nil || string(read) != string(raw) {
		t.Errorf("patched %s, read %s: %v", raw, read, err)
	}
	var twin struct {
		ETag string
		Tags map[string]int
	}
	if err := json.Unmarshal(read, &twin); err != nil || twin.Tags["a"] != 1 {
		t.Errorf("twin %s: %v", read, err)
	}
	if _, err := c.PatchTwin(ctx, "d", []byte(`{"tags":{"a":2}}`), twin.ETag); err != nil {
		t.Error(err)
	}
	_, err = c.PatchTwin(ctx, "d", []byte(`{"tags":{"a":3}}`), twin.ETag)
	refused(t, err, 412, "PreconditionFailed")
	_, err = c.PatchTwin(ctx, "d", []byte(`{`), "")
	refused(t, err, 400, "IotHubFormatError")
	_, err = c.Twin(ctx, "nobody")
	refused(t, err, 404, "DeviceNotFound")
}

// board answers methods.
type board struct{ asked chan string }

func (b board) Method(name string, payload []byte, reply func(int, []byte, error)) {
	b.asked <- name + " " + string(payload)
	reply(201, []byte(`{"<":"&"}`), nil)
}
func (board) Desired(int64, []byte) {}
func (board) MailWaits()            {}
func (board) Close(error)           {}

func TestInvokeMethod(t *testing.T) {
	t.Parallel()
	w, c := serve(t)
	ctx := t.Context()
	_, err := c.InvokeMethod(ctx, "nobody", "m", nil, 5*time.Second, 0)
	refused(t, err, 404, "DeviceNotFound") // form B
	d := w.make(t, "d")
	_, err = c.InvokeMethod(ctx, "d", "m", nil, 5*time.Second, 0)
	refused(t, err, 404, "DeviceNotOnline")
	b := board{make(chan string, 1)}
	opened, err := w.Connect(ctx, w.Credentials(d), iot.Opening{Clean: true}, b)
	if err != nil {
		t.Fatal(err)
	}
	defer opened.Session.End(context.Background())
	opened.Session.Listen(iot.Methods)
	for payload, want := range map[string]string{"": "m null", `{"a":[1]}`: `m {"a":[1]}`} {
		var p json.RawMessage
		if payload != "" {
			p = json.RawMessage(payload)
		}
		r, err := c.InvokeMethod(ctx, "d", "m", p, 4001*time.Millisecond, time.Millisecond) // rounded up to 5 s and 1 s
		if err != nil || r.Status != 201 || string(r.Payload) != `{"<":"&"}` {
			t.Errorf("answer %d %s: %v", r.Status, r.Payload, err)
		}
		if got := <-b.asked; got != want {
			t.Errorf("the device was asked %q, want %q", got, want)
		}
	}
	_, err = c.InvokeMethod(ctx, "d", "m", nil, 4*time.Second, 0)
	refused(t, err, 400, "ArgumentInvalid")
}

// What other servers may say, and what no server says.
func TestStrangeAnswers(t *testing.T) {
	t.Parallel()
	const cs = "HostName=h;SharedAccessKeyName=p;SharedAccessKey=c2VjcmV0LXNlY3JldA=="
	for _, test := range []struct {
		name   string
		status int
		body   string
		want   string
	}{
		{"no JSON", 502, "<html>bad gateway</html>", "the hub answered 502: <html>bad gateway</html>"},
		{"empty", 503, "", "the hub answered 503: "},
		{"other JSON", 400, `{"error":"x"}`, `the hub answered 400: {"error":"x"}`},
		{"text without a code", 400, `{"Message":"plain"}`, "the hub answered 400: plain"},
		{"identity that is none", 200, "[]", "no identity"},
		{"not even JSON", 200, "x", "no identity"},
	} {
		t.Run(test.name, func(t *testing.T) {
			s := httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				if r.Host != "h" || r.URL.Query().Get("api-version") == "" || !strings.HasPrefix(r.Header.Get("Authorization"), "SharedAccessSignature sr=h&") {
					t.Errorf("request %s %s with %q", r.Host, r.URL, r.Header.Get("Authorization"))
				}
				w.WriteHeader(test.status)
				io.WriteString(w, test.body)
			}))
			defer s.Close()
			_, err := client(t, s, cs).Device(t.Context(), "d")
			if err == nil || !strings.Contains(err.Error(), test.want) {
				t.Errorf("error %v, want %q", err, test.want)
			}
		})
	}
	t.Run("nobody there", func(t *testing.T) {
		s := httptest.NewTLSServer(http.NotFoundHandler())
		c := client(t, s, cs)
		s.Close()
		if _, err := c.Device(t.Context(), "d"); err == nil || !strings.Contains(err.Error(), "cannot be reached") || strings.Contains(fmt.Sprint(err), "c2VjcmV0") {
			t.Errorf("error %v", err)
		}
	})
	t.Run("the answer breaks off", func(t *testing.T) {
		s := httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Length", "100")
			io.WriteString(w, "{")
		}))
		defer s.Close()
		if _, err := client(t, s, cs).Device(t.Context(), "d"); err == nil || !strings.Contains(err.Error(), "broke off") {
			t.Errorf("error %v", err)
		}
	})
	t.Run("a stranger's certificate", func(t *testing.T) {
		s := httptest.NewUnstartedServer(http.NotFoundHandler())
		s.Config.ErrorLog = slog.NewLogLogger(slog.DiscardHandler, slog.LevelError)
		s.StartTLS()
		defer s.Close()
		c, err := service.New(service.Config{ConnectionString: cs, Address: s.Listener.Addr().String()})
		if err != nil {
			t.Fatal(err)
		}
		if _, err := c.Device(t.Context(), "d"); err == nil || !strings.Contains(err.Error(), "certificate") {
			t.Errorf("error %v", err)
		}
	})
}
