// Package pkitest makes certificates for tests.
package pkitest

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"math/big"
	"testing"
	"time"
)

// CA issues certificates.
type CA struct {
	Cert  *x509.Certificate
	key   crypto.Signer
	chain [][]byte // this CA and its parents, without the root
}

// Option changes a certificate before it is signed.
type Option func(*x509.Certificate)

// Expired ends the validity an hour ago.
func Expired() Option {
	return func(c *x509.Certificate) {
		c.NotBefore, c.NotAfter = time.Now().Add(-48*time.Hour), time.Now().Add(-time.Hour)
	}
}

// NotYetValid begins the validity in an hour.
func NotYetValid() Option {
	return func(c *x509.Certificate) { c.NotBefore = time.Now().Add(time.Hour) }
}

// WithEKU sets the extended key usages.
func WithEKU(usages ...x509.ExtKeyUsage) Option {
	return func(c *x509.Certificate) { c.ExtKeyUsage = usages }
}

// NewCA makes a root.
func NewCA(t testing.TB, cn string) *CA {
	t.Helper()
	cert, key := create(t, template(cn, true), nil, nil)
	return &CA{Cert: cert, key: key}
}

// Intermediate makes a CA below ca.
func (ca *CA) Intermediate(t testing.TB, cn string) *CA {
	t.Helper()
	cert, key := create(t, template(cn, true), ca.Cert, ca.key)
	return &CA{Cert: cert, key: key, chain: append([][]byte{cert.Raw}, ca.chain...)}
}

// Leaf makes a certificate with its chain, root omitted.
func (ca *CA) Leaf(t testing.TB, cn string, opts ...Option) tls.Certificate {
	t.Helper()
	tmpl := template(cn, false)
	for _, o := range opts {
		o(tmpl)
	}
	cert, key := create(t, tmpl, ca.Cert, ca.key)
	return tls.Certificate{Certificate: append([][]byte{cert.Raw}, ca.chain...), PrivateKey: key, Leaf: cert}
}

// ByLeaf makes a certificate that was signed with a leaf of ca, which is no CA.
func (ca *CA) ByLeaf(t testing.TB, cn string) tls.Certificate {
	t.Helper()
	leaf := ca.Leaf(t, "leaf")
	cert, key := create(t, template(cn, false), leaf.Leaf, leaf.PrivateKey.(crypto.Signer))
	return tls.Certificate{Certificate: append([][]byte{cert.Raw}, leaf.Certificate...), PrivateKey: key, Leaf: cert}
}

// SelfSigned makes a certificate that vouches for itself.
func SelfSigned(t testing.TB, cn string, opts ...Option) tls.Certificate {
	t.Helper()
	tmpl := template(cn, false)
	for _, o := range opts {
		o(tmpl)
	}
	cert, key := create(t, tmpl, nil, nil)
	return tls.Certificate{Certificate: [][]byte{cert.Raw}, PrivateKey: key, Leaf: cert}
}

// PEM is the CA's certificate.
func (ca *CA) PEM() []byte {
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: ca.Cert.Raw})
}

func template(cn string, ca bool) *x509.Certificate {
	serial, _ := rand.Int(rand.Reader, big.NewInt(1<<62)) // crypto/rand never fails
	t := &x509.Certificate{
		SerialNumber: serial, Subject: pkix.Name{CommonName: cn}, NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(24 * time.Hour),
		IsCA: ca, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageDigitalSignature,
	}
	if ca {
		t.KeyUsage |= x509.KeyUsageCertSign
	}
	return t
}

func create(t testing.TB, tmpl, parent *x509.Certificate, parentKey crypto.Signer) (*x509.Certificate, crypto.Signer) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	if parent == nil {
		parent, parentKey = tmpl, key
	}
	der, err := x509.CreateCertificate(rand.Reader, tmpl, parent, key.Public(), parentKey)
	if err != nil {
		t.Fatal(err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	return cert, key
}
