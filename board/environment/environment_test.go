package environment

import (
	"math"
	"testing"
	"time"
)

var epoch = time.Date(2026, 3, 1, 0, 0, 0, 0, time.UTC)

func TestPlace_IsPlausible(t *testing.T) {
	t.Parallel()
	p := NewPlace(NewSite(1, Outdoor()), 1, 0)
	var last [3]float64
	byHour := [24]float64{}
	const days = 60
	for i := range days * 24 * 12 {
		at := epoch.Add(time.Duration(i) * 5 * time.Minute)
		v := [3]float64{p.Temperature(at), p.Humidity(at), p.Pressure(at)}
		if v[0] < -20 || v[0] > 45 || v[1] < 1 || v[1] > 100 || v[2] < 970 || v[2] > 1050 {
			t.Fatalf("%v: %v", at, v)
		}
		for j, step := range [3]float64{0.6, 5, 0.5} {
			if i > 0 && math.Abs(v[j]-last[j]) > step {
				t.Fatalf("%v: quantity %d jumped from %v to %v", at, j, last[j], v[j])
			}
		}
		last = v
		byHour[at.Hour()] += v[0] / days / 12
	}
	if byHour[14] < byHour[4]+3 {
		t.Errorf("the afternoon has %.1f degrees on the average, the early morning %.1f", byHour[14], byHour[4])
	}
}

func TestPlaces_OfOneSiteAreRelated(t *testing.T) {
	t.Parallel()
	a, b := NewPlace(NewSite(1, Temperate()), 1, 0), NewPlace(NewSite(1, Temperate()), 2, 0)
	far := NewPlace(NewSite(2, Temperate()), 1, 0)
	var near, other float64
	for i := range 500 {
		at := epoch.Add(time.Duration(i) * time.Hour)
		near = max(near, math.Abs(a.Pressure(at)-b.Pressure(at)))
		other = max(other, math.Abs(a.Pressure(at)-far.Pressure(at)))
		if d := math.Abs(a.Temperature(at) - b.Temperature(at)); d > 4 {
			t.Fatalf("neighbours are %v kelvin apart", d)
		}
		if a.Temperature(at) == b.Temperature(at) {
			t.Fatal("two places are one")
		}
	}
	if near > 2 || other < 5 {
		t.Errorf("neighbours' pressures are up to %.1f hPa apart, another site's %.1f", near, other)
	}
}

func TestPlace_MotionIsOneMotion(t *testing.T) {
	t.Parallel()
	p := NewPlace(NewSite(1, Temperate()), 3, 1)
	length := func(v Vector) float64 { return math.Sqrt(v[0]*v[0] + v[1]*v[1] + v[2]*v[2]) }
	moved, rested := 0, 0
	const h = 2 * time.Millisecond
	for i := range 20000 {
		at := epoch.Add(time.Duration(i) * 137 * time.Millisecond)
		m := p.Motion(at)
		if f := length(m.Magnetic); math.Abs(f-490) > 1e-6 {
			t.Fatalf("the earth's field is %v mG", f)
		}
		if length(m.Rotation) == 0 {
			rested++
			if math.Abs(length(m.Acceleration)-1) > 1e-9 {
				t.Fatalf("at rest it measures %v g", length(m.Acceleration))
			}
			continue
		}
		moved++
		// In the board's eyes the earth's field turns against the board: dB/dt = -ω × B.
		a, b := p.Motion(at.Add(-h)).Magnetic, p.Motion(at.Add(h)).Magnetic
		w := m.Rotation
		for j := range 3 {
			got := (b[j] - a[j]) / (2 * h.Seconds())
			want := -(w[(j+1)%3]*m.Magnetic[(j+2)%3] - w[(j+2)%3]*m.Magnetic[(j+1)%3]) * math.Pi / 180
			if math.Abs(got-want) > 2 {
				t.Fatalf("%v: the field changes by %v mG/s, the gyroscope says %v", at, got, want)
			}
		}
	}
	if moved < 1000 || rested < 1000 {
		t.Errorf("moved in %d samples, at rest in %d", moved, rested)
	}
}
