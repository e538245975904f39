package sphere

import (
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/vauban-iot/vauban/fault"
	"github.com/vauban-iot/vauban/sphere/tenantca"
)

// Rotation of a tenant's CA (sphere §4.5): a successor is made, and listed, successorLead before the end of the one that issues, and issues overlap
// later. Meanwhile relying parties learn of it; certificates of the old one are good until their end, and so is the old one.
const (
	successorLead = 90 * 24 * time.Hour
	overlap       = 45 * 24 * time.Hour
	// lastDays is when a successor issues at the latest, before the end of the old one, however late it was made.
	lastDays = 7 * 24 * time.Hour

	rotationPeriod = time.Hour
	maxCAs         = 32 // of a tenant that did not end yet: relying parties trust each of them
)

// itself is who changes what no caller asked for, in the audit.
var itself = Caller{Subject: "vauban"}

// newCA makes a CA that issues from a time on.
func (s *Service) newCA(t Tenant, from time.Time) (*tenantca.Authority, StoredCA, error) {
	now := s.now().UTC()
	a, err := s.root.NewTenant(t.ID, t.Name, now)
	if err != nil {
		return nil, StoredCA{}, err
	}
	key, err := a.Key()
	if err != nil {
		return nil, StoredCA{}, err
	}
	return a, StoredCA{
		Tenant: t.ID, Serial: tenantca.Serial(a.Certificate), Certificate: a.Certificate.Raw, Key: key, NotAfter: a.Certificate.NotAfter,
		ActiveFrom: from.UTC(), Created: now,
	}, nil
}

// good reports whether certificates of a CA are to be trusted.
func (c *StoredCA) good(now time.Time) bool { return c.Revoked.IsZero() && now.Before(c.NotAfter) }

// issuing returns the place of the one that issues now, or -1: of the good ones that have begun, the last to begin.
func issuing(all []StoredCA, now time.Time) int {
	best := -1
	for i := range all {
		if c := &all[i]; c.good(now) && !now.Before(c.ActiveFrom) && (best < 0 || !c.ActiveFrom.Before(all[best].ActiveFrom)) {
			best = i
		}
	}
	return best
}

// waiting returns the place of the successor that begins next, or -1.
func waiting(all []StoredCA, now time.Time) int {
	best := -1
	for i := range all {
		if c := &all[i]; c.good(now) && now.Before(c.ActiveFrom) && (best < 0 || c.ActiveFrom.Before(all[best].ActiveFrom)) {
			best = i
		}
	}
	return best
}

// plan says what a tenant's CAs need now: write is what to write of them, and successor whether a new one, which issues from a time on.
func plan(all []StoredCA, now time.Time, successorWanted bool) (write []StoredCA, successor bool, from time.Time) {
	current, next := issuing(all, now), waiting(all, now)
	switch {
	case current < 0 && next >= 0:
		c := all[next]
		c.ActiveFrom = now
		return []StoredCA{c}, false, time.Time{}
	case current < 0:
		return nil, true, now
	case next >= 0:
		return nil, false, time.Time{}
	}
	end := all[current].NotAfter
	if !successorWanted && now.Before(end.Add(-successorLead)) {
		return nil, false, time.Time{}
	}
	from = now.Add(overlap)
	if last := end.Add(-lastDays); last.Before(from) {
		from = last
	}
	if from.Before(now) {
		from = now
	}
	return nil, true, from
}

// rotate does what plan says, after change, which may be nil, has changed what stands. Servers that do so at once make one successor.
func (s *Service) rotate(ctx context.Context, tenant string, successorWanted bool, change func(all []StoredCA) ([]StoredCA, error)) (written []StoredCA, err error) {
	t, err := s.store.Tenant(ctx, tenant)
	if err != nil {
		return nil, err
	}
	_, spare, err := s.newCA(t, s.now()) // outside of the transaction
	if err != nil {
		return nil, err
	}
	now := s.now().UTC()
	err = s.store.ChangeTenantCAs(ctx, tenant, func(all []StoredCA) ([]StoredCA, error) {
		written = nil
		if change != nil {
			var err error
			if written, err = change(all); err != nil {
				return nil, err
			}
			all = slices.Clone(all)
			for _, w := range written {
				if at := slices.IndexFunc(all, func(c StoredCA) bool { return c.Serial == w.Serial }); at >= 0 {
					all[at] = w
				}
			}
		}
		more, successor, from := plan(all, now, successorWanted)
		written = append(written, more...)
		if successor {
			fresh := spare
			fresh.ActiveFrom = from
			written = append(written, fresh)
		}
		return written, nil
	})
	return written, err
}

// rotateAll looks after the CAs of all tenants.
func (s *Service) rotateAll(ctx context.Context) error {
	var errs []error
	for after := ""; ; {
		ts, err := s.store.Tenants(ctx, after, MaxPage)
		if err != nil {
			return err
		}
		for _, t := range ts {
			if err := s.ensureCA(ctx, t.ID); err != nil {
				if ctx.Err() != nil {
					return ctx.Err()
				}
				errs = append(errs, fmt.Errorf("tenant %s: %w", t.ID, err))
			}
		}
		if len(ts) < MaxPage {
			return errors.Join(errs...)
		}
		after = ts[len(ts)-1].ID
	}
}

// ensureCA makes a successor, or has it issue, when that is due.
func (s *Service) ensureCA(ctx context.Context, tenant string) error {
	all, err := s.store.TenantCAs(ctx, tenant)
	if err != nil {
		return err
	}
	if write, successor, _ := plan(all, s.now(), false); !successor && len(write) == 0 {
		return nil
	}
	written, err := s.rotate(ctx, tenant, false, nil)
	if err != nil {
		return err
	}
	for _, c := range written {
		s.audit(itself, "RotateCA", tenant, c.Serial, "activeFrom", c.ActiveFrom)
	}
	return nil
}

// view is what callers see of CAs.
func view(all []StoredCA, now time.Time) ([]CA, error) {
	active := issuing(all, now)
	cas := make([]CA, len(all))
	for i, c := range all {
		cert, err := x509.ParseCertificate(c.Certificate)
		if err != nil {
			return nil, fmt.Errorf("sphere: CA %s of tenant %s is damaged: %w", c.Serial, c.Tenant, err)
		}
		v := CA{
			Tenant: c.Tenant, Serial: c.Serial, Subject: cert.Subject.String(), Thumbprint: tenantca.Thumbprint(cert), Status: CAInactive,
			NotBefore: cert.NotBefore.UTC(), NotAfter: cert.NotAfter.UTC(), ActiveFrom: c.ActiveFrom, Revoked: c.Revoked, Certificate: cert,
		}
		switch {
		case !c.Revoked.IsZero():
			v.Status = CARevoked
		case !now.Before(c.NotAfter):
			v.Status = CAExpired
		case i == active:
			v.Status = CAActive
		}
		cas[i] = v
	}
	return cas, nil
}

// CAs lists the CAs of a tenant, oldest first: also those that expired or were revoked.
func (s *Service) CAs(ctx context.Context, c Caller, tenant string) ([]CA, error) {
	id, err := s.allow(ctx, c, tenant, "CAs")
	if err != nil {
		return nil, err
	}
	all, err := s.store.TenantCAs(ctx, id)
	if err != nil {
		return nil, err
	}
	return view(all, s.now())
}

// CA returns one: by serial number or SHA-1 thumbprint, in any letter case, or by ".default", the one that issues now.
func (s *Service) CA(ctx context.Context, c Caller, tenant, name string) (CA, error) {
	id, err := s.allow(ctx, c, tenant, "CA")
	if err != nil {
		return CA{}, err
	}
	ca, _, err := s.findCA(ctx, id, name)
	return ca, err
}

func (s *Service) findCA(ctx context.Context, tenant, name string) (CA, StoredCA, error) {
	all, err := s.store.TenantCAs(ctx, tenant)
	if err != nil {
		return CA{}, StoredCA{}, err
	}
	cas, err := view(all, s.now())
	if err != nil {
		return CA{}, StoredCA{}, err
	}
	at := slices.IndexFunc(cas, func(c CA) bool {
		return strings.EqualFold(c.Serial, name) || strings.EqualFold(c.Thumbprint, name) || name == PseudoDefault && c.Status == CAActive
	})
	if at < 0 {
		return CA{}, StoredCA{}, fault.New(fault.NotFound, "there is no CA certificate %q", name)
	}
	return cas[at], all[at], nil
}

// CAChain returns the chain of a CA as a PKCS #7 file (.p7b): the CA, and the root that signed it.
func (s *Service) CAChain(ctx context.Context, c Caller, tenant, name string) ([]byte, error) {
	id, err := s.allow(ctx, c, tenant, "CAChain")
	if err != nil {
		return nil, err
	}
	ca, _, err := s.findCA(ctx, id, name)
	if err != nil {
		return nil, err
	}
	return tenantca.PKCS7(ca.Certificate, s.root.Certificate)
}

// CAProof proves to a hub or provisioning service that the tenant holds the CA's key: a certificate, of a day, whose common name is the code
// that the other side made up. fault.Invalid for a code that is none, and for a CA that expired or was revoked.
func (s *Service) CAProof(ctx context.Context, c Caller, tenant, name, code string) (*x509.Certificate, error) {
	id, err := s.allow(ctx, c, tenant, "CAProof")
	if err != nil {
		return nil, err
	}
	ca, stored, err := s.findCA(ctx, id, name)
	if err != nil {
		return nil, err
	}
	now := s.now()
	if !stored.good(now) {
		return nil, fault.New(fault.Invalid, "the CA is %s", ca.Status)
	}
	a, err := s.open(stored)
	if err != nil {
		return nil, err
	}
	proof, err := a.Prove(code, now)
	if err == nil {
		s.audit(c, "CAProof", id, ca.Serial, "code", code)
	}
	return proof, err
}

// open opens a CA, which takes a while the first time.
func (s *Service) open(c StoredCA) (*tenantca.Authority, error) {
	key := c.Tenant + "/" + c.Serial
	s.openedMu.Lock()
	defer s.openedMu.Unlock()
	if a, ok := s.opened[key]; ok {
		return a, nil
	}
	a, err := tenantca.Open(c.Certificate, c.Key)
	if err != nil {
		return nil, fmt.Errorf("CA %s of tenant %s: %w", c.Serial, c.Tenant, err)
	}
	if len(s.opened) >= 4096 {
		clear(s.opened)
	}
	s.opened[key] = a
	return a, nil
}

// RotateCA makes a successor now, without waiting until it is due; it issues 45 days from now, or when ActivateCA says so. fault.AlreadyExists (a
// conflict) while one waits already.
func (s *Service) RotateCA(ctx context.Context, c Caller, tenant string) (CA, error) {
	id, err := s.allow(ctx, c, tenant, "RotateCA")
	if err != nil {
		return CA{}, err
	}
	now := s.now()
	written, err := s.rotate(ctx, id, true, func(all []StoredCA) ([]StoredCA, error) {
		if next := waiting(all, now); next >= 0 {
			return nil, fault.New(fault.AlreadyExists, "CA %s waits to issue already, from %s on; activate it", all[next].Serial, all[next].ActiveFrom.Format(time.RFC3339))
		}
		return nil, tooManyCAs(all, now)
	})
	if err != nil {
		return CA{}, err
	}
	return s.changedCA(ctx, c, id, "RotateCA", written[0].Serial)
}

// tooManyCAs bounds what an operator can make: relying parties have to trust each of them.
func tooManyCAs(all []StoredCA, now time.Time) error {
	n := 0
	for i := range all {
		if now.Before(all[i].NotAfter) {
			n++
		}
	}
	if n >= maxCAs {
		return fault.New(fault.QuotaExceeded, "the tenant has %d CAs that did not end yet", n)
	}
	return nil
}

func (s *Service) changedCA(ctx context.Context, c Caller, tenant, operation, serial string) (CA, error) {
	ca, stored, err := s.findCA(ctx, tenant, serial)
	if err == nil {
		s.audit(c, operation, tenant, serial, "activeFrom", stored.ActiveFrom)
	}
	return ca, err
}

// ActivateCA has a successor issue from now on. That of the one that issues does nothing. fault.Invalid for one that expired or was revoked, and
// for a predecessor: there is no way back.
func (s *Service) ActivateCA(ctx context.Context, c Caller, tenant, name string) (CA, error) {
	id, err := s.allow(ctx, c, tenant, "ActivateCA")
	if err != nil {
		return CA{}, err
	}
	ca, _, err := s.findCA(ctx, id, name)
	if err != nil || ca.Status == CAActive {
		return ca, err
	}
	now := s.now().UTC()
	_, err = s.rotate(ctx, id, false, func(all []StoredCA) ([]StoredCA, error) {
		at := slices.IndexFunc(all, func(c StoredCA) bool { return c.Serial == ca.Serial })
		if at < 0 || !all[at].good(now) {
			return nil, fault.New(fault.Invalid, "the CA is %s", ca.Status)
		}
		next := all[at]
		if !now.Before(next.ActiveFrom) {
			if issuing(all, now) == at {
				return nil, nil // another was faster
			}
			return nil, fault.New(fault.Invalid, "the CA has issued before and has a successor; make a new one")
		}
		next.ActiveFrom = now
		return []StoredCA{next}, nil
	})
	if err != nil {
		return CA{}, err
	}
	return s.changedCA(ctx, c, id, "ActivateCA", ca.Serial)
}

// RevokeCA ends a CA for good. When it was the one that issues, its successor issues at once, a new one if none waits. Relying parties have to
// forget the revoked one themselves: there are no revocation lists.
func (s *Service) RevokeCA(ctx context.Context, c Caller, tenant, name string) (CA, error) {
	id, err := s.allow(ctx, c, tenant, "RevokeCA")
	if err != nil {
		return CA{}, err
	}
	ca, _, err := s.findCA(ctx, id, name)
	if err != nil || ca.Status == CARevoked {
		return ca, err
	}
	now := s.now().UTC()
	written, err := s.rotate(ctx, id, false, func(all []StoredCA) ([]StoredCA, error) {
		at := slices.IndexFunc(all, func(c StoredCA) bool { return c.Serial == ca.Serial })
		if at < 0 || !all[at].Revoked.IsZero() {
			return nil, nil
		}
		next := all[at]
		next.Revoked = now
		return []StoredCA{next}, nil
	})
	if err != nil {
		return CA{}, err
	}
	for _, w := range written {
		if w.Serial != ca.Serial {
			s.audit(c, "RotateCA", id, w.Serial, "activeFrom", w.ActiveFrom)
		}
	}
	return s.changedCA(ctx, c, id, "RevokeCA", ca.Serial)
}

// Root is the certificate that tenants' CAs are signed by. To trust it is to trust all tenants.
func (s *Service) Root() *x509.Certificate { return s.root.Certificate }
