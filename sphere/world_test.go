package sphere_test

import (
	"bytes"
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/json"
	"log/slog"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/vauban-iot/vauban/fault"
	"github.com/vauban-iot/vauban/internal/secret"
	"github.com/vauban-iot/vauban/sphere"
	"github.com/vauban-iot/vauban/sphere/claim"
	"github.com/vauban-iot/vauban/sphere/deviceid"
	"github.com/vauban-iot/vauban/storage/sqlite"
	"github.com/vauban-iot/vauban/storage/sqlstore"
)

// start is when tests begin.
var start = time.Date(2026, 3, 10, 12, 0, 0, 0, time.UTC)

// world is a Security Service over a real store, with a clock of its own.
type world struct {
	t     testing.TB
	store *sqlstore.Store
	*sphere.Service
	device sphere.DeviceSide
	audit  *bytes.Buffer
	log    *slog.Logger // writes audit; one for all servers

	mu  sync.Mutex
	now time.Time
}

func (w *world) clock() time.Time {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.now
}

func (w *world) sleep(d time.Duration) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.now = w.now.Add(d)
}

func newWorld(t testing.TB) *world {
	t.Helper()
	dir := t.TempDir()
	sealer, err := secret.OpenSealer(filepath.Join(dir, "master.key"))
	if err != nil {
		t.Fatal(err)
	}
	store, err := sqlite.Open(context.Background(), sqlite.Config{Path: filepath.Join(dir, "state.db"), Sealer: sealer})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { store.Close() })
	w := &world{t: t, store: store, now: start, audit: new(bytes.Buffer)}
	w.log = slog.New(slog.NewJSONHandler(w.audit, nil))
	w.Service = w.another()
	w.device = w.DeviceSide()
	return w
}

// another is a second server over the same store.
func (w *world) another() *sphere.Service {
	w.t.Helper()
	s, err := sphere.New(context.Background(), sphere.Config{
		Store: w.store, Installation: "hub.example", Now: w.clock, Logger: w.log,
	})
	if err != nil {
		w.t.Fatal(err)
	}
	return s
}

func ctxOf(w *world) context.Context { return w.t.Context() }

func ok(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// must returns v, or ends the test.
func must[T any](v T, err error) func(t testing.TB) T {
	return func(t testing.TB) T {
		t.Helper()
		ok(t, err)
		return v
	}
}

func wantKind(t testing.TB, what string, err error, k fault.Kind) {
	t.Helper()
	if !fault.Is(err, k) {
		t.Errorf("%s: got error %v (%v), want kind %q", what, err, fault.KindOf(err), k)
	}
}

var ann, bob = sphere.Caller{Subject: "ann@example.org"}, sphere.Caller{Subject: "bob@example.net"}

// root is an administrator of the installation.
var root = sphere.Caller{Subject: "root", Admin: true}

func (w *world) tenant(c sphere.Caller) string {
	w.t.Helper()
	return must(w.CreateTenant(ctxOf(w), c, "Contoso"))(w.t).ID
}

// newKey is a device's key with what hangs from it.
type deviceKey struct {
	crypto.Signer
	id  string
	der []byte
}

func newKey(t testing.TB) deviceKey {
	t.Helper()
	k := must(ecdsa.GenerateKey(elliptic.P256(), rand.Reader))(t)
	return deviceKey{k, must(deviceid.Of(k.Public()))(t), must(x509.MarshalPKIXPublicKey(k.Public()))(t)}
}

// proof is what a device with this key answers to a challenge that c asked for.
func (w *world) proof(c sphere.Caller, tenant string, k deviceKey) sphere.Proof {
	w.t.Helper()
	challenge := must(w.ClaimChallenge(ctxOf(w), c, tenant))(w.t)
	return sphere.Proof{Challenge: challenge, PublicKey: k.der, Signature: must(claim.Sign(k, challenge))(w.t), ChipSKU: "MT3620AN"}
}

// claimed claims a new device.
func (w *world) claimed(c sphere.Caller, tenant, group string) (sphere.Device, deviceKey) {
	w.t.Helper()
	k := newKey(w.t)
	d, fresh, err := w.Claim(ctxOf(w), c, tenant, w.proof(c, tenant, k), group)
	ok(w.t, err)
	if !fresh {
		w.t.Fatal("a new device was claimed before")
	}
	return d, k
}

// audited returns the audit's records of an operation.
func (w *world) audited(operation string) (records []map[string]any) {
	for line := range bytes.Lines(w.audit.Bytes()) {
		var r map[string]any
		if err := json.Unmarshal(line, &r); err != nil {
			w.t.Fatal(err)
		}
		if r["audit"] == true && r["what"] == "sphere "+operation {
			records = append(records, r)
		}
	}
	return records
}

func ptr[T any](v T) *T { return &v }
