// Package secmsg reads the security messages of Azure IoT agents (defender §1): the
// FlatBuffers that NetX Duo's security module sends, and the JSON 1.0 of the older
// agents and of our own Linux agent. [Decode] takes the message's mti property and its body and returns a [Report].
//
// Everything in a message was chosen by the peer. Decode bounds what it allocates by what a
// message of [MaxSize] can honestly hold, never panics, and cuts what it quotes. Addresses are
// read in network order, as little-endian devices send them (§1.2); event ids are neither
// unique nor unpredictable and device clocks may be wrong.
//
// [AppendFlatBuffers] writes the messages that simulated boards send, [AppendJSON] those of the Linux agent.
package secmsg

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"strconv"
	"strings"
	"time"
)

// Indicator is the application property that says how a message is encoded (defender §1.1).
const Indicator = "mti"

// MaxSize is the longest body Decode reads: a hub message (defender §7).
const MaxSize = 256 << 10

var (
	// ErrMalformed is wrapped by the errors for bodies that cannot be read.
	ErrMalformed = errors.New("secmsg: malformed message")
	// ErrTooLarge is returned for bodies beyond MaxSize.
	ErrTooLarge = errors.New("secmsg: message over 256 KiB")
)

// MalformedError says where a body stops making sense. It is an ErrMalformed.
type MalformedError struct {
	Offset int // in the body; of JSON, -1 when not known
	Reason string
}

func (e *MalformedError) Error() string {
	if e.Offset < 0 {
		return ErrMalformed.Error() + ": " + e.Reason
	}
	return fmt.Sprintf("%v: offset %d: %s", ErrMalformed, e.Offset, e.Reason)
}

// Is makes errors.Is(err, ErrMalformed) true.
func (*MalformedError) Is(target error) bool { return target == ErrMalformed }

// The encodings a Report may come from.
const (
	FlatBuffers = "flatbuffers"
	JSON        = "json"
)

// Report is one security message.
type Report struct {
	Agent        string // "defender-iot-micro-agent", or the AgentId of JSON 1.0
	AgentVersion string // "3.5.4"; empty: not given
	Encoding     string // FlatBuffers or JSON
	Events       []Event
	// Skipped counts events that were left out: union members this package does not
	// know, and events of JSON, or items of schema 3.0, that are not readable. The others stand in Events.
	Skipped int
	// UnknownVersion is set when mti or MessageSchemaVersion name a version this package
	// does not know; the body was read as the nearest one.
	UnknownVersion bool
	Notes          []string // what was odd, in plain words; at most 16
}

// Event is one thing an agent saw.
type Event struct {
	ID       string        // hex digits or a GUID; never a key (defender §1.2). Empty: all zero or none
	Name     string        // NetworkActivity, Heartbeat, SystemInformation, ConnectionCreate...
	Time     time.Time     // by the device's clock, UTC; zero: none or unreadable
	Interval time.Duration // time over which it was collected; FlatBuffers only
	Category string        // JSON 1.0: Periodic, Triggered or Aggregated, as sent
	Kind     string        // JSON 1.0: EventType, as sent
	Empty    bool          // no payload, or a payload without content

	Flows  []Flow          // of NetworkActivity and ConnectionCreate
	Checks []BaselineCheck // of Baseline and OSBaseline
	// Payload holds one Item per payload object, where Flows and Checks do not say it
	// all: every object of a JSON 1.0 event as it came (Raw), and SystemInformation,
	// ListeningPort, Process, Record and the items of the Linux agent of the other schema.
	Payload []Item
}

// IsHeartbeat reports whether e only says that the device is alive: a Heartbeat, or the
// empty SystemInformation that the RTOS preview sends in its stead (defender §1.3).
func (e *Event) IsHeartbeat() bool {
	return e.Name == "Heartbeat" || e.Name == "SystemInformation" && e.Empty
}

// Flow is the traffic of one 5-tuple. A flow of FlatBuffers or of schema 3.0 carries both directions; JSON 1.0
// has a flow for each.
type Flow struct {
	Local, Remote netip.AddrPort // invalid: not given; port 0: none (ICMP)
	Protocol      string         // TCP, UDP, ICMP, or another name in upper case; UNKNOWN(n) for an unknown number
	Direction     string         // In, Out, or "" when both or unknown. Schema 3.0 and JSON 1.0 say who began, FlatBuffers who sent
	Began         bool           // Direction is who began, from an agent that knows it and counts bytes: schema 3.0
	BytesIn       uint64         // IP payload; zero in JSON 1.0, which does not count
	BytesOut      uint64
	Executable    string
	CommandLine   string
	ProcessID     int64
	UserID        uint32    // not in JSON 1.0
	Hits          uint64    // connections an aggregated event stands for; 0: not said
	First, Last   time.Time // of those, by the device's clock; zero: not said
	Item          int       // which of the event's details it is
}

// The directions of a Flow.
const (
	In  = "In"
	Out = "Out"
)

// Item is a payload object: Raw, SystemInformation, ListeningPort, Process, Record, LoginRecord, Package, Peripheral,
// FileChange, Statistic, DNSQuery, LocalUser or FirewallRule.
type Item interface{ item() }

// Raw is a payload object of JSON 1.0 as it came.
type Raw json.RawMessage

// MarshalJSON returns r.
func (r Raw) MarshalJSON() ([]byte, error) { return json.RawMessage(r).MarshalJSON() }

// SystemInformation describes a device. RTOS firmware fills OS only; what is below Hardware comes from the Linux agent (defender §1.4).
type SystemInformation struct {
	OS       string `json:"os_info,omitempty"`
	Kernel   string `json:"kernel_info,omitempty"`
	Hardware string `json:"hw_info,omitempty"`

	HostName         string `json:"host_name,omitempty"`
	HardwareVendor   string `json:"hardware_vendor,omitempty"`
	HardwareModel    string `json:"hardware_model,omitempty"`
	HardwareSerial   string `json:"hardware_serial_number,omitempty"`
	FirmwareVendor   string `json:"firmware_vendor,omitempty"`
	FirmwareVersion  string `json:"firmware_version,omitempty"`
	OSDistribution   string `json:"os_dist,omitempty"`     // debian
	OSVersion        string `json:"os_version,omitempty"`  // 12
	OSPlatform       string `json:"os_platform,omitempty"` // Linux
	OSArchitecture   string `json:"os_arch,omitempty"`     // x86_64
	AgentType        string `json:"agent_type,omitempty"`  // Edge or Standalone
	AgentVersion     string `json:"agent_version,omitempty"`
	PhysicalMemoryKB uint64 `json:"total_physical_memory_kb,omitempty"` // KiB
	NICs             []NIC  `json:"nics,omitempty"`
}

// ListeningPort is an open socket.
type ListeningPort struct {
	Local      netip.AddrPort `json:"local"`
	Protocol   string         `json:"protocol"`
	ProcessID  uint32         `json:"process_id,omitempty"` // zero: not known
	Executable string         `json:"executable,omitempty"`
}

// BaselineCheck is the outcome of a check of the system's configuration.
type BaselineCheck struct {
	ID          string `json:"id"`
	Result      string `json:"result"` // PASS, FAIL, ERROR, SKIP
	Error       string `json:"error,omitempty"`
	Description string `json:"description,omitempty"`
	Severity    string `json:"severity"` // CRITICAL, IMPORTANT, WARNING, INFORMATIONAL
	Remediation string `json:"remediation,omitempty"`
}

// Process is a process that started or ended.
type Process struct {
	Executable      string `json:"executable,omitempty"`
	ProcessID       uint32 `json:"process_id"`
	ParentProcessID uint32 `json:"parent_process_id"`
	UserID          uint32 `json:"user_id"`
	UserName        string `json:"user_name,omitempty"`
	CommandLine     string `json:"commandline,omitempty"`
	EventType       string `json:"event_type"` // FORK, EXEC, EXIT
	HitCount        uint32 `json:"hit_count"`  // 1 unless sent
	Item            int    `json:"-"`          // of Started: which of the event's details it is
}

// Record is a line of the agent's own log.
type Record struct {
	Message   string `json:"message"`
	Level     string `json:"level"` // NOTSET, FATAL, ERROR, WARN, INFO, DEBUG
	Timestamp uint64 `json:"timestamp"`
	Line      uint32 `json:"line"`
	File      string `json:"filename"`
}

func (Raw) item()               {}
func (SystemInformation) item() {}
func (ListeningPort) item()     {}
func (Process) item()           {}
func (Record) item()            {}

// Names of enum members, in wire order (defender §1.2).
var (
	protocols     = []string{"TCP", "UDP", "ICMP"}
	results       = []string{"PASS", "FAIL", "ERROR"}
	severities    = []string{"CRITICAL", "IMPORTANT", "WARNING", "INFORMATIONAL"}
	processEvents = []string{"FORK", "EXEC", "EXIT"}
	levels        = []string{"NOTSET", "FATAL", "ERROR", "WARN", "INFO", "DEBUG"}
	payloads      = []string{"NONE", "NetworkActivity", "SystemInformation", "ListeningPorts", "Heartbeat", "Baseline", "Process", "Log"}
)

func enumName(names []string, v uint8) string {
	if int(v) < len(names) {
		return names[v]
	}
	return fmt.Sprintf("UNKNOWN(%d)", v)
}

// direction is what byte counts tell: which side sent, not which began.
func direction(in, out uint64) string {
	switch {
	case in > 0 && out == 0:
		return In
	case out > 0 && in == 0:
		return Out
	}
	return ""
}

const (
	maxNotes = 16
	maxQuote = 60 // bytes of the peer's text in a note or an error
)

func (r *Report) note(format string, args ...any) {
	if len(r.Notes) < maxNotes {
		r.Notes = append(r.Notes, fmt.Sprintf(format, args...))
	}
}

func (r *Report) skip(format string, args ...any) {
	r.Skipped++
	r.note(format, args...)
}

func quote(s string) string {
	if len(s) > maxQuote {
		return strconv.QuoteToASCII(s[:maxQuote]) + "..."
	}
	return strconv.QuoteToASCII(s)
}

// mti is the message type indicator X.Y-E-S-T: schema version, encoding, source, type.
type mti struct{ major, minor, encoding, source, kind int }

func parseMTI(s string) (m mti, ok bool) {
	parts := strings.Split(s, "-")
	if len(parts) != 4 || len(s) > 64 {
		return mti{}, false
	}
	major, minor, ok := strings.Cut(parts[0], ".")
	if !ok {
		return mti{}, false
	}
	for _, p := range []struct {
		s string
		v *int
	}{{major, &m.major}, {minor, &m.minor}, {parts[1], &m.encoding}, {parts[2], &m.source}, {parts[3], &m.kind}} {
		n, err := strconv.ParseUint(p.s, 10, 16)
		if err != nil {
			return mti{}, false
		}
		*p.v = int(n)
	}
	return m, true
}

// known reports whether m names a schema whose form is known, of raw events: JSON 1.0, the later
// schemas 2.0 and 2.3 (defender §1.1), between which versions are compatible, and our 3.0, which is JSON (§1.4).
func (m mti) known() bool {
	if m.kind != 0 {
		return false
	}
	return m.encoding == encodingFlatBuffers && m.major == 2 && m.minor <= 3 ||
		m.encoding == encodingJSON && (m.major == 1 || m.major == 2 && m.minor <= 3 || m.major == 3 && m.minor == 0)
}

const (
	encodingJSON        = 0
	encodingFlatBuffers = 1
)

// Decode reads a security message. indicator is its mti application property; when it is
// empty or names no known encoding, the first byte of body decides (defender §1.1). The report
// does not alias body. On an error the report is empty.
func Decode(indicator string, body []byte) (Report, error) {
	if len(body) > MaxSize {
		return Report{}, ErrTooLarge
	}
	var r Report
	encoding := r.encoding(indicator, body)
	var err error
	if encoding == encodingJSON {
		r.Encoding = JSON
		err = r.decodeJSON(bytes.TrimPrefix(body, byteOrderMark))
	} else {
		r.Encoding = FlatBuffers
		err = r.decodeFlatBuffers(body)
	}
	if err != nil {
		return Report{}, err
	}
	return r, nil
}

// encoding is what a body is read as.
func (r *Report) encoding(indicator string, body []byte) int {
	if indicator == "" {
		return sniff(body)
	}
	m, ok := parseMTI(indicator)
	switch {
	case !ok:
		r.UnknownVersion = true
		r.note("mti %s is not of the form X.Y-E-S-T", quote(indicator))
		return sniff(body)
	case !m.known():
		r.UnknownVersion = true
		r.note("mti %s names a schema that is not known", quote(indicator))
	}
	if m.encoding != encodingFlatBuffers && m.encoding != encodingJSON {
		return sniff(body)
	}
	return m.encoding
}

var byteOrderMark = []byte("\xef\xbb\xbf")

// sniff tells the encodings apart without mti. A FlatBuffers message has no file
// identifier, but its first bytes are a small multiple of four.
func sniff(body []byte) int {
	body = bytes.TrimLeft(bytes.TrimPrefix(body, byteOrderMark), " \t\r\n")
	if len(body) > 0 && (body[0] == '{' || body[0] == '[') {
		return encodingJSON
	}
	return encodingFlatBuffers
}
