package sphere_test

import (
	"bytes"
	"context"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/vauban-iot/vauban/fault"
	"github.com/vauban-iot/vauban/internal/conform"
	"github.com/vauban-iot/vauban/pki"
	"github.com/vauban-iot/vauban/sphere"
	"github.com/vauban-iot/vauban/sphere/tenantca"
)

const day = 24 * time.Hour

// statuses are those of a tenant's CAs, oldest first.
func (w *world) statuses(tenant string) string {
	w.t.Helper()
	var all []string
	for _, c := range must(w.CAs(context.Background(), ann, tenant))(w.t) {
		all = append(all, string(c.Status))
	}
	return strings.Join(all, " ")
}

// issue gets a client certificate for a device and a new key, and verifies it by the CAs of the tenant.
func (w *world) issue(d sphere.Device) *x509.Certificate {
	w.t.Helper()
	i := must(w.device.Issue(context.Background(), d.ID, newKey(w.t).Public(), sphere.ClientCertificate))(w.t)
	return i.Leaf
}

// signer is the serial number of the CA that signed a certificate.
func (w *world) signer(tenant string, leaf *x509.Certificate) string {
	w.t.Helper()
	for _, c := range must(w.CAs(context.Background(), ann, tenant))(w.t) {
		if leaf.CheckSignatureFrom(c.Certificate) == nil {
			return c.Serial
		}
	}
	w.t.Fatal("no CA of the tenant signed the certificate")
	return ""
}

// A CA lives two years; 90 days before its end a successor is listed, 45 days later it issues, and what the old one issued is good until it ends
// itself. Servers that look after it at once make one successor.
func TestRotation(t *testing.T) {
	t.Parallel()
	conform.Covers(t, "SPH-14")
	w, ctx := newWorld(t), t.Context()
	tenant := w.tenant(ann)
	d, _ := w.claimed(ann, tenant, "")
	servers := []*sphere.Service{w.Service, w.another(), w.another()}
	// look has all servers look after CAs at once.
	look := func() {
		t.Helper()
		var wg sync.WaitGroup
		for _, s := range servers {
			wg.Go(func() {
				if err := sphere.RotateAll(ctx, s); err != nil {
					t.Error(err)
				}
			})
		}
		wg.Wait()
	}
	look()
	first := must(w.CA(ctx, ann, tenant, ".default"))(t)
	if life := first.NotAfter.Sub(start); life != 2*365*day || w.statuses(tenant) != "Active" || !first.ActiveFrom.Equal(start) {
		t.Fatalf("life %v, %s", life, w.statuses(tenant))
	}
	w.sleep(2*365*day - 90*day - time.Second)
	if look(); w.statuses(tenant) != "Active" {
		t.Fatalf("too early: %s", w.statuses(tenant))
	}
	w.sleep(time.Second)
	if look(); w.statuses(tenant) != "Active Inactive" {
		t.Fatalf("90 days before the end: %s", w.statuses(tenant))
	}
	second := must(w.CAs(ctx, ann, tenant))(t)[1]
	if wait := second.ActiveFrom.Sub(w.clock()); wait != 45*day || second.Subject == first.Subject {
		t.Errorf("it issues in %v; subjects %q and %q", wait, first.Subject, second.Subject)
	}
	w.sleep(45*day - time.Second)
	look()
	old := w.issue(d)
	if by := w.signer(tenant, old); by != first.Serial {
		t.Errorf("before its time %s issues", by)
	}
	w.sleep(time.Second)
	look()
	fresh := w.issue(d)
	if by := w.signer(tenant, fresh); by != second.Serial || w.statuses(tenant) != "Inactive Active" {
		t.Errorf("at its time %s issues; %s", by, w.statuses(tenant))
	}
	for what, leaf := range map[string]*x509.Certificate{"the old CA's": old, "the new CA's": fresh} { // overlap
		if _, _, err := w.device.Authenticate(ctx, []*x509.Certificate{leaf}); err != nil {
			t.Errorf("%s certificate: %v", what, err)
		}
	}
	w.sleep(45*day + time.Second)
	if look(); w.statuses(tenant) != "Expired Active" {
		t.Errorf("after the end: %s", w.statuses(tenant))
	}
	if _, err := w.CAProof(ctx, ann, tenant, first.Serial, "X"); !fault.Is(err, fault.Invalid) {
		t.Errorf("a proof of an expired CA: %v", err)
	}
	if n := len(w.audited("RotateCA")); n != 1 {
		t.Errorf("%d records of rotation", n)
	}
}

// A server that was off for long catches up, and no certificate ends after its CA.
func TestRotation_Late(t *testing.T) {
	t.Parallel()
	w, ctx := newWorld(t), t.Context()
	tenant := w.tenant(ann)
	d, _ := w.claimed(ann, tenant, "")
	end := must(w.CA(ctx, ann, tenant, ".default"))(t).NotAfter
	w.sleep(end.Sub(start) - 10*day)
	ok(t, sphere.RotateAll(ctx, w.Service))
	if next := must(w.CAs(ctx, ann, tenant))(t)[1]; !next.ActiveFrom.Equal(end.Add(-7 * day)) {
		t.Errorf("ten days before the end: it issues from %v on, the old one ends at %v", next.ActiveFrom, end)
	}
	w.sleep(2 * 365 * day) // all are over
	if w.statuses(tenant) != "Expired Expired" {
		t.Fatal(w.statuses(tenant))
	}
	w.signer(tenant, w.issue(d)) // nobody looked: the first to issue does
	if w.statuses(tenant) != "Expired Expired Active" {
		t.Error(w.statuses(tenant))
	}

	third := must(w.CA(ctx, ann, tenant, ".default"))(t)
	w.sleep(third.NotAfter.Sub(w.clock()) - time.Hour) // nobody looked, and it issues to the last
	if leaf := w.issue(d); leaf.NotAfter.After(third.NotAfter) {
		t.Errorf("a certificate ends at %v, its CA at %v", leaf.NotAfter, third.NotAfter)
	}
	ok(t, sphere.RotateAll(ctx, w.Service))
	if w.statuses(tenant) != "Expired Expired Inactive Active" {
		t.Error(w.statuses(tenant))
	}
}

// An operator makes a successor, has it issue, and revokes a CA.
func TestRotation_ByOperator(t *testing.T) {
	t.Parallel()
	w, ctx := newWorld(t), t.Context()
	tenant := w.tenant(ann)
	d, _ := w.claimed(ann, tenant, "")
	first := must(w.CA(ctx, ann, tenant, ".default"))(t)
	old := w.issue(d)
	w.sleep(time.Second) // they are listed by when they were made
	second := must(w.RotateCA(ctx, ann, tenant))(t)
	if second.Status != sphere.CAInactive || !second.ActiveFrom.Equal(w.clock().Add(45*day)) {
		t.Errorf("got %+v", second)
	}
	_, err := w.RotateCA(ctx, ann, tenant)
	wantKind(t, "another while one waits", err, fault.AlreadyExists)
	ok(t, sphere.RotateAll(ctx, w.Service))
	w.sleep(time.Hour)
	for range 2 {
		if got := must(w.ActivateCA(ctx, ann, tenant, strings.ToLower(second.Thumbprint)))(t); got.Status != sphere.CAActive {
			t.Errorf("got %+v", got)
		}
	}
	if w.statuses(tenant) != "Inactive Active" || w.signer(tenant, w.issue(d)) != second.Serial {
		t.Error(w.statuses(tenant))
	}
	_, err = w.ActivateCA(ctx, ann, tenant, first.Serial)
	wantKind(t, "back to the first", err, fault.Invalid)

	if _, _, err := w.device.Authenticate(ctx, []*x509.Certificate{old}); err != nil {
		t.Error(err)
	}
	for range 2 {
		if got := must(w.RevokeCA(ctx, ann, tenant, first.Serial))(t); got.Status != sphere.CARevoked {
			t.Errorf("got %+v", got)
		}
	}
	_, _, err = w.device.Authenticate(ctx, []*x509.Certificate{old})
	wantKind(t, "a certificate of a revoked CA", err, fault.Unauthorized)
	_, err = w.ActivateCA(ctx, ann, tenant, first.Serial)
	wantKind(t, "a revoked CA", err, fault.Invalid)
	_, err = w.CAProof(ctx, ann, tenant, first.Serial, "X")
	wantKind(t, "a proof of a revoked CA", err, fault.Invalid)

	w.sleep(time.Second)
	must(w.RevokeCA(ctx, ann, tenant, ".default"))(t) // none waits: a new one issues at once
	if w.statuses(tenant) != "Revoked Revoked Active" {
		t.Error(w.statuses(tenant))
	}
	w.sleep(time.Second)
	must(w.RotateCA(ctx, ann, tenant))(t)
	must(w.RevokeCA(ctx, ann, tenant, ".default"))(t) // the one that waits issues at once
	if w.statuses(tenant) != "Revoked Revoked Revoked Active" {
		t.Error(w.statuses(tenant))
	}
	w.issue(d)
	_, err = w.CA(ctx, ann, tenant, "00")
	wantKind(t, "a CA that is not there", err, fault.NotFound)
}

// Run makes successors, and ends with its context.
func TestRun(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		store := newFakeCAs(t)
		s := must(sphere.New(t.Context(), sphere.Config{Store: store, Installation: "h", Logger: slog.New(slog.DiscardHandler)}))(t)
		tenant := must(s.CreateTenant(t.Context(), ann, "Contoso"))(t).ID
		ctx, stop := context.WithCancel(t.Context())
		done := make(chan error)
		go func() { done <- s.Run(ctx) }()
		time.Sleep(2*365*day - 91*day)
		synctest.Wait()
		if n := len(store.cas[tenant]); n != 1 {
			t.Errorf("%d CAs 91 days before the end", n)
		}
		store.fail(true) // a database that is away does not end it
		time.Sleep(day + time.Hour)
		store.fail(false)
		time.Sleep(2 * time.Hour)
		synctest.Wait()
		if n := len(store.cas[tenant]); n != 2 {
			t.Errorf("%d CAs 90 days before the end", n)
		}
		stop()
		ok(t, <-done)
	})
}

// Certificates of devices: names of 128 characters, a day, a new key each time; verified by the CA, whatever their thumbprint.
func TestIssue(t *testing.T) {
	t.Parallel()
	w, ctx := newWorld(t), t.Context()
	tenant := w.tenant(ann)
	d, k := w.claimed(ann, tenant, "")
	ca := must(w.CA(ctx, ann, tenant, ".default"))(t)
	var last *x509.Certificate
	for range 3 {
		w.sleep(12 * time.Hour)
		key := newKey(t)
		i := must(w.device.Issue(ctx, strings.ToUpper(d.ID), key.Public(), sphere.ClientCertificate))(t)
		certs := must(pki.ParseCertificates(i.Chain))(t)
		leaf := certs[0]
		if len(certs) != 2 || !certs[1].Equal(ca.Certificate) || !leaf.Equal(i.Leaf) || last != nil && leaf.Equal(last) {
			t.Fatalf("a chain of %d", len(certs))
		}
		if len(leaf.Subject.CommonName) != 128 || leaf.Subject.CommonName != k.id || leaf.IsCA || leaf.KeyUsage != x509.KeyUsageDigitalSignature ||
			len(leaf.ExtKeyUsage) != 1 || leaf.ExtKeyUsage[0] != x509.ExtKeyUsageClientAuth {
			t.Errorf("the leaf is %+v", leaf.Subject)
		}
		if pub, same := key.Public().(interface{ Equal(x any) bool }); same && !pub.Equal(leaf.PublicKey) {
			t.Error("it is for another key")
		}
		if !leaf.NotAfter.Equal(w.clock().Add(day)) || !leaf.NotBefore.Equal(w.clock().Add(-10*time.Minute)) {
			t.Errorf("from %v to %v, it is %v", leaf.NotBefore, leaf.NotAfter, w.clock())
		}
		said, is := tenantca.DeviceOf(leaf)
		if !is || said != (tenantca.Device{ID: k.id, Tenant: tenant, Kind: "client"}) {
			t.Errorf("it says %+v", said)
		}
		// The hub's judge, with the tenant's CA for an anchor, with and without the chain.
		for _, presented := range [][]*x509.Certificate{certs, certs[:1]} {
			if _, err := pki.VerifyChain(presented, []*x509.Certificate{ca.Certificate}, w.clock()); err != nil {
				t.Error(err)
			}
		}
		if _, err := pki.VerifyChain(certs, []*x509.Certificate{ca.Certificate}, w.clock().Add(day+time.Second)); !errors.Is(err, pki.ErrExpired) {
			t.Errorf("the next day: %v", err)
		}
		last = leaf
	}
	for what, at := range map[string][2]time.Duration{"in the future": {time.Minute, day}, "long ago": {-2 * time.Hour, day}, "over": {0, 0}, "long": {0, 8 * day}} {
		_, err := w.device.IssueBetween(ctx, d.ID, k.Public(), sphere.ClientCertificate, w.clock().Add(at[0]), w.clock().Add(at[1]))
		wantKind(t, what, err, fault.Invalid)
	}
	if i := must(w.device.IssueBetween(ctx, d.ID, k.Public(), sphere.ClientCertificate, w.clock().Add(-time.Minute), w.clock().Add(time.Hour)))(t); !i.NotAfter.Equal(w.clock().Add(time.Hour)) || !i.NotBefore.Equal(w.clock().Add(-time.Minute)) {
		t.Errorf("from %v to %v, it is %v", i.NotBefore, i.NotAfter, w.clock())
	}
	// An update certificate is no client certificate: not below the tenant's CA, not even below the root.
	u := must(w.device.Issue(ctx, d.ID, k.Public(), sphere.UpdateCertificate))(t)
	for _, anchor := range []*x509.Certificate{ca.Certificate, w.Root()} {
		if _, err := pki.VerifyChain(must(pki.ParseCertificates(u.Chain))(t), []*x509.Certificate{anchor}, w.clock()); !errors.Is(err, pki.ErrUntrusted) {
			t.Errorf("an update certificate at a hub: %v", err)
		}
	}
	_, err := w.device.Issue(ctx, d.ID, k.Public(), "server")
	wantKind(t, "a server certificate", err, fault.Invalid)
	weak := must(rsa.GenerateKey(rand.Reader, 1024))(t)
	_, err = w.device.Issue(ctx, d.ID, weak.Public(), sphere.ClientCertificate)
	wantKind(t, "a weak key", err, fault.Invalid)
	must(w.SetDeviceEnabled(ctx, ann, tenant, d.ID, false, nil))(t)
	for _, kind := range []sphere.CertificateKind{sphere.ClientCertificate, sphere.UpdateCertificate} {
		_, err = w.device.Issue(ctx, d.ID, k.Public(), kind)
		wantKind(t, "a disabled device, "+string(kind), err, fault.Disabled)
	}
	must(w.SetDeviceEnabled(ctx, ann, tenant, d.ID, true, nil))(t)
	w.issue(d)
}

func TestAuthenticate(t *testing.T) {
	t.Parallel()
	w, ctx := newWorld(t), t.Context()
	mine, theirs := w.tenant(ann), w.tenant(bob)
	d, k := w.claimed(ann, mine, "")
	e, _ := w.claimed(bob, theirs, "")
	client, update := w.issue(d), must(w.device.Issue(ctx, d.ID, k.Public(), sphere.UpdateCertificate))(t).Leaf
	for want, leaf := range map[sphere.CertificateKind]*x509.Certificate{"client": client, "update": update} {
		got, kind, err := w.device.Authenticate(ctx, []*x509.Certificate{leaf})
		if err != nil || got.ID != d.ID || kind != want {
			t.Errorf("%s: %s, %q, %v", want, got.ID, kind, err)
		}
	}
	// forged is a certificate by a CA of the tester's, or of another tenant, that says what it likes.
	root := must(tenantca.NewRoot("root", "hub.example", start))(t)
	lookalike := must(root.NewTenant(mine, "Contoso", start))(t)
	bobsCA := must(w.store.TenantCAs(ctx, theirs))(t)[0]
	bobs := must(tenantca.Open(bobsCA.Certificate, bobsCA.Key))(t)
	forge := func(a *tenantca.Authority, said tenantca.Device) *x509.Certificate {
		return must(a.Issue(said, k.Public(), start))(t)
	}
	annsCA := must(w.store.TenantCAs(ctx, mine))(t)[0]
	anns := must(tenantca.Open(annsCA.Certificate, annsCA.Key))(t)
	for what, leaf := range map[string]*x509.Certificate{
		"of its CA, for another tenant": forge(anns, tenantca.Device{ID: d.ID, Tenant: theirs, Kind: "client"}),
		"of a look-alike CA":            forge(lookalike, tenantca.Device{ID: d.ID, Tenant: mine, Kind: "client"}),
		"of another tenant's CA":        forge(bobs, tenantca.Device{ID: d.ID, Tenant: mine, Kind: "client"}),
		"of another tenant, and its CA": forge(bobs, tenantca.Device{ID: d.ID, Tenant: theirs, Kind: "client"}),
		"a client that says update":     forge(bobs, tenantca.Device{ID: e.ID, Tenant: theirs, Kind: "update"}),
		"of another kind":               forge(bobs, tenantca.Device{ID: e.ID, Tenant: theirs, Kind: "server"}),
		"of no device":                  forge(bobs, tenantca.Device{ID: strings.Repeat("0", 128), Tenant: theirs, Kind: "client"}),
		"of no id":                      forge(bobs, tenantca.Device{ID: "x", Tenant: theirs, Kind: "client"}),
		"a proof of possession":         must(w.CAProof(ctx, ann, mine, ".default", "CODE"))(t),
		"the CA itself":                 must(w.CA(ctx, ann, mine, ".default"))(t).Certificate,
	} {
		_, _, err := w.device.Authenticate(ctx, []*x509.Certificate{leaf})
		wantKind(t, what, err, fault.Unauthorized)
	}
	_, _, err := w.device.Authenticate(ctx, nil)
	wantKind(t, "nothing", err, fault.Unauthorized)
	w.sleep(day + time.Second)
	_, _, err = w.device.Authenticate(ctx, []*x509.Certificate{client})
	wantKind(t, "yesterday's", err, fault.Unauthorized)
	fresh := w.issue(d)
	must(w.SetDeviceEnabled(ctx, ann, mine, d.ID, false, nil))(t)
	_, _, err = w.device.Authenticate(ctx, []*x509.Certificate{fresh})
	wantKind(t, "a device that was disabled", err, fault.Disabled)
}

func TestCAProofAndChain(t *testing.T) {
	t.Parallel()
	w, ctx := newWorld(t), t.Context()
	tenant := w.tenant(ann)
	ca := must(w.CA(ctx, ann, tenant, ".default"))(t)
	if sha1, _ := pki.Thumbprints(ca.Certificate); sha1 != ca.Thumbprint || must(w.CA(ctx, ann, tenant, strings.ToLower(ca.Serial)))(t).Serial != ca.Serial {
		t.Errorf("got %+v", ca)
	}
	code := "0123456789ABCDEF0123456789ABCDEF0123456789ABCDEF"
	proof := must(w.CAProof(ctx, ann, tenant, ca.Thumbprint, code))(t)
	if proof.Subject.CommonName != code || proof.CheckSignatureFrom(ca.Certificate) != nil || proof.IsCA || proof.NotAfter.Sub(w.clock()) != day {
		t.Errorf("got %+v", proof.Subject)
	}
	for _, bad := range []string{"", strings.Repeat("a", 65), "a b", "a\x00", "é"} {
		_, err := w.CAProof(ctx, ann, tenant, ".default", bad)
		wantKind(t, bad, err, fault.Invalid)
	}
	if n := len(w.audited("CAProof")); n != 1 {
		t.Errorf("%d records of proofs", n)
	}
	chain := must(w.CAChain(ctx, ann, tenant, ".default"))(t)
	for _, c := range []*x509.Certificate{ca.Certificate, w.Root()} {
		if !bytes.Contains(chain, c.Raw) {
			t.Errorf("the chain lacks %s", c.Subject)
		}
	}
}

// No key of a CA is on the disk but sealed.
func TestKeysAreSealed(t *testing.T) {
	t.Parallel()
	w, ctx := newWorld(t), t.Context()
	tenant := w.tenant(ann)
	var secrets [][]byte
	for _, c := range must(w.store.TenantCAs(ctx, tenant))(t) {
		k := c.Key.Reveal()
		secrets = append(secrets, k, k[36:68]) // the scalar of a P-256 key in PKCS #8
	}
	for _, name := range []string{"sphere/root", "sphere/updates"} {
		m := must(w.store.Setting(ctx, name))(t)
		secrets = append(secrets, m[len(m)-40:])
	}
	dir := filepath.Dir(t.TempDir())
	files := 0
	ok(t, filepath.WalkDir(dir, func(path string, e fs.DirEntry, err error) error {
		if err != nil || e.IsDir() {
			return err
		}
		files++
		data, err := os.ReadFile(path)
		for _, s := range secrets {
			if bytes.Contains(data, s) {
				t.Errorf("%s holds a key", path)
			}
		}
		if b, _ := pem.Decode(data); b != nil {
			t.Errorf("%s holds PEM", path)
		}
		return err
	}))
	if files < 2 {
		t.Errorf("only %d files", files)
	}
}
