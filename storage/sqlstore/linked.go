package sqlstore

import (
	"context"
	"database/sql"
	"errors"
	"fmt"

	"github.com/vauban-iot/vauban/dps"
	"github.com/vauban-iot/vauban/fault"
	"github.com/vauban-iot/vauban/internal/secret"
)

const selectCA = `SELECT name, certificate, verified, code, code_expires, etag, created, updated FROM provisioning_cas `

func scanCA(r *sql.Rows) (c dps.CA, err error) {
	err = r.Scan(&c.Name, &c.Certificate, &c.Verified, &c.Code, stamp{&c.CodeExpires}, &c.ETag, stamp{&c.Created}, stamp{&c.Updated})
	return c, err
}

// CAs implements [dps.Store].
func (s *Store) CAs(ctx context.Context) ([]dps.CA, error) {
	return list(ctx, s, s.b.Reader, "list CAs", scanCA, selectCA+`ORDER BY name`)
}

// PutCA implements [dps.Store].
func (s *Store) PutCA(ctx context.Context, name string, change func(*dps.CA) (dps.CA, error)) (dps.CA, error) {
	var next dps.CA
	err := s.write(ctx, func(ctx context.Context, c Conn) error {
		now, err := one(ctx, s, c, "read CA", scanCA, s.lock(selectCA+`WHERE name = $1`), name)
		var current *dps.CA
		switch {
		case err == nil:
			current = &now
		case !errors.Is(err, errNoRow):
			return err
		}
		if next, err = change(current); err != nil {
			return err
		}
		if next.Name == "" {
			next.Name = name
		}
		if next.Name != name {
			return fmt.Errorf("store: change of %q returned %q", name, next.Name)
		}
		next.CodeExpires, next.Created, next.Updated = stored(next.CodeExpires), stored(next.Created), stored(next.Updated)
		n, err := s.exec(ctx, c, "write CA", putQuery(current != nil, `INSERT INTO provisioning_cas (name, certificate, verified, code,
			code_expires, etag, created, updated) VALUES ($1, $2, $3, $4, $5, $6, $7, $8)`, ` ON CONFLICT (name) DO UPDATE SET
			certificate = excluded.certificate, verified = excluded.verified, code = excluded.code, code_expires = excluded.code_expires,
			etag = excluded.etag, created = excluded.created, updated = excluded.updated`),
			name, next.Certificate, next.Verified, next.Code, micros(next.CodeExpires), string(next.ETag), micros(next.Created), micros(next.Updated))
		if err == nil && n == 0 {
			err = ErrRetry
		}
		return err
	})
	if err != nil {
		return dps.CA{}, err
	}
	return next, nil
}

// DeleteCA implements [dps.Store].
func (s *Store) DeleteCA(ctx context.Context, name string, check func(dps.CA) error) error {
	return s.write(ctx, func(ctx context.Context, c Conn) error {
		now, err := one(ctx, s, c, "read CA", scanCA, s.lock(selectCA+`WHERE name = $1`), name)
		if err != nil {
			return notFound(err, "certificate", name)
		}
		if err := check(now); err != nil {
			return err
		}
		_, err = s.exec(ctx, c, "delete CA", `DELETE FROM provisioning_cas WHERE name = $1`, name)
		return err
	})
}

const linkedHubs = "linked hubs" // the purpose that seals connection strings

// linkedHubDocument holds the fields of a linked hub that nobody looks for.
type linkedHubDocument struct {
	Address   string   `json:"address,omitempty"`
	Authority string   `json:"authority,omitempty"`
	Weight    int      `json:"weight"`
	Excluded  bool     `json:"excluded,omitempty"`
	Networks  []string `json:"networks,omitempty"`
}

const selectLinkedHub = `SELECT host, connection_string, document, created, updated FROM linked_hubs `

func (s *Store) scanLinkedHub(r *sql.Rows) (h dps.LinkedHub, err error) {
	var sealed []byte
	var doc linkedHubDocument
	if err := r.Scan(&h.Host, &sealed, jsonText{&doc}, stamp{&h.Created}, stamp{&h.Updated}); err != nil {
		return h, err
	}
	h.Address, h.Authority, h.Weight, h.Excluded, h.Networks = doc.Address, doc.Authority, doc.Weight, doc.Excluded, doc.Networks
	if len(sealed) > 0 {
		plain, err := s.open(linkedHubs, fold(h.Host), sealed)
		if err != nil {
			return h, err
		}
		h.ConnectionString = secret.New(plain)
	}
	return h, nil
}

// LinkedHubs implements [dps.Store].
func (s *Store) LinkedHubs(ctx context.Context) ([]dps.LinkedHub, error) {
	return list(ctx, s, s.b.Reader, "list linked hubs", s.scanLinkedHub, selectLinkedHub+`ORDER BY folded`)
}

// PutLinkedHub implements [dps.Store]. The change may respell the host but not change it.
func (s *Store) PutLinkedHub(ctx context.Context, host string, change func(*dps.LinkedHub) (dps.LinkedHub, error)) (dps.LinkedHub, error) {
	var next dps.LinkedHub
	err := s.write(ctx, func(ctx context.Context, c Conn) error {
		now, err := one(ctx, s, c, "read linked hub", s.scanLinkedHub, s.lock(selectLinkedHub+`WHERE folded = $1`), fold(host))
		var current *dps.LinkedHub
		switch {
		case err == nil:
			current = &now
		case !errors.Is(err, errNoRow):
			return err
		}
		if next, err = change(current); err != nil {
			return err
		}
		if err := rename(host, &next.Host); err != nil {
			return err
		}
		next.Created, next.Updated = stored(next.Created), stored(next.Updated)
		doc, err := toJSON(linkedHubDocument{next.Address, next.Authority, next.Weight, next.Excluded, next.Networks})
		if err != nil {
			return err
		}
		var sealed []byte
		if !next.ConnectionString.IsZero() {
			sealed = s.seal(linkedHubs, fold(host), next.ConnectionString.Reveal())
		}
		n, err := s.exec(ctx, c, "write linked hub", putQuery(current != nil, `INSERT INTO linked_hubs (folded, host, connection_string, document,
			created, updated) VALUES ($1, $2, $3, $4, $5, $6)`, ` ON CONFLICT (folded) DO UPDATE SET host = excluded.host,
			connection_string = excluded.connection_string, document = excluded.document, created = excluded.created, updated = excluded.updated`),
			fold(host), next.Host, sealed, doc, micros(next.Created), micros(next.Updated))
		if err == nil && n == 0 {
			err = ErrRetry
		}
		return err
	})
	if err != nil {
		return dps.LinkedHub{}, err
	}
	return next, nil
}

// DeleteLinkedHub implements [dps.Store].
func (s *Store) DeleteLinkedHub(ctx context.Context, host string) error {
	return s.write(ctx, func(ctx context.Context, c Conn) error {
		n, err := s.exec(ctx, c, "delete linked hub", `DELETE FROM linked_hubs WHERE folded = $1`, fold(host))
		if err == nil && n == 0 {
			err = fault.New(fault.NotFound, "hub %s is not linked", host)
		}
		return err
	})
}
