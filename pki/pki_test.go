package pki

import (
	"context"
	"crypto/ecdsa"
	"crypto/rsa"
	"crypto/tls"
	"crypto/x509"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/vauban-iot/vauban/internal/conform"
	"github.com/vauban-iot/vauban/internal/secret"
)

// made is an authority's folder that tests copy: RSA keys take a while.
var made = sync.OnceValues(func() (string, error) {
	dir, err := os.MkdirTemp("", "pki")
	if err != nil {
		return "", err
	}
	sealer, err := secret.OpenSealer(filepath.Join(dir, "master.key"))
	if err != nil {
		return "", err
	}
	_, err = Open(Config{Dir: filepath.Join(dir, "pki"), Hostname: "hub.example.net", Extra: []string{"192.0.2.7", "gw.example.net"}, Sealer: sealer, Logger: slog.New(slog.DiscardHandler)})
	return dir, err
})

func TestMain(m *testing.M) {
	code := m.Run()
	if dir, err := made(); err == nil {
		os.RemoveAll(dir)
	}
	os.Exit(code)
}

// config is that of a copy of the made folder.
func config(t *testing.T) Config {
	t.Helper()
	from, err := made()
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	if err := os.CopyFS(dir, os.DirFS(from)); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(filepath.Join(dir, "master.key"), 0o600); err != nil {
		t.Fatal(err)
	}
	sealer, err := secret.OpenSealer(filepath.Join(dir, "master.key"))
	if err != nil {
		t.Fatal(err)
	}
	return Config{Dir: filepath.Join(dir, "pki"), Hostname: "hub.example.net", Extra: []string{"192.0.2.7", "gw.example.net"}, Sealer: sealer, Logger: slog.New(slog.DiscardHandler)}
}

func open(t *testing.T, cfg Config) *Authority {
	t.Helper()
	a, err := Open(cfg)
	if err != nil {
		t.Fatal(err)
	}
	return a
}

func roots(a *Authority) *x509.CertPool {
	pool := x509.NewCertPool()
	pool.AppendCertsFromPEM(a.RootPEM())
	return pool
}

// handshake runs one over a pipe, and returns what the client saw.
func handshake(t *testing.T, server, client *tls.Config) (tls.ConnectionState, error) {
	t.Helper()
	near, far := net.Pipe()
	defer near.Close()
	done := make(chan error, 1)
	go func() {
		s := tls.Server(far, server)
		done <- s.HandshakeContext(context.Background())
		io.Copy(io.Discard, s)
		far.Close()
	}()
	c := tls.Client(near, client)
	err := c.HandshakeContext(t.Context())
	if err == nil {
		err = <-done
	}
	return c.ConnectionState(), err
}

func TestChains(t *testing.T) {
	t.Parallel()
	a := open(t, config(t))
	for name, tc := range map[string]struct {
		client *tls.Config
		rsa    bool
	}{
		"modern client":       {&tls.Config{ServerName: "hub.example.net"}, false},
		"TLS 1.2":             {&tls.Config{ServerName: "hub.example.net", MaxVersion: tls.VersionTLS12}, false},
		"by an extra name":    {&tls.Config{ServerName: "gw.example.net"}, false},
		"by an extra address": {&tls.Config{ServerName: "192.0.2.7"}, false},
		"by localhost":        {&tls.Config{ServerName: "localhost"}, false},
		"RSA only":            {&tls.Config{ServerName: "hub.example.net", MaxVersion: tls.VersionTLS12, CipherSuites: []uint16{tls.TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384}}, true},
		"no P-256":            {&tls.Config{ServerName: "hub.example.net", MaxVersion: tls.VersionTLS12, CurvePreferences: []tls.CurveID{tls.CurveP384}}, true},
	} {
		tc.client.RootCAs = roots(a)
		s, err := handshake(t, a.DeviceTLS(), tc.client)
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		chain := s.VerifiedChains[0]
		if len(s.PeerCertificates) != 2 || len(chain) != 3 || chain[2].Subject.CommonName != "Vauban root hub.example.net" {
			t.Errorf("%s: %d certificates sent, chain of %d to %s; want leaf and intermediate", name, len(s.PeerCertificates), len(chain), chain[len(chain)-1].Subject)
		}
		leaf, intermediate := chain[0], chain[1]
		switch k := leaf.PublicKey.(type) {
		case *rsa.PublicKey:
			if !tc.rsa || k.N.BitLen() != 2048 {
				t.Errorf("%s: an RSA certificate of %d bits", name, k.N.BitLen())
			}
			for _, c := range chain {
				if c.SignatureAlgorithm != x509.SHA256WithRSA || c.PublicKeyAlgorithm != x509.RSA {
					t.Errorf("%s: %s has a %v key, signed with %v", name, c.Subject, c.PublicKeyAlgorithm, c.SignatureAlgorithm)
				}
			}
		case *ecdsa.PublicKey:
			if tc.rsa || k.Curve.Params().Name != "P-256" || leaf.SignatureAlgorithm != x509.ECDSAWithSHA256 {
				t.Errorf("%s: an ECDSA certificate on %s, signed with %v", name, k.Curve.Params().Name, leaf.SignatureAlgorithm)
			}
		}
		if leaf.IsCA || !intermediate.IsCA || !intermediate.MaxPathLenZero || !slices.Contains(leaf.ExtKeyUsage, x509.ExtKeyUsageServerAuth) {
			t.Errorf("%s: leaf is a CA: %v; intermediate is one: %v, path length 0: %v", name, leaf.IsCA, intermediate.IsCA, intermediate.MaxPathLenZero)
		}
		if life := leaf.NotAfter.Sub(leaf.NotBefore); life < serverLife || life > serverLife+2*backdate {
			t.Errorf("%s: the leaf lives %v", name, life)
		}
	}
}

func TestDeviceTLS_Suites(t *testing.T) {
	t.Parallel()
	conform.Covers(t, "HD-2")
	cfg := config(t)
	plain := open(t, cfg)
	cfg.AllowStaticRSA = true
	static := open(t, cfg)
	for name, tc := range map[string]struct {
		authority *Authority
		suite     uint16
		ok        bool
	}{
		"0xC027":                     {plain, tls.TLS_ECDHE_RSA_WITH_AES_128_CBC_SHA256, true},
		"0xC023":                     {plain, tls.TLS_ECDHE_ECDSA_WITH_AES_128_CBC_SHA256, true},
		"0x003C with the switch off": {plain, tls.TLS_RSA_WITH_AES_128_CBC_SHA256, false},
		"0x003C with the switch on":  {static, tls.TLS_RSA_WITH_AES_128_CBC_SHA256, true},
		"0x002F":                     {static, tls.TLS_RSA_WITH_AES_128_CBC_SHA, false},
		"RC4":                        {static, tls.TLS_ECDHE_RSA_WITH_RC4_128_SHA, false},
		"3DES":                       {static, tls.TLS_ECDHE_RSA_WITH_3DES_EDE_CBC_SHA, false},
	} {
		// No server name: such devices send none.
		s, err := handshake(t, tc.authority.DeviceTLS(), &tls.Config{InsecureSkipVerify: true, MaxVersion: tls.VersionTLS12, CipherSuites: []uint16{tc.suite}})
		if tc.ok && (err != nil || s.CipherSuite != tc.suite) {
			t.Errorf("%s: suite %#x, %v", name, s.CipherSuite, err)
		}
		if !tc.ok && (err == nil || !strings.Contains(err.Error(), "handshake failure")) {
			t.Errorf("%s: got %v, want a handshake failure", name, err)
		}
		if tc.ok && tc.suite != tls.TLS_ECDHE_ECDSA_WITH_AES_128_CBC_SHA256 && s.PeerCertificates[0].PublicKeyAlgorithm != x509.RSA {
			t.Errorf("%s: a %v certificate", name, s.PeerCertificates[0].PublicKeyAlgorithm)
		}
	}
	// All that NetX Duo has to offer.
	s, err := handshake(t, plain.DeviceTLS(), &tls.Config{
		InsecureSkipVerify: true, MaxVersion: tls.VersionTLS12, CurvePreferences: []tls.CurveID{tls.CurveP384},
		CipherSuites: []uint16{tls.TLS_ECDHE_RSA_WITH_AES_128_CBC_SHA256},
	})
	if err != nil || s.CurveID != tls.CurveP384 {
		t.Errorf("P-384 alone: curve %v, %v", s.CurveID, err)
	}
}

func TestDeviceTLS_ClientCertificate(t *testing.T) {
	t.Parallel()
	a := open(t, config(t))
	asked := 0
	client := &tls.Config{RootCAs: roots(a), ServerName: "hub.example.net", GetClientCertificate: func(r *tls.CertificateRequestInfo) (*tls.Certificate, error) {
		asked++
		if len(r.AcceptableCAs) != 0 {
			t.Errorf("%d CAs are named, want none", len(r.AcceptableCAs))
		}
		return &tls.Certificate{}, nil
	}}
	for _, v := range []uint16{tls.VersionTLS12, tls.VersionTLS13} {
		client.MinVersion, client.MaxVersion = v, v
		if _, err := handshake(t, a.DeviceTLS(), client); err != nil {
			t.Errorf("%s: %v", tls.VersionName(v), err)
		}
	}
	if asked != 2 {
		t.Errorf("a certificate was asked for %d times, want 2", asked)
	}
	client.MinVersion, client.MaxVersion = tls.VersionTLS11, tls.VersionTLS11
	if _, err := handshake(t, a.DeviceTLS(), client); err == nil {
		t.Error("TLS 1.1 is spoken")
	}
}

// The Certificate message of TLS 1.2: 3 bytes of length for the list and for each certificate, behind a header of 4.
func TestDeviceTLS_CertificateMessageFits(t *testing.T) {
	t.Parallel()
	a := open(t, config(t))
	for _, c := range []tls.Certificate{a.servers.Load().rsa, a.servers.Load().ecdsa} {
		n := 4 + 3
		for _, der := range c.Certificate {
			n += 3 + len(der)
		}
		if n > 3584 {
			t.Errorf("the Certificate message has %d bytes, want at most 3.5 KiB", n)
		}
	}
}

func TestOpen_SecondTimeKeepsEverything(t *testing.T) {
	t.Parallel()
	cfg := config(t)
	before := files(t, cfg.Dir)
	open(t, cfg)
	if after := files(t, cfg.Dir); after != before {
		t.Errorf("the folder changed:\n%s\nbefore:\n%s", after, before)
	}
	original, _ := made() // config succeeded
	for _, name := range []string{"root", "intermediate-rsa", "server-ecdsa"} {
		info, err := os.Stat(filepath.Join(original, "pki", name+".key.sealed")) // a copy has modes of its own
		if err != nil || info.Mode().Perm() != 0o600 {
			t.Errorf("key of %s: %v, %v", name, info.Mode(), err)
		}
	}
}

func files(t *testing.T, dir string) string {
	t.Helper()
	var b strings.Builder
	list, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range list {
		data, err := os.ReadFile(filepath.Join(dir, f.Name()))
		if err != nil {
			t.Fatal(err)
		}
		fmt.Fprintf(&b, "%s %x\n", f.Name(), data)
	}
	return b.String()
}

func TestOpen_OtherNamesMeanNewServerCertificates(t *testing.T) {
	t.Parallel()
	cfg := config(t)
	old := open(t, cfg)
	cfg.Hostname = "hub2.example.net"
	a := open(t, cfg)
	if s, err := handshake(t, a.DeviceTLS(), &tls.Config{RootCAs: roots(old), ServerName: "hub2.example.net"}); err != nil {
		t.Errorf("devices that trust the root do not trust the new name: %v", err)
	} else if s.PeerCertificates[0].Subject.CommonName != "hub2.example.net" {
		t.Errorf("common name %q", s.PeerCertificates[0].Subject.CommonName)
	}
}

func TestOpen_Damage(t *testing.T) {
	t.Parallel()
	for name, tc := range map[string]struct {
		damage func(t *testing.T, cfg *Config)
		want   string // in the error
	}{
		"root gone": {func(t *testing.T, cfg *Config) { remove(t, cfg, "root.pem") }, "backup"},
		"key gone":  {func(t *testing.T, cfg *Config) { remove(t, cfg, "root.key.sealed") }, "backup"},
		"broken PEM": {func(t *testing.T, cfg *Config) {
			write(t, cfg, "root.pem", "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n")
		}, "damaged"},
		"changed key": {func(t *testing.T, cfg *Config) {
			write(t, cfg, "root.key.sealed", "\x01 some bytes that nobody sealed")
		}, "master key"},
		"keys exchanged":  {func(t *testing.T, cfg *Config) { copyFile(t, cfg, "server-rsa.pem", "server-ecdsa.pem") }, "belong together"},
		"another master":  {func(t *testing.T, cfg *Config) { cfg.Sealer = newSealer(t) }, "master key"},
		"nothing to seal": {func(t *testing.T, cfg *Config) { cfg.Sealer = nil }, "required"},
		"no folder":       {func(t *testing.T, cfg *Config) { cfg.Dir = filepath.Join(cfg.Dir, "root.pem") }, "create"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			cfg := config(t)
			tc.damage(t, &cfg)
			if _, err := Open(cfg); err == nil || !strings.Contains(err.Error(), tc.want) {
				t.Errorf("got %v, want an error with %q", err, tc.want)
			}
		})
	}
	t.Run("server certificate gone", func(t *testing.T) { // a crash between two writes: made anew
		t.Parallel()
		cfg := config(t)
		remove(t, &cfg, "server-rsa.pem")
		a := open(t, cfg)
		if _, err := handshake(t, a.DeviceTLS(), &tls.Config{RootCAs: roots(a), ServerName: "hub.example.net"}); err != nil {
			t.Error(err)
		}
	})
}

func remove(t *testing.T, cfg *Config, name string) {
	t.Helper()
	if err := os.Remove(filepath.Join(cfg.Dir, name)); err != nil {
		t.Fatal(err)
	}
}

func write(t *testing.T, cfg *Config, name, text string) {
	t.Helper()
	if err := os.WriteFile(filepath.Join(cfg.Dir, name), []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
}

func copyFile(t *testing.T, cfg *Config, to, from string) {
	t.Helper()
	data, err := os.ReadFile(filepath.Join(cfg.Dir, from))
	if err != nil {
		t.Fatal(err)
	}
	write(t, cfg, to, string(data))
}

func newSealer(t *testing.T) *secret.Sealer {
	t.Helper()
	s, err := secret.OpenSealer(filepath.Join(t.TempDir(), "key"))
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// Server certificates are renewed at two thirds of their life, in place: connections stay,
// new ones see the new certificate, and the root is the same.
func TestRun_Renews(t *testing.T) {
	t.Parallel()
	cfg := config(t)
	synctest.Test(t, func(t *testing.T) {
		// The clock of a bubble starts in 2000; the certificates of config are of today.
		start, real := time.Now(), certTime(t, cfg.Dir)
		cfg.Now = func() time.Time { return real.Add(time.Since(start)) }
		a := open(t, cfg)
		first := a.servers.Load()
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error, 1)
		go func() { done <- a.Run(ctx) }()

		near, far := net.Pipe()
		go io.Copy(io.Discard, tls.Server(far, a.DeviceTLS()))
		verify := &tls.Config{RootCAs: roots(a), ServerName: "hub.example.net", Time: cfg.Now}
		old := tls.Client(near, verify)
		if err := old.HandshakeContext(ctx); err != nil {
			t.Fatal(err)
		}

		twoThirds := first.rsa.Leaf.NotAfter.Sub(first.rsa.Leaf.NotBefore) * 2 / 3
		time.Sleep(twoThirds - backdate - time.Minute)
		synctest.Wait()
		if a.servers.Load() != first {
			t.Error("renewed before two thirds of the life had passed")
		}
		time.Sleep(2 * time.Minute)
		synctest.Wait()
		second := a.servers.Load()
		if second == first || second.rsa.Leaf.Equal(first.rsa.Leaf) || second.ecdsa.Leaf.Equal(first.ecdsa.Leaf) {
			t.Fatal("not renewed after two thirds of the life")
		}
		if _, err := old.Write([]byte("still here")); err != nil {
			t.Errorf("the connection made before: %v", err)
		}
		near.Close()
		s, err := handshake(t, a.DeviceTLS(), verify)
		if err != nil || !s.PeerCertificates[0].Equal(second.ecdsa.Leaf) {
			t.Errorf("a new connection does not see the new certificate: %v", err)
		}
		// And so on, without end.
		time.Sleep(400 * 24 * time.Hour)
		synctest.Wait()
		if _, err := handshake(t, a.DeviceTLS(), verify); err != nil {
			t.Errorf("after a year: %v", err)
		}
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
		// What it made is what the next start finds.
		last := a.servers.Load()
		again := open(t, cfg)
		if !again.servers.Load().rsa.Leaf.Equal(last.rsa.Leaf) {
			t.Error("the next start does not offer the renewed certificate")
		}
	})
}

func certTime(t *testing.T, dir string) time.Time {
	t.Helper()
	chain, err := readChain(filepath.Join(dir, "server-rsa.pem"))
	if err != nil {
		t.Fatal(err)
	}
	return chain[0].NotBefore.Add(backdate)
}

// A renewal that fails leaves the old certificate on offer, says so, and is tried again.
func TestRun_RenewalFails(t *testing.T) {
	t.Parallel()
	cfg := config(t)
	synctest.Test(t, func(t *testing.T) {
		start, real := time.Now(), certTime(t, cfg.Dir)
		cfg.Now = func() time.Time { return real.Add(time.Since(start)) }
		a := open(t, cfg)
		first := a.servers.Load()
		key := filepath.Join(cfg.Dir, "server-rsa.key.sealed")
		good, err := os.ReadFile(key)
		if err != nil {
			t.Fatal(err)
		}
		write(t, &cfg, "server-rsa.key.sealed", "damaged")
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error, 1)
		go func() { done <- a.Run(ctx) }()
		time.Sleep(61 * 24 * time.Hour)
		synctest.Wait()
		if a.servers.Load() != first {
			t.Error("another certificate is on offer")
		}
		if err := os.WriteFile(key, good, 0o600); err != nil {
			t.Fatal(err)
		}
		time.Sleep(2 * time.Hour)
		synctest.Wait()
		if a.servers.Load() == first {
			t.Error("the renewal was not tried again")
		}
		cancel()
		<-done
	})
}

func TestList(t *testing.T) {
	t.Parallel()
	cfg := config(t)
	open(t, cfg)
	now := time.Now()
	list, err := List(cfg.Dir, now)
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, i := range list {
		names = append(names, i.Name)
		server := strings.HasPrefix(i.Name, "server-")
		if i.Expired || i.Serial == "" || len(i.SHA256) != 64 || i.RenewAt.IsZero() == server || !i.NotAfter.After(now) {
			t.Errorf("%+v", i)
		}
		wantKey := "RSA-2048"
		if strings.HasSuffix(i.Name, "-ecdsa") {
			wantKey = "ECDSA-P-256"
		}
		if i.KeyType != wantKey {
			t.Errorf("%s: key %s, want %s", i.Name, i.KeyType, wantKey)
		}
		if server && (!slices.Equal(i.DNSNames, []string{"hub.example.net", "localhost", "gw.example.net"}) || !slices.Equal(i.IPs, []string{"127.0.0.1", "::1", "192.0.2.7"})) {
			t.Errorf("%s: names %v, addresses %v", i.Name, i.DNSNames, i.IPs)
		}
	}
	if got := fmt.Sprint(names); got != "[root intermediate-rsa intermediate-ecdsa server-rsa server-ecdsa]" {
		t.Errorf("got %s", got)
	}
	if list, err = List(cfg.Dir, now.Add(100*24*time.Hour)); err != nil || !list[3].Expired || list[0].Expired {
		t.Errorf("in a hundred days: %+v, %v", list, err)
	}
	if _, err := List(t.TempDir(), now); err == nil || !strings.Contains(err.Error(), "vauban up") {
		t.Errorf("of an empty folder: %v, want a hint", err)
	}
}

func TestParseCertificates(t *testing.T) {
	t.Parallel()
	a := open(t, config(t))
	root, der := a.RootPEM(), a.root.cert.Raw
	for name, tc := range map[string]struct {
		data []byte
		n    int // 0: an error
	}{
		"PEM":            {root, 1},
		"two":            {append(slices.Clone(root), root...), 2},
		"with text":      {append([]byte("subject: x\n"), root...), 1},
		"blanks around":  {[]byte(" \n" + string(root) + "\n "), 1},
		"DER":            {der, 1},
		"base64":         {[]byte(base64.StdEncoding.EncodeToString(der)), 1},
		"empty":          {nil, 0},
		"blank":          {[]byte(" \n"), 0},
		"rubbish":        {[]byte("hello"), 0},
		"a private key":  {[]byte("-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n"), 0},
		"key and cert":   {append(slices.Clone(root), "-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n"...), 0},
		"cut":            {root[:len(root)/2], 0},
		"seventeen":      {slices.Repeat(root, 17), 0},
		"far too long":   {make([]byte, 65<<10), 0},
		"DER cut":        {der[:100], 0},
		"broken content": {[]byte("-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"), 0},
	} {
		cs, err := ParseCertificates(tc.data)
		if (err == nil) != (tc.n > 0) || len(cs) != tc.n {
			t.Errorf("%s: %d certificates, %v; want %d", name, len(cs), err, tc.n)
		}
	}
	if _, err := ParseCertificates(nil); !errors.Is(err, ErrNoCertificate) {
		t.Errorf("nothing: %v", err)
	}
}

func FuzzParseCertificates(f *testing.F) {
	f.Add([]byte("-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"))
	f.Add([]byte("AAAA"))
	f.Fuzz(func(t *testing.T, data []byte) {
		cs, err := ParseCertificates(data)
		if (err == nil) != (len(cs) > 0) {
			t.Errorf("%d certificates and %v", len(cs), err)
		}
	})
}
