package hub

import (
	"context"

	"github.com/vauban-iot/vauban/fault"
	"github.com/vauban-iot/vauban/hub/registry"
	"github.com/vauban-iot/vauban/iot"
	"github.com/vauban-iot/vauban/wire/sas"
)

// ModuleOf returns a module of the device that c proves to be, with the module's keys (defender §1.5). The device's token must be
// for the whole hub: one that names the device, which may have been lent for an hour of telemetry, does not give away keys
// that last. Failures are those of Visit; fault.NotFound is a module that does not exist.
func (h *Hub) ModuleOf(ctx context.Context, c iot.Credentials, module string) (registry.Identity, error) {
	if !h.ours(c.Host) {
		return registry.Identity{}, fault.New(fault.Unauthorized, "the request is for another hub")
	}
	d, err := h.cfg.Registry.Identity(ctx, c.ID)
	if fault.Is(err, fault.NotFound) {
		return registry.Identity{}, fault.Wrap(fault.Unauthorized, err, "the device is not registered")
	}
	if err != nil {
		return registry.Identity{}, err
	}
	switch {
	case c.Token != "":
		err = h.checkHostToken(ctx, c, d)
	case len(c.Certificates) > 0:
		err = h.checkCertificate(ctx, c, d, new(proof))
	default:
		err = fault.New(fault.Unauthorized, "neither a token nor a certificate was presented")
	}
	if err != nil {
		h.rejected(c, err)
		return registry.Identity{}, err
	}
	if d.Status == registry.Disabled {
		return registry.Identity{}, errDisabled
	}
	h.observed(d.Containment, c.ID, "asks for a module's keys", "refused", held(d.Containment))
	if held(d.Containment) {
		return registry.Identity{}, errContained
	}
	h.visited(c.ID)
	return h.cfg.Registry.Identity(ctx, iot.ID{Device: c.ID.Device, Module: module})
}

// checkHostToken judges a token that d's own key should have signed for the whole hub.
func (h *Hub) checkHostToken(ctx context.Context, c iot.Credentials, d registry.Identity) error {
	t, err := sas.Parse(c.Token)
	if err != nil {
		return reject(InvalidToken, fault.Wrap(fault.Unauthorized, err, "the token cannot be read"))
	}
	if t.KeyName != "" {
		return fault.New(fault.Unauthorized, "the token is that of a policy")
	}
	refused, err := h.refused(ctx)
	if err != nil {
		return err
	}
	return h.checkOwnToken(t, d, refused, nil)
}
