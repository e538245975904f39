// Package sphere is the HTTPS head of the Security Service for people and programs: the public API below /v2 (sphere §11.1) and
// the same in the shapes of Azure Resource Manager (sphere §11.2). Both are tables of routes, [v2] and [armRoutes]; what is not there
// is not served.
//
// A request carries an access token of sign-in, or the installation's administrator token. Who may do what is the domain's
// decision: the rights in the tables say what it decides, and tests hold both together.
//
// Nothing is kept here: continuation tokens and the names of long-running operations carry their state, sealed by Config.Key, so
// any server of an installation takes what another gave.
package sphere

import (
	"context"
	"crypto/x509"
	"errors"
	"log/slog"
	"net/http"
	"net/url"
	"strings"
	"sync"
	"time"

	"github.com/vauban-iot/vauban/access/signin"
	"github.com/vauban-iot/vauban/fault"
	"github.com/vauban-iot/vauban/head/arm"
	"github.com/vauban-iot/vauban/head/rest"
	"github.com/vauban-iot/vauban/internal/secret"
	"github.com/vauban-iot/vauban/iot"
	"github.com/vauban-iot/vauban/sphere"
	"github.com/vauban-iot/vauban/sphere/report"
)

// Core is the Security Service as this head needs it. [sphere.Service] is one.
type Core interface {
	Me(ctx context.Context, c sphere.Caller) (sphere.User, error)
	Tenants(ctx context.Context, c sphere.Caller, p sphere.Page) (sphere.List[sphere.Tenant], error)
	CreateTenant(ctx context.Context, c sphere.Caller, name string) (sphere.Tenant, error)
	Tenant(ctx context.Context, c sphere.Caller, tenant string) (sphere.Tenant, error)
	UpdateTenant(ctx context.Context, c sphere.Caller, tenant, name string, match *iot.Match) (sphere.Tenant, error)
	Members(ctx context.Context, c sphere.Caller, tenant string) ([]sphere.Member, error)
	AddRole(ctx context.Context, c sphere.Caller, tenant, user string, role sphere.Role) (sphere.Member, error)
	RemoveRole(ctx context.Context, c sphere.Caller, tenant, user string, role sphere.Role) error

	Products(ctx context.Context, c sphere.Caller, tenant string, p sphere.Page) (sphere.List[sphere.Product], error)
	Product(ctx context.Context, c sphere.Caller, tenant, product string) (sphere.Product, error)
	ProductByName(ctx context.Context, c sphere.Caller, tenant, name string) (sphere.Product, error)
	CreateProduct(ctx context.Context, c sphere.Caller, tenant, name, description string) (sphere.Product, error)
	UpdateProduct(ctx context.Context, c sphere.Caller, tenant, product string, change sphere.ProductChange, match *iot.Match) (sphere.Product, error)
	DeleteProduct(ctx context.Context, c sphere.Caller, tenant, product string, match *iot.Match) error
	DeviceGroups(ctx context.Context, c sphere.Caller, tenant, product string, p sphere.Page) (sphere.List[sphere.DeviceGroup], error)
	DeviceGroup(ctx context.Context, c sphere.Caller, tenant, group string) (sphere.DeviceGroup, error)
	DeviceGroupByName(ctx context.Context, c sphere.Caller, tenant, product, name string) (sphere.DeviceGroup, error)
	CreateDeviceGroup(ctx context.Context, c sphere.Caller, tenant, product string, with sphere.GroupChange) (sphere.DeviceGroup, error)
	GenerateDefaultGroups(ctx context.Context, c sphere.Caller, tenant, product string) ([]sphere.DeviceGroup, error)
	UpdateDeviceGroup(ctx context.Context, c sphere.Caller, tenant, group string, change sphere.GroupChange, match *iot.Match) (sphere.DeviceGroup, error)
	DeleteDeviceGroup(ctx context.Context, c sphere.Caller, tenant, group string, match *iot.Match) error

	ManufactureRecords(ctx context.Context, c sphere.Caller, tenant string, p sphere.Page) (sphere.List[sphere.ManufactureRecord], error)
	UploadManufactureRecords(ctx context.Context, c sphere.Caller, tenant string, records []sphere.ManufactureRecord) ([]error, error)
	ClaimChallenge(ctx context.Context, c sphere.Caller, tenant string) (string, error)
	Claim(ctx context.Context, c sphere.Caller, tenant string, p sphere.Proof, group string) (d sphere.Device, claimed bool, err error)
	ClaimKnown(ctx context.Context, c sphere.Caller, tenant string, devices []string, group string) ([]sphere.Outcome, error)
	Devices(ctx context.Context, c sphere.Caller, tenant string, f sphere.DeviceFilter, p sphere.Page) (sphere.List[sphere.Device], error)
	Device(ctx context.Context, c sphere.Caller, tenant, device string) (sphere.Device, error)
	CountDevices(ctx context.Context, c sphere.Caller, tenant string, f sphere.DeviceFilter) (int64, error)
	AssignDevices(ctx context.Context, c sphere.Caller, tenant string, devices []string, group string, match *iot.Match) error
	SetManufacturingState(ctx context.Context, c sphere.Caller, tenant, device string, state sphere.ManufacturingState, match *iot.Match) (sphere.Device, error)
	SetDeviceEnabled(ctx context.Context, c sphere.Caller, tenant, device string, enabled bool, match *iot.Match) (sphere.Device, error)
	GrantCapability(ctx context.Context, c sphere.Caller, tenant, device string, kinds []string, expires time.Time) (sphere.Capability, []byte, error)
	CapabilitySigner() *x509.Certificate

	Releases(ctx context.Context, c sphere.Caller, tenant string) ([]sphere.Release, error)
	PublishRelease(ctx context.Context, c sphere.Caller, tenant string, r sphere.Release) (sphere.Release, error)
	WithdrawRelease(ctx context.Context, c sphere.Caller, tenant, kind string, feed sphere.OSFeed, version string) error
	Minimums(ctx context.Context, c sphere.Caller, tenant string) ([]sphere.Minimum, error)
	SetMinimum(ctx context.Context, c sphere.Caller, tenant string, feed sphere.OSFeed, version string, from time.Time) (sphere.Minimum, error)

	Deployments(ctx context.Context, c sphere.Caller, tenant, group string, p sphere.Page) (sphere.List[sphere.Deployment], error)
	Deployment(ctx context.Context, c sphere.Caller, tenant, group, deployment string) (sphere.Deployment, error)
	CreateDeployment(ctx context.Context, c sphere.Caller, tenant, group, deployment string, images []string) (d sphere.Deployment, created bool, err error)
	TargetedImages(ctx context.Context, c sphere.Caller, tenant, device string) (sphere.Target, error)

	CAs(ctx context.Context, c sphere.Caller, tenant string) ([]sphere.CA, error)
	CA(ctx context.Context, c sphere.Caller, tenant, name string) (sphere.CA, error)
	CAChain(ctx context.Context, c sphere.Caller, tenant, name string) ([]byte, error)
	CAProof(ctx context.Context, c sphere.Caller, tenant, name, code string) (*x509.Certificate, error)
	RotateCA(ctx context.Context, c sphere.Caller, tenant string) (sphere.CA, error)
	ActivateCA(ctx context.Context, c sphere.Caller, tenant, name string) (sphere.CA, error)
	RevokeCA(ctx context.Context, c sphere.Caller, tenant, name string) (sphere.CA, error)

	ErrorReport(ctx context.Context, c sphere.Caller, tenant, group string) ([]report.Event, error)
}

var _ Core = (*sphere.Service)(nil)

// SignIn judges access tokens. [signin.Service] is one.
type SignIn interface {
	Check(ctx context.Context, bearer string) (signin.User, error)
}

// Config is what the head stands on.
type Config struct {
	Service Core   // required
	SignIn  SignIn // required
	// Administrator reports whether a bearer token is the installation's administrator token; nil: none is.
	Administrator func(token string) bool
	// Key seals continuation tokens and operations; at least 32 bytes, on all servers of an installation the same. Required.
	Key    secret.Secret
	Now    func() time.Time // nil: time.Now
	Logger *slog.Logger     // nil: slog.Default()
}

// Head serves the paths that Owns names.
type Head struct {
	cfg  Config
	core Core
	log  *slog.Logger
	now  func() time.Time

	// catalogMu has two PUTs of one catalog follow each other: names of tenants are not unique, and neither must make a second one.
	catalogMu sync.Mutex
}

// New returns a head.
func New(cfg Config) (*Head, error) {
	switch {
	case cfg.Service == nil || cfg.SignIn == nil:
		return nil, errors.New("head/sphere: incomplete configuration: Service and SignIn are required")
	case len(cfg.Key.Reveal()) < 32:
		return nil, errors.New("head/sphere: Key must have 32 bytes or more")
	}
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	if cfg.Logger == nil {
		cfg.Logger = slog.Default()
	}
	return &Head{cfg: cfg, core: cfg.Service, log: cfg.Logger, now: cfg.Now}, nil
}

// Owns reports whether a path is served here.
func Owns(segments []string) bool {
	if len(segments) == 0 {
		return false
	}
	if strings.EqualFold(segments[0], "v2") {
		return true
	}
	return strings.EqualFold(segments[0], "subscriptions") && (len(segments) > 3 && strings.EqualFold(segments[3], provider) ||
		len(segments) > 5 && strings.EqualFold(segments[5], provider))
}

// request is one under way.
type request struct {
	*http.Request
	w      http.ResponseWriter
	h      *Head
	rt     *route
	args   map[string]string // of the path, by the names in the route
	query  url.Values
	caller sphere.Caller
	body   []byte

	// Of ARM requests: the tenant that the path names as a catalog, and names of groups that were looked up.
	tenant sphere.Tenant
	groups map[string]groupName
}

func (q *request) match() *iot.Match { return iot.ParseMatch(q.Header.Get("If-Match")) }

// ServeHTTP implements http.Handler.
func (h *Head) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	w.Header().Set("Cache-Control", "no-store")
	w.Header().Set("X-Content-Type-Options", "nosniff")
	segments := rest.Segments(r)
	q := &request{Request: r, w: w, h: h}
	var err error
	q.rt, q.args, err = find(r.Method, segments)
	if err == nil && q.rt.changes() {
		defer h.audit(q, segments, &err)()
	}
	if err == nil {
		err = h.serve(q)
	}
	if err != nil {
		h.refuse(q, segments, err)
	}
}

func (h *Head) serve(q *request) (err error) {
	if q.caller, err = h.authenticate(q); err != nil {
		return err
	}
	if q.query, err = url.ParseQuery(q.URL.RawQuery); err != nil {
		return fault.New(fault.Malformed, "the query cannot be read")
	}
	if q.rt.arm {
		if err := h.openARM(q); err != nil {
			return err
		}
	}
	if q.rt.limit > 0 {
		if q.body, err = rest.Body(q.w, q.Request, q.rt.limit); err != nil {
			return err
		}
	}
	return q.rt.serve(h, q)
}

// operator is the installation's administrator in audits. No mail address is like it.
const operator = "operator"

// authenticate finds out who asks. Its errors are arm.Denied, but for what nobody knows.
func (h *Head) authenticate(q *request) (sphere.Caller, error) {
	scheme, token, _ := strings.Cut(q.Header.Get("Authorization"), " ")
	token = strings.TrimSpace(token)
	if !strings.EqualFold(scheme, "Bearer") || token == "" {
		return sphere.Caller{}, arm.Denied{Err: fault.New(fault.Unauthorized, "the request carries no bearer token")}
	}
	if h.cfg.Administrator != nil && h.cfg.Administrator(token) {
		return sphere.Caller{Subject: operator, Admin: true}, nil
	}
	user, err := h.cfg.SignIn.Check(q.Context(), token)
	switch {
	case fault.Is(err, fault.Unauthorized):
		return sphere.Caller{}, arm.Denied{Err: err, Presented: true}
	case err != nil:
		return sphere.Caller{}, err
	case user.Mail == "" || strings.EqualFold(user.Mail, operator):
		return sphere.Caller{}, arm.Denied{Err: fault.New(fault.Unauthorized, "the token is of nobody who may have a role"), Presented: true}
	}
	// Roles are given to mail addresses, which is what people know of each other (role add --user).
	return sphere.Caller{Subject: user.Mail}, nil
}

// audit makes the record of a request that should change something; what it returns writes it when the request is over.
func (h *Head) audit(q *request, segments []string, err *error) func() {
	rec := &rest.Recorder{ResponseWriter: q.w}
	q.w = rec
	ctx, details := rest.Detailed(q.Context())
	q.Request = q.WithContext(ctx)
	return func() {
		code := ""
		if *err != nil {
			code = answerOf(*err).code
		}
		rest.Audit(q.Context(), h.log, rest.Change{
			Who: q.caller.Subject, What: q.rt.operation(), Target: strings.Join(segments, "/"),
			Status: rec.Status, Code: code, Err: *err, Remote: q.RemoteAddr, Details: *details,
		})
	}
}
