package netstack

import (
	"encoding/hex"
	"net"
	"net/netip"
	"testing"

	"github.com/vauban-iot/vauban/board/network"
	"github.com/vauban-iot/vauban/board/network/lan"
)

// everybody answers pings.
type everybody struct{}

func (everybody) Connect(_, _ netip.AddrPort) (net.Conn, error)    { return nil, network.ErrNoAnswer }
func (everybody) Datagram(_, _ netip.AddrPort, data []byte) []byte { return data }
func (everybody) Echo(_, _ netip.Addr) bool                        { return true }

// Whatever comes over the cable, a host that stands for others lives, and answers with frames that are whole.
func FuzzOutside(f *testing.F) {
	for _, s := range []string{
		"020000000001020000000002" + "0806" + "0001080006040001" + "0200000000020a000101" + "0000000000000a000105",                                              // who has 10.0.1.5?
		"020000000001020000000002" + "0800" + "4500001c000000004001" + "0000" + "0a000101cb007105" + "0800000000000000",                                         // a ping
		"020000000001020000000002" + "86dd" + "6000000000083aff" + "fd000000000000000000000000000001" + "20010db8000000000000000000000005" + "8000000000000000", // of IPv6
		"020000000001020000000002" + "86dd" + "6000000000183aff" + "fe800000000000000000000000000001" + "ff0200000000000000000001ff000005" + "8700000000000000" + "fe800000000000000000000000000005",
		"020000000001020000000002" + "0800" + "45",
	} {
		b, err := hex.DecodeString(s)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(b)
	}
	sw := lan.New(lan.Config{})
	var parser network.Parser
	var sent int
	h, err := Open(Config{Switch: sw, MAC: lan.Address(1), Router: true, Addresses: []netip.Prefix{netip.MustParsePrefix("10.0.0.1/16")}, Outside: everybody{}, Watch: func(frame []byte, out bool) {
		if out && (frame[12] == 8 && frame[13] == 0 && frame[23] == 1 || frame[12] == 0x86 && frame[20] == 58 && frame[54] == 129) {
			sent++
			if _, v := parser.Parse(frame); v != network.Counted {
				panic("a broken answer")
			}
		}
	}})
	if err != nil {
		f.Fatal(err)
	}
	f.Cleanup(func() { h.Close() })
	f.Fuzz(func(t *testing.T, frame []byte) {
		if len(frame) > network.MaxFrame {
			return
		}
		h.card.receive(frame)
	})
}
