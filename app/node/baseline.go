package node

import (
	"net"
	"net/netip"

	"github.com/vauban-iot/vauban/defender/baseline"
)

// newBaselines makes what learns and judges the usual behaviour of security groups.
func newBaselines(n *Node, ports *listeners) (*baseline.Service, error) {
	return baseline.New(baseline.Config{
		Log: n.facts, Store: n.State, Raise: n.security.sentry.Raise, Intel: n.indicators.Current, Groups: n.security.groups, Hub: n.controller(ports),
		Logger: n.log, Metrics: n.metrics,
	})
}

// controller is this hub as devices see it. Behind a load balancer they see another address, which the operator gives as a name's.
func (n *Node) controller(ports *listeners) baseline.Controller {
	c := baseline.Controller{Host: n.cfg.Hostname}
	for _, l := range []net.Listener{ports.mqtt, ports.https, ports.amqp} {
		if l == nil {
			continue
		}
		if ap, err := netip.ParseAddrPort(l.Addr().String()); err == nil {
			c.Ports = append(c.Ports, ap.Port())
		}
	}
	addresses, err := net.InterfaceAddrs()
	if err != nil {
		n.log.Warn("the addresses of this machine are not known; my-controller in baselines stands for given ones alone", "err", err)
	}
	for _, a := range addresses {
		if p, err := netip.ParsePrefix(a.String()); err == nil && !p.Addr().IsLoopback() {
			c.Addresses = append(c.Addresses, p.Addr().Unmap().WithZone(""))
		}
	}
	return c
}
