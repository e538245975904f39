package node

import "testing"

func TestGCPercent(t *testing.T) {
	t.Parallel()
	for live, want := range map[uint64]int{
		0: 800, 4 << 20: 800, 32 << 20: 100, 64 << 20: 50, 96 << 20: 33, 1 << 30: 33,
	} {
		if got := gcPercent(live); got != want {
			t.Errorf("with %d bytes alive: %d, want %d", live, got, want)
		}
	}
}

func TestSilent(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		lately, since uint64
		want          bool
	}{
		{0, 100 << 20, true},
		{50 << 20, 100 << 20, false}, // at work
		{1000, 2 << 20, false},       // nothing to win
	} {
		if got := silent(c.lately, c.since); got != c.want {
			t.Errorf("%+v: %v", c, got)
		}
	}
}
