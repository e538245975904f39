// Package signintest is sign-in for tests: a store in memory, which keeps the contract of
// storage/storagetest, and a service on it.
package signintest

import (
	"context"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/vauban-iot/vauban/access/signin"
	"github.com/vauban-iot/vauban/fault"
	"github.com/vauban-iot/vauban/internal/secret"
)

// Cheap is the cost of password hashes in tests.
var Cheap = signin.Hash{Memory: 64, Passes: 1}

// New returns a service on cfg, whose store, secret, issuer, cost of hashes and logger are filled in when they are not given.
func New(t testing.TB, cfg signin.Config) *signin.Service {
	t.Helper()
	if cfg.Store == nil {
		cfg.Store = NewStore()
	}
	if cfg.Secret.IsZero() {
		cfg.Secret = secret.New([]byte("a secret that every test of sign-in shares"))
	}
	if cfg.Issuer == "" {
		cfg.Issuer = "https://vauban.test"
	}
	if cfg.Hash == (signin.Hash{}) {
		cfg.Hash = Cheap
	}
	if cfg.Logger == nil {
		cfg.Logger = slog.New(slog.DiscardHandler)
	}
	s, err := signin.New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// Store is a [signin.Store] in memory. It is safe for concurrent use.
type Store struct {
	mu          sync.Mutex
	accounts    map[string]signin.Account
	identities  map[signin.Identity]string
	grants      map[signin.Key]signin.Grant
	sessions    map[string]signin.Session
	revocations map[string]signin.Revocation
	reads       int   // of revocations
	fail        error // of every call
}

var _ signin.Store = (*Store)(nil)

// NewStore returns an empty store.
func NewStore() *Store {
	return &Store{
		accounts: map[string]signin.Account{}, identities: map[signin.Identity]string{}, grants: map[signin.Key]signin.Grant{},
		sessions: map[string]signin.Session{}, revocations: map[string]signin.Revocation{},
	}
}

// Fail makes every call fail with err, until nil is given.
func (s *Store) Fail(err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.fail = err
}

// Reads is how often revocations were read.
func (s *Store) Reads() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.reads
}

func (s *Store) lock() (unlock func(), err error) {
	s.mu.Lock()
	if s.fail != nil {
		defer s.mu.Unlock()
		return nil, s.fail
	}
	return s.mu.Unlock, nil
}

var errNone = fault.New(fault.NotFound, "there is none")

func find[K comparable, V any](s *Store, m map[K]V, k K) (v V, err error) {
	unlock, err := s.lock()
	if err != nil {
		return v, err
	}
	defer unlock()
	v, ok := m[k]
	if !ok {
		return v, errNone
	}
	return v, nil
}

// CreateAccount implements [signin.Store].
func (s *Store) CreateAccount(_ context.Context, a signin.Account, id *signin.Identity, invitation *signin.Key, check func(signin.Grant) error) error {
	unlock, err := s.lock()
	if err != nil {
		return err
	}
	defer unlock()
	if invitation != nil {
		g, ok := s.grants[*invitation]
		if !ok {
			return errNone
		}
		if err := check(g); err != nil {
			return err
		}
	}
	for _, other := range s.accounts {
		if signin.Fold(other.Mail) == signin.Fold(a.Mail) {
			return signin.ErrMailTaken
		}
	}
	if id != nil {
		if _, taken := s.identities[*id]; taken {
			return signin.ErrMailTaken
		}
		s.identities[*id] = a.Subject
	}
	if invitation != nil {
		delete(s.grants, *invitation)
	}
	s.accounts[a.Subject] = a
	return nil
}

// Account implements [signin.Store].
func (s *Store) Account(_ context.Context, subject string) (signin.Account, error) {
	return find(s, s.accounts, subject)
}

// AccountByMail implements [signin.Store].
func (s *Store) AccountByMail(_ context.Context, mail string) (signin.Account, error) {
	unlock, err := s.lock()
	if err != nil {
		return signin.Account{}, err
	}
	defer unlock()
	for _, a := range s.accounts {
		if signin.Fold(a.Mail) == signin.Fold(mail) {
			return a, nil
		}
	}
	return signin.Account{}, errNone
}

// AccountByIdentity implements [signin.Store].
func (s *Store) AccountByIdentity(ctx context.Context, id signin.Identity) (signin.Account, error) {
	subject, err := find(s, s.identities, id)
	if err != nil {
		return signin.Account{}, err
	}
	return s.Account(ctx, subject)
}

// Accounts implements [signin.Store].
func (s *Store) Accounts(_ context.Context, after string, limit int) ([]signin.Account, error) {
	unlock, err := s.lock()
	if err != nil {
		return nil, err
	}
	defer unlock()
	var all []signin.Account
	for _, a := range s.accounts {
		if signin.Fold(a.Mail) > signin.Fold(after) {
			all = append(all, a)
		}
	}
	slices.SortFunc(all, func(a, b signin.Account) int { return strings.Compare(signin.Fold(a.Mail), signin.Fold(b.Mail)) })
	return all[:min(limit, len(all))], nil
}

// ChangeAccount implements [signin.Store].
func (s *Store) ChangeAccount(_ context.Context, subject string, change func(signin.Account) (signin.Account, *signin.Revocation, error)) (signin.Account, error) {
	unlock, err := s.lock()
	if err != nil {
		return signin.Account{}, err
	}
	defer unlock()
	was, ok := s.accounts[subject]
	if !ok {
		return signin.Account{}, errNone
	}
	next, r, err := change(was)
	if err != nil {
		return signin.Account{}, err
	}
	next.User, next.Created = was.User, was.Created
	s.accounts[subject] = next
	s.revoke(r)
	return next, nil
}

// PutGrant implements [signin.Store].
func (s *Store) PutGrant(_ context.Context, g signin.Grant) error {
	unlock, err := s.lock()
	if err != nil {
		return err
	}
	defer unlock()
	for key, other := range s.grants {
		if key != g.Key && other.Kind == g.Kind && other.Lookup == g.Lookup && g.Lookup != "" {
			return fault.New(fault.AlreadyExists, "another grant is found so")
		}
	}
	s.grants[g.Key] = g
	return nil
}

// Grant implements [signin.Store].
func (s *Store) Grant(_ context.Context, key signin.Key) (signin.Grant, error) {
	return find(s, s.grants, key)
}

// FindGrant implements [signin.Store].
func (s *Store) FindGrant(_ context.Context, kind signin.GrantKind, lookup string) (signin.Grant, error) {
	unlock, err := s.lock()
	if err != nil {
		return signin.Grant{}, err
	}
	defer unlock()
	for _, g := range s.grants {
		if g.Kind == kind && g.Lookup == lookup && lookup != "" {
			return g, nil
		}
	}
	return signin.Grant{}, errNone
}

// ChangeGrant implements [signin.Store].
func (s *Store) ChangeGrant(_ context.Context, key signin.Key, change func(signin.Grant) (signin.Grant, *signin.Session, error)) (signin.Grant, error) {
	unlock, err := s.lock()
	if err != nil {
		return signin.Grant{}, err
	}
	defer unlock()
	was, ok := s.grants[key]
	if !ok {
		return signin.Grant{}, errNone
	}
	next, begun, err := change(was)
	if err != nil {
		return signin.Grant{}, err
	}
	next.Key, next.Kind, next.Lookup = was.Key, was.Kind, was.Lookup
	s.grants[key] = next
	if begun != nil {
		s.sessions[begun.Family] = *begun
		var own []signin.Session
		for _, o := range s.sessions {
			if o.Subject == begun.Subject {
				own = append(own, o)
			}
		}
		slices.SortFunc(own, func(a, b signin.Session) int { return b.Used.Compare(a.Used) })
		for i := signin.MaxSessions; i < len(own); i++ {
			delete(s.sessions, own[i].Family)
		}
	}
	return next, nil
}

// UserSession implements [signin.Store].
func (s *Store) UserSession(_ context.Context, family string) (signin.Session, error) {
	return find(s, s.sessions, family)
}

// ChangeUserSession implements [signin.Store].
func (s *Store) ChangeUserSession(_ context.Context, family string, change func(signin.Session) (signin.Session, *signin.Revocation, error)) (signin.Session, error) {
	unlock, err := s.lock()
	if err != nil {
		return signin.Session{}, err
	}
	defer unlock()
	was, ok := s.sessions[family]
	if !ok {
		return signin.Session{}, errNone
	}
	next, r, err := change(was)
	if err != nil {
		return signin.Session{}, err
	}
	next.Family, next.Subject, next.Created = was.Family, was.Subject, was.Created
	s.sessions[family] = next
	s.revoke(r)
	return next, nil
}

func (s *Store) revoke(r *signin.Revocation) {
	if r == nil {
		return
	}
	next := *r
	if was, ok := s.revocations[r.Name]; ok {
		next.Epoch = max(was.Epoch, next.Epoch)
		if was.Expires.After(next.Expires) {
			next.Expires = was.Expires
		}
	}
	s.revocations[r.Name] = next
}

// Revoke implements [signin.Store].
func (s *Store) Revoke(_ context.Context, r signin.Revocation) error {
	unlock, err := s.lock()
	if err != nil {
		return err
	}
	defer unlock()
	s.revoke(&r)
	return nil
}

// Revocations implements [signin.Store].
func (s *Store) Revocations(_ context.Context, now time.Time) ([]signin.Revocation, error) {
	unlock, err := s.lock()
	if err != nil {
		return nil, err
	}
	defer unlock()
	s.reads++
	var all []signin.Revocation
	for _, r := range s.revocations {
		if r.Expires.After(now) {
			all = append(all, r)
		}
	}
	return all, nil
}

// SweepSignIn implements [signin.Store].
func (s *Store) SweepSignIn(_ context.Context, now time.Time) error {
	unlock, err := s.lock()
	if err != nil {
		return err
	}
	defer unlock()
	for k, g := range s.grants {
		if !g.Expires.After(now) {
			delete(s.grants, k)
		}
	}
	for k, e := range s.sessions {
		if !e.Expires.After(now) {
			delete(s.sessions, k)
		}
	}
	for k, r := range s.revocations {
		if !r.Expires.After(now) {
			delete(s.revocations, k)
		}
	}
	return nil
}
