package sqlstore

import (
	"context"
	"database/sql"
	"encoding/json"
	"errors"
	"time"

	"github.com/vauban-iot/vauban/fault"
	"github.com/vauban-iot/vauban/hub/notice"
	"github.com/vauban-iot/vauban/hub/upload"
	"github.com/vauban-iot/vauban/iot"
)

var errNoUpload = fault.New(fault.NotFound, "there is no such upload")

// BeginUpload implements [upload.Store].
func (s *Store) BeginUpload(ctx context.Context, u upload.Active, limit int, now time.Time) error {
	return s.write(ctx, func(ctx context.Context, c Conn) error {
		// The device's row holds off other uploads of the device, its modules' too.
		if err := s.hold(ctx, c, iot.ID{Device: u.ID.Device}); err != nil {
			return err
		}
		if u.ID.Module != "" {
			if err := s.hold(ctx, c, u.ID); err != nil {
				return err
			}
		}
		n, err := one(ctx, s, c, "count uploads", scanInt, `SELECT COUNT(*) FROM uploads WHERE device = $1 AND expires > $2`,
			u.ID.Device, micros(now))
		if err != nil {
			return err
		}
		if n >= int64(limit) {
			return upload.ErrTooMany
		}
		_, err = s.exec(ctx, c, "begin upload", `INSERT INTO uploads (correlation_id, device, module, blob, started, expires)
			VALUES ($1, $2, $3, $4, $5, $6)`, u.CorrelationID, u.ID.Device, u.ID.Module, u.Blob, micros(u.Started), micros(u.Expires))
		return err
	})
}

// ActiveUpload implements [upload.Store].
func (s *Store) ActiveUpload(ctx context.Context, id iot.ID, correlationID string, now time.Time) (upload.Active, error) {
	u, err := one(ctx, s, s.b.Reader, "read upload", func(r *sql.Rows) (u upload.Active, err error) {
		err = r.Scan(&u.CorrelationID, &u.ID.Device, &u.ID.Module, &u.Blob, stamp{&u.Started}, stamp{&u.Expires})
		return u, err
	}, `SELECT correlation_id, device, module, blob, started, expires FROM uploads
		WHERE correlation_id = $1 AND device = $2 AND module = $3 AND expires > $4`, correlationID, id.Device, id.Module, micros(now))
	if errors.Is(err, errNoRow) {
		err = errNoUpload
	}
	return u, err
}

// EndUpload implements [upload.Store].
func (s *Store) EndUpload(ctx context.Context, id iot.ID, correlationID string, note json.RawMessage, now, expires time.Time) error {
	return s.write(ctx, func(ctx context.Context, c Conn) error {
		n, err := s.exec(ctx, c, "end upload", `DELETE FROM uploads WHERE correlation_id = $1 AND device = $2 AND module = $3 AND expires > $4`,
			correlationID, id.Device, id.Module, micros(now))
		if err != nil {
			return err
		}
		if n == 0 {
			return errNoUpload
		}
		if note == nil {
			return nil
		}
		// The notice outlives its device, as the file does.
		return s.notify(ctx, c, notice.Files, nil, note, now, expires)
	})
}

// ExpireUploads implements [upload.Store].
func (s *Store) ExpireUploads(ctx context.Context, now time.Time) (int, error) {
	var n int64
	err := s.write(ctx, func(ctx context.Context, c Conn) (err error) {
		n, err = s.exec(ctx, c, "expire uploads", `DELETE FROM uploads WHERE expires <= $1`, micros(now))
		return err
	})
	return int(n), err
}
