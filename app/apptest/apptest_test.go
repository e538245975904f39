package apptest_test

import (
	"context"
	"crypto/rsa"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/vauban-iot/vauban/app/apptest"
	"github.com/vauban-iot/vauban/app/up"
	"github.com/vauban-iot/vauban/head/mqtt/mqtttest"
	"github.com/vauban-iot/vauban/internal/conform"
	"github.com/vauban-iot/vauban/sdk/service"
	wire "github.com/vauban-iot/vauban/wire/mqtt"
)

func TestMain(m *testing.M) { apptest.Main(m) }

func hello(v *apptest.Vauban, d service.Identity) wire.Connect {
	return wire.Connect{
		ClientID: d.DeviceID, Username: v.Hub.Hostname + "/" + d.DeviceID + "/?api-version=2021-04-12", HasUsername: true,
		Password: []byte(v.Token(d)), HasPassword: true, KeepAlive: 60,
	}
}

func connect(t *testing.T, v *apptest.Vauban, d service.Identity) (*mqtttest.Client, bool) {
	t.Helper()
	c := mqtttest.Dial(t, v.Address(v.Ports.MQTT), v.TLS())
	present, code := c.Connect(hello(v, d))
	if code != 0 {
		t.Fatalf("CONNACK %d", code)
	}
	return c, present
}

// The whole way of a command and of a message, through a restart.
func TestVauban_Restart(t *testing.T) {
	t.Parallel()
	v := apptest.Start(t)
	before := v.Connection
	d := v.Device("lamp-1")
	c, present := connect(t, v, d)
	if present {
		t.Error("a new device has a stored session")
	}
	c.Subscribe(1, "devices/lamp-1/messages/devicebound/#")
	c.Subscribe(0, "$iothub/methods/POST/#", "$iothub/twin/res/#")
	c.Publish("devices/lamp-1/messages/events/", []byte(`{"on":true}`))
	c.Publish0("$iothub/twin/PATCH/properties/reported/?$rid=1", []byte(`{"on":true}`))
	if p := c.NextPublish(); string(p.Topic) != "$iothub/twin/res/204/?$rid=1&$version=2" {
		t.Errorf("got %q", p.Topic)
	}
	v.Stop()
	if err := c.Drained(); !errors.Is(err, io.EOF) {
		t.Errorf("the stop ended the connection with %v, want a close_notify", err)
	}
	if nc, err := net.Dial("tcp", v.Address(v.Ports.MQTT)); err == nil {
		nc.Close()
		t.Error("the port answers after the stop")
	}
	v.Start()
	if v.Connection.Hub != before.Hub || v.DPS != before.DPS || v.API != before.API || v.Console != before.Console || v.Ports != before.Ports {
		t.Errorf("the second start changed the connection data: %+v, before %+v", v.Connection, before)
	}
	c, present = connect(t, v, d)
	if !present {
		t.Error("the stored session is gone")
	}
	done := make(chan error, 1)
	go func() {
		r, err := v.Service().InvokeMethod(context.Background(), "lamp-1", "off", nil, 10*time.Second, 0)
		if err == nil && r.Status != 200 {
			err = fmt.Errorf("status %d", r.Status)
		}
		done <- err
	}()
	p := c.NextPublish()
	_, rid, _ := strings.Cut(string(p.Topic), "$rid=")
	c.Publish0("$iothub/methods/res/200/?$rid="+rid, []byte("{}"))
	if err := <-done; err != nil {
		t.Error(err)
	}
	twin, err := v.Service().Twin(t.Context(), "lamp-1")
	if err != nil || !strings.Contains(string(twin), `"reported":{"on":true`) {
		t.Errorf("twin %s, %v", twin, err)
	}
	c.Disconnect()
	if lines := v.Log.Lines(slog.LevelWarn, ""); len(lines) != 0 {
		t.Errorf("warnings in the log: %v", lines)
	}
}

func TestVauban_DevicePorts(t *testing.T) {
	t.Parallel()
	conform.Covers(t, "HD-1", "HD-3", "HD-4")
	v := apptest.Start(t)
	for name, port := range map[string]int{"MQTT": v.Ports.MQTT, "HTTPS": v.Ports.HTTPS, "AMQP": v.Ports.AMQP} {
		for _, version := range []uint16{tls.VersionTLS12, tls.VersionTLS13} {
			asked := false
			cfg := v.TLS()
			cfg.MinVersion, cfg.MaxVersion = version, version
			cfg.GetClientCertificate = func(r *tls.CertificateRequestInfo) (*tls.Certificate, error) {
				asked = true
				if len(r.AcceptableCAs) != 0 {
					t.Errorf("%s: the server names %d CAs, want none", name, len(r.AcceptableCAs))
				}
				return &tls.Certificate{}, nil
			}
			c, err := tls.Dial("tcp", v.Address(port), cfg)
			if err != nil {
				t.Errorf("%s, %s without a certificate: %v", name, tls.VersionName(version), err)
				continue
			}
			c.Close()
			if !asked {
				t.Errorf("%s, %s: no certificate was asked for", name, tls.VersionName(version))
			}
		}
	}
	// A device that knows one suite and sends no name.
	raw, err := net.Dial("tcp", v.Address(v.Ports.MQTT))
	if err != nil {
		t.Fatal(err)
	}
	defer raw.Close()
	rec := &recorder{Conn: raw}
	c := tls.Client(rec, &tls.Config{
		InsecureSkipVerify: true, // no name to verify; the chain is checked below
		CipherSuites:       []uint16{tls.TLS_ECDHE_RSA_WITH_AES_128_CBC_SHA256}, MaxVersion: tls.VersionTLS12,
	})
	if err := c.HandshakeContext(t.Context()); err != nil {
		t.Fatalf("a client that offers only 0xC027 without a name: %v", err)
	}
	s := c.ConnectionState()
	if s.CipherSuite != 0xC027 || s.Version != tls.VersionTLS12 || s.ServerName != "" {
		t.Errorf("suite %#x, %s", s.CipherSuite, tls.VersionName(s.Version))
	}
	chain := s.PeerCertificates
	if k, ok := chain[0].PublicKey.(*rsa.PublicKey); !ok || k.N.BitLen() != 2048 {
		t.Errorf("the certificate's key is a %T, want RSA of 2048 bits", chain[0].PublicKey)
	}
	for _, x := range chain {
		if x.SignatureAlgorithm != x509.SHA256WithRSA || x.PublicKeyAlgorithm != x509.RSA {
			t.Errorf("%s: %v key, signed with %v; want RSA with SHA-256", x.Subject, x.PublicKeyAlgorithm, x.SignatureAlgorithm)
		}
	}
	between := x509.NewCertPool()
	for _, x := range chain[1:] {
		between.AddCert(x)
	}
	if _, err := chain[0].Verify(x509.VerifyOptions{Roots: v.Roots, Intermediates: between, DNSName: v.Hub.Hostname}); err != nil {
		t.Error(err)
	}
	size, ok := certificateMessage(rec.b)
	if !ok || size > 3584 {
		t.Errorf("the Certificate message has %d bytes (found %v), want at most 3.5 KiB", size, ok)
	}
}

// recorder keeps what was read.
type recorder struct {
	net.Conn
	b []byte
}

func (r *recorder) Read(p []byte) (int, error) {
	n, err := r.Conn.Read(p)
	r.b = append(r.b, p[:n]...)
	return n, err
}

// certificateMessage finds the Certificate message of a TLS 1.2 handshake and returns its length with its header.
func certificateMessage(stream []byte) (int, bool) {
	var messages []byte
	for len(stream) >= 5 && stream[0] == 22 {
		n := int(stream[3])<<8 | int(stream[4])
		if len(stream) < 5+n {
			break
		}
		messages = append(messages, stream[5:5+n]...)
		stream = stream[5+n:]
	}
	for len(messages) >= 4 {
		n := int(messages[1])<<16 | int(messages[2])<<8 | int(messages[3])
		if messages[0] == 11 {
			return 4 + n, true
		}
		if len(messages) < 4+n {
			break
		}
		messages = messages[4+n:]
	}
	return 0, false
}

func TestVauban_ConnectionFile(t *testing.T) {
	t.Parallel()
	v := apptest.Start(t)
	file := filepath.Join(v.Dir, up.ConnectionFile)
	info, err := os.Stat(file)
	if err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("%v, mode %v; want 0600", err, info.Mode())
	}
	c, err := up.LoadConnection(file)
	if err != nil || c.Hub != v.Hub || c.Ports != v.Ports || c.API != v.API {
		t.Errorf("got %+v, %v; want %+v", c, err, v.Connection)
	}
	for _, secret := range []string{c.Console.Password, c.API.Token} {
		if len(secret) < 20 {
			t.Errorf("the secret %q is short", secret)
		}
		if lines := v.Log.Lines(slog.LevelDebug, secret); len(lines) != 0 {
			t.Errorf("a secret is in the log: %v", lines)
		}
	}
}

// A second Vauban on the same folder or port is told what to do, and the first does not notice.
func TestVauban_SecondOne(t *testing.T) {
	t.Parallel()
	v := apptest.Start(t)
	cfg := up.Default()
	cfg.MQTTPort, cfg.HTTPSPort, cfg.AMQPPort = 0, 0, 0
	cfg.Logger, cfg.Notice = slog.New(slog.DiscardHandler), func(string) {}
	cfg.Data = v.Dir
	if err := up.Run(t.Context(), cfg); err == nil || !strings.Contains(err.Error(), "--data") {
		t.Errorf("on the same folder: %v", err)
	}
	cfg.Data, cfg.MQTTPort = t.TempDir(), v.Ports.MQTT
	if err := up.Run(t.Context(), cfg); err == nil || !strings.Contains(err.Error(), "--mqtt-port") {
		t.Errorf("on the same port: %v", err)
	}
	v.Device("still-served")
}

// Old firmware has suites that nobody else is served with: 0xC027 wherever devices are, 0x003C over MQTT when the installation is
// started for it.
func TestVauban_OldSuites(t *testing.T) {
	t.Parallel()
	conform.Covers(t, "RTOS-38")
	const oneSuite = "a client that offers one suite"
	for _, static := range []bool{false, true} {
		v := apptest.Start(t, func(c *up.Config) { c.StaticRSA = static })
		d := v.Device("lamp-1")
		offer := func(suite uint16) *tls.Config {
			cfg := v.TLS()
			cfg.MaxVersion, cfg.CipherSuites = tls.VersionTLS12, []uint16{suite}
			return cfg
		}
		for _, tt := range []struct {
			listener string
			port     int
			suite    uint16
			taken    bool
		}{
			{"MQTT", v.Ports.MQTT, tls.TLS_ECDHE_RSA_WITH_AES_128_CBC_SHA256, true},
			{"MQTT", v.Ports.MQTT, tls.TLS_RSA_WITH_AES_128_CBC_SHA256, static},
			{"HTTPS", v.Ports.HTTPS, tls.TLS_ECDHE_RSA_WITH_AES_128_CBC_SHA256, true}, // devices' WebSockets are there
			{"HTTPS", v.Ports.HTTPS, tls.TLS_RSA_WITH_AES_128_CBC_SHA256, false},
			{"AMQP", v.Ports.AMQP, tls.TLS_ECDHE_RSA_WITH_AES_128_CBC_SHA256, false},
			{"AMQP", v.Ports.AMQP, tls.TLS_RSA_WITH_AES_128_CBC_SHA256, false},
			{"AMQP", v.Ports.AMQP, tls.TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256, true},
		} {
			c, err := tls.Dial("tcp", v.Address(tt.port), offer(tt.suite))
			if (err == nil) != tt.taken {
				t.Errorf("static RSA %v, %s: %s, %#x: %v, want taken %v", static, tt.listener, oneSuite, tt.suite, err, tt.taken)
			}
			if err != nil {
				continue
			}
			s := c.ConnectionState()
			c.Close()
			if s.CipherSuite != tt.suite {
				t.Errorf("%s: suite %#x, want %#x", tt.listener, s.CipherSuite, tt.suite)
			}
			for _, x := range s.PeerCertificates {
				if x.SignatureAlgorithm != x509.SHA256WithRSA || x.PublicKeyAlgorithm != x509.RSA {
					t.Errorf("%s, %#x: %s has a %v key, signed with %v; want RSA with SHA-256", tt.listener, tt.suite, x.Subject, x.PublicKeyAlgorithm, x.SignatureAlgorithm)
				}
			}
		}
		if static { // and it is a whole session
			c := mqtttest.Dial(t, v.Address(v.Ports.MQTT), offer(tls.TLS_RSA_WITH_AES_128_CBC_SHA256))
			if _, code := c.Connect(hello(v, d)); code != 0 {
				t.Errorf("CONNACK %d over 0x003C", code)
			}
			c.Publish("devices/lamp-1/messages/events/", []byte("{}"))
			c.Disconnect()
		}
		// On the port that all share, what is for programs, people and the Security Service is not served over them.
		transport := &http.Transport{TLSClientConfig: offer(tls.TLS_ECDHE_RSA_WITH_AES_128_CBC_SHA256)}
		defer transport.CloseIdleConnections()
		for path, refused := range map[string]bool{
			"/": true, "/console/": true, "/api/alerts": true, "/devices?api-version=2021-04-12": true, "/twins/lamp-1?api-version=2021-04-12": true, "/devices/lamp-1?api-version=2021-04-12": true,
			"/enrollments/x?api-version=2021-10-01": true, "/registrations/x?api-version=2021-10-01": true, "/subscriptions/x": true, "/attestation/v1/nonce": true, "/v2/tenants": true,
			"/signin/": true, "/metrics": true, "/healthz": true, "/nothing": true,
			"/devices/lamp-1/messages/deviceBound?api-version=2021-04-12":                false,
			"/" + v.DPS.IDScope + "/registrations/x/operations/y?api-version=2019-03-31": false,
			"/$iothub/websocket": false,
		} {
			r, err := http.NewRequestWithContext(t.Context(), http.MethodGet, "https://"+v.Address(v.Ports.HTTPS)+path, nil)
			if err != nil {
				t.Fatal(err)
			}
			res, err := (&http.Client{Transport: transport}).Do(r)
			if err != nil {
				t.Fatal(err)
			}
			body, _ := io.ReadAll(io.LimitReader(res.Body, 4096))
			res.Body.Close()
			if got := res.StatusCode == http.StatusForbidden && strings.Contains(string(body), "from devices alone"); got != refused {
				t.Errorf("GET %s over 0xC027: %s %s; want refused %v", path, res.Status, body, refused)
			}
		}
		modern := &http.Transport{TLSClientConfig: offer(tls.TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256)}
		defer modern.CloseIdleConnections()
		if res, err := (&http.Client{Transport: modern}).Get("https://" + v.Address(v.Ports.HTTPS) + "/healthz"); err != nil || res.StatusCode != http.StatusOK {
			t.Errorf("healthz over AES-GCM: %v, %v", res, err)
		} else {
			res.Body.Close()
		}
	}
}
