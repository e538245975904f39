package sqlstore

import (
	"context"
	"database/sql"
	"errors"
	"fmt"

	"github.com/vauban-iot/vauban/fault"
	"github.com/vauban-iot/vauban/sphere/attest"
	"github.com/vauban-iot/vauban/wire/attestation"
)

var _ attest.Store = (*Store)(nil)

// attestationDocument holds the fields of a record that nobody looks for.
type attestationDocument struct {
	Kind         string              `json:"kind"`
	OSVersion    string              `json:"osVersion"`
	Images       []attestation.Image `json:"images,omitempty"`
	State        string              `json:"state,omitempty"`
	Capabilities []uint32            `json:"capabilities,omitempty"`
}

const selectAttestation = `SELECT device, boot_counter, boot_id, sequence, nonce_issued, attested, outcome, suspicions, suspected, document
	FROM attestations WHERE device = $1`

func scanAttestation(r *sql.Rows) (a attest.Record, err error) {
	var doc attestationDocument
	err = r.Scan(&a.Device, &a.BootCounter, &a.BootID, &a.Sequence, stamp{&a.NonceIssued}, stamp{&a.Attested}, &a.Outcome, &a.Suspicions,
		stamp{&a.Suspected}, jsonText{&doc})
	a.Kind, a.OSVersion, a.Images, a.State, a.Capabilities = doc.Kind, doc.OSVersion, doc.Images, doc.State, doc.Capabilities
	return a, err
}

// Attestation implements [attest.Store].
func (s *Store) Attestation(ctx context.Context, device string) (attest.Record, error) {
	a, err := one(ctx, s, s.b.Reader, "read attestation", scanAttestation, selectAttestation, device)
	return a, notFound(err, "attestation of device", device)
}

// PutAttestation implements [attest.Store].
func (s *Store) PutAttestation(ctx context.Context, device string, change func(*attest.Record) (attest.Record, error)) (attest.Record, error) {
	var next attest.Record
	err := s.write(ctx, func(ctx context.Context, c Conn) error {
		now, err := one(ctx, s, c, "read attestation", scanAttestation, s.lock(selectAttestation), device)
		var current *attest.Record
		switch {
		case err == nil:
			current = &now
		case !errors.Is(err, errNoRow):
			return err
		}
		if next, err = change(current); err != nil {
			return err
		}
		if next.Device != device {
			return fmt.Errorf("store: change of %q returned %q", device, next.Device)
		}
		if next.BootCounter > 1<<62 || next.Sequence > 1<<62 {
			return fault.New(fault.Invalid, "the counters of device %s are too large", device)
		}
		next.NonceIssued, next.Attested, next.Suspected = stored(next.NonceIssued), stored(next.Attested), stored(next.Suspected)
		doc, err := toJSON(attestationDocument{next.Kind, next.OSVersion, next.Images, next.State, next.Capabilities})
		if err != nil {
			return err
		}
		n, err := s.exec(ctx, c, "write attestation", putQuery(current != nil, `INSERT INTO attestations (device, boot_counter, boot_id, sequence,
			nonce_issued, attested, outcome, suspicions, suspected, document) VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10)`, ` ON CONFLICT (device)
			DO UPDATE SET boot_counter = excluded.boot_counter, boot_id = excluded.boot_id, sequence = excluded.sequence,
			nonce_issued = excluded.nonce_issued, attested = excluded.attested, outcome = excluded.outcome, suspicions = excluded.suspicions,
			suspected = excluded.suspected, document = excluded.document`),
			device, int64(next.BootCounter), next.BootID, int64(next.Sequence), micros(next.NonceIssued), micros(next.Attested), next.Outcome,
			next.Suspicions, micros(next.Suspected), doc)
		if err == nil && n == 0 {
			err = ErrRetry
		}
		return err
	})
	if err != nil {
		return attest.Record{}, err
	}
	return next, nil
}

// DeleteAttestation implements [attest.Store].
func (s *Store) DeleteAttestation(ctx context.Context, device string) error {
	return s.write(ctx, func(ctx context.Context, c Conn) error {
		n, err := s.exec(ctx, c, "delete attestation", `DELETE FROM attestations WHERE device = $1`, device)
		if err == nil && n == 0 {
			err = notFound(errNoRow, "attestation of device", device)
		}
		return err
	})
}
