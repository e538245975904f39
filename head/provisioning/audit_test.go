package provisioning_test

import (
	"fmt"
	"log/slog"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/vauban-iot/vauban/access"
	"github.com/vauban-iot/vauban/dps/dpstest"
	"github.com/vauban-iot/vauban/fault"
	"github.com/vauban-iot/vauban/head/provisioning"
	"github.com/vauban-iot/vauban/hub/hubtest"
	"github.com/vauban-iot/vauban/internal/secret"
)

// Every change leaves one record without secrets, and so does a look at keys; reads and devices leave none.
func TestAudit(t *testing.T) {
	t.Parallel()
	reader := access.Policy{Name: "reader", Rights: access.EnrollmentRead, Primary: secret.Random(32), Secondary: secret.Random(32)}
	s := serve(t, reader)
	const key = "MDEyMzQ1Njc4OWFiY2RlZg=="
	enrollment := func(id string) string {
		return `{"registrationId":"` + id + `","attestation":{"type":"symmetricKey","symmetricKey":{"primaryKey":"` + key + `","secondaryKey":"` + key + `"}}}`
	}
	for _, c := range []struct {
		token, method, path, body string
		status                    int
		want                      string
	}{
		{"", "PUT", "/enrollments/lamp-1", enrollment("lamp-1"), 200, `who=provisioningserviceowner what="PUT /enrollments/*" target=enrollments/lamp-1 outcome=done status=200`},
		{s.token(reader), "PUT", "/enrollments/lamp-1", enrollment("lamp-1"), 401, `who=reader what="PUT /enrollments/*" target=enrollments/lamp-1 outcome=refused status=401 code=401002`},
		{"", "PUT", "/enrollmentGroups/g1", `{"enrollmentGroupId":"g1","attestation":{"type":"symmetricKey"}}`, 200, `what="PUT /enrollmentGroups/*" target=enrollmentGroups/g1 outcome=done`},
		{"", "POST", "/enrollments", `{"mode":"create","enrollments":[` + enrollment("lamp-1") + `,` + enrollment("lamp-2") + `]}`, 200,
			`what="POST /enrollments" target=enrollments outcome=done status=200 rows="[create lamp-1: 409001 create lamp-2]"`},
		{"", "POST", "/enrollments/lamp-1/attestationmechanism", "", 200, `what="POST /enrollments/*/attestationmechanism" target=enrollments/lamp-1/attestationmechanism outcome=done`},
		{"", "DELETE", "/enrollments/lamp-2", "", 204, `what="DELETE /enrollments/*" target=enrollments/lamp-2 outcome=done status=204`},
		{"", "DELETE", "/enrollments/lamp-2", "", 404, `target=enrollments/lamp-2 outcome=refused status=404 code=404001`},
		{"", "DELETE", "/registrations/nobody", "", 404, `what="DELETE /registrations/*" target=registrations/nobody outcome=refused status=404`},
		{"", "GET", "/enrollments/lamp-1", "", 200, ""},
		{"", "POST", "/enrollments/query", `{"query":"SELECT * FROM enrollments"}`, 200, ""},
		{"nonsense", "DELETE", "/enrollments/lamp-1", "", 401, ""},
		{"nonsense", "PUT", "/" + dpstest.Scope + "/registrations/lamp-1/register", `{"registrationId":"lamp-1"}`, 401, ""},
	} {
		s.log.take()
		token := c.token
		if token == "" {
			token = s.token(s.policy)
		}
		a := s.do(t, c.method, c.path, c.body, "Authorization", token)
		if a.StatusCode != c.status {
			t.Errorf("%s %s: %d %s, want %d", c.method, c.path, a.StatusCode, a.body, c.status)
		}
		log := ""
		hubtest.Until(t, "the audit record of "+c.method+" "+c.path, func() bool { // it is written after the answer
			log += s.log.take()
			return c.want == "" || strings.Contains(log, "audit=true")
		})
		if n := strings.Count(log, "audit=true"); c.want == "" && n != 0 || c.want != "" && (n != 1 || !strings.Contains(log, c.want)) {
			t.Errorf("%s %s logged\n%swant %q", c.method, c.path, log, c.want)
		}
		if strings.Contains(log, key) || strings.Contains(log, "sig=") {
			t.Errorf("%s %s: the log holds a secret:\n%s", c.method, c.path, log)
		}
	}
}

// Devices and programs are judged by where they come from, each by its own gate, and learn nothing.
func TestAdmit(t *testing.T) {
	t.Parallel()
	s := serve(t)
	refuse := func(string) (string, error) {
		return "", fault.Wrap(fault.Unauthorized, fmt.Errorf("a rule of a secret name"), "unauthorized")
	}
	for what, c := range map[string]struct {
		cfg             provisioning.Config
		device, service int
	}{
		"devices":  {provisioning.Config{AdmitDevice: refuse}, 401, 404},
		"programs": {provisioning.Config{AdmitService: refuse}, 400, 401},
	} {
		c.cfg.Service, c.cfg.Logger = s.World.Service, slog.New(slog.DiscardHandler)
		c.cfg.Guard = access.NewGuard([]string{host}, []access.Policy{s.policy}, s.Clock.Now)
		h, err := provisioning.New(c.cfg)
		if err != nil {
			t.Fatal(err)
		}
		for path, want := range map[string]int{"/" + dpstest.Scope + "/registrations/lamp-1": c.device, "/enrollments/nobody?api-version=2021-10-01": c.service} {
			method := "GET"
			if !strings.HasPrefix(path, "/enrollments") {
				method = "POST" // without an api-version: 400 for whoever gets so far
			}
			r := httptest.NewRequest(method, path, nil)
			r.Header.Set("Authorization", s.token(s.policy))
			rec := httptest.NewRecorder()
			h.ServeHTTP(rec, r)
			if rec.Code != want || strings.Contains(rec.Body.String(), "rule") {
				t.Errorf("with refused %s %s gets %d %s, want %d", what, path, rec.Code, rec.Body, want)
			}
		}
	}
}
