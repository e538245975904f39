package ui

import (
	"context"
	"net/http"
	"net/url"
	"strings"
	"time"

	"github.com/vauban-iot/vauban/fault"
	"github.com/vauban-iot/vauban/head/rest"
	"github.com/vauban-iot/vauban/hub/registry"
)

// Containment holds devices back; see hub.Hub.
type Containment interface {
	Containment(ctx context.Context, device string) (registry.Containment, error)
	Contain(ctx context.Context, device string, level registry.Level, reason, by string) (registry.Containment, error)
	Uncontain(ctx context.Context, device, by string) (registry.Containment, error)
	ContainmentEffect(ctx context.Context, device string, to registry.Level) (registry.Effect, error)
}

// levelView is a level that may be chosen.
type levelView struct {
	Name, Says string
	URL        string // where its effect is shown
	Chosen     bool
	Stands     bool
}

// levelWords say what a level does, the mildest first.
var levelWords = []struct {
	level registry.Level
	says  string
}{
	{registry.Free, "Nothing is held back."},
	{registry.Observe, "Nothing is held back, and everything it does is logged."},
	{registry.TelemetryOnly, "It may send telemetry, and nothing reaches it."},
	{registry.Cut, "It may not connect."},
}

// heldView is how a device is held back.
type heldView struct {
	Device, Level string
	Free          bool
	Reason, By    string
	Since         moment
	Undo          string // the level that one undo returns to; empty: there is nothing to undo
}

func newHeldView(device string, h registry.Containment) heldView {
	v := heldView{Device: device, Level: h.Level.String(), Free: h.Level == registry.Free, Reason: h.Reason, By: h.By, Since: newMoment(h.Since)}
	if h.Before != nil {
		v.Undo = h.Before.Level.String()
	}
	return v
}

// effectView is what a level would do at this moment.
type effectView struct {
	To                        string
	Cut                       bool
	Sessions                  []string
	More                      int // sessions that are not listed
	Refused, Allowed          string
	Waiting                   string // messages; empty: none
	Below, BelowConnected     int
	MaxReason                 int
	NothingEnds, NothingBelow bool
}

// containBody is the page on which a device is contained.
type containBody struct {
	Device string
	Now    heldView
	Levels []levelView
	Effect *effectView // nil: no level is chosen
}

const maxSessionsShown = 20

func containAddress(device string, level registry.Level) string {
	return containPath + "?" + url.Values{"device": {device}, "level": {level.String()}}.Encode()
}

func (c *Console) containPage(w http.ResponseWriter, r *http.Request, _ *session) error {
	device, err := idOf(r.URL.Query().Get("device"))
	if err != nil {
		return err
	}
	held, err := c.cfg.Containment.Containment(r.Context(), device)
	if err != nil {
		return absent(err, "There is no such device.")
	}
	body := containBody{Device: device, Now: newHeldView(device, held)}
	var to registry.Level
	chosen := r.URL.Query().Get("level")
	if chosen != "" {
		if to, err = registry.ParseLevel(chosen); err != nil {
			return err
		}
	}
	for _, l := range levelWords {
		body.Levels = append(body.Levels, levelView{
			Name: l.level.String(), Says: l.says, URL: containAddress(device, l.level), Chosen: chosen != "" && l.level == to, Stands: l.level == held.Level,
		})
	}
	if chosen != "" && to != held.Level {
		e, err := c.cfg.Containment.ContainmentEffect(r.Context(), device, to)
		if err != nil {
			return err
		}
		v := effectView{
			To: to.String(), Cut: to == registry.Cut, Refused: strings.Join(e.Refused, ", "), Allowed: strings.Join(e.Allowed, ", "),
			Below: e.Below, BelowConnected: e.BelowConnected, MaxReason: registry.MaxReason, NothingEnds: len(e.Sessions) == 0, NothingBelow: e.Below == 0,
		}
		v.Sessions = e.Sessions[:min(len(e.Sessions), maxSessionsShown)]
		v.More = len(e.Sessions) - len(v.Sessions)
		if e.Waiting > 0 {
			v.Waiting = plural(e.Waiting, "message")
		}
		body.Effect = &v
	}
	c.render(w, r, http.StatusOK, "contain", frame{Title: "Contain " + device, Section: "devices"}, body)
	return nil
}

// contain carries out what the page's forms ask for. Whoever asked may be gone; what was decided is still carried out.
func (c *Console) contain(w http.ResponseWriter, r *http.Request, _ *session) error {
	device, err := idOf(r.PostForm.Get("device"))
	if err != nil {
		return err
	}
	rest.Note(r.Context(), "device", device)
	held, err := c.cfg.Containment.Containment(r.Context(), device)
	if err != nil {
		return absent(err, "There is no such device.")
	}
	// The effect that was shown is that of a change from this level.
	if from := r.PostForm.Get("from"); from != held.Level.String() {
		return fault.New(fault.PreconditionFailed, "Meanwhile the level of this device became %s. Look at the effect again.", held.Level)
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(r.Context()), time.Minute)
	defer cancel()
	switch r.PostForm.Get("do") {
	case "contain":
		level, err := registry.ParseLevel(r.PostForm.Get("level"))
		if err != nil {
			return err
		}
		reason := strings.TrimSpace(r.PostForm.Get("reason"))
		rest.Note(r.Context(), "level", level.String(), "reason", reason)
		if _, err := c.cfg.Containment.Contain(ctx, device, level, reason, user); err != nil {
			return err
		}
	case "undo":
		held, err := c.cfg.Containment.Uncontain(ctx, device, user)
		if err != nil {
			return err
		}
		rest.Note(r.Context(), "undone", true, "level", held.Level.String())
	default:
		return errNothingToDo
	}
	http.Redirect(w, r, containPath+"?"+url.Values{"device": {device}}.Encode(), http.StatusSeeOther)
	return nil
}

// heldOf is how a device is held back; nil: it does not exist.
func (c *Console) heldOf(ctx context.Context, device string) (*heldView, error) {
	held, err := c.cfg.Containment.Containment(ctx, device)
	if fault.Is(err, fault.NotFound) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	return new(newHeldView(device, held)), nil
}
