package sqlstore

import (
	"context"
	"crypto/sha256"
	"database/sql"
	"encoding/hex"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/vauban-iot/vauban/fault"
	"github.com/vauban-iot/vauban/sphere"
	"github.com/vauban-iot/vauban/sphere/report"
)

// manufactureDocument holds the fields of a manufacture record that nobody looks for.
type manufactureDocument struct {
	PublicKey      []byte `json:"publicKey"`
	ChipSKU        string `json:"chipSku,omitempty"`
	EndorsementKey string `json:"endorsementKey,omitempty"`
	Voucher        []byte `json:"voucher,omitempty"`
	By             string `json:"by"`
}

const selectManufacture = `SELECT tenant, device, reserved, document, created FROM sphere_manufacture `

func scanManufacture(r *sql.Rows) (m sphere.ManufactureRecord, err error) {
	var doc manufactureDocument
	err = r.Scan(&m.Tenant, &m.Device, &m.Reserved, jsonText{&doc}, stamp{&m.Created})
	m.PublicKey, m.ChipSKU, m.EndorsementKey, m.Voucher, m.By = doc.PublicKey, doc.ChipSKU, doc.EndorsementKey, doc.Voucher, doc.By
	return m, err
}

const oneManufacture = selectManufacture + `WHERE tenant = $1 AND device = $2`

// ManufactureRecord implements [sphere.DeviceStore].
func (s *Store) ManufactureRecord(ctx context.Context, tenant, device string) (sphere.ManufactureRecord, error) {
	m, err := one(ctx, s, s.b.Reader, "read manufacture record", scanManufacture, oneManufacture, tenant, device)
	return m, notFound(err, "manufacture record", device)
}

// AnyManufactureRecord implements [sphere.DeviceStore].
func (s *Store) AnyManufactureRecord(ctx context.Context, device string) (sphere.ManufactureRecord, error) {
	m, err := one(ctx, s, s.b.Reader, "read manufacture record", scanManufacture,
		selectManufacture+`WHERE device = $1 ORDER BY reserved DESC, created, tenant LIMIT 1`, device)
	return m, notFound(err, "manufacture record", device)
}

// ManufactureRecords implements [sphere.DeviceStore].
func (s *Store) ManufactureRecords(ctx context.Context, tenant, after string, limit int) ([]sphere.ManufactureRecord, error) {
	return list(ctx, s, s.b.Reader, "list manufacture records", scanManufacture,
		selectManufacture+`WHERE tenant = $1 AND device > $2 ORDER BY device LIMIT $3`, tenant, after, limit)
}

// ReservedFor implements [sphere.DeviceStore].
func (s *Store) ReservedFor(ctx context.Context, device string) (string, error) {
	return s.reservedFor(ctx, s.b.Reader, device)
}

func (s *Store) reservedFor(ctx context.Context, c Conn, device string) (string, error) {
	tenant, err := one(ctx, s, c, "read reservation", func(r *sql.Rows) (t string, err error) {
		err = r.Scan(&t)
		return t, err
	}, `SELECT tenant FROM sphere_manufacture WHERE device = $1 AND reserved = $2`, device, true)
	if errors.Is(err, errNoRow) {
		return "", nil
	}
	return tenant, err
}

// PutManufactureRecords implements [sphere.DeviceStore].
func (s *Store) PutManufactureRecords(
	ctx context.Context, tenant string, records []sphere.ManufactureRecord, check func(int, *sphere.ManufactureRecord, string) error,
) ([]error, error) {
	var errs []error
	err := s.write(ctx, func(ctx context.Context, c Conn) error {
		errs = make([]error, len(records))
		if err := s.lockTenant(ctx, c, tenant); err != nil {
			return err
		}
		// Two tenants' reservations of one device must not cross.
		if s.b.Serialize != nil {
			if err := s.b.Serialize(ctx, c, "sphere reservations"); err != nil {
				return s.fail("wait for reservations", err)
			}
		}
		for i, m := range records {
			now, err := one(ctx, s, c, "read manufacture record", scanManufacture, oneManufacture, tenant, m.Device)
			var current *sphere.ManufactureRecord
			switch {
			case err == nil:
				current = &now
			case !errors.Is(err, errNoRow):
				return err
			}
			reserved, err := s.reservedFor(ctx, c, m.Device)
			if err != nil {
				return err
			}
			if errs[i] = check(i, current, reserved); errs[i] != nil {
				continue
			}
			doc, err := toJSON(manufactureDocument{m.PublicKey, m.ChipSKU, m.EndorsementKey, m.Voucher, m.By})
			if err != nil {
				return err
			}
			if _, err := s.exec(ctx, c, "write manufacture record", `INSERT INTO sphere_manufacture (tenant, device, reserved, document, created)
				VALUES ($1, $2, $3, $4, $5) ON CONFLICT (tenant, device) DO UPDATE SET reserved = excluded.reserved, document = excluded.document,
				created = excluded.created`, tenant, m.Device, m.Reserved, doc, micros(m.Created)); err != nil {
				return err
			}
		}
		return nil
	})
	return errs, err
}

// SpendChallenge implements [sphere.DeviceStore].
func (s *Store) SpendChallenge(ctx context.Context, nonce string, until, now time.Time) error {
	return s.write(ctx, func(ctx context.Context, c Conn) error {
		if _, err := s.exec(ctx, c, "forget challenges", `DELETE FROM sphere_spent WHERE until < $1`, micros(now)); err != nil {
			return err
		}
		n, err := s.exec(ctx, c, "remember challenge", `INSERT INTO sphere_spent (nonce, until) VALUES ($1, $2) ON CONFLICT DO NOTHING`, nonce, micros(until))
		if err == nil && n == 0 {
			err = fault.New(fault.AlreadyExists, "the challenge was used already")
		}
		return err
	})
}

// deviceDocument holds the fields of a device that nobody looks for. Times are microseconds.
type deviceDocument struct {
	PublicKey      []byte `json:"publicKey"`
	EndorsementKey string `json:"endorsementKey,omitempty"`
	HardwareRoot   bool   `json:"hardwareRoot,omitempty"`
	ClaimedBy      string `json:"claimedBy,omitempty"`
	ClaimedHow     string `json:"claimedHow,omitempty"`
	Installed      string `json:"installedVersion,omitempty"`
	Available      string `json:"availableVersion,omitempty"`
	UpdateCheck    int64  `json:"updateCheck,omitempty"`
	OSUpdate       int64  `json:"osUpdate,omitempty"`
	Attested       int64  `json:"attested,omitempty"`
	BootCounter    uint64 `json:"bootCounter,omitempty"`
}

const (
	deviceRow      = `id, tenant, product, grp, state, sku, enabled, document, etag, claimed, updated`
	oneDevice      = `SELECT ` + deviceRow + `, installed FROM sphere_devices WHERE id = $1`
	selectOfTenant = `SELECT ` + deviceRow + `, '[]' FROM sphere_devices WHERE tenant = $1`
)

func scanDevice(r *sql.Rows) (d sphere.Device, err error) {
	var doc deviceDocument
	err = r.Scan(&d.ID, &d.Tenant, &d.Product, &d.Group, &d.State, &d.ChipSKU, &d.Enabled, jsonText{&doc}, &d.ETag,
		stamp{&d.Claimed}, stamp{&d.Updated}, jsonText{&d.Installed})
	d.PublicKey, d.EndorsementKey, d.HardwareRoot = doc.PublicKey, doc.EndorsementKey, doc.HardwareRoot
	d.ClaimedBy, d.ClaimedHow = doc.ClaimedBy, doc.ClaimedHow
	d.LastInstalledOSVersion, d.LastAvailableOSVersion, d.BootCounter = doc.Installed, doc.Available, doc.BootCounter
	d.LastUpdateCheck, d.LastOSUpdate, d.LastAttested = fromMicros(doc.UpdateCheck), fromMicros(doc.OSUpdate), fromMicros(doc.Attested)
	return d, err
}

// TenantDevice implements [sphere.DeviceStore].
func (s *Store) TenantDevice(ctx context.Context, tenant, id string, now time.Time) (sphere.Device, error) {
	d, err := s.ClaimedDevice(ctx, id, now)
	if err == nil && d.Tenant != tenant {
		return sphere.Device{}, notFound(errNoRow, "device", id)
	}
	return d, err
}

// ClaimedDevice implements [sphere.DeviceStore].
func (s *Store) ClaimedDevice(ctx context.Context, id string, now time.Time) (sphere.Device, error) {
	d, err := one(ctx, s, s.b.Reader, "read device", scanDevice, oneDevice, id)
	if err != nil {
		return sphere.Device{}, notFound(err, "device", id)
	}
	d.Capabilities, err = list(ctx, s, s.b.Reader, "read capabilities", func(r *sql.Rows) (k sphere.Capability, err error) {
		err = r.Scan(&k.Device, &k.ID, jsonText{&k.Kinds}, stamp{&k.Expires}, stamp{&k.Granted}, &k.By)
		return k, err
	}, `SELECT device, id, kinds, expires, granted, granted_by FROM sphere_capabilities
		WHERE device = $1 AND (expires = 0 OR expires > $2) ORDER BY granted, id`, id, micros(now))
	return d, err
}

// PutClaimedDevices implements [sphere.DeviceStore].
func (s *Store) PutClaimedDevices(
	ctx context.Context, ids []string, change func(int, *sphere.Device) (sphere.Device, error),
) (next []sphere.Device, errs []error, err error) {
	order := make([]int, len(ids)) // sorted: two transactions lock rows in the same order
	for i := range order {
		order[i] = i
	}
	slices.SortFunc(order, func(a, b int) int { return strings.Compare(ids[a], ids[b]) })
	err = s.write(ctx, func(ctx context.Context, c Conn) error {
		next, errs = make([]sphere.Device, len(ids)), make([]error, len(ids))
		for _, i := range order {
			now, err := one(ctx, s, c, "read device", scanDevice, s.lock(oneDevice), ids[i])
			var current *sphere.Device
			switch {
			case err == nil:
				current = &now
			case !errors.Is(err, errNoRow):
				return err
			}
			var standing sphere.Device
			if current != nil {
				standing = now
			}
			if next[i], errs[i] = change(i, current); errs[i] != nil {
				next[i] = sphere.Device{}
				continue
			}
			d := &next[i]
			if d.ID != ids[i] {
				return changedKey(ids[i], d.ID)
			}
			if current != nil && d.Tenant != standing.Tenant {
				return fmt.Errorf("store: a change gave device %s to another tenant", d.ID)
			}
			d.Product, d.Group, d.Capabilities = standing.Product, standing.Group, nil
			if err := s.putDevice(ctx, c, current != nil, d); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		return nil, nil, err
	}
	return next, errs, nil
}

func (s *Store) putDevice(ctx context.Context, c Conn, exists bool, d *sphere.Device) error {
	for _, t := range []*time.Time{&d.Claimed, &d.LastUpdateCheck, &d.LastOSUpdate, &d.LastAttested, &d.Updated} {
		*t = stored(*t)
	}
	doc, err := toJSON(deviceDocument{
		d.PublicKey, d.EndorsementKey, d.HardwareRoot, d.ClaimedBy, d.ClaimedHow, d.LastInstalledOSVersion, d.LastAvailableOSVersion,
		micros(d.LastUpdateCheck), micros(d.LastOSUpdate), micros(d.LastAttested), d.BootCounter,
	})
	if err != nil {
		return err
	}
	installed, err := toJSON(d.Installed)
	if err != nil {
		return err
	}
	n, err := s.exec(ctx, c, "write device", putQuery(exists, `INSERT INTO sphere_devices
		(id, tenant, product, grp, state, sku, enabled, document, installed, etag, claimed, updated)
		VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12)`, ` ON CONFLICT (id) DO UPDATE SET
		state = excluded.state, sku = excluded.sku, enabled = excluded.enabled, document = excluded.document, installed = excluded.installed,
		etag = excluded.etag, claimed = excluded.claimed, updated = excluded.updated`),
		d.ID, d.Tenant, d.Product, d.Group, string(d.State), d.ChipSKU, d.Enabled, doc, installed, string(d.ETag), micros(d.Claimed), micros(d.Updated))
	if err == nil && n == 0 {
		err = ErrRetry
	}
	return err
}

// AssignDevices implements [sphere.DeviceStore].
func (s *Store) AssignDevices(ctx context.Context, tenant string, ids []string, group string, check func(sphere.Device) (sphere.Device, error)) error {
	ids = slices.Sorted(slices.Values(ids))
	return s.write(ctx, func(ctx context.Context, c Conn) error {
		if err := s.lockTenant(ctx, c, tenant); err != nil {
			return err
		}
		product := ""
		if group != "" {
			g, err := one(ctx, s, c, "read device group", scanGroup, oneGroup, tenant, group)
			if err != nil {
				return notFound(err, "device group", group)
			}
			product = g.Product
		}
		for _, id := range ids {
			now, err := one(ctx, s, c, "read device", scanDevice, s.lock(oneDevice), id)
			if err == nil && now.Tenant != tenant {
				err = errNoRow
			}
			if err != nil {
				return notFound(err, "device", id)
			}
			next, err := check(now)
			if err != nil {
				return err
			}
			if _, err := s.exec(ctx, c, "assign device", `UPDATE sphere_devices SET product = $3, grp = $4, etag = $5, updated = $6
				WHERE id = $1 AND tenant = $2`, id, tenant, product, group, string(next.ETag), micros(next.Updated)); err != nil {
				return err
			}
		}
		return nil
	})
}

// filter appends the conditions of a filter.
func filter(query string, args []any, f sphere.DeviceFilter) (string, []any) {
	add := func(column string, v any) {
		args = append(args, v)
		query += fmt.Sprintf(" AND %s = $%d", column, len(args))
	}
	if f.Product != "" {
		add("product", f.Product)
	}
	if f.Group != "" {
		add("grp", f.Group)
	}
	if f.Unassigned {
		add("grp", "")
	}
	if f.State != "" {
		add("state", string(f.State))
	}
	if f.ChipSKU != "" {
		add("sku", f.ChipSKU)
	}
	if f.Enabled != nil {
		add("enabled", *f.Enabled)
	}
	return query, args
}

// TenantDevices implements [sphere.DeviceStore].
func (s *Store) TenantDevices(ctx context.Context, tenant string, f sphere.DeviceFilter, after string, limit int) ([]sphere.Device, error) {
	query, args := filter(selectOfTenant+` AND id > $2`, []any{tenant, after}, f)
	return list(ctx, s, s.b.Reader, "list devices", scanDevice, query+fmt.Sprintf(` ORDER BY id LIMIT $%d`, len(args)+1), append(args, limit)...)
}

// CountTenantDevices implements [sphere.DeviceStore].
func (s *Store) CountTenantDevices(ctx context.Context, tenant string, f sphere.DeviceFilter) (int64, error) {
	query, args := filter(`SELECT count(*) FROM sphere_devices WHERE tenant = $1`, []any{tenant}, f)
	return one(ctx, s, s.b.Reader, "count devices", scanInt, query, args...)
}

// AddCapability implements [sphere.DeviceStore].
func (s *Store) AddCapability(ctx context.Context, tenant string, k sphere.Capability) error {
	kinds, err := toJSON(k.Kinds)
	if err != nil {
		return err
	}
	return s.write(ctx, func(ctx context.Context, c Conn) error {
		n, err := s.exec(ctx, c, "write capability", `INSERT INTO sphere_capabilities (device, id, kinds, expires, granted, granted_by)
			SELECT id, $3, $4, $5, $6, $7 FROM sphere_devices WHERE id = $1 AND tenant = $2`,
			k.Device, tenant, k.ID, kinds, micros(k.Expires), micros(k.Granted), k.By)
		if err == nil && n == 0 {
			err = notFound(errNoRow, "device", k.Device)
		}
		return err
	})
}

// PutMinimum implements [sphere.SoftwareStore].
func (s *Store) PutMinimum(ctx context.Context, m sphere.Minimum, now time.Time) error {
	return s.write(ctx, func(ctx context.Context, c Conn) error {
		if _, err := s.exec(ctx, c, "write minimum version", `INSERT INTO sphere_minimums (tenant, feed, since, version, author) VALUES ($1, $2, $3, $4, $5)
			ON CONFLICT (tenant, feed, since) DO UPDATE SET version = excluded.version, author = excluded.author`,
			m.Tenant, string(m.Feed), micros(m.From), m.Version, m.By); err != nil {
			return err
		}
		_, err := s.exec(ctx, c, "forget minimum versions", `DELETE FROM sphere_minimums WHERE tenant = $1 AND feed = $2
			AND since < (SELECT max(since) FROM sphere_minimums WHERE tenant = $1 AND feed = $2 AND since <= $3)`, m.Tenant, string(m.Feed), micros(now))
		return err
	})
}

const day = 24 * 60 * 60

// AppendDeviceEvents implements [sphere.EventStore].
func (s *Store) AppendDeviceEvents(ctx context.Context, tenant, device string, events []report.Event, since time.Time, keep int) error {
	return s.write(ctx, func(ctx context.Context, c Conn) error {
		if _, err := one(ctx, s, c, "read device", scanInt, s.lock(`SELECT 1 FROM sphere_devices WHERE id = $1 AND tenant = $2`), device, tenant); err != nil {
			return notFound(err, "device", device)
		}
		for _, e := range events {
			sum := sha256.Sum256(fmt.Appendf(nil, "%q %q %q", e.Type, e.Class, e.Description))
			digest := hex.EncodeToString(sum[:])
			if _, err := s.exec(ctx, c, "write event", `INSERT INTO sphere_events
				(tenant, device, day, digest, type, class, category, description, count, started, ended)
				VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11) ON CONFLICT (device, day, digest) DO UPDATE SET
				count = sphere_events.count + excluded.count,
				started = CASE WHEN excluded.started < sphere_events.started THEN excluded.started ELSE sphere_events.started END,
				ended = CASE WHEN excluded.ended > sphere_events.ended THEN excluded.ended ELSE sphere_events.ended END`,
				tenant, device, e.End.Unix()/day, digest, e.Type, e.Class, e.Category, e.Description, e.Count, micros(e.Start), micros(e.End)); err != nil {
				return err
			}
			if _, err := s.exec(ctx, c, "write event", `UPDATE sphere_events SET category = $3 WHERE device = $1 AND digest = $2 AND category <> $3`,
				device, digest, e.Category); err != nil {
				return err
			}
		}
		if _, err := s.exec(ctx, c, "forget events", `DELETE FROM sphere_events WHERE device = $1 AND ended < $2`, device, micros(since)); err != nil {
			return err
		}
		_, err := s.exec(ctx, c, "forget events", `DELETE FROM sphere_events WHERE device = $1 AND (day, digest) IN
			(SELECT day, digest FROM sphere_events WHERE device = $1 ORDER BY ended DESC, day DESC, digest LIMIT 1000000 OFFSET $2)`, device, keep)
		return err
	})
}

// DeviceEvents implements [sphere.EventStore].
func (s *Store) DeviceEvents(ctx context.Context, tenant, group string, since time.Time, limit int) ([]report.Event, error) {
	from, args := `FROM sphere_events e`, []any{tenant, micros(since), limit}
	where := `WHERE e.tenant = $1 AND e.ended >= $2`
	if group != "" {
		from += ` JOIN sphere_devices d ON d.id = e.device`
		where += ` AND d.tenant = $1 AND d.grp = $4`
		args = append(args, group)
	}
	return list(ctx, s, s.b.Reader, "list events", func(r *sql.Rows) (e report.Event, err error) {
		err = r.Scan(&e.Device, &e.Type, &e.Class, &e.Category, &e.Description, &e.Count, stamp{&e.Start}, stamp{&e.End})
		return e, err
	}, `SELECT e.device, e.type, e.class, max(e.category), e.description, CAST(sum(e.count) AS BIGINT), min(e.started), max(e.ended) `+from+` `+where+`
		GROUP BY e.device, e.digest, e.type, e.class, e.description ORDER BY max(e.ended) DESC, e.device, e.digest LIMIT $3`, args...)
}
