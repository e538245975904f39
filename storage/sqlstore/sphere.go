package sqlstore

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/vauban-iot/vauban/fault"
	"github.com/vauban-iot/vauban/internal/secret"
	"github.com/vauban-iot/vauban/sphere"
)

var _ sphere.Store = (*Store)(nil)

const tenantKey = "sphere-ca" // the purpose that seals keys of tenants' CAs

func noTenant(id string) error { return fault.New(fault.NotFound, "tenant %q does not exist", id) }

// lockTenant makes changes of one tenant follow each other, and checks that it is there.
func (s *Store) lockTenant(ctx context.Context, c Conn, id string) error {
	if s.b.Serialize != nil {
		if err := s.b.Serialize(ctx, c, "sphere "+id); err != nil {
			return s.fail("wait for the tenant", err)
		}
	}
	return s.hasTenant(ctx, c, id)
}

func (s *Store) hasTenant(ctx context.Context, c Conn, id string) error {
	_, err := one(ctx, s, c, "read tenant", scanInt, `SELECT 1 FROM sphere_tenants WHERE id = $1`, id)
	if errors.Is(err, errNoRow) {
		return noTenant(id)
	}
	return err
}

const selectTenant = `SELECT id, name, etag, created, updated FROM sphere_tenants `

func scanTenant(r *sql.Rows) (t sphere.Tenant, err error) {
	err = r.Scan(&t.ID, &t.Name, &t.ETag, stamp{&t.Created}, stamp{&t.Updated})
	return t, err
}

// CreateTenant implements [sphere.TenantStore].
func (s *Store) CreateTenant(ctx context.Context, t sphere.Tenant, m sphere.Member, ca sphere.StoredCA) error {
	return s.write(ctx, func(ctx context.Context, c Conn) error {
		n, err := s.exec(ctx, c, "create tenant", `INSERT INTO sphere_tenants (id, name, etag, created, updated)
			VALUES ($1, $2, $3, $4, $5) ON CONFLICT DO NOTHING`, t.ID, t.Name, string(t.ETag), micros(t.Created), micros(t.Updated))
		if err != nil {
			return err
		}
		if n == 0 {
			return fault.New(fault.AlreadyExists, "tenant %q exists", t.ID)
		}
		m.Tenant, ca.Tenant = t.ID, t.ID
		if err := s.insertMember(ctx, c, m); err != nil {
			return err
		}
		return s.putCA(ctx, c, ca)
	})
}

// Tenant implements [sphere.TenantStore].
func (s *Store) Tenant(ctx context.Context, id string) (sphere.Tenant, error) {
	t, err := one(ctx, s, s.b.Reader, "read tenant", scanTenant, selectTenant+`WHERE id = $1`, id)
	if errors.Is(err, errNoRow) {
		return t, noTenant(id)
	}
	return t, err
}

// UpdateTenant implements [sphere.TenantStore].
func (s *Store) UpdateTenant(ctx context.Context, id string, change func(sphere.Tenant) (sphere.Tenant, error)) (next sphere.Tenant, err error) {
	err = s.write(ctx, func(ctx context.Context, c Conn) error {
		now, err := one(ctx, s, c, "read tenant", scanTenant, s.lock(selectTenant+`WHERE id = $1`), id)
		if errors.Is(err, errNoRow) {
			return noTenant(id)
		}
		if err != nil {
			return err
		}
		if next, err = change(now); err != nil {
			return err
		}
		if next.ID != id {
			return changedKey(id, next.ID)
		}
		next.Created, next.Updated = stored(next.Created), stored(next.Updated)
		_, err = s.exec(ctx, c, "write tenant", `UPDATE sphere_tenants SET name = $2, etag = $3, created = $4, updated = $5 WHERE id = $1`,
			id, next.Name, string(next.ETag), micros(next.Created), micros(next.Updated))
		return err
	})
	if err != nil {
		return sphere.Tenant{}, err
	}
	return next, nil
}

func changedKey(asked, got string) error {
	return fmt.Errorf("store: change of %q returned %q", asked, got)
}

// Tenants implements [sphere.TenantStore].
func (s *Store) Tenants(ctx context.Context, after string, limit int) ([]sphere.Tenant, error) {
	return list(ctx, s, s.b.Reader, "list tenants", scanTenant, selectTenant+`WHERE id > $1 ORDER BY id LIMIT $2`, after, limit)
}

const selectMember = `SELECT tenant, name, roles, added FROM sphere_members `

func scanMember(r *sql.Rows) (m sphere.Member, err error) {
	err = r.Scan(&m.Tenant, &m.User, jsonText{&m.Roles}, stamp{&m.Added})
	return m, err
}

const membersOf = selectMember + `WHERE tenant = $1 ORDER BY folded`

// Members implements [sphere.TenantStore].
func (s *Store) Members(ctx context.Context, tenant string) ([]sphere.Member, error) {
	return list(ctx, s, s.b.Reader, "list members", scanMember, membersOf, tenant)
}

// Memberships implements [sphere.TenantStore].
func (s *Store) Memberships(ctx context.Context, user string) ([]sphere.Member, error) {
	return list(ctx, s, s.b.Reader, "list memberships", scanMember, selectMember+`WHERE folded = $1 ORDER BY tenant`, sphere.Fold(user))
}

// Membership implements [sphere.TenantStore].
func (s *Store) Membership(ctx context.Context, tenant, user string) (sphere.Member, error) {
	m, err := one(ctx, s, s.b.Reader, "read member", scanMember, selectMember+`WHERE tenant = $1 AND folded = $2`, tenant, sphere.Fold(user))
	return m, notFound(err, "member", user)
}

// ChangeMembers implements [sphere.TenantStore].
func (s *Store) ChangeMembers(ctx context.Context, tenant string, change func([]sphere.Member) ([]sphere.Member, error)) error {
	return s.write(ctx, func(ctx context.Context, c Conn) error {
		if err := s.lockTenant(ctx, c, tenant); err != nil {
			return err
		}
		now, err := list(ctx, s, c, "read members", scanMember, membersOf, tenant)
		if err != nil {
			return err
		}
		next, err := change(now)
		if err != nil {
			return err
		}
		if _, err := s.exec(ctx, c, "write members", `DELETE FROM sphere_members WHERE tenant = $1`, tenant); err != nil {
			return err
		}
		for _, m := range next {
			m.Tenant = tenant
			if err := s.insertMember(ctx, c, m); err != nil {
				return err
			}
		}
		return nil
	})
}

func (s *Store) insertMember(ctx context.Context, c Conn, m sphere.Member) error {
	roles, err := toJSON(m.Roles)
	if err != nil {
		return err
	}
	_, err = s.exec(ctx, c, "write member", `INSERT INTO sphere_members (tenant, folded, name, roles, added) VALUES ($1, $2, $3, $4, $5)`,
		m.Tenant, sphere.Fold(m.User), m.User, roles, micros(m.Added))
	return err
}

const selectProduct = `SELECT tenant, id, name, description, etag, created, updated FROM sphere_products `

const oneProduct = selectProduct + `WHERE tenant = $1 AND id = $2`

func scanProduct(r *sql.Rows) (p sphere.Product, err error) {
	err = r.Scan(&p.Tenant, &p.ID, &p.Name, &p.Description, &p.ETag, stamp{&p.Created}, stamp{&p.Updated})
	return p, err
}

// Product implements [sphere.ProductStore].
func (s *Store) Product(ctx context.Context, tenant, id string) (sphere.Product, error) {
	p, err := one(ctx, s, s.b.Reader, "read product", scanProduct, oneProduct, tenant, id)
	return p, notFound(err, "product", id)
}

// PutProduct implements [sphere.ProductStore].
func (s *Store) PutProduct(ctx context.Context, tenant, id string, change func(*sphere.Product) (sphere.Product, error)) (next sphere.Product, err error) {
	err = s.write(ctx, func(ctx context.Context, c Conn) error {
		if err := s.lockTenant(ctx, c, tenant); err != nil {
			return err
		}
		now, err := one(ctx, s, c, "read product", scanProduct, oneProduct, tenant, id)
		var current *sphere.Product
		switch {
		case err == nil:
			current = &now
		case !errors.Is(err, errNoRow):
			return err
		}
		if next, err = change(current); err != nil {
			return err
		}
		if next.ID != id {
			return changedKey(id, next.ID)
		}
		next.Tenant = tenant
		next.Created, next.Updated = stored(next.Created), stored(next.Updated)
		_, err = one(ctx, s, c, "look for the name", scanInt, `SELECT 1 FROM sphere_products WHERE tenant = $1 AND folded = $2 AND id <> $3`,
			tenant, sphere.Fold(next.Name), id)
		if err == nil {
			return fault.New(fault.AlreadyExists, "there is a product %q already", next.Name)
		}
		if !errors.Is(err, errNoRow) {
			return err
		}
		_, err = s.exec(ctx, c, "write product", `INSERT INTO sphere_products (tenant, id, folded, name, description, etag, created, updated)
			VALUES ($1, $2, $3, $4, $5, $6, $7, $8) ON CONFLICT (tenant, id) DO UPDATE SET folded = excluded.folded, name = excluded.name,
			description = excluded.description, etag = excluded.etag, created = excluded.created, updated = excluded.updated`,
			tenant, id, sphere.Fold(next.Name), next.Name, next.Description, string(next.ETag), micros(next.Created), micros(next.Updated))
		return err
	})
	if err != nil {
		return sphere.Product{}, err
	}
	return next, nil
}

// DeleteProduct implements [sphere.ProductStore].
func (s *Store) DeleteProduct(ctx context.Context, tenant, id string, check func(sphere.Product) error) error {
	return s.write(ctx, func(ctx context.Context, c Conn) error {
		if err := s.lockTenant(ctx, c, tenant); err != nil {
			return err
		}
		now, err := one(ctx, s, c, "read product", scanProduct, oneProduct, tenant, id)
		if err != nil {
			return notFound(err, "product", id)
		}
		if err := check(now); err != nil {
			return err
		}
		if err := s.noDevices(ctx, c, "product", now.Name, `SELECT 1 FROM sphere_devices WHERE tenant = $1 AND product = $2 LIMIT 1`, tenant, id); err != nil {
			return err
		}
		_, err = s.exec(ctx, c, "delete product", `DELETE FROM sphere_products WHERE tenant = $1 AND id = $2`, tenant, id)
		return err
	})
}

// noDevices fails when a query finds a device.
func (s *Store) noDevices(ctx context.Context, c Conn, what, name, query string, args ...any) error {
	_, err := one(ctx, s, c, "look for devices", scanInt, query, args...)
	switch {
	case err == nil:
		return fault.New(fault.AlreadyExists, "there are devices in %s %q; move them first", what, name)
	case errors.Is(err, errNoRow):
		return nil
	}
	return err
}

// Products implements [sphere.ProductStore].
func (s *Store) Products(ctx context.Context, tenant, after string, limit int) ([]sphere.Product, error) {
	return list(ctx, s, s.b.Reader, "list products", scanProduct,
		selectProduct+`WHERE tenant = $1 AND folded > $2 ORDER BY folded LIMIT $3`, tenant, after, limit)
}

// groupDocument holds the fields of a device group that nobody looks for.
type groupDocument struct {
	Description      string              `json:"description,omitempty"`
	OSFeed           sphere.OSFeed       `json:"osFeed"`
	UpdatePolicy     sphere.UpdatePolicy `json:"updatePolicy"`
	AllowCrashDumps  bool                `json:"allowCrashDumps,omitempty"`
	RegionalBoundary string              `json:"regionalBoundary,omitempty"`
}

// selectGroup reads groups with their deployments in force.
const selectGroup = `SELECT g.tenant, g.id, g.product, g.name, g.document, g.etag, g.created, g.updated,
	coalesce(d.id, ''), coalesce(d.number, 0), coalesce(d.images, '[]'), coalesce(d.created, 0), coalesce(d.author, '')
	FROM sphere_groups g LEFT JOIN sphere_deployments d ON d.tenant = g.tenant AND d.grp = g.id
	AND d.number = (SELECT max(l.number) FROM sphere_deployments l WHERE l.tenant = g.tenant AND l.grp = g.id) `

const oneGroup = selectGroup + `WHERE g.tenant = $1 AND g.id = $2`

func scanGroup(r *sql.Rows) (g sphere.DeviceGroup, err error) {
	var doc groupDocument
	var d sphere.Deployment
	err = r.Scan(&g.Tenant, &g.ID, &g.Product, &g.Name, jsonText{&doc}, &g.ETag, stamp{&g.Created}, stamp{&g.Updated},
		&d.ID, &d.Number, jsonText{&d.Images}, stamp{&d.Created}, &d.By)
	g.Description, g.OSFeed, g.UpdatePolicy = doc.Description, doc.OSFeed, doc.UpdatePolicy
	g.AllowCrashDumps, g.RegionalBoundary = doc.AllowCrashDumps, doc.RegionalBoundary
	if d.ID != "" {
		d.Tenant, d.Group = g.Tenant, g.ID
		g.Deployment = &d
	}
	return g, err
}

// DeviceGroup implements [sphere.ProductStore].
func (s *Store) DeviceGroup(ctx context.Context, tenant, id string) (sphere.DeviceGroup, error) {
	g, err := one(ctx, s, s.b.Reader, "read device group", scanGroup, oneGroup, tenant, id)
	return g, notFound(err, "device group", id)
}

// PutDeviceGroups implements [sphere.ProductStore].
func (s *Store) PutDeviceGroups(
	ctx context.Context, tenant, product string, change func([]sphere.DeviceGroup) ([]sphere.DeviceGroup, error),
) (next []sphere.DeviceGroup, err error) {
	err = s.write(ctx, func(ctx context.Context, c Conn) error {
		if err := s.lockTenant(ctx, c, tenant); err != nil {
			return err
		}
		if _, err := one(ctx, s, c, "read product", scanProduct, oneProduct, tenant, product); err != nil {
			return notFound(err, "product", product)
		}
		all, err := list(ctx, s, c, "read device groups", scanGroup, selectGroup+`WHERE g.tenant = $1 AND g.product = $2 ORDER BY g.folded`, tenant, product)
		if err != nil {
			return err
		}
		if next, err = change(slices.Clone(all)); err != nil {
			return err
		}
		// Two that swap their names are refused, too: they would meet on the way.
		for i, g := range next {
			if slices.ContainsFunc(append(slices.Clone(all), next[:i]...), func(o sphere.DeviceGroup) bool {
				return o.ID != g.ID && sphere.Fold(o.Name) == sphere.Fold(g.Name)
			}) {
				return fault.New(fault.AlreadyExists, "there is a device group %q in the product already", g.Name)
			}
		}
		for i := range next {
			g := &next[i]
			g.Tenant, g.Product = tenant, product
			g.Created, g.Updated = stored(g.Created), stored(g.Updated)
			if err := s.putGroup(ctx, c, *g); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	return next, nil
}

func (s *Store) putGroup(ctx context.Context, c Conn, g sphere.DeviceGroup) error {
	doc, err := toJSON(groupDocument{g.Description, g.OSFeed, g.UpdatePolicy, g.AllowCrashDumps, g.RegionalBoundary})
	if err != nil {
		return err
	}
	n, err := s.exec(ctx, c, "write device group", `INSERT INTO sphere_groups (tenant, id, product, folded, name, document, etag, created, updated)
		VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9) ON CONFLICT (tenant, id) DO UPDATE SET folded = excluded.folded, name = excluded.name,
		document = excluded.document, etag = excluded.etag, created = excluded.created, updated = excluded.updated
		WHERE sphere_groups.product = excluded.product`,
		g.Tenant, g.ID, g.Product, sphere.Fold(g.Name), g.Name, doc, string(g.ETag), micros(g.Created), micros(g.Updated))
	if err == nil && n == 0 {
		err = fmt.Errorf("store: device group %s is one of another product", g.ID)
	}
	return err
}

// DeleteDeviceGroup implements [sphere.ProductStore].
func (s *Store) DeleteDeviceGroup(ctx context.Context, tenant, id string, check func(sphere.DeviceGroup) error) error {
	return s.write(ctx, func(ctx context.Context, c Conn) error {
		if err := s.lockTenant(ctx, c, tenant); err != nil {
			return err
		}
		now, err := one(ctx, s, c, "read device group", scanGroup, oneGroup, tenant, id)
		if err != nil {
			return notFound(err, "device group", id)
		}
		if err := check(now); err != nil {
			return err
		}
		if err := s.noDevices(ctx, c, "device group", now.Name, `SELECT 1 FROM sphere_devices WHERE tenant = $1 AND grp = $2 LIMIT 1`, tenant, id); err != nil {
			return err
		}
		_, err = s.exec(ctx, c, "delete device group", `DELETE FROM sphere_groups WHERE tenant = $1 AND id = $2`, tenant, id)
		return err
	})
}

// DeviceGroups implements [sphere.ProductStore].
func (s *Store) DeviceGroups(ctx context.Context, tenant, product, after string, limit int) ([]sphere.DeviceGroup, error) {
	afterProduct, afterName, _ := strings.Cut(after, "/")
	query, args := selectGroup+`WHERE g.tenant = $1 AND (g.product > $2 OR g.product = $2 AND g.folded > $3)`, []any{tenant, afterProduct, afterName}
	if product != "" {
		query, args = query+` AND g.product = $4`, append(args, product)
	}
	return list(ctx, s, s.b.Reader, "list device groups", scanGroup, query+fmt.Sprintf(` ORDER BY g.product, g.folded LIMIT $%d`, len(args)+1), append(args, limit)...)
}

const selectRelease = `SELECT tenant, kind, feed, version, images, released, withdrawn, author FROM sphere_releases `

func scanRelease(r *sql.Rows) (v sphere.Release, err error) {
	err = r.Scan(&v.Tenant, &v.Kind, &v.Feed, &v.Version, jsonText{&v.Images}, stamp{&v.Released}, stamp{&v.Withdrawn}, &v.By)
	return v, err
}

// PutRelease implements [sphere.SoftwareStore].
func (s *Store) PutRelease(ctx context.Context, key sphere.Release, change func(*sphere.Release) (sphere.Release, error)) (next sphere.Release, err error) {
	err = s.write(ctx, func(ctx context.Context, c Conn) error {
		now, err := one(ctx, s, c, "read release", scanRelease, s.lock(selectRelease+`WHERE tenant = $1 AND kind = $2 AND feed = $3 AND version = $4`),
			key.Tenant, key.Kind, string(key.Feed), key.Version)
		var current *sphere.Release
		switch {
		case err == nil:
			current = &now
		case !errors.Is(err, errNoRow):
			return err
		}
		if next, err = change(current); err != nil {
			return err
		}
		if next.Tenant != key.Tenant || next.Kind != key.Kind || next.Feed != key.Feed || next.Version != key.Version {
			return changedKey(key.Version, next.Version)
		}
		next.Released, next.Withdrawn = stored(next.Released), stored(next.Withdrawn)
		images, err := toJSON(next.Images)
		if err != nil {
			return err
		}
		n, err := s.exec(ctx, c, "write release", putQuery(current != nil, `INSERT INTO sphere_releases
			(tenant, kind, feed, version, images, released, withdrawn, author) VALUES ($1, $2, $3, $4, $5, $6, $7, $8)`,
			` ON CONFLICT (tenant, kind, feed, version) DO UPDATE SET images = excluded.images, released = excluded.released,
			withdrawn = excluded.withdrawn, author = excluded.author`),
			next.Tenant, next.Kind, string(next.Feed), next.Version, images, micros(next.Released), micros(next.Withdrawn), next.By)
		if err == nil && n == 0 {
			err = ErrRetry
		}
		return err
	})
	if err != nil {
		return sphere.Release{}, err
	}
	return next, nil
}

// Releases implements [sphere.SoftwareStore].
func (s *Store) Releases(ctx context.Context, tenant string) ([]sphere.Release, error) {
	return list(ctx, s, s.b.Reader, "list releases", scanRelease, selectRelease+`WHERE tenant = $1 ORDER BY kind, feed, version`, tenant)
}

// Minimums implements [sphere.SoftwareStore].
func (s *Store) Minimums(ctx context.Context, tenant string) ([]sphere.Minimum, error) {
	return list(ctx, s, s.b.Reader, "list minimum versions", func(r *sql.Rows) (m sphere.Minimum, err error) {
		err = r.Scan(&m.Tenant, &m.Feed, &m.Version, stamp{&m.From}, &m.By)
		return m, err
	}, `SELECT tenant, feed, version, since, author FROM sphere_minimums WHERE tenant = $1 ORDER BY feed, since`, tenant)
}

const selectTenantCA = `SELECT tenant, serial, certificate, private_key, not_after, active_from, revoked, created FROM sphere_cas `

const tenantCAs = selectTenantCA + `WHERE tenant = $1 ORDER BY created, serial`

func (s *Store) scanTenantCA(r *sql.Rows) (ca sphere.StoredCA, err error) {
	var key []byte
	err = r.Scan(&ca.Tenant, &ca.Serial, &ca.Certificate, &key, stamp{&ca.NotAfter}, stamp{&ca.ActiveFrom}, stamp{&ca.Revoked}, stamp{&ca.Created})
	if err != nil {
		return ca, err
	}
	plain, err := s.open(tenantKey, ca.Tenant+"/"+ca.Serial, key)
	if err == nil {
		ca.Key = secret.New(plain)
	}
	return ca, err
}

func (s *Store) cas(ctx context.Context, c Conn, tenant string) ([]sphere.StoredCA, error) {
	return list(ctx, s, c, "list CAs", s.scanTenantCA, tenantCAs, tenant)
}

// TenantCAs implements [sphere.CAStore].
func (s *Store) TenantCAs(ctx context.Context, tenant string) ([]sphere.StoredCA, error) {
	return s.cas(ctx, s.b.Reader, tenant)
}

// ChangeTenantCAs implements [sphere.CAStore].
func (s *Store) ChangeTenantCAs(ctx context.Context, tenant string, change func([]sphere.StoredCA) ([]sphere.StoredCA, error)) error {
	return s.write(ctx, func(ctx context.Context, c Conn) error {
		if err := s.lockTenant(ctx, c, tenant); err != nil {
			return err
		}
		now, err := s.cas(ctx, c, tenant)
		if err != nil {
			return err
		}
		next, err := change(now)
		if err != nil {
			return err
		}
		for _, ca := range next {
			ca.Tenant = tenant
			if err := s.putCA(ctx, c, ca); err != nil {
				return err
			}
		}
		return nil
	})
}

func (s *Store) putCA(ctx context.Context, c Conn, ca sphere.StoredCA) error {
	_, err := s.exec(ctx, c, "write CA", `INSERT INTO sphere_cas (tenant, serial, certificate, private_key, not_after, active_from, revoked, created)
		VALUES ($1, $2, $3, $4, $5, $6, $7, $8) ON CONFLICT (tenant, serial) DO UPDATE SET active_from = excluded.active_from, revoked = excluded.revoked`,
		ca.Tenant, ca.Serial, ca.Certificate, s.seal(tenantKey, ca.Tenant+"/"+ca.Serial, ca.Key.Reveal()),
		micros(ca.NotAfter), micros(ca.ActiveFrom), micros(ca.Revoked), micros(ca.Created))
	return err
}
