// Package tenantca makes the certificates of the Security Service (sphere §4.4, §4.5):
//
//	root (20 years, P-384) -> CA of a tenant (2 years, P-256) -> client certificate of a device (a day)
//	updates (20 years, P-256) -> update certificate of a device (a day)
//
// The updates CA stands apart, so that whoever trusts a tenant's CA, or even the root, does not take an update certificate
// for a client's. Neither is the root that tells devices which server is theirs (package pki): a device could pass for one.
//
// A device certificate's common name is the device id of 128 characters, more than X.509's bound of 64; its extended key usage is
// clientAuth; its subject alternative name holds the URIs of [TenantURI] and [KindURI].
//
// This room decides nothing and keeps nothing: who may have a certificate, and where keys are kept, is its callers' matter.
package tenantca

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha1"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/hex"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"math/big"
	"net/url"
	"strings"
	"time"

	"github.com/vauban-iot/vauban/fault"
	"github.com/vauban-iot/vauban/internal/secret"
)

// Lives.
const (
	RootLife   = 20 * 365 * 24 * time.Hour
	Life       = 2 * 365 * 24 * time.Hour // of a tenant's CA (sphere §4.5)
	DeviceLife = 24 * time.Hour           // of a device certificate (sphere §4.4)
	ProofLife  = 24 * time.Hour           // of a proof of possession: as long as the code that it answers is good for
	// Backdate is for clocks that are behind.
	Backdate = 10 * time.Minute
)

// Authority is a certificate and the key that goes with it. It is safe for concurrent use.
type Authority struct {
	Certificate *x509.Certificate
	key         crypto.Signer
}

// material is how an authority is written.
type material struct {
	Certificate []byte `json:"certificate"` // DER
	Key         []byte `json:"key"`         // PKCS #8
}

// NewRoot makes a CA that signed itself and signs other CAs. The installation's name stands in its subject.
func NewRoot(role, installation string, now time.Time) (*Authority, error) {
	return selfSigned(elliptic.P384(), role, installation, now, true)
}

// NewIssuer is NewRoot for a CA that signs devices' certificates itself: P-384 would take ten times as long.
func NewIssuer(role, installation string, now time.Time) (*Authority, error) {
	return selfSigned(elliptic.P256(), role, installation, now, true)
}

func selfSigned(curve elliptic.Curve, role, installation string, now time.Time, ca bool) (*Authority, error) {
	key, err := ecdsa.GenerateKey(curve, rand.Reader)
	if err != nil {
		return nil, err
	}
	t := template(pkix.Name{CommonName: strings.TrimSpace("Vauban Security Service " + role + " " + installation)}, now, RootLife)
	if ca {
		authority(t)
	}
	return finish(t, t, key, key.Public(), key)
}

// NewSigner makes a certificate that signed itself, on P-256 as capability files want it, and that is no CA.
func NewSigner(role, installation string, now time.Time) (*Authority, error) {
	return selfSigned(elliptic.P256(), role, installation, now, false)
}

// Signer is the private key, for what is signed beside certificates.
func (a *Authority) Signer() crypto.Signer { return a.key }

// NewTenant makes the CA of a tenant. Several of one tenant, which follow each other, have different subjects: a verifier that finds
// CAs by their subject must not mistake one for another.
func (a *Authority) NewTenant(tenant, name string, now time.Time) (*Authority, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, err
	}
	t := template(pkix.Name{Organization: []string{name}}, now, Life)
	t.Subject.CommonName = fmt.Sprintf("Vauban tenant %s CA %X", tenant, t.SerialNumber.Bytes()[:4])
	authority(t)
	t.MaxPathLenZero = true
	t.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}
	if t.NotAfter.After(a.Certificate.NotAfter) {
		t.NotAfter = a.Certificate.NotAfter
	}
	return finish(t, a.Certificate, a.key, key.Public(), key)
}

func authority(t *x509.Certificate) {
	t.IsCA = true
	t.KeyUsage = x509.KeyUsageCertSign | x509.KeyUsageCRLSign
}

// template is a certificate from now on.
func template(subject pkix.Name, now time.Time, life time.Duration) *x509.Certificate {
	serial := make([]byte, 16)
	rand.Read(serial)
	serial[0] = serial[0]&0x3f | 0x40 // positive, and always of 16 bytes
	return &x509.Certificate{
		SerialNumber: new(big.Int).SetBytes(serial), Subject: subject, BasicConstraintsValid: true,
		NotBefore: now.Add(-Backdate), NotAfter: now.Add(life), KeyUsage: x509.KeyUsageDigitalSignature,
	}
}

func finish(t, parent *x509.Certificate, signer crypto.Signer, pub crypto.PublicKey, key crypto.Signer) (*Authority, error) {
	der, err := x509.CreateCertificate(rand.Reader, t, parent, pub, signer)
	if err != nil {
		return nil, err
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		return nil, err
	}
	return &Authority{cert, key}, nil
}

// Key is the private key, PKCS #8, to be sealed where it is kept.
func (a *Authority) Key() (secret.Secret, error) {
	der, err := x509.MarshalPKCS8PrivateKey(a.key)
	if err != nil {
		return secret.Secret{}, err
	}
	return secret.New(der), nil
}

// Open puts a certificate and its key together again.
func Open(certificate []byte, key secret.Secret) (*Authority, error) {
	cert, err := x509.ParseCertificate(certificate)
	if err != nil {
		return nil, fmt.Errorf("tenantca: the certificate is damaged: %w", err)
	}
	k, err := x509.ParsePKCS8PrivateKey(key.Reveal())
	if err != nil {
		return nil, errors.New("tenantca: the key is damaged") // without the parser's words, which may hold of it
	}
	signer, ok := k.(crypto.Signer)
	if !ok {
		return nil, errors.New("tenantca: the key cannot sign")
	}
	type equaler interface{ Equal(crypto.PublicKey) bool }
	if e, ok := signer.Public().(equaler); !ok || !e.Equal(cert.PublicKey) {
		return nil, errors.New("tenantca: the certificate and the key do not belong together")
	}
	return &Authority{cert, signer}, nil
}

// Marshal writes an authority, with its key, for a store that seals it.
func (a *Authority) Marshal() ([]byte, error) {
	key, err := a.Key()
	if err != nil {
		return nil, err
	}
	return json.Marshal(material{a.Certificate.Raw, key.Reveal()})
}

// Unmarshal reads what Marshal wrote.
func Unmarshal(data []byte) (*Authority, error) {
	var m material
	if json.Unmarshal(data, &m) != nil {
		return nil, errors.New("tenantca: the authority is damaged")
	}
	return Open(m.Certificate, secret.New(m.Key))
}

// Device is what a certificate for a device says.
type Device struct {
	ID     string // 128 hex digits
	Tenant string // GUID
	Kind   string // client, update
	// When it counts; zero: from Backdate before now, and for DeviceLife.
	NotBefore, NotAfter time.Time
}

// Issue makes a certificate for a device and its key. It ends no later than the authority does.
func (a *Authority) Issue(d Device, pub crypto.PublicKey, now time.Time) (*x509.Certificate, error) {
	t := template(pkix.Name{CommonName: d.ID}, now, DeviceLife)
	t.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}
	t.URIs = []*url.URL{TenantURI(d.Tenant), KindURI(d.Kind)}
	if !d.NotBefore.IsZero() {
		t.NotBefore = d.NotBefore
	}
	if !d.NotAfter.IsZero() {
		t.NotAfter = d.NotAfter
	}
	if t.NotAfter.After(a.Certificate.NotAfter) {
		t.NotAfter = a.Certificate.NotAfter
	}
	if !t.NotAfter.After(now) {
		return nil, fault.New(fault.Unavailable, "the CA has expired")
	}
	leaf, err := finish(t, a.Certificate, a.key, pub, nil)
	if err != nil {
		return nil, err
	}
	return leaf.Certificate, nil
}

const (
	uriTenant = "vauban:sphere:tenant:"
	uriKind   = "vauban:sphere:certificate:"
)

// TenantURI is the name urn:vauban:sphere:tenant:<GUID> in a device certificate.
func TenantURI(tenant string) *url.URL { return &url.URL{Scheme: "urn", Opaque: uriTenant + tenant} }

// KindURI is the name urn:vauban:sphere:certificate:<client|update> in a device certificate.
func KindURI(kind string) *url.URL { return &url.URL{Scheme: "urn", Opaque: uriKind + kind} }

// DeviceOf reads what a device certificate says of its device; not when it counts. It proves nothing: verify the chain first. ok is false for a
// certificate that says none or too much of it.
func DeviceOf(c *x509.Certificate) (d Device, ok bool) {
	d.ID = c.Subject.CommonName
	for _, u := range c.URIs {
		if u.Scheme != "urn" {
			continue
		}
		if v, is := strings.CutPrefix(u.Opaque, uriTenant); is {
			if d.Tenant != "" {
				return Device{}, false
			}
			d.Tenant = v
		}
		if v, is := strings.CutPrefix(u.Opaque, uriKind); is {
			if d.Kind != "" {
				return Device{}, false
			}
			d.Kind = v
		}
	}
	return d, d.ID != "" && d.Tenant != "" && d.Kind != ""
}

// maxCode is X.509's bound for common names; codes of IoT Hub and DPS have 48 characters. A device id does not fit.
const maxCode = 64

// Prove makes a certificate that only who holds the authority's key could make: its common name is the code that a relying party
// chose (dps §10.4). Nobody holds its key. The error is fault.Invalid for a code that is none.
func (a *Authority) Prove(code string, now time.Time) (*x509.Certificate, error) {
	if code == "" || len(code) > maxCode {
		return nil, fault.New(fault.Invalid, "a verification code has 1 to %d characters", maxCode)
	}
	for i := range len(code) {
		switch c := code[i]; {
		case 'a' <= c && c <= 'z', 'A' <= c && c <= 'Z', '0' <= c && c <= '9', c == '-', c == '_', c == '.', c == '=', c == '+', c == '/':
		default:
			return nil, fault.New(fault.Invalid, "a verification code holds letters, digits and - _ . = + / only")
		}
	}
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, err
	}
	t := template(pkix.Name{CommonName: code}, now, ProofLife)
	if t.NotAfter.After(a.Certificate.NotAfter) {
		t.NotAfter = a.Certificate.NotAfter
	}
	proof, err := finish(t, a.Certificate, a.key, key.Public(), nil)
	if err != nil {
		return nil, err
	}
	return proof.Certificate, nil
}

// Serial is the name of a certificate: its serial number in upper-case hex.
func Serial(c *x509.Certificate) string { return strings.ToUpper(c.SerialNumber.Text(16)) }

// Thumbprint is the SHA-1 of a certificate in upper-case hex, Azure's name for one.
func Thumbprint(c *x509.Certificate) string {
	sum := sha1.Sum(c.Raw)
	return strings.ToUpper(hex.EncodeToString(sum[:]))
}

// PEM writes certificates one after the other.
func PEM(certs ...*x509.Certificate) []byte {
	var b bytes.Buffer
	for _, c := range certs {
		b.Write(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: c.Raw}))
	}
	return b.Bytes()
}
