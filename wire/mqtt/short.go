package mqtt

// ParsePacketID reads a body that is a packet identifier and nothing else: PUBACK (§3.4) and
// UNSUBACK (§3.11), and the three packets of QoS 2.
func ParsePacketID(body []byte) (uint16, error) {
	cur := cursor(body)
	id, err := cur.packetID()
	if err != nil {
		return 0, err
	}
	if len(cur) != 0 {
		return 0, malformed("bytes after the packet identifier")
	}
	return id, nil
}

// AppendPuback appends a PUBACK.
func AppendPuback(dst []byte, id uint16) []byte {
	return append(dst, byte(PUBACK)<<4, 2, byte(id>>8), byte(id))
}

// AppendUnsuback appends an UNSUBACK.
func AppendUnsuback(dst []byte, id uint16) []byte {
	return append(dst, byte(UNSUBACK)<<4, 2, byte(id>>8), byte(id))
}

// AppendPingreq appends a PINGREQ.
func AppendPingreq(dst []byte) []byte { return append(dst, byte(PINGREQ)<<4, 0) }

// AppendPingresp appends a PINGRESP.
func AppendPingresp(dst []byte) []byte { return append(dst, byte(PINGRESP)<<4, 0) }

// AppendDisconnect appends a DISCONNECT, which only a client sends (§3.14).
func AppendDisconnect(dst []byte) []byte { return append(dst, byte(DISCONNECT)<<4, 0) }
