// Package iot holds the nouns every room shares: who a device is, what a
// message is, what time looks like on Azure's wire.
package iot

import (
	"crypto/x509"
	"strings"
	"time"

	"github.com/vauban-iot/vauban/fault"
	"github.com/vauban-iot/vauban/wire/bag"
)

// ID names a device, or a module of a device. Ids are case-sensitive.
type ID struct {
	Device string
	Module string // empty: the device itself
}

// String is {device} or {device}/{module}, the MQTT client id of hub-device §2.1.
func (id ID) String() string {
	if id.Module == "" {
		return id.Device
	}
	return id.Device + "/" + id.Module
}

// maxID bounds device and module ids (hub-device §7).
const maxID = 128

// ValidateID checks a device or module id: 1 to 128 characters of the set of hub-service §2.5.
func ValidateID(what, s string) error {
	if s == "" || len(s) > maxID {
		return fault.New(fault.Invalid, "%s must have 1 to %d characters", what, maxID)
	}
	for i := range len(s) {
		c := s[i]
		switch {
		case 'a' <= c && c <= 'z', 'A' <= c && c <= 'Z', '0' <= c && c <= '9':
		case strings.IndexByte("-.+%_#*?!(),:=@$';", c) >= 0:
		default:
			return fault.New(fault.Invalid, "%s holds the character %q, which ids may not contain", what, rune(c))
		}
	}
	return nil
}

// ETag is an entity tag without its quotes.
type ETag string

// Match is the If-Match of a request: nil for none.
// "*" and an equal tag match; anything else does not (hub-service §2.6).
type Match struct{ tag string }

// ParseMatch reads an If-Match header: "*", *, "tag", tag and W/"tag". An empty header gives nil.
func ParseMatch(header string) *Match {
	h := strings.TrimSpace(header)
	if h == "" {
		return nil
	}
	h = strings.TrimPrefix(h, "W/")
	if len(h) >= 2 && h[0] == '"' && h[len(h)-1] == '"' {
		h = h[1 : len(h)-1]
	}
	return &Match{tag: h}
}

// Check returns PreconditionFailed unless m is nil or matches tag.
func (m *Match) Check(tag ETag) error {
	if m == nil || m.tag == "*" || m.tag == string(tag) {
		return nil
	}
	return fault.New(fault.PreconditionFailed, "the ETag does not match the current one")
}

// Credentials is what a device shows at CONNECT, whatever the protocol.
type Credentials struct {
	ID           ID
	Host         string // the hub name the client wrote
	Token        string // SAS token text; empty: none
	Certificates []*x509.Certificate
	ModelID      string // plug and play model, when announced
	ClientType   string // DeviceClientType
	AuthChain    string
	Remote       string // peer address, for the log
	IPFilterRule string // that admitted the peer; empty: none
	Protocol     string // "mqtt"
	TLSVersion   uint16 // of the connection, as crypto/tls numbers them; 0: not known
	CipherSuite  uint16
}

// AuthMethod is how a connection proved itself, stamped on every message (hub-device §3.3).
type AuthMethod struct {
	Scope string `json:"scope"` // hub, device, module
	Type  string `json:"type"`  // sas, x509
	By    string `json:"issuer"`
	// Rule of the IP filter that admitted the connection; null: none did (hub-service §7.5).
	Rule *string `json:"acceptingIpFilterRule"`
}

// MessageSource says where a record of the log comes from.
type MessageSource string

// The sources, as records and the annotation iothub-message-source spell them (hub-service §7.4).
const (
	Telemetry             MessageSource = "Telemetry" // a device-to-cloud message
	TwinChange            MessageSource = "twinChangeEvents"
	DeviceLifecycle       MessageSource = "deviceLifecycleEvents"
	DeviceConnectionState MessageSource = "deviceConnectionStateEvents"
	DeviceJobLifecycle    MessageSource = "deviceJobLifecycleEvents"
	DigitalTwinChange     MessageSource = "digitalTwinChangeEvents"
)

// Message is one device-to-cloud message with the stamps of the hub, or an event of another source about From.
// System holds canonical names (wire/topic), Properties the application's own.
type Message struct {
	Sequence   uint64 // place in the log, strictly growing; zero before it is written
	Source     MessageSource
	From       ID
	Generation string
	AuthMethod string // JSON text of AuthMethod
	ModelID    string
	Enqueued   time.Time
	System     []bag.Property
	Properties []bag.Property
	Body       []byte
}

// IsEvent reports whether m is an event of the hub, not a message of a device.
func (m *Message) IsEvent() bool { return m.Source != Telemetry && m.Source != "" }

// SystemProperty returns a system property by its canonical name.
func (m *Message) SystemProperty(name string) string {
	for i := range m.System {
		if m.System[i].Name == name {
			return m.System[i].Value
		}
	}
	return ""
}

// Property returns an application property; of several of that name the first.
func (m *Message) Property(name string) string {
	for i := range m.Properties {
		if m.Properties[i].Name == name {
			return m.Properties[i].Value
		}
	}
	return ""
}

// SecurityInterface is the interface id that marks a security message (defender §1.1).
const SecurityInterface = "urn:azureiot:Security:SecurityAgent:1"

// IsSecurity reports whether m carries the security interface id, in any case.
func (m *Message) IsSecurity() bool {
	return strings.EqualFold(m.SystemProperty("iothub-interface-id"), SecurityInterface)
}

// TimeLayout is .NET's round-trip form in UTC: always seven fraction digits (hub-device §3.5).
const TimeLayout = "2006-01-02T15:04:05.0000000Z"

// FormatTime writes t as Azure does; the zero time is 0001-01-01T00:00:00Z.
func FormatTime(t time.Time) string {
	if t.IsZero() {
		return "0001-01-01T00:00:00Z"
	}
	return t.UTC().Format(TimeLayout)
}
