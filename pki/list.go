package pki

import (
	"crypto/ecdsa"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"
	"time"
)

// Info describes one certificate of the installation.
type Info struct {
	Name               string    `json:"name"` // root, intermediate-rsa, server-rsa, ...
	Subject            string    `json:"subject"`
	Issuer             string    `json:"issuer"`
	DNSNames           []string  `json:"dnsNames,omitempty"`
	IPs                []string  `json:"ips,omitempty"`
	KeyType            string    `json:"keyType"` // RSA-2048, ECDSA-P-256
	SignatureAlgorithm string    `json:"signatureAlgorithm"`
	Serial             string    `json:"serial"`
	NotBefore          time.Time `json:"notBefore"`
	NotAfter           time.Time `json:"notAfter"`
	RenewAt            time.Time `json:"renewAt,omitzero"` // server certificates only
	Expired            bool      `json:"expired"`
	SHA256             string    `json:"sha256"`
	File               string    `json:"file"`
}

var fileNames = []string{"root", "intermediate-" + kindRSA, "intermediate-" + kindECDSA, "server-" + kindRSA, "server-" + kindECDSA}

// List describes the certificates in dir. It reads public files only.
func List(dir string, now time.Time) ([]Info, error) {
	var list []Info
	for _, name := range fileNames {
		file := filepath.Join(dir, name+".pem")
		chain, err := readChain(file)
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return nil, err
		}
		list = append(list, describe(name, file, chain[0], now))
	}
	if len(list) == 0 {
		return nil, fmt.Errorf("there are no certificates in %s; start `vauban up` first, or name its data folder with --data", dir)
	}
	return list, nil
}

func describe(name, file string, c *x509.Certificate, now time.Time) Info {
	sum := sha256.Sum256(c.Raw)
	i := Info{
		Name: name, Subject: c.Subject.String(), Issuer: c.Issuer.String(), DNSNames: c.DNSNames,
		SignatureAlgorithm: c.SignatureAlgorithm.String(), Serial: c.SerialNumber.Text(16),
		NotBefore: c.NotBefore.UTC(), NotAfter: c.NotAfter.UTC(), Expired: now.After(c.NotAfter),
		SHA256: hex.EncodeToString(sum[:]), File: file,
	}
	for _, ip := range c.IPAddresses {
		i.IPs = append(i.IPs, ip.String())
	}
	switch k := c.PublicKey.(type) {
	case *rsa.PublicKey:
		i.KeyType = fmt.Sprintf("RSA-%d", k.N.BitLen())
	case *ecdsa.PublicKey:
		i.KeyType = "ECDSA-" + k.Curve.Params().Name
	default:
		i.KeyType = c.PublicKeyAlgorithm.String()
	}
	if !c.IsCA {
		i.RenewAt = renewal(c).UTC()
	}
	return i
}
