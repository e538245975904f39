package secmsg

import (
	"bytes"
	"encoding/binary"
	"encoding/hex"
	"math"
	"net/netip"
	"slices"
	"strconv"
	"strings"
)

// AppendFlatBuffers appends r as a board's security module sends it (schema 2.3, mti
// 2.3-1-0-0). It knows NetworkActivity, SystemInformation and Heartbeat and leaves other events
// out, as well as flows without both addresses or of other protocols than TCP, UDP and ICMP.
// IPv4 flows come before IPv6 ones. Numbers beyond the wire's width become its largest; an ID
// that is not 32 hex digits (dashes allowed) is sent as zeros.
func AppendFlatBuffers(dst []byte, r Report) []byte {
	b := &builder{buf: dst, base: len(dst)}
	root := b.zeros(4)
	var events []*Event
	for i := range r.Events {
		switch r.Events[i].Name {
		case "NetworkActivity", "SystemInformation", "Heartbeat":
			events = append(events, &r.Events[i])
		}
	}
	message := b.table(root, offset(0), number32(1, packVersion(r.AgentVersion)), offset(3))
	b.string(message[0], r.Agent)
	for i, at := range b.offsets(message[2], len(events)) {
		b.event(at, events[i])
	}
	return b.buf
}

func packVersion(s string) uint32 {
	var v [3]uint64
	for i, p := range strings.SplitN(s, ".", 3) {
		n, err := strconv.ParseUint(p, 10, [...]int{8, 8, 16}[i])
		if err != nil {
			return 0
		}
		v[i] = n
	}
	return uint32(v[0]<<24 | v[1]<<16 | v[2])
}

func (b *builder) event(at int, e *Event) {
	id := make([]byte, 16)
	if raw, err := hex.DecodeString(strings.ReplaceAll(e.ID, "-", "")); err == nil && len(raw) == len(id) {
		id = raw
	}
	kind := uint8(slices.Index(payloads, e.Name))
	seconds := e.Time.Unix()
	if e.Time.IsZero() {
		seconds = 0
	}
	t := b.table(at, field{id: 0, data: id}, number32(1, clamp32(seconds)), number32(2, clamp32(int64(e.Interval.Seconds()))), number8(3, kind), offset(4))
	switch e.Name {
	case "NetworkActivity":
		b.networkActivity(t[4], e.Flows)
	case "SystemInformation":
		var s SystemInformation
		for _, it := range e.Payload {
			if v, ok := it.(SystemInformation); ok {
				s = v
				break
			}
		}
		texts := []string{s.OS, s.Kernel, s.Hardware}
		var fs []field
		for i, v := range texts {
			if v != "" {
				fs = append(fs, offset(i))
			}
		}
		for i, at := range b.table(t[4], fs...) {
			b.string(at, texts[fs[i].id])
		}
	case "Heartbeat":
		b.table(t[4])
	}
}

func (b *builder) networkActivity(at int, flows []Flow) {
	var families [2][]*Flow
	for i := range flows {
		f := &flows[i]
		l, r := f.Local.Addr(), f.Remote.Addr()
		switch {
		case !l.IsValid() || !r.IsValid() || !slices.Contains(protocols, f.Protocol):
		case l.Is4() && r.Is4():
			families[0] = append(families[0], f)
		default:
			families[1] = append(families[1], f)
		}
	}
	var fs []field
	for id := range families {
		if len(families[id]) > 0 {
			fs = append(fs, offset(id))
		}
	}
	for i, at := range b.table(at, fs...) {
		family := families[fs[i].id]
		for j, at := range b.offsets(at, len(family)) {
			b.flow(at, family[j], fs[i].id == 1)
		}
	}
}

func (b *builder) flow(at int, f *Flow, v6 bool) {
	var addresses []byte
	for _, a := range []netip.Addr{f.Local.Addr(), f.Remote.Addr()} {
		if v6 {
			x := a.As16()
			addresses = append(addresses, x[:]...)
		} else {
			x := a.As4()
			addresses = append(addresses, x[:]...)
		}
	}
	t := b.table(at, field{id: 0, data: addresses, align: 4}, offset(1))
	fs := []field{
		number16(0, f.Local.Port()), number16(1, f.Remote.Port()),
		number32(2, uint32(min(f.BytesIn, math.MaxUint32))), number32(3, uint32(min(f.BytesOut, math.MaxUint32))),
		number8(4, uint8(slices.Index(protocols, f.Protocol))), number16(5, uint16(min(max(f.ProcessID, 0), math.MaxUint16))),
	}
	texts := []string{7: f.Executable, 8: f.CommandLine}
	for id, s := range texts {
		if s != "" {
			fs = append(fs, offset(id))
		}
	}
	for i, at := range b.table(t[1], fs...) {
		if s := texts[min(fs[i].id, len(texts)-1)]; fs[i].id >= 7 {
			b.string(at, s)
		}
	}
}

func clamp32(v int64) uint32 { return uint32(min(max(v, 0), math.MaxUint32)) }

// builder writes a FlatBuffer front to back: a table comes before what it points to, and
// its offsets are set once that is written. Nothing here needs more than four-byte alignment.
type builder struct {
	buf     []byte
	base    int
	vtables []int // where those are that were written: tables of the same shape share one
}

// field is a field of a table. One without data is left out, which is how zero is written.
type field struct {
	id    int
	data  []byte
	align int // zero: 1
}

func offset(id int) field { return field{id: id, data: make([]byte, 4), align: 4} }

func number8(id int, v uint8) field {
	if v == 0 {
		return field{id: id}
	}
	return field{id: id, data: []byte{v}}
}

func number16(id int, v uint16) field {
	if v == 0 {
		return field{id: id}
	}
	return field{id: id, data: binary.LittleEndian.AppendUint16(nil, v), align: 2}
}

func number32(id int, v uint32) field {
	if v == 0 {
		return field{id: id}
	}
	return field{id: id, data: binary.LittleEndian.AppendUint32(nil, v), align: 4}
}

func (b *builder) zeros(n int) int {
	at := len(b.buf)
	b.buf = append(b.buf, make([]byte, n)...)
	return at
}

func (b *builder) align(n int) { b.zeros((n - (len(b.buf)-b.base)%n) % n) }

// point sets the offset at from to the next aligned place.
func (b *builder) point(from int) {
	b.align(4)
	binary.LittleEndian.PutUint32(b.buf[from:], uint32(len(b.buf)-from))
}

// table writes a table that from points to and returns where its fields are.
func (b *builder) table(from int, fields ...field) []int {
	slots, size := 0, 4
	places := make([]int, len(fields))
	for i, f := range fields {
		if f.data == nil {
			continue
		}
		slots = max(slots, f.id+1)
		a := max(f.align, 1)
		size = (size + a - 1) / a * a
		places[i] = size
		size += len(f.data)
	}
	vtable := b.vtable(fields, places, slots, size)
	b.point(from)
	t := b.zeros(size)
	binary.LittleEndian.PutUint32(b.buf[t:], uint32(t-vtable))
	for i, f := range fields {
		if f.data == nil {
			continue
		}
		places[i] += t
		copy(b.buf[places[i]:], f.data)
	}
	return places
}

// vtable finds or writes the one that says where the fields of a table of so many slots are.
func (b *builder) vtable(fields []field, places []int, slots, size int) int {
	n, end := 4+2*slots, len(b.buf)
	if b.align(4); n%4 != 0 {
		b.zeros(2) // so that the table behind it is aligned
	}
	at := b.zeros(n)
	v := b.buf[at:]
	binary.LittleEndian.PutUint16(v, uint16(n))
	binary.LittleEndian.PutUint16(v[2:], uint16(size))
	for i, f := range fields {
		if f.data != nil {
			binary.LittleEndian.PutUint16(v[4+2*f.id:], uint16(places[i]))
		}
	}
	for _, known := range b.vtables {
		if w := b.buf[known:at]; len(w) >= n && bytes.Equal(w[:n], v) {
			b.buf = b.buf[:end]
			return known
		}
	}
	b.vtables = append(b.vtables, at)
	return at
}

// offsets writes a vector of n offsets that from points to and returns where they are.
func (b *builder) offsets(from, n int) []int {
	b.point(from)
	b.buf = binary.LittleEndian.AppendUint32(b.buf, uint32(n))
	first := b.zeros(4 * n)
	places := make([]int, n)
	for i := range places {
		places[i] = first + 4*i
	}
	return places
}

func (b *builder) string(from int, s string) {
	b.point(from)
	b.buf = binary.LittleEndian.AppendUint32(b.buf, uint32(len(s)))
	b.buf = append(b.buf, s...)
	b.buf = append(b.buf, 0)
}
