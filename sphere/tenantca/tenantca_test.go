package tenantca_test

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/vauban-iot/vauban/fault"
	"github.com/vauban-iot/vauban/internal/secret"
	"github.com/vauban-iot/vauban/pki"
	"github.com/vauban-iot/vauban/sphere/tenantca"
)

const tenant = "0a1b2c3d-0000-4000-8000-00000000000f"

var now = time.Now().Truncate(time.Second)

func must[T any](v T, err error) func(t testing.TB) T {
	return func(t testing.TB) T {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		return v
	}
}

func TestChain(t *testing.T) {
	t.Parallel()
	root := must(tenantca.NewRoot("root", "hub.example", now))(t)
	ca := must(root.NewTenant(tenant, "Contoso", now))(t)
	c := ca.Certificate
	if !c.IsCA || c.MaxPathLen != 0 || !c.MaxPathLenZero || c.KeyUsage != x509.KeyUsageCertSign|x509.KeyUsageCRLSign || len(c.ExtKeyUsage) != 1 ||
		c.ExtKeyUsage[0] != x509.ExtKeyUsageClientAuth || !c.NotAfter.Equal(now.Add(tenantca.Life)) || len(c.Subject.CommonName) > 64 || c.Subject.Organization[0] != "Contoso" {
		t.Errorf("the CA is %+v, %v", c.Subject, c.ExtKeyUsage)
	}
	if next := must(root.NewTenant(tenant, "Contoso", now))(t); next.Certificate.Subject.String() == c.Subject.String() {
		t.Error("two CAs of a tenant have one subject")
	}
	if err := c.CheckSignatureFrom(root.Certificate); err != nil {
		t.Error(err)
	}
	id := strings.Repeat("0123456789abcdef", 8)
	key := must(ecdsa.GenerateKey(elliptic.P256(), rand.Reader))(t)
	leaf := must(ca.Issue(tenantca.Device{ID: id, Tenant: tenant, Kind: "client"}, key.Public(), now))(t)
	if chain, err := pki.VerifyChain([]*x509.Certificate{leaf, c}, []*x509.Certificate{root.Certificate}, now); err != nil || len(chain) != 3 {
		t.Errorf("a chain of %d, %v", len(chain), err)
	}
	if len(tenantca.Serial(leaf)) != 32 {
		t.Errorf("serial %s", tenantca.Serial(leaf))
	}
	// No chain ends after its CA, and an expired CA issues nothing.
	short := must(ca.Issue(tenantca.Device{ID: id}, key.Public(), c.NotAfter.Add(-time.Hour)))(t)
	if !short.NotAfter.Equal(c.NotAfter) {
		t.Errorf("it ends at %v, its CA at %v", short.NotAfter, c.NotAfter)
	}
	if _, err := ca.Issue(tenantca.Device{ID: id}, key.Public(), c.NotAfter); !fault.Is(err, fault.Unavailable) {
		t.Errorf("of an expired CA: %v", err)
	}
	if _, ok := tenantca.DeviceOf(c); ok {
		t.Error("a CA passes for a device")
	}
	both := *leaf
	both.URIs = append(both.URIs[:2:2], tenantca.TenantURI("other"))
	if _, ok := tenantca.DeviceOf(&both); ok {
		t.Error("a certificate of two tenants passes")
	}
}

func TestOpen(t *testing.T) {
	t.Parallel()
	a, b := must(tenantca.NewRoot("root", "", now))(t), must(tenantca.NewRoot("root", "", now))(t)
	key := must(a.Key())(t)
	back := must(tenantca.Open(a.Certificate.Raw, key))(t)
	must(back.Prove("CODE", now))(t)
	again := must(tenantca.Unmarshal(must(a.Marshal())(t)))(t)
	if !again.Certificate.Equal(a.Certificate) {
		t.Error("it came back as another")
	}
	for what, err := range map[string]error{
		"another's key":   second(tenantca.Open(b.Certificate.Raw, key)),
		"no key":          second(tenantca.Open(a.Certificate.Raw, secret.Secret{})),
		"no certificate":  second(tenantca.Open(nil, key)),
		"nothing":         second(tenantca.Unmarshal(nil)),
		"an empty object": second(tenantca.Unmarshal([]byte("{}"))),
	} {
		if err == nil {
			t.Errorf("%s was taken", what)
		}
	}
	if text := fmt.Sprintf("%v %+v %#v", key, key, key); !strings.Contains(text, "redacted") {
		t.Errorf("a key prints: %s", text)
	}
}

func second[T any](_ T, err error) error { return err }

// OpenSSL reads what we write: the bundle, a name of 128 characters, and the chain.
func TestOpenSSL(t *testing.T) {
	t.Parallel()
	if _, err := exec.LookPath("openssl"); err != nil {
		t.Fatalf("%v; make deps installs it", err)
	}
	dir := t.TempDir()
	write := func(name string, data []byte) string {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, data, 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	openssl := func(args ...string) string {
		t.Helper()
		out, err := exec.Command("openssl", args...).CombinedOutput()
		if err != nil {
			t.Fatalf("openssl %v: %v\n%s", args, err, out)
		}
		return string(out)
	}
	root := must(tenantca.NewRoot("root", "hub.example", now))(t)
	ca := must(root.NewTenant(tenant, "Contoso", now))(t)
	id := strings.Repeat("0123456789abcdef", 8)
	key := must(ecdsa.GenerateKey(elliptic.P256(), rand.Reader))(t)
	leaf := must(ca.Issue(tenantca.Device{ID: id, Tenant: tenant, Kind: "client"}, key.Public(), now))(t)

	bundle := openssl("pkcs7", "-inform", "DER", "-in", write("chain.p7b", must(tenantca.PKCS7(ca.Certificate, root.Certificate))(t)), "-print_certs", "-noout")
	if names := regexp.MustCompile(`subject=`).FindAllString(bundle, -1); len(names) != 2 || strings.Index(bundle, tenant) > strings.Index(bundle, "root") {
		t.Errorf("the bundle is %s", bundle)
	}
	rootFile, caFile, leafFile := write("root.pem", tenantca.PEM(root.Certificate)), write("ca.pem", tenantca.PEM(ca.Certificate)), write("leaf.pem", tenantca.PEM(leaf))
	openssl("verify", "-purpose", "sslclient", "-CAfile", rootFile, "-untrusted", caFile, leafFile)
	openssl("verify", "-purpose", "sslclient", "-partial_chain", "-CAfile", caFile, leafFile)
	text := openssl("x509", "-in", leafFile, "-noout", "-text")
	for _, want := range []string{id, "URI:urn:vauban:sphere:tenant:" + tenant, "URI:urn:vauban:sphere:certificate:client", "TLS Web Client Authentication"} {
		if !strings.Contains(text, want) {
			t.Errorf("it lacks %s:\n%s", want, text)
		}
	}
}

func FuzzDeviceOf(f *testing.F) {
	root, err := tenantca.NewRoot("root", "", now)
	if err != nil {
		f.Fatal(err)
	}
	leaf, err := root.Issue(tenantca.Device{ID: "d", Tenant: tenant, Kind: "client"}, root.Certificate.PublicKey, now)
	if err != nil {
		f.Fatal(err)
	}
	f.Add(leaf.Raw)
	f.Add(root.Certificate.Raw)
	f.Fuzz(func(t *testing.T, der []byte) {
		c, err := x509.ParseCertificate(der)
		if err != nil {
			return
		}
		if d, ok := tenantca.DeviceOf(c); ok && (d.ID == "" || d.Tenant == "" || d.Kind == "") {
			t.Errorf("got %+v", d)
		}
	})
}

func BenchmarkIssue(b *testing.B) {
	root, err := tenantca.NewRoot("root", "", now)
	if err != nil {
		b.Fatal(err)
	}
	ca, err := root.NewTenant(tenant, "Contoso", now)
	if err != nil {
		b.Fatal(err)
	}
	d := tenantca.Device{ID: strings.Repeat("0", 128), Tenant: tenant, Kind: "client"}
	for b.Loop() {
		if _, err := ca.Issue(d, ca.Certificate.PublicKey, now); err != nil {
			b.Fatal(err)
		}
	}
}
