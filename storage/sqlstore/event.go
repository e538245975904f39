package sqlstore

import (
	"context"
	"database/sql"
	"fmt"
	"strings"

	"github.com/vauban-iot/vauban/hub/event"
	"github.com/vauban-iot/vauban/hub/telemetry"
	"github.com/vauban-iot/vauban/iot"
)

// tell keeps events for the log, in the transaction of the change they tell of.
func (s *Store) tell(ctx context.Context, c Conn, facts []iot.Message) error {
	for i := range facts {
		if _, err := s.exec(ctx, c, "keep event", `INSERT INTO facts (data) VALUES ($1)`, telemetry.Batch(&facts[i])); err != nil {
			return err
		}
	}
	return nil
}

// Facts implements [event.Store].
func (s *Store) Facts(ctx context.Context, limit int) ([]event.Fact, error) {
	return list(ctx, s, s.b.Reader, "read events", func(r *sql.Rows) (f event.Fact, err error) {
		err = r.Scan(&f.Sequence, &f.Data)
		return f, err
	}, `SELECT sequence, data FROM facts ORDER BY sequence LIMIT $1`, limit)
}

// ForgetFacts implements [event.Store]. It names each: one with a smaller sequence may have been committed meanwhile.
func (s *Store) ForgetFacts(ctx context.Context, sequences []int64) error {
	return s.write(ctx, func(ctx context.Context, c Conn) error {
		in, args := inList(sequences)
		_, err := s.exec(ctx, c, "forget events", `DELETE FROM facts WHERE sequence IN (`+in+`)`, args...)
		return err
	})
}

// inList is the inside of an IN (...) and its parameters.
func inList(values []int64) (string, []any) {
	var b strings.Builder
	args := make([]any, len(values))
	for i, v := range values {
		if i > 0 {
			b.WriteByte(',')
		}
		fmt.Fprintf(&b, "$%d", i+1)
		args[i] = v
	}
	return b.String(), args
}
