package hub

import (
	"context"

	"github.com/vauban-iot/vauban/hub/fleet"
)

// Query answers a query over twins, a page at a time; see [fleet.Fleet.Query].
func (h *Hub) Query(ctx context.Context, text string, size int, token string) (fleet.Page, error) {
	return h.cfg.Fleet.Query(ctx, text, size, token)
}
