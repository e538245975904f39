package ui

import (
	"context"
	"sync"
	"time"
)

// cached reads something at most once in freshness, however many pages show it, and only when one
// asks. A read that takes long is repeated less often, so that watching never takes
// more than a twentieth of the store's time.
type cached[T any] struct {
	fetch func(context.Context) (T, error)

	mu    sync.Mutex
	at    time.Time // when value was read; zero: never
	rest  time.Duration
	value T
	err   error
}

const (
	freshness  = 900 * time.Millisecond // below the tick of a stream
	fetchLimit = 10 * time.Second
)

func (c *cached[T]) get(ctx context.Context) (T, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	start := time.Now()
	if !c.at.IsZero() && start.Sub(c.at) < c.rest {
		return c.value, c.err
	}
	// The answer is for others, too: it must not fail because this reader leaves.
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), fetchLimit)
	defer cancel()
	c.value, c.err = c.fetch(ctx)
	c.at = time.Now()
	c.rest = max(freshness, 20*c.at.Sub(start))
	return c.value, c.err
}
