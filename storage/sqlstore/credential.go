package sqlstore

import (
	"context"
	"database/sql"
	"errors"
	"time"

	"github.com/vauban-iot/vauban/fault"
	"github.com/vauban-iot/vauban/hub/credential"
	"github.com/vauban-iot/vauban/hub/registry"
	"github.com/vauban-iot/vauban/iot"
)

var errNoCredential = fault.New(fault.NotFound, "there is no certificate request under way")

const oneCredential = `SELECT device, module, request_id, correlation_id, request, began, expires, certificates, refusal
	FROM credentials WHERE device = $1 AND module = $2 AND expires > $3`

func scanCredential(r *sql.Rows) (op credential.Operation, err error) {
	err = r.Scan(&op.ID.Device, &op.ID.Module, &op.RequestID, &op.CorrelationID, &op.Request, stamp{&op.Began}, stamp{&op.Expires},
		jsonText{&op.Certificates}, &op.Refusal)
	return op, err
}

func (s *Store) credential(ctx context.Context, c Conn, id iot.ID, now time.Time, query string) (credential.Operation, error) {
	return one(ctx, s, c, "read credential", scanCredential, query, id.Device, id.Module, micros(now))
}

// BeginCredential implements [credential.Store].
func (s *Store) BeginCredential(ctx context.Context, id iot.ID, now time.Time, change func(*credential.Operation) (credential.Operation, error)) (credential.Operation, error) {
	var next credential.Operation
	err := s.write(ctx, func(ctx context.Context, c Conn) error {
		if err := s.hold(ctx, c, id); err != nil { // holds off others while there is no row of ours
			return err
		}
		var standing *credential.Operation
		switch op, err := s.credential(ctx, c, id, now, s.lock(oneCredential)); {
		case err == nil:
			standing = &op
		case !errors.Is(err, errNoRow):
			return err
		}
		var err error
		if next, err = change(standing); err != nil {
			return err
		}
		next.ID, next.Began, next.Expires = id, stored(next.Began), stored(next.Expires)
		chain, err := toJSON(next.Certificates)
		if err != nil {
			return err
		}
		_, err = s.exec(ctx, c, "write credential", `INSERT INTO credentials
			(device, module, request_id, correlation_id, request, began, expires, certificates, refusal)
			VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9)
			ON CONFLICT (device, module) DO UPDATE SET request_id = excluded.request_id, correlation_id = excluded.correlation_id,
			request = excluded.request, began = excluded.began, expires = excluded.expires,
			certificates = excluded.certificates, refusal = excluded.refusal`,
			id.Device, id.Module, next.RequestID, next.CorrelationID, next.Request, micros(next.Began), micros(next.Expires), chain, next.Refusal)
		return err
	})
	if err != nil {
		return credential.Operation{}, err
	}
	return next, nil
}

// Credential implements [credential.Store].
func (s *Store) Credential(ctx context.Context, id iot.ID, now time.Time) (credential.Operation, error) {
	op, err := s.credential(ctx, s.b.Reader, id, now, oneCredential)
	if errors.Is(err, errNoRow) {
		err = errNoCredential
	}
	return op, err
}

// FinishCredential implements [credential.Store].
func (s *Store) FinishCredential(ctx context.Context, id iot.ID, correlationID string, o credential.Outcome, now time.Time,
	change func(registry.Identity) (registry.Identity, error),
) error {
	chain, err := toJSON(o.Certificates)
	if err != nil {
		return err
	}
	return s.write(ctx, func(ctx context.Context, c Conn) error {
		// The identity's row first, as in BeginCredential: whoever locks both does it in this order.
		if err := s.hold(ctx, c, id); err != nil {
			return err
		}
		n, err := s.exec(ctx, c, "finish credential", `UPDATE credentials SET certificates = $1, refusal = $2
			WHERE device = $3 AND module = $4 AND correlation_id = $5 AND expires > $6 AND certificates = 'null' AND refusal = ''`,
			chain, o.Refusal, id.Device, id.Module, correlationID, micros(now))
		if err == nil && n == 0 {
			err = credential.ErrSuperseded
		}
		if err != nil || change == nil {
			return err
		}
		_, err = s.update(ctx, c, id, change)
		return err
	})
}

// EndCredential implements [credential.Store].
func (s *Store) EndCredential(ctx context.Context, id iot.ID, correlationID string) error {
	return s.write(ctx, func(ctx context.Context, c Conn) error {
		_, err := s.exec(ctx, c, "end credential", `DELETE FROM credentials WHERE device = $1 AND module = $2 AND correlation_id = $3`,
			id.Device, id.Module, correlationID)
		return err
	})
}

// ExpireCredentials implements [credential.Store].
func (s *Store) ExpireCredentials(ctx context.Context, now time.Time) (int, error) {
	var n int64
	err := s.write(ctx, func(ctx context.Context, c Conn) (err error) {
		n, err = s.exec(ctx, c, "expire credentials", `DELETE FROM credentials WHERE expires <= $1`, micros(now))
		return err
	})
	return int(n), err
}
