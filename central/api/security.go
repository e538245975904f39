package api

import (
	"context"
	"net/http"
	"time"

	"github.com/vauban-iot/vauban/defender/group"
	"github.com/vauban-iot/vauban/defender/record"
	"github.com/vauban-iot/vauban/fault"
	"github.com/vauban-iot/vauban/head/rest"
	"github.com/vauban-iot/vauban/iot"
)

// EventStore is the part of [record.Store] the API reads.
type EventStore interface {
	SecurityEvents(ctx context.Context, f record.Filter) ([]record.Event, error)
}

// GroupStore keeps the rules of security groups; see [group.Book].
type GroupStore interface {
	Groups(ctx context.Context) (names []string, rules map[string]group.Rules, err error)
	Group(ctx context.Context, name string) (group.Rules, error)
	Put(ctx context.Context, name string, r group.Rules) (created bool, err error)
	Delete(ctx context.Context, name string) (existed bool, err error)
}

// Bounds of a page of events.
const (
	partOfPage = 50
	maxPage    = 8 << 20 // bytes of details, after which a page ends
)

func (a *API) securityEvents(w http.ResponseWriter, r *http.Request) error {
	query := r.URL.Query()
	f := record.Filter{Device: query.Get("device"), Name: query.Get("name")}
	if f.Device != "" {
		if err := iot.ValidateID("device", f.Device); err != nil {
			return err
		}
	}
	switch query.Get("invalid") {
	case "", "false":
	case "true":
		f.Invalid = true
	default:
		return fault.New(fault.Invalid, "invalid must be true or false")
	}
	for name, into := range map[string]*time.Time{"from": &f.From, "to": &f.To} {
		if text := query.Get(name); text != "" {
			var err error
			if *into, err = time.Parse(time.RFC3339, text); err != nil {
				return fault.New(fault.Invalid, "%s must be a time such as 2026-01-02T15:04:05Z", name)
			}
		}
	}
	limit, err := number(query, "limit", defaultAlerts, maxAlerts)
	if err != nil {
		return err
	}
	f.Limit = int(limit)
	if text := query.Get("before"); text != "" {
		if f.Before, err = record.ParsePlace(text); err != nil {
			return err
		}
	}
	// A page is read in parts, and ends early when devices sent large events.
	rows, left, size := []record.Row{}, f.Limit, 0
	answer := map[string]any{}
	for left > 0 {
		f.Limit = min(left, partOfPage)
		list, err := a.cfg.Events.SecurityEvents(r.Context(), f)
		if err != nil {
			return err
		}
		for i := range list {
			rows = append(rows, list[i].Rows(a.cfg.Host)...)
			for _, d := range list[i].Details {
				size += len(d)
			}
		}
		if len(list) < f.Limit {
			break
		}
		left -= len(list)
		f.Before = list[len(list)-1].Place
		if left == 0 || size > maxPage {
			answer["next"] = f.Before.String()
			break
		}
	}
	answer["events"] = rows
	return writeJSON(w, http.StatusOK, answer)
}

// SecurityGroup is a group in the shape of Azure's resource.
type SecurityGroup struct {
	Name       string      `json:"name"`
	Properties group.Rules `json:"properties"`
}

func (a *API) securityGroups(w http.ResponseWriter, r *http.Request) error {
	names, rules, err := a.cfg.Groups.Groups(r.Context())
	if err != nil {
		return err
	}
	all := make([]SecurityGroup, len(names))
	for i, name := range names {
		all[i] = SecurityGroup{name, rules[name]}
	}
	return writeJSON(w, http.StatusOK, map[string][]SecurityGroup{"value": all})
}

func (a *API) securityGroup(w http.ResponseWriter, r *http.Request) error {
	name := r.PathValue("name")
	rules, err := a.cfg.Groups.Group(r.Context(), name)
	if err != nil {
		return err
	}
	return writeJSON(w, http.StatusOK, SecurityGroup{name, rules})
}

func (a *API) putSecurityGroup(w http.ResponseWriter, r *http.Request) error {
	name := r.PathValue("name")
	if err := group.CheckName(name); err != nil {
		return err
	}
	body, err := rest.Body(w, r, group.MaxSize)
	if err != nil {
		return err
	}
	rules, err := group.Parse(body)
	if err != nil {
		return err
	}
	created, err := a.cfg.Groups.Put(r.Context(), name, rules)
	if err != nil {
		return err
	}
	status := http.StatusOK
	if created {
		status = http.StatusCreated
	}
	text, err := rules.Text()
	if err != nil {
		return err
	}
	rest.Note(r.Context(), "group", name, "rules", string(text))
	return writeJSON(w, status, SecurityGroup{name, rules})
}

func (a *API) deleteSecurityGroup(w http.ResponseWriter, r *http.Request) error {
	existed, err := a.cfg.Groups.Delete(r.Context(), r.PathValue("name"))
	if err != nil {
		return err
	}
	if existed {
		return writeJSON(w, http.StatusOK, map[string]string{"deleted": r.PathValue("name")})
	}
	w.WriteHeader(http.StatusNoContent)
	return nil
}
