package sphere

import (
	"context"
	"slices"

	"github.com/vauban-iot/vauban/fault"
	"github.com/vauban-iot/vauban/iot"
)

// maxMembers bounds the users of a tenant.
const maxMembers = 500

// Me is the caller with its roles.
func (s *Service) Me(ctx context.Context, c Caller) (User, error) {
	if err := s.signedIn(c); err != nil {
		return User{}, err
	}
	all, err := s.store.Memberships(ctx, c.Subject)
	return User{Name: c.Subject, Admin: c.Admin, Memberships: all}, err
}

// Tenants lists those that the caller has a role in, or all for an administrator of the installation, by id.
func (s *Service) Tenants(ctx context.Context, c Caller, p Page) (List[Tenant], error) {
	if err := s.signedIn(c); err != nil {
		return List[Tenant]{}, err
	}
	return page(p, func(t Tenant) string { return t.ID }, func(after string, limit int) ([]Tenant, error) {
		if c.Admin {
			return s.store.Tenants(ctx, after, limit)
		}
		mine, err := s.store.Memberships(ctx, c.Subject)
		if err != nil {
			return nil, err
		}
		var ts []Tenant
		for _, m := range mine {
			if m.Tenant <= after || len(ts) == limit {
				continue
			}
			t, err := s.store.Tenant(ctx, m.Tenant)
			if err != nil {
				return nil, err
			}
			ts = append(ts, t)
		}
		return ts, nil
	})
}

// CreateTenant makes a tenant, whose first Administrator the caller is, and its first CA, which issues at once. fault.QuotaExceeded when the caller
// has as many as it may.
func (s *Service) CreateTenant(ctx context.Context, c Caller, name string) (Tenant, error) {
	if err := s.signedIn(c); err != nil {
		return Tenant{}, err
	}
	if err := checkTenantName(name); err != nil {
		return Tenant{}, err
	}
	if !c.Admin {
		if s.cfg.TenantsPerUser < 0 {
			return Tenant{}, fault.New(fault.Forbidden, "only an administrator of the installation may create tenants")
		}
		mine, err := s.store.Memberships(ctx, c.Subject)
		if err != nil {
			return Tenant{}, err
		}
		n := 0
		for _, m := range mine {
			if m.has(Administrator) {
				n++
			}
		}
		if n >= s.cfg.TenantsPerUser {
			return Tenant{}, fault.New(fault.QuotaExceeded, "you administer %d tenants already; an administrator of the installation can create more", n)
		}
	}
	now := s.now().UTC()
	t := Tenant{ID: newGUID(), Name: name, ETag: newETag(), Created: now, Updated: now}
	_, ca, err := s.newCA(t, now)
	if err != nil {
		return Tenant{}, err
	}
	m := Member{Tenant: t.ID, User: c.Subject, Roles: []Role{Administrator}, Added: now}
	if err := s.store.CreateTenant(ctx, t, m, ca); err != nil {
		return Tenant{}, err
	}
	s.audit(c, "CreateTenant", t.ID, name, "ca", ca.Serial)
	return t, nil
}

// Tenant returns one.
func (s *Service) Tenant(ctx context.Context, c Caller, tenant string) (Tenant, error) {
	id, err := s.allow(ctx, c, tenant, "Tenant")
	if err != nil {
		return Tenant{}, err
	}
	return s.store.Tenant(ctx, id)
}

// UpdateTenant renames a tenant.
func (s *Service) UpdateTenant(ctx context.Context, c Caller, tenant, name string, match *iot.Match) (Tenant, error) {
	id, err := s.allow(ctx, c, tenant, "UpdateTenant")
	if err != nil {
		return Tenant{}, err
	}
	if err := checkTenantName(name); err != nil {
		return Tenant{}, err
	}
	tag, now := newETag(), s.now().UTC()
	t, err := s.store.UpdateTenant(ctx, id, func(t Tenant) (Tenant, error) {
		if err := match.Check(t.ETag); err != nil {
			return t, err
		}
		t.Name, t.ETag, t.Updated = name, tag, now
		return t, nil
	})
	if err == nil {
		s.audit(c, "UpdateTenant", id, name)
	}
	return t, err
}

// Members lists who has roles in a tenant, by name.
func (s *Service) Members(ctx context.Context, c Caller, tenant string) ([]Member, error) {
	id, err := s.allow(ctx, c, tenant, "Members")
	if err != nil {
		return nil, err
	}
	return s.store.Members(ctx, id)
}

// AddRole gives a user a role beside those it has. The user need not have signed in before. To give one twice does nothing.
func (s *Service) AddRole(ctx context.Context, c Caller, tenant, user string, role Role) (Member, error) {
	id, err := s.allow(ctx, c, tenant, "AddRole")
	if err != nil {
		return Member{}, err
	}
	if err := checkRole(user, role); err != nil {
		return Member{}, err
	}
	now := s.now().UTC()
	var member Member
	var changed bool
	err = s.store.ChangeMembers(ctx, id, func(all []Member) ([]Member, error) {
		changed = false
		at := slices.IndexFunc(all, func(m Member) bool { return Fold(m.User) == Fold(user) })
		if at < 0 {
			if len(all) >= maxMembers {
				return nil, fault.New(fault.QuotaExceeded, "a tenant has at most %d users", maxMembers)
			}
			all, at = append(all, Member{Tenant: id, User: user, Added: now}), len(all)
		}
		m := &all[at]
		if !slices.Contains(m.Roles, role) {
			m.Roles, changed = append(slices.Clone(m.Roles), role), true
			slices.SortFunc(m.Roles, func(a, b Role) int { return rank(b) - rank(a) })
		}
		member = *m
		return all, nil
	})
	if err != nil {
		return Member{}, hide(err, tenant)
	}
	if changed {
		s.audit(c, "AddRole", id, user, "role", role)
	}
	return member, nil
}

// RemoveRole takes a role from a user. fault.NotFound when the user does not have it; fault.AlreadyExists (a conflict) when the tenant would be
// left without an Administrator.
func (s *Service) RemoveRole(ctx context.Context, c Caller, tenant, user string, role Role) error {
	id, err := s.allow(ctx, c, tenant, "RemoveRole")
	if err != nil {
		return err
	}
	if err := checkRole(user, role); err != nil {
		return err
	}
	err = s.store.ChangeMembers(ctx, id, func(all []Member) ([]Member, error) {
		at := slices.IndexFunc(all, func(m Member) bool { return Fold(m.User) == Fold(user) })
		if at < 0 || !slices.Contains(all[at].Roles, role) {
			return nil, fault.New(fault.NotFound, "user %q does not have the role %s", user, role)
		}
		m := &all[at]
		m.Roles = slices.DeleteFunc(slices.Clone(m.Roles), func(r Role) bool { return r == role })
		if len(m.Roles) == 0 {
			all = slices.Delete(all, at, at+1)
		}
		if !slices.ContainsFunc(all, func(m Member) bool { return m.has(Administrator) }) {
			return nil, fault.New(fault.AlreadyExists, "user %q is the last Administrator of the tenant; give the role to another first", user)
		}
		return all, nil
	})
	if err != nil {
		return err
	}
	s.audit(c, "RemoveRole", id, user, "role", role)
	return nil
}

func checkRole(user string, role Role) error {
	if user == "" {
		return fault.New(fault.Invalid, "name a user")
	}
	if err := checkText("a user's name", user, maxUser); err != nil {
		return err
	}
	if rank(role) == 0 {
		return fault.New(fault.Invalid, "there is no role %q; roles are Administrator, Contributor and Reader", role)
	}
	return nil
}
