// Package dpstest helps to test provisioning: a hub in memory, certificate
// authorities, and a service on a real store with a clock of its own.
package dpstest

import (
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/json"
	"encoding/pem"
	"log/slog"
	"math/big"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/vauban-iot/vauban/dps"
	"github.com/vauban-iot/vauban/fault"
	"github.com/vauban-iot/vauban/internal/secret"
	"github.com/vauban-iot/vauban/storage/sqlite"
)

// Scope is the id scope of services made here, and Host their hub.
const (
	Scope = "0neABC123"
	Host  = "hub.example.net"
)

// Secret is what services made here make challenges with.
var Secret = secret.New([]byte("a secret of 32 bytes for testing"))

// World is a provisioning service and what it stands on.
type World struct {
	*dps.Service
	Hub   *Hub
	Store dps.Store
	Clock *Clock
}

// New returns a service on an empty SQLite store.
func New(t testing.TB) *World { return NewLogged(t, slog.New(slog.DiscardHandler)) }

// NewLogged is New with a log.
func NewLogged(t testing.TB, log *slog.Logger) *World {
	t.Helper()
	return NewWith(t, func(c *dps.Config) { c.Logger = log })
}

// NewWith is New with a configuration that change has changed.
func NewWith(t testing.TB, change func(*dps.Config)) *World {
	t.Helper()
	dir := t.TempDir()
	sealer, err := secret.OpenSealer(filepath.Join(dir, "master.key"))
	if err != nil {
		t.Fatal(err)
	}
	store, err := sqlite.Open(t.Context(), sqlite.Config{Path: filepath.Join(dir, "state.db"), Sealer: sealer})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { store.Close() })
	w := &World{Hub: NewHub(), Clock: &Clock{now: time.Now().UTC().Truncate(time.Microsecond)}}
	w.Store = store
	cfg := dps.Config{IDScope: Scope, Store: store, Hub: w.Hub, Now: w.Clock.Now, Secret: Secret, Logger: slog.New(slog.DiscardHandler)}
	if change != nil {
		change(&cfg)
	}
	w.Service, err = dps.New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	return w
}

// Clock is a clock that only its owner moves.
type Clock struct {
	mu  sync.Mutex
	now time.Time
}

// Now is its time.
func (c *Clock) Now() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.now
}

// Add moves it.
func (c *Clock) Add(d time.Duration) {
	c.mu.Lock()
	c.now = c.now.Add(d)
	c.mu.Unlock()
}

// Hub is a hub in memory: identities and the twins a service sees.
type Hub struct {
	Name string // empty: Host

	mu      sync.Mutex
	devices map[string]dps.Assignment
	err     error
	gate    chan struct{}
}

// NewHub returns an empty one.
func NewHub() *Hub { return &Hub{devices: make(map[string]dps.Assignment)} }

// Host implements dps.Hub.
func (h *Hub) Host() string {
	if h.Name != "" {
		return h.Name
	}
	return Host
}

// Twin implements dps.Hub.
func (h *Hub) Twin(_ context.Context, id string) (tags, desired json.RawMessage, err error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	a, ok := h.devices[id]
	switch {
	case h.err != nil:
		return nil, nil, h.err
	case !ok:
		return nil, nil, fault.New(fault.NotFound, "no device %s", id)
	}
	return a.Tags, a.Desired, nil
}

// Remove implements dps.Hub.
func (h *Hub) Remove(_ context.Context, id string) error {
	h.mu.Lock()
	defer h.mu.Unlock()
	delete(h.devices, id)
	return h.err
}

// Assign implements dps.Hub as hub.Hub does: an existing twin is left alone unless it is reset.
func (h *Hub) Assign(_ context.Context, a dps.Assignment) (bool, error) {
	h.mu.Lock()
	gate := h.gate
	h.mu.Unlock()
	if gate != nil {
		<-gate
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.err != nil {
		return false, h.err
	}
	old, ok := h.devices[a.DeviceID]
	if ok && !a.ResetTwin {
		a.Tags, a.Desired = old.Tags, old.Desired
	}
	h.devices[a.DeviceID] = a
	return !ok, nil
}

// Device returns what the hub knows of a device.
func (h *Hub) Device(id string) (dps.Assignment, bool) {
	h.mu.Lock()
	defer h.mu.Unlock()
	a, ok := h.devices[id]
	return a, ok
}

// SetTags changes a twin behind provisioning's back.
func (h *Hub) SetTags(id, tags string) {
	h.mu.Lock()
	defer h.mu.Unlock()
	a := h.devices[id]
	a.Tags = []byte(tags)
	h.devices[id] = a
}

// Delete removes a device.
func (h *Hub) Delete(id string) {
	h.mu.Lock()
	defer h.mu.Unlock()
	delete(h.devices, id)
}

// Fail makes every assignment end with err; nil ends that.
func (h *Hub) Fail(err error) {
	h.mu.Lock()
	h.err = err
	h.mu.Unlock()
}

// Hold keeps assignments from ending until the returned func is called.
func (h *Hub) Hold() (release func()) {
	gate := make(chan struct{})
	h.mu.Lock()
	h.gate = gate
	h.mu.Unlock()
	return func() {
		h.mu.Lock()
		h.gate = nil
		h.mu.Unlock()
		close(gate)
	}
}

// Certificate is a certificate with its key and the ones above it.
type Certificate struct {
	*x509.Certificate
	key   crypto.Signer
	above []*x509.Certificate // issuer first, the root last
}

// NewCA returns a root.
func NewCA(t testing.TB, name string) *Certificate { return Signed(t, nil, name, true, nil, nil) }

// SelfSigned returns a device certificate that nobody else signed.
func SelfSigned(t testing.TB, name string) *Certificate { return Signed(t, nil, name, false, nil, nil) }

// CA returns an intermediate of ca.
func (ca *Certificate) CA(t testing.TB, name string) *Certificate {
	return Signed(t, ca, name, true, nil, nil)
}

// Leaf returns a device certificate of ca; change may be nil.
func (ca *Certificate) Leaf(t testing.TB, name string, change func(*x509.Certificate)) *Certificate {
	return Signed(t, ca, name, false, nil, change)
}

// Signed returns a certificate that ca signed, or itself when ca is nil. key may be nil: one of P-256 is made; and so may change.
func Signed(t testing.TB, ca *Certificate, name string, isCA bool, key crypto.Signer, change func(*x509.Certificate)) *Certificate {
	t.Helper()
	if key == nil {
		var err error
		if key, err = ecdsa.GenerateKey(elliptic.P256(), rand.Reader); err != nil {
			t.Fatal(err)
		}
	}
	serial, err := rand.Int(rand.Reader, big.NewInt(1<<62))
	if err != nil {
		t.Fatal(err)
	}
	c := &x509.Certificate{
		SerialNumber: serial, Subject: pkix.Name{CommonName: name},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(24 * time.Hour),
		BasicConstraintsValid: true, IsCA: isCA, KeyUsage: x509.KeyUsageDigitalSignature,
	}
	if isCA {
		c.KeyUsage = x509.KeyUsageCertSign
	}
	if change != nil {
		change(c)
	}
	parent, signer := c, key
	var above []*x509.Certificate
	if ca != nil {
		parent, signer = ca.Certificate, ca.key
		above = append([]*x509.Certificate{ca.Certificate}, ca.above...)
	}
	der, err := x509.CreateCertificate(rand.Reader, c, parent, key.Public(), signer)
	if err != nil {
		t.Fatal(err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	return &Certificate{cert, key, above}
}

// PEM is the certificate alone.
func (c *Certificate) PEM() string {
	return string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: c.Raw}))
}

// Chain is the certificate followed by n of the ones above it.
func (c *Certificate) Chain(n int) []*x509.Certificate {
	return append([]*x509.Certificate{c.Certificate}, c.above[:n]...)
}

// TLS is what a client presents: the certificate with n of the ones above it.
func (c *Certificate) TLS(n int) tls.Certificate {
	t := tls.Certificate{PrivateKey: c.key}
	for _, x := range c.Chain(n) {
		t.Certificate = append(t.Certificate, x.Raw)
	}
	return t
}
