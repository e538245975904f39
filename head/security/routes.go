package security

import (
	"net/http"
	"regexp"
	"slices"
	"strings"

	"github.com/vauban-iot/vauban/defender/group"
	"github.com/vauban-iot/vauban/defender/solution"
	"github.com/vauban-iot/vauban/fault"
	"github.com/vauban-iot/vauban/head/arm"
)

// route is one row of the table.
type route struct {
	method  string
	path    string // {name} is any one word
	role    solution.Role
	version string // of the API
	limit   int64  // of the body, in bytes; zero: the body is not read
	serve   func(*Head, *request) error

	words []string
}

const (
	provider      = "Microsoft.Security"
	authorization = "Microsoft.Authorization"
	subscription  = "subscriptions/{subscription}"
	resourceGroup = subscription + "/resourceGroups/{resourceGroup}"
	hubPath       = resourceGroup + "/providers/Microsoft.Devices/IotHubs/{hub}"

	inSubscription = subscription + "/providers/" + provider + "/iotSecuritySolutions"
	inGroup        = resourceGroup + "/providers/" + provider + "/iotSecuritySolutions"
	solutionPath   = inGroup + "/{solution}"
	models         = solutionPath + "/analyticsModels"
	aggregates     = models + "/default/aggregatedAlerts"
	aggregate      = aggregates + "/{alertType}/{date}"
	counted        = models + "/default/aggregatedRecommendations"
	groupsPath     = hubPath + "/providers/" + provider + "/deviceSecurityGroups"
	hubAlerts      = hubPath + "/providers/" + provider + "/iotAlerts"
	allAlerts      = subscription + "/providers/" + provider + "/iotAlerts"
	assignments    = hubPath + "/providers/" + authorization + "/roleAssignments"

	stable  = "2019-08-01"
	preview = "2020-08-06-preview"
	granted = "2022-04-01"

	small = 16 << 10
)

var routes = []route{
	{method: "GET", path: inSubscription, role: solution.Reader, version: stable, serve: (*Head).solutions},
	{method: "GET", path: inGroup, role: solution.Reader, version: stable, serve: (*Head).solutions},
	{method: "GET", path: solutionPath, role: solution.Reader, version: stable, serve: (*Head).getSolution},
	{method: "PUT", path: solutionPath, role: solution.Administrator, version: stable, limit: solution.MaxSize, serve: (*Head).putSolution},
	{method: "PATCH", path: solutionPath, role: solution.Administrator, version: stable, limit: solution.MaxSize, serve: (*Head).patchSolution},
	{method: "DELETE", path: solutionPath, role: solution.Administrator, version: stable, serve: (*Head).deleteSolution},

	{method: "GET", path: models, role: solution.Reader, version: stable, serve: (*Head).models},
	{method: "GET", path: models + "/default", role: solution.Reader, version: stable, serve: (*Head).model},
	{method: "GET", path: aggregates, role: solution.Reader, version: stable, serve: (*Head).aggregates},
	{method: "GET", path: aggregate, role: solution.Reader, version: stable, serve: (*Head).aggregate},
	{method: "POST", path: aggregate + "/dismiss", role: solution.Administrator, version: stable, serve: (*Head).dismiss},
	{method: "GET", path: counted, role: solution.Reader, version: stable, serve: (*Head).recommendations},
	{method: "GET", path: counted + "/{recommendation}", role: solution.Reader, version: stable, serve: (*Head).recommendation},

	{method: "GET", path: groupsPath, role: solution.Reader, version: stable, serve: (*Head).groups},
	{method: "GET", path: groupsPath + "/{group}", role: solution.Reader, version: stable, serve: (*Head).group},
	{method: "PUT", path: groupsPath + "/{group}", role: solution.Administrator, version: stable, limit: group.MaxSize, serve: (*Head).putGroup},
	{method: "DELETE", path: groupsPath + "/{group}", role: solution.Administrator, version: stable, serve: (*Head).deleteGroup},

	{method: "GET", path: allAlerts, role: solution.Reader, version: preview, serve: (*Head).alerts},
	{method: "GET", path: allAlerts + "/{alert}", role: solution.Reader, version: preview, serve: (*Head).alert},
	{method: "GET", path: hubAlerts, role: solution.Reader, version: preview, serve: (*Head).alerts},
	{method: "GET", path: hubAlerts + "/{alert}", role: solution.Reader, version: preview, serve: (*Head).alert},

	{method: "GET", path: assignments, role: solution.Reader, version: granted, serve: (*Head).roles},
	{method: "PUT", path: assignments + "/{assignment}", role: solution.Operator, version: granted, limit: small, serve: (*Head).putRole},
	{method: "DELETE", path: assignments + "/{assignment}", role: solution.Operator, version: granted, serve: (*Head).deleteRole},
}

func init() {
	for i := range routes {
		routes[i].words = strings.Split(routes[i].path, "/")
	}
}

// is matches a path; words compare without case, as ARM's do.
func (rt *route) is(path []string) (args map[string]string, ok bool) {
	if len(path) != len(rt.words) {
		return nil, false
	}
	args = map[string]string{}
	for i, w := range rt.words {
		switch {
		case w[0] == '{':
			if path[i] == "" {
				return nil, false
			}
			args[w[1:len(w)-1]] = path[i]
		case !strings.EqualFold(w, path[i]):
			return nil, false
		}
	}
	return args, true
}

// find returns the route of a request, fault.NotFound or arm.ErrMethod.
func find(method string, path []string) (*route, map[string]string, error) {
	for i := range routes {
		if routes[i].method == method {
			if args, ok := routes[i].is(path); ok {
				return &routes[i], args, nil
			}
		}
	}
	if len(allowed(path)) > 0 {
		return nil, nil, arm.ErrMethod
	}
	return nil, nil, fault.New(fault.NotFound, "there is nothing at this path")
}

// allowed lists the methods of a path.
func allowed(path []string) (methods []string) {
	for i := range routes {
		if _, ok := routes[i].is(path); ok && !slices.Contains(methods, routes[i].method) {
			methods = append(methods, routes[i].method)
		}
	}
	return methods
}

// free is what a subscription or a resource group may be called: nothing here has them.
var free = regexp.MustCompile(`^[\p{L}\p{N}_.()-]{1,90}$`)

// checkNames refuses names that ARM does not have, and hubs that are not this one.
func (h *Head) checkNames(q *request) error {
	for _, what := range []string{"subscription", "resourceGroup"} {
		if s, ok := q.args[what]; ok && !free.MatchString(s) {
			return fault.New(fault.Invalid, "the name of a %s has 1 to 90 letters, digits and ._()-", what)
		}
	}
	if s, ok := q.args["solution"]; ok && q.Method == http.MethodPut {
		if err := solution.CheckName(s); err != nil {
			return err
		}
	}
	if s, ok := q.args["hub"]; ok && !h.isHub(s) {
		return fault.New(fault.NotFound, "there is no IoT hub %q here; this one is called %s", s, h.hubName())
	}
	return nil
}

// hubName is the hub's in ids: the first word of its host name, as Azure's are; an address has one word.
func (h *Head) hubName() string {
	if first, _, ok := strings.Cut(h.cfg.Hub, "."); ok && !address.MatchString(h.cfg.Hub) {
		return first
	}
	return h.cfg.Hub
}

// address is an IPv4 address, whose first word names nothing.
var address = regexp.MustCompile(`^[0-9.]+$`)

// isHub reports whether a name is the hub's: its host name, or the first word of it.
func (h *Head) isHub(name string) bool {
	return strings.EqualFold(name, h.cfg.Hub) || strings.EqualFold(name, h.hubName())
}

// hubID reports whether an id is that of the hub.
func (h *Head) hubID(id string) bool {
	name, ok := solution.HubID(id)
	return ok && h.isHub(name)
}
