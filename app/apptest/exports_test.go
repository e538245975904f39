package apptest_test

import (
	"encoding/json"
	"encoding/pem"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/vauban-iot/vauban/app/apptest"
	"github.com/vauban-iot/vauban/defender/export/rsyslogtest"
	"github.com/vauban-iot/vauban/internal/conform"
)

// soc is a webhook that keeps what it takes.
type soc struct {
	*httptest.Server
	mu     sync.Mutex
	events []ocsfEvent
}

type ocsfEvent struct {
	Class    int `json:"class_uid"`
	Activity int `json:"activity_id"`
	Device   struct{ UID string }
	Metadata struct{ UID string }
	Finding  struct {
		UID     string
		Types   []string
		Attacks []struct{ Tactic, Technique struct{ UID string } }
	} `json:"finding_info"`
}

func newSOC(t *testing.T) *soc {
	t.Helper()
	s := &soc{}
	s.Server = httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, err := io.ReadAll(r.Body)
		var events []ocsfEvent
		if err != nil || json.Unmarshal(body, &events) != nil || r.Header.Get("Authorization") != "Bearer t0ken" {
			w.WriteHeader(http.StatusForbidden)
			return
		}
		s.mu.Lock()
		defer s.mu.Unlock()
		s.events = append(s.events, events...)
	}))
	t.Cleanup(s.Close)
	return s
}

// of are the events of a class about a device.
func (s *soc) of(class int, device string) (all []ocsfEvent) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, e := range s.events {
		if e.Class == class && e.Device.UID == device {
			all = append(all, e)
		}
	}
	return all
}

// rows reads a table with the command line.
func rows(t *testing.T, v *apptest.Vauban, table string, args ...string) (all []map[string]any) {
	t.Helper()
	for line := range strings.Lines(must(t, v, append([]string{"export", "tables", "--table", table}, args...)...)) {
		var row map[string]any
		if err := json.Unmarshal([]byte(line), &row); err != nil {
			t.Fatalf("%v: %s", err, line)
		}
		all = append(all, row)
	}
	return all
}

// Alerts, recommendations and events of real messages reach files, a webhook as OCSF and a real syslog server as CEF over TLS, and go on after
// a receiver was killed and the server restarted; the tables have them, too.
func TestVauban_Exports(t *testing.T) {
	t.Parallel()
	conform.Covers(t, "DEF-27", "DEF-28")
	v := apptest.Start(t)
	siem, hook := rsyslogtest.New(t), newSOC(t)
	file := func(name, text string) string {
		t.Helper()
		path := filepath.Join(t.TempDir(), name)
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	ca := file("ca.pem", string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: hook.Certificate().Raw})))
	must(t, v, "export", "create", "disk", "--kind", "files", "--send", "alerts,recommendations,events", "--product", "azure")
	must(t, v, "export", "create", "soc", "--kind", "webhook", "--url", hook.URL, "--ca", ca, "--token", "@"+file("token", "t0ken\n"), "--send", "alerts,recommendations,events")
	must(t, v, "export", "create", "siem", "--kind", "syslog", "--address", siem.Address, "--ca", file("ca.pem", siem.CA), "--cert", file("c.pem", siem.Certificate), "--key", file("k.pem", siem.Key), "--send", "alerts")
	if out, code := vauban(t, v, "export", "create", "siem", "--kind", "files"); code == 0 || !strings.Contains(out, "already") {
		t.Errorf("created twice: %d %s", code, out)
	}
	must(t, v, "export", "test", "siem")
	if ms := siem.Messages(); len(ms) != 1 || ms[0].Structured.CEF.Class != "Vauban_Test" {
		t.Errorf("the test: %+v", ms)
	}

	if err := os.WriteFile(filepath.Join(v.Dir, "intel", "mine.txt"), []byte("203.0.113.5\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	d := v.Device("cam")
	c, _ := connect(t, v, d)
	c.Publish(fmt.Sprintf(agentTopic, "cam"), ports(8888))
	eventually(t, "the alert", func() bool {
		c.Publish(fmt.Sprintf(securityTopic, "cam"), activityTo("203.0.113.5:443"))
		return len(alertsOf(t, v, "device=cam")) > 0
	})
	id := alertsOf(t, v, "device=cam")[0].ID

	eventually(t, "CEF", func() bool { return len(siem.Messages()) > 1 })
	if m := siem.Messages()[1]; m.ID != "alert-create" || m.Host != v.Hub.Hostname || m.Structured.CEF.Class != "IoT_TiConnection" || m.Structured.CEF.Extensions["externalId"] != id ||
		m.Structured.CEF.Extensions["dst"] != "203.0.113.5" || m.Structured.CEF.Extensions["cs1"] != "Command and Control" || m.Structured.CEF.Extensions["cs2"] != "T0885, T1071" {
		t.Errorf("CEF: %+v", m)
	}
	eventually(t, "OCSF", func() bool {
		return len(hook.of(2004, "cam")) > 0 && len(hook.of(2003, "cam")) > 0 && len(hook.of(4001, "cam")) > 1
	})
	if e := hook.of(2004, "cam")[0]; e.Activity != 1 || e.Finding.UID != id || len(e.Finding.Attacks) != 3 || e.Finding.Attacks[0].Tactic.UID != "TA0101" || e.Finding.Attacks[2].Technique.UID != "T1071" {
		t.Errorf("a Detection Finding: %+v", e)
	}
	if !slices.ContainsFunc(hook.of(2003, "cam"), func(e ocsfEvent) bool { return slices.Equal(e.Finding.Types, []string{"IoT_OpenPorts"}) }) {
		t.Errorf("Compliance Findings: %+v", hook.of(2003, "cam"))
	}
	lines := func(table string) (all []string) {
		files, err := filepath.Glob(filepath.Join(v.Dir, "routed", "exports", "disk", table+"-*.ndjson"))
		if err != nil {
			t.Fatal(err)
		}
		for _, f := range files {
			text, err := os.ReadFile(f)
			if err != nil {
				t.Fatal(err)
			}
			for line := range strings.Lines(string(text)) {
				if !json.Valid([]byte(line)) {
					t.Errorf("no JSON: %s", line)
				}
				all = append(all, line)
			}
		}
		return all
	}
	eventually(t, "files", func() bool {
		return len(lines("SecurityAlert")) > 0 && len(lines("SecurityIoTRawEvent")) > 1 && len(lines("SecurityRecommendation")) > 0
	})
	if line := lines("SecurityAlert")[0]; !strings.Contains(line, `"SystemAlertId":"`+id) || !strings.Contains(line, `"ProductName":"Azure Security Center for IoT"`) {
		t.Errorf("a row in a file: %s", line)
	}

	// The tables by hand.
	for table, columns := range map[string]int{"SecurityAlert": 31, "SecurityIoTRawEvent": 13, "SecurityRecommendation": 21} {
		all := rows(t, v, table, "--from", "1h")
		if len(all) == 0 || len(all[0]) != columns || all[0]["Type"] != table {
			t.Errorf("%s: %d rows, %v", table, len(all), all)
		}
		var array []map[string]any
		if err := json.Unmarshal([]byte(must(t, v, "export", "tables", "--table", table, "--output", "json", "--product", "azure")), &array); err != nil || len(array) < len(all) {
			t.Errorf("%s as an array: %d rows, %v", table, len(array), err)
		}
		if none := rows(t, v, table, "--to", "1h"); len(none) != 0 {
			t.Errorf("%s has rows of before: %v", table, none)
		}
	}
	if row := rows(t, v, "SecurityAlert", "--product", "azure")[0]; row["ProductName"] != "Azure Security Center for IoT" || !strings.Contains(fmt.Sprint(row["ExtendedProperties"]), `"Remote Address":"203.0.113.5"`) {
		t.Errorf("an alert: %v", row)
	}

	// The syslog server dies, things happen, and everything arrives once it is back, also over a restart of ours.
	before := len(siem.Messages())
	siem.Kill()
	operate(t, v, "POST", "/api/alerts/"+id+"/dismiss", `{"comment":"known"}`, nil)
	eventually(t, "a failure", func() bool { return strings.Contains(must(t, v, "export", "show", "siem"), "fails since") })
	if out := must(t, v, "export", "list"); !strings.Contains(out, "siem") || !strings.Contains(out, "fails since") || strings.Contains(out, "t0ken") {
		t.Errorf("list: %s", out)
	}
	if out, code := vauban(t, v, "export", "test", "siem"); code != 1 || !strings.Contains(out, "connection refused") {
		t.Errorf("a test without a server: %d %s", code, out)
	}
	v.Stop()
	siem.Start()
	v.Start()
	// Other alerts may be among it: of the exports that were made here, for one.
	var told []rsyslogtest.Message
	eventually(t, "what happened meanwhile", func() bool {
		told = slices.DeleteFunc(slices.Clone(siem.Messages()[min(before, len(siem.Messages())):]), func(m rsyslogtest.Message) bool {
			return m.Structured.CEF.Extensions["externalId"] != id
		})
		return len(told) > 0
	})
	if m := told[len(told)-1]; m.ID != "alert-close" || m.Structured.CEF.Extensions["externalId"] != id || m.Structured.CEF.Extensions["outcome"] != "dismissed" {
		t.Errorf("after it was back: %+v", m)
	}
	eventually(t, "OCSF of it", func() bool {
		all := hook.of(2004, "cam")
		return all[len(all)-1].Activity == 3
	})
	must(t, v, "export", "update", "siem", "--min-severity", "High", "--disabled")
	if out := must(t, v, "export", "show", "siem", "--output", "json"); !strings.Contains(out, `"minSeverity": "High"`) || !strings.Contains(out, `"disabled": true`) || strings.Contains(out, "PRIVATE KEY") {
		t.Errorf("show: %s", out)
	}
	must(t, v, "export", "delete", "siem")
}
