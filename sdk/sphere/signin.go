package sphere

import (
	"cmp"
	"context"
	"crypto/rand"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"html"
	"log/slog"
	"net"
	"net/http"
	"net/url"
	"time"
)

// clientID is what this program is to sign-in.
const clientID = "azsphere"

// Paths of sign-in.
const (
	authorizePath  = "/signin/authorize"
	tokenPath      = "/signin/token"
	startPath      = "/signin/device_authorization"
	revokePath     = "/signin/revoke"
	registerPath   = "/signin/register"
	userPath       = "/signin/user"
	passwordPath   = "/signin/password"
	invitationPath = "/signin/invitations"
)

// Tokens are what a sign-in gives. They marshal to JSON, to be kept where only their owner reads, and print as [redacted].
type Tokens struct {
	Access  string    `json:"accessToken"`
	Refresh string    `json:"refreshToken"` // for one use
	Expires time.Time `json:"expires"`      // when Access ends
}

// String keeps tokens out of logs.
func (t Tokens) String() string { return "[redacted]" }

// GoString keeps tokens out of logs.
func (t Tokens) GoString() string { return "[redacted]" }

// LogValue keeps tokens out of logs.
func (t Tokens) LogValue() slog.Value { return slog.StringValue("[redacted]") }

// DeviceCode is what a person types on a page to sign in a program elsewhere.
type DeviceCode struct {
	UserCode        string
	VerificationURL string // where it is typed
	CompleteURL     string // the same, with the code in it
	Expires         time.Time
}

// Account is a person's.
type Account struct {
	UserID   string    `json:"userId"` // a GUID
	Mail     string    `json:"mail"`
	Local    bool      `json:"local"` // it has a password here
	Disabled bool      `json:"disabled"`
	Created  time.Time `json:"created"`
}

// SignIn proves people to one installation.
type SignIn struct {
	caller
	now func() time.Time
}

// NewSignIn returns one. It does not connect yet.
func NewSignIn(cfg Config) (*SignIn, error) {
	c, err := newCaller(cfg)
	if err != nil {
		return nil, err
	}
	return &SignIn{c, time.Now}, nil
}

// form posts one, to an endpoint that may give tokens.
func (s *SignIn) form(ctx context.Context, path string, values url.Values) ([]byte, error) {
	data, _, err := s.send(ctx, http.MethodPost, path, http.Header{"Content-Type": {"application/x-www-form-urlencoded"}, "Accept": {"application/json"}}, []byte(values.Encode()))
	return data, err
}

func (s *SignIn) tokens(ctx context.Context, values url.Values) (Tokens, error) {
	values.Set("client_id", clientID)
	began := s.now()
	data, err := s.form(ctx, tokenPath, values)
	if err != nil {
		return Tokens{}, err
	}
	var a struct {
		Access  string `json:"access_token"`
		Refresh string `json:"refresh_token"`
		Type    string `json:"token_type"`
		Life    int    `json:"expires_in"`
	}
	if err := json.Unmarshal(data, &a); err != nil || a.Access == "" {
		return Tokens{}, errors.New("sign-in answered without a token") // the cause would quote it
	}
	return Tokens{a.Access, a.Refresh, began.Add(time.Duration(a.Life) * time.Second)}, nil
}

// Browser signs a person in with its browser on this machine (RFC 8252): show is given the address to open. It waits until the person is through, or ctx ends.
func (s *SignIn) Browser(ctx context.Context, show func(address string) error) (Tokens, error) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return Tokens{}, fmt.Errorf("no port for the browser's answer: %w", err)
	}
	redirect := "http://" + ln.Addr().String() + "/"
	state, verifier := random(), random()
	sum := sha256.Sum256([]byte(verifier))
	answers := make(chan url.Values, 1)
	server := &http.Server{ReadHeaderTimeout: 10 * time.Second, Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", "text/html; charset=utf-8")
		w.Header().Set("Content-Security-Policy", "default-src 'none'")
		w.Header().Set("Cache-Control", "no-store")
		q := r.URL.Query()
		// Any page may send a browser here. Only the answer to our own request counts, once.
		if r.Method != http.MethodGet || r.URL.Path != "/" || subtle.ConstantTimeCompare([]byte(q.Get("state")), []byte(state)) != 1 {
			w.WriteHeader(http.StatusNotFound)
			return
		}
		text := "You are signed in. You may close this page."
		if q.Get("code") == "" {
			text = "You are not signed in: " + q.Get("error_description")
		}
		fmt.Fprintf(w, "<!doctype html><title>Sign-in</title><p>%s</p>", html.EscapeString(text))
		select {
		case answers <- q:
		default:
		}
	})}
	done := make(chan struct{})
	go func() {
		defer close(done)
		_ = server.Serve(ln) // ends with Shutdown or Close
	}()
	defer func() {
		bye, cancel := context.WithTimeout(context.WithoutCancel(ctx), 2*time.Second) // the page is on its way still
		defer cancel()
		if server.Shutdown(bye) != nil {
			server.Close()
		}
		<-done
	}()
	if err := show(s.base + authorizePath + "?" + url.Values{
		"response_type": {"code"}, "client_id": {clientID}, "redirect_uri": {redirect}, "state": {state}, "scope": {"user_impersonation offline_access"},
		"code_challenge": {base64.RawURLEncoding.EncodeToString(sum[:])}, "code_challenge_method": {"S256"},
	}.Encode()); err != nil {
		return Tokens{}, err
	}
	var q url.Values
	select {
	case <-ctx.Done():
		return Tokens{}, fmt.Errorf("nobody signed in: %w", ctx.Err())
	case q = <-answers:
	}
	if iss := q.Get("iss"); iss != s.base { // RFC 9207: the answer of another server
		return Tokens{}, fmt.Errorf("the browser's answer is from %q, not from %s", iss, s.base)
	}
	if q.Get("code") == "" {
		return Tokens{}, &Error{Status: http.StatusForbidden, Code: q.Get("error"), Message: cmp.Or(q.Get("error_description"), "the sign-in was declined")}
	}
	return s.tokens(ctx, url.Values{"grant_type": {"authorization_code"}, "code": {q.Get("code")}, "redirect_uri": {redirect}, "code_verifier": {verifier}})
}

// random is a text that nobody guesses, of RFC 7636's alphabet.
func random() string {
	var b [32]byte
	rand.Read(b[:])
	return base64.RawURLEncoding.EncodeToString(b[:])
}

// DeviceCode signs a person in that has a browser elsewhere (RFC 8628): show is given what to tell the person. It waits until the person is through, or the code or ctx ends.
func (s *SignIn) DeviceCode(ctx context.Context, show func(DeviceCode) error) (Tokens, error) {
	began := s.now()
	data, err := s.form(ctx, startPath, url.Values{"client_id": {clientID}})
	if err != nil {
		return Tokens{}, err
	}
	var a struct {
		Device   string `json:"device_code"`
		User     string `json:"user_code"`
		At       string `json:"verification_uri"`
		Complete string `json:"verification_uri_complete"`
		Life     int    `json:"expires_in"`
		Interval int    `json:"interval"`
	}
	if err := json.Unmarshal(data, &a); err != nil || a.Device == "" || a.User == "" {
		return Tokens{}, errors.New("sign-in answered without a device code")
	}
	if err := show(DeviceCode{a.User, a.At, a.Complete, began.Add(time.Duration(a.Life) * time.Second)}); err != nil {
		return Tokens{}, err
	}
	interval := max(time.Duration(a.Interval)*time.Second, time.Second)
	for {
		select {
		case <-ctx.Done():
			return Tokens{}, fmt.Errorf("nobody signed in: %w", ctx.Err())
		case <-time.After(interval):
		}
		t, err := s.tokens(ctx, url.Values{"grant_type": {"urn:ietf:params:oauth:grant-type:device_code"}, "device_code": {a.Device}})
		e, refused := errors.AsType[*Error](err)
		switch {
		case err == nil:
			return t, nil
		case refused && e.Code == "authorization_pending":
		case refused && (e.Code == "slow_down" || e.Status == http.StatusTooManyRequests):
			interval += 5 * time.Second // RFC 8628 §3.5
		default:
			return Tokens{}, err
		}
	}
}

// Refresh exchanges a refresh token, which is good for nothing afterwards. Code invalid_grant means that the person has to sign in again.
func (s *SignIn) Refresh(ctx context.Context, refresh string) (Tokens, error) {
	return s.tokens(ctx, url.Values{"grant_type": {"refresh_token"}, "refresh_token": {refresh}})
}

// Logout ends the session that a token, of either kind, is of.
func (s *SignIn) Logout(ctx context.Context, token string) error {
	_, err := s.form(ctx, revokePath, url.Values{"token": {token}})
	return err
}

// json sends one call of sign-in that is not OAuth's. bearer may be empty.
func (s *SignIn) json(ctx context.Context, method, path, bearer string, body, answer any) error {
	header := http.Header{}
	if bearer != "" {
		header.Set("Authorization", "Bearer "+bearer)
	}
	var data []byte
	if body != nil {
		var err error
		if data, err = json.Marshal(body); err != nil {
			return err
		}
		header.Set("Content-Type", "application/json")
	}
	data, _, err := s.send(ctx, method, path, header, data)
	if err != nil || answer == nil {
		return err
	}
	if err := json.Unmarshal(data, answer); err != nil {
		return fmt.Errorf("sign-in's answer cannot be read: %w", err)
	}
	return nil
}

// Register makes an account with a password. invitation may be empty where the installation lets everybody register; bearer is empty, or the installation's
// administrator token, which needs no invitation.
func (s *SignIn) Register(ctx context.Context, bearer, mail, password, invitation string) (Account, error) {
	var a Account
	err := s.json(ctx, http.MethodPost, registerPath, bearer, map[string]string{"mail": mail, "password": password, "invitation": invitation}, &a)
	return a, err
}

// Account returns whose an access token is.
func (s *SignIn) Account(ctx context.Context, access string) (Account, error) {
	var a Account
	err := s.json(ctx, http.MethodGet, userPath, access, nil, &a)
	return a, err
}

// ChangePassword changes the password of whose the access token is, and ends all its sessions: the person signs in again.
func (s *SignIn) ChangePassword(ctx context.Context, access, old, fresh string) error {
	return s.json(ctx, http.MethodPost, passwordPath, access, map[string]string{"old": old, "new": fresh}, nil)
}

// Invite lets a mail address register, with the administrator token of the installation. The text, which may be empty, is what the invited person registers with.
// provider names an OpenID provider, or is empty for an account with a password; days 0 takes the default.
func (s *SignIn) Invite(ctx context.Context, administrator, mail, provider string, days int) (string, error) {
	var a struct {
		Invitation string `json:"invitation"`
	}
	err := s.json(ctx, http.MethodPost, invitationPath, administrator, map[string]any{"mail": mail, "provider": provider, "days": days}, &a)
	return a.Invitation, err
}

// Close ends idle connections. The sign-in may be used again.
func (s *SignIn) Close() error {
	s.http.CloseIdleConnections()
	return nil
}

// ErrSignedOut says that nobody is signed in. A Keeper's Update returns it, too.
var ErrSignedOut = errors.New("nobody is signed in")

// Keeper keeps the tokens of a person between programs.
type Keeper interface {
	// Update has change see what is kept and keeps what it returns, while no other program does the same: a refresh token that is used twice ends its session.
	// It returns what is kept then. An error of change is returned as it is, and nothing is kept.
	Update(ctx context.Context, change func(Tokens) (Tokens, error)) (Tokens, error)
}

// Session is a TokenSource that renews its tokens.
type Session struct {
	signIn *SignIn
	keeper Keeper
}

// NewSession returns a session over tokens that a Keeper keeps.
func NewSession(s *SignIn, k Keeper) *Session { return &Session{s, k} }

// early is how long before its end an access token is renewed: a request takes time, and clocks differ.
const early = time.Minute

// Token implements TokenSource.
func (s *Session) Token(ctx context.Context, stale string) (string, error) {
	t, err := s.keeper.Update(ctx, func(t Tokens) (Tokens, error) {
		if t.Access == "" && t.Refresh == "" {
			return t, ErrSignedOut
		}
		if t.Access != "" && t.Access != stale && s.signIn.now().Add(early).Before(t.Expires) {
			return t, nil
		}
		if t.Refresh == "" {
			return t, ErrSignedOut
		}
		fresh, err := s.signIn.Refresh(ctx, t.Refresh)
		if e, ok := errors.AsType[*Error](err); ok && e.Code == "invalid_grant" {
			return t, fmt.Errorf("%w: %w", ErrSignedOut, err)
		}
		return fresh, err
	})
	return t.Access, err
}
