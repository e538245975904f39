// Package networktest is what every network.Stack promises, as tests.
package networktest

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net"
	"net/netip"
	"testing"
	"time"

	"github.com/vauban-iot/vauban/board/network"
)

// Pair is two boards on one network with a name server that knows b.example.
type Pair struct {
	A, B          network.Stack
	BAddr, Unused netip.Addr // Unused: an address that the network knows, on which nobody listens
}

// Run tests a kind of stack. open makes a new pair, which goes with the test.
func Run(t *testing.T, open func(t *testing.T) Pair) {
	ctx := func(t *testing.T) context.Context {
		c, cancel := context.WithTimeout(t.Context(), 60*time.Second)
		t.Cleanup(cancel)
		return c
	}
	t.Run("TCP carries every byte both ways", func(t *testing.T) {
		t.Parallel()
		p, c := open(t), ctx(t)
		Program(t, c, p)
	})
	t.Run("refusals are told apart", func(t *testing.T) {
		t.Parallel()
		p, c := open(t), ctx(t)
		if _, err := p.A.Dial(c, "tcp", netip.AddrPortFrom(p.BAddr, 9).String()); !errors.Is(err, network.ErrRefused) {
			t.Errorf("a port where nobody listens: %v", err)
		}
		if _, err := p.A.Resolve(c, "nobody.example"); !errors.Is(err, network.ErrNoName) {
			t.Errorf("a name that is not there: %v", err)
		}
		for _, bad := range [][2]string{{"sctp", "b.example:1"}, {"tcp", "b.example"}, {"tcp", "b.example:http"}, {"tcp6", p.BAddr.String() + ":1"}} {
			if c, err := p.A.Dial(c, bad[0], bad[1]); err == nil {
				c.Close()
				t.Errorf("dial %v is possible", bad)
			}
		}
		l, err := p.A.Listen("tcp", ":23")
		if err != nil {
			t.Fatal(err)
		}
		defer l.Close()
		if _, err := p.A.Listen("tcp", ":23"); err == nil {
			t.Error("two listen on one port")
		}
		if _, err := p.A.Listen("tcp", "192.0.2.1:24"); err == nil {
			t.Error("a board listens on an address that it has not")
		}
	})
	t.Run("nothing passes while the cable is out", func(t *testing.T) {
		t.Parallel()
		p, c := open(t), ctx(t)
		l := echo(t, p.B, ":7")
		defer l.Close()
		p.A.SetUp(false)
		if p.A.Up() {
			t.Error("it is up")
		}
		if _, err := p.A.Dial(c, "tcp", netip.AddrPortFrom(p.BAddr, 7).String()); !errors.Is(err, network.ErrDown) {
			t.Errorf("dial: %v", err)
		}
		if _, err := p.A.Ping(c, p.BAddr); !errors.Is(err, network.ErrDown) {
			t.Errorf("ping: %v", err)
		}
		p.A.SetUp(true)
		if _, err := p.A.Ping(c, p.BAddr); err != nil {
			t.Errorf("ping, when it is in again: %v", err)
		}
	})
	t.Run("a reader with a deadline is let go", func(t *testing.T) {
		t.Parallel()
		p, c := open(t), ctx(t)
		l := echo(t, p.B, ":7")
		defer l.Close()
		nc, err := p.A.Dial(c, "tcp", netip.AddrPortFrom(p.BAddr, 7).String())
		if err != nil {
			t.Fatal(err)
		}
		defer nc.Close()
		nc.SetReadDeadline(time.Now().Add(10 * time.Millisecond))
		var ne net.Error
		if _, err := nc.Read(make([]byte, 1)); !errors.As(err, &ne) || !ne.Timeout() {
			t.Errorf("read: %v; want a timeout", err)
		}
	})
	t.Run("a closed stack dials nobody", func(t *testing.T) {
		t.Parallel()
		p, c := open(t), ctx(t)
		if err := p.A.Close(); err != nil {
			t.Fatal(err)
		}
		if _, err := p.A.Dial(c, "tcp", netip.AddrPortFrom(p.BAddr, 7).String()); !errors.Is(err, network.ErrDown) {
			t.Errorf("dial: %v", err)
		}
		if err := p.A.Ready(c); !errors.Is(err, network.ErrDown) {
			t.Errorf("ready: %v", err)
		}
	})
}

func echo(t *testing.T, s network.Stack, at string) net.Listener {
	t.Helper()
	l, err := s.Listen("tcp", at)
	if err != nil {
		t.Fatal(err)
	}
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go func() {
				io.Copy(c, c)
				c.Close()
			}()
		}
	}()
	return l
}

// Program is what a board may do in a while: it resolves a name, talks TCP and UDP, and pings. It
// leaves the same flows on every kind of stack, but for the bytes of TCP.
func Program(t *testing.T, ctx context.Context, p Pair) {
	t.Helper()
	l := echo(t, p.B, ":7")
	defer l.Close()
	data := bytes.Repeat([]byte("0123456789abcdef"), 4096) // more than any window
	nc, err := p.A.Dial(ctx, "tcp4", "b.example:7")
	if err != nil {
		t.Fatal(err)
	}
	go nc.Write(data)
	got := make([]byte, len(data))
	if _, err := io.ReadFull(nc, got); err != nil || !bytes.Equal(got, data) {
		t.Fatalf("the echo of %d bytes: %v", len(data), err)
	}
	if a, ok := nc.RemoteAddr().(*net.TCPAddr); !ok || a.Port != 7 {
		t.Errorf("the other end is %v", nc.RemoteAddr())
	}
	nc.Close()

	pc, err := p.B.ListenPacket("udp4", ":9")
	if err != nil {
		t.Fatal(err)
	}
	defer pc.Close()
	go func() {
		buf := make([]byte, 2048)
		for {
			n, from, err := pc.ReadFrom(buf)
			if err != nil {
				return
			}
			pc.WriteTo(buf[:n/2], from)
		}
	}()
	uc, err := p.A.Dial(ctx, "udp", netip.AddrPortFrom(p.BAddr, 9).String())
	if err != nil {
		t.Fatal(err)
	}
	defer uc.Close()
	buf := make([]byte, 2048)
	for { // datagrams may be lost, and who sends again is counted again
		if _, err := uc.Write(data[:200]); err != nil {
			t.Fatal(err)
		}
		uc.SetReadDeadline(time.Now().Add(2 * time.Second))
		n, err := uc.Read(buf)
		if err == nil && n == 100 {
			break
		}
		if ctx.Err() != nil {
			t.Fatalf("no answer over UDP: %v", err)
		}
	}
	for {
		one, cancel := context.WithTimeout(ctx, 2*time.Second)
		_, err := p.A.Ping(one, p.BAddr)
		cancel()
		if err == nil {
			break
		}
		if ctx.Err() != nil {
			t.Fatal(err)
		}
	}
}
