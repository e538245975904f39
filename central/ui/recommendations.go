package ui

import (
	"context"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/vauban-iot/vauban/defender/alert"
	"github.com/vauban-iot/vauban/defender/group"
	"github.com/vauban-iot/vauban/defender/posture"
	"github.com/vauban-iot/vauban/fault"
	"github.com/vauban-iot/vauban/head/rest"
	"github.com/vauban-iot/vauban/iot"
)

// Recommendations is what the console needs of [posture.Store] and [posture.Book].
type Recommendations interface {
	Recommendations(ctx context.Context, f posture.Filter) ([]posture.Recommendation, error)
	Recommendation(ctx context.Context, id string) (posture.Recommendation, error)
	Totals(ctx context.Context, of posture.Whole) (posture.Totals, error)
	Disabled(ctx context.Context) (posture.Disabled, error)
	Enable(ctx context.Context, enabled bool, at time.Time, names ...string) (resolved int, err error)
}

const (
	recommendationsPerPage  = 50
	recommendationsOfDevice = 10
)

// scoreView is a score with its arithmetic.
type scoreView struct {
	Score              int
	Devices, Unhealthy int
	Lines              []lineView
	GivenBack          string // empty: nothing
	None               bool   // there is no device to judge
}

// lineView is what one type takes.
type lineView struct {
	Title, Type string
	Severity    string
	Of          string // what it takes it from
	Takes       string
	URL         string // where the recommendations are; empty: they are on no page
}

func newScoreView(s posture.Score) scoreView {
	v := scoreView{Score: s.Score, Devices: s.Devices, Unhealthy: s.Unhealthy, None: s.Devices == 0}
	for _, l := range s.Lines {
		line := lineView{
			Title: posture.Lookup(l.Type).Title, Type: l.Type, Severity: string(l.Severity), Takes: points(l.Takes),
			Of:  plural(l.Devices, "device"),
			URL: at(recommendationsPath, query("type", l.Type, "device", s.Device, "group", s.Group)),
		}
		if l.Hub {
			line.Of, line.URL = "the hub", at(recommendationsPath, query("type", l.Type, "hub", "true"))
		}
		v.Lines = append(v.Lines, line)
	}
	if s.GivenBack > 0 {
		v.GivenBack = points(s.GivenBack)
	}
	return v
}

// points are shown as exactly as the rounded score needs.
func points(p float64) string {
	if p < 0.01 {
		return "< 0.01"
	}
	return strings.TrimSuffix(strings.TrimRight(strconv.FormatFloat(p, 'f', 2, 64), "0"), ".")
}

// recommendationView is a recommendation as lists show it.
type recommendationView struct {
	ID, Title, Type, Severity string
	High, Resolved            bool
	Device, Module            string // Device empty: the hub
	Since                     moment
	Link                      bool // the device's name leads to its page
}

func newRecommendationView(r posture.Recommendation, link bool) recommendationView {
	return recommendationView{
		ID: r.ID, Title: r.Title, Type: r.Type, Severity: string(r.Severity), High: r.Severity == alert.High && r.State == posture.Active,
		Resolved: r.State == posture.Resolved, Device: r.Device, Module: r.Module, Since: newMoment(r.StatusChanged), Link: link,
	}
}

// hygieneView is how well a device is set up.
type hygieneView struct {
	Device string
	Score  int
	Rows   []recommendationView
	More   bool // than Rows
}

func (c *Console) hygieneOf(ctx context.Context, device string) (hygieneView, error) {
	v := hygieneView{Device: device}
	of := posture.Whole{Device: device}
	totals, err := c.cfg.Recommendations.Totals(ctx, of)
	if err != nil {
		return v, err
	}
	v.Score = posture.ScoreOf(of, totals).Score
	list, err := c.cfg.Recommendations.Recommendations(ctx, posture.Filter{Device: device, State: posture.Active, Limit: recommendationsOfDevice + 1})
	if err != nil {
		return v, err
	}
	v.More = len(list) > recommendationsOfDevice
	for i := range list[:min(len(list), recommendationsOfDevice)] {
		v.Rows = append(v.Rows, newRecommendationView(list[i], false))
	}
	return v, nil
}

// recommendationChoice is which recommendations a page shows.
type recommendationChoice struct {
	State, Severity, Type, Device, Group string
	Hub                                  bool
}

// recommendationChoiceOf reads a choice, and ignores what is none. State is Active unless all are asked for.
func recommendationChoiceOf(r *http.Request) recommendationChoice {
	q := r.URL.Query()
	c := recommendationChoice{
		State: q.Get("state"), Severity: q.Get("severity"), Type: q.Get("type"), Device: strings.TrimSpace(q.Get("device")), Group: strings.TrimSpace(q.Get("group")),
		Hub: q.Get("hub") == "true",
	}
	if c.State != string(posture.Resolved) && c.State != "all" {
		c.State = string(posture.Active)
	}
	if !slices.Contains(severities, alert.Severity(c.Severity)) {
		c.Severity = ""
	}
	if !posture.Known(c.Type) {
		c.Type = ""
	}
	if iot.ValidateID("device", c.Device) != nil {
		c.Device = ""
	}
	if group.CheckName(c.Group) != nil {
		c.Group = ""
	}
	if c.Hub {
		c.Device, c.Group = "", ""
	}
	if c.Device != "" {
		c.Group = "" // a device says more than its group
	}
	return c
}

func (c recommendationChoice) filter(before uint64) posture.Filter {
	f := posture.Filter{
		Severity: alert.Severity(c.Severity), Type: c.Type, Device: c.Device, Group: c.Group, Hub: c.Hub, Before: before, Limit: recommendationsPerPage,
	}
	if c.State != "all" {
		f.State = posture.State(c.State)
	}
	return f
}

func (c recommendationChoice) address(before uint64) string {
	q := query("severity", c.Severity, "type", c.Type, "device", c.Device, "group", c.Group)
	if c.State != string(posture.Active) {
		q.Set("state", c.State)
	}
	if c.Hub {
		q.Set("hub", "true")
	}
	q.Set("before", strconv.FormatUint(before, 10))
	return at(recommendationsPath, q)
}

// recommendationsBody is the page of the score and the recommendations.
type recommendationsBody struct {
	Filter recommendationChoice
	Types  []posture.Type
	Of     string // whom the score is about
	Score  scoreView
	First  bool // the page is the first one, and has the score
	Rows   []recommendationView
	Older  string
}

func (c *Console) recommendationsPage(w http.ResponseWriter, r *http.Request, _ *session) error {
	before := beforeOf(r)
	chosen := recommendationChoiceOf(r)
	body := recommendationsBody{Filter: chosen, Types: posture.Types(), First: before == 0, Of: "The fleet"}
	if body.First {
		of := posture.Whole{Device: chosen.Device, Group: chosen.Group}
		var totals posture.Totals
		var err error
		if of == (posture.Whole{}) {
			totals, err = c.totals.get(r.Context())
		} else {
			body.Of = chosen.Device + chosen.Group
			totals, err = c.cfg.Recommendations.Totals(r.Context(), of)
		}
		if err != nil {
			return absent(err, "There is no such device.")
		}
		body.Score = newScoreView(posture.ScoreOf(of, totals))
	}
	list, err := c.cfg.Recommendations.Recommendations(r.Context(), chosen.filter(before))
	if err != nil {
		return err
	}
	for i := range list {
		body.Rows = append(body.Rows, newRecommendationView(list[i], true))
	}
	if len(list) == recommendationsPerPage {
		body.Older = chosen.address(list[len(list)-1].Sequence)
	}
	c.render(w, r, http.StatusOK, "recommendations", frame{Title: "Hygiene", Section: "recommendations"}, body)
	return nil
}

// recommendationBody is the page of one recommendation.
type recommendationBody struct {
	recommendationView
	Description                                     string
	Steps                                           []string
	Data                                            string
	Cut                                             bool
	Discovered, FirstEvaluated, Changed, ResolvedAt moment
	DetectedBy                                      string
	Enabled                                         bool
}

func (c *Console) recommendationPage(w http.ResponseWriter, r *http.Request, _ *session) error {
	one, err := c.cfg.Recommendations.Recommendation(r.Context(), r.URL.Query().Get("id"))
	if err != nil {
		return absent(err, "There is no such recommendation.")
	}
	disabled, err := c.cfg.Recommendations.Disabled(r.Context())
	if err != nil {
		return err
	}
	body := recommendationBody{
		recommendationView: newRecommendationView(one, true), Description: one.Description, Steps: one.Remediation, DetectedBy: posture.Lookup(one.Type).DetectedBy,
		Discovered: newMoment(one.Discovered), FirstEvaluated: newMoment(one.FirstEvaluated), Changed: newMoment(one.StatusChanged), ResolvedAt: newMoment(one.Resolved),
		Enabled: !disabled.Has(one.Type),
	}
	if len(one.Data) > len("{}") {
		body.Data, body.Cut = cut(pretty(one.Data))
	}
	c.render(w, r, http.StatusOK, "recommendation", frame{Title: one.Title, Section: "recommendations"}, body)
	return nil
}

func (c *Console) recommendationTypesPage(w http.ResponseWriter, r *http.Request, _ *session) error {
	disabled, err := c.cfg.Recommendations.Disabled(r.Context())
	if err != nil {
		return err
	}
	totals, err := c.totals.get(r.Context())
	if err != nil {
		return err
	}
	c.render(w, r, http.StatusOK, "recommendation-types", frame{Title: "Types of recommendations", Section: "recommendations"}, posture.States(disabled, totals))
	return nil
}

func (c *Console) switchRecommendationType(w http.ResponseWriter, r *http.Request, _ *session) error {
	name, what := r.PostForm.Get("type"), r.PostForm.Get("do")
	if !posture.Known(name) {
		return fault.New(fault.NotFound, "There is no such type of recommendation.")
	}
	rest.Note(r.Context(), "type", name)
	if what != "enable" && what != "disable" {
		return errNothingToDo
	}
	resolved, err := c.cfg.Recommendations.Enable(r.Context(), what == "enable", c.cfg.Now().UTC(), name)
	if err != nil {
		return err
	}
	rest.Note(r.Context(), "enabled", what == "enable", "resolved", resolved)
	http.Redirect(w, r, recommendationTypesPath, http.StatusSeeOther)
	return nil
}
