package sqlstore

import (
	"context"
	"database/sql"
	"encoding/json"
	"time"

	"github.com/vauban-iot/vauban/fault"
	"github.com/vauban-iot/vauban/hub/notice"
	"github.com/vauban-iot/vauban/iot"
)

// notify queues a notice. One that has an owner goes when its owner does.
func (s *Store) notify(ctx context.Context, c Conn, q notice.Queue, owner *iot.ID, doc json.RawMessage, now, expires time.Time) error {
	var device, module any
	if owner != nil {
		device, module = owner.Device, owner.Module
	}
	_, err := s.exec(ctx, c, "queue notice", `INSERT INTO notices (queue, device, module, document, enqueued, expires,
		lock_token, locked_until, delivery_count) VALUES ($1, $2, $3, $4, $5, $6, '', 0, 0)`,
		string(q), device, module, string(doc), micros(now), micros(expires))
	return err
}

type lockedNotice struct {
	notice.Notice
	sequence   int64
	deliveries int
}

// LockNotices implements [notice.Store].
func (s *Store) LockNotices(ctx context.Context, q notice.Queue, n int, now, until time.Time) (notice.Batch, error) {
	var b notice.Batch
	err := s.write(ctx, func(ctx context.Context, c Conn) error {
		b = notice.Batch{}
		// Readers follow each other: where rows are locked and not skipped, the second waits and
		// finds the rows of the first gone from what it asked for.
		if s.b.Serialize != nil {
			if err := s.b.Serialize(ctx, c, "notices "+string(q)); err != nil {
				return s.fail("wait for the queue", err)
			}
		}
		all, err := list(ctx, s, c, "read notices", func(r *sql.Rows) (l lockedNotice, err error) {
			var doc string
			err = r.Scan(&l.sequence, &doc, stamp{&l.Enqueued}, &l.deliveries)
			l.Document = json.RawMessage(doc)
			return l, err
		}, s.lock(`SELECT sequence, document, enqueued, delivery_count FROM notices
			WHERE queue = $1 AND locked_until <= $2 AND expires > $2 ORDER BY sequence LIMIT $3`), string(q), micros(now), n)
		if err != nil || len(all) == 0 {
			return err
		}
		b.LockToken, b.DeliveryCount = newToken(), all[0].deliveries
		for _, l := range all {
			b.Notices = append(b.Notices, l.Notice)
			if _, err := s.exec(ctx, c, "lock notice", `UPDATE notices SET lock_token = $1, locked_until = $2 WHERE sequence = $3`,
				b.LockToken, micros(until), l.sequence); err != nil {
				return err
			}
		}
		return nil
	})
	return b, err
}

// SettleNotices implements [notice.Store].
func (s *Store) SettleNotices(ctx context.Context, q notice.Queue, lockToken string, how iot.Settlement, maxDelivery int) error {
	lost := fault.New(fault.LockLost, "the lock of the message is lost")
	if lockToken == "" {
		return lost
	}
	return s.write(ctx, func(ctx context.Context, c Conn) error {
		var n int64
		if how == iot.Abandoned {
			var err error
			n, err = s.exec(ctx, c, "abandon notices", `UPDATE notices SET locked_until = 0, lock_token = '',
				delivery_count = delivery_count + 1 WHERE queue = $1 AND lock_token = $2 AND delivery_count + 1 < $3`,
				string(q), lockToken, maxDelivery)
			if err != nil {
				return err
			}
		}
		gone, err := s.exec(ctx, c, "remove notices", `DELETE FROM notices WHERE queue = $1 AND lock_token = $2`, string(q), lockToken)
		if err == nil && n+gone == 0 {
			return lost
		}
		return err
	})
}

// ExpireNotices implements [notice.Store].
func (s *Store) ExpireNotices(ctx context.Context, now time.Time, keep int) (int, error) {
	var n int64
	err := s.write(ctx, func(ctx context.Context, c Conn) (err error) {
		if n, err = s.exec(ctx, c, "expire notices", `DELETE FROM notices WHERE expires <= $1`, micros(now)); err != nil {
			return err
		}
		for _, q := range []notice.Queue{notice.Feedback, notice.Files} {
			m, err := s.exec(ctx, c, "shorten notices", `DELETE FROM notices WHERE queue = $1 AND sequence <=
				(SELECT sequence FROM notices WHERE queue = $2 ORDER BY sequence DESC LIMIT 1 OFFSET $3)`, string(q), string(q), keep)
			if err != nil {
				return err
			}
			n += m
		}
		return nil
	})
	return int(n), err
}
