// Package sqlite keeps the state of Vauban in one SQLite file (modernc.org/sqlite,
// no cgo), the default when everything runs on one machine.
//
// The file is in WAL mode with synchronous=FULL, so a write that returned is on
// disk. All writes go through one goroutine that commits whatever waits as one
// transaction (see writer); reads run beside it on a pool of connections and see
// what was committed. The file is readable by its owner only (mode 0600); its
// folder must exist.
package sqlite

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"log/slog"
	"net/url"
	"os"
	"path/filepath"
	"runtime"

	"modernc.org/sqlite"
	sqlite3 "modernc.org/sqlite/lib"

	"github.com/vauban-iot/vauban/fault"
	"github.com/vauban-iot/vauban/internal/secret"
	"github.com/vauban-iot/vauban/storage/sqlstore"
)

// Config says where the state is. It is not changed after use.
type Config struct {
	Path    string         // database file, made when it is missing
	Sealer  *secret.Sealer // seals keys and settings; required
	Logger  *slog.Logger   // nil: no log
	Readers int            // connections for reads; default is twice the processors, at least 4
}

// Open opens or makes the database and brings its tables up to date. The caller closes the store.
func Open(ctx context.Context, cfg Config) (*sqlstore.Store, error) {
	switch {
	case cfg.Path == "":
		return nil, errors.New("sqlite: no path")
	case cfg.Sealer == nil:
		return nil, errors.New("sqlite: no sealer")
	}
	log := cfg.Logger
	if log == nil {
		log = slog.New(slog.DiscardHandler)
	}
	path, err := filepath.Abs(cfg.Path)
	if err != nil {
		return nil, fmt.Errorf("sqlite: %w", err)
	}
	if err := private(path); err != nil {
		return nil, fmt.Errorf("sqlite: %w", err)
	}
	b, _, err := open(ctx, path, cfg.Readers, log)
	if err != nil {
		return nil, fmt.Errorf("sqlite: %s: %w", path, err)
	}
	return sqlstore.New(b, cfg.Sealer), nil
}

// private makes sure that path exists and only its owner can read it. SQLite gives
// the files beside it (-wal, -shm) the same mode.
func private(path string) error {
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return err
	}
	return errors.Join(f.Chmod(0o600), f.Close())
}

func open(ctx context.Context, path string, readers int, log *slog.Logger) (b sqlstore.Backend, w *writer, err error) {
	writeDB, err := sql.Open("sqlite", dsn(path, url.Values{
		"_pragma": {"journal_mode(WAL)", "synchronous(FULL)", "cache_size(-32768)", "wal_autocheckpoint(4000)", "temp_store(MEMORY)"},
		"_txlock": {"immediate"},
	}))
	if err != nil {
		return b, nil, err
	}
	defer func() {
		if err != nil {
			writeDB.Close()
		}
	}()
	writeDB.SetMaxOpenConns(1)
	if err := sqlstore.Migrate(ctx, writeDB, sqlstore.SQLite, log); err != nil {
		return b, nil, err
	}
	readDB, err := sql.Open("sqlite", dsn(path, url.Values{
		"_pragma": {"cache_size(-8192)"}, "_query_only": {"1"},
	}))
	if err != nil {
		return b, nil, err
	}
	defer func() {
		if err != nil {
			readDB.Close()
		}
	}()
	if readers <= 0 {
		readers = max(4, 2*runtime.GOMAXPROCS(0))
	}
	readDB.SetMaxOpenConns(readers)
	readDB.SetMaxIdleConns(readers)
	if err := readDB.PingContext(ctx); err != nil {
		return b, nil, err
	}
	conn, err := writeDB.Conn(ctx)
	if err != nil {
		return b, nil, err
	}
	w = newWriter(newStatements(conn), classify)
	reader := newStatements(readDB)
	b = sqlstore.Backend{
		Reader:    reader,
		Write:     w.write,
		BatchRows: 1, // a call costs nothing here, and parameters are bound in quadratic time
		Classify:  classify,
		Compare:   compare,
		Close: func() error {
			w.close()
			// The writer's connection goes last: the last one to close empties the WAL.
			reader.close()
			err := readDB.Close()
			w.tx.close()
			return errors.Join(err, conn.Close(), writeDB.Close())
		},
	}
	return b, w, nil
}

// dsn is the name of the database with what all connections share. Other processes may hold
// the lock for a moment (a backup, a shell), so it is waited for.
func dsn(path string, q url.Values) string {
	q["_pragma"] = append([]string{"busy_timeout(10000)", "foreign_keys(1)"}, q["_pragma"]...)
	u := url.URL{Scheme: "file", Path: path, RawQuery: q.Encode()}
	return u.String()
}

// classify tells the state of the disk or the file from a defect of ours.
func classify(err error) error {
	if e, ok := errors.AsType[*sqlite.Error](err); ok {
		switch e.Code() & 0xff {
		case sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED, sqlite3.SQLITE_FULL, sqlite3.SQLITE_IOERR,
			sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_READONLY, sqlite3.SQLITE_NOMEM:
			return fault.Wrap(fault.Unavailable, err, "the database is not available")
		}
	}
	if errors.Is(err, sql.ErrConnDone) {
		return fault.Wrap(fault.Unavailable, err, "the database is closed")
	}
	return err
}
