// Package command is the one way back to a device: direct methods, desired
// properties, cloud-to-device messages and disconnects all pass here, to the
// session that owns the device, wherever it lives (design §2).
package command

import (
	"context"
	"time"

	"github.com/vauban-iot/vauban/iot"
)

// Mailbox keeps the queues of cloud-to-device messages. Every write is on disk when the call returns.
type Mailbox interface {
	// Enqueue adds m unless limit messages wait already (fault.QueueFull). Messages
	// expired at now do not count. fault.NotFound for an unknown identity.
	Enqueue(ctx context.Context, m iot.Mail, limit int, now time.Time) (sequence uint64, err error)
	// Lock takes up to n visible, unexpired messages of id in order, hides them until
	// `until` and gives each a lock token.
	Lock(ctx context.Context, id iot.ID, n int, now, until time.Time) ([]iot.Mail, error)
	// Settle ends the lock of a message; fault.LockLost when the token is unknown. A token stays good
	// until the message is locked again, even past its time. A message that is abandoned counts one
	// more delivery and is visible at once, or is removed at the maxDelivery-th. Whoever sent a message
	// that is removed gets the feedback it asked for, dated now, in the same write.
	Settle(ctx context.Context, id iot.ID, lockToken string, how iot.Settlement, maxDelivery int, now time.Time) error
	// Release makes every message of id that is locked visible again, at once, as when its session ends.
	Release(ctx context.Context, id iot.ID) error
	// Purge removes every message of id, with the feedback it owes, and returns how many; fault.NotFound.
	Purge(ctx context.Context, id iot.ID, now time.Time) (int, error)
	// Expire removes messages whose time is past, with the feedback they owe, and returns how many.
	Expire(ctx context.Context, now time.Time) (int, error)
}

// Sessions keeps the subscriptions of sessions that outlive their connection
// (MQTT clean session 0, hub-device §2.4).
type Sessions interface {
	// Session returns the stored subscriptions; ok is false when there is no stored session.
	Session(ctx context.Context, id iot.ID) (subs []iot.Subscription, ok bool, err error)
	// SaveSession replaces them.
	SaveSession(ctx context.Context, id iot.ID, subs []iot.Subscription) error
	// DropSession forgets them. Unknown ids are fine.
	DropSession(ctx context.Context, id iot.ID) error
}
