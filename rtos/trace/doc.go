// Package trace keeps what happens in a kernel in the form that Azure RTOS TraceX reads: a header, a registry of objects and a ring
// of events in a piece of the board's memory (rtos §16), whose bytes are the .trx file. It reads such files, too, those of other
// kernels included, and shows them as Chrome's trace events, which Perfetto draws.
//
// The same board with the same inputs writes the same bytes on any machine.
package trace

import "encoding/binary"

// The layout of a trace, in bytes.
const (
	HeaderSize = 48
	EntrySize  = 48 // of the registry
	EventSize  = 32
	NameSize   = 32 // of an object's name, with the zero that ends it
)

const (
	magic    = 0x54585442 // "TXTB"
	timeMask = 0xFFFFFFFF // time stamps are the low half of the cycle counter

	// Offsets in the header.
	atBase          = 8
	atRegistryStart = 12
	atNameSize      = 18
	atRegistryEnd   = 20
	atEventsStart   = 24
	atEventsEnd     = 28
	atCurrent       = 32
)

// The bits of Filter and Unfilter.
const (
	AllEvents       uint32 = 0x000007FF // all of the kernel's own
	InternalEvents  uint32 = 0x00000001 // of the scheduler, and interrupts
	BlockEvents     uint32 = 0x00000002
	ByteEvents      uint32 = 0x00000004
	EventFlagEvents uint32 = 0x00000008
	InterruptEvents uint32 = 0x00000010 // interrupt control
	MutexEvents     uint32 = 0x00000020
	QueueEvents     uint32 = 0x00000040
	SemaphoreEvents uint32 = 0x00000080
	ThreadEvents    uint32 = 0x00000100
	TimeEvents      uint32 = 0x00000200
	TimerEvents     uint32 = 0x00000400
	UserEvents      uint32 = 0x80000000
)

// filterOf is the bit that an event with this number belongs to. What is not the kernel's is the application's.
func filterOf(id uint32) uint32 {
	switch {
	case id >= 1 && id <= 6:
		return InternalEvents
	case id >= 10 && id <= 17:
		return BlockEvents
	case id >= 20 && id <= 27:
		return ByteEvents
	case id >= 30 && id <= 37:
		return EventFlagEvents
	case id == 40:
		return InterruptEvents
	case id >= 50 && id <= 57:
		return MutexEvents
	case id >= 60 && id <= 70:
		return QueueEvents
	case id >= 80 && id <= 89:
		return SemaphoreEvents
	case id >= 100 && id <= 117:
		return ThreadEvents
	case id == 120 || id == 121:
		return TimeEvents
	case id >= 122 && id <= 129:
		return TimerEvents
	}
	return UserEvents
}

// Order is the byte order of a board.
type Order interface {
	binary.ByteOrder
	String() string
}
