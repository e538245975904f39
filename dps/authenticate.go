package dps

import (
	"bytes"
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/vauban-iot/vauban/access"
	"github.com/vauban-iot/vauban/fault"
	"github.com/vauban-iot/vauban/internal/secret"
	"github.com/vauban-iot/vauban/iot"
	"github.com/vauban-iot/vauban/pki"
	"github.com/vauban-iot/vauban/wire/sas"
)

// Credentials is what a device shows, whatever the protocol.
type Credentials struct {
	IDScope        string
	RegistrationID string
	Token          string              // SAS token text; empty: none
	Certificates   []*x509.Certificate // as presented, the leaf first
	Address        netip.Addr          // where the device calls from; the zero value when nobody knows
	NoTPM          bool                // the protocol has no attestation by TPM (dps §8.4)
}

// Caller is an authenticated device: a registration id, the enrollment that admits it,
// and what the hub is to know it by. It does not change.
type Caller struct {
	creds Credentials
	at    time.Time // when it was authenticated

	enrollment Enrollment
	deviceID   string
	fixedID    bool // the hub compares deviceID letter by letter with the certificate
	auth       Assignment
	vouched    bool // its certificate is one that somebody else answers for (Config.Vouch)

	// Of attestation by TPM:
	challenge  []byte   // the key that the token was signed with
	generation iot.ETag // of the registration record when the challenge was made
	spent      bool     // a registration has used the challenge
}

// RegistrationID is the id in the spelling the device used.
func (c *Caller) RegistrationID() string { return c.creds.RegistrationID }

// refused is all an unauthenticated peer learns (dps §7.3); the reason is for the log.
func refused(format string, args ...any) error {
	return fault.Wrap(fault.Unauthorized, fmt.Errorf(format, args...), "the credentials are not accepted")
}

// Rejection is why credentials proved nothing, as far as somebody should hear of it (defender §2.2).
type Rejection int

// The rejections.
const (
	ExpiredToken        Rejection = iota + 1 // signed by the device's key, and too old
	InvalidToken                             // signed by no key that is enrolled, or not readable
	CertificateMismatch                      // not the enrolled one
	CertificateExpired
)

// rejection is a failure with its reason. What it wraps stays the failure.
type rejection struct {
	why      Rejection
	deviceID string
	error
}

func (r *rejection) Unwrap() error { return r.error }

// Authenticate finds the enrollment that admits the caller: the individual one, or else a group
// (dps §8.1). Whatever is wrong is fault.Unauthorized, and a proven device whose
// enrollment is disabled fault.Disabled; both have one public text.
func (s *Service) Authenticate(ctx context.Context, c Credentials) (*Caller, error) {
	caller, err := s.authenticate(ctx, c)
	if err == nil && s.cfg.Connected != nil && c.Address.IsValid() {
		s.cfg.Connected(caller.deviceID, c.Address)
	}
	if r, ok := errors.AsType[*rejection](err); ok && s.cfg.Rejected != nil {
		s.cfg.Rejected(c, r.deviceID, r.why)
	}
	return caller, err
}

func (s *Service) authenticate(ctx context.Context, c Credentials) (*Caller, error) {
	if !same(c.IDScope, s.cfg.IDScope) {
		return nil, refused("unknown id scope %q", c.IDScope)
	}
	if err := checkName("the registration id", c.RegistrationID); err != nil {
		return nil, refused("%w", err)
	}
	if c.Token == "" && len(c.Certificates) == 0 {
		return nil, refused("neither a token nor a certificate was presented")
	}
	caller := &Caller{creds: c, at: s.now(), deviceID: c.RegistrationID}
	e, err := s.cfg.Store.Enrollment(ctx, false, c.RegistrationID)
	switch {
	case err == nil: // it decides alone: a disabled one cuts its device off from every group
		err = s.individual(ctx, caller, e)
	case !fault.Is(err, fault.NotFound):
		return nil, fmt.Errorf("find the enrollment: %w", err)
	case c.Token != "": // a token decides even beside a certificate
		err = s.symmetricGroup(ctx, caller)
	default:
		err = s.certificateGroup(ctx, caller)
	}
	if err != nil {
		return nil, err
	}
	if !caller.enrollment.Enabled {
		return nil, fault.Wrap(fault.Disabled, fmt.Errorf("enrollment %q is disabled", caller.enrollment.Name), "the credentials are not accepted")
	}
	return caller, nil
}

func (s *Service) individual(ctx context.Context, c *Caller, e Enrollment) error {
	c.enrollment = e
	c.deviceID = e.Name
	if e.DeviceID != "" {
		c.deviceID = e.DeviceID
	}
	c.fixedID = true
	switch e.Attestation.Type {
	case SymmetricKey:
		a := e.Attestation
		token, err := s.token(c.creds)
		if err != nil {
			if c.creds.Token != "" {
				err = &rejection{InvalidToken, c.deviceID, err}
			}
			return err
		}
		if !token.Verify(a.PrimaryKey.Reveal()) && !token.Verify(a.SecondaryKey.Reveal()) { // over sr as sent (dps §2.1)
			return &rejection{InvalidToken, c.deviceID, refused("the token's signature does not verify")}
		}
		c.auth = Assignment{AuthType: AuthSAS, PrimaryKey: a.PrimaryKey, SecondaryKey: a.SecondaryKey}
		return s.checkToken(token, c)
	case X509:
		return s.leaf(c, e)
	case TPM:
		return s.answer(ctx, c, e)
	}
	return refused("enrollment %q has the attestation %q", e.Name, e.Attestation.Type)
}

// token reads the caller's token.
func (s *Service) token(c Credentials) (sas.Token, error) {
	if c.Token == "" {
		return sas.Token{}, refused("a symmetric enrollment wants a token")
	}
	t, err := sas.Parse(c.Token)
	if err != nil {
		return t, refused("the token cannot be read: %w", err)
	}
	return t, nil
}

// checkToken checks a token whose signature verified: only then is its resource decoded
// and compared, without regard to case (dps §2.1).
func (s *Service) checkToken(t sas.Token, caller *Caller) error {
	c := caller.creds
	path, err := t.ResourcePath()
	if err != nil {
		return refused("the token's resource cannot be read: %w", err)
	}
	if want := c.IDScope + "/registrations/" + c.RegistrationID; !same(path, want) {
		return refused("the token is for %q", path)
	}
	if s.now().After(t.Expiry.Add(access.Skew)) {
		return &rejection{ExpiredToken, caller.deviceID, refused("the token expired at %s", t.Expiry.UTC().Format(time.RFC3339))}
	}
	return nil
}

// symmetricGroup tries the groups in order of their names: nothing on the wire names one (dps §2.2).
func (s *Service) symmetricGroup(ctx context.Context, c *Caller) error {
	t, err := s.token(c.creds)
	if err != nil {
		return err
	}
	groups, err := s.groups.get(ctx, s.now(), s.readGroups)
	if err != nil {
		return err
	}
	// The maker derived the key from its own spelling of the id; EDGE's lower-cased one is the second guess.
	spellings := []string{c.creds.RegistrationID}
	if f := fold(c.creds.RegistrationID); f != c.creds.RegistrationID {
		spellings = append(spellings, f)
	}
	for _, g := range groups {
		if g.Attestation.Type != SymmetricKey {
			continue
		}
		for _, id := range spellings {
			one, two := derive(g.Attestation.PrimaryKey, id), derive(g.Attestation.SecondaryKey, id)
			if t.Verify(one) || t.Verify(two) {
				c.enrollment = g.Enrollment
				c.auth = Assignment{AuthType: AuthSAS, PrimaryKey: secret.New(one), SecondaryKey: secret.New(two)}
				return s.checkToken(t, c)
			}
		}
	}
	return &rejection{InvalidToken, "", refused("no enrollment admits the token")}
}

// derive makes a device's key from a group's. An unset key gives none: one derived from
// nothing anybody could derive.
func derive(group secret.Secret, id string) []byte {
	if group.IsZero() {
		return nil
	}
	return sas.DeriveKey(group.Reveal(), id)
}

// commonName checks that the leaf is the device's own (dps §8.3).
func commonName(leaf *x509.Certificate, id string) error {
	if !same(leaf.Subject.CommonName, id) {
		return refused("the certificate's common name %q is not the registration id", leaf.Subject.CommonName)
	}
	return nil
}

// leaf checks a certificate against the two an individual enrollment holds. Holding exactly this
// certificate proves the device; no chain is asked for.
func (s *Service) leaf(c *Caller, e Enrollment) error {
	if len(c.creds.Certificates) == 0 {
		return refused("an X.509 enrollment wants a certificate")
	}
	leaf := c.creds.Certificates[0]
	if err := commonName(leaf, c.creds.RegistrationID); err != nil {
		return err
	}
	known := false
	var prints []string
	for _, text := range []string{e.Attestation.PrimaryCertificate, e.Attestation.SecondaryCertificate} {
		if text == "" {
			prints = append(prints, "")
			continue
		}
		cert, err := parseCertificate(text)
		if err != nil {
			return fmt.Errorf("enrollment %q: %w", e.Name, err)
		}
		known = known || bytes.Equal(cert.Raw, leaf.Raw)
		prints = append(prints, thumbprint(cert))
	}
	now := s.now()
	switch {
	case !known:
		return &rejection{CertificateMismatch, c.deviceID, refused("the certificate is not the enrolled one")}
	case now.After(leaf.NotAfter):
		return &rejection{CertificateExpired, c.deviceID, refused("the certificate is not in force: it expired")}
	case now.Before(leaf.NotBefore):
		return refused("the certificate is not in force yet")
	case !clientUsage(leaf):
		return refused("the certificate is not for client authentication")
	}
	if err := pki.CheckDevice(leaf); err != nil {
		return refused("%w", err)
	}
	if prints[0] == "" { // the hub wants its first thumbprint set
		prints[0], prints[1] = prints[1], ""
	}
	c.auth = Assignment{AuthType: AuthSelfSigned, PrimaryThumbprint: prints[0], SecondaryThumbprint: prints[1]}
	return nil
}

func thumbprint(c *x509.Certificate) string {
	_, sha256 := pki.Thumbprints(c)
	return strings.ToUpper(sha256)
}

// clientUsage reports whether extended key usages, if there are any, allow clients (dps §8.3).
func clientUsage(c *x509.Certificate) bool {
	return len(c.ExtKeyUsage)+len(c.UnknownExtKeyUsage) == 0 ||
		slices.Contains(c.ExtKeyUsage, x509.ExtKeyUsageClientAuth) || slices.Contains(c.ExtKeyUsage, x509.ExtKeyUsageAny)
}

// maxChain is how many certificates a device may present: as much as pki.ParseCertificates reads.
const maxChain = 16

// certificateGroup finds the group whose CA is the nearest issuer of the leaf. It decides, even when it is
// disabled (dps §8.1); of two equally near ones a disabled one does.
func (s *Service) certificateGroup(ctx context.Context, c *Caller) error {
	certs := c.creds.Certificates
	if len(certs) > maxChain {
		return refused("%d certificates are more than a chain has", len(certs))
	}
	if err := pki.CheckDevice(certs[0]); err != nil {
		return refused("%w", err)
	}
	if err := commonName(certs[0], c.creds.RegistrationID); err != nil {
		return err
	}
	groups, err := s.groups.get(ctx, s.now(), s.readGroups)
	if err != nil {
		return err
	}
	var nearest *group
	var reason error
	depth, expired := 0, false
	for _, g := range groups {
		for _, ca := range g.authorities {
			if !slices.ContainsFunc(certs, func(p *x509.Certificate) bool { return bytes.Equal(p.RawIssuer, ca.RawSubject) }) {
				continue // cannot be on the path; most groups cost no signature check
			}
			chain, err := pki.VerifyChain(certs, []*x509.Certificate{ca}, s.now())
			if err != nil {
				reason = err
				if errors.Is(err, pki.ErrExpired) && s.now().After(certs[0].NotAfter) { // of this CA, when it was in force?
					_, err := pki.VerifyChain(certs, []*x509.Certificate{ca}, certs[0].NotAfter)
					expired = expired || err == nil
				}
				continue
			}
			d := slices.IndexFunc(chain, ca.Equal)
			if d < 0 {
				d = len(chain)
			}
			if d == 0 {
				reason = errors.New("a group's own CA is no device")
				continue
			}
			if nearest == nil || d < depth || d == depth && nearest.Enabled && !g.Enabled {
				nearest, depth = g, d
			}
		}
	}
	if nearest == nil {
		if reason == nil {
			reason = errors.New("no group's CA issued it")
		}
		err := refused("the certificate is refused: %w", reason)
		if expired {
			err = &rejection{CertificateExpired, certs[0].Subject.CommonName, err}
		}
		return err
	}
	if s.cfg.Vouch != nil {
		vouched, err := s.cfg.Vouch(ctx, certs)
		if fault.Is(err, fault.Unavailable) {
			return err
		}
		if err != nil {
			return refused("the certificate counts no more: %w", err)
		}
		c.vouched = vouched
	}
	c.enrollment = nearest.Enrollment
	c.deviceID, c.fixedID = certs[0].Subject.CommonName, true
	c.auth = Assignment{AuthType: AuthCertificateAuthority}
	return nil
}

// Authorities returns the CAs of all X.509 groups. A hub trusts them for devices of type
// certificateAuthority, which provisioning creates. Disabled groups count: disabling one stops
// provisioning, not devices that have their place (dps §9.4).
func (s *Service) Authorities(ctx context.Context) ([]*x509.Certificate, error) {
	groups, err := s.groups.get(ctx, s.now(), s.readGroups)
	if err != nil {
		return nil, err
	}
	var cas []*x509.Certificate
	for _, g := range groups {
		cas = append(cas, g.authorities...)
	}
	return cas, nil
}

// group is an enrollment group with its CAs parsed.
type group struct {
	Enrollment
	authorities []*x509.Certificate // those that prove devices: of the ones it refers to, the verified
}

// readGroups reads all groups, since any of them may admit a device.
func (s *Service) readGroups(ctx context.Context) ([]*group, error) {
	const page = 100
	saved, err := s.cfg.Store.CAs(ctx)
	if err != nil {
		return nil, fmt.Errorf("list certificates: %w", err)
	}
	cas := make(map[string]CA, len(saved))
	for _, ca := range saved {
		cas[ca.Name] = ca
	}
	var list []*group
	for after := ""; ; {
		es, err := s.cfg.Store.Enrollments(ctx, true, after, page)
		if err != nil {
			return nil, fmt.Errorf("list enrollment groups: %w", err)
		}
		for _, e := range es {
			after = fold(e.Name)
			g := &group{Enrollment: e}
			a := e.Attestation
			texts := []string{a.PrimaryCertificate, a.SecondaryCertificate}
			for _, name := range []string{a.PrimaryReference, a.SecondaryReference} {
				if ca := cas[name]; ca.Verified {
					texts = append(texts, ca.Certificate)
				}
			}
			for _, text := range texts {
				if text == "" {
					continue
				}
				c, err := parseCertificate(text)
				if err != nil {
					return nil, fmt.Errorf("enrollment group %q: %w", e.Name, err)
				}
				g.authorities = append(g.authorities, c)
			}
			list = append(list, g)
		}
		if len(es) < page {
			return list, nil
		}
	}
}

// cache keeps what every registration asks for. A change made here shows at once; one made by another process
// within cacheFresh.
type cache[T any] struct {
	mu      sync.Mutex
	value   T
	read    time.Time
	valid   bool
	version uint64 // counts changes, so that what was read before one is not kept after it
}

const cacheFresh = 2 * time.Second

func (c *cache[T]) changed() {
	c.mu.Lock()
	c.version++
	c.valid = false
	c.mu.Unlock()
}

func (c *cache[T]) get(ctx context.Context, now time.Time, read func(context.Context) (T, error)) (T, error) {
	c.mu.Lock()
	value, version := c.value, c.version
	fresh := c.valid && now.Sub(c.read) < cacheFresh && !now.Before(c.read)
	c.mu.Unlock()
	if fresh {
		return value, nil
	}
	value, err := read(ctx)
	if err != nil {
		return value, err
	}
	c.mu.Lock()
	if c.version == version {
		c.value, c.read, c.valid = value, now, true
	}
	c.mu.Unlock()
	return value, nil
}

// parseCertificate reads one certificate: PEM, or base64 of DER with or without line breaks.
func parseCertificate(text string) (*x509.Certificate, error) {
	certs, err := pki.ParseCertificates([]byte(text))
	if err != nil {
		return nil, fault.Wrap(fault.Invalid, err, "the certificate cannot be read: it must be PEM or base64 of DER")
	}
	if len(certs) != 1 {
		return nil, fault.New(fault.Invalid, "one certificate is wanted, %d were given", len(certs))
	}
	return certs[0], nil
}
