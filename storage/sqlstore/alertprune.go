package sqlstore

import (
	"context"
	"math"
	"strconv"
	"time"
)

// pruneStep is how many alerts a transaction forgets, so that others get their turn.
const pruneStep = 1000

// PruneAlerts implements [alert.Store].
func (s *Store) PruneAlerts(ctx context.Context, before time.Time, keep int) (old, many int, err error) {
	if err := s.write(ctx, func(ctx context.Context, c Conn) error {
		_, err := s.exec(ctx, c, "forget dismissals", `DELETE FROM alert_dismissals WHERE time < $1`, micros(before))
		return err
	}); err != nil {
		return 0, 0, err
	}
	const closed = `status IN ('dismissed', 'resolved')` // as the index has it
	old, err = s.pruneAlerts(ctx, math.MaxInt, closed+` AND changed < $1 ORDER BY changed, sequence`, micros(before))
	if err != nil {
		return old, 0, err
	}
	// Sequences only grow, so there are no more alerts than that; mostly none need be counted.
	span, err := one(ctx, s, s.b.Reader, "measure alerts", scanInt, `SELECT COALESCE((SELECT MAX(sequence) FROM alerts) - (SELECT MIN(sequence) FROM alerts) + 1, 0)`)
	if err != nil || span <= int64(keep) {
		return old, 0, err
	}
	n, err := one(ctx, s, s.b.Reader, "count alerts", scanInt, `SELECT COUNT(*) FROM alerts`)
	if err != nil {
		return old, 0, err
	}
	for _, which := range []string{closed + ` ORDER BY changed, sequence`, `status = 'suppressed' ORDER BY sequence`, `status = 'open' ORDER BY sequence`} {
		beyond := int(n) - keep - many
		if beyond <= 0 {
			break
		}
		gone, err := s.pruneAlerts(ctx, beyond, which)
		many += gone
		if err != nil {
			return old, many, err
		}
	}
	return old, many, nil
}

// pruneAlerts forgets the first alerts of those chosen, at most so many.
func (s *Store) pruneAlerts(ctx context.Context, most int, which string, args ...any) (gone int, err error) {
	for gone < most {
		var n int64
		step := min(pruneStep, most-gone)
		err := s.write(ctx, func(ctx context.Context, c Conn) (err error) {
			if err := s.inAlerts(ctx, c, "forget alerts"); err != nil { // none of them is reopened meanwhile
				return err
			}
			n, err = s.exec(ctx, c, "forget alerts", `DELETE FROM alerts WHERE sequence IN (SELECT sequence FROM alerts WHERE `+which+` LIMIT `+strconv.Itoa(step)+`)`, args...)
			return err
		})
		gone += int(n)
		if err != nil || n < int64(step) {
			return gone, err
		}
	}
	return gone, nil
}
