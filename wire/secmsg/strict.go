package secmsg

import (
	"bytes"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"
)

// member is what the published schema of JSON 1.0 says of a member of a payload (defender §1.3).
type member struct {
	name     string
	kind     byte // s string, n number, i integer, b boolean
	required bool
	values   []string
}

func required(kind byte, names ...string) []member { return members(kind, true, names) }
func optional(kind byte, names ...string) []member { return members(kind, false, names) }

func members(kind byte, required bool, names []string) []member {
	ms := make([]member, len(names))
	for i, n := range names {
		ms[i] = member{name: n, kind: kind, required: required}
	}
	return ms
}

func oneOf(name string, required bool, values ...string) []member {
	return []member{{name: name, kind: 's', required: required, values: values}}
}

// payloadMembers are the members of the payloads, by the event's name.
var payloadMembers = map[string][]member{
	"ProcessCreate":    slices.Concat(required('s', "Executable", "UserId", "CommandLine"), required('i', "ProcessId", "ParentProcessId"), optional('s', "UserName")),
	"ProcessTerminate": slices.Concat(required('s', "Executable"), required('i', "ProcessId", "ExitStatus")),
	"ConnectionCreate": slices.Concat(required('s', "RemoteAddress", "RemotePort", "Protocol", "Executable"), required('i', "ProcessId"),
		oneOf("Direction", true, In, Out), optional('s', "LocalAddress", "LocalPort", "UserId", "CommandLine")),
	"Login": slices.Concat(required('i', "ProcessId"), required('s', "Operation", "Executable"), oneOf("Result", true, "Success", "Fail"),
		optional('s', "UserId", "UserName", "RemoteAddress", "RemotePort", "LocalPort")),
	"ListeningPorts": slices.Concat(required('s', "Protocol", "LocalPort"), optional('s', "LocalAddress", "RemoteAddress", "RemotePort")),
	"LocalUsers":     required('s', "UserName", "UserId", "GroupNames", "GroupIds"),
	"FirewallConfiguration": slices.Concat(required('b', "Enabled"), oneOf("Action", true, "Allow", "Deny", "Other"), optional('i', "Priority"),
		optional('s', "Direction", "ChainName", "Application", "SourceAddress", "SourcePort", "DestinationAddress", "DestinationPort", "Protocol")),
	"OSBaseline": slices.Concat(required('s', "Description", "CceId", "Error"), oneOf("Result", true, "Pass", "Fail", "Err"),
		oneOf("Severity", true, "Critical", "Important", "Warning", "Informational")),
	"SystemInformation": slices.Concat(optional('s', "OSName", "OSVersion", "OSVendor", "OsArchitecture", "HostName", "BIOSVersion", "BootDevice"),
		optional('i', "TotalPhysicalMemoryInKB", "FreePhysicalMemoryInKB", "TotalVirtualMemoryInKB", "FreeVirtualMemoryInKB")),
	"ConnectedHardware": required('s', "HardwareCategory", "HardwareSubCategory", "HardwareName"),
	"Diagnostic": slices.Concat(oneOf("Severity", true, "Fatal", "Error", "Warning", "Information", "Debug"), required('s', "Message"),
		required('i', "ProcessId", "ThreadId"), optional('s', "CorrelationId")),
	"ConfigurationError":      slices.Concat(required('s', "ConfigurationName", "UsedConfiguration", "Message"), oneOf("ErrorType", true, "TypeMismatch", "NotOptimal", "Conflict")),
	"DroppedEventsStatistics": slices.Concat(oneOf("Queue", true, "High", "Low"), required('i', "CollectedEvents", "DroppedEvents")),
	"MessageStatistics":       required('i', "MessagesSent", "MessagesUnder4KB", "TotalFailed"),
}

// verdict collects what a message breaks of the published schema.
type verdict struct{ problems []string }

func (v *verdict) add(at, format string, args ...any) {
	if len(v.problems) < maxNotes {
		v.problems = append(v.problems, at+": "+fmt.Sprintf(format, args...))
	}
}

// Strict says what a message of JSON 1.0 breaks of the schema that Azure published for it, in at most 16 lines. It is a
// diagnostic and no more: the agents that Azure shipped break it too, and Decode reads them (defender §1.3). applies is
// false for messages of other schemas.
func Strict(body []byte) (problems []string, applies bool) {
	var top map[string]json.RawMessage
	if len(body) > MaxSize || json.Unmarshal(bytes.TrimPrefix(body, byteOrderMark), &top) != nil || top["security_module_id"] != nil {
		return nil, false
	}
	v := &verdict{}
	v.object("message", top, slices.Concat(required('s', "AgentVersion", "AgentId"), oneOf("MessageSchemaVersion", true, "1.0"), required('a', "Events")), true)
	if id, ok := textOf(top["AgentId"]); ok && !isGUID(id) {
		v.add("message.AgentId", "%s is no GUID", quote(id))
	}
	var events []json.RawMessage
	if json.Unmarshal(top["Events"], &events) == nil && len(events) == 0 {
		v.add("message.Events", "no event")
	}
	for i, raw := range events {
		if len(v.problems) == maxNotes {
			break
		}
		v.event(fmt.Sprintf("Events[%d]", i), raw)
	}
	return v.problems, true
}

func (v *verdict) event(at string, raw json.RawMessage) {
	var e map[string]json.RawMessage
	if json.Unmarshal(raw, &e) != nil {
		v.add(at, "not an object")
		return
	}
	v.object(at, e, slices.Concat(oneOf("EventType", true, "Security", "Operational", "Diagnostic"), oneOf("Category", true, "Periodic", "Triggered"),
		required('s', "Name", "Id", "TimestampLocal", "TimestampUTC"), oneOf("PayloadSchemaVersion", true, "1.0"), required('b', "IsEmpty"), required('a', "Payload")), true)
	if id, ok := textOf(e["Id"]); ok && !isGUID(id) {
		v.add(at+".Id", "%s is no GUID", quote(id))
	}
	for _, name := range []string{"TimestampLocal", "TimestampUTC"} {
		if s, ok := textOf(e[name]); ok {
			if _, err := time.Parse(time.RFC3339, s); err != nil {
				v.add(at+"."+name, "%s is no time of RFC 3339", quote(s))
			}
		}
	}
	var items []json.RawMessage
	if json.Unmarshal(e["Payload"], &items) != nil {
		return
	}
	var empty bool
	if json.Unmarshal(e["IsEmpty"], &empty) == nil && empty != (len(items) == 0) {
		v.add(at+".IsEmpty", "%v with %d payloads", empty, len(items))
	}
	category, _ := textOf(e["Category"])
	if category == "Triggered" && len(items) == 0 {
		v.add(at+".Payload", "empty in a triggered event")
	}
	name, _ := textOf(e["Name"])
	known, ok := payloadMembers[name]
	if !ok {
		v.add(at+".Name", "%s is no event of the schema", quote(name))
		return
	}
	for i, raw := range items {
		var item map[string]json.RawMessage
		at := fmt.Sprintf("%s.Payload[%d]", at, i)
		if json.Unmarshal(raw, &item) != nil {
			v.add(at, "not an object")
			continue
		}
		v.object(at, item, known, false)
		var extra map[string]json.RawMessage
		if details := item["ExtraDetails"]; details != nil && json.Unmarshal(details, &extra) == nil {
			for _, key := range slices.Sorted(maps.Keys(extra)) {
				if _, ok := textOf(extra[key]); !ok {
					v.add(at+".ExtraDetails."+quote(key), "not a string")
				}
			}
		}
		if name == "Login" && item["UserId"] == nil && item["UserName"] == nil {
			v.add(at, "neither UserId nor UserName")
		}
	}
}

// object checks the members of one object; closed: it may have no others.
func (v *verdict) object(at string, o map[string]json.RawMessage, ms []member, closed bool) {
	for _, m := range ms {
		raw, ok := o[m.name]
		switch {
		case !ok && m.required:
			v.add(at+"."+m.name, "missing")
		case ok && !ofKind(raw, m.kind):
			v.add(at+"."+m.name, "not %s", kinds[m.kind])
		case ok && m.values != nil:
			if s, _ := textOf(raw); !slices.Contains(m.values, s) {
				v.add(at+"."+m.name, "%s is none of %s", quote(s), strings.Join(m.values, ", "))
			}
		}
	}
	if !closed {
		return
	}
	for _, name := range slices.Sorted(maps.Keys(o)) {
		if !slices.ContainsFunc(ms, func(m member) bool { return m.name == name }) {
			v.add(at, "an unknown member %s", quote(name))
		}
	}
}

var kinds = map[byte]string{'s': "a string", 'i': "an integer", 'b': "true or false", 'a': "an array"}

func ofKind(raw json.RawMessage, kind byte) bool {
	switch kind {
	case 's':
		_, ok := textOf(raw)
		return ok
	case 'i':
		var n json.Number
		return len(raw) > 0 && raw[0] != '"' && json.Unmarshal(raw, &n) == nil && n != "" && !strings.ContainsAny(n.String(), ".eE")
	case 'b':
		var b *bool
		return json.Unmarshal(raw, &b) == nil && b != nil
	default:
		return len(raw) > 0 && raw[0] == '['
	}
}

func textOf(raw json.RawMessage) (string, bool) {
	var s *string
	if json.Unmarshal(raw, &s) != nil || s == nil {
		return "", false
	}
	return *s, true
}

func isGUID(s string) bool {
	if len(s) != 36 {
		return false
	}
	for i := range len(s) {
		c := s[i]
		if dash := i == 8 || i == 13 || i == 18 || i == 23; dash != (c == '-') {
			return false
		}
		if c != '-' && (c < '0' || c > '9') && (c < 'a' || c > 'f') && (c < 'A' || c > 'F') {
			return false
		}
	}
	return true
}
