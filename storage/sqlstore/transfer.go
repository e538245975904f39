package sqlstore

import (
	"context"
	"database/sql"
	"encoding/json"
	"fmt"
	"time"

	"github.com/vauban-iot/vauban/hub/transfer"
)

var _ transfer.Store = (*Store)(nil)

const (
	transferRequest = "transfer-request" // the purpose that seals requests of jobs
	selectTransfer  = `SELECT sequence, id, request, status, progress, failure, created, began, ended FROM transfers `
	openTransfers   = `status IN ('enqueued', 'running')`
)

func (s *Store) scanTransfer(r *sql.Rows) (j transfer.Job, err error) {
	var sealed []byte
	err = r.Scan(&j.Sequence, &j.ID, &sealed, &j.Status, &j.Progress, &j.Failure, stamp{&j.Created}, stamp{&j.Began}, stamp{&j.End})
	if err != nil {
		return j, err
	}
	text, err := s.open(transferRequest, j.ID, sealed)
	if err != nil {
		return j, err
	}
	if err := json.Unmarshal(text, &j.Request); err != nil {
		return j, fmt.Errorf("store: the request of job %s is damaged: %w", j.ID, err)
	}
	return j, nil
}

// CreateTransfer implements [transfer.Store].
func (s *Store) CreateTransfer(ctx context.Context, j transfer.Job) (transfer.Job, error) {
	text, err := json.Marshal(j.Request)
	if err != nil {
		return transfer.Job{}, err
	}
	j.Created, j.Began, j.End = stored(j.Created), stored(j.Began), stored(j.End)
	err = s.write(ctx, func(ctx context.Context, c Conn) error {
		if s.b.Serialize != nil {
			if err := s.b.Serialize(ctx, c, "transfers"); err != nil {
				return s.fail("count imports and exports", err)
			}
		}
		n, err := one(ctx, s, c, "count imports and exports", scanInt, `SELECT COUNT(*) FROM transfers WHERE `+openTransfers)
		if err != nil {
			return err
		}
		if n > 0 {
			return transfer.ErrBusy
		}
		j.Sequence, err = one(ctx, s, c, "create import or export", scanInt, `INSERT INTO transfers (id, request, status, progress, failure, created, began, ended)
			VALUES ($1, $2, $3, $4, $5, $6, $7, $8) RETURNING sequence`,
			j.ID, s.seal(transferRequest, j.ID, text), string(j.Status), j.Progress, j.Failure, micros(j.Created), micros(j.Began), micros(j.End))
		return err
	})
	if err != nil {
		return transfer.Job{}, err
	}
	return j, nil
}

func (s *Store) transfer(ctx context.Context, c Conn, id, query string) (transfer.Job, error) {
	j, err := one(ctx, s, c, "read import or export", s.scanTransfer, query, id)
	return j, notFound(err, "job", id)
}

// Transfer implements [transfer.Store].
func (s *Store) Transfer(ctx context.Context, id string) (transfer.Job, error) {
	return s.transfer(ctx, s.b.Reader, id, selectTransfer+`WHERE id = $1`)
}

// Transfers implements [transfer.Store].
func (s *Store) Transfers(ctx context.Context, unfinished bool) ([]transfer.Job, error) {
	query := selectTransfer
	if unfinished {
		query += `WHERE ` + openTransfers
	}
	return list(ctx, s, s.b.Reader, "list imports and exports", s.scanTransfer, query+` ORDER BY sequence DESC`)
}

// UpdateTransfer implements [transfer.Store].
func (s *Store) UpdateTransfer(ctx context.Context, id string, change func(transfer.Job) (transfer.Job, error)) (transfer.Job, error) {
	var next transfer.Job
	err := s.write(ctx, func(ctx context.Context, c Conn) error {
		now, err := s.transfer(ctx, c, id, s.lock(selectTransfer+`WHERE id = $1`))
		if err != nil {
			return err
		}
		if next, err = change(now); err != nil {
			return err
		}
		next.Sequence, next.ID, next.Request, next.Created = now.Sequence, now.ID, now.Request, now.Created
		next.Began, next.End = stored(next.Began), stored(next.End)
		_, err = s.exec(ctx, c, "update import or export", `UPDATE transfers SET status = $1, progress = $2, failure = $3, began = $4, ended = $5 WHERE id = $6`,
			string(next.Status), next.Progress, next.Failure, micros(next.Began), micros(next.End), id)
		return err
	})
	if err != nil {
		return transfer.Job{}, err
	}
	return next, nil
}

// ForgetTransfers implements [transfer.Store].
func (s *Store) ForgetTransfers(ctx context.Context, before time.Time) error {
	return s.write(ctx, func(ctx context.Context, c Conn) error {
		_, err := s.exec(ctx, c, "forget imports and exports", `DELETE FROM transfers WHERE ended <> 0 AND ended < $1`, micros(before))
		return err
	})
}
