// Package chance is what looks like chance on a virtual board and in the world around it: functions of a seed and a number, so that nothing
// is stored, and asking twice gives the same. It is no source of secrets.
package chance

import "math"

// Mix makes a number of two that looks like chance (the finish of splitmix64).
func Mix(seed, n uint64) uint64 {
	x := seed ^ (n+1)*0x9E3779B97F4A7C15
	x = (x ^ x>>30) * 0xBF58476D1CE4E5B9
	x = (x ^ x>>27) * 0x94D049BB133111EB
	return x ^ x>>31
}

// Unit is the n-th number of a seed, from 0 up to but not including 1.
func Unit(seed, n uint64) float64 { return float64(Mix(seed, n)>>11) / (1 << 53) }

// Signed is the n-th number of a seed, from -1 to 1.
func Signed(seed, n uint64) float64 { return 2*Unit(seed, n) - 1 }

// Noise is the n-th number of a seed out of about a normal distribution with the deviation 1.
func Noise(seed, n uint64) float64 {
	sum := 0.0
	for i := range uint64(4) {
		sum += Signed(seed, n*4+i)
	}
	return sum * math.Sqrt(3.0/4)
}

// Seed makes a seed for a part of something, by name.
func Seed(seed uint64, part string) uint64 {
	for _, c := range []byte(part) {
		seed = Mix(seed, uint64(c))
	}
	return seed
}
