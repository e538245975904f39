package mqtt

// ParseConnack reads the body of a CONNACK (§3.2). Any return code is passed on.
func ParseConnack(body []byte) (sessionPresent bool, code byte, err error) {
	if len(body) != 2 || body[0] > 1 {
		return false, 0, malformed("CONNACK")
	}
	return body[0] == 1, body[1], nil
}

// AppendConnack appends a CONNACK (§3.2).
func AppendConnack(dst []byte, sessionPresent bool, code byte) []byte {
	var flags byte
	if sessionPresent {
		flags = 1
	}
	return append(dst, byte(CONNACK)<<4, 2, flags, code)
}

// AppendConnackV5 appends a CONNACK in the form of MQTT 5 §3.2, without properties: the
// only answer an MQTT 5 client understands.
func AppendConnackV5(dst []byte, reason byte) []byte {
	return append(dst, byte(CONNACK)<<4, 3, 0, reason, 0)
}
