// Package outward connects to servers that people name: receivers of routes, events, exports and webhooks, and publishers of feeds.
// They may be anywhere, this machine and the plant's own networks included, but not where machines keep services for themselves: at those
// addresses clouds give out the credentials of their machines to whoever asks from there.
package outward

import (
	"fmt"
	"net"
	"net/netip"
	"syscall"
	"time"
)

// Dialer returns one that refuses such addresses. It looks at the address that is connected to, so it matters not which name or which
// redirect led there. timeout bounds one attempt to connect.
func Dialer(timeout time.Duration) *net.Dialer {
	return &net.Dialer{Timeout: timeout, Control: func(_, address string, _ syscall.RawConn) error {
		ap, err := netip.ParseAddrPort(address)
		if err != nil {
			return err
		}
		return Refuse(ap.Addr())
	}}
}

// metadata6 is where EC2 machines ask for their credentials over IPv6; over IPv4 all clouds use link-local addresses.
var metadata6 = netip.MustParseAddr("fd00:ec2::254")

// Refuse says why nothing connects to an address, or nil.
func Refuse(a netip.Addr) error {
	switch a = a.Unmap().WithZone(""); {
	case a.IsLinkLocalUnicast(), a == metadata6:
		return fmt.Errorf("%s is an address of the machine's own services, to which this server does not connect", a)
	case a.IsMulticast(), a.IsUnspecified():
		return fmt.Errorf("%s is the address of no server", a)
	}
	return nil
}
