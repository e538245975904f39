// Package record keeps the security events of devices, with every payload item, as the workspace table SecurityIoTRawEvent
// does (defender §1.4, §2.6), and messages that could not be read, with the reason. What is kept is bounded; the
// messages themselves stay in the telemetry log for its own time.
package record

import (
	"cmp"
	"context"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/vauban-iot/vauban/defender/alert"
	"github.com/vauban-iot/vauban/fault"
	"github.com/vauban-iot/vauban/iot"
	"github.com/vauban-iot/vauban/wire/secmsg"
)

// Event is one event of a security message, or a message that could not be read.
type Event struct {
	Place
	Device, Module string
	Enqueued       time.Time // by the hub's clock, which is the reference (defender §7)
	Time           time.Time // by the device's; zero: none
	ID             string    // as the agent gave it; never a key (defender §1.2)
	Name           string    // RawEventName; InvalidMessage for a message that could not be read
	Kind           string    // RawEventType: Security, Operational, Diagnostic
	Category       string    // RawEventCategory: Periodic, Triggered, Aggregated
	Agent          string
	AgentVersion   string
	Form           string // of Details, see secmsg.DecodeDetails
	Empty          bool
	Problem        string            // why the message could not be read; empty: it could
	Schema         Schema            // what the published schema says of the message
	Notes          []string          // what was odd, and what broke the schema; on the first event of a message
	Left           int               // items that were too many to be kept
	Details        []json.RawMessage // EventDetails, one for each payload item
}

// Place is where an event is: its message in the log, and its number there.
type Place struct {
	Message uint64 `json:"message"`
	Ordinal int    `json:"ordinal"`
}

// String is the form of pages' places.
func (p Place) String() string { return fmt.Sprintf("%d.%d", p.Message, p.Ordinal) }

// Compare orders places as the log does.
func (p Place) Compare(q Place) int {
	return cmp.Or(cmp.Compare(p.Message, q.Message), cmp.Compare(p.Ordinal, q.Ordinal))
}

// ParsePlace undoes String.
func ParsePlace(s string) (p Place, err error) {
	message, ordinal, ok := strings.Cut(s, ".")
	if ok {
		if p.Message, err = strconv.ParseUint(message, 10, 63); err == nil {
			p.Ordinal, err = strconv.Atoi(ordinal)
		}
	}
	if !ok || err != nil || p.Ordinal < 0 {
		return Place{}, fault.New(fault.Invalid, "%.40q is no place in the list of events, which looks like 131072.0", s)
	}
	return p, nil
}

// Schema is the verdict of the strict schema, which is a diagnostic and no more.
type Schema int

// The verdicts.
const (
	NoSchema Schema = iota // there is none for this form
	Valid
	Broken
)

// InvalidMessage is the Name of what could not be read.
const InvalidMessage = "InvalidMessage"

// Bounds of what is kept of one message. A message of JSON stays whole; one of FlatBuffers may unfold to many times its size.
const (
	maxDetails = 2 * secmsg.MaxSize // bytes of EventDetails
	maxBody    = 4 << 10            // bytes of a message that could not be read
	maxText    = 200
)

// Invalid is the event of a message that could not be read.
func Invalid(m *iot.Message, indicator string, problem error) Event {
	body := m.Body[:min(len(m.Body), maxBody)]
	details, err := json.Marshal(map[string]any{
		"mti": clean(indicator), "bodySizeInBytes": len(m.Body), "body": base64.StdEncoding.EncodeToString(body),
	})
	if err != nil {
		panic(err) // texts and a number always marshal
	}
	return Event{
		Place: Place{Message: m.Sequence}, Device: m.From.Device, Module: m.From.Module, Enqueued: m.Enqueued,
		Name: InvalidMessage, Problem: clean(problem.Error()), Details: []json.RawMessage{details},
	}
}

// Events are those of a message that could be read, one at least.
func Events(m *iot.Message, r *secmsg.Report) []Event {
	return AppendEvents(make([]Event, 0, max(1, len(r.Events))), m, r)
}

// AppendEvents appends [Events].
func AppendEvents(all []Event, m *iot.Message, r *secmsg.Report) []Event {
	schema, notes := NoSchema, r.Notes
	if r.Encoding == secmsg.JSON {
		if problems, applies := secmsg.Strict(m.Body); applies {
			if schema = Valid; len(problems) > 0 {
				schema = Broken
				notes = append(append([]string(nil), notes...), problems...)
			}
		}
	}
	from, room := len(all), maxDetails
	for i := range r.Events {
		e := &r.Events[i]
		kept := Event{
			Place: Place{m.Sequence, i}, Device: m.From.Device, Module: m.From.Module, Enqueued: m.Enqueued, Time: e.Time, ID: clean(e.ID), Name: clean(e.Name),
			Kind: clean(e.Kind), Category: clean(e.Category), Agent: clean(r.Agent), AgentVersion: clean(r.AgentVersion), Empty: e.Empty, Schema: schema,
		}
		if kept.Kind == "" {
			kept.Kind = "Security"
		}
		details, form := e.Details()
		kept.Form, kept.Details = form, details[:0]
		for _, d := range details {
			if room -= len(d); room < 0 {
				kept.Left++
				continue
			}
			kept.Details = append(kept.Details, Safe(d))
		}
		all = append(all, kept)
	}
	if len(all) == from { // a message without any event that could be read
		all = append(all, Event{
			Place: Place{Message: m.Sequence}, Device: m.From.Device, Module: m.From.Module, Enqueued: m.Enqueued, Name: InvalidMessage, Schema: schema,
			Agent: clean(r.Agent), AgentVersion: clean(r.AgentVersion), Empty: true, Problem: "it holds no event that can be read",
		})
	}
	for _, n := range notes {
		all[from].Notes = append(all[from].Notes, clean(n))
	}
	return all
}

// clean makes a text of a device fit for every store: valid UTF-8, no NUL, not long.
func clean(s string) string {
	s = strings.ToValidUTF8(s[:min(len(s), maxText)], "\uFFFD")
	return strings.ReplaceAll(s, "\x00", "\uFFFD")
}

// Safe is JSON text of a device, fit for every store.
func Safe(d json.RawMessage) json.RawMessage {
	if utf8.Valid(d) {
		return d // a NUL cannot stand in JSON
	}
	return json.RawMessage(strings.ToValidUTF8(string(d), "\uFFFD"))
}

// Evidence is item i of e.
func (e *Event) Evidence(i int) alert.Evidence {
	return alert.Evidence{Message: e.Message, Time: e.Enqueued, Event: e.Name, Form: e.Form, Details: e.Details[i]}
}

// Filter narrows a list. Zero values mean no restriction.
type Filter struct {
	Device  string
	Name    string
	Invalid bool // only messages that could not be read
	From    time.Time
	To      time.Time // exclusive
	Before  Place     // only older events
	Limit   int       // 1..1000; 0 means 100
}

// Span is a part of all events.
type Span struct {
	After    Place     // only later ones
	From, To time.Time // by the hub's clock; To is exclusive; zero: no bound
}

// Store keeps events. Every write is on disk when the call returns.
type Store interface {
	// Record keeps events and raises alerts, see [alert.Store], in one transaction. Events that are kept already are left alone.
	Record(ctx context.Context, events []Event, alerts []alert.Alert) ([]alert.Raised, error)
	// SecurityEvents lists, newest first.
	SecurityEvents(ctx context.Context, f Filter) ([]Event, error)
	// EventsAfter lists a part, oldest first, in the order of their places. limit is 1..1000; 0 means 100.
	EventsAfter(ctx context.Context, s Span, limit int) ([]Event, error)
	// CountEvents is how many there are after a place, counted up to most.
	CountEvents(ctx context.Context, after Place, most int) (int, error)
	// PruneEvents forgets events from before a time, and the oldest beyond keep and beyond so many bytes of details; what came at once may stay as
	// long as any of it does. It returns how many.
	PruneEvents(ctx context.Context, before time.Time, keep int, bytes int64) (int, error)
	// PruneDevice forgets the oldest events of a device beyond keep and beyond so many bytes of details.
	PruneDevice(ctx context.Context, device string, keep int, bytes int64) (int, error)
}

// Bounds of what is kept of all devices.
const (
	MaxAge      = 7 * 24 * time.Hour
	MaxEvents   = 1_000_000
	MaxOfDevice = 50_000 // so that a device that floods does not push out what others said

	MaxBytes         = 8 << 30 // of details
	MaxBytesOfDevice = 256 << 20
)

// Row is an event as the table SecurityIoTRawEvent has it, with what Vauban knows beside that: one payload item a row.
type Row struct {
	Place        string          `json:"place"` // of the event; pages continue before it
	Generated    time.Time       `json:"TimeGenerated"`
	TimeStamp    *time.Time      `json:"TimeStamp,omitempty"` // the device's
	Resource     string          `json:"AssociatedResourceId"`
	DeviceID     string          `json:"DeviceId"`
	ModuleID     string          `json:"moduleId,omitempty"`
	EventID      string          `json:"IoTRawEventId,omitempty"`
	Name         string          `json:"RawEventName"`
	Kind         string          `json:"RawEventType,omitempty"`
	Category     string          `json:"RawEventCategory,omitempty"`
	Agent        string          `json:"agent,omitempty"`
	AgentVersion string          `json:"AgentVersion,omitempty"`
	IsEmpty      bool            `json:"IsEmpty"`
	Details      json.RawMessage `json:"EventDetails,omitempty"`
	SchemaValid  *bool           `json:"schemaValid,omitempty"` // by the strict schema; absent: there is none
	Problem      string          `json:"problem,omitempty"`
	Notes        []string        `json:"notes,omitempty"`
	Left         int             `json:"itemsNotKept,omitempty"`
}

// DeviceTime is Time as JSON can write it; nil when the device said none, or one of a year that JSON does not have.
func (e *Event) DeviceTime() *time.Time {
	t := e.Time.UTC()
	if t.IsZero() || t.Year() < 0 || t.Year() > 9999 {
		return nil
	}
	return &t
}

// Rows are the rows of e; one without payload has one row.
func (e *Event) Rows(hub string) []Row {
	first := Row{
		Place: e.Place.String(), Generated: e.Enqueued, Resource: hub, DeviceID: e.Device, ModuleID: e.Module, EventID: e.ID, Name: e.Name, Kind: e.Kind,
		Category: e.Category, Agent: e.Agent, AgentVersion: e.AgentVersion, IsEmpty: e.Empty, Problem: e.Problem, Notes: e.Notes, Left: e.Left,
	}
	first.TimeStamp = e.DeviceTime()
	if e.Schema != NoSchema {
		valid := e.Schema == Valid
		first.SchemaValid = &valid
	}
	if len(e.Details) == 0 {
		return []Row{first}
	}
	rows := make([]Row, len(e.Details))
	for i := range rows {
		rows[i] = first
		rows[i].Details = e.Details[i]
		if i > 0 {
			rows[i].Notes, rows[i].Left = nil, 0
		}
	}
	return rows
}
