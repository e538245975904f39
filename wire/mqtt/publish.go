package mqtt

import "encoding/binary"

// Publish is a PUBLISH packet (§3.3). PacketID is zero with QoS 0.
type Publish struct {
	Dup      bool
	QoS      byte
	Retain   bool
	Topic    []byte
	PacketID uint16
	Payload  []byte
}

// Flags of §3.3.1; the QoS takes the two bits between them.
const (
	flagRetain = 1 << 0
	shiftQoS   = 1
	flagDup    = 1 << 3
)

// ParsePublish reads the body of a PUBLISH whose header carried flags. Topic and Payload
// alias body, and nothing is allocated. All three QoS levels are read. A topic may
// hold + and #, against [MQTT-3.3.2-2]: device ids and property bags do (hub-device §3.2, §7).
func ParsePublish(flags byte, body []byte) (Publish, error) {
	p := Publish{
		Dup:    flags&flagDup != 0,
		QoS:    flags >> shiftQoS & 3,
		Retain: flags&flagRetain != 0,
	}
	if p.QoS == 3 {
		return Publish{}, malformed("PUBLISH with QoS 3")
	}
	cur := cursor(body)
	var ok bool
	if p.Topic, ok = cur.text(); !ok || len(p.Topic) == 0 {
		return Publish{}, malformed("topic name")
	}
	if p.QoS > 0 {
		var err error
		if p.PacketID, err = cur.packetID(); err != nil {
			return Publish{}, err
		}
	}
	p.Payload = cur
	return p, nil
}

// AppendPublish appends a PUBLISH with its payload.
func AppendPublish(dst []byte, p *Publish) []byte {
	n := len(dst)
	dst = AppendPublishHeader(dst, p, len(p.Payload))
	if len(dst) == n {
		return dst
	}
	return append(dst, p.Payload...)
}

// AppendPublishHeader appends all of a PUBLISH but its payload, which the caller writes next
// and which must be payloadLen bytes long. p.Payload is not looked at. As in all Append
// functions, a topic over MaxString bytes leaves dst unchanged: send no payload then.
func AppendPublishHeader(dst []byte, p *Publish, payloadLen int) []byte {
	if len(p.Topic) > MaxString {
		return dst
	}
	flags := p.QoS & 3 << shiftQoS
	if p.Dup {
		flags |= flagDup
	}
	if p.Retain {
		flags |= flagRetain
	}
	length := 2 + len(p.Topic) + payloadLen
	if p.QoS > 0 {
		length += 2
	}
	dst, ok := appendHeader(dst, PUBLISH, flags, length)
	if !ok {
		return dst
	}
	dst = appendField(dst, p.Topic)
	if p.QoS > 0 {
		dst = binary.BigEndian.AppendUint16(dst, p.PacketID)
	}
	return dst
}
