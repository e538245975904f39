package api

import (
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/rsa"
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"net/http"
	"time"

	"github.com/vauban-iot/vauban/fault"
	"github.com/vauban-iot/vauban/head/rest"
	"github.com/vauban-iot/vauban/pki"
)

// CertificateView is a CA as the API shows it.
type CertificateView struct {
	Name       string    `json:"name"`
	Subject    string    `json:"subject"`
	Issuer     string    `json:"issuer"`
	NotBefore  time.Time `json:"notBefore"`
	NotAfter   time.Time `json:"notAfter"`
	Thumbprint string    `json:"thumbprint"` // SHA-256, upper-case hex
	PEM        string    `json:"pem"`
}

func newCertificateView(name string, c *x509.Certificate) CertificateView {
	_, sum := pki.Thumbprints(c)
	return CertificateView{
		Name: name, Subject: c.Subject.String(), Issuer: c.Issuer.String(),
		NotBefore: c.NotBefore.UTC(), NotAfter: c.NotAfter.UTC(), Thumbprint: sum, PEM: encode(c),
	}
}

func encode(c *x509.Certificate) string {
	return string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: c.Raw}))
}

func (a *API) certificates(w http.ResponseWriter, r *http.Request) error {
	saved, err := a.cfg.Certificates.Certificates(r.Context())
	if err != nil {
		return err
	}
	views := make([]CertificateView, 0, len(saved))
	for _, s := range saved {
		cs, err := pki.ParseCertificates([]byte(s.PEM))
		if err != nil {
			return fmt.Errorf("stored certificate %q: %w", s.Name, err)
		}
		views = append(views, newCertificateView(s.Name, cs[0]))
	}
	return writeJSON(w, http.StatusOK, map[string][]CertificateView{"certificates": views})
}

// Limits of an uploaded certificate.
const (
	maxCertificate = 64 << 10
	maxName        = 64
	minRSA         = 2048 // below it a CA can be forged
	maxRSA         = 8192 // above it every connect would cost too much
)

func (a *API) putCertificate(w http.ResponseWriter, r *http.Request) (err error) {
	name := r.PathValue("name")
	defer func() { a.certificateChanged(r, name, false, err) }()
	if err := validName(name); err != nil {
		return err
	}
	body, err := rest.Body(w, r, maxCertificate)
	if err != nil {
		return err
	}
	cs, err := pki.ParseCertificates(body)
	if err != nil {
		return fault.Wrap(fault.Malformed, err, "the body is no PEM certificate: %v", err)
	}
	if len(cs) != 1 {
		return fault.New(fault.Invalid, "the body holds %d certificates; add each CA by itself, under its own name", len(cs))
	}
	if err := trustworthy(cs[0], a.cfg.Now()); err != nil {
		return err
	}
	if err := a.cfg.Certificates.PutCertificate(r.Context(), name, encode(cs[0])); err != nil {
		return err
	}
	view := newCertificateView(name, cs[0])
	rest.Note(r.Context(), "subject", view.Subject, "sha256", view.Thumbprint)
	return writeJSON(w, http.StatusOK, view)
}

func (a *API) deleteCertificate(w http.ResponseWriter, r *http.Request) (err error) {
	name := r.PathValue("name")
	defer func() { a.certificateChanged(r, name, true, err) }()
	if err := validName(name); err != nil {
		return err
	}
	if err := a.cfg.Certificates.DeleteCertificate(r.Context(), name); err != nil {
		return err
	}
	w.WriteHeader(http.StatusNoContent)
	return nil
}

// certificateChanged tells of a change under a name that can be one.
func (a *API) certificateChanged(r *http.Request, name string, deleted bool, failure error) {
	if a.cfg.CertificateChanged != nil && validName(name) == nil {
		a.cfg.CertificateChanged(r.Context(), name, r.RemoteAddr, deleted, failure)
	}
}

// validName keeps names to what a path, a file and a terminal show alike.
func validName(s string) error {
	ok := s != "" && len(s) <= maxName && s[0] != '.' && s[0] != '-'
	for i := range len(s) {
		c := s[i]
		ok = ok && ('a' <= c && c <= 'z' || 'A' <= c && c <= 'Z' || '0' <= c && c <= '9' || c == '.' || c == '-' || c == '_')
	}
	if !ok {
		return fault.New(fault.Invalid, "a certificate's name has 1 to %d letters, digits, dots, dashes and underscores, and begins with neither dot nor dash", maxName)
	}
	return nil
}

// trustworthy checks that devices could be proved by c.
func trustworthy(c *x509.Certificate, now time.Time) error {
	switch {
	case !c.BasicConstraintsValid || !c.IsCA:
		return fault.New(fault.Invalid, "%s is not a CA: its basic constraints do not say CA:TRUE", c.Subject)
	case c.KeyUsage != 0 && c.KeyUsage&x509.KeyUsageCertSign == 0:
		return fault.New(fault.Invalid, "%s may not sign certificates: its key usage lacks keyCertSign", c.Subject)
	case now.After(c.NotAfter):
		return fault.New(fault.Invalid, "%s expired at %s", c.Subject, c.NotAfter.UTC().Format(time.RFC3339))
	}
	switch key := c.PublicKey.(type) {
	case *rsa.PublicKey:
		if n := key.N.BitLen(); n < minRSA || n > maxRSA {
			return fault.New(fault.Invalid, "%s has an RSA key of %d bits; %d to %d are accepted", c.Subject, n, minRSA, maxRSA)
		}
	case *ecdsa.PublicKey, ed25519.PublicKey: // crypto/x509 reads no curve below P-224
	default:
		return fault.New(fault.Invalid, "%s has a key of a kind that proves no device: %s", c.Subject, c.PublicKeyAlgorithm)
	}
	return nil
}
