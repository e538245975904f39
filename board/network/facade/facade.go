// Package facade is a board's network without packets, for fleets too large for a TCP/IP stack
// each, and for virtual time. Boards attach to a [Segment], a table of who is where. A connection to another
// board is a buffer in memory; one to the platform is made by a dialer that the segment is given.
//
// The security module sees the same flows as over packets: protocol, addresses, ports of the
// board's own row. UDP and ICMP are counted exactly. Of TCP only the bytes that the program wrote and read are
// known, so its headers are estimated as package netstack would send them without loss:
//
//   - 40 bytes of TCP header on SYN and SYN-ACK, 32 (with timestamps) on all others, segments of up to 1448 bytes;
//   - three segments to open, two in each direction to close, SYN and reset (20) when refused;
//   - one acknowledgement for every two segments of what goes in one direction without an answer.
//
// There are no ARP, DHCP or neighbour discovery, and nothing is lost or late. Dial and what comes of it start no goroutine; an
// open connection has a timer only while a deadline is set, by the machine's clock.
package facade

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"slices"
	"sync"
	"time"

	"github.com/vauban-iot/vauban/board/network"
)

// Dialer makes a connection to whom an address of the segment stands for.
type Dialer func(ctx context.Context) (net.Conn, error)

// Answerer is a service behind a UDP port; nil: no answer.
type Answerer func(from netip.Addr, query []byte) []byte

// Segment is the network that boards share. Its methods may be called by any goroutine.
type Segment struct {
	mu      sync.Mutex
	hosts   map[netip.Addr]*Stack
	order   []*Stack // as attached: broadcasts ask no map
	bridges map[network.Endpoint]Dialer
	answers map[netip.AddrPort]Answerer
	served  map[netip.Addr]bool // addresses of bridges and answers
	outside network.Outside     // nil: the segment is all there is
}

// New makes a segment with nobody on it.
func New() *Segment {
	return &Segment{hosts: map[netip.Addr]*Stack{}, bridges: map[network.Endpoint]Dialer{}, answers: map[netip.AddrPort]Answerer{}, served: map[netip.Addr]bool{}}
}

// Bridge lets dial make the connections to an address. nw is tcp or udp; connections of udp must keep datagrams apart.
func (g *Segment) Bridge(nw string, at netip.AddrPort, dial Dialer) error {
	e, err := network.ParseListen(nw, at.String())
	if err != nil {
		return err
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	g.bridges[e], g.served[e.Address.Addr()] = dial, true
	return nil
}

// Answer puts a service behind a UDP port: answer is called with each datagram, and what it gives goes back at once. nil: nothing does.
func (g *Segment) Answer(at netip.AddrPort, answer func(query []byte) []byte) {
	g.AnswerEach(at, func(_ netip.Addr, query []byte) []byte { return answer(query) })
}

// AnswerEach is Answer for a service that answers each board differently.
func (g *Segment) AnswerEach(at netip.AddrPort, answer Answerer) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.answers[at], g.served[at.Addr()] = answer, true
}

// Outside puts a world behind the segment's router: boards that have a router reach it at the addresses that are not on their subnets and not
// served on the segment. nil: there is none.
func (g *Segment) Outside(o network.Outside) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.outside = o
}

// Call makes a connection from outside to a board, which must listen.
func (g *Segment) Call(ctx context.Context, from, to netip.AddrPort) (net.Conn, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	g.mu.Lock()
	peer := g.hosts[to.Addr()]
	g.mu.Unlock()
	if peer == nil || !peer.Up() {
		return nil, network.ErrUnreachable
	}
	var carrier net.Conn
	err := peer.accept(from, to, func(c net.Conn) bool { carrier = c; return true })
	return carrier, err
}

// beyond is the world behind the router for an address; nil: none leads there.
func (s *Stack) beyond(a netip.Addr) network.Outside {
	routed := slices.ContainsFunc(s.cfg.Routers, func(r netip.Addr) bool { return r.Is4() == a.Is4() }) &&
		!slices.ContainsFunc(s.cfg.Addresses, func(p netip.Prefix) bool { return p.Contains(a) })
	if !routed {
		return nil
	}
	s.segment.mu.Lock()
	defer s.segment.mu.Unlock()
	return s.segment.outside
}

// Config describes a board's place on a segment.
type Config struct {
	Addresses   []netip.Prefix // at least one, nobody else's
	Routers     []netip.Addr
	NameServers []netip.Addr
	TimeServers []netip.Addr
	Seed        uint64 // of its ports
}

// Stack is a network.Stack.
type Stack struct {
	segment *Segment
	cfg     Config
	ports   *network.Ports
	flows   network.Flows

	mu       sync.Mutex // taken after segment.mu, never before
	bound    map[bind]io.Closer
	accepted map[*conn]struct{}
	down     bool
	closed   bool
}

type bind struct {
	protocol network.Protocol
	port     uint16
}

var (
	_ network.Stack = (*Stack)(nil)
	_ network.Raw   = (*Stack)(nil)
)

// Attach puts a board on the segment.
func (g *Segment) Attach(cfg Config) (*Stack, error) {
	if len(cfg.Addresses) == 0 {
		return nil, errors.New("a board on a segment needs an address: there is nobody to give it one")
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	for i, p := range cfg.Addresses {
		if !p.IsValid() || p.Addr().IsUnspecified() || p.Addr().IsMulticast() {
			return nil, fmt.Errorf("%s is no address of a board", p)
		}
		if g.hosts[p.Addr()] != nil || g.served[p.Addr()] || slices.ContainsFunc(cfg.Addresses[:i], func(q netip.Prefix) bool { return q.Addr() == p.Addr() }) {
			return nil, fmt.Errorf("%s is taken", p.Addr())
		}
	}
	s := &Stack{segment: g, cfg: cfg, ports: network.NewPorts(cfg.Seed)}
	for _, p := range cfg.Addresses {
		g.hosts[p.Addr()] = s
	}
	g.order = append(g.order, s)
	return s, nil
}

// Ready implements network.Stack: a board has its addresses from the beginning.
func (s *Stack) Ready(context.Context) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return network.ErrDown
	}
	return nil
}

// Settings implements network.Stack.
func (s *Stack) Settings() network.Settings {
	return network.Settings{
		Addresses: slices.Clone(s.cfg.Addresses), Routers: slices.Clone(s.cfg.Routers),
		NameServers: slices.Clone(s.cfg.NameServers), TimeServers: slices.Clone(s.cfg.TimeServers),
	}
}

// Resolve implements network.Stack.
func (s *Stack) Resolve(ctx context.Context, name string) ([]netip.Addr, error) {
	return network.Lookup(ctx, s, name)
}

// Collect implements network.Stack.
func (s *Stack) Collect() network.Activity { return s.flows.Collect() }

// Up implements network.Stack.
func (s *Stack) Up() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return !s.down && !s.closed
}

// SetUp implements network.Stack. Unlike over packets, open connections do not wait for the cable to
// come back: they end with ErrDown.
func (s *Stack) SetUp(up bool) {
	s.mu.Lock()
	s.down = !up
	var ends []*conn
	if !up {
		ends = s.connections()
	}
	s.mu.Unlock()
	for _, c := range ends {
		c.fail(network.ErrDown)
	}
}

// connections are those of TCP. s.mu is held.
func (s *Stack) connections() []*conn {
	var cs []*conn
	for _, b := range s.bound {
		if c, ok := b.(*conn); ok {
			cs = append(cs, c)
		}
	}
	for c := range s.accepted {
		cs = append(cs, c)
	}
	return cs
}

// Close implements network.Stack.
func (s *Stack) Close() error {
	g := s.segment
	g.mu.Lock()
	for _, p := range s.cfg.Addresses {
		if g.hosts[p.Addr()] == s {
			delete(g.hosts, p.Addr())
		}
	}
	if i := slices.Index(g.order, s); i >= 0 {
		g.order = slices.Delete(g.order, i, i+1)
	}
	s.mu.Lock()
	s.closed = true
	ends := s.connections()
	var others []io.Closer
	for _, b := range s.bound {
		others = append(others, b)
	}
	s.mu.Unlock()
	g.mu.Unlock()
	for _, c := range ends {
		c.fail(network.ErrDown)
	}
	for _, o := range others {
		o.Close()
	}
	return nil
}

func (s *Stack) usable() error {
	if !s.Up() {
		return network.ErrDown
	}
	return nil
}

// local is the address that s uses towards a.
func (s *Stack) local(a netip.Addr) (netip.Addr, error) {
	var found netip.Addr
	for _, p := range s.cfg.Addresses {
		if p.Addr().Is4() == a.Is4() && (!found.IsValid() || p.Contains(a)) {
			found = p.Addr()
			if p.Contains(a) {
				break
			}
		}
	}
	if !found.IsValid() {
		return found, network.ErrNoAddress
	}
	return found, nil
}

// binding is who has a local port. It is told of it before anybody can find it there.
type binding interface {
	io.Closer
	took(port uint16)
}

// bind takes a local port; port 0: the next free one of the row.
func (s *Stack) bind(p network.Protocol, port uint16, c binding) (uint16, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return 0, network.ErrDown
	}
	if s.bound == nil {
		s.bound = map[bind]io.Closer{}
	}
	if port != 0 {
		if s.bound[bind{p, port}] != nil {
			return 0, errors.New("the port is taken")
		}
		c.took(port)
		s.bound[bind{p, port}] = c
		return port, nil
	}
	for range network.Tries {
		port = s.ports.Next()
		if s.bound[bind{p, port}] == nil {
			c.took(port)
			s.bound[bind{p, port}] = c
			return port, nil
		}
	}
	return 0, network.ErrPorts
}

func (s *Stack) unbind(p network.Protocol, port uint16, c io.Closer) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.bound[bind{p, port}] == c {
		delete(s.bound, bind{p, port})
	}
}

// Ping implements network.Stack. Who is on the segment and up answers at once.
func (s *Stack) Ping(ctx context.Context, to netip.Addr) (time.Duration, error) {
	to = to.Unmap()
	from, err := s.local(to)
	if err == nil {
		err = s.usable()
	}
	if err == nil {
		err = ctx.Err()
	}
	if err != nil {
		return 0, fmt.Errorf("ping %s: %w", to, err)
	}
	peer, known := s.segment.host(to)
	o := network.Outside(nil)
	if !known {
		o = s.beyond(to)
	}
	if !known && o == nil || peer != nil && !peer.Up() {
		return 0, fmt.Errorf("ping %s: %w", to, network.ErrUnreachable)
	}
	f := network.Flow{Local: netip.AddrPortFrom(from, 0), Remote: netip.AddrPortFrom(to, 0), Protocol: network.ICMP}
	s.flows.Add(f, true, network.EchoSize)
	if o != nil && !o.Echo(from, to) {
		return 0, fmt.Errorf("ping %s: %w", to, network.ErrNoAnswer)
	}
	s.flows.Add(f, false, network.EchoSize)
	if peer != nil && peer != s {
		f.Local, f.Remote = f.Remote, f.Local
		peer.flows.Add(f, false, network.EchoSize)
		peer.flows.Add(f, true, network.EchoSize)
	}
	return 0, nil
}

// host finds who has an address; nil and true: a bridge or a service.
func (g *Segment) host(a netip.Addr) (*Stack, bool) {
	g.mu.Lock()
	defer g.mu.Unlock()
	s := g.hosts[a]
	return s, s != nil || g.served[a]
}

// Dial implements network.Stack.
func (s *Stack) Dial(ctx context.Context, nw, address string) (net.Conn, error) {
	if err := s.usable(); err != nil {
		return nil, fmt.Errorf("dial %s: %w", address, err)
	}
	targets, err := network.Targets(ctx, nw, address, s.Resolve)
	if err != nil {
		return nil, err
	}
	for _, t := range targets {
		var c net.Conn
		if c, err = s.dial(ctx, t); err == nil {
			return c, nil
		}
		if ctx.Err() != nil {
			break
		}
	}
	return nil, fmt.Errorf("dial %s: %w", address, err)
}

func (s *Stack) dial(ctx context.Context, to network.Endpoint) (net.Conn, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	from, err := s.local(to.Address.Addr())
	if err != nil {
		return nil, err
	}
	if to.Protocol == network.UDP {
		return s.dialUDP(ctx, netip.AddrPortFrom(from, 0), to)
	}
	return s.dialTCP(ctx, from, to)
}

func (s *Stack) dialTCP(ctx context.Context, from netip.Addr, to network.Endpoint) (net.Conn, error) {
	peer, known := s.segment.host(to.Address.Addr())
	o := network.Outside(nil)
	if !known {
		o = s.beyond(to.Address.Addr())
	}
	if !known && o == nil || peer != nil && !peer.Up() {
		return nil, network.ErrUnreachable
	}
	c := &conn{stack: s, flow: network.Flow{Local: netip.AddrPortFrom(from, 0), Remote: to.Address, Protocol: network.TCP}}
	port, err := s.bind(network.TCP, 0, c)
	if err != nil {
		return nil, err
	}
	switch {
	case peer != nil:
		err = peer.accept(c.flow.Local, c.flow.Remote, c.begin)
	case o != nil:
		err = c.connect(o)
	default:
		err = s.segment.bridge(ctx, to, c)
	}
	switch {
	case err == nil:
		c.opened()
		return c, nil
	case errors.Is(err, network.ErrRefused):
		c.refused()
	case errors.Is(err, network.ErrNoAnswer):
		c.count(true, synHeader)
	}
	s.unbind(network.TCP, port, c)
	return nil, err
}

// bridge gives c the connection that a bridge's dialer makes.
func (g *Segment) bridge(ctx context.Context, to network.Endpoint, c *conn) error {
	g.mu.Lock()
	dial := g.bridges[to]
	g.mu.Unlock()
	if dial == nil {
		return network.ErrRefused
	}
	inner, err := dial(ctx)
	if err != nil {
		return fmt.Errorf("behind the bridge: %w", err)
	}
	if !c.begin(inner) {
		inner.Close()
		return network.ErrDown
	}
	return nil
}

// connect gives c the connection that somebody outside makes of it.
func (c *conn) connect(o network.Outside) error {
	inner, err := o.Connect(c.flow.Local, c.flow.Remote)
	if err != nil {
		return err
	}
	if !c.begin(inner) {
		inner.Close()
		return network.ErrDown
	}
	return nil
}

// listener is who takes connections to an address, if there is room for one more. s.mu is held.
func (s *Stack) listener(at netip.AddrPort) *listener {
	l, _ := s.bound[bind{network.TCP, at.Port()}].(*listener)
	if l == nil || l.at.IsValid() && !l.at.IsUnspecified() && l.at != at.Addr() || l.at.IsValid() && l.at.Is4() != at.Addr().Is4() || len(l.queue) == cap(l.queue) {
		return nil
	}
	return l
}

// accept gives a connection to the listener of the port that it is for, and its other end to begin.
func (s *Stack) accept(from, to netip.AddrPort, begin func(net.Conn) bool) error {
	s.mu.Lock()
	l := s.listener(to)
	if l == nil {
		s.mu.Unlock()
		return network.ErrRefused
	}
	mine := &conn{stack: s, accepted: true, flow: network.Flow{Local: to, Remote: from, Protocol: network.TCP}}
	a, b := pipe(from, to)
	if !begin(a) {
		s.mu.Unlock()
		return network.ErrDown
	}
	mine.begin(b)
	if s.accepted == nil {
		s.accepted = map[*conn]struct{}{}
	}
	s.accepted[mine] = struct{}{}
	mine.opened()
	l.queue <- mine
	s.mu.Unlock()
	return nil
}
