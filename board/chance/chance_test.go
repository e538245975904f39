package chance

import (
	"math"
	"testing"
)

func TestNoise(t *testing.T) {
	t.Parallel()
	sum, squares := 0.0, 0.0
	for i := range uint64(10000) {
		n := Noise(9, i)
		sum += n
		squares += n * n
	}
	if mean, deviation := sum/10000, math.Sqrt(squares/10000); math.Abs(mean) > 0.03 || math.Abs(deviation-1) > 0.03 {
		t.Errorf("mean %v, deviation %v", mean, deviation)
	}
}

func TestSeed_DependsOnAllOfIt(t *testing.T) {
	t.Parallel()
	seen := make(map[uint64]bool)
	for seed := range uint64(100) {
		for _, part := range []string{"", "a", "b", "ab", "ba"} {
			seen[Seed(seed, part)] = true
		}
		if u := Unit(seed, 3); u < 0 || u >= 1 {
			t.Errorf("Unit: %v", u)
		}
	}
	if len(seen) != 500 {
		t.Errorf("500 seeds are %d", len(seen))
	}
}
