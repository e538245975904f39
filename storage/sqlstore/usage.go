package sqlstore

import (
	"context"
	"time"
)

// usageKept is how long the count of a day is kept; nobody asks for an old one.
const usageKept = 31 * 24 * time.Hour

// AddUsage implements [throttle.UsageStore].
func (s *Store) AddUsage(ctx context.Context, day string, messages int64) (int64, error) {
	var total int64
	err := s.write(ctx, func(ctx context.Context, c Conn) error {
		_, err := s.exec(ctx, c, "count messages", `INSERT INTO usage (day, messages) VALUES ($1, $2)
			ON CONFLICT (day) DO UPDATE SET messages = usage.messages + excluded.messages`, day, messages)
		if err != nil {
			return err
		}
		if t, err := time.Parse(time.DateOnly, day); err == nil {
			if _, err := s.exec(ctx, c, "forget counts", `DELETE FROM usage WHERE day < $1`, t.Add(-usageKept).Format(time.DateOnly)); err != nil {
				return err
			}
		}
		total, err = one(ctx, s, c, "read count of messages", scanInt, `SELECT messages FROM usage WHERE day = $1`, day)
		return err
	})
	return total, err
}
