package api

import (
	"context"
	"encoding/json"
	"net/http"
	"strconv"

	"github.com/vauban-iot/vauban/defender/behaviour"
	"github.com/vauban-iot/vauban/fault"
	"github.com/vauban-iot/vauban/head/rest"
)

// Detector is a detector of behaviour, and whether it is on.
type Detector = behaviour.State

// DetectorStore keeps which detectors are on.
type DetectorStore interface {
	// Detectors lists all there are.
	Detectors(ctx context.Context) ([]Detector, error)
	// SwitchDetector switches one on or off, on all servers; fault.NotFound.
	SwitchDetector(ctx context.Context, name string, enabled bool) error
}

func (a *API) detectors(w http.ResponseWriter, r *http.Request) error {
	all, err := a.cfg.Detectors.Detectors(r.Context())
	if err != nil {
		return err
	}
	return writeJSON(w, http.StatusOK, map[string][]Detector{"value": all})
}

func (a *API) putDetector(w http.ResponseWriter, r *http.Request) error {
	body, err := readBody(w, r)
	if err != nil {
		return err
	}
	var v struct {
		Enabled *bool `json:"enabled"`
	}
	if err := json.Unmarshal(body, &v); err != nil || v.Enabled == nil {
		return fault.New(fault.Invalid, `send {"enabled": true} or {"enabled": false}`)
	}
	name := r.PathValue("name")
	if err := a.cfg.Detectors.SwitchDetector(r.Context(), name, *v.Enabled); err != nil {
		return err
	}
	rest.Note(r.Context(), "enabled", strconv.FormatBool(*v.Enabled))
	all, err := a.cfg.Detectors.Detectors(r.Context())
	if err != nil {
		return err
	}
	for _, d := range all {
		if d.Name == name {
			return writeJSON(w, http.StatusOK, d)
		}
	}
	return fault.New(fault.NotFound, "there is no detector %q", name)
}
