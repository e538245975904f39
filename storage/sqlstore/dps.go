package sqlstore

import (
	"context"
	"database/sql"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
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
	PrimaryReference     string                `json:"primaryReference,omitempty"`
	SecondaryReference   string                `json:"secondaryReference,omitempty"`
	EndorsementKey       []byte                `json:"endorsementKey,omitempty"`
	StorageRootKey       []byte                `json:"storageRootKey,omitempty"`
	Edge                 bool                  `json:"edge,omitempty"`
	Reprovision          dps.ReprovisionPolicy `json:"reprovision"`
	Allocation           string                `json:"allocation,omitempty"`
	HubName              string                `json:"hubName,omitempty"`
	Hubs                 []string              `json:"hubs,omitempty"`
	Webhook              *dps.Webhook          `json:"webhook,omitempty"`
	Issuing              string                `json:"issuing,omitempty"`
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
	if doc.Webhook != nil {
		e.Webhook = *doc.Webhook
	}
	e.Issuing = doc.Issuing
	a.PrimaryCertificate, a.SecondaryCertificate = doc.PrimaryCertificate, doc.SecondaryCertificate
	a.PrimaryReference, a.SecondaryReference = doc.PrimaryReference, doc.SecondaryReference
	a.EndorsementKey, a.StorageRootKey = doc.EndorsementKey, doc.StorageRootKey
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
		return s.writeEnrollment(ctx, c, current != nil, next)
	})
	if err != nil {
		return dps.Enrollment{}, err
	}
	return next, nil
}

func (s *Store) writeEnrollment(ctx context.Context, c Conn, exists bool, e dps.Enrollment) error {
	args, err := s.enrollmentRow(nil, e)
	if err != nil {
		return err
	}
	n, err := s.exec(ctx, c, "write enrollment", putQuery(exists, insertEnrollments+tuples(1, enrollmentColumns), updateEnrollments), args...)
	if err == nil && n == 0 {
		err = ErrRetry
	}
	return err
}

const (
	enrollmentColumns = 13
	insertEnrollments = `INSERT INTO enrollments (grp, folded, name, etag, enabled,
		attestation_type, auth_keys, tags, desired, info, document, created, updated) VALUES `
	updateEnrollments = ` ON CONFLICT (grp, folded) DO UPDATE SET
		name = excluded.name, etag = excluded.etag, enabled = excluded.enabled,
		attestation_type = excluded.attestation_type, auth_keys = excluded.auth_keys, tags = excluded.tags,
		desired = excluded.desired, info = excluded.info, document = excluded.document,
		created = excluded.created, updated = excluded.updated`
)

// enrollmentRow appends the values of a row.
func (s *Store) enrollmentRow(args []any, e dps.Enrollment) ([]any, error) {
	a := e.Attestation
	d := enrollmentDocument{
		DeviceID: e.DeviceID, Edge: e.Edge, Reprovision: e.Reprovision,
		Allocation: e.Allocation, HubName: e.HubName, Hubs: e.Hubs, Issuing: e.Issuing,
		PrimaryCertificate: a.PrimaryCertificate, SecondaryCertificate: a.SecondaryCertificate,
		PrimaryReference: a.PrimaryReference, SecondaryReference: a.SecondaryReference,
		EndorsementKey: a.EndorsementKey, StorageRootKey: a.StorageRootKey,
	}
	if e.Webhook != (dps.Webhook{}) {
		d.Webhook = &e.Webhook
	}
	doc, err := toJSON(d)
	if err != nil {
		return nil, err
	}
	return append(args, e.Group, fold(e.Name), e.Name, string(e.ETag), e.Enabled,
		a.Type, s.sealKeys(enrollmentKeys, enrollmentOwner(e.Group, e.Name), a.PrimaryKey, a.SecondaryKey),
		optional(e.Twin.Tags), optional(e.Twin.Desired), optional(e.Info), doc, micros(e.Created), micros(e.Updated)), nil
}

// PutEnrollments implements [dps.Store].
func (s *Store) PutEnrollments(ctx context.Context, group bool, names []string, change func(int, *dps.Enrollment) (dps.Enrollment, error)) ([]error, error) {
	at := make(map[string]int, len(names))
	folded := make([]string, len(names)) // sorted: two transactions lock rows in the same order
	for i, name := range names {
		folded[i] = fold(name)
		at[folded[i]] = i
	}
	if len(at) != len(names) {
		return nil, errors.New("store: a name is given twice")
	}
	slices.Sort(folded)
	var errs []error
	err := s.write(ctx, func(ctx context.Context, c Conn) error {
		errs = make([]error, len(names))
		standing := make([]*dps.Enrollment, len(names))
		err := s.chunks(len(names), rowsRead, func(from, to int) error {
			args := append(texts(folded[from:to]), group)
			found, err := list(ctx, s, c, "read enrollments", s.scanEnrollment,
				s.lock(selectEnrollment+`WHERE folded `+among(to-from)+fmt.Sprintf(` AND grp = $%d ORDER BY folded`, to-from+1)), args...)
			for _, e := range found {
				standing[at[fold(e.Name)]] = &e
			}
			return err
		})
		if err != nil {
			return err
		}
		// What is new and what stands are written apart: only a new one may lose a race.
		write := [2][]dps.Enrollment{}
		for _, name := range folded {
			i := at[name]
			next, err := change(i, standing[i])
			if err == nil {
				err = rename(names[i], &next.Name)
			}
			if errs[i] = err; err != nil {
				continue
			}
			next.Group = group
			which := 0
			if standing[i] != nil {
				which = 1
			}
			write[which] = append(write[which], next)
		}
		for exists, es := range write {
			err := s.chunks(len(es), rowsWrite, func(from, to int) error {
				args := make([]any, 0, enrollmentColumns*(to-from))
				for _, e := range es[from:to] {
					var err error
					if args, err = s.enrollmentRow(args, e); err != nil {
						return err
					}
				}
				n, err := s.exec(ctx, c, "write enrollments", putQuery(exists == 1, insertEnrollments+tuples(to-from, enrollmentColumns), updateEnrollments), args...)
				if err == nil && n != int64(to-from) {
					err = ErrRetry
				}
				return err
			})
			if err != nil {
				return err
			}
		}
		return nil
	})
	return errs, err
}

// putQuery ends an insert: with the update of a row that is locked, or so that a row which
// another transaction has made meanwhile shows as none inserted.
func putQuery(exists bool, insert, update string) string {
	if exists {
		return insert + update
	}
	return insert + " ON CONFLICT DO NOTHING"
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

const selectRegistration = `SELECT id, grp, device_id, hub, status, substatus, error_code, error, payload, etag, created, updated
	FROM registrations `

const oneRegistration = selectRegistration + `WHERE folded = $1`

func scanRegistration(r *sql.Rows) (g dps.Registration, err error) {
	err = r.Scan(&g.ID, &g.Group, &g.DeviceID, &g.Hub, &g.Status, &g.Substatus, &g.ErrorCode, &g.Error, (*[]byte)(&g.Payload), &g.ETag,
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
			folded_group, device_id, hub, status, substatus, error_code, error, payload, etag, created, updated)
			VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14) `, `ON CONFLICT (folded) DO UPDATE SET
			id = excluded.id, grp = excluded.grp, folded_group = excluded.folded_group, device_id = excluded.device_id,
			hub = excluded.hub, status = excluded.status, substatus = excluded.substatus, error_code = excluded.error_code,
			error = excluded.error, payload = excluded.payload, etag = excluded.etag, created = excluded.created, updated = excluded.updated`),
			fold(id), next.ID, next.Group,
			fold(next.Group), next.DeviceID, next.Hub, next.Status, next.Substatus, next.ErrorCode, next.Error,
			optional(next.Payload), string(next.ETag), micros(next.Created), micros(next.Updated))
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
