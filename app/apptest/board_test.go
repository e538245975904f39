package apptest_test

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"sync/atomic"
	"testing"
	"time"

	"github.com/vauban-iot/vauban/app/apptest"
	"github.com/vauban-iot/vauban/board"
	"github.com/vauban-iot/vauban/board/firmware/security"
	"github.com/vauban-iot/vauban/board/network/facade"
	"github.com/vauban-iot/vauban/board/stm32l475"
	"github.com/vauban-iot/vauban/defender/alert"
	"github.com/vauban-iot/vauban/defender/record"
	"github.com/vauban-iot/vauban/rtos"
	"github.com/vauban-iot/vauban/sdk/device"
)

// guarded is a virtual board with a security module, in virtual time, connected to a Vauban over its own network.
type guarded struct {
	*stm32l475.Board
	stack  *facade.Stack
	module *security.Module

	client *device.Client
	up     atomic.Bool
	id     string
}

func (g *guarded) Identity() (hub, id string, connected bool) {
	hub, id, _ = g.client.ID()
	return hub, id, g.up.Load()
}

func (g *guarded) Send(m device.Message) error {
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	return g.client.Send(ctx, m)
}

// guard makes a board whose run ends now, after d. attack defines what else runs on it.
func guard(t *testing.T, v *apptest.Vauban, seg *facade.Segment, id string, d time.Duration, attack func(g *guarded, k *rtos.Kernel)) *guarded {
	t.Helper()
	g := &guarded{id: id}
	hub := netip.MustParseAddrPort("10.0.0.2:8883")
	var err error
	check := func() {
		if err != nil {
			t.Helper()
			t.Fatal(err)
		}
	}
	g.stack, err = seg.Attach(facade.Config{Addresses: []netip.Prefix{netip.MustParsePrefix("10.0.1.1/16")}})
	check()
	t.Cleanup(func() { g.stack.Close() })
	g.Board, err = stm32l475.New(stm32l475.Config{Board: board.Config{Name: id, Seed: 5, Epoch: time.Now().Add(-d)}})
	check()
	t.Cleanup(g.Close)
	identity := v.Device(id)
	up := make(chan struct{}, 1)
	g.client, err = device.New(device.Config{
		ConnectionString: fmt.Sprintf("HostName=%s;DeviceId=%s;SharedAccessKey=%s", v.Hub.Hostname, id, identity.Authentication.SymmetricKey.PrimaryKey),
		TLS:              v.TLS(), Dial: g.stack.Dial, Address: hub.String(), KeepAlive: time.Minute,
		State: func(err error) {
			g.up.Store(err == nil)
			if err == nil {
				up <- struct{}{}
			}
		},
	})
	check()
	run, stop := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() { defer close(done); g.client.Run(run) }()
	t.Cleanup(func() { stop(); <-done })
	select {
	case <-up:
	case <-time.After(20 * time.Second):
		t.Fatal("the board does not connect")
	}
	g.module, err = security.New(security.Config{
		Stack: g.stack, Clients: []security.Client{g}, Random: g.RNG, Now: func() (time.Time, bool) { return g.Time(), true },
	})
	check()
	err = g.Load(board.Firmware{Name: "app", Version: "1", Parts: []board.Part{security.Part()}, Define: func(k *rtos.Kernel) {
		if err := g.module.Define(k); err != nil {
			panic(err)
		}
		attack(g, k)
	}})
	check()
	err = g.PowerOn()
	check()
	return g
}

// segment is the network of boards, with the way to a Vauban.
func segment(t *testing.T, v *apptest.Vauban) *facade.Segment {
	t.Helper()
	seg := facade.New()
	if err := seg.Bridge("tcp", netip.MustParseAddrPort("10.0.0.2:8883"), func(ctx context.Context) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, "tcp", v.Address(v.Ports.MQTT))
	}); err != nil {
		t.Fatal(err)
	}
	return seg
}

// list puts an address on the operator's own list.
func list(t *testing.T, v *apptest.Vauban, lines string) {
	t.Helper()
	if err := os.WriteFile(filepath.Join(v.Dir, "intel", "mine.txt"), []byte(lines), 0o600); err != nil {
		t.Fatal(err)
	}
}

// What a virtual board's security module saw at its network card is an alert, when it was a listed address; what it says of the board is
// kept as that of a board on a desk.
func TestVauban_GuardedBoard(t *testing.T) {
	t.Parallel()
	v := apptest.Start(t)
	list(t, v, "203.0.113.5\n")
	g := guard(t, v, segment(t, v), "lamp-1", 10*time.Minute, func(g *guarded, k *rtos.Kernel) {
		k.CreateThread(new(rtos.Thread), rtos.ThreadConfig{Name: "main", Stack: k.Reserve(1024), Priority: 10, Start: rtos.AutoStart, Entry: func(uint32) {
			c, err := g.stack.Dial(t.Context(), "udp", "203.0.113.5:4444")
			if err != nil {
				panic(err)
			}
			for {
				c.Write(make([]byte, 100))
				k.Sleep(1000)
			}
		}})
	})
	// Lists are read within a second; until then nothing is found.
	eventually(t, "the alert", func() bool {
		if g.Uptime() < 9*time.Minute {
			if err := g.RunFor(20 * time.Second); err != nil {
				t.Fatal(err)
			}
		}
		return len(alertsOf(t, v, "device=lamp-1")) > 0
	})
	a := alertsOf(t, v, "device=lamp-1")[0]
	if a.Type != alert.TiConnection || a.Status != alert.Open {
		t.Errorf("%+v", a)
	}
	var events struct{ Events []record.Row }
	operate(t, v, "GET", "/api/security-events?device=lamp-1&name=SystemInformation", "", &events)
	if len(events.Events) == 0 || string(events.Events[0].Details) != `{"os_info":"Azure RTOS 6.3"}` || events.Events[0].AgentVersion != security.Version {
		t.Errorf("of the board: %+v", events.Events)
	}
	if s := g.module.Statistics(); s.State != security.Active || s.Refused+s.Lost+s.Full != 0 {
		t.Errorf("%+v", s)
	}
}
