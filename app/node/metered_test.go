package node

import (
	"context"
	"errors"
	"maps"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/vauban-iot/vauban/fault"
	"github.com/vauban-iot/vauban/hub/meter"
	"github.com/vauban-iot/vauban/hub/routing"
	"github.com/vauban-iot/vauban/iot"
)

// answering is a sink that answers so.
type answering func(ms []*iot.Message) error

func (f answering) Deliver(_ context.Context, ms []*iot.Message) error { return f(ms) }

// What an endpoint does with messages is counted once, whichever way it answers.
func TestMeteredSink(t *testing.T) {
	t.Parallel()
	ms := func() []*iot.Message {
		at := time.Now().Add(-time.Second)
		return []*iot.Message{
			{Source: iot.Telemetry, Enqueued: at, Body: []byte("12345")}, {Source: iot.Telemetry, Enqueued: at, Body: []byte("12345")},
			{Source: iot.TwinChange, Enqueued: at, Body: []byte("{}")},
		}
	}
	for condition, c := range map[string]struct {
		answer answering
		buried int // by the runner afterwards
		want   map[string]float64
	}{
		"takes all":  {func([]*iot.Message) error { return nil }, 0, map[string]float64{"d2c.telemetry.egress.success": 2, "d2c.endpoints.egress.eventHubs": 3, "RoutingDeliveries": 3, "RoutingDataSizeInBytesDelivered": 12}},
		"fails":      {func([]*iot.Message) error { return errors.New("no") }, 0, map[string]float64{"RoutingDeliveries": 3}},
		"takes none": {func([]*iot.Message) error { return fault.New(fault.Invalid, "no") }, 3, map[string]float64{"RoutingDeliveries": 3, "d2c.telemetry.egress.invalid": 2}},
		"takes one": {func(ms []*iot.Message) error {
			r := &routing.Refusal{}
			r.Refuse(ms[0], errors.New("no"))
			r.Refuse(ms[2], errors.New("no"))
			return r
		}, 2, map[string]float64{"RoutingDeliveries": 3, "d2c.telemetry.egress.invalid": 1, "d2c.telemetry.egress.success": 1, "d2c.endpoints.egress.eventHubs": 1, "RoutingDataSizeInBytesDelivered": 5}},
		"failed for a day": {func([]*iot.Message) error { return errors.New("no") }, 3, map[string]float64{"RoutingDeliveries": 6, "d2c.telemetry.egress.dropped": 3}},
	} {
		reg := prometheus.NewRegistry()
		s := &meteredSink{Sink: c.answer, meter: meter.New(reg), endpoint: routing.Endpoint{Name: "e", Type: "kafka"}}
		if err, bare := s.Deliver(t.Context(), ms()), c.answer(ms()); (err == nil) != (bare == nil) || fault.KindOf(err) != fault.KindOf(bare) {
			t.Errorf("an endpoint that %s: the error became %v", condition, err)
		}
		if c.buried > 0 {
			s.buried(c.buried)
		}
		got := map[string]float64{}
		families, err := reg.Gather()
		if err != nil {
			t.Fatal(err)
		}
		for _, f := range families {
			for _, m := range f.GetMetric() {
				for _, l := range m.GetLabel() {
					if v := m.GetCounter().GetValue(); l.GetName() == "azure_name" && v > 0 {
						got[l.GetValue()] += v
					}
				}
			}
		}
		if !maps.Equal(got, c.want) {
			t.Errorf("an endpoint that %s: %v, want %v", condition, got, c.want)
		}
	}
	// A stop is no failure of the endpoint.
	reg := prometheus.NewRegistry()
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	s := &meteredSink{Sink: answering(func([]*iot.Message) error { return context.Canceled }), meter: meter.New(reg), endpoint: routing.Endpoint{Name: "e", Type: "kafka"}}
	if err := s.Deliver(ctx, ms()); !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
	families, err := reg.Gather()
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range families {
		if f.GetName() == "vauban_azure_routing_deliveries_total" {
			t.Errorf("a stop is counted: %v", f)
		}
	}
}
