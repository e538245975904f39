// Package posture keeps how well devices and the hub are set up: recommendations and the score made of them (defender §2.4).
//
// A recommendation stands for one type and one device, module or hub. It is active while what it recommends against is so, and resolves
// itself when it is no longer; when it comes back, it is the same recommendation, with the day on which it was first seen. Nobody
// dismisses one: who does not want a type disables it ([Book]), and it is not evaluated any more.
//
// What the hub knows itself, a [Judge] looks at every now and then, on one server. What agents report, a [Watcher] judges as it
// comes: the latest snapshot wins.
package posture

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"time"

	"github.com/vauban-iot/vauban/defender/alert"
	"github.com/vauban-iot/vauban/iot"
)

// State of a recommendation, as the table SecurityRecommendation spells it (defender §2.6).
type State string

// The states.
const (
	Active   State = "Active"
	Resolved State = "Resolved"
)

// Recommendation is one thing to be set right.
type Recommendation struct {
	ID       string         `json:"id"`       // a UUID, the same for ever of a type and a device, module or hub
	Sequence uint64         `json:"sequence"` // grows with each change of any recommendation; pages and exports continue after it
	Type     string         `json:"recommendationType"`
	Device   string         `json:"deviceId"` // empty: it is about the hub
	Module   string         `json:"moduleId,omitempty"`
	Severity alert.Severity `json:"severity"`
	State    State          `json:"state"`

	Discovered     time.Time `json:"discovered"`        // when it became active, this time
	FirstEvaluated time.Time `json:"firstEvaluated"`    // when it became active for the first time
	StatusChanged  time.Time `json:"statusChanged"`     // when State became what it is
	Resolved       time.Time `json:"resolved,omitzero"` // when it resolved itself; zero while it is active

	// Data is why, a JSON object of the type's own form, at most MaxData long. It stays as it was when a recommendation resolves.
	Data json.RawMessage `json:"additionalData,omitempty"`

	Title       string   `json:"title"`            // from the type, as the three below
	Description string   `json:"description"`      //
	TypeID      string   `json:"typeId"`           //
	Remediation []string `json:"remediationSteps"` //

	// Message is the log position of the message it was judged by last; 0: what the hub knows itself.
	Message uint64 `json:"-"`
}

// MaxData bounds the additional data of a recommendation, in bytes.
const MaxData = 8 << 10

// Of names what a recommendation is about; the zero ID: the hub.
func (r *Recommendation) Of() iot.ID { return iot.ID{Device: r.Device, Module: r.Module} }

// Explain fills in what the type says.
func (r *Recommendation) Explain() {
	t := Lookup(r.Type)
	r.Title, r.Description, r.TypeID, r.Remediation = t.Title, t.Description, t.ID, t.Remediation
}

// ID is that of the recommendation of a type about a device, a module or the hub.
func ID(kind string, about iot.ID) string {
	return uuid("recommendation", kind, about.Device, about.Module)
}

// uuid is a name-based UUID of RFC 9562's version 8.
func uuid(parts ...string) string {
	h := sha256.New()
	for _, p := range parts {
		h.Write([]byte(p))
		h.Write([]byte{0}) // which no id holds
	}
	b := h.Sum(nil)[:16]
	b[6], b[8] = b[6]&0x0f|0x80, b[8]&0x3f|0x80
	t := hex.EncodeToString(b)
	return t[:8] + "-" + t[8:12] + "-" + t[12:16] + "-" + t[16:20] + "-" + t[20:]
}

// Filter narrows a list. Zero values mean no restriction.
type Filter struct {
	Device   string
	Hub      bool   // only those about the hub
	Type     string // or a family of types: see Type.Family
	State    State
	Severity alert.Severity
	Group    string // only of devices of this security group
	After    uint64 // only those with a greater sequence
	Before   uint64 // only those with a smaller sequence
	Oldest   bool   // the smallest sequence first: for those who follow changes
	Limit    int    // 1..1000; 0 means 100
}

// Finding is something that is not as it should be.
type Finding struct {
	Type     string
	About    iot.ID
	Severity alert.Severity // empty: the type's own
	Data     any            // marshals to a JSON object
}

// Scope says what an assessment looked at: these types, of devices from First to Last in the order of their bytes.
type Scope struct {
	Types       []string // names of types and of families
	First, Last string   // inclusive; both empty: the hub
	Open        bool     // there is no last device: Last does not count
	Module      *string  // only what is about this module; nil: about any, and about the devices themselves
}

// Assessment is the outcome of a look at things. What lies in Scope and is not found is resolved.
type Assessment struct {
	At       time.Time
	Message  uint64 // the message it was made from; what later ones said stands. 0: none
	Scope    Scope
	Findings []Finding // within Scope
}

// Tally is how many devices a type, or a family, is active for.
type Tally struct {
	Type     string         `json:"recommendationType"`
	Severity alert.Severity `json:"severity"` // the gravest
	Devices  int            `json:"devices"`  // without the hub itself
	Count    int            `json:"count"`    // of recommendations: modules and checks of one device count each
	Weight   int            `json:"weight"`   // that it takes from its devices together; see Weight
	HubTakes int            `json:"hubTakes"` // that it takes for the hub
}

// Totals are what a score is made of.
type Totals struct {
	Devices   int // that are registered
	Unhealthy int // of those, with an active recommendation
	Lost      int // points that they lost together; none more than 100
	Tallies   []Tally
}

// Store keeps recommendations. Every write is on disk when the call returns.
type Store interface {
	// Assess writes what an assessment changed, and returns that: what became active, was resolved or has other data. Nothing is
	// written when nothing changed.
	Assess(ctx context.Context, a Assessment) (changed []Recommendation, err error)
	// Recommendations lists, the last changed first.
	Recommendations(ctx context.Context, f Filter) ([]Recommendation, error)
	// Recommendation returns one; fault.NotFound.
	Recommendation(ctx context.Context, id string) (Recommendation, error)
	// Totals counts the active recommendations of registered devices, of all, of a security group, or of one device; fault.NotFound for
	// a device that is not registered. The hub's own are counted with all.
	Totals(ctx context.Context, of Whole) (Totals, error)
	// ResolveTypes resolves all of these types and families.
	ResolveTypes(ctx context.Context, types []string, at time.Time) (resolved int, err error)
	// Tidy resolves those of devices and modules that are gone, and forgets what was resolved before a time.
	Tidy(ctx context.Context, at, before time.Time) (resolved, forgotten int, err error)

	// KeepLinks writes how devices connected, in the place of what is known of them.
	KeepLinks(ctx context.Context, links []Link) error
	// DeviceFacts returns what is known of up to so many devices behind after, and of their modules, by device and module.
	DeviceFacts(ctx context.Context, after string, devices int) ([]Fact, error)
}

// Whole is what a score is about: the fleet, when it is zero.
type Whole struct {
	Device string
	Group  string
}
