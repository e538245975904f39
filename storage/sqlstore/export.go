package sqlstore

import (
	"context"
	"database/sql"
	"errors"

	"github.com/vauban-iot/vauban/defender/export"
	"github.com/vauban-iot/vauban/fault"
)

var _ export.Store = (*Store)(nil)

const exportConfigs = "export" // the purpose that seals configurations

const selectExport = `SELECT name, config, generation, state FROM exports `

// scanExport opens what was sealed, too.
func (s *Store) scanExport(r *sql.Rows) (e export.Export, err error) {
	var name string
	var sealed []byte
	if err := r.Scan(&name, &sealed, &e.Generation, jsonText{&e.State}); err != nil {
		return e, err
	}
	text, err := s.open(exportConfigs, name, sealed)
	if err != nil {
		return e, err
	}
	e.Config, err = export.UnmarshalConfig(text)
	return e, err
}

// Exports implements [export.Store].
func (s *Store) Exports(ctx context.Context) ([]export.Export, error) {
	return list(ctx, s, s.b.Reader, "list exports", s.scanExport, selectExport+`ORDER BY name`)
}

// Export implements [export.Store].
func (s *Store) Export(ctx context.Context, name string) (export.Export, error) {
	e, err := one(ctx, s, s.b.Reader, "read export", s.scanExport, selectExport+`WHERE name = $1`, name)
	return e, notFound(err, "export", name)
}

// PutExport implements [export.Store].
func (s *Store) PutExport(ctx context.Context, name string, change func(*export.Export) (export.Export, error)) error {
	return s.write(ctx, func(ctx context.Context, c Conn) error {
		// The first write of the transaction, so that transactions follow each other.
		generation, err := one(ctx, s, c, "count export", scanInt, `UPDATE export_generation SET generation = generation + 1 RETURNING generation`)
		if err != nil {
			return err
		}
		var standing *export.Export
		switch e, err := one(ctx, s, c, "read export", s.scanExport, s.lock(selectExport+`WHERE name = $1`), name); {
		case err == nil:
			standing = &e
		case !errors.Is(err, errNoRow):
			return err
		default:
			n, err := one(ctx, s, c, "count exports", scanInt, `SELECT COUNT(*) FROM exports`)
			if err != nil {
				return err
			}
			if n >= export.MaxExports {
				return fault.New(fault.QuotaExceeded, "there are %d exports already; delete one first", export.MaxExports)
			}
		}
		next, err := change(standing)
		if err != nil {
			return err
		}
		next.Name = name
		text, err := export.MarshalConfig(next.Config)
		if err != nil {
			return err
		}
		state, err := toJSON(next.State)
		if err != nil {
			return err
		}
		_, err = s.exec(ctx, c, "write export", `INSERT INTO exports (name, config, generation, state) VALUES ($1, $2, $3, $4)
			ON CONFLICT (name) DO UPDATE SET config = excluded.config, generation = excluded.generation, state = excluded.state`,
			name, s.seal(exportConfigs, name, text), generation, state)
		return err
	})
}

// DeleteExport implements [export.Store].
func (s *Store) DeleteExport(ctx context.Context, name string) error {
	return s.write(ctx, func(ctx context.Context, c Conn) error {
		n, err := s.exec(ctx, c, "delete export", `DELETE FROM exports WHERE name = $1`, name)
		if err == nil && n == 0 {
			err = notFound(errNoRow, "export", name)
		}
		return err
	})
}

// SetExportState implements [export.Store].
func (s *Store) SetExportState(ctx context.Context, name string, generation int64, st export.State) error {
	text, err := toJSON(st)
	if err != nil {
		return err
	}
	return s.write(ctx, func(ctx context.Context, c Conn) error {
		n, err := s.exec(ctx, c, "write state of export", `UPDATE exports SET state = $1 WHERE name = $2 AND generation = $3`, text, name, generation)
		if err == nil && n == 0 {
			err = fault.New(fault.PreconditionFailed, "export %s was changed meanwhile", name)
		}
		return err
	})
}
