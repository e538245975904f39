package secure

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"io"
	"math/big"
	"net"
	"net/netip"
	"testing"
	"time"

	"github.com/vauban-iot/vauban/board/network"
	"github.com/vauban-iot/vauban/board/network/facade"
	"github.com/vauban-iot/vauban/internal/secret"
)

func TestProfile(t *testing.T) {
	t.Parallel()
	for name, want := range map[string]uint16{"getting-started": 0x003C, "azure-iot": 0xC027} {
		p, err := ParseProfile(name)
		if err != nil {
			t.Fatal(err)
		}
		client, server := net.Pipe()
		hello := make(chan *tls.ClientHelloInfo, 1)
		go func() {
			tls.Server(server, &tls.Config{GetConfigForClient: func(h *tls.ClientHelloInfo) (*tls.Config, error) { hello <- h; return nil, io.EOF }}).Handshake()
			server.Close()
		}()
		cfg := p.Config(nil)
		cfg.ServerName = "hub"
		tls.Client(client, cfg).Handshake()
		h := <-hello
		if len(h.CipherSuites) != 1 || h.CipherSuites[0] != want || len(h.SupportedVersions) != 1 || h.SupportedVersions[0] != tls.VersionTLS12 {
			t.Errorf("%s offers suites %#x of %#x; want %#x of TLS 1.2 alone", name, h.CipherSuites, h.SupportedVersions, want)
		}
	}
	if _, err := ParseProfile("ssl3"); err == nil {
		t.Error("an unknown profile is taken")
	}
	if p, err := ParseProfile(""); p != Modern || err != nil {
		t.Error("the default is", p, err)
	}
}

func certificate(t *testing.T, name string, usage x509.ExtKeyUsage) (*tls.Certificate, *x509.CertPool) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	tmpl := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: name}, DNSNames: []string{name}, NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageDigitalSignature | x509.KeyUsageCertSign, ExtKeyUsage: []x509.ExtKeyUsage{usage},
	}
	der, err := x509.CreateCertificate(rand.Reader, tmpl, tmpl, &key.PublicKey, key)
	if err != nil {
		t.Fatal(err)
	}
	leaf, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	roots := x509.NewCertPool()
	roots.AddCert(leaf)
	return &tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key, Leaf: leaf}, roots
}

func TestDTLS(t *testing.T) {
	t.Parallel()
	hub, hubRoots := certificate(t, "hub.example", x509.ExtKeyUsageServerAuth)
	board, boardRoots := certificate(t, "lamp-1", x509.ExtKeyUsageClientAuth)
	_, strangers := certificate(t, "hub.example", x509.ExtKeyUsageServerAuth)
	key := secret.New([]byte("sixteen byte key"))
	for _, tt := range []struct {
		name           string
		client, server DTLS
		refused        bool
	}{
		{"a key", DTLS{Identity: "lamp-1", Key: key}, DTLS{Identity: "hub", Key: key}, false},
		{"another key", DTLS{Identity: "lamp-1", Key: secret.New([]byte("another key of 16"))}, DTLS{Identity: "hub", Key: key}, true},
		{"certificates", DTLS{ServerName: "hub.example", Roots: hubRoots, Certificate: board}, DTLS{Certificate: hub, Roots: boardRoots}, false},
		{"a stranger's certificate", DTLS{ServerName: "hub.example", Roots: strangers}, DTLS{Certificate: hub}, true},
		{"a board without certificate", DTLS{ServerName: "hub.example", Roots: hubRoots}, DTLS{Certificate: hub, Roots: boardRoots}, true},
		{"another name", DTLS{ServerName: "hub2.example", Roots: hubRoots}, DTLS{Certificate: hub}, true},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			limit := 20 * time.Second
			if tt.refused {
				limit = 2 * time.Second // DTLS keeps silent about what it cannot read
			}
			ctx, cancel := context.WithTimeout(t.Context(), limit)
			defer cancel()
			seg := facade.New()
			stack := func(a string) network.Stack {
				s, err := seg.Attach(facade.Config{Addresses: []netip.Prefix{netip.MustParsePrefix(a)}})
				if err != nil {
					t.Fatal(err)
				}
				t.Cleanup(func() { s.Close() })
				return s
			}
			a, b := stack("10.0.0.2/24"), stack("10.0.0.3/24")
			pc, err := b.ListenPacket("udp", ":5684")
			if err != nil {
				t.Fatal(err)
			}
			served := make(chan error, 1)
			go func() {
				// The peer is who sends first; its port is the first of the row.
				c, err := AcceptDTLS(ctx, pc, &net.UDPAddr{IP: net.IPv4(10, 0, 0, 2), Port: 49152}, tt.server)
				if err == nil {
					defer c.Close()
					_, err = io.CopyN(c, c, 4)
				}
				served <- err
			}()
			c, err := DialDTLS(ctx, a, "10.0.0.3:5684", tt.client)
			if err == nil {
				defer c.Close()
				buf := make([]byte, 64)
				if _, err = c.Write([]byte("ping")); err == nil {
					c.SetReadDeadline(time.Now().Add(10 * time.Second))
					var n int
					n, err = c.Read(buf)
					if err == nil && !bytes.Equal(buf[:n], []byte("ping")) {
						t.Errorf("the echo is %q", buf[:n])
					}
				}
			}
			if (err != nil) != tt.refused {
				t.Errorf("the client's side: %v; want refused: %v", err, tt.refused)
			}
			if tt.refused {
				cancel()
			}
			if err := <-served; (err != nil) != tt.refused {
				t.Errorf("the server's side: %v; want refused: %v", err, tt.refused)
			}
			if !tt.refused {
				if flows := a.Collect().Flows; len(flows) != 1 || flows[0].Protocol != "UDP" || flows[0].BytesIn < 100 {
					t.Errorf("flows %+v; want the one of DTLS", flows)
				}
			}
		})
	}
	for _, d := range []DTLS{{Key: key}, {}} {
		if _, err := d.client(); err == nil {
			t.Errorf("%+v is taken", d)
		}
	}
}
