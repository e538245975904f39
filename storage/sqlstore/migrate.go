package sqlstore

import (
	"context"
	"database/sql"
	"embed"
	"fmt"
	"io/fs"
	"log/slog"

	"github.com/pressly/goose/v3"
)

//go:embed migrations
var migrations embed.FS

// The databases [Migrate] knows.
const (
	SQLite   = "sqlite"
	Postgres = "postgres"
)

// Migrate brings the tables of db to the version this binary knows. Migrations only go
// forward. A database that a newer binary has migrated is refused.
func Migrate(ctx context.Context, db *sql.DB, database string, log *slog.Logger) error {
	dialect := goose.DialectSQLite3
	if database == Postgres {
		dialect = goose.DialectPostgres
	}
	files, err := fs.Sub(migrations, "migrations/"+database)
	if err != nil {
		return err
	}
	p, err := goose.NewProvider(dialect, db, files, goose.WithDisableGlobalRegistry(true))
	if err != nil {
		return fmt.Errorf("migrate: %w", err)
	}
	have, err := p.GetDBVersion(ctx)
	if err != nil {
		return fmt.Errorf("migrate: read schema version: %w", err)
	}
	sources := p.ListSources()
	newest := sources[len(sources)-1].Version
	if have > newest {
		return fmt.Errorf("the database has schema version %d but this vauban knows only %d: it was used by a newer vauban; run that one", have, newest)
	}
	done, err := p.Up(ctx)
	if err != nil {
		return fmt.Errorf("migrate: %w", err)
	}
	for _, r := range done {
		log.Info("migrated database", "version", r.Source.Version, "duration", r.Duration)
	}
	return nil
}
