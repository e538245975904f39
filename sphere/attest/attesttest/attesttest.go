// Package attesttest is what attestation stands on, in memory, for tests of whoever talks to it.
package attesttest

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"log/slog"
	"math/big"
	"sync"
	"testing"
	"time"

	"github.com/vauban-iot/vauban/fault"
	"github.com/vauban-iot/vauban/internal/secret"
	"github.com/vauban-iot/vauban/sphere/attest"
	"github.com/vauban-iot/vauban/wire/attestation"
)

// World is a service and all it stands on. Its fields may be changed between requests.
type World struct {
	*attest.Service

	mu         sync.Mutex
	devices    map[string]attest.Device
	verdict    attest.Verdict
	records    map[string]attest.Record
	suspicions []attest.Suspicion
	issued     []attest.Request
	events     map[string][]attestation.Event
	refuse     error // uploads of events
	ahead      time.Duration
	ca         map[attest.Kind]*ecdsa.PrivateKey
	caCert     map[attest.Kind]*x509.Certificate
}

// New returns a world in which nobody is known and all software is good.
func New(t testing.TB) *World {
	t.Helper()
	w := &World{
		devices: map[string]attest.Device{}, verdict: attest.Verdict{Trusted: true, Current: true}, records: map[string]attest.Record{},
		events: map[string][]attestation.Event{}, ca: map[attest.Kind]*ecdsa.PrivateKey{}, caCert: map[attest.Kind]*x509.Certificate{},
	}
	for _, kind := range []attest.Kind{attest.Client, attest.Update} {
		key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
		if err != nil {
			t.Fatal(err)
		}
		template := &x509.Certificate{
			SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: string(kind)}, NotBefore: time.Unix(0, 0), NotAfter: time.Unix(1<<33, 0),
			IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign,
		}
		der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
		if err != nil {
			t.Fatal(err)
		}
		w.ca[kind] = key
		if w.caCert[kind], err = x509.ParseCertificate(der); err != nil {
			t.Fatal(err)
		}
	}
	var err error
	w.Service, err = attest.New(attest.Config{
		Devices: w, Policy: w, Issuer: w, Store: w, Alarm: w, Secret: secret.New(bytes.Repeat([]byte{7}, 32)), Now: w.Now, Logger: slog.New(slog.DiscardHandler),
	})
	if err != nil {
		t.Fatal(err)
	}
	return w
}

// Now is the service's time.
func (w *World) Now() time.Time {
	w.mu.Lock()
	defer w.mu.Unlock()
	return time.Now().Add(w.ahead)
}

// SetAhead puts the service's clock ahead of the machine's.
func (w *World) SetAhead(d time.Duration) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.ahead = d
}

// Add makes a device known.
func (w *World) Add(d attest.Device) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.devices[d.ID] = d
}

// SetVerdict is what is said of all software from now on.
func (w *World) SetVerdict(v attest.Verdict) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.verdict = v
}

// RefuseEvents makes uploads fail; nil: they work again.
func (w *World) RefuseEvents(err error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.refuse = err
}

// Issued are the requests for certificates so far.
func (w *World) Issued() []attest.Request {
	w.mu.Lock()
	defer w.mu.Unlock()
	return append([]attest.Request(nil), w.issued...)
}

// Suspicions are those so far.
func (w *World) Suspicions() []attest.Suspicion {
	w.mu.Lock()
	defer w.mu.Unlock()
	return append([]attest.Suspicion(nil), w.suspicions...)
}

// Events are what a device uploaded.
func (w *World) Events(device string) []attestation.Event {
	w.mu.Lock()
	defer w.mu.Unlock()
	return append([]attestation.Event(nil), w.events[device]...)
}

// CA is the certificate of an issuer.
func (w *World) CA(kind attest.Kind) *x509.Certificate { return w.caCert[kind] }

// Device implements attest.Devices.
func (w *World) Device(_ context.Context, id string) (attest.Device, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	d, ok := w.devices[id]
	if !ok {
		return d, fault.New(fault.NotFound, "no such device")
	}
	return d, nil
}

// Judge implements attest.Policy.
func (w *World) Judge(context.Context, attest.Device, string, []attestation.Image) (attest.Verdict, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.verdict, nil
}

// Issue implements attest.Issuer.
func (w *World) Issue(_ context.Context, r attest.Request) (attest.Issued, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.issued = append(w.issued, r)
	template := &x509.Certificate{
		SerialNumber: big.NewInt(2), Subject: pkix.Name{CommonName: r.Device.ID}, NotBefore: r.NotBefore, NotAfter: r.NotAfter,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth},
	}
	der, err := x509.CreateCertificate(rand.Reader, template, w.caCert[r.Kind], r.Key, w.ca[r.Kind])
	return attest.Issued{PEM: pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), NotAfter: r.NotAfter}, err
}

// Suspect implements attest.Alarm.
func (w *World) Suspect(_ context.Context, s attest.Suspicion) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.suspicions = append(w.suspicions, s)
}

// Attestation implements attest.Store.
func (w *World) Attestation(_ context.Context, device string) (attest.Record, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	r, ok := w.records[device]
	if !ok {
		return r, fault.New(fault.NotFound, "no such record")
	}
	return r, nil
}

// PutAttestation implements attest.Store.
func (w *World) PutAttestation(_ context.Context, device string, change func(*attest.Record) (attest.Record, error)) (attest.Record, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	var now *attest.Record
	if r, ok := w.records[device]; ok {
		now = &r
	}
	next, err := change(now)
	if err == nil {
		w.records[device] = next
	}
	return next, err
}

// DeleteAttestation implements attest.Store.
func (w *World) DeleteAttestation(_ context.Context, device string) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	delete(w.records, device)
	return nil
}

// UpdateDevice is the device of an update certificate.
func (w *World) UpdateDevice(_ context.Context, chain []*x509.Certificate) (string, error) {
	if err := chain[0].CheckSignatureFrom(w.caCert[attest.Update]); err != nil || w.Now().After(chain[0].NotAfter) {
		return "", fault.New(fault.Unauthorized, "no update certificate")
	}
	return chain[0].Subject.CommonName, nil
}

// Report takes error events.
func (w *World) Report(_ context.Context, device string, events []attestation.Event) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.refuse != nil {
		return w.refuse
	}
	w.events[device] = append(w.events[device], events...)
	return nil
}
