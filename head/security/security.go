// Package security is the HTTPS head of Defender in the shapes of Azure Resource Manager (defender §2.5): IoT security solutions, their
// analytics, security groups of devices, and alerts. What is not in [routes] is not served.
//
// A request carries the installation's operator token, or an access token of sign-in of somebody whom the operator gave a role
// ([solution.Role]). Subscriptions and resource groups are names and no more: an installation has one hub, whose id ends in the
// hub's host name or the first word of it.
package security

import (
	"context"
	"errors"
	"log/slog"
	"net/http"
	"net/url"
	"strings"
	"time"

	"github.com/vauban-iot/vauban/access/signin"
	"github.com/vauban-iot/vauban/defender/alert"
	"github.com/vauban-iot/vauban/defender/group"
	"github.com/vauban-iot/vauban/defender/posture"
	"github.com/vauban-iot/vauban/defender/solution"
	"github.com/vauban-iot/vauban/fault"
	"github.com/vauban-iot/vauban/head/arm"
	"github.com/vauban-iot/vauban/head/rest"
)

// Solutions keeps solutions; see [solution.Book].
type Solutions interface {
	All(ctx context.Context) ([]solution.Solution, error)
	Solution(ctx context.Context, n solution.Name) (solution.Solution, error)
	Put(ctx context.Context, n solution.Name, c solution.Change) (s solution.Solution, created bool, err error)
	Patch(ctx context.Context, n solution.Name, c solution.Change) (solution.Solution, error)
	Delete(ctx context.Context, n solution.Name) (existed bool, err error)
	Configuration(ctx context.Context) ([]solution.Recommendation, error)
}

// Roles says what people may; see [solution.Roles].
type Roles interface {
	Of(ctx context.Context, mail string) (solution.Role, error)
	All(ctx context.Context) ([]solution.Assignment, error)
	Put(ctx context.Context, a solution.Assignment) (stands solution.Assignment, created bool, err error)
	Delete(ctx context.Context, id string) (a solution.Assignment, existed bool, err error)
}

// Groups keeps the rules of security groups; see [group.Book].
type Groups interface {
	Groups(ctx context.Context) (names []string, rules map[string]group.Rules, err error)
	Group(ctx context.Context, name string) (group.Rules, error)
	Put(ctx context.Context, name string, r group.Rules) (created bool, err error)
	Delete(ctx context.Context, name string) (existed bool, err error)
}

// Alerts is what the head reads of alerts.
type Alerts interface {
	Alerts(ctx context.Context, f alert.Filter) ([]alert.Alert, error)
	Alert(ctx context.Context, id string) (alert.Alert, error)
	alert.AggregateStore
}

// Posture counts recommendations; see [posture.Store].
type Posture interface {
	Totals(ctx context.Context, of posture.Whole) (posture.Totals, error)
}

// SignIn judges access tokens. [signin.Service] is one.
type SignIn interface {
	Check(ctx context.Context, bearer string) (signin.User, error)
}

// Config is what the head stands on. All but the last two are required.
type Config struct {
	Hub           string // the hub's host name
	Solutions     Solutions
	Roles         Roles
	Groups        Groups
	Alerts        Alerts
	Posture       Posture
	SignIn        SignIn
	Administrator func(token string) bool // whether a bearer token is the operator's
	Now           func() time.Time        // nil: time.Now
	Logger        *slog.Logger            // nil: slog.Default()
}

// Head serves the paths that Owns names.
type Head struct {
	cfg Config
	log *slog.Logger
}

// New returns a head.
func New(cfg Config) (*Head, error) {
	if cfg.Hub == "" || cfg.Solutions == nil || cfg.Roles == nil || cfg.Groups == nil || cfg.Alerts == nil || cfg.Posture == nil || cfg.SignIn == nil || cfg.Administrator == nil {
		return nil, errors.New("head/security: incomplete configuration")
	}
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	if cfg.Logger == nil {
		cfg.Logger = slog.Default()
	}
	return &Head{cfg: cfg, log: cfg.Logger}, nil
}

// words are the segments of a path one by one: clients encode ids of resources and names with a slash in them as one segment.
func words(segments []string) []string {
	return strings.Split(strings.Trim(strings.Join(segments, "/"), "/"), "/")
}

// Owns reports whether a path is served here: one of ARM that ends in a resource of Microsoft.Security, or roles at the hub.
func Owns(segments []string) bool {
	w := words(segments)
	if !strings.EqualFold(w[0], "subscriptions") {
		return false
	}
	last := ""
	for i := range w {
		if strings.EqualFold(w[i], "providers") && i+1 < len(w) {
			last = w[i+1]
		}
	}
	return strings.EqualFold(last, provider) || strings.EqualFold(last, authorization)
}

// request is one under way.
type request struct {
	*http.Request
	w     http.ResponseWriter
	rt    *route
	args  map[string]string // of the path, by the names in the route
	query url.Values
	who   string // operator, or a mail address
	role  solution.Role
	body  []byte
}

// ServeHTTP implements http.Handler.
func (h *Head) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	w.Header().Set("Cache-Control", "no-store")
	w.Header().Set("X-Content-Type-Options", "nosniff")
	path := words(rest.Segments(r))
	q := &request{Request: r, w: w}
	var err error
	q.rt, q.args, err = find(r.Method, path)
	if err == nil && r.Method != http.MethodGet {
		defer h.audit(q, path, &err)()
	}
	if err == nil {
		err = h.serve(q)
	}
	if err != nil {
		h.refuse(q, path, err)
	}
}

func (h *Head) serve(q *request) (err error) {
	if err := h.authenticate(q); err != nil {
		return err
	}
	if q.role < q.rt.role {
		return fault.New(fault.Forbidden, "%s may not do this: it takes the role %s at the hub, which the operator gives (%s)", q.who, q.rt.role, authorization+"/roleAssignments")
	}
	if q.query, err = url.ParseQuery(q.URL.RawQuery); err != nil {
		return fault.New(fault.Malformed, "the query cannot be read")
	}
	if err := arm.CheckVersion(q.option("api-version"), q.rt.version); err != nil {
		return err
	}
	if err := h.checkNames(q); err != nil {
		return err
	}
	if q.rt.limit > 0 {
		if q.body, err = rest.Body(q.w, q.Request, q.rt.limit); err != nil {
			return err
		}
	}
	return q.rt.serve(h, q)
}

// operator is the installation's operator in audits. No mail address is like it.
const operator = "operator"

// authenticate finds out who asks, and as what.
func (h *Head) authenticate(q *request) error {
	scheme, token, _ := strings.Cut(q.Header.Get("Authorization"), " ")
	token = strings.TrimSpace(token)
	if !strings.EqualFold(scheme, "Bearer") || token == "" {
		return arm.Denied{Err: fault.New(fault.Unauthorized, "the request carries no bearer token")}
	}
	if h.cfg.Administrator(token) {
		q.who, q.role = operator, solution.Operator
		return nil
	}
	user, err := h.cfg.SignIn.Check(q.Context(), token)
	switch {
	case fault.Is(err, fault.Unauthorized):
		return arm.Denied{Err: err, Presented: true}
	case err != nil:
		return err
	case user.Mail == "" || strings.EqualFold(user.Mail, operator):
		return arm.Denied{Err: fault.New(fault.Unauthorized, "the token is of nobody who may have a role"), Presented: true}
	}
	q.who = user.Mail
	q.role, err = h.cfg.Roles.Of(q.Context(), user.Mail)
	return err
}

// audit makes the record of a request that should change something; what it returns writes it when the request is over.
func (h *Head) audit(q *request, path []string, err *error) func() {
	rec := &rest.Recorder{ResponseWriter: q.w}
	q.w = rec
	ctx, details := rest.Detailed(q.Context())
	q.Request = q.WithContext(ctx)
	return func() {
		code := ""
		if *err != nil {
			code = arm.AnswerOf(*err).Code
		}
		rest.Audit(q.Context(), h.log, rest.Change{
			Who: q.who, What: q.rt.method + " /" + q.rt.path, Target: strings.Join(path, "/"),
			Status: rec.Status, Code: code, Err: *err, Remote: q.RemoteAddr, Details: *details,
		})
	}
}
