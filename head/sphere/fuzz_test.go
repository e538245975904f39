package sphere

import (
	"encoding/base64"
	"reflect"
	"strings"
	"testing"

	"github.com/vauban-iot/vauban/fault"
	"github.com/vauban-iot/vauban/internal/secret"
)

func TestFilter(t *testing.T) {
	t.Parallel()
	known := []string{"name", "on"}
	fields := func(name string) any {
		return map[string]any{"name": "It's Me", "on": true}[name]
	}
	for text, want := range map[string]bool{
		"": true, "  ": true, "name eq 'it''s me'": true, "name ne 'it''s me'": false, "properties/name eq 'x'": false, "on eq true": true, "on eq false": false,
		"on eq 'true'": true, "on eq 'x'": false, "on ne 'x'": true, "name eq true": false, "NAME eq 'It''s me' and on ne false": true, "name  eq  'x'  and  on eq true": false,
	} {
		f, err := parseFilter(text, known)
		ok(t, err)
		if got := f.passes(fields); got != want {
			t.Errorf("%q: %v", text, got)
		}
	}
	for _, text := range []string{
		"name", "name eq", "name eq ", "name eq 'x", "name eq x", "name eq 'x'and on eq true", "name eq 'x' or on eq true", "other eq 'x'", "name EQ 'x'", "name eq 'x' and", "name eq 'x' and ",
		"and name eq 'x'", strings.Repeat(" ", maxFilter+1), strings.Repeat("on eq true and ", 10) + "on eq true",
	} {
		f, err := parseFilter(text, known)
		if f != nil {
			t.Errorf("%q: %v", text, f)
		}
		isFault(t, err, fault.Invalid)
	}
}

// What is parsed is written so that it is parsed to the same.
func FuzzFilter(f *testing.F) {
	for _, s := range []string{"name eq 'it''s' and on ne true", "properties/on eq false", "name eq ''", "x", "name eq 'a' and name eq 'b'"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		parsed, err := parseFilter(s, []string{"name", "on"})
		if err != nil {
			isFault(t, err, fault.Invalid)
			if parsed != nil {
				t.Error("a filter and an error")
			}
			return
		}
		parsed.passes(func(string) any { return s })
		if len(parsed.String()) > maxFilter {
			return // fields were written with fewer letters
		}
		again, err := parseFilter(parsed.String(), []string{"name", "on"})
		if err != nil || !reflect.DeepEqual(parsed, again) {
			t.Errorf("%q became %q, then %v %v", s, parsed, again, err)
		}
	})
}

// Nothing opens but what was sealed for the same purpose and scope.
func FuzzToken(f *testing.F) {
	h := &Head{cfg: Config{Key: secret.New(make([]byte, 32))}}
	f.Add("purpose", "scope", "payload", h.seal("purpose", "scope", []byte("payload")))
	f.Add("p", "", "x", "")
	f.Add("p", "urpose", "x", "AAAAAAAAAAAAAAAAAAAAAAAAAAAA")
	f.Fuzz(func(t *testing.T, purpose, scope, payload, foreign string) {
		if payload != "" && len(payload) < maxSealed/2 {
			got, err := h.open(purpose, scope, h.seal(purpose, scope, []byte(payload)))
			if err != nil || string(got) != payload {
				t.Errorf("%q, %v", got, err)
			}
			for _, c := range [][2]string{{purpose + "x", scope}, {purpose, scope + "x"}, {purpose + scope, ""}} {
				if c == [2]string{purpose, scope} {
					continue
				}
				if _, err := h.open(c[0], c[1], h.seal(purpose, scope, []byte(payload))); err == nil {
					t.Errorf("it opens for %q", c)
				}
			}
		}
		if got, err := h.open(purpose, scope, foreign); err == nil && h.seal(purpose, scope, got) != foreign {
			t.Errorf("%q opens", foreign)
		} else if err != nil {
			isFault(t, err, fault.Invalid)
		}
	})
}

// Whatever path and query come, nobody who is not signed in gets in, and nothing panics; who is gets no answer of ours that failed inside.
func FuzzRequests(f *testing.F) {
	f.Add("GET", "/v2/tenants", "continuationToken=x", "{}")
	f.Add("PATCH", "/v2/tenants/x/devices/y", "", `{"DeviceGroupId":"z"}`)
	f.Add("GET", "/subscriptions/s/resourceGroups/g/providers/Microsoft.AzureSphere/catalogs/aaa-tenant/products", "api-version=2024-04-01&$filter=name%20eq%20'x'&$skipToken="+base64.RawURLEncoding.EncodeToString(make([]byte, 40)), "")
	f.Add("POST", "/subscriptions/s/resourceGroups/g/providers/Microsoft.AzureSphere/catalogs/aaa-tenant/products/p/deviceGroups/g/claimDevices", "api-version=2024-04-01", `{"deviceIdentifiers":["x"]}`)
	f.Add("PUT", "/subscriptions/s/resourceGroups/g/providers/Microsoft.AzureSphere/catalogs/aaa-tenant/products/aaa%20product/deviceGroups/aaa%20group/deployments/.default",
		"api-version=2024-04-01", `{"properties":{"deploymentId":"x","deployedImages":["a/b",{"id":"/c"},{"properties":{"imageId":"d"}},null]}}`)
	w := newWorld(f)
	e := w.estate("aaa")
	f.Fuzz(func(t *testing.T, method, target, query, body string) {
		if !reasonable(method, target, query) {
			return
		}
		segments := strings.Split(strings.Trim(target, "/"), "/")
		if !Owns(segments) {
			return
		}
		for _, c := range []string{"", token(e.contributor)} {
			a := w.raw(c, method, target, query, body)
			if c == "" && a.Code < 400 || a.Code >= 500 {
				t.Errorf("%s %s?%s %q: %d %s", method, target, query, body, a.Code, a.text)
			}
		}
	})
}
