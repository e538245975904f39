package api

import (
	"context"
	"net/http"
	"time"

	"github.com/vauban-iot/vauban/fault"
	"github.com/vauban-iot/vauban/head/rest"
	"github.com/vauban-iot/vauban/hub/registry"
)

// ContainmentStore holds devices back; see hub.Hub.
type ContainmentStore interface {
	Containment(ctx context.Context, device string) (registry.Containment, error)
	Contained(ctx context.Context, after string, limit int) ([]registry.Containment, error)
	Contain(ctx context.Context, device string, level registry.Level, reason, by string) (registry.Containment, error)
	Uncontain(ctx context.Context, device, by string) (registry.Containment, error)
	ContainmentEffect(ctx context.Context, device string, to registry.Level) (registry.Effect, error)
}

// ContainmentPage is a part of the list of contained devices.
type ContainmentPage struct {
	Contained []registry.Containment `json:"contained"`
	Next      string                 `json:"next,omitempty"` // after which device the next page begins
}

func (a *API) contained(w http.ResponseWriter, r *http.Request) error {
	n, err := number(r.URL.Query(), "limit", defaultAlerts, maxAlerts)
	if err != nil {
		return err
	}
	limit := int(n)
	cs, err := a.cfg.Containment.Contained(r.Context(), r.URL.Query().Get("after"), limit)
	if err != nil {
		return err
	}
	p := ContainmentPage{Contained: cs}
	if p.Contained == nil {
		p.Contained = []registry.Containment{}
	}
	if len(cs) == limit {
		p.Next = cs[len(cs)-1].Device
	}
	return writeJSON(w, http.StatusOK, p)
}

func (a *API) containment(w http.ResponseWriter, r *http.Request) error {
	c, err := a.cfg.Containment.Containment(r.Context(), r.PathValue("device"))
	if err != nil {
		return err
	}
	return writeJSON(w, http.StatusOK, c)
}

func (a *API) containmentEffect(w http.ResponseWriter, r *http.Request) error {
	level, err := registry.ParseLevel(r.URL.Query().Get("level"))
	if err != nil {
		return err
	}
	e, err := a.cfg.Containment.ContainmentEffect(r.Context(), r.PathValue("device"), level)
	if err != nil {
		return err
	}
	return writeJSON(w, http.StatusOK, e)
}

func (a *API) contain(w http.ResponseWriter, r *http.Request) error {
	var in struct {
		Level  *registry.Level `json:"level"`
		Reason string          `json:"reason"`
	}
	if err := readJSON(w, r, &in, `the body must be {"level": ..., "reason": ...}, where level is none, observe, telemetry-only or cut`); err != nil {
		return err
	}
	if in.Level == nil {
		return fault.New(fault.Invalid, "the body needs a level: none, observe, telemetry-only or cut")
	}
	rest.Note(r.Context(), "level", in.Level.String())
	rest.Note(r.Context(), "reason", in.Reason)
	// Whoever asked may be gone; what was decided is still carried out.
	ctx, cancel := context.WithTimeout(context.WithoutCancel(r.Context()), time.Minute)
	defer cancel()
	c, err := a.cfg.Containment.Contain(ctx, r.PathValue("device"), *in.Level, in.Reason, operator)
	if err != nil {
		return err
	}
	return writeJSON(w, http.StatusOK, c)
}

func (a *API) uncontain(w http.ResponseWriter, r *http.Request) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(r.Context()), time.Minute)
	defer cancel()
	c, err := a.cfg.Containment.Uncontain(ctx, r.PathValue("device"), operator)
	if err != nil {
		return err
	}
	rest.Note(r.Context(), "level", c.Level.String())
	return writeJSON(w, http.StatusOK, c)
}
