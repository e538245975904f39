package netstack

import (
	"net/netip"
	"slices"
	"time"

	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/tcpip/header"
	"gvisor.dev/gvisor/pkg/tcpip/network/ipv6"
	"gvisor.dev/gvisor/pkg/tcpip/stack"
)

// announced bounds the routers, and the name servers, that a host learns from announcements.
const announced = 8

// discovery is what IPv6 hears from routers. The stack must not be called from its methods.
type discovery Host

var _ ipv6.NDPDispatcher = (*discovery)(nil)

func (d *discovery) OnDuplicateAddressDetectionResult(tcpip.NICID, tcpip.Address, stack.DADResult) {
	(*Host)(d).change()
}

func (d *discovery) OnOffLinkRouteUpdated(_ tcpip.NICID, to tcpip.Subnet, router tcpip.Address, _ header.NDPRoutePreference) {
	h, r := (*Host)(d), netipAddr(router)
	h.mu.Lock()
	known := h.routers[r]
	if !known && len(h.routers) < announced {
		h.routers[r] = true
	}
	fits := h.routers[r]
	h.mu.Unlock()
	if fits && !known {
		h.later(func() { h.stack.AddRoute(tcpip.Route{Destination: to, Gateway: router, NIC: nic}) })
	}
}

func (d *discovery) OnOffLinkRouteInvalidated(_ tcpip.NICID, to tcpip.Subnet, router tcpip.Address) {
	h := (*Host)(d)
	h.mu.Lock()
	delete(h.routers, netipAddr(router))
	h.mu.Unlock()
	h.later(func() {
		h.stack.RemoveRoutes(func(r tcpip.Route) bool { return r.Destination == to && r.Gateway == router })
	})
}

func (d *discovery) OnOnLinkPrefixDiscovered(_ tcpip.NICID, to tcpip.Subnet) {
	h := (*Host)(d)
	h.later(func() { h.stack.AddRoute(tcpip.Route{Destination: to, NIC: nic}) })
}

func (d *discovery) OnOnLinkPrefixInvalidated(_ tcpip.NICID, to tcpip.Subnet) {
	h := (*Host)(d)
	h.later(func() {
		h.stack.RemoveRoutes(func(r tcpip.Route) bool { return r.Destination == to && r.Gateway == (tcpip.Address{}) })
	})
}

func (d *discovery) OnAutoGenAddress(tcpip.NICID, tcpip.AddressWithPrefix) stack.AddressDispatcher {
	return (*assignment)(d)
}
func (d *discovery) OnAutoGenAddressDeprecated(tcpip.NICID, tcpip.AddressWithPrefix)      {}
func (d *discovery) OnAutoGenAddressInvalidated(tcpip.NICID, tcpip.AddressWithPrefix)     {}
func (d *discovery) OnDNSSearchListOption(tcpip.NICID, []string, time.Duration)           {}
func (d *discovery) OnDHCPv6Configuration(tcpip.NICID, ipv6.DHCPv6ConfigurationFromNDPRA) {}

func (d *discovery) OnRecursiveDNSServerOption(_ tcpip.NICID, servers []tcpip.Address, valid time.Duration) {
	h := (*Host)(d)
	h.mu.Lock()
	defer h.mu.Unlock()
	for _, s := range servers {
		a := netipAddr(s)
		i := slices.Index(h.servers, a)
		switch {
		case valid == 0 && i >= 0:
			h.servers = slices.Delete(h.servers, i, i+1)
		case valid > 0 && i < 0 && len(h.servers) < announced && a != netip.IPv6Unspecified():
			h.servers = append(h.servers, a)
		}
	}
}

// later runs f on a goroutine of its own that Close waits for.
func (h *Host) later(f func()) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if !h.closed {
		h.wg.Go(f)
	}
}
