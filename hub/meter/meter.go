// Package meter counts what the metrics of Azure IoT Hub count, for Prometheus (hub-service §9.2). There is one metric for
// each family, and the name that Azure has for a number is its label azure_name:
//
//	vauban_azure_direct_methods_total{azure_name="c2d.methods.success"} 7
//
// Numbers are those of this server since it started; gauges are those of the whole hub.
package meter

import (
	"context"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promauto"
)

// Name is a number that grows by one thing after the other.
type Name int

// The names, in the order of families below.
const (
	IngressAll Name = iota
	IngressSuccess
	IngressThrottled

	EgressSuccess
	EgressDropped
	EgressInvalid
	EgressOrphaned
	EgressFallback

	BuiltInEvents
	EventHubsEgress
	ServiceBusQueuesEgress
	ServiceBusTopicsEgress
	StorageEgress
	StorageBlobs
	StorageBytes

	MailCompleted
	MailAbandoned
	MailRejected
	MailExpired

	MethodSuccess
	MethodFailure

	ServiceTwinReadSuccess
	ServiceTwinReadFailure
	ServiceTwinUpdateSuccess
	ServiceTwinUpdateFailure
	DeviceTwinReadSuccess
	DeviceTwinReadFailure
	DeviceTwinUpdateSuccess
	DeviceTwinUpdateFailure

	QuerySuccess
	QueryFailure

	JobsCompleted
	JobsFailed
	CreateTwinJobSuccess
	CreateTwinJobFailure
	CreateMethodJobSuccess
	CreateMethodJobFailure
	CancelJobSuccess
	CancelJobFailure
	ListJobsSuccess
	ListJobsFailure
	QueryJobsSuccess
	QueryJobsFailure

	Configurations

	DeviceData
	DeviceDataV2

	names
)

// Size is a number of bytes, with how many there were of them.
type Size int

// The sizes.
const (
	MethodRequest Size = iota
	MethodResponse
	ServiceTwinReadSize
	ServiceTwinUpdateSize
	DeviceTwinReadSize
	DeviceTwinUpdateSize
	QueryResult
	sizes
)

// Latency is how long something took.
type Latency int

// The latencies.
const (
	BuiltInLatency Latency = iota
	EventHubsLatency
	ServiceBusQueuesLatency
	ServiceBusTopicsLatency
	StorageLatency
	latencies
)

// label holds Azure's name.
const label = "azure_name"

var families = []struct {
	metric, help string
	names        []string
}{
	{"vauban_azure_telemetry_ingress_total", "Device-to-cloud messages: attempts, stored, refused by a throttle or the quota.", []string{
		"d2c.telemetry.ingress.allProtocol", "d2c.telemetry.ingress.success", "d2c.telemetry.ingress.sendThrottle",
	}},
	{"vauban_azure_telemetry_egress_total", "Deliveries of messages by routing: made, given up, refused by the endpoint for good, to nobody, by the fallback route.", []string{
		"d2c.telemetry.egress.success", "d2c.telemetry.egress.dropped", "d2c.telemetry.egress.invalid", "d2c.telemetry.egress.orphaned", "d2c.telemetry.egress.fallback",
	}},
	{"vauban_azure_endpoint_egress_total", "Deliveries by kind of endpoint; storage.blobs are writes and storage.bytes bytes.", []string{
		"d2c.endpoints.egress.builtIn.events", "d2c.endpoints.egress.eventHubs", "d2c.endpoints.egress.serviceBusQueues", "d2c.endpoints.egress.serviceBusTopics",
		"d2c.endpoints.egress.storage", "d2c.endpoints.egress.storage.blobs", "d2c.endpoints.egress.storage.bytes",
	}},
	{"vauban_azure_cloud_to_device_total", "Cloud-to-device messages by what became of them.", []string{
		"c2d.commands.egress.complete.success", "c2d.commands.egress.abandon.success", "c2d.commands.egress.reject.success", "C2DMessagesExpired",
	}},
	{"vauban_azure_direct_methods_total", "Direct methods that services called.", []string{"c2d.methods.success", "c2d.methods.failure"}},
	{"vauban_azure_twin_operations_total", "Reads and updates of twins, by services (c2d) and devices (d2c).", []string{
		"c2d.twin.read.success", "c2d.twin.read.failure", "c2d.twin.update.success", "c2d.twin.update.failure",
		"d2c.twin.read.success", "d2c.twin.read.failure", "d2c.twin.update.success", "d2c.twin.update.failure",
	}},
	{"vauban_azure_twin_queries_total", "Queries over twins.", []string{"twinQueries.success", "twinQueries.failure"}},
	{"vauban_azure_jobs_total", "Jobs that ended, and requests about jobs.", []string{
		"jobs.completed", "jobs.failed", "jobs.createTwinUpdateJob.success", "jobs.createTwinUpdateJob.failure",
		"jobs.createDirectMethodJob.success", "jobs.createDirectMethodJob.failure", "jobs.cancelJob.success", "jobs.cancelJob.failure",
		"jobs.listJobs.success", "jobs.listJobs.failure", "jobs.queryJobs.success", "jobs.queryJobs.failure",
	}},
	{"vauban_azure_configurations_total", "Automatic configurations and deployments that were created, read, changed and deleted.", []string{"configurations"}},
	{"vauban_azure_device_data_bytes_total", "Bytes of messages, twins and methods to and from devices.", []string{"deviceDataUsage", "deviceDataUsageV2"}},
}

// String is Azure's name.
func (n Name) String() string {
	for _, fam := range families {
		if int(n) < len(fam.names) {
			return fam.names[n]
		}
		n -= Name(len(fam.names))
	}
	return "unknown"
}

var sizeNames = [...]string{
	"c2d.methods.requestSize", "c2d.methods.responseSize", "c2d.twin.read.size", "c2d.twin.update.size", "d2c.twin.read.size", "d2c.twin.update.size",
	"twinQueries.resultSize",
}

var latencyNames = [...]string{
	"d2c.endpoints.latency.builtIn.events", "d2c.endpoints.latency.eventHubs", "d2c.endpoints.latency.serviceBusQueues",
	"d2c.endpoints.latency.serviceBusTopics", "d2c.endpoints.latency.storage",
}

// Meter holds the numbers. It is safe for concurrent use; a nil one counts nothing.
type Meter struct {
	counters  [names]prometheus.Counter
	sizes     [sizes]prometheus.Observer
	latencies [latencies]prometheus.Observer

	deliveries *prometheus.CounterVec
	delivered  *prometheus.CounterVec
	took       *prometheus.SummaryVec
	grid       *prometheus.CounterVec
	gridTook   *prometheus.SummaryVec
}

// New registers the metrics; nil keeps them to themselves.
func New(reg prometheus.Registerer) *Meter {
	f := promauto.With(reg)
	m := &Meter{}
	n := 0
	for _, fam := range families {
		v := f.NewCounterVec(prometheus.CounterOpts{Name: fam.metric, Help: fam.help}, []string{label})
		for _, name := range fam.names {
			m.counters[n] = v.WithLabelValues(name)
			n++
		}
	}
	sized := f.NewSummaryVec(prometheus.SummaryOpts{Name: "vauban_azure_size_bytes", Help: "Sizes of what succeeded."}, []string{label})
	for i, name := range sizeNames {
		m.sizes[i] = sized.WithLabelValues(name)
	}
	late := f.NewSummaryVec(prometheus.SummaryOpts{Name: "vauban_azure_endpoint_latency_milliseconds", Help: "From the arrival of a message to its delivery, by kind of endpoint."}, []string{label})
	for i, name := range latencyNames {
		m.latencies[i] = late.WithLabelValues(name)
	}
	// The dimensions of Azure's routing metrics, in their own spelling.
	dimensions := []string{label, "EndpointType", "EndpointName", "FailureReasonCategory", "Result", "RoutingSource"}
	m.deliveries = f.NewCounterVec(prometheus.CounterOpts{Name: "vauban_azure_routing_deliveries_total", Help: "Deliveries of routes that were tried."}, dimensions)
	m.delivered = f.NewCounterVec(prometheus.CounterOpts{Name: "vauban_azure_routing_delivered_bytes_total", Help: "Bytes that routes delivered."},
		[]string{label, "EndpointType", "EndpointName", "RoutingSource"})
	m.took = f.NewSummaryVec(prometheus.SummaryOpts{Name: "vauban_azure_routing_latency_milliseconds", Help: "From the arrival of a message to its delivery by a route."},
		[]string{label, "EndpointType", "EndpointName", "RoutingSource"})
	m.grid = f.NewCounterVec(prometheus.CounterOpts{Name: "vauban_azure_event_grid_deliveries_total", Help: "Events that webhooks of Event Grid's kind were given: delivered, retried, and dead (given up)."},
		[]string{label, "Subscription", "EventType", "Result"})
	m.gridTook = f.NewSummaryVec(prometheus.SummaryOpts{Name: "vauban_azure_event_grid_latency_milliseconds", Help: "From an event to its delivery."}, []string{label, "Subscription"})
	return m
}

// Count adds one.
func (m *Meter) Count(n Name) { m.Add(n, 1) }

// Add adds how many, which is never negative.
func (m *Meter) Add(n Name, many int) {
	if m != nil {
		m.counters[n].Add(float64(many))
	}
}

// Outcome counts what succeeded, or did not, under one of two names.
func (m *Meter) Outcome(err error, success, failure Name) {
	if err != nil {
		success = failure
	}
	m.Count(success)
}

// Data counts bytes to or from a device.
func (m *Meter) Data(bytes int) {
	m.Add(DeviceData, bytes)
	m.Add(DeviceDataV2, bytes)
}

// Size records the size of one thing.
func (m *Meter) Size(s Size, bytes int) {
	if m != nil {
		m.sizes[s].Observe(float64(bytes))
	}
}

// Late records how long one thing took.
func (m *Meter) Late(l Latency, d time.Duration) {
	if m != nil {
		m.latencies[l].Observe(milliseconds(d))
	}
}

func milliseconds(d time.Duration) float64 { return max(0, d.Seconds()*1000) }

// kinds are the endpoint types of Azure that ours stand for: what the numbers of §9.2 are told apart by.
var kinds = map[string]struct {
	egress  Name
	latency Latency
	azure   string
}{
	"kafka":   {EventHubsEgress, EventHubsLatency, "eventHubs"},
	"nats":    {ServiceBusTopicsEgress, ServiceBusTopicsLatency, "serviceBusTopics"},
	"webhook": {ServiceBusQueuesEgress, ServiceBusQueuesLatency, "serviceBusQueues"},
	"storage": {StorageEgress, StorageLatency, "blobs"},
}

// Delivery is what a route tried to deliver to an endpoint.
type Delivery struct {
	Type, Endpoint, Source string // kind of endpoint, its name, source of the route
	Telemetry              bool   // and not an event
	Messages, Bytes        int
	// Result is success, or failure: refused for now, for good, or for so long that the messages were given up.
	Result Result
	Late   time.Duration // of the oldest message
}

// Result of a delivery.
type Result int

// The results.
const (
	Delivered Result = iota
	Retried          // it will be tried again
	Refused          // the endpoint will never take it
	Dropped          // it was tried for too long
)

var reasons = [...]struct{ result, reason string }{
	{"success", ""}, {"failure", "endpointUnavailable"}, {"failure", "invalidMessage"}, {"failure", "dropped"},
}

// Routed counts a delivery of routing.
func (m *Meter) Routed(d Delivery) {
	if m == nil || d.Messages == 0 {
		return
	}
	k, known := kinds[d.Type]
	if !known {
		k.azure = d.Type
	}
	r := reasons[d.Result]
	m.deliveries.WithLabelValues("RoutingDeliveries", k.azure, d.Endpoint, r.reason, r.result, d.Source).Add(float64(d.Messages))
	switch d.Result {
	case Delivered:
		m.delivered.WithLabelValues("RoutingDataSizeInBytesDelivered", k.azure, d.Endpoint, d.Source).Add(float64(d.Bytes))
		m.took.WithLabelValues("RoutingDeliveryLatency", k.azure, d.Endpoint, d.Source).Observe(milliseconds(d.Late))
		if d.Telemetry {
			m.Add(EgressSuccess, d.Messages)
		}
		if !known {
			return
		}
		m.Add(k.egress, d.Messages)
		m.Late(k.latency, d.Late)
		if k.egress == StorageEgress {
			m.Count(StorageBlobs)
			m.Add(StorageBytes, d.Bytes)
		}
	case Refused:
		if d.Telemetry {
			m.Add(EgressInvalid, d.Messages)
		}
	case Dropped:
		if d.Telemetry {
			m.Add(EgressDropped, d.Messages)
		}
	}
}

// BuiltIn counts messages that are on the log, which is the built-in endpoint.
func (m *Meter) BuiltIn(messages int) {
	m.Add(IngressSuccess, messages)
	m.Add(BuiltInEvents, messages)
	m.Add(EgressSuccess, messages)
}

// Event counts events that were given to a webhook; result is delivered, retried or dead.
func (m *Meter) Event(subscription, eventType, result string, late time.Duration) {
	if m == nil {
		return
	}
	m.grid.WithLabelValues("EventGridDeliveries", subscription, eventType, result).Inc()
	if result == "delivered" {
		m.gridTook.WithLabelValues("EventGridLatency", subscription).Observe(milliseconds(late))
	}
}

// Counts are numbers of the whole hub at a moment.
type Counts struct {
	Devices, Connected, DailyMessages int
}

// Gauges are numbers that are asked for when they are looked at. When they cannot be had they are left out.
func Gauges(reg prometheus.Registerer, ask func(ctx context.Context) (Counts, error)) error {
	return reg.Register(gauges{ask})
}

type gauges struct {
	ask func(ctx context.Context) (Counts, error)
}

var (
	deviceGauges = prometheus.NewDesc("vauban_azure_devices", "Devices of the hub, and those that are connected.", []string{label}, nil)
	quotaGauges  = prometheus.NewDesc("vauban_azure_daily_messages", "Messages of the day, in steps of 4 KiB.", []string{label}, nil)
)

// Describe implements prometheus.Collector.
func (g gauges) Describe(ch chan<- *prometheus.Desc) {
	ch <- deviceGauges
	ch <- quotaGauges
}

// askTimeout bounds how long a look at the metrics may wait for the store.
const askTimeout = 5 * time.Second

// Collect implements prometheus.Collector.
func (g gauges) Collect(ch chan<- prometheus.Metric) {
	ctx, cancel := context.WithTimeout(context.Background(), askTimeout)
	defer cancel()
	c, err := g.ask(ctx)
	if err != nil {
		return
	}
	for name, n := range map[string]int{
		"devices.totalDevices": c.Devices, "totalDeviceCount": c.Devices,
		"devices.connectedDevices.allProtocol": c.Connected, "connectedDeviceCount": c.Connected,
	} {
		ch <- prometheus.MustNewConstMetric(deviceGauges, prometheus.GaugeValue, float64(n), name)
	}
	ch <- prometheus.MustNewConstMetric(quotaGauges, prometheus.GaugeValue, float64(c.DailyMessages), "dailyMessageQuotaUsed")
}
