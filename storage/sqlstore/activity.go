package sqlstore

import (
	"context"
	"database/sql"
	"encoding/json"
	"strings"

	"github.com/vauban-iot/vauban/defender/group"
	"github.com/vauban-iot/vauban/defender/window"
	"github.com/vauban-iot/vauban/hub/activity"
	"github.com/vauban-iot/vauban/hub/query"
)

// AddActivity implements [window.Store].
func (s *Store) AddActivity(ctx context.Context, counts []activity.Count) error {
	const columns = 4
	const chunk = 5000 // rows of one transaction, so that others get their turn
	for len(counts) > 0 {
		now := counts[:min(chunk, len(counts))]
		counts = counts[len(now):]
		// Peaks and sums grow by different statements.
		args := map[bool][]any{}
		for _, c := range now {
			args[c.Kind.Peak()] = append(args[c.Kind.Peak()], c.Kind.String(), c.Minute, c.Device, c.N)
		}
		err := s.write(ctx, func(ctx context.Context, c Conn) error {
			for peak, args := range args {
				grow := `security_activity.count + excluded.count`
				if peak {
					grow = `CASE WHEN excluded.count > security_activity.count THEN excluded.count ELSE security_activity.count END`
				}
				if err := s.chunks(len(args)/columns, rowsWrite, func(from, to int) error {
					_, err := s.exec(ctx, c, "keep activity", `INSERT INTO security_activity (kind, minute, device, count) VALUES `+tuples(to-from, columns)+
						` ON CONFLICT (kind, minute, device) DO UPDATE SET count = `+grow, args[from*columns:to*columns]...)
					return err
				}); err != nil {
					return err
				}
			}
			return nil
		})
		if err != nil {
			return err
		}
	}
	return nil
}

// Activity implements [window.Store].
func (s *Store) Activity(ctx context.Context, k activity.Kind, from, to int64, atLeast int) ([]window.Sum, error) {
	how := "SUM"
	if k.Peak() {
		how = "MAX"
	}
	return list(ctx, s, s.b.Reader, "read activity", func(r *sql.Rows) (v window.Sum, err error) {
		err = r.Scan(&v.Device, &v.N)
		return v, err
	}, `SELECT device, CAST(`+how+`(count) AS BIGINT) FROM security_activity WHERE kind = $1 AND minute >= $2 AND minute < $3
		GROUP BY device HAVING `+how+`(count) >= $4 ORDER BY device`, k.String(), from, to, atLeast)
}

// ForgetActivity implements [window.Store].
func (s *Store) ForgetActivity(ctx context.Context, before int64) error {
	return s.write(ctx, func(ctx context.Context, c Conn) error {
		_, err := s.exec(ctx, c, "forget activity", `DELETE FROM security_activity WHERE minute < $1`, before)
		return err
	})
}

// groupTag is the tag that says a device's group (defender §2.3).
const groupTag = "SecurityGroup"

// SecurityGroups implements [window.Store].
func (s *Store) SecurityGroups(ctx context.Context, devices []string) (map[string]string, error) {
	all := make(map[string]string)
	err := s.chunks(len(devices), rowsRead, func(from, to int) error {
		n := to - from
		rows, err := list(ctx, s, s.b.Reader, "read security groups", func(r *sql.Rows) (v [2]string, err error) {
			err = r.Scan(&v[0], &v[1])
			return v, err
		}, `SELECT device, value FROM tag_values WHERE device `+among(n)+` AND module = '' AND path = '`+groupTag+`'`, texts(devices[from:to])...)
		for _, r := range rows {
			if !strings.HasPrefix(r[1], `"`) {
				continue // a number or its like names no group
			}
			name, ok := query.JSON(r[1]).Str()
			if !ok {
				name = r[1] // cut: longer than any group's name
			}
			all[r[0]] = name
		}
		return err
	})
	return all, err
}

// GroupSizes lists the security groups that devices name in their tag, at most limit, the largest first, and how many devices name none: they are
// in the default one.
func (s *Store) GroupSizes(ctx context.Context, limit int) (sizes []group.Size, untagged int, err error) {
	const tagged = `FROM tag_values WHERE path = '` + groupTag + `' AND module = '' AND value LIKE '"%'`
	sizes, err = list(ctx, s, s.b.Reader, "count members of security groups", func(r *sql.Rows) (v group.Size, err error) {
		var value string
		err = r.Scan(&value, &v.Devices)
		var ok bool
		if v.Name, ok = query.JSON(value).Str(); !ok {
			v.Name = value // cut: longer than any group's name
		}
		return v, err
	}, `SELECT value, COUNT(*) AS n `+tagged+` GROUP BY value ORDER BY n DESC, value LIMIT $1`, limit)
	if err != nil {
		return nil, 0, err
	}
	n, err := one(ctx, s, s.b.Reader, "count devices without a security group", scanInt,
		`SELECT (SELECT COUNT(*) FROM identities WHERE module = '') - (SELECT COUNT(*) `+tagged+`)`)
	return sizes, int(n), err
}

// GroupMembers implements [window.Store].
func (s *Store) GroupMembers(ctx context.Context, group string, byDefault bool, after string, limit int) ([]string, error) {
	q := &selection{}
	quoted, err := json.Marshal(group)
	if err != nil {
		return nil, err
	}
	key := query.JSON(string(quoted)).Key()
	member := `EXISTS (SELECT 1 FROM tag_values t WHERE t.device = i.device AND t.module = '' AND t.path = '` + groupTag + `' AND t.value = ` + q.arg(key) + `)`
	if byDefault { // and those whose tag names none: it is absent, or no text
		member = `(` + member + ` OR NOT EXISTS (SELECT 1 FROM tag_values t WHERE t.device = i.device AND t.module = '' AND t.path = '` + groupTag + `' AND t.value LIKE '"%'))`
	}
	where := []string{"i.module = ''", "i.status = 'enabled'", "i.device > " + q.arg(after), member}
	return list(ctx, s, s.b.Reader, "list members of a security group", func(r *sql.Rows) (v string, err error) {
		err = r.Scan(&v)
		return v, err
	}, `SELECT i.device FROM identities i WHERE `+strings.Join(where, " AND ")+` ORDER BY i.device LIMIT `+q.arg(limit), q.args...)
}
