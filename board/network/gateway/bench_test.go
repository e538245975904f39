package gateway_test

import (
	"net/netip"
	"runtime"
	"testing"

	"github.com/vauban-iot/vauban/board/network/facade"
	"github.com/vauban-iot/vauban/board/network/lan"
	"github.com/vauban-iot/vauban/board/network/netstack"
)

// BenchmarkBoard prints what the network of one idle board takes: heap and stacks.
func BenchmarkBoard(b *testing.B) {
	address := func(i int) netip.Prefix {
		return netip.PrefixFrom(netip.AddrFrom4([4]byte{10, 1, byte(i >> 8), byte(i)}), 16)
	}
	measure := func(b *testing.B, boards int, open func(i int) func()) {
		for range b.N {
			var before, after runtime.MemStats
			runtime.GC()
			runtime.ReadMemStats(&before)
			closers := make([]func(), boards)
			for i := range closers {
				closers[i] = open(i)
			}
			runtime.GC()
			runtime.ReadMemStats(&after)
			b.ReportMetric(float64(int64(after.HeapAlloc+after.StackInuse)-int64(before.HeapAlloc+before.StackInuse))/float64(boards), "bytes/board")
			for _, c := range closers {
				c()
			}
		}
	}
	b.Run("netstack", func(b *testing.B) {
		sw := lan.New(lan.Config{})
		measure(b, 200, func(i int) func() {
			h, err := netstack.Open(netstack.Config{Switch: sw, MAC: lan.Address(uint64(i + 1)), Addresses: []netip.Prefix{address(i)}})
			if err != nil {
				b.Fatal(err)
			}
			return func() { h.Close() }
		})
	})
	b.Run("facade", func(b *testing.B) {
		seg := facade.New()
		measure(b, 10_000, func(i int) func() {
			s, err := seg.Attach(facade.Config{Addresses: []netip.Prefix{address(i)}})
			if err != nil {
				b.Fatal(err)
			}
			return func() { s.Close() }
		})
	})
}
