package agent

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/vauban-iot/vauban/agent/collect"
	"github.com/vauban-iot/vauban/agent/config"
	"github.com/vauban-iot/vauban/agent/gather"
	"github.com/vauban-iot/vauban/wire/secmsg"
)

// Once takes every snapshot and watches for a while, and returns what would be sent. What collectors could not see is in the error, beside
// the rest.
func Once(ctx context.Context, sources []Source, settings config.Settings, watch time.Duration) ([]secmsg.Event, error) {
	var mu sync.Mutex
	var errs []error
	var all []collect.Observation
	add := func(name string, os []collect.Observation, err error) {
		mu.Lock()
		defer mu.Unlock()
		all = append(all, os...)
		if err != nil {
			errs = append(errs, fmt.Errorf("%s: %w", name, err))
		}
	}
	watching, cancel := context.WithTimeout(ctx, watch)
	defer cancel()
	var wg sync.WaitGroup
	for _, s := range sources {
		if s.Watcher == nil || watch <= 0 {
			continue
		}
		wg.Go(func() {
			cache := gather.New(defaultCache, settings.Collectors[s.Name].Apart)
			err := s.Watcher.Run(watching, cache.Add)
			if watching.Err() != nil {
				err = nil
			}
			seen, _ := cache.Take()
			add(s.Name, seen, err)
		})
	}
	for _, s := range sources {
		if s.Snapshot != nil {
			taking, cancel := context.WithTimeout(ctx, snapshotTime)
			seen, err := s.Snapshot.Take(taking)
			cancel()
			add(s.Name, told(s.Name, seen, err), err)
		}
	}
	wg.Wait()
	return eventsOf(all), errors.Join(errs...)
}
