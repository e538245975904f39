package api

import (
	"context"
	"encoding/json"
	"io"
	"net/http"

	"github.com/vauban-iot/vauban/access"
	"github.com/vauban-iot/vauban/fault"
	"github.com/vauban-iot/vauban/head/rest"
)

// Policy is a shared access policy with what its keys are for. Lists leave the keys out.
type Policy struct {
	Name    string `json:"name"`
	Service string `json:"service"` // hub or provisioning
	Rights  string `json:"rights"`

	PrimaryKey                string `json:"primaryKey,omitempty"`
	SecondaryKey              string `json:"secondaryKey,omitempty"`
	PrimaryConnectionString   string `json:"primaryConnectionString,omitempty"`
	SecondaryConnectionString string `json:"secondaryConnectionString,omitempty"`
}

// PolicyStore keeps shared access policies.
type PolicyStore interface {
	// Policies lists all, without keys.
	Policies(ctx context.Context) ([]Policy, error)
	// Policy returns one with its keys; fault.NotFound.
	Policy(ctx context.Context, name string) (Policy, error)
	// RotateKey changes a key, at once, and keeps connection.json true; fault.NotFound and Invalid.
	RotateKey(ctx context.Context, name string, key access.Key) (Policy, error)
}

func (a *API) policies(w http.ResponseWriter, r *http.Request) error {
	ps, err := a.cfg.Policies.Policies(r.Context())
	if err != nil {
		return err
	}
	return writeJSON(w, http.StatusOK, map[string][]Policy{"policies": ps})
}

func (a *API) policy(w http.ResponseWriter, r *http.Request) error {
	p, err := a.cfg.Policies.Policy(r.Context(), r.PathValue("name"))
	if err != nil {
		return err
	}
	return writeJSON(w, http.StatusOK, p)
}

func (a *API) rotatePolicy(w http.ResponseWriter, r *http.Request) error {
	var body struct {
		Key access.Key `json:"key"`
	}
	if err := readJSON(w, r, &body, "the body is not an object with key"); err != nil {
		return err
	}
	rest.Note(r.Context(), "key", string(body.Key))
	p, err := a.cfg.Policies.RotateKey(r.Context(), r.PathValue("name"), body.Key)
	if err != nil {
		return err
	}
	return writeJSON(w, http.StatusOK, p)
}

// maxSettings bounds the bodies of small settings.
const maxSettings = 64 << 10

func readBody(w http.ResponseWriter, r *http.Request) ([]byte, error) {
	body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, maxSettings))
	if err != nil {
		return nil, fault.Wrap(fault.TooLarge, err, "the body may have %d bytes", maxSettings)
	}
	return body, nil
}

func readJSON(w http.ResponseWriter, r *http.Request, v any, otherwise string) error {
	body, err := readBody(w, r)
	if err != nil {
		return err
	}
	if err := json.Unmarshal(body, v); err != nil {
		return fault.Wrap(fault.Malformed, err, "%s", otherwise)
	}
	return nil
}
