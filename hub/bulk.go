package hub

import (
	"context"
	"hash/maphash"
	"slices"
	"sync"

	"github.com/vauban-iot/vauban/fault"
	"github.com/vauban-iot/vauban/hub/registry"
	"github.com/vauban-iot/vauban/hub/twin"
	"github.com/vauban-iot/vauban/iot"
)

// Bulk carries out rows in their order; one that fails does not keep the others from being done. The result
// holds an error, or nil, for each row. Neighbours that allow it share a transaction.
func (h *Hub) Bulk(ctx context.Context, rows []registry.Entry) []error {
	errs := make([]error, len(rows))
	var run []int // rows that wait to be carried out together
	seen := make(map[string]bool, len(rows))
	flush := func() {
		h.together(ctx, rows, run, errs)
		run = run[:0]
		clear(seen)
	}
	for i := range rows {
		if !rows[i].Plain() {
			flush()
			errs[i] = h.bulkRow(ctx, rows[i])
			continue
		}
		if seen[rows[i].ID.Device] {
			flush()
		}
		seen[rows[i].ID.Device] = true
		run = append(run, i)
	}
	flush()
	return errs
}

// singly is how many rows that do not share a transaction are under way at once.
const singly = 32

// Import is Bulk without an order among rows: first those that share a transaction, then the others, side by side.
func (h *Hub) Import(ctx context.Context, rows []registry.Entry) []error {
	errs := make([]error, len(rows))
	var run, rest []int
	seen := make(map[string]bool, len(rows))
	for i := range rows {
		if id := rows[i].ID.Device; rows[i].Plain() && !seen[id] {
			seen[id] = true
			run = append(run, i)
		} else {
			rest = append(rest, i)
		}
	}
	h.together(ctx, rows, run, errs)
	var crew sync.WaitGroup
	todo := make(chan int)
	for range min(singly, len(rest)) {
		crew.Go(func() {
			for i := range todo {
				errs[i] = h.bulkRow(ctx, rows[i])
			}
		})
	}
	for _, i := range rest {
		todo <- i
	}
	close(todo)
	crew.Wait()
	return errs
}

// together carries out the plain rows of run, of different devices, in one transaction.
func (h *Hub) together(ctx context.Context, rows []registry.Entry, run []int, errs []error) {
	if len(run) == 0 {
		return
	}
	if len(run) == 1 {
		errs[run[0]] = h.bulkRow(ctx, rows[run[0]])
		return
	}
	batch := make([]registry.Entry, len(run))
	for i, at := range run {
		batch[i] = rows[at]
	}
	unlock := h.orderAll(batch)
	var written func(before, after twin.Twin, w twin.Written) []iot.Message
	if h.cfg.Events.TwinWrites() {
		written = h.cfg.Events.TwinWritten
	}
	outcomes, err := h.cfg.Registry.Change(ctx, batch, written)
	if err == nil {
		for i := range outcomes {
			if o := &outcomes[i]; o.Err == nil && o.Push != nil && o.Record.Exists { // nobody listens who was made just now
				h.cfg.Router.Desired(batch[i].ID, o.Record.Twin.DesiredVersion, o.Push)
			}
		}
	}
	unlock()
	if err != nil {
		// What one row holds may have undone them all: each by itself then, unless no row can be done now.
		for _, at := range run {
			if errs[at] = err; ctx.Err() == nil && !fault.Is(err, fault.Unavailable) {
				errs[at] = h.bulkRow(ctx, rows[at])
			}
		}
		return
	}
	orphans := false
	for i, at := range run {
		o := &outcomes[i]
		errs[at] = o.Err
		switch {
		case o.Single:
			errs[at] = h.bulkRow(ctx, rows[at])
		case o.Err != nil || !o.Record.Exists:
		case o.Removed:
			orphans = true
			h.dismiss(o.Record, fault.NotFound, "the device was deleted")
		case o.Disabled:
			orphans = true
			h.dismiss(o.Record, fault.Disabled, "the device was disabled")
		}
	}
	if orphans {
		h.dropOrphans(ctx)
	}
}

// dismiss ends the sessions of a device and its modules.
func (h *Hub) dismiss(r registry.Record, kind fault.Kind, reason string) {
	id := r.Identity.ID
	h.cfg.Router.Disconnect(id, kind, reason)
	for _, m := range r.Modules {
		h.cfg.Router.Disconnect(iot.ID{Device: id.Device, Module: m}, kind, reason)
	}
}

// orderAll takes the locks of orderDesired of all rows that write desired properties. Whoever else takes one takes no second.
func (h *Hub) orderAll(rows []registry.Entry) (unlock func()) {
	var stripes []int
	for i := range rows {
		if rows[i].Patch.HasDesired && rows[i].Mode != registry.BulkCreate {
			stripes = append(stripes, int(maphash.Comparable(h.seed, rows[i].ID)%uint64(len(h.locks))))
		}
	}
	slices.Sort(stripes)
	stripes = slices.Compact(stripes)
	for _, i := range stripes {
		h.locks[i].Lock()
	}
	return func() {
		for _, i := range stripes {
			h.locks[i].Unlock()
		}
	}
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
