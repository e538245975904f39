package security

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"net/url"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/vauban-iot/vauban/access/signin"
	"github.com/vauban-iot/vauban/defender/alert"
	"github.com/vauban-iot/vauban/defender/group"
	"github.com/vauban-iot/vauban/defender/posture"
	"github.com/vauban-iot/vauban/defender/solution"
	"github.com/vauban-iot/vauban/fault"
	"github.com/vauban-iot/vauban/internal/conform"
	"github.com/vauban-iot/vauban/internal/secret"
	"github.com/vauban-iot/vauban/storage/sqlite"
	"github.com/vauban-iot/vauban/storage/sqlstore"
)

var start = time.Date(2026, 3, 10, 12, 0, 0, 0, time.UTC)

const (
	admin = "the-operators-token"
	sub   = "/subscriptions/20ff7fc3-e762-44dd-bd96-b71116dcdc23"
	rg    = sub + "/resourceGroups/MyGroup"
	hubID = rg + "/providers/Microsoft.Devices/IotHubs/plant"
	sols  = rg + "/providers/Microsoft.Security/iotSecuritySolutions"
	ours  = sols + "/default"
)

// people is a sign-in in which a token is the word "of-" and a mail address.
type people struct{ err error }

func (p people) Check(_ context.Context, bearer string) (signin.User, error) {
	if p.err != nil {
		return signin.User{}, p.err
	}
	mail, ok := strings.CutPrefix(bearer, "of-")
	if !ok {
		return signin.User{}, signin.ErrToken
	}
	return signin.User{Subject: mail, Mail: mail}, nil
}

// recommendations is a posture.Store that counts what a test says.
type recommendations struct {
	posture.Store
	totals   posture.Totals
	resolved []string
}

func (r *recommendations) Totals(context.Context, posture.Whole) (posture.Totals, error) {
	return r.totals, nil
}

func (r *recommendations) ResolveTypes(_ context.Context, types []string, _ time.Time) (int, error) {
	r.resolved = append(r.resolved, types...)
	return len(types), nil
}

type world struct {
	t       testing.TB
	store   *sqlstore.Store
	posture *recommendations
	book    *posture.Book
	head    *Head
	log     *bytes.Buffer
	now     time.Time
	serial  int
}

func newWorld(t testing.TB) *world {
	t.Helper()
	dir := t.TempDir()
	sealer, err := secret.OpenSealer(filepath.Join(dir, "master.key"))
	ok(t, err)
	store, err := sqlite.Open(context.Background(), sqlite.Config{Path: filepath.Join(dir, "state.db"), Sealer: sealer})
	ok(t, err)
	t.Cleanup(func() { store.Close() })
	w := &world{t: t, store: store, posture: &recommendations{}, log: new(bytes.Buffer), now: start}
	w.book = posture.NewBook(store, w.posture)
	solutions, err := solution.NewBook(store, w.book, w.clock)
	ok(t, err)
	w.head, err = New(Config{
		Hub: "plant.example.org", Solutions: solutions, Roles: solution.NewRoles(store), Groups: group.NewBook(store, nil), Alerts: store, Posture: w.posture, SignIn: people{},
		Administrator: func(token string) bool { return token == admin }, Now: w.clock, Logger: slog.New(slog.NewJSONHandler(w.log, nil)),
	})
	ok(t, err)
	return w
}

func (w *world) clock() time.Time { return w.now }

func ok(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// answered is an answer with its JSON.
type answered struct {
	*httptest.ResponseRecorder
	body map[string]any
}

func (w *world) as(bearer, method, target, body string) answered {
	w.t.Helper()
	r := httptest.NewRequestWithContext(context.Background(), method, "https://vauban.example"+target, strings.NewReader(body))
	if bearer != "" {
		r.Header.Set("Authorization", "Bearer "+bearer)
	}
	rec := httptest.NewRecorder()
	w.head.ServeHTTP(rec, r)
	a := answered{ResponseRecorder: rec}
	if rec.Body.Len() > 0 {
		if err := json.Unmarshal(rec.Body.Bytes(), &a.body); err != nil {
			w.t.Fatalf("%s %s answers %q: %v", method, target, rec.Body, err)
		}
	}
	return a
}

func (w *world) do(method, target, body string) answered {
	w.t.Helper()
	return w.as(admin, method, target+"?api-version="+stable, body)
}

// want checks a status, and returns the answer.
func (w *world) want(status int, a answered) answered {
	w.t.Helper()
	if a.Code != status {
		w.t.Fatalf("status %d, want %d: %s", a.Code, status, a.Body)
	}
	return a
}

// refused checks an error of ARM.
func (w *world) refused(a answered, status int, code, text string) {
	w.t.Helper()
	e, _ := a.body["error"].(map[string]any)
	message, _ := e["message"].(string)
	if a.Code != status || e["code"] != code || !strings.Contains(message, text) || a.Header().Get("X-Ms-Error-Code") != code {
		w.t.Errorf("answer %d %s; want %d, code %s and a message with %q", a.Code, a.Body, status, code, text)
	}
}

func (a answered) properties() map[string]any {
	p, _ := a.body["properties"].(map[string]any)
	return p
}

func (a answered) values() (all []map[string]any) {
	list, _ := a.body["value"].([]any)
	for _, v := range list {
		all = append(all, v.(map[string]any))
	}
	return all
}

// put is a solution's body, with more properties.
func put(more string) string {
	return `{"location":"East Us","tags":{"a":"b"},"properties":{"workspace":"` + sub + `/resourceGroups/MyGroup/providers/Microsoft.OperationalInsights/workspaces/w",
		"displayName":"Solution Default","iotHubs":["` + hubID + `"]` + more + `}}`
}

// raise raises an alert that began n minutes after the start.
func (w *world) raise(device, kind, day string, severity alert.Severity, count int) alert.Alert {
	w.t.Helper()
	w.serial++
	at := start.Add(time.Duration(w.serial) * time.Minute)
	a, _, err := w.store.Raise(context.Background(), alert.Alert{
		ID: fmt.Sprintf("alert-%d", w.serial), Type: kind, Severity: severity, Title: kind, Device: device, Indicator: fmt.Sprint(w.serial), Day: day, Count: count,
		FirstSeen: at, LastSeen: at, Remote: "192.0.2.9",
	})
	ok(w.t, err)
	return a
}

func TestSolutions_LiveAsResources(t *testing.T) {
	t.Parallel()
	conform.Covers(t, "DEF-25")
	w := newWorld(t)
	w.refused(w.do("GET", ours, ""), 404, "ResourceNotFound", `no IoT security solution "default"`)
	if got := w.want(200, w.do("GET", sols, "")).Body.String(); got != `{"value":[]}` {
		t.Errorf("no solutions are %s", got)
	}
	// What is read-only in the body changes nothing; clients of this version send unmaskedIpLoggingStatus, which is of a later one.
	made := w.want(201, w.do("PUT", ours, put(`,"status":"Enabled","export":[],"disabledDataSources":[],"autoDiscoveredResources":["x"],"unmaskedIpLoggingStatus":"Disabled",
		"userDefinedResources":{"query":"where type != \"microsoft.devices/iothubs\" | where name contains \"iot\"","querySubscriptions":["075423e9-7d33-4166-8bdf-3920b04e3735"]},
		"recommendationsConfiguration":[{"recommendationType":"IoT_OpenPorts","name":"x","status":"Disabled"},{"recommendationType":"iot_baseline","status":"TurnedOn"}]`)))
	if made.body["id"] != ours || made.body["name"] != "default" || made.body["type"] != "Microsoft.Security/iotSecuritySolutions" || made.body["location"] != "East Us" {
		t.Errorf("made %s", made.Body)
	}
	p := made.properties()
	if p["status"] != "Enabled" || p["unmaskedIpLoggingStatus"] != "Enabled" || !cmp.Equal(p["autoDiscoveredResources"], []any{hubID}) || p["displayName"] != "Solution Default" {
		t.Errorf("properties %v", p)
	}
	if !cmp.Equal(w.posture.resolved, []string{posture.OpenPorts}) {
		t.Errorf("disabling resolved %q", w.posture.resolved)
	}
	if d, err := w.book.Disabled(t.Context()); err != nil || !cmp.Equal(d, posture.Disabled{posture.OpenPorts: true}) {
		t.Errorf("disabled are %v, %v", d, err)
	}
	if got := w.want(200, w.do("GET", strings.ToUpper(ours), "")); got.Body.String() != made.Body.String() {
		t.Errorf("read in another letter case: %s", got.Body)
	}

	// The whole again: what it does not say is gone; recommendations it does not name stay as they are.
	again := w.want(200, w.do("PUT", sub+"/resourcegroups/mygroup/providers/microsoft.security/IOTSECURITYSOLUTIONS/Default", strings.Replace(put(""), `"tags":{"a":"b"},`, "", 1)))
	if _, tags := again.body["tags"]; again.body["id"] != ours || tags || again.properties()["userDefinedResources"] != nil {
		t.Errorf("replaced: %s", again.Body)
	}
	status := func(a answered, name string) any {
		for _, r := range a.properties()["recommendationsConfiguration"].([]any) {
			if r := r.(map[string]any); r["recommendationType"] == name && r["name"] != "" {
				return r["status"]
			}
		}
		return nil
	}
	if status(again, posture.OpenPorts) != "Disabled" || status(again, posture.Baseline) != "Enabled" {
		t.Errorf("recommendations %v", again.properties()["recommendationsConfiguration"])
	}
	if n := len(again.properties()["recommendationsConfiguration"].([]any)); n != len(posture.Types()) {
		t.Errorf("%d types of recommendations, want all %d", n, len(posture.Types()))
	}

	patched := w.want(200, w.do("PATCH", ours, `{"tags":{"foo":"bar"},"properties":{"recommendationsConfiguration":[{"recommendationType":"IoT_OpenPorts","status":"Enabled"}]}}`))
	if !cmp.Equal(patched.body["tags"], map[string]any{"foo": "bar"}) || status(patched, posture.OpenPorts) != "Enabled" || patched.properties()["displayName"] != "Solution Default" {
		t.Errorf("patched: %s", patched.Body)
	}
	w.want(200, w.do("PATCH", ours, `{"properties":{"userDefinedResources":{"query":"where type != 'Microsoft.Devices/IotHubs'","querySubscriptions":["075423e9-7d33-4166-8bdf-3920b04e3735"]}}}`))
	if got := w.do("GET", ours, ""); got.properties()["userDefinedResources"] == nil || !cmp.Equal(got.body["tags"], map[string]any{"foo": "bar"}) {
		t.Errorf("after the second patch: %s", got.Body)
	}

	w.refused(w.do("PUT", sols+"/second", put("")), 409, "Conflict", "a hub is in one solution")
	w.refused(w.do("PATCH", sols+"/second", `{"tags":{}}`), 404, "ResourceNotFound", "second")
	w.want(204, w.do("DELETE", sols+"/second", ""))
	if a := w.want(200, w.do("DELETE", ours, "")); a.Body.Len() != 0 {
		t.Errorf("deleted with %s", a.Body)
	}
	w.want(204, w.do("DELETE", ours, ""))
	w.want(201, w.do("PUT", sols+"/second", put("")))
}

func TestSolutions_Lists(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.want(201, w.do("PUT", ours, put("")))
	all := sub + "/providers/Microsoft.Security/iotSecuritySolutions"
	for _, tc := range []struct {
		path, filter string
		want         int
	}{
		{sols, "", 1},
		{all, "", 1},
		{strings.ToLower(all), "", 1},
		{strings.Replace(sols, "MyGroup", "other", 1), "", 0},
		{strings.Replace(all, "20ff", "30ff", 1), "", 0},
		{all, `properties.iotHubs/any(i eq "` + hubID + `")`, 1},
		{sols, `properties/iotHubs/any(h: h eq '` + strings.ToLower(hubID) + `')`, 1},
		{all, `iotHubs/any(i eq "` + hubID + `x")`, 0},
	} {
		a := w.want(200, w.as(admin, "GET", tc.path+"?api-version="+stable+"&$filter="+url.QueryEscape(tc.filter), ""))
		if len(a.values()) != tc.want {
			t.Errorf("%s with %s: %s", tc.path, tc.filter, a.Body)
		}
	}
	for _, filter := range []string{"x", `properties.iotHubs/any(i eq "")`, `properties.iotHubs/any(i: j eq "x")`, `properties.iotHubs/any(i eq "x") and y`, `displayName eq 'x'`, strings.Repeat("x", 3000)} {
		w.refused(w.as(admin, "GET", all+"?api-version="+stable+"&$filter="+url.QueryEscape(filter), ""), 400, "InvalidParameter", "$filter")
	}
}

func TestSolutions_Refusals(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	for body, text := range map[string]string{
		`{}`: "properties is required",
		strings.Replace(put(""), `"displayName":"Solution Default",`, "", 1):                                              "properties.displayName is required",
		strings.Replace(put(""), `"workspace"`, `"id"`, 1):                                                                "",
		strings.Replace(put(""), hubID, "", 1):                                                                            "is not the id of this installation's hub",
		strings.Replace(put(""), "IotHubs/plant", "IotHubs/other", 1):                                                     "is not the id of this installation's hub",
		strings.Replace(put(""), `["`+hubID+`"]`, "[]", 1):                                                                "properties.iotHubs is required",
		strings.Replace(put(""), "Microsoft.OperationalInsights", "X", 1):                                                 "workspace",
		put(`,"status":"Disabled"`):                                                                                       "cannot be Disabled here",
		put(`,"status":"On"`):                                                                                             "properties.status",
		put(`,"export":["RawEvents"]`):                                                                                    "there is no workspace to export",
		put(`,"disabledDataSources":["TwinData"]`):                                                                        "cannot be left out as a whole",
		put(`,"additionalWorkspaces":[{"workspace":"x"}]`):                                                                "additionalWorkspaces must be empty",
		put(`,"recommendationsConfiguration":[{"recommendationType":"X"}]`):                                               `no recommendationType "X"`,
		put(`,"recommendationsConfiguration":[{"recommendationType":"IoT_OpenPorts"}]`):                                   "status of IoT_OpenPorts",
		put(`,"userDefinedResources":{"query":"where name","querySubscriptions":["x"]}`):                                  "userDefinedResources.query begins",
		put(`,"userDefinedResources":{"query":"where type != \"microsoft.devices/iothubs\"","querySubscriptions":["x"]}`): "querySubscriptions",
		strings.Replace(put(""), `{"a":"b"}`, `{"":"b"}`, 1):                                                              "tag",
		strings.Replace(put(""), `"b"`, `"`+strings.Repeat("b", 257)+`"`, 1):                                              "tag",
		strings.Replace(put(""), "Solution Default", strings.Repeat("b", 1025), 1):                                        "1024 bytes",
		put(`,"recommendationsConfiguration":[{"recommendationType":"IoT_OpenPorts","status":"Enabled"},{"recommendationType":"iot_openports","status":"Enabled"}]`): "twice",
	} {
		code := "InvalidParameter"
		if text == "" {
			code = "InvalidRequestContent"
		}
		w.refused(w.do("PUT", ours, body), 400, code, text)
	}
	w.refused(w.do("PUT", ours, put(`,"unknown":1`)), 400, "InvalidRequestContent", "unknown")
	w.refused(w.do("PUT", ours, put("")+"x"), 400, "InvalidRequestContent", "")
	w.refused(w.do("PUT", ours, `"`+strings.Repeat("x", solution.MaxSize)+`"`), 413, "RequestEntityTooLarge", "")
	w.refused(w.do("PUT", sols+"/a~b", put("")), 400, "InvalidParameter", "the name of a solution")
	w.refused(w.do("PUT", sub+"/resourceGroups/a~b/providers/Microsoft.Security/iotSecuritySolutions/x", put("")), 400, "InvalidParameter", "the name of a resourceGroup")
	w.want(201, w.do("PUT", ours, put("")))
	for _, member := range []string{"workspace", "displayName", "status"} {
		w.refused(w.do("PATCH", ours, `{"properties":{"`+member+`":"Enabled"}}`), 400, "InvalidParameter", "properties."+member+" cannot be patched")
	}
	for _, member := range []string{"export", "disabledDataSources", "iotHubs", "additionalWorkspaces"} {
		w.refused(w.do("PATCH", ours, `{"properties":{"`+member+`":[]}}`), 400, "InvalidParameter", "properties."+member+" cannot be patched")
	}
	w.refused(w.do("PATCH", ours, `{"location":"x"}`), 400, "InvalidParameter", "location cannot be patched")
	if d, err := w.book.Disabled(t.Context()); err != nil || len(d) != 0 {
		t.Errorf("refused requests disabled %v, %v", d, err)
	}
}

func TestAnalytics_Counts(t *testing.T) {
	t.Parallel()
	conform.Covers(t, "DEF-26")
	w := newWorld(t)
	model := ours + "/analyticsModels/default"
	w.refused(w.do("GET", model, ""), 404, "ResourceNotFound", "solution")
	w.want(201, w.do("PUT", ours, put("")))
	empty := w.want(200, w.do("GET", model, "")).properties()
	if !cmp.Equal(empty, map[string]any{
		"metrics": map[string]any{"high": 0.0, "medium": 0.0, "low": 0.0}, "unhealthyDeviceCount": 0.0, "devicesMetrics": []any{}, "topAlertedDevices": []any{},
		"mostPrevalentDeviceAlerts": []any{}, "mostPrevalentDeviceRecommendations": []any{},
	}) {
		t.Errorf("of nothing: %v", empty)
	}

	for i, n := range []int{1, 4, 3, 2} {
		for range n {
			w.raise(fmt.Sprintf("d%d", i), "IoT_TiConnection", "2026-03-10", alert.High, 7)
		}
	}
	w.raise("d0", "IoT_FailedLocalLogin", "2026-03-09", alert.Medium, 1)
	w.raise("d0", "IoT_FailedLocalLogin", "2026-02-09", alert.Medium, 1) // the 30th day is the 2026-02-09
	w.raise("d9", "IoT_CryptoMiner", "2026-02-08", alert.Low, 1)
	w.raise("d9", "IoT_ReverseShell", "2026-03-08", alert.Informational, 1)
	w.raise("", "IoT_CertificateSuccessfullyAddedToHub", "2026-03-10", alert.Medium, 50)
	_, err := w.store.Judge(t.Context(), w.raise("d3", "IoT_WebShell", "2026-03-10", alert.High, 1).ID, alert.Verdict{Status: alert.Resolved, Time: start})
	ok(t, err)
	w.posture.totals = posture.Totals{Devices: 100, Unhealthy: 42, Tallies: []posture.Tally{
		{Type: posture.OpenPorts, Severity: alert.Medium, Devices: 5, Count: 9}, {Type: posture.IPFilterDenyAll, Severity: alert.Medium, HubTakes: 1, Count: 1},
		{Type: posture.Baseline, Severity: alert.Medium, Devices: 40}, {Type: posture.SharedCredentials, Severity: alert.High, Devices: 6}, {Type: posture.InstallAgent, Severity: alert.Low, Devices: 1},
	}}
	a := w.want(200, w.do("GET", model, ""))
	if a.body["id"] != model || a.body["name"] != "default" {
		t.Errorf("the model is %s", a.Body)
	}
	day := func(date string, high, medium, low float64) any {
		return map[string]any{"date": date + "T00:00:00Z", "devicesMetrics": map[string]any{"high": high, "medium": medium, "low": low}}
	}
	device := func(id string, n float64) any { return map[string]any{"deviceId": id, "alertsCount": n} }
	ofAlert := func(title, severity string, n float64) any {
		return map[string]any{"alertDisplayName": title, "reportedSeverity": severity, "alertsCount": n}
	}
	ofType := func(name, severity string, n float64) any {
		return map[string]any{"recommendationDisplayName": posture.Lookup(name).Title, "reportedSeverity": severity, "devicesCount": n}
	}
	want := map[string]any{
		"metrics": map[string]any{"high": 10.0, "medium": 3.0, "low": 1.0}, "unhealthyDeviceCount": 42.0,
		"devicesMetrics":                     []any{day("2026-02-09", 0, 1, 0), day("2026-03-08", 0, 0, 0), day("2026-03-09", 0, 1, 0), day("2026-03-10", 10, 0, 0)},
		"topAlertedDevices":                  []any{device("d1", 4), device("d0", 3), device("d2", 3)},
		"mostPrevalentDeviceAlerts":          []any{ofAlert("Suspicious IP address communication", "High", 10), ofAlert("Failed local login", "Medium", 2), ofAlert("Crypto coin miner image", "Low", 1)},
		"mostPrevalentDeviceRecommendations": []any{ofType(posture.Baseline, "Medium", 40), ofType(posture.SharedCredentials, "High", 6), ofType(posture.OpenPorts, "Medium", 5)},
	}
	if d := cmp.Diff(want, a.properties()); d != "" {
		t.Errorf("analytics (-want +got):\n%s", d)
	}
	if l := w.want(200, w.do("GET", ours+"/analyticsModels", "")).values(); len(l) != 1 || !cmp.Equal(l[0], a.body) {
		t.Errorf("the list is %v", l)
	}

	names := func(a answered) (all []string) {
		for _, v := range a.values() {
			all = append(all, v["name"].(string))
		}
		return all
	}
	counted := model + "/aggregatedRecommendations"
	if got := names(w.want(200, w.do("GET", counted, ""))); !slices.Equal(got, []string{posture.Baseline, posture.SharedCredentials, posture.OpenPorts, posture.InstallAgent, posture.IPFilterDenyAll}) {
		t.Errorf("recommendations %q", got)
	}
	if got := names(w.want(200, w.as(admin, "GET", counted+"?api-version="+stable+"&$top=2", ""))); !slices.Equal(got, []string{posture.Baseline, posture.SharedCredentials}) {
		t.Errorf("the first two are %q", got)
	}
	one := w.want(200, w.do("GET", counted+"/iot_openports", ""))
	if p := one.properties(); p["healthyDevices"] != 95.0 || p["unhealthyDeviceCount"] != 5.0 || p["recommendationName"] != posture.OpenPorts || p["reportedSeverity"] != "Medium" ||
		p["recommendationTypeId"] != posture.Lookup(posture.OpenPorts).ID || p["detectedBy"] != vendor || p["description"] == "" || p["remediationSteps"] == "" ||
		!strings.Contains(p["logAnalyticsQuery"].(string), posture.OpenPorts) {
		t.Errorf("one recommendation is %s", one.Body)
	}
	w.refused(w.do("GET", counted+"/IoT_EdgeLoggingOptions", ""), 404, "ResourceNotFound", "IoT_EdgeLoggingOptions")
	w.refused(w.as(admin, "GET", counted+"?api-version="+stable+"&$top=0", ""), 400, "InvalidParameter", "$top")
}

func TestAggregatedAlerts(t *testing.T) {
	t.Parallel()
	conform.Covers(t, "DEF-25")
	w := newWorld(t)
	base := ours + "/analyticsModels/default/aggregatedAlerts"
	w.refused(w.do("GET", base, ""), 404, "ResourceNotFound", "solution")
	w.refused(w.do("POST", base+"/IoT_TiConnection/2026-03-10/dismiss", ""), 404, "ResourceNotFound", "solution")
	w.want(201, w.do("PUT", ours, put("")))
	w.raise("d1", "IoT_TiConnection", "2026-03-10", alert.High, 2)
	w.raise("d2", "IoT_TiConnection", "2026-03-10", alert.Low, 5)
	w.raise("d1", "IoT_TiConnection", "2026-03-09", alert.Medium, 1)
	w.raise("", "IoT_Cert_Expired", "2026-03-10", alert.Medium, 1)
	all := w.want(200, w.do("GET", base, "")).values()
	if len(all) != 3 || all[0]["name"] != "IoT_Cert_Expired/2026-03-10" || all[1]["name"] != "IoT_TiConnection/2026-03-10" || all[2]["name"] != "IoT_TiConnection/2026-03-09" {
		t.Fatalf("aggregates %v", all)
	}
	kind := alert.Lookup("IoT_TiConnection")
	want := map[string]any{
		"alertType": "IoT_TiConnection", "alertDisplayName": kind.Title, "aggregatedDateUtc": "2026-03-10", "vendorName": "Vauban", "reportedSeverity": "High",
		"remediationSteps": strings.Join(kind.Remediation, " "), "description": kind.Title + ". MITRE ATT&CK: Command and Control (T0885, T1071).", "count": 7.0,
		"effectedResourceType": "IoT Device", "systemSource": "Devices", "actionTaken": "Detected",
		"logAnalyticsQuery": "SecurityAlert | where tolower(ResourceId) == '" + strings.ToLower(hubID) + "' and AlertName == 'IoT_TiConnection' and TimeGenerated >= datetime(2026-03-10) and TimeGenerated < datetime(2026-03-10) + 1d",
		"topDevicesList": []any{
			map[string]any{"deviceId": "d2", "alertsCount": 5.0, "lastOccurrence": "2026-03-10T12:02:00Z"}, map[string]any{"deviceId": "d1", "alertsCount": 2.0, "lastOccurrence": "2026-03-10T12:01:00Z"},
		},
	}
	if d := cmp.Diff(want, all[1]["properties"]); d != "" {
		t.Errorf("an aggregate (-want +got):\n%s", d)
	}
	if p := all[0]["properties"].(map[string]any); p["effectedResourceType"] != "IoT Hub" || p["systemSource"] != "IoT Hub" {
		t.Errorf("the hub's is %v", p)
	}
	if a := w.want(200, w.as(admin, "GET", base+"?api-version="+stable+"&$top=1", "")); len(a.values()) != 1 || a.body["nextLink"] != nil {
		t.Errorf("the first alone: %s", a.Body)
	}
	// SDKs encode the name as one word of the path.
	for _, name := range []string{"IoT_TiConnection/2026-03-10", "IoT_TiConnection%2F2026-03-10"} {
		if a := w.want(200, w.do("GET", base+"/"+name, "")); !cmp.Equal(a.body, all[1]) {
			t.Errorf("%s is %s", name, a.Body)
		}
	}
	for _, name := range []string{"IoT_TiConnection/2026-03-08", "IoT_TiConnection/2026-3-10", "iot_ticonnection/2026-03-10", "x/y"} {
		w.refused(w.do("GET", base+"/"+name, ""), 404, "ResourceNotFound", "")
		w.refused(w.do("POST", base+"/"+name+"/dismiss", ""), 404, "ResourceNotFound", "")
	}

	if a := w.want(200, w.do("POST", base+"/IoT_TiConnection%2F2026-03-10/dismiss", "")); a.Body.Len() != 0 {
		t.Errorf("dismiss answers %s", a.Body)
	}
	w.want(200, w.do("POST", base+"/IoT_TiConnection/2026-03-10/dismiss", "{}"))
	if a := w.raise("d7", "IoT_TiConnection", "2026-03-10", alert.High, 1); a.Status != alert.Dismissed || a.StatusBy != operator {
		t.Errorf("a later alert of the day is %+v", a)
	}
	if got := w.do("GET", base, "").values(); len(got) != 2 {
		t.Errorf("after it was dismissed: %v", got)
	}
	if p := w.want(200, w.do("GET", base+"/IoT_TiConnection/2026-03-10", "")).properties(); p["actionTaken"] != "Dismissed" || p["count"] != 8.0 {
		t.Errorf("the dismissed one is %v", p)
	}
	if !strings.Contains(w.log.String(), `"what":"POST /`+aggregate+`/dismiss"`) || !strings.Contains(w.log.String(), `"alerts":2`) {
		t.Errorf("the audit says nothing of it: %s", w.log)
	}
}

func TestAggregatedAlerts_Pages(t *testing.T) {
	t.Parallel()
	conform.Covers(t, "DEF-25")
	w := newWorld(t)
	w.want(201, w.do("PUT", ours, put("")))
	var as []alert.Alert
	for i := range 2*pageSize + 1 {
		id := fmt.Sprintf("T%03d", i)
		as = append(as, alert.Alert{ID: id, Type: id, Severity: alert.Low, Device: "d", Day: "2026-03-10", Count: 1, FirstSeen: start, LastSeen: start})
	}
	_, err := w.store.Record(t.Context(), nil, as)
	ok(t, err)
	seen := map[any]bool{}
	pages := 0
	for target := ours + "/analyticsModels/default/aggregatedAlerts?api-version=" + stable; target != ""; pages++ {
		a := w.want(200, w.as(admin, "GET", target, ""))
		for _, v := range a.values() {
			seen[v["name"]] = true
		}
		link, _ := a.body["nextLink"].(string)
		target = strings.TrimPrefix(link, "https://vauban.example")
	}
	if len(seen) != len(as) || pages != 3 {
		t.Errorf("%d aggregates on %d pages, want %d on 3", len(seen), pages, len(as))
	}
	w.refused(w.as(admin, "GET", ours+"/analyticsModels/default/aggregatedAlerts?api-version="+stable+"&$skipToken=x", ""), 400, "InvalidParameter", "not the name")
}

func TestDeviceSecurityGroups(t *testing.T) {
	t.Parallel()
	conform.Covers(t, "DEF-25")
	w := newWorld(t)
	base := hubID + "/providers/Microsoft.Security/deviceSecurityGroups"
	all := w.want(200, w.do("GET", base, "")).values()
	if len(all) != 1 || all[0]["id"] != base+"/default" || all[0]["type"] != "Microsoft.Security/deviceSecurityGroups" {
		t.Fatalf("groups %v", all)
	}
	rules := func(a map[string]any, list string) []any { return a["properties"].(map[string]any)[list].([]any) }
	if len(rules(all[0], "timeWindowRules")) != 16 || len(rules(all[0], "thresholdRules")) != 0 || len(rules(all[0], "denylistRules")) != 0 {
		t.Errorf("a new group is %v", all[0])
	}
	body := `{"id":"x","name":"x","type":"x","properties":{"timeWindowRules":[{"ruleType":"ActiveConnectionsNotInAllowedRange","displayName":"x","isEnabled":true,"minThreshold":0,"maxThreshold":30,"timeWindowSize":"PT05M"}],
		"allowlistRules":[{"ruleType":"ConnectionToIpNotAllowed","isEnabled":true,"allowlistValues":["10.0.0.0/8","2001:db8::/32"]}]}}`
	made := w.want(201, w.do("PUT", base+"/pumps", body))
	if first := rules(made.body, "timeWindowRules")[0].(map[string]any); made.body["id"] != base+"/pumps" || first["maxThreshold"] != 30.0 || first["timeWindowSize"] != "PT05M" || first["displayName"] == "x" {
		t.Errorf("made %s", made.Body)
	}
	// SDKs encode the id of the hub as one word of the path.
	encoded := "/" + url.PathEscape(hubID) + "/providers/Microsoft.Security/deviceSecurityGroups/pumps"
	w.want(200, w.do("PUT", encoded, body))
	if got := w.want(200, w.do("GET", encoded, "")); got.Body.String() != made.Body.String() {
		t.Errorf("read: %s", got.Body)
	}
	whole := strings.Replace(base, "IotHubs/plant", "iothubs/plant.example.org", 1)
	if got := w.want(200, w.do("GET", whole, "")).values(); len(got) != 2 {
		t.Errorf("under the hub's whole name: %v", got)
	}
	w.refused(w.do("PUT", base+"/pumps", `{"properties":{"allowlistRules":[{"ruleType":"ConnectionToIpNotAllowed","isEnabled":true,"allowlistValues":["x"]}]}}`), 400, "InvalidParameter", "no range of addresses")
	w.refused(w.do("PUT", base+"/pumps", `{`), 400, "InvalidRequestContent", "")
	w.refused(w.do("GET", base+"/nobody", ""), 404, "ResourceNotFound", "nobody")
	w.refused(w.do("GET", strings.Replace(base, "IotHubs/plant", "IotHubs/other", 1), ""), 404, "ResourceNotFound", "this one is called plant")
	w.want(200, w.do("DELETE", base+"/pumps", ""))
	w.want(204, w.do("DELETE", base+"/pumps", ""))
	w.want(200, w.do("PUT", base+"/default", body))
}

func TestIoTAlerts(t *testing.T) {
	t.Parallel()
	conform.Covers(t, "DEF-25")
	w := newWorld(t)
	get := func(scope, query string) answered {
		return w.as(admin, "GET", scope+"/providers/Microsoft.Security/iotAlerts"+query, "")
	}
	const v = "?api-version=" + preview
	if got := w.want(200, get(hubID, v)).Body.String(); got != `{"value":[]}` {
		t.Errorf("no alerts are %s", got)
	}
	w.raise("d1", "IoT_TiConnection", "2026-03-10", alert.High, 2)
	w.raise("d2", "IoT_PrivilegedContainer", "2026-03-10", alert.Medium, 2)
	w.raise("", "IoT_Cert_Expired", "2026-03-10", alert.Medium, 1)
	_, err := w.store.Record(t.Context(), nil, []alert.Alert{{
		ID: "run", Type: "IoT_PrivilegedContainer", Severity: alert.Medium, Device: "d1", Module: "agent", Indicator: "x", Day: "2026-03-10", Count: 1,
		FirstSeen: start.Add(4 * time.Minute), LastSeen: start.Add(5 * time.Minute), Description: "a container with all rights",
		Evidence: []alert.Evidence{{Event: "ProcessCreate", Details: json.RawMessage(`{"CommandLine":"docker run --privileged","UserName":"aUser","ParentProcessId":1593,"DeviceId":"liar","Status":"fine","ExtraDetails":{"x":1}}`)}},
	}})
	ok(t, err)
	ids := func(a answered) (all []string) {
		for _, v := range w.want(200, a).values() {
			all = append(all, v["properties"].(map[string]any)["systemAlertId"].(string))
		}
		return all
	}
	at := func(minutes int) string {
		return url.QueryEscape(start.Add(time.Duration(minutes) * time.Minute).Format(time.RFC3339))
	}
	for query, want := range map[string][]string{
		"":                                   {"run", "alert-3", "alert-2", "alert-1"},
		"&alertType=IoT_PrivilegedContainer": {"run", "alert-2"},
		"&compromisedEntity=d1":              {"run", "alert-1"},
		"&compromisedEntity=plant":           {"alert-3"},
		"&compromisedEntity=d1&alertType=IoT_TiConnection":        {"alert-1"},
		"&startTimeUtc>=" + at(3):                                 {"run", "alert-3"},
		"&startTimeUtc%3E=" + at(2) + "&startTimeUtc%3C=" + at(3): {"alert-3", "alert-2"},
		"&startTimeUtc<=" + at(1):                                 {"alert-1"},
		"&deviceManagementType=Managed":                           {"run", "alert-3", "alert-2", "alert-1"},
		"&deviceManagementType=Unmanaged":                         nil,
		"&$limit=2":                                               {"run", "alert-3"},
		"&$limit=4":                                               {"run", "alert-3", "alert-2", "alert-1"},
	} {
		if got := ids(get(hubID, v+query)); !slices.Equal(got, want) {
			t.Errorf("%s finds %q, want %q", query, got, want)
		}
	}
	if a := get(hubID, v+"&$limit=4"); a.body["nextLink"] != nil {
		t.Errorf("the last page has a link: %s", a.Body)
	}
	var all []string
	for target, pages := sub+"/providers/Microsoft.Security/iotAlerts"+v+"&$limit=1&alertType=IoT_PrivilegedContainer", 0; target != ""; pages++ {
		a := w.as(admin, "GET", target, "")
		all = append(all, ids(a)...)
		link, _ := a.body["nextLink"].(string)
		if target = strings.TrimPrefix(link, "https://vauban.example"); pages > 2 {
			t.Fatal("the pages do not end")
		}
	}
	if !slices.Equal(all, []string{"run", "alert-2"}) {
		t.Errorf("page by page: %q", all)
	}

	one := w.want(200, get(sub, "/run"+v))
	want := map[string]any{
		"systemAlertId": "run", "compromisedEntity": "d1", "alertType": "IoT_PrivilegedContainer", "startTimeUtc": "2026-03-10T12:04:00Z", "endTimeUtc": "2026-03-10T12:05:00Z",
		"entities": []any{
			map[string]any{"$id": "1", "Type": "iotdevice", "DeviceId": "d1"}, map[string]any{"$id": "2", "Type": "process", "CommandLine": "docker run --privileged"},
			map[string]any{"$id": "3", "Type": "account", "Name": "aUser"},
		},
		"extendedProperties": map[string]any{
			"CommandLine": "docker run --privileged", "UserName": "aUser", "ParentProcessId": 1593.0, "DeviceId": "d1", "ModuleId": "agent", "Indicator": "x",
			"Status": "open", "Severity": "Medium", "Count": 1.0, "Description": "a container with all rights",
		},
	}
	if d := cmp.Diff(want, one.properties()); d != "" {
		t.Errorf("one (-want +got):\n%s", d)
	}
	if p := w.want(200, get(hubID, "/alert-1"+v)).properties(); !cmp.Equal(p["entities"].([]any)[1], map[string]any{"$id": "2", "Type": "ip", "Address": "192.0.2.9"}) {
		t.Errorf("an address is no entity: %v", p)
	}
	w.refused(get(hubID, "/nobody"+v), 404, "ResourceNotFound", "nobody")
	for query, text := range map[string]string{
		"&$limit=0": "$limit", "&$limit=1001": "$limit", "&$limit=x": "$limit", "&$skipToken=x": "$skipToken", "&$skipToken=0": "$skipToken", "&startTimeUtc>=yesterday": "startTimeUtc>",
		"&deviceManagementType=x": "deviceManagementType", "&compromisedEntity=%20": "compromisedEntity",
	} {
		w.refused(get(hubID, v+query), 400, "InvalidParameter", text)
	}
}

func TestVersionsAndPaths(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.refused(w.as(admin, "GET", sols, ""), 400, "MissingApiVersionParameter", stable)
	w.refused(w.as(admin, "GET", sols+"?api-version=2017-08-01-preview", ""), 400, "InvalidApiVersionParameter", stable)
	w.refused(w.as(admin, "GET", hubID+"/providers/Microsoft.Security/iotAlerts?api-version="+stable, ""), 400, "InvalidApiVersionParameter", preview)
	w.refused(w.do("GET", rg+"/providers/Microsoft.Security/alerts", ""), 404, "ResourceNotFound", "nothing at this path")
	a := w.do("POST", ours, "")
	w.refused(a, 405, "MethodNotAllowed", "")
	if got := a.Header().Get("Allow"); got != "GET, PUT, PATCH, DELETE" {
		t.Errorf("Allow is %q", got)
	}
	w.refused(w.as(admin, "GET", sols+"?api-version="+stable+"&%zz", ""), 400, "InvalidRequestContent", "query")
	for path, want := range map[string]bool{
		ours: true, strings.ToUpper(ours): true, hubID + "/providers/Microsoft.Security/x": true, hubID: false, sub: false, "/": false, "/devices/x": false,
		rg + "/providers/Microsoft.AzureSphere/catalogs/x": false, "/" + hubID + "/providers/microsoft.authorization/roleAssignments": true, sub + "/providers": false,
	} {
		if got := Owns(strings.Split(strings.Trim(path, "/"), "/")); got != want {
			t.Errorf("Owns(%s) = %v", path, got)
		}
	}
}

// TestRights walks all routes with every kind of caller.
func TestRights(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	grant := func(id, mail string, role solution.Role) answered {
		return w.as(admin, "PUT", hubID+"/providers/Microsoft.Authorization/roleAssignments/"+id+"?api-version="+granted,
			`{"properties":{"roleDefinitionId":"`+sub+`/providers/Microsoft.Authorization/roleDefinitions/`+role.ID()+`","principalId":"`+mail+`"}}`)
	}
	const g1, g2 = "00000000-0000-4000-8000-000000000001", "00000000-0000-4000-8000-000000000002"
	w.want(201, grant(g1, "Reads@example.org", solution.Reader))
	w.want(201, grant(g2, "rules@example.org", solution.Administrator))
	callers := map[string]solution.Role{"of-nobody@example.org": solution.Nobody, "of-reads@example.org": solution.Reader, "of-rules@example.org": solution.Administrator, admin: solution.Operator}
	for _, rt := range routes {
		target := strings.NewReplacer("{subscription}", "s", "{resourceGroup}", "g", "{hub}", "plant", "{solution}", "x", "{alertType}", "T", "{date}", "2026-03-10",
			"{group}", "x", "{alert}", "x", "{assignment}", "x", "{recommendation}", "x").Replace("/" + rt.path + "?api-version=" + rt.version)
		w.refused(w.as("", rt.method, target, ""), 401, "AuthenticationFailed", "no bearer token")
		w.refused(w.as("nonsense", rt.method, target, ""), 401, "AuthenticationFailed", "")
		for token, role := range callers {
			a := w.as(token, rt.method, target, "")
			if role < rt.role {
				w.refused(a, 403, "AuthorizationFailed", rt.role.String())
			} else if a.Code == 401 || a.Code == 403 || a.Code >= 500 {
				t.Errorf("%s %s as %s: %d %s", rt.method, target, role, a.Code, a.Body)
			}
		}
	}
	if got := w.as("", "GET", sols, "").Header().Get("WWW-Authenticate"); got != `Bearer realm="security"` {
		t.Errorf("the challenge is %q", got)
	}
	if got := w.as("x", "GET", sols, "").Header().Get("WWW-Authenticate"); !strings.Contains(got, "invalid_token") {
		t.Errorf("the challenge of a token is %q", got)
	}
	w.refused(w.as("of-operator", "GET", sols, ""), 401, "AuthenticationFailed", "")
	w.head.cfg.SignIn = people{fault.New(fault.Unavailable, "busy")}
	w.refused(w.as("of-reads@example.org", "GET", sols, ""), 503, "ServiceUnavailable", "busy")
}

func TestRoleAssignments(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	base := hubID + "/providers/Microsoft.Authorization/roleAssignments"
	do := func(method, name, body string) answered {
		return w.as(admin, method, base+name+"?api-version="+granted, body)
	}
	body := func(role, mail string) string {
		return `{"properties":{"roleDefinitionId":"` + role + `","principalId":"` + mail + `"}}`
	}
	const id = "/00000000-0000-4000-8000-00000000000a"
	made := w.want(201, do("PUT", id, body(solution.Reader.ID(), "a@example.org")))
	if p := made.properties(); p["principalId"] != "a@example.org" || p["scope"] != hubID || !strings.HasSuffix(p["roleDefinitionId"].(string), "/"+solution.Reader.ID()) {
		t.Errorf("made %s", made.Body)
	}
	w.now = w.now.Add(time.Hour)
	if again := w.want(200, do("PUT", strings.ToUpper(id), body(solution.Reader.ID(), "A@example.org"))); again.Body.String() != made.Body.String() {
		t.Errorf("the same again: %s", again.Body)
	}
	w.refused(do("PUT", id, body(solution.Administrator.ID(), "a@example.org")), 409, "Conflict", "delete it first")
	w.refused(do("PUT", "/00000000-0000-4000-8000-00000000000b", body(solution.Reader.ID(), "a@example.org")), 409, "Conflict", "already")
	w.refused(do("PUT", "/x", body(solution.Reader.ID(), "a@example.org")), 400, "InvalidParameter", "GUID")
	w.refused(do("PUT", id, body("owner", "a@example.org")), 400, "InvalidParameter", "Security Reader")
	w.refused(do("PUT", id, body(solution.Reader.ID(), "somebody")), 400, "InvalidParameter", "mail address")
	w.refused(do("PUT", id, "x"), 400, "InvalidRequestContent", "role assignment")
	if got := w.want(200, do("GET", "", "")).values(); len(got) != 1 || !cmp.Equal(got[0], made.body) {
		t.Errorf("listed %v", got)
	}
	w.want(200, do("DELETE", id, ""))
	w.want(204, do("DELETE", id, ""))
	w.refused(w.as("of-a@example.org", "GET", sols+"?api-version="+stable, ""), 403, "AuthorizationFailed", "Security Reader")
}

func FuzzParseFilter(f *testing.F) {
	f.Add(`properties.iotHubs/any(i eq "` + hubID + `")`)
	f.Add(`iotHubs/any(h: h eq 'x')`)
	f.Fuzz(func(t *testing.T, s string) {
		hub, err := parseFilter(s)
		if err != nil {
			if hub != "" || !fault.Is(err, fault.Invalid) {
				t.Errorf("%q, %v", hub, err)
			}
			return
		}
		if hub == "" {
			if s != "" {
				t.Errorf("%q was read as no filter", s)
			}
			return
		}
		quote := `"`
		if strings.Contains(hub, `"`) {
			quote = "'"
		}
		if again, err := parseFilter("properties.iotHubs/any(i eq " + quote + hub + quote + ")"); err == nil && again != hub {
			t.Errorf("%q came back as %q", hub, again)
		}
	})
}

// FuzzHead has no request make the head fail.
func FuzzHead(f *testing.F) {
	w := newWorld(f)
	w.want(201, w.do("PUT", ours, put("")))
	f.Add("GET", ours+"/analyticsModels/default", "api-version="+stable, "")
	f.Add("PUT", ours, "api-version="+stable, put(""))
	f.Add("PATCH", ours, "api-version="+stable, `{"properties":{"recommendationsConfiguration":[{"recommendationType":"IoT_OpenPorts","status":"Enabled"}]}}`)
	f.Add("PUT", hubID+"/providers/Microsoft.Security/deviceSecurityGroups/x", "api-version="+stable, `{"properties":{}}`)
	f.Add("GET", hubID+"/providers/Microsoft.Security/iotAlerts", "api-version="+preview+"&startTimeUtc>=2026-01-01T00:00:00Z", "")
	f.Fuzz(func(t *testing.T, method, path, query, body string) {
		r := &http.Request{
			Method: method, Host: "hub.example", Header: http.Header{"Authorization": {"Bearer " + admin}}, URL: &url.URL{Path: path, RawQuery: query}, Body: io.NopCloser(strings.NewReader(body)),
		}
		rec := httptest.NewRecorder()
		w.head.ServeHTTP(rec, r)
		if rec.Code >= 500 {
			t.Errorf("%s %s?%s with %q: %d %s", method, path, query, body, rec.Code, rec.Body)
		}
	})
}
