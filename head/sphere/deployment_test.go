package sphere

import (
	"fmt"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/vauban-iot/vauban/internal/conform"
	"github.com/vauban-iot/vauban/sphere"
)

// second is another application of an estate, which is released, too.
func (w *world) second(e estate) string {
	w.t.Helper()
	m := image
	m.Component, m.ID = "00000000-0000-4000-8000-000000000008", "00000000-0000-4000-9000-000000000008"
	must(w.PublishRelease(w.t.Context(), e.contributor, e.tenant, sphere.Release{Kind: sphere.ReleaseApplication, Version: "2", Images: []sphere.Image{m}}))(w.t)
	return m.ID
}

func TestV2_Deployments(t *testing.T) {
	t.Parallel()
	conform.Covers(t, "SPH-17")
	w := newWorld(t)
	e := w.estate("aaa")
	second := w.second(e)
	at := "/devicegroups/" + e.spare
	if m := w.want(200, e.reader, "GET", path(e, at+"/deployments"), ""); len(m["Items"].([]any)) != 0 {
		t.Errorf("before the first: %v", m)
	}
	w.want(404, e.reader, "GET", path(e, at+"/deployments/.default"), "")
	made := w.want(201, e.contributor, "POST", path(e, at+"/deployments"), `{"DeployedImages":["`+strings.ToUpper(second)+`","`+e.app+`"]}`)
	want := map[string]any{"Id": made["Id"], "TenantId": e.tenant, "DeployedImages": []any{e.app, second}, "DeploymentDateUtc": "2026-03-10T12:00:00Z"}
	if diff := cmp.Diff(want, made); diff != "" {
		t.Errorf("a deployment: %s", diff)
	}
	for _, list := range []string{"/devicegroups", "/products/" + e.product + "/devicegroups"} {
		for _, g := range w.want(200, e.reader, "GET", path(e, list), "")["Items"].([]any) {
			if dig(g, "Id") == e.spare && !cmp.Equal(dig(g, "CurrentDeployment"), any(want)) {
				t.Errorf("%s: in force is %v", list, dig(g, "CurrentDeployment"))
			}
		}
	}
	if g := w.want(200, e.reader, "GET", path(e, at), ""); !cmp.Equal(g["CurrentDeployment"], any(want)) {
		t.Errorf("in force is %v", g["CurrentDeployment"])
	}
	for _, name := range []string{".default", strings.ToUpper(made["Id"].(string))} {
		if m := w.want(200, e.reader, "GET", path(e, at+"/deployments/"+name), ""); !cmp.Equal(m, want) {
			t.Errorf("%s: %v", name, m)
		}
	}
	const id = "00000000-0000-4000-a000-000000000001"
	for _, status := range []int{201, 200} { // a request that is sent again
		if m := w.want(status, e.contributor, "POST", path(e, at+"/deployments"), `{"Id":"`+id+`","DeployedImages":["`+second+`"]}`); m["Id"] != id {
			t.Errorf("%v", m)
		}
	}
	// By pages, the latest first.
	page := w.want(200, e.reader, "GET", path(e, at+"/deployments?maxItems=1"), "")
	if dig(page, "Items", 0, "Id") != id {
		t.Errorf("%v", page)
	}
	page = w.want(200, e.reader, "GET", path(e, at+"/deployments?maxItems=1&continuationToken="+page["ContinuationToken"].(string)), "")
	if dig(page, "Items", 0, "Id") != made["Id"] || page["ContinuationToken"] != nil {
		t.Errorf("%v", page)
	}
	for what, c := range map[string]struct {
		group, body string
		status      int
		says        string
	}{
		"an image that is not released": {e.spare, `{"DeployedImages":["` + id + `"]}`, 400, "publish a release of kind application with it first"},
		"no images":                     {e.spare, `{}`, 400, "1 to 64 images"},
		"no list":                       {e.spare, `{"DeployedImages":"` + second + `"}`, 400, "JSON"},
		"an id that is taken":           {e.spare, `{"Id":"` + id + `","DeployedImages":["` + e.app + `"]}`, 409, "another id"},
		"no such group":                 {id, `{"DeployedImages":["` + second + `"]}`, 404, "does not exist"},
		"no group":                      {".unassigned", `{"DeployedImages":["` + second + `"]}`, 404, "does not exist"},
	} {
		if a := w.ask(e.contributor, "POST", path(e, "/devicegroups/"+c.group+"/deployments"), c.body); a.Code != c.status || !strings.Contains(a.text, c.says) {
			t.Errorf("%s: %d %s, want %d %q", what, a.Code, a.text, c.status, c.says)
		}
	}

	target := w.want(200, e.reader, "GET", path(e, "/devices/"+e.device+"/targetedImages"), "")
	if dig(target, "Items", 0, "ImageId") != e.app || dig(target, "Deployment", "Id") != e.deployment || target["Reason"] != nil {
		t.Errorf("%v", target)
	}
	w.want(200, e.contributor, "PATCH", path(e, "/devicegroups/"+e.group), `{"UpdatePolicy":1}`)
	target = w.want(200, e.reader, "GET", path(e, "/devices/"+e.device+"/targetedImages"), "")
	if len(target["Items"].([]any)) != 0 || dig(target, "Deployment", "Id") != e.deployment || !strings.Contains(target["Reason"].(string), "No3rdPartyAppUpdates") {
		t.Errorf("%v", target)
	}
	w.want(200, e.contributor, "PATCH", path(e, "/devices/"+e.device), `{"DeviceGroupId":".unassigned"}`)
	target = w.want(200, e.reader, "GET", path(e, "/devices/"+e.device+"/targetedImages"), "")
	if target["Deployment"] != nil || target["Reason"] == nil {
		t.Errorf("%v", target)
	}
}

func TestARM_Deployments(t *testing.T) {
	t.Parallel()
	conform.Covers(t, "SPH-17")
	w := newWorld(t)
	e := w.estate("aaa")
	second := w.second(e)
	in := "/products/" + e.productName + "/deviceGroups/" + e.spareName
	if g := w.want(200, e.reader, "GET", armPath(e, in), ""); dig(g, "properties", "hasDeployment") != false {
		t.Errorf("%v", g)
	}
	w.want(404, e.reader, "GET", armPath(e, in+"/deployments/.default"), "")
	// Images by their resource, by its name, by its id, and by their own.
	const id = "00000000-0000-4000-a000-000000000001"
	for n, images := range []string{
		`[{"properties":{"imageId":"` + e.app + `"}},{"name":"` + second + `"}]`,
		`["` + e.app + `",{"id":"/subscriptions/s/resourceGroups/g/providers/Microsoft.AzureSphere/catalogs/c/images/` + second + `"}]`,
	} {
		name := strings.Replace(id, "0001", fmt.Sprintf("000%d", n+1), 1)
		d := w.want(201, e.contributor, "PUT", armPath(e, in+"/deployments/"+strings.ToUpper(name)), `{"properties":{"deployedImages":`+images+`}}`)
		if d["id"] != armCatalogsPath+"/aaa-tenant"+in+"/deployments/"+name || d["name"] != name || d["type"] != "Microsoft.AzureSphere/catalogs/products/deviceGroups/deployments" ||
			dig(d, "systemData", "createdBy") != e.contributor.Subject {
			t.Errorf("%v", d)
		}
		p := d["properties"].(map[string]any)
		if p["deploymentId"] != name || p["deploymentDateUtc"] != "2026-03-10T12:00:00Z" || p["provisioningState"] != "Succeeded" || len(p["deployedImages"].([]any)) != 2 ||
			dig(p, "deployedImages", 0, "properties", "imageId") != e.app || dig(p, "deployedImages", 1, "name") != second {
			t.Errorf("%v", p)
		}
	}
	if g := w.want(200, e.reader, "GET", armPath(e, in), ""); dig(g, "properties", "hasDeployment") != true {
		t.Errorf("%v", g)
	}
	byDefault := w.want(201, e.contributor, "PUT", armPath(e, in+"/deployments/.default"), `{"properties":{"deploymentId":"`+strings.Replace(id, "0001", "0003", 1)+`","deployedImages":["`+second+`"]}}`)
	if got := w.want(200, e.reader, "GET", armPath(e, in+"/deployments/.DEFAULT"), ""); !cmp.Equal(got, byDefault) || got["name"] == id {
		t.Errorf("%v", got)
	}
	fresh := w.want(201, e.contributor, "PUT", armPath(e, in+"/deployments/.default"), `{"properties":{"deployedImages":["`+e.app+`"]}}`)
	if names, pages := w.walk(e.reader, "GET", armPath(e, in+"/deployments?$maxpagesize=3"), ""); len(names) != 4 || names[0] != fresh["name"] || names[3] != id || pages != 2 {
		t.Errorf("%q on %d pages", names, pages)
	}
	if names, _ := w.walk(e.reader, "POST", armPath(e, "/listDeployments?$maxpagesize=2"), ""); len(names) != 5 {
		t.Errorf("%q", names)
	}
	if names, _ := w.walk(e.reader, "GET", armPath(e, "/listDeployments?$filter=deploymentId%20eq%20%27"+e.deployment+"%27"), ""); len(names) != 1 || names[0] != e.deployment {
		t.Errorf("%q", names)
	}
	if d := w.want(200, e.reader, "GET", armPath(e, child(e, "/deployments/.default")), ""); d["name"] != e.deployment {
		t.Errorf("%v", d)
	}

	body := `{"properties":{"deployedImages":["` + second + `"]}}`
	for what, c := range map[string]struct {
		method, path, body string
		status             int
		code               string
	}{
		"no name of a deployment":       {"PUT", in + "/deployments/first", body, 400, "InvalidParameter"},
		"the name of no group":          {"GET", in + "/deployments/.unassigned", "", 400, "InvalidParameter"},
		"two ids":                       {"PUT", in + "/deployments/" + id, `{"properties":{"deploymentId":"` + second + `","deployedImages":["` + second + `"]}}`, 400, "InvalidParameter"},
		"one that was in force":         {"PUT", in + "/deployments/" + id, body, 409, "Conflict"},
		"an image that is not released": {"PUT", in + "/deployments/.default", `{"properties":{"deployedImages":["` + id + `"]}}`, 400, "InvalidParameter"},
		"no images":                     {"PUT", in + "/deployments/.default", `{"properties":{}}`, 400, "InvalidParameter"},
		"images of no kind":             {"PUT", in + "/deployments/.default", `{"properties":{"deployedImages":[1]}}`, 400, "InvalidRequestContent"},
		"no body":                       {"PUT", in + "/deployments/.default", "", 400, "InvalidRequestContent"},
		"no such group":                 {"PUT", "/products/" + e.productName + "/deviceGroups/none/deployments/.default", body, 404, "ResourceNotFound"},
		"no such deployment":            {"GET", in + "/deployments/" + second, "", 404, "ResourceNotFound"},
		"one of another group":          {"GET", in + "/deployments/" + e.deployment, "", 404, "ResourceNotFound"},
		"nothing is taken back":         {"DELETE", in + "/deployments/.default", "", 405, "MethodNotAllowed"},
	} {
		a := w.ask(e.administrator, c.method, armPath(e, c.path), c.body)
		if a.Code != c.status || dig(a.json(t), "error", "code") != c.code {
			t.Errorf("%s: %d %s, want %d %s", what, a.Code, a.text, c.status, c.code)
		}
	}
}

// The pseudo names stand for devices without a group in every path that takes a product: they are read, and nothing but devices is written.
func TestARM_PseudoNames(t *testing.T) {
	t.Parallel()
	conform.Covers(t, "SPH-17")
	type answer struct {
		status int
		check  func(e estate, m map[string]any) bool
	}
	empty := func(_ estate, m map[string]any) bool { l, is := m["value"].([]any); return is && len(l) == 0 }
	one := func(_ estate, m map[string]any) bool { return m["value"] == 1.0 }
	theDevice := func(e estate, m map[string]any) bool {
		return m["name"] == e.device && strings.Contains(m["id"].(string), "/products/.unassigned/deviceGroups/.unassigned/devices/")
	}
	none := func(_ estate, m map[string]any) bool { return dig(m, "properties", "hasDeployment") == false }
	refused := answer{status: 400}
	answers := map[string]answer{
		"GET " + productOf:                                   {200, nil},
		"PUT " + productOf:                                   refused,
		"PATCH " + productOf:                                 refused,
		"DELETE " + productOf:                                refused,
		"POST " + productOf + "/countDevices":                {200, one},
		"POST " + productOf + "/generateDefaultDeviceGroups": refused,
		"GET " + productOf + "/deviceGroups":                 {200, empty},
		"GET " + groupOf:                                     {200, none},
		"PUT " + groupOf:                                     refused,
		"PATCH " + groupOf:                                   refused,
		"DELETE " + groupOf:                                  refused,
		"POST " + groupOf + "/countDevices":                  {200, one},
		"POST " + groupOf + "/claimDevices":                  {202, nil},
		"GET " + groupOf + "/devices":                        {200, func(e estate, m map[string]any) bool { return dig(m, "value", 0, "name") == e.device }},
		"GET " + deviceOf:                                    {200, theDevice},
		"PUT " + deviceOf:                                    {200, theDevice},
		"PATCH " + deviceOf:                                  {200, theDevice},
		"POST " + deviceOf + "/generateCapabilityImage":      {200, nil},
		"GET " + groupOf + "/deployments":                    {200, empty},
		"GET " + deployOf:                                    {404, nil},
		"PUT " + deployOf:                                    refused,
	}
	w := newWorld(t)
	e := w.estate("aaa")
	ok(t, w.AssignDevices(t.Context(), e.administrator, e.tenant, []string{e.device}, "", nil))
	for i := range armRoutes {
		rt := &armRoutes[i]
		if !strings.Contains(rt.path, "{product}") {
			continue
		}
		name := rt.method + " " + rt.path
		want, listed := answers[name]
		if !listed {
			t.Errorf("%s: nothing says what it is for devices without a group", name)
			continue
		}
		s := calls(e)[name]
		for _, names := range [][2]string{{".unassigned", ".unassigned"}, {".default", ".default"}, {".DEFAULT", ".Unassigned"}, {".unassigned", ".default"}} {
			s.args = map[string]string{"product": names[0], "deviceGroup": names[1], "deployment": ".default"}
			got := w.ask(e.administrator, rt.method, target(rt, e.tenant, e.name, e, s), s.body)
			if got.Code != want.status || want.check != nil && !want.check(e, got.json(t)) {
				t.Errorf("%s of %v: %d %s, want %d", name, names, got.Code, got.text, want.status)
			}
			if strings.HasSuffix(rt.path, "/claimDevices") { // which then is in no group, too
				ok(t, w.AssignDevices(t.Context(), e.administrator, e.tenant, []string{e.known}, e.spare, nil))
			}
		}
		if !strings.Contains(rt.path, "{deviceGroup}") {
			continue
		}
		// A real product has no pseudo group, and the other way round.
		for _, names := range [][2]string{{e.productName, ".default"}, {".unassigned", e.groupName}} {
			s.args = map[string]string{"product": names[0], "deviceGroup": names[1]}
			before := w.snapshot(e)
			if got := w.ask(e.administrator, rt.method, target(rt, e.tenant, e.name, e, s), s.body); got.Code != 404 && got.Code != 400 || w.snapshot(e) != before {
				t.Errorf("%s of %v: %d %s", name, names, got.Code, got.text)
			}
		}
	}
	// To and fro, by the name and by the resource of it.
	device := "/devices/" + e.device
	nobodys := "/products/.default/deviceGroups/.unassigned"
	there := `{"properties":{"deviceGroupId":"` + armCatalogsPath + "/" + e.name + "/products/" + e.productName + "/deviceGroups/" + e.groupName + `"}}`
	for _, back := range []string{".default", ".Unassigned", armCatalogsPath + "/" + e.name + nobodys} {
		w.want(200, e.contributor, "PATCH", armPath(e, nobodys+device), there)
		if d := w.want(200, e.contributor, "PATCH", armPath(e, child(e, device)), `{"properties":{"deviceGroupId":"`+back+`"}}`); !theDevice(e, d) {
			t.Errorf("%s: %v", back, d)
		}
	}
}
