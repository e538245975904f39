package api

import (
	"cmp"
	"context"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"time"

	"github.com/vauban-iot/vauban/defender/group"
	"github.com/vauban-iot/vauban/defender/vuln"
	"github.com/vauban-iot/vauban/defender/vuln/format"
	"github.com/vauban-iot/vauban/fault"
	"github.com/vauban-iot/vauban/head/rest"
	"github.com/vauban-iot/vauban/iot"
)

// VulnerabilityStore is what the API needs of [vuln.Manager].
type VulnerabilityStore interface {
	Sources(ctx context.Context) ([]vuln.Source, error)
	VulnTotals(ctx context.Context) (vuln.Totals, error)
	Running() (vuln.Import, bool)
	Import(ctx context.Context, name string, body io.Reader) (vuln.Source, error)
	DeleteSource(ctx context.Context, name string) error
	Vulnerabilities(ctx context.Context, f vuln.Filter) ([]vuln.Row, error)
	VulnerableDevices(ctx context.Context, vulnerability, after string, limit int) ([]string, error)
	VEXDocuments(ctx context.Context) ([]vuln.VEX, error)
	AddVEX(ctx context.Context, name string, scope vuln.Scope, text []byte) (vuln.VEX, error)
	DeleteVEX(ctx context.Context, name string) error
	Bills(ctx context.Context) ([]vuln.Document, error)
	AddBill(ctx context.Context, name string, scope vuln.Scope, text []byte) (d vuln.Document, left int, err error)
	DeleteBill(ctx context.Context, name string) error
	// SoftwareOf is what is known of a device's software; fault.NotFound.
	SoftwareOf(ctx context.Context, device string) ([]vuln.Package, error)
}

// VulnerabilityStatus is the answer to GET /api/vulnerability-database.
type VulnerabilityStatus struct {
	vuln.Totals
	Sources []AgedSource `json:"sources"`
	Import  *vuln.Import `json:"import,omitempty"` // that goes on, on the server that answers
}

// AgedSource is a source with its age.
type AgedSource struct {
	vuln.Source
	AgeHours int `json:"ageHours"` // since its newest record was published; since it was imported when it does not say
}

func (a *API) vulnerabilityDatabase(w http.ResponseWriter, r *http.Request) error {
	sources, err := a.cfg.Vulnerabilities.Sources(r.Context())
	if err != nil {
		return err
	}
	s := VulnerabilityStatus{Sources: []AgedSource{}}
	if s.Totals, err = a.cfg.Vulnerabilities.VulnTotals(r.Context()); err != nil {
		return err
	}
	for _, v := range sources {
		since := v.Published
		if since.IsZero() {
			since = v.Imported
		}
		s.Sources = append(s.Sources, AgedSource{v, int(max(0, a.cfg.Now().Sub(since)).Hours())})
	}
	if i, ok := a.cfg.Vulnerabilities.Running(); ok {
		s.Import = &i
	}
	return writeJSON(w, http.StatusOK, s)
}

func (a *API) importVulnerabilities(w http.ResponseWriter, r *http.Request) error {
	s, err := a.cfg.Vulnerabilities.Import(r.Context(), r.URL.Query().Get("name"), r.Body)
	if err != nil {
		return err
	}
	rest.Note(r.Context(), "source", s.Name, "kind", string(s.Kind), "records", s.Records, "broken", s.Broken)
	return writeJSON(w, http.StatusOK, s)
}

func (a *API) deleteVulnerabilitySource(w http.ResponseWriter, r *http.Request) error {
	if err := a.cfg.Vulnerabilities.DeleteSource(r.Context(), r.PathValue("name")); err != nil {
		return err
	}
	w.WriteHeader(http.StatusNoContent)
	return nil
}

func (a *API) vulnerabilities(w http.ResponseWriter, r *http.Request) error {
	query := r.URL.Query()
	f := vuln.Filter{Device: query.Get("device"), Vulnerability: query.Get("vulnerability"), Package: query.Get("package"), Status: query.Get("status"), After: query.Get("after")}
	if f.Device != "" {
		if err := iot.ValidateID("device", f.Device); err != nil {
			return err
		}
	}
	switch f.Status {
	case "", vuln.Unsuppressed, vuln.Suppressed:
	default:
		return fault.New(fault.Invalid, "status must be open or suppressed")
	}
	switch query.Get("exploited") {
	case "", "false":
	case "true":
		f.Exploited = true
	default:
		return fault.New(fault.Invalid, "exploited must be true or false")
	}
	limit, err := number(query, "limit", defaultAlerts, maxAlerts)
	if err != nil {
		return err
	}
	f.Limit = int(limit)
	rows, err := a.cfg.Vulnerabilities.Vulnerabilities(r.Context(), f)
	if err != nil {
		return err
	}
	if rows == nil {
		rows = []vuln.Row{}
	}
	return writeJSON(w, http.StatusOK, map[string][]vuln.Row{"vulnerabilities": rows})
}

// Vulnerability is one with where it is.
type Vulnerability struct {
	ID       string     `json:"vulnerability"`
	Findings []vuln.Row `json:"findings"` // at most 1000: one for each package
	Devices  []string   `json:"devices"`  // that have it unsuppressed, a page of them
}

func (a *API) vulnerability(w http.ResponseWriter, r *http.Request) error {
	limit, err := number(r.URL.Query(), "limit", defaultAlerts, maxAlerts)
	if err != nil {
		return err
	}
	v := Vulnerability{ID: r.PathValue("id")}
	if v.Findings, err = a.cfg.Vulnerabilities.Vulnerabilities(r.Context(), vuln.Filter{Vulnerability: v.ID, Limit: maxAlerts}); err != nil {
		return err
	}
	if len(v.Findings) == 0 {
		return fault.New(fault.NotFound, "no device has the vulnerability %s, as far as the imported database knows", format.Clip(v.ID, 60))
	}
	if v.Devices, err = a.cfg.Vulnerabilities.VulnerableDevices(r.Context(), v.ID, r.URL.Query().Get("after"), int(limit)); err != nil {
		return err
	}
	if v.Devices == nil {
		v.Devices = []string{}
	}
	return writeJSON(w, http.StatusOK, v)
}

// VEXSummary is a document without its statements.
type VEXSummary struct {
	Name       string     `json:"name"`
	Scope      vuln.Scope `json:"scope"`
	Statements int        `json:"statements"`
	Updated    time.Time  `json:"updated"`
}

func (a *API) vexDocuments(w http.ResponseWriter, r *http.Request) error {
	all, err := a.cfg.Vulnerabilities.VEXDocuments(r.Context())
	if err != nil {
		return err
	}
	list := []VEXSummary{}
	for _, v := range all {
		list = append(list, VEXSummary{v.Name, v.Scope, len(v.Statements), v.Updated})
	}
	return writeJSON(w, http.StatusOK, map[string][]VEXSummary{"documents": list})
}

func (a *API) vexDocument(w http.ResponseWriter, r *http.Request) error {
	all, err := a.cfg.Vulnerabilities.VEXDocuments(r.Context())
	if err != nil {
		return err
	}
	for _, v := range all {
		if v.Name == r.PathValue("name") {
			return writeJSON(w, http.StatusOK, v)
		}
	}
	return fault.New(fault.NotFound, "there is no document of VEX %s", format.Clip(r.PathValue("name"), 60))
}

// scopeOf reads for which devices a document is.
func scopeOf(query url.Values) (vuln.Scope, error) {
	s := vuln.Scope{Device: query.Get("device"), Group: query.Get("group"), Product: query.Get("product"), Firmware: query.Get("firmware")}
	if s.Device != "" {
		if err := iot.ValidateID("device", s.Device); err != nil {
			return s, err
		}
	}
	if s.Group != "" {
		if err := group.CheckName(s.Group); err != nil {
			return s, err
		}
	}
	if len(s.Product) > 512 || len(s.Firmware) > 128 {
		return s, fault.New(fault.Invalid, "product has 512 bytes at most, firmware 128")
	}
	return s, nil
}

// bodyOf reads the body of a document.
func bodyOf(w http.ResponseWriter, r *http.Request, most int64) ([]byte, error) {
	text, err := io.ReadAll(http.MaxBytesReader(w, r.Body, most))
	if err != nil {
		return nil, fault.New(fault.Invalid, "the document cannot be read, or is over %d MiB", most>>20)
	}
	return text, nil
}

func (a *API) putVEX(w http.ResponseWriter, r *http.Request) error {
	scope, err := scopeOf(r.URL.Query())
	if err != nil {
		return err
	}
	text, err := bodyOf(w, r, format.MaxVEX)
	if err != nil {
		return err
	}
	v, err := a.cfg.Vulnerabilities.AddVEX(r.Context(), r.PathValue("name"), scope, text)
	if err != nil {
		return err
	}
	rest.Note(r.Context(), "statements", len(v.Statements), "scope", fmt.Sprintf("%+v", scope))
	return writeJSON(w, http.StatusOK, VEXSummary{v.Name, v.Scope, len(v.Statements), v.Updated})
}

func (a *API) deleteVEX(w http.ResponseWriter, r *http.Request) error {
	if err := a.cfg.Vulnerabilities.DeleteVEX(r.Context(), r.PathValue("name")); err != nil {
		return err
	}
	w.WriteHeader(http.StatusNoContent)
	return nil
}

func (a *API) sboms(w http.ResponseWriter, r *http.Request) error {
	all, err := a.cfg.Vulnerabilities.Bills(r.Context())
	if err != nil {
		return err
	}
	if all == nil {
		all = []vuln.Document{}
	}
	return writeJSON(w, http.StatusOK, map[string][]vuln.Document{"documents": all})
}

// KeptSBOM is a bill of materials that was kept.
type KeptSBOM struct {
	vuln.Document
	Left int `json:"left"` // packages beyond the bound, which are not kept
}

func (a *API) putSBOM(w http.ResponseWriter, r *http.Request) error {
	scope, err := scopeOf(r.URL.Query())
	if err != nil {
		return err
	}
	text, err := bodyOf(w, r, format.MaxBill)
	if err != nil {
		return err
	}
	d, left, err := a.cfg.Vulnerabilities.AddBill(r.Context(), r.PathValue("name"), scope, text)
	if err != nil {
		return err
	}
	rest.Note(r.Context(), "packages", d.Packages, "scope", fmt.Sprintf("%+v", scope))
	return writeJSON(w, http.StatusOK, KeptSBOM{d, left})
}

func (a *API) deleteSBOM(w http.ResponseWriter, r *http.Request) error {
	if err := a.cfg.Vulnerabilities.DeleteBill(r.Context(), r.PathValue("name")); err != nil {
		return err
	}
	w.WriteHeader(http.StatusNoContent)
	return nil
}

// SBOM is the software of a device as CycloneDX 1.5.
type SBOM struct {
	Format     string          `json:"bomFormat"`
	Version    string          `json:"specVersion"`
	Number     int             `json:"version"`
	Metadata   SBOMMetadata    `json:"metadata"`
	Components []SBOMComponent `json:"components"`
}

// SBOMMetadata says what the document is about.
type SBOMMetadata struct {
	Component SBOMComponent `json:"component"`
}

// SBOMComponent is a component of CycloneDX.
type SBOMComponent struct {
	Type      string `json:"type"`
	Name      string `json:"name"`
	Version   string `json:"version,omitempty"`
	Publisher string `json:"publisher,omitempty"`
	PURL      string `json:"purl,omitempty"`
}

func (a *API) deviceSBOM(w http.ResponseWriter, r *http.Request) error {
	device := r.PathValue("device")
	if err := iot.ValidateID("device", device); err != nil {
		return err
	}
	all, err := a.cfg.Vulnerabilities.SoftwareOf(r.Context(), device)
	if fault.Is(err, fault.NotFound) {
		return fault.New(fault.NotFound, "nothing is known of the software of %s: its agent sent no SBoM, and no document is about it", device)
	}
	if err != nil {
		return err
	}
	b := SBOM{Format: "CycloneDX", Version: "1.5", Number: 1, Metadata: SBOMMetadata{SBOMComponent{Type: "device", Name: device}}, Components: []SBOMComponent{}}
	for i := range all {
		p := &all[i]
		b.Components = append(b.Components, SBOMComponent{"library", cmp.Or(p.Name, "unknown"), p.Version, p.Vendor, p.PURL()})
	}
	return writeJSON(w, http.StatusOK, b)
}
