package sqlstore

import (
	"context"
	"database/sql"
	"encoding/json"
	"errors"
	"math"
	"strings"
	"time"

	"github.com/vauban-iot/vauban/defender/alert"
	"github.com/vauban-iot/vauban/fault"
)

const alertColumns = `sequence, id, type, severity, title, description, device, module, grp, indicator, source, day,
	remote, local, protocol, direction, count, first_seen, last_seen, last_message, status, status_time, status_by, comment, suppression, until`

const selectAlert = `SELECT ` + alertColumns + ` FROM alerts `

const fullAlert = `SELECT ` + alertColumns + `, evidence FROM alerts `

const oneAlert = fullAlert + `WHERE device = $1 AND module = $2 AND type = $3 AND indicator = $4 AND day = $5`

func alertFields(a *alert.Alert) []any {
	return []any{&a.Sequence, &a.ID, &a.Type, &a.Severity, &a.Title, &a.Description, &a.Device, &a.Module, &a.Group, &a.Indicator, &a.Source, &a.Day,
		&a.Remote, &a.Local, &a.Protocol, &a.Direction, &a.Count, stamp{&a.FirstSeen}, stamp{&a.LastSeen}, &a.LastMessage,
		&a.Status, stamp{&a.StatusTime}, &a.StatusBy, &a.Comment, &a.Suppression, stamp{&a.SuppressedUntil}}
}

func scanAlert(r *sql.Rows) (a alert.Alert, err error) {
	err = r.Scan(alertFields(&a)...)
	a.Explain()
	return a, err
}

func scanFullAlert(r *sql.Rows) (a alert.Alert, err error) {
	err = r.Scan(append(alertFields(&a), jsonText{&a.Evidence})...)
	a.Explain()
	return a, err
}

// Raise implements [alert.Store]. LastSeen never moves back. An ID that another alert has is fault.AlreadyExists.
func (s *Store) Raise(ctx context.Context, a alert.Alert) (result alert.Alert, created bool, err error) {
	var r alert.Raised
	err = s.write(ctx, func(ctx context.Context, c Conn) (err error) {
		if err := s.inAlerts(ctx, c, "raise alert"); err != nil {
			return err
		}
		r, err = s.raise(ctx, c, a)
		return err
	})
	if err != nil {
		return alert.Alert{}, false, err
	}
	return r.Alert, r.Created, nil
}

// raise is Raise in a transaction that began with inAlerts.
func (s *Store) raise(ctx context.Context, c Conn, a alert.Alert) (r alert.Raised, err error) {
	now, err := one(ctx, s, c, "read alert", scanFullAlert, s.lock(oneAlert), a.Device, a.Module, a.Type, a.Indicator, a.Day)
	switch {
	case errors.Is(err, errNoRow):
		change, err := s.nextAlertChange(ctx, c)
		if err != nil {
			return r, err
		}
		r = alert.Raised{Alert: a, Created: true, Counted: true}
		r.Retro = false
		r.FirstSeen, r.LastSeen = stored(a.FirstSeen), stored(a.LastSeen)
		r.Status, r.StatusTime, r.StatusBy, r.Comment = alert.Open, time.Time{}, "", ""
		r.Explain()
		if err := s.holdBack(ctx, c, &r.Alert); err != nil {
			return r, err
		}
		evidence, err := evidenceText(a.Evidence)
		if err != nil {
			return r, err
		}
		n, err := one(ctx, s, c, "create alert", scanInt, `INSERT INTO alerts (id, type, severity, title, description, device, module, grp, indicator, source, day,
			remote, local, protocol, direction, count, first_seen, last_seen, last_message, status, status_time, status_by, comment, suppression, until, evidence, born, change, changed)
			VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $16, $17, $18, $19, $20, $21, $22, '', $23, $24, $25, $26, $27, $28)
			ON CONFLICT DO NOTHING RETURNING sequence`,
			a.ID, a.Type, string(a.Severity), a.Title, a.Description, a.Device, a.Module, a.Group, a.Indicator, a.Source, a.Day,
			a.Remote, a.Local, a.Protocol, a.Direction, a.Count, micros(a.FirstSeen), micros(a.LastSeen), int64(a.LastMessage),
			string(r.Status), micros(r.StatusTime), r.StatusBy, r.Suppression, micros(r.SuppressedUntil), evidence, change, change, micros(a.LastSeen))
		if errors.Is(err, errNoRow) {
			return r, fault.New(fault.AlreadyExists, "alert %s exists already", a.ID)
		}
		r.Sequence, r.Evidence = uint64(n), nil
		return r, err
	case err != nil:
		return r, err
	case a.Retro, a.LastMessage != 0 && a.LastMessage <= now.LastMessage: // counted already, or a replay
		now.Evidence = nil
		return alert.Raised{Alert: now}, nil
	}
	r = alert.Raised{Alert: now, Counted: true}
	r.Merge(a)
	r.LastSeen = stored(r.LastSeen)
	if r.Status == alert.Resolved {
		r.Status, r.StatusTime, r.StatusBy, r.Comment = alert.Open, stored(a.LastSeen), "", ""
		if err := s.holdBack(ctx, c, &r.Alert); err != nil {
			return r, err
		}
	}
	evidence, err := evidenceText(r.Evidence)
	if err != nil {
		return r, err
	}
	_, err = s.exec(ctx, c, "update alert", `UPDATE alerts SET count = $1, last_seen = $2, last_message = $3, status = $4, status_time = $5, status_by = $6,
		comment = $7, suppression = $8, until = $9, evidence = $10 WHERE sequence = $11`,
		r.Count, micros(r.LastSeen), int64(r.LastMessage), string(r.Status), micros(r.StatusTime), r.StatusBy, r.Comment, r.Suppression, micros(r.SuppressedUntil),
		evidence, int64(r.Sequence))
	r.Evidence = nil
	if err != nil || !worthTelling(&now, &r.Alert) {
		return r, err
	}
	change, err := s.nextAlertChange(ctx, c)
	if err != nil {
		return r, err
	}
	_, err = s.exec(ctx, c, "number change of alert", `UPDATE alerts SET change = $1, changed = $2 WHERE sequence = $3`, change, micros(r.LastSeen), int64(r.Sequence))
	return r, err
}

// evidenceText is an array, with the details as they are: json.Marshal would escape what HTML needs escaped.
func evidenceText(es []alert.Evidence) (string, error) {
	if es == nil {
		return "[]", nil
	}
	var b strings.Builder
	enc := json.NewEncoder(&b)
	enc.SetEscapeHTML(false)
	err := enc.Encode(es)
	return b.String(), err
}

// holdBack dismisses a when somebody dismissed its type and day, and suppresses it when a suppression fits it.
func (s *Store) holdBack(ctx context.Context, c Conn, a *alert.Alert) error {
	a.Suppression, a.SuppressedUntil = "", time.Time{}
	if v, dismissed, err := s.dismissal(ctx, c, a); err != nil || dismissed {
		if dismissed {
			a.Status, a.StatusTime, a.StatusBy = alert.Dismissed, v.Time, v.By
		}
		return err
	}
	found, err := one(ctx, s, c, "read suppressions", scanSuppression, selectSuppression+`WHERE expires > $1 AND type IN ('', $2) AND device IN ('', $3)
		AND indicator IN ('', $4) ORDER BY expires DESC, id LIMIT 1`, micros(a.LastSeen), a.Type, a.Device, a.Indicator)
	if errors.Is(err, errNoRow) {
		return nil
	}
	if err == nil {
		a.Status, a.Suppression, a.SuppressedUntil = alert.Suppressed, found.ID, found.Expires
	}
	return err
}

// pageLimit is how many rows a list has.
func pageLimit(asked int) int {
	switch {
	case asked <= 0:
		return 100
	case asked > 1000:
		return 1000
	}
	return asked
}

// Alerts implements [alert.Store].
func (s *Store) Alerts(ctx context.Context, f alert.Filter) ([]alert.Alert, error) {
	before := int64(math.MaxInt64)
	if f.Before != 0 {
		before = int64(min(f.Before, math.MaxInt64))
	}
	q := &selection{}
	where := []string{"sequence > " + q.arg(int64(min(f.After, math.MaxInt64))), "sequence < " + q.arg(before)}
	for _, c := range []struct{ column, value string }{
		{"device", f.Device}, {"type", f.Type}, {"status", string(f.Status)}, {"severity", string(f.Severity)},
	} {
		if c.value != "" {
			where = append(where, c.column+" = "+q.arg(c.value))
		}
	}
	if f.OfHub {
		where = append(where, "device = ''")
	}
	if f.Group != "" {
		in, err := member(q, "alerts.device", f.Group)
		if err != nil {
			return nil, err
		}
		where = append(where, "device <> ''", in)
	}
	if !f.From.IsZero() {
		where = append(where, "first_seen >= "+q.arg(micros(f.From)))
	}
	if !f.To.IsZero() {
		where = append(where, "first_seen <= "+q.arg(micros(f.To)))
	}
	return list(ctx, s, s.b.Reader, "list alerts", scanAlert,
		selectAlert+`WHERE `+strings.Join(where, " AND ")+` ORDER BY sequence DESC LIMIT `+q.arg(pageLimit(f.Limit)), q.args...)
}

// Alert implements [alert.Store].
func (s *Store) Alert(ctx context.Context, id string) (alert.Alert, error) {
	a, err := one(ctx, s, s.b.Reader, "read alert", scanFullAlert, fullAlert+`WHERE id = $1`, id)
	return a, notFound(err, "alert", id)
}

// Judge implements [alert.Store].
func (s *Store) Judge(ctx context.Context, id string, v alert.Verdict) (a alert.Alert, err error) {
	err = s.write(ctx, func(ctx context.Context, c Conn) error {
		if err := s.inAlerts(ctx, c, "judge alert"); err != nil {
			return err
		}
		if a, err = one(ctx, s, c, "read alert", scanFullAlert, s.lock(fullAlert+`WHERE id = $1`), id); err != nil {
			return notFound(err, "alert", id)
		}
		if a.Status == alert.Dismissed {
			if v.Status == alert.Dismissed {
				return nil
			}
			return fault.New(fault.PreconditionFailed, "alert %s is dismissed, which is for good", id)
		}
		a.Status, a.StatusTime, a.StatusBy, a.Comment, a.Suppression, a.SuppressedUntil = v.Status, stored(v.Time), v.By, v.Comment, "", time.Time{}
		change, err := s.nextAlertChange(ctx, c)
		if err != nil {
			return err
		}
		_, err = s.exec(ctx, c, "judge alert", `UPDATE alerts SET status = $1, status_time = $2, status_by = $3, comment = $4, suppression = '', until = 0,
			change = $5, changed = $6 WHERE sequence = $7`, string(v.Status), micros(v.Time), v.By, v.Comment, change, micros(v.Time), int64(a.Sequence))
		return err
	})
	if err != nil {
		return alert.Alert{}, err
	}
	return a, nil
}

const selectSuppression = `SELECT id, type, device, indicator, reason, author, created, expires FROM alert_suppressions `

func scanSuppression(r *sql.Rows) (p alert.Suppression, err error) {
	err = r.Scan(&p.ID, &p.Type, &p.Device, &p.Indicator, &p.Reason, &p.By, stamp{&p.Created}, stamp{&p.Expires})
	return p, err
}

// Suppress implements [alert.Store].
func (s *Store) Suppress(ctx context.Context, p alert.Suppression) (hidden int, err error) {
	err = s.write(ctx, func(ctx context.Context, c Conn) error {
		if err := s.inAlerts(ctx, c, "create suppression"); err != nil { // an alert that is raised meanwhile must see it, or be seen
			return err
		}
		n, err := one(ctx, s, c, "count suppressions", scanInt, `SELECT COUNT(*) FROM alert_suppressions`)
		if err != nil {
			return err
		}
		if n >= alert.MaxSuppressions {
			return fault.New(fault.QuotaExceeded, "there are %d suppressions already; delete some", alert.MaxSuppressions)
		}
		made, err := s.exec(ctx, c, "create suppression", `INSERT INTO alert_suppressions (id, type, device, indicator, reason, author, created, expires)
			VALUES ($1, $2, $3, $4, $5, $6, $7, $8) ON CONFLICT DO NOTHING`,
			p.ID, p.Type, p.Device, p.Indicator, p.Reason, p.By, micros(p.Created), micros(p.Expires))
		if err != nil {
			return err
		}
		if made == 0 {
			return fault.New(fault.AlreadyExists, "suppression %s exists already", p.ID)
		}
		change, err := s.nextAlertChange(ctx, c)
		if err != nil {
			return err
		}
		q := &selection{}
		set := `UPDATE alerts SET status = 'suppressed', change = ` + q.arg(change) + `, changed = ` + q.arg(micros(p.Created)) + `, status_time = ` + q.arg(micros(p.Created)) + `, status_by = ` + q.arg(p.By) + `, comment = ` + q.arg(p.Reason) +
			`, suppression = ` + q.arg(p.ID) + `, until = ` + q.arg(micros(p.Expires)) + ` WHERE status = 'open'`
		for _, m := range []struct{ column, value string }{{"type", p.Type}, {"device", p.Device}, {"indicator", p.Indicator}} {
			if m.value != "" {
				set += " AND " + m.column + " = " + q.arg(m.value)
			}
		}
		n, err = s.exec(ctx, c, "hold back alerts", set, q.args...)
		hidden = int(n)
		return err
	})
	return hidden, err
}

// Suppressions implements [alert.Store].
func (s *Store) Suppressions(ctx context.Context, now time.Time) ([]alert.Suppression, error) {
	return list(ctx, s, s.b.Reader, "list suppressions", scanSuppression, selectSuppression+`WHERE expires > $1 ORDER BY expires, id`, micros(now))
}

// showAlerts opens those that a condition finds, whose parameters begin at $4.
func (s *Store) showAlerts(ctx context.Context, c Conn, now time.Time, condition string, args ...any) (int, error) {
	change, err := s.nextAlertChange(ctx, c)
	if err != nil {
		return 0, err
	}
	n, err := s.exec(ctx, c, "show alerts", `UPDATE alerts SET status = 'open', status_time = $1, change = $2, changed = $3, status_by = '', comment = '', suppression = '', until = 0
		WHERE status = 'suppressed' AND suppression <> '' AND `+condition, append([]any{micros(now), change, micros(now)}, args...)...)
	return int(n), err
}

// Unsuppress implements [alert.Store].
func (s *Store) Unsuppress(ctx context.Context, id string, now time.Time) (shown int, err error) {
	err = s.write(ctx, func(ctx context.Context, c Conn) error {
		if err := s.inAlerts(ctx, c, "delete suppression"); err != nil {
			return err
		}
		n, err := s.exec(ctx, c, "delete suppression", `DELETE FROM alert_suppressions WHERE id = $1`, id)
		if err != nil {
			return err
		}
		if n == 0 {
			return fault.New(fault.NotFound, "suppression %s does not exist", id)
		}
		shown, err = s.showAlerts(ctx, c, now, `suppression = $4`, id)
		return err
	})
	return shown, err
}

// Wake implements [alert.Store].
func (s *Store) Wake(ctx context.Context, now time.Time) (shown int, err error) {
	over, err := one(ctx, s, s.b.Reader, "read suppressions", scanInt,
		`SELECT (SELECT COUNT(*) FROM alert_suppressions WHERE expires <= $1) + (SELECT COUNT(*) FROM alerts WHERE suppression <> '' AND until <= $2)`, micros(now), micros(now))
	if err != nil || over == 0 {
		return 0, err
	}
	err = s.write(ctx, func(ctx context.Context, c Conn) error {
		if err := s.inAlerts(ctx, c, "delete suppressions"); err != nil {
			return err
		}
		if _, err := s.exec(ctx, c, "delete suppressions", `DELETE FROM alert_suppressions WHERE expires <= $1`, micros(now)); err != nil {
			return err
		}
		shown, err = s.showAlerts(ctx, c, now, `until <= $4`, micros(now))
		return err
	})
	return shown, err
}
