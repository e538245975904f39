package security_test

import (
	"context"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/vauban-iot/vauban/board"
	"github.com/vauban-iot/vauban/board/firmware/security"
	"github.com/vauban-iot/vauban/board/network"
	"github.com/vauban-iot/vauban/board/network/facade"
	"github.com/vauban-iot/vauban/board/network/gateway"
	"github.com/vauban-iot/vauban/board/network/lan"
	"github.com/vauban-iot/vauban/board/network/netstack"
	"github.com/vauban-iot/vauban/board/stm32l475"
	"github.com/vauban-iot/vauban/rtos"
	"github.com/vauban-iot/vauban/sdk/device"
	"github.com/vauban-iot/vauban/wire/secmsg"
)

// wire is where messages of a module go in these tests: it notes them with their time.
type wire struct {
	rig     *rig
	hub, id string

	mu      sync.Mutex
	up      bool
	refuses error
	takes   time.Duration // for each message
	got     []sent
}

type sent struct {
	at     time.Duration // of the board's clock
	body   []byte
	report secmsg.Report
}

func (w *wire) Identity() (hub, id string, connected bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.hub, w.id, w.up
}

func (w *wire) Send(m device.Message) error {
	if w.takes > 0 {
		w.rig.kernel.Sleep(uint32(w.takes * 100 / time.Second))
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.refuses != nil {
		return w.refuses
	}
	if m.InterfaceID != "urn:azureiot:Security:SecurityAgent:1" || !cmp.Equal(m.Properties, map[string]string{"mti": "2.3-1-0-0"}) || m.ContentType != "" {
		w.rig.t.Errorf("flagged %+v", m)
	}
	r, err := secmsg.Decode(m.Properties["mti"], m.Body)
	if err != nil {
		w.rig.t.Error(err)
	}
	w.got = append(w.got, sent{w.rig.hw.Uptime(), m.Body, r})
	return nil
}

func (w *wire) set(up bool) func() {
	return func() { w.mu.Lock(); w.up = up; w.mu.Unlock() }
}

// brief is a line for each message: second, events with their flows.
func (w *wire) brief() []string {
	w.mu.Lock()
	defer w.mu.Unlock()
	var lines []string
	for _, m := range w.got {
		line := fmt.Sprint(int(m.at.Seconds()))
		for _, e := range m.report.Events {
			line += " " + e.Name
			if len(e.Flows) > 0 {
				line += fmt.Sprintf("(%d)", len(e.Flows))
			}
		}
		lines = append(lines, line)
	}
	return lines
}

// rig is a board with a module, in virtual time on a facade, and a neighbour.
type rig struct {
	t         *testing.T
	hw        *stm32l475.Board
	kernel    *rtos.Kernel
	stack     *facade.Stack
	neighbour *facade.Stack
	module    *security.Module
	wires     []*wire
	clock     bool // is it set?
}

var (
	epoch  = time.Date(2026, 11, 28, 6, 0, 0, 0, time.UTC)
	server = netip.MustParseAddr("203.0.113.5")
)

const boot = 2 * time.Millisecond

func newRig(t *testing.T, seed uint64, change func(r *rig, cfg *security.Config)) *rig {
	t.Helper()
	r := &rig{t: t, clock: true}
	seg := facade.New()
	attach := func(addresses ...string) *facade.Stack {
		cfg := facade.Config{}
		for _, a := range addresses {
			cfg.Addresses = append(cfg.Addresses, netip.MustParsePrefix(a))
		}
		s, err := seg.Attach(cfg)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { s.Close() })
		return s
	}
	r.stack, r.neighbour = attach("192.168.1.10/24", "fd00::10/64"), attach("203.0.113.5/24", "2001:db8::5/64")
	var err error
	if r.hw, err = stm32l475.New(stm32l475.Config{Board: board.Config{Name: "lamp-1", Seed: seed, Epoch: epoch}}); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(r.hw.Close)
	r.wires = []*wire{{rig: r, hub: "h.example", id: "lamp-1", up: true}}
	cfg := security.Config{
		Stack: r.stack, Random: r.hw.RNG,
		Now: func() (time.Time, bool) { return r.hw.Time(), r.clock },
	}
	if change != nil {
		change(r, &cfg)
	}
	for _, w := range r.wires {
		cfg.Clients = append(cfg.Clients, w)
	}
	if r.module, err = security.New(cfg); err != nil {
		t.Fatal(err)
	}
	err = r.hw.Load(board.Firmware{Name: "app", Version: "1", Parts: []board.Part{security.Part()}, Define: func(k *rtos.Kernel) {
		r.kernel = k
		if err := r.module.Define(k); err != nil {
			panic(err)
		}
	}})
	if err == nil {
		err = r.hw.PowerOn()
	}
	if err != nil {
		t.Fatal(err)
	}
	return r
}

func (r *rig) run(d time.Duration) {
	r.t.Helper()
	if err := r.hw.RunFor(d); err != nil {
		r.t.Fatal(err)
	}
}

// at lets something happen in the middle of a second of the board.
func (r *rig) at(second int, do func()) {
	r.t.Helper()
	if err := r.hw.At(r.hw.Cycles(time.Duration(second)*time.Second+500*time.Millisecond), do); err != nil {
		r.t.Fatal(err)
	}
}

// datagrams sends n bytes to each of some addresses.
func (r *rig) datagrams(n int, to ...netip.AddrPort) {
	for _, a := range to {
		c, err := r.stack.Dial(context.Background(), "udp", a.String())
		if err == nil {
			_, err = c.Write(make([]byte, n))
			c.Close()
		}
		if err != nil {
			r.t.Error(err)
		}
	}
}

func check(t *testing.T, what string, got, want any) {
	t.Helper()
	if d := cmp.Diff(want, got); d != "" {
		t.Errorf("%s (-want +got):\n%s", what, d)
	}
}

// After the first collection there is one every ten seconds, and every minute one that also says that the board lives and what runs on it. Without
// traffic there is only that.
func TestModule_Schedule(t *testing.T) {
	t.Parallel()
	r := newRig(t, 54, nil)
	to := netip.AddrPortFrom(server, 123)
	for _, s := range []int{75, 85, 86, 152} {
		r.at(s, func() { r.datagrams(48, to) })
	}
	r.run(5 * time.Minute)
	got := r.wires[0].brief()
	var first int
	if _, err := fmt.Sscan(got[0], &first); err != nil || first != 56 {
		t.Fatalf("the first message is %q; want it in second 56 with this seed", got)
	}
	check(t, "the messages", got, []string{
		"56 Heartbeat SystemInformation",
		"76 NetworkActivity(1)",
		"86 NetworkActivity(1)",
		"96 NetworkActivity(1)",
		"116 Heartbeat SystemInformation",
		"156 NetworkActivity(1)",
		"176 Heartbeat SystemInformation",
		"236 Heartbeat SystemInformation",
		"296 Heartbeat SystemInformation",
	})
	ids := map[string]bool{}
	for _, m := range r.wires[0].got {
		if m.at%time.Second > 10*time.Millisecond+boot {
			t.Errorf("a message at %s: want it at a second of the module's start", m.at)
		}
		for _, e := range m.report.Events {
			if want := epoch.Add(m.at).Truncate(time.Second); !e.Time.Equal(want) {
				t.Errorf("%s of %s: want %s", e.Name, e.Time, want)
			}
			if ids[e.ID] {
				t.Errorf("two events have the id %s", e.ID)
			}
			ids[e.ID] = true
		}
	}
}

// Each board begins at a time of its own, half a minute to one and a half after its start.
func TestModule_FirstCollection(t *testing.T) {
	t.Parallel()
	seen := map[int]bool{}
	for seed := range uint64(40) {
		r := newRig(t, seed, nil)
		r.run(95 * time.Second)
		first := int(r.wires[0].got[0].at.Seconds())
		if first < 30 || first >= 90 {
			t.Errorf("seed %d: the first collection is in second %d", seed, first)
		}
		seen[first] = true
	}
	if len(seen) < 15 {
		t.Errorf("40 boards begin at %d different times only", len(seen))
	}
}

// vector is what a device's serializer of NetX Duo 6.3.0 wrote (defender §1.2).
func vector(t *testing.T) (body []byte, r secmsg.Report) {
	t.Helper()
	text, err := os.ReadFile("../../../wire/secmsg/testdata/netxduo-6.3.0.hex")
	if err != nil {
		t.Fatal(err)
	}
	if body, err = hex.DecodeString(strings.Join(strings.Fields(string(text)), "")); err != nil {
		t.Fatal(err)
	}
	if r, err = secmsg.Decode(security.MTI, body); err != nil {
		t.Fatal(err)
	}
	return body, r
}

// What the module says of the vector's traffic is what the vector says, but for when, ids and how many bytes.
func TestModule_Vector(t *testing.T) {
	t.Parallel()
	r := newRig(t, 54, nil)
	l, err := r.neighbour.Listen("tcp", ":8883")
	if err != nil {
		t.Fatal(err)
	}
	r.at(50, func() {
		c, err := r.stack.Dial(t.Context(), "tcp", netip.AddrPortFrom(server, 8883).String())
		if err == nil {
			_, err = c.Write(make([]byte, 1000))
		}
		if err == nil {
			_, err = r.stack.Ping(t.Context(), netip.MustParseAddr("2001:db8::5"))
		}
		if err != nil {
			t.Error(err)
		}
		r.datagrams(1) // nothing: no address
	})
	r.run(60 * time.Second)
	l.Close()
	body, want := vector(t)
	got := r.wires[0].got[0]
	flows := want.Events[0].Flows
	flows[0].BytesOut, flows[0].BytesIn = 40+32+1000+32, 40+32 // SYN, acknowledgement, a segment; SYN-ACK, acknowledgement
	flows[1].BytesOut, flows[1].BytesIn = network.EchoSize, network.EchoSize
	id, err := hex.DecodeString(got.report.Events[0].ID)
	if err != nil {
		t.Fatal(err)
	}
	for i := range want.Events {
		e := &want.Events[i]
		e.ID, e.Time = hex.EncodeToString(id), epoch.Add(got.at).Truncate(time.Second)
		binary.LittleEndian.PutUint64(id, binary.LittleEndian.Uint64(id)+1)
		binary.LittleEndian.PutUint64(id[8:], binary.LittleEndian.Uint64(id[8:])+1)
	}
	if d := cmp.Diff(want, got.report, cmp.Comparer(func(a, b netip.AddrPort) bool { return a == b })); d != "" {
		t.Errorf("(-vector +module):\n%s", d)
	}
	if len(got.body) > len(body)+8 { // the order of tables takes other padding
		t.Errorf("it takes %d bytes; the vector takes %d", len(got.body), len(body))
	}
}

// A board that asks more addresses than the cache holds tells of 64, which is how a scan looks, and the message fits what was set aside for it.
func TestModule_Saturation(t *testing.T) {
	t.Parallel()
	r := newRig(t, 54, nil)
	var all []netip.AddrPort
	for i := range 70 {
		all = append(all, netip.AddrPortFrom(netip.AddrFrom4([4]byte{198, 51, 100, byte(i)}), 23))
		all = append(all, netip.AddrPortFrom(netip.AddrFrom16([16]byte{0x20, 1, 0xd, 0xb8, 15: byte(i)}), 23))
	}
	r.at(50, func() { r.datagrams(20, all...) })
	r.at(60, func() { r.datagrams(20, all[0]) })
	r.run(70 * time.Second)
	m := r.wires[0].got[0]
	remotes := map[netip.Addr]bool{}
	for _, f := range m.report.Events[0].Flows {
		remotes[f.Remote.Addr()] = true
	}
	four := 0
	for a := range remotes {
		if a.Is4() {
			four++
		}
	}
	if len(m.report.Events) != 3 || four != 64 || len(remotes) != 128 {
		t.Errorf("%d addresses of IPv4, %d in all; want 64 of each family", four, len(remotes))
	}
	if len(m.body) > security.MaxMessage || security.MaxMessage != 6644 {
		t.Errorf("the message takes %d bytes of %d", len(m.body), security.MaxMessage)
	}
	if got := r.wires[0].brief()[1]; got != "66 NetworkActivity(1)" {
		t.Errorf("then comes %q: want a cache that is empty again", got)
	}
	if s := r.module.Statistics(); s.Full != 12 || s.Messages != 2 {
		t.Errorf("%+v; want 12 packets that had no place", s)
	}
}

// Without a hub the module collects for five minutes more and keeps the last message only; then it stops, until there is one. It sees a hub within
// three seconds, and sends in the next.
func TestModule_WithoutHub(t *testing.T) {
	t.Parallel()
	var console strings.Builder
	r := newRig(t, 54, func(r *rig, cfg *security.Config) { cfg.Console = &console; r.wires[0].up = false })
	to := netip.AddrPortFrom(server, 123)
	for _, s := range []int{61, 71, 290, 300, 420, 455} {
		r.at(s, func() { r.datagrams(48, to) })
	}
	r.at(78, r.wires[0].set(true))
	r.at(97, r.wires[0].set(false))
	r.at(450, r.wires[0].set(true))
	r.run(7*time.Minute + 10*time.Second)
	// It begins to collect in second 56. In 76 it looks for a hub again, in 79 it is there.
	check(t, "the messages", r.wires[0].brief()[:1], []string{"80 NetworkActivity(1)"})
	if n := len(r.wires[0].got); n != 1 {
		t.Errorf("%d messages without a hub", n-1)
	}
	// That of 116 has no hub, so it is pending until 419.
	check(t, "the states", strings.Fields(strings.ReplaceAll(console.String(), "[security] the module is ", "")), []string{"pending", "active", "pending", "suspended"})
	if s := r.module.Statistics(); s.State != security.Suspended {
		t.Errorf("%+v", s)
	}
	r.run(90 * time.Second)
	// 452 finds the hub; what is overdue is collected in the next second, and what went over the wire meanwhile is not told.
	check(t, "the messages, with a hub again", r.wires[0].brief()[1:], []string{"463 NetworkActivity(1)", "476 Heartbeat SystemInformation"})
}

// A message that is not taken is tried again after three seconds, and gives way to the next one.
func TestModule_Retries(t *testing.T) {
	t.Parallel()
	r := newRig(t, 54, func(r *rig, _ *security.Config) { r.wires[0].refuses = errors.New("the hub is busy") })
	to := netip.AddrPortFrom(server, 123)
	r.at(50, func() { r.datagrams(48, to) })
	r.at(61, func() { r.datagrams(48, to, netip.AddrPortFrom(server, 124)) })
	r.at(70, func() { r.wires[0].mu.Lock(); r.wires[0].refuses = nil; r.wires[0].mu.Unlock() })
	r.run(80 * time.Second)
	check(t, "the messages", r.wires[0].brief(), []string{"72 NetworkActivity(2)"})
	// Refused in 56, 59, 62, 65; another message in 66 and 69; taken in 72.
	if s := r.module.Statistics(); s.Refused != 6 || s.Lost != 1 || s.Messages != 1 {
		t.Errorf("%+v", s)
	}
}

// A hub that takes its time delays nothing but what it delays.
func TestModule_SlowHub(t *testing.T) {
	t.Parallel()
	r := newRig(t, 54, func(r *rig, _ *security.Config) { r.wires[0].takes = 12500 * time.Millisecond })
	for s := 50; s < 120; s++ {
		r.at(s, func() { r.datagrams(48, netip.AddrPortFrom(server, 123)) })
	}
	r.run(2 * time.Minute)
	check(t, "the messages", r.wires[0].brief(), []string{
		"68 NetworkActivity(6) Heartbeat SystemInformation", "81 NetworkActivity(13)", "94 NetworkActivity(13)", "107 NetworkActivity(13)",
	})
}

// A device whose modules are connected besides tells each hub once.
func TestModule_OncePerHubAndDevice(t *testing.T) {
	t.Parallel()
	r := newRig(t, 54, func(r *rig, _ *security.Config) {
		r.wires[0].up = false
		r.wires = append(r.wires,
			&wire{rig: r, hub: "h.example", id: "lamp-1", up: true, refuses: errors.New("no")}, &wire{rig: r, hub: "h.example", id: "lamp-1", up: true},
			&wire{rig: r, hub: "h.example", id: "lamp-1", up: true}, &wire{rig: r, hub: "other.example", id: "lamp-1", up: true}, &wire{rig: r, hub: "h.example", id: "lamp-2", up: true})
	})
	r.run(65 * time.Second)
	var n []int
	for _, w := range r.wires {
		n = append(n, len(w.got))
	}
	check(t, "messages by connection", n, []int{0, 0, 1, 0, 1, 1})
	if s := r.module.Statistics(); s.Messages != 3 || s.Refused != 1 {
		t.Errorf("%+v", s)
	}
}

// Until the clock is set nothing is collected, and what the board sends meanwhile is not told. A clock that is lost again is waited for.
func TestModule_Clock(t *testing.T) {
	t.Parallel()
	r := newRig(t, 54, func(r *rig, _ *security.Config) { r.clock = false })
	r.at(10, func() { r.datagrams(48, netip.AddrPortFrom(server, 123)) })
	r.at(99, func() { r.clock = true })
	r.at(200, func() { r.clock = false })
	r.at(260, func() { r.clock = true })
	r.run(5 * time.Minute)
	check(t, "the messages", r.wires[0].brief(), []string{"156 Heartbeat SystemInformation", "266 Heartbeat SystemInformation"})
}

// A reset makes a module that begins anew, with other ids; what was not sent is gone.
func TestModule_Reset(t *testing.T) {
	t.Parallel()
	r := newRig(t, 54, func(r *rig, _ *security.Config) { r.wires[0].refuses = errors.New("no") })
	r.at(60, func() { r.hw.Reset(board.PinReset) }) // between two collections
	r.at(61, func() { r.wires[0].refuses = nil })
	r.run(160 * time.Second)
	if got := r.wires[0].got; len(got) != 1 || got[0].at < 90*time.Second || got[0].at > 151*time.Second {
		t.Errorf("messages %v; want one, 30 to 90 s after the reset", r.wires[0].brief())
	}
	if s := r.module.Statistics(); s.Lost != 1 {
		t.Errorf("%+v; want the message of before the reset lost", s)
	}
}

func TestNew_Refuses(t *testing.T) {
	t.Parallel()
	_, err := security.New(security.Config{OS: strings.Repeat("x", 65), Intervals: security.Intervals{High: -1}})
	if err == nil {
		t.Fatal("a module of nothing")
	}
	for _, want := range []string{"Stack:", "Clients: 0", "Now:", "Random:", "OS: 65", "Intervals.High"} {
		if !strings.Contains(err.Error(), want) {
			t.Errorf("%v\nsays nothing of %s", err, want)
		}
	}
}

// Over real packets, in real time, the module sees the same: what the board asked a server and what that answered.
func TestModule_OnPackets(t *testing.T) {
	t.Parallel()
	ctx, cancel := context.WithTimeout(t.Context(), 60*time.Second)
	defer cancel()
	sw := lan.New(lan.Config{Seed: 1})
	switched := make(chan struct{})
	go func() { defer close(switched); sw.Run(ctx) }()
	defer func() { cancel(); <-switched }()
	g, err := gateway.Open(ctx, gateway.Config{Switch: sw})
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
	hw, err := stm32l475.New(stm32l475.Config{Board: board.Config{Name: "lamp-1", RealTime: true}})
	if err != nil {
		t.Fatal(err)
	}
	defer hw.Close()
	r := &rig{t: t, hw: hw}
	w := &wire{rig: r, hub: "h.example", id: "lamp-1", up: true}
	began := make(chan struct{})
	once := sync.OnceFunc(func() { close(began) })
	module, err := security.New(security.Config{
		Stack: host, Clients: []security.Client{w}, Random: hw.RNG, Now: func() (time.Time, bool) { return time.Now(), true },
		Console:   console(once),
		Intervals: security.Intervals{Look: 10 * time.Millisecond, First: 20 * time.Millisecond, High: 50 * time.Millisecond, Low: 300 * time.Millisecond},
	})
	if err == nil {
		err = hw.Load(board.Firmware{Name: "app", Define: func(k *rtos.Kernel) {
			if err := module.Define(k); err != nil {
				panic(err)
			}
		}})
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
	select {
	case <-began:
	case <-ctx.Done():
		t.Fatal("the module does not begin")
	}
	if _, err := network.Time(ctx, host, netip.MustParseAddr("10.0.0.1"), time.Now); err != nil {
		t.Fatal(err)
	}
	want := secmsg.Flow{Remote: netip.MustParseAddrPort("10.0.0.1:123"), Protocol: "UDP", BytesIn: 56, BytesOut: 56}
	var in, out uint64
	alive := 0
	for in < want.BytesIn || out < want.BytesOut || alive < 4 {
		if ctx.Err() != nil {
			t.Fatalf("told %d bytes in and %d out, and %d times of the board; want %+v", in, out, alive, want)
		}
		time.Sleep(5 * time.Millisecond)
		in, out, alive = 0, 0, 0
		w.mu.Lock()
		for _, m := range w.got {
			for _, e := range m.report.Events {
				if e.Name != "NetworkActivity" {
					alive++
				}
				i := slices.IndexFunc(e.Flows, func(f secmsg.Flow) bool { return f.Remote == want.Remote && f.Protocol == want.Protocol })
				if i >= 0 {
					in, out = in+e.Flows[i].BytesIn, out+e.Flows[i].BytesOut
				}
			}
		}
		w.mu.Unlock()
	}
	if in != want.BytesIn || out != want.BytesOut {
		t.Errorf("told %d bytes in and %d out; want %+v", in, out, want)
	}
}

// console hears when the module is active.
type console func()

func (c console) Write(p []byte) (int, error) {
	if strings.Contains(string(p), "active") {
		c()
	}
	return len(p), nil
}

// BenchmarkDay is a virtual day of a board with the module that sends every ten seconds.
func BenchmarkDay(b *testing.B) {
	seg := facade.New()
	s, err := seg.Attach(facade.Config{Addresses: []netip.Prefix{netip.MustParsePrefix("192.168.1.10/24")}})
	if err != nil {
		b.Fatal(err)
	}
	hw, err := stm32l475.New(stm32l475.Config{Board: board.Config{Name: "lamp-1"}})
	if err != nil {
		b.Fatal(err)
	}
	m, err := security.New(security.Config{Stack: s, Clients: []security.Client{nowhere{}}, Random: hw.RNG, Now: func() (time.Time, bool) { return hw.Time(), true }})
	if err != nil {
		b.Fatal(err)
	}
	c, err := s.Dial(b.Context(), "udp", "192.168.1.1:123")
	if err != nil {
		b.Fatal(err)
	}
	err = hw.Load(board.Firmware{Name: "app", Define: func(k *rtos.Kernel) {
		if err := m.Define(k); err != nil {
			panic(err)
		}
		k.CreateThread(new(rtos.Thread), rtos.ThreadConfig{Name: "main", Stack: k.Reserve(1024), Priority: 10, Start: rtos.AutoStart, Entry: func(uint32) {
			for {
				c.Write([]byte("hello"))
				k.Sleep(1000)
			}
		}})
	}})
	if err == nil {
		err = hw.PowerOn()
	}
	if err != nil {
		b.Fatal(err)
	}
	for b.Loop() {
		if err := hw.RunFor(24 * time.Hour); err != nil {
			b.Fatal(err)
		}
	}
	hw.Close()
}

type nowhere struct{}

func (nowhere) Identity() (string, string, bool) { return "h", "d", true }
func (nowhere) Send(device.Message) error        { return nil }
