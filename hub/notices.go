package hub

import (
	"context"

	"github.com/vauban-iot/vauban/hub/activity"
	"github.com/vauban-iot/vauban/hub/meter"
	"github.com/vauban-iot/vauban/hub/notice"
	"github.com/vauban-iot/vauban/iot"
)

// ReadNotices locks what a service reads next from a queue: up to notice.MaxBatch records of
// feedback, or one notice of a file. The batch may be empty.
func (h *Hub) ReadNotices(ctx context.Context, q notice.Queue) (notice.Batch, error) {
	n := notice.MaxBatch
	if q == notice.Files {
		n = 1
	}
	now := h.now()
	return h.cfg.Notices.LockNotices(ctx, q, n, now, now.Add(notice.Lock))
}

// SettleNotices ends the lock of a batch; fault.LockLost.
func (h *Hub) SettleNotices(ctx context.Context, q notice.Queue, lockToken string, how iot.Settlement) error {
	return h.cfg.Notices.SettleNotices(ctx, q, lockToken, how, q.MaxDelivery())
}

// Purge removes every message that waits for a device and returns how many; fault.NotFound.
func (h *Hub) Purge(ctx context.Context, id iot.ID) (int, error) {
	n, err := h.cfg.Mailbox.Purge(ctx, id, h.now())
	if err == nil {
		h.cfg.Activity.Add(id.Device, activity.QueuePurges, 1)
	}
	return n, err
}

// expire removes what nobody came for in time.
func (h *Hub) expire(ctx context.Context) {
	now := h.now()
	expired, err := h.cfg.Mailbox.Expire(ctx, now)
	if err != nil && ctx.Err() == nil {
		h.log.Error("expired messages not removed", "err", err)
	}
	h.cfg.Meter.Add(meter.MailExpired, expired)
	if _, err := h.cfg.Notices.ExpireNotices(ctx, now, notice.MaxQueue); err != nil && ctx.Err() == nil {
		h.log.Error("expired notices not removed", "err", err)
	}
	if h.credentials != nil {
		if err := h.credentials.Expire(ctx); err != nil && ctx.Err() == nil {
			h.log.Error("expired certificate requests not removed", "err", err)
		}
	}
	if h.cfg.Uploads == nil {
		return
	}
	if err := h.cfg.Uploads.Expire(ctx); err != nil && ctx.Err() == nil {
		h.log.Error("expired uploads not removed", "err", err)
	}
}
