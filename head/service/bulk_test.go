package service_test

import (
	"encoding/json"
	"fmt"
	"strings"
	"testing"

	"github.com/vauban-iot/vauban/internal/conform"
)

// bulkResult is the answer to a bulk operation.
type bulkResult struct {
	IsSuccessful *bool
	Errors       []struct{ DeviceID, ModuleID, ErrorCode, ErrorStatus string }
	Warnings     []any
}

// bulk sends rows and checks the answer: codes of the failed ones, in order.
func (s *server) bulk(t *testing.T, rows string, failed ...string) {
	t.Helper()
	status := 200
	if len(failed) > 0 {
		status = 400
	}
	a := s.owner(t, status, "POST", "/devices?api-version=2021-04-12", rows)
	var r bulkResult
	if err := json.Unmarshal(a.body, &r); err != nil || r.IsSuccessful == nil || r.Errors == nil || r.Warnings == nil {
		t.Fatalf("answer %s: %v", a.body, err)
	}
	var got []string
	for _, e := range r.Errors {
		got = append(got, strings.TrimSuffix(e.DeviceID+"/"+e.ModuleID, "/")+" "+e.ErrorCode)
		if e.ErrorStatus == "" {
			t.Errorf("an error without a text: %s", a.body)
		}
	}
	if *r.IsSuccessful != (len(failed) == 0) || fmt.Sprint(got) != fmt.Sprint(failed) {
		t.Errorf("rows %s:\n%s\nwant the failures %q", rows, a.body, failed)
	}
	if code := a.header("iothub-errorcode"); (code == "BulkRegistryOperationFailure") != (len(failed) > 0) {
		t.Errorf("iothub-errorcode %q", code)
	}
	if a.header("Content-Type") != "application/json; charset=utf-8" {
		t.Errorf("content type %q", a.header("Content-Type"))
	}
}

func TestBulk(t *testing.T) {
	t.Parallel()
	conform.Covers(t, "HS-026")
	s := serve(t)
	get := func(id string) map[string]any {
		t.Helper()
		return s.owner(t, 200, "GET", "/devices/"+id, "").document(t)
	}
	gone := func(id string) { t.Helper(); s.owner(t, 404, "GET", "/devices/"+id, "") }

	s.bulk(t, `[{"id":"a","importMode":"create","authentication":{"type":"sas","symmetricKey":{"primaryKey":"","secondaryKey":""}}},
		{"id":"b","importMode":"Create","status":"disabled","statusReason":"new","capabilities":{"iotEdge":true},"tags":{"t":1},"properties":{"desired":{"d":2},"reported":{"r":3}}},
		{"id":"c","ImportMode":"CREATE"}]`)
	if d := get("b"); d["status"] != "disabled" || d["statusReason"] != "new" || !strings.HasPrefix(fmt.Sprint(d["deviceScope"]), "ms-azure-iot-edge://b-") {
		t.Errorf("created: %v", d)
	}
	twin := s.owner(t, 200, "GET", "/twins/b", "").document(t)
	is(t, "tags", twin["tags"], `{"t":1}`)
	desired, _, _ := section(t, twin, "desired")
	is(t, "desired", desired, `{"d":2}`)
	reported, _, _ := section(t, twin, "reported")
	is(t, "reported", reported, `{}`)

	// One that fails does not keep the others from being done.
	s.bulk(t, `[{"id":"d","importMode":"create"},{"id":"a","importMode":"create"},{"id":"e","importMode":"create"}]`, "a DeviceAlreadyExists")
	get("d")
	get("e")

	// Updates, with and without an ETag in both spellings, and the star.
	first := get("a")
	s.bulk(t, `[{"id":"a","importMode":"Update","status":"disabled"},{"id":"nobody","importMode":"update","status":"disabled"}]`, "nobody DeviceNotFound")
	second := get("a")
	if second["status"] != "disabled" || second["etag"] == first["etag"] || fmt.Sprint(second["authentication"]) != fmt.Sprint(first["authentication"]) {
		t.Errorf("updated: %v after %v", second, first)
	}
	s.bulk(t, fmt.Sprintf(`[{"etag":%q,"id":"a","importMode":"UpdateIfMatchETag","status":"enabled"}]`, first["etag"]), "a PreconditionFailed")
	s.bulk(t, fmt.Sprintf(`[{"eTag":%q,"id":"a","importMode":"updateIfMatchEtag","status":"enabled"}]`, second["etag"]))
	s.bulk(t, fmt.Sprintf(`[{"etag":"\"%s\"","id":"a","importMode":"updateIfMatchETag","status":"disabled"}]`, get("a")["etag"]))
	s.bulk(t, `[{"eTag":"*","id":"a","importMode":"updateIfMatchETag","status":"enabled"}]`)
	if d := get("a"); d["status"] != "enabled" {
		t.Errorf("updated: %v", d)
	}

	// Twins.
	s.bulk(t, `[{"id":"a","importMode":"updateTwin","tags":{"x":1}},{"id":"c","importMode":"updateTwinIfMatchETag","twinETag":"stale","tags":{"x":1}},
		{"id":"d","importMode":"updateTwinIfMatchETag","twinETag":"AAAAAAAAAAE=","properties":{"desired":{"y":1}}},{"id":"e","importMode":"update","tags":{"z":1}}]`, "c PreconditionFailed")
	for id, want := range map[string]string{"a": `{"x":1}`, "c": `{}`, "e": `{"z":1}`} {
		is(t, id, s.owner(t, 200, "GET", "/twins/"+id, "").document(t)["tags"], want)
	}

	// Either.
	s.bulk(t, `[{"id":"f","importMode":"createOrUpdate"},{"id":"e","importMode":"createOrUpdate","status":"disabled"},
		{"id":"a","importMode":"createOrUpdateIfMatchETag","eTag":"stale","status":"disabled"},{"id":"g","importMode":"createOrUpdateIfMatchETag","eTag":"x"}]`, "a PreconditionFailed")
	get("f")
	get("g")
	if get("e")["status"] != "disabled" || get("a")["status"] != "enabled" {
		t.Error("createOrUpdate did not, or where it must not")
	}

	// Deletion, in every spelling.
	s.bulk(t, fmt.Sprintf(`[{"id":"a","importMode":"Delete"},{"id":"b","importMode":"delete"},{"id":"c","importMode":"DeleteIfMatchETag","etag":"stale"},
		{"id":"d","importMode":"deleteIfMatchEtag","etag":%q},{"id":"e","importMode":"deleteIfMatchETag","eTag":"*"},{"id":"nobody","importMode":"delete"}]`, get("d")["etag"]),
		"c PreconditionFailed", "nobody DeviceNotFound")
	for _, id := range []string{"a", "b", "d", "e"} {
		gone(id)
	}
	get("c")

	t.Run("refused as a whole", func(t *testing.T) {
		many := func(n int) string {
			var rows []string
			for i := range n {
				rows = append(rows, fmt.Sprintf(`{"id":"many%d","importMode":"create"}`, i))
			}
			return "[" + strings.Join(rows, ",") + "]"
		}
		for name, test := range map[string]struct{ body, code string }{
			"101 rows":         {many(101), "ArgumentInvalid"},
			"none":             {`[]`, "ArgumentInvalid"},
			"twice":            {`[{"id":"x","importMode":"create"},{"id":"x","importMode":"update"}]`, "DeviceDefinedMultipleTimes"},
			"unknown mode":     {`[{"id":"x","importMode":"create"},{"id":"y","importMode":"merge"}]`, "ArgumentInvalid"},
			"no mode":          {`[{"id":"x"}]`, "ArgumentInvalid"},
			"no id":            {`[{"importMode":"create"}]`, "ArgumentInvalid"},
			"no ETag":          {`[{"id":"x","importMode":"updateIfMatchETag"}]`, "ArgumentInvalid"},
			"no list":          {`{"id":"x"}`, "IotHubFormatError"},
			"broken JSON":      {`[`, "IotHubFormatError"},
			"no object":        {`[1]`, "IotHubFormatError"},
			"broken key":       {`[{"id":"x","importMode":"create","authentication":{"symmetricKey":{"primaryKey":"?"}}}]`, "ArgumentInvalid"},
			"unreadable twins": {`[{"id":"x","importMode":"create","properties":1}]`, "ArgumentInvalid"},
		} {
			t.Run(name, func(t *testing.T) {
				formA(t, s.owner(t, 400, "POST", "/devices/", test.body), 400, test.code)
			})
		}
		gone("x")
		gone("many0")
		s.bulk(t, many(100))
	})
	formA(t, s.send(t, "POST", "/devices", `[{"id":"x","importMode":"create"}]`, "Authorization", s.as("registryRead")), 401, "IotHubUnauthorizedAccess")
}
