package alert

import (
	"context"
	"time"
)

// Aggregate is all alerts of a type and a day (defender §2.5): what Azure shows as one.
type Aggregate struct {
	Type      string
	Day       string   // 2006-01-02, UTC
	Severity  Severity // the gravest of its alerts
	Count     int64    // occurrences in all its alerts
	Open      int64    // alerts that still ask for attention
	OfDevices bool     // some of its alerts are about a device, not the hub
	Dismissed bool     // somebody dismissed it, for good
	// Devices are those with the most occurrences, the most first; at most MaxTopDevices.
	Devices []DeviceCount
}

// DeviceCount is how often something was seen of a device.
type DeviceCount struct {
	Device string
	Count  int64
	Last   time.Time
}

// TypeCount is how many open alerts of a type there are.
type TypeCount struct {
	Type     string
	Severity Severity // the gravest of them
	Count    int64
}

// SeverityCount is how many open alerts have each severity. Informational ones are in none: they ask for nothing.
type SeverityCount struct{ High, Medium, Low int64 }

// DayCount is those of one day.
type DayCount struct {
	Day string
	SeverityCount
}

// Analytics are sums over the open alerts; see [AggregateStore].
type Analytics struct {
	Total   SeverityCount // of all, those about the hub, too
	Days    []DayCount    // of those about devices, the oldest day first; days without any are left out
	Devices []DeviceCount // with the most alerts, the most first
	Types   []TypeCount   // of those about devices, the most first
}

// MaxTopDevices bounds Aggregate.Devices.
const MaxTopDevices = 10

// AggregateKey names an aggregate. Lists are in the order of their days, the newest first, and then of their types.
type AggregateKey struct{ Day, Type string }

// AggregateStore sums up alerts where they are kept.
type AggregateStore interface {
	// Aggregates lists those that have open alerts: at most limit (1 to 1000), which come after a key; the zero key: from the begin.
	Aggregates(ctx context.Context, after AggregateKey, limit int) ([]Aggregate, error)
	// Aggregate returns one, whatever became of its alerts; fault.NotFound when there is no such alert.
	Aggregate(ctx context.Context, k AggregateKey) (Aggregate, error)
	// DismissAggregate dismisses all its alerts, and those that it will get: it is for good. Again it changes nothing. dismissed tells
	// how many alerts changed; fault.NotFound when there is no such alert.
	DismissAggregate(ctx context.Context, k AggregateKey, v Verdict) (dismissed int, err error)
	// AlertAnalytics sums up open alerts: days from since on, and top devices and types.
	AlertAnalytics(ctx context.Context, since string, top int) (Analytics, error)
}
