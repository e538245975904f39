package ui

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/vauban-iot/vauban/defender/baseline"
	"github.com/vauban-iot/vauban/defender/group"
	"github.com/vauban-iot/vauban/fault"
	"github.com/vauban-iot/vauban/head/rest"
	"github.com/vauban-iot/vauban/wire/mud"
)

// Baselines learns and keeps what the devices of security groups usually do; see [baseline.Service].
type Baselines interface {
	State(ctx context.Context, group string) (baseline.State, error)
	Baseline(ctx context.Context, group string) (baseline.Baseline, error)
	Learn(ctx context.Context, group, by string, t baseline.Terms) (baseline.Baseline, error)
	Propose(ctx context.Context, group, by string) (baseline.Baseline, error)
	Edit(ctx context.Context, group, by string, e baseline.Edit) (baseline.Baseline, error)
	Enforce(ctx context.Context, group, by string) (baseline.Baseline, error)
	Relax(ctx context.Context, group, by string) (baseline.Baseline, error)
	TurnOff(ctx context.Context, group string) error
	Preview(ctx context.Context, group string, days int) (baseline.Preview, error)
	ImportMUD(ctx context.Context, group, by string, text []byte, merge bool) (baseline.Baseline, error)
	ExportMUD(ctx context.Context, group, address, info string) ([]byte, error)
}

const (
	entriesPerPage  = 50
	examplesShown   = 10
	maxBaselineForm = 16 << 10
	maxMUDForm      = mud.MaxSize + maxForm
)

// entryView is an entry as the page lists it.
type entryView struct {
	ID, Says, Decision, Reason, By, Source string
	Held, Unseen                           bool
	Devices, Share, Count, Days            string
	First, Last                            moment
}

type limitView struct {
	Measure, Decision  string
	Min, Max           uint64
	Median, P95, P99   uint64
	Reason             string
	Accepted, Rejected bool
}

// baselineBody is the page of the baseline of a group.
type baselineBody struct {
	Group                       string
	State                       string
	Off, Learning, Proposed     bool
	Enforced, Importable        bool
	Since                       moment
	By                          string
	Version                     int64
	Learned                     *baseline.Summary
	Terms                       string
	MUD                         *baseline.Maker
	Decision                    string // which entries are shown; empty: all
	Accepted, Held, Rejected    int    // entries of each decision
	Entries                     []entryView
	Limits                      []limitView
	Next                        string
	DefaultHours, DefaultDevice int
	DefaultShare                int // percent
}

// baselineOf is the baseline of a group, off when there is none.
func (c *Console) baselineOf(ctx context.Context, name string) (baseline.Baseline, error) {
	b, err := c.cfg.Baselines.Baseline(ctx, name)
	if fault.Is(err, fault.NotFound) {
		return baseline.Baseline{Group: name, State: baseline.Off}, nil
	}
	return b, err
}

func groupOf(name string) (string, error) {
	name = strings.TrimSpace(name)
	return name, group.CheckName(name)
}

func (c *Console) baselinePage(w http.ResponseWriter, r *http.Request, _ *session) error {
	q := r.URL.Query()
	name, err := groupOf(q.Get("group"))
	if err != nil {
		return err
	}
	b, err := c.baselineOf(r.Context(), name)
	if err != nil {
		return err
	}
	body := baselineBody{
		Group: name, State: string(b.State), Off: b.State == baseline.Off, Learning: b.State == baseline.Learning, Proposed: b.State == baseline.Proposed, Enforced: b.State == baseline.Enforced,
		Importable: b.State != baseline.Enforced, Since: newMoment(b.Since), By: b.By, Version: b.Version, Learned: b.Learned, MUD: b.MUD,
		DefaultHours: int(baseline.DefaultMinTime / time.Hour), DefaultDevice: baseline.DefaultMinDevices, DefaultShare: int(baseline.DefaultMinShare * 100),
	}
	if b.Terms.MinTime != "" {
		body.Terms = fmt.Sprintf("%s, %s, %.0f %% of the devices", b.Terms.MinTime, plural(b.Terms.MinDevices, "device"), b.Terms.MinShare*100)
	}
	if d := q.Get("decision"); d == string(baseline.Accepted) || d == string(baseline.Held) || d == string(baseline.Rejected) {
		body.Decision = d
	}
	from, err := strconv.ParseUint(q.Get("from"), 10, 31)
	if err != nil {
		from = 0
	}
	fits := 0
	for i := range b.Entries {
		e := &b.Entries[i]
		switch e.Decision {
		case baseline.Accepted:
			body.Accepted++
		case baseline.Held:
			body.Held++
		case baseline.Rejected:
			body.Rejected++
		}
		if body.Decision != "" && string(e.Decision) != body.Decision {
			continue
		}
		if fits++; fits > int(from) && len(body.Entries) < entriesPerPage {
			body.Entries = append(body.Entries, entryView{
				ID: e.ID, Says: e.Says(), Decision: string(e.Decision), Held: e.Decision == baseline.Held, Unseen: e.Devices == 0, Reason: e.Reason, By: e.DecidedBy, Source: e.Source,
				Devices: plural(e.Devices, "device"), Share: strconv.Itoa(int(e.Coverage*100+.5)) + " %", Count: strconv.FormatUint(e.Count, 10), Days: plural(e.Days, "day"),
				First: newMoment(e.First), Last: newMoment(e.Last),
			})
		}
	}
	if end := int(from) + entriesPerPage; fits > end {
		body.Next = at(baselinePath, query("group", name, "decision", body.Decision, "from", strconv.Itoa(end)))
	}
	for _, l := range b.Limits {
		body.Limits = append(body.Limits, limitView{
			Measure: l.Measure, Decision: string(l.Decision), Min: l.Min, Max: l.Max, Median: l.Median, P95: l.P95, P99: l.P99, Reason: l.Reason,
			Accepted: l.Decision == baseline.Accepted, Rejected: l.Decision == baseline.Rejected,
		})
	}
	c.render(w, r, http.StatusOK, "baseline", frame{Title: "Baseline of " + name, Section: "groups"}, body)
	return nil
}

// changeBaseline carries out what the forms of a baseline's page ask for.
func (c *Console) changeBaseline(w http.ResponseWriter, r *http.Request, _ *session) error {
	ctx, form := r.Context(), r.PostForm
	name, err := groupOf(form.Get("group"))
	if err != nil {
		return err
	}
	what := form.Get("do")
	rest.Note(ctx, "group", name, "do", what)
	switch what {
	case "accept", "reject", "hold", "accept-limit", "reject-limit", "enforce":
		// People decide about what they saw.
		b, err := c.cfg.Baselines.Baseline(ctx, name)
		if err != nil {
			return err
		}
		if form.Get("version") != strconv.FormatInt(b.Version, 10) {
			return fault.New(fault.PreconditionFailed, "Meanwhile somebody changed this baseline. Look at it again.")
		}
	}
	var b baseline.Baseline
	switch what {
	case "learn":
		var t baseline.Terms
		if t, err = termsOf(r); err != nil {
			return err
		}
		rest.Note(ctx, "minTime", t.MinTime, "minDevices", t.MinDevices, "minShare", t.MinShare)
		b, err = c.cfg.Baselines.Learn(ctx, name, user, t)
	case "propose":
		b, err = c.cfg.Baselines.Propose(ctx, name, user)
	case "enforce":
		b, err = c.cfg.Baselines.Enforce(ctx, name, user)
	case "relax":
		b, err = c.cfg.Baselines.Relax(ctx, name, user)
	case "off":
		err = c.cfg.Baselines.TurnOff(ctx, name)
	case "accept", "reject", "hold":
		decision := map[string]baseline.Decision{"accept": baseline.Accepted, "reject": baseline.Rejected, "hold": baseline.Held}[what]
		ids := form["id"]
		if len(ids) == 0 {
			return fault.New(fault.Invalid, "Choose entries first.")
		}
		if len(ids) > entriesPerPage {
			return fault.New(fault.Invalid, "The form has more entries than a page.")
		}
		e := baseline.Edit{Decisions: make(map[string]baseline.Decision, len(ids))}
		for _, id := range ids {
			e.Decisions[id] = decision
		}
		b, err = c.editBaseline(ctx, name, e)
	case "accept-limit", "reject-limit":
		decision := baseline.Accepted
		if what == "reject-limit" {
			decision = baseline.Rejected
		}
		b, err = c.editBaseline(ctx, name, baseline.Edit{Limits: []baseline.LimitEdit{{Measure: form.Get("measure"), Decision: decision}}})
	default:
		return errNothingToDo
	}
	if err != nil {
		return err
	}
	if b.State != "" {
		rest.Note(ctx, "state", string(b.State), "version", b.Version)
	}
	http.Redirect(w, r, at(baselinePath, query("group", name, "decision", form.Get("decision"))), http.StatusSeeOther)
	return nil
}

func (c *Console) editBaseline(ctx context.Context, name string, e baseline.Edit) (baseline.Baseline, error) {
	text, err := json.Marshal(e)
	if err != nil {
		return baseline.Baseline{}, err
	}
	rest.Note(ctx, "edit", string(text[:min(len(text), 4<<10)]))
	return c.cfg.Baselines.Edit(ctx, name, user, e)
}

// termsOf reads the form with which learning begins.
func termsOf(r *http.Request) (t baseline.Terms, err error) {
	hours, err := wholeNumber(r.PostForm.Get("hours"), "number of hours")
	if err != nil {
		return t, err
	}
	if t.MinDevices, err = wholeNumber(r.PostForm.Get("devices"), "number of devices"); err != nil {
		return t, err
	}
	percent, err := wholeNumber(r.PostForm.Get("share"), "share")
	if err != nil {
		return t, err
	}
	t.MinTime, t.MinShare = strconv.Itoa(hours)+"h", float64(percent)/100
	return t, nil
}

// previewBody is the page of what a baseline would have raised.
type previewBody struct {
	Group, State      string
	Proposed          bool
	Preview           baseline.Preview
	Days              int
	Types             []countView
	Examples          []alertView
	From, To          moment
	Unresolved        string
	MessagesOf, Alarm string
}

type countView struct {
	Name string
	N    int
}

func (c *Console) previewPage(w http.ResponseWriter, r *http.Request, _ *session) error {
	q := r.URL.Query()
	name, err := groupOf(q.Get("group"))
	if err != nil {
		return err
	}
	days := baseline.MaxPreviewDays
	if text := q.Get("days"); text != "" {
		if days, err = wholeNumber(text, "number of days"); err != nil {
			return err
		}
	}
	p, err := c.cfg.Baselines.Preview(r.Context(), name, days)
	if err != nil {
		return err
	}
	state, err := c.cfg.Baselines.State(r.Context(), name)
	if err != nil {
		return err
	}
	body := previewBody{
		Group: name, State: string(state), Proposed: state == baseline.Proposed, Preview: p, Days: days, From: newMoment(p.From), To: newMoment(p.To), Unresolved: strings.Join(p.Unresolved, ", "),
		MessagesOf: strconv.FormatUint(p.Messages, 10) + " messages of " + plural(p.Devices, "device"), Alarm: plural(p.Alerts, "alert") + " about " + plural(p.Alerting, "device"),
	}
	for _, kind := range slices.Sorted(maps.Keys(p.Types)) {
		body.Types = append(body.Types, countView{kind, p.Types[kind]})
	}
	for _, a := range p.Examples[:min(len(p.Examples), examplesShown)] {
		body.Examples = append(body.Examples, newAlertView(a, true))
	}
	c.render(w, r, http.StatusOK, "preview", frame{Title: "Preview of " + name, Section: "groups"}, body)
	return nil
}

func (c *Console) exportMUD(w http.ResponseWriter, r *http.Request, _ *session) error {
	name, err := groupOf(r.URL.Query().Get("group"))
	if err != nil {
		return err
	}
	text, err := c.cfg.Baselines.ExportMUD(r.Context(), name, "", "")
	if err != nil {
		return err
	}
	w.Header().Set("Content-Type", "application/mud+json") // RFC 8520 §14.4
	w.Header().Set("Content-Disposition", `attachment; filename="mud.json"`)
	_, _ = w.Write(text) // a reader that left is no error of ours
	return nil
}

func (c *Console) importMUD(w http.ResponseWriter, r *http.Request, _ *session) error {
	name, err := groupOf(r.PostFormValue("group"))
	if err != nil {
		return err
	}
	merge := r.PostFormValue("merge") != ""
	rest.Note(r.Context(), "group", name, "merge", merge)
	file, _, err := r.FormFile("file")
	if err != nil {
		return fault.New(fault.Invalid, "Choose a file first.")
	}
	defer file.Close()
	text, err := io.ReadAll(io.LimitReader(file, mud.MaxSize+1))
	if err != nil {
		return err
	}
	b, err := c.cfg.Baselines.ImportMUD(r.Context(), name, user, text, merge)
	if err != nil {
		return err
	}
	if b.MUD != nil {
		rest.Note(r.Context(), "mudUrl", b.MUD.URL)
	}
	rest.Note(r.Context(), "state", string(b.State), "version", b.Version)
	http.Redirect(w, r, at(baselinePath, query("group", name)), http.StatusSeeOther)
	return nil
}
