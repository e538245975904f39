package sqlstore

import (
	"context"
	"database/sql"
	"encoding/json"
	"errors"

	"github.com/vauban-iot/vauban/hub/registry"
	"github.com/vauban-iot/vauban/iot"
)

const selectContainment = `SELECT device, level, reason, by_whom, since, before FROM containments `

func scanContainment(r *sql.Rows) (c registry.Containment, err error) {
	var before string
	if err = r.Scan(&c.Device, &c.Level, &c.Reason, &c.By, stamp{&c.Since}, &before); err != nil || before == "" {
		return c, err
	}
	return c, json.Unmarshal([]byte(before), &c.Before)
}

func (s *Store) containment(ctx context.Context, c Conn, device string) (registry.Containment, error) {
	v, err := one(ctx, s, c, "read containment", scanContainment, selectContainment+`WHERE device = $1`, device)
	if errors.Is(err, errNoRow) {
		return registry.Containment{Device: device}, nil
	}
	return v, err
}

// Contain implements [registry.Store].
func (s *Store) Contain(ctx context.Context, device string, change func(registry.Containment) (registry.Containment, error)) (registry.Containment, error) {
	var next registry.Containment
	err := s.write(ctx, func(ctx context.Context, c Conn) error {
		if err := s.hold(ctx, c, iot.ID{Device: device}); err != nil {
			return err
		}
		now, err := s.containment(ctx, c, device)
		if err != nil {
			return err
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
	if _, err := s.Identity(ctx, iot.ID{Device: device}); err != nil {
		return registry.Containment{}, err
	}
	return s.containment(ctx, s.b.Reader, device)
}

// Contained implements [registry.Store].
func (s *Store) Contained(ctx context.Context, after string, limit int) ([]registry.Containment, error) {
	return list(ctx, s, s.b.Reader, "list contained devices", scanContainment,
		selectContainment+`WHERE level > 0 AND device > $1 ORDER BY device LIMIT $2`, after, limit)
}
