// Package alert keeps what Defender found: one alert per device, indicator and day.
package alert

import (
	"context"
	"time"

	"github.com/vauban-iot/vauban/iot"
)

// Severity of an alert.
type Severity string

// High is the severity of traffic with a listed address.
const High Severity = "High"

// Alert is one finding about one device.
type Alert struct {
	ID          string    `json:"id"`
	Sequence    uint64    `json:"sequence"` // grows with each new alert; pages and live views continue after it
	Type        string    `json:"alertType"`
	Severity    Severity  `json:"severity"`
	Title       string    `json:"title"`
	Description string    `json:"description"`
	Device      string    `json:"deviceId"`
	Module      string    `json:"moduleId,omitempty"`
	Indicator   string    `json:"indicator"` // the listed address or prefix, as listed
	Source      string    `json:"source"`    // file and line of the indicator
	Day         string    `json:"day"`       // UTC day of the first flow, 2006-01-02
	Remote      string    `json:"remoteAddress"`
	Local       string    `json:"localAddress"`
	Protocol    string    `json:"protocol"`
	Direction   string    `json:"direction"`
	Count       int       `json:"count"` // flows seen so far
	FirstSeen   time.Time `json:"firstSeen"`
	LastSeen    time.Time `json:"lastSeen"`
	// LastMessage is the log position of the last counted message; a replayed message changes nothing.
	LastMessage uint64 `json:"-"`
}

// Filter narrows a list. Zero values mean no restriction.
type Filter struct {
	Device string
	After  uint64 // only alerts with a greater sequence
	Before uint64 // only alerts with a smaller sequence
	Limit  int    // 1..1000; 0 means 100
}

// Store keeps alerts. Every write is on disk when the call returns.
type Store interface {
	// Raise adds a, or, when the same device, module, indicator and day stand already, adds
	// a.Count to the count and moves LastSeen and LastMessage, unless a.LastMessage is not
	// beyond the stored one (a replay). created tells which; the stored alert is returned.
	Raise(ctx context.Context, a Alert) (stored Alert, created bool, err error)
	// Alerts lists, newest first.
	Alerts(ctx context.Context, f Filter) ([]Alert, error)
}

// Of names the device an alert is about.
func (a Alert) Of() iot.ID { return iot.ID{Device: a.Device, Module: a.Module} }
