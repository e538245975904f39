// Package gateway is the station of a virtual switch that the boards live from: it gives addresses by DHCP and
// router advertisements, knows names and the time, answers multicast DNS, and is the bridge to the
// platform: addresses on the switch whose connections go on to ports of this machine's loopback.
//
// It routes nothing else: a board cannot leave the switch, unless the gateway is given a world to stand for (Config.Outside).
package gateway

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"net"
	"net/netip"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/vauban-iot/vauban/board/network"
	"github.com/vauban-iot/vauban/board/network/lan"
	"github.com/vauban-iot/vauban/board/network/netstack"
	"github.com/vauban-iot/vauban/board/network/service"
)

// Config describes a gateway. The zero value of a field is the default.
type Config struct {
	Switch *lan.Switch // required
	Link   lan.Link
	MAC    lan.MAC
	Seed   uint64

	Address  netip.Prefix            // 10.0.0.1/16
	Prefix   netip.Prefix            // of IPv6: fd76:6175:6261::/64. Its own address is the prefix and 1
	Lease    time.Duration           // an hour. Addresses are given away from .1.0 of the subnet on
	Names    map[string][]netip.Addr // what the name server knows; those below .local by multicast
	Now      func() time.Time        // of the time server: time.Now
	Announce time.Duration           // between router advertisements: 10 s
	Bridges  []Bridge
	Outside  network.Outside // the world behind it; nil: it routes nothing
}

// Bridge leads from an address on the switch to one on this machine.
type Bridge struct {
	Network string         // tcp or udp
	At      netip.AddrPort // of the subnet or the prefix, and no board's
	To      string         // 127.0.0.1:8883; only loopback
}

const (
	// bridged bounds the connections and the UDP senders that pass a bridge at a time.
	bridged = 4096
	// udpIdle is how long a UDP sender's place is kept.
	udpIdle = time.Minute
	dialing = 10 * time.Second
)

// Gateway is a running gateway.
type Gateway struct {
	cfg    Config
	host   *netstack.Host
	Zone   *service.Zone
	Leases *service.Leases

	frame   []byte // the announcement
	ask     chan struct{}
	cancel  context.CancelFunc
	wg      sync.WaitGroup
	places  chan struct{}
	refused atomic.Uint64
	mu      sync.Mutex
	failure error
}

// Open plugs a gateway into its switch, which must be running, and waits until it can be used. It must be closed.
func Open(ctx context.Context, cfg Config) (*Gateway, error) {
	if err := complete(&cfg); err != nil {
		return nil, err
	}
	g := &Gateway{cfg: cfg, Zone: service.NewZone(), ask: make(chan struct{}, 1), places: make(chan struct{}, bridged)}
	for _, name := range slices.Sorted(maps.Keys(cfg.Names)) {
		if err := g.Zone.Add(name, cfg.Names[name]...); err != nil {
			return nil, err
		}
	}
	four, six := cfg.Address.Addr(), netip.PrefixFrom(cfg.Prefix.Addr().Next(), 64)
	first, last := pool(cfg.Address)
	var err error
	if g.Leases, err = service.NewLeases(service.LeaseConfig{
		Server: four, Subnet: cfg.Address.Masked(), First: first, Last: last, Time: cfg.Lease,
		Routers: []netip.Addr{four}, NameServers: []netip.Addr{four}, TimeServers: []netip.Addr{four},
	}); err != nil {
		return nil, err
	}
	addresses := []netip.Prefix{cfg.Address, six}
	for _, b := range cfg.Bridges {
		p := netip.PrefixFrom(b.At.Addr(), cfg.Address.Bits())
		if b.At.Addr().Is6() {
			p = netip.PrefixFrom(b.At.Addr(), 64)
		}
		if !slices.Contains(addresses, p) {
			addresses = append(addresses, p)
		}
	}
	g.host, err = netstack.Open(netstack.Config{
		Switch: cfg.Switch, Link: cfg.Link, MAC: cfg.MAC, Seed: cfg.Seed, Router: true, Addresses: addresses, Buffer: 64 << 10, Outside: cfg.Outside,
		Watch: func(frame []byte, sent bool) {
			if !sent && service.Solicits(frame) {
				select {
				case g.ask <- struct{}{}:
				default:
				}
			}
		},
	})
	if err != nil {
		return nil, err
	}
	if err := g.start(ctx, six.Addr()); err != nil {
		g.Close()
		return nil, err
	}
	return g, nil
}

func complete(cfg *Config) error {
	if cfg.Switch == nil {
		return errors.New("a gateway needs a switch")
	}
	cfg.MAC = cmp.Or(cfg.MAC, lan.MAC{0x02, 0xFF, 0xFF, 0xFF, 0xFF, 0xFE})
	if !cfg.Address.IsValid() {
		cfg.Address = netip.MustParsePrefix("10.0.0.1/16")
	}
	if !cfg.Prefix.IsValid() {
		cfg.Prefix = netip.MustParsePrefix("fd76:6175:6261::/64")
	}
	cfg.Prefix = cfg.Prefix.Masked()
	cfg.Lease = cmp.Or(cfg.Lease, time.Hour)
	cfg.Announce = cmp.Or(cfg.Announce, 10*time.Second)
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	switch {
	case !cfg.Address.Addr().Is4() || cfg.Address.Bits() < 16 || cfg.Address.Bits() > 24:
		return fmt.Errorf("the gateway's address is %s; want IPv4 with a subnet of /16 to /24", cfg.Address)
	case !cfg.Prefix.Addr().Is6() || cfg.Prefix.Bits() != 64:
		return fmt.Errorf("the gateway's prefix is %s; want a /64 of IPv6", cfg.Prefix)
	case cfg.Announce < 0:
		return fmt.Errorf("announcements every %v; want more than 0", cfg.Announce)
	}
	first, last := pool(cfg.Address)
	for _, b := range cfg.Bridges {
		a := b.At.Addr()
		if b.Network != "tcp" && b.Network != "udp" {
			return fmt.Errorf("the bridge at %s is for %q; want tcp or udp", b.At, b.Network)
		}
		if !cfg.Address.Contains(a) && !cfg.Prefix.Contains(a) || b.At.Port() == 0 || a.Is4() && !a.Less(first) && !last.Less(a) {
			return fmt.Errorf("the bridge at %s must be in %s or %s, with a port, and not among the addresses that boards get (%s to %s)", b.At, cfg.Address.Masked(), cfg.Prefix, first, last)
		}
		if to, err := netip.ParseAddrPort(b.To); err != nil || !to.Addr().IsLoopback() {
			return fmt.Errorf("the bridge at %s leads to %q; boards reach only this machine's loopback, such as 127.0.0.1:8883", b.At, b.To)
		}
	}
	return nil
}

// pool is the row of addresses for boards: the upper part of the subnet, or for one as large as /16, all from .1.0 on.
func pool(p netip.Prefix) (first, last netip.Addr) {
	b := p.Masked().Addr().As4()
	size := uint32(1) << (32 - p.Bits())
	base := uint32(b[0])<<24 | uint32(b[1])<<16 | uint32(b[2])<<8 | uint32(b[3])
	at := func(n uint32) netip.Addr {
		n += base
		return netip.AddrFrom4([4]byte{byte(n >> 24), byte(n >> 16), byte(n >> 8), byte(n)})
	}
	return at(min(size/2, 256)), at(size - 2)
}

func (g *Gateway) start(ctx context.Context, six netip.Addr) error {
	if err := g.host.Ready(ctx); err != nil {
		return fmt.Errorf("gateway: %w", err)
	}
	var router netip.Addr
	for router = netip.IPv6Unspecified(); !router.IsLinkLocalUnicast(); {
		for _, p := range g.host.Settings().Addresses {
			if p.Addr().Is6() && p.Addr().IsLinkLocalUnicast() {
				router = p.Addr()
			}
		}
		if router.IsLinkLocalUnicast() {
			break
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("gateway: waiting for its link-local address: %w", ctx.Err())
		case <-time.After(10 * time.Millisecond):
		}
	}
	var err error
	if g.frame, err = (service.Announcement{MAC: g.cfg.MAC, Router: router, Prefix: g.cfg.Prefix, NameServers: []netip.Addr{six}, Lifetime: 1800 * time.Second}).Frame(); err != nil {
		return err
	}
	run, cancel := context.WithCancel(context.Background())
	g.cancel = cancel
	clock := service.Clock{Now: g.cfg.Now}
	for _, s := range []struct {
		port   string
		answer func([]byte) []byte
	}{{":53", g.Zone.Answer}, {":123", clock.Answer}} {
		pc, err := g.host.ListenPacket("udp", s.port)
		if err != nil {
			return err
		}
		g.serve(run, pc, func(b []byte, from *net.UDPAddr) {
			if reply := s.answer(b); reply != nil {
				pc.WriteTo(reply, from) //nolint:errcheck // a reply that does not arrive is asked for again
			}
		})
	}
	if err := g.serveDHCP(run); err != nil {
		return err
	}
	g.wg.Go(func() {
		if err := network.AnswerLocal(run, g.host, g.Zone.AnswerMulticast); err != nil {
			g.fail(err)
		}
	})
	g.wg.Go(func() { g.announce(run) })
	for _, b := range g.cfg.Bridges {
		if err := g.bridge(run, b); err != nil {
			return err
		}
	}
	return nil
}

func (g *Gateway) fail(err error) {
	g.mu.Lock()
	g.failure = cmp.Or(g.failure, err)
	g.mu.Unlock()
}

// serve calls f with each datagram, one at a time.
func (g *Gateway) serve(ctx context.Context, pc net.PacketConn, f func(b []byte, from *net.UDPAddr)) {
	stop := context.AfterFunc(ctx, func() { pc.Close() })
	g.wg.Go(func() {
		defer stop()
		defer pc.Close()
		buf := make([]byte, 64<<10)
		for {
			n, from, err := pc.ReadFrom(buf)
			if ctx.Err() != nil {
				return
			}
			if err != nil {
				g.fail(fmt.Errorf("gateway: %s: %w", pc.LocalAddr(), err))
				return
			}
			if u, ok := from.(*net.UDPAddr); ok {
				f(buf[:n], u)
			}
		}
	})
}

func (g *Gateway) serveDHCP(ctx context.Context) error {
	pc, err := g.host.ListenPacket("udp4", ":67")
	if err != nil {
		return err
	}
	g.serve(ctx, pc, func(b []byte, _ *net.UDPAddr) {
		reply, to := g.Leases.Answer(b)
		if reply == nil {
			return
		}
		if !to.IsValid() || to.IsUnspecified() {
			to = netip.AddrFrom4([4]byte{255, 255, 255, 255})
		}
		pc.WriteTo(reply, net.UDPAddrFromAddrPort(netip.AddrPortFrom(to, 68))) //nolint:errcheck // a reply that does not arrive is asked for again
	})
	return nil
}

// announce tells stations of the router, when they ask and from time to time.
func (g *Gateway) announce(ctx context.Context) {
	t := time.NewTicker(g.cfg.Announce)
	defer t.Stop()
	for {
		g.host.Send(g.frame)
		select {
		case <-ctx.Done():
			return
		case <-t.C:
		case <-g.ask:
		}
	}
}

func (g *Gateway) bridge(ctx context.Context, b Bridge) error {
	if b.Network == "udp" {
		return g.bridgeUDP(ctx, b)
	}
	ln, err := g.host.Listen("tcp", b.At.String())
	if err != nil {
		return err
	}
	stop := context.AfterFunc(ctx, func() { ln.Close() })
	g.wg.Go(func() {
		defer stop()
		defer ln.Close()
		for {
			c, err := ln.Accept()
			if ctx.Err() != nil {
				return
			}
			if err != nil {
				g.fail(fmt.Errorf("gateway: bridge at %s: %w", b.At, err))
				return
			}
			select {
			case g.places <- struct{}{}:
				g.wg.Go(func() {
					defer func() { <-g.places }()
					relay(ctx, c, b.To)
				})
			default:
				g.refused.Add(1)
				c.Close()
			}
		}
	})
	return nil
}

// halves are connections that can end one direction alone.
type halves interface {
	net.Conn
	CloseWrite() error
}

// relay carries bytes both ways until both have ended, or ctx.
func relay(ctx context.Context, c net.Conn, to string) {
	defer c.Close()
	d := net.Dialer{Timeout: dialing}
	out, err := d.DialContext(ctx, "tcp", to)
	if err != nil {
		return // the board sees its connection end
	}
	defer out.Close()
	stop := context.AfterFunc(ctx, func() { c.Close(); out.Close() })
	defer stop()
	var wg sync.WaitGroup
	for _, way := range [][2]net.Conn{{out, c}, {c, out}} {
		wg.Go(func() {
			if _, err := io.Copy(way[0], way[1]); err != nil {
				c.Close()
				out.Close()
				return
			}
			if h, ok := way[0].(halves); ok {
				h.CloseWrite() //nolint:errcheck // the other side has gone
			}
		})
	}
	wg.Wait()
}

// bridgeUDP keeps a socket on this machine for each sender, until nothing comes for a while.
func (g *Gateway) bridgeUDP(ctx context.Context, b Bridge) error {
	pc, err := g.host.ListenPacket("udp", b.At.String())
	if err != nil {
		return err
	}
	var mu sync.Mutex
	senders := map[netip.AddrPort]net.Conn{}
	g.serve(ctx, pc, func(data []byte, from *net.UDPAddr) {
		key := from.AddrPort()
		mu.Lock()
		out := senders[key]
		mu.Unlock()
		if out == nil {
			select {
			case g.places <- struct{}{}:
			default:
				g.refused.Add(1)
				return
			}
			var err error
			if out, err = (&net.Dialer{}).DialContext(ctx, "udp", b.To); err != nil {
				<-g.places
				return
			}
			mu.Lock()
			senders[key] = out
			mu.Unlock()
			back := *from
			stop := context.AfterFunc(ctx, func() { out.Close() })
			g.wg.Go(func() {
				defer func() {
					mu.Lock()
					delete(senders, key)
					mu.Unlock()
					out.Close()
					stop()
					<-g.places
				}()
				buf := make([]byte, 64<<10)
				for {
					out.SetReadDeadline(time.Now().Add(udpIdle))
					n, err := out.Read(buf)
					if err != nil {
						return
					}
					pc.WriteTo(buf[:n], &back) //nolint:errcheck // UDP: what is lost is lost
				}
			})
		}
		out.Write(data) //nolint:errcheck // UDP: what is lost is lost
	})
	return nil
}

// Host is the gateway's own station.
func (g *Gateway) Host() *netstack.Host { return g.host }

// Refused counts what a bridge had no place for.
func (g *Gateway) Refused() uint64 { return g.refused.Load() }

// Call makes a connection from somebody outside to a board.
func (g *Gateway) Call(ctx context.Context, from, to netip.AddrPort) (net.Conn, error) {
	return g.host.Call(ctx, from, to)
}

// Close ends all of it and waits. It returns why a service had ended before.
func (g *Gateway) Close() error {
	if g.cancel != nil {
		g.cancel()
	}
	g.wg.Wait()
	g.host.Close()
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.failure
}
