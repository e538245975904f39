package baseline

import (
	"net/netip"
	"testing"

	"github.com/vauban-iot/vauban/wire/secmsg"
)

// The Linux agent says who began a flow; of others ports tell.
func TestOrient(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		local, remote string
		direction     string
		began         bool
		want          string
		port          uint16
	}{
		{"10.0.0.1:40000", "192.0.2.1:50000", secmsg.In, true, In, 40000},
		{"10.0.0.1:22", "192.0.2.1:50000", secmsg.Out, true, Out, 50000},
		{"10.0.0.1:22", "192.0.2.1:50000", secmsg.Out, false, In, 22}, // who sent
		{"10.0.0.1:0", "192.0.2.1:0", secmsg.In, true, In, 0},
	} {
		f := secmsg.Flow{Local: netip.MustParseAddrPort(c.local), Remote: netip.MustParseAddrPort(c.remote), Direction: c.direction, Began: c.began, BytesIn: 1, BytesOut: 2}
		if got, port := orient(&f); got != c.want || port != c.port {
			t.Errorf("%+v: %s port %d", c, got, port)
		}
	}
}
