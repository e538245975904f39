package api

import (
	"context"
	"net/http"
	"net/url"
	"strconv"
	"time"

	"github.com/vauban-iot/vauban/defender/alert"
	"github.com/vauban-iot/vauban/defender/export"
	"github.com/vauban-iot/vauban/defender/posture"
	"github.com/vauban-iot/vauban/defender/record"
	"github.com/vauban-iot/vauban/defender/table"
	"github.com/vauban-iot/vauban/fault"
	"github.com/vauban-iot/vauban/head/rest"
)

// ExportStore keeps exports and tries them; see [export.Manager]. Exports are shown without their secrets.
type ExportStore interface {
	Exports(ctx context.Context) ([]export.Export, error)
	Export(ctx context.Context, name string) (export.Export, error)
	Put(ctx context.Context, c export.Config) (e export.Export, created bool, err error)
	Delete(ctx context.Context, name string) error
	Test(ctx context.Context, name string) error
}

// TableStore is what the workspace tables are made of.
type TableStore interface {
	AlertsChanged(ctx context.Context, from, to time.Time, after uint64, limit int) ([]alert.Change, error)
	EventsAfter(ctx context.Context, s record.Span, limit int) ([]record.Event, error)
	Recommendations(ctx context.Context, f posture.Filter) ([]posture.Recommendation, error)
}

func (a *API) exports(w http.ResponseWriter, r *http.Request) error {
	all, err := a.cfg.Exports.Exports(r.Context())
	if err != nil {
		return err
	}
	if all == nil {
		all = []export.Export{}
	}
	return writeJSON(w, http.StatusOK, map[string][]export.Export{"exports": all})
}

func (a *API) export(w http.ResponseWriter, r *http.Request) error {
	e, err := a.cfg.Exports.Export(r.Context(), r.PathValue("name"))
	if err != nil {
		return err
	}
	return writeJSON(w, http.StatusOK, e)
}

func (a *API) putExport(w http.ResponseWriter, r *http.Request) error {
	var c export.Config
	if err := readJSON(w, r, &c, "the body is not an export"); err != nil {
		return err
	}
	if c.Name != "" && c.Name != r.PathValue("name") {
		return fault.New(fault.Invalid, "the body's name is not the one in the path")
	}
	c.Name = r.PathValue("name")
	e, created, err := a.cfg.Exports.Put(r.Context(), c)
	if err != nil {
		return err
	}
	status := http.StatusOK
	if created {
		status = http.StatusCreated
	}
	to := e.Address
	if u, err := url.Parse(e.URL); err == nil && e.URL != "" {
		to = u.Host // a path may hold a secret
	}
	a.diagnosticsChanged(r, "export "+e.Name, false)
	rest.Note(r.Context(), "kind", string(e.Kind), "format", string(e.Format), "to", to, "disabled", e.Disabled)
	return writeJSON(w, status, e)
}

func (a *API) deleteExport(w http.ResponseWriter, r *http.Request) error {
	if err := a.cfg.Exports.Delete(r.Context(), r.PathValue("name")); err != nil {
		return err
	}
	a.diagnosticsChanged(r, "export "+r.PathValue("name"), true)
	w.WriteHeader(http.StatusNoContent)
	return nil
}

func (a *API) testExport(w http.ResponseWriter, r *http.Request) error {
	if err := a.cfg.Exports.Test(r.Context(), r.PathValue("name")); err != nil {
		return err
	}
	return writeJSON(w, http.StatusOK, map[string]string{"sent": r.PathValue("name")})
}

// tableRows answers a page of a table, oldest first. The header Link names the next one, as long as there is one.
func (a *API) tableRows(w http.ResponseWriter, r *http.Request) error {
	query := r.URL.Query()
	p := page{api: a, from: time.Time{}, maker: table.Maker{Host: a.cfg.Host, Product: query.Get("product")}}
	if _, err := table.ProductName(p.maker.Product); err != nil {
		return err
	}
	for name, into := range map[string]*time.Time{"from": &p.from, "to": &p.to} {
		if text := query.Get(name); text != "" {
			var err error
			if *into, err = time.Parse(time.RFC3339, text); err != nil {
				return fault.New(fault.Invalid, "%s must be a time such as 2026-01-02T15:04:05Z", name)
			}
		}
	}
	lines := true
	switch query.Get("format") {
	case "", "ndjson":
	case "array": // as the data collector API of Log Analytics takes it
		lines = false
	default:
		return fault.New(fault.Invalid, "format must be ndjson or array")
	}
	limit, err := number(query, "limit", maxAlerts, maxAlerts)
	if err != nil {
		return err
	}
	p.left, p.after = int(limit), query.Get("after")
	if err := p.read(r.Context(), table.Name(r.PathValue("table"))); err != nil {
		return err
	}
	if p.next != "" {
		query.Set("after", p.next)
		w.Header().Set("Link", "<"+r.URL.Path+"?"+query.Encode()+`>; rel="next"`)
	}
	if lines {
		w.Header().Set("Content-Type", "application/x-ndjson")
		_, err = w.Write(p.body.lines())
	} else {
		w.Header().Set("Content-Type", "application/json")
		_, err = w.Write(p.body.array())
	}
	if err != nil {
		a.log.Debug("a page of a table was not read to its end", "err", err)
	}
	return nil
}

// page is a part of a table.
type page struct {
	api      *API
	maker    table.Maker
	from, to time.Time
	after    string // where it begins
	left     int    // places that it may still have
	next     string // where the next one begins; empty: there is none
	body     rows
	size     int
}

type rows [][]byte

func (r rows) lines() (b []byte) {
	for _, row := range r {
		b = append(append(b, row...), '\n')
	}
	return b
}

func (r rows) array() []byte {
	b := []byte{'['}
	for i, row := range r {
		if i > 0 {
			b = append(b, ',')
		}
		b = append(b, row...)
	}
	return append(b, "]\n"...)
}

func (p *page) add(v any) {
	row := table.Marshal(v)
	p.body, p.size = append(p.body, row), p.size+len(row)
}

// ends reports, after one of so many places that were found, whether the page ends here.
func (p *page) ends(next string) bool {
	p.left--
	if p.left > 0 && p.size < maxPage {
		return false
	}
	p.next = next
	return true
}

func (p *page) read(ctx context.Context, name table.Name) error {
	switch name {
	case table.Alerts:
		return p.alerts(ctx)
	case table.RawEvents:
		return p.events(ctx)
	case table.Recommendations:
		return p.recommendations(ctx)
	}
	return fault.New(fault.NotFound, "there is no table %q; there are %v", name, table.Names)
}

func (p *page) sequence() (n uint64, err error) {
	if p.after != "" {
		if n, err = strconv.ParseUint(p.after, 10, 63); err != nil {
			return 0, fault.New(fault.Invalid, "after must be what the header Link of the page before said")
		}
	}
	return n, nil
}

func (p *page) alerts(ctx context.Context) error {
	at, err := p.sequence()
	if err != nil {
		return err
	}
	for {
		list, err := p.api.cfg.Tables.AlertsChanged(ctx, p.from, p.to, at, min(p.left, partOfPage))
		if err != nil {
			return err
		}
		for i := range list {
			p.add(p.maker.Alert(&list[i]))
			at = list[i].Sequence
			if p.ends(strconv.FormatUint(at, 10)) {
				return nil
			}
		}
		if len(list) < partOfPage {
			return nil
		}
	}
}

func (p *page) events(ctx context.Context) error {
	span := record.Span{From: p.from, To: p.to}
	var err error
	if p.after != "" {
		if span.After, err = record.ParsePlace(p.after); err != nil {
			return err
		}
	}
	for {
		list, err := p.api.cfg.Tables.EventsAfter(ctx, span, min(p.left, partOfPage))
		if err != nil {
			return err
		}
		for i := range list {
			for _, row := range p.maker.Events(&list[i]) {
				p.add(row)
			}
			span.After = list[i].Place
			if p.ends(span.After.String()) {
				return nil
			}
		}
		if len(list) < partOfPage {
			return nil
		}
	}
}

func (p *page) recommendations(ctx context.Context) error {
	at, err := p.sequence()
	if err != nil {
		return err
	}
	for {
		list, err := p.api.cfg.Tables.Recommendations(ctx, posture.Filter{After: at, Oldest: true, Limit: partOfPage})
		if err != nil {
			return err
		}
		for i := range list {
			c := &list[i]
			at = c.Sequence
			if c.StatusChanged.Before(p.from) || !p.to.IsZero() && !c.StatusChanged.Before(p.to) {
				continue
			}
			p.add(p.maker.Recommendation(c))
			if p.ends(strconv.FormatUint(at, 10)) {
				return nil
			}
		}
		if len(list) < partOfPage {
			return nil
		}
	}
}
