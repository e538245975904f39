package pki

import (
	"crypto/tls"
	"slices"
)

// modern are the suites of TLS 1.2 that everybody may use: with forward secrecy and authenticated encryption. Those of TLS 1.3 are not chosen.
var modern = []uint16{
	tls.TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256,
	tls.TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256,
	tls.TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384,
	tls.TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384,
	tls.TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256,
	tls.TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305_SHA256,
}

// old are for firmware: NetX Duo offers only 0xC027. Go leaves both out unless they are listed, and prefers modern ones to them.
var old = []uint16{tls.TLS_ECDHE_ECDSA_WITH_AES_128_CBC_SHA256, tls.TLS_ECDHE_RSA_WITH_AES_128_CBC_SHA256}

// DeviceTLS is the profile of listeners that only devices use (hub-device §1.3): TLS
// 1.2 and 1.3, the certificate chosen by what the client can verify, a client
// certificate asked for but judged later, by whoever knows the device. The
// caller owns the result.
func (a *Authority) DeviceTLS() *tls.Config {
	suites := slices.Concat(modern, old)
	if a.cfg.AllowStaticRSA {
		suites = append(suites, tls.TLS_RSA_WITH_AES_128_CBC_SHA256)
	}
	return a.profile(suites)
}

// SharedTLS is that of a listener that devices share with programs and people: without the static RSA that AllowStaticRSA lets devices
// have. What is not for devices is to be refused to connections that are [Old].
func (a *Authority) SharedTLS() *tls.Config { return a.profile(slices.Concat(modern, old)) }

// ProgramTLS is that of listeners for programs only.
func (a *Authority) ProgramTLS() *tls.Config { return a.profile(slices.Clone(modern)) }

// Old reports that a connection has a suite that only old firmware has use for: whoever can do better gets better.
func Old(s *tls.ConnectionState) bool {
	return s != nil && s.Version < tls.VersionTLS13 && !slices.Contains(modern, s.CipherSuite)
}

func (a *Authority) profile(suites []uint16) *tls.Config {
	return &tls.Config{
		MinVersion:     tls.VersionTLS12,
		CipherSuites:   suites,
		GetCertificate: a.certificate,
		// P-384 is all that NetX Duo offers.
		CurvePreferences: []tls.CurveID{tls.X25519MLKEM768, tls.X25519, tls.CurveP256, tls.CurveP384},
		// Asked for with an empty list of CAs: NetX Duo fails on a long one.
		ClientAuth: tls.RequestClientCert,
	}
}

// certificate serves the ECDSA chain to clients that can verify it, and RSA to all others,
// also without a server name. The root is RSA, so a client must know its signature, too.
func (a *Authority) certificate(hello *tls.ClientHelloInfo) (*tls.Certificate, error) {
	s := a.servers.Load()
	if slices.Contains(hello.SignatureSchemes, tls.ECDSAWithP256AndSHA256) && slices.Contains(hello.SupportedCurves, tls.CurveP256) {
		unnamed := *hello
		unnamed.ServerName = "" // whatever it calls us, it gets our certificate
		if unnamed.SupportsCertificate(&s.ecdsa) == nil {
			return &s.ecdsa, nil
		}
	}
	return &s.rsa, nil
}
