package signin

import (
	"context"
	"crypto/sha256"
	"time"
)

// Store keeps accounts, sessions, and what is good for one use. Mail addresses compare by [Fold].
// Changes are atomic: change sees what earlier ones did, may run more than once, and its error comes back as it is.
type Store interface {
	// CreateAccount keeps a new account, with an identity or without (nil), and takes an invitation or none (nil): check,
	// which judges it, runs in the same transaction. It fails with ErrMailTaken when the mail address or the identity is taken,
	// and with fault.NotFound when the invitation is gone.
	CreateAccount(ctx context.Context, a Account, id *Identity, invitation *Key, check func(Grant) error) error
	// Account, AccountByMail and AccountByIdentity fail with fault.NotFound.
	Account(ctx context.Context, subject string) (Account, error)
	AccountByMail(ctx context.Context, mail string) (Account, error)
	AccountByIdentity(ctx context.Context, id Identity) (Account, error)
	// Accounts lists them in order of the folded mail address, from the one behind after.
	Accounts(ctx context.Context, after string, limit int) ([]Account, error)
	// ChangeAccount changes everything but subject, mail address and time of creation, and keeps the revocation, unless nil.
	ChangeAccount(ctx context.Context, subject string, change func(Account) (Account, *Revocation, error)) (Account, error)

	// PutGrant keeps a grant in place of the one with its key. It fails with fault.AlreadyExists when another has its Lookup.
	PutGrant(ctx context.Context, g Grant) error
	// Grant and FindGrant fail with fault.NotFound. They may return expired ones.
	Grant(ctx context.Context, key Key) (Grant, error)
	FindGrant(ctx context.Context, kind GrantKind, lookup string) (Grant, error)
	// ChangeGrant changes a grant and keeps the session that comes of it, unless nil. Of an account's sessions
	// the [MaxSessions] used last stay.
	ChangeGrant(ctx context.Context, key Key, change func(Grant) (Grant, *Session, error)) (Grant, error)

	// UserSession fails with fault.NotFound.
	UserSession(ctx context.Context, family string) (Session, error)
	ChangeUserSession(ctx context.Context, family string, change func(Session) (Session, *Revocation, error)) (Session, error)

	// Revoke keeps a revocation; of one name the highest epoch and the latest expiry stay.
	Revoke(ctx context.Context, r Revocation) error
	// Revocations lists those that have not expired.
	Revocations(ctx context.Context, now time.Time) ([]Revocation, error)

	// SweepSignIn deletes the grants, sessions and revocations that expired.
	SweepSignIn(ctx context.Context, now time.Time) error
}

// Account is a user as it is kept.
type Account struct {
	User
	Password string // in PHC format; empty: it signs in at a provider only
	Disabled bool
	// Epoch rises to end every token given before.
	Epoch int64
	// Places are where it signed in last, newest first: an attacker elsewhere does not slow these down.
	Places           []string
	Created, Updated time.Time
}

// Identity is a person at an OpenID provider. Nothing else identifies one: mail addresses change hands.
type Identity struct {
	Issuer  string
	Subject string
}

// Key finds a grant: the hash of what the peer holds, which itself is not kept.
type Key [sha256.Size]byte

// GrantKind is what a grant is good for.
type GrantKind string

// The kinds.
const (
	CodeGrant       GrantKind = "code"       // an authorization code
	DeviceGrant     GrantKind = "device"     // a device code, with its user code as Lookup
	InvitationGrant GrantKind = "invitation" // to make an account
)

// Grant is something good for one use.
type Grant struct {
	Key    Key
	Kind   GrantKind
	Lookup string // another way to find it, within its kind; empty: none
	// Until is when it stops being good. It is kept until Expires, so that a second use shows as one.
	Until, Expires time.Time
	GrantDetails
}

// GrantDetails are the fields of a grant that nobody looks for.
type GrantDetails struct {
	Subject   string        `json:"subject,omitempty"` // who agreed
	Epoch     int64         `json:"epoch,omitempty"`   // of the account, when it did
	Client    string        `json:"client,omitempty"`
	Redirect  string        `json:"redirect,omitempty"`
	Challenge string        `json:"challenge,omitempty"`
	Family    string        `json:"family,omitempty"` // of the session that came of it; empty: unused
	Denied    bool          `json:"denied,omitempty"`
	Polled    time.Time     `json:"polled,omitzero"`
	Interval  time.Duration `json:"interval,omitempty"`
	From      string        `json:"from,omitempty"` // where the request came from
	Mail      string        `json:"mail,omitempty"`
	Provider  string        `json:"provider,omitempty"`
}

// MaxSessions of one account at a time.
const MaxSessions = 50

// Session is a sign-in that refresh tokens prolong: a family of tokens.
type Session struct {
	Family     string
	Subject    string
	Client     string
	Epoch      int64  // of the account when it began
	Generation int64  // how often it was prolonged
	Token      Key    // of the refresh token that is good
	Revoked    bool   // it ended before its time
	From       string // where it began
	// Until ends the session whatever happens; Expires when it is not used.
	Created, Used, Until, Expires time.Time
}

// Revocation ends access tokens before they expire.
type Revocation struct {
	Name    string    // userPrefix or sessionPrefix, and a subject or a family
	Epoch   int64     // of a user: tokens of lower epochs are dead
	Expires time.Time // when the last of those tokens is long dead by itself
}
