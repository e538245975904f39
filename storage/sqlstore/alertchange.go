package sqlstore

import (
	"context"
	"database/sql"
	"math"
	"math/bits"
	"time"

	"github.com/vauban-iot/vauban/defender/alert"
)

var _ alert.Changes = (*Store)(nil)

// inAlerts begins a transaction that changes alerts. Such transactions follow each other, so that their changes are committed in
// the order of their numbers, and sequences in theirs: a reader who continues behind the last one it saw misses none.
// It comes before any row is locked.
func (s *Store) inAlerts(ctx context.Context, c Conn, what string) error {
	if s.b.Serialize == nil {
		return nil
	}
	if err := s.b.Serialize(ctx, c, "alerts"); err != nil {
		return s.fail(what, err)
	}
	return nil
}

// nextAlertChange is the number of a change, of one alert or of many. The transaction began with inAlerts.
func (s *Store) nextAlertChange(ctx context.Context, c Conn) (int64, error) {
	return one(ctx, s, c, "count change of alerts", scanInt, `UPDATE alert_clock SET change = change + 1 RETURNING change`)
}

// worthTelling reports whether an alert that stood as before and stands as after changed for those who follow; see [alert.Change].
func worthTelling(before, after *alert.Alert) bool {
	return before.Status != after.Status || bits.Len(uint(before.Count)) != bits.Len(uint(after.Count))
}

const selectChange = `SELECT ` + alertColumns + `, evidence, born, change, changed FROM alerts `

func scanChange(r *sql.Rows) (ch alert.Change, err error) {
	err = r.Scan(append(alertFields(&ch.Alert), jsonText{&ch.Evidence}, &ch.Born.Change, &ch.Place.Change, stamp{&ch.At})...)
	ch.Explain()
	ch.Born.Sequence, ch.Place.Sequence = int64(ch.Sequence), int64(ch.Sequence)
	return ch, err
}

// AlertChanges implements [alert.Changes].
func (s *Store) AlertChanges(ctx context.Context, after alert.Place, limit int) ([]alert.Change, error) {
	return list(ctx, s, s.b.Reader, "list changes of alerts", scanChange,
		selectChange+`WHERE (change, sequence) > ($1, $2) ORDER BY change, sequence LIMIT $3`, after.Change, after.Sequence, pageLimit(limit))
}

// CountAlertChanges implements [alert.Changes].
func (s *Store) CountAlertChanges(ctx context.Context, after alert.Place, most int) (int, error) {
	n, err := one(ctx, s, s.b.Reader, "count changes of alerts", scanInt,
		`SELECT COUNT(*) FROM (SELECT change FROM alerts WHERE (change, sequence) > ($1, $2) LIMIT $3) AS counted`, after.Change, after.Sequence, most)
	return int(n), err
}

// LastAlertChange implements [alert.Changes].
func (s *Store) LastAlertChange(ctx context.Context) (alert.Place, error) {
	n, err := one(ctx, s, s.b.Reader, "read last change of alerts", scanInt, `SELECT change FROM alert_clock`)
	const last = 1<<53 - 1 // beyond all sequences, and whole in every reader of JSON
	return alert.Place{Change: n, Sequence: last}, err
}

// AlertsChanged implements [alert.Changes].
func (s *Store) AlertsChanged(ctx context.Context, from, to time.Time, after uint64, limit int) ([]alert.Change, error) {
	until := int64(math.MaxInt64)
	if !to.IsZero() {
		until = to.UnixMicro()
	}
	return list(ctx, s, s.b.Reader, "list alerts of a time", scanChange,
		selectChange+`WHERE sequence > $1 AND changed >= $2 AND changed < $3 ORDER BY sequence LIMIT $4`,
		int64(min(after, math.MaxInt64)), micros(from), until, pageLimit(limit))
}
