package sqlstore

import (
	"context"
	"database/sql"
	"errors"
	"math"

	"github.com/vauban-iot/vauban/defender/alert"
	"github.com/vauban-iot/vauban/fault"
)

const selectAlert = `SELECT sequence, id, type, severity, title, description, device, module, indicator, source, day,
	remote, local, protocol, direction, count, first_seen, last_seen, last_message FROM alerts `

const oneAlert = selectAlert + `WHERE device = $1 AND module = $2 AND indicator = $3 AND day = $4`

func scanAlert(r *sql.Rows) (a alert.Alert, err error) {
	err = r.Scan(&a.Sequence, &a.ID, &a.Type, &a.Severity, &a.Title, &a.Description, &a.Device, &a.Module, &a.Indicator, &a.Source, &a.Day,
		&a.Remote, &a.Local, &a.Protocol, &a.Direction, &a.Count, stamp{&a.FirstSeen}, stamp{&a.LastSeen}, &a.LastMessage)
	return a, err
}

// Raise implements [alert.Store]. LastSeen never moves back. An ID that another alert has is fault.AlreadyExists.
func (s *Store) Raise(ctx context.Context, a alert.Alert) (result alert.Alert, created bool, err error) {
	err = s.write(ctx, func(ctx context.Context, c Conn) error {
		created = false
		find := func() (alert.Alert, error) {
			return one(ctx, s, c, "read alert", scanAlert, s.lock(oneAlert), a.Device, a.Module, a.Indicator, a.Day)
		}
		now, err := find()
		if errors.Is(err, errNoRow) && s.b.Serialize != nil {
			// Sequences must be committed in their order, or a reader who continues
			// after the last one it saw would miss one.
			if err := s.b.Serialize(ctx, c, "alerts"); err != nil {
				return s.fail("create alert", err)
			}
			now, err = find()
		}
		switch {
		case errors.Is(err, errNoRow):
			result, created = a, true
			result.FirstSeen, result.LastSeen = stored(a.FirstSeen), stored(a.LastSeen)
			n, err := one(ctx, s, c, "create alert", scanInt, `INSERT INTO alerts (id, type, severity, title, description,
				device, module, indicator, source, day, remote, local, protocol, direction, count, first_seen, last_seen, last_message)
				VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $16, $17, $18)
				ON CONFLICT DO NOTHING RETURNING sequence`,
				a.ID, a.Type, string(a.Severity), a.Title, a.Description,
				a.Device, a.Module, a.Indicator, a.Source, a.Day, a.Remote, a.Local, a.Protocol, a.Direction,
				a.Count, micros(a.FirstSeen), micros(a.LastSeen), int64(a.LastMessage))
			if errors.Is(err, errNoRow) {
				return fault.New(fault.AlreadyExists, "alert %s exists already", a.ID)
			}
			result.Sequence = uint64(n)
			return err
		case err != nil:
			return err
		case a.LastMessage <= now.LastMessage: // a replay
			result = now
			return nil
		}
		result = now
		result.Count += a.Count
		result.LastMessage = a.LastMessage
		if a.LastSeen.After(now.LastSeen) {
			result.LastSeen = stored(a.LastSeen)
		}
		_, err = s.exec(ctx, c, "update alert", `UPDATE alerts SET count = $1, last_seen = $2, last_message = $3 WHERE sequence = $4`,
			result.Count, micros(result.LastSeen), int64(result.LastMessage), int64(result.Sequence))
		return err
	})
	if err != nil {
		return alert.Alert{}, false, err
	}
	return result, created, nil
}

// Alerts implements [alert.Store].
func (s *Store) Alerts(ctx context.Context, f alert.Filter) ([]alert.Alert, error) {
	limit := f.Limit
	switch {
	case limit <= 0:
		limit = 100
	case limit > 1000:
		limit = 1000
	}
	after := int64(min(f.After, math.MaxInt64))
	before := int64(math.MaxInt64)
	if f.Before != 0 {
		before = int64(min(f.Before, math.MaxInt64))
	}
	if f.Device != "" {
		return list(ctx, s, s.b.Reader, "list alerts", scanAlert,
			selectAlert+`WHERE device = $1 AND sequence > $2 AND sequence < $3 ORDER BY sequence DESC LIMIT $4`, f.Device, after, before, limit)
	}
	return list(ctx, s, s.b.Reader, "list alerts", scanAlert,
		selectAlert+`WHERE sequence > $1 AND sequence < $2 ORDER BY sequence DESC LIMIT $3`, after, before, limit)
}
