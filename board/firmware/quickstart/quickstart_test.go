package quickstart_test

import (
	"bytes"
	"context"
	"fmt"
	"net"
	"net/netip"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/vauban-iot/vauban/app/apptest"
	"github.com/vauban-iot/vauban/board"
	"github.com/vauban-iot/vauban/board/firmware/quickstart"
	"github.com/vauban-iot/vauban/board/network/facade"
	"github.com/vauban-iot/vauban/board/network/service"
	"github.com/vauban-iot/vauban/board/stm32l475"
)

func TestMain(m *testing.M) { apptest.Main(m) }

// virtual is a board in virtual time on a facade, and what was seen of it.
type virtual struct {
	*stm32l475.Board
	stack *facade.Stack

	mu      sync.Mutex
	console bytes.Buffer
	events  []quickstart.Event
}

var (
	boardAddress = netip.MustParsePrefix("10.0.0.7/24")
	router       = netip.MustParseAddr("10.0.0.1")
	platform     = netip.MustParseAddr("10.0.0.2")
)

// newVirtual puts a board with the firmware on a segment that leads to v.
func newVirtual(t *testing.T, v *apptest.Vauban, seed uint64, change func(*quickstart.Config)) *virtual {
	t.Helper()
	b := &virtual{}
	hw, err := stm32l475.New(stm32l475.Config{
		Board:   board.Config{Name: fmt.Sprint("board-", seed), Seed: seed},
		Console: func(p []byte) { b.console.Write(p) },
	})
	if err != nil {
		t.Fatal(err)
	}
	b.Board = hw
	seg := facade.New()
	zone := service.NewZone()
	zone.Add(v.Hub.Hostname, platform)
	zone.Add(v.DPS.Hostname, platform)
	seg.Answer(netip.AddrPortFrom(router, 53), zone.Answer)
	seg.Answer(netip.AddrPortFrom(router, 123), service.Clock{Now: hw.Time}.Answer)
	if err := seg.Bridge("tcp", netip.AddrPortFrom(platform, 8883), func(ctx context.Context) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, "tcp", v.Address(v.Ports.MQTT))
	}); err != nil {
		t.Fatal(err)
	}
	if b.stack, err = seg.Attach(facade.Config{
		Addresses: []netip.Prefix{boardAddress}, Routers: []netip.Addr{router}, NameServers: []netip.Addr{router}, TimeServers: []netip.Addr{router}, Seed: seed,
	}); err != nil {
		t.Fatal(err)
	}
	cfg := quickstart.Config{Board: hw, Network: b.stack, Context: t.Context(), Roots: v.Roots, Event: func(e quickstart.Event) { b.events = append(b.events, e) }}
	change(&cfg)
	fw, err := quickstart.New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	image, err := fw.Image()
	if err == nil {
		err = hw.Load(image)
	}
	if err == nil {
		err = hw.PowerOn()
	}
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		hw.Close()
		b.stack.Close()
		if t.Failed() {
			t.Logf("console:\n%s", b.console.String())
		}
	})
	return b
}

func (b *virtual) of(kind quickstart.EventKind) []quickstart.Event {
	var found []quickstart.Event
	for _, e := range b.events {
		if e.Kind == kind {
			found = append(found, e)
		}
	}
	return found
}

func connectionString(t *testing.T, v *apptest.Vauban, id string) string {
	d := v.Device(id)
	return fmt.Sprintf("HostName=%s;DeviceId=%s;SharedAccessKey=%s", v.Hub.Hostname, d.DeviceID, d.Authentication.SymmetricKey.PrimaryKey)
}

func TestFirmware_Telemetry(t *testing.T) {
	t.Parallel()
	v := apptest.Start(t)
	text := connectionString(t, v, "lamp")
	b := newVirtual(t, v, 1, func(c *quickstart.Config) { c.ConnectionString = text })
	if err := b.RunFor(time.Minute); err != nil {
		t.Fatal(err)
	}
	sent := b.of(quickstart.Sent)
	if len(sent) != 5 {
		t.Fatalf("%d messages in a minute, want 5", len(sent))
	}
	for i, name := range []string{`{"humidity":`, `{"magnetometerX":`, `{"accelerometerX":`, `{"gyroscopeX":`, `{"humidity":`} {
		if !strings.HasPrefix(sent[i].Text, name) {
			t.Errorf("message %d is %s, want %s", i, sent[i].Text, name)
		}
	}
}
