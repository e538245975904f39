package api

import (
	"context"
	"net/http"

	"github.com/vauban-iot/vauban/defender/intel"
	"github.com/vauban-iot/vauban/defender/intel/feed"
	"github.com/vauban-iot/vauban/fault"
	"github.com/vauban-iot/vauban/head/rest"
)

// IntelStore keeps feeds of threat intelligence, and what is exempt from them. Feeds are shown without their secrets.
type IntelStore interface {
	Feeds(ctx context.Context) ([]feed.Feed, error)
	// Feed returns one; fault.NotFound.
	Feed(ctx context.Context, name string) (feed.Feed, error)
	// Put adds a feed, or changes one; fault.Invalid.
	Put(ctx context.Context, c feed.Config) (feed.Feed, error)
	// Delete removes a feed and its indicators; fault.NotFound.
	Delete(ctx context.Context, name string) error
	// Refresh has it fetched now; accept takes it even if it shrank. fault.NotFound.
	Refresh(ctx context.Context, name string, accept bool) error
	Exemptions(ctx context.Context) ([]feed.Exemption, error)
	// Exempt allows an address, a prefix or a domain; fault.Invalid.
	Exempt(ctx context.Context, value, note string) (feed.Exemption, error)
	// Unexempt ends that; fault.NotFound.
	Unexempt(ctx context.Context, value string) error
	// Lookup explains what is known of an address, with or without a port, or of a domain; fault.Invalid.
	Lookup(value string) (intel.Verdict, error)
}

func (a *API) intelFeeds(w http.ResponseWriter, r *http.Request) error {
	all, err := a.cfg.Intel.Feeds(r.Context())
	if err != nil {
		return err
	}
	if all == nil {
		all = []feed.Feed{}
	}
	return writeJSON(w, http.StatusOK, map[string][]feed.Feed{"feeds": all})
}

func (a *API) intelFeed(w http.ResponseWriter, r *http.Request) error {
	f, err := a.cfg.Intel.Feed(r.Context(), r.PathValue("name"))
	if err != nil {
		return err
	}
	return writeJSON(w, http.StatusOK, f)
}

func (a *API) putIntelFeed(w http.ResponseWriter, r *http.Request) error {
	var c feed.Config
	if err := readJSON(w, r, &c, "the body is not a feed"); err != nil {
		return err
	}
	if c.Name != "" && c.Name != r.PathValue("name") {
		return fault.New(fault.Invalid, "the body's name is not the one in the path")
	}
	c.Name = r.PathValue("name")
	f, err := a.cfg.Intel.Put(r.Context(), c)
	if err != nil {
		return err
	}
	rest.Note(r.Context(), "format", string(f.Format))
	return writeJSON(w, http.StatusOK, f)
}

func (a *API) deleteIntelFeed(w http.ResponseWriter, r *http.Request) error {
	if err := a.cfg.Intel.Delete(r.Context(), r.PathValue("name")); err != nil {
		return err
	}
	w.WriteHeader(http.StatusNoContent)
	return nil
}

func (a *API) refreshIntelFeed(w http.ResponseWriter, r *http.Request) error {
	if err := a.cfg.Intel.Refresh(r.Context(), r.PathValue("name"), r.URL.Query().Get("shrink") == "accept"); err != nil {
		return err
	}
	w.WriteHeader(http.StatusAccepted)
	return nil
}

func (a *API) intelLookup(w http.ResponseWriter, r *http.Request) error {
	v, err := a.cfg.Intel.Lookup(r.URL.Query().Get("value"))
	if err != nil {
		return err
	}
	return writeJSON(w, http.StatusOK, v)
}

func (a *API) intelExemptions(w http.ResponseWriter, r *http.Request) error {
	all, err := a.cfg.Intel.Exemptions(r.Context())
	if err != nil {
		return err
	}
	if all == nil {
		all = []feed.Exemption{}
	}
	return writeJSON(w, http.StatusOK, map[string][]feed.Exemption{"exemptions": all})
}

func (a *API) putIntelExemption(w http.ResponseWriter, r *http.Request) error {
	var e feed.Exemption
	if err := readJSON(w, r, &e, "the body is not an exemption"); err != nil {
		return err
	}
	e, err := a.cfg.Intel.Exempt(r.Context(), e.Value, e.Note)
	if err != nil {
		return err
	}
	rest.Note(r.Context(), "value", e.Value)
	return writeJSON(w, http.StatusOK, e)
}

// deleteIntelExemption takes the value as a query argument: prefixes have slashes.
func (a *API) deleteIntelExemption(w http.ResponseWriter, r *http.Request) error {
	value := r.URL.Query().Get("value")
	rest.Note(r.Context(), "value", value)
	if err := a.cfg.Intel.Unexempt(r.Context(), value); err != nil {
		return err
	}
	w.WriteHeader(http.StatusNoContent)
	return nil
}
