package service

import (
	"net"
	"net/netip"
	"testing"
	"time"

	"github.com/insomniacslk/dhcp/dhcpv4"
	"golang.org/x/net/dns/dnsmessage"
)

func query(t testing.TB, name string, kind dnsmessage.Type, class dnsmessage.Class) []byte {
	t.Helper()
	b, err := (&dnsmessage.Message{Header: dnsmessage.Header{ID: 7}, Questions: []dnsmessage.Question{{Name: dnsmessage.MustNewName(name), Type: kind, Class: class}}}).Pack()
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func zone(t testing.TB) *Zone {
	t.Helper()
	z := NewZone()
	for name, a := range map[string]string{"hub.example": "10.0.0.2", "six.example": "fd00::2", "lamp.local": "10.0.0.7"} {
		if err := z.Add(name, netip.MustParseAddr(a)); err != nil {
			t.Fatal(err)
		}
	}
	return z
}

func TestZone(t *testing.T) {
	t.Parallel()
	z := zone(t)
	for _, tt := range []struct {
		name    string
		kind    dnsmessage.Type
		class   dnsmessage.Class
		code    dnsmessage.RCode
		answers int
	}{
		{"HUB.example.", dnsmessage.TypeA, 1, dnsmessage.RCodeSuccess, 1},
		{"hub.example.", dnsmessage.TypeAAAA, 1, dnsmessage.RCodeSuccess, 0},
		{"six.example.", dnsmessage.TypeAAAA, 1, dnsmessage.RCodeSuccess, 1},
		{"2.0.0.10.in-addr.arpa.", dnsmessage.TypePTR, 1, dnsmessage.RCodeSuccess, 1},
		{"2.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.d.f.ip6.arpa.", dnsmessage.TypePTR, 1, dnsmessage.RCodeSuccess, 1},
		{"9.0.0.10.in-addr.arpa.", dnsmessage.TypePTR, 1, dnsmessage.RCodeNameError, 0},
		{"microsoft.com.", dnsmessage.TypeA, 1, dnsmessage.RCodeNameError, 0},
		{"hub.example.", dnsmessage.TypeA, 3, dnsmessage.RCodeRefused, 0},
	} {
		var m dnsmessage.Message
		if err := m.Unpack(z.Answer(query(t, tt.name, tt.kind, tt.class))); err != nil {
			t.Errorf("%s: %v", tt.name, err)
			continue
		}
		if m.RCode != tt.code || len(m.Answers) != tt.answers || m.ID != 7 || !m.Response || m.RecursionAvailable {
			t.Errorf("%s %s: %s with %d answers; want %s with %d", tt.name, tt.kind, m.RCode, len(m.Answers), tt.code, tt.answers)
		}
	}
	if b, alone := z.AnswerMulticast(query(t, "lamp.local.", dnsmessage.TypeA, 1), true); b == nil || !alone {
		t.Error("no answer to a simple resolver")
	}
	if b, alone := z.AnswerMulticast(query(t, "lamp.local.", dnsmessage.TypeA, 1), false); b == nil || alone {
		t.Error("an answer of multicast DNS goes to all")
	}
	for _, name := range []string{"hub.example.", "other.local."} {
		if b, _ := z.AnswerMulticast(query(t, name, dnsmessage.TypeA, 1), false); b != nil {
			t.Errorf("it speaks for %s", name)
		}
	}
	for _, bad := range []string{"", ".", "a..b"} {
		if z.Add(bad, netip.MustParseAddr("10.0.0.1")) == nil {
			t.Errorf("%q is a name", bad)
		}
	}
}

func TestLeases(t *testing.T) {
	t.Parallel()
	now := time.Unix(1_900_000_000, 0)
	l, err := NewLeases(LeaseConfig{
		Server: netip.MustParseAddr("10.0.0.1"), Subnet: netip.MustParsePrefix("10.0.0.0/24"),
		First: netip.MustParseAddr("10.0.0.10"), Last: netip.MustParseAddr("10.0.0.11"), Time: time.Minute, Now: func() time.Time { return now },
	})
	if err != nil {
		t.Fatal(err)
	}
	say := func(host byte, kind dhcpv4.MessageType, wanted string, more ...dhcpv4.Modifier) string {
		t.Helper()
		mods := append([]dhcpv4.Modifier{dhcpv4.WithHwAddr(net.HardwareAddr{2, 0, 0, 0, 0, host}), dhcpv4.WithMessageType(kind)}, more...)
		if wanted != "" {
			mods = append(mods, dhcpv4.WithOption(dhcpv4.OptRequestedIPAddress(net.ParseIP(wanted))))
		}
		m, err := dhcpv4.New(mods...)
		if err != nil {
			t.Fatal(err)
		}
		b, _ := l.Answer(m.ToBytes())
		if b == nil {
			return ""
		}
		r, err := dhcpv4.FromBytes(b)
		if err != nil {
			t.Fatal(err)
		}
		return r.MessageType().String() + " " + r.YourIPAddr.String()
	}
	check := func(got, want string) {
		t.Helper()
		if got != want {
			t.Errorf("got %q; want %q", got, want)
		}
	}
	ours := dhcpv4.WithOption(dhcpv4.OptServerIdentifier(net.IPv4(10, 0, 0, 1)))
	check(say(1, dhcpv4.MessageTypeDiscover, ""), "OFFER 10.0.0.10")
	check(say(1, dhcpv4.MessageTypeRequest, "10.0.0.10", ours), "ACK 10.0.0.10")
	check(say(2, dhcpv4.MessageTypeDiscover, "10.0.0.10"), "OFFER 10.0.0.11") // what it wants is taken
	check(say(2, dhcpv4.MessageTypeRequest, "10.0.0.10", ours), "NAK 0.0.0.0")
	check(say(2, dhcpv4.MessageTypeRequest, "192.0.2.9", ours), "NAK 0.0.0.0")
	check(say(2, dhcpv4.MessageTypeRequest, "10.0.0.11", ours), "ACK 10.0.0.11")
	check(say(3, dhcpv4.MessageTypeDiscover, ""), "") // all are taken
	now = now.Add(50 * time.Second)
	check(say(1, dhcpv4.MessageTypeRequest, "", dhcpv4.WithClientIP(net.IPv4(10, 0, 0, 10))), "ACK 10.0.0.10") // renewed
	now = now.Add(20 * time.Second)
	check(say(3, dhcpv4.MessageTypeDiscover, ""), "OFFER 10.0.0.11") // the lease of 2 is over
	check(say(3, dhcpv4.MessageTypeRequest, "10.0.0.11", ours), "ACK 10.0.0.11")
	check(say(2, dhcpv4.MessageTypeRequest, "", dhcpv4.WithClientIP(net.IPv4(10, 0, 0, 11))), "NAK 0.0.0.0")
	check(say(3, dhcpv4.MessageTypeRelease, "", dhcpv4.WithClientIP(net.IPv4(10, 0, 0, 11))), "")
	if n := l.Held(); n != 1 {
		t.Errorf("%d leases run; want 1", n)
	}
	check(say(2, dhcpv4.MessageTypeDiscover, ""), "OFFER 10.0.0.11")
}

func FuzzAnswer(f *testing.F) {
	f.Add(query(f, "hub.example.", dnsmessage.TypeA, 1))
	f.Add(make([]byte, 300))
	m, err := dhcpv4.New(dhcpv4.WithHwAddr(net.HardwareAddr{2, 0, 0, 0, 0, 1}), dhcpv4.WithMessageType(dhcpv4.MessageTypeDiscover))
	if err != nil {
		f.Fatal(err)
	}
	f.Add(m.ToBytes())
	z := zone(f)
	f.Fuzz(func(t *testing.T, b []byte) {
		l, err := NewLeases(LeaseConfig{Server: netip.MustParseAddr("10.0.0.1"), Subnet: netip.MustParsePrefix("10.0.0.0/24"), First: netip.MustParseAddr("10.0.0.10"), Last: netip.MustParseAddr("10.0.0.11")})
		if err != nil {
			t.Fatal(err)
		}
		if r, _ := l.Answer(b); len(r) > 1500 {
			t.Fatal("longer than a packet")
		}
		if r := z.Answer(b); len(r) > maxUDP {
			t.Fatal("longer than a datagram")
		}
		z.AnswerMulticast(b, len(b)%2 == 0)
		Clock{Now: time.Now}.Answer(b)
		Solicits(b)
	})
}
