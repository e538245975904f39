package sqlstore

import (
	"context"
	"database/sql"

	"github.com/vauban-iot/vauban/fault"
)

const settings = "settings" // the purpose that seals settings

func (s *Store) setting(ctx context.Context, c Conn, name string) ([]byte, error) {
	sealed, err := one(ctx, s, c, "read setting", func(r *sql.Rows) (v []byte, err error) {
		err = r.Scan(&v)
		return v, err
	}, `SELECT value FROM settings WHERE name = $1`, name)
	if err != nil {
		return nil, notFound(err, "setting", name)
	}
	return s.open(settings, name, sealed)
}

// Setting returns the value kept under name; fault.NotFound.
func (s *Store) Setting(ctx context.Context, name string) ([]byte, error) {
	return s.setting(ctx, s.b.Reader, name)
}

// PutSetting keeps value, sealed, under name.
func (s *Store) PutSetting(ctx context.Context, name string, value []byte) error {
	sealed := s.seal(settings, name, value)
	return s.write(ctx, func(ctx context.Context, c Conn) error {
		_, err := s.exec(ctx, c, "write setting", `INSERT INTO settings (name, value) VALUES ($1, $2)
			ON CONFLICT (name) DO UPDATE SET value = excluded.value`, name, sealed)
		return err
	})
}

// InitSetting keeps value under name unless something stands there already, and returns what stands.
// Of many nodes that start at once, all get the value of one.
func (s *Store) InitSetting(ctx context.Context, name string, value []byte) ([]byte, error) {
	sealed := s.seal(settings, name, value)
	var stands []byte
	err := s.write(ctx, func(ctx context.Context, c Conn) error {
		_, err := s.exec(ctx, c, "create setting", `INSERT INTO settings (name, value) VALUES ($1, $2) ON CONFLICT DO NOTHING`, name, sealed)
		if err != nil {
			return err
		}
		stands, err = s.setting(ctx, c, name)
		return err
	})
	return stands, err
}

// UpdateSetting runs change over what stands under name, nil when nothing does, and keeps what it returns.
func (s *Store) UpdateSetting(ctx context.Context, name string, change func(value []byte) ([]byte, error)) error {
	return s.write(ctx, func(ctx context.Context, c Conn) error {
		// A row that is not there cannot be locked.
		if s.b.Serialize != nil {
			if err := s.b.Serialize(ctx, c, "setting "+name); err != nil {
				return s.fail("wait for the setting", err)
			}
		}
		value, err := s.setting(ctx, c, name)
		if err != nil && !fault.Is(err, fault.NotFound) {
			return err
		}
		if value, err = change(value); err != nil {
			return err
		}
		_, err = s.exec(ctx, c, "write setting", `INSERT INTO settings (name, value) VALUES ($1, $2)
			ON CONFLICT (name) DO UPDATE SET value = excluded.value`, name, s.seal(settings, name, value))
		return err
	})
}
