package api

import (
	"context"
	"net/http"

	"github.com/vauban-iot/vauban/defender/group"
	"github.com/vauban-iot/vauban/defender/privacy"
	"github.com/vauban-iot/vauban/head/rest"
)

// PrivacyStore keeps what is masked in the security messages of which group; see privacy.Guard.
type PrivacyStore interface {
	Policies(ctx context.Context) (map[string]privacy.Policy, error)
	Put(ctx context.Context, group string, p privacy.Policy) error
}

// Privacy is what is masked of a group.
type Privacy struct {
	Group string `json:"group"`
	privacy.Policy
}

func (a *API) privacy(w http.ResponseWriter, r *http.Request) error {
	name := r.PathValue("name")
	if err := group.CheckName(name); err != nil {
		return err
	}
	all, err := a.cfg.Privacy.Policies(r.Context())
	if err != nil {
		return err
	}
	return writeJSON(w, http.StatusOK, Privacy{name, all[name]})
}

func (a *API) putPrivacy(w http.ResponseWriter, r *http.Request) error {
	name := r.PathValue("name")
	var p privacy.Policy
	if err := readJSON(w, r, &p, `the body must be {"userNames": true or false, "commandLines": true or false}`); err != nil {
		return err
	}
	if err := a.cfg.Privacy.Put(r.Context(), name, p); err != nil {
		return err
	}
	rest.Note(r.Context(), "group", name, "userNames", p.UserNames, "commandLines", p.CommandLines)
	return writeJSON(w, http.StatusOK, Privacy{name, p})
}
