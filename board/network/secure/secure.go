// Package secure is TLS and DTLS as boards speak it. What firmware offers is decided when it is built, and is often
// a single suite: a [Profile] restricts crypto/tls to what one kind of firmware can do, so that a server that
// could not talk to the board cannot talk to its double either (rtos §1.6).
package secure

import (
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"strings"
)

// Profile is what a firmware can do. The zero value is Modern.
type Profile string

const (
	// Modern is what crypto/tls offers by itself.
	Modern Profile = "modern"
	// GettingStarted is the firmware of the getting-started guides: TLS 1.2 with 0x003C, static RSA, alone.
	// It keeps no secret from who learns the server's key later.
	GettingStarted Profile = "getting-started"
	// AzureIoT is that of NetX Duo's azure_iot samples: TLS 1.2 with 0xC027, ECDHE and RSA, alone.
	AzureIoT Profile = "azure-iot"
)

var profiles = []Profile{Modern, GettingStarted, AzureIoT}

// ParseProfile reads the name of a profile; empty is Modern.
func ParseProfile(s string) (Profile, error) {
	if s == "" {
		return Modern, nil
	}
	names := make([]string, len(profiles))
	for i, p := range profiles {
		if string(p) == s {
			return p, nil
		}
		names[i] = string(p)
	}
	return "", fmt.Errorf("unknown TLS profile %q (want %s)", s, strings.Join(names, ", "))
}

// Config is the profile's client side. roots are who may vouch for the server; nil: the machine's. The
// caller owns the result, and adds the board's certificate and the server's name.
func (p Profile) Config(roots *x509.CertPool) *tls.Config {
	cfg := &tls.Config{RootCAs: roots, MinVersion: tls.VersionTLS12}
	switch p {
	case GettingStarted:
		cfg.CipherSuites = []uint16{tls.TLS_RSA_WITH_AES_128_CBC_SHA256}
	case AzureIoT:
		cfg.CipherSuites = []uint16{tls.TLS_ECDHE_RSA_WITH_AES_128_CBC_SHA256}
		cfg.CurvePreferences = []tls.CurveID{tls.CurveP384, tls.CurveP256} // NetX Duo has no X25519 as it is built
	default:
		return cfg
	}
	cfg.MaxVersion = tls.VersionTLS12
	cfg.SessionTicketsDisabled = true // NetX Duo resumes no session
	return cfg
}
