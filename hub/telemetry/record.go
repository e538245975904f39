// Package telemetry takes device-to-cloud messages onto the log: messages of all
// connections are grouped into one append, acknowledged when it is on disk
// (design §2), and read back by those who follow the log.
package telemetry

import (
	"encoding/binary"
	"errors"
	"fmt"
	"time"

	"github.com/vauban-iot/vauban/iot"
	"github.com/vauban-iot/vauban/wire/bag"
)

// A log entry is a batch: a version byte, then records. A record is its length (four
// bytes, little-endian) and its fields: enqueued time (microseconds, varint),
// then strings as uvarint length and bytes: source, device, module,
// generation, auth method, model; system properties, application properties; the
// body takes the rest. Properties are a uvarint count and, for each, name, a byte that is 1 for null, and value.
const version = 1

// indexBits is the room for a record's place inside its entry: the hub-wide
// sequence of a message is entry<<indexBits | place.
const indexBits = 16

// Sequence joins an entry's place in the log and a record's place in the entry.
func Sequence(entry uint64, index int) uint64 { return entry<<indexBits | uint64(index) }

// ErrCorrupt is returned for entries that are not batches.
var ErrCorrupt = errors.New("telemetry: the log entry is not a readable batch")

func appendRecord(dst []byte, m *iot.Message) []byte {
	start := len(dst)
	dst = append(dst, 0, 0, 0, 0)
	dst = binary.AppendVarint(dst, m.Enqueued.UnixMicro())
	for _, s := range [...]string{string(m.Source), m.From.Device, m.From.Module, m.Generation, m.AuthMethod, m.ModelID} {
		dst = appendString(dst, s)
	}
	dst = appendProperties(dst, m.System)
	dst = appendProperties(dst, m.Properties)
	dst = append(dst, m.Body...)
	binary.LittleEndian.PutUint32(dst[start:], uint32(len(dst)-start-4))
	return dst
}

func appendString(dst []byte, s string) []byte {
	dst = binary.AppendUvarint(dst, uint64(len(s)))
	return append(dst, s...)
}

func appendProperties(dst []byte, props []bag.Property) []byte {
	dst = binary.AppendUvarint(dst, uint64(len(props)))
	for i := range props {
		dst = appendString(dst, props[i].Name)
		null := byte(0)
		if props[i].Null {
			null = 1
		}
		dst = append(dst, null)
		dst = appendString(dst, props[i].Value)
	}
	return dst
}

// Decode calls each for every message of a log entry, in order, with its
// sequence. The message is each's until it returns, and its body aliases entry; the texts may be kept. An error of each ends the walk.
func Decode(entrySequence uint64, entry []byte, each func(*iot.Message) error) error {
	if len(entry) == 0 || entry[0] != version {
		return ErrCorrupt
	}
	rest := entry[1:]
	var m iot.Message
	for i := 0; len(rest) > 0; i++ {
		if len(rest) < 4 {
			return ErrCorrupt
		}
		n := binary.LittleEndian.Uint32(rest)
		if uint64(n) > uint64(len(rest)-4) || i >= 1<<indexBits {
			return ErrCorrupt
		}
		c := cursor{rest[4 : 4+n]}
		var err error
		if m, err = c.message(); err != nil {
			return fmt.Errorf("%w: record %d: %w", ErrCorrupt, i, err)
		}
		m.Sequence = Sequence(entrySequence, i)
		if err := each(&m); err != nil {
			return err
		}
		rest = rest[4+n:]
	}
	return nil
}

// cursor reads a record and cannot over-read.
type cursor struct{ b []byte }

var errShort = errors.New("short field")

func (c *cursor) message() (iot.Message, error) {
	var m iot.Message
	micros, n := binary.Varint(c.b)
	if n <= 0 {
		return m, errShort
	}
	c.b = c.b[n:]
	m.Enqueued = time.UnixMicro(micros).UTC()
	var source string
	for _, s := range [...]*string{&source, &m.From.Device, &m.From.Module, &m.Generation, &m.AuthMethod, &m.ModelID} {
		var err error
		if *s, err = c.string(); err != nil {
			return m, err
		}
	}
	m.Source = iot.MessageSource(source)
	var err error
	if m.System, err = c.properties(); err != nil {
		return m, err
	}
	if m.Properties, err = c.properties(); err != nil {
		return m, err
	}
	m.Body = c.b
	return m, nil
}

func (c *cursor) uvarint() (uint64, error) {
	v, n := binary.Uvarint(c.b)
	if n <= 0 {
		return 0, errShort
	}
	c.b = c.b[n:]
	return v, nil
}

func (c *cursor) string() (string, error) {
	n, err := c.uvarint()
	if err != nil {
		return "", err
	}
	if n > uint64(len(c.b)) {
		return "", errShort
	}
	s := string(c.b[:n])
	c.b = c.b[n:]
	return s, nil
}

func (c *cursor) properties() ([]bag.Property, error) {
	n, err := c.uvarint()
	if err != nil {
		return nil, err
	}
	if n == 0 {
		return nil, nil
	}
	if n > uint64(len(c.b))/3 { // the smallest property takes three bytes
		return nil, errShort
	}
	props := make([]bag.Property, n)
	for i := range props {
		p := &props[i]
		if p.Name, err = c.string(); err != nil {
			return nil, err
		}
		if len(c.b) == 0 {
			return nil, errShort
		}
		p.Null = c.b[0] == 1
		c.b = c.b[1:]
		if p.Value, err = c.string(); err != nil {
			return nil, err
		}
	}
	return props, nil
}

// Batch is an entry of the given messages, for those who do not go through an [Intake]. It holds 65,536 at most.
func Batch(ms ...*iot.Message) []byte {
	b := []byte{version}
	for _, m := range ms {
		b = appendRecord(b, m)
	}
	return b
}

// EmptyBatch is an entry without messages: a mark in the log that readers skip.
func EmptyBatch() []byte { return []byte{version} }
