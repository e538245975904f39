package hub

import (
	"context"

	"github.com/vauban-iot/vauban/fault"
	"github.com/vauban-iot/vauban/hub/registry"
	"github.com/vauban-iot/vauban/hub/twin"
)

// Bulk carries out rows one by one; one that fails does not keep the others from being done. The result
// holds an error, or nil, for each row.
func (h *Hub) Bulk(ctx context.Context, rows []registry.Entry) []error {
	errs := make([]error, len(rows))
	for i, e := range rows {
		errs[i] = h.bulkRow(ctx, e)
	}
	return errs
}

func (h *Hub) bulkRow(ctx context.Context, e registry.Entry) error {
	switch e.Mode {
	case registry.BulkCreate:
		return h.bulkCreate(ctx, e)
	case registry.BulkUpdate:
		e.Match = nil
		return h.bulkUpdate(ctx, e)
	case registry.BulkUpdateIfMatch:
		return h.bulkUpdate(ctx, e)
	case registry.BulkDelete:
		return h.DeleteDevice(ctx, e.ID, nil)
	case registry.BulkDeleteIfMatch:
		return h.DeleteDevice(ctx, e.ID, e.Match)
	case registry.BulkUpdateTwin:
		_, _, err := h.PatchTwin(ctx, e.ID, nil, e.Patch)
		return err
	case registry.BulkUpdateTwinIfMatch:
		_, _, err := h.PatchTwin(ctx, e.ID, e.TwinMatch, e.Patch)
		return err
	case registry.BulkCreateOrUpdate, registry.BulkCreateOrUpdateIfMatch:
		if err := h.bulkCreate(ctx, e); !fault.Is(err, fault.AlreadyExists) {
			return err
		}
		if e.Mode == registry.BulkCreateOrUpdate {
			e.Match = nil
		}
		return h.bulkUpdate(ctx, e)
	}
	return fault.New(fault.Invalid, "unknown mode %q", e.Mode)
}

func (h *Hub) bulkCreate(ctx context.Context, e registry.Entry) error {
	t, _, err := twin.New(e.ID).Apply(e.Patch, h.now())
	if err != nil {
		return err
	}
	_, err = h.cfg.Registry.Create(ctx, e.Change.New(e.ID), &t)
	return err
}

// bulkUpdate changes the identity and then, when the row has one, its twin.
func (h *Hub) bulkUpdate(ctx context.Context, e registry.Entry) error {
	if _, err := h.UpdateDevice(ctx, e.ID, e.Match, e.Change); err != nil {
		return err
	}
	if !e.Patch.HasTags && !e.Patch.HasDesired {
		return nil
	}
	_, _, err := h.PatchTwin(ctx, e.ID, e.TwinMatch, e.Patch)
	return err
}
