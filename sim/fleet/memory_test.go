package fleet

import (
	"fmt"
	"net/netip"
	"runtime"
	"slices"
	"testing"
	"time"

	"github.com/vauban-iot/vauban/board"
	"github.com/vauban-iot/vauban/board/driver"
	"github.com/vauban-iot/vauban/board/firmware/security"
	"github.com/vauban-iot/vauban/board/network/facade"
	"github.com/vauban-iot/vauban/board/stm32l475"
	"github.com/vauban-iot/vauban/internal/secret"
	"github.com/vauban-iot/vauban/rtos"
)

// weigh says what boards take that are made by open: what lives after a collection, heap and stacks.
func weigh(b *testing.B, n int, open func() (closeAll func())) {
	for b.Loop() {
		var before, after runtime.MemStats
		runtime.GC()
		runtime.ReadMemStats(&before)
		closeAll := open()
		for range 4 { // each halves stacks that are mostly unused
			runtime.GC()
		}
		runtime.ReadMemStats(&after)
		all := float64(after.HeapAlloc + after.StackInuse - before.HeapAlloc - before.StackInuse)
		b.ReportMetric(all/(1<<20), "MiB")
		b.ReportMetric(all/float64(n), "bytes/board")
		b.ReportMetric(float64(after.StackInuse-before.StackInuse)/float64(n), "stack/board")
		closeAll()
	}
}

// BenchmarkMemory weighs ten thousand boards with five threads each and a place on a facade, which sample a sensor each ten seconds; and as many
// with the quickstart, whose hub does not answer.
func BenchmarkMemory(b *testing.B) {
	const n = 10_000
	b.Run("five threads", func(b *testing.B) { weigh(b, n, func() func() { return plain(b, n) }) })
	for _, security := range []string{"off", "10s"} {
		b.Run("quickstart, security "+security, func(b *testing.B) {
			weigh(b, n, func() func() {
				r := offline(b, fmt.Sprintf("duration = \"1h\"\n[[board]]\nname = \"lamp\"\ncount = %d\nsecurity = %q\n", n, security))
				if err := r.make(b.Context(), r.file.Plan()); err != nil {
					b.Fatal(err)
				}
				r.each(func(u *unit) { u.until(time.Minute) })
				return func() { r.each(func(u *unit) { u.close() }) }
			})
		})
	}
}

// plain are boards with five threads that measure, and have run for a minute.
func plain(b *testing.B, n int) func() {
	seg := facade.New()
	var all []*stm32l475.Board
	for i := range n {
		if _, err := seg.Attach(facade.Config{Addresses: []netip.Prefix{netip.PrefixFrom(host(firstSubnet, 256+i), 16)}}); err != nil {
			b.Fatal(err)
		}
		hw, err := stm32l475.New(stm32l475.Config{Board: board.Config{Name: "lamp", Seed: uint64(i), Events: crashEvents}})
		if err != nil {
			b.Fatal(err)
		}
		err = hw.Load(board.Firmware{Name: "app", Define: func(k *rtos.Kernel) {
			var lock rtos.Mutex
			k.CreateMutex(&lock, "i2c", rtos.Inherit)
			for range 5 {
				k.CreateThread(new(rtos.Thread), rtos.ThreadConfig{Name: "sampler", Stack: k.Reserve(2048), Priority: 10, Start: rtos.AutoStart, Entry: func(uint32) {
					var d driver.LPS22HB
					for {
						lock.Get(rtos.WaitForever)
						if d.Open(hw.I2C) == nil {
							d.Pressure()
						}
						lock.Put()
						k.Sleep(1000)
					}
				}})
			}
		}})
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
	return func() {
		for _, hw := range all {
			hw.Close()
		}
	}
}

// A board's budget has what runs on it.
func TestRun_Budget(t *testing.T) {
	t.Parallel()
	r := offline(t, "duration = \"1h\"\n[[board]]\nname = \"bare\"\nsecurity = \"off\"\n[[board]]\nname = \"guarded\"\nlog = \"1m\"\n")
	if err := r.make(t.Context(), r.file.Plan()); err != nil {
		t.Fatal(err)
	}
	defer r.each(func(u *unit) { u.close() })
	had := func(u *unit, part board.Part) bool { return slices.Contains(u.hw.Firmware().Parts, part) }
	bare, guarded := r.units[0], r.units[1]
	if had(bare, security.Part()) || had(bare, logPart()) || !had(guarded, security.Part()) || !had(guarded, logPart()) {
		t.Errorf("%+v, %+v", bare.hw.Firmware().Parts, guarded.hw.Firmware().Parts)
	}
}

// offline is a run whose hub nobody reaches.
func offline(b testing.TB, text string) *run {
	f, err := Parse("fleet.toml", []byte(text))
	if err != nil {
		b.Fatal(err)
	}
	r := &run{cfg: Config{Workers: 64}, file: f, to: &Installation{Hostname: "hub.example", MQTT: "127.0.0.1:1", IDScope: "0ne"}, latency: new(latencies), parts: map[*Boards][]board.Part{}, keys: map[*Boards]secret.Secret{}}
	r.epoch, r.series.step, r.begun = time.Date(2026, 3, 1, 0, 0, 0, 0, time.UTC), time.Minute, time.Now()
	for i := range f.Boards {
		r.keys[&f.Boards[i]] = secret.Random(64)
	}
	return r
}
