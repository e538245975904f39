package provisioning_test

import (
	"bytes"
	"crypto/tls"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/vauban-iot/vauban/access"
	"github.com/vauban-iot/vauban/dps/dpstest"
	"github.com/vauban-iot/vauban/head/provisioning"
	"github.com/vauban-iot/vauban/internal/conform"
	"github.com/vauban-iot/vauban/internal/secret"
	"github.com/vauban-iot/vauban/wire/sas"
)

const host = "dps.example.net"

// server is the head behind TLS with a service on a real store.
type server struct {
	*dpstest.World
	*httptest.Server
	log    *safeBuffer
	policy access.Policy
}

type safeBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (s *safeBuffer) Write(p []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.b.Write(p)
}

func (s *safeBuffer) take() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	defer s.b.Reset()
	return s.b.String()
}

func serve(t testing.TB, more ...access.Policy) *server {
	t.Helper()
	s := &server{World: dpstest.New(t), log: &safeBuffer{}}
	policies := append(access.ProvisioningPolicies(), more...)
	s.policy = policies[0]
	h, err := provisioning.New(provisioning.Config{
		Service: s.World.Service, Guard: access.NewGuard([]string{host}, policies, s.Clock.Now),
		Logger: slog.New(slog.NewTextHandler(s.log, nil)),
	})
	if err != nil {
		t.Fatal(err)
	}
	s.Server = httptest.NewUnstartedServer(h)
	s.TLS = &tls.Config{ClientAuth: tls.RequestClientCert}
	s.StartTLS()
	t.Cleanup(s.Server.Close)
	return s
}

// answer is a response with its body.
type answer struct {
	*http.Response
	body []byte
}

func (a answer) document(t testing.TB) map[string]any {
	t.Helper()
	var m map[string]any
	if err := json.Unmarshal(a.body, &m); err != nil {
		t.Fatalf("status %d, body %q: %v", a.StatusCode, a.body, err)
	}
	return m
}

// do sends a request; headers are pairs.
func (s *server) do(t testing.TB, method, path, body string, headers ...string) answer {
	t.Helper()
	return s.with(t, s.Client(), method, path, body, headers...)
}

func (s *server) with(t testing.TB, client *http.Client, method, path, body string, headers ...string) answer {
	t.Helper()
	if !strings.Contains(path, "?") {
		path += "?api-version=2021-10-01"
	}
	var r io.Reader
	if body != "" {
		r = strings.NewReader(body)
	}
	req, err := http.NewRequestWithContext(t.Context(), method, s.URL+path, r)
	if err != nil {
		t.Fatal(err)
	}
	for i := 0; i < len(headers); i += 2 {
		req.Header.Set(headers[i], headers[i+1])
	}
	resp, err := client.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return answer{resp, b}
}

func (s *server) token(p access.Policy) string {
	return sas.Sign(host, p.Primary.Reveal(), s.Clock.Now().Add(time.Hour), p.Name)
}

// admin sends a request as the owner and wants status.
func (s *server) admin(t testing.TB, status int, method, path, body string, headers ...string) answer {
	t.Helper()
	a := s.do(t, method, path, body, append([]string{"Authorization", s.token(s.policy)}, headers...)...)
	if a.StatusCode != status {
		t.Fatalf("%s %s: status %d %s, want %d", method, path, a.StatusCode, a.body, status)
	}
	return a
}

func (s *server) device(id string, key []byte) string {
	return sas.Sign(dpstest.Scope+"/registrations/"+id, key, s.Clock.Now().Add(time.Hour), "registration")
}

var key = bytes.Repeat([]byte("k"), 32)

func symmetric(more string) string {
	return fmt.Sprintf(`{"attestation":{"type":"symmetricKey","symmetricKey":{"primaryKey":%q}}%s}`, base64.StdEncoding.EncodeToString(key), more)
}

const devicePath = "/" + dpstest.Scope + "/registrations/"

func TestDevice_Token(t *testing.T) {
	conform.Covers(t, "DPS-15")
	s := serve(t)
	s.admin(t, 200, "PUT", "/enrollments/d1", symmetric(""))
	auth := []string{"Authorization", s.device("d1", key), "Content-Type", "application/json; charset=utf-8", "Content-Encoding", "utf-8"}

	r := s.do(t, "PUT", devicePath+"d1/register?api-version=2019-03-31&forceRegistration=true", `{"registrationId":"d1"}`, auth...)
	op, _ := r.document(t)["operationId"].(string)
	if r.StatusCode != 202 || op == "" || r.Header.Get("Retry-After") != "1" {
		t.Fatalf("register: %d, retry-after %q, %s", r.StatusCode, r.Header.Get("Retry-After"), r.body)
	}
	want := s.URL + devicePath + "d1/operations/" + op + "?api-version=2019-03-31"
	if got := r.Header.Get("Location"); got != want {
		t.Errorf("Location %q, want %q", got, want)
	}
	// As N-HTTP sends it, with a body, and with IoT Edge's lower-case scope.
	g := s.do(t, "GET", "/"+strings.ToLower(dpstest.Scope)+"/registrations/D1/operations/"+op, `{}`, auth...)
	state, _ := g.document(t)["registrationState"].(map[string]any)
	if g.StatusCode != 200 || state["assignedHub"] != dpstest.Host || state["deviceId"] != "d1" || g.Header.Get("Retry-After") != "" {
		t.Errorf("status: %d %s", g.StatusCode, g.body)
	}
	l := s.do(t, "POST", devicePath+"d1", `{"registrationId":"d1"}`, auth...)
	if l.StatusCode != 200 || l.document(t)["assignedHub"] != dpstest.Host {
		t.Errorf("lookup: %d %s", l.StatusCode, l.body)
	}
	if a := s.do(t, "POST", devicePath+"d1", `{"csr":"MII="}`, auth...); a.StatusCode != 400 {
		t.Errorf("lookup with a signing request: %d, want 400", a.StatusCode)
	}
}

func TestDevice_Certificate(t *testing.T) {
	s := serve(t)
	root := dpstest.NewCA(t, "root")
	mid := root.CA(t, "mid")
	body, _ := json.Marshal(map[string]any{"attestation": map[string]any{"type": "x509", "x509": map[string]any{
		"signingCertificates": map[string]any{"primary": map[string]any{"certificate": root.PEM()}},
	}}})
	s.admin(t, 200, "PUT", "/enrollmentGroups/line", string(body))
	client := func(c tls.Certificate) *http.Client {
		tr := s.Client().Transport.(*http.Transport).Clone()
		tr.TLSClientConfig.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return &c, nil }
		t.Cleanup(tr.CloseIdleConnections)
		return &http.Client{Transport: tr}
	}
	leaf := mid.Leaf(t, "d1", nil)
	if a := s.with(t, client(leaf.TLS(0)), "PUT", devicePath+"d1/register", ""); a.StatusCode != 401 {
		t.Errorf("without the intermediate: %d, want 401", a.StatusCode)
	}
	mine := client(leaf.TLS(1))
	r := s.with(t, mine, "PUT", devicePath+"d1/register", "")
	op, _ := r.document(t)["operationId"].(string)
	g := s.with(t, mine, "GET", devicePath+"d1/operations/"+op, "")
	state, _ := g.document(t)["registrationState"].(map[string]any)
	if r.StatusCode != 202 || g.StatusCode != 200 || state["deviceId"] != "d1" {
		t.Errorf("register %d, status %d %s", r.StatusCode, g.StatusCode, g.body)
	}
	if a := s.with(t, mine, "PUT", devicePath+"d2/register", ""); a.StatusCode != 401 {
		t.Errorf("as another device: %d, want 401", a.StatusCode)
	}
	if d, _ := s.Hub.Device("d1"); d.AuthType != "certificateAuthority" {
		t.Errorf("the hub knows %+v", d)
	}
}

func TestDevice_Refusals(t *testing.T) {
	conform.Covers(t, "DPS-14")
	s := serve(t)
	s.admin(t, 200, "PUT", "/enrollments/d1", symmetric(""))
	s.admin(t, 200, "PUT", "/enrollments/d2", symmetric(`,"provisioningStatus":"disabled"`))
	mine := s.device("d1", key)
	tests := []struct {
		name, method, path, auth, body string
		status                         int
	}{
		{"no credentials", "PUT", devicePath + "d1/register", "", "", 401},
		{"a TPM device's first try", "PUT", devicePath + "d1/register", "", `{"tpm":{"endorsementKey":"AA=="}}`, 401},
		{"wrong key", "PUT", devicePath + "d1/register", s.device("d1", []byte("wrong")), "", 401},
		{"unknown device", "PUT", devicePath + "d9/register", s.device("d9", key), "", 401},
		{"disabled", "PUT", devicePath + "d2/register", s.device("d2", key), "", 401},
		{"unknown scope", "PUT", "/0neOther/registrations/d1/register", mine, "", 401},
		{"no version", "PUT", devicePath + "d1/register?", mine, "", 400},
		{"odd version", "PUT", devicePath + "d1/register?api-version=new", mine, "", 400},
		{"another id", "PUT", devicePath + "d1/register", mine, `{"registrationId":"d2"}`, 400},
		{"broken body", "PUT", devicePath + "d1/register", mine, `{`, 400},
		{"large body", "PUT", devicePath + "d1/register", mine, strings.Repeat(" ", 97<<10), 413},
		{"unknown operation", "GET", devicePath + "d1/operations/4.1.1", mine, "", 404},
		{"not registered", "POST", devicePath + "d1", mine, "", 404},
		{"no such path", "GET", devicePath + "d1/other", mine, "", 404},
		{"wrong method", "GET", devicePath + "d1/register", mine, "", 405},
	}
	bodies := map[string]bool{}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			s.log.take()
			var headers []string
			if test.auth != "" {
				headers = []string{"Authorization", test.auth}
			}
			a := s.do(t, test.method, test.path, test.body, headers...)
			d := a.document(t)
			code, _ := d["errorCode"].(float64)
			if a.StatusCode != test.status || int(code)/1000 != test.status || a.Header.Get("x-ms-error-code") != fmt.Sprint(code) {
				t.Errorf("status %d, code %v, header %q; want %d", a.StatusCode, d["errorCode"], a.Header.Get("x-ms-error-code"), test.status)
			}
			if id, _ := d["trackingId"].(string); len(id) != 36 || d["message"] == "" || d["timestampUtc"] == nil {
				t.Errorf("body %s", a.body)
			}
			if d["status"] != nil { // the C client takes it for a TPM challenge's absence
				t.Error("an error body has a status")
			}
			if test.status == 401 {
				bodies[fmt.Sprint(d["message"], code)] = true
			}
			log := s.log.take()
			if strings.Count(log, "\n") != 1 || strings.Contains(log, "sig=") || !strings.Contains(log, fmt.Sprint(d["trackingId"])) {
				t.Errorf("log: %s", log)
			}
		})
	}
	if len(bodies) != 1 {
		t.Errorf("refusals tell enrollments apart: %v", bodies)
	}
}

func TestService_Operations(t *testing.T) {
	conform.Covers(t, "DPS-28", "DPS-30")
	for _, kind := range []struct{ path, lower, id, list string }{
		{"/enrollments/", "/enrollments/", "registrationId", "enrollments"},
		{"/enrollmentGroups/", "/enrollmentgroups/", "enrollmentGroupId", "enrollmentGroups"},
	} {
		t.Run(kind.list, func(t *testing.T) {
			s := serve(t)
			s.admin(t, 404, "GET", kind.path+"e1", "")
			s.admin(t, 404, "DELETE", kind.path+"e1", "")
			s.admin(t, 404, "POST", kind.path+"e1/attestationmechanism", "")
			s.admin(t, 412, "PUT", kind.path+"e1", symmetric(""), "If-Match", "old")
			first := s.admin(t, 200, "PUT", kind.path+"e1", symmetric(`,"`+kind.id+`":"E1"`))
			d := first.document(t)
			tag, _ := d["etag"].(string)
			if d[kind.id] != "E1" || tag == "" || first.Header.Get("ETag") != `"`+tag+`"` || d["provisioningStatus"] != "enabled" ||
				d["createdDateTimeUtc"] == nil || d["allocationPolicy"] != "hashed" {
				t.Errorf("created: %s", first.body)
			}
			// Keys: never in a read, only in the attestation mechanism.
			got := s.admin(t, 200, "GET", kind.path+"e1/", "")
			list := s.admin(t, 200, "POST", kind.path+"query", `{"query":"SELECT *"}`)
			for _, a := range []answer{first, got, list} {
				if bytes.Contains(a.body, []byte("primaryKey")) || !bytes.Contains(a.body, []byte(`"attestation":{"type":"symmetricKey"}`)) {
					t.Errorf("a read holds keys: %s", a.body)
				}
			}
			for _, path := range []string{kind.path, kind.lower} {
				m := s.admin(t, 200, "POST", path+"E1/attestationmechanism", "").document(t)
				keys, _ := m["symmetricKey"].(map[string]any)
				secondary, err := secret.FromBase64(fmt.Sprint(keys["secondaryKey"]))
				if m["type"] != "symmetricKey" || keys["primaryKey"] != base64.StdEncoding.EncodeToString(key) || err != nil || len(secondary.Reveal()) != 64 {
					t.Errorf("keys %v, want the given primary and a made secondary of 64 bytes", m)
				}
			}
			// Updates: by tag, quoted or not; unconditional without; keys and creation time stay.
			before := s.admin(t, 200, "POST", kind.path+"e1/attestationmechanism", "").body
			s.Clock.Add(time.Minute)
			s.admin(t, 412, "PUT", kind.path+"e1", symmetric(""), "If-Match", `"other"`)
			second := s.admin(t, 200, "PUT", kind.path+"e1", string(got.body), "If-Match", tag).document(t)
			if second["createdDateTimeUtc"] != d["createdDateTimeUtc"] || second["lastUpdatedDateTimeUtc"] == d["lastUpdatedDateTimeUtc"] || second["etag"] == tag {
				t.Errorf("updated: %v", second)
			}
			if after := s.admin(t, 200, "POST", kind.path+"e1/attestationmechanism", "").body; !bytes.Equal(before, after) {
				t.Errorf("an update without keys changed them: %s, then %s", before, after)
			}
			third := s.admin(t, 200, "PUT", kind.path+"e1", symmetric(""), "If-Match", fmt.Sprintf("%q", second["etag"])).document(t)
			s.admin(t, 200, "PUT", kind.path+"e1", symmetric(""), "If-Match", "*")
			s.admin(t, 412, "DELETE", kind.path+"e1", "", "If-Match", fmt.Sprint(third["etag"]))
			if a := s.admin(t, 204, "DELETE", kind.path+"E1", ""); len(a.body) != 0 {
				t.Errorf("204 with the body %s", a.body)
			}
			s.admin(t, 404, "GET", kind.path+"e1", "")
			s.admin(t, 405, "PATCH", kind.path+"e1", "")

			// Bulk: rows fail one by one.
			bulk := func(mode, rows string) (bool, []any) {
				d := s.admin(t, 200, "POST", kind.lower, `{"mode":"`+mode+`","`+kind.list+`":[`+rows+`]}`).document(t)
				errors, _ := d["errors"].([]any)
				return d["isSuccessful"] == true, errors
			}
			row := func(id, more string) string {
				return strings.TrimSuffix(symmetric(more), "}") + `,"` + kind.id + `":"` + id + `"}`
			}
			if ok, errs := bulk("create", row("b1", "")+","+row("b2", "")); !ok || len(errs) != 0 {
				t.Errorf("create: %v", errs)
			}
			ok, errs := bulk("create", row("b2", "")+","+row("b3", ""))
			if e, _ := errs[0].(map[string]any); ok || len(errs) != 1 || e[kind.id] != "b2" || e["errorCode"] != 409001.0 || e["errorStatus"] == "" {
				t.Errorf("create an existing one: %v", errs)
			}
			s.admin(t, 200, "GET", kind.path+"b3", "")
			if _, errs = bulk("update", row("b1", "")+","+row("b9", "")); len(errs) != 1 {
				t.Errorf("update: %v", errs)
			}
			tag, _ = s.admin(t, 200, "GET", kind.path+"b1", "").document(t)["etag"].(string)
			if _, errs = bulk("updateIfMatchEtag", row("b1", `,"etag":"`+tag+`"`)+","+row("b2", `,"etag":"x"`)+","+row("b3", "")); len(errs) != 2 {
				t.Errorf("updateIfMatchEtag: %v", errs)
			}
			if _, errs = bulk("delete", `{"`+kind.id+`":"b1"},{"`+kind.id+`":"b9"}`); len(errs) != 1 {
				t.Errorf("delete: %v", errs)
			}
			s.admin(t, 404, "GET", kind.path+"b1", "")
			s.admin(t, 400, "POST", kind.path, `{"mode":"merge","`+kind.list+`":[`+row("b1", "")+`]}`)
			s.admin(t, 400, "POST", kind.path, `{"mode":"create","`+kind.list+`":[`+strings.Repeat(row("b1", "")+",", 10)+row("b1", "")+`]}`)
			s.admin(t, 400, "POST", kind.path, `{"mode":"create"}`)
		})
	}
	t.Run("registrations", func(t *testing.T) {
		s := serve(t)
		s.admin(t, 404, "GET", "/registrations/d1", "")
		s.admin(t, 404, "DELETE", "/registrations/d1", "")
		s.admin(t, 200, "PUT", "/enrollmentGroups/g", symmetric(""))
		own := sas.DeriveKey(key, "d1")
		if a := s.do(t, "PUT", devicePath+"d1/register", "", "Authorization", s.device("d1", own)); a.StatusCode != 202 {
			t.Fatalf("register: %d %s", a.StatusCode, a.body)
		}
		d := s.admin(t, 200, "GET", "/Registrations/D1", "").document(t)
		if d["registrationId"] != "d1" || d["status"] != "assigned" || d["assignedHub"] != dpstest.Host || d["etag"] == nil {
			t.Errorf("record %v", d)
		}
		var rows []map[string]any
		for _, body := range []string{"", `{"query":"select *"}`} {
			if err := json.Unmarshal(s.admin(t, 200, "POST", "/registrations/G/query", body).body, &rows); err != nil || len(rows) != 1 || rows[0]["registrationId"] != "d1" {
				t.Errorf("query %q: %v, %v", body, rows, err)
			}
		}
		s.admin(t, 412, "DELETE", "/registrations/d1", "", "If-Match", "x")
		s.admin(t, 204, "DELETE", "/registrations/d1", "", "If-Match", fmt.Sprint(d["etag"]))
		s.admin(t, 404, "GET", "/registrations/d1", "")
	})
	t.Run("one CA in two groups", func(t *testing.T) {
		s := serve(t)
		ca := dpstest.NewCA(t, "ca")
		body := fmt.Sprintf(`{"attestation":{"type":"x509","x509":{"signingCertificates":{"primary":{"certificate":%q}}}}}`, base64.StdEncoding.EncodeToString(ca.Raw))
		created := s.admin(t, 200, "PUT", "/enrollmentGroups/g1", body)
		s.admin(t, 409, "PUT", "/enrollmentGroups/g2", body)
		s.admin(t, 200, "PUT", "/enrollmentGroups/g1", body)
		got := s.admin(t, 200, "GET", "/enrollmentGroups/g1", "")
		if bytes.Contains(got.body, []byte(`"certificate"`)) || !bytes.Contains(got.body, []byte(`"subjectName":"CN=ca"`)) {
			t.Errorf("read: %s", got.body)
		}
		s.admin(t, 200, "PUT", "/enrollmentGroups/g1", string(created.body)) // what was read, written back
		if a := s.admin(t, 200, "POST", "/enrollmentGroups/g1/attestationmechanism", ""); !bytes.Contains(a.body, []byte("sha256Thumbprint")) {
			t.Errorf("attestation: %s", a.body)
		}
	})
}

func TestService_RefusedEnrollments(t *testing.T) {
	s := serve(t)
	ca, leaf := dpstest.NewCA(t, "ca"), dpstest.SelfSigned(t, "d1")
	x509 := func(member, certificate string) string {
		return fmt.Sprintf(`{"attestation":{"type":"x509","x509":{%q:{"primary":{"certificate":%q}}}}}`, member, certificate)
	}
	for _, test := range []struct{ name, path, body, message string }{
		{"TPM of a group", "/enrollmentGroups/g", `{"attestation":{"type":"tpm","tpm":{"endorsementKey":"AA=="}}}`, "group"},
		{"TPM without a key", "/enrollments/d1", `{"attestation":{"type":"tpm","tpm":{}}}`, "endorsementKey is missing"},
		{"TPM with a key that is no base64", "/enrollments/d1", `{"attestation":{"type":"tpm","tpm":{"endorsementKey":"?"}}}`, "not base64"},
		{"TPM with a broken key", "/enrollments/d1", `{"attestation":{"type":"tpm","tpm":{"endorsementKey":"AA=="}}}`, "TPM2B_PUBLIC"},
		{"none", "/enrollments/d1", `{"attestation":{"type":"none"}}`, "not supported"},
		{"no attestation", "/enrollments/d1", `{}`, "attestation"},
		{"no type", "/enrollments/d1", `{"attestation":{}}`, "attestation.type"},
		{"CA references", "/enrollmentGroups/g", `{"attestation":{"type":"x509","x509":{"caReferences":{"primary":"ca"}}}}`, "upload it first"},
		{"CA references of a device", "/enrollments/d1", `{"attestation":{"type":"x509","x509":{"caReferences":{"primary":"ca"}}}}`, "for groups"},
		{"empty CA references", "/enrollmentGroups/g", `{"attestation":{"type":"x509","x509":{"caReferences":{}}}}`, "caReferences"},
		{"CA references beside certificates", "/enrollmentGroups/g", fmt.Sprintf(`{"attestation":{"type":"x509","x509":{"caReferences":{"primary":"ca"},"signingCertificates":{"primary":{"certificate":%q}}}}}`, ca.PEM()), "either"},
		{"custom allocation without a webhook", "/enrollments/d1", symmetric(`,"allocationPolicy":"custom"`), "webhookUrl"},
		{"webhook without TLS", "/enrollments/d1", symmetric(`,"allocationPolicy":"custom","customAllocationDefinition":{"webhookUrl":"http://example.net/"}`), "https://"},
		{"webhook with a password", "/enrollments/d1", symmetric(`,"customAllocationDefinition":{"webhookUrl":"https://a:b@example.net/"}`), "https://"},
		{"unknown allocation", "/enrollments/d1", symmetric(`,"allocationPolicy":"random"`), "allocationPolicy"},
		{"foreign hub", "/enrollments/d1", symmetric(`,"iotHubHostName":"other.example.net"`), "not linked"},
		{"foreign hub in the list", "/enrollments/d1", symmetric(`,"iotHubs":["` + dpstest.Host + `","other"]`), "not linked"},
		{"certificate issuance", "/enrollments/d1", symmetric(`,"credentialPolicyName":"p"`), "credentialPolicyName"},
		{"another id", "/enrollments/d1", symmetric(`,"registrationId":"d2"`), "registrationId"},
		{"bad id", "/enrollments/d%201", symmetric(""), "registrationId"},
		{"id that ends in a dot", "/enrollmentGroups/d.", symmetric(""), "enrollmentGroupId"},
		{"bad device id", "/enrollments/d1", symmetric(`,"deviceId":"a/b"`), "deviceId"},
		{"status", "/enrollments/d1", symmetric(`,"provisioningStatus":"on"`), "provisioningStatus"},
		{"twin", "/enrollments/d1", symmetric(`,"initialTwin":{"tags":[1]}`), "tags"},
		{"short key", "/enrollments/d1", `{"attestation":{"type":"symmetricKey","symmetricKey":{"primaryKey":"c2hvcnQ="}}}`, "16 to 64"},
		{"key that is no base64", "/enrollments/d1", `{"attestation":{"type":"symmetricKey","symmetricKey":{"primaryKey":"?"}}}`, "base64"},
		{"leaf for a group", "/enrollmentGroups/g", x509("signingCertificates", leaf.PEM()), "no CA"},
		{"client certificate for a group", "/enrollmentGroups/g", x509("clientCertificates", ca.PEM()), "signingCertificates"},
		{"signing certificate for a device", "/enrollments/d1", x509("signingCertificates", ca.PEM()), "clientCertificates"},
		{"broken certificate", "/enrollments/d1", x509("clientCertificates", "MIIB"), "certificate"},
		{"two certificates in one", "/enrollmentGroups/g", x509("signingCertificates", ca.PEM()+dpstest.NewCA(t, "b").PEM()), "one certificate"},
		{"no JSON", "/enrollments/d1", `{`, "JSON"},
	} {
		t.Run(test.name, func(t *testing.T) {
			d := s.admin(t, 400, "PUT", test.path, test.body).document(t)
			if m, _ := d["message"].(string); !strings.Contains(m, test.message) {
				t.Errorf("message %q, want it to name %q", m, test.message)
			}
		})
	}
	s.admin(t, 200, "PUT", "/enrollments/d1", symmetric(`,"allocationPolicy":"geoLatency","iotHubHostName":"`+strings.ToUpper(dpstest.Host)+`","iotHubs":null,"initialTwin":null`))
	s.admin(t, 400, "POST", "/enrollments/query", `{"query":"SELECT * WHERE deviceId = 'a'"}`)
	s.admin(t, 400, "POST", "/enrollments/query", `{"query":"SELECT *"}`, "x-ms-max-item-count", "many")
	s.admin(t, 400, "POST", "/enrollments/query", `{"query":"SELECT *"}`, "x-ms-continuation", "?")
	s.admin(t, 400, "GET", "/enrollments/d1?", "")
}

func TestService_Paging(t *testing.T) {
	conform.Covers(t, "DPS-29")
	s := serve(t)
	names := []string{"a", "B", "c", "D"}
	for _, n := range names {
		s.admin(t, 200, "PUT", "/enrollments/"+n, symmetric(""))
	}
	for _, size := range []int{1, 2, 3, 4, 5} {
		var got []string
		for next, pages := "", 0; ; pages++ {
			headers := []string{"x-ms-max-item-count", fmt.Sprint(size)}
			if next != "" {
				headers = append(headers, "x-ms-continuation", next)
			}
			a := s.admin(t, 200, "POST", "/enrollments/query", `{"query":"SELECT *"}`, headers...)
			var rows []map[string]any
			if err := json.Unmarshal(a.body, &rows); err != nil || len(rows) > size || len(rows) == 0 {
				t.Fatalf("pages of %d: %s: %v", size, a.body, err)
			}
			for _, r := range rows {
				got = append(got, fmt.Sprint(r["registrationId"]))
			}
			if a.Header.Get("x-ms-item-type") != "enrollment" {
				t.Errorf("item type %q", a.Header.Get("x-ms-item-type"))
			}
			next = a.Header.Get("x-ms-continuation")
			if _, there := a.Header["X-Ms-Continuation"]; there != (next != "") {
				t.Error("the header is there without a value")
			}
			if next == "" {
				break
			}
			if pages > len(names) {
				t.Fatal("no last page")
			}
		}
		if fmt.Sprint(got) != fmt.Sprint(names) {
			t.Errorf("pages of %d give %v, want %v", size, got, names)
		}
	}
	if a := s.admin(t, 200, "POST", "/enrollmentGroups/query", ""); string(a.body) != "[]" || a.Header.Get("x-ms-item-type") != "enrollmentGroup" {
		t.Errorf("no groups: %s", a.body)
	}
}

func TestService_Rights(t *testing.T) {
	conform.Covers(t, "DPS-31")
	rights := map[string]access.Right{
		"config": access.ServiceConfig, "read": access.EnrollmentRead, "write": access.EnrollmentWrite,
		"status": access.RegistrationStatusRead, "forget": access.RegistrationStatusWrite,
	}
	var policies []access.Policy
	for name, r := range rights {
		policies = append(policies, access.Policy{Name: name, Rights: r, Primary: secret.Random(32), Secondary: secret.Random(32)})
	}
	s := serve(t, policies...)
	s.admin(t, 200, "PUT", "/enrollments/e", symmetric(""))
	for _, test := range []struct{ method, path, body, right string }{
		{"GET", "/enrollments/e", "", "read"},
		{"PUT", "/enrollments/e", symmetric(""), "write"},
		{"POST", "/enrollments/query", "", "read"},
		{"POST", "/enrollments/e/attestationmechanism", "", "write"},
		{"POST", "/enrollments", "{}", "write"},
		{"GET", "/enrollmentGroups/e", "", "read"},
		{"PUT", "/enrollmentGroups/e", symmetric(""), "write"},
		{"POST", "/enrollmentGroups/query", "", "read"},
		{"POST", "/enrollmentGroups/e/attestationmechanism", "", "write"},
		{"POST", "/enrollmentGroups", "{}", "write"},
		{"DELETE", "/enrollmentGroups/e", "", "write"},
		{"DELETE", "/enrollments/e", "", "write"},
		{"GET", "/registrations/e", "", "status"},
		{"POST", "/registrations/e/query", "", "status"},
		{"DELETE", "/registrations/e", "", "forget"},
	} {
		for _, p := range policies {
			if p.Name == test.right {
				continue // last, since a right one may delete
			}
			if a := s.do(t, test.method, test.path, test.body, "Authorization", s.token(p)); a.StatusCode != 401 {
				t.Errorf("%s %s with the right %s: %d, want 401", test.method, test.path, p.Name, a.StatusCode)
			}
		}
		for _, auth := range []string{"", "Bearer x", sas.Sign("other.example.net", s.policy.Primary.Reveal(), s.Clock.Now().Add(time.Hour), s.policy.Name),
			s.device("e", key)} {
			if a := s.do(t, test.method, test.path, test.body, "Authorization", auth); a.StatusCode != 401 {
				t.Errorf("%s %s with %.20q: %d, want 401", test.method, test.path, auth, a.StatusCode)
			}
		}
		for _, p := range policies {
			if p.Name != test.right {
				continue
			}
			if a := s.do(t, test.method, test.path, test.body, "Authorization", s.token(p)); a.StatusCode == 401 {
				t.Errorf("%s %s with the right %s: 401", test.method, test.path, p.Name)
			}
		}
	}
}

// The recorder keeps header names as the head spells them.
func TestHeaders_KeepAzuresSpelling(t *testing.T) {
	s := serve(t)
	s.admin(t, 200, "PUT", "/enrollments/a", symmetric(""))
	s.admin(t, 200, "PUT", "/enrollments/b", symmetric(""))
	for _, test := range []struct{ path, auth, want string }{
		{"/enrollments/query", s.token(s.policy), "x-ms-continuation"},
		{"/enrollments/query", s.token(s.policy), "x-ms-item-type"},
		{"/enrollments/query", "", "x-ms-error-code"},
	} {
		r := httptest.NewRequest("POST", test.path+"?api-version=2021-10-01", nil)
		r.Header.Set("Authorization", test.auth)
		r.Header.Set("x-ms-max-item-count", "1")
		w := httptest.NewRecorder()
		s.Config.Handler.ServeHTTP(w, r)
		if w.Header()[test.want] == nil {
			t.Errorf("%s: headers %v, want %s", test.path, w.Header(), test.want)
		}
	}
}

func TestOwns(t *testing.T) {
	w := dpstest.New(t)
	h, err := provisioning.New(provisioning.Config{Service: w.Service, Guard: access.NewGuard(nil, nil, w.Clock.Now)})
	if err != nil {
		t.Fatal(err)
	}
	for path, want := range map[string]bool{
		"": false, "devices/d1": false, "devices/registrations/messages/events": false, "twins": false,
		"enrollments": true, "ENROLLMENTGROUPS/query": true, "registrations/d1": true,
		dpstest.Scope + "/registrations/d1": true, strings.ToUpper(dpstest.Scope) + "/Registrations/d1/register": true,
		dpstest.Scope + "/registrations": false, dpstest.Scope: false,
		"0ne0FFFFFFF/registrations/d1/register": true, "other/registrations/d1/register": false,
	} {
		var segments []string
		if path != "" {
			segments = strings.Split(path, "/")
		}
		if got := h.Owns(segments); got != want {
			t.Errorf("Owns(%s) = %v", path, got)
		}
	}
}
