// Package netnstest gives tests a network of their own: two namespaces with a cable between them.
package netnstest

import (
	"fmt"
	"net"
	"os"
	"runtime"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
)

// Pair is two namespaces, Here and There, joined by a cable (veth) that is called eth0 in each.
type Pair struct{ Here, There Namespace }

// Namespace is one of them, with addresses of documentation's kind.
type Namespace struct {
	IPv4, IPv6 string
	handle     netns.NsHandle
}

// New makes a pair that goes away with the test, which needs root.
func New(t testing.TB) Pair {
	t.Helper()
	if os.Getuid() != 0 {
		t.Skip("needs root to make network namespaces: run it as sudo go test")
	}
	p := Pair{Here: Namespace{IPv4: "198.51.100.1", IPv6: "2001:db8:7::1"}, There: Namespace{IPv4: "198.51.100.2", IPv6: "2001:db8:7::2"}}
	for _, n := range []*Namespace{&p.Here, &p.There} {
		inThread(t, func() error {
			h, err := netns.New()
			n.handle = h
			return err
		})
		t.Cleanup(func() { n.handle.Close() })
	}
	p.Here.Do(t, func() error {
		cable := &netlink.Veth{LinkAttrs: netlink.LinkAttrs{Name: "eth0"}, PeerName: "eth0", PeerNamespace: netlink.NsFd(p.There.handle)}
		return netlink.LinkAdd(cable)
	})
	for _, n := range []Namespace{p.Here, p.There} {
		n.Do(t, func() error {
			for _, name := range []string{"lo", "eth0"} {
				l, err := netlink.LinkByName(name)
				if err != nil {
					return err
				}
				if name == "eth0" {
					for _, a := range []string{n.IPv4 + "/24", n.IPv6 + "/64"} {
						addr, err := netlink.ParseAddr(a)
						if err != nil {
							return err
						}
						addr.Flags = noDAD
						if err := netlink.AddrAdd(l, addr); err != nil {
							return fmt.Errorf("%s: %w", a, err)
						}
					}
				}
				if err := netlink.LinkSetUp(l); err != nil {
					return err
				}
			}
			return nil
		})
	}
	// A cable that was plugged in a moment ago drops what is sent, until the kernel has noticed both ends.
	for _, n := range []Namespace{p.Here, p.There} {
		n.Do(t, func() error {
			for end := time.Now().Add(10 * time.Second); ; time.Sleep(time.Millisecond) {
				l, err := netlink.LinkByName("eth0")
				if err != nil || l.Attrs().OperState == netlink.OperUp {
					return err
				}
				if time.Now().After(end) {
					return fmt.Errorf("eth0 is %v", l.Attrs().OperState)
				}
			}
		})
	}
	return p
}

const noDAD = 2 // IFA_F_NODAD: the address serves at once

// Do runs f in the namespace. Sockets that f opens itself, without another goroutine, stay there.
func (n Namespace) Do(t testing.TB, f func() error) {
	t.Helper()
	inThread(t, func() error {
		if err := netns.Set(n.handle); err != nil {
			return err
		}
		return f()
	})
}

// Listen opens a listener in the namespace; network is tcp4, tcp6...
func (n Namespace) Listen(t testing.TB, network, address string) net.Listener {
	t.Helper()
	var l net.Listener
	n.Do(t, func() (err error) {
		l, err = net.Listen(network, address)
		return err
	})
	t.Cleanup(func() { l.Close() })
	return l
}

// ListenPacket opens a socket for datagrams.
func (n Namespace) ListenPacket(t testing.TB, network, address string) net.PacketConn {
	t.Helper()
	var c net.PacketConn
	n.Do(t, func() (err error) {
		c, err = net.ListenPacket(network, address)
		return err
	})
	t.Cleanup(func() { c.Close() })
	return c
}

// Dial connects out of the namespace.
func (n Namespace) Dial(t testing.TB, network, address string) net.Conn {
	t.Helper()
	var c net.Conn
	n.Do(t, func() (err error) {
		c, err = net.Dial(network, address)
		return err
	})
	t.Cleanup(func() { c.Close() })
	return c
}

// inThread runs f in a thread that ends with it: what f changes of the thread cannot leak.
func inThread(t testing.TB, f func() error) {
	t.Helper()
	done := make(chan error)
	go func() {
		runtime.LockOSThread() // and never unlocked
		done <- f()
	}()
	if err := <-done; err != nil {
		t.Fatal(err)
	}
}
