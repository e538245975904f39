package node

import "testing"

func TestGCPercent(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		live, load uint64
		want       int
	}{
		{0, 0, 800},
		{4 << 20, 0, 800},
		{32 << 20, 0, 100},
		{64 << 20, 0, 50},
		{96 << 20, 0, 33},
		{1 << 30, 0, 33},
		{32 << 20, 16 << 20, 100}, // less than there is room for anyway
		{32 << 20, 256 << 20, 800},
		{1 << 30, 256 << 20, 33},
	} {
		if got := gcPercent(c.live, c.load); got != c.want {
			t.Errorf("%+v: %d", c, got)
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
