package pki

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/json"
	"errors"
	"fmt"
	"math/big"
	"time"
)

// DeviceAuthority issues the certificates that devices ask the hub for (hub-device §3.10).
//
// It has a root of its own. Devices trust the installation's root to tell them which server is theirs, and the smallest of them look
// at nothing but a name: were device certificates below that root, a device could pass for the hub. So no device is told to trust
// this root; only the hub does. Both CAs are ECDSA P-256, for short chains, and live as long as the installation's root.
//
// The material of an authority is kept by whoever makes it, sealed, where all servers of a hub find the same.
type DeviceAuthority struct {
	root, inter *x509.Certificate
	key         crypto.Signer // of inter
	now         func() time.Time
}

// DeviceLife is how long a device's certificate is good for. Devices renew when two thirds have passed.
const DeviceLife = 90 * 24 * time.Hour

// deviceMaterial is what an authority is made of. The root's key is kept for the intermediate after this one.
type deviceMaterial struct {
	Root         []byte `json:"root"` // DER
	RootKey      []byte `json:"rootKey"`
	Intermediate []byte `json:"intermediate"`
	Key          []byte `json:"key"` // PKCS #8
}

// NewDeviceAuthority makes the material of an authority for a hub. It holds private keys.
func NewDeviceAuthority(hub string, now time.Time) ([]byte, error) {
	rootKey, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, err
	}
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, err
	}
	template := (&Authority{now: func() time.Time { return now }}).template
	rootTemplate := template("Vauban devices root "+hub, rootLife, true)
	root, err := sign(rootTemplate, pair{rootTemplate, rootKey}, rootKey.Public())
	if err != nil {
		return nil, err
	}
	parsed, err := x509.ParseCertificate(root)
	if err != nil {
		return nil, err
	}
	t := template("Vauban devices intermediate", rootLife, true)
	t.MaxPathLenZero = true
	t.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}
	inter, err := sign(t, pair{parsed, rootKey}, key.Public())
	if err != nil {
		return nil, err
	}
	m := deviceMaterial{Root: root, Intermediate: inter}
	if m.RootKey, err = x509.MarshalPKCS8PrivateKey(rootKey); err != nil {
		return nil, err
	}
	if m.Key, err = x509.MarshalPKCS8PrivateKey(key); err != nil {
		return nil, err
	}
	return json.Marshal(m)
}

// OpenDeviceAuthority reads the material of NewDeviceAuthority. now may be nil.
func OpenDeviceAuthority(material []byte, now func() time.Time) (*DeviceAuthority, error) {
	if now == nil {
		now = time.Now
	}
	a := &DeviceAuthority{now: now}
	var m deviceMaterial
	if err := json.Unmarshal(material, &m); err != nil {
		return nil, fmt.Errorf("pki: the authority of devices is damaged: %w", err)
	}
	var err error
	if a.root, err = x509.ParseCertificate(m.Root); err == nil {
		a.inter, err = x509.ParseCertificate(m.Intermediate)
	}
	if err != nil {
		return nil, fmt.Errorf("pki: the authority of devices is damaged: %w", err)
	}
	k, err := x509.ParsePKCS8PrivateKey(m.Key)
	if err != nil {
		return nil, fmt.Errorf("pki: the authority of devices is damaged: %w", err)
	}
	var ok bool
	if a.key, ok = k.(crypto.Signer); !ok {
		return nil, errors.New("pki: the key of the authority of devices cannot sign")
	}
	return a, nil
}

// Root is the certificate that the chains of devices end in.
func (a *DeviceAuthority) Root() *x509.Certificate { return a.root }

// Issue makes a certificate for a device and returns its chain in DER: leaf, intermediate, root. Of the request it takes the key alone. The
// subject is the device's id with its generation as serial number, so that a device of the same id that is made again later is
// another one.
func (a *DeviceAuthority) Issue(r *x509.CertificateRequest, id, generation string) ([][]byte, error) {
	serial, err := rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 127))
	if err != nil {
		return nil, err
	}
	now := a.now()
	t := &x509.Certificate{
		SerialNumber: serial, Subject: pkix.Name{CommonName: id, SerialNumber: generation},
		NotBefore: now.Add(-backdate), NotAfter: now.Add(DeviceLife),
		BasicConstraintsValid: true, KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth},
	}
	if t.NotAfter.After(a.inter.NotAfter) {
		t.NotAfter = a.inter.NotAfter
	}
	der, err := sign(t, pair{a.inter, a.key}, r.PublicKey)
	if err != nil {
		return nil, err
	}
	return [][]byte{der, a.inter.Raw, a.root.Raw}, nil
}

// MaxRequest bounds a certificate request, in bytes of DER.
const MaxRequest = 8 << 10

// Errors of ParseRequest.
var (
	ErrRequest    = errors.New("the certificate request cannot be read")
	ErrRequestKey = errors.New("the key of the certificate request is none that certificates are issued for")
	ErrProof      = errors.New("the signature of the certificate request does not verify")
)

// ParseRequest reads a certificate request (PKCS #10, DER) and checks that who made it holds its key. Keys are RSA of 2048 to 4096 bits,
// ECDSA on P-256, P-384 or P-521, and Ed25519.
func ParseRequest(der []byte) (*x509.CertificateRequest, error) {
	if len(der) == 0 || len(der) > MaxRequest {
		return nil, fmt.Errorf("%w: it has %d bytes, 1 to %d are allowed", ErrRequest, len(der), MaxRequest)
	}
	r, err := x509.ParseCertificateRequest(der)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrRequest, err)
	}
	// Before the signature: one of a key of any size may take any time.
	switch k := r.PublicKey.(type) {
	case *rsa.PublicKey:
		if n := k.N.BitLen(); n < 2048 || n > 4096 {
			return nil, fmt.Errorf("%w: RSA keys have 2048 to 4096 bits, not %d", ErrRequestKey, n)
		}
	case *ecdsa.PublicKey:
		switch k.Curve {
		case elliptic.P256(), elliptic.P384(), elliptic.P521():
		default:
			return nil, fmt.Errorf("%w: ECDSA keys are on P-256, P-384 or P-521", ErrRequestKey)
		}
	case ed25519.PublicKey:
	default:
		return nil, fmt.Errorf("%w: %s", ErrRequestKey, r.PublicKeyAlgorithm)
	}
	if err := r.CheckSignature(); err != nil {
		return nil, fmt.Errorf("%w: %w", ErrProof, err)
	}
	return r, nil
}
