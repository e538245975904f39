// Package mqtt reads and writes MQTT 3.1.1 control packets for both ends of a connection,
// and the one MQTT 5 packet a 3.1.1 server needs to refuse a newer client.
//
// Reading goes in two steps: ParseHeader finds the packet's length, bounded by the caller,
// and one of the Parse functions reads the body once that many bytes are there. Appending
// needs no step in between. The functions keep no state and are safe for concurrent use.
//
// A string or password over MaxString bytes, or a packet whose remaining length is over
// MaxLength, has no encoding: the Append functions then return dst unchanged.
//
// Section numbers refer to the OASIS standard MQTT 3.1.1.
package mqtt

import (
	"errors"
	"fmt"
)

const (
	// MaxLength is the largest remaining length four bytes can express (§2.2.3).
	MaxLength = 268_435_455
	// MaxString is the longest string or binary field in bytes (§1.5.3).
	MaxString = 65_535
)

var (
	// ErrMalformed is returned for a packet that breaks MQTT 3.1.1: the connection is to be closed.
	ErrMalformed = errors.New("mqtt: malformed packet")
	// ErrTooLarge is returned by ParseHeader for a packet over the caller's limit.
	ErrTooLarge = errors.New("mqtt: packet too large")
	// ErrVersion is returned by ParseConnect for another protocol level; Connect.Level tells which.
	ErrVersion = errors.New("mqtt: protocol version not supported")
)

// Type is a control packet type (§2.2.1).
type Type byte

// The control packet types of table 2.1.
const (
	CONNECT     Type = 1
	CONNACK     Type = 2
	PUBLISH     Type = 3
	PUBACK      Type = 4
	PUBREC      Type = 5
	PUBREL      Type = 6
	PUBCOMP     Type = 7
	SUBSCRIBE   Type = 8
	SUBACK      Type = 9
	UNSUBSCRIBE Type = 10
	UNSUBACK    Type = 11
	PINGREQ     Type = 12
	PINGRESP    Type = 13
	DISCONNECT  Type = 14
)

var typeNames = [...]string{
	CONNECT: "CONNECT", CONNACK: "CONNACK", PUBLISH: "PUBLISH", PUBACK: "PUBACK", PUBREC: "PUBREC",
	PUBREL: "PUBREL", PUBCOMP: "PUBCOMP", SUBSCRIBE: "SUBSCRIBE", SUBACK: "SUBACK",
	UNSUBSCRIBE: "UNSUBSCRIBE", UNSUBACK: "UNSUBACK", PINGREQ: "PINGREQ", PINGRESP: "PINGRESP",
	DISCONNECT: "DISCONNECT",
}

// String is the standard's name, or Type(n) for the two reserved values.
func (t Type) String() string {
	if int(t) < len(typeNames) && typeNames[t] != "" {
		return typeNames[t]
	}
	return fmt.Sprintf("Type(%d)", byte(t))
}

func malformed(why string) error { return fmt.Errorf("%w: %s", ErrMalformed, why) }
