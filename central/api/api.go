// Package api is the operator's JSON API under /api: live messages, alerts, the CAs that
// prove devices, which tokens are refused, which devices are held back, where messages are routed, feeds of threat intelligence, and what provisioning needs beside enrollments. The command line uses it, and so may scripts; api/openapi/central.yaml describes
// it for them.
//
// Every request carries the installation's token as Authorization: Bearer. Whoever holds it may
// do everything the API can.
package api

import (
	"context"
	"encoding/json"
	"fmt"
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
	Token  secret.Secret
	Host   string // of the hub, as events name it
	Alerts AlertStore
	Events EventStore
	Groups GroupStore
	// Baselines are what devices usually do.
	Baselines BaselineStore
	// Recommendations says how well devices and the hub are set up.
	Recommendations RecommendationStore
	// Vulnerabilities says what is known to be wrong with their software.
	Vulnerabilities VulnerabilityStore
	// Replay judges the evidence of an alert anew and raises nothing; nil: it cannot be.
	Replay func(ctx context.Context, a alert.Alert) ([]alert.Alert, error)
	// CertificateChanged hears of CAs that were added or deleted, or could not be; may be nil.
	CertificateChanged func(ctx context.Context, name, remote string, deleted bool, failure error)
	// DiagnosticsChanged hears of what was set or deleted that sends the hub's own events somewhere; may be nil.
	DiagnosticsChanged func(ctx context.Context, name, remote string, deleted bool)
	Feed               Feed
	Certificates       CertificateStore
	Routing            RoutingStore
	DeadLetters        DeadLetterStore
	Authentication     AuthenticationStore
	Policies           PolicyStore
	Network            NetworkStore
	Containment        ContainmentStore
	Privacy            PrivacyStore
	Throttles          ThrottleStore
	Subscriptions      SubscriptionStore
	Intel              IntelStore
	Detectors          DetectorStore
	Exports            ExportStore
	Tables             TableStore
	Provisioning       Provisioner      // nil: there is no provisioning service
	Now                func() time.Time // nil: time.Now
	Logger             *slog.Logger     // nil: slog.Default()
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
	{http.MethodGet, "/api/alerts/{id}", (*API).alert},
	{http.MethodPost, "/api/alerts/{id}/dismiss", (*API).dismissAlert},
	{http.MethodPost, "/api/alerts/{id}/resolve", (*API).resolveAlert},
	{http.MethodPost, "/api/alerts/{id}/suppress", (*API).suppressAlert},
	{http.MethodPost, "/api/alerts/{id}/replay", (*API).replayAlert},
	{http.MethodGet, "/api/alert-types", (*API).alertTypes},
	{http.MethodGet, "/api/suppressions", (*API).suppressions},
	{http.MethodPost, "/api/suppressions", (*API).addSuppression},
	{http.MethodDelete, "/api/suppressions/{id}", (*API).deleteSuppression},
	{http.MethodGet, "/api/detectors", (*API).detectors},
	{http.MethodPut, "/api/detectors/{name}", (*API).putDetector},
	{http.MethodGet, "/api/security-events", (*API).securityEvents},
	{http.MethodGet, "/api/security-groups", (*API).securityGroups},
	{http.MethodGet, "/api/security-groups/{name}", (*API).securityGroup},
	{http.MethodPut, "/api/security-groups/{name}", (*API).putSecurityGroup},
	{http.MethodDelete, "/api/security-groups/{name}", (*API).deleteSecurityGroup},
	{http.MethodGet, "/api/security-groups/{name}/privacy", (*API).privacy},
	{http.MethodPut, "/api/security-groups/{name}/privacy", (*API).putPrivacy},
	{http.MethodGet, "/api/recommendations", (*API).recommendations},
	{http.MethodGet, "/api/recommendations/{id}", (*API).recommendation},
	{http.MethodGet, "/api/recommendation-types", (*API).recommendationTypes},
	{http.MethodPut, "/api/recommendation-types/{name}", (*API).putRecommendationType},
	{http.MethodGet, "/api/security-score", (*API).securityScore},
	{http.MethodGet, "/api/baselines", (*API).baselines},
	{http.MethodGet, "/api/baselines/{group}", (*API).baseline},
	{http.MethodPatch, "/api/baselines/{group}", (*API).editBaseline},
	{http.MethodDelete, "/api/baselines/{group}", (*API).deleteBaseline},
	{http.MethodPost, "/api/baselines/{group}/learn", (*API).learnBaseline},
	{http.MethodPost, "/api/baselines/{group}/propose", (*API).proposeBaseline},
	{http.MethodPost, "/api/baselines/{group}/enforce", (*API).enforceBaseline},
	{http.MethodPost, "/api/baselines/{group}/relax", (*API).relaxBaseline},
	{http.MethodGet, "/api/baselines/{group}/preview", (*API).previewBaseline},
	{http.MethodPost, "/api/baselines/{group}/promote", (*API).promoteBaseline},
	{http.MethodGet, "/api/baselines/{group}/mud", (*API).exportMUD},
	{http.MethodPut, "/api/baselines/{group}/mud", (*API).importMUD},
	{http.MethodGet, "/api/vulnerability-database", (*API).vulnerabilityDatabase},
	{http.MethodPost, "/api/vulnerability-database", (*API).importVulnerabilities},
	{http.MethodDelete, "/api/vulnerability-database/{name}", (*API).deleteVulnerabilitySource},
	{http.MethodGet, "/api/vulnerabilities", (*API).vulnerabilities},
	{http.MethodGet, "/api/vulnerabilities/{id}", (*API).vulnerability},
	{http.MethodGet, "/api/vex", (*API).vexDocuments},
	{http.MethodGet, "/api/vex/{name}", (*API).vexDocument},
	{http.MethodPut, "/api/vex/{name}", (*API).putVEX},
	{http.MethodDelete, "/api/vex/{name}", (*API).deleteVEX},
	{http.MethodGet, "/api/sboms", (*API).sboms},
	{http.MethodPut, "/api/sboms/{name}", (*API).putSBOM},
	{http.MethodDelete, "/api/sboms/{name}", (*API).deleteSBOM},
	{http.MethodGet, "/api/device-sboms/{device}", (*API).deviceSBOM},
	{http.MethodGet, "/api/certificates", (*API).certificates},
	{http.MethodPut, "/api/certificates/{name}", (*API).putCertificate},
	{http.MethodDelete, "/api/certificates/{name}", (*API).deleteCertificate},
	{http.MethodGet, "/api/routing", (*API).routing},
	{http.MethodPut, "/api/routing", (*API).putRouting},
	{http.MethodGet, "/api/routing/dead-letters", (*API).deadLetterCounts},
	{http.MethodGet, "/api/routing/dead-letters/{endpoint}", (*API).deadLetters},
	{http.MethodDelete, "/api/routing/dead-letters/{endpoint}", (*API).dropDeadLetters},
	{http.MethodPost, "/api/routing/dead-letters/{endpoint}/replay", (*API).replayDeadLetters},
	{http.MethodGet, "/api/routing/dead-letters/{endpoint}/messages/{sequence}", (*API).deadLetter},
	{http.MethodGet, "/api/authentication", (*API).authentication},
	{http.MethodPut, "/api/authentication", (*API).putAuthentication},
	{http.MethodGet, "/api/policies", (*API).policies},
	{http.MethodGet, "/api/policies/{name}", (*API).policy},
	{http.MethodPost, "/api/policies/{name}/rotate", (*API).rotatePolicy},
	{http.MethodGet, "/api/network", (*API).network},
	{http.MethodPut, "/api/network", (*API).putNetwork},
	{http.MethodGet, "/api/containment", (*API).contained},
	{http.MethodGet, "/api/containment/{device}", (*API).containment},
	{http.MethodPut, "/api/containment/{device}", (*API).contain},
	{http.MethodGet, "/api/containment/{device}/effect", (*API).containmentEffect},
	{http.MethodPost, "/api/containment/{device}/undo", (*API).uncontain},
	{http.MethodGet, "/api/throttles", (*API).throttles},
	{http.MethodPut, "/api/throttles", (*API).putThrottles},
	{http.MethodDelete, "/api/throttles", (*API).deleteThrottles},
	{http.MethodGet, "/api/event-subscriptions", (*API).subscriptions},
	{http.MethodGet, "/api/event-subscriptions/{name}", (*API).subscription},
	{http.MethodPut, "/api/event-subscriptions/{name}", (*API).putSubscription},
	{http.MethodDelete, "/api/event-subscriptions/{name}", (*API).deleteSubscription},
	{http.MethodGet, "/api/intel/feeds", (*API).intelFeeds},
	{http.MethodGet, "/api/intel/feeds/{name}", (*API).intelFeed},
	{http.MethodPut, "/api/intel/feeds/{name}", (*API).putIntelFeed},
	{http.MethodDelete, "/api/intel/feeds/{name}", (*API).deleteIntelFeed},
	{http.MethodPost, "/api/intel/feeds/{name}/refresh", (*API).refreshIntelFeed},
	{http.MethodGet, "/api/intel/lookup", (*API).intelLookup},
	{http.MethodGet, "/api/intel/exemptions", (*API).intelExemptions},
	{http.MethodPut, "/api/intel/exemptions", (*API).putIntelExemption},
	{http.MethodDelete, "/api/intel/exemptions", (*API).deleteIntelExemption},
	{http.MethodGet, "/api/exports", (*API).exports},
	{http.MethodGet, "/api/exports/{name}", (*API).export},
	{http.MethodPut, "/api/exports/{name}", (*API).putExport},
	{http.MethodDelete, "/api/exports/{name}", (*API).deleteExport},
	{http.MethodPost, "/api/exports/{name}/test", (*API).testExport},
	{http.MethodGet, "/api/tables/{table}", (*API).tableRows},
	{http.MethodGet, "/api/provisioning", provisioning((*API).provisioningService)},
	{http.MethodGet, "/api/provisioning/hubs", provisioning((*API).linkedHubs)},
	{http.MethodPut, "/api/provisioning/hubs/{host}", provisioning((*API).linkHub)},
	{http.MethodDelete, "/api/provisioning/hubs/{host}", provisioning((*API).unlinkHub)},
	{http.MethodGet, "/api/provisioning/certificates", provisioning((*API).provisioningCAs)},
	{http.MethodPut, "/api/provisioning/certificates/{name}", provisioning((*API).putProvisioningCA)},
	{http.MethodDelete, "/api/provisioning/certificates/{name}", provisioning((*API).deleteProvisioningCA)},
	{http.MethodPost, "/api/provisioning/certificates/{name}/verification-code", provisioning((*API).verificationCode)},
	{http.MethodPost, "/api/provisioning/certificates/{name}/verification", provisioning((*API).verifyProvisioningCA)},
	{http.MethodPost, "/api/provisioning/import", provisioning((*API).importEnrollments)},
}

// New returns an API.
func New(cfg Config) (*API, error) {
	for _, r := range []struct {
		name string
		set  bool
	}{
		{"Token", !cfg.Token.IsZero()}, {"Alerts", cfg.Alerts != nil}, {"Events", cfg.Events != nil}, {"Groups", cfg.Groups != nil},
		{"Baselines", cfg.Baselines != nil}, {"Detectors", cfg.Detectors != nil}, {"Recommendations", cfg.Recommendations != nil}, {"Vulnerabilities", cfg.Vulnerabilities != nil},
		{"Feed", cfg.Feed != nil}, {"Certificates", cfg.Certificates != nil}, {"Routing", cfg.Routing != nil}, {"DeadLetters", cfg.DeadLetters != nil},
		{"Authentication", cfg.Authentication != nil}, {"Policies", cfg.Policies != nil}, {"Network", cfg.Network != nil},
		{"Containment", cfg.Containment != nil}, {"Privacy", cfg.Privacy != nil}, {"Throttles", cfg.Throttles != nil},
		{"Subscriptions", cfg.Subscriptions != nil}, {"Intel", cfg.Intel != nil},
		{"Exports", cfg.Exports != nil}, {"Tables", cfg.Tables != nil},
	} {
		if !r.set {
			return nil, fmt.Errorf("api: %s is required", r.name)
		}
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
		serve := rt.serve
		if rt.method != http.MethodGet {
			serve = audited(rt.method+" "+rt.path, serve)
		}
		a.mux.Handle(rt.method+" "+rt.path, a.do(serve))
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

// audited makes the audit record of a change. Handlers add to it with rest.Note.
func audited(what string, serve endpoint) endpoint {
	return func(a *API, w http.ResponseWriter, r *http.Request) (err error) {
		ctx, details := rest.Detailed(r.Context())
		rec := &rest.Recorder{ResponseWriter: w}
		defer func() {
			c := rest.Change{
				Who: operator, What: what, Target: strings.TrimPrefix(r.URL.Path, "/api/"),
				Status: rec.Status, Err: err, Remote: r.RemoteAddr, Details: *details,
			}
			if err != nil {
				ans := answerTo(err)
				c.Status, c.Code = ans.status, ans.code
			}
			rest.Audit(ctx, a.log, c)
		}()
		return serve(a, rec, r.WithContext(ctx))
	}
}

// operator is who holds the token of connection.json.
const operator = "operator"

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
