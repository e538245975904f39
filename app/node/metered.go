package node

import (
	"context"
	"errors"
	"sync/atomic"
	"time"

	"github.com/vauban-iot/vauban/fault"
	"github.com/vauban-iot/vauban/hub/meter"
	"github.com/vauban-iot/vauban/hub/routing"
	"github.com/vauban-iot/vauban/hub/telemetry"
	"github.com/vauban-iot/vauban/iot"
)

// timedLog tells how long the built-in endpoint takes: the log itself.
type timedLog struct {
	telemetry.Publisher
	meter *meter.Meter
}

// Append implements telemetry.Publisher.
func (l timedLog) Append(ctx context.Context, data []byte) (uint64, error) {
	begin := time.Now()
	n, err := l.Publisher.Append(ctx, data)
	if err == nil {
		l.meter.Late(meter.BuiltInLatency, time.Since(begin))
	}
	return n, err
}

// meteredSink counts what routes deliver, in Azure's numbers.
type meteredSink struct {
	routing.Sink
	meter    *meter.Meter
	endpoint routing.Endpoint
	refused  atomic.Int64 // messages that the endpoint will never take and that are not dead letters yet
}

// Deliver implements routing.Sink.
func (s *meteredSink) Deliver(ctx context.Context, ms []*iot.Message) error {
	err := s.Sink.Deliver(ctx, ms)
	refusal, some := errors.AsType[*routing.Refusal](err)
	switch {
	case err == nil:
		s.count(ms, meter.Delivered)
	case some:
		bad := make(map[*iot.Message]bool, len(refusal.Messages))
		for _, m := range refusal.Messages {
			bad[m] = true
		}
		var good []*iot.Message
		for _, m := range ms {
			if !bad[m] {
				good = append(good, m)
			}
		}
		s.count(good, meter.Delivered)
		s.refuse(refusal.Messages)
	case fault.Is(err, fault.Invalid):
		s.refuse(ms)
	case ctx.Err() == nil:
		s.count(ms, meter.Retried)
	}
	return err
}

func (s *meteredSink) refuse(ms []*iot.Message) {
	s.refused.Add(int64(len(ms)))
	s.count(ms, meter.Refused)
}

// buried hears of n dead letters: what the endpoint did not refuse was tried for too long, or grew too large.
func (s *meteredSink) buried(n int) {
	if refused := min(int64(n), s.refused.Load()); refused > 0 {
		s.refused.Add(-refused)
		n -= int(refused)
	}
	s.meter.Routed(meter.Delivery{
		Type: s.endpoint.Type, Endpoint: s.endpoint.Name, Source: sourceNames[iot.Telemetry], Telemetry: true, Messages: n, Result: meter.Dropped,
	})
}

// sourceNames are the dimension RoutingSource, which has the names of routes' sources.
var sourceNames = map[iot.MessageSource]string{
	iot.Telemetry: "DeviceMessages", iot.TwinChange: "TwinChangeEvents", iot.DeviceLifecycle: "DeviceLifecycleEvents",
	iot.DeviceConnectionState: "DeviceConnectionStateEvents", iot.DeviceJobLifecycle: "DeviceJobLifecycleEvents", iot.DigitalTwinChange: "DigitalTwinChangeEvents",
}

func (s *meteredSink) count(ms []*iot.Message, result meter.Result) {
	now := time.Now()
	by := map[iot.MessageSource]*meter.Delivery{}
	for _, m := range ms {
		d := by[m.Source]
		if d == nil {
			d = &meter.Delivery{
				Type: s.endpoint.Type, Endpoint: s.endpoint.Name, Source: sourceNames[m.Source], Telemetry: m.Source == iot.Telemetry, Result: result,
			}
			by[m.Source] = d
		}
		d.Messages++
		d.Bytes += len(m.Body)
		d.Late = max(d.Late, now.Sub(m.Enqueued))
	}
	for _, d := range by {
		s.meter.Routed(*d)
	}
}

// counts are the gauges.
func (n *Node) counts(ctx context.Context) (meter.Counts, error) {
	s, err := n.hub.Statistics(ctx)
	if err != nil {
		return meter.Counts{}, err
	}
	return meter.Counts{Devices: s.Total, Connected: s.Connected, DailyMessages: int(n.usage.Today())}, nil
}
