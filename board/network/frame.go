package network

import (
	"encoding/binary"
	"net/netip"
)

// Sizes of an Ethernet frame without its checksum.
const (
	MTU         = 1500
	FrameHeader = 14
	MaxFrame    = FrameHeader + MTU
)

const (
	etherIPv4 = 0x0800
	etherIPv6 = 0x86DD
)

// Packet is what a frame tells about the flow it belongs to.
type Packet struct {
	Source, Destination netip.AddrPort
	Protocol            Protocol
	Payload             int // bytes of the IP payload; of IPv6, after extension headers
}

// Verdict is what ParseFrame found.
type Verdict int

const (
	Counted Verdict = iota // it is a packet of a flow
	Other                  // it is not TCP, UDP or ICMP, such as ARP
	Torn                   // it is broken or cut, or a fragment whose first part was not seen
)

// fragmentMemory is how many fragmented packets a Parser follows at a time.
const fragmentMemory = 8

// Parser reads frames, and remembers the ports of packets that come in fragments: only the
// first has them. The zero value is ready. It is not safe for concurrent use.
type Parser struct {
	fragments [fragmentMemory]fragment
	next      int
}

type fragment struct {
	source, destination netip.Addr
	id                  uint32
	protocol            uint8
	ports               [2]uint16
}

// Parse reads an Ethernet frame.
func (p *Parser) Parse(frame []byte) (Packet, Verdict) {
	if len(frame) < FrameHeader {
		return Packet{}, Torn
	}
	switch binary.BigEndian.Uint16(frame[12:]) {
	case etherIPv4:
		return p.ipv4(frame[FrameHeader:])
	case etherIPv6:
		return p.ipv6(frame[FrameHeader:])
	}
	return Packet{}, Other
}

// ipv4 reads a packet (RFC 791 §3.1). What follows its total length is padding of the frame.
func (p *Parser) ipv4(b []byte) (Packet, Verdict) {
	if len(b) < 20 || b[0]>>4 != 4 {
		return Packet{}, Torn
	}
	header, total := int(b[0]&0x0F)*4, int(binary.BigEndian.Uint16(b[2:]))
	if header < 20 || total < header || total > len(b) {
		return Packet{}, Torn
	}
	f := fragment{
		source: netip.AddrFrom4([4]byte(b[12:16])), destination: netip.AddrFrom4([4]byte(b[16:20])),
		id: uint32(binary.BigEndian.Uint16(b[4:])), protocol: b[9],
	}
	flags := binary.BigEndian.Uint16(b[6:])
	return p.transport(f, b[header:total], flags&0x1FFF == 0, flags&0x2000 != 0)
}

// extensions bounds the headers between IPv6 and transport. A packet has few (RFC 8200 §4.1).
const extensions = 8

func (p *Parser) ipv6(b []byte) (Packet, Verdict) {
	if len(b) < 40 || b[0]>>4 != 6 {
		return Packet{}, Torn
	}
	length := int(binary.BigEndian.Uint16(b[4:]))
	f := fragment{source: netip.AddrFrom16([16]byte(b[8:24])), destination: netip.AddrFrom16([16]byte(b[24:40])), protocol: b[6]}
	if length > len(b)-40 {
		return Packet{}, Torn
	}
	b = b[40 : 40+length]
	first, more := true, false
	for range extensions {
		var size int
		switch f.protocol {
		case 0, 43, 60: // hop-by-hop, routing, destination
			if len(b) < 8 {
				return Packet{}, Torn
			}
			size = (int(b[1]) + 1) * 8
		case 44: // fragment
			if len(b) < 8 {
				return Packet{}, Torn
			}
			offset := binary.BigEndian.Uint16(b[2:])
			first, more = offset>>3 == 0, offset&1 != 0
			f.id, size = binary.BigEndian.Uint32(b[4:]), 8
		default:
			return p.transport(f, b, first, more)
		}
		if size > len(b) {
			return Packet{}, Torn
		}
		f.protocol, b = b[0], b[size:]
		if !first {
			return p.transport(f, b, first, more)
		}
	}
	return Packet{}, Torn
}

func (p *Parser) transport(f fragment, payload []byte, first, more bool) (Packet, Verdict) {
	k := Packet{Payload: len(payload)}
	least := 8
	switch f.protocol {
	case 6:
		k.Protocol, least = TCP, 20
	case 17:
		k.Protocol = UDP
	case 1, 58:
		k.Protocol = ICMP
	default:
		return Packet{}, Other
	}
	switch {
	case !first:
		i := p.find(f)
		if i < 0 {
			return Packet{}, Torn
		}
		f.ports = p.fragments[i].ports
	case len(payload) < least:
		return Packet{}, Torn
	case k.Protocol != ICMP:
		f.ports = [2]uint16{binary.BigEndian.Uint16(payload), binary.BigEndian.Uint16(payload[2:])}
	}
	if first && more {
		i := p.find(f)
		if i < 0 {
			i, p.next = p.next, (p.next+1)%fragmentMemory
		}
		p.fragments[i] = f
	}
	k.Source, k.Destination = netip.AddrPortFrom(f.source, f.ports[0]), netip.AddrPortFrom(f.destination, f.ports[1])
	return k, Counted
}

func (p *Parser) find(f fragment) int {
	for i, g := range p.fragments {
		if g.source.IsValid() && g.source == f.source && g.destination == f.destination && g.id == f.id && g.protocol == f.protocol {
			return i
		}
	}
	return -1
}

// Observer counts the frames of one network card. It is not safe for concurrent use in one
// direction: each direction has a parser of its own.
type Observer struct {
	Flows   Flows
	in, out Parser
}

// Sent counts a frame that leaves the board, also to broadcast and multicast addresses.
func (o *Observer) Sent(frame []byte) {
	switch p, v := o.out.Parse(frame); v {
	case Counted:
		o.Flows.Add(Flow{Local: p.Source, Remote: p.Destination, Protocol: p.Protocol}, true, p.Payload)
	case Torn:
		o.Flows.tear()
	}
}

// Received counts a frame that reached the board. What was sent to everybody is not
// counted: the security module does not see it (defender §1.2).
func (o *Observer) Received(frame []byte) {
	switch p, v := o.in.Parse(frame); {
	case v == Torn:
		o.Flows.tear()
	case v == Counted && frame[0]&1 == 0:
		o.Flows.Add(Flow{Local: p.Destination, Remote: p.Source, Protocol: p.Protocol}, false, p.Payload)
	}
}
