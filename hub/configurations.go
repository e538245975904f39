package hub

import (
	"context"
	"encoding/json"

	"github.com/vauban-iot/vauban/hub/fleet/configuration"
	"github.com/vauban-iot/vauban/iot"
)

// Configuration returns an automatic configuration or deployment; fault.NotFound.
func (h *Hub) Configuration(ctx context.Context, id string) (configuration.Configuration, error) {
	return h.configurations.Configuration(ctx, id)
}

// Configurations returns at most top of them; 0 means all.
func (h *Hub) Configurations(ctx context.Context, top int) ([]configuration.Configuration, error) {
	return h.configurations.Configurations(ctx, top)
}

// CreateConfiguration adds one; see [configuration.Service.Create].
func (h *Hub) CreateConfiguration(ctx context.Context, c configuration.Change) (configuration.Configuration, error) {
	return h.configurations.Create(ctx, c)
}

// UpdateConfiguration changes one; see [configuration.Service.Update].
func (h *Hub) UpdateConfiguration(ctx context.Context, match *iot.Match, c configuration.Change) (configuration.Configuration, error) {
	return h.configurations.Update(ctx, match, c)
}

// DeleteConfiguration removes one; fault.NotFound and PreconditionFailed.
func (h *Hub) DeleteConfiguration(ctx context.Context, id string, match *iot.Match) error {
	return h.configurations.Delete(ctx, id, match)
}

// ApplyContent gives one device a configuration's content once; see [configuration.Service.ApplyContent].
func (h *Hub) ApplyContent(ctx context.Context, device string, content json.RawMessage) error {
	return h.configurations.ApplyContent(ctx, device, content)
}

// RunConfigurations applies configurations until ctx ends. It must run on one server at a time.
func (h *Hub) RunConfigurations(ctx context.Context) error { return h.configurations.Run(ctx) }
