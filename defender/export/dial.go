package export

import (
	"crypto/tls"
	"crypto/x509"
	"time"
)

const dialTimeout = 10 * time.Second

// trust is the TLS configuration for a server that is trusted by ca, or by what the system trusts.
func trust(ca string) *tls.Config {
	cfg := &tls.Config{MinVersion: tls.VersionTLS12}
	if ca != "" {
		cfg.RootCAs = x509.NewCertPool()
		cfg.RootCAs.AppendCertsFromPEM([]byte(ca)) // Check looked at it
	}
	return cfg
}
