package facade

import (
	"errors"
	"net/netip"

	"github.com/vauban-iot/vauban/board/network"
)

// SYN implements network.Raw. What listens answers, and is told by the stack that there is no connection.
func (s *Stack) SYN(local uint16, to netip.AddrPort) error {
	if err := s.usable(); err != nil {
		return err
	}
	from, err := s.local(to.Addr())
	if err != nil {
		return err
	}
	peer, known := s.segment.host(to.Addr())
	o := network.Outside(nil)
	if !known {
		o = s.beyond(to.Addr())
	}
	if !known && o == nil || peer != nil && !peer.Up() {
		return network.ErrUnreachable
	}
	c := &conn{stack: s, flow: network.Flow{Local: netip.AddrPortFrom(from, local), Remote: to, Protocol: network.TCP}}
	open := false
	switch {
	case peer != nil:
		peer.mu.Lock()
		open = peer.listener(to) != nil
		peer.mu.Unlock()
		other := &conn{stack: peer, flow: network.Flow{Local: to, Remote: c.flow.Local, Protocol: network.TCP}, accepted: true}
		other.probed(open)
	case o != nil:
		inner, err := o.Connect(c.flow.Local, to)
		if errors.Is(err, network.ErrNoAnswer) {
			c.count(true, synHeader)
			return nil
		}
		if open = err == nil; open {
			inner.Close()
		}
	default:
		s.segment.mu.Lock()
		open = s.segment.bridges[network.Endpoint{Protocol: network.TCP, Address: to}] != nil
		s.segment.mu.Unlock()
	}
	c.probed(open)
	return nil
}

// probed counts a first segment without a connection: its answer, and the reset of one that was not asked for.
func (c *conn) probed(open bool) {
	if !open {
		c.count(!c.accepted, synHeader)
		c.count(c.accepted, resetHeader)
		return
	}
	c.count(!c.accepted, synHeader+resetHeader)
	c.count(c.accepted, synHeader)
}
