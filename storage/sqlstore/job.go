package sqlstore

import (
	"context"
	"database/sql"
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/vauban-iot/vauban/fault"
	"github.com/vauban-iot/vauban/hub/fleet/job"
	"github.com/vauban-iot/vauban/iot"
)

const selectJob = `SELECT sequence, id, type, status, condition, method, patch, failure, created, start, began, ended, max_time, listed FROM jobs `

func scanJob(r *sql.Rows) (j job.Job, err error) {
	err = r.Scan(&j.Sequence, &j.ID, &j.Type, &j.Status, &j.Condition, (*[]byte)(&j.Method), (*[]byte)(&j.Update), &j.Failure,
		stamp{&j.Created}, stamp{&j.Start}, stamp{&j.Began}, stamp{&j.End}, (*int64)(&j.MaxTime), &j.Listed)
	j.Method, j.Update = orNil(j.Method), orNil(j.Update)
	return j, err
}

// orNil undoes storing no text as an empty one.
func orNil(text json.RawMessage) json.RawMessage {
	if len(text) == 0 {
		return nil
	}
	return text
}

const unfinished = `status IN ('scheduled', 'queued', 'running')`

// CreateJob implements [job.Store].
func (s *Store) CreateJob(ctx context.Context, j job.Job, limit int) error {
	return s.write(ctx, func(ctx context.Context, c Conn) error {
		if s.b.Serialize != nil {
			if err := s.b.Serialize(ctx, c, "jobs"); err != nil {
				return s.fail("count jobs", err)
			}
		}
		n, err := one(ctx, s, c, "count jobs", scanInt, `SELECT COUNT(*) FROM jobs WHERE `+unfinished)
		if err != nil {
			return err
		}
		if n >= int64(limit) {
			return fault.New(fault.QueueFull, "%d jobs are unfinished, no more are allowed", n)
		}
		n, err = s.exec(ctx, c, "create job", `INSERT INTO jobs (id, type, status, condition, method, patch, failure, created, start, began, ended, max_time, listed)
			VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13) ON CONFLICT DO NOTHING`,
			j.ID, string(j.Type), string(j.Status), j.Condition, string(j.Method), string(j.Update), j.Failure,
			micros(j.Created), micros(j.Start), micros(j.Began), micros(j.End), int64(j.MaxTime), j.Listed)
		if err == nil && n == 0 {
			return fault.New(fault.AlreadyExists, "job %s exists already", j.ID)
		}
		return err
	})
}

func (s *Store) job(ctx context.Context, c Conn, id, query string) (job.Job, error) {
	j, err := one(ctx, s, c, "read job", scanJob, query, id)
	return j, notFound(err, "job", id)
}

// Job implements [job.Store].
func (s *Store) Job(ctx context.Context, id string) (job.Job, error) {
	return s.job(ctx, s.b.Reader, id, selectJob+`WHERE id = $1`)
}

// JobStatistics implements [job.Store].
func (s *Store) JobStatistics(ctx context.Context, ids []string) (map[string]job.Statistics, error) {
	all := make(map[string]job.Statistics, len(ids))
	for _, id := range ids {
		st, err := one(ctx, s, s.b.Reader, "count rows of a job", func(r *sql.Rows) (st job.Statistics, err error) {
			err = r.Scan(&st.Devices, &st.Failed, &st.Succeeded, &st.Running, &st.Pending)
			return st, err
		}, `SELECT COUNT(*), COUNT(*) FILTER (WHERE status = 'failed'), COUNT(*) FILTER (WHERE status = 'completed'),
			COUNT(*) FILTER (WHERE status = 'running'), COUNT(*) FILTER (WHERE status = 'pending') FROM job_rows WHERE job = $1`, id)
		if err != nil {
			return nil, err
		}
		all[id] = st
	}
	return all, nil
}

// UpdateJob implements [job.Store]. ID, type, condition and what the job does are not written.
func (s *Store) UpdateJob(ctx context.Context, id string, rest *job.Row, change func(job.Job) (job.Job, error)) (job.Job, error) {
	var next job.Job
	err := s.write(ctx, func(ctx context.Context, c Conn) error {
		now, err := s.job(ctx, c, id, s.lock(selectJob+`WHERE id = $1`))
		if err != nil {
			return err
		}
		if next, err = change(now); err != nil {
			return err
		}
		next.Start, next.Began, next.End = stored(next.Start), stored(next.Began), stored(next.End)
		if _, err := s.exec(ctx, c, "update job", `UPDATE jobs SET status = $1, failure = $2, start = $3, began = $4, ended = $5, listed = $6 WHERE id = $7`,
			string(next.Status), next.Failure, micros(next.Start), micros(next.Began), micros(next.End), next.Listed, id); err != nil || rest == nil {
			return err
		}
		if err := s.tellRows(ctx, c, rest, `WHERE job = $1 AND status = 'pending' ORDER BY device, module`, id); err != nil {
			return err
		}
		_, err = s.exec(ctx, c, "close rows of a job", `UPDATE job_rows SET status = $1, ended = $2, updated = $3, code = $4, reason = $5
			WHERE job = $6 AND status = 'pending'`,
			string(rest.Status), micros(rest.End), micros(rest.Updated), rest.Code, rest.Reason, id)
		return err
	})
	if err != nil {
		return job.Job{}, err
	}
	return next, nil
}

// tellRows keeps what rest tells of the rows that a condition finds and that become like it.
func (s *Store) tellRows(ctx context.Context, c Conn, rest *job.Row, where string, args ...any) error {
	if rest.Tell == nil {
		return nil
	}
	rows, err := list(ctx, s, c, "list rows of a job", scanJobRow, s.lock(selectRow+where), args...)
	if err != nil {
		return err
	}
	for _, r := range rows {
		r.Status, r.End, r.Updated, r.Code, r.Reason = rest.Status, rest.End, rest.Updated, rest.Code, rest.Reason
		if err := s.tell(ctx, c, rest.Tell(r)); err != nil {
			return err
		}
	}
	return nil
}

// Jobs implements [job.Store].
func (s *Store) Jobs(ctx context.Context, f job.Filter) ([]job.Job, error) {
	q := &selection{}
	q.where = append(q.where, "sequence > "+q.arg(f.After))
	if f.Type != "" {
		q.where = append(q.where, "type = "+q.arg(string(f.Type)))
	}
	if f.Status != "" {
		q.where = append(q.where, "status = "+q.arg(string(f.Status)))
	}
	if !f.Due.IsZero() {
		q.where = append(q.where, unfinished, "start <= "+q.arg(micros(f.Due)))
	}
	return list(ctx, s, s.b.Reader, "list jobs", scanJob,
		selectJob+"WHERE "+strings.Join(q.where, " AND ")+" ORDER BY sequence LIMIT "+q.arg(f.Limit), q.args...)
}

// AddRows implements [job.Store].
func (s *Store) AddRows(ctx context.Context, j job.Job, ids []iot.ID, now time.Time) error {
	return s.write(ctx, func(ctx context.Context, c Conn) error {
		for _, id := range ids {
			if _, err := s.exec(ctx, c, "add row of a job", `INSERT INTO job_rows (job, device, module, type, status, created, start, ended, updated, result, code, reason)
				VALUES ($1, $2, $3, $4, 'pending', $5, 0, 0, $5, '', '', '') ON CONFLICT DO NOTHING`,
				j.ID, id.Device, id.Module, string(j.Type), micros(now)); err != nil {
				return err
			}
		}
		return nil
	})
}

const selectRow = `SELECT job, device, module, type, status, created, start, ended, updated, result, code, reason FROM job_rows `

func scanJobRow(r *sql.Rows) (v job.Row, err error) {
	err = r.Scan(&v.Job, &v.ID.Device, &v.ID.Module, &v.Type, &v.Status, stamp{&v.Created}, stamp{&v.Start}, stamp{&v.End}, stamp{&v.Updated},
		(*[]byte)(&v.Result), &v.Code, &v.Reason)
	v.Result = orNil(v.Result)
	return v, err
}

// PendingRows implements [job.Store].
func (s *Store) PendingRows(ctx context.Context, id string, after iot.ID, limit int) ([]job.Row, error) {
	return list(ctx, s, s.b.Reader, "read rows of a job", scanJobRow,
		selectRow+`WHERE job = $1 AND status = 'pending' AND (device, module) > ($2, $3) ORDER BY device, module LIMIT $4`,
		id, after.Device, after.Module, limit)
}

// SaveRows implements [job.Store].
func (s *Store) SaveRows(ctx context.Context, rows []job.Row) error {
	// In one order, so that two servers cannot wait for each other.
	rows = slices.Clone(rows)
	slices.SortFunc(rows, func(a, b job.Row) int {
		return strings.Compare(a.Job+"\x00"+a.ID.Device+"\x00"+a.ID.Module, b.Job+"\x00"+b.ID.Device+"\x00"+b.ID.Module)
	})
	return s.write(ctx, func(ctx context.Context, c Conn) error {
		for _, r := range rows {
			if _, err := s.exec(ctx, c, "save row of a job", `UPDATE job_rows SET status = $1, start = $2, ended = $3, updated = $4, result = $5, code = $6, reason = $7
				WHERE job = $8 AND device = $9 AND module = $10`,
				string(r.Status), micros(r.Start), micros(r.End), micros(r.Updated), string(r.Result), r.Code, r.Reason,
				r.Job, r.ID.Device, r.ID.Module); err != nil {
				return err
			}
			if r.Tell != nil {
				if err := s.tell(ctx, c, r.Tell(r)); err != nil {
					return err
				}
			}
		}
		return nil
	})
}

// AbortRows implements [job.Store].
func (s *Store) AbortRows(ctx context.Context, rest job.Row) error {
	return s.write(ctx, func(ctx context.Context, c Conn) error {
		if err := s.tellRows(ctx, c, &rest, `WHERE status = 'running' ORDER BY job, device, module`); err != nil {
			return err
		}
		_, err := s.exec(ctx, c, "abort rows of jobs", `UPDATE job_rows SET status = $1, ended = $2, updated = $3, code = $4, reason = $5 WHERE status = 'running'`,
			string(rest.Status), micros(rest.End), micros(rest.Updated), rest.Code, rest.Reason)
		return err
	})
}

// ForgetJobs implements [job.Store].
func (s *Store) ForgetJobs(ctx context.Context, before time.Time) error {
	return s.write(ctx, func(ctx context.Context, c Conn) error {
		_, err := s.exec(ctx, c, "forget jobs", `DELETE FROM jobs WHERE NOT (`+unfinished+`) AND ended < $1`, micros(before))
		return err
	})
}

// ScanRows implements [job.Rows].
func (s *Store) ScanRows(ctx context.Context, f job.Scan, visit func(*job.Row) error) error {
	for chunk := firstChunk; ; chunk = min(4*chunk, lastChunk) {
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		q := &selection{}
		q.where = append(q.where, fmt.Sprintf("(job, device, module) > (%s, %s, %s)", q.arg(f.AfterJob), q.arg(f.After.Device), q.arg(f.After.Module)))
		if f.Job != "" {
			q.where = append(q.where, "job = "+q.arg(f.Job))
		}
		if f.Device != "" {
			q.where = append(q.where, "device = "+q.arg(f.Device))
		}
		rows, err := list(ctx, s, s.b.Reader, "query rows of jobs", scanJobRow,
			selectRow+"WHERE "+strings.Join(q.where, " AND ")+" ORDER BY job, device, module LIMIT "+q.arg(chunk), q.args...)
		if err != nil {
			if ctx.Err() != nil {
				return context.Cause(ctx)
			}
			return err
		}
		for i := range rows {
			if err := visit(&rows[i]); err != nil {
				return err
			}
		}
		if len(rows) < chunk {
			return nil
		}
		last := rows[len(rows)-1]
		f.AfterJob, f.After = last.Job, last.ID
	}
}
