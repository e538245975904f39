package ui

import (
	"context"
	"net/http"
	"net/url"
	"strings"

	"github.com/vauban-iot/vauban/defender/export"
	"github.com/vauban-iot/vauban/head/rest"
)

// Exports keeps exports, shows them without their secrets, and tries them; see [export.Manager].
type Exports interface {
	Exports(ctx context.Context) ([]export.Export, error)
	Test(ctx context.Context, name string) error
}

// exportView is an export with its health.
type exportView struct {
	Name, Kind, Format, Place, Data string
	Disabled, Failing, Never        bool
	Failures                        int
	Error, LastGivenUp              string
	Sent, GivenUp                   int64
	Alerts, Recommendations, Events int // that wait
	Full                            int // up to where they are counted
	Since, Success, Next            moment
	GiveUpAfter                     string
}

func newExportView(e export.Export) exportView {
	v := exportView{
		Name: e.Name, Kind: string(e.Kind), Format: string(e.Format), Place: e.Address, Disabled: e.Disabled,
		Failing: e.State.Error != "", Never: e.State.LastAttempt.IsZero(), Failures: e.State.Failures, Error: e.State.Error, LastGivenUp: e.State.LastGivenUp,
		Sent: e.State.Sent, GivenUp: e.State.GivenUp, Alerts: e.Waiting.Alerts, Recommendations: e.Waiting.Recommendations, Events: e.Waiting.Events,
		Full: export.MaxWaiting, Since: newMoment(e.State.FailedSince), Success: newMoment(e.State.LastSuccess), Next: newMoment(e.State.NextAttempt), GiveUpAfter: e.GiveUpAfter,
	}
	if v.GiveUpAfter == "" {
		v.GiveUpAfter = "72h"
	}
	if u, err := url.Parse(e.URL); err == nil && e.URL != "" {
		v.Place = u.Host // a path may hold a secret
	}
	if e.Workspace != "" {
		v.Place = "workspace " + e.Workspace
	}
	var data []string
	for _, d := range e.Data {
		data = append(data, string(d))
	}
	v.Data = strings.Join(data, ", ")
	return v
}

func (c *Console) exportsPage(w http.ResponseWriter, r *http.Request, _ *session) error {
	all, err := c.cfg.Exports.Exports(r.Context())
	if err != nil {
		return err
	}
	views := make([]exportView, len(all))
	for i := range all {
		views[i] = newExportView(all[i])
	}
	c.render(w, r, http.StatusOK, "exports", frame{Title: "Exports", Section: "feeds"}, struct {
		Exports []exportView
		Tested  string
	}{views, r.URL.Query().Get("tested")})
	return nil
}

// testExport sends something that is nothing to where an export leads.
func (c *Console) testExport(w http.ResponseWriter, r *http.Request, _ *session) error {
	name := r.PostForm.Get("name")
	if r.PostForm.Get("do") != "test" {
		return errNothingToDo
	}
	rest.Note(r.Context(), "export", name)
	if err := c.cfg.Exports.Test(r.Context(), name); err != nil {
		return err
	}
	http.Redirect(w, r, at(exportsPath, query("tested", name)), http.StatusSeeOther)
	return nil
}
