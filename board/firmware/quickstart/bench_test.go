package quickstart_test

import (
	"fmt"
	"net/netip"
	"runtime"
	"testing"
	"time"

	"github.com/vauban-iot/vauban/board"
	"github.com/vauban-iot/vauban/board/firmware/quickstart"
	"github.com/vauban-iot/vauban/board/network/facade"
	"github.com/vauban-iot/vauban/board/stm32l475"
)

// BenchmarkBoards says what a board with the firmware takes, hardware, kernel and five threads: after a minute in which nobody answered it.
func BenchmarkBoards(b *testing.B) {
	var before, after runtime.MemStats
	runtime.GC()
	runtime.ReadMemStats(&before)
	seg := facade.New()
	var all []*stm32l475.Board
	for i := 0; b.Loop(); i++ {
		hw, err := stm32l475.New(stm32l475.Config{Board: board.Config{Name: "lamp", Seed: uint64(i), Events: -1}})
		if err != nil {
			b.Fatal(err)
		}
		s, err := seg.Attach(facade.Config{Addresses: []netip.Prefix{netip.PrefixFrom(netip.AddrFrom4([4]byte{10, byte(i >> 16), byte(i >> 8), byte(i)}), 8)}})
		if err != nil {
			b.Fatal(err)
		}
		fw, err := quickstart.New(quickstart.Config{Board: hw, Network: s, ConnectionString: fmt.Sprint("HostName=hub.example;DeviceId=d-", i, ";SharedAccessKey=a2V5")})
		if err != nil {
			b.Fatal(err)
		}
		image, err := fw.Image()
		if err == nil {
			err = hw.Load(image)
		}
		if err == nil {
			err = hw.PowerOn()
		}
		if err == nil {
			err = hw.RunFor(time.Minute)
		}
		if err != nil {
			b.Fatal(err)
		}
		all = append(all, hw)
	}
	runtime.GC()
	runtime.ReadMemStats(&after)
	used := int64(after.HeapAlloc+after.StackInuse) - int64(before.HeapAlloc+before.StackInuse)
	b.ReportMetric(float64(used)/float64(len(all)), "bytes/board")
	for _, hw := range all {
		hw.Close()
	}
}
