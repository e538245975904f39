// Package sqlstore is the state of Vauban in SQL, written once for SQLite and
// PostgreSQL: identities, twins, cloud-to-device mail, sessions, enrollments,
// alerts and settings. [Store] implements the Store interfaces that the domain
// rooms declare; packages storage/sqlite and storage/postgres open one by
// handing it a [Backend], the little that differs between the two databases.
//
// Every write is on disk when its method returns. Change functions run inside
// the write's transaction and see what earlier writes did; they may run more
// than once, must not call the store, and their errors come back as they are.
// A change that panics fails alone, with an error that holds the stack.
//
// The store reads no clock. Times are kept to the microsecond and returned in
// UTC; the zero time survives. JSON trees are kept as text and come back byte
// for byte. Keys and settings are sealed and bound to the row they belong to.
// Lists are ordered by the bytes of their key on both databases.
//
// A Store is safe for concurrent use.
package sqlstore

import (
	"context"
	"database/sql"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"runtime/debug"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/vauban-iot/vauban/defender/alert"
	"github.com/vauban-iot/vauban/defender/record"
	"github.com/vauban-iot/vauban/defender/window"
	"github.com/vauban-iot/vauban/dps"
	"github.com/vauban-iot/vauban/fault"
	"github.com/vauban-iot/vauban/hub/command"
	"github.com/vauban-iot/vauban/hub/credential"
	"github.com/vauban-iot/vauban/hub/event"
	"github.com/vauban-iot/vauban/hub/fleet"
	"github.com/vauban-iot/vauban/hub/fleet/configuration"
	"github.com/vauban-iot/vauban/hub/fleet/job"
	"github.com/vauban-iot/vauban/hub/notice"
	"github.com/vauban-iot/vauban/hub/query"
	"github.com/vauban-iot/vauban/hub/registry"
	"github.com/vauban-iot/vauban/hub/routing"
	"github.com/vauban-iot/vauban/hub/throttle"
	"github.com/vauban-iot/vauban/hub/twin"
	"github.com/vauban-iot/vauban/hub/upload"
	"github.com/vauban-iot/vauban/internal/secret"
	"github.com/vauban-iot/vauban/iot"
)

var (
	_ registry.Store   = (*Store)(nil)
	_ twin.Store       = (*Store)(nil)
	_ command.Mailbox  = (*Store)(nil)
	_ command.Sessions = (*Store)(nil)
	_ dps.Store        = (*Store)(nil)
	_ alert.Store      = (*Store)(nil)
	_ record.Store     = (*Store)(nil)
	_ window.Store     = (*Store)(nil)
	_ fleet.Store      = (*Store)(nil)
	_ job.Store        = (*Store)(nil)

	_ configuration.Store = (*Store)(nil)
	_ credential.Store    = (*Store)(nil)
	_ notice.Store        = (*Store)(nil)
	_ upload.Store        = (*Store)(nil)
	_ throttle.UsageStore = (*Store)(nil)
	_ event.Store         = (*Store)(nil)

	_ routing.DeadLetterStore = (*Store)(nil)
)

// Conn runs statements: on a pool for reads, in one transaction for writes.
// Statements write their parameters as $1, $2, ... on both databases.
type Conn interface {
	Exec(ctx context.Context, query string, args ...any) (rows int64, err error)
	Query(ctx context.Context, query string, args ...any) (*sql.Rows, error)
}

// Backend is what differs between the databases.
type Backend struct {
	// Reader reads committed state.
	Reader Conn
	// Write runs change in a transaction and returns when it is on disk, or returns the
	// error of change as it is when nothing was written. The context given to change is the one
	// to use inside. Write runs change again when it fails with ErrRetry.
	Write func(ctx context.Context, change func(context.Context, Conn) error) error
	// ForUpdate ends a SELECT whose rows the transaction will write.
	ForUpdate string
	// Serialize makes transactions that name the same thing follow each other; nil when they do anyway.
	Serialize func(ctx context.Context, tx Conn, name string) error
	// Lead runs run on one node at a time; nil when there is one node only. See [Store.Lead].
	Lead func(ctx context.Context, name string, run func(context.Context) error) error
	// Compare is an SQL condition that is true for every row in whose column of JSON text the value at the path of names
	// compares with v by op (=, <, <=, > or >=); it may be true for others. ok is false when there is none.
	// param makes a parameter of a value.
	Compare func(column string, names []string, op string, v query.Value, param func(any) string) (condition string, ok bool)
	// BatchRows is how many rows a bulk statement carries.
	BatchRows int
	// Classify gives an error of the database its fault kind; it returns others unchanged.
	Classify func(error) error
	// Close ends the writes under way and closes the database.
	Close func() error
}

// ErrRetry says that another transaction was faster and that the change must see its result.
var ErrRetry = errors.New("lost a race with another transaction")

// Store keeps the state. See the package comment.
type Store struct {
	b      Backend
	sealer *secret.Sealer
	events blockIndex
}

// New returns a store on b, whose tables [Migrate] made. Keys and settings are sealed by sealer.
func New(b Backend, sealer *secret.Sealer) *Store {
	return &Store{b: b, sealer: sealer}
}

// Close waits for the writes under way and closes the database. Later calls fail with fault.Unavailable
// or an error of the closed database.
func (s *Store) Close() error { return s.b.Close() }

// Lead waits until this node is the only one that leads name, and runs run. When the lead is lost, run's context
// ends first and then Lead returns an error; so does a run that fails. The caller may try again.
func (s *Store) Lead(ctx context.Context, name string, run func(context.Context) error) error {
	if s.b.Lead == nil {
		return run(ctx)
	}
	return s.b.Lead(ctx, name, run)
}

// write runs do as one write. A panic of do, which is mostly a panic of a caller's change function,
// becomes an error, because do may run on a goroutine that serves others too.
func (s *Store) write(ctx context.Context, do func(context.Context, Conn) error) error {
	return s.b.Write(ctx, func(ctx context.Context, c Conn) (err error) {
		defer func() {
			if r := recover(); r != nil {
				err = fmt.Errorf("store: change panicked: %v\n%s", r, debug.Stack())
			}
		}()
		return do(ctx, c)
	})
}

// exec runs a statement and returns how many rows it changed.
func (s *Store) exec(ctx context.Context, c Conn, what, query string, args ...any) (int64, error) {
	if err := checkText(args); err != nil {
		return 0, err
	}
	n, err := c.Exec(ctx, query, args...)
	if err != nil {
		return 0, s.fail(what, err)
	}
	return n, nil
}

// errNoRow says that a query for one row found none. It does not leave this package.
var errNoRow = errors.New("no such row")

// one returns the row a query finds, or errNoRow.
func one[T any](ctx context.Context, s *Store, c Conn, what string, scan func(*sql.Rows) (T, error), query string, args ...any) (T, error) {
	var zero T
	all, err := list(ctx, s, c, what, scan, query, args...)
	switch {
	case err != nil:
		return zero, err
	case len(all) == 0:
		return zero, errNoRow
	}
	return all[0], nil
}

// list returns the rows a query finds.
func list[T any](ctx context.Context, s *Store, c Conn, what string, scan func(*sql.Rows) (T, error), query string, args ...any) ([]T, error) {
	if err := checkText(args); err != nil {
		return nil, err
	}
	rows, err := c.Query(ctx, query, args...)
	if err != nil {
		return nil, s.fail(what, err)
	}
	defer rows.Close()
	var all []T
	for rows.Next() {
		v, err := scan(rows)
		if err != nil {
			return nil, s.fail(what, err)
		}
		all = append(all, v)
	}
	if err := rows.Err(); err != nil {
		return nil, s.fail(what, err)
	}
	return all, nil
}

// scanInt scans a single number.
func scanInt(r *sql.Rows) (n int64, err error) {
	err = r.Scan(&n)
	return n, err
}

func (s *Store) fail(what string, err error) error {
	return s.b.Classify(fmt.Errorf("store: %s: %w", what, err))
}

// notFound turns errNoRow into fault.NotFound about what.
func notFound(err error, what, name string) error {
	if errors.Is(err, errNoRow) {
		return fault.New(fault.NotFound, "%s %s does not exist", what, name)
	}
	return err
}

// kind is the word for id in messages.
func kind(id iot.ID) string {
	if id.Module != "" {
		return "module"
	}
	return "device"
}

// lock adds the clause that locks what a SELECT finds until the transaction ends.
func (s *Store) lock(query string) string {
	if s.b.ForUpdate == "" {
		return query
	}
	return query + " " + s.b.ForUpdate
}

// checkText refuses text that PostgreSQL cannot hold, so that both databases answer alike.
func checkText(args []any) error {
	for _, a := range args {
		t, ok := a.(string)
		if ok && (!utf8.ValidString(t) || strings.IndexByte(t, 0) >= 0) {
			return fault.New(fault.Invalid, "text is not valid UTF-8 or holds a NUL character")
		}
	}
	return nil
}

// micros is how times are stored: microseconds since 1970, and 0 for the zero time.
func micros(t time.Time) int64 {
	if t.IsZero() {
		return 0
	}
	return t.UnixMicro()
}

// fromMicros undoes micros.
func fromMicros(us int64) time.Time {
	if us == 0 {
		return time.Time{}
	}
	return time.UnixMicro(us).UTC()
}

// stamp scans a stored time.
type stamp struct{ t *time.Time }

func (s stamp) Scan(v any) error {
	us, ok := v.(int64)
	if !ok {
		return fmt.Errorf("a stored time is a %T", v)
	}
	*s.t = fromMicros(us)
	return nil
}

// Stored returns t as the store will give it back.
func stored(t time.Time) time.Time { return fromMicros(micros(t)) }

// jsonText scans and writes a small value of ours as JSON. It is not for the trees of
// users, which encoding/json would reformat.
type jsonText struct{ v any }

func (j jsonText) Scan(v any) error {
	switch v := v.(type) {
	case string:
		return json.Unmarshal([]byte(v), j.v)
	case []byte:
		return json.Unmarshal(v, j.v)
	}
	return fmt.Errorf("a stored document is a %T", v)
}

func toJSON(v any) (string, error) {
	b, err := json.Marshal(v)
	return string(b), err
}

// seal seals plain for the row called owner: moved to another row it does not open.
func (s *Store) seal(purpose, owner string, plain []byte) []byte {
	return s.sealer.Seal(purpose+" of "+owner, plain)
}

// open undoes seal.
func (s *Store) open(purpose, owner string, sealed []byte) ([]byte, error) {
	plain, err := s.sealer.Open(purpose+" of "+owner, sealed)
	if err != nil {
		return nil, fmt.Errorf("store: open %s of %s: %w", purpose, owner, err)
	}
	return plain, nil
}

// sealKeys seals a pair of keys, the first with its length before it; nil when there are none.
func (s *Store) sealKeys(purpose, owner string, primary, secondary secret.Secret) []byte {
	if primary.IsZero() && secondary.IsZero() {
		return nil
	}
	plain := binary.AppendUvarint(nil, uint64(len(primary.Reveal())))
	plain = append(plain, primary.Reveal()...)
	return s.seal(purpose, owner, append(plain, secondary.Reveal()...))
}

// openKeys undoes sealKeys.
func (s *Store) openKeys(purpose, owner string, sealed []byte, primary, secondary *secret.Secret) error {
	if len(sealed) == 0 {
		return nil
	}
	plain, err := s.open(purpose, owner, sealed)
	if err != nil {
		return err
	}
	n, w := binary.Uvarint(plain)
	if w <= 0 || n > uint64(len(plain)-w) {
		return fmt.Errorf("store: %s of %s are damaged", purpose, owner)
	}
	plain = plain[w:]
	if n > 0 {
		*primary = secret.New(plain[:n])
	}
	if len(plain) > int(n) {
		*secondary = secret.New(plain[n:])
	}
	return nil
}
