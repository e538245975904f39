package signin

import (
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"encoding/binary"
	"encoding/hex"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/go-jose/go-jose/v4"
	"github.com/go-jose/go-jose/v4/jwt"

	"github.com/vauban-iot/vauban/fault"
	"github.com/vauban-iot/vauban/internal/secret"
)

// Tokens are what a sign-in gives. They print as [redacted].
type Tokens struct {
	Access  secret.Secret // a bearer token
	Refresh secret.Secret // for one use
	Life    time.Duration // of Access
	User    User
}

// claims of an access token (RFC 9068).
type claims struct {
	Issuer  string `json:"iss"`
	Subject string `json:"sub"`
	For     string `json:"aud"`
	Expires int64  `json:"exp"`
	Issued  int64  `json:"iat"`
	ID      string `json:"jti"`
	Client  string `json:"client_id"`
	Mail    string `json:"email"`
	Family  string `json:"sid"`
	Epoch   int64  `json:"epoch"`
}

const (
	audience   = "https://sphere.azure.net/api" // what Azure's own tokens for this service are for (sphere §11.1)
	tokenType  = "at+jwt"
	maxToken   = 4 << 10
	refreshTag = "vr1_"

	familySize = 16
	nonceSize  = 24
	macSize    = 16
)

// signer makes tokens that only servers of this installation make.
type signer struct {
	issuer  string
	key     secret.Secret
	refresh secret.Secret
	jwt     jose.Signer
}

func newSigner(issuer string, access, refresh secret.Secret) (*signer, error) {
	j, err := jose.NewSigner(jose.SigningKey{Algorithm: jose.HS256, Key: access.Reveal()}, (&jose.SignerOptions{}).WithType(tokenType))
	if err != nil {
		return nil, err
	}
	return &signer{issuer, access, refresh, j}, nil
}

func (s *signer) access(a Account, sess Session, now time.Time, life time.Duration) (secret.Secret, error) {
	text, err := jwt.Signed(s.jwt).Claims(claims{
		Issuer: s.issuer, Subject: a.Subject, For: audience, Expires: now.Add(life).Unix(), Issued: now.Unix(), ID: hex.EncodeToString(random(8)),
		Client: sess.Client, Mail: a.Mail, Family: sess.Family, Epoch: sess.Epoch,
	}).Serialize()
	return secret.New([]byte(text)), err
}

// verify fails with ErrToken and ErrExpired.
func (s *signer) verify(text string, now time.Time) (c claims, err error) {
	if len(text) > maxToken {
		return c, ErrToken
	}
	t, err := jwt.ParseSigned(text, []jose.SignatureAlgorithm{jose.HS256})
	if err != nil || len(t.Headers) != 1 || t.Headers[0].ExtraHeaders[jose.HeaderType] != tokenType {
		return c, ErrToken
	}
	if err := t.Claims(s.key.Reveal(), &c); err != nil || c.Issuer != s.issuer || c.For != audience || c.Subject == "" || c.Family == "" {
		return claims{}, ErrToken
	}
	if now.Unix() >= c.Expires {
		return claims{}, ErrExpired
	}
	return c, nil
}

// refreshToken is what a refresh token holds. The MAC tells one that was good once from one that somebody
// made up: only the first ends the session.
type refreshToken struct {
	family     string
	generation int64
}

func (s *signer) newRefresh(family string, generation int64) (secret.Secret, error) {
	b, err := hex.DecodeString(family)
	if err != nil || len(b) != familySize {
		return secret.Secret{}, fault.New(fault.Internal, "a family is damaged")
	}
	b = binary.BigEndian.AppendUint64(b, uint64(generation))
	b = append(b, random(nonceSize)...)
	b = append(b, s.mac(b)...)
	return secret.New([]byte(refreshTag + base64.RawURLEncoding.EncodeToString(b))), nil
}

func (s *signer) mac(b []byte) []byte {
	m := hmac.New(sha256.New, s.refresh.Reveal())
	m.Write(b)
	return m.Sum(nil)[:macSize]
}

// parseRefresh fails with ErrGrant.
func (s *signer) parseRefresh(text string) (t refreshToken, err error) {
	const size = familySize + 8 + nonceSize + macSize
	encoded, ok := strings.CutPrefix(text, refreshTag)
	if !ok || len(encoded) != base64.RawURLEncoding.EncodedLen(size) {
		return t, ErrGrant
	}
	b, err := base64.RawURLEncoding.Strict().DecodeString(encoded)
	if err != nil || len(b) != size || !hmac.Equal(s.mac(b[:size-macSize]), b[size-macSize:]) {
		return t, ErrGrant
	}
	return refreshToken{hex.EncodeToString(b[:familySize]), int64(binary.BigEndian.Uint64(b[familySize:]))}, nil
}

// keyOf is how a secret is looked up; which kind it is of keeps one from passing as another.
func keyOf(kind string, s secret.Secret) Key {
	return sha256.Sum256(append([]byte(kind+"\x00"), s.Reveal()...))
}

// Names of revocations.
const (
	userPrefix    = "user/"
	sessionPrefix = "session/"
)

// revocationMargin keeps a revocation for longer than any token it ends, by what servers' clocks may differ.
const revocationMargin = 10 * time.Minute

func (s *Service) revocation(name string, epoch int64) *Revocation {
	return &Revocation{Name: name, Epoch: epoch, Expires: s.now().Add(s.cfg.AccessLife + revocationMargin)}
}

// viewAge is how late a server sees what another one revoked.
const viewAge = time.Second

// view is what was revoked, as it was at most viewAge ago.
type view struct {
	read func(ctx context.Context, now time.Time) ([]Revocation, error)
	now  func() time.Time

	state atomic.Pointer[revoked]
	mu    sync.Mutex // one reads
	// stale counts what this server revoked: what was read before does not count any more.
	stale atomic.Int64
}

type revoked struct {
	at     time.Time
	stale  int64
	epochs map[string]int64 // by the name of the revocation
}

func (r *revoked) covers(c claims) bool {
	if len(r.epochs) == 0 {
		return false
	}
	if _, ended := r.epochs[sessionPrefix+c.Family]; ended {
		return true
	}
	return c.Epoch < r.epochs[userPrefix+c.Subject]
}

// forget makes the next Check read.
func (v *view) forget() { v.stale.Add(1) }

func (v *view) fresh() *revoked {
	r := v.state.Load()
	if r == nil || r.stale != v.stale.Load() {
		return nil
	}
	if age := v.now().Sub(r.at); age < 0 || age >= viewAge {
		return nil
	}
	return r
}

// current returns the view. When it cannot be read nobody is let in: somebody may just have been shut out.
func (v *view) current(ctx context.Context) (*revoked, error) {
	if r := v.fresh(); r != nil {
		return r, nil
	}
	v.mu.Lock()
	defer v.mu.Unlock()
	if r := v.fresh(); r != nil {
		return r, nil
	}
	// A peer that leaves must not fail those who wait with it.
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), 5*time.Second)
	defer cancel()
	next := &revoked{at: v.now(), stale: v.stale.Load()}
	all, err := v.read(ctx, next.at)
	if err != nil {
		return nil, fault.Wrap(fault.Unavailable, err, "it cannot be known which sessions ended")
	}
	next.epochs = make(map[string]int64, len(all))
	for _, r := range all {
		next.epochs[r.Name] = r.Epoch
	}
	v.state.Store(next)
	return next, nil
}
