package pki

import (
	"bytes"
	"crypto/sha1"
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"encoding/hex"
	"encoding/pem"
	"errors"
	"fmt"
	"strings"
	"time"
)

// Errors of VerifyChain and ParseCertificates.
var (
	ErrNoCertificate = errors.New("no certificate")
	ErrExpired       = errors.New("the certificate is not valid at this time")
	ErrUntrusted     = errors.New("the certificate does not chain to a trusted authority")
)

// Thumbprints returns a certificate's SHA-1 and SHA-256 in upper-case hex.
func Thumbprints(c *x509.Certificate) (sha1Hex, sha256Hex string) {
	one, two := sha1.Sum(c.Raw), sha256.Sum256(c.Raw)
	return strings.ToUpper(hex.EncodeToString(one[:])), strings.ToUpper(hex.EncodeToString(two[:]))
}

// Limits of what ParseCertificates reads.
const (
	maxCertificateBytes = 64 << 10
	maxCertificates     = 16
)

// ParseCertificates reads certificates as people and services hand them over: PEM, of one
// or more, base64 DER without armour, or DER. At least one is returned.
func ParseCertificates(data []byte) ([]*x509.Certificate, error) {
	if len(data) > maxCertificateBytes {
		return nil, fmt.Errorf("%d bytes are more than a certificate chain has", len(data))
	}
	trimmed := bytes.TrimSpace(data)
	if len(trimmed) == 0 {
		return nil, ErrNoCertificate
	}
	if !bytes.Contains(trimmed, []byte("-----BEGIN")) {
		if der, err := base64.StdEncoding.DecodeString(string(trimmed)); err == nil {
			data = der
		}
		c, err := x509.ParseCertificate(data)
		if err != nil {
			return nil, fmt.Errorf("neither PEM nor a DER certificate: %w", err)
		}
		return []*x509.Certificate{c}, nil
	}
	var certs []*x509.Certificate
	for rest := trimmed; ; {
		var block *pem.Block
		block, rest = pem.Decode(rest)
		if block == nil {
			break
		}
		if block.Type != "CERTIFICATE" {
			return nil, fmt.Errorf("the PEM text holds a %s, which is no certificate", block.Type)
		}
		if len(certs) == maxCertificates {
			return nil, fmt.Errorf("more than %d certificates", maxCertificates)
		}
		c, err := x509.ParseCertificate(block.Bytes)
		if err != nil {
			return nil, fmt.Errorf("certificate %d cannot be read: %w", len(certs)+1, err)
		}
		certs = append(certs, c)
	}
	if len(certs) == 0 {
		return nil, ErrNoCertificate
	}
	return certs, nil
}

// VerifyChain checks that the presented certificates, leaf first, lead to one of the anchors,
// which may be an intermediate; the root itself need not be presented (dps §8.3).
// Dates, signatures, CA constraints, and clientAuth where an extended key usage
// exists, are checked, and that no key of the chain is weak. The chain found is returned, leaf first, anchor last.
func VerifyChain(presented, anchors []*x509.Certificate, now time.Time) ([]*x509.Certificate, error) {
	if len(presented) == 0 {
		return nil, ErrNoCertificate
	}
	roots, between := x509.NewCertPool(), x509.NewCertPool()
	for _, c := range anchors {
		roots.AddCert(c)
	}
	for _, c := range presented[1:] {
		between.AddCert(c)
	}
	chains, err := presented[0].Verify(x509.VerifyOptions{
		Roots: roots, Intermediates: between, CurrentTime: now, KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth},
	})
	if err != nil {
		if invalid, ok := errors.AsType[x509.CertificateInvalidError](err); ok && invalid.Reason == x509.Expired {
			return nil, fmt.Errorf("%w: %w", ErrExpired, err)
		}
		return nil, fmt.Errorf("%w: %w", ErrUntrusted, err)
	}
	for _, c := range chains[0] { // crypto/x509 does not look
		if err := CheckKey(c); err != nil {
			return nil, err
		}
	}
	return chains[0], nil
}
