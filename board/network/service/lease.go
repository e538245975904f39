package service

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"sync"
	"time"

	"github.com/insomniacslk/dhcp/dhcpv4"
)

// LeaseConfig describes a DHCP server (RFC 2131).
type LeaseConfig struct {
	Server      netip.Addr   // its own address. Required
	Subnet      netip.Prefix // of the addresses. Required
	First, Last netip.Addr   // what it gives away, of the subnet. Required
	Time        time.Duration
	Routers     []netip.Addr
	NameServers []netip.Addr
	TimeServers []netip.Addr
	Domain      string
	Now         func() time.Time // nil: time.Now
}

// offered is how long an offer is kept for who asked.
const offered = 10 * time.Second

// leaseLimit bounds the addresses of one server.
const leaseLimit = 1 << 16

// Leases is the server: who has which address until when. It may be used by any goroutine.
type Leases struct {
	cfg LeaseConfig

	mu     sync.Mutex
	slots  []slot // of First and those after it
	byHost map[[6]byte]int
	next   int // where the search for a free one begins
}

type slot struct {
	host  [6]byte
	until time.Time
	held  bool // else offered, free, or found in use by somebody else
}

// NewLeases checks cfg.
func NewLeases(cfg LeaseConfig) (*Leases, error) {
	if cfg.Time == 0 {
		cfg.Time = time.Hour
	}
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	switch {
	case !cfg.Server.Is4() || !cfg.Subnet.IsValid() || !cfg.Subnet.Addr().Is4():
		return nil, errors.New("DHCP needs the server's IPv4 address and the subnet of the addresses")
	case !cfg.Subnet.Contains(cfg.First) || !cfg.Subnet.Contains(cfg.Last) || cfg.Last.Less(cfg.First):
		return nil, fmt.Errorf("DHCP: from %s to %s is no row of addresses in %s", cfg.First, cfg.Last, cfg.Subnet)
	case number(cfg.Last)-number(cfg.First) >= leaseLimit:
		return nil, fmt.Errorf("DHCP: from %s to %s are more than %d addresses", cfg.First, cfg.Last, leaseLimit)
	case !cfg.Server.Less(cfg.First) && !cfg.Last.Less(cfg.Server):
		return nil, fmt.Errorf("DHCP: %s is the server's own", cfg.Server)
	case cfg.Time < time.Second:
		return nil, fmt.Errorf("DHCP: a lease of %v; a second at least", cfg.Time)
	}
	return &Leases{cfg: cfg, slots: make([]slot, number(cfg.Last)-number(cfg.First)+1), byHost: map[[6]byte]int{}}, nil
}

func number(a netip.Addr) uint32 {
	b := a.As4()
	return binary.BigEndian.Uint32(b[:])
}

func (l *Leases) address(i int) netip.Addr {
	var b [4]byte
	binary.BigEndian.PutUint32(b[:], number(l.cfg.First)+uint32(i))
	return netip.AddrFrom4(b)
}

func (l *Leases) index(ip net.IP) (int, bool) {
	a, ok := netip.AddrFromSlice(ip.To4())
	if !ok || a.Less(l.cfg.First) || l.cfg.Last.Less(a) {
		return 0, false
	}
	return int(number(a) - number(l.cfg.First)), true
}

// Answer is what the server says to a message, and to whom: the zero address is everybody. nil: nothing.
func (l *Leases) Answer(message []byte) (reply []byte, to netip.Addr) {
	m, err := dhcpv4.FromBytes(message)
	if err != nil || m.OpCode != dhcpv4.OpcodeBootRequest || len(m.ClientHWAddr) != 6 {
		return nil, to
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	host, now := [6]byte(m.ClientHWAddr), l.cfg.Now()
	switch m.MessageType() {
	case dhcpv4.MessageTypeDiscover:
		i, ok := l.find(host, m.RequestedIPAddress(), now)
		if !ok {
			return nil, to // all are taken: who asks, asks again
		}
		if s := &l.slots[i]; !s.held || s.host != host || s.until.Before(now) {
			l.give(i, host, now.Add(offered), false)
		}
		return l.reply(m, dhcpv4.MessageTypeOffer, l.address(i)), to
	case dhcpv4.MessageTypeRequest:
		return l.request(m, host, now)
	case dhcpv4.MessageTypeRelease, dhcpv4.MessageTypeDecline:
		ip, bad := m.ClientIPAddr, m.MessageType() == dhcpv4.MessageTypeDecline
		if bad {
			ip = m.RequestedIPAddress()
		}
		if i, ok := l.index(ip); ok && l.byHost[host] == i && l.slots[i].host == host {
			l.free(i)
			if bad { // somebody else has it: nobody gets it for the time of a lease
				l.slots[i].until = now.Add(l.cfg.Time)
			}
		}
	case dhcpv4.MessageTypeInform:
		a, _ := netip.AddrFromSlice(m.ClientIPAddr.To4())
		return l.reply(m, dhcpv4.MessageTypeAck, netip.Addr{}), a
	}
	return nil, to
}

// request is a choice of an offer, or the renewal of a lease (RFC 2131 §4.3.2).
func (l *Leases) request(m *dhcpv4.DHCPv4, host [6]byte, now time.Time) ([]byte, netip.Addr) {
	var to netip.Addr
	wanted, chosen := m.RequestedIPAddress(), m.ServerIdentifier()
	if chosen != nil {
		if a, _ := netip.AddrFromSlice(chosen.To4()); a != l.cfg.Server {
			if i, ok := l.byHost[host]; ok && !l.slots[i].held {
				l.free(i) // it took another's offer
			}
			return nil, to
		}
	}
	if wanted == nil {
		wanted = m.ClientIPAddr
		to, _ = netip.AddrFromSlice(wanted.To4())
	}
	i, ok := l.index(wanted)
	if !ok {
		return l.reply(m, dhcpv4.MessageTypeNak, netip.Addr{}), netip.Addr{}
	}
	if s := l.slots[i]; s.host != host && s.until.After(now) || s.host == host && s.until.Before(now) && chosen != nil {
		return l.reply(m, dhcpv4.MessageTypeNak, netip.Addr{}), netip.Addr{}
	}
	l.give(i, host, now.Add(l.cfg.Time), true)
	return l.reply(m, dhcpv4.MessageTypeAck, l.address(i)), to
}

// find looks for an address: the host's own, the one that it asks for, one that nobody had, one whose lease is over.
func (l *Leases) find(host [6]byte, wanted net.IP, now time.Time) (int, bool) {
	if i, ok := l.byHost[host]; ok {
		return i, true
	}
	if i, ok := l.index(wanted); ok && !l.slots[i].until.After(now) {
		return i, true
	}
	over := -1
	for k := range l.slots {
		i := (l.next + k) % len(l.slots)
		switch s := &l.slots[i]; {
		case s.until.IsZero():
			l.next = i
			return i, true
		case !s.until.After(now) && (over < 0 || s.until.Before(l.slots[over].until)):
			over = i
		}
	}
	return over, over >= 0
}

func (l *Leases) give(i int, host [6]byte, until time.Time, held bool) {
	if j, ok := l.byHost[host]; ok && j != i {
		l.free(j)
	}
	if s := l.slots[i]; s.host != host {
		delete(l.byHost, s.host)
	}
	l.slots[i] = slot{host, until, held}
	l.byHost[host] = i
}

func (l *Leases) free(i int) {
	delete(l.byHost, l.slots[i].host)
	l.slots[i] = slot{}
}

// Held counts the leases that run.
func (l *Leases) Held() int {
	l.mu.Lock()
	defer l.mu.Unlock()
	n, now := 0, l.cfg.Now()
	for _, s := range l.slots {
		if s.held && s.until.After(now) {
			n++
		}
	}
	return n
}

func (l *Leases) reply(m *dhcpv4.DHCPv4, t dhcpv4.MessageType, a netip.Addr) []byte {
	r, err := dhcpv4.NewReplyFromRequest(m, dhcpv4.WithMessageType(t), dhcpv4.WithOption(dhcpv4.OptServerIdentifier(l.cfg.Server.AsSlice())))
	if err != nil {
		return nil
	}
	if t == dhcpv4.MessageTypeNak {
		return r.ToBytes()
	}
	if a.IsValid() {
		r.YourIPAddr = a.AsSlice()
		r.UpdateOption(dhcpv4.OptIPAddressLeaseTime(l.cfg.Time))
	}
	r.UpdateOption(dhcpv4.OptSubnetMask(net.CIDRMask(l.cfg.Subnet.Bits(), 32)))
	if len(l.cfg.Routers) > 0 {
		r.UpdateOption(dhcpv4.OptRouter(slice(l.cfg.Routers)...))
	}
	if len(l.cfg.NameServers) > 0 {
		r.UpdateOption(dhcpv4.OptDNS(slice(l.cfg.NameServers)...))
	}
	if len(l.cfg.TimeServers) > 0 {
		r.UpdateOption(dhcpv4.OptNTPServers(slice(l.cfg.TimeServers)...))
	}
	if l.cfg.Domain != "" {
		r.UpdateOption(dhcpv4.OptDomainName(l.cfg.Domain))
	}
	return r.ToBytes()
}

func slice(as []netip.Addr) []net.IP {
	ips := make([]net.IP, len(as))
	for i, a := range as {
		ips[i] = a.AsSlice()
	}
	return ips
}
