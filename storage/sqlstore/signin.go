package sqlstore

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"time"

	"github.com/vauban-iot/vauban/access/signin"
	"github.com/vauban-iot/vauban/fault"
)

var _ signin.Store = (*Store)(nil)

const passwordHashes = "password hashes" // the purpose that seals them

const selectAccount = `SELECT subject, mail, password, disabled, epoch, places, created, updated FROM signin_accounts `

func (s *Store) scanAccount(r *sql.Rows) (a signin.Account, err error) {
	var sealed []byte
	if err := r.Scan(&a.Subject, &a.Mail, &sealed, &a.Disabled, &a.Epoch, jsonText{&a.Places}, stamp{&a.Created}, stamp{&a.Updated}); err != nil {
		return a, err
	}
	if len(sealed) > 0 {
		plain, err := s.open(passwordHashes, a.Subject, sealed)
		if err != nil {
			return signin.Account{}, err
		}
		a.Password = string(plain)
	}
	return a, nil
}

func (s *Store) sealPassword(a signin.Account) []byte {
	if a.Password == "" {
		return nil
	}
	return s.seal(passwordHashes, a.Subject, []byte(a.Password))
}

// CreateAccount implements [signin.Store].
func (s *Store) CreateAccount(ctx context.Context, a signin.Account, id *signin.Identity, invitation *signin.Key, check func(signin.Grant) error) error {
	places, err := toJSON(a.Places)
	if err != nil {
		return err
	}
	return s.write(ctx, func(ctx context.Context, c Conn) error {
		if invitation != nil {
			g, err := one(ctx, s, c, "read invitation", scanGrant, s.lock(selectGrant+`WHERE hash = $1`), invitation[:])
			if err != nil {
				return notFound(err, "invitation", "of this kind")
			}
			if err := check(g); err != nil {
				return err
			}
			if _, err := s.exec(ctx, c, "take invitation", `DELETE FROM signin_grants WHERE hash = $1`, invitation[:]); err != nil {
				return err
			}
		}
		n, err := s.exec(ctx, c, "create account", `INSERT INTO signin_accounts (subject, folded, mail, password, disabled, epoch, places, created, updated)
			VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9) ON CONFLICT DO NOTHING`,
			a.Subject, signin.Fold(a.Mail), a.Mail, s.sealPassword(a), a.Disabled, a.Epoch, places, micros(a.Created), micros(a.Updated))
		if err != nil {
			return err
		}
		if n == 1 && id != nil {
			n, err = s.exec(ctx, c, "create identity", `INSERT INTO signin_identities (issuer, subject, account) VALUES ($1, $2, $3)
				ON CONFLICT DO NOTHING`, id.Issuer, id.Subject, a.Subject)
		}
		if err == nil && n == 0 {
			err = signin.ErrMailTaken
		}
		return err
	})
}

// Account implements [signin.Store].
func (s *Store) Account(ctx context.Context, subject string) (signin.Account, error) {
	a, err := one(ctx, s, s.b.Reader, "read account", s.scanAccount, selectAccount+`WHERE subject = $1`, subject)
	return a, notFound(err, "user", subject)
}

// AccountByMail implements [signin.Store].
func (s *Store) AccountByMail(ctx context.Context, mail string) (signin.Account, error) {
	a, err := one(ctx, s, s.b.Reader, "read account", s.scanAccount, selectAccount+`WHERE folded = $1`, signin.Fold(mail))
	return a, notFound(err, "user", mail)
}

// AccountByIdentity implements [signin.Store].
func (s *Store) AccountByIdentity(ctx context.Context, id signin.Identity) (signin.Account, error) {
	a, err := one(ctx, s, s.b.Reader, "read account", s.scanAccount,
		selectAccount+`WHERE subject = (SELECT account FROM signin_identities WHERE issuer = $1 AND subject = $2)`, id.Issuer, id.Subject)
	return a, notFound(err, "user", id.Subject)
}

// Accounts implements [signin.Store].
func (s *Store) Accounts(ctx context.Context, after string, limit int) ([]signin.Account, error) {
	return list(ctx, s, s.b.Reader, "list accounts", s.scanAccount, selectAccount+`WHERE folded > $1 ORDER BY folded LIMIT $2`, signin.Fold(after), limit)
}

// ChangeAccount implements [signin.Store].
func (s *Store) ChangeAccount(ctx context.Context, subject string, change func(signin.Account) (signin.Account, *signin.Revocation, error)) (signin.Account, error) {
	var next signin.Account
	err := s.write(ctx, func(ctx context.Context, c Conn) error {
		was, err := one(ctx, s, c, "read account", s.scanAccount, s.lock(selectAccount+`WHERE subject = $1`), subject)
		if err != nil {
			return notFound(err, "user", subject)
		}
		var r *signin.Revocation
		if next, r, err = change(was); err != nil {
			return err
		}
		next.User, next.Created, next.Updated = was.User, was.Created, stored(next.Updated)
		places, err := toJSON(next.Places)
		if err != nil {
			return err
		}
		if _, err := s.exec(ctx, c, "write account", `UPDATE signin_accounts SET password = $1, disabled = $2, epoch = $3, places = $4, updated = $5
			WHERE subject = $6`, s.sealPassword(next), next.Disabled, next.Epoch, places, micros(next.Updated), subject); err != nil {
			return err
		}
		return s.revoke(ctx, c, r)
	})
	if err != nil {
		return signin.Account{}, err
	}
	return next, nil
}

const selectGrant = `SELECT hash, kind, lookup, good_for, expires, document FROM signin_grants `

func scanKey(k *signin.Key, b []byte) error {
	if copy(k[:], b) != len(k) || len(b) != len(k) {
		return fmt.Errorf("a stored hash has %d bytes", len(b))
	}
	return nil
}

func scanGrant(r *sql.Rows) (g signin.Grant, err error) {
	var hash []byte
	var lookup sql.NullString
	if err := r.Scan(&hash, &g.Kind, &lookup, stamp{&g.Until}, stamp{&g.Expires}, jsonText{&g.GrantDetails}); err != nil {
		return g, err
	}
	g.Lookup = lookup.String
	return g, scanKey(&g.Key, hash)
}

// PutGrant implements [signin.Store].
func (s *Store) PutGrant(ctx context.Context, g signin.Grant) error {
	doc, err := grantDocument(g)
	if err != nil {
		return err
	}
	var lookup any
	if g.Lookup != "" {
		lookup = g.Lookup
	}
	return s.write(ctx, func(ctx context.Context, c Conn) error {
		if _, err := s.exec(ctx, c, "replace grant", `DELETE FROM signin_grants WHERE hash = $1`, g.Key[:]); err != nil {
			return err
		}
		n, err := s.exec(ctx, c, "write grant", `INSERT INTO signin_grants (hash, kind, lookup, good_for, expires, document)
			VALUES ($1, $2, $3, $4, $5, $6) ON CONFLICT DO NOTHING`, g.Key[:], string(g.Kind), lookup, micros(g.Until), micros(g.Expires), doc)
		if err == nil && n == 0 {
			err = fault.New(fault.AlreadyExists, "another grant is found so")
		}
		return err
	})
}

// grantDocument keeps times as every other.
func grantDocument(g signin.Grant) (string, error) {
	g.Polled = stored(g.Polled)
	return toJSON(g.GrantDetails)
}

// Grant implements [signin.Store].
func (s *Store) Grant(ctx context.Context, key signin.Key) (signin.Grant, error) {
	g, err := one(ctx, s, s.b.Reader, "read grant", scanGrant, selectGrant+`WHERE hash = $1`, key[:])
	return g, notFound(err, "code", "of this kind")
}

// FindGrant implements [signin.Store].
func (s *Store) FindGrant(ctx context.Context, kind signin.GrantKind, lookup string) (signin.Grant, error) {
	g, err := one(ctx, s, s.b.Reader, "find grant", scanGrant, selectGrant+`WHERE kind = $1 AND lookup = $2`, string(kind), lookup)
	return g, notFound(err, "code", "of this kind")
}

// ChangeGrant implements [signin.Store].
func (s *Store) ChangeGrant(ctx context.Context, key signin.Key, change func(signin.Grant) (signin.Grant, *signin.Session, error)) (signin.Grant, error) {
	var next signin.Grant
	err := s.write(ctx, func(ctx context.Context, c Conn) error {
		was, err := one(ctx, s, c, "read grant", scanGrant, s.lock(selectGrant+`WHERE hash = $1`), key[:])
		if err != nil {
			return notFound(err, "code", "of this kind")
		}
		var begun *signin.Session
		if next, begun, err = change(was); err != nil {
			return err
		}
		next.Key, next.Kind, next.Lookup = was.Key, was.Kind, was.Lookup
		next.Until, next.Expires, next.Polled = stored(next.Until), stored(next.Expires), stored(next.Polled)
		doc, err := grantDocument(next)
		if err != nil {
			return err
		}
		if _, err := s.exec(ctx, c, "write grant", `UPDATE signin_grants SET good_for = $1, expires = $2, document = $3 WHERE hash = $4`,
			micros(next.Until), micros(next.Expires), doc, key[:]); err != nil {
			return err
		}
		return s.begin(ctx, c, begun)
	})
	if err != nil {
		return signin.Grant{}, err
	}
	return next, nil
}

// begin keeps a session, unless nil, and drops those of its account that were not used for longest.
func (s *Store) begin(ctx context.Context, c Conn, e *signin.Session) error {
	if e == nil {
		return nil
	}
	if _, err := s.exec(ctx, c, "begin session", `INSERT INTO signin_sessions (family, account, client, epoch, generation, token, revoked, began_at,
		created, used, ends, expires) VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12)`,
		e.Family, e.Subject, e.Client, e.Epoch, e.Generation, e.Token[:], e.Revoked, e.From,
		micros(e.Created), micros(e.Used), micros(e.Until), micros(e.Expires)); err != nil {
		return err
	}
	_, err := s.exec(ctx, c, "drop sessions", `DELETE FROM signin_sessions WHERE family IN (SELECT family FROM signin_sessions WHERE account = $1
		ORDER BY used DESC, family LIMIT 1000 OFFSET $2)`, e.Subject, signin.MaxSessions)
	return err
}

const selectSession = `SELECT family, account, client, epoch, generation, token, revoked, began_at, created, used, ends, expires FROM signin_sessions `

func scanSession(r *sql.Rows) (e signin.Session, err error) {
	var token []byte
	if err := r.Scan(&e.Family, &e.Subject, &e.Client, &e.Epoch, &e.Generation, &token, &e.Revoked, &e.From,
		stamp{&e.Created}, stamp{&e.Used}, stamp{&e.Until}, stamp{&e.Expires}); err != nil {
		return e, err
	}
	return e, scanKey(&e.Token, token)
}

// UserSession implements [signin.Store].
func (s *Store) UserSession(ctx context.Context, family string) (signin.Session, error) {
	e, err := one(ctx, s, s.b.Reader, "read session", scanSession, selectSession+`WHERE family = $1`, family)
	return e, notFound(err, "session", family)
}

// ChangeUserSession implements [signin.Store].
func (s *Store) ChangeUserSession(ctx context.Context, family string, change func(signin.Session) (signin.Session, *signin.Revocation, error)) (signin.Session, error) {
	var next signin.Session
	err := s.write(ctx, func(ctx context.Context, c Conn) error {
		was, err := one(ctx, s, c, "read session", scanSession, s.lock(selectSession+`WHERE family = $1`), family)
		if err != nil {
			return notFound(err, "session", family)
		}
		var r *signin.Revocation
		if next, r, err = change(was); err != nil {
			return err
		}
		next.Family, next.Subject, next.Client, next.From, next.Created = was.Family, was.Subject, was.Client, was.From, was.Created
		next.Used, next.Until, next.Expires = stored(next.Used), stored(next.Until), stored(next.Expires)
		if _, err := s.exec(ctx, c, "write session", `UPDATE signin_sessions SET epoch = $1, generation = $2, token = $3, revoked = $4, used = $5,
			ends = $6, expires = $7 WHERE family = $8`, next.Epoch, next.Generation, next.Token[:], next.Revoked, micros(next.Used),
			micros(next.Until), micros(next.Expires), family); err != nil {
			return err
		}
		return s.revoke(ctx, c, r)
	})
	if err != nil {
		return signin.Session{}, err
	}
	return next, nil
}

// revoke keeps a revocation, unless nil.
func (s *Store) revoke(ctx context.Context, c Conn, r *signin.Revocation) error {
	if r == nil {
		return nil
	}
	_, err := s.exec(ctx, c, "revoke", `INSERT INTO signin_revocations (name, epoch, expires) VALUES ($1, $2, $3) ON CONFLICT (name) DO UPDATE SET
		epoch = CASE WHEN excluded.epoch > signin_revocations.epoch THEN excluded.epoch ELSE signin_revocations.epoch END,
		expires = CASE WHEN excluded.expires > signin_revocations.expires THEN excluded.expires ELSE signin_revocations.expires END`,
		r.Name, r.Epoch, micros(r.Expires))
	return err
}

// Revoke implements [signin.Store].
func (s *Store) Revoke(ctx context.Context, r signin.Revocation) error {
	return s.write(ctx, func(ctx context.Context, c Conn) error { return s.revoke(ctx, c, &r) })
}

// Revocations implements [signin.Store].
func (s *Store) Revocations(ctx context.Context, now time.Time) ([]signin.Revocation, error) {
	return list(ctx, s, s.b.Reader, "list revocations", func(r *sql.Rows) (v signin.Revocation, err error) {
		err = r.Scan(&v.Name, &v.Epoch, stamp{&v.Expires})
		return v, err
	}, `SELECT name, epoch, expires FROM signin_revocations WHERE expires > $1 ORDER BY name`, micros(now))
}

// SweepSignIn implements [signin.Store].
func (s *Store) SweepSignIn(ctx context.Context, now time.Time) error {
	return s.write(ctx, func(ctx context.Context, c Conn) error {
		var errs []error
		for _, table := range []string{"signin_grants", "signin_sessions", "signin_revocations"} {
			_, err := s.exec(ctx, c, "sweep "+table, `DELETE FROM `+table+` WHERE expires <= $1`, micros(now))
			errs = append(errs, err)
		}
		return errors.Join(errs...)
	})
}
