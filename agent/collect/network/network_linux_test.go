package network

import (
	"context"
	"io"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/net/icmp"
	"golang.org/x/net/ipv4"
	"golang.org/x/net/ipv6"

	"github.com/vauban-iot/vauban/agent/collect"
	"github.com/vauban-iot/vauban/agent/collect/netnstest"
	"github.com/vauban-iot/vauban/wire/secmsg"
)

// seen sums what a watcher tells of connections, as the agent does.
type seen struct {
	mu    sync.Mutex
	flows map[string]secmsg.Flow
}

func watch(t *testing.T, n netnstest.Namespace, cfg Config, source string) *seen {
	t.Helper()
	cfg.Interval = 50 * time.Millisecond
	w := New(cfg)
	s := &seen{flows: map[string]secmsg.Flow{}}
	ctx, stop := context.WithCancel(t.Context())
	done := make(chan struct{})
	go func() {
		defer close(done)
		n.Do(t, func() error {
			return w.Run(ctx, func(o collect.Observation) {
				s.mu.Lock()
				defer s.mu.Unlock()
				if o.Event != "NetworkActivity" || o.Hits != 1 || o.Item != nil || o.Check != nil {
					t.Errorf("observation %+v", o)
				}
				f := *o.Flow
				f.BytesIn += s.flows[o.Key].BytesIn
				f.BytesOut += s.flows[o.Key].BytesOut
				f.Hits += s.flows[o.Key].Hits
				s.flows[o.Key] = f
			})
		})
	}()
	t.Cleanup(func() {
		stop()
		<-done
	})
	for deadline := time.Now().Add(10 * time.Second); w.Source() == "not started"; time.Sleep(5 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatal("it does not start")
		}
	}
	if got := w.Source(); got != source && !strings.HasPrefix(got, source+" (") {
		t.Fatalf("the source is %s, want %s", got, source)
	}
	return s
}

// wait waits for a flow that is good.
func (s *seen) wait(t *testing.T, what string, good func(f secmsg.Flow) bool) secmsg.Flow {
	t.Helper()
	for deadline := time.Now().Add(10 * time.Second); ; time.Sleep(10 * time.Millisecond) {
		s.mu.Lock()
		for _, f := range s.flows {
			if good(f) {
				s.mu.Unlock()
				return f
			}
		}
		if time.Now().After(deadline) {
			s.mu.Unlock()
			t.Fatalf("%s was not seen among %+v", what, s.flows)
		}
		s.mu.Unlock()
	}
}

// echo answers connections with what it reads.
func echo(l net.Listener) {
	for {
		c, err := l.Accept()
		if err != nil {
			return
		}
		go func() {
			defer c.Close()
			_, _ = io.Copy(c, c)
		}()
	}
}

func talk(t *testing.T, c net.Conn, n int) {
	t.Helper()
	if _, err := c.Write(make([]byte, n)); err != nil {
		t.Fatal(err)
	}
	if _, err := io.ReadFull(c, make([]byte, n)); err != nil {
		t.Fatal(err)
	}
}

func echoPackets(c net.PacketConn) {
	b := make([]byte, 2048)
	for {
		n, from, err := c.ReadFrom(b)
		if err != nil {
			return
		}
		_, _ = c.WriteTo(b[:n], from)
	}
}

// traffic makes one connection of TCP and UDP in each direction, over IPv4 and IPv6, and checks what is seen of each. bytes says
// whether the source counts those of UDP.
func traffic(t *testing.T, p netnstest.Pair, s *seen, udpSeen, udpBytes bool) {
	self, _ := os.Executable()
	for _, v := range []string{"4", "6"} {
		here, there := p.Here.IPv4, p.There.IPv4
		if v == "6" {
			here, there = p.Here.IPv6, p.There.IPv6
		}
		const n = 5000
		check := func(t *testing.T, protocol, direction string, local, remote netip.AddrPort, bytes int) {
			t.Helper()
			good := func(f secmsg.Flow) bool {
				return f.Protocol == protocol && f.Local == local && f.Remote == remote && f.BytesIn >= uint64(bytes) && f.BytesOut >= uint64(bytes) && f.ProcessID != 0
			}
			f := s.wait(t, protocol+" "+direction+" "+v, good)
			if f.Direction != direction || f.BytesIn > uint64(2*bytes+1000) || f.BytesOut > uint64(2*bytes+1000) || f.Hits != 1 || int(f.ProcessID) != os.Getpid() || f.Executable != self {
				t.Errorf("%s IPv%s %s: %+v", protocol, v, direction, f)
			}
		}
		t.Run("TCP out IPv"+v, func(t *testing.T) {
			l := p.There.Listen(t, "tcp"+v, net.JoinHostPort(there, "0"))
			go echo(l)
			c := p.Here.Dial(t, "tcp"+v, l.Addr().String())
			talk(t, c, n)
			check(t, "TCP", secmsg.Out, addrPort(c.LocalAddr()), addrPort(c.RemoteAddr()), n)
		})
		t.Run("TCP in IPv"+v, func(t *testing.T) {
			l := p.Here.Listen(t, "tcp", ":0") // both families, by one socket
			go echo(l)
			_, port, _ := net.SplitHostPort(l.Addr().String())
			c := p.There.Dial(t, "tcp"+v, net.JoinHostPort(here, port))
			talk(t, c, n)
			check(t, "TCP", secmsg.In, addrPort(c.RemoteAddr()), addrPort(c.LocalAddr()), n)
		})
		if !udpSeen {
			continue
		}
		bytes := 0
		if udpBytes {
			bytes = 1000
		}
		t.Run("UDP out IPv"+v, func(t *testing.T) {
			l := p.There.ListenPacket(t, "udp"+v, net.JoinHostPort(there, "0"))
			go echoPackets(l)
			c := p.Here.Dial(t, "udp"+v, l.LocalAddr().String())
			talk(t, c, 1000)
			check(t, "UDP", secmsg.Out, addrPort(c.LocalAddr()), addrPort(c.RemoteAddr()), bytes)
		})
		if !udpBytes {
			continue
		}
		t.Run("UDP in IPv"+v, func(t *testing.T) {
			l := p.Here.ListenPacket(t, "udp", ":0")
			go echoPackets(l)
			_, port, _ := net.SplitHostPort(l.LocalAddr().String())
			c := p.There.Dial(t, "udp"+v, net.JoinHostPort(here, port))
			talk(t, c, 1000)
			check(t, "UDP", secmsg.In, addrPort(c.RemoteAddr()), addrPort(c.LocalAddr()), bytes)
		})
	}
}

func addrPort(a net.Addr) netip.AddrPort {
	p := netip.MustParseAddrPort(a.String())
	return netip.AddrPortFrom(p.Addr().Unmap(), p.Port())
}

// ping sends an echo request of 56 bytes and waits for the answer.
func ping(t *testing.T, n netnstest.Namespace, to string) {
	t.Helper()
	network, echoType, protocol := "ip4:icmp", icmp.Type(ipv4.ICMPTypeEcho), 1
	if strings.Contains(to, ":") {
		network, echoType, protocol = "ip6:ipv6-icmp", ipv6.ICMPTypeEchoRequest, 58
	}
	c := n.Dial(t, network, to)
	m := icmp.Message{Type: echoType, Body: &icmp.Echo{ID: 7, Seq: 1, Data: make([]byte, 48)}}
	b, err := m.Marshal(nil)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := c.Write(b); err != nil {
		t.Fatal(err)
	}
	_ = c.SetDeadline(time.Now().Add(5 * time.Second))
	answer := make([]byte, 1500)
	for {
		k, _, err := c.(*net.IPConn).ReadFrom(answer) // without the IP header
		if err != nil {
			t.Fatal(err)
		}
		if m, err := icmp.ParseMessage(protocol, answer[:k]); err == nil && (m.Type == ipv4.ICMPTypeEchoReply || m.Type == ipv6.ICMPTypeEchoReply) {
			return
		}
	}
}

func pings(t *testing.T, p netnstest.Pair, s *seen) {
	for _, ends := range [][2]string{{p.Here.IPv4, p.There.IPv4}, {p.Here.IPv6, p.There.IPv6}} {
		local, remote := netip.AddrPortFrom(netip.MustParseAddr(ends[0]), 0), netip.AddrPortFrom(netip.MustParseAddr(ends[1]), 0)
		ping(t, p.Here, ends[1])
		s.wait(t, "the ping to "+ends[1], func(f secmsg.Flow) bool {
			return f.Protocol == "ICMP" && f.Local == local && f.Remote == remote && f.Direction == secmsg.Out && f.BytesIn >= 56 && f.BytesOut >= 56
		})
	}
}

func TestEBPF_CountsEverything(t *testing.T) {
	t.Parallel()
	p := netnstest.New(t)
	s := watch(t, p.Here, Config{}, "eBPF")
	traffic(t, p, s, true, true)
	pings(t, p, s)
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, f := range s.flows {
		if f.Local.Addr().IsLoopback() || f.Remote.Addr().IsLoopback() {
			t.Errorf("loopback is told: %+v", f)
		}
	}
}

// A connection that is over before anyone looks was counted all the same, and one from the other side is theirs to begin.
func TestEBPF_SeesWhatIsOver(t *testing.T) {
	t.Parallel()
	p := netnstest.New(t)
	s := watch(t, p.Here, Config{}, "eBPF")
	l := p.There.Listen(t, "tcp4", p.There.IPv4+":0")
	go echo(l)
	c := p.Here.Dial(t, "tcp4", l.Addr().String())
	talk(t, c, 100)
	local := addrPort(c.LocalAddr())
	c.Close()
	ping(t, p.There, p.Here.IPv4)
	s.wait(t, "a short connection", func(f secmsg.Flow) bool {
		return f.Local == local && f.Direction == secmsg.Out && f.BytesIn > 100
	})
	s.wait(t, "a ping from there", func(f secmsg.Flow) bool {
		return f.Protocol == "ICMP" && f.Direction == secmsg.In && f.Local.Addr().Is4()
	})
}

// Only the interfaces that were asked for count.
func TestEBPF_Devices(t *testing.T) {
	t.Parallel()
	p := netnstest.New(t)
	other, wanted := watch(t, p.Here, Config{Devices: []string{"wlan0"}}, "eBPF"), watch(t, p.Here, Config{Devices: []string{"wlan0", "eth0"}}, "eBPF")
	ping(t, p.Here, p.There.IPv4)
	wanted.wait(t, "the ping", func(f secmsg.Flow) bool { return f.Protocol == "ICMP" && f.Local.Addr().Is4() && f.BytesIn >= 56 })
	time.Sleep(150 * time.Millisecond) // three more readings
	other.mu.Lock()
	defer other.mu.Unlock()
	if len(other.flows) > 0 {
		t.Errorf("the other interface has %+v", other.flows)
	}
}

func TestConntrack(t *testing.T) {
	t.Parallel()
	nft, err := exec.LookPath("nft")
	if err != nil {
		t.Fatal("nft is missing: make deps installs it")
	}
	p := netnstest.New(t)
	p.Here.Do(t, func() error {
		if err := os.WriteFile("/proc/sys/net/netfilter/nf_conntrack_acct", []byte("1"), 0o644); err != nil {
			return err
		}
		cmd := exec.Command(nft, "-f", "-")
		cmd.Stdin = strings.NewReader("add table inet t; add chain inet t c { type filter hook input priority 0; }; add rule inet t c ct state new counter\n")
		out, err := cmd.CombinedOutput()
		if err != nil {
			t.Errorf("nft: %s", out)
		}
		return err
	})
	ping(t, p.Here, p.There.IPv4) // so that there is an entry
	s := watch(t, p.Here, Config{without: []string{"eBPF"}}, "conntrack")
	traffic(t, p, s, true, true)
	pings(t, p, s)
}

// Without connections that are tracked, the table would stay empty for ever: the next source is taken, and says why.
func TestDiag(t *testing.T) {
	t.Parallel()
	p := netnstest.New(t)
	s := watch(t, p.Here, Config{without: []string{"eBPF"}}, "inet_diag")
	traffic(t, p, s, true, false)
}

func TestProc(t *testing.T) {
	t.Parallel()
	p := netnstest.New(t)
	s := watch(t, p.Here, Config{without: []string{"eBPF", "conntrack", "inet_diag"}}, "/proc/net")
	l := p.Here.Listen(t, "tcp", ":0")
	go echo(l)
	_, port, _ := net.SplitHostPort(l.Addr().String())
	for _, to := range []string{p.Here.IPv4, p.Here.IPv6} {
		c := p.There.Dial(t, "tcp", net.JoinHostPort(to, port))
		talk(t, c, 10)
		s.wait(t, "a connection in", func(f secmsg.Flow) bool {
			return f.Local == addrPort(c.RemoteAddr()) && f.Remote == addrPort(c.LocalAddr()) && f.Direction == secmsg.In && int(f.ProcessID) == os.Getpid()
		})
	}
}

// With more connections than the cache holds, those that were quiet for longest are forgotten, and counted.
func TestForget(t *testing.T) {
	t.Parallel()
	w := New(Config{CacheSize: 3})
	known := map[tuple]*flow{}
	for i := range 8 {
		known[tuple{protocol: strconv.Itoa(i)}] = &flow{used: uint64(i + 1)}
	}
	w.forget(known, 8)
	if len(known) != 3 || known[tuple{protocol: "5"}] == nil || known[tuple{protocol: "7"}] == nil || w.Evicted() != 5 {
		t.Errorf("left %v, evicted %d", known, w.Evicted())
	}
	w.forget(known, 1000)
	if len(known) != 0 || w.Evicted() != 5 {
		t.Errorf("idle ones stay: %v", known)
	}
}
