package ui

import (
	"context"
	"net/http"
	"strings"
	"time"

	"github.com/vauban-iot/vauban/defender/record"
)

// Events is the part of [record.Store] the console reads.
type Events interface {
	SecurityEvents(ctx context.Context, f record.Filter) ([]record.Event, error)
}

const (
	eventsPerPage = 25
	maxEventName  = 128
	// clockNote is from where on it is worth a word that a device's clock says something else.
	clockNote = time.Minute
)

// eventView is what an agent said at one time.
type eventView struct {
	At, DeviceTime             moment // DeviceTime only when it is another
	Name, Module, Agent, Items string
	Problem                    string
	Notes                      []string
	Text                       string // an item a line
	Cut                        bool
	Left                       int // items that are not kept
}

// eventsBody is the page of a device's security events.
type eventsBody struct {
	Device, Name string
	Invalid      bool
	Chosen       bool // there is a filter
	Events       []eventView
	Older        string
}

func newEventView(e *record.Event) eventView {
	v := eventView{
		At: newMoment(e.Enqueued), Name: e.Name, Module: e.Module, Agent: strings.TrimSpace(e.Agent + " " + e.AgentVersion), Problem: e.Problem, Notes: e.Notes, Left: e.Left,
		Items: plural(len(e.Details)+e.Left, "item"),
	}
	if t := e.DeviceTime(); t != nil && t.Sub(e.Enqueued).Abs() > clockNote {
		v.DeviceTime = newMoment(*t)
	}
	var b strings.Builder
	for i, d := range e.Details {
		if i > 0 {
			b.WriteByte('\n')
		}
		if b.Write(d); b.Len() > maxPretty {
			break
		}
	}
	text := b.String()
	if len(e.Details) == 1 {
		text = pretty(e.Details[0])
	}
	v.Text, v.Cut = cut(text)
	return v
}

func (c *Console) eventsPage(w http.ResponseWriter, r *http.Request, _ *session) error {
	id, err := deviceOf(r)
	if err != nil {
		return err
	}
	q := r.URL.Query()
	name := strings.TrimSpace(q.Get("name"))
	body := eventsBody{Device: id, Name: name[:min(len(name), maxEventName)], Invalid: q.Get("invalid") == "true"}
	body.Chosen = body.Name != "" || body.Invalid
	f := record.Filter{Device: id, Name: body.Name, Invalid: body.Invalid, Limit: eventsPerPage}
	if before := q.Get("before"); before != "" {
		if f.Before, err = record.ParsePlace(before); err != nil {
			return err
		}
	}
	list, err := c.cfg.Events.SecurityEvents(r.Context(), f)
	if err != nil {
		return err
	}
	for i := range list {
		body.Events = append(body.Events, newEventView(&list[i]))
	}
	if len(list) == eventsPerPage {
		older := query("id", id, "name", body.Name, "before", list[len(list)-1].Place.String())
		if body.Invalid {
			older.Set("invalid", "true")
		}
		body.Older = at(eventsPath, older)
	}
	c.render(w, r, http.StatusOK, "events", frame{Title: "Security events of " + id, Section: "devices"}, body)
	return nil
}
