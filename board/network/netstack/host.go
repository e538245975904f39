// Package netstack is a board's network made of packets: gVisor's TCP/IP stack over a card on a
// virtual switch. IPv4 and IPv6, TCP, UDP, ICMP echo, ARP and neighbour discovery, addresses by DHCP and from
// router advertisements, or given.
//
// The stack lives in real time. It has timers and goroutines of its own, among them those that
// process TCP, and nothing tells when they have come to rest: advancing a clock by hand would race with them.
// So Host takes no clock, and boards in virtual time use package facade. What repeats with the same
// seed is the board's addresses, ports, and sequence numbers, not the moments of its packets.
package netstack

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"slices"
	"sync"
	"time"

	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/tcpip/header"
	"gvisor.dev/gvisor/pkg/tcpip/network/arp"
	"gvisor.dev/gvisor/pkg/tcpip/network/ipv4"
	"gvisor.dev/gvisor/pkg/tcpip/network/ipv6"
	"gvisor.dev/gvisor/pkg/tcpip/stack"
	"gvisor.dev/gvisor/pkg/tcpip/transport/icmp"
	"gvisor.dev/gvisor/pkg/tcpip/transport/tcp"
	"gvisor.dev/gvisor/pkg/tcpip/transport/udp"

	"github.com/vauban-iot/vauban/board/network"
	"github.com/vauban-iot/vauban/board/network/lan"
)

// Config describes a host.
type Config struct {
	Switch *lan.Switch // required
	Link   lan.Link
	MAC    lan.MAC // required, and of one station
	Name   string  // told to DHCP
	Seed   uint64  // of ports and sequence numbers

	// Addresses given by hand, with the length of their subnet; without any of IPv4, DHCP is asked.
	// IPv6 addresses come from router advertisements besides.
	Addresses []netip.Prefix
	// Routers, NameServers and TimeServers go with Addresses; DHCP's answers replace those of IPv4.
	Routers     []netip.Addr
	NameServers []netip.Addr
	TimeServers []netip.Addr

	// Router makes it one that announces instead of listening to announcements.
	Router bool
	// Outside is the world for which the host stands as their router; nil: it is itself only.
	Outside network.Outside
	// Watch is told of every frame that the card sends or takes, before anybody else is. It may keep
	// nothing of it and must not wait; nil: nobody watches.
	Watch func(frame []byte, sent bool)
	// Buffer bounds what one TCP connection may keep in either direction, in bytes; 0: 32 KiB.
	Buffer int
}

const (
	nic           = tcpip.NICID(1)
	defaultBuffer = 32 << 10
	leastBuffer   = 4 << 10
)

// Host is a network.Stack.
type Host struct {
	cfg   Config
	stack *stack.Stack
	card  *card
	ports *network.Ports

	cancel context.CancelFunc
	ctx    context.Context
	wg     sync.WaitGroup

	mu      sync.Mutex
	routers map[netip.Addr]bool // of IPv6, announced
	servers []netip.Addr        // name servers announced
	lease   lease
	closed  bool
	changed chan struct{} // closed when settings change
}

var (
	_ network.Stack = (*Host)(nil)
	_ network.Raw   = (*Host)(nil)
)

// Open plugs a host into its switch. It must be closed.
func Open(cfg Config) (*Host, error) {
	if cfg.Switch == nil || cfg.MAC == (lan.MAC{}) || cfg.MAC[0]&1 != 0 {
		return nil, errors.New("a host needs a switch and the address of one station (MAC)")
	}
	cfg.Buffer = max(cmp.Or(cfg.Buffer, defaultBuffer), leastBuffer)
	h := &Host{cfg: cfg, ports: network.NewPorts(cfg.Seed), routers: map[netip.Addr]bool{}, changed: make(chan struct{})}
	h.ctx, h.cancel = context.WithCancel(context.Background())
	h.card = &card{mac: tcpip.LinkAddress(cfg.MAC[:]), watch: cfg.Watch}
	six := ipv6.Options{
		AutoGenLinkLocal: true,
		DADConfigs:       stack.DADConfigurations{DupAddrDetectTransmits: 1, RetransmitTimer: time.Second},
		NDPDisp:          (*discovery)(h),
	}
	if !cfg.Router {
		six.NDPConfigs = ipv6.NDPConfigurations{
			MaxRtrSolicitations: 3, RtrSolicitationInterval: 4 * time.Second, HandleRAs: ipv6.HandlingRAsEnabledWhenForwardingDisabled,
			DiscoverDefaultRouters: true, DiscoverOnLinkPrefixes: true, AutoGenGlobalAddresses: true,
		}
	}
	h.stack = stack.New(stack.Options{
		NetworkProtocols:   []stack.NetworkProtocolFactory{ipv4.NewProtocol, ipv6.NewProtocolWithOptions(six), arp.NewProtocol},
		TransportProtocols: []stack.TransportProtocolFactory{tcp.NewProtocol, udp.NewProtocol, icmp.NewProtocol4, icmp.NewProtocol6},
		RandSource:         &source{src: rand.NewPCG(cfg.Seed, 1)},
		HandleLocal:        cfg.Outside == nil, // who stands for everybody would talk to itself only
	})
	if err := h.setUp(); err != nil {
		h.Close()
		return nil, err
	}
	return h, nil
}

// source makes a generator safe for the stack's goroutines, in the shape of math/rand.
type source struct {
	mu  sync.Mutex
	src *rand.PCG
}

func (s *source) Int63() int64 {
	s.mu.Lock()
	defer s.mu.Unlock()
	return int64(s.src.Uint64() >> 1)
}

func (s *source) Seed(seed int64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.src.Seed(uint64(seed), 1)
}

func (h *Host) setUp() error {
	rcv := tcpip.TCPReceiveBufferSizeRangeOption{Min: leastBuffer, Default: min(h.cfg.Buffer, 16<<10), Max: h.cfg.Buffer}
	snd := tcpip.TCPSendBufferSizeRangeOption{Min: leastBuffer, Default: min(h.cfg.Buffer, 16<<10), Max: h.cfg.Buffer}
	sack := tcpip.TCPSACKEnabled(true)
	for _, o := range []tcpip.SettableTransportProtocolOption{&rcv, &snd, &sack} {
		if err := h.stack.SetTransportProtocolOption(tcp.ProtocolNumber, o); err != nil {
			return fmt.Errorf("TCP option %T: %s", o, err)
		}
	}
	port, err := h.cfg.Switch.Connect(h.cfg.Link, h.card.receive)
	if err != nil {
		return err
	}
	h.card.port = port
	if err := h.stack.CreateNIC(nic, h.card); err != nil {
		return fmt.Errorf("the card: %s", err)
	}
	four := false
	for _, p := range h.cfg.Addresses {
		if err := h.AddAddress(p); err != nil {
			return err
		}
		h.route(p.Masked(), netip.Addr{})
		four = four || p.Addr().Is4()
	}
	h.route(netip.MustParsePrefix("fe80::/64"), netip.Addr{})
	h.route(netip.MustParsePrefix("224.0.0.0/4"), netip.Addr{})
	h.route(netip.MustParsePrefix("ff00::/8"), netip.Addr{})
	h.route(netip.PrefixFrom(netip.AddrFrom4([4]byte{255, 255, 255, 255}), 32), netip.Addr{})
	for _, r := range h.cfg.Routers {
		h.route(everything(r), r)
	}
	if h.cfg.Outside != nil {
		if err := h.standFor(h.cfg.Outside); err != nil {
			return fmt.Errorf("the outside: %w", err)
		}
	}
	if !four && !h.cfg.Router {
		h.askDHCP()
	}
	return nil
}

func everything(like netip.Addr) netip.Prefix {
	if like.Is4() {
		return netip.PrefixFrom(netip.IPv4Unspecified(), 0)
	}
	return netip.PrefixFrom(netip.IPv6Unspecified(), 0)
}

// AddAddress gives the host one more address.
func (h *Host) AddAddress(p netip.Prefix) error {
	if err := h.stack.AddProtocolAddress(nic, tcpip.ProtocolAddress{Protocol: protocol(p.Addr()), AddressWithPrefix: withPrefix(p)}, stack.AddressProperties{Disp: (*assignment)(h)}); err != nil {
		return fmt.Errorf("address %s: %s", p, err)
	}
	return nil
}

// assignment hears when an address may be used: those of IPv6 are first looked for on the network.
type assignment Host

func (a *assignment) OnChanged(stack.AddressLifetimes, stack.AddressAssignmentState) {
	(*Host)(a).change()
}
func (a *assignment) OnRemoved(stack.AddressRemovalReason) { (*Host)(a).change() }

// change wakes who waits in Ready.
func (h *Host) change() {
	h.mu.Lock()
	close(h.changed)
	h.changed = make(chan struct{})
	h.mu.Unlock()
}

func (h *Host) route(to netip.Prefix, via netip.Addr) {
	r := tcpip.Route{Destination: withPrefix(to).Subnet(), NIC: nic}
	if via.IsValid() {
		r.Gateway = address(via)
	}
	h.stack.AddRoute(r)
}

func address(a netip.Addr) tcpip.Address { return tcpip.AddrFromSlice(a.AsSlice()) }

func netipAddr(a tcpip.Address) netip.Addr {
	n, _ := netip.AddrFromSlice(a.AsSlice())
	return n
}

func withPrefix(p netip.Prefix) tcpip.AddressWithPrefix {
	return tcpip.AddressWithPrefix{Address: address(p.Addr()), PrefixLen: p.Bits()}
}

func protocol(a netip.Addr) tcpip.NetworkProtocolNumber {
	if a.Is4() {
		return header.IPv4ProtocolNumber
	}
	return header.IPv6ProtocolNumber
}

func full(a netip.AddrPort) tcpip.FullAddress {
	f := tcpip.FullAddress{NIC: nic, Port: a.Port()}
	if a.Addr().IsValid() && !a.Addr().IsUnspecified() {
		f.Addr = address(a.Addr())
	}
	return f
}

// Settings implements network.Stack. Link-local addresses come last.
func (h *Host) Settings() network.Settings {
	var s network.Settings
	for _, p := range h.stack.AllAddresses()[nic] {
		a := netipAddr(p.AddressWithPrefix.Address)
		if !a.IsValid() || a == netip.AddrFrom4([4]byte{255, 255, 255, 255}) || h.stack.CheckLocalAddress(nic, p.Protocol, p.AddressWithPrefix.Address) == 0 {
			continue
		}
		s.Addresses = append(s.Addresses, netip.PrefixFrom(a, p.AddressWithPrefix.PrefixLen))
	}
	slices.SortFunc(s.Addresses, func(a, b netip.Prefix) int {
		x, y := a.Addr(), b.Addr()
		if x.IsLinkLocalUnicast() != y.IsLinkLocalUnicast() {
			if y.IsLinkLocalUnicast() {
				return -1
			}
			return 1
		}
		return x.Compare(y)
	})
	h.mu.Lock()
	defer h.mu.Unlock()
	s.Routers, s.NameServers, s.TimeServers = slices.Clone(h.cfg.Routers), slices.Clone(h.cfg.NameServers), slices.Clone(h.cfg.TimeServers)
	if h.lease.address.IsValid() {
		s.Routers = append(s.Routers, h.lease.routers...)
		s.NameServers = append(s.NameServers, h.lease.nameServers...)
		s.TimeServers = append(s.TimeServers, h.lease.timeServers...)
		s.Domain, s.Leased = h.lease.domain, h.lease.time
	}
	for r := range h.routers {
		s.Routers = append(s.Routers, r)
	}
	slices.SortFunc(s.Routers, netip.Addr.Compare)
	s.NameServers = append(s.NameServers, h.servers...)
	return s
}

// Ready implements network.Stack. The first address that is not link-local will do, of IPv4
// when DHCP or the configuration is to give one.
func (h *Host) Ready(ctx context.Context) error {
	for {
		h.mu.Lock()
		changed, closed := h.changed, h.closed
		h.mu.Unlock()
		if closed {
			return network.ErrDown
		}
		if h.ready() {
			return nil
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("waiting for an address: %w", ctx.Err())
		case <-changed:
		}
	}
}

func (h *Host) ready() bool {
	have := map[netip.Addr]bool{}
	four := false
	for _, p := range h.Settings().Addresses {
		have[p.Addr()] = true
		four = four || p.Addr().Is4()
	}
	for _, p := range h.cfg.Addresses {
		if !have[p.Addr()] {
			return false
		}
	}
	return four || len(h.cfg.Addresses) > 0
}

// SetUp implements network.Stack. Connections that are open wait, as TCP does, until the cable is in
// again or they time out.
func (h *Host) SetUp(up bool) { h.card.port.SetUp(up) }

// Up implements network.Stack.
func (h *Host) Up() bool { return h.card.port.Up() }

// Send puts a frame on the cable that the stack knows nothing of.
func (h *Host) Send(frame []byte) { h.card.send(frame) }

// Port is the host's socket of the switch: its cable, group and counts.
func (h *Host) Port() *lan.Port { return h.card.port }

// Collect implements network.Stack.
func (h *Host) Collect() network.Activity { return h.card.observer.Flows.Collect() }

// Close implements network.Stack.
func (h *Host) Close() error {
	h.mu.Lock()
	if h.closed {
		h.mu.Unlock()
		return nil
	}
	h.closed = true
	h.mu.Unlock()
	h.cancel()
	h.wg.Wait()
	h.change()
	h.stack.Close()
	if h.card.port != nil {
		h.card.port.Disconnect()
	}
	h.stack.RemoveNIC(nic)
	h.stack.Wait()
	return nil
}

func (h *Host) usable() error {
	h.mu.Lock()
	closed := h.closed
	h.mu.Unlock()
	if closed || !h.Up() {
		return network.ErrDown
	}
	return nil
}

// Resolve implements network.Stack.
func (h *Host) Resolve(ctx context.Context, name string) ([]netip.Addr, error) {
	return network.Lookup(ctx, h, name)
}
