package meter_test

import (
	"context"
	"errors"
	"maps"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/vauban-iot/vauban/hub/meter"
)

// value is a number with the given Azure name, in the metric family.
func value(t *testing.T, reg *prometheus.Registry, name string) (v float64, samples uint64) {
	t.Helper()
	families, err := reg.Gather()
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range families {
		for _, m := range f.GetMetric() {
			for _, l := range m.GetLabel() {
				if l.GetName() != "azure_name" || l.GetValue() != name {
					continue
				}
				v += m.GetCounter().GetValue() + m.GetGauge().GetValue() + m.GetSummary().GetSampleSum()
				samples += m.GetSummary().GetSampleCount()
			}
		}
	}
	return v, samples
}

// Each constant is the number that its own name says, and no other.
func TestCount(t *testing.T) {
	t.Parallel()
	for n, want := range map[meter.Name]string{
		meter.IngressAll: "d2c.telemetry.ingress.allProtocol", meter.IngressThrottled: "d2c.telemetry.ingress.sendThrottle", meter.EgressFallback: "d2c.telemetry.egress.fallback",
		meter.BuiltInEvents: "d2c.endpoints.egress.builtIn.events", meter.EventHubsEgress: "d2c.endpoints.egress.eventHubs", meter.StorageBytes: "d2c.endpoints.egress.storage.bytes",
		meter.MailCompleted: "c2d.commands.egress.complete.success", meter.MailAbandoned: "c2d.commands.egress.abandon.success", meter.MailRejected: "c2d.commands.egress.reject.success",
		meter.MailExpired: "C2DMessagesExpired", meter.MethodFailure: "c2d.methods.failure", meter.ServiceTwinReadSuccess: "c2d.twin.read.success",
		meter.ServiceTwinUpdateFailure: "c2d.twin.update.failure", meter.DeviceTwinReadSuccess: "d2c.twin.read.success", meter.DeviceTwinUpdateFailure: "d2c.twin.update.failure",
		meter.QueryFailure: "twinQueries.failure", meter.JobsCompleted: "jobs.completed", meter.JobsFailed: "jobs.failed", meter.CreateTwinJobFailure: "jobs.createTwinUpdateJob.failure",
		meter.CreateMethodJobSuccess: "jobs.createDirectMethodJob.success", meter.CancelJobFailure: "jobs.cancelJob.failure", meter.ListJobsFailure: "jobs.listJobs.failure",
		meter.QueryJobsFailure: "jobs.queryJobs.failure", meter.Configurations: "configurations", meter.DeviceData: "deviceDataUsage", meter.DeviceDataV2: "deviceDataUsageV2",
	} {
		reg := prometheus.NewRegistry()
		m := meter.New(reg)
		m.Add(n, 3)
		if got, _ := value(t, reg, want); got != 3 || n.String() != want {
			t.Errorf("%v: %s is %v", n, want, got)
		}
		total := 0.0
		for i := meter.Name(0); i.String() != "unknown"; i++ {
			v, _ := value(t, reg, i.String())
			total += v
		}
		if total != 3 {
			t.Errorf("%v moved others: %v in all", n, total)
		}
	}
	for s, want := range map[meter.Size]string{
		meter.MethodRequest: "c2d.methods.requestSize", meter.MethodResponse: "c2d.methods.responseSize", meter.ServiceTwinReadSize: "c2d.twin.read.size",
		meter.ServiceTwinUpdateSize: "c2d.twin.update.size", meter.DeviceTwinReadSize: "d2c.twin.read.size", meter.DeviceTwinUpdateSize: "d2c.twin.update.size", meter.QueryResult: "twinQueries.resultSize",
	} {
		reg := prometheus.NewRegistry()
		m := meter.New(reg)
		m.Size(s, 100)
		m.Size(s, 20)
		if v, n := value(t, reg, want); v != 120 || n != 2 {
			t.Errorf("%s: %v of %d", want, v, n)
		}
	}
}

func TestRouted(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		condition string
		d         meter.Delivery
		want      map[string]float64
	}{
		{"Kafka", meter.Delivery{Type: "kafka", Telemetry: true, Messages: 2, Bytes: 30, Late: time.Second}, map[string]float64{
			"d2c.endpoints.egress.eventHubs": 2, "d2c.endpoints.latency.eventHubs": 1000, "d2c.telemetry.egress.success": 2, "RoutingDeliveries": 2, "RoutingDataSizeInBytesDelivered": 30, "RoutingDeliveryLatency": 1000,
		}},
		{"NATS", meter.Delivery{Type: "nats", Telemetry: true, Messages: 1, Bytes: 3}, map[string]float64{
			"d2c.endpoints.egress.serviceBusTopics": 1, "d2c.telemetry.egress.success": 1, "RoutingDeliveries": 1, "RoutingDataSizeInBytesDelivered": 3,
		}},
		{"files", meter.Delivery{Type: "storage", Telemetry: true, Messages: 4, Bytes: 9}, map[string]float64{
			"d2c.endpoints.egress.storage": 4, "d2c.endpoints.egress.storage.blobs": 1, "d2c.endpoints.egress.storage.bytes": 9, "d2c.telemetry.egress.success": 4, "RoutingDeliveries": 4, "RoutingDataSizeInBytesDelivered": 9,
		}},
		{"events are no telemetry", meter.Delivery{Type: "webhook", Messages: 2}, map[string]float64{"d2c.endpoints.egress.serviceBusQueues": 2, "RoutingDeliveries": 2}},
		{"one that will be tried again", meter.Delivery{Type: "webhook", Telemetry: true, Messages: 2, Result: meter.Retried}, map[string]float64{"RoutingDeliveries": 2}},
		{"one that is never taken", meter.Delivery{Type: "webhook", Telemetry: true, Messages: 2, Result: meter.Refused}, map[string]float64{"RoutingDeliveries": 2, "d2c.telemetry.egress.invalid": 2}},
		{"one that was tried for too long", meter.Delivery{Type: "webhook", Telemetry: true, Messages: 2, Result: meter.Dropped}, map[string]float64{"RoutingDeliveries": 2, "d2c.telemetry.egress.dropped": 2}},
		{"nothing", meter.Delivery{Type: "webhook", Telemetry: true}, nil},
	} {
		reg := prometheus.NewRegistry()
		c.d.Endpoint, c.d.Source = "e", "DeviceMessages"
		meter.New(reg).Routed(c.d)
		families, err := reg.Gather()
		if err != nil {
			t.Fatal(err)
		}
		for _, f := range families {
			for _, m := range f.GetMetric() {
				for _, l := range m.GetLabel() {
					if l.GetName() != "azure_name" {
						continue
					}
					if got := m.GetCounter().GetValue() + m.GetSummary().GetSampleSum(); got != c.want[l.GetValue()] {
						t.Errorf("%s: %s is %v, want %v", c.condition, l.GetValue(), got, c.want[l.GetValue()])
					}
				}
			}
		}
		for name, want := range c.want {
			if got, _ := value(t, reg, name); got != want {
				t.Errorf("%s: %s is %v, want %v", c.condition, name, got, want)
			}
		}
	}
	reg := prometheus.NewRegistry()
	meter.New(reg).Routed(meter.Delivery{Type: "webhook", Endpoint: "hook", Source: "TwinChangeEvents", Messages: 2, Result: meter.Retried})
	families, err := reg.Gather()
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range families {
		if f.GetName() != "vauban_azure_routing_deliveries_total" {
			continue
		}
		labels := map[string]string{}
		for _, l := range f.GetMetric()[0].GetLabel() {
			labels[l.GetName()] = l.GetValue()
		}
		want := map[string]string{
			"azure_name": "RoutingDeliveries", "EndpointName": "hook", "EndpointType": "serviceBusQueues", "FailureReasonCategory": "endpointUnavailable",
			"Result": "failure", "RoutingSource": "TwinChangeEvents",
		}
		if !maps.Equal(labels, want) {
			t.Errorf("dimensions %v, want %v", labels, want)
		}
		return
	}
	t.Error("no delivery is counted")
}

func TestGauges(t *testing.T) {
	t.Parallel()
	reg := prometheus.NewRegistry()
	var fail error
	if err := meter.Gauges(reg, func(context.Context) (meter.Counts, error) {
		return meter.Counts{Devices: 7, Connected: 3, DailyMessages: 99}, fail
	}); err != nil {
		t.Fatal(err)
	}
	for name, want := range map[string]float64{
		"devices.totalDevices": 7, "totalDeviceCount": 7, "devices.connectedDevices.allProtocol": 3, "connectedDeviceCount": 3, "dailyMessageQuotaUsed": 99,
	} {
		if got, _ := value(t, reg, name); got != want {
			t.Errorf("%s is %v, want %v", name, got, want)
		}
	}
	fail = errors.New("disk")
	if families, err := reg.Gather(); len(families) != 0 || err != nil {
		t.Errorf("a store that fails gives %v, %v", families, err)
	}
}

// A nil meter counts nothing, and is no danger.
func TestNil(t *testing.T) {
	t.Parallel()
	var m *meter.Meter
	m.Count(meter.IngressAll)
	m.Size(meter.MethodRequest, 1)
	m.Late(meter.BuiltInLatency, time.Second)
	m.Data(1)
	m.Routed(meter.Delivery{Messages: 1})
	m.Event("a", "b", "c", 0)
	m.BuiltIn(1)
	m.Outcome(nil, meter.QuerySuccess, meter.QueryFailure)
}
