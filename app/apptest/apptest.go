// Package apptest runs a whole Vauban inside a test: every listener on a free port of
// loopback, every store real, everything kept in a folder that goes with the test. It is to
// Vauban what net/http/httptest is to an HTTP server.
//
//	v := apptest.Start(t)
//	device, err := v.Service().CreateDevice(t.Context(), service.Device{ID: "lamp-1"})
//
// A package that uses it calls [Main] from its TestMain, which finds what a Vauban left running.
package apptest

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/base64"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"os"
	"strconv"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/vauban-iot/vauban/app/up"
	"github.com/vauban-iot/vauban/hub/hubtest"
	"github.com/vauban-iot/vauban/sdk/service"
	"github.com/vauban-iot/vauban/wire/sas"
)

// Vauban is one running installation.
type Vauban struct {
	up.Connection
	Dir   string         // the data folder
	Roots *x509.CertPool // what devices and programs trust
	Log   *hubtest.Log

	t      testing.TB
	cfg    up.Config
	cancel context.CancelFunc // nil: stopped
	done   chan error
}

// Option changes the configuration of a Vauban before it starts.
type Option func(*up.Config)

// Main is for TestMain: it runs the tests and fails when goroutines outlive them.
func Main(m *testing.M) {
	code := m.Run()
	if err := goleak.Find(); code == 0 && err != nil {
		fmt.Fprintln(os.Stderr, err)
		code = 1
	}
	os.Exit(code)
}

// startTimeout and stopTimeout are generous: machines that run tests are busy.
const (
	startTimeout = 60 * time.Second
	stopTimeout  = 30 * time.Second
)

// Start runs a Vauban until the test ends, and waits until all its listeners answer.
func Start(t testing.TB, opts ...Option) *Vauban {
	t.Helper()
	cfg := up.Default()
	cfg.Data = t.TempDir()
	cfg.MQTTPort, cfg.HTTPSPort, cfg.AMQPPort = 0, 0, 0
	cfg.Version = "test"
	cfg.Notice = func(text string) { t.Log(text) }
	v := &Vauban{t: t, Log: &hubtest.Log{}}
	cfg.Logger = slog.New(v.Log)
	for _, o := range opts {
		o(&cfg)
	}
	v.cfg, v.Dir = cfg, cfg.Data
	t.Cleanup(func() {
		v.Stop()
		if !t.Failed() {
			return
		}
		for _, line := range v.Log.Lines(slog.LevelInfo, "") {
			t.Log(line.Level, line.Text)
		}
	})
	v.Start()
	return v
}

// Start starts a stopped Vauban again, on the same data and ports.
func (v *Vauban) Start() {
	v.t.Helper()
	if v.cancel != nil {
		v.t.Fatal("apptest: it runs already")
	}
	ready := make(chan up.Connection, 1)
	cfg := v.cfg
	cfg.Ready = func(c up.Connection) error { ready <- c; return nil }
	ctx, cancel := context.WithCancel(context.Background())
	v.done = make(chan error, 1)
	go func() { v.done <- up.Run(ctx, cfg) }()
	select {
	case v.Connection = <-ready:
	case err := <-v.done:
		cancel()
		v.t.Fatalf("vauban did not start: %v", err)
	case <-time.After(startTimeout):
		cancel()
		v.t.Fatalf("vauban did not start within %v", startTimeout)
	}
	v.cancel = cancel
	v.cfg.MQTTPort, v.cfg.HTTPSPort, v.cfg.AMQPPort = v.Ports.MQTT, v.Ports.HTTPS, v.Ports.AMQP
	root, err := os.ReadFile(v.CA)
	if err != nil {
		v.t.Fatal(err)
	}
	v.Roots = x509.NewCertPool()
	if !v.Roots.AppendCertsFromPEM(root) {
		v.t.Fatalf("%s holds no certificate", v.CA)
	}
}

// Stop stops it as Ctrl-C does and waits until it is gone. A stopped one stays stopped.
func (v *Vauban) Stop() {
	v.t.Helper()
	if v.cancel == nil {
		return
	}
	v.cancel()
	v.cancel = nil
	select {
	case err := <-v.done:
		if err != nil {
			v.t.Errorf("vauban ended with %v", err)
		}
	case <-time.After(stopTimeout):
		v.t.Fatalf("vauban did not stop within %v", stopTimeout)
	}
}

// Restart stops it and starts it again.
func (v *Vauban) Restart() {
	v.t.Helper()
	v.Stop()
	v.Start()
}

// TLS is what a client trusts.
func (v *Vauban) TLS() *tls.Config {
	return &tls.Config{RootCAs: v.Roots, ServerName: v.Hub.Hostname, MinVersion: tls.VersionTLS12}
}

// Address is where a port of [up.Ports] answers.
func (v *Vauban) Address(port int) string {
	return net.JoinHostPort(v.cfg.Listen, strconv.Itoa(port))
}

// Service is a client of the service API with all rights.
func (v *Vauban) Service() *service.Client {
	v.t.Helper()
	c, err := service.New(service.Config{ConnectionString: v.Hub.ConnectionString, TLS: v.TLS(), Address: v.Address(v.Ports.HTTPS)})
	if err != nil {
		v.t.Fatal(err)
	}
	return c
}

// HTTP is a client for the console and the operator's API.
func (v *Vauban) HTTP() *http.Client {
	transport := &http.Transport{TLSClientConfig: v.TLS()}
	v.t.Cleanup(transport.CloseIdleConnections)
	return &http.Client{Transport: transport}
}

// Device creates a device with keys.
func (v *Vauban) Device(id string) service.Identity {
	v.t.Helper()
	d, err := v.Service().CreateDevice(v.t.Context(), service.Device{ID: id})
	if err != nil {
		v.t.Fatal(err)
	}
	return d
}

// Token is a device's own token, good for an hour.
func (v *Vauban) Token(d service.Identity) string {
	v.t.Helper()
	key, err := base64.StdEncoding.DecodeString(d.Authentication.SymmetricKey.PrimaryKey)
	if err != nil || len(key) == 0 {
		v.t.Fatal(errors.Join(errors.New("apptest: the device has no key"), err))
	}
	return sas.Sign(v.Hub.Hostname+"/devices/"+d.DeviceID, key, time.Now().Add(time.Hour), "")
}
