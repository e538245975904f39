package api

import (
	"context"
	"net/http"
	"slices"
	"time"

	"github.com/vauban-iot/vauban/defender/alert"
	"github.com/vauban-iot/vauban/defender/group"
	"github.com/vauban-iot/vauban/defender/posture"
	"github.com/vauban-iot/vauban/fault"
	"github.com/vauban-iot/vauban/head/rest"
	"github.com/vauban-iot/vauban/iot"
)

// RecommendationStore is what the API needs of [posture.Store] and [posture.Book].
type RecommendationStore interface {
	Recommendations(ctx context.Context, f posture.Filter) ([]posture.Recommendation, error)
	Recommendation(ctx context.Context, id string) (posture.Recommendation, error)
	Totals(ctx context.Context, of posture.Whole) (posture.Totals, error)
	Disabled(ctx context.Context) (posture.Disabled, error)
	Enable(ctx context.Context, enabled bool, at time.Time, names ...string) (resolved int, err error)
}

func (a *API) recommendations(w http.ResponseWriter, r *http.Request) error {
	query := r.URL.Query()
	f := posture.Filter{
		Device: query.Get("device"), Type: query.Get("type"), State: posture.State(query.Get("state")), Severity: alert.Severity(query.Get("severity")),
		Group: query.Get("group"),
	}
	if f.Device != "" {
		if err := iot.ValidateID("device", f.Device); err != nil {
			return err
		}
	}
	if f.Group != "" {
		if err := group.CheckName(f.Group); err != nil {
			return err
		}
	}
	if f.State != "" && f.State != posture.Active && f.State != posture.Resolved {
		return fault.New(fault.Invalid, "state must be Active or Resolved")
	}
	if severities := []alert.Severity{alert.High, alert.Medium, alert.Low, alert.Informational}; f.Severity != "" && !slices.Contains(severities, f.Severity) {
		return fault.New(fault.Invalid, "severity must be High, Medium, Low or Informational")
	}
	switch query.Get("hub") {
	case "", "false":
	case "true":
		f.Hub = true
	default:
		return fault.New(fault.Invalid, "hub must be true or false")
	}
	if f.Hub && (f.Device != "" || f.Group != "") {
		return fault.New(fault.Invalid, "hub lists what is about no device: leave out device and group")
	}
	limit, err := number(query, "limit", defaultAlerts, maxAlerts)
	if err != nil {
		return err
	}
	f.Limit = int(limit)
	const maxSequence = 1<<63 - 1
	if f.Before, err = number(query, "before", 0, maxSequence); err != nil {
		return err
	}
	list, err := a.cfg.Recommendations.Recommendations(r.Context(), f)
	if err != nil {
		return err
	}
	if list == nil {
		list = []posture.Recommendation{}
	}
	return writeJSON(w, http.StatusOK, map[string][]posture.Recommendation{"recommendations": list})
}

func (a *API) recommendation(w http.ResponseWriter, r *http.Request) error {
	one, err := a.cfg.Recommendations.Recommendation(r.Context(), r.PathValue("id"))
	if err != nil {
		return err
	}
	return writeJSON(w, http.StatusOK, one)
}

func (a *API) recommendationTypes(w http.ResponseWriter, r *http.Request) error {
	disabled, err := a.cfg.Recommendations.Disabled(r.Context())
	if err != nil {
		return err
	}
	totals, err := a.cfg.Recommendations.Totals(r.Context(), posture.Whole{})
	if err != nil {
		return err
	}
	return writeJSON(w, http.StatusOK, map[string][]posture.TypeState{"recommendationTypes": posture.States(disabled, totals)})
}

// Switch is the body of PUT /api/recommendation-types/{name}.
type Switch struct {
	Enabled *bool `json:"enabled"`
}

// Switched is the answer to it.
type Switched struct {
	Name     string `json:"recommendationType"`
	Enabled  bool   `json:"enabled"`
	Resolved int    `json:"resolved"` // that were active of a type that is disabled now
}

func (a *API) putRecommendationType(w http.ResponseWriter, r *http.Request) error {
	var s Switch
	if err := readJSON(w, r, &s, "the body does not say whether the type is enabled"); err != nil {
		return err
	}
	if s.Enabled == nil {
		return fault.New(fault.Invalid, `send {"enabled":true} or {"enabled":false}`)
	}
	name := r.PathValue("name")
	if !posture.Known(name) {
		return fault.New(fault.NotFound, "there is no recommendation type %q; GET /api/recommendation-types lists them", name)
	}
	resolved, err := a.cfg.Recommendations.Enable(r.Context(), *s.Enabled, a.cfg.Now().UTC(), name)
	if err != nil {
		return err
	}
	rest.Note(r.Context(), "type", name, "enabled", *s.Enabled, "resolved", resolved)
	return writeJSON(w, http.StatusOK, Switched{name, *s.Enabled, resolved})
}

func (a *API) securityScore(w http.ResponseWriter, r *http.Request) error {
	query := r.URL.Query()
	of := posture.Whole{Device: query.Get("device"), Group: query.Get("group")}
	switch {
	case of.Device != "" && of.Group != "":
		return fault.New(fault.Invalid, "ask for the score of a device or of a group")
	case of.Device != "":
		if err := iot.ValidateID("device", of.Device); err != nil {
			return err
		}
	case of.Group != "":
		if err := group.CheckName(of.Group); err != nil {
			return err
		}
	}
	totals, err := a.cfg.Recommendations.Totals(r.Context(), of)
	if err != nil {
		return err
	}
	return writeJSON(w, http.StatusOK, posture.ScoreOf(of, totals))
}
