// Package event makes the events of a hub that are no telemetry: identities that come and go, twins and digital twins
// that change, devices that connect and leave, jobs that are done with a device (hub-service §7.4). They are messages like
// a device's, of another [iot.MessageSource], and end on the same log.
//
// An event is kept in the transaction of the change it tells of, by the store that makes the change, and a [Relay]
// moves it to the log: there is no change without its event and no event without its change, whatever crashes. Nobody
// waits for the log. Events of a source that nobody wants ([Interest]) are not made at all.
package event

import (
	"encoding/json"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/vauban-iot/vauban/hub/digitaltwin"
	"github.com/vauban-iot/vauban/hub/fleet/job"
	"github.com/vauban-iot/vauban/hub/registry"
	"github.com/vauban-iot/vauban/hub/twin"
	"github.com/vauban-iot/vauban/internal/nonce"
	"github.com/vauban-iot/vauban/iot"
	"github.com/vauban-iot/vauban/wire/bag"
)

// Sources are all there are beside telemetry.
var Sources = []iot.MessageSource{
	iot.TwinChange, iot.DeviceLifecycle, iot.DeviceConnectionState, iot.DeviceJobLifecycle, iot.DigitalTwinChange,
}

// Operations, the values of opType.
const (
	CreateDevice       = "createDeviceIdentity"
	DeleteDevice       = "deleteDeviceIdentity"
	UpdateTwin         = "updateTwin"
	ReplaceTwin        = "replaceTwin"
	DeviceConnected    = "deviceConnected"
	DeviceDisconnected = "deviceDisconnected"
	JobCompleted       = "deviceJobCompleted"
	JobFailed          = "deviceJobFailed"
	JobCanceled        = "deviceJobCanceled"
)

// schemas are the values of iothub-message-schema.
var schemas = map[iot.MessageSource]string{
	iot.TwinChange:            "twinChangeNotification",
	iot.DeviceLifecycle:       "deviceLifecycleNotification",
	iot.DeviceConnectionState: "deviceConnectionStateNotification",
	iot.DeviceJobLifecycle:    "deviceJobLifecycleNotification",
	iot.DigitalTwinChange:     "digitalTwinChangeNotification",
}

// Interest says which events anybody wants. The zero value, and nil, want none. It is safe for concurrent use, and
// asking costs one load.
type Interest struct {
	mask atomic.Uint32

	mu     sync.Mutex
	owners map[string]uint32
}

func bit(s iot.MessageSource) uint32 {
	for i, known := range Sources {
		if s == known {
			return 1 << i
		}
	}
	return 0
}

// Want says what owner wants from now on, in the place of what it wanted before. Sources of no event do not count.
func (i *Interest) Want(owner string, sources ...iot.MessageSource) {
	i.mu.Lock()
	defer i.mu.Unlock()
	if i.owners == nil {
		i.owners = make(map[string]uint32)
	}
	var wanted, all uint32
	for _, s := range sources {
		wanted |= bit(s)
	}
	i.owners[owner] = wanted
	for _, w := range i.owners {
		all |= w
	}
	i.mask.Store(all)
}

// Wants reports whether anybody wants events of s.
func (i *Interest) Wants(s iot.MessageSource) bool { return i != nil && i.mask.Load()&bit(s) != 0 }

// Any reports whether anybody wants any events.
func (i *Interest) Any() bool { return i != nil && i.mask.Load() != 0 }

// Maker makes events. A nil Maker makes none.
type Maker struct {
	Hub      string // the hub's host name
	Interest *Interest
	Now      func() time.Time
}

func (m *Maker) wants(s iot.MessageSource) bool { return m != nil && m.Interest.Wants(s) }

// name is the hub's name as events tell it: the first label of its host name.
func (m *Maker) name() string {
	name, _, _ := strings.Cut(m.Hub, ".")
	return name
}

func (m *Maker) event(source iot.MessageSource, op string, id iot.ID, at time.Time, body []byte) iot.Message {
	at = at.Truncate(time.Microsecond) // as the log keeps it
	hub := m.name()
	kind := "application/json"
	if source == iot.DigitalTwinChange {
		kind = "application/json-patch+json"
	}
	e := iot.Message{
		Source: source, From: id, Enqueued: at, Body: body,
		System: []bag.Property{
			{Name: "content-type", Value: kind}, {Name: "content-encoding", Value: "utf-8"},
			{Name: "correlation-id", Value: nonce.New()[:10]}, {Name: "user-id", Value: hub},
		},
		Properties: []bag.Property{{Name: "hubName", Value: hub}, {Name: "deviceId", Value: id.Device}},
	}
	if id.Module != "" {
		e.Properties = append(e.Properties, bag.Property{Name: "moduleId", Value: id.Module})
	}
	e.Properties = append(e.Properties, bag.Property{Name: "opType", Value: op},
		bag.Property{Name: "iothub-message-schema", Value: schemas[source]},
		bag.Property{Name: "operationTimestamp", Value: iot.FormatTime(at)})
	return e
}

// identityProperty is the system property in which a lifecycle event carries the whole twin document of the identity, for
// readers of the log such as Event Grid (hub-service §9.4). Endpoints of routes never show it: it is in no list of theirs.
const identityProperty = "vauban-twin-document"

// Created is registry.Config.Created.
func (m *Maker) Created(d registry.Identity, t twin.Twin) []iot.Message {
	return m.lifecycle(CreateDevice, d, t)
}

// Deleted is registry.Config.Deleted.
func (m *Maker) Deleted(d registry.Identity, t twin.Twin) []iot.Message {
	es := m.lifecycle(DeleteDevice, d, t)
	if m != nil && d.Connected { // its session ends without a row to write that into
		es = append(m.Connection(d.ID, false, m.Now()), es...)
	}
	return es
}

func (m *Maker) lifecycle(op string, d registry.Identity, t twin.Twin) []iot.Message {
	if !m.wants(iot.DeviceLifecycle) {
		return nil
	}
	t.ID = d.ID
	e := m.event(iot.DeviceLifecycle, op, d.ID, m.Now(), t.Document(false))
	e.System = append(e.System, bag.Property{Name: identityProperty, Value: string(registry.TwinDocument(d, t))})
	return []iot.Message{e}
}

// TwinWrites reports whether TwinWritten may make anything, so that callers need not find out what was written.
func (m *Maker) TwinWrites() bool { return m.wants(iot.TwinChange) || m.wants(iot.DigitalTwinChange) }

// TwinWritten tells of a write that made before into after.
func (m *Maker) TwinWritten(before, after twin.Twin, w twin.Written) []iot.Message {
	if !m.TwinWrites() || w.Nothing() && !w.Replaced {
		return nil
	}
	now := m.Now()
	var es []iot.Message
	if m.wants(iot.TwinChange) {
		op := UpdateTwin
		if w.Replaced {
			op = ReplaceTwin
		}
		es = append(es, m.event(iot.TwinChange, op, after.ID, now, after.Notification(w)))
	}
	if m.wants(iot.DigitalTwinChange) && after.ModelID != "" {
		if patch := digitaltwin.Changes(before, after, w); patch != nil {
			es = append(es, m.event(iot.DigitalTwinChange, UpdateTwin, after.ID, now, patch))
		}
	}
	return es
}

// Connection tells that id connected or left. The body, whose number grows, is written by the relay.
func (m *Maker) Connection(id iot.ID, connected bool, at time.Time) []iot.Message {
	if !m.wants(iot.DeviceConnectionState) {
		return nil
	}
	op := DeviceDisconnected
	if connected {
		op = DeviceConnected
	}
	return []iot.Message{m.event(iot.DeviceConnectionState, op, id, at, nil)}
}

// Lost is Connection for those whose server is gone; nil when nobody wants to hear of it.
func (m *Maker) Lost(at time.Time) func(iot.ID) []iot.Message {
	if !m.wants(iot.DeviceConnectionState) {
		return nil
	}
	return func(id iot.ID) []iot.Message { return m.Connection(id, false, at) }
}

var jobOperations = map[job.RowStatus]string{job.RowCompleted: JobCompleted, job.RowFailed: JobFailed, job.RowCanceled: JobCanceled}

// JobDone is job.Config.Tell: it tells of a job that is done with a device.
func (m *Maker) JobDone(r job.Row) []iot.Message {
	op, over := jobOperations[r.Status]
	if !over || !m.wants(iot.DeviceJobLifecycle) {
		return nil
	}
	return []iot.Message{m.event(iot.DeviceJobLifecycle, op, r.ID, m.Now(), r.Document())}
}

// Event is an event as readers of the log see it.
type Event struct {
	Source         iot.MessageSource
	Op             string // opType
	Hub            string
	ID             iot.ID
	Time           time.Time
	SequenceNumber string          // of connection events: 64 upper-case hexadecimal digits
	Identity       json.RawMessage // of lifecycle events: the twin document with the identity's state (registry.TwinDocument)
	Body           json.RawMessage
}

// Of reads an event back from a message of the log; ok is false for telemetry. Body and Identity alias m.
func Of(m *iot.Message) (e Event, ok bool) {
	if bit(m.Source) == 0 {
		return Event{}, false
	}
	e = Event{Source: m.Source, ID: m.From, Time: m.Enqueued, Body: m.Body}
	for _, p := range m.Properties {
		switch p.Name {
		case "opType":
			e.Op = p.Value
		case "hubName":
			e.Hub = p.Value
		}
	}
	switch m.Source {
	case iot.DeviceLifecycle:
		e.Identity = json.RawMessage(m.SystemProperty(identityProperty))
	case iot.DeviceConnectionState:
		var body sequence
		if json.Unmarshal(m.Body, &body) == nil {
			e.SequenceNumber = body.Number
		}
	}
	return e, true
}
