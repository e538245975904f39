package registry

import (
	"context"
	"slices"
	"strings"
	"time"

	"github.com/vauban-iot/vauban/fault"
)

// Level is how far a device is held back while somebody finds out what it does. It is beside the identity's status, keys and
// twin, which stay as they are, and holds for the device's modules too. It is the id that is held back: a device that is deleted and comes again,
// as provisioning lets it, is held back still. Greater levels hold back more.
type Level uint8

// The levels.
const (
	Free          Level = iota // nothing is held back
	Observe                    // nothing either, but everything that the device does is logged
	TelemetryOnly              // it may send telemetry, and nothing reaches it
	Cut                        // it may not connect
)

var levels = []string{"none", "observe", "telemetry-only", "cut"}

func (l Level) String() string { return levels[min(int(l), len(levels)-1)] }

// ParseLevel undoes String; fault.Invalid.
func ParseLevel(s string) (Level, error) {
	if i := slices.Index(levels, s); i >= 0 {
		return Level(i), nil
	}
	return Free, fault.New(fault.Invalid, "the level must be one of %s", strings.Join(levels, ", "))
}

// MarshalText is String.
func (l Level) MarshalText() ([]byte, error) { return []byte(l.String()), nil }

// UnmarshalText is ParseLevel.
func (l *Level) UnmarshalText(text []byte) (err error) {
	*l, err = ParseLevel(string(text))
	return err
}

// Bounds of containment.
const (
	MaxContained = 10_000 // devices above Free
	MaxReason    = 1000   // bytes
)

// ErrTooManyContained refuses to contain one more device.
var ErrTooManyContained = fault.New(fault.Forbidden, "%d devices are contained, which is the most; release some, or disable identities", MaxContained)

// Containment is how a device is held back, who wants it so, and why.
type Containment struct {
	Device string    `json:"deviceId"`
	Level  Level     `json:"level"`
	Reason string    `json:"reason,omitempty"`
	By     string    `json:"by,omitempty"`
	Since  time.Time `json:"since,omitzero"`
	// Before is what held until then, and what one undo returns to; nil when there is nothing to undo.
	Before *Containment `json:"before,omitempty"`
}

// Effect says what a level would do to a device at this moment.
type Effect struct {
	Device string `json:"deviceId"`
	From   Level  `json:"from"`
	To     Level  `json:"to"`
	// Sessions are the identities whose live connections end.
	Sessions []string `json:"sessions"`
	// Below are the devices that reach the hub through this one, and while they do share its level: how many stand directly below it, and how many
	// of those are connected.
	Below          int `json:"below"`
	BelowConnected int `json:"belowConnected"`
	// Waiting cloud-to-device messages stay until they expire.
	Waiting int      `json:"waitingMessages"`
	Refused []string `json:"refused"`
	Allowed []string `json:"allowed"`
}

// Contain changes the level of a device. Failures are fault.NotFound, Invalid, AlreadyExists when nothing would change, and
// ErrTooManyContained.
func (r *Registry) Contain(ctx context.Context, device string, level Level, reason, by string) (Containment, error) {
	if len(reason) > MaxReason {
		return Containment{}, fault.New(fault.Invalid, "the reason has %d bytes, %d are allowed", len(reason), MaxReason)
	}
	now := r.now()
	return r.store.Contain(ctx, device, func(c Containment) (Containment, error) {
		if c.Level == level {
			return c, fault.New(fault.AlreadyExists, "the level of %s is %s already", device, level)
		}
		next := Containment{Device: device, Level: level, Reason: reason, By: by, Since: now}
		c.Before = nil // one step
		next.Before = &c
		return next, nil
	})
}

// Uncontain undoes the last Contain, and returns the level that it ended beside what holds now. Failures are fault.NotFound, and
// PreconditionFailed when there is nothing to undo.
func (r *Registry) Uncontain(ctx context.Context, device, by string) (c Containment, ended Level, err error) {
	now := r.now()
	c, err = r.store.Contain(ctx, device, func(c Containment) (Containment, error) {
		ended = c.Level
		if c.Before == nil {
			return c, fault.New(fault.PreconditionFailed, "there is nothing to undo for %s; its level is %s", device, c.Level)
		}
		next := *c.Before
		next.By, next.Since = by, now
		return next, nil
	})
	return c, ended, err
}

// Containment returns that of a device, of level Free when it never had one; fault.NotFound.
func (r *Registry) Containment(ctx context.Context, device string) (Containment, error) {
	return r.store.Containment(ctx, device)
}

// Contained lists what is above Free, ordered by device, after the given one, at most limit.
func (r *Registry) Contained(ctx context.Context, after string, limit int) ([]Containment, error) {
	return r.store.Contained(ctx, after, limit)
}
