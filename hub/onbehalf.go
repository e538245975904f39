package hub

import (
	"context"
	"strings"

	"github.com/vauban-iot/vauban/fault"
	"github.com/vauban-iot/vauban/hub/registry"
	"github.com/vauban-iot/vauban/iot"
	"github.com/vauban-iot/vauban/wire/sas"
)

// maxChain is the longest way from a module of a leaf to the top: module, leaf and five layers of edge
// devices (edge §6), with room to grow.
const maxChain = 16

// authChain splits the way from a target to the edge device that speaks for it. One element, or none, is an
// ordinary login (hub-device §6.5).
func authChain(text string) []string {
	if text == "" {
		return nil
	}
	return strings.Split(strings.TrimSuffix(text, ";"), ";")
}

// checkActor judges a connection on behalf of target: an edge device above it shows the token of its own $edgeHub, and
// the way from the target up to it. Every step of the way must be one the registry knows.
func (h *Hub) checkActor(ctx context.Context, c iot.Credentials, target registry.Identity, chain []string, p *proof) error {
	if len(chain) > maxChain {
		return fault.New(fault.Unauthorized, "the auth-chain has %d links, %d are allowed", len(chain), maxChain)
	}
	if chain[0] != target.ID.String() {
		return fault.New(fault.Unauthorized, "the auth-chain does not begin with the identity of the user name")
	}
	var above []iot.ID
	link := target
	for _, name := range chain[1:] {
		next, err := h.cfg.Registry.Parent(ctx, link, name)
		if fault.Is(err, fault.NotFound) {
			return fault.Wrap(fault.Unauthorized, err, "the auth-chain is not the way the registry knows: %s is not above %s", name, link.ID)
		}
		if err != nil {
			return err
		}
		above, link = append(above, next.ID), next
	}
	if !link.Edge {
		return fault.New(fault.Unauthorized, "the last device of the auth-chain is no edge device")
	}
	actor, err := h.cfg.Registry.Identity(ctx, iot.ID{Device: link.ID.Device, Module: registry.EdgeHub})
	if fault.Is(err, fault.NotFound) {
		return fault.Wrap(fault.Unauthorized, err, "the last device of the auth-chain has no $edgeHub")
	}
	if err != nil {
		return err
	}
	if c.Token == "" {
		return fault.New(fault.Unauthorized, "who connects on behalf of another must show a token")
	}
	t, err := sas.Parse(c.Token)
	if err != nil {
		return fault.Wrap(fault.Unauthorized, err, "the token cannot be read")
	}
	if t.KeyName != "" {
		return fault.New(fault.Unauthorized, "a policy's token does not speak for an edge device")
	}
	refused, err := h.refused(ctx)
	if err != nil {
		return err
	}
	if err := h.checkOwnToken(t, actor, refused, resource(actor.ID)); err != nil {
		return err
	}
	p.expires = t.Expiry
	p.method = methodText(iot.AuthMethod{Scope: "module", Type: "sas", By: "iothub", Rule: ruleOf(c)}) // the credential was a module's
	p.above = above
	return nil
}

// dropOrphans ends sessions on behalf of others when a device on their way up may not connect any longer. It looks at what the
// registry says, so that it does not matter on which server the change was made.
func (h *Hub) dropOrphans(ctx context.Context) {
	below := make(map[iot.ID][]*session)
	h.mu.Lock()
	for s := range h.sessions {
		for _, id := range s.above {
			below[id] = append(below[id], s)
		}
	}
	h.mu.Unlock()
	for id, sessions := range below {
		var reason error
		switch d, err := h.cfg.Registry.Identity(ctx, id); {
		case fault.Is(err, fault.NotFound):
			reason = fault.New(fault.NotFound, "%s, on the way up, was deleted", id)
		case err != nil:
			if ctx.Err() == nil {
				h.log.Error("an edge device cannot be looked up; who connected through it stays", "device", id.Device, "err", err)
			}
			continue
		case d.Status == registry.Disabled:
			reason = fault.New(fault.Disabled, "%s, on the way up, was disabled", id)
		default:
			continue
		}
		for _, s := range sessions {
			s.link.Close(reason)
		}
	}
}
