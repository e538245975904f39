package credential_test

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"fmt"
	"log/slog"
	"math/big"
	"strings"
	"testing"
	"time"

	"github.com/vauban-iot/vauban/fault"
	"github.com/vauban-iot/vauban/hub/credential"
	"github.com/vauban-iot/vauban/hub/hubtest"
	"github.com/vauban-iot/vauban/hub/registry"
	"github.com/vauban-iot/vauban/internal/secret"
	"github.com/vauban-iot/vauban/iot"
	"github.com/vauban-iot/vauban/pki"
	"github.com/vauban-iot/vauban/storage/sqlite"
	"github.com/vauban-iot/vauban/storage/sqlstore"
)

// world is a service on a real store.
type world struct {
	*credential.Service
	store *sqlstore.Store
	reg   *registry.Registry
	clock hubtest.Clock
	log   hubtest.Log
	body  []byte

	fail   error // of the issuer
	before func(iot.ID)
	signed int
	*pki.DeviceAuthority
}

// Issue implements credential.Issuer.
func (w *world) Issue(r *x509.CertificateRequest, id, generation string) ([][]byte, error) {
	if w.fail != nil {
		return nil, w.fail
	}
	w.signed++
	chain, err := w.DeviceAuthority.Issue(r, id, generation)
	if f := w.before; f != nil {
		w.before = nil
		f(iot.ID{Device: id})
	}
	return chain, err
}

func open(t *testing.T) *world {
	t.Helper()
	w := &world{}
	dir := t.TempDir()
	sealer, err := secret.OpenSealer(dir + "/key")
	if err != nil {
		t.Fatal(err)
	}
	if w.store, err = sqlite.Open(t.Context(), sqlite.Config{Path: dir + "/state.db", Sealer: sealer}); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { w.store.Close() })
	if w.reg, err = registry.New(registry.Config{Store: w.store}); err != nil {
		t.Fatal(err)
	}
	material, err := pki.NewDeviceAuthority("hub", time.Now())
	if err != nil {
		t.Fatal(err)
	}
	if w.DeviceAuthority, err = pki.OpenDeviceAuthority(material, nil); err != nil {
		t.Fatal(err)
	}
	w.Service = w.another(t)
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	der, err := x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{}, key)
	if err != nil {
		t.Fatal(err)
	}
	w.body = fmt.Appendf(nil, `{"id":"lamp","csr":%q}`, base64.StdEncoding.EncodeToString(der))
	w.device(t, registry.CertificateAuthority)
	return w
}

// another is the service of another server.
func (w *world) another(t *testing.T) *credential.Service {
	t.Helper()
	s, err := credential.New(credential.Config{Store: w.store, Issuer: w, Now: w.clock.Now, Logger: slog.New(&w.log)})
	if err != nil {
		t.Fatal(err)
	}
	return s
}

var lamp = iot.ID{Device: "lamp"}

func (w *world) device(t *testing.T, a registry.AuthType) {
	t.Helper()
	if _, err := w.reg.Create(t.Context(), registry.Identity{ID: lamp, Authentication: registry.Authentication{Type: a}}, nil); err != nil {
		t.Fatal(err)
	}
}

func (w *world) caller() credential.Caller {
	return credential.Caller{ID: lamp, Remote: "192.0.2.1:1", Check: func(ctx context.Context) (registry.Identity, error) { return w.reg.Identity(ctx, lamp) }}
}

func (w *world) begin(t *testing.T, rid string) iot.CertificateOperation {
	t.Helper()
	op, err := w.Begin(t.Context(), w.caller(), rid, w.body, "")
	if err != nil {
		t.Fatal(err)
	}
	return op
}

func (w *world) answer(t *testing.T, s *credential.Service, wantOK bool) (iot.CertificateAnswer, time.Duration) {
	t.Helper()
	a, wait, ok, err := s.Answer(t.Context(), w.caller())
	if err != nil || ok != wantOK {
		t.Fatalf("answer %+v, wait %v, ok %v, error %v; want ok %v", a, wait, ok, err, wantOK)
	}
	return a, wait
}

func TestNew(t *testing.T) {
	t.Parallel()
	if _, err := credential.New(credential.Config{}); err == nil {
		t.Error("a service on nothing was made")
	}
}

// Any server goes on with an operation, and what one issued is what all answer.
func TestAnswer_AnyServer(t *testing.T) {
	t.Parallel()
	w := open(t)
	other := w.another(t)
	if _, wait := w.answer(t, other, false); wait != 0 {
		t.Errorf("without a request: wait %v", wait)
	}
	op := w.begin(t, "rid")
	for _, s := range []*credential.Service{w.Service, other} {
		if _, wait := w.answer(t, s, false); wait <= 0 || wait > credential.DefaultPause {
			t.Errorf("wait %v, want at most %v", wait, credential.DefaultPause)
		}
	}
	if w.signed != 0 {
		t.Error("signed before its time")
	}
	w.clock.Add(credential.DefaultPause)
	first, _ := w.answer(t, other, true)
	again, _ := w.answer(t, w.Service, true)
	if first.CorrelationID != op.CorrelationID || len(first.Certificates) != 3 || string(again.Certificates[0]) != string(first.Certificates[0]) || w.signed != 1 {
		t.Errorf("two servers answer otherwise, after %d signatures", w.signed)
	}
	if err := other.Taken(t.Context(), lamp, op.CorrelationID); err != nil {
		t.Fatal(err)
	}
	w.answer(t, w.Service, false)
}

// Two servers that carry out one operation at a time, because its device moved, issue one certificate.
func TestAnswer_AtOnce(t *testing.T) {
	t.Parallel()
	w := open(t)
	w.begin(t, "rid")
	w.clock.Add(credential.DefaultPause)
	var faster iot.CertificateAnswer
	w.before = func(iot.ID) { faster, _ = w.answer(t, w.another(t), true) }
	slower, _ := w.answer(t, w.Service, true)
	if string(slower.Certificates[0]) != string(faster.Certificates[0]) {
		t.Error("the slower server answers with a certificate that is not kept")
	}
	if n := len(w.log.Lines(slog.LevelInfo, "change")); n != 1 {
		t.Errorf("%d audit records, want 1", n)
	}
}

// A request that was replaced while it was signed leaves nothing behind.
func TestAnswer_ReplacedMeanwhile(t *testing.T) {
	t.Parallel()
	w := open(t)
	w.begin(t, "first")
	w.clock.Add(credential.DefaultPause)
	w.before = func(iot.ID) {
		body := []byte(strings.Replace(string(w.body), "}", `,"replace":"*"}`, 1))
		if _, err := w.Begin(t.Context(), w.caller(), "second", body, ""); err != nil {
			t.Error(err)
		}
	}
	if _, wait := w.answer(t, w.Service, false); wait <= 0 {
		t.Errorf("wait %v, want that of the second request", wait)
	}
	w.clock.Add(credential.DefaultPause)
	if a, _ := w.answer(t, w.Service, true); a.RequestID != "second" {
		t.Errorf("answered %q, want the second request", a.RequestID)
	}
}

// What fails on our side is no answer: the operation stays.
func TestAnswer_IssuerFails(t *testing.T) {
	t.Parallel()
	w := open(t)
	w.begin(t, "rid")
	w.clock.Add(credential.DefaultPause)
	w.fail = errors.New("no entropy")
	if _, _, ok, err := w.Answer(t.Context(), w.caller()); ok || !errors.Is(err, w.fail) {
		t.Errorf("got %v, %v; want the issuer's error", ok, err)
	}
	w.fail = nil
	w.answer(t, w.Service, true)
}

func TestExpiry(t *testing.T) {
	t.Parallel()
	w := open(t)
	w.begin(t, "one")
	if _, err := w.Begin(t.Context(), w.caller(), "two", w.body, ""); !fault.Is(err, fault.AlreadyExists) {
		t.Errorf("a second request: %v", err)
	}
	w.clock.Add(credential.Life - time.Minute)
	if err := w.Expire(t.Context()); err != nil {
		t.Fatal(err)
	}
	w.answer(t, w.Service, true)
	w.clock.Add(time.Minute + time.Second)
	w.answer(t, w.Service, false) // a day is over, though nobody has swept yet
	w.begin(t, "three")
	w.clock.Add(credential.Life + time.Second)
	if err := w.Expire(t.Context()); err != nil {
		t.Fatal(err)
	}
	w.clock.Add(-time.Hour)
	w.answer(t, w.Service, false) // it is really gone
}

// An operation belongs to the device that asked, not to one that gets its id later.
func TestBegin_OfADeviceThatIsGone(t *testing.T) {
	t.Parallel()
	w := open(t)
	w.begin(t, "rid")
	if err := w.reg.Delete(t.Context(), lamp, nil); err != nil {
		t.Fatal(err)
	}
	w.answer(t, w.Service, false)
	if _, err := w.Begin(t.Context(), w.caller(), "rid", w.body, ""); !fault.Is(err, fault.NotFound) {
		t.Errorf("got %v, want not found", err)
	}
	w.device(t, registry.CertificateAuthority)
	w.answer(t, w.Service, false)
	w.begin(t, "rid2")
}

// A thumbprint that is taken away while its holder's request is signed is not replaced by that of the new certificate.
func TestAnswer_ShutOutMeanwhile(t *testing.T) {
	t.Parallel()
	w := open(t)
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(1)}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	shown, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	sum := sha256.Sum256(der)
	known := registry.Authentication{Type: registry.SelfSigned, PrimaryThumbprint: strings.ToUpper(hex.EncodeToString(sum[:]))}
	other := registry.Authentication{Type: registry.SelfSigned, PrimaryThumbprint: strings.Repeat("CD", 32)}
	set := func(a registry.Authentication) {
		t.Helper()
		if _, err := w.reg.Update(t.Context(), lamp, nil, registry.Change{Authentication: &a}); err != nil {
			t.Fatal(err)
		}
	}
	set(known)
	c := w.caller()
	c.Shown = shown
	if _, err := w.Begin(t.Context(), c, "rid", w.body, ""); err != nil {
		t.Fatal(err)
	}
	w.clock.Add(credential.DefaultPause)
	w.before = func(iot.ID) { set(other) }
	a, _, ok, err := w.Answer(t.Context(), c)
	if err != nil || !ok || a.Refusal == "" || a.Certificates != nil {
		t.Errorf("answered %+v, %v, %v; want a refusal", a, ok, err)
	}
	d, err := w.reg.Identity(t.Context(), lamp)
	if err != nil || d.Authentication.PrimaryThumbprint != other.PrimaryThumbprint || d.Authentication.SecondaryThumbprint != "" {
		t.Errorf("the registry holds %+v, %v", d.Authentication, err)
	}
}
