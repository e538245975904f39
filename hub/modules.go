package hub

import (
	"context"

	"github.com/vauban-iot/vauban/fault"
	"github.com/vauban-iot/vauban/hub/registry"
	"github.com/vauban-iot/vauban/iot"
)

// Modules lists the modules of a device; fault.NotFound.
func (h *Hub) Modules(ctx context.Context, device string) ([]registry.Identity, error) {
	return h.cfg.Registry.Modules(ctx, device)
}

// family is an identity with the modules that stand and fall with it.
func (h *Hub) family(ctx context.Context, id iot.ID) ([]iot.ID, error) {
	ids := []iot.ID{id}
	if id.Module != "" {
		return ids, nil
	}
	ms, err := h.cfg.Registry.Modules(ctx, id.Device)
	for _, m := range ms {
		ids = append(ids, m.ID)
	}
	return ids, err
}

// disconnect ends the sessions of identities, wherever they are, and those on behalf of what is below them: other servers
// see the latter with their next beat.
func (h *Hub) disconnect(ctx context.Context, ids []iot.ID, kind fault.Kind, reason string) {
	for _, id := range ids {
		h.cfg.Router.Disconnect(id, kind, reason)
	}
	h.dropOrphans(ctx)
}

// admit reports why id may not have a session, beside its proof: fault.Unauthorized when it, or its device, is gone,
// fault.Disabled, and fault.Unavailable when its device is held back more than level, which its proof found.
func (h *Hub) admit(ctx context.Context, id iot.ID, level registry.Level) error {
	d, err := h.cfg.Registry.Identity(ctx, id)
	if err == nil && id.Module != "" { // a module has no status of its own
		d, err = h.cfg.Registry.Identity(ctx, iot.ID{Device: id.Device})
	}
	switch {
	case fault.Is(err, fault.NotFound):
		return fault.Wrap(fault.Unauthorized, err, "the device is not registered any more")
	case err != nil:
		return err
	case d.Status == registry.Disabled:
		return errDisabled
	case held(d.Containment) && d.Containment > level:
		return fault.New(fault.Unavailable, "the device's containment changed while it connected")
	}
	return nil
}
