package api

import (
	"context"
	"encoding/json"
	"net/http"
	"strconv"
	"time"

	"github.com/vauban-iot/vauban/dps"
	"github.com/vauban-iot/vauban/fault"
	"github.com/vauban-iot/vauban/head/rest"
	"github.com/vauban-iot/vauban/internal/secret"
	"github.com/vauban-iot/vauban/iot"
	"github.com/vauban-iot/vauban/pki"
	"github.com/vauban-iot/vauban/wire/connstr"
)

// Provisioner is the part of [dps.Service] that Azure has in its management plane, and imports.
type Provisioner interface {
	IDScope() string
	LinkedHubs(ctx context.Context) ([]dps.LinkedHub, error)
	LinkHub(ctx context.Context, h dps.LinkedHub) (dps.LinkedHub, error)
	UnlinkHub(ctx context.Context, host string) error
	CAs(ctx context.Context) ([]dps.CA, error)
	PutCA(ctx context.Context, name, pem string, verified bool, match *iot.Match) (dps.CA, error)
	DeleteCA(ctx context.Context, name string, match *iot.Match) error
	VerificationCode(ctx context.Context, name string, match *iot.Match) (dps.CA, error)
	VerifyCA(ctx context.Context, name, pem string, match *iot.Match) (dps.CA, error)
	Import(ctx context.Context, in dps.Import) (dps.Imported, error)
}

var _ Provisioner = (*dps.Service)(nil)

// provisioning guards the paths of an installation without a provisioning service.
func provisioning(serve endpoint) endpoint {
	return func(a *API, w http.ResponseWriter, r *http.Request) error {
		if a.cfg.Provisioning == nil {
			return fault.New(fault.NotFound, "this installation has no provisioning service")
		}
		return serve(a, w, r)
	}
}

func (a *API) provisioningService(w http.ResponseWriter, _ *http.Request) error {
	return writeJSON(w, http.StatusOK, map[string]string{"idScope": a.cfg.Provisioning.IDScope()})
}

// HubView is a linked hub as the API shows it: without its key.
type HubView struct {
	Host     string   `json:"host"`
	Own      bool     `json:"own"`              // this installation's
	Policy   string   `json:"policy,omitempty"` // of the connection string
	Address  string   `json:"address,omitempty"`
	Weight   int      `json:"weight"`
	Excluded bool     `json:"excluded"`
	Networks []string `json:"networks"`
}

func newHubView(h dps.LinkedHub) HubView {
	v := HubView{Host: h.Host, Own: h.ConnectionString.IsZero(), Address: h.Address, Weight: h.Weight, Excluded: h.Excluded, Networks: h.Networks}
	if cs, err := connstr.Parse(string(h.ConnectionString.Reveal())); err == nil {
		v.Policy = cs.SharedAccessKeyName
	}
	if v.Networks == nil {
		v.Networks = []string{}
	}
	return v
}

func (a *API) linkedHubs(w http.ResponseWriter, r *http.Request) error {
	hubs, err := a.cfg.Provisioning.LinkedHubs(r.Context())
	if err != nil {
		return err
	}
	views := make([]HubView, len(hubs))
	for i, h := range hubs {
		views[i] = newHubView(h)
	}
	return writeJSON(w, http.StatusOK, map[string][]HubView{"hubs": views})
}

func (a *API) linkHub(w http.ResponseWriter, r *http.Request) error {
	var body struct {
		ConnectionString string   `json:"connectionString"`
		Address          string   `json:"address"`
		Authority        string   `json:"authority"`
		Weight           int      `json:"weight"`
		Excluded         bool     `json:"excluded"`
		Networks         []string `json:"networks"`
	}
	if err := readJSON(w, r, &body, "the body is not the JSON of a linked hub"); err != nil {
		return err
	}
	rest.Note(r.Context(), "address", body.Address, "weight", body.Weight, "excluded", body.Excluded, "networks", body.Networks)
	h := dps.LinkedHub{
		Host: r.PathValue("host"), Address: body.Address, Authority: body.Authority, Weight: body.Weight, Excluded: body.Excluded, Networks: body.Networks,
	}
	if body.ConnectionString != "" {
		h.ConnectionString = secret.New([]byte(body.ConnectionString))
	}
	h, err := a.cfg.Provisioning.LinkHub(r.Context(), h)
	if err != nil {
		return err
	}
	return writeJSON(w, http.StatusOK, newHubView(h))
}

func (a *API) unlinkHub(w http.ResponseWriter, r *http.Request) error {
	if err := a.cfg.Provisioning.UnlinkHub(r.Context(), r.PathValue("host")); err != nil {
		return err
	}
	w.WriteHeader(http.StatusNoContent)
	return nil
}

// CAView is a CA of the provisioning service as the API shows it.
type CAView struct {
	CertificateView
	Verified bool      `json:"isVerified"`
	Code     string    `json:"verificationCode,omitempty"`
	Expires  time.Time `json:"verificationCodeExpires,omitzero"`
	ETag     string    `json:"etag"`
}

func newCAView(ca dps.CA) (CAView, error) {
	cs, err := pki.ParseCertificates([]byte(ca.Certificate))
	if err != nil {
		return CAView{}, err
	}
	return CAView{newCertificateView(ca.Name, cs[0]), ca.Verified, ca.Code, ca.CodeExpires, string(ca.ETag)}, nil
}

func writeCA(w http.ResponseWriter, ca dps.CA, err error) error {
	if err != nil {
		return err
	}
	v, err := newCAView(ca)
	if err != nil {
		return err
	}
	return writeJSON(w, http.StatusOK, v)
}

func (a *API) provisioningCAs(w http.ResponseWriter, r *http.Request) error {
	cas, err := a.cfg.Provisioning.CAs(r.Context())
	if err != nil {
		return err
	}
	views := make([]CAView, len(cas))
	for i, ca := range cas {
		if views[i], err = newCAView(ca); err != nil {
			return err
		}
		views[i].Code, views[i].Expires = "", time.Time{} // for who asks for it
	}
	return writeJSON(w, http.StatusOK, map[string][]CAView{"certificates": views})
}

func match(r *http.Request) *iot.Match { return iot.ParseMatch(r.Header.Get("If-Match")) }

func (a *API) putProvisioningCA(w http.ResponseWriter, r *http.Request) error {
	verified := false
	if v := r.URL.Query().Get("verified"); v != "" {
		var err error
		if verified, err = strconv.ParseBool(v); err != nil {
			return fault.New(fault.Invalid, "verified must be true or false")
		}
	}
	body, err := rest.Body(w, r, maxCertificate)
	if err != nil {
		return err
	}
	ca, err := a.cfg.Provisioning.PutCA(r.Context(), r.PathValue("name"), string(body), verified, match(r))
	rest.Note(r.Context(), "verified", ca.Verified)
	return writeCA(w, ca, err)
}

func (a *API) deleteProvisioningCA(w http.ResponseWriter, r *http.Request) error {
	if err := a.cfg.Provisioning.DeleteCA(r.Context(), r.PathValue("name"), match(r)); err != nil {
		return err
	}
	w.WriteHeader(http.StatusNoContent)
	return nil
}

func (a *API) verificationCode(w http.ResponseWriter, r *http.Request) error {
	ca, err := a.cfg.Provisioning.VerificationCode(r.Context(), r.PathValue("name"), match(r))
	return writeCA(w, ca, err)
}

func (a *API) verifyProvisioningCA(w http.ResponseWriter, r *http.Request) error {
	body, err := rest.Body(w, r, maxCertificate)
	if err != nil {
		return err
	}
	ca, err := a.cfg.Provisioning.VerifyCA(r.Context(), r.PathValue("name"), string(body), match(r))
	return writeCA(w, ca, err)
}

// maxImport bounds one part of an import.
const maxImport = 32 << 20

func (a *API) importEnrollments(w http.ResponseWriter, r *http.Request) error {
	body, err := rest.Body(w, r, maxImport)
	if err != nil {
		return err
	}
	var in struct {
		Mode   string            `json:"mode"`
		DryRun bool              `json:"dryRun"`
		Rows   []json.RawMessage `json:"enrollments"`
		Groups []json.RawMessage `json:"enrollmentGroups"`
	}
	if err := json.Unmarshal(body, &in); err != nil {
		return fault.Wrap(fault.Malformed, err, "the body is not the JSON of an import: %v", err)
	}
	if in.Rows != nil && in.Groups != nil {
		return fault.New(fault.Invalid, "an import is of enrollments or of enrollmentGroups")
	}
	part := dps.Import{Mode: in.Mode, DryRun: in.DryRun, Rows: in.Rows}
	if in.Groups != nil {
		part.Group, part.Rows = true, in.Groups
	}
	out, err := a.cfg.Provisioning.Import(r.Context(), part)
	if err != nil {
		return err
	}
	rest.Note(r.Context(), "mode", in.Mode, "dryRun", in.DryRun, "created", out.Created, "updated", out.Updated, "refused", len(out.Errors))
	return writeJSON(w, http.StatusOK, out)
}
