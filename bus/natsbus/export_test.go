package natsbus

import "time"

// SetAckWait shortens how long an entry may be worked on without a sign of life.
func (b *Bus) SetAckWait(d time.Duration) { b.ackWait = d }
