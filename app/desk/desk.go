// Package desk is one virtual B-L475E-IOT01A on the desk: the getting-started firmware, a network of its own that leads to the
// platform and nowhere else, and somebody who reads its console, presses its reset button and pulls its cable.
package desk

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"sync"
	"time"

	"github.com/vauban-iot/vauban/board"
	"github.com/vauban-iot/vauban/board/firmware/quickstart"
	"github.com/vauban-iot/vauban/board/firmware/security"
	"github.com/vauban-iot/vauban/board/network"
	"github.com/vauban-iot/vauban/board/network/facade"
	"github.com/vauban-iot/vauban/board/network/gateway"
	"github.com/vauban-iot/vauban/board/network/lan"
	"github.com/vauban-iot/vauban/board/network/netstack"
	"github.com/vauban-iot/vauban/board/network/service"
	"github.com/vauban-iot/vauban/board/stm32l475"
	"github.com/vauban-iot/vauban/rtos"
)

// Host is a machine that the board can reach, on the port of MQTT and no other.
type Host struct {
	Name    string // as its certificate has it; an address only without Packets
	Address string // host:port where this machine reaches it; with Packets on loopback
}

// Config of a board on the desk.
type Config struct {
	Name    string
	Seed    uint64
	Hosts   []Host        // at most 16
	Packets bool          // a TCP/IP stack on a virtual switch; otherwise connections without packets
	Fast    bool          // virtual time, as fast as the machine can, without Packets; otherwise real time
	Time    time.Duration // how long it runs, by its own clock; zero: until it is told to stop, in real time
	Epoch   time.Time     // the world's time at the beginning; zero: such that a fast board ends at the present, and others begin there

	Firmware quickstart.Config // without Board, Network, Context
	Security bool              // with the security module

	Console func(text []byte) // what the board writes; the slice is the board's
	LED     func(on bool)     // LED2 changed
	Trace   bool              // keep the kernel's events since the last reset
	Reboot  bool              // after a crash
}

// Board is the board on the desk.
type Board struct {
	cfg   Config
	hw    *stm32l475.Board
	stack network.Stack
	close []func() error // in the order of their making

	mu      sync.Mutex
	pressed []func() // what somebody did; in virtual time, until the next look
	trace   *recording
}

const (
	maxHosts   = 16
	maxPressed = 16 // between two looks
	mqttPort   = 8883
	// look is how much virtual time passes between two looks at what somebody does.
	look = 100 * time.Millisecond
)

var (
	router = netip.MustParseAddr("10.0.0.1")
	first  = netip.MustParseAddr("10.0.0.2") // of the hosts
	own    = netip.MustParsePrefix("10.0.1.0/16")
)

// Open puts the board on the desk and powers it on. It must be closed.
func Open(ctx context.Context, cfg Config) (*Board, error) {
	switch {
	case cfg.Packets && cfg.Fast:
		return nil, errors.New("packets need real time: their TCP/IP stack has timers of its own")
	case cfg.Fast && cfg.Time <= 0:
		return nil, errors.New("virtual time needs to know how long the board runs")
	case len(cfg.Hosts) == 0 || len(cfg.Hosts) > maxHosts:
		return nil, fmt.Errorf("a board reaches 1 to %d hosts", maxHosts)
	}
	b := &Board{cfg: cfg}
	if err := b.open(ctx); err != nil {
		return nil, errors.Join(err, b.Close())
	}
	return b, nil
}

func (b *Board) open(ctx context.Context) (err error) {
	c := board.Config{Name: b.cfg.Name, Seed: b.cfg.Seed, RealTime: !b.cfg.Fast, Epoch: b.cfg.Epoch, Reboot: b.cfg.Reboot}
	switch {
	case !c.Epoch.IsZero():
	case b.cfg.Fast:
		c.Epoch = time.Now().Add(-b.cfg.Time) // or the platform would hear of the future
	default:
		c.Epoch = time.Now()
	}
	if b.hw, err = stm32l475.New(stm32l475.Config{Board: c, Console: b.cfg.Console}); err != nil {
		return err
	}
	b.close = append(b.close, func() error { b.hw.Close(); return nil })
	connect := b.openFacade
	if b.cfg.Packets {
		connect = b.openPackets
	}
	if err := connect(ctx); err != nil {
		return fmt.Errorf("the board's network: %w", err)
	}
	if b.cfg.LED != nil {
		if err := b.hw.GPIO.Watch(stm32l475.LED2, b.cfg.LED); err != nil {
			return err
		}
	}
	f := b.cfg.Firmware
	f.Board, f.Network, f.Context = b.hw, b.stack, ctx
	fw, err := quickstart.New(f)
	if err != nil {
		return err
	}
	if b.cfg.Security {
		if _, err := fw.Secure(security.Intervals{}); err != nil {
			return err
		}
	}
	image, err := fw.Image()
	if err != nil {
		return err
	}
	if b.cfg.Trace {
		define := image.Define
		image.Define = func(k *rtos.Kernel) {
			b.trace = record(k)
			define(k)
		}
	}
	if err := b.hw.Load(image); err != nil {
		return err
	}
	return b.hw.PowerOn()
}

// loopback is an address of this machine's loopback that a host is reached at.
func loopback(ctx context.Context, address string) (string, error) {
	host, port, err := net.SplitHostPort(address)
	if err != nil {
		return "", err
	}
	addrs, err := net.DefaultResolver.LookupNetIP(ctx, "ip", host)
	if err != nil {
		return "", err
	}
	for _, a := range addrs {
		if a = a.Unmap(); a.IsLoopback() && (a.Is4() || len(addrs) == 1) {
			return net.JoinHostPort(a.String(), port), nil
		}
	}
	return "", fmt.Errorf("%s is not on this machine's loopback: over packets a board reaches nothing else", address)
}

// clock is that of the time server: the board's world's.
func (b *Board) clock() func() time.Time {
	if b.cfg.Fast {
		return b.hw.Time
	}
	epoch, began := b.hw.Config().Epoch, time.Now() // the board itself is another goroutine's
	return func() time.Time { return epoch.Add(time.Since(began)) }
}

// openFacade is a network without packets.
func (b *Board) openFacade(context.Context) error {
	seg := facade.New()
	zone := service.NewZone()
	seg.Answer(netip.AddrPortFrom(router, 53), zone.Answer)
	seg.Answer(netip.AddrPortFrom(router, 123), service.Clock{Now: b.clock()}.Answer)
	at := first
	for _, h := range b.cfg.Hosts {
		to := at
		if literal, err := netip.ParseAddr(h.Name); err == nil {
			to = literal
		} else if err := zone.Add(h.Name, at); err != nil {
			return err
		}
		at = at.Next()
		if err := seg.Bridge("tcp", netip.AddrPortFrom(to, mqttPort), func(ctx context.Context) (net.Conn, error) {
			return new(net.Dialer).DialContext(ctx, "tcp", h.Address)
		}); err != nil {
			return err
		}
	}
	s, err := seg.Attach(facade.Config{
		Addresses: []netip.Prefix{own}, Routers: []netip.Addr{router}, NameServers: []netip.Addr{router}, TimeServers: []netip.Addr{router}, Seed: b.cfg.Seed,
	})
	if err == nil {
		b.stack = s
		b.close = append(b.close, s.Close)
	}
	return err
}

// openPackets is a switch, a gateway, and the board's card.
func (b *Board) openPackets(ctx context.Context) error {
	sw := lan.New(lan.Config{Seed: b.cfg.Seed})
	running, stop := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() {
		defer close(done)
		_ = sw.Run(running) // which ends by its context alone
	}()
	b.close = append(b.close, func() error { stop(); <-done; return nil })
	c := gateway.Config{Switch: sw, Seed: b.cfg.Seed, Names: map[string][]netip.Addr{}, Now: b.clock()}
	at := first
	for _, h := range b.cfg.Hosts {
		if _, err := netip.ParseAddr(h.Name); err == nil {
			return fmt.Errorf("%s is an address: over packets a board needs its platform to have a name", h.Name)
		}
		to, err := loopback(ctx, h.Address)
		if err != nil {
			return err
		}
		c.Names[h.Name] = []netip.Addr{at}
		c.Bridges = append(c.Bridges, gateway.Bridge{Network: "tcp", At: netip.AddrPortFrom(at, mqttPort), To: to})
		at = at.Next()
	}
	opening, cancel := context.WithTimeout(ctx, 30*time.Second)
	defer cancel()
	g, err := gateway.Open(opening, c)
	if err != nil {
		return err
	}
	b.close = append(b.close, g.Close)
	s, err := netstack.Open(netstack.Config{Switch: sw, MAC: lan.Address(2), Name: b.cfg.Name, Seed: b.cfg.Seed})
	if err == nil {
		b.stack = s
		b.close = append(b.close, s.Close)
	}
	return err
}

// Run runs the board until ctx ends or its time is over, which both are no error. A *board.CrashError says that its firmware crashed.
func (b *Board) Run(ctx context.Context) error {
	if !b.cfg.Fast {
		end := ctx
		if b.cfg.Time > 0 {
			limited, cancel := context.WithTimeout(ctx, b.cfg.Time)
			defer cancel()
			end = limited
		}
		err := b.hw.Run(end)
		if end.Err() != nil && errors.Is(err, end.Err()) {
			return nil
		}
		return err
	}
	for ctx.Err() == nil {
		for _, f := range b.done() {
			f()
		}
		left := b.cfg.Time - b.hw.Uptime()
		if left <= 0 {
			return nil
		}
		if err := b.hw.RunFor(min(left, look)); err != nil {
			return err
		}
	}
	return nil
}

func (b *Board) done() []func() {
	b.mu.Lock()
	defer b.mu.Unlock()
	all := b.pressed
	b.pressed = nil
	return all
}

// Reset presses the reset button. Any goroutine may.
func (b *Board) Reset() {
	press := func() { b.hw.Reset(board.PinReset) }
	if !b.cfg.Fast {
		_ = b.hw.Post(press) // a board that is in reset is reset
		return
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	if len(b.pressed) < maxPressed {
		b.pressed = append(b.pressed, press)
	}
}

// Plug takes the cable out, or puts it in again, and says which. Any goroutine may.
func (b *Board) Plug() (in bool) {
	in = !b.stack.Up()
	b.stack.SetUp(in)
	return in
}

// Uptime is how long the board has run, by its own clock.
func (b *Board) Uptime() time.Duration { return b.hw.Uptime() }

// Time is the world's time at the board.
func (b *Board) Time() time.Time { return b.hw.Time() }

// Resets counts what started the firmware again since it was powered on.
func (b *Board) Resets() (n uint32) {
	for r := board.PinReset; r <= board.CrashReset; r++ {
		n += b.hw.Resets(r)
	}
	return n
}

// Charge is what the board took, in milliampere-hours.
func (b *Board) Charge() float64 { return b.hw.Energy().Charge / 1000 }

// Budget says what the firmware takes of the board's memory.
func (b *Board) Budget() board.Budget { return b.hw.Budget() }

// Trace is what the kernel did since the last reset, as a .trx file; nil without Config.Trace. The board may not be running.
func (b *Board) Trace() []byte {
	if b.trace == nil {
		return nil
	}
	return b.trace.Bytes()
}

// Close takes the board from the desk.
func (b *Board) Close() error {
	// The board first, then its network, then what that hangs on.
	var errs []error
	if len(b.close) > 0 {
		errs = append(errs, b.close[0]())
		for i := len(b.close) - 1; i > 0; i-- {
			errs = append(errs, b.close[i]())
		}
	}
	b.close = nil
	return errors.Join(errs...)
}

// Resolve says where this machine reaches MQTT at a host: address when it is given, its own name otherwise.
func Resolve(name, address string) Host {
	return Host{Name: name, Address: cmp.Or(address, net.JoinHostPort(name, fmt.Sprint(mqttPort)))}
}
