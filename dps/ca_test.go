package dps_test

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/vauban-iot/vauban/dps"
	"github.com/vauban-iot/vauban/dps/dpstest"
	"github.com/vauban-iot/vauban/fault"
	"github.com/vauban-iot/vauban/internal/conform"
	"github.com/vauban-iot/vauban/iot"
	"github.com/vauban-iot/vauban/wire/sas"
)

func references(primary, secondary, more string) string {
	return fmt.Sprintf(`{"attestation":{"type":"x509","x509":{"caReferences":{"primary":%q,"secondary":%q}}}%s}`, primary, secondary, more)
}

func upload(t *testing.T, w *dpstest.World, name string, ca *dpstest.Certificate, verified bool) dps.CA {
	t.Helper()
	c, err := w.PutCA(t.Context(), name, ca.PEM(), verified, nil)
	if err != nil {
		t.Fatalf("upload %s: %v", name, err)
	}
	return c
}

func TestPrimaryAndSecondary(t *testing.T) {
	conform.Covers(t, "DPS-22")
	w := dpstest.New(t)
	t.Run("keys", func(t *testing.T) {
		put(t, w, false, "k", symmetric(groupKey, otherKey, ""))
		put(t, w, true, "keys", symmetric(groupKey, otherKey, ""))
		for _, key := range []string{groupKey, otherKey} {
			wantKind(t, w, byToken("k", token(w, "k", decode(t, key))), admitted)
			wantKind(t, w, byToken("m", token(w, "m", sas.DeriveKey(decode(t, key), "m"))), admitted)
		}
		third := []byte("neither of the two")
		wantKind(t, w, byToken("k", token(w, "k", third)), fault.Unauthorized)
		wantKind(t, w, byToken("m", token(w, "m", sas.DeriveKey(third, "m"))), fault.Unauthorized)
	})
	t.Run("leaves", func(t *testing.T) {
		one, two, three := dpstest.SelfSigned(t, "i"), dpstest.SelfSigned(t, "i"), dpstest.SelfSigned(t, "i")
		put(t, w, false, "i", leaves(one.PEM(), two.PEM(), ""))
		wantKind(t, w, byCertificate("i", one.Chain(0)), admitted)
		wantKind(t, w, byCertificate("i", two.Chain(0)), admitted)
		wantKind(t, w, byCertificate("i", three.Chain(0)), fault.Unauthorized)
	})
	t.Run("CAs", func(t *testing.T) {
		one, two, three := dpstest.NewCA(t, "one"), dpstest.NewCA(t, "two"), dpstest.NewCA(t, "three")
		put(t, w, true, "cas", authorities(one.PEM(), two.PEM(), ""))
		wantKind(t, w, byCertificate("c", one.Leaf(t, "c", nil).Chain(1)), admitted)
		wantKind(t, w, byCertificate("c", two.Leaf(t, "c", nil).Chain(1)), admitted)
		wantKind(t, w, byCertificate("c", three.Leaf(t, "c", nil).Chain(1)), fault.Unauthorized)
	})
	t.Run("CA references", func(t *testing.T) {
		one, two, three := dpstest.NewCA(t, "ref one"), dpstest.NewCA(t, "ref two"), dpstest.NewCA(t, "ref three")
		for name, ca := range map[string]*dpstest.Certificate{"one": one, "two": two, "three": three} {
			upload(t, w, name, ca, true)
		}
		put(t, w, true, "refs", references("one", "two", ""))
		wantKind(t, w, byCertificate("r", one.Leaf(t, "r", nil).Chain(1)), admitted)
		wantKind(t, w, byCertificate("r", two.Leaf(t, "r", nil).Chain(1)), admitted)
		wantKind(t, w, byCertificate("r", three.Leaf(t, "r", nil).Chain(1)), fault.Unauthorized)
		// A roll: the new one comes in as the second, and then the old one goes.
		put(t, w, true, "refs", references("two", "three", ""))
		wantKind(t, w, byCertificate("r", one.Leaf(t, "r", nil).Chain(1)), fault.Unauthorized)
		wantKind(t, w, byCertificate("r", three.Leaf(t, "r", nil).Chain(1)), admitted)
		d, err := w.Enrollment(t.Context(), true, "refs")
		if err != nil || !strings.Contains(string(d.JSON), `"caReferences":{"primary":"two","secondary":"three"}`) {
			t.Errorf("it reads %s, %v", d.JSON, err)
		}
		put(t, w, true, "refs", string(d.JSON)) // what was read can be written back
		wantKind(t, w, byCertificate("r", two.Leaf(t, "r", nil).Chain(1)), admitted)
		if cas, err := w.Authorities(t.Context()); err != nil || len(cas) < 2 {
			t.Errorf("the hub hears of %d CAs, %v", len(cas), err)
		}
		if _, err := w.PutEnrollment(t.Context(), true, "again", []byte(references("three", "", "")), nil); !fault.Is(err, fault.AlreadyExists) {
			t.Errorf("another group with the same reference: %v", err)
		}
		if err := w.DeleteCA(t.Context(), "two", nil); !fault.Is(err, fault.AlreadyExists) || !strings.Contains(fault.Public(err), `"refs"`) {
			t.Errorf("delete a CA that is referred to: %v", err)
		}
	})
}

func TestProofOfPossession(t *testing.T) {
	conform.Covers(t, "DPS-23")
	w, ctx := dpstest.New(t), t.Context()
	root := dpstest.NewCA(t, "root")
	mid := root.CA(t, "mid")
	upload(t, w, "root", root, false)
	put(t, w, true, "g", references("root", "", ""))
	device := byCertificate("d", root.Leaf(t, "d", nil).Chain(1))
	wantKind(t, w, device, fault.Unauthorized) // not verified: it proves nobody
	if cas, err := w.Authorities(ctx); err != nil || len(cas) != 0 {
		t.Errorf("the hub trusts a CA that is not verified: %v, %v", cas, err)
	}

	refused := func(what, proof, message string) {
		t.Helper()
		if _, err := w.VerifyCA(ctx, "root", proof, nil); !fault.Is(err, fault.Invalid) || !strings.Contains(fault.Public(err), message) {
			t.Errorf("%s: %v, want %q", what, err, message)
		}
		wantKind(t, w, device, fault.Unauthorized)
	}
	refused("without a code", root.Leaf(t, "x", nil).PEM(), "no verification code")
	ca, err := w.VerificationCode(ctx, "root", nil)
	if err != nil || len(ca.Code) != 48 || !ca.CodeExpires.After(w.Clock.Now()) || ca.Verified {
		t.Fatalf("code %+v, %v", ca, err)
	}
	old := ca.Code
	if ca, err = w.VerificationCode(ctx, "root", nil); err != nil || ca.Code == old {
		t.Fatalf("a second code %+v, %v", ca, err)
	}
	refused("an earlier code", root.Leaf(t, old, nil).PEM(), "is not the code")
	refused("another name", root.Leaf(t, "x", nil).PEM(), "is not the code")
	refused("the code in another case", root.Leaf(t, strings.ToLower(ca.Code), nil).PEM(), "is not the code")
	refused("another CA of that name", dpstest.NewCA(t, "root").Leaf(t, ca.Code, nil).PEM(), "not signed by")
	refused("a self-signed one", dpstest.SelfSigned(t, ca.Code).PEM(), "not signed by")
	refused("one of an intermediate", mid.Leaf(t, ca.Code, nil).PEM(), "not signed by")
	refused("an expired one", root.Leaf(t, ca.Code, func(c *x509.Certificate) { c.NotAfter = w.Clock.Now().Add(-time.Minute) }).PEM(), "not in force")
	refused("one to come", root.Leaf(t, ca.Code, func(c *x509.Certificate) { c.NotBefore = w.Clock.Now().Add(time.Hour) }).PEM(), "not in force")
	refused("no certificate", "PEM", "cannot be read")
	w.Clock.Add(24*time.Hour + time.Minute)
	refused("an expired code", root.Leaf(t, ca.Code, func(c *x509.Certificate) { c.NotAfter = w.Clock.Now().Add(time.Hour) }).PEM(), "expired")

	if ca, err = w.VerificationCode(ctx, "root", iot.ParseMatch(string(ca.ETag))); err != nil {
		t.Fatal(err)
	}
	long := func(c *x509.Certificate) { c.NotAfter = w.Clock.Now().Add(time.Hour) }
	proof := root.Leaf(t, ca.Code, long).PEM()
	if _, err := w.VerifyCA(ctx, "root", proof, iot.ParseMatch("other")); !fault.Is(err, fault.PreconditionFailed) {
		t.Errorf("with another ETag: %v", err)
	}
	if ca, err = w.VerifyCA(ctx, "root", proof, nil); err != nil || !ca.Verified || ca.Code != "" {
		t.Fatalf("verify: %+v, %v", ca, err)
	}
	// The clock stands a day later; the root of these tests lives that long.
	device = byCertificate("d", root.Leaf(t, "d", long).Chain(1))
	w.Clock.Add(-24 * time.Hour)
	wantKind(t, w, device, admitted)
	if _, err := w.VerifyCA(ctx, "root", proof, nil); !fault.Is(err, fault.Invalid) {
		t.Errorf("a code was used twice: %v", err)
	}
	// Uploaded again it stays verified; another certificate under its name does not inherit that.
	if ca := upload(t, w, "root", root, false); !ca.Verified {
		t.Error("the same certificate lost what was proven")
	}
	if ca := upload(t, w, "root", dpstest.NewCA(t, "root"), false); ca.Verified {
		t.Error("another certificate inherits what was proven")
	}
	wantKind(t, w, device, fault.Unauthorized)

	// Verified on upload; an intermediate will do, without its root.
	upload(t, w, "mid", mid, true)
	put(t, w, true, "h", references("mid", "", ""))
	wantKind(t, w, byCertificate("e", mid.Leaf(t, "e", nil).Chain(1)), admitted)
	wantKind(t, w, byCertificate("e", mid.Leaf(t, "e", nil).Chain(0)), admitted)
}

func TestUploadedCAs(t *testing.T) {
	w, ctx := dpstest.New(t), t.Context()
	ca := dpstest.NewCA(t, "ca")
	upload(t, w, "a", ca, false)
	for _, test := range []struct {
		name, text, message string
		kind                fault.Kind
	}{
		{"b", ca.PEM(), `"a" is the same`, fault.AlreadyExists},
		{"b c", ca.PEM(), "name", fault.Invalid},
		{"b", dpstest.SelfSigned(t, "leaf").PEM(), "is no CA", fault.Invalid},
		{"b", ca.PEM() + dpstest.NewCA(t, "x").PEM(), "one certificate", fault.Invalid},
		{"b", dpstest.Signed(t, nil, "old", true, nil, func(c *x509.Certificate) { c.NotAfter = time.Now().Add(-time.Hour) }).PEM(), "expired", fault.Invalid},
		{"b", dpstest.Signed(t, nil, "no signer", true, nil, func(c *x509.Certificate) { c.KeyUsage = x509.KeyUsageCRLSign }).PEM(), "keyCertSign", fault.Invalid},
		{"b", dpstest.Signed(t, nil, "weak", true, weak(t), nil).PEM(), "too weak", fault.Invalid},
	} {
		if _, err := w.PutCA(ctx, test.name, test.text, true, nil); !fault.Is(err, test.kind) || !strings.Contains(fault.Public(err), test.message) {
			t.Errorf("%s: %v, want %q", test.name, err, test.message)
		}
	}
	if _, err := w.PutCA(ctx, "a", ca.PEM(), false, iot.ParseMatch("other")); !fault.Is(err, fault.PreconditionFailed) {
		t.Errorf("with another ETag: %v", err)
	}
	if _, err := w.PutCA(ctx, "new", dpstest.NewCA(t, "y").PEM(), false, iot.ParseMatch("*")); !fault.Is(err, fault.PreconditionFailed) {
		t.Errorf("one that is not there, with an ETag: %v", err)
	}
	if _, err := w.VerificationCode(ctx, "none", nil); !fault.Is(err, fault.NotFound) {
		t.Errorf("a code for nothing: %v", err)
	}
	for i := range 24 {
		upload(t, w, fmt.Sprint("n", i), dpstest.NewCA(t, fmt.Sprint(i)), false)
	}
	if _, err := w.PutCA(ctx, "over", dpstest.NewCA(t, "z").PEM(), false, nil); !fault.Is(err, fault.Invalid) || !strings.Contains(fault.Public(err), "25") {
		t.Errorf("a 26th: %v", err)
	}
	if err := w.DeleteCA(ctx, "a", iot.ParseMatch("other")); !fault.Is(err, fault.PreconditionFailed) {
		t.Errorf("delete with another ETag: %v", err)
	}
	if err := w.DeleteCA(ctx, "a", nil); err != nil {
		t.Error(err)
	}
	if all, err := w.CAs(ctx); err != nil || len(all) != 24 {
		t.Errorf("%d are left, %v", len(all), err)
	}
}

func weak(t testing.TB) crypto.Signer {
	t.Helper()
	t.Setenv("GODEBUG", "rsa1024min=0")
	key, err := rsa.GenerateKey(rand.Reader, 1024)
	if err != nil {
		t.Fatal(err)
	}
	return key
}

func curve224(t testing.TB) crypto.Signer {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P224(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return key
}

// TestHostileCertificates presents what should not pass. Whatever it is, the device is told 401002 and one text, on the group's path as on
// the individual's; the reason is for the log.
func TestHostileCertificates(t *testing.T) {
	w := dpstest.New(t)
	root := dpstest.NewCA(t, "root")
	mid := root.CA(t, "mid")
	put(t, w, true, "g", authorities(root.PEM(), "", ""))
	now := w.Clock.Now()
	one := func(ca *dpstest.Certificate, name string, n int, change func(*x509.Certificate)) []*x509.Certificate {
		return ca.Leaf(t, name, change).Chain(n)
	}
	lookalike := dpstest.NewCA(t, "root")
	deep := mid
	for i := range 20 {
		deep = deep.CA(t, fmt.Sprint("level ", i))
	}
	bounded := dpstest.Signed(t, root, "bounded", true, nil, func(c *x509.Certificate) { c.MaxPathLenZero = true })
	noCA := dpstest.Signed(t, root, "no CA", false, nil, nil)
	noSigner := dpstest.Signed(t, root, "no signer", true, nil, func(c *x509.Certificate) { c.KeyUsage = x509.KeyUsageCRLSign })
	servers := dpstest.Signed(t, root, "servers", true, nil, func(c *x509.Certificate) { c.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth} })
	stale := dpstest.Signed(t, root, "stale", true, nil, func(c *x509.Certificate) { c.NotAfter = now.Add(-time.Minute) })
	weakMid := dpstest.Signed(t, root, "weak", true, weak(t), nil)
	damaged := root.Leaf(t, "d", nil)
	broken, err := x509.ParseCertificate(flip(damaged.Raw))
	if err != nil {
		t.Fatal(err)
	}
	long := strings.Repeat("0123456789abcdef", 8)
	for _, test := range []struct {
		name   string
		id     string
		chain  []*x509.Certificate
		reason string // empty: it is admitted
	}{
		{"a good one", "d", one(root, "d", 1, nil), ""},
		{"a name of 128 characters", long, one(root, long, 1, nil), ""},
		{"a name of 129 characters", long + "0", one(root, long+"0", 1, nil), "1 to 128 characters"},
		{"expired", "d", one(root, "d", 1, func(c *x509.Certificate) { c.NotAfter = now.Add(-time.Second) }), "not valid at this time"},
		{"not yet valid", "d", one(root, "d", 1, func(c *x509.Certificate) { c.NotBefore = now.Add(time.Minute) }), "not valid at this time"},
		{"for servers", "d", one(root, "d", 1, func(c *x509.Certificate) { c.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth} }), "incompatible key usage"},
		{"for signing code", "d", one(root, "d", 1, func(c *x509.Certificate) { c.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageCodeSigning} }), "incompatible key usage"},
		{"whose key may not sign", "d", one(root, "d", 1, func(c *x509.Certificate) { c.KeyUsage = x509.KeyUsageKeyEncipherment }), "lacks digitalSignature"},
		{"of another device", "d", one(root, "e", 1, nil), "is not the registration id"},
		{"without a name", "d", one(root, "", 1, nil), "is not the registration id"},
		{"whose name begins alike", "d", one(root, "d\x00e", 1, nil), "is not the registration id"},
		{"whose name is in another field", "d", one(root, "", 1, func(c *x509.Certificate) { c.Subject.OrganizationalUnit = []string{"d"}; c.DNSNames = []string{"d"} }), "is not the registration id"},
		{"of a CA that looks alike", "d", one(lookalike, "d", 1, nil), "does not chain to a trusted authority"},
		{"of a CA that looks alike, with the real one beside", "d", append(one(lookalike, "d", 0, nil), root.Certificate), "does not chain to a trusted authority"},
		{"self-signed", "d", dpstest.SelfSigned(t, "d").Chain(0), "no group's CA issued it"},
		{"whose signature is damaged", "d", []*x509.Certificate{broken}, "does not chain to a trusted authority"},
		{"without the intermediate", "d", one(mid, "d", 0, nil), "no group's CA issued it"},
		{"with another's intermediate", "d", append(one(mid, "d", 0, nil), root.CA(t, "other").Certificate), "does not chain to a trusted authority"},
		{"with a chain that is too long", "d", one(deep, "d", 22, nil), "more than a chain has"},
		{"below a CA that may have none below it", "d", one(bounded.CA(t, "below"), "d", 2, nil), "does not chain to a trusted authority"},
		{"issued by a device", "d", one(noCA, "d", 1, nil), "does not chain to a trusted authority"},
		{"issued by a CA that may not sign", "d", one(noSigner, "d", 1, nil), "does not chain to a trusted authority"},
		{"issued by a CA for servers", "d", one(servers, "d", 1, nil), "incompatible key usage"},
		{"issued by an expired CA", "d", one(stale, "d", 1, nil), "not valid at this time"},
		{"with a weak RSA key", "d", dpstest.Signed(t, root, "d", false, weak(t), nil).Chain(1), "RSA key of 1024 bits"},
		{"with a key on a small curve", "d", dpstest.Signed(t, root, "d", false, curve224(t), nil).Chain(1), "curve of 224 bits"},
		{"issued by a CA with a weak key", "d", one(weakMid, "d", 1, nil), "RSA key of 1024 bits"},
		{"the CA itself", "root", root.Chain(0), "lacks digitalSignature"},
	} {
		t.Run(test.name, func(t *testing.T) {
			_, err := w.Authenticate(t.Context(), byCertificate(test.id, test.chain))
			if test.reason == "" {
				if err != nil {
					t.Fatalf("refused: %v", err)
				}
				return
			}
			exact(t, err, test.reason)
		})
	}

	// An individual enrollment holds the certificate itself, but what is wrong with it stays wrong.
	for _, test := range []struct {
		name   string
		key    crypto.Signer
		change func(*x509.Certificate)
		reason string
	}{
		{"expired", nil, func(c *x509.Certificate) { c.NotAfter = now.Add(-time.Second) }, "not in force"},
		{"not yet valid", nil, func(c *x509.Certificate) { c.NotBefore = now.Add(time.Minute) }, "not in force"},
		{"for servers", nil, func(c *x509.Certificate) { c.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth} }, "not for client authentication"},
		{"whose key may not sign", nil, func(c *x509.Certificate) { c.KeyUsage = x509.KeyUsageKeyEncipherment }, "lacks digitalSignature"},
		{"with a weak RSA key", weak(t), nil, "RSA key of 1024 bits"},
		{"with a key on a small curve", curve224(t), nil, "curve of 224 bits"},
	} {
		t.Run("enrolled, "+test.name, func(t *testing.T) {
			leaf := dpstest.Signed(t, nil, "i", false, test.key, test.change)
			put(t, w, false, "i", leaves(leaf.PEM(), "", ""))
			_, err := w.Authenticate(t.Context(), byCertificate("i", leaf.Chain(0)))
			exact(t, err, test.reason)
		})
	}
}

// flip changes a bit of a certificate's signature.
func flip(der []byte) []byte {
	b := append([]byte(nil), der...)
	b[len(b)-1] ^= 1
	return b
}

// exact checks what a refused device is told, and what the log is.
func exact(t *testing.T, err error, reason string) {
	t.Helper()
	if err == nil {
		t.Fatal("it is admitted")
	}
	r := dps.ErrorReply(err)
	if r.Status != 401 || r.ErrorCode != 401002 || !strings.Contains(string(r.Body), `"message":"the credentials are not accepted"`) {
		t.Errorf("the device is told %d %s", r.Status, r.Body)
	}
	if !strings.Contains(err.Error(), reason) {
		t.Errorf("the log has %q, want %q", err, reason)
	}
}
