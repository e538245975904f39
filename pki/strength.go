package pki

import (
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/rsa"
	"crypto/x509"
	"fmt"
)

// Bits of RSA keys that are taken: a shorter one can be broken, and a longer one makes every connection expensive.
const (
	MinRSABits = 2048
	MaxRSABits = 8192
)

// minCurve is the size of P-256.
const minCurve = 256

// CheckKey refuses certificates whose key is too weak, or too large, to prove anything.
func CheckKey(c *x509.Certificate) error {
	switch key := c.PublicKey.(type) {
	case *rsa.PublicKey:
		if n := key.N.BitLen(); n < MinRSABits || n > MaxRSABits {
			return fmt.Errorf("%w: %q has an RSA key of %d bits; %d to %d are accepted", ErrUntrusted, c.Subject, n, MinRSABits, MaxRSABits)
		}
	case *ecdsa.PublicKey:
		if n := key.Curve.Params().BitSize; n < minCurve {
			return fmt.Errorf("%w: %q has a key on a curve of %d bits; at least %d are wanted", ErrUntrusted, c.Subject, n, minCurve)
		}
	case ed25519.PublicKey:
	default:
		return fmt.Errorf("%w: %q has a key of a kind that proves no device: %s", ErrUntrusted, c.Subject, c.PublicKeyAlgorithm)
	}
	return nil
}

// CheckDevice checks what a device's own certificate says of its key: that it is strong, and that it may sign a TLS
// handshake where a key usage exists. Extended key usages are [VerifyChain]'s.
func CheckDevice(c *x509.Certificate) error {
	if c.KeyUsage != 0 && c.KeyUsage&x509.KeyUsageDigitalSignature == 0 {
		return fmt.Errorf("%w: the key usage of %q lacks digitalSignature", ErrUntrusted, c.Subject)
	}
	return CheckKey(c)
}
