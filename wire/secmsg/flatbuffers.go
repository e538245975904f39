package secmsg

import (
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"time"
)

// What a body may unfold to. Offsets may share their targets, so that a few bytes could stand
// for billions of flows; these are beyond what MaxSize bytes hold without sharing.
const (
	maxItems = 1 << 16 // tables and elements of vectors; an unshared flow takes 24 bytes and counts 3
	maxText  = 1 << 20 // bytes of strings
)

// buffer reads a FlatBuffer and checks each step before it is taken. The first failure
// stays in err; afterwards every reading is zero and every vector empty.
type buffer struct {
	b     []byte
	items int
	text  int
	err   error
}

func (r *buffer) fail(at int, format string, args ...any) {
	if r.err == nil {
		r.err = &MalformedError{Offset: at, Reason: fmt.Sprintf(format, args...)}
	}
}

// span reports whether n bytes at at lie in the buffer.
func (r *buffer) span(at, n int) bool {
	if r.err != nil {
		return false
	}
	if at < 0 || n < 0 || n > len(r.b) || at > len(r.b)-n {
		r.fail(at, "%d bytes reach beyond the end of the message", n)
		return false
	}
	return true
}

func (r *buffer) u16(at int) uint16 {
	if !r.span(at, 2) {
		return 0
	}
	return binary.LittleEndian.Uint16(r.b[at:])
}

func (r *buffer) u32(at int) uint32 {
	if !r.span(at, 4) {
		return 0
	}
	return binary.LittleEndian.Uint32(r.b[at:])
}

// length reads a uint32 that cannot honestly exceed the message.
func (r *buffer) length(at int) int {
	n := r.u32(at)
	if uint64(n) > uint64(len(r.b)) {
		r.fail(at, "%d is more than the message holds", n)
		return 0
	}
	return int(n)
}

// follow reads an offset, which points forward.
func (r *buffer) follow(at int) int {
	n := r.length(at)
	if n == 0 {
		r.fail(at, "an offset points to itself")
	}
	return at + n
}

func (r *buffer) charge(at, n int) bool {
	if r.err != nil {
		return false
	}
	if n > maxItems-r.items {
		r.fail(at, "more than %d tables and elements", maxItems)
		return false
	}
	r.items += n
	return true
}

// table is a table whose vtable and extent were checked. The zero table has no fields.
type table struct {
	r      *buffer
	pos    int
	vtable int
	slots  int // fields the vtable knows
	size   int // bytes of the table
}

func (r *buffer) table(at int) table {
	none := table{r: r, pos: at}
	if !r.charge(at, 1) || !r.span(at, 4) {
		return none
	}
	vt := int64(at) - int64(int32(r.u32(at)))
	if vt < 0 || vt > int64(len(r.b)-4) {
		r.fail(at, "the vtable lies outside of the message")
		return none
	}
	v := int(vt)
	n, size := int(r.u16(v)), int(r.u16(v+2))
	if n < 4 || n%2 != 0 {
		r.fail(v, "a vtable of %d bytes", n)
		return none
	}
	if size < 4 {
		r.fail(v+2, "a table of %d bytes", size)
		return none
	}
	if !r.span(v, n) || !r.span(at, size) {
		return none
	}
	return table{r: r, pos: at, vtable: v, slots: (n - 4) / 2, size: size}
}

// field finds field id of n bytes; ok is false when it is absent.
func (t table) field(id, n int) (at int, ok bool) {
	if t.r.err != nil || id >= t.slots {
		return 0, false
	}
	slot := t.vtable + 4 + 2*id
	o := int(t.r.u16(slot))
	if o == 0 {
		return 0, false
	}
	if o < 4 || o > t.size-n {
		t.r.fail(slot, "field %d lies outside of its table", id)
		return 0, false
	}
	return t.pos + o, true
}

func (t table) required(id, n int, name string) int {
	at, ok := t.field(id, n)
	if !ok {
		t.r.fail(t.pos, "%s is missing", name)
	}
	return at
}

func (t table) u8(id int) uint8 {
	if at, ok := t.field(id, 1); ok {
		return t.r.b[at]
	}
	return 0
}

func (t table) u16(id int) uint16 {
	if at, ok := t.field(id, 2); ok {
		return t.r.u16(at)
	}
	return 0
}

func (t table) u32(id int, def uint32) uint32 {
	if at, ok := t.field(id, 4); ok {
		return t.r.u32(at)
	}
	return def
}

func (t table) u64(id int) uint64 {
	if at, ok := t.field(id, 8); ok {
		return binary.LittleEndian.Uint64(t.r.b[at:])
	}
	return 0
}

func (t table) string(id int) string {
	if at, ok := t.field(id, 4); ok {
		return t.r.string(t.r.follow(at))
	}
	return ""
}

func (t table) requiredString(id int, name string) string {
	return t.r.string(t.r.follow(t.required(id, 4, name)))
}

func (r *buffer) string(at int) string {
	n := r.length(at)
	if !r.span(at+4, n) {
		return ""
	}
	if n > maxText-r.text {
		r.fail(at, "more than %d bytes of text", maxText)
		return ""
	}
	r.text += n
	return strings.ToValidUTF8(string(r.b[at+4:at+4+n]), "\uFFFD")
}

// vector returns the place of the first element and their number; each takes size bytes.
func (r *buffer) vector(at, size int) (first, n int) {
	n = r.length(at)
	if !r.charge(at, n) || !r.span(at+4, n*size) {
		return 0, 0
	}
	return at + 4, n
}

// vector returns the vector that field id points to; absent is empty.
func (t table) vector(id, size int) (first, n int) {
	at, ok := t.field(id, 4)
	if !ok {
		return 0, 0
	}
	return t.r.vector(t.r.follow(at), size)
}

func (r *Report) decodeFlatBuffers(body []byte) error {
	b := &buffer{b: body}
	m := b.table(b.follow(0))
	r.Agent = m.requiredString(0, "security_module_id")
	if v := m.u32(1, 0); v != 0 {
		r.AgentVersion = fmt.Sprintf("%d.%d.%d", v>>24, v>>16&0xff, v&0xffff)
	}
	first, n := b.vector(b.follow(m.required(3, 4, "events")), 4)
	if b.err != nil {
		return b.err
	}
	r.Events = make([]Event, 0, n)
	for i := range n {
		r.event(b.table(b.follow(first + 4*i)))
		if b.err != nil {
			return b.err
		}
	}
	return nil
}

func (r *Report) event(t table) {
	id := t.required(0, 16, "the event's id")
	kind := t.u8(3)
	if t.r.err != nil {
		return
	}
	if kind == 0 || int(kind) >= len(payloads) {
		r.skip("an event's payload is of the unknown type %d", kind)
		return
	}
	e := Event{
		Name:     payloads[kind],
		Time:     time.Unix(int64(t.u32(1, 0)), 0).UTC(),
		Interval: time.Duration(t.u32(2, 0)) * time.Second,
	}
	if raw := [16]byte(t.r.b[id:]); raw != [16]byte{} {
		e.ID = hex.EncodeToString(raw[:])
	}
	p := t.r.table(t.r.follow(t.required(4, 4, "the event's payload")))
	switch e.Name {
	case "NetworkActivity":
		e.networkActivity(p)
		e.Empty = len(e.Flows) == 0
	case "SystemInformation":
		s := SystemInformation{OS: p.string(0), Kernel: p.string(1), Hardware: p.string(2)}
		if e.Empty = s.IsZero(); !e.Empty {
			e.Payload = []Item{s}
		}
	case "ListeningPorts":
		e.listeningPorts(p)
		e.Empty = len(e.Payload) == 0
	case "Heartbeat":
		e.Empty = true
	case "Baseline":
		e.baseline(p)
		e.Empty = len(e.Checks) == 0
	case "Process":
		e.Payload = []Item{Process{
			Executable: p.string(0), ProcessID: p.u32(1, 0), ParentProcessID: p.u32(2, 0), UserID: p.u32(3, 0),
			UserName: p.string(4), CommandLine: p.string(5), EventType: enumName(processEvents, p.u8(6)), HitCount: p.u32(7, 1),
		}}
	case "Log":
		e.log(p)
		e.Empty = len(e.Payload) == 0
	}
	r.Events = append(r.Events, e)
}

// manyFlows is as many of each family as an agent's cache holds (defender §3.1); there is room for no more before they are read.
const manyFlows = 64

func (e *Event) networkActivity(p table) {
	b := p.r
	for id, size := range [...]int{4, 16} { // ipv4_activity, ipv6_activity
		first, n := p.vector(id, 4)
		e.Flows = slices.Grow(e.Flows, min(n, manyFlows))
		for i := range n {
			t := b.table(b.follow(first + 4*i))
			at := t.required(0, 2*size, "the addresses of a flow")
			c := b.table(b.follow(t.required(1, 4, "the common part of a flow")))
			in, out := uint64(c.u32(2, 0)), uint64(c.u32(3, 0))
			f := Flow{
				Protocol: enumName(protocols, c.u8(4)), Direction: direction(in, out), BytesIn: in, BytesOut: out,
				ProcessID: int64(c.u16(5)), UserID: uint32(c.u16(6)), Executable: c.string(7), CommandLine: c.string(8),
				Item: len(e.Flows),
			}
			local, remote := c.u16(0), c.u16(1)
			if b.err != nil {
				return
			}
			f.Local = netip.AddrPortFrom(b.addr(at, size), local)
			f.Remote = netip.AddrPortFrom(b.addr(at+size, size), remote)
			e.Flows = append(e.Flows, f)
		}
	}
}

// addr reads an address of size bytes, in network order as they stand (defender §1.2).
// The caller has checked the extent.
func (r *buffer) addr(at, size int) netip.Addr {
	a, _ := netip.AddrFromSlice(r.b[at : at+size])
	return a
}

func (e *Event) listeningPorts(p table) {
	b := p.r
	for id, size := range [...]int{4, 16} {
		stride := size + 4 // the address, uint16 port, int8 protocol, a byte of padding
		first, n := p.vector(id, stride)
		for i := range n {
			at := first + i*stride
			e.Payload = append(e.Payload, ListeningPort{
				Local:    netip.AddrPortFrom(b.addr(at, size), b.u16(at+size)),
				Protocol: enumName(protocols, b.b[at+size+2]),
			})
		}
	}
}

func (e *Event) baseline(p table) {
	b := p.r
	first, n := p.vector(0, 4)
	for i := range n {
		t := b.table(b.follow(first + 4*i))
		c := BaselineCheck{
			ID: t.requiredString(0, "the id of a baseline check"), Result: enumName(results, t.u8(1)), Error: t.string(2),
			Description: t.string(3), Severity: enumName(severities, t.u8(4)), Remediation: t.string(5),
		}
		if b.err != nil {
			return
		}
		e.Checks = append(e.Checks, c)
	}
}

func (e *Event) log(p table) {
	b := p.r
	first, n := p.vector(0, 4)
	for i := range n {
		t := b.table(b.follow(first + 4*i))
		l := Record{
			Message: t.requiredString(0, "the message of a log record"), Level: enumName(levels, t.u8(1)),
			Timestamp: t.u64(2), Line: t.u32(3, 0), File: t.requiredString(4, "the filename of a log record"),
		}
		if b.err != nil {
			return
		}
		e.Payload = append(e.Payload, l)
	}
}
