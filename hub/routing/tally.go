package routing

import (
	"context"
	"errors"
	"log/slog"

	"github.com/vauban-iot/vauban/bus"
	"github.com/vauban-iot/vauban/hub/telemetry"
	"github.com/vauban-iot/vauban/iot"
)

// FollowLog is the telemetry log as a tally needs it; see [bus.Log].
type FollowLog interface {
	Follow(ctx context.Context, from bus.Start, ready func(), handle func(bus.Entry) error) error
}

// Plain reports whether all telemetry goes to Events by the fallback route, so that nobody needs to look at it.
func (t *Table) Plain() bool { return len(t.Routes) == 0 && t.Fallback == nil }

// Tally counts the messages that match no route, which no endpoint's reader sees.
type Tally struct {
	Table  *Table
	Log    FollowLog
	Twins  Twins
	Report func(fallback, orphaned int) // messages for the fallback route, and for nobody
	Logger *slog.Logger
}

// Run counts what arrives until ctx ends.
func (t *Tally) Run(ctx context.Context) error {
	r := &Runner{Table: t.Table, Twins: t.Twins}
	return t.Log.Follow(ctx, bus.Latest, nil, func(e bus.Entry) error {
		fallback, orphaned := 0, 0
		err := telemetry.Decode(e.Sequence, e.Data, func(m *iot.Message) error {
			if m.Source != iot.Telemetry {
				return nil
			}
			d, err := r.document(ctx, m)
			if err != nil {
				return err
			}
			switch {
			case t.Table.matches(d):
			case len(t.Table.targets(d)) > 0:
				fallback++
			default:
				orphaned++
			}
			return nil
		})
		t.Report(fallback, orphaned)
		if err != nil && !errors.Is(err, telemetry.ErrCorrupt) && ctx.Err() == nil {
			t.Logger.Warn("messages without a route were not counted", "entry", e.Sequence, "err", err)
		}
		return nil
	})
}

// matches reports whether any route takes a message.
func (t *Table) matches(m *document) bool {
	for i, c := range t.conditions {
		if t.Routes[i].enabled() && t.sources[i] == m.m.Source && c.Matches(m) {
			return true
		}
	}
	return false
}
