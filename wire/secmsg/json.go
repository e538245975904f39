package secmsg

import (
	"bytes"
	"encoding/json"
	"errors"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"time"
)

// text is a string that some agents write as a number: ports, HitCount, ids.
type text string

func (t *text) UnmarshalJSON(data []byte) error {
	switch {
	case len(data) > 0 && data[0] == '"':
		return json.Unmarshal(data, (*string)(t))
	case bytes.Equal(data, []byte("null")):
	case len(data) > 0 && (data[0] == '{' || data[0] == '['):
		// Not a value we know how to read; it is as good as absent.
	default:
		*t = text(data)
	}
	return nil
}

// envelope is message_v1_0.json, less its strictness (defender §1.3).
type envelope struct {
	AgentVersion         text
	AgentID              text `json:"AgentId"`
	MessageSchemaVersion text
	Events               json.RawMessage
}

type eventV1 struct {
	EventType      text
	Category       text
	Name           text
	ID             text `json:"Id"`
	TimestampLocal text
	TimestampUTC   text
	Payload        json.RawMessage
}

func (r *Report) decodeJSON(body []byte) error {
	// The schema of FlatBuffers writes lower-case member names, JSON 1.0 does not.
	var members map[string]json.RawMessage
	switch first := bytes.TrimLeft(body, " \t\r\n"); {
	case len(first) > 0 && first[0] == '[':
		return r.decodeList(body)
	case json.Unmarshal(body, &members) == nil && members["security_module_id"] != nil:
		return r.decodeSchemaJSON(body)
	}
	var e envelope
	if err := json.Unmarshal(body, &e); err != nil {
		return jsonError(err)
	}
	return r.envelope(&e)
}

// decodeList reads an array of messages or of bare events.
func (r *Report) decodeList(body []byte) error {
	var list []json.RawMessage
	if err := json.Unmarshal(body, &list); err != nil {
		return jsonError(err)
	}
	for _, raw := range list {
		var e envelope
		if json.Unmarshal(raw, &e) == nil && e.Events != nil {
			if err := r.envelope(&e); err != nil {
				r.skip("one of several messages was left out: %v", err)
			}
			continue
		}
		r.eventV1(raw)
	}
	return nil
}

func (r *Report) envelope(e *envelope) error {
	var events []json.RawMessage
	if err := json.Unmarshal(e.Events, &events); e.Events == nil || err != nil || events == nil {
		return &MalformedError{Offset: -1, Reason: "Events is not an array"}
	}
	r.Agent, r.AgentVersion = string(e.AgentID), string(e.AgentVersion)
	if v := e.MessageSchemaVersion; v != "1.0" {
		r.UnknownVersion = true
		r.note("MessageSchemaVersion is %s", quote(string(v)))
	}
	r.Events = slices.Grow(r.Events, len(events))
	for _, raw := range events {
		r.eventV1(raw)
	}
	return nil
}

func (r *Report) eventV1(raw json.RawMessage) {
	var v eventV1
	if err := json.Unmarshal(raw, &v); err != nil {
		r.skip("an event was left out: %v", jsonError(err))
		return
	}
	r.eventOf(&v)
}

func (r *Report) eventOf(v *eventV1) {
	if v.Name == "" {
		r.skip("an event without Name was left out")
		return
	}
	e := Event{ID: string(v.ID), Name: string(v.Name), Category: string(v.Category), Kind: string(v.EventType)}
	// The local time is written with a Z by some agents and without by others: it serves
	// only when there is nothing better (defender §1.3).
	var ok bool
	if e.Time, ok = parseTime(string(v.TimestampUTC)); !ok {
		if e.Time, ok = parseTime(string(v.TimestampLocal)); !ok {
			r.note("the time of event %s cannot be read: %s", quote(string(v.ID)), quote(string(v.TimestampUTC)))
		}
	}
	var objects []json.RawMessage
	switch p := bytes.TrimLeft(v.Payload, " \t\r\n"); {
	case len(p) == 0 || bytes.Equal(p, []byte("null")):
	case p[0] == '[':
		if err := json.Unmarshal(p, &objects); err != nil {
			r.skip("an event was left out: its Payload: %v", jsonError(err))
			return
		}
	default:
		objects = []json.RawMessage{p} // one object outside of an array
	}
	for _, o := range objects {
		if len(o) == 0 || o[0] != '{' {
			r.note("a payload of %s is not an object", quote(e.Name))
			continue
		}
		e.Payload = append(e.Payload, Raw(o))
		switch e.Name {
		case "ConnectionCreate":
			r.connection(&e, o)
		case "OSBaseline", "Baseline":
			r.check(&e, o)
		}
	}
	e.Empty = len(e.Payload) == 0
	r.Events = append(r.Events, e)
}

type connection struct {
	RemoteAddress, RemotePort, LocalAddress, LocalPort text
	Direction, Protocol                                text
	Executable, CommandLine, ProcessID                 text
	ExtraDetails                                       json.RawMessage
}

type aggregate struct {
	HitCount                 text
	StartTimeUtc, EndTimeUtc text //nolint:revive // as on the wire
}

func (r *Report) connection(e *Event, raw json.RawMessage) {
	var c connection
	if err := json.Unmarshal(raw, &c); err != nil {
		r.note("a connection cannot be read: %v", jsonError(err))
		return
	}
	if c.RemoteAddress == "" && c.LocalAddress == "" {
		return // a socket of another family
	}
	f := Flow{
		Local: r.addrPort(c.LocalAddress, c.LocalPort), Remote: r.addrPort(c.RemoteAddress, c.RemotePort),
		Item: len(e.Payload) - 1, Protocol: protocolName(string(c.Protocol)), Executable: string(c.Executable), CommandLine: string(c.CommandLine),
	}
	f.ProcessID, _ = strconv.ParseInt(string(c.ProcessID), 10, 64)
	switch {
	case strings.EqualFold(string(c.Direction), In):
		f.Direction = In
	case strings.EqualFold(string(c.Direction), Out):
		f.Direction = Out
	}
	var a aggregate
	if json.Unmarshal(c.ExtraDetails, &a) == nil {
		f.Hits, _ = strconv.ParseUint(string(a.HitCount), 10, 64)
		f.First, _ = parseTime(string(a.StartTimeUtc))
		f.Last, _ = parseTime(string(a.EndTimeUtc))
	}
	e.Flows = append(e.Flows, f)
}

func (r *Report) addrPort(address, port text) netip.AddrPort {
	var a netip.Addr
	if address != "" {
		parsed, err := netip.ParseAddr(strings.TrimSpace(string(address)))
		if err != nil {
			r.note("%s is not an address", quote(string(address)))
		} else {
			a = parsed.Unmap().WithZone("")
		}
	}
	var p uint64
	if port != "" {
		var err error
		if p, err = strconv.ParseUint(string(port), 10, 16); err != nil {
			r.note("%s is not a port", quote(string(port)))
			p = 0
		}
	}
	return netip.AddrPortFrom(a, uint16(p))
}

// protocolName is upper-case letters and digits, whatever the agent wrote, or what enumName calls an unknown number.
func protocolName(s string) string {
	const longest = 16
	s = strings.ToUpper(s)
	if n, ok := strings.CutPrefix(s, "UNKNOWN("); ok {
		if v, err := strconv.ParseUint(strings.TrimSuffix(n, ")"), 10, 8); err == nil {
			return enumName(nil, uint8(v))
		}
	}
	if s == "" || len(s) > longest {
		return "UNKNOWN"
	}
	for i := range len(s) {
		if c := s[i]; (c < 'A' || c > 'Z') && (c < '0' || c > '9') {
			return "UNKNOWN"
		}
	}
	return s
}

func (r *Report) check(e *Event, raw json.RawMessage) {
	var c struct {
		CceID                                string `json:"CceId"`
		Result, Error, Description, Severity text
	}
	if err := json.Unmarshal(raw, &c); err != nil {
		r.note("a baseline check cannot be read: %v", jsonError(err))
		return
	}
	// CS writes Pass, Fail and Err; CA upper case.
	result := strings.ToUpper(string(c.Result))
	if result == "ERR" {
		result = "ERROR"
	}
	e.Checks = append(e.Checks, BaselineCheck{
		ID: c.CceID, Result: result, Error: string(c.Error), Description: string(c.Description), Severity: strings.ToUpper(string(c.Severity)),
	})
}

// The forms of time that agents and documents write, with and without zone (defender §1.3).
// Fractions of seconds are accepted in all.
var timeLayouts = []string{
	time.RFC3339, "2006-01-02T15:04:05", "2006-01-02 15:04:05Z07:00", "2006-01-02 15:04:05", "01/02/2006 15:04:05",
}

// parseTime reads a time; one without zone is UTC. A zone may move a year out of those that JSON can write: that is no time.
func parseTime(s string) (time.Time, bool) {
	for _, l := range timeLayouts {
		if t, err := time.Parse(l, s); err == nil {
			if t = t.UTC(); t.Year() >= 1 && t.Year() <= 9999 {
				return t, true
			}
		}
	}
	return time.Time{}, false
}

func jsonError(err error) error {
	if e, ok := errors.AsType[*json.SyntaxError](err); ok {
		return &MalformedError{Offset: int(e.Offset), Reason: e.Error()}
	}
	if e, ok := errors.AsType[*json.UnmarshalTypeError](err); ok {
		return &MalformedError{Offset: int(e.Offset), Reason: quote(e.Value) + " where " + e.Type.String() + " is due"}
	}
	return &MalformedError{Offset: -1, Reason: err.Error()}
}
