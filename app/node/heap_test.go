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
