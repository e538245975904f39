package secmsg

import (
	"bytes"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"net/netip"
	"slices"
	"strconv"
	"time"
)

// The JSON form of the FlatBuffers schema (mti encoding 0): members are the field names,
// enums and union types names or numbers, addresses the little-endian words of the other form
// (defender §1.2). No device is known to send it; it serves for debugging.
//
// Schema 3.0, which the Linux agent sends, has the same envelope, but for an id and a version that are texts, and a payload
// that is a list of items, each in the form of EventDetails (docs/agent-wire.md).

type enum string

func (e *enum) parse(names []string, data []byte) error {
	var s string
	if json.Unmarshal(data, &s) == nil {
		*e = enum(s)
		return nil
	}
	n, err := strconv.ParseUint(string(data), 10, 8)
	if err != nil {
		return fmt.Errorf("%s is neither a name nor a small number", quote(string(data)))
	}
	*e = enum(enumName(names, uint8(n)))
	return nil
}

type protocolEnum struct{ enum }

func (p *protocolEnum) UnmarshalJSON(data []byte) error { return p.parse(protocols, data) }

func (p protocolEnum) name() string {
	if p.enum == "" {
		return protocols[0]
	}
	return protocolName(string(p.enum))
}

type payloadEnum struct{ enum }

func (p *payloadEnum) UnmarshalJSON(data []byte) error { return p.parse(payloads, data) }

type words []uint32

// UnmarshalJSON takes a number or a list of four.
func (w *words) UnmarshalJSON(data []byte) error {
	var one uint32
	if json.Unmarshal(data, &one) == nil {
		*w = words{one}
		return nil
	}
	return json.Unmarshal(data, (*[]uint32)(w))
}

func (w words) addr() netip.Addr {
	var b []byte
	for _, v := range w {
		b = binary.LittleEndian.AppendUint32(b, v)
	}
	a, _ := netip.AddrFromSlice(b)
	return a
}

// maxItems3 is how many items a message of schema 3.0 may hold; a message of MaxSize has not the room for as many that say something.
const maxItems3 = 1 << 14

type schemaMessage struct {
	ID      string            `json:"security_module_id"`
	Version moduleVersion     `json:"security_module_version"`
	Events  []json.RawMessage `json:"events"`
}

type moduleVersion string

// UnmarshalJSON takes a text, or the number of the other form: one byte, one byte, two bytes.
func (m *moduleVersion) UnmarshalJSON(data []byte) error {
	if len(data) > 0 && data[0] == '"' {
		return json.Unmarshal(data, (*string)(m))
	}
	var v uint32
	err := json.Unmarshal(data, &v)
	if v != 0 {
		*m = moduleVersion(fmt.Sprintf("%d.%d.%d", v>>24, v>>16&0xff, v&0xffff))
	}
	return err
}

type eventID string

// UnmarshalJSON takes a text, or the bytes of the other form as a list of numbers.
func (id *eventID) UnmarshalJSON(data []byte) error {
	if len(data) > 0 && data[0] == '"' {
		return json.Unmarshal(data, (*string)(id))
	}
	var list struct {
		Value []uint16 `json:"value"`
	}
	if err := json.Unmarshal(data, &list); err != nil {
		return err
	}
	if b := make([]byte, 16); len(list.Value) == len(b) {
		for i, n := range list.Value {
			b[i] = byte(n)
		}
		if slices.ContainsFunc(b, func(b byte) bool { return b != 0 }) {
			*id = eventID(hex.EncodeToString(b))
		}
	}
	return nil
}

type schemaEvent struct {
	ID       eventID         `json:"id"`
	Time     uint32          `json:"time"`
	Interval uint32          `json:"collection_interval"`
	Type     payloadEnum     `json:"payload_type"`
	Payload  json.RawMessage `json:"payload"`
}

type schemaFlow struct {
	Addresses struct {
		Local  words `json:"local_address"`
		Remote words `json:"remote_address"`
	} `json:"addresses"`
	Common struct {
		LocalPort   uint16       `json:"local_port"`
		RemotePort  uint16       `json:"remote_port"`
		In          uint32       `json:"bytes_in"`
		Out         uint32       `json:"bytes_out"`
		Protocol    protocolEnum `json:"protocol"`
		ProcessID   uint16       `json:"process_id"`
		UserID      uint16       `json:"user_id"`
		Executable  string       `json:"executable"`
		CommandLine string       `json:"commandline"`
	} `json:"common"`
}

type schemaPort struct {
	Local  words `json:"local_address"`
	Common struct {
		Port     uint16       `json:"local_port"`
		Protocol protocolEnum `json:"protocol"`
	} `json:"common"`
}

func (r *Report) decodeSchemaJSON(body []byte) error {
	var m schemaMessage
	if err := json.Unmarshal(body, &m); err != nil {
		return jsonError(err)
	}
	r.Agent = m.ID
	r.AgentVersion = string(m.Version)
	room := maxItems3
	for _, raw := range m.Events {
		e, err := r.schemaJSONEvent(raw, &room)
		if err != nil {
			r.skip("an event was left out: %v", err)
			continue
		}
		r.Events = append(r.Events, e)
	}
	return nil
}

func (r *Report) schemaJSONEvent(raw json.RawMessage, room *int) (Event, error) {
	var v schemaEvent
	if err := json.Unmarshal(raw, &v); err != nil {
		return Event{}, jsonError(err)
	}
	e := Event{
		ID: string(v.ID), Name: string(v.Type.enum), Time: time.Unix(int64(v.Time), 0).UTC(), Interval: time.Duration(v.Interval) * time.Second,
	}
	var err error
	if p := bytes.TrimLeft(v.Payload, " \t\r\n"); len(p) > 0 && p[0] == '[' || slices.Contains(events3, e.Name) {
		err = r.items3(&e, p, room)
	} else {
		err = e.schemaPayload(v.Payload)
	}
	if err != nil {
		return Event{}, jsonError(err)
	}
	e.Empty = len(e.Flows) == 0 && len(e.Checks) == 0 && len(e.Payload) == 0
	return e, nil
}

// items3 reads the list of items of schema 3.0. Items that cannot be read are left out and counted.
func (r *Report) items3(e *Event, list json.RawMessage, room *int) error {
	if !knownEvent(e.Name) {
		return fmt.Errorf("its payload is of the unknown type %s", quote(e.Name))
	}
	var items []json.RawMessage
	if len(list) > 0 {
		if err := json.Unmarshal(list, &items); err != nil {
			return err
		}
	}
	for i, item := range items {
		if *room--; *room < 0 {
			r.skip("%d items of %s were left out: a message holds at most %d", len(items)-i, quote(e.Name), maxItems3)
			return nil
		}
		if err := e.detail(item); err != nil {
			r.skip("an item of %s was left out: %v", quote(e.Name), err)
		}
	}
	for i := range e.Flows {
		f := &e.Flows[i]
		f.Local, f.Remote = plain(f.Local), plain(f.Remote)
	}
	return nil
}

// plain takes IPv4 out of IPv6 and the zone away.
func plain(a netip.AddrPort) netip.AddrPort {
	return netip.AddrPortFrom(a.Addr().Unmap().WithZone(""), a.Port())
}

func (e *Event) schemaPayload(raw json.RawMessage) error {
	if len(raw) == 0 {
		raw = json.RawMessage("{}")
	}
	switch e.Name {
	case "NetworkActivity":
		var p struct {
			V4 []schemaFlow `json:"ipv4_activity"`
			V6 []schemaFlow `json:"ipv6_activity"`
		}
		if err := json.Unmarshal(raw, &p); err != nil {
			return err
		}
		for _, f := range append(p.V4, p.V6...) {
			c := &f.Common
			local, remote := f.Addresses.Local.addr(), f.Addresses.Remote.addr()
			if !local.IsValid() || !remote.IsValid() {
				return fmt.Errorf("a flow has an address of %d or %d words", len(f.Addresses.Local), len(f.Addresses.Remote))
			}
			e.Flows = append(e.Flows, Flow{
				Local: netip.AddrPortFrom(local, c.LocalPort), Remote: netip.AddrPortFrom(remote, c.RemotePort),
				Protocol: c.Protocol.name(), Direction: direction(uint64(c.In), uint64(c.Out)), BytesIn: uint64(c.In), BytesOut: uint64(c.Out),
				ProcessID: int64(c.ProcessID), UserID: uint32(c.UserID), Executable: c.Executable, CommandLine: c.CommandLine, Item: len(e.Flows),
			})
		}
	case "ListeningPorts":
		var p struct {
			V4 []schemaPort `json:"ipv4_ports"`
			V6 []schemaPort `json:"ipv6_ports"`
		}
		if err := json.Unmarshal(raw, &p); err != nil {
			return err
		}
		for _, l := range append(p.V4, p.V6...) {
			e.Payload = append(e.Payload, ListeningPort{Local: netip.AddrPortFrom(l.Local.addr(), l.Common.Port), Protocol: l.Common.Protocol.name()})
		}
	case "SystemInformation":
		var s SystemInformation
		if err := json.Unmarshal(raw, &s); err != nil {
			return err
		}
		if !s.IsZero() {
			e.Payload = []Item{s}
		}
	case "Heartbeat":
	case "Baseline":
		var p struct {
			Checks []BaselineCheck `json:"baseline_checks"`
		}
		err := json.Unmarshal(raw, &p)
		e.Checks = p.Checks
		return err
	case "Process":
		p := Process{EventType: processEvents[0], HitCount: 1}
		err := json.Unmarshal(raw, &p)
		e.Payload = []Item{p}
		return err
	case "Log":
		var p struct {
			Logs []Record `json:"logs"`
		}
		err := json.Unmarshal(raw, &p)
		for _, l := range p.Logs {
			e.Payload = append(e.Payload, l)
		}
		return err
	default:
		return fmt.Errorf("its payload is of the unknown type %s", quote(e.Name))
	}
	return nil
}
