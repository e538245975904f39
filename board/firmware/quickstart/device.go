package quickstart

import (
	"context"
	"time"

	"github.com/vauban-iot/vauban/sdk/device"
)

// Device is the firmware's connection and clock, for what else runs on the board (Config.Define). It is the same over resets. Its methods are
// for threads.
type Device struct{ firmware *Firmware }

// Device is the one that Config.Define gets.
func (f *Firmware) Device() *Device { return f.device }

// Send sends a message and waits until the hub has it. ErrOffline while there is no connection.
func (d *Device) Send(m device.Message) error {
	r := d.firmware.run
	if r == nil {
		return ErrOffline
	}
	return r.request(func(ctx context.Context, s *device.Session) error { return s.Send(ctx, m) })
}

// Await calls what blocks, as the firmware does (firmware.Caller).
func (d *Device) Await(typical time.Duration, call func(ctx context.Context) error) error {
	return d.firmware.caller.Await(typical, call)
}

// Online reports that there is a connection.
func (d *Device) Online() bool { return d.firmware.run != nil && d.firmware.run.session != nil }

// Identity is whose connection it is, or was last; empty before there was one.
func (d *Device) Identity() (hub, id string, connected bool) {
	return d.firmware.hub, d.firmware.id, d.Online()
}

// Now is the time, if the firmware knows it.
func (d *Device) Now() (time.Time, bool) {
	rtc := d.firmware.board.RTC
	return rtc.Time(), rtc.Valid()
}
