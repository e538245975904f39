// Package signin is the HTTPS head of sign-in: OAuth for programs (RFC 6749 with PKCE, RFC 8628, RFC 7009), pages on
// which people prove who they are, and a few calls in JSON about accounts.
//
// The pages need no script and run none. A form is sealed to the request it belongs to and to the
// browser it was given to, so that no other site can send it.
package signin

import (
	"bytes"
	"context"
	"embed"
	"encoding/json"
	"errors"
	"html/template"
	"log/slog"
	"math"
	"net/http"
	"net/netip"
	"strconv"
	"strings"
	"time"

	"github.com/vauban-iot/vauban/access/signin"
	"github.com/vauban-iot/vauban/fault"
	"github.com/vauban-iot/vauban/head/rest"
	"github.com/vauban-iot/vauban/internal/secret"
)

// Core is sign-in as this head needs it. [signin.Service] is one.
type Core interface {
	Issuer() string
	Key(purpose string) secret.Secret
	Check(ctx context.Context, bearer string) (signin.User, error)

	CheckRequest(r signin.AuthorizationRequest) (signin.Client, error)
	Authenticate(ctx context.Context, p signin.Peer, mail string, password secret.Secret) (signin.Proof, error)
	Providers() []signin.Provider
	Begin(ctx context.Context, provider, redirect string) (signin.Trip, error)
	Finish(ctx context.Context, p signin.Peer, provider string, t signin.Trip, code secret.Secret) (signin.Proof, error)
	Grant(ctx context.Context, p signin.Peer, who signin.Proof, r signin.AuthorizationRequest) (secret.Secret, error)
	DeviceRequest(ctx context.Context, p signin.Peer, typed string) (signin.DeviceRequest, error)
	DecideDevice(ctx context.Context, p signin.Peer, who signin.Proof, typed string, allow bool) error

	Exchange(ctx context.Context, p signin.Peer, client, redirect string, code, verifier secret.Secret) (signin.Tokens, error)
	Refresh(ctx context.Context, p signin.Peer, client string, token secret.Secret) (signin.Tokens, error)
	StartDevice(ctx context.Context, p signin.Peer, client string) (signin.DeviceAuthorization, error)
	PollDevice(ctx context.Context, p signin.Peer, client string, deviceCode secret.Secret) (signin.Tokens, error)
	Logout(ctx context.Context, p signin.Peer, token secret.Secret) error

	Register(ctx context.Context, p signin.Peer, n signin.NewUser) (signin.User, error)
	ChangePassword(ctx context.Context, p signin.Peer, user signin.User, old, fresh secret.Secret) error
	Invite(ctx context.Context, p signin.Peer, i signin.Invitation) (secret.Secret, error)
	User(ctx context.Context, subject string) (signin.UserInfo, error)
	Users(ctx context.Context, after string, limit int) ([]signin.UserInfo, error)
	Disable(ctx context.Context, p signin.Peer, subject string) error
	Enable(ctx context.Context, p signin.Peer, subject string) error
	RevokeUser(ctx context.Context, p signin.Peer, subject string) error
	ResetPassword(ctx context.Context, p signin.Peer, subject string, fresh secret.Secret) error
}

var _ Core = (*signin.Service)(nil)

// Config is what the head stands on.
type Config struct {
	Service Core // required
	// Administrator reports whether a bearer token is the installation's administrator token; nil: none is.
	Administrator func(token string) bool
	Hostname      string           // of the installation, for people; required
	Now           func() time.Time // nil: time.Now
	Logger        *slog.Logger     // nil: slog.Default()
}

// Head serves the paths that Owns names.
type Head struct {
	cfg     Config
	core    Core
	log     *slog.Logger
	sealer  *sealer
	pages   *template.Template
	handler http.Handler
}

// Places. The page for device codes is typed by people.
const (
	prefix       = "/signin/"
	metadataPath = "/.well-known/oauth-authorization-server"

	authorizePath  = prefix + "authorize"
	tokenPath      = prefix + "token"
	startPath      = prefix + "device_authorization"
	revokePath     = prefix + "revoke"
	devicePath     = prefix + "device"
	continuePath   = prefix + "continue"
	confirmPath    = prefix + "confirm"
	providerPath   = prefix + "provider/"
	stylePath      = prefix + "assets/signin.css"
	registerPath   = prefix + "register"
	userPath       = prefix + "user"
	passwordPath   = prefix + "password"
	usersPath      = prefix + "users"
	invitationPath = prefix + "invitations"
)

//go:embed assets templates
var files embed.FS

// New returns a head.
func New(cfg Config) (*Head, error) {
	if cfg.Service == nil || cfg.Hostname == "" {
		return nil, errors.New("head/signin: incomplete configuration: Service and Hostname are required")
	}
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	if cfg.Logger == nil {
		cfg.Logger = slog.Default()
	}
	h := &Head{cfg: cfg, core: cfg.Service, log: cfg.Logger}
	var err error
	if h.sealer, err = newSealer(cfg.Service.Key("forms")); err != nil {
		return nil, err
	}
	if h.pages, err = template.ParseFS(files, "templates/*.html"); err != nil {
		return nil, err
	}
	style, err := files.ReadFile("assets/signin.css")
	if err != nil {
		return nil, err
	}
	pages := http.NewServeMux()
	pages.Handle("GET "+authorizePath, h.page(h.authorize))
	pages.Handle("POST "+continuePath, h.page(h.proceed))
	pages.Handle("GET "+devicePath, h.page(h.devicePage))
	pages.Handle("POST "+devicePath, h.page(h.device))
	pages.Handle("GET "+providerPath+"{name}", h.page(h.toProvider))
	pages.Handle("GET "+providerPath+"{name}/callback", h.page(h.fromProvider))
	pages.Handle("GET "+confirmPath, h.page(h.confirmPage))
	pages.Handle("POST "+confirmPath, h.page(h.confirm))

	mux := http.NewServeMux()
	for _, path := range []string{authorizePath, continuePath, devicePath, confirmPath, providerPath} {
		mux.Handle(path, guarded(http.NewCrossOriginProtection().Handler(pages)))
	}
	mux.HandleFunc("GET "+stylePath, func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "text/css; charset=utf-8")
		w.Header().Set("Cache-Control", "public, max-age=3600")
		w.Header().Set("X-Content-Type-Options", "nosniff")
		w.Write(style)
	})
	// Browsers send what other sites ask them to: to make an account takes more than being on the right machine.
	own := http.NewCrossOriginProtection()
	mux.Handle("GET "+metadataPath, h.oauth(h.metadata))
	mux.Handle("POST "+tokenPath, h.oauth(h.token))
	mux.Handle("POST "+startPath, h.oauth(h.startDevice))
	mux.Handle("POST "+revokePath, h.oauth(h.revoke))
	mux.Handle("POST "+registerPath, own.Handler(h.oauth(h.register)))
	mux.Handle("GET "+userPath, h.oauth(h.user))
	mux.Handle("POST "+passwordPath, own.Handler(h.oauth(h.password)))
	mux.Handle("POST "+invitationPath, own.Handler(h.oauth(h.administrators(h.invite))))
	mux.Handle("GET "+usersPath, h.oauth(h.administrators(h.users)))
	mux.Handle("POST "+usersPath+"/{subject}/{action}", own.Handler(h.oauth(h.administrators(h.change))))
	h.handler = mux
	return h, nil
}

// Owns reports whether a path is served here.
func Owns(path string) bool { return strings.HasPrefix(path, prefix) || path == metadataPath }

// ServeHTTP implements http.Handler.
func (h *Head) ServeHTTP(w http.ResponseWriter, r *http.Request) { h.handler.ServeHTTP(w, r) }

// peer is where a request comes from, and whether it shows the administrator's token.
func (h *Head) peer(r *http.Request) signin.Peer {
	var p signin.Peer
	if ap, err := netip.ParseAddrPort(r.RemoteAddr); err == nil {
		p.Addr = ap.Addr()
	}
	if t := bearer(r); t != "" && h.cfg.Administrator != nil {
		p.Administrator = h.cfg.Administrator(t)
	}
	return p
}

func bearer(r *http.Request) string {
	scheme, token, _ := strings.Cut(r.Header.Get("Authorization"), " ")
	if !strings.EqualFold(scheme, "Bearer") {
		return ""
	}
	return strings.TrimSpace(token)
}

// guarded adds the headers that every page has. What a page's policy lets forms lead to is widened where needed.
func guarded(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		h := w.Header()
		h.Set("Content-Security-Policy", policy(""))
		h.Set("X-Content-Type-Options", "nosniff")
		// Not no-referrer, which would hide the origin of our own forms from CrossOriginProtection.
		h.Set("Referrer-Policy", "same-origin")
		h.Set("Cross-Origin-Opener-Policy", "same-origin")
		h.Set("Cross-Origin-Resource-Policy", "same-origin")
		h.Set("Cache-Control", "no-store")
		next.ServeHTTP(w, r)
	})
}

// policy lets a page use this origin's style and nothing else. Browsers hold what a form's answer redirects to against form-action
// too, so the place where the program waits for its code is named.
func policy(leads string) string {
	if leads != "" {
		leads = " " + leads
	}
	return "default-src 'none'; style-src 'self'; form-action 'self'" + leads + "; base-uri 'none'; frame-ancestors 'none'"
}

// answers of JSON calls.
type oauthHandler func(w http.ResponseWriter, r *http.Request) error

func (h *Head) oauth(do oauthHandler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Cache-Control", "no-store")
		w.Header().Set("X-Content-Type-Options", "nosniff")
		if err := do(w, r); err != nil {
			h.refuse(w, r, err)
		}
	})
}

// oauthError is a failure in the words of RFC 6749 §5.2.
type oauthError struct {
	status int
	code   string
	text   string
}

func (e oauthError) Error() string { return e.code + ": " + e.text }

func invalid(format string) error {
	return oauthError{http.StatusBadRequest, "invalid_request", format}
}

// words of what sign-in refuses.
var words = []struct {
	err    error
	status int
	code   string
}{
	{signin.ErrClient, http.StatusUnauthorized, "invalid_client"},
	{signin.ErrGrant, http.StatusBadRequest, "invalid_grant"},
	{signin.ErrDisabled, http.StatusBadRequest, "invalid_grant"},
	{signin.ErrPending, http.StatusBadRequest, "authorization_pending"},
	{signin.ErrSlowDown, http.StatusBadRequest, "slow_down"},
	{signin.ErrDenied, http.StatusBadRequest, "access_denied"},
	{signin.ErrCodeExpired, http.StatusBadRequest, "expired_token"},
	{signin.ErrToken, http.StatusUnauthorized, "invalid_token"},
	{signin.ErrExpired, http.StatusUnauthorized, "invalid_token"},
	{signin.ErrRevoked, http.StatusUnauthorized, "invalid_token"},
	{signin.ErrRegistration, http.StatusForbidden, "registration_not_allowed"},
	{signin.ErrMailTaken, http.StatusConflict, "mail_taken"},
	{signin.ErrCredentials, http.StatusForbidden, "invalid_credentials"},
}

// kinds are the answers to failures that words does not name.
var kinds = map[fault.Kind]oauthError{
	fault.Invalid:      {http.StatusBadRequest, "invalid_request", ""},
	fault.Malformed:    {http.StatusBadRequest, "invalid_request", ""},
	fault.TooLarge:     {http.StatusRequestEntityTooLarge, "invalid_request", ""},
	fault.Unauthorized: {http.StatusUnauthorized, "invalid_token", ""},
	fault.Forbidden:    {http.StatusForbidden, "access_denied", ""},
	fault.NotFound:     {http.StatusNotFound, "not_found", ""},
	fault.Throttled:    {http.StatusTooManyRequests, "temporarily_unavailable", ""},
	fault.Unavailable:  {http.StatusServiceUnavailable, "temporarily_unavailable", ""},
	fault.Timeout:      {http.StatusServiceUnavailable, "temporarily_unavailable", ""},
}

// wordsOf finds the answer to an error; what nobody foresaw says nothing.
func wordsOf(err error) oauthError {
	if e, ok := errors.AsType[oauthError](err); ok {
		return e
	}
	for _, w := range words {
		if errors.Is(err, w.err) {
			return oauthError{w.status, w.code, fault.Public(err)}
		}
	}
	if e, ok := kinds[fault.KindOf(err)]; ok {
		e.text = fault.Public(err)
		return e
	}
	return oauthError{http.StatusInternalServerError, "server_error", "the server could not complete the request"}
}

func (h *Head) refuse(w http.ResponseWriter, r *http.Request, err error) {
	if r.Context().Err() != nil {
		return // the peer left
	}
	e := wordsOf(err)
	if e.status >= 500 {
		h.log.Error("sign-in failed", "path", r.URL.Path, "err", err)
	}
	if e.status == http.StatusUnauthorized {
		w.Header().Set("WWW-Authenticate", `Bearer error="`+e.code+`"`)
	}
	retryAfter(w, err)
	reply(w, e.status, map[string]any{"error": e.code, "error_description": e.text})
}

func retryAfter(w http.ResponseWriter, err error) {
	if f, ok := errors.AsType[*fault.Error](err); ok && f.RetryAfter > 0 {
		w.Header().Set("Retry-After", strconv.Itoa(int(math.Ceil(f.RetryAfter.Seconds()))))
	}
}

func reply(w http.ResponseWriter, status int, v any) {
	b, err := json.Marshal(v)
	if err != nil {
		status, b = http.StatusInternalServerError, []byte(`{"error":"server_error"}`)
	}
	rest.JSON(w, status, "", b)
}

// frame is what pages show.
type frame struct {
	Title    string
	Host     string
	Problem  string
	Flow     string // sealed
	Client   string // the program that wants in
	Mail     string
	UserCode string
	From     string
	Device   bool // the program waits elsewhere
	Local    bool // passwords are asked for
	Choices  []choice
	Text     string
}

// choice is a provider.
type choice struct{ Title, URL string }

func (h *Head) render(w http.ResponseWriter, status int, name string, f frame) error {
	f.Host = h.cfg.Hostname
	var out bytes.Buffer
	if err := h.pages.ExecuteTemplate(&out, name, f); err != nil {
		return err
	}
	w.Header().Set("Content-Type", "text/html; charset=utf-8")
	w.WriteHeader(status)
	_, _ = out.WriteTo(w) // a reader that left is no error of ours
	return nil
}

// page answers people; its error becomes a page.
func (h *Head) page(do func(w http.ResponseWriter, r *http.Request) error) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		err := do(w, r)
		if err == nil || r.Context().Err() != nil {
			return
		}
		status, text := h.said(r, err)
		retryAfter(w, err)
		if err := h.render(w, status, "message", frame{Title: "That did not work", Problem: text}); err != nil {
			http.Error(w, "The page could not be made.", http.StatusInternalServerError)
		}
	})
}

// said is an error in words for people, and its status. Our own failures are logged here, once.
func (h *Head) said(r *http.Request, err error) (status int, text string) {
	e := wordsOf(err)
	if e.status >= 500 {
		h.log.Error("page failed", "path", r.URL.Path, "err", err)
	}
	if e.status == http.StatusUnauthorized && !errors.Is(err, signin.ErrCredentials) {
		e.status = http.StatusBadRequest // a browser has no bearer token to bring
	}
	if text = e.text; text != "" {
		text = strings.ToUpper(text[:1]) + text[1:] + "."
	}
	if errors.Is(err, signin.ErrCredentials) {
		e.status = http.StatusUnauthorized
	}
	return e.status, text
}
