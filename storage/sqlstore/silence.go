package sqlstore

import (
	"context"
	"database/sql"
	"time"

	"github.com/vauban-iot/vauban/defender/host"
)

var _ host.SilenceStore = (*Store)(nil)

func scanQuiet(r *sql.Rows) (q host.Quiet, err error) {
	err = r.Scan(&q.Device, stamp{&q.Last})
	return q, err
}

// Quiet implements [host.SilenceStore].
func (s *Store) Quiet(ctx context.Context, after, until time.Time, from string, limit int) ([]host.Quiet, error) {
	return list(ctx, s, s.b.Reader, "list silent devices", scanQuiet, `SELECT d.device, MAX(i.last_activity) FROM identities d JOIN identities i ON i.device = d.device
		WHERE d.module = '' AND d.status = 'enabled' AND d.device > $1 GROUP BY d.device
		HAVING MAX(i.last_activity) > $2 AND MAX(i.last_activity) <= $3 ORDER BY d.device LIMIT $4`, from, micros(after), micros(until), limit)
}

// Heard implements [host.SilenceStore].
func (s *Store) Heard(ctx context.Context, devices []string) (map[string]time.Time, error) {
	all := make(map[string]time.Time, len(devices))
	err := s.chunks(len(devices), rowsRead, func(from, to int) error {
		rows, err := list(ctx, s, s.b.Reader, "read when devices were heard", scanQuiet, `SELECT d.device, MAX(i.last_activity) FROM identities d JOIN identities i ON i.device = d.device
			WHERE d.module = '' AND d.status = 'enabled' AND d.device `+among(to-from)+` GROUP BY d.device`, texts(devices[from:to])...)
		for _, r := range rows {
			all[r.Device] = r.Last
		}
		return err
	})
	return all, err
}
