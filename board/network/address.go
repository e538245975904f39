package network

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"strconv"
)

// Endpoint is a transport and one end of it.
type Endpoint struct {
	Protocol Protocol
	Address  netip.AddrPort
}

// ParseListen reads where to listen; an empty host is all addresses. For an explicit family that is the
// unspecified address of the family; otherwise the address is not valid when the host is empty.
func ParseListen(network, address string) (Endpoint, error) {
	p, family, err := parseNetwork(network)
	if err != nil {
		return Endpoint{}, err
	}
	host, port, err := splitPort(address)
	if err != nil {
		return Endpoint{}, err
	}
	var a netip.Addr
	switch {
	case host != "":
		if a, err = netip.ParseAddr(host); err != nil {
			return Endpoint{}, fmt.Errorf("listen on %q: want an address of the board, such as 10.0.0.7:23, or :23 for all of them", address)
		}
		if a = a.Unmap(); !fits(a, family) {
			return Endpoint{}, fmt.Errorf("listen on %q: not an address of %s", address, network)
		}
	case family == 4:
		a = netip.IPv4Unspecified()
	case family == 6:
		a = netip.IPv6Unspecified()
	}
	return Endpoint{p, netip.AddrPortFrom(a, port)}, nil
}

// Targets reads whom to dial. A name is resolved, and each of its addresses of the right
// family is a target, in the order in which the name servers gave them.
func Targets(ctx context.Context, network, address string, resolve func(ctx context.Context, name string) ([]netip.Addr, error)) ([]Endpoint, error) {
	p, family, err := parseNetwork(network)
	if err != nil {
		return nil, err
	}
	host, port, err := splitPort(address)
	if err != nil {
		return nil, err
	}
	if host == "" || port == 0 {
		return nil, fmt.Errorf("dial %q: want a host and a port, such as hub.example:8883", address)
	}
	as, err := resolve(ctx, host)
	if err != nil {
		return nil, err
	}
	var targets []Endpoint
	for _, a := range as {
		if a = a.Unmap(); fits(a, family) {
			targets = append(targets, Endpoint{p, netip.AddrPortFrom(a, port)})
		}
	}
	if len(targets) == 0 {
		return nil, fmt.Errorf("%w: %s has no address of %s", ErrNoName, host, network)
	}
	return targets, nil
}

func fits(a netip.Addr, family int) bool { return family == 0 || (family == 4) == a.Is4() }

func parseNetwork(network string) (p Protocol, family int, err error) {
	switch network {
	case "tcp", "udp":
	case "tcp4", "udp4":
		family = 4
	case "tcp6", "udp6":
		family = 6
	default:
		return 0, 0, fmt.Errorf("network %q: a board has tcp and udp, tcp4, udp4, tcp6 and udp6", network)
	}
	if network[0] == 'u' {
		p = UDP
	}
	return p, family, nil
}

func splitPort(address string) (string, uint16, error) {
	host, port, err := net.SplitHostPort(address)
	if err != nil {
		return "", 0, fmt.Errorf("address %q: %w", address, err)
	}
	n, err := strconv.ParseUint(port, 10, 16)
	if err != nil {
		return "", 0, fmt.Errorf("address %q: the port is a number up to 65535", address)
	}
	return host, uint16(n), nil
}
