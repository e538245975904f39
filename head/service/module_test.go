package service_test

import (
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/vauban-iot/vauban/fault"
	"github.com/vauban-iot/vauban/hub/hubtest"
	"github.com/vauban-iot/vauban/hub/registry"
	"github.com/vauban-iot/vauban/internal/conform"
	"github.com/vauban-iot/vauban/iot"
)

// list reads an array of objects.
func (a answer) list(t testing.TB) []map[string]any {
	t.Helper()
	var l []map[string]any
	if err := json.Unmarshal(a.body, &l); err != nil {
		t.Fatalf("status %d, body %q: %v", a.StatusCode, a.body, err)
	}
	return l
}

// member walks into nested objects.
func member(v any, path ...string) any {
	for _, p := range path {
		m, _ := v.(map[string]any)
		v = m[p]
	}
	return v
}

func TestModules(t *testing.T) {
	t.Parallel()
	conform.Covers(t, "HS-031")
	s := serve(t)
	s.device(t, "d#1")
	const device = "/devices/d%231/modules"

	created := s.owner(t, 201, "PUT", device+"/m%25", `{"deviceId":"d#1","moduleId":"m%","authentication":{"type":"sas","symmetricKey":{"primaryKey":"","secondaryKey":""}}}`)
	doc := created.document(t)
	var members []string
	dec := json.NewDecoder(strings.NewReader(string(created.body)))
	for depth := 0; ; {
		tok, err := dec.Token()
		if err != nil {
			break
		}
		switch v := tok.(type) {
		case json.Delim:
			if v == '{' {
				depth++
			} else {
				depth--
			}
		case string:
			if depth == 1 && doc[v] != nil || v == "managedBy" {
				members = append(members, v)
			}
		}
	}
	for _, m := range []string{"moduleId", "managedBy", "deviceId", "generationId", "etag", "connectionState", "connectionStateUpdatedTime",
		"lastActivityTime", "cloudToDeviceMessageCount", "authentication"} {
		if !slices.Contains(members, m) {
			t.Errorf("the document %s lacks %s", created.body, m)
		}
	}
	for _, m := range []string{"status", "statusReason", "capabilities", "deviceScope", "parentScopes"} {
		if _, ok := doc[m]; ok {
			t.Errorf("a module has no %s of its own: %s", m, created.body)
		}
	}
	key, _ := member(doc, "authentication", "symmetricKey", "primaryKey").(string)
	if doc["deviceId"] != "d#1" || doc["moduleId"] != "m%" || doc["managedBy"] != nil || doc["connectionState"] != "Disconnected" || key == "" {
		t.Errorf("got %s", created.body)
	}
	if want := fmt.Sprintf("%q", doc["etag"]); created.header("ETag") != want {
		t.Errorf("ETag %s, want %s", created.header("ETag"), want)
	}
	if got := s.owner(t, 200, "GET", device+"/m%25", ""); string(got.body) != string(created.body) || got.header("ETag") != created.header("ETag") {
		t.Errorf("read %s, created %s", got.body, created.body)
	}
	formA(t, s.owner(t, 409, "PUT", device+"/m%25", "{}"), 409, "ModuleAlreadyExistsOnDevice")

	// What is not named stays; what a module does not have is left aside.
	updated := s.owner(t, 200, "PUT", device+"/m%25", `{"managedBy":"me","status":"disabled","capabilities":{"iotEdge":true},"deviceScope":"x"}`, "If-Match", created.header("ETag")).document(t)
	if updated["managedBy"] != "me" || member(updated, "authentication", "symmetricKey", "primaryKey") != key || updated["etag"] == doc["etag"] || updated["generationId"] != doc["generationId"] {
		t.Errorf("updated: %v", updated)
	}
	formA(t, s.owner(t, 412, "PUT", device+"/m%25", "{}", "If-Match", created.header("ETag")), 412, "PreconditionFailed")
	formA(t, s.owner(t, 412, "PUT", device+"/m%25", "{}", "If-Match", "abc"), 412, "PreconditionFailed")
	thumb := strings.Repeat("AB", 20)
	self := s.owner(t, 200, "PUT", device+"/m%25", `{"managedBy":null,"authentication":{"x509Thumbprint":{"primaryThumbprint":"`+thumb+`"}}}`, "If-Match", `"*"`).document(t)
	if self["managedBy"] != nil || member(self, "authentication", "type") != "selfSigned" || member(self, "authentication", "x509Thumbprint", "primaryThumbprint") != thumb {
		t.Errorf("with a thumbprint: %v", self)
	}

	s.owner(t, 201, "PUT", device+"/a", `{"managedBy":"iotEdge","authentication":{"type":"none"}}`)
	s.owner(t, 201, "PUT", device+"/z", `{"authentication":{"type":"certificateAuthority"}}`)
	var ids []string
	for _, m := range s.owner(t, 200, "GET", device+"/", "").list(t) {
		ids = append(ids, fmt.Sprint(m["moduleId"], " ", member(m, "authentication", "type"), " ", m["managedBy"]))
	}
	if want := []string{"a none iotEdge", "m% selfSigned <nil>", "z certificateAuthority <nil>"}; !slices.Equal(ids, want) {
		t.Errorf("modules %q, want %q", ids, want)
	}
	s.device(t, "bare")
	if got := s.owner(t, 200, "GET", "/devices/bare/modules", ""); string(got.body) != "[]" {
		t.Errorf("modules of a device without: %s", got.body)
	}

	formA(t, s.owner(t, 412, "DELETE", device+"/m%25", "", "If-Match", created.header("ETag")), 412, "PreconditionFailed")
	s.owner(t, 204, "DELETE", device+"/m%25", "", "If-Match", "*")
	for _, method := range []string{"GET", "DELETE", "PUT"} {
		formA(t, s.owner(t, 404, method, device+"/m%25", "{}", "If-Match", "*"), 404, "ModuleNotFound")
	}
	formA(t, s.owner(t, 404, "GET", "/twins/d%231/modules/m%25", ""), 404, "ModuleNotFound")
	for _, method := range []string{"GET", "DELETE", "PUT"} {
		formA(t, s.owner(t, 404, method, "/devices/none/modules/m", "{}"), 404, "DeviceNotFound")
	}
	formA(t, s.owner(t, 404, "GET", "/devices/none/modules", ""), 404, "DeviceNotFound")
	formA(t, s.owner(t, 405, "POST", device, "{}"), 405, "GenericMethodNotAllowed")

	for name, refusal := range map[string]struct {
		path, body, code string
		status           int
	}{
		"another device in the body": {device + "/x", `{"deviceId":"other"}`, "ArgumentInvalid", 400},
		"another module in the body": {device + "/x", `{"moduleId":"y"}`, "ArgumentInvalid", 400},
		"space in the id":            {device + "/x%20y", `{}`, "ArgumentInvalid", 400},
		"long id":                    {device + "/" + strings.Repeat("x", 129), `{}`, "ArgumentInvalid", 400},
		"short key":                  {device + "/x", `{"authentication":{"symmetricKey":{"primaryKey":"eA==","secondaryKey":"eA=="}}}`, "ArgumentInvalid", 400},
		"broken JSON":                {device + "/x", `{`, "IotHubFormatError", 400},
		"id of the edge runtime":     {device + "/$edgeHub", `{}`, "SystemModuleModifyUnauthorizedAccess", 401},
		"reserved id":                {device + "/$mine", `{}`, "SystemModuleModifyUnauthorizedAccess", 401},
	} {
		t.Run(name, func(t *testing.T) {
			formA(t, s.owner(t, refusal.status, "PUT", refusal.path, refusal.body), refusal.status, refusal.code)
		})
	}
	for method, policy := range map[string]string{"GET": "service", "PUT": "registryRead", "DELETE": "registryRead"} {
		formA(t, s.send(t, method, device+"/a", "{}", "Authorization", s.as(policy)), 401, "IotHubUnauthorizedAccess")
	}
	if a := s.send(t, "GET", device+"/a", "", "Authorization", s.as("registryRead")); a.StatusCode != 200 {
		t.Errorf("with registryRead: status %d", a.StatusCode)
	}

	// A module of an edge device beyond its two does not count them.
	s.owner(t, 200, "PUT", "/devices/full", `{"capabilities":{"iotEdge":true}}`)
	for i := range registry.MaxModules {
		s.owner(t, 201, "PUT", fmt.Sprintf("/devices/full/modules/m%d", i), "{}")
	}
	formA(t, s.owner(t, 413, "PUT", "/devices/full/modules/one-more", "{}"), 413, "TooManyModulesOnDevice")
	formA(t, s.owner(t, 409, "PUT", "/devices/full/modules/m0", "{}"), 409, "ModuleAlreadyExistsOnDevice")
	s.owner(t, 204, "DELETE", "/devices/full/modules/m0", "")
	s.owner(t, 201, "PUT", "/devices/full/modules/one-more", "{}")
}

func TestModules_OfEdgeDevices(t *testing.T) {
	t.Parallel()
	conform.Covers(t, "HS-029")
	s := serve(t)
	check := func(device map[string]any) {
		t.Helper()
		if want := fmt.Sprintf("ms-azure-iot-edge://%s-%s", device["deviceId"], device["generationId"]); device["deviceScope"] != want || member(device, "capabilities", "iotEdge") != true {
			t.Errorf("got %v, want scope %s", device, want)
		}
		path := fmt.Sprint("/devices/", device["deviceId"], "/modules")
		ms := s.owner(t, 200, "GET", path, "").list(t)
		var got []string
		for _, m := range ms {
			got = append(got, fmt.Sprint(m["moduleId"], " ", m["managedBy"], " ", m["authentication"]))
		}
		const none = " iotEdge map[symmetricKey:map[primaryKey:<nil> secondaryKey:<nil>] type:none x509Thumbprint:map[primaryThumbprint:<nil> secondaryThumbprint:<nil>]]"
		if want := []string{"$edgeAgent" + none, "$edgeHub" + none}; !slices.Equal(got, want) {
			t.Errorf("modules %q, want %q", got, want)
		}
		for _, m := range []string{"$edgeAgent", "$edgeHub"} {
			twin := s.owner(t, 200, "GET", fmt.Sprint("/twins/", device["deviceId"], "/modules/", m), "").document(t)
			if twin["moduleId"] != m || twin["authenticationType"] != "none" || member(twin, "properties", "desired", "$version") != 1.0 {
				t.Errorf("twin of %s: %v", m, twin)
			}
			formA(t, s.owner(t, 401, "DELETE", path+"/"+m, ""), 401, "SystemModuleModifyUnauthorizedAccess")
			formA(t, s.owner(t, 409, "PUT", path+"/"+m, "{}"), 409, "ModuleAlreadyExistsOnDevice")
		}
	}
	born := s.owner(t, 200, "PUT", "/devices/born", `{"capabilities":{"iotEdge":true}}`).document(t)
	check(born)

	// A device that becomes one later; the command line sends the whole identity back.
	made := s.owner(t, 200, "PUT", "/devices/made", `{}`).document(t)
	if got := s.owner(t, 200, "GET", "/devices/made/modules", ""); string(got.body) != "[]" || made["deviceScope"] != nil {
		t.Errorf("an ordinary device has modules %s and scope %v", got.body, made["deviceScope"])
	}
	made["capabilities"] = map[string]any{"iotEdge": true}
	body, _ := json.Marshal(made)
	made = s.owner(t, 200, "PUT", "/devices/made", string(body), "If-Match", fmt.Sprintf("%q", made["etag"])).document(t)
	check(made)

	// The runtime gets its keys; from then on they stay, whatever is said of the device.
	keyed := s.owner(t, 200, "PUT", "/devices/made/modules/$edgeHub", `{"authentication":{"type":"sas"}}`, "If-Match", "*").document(t)
	key := member(keyed, "authentication", "symmetricKey", "primaryKey")
	s.owner(t, 200, "PUT", "/devices/made", `{"capabilities":{"iotEdge":true}}`, "If-Match", "*")
	kept := s.owner(t, 200, "GET", "/devices/made/modules/$edgeHub", "").document(t)
	if key == nil || member(kept, "authentication", "symmetricKey", "primaryKey") != key || kept["managedBy"] != "iotEdge" {
		t.Errorf("got %v, want the key %v", kept, key)
	}

	// With the device goes everything.
	s.owner(t, 204, "DELETE", "/devices/born", "")
	formA(t, s.owner(t, 404, "GET", "/devices/born/modules/$edgeHub", ""), 404, "DeviceNotFound")
	check(s.owner(t, 200, "PUT", "/devices/born", `{"capabilities":{"iotEdge":true}}`).document(t))
}

func TestModules_InBulk(t *testing.T) {
	t.Parallel()
	s := serve(t)
	s.owner(t, 200, "PUT", "/devices/e", `{"capabilities":{"iotEdge":true}}`)
	s.bulk(t, `[{"id":"e","moduleId":"a","importMode":"create"},{"id":"new","importMode":"create","capabilities":{"iotEdge":true}},{"id":"e","moduleId":"b","importMode":"create","managedBy":"me"}]`)
	if got := len(s.owner(t, 200, "GET", "/devices/new/modules", "").list(t)); got != 2 {
		t.Errorf("an edge device made in bulk has %d modules, want 2", got)
	}
	if got := s.owner(t, 200, "GET", "/devices/e/modules/b", "").document(t); got["managedBy"] != "me" {
		t.Errorf("got %v", got)
	}
	s.bulk(t, `[{"id":"e","moduleId":"a","importMode":"create"},{"id":"e","moduleId":"x","importMode":"update"},{"id":"none","moduleId":"x","importMode":"create"},
		{"id":"e","moduleId":"$x","importMode":"create"},{"id":"e","moduleId":"$edgeHub","importMode":"delete"},{"id":"e","moduleId":"b","importMode":"delete"}]`,
		"e/a ModuleAlreadyExistsOnDevice", "e/x ModuleNotFound", "none/x DeviceNotFound",
		"e/$x SystemModuleModifyUnauthorizedAccess", "e/$edgeHub SystemModuleModifyUnauthorizedAccess")
	formA(t, s.owner(t, 404, "GET", "/devices/e/modules/b", ""), 404, "ModuleNotFound")
}

// The command line moves a device by reading it, changing one member and writing all of it back; it lists
// children by a query (hub-service §2.5).
func TestScopes_AsTheCommandLineMovesThem(t *testing.T) {
	t.Parallel()
	conform.Covers(t, "HS-030")
	s := serve(t)
	scope := func(id string) string {
		t.Helper()
		return fmt.Sprint(s.owner(t, 200, "PUT", "/devices/"+id, `{"capabilities":{"iotEdge":true}}`).document(t)["deviceScope"])
	}
	one, two := scope("parent-1"), scope("parent-2")
	child := scope("edge-child")
	leaf := s.owner(t, 200, "PUT", "/devices/leaf", `{"deviceScope":"`+one+`"}`).document(t)
	is(t, "parents of a leaf born below one", leaf["parentScopes"], fmt.Sprintf("[%q]", one))

	// move writes one member and the rest as it was read.
	move := func(status int, id, name string, value any) answer {
		t.Helper()
		doc := s.owner(t, 200, "GET", "/devices/"+id, "").document(t)
		doc[name] = value
		body, err := json.Marshal(doc)
		if err != nil {
			t.Fatal(err)
		}
		return s.owner(t, status, "PUT", "/devices/"+id, string(body), "If-Match", fmt.Sprintf("%q", doc["etag"]))
	}
	stands := func(id, scope string, parents ...string) {
		t.Helper()
		doc := s.owner(t, 200, "GET", "/devices/"+id, "").document(t)
		own, _ := doc["deviceScope"].(string)
		want, _ := json.Marshal(append([]string{}, parents...))
		if own != scope {
			t.Errorf("%s has scope %q, want %q", id, own, scope)
		}
		is(t, "parents of "+id, doc["parentScopes"], string(want))
	}
	children := func(scope string, want ...string) {
		t.Helper()
		body, _ := json.Marshal(map[string]string{"query": "select deviceId from devices where array_contains(parentScopes, '" + scope + "')"})
		var got []string
		for _, d := range s.owner(t, 200, "POST", "/devices/query", string(body)).list(t) {
			got = append(got, fmt.Sprint(d["deviceId"]))
		}
		slices.Sort(got)
		if !slices.Equal(got, want) {
			t.Errorf("children of %s: %q, want %q", scope, got, want)
		}
	}
	children(one, "leaf")

	// Set the parent, and again with another one.
	move(200, "leaf", "deviceScope", two)
	stands("leaf", two, two)
	move(200, "edge-child", "parentScopes", []string{one})
	stands("edge-child", child, one)
	move(200, "edge-child", "parentScopes", []string{two})
	stands("edge-child", child, two)
	children(one)
	children(two, "edge-child", "leaf")

	// A scope that is nobody's changes nothing.
	for _, bad := range []string{"ms-azure-iot-edge://nobody-1", "ms-azure-iot-edge://leaf-1", one + "0", "x", "ms-azure-iot-edge://parent-1"} {
		formA(t, move(400, "leaf", "deviceScope", bad), 400, "InvalidDeviceScope")
		formA(t, move(400, "edge-child", "parentScopes", []string{bad}), 400, "InvalidDeviceScope")
	}
	formA(t, move(400, "edge-child", "parentScopes", []string{child}), 400, "InvalidDeviceScope") // its own
	stands("leaf", two, two)
	stands("edge-child", child, two)

	// Remove: what an edge device is stays.
	move(200, "leaf", "deviceScope", "")
	stands("leaf", "")
	move(200, "edge-child", "parentScopes", []string{})
	stands("edge-child", child)
	children(two)
	// An edge device's own scope is not for the caller to say.
	move(200, "edge-child", "deviceScope", one)
	stands("edge-child", child)
}

// A device that is disabled or deleted takes its modules' connections along.
func TestModules_GoWithTheirDevice(t *testing.T) {
	t.Parallel()
	s := serve(t)
	for name, end := range map[string]struct {
		kind fault.Kind
		do   func(id string)
	}{
		"disabled": {fault.Disabled, func(id string) { s.owner(t, 200, "PUT", "/devices/"+id, `{"status":"disabled"}`, "If-Match", "*") }},
		"deleted":  {fault.NotFound, func(id string) { s.owner(t, 204, "DELETE", "/devices/"+id, "") }},
	} {
		t.Run(name, func(t *testing.T) {
			d := s.device(t, name)
			m := s.World.Device(t, iot.ID{Device: name, Module: "m"})
			other := s.connect(t, s.device(t, name+"-other"), 0)
			boards := []*board{s.connect(t, d, 0), s.connect(t, m, 0)}
			end.do(name)
			for _, b := range boards {
				hubtest.Until(t, "the connection to end", func() bool {
					b.mu.Lock()
					defer b.mu.Unlock()
					return fault.Is(b.closed, end.kind)
				})
			}
			if other.closed != nil {
				t.Errorf("another device was disconnected: %v", other.closed)
			}
			want := fault.Unauthorized
			if end.kind == fault.Disabled {
				want = fault.Disabled
			}
			if _, err := s.Connect(t.Context(), s.Credentials(m), iot.Opening{}, &board{}); !fault.Is(err, want) {
				t.Errorf("the module connects again: %v, want %v", err, want)
			}
		})
	}
	// Deleting one module leaves the others and the device.
	d := s.device(t, "stays")
	gone := s.connect(t, s.World.Device(t, iot.ID{Device: "stays", Module: "gone"}), 0)
	left := []*board{s.connect(t, d, 0), s.connect(t, s.World.Device(t, iot.ID{Device: "stays", Module: "left"}), 0)}
	s.owner(t, 204, "DELETE", "/devices/stays/modules/gone", "")
	hubtest.Until(t, "the module to be disconnected", func() bool {
		gone.mu.Lock()
		defer gone.mu.Unlock()
		return fault.Is(gone.closed, fault.NotFound)
	})
	for _, b := range left {
		b.mu.Lock()
		if b.closed != nil {
			t.Errorf("disconnected: %v", b.closed)
		}
		b.mu.Unlock()
	}
}
