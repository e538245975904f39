package hub

import (
	"context"

	"github.com/vauban-iot/vauban/hub/registry"
	"github.com/vauban-iot/vauban/iot"
)

// RotateKeys gives an identity new symmetric keys; see [registry.Registry.RotateKeys]. Sessions that are open stay.
func (h *Hub) RotateKeys(ctx context.Context, id iot.ID, primary, secondary bool) (registry.Identity, error) {
	return h.cfg.Registry.RotateKeys(ctx, id, primary, secondary)
}
