package ports

import (
	"net"
	"net/netip"
	"os"
	"slices"
	"testing"

	"github.com/vauban-iot/vauban/agent/collect/netnstest"
	"github.com/vauban-iot/vauban/wire/secmsg"
)

func TestSnapshot(t *testing.T) {
	t.Parallel()
	p := netnstest.New(t)
	tcp := p.Here.Listen(t, "tcp4", "127.0.0.1:0")
	both := p.Here.Listen(t, "tcp", ":0")
	udp := p.Here.ListenPacket(t, "udp6", "[::1]:0")
	c := p.Here.Dial(t, "tcp4", tcp.Addr().String()) // a connection is no listener
	server, err := tcp.Accept()
	if err != nil {
		t.Fatal(err)
	}
	defer server.Close()
	defer c.Close()
	p.There.Listen(t, "tcp4", "127.0.0.1:0") // and this is another machine
	self, _ := os.Executable()
	want := []secmsg.ListeningPort{
		{Local: addr(tcp.Addr()), Protocol: "TCP"}, {Local: addr(both.Addr()), Protocol: "TCP"}, {Local: addr(udp.LocalAddr()), Protocol: "UDP"},
	}
	for i := range want {
		want[i].ProcessID, want[i].Executable = uint32(os.Getpid()), self
	}
	var s Snapshot
	p.Here.Do(t, func() error {
		got, err := s.Take(t.Context())
		if err != nil {
			return err
		}
		var ports []secmsg.ListeningPort
		for _, o := range got {
			if o.Event != "ListeningPorts" || o.Key != "" || o.Hits != 1 || o.Time.IsZero() {
				t.Errorf("observation %+v", o)
			}
			ports = append(ports, o.Item.(secmsg.ListeningPort))
		}
		if !slices.Equal(ports, want) || s.Source() != "inet_diag" {
			t.Errorf("by %s got %+v, want %+v", s.Source(), ports, want)
		}
		return nil
	})
}

func addr(a net.Addr) netip.AddrPort {
	p := netip.MustParseAddrPort(a.String())
	return netip.AddrPortFrom(p.Addr().Unmap(), p.Port())
}
