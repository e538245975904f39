package secmsg

import (
	"bytes"
	"encoding/json"
	"net/netip"
	"slices"
	"strconv"
	"strings"
)

// The forms in which payload items stand in the column EventDetails (defender §2.6). Members are those of the FlatBuffers
// schema, but for baseline checks, whose names are the ones that documented queries ask for (§1.4).
type (
	flowDetails struct {
		LocalAddress  string `json:"local_address"`
		LocalPort     uint16 `json:"local_port"`
		RemoteAddress string `json:"remote_address"`
		RemotePort    uint16 `json:"remote_port"`
		Protocol      string `json:"protocol"`
		BytesIn       uint64 `json:"bytes_in"`
		BytesOut      uint64 `json:"bytes_out"`
		ProcessID     int64  `json:"process_id"`
		UserID        uint32 `json:"user_id"`
		Executable    string `json:"executable,omitempty"`
		CommandLine   string `json:"commandline,omitempty"`
		// Schema 3.0. Without a direction the byte counts tell which side sent.
		Direction *string `json:"direction,omitempty"`
		Hits      uint64  `json:"hit_count,omitempty"`
	}
	portDetails struct {
		LocalAddress string `json:"local_address"`
		LocalPort    uint16 `json:"local_port"`
		Protocol     string `json:"protocol"`
		ProcessID    uint32 `json:"process_id,omitempty"`
		Executable   string `json:"executable,omitempty"`
	}
	checkDetails struct {
		ID          string `json:"BaselineCheckId"`
		Result      string `json:"BaselineCheckResult"`
		Error       string `json:"BaselineCheckError,omitempty"`
		Description string `json:"BaselineCheckDescription,omitempty"`
		Severity    string `json:"BaselineCheckSeverity"`
		Remediation string `json:"BaselineCheckRemediation,omitempty"`
	}
)

// Details returns the items of an event as rows of EventDetails: one JSON object each. Objects of JSON 1.0 stand as they came,
// without white space around members. form says how DecodeDetails reads them: as JSON 1.0, or by the FlatBuffers schema.
func (e *Event) Details() (rows []json.RawMessage, form string) {
	add := func(v any) {
		var b bytes.Buffer
		enc := json.NewEncoder(&b)
		enc.SetEscapeHTML(false)
		if enc.Encode(v) == nil { // texts and numbers always do
			rows = append(rows, json.RawMessage(bytes.TrimSuffix(b.Bytes(), []byte("\n"))))
		}
	}
	own := true // the payload does not say all: see Event.Payload
	for _, item := range e.Payload {
		switch it := item.(type) {
		case Raw:
			own = false
			var b bytes.Buffer
			if json.Compact(&b, it) == nil {
				rows = append(rows, b.Bytes())
			}
		case ListeningPort:
			add(portDetails{text4(it.Local.Addr()), it.Local.Port(), it.Protocol, it.ProcessID, it.Executable})
		default:
			add(it)
		}
	}
	if !own {
		return rows, JSON
	}
	rows = append(rows, e.flowRows()...)
	for i := range e.Checks {
		add(checkDetails(e.Checks[i]))
	}
	return rows, FlatBuffers
}

// flowRows are the rows of flows, each a flowDetails. They share one piece of memory, and are written without encoding/json: a fleet's agents
// tell of little else.
func (e *Event) flowRows() []json.RawMessage {
	if len(e.Flows) == 0 {
		return nil
	}
	rows := make([]json.RawMessage, 0, len(e.Flows))
	b := make([]byte, 0, flowRow*len(e.Flows))
	for i := range e.Flows {
		from := len(b)
		b = e.Flows[i].appendDetails(b)
		rows = append(rows, b[from:len(b):len(b)])
	}
	return rows
}

// flowRow is about how many bytes the row of a flow takes.
const flowRow = 192

// appendDetails appends the flowDetails of f as JSON.
func (f *Flow) appendDetails(b []byte) []byte {
	number := func(name string, v uint64) {
		b = strconv.AppendUint(append(b, name...), v, 10)
	}
	text := func(name, v string) {
		b = appendText(append(b, name...), v)
	}
	address := func(name string, a netip.Addr) {
		b = append(append(b, name...), '"')
		if a.Zone() != "" {
			b = appendText(b[:len(b)-1], a.String())
			return
		}
		if a.IsValid() {
			b = a.AppendTo(b)
		}
		b = append(b, '"')
	}
	address(`{"local_address":`, f.Local.Addr())
	number(`,"local_port":`, uint64(f.Local.Port()))
	address(`,"remote_address":`, f.Remote.Addr())
	number(`,"remote_port":`, uint64(f.Remote.Port()))
	text(`,"protocol":`, f.Protocol)
	number(`,"bytes_in":`, f.BytesIn)
	number(`,"bytes_out":`, f.BytesOut)
	b = strconv.AppendInt(append(b, `,"process_id":`...), f.ProcessID, 10)
	number(`,"user_id":`, uint64(f.UserID))
	if f.Executable != "" {
		text(`,"executable":`, f.Executable)
	}
	if f.CommandLine != "" {
		text(`,"commandline":`, f.CommandLine)
	}
	if f.Began || f.Direction != direction(f.BytesIn, f.BytesOut) {
		text(`,"direction":`, f.Direction)
	}
	if f.Hits != 0 {
		number(`,"hit_count":`, f.Hits)
	}
	return append(b, '}')
}

// appendText appends s as encoding/json writes it where HTML means nothing.
func appendText(b []byte, s string) []byte {
	for i := range len(s) {
		if c := s[i]; c < ' ' || c == '"' || c == '\\' || c >= 0x7f {
			var long bytes.Buffer
			enc := json.NewEncoder(&long)
			enc.SetEscapeHTML(false)
			_ = enc.Encode(s) // a text always does
			return append(b, bytes.TrimSuffix(long.Bytes(), []byte("\n"))...)
		}
	}
	return append(append(append(b, '"'), s...), '"')
}

func text4(a netip.Addr) string {
	if !a.IsValid() {
		return ""
	}
	return a.String()
}

// DecodeDetails reads a row of EventDetails back into an event with that item alone. form is what Details said of it.
func DecodeDetails(form, name string, details []byte) (Event, error) {
	if len(details) > MaxSize {
		return Event{}, ErrTooLarge
	}
	e := Event{Name: name}
	if form == JSON {
		if !json.Valid(details) {
			return Event{}, &MalformedError{Offset: -1, Reason: "the details are not JSON"}
		}
		var r Report
		r.eventOf(&eventV1{Name: text(name), Payload: append(append(json.RawMessage{'['}, details...), ']')})
		if len(r.Events) != 1 {
			return Event{}, &MalformedError{Offset: -1, Reason: "the details are not those of an event"}
		}
		return r.Events[0], nil
	}
	if err := e.detail(details); err != nil {
		return Event{}, err
	}
	return e, nil
}

// detail adds the item that a row of EventDetails tells of.
func (e *Event) detail(row []byte) error {
	item := func(into any) error {
		if err := json.Unmarshal(row, into); err != nil {
			return jsonError(err)
		}
		return nil
	}
	address := func(a string, port uint16) netip.AddrPort {
		parsed, _ := netip.ParseAddr(a) // an invalid one is one that was not given
		return netip.AddrPortFrom(parsed, port)
	}
	switch e.Name {
	case "NetworkActivity":
		var d flowDetails
		if err := item(&d); err != nil {
			return err
		}
		f := Flow{
			Local: address(d.LocalAddress, d.LocalPort), Remote: address(d.RemoteAddress, d.RemotePort), Protocol: protocolName(d.Protocol),
			Direction: direction(d.BytesIn, d.BytesOut), BytesIn: d.BytesIn, BytesOut: d.BytesOut,
			ProcessID: d.ProcessID, UserID: d.UserID, Executable: d.Executable, CommandLine: d.CommandLine, Hits: d.Hits, Item: len(e.Flows),
		}
		if d.Direction != nil {
			switch f.Direction = ""; *d.Direction {
			case In, Out:
				f.Direction, f.Began = *d.Direction, true
			}
		}
		e.Flows = append(e.Flows, f)
	case "ListeningPorts":
		var d portDetails
		if err := item(&d); err != nil {
			return err
		}
		e.Payload = append(e.Payload, ListeningPort{
			Local: address(d.LocalAddress, d.LocalPort), Protocol: protocolName(d.Protocol), ProcessID: d.ProcessID, Executable: d.Executable,
		})
	case "Baseline":
		var d checkDetails
		if err := item(&d); err != nil {
			return err
		}
		e.Checks = append(e.Checks, BaselineCheck(d))
	default:
		it, err := itemOf(e.Name, row)
		if err != nil {
			return err
		}
		e.Payload = append(e.Payload, it)
	}
	return nil
}

// Login is somebody who signed in on a device, or tried to.
type Login struct {
	User   string // the name or, without one, the number
	Failed bool
	Remote string // from where; empty: from the device itself, or not said
	Hits   uint64 // how many the item stands for; at least 1
	Item   int    // which of the event's details it is
	// Program is the service or program that asked for the password: sshd, login.
	Program string
}

// Logins returns the sign-ins of an event Login, of the older agents and of the micro agent (defender §1.3, §1.4). Others, such as
// the end of a session, are left out.
func (e *Event) Logins() []Login {
	if e.Name != "Login" {
		return nil
	}
	var all []Login
	for i, item := range e.Payload {
		if record, ok := item.(LoginRecord); ok {
			if l, ok := record.login(); ok {
				l.Item = i
				all = append(all, l)
			}
			continue
		}
		raw, ok := item.(Raw)
		if !ok {
			continue
		}
		var v struct {
			Operation, Result, UserName, RemoteAddress text
			Executable                                 text
			UserID                                     text `json:"UserId"`
			UserName2                                  text `json:"user_name"`
			RemoteAddress2                             text `json:"remote_address"`
		}
		if json.Unmarshal(raw, &v) != nil {
			continue
		}
		l := Login{User: string(first(v.UserName, v.UserName2, v.UserID)), Remote: string(first(v.RemoteAddress, v.RemoteAddress2)), Hits: hits(raw), Item: i, Program: string(v.Executable)}
		switch operation := string(v.Operation); {
		case strings.EqualFold(operation, "Logout"):
			continue
		case strings.EqualFold(operation, "LoginFailed"), strings.EqualFold(string(v.Result), "Fail"), strings.EqualFold(string(v.Result), "Failed"):
			l.Failed = true
		}
		all = append(all, l)
	}
	return all
}

// Started returns the processes that an event saw start.
func (e *Event) Started() []Process {
	var all []Process
	for i, item := range e.Payload {
		switch it := item.(type) {
		case Process:
			if it.EventType != processEvents[2] {
				it.Item = i
				all = append(all, it)
			}
		case Raw:
			if e.Name != "ProcessCreate" {
				continue
			}
			var v struct{ Executable, CommandLine, UserName, UserID, ProcessID, ParentProcessID text }
			if json.Unmarshal(it, &v) == nil {
				all = append(all, Process{
					Executable: string(v.Executable), CommandLine: string(v.CommandLine), UserName: string(v.UserName), UserID: number(v.UserID),
					ProcessID: number(v.ProcessID), ParentProcessID: number(v.ParentProcessID),
					EventType: processEvents[1], HitCount: uint32(min(hits(json.RawMessage(it)), 1<<31)), Item: i,
				})
			}
		}
	}
	return all
}

// number is zero for what is none.
func number(t text) uint32 {
	n, err := strconv.ParseUint(string(t), 10, 32)
	if err != nil {
		return 0
	}
	return uint32(n)
}

// Listening returns the open sockets of an event ListeningPorts. Those of JSON 1.0 without a port are left out.
func (e *Event) Listening() []Socket {
	if e.Name != "ListeningPorts" {
		return nil
	}
	var all []Socket
	for i, item := range e.Payload {
		switch it := item.(type) {
		case ListeningPort:
			all = append(all, Socket{it, i})
		case Raw:
			var v struct {
				Protocol, LocalAddress, LocalPort text
				Address2                          text `json:"local_address"`
				Port2                             text `json:"local_port"`
			}
			if json.Unmarshal(it, &v) != nil {
				continue
			}
			port, err := strconv.ParseUint(string(first(v.LocalPort, v.Port2)), 10, 16)
			if err != nil {
				continue
			}
			a, _ := netip.ParseAddr(strings.Trim(string(first(v.LocalAddress, v.Address2)), "[]")) // an invalid one is one that was not given
			all = append(all, Socket{ListeningPort{Local: netip.AddrPortFrom(a, uint16(port)), Protocol: protocolName(string(v.Protocol))}, i})
		}
	}
	return all
}

// Socket is an open socket of an event.
type Socket struct {
	ListeningPort
	Item int // which of the event's details it is
}

// Known returns item i of the payload. An object of JSON 1.0 is read as an item of schema 3.0, where that has an event of this name; ok is
// false when it cannot be.
func (e *Event) Known(i int) (item Item, ok bool) {
	raw, is := e.Payload[i].(Raw)
	if !is {
		return e.Payload[i], true
	}
	if !slices.Contains(events3, e.Name) {
		return nil, false
	}
	item, err := itemOf(e.Name, raw)
	return item, err == nil
}

func first(ts ...text) text {
	for _, t := range ts {
		if t != "" {
			return t
		}
	}
	return ""
}

// hits is how many events an aggregated item of JSON 1.0 stands for.
func hits[T ~[]byte](raw T) uint64 {
	var v struct{ ExtraDetails json.RawMessage }
	var a aggregate
	if json.Unmarshal(raw, &v) == nil && json.Unmarshal(v.ExtraDetails, &a) == nil {
		if n, err := parseCount(string(a.HitCount)); err == nil && n > 0 {
			return n
		}
	}
	return 1
}

func parseCount(s string) (uint64, error) { return strconv.ParseUint(s, 10, 64) }
