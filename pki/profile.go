package pki

import (
	"crypto/tls"
	"slices"
)

// DeviceTLS is the profile of every listener that devices use (hub-device §1.3): TLS
// 1.2 and 1.3, the certificate chosen by what the client can verify, a client
// certificate asked for but judged later, by whoever knows the device. The
// caller owns the result.
func (a *Authority) DeviceTLS() *tls.Config {
	suites := []uint16{
		tls.TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256,
		tls.TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256,
		tls.TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384,
		tls.TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384,
		tls.TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256,
		tls.TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305_SHA256,
		// NetX Duo offers only 0xC027; Go leaves both out unless they are listed.
		tls.TLS_ECDHE_ECDSA_WITH_AES_128_CBC_SHA256,
		tls.TLS_ECDHE_RSA_WITH_AES_128_CBC_SHA256,
	}
	if a.cfg.AllowStaticRSA {
		suites = append(suites, tls.TLS_RSA_WITH_AES_128_CBC_SHA256)
	}
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
