package fleet_test

import (
	"testing"

	"github.com/vauban-iot/vauban/app/apptest"
	"github.com/vauban-iot/vauban/sim/fleet"
)

// BenchmarkRun plays a thousand boards that send each ten seconds, with the platform in the same process, and says how many times
// faster than real time they are, from power on. One board waits for the disk at each message: with TMPDIR in memory it does not.
func BenchmarkRun(b *testing.B) {
	for _, c := range []struct{ name, text string }{
		{"1000 boards, an hour", "duration = \"1h\"\n[[board]]\nname = \"lamp\"\ncount = 1000\nsecurity = \"off\"\n"},
		{"1000 boards with their security modules, 20 minutes", "duration = \"20m\"\n[[board]]\nname = \"lamp\"\ncount = 1000\n"},
		{"one board, a day", "duration = \"24h\"\n[[board]]\nname = \"lamp\"\nsecurity = \"off\"\n"},
	} {
		b.Run(c.name, func(b *testing.B) {
			v := apptest.Start(b)
			f := parse(b, c.text)
			for b.Loop() {
				r, err := fleet.Run(b.Context(), fleet.Config{File: f, To: installation(v)})
				if err != nil {
					b.Fatal(err)
				}
				if r.Fleet.Telemetry == 0 || r.Fleet.Failed > 0 {
					b.Fatalf("%+v", r.Fleet.Counts)
				}
				b.ReportMetric(r.Run.Speed, "x_real_time")
				b.ReportMetric(r.Run.PerSecond, "msg/s")
				b.ReportMetric(r.Run.Latency.P99, "p99_ms")
			}
		})
	}
}
