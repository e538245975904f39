package agent

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"slices"
	"time"

	"github.com/vauban-iot/vauban/internal/atomicfile"
	"github.com/vauban-iot/vauban/wire/attestation"
)

// maxEvents is how many different events wait for an upload (sphere §10). The oldest go.
const maxEvents = 1000

// Report keeps an error event for the next upload. The same event again is one that happened more often. Times and count may
// be zero: now, and once.
func (a *Agent) Report(e attestation.Event) error {
	a.mu.Lock()
	defer a.mu.Unlock()
	if e.Start.IsZero() {
		e.Start = a.nowLocked().Truncate(time.Second)
	}
	if e.End.IsZero() {
		e.End = e.Start
	}
	e.Count = max(e.Count, 1)
	a.addLocked(e)
	return a.saveEvents()
}

func sameEvent(a, b *attestation.Event) bool {
	return a.Type == b.Type && a.Class == b.Class && a.Description == b.Description
}

func (a *Agent) addLocked(e attestation.Event) {
	if i := slices.IndexFunc(a.events, func(o attestation.Event) bool { return sameEvent(&o, &e) }); i >= 0 {
		o := &a.events[i]
		o.Count += e.Count
		if e.Start.Before(o.Start) {
			o.Start = e.Start
		}
		if e.End.After(o.End) {
			o.End = e.End
		}
		return
	}
	if len(a.events) >= maxEvents {
		a.events = slices.Delete(a.events, 0, len(a.events)-maxEvents+1)
	}
	a.events = append(a.events, e)
}

// Events are those that wait for an upload.
func (a *Agent) Events() []attestation.Event {
	a.mu.Lock()
	defer a.mu.Unlock()
	return slices.Clone(a.events)
}

// ClearEvents forgets them.
func (a *Agent) ClearEvents() error {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.events = nil
	return a.saveEvents()
}

// UploadEvents hands what waits to the server, with the update certificate. What a server took whose answer was lost is sent
// twice.
func (a *Agent) UploadEvents(ctx context.Context) error {
	for {
		a.mu.Lock()
		batch := a.events[:min(len(a.events), attestation.MaxEvents)]
		a.events = a.events[len(batch):]
		batch = slices.Clone(batch)
		a.mu.Unlock()
		if len(batch) == 0 {
			return nil
		}
		err := a.post(ctx, a.trusted, attestation.EventsPath, attestation.EventsRequest{Version: attestation.Version, Events: batch}, &struct{}{})
		if refused, ok := errors.AsType[*RefusedError](err); ok && refused.Status == 400 {
			// It will never be taken; what follows may.
			a.log.WarnContext(ctx, "error events were refused and are dropped", "device", a.id, "events", len(batch), "err", err)
			err = nil
		}
		a.mu.Lock()
		if err != nil { // back to the front
			later := a.events
			a.events = batch
			for _, e := range later {
				a.addLocked(e)
			}
		}
		save := a.saveEvents()
		a.mu.Unlock()
		if err != nil || save != nil {
			return errors.Join(err, save)
		}
	}
}

// saveEvents writes what waits. mu must be held.
func (a *Agent) saveEvents() error {
	b, err := json.Marshal(a.events)
	if err != nil {
		return err
	}
	if err := atomicfile.Write(a.path(eventsFile), b, 0o600); err != nil {
		return fmt.Errorf("agent: keep the events: %w", err)
	}
	return nil
}

// loadEvents reads what waited. Events that cannot be read are lost: that must not stop a device.
func (a *Agent) loadEvents() {
	b, err := readLimited(a.path(eventsFile), 4<<20)
	if errors.Is(err, fs.ErrNotExist) {
		return
	}
	if err == nil {
		err = json.Unmarshal(b, &a.events)
	}
	if err != nil {
		a.log.Warn("error events cannot be read", "err", err)
		a.events = nil
	}
}
