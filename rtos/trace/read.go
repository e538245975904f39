package trace

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"

	"github.com/vauban-iot/vauban/rtos"
)

// MaxSize bounds what Parse reads: more than any board's memory.
const MaxSize = 256 << 20

// Trace is what a .trx file says.
type Trace struct {
	Order   Order
	Objects []Object // registered ones, in the registry's order
	Events  []Event  // oldest first
	Free    int      // events that would fit still; 0 once the ring began again
}

// Object is one entry of the registry.
type Object struct {
	Kind       rtos.ObjectKind
	Address    uint32
	Name       string
	Parameter1 uint32
	Parameter2 uint32
	Priority   uint32 // of a thread, when it was registered
	Deleted    bool
}

// Event is one event. Time is in the trace's ticks since the oldest event: time stamps are 32 bits wide, so that two events further apart
// than that seem closer.
type Event struct {
	rtos.Event
	Stamp uint32 // the time stamp as it stands in the file
}

// ErrFormat is wrapped by what Parse returns for bytes that are no trace.
var ErrFormat = errors.New("not a TraceX file")

func malformed(format string, args ...any) error {
	return fmt.Errorf("%w: %s", ErrFormat, fmt.Sprintf(format, args...))
}

// Parse reads a .trx file of either byte order. It takes memory in proportion to the file's events, and believes none
// of the file's pointers.
func Parse(b []byte) (*Trace, error) {
	switch {
	case len(b) > MaxSize:
		return nil, malformed("%d bytes, at most %d are read", len(b), MaxSize)
	case len(b) < HeaderSize+EventSize:
		return nil, malformed("%d bytes do not hold a header and an event", len(b))
	}
	t := &Trace{Order: binary.LittleEndian}
	if binary.BigEndian.Uint32(b) == magic {
		t.Order = binary.BigEndian
	}
	u32 := func(at int) uint32 { return t.Order.Uint32(b[at:]) }
	if u32(0) != magic {
		return nil, malformed("it begins with %x instead of TXTB", b[:4])
	}
	base := u32(atBase)
	place := func(at int, name string) (int, error) {
		offset := u32(at) - base // pointers are 32 bits wide and may wrap
		if int64(offset) < HeaderSize || int64(offset) > int64(len(b)) {
			return 0, malformed("the %s at offset %d points outside of the file", name, at)
		}
		return int(offset), nil
	}
	var at [5]int
	for i, p := range []struct {
		at   int
		name string
	}{{atRegistryStart, "registry's start"}, {atRegistryEnd, "registry's end"}, {atEventsStart, "ring's start"}, {atEventsEnd, "ring's end"}, {atCurrent, "current event"}} {
		var err error
		if at[i], err = place(p.at, p.name); err != nil {
			return nil, err
		}
	}
	registry, registryEnd, start, end, current := at[0], at[1], at[2], at[3], at[4]
	nameSize := int(t.Order.Uint16(b[atNameSize:]))
	entrySize := EntrySize - NameSize + nameSize
	switch {
	case nameSize == 0:
		return nil, malformed("object names have no room")
	case registryEnd < registry || (registryEnd-registry)%entrySize != 0:
		return nil, malformed("the registry's %d bytes are not made of entries of %d", registryEnd-registry, entrySize)
	case registryEnd > start:
		return nil, malformed("the registry reaches into the ring of events")
	case end <= start || (end-start)%EventSize != 0:
		return nil, malformed("the ring's %d bytes are not made of events of %d", end-start, EventSize)
	case current < start || current >= end || (current-start)%EventSize != 0:
		return nil, malformed("the current event is not in the ring")
	}
	for at := registry; at < registryEnd; at += entrySize {
		if address := u32(at + 4); address != 0 {
			t.Objects = append(t.Objects, object(t.Order, b[at:at+entrySize]))
		}
	}
	written := 0
	for at := start; at < end; at += EventSize {
		if u32(at) != 0 && u32(at+8) != 0xFFFFFFFF {
			written++
		}
	}
	t.Free = (end-start)/EventSize - written
	t.Events = make([]Event, 0, written)
	var now rtos.Cycles
	var last uint32
	mask := u32(4)
	for n := 0; n < end-start; n += EventSize {
		at := start + (current-start+n)%(end-start)
		if u32(at) == 0 || u32(at+8) == 0xFFFFFFFF {
			continue
		}
		e := Event{Stamp: u32(at + 12)}
		if len(t.Events) > 0 {
			now += rtos.Cycles((e.Stamp - last) & mask)
		}
		last = e.Stamp
		e.Event = rtos.Event{ID: rtos.EventID(u32(at + 8)), Time: now, Thread: u32(at), Priority: u32(at + 4)}
		for i := range e.Info {
			e.Info[i] = u32(at + 16 + 4*i)
		}
		t.Events = append(t.Events, e)
	}
	return t, nil
}

func object(order Order, b []byte) Object {
	name, _, _ := bytes.Cut(b[16:], []byte{0})
	o := Object{
		Deleted: b[0] != 0, Kind: rtos.ObjectKind(b[1]), Address: order.Uint32(b[4:]),
		Parameter1: order.Uint32(b[8:]), Parameter2: order.Uint32(b[12:]), Name: string(bytes.ToValidUTF8(name, []byte("?"))),
	}
	if b[2]&0x80 != 0 {
		o.Priority = uint32(b[2]&0x7F)<<8 | uint32(b[3])
	}
	return o
}
