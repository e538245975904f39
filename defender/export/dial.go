package export

import (
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"net"
	"net/netip"
	"syscall"
	"time"
)

const dialTimeout = 10 * time.Second

// dialer never connects to link-local addresses: there stand services of the machine's own, such as those that give out credentials.
func dialer() *net.Dialer {
	return &net.Dialer{Timeout: dialTimeout, Control: func(_, address string, _ syscall.RawConn) error {
		ap, err := netip.ParseAddrPort(address)
		if err != nil {
			return err
		}
		if a := ap.Addr().Unmap(); a.IsLinkLocalUnicast() || a.IsLinkLocalMulticast() {
			return fmt.Errorf("%s is a link-local address, to which nothing is exported", a)
		}
		return nil
	}}
}

// trust is the TLS configuration for a server that is trusted by ca, or by what the system trusts.
func trust(ca string) *tls.Config {
	cfg := &tls.Config{MinVersion: tls.VersionTLS12}
	if ca != "" {
		cfg.RootCAs = x509.NewCertPool()
		cfg.RootCAs.AppendCertsFromPEM([]byte(ca)) // Check looked at it
	}
	return cfg
}
