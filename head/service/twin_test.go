package service_test

import (
	"encoding/json"
	"fmt"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/vauban-iot/vauban/hub/hubtest"
	"github.com/vauban-iot/vauban/internal/conform"
	"github.com/vauban-iot/vauban/iot"
)

// section is one of a twin's two, without metadata and version.
func section(t testing.TB, twin map[string]any, name string) (members, metadata map[string]any, version int) {
	t.Helper()
	s, ok := twin["properties"].(map[string]any)[name].(map[string]any)
	if !ok {
		t.Fatalf("twin %v has no %s properties", twin, name)
	}
	metadata, _ = s["$metadata"].(map[string]any)
	v, ok := s["$version"].(float64)
	if metadata == nil || !ok {
		t.Fatalf("%s: %v, want $metadata and $version", name, s)
	}
	delete(s, "$metadata")
	delete(s, "$version")
	return s, metadata, int(v)
}

// is compares a value with JSON text.
func is(t testing.TB, what string, got any, want string) {
	t.Helper()
	var v, w any
	if err := json.Unmarshal([]byte(want), &w); err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal(must(json.Marshal(got)), &v); err != nil {
		t.Fatal(err)
	}
	a, b := must(json.Marshal(v)), must(json.Marshal(w)) // members in order of their names
	if string(a) != string(b) {
		t.Errorf("%s: %s, want %s", what, a, b)
	}
}

func TestTwin_Replace(t *testing.T) {
	t.Parallel()
	conform.Covers(t, "HS-043")
	s := serve(t)
	b := s.connect(t, s.device(t, "d1"), iot.DesiredUpdates)
	first := s.owner(t, 200, "PATCH", "/twins/d1", `{"tags":{"a":1,"b":{"c":2}},"properties":{"desired":{"x":1,"y":{"z":2}}}}`)
	a := s.owner(t, 200, "PUT", "/twins/d1", `{"deviceId":"other","unknown":{"a":1},"status":"disabled","tags":{"d":3},
		"properties":{"desired":{"y":{"w":4}},"reported":{"forged":1},"unknown":{}}}`)
	twin := a.document(t)
	is(t, "tags", twin["tags"], `{"d":3}`)
	desired, _, version := section(t, twin, "desired")
	is(t, "desired", desired, `{"y":{"w":4}}`)
	reported, _, reportedVersion := section(t, twin, "reported")
	is(t, "reported", reported, `{}`)
	if version != 3 || reportedVersion != 1 || twin["version"] != 4.0 || twin["status"] != "enabled" || twin["deviceId"] != "d1" || twin["unknown"] != nil {
		t.Errorf("replaced: %v", twin)
	}
	if tag := a.header("ETag"); tag == first.header("ETag") || tag != fmt.Sprintf("%q", twin["etag"]) {
		t.Errorf("ETag %s after %s", tag, first.header("ETag"))
	}
	hubtest.Until(t, "both patches", func() bool { return len(b.seen()) == 2 })
	is(t, "pushed", json.RawMessage(b.seen()[1]), `{"x":null,"y":{"z":null,"w":4},"$version":3}`)

	for _, body := range []string{`{"tags":{"e":5}}`, `{"tags":{"e":5},"properties":{}}`, `{"tags":{"e":5},"properties":null}`, `{"tags":{"e":5},"properties":{"desired":null}}`} {
		s.owner(t, 200, "PATCH", "/twins/d1", `{"properties":{"desired":{"x":1}}}`)
		twin = s.owner(t, 200, "PUT", "/twins/d1", body).document(t)
		is(t, "tags", twin["tags"], `{"e":5}`)
		desired, _, _ = section(t, twin, "desired")
		is(t, body, desired, `{}`)
	}
	twin = s.owner(t, 200, "PUT", "/twins/d1", `{"properties":{"desired":{"x":1}}}`).document(t)
	if tags, _ := twin["tags"].(map[string]any); len(tags) != 0 {
		t.Errorf("tags %v, want none", tags)
	}
}

var stamp = regexp.MustCompile(`^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{7}Z$`)

func TestTwin_VersionsAndMetadata(t *testing.T) {
	t.Parallel()
	conform.Covers(t, "HS-045")
	s := serve(t)
	b := s.connect(t, s.device(t, "d1"), 0)
	last := 1
	for i, body := range []string{
		`{"properties":{"desired":{"a":{"b":1},"c":[1]}}}`,
		`{"properties":{"desired":{"a":{"b":1}}}}`, // the same value
		`{"properties":{"desired":{"d":true}},"tags":{"x":1}}`,
		`{"properties":{"desired":{"d":null}}}`,
		`{"properties":{"desired":{"c":2}}}`,
	} {
		twin := s.owner(t, 200, "PATCH", "/twins/d1", body).document(t)
		_, metadata, version := section(t, twin, "desired")
		if version != last+1 {
			t.Errorf("%s: version %d after %d", body, version, last)
		}
		last = version
		if metadata["$lastUpdatedVersion"] != float64(version) || !stamp.MatchString(fmt.Sprint(metadata["$lastUpdated"])) {
			t.Errorf("%s: metadata %v", body, metadata)
		}
		if _, there := metadata["d"]; there != (i == 2) {
			t.Errorf("%s: metadata %v", body, metadata)
		}
	}
	// Tags alone leave the desired version as it is.
	twin := s.owner(t, 200, "PATCH", "/twins/d1", `{"tags":{"y":2}}`).document(t)
	_, metadata, version := section(t, twin, "desired")
	if version != last || twin["version"] != 8.0 {
		t.Errorf("desired %d, twin %v after a change of tags", version, twin["version"])
	}
	a, _ := metadata["a"].(map[string]any)
	leaf, _ := a["b"].(map[string]any)
	c, _ := metadata["c"].(map[string]any)
	if a["$lastUpdatedVersion"] != 3.0 || leaf["$lastUpdatedVersion"] != 3.0 || c["$lastUpdatedVersion"] != 6.0 {
		t.Errorf("metadata %v, want a and a.b at 3 and c at 6", metadata)
	}
	if _, err := b.session.PatchReported(t.Context(), []byte(`{"r":{"s":1}}`), 0); err != nil {
		t.Fatal(err)
	}
	text := s.owner(t, 200, "GET", "/twins/d1", "")
	_, metadata, version = section(t, text.document(t), "reported")
	if version != 2 || strings.Contains(fmt.Sprint(metadata), "$lastUpdatedVersion") {
		t.Errorf("reported: version %d, metadata %v", version, metadata)
	}
	r, _ := metadata["r"].(map[string]any)
	inner, _ := r["s"].(map[string]any)
	if !stamp.MatchString(fmt.Sprint(inner["$lastUpdated"])) || !stamp.MatchString(fmt.Sprint(r["$lastUpdated"])) {
		t.Errorf("reported metadata %v", metadata)
	}
}

func nested(depth int) string {
	return strings.Repeat(`{"a":`, depth) + "1" + strings.Repeat("}", depth)
}

// keys is an object of n members with a name of ten bytes and a string of size each.
func keys(n, size int) string {
	var members []string
	for i := range n {
		members = append(members, fmt.Sprintf(`"key%07d":"%s"`, i, strings.Repeat("x", size)))
	}
	return "{" + strings.Join(members, ",") + "}"
}

func TestTwin_Limits(t *testing.T) {
	t.Parallel()
	conform.Covers(t, "HS-046")
	s := serve(t)
	s.device(t, "d1")
	tags := func(v string) string { return `{"tags":` + v + `}` }
	desired := func(v string) string { return `{"properties":{"desired":` + v + `}}` }
	for _, test := range []struct {
		name, allowed, refused string
	}{
		{"size of tags", tags(keys(8, 1014)), tags(`{"one":"xxxx"}`)}, // 8 KiB exactly, then more
		{"size of desired", desired(keys(8, 4086)), desired(`{"one":1}`)},
		{"depth of tags", tags(nested(10)), tags(nested(11))},
		{"depth of desired", desired(nested(10)), desired(nested(11))},
		{"depth in arrays", desired(`{"a":[` + nested(8) + `]}`), desired(`{"a":[` + nested(9) + `]}`)},
		{"key length", desired(`{"` + strings.Repeat("k", 1024) + `":1}`), desired(`{"` + strings.Repeat("k", 1025) + `":1}`)},
		{"key bytes", desired(`{"` + strings.Repeat("é", 512) + `":1}`), desired(`{"` + strings.Repeat("é", 513) + `":1}`)},
		{"key with a dot", desired(`{"a-b":1}`), desired(`{"a.b":1}`)},
		{"key with a dollar", desired(`{"a_b":1}`), desired(`{"a$b":1}`)},
		{"key with a space", tags(`{"a:b":1}`), tags(`{"a b":1}`)},
		{"key with a control character", tags(`{"é":1}`), tags(`{"\u0001":1}`)},
		{"key inside", tags(`{"a":{"b":1}}`), tags(`{"a":{"b.c":1}}`)},
		{"string", desired(`{"a":"` + strings.Repeat("x", 4096) + `"}`), desired(`{"a":"` + strings.Repeat("x", 4097) + `"}`)},
		{"large integer", desired(`{"a":4503599627370495}`), desired(`{"a":4503599627370497}`)},
		{"small integer", desired(`{"a":-4503599627370496}`), desired(`{"a":-4503599627370497}`)},
		{"integer in an array", desired(`{"a":[1]}`), desired(`{"a":[9007199254740993]}`)},
		{"tags of another type", tags(`{}`), tags(`"x"`)},
		{"desired of another type", desired(`{}`), desired(`[]`)},
		{"properties of another type", `{"properties":{}}`, `{"properties":1}`},
	} {
		t.Run(test.name, func(t *testing.T) {
			s.owner(t, 200, "PUT", "/twins/d1", "{}")
			s.owner(t, 200, "PATCH", "/twins/d1", test.allowed)
			before := s.owner(t, 200, "GET", "/twins/d1", "")
			formA(t, s.owner(t, 400, "PATCH", "/twins/d1", test.refused), 400, "ArgumentInvalid")
			if after := s.owner(t, 200, "GET", "/twins/d1", ""); string(after.body) != string(before.body) {
				t.Errorf("a refusal changed the twin")
			}
			if !strings.HasPrefix(test.name, "size") {
				formA(t, s.owner(t, 400, "PUT", "/twins/d1", test.refused), 400, "ArgumentInvalid")
			}
		})
	}
	formA(t, s.owner(t, 400, "PUT", "/twins/d1", tags(keys(9, 1014))), 400, "ArgumentInvalid")
	formA(t, s.owner(t, 400, "PUT", "/twins/d1", desired(keys(9, 4086))), 400, "ArgumentInvalid")
	// Reported properties have the size of desired ones.
	b := s.connect(t, must(s.World.Hub.Device(t.Context(), iot.ID{Device: "d1"})), 0)
	if _, err := b.session.PatchReported(t.Context(), []byte(keys(8, 4086)), 0); err != nil {
		t.Error(err)
	}
	if _, err := b.session.PatchReported(t.Context(), []byte(`{"one":1}`), 0); err == nil {
		t.Error("reported properties over their size are taken")
	}
}

func TestTwin_DeviceAndServiceSeeEachOther(t *testing.T) {
	t.Parallel()
	s := serve(t)
	d := s.device(t, "d1")
	deaf, b := s.connect(t, s.device(t, "d2"), 0), s.connect(t, d, iot.DesiredUpdates)
	s.owner(t, 200, "PATCH", "/twins/d1", `{"tags":{"no":"business"},"properties":{"desired":{"a":1,"b":{"c":2}}}}`)
	s.owner(t, 200, "PATCH", "/twins/d1", `{"tags":{"only":"tags"}}`)
	s.owner(t, 200, "PATCH", "/twins/d1", `{"properties":{"desired":{"a":null}}}`)
	s.owner(t, 200, "PATCH", "/twins/d2", `{"properties":{"desired":{"a":1}}}`)
	hubtest.Until(t, "two patches", func() bool { return len(b.seen()) == 2 })
	is(t, "first", json.RawMessage(b.seen()[0]), `{"a":1,"b":{"c":2},"$version":2}`)
	is(t, "second", json.RawMessage(b.seen()[1]), `{"a":null,"$version":3}`)
	if got := deaf.seen(); len(got) != 0 {
		t.Errorf("a device that does not listen hears %q", got)
	}
	if _, err := b.session.PatchReported(t.Context(), []byte(`{"here":{"deep":[1,null]}}`), 0); err != nil {
		t.Fatal(err)
	}
	reported, _, version := section(t, s.owner(t, 200, "GET", "/twins/d1", "").document(t), "reported")
	is(t, "reported", reported, `{"here":{"deep":[1,null]}}`)
	if version != 2 {
		t.Errorf("version %d", version)
	}
}

func TestTwin_Fresh(t *testing.T) {
	t.Parallel()
	conform.Covers(t, "HS-040")
	s := serve(t)
	s.device(t, "d#1")
	module := s.World.Device(t, iot.ID{Device: "d#1", Module: "m%1"})
	for path, moduleID := range map[string]any{"/twins/d%231": nil, "/twins/d%231/": nil, "/twins/d%231/modules/m%251": "m%1", "/Twins%2Fd%25231%2FModules%2Fm%25251": "m%1"} {
		a := s.owner(t, 200, "GET", path, "")
		twin := a.document(t)
		if twin["deviceId"] != "d#1" || twin["moduleId"] != moduleID || twin["etag"] != "AAAAAAAAAAE=" || twin["version"] != 2.0 ||
			a.header("ETag") != `"AAAAAAAAAAE="` || twin["status"] != "enabled" || twin["connectionState"] != "Disconnected" || twin["authenticationType"] != "sas" {
			t.Errorf("%s: %s, ETag %s", path, a.body, a.header("ETag"))
		}
		for _, member := range []string{"modelId", "statusReason", "statusUpdateTime", "lastActivityTime", "cloudToDeviceMessageCount", "x509Thumbprint", "tags"} {
			if _, there := twin[member]; !there {
				t.Errorf("%s has no %s", path, member)
			}
		}
		for _, name := range []string{"desired", "reported"} {
			members, metadata, version := section(t, twin, name)
			if len(members) != 0 || version != 1 || fmt.Sprint(metadata) != "map[$lastUpdated:0001-01-01T00:00:00Z]" {
				t.Errorf("%s, %s: %v %v %d", path, name, members, metadata, version)
			}
		}
	}
	// The twins of a device and its module are two.
	b := s.connect(t, module, iot.DesiredUpdates)
	s.owner(t, 200, "PATCH", "/twins/d%231/modules/m%251", `{"tags":{"a":1},"properties":{"desired":{"b":2}}}`, "If-Match", `"AAAAAAAAAAE="`)
	is(t, "pushed", json.RawMessage(func() string {
		hubtest.Until(t, "the patch", func() bool { return len(b.seen()) == 1 })
		return b.seen()[0]
	}()), `{"b":2,"$version":2}`)
	is(t, "the device's tags", s.owner(t, 200, "GET", "/twins/d%231", "").document(t)["tags"], `{}`)
	is(t, "the module's tags", s.owner(t, 200, "PUT", "/twins/d%231/modules/m%251", `{"tags":{"c":3}}`).document(t)["tags"], `{"c":3}`)
	formA(t, s.owner(t, 412, "PUT", "/twins/d%231/modules/m%251", `{}`, "If-Match", `"AAAAAAAAAAE="`), 412, "PreconditionFailed")
	for _, method := range []string{"GET", "PATCH", "PUT"} {
		formA(t, s.owner(t, 404, method, "/twins/d%231/modules/none", `{}`), 404, "ModuleNotFound")
	}
	formA(t, s.send(t, "PATCH", "/twins/d%231/modules/m%251", `{}`, "Authorization", s.as("device")), 401, "IotHubUnauthorizedAccess")
}

func TestTwin_Document(t *testing.T) {
	t.Parallel()
	s := serve(t)
	s.owner(t, 200, "PUT", "/devices/d1", `{"status":"disabled","statusReason":"why","authentication":{"x509Thumbprint":{"primaryThumbprint":"`+strings.Repeat("A", 40)+`"}},"capabilities":{"iotEdge":true}}`)
	identity := s.owner(t, 200, "GET", "/devices/d1", "").document(t)
	a := s.owner(t, 200, "GET", "/twins/d1", "")
	twin := a.document(t)
	var names []string
	for name := range twin {
		names = append(names, name)
	}
	slices.Sort(names)
	want := "authenticationType capabilities cloudToDeviceMessageCount connectionState deviceEtag deviceId deviceScope etag lastActivityTime modelId parentScopes properties status statusReason statusUpdateTime tags version x509Thumbprint"
	if got := strings.Join(names, " "); got != want {
		t.Errorf("members %s, want %s", got, want)
	}
	for name, of := range map[string]string{"deviceEtag": "etag", "status": "status", "statusReason": "statusReason", "connectionState": "connectionState",
		"lastActivityTime": "lastActivityTime", "deviceScope": "deviceScope", "cloudToDeviceMessageCount": "cloudToDeviceMessageCount"} {
		if twin[name] != identity[of] {
			t.Errorf("%s is %v, the identity has %v", name, twin[name], identity[of])
		}
	}
	if twin["authenticationType"] != "selfSigned" || strings.Contains(string(a.body), "primaryKey") {
		t.Errorf("twin %s", a.body)
	}
	is(t, "capabilities", twin["capabilities"], `{"iotEdge":true}`)
	is(t, "thumbprints", twin["x509Thumbprint"], `{"primaryThumbprint":"`+strings.Repeat("A", 40)+`","secondaryThumbprint":null}`)
	if at, err := time.Parse(time.RFC3339Nano, fmt.Sprint(twin["lastActivityTime"])); err != nil || at.Year() != 1 {
		t.Errorf("last activity %v", twin["lastActivityTime"])
	}
}
