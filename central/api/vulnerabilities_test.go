package api

import (
	"context"
	"io"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/vauban-iot/vauban/defender/vuln"
	"github.com/vauban-iot/vauban/defender/vuln/format"
	"github.com/vauban-iot/vauban/fault"
)

// vulnerable is a store with one finding, which notes what it was asked.
type vulnerable struct {
	filter vuln.Filter
	scope  vuln.Scope
	text   string
}

func (v *vulnerable) Vulnerabilities(_ context.Context, f vuln.Filter) ([]vuln.Row, error) {
	v.filter = f
	if f.Vulnerability == "CVE-2099-9999" {
		return nil, nil
	}
	return []vuln.Row{{Finding: vuln.Finding{ID: "CVE-2099-1000", Package: "openssl", Status: vuln.Unsuppressed}, Devices: 3, Place: "1"}}, nil
}

func (v *vulnerable) VulnerableDevices(context.Context, string, string, int) ([]string, error) {
	return []string{"cam"}, nil
}

func (v *vulnerable) AddVEX(_ context.Context, name string, s vuln.Scope, text []byte) (vuln.VEX, error) {
	v.scope, v.text = s, string(text)
	return vuln.VEX{Name: name, Scope: s}, nil
}

func (v *vulnerable) Import(_ context.Context, name string, body io.Reader) (vuln.Source, error) {
	text, err := io.ReadAll(body)
	v.text = string(text)
	return vuln.Source{Name: name, Kind: vuln.OSV, Records: 1}, err
}

func (v *vulnerable) SoftwareOf(_ context.Context, device string) ([]vuln.Package, error) {
	if device != "cam" {
		return nil, fault.New(fault.NotFound, "software of device %s does not exist", device)
	}
	return []vuln.Package{{Name: "libssl3", Version: "1:3.0+x", Type: "deb", Distro: "debian-12", Arch: "amd64", Source: "openssl"}}, nil
}

func (*vulnerable) Sources(context.Context) ([]vuln.Source, error) {
	return []vuln.Source{{Name: "debian", Kind: vuln.OSV, Published: time.Now().Add(-49 * time.Hour)}}, nil
}
func (*vulnerable) VulnTotals(context.Context) (vuln.Totals, error) {
	return vuln.Totals{Devices: 3}, nil
}
func (*vulnerable) Running() (vuln.Import, bool)                   { return vuln.Import{Name: "alpine"}, true }
func (*vulnerable) DeleteSource(context.Context, string) error     { return nil }
func (*vulnerable) DeleteVEX(context.Context, string) error        { return nil }
func (*vulnerable) DeleteBill(context.Context, string) error       { return nil }
func (*vulnerable) Bills(context.Context) ([]vuln.Document, error) { return nil, nil }
func (*vulnerable) VEXDocuments(context.Context) ([]vuln.VEX, error) {
	return []vuln.VEX{{Name: "a", Statements: []format.Statement{{Status: format.Fixed}}}}, nil
}

func (v *vulnerable) AddBill(_ context.Context, name string, s vuln.Scope, text []byte) (vuln.Document, int, error) {
	v.scope, v.text = s, string(text)
	return vuln.Document{Name: name, Scope: s, Packages: 2}, 1, nil
}

func TestVulnerabilities(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	for _, c := range []struct {
		method, path, body string
		status             int
		says               string
	}{
		{"GET", "/api/vulnerabilities?device=cam&package=x&status=open&exploited=true&limit=7&after=p", "", http.StatusOK, `"vulnerability":"CVE-2099-1000"`},
		{"GET", "/api/vulnerabilities?status=closed", "", http.StatusBadRequest, "open or suppressed"},
		{"GET", "/api/vulnerabilities?exploited=yes", "", http.StatusBadRequest, "true or false"},
		{"GET", "/api/vulnerabilities?device=a%20b", "", http.StatusBadRequest, "device"},
		{"GET", "/api/vulnerabilities?limit=0", "", http.StatusBadRequest, "limit"},
		{"GET", "/api/vulnerabilities/CVE-2099-1000", "", http.StatusOK, `"devices":["cam"]`},
		{"GET", "/api/vulnerabilities/CVE-2099-9999", "", http.StatusNotFound, "no device has"},
		{"PUT", "/api/vex/a?group=plant", "{}", http.StatusOK, `"group":"plant"`},
		{"PUT", "/api/vex/a?firmware=" + strings.Repeat("x", 200), "{}", http.StatusBadRequest, "firmware 128"},
		{"GET", "/api/vex", "", http.StatusOK, `"statements":1`},
		{"GET", "/api/vex/a", "", http.StatusOK, `"status":"fixed"`},
		{"GET", "/api/vex/b", "", http.StatusNotFound, "no document"},
		{"PUT", "/api/sboms/b?group=plant", "{}", http.StatusOK, `"left":1`},
		{"GET", "/api/sboms", "", http.StatusOK, `"documents":[]`},
		{"DELETE", "/api/sboms/b", "", http.StatusNoContent, ""},
		{"GET", "/api/vulnerability-database", "", http.StatusOK, `"ageHours":49`},
		{"GET", "/api/vulnerability-database", "", http.StatusOK, `"import":{"name":"alpine"`},
		{"POST", "/api/vulnerability-database?name=own", "zip", http.StatusOK, `"records":1`},
		{"GET", "/api/device-sboms/cam", "", http.StatusOK, `"purl":"pkg:deb/debian/libssl3@1:3.0+x?arch=amd64\u0026distro=debian-12\u0026upstream=openssl"`},
		{"GET", "/api/device-sboms/other", "", http.StatusNotFound, "its agent sent no SBoM"},
	} {
		res := w.ask(t, c.method, c.path, c.body)
		if res.Code != c.status || !strings.Contains(res.Body.String(), c.says) {
			t.Errorf("%s %s: %d %s, want %d with %q", c.method, c.path, res.Code, res.Body, c.status, c.says)
		}
		if c.status == http.StatusOK && c.path != "" && strings.Contains(c.path, "limit=7") {
			if f := w.vulnerable.filter; f != (vuln.Filter{Device: "cam", Package: "x", Status: "open", Exploited: true, Limit: 7, After: "p"}) {
				t.Errorf("asked for %+v", f)
			}
		}
	}
	if w.vulnerable.scope.Group != "plant" || w.vulnerable.text != "zip" {
		t.Errorf("got %+v and %q", w.vulnerable.scope, w.vulnerable.text)
	}
	if log := w.logged.String(); !strings.Contains(log, "source=own") || !strings.Contains(log, "plant") {
		t.Errorf("not audited: %s", log)
	}
}
