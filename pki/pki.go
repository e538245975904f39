// Package pki is the installation's certificate authority: a root that devices
// trust, intermediates, and server certificates that renew themselves, offered to
// devices under one TLS profile (hub-device §1.3). It also judges the certificates
// that devices present.
//
// Two chains hang from one RSA root: an all-RSA one, which the smallest devices
// need, and an ECDSA one, which is cheaper for everybody else. Private keys are sealed at rest.
package pki

import (
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/vauban-iot/vauban/internal/atomicfile"
	"github.com/vauban-iot/vauban/internal/secret"
)

// Config of an authority. Dir, Hostname and Sealer are required.
type Config struct {
	Dir      string   // folder of certificates and sealed keys
	Hostname string   // name on the server certificates
	Extra    []string // more DNS names or IP addresses on them
	Sealer   *secret.Sealer
	Now      func() time.Time // nil: time.Now
	Logger   *slog.Logger     // nil: slog.Default()
	// AllowStaticRSA also offers TLS_RSA_WITH_AES_128_CBC_SHA256 (0x003C), for old firmware that
	// knows nothing else. It has no forward secrecy.
	AllowStaticRSA bool
}

// Lives of the certificates. Server certificates are renewed when two thirds have passed.
const (
	rootLife         = 20 * 365 * 24 * time.Hour
	intermediateLife = 10 * 365 * 24 * time.Hour
	serverLife       = 90 * 24 * time.Hour
	backdate         = time.Hour // for clocks that are behind
)

// Authority issues and renews the installation's certificates.
type Authority struct {
	cfg     Config
	log     *slog.Logger
	now     func() time.Time
	root    pair
	inter   map[string]pair // by kind
	servers atomic.Pointer[servers]
	mu      sync.Mutex // one issue at a time
}

// pair is a certificate and its key.
type pair struct {
	cert *x509.Certificate
	key  crypto.Signer
}

// servers are the certificates offered now.
type servers struct {
	rsa, ecdsa tls.Certificate
}

// Kinds of keys, as they stand in file names.
const (
	kindRSA   = "rsa"
	kindECDSA = "ecdsa"
)

const rsaBits = 2048

// Open reads the authority in cfg.Dir, or makes a new one. What exists is never
// replaced, but for server certificates that are due or bear other names.
func Open(cfg Config) (*Authority, error) {
	if cfg.Dir == "" || cfg.Hostname == "" || cfg.Sealer == nil {
		return nil, errors.New("pki: Dir, Hostname and Sealer are required")
	}
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	if cfg.Logger == nil {
		cfg.Logger = slog.Default()
	}
	if err := os.MkdirAll(cfg.Dir, 0o755); err != nil {
		return nil, fmt.Errorf("pki: create %s: %w", cfg.Dir, err)
	}
	a := &Authority{cfg: cfg, log: cfg.Logger, now: cfg.Now, inter: map[string]pair{}}
	// Fresh keys are made side by side: RSA ones take a while.
	var keys [3]crypto.Signer // of root, RSA intermediate and RSA server, at a first start
	if _, err := os.Stat(a.path("root.pem")); errors.Is(err, fs.ErrNotExist) {
		if err := a.refuseOrphans(); err != nil {
			return nil, err
		}
		var g errgroup.Group
		for i := range 3 {
			g.Go(func() (err error) {
				keys[i], err = rsa.GenerateKey(rand.Reader, rsaBits)
				return err
			})
		}
		if err := g.Wait(); err != nil {
			return nil, err
		}
	}
	var err error
	a.root, err = a.ensure("root", keys[0], func() *x509.Certificate { return a.template("Vauban root "+cfg.Hostname, rootLife, true) }, pair{})
	if err != nil {
		return nil, err
	}
	for i, kind := range []string{kindRSA, kindECDSA} {
		key := keys[1]
		if i == 1 {
			key = nil
		}
		a.inter[kind], err = a.ensure("intermediate-"+kind, key, func() *x509.Certificate {
			t := a.template("Vauban "+kind+" intermediate", intermediateLife, true)
			t.MaxPathLenZero = true
			return t
		}, a.root)
		if err != nil {
			return nil, err
		}
	}
	return a, a.ensureServers(keys[2])
}

// refuseOrphans keeps a lost root from being replaced behind the devices' back: intermediates
// without a root mean that root.pem was removed, not that this is a first start.
func (a *Authority) refuseOrphans() error {
	for _, kind := range []string{kindRSA, kindECDSA} {
		if _, err := os.Stat(a.path("intermediate-" + kind + ".pem")); err == nil {
			return fmt.Errorf("pki: %s is missing but certificates it signed are there; restore it from a backup, or remove the whole folder %s to start anew (every device must then trust the new root)",
				a.path("root.pem"), a.cfg.Dir)
		}
	}
	return nil
}

func (a *Authority) path(name string) string { return filepath.Join(a.cfg.Dir, name) }

// RootFile is the PEM file that devices and programs trust.
func (a *Authority) RootFile() string { return a.path("root.pem") }

// RootPEM is the content of RootFile.
func (a *Authority) RootPEM() []byte { return encodeCert(a.root.cert.Raw) }

func encodeCert(der []byte) []byte {
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})
}

// ensure reads a CA certificate or makes it, signed by parent (the zero pair: by itself). The
// key is written before the certificate, so a certificate without key was never complete.
func (a *Authority) ensure(name string, key crypto.Signer, template func() *x509.Certificate, parent pair) (pair, error) {
	p, err := a.load(name)
	if !errors.Is(err, fs.ErrNotExist) {
		return p, err
	}
	if key == nil {
		if key, err = newKey(name); err != nil {
			return p, err
		}
	}
	t := template()
	if parent.cert == nil {
		parent = pair{t, key}
	}
	der, err := sign(t, parent, key.Public())
	if err != nil {
		return p, err
	}
	if err := a.saveKey(name, key); err != nil {
		return p, err
	}
	if err := atomicfile.Write(a.path(name+".pem"), encodeCert(der), 0o644); err != nil {
		return p, err
	}
	cert, err := x509.ParseCertificate(der)
	return pair{cert, key}, err
}

func newKey(name string) (crypto.Signer, error) {
	if name == "intermediate-"+kindECDSA || name == "server-"+kindECDSA {
		return ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	}
	return rsa.GenerateKey(rand.Reader, rsaBits)
}

func sign(t *x509.Certificate, parent pair, public crypto.PublicKey) ([]byte, error) {
	t.SignatureAlgorithm = x509.ECDSAWithSHA256
	if _, ok := parent.key.(*rsa.PrivateKey); ok {
		t.SignatureAlgorithm = x509.SHA256WithRSA // PKCS#1 v1.5: small devices know no PSS (hub-device §1.3)
	}
	return x509.CreateCertificate(rand.Reader, t, parent.cert, public, parent.key)
}

func (a *Authority) template(name string, life time.Duration, ca bool) *x509.Certificate {
	serial, err := rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 127))
	if err != nil {
		panic(err) // crypto/rand never fails
	}
	now := a.now()
	t := &x509.Certificate{
		SerialNumber:          serial,
		Subject:               pkix.Name{CommonName: name},
		NotBefore:             now.Add(-backdate),
		NotAfter:              now.Add(life),
		BasicConstraintsValid: true,
		IsCA:                  ca,
		KeyUsage:              x509.KeyUsageDigitalSignature,
	}
	if ca {
		t.KeyUsage = x509.KeyUsageCertSign | x509.KeyUsageCRLSign
	}
	return t
}

// load reads a certificate and its key; fs.ErrNotExist when the certificate is not there.
func (a *Authority) load(name string) (pair, error) {
	chain, err := readChain(a.path(name + ".pem"))
	if err != nil {
		return pair{}, err
	}
	file := a.path(name + ".key.sealed")
	sealed, err := os.ReadFile(file)
	if errors.Is(err, fs.ErrNotExist) {
		return pair{}, fmt.Errorf("pki: the key %s is missing; restore it from a backup", file)
	}
	if err != nil {
		return pair{}, fmt.Errorf("pki: %w", err)
	}
	der, err := a.cfg.Sealer.Open("pki/"+name, sealed)
	if err != nil {
		return pair{}, fmt.Errorf("pki: the key %s does not open with this installation's master key; restore both from the same backup: %w", file, err)
	}
	k, err := x509.ParsePKCS8PrivateKey(der)
	if err != nil {
		return pair{}, fmt.Errorf("pki: the key %s is damaged: %w", file, err)
	}
	key, ok := k.(crypto.Signer)
	if !ok {
		return pair{}, fmt.Errorf("pki: the key %s cannot sign", file)
	}
	type equaler interface{ Equal(crypto.PublicKey) bool }
	if e, ok := key.Public().(equaler); !ok || !e.Equal(chain[0].PublicKey) {
		return pair{}, fmt.Errorf("pki: %s and its key do not belong together; restore both from the same backup", a.path(name+".pem"))
	}
	return pair{chain[0], key}, nil
}

func readChain(file string) ([]*x509.Certificate, error) {
	data, err := os.ReadFile(file)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	if err != nil {
		return nil, fmt.Errorf("pki: %w", err)
	}
	chain, err := ParseCertificates(data)
	if err != nil {
		return nil, fmt.Errorf("pki: %s is damaged: %w; restore it from a backup", file, err)
	}
	return chain, nil
}

func (a *Authority) saveKey(name string, key crypto.Signer) error {
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return err
	}
	return atomicfile.Write(a.path(name+".key.sealed"), a.cfg.Sealer.Seal("pki/"+name, der), 0o600)
}

// names splits what stands on the server certificates.
func (a *Authority) names() (dns []string, ips []net.IP) {
	add := func(name string) {
		if ip := net.ParseIP(name); ip != nil {
			if !slices.ContainsFunc(ips, ip.Equal) {
				ips = append(ips, ip)
			}
		} else if !slices.Contains(dns, name) {
			dns = append(dns, name)
		}
	}
	add(a.cfg.Hostname)
	add("localhost")
	add("127.0.0.1")
	add("::1")
	for _, name := range a.cfg.Extra {
		add(name)
	}
	return dns, ips
}

// ensureServers offers the stored server certificates, or new ones when they are missing, due
// or for other names. rsaKey may hold a fresh key for the first issue.
func (a *Authority) ensureServers(rsaKey crypto.Signer) error {
	var s servers
	for kind, offered := range map[string]*tls.Certificate{kindRSA: &s.rsa, kindECDSA: &s.ecdsa} {
		p, err := a.load("server-" + kind)
		switch {
		case errors.Is(err, fs.ErrNotExist), err == nil && !a.fits(p.cert):
			key := rsaKey
			if kind == kindECDSA {
				key = nil
			}
			if p, err = a.issue(kind, key); err != nil {
				return err
			}
		case err != nil:
			return err
		}
		*offered = a.offer(kind, p)
	}
	a.servers.Store(&s)
	return nil
}

// fits reports whether cert bears the right names and is not due for renewal.
func (a *Authority) fits(cert *x509.Certificate) bool {
	dns, ips := a.names()
	return slices.Equal(cert.DNSNames, dns) && slices.EqualFunc(cert.IPAddresses, ips, net.IP.Equal) &&
		cert.Subject.CommonName == a.cfg.Hostname && a.now().Before(renewal(cert))
}

// renewal is when two thirds of a certificate's life have passed.
func renewal(cert *x509.Certificate) time.Time {
	return cert.NotBefore.Add(cert.NotAfter.Sub(cert.NotBefore) * 2 / 3)
}

func (a *Authority) issue(kind string, key crypto.Signer) (pair, error) {
	name := "server-" + kind
	if key == nil {
		var err error
		if key, err = newKey(name); err != nil {
			return pair{}, err
		}
	}
	t := a.template(a.cfg.Hostname, serverLife, false)
	t.DNSNames, t.IPAddresses = a.names()
	t.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}
	if kind == kindRSA {
		t.KeyUsage |= x509.KeyUsageKeyEncipherment // static RSA key exchange of old firmware
	}
	der, err := sign(t, a.inter[kind], key.Public())
	if err != nil {
		return pair{}, err
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		return pair{}, err
	}
	// Removed first: a crash between the two writes leaves no certificate, never a wrong pair.
	if err := os.Remove(a.path(name + ".pem")); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return pair{}, err
	}
	if err := a.saveKey(name, key); err != nil {
		return pair{}, err
	}
	chain := append(encodeCert(der), encodeCert(a.inter[kind].cert.Raw)...)
	if err := atomicfile.Write(a.path(name+".pem"), chain, 0o644); err != nil {
		return pair{}, err
	}
	a.log.Info("server certificate issued", "kind", kind, "name", a.cfg.Hostname, "notAfter", cert.NotAfter)
	return pair{cert, key}, nil
}

func (a *Authority) offer(kind string, p pair) tls.Certificate {
	c := tls.Certificate{Certificate: [][]byte{p.cert.Raw, a.inter[kind].cert.Raw}, PrivateKey: p.key, Leaf: p.cert}
	if kind == kindRSA {
		c.SupportedSignatureAlgorithms = []tls.SignatureScheme{
			tls.PKCS1WithSHA256, tls.PKCS1WithSHA384, tls.PSSWithSHA256, tls.PSSWithSHA384,
		}
	}
	return c
}

// renewRetry is how long a failed renewal waits; a third of a certificate's life is left for it.
const renewRetry = time.Hour

// Run renews server certificates when two thirds of their life have passed. Open connections
// are not touched; new ones see the new certificate.
func (a *Authority) Run(ctx context.Context) error {
	for {
		s := a.servers.Load()
		due := renewal(s.rsa.Leaf)
		if t := renewal(s.ecdsa.Leaf); t.Before(due) {
			due = t
		}
		wait := due.Sub(a.now())
		if wait <= 0 {
			if err := a.renew(); err != nil {
				a.log.Error("server certificates not renewed, trying again", "err", err)
				wait = renewRetry
			} else {
				continue
			}
		}
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(wait):
		}
	}
}

func (a *Authority) renew() error {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.ensureServers(nil)
}
