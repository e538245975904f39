package format

import (
	"bytes"
	"reflect"
	"strings"
	"testing"
	"time"
)

func TestParseOSV(t *testing.T) {
	t.Parallel()
	r, err := ParseOSV([]byte(`{"id":"GO-2099-0001","aliases":["CVE-2099-1000","GHSA-x"],"upstream":["CVE-2099-1001"],"summary":"a\u001b[2Jb","modified":"2099-01-02T03:04:05Z",
		"severity":[{"type":"CVSS_V3","score":"CVSS:3.1/AV:N"},{"type":"Ubuntu","score":"low"}],
		"affected":[{"package":{"ecosystem":"Go","name":"x"},"ranges":[{"type":"GIT","repo":"r","events":[{"introduced":"0"}]},{"type":"SEMVER","events":[{"introduced":"0"},{"fixed":"1.2"}]}],"versions":["1.0"]},
			{"package":{},"ranges":[]}]}`))
	want := Record{ID: "GO-2099-0001", Aliases: []string{"CVE-2099-1000", "GHSA-x", "CVE-2099-1001"}, Summary: "a [2Jb", Modified: time.Date(2099, 1, 2, 3, 4, 5, 0, time.UTC),
		Severity: []Severity{{"CVSS_V3", "CVSS:3.1/AV:N"}},
		Affected: []Affected{{Ecosystem: "Go", Name: "x", Ranges: []Range{{"SEMVER", []Event{{Introduced: "0"}, {Fixed: "1.2"}}}}, Versions: []string{"1.0"}}}}
	if err != nil || !reflect.DeepEqual(r, want) {
		t.Errorf("got %+v %v", r, err)
	}
	for _, bad := range []string{``, `{}`, `{"id":"a b"}`, `{"id":"x","affected":3}`, `{"id":"x","affected":[{"package":{"ecosystem":"Go","name":"x"},"ranges":[{"type":"SEMVER","events":[{"fixed":"` + strings.Repeat("1", 600) + `"}]}]}]}`} {
		if _, err := ParseOSV([]byte(bad)); err == nil {
			t.Errorf("%.60s is a record", bad)
		}
	}
}

func TestCVE(t *testing.T) {
	t.Parallel()
	last := uint32(0)
	for _, id := range []string{"CVE-1999-0001", "CVE-1999-10000", "CVE-2024-0001", "CVE-2024-9999999", "CVE-2025-0001"} {
		n, ok := CVE(id)
		if !ok || n <= last {
			t.Errorf("%s: %d %v after %d", id, n, ok, last)
		}
		last = n
	}
	for _, id := range []string{"", "CVE-", "CVE-2024-", "CVE-2024-001", "CVE-20x4-0001", "CVE-2024-12345678", "GHSA-2024-0001", "CVE-1024-0001"} {
		if _, ok := CVE(id); ok {
			t.Errorf("%q is a CVE", id)
		}
	}
}

func TestExploitedAndChances(t *testing.T) {
	t.Parallel()
	c, err := ParseKEV([]byte(`{"catalogVersion":"1","dateReleased":"2099-01-01T00:00:00Z","vulnerabilities":[{"cveID":"CVE-2099-1000","dueDate":"2099-02-01","knownRansomwareCampaignUse":"Unknown"},{"cveID":"x"},7]}`))
	if err != nil || c.Broken != 2 || len(c.All) != 1 || c.All[0].Ransomware || c.All[0].Due != "2099-02-01" {
		t.Errorf("KEV: %+v %v", c, err)
	}
	if _, err := ParseKEV([]byte(`{}`)); err == nil {
		t.Error("an empty object is a catalogue")
	}
	all, day, broken, err := ReadEPSS(strings.NewReader("#model_version:v1,score_date:2099-01-03T00:00:00+0000\r\ncve,epss,percentile\r\nCVE-2099-1000,0.5,0.9\r\nCVE-2099-1001,2,0.9\nx,0.1,0.1\nCVE-2099-1002\nCVE-2099-1003,NaN,0\n"))
	if err != nil || len(all) != 1 || all[0].Probability != 0.5 || all[0].Percentile != 0.9 || broken != 4 || day.Day() != 3 {
		t.Errorf("EPSS: %+v %v %d %v", all, day, broken, err)
	}
	for _, bad := range []string{"", "a,b\n", "cve,epss\n" + strings.Repeat("x", 70<<10)} {
		if _, _, _, err := ReadEPSS(strings.NewReader(bad)); err == nil {
			t.Errorf("%.20q is EPSS", bad)
		}
	}
}

func TestParseVEX(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		text string
		want Statement
	}{
		"OpenVEX": {`{"timestamp":"2099-01-01T00:00:00Z","statements":[{"vulnerability":{"name":"CVE-1","aliases":["GHSA-1"]},"status":"not_affected","justification":"component_not_present",
			"products":[{"@id":"pkg:generic/acme/cam@1","subcomponents":[{"@id":"pkg:deb/debian/a"}]},{"@id":"x","identifiers":{"purl":"pkg:npm/b"}}]}]}`,
			Statement{[]string{"CVE-1", "GHSA-1"}, []Product{{"pkg:generic/acme/cam@1", []string{"pkg:deb/debian/a"}}, {"pkg:npm/b", nil}}, NotAffected, "component_not_present", "", time.Date(2099, 1, 1, 0, 0, 0, 0, time.UTC)}},
		"OpenVEX of old": {`{"statements":[{"vulnerability":"CVE-1","products":["pkg:npm/b"],"status":"fixed","status_notes":"n"}]}`, Statement{Vulnerabilities: []string{"CVE-1"}, Products: []Product{{ID: "pkg:npm/b"}}, Status: Fixed, Note: "n"}},
		"CycloneDX": {`{"bomFormat":"CycloneDX","specVersion":"1.5","metadata":{"component":{"bom-ref":"me","name":"cam"}},"components":[{"bom-ref":"r1","purl":"pkg:npm/b"}],
			"vulnerabilities":[{"id":"CVE-0"},{"id":"CVE-1","analysis":{"state":"false_positive","detail":"d"},"affects":[{"ref":"r1"},{"ref":"me"}]}]}`,
			Statement{Vulnerabilities: []string{"CVE-1"}, Products: []Product{{ID: "pkg:npm/b"}, {ID: "cam"}}, Status: NotAffected, Note: "d"}},
	} {
		all, err := ParseVEX([]byte(c.text))
		if err != nil || len(all) != 1 || !reflect.DeepEqual(all[0], c.want) {
			t.Errorf("%s: %+v %v", name, all, err)
		}
	}
	for bad, says := range map[string]string{`[]`: "not a JSON object", `{}`: "neither", `{"statements":[]}`: "states nothing", `{"statements":[{"vulnerability":"CVE-1","status":"harmless"}]}`: "harmless",
		`{"statements":[{"status":"fixed"}]}`: "no vulnerability", `{"bomFormat":"CycloneDX","vulnerabilities":[{"id":"CVE-1","analysis":{"state":"odd"}}]}`: "odd"} {
		if _, err := ParseVEX([]byte(bad)); err == nil || !strings.Contains(err.Error(), says) {
			t.Errorf("%s: %v", bad, err)
		}
	}
}

func TestParseBill(t *testing.T) {
	t.Parallel()
	deb := Component{Name: "libssl3", Version: "1:3.0+x", Type: "deb", Arch: "amd64", Source: "openssl", Distro: "debian-12"}
	mod := Component{Name: "golang.org/x/net", Version: "v0.1.0", Type: "golang"}
	for name, text := range map[string]string{
		"CycloneDX 1.5": `{"bomFormat":"CycloneDX","specVersion":"1.5","components":[{"type":"operating-system","name":"debian","version":"12"},
			{"type":"library","name":"?","purl":"pkg:deb/debian/libssl3@1%3A3.0+x?arch=amd64&upstream=openssl","components":[{"name":"net","purl":"pkg:golang/golang.org/x/net@v0.1.0"}]},{"name":""}]}`,
		"SPDX-2.3": `{"spdxVersion":"SPDX-2.3","packages":[{"name":"libssl3","versionInfo":"1:3.0+x","externalRefs":[{"referenceType":"purl","referenceLocator":"pkg:deb/debian/libssl3@1:3.0%2Bx?arch=amd64&distro=debian-12&upstream=openssl%403"}]},
			{"name":"x","externalRefs":[{"referenceType":"purl","referenceLocator":"pkg:golang/golang.org/x/net@v0.1.0"}]},{"name":""}]}`,
	} {
		b, err := ParseBill([]byte(text))
		if err != nil || b.Format != name || b.Left != 1 || !reflect.DeepEqual(b.Components, []Component{deb, mod}) {
			t.Errorf("%s: %+v %v", name, b, err)
		}
	}
	if _, err := ParseBill([]byte(`{"name":"x"}`)); err == nil {
		t.Error("anything is a bill of materials")
	}
}

func TestPURL(t *testing.T) {
	t.Parallel()
	for _, text := range []string{"pkg:deb/debian/libssl3@1:3.0+x?arch=amd64", "pkg:npm/%40angular/core@1.0.0", "pkg:golang/golang.org/x/net@v0.1.0", "pkg:generic/a"} {
		p, ok := ParsePURL(text)
		if q, again := ParsePURL(p.String()); !ok || !again || !reflect.DeepEqual(p, q) {
			t.Errorf("%s: %+v, written %s", text, p, p)
		}
	}
	for _, bad := range []string{"", "pkg:", "pkg:npm", "pkg:npm/", "npm/x"} {
		if _, ok := ParsePURL(bad); ok {
			t.Errorf("%q is a package URL", bad)
		}
	}
}

func FuzzParse(f *testing.F) {
	f.Add([]byte(`{"id":"X","affected":[{"package":{"ecosystem":"Go","name":"x"},"ranges":[{"type":"SEMVER","events":[{"introduced":"0"}]}]}]}`))
	f.Add([]byte(`{"bomFormat":"CycloneDX","components":[{"name":"a","purl":"pkg:npm/a@1"}],"vulnerabilities":[{"id":"c","analysis":{"state":"resolved"},"affects":[{"ref":"x"}]}]}`))
	f.Add([]byte(`{"spdxVersion":"SPDX-2.3","packages":[{"name":"a"}]}`))
	f.Add([]byte(`{"statements":[{"vulnerability":"c","products":["p"],"status":"fixed"}]}`))
	f.Add([]byte(`{"vulnerabilities":[{"cveID":"CVE-2024-0001"}]}`))
	f.Add([]byte("cve,epss,percentile\nCVE-2024-0001,0.1,0.2\n"))
	f.Fuzz(func(t *testing.T, data []byte) {
		if r, err := ParseOSV(data); err == nil && r.ID == "" {
			t.Error("a record without an id")
		}
		_, _ = ParseKEV(data)
		_, _, _, _ = ReadEPSS(bytes.NewReader(data))
		if all, err := ParseVEX(data); err == nil && len(all) == 0 {
			t.Error("a document without a statement")
		}
		if b, err := ParseBill(data); err == nil {
			for _, c := range b.Components {
				if c.Name == "" {
					t.Error("a component without a name")
				}
			}
		}
		if p, ok := ParsePURL(string(data)); ok && p.Name == "" {
			t.Error("a package URL without a name")
		}
	})
}
