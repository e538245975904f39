package sqlstore

import (
	"context"
	"database/sql"

	"github.com/vauban-iot/vauban/fault"
	"github.com/vauban-iot/vauban/hub/fleet/configuration"
)

const selectConfiguration = `SELECT document, results FROM configurations `

func scanConfiguration(r *sql.Rows) (c configuration.Configuration, err error) {
	err = r.Scan(jsonText{&c}, jsonText{&c.Results})
	return c, err
}

// CreateConfiguration implements [configuration.Store].
func (s *Store) CreateConfiguration(ctx context.Context, c configuration.Configuration, limit int) error {
	doc, err := toJSON(c)
	if err != nil {
		return err
	}
	return s.write(ctx, func(ctx context.Context, conn Conn) error {
		if s.b.Serialize != nil {
			if err := s.b.Serialize(ctx, conn, "configurations"); err != nil {
				return s.fail("count configurations", err)
			}
		}
		n, err := one(ctx, s, conn, "count configurations", scanInt, `SELECT COUNT(*) FROM configurations WHERE id <> $1`, c.ID)
		if err != nil {
			return err
		}
		if n >= int64(limit) {
			return fault.New(fault.QueueFull, "there are %d configurations, no more are allowed", n)
		}
		n, err = s.exec(ctx, conn, "create configuration", `INSERT INTO configurations (id, document, results) VALUES ($1, $2, '{}') ON CONFLICT DO NOTHING`, c.ID, doc)
		if err == nil && n == 0 {
			return fault.New(fault.AlreadyExists, "configuration %s exists already", c.ID)
		}
		return err
	})
}

// Configuration implements [configuration.Store].
func (s *Store) Configuration(ctx context.Context, id string) (configuration.Configuration, error) {
	c, err := one(ctx, s, s.b.Reader, "read configuration", scanConfiguration, selectConfiguration+`WHERE id = $1`, id)
	return c, notFound(err, "configuration", id)
}

// Configurations implements [configuration.Store].
func (s *Store) Configurations(ctx context.Context) ([]configuration.Configuration, error) {
	return list(ctx, s, s.b.Reader, "list configurations", scanConfiguration, selectConfiguration+`ORDER BY id`)
}

// UpdateConfiguration implements [configuration.Store].
func (s *Store) UpdateConfiguration(ctx context.Context, id string, change func(configuration.Configuration) (configuration.Configuration, error)) (configuration.Configuration, error) {
	var next configuration.Configuration
	err := s.write(ctx, func(ctx context.Context, c Conn) error {
		now, err := one(ctx, s, c, "read configuration", scanConfiguration, s.lock(selectConfiguration+`WHERE id = $1`), id)
		if err != nil {
			return notFound(err, "configuration", id)
		}
		if next, err = change(now); err != nil {
			return err
		}
		next.ID, next.Results = id, now.Results
		doc, err := toJSON(next)
		if err != nil {
			return err
		}
		_, err = s.exec(ctx, c, "update configuration", `UPDATE configurations SET document = $1 WHERE id = $2`, doc, id)
		return err
	})
	if err != nil {
		return configuration.Configuration{}, err
	}
	return next, nil
}

// DeleteConfiguration implements [configuration.Store].
func (s *Store) DeleteConfiguration(ctx context.Context, id string, check func(configuration.Configuration) error) error {
	return s.write(ctx, func(ctx context.Context, c Conn) error {
		now, err := one(ctx, s, c, "read configuration", scanConfiguration, s.lock(selectConfiguration+`WHERE id = $1`), id)
		if err != nil {
			return notFound(err, "configuration", id)
		}
		if err := check(now); err != nil {
			return err
		}
		_, err = s.exec(ctx, c, "delete configuration", `DELETE FROM configurations WHERE id = $1`, id)
		return err
	})
}

// SaveResults implements [configuration.Store].
func (s *Store) SaveResults(ctx context.Context, id string, r configuration.Results) error {
	doc, err := toJSON(r)
	if err != nil {
		return err
	}
	return s.write(ctx, func(ctx context.Context, c Conn) error {
		_, err := s.exec(ctx, c, "save results", `UPDATE configurations SET results = $1 WHERE id = $2`, doc, id)
		return err
	})
}
