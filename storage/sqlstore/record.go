package sqlstore

import (
	"context"
	"database/sql"
	"encoding/json"
	"math"
	"strings"

	"github.com/vauban-iot/vauban/defender/alert"
	"github.com/vauban-iot/vauban/defender/record"
)

const eventColumns = `message, ordinal, device, module, enqueued, time, event, name, kind, category, agent, agent_version, form, empty, problem, verdict, left_out, notes, size, details`

// Record implements [record.Store].
func (s *Store) Record(ctx context.Context, events []record.Event, alerts []alert.Alert) (raised []alert.Raised, err error) {
	if len(events) == 0 && len(alerts) == 0 {
		return nil, nil
	}
	err = s.write(ctx, func(ctx context.Context, c Conn) error {
		raised = make([]alert.Raised, 0, len(alerts))
		if len(alerts) > 0 {
			if err := s.inAlerts(ctx, c, "raise alerts"); err != nil {
				return err
			}
		}
		if err := s.keepEvents(ctx, c, events); err != nil {
			return err
		}
		for _, a := range alerts {
			r, err := s.raise(ctx, c, a)
			if err != nil {
				return err
			}
			raised = append(raised, r)
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	return raised, nil
}

// keepEvents writes events: many as blocks, few as rows.
func (s *Store) keepEvents(ctx context.Context, c Conn, events []record.Event) error {
	events, err := s.fresh(ctx, c, events)
	if err != nil {
		return err
	}
	if len(events) >= minBlock {
		for _, b := range record.Blocks(events) {
			if err := s.writeBlock(ctx, c, &b); err != nil {
				return err
			}
		}
		return nil
	}
	const columns = 20
	args := make([]any, 0, columns*len(events))
	for i := range events {
		e := &events[i]
		notes, err := toJSON(e.Notes)
		if err != nil {
			return err
		}
		empty := 0
		if e.Empty {
			empty = 1
		}
		details := arrayOf(e.Details)
		args = append(args, int64(e.Message), e.Ordinal, e.Device, e.Module, micros(e.Enqueued), micros(e.Time), e.ID, e.Name, e.Kind, e.Category, e.Agent, e.AgentVersion,
			e.Form, empty, e.Problem, int(e.Schema), e.Left, notes, len(details), details)
	}
	return s.chunks(len(events), rowsWrite, func(from, to int) error {
		_, err := s.exec(ctx, c, "keep security events", `INSERT INTO security_events (`+eventColumns+`) VALUES `+tuples(to-from, columns)+` ON CONFLICT DO NOTHING`,
			args[from*columns:to*columns]...)
		return err
	})
}

// arrayOf writes objects as they are.
func arrayOf(items []json.RawMessage) string {
	var b strings.Builder
	b.WriteByte('[')
	for i, it := range items {
		if i > 0 {
			b.WriteByte(',')
		}
		b.Write(it)
	}
	b.WriteByte(']')
	return b.String()
}

func scanEvent(r *sql.Rows) (e record.Event, err error) {
	var empty, size int
	err = r.Scan(&e.Message, &e.Ordinal, &e.Device, &e.Module, stamp{&e.Enqueued}, stamp{&e.Time}, &e.ID, &e.Name, &e.Kind, &e.Category, &e.Agent, &e.AgentVersion,
		&e.Form, &empty, &e.Problem, &e.Schema, &e.Left, jsonText{&e.Notes}, &size, jsonText{&e.Details})
	e.Empty = empty == 1
	return e, err
}

// SecurityEvents implements [record.Store].
func (s *Store) SecurityEvents(ctx context.Context, f record.Filter) ([]record.Event, error) {
	q := &selection{}
	where := []string{"message > -1"}
	add := func(condition string, v any) { where = append(where, strings.ReplaceAll(condition, "?", q.arg(v))) }
	if f.Device != "" {
		add("device = ?", f.Device)
	}
	if f.Name != "" {
		add("name = ?", f.Name)
	}
	if f.Invalid {
		where = append(where, "problem <> ''")
	}
	if !f.From.IsZero() {
		add("enqueued >= ?", micros(f.From))
	}
	if !f.To.IsZero() {
		add("enqueued < ?", micros(f.To))
	}
	if f.Before != (record.Place{}) {
		add("(message, ordinal) < (?, ", int64(f.Before.Message))
		where[len(where)-1] += q.arg(f.Before.Ordinal) + ")"
	}
	limit := pageLimit(f.Limit)
	rows, err := list(ctx, s, s.b.Reader, "list security events", scanEvent, `SELECT `+eventColumns+` FROM security_events WHERE `+strings.Join(where, " AND ")+
		` ORDER BY message DESC, ordinal DESC LIMIT `+q.arg(limit), q.args...)
	if err != nil {
		return nil, err
	}
	return s.packedBefore(ctx, rows, &f, limit)
}

// EventsAfter implements [record.Store].
func (s *Store) EventsAfter(ctx context.Context, f record.Span, limit int) ([]record.Event, error) {
	until := int64(math.MaxInt64)
	if !f.To.IsZero() {
		until = f.To.UnixMicro()
	}
	limit = pageLimit(limit)
	rows, err := list(ctx, s, s.b.Reader, "list security events in order", scanEvent, `SELECT `+eventColumns+` FROM security_events
		WHERE (message, ordinal) > ($1, $2) AND enqueued >= $3 AND enqueued < $4 ORDER BY message, ordinal LIMIT $5`,
		int64(f.After.Message), f.After.Ordinal, micros(f.From), until, limit)
	if err != nil {
		return nil, err
	}
	return s.packedAfter(ctx, rows, &f, limit)
}

// CountEvents implements [record.Store].
func (s *Store) CountEvents(ctx context.Context, after record.Place, most int) (int, error) {
	n, err := one(ctx, s, s.b.Reader, "count security events", scanInt,
		`SELECT COUNT(*) FROM (SELECT message FROM security_events WHERE (message, ordinal) > ($1, $2) LIMIT $3) AS counted`, int64(after.Message), after.Ordinal, most)
	if err != nil || n >= int64(most) {
		return int(n), err
	}
	packed, err := s.countPacked(ctx, after)
	return int(min(n+packed, int64(most))), err
}
