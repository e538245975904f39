package device_test

import (
	"bufio"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/hex"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"math/big"
	"net"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/vauban-iot/vauban/app/apptest"
	"github.com/vauban-iot/vauban/sdk/device"
	"github.com/vauban-iot/vauban/sdk/provisioning"
	"github.com/vauban-iot/vauban/sdk/service"
)

func TestMain(m *testing.M) { apptest.Main(m) }

func eventually(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for end := time.Now().Add(20 * time.Second); !ok(); time.Sleep(20 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("%s did not happen", what)
		}
	}
}

func configOf(v *apptest.Vauban, d service.Identity) device.Config {
	return device.Config{
		ConnectionString: fmt.Sprintf("HostName=%s;DeviceId=%s;SharedAccessKey=%s", v.Hub.Hostname, d.DeviceID, d.Authentication.SymmetricKey.PrimaryKey),
		TLS:              v.TLS(), Address: v.Address(v.Ports.MQTT), MinBackoff: 10 * time.Millisecond, MaxBackoff: 100 * time.Millisecond,
	}
}

// run runs a client until the test ends.
func run(t *testing.T, cfg device.Config) *device.Client {
	t.Helper()
	c, err := device.New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- c.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
		if err := c.Send(context.Background(), device.Message{}); !errors.Is(err, device.ErrStopped) {
			t.Errorf("after Run: %v", err)
		}
	})
	return c
}

// follow collects telemetry as the operator's API shows it.
func follow(t *testing.T, v *apptest.Vauban) func(text string) bool {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, "https://"+v.Address(v.Ports.HTTPS)+"/api/messages", nil)
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Authorization", "Bearer "+v.API.Token)
	res, err := v.HTTP().Do(req)
	if err != nil {
		t.Fatal(err)
	}
	if res.StatusCode != http.StatusOK {
		t.Fatalf("the feed: %s", res.Status)
	}
	t.Cleanup(func() { res.Body.Close() })
	var mu sync.Mutex
	var all strings.Builder
	go func() {
		for s := bufio.NewScanner(res.Body); s.Scan(); {
			mu.Lock()
			all.WriteString(s.Text() + "\n")
			mu.Unlock()
		}
	}()
	return func(text string) bool {
		mu.Lock()
		defer mu.Unlock()
		return strings.Contains(all.String(), text)
	}
}

func TestClient(t *testing.T) {
	t.Parallel()
	v := apptest.Start(t)
	for _, transport := range []string{"mqtt", "websocket"} {
		t.Run(transport, func(t *testing.T) {
			t.Parallel()
			d := v.Device("lamp-" + transport)
			cfg := configOf(v, d)
			if transport == "websocket" {
				cfg.WebSocket, cfg.Address = true, v.Address(v.Ports.HTTPS)
			}
			twins := make(chan device.TwinEvent, 16)
			mails := make(chan device.Message, 16)
			cfg.Twin = func(_ context.Context, e device.TwinEvent) { twins <- e }
			cfg.Method = func(_ context.Context, m device.Method) (int, []byte) {
				return 201, fmt.Appendf(nil, `{"name":%q,"got":%s}`, m.Name, m.Payload)
			}
			cfg.Receive = func(_ context.Context, m device.Message) error { mails <- m; return nil }
			c := run(t, cfg)
			saw := follow(t, v)
			msg := device.Message{Body: []byte(`{"n":"` + transport + `-1"}`), ContentType: "application/json", ContentEncoding: "utf-8", Properties: map[string]string{"a b": "c&d " + transport}, Created: time.Now()}
			if err := c.Send(t.Context(), msg); err != nil {
				t.Fatal(err)
			}
			eventually(t, "the message", func() bool { return saw(transport+"-1") && saw("d "+transport) })

			if e := <-twins; e.Twin == nil || e.Version != 1 {
				t.Fatalf("first twin event %+v", e)
			}
			if version, err := c.Report(t.Context(), map[string]any{"firmware": "1.2"}); err != nil || version < 2 {
				t.Fatalf("report: %d, %v", version, err)
			}
			if _, err := c.Report(t.Context(), []int{1}); err == nil {
				t.Error("a report that is no object was taken")
			} else if te, ok := errors.AsType[*device.TwinError](err); !ok || te.Status != 400 {
				t.Errorf("a report that is no object: %v", err)
			}
			if _, err := v.Service().PatchTwin(t.Context(), d.DeviceID, []byte(`{"properties":{"desired":{"on":true}}}`), ""); err != nil {
				t.Fatal(err)
			}
			if e := <-twins; e.Twin != nil || !strings.Contains(string(e.Patch), `"on":true`) || e.Version != 2 {
				t.Errorf("patch %+v", e)
			}
			tw, err := c.ReadTwin(t.Context())
			if err != nil || !strings.Contains(string(tw.Desired), `"on":true`) || !strings.Contains(string(tw.Reported), `"firmware":"1.2"`) {
				t.Errorf("twin %s %s %v", tw.Desired, tw.Reported, err)
			}
			r, err := v.Service().InvokeMethod(t.Context(), d.DeviceID, "blink", json.RawMessage(`[1]`), 10*time.Second, 0)
			if err != nil || r.Status != 201 || string(r.Payload) != `{"name":"blink","got":[1]}` {
				t.Errorf("method: %+v %v", r, err)
			}
			if _, err := v.Service().Do(t.Context(), http.MethodPost, service.DevicePath(d.DeviceID)+"/messages/deviceBound", "", nil, []byte("wake up")); err != nil {
				t.Fatal(err)
			}
			if m := <-mails; string(m.Body) != "wake up" {
				t.Errorf("mail %+v", m)
			}
			eventually(t, "the mail's end", func() bool {
				d, err := v.Service().Device(t.Context(), d.DeviceID)
				return err == nil && d.Pending == 0
			})
			if err := c.Send(t.Context(), device.Message{Body: make([]byte, 256<<10+1)}); !errors.Is(err, device.ErrTooLarge) {
				t.Errorf("too large: %v", err)
			}
		})
	}
}

// A client comes back by itself, and nothing that was given to it meanwhile is lost.
func TestClient_ComesBack(t *testing.T) {
	t.Parallel()
	v := apptest.Start(t)
	cfg := configOf(v, v.Device("lamp"))
	whole := make(chan bool, 16)
	cfg.Twin = func(_ context.Context, e device.TwinEvent) { whole <- e.Twin != nil }
	c := run(t, cfg)
	if err := c.Send(t.Context(), device.Message{Body: []byte("1")}); err != nil {
		t.Fatal(err)
	}
	<-whole
	v.Stop()
	sent := make(chan error, 1)
	go func() { sent <- c.Send(t.Context(), device.Message{Body: []byte("2")}) }()
	v.Start()
	if err := <-sent; err != nil {
		t.Fatal(err)
	}
	if !<-whole {
		t.Error("the twin is not read anew")
	}
}

// Before its token ends a client connects with another one.
func TestClient_RenewsItsToken(t *testing.T) {
	t.Parallel()
	v := apptest.Start(t)
	cfg := configOf(v, v.Device("lamp"))
	cfg.TokenLife = time.Second
	connected := make(chan error, 64)
	cfg.State = func(err error) { connected <- err }
	c := run(t, cfg)
	for range 3 {
		if err := <-connected; err != nil {
			t.Fatal(err)
		}
		if err := c.Send(t.Context(), device.Message{Body: []byte("x")}); err != nil {
			t.Fatal(err)
		}
	}
}

func TestClient_IsRefused(t *testing.T) {
	t.Parallel()
	v := apptest.Start(t)
	d := v.Device("lamp")
	d.Authentication.SymmetricKey.PrimaryKey = "bm90IHRoZSBrZXkgb2YgdGhpcyBkZXZpY2UhISEhISE="
	c := run(t, configOf(v, d))
	ctx, cancel := context.WithTimeout(t.Context(), time.Second)
	defer cancel()
	err := c.Send(ctx, device.Message{})
	if r, ok := errors.AsType[*device.RefusedError](err); !ok || r.Code != 5 || !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("got %v", err)
	}
}

func TestNew_Refuses(t *testing.T) {
	t.Parallel()
	for name, cfg := range map[string]device.Config{
		"nothing":        {},
		"a service":      {ConnectionString: "HostName=h;SharedAccessKeyName=service;SharedAccessKey=AAAA"},
		"no key":         {ConnectionString: "HostName=h;DeviceId=d"},
		"no base64":      {ConnectionString: "HostName=h;DeviceId=d;SharedAccessKey=%%%"},
		"no certificate": {ConnectionString: "HostName=h;DeviceId=d;x509=true"},
		"keep-alive":     {ConnectionString: "HostName=h;DeviceId=d;SharedAccessKey=AAAA", KeepAlive: time.Hour},
	} {
		if c, err := device.New(cfg); err == nil {
			t.Errorf("%s: taken as %v", name, c)
		}
	}
}

// certificate makes a self-signed one and returns its files and its SHA-256.
func certificate(t *testing.T, name string) (cert, key, thumbprint string) {
	t.Helper()
	k, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	der, err := x509.CreateCertificate(rand.Reader, &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: name}, NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
	}, &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: name}}, k.Public(), k)
	if err != nil {
		t.Fatal(err)
	}
	pkcs8, err := x509.MarshalPKCS8PrivateKey(k)
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	cert, key = filepath.Join(dir, "public.pem"), filepath.Join(dir, "private.pem")
	for path, b := range map[string]*pem.Block{cert: {Type: "CERTIFICATE", Bytes: der}, key: {Type: "PRIVATE KEY", Bytes: pkcs8}} {
		if err := os.WriteFile(path, pem.EncodeToMemory(b), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	sum := sha256.Sum256(der)
	return cert, key, hex.EncodeToString(sum[:])
}

func TestClient_Certificate(t *testing.T) {
	t.Parallel()
	v := apptest.Start(t)
	cert, key, thumbprint := certificate(t, "lamp")
	if _, err := v.Service().CreateDevice(t.Context(), service.Device{ID: "lamp", PrimaryThumbprint: thumbprint}); err != nil {
		t.Fatal(err)
	}
	c := run(t, device.Config{
		ConnectionString: "HostName=" + v.Hub.Hostname + ";DeviceId=lamp;x509=true", CertificateFile: cert, KeyFile: key,
		TLS: v.TLS(), Address: v.Address(v.Ports.MQTT),
	})
	if err := c.Send(t.Context(), device.Message{Body: []byte("x")}); err != nil {
		t.Fatal(err)
	}
}

// proxy is an HTTP proxy that knows CONNECT alone.
func proxy(t *testing.T) (u *url.URL, used func() string) {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	var mu sync.Mutex
	var authorization string
	srv := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		mu.Lock()
		authorization = r.Header.Get("Proxy-Authorization")
		mu.Unlock()
		if r.Method != http.MethodConnect {
			http.Error(w, "no", http.StatusMethodNotAllowed)
			return
		}
		to, err := net.Dial("tcp", r.Host)
		if err != nil {
			http.Error(w, err.Error(), http.StatusBadGateway)
			return
		}
		from, _, err := http.NewResponseController(w).Hijack()
		if err != nil {
			return
		}
		fmt.Fprint(from, "HTTP/1.1 200 OK\r\n\r\n")
		go func() { io.Copy(to, from); to.Close() }()
		go func() { io.Copy(from, to); from.Close() }()
	})}
	go srv.Serve(ln)
	t.Cleanup(func() { srv.Close() })
	return &url.URL{Scheme: "http", Host: ln.Addr().String(), User: url.UserPassword("me", "secret")}, func() string {
		mu.Lock()
		defer mu.Unlock()
		return authorization
	}
}

func TestClient_Proxy(t *testing.T) {
	t.Parallel()
	v := apptest.Start(t)
	u, used := proxy(t)
	cfg := configOf(v, v.Device("lamp"))
	cfg.Proxy = u
	c := run(t, cfg)
	if err := c.Send(t.Context(), device.Message{Body: []byte("x")}); err != nil {
		t.Fatal(err)
	}
	if used() != "Basic bWU6c2VjcmV0" {
		t.Errorf("authorization %q", used())
	}
}

const groupKey = "8isrFI1sGsIlvvFSSFRiMfCNzv21fjbE/+ah/lSh3lF8e2YG1Te7w1KpZhJFFXJrqYKi9yegxkqIChbqOS9Egw=="

func TestProvision(t *testing.T) {
	t.Parallel()
	v := apptest.Start(t)
	dps, err := provisioning.New(provisioning.Config{ConnectionString: v.DPS.ConnectionString, TLS: v.TLS(), Address: v.Address(v.Ports.HTTPS)})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { dps.Close() })
	cert, key, _ := certificate(t, "cert-1")
	pemText, err := os.ReadFile(cert)
	if err != nil {
		t.Fatal(err)
	}
	escaped, err := json.Marshal(string(pemText))
	if err != nil {
		t.Fatal(err)
	}
	for path, body := range map[string]string{
		provisioning.GroupPath("g"):           fmt.Sprintf(`{"attestation":{"type":"symmetricKey","symmetricKey":{"primaryKey":%q,"secondaryKey":%q}}}`, groupKey, groupKey),
		provisioning.EnrollmentPath("own-1"):  fmt.Sprintf(`{"registrationId":"own-1","deviceId":"pump","attestation":{"type":"symmetricKey","symmetricKey":{"primaryKey":%q,"secondaryKey":%q}}}`, groupKey, groupKey),
		provisioning.EnrollmentPath("cert-1"): fmt.Sprintf(`{"registrationId":"cert-1","attestation":{"type":"x509","x509":{"clientCertificates":{"primary":{"certificate":%s}}}}}`, escaped),
	} {
		if _, err := dps.Do(t.Context(), http.MethodPut, path, "", []byte(body)); err != nil {
			t.Fatal(path, err)
		}
	}
	base := device.Registration{Host: v.DPS.Hostname, IDScope: v.DPS.IDScope, TLS: v.TLS(), Address: v.Address(v.Ports.MQTT)}
	for _, tt := range []struct {
		name, device string
		change       func(*device.Registration)
	}{
		{"group key", "lamp-1", func(r *device.Registration) { r.ID, r.GroupKey = "lamp-1", groupKey }},
		{"own key, WebSocket", "pump", func(r *device.Registration) {
			r.ID, r.Key, r.WebSocket, r.Address = "own-1", groupKey, true, v.Address(v.Ports.HTTPS)
		}},
		{"certificate", "cert-1", func(r *device.Registration) { r.ID, r.CertificateFile, r.KeyFile = "cert-1", cert, key }},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			r := base
			tt.change(&r)
			a, err := device.Provision(t.Context(), r)
			if err != nil || a.DeviceID != tt.device || a.Hub != v.Hub.Hostname {
				t.Fatalf("got %s at %s, %v", a.DeviceID, a.Hub, err)
			}
			c := run(t, device.Config{ConnectionString: a.ConnectionString(), CertificateFile: r.CertificateFile, KeyFile: r.KeyFile, TLS: v.TLS(), Address: v.Address(v.Ports.MQTT)})
			if err := c.Send(t.Context(), device.Message{Body: []byte("x")}); err != nil {
				t.Fatal(err)
			}
		})
	}
	t.Run("a wait of its own", func(t *testing.T) {
		t.Parallel()
		r := base
		r.ID, r.GroupKey = "lamp-3", groupKey
		var asked []time.Duration
		r.Wait = func(d time.Duration) time.Duration { asked = append(asked, d); return 20 * time.Millisecond }
		a, err := device.Provision(t.Context(), r)
		if err != nil || a.DeviceID != "lamp-3" || len(asked) == 0 || asked[0] < time.Second {
			t.Errorf("got %s, %v, after waits of %v", a.DeviceID, err, asked)
		}
	})
	t.Run("unknown", func(t *testing.T) {
		t.Parallel()
		r := base
		r.ID, r.Key = "nobody", groupKey
		_, err := device.Provision(t.Context(), r)
		_, front := errors.AsType[*device.RefusedError](err)
		if p, ok := errors.AsType[*device.ProvisionError](err); !front && (!ok || p.Status != 401) {
			t.Errorf("got %v", err)
		}
	})
	t.Run("nothing to prove itself with", func(t *testing.T) {
		t.Parallel()
		r := base
		r.ID = "lamp-2"
		if _, err := device.Provision(t.Context(), r); err == nil {
			t.Error("taken")
		}
	})
}
