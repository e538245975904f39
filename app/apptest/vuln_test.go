package apptest_test

import (
	"archive/zip"
	"bytes"
	"fmt"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/vauban-iot/vauban/app/apptest"
	"github.com/vauban-iot/vauban/app/cli"
	"github.com/vauban-iot/vauban/defender/posture"
	"github.com/vauban-iot/vauban/defender/vuln"
	"github.com/vauban-iot/vauban/internal/conform"
	"github.com/vauban-iot/vauban/wire/secmsg"
)

// What the publishers' files look like.
const (
	osvRecord = `{"schema_version":"1.7.0","id":"DEBIAN-CVE-2099-1000","upstream":["CVE-2099-1000"],"modified":"2099-01-02T00:00:00Z","published":"2099-01-01T00:00:00Z",
		"details":"A hole in the handshake.","severity":[{"type":"CVSS_V3","score":"CVSS:3.1/AV:N/AC:L/PR:N/UI:N/S:U/C:H/I:H/A:H"}],
		"affected":[{"package":{"ecosystem":"Debian:12","name":"openssl","purl":"pkg:deb/debian/openssl?arch=source"},
			"ranges":[{"type":"ECOSYSTEM","events":[{"introduced":"0"},{"fixed":"3.0.17-1~deb12u2"}]}],"versions":["3.0.9-1","3.0.15-1~deb12u1"]}]}`
	kevFile = `{"title":"CISA Catalog of Known Exploited Vulnerabilities","catalogVersion":"2099.01.03","dateReleased":"2099-01-03T00:00:00.0000Z","count":1,
		"vulnerabilities":[{"cveID":"CVE-2099-1000","vendorProject":"OpenSSL","product":"OpenSSL","vulnerabilityName":"OpenSSL hole","dateAdded":"2099-01-03",
		"shortDescription":"-","requiredAction":"Apply updates.","dueDate":"2099-01-24","knownRansomwareCampaignUse":"Known","notes":"","cwes":["CWE-787"]}]}`
	epssFile = "#model_version:v2025.03.14,score_date:2099-01-03T12:55:00Z\ncve,epss,percentile\nCVE-2099-1000,0.50000,0.97000\nCVE-2099-1001,0.00043,0.09000\n"
	vexFile  = `{"@context":"https://openvex.dev/ns/v0.2.0","@id":"https://acme.example/vex/1","author":"Acme","timestamp":"2099-01-04T00:00:00Z","version":1,
		"statements":[{"vulnerability":{"name":"CVE-2099-1000"},"products":[{"@id":"pkg:deb/debian/openssl"}],"status":"not_affected","justification":"vulnerable_code_not_in_execute_path"}]}`
)

// software is a message of the Linux agent: a snapshot of its packages taken at a second, or a part of one.
func software(second int64, packages ...secmsg.Package) []byte {
	at := time.Unix(second, 0)
	e := secmsg.Event{Name: "SBoM", Time: at}
	for _, p := range packages {
		e.Payload = append(e.Payload, p)
	}
	system := secmsg.Event{Name: "SystemInformation", Time: at, Payload: []secmsg.Item{secmsg.SystemInformation{OS: "Debian", OSDistribution: "debian", OSVersion: "12"}}}
	return secmsg.AppendJSON(nil, secmsg.Report{Agent: "vauban-agent", AgentVersion: "1.0.0", Events: []secmsg.Event{system, e}})
}

// Item 38 whole: what agents and documents tell of software is compared with an imported database, by priority; VEX suppresses; an update resolves.
func TestVauban_Vulnerabilities(t *testing.T) {
	t.Parallel()
	v := apptest.Start(t)
	d := v.Device("cam")
	v.Device("lamp")
	dir := t.TempDir()
	file := func(name, text string) string {
		t.Helper()
		path := filepath.Join(dir, name)
		if strings.HasSuffix(name, ".zip") {
			var b bytes.Buffer
			z := zip.NewWriter(&b)
			for name, text := range map[string]string{"DEBIAN-CVE-2099-1000.json": text, "broken.json": `{"id":`} {
				w, err := z.Create(name)
				if err == nil {
					_, err = w.Write([]byte(text))
				}
				if err != nil {
					t.Fatal(err)
				}
			}
			if err := z.Close(); err != nil {
				t.Fatal(err)
			}
			text = b.String()
		}
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	run := func(args ...string) string {
		t.Helper()
		var out, complaints bytes.Buffer
		root := cli.New(strings.NewReader(""), &out, &complaints)
		root.SetArgs(append(args, "--data", v.Dir))
		if err := root.ExecuteContext(t.Context()); err != nil {
			t.Fatalf("vauban %q: %v %s", args, err, complaints.String())
		}
		return out.String()
	}
	found := func(query string) []vuln.Row {
		t.Helper()
		var list struct{ Vulnerabilities []vuln.Row }
		if status := operate(t, v, "GET", "/api/vulnerabilities?"+query, "", &list); status != http.StatusOK {
			t.Fatalf("vulnerabilities: %d", status)
		}
		return list.Vulnerabilities
	}

	if out := run("vuln", "import", file("all.zip", osvRecord), file("kev.json", kevFile)); !strings.Contains(out, "1 records of osv as debian; 1 broken") || !strings.Contains(out, "1 records of kev as kev") {
		t.Errorf("import: %s", out)
	}
	// EPSS comes by the watched folder, as a file of a site without a network would.
	if err := os.WriteFile(filepath.Join(v.Dir, "vuln", "epss.csv"), []byte(epssFile), 0o600); err != nil {
		t.Fatal(err)
	}
	c, _ := connect(t, v, d)
	topic := fmt.Sprintf(agentTopic, "cam") + "&mti=" + secmsg.IndicatorJSON
	// One snapshot in two messages; one binary package of a source with another name.
	const taken = 1_700_000_000
	c.Publish(topic, software(taken, secmsg.Package{Name: "libssl3", Version: "3.0.15-1~deb12u1", Vendor: "Debian", Type: "deb", Arch: "amd64", Source: "openssl"}))
	c.Publish(topic, software(taken, secmsg.Package{Name: "busybox", Version: "1:1.35.0-4", Vendor: "Debian", Type: "deb", Arch: "amd64"}))

	eventually(t, "the finding", func() bool { return len(found("device=cam")) == 1 })
	eventually(t, "EPSS of the folder", func() bool { return found("device=cam")[0].EPSS > 0 })
	f := found("device=cam")[0]
	if f.ID != "CVE-2099-1000" || f.Package != "libssl3" || f.Installed != "3.0.15-1~deb12u1" || f.Fixed != "3.0.17-1~deb12u2" || f.CVSS != 9.8 || f.Severity != "Critical" ||
		f.EPSS != 0.5 || f.Percentile != 0.97 || f.Exploited == nil || f.Exploited.Due != "2099-01-24" || !f.Exploited.Ransomware || f.Status != "open" ||
		f.Priority.Score != 4.9 || !strings.Contains(f.Priority.How, "EPSS 0.5 x CVSS 9.8 = 4.9") {
		t.Errorf("got %+v", f)
	}
	eventually(t, "the recommendation", func() bool { return state(t, v, "cam", posture.VulnerableSoftware) == posture.Active })
	one := recommendations(t, v, url.Values{"device": {"cam"}, "type": {posture.VulnerableSoftware}})[0]
	if one.Severity != "High" || !strings.Contains(string(one.Data), `"CVE-2099-1000"`) {
		t.Errorf("the recommendation: %+v", one)
	}
	if got := found("vulnerability=CVE-2099-1000&exploited=true"); len(got) != 1 || got[0].Devices != 1 {
		t.Errorf("the fleet: %+v", got)
	}
	for text, args := range map[string][]string{
		"1 vulnerabilities, 1 of them exploited, on 1 devices": {"vuln", "status"},
		"since 2099-01-03, ransomware":                         {"vuln", "list", "--device", "cam"},
		"Devices: cam":                                         {"vuln", "show", "CVE-2099-1000"},
		"pkg:deb/debian/busybox@1:1.35.0-4?arch=amd64":         {"sbom", "show", "cam", "--output", "json"},
	} {
		if out := strings.ReplaceAll(run(args...), `\u0026`, "&"); !strings.Contains(out, text) {
			t.Errorf("%q does not show %q:\n%s", args, text, out)
		}
	}

	// VEX of another product changes nothing, that of the package suppresses; what it said is kept with it, over a restart too.
	run("vuln", "vex", "put", file("other.json", vexFile), "--group", "elsewhere")
	run("vuln", "vex", "put", file("acme.json", vexFile))
	eventually(t, "the suppression", func() bool { return len(found("device=cam&status=suppressed")) == 1 })
	if f := found("device=cam")[0]; f.VEX != "acme" || f.VEXStatus != "not_affected" || f.Justification != "vulnerable_code_not_in_execute_path" {
		t.Errorf("suppressed: %+v", f)
	}
	eventually(t, "the recommendation's end", func() bool { return state(t, v, "cam", posture.VulnerableSoftware) == posture.Resolved })
	v.Restart()
	if got := found("device=cam&status=suppressed"); len(got) != 1 {
		t.Errorf("after a restart: %+v", got)
	}
	run("vuln", "vex", "delete", "acme")
	eventually(t, "its return", func() bool { return state(t, v, "cam", posture.VulnerableSoftware) == posture.Active })

	// A later snapshot with the mended version, in the form of JSON 1.0.
	c, _ = connect(t, v, d)
	c.Publish(fmt.Sprintf(agentTopic, "cam"), []byte(`{"AgentVersion":"0.0.5","AgentId":"a8cd1d2c-5b9f-4f0e-8b7c-000000000001","MessageSchemaVersion":"1.0","Events":[{"EventType":"Security","Category":"Periodic",
		"Name":"SBoM","IsEmpty":false,"PayloadSchemaVersion":"1.0","Id":"a8cd1d2c-5b9f-4f0e-8b7c-000000000002","TimestampLocal":"2026-01-01T00:00:00Z","TimestampUTC":"2026-01-01T00:00:00Z",
		"Payload":[{"name":"libssl3","version":"3.0.17-1~deb12u2","type":"deb","source":"openssl"}]}]}`))
	eventually(t, "the update's effect", func() bool {
		return state(t, v, "cam", posture.VulnerableSoftware) == posture.Resolved && len(found("device=cam")) == 0
	})

	// A bill of materials for a device that has no agent.
	run("sbom", "put", "lamp", "--file", file("lamp.cdx.json", `{"bomFormat":"CycloneDX","specVersion":"1.5","components":[{"type":"library","name":"openssl","version":"3.0.9-1","purl":"pkg:deb/debian/openssl@3.0.9-1?distro=debian-12"}]}`))
	eventually(t, "what the document holds", func() bool { return state(t, v, "lamp", posture.VulnerableSoftware) == posture.Active })
	run("vuln", "remove", "debian")
	eventually(t, "the end of what nobody knows any more", func() bool { return state(t, v, "lamp", posture.VulnerableSoftware) == posture.Resolved })
	conform.Covers(t, "DEF-38")
}
