package record

import (
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"hash/fnv"
	"slices"
	"sync"
	"time"

	"github.com/klauspost/compress/zstd"
)

// Block is many events packed together: a fleet says the same things again and again, so that a block is a small part of the
// size of its events, and is written and forgotten as one.
type Block struct {
	First, Last    Place     // of its events, which are in this order
	Oldest, Newest time.Time // of when they were enqueued
	Events         int
	Size           int64    // bytes of details
	Invalid        int      // how many could not be read
	Names          []string // of events, each once
	Devices        []uint64 // see [DeviceHash], each once, in order
	Data           []byte
}

// MaxBlock is how many events are packed into a block at most.
const MaxBlock = 4096

// maxUnpacked bounds what a block of the store may unfold to, in bytes. The largest event is a small part of it, see Blocks.
const maxUnpacked = 64 << 20

// blockForm is the first byte of unpacked data.
const blockForm = 1

var (
	packer   = must(zstd.NewWriter(nil, zstd.WithEncoderLevel(zstd.SpeedFastest), zstd.WithEncoderConcurrency(1)))
	unpacker = must(zstd.NewReader(nil, zstd.WithDecoderConcurrency(0), zstd.WithDecoderMaxMemory(maxUnpacked)))
)

// spare is a buffer for what is to be packed, kept from block to block: a pool would lose it at each collection of garbage. One larger than
// maxBuffer bytes is not kept.
var spare struct {
	sync.Mutex
	b []byte
}

const maxBuffer = 4 << 20

func takeSpare() []byte {
	spare.Lock()
	defer spare.Unlock()
	b := spare.b
	spare.b = nil
	return b[:0]
}

func putSpare(b []byte) {
	if cap(b) > maxBuffer {
		return
	}
	spare.Lock()
	spare.b = b
	spare.Unlock()
}

func must[T any](v T, err error) T {
	if err != nil {
		panic(err) // the options are constants
	}
	return v
}

// DeviceHash stands for a device in Block.Devices. Two may share one: then a block is read in vain.
func DeviceHash(device string) uint64 {
	h := fnv.New64a()
	_, _ = h.Write([]byte(device))
	return h.Sum64()
}

// Size is how many bytes of details e has, as the store counts them: an array of them.
func (e *Event) Size() int64 {
	n := int64(2)
	for i, d := range e.Details {
		if i > 0 {
			n++
		}
		n += int64(len(d))
	}
	return n
}

// Pack makes a block of 1 to MaxBlock events. Their times are kept to the microsecond.
func Pack(events []Event) Block {
	sorted := slices.IsSortedFunc(events, byPlace)
	if !sorted {
		events = slices.SortedFunc(slices.Values(events), byPlace)
	}
	b := Block{First: events[0].Place, Last: events[len(events)-1].Place, Oldest: events[0].Enqueued, Newest: events[0].Enqueued, Events: len(events)}
	devices := make(map[string]bool, len(events))
	raw := append(takeSpare(), blockForm)
	raw = binary.AppendUvarint(raw, uint64(len(events)))
	for i := range events {
		e := &events[i]
		raw = appendEvent(raw, e)
		if e.Enqueued.Before(b.Oldest) {
			b.Oldest = e.Enqueued
		}
		if e.Enqueued.After(b.Newest) {
			b.Newest = e.Enqueued
		}
		b.Size += e.Size()
		if e.Problem != "" {
			b.Invalid++
		}
		if !slices.Contains(b.Names, e.Name) {
			b.Names = append(b.Names, e.Name)
		}
		if !devices[e.Device] {
			devices[e.Device] = true
			b.Devices = append(b.Devices, DeviceHash(e.Device))
		}
	}
	slices.Sort(b.Devices)
	b.Devices = slices.Compact(b.Devices)
	b.Data = packer.EncodeAll(raw, nil)
	putSpare(raw)
	return b
}

// maxPacked is how many bytes of details are packed into a block, but for the event that reaches it.
const maxPacked = 8 << 20

// Blocks packs events into as many blocks as they need.
func Blocks(events []Event) []Block {
	var all []Block
	for len(events) > 0 {
		n, size := 0, int64(0)
		for n < min(len(events), MaxBlock) && size < maxPacked {
			size += events[n].Size()
			n++
		}
		all = append(all, Pack(events[:n]))
		events = events[n:]
	}
	return all
}

func byPlace(a, b Event) int { return a.Place.Compare(b.Place) }

func appendEvent(b []byte, e *Event) []byte {
	text := func(s string) {
		b = binary.AppendUvarint(b, uint64(len(s)))
		b = append(b, s...)
	}
	b = binary.AppendUvarint(b, e.Message)
	b = binary.AppendUvarint(b, uint64(e.Ordinal))
	b = binary.AppendVarint(b, e.Enqueued.UnixMicro())
	b = binary.AppendVarint(b, e.Time.UnixMicro())
	for _, s := range []string{e.Device, e.Module, e.ID, e.Name, e.Kind, e.Category, e.Agent, e.AgentVersion, e.Form, e.Problem} {
		text(s)
	}
	empty := byte(0)
	if e.Empty {
		empty = 1
	}
	b = append(b, empty, byte(e.Schema))
	b = binary.AppendUvarint(b, uint64(e.Left))
	b = binary.AppendUvarint(b, uint64(len(e.Notes)))
	for _, n := range e.Notes {
		text(n)
	}
	b = binary.AppendUvarint(b, uint64(len(e.Details)))
	for _, d := range e.Details {
		b = binary.AppendUvarint(b, uint64(len(d)))
		b = append(b, d...)
	}
	return b
}

// errBlock is the error of data that no Pack made.
var errBlock = errors.New("a block of security events is damaged")

// Unpack returns the events of a block's data, in the order of their places.
func Unpack(data []byte) ([]Event, error) {
	raw, err := unpacker.DecodeAll(data, nil)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", errBlock, err)
	}
	if len(raw) == 0 || raw[0] != blockForm {
		return nil, errBlock
	}
	r := blockReader{rest: raw[1:]}
	n := r.count(MaxBlock)
	events := make([]Event, 0, n)
	for range n {
		events = append(events, r.event())
		if r.broken {
			return nil, errBlock
		}
	}
	if r.broken || len(r.rest) != 0 {
		return nil, errBlock
	}
	return events, nil
}

// blockReader reads unpacked data; after the first fault it reads zeros.
type blockReader struct {
	rest   []byte
	broken bool
}

func (r *blockReader) fault() {
	r.broken, r.rest = true, nil
}

func (r *blockReader) uvarint() uint64 {
	v, n := binary.Uvarint(r.rest)
	if n <= 0 {
		r.fault()
		return 0
	}
	r.rest = r.rest[n:]
	return v
}

func (r *blockReader) micros() time.Time {
	v, n := binary.Varint(r.rest)
	if n <= 0 {
		r.fault()
		return time.Time{}
	}
	r.rest = r.rest[n:]
	if v == (time.Time{}).UnixMicro() {
		return time.Time{}
	}
	return time.UnixMicro(v).UTC()
}

// count reads a number of things, each of which needs a byte at least.
func (r *blockReader) count(most int) int {
	n := r.uvarint()
	if n > uint64(min(most, len(r.rest))) {
		r.fault()
		return 0
	}
	return int(n)
}

func (r *blockReader) bytes() []byte {
	n := r.uvarint()
	if n > uint64(len(r.rest)) {
		r.fault()
		return nil
	}
	b := r.rest[:n:n]
	r.rest = r.rest[n:]
	return b
}

func (r *blockReader) byte() byte {
	if len(r.rest) == 0 {
		r.fault()
		return 0
	}
	b := r.rest[0]
	r.rest = r.rest[1:]
	return b
}

func (r *blockReader) event() (e Event) {
	e.Message = r.uvarint()
	ordinal := r.uvarint()
	if ordinal > 1<<31 {
		r.fault()
	}
	e.Ordinal = int(ordinal)
	e.Enqueued, e.Time = r.micros(), r.micros()
	for _, s := range []*string{&e.Device, &e.Module, &e.ID, &e.Name, &e.Kind, &e.Category, &e.Agent, &e.AgentVersion, &e.Form, &e.Problem} {
		*s = string(r.bytes())
	}
	e.Empty, e.Schema = r.byte() == 1, Schema(r.byte())
	e.Left = int(r.uvarint() & (1<<31 - 1))
	for range r.count(len(r.rest)) {
		e.Notes = append(e.Notes, string(r.bytes()))
	}
	for range r.count(len(r.rest)) {
		e.Details = append(e.Details, json.RawMessage(slices.Clone(r.bytes())))
	}
	return e
}
