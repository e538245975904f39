package socket

import (
	"net"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"github.com/vauban-iot/vauban/agent/collect/netnstest"
	"github.com/vauban-iot/vauban/agent/collect/proc"
)

// Both sources tell the same of every socket, but for the bytes, which /proc/net does not count.
func TestList_SourcesAgree(t *testing.T) {
	t.Parallel()
	p := netnstest.New(t)
	l := p.Here.Listen(t, "tcp", ":0")
	l4 := p.Here.Listen(t, "tcp4", p.Here.IPv4+":0")
	p.Here.ListenPacket(t, "udp6", "[::1]:0")
	p.Here.Dial(t, "udp", net.JoinHostPort(p.There.IPv6, "9"))
	for _, at := range []net.Listener{l, l4} {
		c := p.There.Dial(t, "tcp4", net.JoinHostPort(p.Here.IPv4, at.Addr().String()[strings.LastIndexByte(at.Addr().String(), ':')+1:]))
		if _, err := c.Write(make([]byte, 1000)); err != nil {
			t.Fatal(err)
		}
		s, err := at.Accept()
		if err != nil {
			t.Fatal(err)
		}
		defer s.Close()
		if _, err := s.Read(make([]byte, 1000)); err != nil {
			t.Fatal(err)
		}
	}
	p.Here.Do(t, func() error {
		byDiag, source, err := List(proc.Root)
		if err != nil || source != "inet_diag" {
			t.Errorf("source %q, %v", source, err)
		}
		byProc, err := FromProc(proc.Root)
		if err != nil {
			t.Error(err)
		}
		if len(byDiag) != 6 || !slices.ContainsFunc(byDiag, func(s Socket) bool { return s.BytesIn == 1000 && s.Local.Addr() == netip.MustParseAddr(p.Here.IPv4) }) {
			t.Errorf("inet_diag has %+v", byDiag)
		}
		for _, all := range [][]Socket{byDiag, byProc} {
			for i := range all {
				all[i].BytesIn, all[i].BytesOut = 0, 0
			}
			slices.SortFunc(all, func(a, b Socket) int { return int(int64(a.Inode) - int64(b.Inode)) })
		}
		if !slices.Equal(byDiag, byProc) {
			t.Errorf("inet_diag has\n%+v, /proc/net\n%+v", byDiag, byProc)
		}
		return nil
	})
}

func FuzzParse(f *testing.F) {
	f.Add("  sl  local_address rem_address   st\n   0: 0100007F:1F90 00000000:0000 0A 00000000:00000000 00:00000000 00000000  1000        0 12345 1 0\n")
	f.Add("   1: B80D0120000000000000000001000000:0035 00000000000000000000000000000000:0000 07 0:0 0:0 0 0 0 7\n")
	f.Fuzz(func(t *testing.T, s string) {
		for _, k := range parse(strings.NewReader(s), "TCP", 10) {
			if !k.Local.IsValid() || !k.Remote.IsValid() {
				t.Errorf("%+v", k)
			}
		}
		if n := len(parse(strings.NewReader(strings.Repeat(s, 3)), "UDP", 2)); n > 2 {
			t.Errorf("%d sockets", n)
		}
	})
}
