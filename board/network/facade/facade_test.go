package facade

import (
	"context"
	"net"
	"net/netip"
	"sync"
	"testing"
)

// The cable may come out while connections are made: they end, and nobody looks at half of one. Its judge is the race detector.
func TestStack_CableComesOutWhileDialing(t *testing.T) {
	t.Parallel()
	g := New()
	hub := netip.MustParseAddrPort("10.0.0.2:8883")
	if err := g.Bridge("tcp", hub, func(context.Context) (net.Conn, error) {
		a, b := net.Pipe()
		go func() {
			defer b.Close()
			_, _ = b.Read(make([]byte, 1)) // until the other end is closed
		}()
		return a, nil
	}); err != nil {
		t.Fatal(err)
	}
	s, err := g.Attach(Config{Addresses: []netip.Prefix{netip.MustParsePrefix("10.0.1.1/16")}})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	done := make(chan struct{})
	var wg sync.WaitGroup
	wg.Go(func() {
		for up := false; ; up = !up {
			select {
			case <-done:
				s.SetUp(true)
				return
			default:
				s.SetUp(up)
			}
		}
	})
	for range 2000 {
		if c, err := s.Dial(t.Context(), "tcp", hub.String()); err == nil {
			c.Close()
		}
	}
	close(done)
	wg.Wait()
	if n := len(s.connections()); n != 0 {
		t.Errorf("%d connections are left", n)
	}
}

// A service that answers each board differently is told who asks.
func TestSegment_AnswerEach(t *testing.T) {
	t.Parallel()
	g := New()
	at := netip.MustParseAddrPort("10.0.0.1:123")
	g.AnswerEach(at, func(from netip.Addr, query []byte) []byte { return append(from.AsSlice(), query...) })
	for _, a := range []string{"10.0.1.1/16", "10.0.1.2/16"} {
		p := netip.MustParsePrefix(a)
		s, err := g.Attach(Config{Addresses: []netip.Prefix{p}})
		if err != nil {
			t.Fatal(err)
		}
		c, err := s.Dial(t.Context(), "udp", at.String())
		if err != nil {
			t.Fatal(err)
		}
		b := make([]byte, 16)
		if _, err := c.Write([]byte{7}); err != nil {
			t.Fatal(err)
		}
		if n, err := c.Read(b); err != nil || n != 5 || netip.AddrFrom4([4]byte(b[:4])) != p.Addr() || b[4] != 7 {
			t.Errorf("%s is answered %v, %v", a, b[:n], err)
		}
		c.Close()
		s.Close()
	}
}
