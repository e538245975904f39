package mqtt

import (
	"bytes"
	"encoding/binary"
	"fmt"
)

// Connect is a CONNECT packet (§3.1). KeepAlive is in seconds, 0 for none.
// When appending, an empty Protocol means "MQTT" and Level 0 means 4.
type Connect struct {
	Protocol     string
	Level        byte
	CleanSession bool
	KeepAlive    uint16
	ClientID     string
	Will         *Will // nil: no will
	Username     string
	HasUsername  bool
	Password     []byte
	HasPassword  bool
}

// Will is the message published when the connection ends without DISCONNECT (§3.1.2.5).
type Will struct {
	Topic   string
	Payload []byte
	QoS     byte
	Retain  bool
}

// Level4 is the protocol level of MQTT 3.1.1 (§3.1.2.2).
const Level4 = 4

// Connect flags of §3.1.2.3; the will's QoS takes the two bits above flagWill.
const (
	flagReserved     = 1 << 0
	flagCleanSession = 1 << 1
	flagWill         = 1 << 2
	shiftWillQoS     = 3
	flagWillRetain   = 1 << 5
	flagPassword     = 1 << 6
	flagUsername     = 1 << 7
)

// ParseConnect reads the body of a CONNECT. The result does not alias body.
//
// Another level than 4, and the MQIsdp of MQTT 3.1, return ErrVersion with only Protocol and
// Level set, so that the server can refuse in words the client knows. Everything else that
// breaks §3.1 returns ErrMalformed and the zero Connect. An empty client id is accepted here.
func ParseConnect(body []byte) (Connect, error) {
	cur := cursor(body)
	protocol, ok := cur.text()
	if !ok || string(protocol) != "MQTT" && string(protocol) != "MQIsdp" {
		return Connect{}, malformed("protocol name")
	}
	level, ok := cur.byte()
	if !ok {
		return Connect{}, malformed("no protocol level")
	}
	c := Connect{Protocol: string(protocol), Level: level}
	if c.Protocol != "MQTT" || level != Level4 {
		return c, fmt.Errorf("%w: %s level %d", ErrVersion, c.Protocol, level)
	}
	flags, ok := cur.byte()
	if !ok {
		return Connect{}, malformed("no connect flags")
	}
	if err := checkConnectFlags(flags); err != nil {
		return Connect{}, err
	}
	c.CleanSession = flags&flagCleanSession != 0
	if c.KeepAlive, ok = cur.uint16(); !ok {
		return Connect{}, malformed("no keep alive")
	}
	if err := c.parsePayload(cur, flags); err != nil {
		return Connect{}, err
	}
	return c, nil
}

func checkConnectFlags(flags byte) error {
	const willBits = flagWillRetain | 3<<shiftWillQoS
	switch {
	case flags&flagReserved != 0: // [MQTT-3.1.2-3]
		return malformed("reserved connect flag set")
	case flags&flagWill == 0 && flags&willBits != 0: // [MQTT-3.1.2-11, 13, 15]
		return malformed("will flags without a will")
	case flags>>shiftWillQoS&3 == 3: // [MQTT-3.1.2-14]
		return malformed("will with QoS 3")
	case flags&flagUsername == 0 && flags&flagPassword != 0: // [MQTT-3.1.2-22]
		return malformed("password without user name")
	}
	return nil
}

// parsePayload reads the fields of §3.1.3, in their order.
func (c *Connect) parsePayload(cur cursor, flags byte) error {
	id, ok := cur.text()
	if !ok {
		return malformed("client id")
	}
	c.ClientID = string(id)
	if flags&flagWill != 0 {
		topic, ok := cur.text()
		if !ok {
			return malformed("will topic")
		}
		payload, ok := cur.field()
		if !ok {
			return malformed("will message")
		}
		c.Will = &Will{
			Topic:   string(topic),
			Payload: bytes.Clone(payload),
			QoS:     flags >> shiftWillQoS & 3,
			Retain:  flags&flagWillRetain != 0,
		}
	}
	if flags&flagUsername != 0 {
		name, ok := cur.text()
		if !ok {
			return malformed("user name")
		}
		c.Username, c.HasUsername = string(name), true
	}
	if flags&flagPassword != 0 {
		password, ok := cur.field()
		if !ok {
			return malformed("password")
		}
		c.Password, c.HasPassword = bytes.Clone(password), true
	}
	if len(cur) != 0 {
		return malformed("bytes after the payload")
	}
	return nil
}

// AppendConnect appends a CONNECT. Username and Password count only with their Has field set.
func AppendConnect(dst []byte, c *Connect) []byte {
	protocol, level := c.Protocol, c.Level
	if protocol == "" {
		protocol = "MQTT"
	}
	if level == 0 {
		level = Level4
	}
	var flags byte
	if c.CleanSession {
		flags |= flagCleanSession
	}
	longest := max(len(protocol), len(c.ClientID))
	length := 2 + len(protocol) + 1 + 1 + 2 + 2 + len(c.ClientID)
	if w := c.Will; w != nil {
		flags |= flagWill | w.QoS&3<<shiftWillQoS
		if w.Retain {
			flags |= flagWillRetain
		}
		longest = max(longest, len(w.Topic), len(w.Payload))
		length += 2 + len(w.Topic) + 2 + len(w.Payload)
	}
	if c.HasUsername {
		flags |= flagUsername
		longest = max(longest, len(c.Username))
		length += 2 + len(c.Username)
	}
	if c.HasPassword {
		flags |= flagPassword
		longest = max(longest, len(c.Password))
		length += 2 + len(c.Password)
	}
	if longest > MaxString {
		return dst
	}
	dst, _ = appendHeader(dst, CONNECT, 0, length) // six fields at most: always below MaxLength
	dst = appendString(dst, protocol)
	dst = append(dst, level, flags)
	dst = binary.BigEndian.AppendUint16(dst, c.KeepAlive)
	dst = appendString(dst, c.ClientID)
	if w := c.Will; w != nil {
		dst = appendString(dst, w.Topic)
		dst = appendField(dst, w.Payload)
	}
	if c.HasUsername {
		dst = appendString(dst, c.Username)
	}
	if c.HasPassword {
		dst = appendField(dst, c.Password)
	}
	return dst
}
