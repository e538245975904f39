package mqtt

import (
	"bytes"
	"encoding/binary"
	"unicode/utf8"
)

// cursor walks a packet body and cannot read past its end.
type cursor []byte

func (c *cursor) byte() (byte, bool) {
	if len(*c) < 1 {
		return 0, false
	}
	b := (*c)[0]
	*c = (*c)[1:]
	return b, true
}

func (c *cursor) uint16() (uint16, bool) {
	if len(*c) < 2 {
		return 0, false
	}
	v := binary.BigEndian.Uint16(*c)
	*c = (*c)[2:]
	return v, true
}

// field reads a length-prefixed field (§1.5.3); the result aliases the body.
func (c *cursor) field() ([]byte, bool) {
	n, ok := c.uint16()
	if !ok || len(*c) < int(n) {
		return nil, false
	}
	b := (*c)[:n:n]
	*c = (*c)[n:]
	return b, true
}

// text reads a field that must be a string: UTF-8 without U+0000 [MQTT-1.5.3-1, MQTT-1.5.3-2].
func (c *cursor) text() ([]byte, bool) {
	b, ok := c.field()
	if !ok || !utf8.Valid(b) || bytes.IndexByte(b, 0) >= 0 {
		return nil, false
	}
	return b, true
}

// packetID reads a packet identifier, which is never zero [MQTT-2.3.1-1].
func (c *cursor) packetID() (uint16, error) {
	id, ok := c.uint16()
	if !ok {
		return 0, malformed("no packet identifier")
	}
	if id == 0 {
		return 0, malformed("packet identifier 0")
	}
	return id, nil
}

func appendString(dst []byte, s string) []byte {
	dst = binary.BigEndian.AppendUint16(dst, uint16(len(s)))
	return append(dst, s...)
}

func appendField(dst, b []byte) []byte {
	dst = binary.BigEndian.AppendUint16(dst, uint16(len(b)))
	return append(dst, b...)
}
