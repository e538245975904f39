package netstack

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"

	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/tcpip/adapters/gonet"
	"gvisor.dev/gvisor/pkg/tcpip/header"
	"gvisor.dev/gvisor/pkg/tcpip/transport/tcp"
	"gvisor.dev/gvisor/pkg/tcpip/transport/udp"
	"gvisor.dev/gvisor/pkg/waiter"

	"github.com/vauban-iot/vauban/board/network"
)

// Dial implements network.Stack.
func (h *Host) Dial(ctx context.Context, nw, address string) (net.Conn, error) {
	if err := h.usable(); err != nil {
		return nil, fmt.Errorf("dial %s: %w", address, err)
	}
	targets, err := network.Targets(ctx, nw, address, h.Resolve)
	if err != nil {
		return nil, err
	}
	for _, t := range targets {
		var c net.Conn
		if c, err = h.dial(ctx, t); err == nil {
			return c, nil
		}
		if ctx.Err() != nil {
			break
		}
	}
	return nil, fmt.Errorf("dial %s: %w", address, err)
}

func (h *Host) dial(ctx context.Context, to network.Endpoint) (net.Conn, error) {
	if err := h.speaks(to.Address.Addr()); err != nil {
		return nil, err
	}
	proto := tcp.ProtocolNumber
	if to.Protocol == network.UDP {
		proto = udp.ProtocolNumber
	}
	ep, wq, err := h.bound(proto, netip.AddrPort{}, protocol(to.Address.Addr()))
	if err != nil {
		return nil, err
	}
	done, ready := waiter.NewChannelEntry(waiter.WritableEvents)
	wq.EventRegister(&done)
	defer wq.EventUnregister(&done)
	terr := ep.Connect(full(to.Address))
	if _, ok := terr.(*tcpip.ErrConnectStarted); ok {
		select {
		case <-ctx.Done():
			ep.Abort()
			return nil, ctx.Err()
		case <-h.ctx.Done():
			ep.Abort()
			return nil, network.ErrDown
		case <-ready:
			terr = ep.LastError()
		}
	}
	if terr != nil {
		ep.Close()
		return nil, plain(terr)
	}
	if to.Protocol == network.UDP {
		return gonet.NewUDPConn(wq, ep), nil
	}
	return gonet.NewTCPConn(wq, ep), nil
}

// speaks tells whether the host has an address that can talk to a.
func (h *Host) speaks(a netip.Addr) error {
	if slices.ContainsFunc(h.Settings().Addresses, func(p netip.Prefix) bool {
		return p.Addr().Is4() == a.Is4() && (!p.Addr().IsLinkLocalUnicast() || a.Is4() || a.IsLinkLocalUnicast() || a.IsMulticast())
	}) {
		return nil
	}
	return network.ErrNoAddress
}

// bound opens an endpoint at a local port, of the board's row unless at has one.
func (h *Host) bound(proto tcpip.TransportProtocolNumber, at netip.AddrPort, family tcpip.NetworkProtocolNumber) (tcpip.Endpoint, *waiter.Queue, error) {
	wq := new(waiter.Queue)
	ep, terr := h.stack.NewEndpoint(proto, family, wq)
	if terr != nil {
		return nil, nil, plain(terr)
	}
	local := full(at)
	local.NIC = 0
	if at.Addr().Is6() && at.Addr().IsUnspecified() {
		ep.SocketOptions().SetV6Only(true)
	}
	for range network.Tries {
		if at.Port() == 0 {
			local.Port = h.ports.Next()
		}
		terr = ep.Bind(local)
		if _, taken := terr.(*tcpip.ErrPortInUse); !taken || at.Port() != 0 {
			break
		}
	}
	if terr != nil {
		ep.Close()
		if _, taken := terr.(*tcpip.ErrPortInUse); taken && at.Port() == 0 {
			return nil, nil, network.ErrPorts
		}
		return nil, nil, plain(terr)
	}
	return ep, wq, nil
}

// family is that of a listener. Without an address it takes both: IPv4 comes to it as mapped IPv6.
func family(a netip.Addr) tcpip.NetworkProtocolNumber {
	if a.Is4() {
		return header.IPv4ProtocolNumber
	}
	return header.IPv6ProtocolNumber
}

// backlog bounds the connections that wait to be accepted.
const backlog = 16

// Listen implements network.Stack.
func (h *Host) Listen(nw, address string) (net.Listener, error) {
	at, err := network.ParseListen(nw, address)
	if err != nil {
		return nil, err
	}
	if at.Protocol != network.TCP {
		return nil, fmt.Errorf("listen on %s %s: want tcp; ListenPacket is for udp", nw, address)
	}
	ep, wq, err := h.bound(tcp.ProtocolNumber, at.Address, family(at.Address.Addr()))
	if err != nil {
		return nil, fmt.Errorf("listen on %s: %w", address, err)
	}
	if terr := ep.Listen(backlog); terr != nil {
		ep.Close()
		return nil, fmt.Errorf("listen on %s: %w", address, plain(terr))
	}
	return gonet.NewTCPListener(h.stack, wq, ep), nil
}

// ListenPacket implements network.Stack.
func (h *Host) ListenPacket(nw, address string) (net.PacketConn, error) {
	at, err := network.ParseListen(nw, address)
	if err != nil {
		return nil, err
	}
	if at.Protocol != network.UDP {
		return nil, fmt.Errorf("listen on %s %s: want udp; Listen is for tcp", nw, address)
	}
	local, group := at.Address, at.Address.Addr()
	if group.IsMulticast() {
		local = netip.AddrPortFrom(netip.IPv4Unspecified(), local.Port())
		if group.Is6() {
			local = netip.AddrPortFrom(netip.IPv6Unspecified(), local.Port())
		}
	}
	ep, wq, err := h.bound(udp.ProtocolNumber, local, family(local.Addr()))
	if err != nil {
		return nil, fmt.Errorf("listen on %s: %w", address, err)
	}
	if group.IsMulticast() { // leaves it when closed
		if terr := ep.SetSockOpt(&tcpip.AddMembershipOption{NIC: nic, MulticastAddr: tcpip.AddrFromSlice(group.AsSlice())}); terr != nil {
			ep.Close()
			return nil, fmt.Errorf("listen on %s: %w", address, plain(terr))
		}
	}
	ep.SocketOptions().SetBroadcast(true)
	return gonet.NewUDPConn(wq, ep), nil
}

// plain turns an error of the stack into one of network's.
func plain(err tcpip.Error) error {
	switch err.(type) {
	case *tcpip.ErrConnectionRefused:
		return network.ErrRefused
	case *tcpip.ErrHostUnreachable, *tcpip.ErrNetworkUnreachable:
		return network.ErrUnreachable
	case *tcpip.ErrPortInUse:
		return errors.New("the port is taken")
	case *tcpip.ErrBadLocalAddress:
		return errors.New("the board does not have this address")
	}
	return errors.New(err.String())
}
