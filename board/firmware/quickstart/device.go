package quickstart

import (
	"context"
	"time"

	"github.com/vauban-iot/vauban/sdk/device"
)

// Device is the firmware's connection and clock, for what else runs on the board (Config.Define). It is good until the next reset, and its methods are
// for threads.
type Device struct{ run *run }

// Send sends a message and waits until the hub has it. ErrOffline while there is no connection.
func (d *Device) Send(m device.Message) error {
	return d.run.request(func(ctx context.Context, s *device.Session) error { return s.Send(ctx, m) })
}

// Await calls what blocks, as the firmware does (firmware.Caller).
func (d *Device) Await(typical time.Duration, call func(ctx context.Context) error) error {
	return d.run.caller.Await(typical, call)
}

// Online reports that there is a connection.
func (d *Device) Online() bool { return d.run.session != nil }

// Now is the time, if the firmware knows it.
func (d *Device) Now() (time.Time, bool) { return d.run.board.RTC.Time(), d.run.board.RTC.Valid() }
