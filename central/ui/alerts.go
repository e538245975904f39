package ui

import (
	"context"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/vauban-iot/vauban/defender/alert"
	"github.com/vauban-iot/vauban/defender/group"
	"github.com/vauban-iot/vauban/fault"
	"github.com/vauban-iot/vauban/head/rest"
	"github.com/vauban-iot/vauban/internal/nonce"
	"github.com/vauban-iot/vauban/iot"
)

const alertsPerPage = 100

func alertFilter(device string) alert.Filter {
	return alert.Filter{Device: device, Limit: alertsOfDevice}
}

// alertsBody is the page of alerts.
type alertsBody struct {
	Filter alertChoice
	Types  []alert.Type
	Older  string // where the page of older alerts is; empty: there is none
	Newest bool   // this page is the first one
	screen
}

// alertNote is what there is to say about a list of alerts; the zero value: nothing.
type alertNote struct {
	None   bool
	Chosen bool // of those that were chosen
}

func alertsScreen(list []alert.Alert, chosen bool) screen {
	return screen{
		Regions: map[string]part{"alert-note": newPart("", alertNote{len(list) == 0, chosen})},
		List:    "alert-row", Rows: alertRows(list, true),
	}
}

// newestOf reads the newest alerts of a choice. A page that is live keeps its own, as those who chose differently share nothing.
func (c *Console) newestOf(chosen alertChoice) *cached[[]alert.Alert] {
	if chosen == (alertChoice{}) {
		return c.recent
	}
	return &cached[[]alert.Alert]{fetch: func(ctx context.Context) ([]alert.Alert, error) {
		return c.cfg.Alerts.Alerts(ctx, chosen.filter(0))
	}}
}

func (c *Console) alertsPage(w http.ResponseWriter, r *http.Request, _ *session) error {
	// Pages of older alerts stand still, and so have no stream.
	before := beforeOf(r)
	chosen := choiceOf(r)
	f := frame{Title: "Alerts", Section: "alerts"}
	var list []alert.Alert
	var err error
	if before == 0 {
		f.Stream = chosen.address(alertsPath+"/stream", 0)
		list, err = c.newestOf(chosen).get(r.Context())
	} else {
		list, err = c.cfg.Alerts.Alerts(r.Context(), chosen.filter(before))
	}
	if err != nil {
		return err
	}
	body := alertsBody{Filter: chosen, Types: alert.Types(), Newest: before == 0, screen: alertsScreen(list, before != 0 || chosen != alertChoice{})}
	if len(list) == alertsPerPage {
		body.Older = chosen.address(alertsPath, list[len(list)-1].Sequence)
	}
	c.render(w, r, http.StatusOK, "alerts", f, body)
	return nil
}

// beforeOf is the sequence before which a page begins; 0: it is the first.
func beforeOf(r *http.Request) uint64 {
	before, err := strconv.ParseUint(r.URL.Query().Get("before"), 10, 63)
	if err != nil {
		return 0
	}
	return before
}

func (c *Console) alertsStream(w http.ResponseWriter, r *http.Request, s *session) error {
	chosen := choiceOf(r)
	newest := c.newestOf(chosen)
	return c.serve(w, r, s, func(ctx context.Context) (screen, error) {
		list, err := newest.get(ctx)
		return alertsScreen(list, chosen != alertChoice{}), err
	}, nil)
}

// alertChoice is which alerts a page shows; the zero value: all.
type alertChoice struct{ Status, Severity, Type, Device, Group string }

var severities = []alert.Severity{alert.High, alert.Medium, alert.Low, alert.Informational}

// choiceOf reads a choice, and ignores what is none.
func choiceOf(r *http.Request) alertChoice {
	q := r.URL.Query()
	c := alertChoice{
		Status: q.Get("status"), Severity: q.Get("severity"), Type: q.Get("type"), Device: strings.TrimSpace(q.Get("device")), Group: strings.TrimSpace(q.Get("group")),
	}
	if !slices.Contains(alert.Statuses, alert.Status(c.Status)) {
		c.Status = ""
	}
	if !slices.Contains(severities, alert.Severity(c.Severity)) {
		c.Severity = ""
	}
	if !slices.ContainsFunc(alert.Types(), func(t alert.Type) bool { return t.Name == c.Type }) {
		c.Type = ""
	}
	if iot.ValidateID("device", c.Device) != nil {
		c.Device = ""
	}
	if group.CheckName(c.Group) != nil {
		c.Group = ""
	}
	return c
}

func (c alertChoice) filter(before uint64) alert.Filter {
	return alert.Filter{
		Before: before, Limit: alertsPerPage, Status: alert.Status(c.Status), Severity: alert.Severity(c.Severity), Type: c.Type, Device: c.Device, Group: c.Group,
	}
}

// address is where a page of the choice is.
func (c alertChoice) address(path string, before uint64) string {
	q := query("status", c.Status, "severity", c.Severity, "type", c.Type, "device", c.Device, "group", c.Group)
	if before != 0 {
		q.Set("before", strconv.FormatUint(before, 10))
	}
	return at(path, q)
}

// query makes arguments of names and values, and leaves out empty ones.
func query(pairs ...string) url.Values {
	q := url.Values{}
	for i := 0; i+1 < len(pairs); i += 2 {
		if pairs[i+1] != "" {
			q.Set(pairs[i], pairs[i+1])
		}
	}
	return q
}

// at is a place of the console.
func at(path string, q url.Values) string {
	if len(q) == 0 {
		return path
	}
	return path + "?" + q.Encode()
}

// alertBody is the page of one alert.
type alertBody struct {
	alertView
	Type, Group         string
	StatusBy, Comment   string
	StatusTime, Until   moment
	Tactics, Techniques string
	Steps               []string
	Evidence            []evidenceView
	Open                bool      // it may be judged
	Held                *heldView // its device; nil: the alert is about none, or one that is gone
}

type evidenceView struct {
	At            moment
	Name, Details string
	Cut           bool
}

func (c *Console) alertPage(w http.ResponseWriter, r *http.Request, _ *session) error {
	a, err := c.cfg.Alerts.Alert(r.Context(), r.URL.Query().Get("id"))
	if fault.Is(err, fault.NotFound) {
		return fault.New(fault.NotFound, "There is no such alert.")
	}
	if err != nil {
		return err
	}
	body := alertBody{
		alertView: newAlertView(a, true), Type: a.Type, Group: a.Group, StatusBy: a.StatusBy, Comment: a.Comment, StatusTime: newMoment(a.StatusTime),
		Until: newMoment(a.SuppressedUntil), Tactics: alert.Label(a.Tactics), Techniques: alert.Label(a.Techniques), Steps: a.Remediation, Open: a.Status != alert.Dismissed,
	}
	if a.Device != "" {
		if body.Held, err = c.heldOf(r.Context(), a.Device); err != nil {
			return err
		}
	}
	for _, e := range a.Evidence {
		text, short := cut(pretty(e.Details))
		body.Evidence = append(body.Evidence, evidenceView{newMoment(e.Time), e.Event, text, short})
	}
	c.render(w, r, http.StatusOK, "alert", frame{Title: a.Title, Section: "alerts"}, body)
	return nil
}

// spans are how long the console suppresses.
var spans = map[string]time.Duration{"1": time.Hour, "24": 24 * time.Hour, "168": 7 * 24 * time.Hour, "720": 30 * 24 * time.Hour}

// judgeAlert carries out what the forms of an alert's page ask for.
func (c *Console) judgeAlert(w http.ResponseWriter, r *http.Request, _ *session) error {
	id, what, comment := r.PostForm.Get("id"), r.PostForm.Get("do"), strings.TrimSpace(r.PostForm.Get("comment"))
	rest.Note(r.Context(), "alert", id, "do", what)
	if len(comment) > alert.MaxComment {
		return fault.New(fault.Invalid, "The comment is over %d bytes.", alert.MaxComment)
	}
	ctx, now := r.Context(), c.cfg.Now()
	a, err := c.cfg.Alerts.Alert(ctx, id)
	if fault.Is(err, fault.NotFound) {
		return fault.New(fault.NotFound, "There is no such alert.")
	}
	if err != nil {
		return err
	}
	rest.Note(r.Context(), "type", a.Type, "device", a.Device)
	switch what {
	case "dismiss":
		_, err = c.cfg.Alerts.Judge(ctx, id, alert.Verdict{Status: alert.Dismissed, By: user, Comment: comment, Time: now})
	case "resolve":
		_, err = c.cfg.Alerts.Judge(ctx, id, alert.Verdict{Status: alert.Resolved, By: user, Comment: comment, Time: now})
	case "suppress":
		span, ok := spans[r.PostForm.Get("hours")]
		if !ok {
			return fault.New(fault.Invalid, "Choose for how long.")
		}
		one := alert.Suppression{
			ID: nonce.New(), Type: a.Type, Device: a.Device, Indicator: a.Indicator, Reason: comment, By: user, Created: now.UTC(), Expires: now.Add(span).UTC(),
		}
		if err := one.Check(now); err != nil {
			return err
		}
		rest.Note(ctx, "suppression", one.ID, "indicator", one.Indicator, "expires", one.Expires)
		_, err = c.cfg.Alerts.Suppress(ctx, one)
	default:
		return errNothingToDo
	}
	if err != nil {
		return err
	}
	http.Redirect(w, r, at(alertPath, query("id", id)), http.StatusSeeOther)
	return nil
}
