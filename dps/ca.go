package dps

import (
	"context"
	"crypto/rand"
	"crypto/x509"
	"encoding/hex"
	"encoding/pem"
	"strings"
	"time"

	"github.com/vauban-iot/vauban/fault"
	"github.com/vauban-iot/vauban/internal/nonce"
	"github.com/vauban-iot/vauban/iot"
	"github.com/vauban-iot/vauban/pki"
)

// Limits of uploaded CAs.
const (
	maxCAs = 25 // dps §11
	// codeLife is how long a verification code is good for: a root that is kept off-line takes a day to be brought out.
	codeLife = 24 * time.Hour
)

// CAs lists the certificates that groups may refer to, by name.
func (s *Service) CAs(ctx context.Context) ([]CA, error) { return s.cfg.Store.CAs(ctx) }

// PutCA uploads a CA, or replaces the one of that name. With verified the operator vouches for it; otherwise it proves nobody until
// its owner has shown that he holds its key (dps §8.3). A replacement of the same certificate keeps what was shown.
func (s *Service) PutCA(ctx context.Context, name, text string, verified bool, match *iot.Match) (CA, error) {
	if err := checkName("the certificate's name", name); err != nil {
		return CA{}, err
	}
	cert, err := parseCertificate(text)
	if err != nil {
		return CA{}, err
	}
	if err := authority(cert); err != nil {
		return CA{}, err
	}
	if s.now().After(cert.NotAfter) {
		return CA{}, fault.New(fault.Invalid, "certificate %q expired at %s", cert.Subject, iot.FormatTime(cert.NotAfter))
	}
	s.writes.Lock()
	defer s.writes.Unlock()
	all, err := s.cfg.Store.CAs(ctx)
	if err != nil {
		return CA{}, err
	}
	fresh := true
	for _, ca := range all {
		fresh = fresh && ca.Name != name
		if other, err := parseCertificate(ca.Certificate); ca.Name != name && err == nil && other.Equal(cert) {
			return CA{}, fault.New(fault.AlreadyExists, "certificate %q is the same", ca.Name)
		}
	}
	if fresh && len(all) >= maxCAs {
		return CA{}, fault.New(fault.Invalid, "there are %d certificates already; delete one first", maxCAs)
	}
	defer s.groups.changed()
	now, tag := s.now(), iot.ETag(nonce.New())
	text = string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: cert.Raw}))
	return s.cfg.Store.PutCA(ctx, name, func(old *CA) (CA, error) {
		next := CA{Name: name, Certificate: text, Verified: verified, ETag: tag, Created: now, Updated: now}
		if old == nil {
			if match != nil {
				return next, fault.New(fault.PreconditionFailed, "the ETag does not match: there is no %s", name)
			}
			return next, nil
		}
		next.Created = old.Created
		if old.Certificate == text {
			next.Verified = verified || old.Verified
			next.Code, next.CodeExpires = old.Code, old.CodeExpires
		}
		return next, match.Check(old.ETag)
	})
}

// authority checks that a certificate could prove devices.
func authority(c *x509.Certificate) error {
	switch {
	case !c.BasicConstraintsValid || !c.IsCA:
		return fault.New(fault.Invalid, "certificate %q is no CA: a group wants the CA that issues its devices' certificates", c.Subject)
	case c.KeyUsage != 0 && c.KeyUsage&x509.KeyUsageCertSign == 0:
		return fault.New(fault.Invalid, "certificate %q may not sign certificates: its key usage lacks keyCertSign", c.Subject)
	}
	if err := pki.CheckKey(c); err != nil {
		return fault.Wrap(fault.Invalid, err, "certificate %q has a key that is too weak, or of a kind that proves no device", c.Subject)
	}
	return nil
}

// VerificationCode makes a new code for a CA, in place of the one it had. The owner proves that he holds the CA's key by a certificate
// that is signed with it and whose subject is the code (dps §10.4).
func (s *Service) VerificationCode(ctx context.Context, name string, match *iot.Match) (CA, error) {
	var b [24]byte
	rand.Read(b[:])
	code := strings.ToUpper(hex.EncodeToString(b[:]))
	now, tag := s.now(), iot.ETag(nonce.New())
	return s.changeCA(ctx, name, match, func(ca *CA) error {
		ca.Code, ca.CodeExpires, ca.Updated, ca.ETag = code, now.Add(codeLife), now, tag
		return nil
	})
}

// VerifyCA marks a CA as verified when text is a certificate that only its owner could have made. A code is good for one success.
func (s *Service) VerifyCA(ctx context.Context, name, text string, match *iot.Match) (CA, error) {
	proof, err := parseCertificate(text)
	if err != nil {
		return CA{}, err
	}
	now, tag := s.now(), iot.ETag(nonce.New())
	ca, err := s.changeCA(ctx, name, match, func(ca *CA) error {
		cert, err := parseCertificate(ca.Certificate)
		if err != nil {
			return err
		}
		switch {
		case ca.Code == "":
			return fault.New(fault.Invalid, "no verification code of certificate %q is open; ask for one first", name)
		case now.After(ca.CodeExpires):
			return fault.New(fault.Invalid, "the verification code of certificate %q expired; ask for a new one", name)
		case proof.Subject.CommonName != ca.Code:
			return fault.New(fault.Invalid, "the common name of the verification certificate is not the code")
		case now.Before(proof.NotBefore) || now.After(proof.NotAfter):
			return fault.New(fault.Invalid, "the verification certificate is not in force")
		}
		if err := proof.CheckSignatureFrom(cert); err != nil {
			return fault.Wrap(fault.Invalid, err, "the verification certificate is not signed by certificate %q", name)
		}
		ca.Verified, ca.Code, ca.CodeExpires, ca.Updated, ca.ETag = true, "", time.Time{}, now, tag
		return nil
	})
	if err == nil {
		s.groups.changed()
	}
	return ca, err
}

func (s *Service) changeCA(ctx context.Context, name string, match *iot.Match, change func(*CA) error) (CA, error) {
	return s.cfg.Store.PutCA(ctx, name, func(now *CA) (CA, error) {
		if now == nil {
			return CA{}, fault.New(fault.NotFound, "there is no certificate %q", name)
		}
		if err := match.Check(now.ETag); err != nil {
			return CA{}, err
		}
		next := *now
		err := change(&next)
		return next, err
	})
}

// DeleteCA removes a CA that no group refers to.
func (s *Service) DeleteCA(ctx context.Context, name string, match *iot.Match) error {
	s.writes.Lock()
	defer s.writes.Unlock()
	groups, err := s.readGroups(ctx)
	if err != nil {
		return err
	}
	for _, g := range groups {
		if g.Attestation.PrimaryReference == name || g.Attestation.SecondaryReference == name {
			return fault.New(fault.AlreadyExists, "enrollment group %q refers to certificate %q; change it first", g.Name, name)
		}
	}
	return s.cfg.Store.DeleteCA(ctx, name, func(ca CA) error { return match.Check(ca.ETag) })
}
