package dps_test

import (
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/vauban-iot/vauban/dps"
	"github.com/vauban-iot/vauban/dps/dpstest"
	"github.com/vauban-iot/vauban/internal/conform"
	"github.com/vauban-iot/vauban/pki"
)

// issuer is a hub that signs certificates.
type issuer struct {
	*dpstest.Hub
	*pki.DeviceAuthority
	err error
}

func (i *issuer) Issue(_ context.Context, r *x509.CertificateRequest, id string) ([][]byte, error) {
	if _, ok := i.Device(id); !ok {
		return nil, errors.New("the device was not assigned first")
	}
	if i.err != nil {
		return nil, i.err
	}
	return i.DeviceAuthority.Issue(r, id, "generation")
}

// request is a certificate request in base64 of DER.
func request(t testing.TB, name string, key crypto.Signer) string {
	t.Helper()
	der, err := x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{Subject: pkix.Name{CommonName: name}}, key)
	if err != nil {
		t.Fatal(err)
	}
	return b64(der)
}

func newKey(t testing.TB) crypto.Signer {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return key
}

func TestIssuance(t *testing.T) {
	conform.Covers(t, "DPS-32")
	material, err := pki.NewDeviceAuthority(dpstest.Host, time.Now())
	if err != nil {
		t.Fatal(err)
	}
	authority, err := pki.OpenDeviceAuthority(material, nil)
	if err != nil {
		t.Fatal(err)
	}
	var hub *issuer
	w := dpstest.NewWith(t, func(c *dps.Config) {
		hub = &issuer{Hub: c.Hub.(*dpstest.Hub), DeviceAuthority: authority}
		c.Hub = hub
	})
	ask := func(id, body string) dps.Reply {
		t.Helper()
		w.Clock.Add(2 * time.Second)
		who := caller(t, w, byToken(id, token(w, id, decode(t, derivedOf(t, id)))))
		r := w.Register(t.Context(), who, []byte(body))
		if r.Status == 202 {
			r = w.Status(t.Context(), who, r.OperationID)
		}
		return r
	}
	put(t, w, true, "g", symmetric(groupKey, otherKey, `,"credentialPolicyName":"default"`))
	key := newKey(t)

	// Nobody who does not ask is told of certificates, and goes on with keys.
	if r := ask("d1", `{"payload":{}}`); r.Status != 200 || strings.Contains(string(r.Body), "issuedCertificateChain") {
		t.Errorf("without a request: %d %s", r.Status, r.Body)
	}
	if a, _ := w.Hub.Device("d1"); a.AuthType != dps.AuthSAS {
		t.Errorf("without a request the hub knows %+v", a)
	}
	r := ask("d1", fmt.Sprintf(`{"registrationId":"d1","csr":%q}`, request(t, "D1", key)))
	s := answer{r}.state(t)
	texts, _ := s["issuedCertificateChain"].([]any)
	if s["status"] != "assigned" || len(texts) != 3 {
		t.Fatalf("with a request: %d %s", r.Status, r.Body)
	}
	var chain []*x509.Certificate
	for _, text := range texts {
		c, err := x509.ParseCertificate(decode(t, text.(string)))
		if err != nil {
			t.Fatal(err)
		}
		chain = append(chain, c)
	}
	leaf := chain[0]
	if leaf.Subject.CommonName != "d1" || !leaf.PublicKey.(*ecdsa.PublicKey).Equal(key.Public()) || !chain[2].Equal(authority.Root()) {
		t.Errorf("issued to %q", leaf.Subject)
	}
	if days := time.Until(leaf.NotAfter).Hours() / 24; days < 1 || days > 90 {
		t.Errorf("good for %v days", days)
	}
	if _, err := pki.VerifyChain(chain[:2], []*x509.Certificate{authority.Root()}, time.Now()); err != nil {
		t.Error(err)
	}
	if a, _ := w.Hub.Device("d1"); a.AuthType != dps.AuthCertificateAuthority || !a.PrimaryKey.IsZero() {
		t.Errorf("the hub knows %+v, want it to know the device by its chain", a)
	}
	if d, err := w.Registration(t.Context(), "d1"); err != nil || strings.Contains(string(d.JSON), "issuedCertificateChain") {
		t.Errorf("the record shows the chain: %s, %v", d.JSON, err)
	}

	// What cannot be signed is refused before anything is assigned.
	armoured := string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE REQUEST", Bytes: decode(t, request(t, "d2", key))}))
	damaged := decode(t, request(t, "d2", key))
	damaged[len(damaged)-1] ^= 1
	for _, test := range []struct{ name, csr, message string }{
		{"nothing", "", "csr: the certificate request cannot be read"},
		{"no base64", "?", "csr is not base64 of DER without armour"},
		{"armour", armoured, "csr is not base64 of DER without armour"},
		{"no request", b64([]byte("text")), "csr: the certificate request cannot be read"},
		{"a certificate", b64(dpstest.SelfSigned(t, "d2").Raw), "csr: the certificate request cannot be read"},
		{"too large", b64(make([]byte, pki.MaxRequest+1)), "csr: the certificate request cannot be read"},
		{"a damaged signature", b64(damaged), "csr: the signature of the certificate request does not verify"},
		{"a weak RSA key", request(t, "d2", weak(t)), "csr: the key of the certificate request is none that certificates are issued for"},
		{"a small curve", request(t, "d2", curve224(t)), "csr: the key of the certificate request is none that certificates are issued for"},
		{"another name", request(t, "d3", key), `csr: the common name "d3" is not the registration id`},
		{"a letter that Unicode folds", request(t, "\u212a", key), "is not the registration id"},
	} {
		body, err := json.Marshal(map[string]string{"csr": test.csr})
		if err != nil {
			t.Fatal(err)
		}
		r := ask("d2", string(body))
		if m, _ := (answer{r}).document(t)["message"].(string); r.Status != 400 || r.ErrorCode != 400004 || !strings.Contains(m, test.message) {
			t.Errorf("%s: %d %s, want %q", test.name, r.Status, r.Body, test.message)
		}
	}
	if r := ask("d2", `{"clientCertificateCsr":"x"}`); r.Status != 400 {
		t.Errorf("a request of the first preview: %d %s", r.Status, r.Body)
	}
	if _, ok := w.Hub.Device("d2"); ok {
		t.Error("a device with a bad request was assigned")
	}
	if err := dps.CheckBody("d2", []byte(fmt.Sprintf(`{"csr":%q}`, request(t, "d2", key)))); err == nil {
		t.Error("a lookup may carry a request")
	}

	// An enrollment without a policy issues nothing.
	put(t, w, true, "g", symmetric(groupKey, otherKey, ""))
	if r := ask("d4", fmt.Sprintf(`{"csr":%q}`, request(t, "d4", key))); r.Status != 400 || !strings.Contains(string(r.Body), "credentialPolicyName") {
		t.Errorf("without a policy: %d %s", r.Status, r.Body)
	}
	if _, err := w.PutEnrollment(t.Context(), true, "g", []byte(symmetric(groupKey, otherKey, `,"credentialPolicyName":"other"`)), nil); err == nil || !strings.Contains(err.Error(), `"other"`) {
		t.Errorf("an unknown policy: %v", err)
	}
	put(t, w, true, "g", symmetric(groupKey, otherKey, `,"credentialPolicyName":"default"`))
	hub.err = errors.New("the disk is full")
	if r := ask("d5", fmt.Sprintf(`{"csr":%q}`, request(t, "d5", key))); r.Status != 500 || r.RetryAfter == 0 {
		t.Errorf("when it cannot be signed now: %d %s", r.Status, r.Body)
	}
}

// FuzzRequest gives a service what a stranger may send it before it has proven anything.
func FuzzRequest(f *testing.F) {
	w := dpstest.New(f)
	good := request(f, "d1", newKey(f))
	for _, s := range []string{
		"", `{"csr":"` + good + `"}`, `{"csr":"` + good[:200] + `"}`, `{"tpm":{"endorsementKey":"AAQAAQAL","storageRootKey":""}}`,
		`{"tpm":null,"payload":null,"csr":null}`, `{"payload":[1]}`, `{"registrationId":"D1","tpm":{}}`,
	} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, body []byte) {
		if r, err := w.Challenge(t.Context(), byToken("d1", ""), body); err == nil {
			t.Fatalf("nobody is enrolled, and %q is answered with %d %s", body, r.Status, r.Body)
		}
	})
}

// FuzzCertificate gives the service what somebody may upload as a CA, and what he would prove it with.
func FuzzCertificate(f *testing.F) {
	w := dpstest.New(f)
	ca := dpstest.NewCA(f, "ca")
	f.Add([]byte(ca.PEM()))
	f.Add(ca.Raw)
	f.Add([]byte(b64(ca.Raw)))
	f.Add([]byte(dpstest.SelfSigned(f, "leaf").PEM()))
	f.Add(flip(ca.Raw))
	f.Fuzz(func(t *testing.T, text []byte) {
		saved, err := w.PutCA(t.Context(), "a", string(text), false, nil)
		if err != nil {
			return
		}
		again, err := w.PutCA(t.Context(), "a", saved.Certificate, false, nil)
		if err != nil || again.Certificate != saved.Certificate || again.Verified {
			t.Fatalf("what was taken is not taken again: %v", err)
		}
		if _, err := w.VerificationCode(t.Context(), "a", nil); err != nil {
			t.Fatal(err)
		}
		if c, err := w.VerifyCA(t.Context(), "a", string(text), nil); err == nil || c.Verified {
			t.Fatal("a CA proves itself by itself")
		}
	})
}
