package service

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"time"
)

// Announcement is what an IPv6 router says of itself (RFC 4861 §4.2).
type Announcement struct {
	MAC         [6]byte
	Router      netip.Addr   // link-local
	Prefix      netip.Prefix // from which stations make their addresses; /64
	NameServers []netip.Addr // RFC 8106
	Lifetime    time.Duration
}

const (
	icmpAdvertisement = 134
	icmpSolicitation  = 133
)

// Frame is the announcement to all stations, as an Ethernet frame.
func (a Announcement) Frame() ([]byte, error) {
	switch {
	case !a.Router.IsLinkLocalUnicast() || !a.Router.Is6():
		return nil, fmt.Errorf("a router announces itself from its link-local address, not from %s", a.Router)
	case !a.Prefix.Addr().Is6() || a.Prefix.Bits() != 64:
		return nil, fmt.Errorf("stations make their addresses from a /64 of IPv6, not from %s", a.Prefix)
	case len(a.NameServers) > 8:
		return nil, errors.New("a router announces 8 name servers at most")
	case a.Lifetime < 0 || a.Lifetime > 9000*time.Second:
		return nil, fmt.Errorf("a router's lifetime is 0 to 9000 s, not %v", a.Lifetime)
	}
	seconds := uint32(a.Lifetime / time.Second)
	body := []byte{icmpAdvertisement, 0, 0, 0, 64, 0}
	body = binary.BigEndian.AppendUint16(body, uint16(seconds))
	body = append(body, make([]byte, 8)...)                       // reachable time, retransmission: as each likes
	body = append(append(body, 1, 1), a.MAC[:]...)                // source link-layer address
	body = append(body, 3, 4, 64, 0xC0)                           // prefix: on this link, for addresses
	body = binary.BigEndian.AppendUint32(body, max(seconds, 1)*4) // valid
	body = binary.BigEndian.AppendUint32(body, max(seconds, 1)*2) // preferred
	body = append(append(body, 0, 0, 0, 0), a.Prefix.Masked().Addr().AsSlice()...)
	if len(a.NameServers) > 0 {
		body = append(body, 25, byte(1+2*len(a.NameServers)), 0, 0)
		body = binary.BigEndian.AppendUint32(body, seconds)
		for _, s := range a.NameServers {
			b := s.As16()
			body = append(body, b[:]...)
		}
	}
	to := netip.MustParseAddr("ff02::1").As16()
	from := a.Router.As16()
	binary.BigEndian.PutUint16(body[2:], icmpChecksum(from, to, body))
	frame := append([]byte{0x33, 0x33, 0, 0, 0, 1}, a.MAC[:]...)
	frame = append(frame, 0x86, 0xDD, 0x60, 0, 0, 0)
	frame = binary.BigEndian.AppendUint16(frame, uint16(len(body)))
	frame = append(frame, 58, 255)
	frame = append(append(frame, from[:]...), to[:]...)
	return append(frame, body...), nil
}

// icmpChecksum is that of ICMPv6 (RFC 4443 §2.3).
func icmpChecksum(from, to [16]byte, body []byte) uint16 {
	var sum uint32
	add := func(b []byte) {
		for i := 0; i+1 < len(b); i += 2 {
			sum += uint32(b[i])<<8 | uint32(b[i+1])
		}
		if len(b)%2 == 1 {
			sum += uint32(b[len(b)-1]) << 8
		}
	}
	add(from[:])
	add(to[:])
	add(body)
	sum += uint32(len(body)) + 58
	for sum>>16 != 0 {
		sum = sum&0xFFFF + sum>>16
	}
	return ^uint16(sum)
}

// Solicits tells whether a frame asks routers to announce themselves (RFC 4861 §4.1).
func Solicits(frame []byte) bool {
	const icmp = 14 + 40
	return len(frame) >= icmp+8 && frame[12] == 0x86 && frame[13] == 0xDD && frame[14]>>4 == 6 && frame[20] == 58 && frame[21] == 255 && frame[icmp] == icmpSolicitation && frame[icmp+1] == 0
}
