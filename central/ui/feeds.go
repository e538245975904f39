package ui

import (
	"context"
	"net/http"
	"strconv"
	"strings"

	"github.com/vauban-iot/vauban/defender/behaviour"
	"github.com/vauban-iot/vauban/defender/intel"
	"github.com/vauban-iot/vauban/defender/intel/feed"
	"github.com/vauban-iot/vauban/fault"
	"github.com/vauban-iot/vauban/head/rest"
)

// Intel keeps feeds of threat intelligence, and shows them without their secrets; see [feed.Manager].
type Intel interface {
	Feeds(ctx context.Context) ([]feed.Feed, error)
	Refresh(ctx context.Context, name string, accept bool) error
	Lookup(value string) (intel.Verdict, error)
}

// Detectors keeps which detectors of behaviour are on.
type Detectors interface {
	Detectors(ctx context.Context) ([]behaviour.State, error)
	SwitchDetector(ctx context.Context, name string, enabled bool) error
}

const (
	feedsPerPage = 50
	maxLookup    = 300 // bytes of what is looked up
	maxListed    = 50  // indicators that a lookup shows
)

// feedView is a feed with its health. It has none of what a feed is fetched with but the place, from which secrets are gone.
type feedView struct {
	Name, Format, Place, Use          string
	Disabled, Failing, Warned, Never  bool
	Failures                          int
	Error, Warning                    string
	Indicators, BadLines, Unsupported int
	Success, Next                     moment
}

// lookupView is what is known of an address or a domain.
type lookupView struct {
	Query   string
	Problem string // it is neither
	Match   string // what traffic with it would match; empty: nothing
	Exempt  string
	Listed  []listedView
	More    int // that are not shown
}

type listedView struct {
	Value, Source, Ref, Ignored string
	Confidence                  int
	Labels                      string
}

// feedsBody is the page of feeds.
type feedsBody struct {
	Feeds  []feedView
	None   bool
	Next   string
	Query  string
	Lookup *lookupView // nil: nothing was asked
}

func newFeedView(f feed.Feed) feedView {
	v := feedView{
		Name: f.Name, Format: string(f.Format), Place: f.URL, Disabled: f.Disabled, Failing: f.State.Error != "", Warned: f.State.Warning != "", Never: f.State.LastAttempt.IsZero(),
		Failures: f.State.Failures, Error: f.State.Error, Warning: f.State.Warning,
		Indicators: f.State.Indicators, BadLines: f.State.BadLines, Unsupported: f.State.Unsupported, Success: newMoment(f.State.LastSuccess), Next: newMoment(f.State.NextAttempt),
	}
	if v.Place == "" {
		v.Place = f.File
	}
	if f.Use == feed.Allow {
		v.Use = "what it lists is exempt"
	}
	return v
}

func (c *Console) lookUp(value string) *lookupView {
	v := &lookupView{Query: value}
	verdict, err := c.cfg.Intel.Lookup(value)
	if err != nil {
		v.Problem = fault.Public(err)
		return v
	}
	v.Exempt = verdict.Exempt
	if verdict.Match != nil {
		v.Match = verdict.Match.String()
	}
	for _, l := range verdict.Listed[:min(len(verdict.Listed), maxListed)] {
		v.Listed = append(v.Listed, listedView{l.Value, l.Source, l.Ref, l.Ignored, l.Confidence, strings.Join(l.Labels, ", ")})
	}
	v.More = len(verdict.Listed) - len(v.Listed)
	return v
}

func (c *Console) feedsPage(w http.ResponseWriter, r *http.Request, _ *session) error {
	all, err := c.cfg.Intel.Feeds(r.Context())
	if err != nil {
		return err
	}
	body := feedsBody{None: len(all) == 0, Query: strings.TrimSpace(r.URL.Query().Get("value"))}
	names := make([]string, len(all))
	for i := range all {
		names[i] = all[i].Name
	}
	all = all[firstBehind(names, r.URL.Query().Get("after")):]
	for i := range all[:min(len(all), feedsPerPage)] {
		body.Feeds = append(body.Feeds, newFeedView(all[i]))
	}
	if len(all) > feedsPerPage {
		body.Next = at(feedsPath, query("after", all[feedsPerPage-1].Name))
	}
	if body.Query != "" {
		body.Query = body.Query[:min(len(body.Query), maxLookup)]
		body.Lookup = c.lookUp(body.Query)
	}
	c.render(w, r, http.StatusOK, "feeds", frame{Title: "Feeds", Section: "feeds"}, body)
	return nil
}

func (c *Console) refreshFeed(w http.ResponseWriter, r *http.Request, _ *session) error {
	name, accept := r.PostForm.Get("name"), false
	switch r.PostForm.Get("do") {
	case "refresh":
	case "accept":
		accept = true
	default:
		return errNothingToDo
	}
	rest.Note(r.Context(), "feed", name, "accept", accept)
	if err := c.cfg.Intel.Refresh(r.Context(), name, accept); err != nil {
		return err
	}
	http.Redirect(w, r, feedsPath, http.StatusSeeOther)
	return nil
}

func (c *Console) detectorsPage(w http.ResponseWriter, r *http.Request, _ *session) error {
	all, err := c.cfg.Detectors.Detectors(r.Context())
	if err != nil {
		return err
	}
	c.render(w, r, http.StatusOK, "detectors", frame{Title: "Detectors", Section: "feeds"}, all)
	return nil
}

func (c *Console) switchDetector(w http.ResponseWriter, r *http.Request, _ *session) error {
	name, what := r.PostForm.Get("name"), r.PostForm.Get("do")
	if what != "enable" && what != "disable" {
		return errNothingToDo
	}
	rest.Note(r.Context(), "detector", name, "enabled", strconv.FormatBool(what == "enable"))
	if err := c.cfg.Detectors.SwitchDetector(r.Context(), name, what == "enable"); err != nil {
		return err
	}
	http.Redirect(w, r, detectorsPath, http.StatusSeeOther)
	return nil
}
