package hub

import (
	"context"
	"encoding/json"
	"fmt"
	"strings"

	"github.com/vauban-iot/vauban/fault"
	"github.com/vauban-iot/vauban/hub/registry"
	"github.com/vauban-iot/vauban/iot"
)

// errContained refuses what the level of a device does not allow.
var errContained = fault.New(fault.Disabled, "the device is contained by its operator")

// held reports whether a device of this level may only send telemetry.
func held(l registry.Level) bool { return l >= registry.TelemetryOnly }

// Containment returns how a device is held back; fault.NotFound.
func (h *Hub) Containment(ctx context.Context, device string) (registry.Containment, error) {
	return h.cfg.Registry.Containment(ctx, device)
}

// Contained lists the devices that are held back, or observed, after the given one.
func (h *Hub) Contained(ctx context.Context, after string, limit int) ([]registry.Containment, error) {
	return h.cfg.Registry.Contained(ctx, after, limit)
}

// Contain changes how far a device is held back. Its failures are those of registry.Registry.Contain.
func (h *Hub) Contain(ctx context.Context, device string, level registry.Level, reason, by string) (registry.Containment, error) {
	c, err := h.cfg.Registry.Contain(ctx, device, level, reason, by)
	if err != nil {
		return c, err
	}
	return c, h.enforce(ctx, c)
}

// Uncontain undoes the last Contain of a device. Its failures are those of registry.Registry.Uncontain.
func (h *Hub) Uncontain(ctx context.Context, device, by string) (registry.Containment, error) {
	c, from, err := h.cfg.Registry.Uncontain(ctx, device, by)
	if err != nil {
		return c, err
	}
	return c, h.enforce(ctx, registry.Containment{Device: device, Level: c.Level, Before: &registry.Containment{Level: from}})
}

// enforce ends the sessions that a change of level changes anything for, wherever they are: whoever may, connects again
// and reads its twin anew. Observing starts and ends behind the device's back.
func (h *Hub) enforce(ctx context.Context, c registry.Containment) error {
	from := registry.Free
	if c.Before != nil {
		from = c.Before.Level
	}
	if !held(from) && !held(c.Level) {
		h.watch(ctx)
		return nil
	}
	ids, err := h.family(ctx, iot.ID{Device: c.Device})
	if fault.Is(err, fault.NotFound) { // it was deleted, and its sessions ended with it
		return nil
	}
	if err != nil {
		return err
	}
	kind := fault.Unavailable
	if c.Level == registry.Cut {
		kind = fault.Disabled
	}
	h.disconnect(ctx, ids, kind, "the device's containment changed: "+c.Level.String())
	h.watch(ctx)
	return nil
}

// maxWatched is how many contained devices one look at them brings.
const maxWatched = registry.MaxContained

// watch brings the sessions of this server to the levels that the registry has, on whichever server those were changed.
func (h *Hub) watch(ctx context.Context) {
	cs, err := h.cfg.Registry.Contained(ctx, "", maxWatched)
	if err != nil {
		if ctx.Err() == nil {
			h.log.Error("contained devices cannot be read; sessions keep their levels", "err", err)
		}
		return
	}
	levels := make(map[string]registry.Level, len(cs))
	for _, c := range cs {
		levels[c.Device] = c.Level
	}
	var ended []*session
	h.mu.Lock()
	for s := range h.sessions {
		level := levels[s.id.Device]
		for _, id := range s.above {
			level = max(level, levels[id.Device])
		}
		before := registry.Level(s.level.Swap(uint32(level)))
		if held(before) != held(level) || level == registry.Cut {
			ended = append(ended, s)
		}
	}
	h.mu.Unlock()
	for _, s := range ended {
		s.link.Close(fault.New(fault.Unavailable, "the containment of the device, or of one above it, changed"))
	}
}

// observed logs what a device does that is contained in any way.
func (h *Hub) observed(l registry.Level, id iot.ID, what string, args ...any) {
	if l != registry.Free {
		h.log.Info("contained device", append([]any{"what", what, "device", id.Device, "module", id.Module, "level", l.String()}, args...)...)
	}
}

// barred logs an operation of the session's device, and refuses it when its level does.
func (s *session) barred(what string) error {
	l := registry.Level(s.level.Load())
	s.hub.observed(l, s.id, what, "refused", held(l))
	if held(l) {
		return errContained
	}
	return nil
}

// barred is that of a session.
func (v *visit) barred(what string) error {
	v.hub.observed(v.level, v.id, what, "refused", held(v.level))
	if held(v.level) {
		return errContained
	}
	return nil
}

// Words of an Effect.
var (
	telemetryWords = "telemetry and security messages"
	deviceWords    = []string{
		"reading and writing the twin", "direct methods", "cloud-to-device messages", "desired properties", "file uploads",
		"certificate requests", "calls of its modules to others",
	}
)

// ContainmentEffect tells what Contain would do; fault.NotFound.
func (h *Hub) ContainmentEffect(ctx context.Context, device string, to registry.Level) (registry.Effect, error) {
	d, err := h.cfg.Registry.Identity(ctx, iot.ID{Device: device})
	if fault.Is(err, fault.NotFound) { // its id may be held back all the same
		c, err := h.cfg.Registry.Containment(ctx, device)
		return registry.Effect{Device: device, From: c.Level, To: to, Sessions: []string{}, Refused: []string{}, Allowed: []string{}}, err
	}
	if err != nil {
		return registry.Effect{}, err
	}
	e := registry.Effect{Device: device, From: d.Containment, To: to, Waiting: d.Pending, Sessions: []string{}, Refused: []string{}, Allowed: []string{}}
	if held(d.Containment) || held(to) {
		ms, err := h.cfg.Registry.Modules(ctx, device)
		if err != nil {
			return registry.Effect{}, err
		}
		for _, m := range append([]registry.Identity{d}, ms...) {
			if m.Connected {
				e.Sessions = append(e.Sessions, m.ID.String())
			}
		}
	}
	switch to {
	case registry.Cut:
		e.Refused = append([]string{"connecting", telemetryWords}, deviceWords...)
	case registry.TelemetryOnly:
		e.Refused, e.Allowed = deviceWords, []string{telemetryWords}
	default:
		e.Allowed = append([]string{telemetryWords}, deviceWords...)
	}
	if d.Edge && d.Scope != "" {
		if e.Below, e.BelowConnected, err = h.below(ctx, d.Scope); err != nil {
			return registry.Effect{}, err
		}
	}
	return e, nil
}

// below counts the devices whose parent has this scope.
func (h *Hub) below(ctx context.Context, scope string) (all, connected int, err error) {
	page, err := h.cfg.Fleet.Query(ctx, fmt.Sprintf("SELECT connectionState AS state, COUNT() AS n FROM devices WHERE ARRAY_CONTAINS(parentScopes, '%s') GROUP BY connectionState",
		strings.ReplaceAll(scope, "'", "''")), 0, "")
	if err != nil {
		return 0, 0, err
	}
	for _, item := range page.Items {
		var row struct {
			State string `json:"state"`
			N     int    `json:"n"`
		}
		if err := json.Unmarshal(item, &row); err != nil {
			return 0, 0, err
		}
		all += row.N
		if row.State == "Connected" {
			connected = row.N
		}
	}
	return all, connected, nil
}
