// Package postgres keeps the state of Vauban in PostgreSQL, for servers of more
// than one node. Nodes share the database; each write is a transaction of its own
// that locks the rows it changes and runs again after a deadlock or a lost race.
//
// A write that returned is as safe as the server's synchronous_commit makes it; where
// that is off, Open turns it on for its own connections.
package postgres

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math/rand/v2"
	"net"
	"runtime"
	"sync"
	"sync/atomic"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/stdlib"

	"github.com/vauban-iot/vauban/fault"
	"github.com/vauban-iot/vauban/internal/secret"
	"github.com/vauban-iot/vauban/storage/sqlstore"
)

// Config says where the state is. It is not changed after use.
type Config struct {
	URL      string         // postgres://user:password@host/database, or key=value pairs
	Sealer   *secret.Sealer // seals keys and settings; required, the same on all nodes
	Logger   *slog.Logger   // nil: no log
	MaxConns int            // beside one for all that leads or waits to (Lead); default is four times the processors, at least 10; 1 counts as 2
}

// Open connects and brings the tables up to date. The caller closes the store. Errors do not hold the password.
func Open(ctx context.Context, cfg Config) (*sqlstore.Store, error) {
	if cfg.Sealer == nil {
		return nil, errors.New("postgres: no sealer")
	}
	log := cfg.Logger
	if log == nil {
		log = slog.New(slog.DiscardHandler)
	}
	p, err := openPool(cfg.URL)
	if err != nil {
		return nil, fmt.Errorf("postgres: %w", err) // pgx redacts the password
	}
	conns := cfg.MaxConns
	if conns <= 0 {
		conns = max(10, 4*runtime.GOMAXPROCS(0))
	}
	conns = max(conns, 2) // migrating takes two
	p.allow(conns)
	p.db.SetConnMaxIdleTime(5 * time.Minute)
	if err := prepare(ctx, p.db, log); err != nil {
		p.db.Close()
		return nil, fmt.Errorf("postgres: %w", classify(err))
	}
	return sqlstore.New(sqlstore.Backend{
		Reader:    p,
		Write:     p.write,
		ForUpdate: "FOR UPDATE",
		Serialize: func(ctx context.Context, tx sqlstore.Conn, name string) error {
			_, err := tx.Exec(ctx, "SELECT pg_advisory_xact_lock($1, hashtext($2))", lockSpace, name)
			return err
		},
		Compare:   compare,
		Lead:      p.lead,
		BatchRows: 128,
		Classify:  classify,
		Close:     p.close,
	}, cfg.Sealer), nil
}

// openPool makes a pool, which connects when it is used.
func openPool(url string) (*pool, error) {
	cfg, err := pgx.ParseConfig(url)
	if err != nil {
		return nil, err
	}
	p := &pool{db: stdlib.OpenDB(*cfg, stdlib.OptionAfterConnect(func(ctx context.Context, c *pgx.Conn) error {
		_, err := c.Exec(ctx, "SELECT set_config('synchronous_commit', 'on', false) WHERE current_setting('synchronous_commit') = 'off'")
		return err
	}))}
	p.leads = newLeads(p)
	return p, nil
}

// lockSpace keeps our advisory locks apart from those of others in the same database ("VAUB").
const lockSpace = 0x56415542

// prepare migrates, one node at a time, and warns about a server that may lose what it acknowledges.
func prepare(ctx context.Context, db *sql.DB, log *slog.Logger) (err error) {
	conn, err := db.Conn(ctx)
	if err != nil {
		return err
	}
	defer conn.Close()
	var fsync string
	if err := conn.QueryRowContext(ctx, "SHOW fsync").Scan(&fsync); err != nil {
		return err
	}
	if fsync == "off" {
		log.Warn("PostgreSQL runs with fsync=off: acknowledged writes may be lost when its machine stops")
	}
	if _, err := conn.ExecContext(ctx, "SELECT pg_advisory_lock($1, hashtext('migrate'))", lockSpace); err != nil {
		return err
	}
	defer func() {
		_, uerr := conn.ExecContext(context.WithoutCancel(ctx), "SELECT pg_advisory_unlock($1, hashtext('migrate'))", lockSpace)
		err = errors.Join(err, uerr)
	}()
	return sqlstore.Migrate(ctx, db, sqlstore.Postgres, log)
}

// runner is a pool or a transaction.
type runner interface {
	ExecContext(ctx context.Context, query string, args ...any) (sql.Result, error)
	QueryContext(ctx context.Context, query string, args ...any) (*sql.Rows, error)
}

// conn makes a runner a sqlstore.Conn. pgx prepares and caches statements itself.
type conn struct{ runner }

func (c conn) Exec(ctx context.Context, query string, args ...any) (int64, error) {
	r, err := c.ExecContext(ctx, query, args...)
	if err != nil {
		return 0, err
	}
	return r.RowsAffected()
}

func (c conn) Query(ctx context.Context, query string, args ...any) (*sql.Rows, error) {
	return c.QueryContext(ctx, query, args...)
}

// pool is the database outside of transactions.
type pool struct {
	db     *sql.DB
	closed atomic.Bool
	leads  *leads

	mu    sync.Mutex
	conns int // there may be
}

func (p *pool) Exec(ctx context.Context, query string, args ...any) (int64, error) {
	if p.closed.Load() {
		return 0, sql.ErrConnDone
	}
	return conn{p.db}.Exec(ctx, query, args...)
}

func (p *pool) Query(ctx context.Context, query string, args ...any) (*sql.Rows, error) {
	if p.closed.Load() {
		return nil, sql.ErrConnDone
	}
	return p.db.QueryContext(ctx, query, args...)
}

// allow changes how many connections there may be.
func (p *pool) allow(more int) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.conns += more
	p.db.SetMaxOpenConns(p.conns)
	p.db.SetMaxIdleConns(p.conns)
}

// close refuses new work and waits for what is under way.
func (p *pool) close() error {
	p.closed.Store(true)
	return p.db.Close()
}

// maxTries bounds how often a write runs. Deadlocks and lost races end with one of the
// parties through, so a write that fails this often meets something else.
const maxTries = 20

// write implements sqlstore.Backend.
func (p *pool) write(ctx context.Context, change func(context.Context, sqlstore.Conn) error) error {
	var err error
	for try := range maxTries {
		if err = p.once(ctx, change); !retryable(err) {
			return err
		}
		// Parties that met once should not meet again at the same moment.
		wait := time.Duration(rand.Int64N(int64(time.Millisecond) << min(try, 6)))
		select {
		case <-ctx.Done():
			return fmt.Errorf("store: write: %w", context.Cause(ctx))
		case <-time.After(wait):
		}
	}
	return fault.Wrap(fault.Throttled, err, "too many writes of the same thing at once")
}

func (p *pool) once(ctx context.Context, change func(context.Context, sqlstore.Conn) error) error {
	if p.closed.Load() {
		return fault.New(fault.Unavailable, "the database is closed")
	}
	tx, err := p.db.BeginTx(ctx, nil)
	if err != nil {
		return classify(fmt.Errorf("store: begin: %w", err))
	}
	defer func() { _ = tx.Rollback() }() // after a commit this does nothing
	if err := change(ctx, conn{tx}); err != nil {
		return err
	}
	if err := tx.Commit(); err != nil {
		return classify(fmt.Errorf("store: commit: %w", err))
	}
	return nil
}

// retryable reports whether running the transaction again can help.
func retryable(err error) bool {
	if errors.Is(err, sqlstore.ErrRetry) {
		return true
	}
	e, ok := errors.AsType[*pgconn.PgError](err)
	return ok && (e.Code == "40001" || e.Code == "40P01") // serialization_failure, deadlock_detected
}

// classify tells a server that is away or full from a defect of ours.
func classify(err error) error {
	if err == nil || errors.Is(err, context.Canceled) || errors.Is(err, context.DeadlineExceeded) {
		return err
	}
	if e, ok := errors.AsType[*pgconn.PgError](err); ok {
		switch e.Code[:2] {
		case "08", "53", "57", "58": // connection, resources, operator intervention, system error
			return fault.Wrap(fault.Unavailable, err, "the database is not available")
		}
		return err
	}
	_, isConnect := errors.AsType[*pgconn.ConnectError](err)
	_, isNet := errors.AsType[net.Error](err)
	if isConnect || isNet || errors.Is(err, sql.ErrConnDone) || errors.Is(err, net.ErrClosed) || errors.Is(err, io.ErrUnexpectedEOF) {
		return fault.Wrap(fault.Unavailable, err, "the database is not available")
	}
	return err
}
