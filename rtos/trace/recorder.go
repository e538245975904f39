package trace

import (
	"encoding/binary"

	"github.com/vauban-iot/vauban/rtos"
)

// Recorder is a board's event trace. Its methods are ThreadX's trace services and answer its statuses; called on a nil Recorder, as on
// a board that was built without tracing, they answer FeatureNotEnabled. They may be called by whoever may call
// the kernel, and, UserEvent and the two of interrupts aside, take none of its time.
type Recorder struct {
	k     *rtos.Kernel
	order Order

	buffer  []byte // nil: never enabled
	base    uint32 // the address of buffer[0]
	on      bool
	enabled uint32 // events that are kept
	entries int
	search  int // where the search for a free one starts
	start   int // of the ring, in buffer
	current int
	wraps   uint64
	full    func(trace []byte)
}

var _ rtos.Tracer = (*Recorder)(nil)

// NewRecorder makes the event trace of k's board, which is off. order is that of the board; nil: little endian.
func NewRecorder(k *rtos.Kernel, order Order) *Recorder {
	if order == nil {
		order = binary.LittleEndian
	}
	return &Recorder{k: k, order: order}
}

// Enable starts tracing into area, a piece of the board's memory as Reserve hands out, with room for registry objects: everything that
// exists is written there, and from then on what happens. It answers SizeError when the area does not hold a single event, and
// NotDone when tracing is on already. The recorder becomes the kernel's tracer.
func (r *Recorder) Enable(area rtos.Region, registry uint32) rtos.Status {
	switch {
	case r == nil:
		return rtos.FeatureNotEnabled
	case uint64(area.Size) < HeaderSize+EntrySize*uint64(registry)+EventSize:
		return rtos.SizeError
	case r.on:
		return rtos.NotDone
	}
	r.buffer = make([]byte, area.Size)
	r.base = area.Start
	r.enabled = 0xFFFFFFFF
	r.entries, r.search = int(registry), 0
	for i := range r.entries {
		r.buffer[HeaderSize+i*EntrySize] = 1 // available
	}
	r.start = HeaderSize + r.entries*EntrySize
	events := (len(r.buffer) - r.start) / EventSize
	r.buffer = r.buffer[:r.start+events*EventSize]
	r.current = r.start
	r.wraps = 0
	r.put(0, magic)
	r.put(4, timeMask)
	r.put(atBase, r.base)
	r.put(atRegistryStart, r.base+HeaderSize)
	r.order.PutUint16(r.buffer[atNameSize:], NameSize)
	r.put(atRegistryEnd, r.base+uint32(r.start))
	r.put(atEventsStart, r.base+uint32(r.start))
	r.put(atEventsEnd, r.base+uint32(len(r.buffer)))
	r.put(atCurrent, r.base+uint32(r.current))
	r.put(36, 0xAAAAAAAA)
	r.put(40, 0xBBBBBBBB)
	r.put(44, 0xCCCCCCCC)
	r.on = true
	r.k.SetTracer(r)
	// Two events that say who runs, so that the trace is not empty.
	running := rtos.Event{ID: rtos.EventRunning, Time: r.k.Now()}
	t := r.k.Current()
	switch s := r.k.SystemState(); {
	case s >= rtos.InitializeInProgress:
		running.Thread = rtos.ContextInitialization
	case s != 0 || t == nil:
		running.Thread = rtos.ContextISR
		if t != nil {
			running.Priority = t.Address()
		}
	default:
		p, threshold := t.Priority()
		running.Thread, running.Priority = t.Address(), 0x80000000|threshold<<16|p
	}
	r.Event(running)
	r.Event(running)
	return rtos.Success
}

// Disable ends tracing; Bytes has the trace still. It answers NotDone when tracing is off.
func (r *Recorder) Disable() rtos.Status {
	switch {
	case r == nil:
		return rtos.FeatureNotEnabled
	case !r.on:
		return rtos.NotDone
	}
	r.on = false
	r.k.SetTracer(nil)
	return rtos.Success
}

// Filter ends the keeping of events of these kinds.
func (r *Recorder) Filter(kinds uint32) rtos.Status {
	if r == nil {
		return rtos.FeatureNotEnabled
	}
	r.enabled &^= kinds
	return rtos.Success
}

// Unfilter begins to keep events of these kinds again.
func (r *Recorder) Unfilter(kinds uint32) rtos.Status {
	if r == nil {
		return rtos.FeatureNotEnabled
	}
	r.enabled |= kinds
	return rtos.Success
}

// FullNotify registers f, which is given the trace whenever the ring is full and about to begin again; nil for nobody. The bytes are the
// trace's own: f writes them away or copies them, and does not call the kernel.
func (r *Recorder) FullNotify(f func(trace []byte)) rtos.Status {
	if r == nil {
		return rtos.FeatureNotEnabled
	}
	r.full = f
	return rtos.Success
}

// UserEvent inserts an event of the application's own. It answers NotDone when tracing is off.
func (r *Recorder) UserEvent(id rtos.EventID, info1, info2, info3, info4 uint32) rtos.Status {
	switch {
	case r == nil:
		return rtos.FeatureNotEnabled
	case !r.on:
		return rtos.NotDone
	}
	return r.k.TraceEvent(id, [4]uint32{info1, info2, info3, info4})
}

// ISREnter says in the trace which interrupt began: the kernel tells of all with number 0.
func (r *Recorder) ISREnter(number uint32) { r.isr(rtos.EventISREnter, number) }

// ISRExit says in the trace which interrupt ended.
func (r *Recorder) ISRExit(number uint32) { r.isr(rtos.EventISRExit, number) }

func (r *Recorder) isr(id rtos.EventID, number uint32) {
	if r != nil && r.on {
		_ = r.k.TraceEvent(id, [4]uint32{0, number, r.k.SystemState(), 0})
	}
}

// Bytes is a copy of the trace, which is a .trx file; nil when tracing was never on.
func (r *Recorder) Bytes() []byte {
	if r == nil || r.buffer == nil {
		return nil
	}
	return append([]byte(nil), r.buffer...)
}

// Wraps says how often the ring began again since Enable.
func (r *Recorder) Wraps() uint64 { return r.wraps }

func (r *Recorder) put(at int, v uint32) { r.order.PutUint32(r.buffer[at:], v) }

// Event is called by the kernel.
func (r *Recorder) Event(e rtos.Event) {
	if !r.on || r.enabled&filterOf(uint32(e.ID)) == 0 {
		return
	}
	if e.Thread == 0 {
		e.Thread = rtos.ContextISR // zero marks what was never written
	}
	at := r.current
	for i, v := range [8]uint32{e.Thread, e.Priority, uint32(e.ID), uint32(e.Time), e.Info[0], e.Info[1], e.Info[2], e.Info[3]} {
		r.put(at+4*i, v)
	}
	r.current += EventSize
	wrapped := r.current == len(r.buffer)
	if wrapped {
		r.current = r.start
		r.wraps++
	}
	r.put(atCurrent, r.base+uint32(r.current))
	if wrapped && r.full != nil {
		r.full(r.buffer)
	}
}

// Created is called by the kernel. An object without a free entry has no name in the trace.
func (r *Recorder) Created(o rtos.ObjectInfo) {
	at := r.place(o.Address)
	if at < 0 {
		return
	}
	entry := r.buffer[at : at+EntrySize]
	clear(entry)
	entry[1] = byte(o.Kind)
	if o.Kind == rtos.KindThread {
		entry[2], entry[3] = 0x80|byte(o.Priority>>8), byte(o.Priority)
	}
	r.put(at+4, o.Address)
	r.put(at+8, o.Parameter1)
	r.put(at+12, o.Parameter2)
	copy(entry[16:16+NameSize-1], o.Name)
}

// place finds where an object is registered: where it was, or where nobody was yet, or, in need, where one was deleted.
func (r *Recorder) place(address uint32) int {
	if !r.on || r.entries == 0 {
		return -1
	}
	found, rank := -1, 0
	for n := range r.entries {
		i := (r.search + n) % r.entries
		at := HeaderSize + i*EntrySize
		fits := 0
		switch a := r.order.Uint32(r.buffer[at+4:]); {
		case a == address:
			fits = 3
		case a == 0:
			fits = 2
		case r.buffer[at] == 1:
			fits = 1
		}
		if fits > rank {
			found, rank = i, fits
		}
	}
	if found < 0 {
		return -1
	}
	r.search = (found + 1) % r.entries
	return HeaderSize + found*EntrySize
}

// Deleted is called by the kernel. The entry stays readable, for the events that name it, until it is needed.
func (r *Recorder) Deleted(address uint32) {
	if !r.on {
		return
	}
	for i := range r.entries {
		at := HeaderSize + i*EntrySize
		if r.order.Uint32(r.buffer[at+4:]) == address && r.buffer[at] == 0 {
			r.buffer[at] = 1
			r.search = i
			return
		}
	}
}
