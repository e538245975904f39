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
		if a := ap.Addr().Unmap(); a.IsLinkLocalUnicast() || a.IsLinkLocalMulticast() || a == metadata6 {
			return fmt.Errorf("%s is an address of the machine's own services, to which nothing is exported", a)
		}
		return nil
	}}
}

// metadata6 is where EC2 machines ask for their credentials over IPv6.
var metadata6 = netip.MustParseAddr("fd00:ec2::254")

// trust is the TLS configuration for a server that is trusted by ca, or by what the system trusts.
func trust(ca string) *tls.Config {
	cfg := &tls.Config{MinVersion: tls.VersionTLS12}
	if ca != "" {
		cfg.RootCAs = x509.NewCertPool()
		cfg.RootCAs.AppendCertsFromPEM([]byte(ca)) // Check looked at it
	}
	return cfg
}
