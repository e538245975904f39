package socket

import (
	"encoding/binary"
	"net"
	"net/netip"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

var littleEndian = binary.NativeEndian.Uint16([]byte{1, 0}) == 1

func addrPort(ip net.IP, port uint16) netip.AddrPort {
	a, _ := netip.AddrFromSlice(ip)
	return netip.AddrPortFrom(a.Unmap(), port)
}

func diag() ([]Socket, error) {
	var all []Socket
	add := func(protocol string, m *netlink.Socket, in, out uint64) {
		if m == nil || len(all) >= maxSockets {
			return
		}
		s := Socket{
			Protocol: protocol, Local: addrPort(m.ID.Source, m.ID.SourcePort), Remote: addrPort(m.ID.Destination, m.ID.DestinationPort),
			Inode: uint64(m.INode), UserID: m.UID, BytesIn: in, BytesOut: out,
		}
		s.Listening = listens(protocol, uint64(m.State), s.Remote)
		all = append(all, s)
	}
	for _, family := range []uint8{unix.AF_INET, unix.AF_INET6} {
		tcp, err := netlink.SocketDiagTCPInfo(family)
		if err != nil {
			return nil, err
		}
		for _, r := range tcp {
			var in, out uint64
			if r.TCPInfo != nil {
				in, out = r.TCPInfo.Bytes_received, r.TCPInfo.Bytes_acked
			}
			add("TCP", r.InetDiagMsg, in, out)
		}
		udp, err := netlink.SocketDiagUDP(family)
		if err != nil {
			return nil, err
		}
		for _, m := range udp {
			add("UDP", m, 0, 0)
		}
	}
	return all, nil
}
