package signin

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"log/slog"
	"math/big"
	"net/url"
	"slices"
	"strings"
	"time"

	"github.com/vauban-iot/vauban/fault"
	"github.com/vauban-iot/vauban/internal/secret"
)

// Lives of codes. A used or expired one is kept for codeMemory, so that a second use is known for one.
const (
	codeLife   = time.Minute // RFC 6749 §4.1.2 allows ten
	DeviceLife = 15 * time.Minute
	// PollInterval is how often a device may ask, and how much slower it must become each time it asks too often (RFC 8628 §3.5).
	PollInterval = 5 * time.Second
	codeMemory   = time.Hour
)

// AuthorizationRequest is a program that wants a code for whoever sits at the browser.
type AuthorizationRequest struct {
	Client    string
	Redirect  string
	Challenge string // PKCE, method S256
}

// CheckRequest judges a request before anything is shown. When it fails with ErrClient or ErrRedirect, nothing may be
// sent to the redirect URI; ErrChallenge may.
func (s *Service) CheckRequest(r AuthorizationRequest) (Client, error) {
	c, err := s.Client(r.Client)
	if err != nil {
		return c, err
	}
	if !c.takes(r.Redirect) {
		return c, ErrRedirect
	}
	if b, err := base64.RawURLEncoding.Strict().DecodeString(r.Challenge); err != nil || len(b) != sha256.Size {
		return c, ErrChallenge
	}
	return c, nil
}

const maxRedirect = 256

// takes reports whether the client takes codes at a URI.
func (c Client) takes(redirect string) bool {
	if slices.Contains(c.Redirects, redirect) && redirect != "" {
		return true
	}
	if !c.Loopback || len(redirect) > maxRedirect {
		return false
	}
	// The name localhost may lead elsewhere (RFC 8252 §8.3). Only the plainest spelling is taken: no other program must read
	// another host in it.
	rest, ok := strings.CutPrefix(redirect, "http://127.0.0.1")
	if !ok {
		if rest, ok = strings.CutPrefix(redirect, "http://[::1]"); !ok {
			return false
		}
	}
	for i := range len(rest) {
		b := rest[i]
		switch {
		case 'a' <= b && b <= 'z', 'A' <= b && b <= 'Z', '0' <= b && b <= '9', strings.IndexByte("/-._~", b) >= 0, b == ':' && i == 0:
		default:
			return false
		}
	}
	u, err := url.Parse(redirect)
	if err != nil || rest != "" && rest[0] != ':' && rest[0] != '/' {
		return false
	}
	return u.Hostname() == "127.0.0.1" || u.Hostname() == "::1"
}

// Grant returns a code for somebody who proved itself and agreed. It fails as CheckRequest does, and with ErrDisabled and ErrRevoked.
func (s *Service) Grant(ctx context.Context, peer Peer, who Proof, r AuthorizationRequest) (secret.Secret, error) {
	if _, err := s.CheckRequest(r); err != nil {
		return secret.Secret{}, err
	}
	a, err := s.proved(ctx, who)
	if err != nil {
		return secret.Secret{}, err
	}
	code := newToken("vc1_")
	until := s.now().Add(codeLife)
	return code, s.cfg.Store.PutGrant(ctx, Grant{
		Key: keyOf("code", code), Kind: CodeGrant, Until: until, Expires: until.Add(codeMemory), GrantDetails: GrantDetails{
			Subject: a.Subject, Epoch: a.Epoch, Client: r.Client, Redirect: r.Redirect, Challenge: r.Challenge, From: peer.from(),
		},
	})
}

// active returns the account of a user, or ErrDisabled.
func (s *Service) active(ctx context.Context, subject string) (Account, error) {
	a, err := s.cfg.Store.Account(ctx, subject)
	if fault.Is(err, fault.NotFound) {
		return a, ErrRevoked
	}
	if err == nil && a.Disabled {
		err = ErrDisabled
	}
	return a, err
}

// proved returns the account of somebody who proved itself a moment ago, or what ended that since.
func (s *Service) proved(ctx context.Context, who Proof) (Account, error) {
	a, err := s.active(ctx, who.Subject)
	if err == nil && a.Epoch != who.Epoch {
		err = ErrRevoked
	}
	return a, err
}

// Exchange gives tokens for a code. It fails with ErrGrant, ErrCodeExpired, ErrDisabled and ErrRevoked. A code that
// comes twice ends the session that the first one began: one of the two was stolen (RFC 6749 §4.1.2).
func (s *Service) Exchange(ctx context.Context, peer Peer, client, redirect string, code, verifier secret.Secret) (Tokens, error) {
	return s.use(ctx, peer, "code", CodeGrant, client, code, func(g *Grant) error {
		if g.Redirect != redirect || !verifies(g.Challenge, verifier) {
			return ErrGrant
		}
		if !s.now().Before(g.Until) {
			return ErrCodeExpired
		}
		return nil
	})
}

// verifies checks a PKCE verifier (RFC 7636 §4.6).
func verifies(challenge string, verifier secret.Secret) bool {
	v := verifier.Reveal()
	if len(v) < 43 || len(v) > 128 {
		return false
	}
	for _, b := range v {
		if !('a' <= b && b <= 'z' || 'A' <= b && b <= 'Z' || '0' <= b && b <= '9' || strings.IndexByte("-._~", b) >= 0) {
			return false
		}
	}
	sum := sha256.Sum256(v)
	return subtle.ConstantTimeCompare([]byte(base64.RawURLEncoding.EncodeToString(sum[:])), []byte(challenge)) == 1
}

// kept is an error that is told after the change was made.
type kept struct{ error }

// use turns a grant into a session. judge may change the grant, and when its error is a kept one, the change stays.
func (s *Service) use(ctx context.Context, peer Peer, secretKind string, kind GrantKind, client string, code secret.Secret, judge func(*Grant) error) (t Tokens, err error) {
	subject := ""
	defer func() {
		if err != nil && !errors.Is(err, ErrPending) && !errors.Is(err, ErrSlowDown) {
			s.audit(ctx, slog.LevelWarn, peer, "tokens refused", "user", subject, "client", client, "reason", fault.Public(err))
		}
	}()
	if _, err := s.Client(client); err != nil {
		return t, err
	}
	key := keyOf(secretKind, code)
	seen, err := s.cfg.Store.Grant(ctx, key)
	if fault.Is(err, fault.NotFound) {
		return t, ErrGrant
	}
	if err != nil {
		return t, err
	}
	subject = seen.Subject
	var a Account
	if seen.Subject != "" {
		if a, err = s.active(ctx, seen.Subject); err != nil {
			return t, err
		}
	}
	family, now := hex.EncodeToString(random(familySize)), s.now()
	refresh, err := s.signer.newRefresh(family, 1)
	if err != nil {
		return t, err
	}
	sess := Session{
		Family: family, Subject: a.Subject, Client: client, Epoch: a.Epoch, Generation: 1, Token: keyOf("refresh", refresh), From: peer.from(),
		Created: now, Used: now, Until: now.Add(s.cfg.SessionLife), Expires: now.Add(s.cfg.RefreshLife),
	}
	var refusal error
	replayed := ""
	_, err = s.cfg.Store.ChangeGrant(ctx, key, func(g Grant) (Grant, *Session, error) {
		refusal, replayed = nil, ""
		if g.Kind != kind || g.Client != client {
			return g, nil, ErrGrant
		}
		// Who has a code but not its verifier is nobody whose attempt says anything of the session.
		if g.Family != "" && kind == DeviceGrant {
			replayed = g.Family
			return g, nil, ErrGrant
		}
		if err := judge(&g); err != nil {
			if k, ok := errors.AsType[kept](err); ok {
				refusal = k.error
				return g, nil, nil
			}
			return g, nil, err
		}
		if g.Family != "" {
			replayed = g.Family
			return g, nil, ErrGrant
		}
		if g.Subject != seen.Subject {
			return g, nil, ErrPending // agreed to this very moment; the next poll finds it
		}
		if g.Epoch != a.Epoch {
			return g, nil, ErrRevoked
		}
		g.Family = family
		return g, &sess, nil
	})
	if replayed != "" {
		if err := s.endSession(ctx, peer, replayed, "code used twice"); err != nil {
			return t, err
		}
	}
	if fault.Is(err, fault.NotFound) {
		err = ErrGrant
	}
	if err = cmpErr(refusal, err); err != nil {
		return t, err
	}
	s.audit(ctx, slog.LevelInfo, peer, "session began", "user", a.Subject, "mail", a.Mail, "client", client, "session", family)
	return s.give(a, sess, refresh)
}

func cmpErr(a, b error) error {
	if a != nil {
		return a
	}
	return b
}

func (s *Service) give(a Account, sess Session, refresh secret.Secret) (Tokens, error) {
	life := min(s.cfg.AccessLife, sess.Until.Sub(s.now()))
	access, err := s.signer.access(a, sess, s.now(), life)
	return Tokens{Access: access, Refresh: refresh, Life: life, User: a.User}, err
}

// endSession revokes the tokens of a session.
func (s *Service) endSession(ctx context.Context, peer Peer, family, why string) error {
	r := s.revocation(sessionPrefix+family, 0)
	sess, err := s.cfg.Store.ChangeUserSession(ctx, family, func(now Session) (Session, *Revocation, error) {
		now.Revoked = true
		return now, r, nil
	})
	if fault.Is(err, fault.NotFound) { // its access tokens may live
		err = s.cfg.Store.Revoke(ctx, *r)
	}
	s.view.forget()
	if err == nil {
		s.audit(ctx, slog.LevelInfo, peer, "session ended", "user", sess.Subject, "session", family, "reason", why)
	}
	return err
}

// Refresh gives new tokens for a refresh token, which is used up. It fails with ErrGrant, ErrRevoked (also when the session expired), and
// ErrDisabled. A token that comes twice ends its session: one of the two was stolen (RFC 9700 §4.14.2). A program that
// runs more than once at a time must let one copy refresh.
func (s *Service) Refresh(ctx context.Context, peer Peer, client string, token secret.Secret) (Tokens, error) {
	sess, t, err := s.prolong(ctx, peer, client, token)
	if err != nil {
		s.audit(ctx, slog.LevelWarn, peer, "tokens refused", "user", sess.Subject, "client", client, "session", sess.Family, "reason", fault.Public(err))
		return Tokens{}, err
	}
	return t, nil
}

func (s *Service) prolong(ctx context.Context, peer Peer, client string, token secret.Secret) (Session, Tokens, error) {
	var t Tokens
	if _, err := s.Client(client); err != nil {
		return Session{}, t, err
	}
	shown, err := s.signer.parseRefresh(string(token.Reveal()))
	if err != nil {
		return Session{}, t, err
	}
	sess, err := s.cfg.Store.UserSession(ctx, shown.family)
	if fault.Is(err, fault.NotFound) {
		return sess, t, ErrGrant
	}
	if err != nil {
		return sess, t, err
	}
	a, err := s.active(ctx, sess.Subject)
	if err != nil {
		return sess, t, err
	}
	next, err := s.signer.newRefresh(sess.Family, sess.Generation+1)
	if err != nil {
		return sess, t, err
	}
	reused := false
	after, err := s.cfg.Store.ChangeUserSession(ctx, sess.Family, func(was Session) (Session, *Revocation, error) {
		now := s.now()
		reused = false
		switch {
		case was.Client != client:
			return was, nil, ErrGrant
		case was.Revoked, was.Epoch != a.Epoch, !now.Before(was.Until), !now.Before(was.Expires):
			return was, nil, ErrRevoked
		case subtle.ConstantTimeCompare(was.Token[:], keyBytes(token)) != 1:
			reused = true
			was.Revoked = true
			return was, s.revocation(sessionPrefix+was.Family, 0), nil
		}
		was.Generation, was.Token, was.Used = was.Generation+1, keyOf("refresh", next), now
		was.Expires = earlier(was.Until, now.Add(s.cfg.RefreshLife))
		return was, nil, nil
	})
	switch {
	case fault.Is(err, fault.NotFound):
		return sess, t, ErrGrant
	case err != nil:
		return sess, t, err
	case reused:
		s.view.forget()
		s.audit(ctx, slog.LevelWarn, peer, "session ended", "user", sess.Subject, "session", sess.Family, "reason", "refresh token used twice")
		return sess, t, ErrGrant
	}
	t, err = s.give(a, after, next)
	return after, t, err
}

func keyBytes(token secret.Secret) []byte {
	k := keyOf("refresh", token)
	return k[:]
}

func earlier(a, b time.Time) time.Time {
	if a.Before(b) {
		return a
	}
	return b
}

// Logout ends the session of an access or a refresh token. A token that is none ends nothing and is no
// error (RFC 7009 §2.2).
func (s *Service) Logout(ctx context.Context, peer Peer, token secret.Secret) error {
	text := string(token.Reveal())
	if r, err := s.signer.parseRefresh(text); err == nil {
		return s.endSession(ctx, peer, r.family, "signed out")
	}
	c, err := s.signer.verify(text, s.now())
	if err != nil {
		return nil
	}
	return s.endSession(ctx, peer, c.Family, "signed out")
}

// DeviceAuthorization is what a program without a browser gets to show and to poll with (RFC 8628 §3.2).
type DeviceAuthorization struct {
	DeviceCode secret.Secret
	UserCode   string // as people read it, WDJB-MJHT
	Life       time.Duration
	Interval   time.Duration
}

// userLetters make no words and are not taken for each other (RFC 8628 §6.1).
const (
	userLetters = "BCDFGHJKLMNPQRSTVWXZ"
	userCodeLen = 8
)

// ParseUserCode reads a code as people type it; ErrUserCode.
func ParseUserCode(typed string) (string, error) {
	if len(typed) > 64 {
		return "", ErrUserCode
	}
	var b strings.Builder
	for _, r := range strings.ToUpper(typed) {
		switch {
		case strings.ContainsRune(userLetters, r):
			b.WriteRune(r)
		case r == '-' || r == ' ' || r == '\t':
		default:
			return "", ErrUserCode
		}
	}
	if b.Len() != userCodeLen {
		return "", ErrUserCode
	}
	return b.String(), nil
}

// ShowUserCode writes a code as people read it.
func ShowUserCode(code string) string { return code[:userCodeLen/2] + "-" + code[userCodeLen/2:] }

func newUserCode() string {
	b := make([]byte, userCodeLen)
	for i := range b {
		n, err := rand.Int(rand.Reader, big.NewInt(int64(len(userLetters))))
		if err != nil {
			panic(err) // crypto/rand does not fail
		}
		b[i] = userLetters[n.Int64()]
	}
	return string(b)
}

// StartDevice begins a sign-in of a program without a browser. It fails with ErrClient and Throttled.
func (s *Service) StartDevice(ctx context.Context, peer Peer, client string) (DeviceAuthorization, error) {
	var d DeviceAuthorization
	if _, err := s.Client(client); err != nil {
		return d, err
	}
	// Who asks too often must not use up what all others have together.
	wait := s.requests.take(placeOf(peer.Addr))
	if wait == 0 {
		wait = s.all.take(struct{}{})
	}
	if wait > 0 {
		return d, throttled(wait, "too many requests; try again later")
	}
	until := s.now().Add(DeviceLife)
	for range 5 {
		d = DeviceAuthorization{newToken("vd1_"), newUserCode(), DeviceLife, PollInterval}
		err := s.cfg.Store.PutGrant(ctx, Grant{
			Key: keyOf("device", d.DeviceCode), Kind: DeviceGrant, Lookup: lookup(d.UserCode), Until: until, Expires: until.Add(codeMemory),
			GrantDetails: GrantDetails{Client: client, Interval: PollInterval, From: peer.from()},
		})
		if err == nil {
			d.UserCode = ShowUserCode(d.UserCode)
			return d, nil
		}
		if !fault.Is(err, fault.AlreadyExists) { // two codes alike are rarer than a broken random generator
			return d, err
		}
	}
	return d, fault.New(fault.Unavailable, "no free code was found")
}

// lookup is how a user code is kept: whoever reads the database must not approve with it.
func lookup(userCode string) string {
	sum := sha256.Sum256([]byte("user code\x00" + userCode))
	return hex.EncodeToString(sum[:])
}

// DeviceRequest is what somebody is asked to agree to.
type DeviceRequest struct {
	UserCode string // as ParseUserCode returns it
	Client   Client
	From     string // where the program that asks stands
}

// DeviceRequest finds the request that shows a code. It fails with ErrUserCode, and with Throttled for who tries many.
func (s *Service) DeviceRequest(ctx context.Context, peer Peer, typed string) (DeviceRequest, error) {
	place := placeOf(peer.Addr)
	if wait := s.userCodes.take(place); wait > 0 {
		return DeviceRequest{}, throttled(wait, "too many codes; try again later")
	}
	g, err := s.deviceGrant(ctx, typed)
	if err != nil {
		return DeviceRequest{}, err
	}
	s.userCodes.giveBack(place)
	c, err := s.Client(g.Client)
	code, _ := ParseUserCode(typed)
	return DeviceRequest{code, c, g.From}, err
}

func (s *Service) deviceGrant(ctx context.Context, typed string) (Grant, error) {
	code, err := ParseUserCode(typed)
	if err != nil {
		return Grant{}, err
	}
	g, err := s.cfg.Store.FindGrant(ctx, DeviceGrant, lookup(code))
	if fault.Is(err, fault.NotFound) {
		return g, ErrUserCode
	}
	if err == nil {
		err = s.undecided(g)
	}
	return g, err
}

func (s *Service) undecided(g Grant) error {
	if g.Subject != "" || g.Denied || !s.now().Before(g.Until) {
		return ErrUserCode
	}
	return nil
}

// DecideDevice is somebody who proved itself and agrees, or does not. It fails with ErrUserCode, ErrDisabled and ErrRevoked.
func (s *Service) DecideDevice(ctx context.Context, peer Peer, who Proof, typed string, allow bool) error {
	a, err := s.proved(ctx, who)
	if err != nil {
		return err
	}
	g, err := s.deviceGrant(ctx, typed)
	if err != nil {
		return err
	}
	_, err = s.cfg.Store.ChangeGrant(ctx, g.Key, func(now Grant) (Grant, *Session, error) {
		if err := s.undecided(now); err != nil {
			return now, nil, err
		}
		if !allow {
			now.Denied = true
			return now, nil, nil
		}
		now.Subject, now.Epoch = a.Subject, a.Epoch
		return now, nil, nil
	})
	if fault.Is(err, fault.NotFound) {
		err = ErrUserCode
	}
	if err != nil {
		return err
	}
	what := "device request denied"
	if allow {
		what = "device request allowed"
	}
	s.audit(ctx, slog.LevelInfo, peer, what, "user", a.Subject, "mail", a.Mail, "client", g.Client, "asked_from", g.From)
	return nil
}

// PollDevice gives tokens once somebody agreed. It fails with ErrPending, ErrSlowDown, ErrDenied, ErrCodeExpired, ErrGrant, ErrDisabled and
// ErrRevoked.
func (s *Service) PollDevice(ctx context.Context, peer Peer, client string, deviceCode secret.Secret) (Tokens, error) {
	return s.use(ctx, peer, "device", DeviceGrant, client, deviceCode, func(g *Grant) error {
		now := s.now()
		if !now.Before(g.Until) {
			return ErrCodeExpired
		}
		early := !g.Polled.IsZero() && now.Sub(g.Polled) < g.Interval
		g.Polled = now
		switch {
		case early:
			g.Interval += PollInterval
			return kept{ErrSlowDown}
		case g.Denied:
			return kept{ErrDenied}
		case g.Subject == "":
			return kept{ErrPending}
		}
		return nil
	})
}
