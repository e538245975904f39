// Package alert keeps what Defender found: one alert per kind, device, indicator and day, from its first sight to its end.
//
// An alert is open until somebody dismisses it (for good: it keeps counting, and nobody is told), resolves it (it opens again when
// the same is seen again), or a [Suppression] holds it back until a time. Whatever it is, nothing is lost: it counts on.
package alert

import (
	"context"
	"encoding/json"
	"strings"
	"time"

	"github.com/vauban-iot/vauban/fault"
	"github.com/vauban-iot/vauban/iot"
)

// Severity of an alert.
type Severity string

// The severities, as Azure spells them.
const (
	High          Severity = "High"
	Medium        Severity = "Medium"
	Low           Severity = "Low"
	Informational Severity = "Informational"
)

// Status is where an alert is in its life.
type Status string

// The statuses. Only the first asks for somebody's attention.
const (
	Open       Status = "open"
	Dismissed  Status = "dismissed"
	Resolved   Status = "resolved"
	Suppressed Status = "suppressed"
)

// Statuses are all there are.
var Statuses = []Status{Open, Dismissed, Resolved, Suppressed}

// Alert is one finding about one device, or about the hub when Device is empty.
type Alert struct {
	ID          string    `json:"id"`
	Sequence    uint64    `json:"sequence"` // grows with each new alert; pages and live views continue after it
	Type        string    `json:"alertType"`
	Severity    Severity  `json:"severity"`
	Title       string    `json:"title"`
	Description string    `json:"description"`
	Device      string    `json:"deviceId"`
	Module      string    `json:"moduleId,omitempty"`
	Group       string    `json:"securityGroup,omitempty"` // whose rule it was
	Indicator   string    `json:"indicator"`               // the listed address or prefix, as listed; of other alerts, what tells them apart
	Source      string    `json:"source"`                  // file and line of the indicator, or what raised the alert
	Day         string    `json:"day"`                     // UTC day of the first event, 2006-01-02
	Remote      string    `json:"remoteAddress"`
	Local       string    `json:"localAddress"`
	Protocol    string    `json:"protocol"`
	Direction   string    `json:"direction"`
	Count       int       `json:"count"` // flows, or other events, seen so far
	FirstSeen   time.Time `json:"firstSeen"`
	LastSeen    time.Time `json:"lastSeen"`

	Status          Status    `json:"status"`
	StatusTime      time.Time `json:"statusTime,omitzero"` // when it became so; zero: when it was raised
	StatusBy        string    `json:"statusBy,omitempty"`
	Comment         string    `json:"comment,omitempty"`
	Suppression     string    `json:"suppression,omitempty"`      // that holds it back
	SuppressedUntil time.Time `json:"suppressedUntil,omitzero"`   // when Status is suppressed
	Tactics         []string  `json:"tactics,omitempty"`          // of MITRE ATT&CK for ICS; from the type
	Techniques      []string  `json:"techniques,omitempty"`       // of ATT&CK for ICS and for Enterprise; from the type
	Remediation     []string  `json:"remediationSteps,omitempty"` // from the type

	// Evidence is what the alert was raised for: the first rows of events, at most MaxEvidence. Lists leave it out.
	Evidence []Evidence `json:"evidence,omitempty"`

	// LastMessage is the log position of the last counted message; a replayed message changes nothing. Zero: what counts came
	// from no message, and always counts.
	LastMessage uint64 `json:"-"`
	// Retro says that the traffic is older than the indicator: an alert that stands already has counted it.
	Retro bool `json:"-"`
}

// Evidence is a row of a security event as it was when the alert was raised. It outlives the event.
type Evidence struct {
	Message uint64          `json:"message,string"` // its place in the log; 0: none
	Time    time.Time       `json:"time"`           // the hub's
	Event   string          `json:"rawEventName"`
	Form    string          `json:"form"` // of the details, for secmsg.DecodeDetails; empty: they are no security event
	Details json.RawMessage `json:"eventDetails"`
}

// Bounds of evidence.
const (
	MaxEvidence = 10
	MaxDetails  = 8 << 10 // of one row; a longer one is left out
)

// Add adds evidence while there is room.
func (a *Alert) Add(es ...Evidence) {
	for _, e := range es {
		if len(a.Evidence) < MaxEvidence && len(e.Details) <= MaxDetails {
			a.Evidence = append(a.Evidence, e)
		}
	}
}

// Of names the device an alert is about.
func (a Alert) Of() iot.ID { return iot.ID{Device: a.Device, Module: a.Module} }

// Key is what tells alerts apart: those with the same are one.
type Key struct{ Type, Device, Module, Indicator, Day string }

// Key of a.
func (a *Alert) Key() Key { return Key{a.Type, a.Device, a.Module, a.Indicator, a.Day} }

// Merge adds later, which has the same key.
func (a *Alert) Merge(later Alert) {
	a.Count += later.Count
	a.LastMessage = max(a.LastMessage, later.LastMessage)
	if later.LastSeen.After(a.LastSeen) {
		a.LastSeen = later.LastSeen
	}
	a.Add(later.Evidence...)
}

// Explain fills in what the type says.
func (a *Alert) Explain() {
	k := Lookup(a.Type)
	a.Tactics, a.Techniques, a.Remediation = k.Tactics, k.Techniques, k.Remediation
}

// Filter narrows a list. Zero values mean no restriction.
type Filter struct {
	Device   string
	Type     string
	Status   Status
	Severity Severity
	OfHub    bool      // only alerts about the hub itself
	Group    string    // only alerts about devices that are in this security group now
	From, To time.Time // of FirstSeen, both inclusive
	After    uint64    // only alerts with a greater sequence
	Before   uint64    // only alerts with a smaller sequence
	Limit    int       // 1..1000; 0 means 100
}

// Verdict is what somebody says of an alert.
type Verdict struct {
	Status  Status // Dismissed or Resolved
	By      string
	Comment string
	Time    time.Time
}

// Suppression holds back alerts that fit, until it expires. Empty members fit everything, but one of Type, Device and Indicator
// is given.
type Suppression struct {
	ID        string    `json:"id"`
	Type      string    `json:"alertType,omitempty"`
	Device    string    `json:"deviceId,omitempty"`
	Indicator string    `json:"indicator,omitempty"`
	Reason    string    `json:"reason,omitempty"`
	By        string    `json:"by"`
	Created   time.Time `json:"created"`
	Expires   time.Time `json:"expires"`
}

// Bounds of suppressions and of what people write.
const (
	MaxSuppressions = 1000
	MaxSuppression  = 366 * 24 * time.Hour
	MaxComment      = 1000 // bytes
)

// Check refuses a suppression that says nothing, or too much.
func (s *Suppression) Check(now time.Time) error {
	switch {
	case s.Type == "" && s.Device == "" && s.Indicator == "":
		return fault.New(fault.Invalid, "a suppression names an alert type, a device or an indicator; one of all alerts would hide attacks")
	case len(s.Type) > 128 || len(s.Indicator) > 1000:
		return fault.New(fault.Invalid, "the alert type or the indicator is too long")
	case len(s.Reason) > MaxComment:
		return fault.New(fault.Invalid, "the reason has %d bytes, %d are allowed", len(s.Reason), MaxComment)
	case !s.Expires.After(now):
		return fault.New(fault.Invalid, "the suppression would have expired already")
	case s.Expires.Sub(now) > MaxSuppression:
		return fault.New(fault.Invalid, "a suppression lasts a year at most")
	}
	if s.Device != "" {
		return iot.ValidateID("deviceId", s.Device)
	}
	return nil
}

// Fits reports whether s holds a back at now.
func (s *Suppression) Fits(a *Alert, now time.Time) bool {
	return s.Expires.After(now) && (s.Type == "" || s.Type == a.Type) && (s.Device == "" || s.Device == a.Device) && (s.Indicator == "" || s.Indicator == a.Indicator)
}

// Raised is what became of an alert that was raised.
type Raised struct {
	Alert
	Created bool // it did not stand before
	Counted bool // it is new or grew; false: it was a replay
}

// Store keeps alerts. Every write is on disk when the call returns.
type Store interface {
	// Raise adds a, or, when one with its key stands already, adds a.Count to the count, moves LastSeen and LastMessage and
	// adds evidence, unless a.LastMessage is not beyond the stored one (a replay). A resolved alert that grows is open
	// again. A new or reopened one is dismissed when its type and day are (AggregateStore), and suppressed when a suppression fits it
	// at a.LastSeen. created tells whether it is new; the stored
	// alert is returned, without its evidence.
	Raise(ctx context.Context, a Alert) (stored Alert, created bool, err error)
	// Alerts lists, newest first, without evidence.
	Alerts(ctx context.Context, f Filter) ([]Alert, error)
	// Alert returns one with its evidence; fault.NotFound.
	Alert(ctx context.Context, id string) (Alert, error)
	// Judge dismisses or resolves; fault.NotFound, and fault.PreconditionFailed for one that is dismissed, which is for good.
	// Dismissing it again changes nothing.
	Judge(ctx context.Context, id string, v Verdict) (Alert, error)

	// Suppress keeps s, and holds back the open alerts that it fits: hidden tells how many. fault.AlreadyExists for an id that
	// is taken, and fault.QuotaExceeded when there are MaxSuppressions.
	Suppress(ctx context.Context, s Suppression) (hidden int, err error)
	// Suppressions lists all that did not expire at now, the first to expire first.
	Suppressions(ctx context.Context, now time.Time) ([]Suppression, error)
	// Unsuppress ends one before its time: what it held back is open again; fault.NotFound.
	Unsuppress(ctx context.Context, id string, now time.Time) (shown int, err error)
	// Wake forgets suppressions that expired, and opens what they held back.
	Wake(ctx context.Context, now time.Time) (shown int, err error)

	// PruneAlerts forgets the closed alerts that did not change since before, and the dismissals of that time; and of what is beyond keep
	// the closed ones first, then those that are held back, then open ones, each the oldest first. It returns how many went for either
	// reason.
	PruneAlerts(ctx context.Context, before time.Time, keep int) (old, many int, err error)
}

// What is kept of alerts.
const (
	MaxAlerts = 1_000_000
	// MaxAge is how long closed alerts are kept unless the operator says otherwise, as in Azure.
	MaxAge = 90 * 24 * time.Hour
	// MinAge is how long they are kept at least: for as long as the log may give a message again that raised one.
	MinAge = 7 * 24 * time.Hour
)

// Label joins texts for people.
func Label(ss []string) string { return strings.Join(ss, ", ") }
