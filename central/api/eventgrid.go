package api

import (
	"context"
	"net/http"

	"github.com/vauban-iot/vauban/fault"
	"github.com/vauban-iot/vauban/hub/eventgrid"
)

// SubscriptionStore keeps webhooks of Event Grid's kind.
type SubscriptionStore interface {
	Subscriptions(ctx context.Context) ([]eventgrid.Subscription, error)
	// Subscription returns one; fault.NotFound.
	Subscription(ctx context.Context, name string) (eventgrid.Subscription, error)
	// Put adds or replaces one once its webhook agreed, or asked for time; fault.Invalid.
	Put(ctx context.Context, s eventgrid.Subscription) (eventgrid.Subscription, error)
	// Delete removes one; fault.NotFound.
	Delete(ctx context.Context, name string) error
}

// shown is a subscription without what only its webhook may know, and without the header, which may hold a secret.
func shown(s eventgrid.Subscription) eventgrid.Subscription {
	s.Code = ""
	if s.Header != "" {
		s.Header = "[redacted]"
	}
	return s
}

func (a *API) subscriptions(w http.ResponseWriter, r *http.Request) error {
	all, err := a.cfg.Subscriptions.Subscriptions(r.Context())
	if err != nil {
		return err
	}
	list := make([]eventgrid.Subscription, len(all))
	for i := range all {
		list[i] = shown(all[i])
	}
	return writeJSON(w, http.StatusOK, map[string][]eventgrid.Subscription{"subscriptions": list})
}

func (a *API) subscription(w http.ResponseWriter, r *http.Request) error {
	s, err := a.cfg.Subscriptions.Subscription(r.Context(), r.PathValue("name"))
	if err != nil {
		return err
	}
	return writeJSON(w, http.StatusOK, shown(s))
}

func (a *API) putSubscription(w http.ResponseWriter, r *http.Request) error {
	var s eventgrid.Subscription
	if err := readJSON(w, r, &s, "the body is not an event subscription"); err != nil {
		return err
	}
	if s.Name != "" && s.Name != r.PathValue("name") {
		return fault.New(fault.Invalid, "the body's name is not the one in the path")
	}
	s.Name = r.PathValue("name")
	s, err := a.cfg.Subscriptions.Put(r.Context(), s)
	if err != nil {
		return err
	}
	a.diagnosticsChanged(r, "event subscription "+s.Name, false)
	return writeJSON(w, http.StatusOK, shown(s))
}

func (a *API) deleteSubscription(w http.ResponseWriter, r *http.Request) error {
	if err := a.cfg.Subscriptions.Delete(r.Context(), r.PathValue("name")); err != nil {
		return err
	}
	a.diagnosticsChanged(r, "event subscription "+r.PathValue("name"), true)
	w.WriteHeader(http.StatusNoContent)
	return nil
}
