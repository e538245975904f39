package sqlstore

import (
	"context"
	"database/sql"
	"errors"
	"strings"

	"github.com/vauban-iot/vauban/defender/alert"
)

var _ alert.AggregateStore = (*Store)(nil)

// gravest is the greatest severity of a group as a number, which severityOf reads back.
const gravest = `MAX(CASE severity WHEN 'High' THEN 3 WHEN 'Medium' THEN 2 WHEN 'Low' THEN 1 ELSE 0 END)`

var severities = []alert.Severity{alert.Informational, alert.Low, alert.Medium, alert.High}

// severityOf scans gravest.
type severityOf struct{ s *alert.Severity }

func (v severityOf) Scan(x any) error {
	n, ok := x.(int64)
	if !ok || n < 0 || n >= int64(len(severities)) {
		return errors.New("a severity is not one of those counted")
	}
	*v.s = severities[n]
	return nil
}

// sum writes a sum that is one integer on both databases.
func sum(expression string) string { return `CAST(COALESCE(SUM(` + expression + `), 0) AS BIGINT)` }

// when is 1 where a condition holds.
func when(condition string) string { return `CASE WHEN ` + condition + ` THEN 1 ELSE 0 END` }

var selectAggregates = `SELECT type, day, ` + gravest + `, ` + sum(`count`) + `, ` + sum(when(`status = 'open'`)) + `, ` + sum(when(`device <> ''`)) + `,
	(SELECT COUNT(*) FROM alert_dismissals AS d WHERE d.type = alerts.type AND d.day = alerts.day) FROM alerts `

func scanAggregate(r *sql.Rows) (a alert.Aggregate, err error) {
	var ofDevices, dismissed int64
	err = r.Scan(&a.Type, &a.Day, severityOf{&a.Severity}, &a.Count, &a.Open, &ofDevices, &dismissed)
	a.OfDevices, a.Dismissed = ofDevices > 0, dismissed > 0
	return a, err
}

// Aggregates implements [alert.AggregateStore].
func (s *Store) Aggregates(ctx context.Context, after alert.AggregateKey, limit int) ([]alert.Aggregate, error) {
	q := &selection{}
	where := ""
	if after != (alert.AggregateKey{}) {
		where = `WHERE day < ` + q.arg(after.Day) + ` OR day = ` + q.arg(after.Day) + ` AND type > ` + q.arg(after.Type)
	}
	all, err := list(ctx, s, s.b.Reader, "sum up alerts", scanAggregate, selectAggregates+where+` GROUP BY day, type HAVING `+sum(when(`status = 'open'`))+` > 0
		ORDER BY day DESC, type LIMIT `+q.arg(pageLimit(limit)), q.args...)
	if err != nil {
		return nil, err
	}
	return all, s.topDevices(ctx, all)
}

// topDevices fills in the devices of aggregates.
func (s *Store) topDevices(ctx context.Context, into []alert.Aggregate) error {
	all, places := into, make(map[alert.AggregateKey]int, len(into))
	for i, a := range into {
		places[alert.AggregateKey{Day: a.Day, Type: a.Type}] = i
	}
	const most = 200 // aggregates of one statement
	for ; len(all) > 0; all = all[min(most, len(all)):] {
		q := &selection{}
		var of []string
		for _, a := range all[:min(most, len(all))] {
			of = append(of, `(day = `+q.arg(a.Day)+` AND type = `+q.arg(a.Type)+`)`)
		}
		type row struct {
			alert.AggregateKey
			alert.DeviceCount
		}
		rows, err := list(ctx, s, s.b.Reader, "sum up alerts by device", func(r *sql.Rows) (v row, err error) {
			err = r.Scan(&v.Day, &v.Type, &v.Device, &v.Count, stamp{&v.Last})
			return v, err
		}, `SELECT day, type, device, n, last FROM (SELECT day, type, device, `+sum(`count`)+` AS n, MAX(last_seen) AS last,
				ROW_NUMBER() OVER (PARTITION BY day, type ORDER BY SUM(count) DESC, device) AS place
			FROM alerts WHERE device <> '' AND (`+strings.Join(of, ` OR `)+`) GROUP BY day, type, device) AS ranked
			WHERE place <= `+q.arg(alert.MaxTopDevices)+` ORDER BY day, type, place`, q.args...)
		if err != nil {
			return err
		}
		for _, v := range rows {
			if i, ok := places[v.AggregateKey]; ok {
				into[i].Devices = append(into[i].Devices, v.DeviceCount)
			}
		}
	}
	return nil
}

// Aggregate implements [alert.AggregateStore].
func (s *Store) Aggregate(ctx context.Context, k alert.AggregateKey) (alert.Aggregate, error) {
	a, err := one(ctx, s, s.b.Reader, "sum up alerts", scanAggregate, selectAggregates+`WHERE day = $1 AND type = $2 GROUP BY day, type`, k.Day, k.Type)
	if err != nil {
		return alert.Aggregate{}, notFound(err, "alert", k.Type+" of "+k.Day)
	}
	all := []alert.Aggregate{a}
	err = s.topDevices(ctx, all)
	return all[0], err
}

// DismissAggregate implements [alert.AggregateStore].
func (s *Store) DismissAggregate(ctx context.Context, k alert.AggregateKey, v alert.Verdict) (dismissed int, err error) {
	err = s.write(ctx, func(ctx context.Context, c Conn) error {
		if err := s.inAlerts(ctx, c, "dismiss alerts"); err != nil { // an alert that is raised meanwhile must see it, or be seen
			return err
		}
		n, err := one(ctx, s, c, "count alerts", scanInt, `SELECT COUNT(*) FROM alerts WHERE day = $1 AND type = $2`, k.Day, k.Type)
		if err != nil {
			return err
		}
		if n == 0 {
			return notFound(errNoRow, "alert", k.Type+" of "+k.Day)
		}
		if _, err := s.exec(ctx, c, "dismiss alerts", `INSERT INTO alert_dismissals (type, day, author, time) VALUES ($1, $2, $3, $4) ON CONFLICT DO NOTHING`,
			k.Type, k.Day, v.By, micros(v.Time)); err != nil {
			return err
		}
		change, err := s.nextAlertChange(ctx, c)
		if err != nil {
			return err
		}
		n, err = s.exec(ctx, c, "dismiss alerts", `UPDATE alerts SET status = 'dismissed', status_time = $1, status_by = $2, comment = $3, suppression = '', until = 0,
			change = $4, changed = $5 WHERE day = $6 AND type = $7 AND status <> 'dismissed'`, micros(v.Time), v.By, v.Comment, change, micros(v.Time), k.Day, k.Type)
		dismissed = int(n)
		return err
	})
	return dismissed, err
}

// dismissal is what stands about the type and day of an alert; ok is false when nobody dismissed them.
func (s *Store) dismissal(ctx context.Context, c Conn, a *alert.Alert) (v alert.Verdict, ok bool, err error) {
	v, err = one(ctx, s, c, "read dismissal", func(r *sql.Rows) (v alert.Verdict, err error) {
		err = r.Scan(&v.By, stamp{&v.Time})
		return v, err
	}, `SELECT author, time FROM alert_dismissals WHERE type = $1 AND day = $2`, a.Type, a.Day)
	if errors.Is(err, errNoRow) {
		return v, false, nil
	}
	return v, err == nil, err
}

// AlertAnalytics implements [alert.AggregateStore].
func (s *Store) AlertAnalytics(ctx context.Context, since string, top int) (a alert.Analytics, err error) {
	bySeverity := sum(when(`severity = 'High'`)) + `, ` + sum(when(`severity = 'Medium'`)) + `, ` + sum(when(`severity = 'Low'`))
	if a.Total, err = one(ctx, s, s.b.Reader, "sum up alerts", func(r *sql.Rows) (v alert.SeverityCount, err error) {
		err = r.Scan(&v.High, &v.Medium, &v.Low)
		return v, err
	}, `SELECT `+bySeverity+` FROM alerts WHERE status = 'open'`); err != nil {
		return alert.Analytics{}, err
	}
	const ofDevices = ` FROM alerts WHERE status = 'open' AND device <> ''`
	if a.Days, err = list(ctx, s, s.b.Reader, "sum up alerts by day", func(r *sql.Rows) (v alert.DayCount, err error) {
		err = r.Scan(&v.Day, &v.High, &v.Medium, &v.Low)
		return v, err
	}, `SELECT day, `+bySeverity+ofDevices+` AND day >= $1 GROUP BY day ORDER BY day`, since); err != nil {
		return alert.Analytics{}, err
	}
	if a.Devices, err = list(ctx, s, s.b.Reader, "sum up alerts by device", func(r *sql.Rows) (v alert.DeviceCount, err error) {
		err = r.Scan(&v.Device, &v.Count, stamp{&v.Last})
		return v, err
	}, `SELECT device, COUNT(*), MAX(last_seen)`+ofDevices+` GROUP BY device ORDER BY COUNT(*) DESC, device LIMIT $1`, top); err != nil {
		return alert.Analytics{}, err
	}
	if a.Types, err = list(ctx, s, s.b.Reader, "sum up alerts by type", func(r *sql.Rows) (v alert.TypeCount, err error) {
		err = r.Scan(&v.Type, severityOf{&v.Severity}, &v.Count)
		return v, err
	}, `SELECT type, `+gravest+`, COUNT(*)`+ofDevices+` GROUP BY type ORDER BY COUNT(*) DESC, type LIMIT $1`, top); err != nil {
		return alert.Analytics{}, err
	}
	return a, nil
}
