package api

import (
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/vauban-iot/vauban/defender/alert"
	"github.com/vauban-iot/vauban/defender/record"
	"github.com/vauban-iot/vauban/internal/conform"
)

// decode reads an answer of a status.
func (w *world) decode(t *testing.T, status int, method, target, body string, into any) {
	t.Helper()
	rec := w.ask(t, method, target, body)
	if rec.Code != status {
		t.Fatalf("%s %s: %d %s, want %d", method, target, rec.Code, rec.Body, status)
	}
	if into != nil {
		if err := json.Unmarshal(rec.Body.Bytes(), into); err != nil {
			t.Fatal(err)
		}
	}
}

func TestAlerts_AreJudged(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.alerts.list = []alert.Alert{{ID: "a1", Type: "IoT_X", Device: "d", Indicator: "i", Evidence: []alert.Evidence{{Event: "Process", Details: json.RawMessage(`{"x":1}`)}}}}
	var a alert.Alert
	w.decode(t, 200, "GET", "/api/alerts/a1", "", &a)
	if len(a.Evidence) != 1 || string(a.Evidence[0].Details) != `{"x":1}` {
		t.Errorf("%+v", a)
	}
	w.decode(t, 200, "POST", "/api/alerts/a1/dismiss", `{"comment":"known"}`, &a)
	if v := w.alerts.verdicts[0]; a.Status != alert.Dismissed || v.Comment != "known" || v.By != "operator" || v.Time.IsZero() {
		t.Errorf("%+v, %+v", a, v)
	}
	w.decode(t, 200, "POST", "/api/alerts/a1/resolve", "", &a)
	var made Suppressed
	until := time.Now().Add(time.Hour).UTC().Truncate(time.Second)
	w.decode(t, 201, "POST", "/api/alerts/a1/suppress", fmt.Sprintf(`{"expires":%q,"reason":"works"}`, until.Format(time.RFC3339)), &made)
	if p := w.alerts.suppressions[0]; made.Alerts != 3 || made.ID == "" || p.ID != made.ID || p.Type != "IoT_X" || p.Device != "d" || p.Indicator != "i" || p.Reason != "works" || !p.Expires.Equal(until) || p.By != "operator" {
		t.Errorf("%+v, %+v", made, p)
	}
	w.decode(t, 201, "POST", "/api/suppressions", fmt.Sprintf(`{"deviceId":"d2","by":"somebody else","expires":%q}`, until.Format(time.RFC3339)), &made)
	if p := w.alerts.suppressions[1]; p.Device != "d2" || p.By != "operator" {
		t.Errorf("%+v", p)
	}
	var list struct{ Suppressions []alert.Suppression }
	w.decode(t, 200, "GET", "/api/suppressions", "", &list)
	if len(list.Suppressions) != 2 {
		t.Errorf("%+v", list)
	}
	w.decode(t, 200, "DELETE", "/api/suppressions/"+made.ID, "", nil)
	var replayed struct{ Alerts []alert.Alert }
	w.decode(t, 200, "POST", "/api/alerts/a1/replay", "", &replayed)
	if len(replayed.Alerts) != 1 || replayed.Alerts[0].Type != "IoT_X" {
		t.Errorf("%+v", replayed)
	}
	w.decode(t, 200, "GET", "/api/alerts?status=open&severity=High&type=IoT_X", "", nil)
	if f := w.alerts.asked; f.Status != alert.Open || f.Severity != alert.High || f.Type != "IoT_X" {
		t.Errorf("asked %+v", f)
	}
	for _, c := range []struct {
		method, target, body string
		status               int
		code                 string
	}{
		{"GET", "/api/alerts/nobody", "", 404, "NotFound"},
		{"GET", "/api/alerts?status=closed", "", 400, "InvalidArgument"},
		{"GET", "/api/alerts?severity=high", "", 400, "InvalidArgument"},
		{"POST", "/api/alerts/nobody/dismiss", "", 404, "NotFound"},
		{"POST", "/api/alerts/a1/dismiss", "{", 400, "MalformedRequest"},
		{"POST", "/api/alerts/a1/dismiss", `{"comment":"` + strings.Repeat("x", 1001) + `"}`, 400, "InvalidArgument"},
		{"POST", "/api/alerts/a1/suppress", `{"expires":"2001-01-01T00:00:00Z"}`, 400, "InvalidArgument"},
		{"POST", "/api/alerts/a1/suppress", `{"expires":"2999-01-01T00:00:00Z"}`, 400, "InvalidArgument"},
		{"POST", "/api/suppressions", fmt.Sprintf(`{"expires":%q}`, until.Format(time.RFC3339)), 400, "InvalidArgument"},
		{"POST", "/api/suppressions", fmt.Sprintf(`{"deviceId":"a b","expires":%q}`, until.Format(time.RFC3339)), 400, "InvalidArgument"},
		{"DELETE", "/api/suppressions/nobody", "", 404, "NotFound"},
		{"PUT", "/api/alerts/a1", "", 405, "MethodNotAllowed"},
	} {
		refused(t, w.ask(t, c.method, c.target, c.body), c.status, c.code)
	}
	if log := w.logged.String(); !strings.Contains(log, `what="POST /api/alerts/{id}/dismiss"`) || !strings.Contains(log, `what="DELETE /api/suppressions/{id}"`) {
		t.Errorf("the audit lacks a change:\n%s", log)
	}
}

// names of the types of defender §2.1 and §2.2, as Azure spells them.
const typesOfAzure = `IoT_BinaryCommandLine IoT_DisableFirewall IoT_PortForwarding IoT_DisableAuditdLogging IoT_ReverseShell IoT_SucessfulLocalLogin IoT_WebShell
	IoT_Ransomware IoT_CryptoMiner IoT_USBConnection IoT_UsbDisconnection IoT_EthernetConnection IoT_EthernetDisconnection IoT_FileCreated IoT_FileModified
	IoT_FileDeleted IoT_CommonBots IoT_FairwareMalware IoT_CryptoMinerContainer IoT_SuspiciousNohup IoT_SuspiciousUseradd IoT_ExposedDocker IoT_FailedLocalLogin
	IoT_PossibleMalware IoT_AccessingHtaccessFile IoT_KnownAttackTools IoT_LinuxReconnaissance IoT_ScriptInterpreterMismatch IoT_LinuxBackdoor IoT_EgressData
	IoT_PrivilegedContainer IoT_RemovelOfSystemLogs IoT_ExecuteFileWithTrailingSpace IoT_CredentialAccessTools IoT_SuspiciousCompilation IoT_DownloadFileThenRun
	IoT_TiConnection IoT_MaliciousNameQueriesDetection IoT_BashHistoryCleared
	IoT_CertificateSuccessfullyAddedToHub IoT_CertificateSuccessfullyDeletedFromHub Hub_CertificateFailedToBeAddedToHub IoT.Hub_CertificateFailedToBeDeletedFromHub
	IoT_Cert_Print_Mismatch IoT_Cert_Expired IoT_DiagnosticSettingAddedOrEditedOnHub IoT_DiagnosticSettingDeletedFromHub IoT_Expired_SAS_Token IoT_Invalid_SAS_Token`

// typesOfOurs are for what Azure has no name.
const typesOfOurs = `IoT_NetworkScan IoT_DenialOfService IoT_Beaconing IoT_DnsTunneling IoT_PayloadDownload IoT_NewProtocol IoT_BruteForce IoT_BruteForceSucceeded
	IoT_CredentialStuffing IoT_IdentityInTwoPlaces
	IoT_AgentFailedToParseTwin IoT_LocalUserAddedToGroups IoT_LocalUserDeletedFromGroups IoT_LocalUserDeleted IoT_DeviceSilent IoT_CommonFilesOverridden`

func TestAlertTypes(t *testing.T) {
	t.Parallel()
	conform.Covers(t, "DEF-17")
	w := newWorld(t)
	var answer struct{ AlertTypes []alert.Type }
	w.decode(t, 200, "GET", "/api/alert-types", "", &answer)
	var builtin, custom []string
	for _, k := range answer.AlertTypes {
		if strings.HasPrefix(k.Name, "IoT_CA_") {
			custom = append(custom, k.Name)
		} else if !strings.HasPrefix(k.Name, "IoT_Baseline") { // which are ours
			builtin = append(builtin, k.Name)
		}
		if len(k.Tactics) == 0 || len(k.Techniques) == 0 || len(k.Remediation) == 0 || k.Title == "" || k.Severity == "" {
			t.Errorf("%s says too little: %+v", k.Name, k)
		}
	}
	want := append(strings.Fields(typesOfAzure), strings.Fields(typesOfOurs)...)
	slices.Sort(want)
	if !slices.Equal(builtin, want) {
		t.Errorf("got  %q\nwant %q", builtin, want)
	}
	if len(custom) != 16+4+4+2 {
		t.Errorf("%d types of custom rules: %q", len(custom), custom)
	}
}

func TestSecurityEvents(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	at := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	w.alerts.events = []record.Event{
		{Place: record.Place{Message: 9, Ordinal: 1}, Device: "d", Enqueued: at, Name: "ListeningPorts", Schema: record.Broken, Details: []json.RawMessage{json.RawMessage(`{"a":1}`), json.RawMessage(`{"a":2}`)}},
		{Place: record.Place{Message: 8}, Device: "d", Enqueued: at, Name: record.InvalidMessage, Problem: "broken"},
	}
	var page struct {
		Events []record.Row
		Next   string
	}
	w.decode(t, 200, "GET", "/api/security-events?device=d&name=X&invalid=true&from=2026-01-01T00:00:00Z&to=2026-01-03T00:00:00%2B01:00&limit=2&before=10.0", "", &page)
	if len(page.Events) != 3 || page.Next != "8.0" || page.Events[0].Resource != "hub.example" || string(page.Events[1].Details) != `{"a":2}` || *page.Events[0].SchemaValid || page.Events[2].Problem != "broken" {
		t.Errorf("%+v", page)
	}
	if f := w.alerts.wanted; f.Device != "d" || f.Name != "X" || !f.Invalid || f.Limit != 2 || f.Before != (record.Place{Message: 10}) || f.To.Sub(f.From) != 47*time.Hour {
		t.Errorf("wanted %+v", f)
	}
	for _, q := range []string{"device=a+b", "invalid=1", "from=yesterday", "limit=0", "limit=1001", "before=x", "before=1", "before=1.-1"} {
		refused(t, w.ask(t, "GET", "/api/security-events?"+q, ""), 400, "InvalidArgument")
	}
}

func TestSecurityGroups(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	var list struct{ Value []SecurityGroup }
	w.decode(t, 200, "GET", "/api/security-groups", "", &list)
	if len(list.Value) != 1 || list.Value[0].Name != "default" || len(list.Value[0].Properties.Window) != 16 {
		t.Errorf("%+v", list)
	}
	rules := `{"properties":{"denylistRules":[{"ruleType":"ProcessDenied","isEnabled":true,"denylistValues":["nc"]}]}}`
	var g SecurityGroup
	w.decode(t, 201, "PUT", "/api/security-groups/plant%20%E2%98%82", rules, &g)
	if g.Name != "plant ☂" || len(g.Properties.Deny) != 1 || len(g.Properties.Window) != 16 {
		t.Errorf("%+v", g)
	}
	w.decode(t, 200, "PUT", "/api/security-groups/plant%20%E2%98%82", rules, nil)
	w.decode(t, 200, "GET", "/api/security-groups/plant%20%E2%98%82", "", &g)
	w.decode(t, 200, "DELETE", "/api/security-groups/plant%20%E2%98%82", "", nil)
	w.decode(t, 204, "DELETE", "/api/security-groups/plant%20%E2%98%82", "", nil)
	refused(t, w.ask(t, "GET", "/api/security-groups/plant%20%E2%98%82", ""), 404, "NotFound")
	refused(t, w.ask(t, "PUT", "/api/security-groups/x", "{"), 400, "MalformedRequest")
	refused(t, w.ask(t, "PUT", "/api/security-groups/x", `{"denylistRules":[{"ruleType":"Nothing"}]}`), 400, "InvalidArgument")
	refused(t, w.ask(t, "PUT", "/api/security-groups/"+strings.Repeat("x", 65), `{}`), 400, "InvalidArgument")
	refused(t, w.ask(t, "PUT", "/api/security-groups/x", strings.Repeat(" ", 300<<10)), 413, "TooLarge")
}

func TestCertificates_TellOfChanges(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.ask(t, "PUT", "/api/certificates/plant", "no certificate")
	w.ask(t, "DELETE", "/api/certificates/plant", "")
	w.certs["plant"] = "x"
	w.ask(t, "DELETE", "/api/certificates/plant", "")
	w.ask(t, "DELETE", "/api/certificates/-plant", "")
	if want := []string{"plant false true", "plant true true", "plant true false"}; !slices.Equal(w.changed, want) {
		t.Errorf("got %q, want %q", w.changed, want)
	}
}

func TestPrivacy(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	var p Privacy
	w.decode(t, 200, "GET", "/api/security-groups/office/privacy", "", &p)
	if p.Group != "office" || p.UserNames || p.CommandLines {
		t.Errorf("at first %+v", p)
	}
	w.decode(t, 200, "PUT", "/api/security-groups/office/privacy", `{"userNames":true}`, &p)
	w.decode(t, 200, "GET", "/api/security-groups/office/privacy", "", &p)
	if !p.UserNames || p.CommandLines {
		t.Errorf("then %+v", p)
	}
	refused(t, w.ask(t, "PUT", "/api/security-groups/office/privacy", `{"userNames":"yes"}`), 400, "MalformedRequest")
	refused(t, w.ask(t, "PUT", "/api/security-groups/"+strings.Repeat("x", 65)+"/privacy", `{}`), 400, "InvalidArgument")
	refused(t, w.ask(t, "GET", "/api/security-groups/"+strings.Repeat("x", 65)+"/privacy", ""), 400, "InvalidArgument")
	if !strings.Contains(w.logged.String(), "userNames=true") {
		t.Errorf("the audit: %s", w.logged.String())
	}
}
