package sqlstore

import (
	"cmp"
	"context"
	"database/sql"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/vauban-iot/vauban/fault"
	"github.com/vauban-iot/vauban/hub/registry"
	"github.com/vauban-iot/vauban/hub/twin"
	"github.com/vauban-iot/vauban/iot"
)

const identityKeys = "identity-keys" // the purpose that seals keys of identities

const selectIdentity = `SELECT device, module, generation, etag, status, status_reason, status_time,
	auth_type, auth_keys, primary_thumbprint, secondary_thumbprint, edge, scope, parent_scopes, managed_by,
	connected, connection_time, last_activity,
	(SELECT COUNT(*) FROM mail WHERE mail.device = identities.device AND mail.module = identities.module),
	COALESCE((SELECT level FROM containments WHERE containments.device = identities.device), 0)
	FROM identities `

const oneIdentity = selectIdentity + `WHERE device = $1 AND module = $2`

func (s *Store) scanIdentity(r *sql.Rows) (d registry.Identity, err error) {
	var keys []byte
	a := &d.Authentication
	err = r.Scan(&d.ID.Device, &d.ID.Module, &d.Generation, &d.ETag, &d.Status, &d.StatusReason, stamp{&d.StatusTime},
		&a.Type, &keys, &a.PrimaryThumbprint, &a.SecondaryThumbprint, &d.Edge, &d.Scope, jsonText{&d.ParentScopes}, &d.ManagedBy,
		&d.Connected, stamp{&d.ConnectionTime}, stamp{&d.LastActivity}, &d.Pending, &d.Containment)
	if err != nil {
		return d, err
	}
	if len(d.ParentScopes) == 0 {
		d.ParentScopes = nil
	}
	return d, s.openKeys(identityKeys, d.ID.String(), keys, &a.PrimaryKey, &a.SecondaryKey)
}

func (s *Store) identity(ctx context.Context, c Conn, id iot.ID, query string) (registry.Identity, error) {
	d, err := one(ctx, s, c, "read identity", s.scanIdentity, query, id.Device, id.Module)
	return d, notFound(err, kind(id), id.String())
}

// Create implements [registry.Store]. A module needs its device (fault.NotFound).
func (s *Store) Create(ctx context.Context, d registry.Identity, t twin.Twin, below ...registry.Identity) error {
	return s.write(ctx, func(ctx context.Context, c Conn) error {
		if d.ID.Module != "" {
			if err := s.hold(ctx, c, iot.ID{Device: d.ID.Device}); err != nil {
				return err
			}
		}
		t.ID = d.ID
		if err := s.insertIdentity(ctx, c, d, t); err != nil {
			return err
		}
		for _, m := range below {
			if err := s.insertIdentity(ctx, c, m, twin.New(m.ID)); err != nil {
				return err
			}
		}
		if err := s.tell(ctx, c, t.Facts); err != nil {
			return err
		}
		if d.ID.Module == "" || registry.SystemModule(d.ID.Module) {
			return nil
		}
		n, err := one(ctx, s, c, "count modules", scanInt, `SELECT COUNT(*) FROM identities WHERE device = $1 AND module NOT IN ('', $2, $3)`,
			d.ID.Device, registry.EdgeAgent, registry.EdgeHub)
		if err == nil && n > registry.MaxModules {
			err = registry.ErrTooManyModules
		}
		return err
	})
}

func (s *Store) insertIdentity(ctx context.Context, c Conn, d registry.Identity, t twin.Twin) error {
	scopes, err := toJSON(d.ParentScopes)
	if err != nil {
		return err
	}
	a := d.Authentication
	keys := s.sealKeys(identityKeys, d.ID.String(), a.PrimaryKey, a.SecondaryKey)
	n, err := s.exec(ctx, c, "create identity", `INSERT INTO identities (device, module, generation, etag,
		status, status_reason, status_time, auth_type, auth_keys, primary_thumbprint, secondary_thumbprint,
		edge, scope, parent_scopes, managed_by, connected, node, connection_time, last_activity)
		VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $16, '', $17, $18)
		ON CONFLICT DO NOTHING`,
		d.ID.Device, d.ID.Module, d.Generation, string(d.ETag),
		string(d.Status), d.StatusReason, micros(d.StatusTime), string(a.Type), keys, a.PrimaryThumbprint, a.SecondaryThumbprint,
		d.Edge, d.Scope, scopes, d.ManagedBy, d.Connected, micros(d.ConnectionTime), micros(d.LastActivity))
	if err != nil {
		return err
	}
	if n == 0 {
		return fault.New(fault.AlreadyExists, "%s %s exists already", kind(d.ID), d.ID)
	}
	return s.insertTwin(ctx, c, t)
}

// hold locks the row of an identity for the rest of the transaction; fault.NotFound.
func (s *Store) hold(ctx context.Context, c Conn, id iot.ID) error {
	_, err := one(ctx, s, c, "lock identity", scanInt, s.lock(`SELECT 1 FROM identities WHERE device = $1 AND module = $2`), id.Device, id.Module)
	return notFound(err, kind(id), id.String())
}

// Identity implements [registry.Store].
func (s *Store) Identity(ctx context.Context, id iot.ID) (registry.Identity, error) {
	return s.identity(ctx, s.b.Reader, id, oneIdentity)
}

// Update implements [registry.Store].
func (s *Store) Update(ctx context.Context, id iot.ID, change func(registry.Identity) (registry.Identity, error)) (registry.Identity, error) {
	var next registry.Identity
	err := s.write(ctx, func(ctx context.Context, c Conn) (err error) {
		next, err = s.update(ctx, c, id, change)
		return err
	})
	if err != nil {
		return registry.Identity{}, err
	}
	return next, nil
}

// update changes an identity as part of a write.
func (s *Store) update(ctx context.Context, c Conn, id iot.ID, change func(registry.Identity) (registry.Identity, error)) (registry.Identity, error) {
	now, err := s.identity(ctx, c, id, s.lock(oneIdentity))
	if err != nil {
		return now, err
	}
	next, err := change(now)
	if err != nil {
		return now, err
	}
	next.ID = id
	next.Connected, next.ConnectionTime, next.LastActivity, next.Pending = now.Connected, now.ConnectionTime, now.LastActivity, now.Pending
	next.StatusTime = stored(next.StatusTime)
	scopes, err := toJSON(next.ParentScopes)
	if err != nil {
		return now, err
	}
	a := next.Authentication
	_, err = s.exec(ctx, c, "update identity", `UPDATE identities SET generation = $1, etag = $2, status = $3,
		status_reason = $4, status_time = $5, auth_type = $6, auth_keys = $7, primary_thumbprint = $8,
		secondary_thumbprint = $9, edge = $10, scope = $11, parent_scopes = $12, managed_by = $13
		WHERE device = $14 AND module = $15`,
		next.Generation, string(next.ETag), string(next.Status),
		next.StatusReason, micros(next.StatusTime), string(a.Type),
		s.sealKeys(identityKeys, id.String(), a.PrimaryKey, a.SecondaryKey), a.PrimaryThumbprint,
		a.SecondaryThumbprint, next.Edge, next.Scope, scopes, next.ManagedBy,
		id.Device, id.Module)
	return next, err
}

// Delete implements [registry.Store]. Twins, mail and sessions go by foreign key.
func (s *Store) Delete(ctx context.Context, id iot.ID, check func(registry.Identity) error, gone func(registry.Identity, twin.Twin) []iot.Message) error {
	return s.write(ctx, func(ctx context.Context, c Conn) error {
		now, err := s.identity(ctx, c, id, s.lock(oneIdentity))
		if err != nil {
			return err
		}
		if err := check(now); err != nil {
			return err
		}
		if gone != nil {
			if err := s.tellGone(ctx, c, now, gone); err != nil {
				return err
			}
		}
		if id.Module != "" {
			_, err = s.exec(ctx, c, "delete module", `DELETE FROM identities WHERE device = $1 AND module = $2`, id.Device, id.Module)
		} else {
			_, err = s.exec(ctx, c, "delete device", `DELETE FROM identities WHERE device = $1`, id.Device)
			if err == nil {
				err = s.forgetFree(ctx, c, `= $1`, id.Device)
			}
		}
		return err
	})
}

// tellGone keeps what gone says of an identity and the modules that go with it.
func (s *Store) tellGone(ctx context.Context, c Conn, d registry.Identity, gone func(registry.Identity, twin.Twin) []iot.Message) error {
	var all []registry.Identity
	if d.ID.Module == "" {
		var err error
		if all, err = list(ctx, s, c, "list modules", s.scanIdentity, selectIdentity+`WHERE device = $1 AND module > '' ORDER BY module`, d.ID.Device); err != nil {
			return err
		}
	}
	for _, d := range append(all, d) {
		t, err := s.twin(ctx, c, d.ID, oneTwin)
		if err != nil {
			return err
		}
		if err := s.tell(ctx, c, gone(d, t)); err != nil {
			return err
		}
	}
	return nil
}

// List implements [registry.Store].
func (s *Store) List(ctx context.Context, after string, limit int) ([]registry.Identity, error) {
	return list(ctx, s, s.b.Reader, "list devices", s.scanIdentity,
		selectIdentity+`WHERE device > $1 AND module = '' ORDER BY device LIMIT $2`, after, limit)
}

// Modules implements [registry.Store].
func (s *Store) Modules(ctx context.Context, device string) ([]registry.Identity, error) {
	return list(ctx, s, s.b.Reader, "list modules", s.scanIdentity, selectIdentity+`WHERE device = $1 AND module > '' ORDER BY module`, device)
}

// Statistics implements [registry.Store].
func (s *Store) Statistics(ctx context.Context) (registry.Statistics, error) {
	return one(ctx, s, s.b.Reader, "count devices", func(r *sql.Rows) (st registry.Statistics, err error) {
		err = r.Scan(&st.Total, &st.Enabled, &st.Disabled, &st.Connected)
		return st, err
	}, `SELECT COUNT(*), COUNT(*) FILTER (WHERE status = $1), COUNT(*) FILTER (WHERE status = $2),
		COUNT(*) FILTER (WHERE connected) FROM identities WHERE module = ''`,
		string(registry.Enabled), string(registry.Disabled))
}

// SetPresence implements [registry.Store]. All of ps is one write. Activity never moves back.
func (s *Store) SetPresence(ctx context.Context, ps []registry.Presence) error {
	ps = mergePresence(ps)
	if len(ps) == 0 {
		return nil
	}
	return s.write(ctx, func(ctx context.Context, c Conn) error {
		for chunk := range slices.Chunk(ps, s.b.BatchRows) {
			args := make([]any, 0, presenceColumns*len(chunk))
			for _, p := range chunk {
				var connected sql.NullBool
				if p.Connected != nil {
					connected = sql.NullBool{Bool: *p.Connected, Valid: true}
				}
				args = append(args, p.ID.Device, p.ID.Module, connected, p.Node, micros(p.Time), micros(p.Activity))
			}
			// A repeated row changes nothing, and rounding up keeps the statements few enough to be cached.
			rows := 1
			for rows < len(chunk) {
				rows *= 2
			}
			for range rows - len(chunk) {
				args = append(args, args[:presenceColumns]...)
			}
			v := presenceValues(rows)
			if s.b.ForUpdate != "" {
				// An UPDATE locks rows in an order of its own, and batches that overlap would deadlock.
				query := v + lockPresence + s.b.ForUpdate + " OF identities"
				if _, err := s.exec(ctx, c, "lock identities", query, args...); err != nil {
					return err
				}
			}
			if err := s.tellPresence(ctx, c, chunk); err != nil {
				return err
			}
			if _, err := s.exec(ctx, c, "set presence", v+setPresence, args...); err != nil {
				return err
			}
		}
		return nil
	})
}

// tellPresence keeps the facts of changes that will be ones. The rows must be locked.
func (s *Store) tellPresence(ctx context.Context, c Conn, ps []registry.Presence) error {
	for _, p := range ps {
		if p.Connected == nil || len(p.Facts) == 0 {
			continue
		}
		n, err := one(ctx, s, c, "look at presence", scanInt, `SELECT COUNT(*) FROM identities WHERE device = $1 AND module = $2
			AND connected <> CAST($3 AS BOOLEAN) AND (CAST($3 AS BOOLEAN) OR node = $4)`, p.ID.Device, p.ID.Module, *p.Connected, p.Node)
		if err == nil && n > 0 {
			err = s.tell(ctx, c, p.Facts)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// mergePresence leaves one change per identity, ordered by id so that two
// transactions lock rows in the same order.
func mergePresence(ps []registry.Presence) []registry.Presence {
	at := make(map[iot.ID]int, len(ps))
	merged := make([]registry.Presence, 0, len(ps))
	for _, p := range ps {
		i, ok := at[p.ID]
		if !ok {
			at[p.ID] = len(merged)
			merged = append(merged, p)
			continue
		}
		m := &merged[i]
		if p.Connected != nil {
			m.Connected, m.Node, m.Time, m.Facts = p.Connected, p.Node, p.Time, p.Facts
		}
		if p.Activity.After(m.Activity) {
			m.Activity = p.Activity
		}
	}
	slices.SortFunc(merged, func(a, b registry.Presence) int {
		return cmp.Or(cmp.Compare(a.ID.Device, b.ID.Device), cmp.Compare(a.ID.Module, b.ID.Module))
	})
	return merged
}

// presenceValues is a table v of so many changes, in the order of their parameters.
func presenceValues(rows int) string {
	var b strings.Builder
	b.WriteString("WITH v (device, module, connected, node, at, activity) AS (VALUES ")
	for i := range rows {
		if i > 0 {
			b.WriteString(", ")
		}
		n := presenceColumns * i
		fmt.Fprintf(&b, "(CAST($%d AS TEXT), CAST($%d AS TEXT), CAST($%d AS BOOLEAN), CAST($%d AS TEXT), CAST($%d AS BIGINT), CAST($%d AS BIGINT))",
			n+1, n+2, n+3, n+4, n+5, n+6)
	}
	b.WriteString(") ")
	return b.String()
}

const lockPresence = `SELECT 1 FROM identities JOIN v ON identities.device = v.device AND identities.module = v.module
	ORDER BY identities.device, identities.module `

// A session that ends says nothing about one that began on another node meanwhile.
const setPresence = `UPDATE identities SET
	connected = CASE WHEN v.connected OR v.connected IS NOT NULL AND identities.node = v.node THEN v.connected ELSE identities.connected END,
	connection_time = CASE WHEN v.connected OR v.connected IS NOT NULL AND identities.node = v.node THEN v.at ELSE connection_time END,
	node = CASE WHEN v.connected THEN v.node ELSE identities.node END,
	last_activity = CASE WHEN v.activity > last_activity THEN v.activity ELSE last_activity END
	FROM v WHERE identities.device = v.device AND identities.module = v.module`

const presenceColumns = 6

// ResetPresence implements [registry.Store].
func (s *Store) ResetPresence(ctx context.Context, node string, now time.Time, lost func(iot.ID) []iot.Message) error {
	return s.write(ctx, func(ctx context.Context, c Conn) error { return s.resetPresence(ctx, c, node, now, lost) })
}

func (s *Store) resetPresence(ctx context.Context, c Conn, node string, now time.Time, lost func(iot.ID) []iot.Message) error {
	if lost != nil {
		ids, err := list(ctx, s, c, "list who is connected", func(r *sql.Rows) (id iot.ID, err error) {
			err = r.Scan(&id.Device, &id.Module)
			return id, err
		}, s.lock(`SELECT device, module FROM identities WHERE connected AND node = $1 ORDER BY device, module`), node)
		if err != nil {
			return err
		}
		for _, id := range ids {
			if err := s.tell(ctx, c, lost(id)); err != nil {
				return err
			}
		}
	}
	_, err := s.exec(ctx, c, "reset presence", `UPDATE identities SET connected = FALSE, connection_time = $1 WHERE connected AND node = $2`, micros(now), node)
	return err
}

// KeepNode implements [registry.Store].
func (s *Store) KeepNode(ctx context.Context, node string, now, dead time.Time, lost func(iot.ID) []iot.Message) ([]string, error) {
	var gone []string
	err := s.write(ctx, func(ctx context.Context, c Conn) error {
		if _, err := s.exec(ctx, c, "keep node", `INSERT INTO nodes (name, seen) VALUES ($1, $2)
			ON CONFLICT (name) DO UPDATE SET seen = excluded.seen`, node, micros(now)); err != nil {
			return err
		}
		var err error
		gone, err = list(ctx, s, c, "find dead nodes", func(r *sql.Rows) (name string, err error) {
			err = r.Scan(&name)
			return name, err
		}, s.lock(`SELECT name FROM nodes WHERE seen < $1 ORDER BY name`), micros(dead))
		if err != nil {
			return err
		}
		for _, name := range gone {
			if err := s.resetPresence(ctx, c, name, now, lost); err != nil {
				return err
			}
			if _, err := s.exec(ctx, c, "forget node", `DELETE FROM nodes WHERE name = $1`, name); err != nil {
				return err
			}
		}
		return nil
	})
	return gone, err
}
