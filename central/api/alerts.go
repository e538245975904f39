package api

import (
	"context"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"time"

	"github.com/vauban-iot/vauban/defender/alert"
	"github.com/vauban-iot/vauban/defender/group"
	"github.com/vauban-iot/vauban/fault"
	"github.com/vauban-iot/vauban/head/rest"
	"github.com/vauban-iot/vauban/internal/nonce"
	"github.com/vauban-iot/vauban/iot"
)

// AlertStore is the part of [alert.Store] the API needs.
type AlertStore interface {
	Alerts(ctx context.Context, f alert.Filter) ([]alert.Alert, error)
	Alert(ctx context.Context, id string) (alert.Alert, error)
	Judge(ctx context.Context, id string, v alert.Verdict) (alert.Alert, error)
	Suppress(ctx context.Context, s alert.Suppression) (hidden int, err error)
	Suppressions(ctx context.Context, now time.Time) ([]alert.Suppression, error)
	Unsuppress(ctx context.Context, id string, now time.Time) (shown int, err error)
}

const (
	defaultAlerts = 100
	maxAlerts     = 1000
)

func (a *API) alerts(w http.ResponseWriter, r *http.Request) error {
	query := r.URL.Query()
	f := alert.Filter{Device: query.Get("device"), Type: query.Get("type"), Status: alert.Status(query.Get("status")), Severity: alert.Severity(query.Get("severity")), Group: query.Get("group")}
	if f.Group != "" {
		if err := group.CheckName(f.Group); err != nil {
			return err
		}
	}
	if f.Device != "" {
		if err := iot.ValidateID("device", f.Device); err != nil {
			return err
		}
	}
	if f.Status != "" && !slices.Contains(alert.Statuses, f.Status) {
		return fault.New(fault.Invalid, "status must be open, dismissed, resolved or suppressed")
	}
	if severities := []alert.Severity{alert.High, alert.Medium, alert.Low, alert.Informational}; f.Severity != "" && !slices.Contains(severities, f.Severity) {
		return fault.New(fault.Invalid, "severity must be High, Medium, Low or Informational")
	}
	limit, err := number(query, "limit", defaultAlerts, maxAlerts)
	if err != nil {
		return err
	}
	f.Limit = int(limit)
	// The greatest value the stores can hold is also beyond every sequence.
	const maxSequence = 1<<63 - 1
	if f.Before, err = number(query, "before", 0, maxSequence); err != nil {
		return err
	}
	list, err := a.cfg.Alerts.Alerts(r.Context(), f)
	if err != nil {
		return err
	}
	if list == nil {
		list = []alert.Alert{}
	}
	return writeJSON(w, http.StatusOK, map[string][]alert.Alert{"alerts": list})
}

// number reads a query argument of 1 to largest.
func number(query url.Values, name string, absent, largest uint64) (uint64, error) {
	text := query.Get(name)
	if text == "" {
		return absent, nil
	}
	n, err := strconv.ParseUint(text, 10, 64)
	if err != nil || n < 1 || n > largest {
		return 0, fault.New(fault.Invalid, "%s must be a number from 1 to %d", name, largest)
	}
	return n, nil
}

func (a *API) alert(w http.ResponseWriter, r *http.Request) error {
	one, err := a.cfg.Alerts.Alert(r.Context(), r.PathValue("id"))
	if err != nil {
		return err
	}
	return writeJSON(w, http.StatusOK, one)
}

// Comment is the body of POST /api/alerts/{id}/dismiss and resolve; it may be left out.
type Comment struct {
	Comment string `json:"comment,omitempty"`
}

func (a *API) dismissAlert(w http.ResponseWriter, r *http.Request) error {
	return a.judge(w, r, alert.Dismissed)
}

func (a *API) resolveAlert(w http.ResponseWriter, r *http.Request) error {
	return a.judge(w, r, alert.Resolved)
}

func (a *API) judge(w http.ResponseWriter, r *http.Request, status alert.Status) error {
	var c Comment
	if err := optionalJSON(w, r, &c, "the body is not a comment"); err != nil {
		return err
	}
	if len(c.Comment) > alert.MaxComment {
		return fault.New(fault.Invalid, "the comment has %d bytes, %d are allowed", len(c.Comment), alert.MaxComment)
	}
	one, err := a.cfg.Alerts.Judge(r.Context(), r.PathValue("id"), alert.Verdict{Status: status, By: operator, Comment: c.Comment, Time: a.cfg.Now()})
	if err != nil {
		return err
	}
	rest.Note(r.Context(), "type", one.Type, "device", one.Device, "alertStatus", string(one.Status))
	return writeJSON(w, http.StatusOK, one)
}

// optionalJSON is readJSON for a body that may be empty.
func optionalJSON(w http.ResponseWriter, r *http.Request, into any, what string) error {
	if r.ContentLength == 0 {
		return nil
	}
	return readJSON(w, r, into, what)
}

// Until is the body of POST /api/alerts/{id}/suppress.
type Until struct {
	Expires time.Time `json:"expires"`
	Reason  string    `json:"reason,omitempty"`
}

// Suppressed is the answer to a new suppression.
type Suppressed struct {
	alert.Suppression
	Alerts int `json:"alerts"` // open ones that it holds back
}

// suppressAlert holds back what is like an alert: its type, device and indicator, on later days, too.
func (a *API) suppressAlert(w http.ResponseWriter, r *http.Request) error {
	var u Until
	if err := readJSON(w, r, &u, "the body does not say until when"); err != nil {
		return err
	}
	one, err := a.cfg.Alerts.Alert(r.Context(), r.PathValue("id"))
	if err != nil {
		return err
	}
	return a.suppress(w, r, alert.Suppression{Type: one.Type, Device: one.Device, Indicator: one.Indicator, Reason: u.Reason, Expires: u.Expires})
}

func (a *API) addSuppression(w http.ResponseWriter, r *http.Request) error {
	var s alert.Suppression
	if err := readJSON(w, r, &s, "the body is not a suppression"); err != nil {
		return err
	}
	return a.suppress(w, r, s)
}

func (a *API) suppress(w http.ResponseWriter, r *http.Request, s alert.Suppression) error {
	s.ID, s.By, s.Created, s.Expires = nonce.New(), operator, a.cfg.Now().UTC(), s.Expires.UTC()
	if err := s.Check(a.cfg.Now()); err != nil {
		return err
	}
	hidden, err := a.cfg.Alerts.Suppress(r.Context(), s)
	if err != nil {
		return err
	}
	rest.Note(r.Context(), "suppression", s.ID, "type", s.Type, "device", s.Device, "indicator", s.Indicator, "expires", s.Expires, "alerts", hidden)
	return writeJSON(w, http.StatusCreated, Suppressed{s, hidden})
}

func (a *API) suppressions(w http.ResponseWriter, r *http.Request) error {
	list, err := a.cfg.Alerts.Suppressions(r.Context(), a.cfg.Now())
	if err != nil {
		return err
	}
	if list == nil {
		list = []alert.Suppression{}
	}
	return writeJSON(w, http.StatusOK, map[string][]alert.Suppression{"suppressions": list})
}

func (a *API) deleteSuppression(w http.ResponseWriter, r *http.Request) error {
	shown, err := a.cfg.Alerts.Unsuppress(r.Context(), r.PathValue("id"), a.cfg.Now())
	if err != nil {
		return err
	}
	rest.Note(r.Context(), "alerts", shown)
	return writeJSON(w, http.StatusOK, map[string]int{"alerts": shown})
}

// replayAlert judges the evidence of an alert by what is known now.
func (a *API) replayAlert(w http.ResponseWriter, r *http.Request) error {
	one, err := a.cfg.Alerts.Alert(r.Context(), r.PathValue("id"))
	if err != nil {
		return err
	}
	if a.cfg.Replay == nil {
		return fault.New(fault.Unavailable, "alerts cannot be replayed here")
	}
	found, err := a.cfg.Replay(r.Context(), one)
	if err != nil {
		return err
	}
	if found == nil {
		found = []alert.Alert{}
	}
	return writeJSON(w, http.StatusOK, map[string][]alert.Alert{"alerts": found})
}

func (a *API) alertTypes(w http.ResponseWriter, _ *http.Request) error {
	return writeJSON(w, http.StatusOK, map[string][]alert.Type{"alertTypes": alert.Types()})
}
