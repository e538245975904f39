// Package provisioning is the HTTPS head of the provisioning service: the device API under
// the id scope (dps §5) and the service API for enrollments and registrations (dps §10).
package provisioning

import (
	"context"
	"encoding/json"
	"errors"
	"log/slog"
	"net/http"
	"net/netip"
	"net/url"
	"regexp"
	"strconv"
	"strings"

	"github.com/vauban-iot/vauban/access"
	"github.com/vauban-iot/vauban/dps"
	"github.com/vauban-iot/vauban/fault"
	"github.com/vauban-iot/vauban/head/rest"
	"github.com/vauban-iot/vauban/iot"
)

// Core is the provisioning service as this head needs it.
type Core interface {
	IDScope() string
	Authenticate(ctx context.Context, c dps.Credentials) (*dps.Caller, error)
	// Challenge answers a device that shows nothing but its TPM's keys, in the body of its registration.
	Challenge(ctx context.Context, c dps.Credentials, body []byte) (dps.Reply, error)
	Register(ctx context.Context, c *dps.Caller, body []byte) dps.Reply
	Status(ctx context.Context, c *dps.Caller, operationID string) dps.Reply
	Lookup(ctx context.Context, c *dps.Caller) dps.Reply

	Enrollment(ctx context.Context, group bool, name string) (dps.Document, error)
	PutEnrollment(ctx context.Context, group bool, name string, body []byte, match *iot.Match) (dps.Document, error)
	DeleteEnrollment(ctx context.Context, group bool, name string, match *iot.Match) error
	Enrollments(ctx context.Context, group bool, query []byte, p dps.Page) (dps.List, error)
	Attestation(ctx context.Context, group bool, name string) ([]byte, error)
	Bulk(ctx context.Context, group bool, body []byte) ([]byte, error)

	Registration(ctx context.Context, id string) (dps.Document, error)
	DeleteRegistration(ctx context.Context, id string, match *iot.Match) error
	Registrations(ctx context.Context, group string, query []byte, p dps.Page) (dps.List, error)
}

// Authorizer checks the Authorization header of a service request.
type Authorizer interface {
	Authorize(token string, need access.Right, path ...string) error
}

// Config is what the head stands on.
type Config struct {
	Service Core       // required
	Guard   Authorizer // required
	// AdmitDevice and AdmitService judge where callers come from; nil: they may come from anywhere.
	AdmitDevice, AdmitService access.Gate
	Logger                    *slog.Logger // nil: slog.Default()
}

// Head serves both APIs. It is an http.Handler for the paths that Owns names.
type Head struct {
	cfg   Config
	core  Core
	guard Authorizer
	log   *slog.Logger
}

// New returns a head.
func New(cfg Config) (*Head, error) {
	if cfg.Service == nil || cfg.Guard == nil {
		return nil, errors.New("provisioning: incomplete configuration: Service and Guard are required")
	}
	if cfg.Logger == nil {
		cfg.Logger = slog.Default()
	}
	return &Head{cfg: cfg, core: cfg.Service, guard: cfg.Guard, log: cfg.Logger}, nil
}

// Owns reports whether the path belongs to the provisioning service.
func (h *Head) Owns(segments []string) bool {
	return len(segments) > 0 && ofService(segments) || h.OwnsDevices(segments)
}

// OwnsDevices reports whether the path belongs to what devices call of it.
func (h *Head) OwnsDevices(segments []string) bool {
	if len(segments) < 3 || !strings.EqualFold(segments[1], "registrations") {
		return false
	}
	// A foreign scope is refused here, in words that provisioning clients read.
	return strings.EqualFold(segments[0], h.core.IDScope()) || strings.HasPrefix(strings.ToLower(segments[0]), scopePrefix)
}

// scopePrefix starts the id scopes of Azure (dps §1.2), and no name of the hub's API.
const scopePrefix = "0ne"

func ofService(segments []string) bool {
	switch strings.ToLower(segments[0]) {
	case "enrollments", "enrollmentgroups", "registrations":
		return true
	}
	return false
}

const (
	maxEnrollment = 256 << 10
	maxBulk       = 1 << 20
	maxQuery      = 16 << 10
)

type request struct {
	*http.Request
	w        http.ResponseWriter
	segments []string
	group    bool        // of the service API: the path is about enrollment groups
	caller   *dps.Caller // of the device API
	body     []byte
}

func (q *request) match() *iot.Match { return iot.ParseMatch(q.Header.Get("If-Match")) }

// route is one row of dps §5.1 or §10.2.
type route struct {
	method string
	path   []string
	right  access.Right // zero: the device API
	limit  int64        // of the body; zero: the body is not read
	serve  func(*Head, *request) error
	// challenges: a device may come here before it can prove anything.
	challenges bool
}

// changes reports whether requests of this route belong into the audit: what programs write, and keys they look at.
func (rt *route) changes() bool {
	return rt.right != 0 && rt.method != http.MethodGet && rt.path[len(rt.path)-1] != "query"
}

var routes = []route{
	{"POST", []string{"enrollments"}, access.EnrollmentWrite, maxBulk, (*Head).bulk, false},
	{"POST", []string{"enrollments", "query"}, access.EnrollmentRead, maxQuery, (*Head).queryEnrollments, false},
	{"GET", []string{"enrollments", "*"}, access.EnrollmentRead, 0, (*Head).getEnrollment, false},
	{"PUT", []string{"enrollments", "*"}, access.EnrollmentWrite, maxEnrollment, (*Head).putEnrollment, false},
	{"DELETE", []string{"enrollments", "*"}, access.EnrollmentWrite, 0, (*Head).deleteEnrollment, false},
	// Keys are for who may set them: Azure's reader role has no access to them either.
	{"POST", []string{"enrollments", "*", "attestationmechanism"}, access.EnrollmentWrite, 0, (*Head).attestation, false},
	{"GET", []string{"registrations", "*"}, access.RegistrationStatusRead, 0, (*Head).getRegistration, false},
	{"DELETE", []string{"registrations", "*"}, access.RegistrationStatusWrite, 0, (*Head).deleteRegistration, false},
	{"POST", []string{"registrations", "*", "query"}, access.RegistrationStatusRead, maxQuery, (*Head).queryRegistrations, false},
	{"PUT", []string{"*", "registrations", "*", "register"}, 0, dps.MaxBody, (*Head).register, true},
	{"GET", []string{"*", "registrations", "*", "operations", "*"}, 0, 0, (*Head).status, false},
	{"POST", []string{"*", "registrations", "*"}, 0, dps.MaxBody, (*Head).lookup, false},
}

var errMethod = errors.New("method not allowed")

// find returns the route of a request, fault.NotFound or errMethod.
func find(q *request) (*route, error) {
	segments := q.segments
	if len(segments) > 0 && strings.EqualFold(segments[0], "enrollmentGroups") {
		q.group = true
		segments = append([]string{"enrollments"}, segments[1:]...)
	}
	service := len(segments) > 0 && ofService(segments)
	known := false
	for i := range routes {
		r := &routes[i]
		if r.right != 0 != service || !rest.Is(segments, r.path...) {
			continue
		}
		if r.method == q.Method {
			return r, nil
		}
		known = true
	}
	if known {
		return nil, errMethod
	}
	return nil, fault.New(fault.NotFound, "there is nothing at this path")
}

// version is what an api-version looks like; none changes our behaviour (dps §1.4).
var version = regexp.MustCompile(`^\d{4}-\d{2}-\d{2}(-preview)?$`)

// ServeHTTP implements http.Handler.
func (h *Head) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	q := &request{Request: r, w: w, segments: rest.Segments(r)}
	var err error
	if rt, found := find(q); found == nil && rt.changes() {
		defer h.audit(q, rt, &err)()
	}
	if err = h.serve(q); err != nil {
		reply := dps.ErrorReply(err)
		if errors.Is(err, errMethod) {
			reply = dps.Refusal(405001, "this path does not take "+r.Method)
			reply.Err = err
		}
		h.reply(q, reply)
	}
}

// audit makes the record of a request that should change something; what it returns writes it when the request is over.
func (h *Head) audit(q *request, rt *route, err *error) func() {
	rec := &rest.Recorder{ResponseWriter: q.w}
	q.w = rec
	ctx, details := rest.Detailed(q.Context())
	q.Request = q.WithContext(ctx)
	path := rt.path
	if q.group {
		path = append([]string{"enrollmentGroups"}, path[1:]...)
	}
	return func() {
		code := ""
		if *err != nil && len(rec.Header()["x-ms-error-code"]) > 0 { // spelled so: Get would not find it
			code = rec.Header()["x-ms-error-code"][0]
		}
		rest.Audit(q.Context(), h.log, rest.Change{
			Who: rest.Policy(q.Request), What: rest.Operation(rt.method, path), Target: strings.Join(q.segments, "/"),
			Status: rec.Status, Code: code, Err: *err, Remote: q.RemoteAddr, Details: *details,
		})
	}
}

// admit judges where the caller of an API comes from.
func (h *Head) admit(q *request) error {
	gate := h.cfg.AdmitDevice
	if ofService(q.segments) {
		gate = h.cfg.AdmitService
	}
	if gate == nil {
		return nil
	}
	_, err := gate(q.RemoteAddr)
	return err
}

func (h *Head) serve(q *request) error {
	if err := h.admit(q); err != nil {
		return err
	}
	rt, err := find(q)
	if err != nil {
		return err
	}
	if v := q.URL.Query().Get("api-version"); !version.MatchString(v) {
		if v == "" {
			return fault.New(fault.Invalid, "the api-version is missing")
		}
		return fault.New(fault.Invalid, "the api-version must be a date")
	}
	if rt.right != 0 {
		err = h.guard.Authorize(q.Header.Get("Authorization"), rt.right)
	} else if rt.challenges && q.Header.Get("Authorization") == "" && (q.TLS == nil || len(q.TLS.PeerCertificates) == 0) {
		return h.challenge(q, rt)
	} else {
		q.caller, err = h.core.Authenticate(q.Context(), q.credentials())
	}
	if err != nil {
		return err
	}
	// A GET may carry a body (N-HTTP sends {}), and the content encoding "utf-8" is none (dps §5.1).
	if rt.limit > 0 {
		if q.body, err = rest.Body(q.w, q.Request, rt.limit); err != nil {
			return err
		}
	}
	return rt.serve(h, q)
}

// reply writes an answer of the device API, or a refusal of either, which is logged once.
func (h *Head) reply(q *request, r dps.Reply) {
	header := q.w.Header()
	if r.RetryAfter > 0 {
		header["Retry-After"] = []string{strconv.Itoa(r.RetryAfter)}
	}
	if r.ErrorCode != 0 {
		header["x-ms-error-code"] = []string{strconv.Itoa(r.ErrorCode)}
		level := slog.LevelInfo
		if r.Status >= 500 {
			level = slog.LevelError
		}
		h.log.Log(q.Context(), level, "provisioning request refused", "method", q.Method, "path", q.URL.EscapedPath(),
			"status", r.Status, "code", r.ErrorCode, "tracking", r.TrackingID, "remote", q.RemoteAddr, "err", r.Err)
	}
	rest.JSON(q.w, r.Status, "", r.Body)
}

// challenge answers a device that has not proven anything yet: it may have a TPM, which needs to be asked first (dps §8.4).
func (h *Head) challenge(q *request, rt *route) (err error) {
	if q.body, err = rest.Body(q.w, q.Request, rt.limit); err != nil {
		return err
	}
	r, err := h.core.Challenge(q.Context(), q.credentials(), q.body)
	if err != nil {
		return err
	}
	h.reply(q, r)
	return nil
}

func (q *request) credentials() dps.Credentials {
	c := dps.Credentials{IDScope: q.segments[0], RegistrationID: q.segments[2], Token: q.Header.Get("Authorization")}
	if q.TLS != nil {
		c.Certificates = q.TLS.PeerCertificates
	}
	if from, err := netip.ParseAddrPort(q.RemoteAddr); err == nil {
		c.Address = from.Addr()
	}
	return c
}

func (h *Head) register(q *request) error {
	r := h.core.Register(q.Context(), q.caller, q.body)
	if r.Status == http.StatusAccepted {
		u := url.URL{Scheme: "https", Host: q.Host, Path: "/" + q.segments[0] + "/registrations/" + q.segments[2] + "/operations/" + r.OperationID}
		u.RawQuery = url.Values{"api-version": {q.URL.Query().Get("api-version")}}.Encode()
		q.w.Header()["Location"] = []string{u.String()}
	}
	h.reply(q, r)
	return nil
}

func (h *Head) status(q *request) error {
	h.reply(q, h.core.Status(q.Context(), q.caller, q.segments[4]))
	return nil
}

func (h *Head) lookup(q *request) error {
	if err := dps.CheckBody(q.caller.RegistrationID(), q.body); err != nil {
		return err
	}
	h.reply(q, h.core.Lookup(q.Context(), q.caller))
	return nil
}

func (h *Head) getEnrollment(q *request) error {
	return h.document(q)(h.core.Enrollment(q.Context(), q.group, q.segments[1]))
}

func (h *Head) putEnrollment(q *request) error {
	return h.document(q)(h.core.PutEnrollment(q.Context(), q.group, q.segments[1], q.body, q.match()))
}

func (h *Head) getRegistration(q *request) error {
	return h.document(q)(h.core.Registration(q.Context(), q.segments[1]))
}

func (h *Head) document(q *request) func(dps.Document, error) error {
	return func(d dps.Document, err error) error {
		if err != nil {
			return err
		}
		rest.JSON(q.w, http.StatusOK, string(d.ETag), d.JSON)
		return nil
	}
}

func (h *Head) deleteEnrollment(q *request) error {
	return h.gone(q, h.core.DeleteEnrollment(q.Context(), q.group, q.segments[1], q.match()))
}

func (h *Head) deleteRegistration(q *request) error {
	return h.gone(q, h.core.DeleteRegistration(q.Context(), q.segments[1], q.match()))
}

func (h *Head) gone(q *request, err error) error {
	if err != nil {
		return err
	}
	q.w.WriteHeader(http.StatusNoContent)
	return nil
}

func (h *Head) attestation(q *request) error {
	return h.plain(q)(h.core.Attestation(q.Context(), q.group, q.segments[1]))
}

func (h *Head) bulk(q *request) error {
	answer, err := h.core.Bulk(q.Context(), q.group, q.body)
	rest.Note(q.Context(), "rows", rows(q.body, answer))
	return h.plain(q)(answer, err)
}

// entries are the names in a bulk operation, and in the answer to it.
type entries []struct {
	Registration string `json:"registrationId"`
	Group        string `json:"enrollmentGroupId"`
	Code         int    `json:"errorCode"`
}

// rows names what a bulk operation was about, for the audit, with the codes of those that were refused.
func rows(body, answer []byte) []string {
	var asked struct {
		Mode        string  `json:"mode"`
		Individuals entries `json:"enrollments"`
		Groups      entries `json:"enrollmentGroups"`
	}
	var answered struct {
		Errors entries `json:"errors"`
	}
	// What cannot be read was refused as a whole.
	_ = json.Unmarshal(body, &asked)
	_ = json.Unmarshal(answer, &answered)
	codes := map[string]int{}
	for _, e := range answered.Errors {
		codes[e.Registration+e.Group] = e.Code
	}
	var all []string
	for _, e := range append(asked.Individuals, asked.Groups...) {
		row := asked.Mode + " " + e.Registration + e.Group
		if code := codes[e.Registration+e.Group]; code != 0 {
			row += ": " + strconv.Itoa(code)
		}
		all = append(all, row)
	}
	return all
}

func (h *Head) plain(q *request) func([]byte, error) error {
	return func(body []byte, err error) error {
		if err != nil {
			return err
		}
		rest.JSON(q.w, http.StatusOK, "", body)
		return nil
	}
}

func (h *Head) queryEnrollments(q *request) error {
	item := "enrollment"
	if q.group {
		item = "enrollmentGroup"
	}
	return h.page(q, item, func(p dps.Page) (dps.List, error) {
		return h.core.Enrollments(q.Context(), q.group, q.body, p)
	})
}

func (h *Head) queryRegistrations(q *request) error {
	return h.page(q, "deviceRegistration", func(p dps.Page) (dps.List, error) {
		return h.core.Registrations(q.Context(), q.segments[1], q.body, p)
	})
}

func (h *Head) page(q *request, item string, read func(dps.Page) (dps.List, error)) error {
	p := dps.Page{Continuation: q.Header.Get("x-ms-continuation")}
	if n := q.Header.Get("x-ms-max-item-count"); n != "" {
		var err error
		if p.Max, err = strconv.Atoi(n); err != nil || p.Max < 1 {
			return fault.New(fault.Invalid, "x-ms-max-item-count must be a positive number")
		}
	}
	l, err := read(p)
	if err != nil {
		return err
	}
	header := q.w.Header()
	header["x-ms-item-type"] = []string{item}
	if l.Continuation != "" { // npm goes on as long as there is the header, even an empty one
		header["x-ms-continuation"] = []string{l.Continuation}
	}
	rest.JSON(q.w, http.StatusOK, "", l.JSON)
	return nil
}

var (
	_ http.Handler = (*Head)(nil)
	_ Core         = (*dps.Service)(nil)
)
