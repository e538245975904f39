package gateway_test

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/vauban-iot/vauban/app/apptest"
	"github.com/vauban-iot/vauban/app/up"
	"github.com/vauban-iot/vauban/board/network"
	"github.com/vauban-iot/vauban/board/network/facade"
	"github.com/vauban-iot/vauban/board/network/gateway"
	"github.com/vauban-iot/vauban/board/network/lan"
	"github.com/vauban-iot/vauban/board/network/netstack"
	"github.com/vauban-iot/vauban/board/network/networktest"
	"github.com/vauban-iot/vauban/board/network/secure"
	"github.com/vauban-iot/vauban/board/network/service"
	"github.com/vauban-iot/vauban/sdk/device"
)

func TestMain(m *testing.M) { apptest.Main(m) }

var (
	hubAddr = netip.MustParseAddr("10.0.0.2")
	when    = time.Date(2031, 2, 3, 4, 5, 6, 500_000_000, time.UTC)
)

func runSwitch(t *testing.T, seed uint64) *lan.Switch {
	sw := lan.New(lan.Config{Seed: seed})
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() { defer close(done); sw.Run(ctx) }()
	t.Cleanup(func() { cancel(); <-done })
	return sw
}

func openGateway(t *testing.T, cfg gateway.Config) *gateway.Gateway {
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	g, err := gateway.Open(ctx, cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := g.Close(); err != nil {
			t.Error(err)
		}
	})
	return g
}

func open(t *testing.T, cfg netstack.Config) *netstack.Host {
	h, err := netstack.Open(cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { h.Close() })
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	if err := h.Ready(ctx); err != nil {
		t.Fatal(err)
	}
	return h
}

// packets is a pair over lossy cables, with a gateway that knows names.
func packets(loss float64) func(t *testing.T) networktest.Pair {
	return func(t *testing.T) networktest.Pair {
		sw := runSwitch(t, 5)
		openGateway(t, gateway.Config{Switch: sw, Names: map[string][]netip.Addr{"b.example": {netip.MustParseAddr("10.0.0.12")}}})
		host := func(n uint64, a string) *netstack.Host {
			return open(t, netstack.Config{
				Switch: sw, MAC: lan.Address(n), Seed: 7, Link: lan.Link{Latency: time.Millisecond, Jitter: time.Millisecond, Loss: loss},
				Addresses: []netip.Prefix{netip.MustParsePrefix(a)}, NameServers: []netip.Addr{netip.MustParseAddr("10.0.0.1")},
			})
		}
		return networktest.Pair{A: host(1, "10.0.0.11/16"), B: host(2, "10.0.0.12/16"), BAddr: netip.MustParseAddr("10.0.0.12")}
	}
}

func memory(t *testing.T) networktest.Pair {
	seg, zone := facade.New(), service.NewZone()
	b := netip.MustParseAddr("10.0.0.12")
	if err := zone.Add("b.example", b); err != nil {
		t.Fatal(err)
	}
	dns := netip.MustParseAddr("10.0.0.1")
	seg.Answer(netip.AddrPortFrom(dns, 53), zone.Answer)
	host := func(a string) *facade.Stack {
		s, err := seg.Attach(facade.Config{Addresses: []netip.Prefix{netip.MustParsePrefix(a)}, NameServers: []netip.Addr{dns}, Seed: 7})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { s.Close() })
		return s
	}
	return networktest.Pair{A: host("10.0.0.11/16"), B: host("10.0.0.12/16"), BAddr: b}
}

func TestNetstack(t *testing.T) { t.Parallel(); networktest.Run(t, packets(0.02)) }
func TestFacade(t *testing.T)   { t.Parallel(); networktest.Run(t, memory) }

// flows4 are the flows of IPv4, by key.
func flows4(s network.Stack) map[string][2]uint64 {
	m := map[string][2]uint64{}
	for _, f := range s.Collect().Flows {
		if f.Local.Addr().Is4() {
			m[fmt.Sprint(f.Protocol, " ", f.Local, " ", f.Remote)] = [2]uint64{f.BytesIn, f.BytesOut}
		}
	}
	return m
}

func TestFlowsAreAlike(t *testing.T) {
	t.Parallel()
	var got [2]map[string][2]uint64
	for i, open := range []func(*testing.T) networktest.Pair{packets(0), memory} {
		p := open(t)
		p.A.Collect()
		ctx, cancel := context.WithTimeout(t.Context(), 60*time.Second)
		defer cancel()
		networktest.Program(t, ctx, p)
		got[i] = flows4(p.A)
	}
	for key, bytes := range got[0] {
		estimate, ok := got[1][key]
		switch {
		case !ok:
			t.Errorf("over packets there is %s, in the facade not", key)
		case !strings.HasPrefix(key, "TCP") && estimate != bytes:
			t.Errorf("%s: %v over packets, %v in the facade; want them alike", key, bytes, estimate)
		default:
			for d := range bytes {
				if e, b := float64(estimate[d]), float64(bytes[d]); e < b*0.8 || e > b*1.2 {
					t.Errorf("%s: %v over packets, %v estimated", key, bytes, estimate)
				}
			}
		}
	}
	if len(got[0]) != len(got[1]) || len(got[0]) != 4 {
		t.Errorf("flows %v over packets and %v in the facade; want DNS, TCP, UDP and ICMP", got[0], got[1])
	}
}

// TestFlowsEqualFrames counts a board's frames a second time, from what crossed its card.
func TestFlowsEqualFrames(t *testing.T) {
	t.Parallel()
	sw := runSwitch(t, 6)
	var mu sync.Mutex
	want := map[string][2]uint64{}
	watch := func(f []byte, sent bool) {
		if f[12] != 8 || f[13] != 0 || !sent && f[0]&1 != 0 {
			return
		}
		ip := f[14:]
		names := map[byte]string{1: "ICMP", 6: "TCP", 17: "UDP"}
		a, b := netip.AddrFrom4([4]byte(ip[12:])), netip.AddrFrom4([4]byte(ip[16:]))
		var p, q uint16
		if ip[9] != 1 {
			p, q = uint16(ip[20])<<8|uint16(ip[21]), uint16(ip[22])<<8|uint16(ip[23])
		}
		if !sent {
			a, b, p, q = b, a, q, p
		}
		key := fmt.Sprint(names[ip[9]], " ", netip.AddrPortFrom(a, p), " ", netip.AddrPortFrom(b, q))
		mu.Lock()
		defer mu.Unlock()
		n := want[key]
		i := 0
		if sent {
			i = 1
		}
		n[i] += uint64(int(ip[2])<<8|int(ip[3])) - 20
		want[key] = n
	}
	openGateway(t, gateway.Config{Switch: sw, Names: map[string][]netip.Addr{"b.example": {netip.MustParseAddr("10.0.0.12")}}})
	cfg := netstack.Config{Switch: sw, MAC: lan.Address(1), Addresses: []netip.Prefix{netip.MustParsePrefix("10.0.0.11/16")}, NameServers: []netip.Addr{netip.MustParseAddr("10.0.0.1")}, Watch: watch}
	a := open(t, cfg)
	cfg.MAC, cfg.Addresses, cfg.Watch = lan.Address(2), []netip.Prefix{netip.MustParsePrefix("10.0.0.12/16")}, nil
	b := open(t, cfg)
	networktest.Program(t, t.Context(), networktest.Pair{A: a, B: b, BAddr: netip.MustParseAddr("10.0.0.12")})
	a.SetUp(false) // nothing moves any more
	time.Sleep(50 * time.Millisecond)
	got := flows4(a)
	mu.Lock()
	defer mu.Unlock()
	if d := cmp.Diff(want, got); d != "" || len(got) < 4 {
		t.Errorf("flows (+) differ from what crossed the card (-):\n%s", d)
	}
}

func TestProvisionedBoard(t *testing.T) {
	t.Parallel()
	v := apptest.Start(t, func(c *up.Config) { c.StaticRSA = true })
	port := uint16(v.Ports.MQTT)
	sw := runSwitch(t, 9)
	g := openGateway(t, gateway.Config{
		Switch: sw, Now: func() time.Time { return when }, Lease: 2 * time.Second,
		Names:   map[string][]netip.Addr{v.Hub.Hostname + ".test": {hubAddr}, "printer.local": {netip.MustParseAddr("10.0.0.77")}},
		Bridges: []gateway.Bridge{{Network: "tcp", At: netip.AddrPortFrom(hubAddr, port), To: "127.0.0.1:" + strconv.Itoa(int(port))}},
	})
	h := open(t, netstack.Config{Switch: sw, MAC: lan.Address(1), Name: "lamp", Seed: 3, Link: lan.Link{Latency: time.Millisecond, Loss: 0.01}})
	ctx, cancel := context.WithTimeout(t.Context(), 60*time.Second)
	defer cancel()

	s := h.Settings()
	if s.Addresses[0] != netip.MustParsePrefix("10.0.1.0/16") || s.Leased != 2*time.Second || !slices.Contains(s.NameServers, netip.MustParseAddr("10.0.0.1")) {
		t.Fatalf("DHCP gave %+v", s)
	}
	announced := netip.MustParsePrefix("fd76:6175:6261::/64")
	own := func(p netip.Prefix) bool { return announced.Contains(p.Addr()) }
	for !slices.ContainsFunc(h.Settings().Addresses, own) { // made from the router's announcement
		if ctx.Err() != nil {
			t.Fatalf("no address by announcement: %+v", h.Settings())
		}
		time.Sleep(20 * time.Millisecond)
	}
	for try := 0; ; try++ { // the cable loses frames
		one, cancel := context.WithTimeout(ctx, time.Second)
		_, err := h.Ping(one, netip.MustParseAddr("fd76:6175:6261::1"))
		cancel()
		if err == nil {
			break
		}
		if try == 10 {
			t.Error(err)
			break
		}
	}
	if now, err := network.Time(ctx, h, s.TimeServers[0], time.Now); err != nil || now.Sub(when).Abs() > time.Minute || now.Before(when) {
		t.Errorf("the time is %v, %v; want %v and the way", now, err, when)
	}
	if as, err := network.LookupLocal(ctx, h, "printer.local"); err != nil || len(as) != 1 || as[0] != netip.MustParseAddr("10.0.0.77") {
		t.Errorf("multicast DNS: %v, %v", as, err)
	}
	if _, err := h.Dial(ctx, "tcp", v.Hub.Hostname+".other:1"); !errors.Is(err, network.ErrNoName) {
		t.Errorf("a name that nobody knows: %v", err)
	}
	h.Collect()

	d := v.Device("lamp")
	id := fmt.Sprintf("HostName=%s;DeviceId=%s;SharedAccessKey=%s", v.Hub.Hostname, d.DeviceID, d.Authentication.SymmetricKey.PrimaryKey)
	tls := secure.GettingStarted.Config(v.Roots)
	tls.ServerName = "localhost"
	c, err := device.New(device.Config{ConnectionString: id, TLS: tls, Dial: h.Dial, Address: netip.AddrPortFrom(hubAddr, port).String()})
	if err != nil {
		t.Fatal(err)
	}
	run, stop := context.WithCancel(ctx)
	done := make(chan error, 1)
	go func() { done <- c.Run(run) }()
	if err := c.Send(ctx, device.Message{Body: []byte(`{"temperature":21}`)}); err != nil {
		t.Error(err)
	}
	// Its lease ran out unless it was renewed.
	time.Sleep(3 * time.Second)
	if h.Settings().Leased == 0 || g.Leases.Held() != 1 {
		t.Errorf("the lease was not renewed: %+v", h.Settings())
	}
	if err := c.Send(ctx, device.Message{Body: []byte(`{"temperature":22}`)}); err != nil {
		t.Error(err)
	}
	stop()
	<-done
	var found bool
	for _, f := range h.Collect().Flows {
		found = found || f.Remote == netip.AddrPortFrom(hubAddr, port) && f.Protocol == "TCP" && f.BytesIn > 1000 && f.BytesOut > 500
	}
	if !found {
		t.Error("the security module does not see the connection to the hub")
	}
}
