package sphere

import (
	"context"
	"encoding/hex"
	"slices"
	"time"

	"github.com/vauban-iot/vauban/fault"
)

// Software is kept for a tenant, or, where the tenant is "", for the whole installation: the OS feeds Retail and RetailEval. Devices trust both.

const (
	maxReleases = 1000 // of a tenant
	maxImages   = 64   // of a release
	maxMinimums = 200
)

// software is allow for a tenant or the installation.
func (s *Service) software(ctx context.Context, c Caller, tenant, operation string, write bool) (string, error) {
	if tenant != "" {
		return s.allow(ctx, c, tenant, operation)
	}
	if err := s.signedIn(c); err != nil {
		return "", err
	}
	if write && !c.Admin {
		return "", fault.New(fault.Forbidden, "only an administrator of the installation changes what all tenants' devices trust")
	}
	return "", nil
}

// Releases lists all of a tenant, or of the installation, withdrawn ones, too: by kind and feed, oldest version first.
func (s *Service) Releases(ctx context.Context, c Caller, tenant string) ([]Release, error) {
	id, err := s.software(ctx, c, tenant, "Releases", false)
	if err != nil {
		return nil, err
	}
	all, err := s.store.Releases(ctx, id)
	sortReleases(all)
	return all, err
}

func sortReleases(all []Release) {
	slices.SortStableFunc(all, func(a, b Release) int {
		switch {
		case a.Kind != b.Kind:
			return compareText(a.Kind, b.Kind)
		case a.Feed != b.Feed:
			return compareText(string(a.Feed), string(b.Feed))
		}
		return CompareVersions(a.Version, b.Version)
	})
}

func compareText(a, b string) int {
	if a < b {
		return -1
	}
	return 1
}

// PublishRelease has devices trust a set of images. Kind, Version and Images are required, Feed for an OS; Released may be in the future, zero is
// now. What was published once does not change: the same again does nothing, other images under the same version are fault.AlreadyExists. One that
// was withdrawn counts again.
func (s *Service) PublishRelease(ctx context.Context, c Caller, tenant string, r Release) (Release, error) {
	id, err := s.software(ctx, c, tenant, "PublishRelease", true)
	if err != nil {
		return Release{}, err
	}
	if err := r.check(); err != nil {
		return Release{}, err
	}
	all, err := s.store.Releases(ctx, id)
	if err != nil {
		return Release{}, err
	}
	if len(all) >= maxReleases {
		return Release{}, fault.New(fault.QuotaExceeded, "there are %d releases already", len(all))
	}
	now := s.now().UTC()
	r.Tenant, r.By, r.Withdrawn = id, c.Subject, time.Time{}
	if r.Released = r.Released.UTC(); r.Released.IsZero() {
		r.Released = now
	}
	r, err = s.store.PutRelease(ctx, r, func(now *Release) (Release, error) {
		if now == nil {
			return r, nil
		}
		if !slices.Equal(now.Images, r.Images) {
			return Release{}, fault.New(fault.AlreadyExists, "version %s is published with other images; give the new ones another version", r.Version)
		}
		next := *now
		next.Withdrawn = time.Time{}
		return next, nil
	})
	if err == nil {
		s.audit(c, "PublishRelease", id, r.Version, "kind", r.Kind, "feed", r.Feed, "images", len(r.Images))
	}
	return r, err
}

func (r *Release) check() error {
	switch r.Kind {
	case ReleaseOS:
		if err := checkFeed(r.Feed); err != nil {
			return err
		}
	case ReleaseApplication:
		if r.Feed != "" {
			return fault.New(fault.Invalid, "applications have no OS feed")
		}
	default:
		return fault.New(fault.Invalid, "a release is of kind os or application, not %q", r.Kind)
	}
	if err := checkVersion(r.Version); err != nil {
		return err
	}
	if len(r.Images) == 0 || len(r.Images) > maxImages {
		return fault.New(fault.Invalid, "a release has 1 to %d images", maxImages)
	}
	images := make([]Image, len(r.Images))
	for i, m := range r.Images {
		m = m.normal()
		_, component := guid(m.Component)
		_, image := guid(m.ID)
		if sum, err := hex.DecodeString(m.SHA256); err != nil || len(sum) != 32 || !component || !image {
			return fault.New(fault.Invalid, "an image has a component id and an image id, GUIDs, and a SHA-256 of 64 hex digits")
		}
		images[i] = m
	}
	slices.SortFunc(images, func(a, b Image) int { return compareText(a.Component, b.Component) })
	for i := 1; i < len(images); i++ {
		if images[i].Component == images[i-1].Component {
			return fault.New(fault.Invalid, "component %s is there twice", images[i].Component)
		}
	}
	r.Images = images
	return nil
}

// WithdrawRelease ends the trust in a release, at once. Devices that run it get no new certificates but what an update needs; an image that must
// not run at all is gone from their policy, too.
func (s *Service) WithdrawRelease(ctx context.Context, c Caller, tenant, kind string, feed OSFeed, version string) error {
	id, err := s.software(ctx, c, tenant, "WithdrawRelease", true)
	if err != nil {
		return err
	}
	now := s.now().UTC()
	_, err = s.store.PutRelease(ctx, Release{Tenant: id, Kind: kind, Feed: feed, Version: version}, func(r *Release) (Release, error) {
		if r == nil {
			return Release{}, fault.New(fault.NotFound, "version %q is not published", version)
		}
		next := *r
		if next.Withdrawn.IsZero() {
			next.Withdrawn = now
		}
		return next, nil
	})
	if err == nil {
		s.audit(c, "WithdrawRelease", id, version, "kind", kind, "feed", feed)
	}
	return err
}

// Minimums lists all of a tenant or the installation, by feed and time.
func (s *Service) Minimums(ctx context.Context, c Caller, tenant string) ([]Minimum, error) {
	id, err := s.software(ctx, c, tenant, "Minimums", false)
	if err != nil {
		return nil, err
	}
	return s.store.Minimums(ctx, id)
}

// SetMinimum says that from a time on, zero being now, devices of a feed need at least this OS version for a client certificate. The latest that
// has begun counts, of the tenant and of the installation: the stricter. Version "" lifts the tenant's.
func (s *Service) SetMinimum(ctx context.Context, c Caller, tenant string, feed OSFeed, version string, from time.Time) (Minimum, error) {
	id, err := s.software(ctx, c, tenant, "SetMinimum", true)
	if err != nil {
		return Minimum{}, err
	}
	if err := checkFeed(feed); err != nil {
		return Minimum{}, err
	}
	if version != "" {
		if err := checkVersion(version); err != nil {
			return Minimum{}, err
		}
	}
	all, err := s.store.Minimums(ctx, id)
	if err != nil {
		return Minimum{}, err
	}
	if len(all) >= maxMinimums {
		return Minimum{}, fault.New(fault.QuotaExceeded, "there are %d minimum versions already", len(all))
	}
	now := s.now()
	if from.IsZero() {
		from = now
	}
	m := Minimum{Tenant: id, Feed: feed, Version: version, From: from.UTC(), By: c.Subject}
	if err := s.store.PutMinimum(ctx, m, now); err != nil {
		return Minimum{}, err
	}
	s.audit(c, "SetMinimum", id, string(feed), "version", version, "from", m.From)
	return m, nil
}

// policy is the policy for a device now.
func (s *Service) policy(ctx context.Context, d Device) (Policy, error) {
	now := s.now()
	p := Policy{Tenant: d.Tenant, Device: d.ID, Feed: Retail}
	if d.Group != "" {
		g, err := s.store.DeviceGroup(ctx, d.Tenant, d.Group)
		if err != nil {
			return Policy{}, err
		}
		p.Feed = g.OSFeed
	}
	for _, k := range d.Capabilities {
		p.Development = p.Development || slices.Contains(k.Kinds, CapabilityAppDevelopment)
	}
	for _, scope := range []string{d.Tenant, ""} {
		rs, err := s.store.Releases(ctx, scope)
		if err != nil {
			return Policy{}, err
		}
		for _, r := range rs {
			switch {
			case !r.counts(now):
			case r.Kind == ReleaseOS && r.Feed == p.Feed:
				p.OS = append(p.OS, r)
			case r.Kind == ReleaseApplication:
				p.Applications = append(p.Applications, r.Images...)
			}
		}
		ms, err := s.store.Minimums(ctx, scope)
		if err != nil {
			return Policy{}, err
		}
		minimum := ""
		for _, m := range ms { // by time
			if m.Feed == p.Feed && !now.Before(m.From) {
				minimum = m.Version
			}
		}
		if p.Minimum == "" || minimum != "" && CompareVersions(minimum, p.Minimum) > 0 {
			p.Minimum = minimum
		}
	}
	slices.SortStableFunc(p.OS, func(a, b Release) int { return CompareVersions(b.Version, a.Version) })
	if len(p.OS) > 0 {
		p.Latest = p.OS[0].Version
	}
	return p, nil
}
