package sqlstore

import (
	"context"
	"database/sql"
	"encoding/json"
	"errors"

	"github.com/vauban-iot/vauban/fault"
	"github.com/vauban-iot/vauban/hub/registry"
	"github.com/vauban-iot/vauban/iot"
)

const selectContainment = `SELECT device, level, reason, by_whom, since, before FROM containments `

const oneContainment = selectContainment + `WHERE device = $1`

func scanContainment(r *sql.Rows) (c registry.Containment, err error) {
	var before string
	if err = r.Scan(&c.Device, &c.Level, &c.Reason, &c.By, stamp{&c.Since}, &before); err != nil || before == "" {
		return c, err
	}
	return c, json.Unmarshal([]byte(before), &c.Before)
}

func (s *Store) containment(ctx context.Context, c Conn, device, sql string) (registry.Containment, error) {
	v, err := one(ctx, s, c, "read containment", scanContainment, sql, device)
	if errors.Is(err, errNoRow) {
		return registry.Containment{Device: device}, nil
	}
	return v, err
}

// Contain implements [registry.Store].
func (s *Store) Contain(ctx context.Context, device string, change func(registry.Containment) (registry.Containment, error)) (registry.Containment, error) {
	var next registry.Containment
	err := s.write(ctx, func(ctx context.Context, c Conn) error {
		gone := s.hold(ctx, c, iot.ID{Device: device})
		if gone != nil && !fault.Is(gone, fault.NotFound) {
			return gone
		}
		now, err := s.containment(ctx, c, device, s.lock(oneContainment))
		if err != nil {
			return err
		}
		if gone != nil && now.Level == registry.Free {
			return gone
		}
		if next, err = change(now); err != nil {
			return err
		}
		if next.Level != registry.Free {
			n, err := one(ctx, s, c, "count contained devices", scanInt, `SELECT COUNT(*) FROM containments WHERE level > 0 AND device <> $1`, device)
			if err != nil {
				return err
			}
			if n >= registry.MaxContained {
				return registry.ErrTooManyContained
			}
		}
		if gone != nil && next.Level == registry.Free {
			_, err := s.exec(ctx, c, "forget containment", `DELETE FROM containments WHERE device = $1`, device)
			return err
		}
		var before []byte
		if next.Before != nil {
			if before, err = json.Marshal(next.Before); err != nil {
				return err
			}
		}
		_, err = s.exec(ctx, c, "write containment", `INSERT INTO containments (device, level, reason, by_whom, since, before)
			VALUES ($1, $2, $3, $4, $5, $6) ON CONFLICT (device) DO UPDATE SET level = excluded.level, reason = excluded.reason,
			by_whom = excluded.by_whom, since = excluded.since, before = excluded.before`,
			device, int(next.Level), next.Reason, next.By, micros(next.Since), string(before))
		return err
	})
	return next, err
}

// Containment implements [registry.Store].
func (s *Store) Containment(ctx context.Context, device string) (registry.Containment, error) {
	v, err := s.containment(ctx, s.b.Reader, device, oneContainment)
	if err != nil || v.Level != registry.Free {
		return v, err
	}
	if _, err := s.Identity(ctx, iot.ID{Device: device}); err != nil {
		return registry.Containment{}, err
	}
	return v, nil
}

// forgetFree forgets the past of devices that go, which hold nothing back. What holds back stays: the device may come again.
func (s *Store) forgetFree(ctx context.Context, c Conn, which string, devices ...any) error {
	_, err := s.exec(ctx, c, "forget containment", `DELETE FROM containments WHERE level = 0 AND device `+which, devices...)
	return err
}

// Contained implements [registry.Store].
func (s *Store) Contained(ctx context.Context, after string, limit int) ([]registry.Containment, error) {
	return list(ctx, s, s.b.Reader, "list contained devices", scanContainment,
		selectContainment+`WHERE level > 0 AND device > $1 ORDER BY device LIMIT $2`, after, limit)
}
