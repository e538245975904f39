package activity

import (
	"fmt"
	"sync"
	"testing"
	"time"
)

func TestTally(t *testing.T) {
	t.Parallel()
	var none *Tally
	none.Add("d", TwinUpdates, 1)
	tally := &Tally{Limit: 3}
	at := time.Unix(600, 0)
	tally.AddAt("d", TwinUpdates, 1, at)
	if got := tally.Take(1 << 40); len(got) != 0 {
		t.Errorf("what nobody wants is counted: %v", got)
	}
	tally.Want(TwinUpdates, ActiveConnections)
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			for range 100 {
				tally.AddAt("d", TwinUpdates, 1, at)
				tally.AddAt("d", ActiveConnections, 7, at)
			}
		})
	}
	wg.Wait()
	tally.AddAt("d", ActiveConnections, 3, at)
	tally.AddAt("d", QueuePurges, 1, at)
	tally.AddAt("", TwinUpdates, 1, at)
	tally.AddAt("d", TwinUpdates, 5, at.Add(time.Minute))
	tally.AddAt("e", TwinUpdates, 2, at) // beyond the limit
	if tally.Lost() != 2 {
		t.Errorf("%d are lost", tally.Lost())
	}
	got := tally.Take(11)
	if len(got) != 2 {
		t.Fatalf("got %v", got)
	}
	for _, c := range got {
		if want := map[Kind]int{TwinUpdates: 800, ActiveConnections: 7}[c.Kind]; c.N != want || c.Minute != 10 || c.Device != "d" {
			t.Errorf("%v: %d", c, c.N)
		}
	}
	tally.Put(got)
	if again := tally.Take(1 << 40); len(again) != 3 {
		t.Errorf("after they were put back: %v", again)
	}
	for _, k := range Kinds() {
		if back, ok := Parse(k.String()); !ok || back != k {
			t.Errorf("%v reads back as %v", k, back)
		}
	}
}

// What counting costs a device's message, when nobody wants it and when somebody does.
func BenchmarkTally(b *testing.B) {
	for _, wanted := range []bool{false, true} {
		b.Run(fmt.Sprint("wanted=", wanted), func(b *testing.B) {
			var tally Tally
			if wanted {
				tally.Want(MqttD2CMessages)
			}
			b.ReportAllocs()
			for b.Loop() {
				tally.Add("device-1", MqttD2CMessages, 1)
			}
		})
	}
}
