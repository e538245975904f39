package sqlstore

import (
	"context"
	"database/sql"
	"fmt"
	"strings"
	"time"

	"github.com/vauban-iot/vauban/fault"
	"github.com/vauban-iot/vauban/hub/routing"
	"github.com/vauban-iot/vauban/hub/telemetry"
	"github.com/vauban-iot/vauban/iot"
)

// Bury implements [routing.DeadLetterStore].
func (s *Store) Bury(ctx context.Context, endpoint string, ms []*iot.Message, reasons []string, now time.Time, keep int, bytes int64) (int, error) {
	var gone int64
	err := s.write(ctx, func(ctx context.Context, c Conn) error {
		for i, m := range ms {
			data := telemetry.Batch(m)
			if _, err := s.exec(ctx, c, "keep dead letter", `INSERT INTO dead_letters (endpoint, message, device, module, source, enqueued, died,
				reason, attempts, replay, size, data) VALUES ($1, $2, $3, $4, $5, $6, $7, $8, 1, 0, $9, $10)
				ON CONFLICT (endpoint, message) DO UPDATE SET died = excluded.died, reason = excluded.reason, attempts = dead_letters.attempts + 1, replay = 0`,
				endpoint, int64(m.Sequence), m.From.Device, m.From.Module, string(m.Source), micros(m.Enqueued), micros(now), reasons[i], len(data), data); err != nil {
				return err
			}
		}
		// The newest that fit stay: counted from the end, the first one over a bound goes with all before it.
		var err error
		gone, err = s.exec(ctx, c, "shorten dead letters", `DELETE FROM dead_letters WHERE endpoint = $1 AND sequence <= (
			SELECT MAX(sequence) FROM (
				SELECT sequence, ROW_NUMBER() OVER (ORDER BY sequence DESC) AS n, SUM(size) OVER (ORDER BY sequence DESC) AS total
				FROM dead_letters WHERE endpoint = $2) AS counted
			WHERE n > $3 OR total > $4)`, endpoint, endpoint, keep, bytes)
		return err
	})
	return int(gone), err
}

// chosen is the condition of a choice of dead letters.
func chosen(q *selection, l routing.Letters) string {
	where := []string{"endpoint = " + q.arg(l.Endpoint)}
	if l.Sequences != nil {
		in := make([]string, len(l.Sequences))
		for i, n := range l.Sequences {
			in[i] = q.arg(n)
		}
		where = append(where, "sequence IN ("+strings.Join(in, ", ")+")")
	}
	if l.Replay {
		where = append(where, "replay = 1")
	}
	if l.After != 0 {
		where = append(where, "sequence > "+q.arg(l.After))
	}
	return " WHERE " + strings.Join(where, " AND ")
}

// none reports whether a choice names no letter at all.
func none(l routing.Letters) bool { return l.Sequences != nil && len(l.Sequences) == 0 }

const letterColumns = `sequence, endpoint, message, device, module, source, enqueued, died, reason, attempts, replay, size`

func letterFields(l *routing.DeadLetter, message, replay *int64) []any {
	return []any{&l.Sequence, &l.Endpoint, message, &l.Message.From.Device, &l.Message.From.Module, (*string)(&l.Message.Source),
		stamp{&l.Message.Enqueued}, stamp{&l.Died}, &l.Reason, &l.Attempts, replay, &l.Size}
}

// DeadLetters implements [routing.DeadLetterStore].
func (s *Store) DeadLetters(ctx context.Context, l routing.Letters) ([]routing.DeadLetter, error) {
	if none(l) {
		return nil, nil
	}
	q := &selection{}
	return list(ctx, s, s.b.Reader, "list dead letters", func(r *sql.Rows) (d routing.DeadLetter, err error) {
		var message, replay int64
		err = r.Scan(letterFields(&d, &message, &replay)...)
		d.Message.Sequence, d.Replay = uint64(message), replay == 1
		return d, err
	}, `SELECT `+letterColumns+` FROM dead_letters`+chosen(q, l)+` ORDER BY sequence LIMIT `+q.arg(l.Limit), q.args...)
}

// DeadLetter implements [routing.DeadLetterStore].
func (s *Store) DeadLetter(ctx context.Context, endpoint string, sequence int64) (routing.DeadLetter, error) {
	d, err := one(ctx, s, s.b.Reader, "read dead letter", func(r *sql.Rows) (d routing.DeadLetter, err error) {
		var message, replay int64
		var data []byte
		if err = r.Scan(append(letterFields(&d, &message, &replay), &data)...); err != nil {
			return d, err
		}
		d.Replay = replay == 1
		err = telemetry.Decode(0, data, func(m *iot.Message) error {
			d.Message = *m
			return nil
		})
		d.Message.Sequence = uint64(message)
		return d, err
	}, `SELECT `+letterColumns+`, data FROM dead_letters WHERE endpoint = $1 AND sequence = $2`, endpoint, sequence)
	return d, notFound(err, "dead letter", fmt.Sprintf("%d of endpoint %s", sequence, endpoint))
}

// ReplayLetters implements [routing.DeadLetterStore].
func (s *Store) ReplayLetters(ctx context.Context, l routing.Letters) (int, error) {
	return s.changeLetters(ctx, "replay dead letters", `UPDATE dead_letters SET replay = 1`, l)
}

// DropLetters implements [routing.DeadLetterStore].
func (s *Store) DropLetters(ctx context.Context, l routing.Letters) (int, error) {
	return s.changeLetters(ctx, "drop dead letters", `DELETE FROM dead_letters`, l)
}

func (s *Store) changeLetters(ctx context.Context, what, statement string, l routing.Letters) (int, error) {
	if none(l) {
		return 0, nil
	}
	if len(l.Sequences) > maxNamed {
		return 0, fault.New(fault.Invalid, "%d dead letters are named, %d may be", len(l.Sequences), maxNamed)
	}
	q := &selection{}
	query := statement + chosen(q, l)
	var n int64
	err := s.write(ctx, func(ctx context.Context, c Conn) (err error) {
		n, err = s.exec(ctx, c, what, query, q.args...)
		return err
	})
	return int(n), err
}

// maxNamed bounds the parameters of one statement.
const maxNamed = 1000

// CountLetters implements [routing.DeadLetterStore].
func (s *Store) CountLetters(ctx context.Context) (map[string]routing.Count, error) {
	type row struct {
		endpoint string
		routing.Count
	}
	rows, err := list(ctx, s, s.b.Reader, "count dead letters", func(r *sql.Rows) (v row, err error) {
		err = r.Scan(&v.endpoint, &v.Messages, &v.Waiting, &v.Bytes, stamp{&v.Oldest})
		return v, err
	}, `SELECT endpoint, COUNT(*), COUNT(*) FILTER (WHERE replay = 1), CAST(SUM(size) AS BIGINT), MIN(died) FROM dead_letters GROUP BY endpoint`)
	if err != nil {
		return nil, err
	}
	all := make(map[string]routing.Count, len(rows))
	for _, v := range rows {
		all[v.endpoint] = v.Count
	}
	return all, nil
}
