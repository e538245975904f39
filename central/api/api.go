// Package api is the operator's JSON API under /api: live messages, alerts, the CAs that
// prove devices, which tokens are refused, and where messages are routed. The command line uses it, and so may scripts; api/openapi/central.yaml describes
// it for them.
//
// Every request carries the installation's token as Authorization: Bearer. Whoever holds it may
// do everything the API can.
package api

import (
	"context"
	"encoding/json"
	"errors"
	"log/slog"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/vauban-iot/vauban/central/live"
	"github.com/vauban-iot/vauban/defender/alert"
	"github.com/vauban-iot/vauban/fault"
	"github.com/vauban-iot/vauban/head/rest"
	"github.com/vauban-iot/vauban/internal/secret"
)

// Config is what an API serves. All fields are required unless they say otherwise.
type Config struct {
	Token          secret.Secret
	Alerts         AlertStore
	Feed           Feed
	Certificates   CertificateStore
	Routing        RoutingStore
	Authentication AuthenticationStore
	Now            func() time.Time // nil: time.Now
	Logger         *slog.Logger     // nil: slog.Default()
}

// AlertStore is the part of [alert.Store] the API reads.
type AlertStore interface {
	Alerts(ctx context.Context, f alert.Filter) ([]alert.Alert, error)
}

// Feed is the part of [live.Feed] the API reads.
type Feed interface {
	Subscribe(ctx context.Context, device string) (*live.Subscription, error)
}

// Certificate is a CA whose certificates prove devices.
type Certificate struct {
	Name string
	PEM  string // one certificate
}

// CertificateStore keeps CAs. Every write is on disk when the call returns.
type CertificateStore interface {
	// Certificates lists all, by name.
	Certificates(ctx context.Context) ([]Certificate, error)
	// PutCertificate adds one, or replaces the one of that name; fault.Invalid when there are too many.
	PutCertificate(ctx context.Context, name, pem string) error
	// DeleteCertificate removes one; fault.NotFound.
	DeleteCertificate(ctx context.Context, name string) error
}

// API answers requests whose path begins with /api.
type API struct {
	cfg Config
	log *slog.Logger
	mux *http.ServeMux
}

// endpoint carries one request out; its error becomes the answer.
type endpoint func(a *API, w http.ResponseWriter, r *http.Request) error

// routes are all there is.
var routes = []struct {
	method, path string
	serve        endpoint
}{
	{http.MethodGet, "/api/messages", (*API).messages},
	{http.MethodGet, "/api/alerts", (*API).alerts},
	{http.MethodGet, "/api/certificates", (*API).certificates},
	{http.MethodPut, "/api/certificates/{name}", (*API).putCertificate},
	{http.MethodDelete, "/api/certificates/{name}", (*API).deleteCertificate},
	{http.MethodGet, "/api/routing", (*API).routing},
	{http.MethodPut, "/api/routing", (*API).putRouting},
	{http.MethodGet, "/api/authentication", (*API).authentication},
	{http.MethodPut, "/api/authentication", (*API).putAuthentication},
}

// New returns an API.
func New(cfg Config) (*API, error) {
	if cfg.Token.IsZero() || cfg.Alerts == nil || cfg.Feed == nil || cfg.Certificates == nil || cfg.Routing == nil || cfg.Authentication == nil {
		return nil, errors.New("api: Token, Alerts, Feed, Certificates, Routing and Authentication are required")
	}
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	if cfg.Logger == nil {
		cfg.Logger = slog.Default()
	}
	a := &API{cfg: cfg, log: cfg.Logger, mux: http.NewServeMux()}
	allowed := make(map[string][]string)
	for _, rt := range routes {
		a.mux.Handle(rt.method+" "+rt.path, a.do(rt.serve))
		allowed[rt.path] = append(allowed[rt.path], rt.method)
	}
	for path, methods := range allowed {
		refuse := a.do(wrongMethod(methods))
		a.mux.Handle(path, refuse)
		if slices.Contains(methods, http.MethodGet) {
			a.mux.Handle("HEAD "+path, refuse) // ServeMux would run GET for it
		}
	}
	a.mux.Handle("/", a.do(func(_ *API, _ http.ResponseWriter, r *http.Request) error {
		return fault.New(fault.NotFound, "there is no %s; see api/openapi/central.yaml for what there is", r.URL.Path)
	}))
	return a, nil
}

// methodError is the refusal that no fault.Kind stands for: it belongs to HTTP alone.
type methodError struct{ allowed string }

func (e methodError) Error() string { return "this path takes " + e.allowed }

func wrongMethod(allowed []string) endpoint {
	e := methodError{strings.Join(allowed, ", ")}
	return func(*API, http.ResponseWriter, *http.Request) error { return e }
}

func (a *API) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	h := w.Header()
	h.Set("Cache-Control", "no-store")
	h.Set("X-Content-Type-Options", "nosniff")
	if !a.authorized(r) {
		a.refuse(w, r, fault.New(fault.Unauthorized, "send the token of connection.json as: Authorization: Bearer TOKEN"))
		return
	}
	a.mux.ServeHTTP(w, r)
}

func (a *API) authorized(r *http.Request) bool {
	scheme, token, ok := strings.Cut(r.Header.Get("Authorization"), " ")
	return ok && strings.EqualFold(scheme, "Bearer") && a.cfg.Token.Matches([]byte(strings.TrimSpace(token)))
}

func (a *API) do(serve endpoint) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if err := serve(a, w, r); err != nil {
			a.refuse(w, r, err)
		}
	})
}

func writeJSON(w http.ResponseWriter, status int, v any) error {
	body, err := json.Marshal(v)
	if err != nil {
		return err
	}
	rest.JSON(w, status, "", append(body, '\n'))
	return nil
}
