package mqtt

import (
	"context"
	"testing"

	"github.com/vauban-iot/vauban/iot"
	"github.com/vauban-iot/vauban/wire/topic"
)

// settled is a session that counts what was completed.
type settled struct {
	iot.Session
	n int
}

func (s *settled) Settle(context.Context, string) error { s.n++; return nil }

// At QoS 0 a message counts as completed once written: one for a connection that is over stays in the queue.
func TestC2D_NotWrittenIsNotCompleted(t *testing.T) {
	t.Parallel()
	d := newTestDevice(t)
	s := &settled{}
	d.session = s
	d.granted[topic.FilterC2D] = 0
	d.deliver(&iot.Mail{LockToken: "t"})
	if s.n != 0 {
		t.Error("a message that was not written was completed")
	}
}

// newTestDevice is a device whose connection writes to nobody.
func newTestDevice(t *testing.T) *device {
	t.Helper()
	d := &device{c: &conn{shutDown: true}}
	d.granted[topic.FilterMethods] = 0
	d.ctx, d.cancel = context.WithCancel(t.Context())
	t.Cleanup(d.cancel)
	return d
}
