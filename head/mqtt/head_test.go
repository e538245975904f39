package mqtt_test

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/vauban-iot/vauban/head/mqtt"
	"github.com/vauban-iot/vauban/head/mqtt/mqtttest"
	"github.com/vauban-iot/vauban/head/rest"
	headservice "github.com/vauban-iot/vauban/head/service"
	"github.com/vauban-iot/vauban/head/upgrade"
	"github.com/vauban-iot/vauban/hub/hubtest"
	"github.com/vauban-iot/vauban/hub/registry"
	"github.com/vauban-iot/vauban/internal/secret"
	"github.com/vauban-iot/vauban/iot"
	"github.com/vauban-iot/vauban/pki"
	"github.com/vauban-iot/vauban/sdk/service"
	wire "github.com/vauban-iot/vauban/wire/mqtt"
	"github.com/vauban-iot/vauban/wire/topic"
)

// server is the head, on loopback, in front of a real hub, with the service API beside it.
type server struct {
	*hubtest.World
	head    *mqtt.Server
	address string // of the head
	web     string // of the HTTPS port, where WebSockets and the service API are
	sockets bool   // dial asks for a WebSocket
	roots   *x509.CertPool
	service *service.Client

	stopHead func()
	stopREST func()
}

// shared serves every test that leaves it as it was: each has devices of its own.
var shared *server

// overBoth is for what must be alike over TLS and over WebSocket: it runs test with shared, dialled one way and the other.
func overBoth(t *testing.T, test func(t *testing.T, shared *server)) {
	t.Helper()
	sockets := *shared
	sockets.sockets = true
	t.Run("TLS", func(t *testing.T) { test(t, shared) })
	t.Run("WebSocket", func(t *testing.T) { test(t, &sockets) })
}

// authority is made once: RSA keys take a while.
var authority *pki.Authority

func TestMain(m *testing.M) { os.Exit(run(m)) }

func run(m *testing.M) int {
	dir, err := os.MkdirTemp("", "head-mqtt")
	if err != nil {
		panic(err)
	}
	defer os.RemoveAll(dir)
	sealer, err := secret.OpenSealer(filepath.Join(dir, "master.key"))
	if err != nil {
		panic(err)
	}
	authority, err = pki.Open(pki.Config{Dir: filepath.Join(dir, "pki"), Hostname: hubtest.Host, Sealer: sealer, Logger: slog.New(slog.DiscardHandler)})
	if err != nil {
		panic(err)
	}
	if shared, err = open(hubtest.Options{Dir: dir}); err != nil {
		panic(err)
	}
	code := m.Run()
	shared.close()
	if err := goleak.Find(); code == 0 && err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	return code
}

// start opens a server for one test.
func start(t *testing.T, opts hubtest.Options) *server {
	t.Helper()
	if opts.Dir == "" {
		opts.Dir = t.TempDir()
	}
	s, err := open(opts)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(s.close)
	return s
}

func open(opts hubtest.Options) (*server, error) {
	w, err := hubtest.Open(opts)
	if err != nil {
		return nil, err
	}
	s := &server{World: w, roots: x509.NewCertPool()}
	s.roots.AppendCertsFromPEM(authority.RootPEM())
	if err := s.serve("127.0.0.1:0"); err != nil {
		return nil, err
	}
	s.web, s.stopREST, err = serveWeb(func() *mqtt.Server { return s.head }, http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
		headservice.New(s.Hub, s.Guard, slog.New(s.Log)).ServeHTTP(rw, r)
	}), s.Log)
	if err != nil {
		return nil, err
	}
	s.service, err = service.New(service.Config{
		ConnectionString: w.Policies[0].ConnectionString(hubtest.Host), Address: s.web,
		TLS: &tls.Config{RootCAs: s.roots},
	})
	return s, err
}

// serveWeb is an HTTPS port: WebSockets go to the head, the rest to beside.
func serveWeb(head func() *mqtt.Server, beside http.Handler, log slog.Handler) (address string, stop func(), err error) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return "", nil, err
	}
	sockets := upgrade.New(map[string]func(*upgrade.Conn){"mqtt": func(c *upgrade.Conn) { head().Take(c) }}, slog.New(log))
	web := &http.Server{
		Handler: http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
			if upgrade.Wants(r, rest.Segments(r)) {
				sockets.ServeHTTP(rw, r)
				return
			}
			beside.ServeHTTP(rw, r)
		}),
		TLSConfig: authority.DeviceTLS(),
		ErrorLog:  slog.NewLogLogger(log, slog.LevelDebug),
	}
	web.TLSConfig.NextProtos = []string{"http/1.1"}
	done := make(chan struct{})
	go func() {
		defer close(done)
		web.ServeTLS(ln, "", "")
	}()
	return ln.Addr().String(), func() {
		web.Close()
		<-done
	}, nil
}

// serve runs the head in front of the world's hub.
func (s *server) serve(address string) error { return s.serveWith(address, func(*mqtt.Config) {}) }

// serveWith is serve with a configuration of the test's own.
func (s *server) serveWith(address string, change func(*mqtt.Config)) error {
	cfg := mqtt.Config{Core: s.Hub, TLS: authority.DeviceTLS(), Logger: slog.New(s.Log)}
	change(&cfg)
	var err error
	if s.head, err = mqtt.New(cfg); err != nil {
		return err
	}
	ln, err := net.Listen("tcp", address)
	if err != nil {
		return err
	}
	s.address = ln.Addr().String()
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- s.head.Run(ctx, ln) }()
	s.stopHead = func() {
		cancel()
		if err := <-done; err != nil {
			slog.New(s.Log).Error("the head failed", "err", err)
		}
	}
	return nil
}

func (s *server) close() {
	s.stopHead()
	s.stopREST()
	s.World.Close()
}

// restart stops everything and starts it again on the same data and port.
func (s *server) restart(t *testing.T) {
	t.Helper()
	s.stopHead()
	s.World.Restart(t)
	if err := s.serve(s.address); err != nil {
		t.Fatal(err)
	}
}

var devices atomic.Int64

// newID names a device no other test knows.
func newID() iot.ID { return iot.ID{Device: fmt.Sprintf("dev-%d", devices.Add(1))} }

func (s *server) device(t *testing.T) registry.Identity {
	t.Helper()
	return s.Device(t, newID())
}

// dial opens a connection, showing certificates if there are any.
func (s *server) dial(t *testing.T, certs ...tls.Certificate) *mqtttest.Client {
	t.Helper()
	cfg := &tls.Config{RootCAs: s.roots, ServerName: hubtest.Host, Certificates: certs}
	if s.sockets {
		return mqtttest.DialWebSocket(t, s.web, "/$iothub/websocket", "mqtt", cfg)
	}
	return mqtttest.Dial(t, s.address, cfg)
}

// username is the canonical one of id.
func username(id iot.ID) string {
	return topic.Username{Host: hubtest.Host, Device: id.Device, Module: id.Module, APIVersion: "2021-04-12"}.String()
}

// hello is a CONNECT of id with a token.
func hello(id iot.ID, token string) wire.Connect {
	return wire.Connect{
		ClientID: id.String(), Username: username(id), HasUsername: true,
		Password: []byte(token), HasPassword: token != "", CleanSession: true, KeepAlive: 60,
	}
}

func (s *server) hello(d registry.Identity) wire.Connect { return hello(d.ID, s.Token(d)) }

// connect opens a clean session of d.
func (s *server) connect(t *testing.T, d registry.Identity) *mqtttest.Client {
	t.Helper()
	c := s.dial(t)
	if present, code := c.Connect(s.hello(d)); code != 0 || present {
		t.Fatalf("CONNACK %d, session present %v; want 0, false", code, present)
	}
	return c
}

// resume opens a session that stays, and returns whether there was one.
func (s *server) resume(t *testing.T, d registry.Identity) (*mqtttest.Client, bool) {
	t.Helper()
	c := s.dial(t)
	h := s.hello(d)
	h.CleanSession = false
	present, code := c.Connect(h)
	if code != 0 {
		t.Fatalf("CONNACK %d, want 0", code)
	}
	return c, present
}

// refused sends a CONNECT that must be answered with code and a close.
func (s *server) refused(t *testing.T, h wire.Connect, code byte, certs ...tls.Certificate) {
	t.Helper()
	c := s.dial(t, certs...)
	c.Send(wire.AppendConnect(nil, &h))
	c.Expect([]byte{0x20, 2, 0, code})
	c.Closed()
}

// accepted sends a CONNECT that must be accepted, and leaves.
func (s *server) accepted(t *testing.T, h wire.Connect, certs ...tls.Certificate) {
	t.Helper()
	c := s.dial(t, certs...)
	c.Send(wire.AppendConnect(nil, &h))
	c.Expect([]byte{0x20, 2, 0, 0})
	c.Disconnect()
}

func events(id iot.ID) string { return string(topic.AppendTelemetry(nil, id.Device, id.Module)) }

// serviceError returns the status and code of a refused service call.
func serviceError(t *testing.T, err error) *service.Error {
	t.Helper()
	e, ok := errors.AsType[*service.Error](err)
	if !ok {
		t.Fatalf("got error %v, want a refusal of the service API", err)
	}
	return e
}

// lines waits for one log line about a device at level info or above, and fails if there are more.
func (s *server) oneLine(t *testing.T, part string) hubtest.Line {
	t.Helper()
	var got []hubtest.Line
	hubtest.Until(t, "a log line about "+part, func() bool {
		got = s.Log.Lines(slog.LevelInfo, part)
		return len(got) > 0
	})
	time.Sleep(20 * time.Millisecond) // a second line would come about now
	if got = s.Log.Lines(slog.LevelInfo, part); len(got) != 1 {
		var all []string
		for _, l := range got {
			all = append(all, l.Text)
		}
		t.Errorf("%d log lines about %s, want 1:\n%s", len(got), part, strings.Join(all, "\n"))
	}
	return got[0]
}
