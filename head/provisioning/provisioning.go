// Package provisioning is the HTTPS head of the provisioning service: the device API under
// the id scope (dps §5) and the service API for enrollments and registrations (dps §10).
package provisioning

import (
	"context"
	"crypto/x509"
	"errors"
	"log/slog"
	"net/http"
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
	Service Core         // required
	Guard   Authorizer   // required
	Logger  *slog.Logger // nil: slog.Default()
}

// Head serves both APIs. It is an http.Handler for the paths that Owns names.
type Head struct {
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
	return &Head{core: cfg.Service, guard: cfg.Guard, log: cfg.Logger}, nil
}

// Owns reports whether the path belongs to the provisioning service.
func (h *Head) Owns(segments []string) bool {
	if len(segments) == 0 {
		return false
	}
	if ofService(segments) {
		return true
	}
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
}

var routes = []route{
	{"POST", []string{"enrollments"}, access.EnrollmentWrite, maxBulk, (*Head).bulk},
	{"POST", []string{"enrollments", "query"}, access.EnrollmentRead, maxQuery, (*Head).queryEnrollments},
	{"GET", []string{"enrollments", "*"}, access.EnrollmentRead, 0, (*Head).getEnrollment},
	{"PUT", []string{"enrollments", "*"}, access.EnrollmentWrite, maxEnrollment, (*Head).putEnrollment},
	{"DELETE", []string{"enrollments", "*"}, access.EnrollmentWrite, 0, (*Head).deleteEnrollment},
	// Keys are for who may set them: Azure's reader role has no access to them either.
	{"POST", []string{"enrollments", "*", "attestationmechanism"}, access.EnrollmentWrite, 0, (*Head).attestation},
	{"GET", []string{"registrations", "*"}, access.RegistrationStatusRead, 0, (*Head).getRegistration},
	{"DELETE", []string{"registrations", "*"}, access.RegistrationStatusWrite, 0, (*Head).deleteRegistration},
	{"POST", []string{"registrations", "*", "query"}, access.RegistrationStatusRead, maxQuery, (*Head).queryRegistrations},
	{"PUT", []string{"*", "registrations", "*", "register"}, 0, dps.MaxBody, (*Head).register},
	{"GET", []string{"*", "registrations", "*", "operations", "*"}, 0, 0, (*Head).status},
	{"POST", []string{"*", "registrations", "*"}, 0, dps.MaxBody, (*Head).lookup},
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
	if err := h.serve(q); err != nil {
		reply := dps.ErrorReply(err)
		if errors.Is(err, errMethod) {
			reply = dps.Refusal(405001, "this path does not take "+r.Method)
			reply.Err = err
		}
		h.reply(q, reply)
	}
}

func (h *Head) serve(q *request) error {
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
	} else {
		q.caller, err = h.authenticate(q)
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

func (h *Head) authenticate(q *request) (*dps.Caller, error) {
	var certs []*x509.Certificate
	if q.TLS != nil {
		certs = q.TLS.PeerCertificates
	}
	return h.core.Authenticate(q.Context(), dps.Credentials{
		IDScope: q.segments[0], RegistrationID: q.segments[2],
		Token: q.Header.Get("Authorization"), Certificates: certs,
	})
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
	return h.plain(q)(h.core.Bulk(q.Context(), q.group, q.body))
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
