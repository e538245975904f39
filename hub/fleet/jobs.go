package fleet

import (
	"context"
	"errors"
	"strings"

	"github.com/vauban-iot/vauban/hub/fleet/job"
	"github.com/vauban-iot/vauban/hub/query"
	"github.com/vauban-iot/vauban/iot"
)

var _ job.Finder = (*Fleet)(nil)

// Find calls visit for the id of every device or module that meets a condition, until it returns an error, which Find returns.
func (f *Fleet) Find(ctx context.Context, c *query.Condition, visit func(iot.ID) error) error {
	if c.None {
		return nil
	}
	s := Scan{Modules: c.From == query.Modules, Where: c.Where}
	query.Paths(c.Where, s.reads)
	return f.store.Scan(ctx, s, func(r *Row) error {
		if !c.Matches(document{r}) {
			return nil
		}
		return visit(r.Twin.ID)
	})
}

// jobs answers a query over devices.jobs.
func (f *Fleet) jobs(ctx context.Context, q *query.Query, size int, at position) (Page, error) {
	page := Page{ItemType: JobItems}
	s := job.Scan{AfterJob: at.Job, After: at.After}
	for _, x := range query.Conjuncts(q.Where) {
		path, op, values, ok := query.Comparison(x)
		if !ok || op != "=" || len(path) != 1 {
			continue
		}
		text, ok := values[0].Str()
		switch {
		case !ok || strings.IndexByte(text, 0) >= 0:
		case strings.EqualFold(path[0].Name, "jobId"):
			s.Job = text
		case strings.EqualFold(path[0].Name, "deviceId"):
			s.Device = text
		}
	}
	if q.Top > 0 {
		if at.Done >= q.Top {
			return page, nil
		}
		size = min(size, q.Top-at.Done)
	}
	var last *job.Row
	err := f.store.ScanRows(ctx, s, func(r *job.Row) error {
		if !q.Matches(r) {
			return nil
		}
		if len(page.Items) == size {
			at.Job, at.After, at.Done = last.Job, last.ID, at.Done+size
			if q.Top == 0 || at.Done < q.Top {
				page.Next = at.token(q)
			}
			return ErrStop
		}
		last = r
		page.Items = append(page.Items, r.Document())
		return nil
	})
	if errors.Is(err, ErrStop) {
		err = nil
	}
	return page, err
}
