package api

import (
	"context"
	"encoding/json"
	"net/http"

	"github.com/vauban-iot/vauban/head/rest"
	"github.com/vauban-iot/vauban/hub/throttle"
)

// ThrottleStore keeps what is limited. What the operator set counts before what the configuration file says.
type ThrottleStore interface {
	// Throttles returns what is in force; set tells whether the operator set it.
	Throttles(ctx context.Context) (l *throttle.Limits, set bool, err error)
	// PutThrottles puts limits in force.
	PutThrottles(ctx context.Context, l *throttle.Limits) error
	// DeleteThrottles returns to those of the configuration file.
	DeleteThrottles(ctx context.Context) error
}

// Throttles are the limits with where they come from.
type Throttles struct {
	Tier      string            `json:"tier,omitempty"`
	Units     int               `json:"units,omitempty"`
	Limits    map[string]string `json:"limits"`    // exceptions from the tier, as they were set
	Effective map[string]string `json:"effective"` // everything that is in force
	Source    string            `json:"source"`    // file or api
}

func (a *API) throttles(w http.ResponseWriter, r *http.Request) error {
	l, set, err := a.cfg.Throttles.Throttles(r.Context())
	if err != nil {
		return err
	}
	v := Throttles{Tier: l.Tier, Units: l.Units, Limits: l.Config.Limits, Effective: l.Effective(), Source: "file"}
	if v.Limits == nil {
		v.Limits = map[string]string{}
	}
	if set {
		v.Source = "api"
	}
	return writeJSON(w, http.StatusOK, v)
}

func (a *API) putThrottles(w http.ResponseWriter, r *http.Request) error {
	body, err := readBody(w, r)
	if err != nil {
		return err
	}
	l, err := throttle.Parse(body)
	if err != nil {
		return err
	}
	if err := a.cfg.Throttles.PutThrottles(r.Context(), l); err != nil {
		return err
	}
	text, err := json.Marshal(l.Config)
	if err != nil {
		return err
	}
	rest.Note(r.Context(), "limits", string(text))
	return a.throttles(w, r)
}

func (a *API) deleteThrottles(w http.ResponseWriter, r *http.Request) error {
	if err := a.cfg.Throttles.DeleteThrottles(r.Context()); err != nil {
		return err
	}
	return a.throttles(w, r)
}
