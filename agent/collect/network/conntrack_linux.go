package network

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strings"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/vauban-iot/vauban/wire/secmsg"
)

// conntrack reads the kernel's table of connections. It stays there for half a minute at least after the last packet, so that a
// connection between two readings is seen too.
type conntrack struct{ own func() map[netip.Addr]uint32 }

// openConntrack works where connections are tracked, which they are once a rule of the firewall asks for it, and their bytes
// counted. The agent does not change either by itself.
func (w *Watcher) openConntrack() (counter, error) {
	sysctl := func(name string) (string, error) {
		b, err := os.ReadFile(filepath.Join(string(w.cfg.FS), "sys/net/netfilter", name))
		return strings.TrimSpace(string(b)), err
	}
	switch v, err := sysctl("nf_conntrack_acct"); {
	case err != nil:
		return nil, errors.New("the kernel does not track connections")
	case v != "1":
		return nil, errors.New("sysctl net.netfilter.nf_conntrack_acct is 0, so that it counts no bytes")
	}
	switch v, err := sysctl("nf_conntrack_count"); {
	case err != nil:
		return nil, err
	case v == "0":
		return nil, errors.New("no rule of the firewall makes the kernel track connections")
	}
	c := &conntrack{own: func() map[netip.Addr]uint32 { return w.cards().address }}
	if _, err := c.read(); err != nil {
		return nil, err
	}
	return c, nil
}

func (c *conntrack) close() {}

func (c *conntrack) read() ([]count, error) {
	var counts []count
	own := c.own()
	for _, family := range []netlink.InetFamily{unix.AF_INET, unix.AF_INET6} {
		flows, err := netlink.ConntrackTableList(netlink.ConntrackTable, family)
		if err != nil && !errors.Is(err, netlink.ErrDumpInterrupted) {
			return nil, fmt.Errorf("conntrack: %w", err)
		}
		for _, f := range flows {
			if n, ok := countOf(f, own); ok {
				counts = append(counts, n)
			}
		}
	}
	return counts, nil
}

// countOf turns an entry to the side of this machine. One that is only forwarded has none.
func countOf(f *netlink.ConntrackFlow, own map[netip.Addr]uint32) (count, bool) {
	var protocol string
	switch f.Forward.Protocol {
	case unix.IPPROTO_TCP:
		protocol = "TCP"
	case unix.IPPROTO_UDP:
		protocol = "UDP"
	case unix.IPPROTO_ICMP, unix.IPPROTO_ICMPV6:
		protocol = "ICMP"
	default:
		return count{}, false
	}
	end := func(ip net.IP, port uint16) netip.AddrPort {
		a, _ := netip.AddrFromSlice(ip)
		if protocol == "ICMP" {
			port = 0
		}
		return netip.AddrPortFrom(a.Unmap(), port)
	}
	from, to := end(f.Forward.SrcIP, f.Forward.SrcPort), end(f.Forward.DstIP, f.Forward.DstPort)
	answering := end(f.Reverse.SrcIP, f.Reverse.SrcPort) // differs from to behind a translated address
	if _, ok := own[from.Addr()]; ok {
		return count{tuple: tuple{from, to, protocol}, in: f.Reverse.Bytes, out: f.Forward.Bytes, began: secmsg.Out}, true
	}
	if _, ok := own[answering.Addr()]; ok {
		return count{tuple: tuple{answering, from, protocol}, in: f.Forward.Bytes, out: f.Reverse.Bytes, began: secmsg.In}, true
	}
	return count{}, false
}
