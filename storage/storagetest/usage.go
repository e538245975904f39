package storagetest

import (
	"testing"
	"time"
)

// Usage is what a store promises about the messages of a day.
func Usage(t *testing.T, open Open) {
	s, ctx := open(t), t.Context()
	today, yesterday := "2026-05-02", "2026-05-01"
	same(t, "a new day", must(s.AddUsage(ctx, today, 0))(t), int64(0))
	same(t, "another day", must(s.AddUsage(ctx, yesterday, 7))(t), int64(7))
	parallel(t, 20, func(i int) error {
		_, err := s.AddUsage(ctx, today, int64(i))
		return err
	})
	same(t, "after 20 servers counted", must(s.AddUsage(ctx, today, 0))(t), int64(190))
	same(t, "the other day", must(s.AddUsage(ctx, yesterday, 0))(t), int64(7))
	later := time.Date(2026, 6, 30, 0, 0, 0, 0, time.UTC).Format(time.DateOnly)
	same(t, "much later", must(s.AddUsage(ctx, later, 1))(t), int64(1))
	same(t, "a day that was forgotten", must(s.AddUsage(ctx, today, 0))(t), int64(0))
}
