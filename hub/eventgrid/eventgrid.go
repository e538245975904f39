// Package eventgrid gives webhooks what Azure Event Grid gives them of a hub: devices that are created, deleted, connected
// and disconnected, and their telemetry, in Event Grid's schema or as CloudEvents, after its validation handshake
// (hub-service §9.4).
//
// A [Service] keeps the subscriptions and runs a sender for each: a reader of the log with a place of its own, so that a
// slow webhook delays no other. A webhook gets events in the order of the log. One that fails is tried again, later and
// later, and when its time is over the event is given up; that is in the metrics and the log.
package eventgrid

import (
	"bytes"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"net/textproto"
	"net/url"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/vauban-iot/vauban/fault"
	"github.com/vauban-iot/vauban/hub/event"
	"github.com/vauban-iot/vauban/hub/routing"
	"github.com/vauban-iot/vauban/iot"
)

// The types of events.
const (
	Created      = "Microsoft.Devices.DeviceCreated"
	Deleted      = "Microsoft.Devices.DeviceDeleted"
	Connected    = "Microsoft.Devices.DeviceConnected"
	Disconnected = "Microsoft.Devices.DeviceDisconnected"
	Telemetry    = "Microsoft.Devices.DeviceTelemetry"
)

// Types are all there are, with where they come from.
var Types = []string{Created, Deleted, Connected, Disconnected, Telemetry}

var sources = map[string]iot.MessageSource{
	Created: iot.DeviceLifecycle, Deleted: iot.DeviceLifecycle, Connected: iot.DeviceConnectionState, Disconnected: iot.DeviceConnectionState,
	Telemetry: iot.Telemetry,
}

var typeOf = map[string]string{
	event.CreateDevice: Created, event.DeleteDevice: Deleted, event.DeviceConnected: Connected, event.DeviceDisconnected: Disconnected,
}

// Schemas of deliveries.
const (
	EventGridSchema  = "EventGridSchema"
	CloudEventSchema = "CloudEventSchemaV1_0"
)

// State of a subscription.
type State string

// The states. Only a subscription whose webhook agreed gets events.
const (
	Validated State = "Succeeded"
	Awaiting  State = "AwaitingManualAction" // somebody must open the validation URL
)

// Subscription is a webhook and what it gets. Names are those of Azure's resource document where it has them.
type Subscription struct {
	Name   string   `json:"name"`
	URL    string   `json:"endpointUrl"`
	Header string   `json:"header,omitempty"`             // one more header, "Name: value", which may hold a secret
	Types  []string `json:"includedEventTypes,omitempty"` // empty: all
	// Begins and Ends bound the subjects, in any case.
	Begins string `json:"subjectBeginsWith,omitempty"`
	Ends   string `json:"subjectEndsWith,omitempty"`
	Schema string `json:"eventDeliverySchema,omitempty"` // empty: EventGridSchema
	// A request has at most so many events, and is closed when it is as large as preferred.
	BatchEvents    int `json:"maxEventsPerBatch,omitempty"`             // empty: 1
	BatchKilobytes int `json:"preferredBatchSizeInKilobytes,omitempty"` // empty: 64
	Attempts       int `json:"maxDeliveryAttempts,omitempty"`           // empty: 30
	TTLMinutes     int `json:"eventTimeToLiveInMinutes,omitempty"`      // empty: 1440

	// Set by the service.
	Created time.Time `json:"created"` // older events are not sent
	State   State     `json:"provisioningState"`
	// Code is what the webhook must show to agree, until Expires.
	Code    string    `json:"validationCode,omitempty"`
	Expires time.Time `json:"validationExpires,omitzero"`
}

// Limits of one subscription, and of their number.
const (
	maxSubscriptions = 20
	maxBatchEvents   = 5000
	maxKilobytes     = 1024
	maxAttempts      = 30
	maxTTL           = 1440
	maxText          = 1024
)

var goodName = regexp.MustCompile(`^[A-Za-z0-9-]{3,64}$`)

// check judges what an operator wants and fills in what is left out; fault.Invalid.
func (s *Subscription) check() error {
	invalid := func(format string, args ...any) error {
		return fault.New(fault.Invalid, "event subscription %q: %s", s.Name, fmt.Sprintf(format, args...))
	}
	if !goodName.MatchString(s.Name) {
		return invalid("a name has 3 to 64 letters, digits and -")
	}
	u, err := url.Parse(s.URL)
	if err != nil || u.Host == "" || u.Scheme != "https" && u.Scheme != "http" || u.User != nil {
		return invalid("endpointUrl must be https://host/path or http://host/path, without a password")
	}
	if s.Header != "" {
		if name, value := s.header(); name == "" || strings.ContainsAny(name, " \r\n\x00") || strings.ContainsAny(value, "\r\n\x00") {
			return invalid("header must be Name: value")
		}
	}
	for _, t := range s.Types {
		if !slices.Contains(Types, t) {
			return invalid("there is no event type %q; there are %s", t, strings.Join(Types, ", "))
		}
	}
	if len(s.Types) == 0 {
		s.Types = slices.Clone(Types)
	}
	switch s.Schema {
	case "":
		s.Schema = EventGridSchema
	case EventGridSchema, CloudEventSchema:
	default:
		return invalid("eventDeliverySchema must be %s or %s", EventGridSchema, CloudEventSchema)
	}
	if len(s.Begins) > maxText || len(s.Ends) > maxText {
		return invalid("a subject has at most %d characters", maxText)
	}
	for _, n := range []struct {
		name         string
		p            *int
		absent, most int
	}{
		{"maxEventsPerBatch", &s.BatchEvents, 1, maxBatchEvents}, {"preferredBatchSizeInKilobytes", &s.BatchKilobytes, 64, maxKilobytes},
		{"maxDeliveryAttempts", &s.Attempts, maxAttempts, maxAttempts}, {"eventTimeToLiveInMinutes", &s.TTLMinutes, maxTTL, maxTTL},
	} {
		if *n.p == 0 {
			*n.p = n.absent
		}
		if *n.p < 1 || *n.p > n.most {
			return invalid("%s must be 1 to %d", n.name, n.most)
		}
	}
	return nil
}

func (s *Subscription) header() (name, value string) {
	name, value, ok := strings.Cut(s.Header, ":")
	if !ok {
		return "", ""
	}
	return textproto.CanonicalMIMEHeaderKey(strings.TrimSpace(name)), strings.TrimSpace(value)
}

// wants reports whether an event is for this subscription.
func (s *Subscription) wants(e *Event) bool {
	subject := strings.ToLower(e.Subject)
	return slices.Contains(s.Types, e.Type) && strings.HasPrefix(subject, strings.ToLower(s.Begins)) && strings.HasSuffix(subject, strings.ToLower(s.Ends))
}

// Event is one event on its way to webhooks.
type Event struct {
	ID      string
	Source  string // topic
	Subject string
	Type    string
	Time    time.Time
	Data    json.RawMessage
	version string
}

// Of makes the event that a message of the log is for webhooks; ok is false for those that are none. hub is the hub's host name.
func Of(hub string, m *iot.Message) (Event, bool) {
	e := Event{Time: m.Enqueued, Subject: "devices/" + m.From.Device, version: "1"}
	name, _, _ := strings.Cut(hub, ".")
	e.Source = "/providers/Microsoft.Devices/IotHubs/" + name
	if m.From.Module != "" {
		e.Subject += "/modules/" + m.From.Module
	}
	// The same event has the same id whenever it is sent: receivers know a repetition by it.
	sum := sha256.Sum256(fmt.Appendf(nil, "%s %d", hub, m.Sequence))
	id := hex.EncodeToString(sum[:16])
	e.ID = id[:8] + "-" + id[8:12] + "-" + id[12:16] + "-" + id[16:20] + "-" + id[20:]
	if m.Source == iot.Telemetry {
		e.Type, e.version, e.Data = Telemetry, "", telemetryData(m)
		return e, true
	}
	ev, ok := event.Of(m)
	if !ok {
		return e, false
	}
	if e.Type, ok = typeOf[ev.Op]; !ok {
		return e, false
	}
	data := struct {
		Twin       json.RawMessage  `json:"twin,omitempty"`
		Connection *connectionState `json:"deviceConnectionStateEventInfo,omitempty"`
		Hub        string           `json:"hubName"`
		Device     string           `json:"deviceId"`
		Module     string           `json:"moduleId,omitempty"`
	}{Hub: name, Device: m.From.Device, Module: m.From.Module}
	if m.Source == iot.DeviceLifecycle {
		data.Twin = twinOf(ev.Identity)
	} else {
		data.Connection = &connectionState{ev.SequenceNumber}
	}
	e.Data = mustJSON(data)
	return e, true
}

type connectionState struct {
	SequenceNumber string `json:"sequenceNumber"`
}

// identity is what Event Grid shows of a twin document, in its order.
type identity struct {
	Device          json.RawMessage `json:"deviceId,omitempty"`
	Module          json.RawMessage `json:"moduleId,omitempty"`
	ETag            json.RawMessage `json:"etag,omitempty"`
	DeviceETag      json.RawMessage `json:"deviceEtag,omitempty"`
	Status          json.RawMessage `json:"status,omitempty"`
	StatusTime      json.RawMessage `json:"statusUpdateTime,omitempty"`
	ConnectionState json.RawMessage `json:"connectionState,omitempty"`
	LastActivity    json.RawMessage `json:"lastActivityTime,omitempty"`
	Messages        json.RawMessage `json:"cloudToDeviceMessageCount,omitempty"`
	Authentication  json.RawMessage `json:"authenticationType,omitempty"`
	X509            json.RawMessage `json:"x509Thumbprint,omitempty"`
	Version         json.RawMessage `json:"version,omitempty"`
	Tags            json.RawMessage `json:"tags,omitempty"`
	Properties      json.RawMessage `json:"properties,omitempty"`
}

func twinOf(document json.RawMessage) json.RawMessage {
	var t identity
	if json.Unmarshal(document, &t) != nil {
		return json.RawMessage("{}") // an event that an older server wrote
	}
	if string(t.Tags) == "{}" {
		t.Tags = nil
	}
	return mustJSON(t)
}

// systemNames are the column Event Grid of hub-service §7.5; the rest keep their names.
var systemNames = map[string]string{
	"content-type": "iothub-content-type", "content-encoding": "iothub-content-encoding",
	"message-id": "message-id", "user-id": "user-id", "correlation-id": "correlation-id", "dt-subject": "dt-subject",
}

func telemetryData(m *iot.Message) json.RawMessage {
	system := map[string]string{
		"iothub-connection-device-id": m.From.Device, "iothub-connection-auth-method": m.AuthMethod,
		"iothub-connection-auth-generation-id": m.Generation, "iothub-enqueuedtime": iot.FormatTime(m.Enqueued), "iothub-message-source": string(m.Source),
	}
	if m.From.Module != "" {
		system["iothub-connection-module-id"] = m.From.Module
	}
	if m.ModelID != "" {
		system["dt-dataschema"] = m.ModelID
	}
	for _, p := range m.System {
		if name, ok := systemNames[p.Name]; ok {
			system[name] = p.Value
		}
	}
	properties := make(map[string]string, len(m.Properties))
	for _, p := range m.Properties {
		properties[p.Name] = p.Value
	}
	body, ok := routing.JSONBody(m)
	if !ok {
		body = mustJSON(base64.StdEncoding.EncodeToString(m.Body))
	}
	return mustJSON(struct {
		Body       json.RawMessage   `json:"body"`
		Properties map[string]string `json:"properties"`
		System     map[string]string `json:"systemProperties"`
	}{body, properties, system})
}

// render is an event in the words of a schema.
func (e *Event) render(schema string) json.RawMessage {
	if schema == CloudEventSchema {
		return mustJSON(struct {
			ID          string          `json:"id"`
			Source      string          `json:"source"`
			Subject     string          `json:"subject"`
			Type        string          `json:"type"`
			Time        string          `json:"time"`
			Data        json.RawMessage `json:"data"`
			SpecVersion string          `json:"specversion"`
		}{e.ID, e.Source, e.Subject, e.Type, iot.FormatTime(e.Time), e.Data, "1.0"})
	}
	return mustJSON(struct {
		ID              string          `json:"id"`
		Topic           string          `json:"topic"`
		Subject         string          `json:"subject"`
		Type            string          `json:"eventType"`
		Time            string          `json:"eventTime"`
		Data            json.RawMessage `json:"data"`
		DataVersion     string          `json:"dataVersion"`
		MetadataVersion string          `json:"metadataVersion"`
	}{e.ID, e.Source, e.Subject, e.Type, iot.FormatTime(e.Time), e.Data, e.version, "1"})
}

// mustJSON writes texts and JSON that was checked, which always can be written.
func mustJSON(v any) json.RawMessage {
	var b bytes.Buffer
	e := json.NewEncoder(&b)
	e.SetEscapeHTML(false) // what a device said stays as it is
	if err := e.Encode(v); err != nil {
		panic("eventgrid: " + err.Error())
	}
	return bytes.TrimSuffix(b.Bytes(), []byte("\n"))
}
