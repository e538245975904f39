// Package environment is the world around boards: temperature, humidity and pressure of a site over days and weather,
// where a board hangs or how it is carried about, and the magnetic field. All of it is a function of a seed and the
// time: nothing is stored, asking twice gives the same, and boards of one site see related values.
//
// The signals are plausible, not a forecast: days are warmest in the afternoon, humid air is colder air, pressure drifts over
// days, a board at rest measures one g.
package environment

import (
	"math"
	"time"

	"github.com/vauban-iot/vauban/board/chance"
)

// Climate describes a site.
type Climate struct {
	Temperature  float64 // mean of the year, degrees Celsius
	DailySwing   float64 // between the mean and the warmest hour of a clear day, kelvin
	YearlySwing  float64 // between the mean and the warmest month, kelvin
	DewPoint     float64 // mean difference between temperature and dew point, kelvin
	Pressure     float64 // mean at the site's height, hectopascals
	Weather      float64 // how far pressure wanders, hectopascals
	Field        float64 // of the earth, milligauss
	Inclination  float64 // of the field below the horizon, degrees
	SunIsHighest float64 // hour of the day (UTC) at which the sun is highest
}

// Temperate is a heated building in middle Europe, near the sea.
func Temperate() Climate {
	return Climate{Temperature: 21, DailySwing: 2.5, YearlySwing: 2, DewPoint: 11, Pressure: 1013, Weather: 12, Field: 490, Inclination: 66, SunIsHighest: 11}
}

// Outdoor is outside, at the same place.
func Outdoor() Climate {
	c := Temperate()
	c.Temperature, c.DailySwing, c.YearlySwing, c.DewPoint = 10, 5, 10, 5
	return c
}

// Site is a place where boards are.
type Site struct {
	climate Climate
	seed    uint64
}

// NewSite makes a site. Sites with other seeds have other weather.
func NewSite(seed uint64, c Climate) *Site { return &Site{climate: c, seed: seed} }

// Place is where one board is within a site.
type Place struct {
	site    *Site
	seed    uint64
	warmer  float64 // kelvin than the site's mean
	drier   float64
	height  float64 // metres above the site's ground
	heading float64 // radians
	tilt    [2]float64
	handled float64 // part of the quarter-hours in which somebody moves the board
}

// NewPlace makes a place for a board. handled is the part of quarter-hours, 0 to 1, in which somebody moves the board
// about for a while; a board that is fixed to a wall has 0.
func NewPlace(s *Site, seed uint64, handled float64) *Place {
	p := &Place{site: s, seed: chance.Mix(s.seed, seed), handled: min(max(handled, 0), 1)}
	p.warmer = 1.5 * chance.Signed(p.seed, 1)
	p.drier = 1.0 * chance.Signed(p.seed, 2)
	p.height = 15 * chance.Unit(p.seed, 3)
	p.heading = 2 * math.Pi * chance.Unit(p.seed, 4)
	p.tilt = [2]float64{0.05 * chance.Signed(p.seed, 5), 0.05 * chance.Signed(p.seed, 6)}
	return p
}

// drift wanders between -1 and 1, smoothly, with a knot in each period.
func drift(seed uint64, t time.Time, period time.Duration) float64 {
	ns := t.UnixNano()
	n := ns / int64(period)
	x := float64(ns%int64(period)) / float64(period)
	x = x * x * (3 - 2*x)
	return chance.Signed(seed, uint64(n))*(1-x) + chance.Signed(seed, uint64(n)+1)*x
}

const day = 24 * time.Hour

func (s *Site) temperature(t time.Time) float64 {
	c := &s.climate
	hour := float64(t.UnixNano()%int64(day)) / float64(time.Hour)
	year := float64(t.YearDay()) / 365.25
	clear := 0.6 + 0.4*drift(chance.Mix(s.seed, 11), t, 30*time.Hour) // clouds flatten the day
	return c.Temperature +
		c.YearlySwing*math.Cos(2*math.Pi*(year-0.55)) +
		c.DailySwing*clear*math.Cos(2*math.Pi*(hour-c.SunIsHighest-3)/24) +
		1.5*drift(chance.Mix(s.seed, 12), t, 50*time.Hour)
}

// Temperature is that of the air, in degrees Celsius.
func (p *Place) Temperature(t time.Time) float64 {
	return p.site.temperature(t) + p.warmer + 0.3*drift(chance.Mix(p.seed, 13), t, 20*time.Minute)
}

// Humidity is relative, in percent. The air of a site has one dew point: it is drier where it is warmer.
func (p *Place) Humidity(t time.Time) float64 {
	s := p.site
	dew := s.temperature(t) - s.climate.DewPoint - 3*drift(chance.Mix(s.seed, 14), t, 19*time.Hour) - p.drier
	return min(max(100*saturation(dew)/saturation(p.Temperature(t)), 1), 100)
}

// saturation is the pressure of water vapour in saturated air, in hectopascals (Magnus' formula).
func saturation(celsius float64) float64 { return 6.112 * math.Exp(17.62*celsius/(243.12+celsius)) }

// Pressure is that of the air, in hectopascals: weather, and the place's height.
func (p *Place) Pressure(t time.Time) float64 {
	s := p.site
	sea := s.climate.Pressure +
		s.climate.Weather*(0.7*drift(chance.Mix(s.seed, 15), t, 70*time.Hour)+0.3*drift(chance.Mix(s.seed, 16), t, 22*time.Hour)) +
		0.5*math.Cos(4*math.Pi*(float64(t.UnixNano()%int64(day))/float64(day)-10.0/24))
	return sea - 0.12*p.height
}

// Vector has the axes of a board: x along its long side, z out of its face.
type Vector [3]float64

// Motion is how a board moves.
type Motion struct {
	Acceleration Vector // what an accelerometer measures, in g: at rest one g away from the earth
	Rotation     Vector // degrees per second
	Magnetic     Vector // milligauss
}

const quarter = 15 * time.Minute

// handling says how much a board is moved about at t, from 0 to 1, and where the movement is.
func (p *Place) handling(t time.Time) (strength, phase float64) {
	n := uint64(t.UnixNano() / int64(quarter))
	if chance.Unit(chance.Mix(p.seed, 21), n) >= p.handled {
		return 0, 0
	}
	begin := chance.Unit(chance.Mix(p.seed, 22), n) * 0.5
	length := 0.1 + 0.4*chance.Unit(chance.Mix(p.seed, 23), n) // of the quarter
	x := (float64(t.UnixNano()%int64(quarter))/float64(quarter) - begin) / length
	if x <= 0 || x >= 1 {
		return 0, 0
	}
	return math.Sin(math.Pi * x), x * length * quarter.Seconds()
}

// angles are heading, pitch and roll in radians.
func (p *Place) angles(t time.Time) [3]float64 {
	s, at := p.handling(t)
	f := 0.3 + 0.3*chance.Unit(p.seed, 24) // Hz
	return [3]float64{
		p.heading + s*1.2*math.Sin(2*math.Pi*0.5*f*at),
		p.tilt[0] + s*0.5*math.Sin(2*math.Pi*f*at),
		p.tilt[1] + s*0.7*math.Sin(2*math.Pi*1.3*f*at),
	}
}

// rotation is the matrix that turns the world's axes (north, west, up) into the board's.
func rotation(a [3]float64) [3]Vector {
	sy, cy := math.Sincos(a[0])
	sp, cp := math.Sincos(a[1])
	sr, cr := math.Sincos(a[2])
	return [3]Vector{
		{cy * cp, sy * cp, -sp},
		{cy*sp*sr - sy*cr, sy*sp*sr + cy*cr, cp * sr},
		{cy*sp*cr + sy*sr, sy*sp*cr - cy*sr, cp * cr},
	}
}

func turn(m [3]Vector, v Vector) (w Vector) {
	for i := range w {
		w[i] = m[i][0]*v[0] + m[i][1]*v[1] + m[i][2]*v[2]
	}
	return w
}

// Motion is how the board moves at t.
func (p *Place) Motion(t time.Time) Motion {
	const h = time.Millisecond
	m := rotation(p.angles(t))
	var world Vector // acceleration besides gravity, g
	if s, at := p.handling(t); s > 0 {
		world = Vector{0.15 * s * math.Sin(2*math.Pi*1.1*at), 0.1 * s * math.Sin(2*math.Pi*0.9*at), 0.2 * s * math.Sin(2*math.Pi*1.7*at)}
	}
	world[2]++
	c := &p.site.climate
	sin, cos := math.Sincos(c.Inclination * math.Pi / 180)
	out := Motion{
		Acceleration: turn(m, world),
		Magnetic:     turn(m, Vector{c.Field * cos, 0, -c.Field * sin}),
	}
	// The rate of turning is what is antisymmetric in the change of the matrix.
	before, after := rotation(p.angles(t.Add(-h))), rotation(p.angles(t.Add(h)))
	rate := func(i, j int) float64 {
		d := 0.0
		for n := range 3 {
			d += (after[i][n] - before[i][n]) / (2 * h.Seconds()) * m[j][n]
		}
		return d * 180 / math.Pi
	}
	out.Rotation = Vector{rate(1, 2), rate(2, 0), rate(0, 1)}
	return out
}
