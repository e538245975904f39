package sqlstore

import (
	"context"
	"database/sql"
	"encoding/json"
	"errors"
	"fmt"
	"strings"

	"github.com/vauban-iot/vauban/dps"
)

const enrollmentKeys = "enrollment-keys" // the purpose that seals keys of enrollments

// fold is how names of the provisioning service compare (dps §1.3).
func fold(name string) string { return strings.ToLower(name) }

// rename checks that a change kept the name it was asked about, in whatever spelling.
func rename(asked string, next *string) error {
	if *next == "" {
		*next = asked
	}
	if fold(*next) != fold(asked) {
		return fmt.Errorf("store: change of %q returned %q", asked, *next)
	}
	return nil
}

// enrollmentDocument holds the fields of an enrollment that nobody looks for.
type enrollmentDocument struct {
	DeviceID             string                `json:"deviceId,omitempty"`
	PrimaryCertificate   string                `json:"primaryCertificate,omitempty"`
	SecondaryCertificate string                `json:"secondaryCertificate,omitempty"`
	Edge                 bool                  `json:"edge,omitempty"`
	Reprovision          dps.ReprovisionPolicy `json:"reprovision"`
	Allocation           string                `json:"allocation,omitempty"`
	HubName              string                `json:"hubName,omitempty"`
	Hubs                 []string              `json:"hubs,omitempty"`
}

const selectEnrollment = `SELECT grp, name, etag, enabled, attestation_type, auth_keys, tags, desired, info, document,
	created, updated FROM enrollments `

const oneEnrollment = selectEnrollment + `WHERE grp = $1 AND folded = $2`

func (s *Store) scanEnrollment(r *sql.Rows) (e dps.Enrollment, err error) {
	var keys []byte
	var doc enrollmentDocument
	a := &e.Attestation
	err = r.Scan(&e.Group, &e.Name, &e.ETag, &e.Enabled, &a.Type, &keys, (*[]byte)(&e.Twin.Tags), (*[]byte)(&e.Twin.Desired),
		(*[]byte)(&e.Info), jsonText{&doc}, stamp{&e.Created}, stamp{&e.Updated})
	if err != nil {
		return e, err
	}
	e.DeviceID, e.Edge, e.Reprovision = doc.DeviceID, doc.Edge, doc.Reprovision
	e.Allocation, e.HubName, e.Hubs = doc.Allocation, doc.HubName, doc.Hubs
	a.PrimaryCertificate, a.SecondaryCertificate = doc.PrimaryCertificate, doc.SecondaryCertificate
	return e, s.openKeys(enrollmentKeys, enrollmentOwner(e.Group, e.Name), keys, &a.PrimaryKey, &a.SecondaryKey)
}

// enrollmentOwner names the row that sealed keys belong to.
func enrollmentOwner(group bool, name string) string {
	if group {
		return "group/" + fold(name)
	}
	return "individual/" + fold(name)
}

func enrollmentWord(group bool) string {
	if group {
		return "enrollment group"
	}
	return "enrollment"
}

// optional is a JSON text that may be absent.
func optional(j json.RawMessage) any {
	if j == nil {
		return nil
	}
	return string(j)
}

func (s *Store) enrollment(ctx context.Context, c Conn, group bool, name, query string) (dps.Enrollment, error) {
	return one(ctx, s, c, "read enrollment", s.scanEnrollment, query, group, fold(name))
}

// Enrollment implements [dps.Store].
func (s *Store) Enrollment(ctx context.Context, group bool, name string) (dps.Enrollment, error) {
	e, err := s.enrollment(ctx, s.b.Reader, group, name, oneEnrollment)
	return e, notFound(err, enrollmentWord(group), name)
}

// PutEnrollment implements [dps.Store]. The change may respell the name but not change it.
func (s *Store) PutEnrollment(ctx context.Context, group bool, name string, change func(*dps.Enrollment) (dps.Enrollment, error)) (dps.Enrollment, error) {
	var next dps.Enrollment
	err := s.write(ctx, func(ctx context.Context, c Conn) error {
		now, err := s.enrollment(ctx, c, group, name, s.lock(oneEnrollment))
		var current *dps.Enrollment
		switch {
		case err == nil:
			current = &now
		case !errors.Is(err, errNoRow):
			return err
		}
		if next, err = change(current); err != nil {
			return err
		}
		if err := rename(name, &next.Name); err != nil {
			return err
		}
		next.Group = group
		next.Created, next.Updated = stored(next.Created), stored(next.Updated)
		a := next.Attestation
		doc, err := toJSON(enrollmentDocument{
			DeviceID: next.DeviceID, Edge: next.Edge, Reprovision: next.Reprovision,
			Allocation: next.Allocation, HubName: next.HubName, Hubs: next.Hubs,
			PrimaryCertificate: a.PrimaryCertificate, SecondaryCertificate: a.SecondaryCertificate,
		})
		if err != nil {
			return err
		}
		n, err := s.exec(ctx, c, "write enrollment", putQuery(current != nil, `INSERT INTO enrollments (grp, folded, name, etag, enabled,
			attestation_type, auth_keys, tags, desired, info, document, created, updated)
			VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13) `, `ON CONFLICT (grp, folded) DO UPDATE SET
			name = excluded.name, etag = excluded.etag, enabled = excluded.enabled,
			attestation_type = excluded.attestation_type, auth_keys = excluded.auth_keys, tags = excluded.tags,
			desired = excluded.desired, info = excluded.info, document = excluded.document,
			created = excluded.created, updated = excluded.updated`),
			group, fold(name), next.Name, string(next.ETag), next.Enabled,
			a.Type, s.sealKeys(enrollmentKeys, enrollmentOwner(group, name), a.PrimaryKey, a.SecondaryKey),
			optional(next.Twin.Tags), optional(next.Twin.Desired), optional(next.Info), doc, micros(next.Created), micros(next.Updated))
		if err == nil && n == 0 {
			err = ErrRetry
		}
		return err
	})
	if err != nil {
		return dps.Enrollment{}, err
	}
	return next, nil
}

// putQuery ends an insert: with the update of a row that is locked, or so that a row which
// another transaction has made meanwhile shows as none inserted.
func putQuery(exists bool, insert, update string) string {
	if exists {
		return insert + update
	}
	return insert + "ON CONFLICT DO NOTHING"
}

// DeleteEnrollment implements [dps.Store].
func (s *Store) DeleteEnrollment(ctx context.Context, group bool, name string, check func(dps.Enrollment) error) error {
	return s.write(ctx, func(ctx context.Context, c Conn) error {
		now, err := s.enrollment(ctx, c, group, name, s.lock(oneEnrollment))
		if err != nil {
			return notFound(err, enrollmentWord(group), name)
		}
		if err := check(now); err != nil {
			return err
		}
		_, err = s.exec(ctx, c, "delete enrollment", `DELETE FROM enrollments WHERE grp = $1 AND folded = $2`, group, fold(name))
		return err
	})
}

// Enrollments implements [dps.Store].
func (s *Store) Enrollments(ctx context.Context, group bool, after string, limit int) ([]dps.Enrollment, error) {
	return list(ctx, s, s.b.Reader, "list enrollments", s.scanEnrollment,
		selectEnrollment+`WHERE grp = $1 AND folded > $2 ORDER BY folded LIMIT $3`, group, fold(after), limit)
}

const selectRegistration = `SELECT id, grp, device_id, hub, status, substatus, error_code, error, etag, created, updated
	FROM registrations `

const oneRegistration = selectRegistration + `WHERE folded = $1`

func scanRegistration(r *sql.Rows) (g dps.Registration, err error) {
	err = r.Scan(&g.ID, &g.Group, &g.DeviceID, &g.Hub, &g.Status, &g.Substatus, &g.ErrorCode, &g.Error, &g.ETag,
		stamp{&g.Created}, stamp{&g.Updated})
	return g, err
}

// Registration implements [dps.Store].
func (s *Store) Registration(ctx context.Context, id string) (dps.Registration, error) {
	g, err := one(ctx, s, s.b.Reader, "read registration", scanRegistration, oneRegistration, fold(id))
	return g, notFound(err, "registration", id)
}

// PutRegistration implements [dps.Store]. The change may respell the id but not change it.
func (s *Store) PutRegistration(ctx context.Context, id string, change func(*dps.Registration) (dps.Registration, error)) (dps.Registration, error) {
	var next dps.Registration
	err := s.write(ctx, func(ctx context.Context, c Conn) error {
		now, err := one(ctx, s, c, "read registration", scanRegistration, s.lock(oneRegistration), fold(id))
		var current *dps.Registration
		switch {
		case err == nil:
			current = &now
		case !errors.Is(err, errNoRow):
			return err
		}
		if next, err = change(current); err != nil {
			return err
		}
		if err := rename(id, &next.ID); err != nil {
			return err
		}
		next.Created, next.Updated = stored(next.Created), stored(next.Updated)
		n, err := s.exec(ctx, c, "write registration", putQuery(current != nil, `INSERT INTO registrations (folded, id, grp,
			folded_group, device_id, hub, status, substatus, error_code, error, etag, created, updated)
			VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13) `, `ON CONFLICT (folded) DO UPDATE SET
			id = excluded.id, grp = excluded.grp, folded_group = excluded.folded_group, device_id = excluded.device_id,
			hub = excluded.hub, status = excluded.status, substatus = excluded.substatus, error_code = excluded.error_code,
			error = excluded.error, etag = excluded.etag, created = excluded.created, updated = excluded.updated`),
			fold(id), next.ID, next.Group,
			fold(next.Group), next.DeviceID, next.Hub, next.Status, next.Substatus, next.ErrorCode, next.Error,
			string(next.ETag), micros(next.Created), micros(next.Updated))
		if err == nil && n == 0 {
			err = ErrRetry
		}
		return err
	})
	if err != nil {
		return dps.Registration{}, err
	}
	return next, nil
}

// DeleteRegistration implements [dps.Store].
func (s *Store) DeleteRegistration(ctx context.Context, id string, check func(dps.Registration) error) error {
	return s.write(ctx, func(ctx context.Context, c Conn) error {
		now, err := one(ctx, s, c, "read registration", scanRegistration, s.lock(oneRegistration), fold(id))
		if err != nil {
			return notFound(err, "registration", id)
		}
		if err := check(now); err != nil {
			return err
		}
		_, err = s.exec(ctx, c, "delete registration", `DELETE FROM registrations WHERE folded = $1`, fold(id))
		return err
	})
}

// Registrations implements [dps.Store].
func (s *Store) Registrations(ctx context.Context, group, after string, limit int) ([]dps.Registration, error) {
	return list(ctx, s, s.b.Reader, "list registrations", scanRegistration,
		selectRegistration+`WHERE folded_group = $1 AND folded > $2 ORDER BY folded LIMIT $3`, fold(group), fold(after), limit)
}
