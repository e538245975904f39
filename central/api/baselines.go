package api

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"strconv"

	"github.com/vauban-iot/vauban/defender/baseline"
	"github.com/vauban-iot/vauban/fault"
	"github.com/vauban-iot/vauban/head/rest"
	"github.com/vauban-iot/vauban/wire/mud"
)

// BaselineStore learns and keeps what the devices of security groups usually do; see [baseline.Service].
type BaselineStore interface {
	Baselines(ctx context.Context) ([]baseline.Baseline, error)
	// Baseline returns one; fault.NotFound, as all below.
	Baseline(ctx context.Context, group string) (baseline.Baseline, error)
	Learn(ctx context.Context, group, by string, t baseline.Terms) (baseline.Baseline, error)
	Propose(ctx context.Context, group, by string) (baseline.Baseline, error)
	Edit(ctx context.Context, group, by string, e baseline.Edit) (baseline.Baseline, error)
	Enforce(ctx context.Context, group, by string) (baseline.Baseline, error)
	Relax(ctx context.Context, group, by string) (baseline.Baseline, error)
	TurnOff(ctx context.Context, group string) error
	Preview(ctx context.Context, group string, days int) (baseline.Preview, error)
	Promote(ctx context.Context, group string) (baseline.Promotion, error)
	ImportMUD(ctx context.Context, group, by string, text []byte, merge bool) (baseline.Baseline, error)
	ExportMUD(ctx context.Context, group, address, info string) ([]byte, error)
}

func (a *API) baselines(w http.ResponseWriter, r *http.Request) error {
	all, err := a.cfg.Baselines.Baselines(r.Context())
	if err != nil {
		return err
	}
	views := make([]baseline.Baseline, len(all))
	for i := range all {
		views[i] = whole(all[i])
	}
	return writeJSON(w, http.StatusOK, map[string][]baseline.Baseline{"value": views})
}

// whole has lists where there are none.
func whole(b baseline.Baseline) baseline.Baseline {
	if b.Entries == nil {
		b.Entries = []baseline.Entry{}
	}
	if b.Limits == nil {
		b.Limits = []baseline.Limit{}
	}
	return b
}

// answerBaseline notes for the audit what became of a baseline, and answers with it.
func answerBaseline(w http.ResponseWriter, r *http.Request, b baseline.Baseline, err error) error {
	if err != nil {
		return err
	}
	rest.Note(r.Context(), "state", string(b.State), "version", b.Version)
	return writeJSON(w, http.StatusOK, whole(b))
}

func (a *API) baseline(w http.ResponseWriter, r *http.Request) error {
	b, err := a.cfg.Baselines.Baseline(r.Context(), r.PathValue("group"))
	if err != nil {
		return err
	}
	return writeJSON(w, http.StatusOK, whole(b))
}

func (a *API) deleteBaseline(w http.ResponseWriter, r *http.Request) error {
	if err := a.cfg.Baselines.TurnOff(r.Context(), r.PathValue("group")); err != nil {
		return err
	}
	w.WriteHeader(http.StatusNoContent)
	return nil
}

// strictly reads a body in which an unknown member is a mistake, and which may be absent.
func strictly(w http.ResponseWriter, r *http.Request, into any, limit int64, otherwise string) error {
	d := json.NewDecoder(http.MaxBytesReader(w, r.Body, limit))
	d.DisallowUnknownFields()
	err := d.Decode(into)
	if err == nil || errors.Is(err, io.EOF) {
		return nil
	}
	if _, ok := errors.AsType[*http.MaxBytesError](err); ok {
		return fault.Wrap(fault.TooLarge, err, "the body may have %d bytes", limit)
	}
	return fault.Wrap(fault.Malformed, err, "%s: %v", otherwise, err)
}

func (a *API) learnBaseline(w http.ResponseWriter, r *http.Request) error {
	var t baseline.Terms
	if err := strictly(w, r, &t, maxSettings, "the body is not the terms of learning"); err != nil {
		return err
	}
	rest.Note(r.Context(), "minTime", t.MinTime, "minDevices", t.MinDevices, "minShare", t.MinShare)
	b, err := a.cfg.Baselines.Learn(r.Context(), r.PathValue("group"), operator, t)
	return answerBaseline(w, r, b, err)
}

func (a *API) proposeBaseline(w http.ResponseWriter, r *http.Request) error {
	b, err := a.cfg.Baselines.Propose(r.Context(), r.PathValue("group"), operator)
	return answerBaseline(w, r, b, err)
}

func (a *API) editBaseline(w http.ResponseWriter, r *http.Request) error {
	var e baseline.Edit
	if err := strictly(w, r, &e, baseline.MaxSize, "the body is not an edit"); err != nil {
		return err
	}
	text, err := json.Marshal(e)
	if err != nil {
		return err
	}
	rest.Note(r.Context(), "edit", string(text[:min(len(text), 4<<10)]))
	b, err := a.cfg.Baselines.Edit(r.Context(), r.PathValue("group"), operator, e)
	return answerBaseline(w, r, b, err)
}

func (a *API) enforceBaseline(w http.ResponseWriter, r *http.Request) error {
	b, err := a.cfg.Baselines.Enforce(r.Context(), r.PathValue("group"), operator)
	return answerBaseline(w, r, b, err)
}

func (a *API) relaxBaseline(w http.ResponseWriter, r *http.Request) error {
	b, err := a.cfg.Baselines.Relax(r.Context(), r.PathValue("group"), operator)
	return answerBaseline(w, r, b, err)
}

func (a *API) previewBaseline(w http.ResponseWriter, r *http.Request) error {
	days := baseline.MaxPreviewDays
	if text := r.URL.Query().Get("days"); text != "" {
		var err error
		if days, err = strconv.Atoi(text); err != nil {
			return fault.New(fault.Invalid, "days must be 1 to %d", baseline.MaxPreviewDays)
		}
	}
	p, err := a.cfg.Baselines.Preview(r.Context(), r.PathValue("group"), days)
	if err != nil {
		return err
	}
	return writeJSON(w, http.StatusOK, p)
}

func (a *API) promoteBaseline(w http.ResponseWriter, r *http.Request) error {
	p, err := a.cfg.Baselines.Promote(r.Context(), r.PathValue("group"))
	if err != nil {
		return err
	}
	rest.Note(r.Context(), "rule", p.Rule, "values", len(p.Values), "added", p.Added)
	return writeJSON(w, http.StatusOK, p)
}

func (a *API) importMUD(w http.ResponseWriter, r *http.Request) error {
	merge := false
	switch r.URL.Query().Get("merge") {
	case "", "false":
	case "true":
		merge = true
	default:
		return fault.New(fault.Invalid, "merge must be true or false")
	}
	body, err := rest.Body(w, r, mud.MaxSize)
	if err != nil {
		return err
	}
	b, err := a.cfg.Baselines.ImportMUD(r.Context(), r.PathValue("group"), operator, body, merge)
	if b.MUD != nil {
		rest.Note(r.Context(), "mudUrl", b.MUD.URL, "merge", merge)
	}
	return answerBaseline(w, r, b, err)
}

func (a *API) exportMUD(w http.ResponseWriter, r *http.Request) error {
	q := r.URL.Query()
	text, err := a.cfg.Baselines.ExportMUD(r.Context(), r.PathValue("group"), q.Get("url"), q.Get("systeminfo"))
	if err != nil {
		return err
	}
	w.Header().Set("Content-Type", "application/mud+json") // RFC 8520 §14.4
	_, err = w.Write(text)
	return err
}
