// Package sensor is the chips on a board's I2C bus as a driver sees them: registers that are written and read, with the
// names, addresses, first values and scales of ST's datasheets and public drivers. Behind the registers stands the world
// (board/environment), with each chip's own calibration, offsets and noise, drawn from a seed.
//
// A chip costs nothing while nobody asks it: what it would have sampled is worked out when its registers are read.
package sensor

import (
	"math"
	"time"

	"github.com/vauban-iot/vauban/board/chance"
	"github.com/vauban-iot/vauban/board/i2c"
)

// Probe is a quantity of the world at a board's uptime.
type Probe func(now time.Duration) float64

// chip is a register file behind a sub-address.
type chip struct {
	mem     [128]byte
	pointer uint8
	step    bool // the sub-address goes on by itself
	samples uint64
	seed    uint64

	refresh   func(now time.Duration)                   // before registers are looked at
	increment func(sub byte) (pointer uint8, step bool) // what a sub-address means
	store     func(now time.Duration, reg, value byte)  // a write; it decides what is kept
	fetched   func(reg uint8)                           // after a register was read
}

func (c *chip) Write(now time.Duration, data []byte) error {
	if len(data) == 0 {
		return nil
	}
	c.pointer, c.step = c.increment(data[0])
	for _, v := range data[1:] {
		c.refresh(now)
		c.store(now, c.pointer, v)
		c.advance()
	}
	return nil
}

func (c *chip) Read(now time.Duration, data []byte) error {
	c.refresh(now)
	for i := range data {
		data[i] = c.mem[c.pointer]
		c.fetched(c.pointer)
		c.advance()
	}
	return nil
}

func (c *chip) advance() {
	if c.step {
		c.pointer = (c.pointer + 1) & 0x7F
	}
}

// highBit is the sub-address of chips that go on by themselves when its highest bit is set.
func highBit(sub byte) (uint8, bool) { return sub & 0x7F, sub&0x80 != 0 }

func (c *chip) put16(reg uint8, v float64) {
	n := int16(math.Round(min(max(v, math.MinInt16), math.MaxInt16)))
	c.mem[reg], c.mem[reg+1] = byte(n), byte(uint16(n)>>8)
}

func (c *chip) get16(reg uint8) int16 { return int16(uint16(c.mem[reg]) | uint16(c.mem[reg+1])<<8) }

// noise is different for each sample and channel.
func (c *chip) noise(channel uint64, deviation float64) float64 {
	return deviation * chance.Noise(c.seed+channel, c.samples)
}

// offset is a chip's own, between -limit and limit.
func (c *chip) offset(channel uint64, limit float64) float64 {
	return min(max(chance.Noise(c.seed^0xA5A5, channel)/2, -1), 1) * limit
}

// sampler is when a converter takes its samples: at a rate, or once.
type sampler struct {
	period time.Duration // zero: not by itself
	begin  time.Duration
	taken  int64         // samples since begin
	single time.Duration // when a single conversion is done; zero: none under way
}

// rate begins sampling anew; hz zero ends it.
func (s *sampler) rate(now time.Duration, hz float64) {
	var p time.Duration
	if hz > 0 {
		p = time.Duration(float64(time.Second) / hz)
	}
	if p != s.period {
		s.period, s.begin, s.taken = p, now, 0
	}
}

// once begins a single conversion.
func (s *sampler) once(now, takes time.Duration) { s.single = now + takes }

// due says at what time the newest sample was taken that was not fetched yet, how many there were, and whether it was a single one.
func (s *sampler) due(now time.Duration) (at time.Duration, n int64, single bool) {
	if s.single != 0 && now >= s.single {
		at, s.single = s.single, 0
		return at, 1, true
	}
	if s.period == 0 {
		return 0, 0, false
	}
	last := int64((now - s.begin) / s.period)
	n = last - s.taken
	if n <= 0 {
		return 0, 0, false
	}
	s.taken = last
	return s.begin + time.Duration(last)*s.period, n, false
}

var (
	_ i2c.Device = (*HTS221)(nil)
	_ i2c.Device = (*LPS22HB)(nil)
	_ i2c.Device = (*LIS3MDL)(nil)
	_ i2c.Device = (*LSM6DSL)(nil)
)
