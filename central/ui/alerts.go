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
	"github.com/vauban-iot/vauban/fault"
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
	Older  string // where the page of older alerts is; empty: there is none
	Newest bool   // this page is the first one
	screen
}

func alertsScreen(list []alert.Alert) screen {
	return screen{
		Regions: map[string]part{"alert-note": newPart("", len(list))},
		List:    "alert-row", Rows: alertRows(list, true),
	}
}

func (c *Console) alertsPage(w http.ResponseWriter, r *http.Request, _ *session) error {
	// Pages of older alerts, and of chosen ones, stand still, and so have no stream.
	before, err := strconv.ParseUint(r.URL.Query().Get("before"), 10, 63)
	chosen := choiceOf(r)
	newest := (err != nil || before == 0) && chosen == (alertChoice{})
	if err != nil {
		before = 0
	}
	f := frame{Title: "Alerts", Section: "alerts"}
	var list []alert.Alert
	if newest {
		f.Stream = alertsPath + "/stream"
		list, err = c.recent.get(r.Context())
	} else {
		list, err = c.cfg.Alerts.Alerts(r.Context(), alert.Filter{Before: before, Limit: alertsPerPage, Status: alert.Status(chosen.Status), Severity: alert.Severity(chosen.Severity), Device: chosen.Device})
	}
	if err != nil {
		return err
	}
	body := alertsBody{Filter: chosen, Newest: newest, screen: alertsScreen(list)}
	if len(list) == alertsPerPage {
		q := chosen.values()
		q.Set("before", strconv.FormatUint(list[len(list)-1].Sequence, 10))
		body.Older = alertsPath + "?" + q.Encode()
	}
	c.render(w, r, http.StatusOK, "alerts", f, body)
	return nil
}

func (c *Console) alertsStream(w http.ResponseWriter, r *http.Request, s *session) error {
	return c.serve(w, r, s, func(ctx context.Context) (screen, error) {
		list, err := c.recent.get(ctx)
		return alertsScreen(list), err
	}, nil)
}

// alertChoice is which alerts a page shows; the zero value: all.
type alertChoice struct{ Status, Severity, Device string }

// choiceOf reads a choice, and ignores what is none.
func choiceOf(r *http.Request) alertChoice {
	q := r.URL.Query()
	c := alertChoice{Status: q.Get("status"), Severity: q.Get("severity"), Device: strings.TrimSpace(q.Get("device"))}
	if !slices.Contains(alert.Statuses, alert.Status(c.Status)) {
		c.Status = ""
	}
	if !slices.Contains([]alert.Severity{alert.High, alert.Medium, alert.Low}, alert.Severity(c.Severity)) {
		c.Severity = ""
	}
	if iot.ValidateID("device", c.Device) != nil {
		c.Device = ""
	}
	return c
}

func (c alertChoice) values() url.Values {
	q := url.Values{}
	for name, v := range map[string]string{"status": c.Status, "severity": c.Severity, "device": c.Device} {
		if v != "" {
			q.Set(name, v)
		}
	}
	return q
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
	Open                bool // it may be judged
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
	r.Body = http.MaxBytesReader(w, r.Body, maxForm)
	if err := r.ParseForm(); err != nil {
		return fault.Wrap(fault.Malformed, err, "The form cannot be read.")
	}
	id, what, comment := r.PostForm.Get("id"), r.PostForm.Get("do"), strings.TrimSpace(r.PostForm.Get("comment"))
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
		_, err = c.cfg.Alerts.Suppress(ctx, alert.Suppression{
			ID: nonce.New(), Type: a.Type, Device: a.Device, Indicator: a.Indicator, Reason: comment, By: user, Created: now.UTC(), Expires: now.Add(span).UTC(),
		})
	default:
		return fault.New(fault.Invalid, "The form says nothing that can be done.")
	}
	if err != nil {
		return err
	}
	c.log.Info("alert judged", "audit", true, "what", what, "alert", id, "type", a.Type, "device", a.Device, "user", user, "from", r.RemoteAddr)
	http.Redirect(w, r, alertPath+"?"+url.Values{"id": {id}}.Encode(), http.StatusSeeOther)
	return nil
}
