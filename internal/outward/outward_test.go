package outward_test

import (
	"net"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/vauban-iot/vauban/internal/outward"
)

func TestRefuse(t *testing.T) {
	t.Parallel()
	for address, refused := range map[string]bool{
		"169.254.169.254": true, "169.254.0.1": true, "::ffff:169.254.169.254": true, "fe80::1": true, "fe80::1%eth0": true,
		"fd00:ec2::254": true, "fd00:ec2::254%eth0": true, "0.0.0.0": true, "::": true, "::ffff:0.0.0.0": true, "224.0.0.1": true, "ff02::1": true, "ff02::1%eth0": true,
		// Plants have their receivers on networks of their own, and small ones on the same machine.
		"127.0.0.1": false, "::1": false, "10.0.0.5": false, "172.16.3.4": false, "192.168.1.1": false, "100.64.0.1": false, "fd00::1": false,
		"fd00:ec2::253": false, "203.0.113.9": false, "2001:db8::1": false,
	} {
		if err := outward.Refuse(netip.MustParseAddr(address)); (err != nil) != refused {
			t.Errorf("%s: refused %t, want %t: %v", address, err != nil, refused, err)
		}
	}
}

func TestDialer(t *testing.T) {
	t.Parallel()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	d := outward.Dialer(10 * time.Second)
	c, err := d.DialContext(t.Context(), "tcp", ln.Addr().String())
	if err != nil {
		t.Fatalf("this machine: %v", err)
	}
	c.Close()
	for _, address := range []string{"169.254.169.254:80", "[::ffff:169.254.169.254]:80", "[fe80::1%lo]:80", "[fd00:ec2::254]:80"} {
		for _, network := range []string{"tcp", "udp"} {
			if c, err := d.DialContext(t.Context(), network, address); err == nil {
				c.Close()
				t.Errorf("%s %s: connected", network, address)
			} else if !strings.Contains(err.Error(), "own services") {
				t.Errorf("%s %s: %v", network, address, err)
			}
		}
	}
}
