package fleet

import (
	"strings"
	"testing"
	"time"
)

func TestPage_Numbers(t *testing.T) {
	t.Parallel()
	for got, want := range map[string]string{
		short(0): "0", short(2.5): "2.5", short(1000): "1000", short(25_000): "25 k", short(5e6): "5 M",
		span(0.0004): "400µs", span(30): "30s", span(90): "1m 30s", span(1800): "30m", span(7200): "2h", span(5400): "1h 30m", span(86400 + 3600): "1d 1h",
		grouped(7): "7", grouped(1234567): "1 234 567", factor(134.2): "134", factor(0.96): "1.0",
	} {
		if got != want {
			t.Errorf("got %q, want %q", got, want)
		}
	}
	for v, want := range map[float64]float64{0: 1, 1: 1, 1.1: 2, 3: 5, 7: 10, 48: 50, 1200: 2000} {
		if got := ceiling(v); got != want {
			t.Errorf("the axis for %v ends at %v, want %v", v, got, want)
		}
	}
}

// What boards and installations say is text on the page.
func TestPage_Escapes(t *testing.T) {
	t.Parallel()
	const evil = `<script>alert(1)</script>`
	r := Report{
		Fleet: Did{Name: evil, Duration: 10, Epoch: time.Unix(0, 0), Each: []BoardDid{{ID: evil, Stopped: evil, Attacks: []Attacked{{Name: evil, At: 1}}}}, Groups: []Group{{Name: evil}}},
		Run:   Ran{Alerts: []Seen{{Device: evil, Type: evil, Title: evil, Attack: evil}}, Detections: []Detection{{Attack: evil, Boards: 1, Types: []string{evil}}}, Crashes: []string{evil + "\n" + evil}},
	}
	var s strings.Builder
	if err := r.HTML(&s); err != nil {
		t.Fatal(err)
	}
	if strings.Contains(s.String(), "<script") || !strings.Contains(s.String(), "&lt;script&gt;") {
		t.Error("the page has a script")
	}
}

func TestHistogram(t *testing.T) {
	t.Parallel()
	hs := make([]histogram, 2)
	for i := range 1000 {
		hs[i%2].add(time.Duration(i+1) * time.Millisecond)
	}
	l := sum(hs)
	if l.Count != 1000 || l.P50 < 500 || l.P50 > 570 || l.P99 < 990 || l.P99 > 1120 || l.Max < 1000 || l.Max > 1130 {
		t.Errorf("%+v", l)
	}
	if c := class(time.Hour); c != classes-1 {
		t.Errorf("an hour is in class %d", c)
	}
	for d := time.Duration(0); d < time.Minute; d = d*5/4 + time.Microsecond {
		if ms := longest(class(d)); ms < d.Seconds()*1000-0.001 || ms > d.Seconds()*1125+0.002 {
			t.Errorf("%v is told as %v ms", d, ms)
		}
	}
}
