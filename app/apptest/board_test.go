package apptest_test

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/vauban-iot/vauban/app/apptest"
	"github.com/vauban-iot/vauban/board"
	"github.com/vauban-iot/vauban/board/firmware/quickstart"
	"github.com/vauban-iot/vauban/board/firmware/security"
	"github.com/vauban-iot/vauban/board/network/facade"
	"github.com/vauban-iot/vauban/board/network/gateway"
	"github.com/vauban-iot/vauban/board/network/lan"
	"github.com/vauban-iot/vauban/board/network/netstack"
	"github.com/vauban-iot/vauban/board/network/service"
	"github.com/vauban-iot/vauban/board/stm32l475"
	"github.com/vauban-iot/vauban/defender/alert"
	"github.com/vauban-iot/vauban/defender/record"
	"github.com/vauban-iot/vauban/rtos"
	"github.com/vauban-iot/vauban/sdk/device"
	"github.com/vauban-iot/vauban/sim/infection"
	"github.com/vauban-iot/vauban/sim/traffic"
)

// guarded is a virtual board with the getting-started firmware, its security module and an infection, in virtual time.
type guarded struct {
	*stm32l475.Board
	module *security.Module
}

var badHost = netip.MustParseAddr("203.0.113.5")

// guard makes a board whose clock, after d, is that of the machine.
func guard(t *testing.T, v *apptest.Vauban, id string, d time.Duration, attack traffic.Attack) *guarded {
	t.Helper()
	g := &guarded{}
	var err error
	check := func() {
		if err != nil {
			t.Helper()
			t.Fatal(err)
		}
	}
	g.Board, err = stm32l475.New(stm32l475.Config{Board: board.Config{Name: id, Seed: 5, Epoch: time.Now().Add(-d)}})
	check()
	seg, zone := facade.New(), service.NewZone()
	router, platform := netip.MustParseAddr("10.0.0.1"), netip.MustParseAddr("10.0.0.2")
	err = zone.Add(v.Hub.Hostname, platform)
	check()
	seg.Answer(netip.AddrPortFrom(router, 53), zone.Answer)
	seg.Answer(netip.AddrPortFrom(router, 123), service.Clock{Now: g.Time}.Answer)
	err = seg.Bridge("tcp", netip.AddrPortFrom(platform, 8883), func(ctx context.Context) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, "tcp", v.Address(v.Ports.MQTT))
	})
	check()
	world := infection.NewWorld(seg.Call)
	seg.Outside(world)
	stack, err := seg.Attach(facade.Config{
		Addresses: []netip.Prefix{netip.MustParsePrefix("10.0.1.1/16")}, Routers: []netip.Addr{router}, NameServers: []netip.Addr{router}, TimeServers: []netip.Addr{router},
	})
	check()
	t.Cleanup(func() { g.Close(); stack.Close() })

	key := v.Device(id).Authentication.SymmetricKey.PrimaryKey
	identity := device.Config{ConnectionString: fmt.Sprintf("HostName=%s;DeviceId=%s;SharedAccessKey=%s", v.Hub.Hostname, id, key), TLS: v.TLS()}
	malware, err := infection.New(infection.Config{
		Attack: attack, Seed: 5, Masters: []netip.Addr{badHost}, Onset: time.Minute, Stack: stack, World: world, Uptime: g.Uptime,
		Hub: &infection.Hub{Device: func() (device.Config, bool) { return identity, true }, Dial: infection.Loopback(v.Address(v.Ports.MQTT))},
	})
	check()
	fw, err := quickstart.New(quickstart.Config{
		Board: g.Board, Network: stack, Context: t.Context(), Roots: v.Roots, ConnectionString: identity.ConnectionString,
		Define: func(k *rtos.Kernel, d *quickstart.Device) {
			if err := malware.Define(k, d.Await); err != nil {
				panic(err)
			}
		},
	})
	check()
	g.module, err = fw.Secure(security.Intervals{})
	check()
	image, err := fw.Image()
	check()
	err = g.Load(image)
	check()
	err = g.PowerOn()
	check()
	return g
}

// until plays a board on until an alert of a type is there, for d at most.
func (g *guarded) until(t *testing.T, v *apptest.Vauban, d time.Duration, kind string) alert.Alert {
	t.Helper()
	var a *alert.Alert
	eventually(t, kind, func() bool {
		if g.Uptime() < d {
			if err := g.RunFor(10 * time.Second); err != nil {
				t.Fatal(err)
			}
		}
		for _, x := range alertsOf(t, v, "") {
			if x.Type == kind {
				a = &x
			}
		}
		return a != nil
	})
	return *a
}

// What a virtual board's security module saw at its network card raises alerts: a scan, and the listed address that commands it. What it says of the board is
// kept as that of a board on a desk.
func TestVauban_InfectedBoard(t *testing.T) {
	t.Parallel()
	v := apptest.Start(t)
	if err := os.WriteFile(filepath.Join(v.Dir, "intel", "mine.txt"), []byte(badHost.String()+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	const most = 30 * time.Minute
	g := guard(t, v, "lamp-1", most, traffic.Mirai)
	g.until(t, v, most, alert.TiConnection)
	g.until(t, v, most, alert.NetworkScan)
	var events struct{ Events []record.Row }
	operate(t, v, "GET", "/api/security-events?device=lamp-1&name=SystemInformation", "", &events)
	if len(events.Events) == 0 || string(events.Events[0].Details) != `{"os_info":"Azure RTOS 6.3"}` || events.Events[0].AgentVersion != security.Version {
		t.Errorf("of the board: %+v", events.Events)
	}
	if s := g.module.Statistics(); s.State != security.Active || s.Lost > 0 || s.Full == 0 {
		t.Errorf("%+v; want an active module whose cache was too small", s)
	}
}

// Somebody else uses the board's key from another place, and the hub sees the same identity in two places in turns.
func TestVauban_StolenKey(t *testing.T) {
	t.Parallel()
	v := apptest.Start(t)
	const most = time.Hour
	g := guard(t, v, "lamp-1", most, traffic.StolenKey)
	g.until(t, v, most, alert.TwoPlaces)
}

// Keys are guessed at the hub's door.
func TestVauban_CredentialStuffing(t *testing.T) {
	t.Parallel()
	v := apptest.Start(t)
	const most = time.Hour
	guard(t, v, "lamp-1", most, traffic.Stuffing).until(t, v, most, alert.CredentialStuffing)
}

// On the command line a board has a module when it is asked for.
func TestVauban_BoardRunSecurity(t *testing.T) {
	t.Parallel()
	v := apptest.Start(t)
	out := must(t, v, "board", "run", "--speed", "max", "--duration", "5m", "--device", "lamp-1", "--security")
	if !strings.Contains(out, "[security] the module is active") {
		t.Errorf("the console says nothing of it:\n%s", out)
	}
	eventually(t, "its events", func() bool {
		var events struct{ Events []record.Row }
		operate(t, v, "GET", "/api/security-events?device=lamp-1&name=Heartbeat", "", &events)
		return len(events.Events) >= 3
	})
}

// Over packets, in real time, the same is seen: the board scans, and its program comes from a listed address.
func TestVauban_InfectedBoardOnPackets(t *testing.T) {
	t.Parallel()
	v := apptest.Start(t)
	loader := netip.MustParseAddr("203.0.113.6")
	if err := os.WriteFile(filepath.Join(v.Dir, "intel", "mine.txt"), []byte(loader.String()+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 60*time.Second)
	defer cancel()
	sw := lan.New(lan.Config{Seed: 1})
	switched := make(chan struct{})
	go func() { defer close(switched); sw.Run(ctx) }()
	defer func() { cancel(); <-switched }()
	platform := netip.MustParseAddrPort("10.0.0.2:8883")
	world := infection.NewWorld(nil)
	g, err := gateway.Open(ctx, gateway.Config{
		Switch: sw, Outside: world, Names: map[string][]netip.Addr{v.Hub.Hostname: {platform.Addr()}},
		Bridges: []gateway.Bridge{{Network: "tcp", At: platform, To: v.Address(v.Ports.MQTT)}},
	})
	if err != nil {
		t.Fatal(err)
	}
	defer g.Close()
	stack, err := netstack.Open(netstack.Config{Switch: sw, MAC: lan.Address(1), Name: "lamp-1", Seed: 7})
	if err != nil {
		t.Fatal(err)
	}
	defer stack.Close()
	hw, err := stm32l475.New(stm32l475.Config{Board: board.Config{Name: "lamp-1", Seed: 5, RealTime: true, Epoch: time.Now()}})
	if err != nil {
		t.Fatal(err)
	}
	defer hw.Close()
	malware, err := infection.New(infection.Config{
		Attack: traffic.Mirai, Seed: 5, Masters: []netip.Addr{badHost, loader}, Onset: 2 * time.Second, Stack: stack, World: world, Uptime: hw.Uptime,
	})
	if err != nil {
		t.Fatal(err)
	}
	fw, err := quickstart.New(quickstart.Config{
		Board: hw, Network: stack, Context: ctx, Roots: v.Roots,
		ConnectionString: fmt.Sprintf("HostName=%s;DeviceId=lamp-1;SharedAccessKey=%s", v.Hub.Hostname, v.Device("lamp-1").Authentication.SymmetricKey.PrimaryKey),
		Define: func(k *rtos.Kernel, d *quickstart.Device) {
			if err := malware.Define(k, d.Await); err != nil {
				panic(err)
			}
		},
	})
	if err == nil {
		_, err = fw.Secure(security.Intervals{Look: 100 * time.Millisecond, First: 100 * time.Millisecond, High: time.Second})
	}
	var image board.Firmware
	if err == nil {
		image, err = fw.Image()
	}
	if err == nil {
		err = hw.Load(image)
	}
	if err == nil {
		err = hw.PowerOn()
	}
	if err != nil {
		t.Fatal(err)
	}
	running, stop := context.WithCancel(ctx)
	done := make(chan error, 1)
	go func() { done <- hw.Run(running) }()
	defer func() { stop(); <-done }()
	for _, kind := range []string{alert.TiConnection, alert.NetworkScan} {
		eventually(t, kind, func() bool {
			return slices.ContainsFunc(alertsOf(t, v, "device=lamp-1"), func(a alert.Alert) bool { return a.Type == kind })
		})
	}
}
