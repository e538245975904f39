package netstack

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"net/netip"
	"time"

	"github.com/insomniacslk/dhcp/dhcpv4"
	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/tcpip/checksum"
	"gvisor.dev/gvisor/pkg/tcpip/header"
)

// lease is what DHCP gave. The zero value: nothing.
type lease struct {
	address                           netip.Prefix
	routers, nameServers, timeServers []netip.Addr
	domain                            string
	server                            netip.Addr
	station                           tcpip.LinkAddress // of the server
	time, renew, rebind               time.Duration
}

const (
	dhcpClient = 68
	dhcpServer = 67
	// Waits between attempts double from dhcpFirst to dhcpLongest (RFC 2131 §4.1 begins at 4 s; a
	// simulated network is quicker).
	dhcpFirst   = time.Second
	dhcpLongest = 16 * time.Second
	leastLease  = time.Second
)

// client asks for an address, and keeps it for as long as the server lets it (RFC 2131 §4.4).
type client struct {
	h       *Host
	rand    *rand.Rand
	replies chan reply
}

type reply struct {
	*dhcpv4.DHCPv4
	station tcpip.LinkAddress
}

func (h *Host) askDHCP() {
	c := &client{h: h, rand: rand.New(rand.NewPCG(h.cfg.Seed, 2)), replies: make(chan reply, 4)}
	take := func(payload []byte, from tcpip.LinkAddress) {
		m, err := dhcpv4.FromBytes(payload)
		if err != nil || m.OpCode != dhcpv4.OpcodeBootReply || !bytes.Equal(m.ClientHWAddr, []byte(h.card.mac)) {
			return
		}
		select {
		case c.replies <- reply{m, from}:
		default: // a client that is that far behind asks again
		}
	}
	h.card.dhcp.Store(&take)
	h.wg.Go(func() { c.run(h.ctx) })
}

func (c *client) run(ctx context.Context) {
	wait := dhcpFirst
	for ctx.Err() == nil {
		l, err := c.obtain(ctx, wait)
		if err != nil {
			wait = min(wait*2, dhcpLongest)
			continue
		}
		wait = dhcpFirst
		c.hold(ctx, l)
	}
}

// obtain is discover, offer, request, acknowledge.
func (c *client) obtain(ctx context.Context, wait time.Duration) (lease, error) {
	x := c.transaction()
	offer, err := c.exchange(ctx, x, nil, wait, dhcpv4.WithMessageType(dhcpv4.MessageTypeDiscover), dhcpv4.WithBroadcast(true))
	if err != nil {
		return lease{}, err
	}
	if offer.MessageType() != dhcpv4.MessageTypeOffer || offer.ServerIdentifier() == nil {
		return lease{}, errors.New("no offer")
	}
	ack, err := c.exchange(ctx, x, nil, wait, dhcpv4.WithMessageType(dhcpv4.MessageTypeRequest), dhcpv4.WithBroadcast(true),
		dhcpv4.WithOption(dhcpv4.OptRequestedIPAddress(offer.YourIPAddr)), dhcpv4.WithOption(dhcpv4.OptServerIdentifier(offer.ServerIdentifier())))
	if err != nil {
		return lease{}, err
	}
	return parseLease(ack)
}

// hold uses an address, renews it in time, and gives it up when that fails.
func (c *client) hold(ctx context.Context, l lease) {
	if c.h.configure(l) != nil {
		c.pause(ctx, dhcpLongest)
		return
	}
	since := time.Now()
	for {
		c.pause(ctx, l.renew-time.Since(since))
		for ctx.Err() == nil {
			held := time.Since(since)
			if held >= l.time {
				c.h.unconfigure(l)
				return
			}
			to := &l
			if held >= l.rebind {
				to = nil // any server
			}
			// Half of what is left, but not again at once (RFC 2131 §4.4.5).
			wait := max((l.time-held)/2, leastLease/4)
			ack, err := c.exchange(ctx, c.transaction(), to, min(wait, dhcpLongest), dhcpv4.WithMessageType(dhcpv4.MessageTypeRequest), dhcpv4.WithClientIP(l.address.Addr().AsSlice()))
			if err != nil {
				continue
			}
			next, err := parseLease(ack)
			if err != nil || next.address != l.address {
				c.h.unconfigure(l) // refused: begin anew
				return
			}
			l, since = next, time.Now()
			c.h.mu.Lock()
			c.h.lease = l
			c.h.mu.Unlock()
			break
		}
		if ctx.Err() != nil {
			return
		}
	}
}

func (c *client) pause(ctx context.Context, d time.Duration) {
	if d <= 0 {
		return
	}
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
	case <-t.C:
	}
}

func (c *client) transaction() (x dhcpv4.TransactionID) {
	binary.BigEndian.PutUint32(x[:], c.rand.Uint32())
	return x
}

// exchange sends one message and waits for its answer. to is whose lease it is about; nil: everybody is asked.
func (c *client) exchange(ctx context.Context, x dhcpv4.TransactionID, to *lease, wait time.Duration, as ...dhcpv4.Modifier) (reply, error) {
	m, err := dhcpv4.New(append([]dhcpv4.Modifier{
		dhcpv4.WithTransactionID(x), dhcpv4.WithHwAddr(net.HardwareAddr(c.h.card.mac)),
		dhcpv4.WithRequestedOptions(dhcpv4.OptionSubnetMask, dhcpv4.OptionRouter, dhcpv4.OptionDomainNameServer, dhcpv4.OptionDomainName, dhcpv4.OptionNTPServers),
	}, as...)...)
	if err != nil {
		return reply{}, err
	}
	if c.h.cfg.Name != "" {
		m.UpdateOption(dhcpv4.OptHostName(c.h.cfg.Name))
	}
	for len(c.replies) > 0 {
		<-c.replies
	}
	c.h.card.send(bootRequest(c.h.card.mac, to, m.ToBytes()))
	ctx, cancel := context.WithTimeout(ctx, wait)
	defer cancel()
	for {
		select {
		case <-ctx.Done():
			return reply{}, ctx.Err()
		case r := <-c.replies:
			if r.TransactionID == x {
				return r, nil
			}
		}
	}
}

// bootRequest is a whole frame: a host without an address cannot ask its stack to send.
func bootRequest(mac tcpip.LinkAddress, to *lease, payload []byte) []byte {
	const head = header.EthernetMinimumSize + header.IPv4MinimumSize + header.UDPMinimumSize
	station, source, destination := header.EthernetBroadcastAddress, header.IPv4Any, header.IPv4Broadcast
	if to != nil {
		station, source, destination = to.station, address(to.address.Addr()), address(to.server)
	}
	frame := make([]byte, head+len(payload))
	copy(frame[head:], payload)
	header.Ethernet(frame).Encode(&header.EthernetFields{SrcAddr: mac, DstAddr: station, Type: header.IPv4ProtocolNumber})
	ip := header.IPv4(frame[header.EthernetMinimumSize:])
	ip.Encode(&header.IPv4Fields{TotalLength: uint16(len(ip)), TTL: 64, Protocol: uint8(header.UDPProtocolNumber), SrcAddr: source, DstAddr: destination})
	ip.SetChecksum(^ip.CalculateChecksum())
	udp := header.UDP(ip[header.IPv4MinimumSize:])
	udp.Encode(&header.UDPFields{SrcPort: dhcpClient, DstPort: dhcpServer, Length: uint16(len(udp))})
	sum := header.PseudoHeaderChecksum(header.UDPProtocolNumber, source, destination, uint16(len(udp)))
	udp.SetChecksum(^udp.CalculateChecksum(checksum.Checksum(payload, sum)))
	return frame
}

// bootReply is the payload of a frame for a DHCP client; nil: it is none.
func bootReply(frame []byte) []byte {
	if header.Ethernet(frame).Type() != header.IPv4ProtocolNumber {
		return nil
	}
	ip := header.IPv4(frame[header.EthernetMinimumSize:])
	if !ip.IsValid(len(ip)) || ip.More() || ip.FragmentOffset() != 0 || ip.TransportProtocol() != header.UDPProtocolNumber {
		return nil
	}
	udp := header.UDP(ip.Payload())
	if len(udp) < header.UDPMinimumSize || int(udp.Length()) > len(udp) || udp.Length() < header.UDPMinimumSize || udp.DestinationPort() != dhcpClient {
		return nil
	}
	return udp[header.UDPMinimumSize:udp.Length()]
}

// limit bounds the addresses of one kind that are taken from an answer.
const limit = 4

func parseLease(m reply) (lease, error) {
	if m.MessageType() != dhcpv4.MessageTypeAck {
		return lease{}, fmt.Errorf("the DHCP server answered %s", m.MessageType())
	}
	a, ok := netip.AddrFromSlice(m.YourIPAddr.To4())
	if !ok || a.IsUnspecified() || a.IsMulticast() || a.IsLoopback() {
		return lease{}, errors.New("the DHCP server gave no address")
	}
	ones, bits := m.SubnetMask().Size()
	if bits != 32 || ones == 0 {
		ones = 24
	}
	l := lease{address: netip.PrefixFrom(a, ones), domain: m.DomainName(), station: m.station}
	l.server, _ = netip.AddrFromSlice(m.ServerIdentifier().To4())
	if !l.server.IsValid() {
		return lease{}, errors.New("the DHCP server did not name itself")
	}
	l.routers, l.nameServers, l.timeServers = addresses(m.Router()), addresses(m.DNS()), addresses(m.NTPServers())
	l.time = max(m.IPAddressLeaseTime(time.Hour), leastLease)
	l.renew, l.rebind = m.IPAddressRenewalTime(l.time/2), m.IPAddressRebindingTime(l.time*7/8)
	if l.renew > l.rebind || l.rebind > l.time {
		l.renew, l.rebind = l.time/2, l.time*7/8
	}
	return l, nil
}

func addresses(ips []net.IP) []netip.Addr {
	var as []netip.Addr
	for _, ip := range ips[:min(len(ips), limit)] {
		if a, ok := netip.AddrFromSlice(ip.To4()); ok {
			as = append(as, a)
		}
	}
	return as
}

func (h *Host) configure(l lease) error {
	if err := h.AddAddress(l.address); err != nil {
		return err
	}
	h.route(l.address.Masked(), netip.Addr{})
	for _, r := range l.routers {
		h.route(everything(r), r)
	}
	h.mu.Lock()
	h.lease = l
	h.mu.Unlock()
	h.change()
	return nil
}

func (h *Host) unconfigure(l lease) {
	h.stack.RemoveRoutes(func(r tcpip.Route) bool {
		return r.Destination == withPrefix(l.address.Masked()).Subnet() || r.Gateway.Len() == header.IPv4AddressSize
	})
	h.stack.RemoveAddress(nic, address(l.address.Addr()))
	h.mu.Lock()
	h.lease = lease{}
	h.mu.Unlock()
	h.change()
}
