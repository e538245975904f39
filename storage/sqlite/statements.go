package sqlite

import (
	"context"
	"database/sql"
	"strconv"
	"strings"
	"sync"
)

// statements runs queries on a pool or a connection and prepares each once.
// Contexts are looked at before a statement and not during it: statements are short,
// and watching would cost a goroutine each.
type statements struct {
	db interface {
		PrepareContext(ctx context.Context, query string) (*sql.Stmt, error)
	}

	mu     sync.RWMutex // protects what follows
	cached map[string]*sql.Stmt
	closed bool
}

func newStatements(db interface {
	PrepareContext(ctx context.Context, query string) (*sql.Stmt, error)
}) *statements {
	return &statements{db: db, cached: make(map[string]*sql.Stmt)}
}

func (s *statements) prepare(ctx context.Context, query string) (*sql.Stmt, error) {
	if err := ctx.Err(); err != nil {
		return nil, context.Cause(ctx)
	}
	s.mu.RLock()
	st, closed := s.cached[query], s.closed
	s.mu.RUnlock()
	switch {
	case closed:
		return nil, sql.ErrConnDone
	case st != nil:
		return st, nil
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return nil, sql.ErrConnDone
	}
	if st := s.cached[query]; st != nil {
		return st, nil
	}
	st, err := s.db.PrepareContext(context.WithoutCancel(ctx), positional(query))
	if err != nil {
		return nil, err
	}
	s.cached[query] = st
	return st, nil
}

// Exec implements sqlstore.Conn.
func (s *statements) Exec(ctx context.Context, query string, args ...any) (int64, error) {
	st, err := s.prepare(ctx, query)
	if err != nil {
		return 0, err
	}
	r, err := st.ExecContext(context.WithoutCancel(ctx), args...)
	if err != nil {
		return 0, err
	}
	return r.RowsAffected()
}

// Query implements sqlstore.Conn.
func (s *statements) Query(ctx context.Context, query string, args ...any) (*sql.Rows, error) {
	st, err := s.prepare(ctx, query)
	if err != nil {
		return nil, err
	}
	return st.QueryContext(context.WithoutCancel(ctx), args...)
}

func (s *statements) close() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.closed = true
	for _, st := range s.cached {
		st.Close()
	}
}

// positional writes $1, $2, ... as ? when they come in this order and once each, because the
// driver binds ? without comparing names. Our queries hold no $ elsewhere.
func positional(query string) string {
	var b strings.Builder
	rest := query
	for n := 1; ; n++ {
		before, after, found := strings.Cut(rest, "$")
		b.WriteString(before)
		if !found {
			return b.String()
		}
		digits := len(after) - len(strings.TrimLeft(after, "0123456789"))
		if after[:digits] != strconv.Itoa(n) {
			return query
		}
		b.WriteByte('?')
		rest = after[digits:]
	}
}
