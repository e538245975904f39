package fleet

import (
	"context"
	"errors"

	"github.com/vauban-iot/vauban/hub/fleet/configuration"
	"github.com/vauban-iot/vauban/hub/query"
	"github.com/vauban-iot/vauban/hub/registry"
	"github.com/vauban-iot/vauban/hub/twin"
)

var _ configuration.Fleet = (*Fleet)(nil)

// Each calls visit for every device, or module, until it returns an error, which Each returns. The identity and the document
// hold what reads look at, and whether it is an edge device.
func (f *Fleet) Each(ctx context.Context, modules bool, reads []query.Expr, visit func(registry.Identity, twin.Twin, query.Document) error) error {
	s := Scan{Modules: modules, Identity: true}
	for _, x := range reads {
		query.Paths(x, s.reads)
	}
	return f.store.Scan(ctx, s, func(r *Row) error { return visit(r.Identity, r.Twin, document{r}) })
}

// Count counts the rows of a query's answer. Failures are those of Query.
func (f *Fleet) Count(ctx context.Context, text string) (int, error) {
	q, err := query.Parse(text)
	if err != nil {
		return 0, err
	}
	if q.Aggregates() || q.From == query.Jobs {
		p, err := f.Query(ctx, text, MaxPage, "")
		return len(p.Items), err
	}
	ctx, cancel := context.WithTimeoutCause(ctx, maxTime, errTooLong)
	defer cancel()
	n := 0
	s := scan(&query.Query{From: q.From, Where: q.Where, Columns: []query.Column{{Path: query.Path{{Name: "deviceId"}}}}}) // reads no more than WHERE does
	err = f.store.Scan(ctx, s, func(r *Row) error {
		if !q.Matches(document{r}) {
			return nil
		}
		if n++; n == q.Top {
			return ErrStop
		}
		return nil
	})
	if err != nil && errors.Is(context.Cause(ctx), errTooLong) {
		return 0, errTooLong
	}
	return n, err
}
