// Package signin knows the people who use the Security Service: their accounts, how they prove who they
// are, and the tokens they get for it. What a person may do is decided elsewhere, by [User.Subject].
//
// A person proves itself with a password or at an OpenID provider (a [Provider]; access/signin/openid is
// one) and gets tokens by OAuth: an authorization code with PKCE (RFC 7636), or a device code (RFC 8628)
// where there is no browser. An access token is a signed JWT of minutes, which [Service.Check] judges
// without the store but for what was revoked, read at most once a second. A refresh token is good
// for one use; one that is used twice ends its session.
//
// A Service is safe for concurrent use. Several on one store with one Config.Secret are one: what is
// revoked at one is refused by all within a second. Only attempts are counted by each for itself.
package signin

import (
	"cmp"
	"context"
	"crypto/hkdf"
	"crypto/rand"
	"crypto/sha256"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"runtime"
	"strings"
	"time"

	"github.com/vauban-iot/vauban/internal/secret"
)

// User is a person with an account. It is what a valid access token says, and what roles are given to.
type User struct {
	Subject string // a GUID, given once and never again
	Mail    string // as it was registered; it compares without case
}

// Proof is somebody who has just shown who it is. It is good until the account's sessions end.
type Proof struct {
	User
	Epoch int64 // of the account
}

// Peer stands at the other end of a request.
type Peer struct {
	Addr netip.Addr // where it is; unknown ones count as one
	// Administrator is one that proved itself with the installation's administrator token. Nothing here
	// checks that: whoever fills it in did.
	Administrator bool
}

// from is where a peer is, for people.
func (p Peer) from() string {
	if !p.Addr.IsValid() {
		return "an unknown address"
	}
	return p.Addr.Unmap().String()
}

// Client is a program that people sign in with. Programs on people's machines keep no secret, so
// none is asked for one (RFC 8252 §8.4): PKCE ties a code to the program that asked.
type Client struct {
	ID   string
	Name string // for people
	// Loopback lets it take codes at http://127.0.0.1 and http://[::1], on any port and path (RFC 8252 §7.3).
	Loopback bool
	// Redirects are other places where it takes codes, compared letter by letter.
	Redirects []string
}

// AzureSphere is the client that the azsphere command line is.
var AzureSphere = Client{ID: "azsphere", Name: "azsphere command line", Loopback: true}

// Config is what sign-in stands on.
type Config struct {
	Store Store // required
	// Secret signs tokens; at least 32 bytes, on all servers of an installation the same. Required.
	Secret secret.Secret
	// Issuer is the address that people and programs know sign-in by, https://host[:port]. Required.
	Issuer string
	// Clients that may ask for tokens; nil: AzureSphere.
	Clients   []Client
	Providers []Provider // their names differ; may be empty

	// Registration says who may make an account for itself; an administrator and whoever was invited always may.
	Registration Registration

	AccessLife  time.Duration // of an access token; 0: 15 minutes
	RefreshLife time.Duration // of a refresh token that is not used; 0: 14 days
	SessionLife time.Duration // after which one proves oneself again; 0: 90 days

	Hash   Hash             // of passwords; zero: 32 MiB, 3 passes
	Now    func() time.Time // nil: time.Now
	Logger *slog.Logger     // nil: slog.Default()
}

// Registration says who may make an account for itself.
type Registration int

// The zero value is the safe one.
const (
	Invited      Registration = iota // who has an invitation
	FromLoopback                     // and who is on this machine. Not for servers behind a proxy: all come from there
	Anyone                           // who reaches the server
)

// Defaults of Config.
const (
	DefaultAccessLife  = 15 * time.Minute
	DefaultRefreshLife = 14 * 24 * time.Hour
	DefaultSessionLife = 90 * 24 * time.Hour
)

// Service signs people in.
type Service struct {
	cfg       Config
	log       *slog.Logger
	now       func() time.Time
	clients   map[string]Client
	providers map[string]Provider
	hasher    *hasher
	signer    *signer
	view      *view

	pairs     *limiter[pair]         // failed passwords of one place for one account
	places    *limiter[netip.Prefix] // failed passwords of one place
	mails     *limiter[string]       // failed passwords for one account from places it does not know
	firsts    *limiter[pair]         // a place's first attempt at an account in an hour
	userCodes *limiter[netip.Prefix] // device codes that people mistyped, or guess
	requests  *limiter[netip.Prefix] // device authorizations, registrations
	all       *limiter[struct{}]     // device authorizations of everybody
}

// pair is a place that tries an account.
type pair struct {
	place netip.Prefix
	mail  string
}

// New returns a service.
func New(cfg Config) (*Service, error) {
	switch {
	case cfg.Store == nil || cfg.Issuer == "":
		return nil, errors.New("signin: incomplete configuration: Store and Issuer are required")
	case !strings.HasPrefix(cfg.Issuer, "https://") || strings.HasSuffix(cfg.Issuer, "/"):
		return nil, errors.New("signin: Issuer must be https://host[:port]")
	case len(cfg.Secret.Reveal()) < 32:
		return nil, errors.New("signin: Secret must have 32 bytes or more")
	}
	cfg.AccessLife = cmp.Or(cfg.AccessLife, DefaultAccessLife)
	cfg.RefreshLife = cmp.Or(cfg.RefreshLife, DefaultRefreshLife)
	cfg.SessionLife = cmp.Or(cfg.SessionLife, DefaultSessionLife)
	if cfg.AccessLife < 0 || cfg.AccessLife > cfg.RefreshLife || cfg.RefreshLife > cfg.SessionLife {
		return nil, errors.New("signin: an access token must not outlive a refresh token, nor that the session")
	}
	if cfg.Clients == nil {
		cfg.Clients = []Client{AzureSphere}
	}
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	if cfg.Logger == nil {
		cfg.Logger = slog.Default()
	}
	s := &Service{
		cfg: cfg, log: cfg.Logger, now: cfg.Now, clients: map[string]Client{}, providers: map[string]Provider{},
		pairs:     newLimiter[pair](cfg.Now, 5, 30*time.Second),
		places:    newLimiter[netip.Prefix](cfg.Now, 30, 5*time.Second), // an office may stand behind one address
		mails:     newLimiter[string](cfg.Now, 50, time.Minute),
		firsts:    newLimiter[pair](cfg.Now, 1, time.Hour),
		userCodes: newLimiter[netip.Prefix](cfg.Now, 10, 10*time.Second),
		requests:  newLimiter[netip.Prefix](cfg.Now, 20, 3*time.Second),
		all:       newLimiter[struct{}](cfg.Now, 500, 100*time.Millisecond),
	}
	for _, c := range cfg.Clients {
		if _, twice := s.clients[c.ID]; twice || c.ID == "" {
			return nil, fmt.Errorf("signin: client %q has no name or is given twice", c.ID)
		}
		s.clients[c.ID] = c
	}
	for _, p := range cfg.Providers {
		if _, twice := s.providers[p.Name()]; twice || p.Name() == "" {
			return nil, fmt.Errorf("signin: provider %q has no name or is given twice", p.Name())
		}
		s.providers[p.Name()] = p
	}
	var err error
	if s.hasher, err = newHasher(cfg.Hash, runtime.GOMAXPROCS(0)); err != nil {
		return nil, err
	}
	if s.signer, err = newSigner(cfg.Issuer, s.Key("access tokens"), s.Key("refresh tokens")); err != nil {
		return nil, err
	}
	s.view = &view{read: cfg.Store.Revocations, now: cfg.Now}
	return s, nil
}

// Key is a secret of 32 bytes for a purpose, on all servers of an installation the same.
func (s *Service) Key(purpose string) secret.Secret {
	k, err := hkdf.Key(sha256.New, s.cfg.Secret.Reveal(), nil, "vauban sign-in: "+purpose, 32)
	if err != nil {
		panic(err) // only of more bytes than SHA-256 can give
	}
	return secret.New(k)
}

// Issuer is the address of sign-in.
func (s *Service) Issuer() string { return s.cfg.Issuer }

// Client returns the client that is called id.
func (s *Service) Client(id string) (Client, error) {
	c, ok := s.clients[id]
	if !ok {
		return Client{}, ErrClient
	}
	return c, nil
}

// Run forgets what expired until ctx ends. Nothing is accepted for want of it: rows only stay longer.
func (s *Service) Run(ctx context.Context) error {
	tick := time.NewTicker(10 * time.Minute)
	defer tick.Stop()
	for {
		if err := s.cfg.Store.SweepSignIn(ctx, s.now()); err != nil && ctx.Err() == nil {
			s.log.Warn("expired sign-ins stay for now", "err", err)
		}
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
	}
}

// Check judges an access token, without the word Bearer. It fails with ErrToken, ErrExpired and
// ErrRevoked, all of kind Unauthorized, and with Unavailable when it cannot be known what was revoked.
func (s *Service) Check(ctx context.Context, bearer string) (User, error) {
	c, err := s.signer.verify(bearer, s.now())
	if err != nil {
		return User{}, err
	}
	revoked, err := s.view.current(ctx)
	if err != nil {
		return User{}, err
	}
	if revoked.covers(c) {
		return User{}, ErrRevoked
	}
	return User{Subject: c.Subject, Mail: c.Mail}, nil
}

// audit writes one record. Nothing that proves anything may come here.
func (s *Service) audit(ctx context.Context, level slog.Level, p Peer, what string, args ...any) {
	args = append([]any{"audit", true, "what", what}, args...)
	if p.Administrator {
		args = append(args, "who", "operator")
	}
	s.log.Log(ctx, level, "sign-in", append(args, "from", p.from())...)
}

// guid is a random one (RFC 9562 §5.4).
func guid() string {
	var b [16]byte
	rand.Read(b[:])
	b[6], b[8] = b[6]&0x0f|0x40, b[8]&0x3f|0x80
	return fmt.Sprintf("%x-%x-%x-%x-%x", b[:4], b[4:6], b[6:8], b[8:10], b[10:])
}
