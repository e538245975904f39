package gateway_test

import (
	"context"
	"errors"
	"io"
	"net"
	"net/netip"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/vauban-iot/vauban/board/network"
	"github.com/vauban-iot/vauban/board/network/facade"
	"github.com/vauban-iot/vauban/board/network/gateway"
	"github.com/vauban-iot/vauban/board/network/lan"
	"github.com/vauban-iot/vauban/board/network/netstack"
)

// far is a world where 203.0.113.1 answers, 203.0.113.2 refuses and nobody else does anything.
type far struct{}

func (far) answers(a netip.Addr) bool { return a == netip.MustParseAddr("203.0.113.1") }

func (w far) Connect(_, to netip.AddrPort) (net.Conn, error) {
	switch {
	case w.answers(to.Addr()):
		a, b := net.Pipe()
		go func() { io.Copy(b, b); b.Close() }()
		return a, nil
	case to.Addr() == netip.MustParseAddr("203.0.113.2"):
		return nil, network.ErrRefused
	}
	return nil, network.ErrNoAnswer
}

func (w far) Datagram(_, to netip.AddrPort, data []byte) []byte {
	if !w.answers(to.Addr()) {
		return nil
	}
	return append([]byte("got "), data...)
}

func (w far) Echo(_, to netip.Addr) bool { return w.answers(to) }

// A board's router leads to the rest of the world on both kinds of network, and its security module sees the same of it: who answers, who refuses and who is
// silent; segments of a program's own making; and somebody outside who calls the board.
func TestOutside(t *testing.T) {
	t.Parallel()
	type way struct {
		stack network.Stack
		call  func(ctx context.Context, from, to netip.AddrPort) (net.Conn, error)
		at    netip.Addr
	}
	over := func() way {
		sw := runSwitch(t, 5)
		g := openGateway(t, gateway.Config{Switch: sw, Outside: far{}})
		h := open(t, netstack.Config{Switch: sw, MAC: lan.Address(1), Name: "lamp", Seed: 7})
		return way{h, g.Call, netip.MustParseAddr("10.0.1.0")}
	}
	without := func() way {
		seg := facade.New()
		seg.Outside(far{})
		router := netip.MustParseAddr("10.0.0.1")
		seg.Answer(netip.AddrPortFrom(router, 53), func([]byte) []byte { return nil })
		s, err := seg.Attach(facade.Config{Addresses: []netip.Prefix{netip.MustParsePrefix("10.0.1.0/16")}, Routers: []netip.Addr{router}, Seed: 7})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { s.Close() })
		return way{s, seg.Call, netip.MustParseAddr("10.0.1.0")}
	}
	want := map[string][2]uint64{ // in, out
		"TCP 10.0.1.0:49159 203.0.113.2:80":   {20, 40}, // SYN, reset
		"TCP 10.0.1.0:49160 203.0.113.3:80":   {0, 40},  // SYN
		"ICMP 10.0.1.0:0 203.0.113.3:0":       {0, 40},
		"ICMP 10.0.1.0:0 203.0.113.1:0":       {40, 40},
		"ICMP 10.0.1.0:0 10.0.0.1:0":          {40, 40},
		"TCP 10.0.1.0:49161 10.0.0.1:80":      {20, 40},
		"TCP 10.0.1.0:49162 203.0.113.1:80":   {40 + 32 + 32 + 5, 40 + 32 + 32 + 5 + 32}, // open, hello, acknowledged, hello, acknowledged
		"UDP 10.0.1.0:49163 203.0.113.1:5000": {8 + 9, 8 + 5},
		"TCP 10.0.1.0:1234 203.0.113.1:23":    {40, 40 + 20}, // SYN, SYN-ACK, reset: the stack knows of no connection
		"TCP 10.0.1.0:1234 203.0.113.2:23":    {20, 40},      // SYN, reset
		"TCP 10.0.1.0:1234 203.0.113.3:23":    {0, 40},
		"TCP 10.0.1.0:4455 203.0.113.9:40000": {40 + 32 + 32 + 4, 40 + 32}, // from outside: open, open!, acknowledged
	}
	for i, open := range []func() way{over, without} {
		w := open()
		ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
		defer cancel()
		w.stack.Collect()
		says := func(what string, got, want error) {
			t.Helper()
			if !errors.Is(got, want) {
				t.Fatalf("network %d: %s: %v; want %v", i, what, got, want)
			}
		}
		_, err := w.stack.Dial(ctx, "tcp", "203.0.113.2:80")
		says("a host that refuses", err, network.ErrRefused)
		silence := network.ErrNoAnswer
		if i == 0 { // the stack waits, until the program does not want to any more
			silence = context.DeadlineExceeded
		}
		short, stop := context.WithTimeout(ctx, 300*time.Millisecond)
		_, err = w.stack.Dial(short, "tcp", "203.0.113.3:80")
		says("a silent host", err, silence)
		_, err = w.stack.Ping(short, netip.MustParseAddr("203.0.113.3"))
		says("a ping to it", err, silence)
		stop()
		_, err = w.stack.Ping(ctx, netip.MustParseAddr("203.0.113.1"))
		says("a ping that is answered", err, nil)
		_, err = w.stack.Ping(ctx, netip.MustParseAddr("10.0.0.1"))
		says("a ping to the router", err, nil)
		_, err = w.stack.Dial(ctx, "tcp", "10.0.0.1:80")
		says("a port of the router", err, network.ErrRefused)

		c, err := w.stack.Dial(ctx, "tcp", "203.0.113.1:80")
		says("a connection", err, nil)
		if err == nil {
			c.Write([]byte("hello"))
			b := make([]byte, 5)
			if _, err := io.ReadFull(c, b); err != nil || string(b) != "hello" {
				t.Errorf("network %d: it answers %q, %v", i, b, err)
			}
		}
		u, err := w.stack.Dial(ctx, "udp", "203.0.113.1:5000")
		says("a datagram", err, nil)
		if err == nil {
			u.Write([]byte("hello"))
			u.SetReadDeadline(time.Now().Add(10 * time.Second))
			b := make([]byte, 20)
			if n, err := u.Read(b); err != nil || string(b[:n]) != "got hello" {
				t.Errorf("network %d: it answers %q, %v", i, b[:n], err)
			}
			u.Close()
		}
		for _, last := range []byte{1, 2, 3} {
			says("a segment without a connection", w.stack.(network.Raw).SYN(1234, netip.AddrPortFrom(netip.AddrFrom4([4]byte{203, 0, 113, last}), 23)), nil)
		}
		l, err := w.stack.Listen("tcp", ":4455")
		says("listen", err, nil)
		far, err := w.call(ctx, netip.MustParseAddrPort("203.0.113.9:40000"), netip.AddrPortFrom(w.at, 4455))
		says("a call", err, nil)
		near, err := l.Accept()
		says("accept", err, nil)
		if near.RemoteAddr().String() != "203.0.113.9:40000" {
			t.Errorf("network %d: %s calls", i, near.RemoteAddr())
		}
		far.Write([]byte("open"))
		if _, err := io.ReadFull(near, make([]byte, 4)); err != nil {
			t.Errorf("network %d: the call: %v", i, err)
		}
		seen := map[string][2]uint64{}
		for end := time.Now().Add(10 * time.Second); !cmp.Equal(seen, want) && time.Now().Before(end); time.Sleep(20 * time.Millisecond) {
			for k, v := range flows4(w.stack) {
				seen[k] = [2]uint64{seen[k][0] + v[0], seen[k][1] + v[1]}
			}
		}
		if d := cmp.Diff(want, seen); d != "" {
			t.Errorf("network %d: what the security module sees (-want +got):\n%s", i, d)
		}
		far.Close()
		near.Close()
		l.Close()
		c.Close()
	}
}
