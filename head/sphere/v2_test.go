package sphere

import (
	"bytes"
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/vauban-iot/vauban/access/signin"
	"github.com/vauban-iot/vauban/dps/dpstest"
	"github.com/vauban-iot/vauban/fault"
	"github.com/vauban-iot/vauban/internal/conform"
	"github.com/vauban-iot/vauban/internal/secret"
	"github.com/vauban-iot/vauban/sphere"
	"github.com/vauban-iot/vauban/sphere/tenantca"
	"github.com/vauban-iot/vauban/wire/capability"
)

func path(e estate, more string) string { return "/v2/tenants/" + e.tenant + more }

// The envelope, its pages and the array of errors (sphere §11.1).
func TestV2_Envelope(t *testing.T) {
	t.Parallel()
	conform.Covers(t, "SPH-26")
	w := newWorld(t)
	e, other := w.estate("aaa"), w.estate("bbb")
	for i := range 5 {
		w.want(201, e.contributor, "POST", path(e, "/products"), fmt.Sprintf(`{"Name":"P%d"}`, i))
	}
	var names []string
	next, tokens := "", []string{}
	for page := 0; ; page++ {
		change := func(r *http.Request) {}
		query := "?maxItems=3"
		if page%2 == 1 {
			change = func(r *http.Request) { r.Header.Set("Sphere-Continuation", next) }
		} else if next != "" {
			query += "&continuationToken=" + url.QueryEscape(next)
		}
		a := w.ask(e.reader, "GET", path(e, "/products")+query, "", change)
		m := a.json(t)
		if got := slices.Sorted(maps.Keys(m)); a.Code != 200 || !slices.Equal(got, []string{"ContinuationToken", "Items"}) {
			t.Fatalf("%d %s", a.Code, a.text)
		}
		items := m["Items"].([]any)
		if len(items) > 3 {
			t.Errorf("%d items on a page of 3", len(items))
		}
		for _, i := range items {
			names = append(names, dig(i, "Name").(string))
			for k := range i.(map[string]any) {
				if k[0] < 'A' || k[0] > 'Z' {
					t.Errorf("member %s", k)
				}
			}
		}
		if next, _ = m["ContinuationToken"].(string); next == "" {
			break
		}
		tokens = append(tokens, next)
	}
	if want := []string{"aaa empty", "aaa product", "P0", "P1", "P2", "P3", "P4"}; !cmp.Equal(names, want) || len(tokens) != 2 {
		t.Errorf("%q in %d tokens, want %q", names, len(tokens), want)
	}

	// A token is good for the list that gave it, as it is.
	good := tokens[0]
	raw, err := base64.RawURLEncoding.DecodeString(good)
	ok(t, err)
	raw[len(raw)-1] ^= 1
	for name, target := range map[string]string{
		"changed":               path(e, "/products?continuationToken=") + base64.RawURLEncoding.EncodeToString(raw),
		"of another list":       path(e, "/devicegroups?continuationToken=") + good,
		"of another tenant":     path(other, "/products?continuationToken=") + good,
		"no base64":             path(e, "/products?continuationToken=%2F"),
		"short":                 path(e, "/products?continuationToken=AAAA"),
		"long":                  path(e, "/products?continuationToken=") + strings.Repeat("A", maxSealed+1),
		"the domain's own":      path(e, "/products?continuationToken=") + base64.RawURLEncoding.EncodeToString([]byte("1:p0")),
		"a page of none":        path(e, "/products?maxItems=0"),
		"a page of too many":    path(e, "/products?maxItems=1001"),
		"a page of a word":      path(e, "/products?maxItems=x"),
		"a filter of no number": path(e, "/devices?manufacturingState=x"),
		"a filter of a number":  path(e, "/devices?manufacturingState=9"),
		"a filter of no truth":  path(e, "/devices?enabled=x"),
		"a broken query":        path(e, "/devices?a=%zz"),
		"no truth":              path(e, "/errorReport?integrated=x"),
	} {
		c := e.reader
		if strings.Contains(target, other.tenant) {
			c = other.reader
		}
		a := w.ask(c, "GET", target, "")
		var problems []problem
		if err := json.Unmarshal([]byte(a.text), &problems); err != nil || a.Code != 400 || len(problems) != 1 || problems[0].ErrorCode == "" || problems[0].Title == "" || problems[0].Details == "" {
			t.Errorf("%s: %d %s", name, a.Code, a.text)
		}
	}
	// Another server with the same key takes it; one with another key does not.
	list := path(e, "/products?continuationToken=") + good
	if a := w.askAt(w.another(people{}, w.key), e.reader, "GET", list, ""); a.Code != 200 {
		t.Errorf("another server: %d %s", a.Code, a.text)
	}
	if a := w.askAt(w.another(people{}, secret.Random(32)), e.reader, "GET", list, ""); a.Code != 400 {
		t.Errorf("another installation: %d %s", a.Code, a.text)
	}
}

func TestV2_Shapes(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	e := w.estate("aaa")
	ok(t, w.DeviceSide().RecordState(t.Context(), e.device, sphere.StateModule1Complete))
	must(w.DeviceSide().RecordAttested(t.Context(), e.device, sphere.Attested{OSVersion: "26.1", Installed: []sphere.Image{image}, Client: true}))(t)

	got := w.want(200, e.reader, "GET", path(e, "/devices/"+strings.ToUpper(e.device)), "")
	want := map[string]any{
		"DeviceId": e.device, "TenantId": e.tenant, "ProductId": e.product, "DeviceGroupId": e.group, "ChipSku": "MT3620AN", "ManufacturingState": 2.0, "Enabled": true,
		"HardwareRoot": false, "LastInstalledOSVersion": "26.1", "LastAvailableOSVersion": "26.1", "LastUpdateCheckUTC": "2026-03-10T12:00:00Z", "LastOsUpdateUTC": "2026-03-10T12:00:00Z",
		"LastAttestedUTC": "2026-03-10T12:00:00Z", "ClaimedUTC": "2026-03-10T12:00:00Z", "ClaimedBy": e.administrator.Subject, "Capabilities": []any{},
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("a device: %s", diff)
	}
	images := w.want(200, e.reader, "GET", path(e, "/devices/"+e.device+"/images"), "")
	if dig(images, "Items", 0, "ComponentId") != image.Component {
		t.Errorf("images: %v", images)
	}

	group := w.want(201, e.contributor, "POST", path(e, "/devicegroups"), `{"Name":"G","ProductId":"`+e.product+`","OsFeedType":1,"UpdatePolicy":1,"AllowCrashDumpsCollection":true,"RegionalDataBoundary":1}`)
	for k, want := range map[string]any{
		"OsFeedType": 1.0, "UpdatePolicy": 1.0, "AllowCrashDumpsCollection": true, "RegionalDataBoundary": 1.0, "TenantId": e.tenant,
	} {
		if group[k] != want {
			t.Errorf("%s is %v, want %v", k, group[k], want)
		}
	}
	deployment := map[string]any{"Id": nil, "TenantId": e.tenant, "DeployedImages": []any{}, "DeploymentDateUtc": nil}
	if diff := cmp.Diff(deployment, group["CurrentDeployment"]); diff != "" {
		t.Error(diff)
	}
	for _, body := range []string{`{"OsFeedType":2}`, `{"OsFeedType":-1}`, `{"UpdatePolicy":9}`, `{"RegionalDataBoundary":2}`, `{"OsFeedType":"Retail"}`, `[]`, ``, `{`, `{"Name":"\u0000"}`} {
		w.want(400, e.contributor, "PATCH", path(e, "/devicegroups/"+e.group), body)
	}

	// Devices of a group, of none, of a product; and how many.
	w.want(200, e.contributor, "POST", path(e, "/devices/claim"), `{"DeviceIdentifiers":["`+e.known+`"]}`)
	for query, want := range map[string]float64{
		"/devices/count": 2, "/devices/count?deviceGroupId=.unassigned": 1, "/devicegroups/.unassigned/devices/count": 1, "/devicegroups/" + e.group + "/devices/count": 1,
		"/products/" + e.product + "/devices/count": 1, "/devices/count?productId=" + e.product: 1, "/devices/count?chipSku=aaasku": 1, "/devices/count?manufacturingState=2": 1,
		"/devices/count?enabled=false": 0, "/products/" + e.empty + "/devices/count": 0,
	} {
		if n := w.want(200, e.reader, "GET", path(e, query), "")["Count"]; n != want {
			t.Errorf("%s: %v, want %v", query, n, want)
		}
		list := w.want(200, e.reader, "GET", path(e, strings.Replace(query, "/count", "", 1)), "")
		if n := len(list["Items"].([]any)); float64(n) != want {
			t.Errorf("%s: %d in the list, want %v", query, n, want)
		}
	}
	w.want(404, e.reader, "GET", path(e, "/products/"+e.group+"/devices"), "")
	w.want(404, e.reader, "GET", path(e, "/devicegroups/"+e.product+"/devices"), "")
	w.want(404, e.reader, "GET", path(e, "/products/"+e.group+"/devicegroups"), "")

	// A device moves, is finished, is disabled.
	if m := w.want(200, e.contributor, "PATCH", path(e, "/devices/"+e.device), `{"DeviceGroupId":".unassigned"}`); m["DeviceGroupId"] != nil || m["ProductId"] != nil {
		t.Errorf("unassigned: %v", m)
	}
	if m := w.want(200, e.contributor, "PATCH", path(e, "/devices/"+e.device), `{"ManufacturingState":3}`); m["ManufacturingState"] != 3.0 {
		t.Errorf("finished: %v", m)
	}
	w.want(409, e.contributor, "PATCH", path(e, "/devices/"+e.device), `{"ManufacturingState":2}`)
	w.want(400, e.contributor, "PATCH", path(e, "/devices/"+e.device), `{"ManufacturingState":2,"DeviceGroupId":"x"}`)
	w.want(400, e.contributor, "PATCH", path(e, "/devices/"+e.device), `{}`)
	w.want(404, e.contributor, "PATCH", path(e, "/devices/"+e.device), `{"DeviceGroupId":"`+e.product+`"}`)
	if m := w.want(200, e.administrator, "POST", path(e, "/devices/"+e.device+"/disable"), ""); m["Enabled"] != false {
		t.Errorf("disabled: %v", m)
	}

	// Who am I, and who are they.
	me := w.want(200, e.reader, "GET", "/v2/me", "")
	if me["UserId"] != e.reader.Subject || me["Administrator"] != false || dig(me, "Roles", 0, "TenantName") != e.name || dig(me, "Roles", 0, "RoleNames", 0) != "Reader" {
		t.Errorf("me: %v", me)
	}
	if m := w.want(200, root, "GET", "/v2/me", ""); m["Administrator"] != true || m["UserId"] != "operator" {
		t.Errorf("the administrator: %v", m)
	}
	roles := w.want(200, root, "POST", path(e, "/users/Bob@example.net/role"), `{"RoleName":"Reader"}`)
	if dig(roles, "Roles", 0, "RoleNames", 0) != "Reader" || dig(roles, "Roles", 0, "TenantId") != e.tenant {
		t.Errorf("roles: %v", roles)
	}
	w.want(200, sphere.Caller{Subject: "bob@Example.net"}, "GET", path(e, "/devices"), "")
	w.want(200, e.reader, "GET", path(e, "/users/BOB@example.net/role"), "")
	w.want(400, e.administrator, "POST", path(e, "/users/bob@example.net/role"), `{"RoleName":"Owner"}`)
	if a := w.ask(e.administrator, "DELETE", path(e, "/users/bob@example.net/role/Reader"), ""); a.Code != 204 {
		t.Errorf("%d %s", a.Code, a.text)
	}
	w.want(404, sphere.Caller{Subject: "bob@example.net"}, "GET", path(e, "/devices"), "")
	w.want(404, e.reader, "GET", path(e, "/users/bob@example.net/role"), "")
	w.want(409, e.administrator, "DELETE", path(e, "/users/"+e.administrator.Subject+"/role/Administrator"), "")

	insights := w.want(200, e.reader, "GET", path(e, "/getDeviceInsights"), "")
	if dig(insights, "Items", 0, "Description") != "aaa crashed" || dig(insights, "Items", 0, "EventCount") != 1.0 {
		t.Errorf("insights: %v", insights)
	}
}

// An ETag that does not match keeps what stands.
func TestV2_IfMatch(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	e := w.estate("aaa")
	for target, body := range map[string]string{
		"": `{"Name":"x"}`, "/products/" + e.product: `{"Name":"x"}`, "/devicegroups/" + e.spare: `{"Name":"x"}`, "/devices/" + e.device: `{"DeviceGroupId":".unassigned"}`,
	} {
		tag := w.ask(e.administrator, "GET", path(e, target), "").Header()["ETag"]
		if len(tag) != 1 {
			t.Errorf("%s has no ETag", target)
			continue
		}
		with := func(tag string) int {
			return w.ask(e.administrator, "PATCH", path(e, target), body, func(r *http.Request) { r.Header.Set("If-Match", tag) }).Code
		}
		if got := with(`"stale"`); got != 412 {
			t.Errorf("%s with a stale tag: %d", target, got)
		}
		if got := with(tag[0]); got != 200 {
			t.Errorf("%s with its tag: %d", target, got)
		}
	}
}

// A claim takes a proof, is idempotent for the owner and refused to others.
func TestV2_Claim(t *testing.T) {
	t.Parallel()
	conform.Covers(t, "SPH-15")
	w := newWorld(t)
	e, other := w.estate("aaa"), w.estate("bbb")
	c := w.want(200, e.contributor, "POST", path(e, "/claimChallenge"), "")
	if c["Challenge"] == "" || c["ExpiresInSeconds"] != 600.0 {
		t.Errorf("%v", c)
	}
	k := newKey(t)
	body := w.proofBody(e.contributor, e.tenant, k, e.group)
	m := w.want(201, e.contributor, "POST", path(e, "/devices"), body)
	if dig(m, "Device", "DeviceId") != k.id || dig(m, "Device", "DeviceGroupId") != e.group || m["Claimed"] != true {
		t.Errorf("%v", m)
	}
	w.want(400, e.contributor, "POST", path(e, "/devices"), body) // the challenge is used up
	if m := w.want(200, e.contributor, "POST", path(e, "/devices"), w.proofBody(e.contributor, e.tenant, k, "")); m["Claimed"] != false || dig(m, "Device", "DeviceGroupId") != e.group {
		t.Errorf("once more: %v", m)
	}
	w.want(409, other.contributor, "POST", path(other, "/devices"), w.proofBody(other.contributor, other.tenant, k, ""))
	// The signature of another key: the caller is signed in and told so, not sent away to sign in again.
	p := w.proof(e.contributor, e.tenant, newKey(t))
	p.PublicKey = newKey(t).der
	a := w.ask(e.contributor, "POST", path(e, "/devices"), string(must(json.Marshal(p))(t)))
	if a.Code != 403 || a.Header().Get("WWW-Authenticate") != "" {
		t.Errorf("a wrong signature: %d %v %s", a.Code, a.Header(), a.text)
	}
	if a := w.ask(e.administrator, "DELETE", path(e, "/devices/"+k.id), ""); a.Code != 405 || a.Header().Get("Allow") != "GET, PATCH" {
		t.Errorf("unclaim: %d %v", a.Code, a.Header())
	}
	// By ids: one that is reserved, one that nobody knows, and the other tenant's are told apart from nothing but the first.
	l := w.want(200, e.contributor, "POST", path(e, "/devices/claim"), `{"DeviceIdentifiers":["`+e.known+`","`+other.known+`","`+other.device+`"],"DeviceGroupId":"`+e.group+`"}`)
	claimed := 0
	for _, i := range l["Items"].([]any) {
		if dig(i, "Claimed") == true {
			claimed++
		} else if dig(i, "Error", "ErrorCode") != "NotFound" {
			t.Errorf("%v", i)
		}
	}
	if claimed != 1 {
		t.Errorf("%v", l)
	}
	w.want(400, e.contributor, "POST", path(e, "/devices/claim"), `{"DeviceIdentifiers":[]}`)

	up := w.want(200, e.administrator, "POST", path(e, "/manufactureRecords"), `{"Items":[{"PublicKey":"`+base64.StdEncoding.EncodeToString(k.der)+`","ChipSku":"X"},{"PublicKey":"AAAA"}]}`)
	if dig(up, "Items", 0, "DeviceId") != k.id || dig(up, "Items", 0, "Error") != nil || dig(up, "Items", 1, "Error", "ErrorCode") != "InvalidArgument" {
		t.Errorf("%v", up)
	}
}

// List, content, chain and proof of a tenant's CA, and its rotation.
func TestV2_Certificates(t *testing.T) {
	t.Parallel()
	conform.Covers(t, "SPH-13")
	w, relying := newWorld(t), dpstest.New(t)
	w.now = relying.Clock.Now()
	e := w.estate("aaa")
	list := w.want(200, e.reader, "GET", path(e, "/certificates"), "")["Items"].([]any)
	if len(list) != 2 || dig(list[0], "Status") != 0.0 || dig(list[0], "IsActive") != true || dig(list[1], "Status") != 1.0 || dig(list[1], "IsActive") != false || dig(list[1], "IsRevoked") != false {
		t.Fatalf("%v", list)
	}
	thumbprint := dig(list[0], "Thumbprint").(string)
	content := w.ask(e.reader, "GET", path(e, "/certificates/"+strings.ToLower(thumbprint)+"/content"), "")
	ca, err := x509.ParseCertificate(content.Body.Bytes())
	if err != nil || content.Header().Get("Content-Type") != "application/pkix-cert" || tenantca.Thumbprint(ca) != thumbprint || !ca.IsCA {
		t.Fatalf("%v %v", err, content.Header())
	}
	if b, err := base64.StdEncoding.DecodeString(dig(list[0], "Certificate").(string)); err != nil || !bytes.Equal(b, ca.Raw) {
		t.Errorf("the list has another certificate: %v", err)
	}
	chain := w.ask(e.reader, "GET", path(e, "/certificates/"+thumbprint+"/chain"), "")
	if !bytes.Contains(chain.Body.Bytes(), ca.Raw) || !bytes.Contains(chain.Body.Bytes(), w.Root().Raw) || chain.Header().Get("Content-Type") != "application/x-pkcs7-certificates" {
		t.Errorf("chain: %d %v", chain.Code, chain.Header())
	}
	// The files are what the provisioning service takes for a CA and for a proof that its key is ours.
	must(relying.PutCA(t.Context(), "tenant", string(tenantca.PEM(ca)), false, nil))(t)
	code := must(relying.VerificationCode(t.Context(), "tenant", nil))(t).Code
	proof, err := x509.ParseCertificate(w.ask(e.contributor, "POST", path(e, "/certificates/.default/proofOfPossession"), `{"ProofOfPossessionNonce":"`+code+`"}`).Body.Bytes())
	ok(t, err)
	if v, err := relying.VerifyCA(t.Context(), "tenant", string(tenantca.PEM(proof)), nil); err != nil || !v.Verified || proof.Subject.CommonName != code {
		t.Errorf("the provisioning service does not take the proof: %v", err)
	}
	w.want(400, e.contributor, "POST", path(e, "/certificates/.default/proofOfPossession"), `{}`)
	w.want(404, e.reader, "GET", path(e, "/certificates/00"), "")

	w.want(409, e.administrator, "POST", path(e, "/certificates"), "")
	next := w.want(200, e.administrator, "POST", path(e, "/certificates/"+e.successor+"/activate"), "")
	if next["IsActive"] != true || next["SerialNumber"] != e.successor {
		t.Errorf("%v", next)
	}
	old := w.want(200, e.reader, "GET", path(e, "/certificates/"+e.ca), "")
	if old["Status"] != 1.0 || old["IsActive"] != false {
		t.Errorf("the predecessor: %v", old)
	}
	w.want(201, e.administrator, "POST", path(e, "/certificates"), "")
	if m := w.want(200, e.administrator, "POST", path(e, "/certificates/"+e.ca+"/revoke"), ""); m["IsRevoked"] != true || m["Status"] != 3.0 || m["RevokedUtc"] == nil {
		t.Errorf("%v", m)
	}
}

func TestV2_Capability(t *testing.T) {
	t.Parallel()
	conform.Covers(t, "SPH-22")
	w := newWorld(t)
	e := w.estate("aaa")
	signer, err := x509.ParseCertificate(w.ask(e.reader, "GET", "/v2/capabilitySigner", "").Body.Bytes())
	ok(t, err)
	target := path(e, "/devices/"+e.device+"/capabilities")
	for body, end := range map[string]time.Time{`[11,13]`: {}, `{"Capabilities":[11],"ExpiresUtc":"2026-04-01T00:00:00Z"}`: time.Date(2026, 4, 1, 0, 0, 0, 0, time.UTC)} {
		a := w.ask(e.contributor, "POST", target, body)
		f, err := capability.Parse(a.Body.Bytes())
		if err != nil {
			t.Fatalf("%s: %d %s", body, a.Code, a.text)
		}
		check := capability.Check{Now: w.now, Signers: []*x509.Certificate{signer}}
		_, err = hex.Decode(check.DeviceID[:], []byte(e.device))
		ok(t, err)
		ok(t, f.Verify(check))
		if !f.Has(capability.AppDevelopment) || !end.IsZero() && !f.Expires.Equal(end) {
			t.Errorf("%s: %v", body, f)
		}
	}
	d := w.want(200, e.reader, "GET", path(e, "/devices/"+e.device), "")
	if l := d["Capabilities"].([]any); len(l) != 2 {
		t.Errorf("the inventory shows %v", l)
	}
	for _, body := range []string{`[]`, `[12]`, `[11,11]`, `{"Capabilities":[11],"ExpiresUtc":"2020-01-01T00:00:00Z"}`, `["appDevelopment"]`, `[-1]`, ``, `7`} {
		w.want(400, e.contributor, "POST", target, body)
	}
}

func TestV2_ErrorReport(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	e := w.estate("aaa")
	const head = "Device ID,Event Type,Event Class,Event Count,Description,Start Time (UTC),End Time (UTC)"
	all := w.ask(e.reader, "GET", path(e, "/errorReport"), "")
	if all.Code != 200 || !strings.HasPrefix(all.text, head) || !strings.Contains(all.text, "aaa crashed") || all.Header().Get("Content-Type") != "text/csv; charset=utf-8" {
		t.Errorf("%d %v %s", all.Code, all.Header(), all.text)
	}
	if a := w.ask(e.reader, "GET", path(e, "/errorReport?integrated=true"), ""); !strings.Contains(a.text, "Event Category") {
		t.Errorf("integrated: %s", a.text)
	}
	if a := w.ask(e.reader, "GET", path(e, "/devicegroups/"+e.group+"/errorReport"), ""); !strings.Contains(a.text, "aaa crashed") {
		t.Errorf("of the group: %s", a.text)
	}
	if a := w.ask(e.reader, "GET", path(e, "/devicegroups/"+e.spare+"/errorReport"), ""); a.Code != 200 || strings.Contains(a.text, "aaa crashed") {
		t.Errorf("of another group: %s", a.text)
	}
	w.want(404, e.reader, "GET", path(e, "/devicegroups/"+e.product+"/errorReport"), "")
}

// Who is signed in, who not, and what happens while nobody knows.
func TestAuthentication(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	e := w.estate("aaa")
	a := w.ask(sphere.Caller{}, "GET", "/v2/tenants", "")
	if got := a.Header().Get("WWW-Authenticate"); got != `Bearer realm="sphere"` || a.json(t)["ErrorCode"] != "Unauthorized" {
		t.Errorf("%s %s", got, a.text)
	}
	for name, s := range map[string]people{"expired": {signin.ErrExpired}, "revoked": {signin.ErrRevoked}, "unknown": {signin.ErrToken}} {
		a := w.askAt(w.another(s, w.key), e.reader, "GET", "/v2/tenants", "")
		if got := a.Header().Get("WWW-Authenticate"); a.Code != 401 || got != `Bearer realm="sphere", error="invalid_token"` {
			t.Errorf("%s: %d %s", name, a.Code, got)
		}
	}
	// What cannot be known now is no reason to sign in again: clients try again (sphere §11.1).
	a = w.askAt(w.another(people{fault.New(fault.Unavailable, "away")}, w.key), e.reader, "GET", "/v2/tenants", "")
	if a.Code != 500 || a.Header().Get("Retry-After") == "" || a.json(t)["ErrorCode"] != "Unavailable" {
		t.Errorf("%d %v %s", a.Code, a.Header(), a.text)
	}
	for _, mail := range []string{"", "operator", "OPERATOR"} {
		r := w.ask(sphere.Caller{}, "GET", "/v2/tenants", "", func(r *http.Request) { r.Header.Set("Authorization", "Bearer of-"+mail) })
		if r.Code != 401 {
			t.Errorf("a token of %q: %d", mail, r.Code)
		}
	}
	if a := w.ask(sphere.Caller{}, "GET", "/v2/tenants", "", func(r *http.Request) { r.Header.Set("Authorization", "bEaReR  "+admin) }); a.Code != 200 {
		t.Errorf("%d %s", a.Code, a.text)
	}
	for name, cfg := range map[string]Config{
		"no service": {SignIn: people{}, Key: w.key}, "no sign-in": {Service: w.Service, Key: w.key}, "a short key": {Service: w.Service, SignIn: people{}, Key: secret.New([]byte("short"))},
	} {
		if _, err := New(cfg); err == nil {
			t.Errorf("%s: a head", name)
		}
	}
}

// Changes are in the audit with who made them and from where; reads are not, and no token ever.
func TestAudit(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	e := w.estate("aaa")
	w.log.Reset()
	w.want(201, e.contributor, "POST", path(e, "/products"), `{"Name":"Audited"}`)
	w.want(403, e.reader, "POST", path(e, "/products"), `{"Name":"Refused"}`)
	w.want(401, sphere.Caller{}, "POST", path(e, "/products"), `{"Name":"Nobody"}`)
	w.want(200, e.reader, "GET", path(e, "/products"), "")
	w.want(200, e.reader, "POST", armPath(e, "/listDevices"), "")
	var got []string
	for line := range bytes.Lines(w.log.Bytes()) {
		var r map[string]any
		ok(t, json.Unmarshal(line, &r))
		if r["audit"] == true {
			got = append(got, fmt.Sprint(r["who"], " ", r["what"], " ", r["outcome"], " ", r["status"]))
			if r["from"] == "" || r["target"] == "" {
				t.Errorf("%v", r)
			}
		}
	}
	const what = " POST /v2/tenants/{tenant}/products "
	if want := []string{e.contributor.Subject + what + "done 201", e.reader.Subject + what + "refused 403"}; !slices.Equal(got, want) {
		t.Errorf("%q, want %q", got, want)
	}
	if strings.Contains(w.log.String(), "of-") {
		t.Errorf("a token is logged: %s", w.log)
	}
}

func TestLimitsOfBodies(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	e := w.estate("aaa")
	for _, table := range [][]route{v2, armRoutes} {
		for i := range table {
			rt := &table[i]
			s := calls(e)[rt.method+" "+rt.path]
			if (s.body != "" || s.make != nil) && rt.limit == 0 {
				t.Errorf("%s reads no body", rt.operation())
			}
			if rt.limit == 0 {
				continue
			}
			c := e.administrator
			if rt.plus == only {
				c = root
			}
			if a := w.ask(c, rt.method, target(rt, e.tenant, e.name, e, s), `{"x":"`+strings.Repeat("x", int(rt.limit))+`"}`); a.Code != 413 {
				t.Errorf("%s: %d %s", rt.operation(), a.Code, a.text)
			}
		}
	}
}

// What is not there, and what is there for other methods.
func TestPaths(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	for target, want := range map[string]int{"/v2": 404, "/v2/": 404, "/v2/nothing": 404, "/v2/tenants//devices": 404, "/v2/TENANTS": 200, "/v2/tenants/": 200, "/subscriptions/x": 404} {
		if a := w.ask(root, "GET", target, ""); a.Code != want {
			t.Errorf("%s: %d, want %d", target, a.Code, want)
		}
	}
	if a := w.ask(root, "PUT", "/v2/tenants", ""); a.Code != 405 || a.Header().Get("Allow") != "GET, POST" || a.json(t)["ErrorCode"] != "MethodNotAllowed" {
		t.Errorf("%d %v %s", a.Code, a.Header(), a.text)
	}
	for path, want := range map[string]bool{
		"": false, "v2": true, "V2/tenants": true, "devices": false, "jobs/v2": false, "subscriptions": false, "subscriptions/s/resourceGroups/g/providers/Microsoft.Devices/x": false,
		"subscriptions/s/resourceGroups/g/providers/microsoft.azuresphere/catalogs": true, "subscriptions/s/providers/Microsoft.AzureSphere/catalogs": true,
	} {
		var segments []string
		if path != "" {
			segments = strings.Split(path, "/")
		}
		if Owns(segments) != want {
			t.Errorf("%q: %v", path, !want)
		}
	}
}

// Every kind of failure has an answer in both families, and says nothing more than it may.
func TestAnswers(t *testing.T) {
	t.Parallel()
	for _, k := range fault.Kinds() {
		a, there := answers[k]
		if !there || a.status < 400 || a.code == "" || a.title == "" {
			t.Errorf("%s: %v", k, a)
		}
		passes := k == fault.Throttled || k == fault.QueueFull || k == fault.Unavailable || k == fault.Timeout
		if passes && a.status != 429 && a.status != 500 {
			t.Errorf("%s passes and is %d: clients do not send that again", k, a.status)
		}
	}
	if p := problemOf(errors.New("secret of the database")); p.ErrorCode != "InternalError" || strings.Contains(p.Details, "secret") {
		t.Errorf("%v", p)
	}
	if problemOf(nil) != nil {
		t.Error("a problem of none")
	}
}

func TestReleases(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	e := w.estate("aaa")
	app := `{"Kind":1,"OsFeedType":0,"Version":"1.0","Images":[{"ComponentId":"00000000-0000-4000-8000-000000000009","ImageId":"00000000-0000-4000-9000-000000000009","Sha256":"` + hex.EncodeToString(make([]byte, sha256.Size)) + `"}]}`
	if m := w.want(201, e.contributor, "POST", path(e, "/releases"), app); m["Kind"] != 1.0 || m["TenantId"] != e.tenant {
		t.Errorf("%v", m)
	}
	if m := w.want(201, root, "POST", "/v2/releases", app); m["TenantId"] != nil {
		t.Errorf("%v", m)
	}
	if m := w.want(200, e.reader, "GET", "/v2/releases", ""); len(m["Items"].([]any)) != 1 {
		t.Errorf("%v", m)
	}
	w.want(400, e.contributor, "POST", path(e, "/releases"), `{"Version":"1.0"}`)
	w.want(400, e.contributor, "POST", path(e, "/releases"), `{"Kind":2}`)
	w.want(400, e.administrator, "PUT", path(e, "/minimums"), `{"Version":"1.0"}`)
	if m := w.want(200, e.administrator, "PUT", path(e, "/minimums"), `{"OsFeedType":1,"Version":"26.2","FromUtc":"2026-05-01T00:00:00Z"}`); m["FromUtc"] != "2026-05-01T00:00:00Z" || m["OsFeedType"] != 1.0 {
		t.Errorf("%v", m)
	}
	if a := w.ask(e.administrator, "POST", path(e, "/releases/withdraw"), `{"Kind":1,"Version":"1.0"}`); a.Code != 204 {
		t.Errorf("%d %s", a.Code, a.text)
	}
}
