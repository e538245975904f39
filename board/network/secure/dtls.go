package secure

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"

	"github.com/pion/dtls/v3"
	packets "github.com/pion/dtls/v3/pkg/net"

	"github.com/vauban-iot/vauban/board/network"
	"github.com/vauban-iot/vauban/internal/secret"
)

// DTLS is how a board and its peer know each other over UDP, by DTLS 1.2: either by a key that both have,
// or by certificates.
type DTLS struct {
	Identity string        // of the key
	Key      secret.Secret // zero: by certificates

	Certificate *tls.Certificate // of this side. Servers must have one
	Roots       *x509.CertPool   // who may vouch for the other side; for a server nil asks for no certificate
	ServerName  string           // that the server's certificate must have. Required of clients
}

// Suites as NetX Duo has them (rtos §23).
var (
	keySuites         = []dtls.CipherSuiteID{dtls.TLS_PSK_WITH_AES_128_CCM_8, dtls.TLS_PSK_WITH_AES_128_CBC_SHA256}
	certificateSuites = []dtls.CipherSuiteID{dtls.TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256, dtls.TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256}
)

// DialDTLS connects a board to a UDP address through its network.
func DialDTLS(ctx context.Context, s network.Stack, address string, d DTLS) (net.Conn, error) {
	opts, err := d.client()
	if err != nil {
		return nil, err
	}
	c, err := s.Dial(ctx, "udp", address)
	if err != nil {
		return nil, err
	}
	dc, err := dtls.ClientWithOptions(packets.PacketConnFromConn(c), c.RemoteAddr(), opts...)
	if err == nil {
		if err = dc.HandshakeContext(ctx); err != nil {
			dc.Close()
		}
	}
	if err != nil {
		c.Close()
		return nil, fmt.Errorf("DTLS with %s: %w", address, err)
	}
	return dc, nil
}

func (d DTLS) client() ([]dtls.ClientOption, error) {
	if !d.Key.IsZero() {
		if d.Identity == "" {
			return nil, errors.New("DTLS with a key needs the key's identity")
		}
		return []dtls.ClientOption{dtls.WithCipherSuites(keySuites...), dtls.WithPSK(d.key), dtls.WithPSKIdentityHint([]byte(d.Identity))}, nil
	}
	if d.ServerName == "" {
		return nil, errors.New("DTLS without a key needs the server's name")
	}
	opts := []dtls.ClientOption{dtls.WithCipherSuites(certificateSuites...), dtls.WithServerName(d.ServerName)}
	if d.Roots != nil {
		opts = append(opts, dtls.WithRootCAs(d.Roots))
	}
	if d.Certificate != nil {
		opts = append(opts, dtls.WithCertificates(*d.Certificate))
	}
	return opts, nil
}

// AcceptDTLS is the server's side of one peer's datagrams.
func AcceptDTLS(ctx context.Context, pc net.PacketConn, peer net.Addr, d DTLS) (net.Conn, error) {
	var opts []dtls.ServerOption
	switch {
	case !d.Key.IsZero():
		opts = []dtls.ServerOption{dtls.WithCipherSuites(keySuites...), dtls.WithPSK(d.key), dtls.WithPSKIdentityHint([]byte(d.Identity))}
	case d.Certificate == nil:
		return nil, errors.New("a DTLS server needs a key or a certificate")
	default:
		opts = []dtls.ServerOption{dtls.WithCipherSuites(certificateSuites...), dtls.WithCertificates(*d.Certificate)}
		if d.Roots != nil {
			opts = append(opts, dtls.WithClientCAs(d.Roots), dtls.WithClientAuth(dtls.RequireAndVerifyClientCert))
		}
	}
	dc, err := dtls.ServerWithOptions(pc, peer, opts...)
	if err != nil {
		return nil, fmt.Errorf("DTLS with %s: %w", peer, err)
	}
	if err := dc.HandshakeContext(ctx); err != nil {
		dc.Close()
		return nil, fmt.Errorf("DTLS with %s: %w", peer, err)
	}
	return dc, nil
}

func (d DTLS) key([]byte) ([]byte, error) { return d.Key.Reveal(), nil }
