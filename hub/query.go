package hub

import (
	"context"

	"github.com/vauban-iot/vauban/hub/fleet"
	"github.com/vauban-iot/vauban/hub/meter"
)

// Query answers a query over twins, a page at a time; see [fleet.Fleet.Query].
func (h *Hub) Query(ctx context.Context, text string, size int, token string) (fleet.Page, error) {
	page, err := h.cfg.Fleet.Query(ctx, text, size, token)
	h.cfg.Meter.Outcome(err, meter.QuerySuccess, meter.QueryFailure)
	if err == nil {
		bytes := 0
		for _, item := range page.Items {
			bytes += len(item)
		}
		h.cfg.Meter.Size(meter.QueryResult, bytes)
	}
	return page, err
}
