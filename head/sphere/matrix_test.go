package sphere

import (
	"encoding/base64"
	"fmt"
	"net/http"
	"net/url"
	"strings"
	"testing"

	"github.com/vauban-iot/vauban/internal/conform"
	"github.com/vauban-iot/vauban/sphere"
)

// sent is how a route is called with things out of an estate.
type sent struct {
	args map[string]string // instead of the estate's
	body string
	make func(w *world, e estate) string // of the body, when it has to be made
	want int                             // status for who may; 0: 200, or 204 of a DELETE
}

// calls says how each route is called. TestMatrix fails when one is missing, or one too many is there.
func calls(e estate) map[string]sent {
	const release = `{"Kind":0,"OsFeedType":1,"Version":"27.1","Images":[{"ComponentId":"00000000-0000-4000-8000-000000000001","ImageId":"00000000-0000-4000-9000-000000000002","Sha256":"` +
		"abababababababababababababababababababababababababababababababab" + `"}]}`
	key := func(w *world, _ estate) string {
		return `{"Items":[{"PublicKey":"` + base64.StdEncoding.EncodeToString(newKey(w.t).der) + `"}]}`
	}
	known := map[string]string{"product": sphere.PseudoUnassigned, "deviceGroup": sphere.PseudoUnassigned, "device": e.known}
	all := map[string]sent{
		"POST v2/tenants":                                        {body: `{"Name":"new-tenant"}`, want: 201},
		"PATCH v2/tenants/{tenant}":                              {body: `{"Name":"renamed"}`},
		"POST v2/tenants/{tenant}/users/{user}/role":             {args: map[string]string{"user": "mallory@example.org"}, body: `{"RoleName":"Reader"}`},
		"POST v2/tenants/{tenant}/products":                      {body: `{"Name":"New one"}`, want: 201},
		"PATCH v2/tenants/{tenant}/products/{product}":           {body: `{"Description":"changed"}`},
		"DELETE v2/tenants/{tenant}/products/{product}":          {args: map[string]string{"product": e.empty}},
		"POST v2/tenants/{tenant}/devicegroups":                  {body: `{"Name":"New one","ProductId":"` + e.product + `"}`, want: 201},
		"PATCH v2/tenants/{tenant}/devicegroups/{group}":         {body: `{"OsFeedType":1}`},
		"DELETE v2/tenants/{tenant}/devicegroups/{group}":        {args: map[string]string{"group": e.spare}},
		"PATCH v2/tenants/{tenant}/devices/{device}":             {body: `{"DeviceGroupId":"` + e.spare + `"}`},
		"POST v2/tenants/{tenant}/manufactureRecords":            {make: key},
		"POST v2/tenants/{tenant}/certificates":                  {want: 409}, // a successor waits
		"POST v2/tenants/{tenant}/releases":                      {body: release, want: 201},
		"POST v2/releases":                                       {body: release, want: 201},
		"POST v2/releases/withdraw":                              {body: `{"Kind":0,"OsFeedType":0,"Version":"26.1"}`, want: 404}, // nothing is published
		"POST v2/tenants/{tenant}/releases/withdraw":             {body: `{"Kind":0,"OsFeedType":0,"Version":"26.1"}`, want: 204},
		"PUT v2/tenants/{tenant}/minimums":                       {body: `{"OsFeedType":0,"Version":"25.1"}`},
		"PUT v2/minimums":                                        {body: `{"OsFeedType":0,"Version":"25.1"}`},
		"POST v2/tenants/{tenant}/devices/claim":                 {body: `{"DeviceIdentifiers":["` + e.known + `"]}`},
		"POST v2/tenants/{tenant}/devices/{device}/capabilities": {body: `[11]`},
		"POST v2/tenants/{tenant}/devices": {want: 201, make: func(w *world, e estate) string {
			return w.proofBody(e.administrator, e.tenant, newKey(w.t), e.group)
		}},
		"POST v2/tenants/{tenant}/devicegroups/{group}/deployments": {body: `{"DeployedImages":["` + e.app + `"]}`, want: 201},
		"PUT " + deployOf: {args: map[string]string{"deployment": sphere.PseudoDefault}, body: `{"properties":{"deployedImages":["` + e.app + `"]}}`, want: 201},
		"POST v2/tenants/{tenant}/certificates/{certificate}/proofOfPossession": {body: `{"ProofOfPossessionNonce":"CODE"}`},
		"POST v2/tenants/{tenant}/certificates/{certificate}/activate":          {args: map[string]string{"certificate": e.successor}},

		"PUT " + catalog: {want: 409}, // the administrator of the installation did not make it
		"GET " + catalog + "/operationStatuses/{operation}":  {args: map[string]string{"operation": "none"}, want: 404},
		"GET " + catalog + "/operationResults/{operation}":   {args: map[string]string{"operation": "none"}, want: 404},
		"POST " + certOf + "/retrieveProofOfPossessionNonce": {body: `{"proofOfPossessionNonce":"CODE"}`},
		"PUT " + productOf:                              {body: `{"properties":{"description":"changed"}}`},
		"PATCH " + productOf:                            {body: `{"properties":{"description":"changed"}}`},
		"DELETE " + productOf:                           {args: map[string]string{"product": e.emptyName}},
		"PUT " + groupOf:                                {body: `{"properties":{"osFeedType":"RetailEval"}}`},
		"PATCH " + groupOf:                              {body: `{"properties":{"osFeedType":"RetailEval"}}`},
		"DELETE " + groupOf:                             {args: map[string]string{"deviceGroup": e.spareName}},
		"POST " + groupOf + "/claimDevices":             {body: `{"deviceIdentifiers":["` + e.known + `"]}`, want: 202},
		"PUT " + deviceOf:                               {args: known},
		"PATCH " + deviceOf:                             {body: `{"properties":{"deviceGroupId":".unassigned"}}`},
		"POST " + deviceOf + "/generateCapabilityImage": {body: `{"capabilities":["ApplicationDevelopment"]}`},
	}
	for _, plain := range []string{
		"GET v2/me", "GET v2/roles", "GET v2/capabilitySigner", "GET v2/tenants", "GET v2/releases", "GET v2/minimums",
		"GET v2/tenants/{tenant}", "GET v2/tenants/{tenant}/users", "GET v2/tenants/{tenant}/users/{user}/role", "DELETE v2/tenants/{tenant}/users/{user}/role/{role}",
		"GET v2/tenants/{tenant}/products", "GET v2/tenants/{tenant}/products/{product}",
		"GET v2/tenants/{tenant}/products/{product}/devicegroups", "POST v2/tenants/{tenant}/products/{product}/devicegroups",
		"GET v2/tenants/{tenant}/products/{product}/devices", "GET v2/tenants/{tenant}/products/{product}/devices/count",
		"GET v2/tenants/{tenant}/devicegroups", "GET v2/tenants/{tenant}/devicegroups/{group}", "GET v2/tenants/{tenant}/devicegroups/{group}/devices",
		"GET v2/tenants/{tenant}/devicegroups/{group}/devices/count", "GET v2/tenants/{tenant}/devicegroups/{group}/errorReport",
		"GET v2/tenants/{tenant}/devices", "GET v2/tenants/{tenant}/devices/count", "POST v2/tenants/{tenant}/claimChallenge",
		"GET v2/tenants/{tenant}/devices/{device}", "POST v2/tenants/{tenant}/devices/{device}/enable", "POST v2/tenants/{tenant}/devices/{device}/disable",
		"GET v2/tenants/{tenant}/devicegroups/{group}/deployments", "GET v2/tenants/{tenant}/devicegroups/{group}/deployments/{deployment}",
		"GET v2/tenants/{tenant}/devices/{device}/targetedImages", "POST " + catalog + "/listDeployments", "GET " + catalog + "/listDeployments",
		"GET " + groupOf + "/deployments", "GET " + deployOf,
		"GET v2/tenants/{tenant}/devices/{device}/images", "GET v2/tenants/{tenant}/manufactureRecords",
		"GET v2/tenants/{tenant}/certificates", "GET v2/tenants/{tenant}/certificates/{certificate}", "GET v2/tenants/{tenant}/certificates/{certificate}/content",
		"GET v2/tenants/{tenant}/certificates/{certificate}/chain", "POST v2/tenants/{tenant}/certificates/{certificate}/revoke",
		"GET v2/tenants/{tenant}/getDeviceInsights", "GET v2/tenants/{tenant}/errorReport", "GET v2/tenants/{tenant}/releases", "GET v2/tenants/{tenant}/minimums",
		"GET " + allGroups, "GET " + catalogs, "GET " + catalog, "POST " + catalog + "/countDevices",
		"POST " + catalog + "/listDeviceGroups", "GET " + catalog + "/listDeviceGroups", "POST " + catalog + "/listDevices", "GET " + catalog + "/listDevices",
		"POST " + catalog + "/listDeviceInsights", "GET " + catalog + "/listDeviceInsights",
		"GET " + catalog + "/certificates", "GET " + certOf, "POST " + certOf + "/retrieveCertChain",
		"GET " + catalog + "/products", "GET " + productOf, "POST " + productOf + "/countDevices", "POST " + productOf + "/generateDefaultDeviceGroups",
		"GET " + productOf + "/deviceGroups", "GET " + groupOf, "POST " + groupOf + "/countDevices", "GET " + groupOf + "/devices", "GET " + deviceOf,
	} {
		all[plain] = sent{}
	}
	return all
}

// target is the path of a route in a tenant, with ids out of an estate.
func target(rt *route, tenant, catalog string, e estate, s sent) string {
	args := map[string]string{
		"tenant": tenant, "catalog": catalog, "product": e.product, "group": e.group, "device": e.device, "certificate": e.ca, "deployment": e.deployment, "user": e.reader.Subject, "role": "Reader",
		"subscription": "00000000-0000-0000-0000-000000000000", "resourceGroup": "my-group", "deviceGroup": e.groupName,
	}
	if rt.arm {
		args["product"] = e.productName
	}
	for k, v := range s.args {
		args[k] = v
	}
	path := ""
	for _, word := range rt.words {
		if word[0] == '{' {
			word = url.PathEscape(args[word[1:len(word)-1]])
		}
		path += "/" + word
	}
	if rt.arm {
		path += "?api-version=" + armVersion
	}
	return path
}

// nothingOf checks that an answer holds nothing of an estate but what the request said itself.
func nothingOf(t *testing.T, who string, e estate, request string, a answered) {
	t.Helper()
	text := strings.ToLower(a.text + " " + fmt.Sprint(a.Header()))
	for what, s := range map[string]string{
		"tenant": e.tenant, "tenant's name": e.name, "product": e.product, "product's name": e.productName, "group": e.group, "group's name": e.groupName, "device": e.device,
		"known device": e.known, "CA": e.ca, "successor": e.successor, "event": "aaa crashed", "member": e.administrator.Subject, "SKU": "aaasku",
		"deployment": e.deployment, "image": e.app,
	} {
		s = strings.ToLower(s)
		said := strings.Contains(strings.ToLower(request), s) || strings.Contains(strings.ToLower(request), strings.ToLower(url.PathEscape(s)))
		if a.Code < 400 && said {
			continue // a path that is echoed, such as a catalog's that the caller may make
		}
		if !said && (strings.Contains(text, s) || strings.Contains(text, strings.ToLower(base64.StdEncoding.EncodeToString([]byte(s))))) {
			t.Errorf("%s: the answer holds the other's %s: %d %s", who, what, a.Code, a.text)
		}
	}
}

// Every route, asked by everybody: who has no role in a tenant learns nothing of it, not even that it is there, and changes nothing of it; who has one does what
// the table says.
func TestMatrix(t *testing.T) {
	t.Parallel()
	conform.Covers(t, "SPH-27")
	w := newWorld(t)
	a, b := w.estate("aaa"), w.estate("bbb")
	before := w.snapshot(a)
	stranger := sphere.Caller{Subject: "stranger@example.org"}
	missing := "00000000-0000-4000-8000-00000000ffff"
	left := calls(a)
	for _, table := range [][]route{v2, armRoutes} {
		for i := range table {
			rt := &table[i]
			name := rt.method + " " + rt.path
			s, listed := calls(a)[name]
			if !listed {
				t.Errorf("%s is in no test", name)
				continue
			}
			delete(left, name)
			body := func(w *world, e estate) string {
				if s.make != nil {
					return s.make(w, e)
				}
				return s.body
			}
			path, text := target(rt, a.tenant, a.name, a, s), body(w, a)
			for who, header := range map[string]string{"nobody": "", "a policy token": "SharedAccessSignature sr=x", "an unknown token": "Bearer x", "an empty token": "Bearer "} {
				got := w.ask(sphere.Caller{}, rt.method, path, text, func(r *http.Request) { r.Header.Set("Authorization", header) })
				if got.Code != 401 || !strings.HasPrefix(got.Header().Get("WWW-Authenticate"), `Bearer realm="sphere"`) {
					t.Errorf("%s by %s: %d %v %s", name, who, got.Code, got.Header(), got.text)
				}
				nothingOf(t, name+" by "+who, a, path+text, got)
			}
			inTenant := strings.Contains(rt.path, "{tenant}") || strings.Contains(rt.path, "{catalog}")
			for who, c := range map[string]sphere.Caller{"a stranger": stranger, "the other tenant's administrator": b.administrator, "the other tenant's reader": b.reader} {
				if rt.method == "PUT" && rt.path == catalog {
					continue // it makes one of its own, of the same name: TestARM_Catalogs
				}
				if rt.method == "POST" && rt.path == "v2/tenants" {
					continue // it has nothing of anybody's
				}
				got := w.ask(c, rt.method, path, text)
				nothingOf(t, name+" by "+who, a, path+text, got)
				switch {
				case inTenant:
					other := w.ask(c, rt.method, target(rt, missing, "missing", a, s), text)
					said := strings.NewReplacer(missing, a.tenant, "missing", a.name).Replace(other.text)
					if got.Code != 404 || got.text != said {
						t.Errorf("%s by %s: %d %s; of a tenant that is not there: %d %s", name, who, got.Code, got.text, other.Code, said)
					}
				case rt.plus == only:
					if got.Code != 403 {
						t.Errorf("%s by %s: %d %s, want 403", name, who, got.Code, got.text)
					}
				case got.Code >= 400:
					t.Errorf("%s by %s: %d %s", name, who, got.Code, got.text)
				}
			}
			if inTenant {
				// A tenant of one's own does not help with ids of another's.
				mine := target(rt, b.tenant, b.name, a, s)
				nothingOf(t, name+" with ids of another's", a, mine+text, w.ask(b.administrator, rt.method, mine, text))
			}
			if after := w.snapshot(a); after != before {
				t.Fatalf("%s: others changed the tenant:\n%s\n%s", name, before, after)
			}
		}
	}
	for name := range left {
		t.Errorf("%s is in the test and not served", name)
	}
}

// Every route, asked by the members of the tenant and by the installation's administrator.
func TestMatrix_Members(t *testing.T) {
	t.Parallel()
	for _, table := range [][]route{v2, armRoutes} {
		for i := range table {
			rt := &table[i]
			name := rt.method + " " + rt.path
			t.Run(strings.ReplaceAll(name, "/", "."), func(t *testing.T) {
				w := newWorld(t)
				e := w.estate("aaa")
				s := calls(e)[name]
				if s.want == 0 {
					s.want = map[bool]int{true: 204, false: 200}[rt.method == "DELETE"]
				}
				send := func(c sphere.Caller) answered {
					body := s.body
					if s.make != nil {
						body = s.make(w, e)
					}
					return w.ask(c, rt.method, target(rt, strings.ToUpper(e.tenant), strings.ToUpper(e.name), e, s), body)
				}
				before := w.snapshot(e)
				member := strings.Contains(rt.path, "{tenant}") || strings.Contains(rt.path, "{catalog}") && rt.right != anyone
				if got := send(root); member && rt.plus != installation && got.Code != 404 {
					t.Errorf("an administrator of the installation without a role: %d %s, want 404", got.Code, got.text)
				} else if (!member || rt.plus == installation) && got.Code >= 400 && got.Code != s.want {
					t.Errorf("an administrator of the installation: %d %s", got.Code, got.text)
				}
				if rt.plus == installation && rt.method != "GET" { // it is done: begin again
					w = newWorld(t)
					e = w.estate("aaa")
					s.args, before = calls(e)[name].args, w.snapshot(e)
				}
				if rt.plus == only {
					if got := send(e.administrator); got.Code != 403 {
						t.Errorf("an Administrator of a tenant: %d %s, want 403", got.Code, got.text)
					}
					return
				}
				allowed := rt.right == anyone
				for _, m := range []struct {
					role sphere.Role
					c    sphere.Caller
				}{{sphere.Reader, e.reader}, {sphere.Contributor, e.contributor}, {sphere.Administrator, e.administrator}} {
					first := m.role == rt.right
					allowed = allowed || first
					got := send(m.c)
					switch {
					case !allowed && got.Code != 403:
						t.Errorf("%s: %d %s, want 403", m.role, got.Code, got.text)
					case !allowed && w.snapshot(e) != before:
						t.Errorf("%s changed something", m.role)
					case first && got.Code != s.want:
						t.Errorf("%s: %d %s, want %d", m.role, got.Code, got.text, s.want)
					case allowed && (got.Code == 401 || got.Code == 403 || got.Code >= 500):
						t.Errorf("%s: %d %s", m.role, got.Code, got.text)
					}
					if rt.method == "GET" && w.snapshot(e) != before {
						t.Error("a GET changed something")
					}
				}
			})
		}
	}
}
