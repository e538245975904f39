package sphere

import (
	"net/http"
	"slices"
	"strings"

	"github.com/vauban-iot/vauban/fault"
	"github.com/vauban-iot/vauban/head/arm"
	"github.com/vauban-iot/vauban/sphere"
)

// route is one row of the tables.
type route struct {
	method string
	path   string // {name} is any one word
	// right is the role, in the tenant that the path names, which the domain asks; "" is any caller who is signed in. plus is what
	// more it takes or lets: see the constants.
	right sphere.Role
	plus  extra
	limit int64 // of the body, in bytes; zero: the body is not read
	serve func(*Head, *request) error

	arm   bool
	words []string
}

// extra is what a right says beside a role.
type extra int

const (
	plain        extra = iota
	installation       // an administrator of the installation does it without a role, too
	only               // an administrator of the installation alone: it concerns all tenants
)

// Limits of bodies.
const (
	small   = 16 << 10
	medium  = 256 << 10 // 1000 device ids; a release of 64 images
	records = 4 << 20   // 1000 manufacture records of RSA-4096 keys and vouchers
)

// The roles, short, for the tables.
const (
	anyone = sphere.Role("")
	reads  = sphere.Reader
	adds   = sphere.Contributor
	rules  = sphere.Administrator
)

// v2 is the public API (sphere §11.1, with what the command line takes beside it).
var v2 = []route{
	{method: "GET", path: "v2/me", right: anyone, serve: (*Head).me},
	{method: "GET", path: "v2/roles", right: anyone, serve: (*Head).roleNames},
	{method: "GET", path: "v2/capabilitySigner", right: anyone, serve: (*Head).capabilitySigner},

	{method: "GET", path: "v2/tenants", right: anyone, serve: (*Head).tenants},
	{method: "POST", path: "v2/tenants", right: anyone, limit: small, serve: (*Head).createTenant},
	{method: "GET", path: "v2/tenants/{tenant}", right: reads, plus: installation, serve: (*Head).getTenant},
	{method: "PATCH", path: "v2/tenants/{tenant}", right: rules, limit: small, serve: (*Head).patchTenant},

	{method: "GET", path: "v2/tenants/{tenant}/users", right: reads, plus: installation, serve: (*Head).users},
	{method: "GET", path: "v2/tenants/{tenant}/users/{user}/role", right: reads, plus: installation, serve: (*Head).userRoles},
	{method: "POST", path: "v2/tenants/{tenant}/users/{user}/role", right: rules, plus: installation, limit: small, serve: (*Head).addRole},
	{method: "DELETE", path: "v2/tenants/{tenant}/users/{user}/role/{role}", right: rules, plus: installation, serve: (*Head).removeRole},

	{method: "GET", path: "v2/tenants/{tenant}/products", right: reads, serve: (*Head).products},
	{method: "POST", path: "v2/tenants/{tenant}/products", right: adds, limit: small, serve: (*Head).createProduct},
	{method: "GET", path: "v2/tenants/{tenant}/products/{product}", right: reads, serve: (*Head).getProduct},
	{method: "PATCH", path: "v2/tenants/{tenant}/products/{product}", right: adds, limit: small, serve: (*Head).patchProduct},
	{method: "DELETE", path: "v2/tenants/{tenant}/products/{product}", right: rules, serve: (*Head).deleteProduct},
	{method: "GET", path: "v2/tenants/{tenant}/products/{product}/devicegroups", right: reads, serve: (*Head).productGroups},
	{method: "POST", path: "v2/tenants/{tenant}/products/{product}/devicegroups", right: adds, serve: (*Head).defaultGroups},
	{method: "GET", path: "v2/tenants/{tenant}/products/{product}/devices", right: reads, serve: (*Head).devices},
	{method: "GET", path: "v2/tenants/{tenant}/products/{product}/devices/count", right: reads, serve: (*Head).countDevices},

	{method: "GET", path: "v2/tenants/{tenant}/devicegroups", right: reads, serve: (*Head).deviceGroups},
	{method: "POST", path: "v2/tenants/{tenant}/devicegroups", right: adds, limit: small, serve: (*Head).createGroup},
	{method: "GET", path: "v2/tenants/{tenant}/devicegroups/{group}", right: reads, serve: (*Head).getGroup},
	{method: "PATCH", path: "v2/tenants/{tenant}/devicegroups/{group}", right: adds, limit: small, serve: (*Head).patchGroup},
	{method: "DELETE", path: "v2/tenants/{tenant}/devicegroups/{group}", right: rules, serve: (*Head).deleteGroup},
	{method: "GET", path: "v2/tenants/{tenant}/devicegroups/{group}/devices", right: reads, serve: (*Head).devices},
	{method: "GET", path: "v2/tenants/{tenant}/devicegroups/{group}/devices/count", right: reads, serve: (*Head).countDevices},
	{method: "GET", path: "v2/tenants/{tenant}/devicegroups/{group}/errorReport", right: reads, serve: (*Head).errorReport},

	{method: "GET", path: "v2/tenants/{tenant}/devicegroups/{group}/deployments", right: reads, serve: (*Head).deployments},
	{method: "POST", path: "v2/tenants/{tenant}/devicegroups/{group}/deployments", right: adds, limit: small, serve: (*Head).createDeployment},
	{method: "GET", path: "v2/tenants/{tenant}/devicegroups/{group}/deployments/{deployment}", right: reads, serve: (*Head).getDeployment},

	{method: "GET", path: "v2/tenants/{tenant}/devices", right: reads, serve: (*Head).devices},
	{method: "GET", path: "v2/tenants/{tenant}/devices/count", right: reads, serve: (*Head).countDevices},
	{method: "POST", path: "v2/tenants/{tenant}/claimChallenge", right: adds, serve: (*Head).claimChallenge},
	{method: "POST", path: "v2/tenants/{tenant}/devices", right: adds, limit: small, serve: (*Head).claim},
	{method: "POST", path: "v2/tenants/{tenant}/devices/claim", right: adds, limit: medium, serve: (*Head).claimKnown},
	{method: "GET", path: "v2/tenants/{tenant}/devices/{device}", right: reads, serve: (*Head).getDevice},
	{method: "PATCH", path: "v2/tenants/{tenant}/devices/{device}", right: adds, limit: small, serve: (*Head).patchDevice},
	{method: "POST", path: "v2/tenants/{tenant}/devices/{device}/enable", right: rules, serve: (*Head).enableDevice},
	{method: "POST", path: "v2/tenants/{tenant}/devices/{device}/disable", right: rules, serve: (*Head).disableDevice},
	{method: "GET", path: "v2/tenants/{tenant}/devices/{device}/images", right: reads, serve: (*Head).deviceImages},
	{method: "GET", path: "v2/tenants/{tenant}/devices/{device}/targetedImages", right: reads, serve: (*Head).targetedImages},
	{method: "POST", path: "v2/tenants/{tenant}/devices/{device}/capabilities", right: adds, limit: small, serve: (*Head).capability},

	{method: "GET", path: "v2/tenants/{tenant}/manufactureRecords", right: reads, plus: installation, serve: (*Head).manufactureRecords},
	{method: "POST", path: "v2/tenants/{tenant}/manufactureRecords", right: rules, plus: installation, limit: records, serve: (*Head).uploadRecords},

	{method: "GET", path: "v2/tenants/{tenant}/certificates", right: reads, serve: (*Head).certificates},
	{method: "POST", path: "v2/tenants/{tenant}/certificates", right: rules, serve: (*Head).rotate},
	{method: "GET", path: "v2/tenants/{tenant}/certificates/{certificate}", right: reads, serve: (*Head).getCertificate},
	{method: "GET", path: "v2/tenants/{tenant}/certificates/{certificate}/content", right: reads, serve: (*Head).certificateContent},
	{method: "GET", path: "v2/tenants/{tenant}/certificates/{certificate}/chain", right: reads, serve: (*Head).certificateChain},
	{method: "POST", path: "v2/tenants/{tenant}/certificates/{certificate}/proofOfPossession", right: adds, limit: small, serve: (*Head).proofOfPossession},
	{method: "POST", path: "v2/tenants/{tenant}/certificates/{certificate}/activate", right: rules, serve: (*Head).activate},
	{method: "POST", path: "v2/tenants/{tenant}/certificates/{certificate}/revoke", right: rules, serve: (*Head).revoke},

	{method: "GET", path: "v2/tenants/{tenant}/getDeviceInsights", right: reads, serve: (*Head).insights},
	{method: "GET", path: "v2/tenants/{tenant}/errorReport", right: reads, serve: (*Head).errorReport},

	{method: "GET", path: "v2/tenants/{tenant}/releases", right: reads, serve: (*Head).releases},
	{method: "POST", path: "v2/tenants/{tenant}/releases", right: adds, limit: medium, serve: (*Head).publish},
	{method: "POST", path: "v2/tenants/{tenant}/releases/withdraw", right: rules, limit: small, serve: (*Head).withdraw},
	{method: "GET", path: "v2/tenants/{tenant}/minimums", right: reads, serve: (*Head).minimums},
	{method: "PUT", path: "v2/tenants/{tenant}/minimums", right: rules, limit: small, serve: (*Head).setMinimum},
	// Of the installation: what all tenants' devices trust.
	{method: "GET", path: "v2/releases", right: anyone, serve: (*Head).releases},
	{method: "POST", path: "v2/releases", plus: only, limit: medium, serve: (*Head).publish},
	{method: "POST", path: "v2/releases/withdraw", plus: only, limit: small, serve: (*Head).withdraw},
	{method: "GET", path: "v2/minimums", right: anyone, serve: (*Head).minimums},
	{method: "PUT", path: "v2/minimums", plus: only, limit: small, serve: (*Head).setMinimum},
}

const (
	provider   = "Microsoft.AzureSphere"
	allGroups  = "subscriptions/{subscription}/providers/" + provider + "/catalogs"
	catalogs   = "subscriptions/{subscription}/resourceGroups/{resourceGroup}/providers/" + provider + "/catalogs"
	catalog    = catalogs + "/{catalog}"
	certOf     = catalog + "/certificates/{certificate}"
	productOf  = catalog + "/products/{product}"
	groupOf    = productOf + "/deviceGroups/{deviceGroup}"
	deviceOf   = groupOf + "/devices/{device}"
	deployOf   = groupOf + "/deployments/{deployment}"
	armVersion = "2024-04-01"
)

// armRoutes is Azure Resource Manager's (sphere §11.2). Lists that are asked for by POST answer GET, too: that is how clients follow a nextLink.
var armRoutes = []route{
	{method: "GET", path: allGroups, right: anyone, serve: (*Head).armCatalogs},
	{method: "GET", path: catalogs, right: anyone, serve: (*Head).armCatalogs},
	{method: "GET", path: catalog, right: reads, plus: installation, serve: (*Head).armCatalog},
	{method: "PUT", path: catalog, right: anyone, limit: small, serve: (*Head).armPutCatalog},
	{method: "POST", path: catalog + "/countDevices", right: reads, serve: (*Head).armCountDevices},
	{method: "POST", path: catalog + "/listDeviceGroups", right: reads, limit: small, serve: (*Head).armAllGroups},
	{method: "GET", path: catalog + "/listDeviceGroups", right: reads, serve: (*Head).armAllGroups},
	{method: "POST", path: catalog + "/listDevices", right: reads, serve: (*Head).armDevices},
	{method: "GET", path: catalog + "/listDevices", right: reads, serve: (*Head).armDevices},
	{method: "POST", path: catalog + "/listDeployments", right: reads, serve: (*Head).armAllDeployments},
	{method: "GET", path: catalog + "/listDeployments", right: reads, serve: (*Head).armAllDeployments},
	{method: "POST", path: catalog + "/listDeviceInsights", right: reads, serve: (*Head).armInsights},
	{method: "GET", path: catalog + "/listDeviceInsights", right: reads, serve: (*Head).armInsights},
	{method: "GET", path: catalog + "/operationStatuses/{operation}", right: reads, serve: (*Head).armOperation},
	{method: "GET", path: catalog + "/operationResults/{operation}", right: reads, serve: (*Head).armResult},

	{method: "GET", path: catalog + "/certificates", right: reads, serve: (*Head).armCertificates},
	{method: "GET", path: certOf, right: reads, serve: (*Head).armCertificate},
	{method: "POST", path: certOf + "/retrieveCertChain", right: reads, serve: (*Head).armCertChain},
	{method: "POST", path: certOf + "/retrieveProofOfPossessionNonce", right: adds, limit: small, serve: (*Head).armProof},

	{method: "GET", path: catalog + "/products", right: reads, serve: (*Head).armProducts},
	{method: "GET", path: productOf, right: reads, serve: (*Head).armProduct},
	{method: "PUT", path: productOf, right: adds, limit: small, serve: (*Head).armPutProduct},
	{method: "PATCH", path: productOf, right: adds, limit: small, serve: (*Head).armPatchProduct},
	{method: "DELETE", path: productOf, right: rules, serve: (*Head).armDeleteProduct},
	{method: "POST", path: productOf + "/countDevices", right: reads, serve: (*Head).armCountDevices},
	{method: "POST", path: productOf + "/generateDefaultDeviceGroups", right: adds, serve: (*Head).armDefaultGroups},

	{method: "GET", path: productOf + "/deviceGroups", right: reads, serve: (*Head).armGroups},
	{method: "GET", path: groupOf, right: reads, serve: (*Head).armGroup},
	{method: "PUT", path: groupOf, right: adds, limit: small, serve: (*Head).armPutGroup},
	{method: "PATCH", path: groupOf, right: adds, limit: small, serve: (*Head).armPatchGroup},
	{method: "DELETE", path: groupOf, right: rules, serve: (*Head).armDeleteGroup},
	{method: "POST", path: groupOf + "/countDevices", right: reads, serve: (*Head).armCountDevices},
	{method: "POST", path: groupOf + "/claimDevices", right: adds, limit: medium, serve: (*Head).armClaim},

	{method: "GET", path: groupOf + "/deployments", right: reads, serve: (*Head).armDeployments},
	{method: "GET", path: deployOf, right: reads, serve: (*Head).armDeployment},
	{method: "PUT", path: deployOf, right: adds, limit: medium, serve: (*Head).armPutDeployment},

	{method: "GET", path: groupOf + "/devices", right: reads, serve: (*Head).armDevices},
	{method: "GET", path: deviceOf, right: reads, serve: (*Head).armDevice},
	{method: "PUT", path: deviceOf, right: adds, limit: small, serve: (*Head).armPutDevice},
	{method: "PATCH", path: deviceOf, right: adds, limit: small, serve: (*Head).armPatchDevice},
	{method: "POST", path: deviceOf + "/generateCapabilityImage", right: adds, limit: small, serve: (*Head).armCapability},
}

func init() {
	for i := range v2 {
		v2[i].words = strings.Split(v2[i].path, "/")
	}
	for i := range armRoutes {
		armRoutes[i].words, armRoutes[i].arm = strings.Split(armRoutes[i].path, "/"), true
	}
}

// changes reports whether requests of this route belong into the audit.
func (rt *route) changes() bool {
	last := rt.words[len(rt.words)-1]
	return rt.method != http.MethodGet && !strings.HasPrefix(last, "list") && last != "countDevices" && last != "retrieveCertChain"
}

// operation names the route in audits.
func (rt *route) operation() string { return rt.method + " /" + rt.path }

// is matches a path; words compare without case, as ARM's do.
func (rt *route) is(segments []string) (args map[string]string, ok bool) {
	if len(segments) != len(rt.words) {
		return nil, false
	}
	args = map[string]string{}
	for i, w := range rt.words {
		switch {
		case w[0] == '{':
			if segments[i] == "" {
				return nil, false
			}
			args[w[1:len(w)-1]] = segments[i]
		case !strings.EqualFold(w, segments[i]):
			return nil, false
		}
	}
	return args, true
}

func tableOf(segments []string) []route {
	if len(segments) > 0 && strings.EqualFold(segments[0], "v2") {
		return v2
	}
	return armRoutes
}

// find returns the first route of a request, fault.NotFound or arm.ErrMethod.
func find(method string, segments []string) (*route, map[string]string, error) {
	table := tableOf(segments)
	for i := range table {
		if table[i].method == method {
			if args, ok := table[i].is(segments); ok {
				return &table[i], args, nil
			}
		}
	}
	if len(allowed(segments)) > 0 {
		return nil, nil, arm.ErrMethod
	}
	return nil, nil, fault.New(fault.NotFound, "there is nothing at this path")
}

// allowed lists the methods of a path.
func allowed(segments []string) (methods []string) {
	for _, rt := range tableOf(segments) {
		if _, ok := rt.is(segments); ok && !slices.Contains(methods, rt.method) {
			methods = append(methods, rt.method)
		}
	}
	return methods
}
