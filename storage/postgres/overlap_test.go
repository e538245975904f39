//go:build unix

package postgres

import (
	"context"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/vauban-iot/vauban/defender/alert"
	"github.com/vauban-iot/vauban/storage/postgres/pgtest"
	"github.com/vauban-iot/vauban/storage/sqlstore"
)

// A resolved alert comes again and is opened, while another transaction does something about closed or open alerts. The second must see what the
// first did, or be seen by it. The first is stopped in its midst: it has read what holds alerts back, and has yet to write.
func TestAlerts_Overlap(t *testing.T) {
	seen := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	sample := func(message uint64) alert.Alert {
		return alert.Alert{ID: "a", Type: "IoT_X", Severity: alert.High, Device: "d", Indicator: "i", Day: "2026-01-02", Count: 1, FirstSeen: seen, LastSeen: seen, LastMessage: message}
	}
	for name, test := range map[string]struct {
		second func(ctx context.Context, s *sqlstore.Store) error
		want   alert.Status
	}{
		"suppressed": {func(ctx context.Context, s *sqlstore.Store) error {
			_, err := s.Suppress(ctx, alert.Suppression{ID: "s", Device: "d", Created: seen, Expires: seen.Add(time.Hour)})
			return err
		}, alert.Suppressed},
		"forgotten": {func(ctx context.Context, s *sqlstore.Store) error {
			_, _, err := s.PruneAlerts(ctx, seen.Add(time.Hour), 10)
			return err
		}, alert.Open},
	} {
		t.Run(name, func(t *testing.T) {
			url := pgtest.URL(t)
			s := openAt(t, url)
			defer s.Close()
			if _, _, err := s.Raise(t.Context(), sample(1)); err != nil {
				t.Fatal(err)
			}
			if _, err := s.Judge(t.Context(), "a", alert.Verdict{Status: alert.Resolved, Time: seen}); err != nil {
				t.Fatal(err)
			}
			c, err := pgx.Connect(t.Context(), url)
			if err != nil {
				t.Fatal(err)
			}
			defer c.Close(context.Background())
			tx, err := c.Begin(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			if _, err := tx.Exec(t.Context(), "LOCK TABLE alerts IN SHARE MODE"); err != nil { // rows may be locked, and not written
				t.Fatal(err)
			}
			watch, err := pgx.Connect(t.Context(), url)
			if err != nil {
				t.Fatal(err)
			}
			defer watch.Close(context.Background())
			waiting := func(want int) {
				t.Helper()
				for end := time.Now().Add(20 * time.Second); ; time.Sleep(5 * time.Millisecond) {
					var n int
					if err := watch.QueryRow(t.Context(), "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'").Scan(&n); err != nil {
						t.Fatal(err)
					}
					if n == want {
						return
					}
					if time.Now().After(end) {
						t.Fatalf("%d transactions wait, want %d", n, want)
					}
				}
			}
			done := make(chan error, 2)
			go func() {
				_, _, err := s.Raise(t.Context(), sample(2))
				done <- err
			}()
			waiting(1)
			go func() { done <- test.second(t.Context(), s) }()
			waiting(2)
			if err := tx.Commit(t.Context()); err != nil {
				t.Fatal(err)
			}
			for range 2 {
				if err := <-done; err != nil {
					t.Fatal(err)
				}
			}
			if a, err := s.Alert(t.Context(), "a"); err != nil || a.Status != test.want || a.Count != 2 {
				t.Errorf("%d times, %q, %v; want 2 and %q", a.Count, a.Status, err, test.want)
			}
		})
	}
}
