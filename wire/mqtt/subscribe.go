package mqtt

import "encoding/binary"

// Subscription is one filter of a SUBSCRIBE with the QoS asked for.
type Subscription struct {
	Filter string
	QoS    byte
}

// SubackFailure is the SUBACK code of a refused filter (§3.9.3); the others are the granted QoS.
const SubackFailure = 0x80

// ParseSubscribe reads the body of a SUBSCRIBE (§3.8): one filter or more, none empty, each
// with a QoS of 0 to 2. Whether a filter makes sense is left to the caller.
func ParseSubscribe(body []byte) (id uint16, subs []Subscription, err error) {
	id, rest, n, err := countFilters(body, true)
	if err != nil {
		return 0, nil, err
	}
	subs = make([]Subscription, n)
	for i := range subs {
		filter, _ := rest.text()
		qos, _ := rest.byte()
		subs[i] = Subscription{Filter: string(filter), QoS: qos}
	}
	return id, subs, nil
}

// ParseUnsubscribe reads the body of an UNSUBSCRIBE (§3.10): one filter or more, none empty.
func ParseUnsubscribe(body []byte) (id uint16, filters []string, err error) {
	id, rest, n, err := countFilters(body, false)
	if err != nil {
		return 0, nil, err
	}
	filters = make([]string, n)
	for i := range filters {
		filter, _ := rest.text()
		filters[i] = string(filter)
	}
	return id, filters, nil
}

// countFilters checks a whole (UN)SUBSCRIBE body and counts its filters, so that the caller
// allocates once and only for a sound packet. rest is what follows the packet identifier.
func countFilters(body []byte, withQoS bool) (id uint16, rest cursor, n int, err error) {
	cur := cursor(body)
	if id, err = cur.packetID(); err != nil {
		return 0, nil, 0, err
	}
	for rest = cur; len(cur) > 0; n++ {
		if filter, ok := cur.text(); !ok || len(filter) == 0 { // [MQTT-4.7.3-1]
			return 0, nil, 0, malformed("topic filter")
		}
		if !withQoS {
			continue
		}
		if qos, ok := cur.byte(); !ok || qos > 2 { // [MQTT-3-8.3-4]
			return 0, nil, 0, malformed("requested QoS")
		}
	}
	if n == 0 { // [MQTT-3.8.3-3, MQTT-3.10.3-2]
		return 0, nil, 0, malformed("no topic filter")
	}
	return id, rest, n, nil
}

// ParseSuback reads the body of a SUBACK (§3.9). codes alias body, one per filter, each a
// QoS of 0 to 2 or SubackFailure.
func ParseSuback(body []byte) (id uint16, codes []byte, err error) {
	cur := cursor(body)
	if id, err = cur.packetID(); err != nil {
		return 0, nil, err
	}
	if len(cur) == 0 {
		return 0, nil, malformed("SUBACK without return codes")
	}
	for _, code := range cur {
		if code > 2 && code != SubackFailure { // [MQTT-3.9.3-2]
			return 0, nil, malformed("SUBACK return code")
		}
	}
	return id, cur, nil
}

// AppendSubscribe appends a SUBSCRIBE.
func AppendSubscribe(dst []byte, id uint16, subs []Subscription) []byte {
	length := 2
	for _, s := range subs {
		if len(s.Filter) > MaxString {
			return dst
		}
		length += 2 + len(s.Filter) + 1
	}
	dst, ok := appendHeader(dst, SUBSCRIBE, 2, length)
	if !ok {
		return dst
	}
	dst = binary.BigEndian.AppendUint16(dst, id)
	for _, s := range subs {
		dst = appendString(dst, s.Filter)
		dst = append(dst, s.QoS)
	}
	return dst
}

// AppendUnsubscribe appends an UNSUBSCRIBE.
func AppendUnsubscribe(dst []byte, id uint16, filters []string) []byte {
	length := 2
	for _, f := range filters {
		if len(f) > MaxString {
			return dst
		}
		length += 2 + len(f)
	}
	dst, ok := appendHeader(dst, UNSUBSCRIBE, 2, length)
	if !ok {
		return dst
	}
	dst = binary.BigEndian.AppendUint16(dst, id)
	for _, f := range filters {
		dst = appendString(dst, f)
	}
	return dst
}

// AppendSuback appends a SUBACK with one code per filter, in the order of the SUBSCRIBE.
func AppendSuback(dst []byte, id uint16, codes []byte) []byte {
	dst, ok := appendHeader(dst, SUBACK, 0, 2+len(codes))
	if !ok {
		return dst
	}
	dst = binary.BigEndian.AppendUint16(dst, id)
	return append(dst, codes...)
}
