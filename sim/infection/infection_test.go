package infection_test

import (
	"context"
	"errors"
	"math"
	"net"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/vauban-iot/vauban/board"
	"github.com/vauban-iot/vauban/board/firmware"
	"github.com/vauban-iot/vauban/board/network"
	"github.com/vauban-iot/vauban/board/network/facade"
	"github.com/vauban-iot/vauban/board/network/gateway"
	"github.com/vauban-iot/vauban/board/network/lan"
	"github.com/vauban-iot/vauban/board/network/netstack"
	"github.com/vauban-iot/vauban/board/stm32l475"
	"github.com/vauban-iot/vauban/rtos"
	"github.com/vauban-iot/vauban/sdk/device"
	"github.com/vauban-iot/vauban/sim/infection"
	"github.com/vauban-iot/vauban/sim/traffic"
)

var master = netip.MustParseAddr("203.0.113.5")

// lab is an infected board.
type lab struct {
	t       *testing.T
	hw      *stm32l475.Board
	stack   network.Stack
	malware *infection.Infection
	knocks  []netip.Addr
}

// infect makes a board on a facade, in virtual time, with nothing but an infection.
func infect(t *testing.T, cfg infection.Config) *lab {
	t.Helper()
	l := &lab{t: t}
	seg := facade.New()
	world := infection.NewWorld(seg.Call)
	seg.Outside(world)
	s, err := seg.Attach(facade.Config{
		Addresses: []netip.Prefix{netip.MustParsePrefix("10.0.1.1/16"), netip.MustParsePrefix("fd00::1/64")},
		Routers:   []netip.Addr{netip.MustParseAddr("10.0.0.1"), netip.MustParseAddr("fe80::1")}, Seed: 7,
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	l.start(cfg, s, world, false)
	return l
}

// start makes the board.
func (l *lab) start(cfg infection.Config, stack network.Stack, world *infection.World, real bool) {
	l.t.Helper()
	var err error
	l.stack = stack
	if l.hw, err = stm32l475.New(stm32l475.Config{Board: board.Config{Name: "lamp-1", Seed: 3, RealTime: real}}); err != nil {
		l.t.Fatal(err)
	}
	l.t.Cleanup(l.hw.Close)
	cfg.Stack, cfg.World, cfg.Uptime = stack, world, l.hw.Uptime
	if cfg.Masters == nil {
		cfg.Masters = []netip.Addr{master}
	}
	cfg.Hub = &infection.Hub{
		Device: func() (device.Config, bool) {
			return device.Config{ConnectionString: "HostName=h.example;DeviceId=lamp-1;SharedAccessKey=a2V5"}, true
		},
		Dial: func(_ context.Context, from netip.Addr) (net.Conn, error) {
			l.knocks = append(l.knocks, from)
			return nil, errors.New("nobody is there")
		},
	}
	if l.malware, err = infection.New(cfg); err != nil {
		l.t.Fatal(err)
	}
	caller := firmware.New(l.t.Context(), l.hw.Board)
	err = l.hw.Load(board.Firmware{Name: "app", Define: func(k *rtos.Kernel) {
		if err := l.malware.Define(k, caller.Await); err != nil {
			panic(err)
		}
	}})
	if err == nil {
		err = l.hw.PowerOn()
	}
	if err != nil {
		l.t.Fatal(err)
	}
}

func (l *lab) run(d time.Duration) {
	l.t.Helper()
	if err := l.hw.RunFor(d); err != nil {
		l.t.Fatal(err)
	}
}

// key is what names a conversation on any board: the local port is the stack's, but where somebody connects to the board.
type key struct {
	protocol string
	local    uint16
	remote   netip.AddrPort
}

// window is what the network card saw in ten seconds, both ways.
type window map[key][2]uint64

func (w window) add(k key, in, out uint64) {
	v := w[k]
	w[k] = [2]uint64{v[0] + in, v[1] + out}
}

func collect(s network.Stack, raw bool) (w window, full uint64) {
	w = window{}
	a := s.Collect()
	for _, f := range a.Flows {
		k := key{protocol: f.Protocol, remote: f.Remote}
		if raw || f.Local.Port() == 4455 {
			k.local = f.Local.Port()
		}
		w.add(k, f.BytesIn, f.BytesOut)
	}
	return w, a.Full
}

// expected are the windows of a script.
func expected(t *testing.T, a traffic.Attack, seed uint64, n int, raw bool) []window {
	t.Helper()
	s, err := traffic.NewScript(a, seed, master)
	if err != nil {
		t.Fatal(err)
	}
	ws := make([]window, n)
	for i := range ws {
		ws[i] = window{}
	}
	for act, ok := s.Next(); ok && act.At < time.Duration(n)*10*time.Second; act, ok = s.Next() {
		if act.Visit != nil {
			continue
		}
		k := key{protocol: act.Protocol, remote: act.Remote}
		if raw || act.Inbound {
			k.local = act.Local
		}
		parts := max(1, uint64((act.Lasts+10*time.Second-1)/(10*time.Second)))
		for i := range parts {
			if at := int(act.At/(10*time.Second)) + int(i); at < n {
				ws[at].add(k, act.In/parts, act.Out/parts)
			}
		}
	}
	return ws
}

// What the board's network card sees of an attack is what the script says, window by window: with whom, and how much, but for what connections
// take beside; the cache holds 64 flows of it.
func TestInfection_FlowsAreTheScripts(t *testing.T) {
	t.Parallel()
	for _, a := range traffic.Attacks {
		if a == traffic.Guessing || a == traffic.StolenKey || a == traffic.Stuffing {
			continue
		}
		t.Run(string(a), func(t *testing.T) {
			t.Parallel()
			raw := a == traffic.Mirai || a == traffic.OldCacheScan || a == traffic.SlowScan || a == traffic.SYNFlood || a == traffic.Gafgyt || a == traffic.DNSTunnel
			n := 720
			if a == traffic.Mirai || a == traffic.SYNFlood || a == traffic.Gafgyt {
				n = 100
			}
			l := infect(t, infection.Config{Attack: a, Seed: 11})
			want := expected(t, a, 11, n, raw)
			var exact, shifted, flows int
			early := window{} // what was seen a window later than the script has it: things take their time
			for i, w := range want {
				l.run(10 * time.Second)
				got, full := collect(l.stack, raw)
				if len(w) > network.FlowLimit != (full > 0) {
					t.Errorf("window %d: %d conversations, %d packets without a place in the cache", i, len(w), full)
				}
				next := window{}
				for k, v := range w {
					g, ok := got[k]
					if !ok && raw && k.protocol == "TCP" && k.local != 0 { // a connection of the same attack
						g, ok = got[key{protocol: k.protocol, remote: k.remote}]
					}
					if !ok {
						next[k] = v
						continue
					}
					delete(got, k)
					flows++
					exact++
					if !near(k, g, v) {
						t.Errorf("window %d: %v has %v; want %v", i, k, g, v)
					}
				}
				for k, g := range got {
					if v, ok := early[k]; ok {
						flows++
						shifted++
						if !near(k, g, v) {
							t.Errorf("window %d: %v has %v; want %v", i, k, g, v)
						}
						delete(early, k)
						delete(got, k)
					}
				}
				if len(w) <= network.FlowLimit && !raw && len(early) > 0 {
					t.Errorf("window %d: not seen: %v", i, early)
				}
				for k, g := range got {
					if !raw {
						t.Errorf("window %d: %v has %v, which the script has not", i, k, g)
					}
				}
				early = next
			}
			if flows == 0 || shifted > exact/10+1 {
				t.Errorf("%d conversations in their windows, %d a window later", exact, shifted)
			}
			if s := l.malware.Statistics(); s.Failed > 0 || s.Acts == 0 {
				t.Errorf("%+v", s)
			}
		})
	}
}

// near compares bytes: those of segments and datagrams exactly, TCP connections with what opening, closing and acknowledging takes.
func near(k key, got, want [2]uint64) bool {
	for i := range got {
		slack := 0.0
		switch {
		case k.protocol == "ICMP":
			slack = 24 // a ping of the board's stack is of 40 bytes, the script's of 64
		case k.protocol == "TCP" && want[0] > 40:
			slack = 260 + 0.02*float64(want[i]) + 16*float64(want[1-i])/1448 // acknowledgements
		case k.protocol == "TCP" && want[0] == 40:
			slack = 20 // the stack's reset
		case k.protocol == "TCP":
			slack = 39 // whole segments
		case k.protocol == "UDP":
			slack = 10
		}
		if math.Abs(float64(got[i])-float64(want[i])) > slack {
			return false
		}
	}
	return true
}

// The same seed does the same, and a board that is reset goes on where the script is then; the end is the end.
func TestInfection_Time(t *testing.T) {
	t.Parallel()
	seen := func(seed uint64, reset bool) []window {
		l := infect(t, infection.Config{Attack: traffic.Beacon, Seed: seed, Onset: 20 * time.Minute, End: 80 * time.Minute})
		if reset {
			if err := l.hw.At(l.hw.Cycles(40*time.Minute), func() { l.hw.Reset(board.PinReset) }); err != nil {
				t.Fatal(err)
			}
		}
		var ws []window
		for range 100 {
			l.run(time.Minute)
			w, _ := collect(l.stack, false)
			ws = append(ws, w)
		}
		return ws
	}
	one := seen(5, false)
	for i, w := range one {
		if len(w) > 0 && (i < 20 || i >= 80) {
			t.Errorf("in minute %d, before the onset or after the end: %v", i, w)
		}
	}
	if n := len(busy(one)); n < 6 {
		t.Errorf("it beacons in %d minutes of 60", n)
	}
	cmpr := cmp.AllowUnexported(key{})
	ap := cmp.Comparer(func(a, b netip.AddrPort) bool { return a == b })
	if d := cmp.Diff(one, seen(5, false), cmpr, ap); d != "" {
		t.Errorf("the same seed does something else:\n%s", d)
	}
	if cmp.Equal(one, seen(6, false), cmpr, ap) {
		t.Error("another seed does the same")
	}
	if d := cmp.Diff(busy(one), busy(seen(5, true))); d != "" {
		t.Errorf("a reset changes when it beacons (-without +with):\n%s", d)
	}
}

// What was done before a reset is not done again, and its script is not read again.
func TestInfection_ResetRepeatsNothing(t *testing.T) {
	t.Parallel()
	acts := func(resets ...time.Duration) uint64 {
		l := infect(t, infection.Config{Attack: traffic.Mirai, Seed: 5})
		for _, at := range resets {
			if err := l.hw.At(l.hw.Cycles(at), func() { l.hw.Reset(board.PinReset) }); err != nil {
				t.Fatal(err)
			}
		}
		l.run(3 * time.Minute)
		return l.malware.Statistics().Acts
	}
	without, with := acts(), acts(60*time.Second)
	if with > without || with < without*9/10 {
		t.Errorf("%d acts with a reset, %d without", with, without)
	}
}

func busy(ws []window) (minutes []int) {
	for i, w := range ws {
		if len(w) > 0 {
			minutes = append(minutes, i)
		}
	}
	return minutes
}

// A board whose cable is out does nothing, and goes on when it is in again.
func TestInfection_Offline(t *testing.T) {
	t.Parallel()
	l := infect(t, infection.Config{Attack: traffic.Mirai, Seed: 5})
	l.run(time.Minute)
	l.stack.SetUp(false)
	l.stack.Collect()
	l.run(time.Minute)
	if w, _ := collect(l.stack, false); len(w) != 0 {
		t.Errorf("without a cable it has %v", w)
	}
	failed := l.malware.Statistics().Failed
	if failed == 0 {
		t.Error("nothing failed")
	}
	l.stack.SetUp(true)
	l.run(time.Minute)
	if w, _ := collect(l.stack, false); len(w) != network.FlowLimit || l.malware.Statistics().Failed > failed+1 {
		t.Errorf("then %d conversations, %+v", len(w), l.malware.Statistics())
	}
}

// Credentials are tried from elsewhere in the world: one place with a stolen key, one or many with guesses.
func TestInfection_Door(t *testing.T) {
	t.Parallel()
	l := infect(t, infection.Config{Attack: traffic.StolenKey, Seed: 5})
	l.run(30 * time.Minute)
	if len(l.knocks) != 12 || l.knocks[0] != master || l.knocks[11] != master {
		t.Errorf("a thief at %v; want 12 times at %s", l.knocks, master)
	}
	for seed := range uint64(6) {
		l := infect(t, infection.Config{Attack: traffic.Stuffing, Seed: seed})
		l.run(30 * time.Minute)
		places := map[netip.Addr]bool{}
		for _, a := range l.knocks {
			places[a] = true
		}
		if len(l.knocks) != 40 || len(places) != 1 && len(places) < 30 {
			t.Errorf("seed %d: %d attempts from %d places", seed, len(l.knocks), len(places))
		}
	}
}

func TestNew_Refuses(t *testing.T) {
	t.Parallel()
	seg := facade.New()
	s, err := seg.Attach(facade.Config{Addresses: []netip.Prefix{netip.MustParsePrefix("10.0.1.1/16")}})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	good := infection.Config{Attack: traffic.Beacon, Stack: s, World: infection.NewWorld(nil), Uptime: func() time.Duration { return 0 }}
	if _, err := infection.New(good); err != nil {
		t.Fatal(err)
	}
	for want, change := range map[string]func(c *infection.Config){
		"no attack":                          func(c *infection.Config) { c.Attack = "stuxnet" },
		"of which boards do not tell":        func(c *infection.Config) { c.Attack = traffic.Guessing },
		"Stack, World and Uptime":            func(c *infection.Config) { c.World = nil },
		"a world that can call":              func(c *infection.Config) { c.Attack = traffic.Forward },
		"the way to the hub":                 func(c *infection.Config) { c.Attack = traffic.StolenKey },
		"want an onset and a later end":      func(c *infection.Config) { c.Onset, c.End = 2, 1 },
		"an attack has 2 at most":            func(c *infection.Config) { c.Masters = make([]netip.Addr, 3) },
		"segments of a program's own making": func(c *infection.Config) { c.Attack, c.Stack = traffic.Mirai, struct{ network.Stack }{s} },
	} {
		c := good
		change(&c)
		if _, err := infection.New(c); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%v; want what says %q", err, want)
		}
	}
}

// Over packets, in real time, the first seconds of attacks look the same.
func TestInfection_OnPackets(t *testing.T) {
	t.Parallel()
	for _, a := range []traffic.Attack{traffic.Mirai, traffic.Forward, traffic.PingSweep, traffic.Payload} {
		t.Run(string(a), func(t *testing.T) {
			t.Parallel()
			ctx, cancel := context.WithTimeout(t.Context(), 60*time.Second)
			defer cancel()
			sw := lan.New(lan.Config{Seed: 1})
			switched := make(chan struct{})
			go func() { defer close(switched); sw.Run(ctx) }()
			defer func() { cancel(); <-switched }()
			var g *gateway.Gateway
			world := infection.NewWorld(func(ctx context.Context, from, to netip.AddrPort) (net.Conn, error) { return g.Call(ctx, from, to) })
			g, err := gateway.Open(ctx, gateway.Config{Switch: sw, Outside: world})
			if err != nil {
				t.Fatal(err)
			}
			defer g.Close()
			host, err := netstack.Open(netstack.Config{Switch: sw, MAC: lan.Address(1), Name: "lamp-1", Seed: 7})
			if err != nil {
				t.Fatal(err)
			}
			defer host.Close()
			if err := host.Ready(ctx); err != nil {
				t.Fatal(err)
			}
			host.Collect()
			l := &lab{t: t}
			l.start(infection.Config{Attack: a, Seed: 11}, host, world, true)
			running, stop := context.WithCancel(ctx)
			done := make(chan error, 1)
			go func() { done <- l.hw.Run(running) }()
			defer func() { stop(); <-done }()
			want := expected(t, a, 11, 1, a == traffic.Mirai)[0]
			got := window{}
			for enough := false; !enough; time.Sleep(20 * time.Millisecond) {
				if ctx.Err() != nil {
					t.Fatalf("seen %v of %v", got, want)
				}
				w, _ := collect(host, a == traffic.Mirai)
				for k, v := range w {
					got.add(k, v[0], v[1])
				}
				found := 0
				for k := range got {
					if _, ok := want[k]; ok {
						found++
					}
				}
				enough = found >= min(len(want), 10)
			}
		})
	}
}

// BenchmarkDay is a virtual day of a board that does nothing but scan.
func BenchmarkDay(b *testing.B) {
	for _, a := range []traffic.Attack{traffic.Mirai, traffic.Beacon, traffic.Gafgyt} {
		b.Run(string(a), func(b *testing.B) {
			seg := facade.New()
			world := infection.NewWorld(seg.Call)
			seg.Outside(world)
			s, err := seg.Attach(facade.Config{Addresses: []netip.Prefix{netip.MustParsePrefix("10.0.1.1/16")}, Routers: []netip.Addr{netip.MustParseAddr("10.0.0.1")}})
			if err != nil {
				b.Fatal(err)
			}
			hw, err := stm32l475.New(stm32l475.Config{Board: board.Config{Name: "lamp-1"}})
			if err != nil {
				b.Fatal(err)
			}
			defer hw.Close()
			m, err := infection.New(infection.Config{Attack: a, Stack: s, World: world, Uptime: hw.Uptime})
			if err != nil {
				b.Fatal(err)
			}
			caller := firmware.New(b.Context(), hw.Board)
			err = hw.Load(board.Firmware{Name: "app", Define: func(k *rtos.Kernel) {
				if err := m.Define(k, caller.Await); err != nil {
					panic(err)
				}
			}})
			if err == nil {
				err = hw.PowerOn()
			}
			if err != nil {
				b.Fatal(err)
			}
			for b.Loop() {
				for range 24 * 360 {
					if err := hw.RunFor(10 * time.Second); err != nil {
						b.Fatal(err)
					}
					s.Collect()
				}
			}
		})
	}
}
