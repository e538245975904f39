package facade

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"os"
	"slices"
	"sync"
	"time"

	"github.com/vauban-iot/vauban/board/network"
)

const (
	udpHeader = 8
	// maxDatagram is what fits into one IPv4 packet.
	maxDatagram = 65507
	// waiting bounds the datagrams of one port that wait to be read; further ones are lost, as anywhere.
	waiting = 64
)

// packetConn is a UDP port.
type packetConn struct {
	stack *Stack
	at    netip.Addr     // not valid: all addresses
	peer  netip.AddrPort // valid: the only one that it talks to
	port  uint16

	mu     sync.Mutex
	queue  []datagram
	closed bool
	change chan struct{}

	readDeadline deadline
}

type datagram struct {
	from netip.AddrPort
	data []byte
}

var (
	_ net.Conn       = (*packetConn)(nil)
	_ net.PacketConn = (*packetConn)(nil)
)

func (s *Stack) dialUDP(ctx context.Context, from netip.AddrPort, to network.Endpoint) (net.Conn, error) {
	s.segment.mu.Lock()
	bridged := s.segment.bridges[to] != nil
	s.segment.mu.Unlock()
	if bridged {
		c := &conn{stack: s, flow: network.Flow{Local: netip.AddrPortFrom(from.Addr(), 0), Remote: to.Address, Protocol: network.UDP}}
		port, err := s.bind(network.UDP, 0, c)
		if err != nil {
			return nil, err
		}
		if err := s.segment.bridge(ctx, to, c); err != nil {
			s.unbind(network.UDP, port, c)
			return nil, err
		}
		return c, nil
	}
	c := &packetConn{stack: s, at: from.Addr(), peer: to.Address, change: make(chan struct{})}
	if _, err := s.bind(network.UDP, 0, c); err != nil {
		return nil, err
	}
	return c, nil
}

func (c *packetConn) took(port uint16) { c.port = port }

// ListenPacket implements network.Stack.
func (s *Stack) ListenPacket(nw, address string) (net.PacketConn, error) {
	e, err := network.ParseListen(nw, address)
	if err != nil {
		return nil, err
	}
	if e.Protocol != network.UDP {
		return nil, &net.OpError{Op: "listen", Net: nw, Err: net.UnknownNetworkError(nw + ": want udp; Listen is for tcp")}
	}
	if !e.Address.Addr().IsMulticast() {
		if err := s.has(e.Address.Addr()); err != nil {
			return nil, &net.OpError{Op: "listen", Net: nw, Err: err}
		}
	}
	c := &packetConn{stack: s, at: e.Address.Addr(), change: make(chan struct{})}
	if _, err = s.bind(network.UDP, e.Address.Port(), c); err != nil {
		return nil, &net.OpError{Op: "listen", Net: nw, Err: err}
	}
	return c, nil
}

// has tells whether the board may listen on a.
func (s *Stack) has(a netip.Addr) error {
	if !a.IsValid() || a.IsUnspecified() || slices.ContainsFunc(s.cfg.Addresses, func(p netip.Prefix) bool { return p.Addr() == a }) {
		return nil
	}
	return errors.New("the board does not have this address")
}

func (c *packetConn) Read(b []byte) (int, error) {
	n, _, err := c.ReadFrom(b)
	return n, err
}

func (c *packetConn) ReadFrom(b []byte) (int, net.Addr, error) {
	over := c.readDeadline.wait()
	for {
		select {
		case <-over:
			return 0, nil, os.ErrDeadlineExceeded
		default:
		}
		c.mu.Lock()
		if c.closed {
			c.mu.Unlock()
			return 0, nil, net.ErrClosed
		}
		if len(c.queue) > 0 {
			d := c.queue[0]
			c.queue = slices.Delete(c.queue, 0, 1)
			c.mu.Unlock()
			return copy(b, d.data), net.UDPAddrFromAddrPort(d.from), nil
		}
		wait := c.change
		c.mu.Unlock()
		select {
		case <-wait:
		case <-over:
		}
	}
}

func (c *packetConn) Write(b []byte) (int, error) {
	if !c.peer.IsValid() {
		return 0, errors.New("write: to whom? use WriteTo")
	}
	return c.send(b, c.peer)
}

func (c *packetConn) WriteTo(b []byte, to net.Addr) (int, error) {
	u, ok := to.(*net.UDPAddr)
	if !ok || c.peer.IsValid() {
		return 0, errors.New("write: want a *net.UDPAddr, and a port that talks to all")
	}
	a := u.AddrPort()
	return c.send(b, netip.AddrPortFrom(a.Addr().Unmap(), a.Port()))
}

func (c *packetConn) send(b []byte, to netip.AddrPort) (int, error) {
	if len(b) > maxDatagram {
		return 0, errors.New("write: longer than a packet")
	}
	if err := c.stack.usable(); err != nil {
		return 0, err
	}
	c.mu.Lock()
	closed := c.closed
	c.mu.Unlock()
	if closed {
		return 0, net.ErrClosed
	}
	from := c.at
	if !from.IsValid() || from.IsUnspecified() || from.IsMulticast() {
		var err error
		if from, err = c.stack.local(to.Addr()); err != nil {
			return 0, err
		}
	}
	source := netip.AddrPortFrom(from, c.port)
	c.stack.flows.Add(network.Flow{Local: source, Remote: to, Protocol: network.UDP}, true, udpHeader+len(b))
	c.stack.segment.carry(c.stack, source, to, b)
	return len(b), nil
}

// carry brings a datagram to whoever it is for.
func (g *Segment) carry(sender *Stack, from, to netip.AddrPort, b []byte) {
	g.mu.Lock()
	answer, peer := g.answers[to], g.hosts[to.Addr()]
	var all []*Stack
	if toAll(sender, to.Addr()) {
		all = slices.Clone(g.order)
	}
	g.mu.Unlock()
	switch {
	case answer != nil:
		if reply := answer(from.Addr(), b); reply != nil {
			sender.deliver(to, from, reply, true)
		}
	case peer != nil:
		peer.deliver(from, to, b, true)
	case len(all) == 0:
		if o := sender.beyond(to.Addr()); o != nil {
			if reply := o.Datagram(from, to, b); reply != nil {
				sender.deliver(to, from, reply, true)
			}
		}
	}
	for _, s := range all {
		if s != sender {
			s.deliver(from, to, b, false)
		}
	}
}

// toAll tells whether an address is everybody's: broadcast, also of the sender's subnets, or multicast.
func toAll(s *Stack, a netip.Addr) bool {
	if a.IsMulticast() || a == netip.AddrFrom4([4]byte{255, 255, 255, 255}) {
		return true
	}
	return a.Is4() && slices.ContainsFunc(s.cfg.Addresses, func(p netip.Prefix) bool {
		if p.Bits() > 30 || !p.Contains(a) {
			return false
		}
		b := a.As4()
		host := uint32(1)<<(32-p.Bits()) - 1
		return (uint32(b[0])<<24|uint32(b[1])<<16|uint32(b[2])<<8|uint32(b[3]))&host == host
	})
}

// deliver puts a datagram into the queue of its port. What was sent to everybody is not counted (defender §1.2).
func (s *Stack) deliver(from, to netip.AddrPort, b []byte, counted bool) {
	s.mu.Lock()
	c, _ := s.bound[bind{network.UDP, to.Port()}].(*packetConn)
	off := s.down || s.closed
	s.mu.Unlock()
	if off {
		return
	}
	if counted {
		s.flows.Add(network.Flow{Local: to, Remote: from, Protocol: network.UDP}, false, udpHeader+len(b))
	}
	if c == nil || c.peer.IsValid() && c.peer != from || counted && c.at.IsValid() && !c.at.IsUnspecified() && c.at != to.Addr() || !counted && c.at.IsMulticast() && c.at != to.Addr() {
		return
	}
	c.mu.Lock()
	if !c.closed && len(c.queue) < waiting {
		c.queue = append(c.queue, datagram{from, slices.Clone(b)})
		close(c.change)
		c.change = make(chan struct{})
	}
	c.mu.Unlock()
}

func (c *packetConn) Close() error {
	c.mu.Lock()
	if !c.closed {
		c.closed, c.queue = true, nil
		close(c.change)
		c.change = make(chan struct{})
	}
	c.mu.Unlock()
	c.stack.unbind(network.UDP, c.port, c)
	return nil
}

func (c *packetConn) LocalAddr() net.Addr {
	a := c.at
	if !a.IsValid() {
		a = netip.IPv6Unspecified()
	}
	return net.UDPAddrFromAddrPort(netip.AddrPortFrom(a, c.port))
}

func (c *packetConn) RemoteAddr() net.Addr {
	if !c.peer.IsValid() {
		return nil
	}
	return net.UDPAddrFromAddrPort(c.peer)
}

func (c *packetConn) SetDeadline(t time.Time) error     { c.readDeadline.set(t); return nil }
func (c *packetConn) SetReadDeadline(t time.Time) error { c.readDeadline.set(t); return nil }
func (c *packetConn) SetWriteDeadline(time.Time) error  { return nil } // it never waits
