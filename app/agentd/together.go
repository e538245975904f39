package agentd

import (
	"context"
	"errors"
	"strings"
	"sync"

	"github.com/vauban-iot/vauban/agent/collect"
)

// together are watchers that the twin sees as one collector. As long as one of them works, it does.
type together []collect.Watcher

func (t together) Run(ctx context.Context, emit func(collect.Observation)) error {
	errs := make([]error, len(t))
	var wg sync.WaitGroup
	for i, w := range t {
		wg.Go(func() { errs[i] = w.Run(ctx, emit) })
	}
	wg.Wait()
	return errors.Join(errs...)
}

func (t together) Source() string {
	var all []string
	for _, w := range t {
		all = append(all, w.Source())
	}
	return strings.Join(all, ", ")
}
