package fleet

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"time"

	"github.com/vauban-iot/vauban/board/network"
	"github.com/vauban-iot/vauban/board/network/facade"
	"github.com/vauban-iot/vauban/board/network/gateway"
	"github.com/vauban-iot/vauban/board/network/lan"
	"github.com/vauban-iot/vauban/board/network/netstack"
	"github.com/vauban-iot/vauban/board/network/service"
	"github.com/vauban-iot/vauban/sim/infection"
	"github.com/vauban-iot/vauban/sim/traffic"
)

// Where boards find what they need.
var (
	router   = netip.MustParseAddr("10.0.0.1") // names and time, too
	platform = netip.MustParseAddr("10.0.0.2")
)

// mqttPort is where devices find a hub.
const mqttPort = 8883

// world is the network around the boards of a run: a segment for those on facades, and a switch with a gateway for those with packets.
type world struct {
	segment *facade.Segment
	sw      *lan.Switch
	gate    *gateway.Gateway
	stop    func() // of the switch; nil: there is none
	outside *outside
	packets *infection.World // around boards with packets, who share it
	links   map[string]lan.Link
}

// openWorld makes the network. now is the time at a board.
func openWorld(ctx context.Context, f *File, to *Installation, now func(board netip.Addr) time.Time) (*world, error) {
	w := &world{segment: facade.New(), links: map[string]lan.Link{}, outside: &outside{worlds: map[netip.Addr]*infection.World{}}}
	w.segment.Outside(w.outside)
	zone := service.NewZone()
	if err := zone.Add(to.Hostname, platform); err != nil {
		return nil, err
	}
	w.segment.Answer(netip.AddrPortFrom(router, 53), zone.Answer)
	w.segment.AnswerEach(netip.AddrPortFrom(router, 123), func(from netip.Addr, query []byte) []byte {
		return service.Clock{Now: func() time.Time { return now(from) }}.Answer(query)
	})
	if err := w.segment.Bridge("tcp", netip.AddrPortFrom(platform, mqttPort), func(ctx context.Context) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, "tcp", to.MQTT)
	}); err != nil {
		return nil, err
	}
	for _, l := range f.Links {
		w.links[l.Name] = lan.Link{Latency: l.Latency, Jitter: l.Jitter, Loss: l.Loss}
	}
	if !f.packets() {
		return w, nil
	}
	w.sw = lan.New(lan.Config{Seed: f.Seed})
	running, cancel := context.WithCancel(context.WithoutCancel(ctx))
	done := make(chan struct{})
	go func() {
		defer close(done)
		_ = w.sw.Run(running) // until then
	}()
	w.stop = func() { cancel(); <-done }
	var err error
	w.packets = infection.NewWorld(func(ctx context.Context, from, to netip.AddrPort) (net.Conn, error) {
		return w.gate.Call(ctx, from, to)
	})
	w.gate, err = gateway.Open(ctx, gateway.Config{
		Outside: w.packets, Switch: w.sw, Seed: f.Seed, Address: netip.PrefixFrom(router, 16), Names: map[string][]netip.Addr{to.Hostname: {platform}},
		Bridges: []gateway.Bridge{{Network: "tcp", At: netip.AddrPortFrom(platform, mqttPort), To: to.MQTT}},
	})
	return w, err
}

// close ends what openWorld began. Nobody may be on the network any more.
func (w *world) close() {
	if w.gate != nil {
		w.gate.Close()
	}
	if w.stop != nil {
		w.stop()
	}
}

// packets reports whether some boards have a stack of their own.
func (f *File) packets() bool {
	for i := range f.Boards {
		if f.Boards[i].Network == Netstack {
			return true
		}
	}
	return false
}

// attach gives a board its place on the network.
func (w *world) attach(b *Board) (network.Stack, error) {
	if b.Of.Network == Netstack {
		return netstack.Open(netstack.Config{Switch: w.sw, Link: w.links[b.Of.Link], MAC: lan.Address(b.Number + 1), Name: b.ID, Seed: b.Seed})
	}
	cfg := facade.Config{Addresses: []netip.Prefix{b.Address}, Routers: []netip.Addr{router}, NameServers: []netip.Addr{router}, TimeServers: []netip.Addr{router}, Seed: b.Seed}
	if len(b.Attacks) > 0 { // some attacks speak IPv6; other boards save the memory
		cfg.Addresses, cfg.Routers = append(cfg.Addresses, b.six()), append(cfg.Routers, router6)
	}
	return w.segment.Attach(cfg)
}

var (
	prefix6 = netip.MustParsePrefix("fd76:6175:6261::/64")
	router6 = netip.MustParseAddr("fe80::1")
)

// six is the board's address of IPv6, made of that of IPv4.
func (b *Board) six() netip.Prefix {
	a, four := prefix6.Addr().As16(), b.Address.Addr().As4()
	copy(a[12:], four[:])
	return netip.PrefixFrom(netip.AddrFrom16(a), prefix6.Bits())
}

// beyond is the world that an infected board's attacks are played with.
func (w *world) beyond(b *Board) *infection.World {
	if b.Of.Network == Netstack {
		return w.packets
	}
	four, six := b.Address.Addr(), b.six().Addr()
	w.outside.mu.Lock()
	defer w.outside.mu.Unlock()
	if w.outside.worlds[four] == nil {
		own := infection.NewWorld(w.segment.Call)
		w.outside.worlds[four], w.outside.worlds[six] = own, own
	}
	return w.outside.worlds[four]
}

// errLoopback is for installations that are elsewhere.
var errLoopback = errors.New("the installation is not on this machine's loopback, where boards with network = \"netstack\" and thieves of keys (stolen-key, stuffing) find it; " +
	"take facade boards and other attacks, or no --data")

// reaches refuses an installation that a part of the fleet could not reach.
func (f *File) reaches(to *Installation) error {
	visits := slices.ContainsFunc(f.Attacks, func(a Attack) bool {
		return a.Name == string(traffic.StolenKey) || a.Name == string(traffic.Stuffing)
	})
	if !f.packets() && !visits {
		return nil
	}
	a, err := netip.ParseAddrPort(to.MQTT)
	if err != nil || !a.Addr().IsLoopback() {
		return fmt.Errorf("%s: %w", to.MQTT, errLoopback)
	}
	return nil
}
