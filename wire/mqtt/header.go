package mqtt

import "fmt"

// Header is a fixed header (§2.2). Length is the remaining length: the bytes of the body.
type Header struct {
	Type   Type
	Flags  byte
	Length int
}

// ParseHeader reads the fixed header at the start of b; n is its size. n == 0 with a nil
// error means that more bytes are needed, at most five in all.
//
// A reserved type, flags that table 2.2 does not allow, QoS 3 and a length of more than four
// bytes are ErrMalformed; a Length over limit is ErrTooLarge. Both come as early as the bytes allow.
func ParseHeader(b []byte, limit int) (h Header, n int, err error) {
	if len(b) == 0 {
		return Header{}, 0, nil
	}
	h.Type, h.Flags = Type(b[0]>>4), b[0]&15
	if err := checkFlags(h.Type, h.Flags); err != nil {
		return Header{}, 0, err
	}
	for i := 1; i < len(b); i++ {
		if i == 4 && b[i] >= 0x80 {
			return Header{}, 0, malformed("remaining length over four bytes")
		}
		h.Length |= int(b[i]&0x7f) << (7 * (i - 1))
		if b[i] >= 0x80 {
			continue
		}
		if h.Length > limit {
			return Header{}, 0, fmt.Errorf("%w: %v of %d bytes, limit %d", ErrTooLarge, h.Type, h.Length, limit)
		}
		return h, i + 1, nil
	}
	return Header{}, 0, nil
}

// checkFlags holds table 2.2 [MQTT-2.2.2-2].
func checkFlags(t Type, flags byte) error {
	var want byte
	switch t {
	case PUBLISH:
		if flags>>1&3 == 3 {
			return malformed("PUBLISH with QoS 3") // [MQTT-3.3.1-4]
		}
		return nil
	case PUBREL, SUBSCRIBE, UNSUBSCRIBE:
		want = 2
	case 0, 15:
		return malformed("reserved packet type")
	}
	if flags != want {
		return fmt.Errorf("%w: %v with flags %04b", ErrMalformed, t, flags)
	}
	return nil
}

// appendHeader appends a fixed header, unless length has no encoding.
func appendHeader(dst []byte, t Type, flags byte, length int) ([]byte, bool) {
	if length > MaxLength {
		return dst, false
	}
	dst = append(dst, byte(t)<<4|flags)
	for length >= 0x80 {
		dst = append(dst, byte(length)|0x80)
		length >>= 7
	}
	return append(dst, byte(length)), true
}
