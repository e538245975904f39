package sphere_test

import (
	"crypto/x509"
	"strings"
	"testing"
	"time"

	"github.com/vauban-iot/vauban/dps"
	"github.com/vauban-iot/vauban/dps/dpstest"
	"github.com/vauban-iot/vauban/fault"
	"github.com/vauban-iot/vauban/internal/conform"
	"github.com/vauban-iot/vauban/pki"
	"github.com/vauban-iot/vauban/sphere"
	"github.com/vauban-iot/vauban/sphere/tenantca"
)

// The provisioning service takes the proof of a tenant's CA, and then the tenant's devices by that CA: names of 128 characters, a new certificate
// each day, and those of the successor once it was added, before and after it issues. It keeps no thumbprint of any.
func TestProvisioning(t *testing.T) {
	t.Parallel()
	conform.Covers(t, "SPH-29")
	w, ctx, p := newWorld(t), t.Context(), dpstest.New(t)
	w.sleep(p.Clock.Now().Sub(w.clock()))
	sleep := func(d time.Duration) {
		w.sleep(d)
		p.Clock.Add(d)
	}
	tenant := w.tenant(ann)
	d, _ := w.claimed(ann, tenant, "")
	upload := func(name string, ca sphere.CA) {
		t.Helper()
		must(p.PutCA(ctx, name, string(tenantca.PEM(ca.Certificate)), false, nil))(t)
		code := must(p.VerificationCode(ctx, name, nil))(t).Code
		if _, err := p.VerifyCA(ctx, name, string(tenantca.PEM(must(w.CAProof(ctx, ann, tenant, ca.Serial, "OTHER"))(t))), nil); err == nil {
			t.Error("a proof of another code was taken")
		}
		if v := must(p.VerifyCA(ctx, name, string(tenantca.PEM(must(w.CAProof(ctx, ann, tenant, ca.Serial, code))(t))), nil))(t); !v.Verified {
			t.Error("the proof was not taken")
		}
	}
	group := func(references string) {
		t.Helper()
		must(p.PutEnrollment(ctx, true, "tenant", []byte(`{"enrollmentGroupId":"tenant","attestation":{"type":"x509","x509":{"caReferences":{`+references+`}}}}`), nil))(t)
	}
	// connect presents a fresh certificate, as every day.
	seen := map[string]bool{}
	connect := func(id string) error {
		t.Helper()
		i := must(w.device.Issue(ctx, d.ID, newKey(t).Public(), sphere.ClientCertificate))(t)
		seen[tenantca.Thumbprint(i.Leaf)] = true
		c, err := p.Authenticate(ctx, dps.Credentials{IDScope: dpstest.Scope, RegistrationID: id, Certificates: must(pki.ParseCertificates(i.Chain))(t)})
		if err != nil {
			return err
		}
		if r := p.Register(ctx, c, nil); r.Status != 202 {
			t.Fatalf("status %d: %s", r.Status, r.Body)
		}
		return nil
	}
	first := must(w.CA(ctx, ann, tenant, ".default"))(t)
	if wantKind(t, "before the CA is known", connect(d.ID), fault.Unauthorized); t.Failed() {
		return
	}
	upload("one", first)
	group(`"primary":"one"`)
	for range 3 {
		ok(t, connect(d.ID))
		sleep(20 * time.Hour)
	}
	if a, there := p.Hub.Device(d.ID); !there || a.AuthType != dps.AuthCertificateAuthority || a.PrimaryThumbprint != "" {
		t.Errorf("the hub knows %+v", a)
	}
	wantKind(t, "the name of another", connect(strings.Repeat("0", 128)), fault.Unauthorized)
	yesterday := w.issue(d)
	sleep(25 * time.Hour)
	_, err := p.Authenticate(ctx, dps.Credentials{IDScope: dpstest.Scope, RegistrationID: d.ID, Certificates: []*x509.Certificate{yesterday, first.Certificate}})
	wantKind(t, "yesterday's certificate", err, fault.Unauthorized)
	u := must(w.device.Issue(ctx, d.ID, newKey(t).Public(), sphere.UpdateCertificate))(t)
	_, err = p.Authenticate(ctx, dps.Credentials{IDScope: dpstest.Scope, RegistrationID: d.ID, Certificates: must(pki.ParseCertificates(u.Chain))(t)})
	wantKind(t, "an update certificate", err, fault.Unauthorized)

	second := must(w.RotateCA(ctx, ann, tenant))(t)
	upload("two", second)
	group(`"primary":"one","secondary":"two"`)
	ok(t, connect(d.ID))
	sleep(45 * 24 * time.Hour)
	ok(t, connect(d.ID))
	group(`"primary":"two"`)
	ok(t, connect(d.ID))
	if len(seen) < 6 {
		t.Errorf("only %d certificates", len(seen))
	}
}
