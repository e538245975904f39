package netstack

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"slices"
	"sync"
	"sync/atomic"

	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/tcpip/adapters/gonet"
	"gvisor.dev/gvisor/pkg/tcpip/checksum"
	"gvisor.dev/gvisor/pkg/tcpip/header"
	"gvisor.dev/gvisor/pkg/tcpip/stack"
	"gvisor.dev/gvisor/pkg/tcpip/transport/tcp"
	"gvisor.dev/gvisor/pkg/tcpip/transport/udp"
	"gvisor.dev/gvisor/pkg/waiter"

	"github.com/vauban-iot/vauban/board/network"
)

// outside lets a host stand for everybody behind it: it takes the packets for all addresses, and gives those that are not
// its own to a world.
type outside struct {
	*Host
	world network.Outside

	open atomic.Int32 // connections
}

// outer bounds the connections that pass to the outside at a time; further ones are refused.
const outer = 4096

func (h *Host) standFor(world network.Outside) error {
	o := &outside{Host: h, world: world}
	if err := h.stack.SetPromiscuousMode(nic, true); err != nil {
		return errors.New(err.String())
	}
	if err := h.stack.SetSpoofing(nic, true); err != nil {
		return errors.New(err.String())
	}
	h.card.drop = o.drop
	h.stack.SetTransportProtocolHandler(tcp.ProtocolNumber, tcp.NewForwarder(h.stack, 0, 1024, o.connect).HandlePacket)
	h.stack.SetTransportProtocolHandler(udp.ProtocolNumber, o.datagram)
	return nil
}

// mine tells whether an address is the host's own.
func (o *outside) mine(a netip.Addr) bool {
	for _, p := range o.stack.AllAddresses()[nic] {
		if netipAddr(p.AddressWithPrefix.Address) == a {
			return true
		}
	}
	return false
}

// drop tells whether the stack is not to see a frame, although it takes everything: who asks which station has somebody else's address, and
// pings to others, which the stack would not answer. The world does.
func (o *outside) drop(frame []byte) bool {
	b := frame[header.EthernetMinimumSize:]
	switch header.Ethernet(frame).Type() {
	case header.ARPProtocolNumber:
		a := header.ARP(b)
		return a.IsValid() && a.Op() == header.ARPRequest && !o.mine(netip.AddrFrom4([4]byte(a.ProtocolAddressTarget())))
	case header.IPv4ProtocolNumber:
		ip := header.IPv4(b)
		if !ip.IsValid(len(b)) || ip.TransportProtocol() != header.ICMPv4ProtocolNumber || len(ip.Payload()) < header.ICMPv4MinimumSize || header.ICMPv4(ip.Payload()).Type() != header.ICMPv4Echo {
			return false
		}
		to := netipAddr(ip.DestinationAddress())
		if o.mine(to) {
			return false
		}
		if !ip.More() && ip.FragmentOffset() == 0 && o.world.Echo(netipAddr(ip.SourceAddress()), to) {
			o.echo4(frame)
		}
		return true
	case header.IPv6ProtocolNumber:
		ip := header.IPv6(b)
		if !ip.IsValid(len(b)) || ip.NextHeader() != uint8(header.ICMPv6ProtocolNumber) || len(ip.Payload()) < header.ICMPv6MinimumSize {
			return false
		}
		switch m := header.ICMPv6(ip.Payload()); m.Type() {
		case header.ICMPv6NeighborSolicit:
			return len(m) >= header.ICMPv6NeighborSolicitMinimumSize && !o.mine(netipAddr(header.NDPNeighborSolicit(m.MessageBody()).TargetAddress()))
		case header.ICMPv6EchoRequest:
			to := netipAddr(ip.DestinationAddress())
			if o.mine(to) {
				return false
			}
			if o.world.Echo(netipAddr(ip.SourceAddress()), to) {
				o.echo6(frame)
			}
			return true
		}
	}
	return false
}

// back is a copy of a frame on its way back.
func back(frame []byte) []byte {
	b := slices.Clone(frame)
	eth := header.Ethernet(frame)
	header.Ethernet(b).Encode(&header.EthernetFields{SrcAddr: eth.DestinationAddress(), DstAddr: eth.SourceAddress(), Type: eth.Type()})
	return b
}

func (o *outside) echo4(frame []byte) {
	b := back(frame)
	ip := header.IPv4(b[header.EthernetMinimumSize:])
	from, to := ip.SourceAddress(), ip.DestinationAddress()
	ip.SetSourceAddress(to) // which changes nothing of the checksum when both do
	ip.SetDestinationAddress(from)
	m := header.ICMPv4(ip.Payload())
	m.SetType(header.ICMPv4EchoReply)
	m.SetChecksum(0)
	m.SetChecksum(^checksum.Checksum(m, 0))
	o.Send(b)
}

func (o *outside) echo6(frame []byte) {
	b := back(frame)
	ip := header.IPv6(b[header.EthernetMinimumSize:])
	from, to := ip.SourceAddress(), ip.DestinationAddress()
	ip.SetSourceAddress(to)
	ip.SetDestinationAddress(from)
	m := header.ICMPv6(ip.Payload())
	m.SetType(header.ICMPv6EchoReply)
	m.SetChecksum(0)
	m.SetChecksum(header.ICMPv6Checksum(header.ICMPv6ChecksumParams{Header: m, Src: to, Dst: from}))
	o.Send(b)
}

func (o *outside) ends(id stack.TransportEndpointID) (from, to netip.AddrPort) {
	return netip.AddrPortFrom(netipAddr(id.RemoteAddress), id.RemotePort), netip.AddrPortFrom(netipAddr(id.LocalAddress), id.LocalPort)
}

// connect is called in a goroutine of its own for each connection that nobody of the host listens for.
func (o *outside) connect(r *tcp.ForwarderRequest) {
	from, to := o.ends(r.ID())
	if o.mine(to.Addr()) || o.open.Add(1) > outer {
		if !o.mine(to.Addr()) {
			o.open.Add(-1)
		}
		r.Complete(true)
		return
	}
	defer o.open.Add(-1)
	inner, err := o.world.Connect(from, to)
	if err != nil {
		r.Complete(errors.Is(err, network.ErrRefused))
		return
	}
	defer inner.Close()
	var wq waiter.Queue
	ep, terr := r.CreateEndpoint(&wq)
	r.Complete(false)
	if terr != nil { // who began it is gone
		return
	}
	c := gonet.NewTCPConn(&wq, ep)
	defer c.Close()
	if !o.join() {
		return
	}
	defer o.wg.Done()
	stop := context.AfterFunc(o.ctx, func() { c.Close(); inner.Close() })
	defer stop()
	var wg sync.WaitGroup
	wg.Go(func() {
		_, _ = io.Copy(inner, c) // whatever ends it, it is over
		inner.Close()
	})
	_, _ = io.Copy(c, inner)
	c.Close()
	wg.Wait()
}

// join counts a goroutine among those that Close waits for.
func (h *Host) join() bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.closed {
		return false
	}
	h.wg.Add(1)
	return true
}

func (o *outside) datagram(id stack.TransportEndpointID, p *stack.PacketBuffer) bool {
	from, to := o.ends(id)
	if o.mine(to.Addr()) || to.Addr().IsMulticast() || to.Addr() == netip.AddrFrom4([4]byte{255, 255, 255, 255}) {
		return false
	}
	reply := o.world.Datagram(from, to, p.Data().AsRange().ToSlice())
	if reply == nil {
		return true
	}
	var wq waiter.Queue
	ep, err := udp.NewForwarderRequest(o.stack, id, p.Clone()).CreateEndpoint(&wq)
	if err != nil {
		return true
	}
	defer ep.Close()
	_, _ = ep.Write(bytes.NewReader(reply), tcpip.WriteOptions{}) // what does not leave is lost, as anywhere
	return true
}

// Call makes a connection from somebody outside, for whom the host stands, to a host of the switch.
func (h *Host) Call(ctx context.Context, from, to netip.AddrPort) (net.Conn, error) {
	if h.cfg.Outside == nil {
		return nil, fmt.Errorf("call %s: there is no outside", to)
	}
	c, err := gonet.DialTCPWithBind(ctx, h.stack, full(from), full(to), protocol(to.Addr()))
	if err != nil {
		return nil, fmt.Errorf("call %s from %s: %w", to, from, err)
	}
	return c, nil
}

// synOptions are as those of the stack's own connections: they take 20 bytes.
func synOptions() []byte {
	b := make([]byte, 20)
	n := header.EncodeMSSOption(network.MTU-40, b)
	n += header.EncodeSACKPermittedOption(b[n:])
	n += header.EncodeTSOption(1, 0, b[n:])
	n += header.EncodeNOP(b[n:])
	header.EncodeWSOption(7, b[n:])
	return b
}

// SYN implements network.Raw.
func (h *Host) SYN(local uint16, to netip.AddrPort) error {
	if err := h.usable(); err != nil {
		return err
	}
	if err := h.speaks(to.Addr()); err != nil {
		return err
	}
	r, terr := h.stack.FindRoute(nic, tcpip.Address{}, address(to.Addr()), protocol(to.Addr()), false)
	if terr != nil {
		return plain(terr)
	}
	defer r.Release()
	options, random := synOptions(), h.stack.SecureRNG()
	size := header.TCPMinimumSize + len(options)
	p := stack.NewPacketBuffer(stack.PacketBufferOptions{ReserveHeaderBytes: size + int(r.MaxHeaderLength())})
	defer p.DecRef()
	p.TransportProtocolNumber = tcp.ProtocolNumber
	t := header.TCP(p.TransportHeader().Push(size))
	t.Encode(&header.TCPFields{
		SrcPort: local, DstPort: to.Port(), SeqNum: random.Uint32(), DataOffset: uint8(size), Flags: header.TCPFlagSyn, WindowSize: 14600,
	})
	copy(t[header.TCPMinimumSize:], options)
	t.SetChecksum(^t.CalculateChecksum(r.PseudoHeaderChecksum(tcp.ProtocolNumber, uint16(size))))
	if terr := r.WritePacket(stack.NetworkHeaderParams{Protocol: tcp.ProtocolNumber, TTL: 64}, p); terr != nil {
		return plain(terr)
	}
	return nil
}
