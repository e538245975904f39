package attest_test

import (
	"bytes"
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha512"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/hex"
	"encoding/json"
	"encoding/pem"
	"errors"
	"log/slog"
	"math/big"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-tpm/tpm2/transport/linuxudstpm"

	"github.com/vauban-iot/vauban/fault"
	"github.com/vauban-iot/vauban/internal/conform"
	"github.com/vauban-iot/vauban/internal/secret"
	"github.com/vauban-iot/vauban/sphere/agent/tpmkey"
	"github.com/vauban-iot/vauban/sphere/attest"
	"github.com/vauban-iot/vauban/wire/attestation"
	"github.com/vauban-iot/vauban/wire/tpm/tpmtest"
)

var start = time.Date(2026, 5, 1, 12, 0, 0, 0, time.UTC)

var (
	osImage  = attestation.Image{Component: "00000000-0000-0000-0000-000000000001", ID: "00000000-0000-0000-0000-0000000000a1", SHA256: strings.Repeat("a1", 32)}
	appImage = attestation.Image{Component: "00000000-0000-0000-0000-000000000002", ID: "00000000-0000-0000-0000-0000000000b1", SHA256: strings.Repeat("b1", 32)}
)

// world is a service and all it stands on.
type world struct {
	*attest.Service
	mu         sync.Mutex
	now        time.Time
	random     float64
	devices    map[string]attest.Device
	verdict    attest.Verdict
	records    map[string]attest.Record
	suspicions []attest.Suspicion
	fail       error
	issued     []attest.Request
	ca         map[attest.Kind]*ecdsa.PrivateKey
	caCert     map[attest.Kind]*x509.Certificate
}

func newWorld(t testing.TB) *world {
	t.Helper()
	w := &world{now: start, random: 0.5, devices: map[string]attest.Device{}, verdict: attest.Verdict{Trusted: true, Current: true},
		records: map[string]attest.Record{}, ca: map[attest.Kind]*ecdsa.PrivateKey{}, caCert: map[attest.Kind]*x509.Certificate{}}
	for _, kind := range []attest.Kind{attest.Client, attest.Update} {
		key := newKey(t)
		template := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: string(kind)}, NotBefore: start.Add(-time.Hour),
			NotAfter: start.AddDate(1, 0, 0), IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign}
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
		Devices: w, Policy: w, Issuer: w, Store: w, Alarm: w, Secret: secret.New(bytes.Repeat([]byte{7}, 32)),
		Now: func() time.Time { return w.now }, Random: func() float64 { return w.random }, Logger: slog.New(slog.DiscardHandler),
	})
	if err != nil {
		t.Fatal(err)
	}
	return w
}

func (w *world) Device(_ context.Context, id string) (attest.Device, error) {
	if w.fail != nil {
		return attest.Device{}, w.fail
	}
	d, ok := w.devices[id]
	if !ok {
		return d, fault.New(fault.NotFound, "no such device")
	}
	return d, nil
}

func (w *world) Judge(context.Context, attest.Device, string, []attestation.Image) (attest.Verdict, error) {
	return w.verdict, nil
}

func (w *world) Issue(_ context.Context, r attest.Request) (attest.Issued, error) {
	w.issued = append(w.issued, r)
	template := &x509.Certificate{SerialNumber: big.NewInt(2), Subject: pkix.Name{CommonName: r.Device.ID}, NotBefore: r.NotBefore, NotAfter: r.NotAfter}
	der, err := x509.CreateCertificate(rand.Reader, template, w.caCert[r.Kind], r.Key, w.ca[r.Kind])
	return attest.Issued{PEM: pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), NotAfter: r.NotAfter}, err
}

func (w *world) Suspect(_ context.Context, s attest.Suspicion) {
	w.suspicions = append(w.suspicions, s)
}

func (w *world) Attestation(_ context.Context, device string) (attest.Record, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	r, ok := w.records[device]
	if !ok {
		return r, fault.New(fault.NotFound, "no such record")
	}
	return r, nil
}

func (w *world) PutAttestation(_ context.Context, device string, change func(*attest.Record) (attest.Record, error)) (attest.Record, error) {
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

func (w *world) DeleteAttestation(_ context.Context, device string) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	delete(w.records, device)
	return nil
}

func newKey(t testing.TB) *ecdsa.PrivateKey {
	t.Helper()
	k, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return k
}

func spki(t testing.TB, k crypto.PublicKey) []byte {
	t.Helper()
	der, err := x509.MarshalPKIXPublicKey(k)
	if err != nil {
		t.Fatal(err)
	}
	return der
}

// board is a device, with all that a test wants to do wrong.
type board struct {
	t              testing.TB
	w              *world
	id             string
	key            crypto.Signer
	client, update crypto.Signer
	tpm            *tpmkey.Key
	boot, sequence uint64
	bootID         string
	images         []attestation.Image
}

func (w *world) board(t testing.TB, key crypto.Signer) *board {
	der := spki(t, key.Public())
	sum := sha512.Sum512(der)
	b := &board{t: t, w: w, id: hex.EncodeToString(sum[:]), key: key, client: newKey(t), update: newKey(t), boot: 1, bootID: strings.Repeat("0a", 16),
		images: []attestation.Image{osImage, appImage}}
	w.devices[b.id] = attest.Device{ID: b.id, PublicKey: der, Tenant: "tenant", Enabled: true}
	return b
}

// tpmBoard is a board with a TPM of its own, which measured its images.
func (w *world) tpmBoard(t testing.TB) *board {
	t.Helper()
	dev, err := linuxudstpm.Open(tpmtest.Socket(t))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { dev.Close() })
	k, err := tpmkey.Open(dev)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { k.Close() })
	b := w.board(t, k)
	b.tpm = k
	ek, err := k.EndorsementKey()
	if err != nil {
		t.Fatal(err)
	}
	d := w.devices[b.id]
	if d.EndorsementKey, err = attestation.EndorsementHash(ek); err != nil {
		t.Fatal(err)
	}
	w.devices[b.id] = d
	if err := k.Measure(b.images...); err != nil {
		t.Fatal(err)
	}
	if b.boot, err = k.BootCounter(); err != nil {
		t.Fatal(err)
	}
	return b
}

func marshal(t testing.TB, v any) []byte {
	t.Helper()
	b, err := json.Marshal(v)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// nonce asks for one; a little time passes before and after.
func (b *board) nonce() (attestation.NonceReply, error) {
	b.w.now = b.w.now.Add(time.Millisecond)
	q := attestation.NonceRequest{Version: 1, DeviceID: b.id}
	if b.tpm != nil {
		keys, err := b.tpm.Keys()
		if err != nil {
			b.t.Fatal(err)
		}
		q.TPM = &keys
	}
	return b.w.Nonce(b.t.Context(), marshal(b.t, q))
}

// statement is a good one for a new nonce.
func (b *board) statement() attestation.Statement {
	b.t.Helper()
	n, err := b.nonce()
	if err != nil {
		b.t.Fatal(err)
	}
	b.sequence++
	st := attestation.Statement{
		Version: 1, Kind: attestation.Software, DeviceID: b.id, Nonce: n.Nonce, Time: n.ServerTime, BootCounter: b.boot, BootID: b.bootID, Sequence: b.sequence,
		OSVersion: "26.11", Images: b.images, State: "DeviceComplete", Capabilities: []uint32{11},
		DeviceKey: spki(b.t, b.key.Public()), ClientKey: spki(b.t, b.client.Public()), UpdateKey: spki(b.t, b.update.Public()),
	}
	if b.tpm != nil {
		st.Kind = attestation.TPM
		if st.Credential, err = b.tpm.Activate(*n.Credential); err != nil {
			b.t.Fatal(err)
		}
	}
	return st
}

func (b *board) prove(st attestation.Statement) attestation.Evidence {
	b.t.Helper()
	e := attestation.Evidence{Version: 1, Statement: marshal(b.t, st)}
	var err error
	for _, s := range []struct {
		role string
		key  crypto.Signer
		to   *[]byte
	}{{attestation.RoleDevice, b.key, &e.Device}, {attestation.RoleClient, b.client, &e.Client}, {attestation.RoleUpdate, b.update, &e.Update}} {
		if *s.to, err = attestation.Sign(s.key, s.role, e.Statement); err != nil {
			b.t.Fatal(err)
		}
	}
	if b.tpm != nil {
		keys, err := b.tpm.Keys()
		if err != nil {
			b.t.Fatal(err)
		}
		e.TPM = &attestation.TPMQuoted{Attestation: keys.Attestation}
		if e.TPM.Quote, e.TPM.Signature, err = b.tpm.Quote(attestation.QualifyingData(e.Statement)); err != nil {
			b.t.Fatal(err)
		}
	}
	return e
}

func (b *board) send(e attestation.Evidence) (attestation.Reply, error) {
	b.w.now = b.w.now.Add(time.Millisecond)
	return b.w.Attest(b.t.Context(), marshal(b.t, e), "192.0.2.1:1")
}

func (b *board) attest() (attestation.Reply, error) {
	b.t.Helper()
	return b.send(b.prove(b.statement()))
}

func wantCode(t testing.TB, err error, want attest.Code) *attest.Refusal {
	t.Helper()
	r, ok := errors.AsType[*attest.Refusal](err)
	if !ok || r.Code != want {
		t.Fatalf("got %v, want the refusal %s", err, want)
	}
	return r
}

func leaf(t testing.TB, c *attestation.Certificate) *x509.Certificate {
	t.Helper()
	if c == nil {
		t.Fatal("a certificate is missing")
	}
	block, _ := pem.Decode([]byte(c.PEM))
	cert, err := x509.ParseCertificate(block.Bytes)
	if err != nil {
		t.Fatal(err)
	}
	return cert
}

// Both kinds of evidence bring two certificates, each for its key and below its CA, and only after the software was judged.
func TestAttest(t *testing.T) {
	conform.Covers(t, "SPH-11")
	for _, kind := range []string{attestation.Software, attestation.TPM} {
		t.Run(kind, func(t *testing.T) {
			w := newWorld(t)
			b := w.board(t, newKey(t))
			if kind == attestation.TPM {
				b = w.tpmBoard(t)
			}
			r, err := b.attest()
			if err != nil {
				t.Fatal(err)
			}
			for _, c := range []struct {
				kind attest.Kind
				got  *attestation.Certificate
				key  crypto.Signer
			}{{attest.Client, r.Client, b.client}, {attest.Update, r.Update, b.update}} {
				cert := leaf(t, c.got)
				if err := cert.CheckSignatureFrom(w.caCert[c.kind]); err != nil {
					t.Errorf("%s certificate: %v", c.kind, err)
				}
				if !c.key.Public().(*ecdsa.PublicKey).Equal(cert.PublicKey) || cert.Subject.CommonName != b.id {
					t.Errorf("the %s certificate is for another key or %q", c.kind, cert.Subject)
				}
				if life := cert.NotAfter.Sub(w.now); life < 23*time.Hour || life > 24*time.Hour || !c.got.NotAfter.Equal(w.now.Add(24*time.Hour)) {
					t.Errorf("the %s certificate lives %s", c.kind, life)
				}
			}
			rec := w.records[b.id]
			if rec.Outcome != attest.Full || rec.OSVersion != "26.11" || len(rec.Images) != 2 || rec.State != "DeviceComplete" || len(rec.Capabilities) != 1 || rec.Kind != kind {
				t.Errorf("the record is %+v", rec)
			}
			if _, err := b.attest(); err != nil { // and again in the same start
				t.Fatal(err)
			}

			w.verdict = attest.Verdict{Trusted: false, Reason: "image x is unknown"}
			refusal := wantCode(t, second(b.attest()), attest.UnknownSoftware)
			if refusal.Public != "image x is unknown" || refusal.RetryAfter == 0 || len(w.issued) != 4 {
				t.Errorf("refused with %+v after %d certificates", refusal, len(w.issued))
			}
			if got := w.records[b.id].Outcome; got != attest.Refused {
				t.Errorf("the inventory sees %q", got)
			}
		})
	}
}

func second[T any](_ T, err error) error { return err }

// Software that is older than allowed brings the update certificate alone. When to come back differs from device to device.
func TestAttest_Outdated(t *testing.T) {
	conform.Covers(t, "SPH-12")
	w := newWorld(t)
	b := w.board(t, newKey(t))
	w.verdict = attest.Verdict{Trusted: true, Reason: "older than 26.12"}
	r, err := b.attest()
	if err != nil {
		t.Fatal(err)
	}
	if r.Client != nil || r.Update == nil || r.ClientRefused == nil || *r.ClientRefused != (attestation.Error{Code: "SoftwareOutdated", Message: "older than 26.12"}) {
		t.Errorf("got %+v", r)
	}
	if len(w.issued) != 1 || w.issued[0].Kind != attest.Update || w.records[b.id].Outcome != attest.UpdateOnly {
		t.Errorf("issued %+v", w.issued)
	}
	for random, want := range map[float64]time.Duration{0: 9*time.Hour + 36*time.Minute, 0.5: 12 * time.Hour, 0.999999: 14*time.Hour + 24*time.Minute} {
		w.random = random
		r, err := b.attest()
		if err != nil {
			t.Fatal(err)
		}
		if got := r.RenewAfter.Sub(w.now); got.Round(time.Minute) != want {
			t.Errorf("with random %v it comes back after %s, want %s", random, got, want)
		}
	}
}

func TestAttest_Refuses(t *testing.T) {
	type step struct {
		w *world
		b *board
	}
	for _, test := range []struct {
		name      string
		before    func(step)                         // before the nonce
		statement func(step, *attestation.Statement) // before it is signed
		evidence  func(step, *attestation.Evidence)  // after
		body      func([]byte) []byte                // of the request
		after     func(step)                         // before it is sent
		want      attest.Code
		kind      fault.Kind
		retries   bool
	}{
		{name: "no JSON", body: func([]byte) []byte { return []byte("{") }, want: attest.Malformed, kind: fault.Malformed},
		{name: "something behind the JSON", body: func(b []byte) []byte { return append(b, '1') }, want: attest.Malformed, kind: fault.Malformed},
		{name: "an unknown member", body: func(b []byte) []byte { return append([]byte(`{"x":1,`), b[1:]...) }, want: attest.Malformed, kind: fault.Malformed},
		{name: "too long", body: func(b []byte) []byte { return append(b, make([]byte, attestation.MaxEvidence)...) }, want: attest.Malformed, kind: fault.Malformed},
		{name: "a statement that is too long", evidence: func(_ step, e *attestation.Evidence) {
			e.Statement = append(e.Statement, bytes.Repeat([]byte{' '}, attestation.MaxStatement)...)
		}, want: attest.Malformed, kind: fault.Malformed},
		{name: "another version", body: func(b []byte) []byte { return bytes.Replace(b, []byte(`"version":1`), []byte(`"version":2`), 1) }, want: attest.UnsupportedVersion, kind: fault.Invalid},
		{name: "another version of the statement", statement: func(_ step, st *attestation.Statement) { st.Version = 9 }, want: attest.UnsupportedVersion, kind: fault.Invalid},
		{name: "an unknown kind", statement: func(_ step, st *attestation.Statement) { st.Kind = "trust me" }, want: attest.Malformed, kind: fault.Malformed},
		{name: "no boot counter", statement: func(_ step, st *attestation.Statement) { st.BootCounter = 0 }, want: attest.Malformed, kind: fault.Malformed},
		{name: "no version of the OS", statement: func(_ step, st *attestation.Statement) { st.OSVersion = "26.x" }, want: attest.Malformed, kind: fault.Malformed},
		{name: "a component twice", statement: func(_ step, st *attestation.Statement) { st.Images = append(st.Images, st.Images[0]) }, want: attest.Malformed, kind: fault.Malformed},
		{name: "129 images", statement: func(_ step, st *attestation.Statement) { st.Images = make([]attestation.Image, 129) }, want: attest.Malformed, kind: fault.Malformed},
		{name: "a hash that is none", statement: func(_ step, st *attestation.Statement) {
			st.Images = []attestation.Image{{Component: osImage.Component, ID: osImage.ID, SHA256: "00"}}
		}, want: attest.Malformed, kind: fault.Malformed},

		{name: "a nonce of one's own", statement: func(_ step, st *attestation.Statement) { st.Nonce = strings.Repeat("A", 76) }, want: attest.NonceInvalid, kind: fault.Unauthorized},
		{name: "the nonce of another device", statement: func(s step, st *attestation.Statement) {
			n, err := s.w.board(s.b.t, newKey(s.b.t)).nonce()
			if err != nil {
				s.b.t.Fatal(err)
			}
			st.Nonce = n.Nonce
		}, want: attest.NonceInvalid, kind: fault.Unauthorized},
		{name: "a nonce with a later time", statement: func(_ step, st *attestation.Statement) { st.Nonce = st.Nonce[:8] + "zz" + st.Nonce[10:] }, want: attest.NonceInvalid, kind: fault.Unauthorized},
		{name: "an old nonce", after: func(s step) { s.w.now = s.w.now.Add(5 * time.Minute) }, want: attest.NonceExpired, kind: fault.Unauthorized},
		{name: "a server whose clock went back", after: func(s step) { s.w.now = s.w.now.Add(-time.Minute) }, want: attest.NonceExpired, kind: fault.Unauthorized},

		{name: "a device nobody knows", after: func(s step) { delete(s.w.devices, s.b.id) }, want: attest.UnknownDevice, kind: fault.Forbidden},
		{name: "evidence of another device", statement: func(s step, st *attestation.Statement) {
			// All is right, but who signs is another who is known, too.
			thief := s.w.board(s.b.t, newKey(s.b.t))
			s.b.key = thief.key
			st.DeviceKey = spki(s.b.t, thief.key.Public())
		}, want: attest.WrongKey, kind: fault.Forbidden},
		{name: "a signature with another key", statement: func(s step, _ *attestation.Statement) { s.b.key = newKey(s.b.t) }, want: attest.BadSignature, kind: fault.Unauthorized},
		{name: "a broken signature of the device", evidence: func(_ step, e *attestation.Evidence) { e.Device[len(e.Device)-1] ^= 1 }, want: attest.BadSignature, kind: fault.Unauthorized},
		{name: "a signature that is none", evidence: func(_ step, e *attestation.Evidence) { e.Device = []byte{0x30, 0x06, 2, 1, 0, 2, 1, 0} }, want: attest.BadSignature, kind: fault.Unauthorized},
		{name: "a client key that is not held", evidence: func(_ step, e *attestation.Evidence) { e.Client = e.Device }, want: attest.BadSignature, kind: fault.Unauthorized},
		{name: "an update key that is not held", evidence: func(_ step, e *attestation.Evidence) { e.Update = e.Client }, want: attest.BadSignature, kind: fault.Unauthorized},
		{name: "a statement that was changed", evidence: func(_ step, e *attestation.Evidence) {
			e.Statement = bytes.Replace(e.Statement, []byte("26.11"), []byte("26.12"), 1)
		}, want: attest.BadSignature, kind: fault.Unauthorized},
		{name: "signatures of other roles", evidence: func(s step, e *attestation.Evidence) {
			e.Client, _ = attestation.Sign(s.b.client, attestation.RoleUpdate, e.Statement)
		}, want: attest.BadSignature, kind: fault.Unauthorized},
		{name: "no signature", evidence: func(_ step, e *attestation.Evidence) { e.Update = nil }, want: attest.Malformed, kind: fault.Malformed},
		{name: "a client key on P-224", statement: func(s step, st *attestation.Statement) {
			k, _ := ecdsa.GenerateKey(elliptic.P224(), rand.Reader)
			s.b.client, st.ClientKey = k, spki(s.b.t, k.Public())
		}, want: attest.WeakKey, kind: fault.Invalid},
		{name: "an RSA-1024 client key", statement: func(s step, st *attestation.Statement) {
			// The modulus need not be a product of primes to be weak.
			n := new(big.Int).SetBit(big.NewInt(1), 1023, 1)
			st.ClientKey = spki(s.b.t, &rsa.PublicKey{N: n, E: 65537})
		}, want: attest.WeakKey, kind: fault.Invalid},
		{name: "a client key off its curve", statement: func(_ step, st *attestation.Statement) { st.ClientKey[len(st.ClientKey)-1] ^= 1 }, want: attest.WeakKey, kind: fault.Invalid},
		{name: "one key for both certificates", statement: func(s step, st *attestation.Statement) { s.b.update, st.UpdateKey = s.b.client, st.ClientKey }, want: attest.KeyReused, kind: fault.Invalid},
		{name: "the device key as client key", statement: func(s step, st *attestation.Statement) { s.b.client, st.ClientKey = s.b.key, st.DeviceKey }, want: attest.KeyReused, kind: fault.Invalid},

		{name: "a software key where a TPM is recorded", before: func(s step) {
			d := s.w.devices[s.b.id]
			d.EndorsementKey = strings.Repeat("0", 64)
			s.w.devices[s.b.id] = d
		}, want: attest.WrongEvidence, kind: fault.Forbidden},
		{name: "a clock that is behind", statement: func(_ step, st *attestation.Statement) { st.Time = st.Time.Add(-6 * time.Minute) }, want: attest.ClockSkewed, kind: fault.Invalid},
		{name: "a clock that is ahead", statement: func(_ step, st *attestation.Statement) { st.Time = st.Time.Add(6 * time.Minute) }, want: attest.ClockSkewed, kind: fault.Invalid},
		{name: "not claimed", before: func(s step) { d := s.w.devices[s.b.id]; d.Tenant = ""; s.w.devices[s.b.id] = d }, want: attest.NotClaimed, kind: fault.Forbidden, retries: true},
		{name: "disabled", before: func(s step) { d := s.w.devices[s.b.id]; d.Enabled = false; s.w.devices[s.b.id] = d }, want: attest.Disabled, kind: fault.Disabled, retries: true},
		{name: "a store that is away", after: func(s step) { s.w.fail = fault.New(fault.Unavailable, "away") }, want: attest.Unavailable, kind: fault.Unavailable, retries: true},
		{name: "a store that is overrun", after: func(s step) { s.w.fail = fault.New(fault.Throttled, "later") }, want: attest.Busy, kind: fault.Throttled, retries: true},
		{name: "a defect of ours", after: func(s step) { s.w.fail = errors.New("oops") }, want: attest.InternalError, kind: fault.Internal, retries: true},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t)
			b := w.board(t, newKey(t))
			s := step{w, b}
			if test.before != nil {
				test.before(s)
			}
			st := b.statement()
			if test.statement != nil {
				test.statement(s, &st)
			}
			e := b.prove(st)
			if test.evidence != nil {
				test.evidence(s, &e)
			}
			body := marshal(t, e)
			if test.body != nil {
				body = test.body(body)
			}
			if test.after != nil {
				test.after(s)
			}
			r, err := w.Attest(t.Context(), body, "")
			refusal := wantCode(t, err, test.want)
			if fault.KindOf(err) != test.kind || (refusal.RetryAfter > 0) != test.retries || strings.Contains(refusal.Public, "oops") {
				t.Errorf("kind %s, retry after %s, %q", fault.KindOf(err), refusal.RetryAfter, refusal.Public)
			}
			if r.Update != nil || r.Client != nil || len(w.issued) > 0 || len(w.records) > 0 || len(w.suspicions) > 0 {
				t.Errorf("something came of it: %+v, %d certificates, %d records", r, len(w.issued), len(w.records))
			}
		})
	}
}

// Evidence is good once, whoever sends it again and whenever; and a nonce is, too.
func TestAttest_Replay(t *testing.T) {
	w := newWorld(t)
	b := w.board(t, newKey(t))
	old := b.prove(b.statement()) // never sent
	st := b.statement()
	e := b.prove(st)
	if _, err := b.send(e); err != nil {
		t.Fatal(err)
	}
	for range 2 {
		wantCode(t, second(b.send(e)), attest.NonceUsed)
	}
	wantCode(t, second(b.send(old)), attest.NonceUsed)
	st.Sequence += 5 // the same nonce for another statement
	wantCode(t, second(b.send(b.prove(st))), attest.NonceUsed)
	if _, err := b.attest(); err != nil {
		t.Error(err)
	}
	wantCode(t, second(b.send(e)), attest.NonceUsed)
	w.now = w.now.Add(time.Hour)
	wantCode(t, second(b.send(e)), attest.NonceExpired)
	if len(w.suspicions) > 0 || w.records[b.id].Suspicions > 0 {
		t.Error("a replay, for which nobody needs the key, rings the alarm")
	}
}

// Of two devices with one key, whichever falls behind is refused and noticed.
func TestAttest_Clone(t *testing.T) {
	w := newWorld(t)
	b := w.board(t, newKey(t))
	b.boot = 7
	for range 3 {
		if _, err := b.attest(); err != nil {
			t.Fatal(err)
		}
	}
	clone := func(change func(*board)) *board {
		c := *b
		c.client, c.update = newKey(t), newKey(t)
		change(&c)
		return &c
	}
	for i, test := range []struct {
		name string
		b    *board
	}{
		{"an older start", clone(func(c *board) { c.boot = 6; c.sequence = 100 })},
		{"the same start under another name", clone(func(c *board) { c.bootID = strings.Repeat("0b", 16); c.sequence = 100 })},
		{"the same statement of the same start", clone(func(c *board) { c.sequence = 2 })},
		{"an older statement of the same start", clone(func(c *board) { c.sequence = 0 })},
	} {
		before := w.records[b.id]
		e := test.b.prove(test.b.statement())
		r := wantCode(t, second(test.b.send(e)), attest.CounterNotGrown)
		wantCode(t, second(test.b.send(e)), attest.NonceUsed) // the alarm rings once for it
		if fault.KindOf(r) != fault.PreconditionFailed || r.RetryAfter != 0 {
			t.Errorf("%s: %+v", test.name, r)
		}
		if len(w.suspicions) != i+1 {
			t.Fatalf("%s: nobody noticed", test.name)
		}
		s := w.suspicions[i]
		if s.Device.ID != b.id || s.Last.BootCounter != 7 || s.Last.Sequence != 3 || s.Shown.BootCounter != test.b.boot || s.Remote == "" || s.Refusal != attest.CounterNotGrown {
			t.Errorf("%s: the alarm says %+v", test.name, s)
		}
		after := w.records[b.id]
		if after.BootCounter != 7 || after.Sequence != 3 || after.Attested != before.Attested || after.Suspicions != int64(i+1) || !after.Suspected.After(before.Attested) {
			t.Errorf("%s: the record is %+v", test.name, after)
		}
	}
	if len(w.issued) != 6 {
		t.Errorf("%d certificates were issued, want 6", len(w.issued))
	}
	if _, err := b.attest(); err != nil { // the original goes on
		t.Fatal(err)
	}
	// A clone that gets ahead makes the original fall behind: either way it shows.
	ahead := clone(func(c *board) { c.boot = 8; c.bootID = strings.Repeat("0c", 16); c.sequence = 0 })
	if _, err := ahead.attest(); err != nil {
		t.Fatal(err)
	}
	wantCode(t, second(b.attest()), attest.CounterNotGrown)
	if n := w.records[b.id].Suspicions; n != 5 {
		t.Errorf("%d suspicions are on record, want 5", n)
	}
	// The operator knows better.
	if err := w.Forget(t.Context(), b.id, "operator"); err != nil {
		t.Fatal(err)
	}
	if _, err := b.attest(); err != nil {
		t.Error(err)
	}
}

// Two at once with the same count: one of them is too late.
func TestAttest_Concurrent(t *testing.T) {
	w := newWorld(t)
	b := w.board(t, newKey(t))
	var es [8][]byte
	for i := range es {
		b.sequence = 0
		es[i] = marshal(t, b.prove(b.statement()))
	}
	w.Service, _ = attest.New(attest.Config{
		Devices: w, Policy: w, Issuer: nobody{}, Store: w, Secret: secret.New(bytes.Repeat([]byte{7}, 32)),
		Now: func() time.Time { return start.Add(time.Second) }, Logger: slog.New(slog.DiscardHandler),
	})
	var wg sync.WaitGroup
	var good sync.Map
	for i, e := range es {
		wg.Go(func() {
			if _, err := w.Attest(t.Context(), e, ""); err == nil {
				good.Store(i, true)
			}
		})
	}
	wg.Wait()
	n := 0
	good.Range(func(any, any) bool { n++; return true })
	if n != 1 {
		t.Errorf("%d of 8 got certificates, want 1", n)
	}
}

type nobody struct{}

func (nobody) Issue(_ context.Context, r attest.Request) (attest.Issued, error) {
	return attest.Issued{NotAfter: r.NotAfter}, nil
}

// A real TPM, and all that somebody without it, or with another, could try.
func TestAttest_TPM(t *testing.T) {
	w := newWorld(t)
	b := w.tpmBoard(t)
	other := w.tpmBoard(t)

	t.Run("an attestation key of another TPM", func(t *testing.T) {
		keys, err := other.tpm.Keys()
		if err != nil {
			t.Fatal(err)
		}
		mine, err := b.tpm.Keys()
		if err != nil {
			t.Fatal(err)
		}
		_, err = w.Nonce(t.Context(), marshal(t, attestation.NonceRequest{Version: 1, DeviceID: b.id, TPM: &keys}))
		wantCode(t, err, attest.WrongKey) // not the recorded endorsement key
		mixed := attestation.TPMKeys{Endorsement: mine.Endorsement, Attestation: keys.Attestation}
		n, err := w.Nonce(t.Context(), marshal(t, attestation.NonceRequest{Version: 1, DeviceID: b.id, TPM: &mixed}))
		if err != nil {
			t.Fatal(err)
		}
		if _, err := b.tpm.Activate(*n.Credential); err == nil {
			t.Error("a TPM opens a credential for an attestation key it does not have")
		}
		if _, err := other.tpm.Activate(*n.Credential); err == nil {
			t.Error("a TPM opens a credential for another endorsement key")
		}
	})
	for _, test := range []struct {
		name      string
		statement func(*attestation.Statement)
		evidence  func(*testing.T, *attestation.Evidence)
		want      attest.Code
	}{
		{"a credential of another nonce", func(st *attestation.Statement) { st.Credential = bytes.Repeat([]byte{1}, 32) }, nil, attest.BadCredential},
		{"a boot counter that is not the TPM's", func(st *attestation.Statement) { st.BootCounter++ }, nil, attest.BadQuote},
		{"an image that was not measured", func(st *attestation.Statement) {
			st.Images = []attestation.Image{osImage, {Component: appImage.Component, ID: appImage.ID, SHA256: strings.Repeat("cc", 32)}}
		}, nil, attest.MeasurementMismatch},
		{"an image that is kept quiet about", func(st *attestation.Statement) { st.Images = st.Images[:1] }, nil, attest.MeasurementMismatch},
		{"another order", func(st *attestation.Statement) { st.Images = []attestation.Image{appImage, osImage} }, nil, attest.MeasurementMismatch},
		{"a software statement of a device with a TPM", func(st *attestation.Statement) { st.Kind, st.Credential = attestation.Software, nil },
			func(_ *testing.T, e *attestation.Evidence) { e.TPM = nil }, attest.WrongEvidence},
		{"no quote", nil, func(_ *testing.T, e *attestation.Evidence) { e.TPM = nil }, attest.Malformed},
		{"a quote about another statement", nil, func(t *testing.T, e *attestation.Evidence) {
			var err error
			if e.TPM.Quote, e.TPM.Signature, err = b.tpm.Quote(attestation.QualifyingData([]byte("another"))); err != nil {
				t.Fatal(err)
			}
		}, attest.BadQuote},
		{"a quote of another TPM", nil, func(t *testing.T, e *attestation.Evidence) {
			var err error
			if e.TPM.Quote, e.TPM.Signature, err = other.tpm.Quote(attestation.QualifyingData(e.Statement)); err != nil {
				t.Fatal(err)
			}
		}, attest.BadSignature},
		{"a whole proof of another TPM", nil, func(t *testing.T, e *attestation.Evidence) {
			keys, err := other.tpm.Keys()
			if err != nil {
				t.Fatal(err)
			}
			e.TPM.Attestation = keys.Attestation
			if e.TPM.Quote, e.TPM.Signature, err = other.tpm.Quote(attestation.QualifyingData(e.Statement)); err != nil {
				t.Fatal(err)
			}
		}, attest.BadCredential},
		{"the device key as attestation key", nil, func(t *testing.T, e *attestation.Evidence) {
			// It is not restricted: it would sign whatever looks like a quote.
			e.TPM.Attestation = bytes.Clone(e.TPM.Attestation)
			e.TPM.Attestation[7] &^= 1 // bit 16 of the attributes
		}, attest.BadQuote},
		{"a broken quote", nil, func(_ *testing.T, e *attestation.Evidence) { e.TPM.Quote[20] ^= 1 }, attest.BadSignature},
		{"a quote with its end cut", nil, func(_ *testing.T, e *attestation.Evidence) { e.TPM.Quote = e.TPM.Quote[:30] }, attest.BadSignature},
		{"a signature with its end cut", nil, func(_ *testing.T, e *attestation.Evidence) { e.TPM.Signature = e.TPM.Signature[:30] }, attest.BadQuote},
	} {
		t.Run(test.name, func(t *testing.T) {
			st := b.statement()
			if test.statement != nil {
				test.statement(&st)
			}
			e := b.prove(st)
			if test.evidence != nil {
				test.evidence(t, &e)
			}
			wantCode(t, second(b.send(e)), test.want)
		})
	}
	if len(w.issued) > 0 || len(w.records) > 0 {
		t.Fatal("something came of it")
	}
	if _, err := b.attest(); err != nil {
		t.Error(err)
	}
}

func TestNonce_Refuses(t *testing.T) {
	w := newWorld(t)
	b := w.board(t, newKey(t))
	good := marshal(t, attestation.NonceRequest{Version: 1, DeviceID: b.id})
	if _, err := w.Nonce(t.Context(), good); err != nil {
		t.Fatal(err)
	}
	for _, test := range []struct {
		name string
		body []byte
		want attest.Code
	}{
		{"nothing", nil, attest.Malformed},
		{"too much", append(good, bytes.Repeat([]byte{' '}, attestation.MaxNonceRequest)...), attest.Malformed},
		{"no version", []byte(`{"deviceId":"` + b.id + `"}`), attest.UnsupportedVersion},
		{"an id in upper case", []byte(`{"version":1,"deviceId":"` + strings.ToUpper(b.id) + `"}`), attest.Malformed},
		{"a TPM nobody recorded", marshal(t, attestation.NonceRequest{Version: 1, DeviceID: b.id, TPM: &attestation.TPMKeys{}}), attest.BadQuote},
		{"a TPM of a device nobody knows", marshal(t, attestation.NonceRequest{Version: 1, DeviceID: strings.Repeat("0", 128), TPM: &attestation.TPMKeys{}}), attest.UnknownDevice},
		{"a large public area", marshal(t, attestation.NonceRequest{Version: 1, DeviceID: b.id, TPM: &attestation.TPMKeys{Attestation: make([]byte, 2000)}}), attest.Malformed},
	} {
		t.Run(test.name, func(t *testing.T) {
			_, err := w.Nonce(t.Context(), test.body)
			wantCode(t, err, test.want)
		})
	}
	// Nobody learns from a nonce whether a device is there.
	if _, err := w.Nonce(t.Context(), marshal(t, attestation.NonceRequest{Version: 1, DeviceID: strings.Repeat("0", 128)})); err != nil {
		t.Errorf("a device nobody knows is told %v", err)
	}
	if len(w.records) > 0 {
		t.Error("nonces leave something behind")
	}
}

// Every code has a kind of fault, and a line in the protocol's table (head/attestation looks there).
func TestCodes(t *testing.T) {
	for _, c := range attest.Codes() {
		if k := fault.KindOf(&attest.Refusal{Code: c}); k == fault.Internal && c != attest.InternalError {
			t.Errorf("%s is an internal error", c)
		}
	}
}

func FuzzAttest(f *testing.F) {
	w := newWorld(f)
	b := w.board(f, newKey(f))
	e := b.prove(b.statement())
	f.Add(marshal(f, e))
	e.TPM = &attestation.TPMQuoted{Attestation: []byte{0}, Quote: []byte{1}, Signature: []byte{2}}
	f.Add(marshal(f, e))
	f.Add([]byte(`{"version":1,"statement":"e30="}`))
	f.Fuzz(func(t *testing.T, body []byte) {
		ev, st, err := attestation.ParseEvidence(body)
		if err == nil && (len(st.Images) > attestation.MaxImages || len(ev.Statement) > attestation.MaxStatement || st.BootCounter == 0) {
			t.Fatal("over its limits")
		}
		r, err := w.Attest(t.Context(), body, "")
		if _, refused := errors.AsType[*attest.Refusal](err); err != nil && !refused {
			t.Fatalf("%T is no refusal", err)
		}
		if err != nil && (r.Client != nil || r.Update != nil) {
			t.Fatal("refused, with certificates")
		}
	})
}
