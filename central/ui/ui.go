// Package ui is the console: the pages on which people watch an installation. Pages are made by
// the server; a little script keeps them current over server-sent events, and they can
// be read without it.
//
// Whatever a device chose (its messages, properties, twin) reaches a page only through
// html/template, and the pages' content security policy lets nothing run that is not in this package.
//
// There is one user, admin, with the installation's generated password. Sessions live in memory: a
// restart signs everybody out.
package ui

import (
	"bytes"
	"context"
	"fmt"
	"html/template"
	"log/slog"
	"net/http"
	"net/url"
	"sync/atomic"
	"time"

	"github.com/vauban-iot/vauban/central/live"
	"github.com/vauban-iot/vauban/defender/alert"
	"github.com/vauban-iot/vauban/defender/posture"
	"github.com/vauban-iot/vauban/fault"
	"github.com/vauban-iot/vauban/hub/registry"
	"github.com/vauban-iot/vauban/hub/twin"
	"github.com/vauban-iot/vauban/internal/secret"
	"github.com/vauban-iot/vauban/iot"
)

// Config is what a console shows. All fields are required unless they say otherwise.
type Config struct {
	Password secret.Secret // of the user admin
	Devices  Devices
	Alerts   Alerts
	Feed     Feed

	Containment     Containment
	Recommendations Recommendations
	Groups          Groups
	GroupSizes      GroupSizes
	Privacy         Privacy
	Baselines       Baselines
	Intel           Intel
	Detectors       Detectors
	Exports         Exports
	Events          Events

	Version  string           // of the program; may be empty
	Hostname string           // of the installation
	Now      func() time.Time // nil: time.Now
	Logger   *slog.Logger     // nil: slog.Default()
}

// Devices is the hub as the console reads it.
type Devices interface {
	Devices(ctx context.Context, top int) ([]registry.Identity, error)
	Device(ctx context.Context, id iot.ID) (registry.Identity, error)
	Statistics(ctx context.Context) (registry.Statistics, error)
	Twin(ctx context.Context, id iot.ID) (registry.Identity, twin.Twin, error)
}

// Alerts is the part of [alert.Store] the console needs.
type Alerts interface {
	Alerts(ctx context.Context, f alert.Filter) ([]alert.Alert, error)
	Alert(ctx context.Context, id string) (alert.Alert, error)
	Judge(ctx context.Context, id string, v alert.Verdict) (alert.Alert, error)
	Suppress(ctx context.Context, s alert.Suppression) (hidden int, err error)
}

// Feed is the part of [live.Feed] the console reads.
type Feed interface {
	Subscribe(ctx context.Context, device string) (*live.Subscription, error)
}

// Console serves the pages at / and below /console.
type Console struct {
	cfg      Config
	log      *slog.Logger
	handler  http.Handler
	assets   assets
	pages    pages
	sessions *sessions
	limit    *limiter
	streams  atomic.Int32 // that are open
	fleet    *cached[fleet]
	recent   *cached[[]alert.Alert]
	totals   *cached[posture.Totals] // of the fleet
	sizes    *cached[sizes]
}

// New returns a console.
func New(cfg Config) (*Console, error) {
	for _, r := range []struct {
		name string
		set  bool
	}{
		{"Password", !cfg.Password.IsZero()}, {"Hostname", cfg.Hostname != ""}, {"Devices", cfg.Devices != nil}, {"Alerts", cfg.Alerts != nil}, {"Feed", cfg.Feed != nil},
		{"Containment", cfg.Containment != nil}, {"Recommendations", cfg.Recommendations != nil},
		{"Groups", cfg.Groups != nil}, {"GroupSizes", cfg.GroupSizes != nil}, {"Privacy", cfg.Privacy != nil}, {"Baselines", cfg.Baselines != nil},
		{"Intel", cfg.Intel != nil}, {"Detectors", cfg.Detectors != nil},
		{"Exports", cfg.Exports != nil}, {"Events", cfg.Events != nil},
	} {
		if !r.set {
			return nil, fmt.Errorf("ui: %s is required", r.name)
		}
	}
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	if cfg.Logger == nil {
		cfg.Logger = slog.Default()
	}
	c := &Console{cfg: cfg, log: cfg.Logger, sessions: newSessions(cfg.Now), limit: newLimiter(cfg.Now)}
	c.fleet = &cached[fleet]{fetch: c.loadFleet}
	c.recent = &cached[[]alert.Alert]{fetch: func(ctx context.Context) ([]alert.Alert, error) {
		return c.cfg.Alerts.Alerts(ctx, alert.Filter{Limit: alertsPerPage})
	}}
	c.sizes = &cached[sizes]{fetch: c.loadSizes}
	c.totals = &cached[posture.Totals]{fetch: func(ctx context.Context) (posture.Totals, error) {
		return c.cfg.Recommendations.Totals(ctx, posture.Whole{})
	}}
	var err error
	if c.assets, err = loadAssets(); err != nil {
		return nil, fmt.Errorf("ui: assets: %w", err)
	}
	if c.pages, err = loadPages(c.assets); err != nil {
		return nil, fmt.Errorf("ui: pages: %w", err)
	}
	mux := http.NewServeMux()
	mux.Handle("GET "+assetPath+"{name}", c.assets)
	mux.Handle("GET /console/sign-in", c.do(c.signInPage))
	mux.Handle("POST /console/sign-in", c.do(c.signIn))
	mux.Handle("POST /console/sign-out", c.do(c.signOut))
	for _, path := range []string{"/{$}", "/console", "/console/{$}"} {
		mux.Handle("GET "+path, http.RedirectHandler(devicesPath, http.StatusSeeOther))
	}
	mux.Handle("GET "+devicesPath, c.page(c.devicesPage))
	mux.Handle("GET "+devicesPath+"/stream", c.live(c.devicesStream))
	mux.Handle("GET "+devicePath, c.page(c.devicePage))
	mux.Handle("GET "+devicePath+"/stream", c.live(c.deviceStream))
	mux.Handle("GET "+alertsPath, c.page(c.alertsPage))
	mux.Handle("GET "+alertsPath+"/stream", c.live(c.alertsStream))
	mux.Handle("GET "+alertPath, c.page(c.alertPage))
	mux.Handle("POST "+alertPath, c.change(maxForm, c.judgeAlert))
	mux.Handle("GET "+containPath, c.page(c.containPage))
	mux.Handle("POST "+containPath, c.change(maxForm, c.contain))
	mux.Handle("GET "+recommendationsPath, c.page(c.recommendationsPage))
	mux.Handle("GET "+recommendationPath, c.page(c.recommendationPage))
	mux.Handle("GET "+recommendationTypesPath, c.page(c.recommendationTypesPage))
	mux.Handle("POST "+recommendationTypesPath, c.change(maxForm, c.switchRecommendationType))
	mux.Handle("GET "+groupsPath, c.page(c.groupsPage))
	mux.Handle("GET "+groupPath, c.page(c.groupPage))
	mux.Handle("POST "+groupPath, c.change(maxRuleForm, c.changeGroup))
	mux.Handle("GET "+baselinePath, c.page(c.baselinePage))
	mux.Handle("POST "+baselinePath, c.change(maxBaselineForm, c.changeBaseline))
	mux.Handle("GET "+baselinePath+"/preview", c.page(c.previewPage))
	mux.Handle("GET "+baselinePath+"/mud", c.page(c.exportMUD))
	mux.Handle("POST "+baselinePath+"/mud", c.change(maxMUDForm, c.importMUD))
	mux.Handle("GET "+feedsPath, c.page(c.feedsPage))
	mux.Handle("POST "+feedsPath, c.change(maxForm, c.refreshFeed))
	mux.Handle("GET "+detectorsPath, c.page(c.detectorsPage))
	mux.Handle("POST "+detectorsPath, c.change(maxForm, c.switchDetector))
	mux.Handle("GET "+exportsPath, c.page(c.exportsPage))
	mux.Handle("POST "+exportsPath, c.change(maxForm, c.testExport))
	mux.Handle("GET "+eventsPath, c.page(c.eventsPage))
	mux.Handle("GET /", c.do(func(http.ResponseWriter, *http.Request) error {
		return fault.New(fault.NotFound, "There is no such page.")
	}))
	c.handler = guarded(http.NewCrossOriginProtection().Handler(mux))
	return c, nil
}

// The console's places. A device id is a query argument, never a part of the path: the ids . and .. are allowed.
const (
	devicesPath = "/console/devices"
	devicePath  = "/console/device"
	alertsPath  = "/console/alerts"
	alertPath   = "/console/alert"
	containPath = "/console/contain"

	recommendationsPath     = "/console/recommendations"
	recommendationPath      = "/console/recommendation"
	recommendationTypesPath = "/console/recommendation-types"

	groupsPath   = "/console/groups"
	groupPath    = "/console/group"
	baselinePath = "/console/baseline"

	feedsPath     = "/console/feeds"
	detectorsPath = "/console/detectors"
	exportsPath   = "/console/exports"
	eventsPath    = "/console/events"

	signInPath = "/console/sign-in"
)

func (c *Console) ServeHTTP(w http.ResponseWriter, r *http.Request) { c.handler.ServeHTTP(w, r) }

// policy lets a page use this origin's files and nothing else, and its script put only our own
// fragments into the page. There is no Strict-Transport-Security: on localhost it would
// bind every other program's port, too.
const policy = "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; " +
	"form-action 'self'; base-uri 'none'; frame-ancestors 'none'; require-trusted-types-for 'script'; trusted-types vauban"

// guarded adds the headers every answer has.
func guarded(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		h := w.Header()
		h.Set("Content-Security-Policy", policy)
		h.Set("X-Content-Type-Options", "nosniff")
		// Not no-referrer, which would hide the origin of our own forms from CrossOriginProtection.
		h.Set("Referrer-Policy", "same-origin")
		h.Set("Cross-Origin-Opener-Policy", "same-origin")
		h.Set("Cross-Origin-Resource-Policy", "same-origin")
		h.Set("Cache-Control", "no-store")
		next.ServeHTTP(w, r)
	})
}

// action answers a request; its error becomes a page.
type action func(w http.ResponseWriter, r *http.Request) error

func (c *Console) do(a action) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if err := a(w, r); err != nil {
			c.fail(w, r, err)
		}
	})
}

// signedIn is an action of somebody with a session.
type signedIn func(w http.ResponseWriter, r *http.Request, s *session) error

// page sends strangers to the sign-in page and back.
func (c *Console) page(a signedIn) http.Handler {
	return c.do(func(w http.ResponseWriter, r *http.Request) error {
		s := c.sessions.of(r)
		if s == nil {
			to := signInPath
			if here := r.URL.RequestURI(); here != devicesPath && len(here) <= maxNext {
				to += "?" + url.Values{"next": {here}}.Encode()
			}
			http.Redirect(w, r, to, http.StatusSeeOther)
			return nil
		}
		return a(w, r, s)
	})
}

// maxStreams bounds how many pages are live at one time.
const maxStreams = 256

// live refuses strangers: a redirect would make no sense to an EventSource.
func (c *Console) live(a signedIn) http.Handler {
	return c.do(func(w http.ResponseWriter, r *http.Request) error {
		s := c.sessions.of(r)
		if s == nil {
			return fault.New(fault.Unauthorized, "Sign in again.")
		}
		defer c.streams.Add(-1)
		if c.streams.Add(1) > maxStreams {
			return fault.New(fault.Throttled, "Too many pages are open. Close some.")
		}
		return a(w, r, s)
	})
}

// statuses of the failures the console's own code gives and its stores may give; the others are our defects.
var statuses = map[fault.Kind]int{
	fault.Invalid:            http.StatusBadRequest,
	fault.Malformed:          http.StatusBadRequest,
	fault.Unauthorized:       http.StatusUnauthorized,
	fault.Forbidden:          http.StatusForbidden,
	fault.NotFound:           http.StatusNotFound,
	fault.AlreadyExists:      http.StatusConflict,
	fault.QuotaExceeded:      http.StatusForbidden,
	fault.PreconditionFailed: http.StatusPreconditionFailed,
	fault.TooLarge:           http.StatusRequestEntityTooLarge,
	fault.Throttled:          http.StatusTooManyRequests,
	fault.Unavailable:        http.StatusServiceUnavailable,
	fault.Timeout:            http.StatusGatewayTimeout,
}

// statusOf is the status of a failure; ok tells whether the reader may know why.
func statusOf(err error) (status int, ok bool) {
	if status, ok = statuses[fault.KindOf(err)]; ok {
		return status, true
	}
	return http.StatusInternalServerError, false
}

func (c *Console) fail(w http.ResponseWriter, r *http.Request, err error) {
	if r.Context().Err() != nil {
		return // the reader left
	}
	status, ok := statusOf(err)
	if !ok {
		c.log.Error("page failed", "path", r.URL.Path, "err", err)
	}
	message := fault.Public(err)
	if !ok {
		message = "The page could not be made. The server's log says why."
	}
	c.render(w, r, status, "failure", frame{Title: http.StatusText(status)}, message)
}

// frame is what the pages have in common.
type frame struct {
	Title   string
	Section string // the entry of the navigation that is current
	Stream  string // where the page's live updates come from; empty: it has none
	// The rest is filled by render.
	Signed        bool
	Host, Version string
	Body          any
}

func (c *Console) render(w http.ResponseWriter, r *http.Request, status int, name string, f frame, body any) {
	f.Host, f.Version, f.Body = c.cfg.Hostname, c.cfg.Version, body
	f.Signed = c.sessions.of(r) != nil
	var out bytes.Buffer
	if err := c.pages[name].ExecuteTemplate(&out, "page", f); err != nil {
		c.log.Error("page failed", "page", name, "err", err)
		http.Error(w, "The page could not be made.", http.StatusInternalServerError)
		return
	}
	w.Header().Set("Content-Type", "text/html; charset=utf-8")
	w.WriteHeader(status)
	_, _ = out.WriteTo(w) // a reader that left is no error of ours
}

// fragment renders a part of a page for its stream. Every page's set holds all parts.
func (c *Console) fragment(name string, data any) (string, error) {
	var out bytes.Buffer
	err := c.pages["failure"].ExecuteTemplate(&out, name, data)
	return out.String(), err
}

// pages are template sets, one a page.
type pages map[string]*template.Template
