package sphere

import (
	"encoding/base64"
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/vauban-iot/vauban/internal/conform"
	"github.com/vauban-iot/vauban/internal/secret"
	"github.com/vauban-iot/vauban/sphere"
)

const armCatalogsPath = "/subscriptions/my-sub/resourceGroups/my-group/providers/Microsoft.AzureSphere/catalogs"

// armPath is a path below the catalog of an estate, with the version.
func armPath(e estate, more string) string { return versioned(armCatalogsPath + "/" + e.name + more) }

func versioned(path string) string {
	path = strings.ReplaceAll(path, " ", "%20")
	if strings.Contains(path, "?") {
		return path + "&api-version=" + armVersion
	}
	return path + "?api-version=" + armVersion
}

func child(e estate, more string) string {
	return "/products/" + e.productName + "/deviceGroups/" + e.groupName + more
}

func TestARM_Catalogs(t *testing.T) {
	t.Parallel()
	conform.Covers(t, "SPH-26")
	w := newWorld(t)
	e, other := w.estate("aaa"), w.estate("bbb")
	m := w.want(200, e.reader, "GET", armPath(e, ""), "")
	want := map[string]any{
		"id": armCatalogsPath + "/aaa-tenant", "name": "aaa-tenant", "type": "Microsoft.AzureSphere/catalogs", "location": "global",
		"properties": map[string]any{"tenantId": e.tenant, "provisioningState": "Succeeded"},
		"systemData": map[string]any{"createdAt": "2026-03-10T12:00:00Z", "lastModifiedAt": "2026-03-10T12:00:00Z"},
	}
	if diff := cmp.Diff(want, m); diff != "" {
		t.Error(diff)
	}
	w.want(200, e.reader, "GET", versioned(armCatalogsPath+"/"+strings.ToUpper(e.tenant)), "") // by its id
	for _, list := range []string{armCatalogsPath, "/subscriptions/my-sub/providers/Microsoft.AzureSphere/catalogs"} {
		if m := w.want(200, e.reader, "GET", versioned(list), ""); len(m["value"].([]any)) != 1 || dig(m, "value", 0, "name") != e.name {
			t.Errorf("%v", m)
		}
	}
	// A PUT makes one, once, and of the caller alone: what others call theirs is no matter.
	put := versioned(armCatalogsPath + "/" + e.name)
	mine := w.want(201, other.contributor, "PUT", put, `{"location":"global"}`)
	if dig(mine, "properties", "tenantId") == e.tenant {
		t.Error("the catalog of another")
	}
	if again := w.want(200, other.contributor, "PUT", put, `{"location":"global"}`); dig(again, "properties", "tenantId") != dig(mine, "properties", "tenantId") {
		t.Errorf("%v", again)
	}
	// Nor does a role that somebody gave the caller, however great, make a catalog the one that the caller asked for.
	w.now = w.now.Add(time.Second)
	must(w.AddRole(t.Context(), e.administrator, e.tenant, "victim@example.org", sphere.Administrator))(t)
	victim := sphere.Caller{Subject: "victim@example.org"}
	if m := w.want(409, victim, "PUT", put, ""); dig(m, "error", "code") != "Conflict" {
		t.Errorf("%v", m)
	}
	w.want(200, victim, "GET", put, "")
	w.want(200, e.administrator, "PUT", put, "")
	var wg sync.WaitGroup
	for range 4 {
		wg.Go(func() { w.ask(other.reader, "PUT", versioned(armCatalogsPath+"/at-once"), "") })
	}
	wg.Wait()
	w.want(200, other.reader, "GET", versioned(armCatalogsPath+"/at-once"), "")
	// Two of one name are told apart by their ids.
	must(w.CreateTenant(t.Context(), e.reader, e.name))(t)
	if m := w.want(409, e.reader, "GET", armPath(e, ""), ""); dig(m, "error", "code") != "Conflict" {
		t.Errorf("%v", m)
	}
	w.want(200, e.reader, "GET", versioned(armCatalogsPath+"/"+e.tenant+"/products"), "")
}

// Names, versions and methods (sphere §11.2).
func TestARM_Refuses(t *testing.T) {
	t.Parallel()
	conform.Covers(t, "SPH-26")
	w := newWorld(t)
	e := w.estate("aaa")
	long := strings.Repeat("x", 51)
	for name, c := range map[string]struct {
		method, path, body string
		status             int
		code               string
	}{
		"no version":             {"GET", armCatalogsPath, "", 400, "MissingApiVersionParameter"},
		"another version":        {"GET", armCatalogsPath + "?api-version=2023-01-01", "", 400, "InvalidApiVersionParameter"},
		"a long catalog":         {"PUT", versioned(armCatalogsPath + "/" + long), "", 400, "InvalidParameter"},
		"a catalog with a dot":   {"PUT", versioned(armCatalogsPath + "/a.b"), "", 400, "InvalidParameter"},
		"an odd subscription":    {"GET", versioned("/subscriptions/a%0ab/providers/Microsoft.AzureSphere/catalogs"), "", 400, "InvalidParameter"},
		"an odd resource group":  {"GET", versioned(strings.Replace(armCatalogsPath, "my-group", "a%2Fb", 1)), "", 400, "InvalidParameter"},
		"a long product":         {"PUT", armPath(e, "/products/"+long), "", 400, "InvalidParameter"},
		"a product that ends so": {"PUT", armPath(e, "/products/a%20"), "", 400, "InvalidParameter"},
		"a pseudo product":       {"PUT", armPath(e, "/products/.default"), "", 400, "InvalidParameter"},
		"a pseudo group":         {"DELETE", armPath(e, "/products/.default/deviceGroups/.unassigned"), "", 400, "InvalidParameter"},
		"a short device":         {"GET", armPath(e, child(e, "/devices/abc")), "", 400, "InvalidParameter"},
		"an unknown product":     {"GET", armPath(e, "/products/None"), "", 404, "ResourceNotFound"},
		"a group of no product":  {"GET", armPath(e, "/products/.default/deviceGroups/"+e.groupName), "", 404, "ResourceNotFound"},
		"a device elsewhere":     {"GET", armPath(e, "/products/"+e.productName+"/deviceGroups/"+e.spareName+"/devices/"+e.device), "", 404, "ResourceNotFound"},
		"a device unclaimed":     {"DELETE", armPath(e, child(e, "/devices/"+e.device)), "", 405, "MethodNotAllowed"},
		"a catalog deleted":      {"DELETE", armPath(e, ""), "", 405, "MethodNotAllowed"},
		"a broken body":          {"PUT", armPath(e, "/products/New"), "{", 400, "InvalidRequestContent"},
		"a word of no feed":      {"PUT", armPath(e, child(e, "")), `{"properties":{"osFeedType":"retail"}}`, 400, "InvalidParameter"},
		"a word of no switch":    {"PUT", armPath(e, child(e, "")), `{"properties":{"allowCrashDumpsCollection":"Yes"}}`, 400, "InvalidParameter"},
		"no capability":          {"POST", armPath(e, child(e, "/devices/"+e.device+"/generateCapabilityImage")), `{"capabilities":["x"]}`, 400, "InvalidParameter"},
		"nowhere to go":          {"PATCH", armPath(e, child(e, "/devices/"+e.device)), `{}`, 400, "InvalidParameter"},
		"a group elsewhere":      {"PATCH", armPath(e, child(e, "/devices/"+e.device)), `{"properties":{"deviceGroupId":"/subscriptions/s/resourceGroups/g/providers/Microsoft.AzureSphere/catalogs/other/products/p/deviceGroups/g"}}`, 400, "InvalidParameter"},
		"a group that is none":   {"PATCH", armPath(e, child(e, "/devices/"+e.device)), `{"properties":{"deviceGroupId":"` + e.group + `"}}`, 400, "InvalidParameter"},
		"a long group name":      {"POST", armPath(e, "/listDeviceGroups"), `{"deviceGroupName":"` + long + `"}`, 400, "InvalidParameter"},
		"an unknown certificate": {"GET", armPath(e, "/certificates/00"), "", 404, "ResourceNotFound"},
		"a page of none":         {"GET", armPath(e, "/products?$maxpagesize=0"), "", 400, "InvalidParameter"},
		"less than nothing":      {"GET", armPath(e, "/products?$top=-1"), "", 400, "InvalidParameter"},
		"a far place":            {"GET", armPath(e, "/products?$skip=10001"), "", 400, "InvalidParameter"},
		"a filter that is none":  {"GET", armPath(e, "/products?$filter=x"), "", 400, "InvalidParameter"},
		"a token that is none":   {"GET", armPath(e, "/products?$skipToken=x"), "", 400, "InvalidParameter"},
	} {
		a := w.ask(e.administrator, c.method, c.path, c.body)
		if got := dig(a.json(t), "error", "code"); a.Code != c.status || got != c.code || dig(a.json(t), "error", "message") == "" {
			t.Errorf("%s: %d %s, want %d %s", name, a.Code, a.text, c.status, c.code)
		}
	}
}

// Products, groups and devices come, change and go.
func TestARM_Resources(t *testing.T) {
	t.Parallel()
	conform.Covers(t, "SPH-26")
	w := newWorld(t)
	e := w.estate("aaa")
	p := w.want(201, e.contributor, "PUT", armPath(e, "/products/Lamp 1"), `{"properties":{"description":"x"}}`)
	if p["id"] != armCatalogsPath+"/aaa-tenant/products/Lamp 1" || p["name"] != "Lamp 1" || p["type"] != "Microsoft.AzureSphere/catalogs/products" || dig(p, "properties", "provisioningState") != "Succeeded" {
		t.Errorf("%v", p)
	}
	if p := w.want(200, e.contributor, "PUT", armPath(e, "/products/lamp 1"), ""); dig(p, "properties", "description") != "" {
		t.Errorf("a PUT keeps what it does not name: %v", p)
	}
	if p := w.want(200, e.contributor, "PATCH", armPath(e, "/products/lamp 1"), `{"properties":{"description":"y"}}`); dig(p, "properties", "description") != "y" {
		t.Errorf("%v", p)
	}
	gs := w.want(200, e.contributor, "POST", armPath(e, "/products/Lamp 1/generateDefaultDeviceGroups"), "")
	if len(gs["value"].([]any)) != 5 || dig(gs, "value", 0, "properties", "updatePolicy") != "No3rdPartyAppUpdates" {
		t.Errorf("%v", gs)
	}
	g := w.want(201, e.contributor, "PUT", armPath(e, "/products/Lamp 1/deviceGroups/Own"), `{"properties":{"osFeedType":"RetailEval","allowCrashDumpsCollection":"Enabled","regionalDataBoundary":"EU"}}`)
	want := map[string]any{
		"description": "", "osFeedType": "RetailEval", "updatePolicy": "UpdateAll", "allowCrashDumpsCollection": "Enabled", "regionalDataBoundary": "EU", "hasDeployment": false, "provisioningState": "Succeeded",
	}
	if diff := cmp.Diff(want, g["properties"]); diff != "" {
		t.Error(diff)
	}
	if g := w.want(200, e.contributor, "PUT", armPath(e, "/products/Lamp 1/deviceGroups/Own"), ""); dig(g, "properties", "osFeedType") != "Retail" || dig(g, "properties", "allowCrashDumpsCollection") != "Disabled" {
		t.Errorf("a PUT keeps what it does not name: %v", g)
	}

	device := "/devices/" + strings.ToUpper(e.device)
	own := "/subscriptions/other/resourceGroups/other/providers/microsoft.azuresphere/catalogs/AAA-tenant/products/Lamp 1/deviceGroups/Own"
	d := w.want(200, e.contributor, "PATCH", armPath(e, child(e, device)), `{"properties":{"deviceGroupId":"`+own+`"}}`)
	if d["id"] != armCatalogsPath+"/aaa-tenant/products/Lamp 1/deviceGroups/Own/devices/"+e.device || dig(d, "properties", "chipSku") != "MT3620AN" {
		t.Errorf("%v", d)
	}
	w.want(404, e.contributor, "GET", armPath(e, child(e, device)), "")
	in := "/products/Lamp 1/deviceGroups/Own"
	if m := w.want(200, e.reader, "POST", armPath(e, in+"/countDevices"), ""); m["value"] != 1.0 {
		t.Errorf("%v", m)
	}
	w.want(409, e.administrator, "DELETE", armPath(e, in), "")
	w.want(200, e.contributor, "PATCH", armPath(e, in+device), `{"properties":{"deviceGroupId":".unassigned"}}`)
	for _, nobodys := range []string{"/products/.default/deviceGroups/.unassigned", "/products/.unassigned/deviceGroups/.default"} {
		if m := w.want(200, e.reader, "GET", armPath(e, nobodys+"/devices"), ""); dig(m, "value", 0, "name") != e.device {
			t.Errorf("%v", m)
		}
		w.want(200, e.reader, "GET", armPath(e, nobodys+device), "")
		w.want(200, e.reader, "GET", armPath(e, nobodys), "")
		if m := w.want(200, e.reader, "POST", armPath(e, nobodys+"/countDevices"), ""); m["value"] != 1.0 {
			t.Errorf("%v", m)
		}
	}
	w.want(200, e.reader, "GET", armPath(e, "/products/.default"), "")
	if m := w.want(200, e.reader, "GET", armPath(e, "/products/.default/deviceGroups"), ""); len(m["value"].([]any)) != 0 {
		t.Errorf("%v", m)
	}
	image := w.want(200, e.contributor, "POST", armPath(e, "/products/.default/deviceGroups/.unassigned"+device+"/generateCapabilityImage"), `{"capabilities":["ApplicationDevelopment","FieldServicing"]}`)
	if b, err := base64.StdEncoding.DecodeString(image["image"].(string)); err != nil || len(b) < 392 {
		t.Errorf("%v %v", image, err)
	}
	for range 2 { // a second DELETE is none
		if a := w.ask(e.administrator, "DELETE", armPath(e, in), ""); a.Code != 204 {
			t.Errorf("%d %s", a.Code, a.text)
		}
		if a := w.ask(e.administrator, "DELETE", armPath(e, "/products/Lamp 1"), ""); a.Code != 204 {
			t.Errorf("%d %s", a.Code, a.text)
		}
	}
	w.want(200, e.contributor, "PUT", armPath(e, "/products/.unassigned/deviceGroups/.unassigned/devices/"+e.known), "")
	if m := w.want(200, e.reader, "POST", armPath(e, "/countDevices"), ""); m["value"] != 2.0 {
		t.Errorf("%v", m)
	}
	if m := w.want(404, e.contributor, "PUT", armPath(e, "/products/.unassigned/deviceGroups/.unassigned/devices/"+newKey(t).id), ""); dig(m, "error", "code") != "ResourceNotFound" {
		t.Errorf("%v", m)
	}

	ca := w.want(200, e.reader, "GET", armPath(e, "/certificates/.default"), "")
	if ca["name"] != e.ca || dig(ca, "properties", "status") != "Active" || dig(ca, "properties", "expiryUtc") == nil {
		t.Errorf("%v", ca)
	}
	if m := w.want(200, e.reader, "POST", armPath(e, "/certificates/"+e.ca+"/retrieveCertChain"), ""); m["certificateChain"] == "" {
		t.Errorf("%v", m)
	}
	if m := w.want(200, e.contributor, "POST", armPath(e, "/certificates/.default/retrieveProofOfPossessionNonce"), `{"proofOfPossessionNonce":"A1"}`); m["subject"] != "CN=A1" || m["certificate"] == "" {
		t.Errorf("%v", m)
	}
	if m := w.want(200, e.reader, "POST", armPath(e, "/listDeviceInsights"), ""); dig(m, "value", 0, "eventType") != "AppCrash" {
		t.Errorf("%v", m)
	}
}

// walk reads a list by its links and returns the names, and how many pages it had.
func (w *world) walk(c sphere.Caller, method, target, body string) (names []string, pages int) {
	w.t.Helper()
	for target != "" {
		m := w.want(200, c, method, target, body)
		for _, v := range m["value"].([]any) {
			names = append(names, dig(v, "name").(string))
		}
		pages++
		link, _ := m["nextLink"].(string)
		if link == "" {
			return names, pages
		}
		if target = strings.TrimPrefix(link, "https://hub.example"); target == link || pages > 100 {
			w.t.Fatalf("nextLink %q", link)
		}
		method, body = "GET", ""
	}
	return names, pages
}

func TestARM_Paging(t *testing.T) {
	t.Parallel()
	conform.Covers(t, "SPH-26")
	w := newWorld(t)
	e, other := w.estate("aaa"), w.estate("bbb")
	var products []string
	for i := range 9 {
		name := fmt.Sprintf("P%d", i)
		products = append(products, name)
		description := "even"
		if i%2 == 1 {
			description = "it's odd"
		}
		w.want(201, e.contributor, "PUT", armPath(e, "/products/"+name), `{"properties":{"description":"`+description+`"}}`)
	}
	all := append([]string{e.emptyName, e.productName}, products...)
	odd := url.QueryEscape("properties/description eq 'it''s odd'")
	for query, c := range map[string]struct {
		want  []string
		pages int
	}{
		"":                                   {all, 1},
		"?$maxpagesize=4":                    {all, 3},
		"?$top=5":                            {all[:5], 1},
		"?$top=5&$maxpagesize=2":             {all[:5], 3},
		"?$top=0":                            {nil, 1},
		"?$skip=9":                           {all[9:], 1},
		"?$skip=2&$top=3&$maxpagesize=2":     {all[2:5], 2},
		"?$skip=100":                         {nil, 1},
		"?$filter=" + odd:                    {[]string{"P1", "P3", "P5", "P7"}, 1},
		"?$maxpagesize=3&$filter=" + odd:     {[]string{"P1", "P3", "P5", "P7"}, 2},
		"?$skip=1&$top=2&$filter=" + odd:     {[]string{"P3", "P5"}, 1},
		"?$filter=name%20eq%20%27p4%27":      {[]string{"P4"}, 1},
		"?$FILTER=name%20ne%20%27p4%27":      {slices.DeleteFunc(slices.Clone(all), func(s string) bool { return s == "P4" }), 1},
		"?$filter=name%20eq%20%27nothing%27": {nil, 1},
	} {
		if got, pages := w.walk(e.reader, "GET", armPath(e, "/products"+query), ""); !cmp.Equal(got, c.want) || pages != c.pages {
			t.Errorf("%s: %q on %d pages, want %q on %d", query, got, pages, c.want, c.pages)
		}
	}

	// A link is good for whom it was given to, for its list, as it is.
	link := w.want(200, e.reader, "GET", armPath(e, "/products?$maxpagesize=2"), "")["nextLink"].(string)
	u := must(url.Parse(link))(t)
	q := u.Query()
	sealed := must(base64.RawURLEncoding.DecodeString(q.Get(skipToken)))(t)
	sealed[len(sealed)-3] ^= 1
	with := func(token string) string {
		v := url.Values{"api-version": {armVersion}, skipToken: {token}}
		return u.EscapedPath() + "?" + v.Encode()
	}
	for name, c := range map[string]struct {
		who    sphere.Caller
		target string
	}{
		"a changed token": {e.reader, with(base64.RawURLEncoding.EncodeToString(sealed))},
		"of another":      {e.contributor, with(q.Get(skipToken))},
		"in another list": {e.reader, strings.Replace(with(q.Get(skipToken)), "/products?", "/certificates?", 1)},
		"filtered anew":   {e.reader, with(q.Get(skipToken)) + "&$filter=" + odd},
		"for another's":   {other.reader, strings.Replace(with(q.Get(skipToken)), e.name, other.name, 1)},
		"a v2 list's":     {e.reader, with(w.want(200, e.reader, "GET", path(e, "/products?maxItems=1"), "")["ContinuationToken"].(string))},
	} {
		if a := w.ask(c.who, "GET", c.target, ""); a.Code != 400 {
			t.Errorf("%s: %d %s", name, a.Code, a.text)
		}
	}
	if a := w.ask(e.reader, "GET", with(q.Get(skipToken)), ""); a.Code != 200 {
		t.Errorf("as it is: %d %s", a.Code, a.text)
	}

	// What a body asked for holds for the links that follow it.
	for _, p := range products {
		w.want(201, e.contributor, "PUT", armPath(e, "/products/"+p+"/deviceGroups/Field"), "")
		w.want(201, e.contributor, "PUT", armPath(e, "/products/"+p+"/deviceGroups/Other"), "")
	}
	if got, pages := w.walk(e.reader, "POST", armPath(e, "/listDeviceGroups?$maxpagesize=4"), `{"deviceGroupName":"field"}`); len(got) != 9 || pages != 3 || slices.Contains(got, "Other") {
		t.Errorf("%q on %d pages", got, pages)
	}
	if got, pages := w.walk(e.reader, "GET", armPath(e, "/certificates?$maxpagesize=1"), ""); !cmp.Equal(got, []string{e.ca, e.successor}) || pages != 2 {
		t.Errorf("%q on %d pages", got, pages)
	}
	if got, _ := w.walk(e.reader, "GET", armPath(e, "/certificates?$filter=status%20eq%20%27Active%27"), ""); !cmp.Equal(got, []string{e.ca}) {
		t.Errorf("%q", got)
	}
	if got, _ := w.walk(e.reader, "POST", armPath(e, "/listDevices?$filter=chipSku%20eq%20%27mt3620an%27"), ""); !cmp.Equal(got, []string{e.device}) {
		t.Errorf("%q", got)
	}
}

// Claims are a long-running operation: 202, and two addresses that say how it ended.
func TestARM_ClaimDevices(t *testing.T) {
	t.Parallel()
	conform.Covers(t, "SPH-26")
	w := newWorld(t)
	e, other := w.estate("aaa"), w.estate("bbb")
	claim := func(ids ...string) (status, result string) {
		t.Helper()
		a := w.ask(e.contributor, "POST", armPath(e, child(e, "/claimDevices")), `{"deviceIdentifiers":["`+strings.Join(ids, `","`)+`"]}`)
		if a.Code != 202 || a.text != "" || a.Header().Get("Retry-After") == "" {
			t.Fatalf("%d %v %s", a.Code, a.Header(), a.text)
		}
		cut := func(name string) string {
			s, ok := strings.CutPrefix(a.Header().Get(name), "https://hub.example")
			if !ok {
				t.Fatalf("%s: %q", name, s)
			}
			return s
		}
		return cut("Azure-AsyncOperation"), cut("Location")
	}
	status, result := claim(e.known, e.device)
	op := w.want(200, e.reader, "GET", status, "")
	if op["status"] != "Succeeded" || op["error"] != nil || op["startTime"] == nil || op["endTime"] == nil || !strings.HasSuffix(op["id"].(string), "/operationStatuses/"+op["name"].(string)) {
		t.Errorf("%v", op)
	}
	if a := w.ask(e.reader, "GET", result, ""); a.Code != 204 {
		t.Errorf("%d %s", a.Code, a.text)
	}
	d := w.want(200, e.reader, "GET", armPath(e, child(e, "/devices/"+e.known)), "")
	if dig(d, "properties", "chipSku") != "aaasku" {
		t.Errorf("%v", d)
	}

	// Part of it cannot be done: the operation failed, and says of which devices.
	k := newKey(t)
	failed, location := claim(e.known, k.id, other.known)
	op = w.want(200, e.reader, "GET", failed, "")
	if op["status"] != "Failed" || dig(op, "error", "code") != "ResourceNotFound" || !strings.Contains(dig(op, "error", "message").(string), "2 of 3") || !strings.Contains(dig(op, "error", "message").(string), k.id) {
		t.Errorf("%v", op)
	}
	if m := w.want(404, e.reader, "GET", location, ""); dig(m, "error", "code") != "ResourceNotFound" || !strings.Contains(dig(m, "error", "message").(string), "2 of 3") {
		t.Errorf("%v", m)
	}
	many := make([]string, 1000)
	for i := range many {
		many[i] = fmt.Sprintf("%0128x", i)
	}
	long, _ := claim(many...)
	if op := w.want(200, e.reader, "GET", long, ""); op["status"] != "Failed" || !strings.Contains(dig(op, "error", "message").(string), "1000 of 1000") {
		t.Errorf("%v", op)
	}
	if a := w.ask(e.contributor, "POST", armPath(e, child(e, "/claimDevices")), `{"deviceIdentifiers":[]}`); a.Code != 400 {
		t.Errorf("%d %s", a.Code, a.text)
	}

	// Any server knows it; nobody else does.
	if a := w.askAt(w.another(people{}, w.key), e.reader, "GET", status, ""); a.Code != 200 {
		t.Errorf("another server: %d %s", a.Code, a.text)
	}
	for name, a := range map[string]answered{
		"another installation": w.askAt(w.another(people{}, secret.Random(32)), e.reader, "GET", status, ""),
		"another tenant":       w.ask(other.administrator, "GET", status, ""),
		"in its own catalog":   w.ask(other.administrator, "GET", strings.Replace(status, e.name, other.name, 1), ""),
		"without a role":       w.ask(root, "GET", status, ""),
		"changed":              w.ask(e.reader, "GET", strings.Replace(status, "/operationStatuses/", "/operationStatuses/A", 1), ""),
	} {
		if a.Code != 404 || strings.Contains(a.text, e.known) {
			t.Errorf("%s: %d %s", name, a.Code, a.text)
		}
	}
}

// A host that the client made up stands in its own links only, and line breaks do not get into headers.
func TestARM_LinksAreTheClientsOwn(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	e := w.estate("aaa")
	a := w.ask(e.reader, "GET", armPath(e, "/products?$maxpagesize=1"), "", func(r *http.Request) { r.Host = "gateway.example:8443" })
	if link, _ := a.json(t)["nextLink"].(string); !strings.HasPrefix(link, "https://gateway.example:8443"+armCatalogsPath) {
		t.Errorf("%q", link)
	}
}
