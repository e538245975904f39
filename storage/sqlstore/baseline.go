package sqlstore

import (
	"context"
	"database/sql"
	"errors"

	"github.com/vauban-iot/vauban/defender/baseline"
)

var _ baseline.Store = (*Store)(nil)

const selectBaseline = `SELECT document FROM security_baselines `

func scanBaseline(r *sql.Rows) (baseline.Baseline, error) {
	var text string
	if err := r.Scan(&text); err != nil {
		return baseline.Baseline{}, err
	}
	return baseline.Parse([]byte(text))
}

// Baselines implements [baseline.Store].
func (s *Store) Baselines(ctx context.Context) ([]baseline.Baseline, error) {
	return list(ctx, s, s.b.Reader, "list baselines", scanBaseline, selectBaseline+`ORDER BY grp`)
}

// Baseline implements [baseline.Store].
func (s *Store) Baseline(ctx context.Context, group string) (baseline.Baseline, error) {
	b, err := one(ctx, s, s.b.Reader, "read baseline", scanBaseline, selectBaseline+`WHERE grp = $1`, group)
	return b, notFound(err, "baseline", group)
}

// CountBaselines implements [baseline.Store].
func (s *Store) CountBaselines(ctx context.Context) (int, error) {
	n, err := one(ctx, s, s.b.Reader, "count baselines", scanInt, `SELECT COUNT(*) FROM security_baselines`)
	return int(n), err
}

// UpdateBaseline implements [baseline.Store].
func (s *Store) UpdateBaseline(ctx context.Context, group string, change func(*baseline.Baseline) (*baseline.Baseline, error)) error {
	return s.write(ctx, func(ctx context.Context, c Conn) error {
		// A row that is not there cannot be locked.
		if s.b.Serialize != nil {
			if err := s.b.Serialize(ctx, c, "baseline "+group); err != nil {
				return s.fail("wait for the baseline", err)
			}
		}
		var stands *baseline.Baseline
		switch b, err := one(ctx, s, c, "read baseline", scanBaseline, selectBaseline+`WHERE grp = $1`, group); {
		case err == nil:
			stands = &b
		case !errors.Is(err, errNoRow):
			return err
		}
		next, err := change(stands)
		if err != nil {
			return err
		}
		if next == nil {
			_, err := s.exec(ctx, c, "delete baseline", `DELETE FROM security_baselines WHERE grp = $1`, group)
			return err
		}
		next.Group = group
		text, err := next.Text()
		if err != nil {
			return err
		}
		_, err = s.exec(ctx, c, "write baseline", `INSERT INTO security_baselines (grp, epoch, document) VALUES ($1, $2, $3)
			ON CONFLICT (grp) DO UPDATE SET epoch = excluded.epoch, document = excluded.document`, group, next.Epoch, string(text))
		return err
	})
}

// SaveLearned implements [baseline.Store].
func (s *Store) SaveLearned(ctx context.Context, all []baseline.Saved) error {
	return s.write(ctx, func(ctx context.Context, c Conn) error {
		for _, v := range all {
			if _, err := s.exec(ctx, c, "keep what was learned", `INSERT INTO security_baseline_lessons (grp, epoch, data)
				SELECT grp, epoch, $3 FROM security_baselines WHERE grp = $1 AND epoch = $2
				ON CONFLICT (grp) DO UPDATE SET epoch = excluded.epoch, data = excluded.data`, v.Group, v.Epoch, v.Data); err != nil {
				return err
			}
		}
		return nil
	})
}

// Learned implements [baseline.Store].
func (s *Store) Learned(ctx context.Context, group string) (baseline.Saved, error) {
	v, err := one(ctx, s, s.b.Reader, "read what was learned", func(r *sql.Rows) (v baseline.Saved, err error) {
		err = r.Scan(&v.Group, &v.Epoch, &v.Data)
		return v, err
	}, `SELECT l.grp, l.epoch, l.data FROM security_baseline_lessons l JOIN security_baselines b ON b.grp = l.grp AND b.epoch = l.epoch WHERE l.grp = $1`, group)
	return v, notFound(err, "what was learned of", group)
}
