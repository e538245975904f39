package sensor

import (
	"time"

	"github.com/vauban-iot/vauban/board/environment"
)

// Registers of the LSM6DSL.
const (
	lsmWhoAmI      = 0x0F
	lsmAccel       = 0x10 // CTRL1_XL
	lsmGyro        = 0x11 // CTRL2_G
	lsmCtrl3       = 0x12
	lsmCtrl10      = 0x19
	lsmStatus      = 0x1E
	lsmTemperature = 0x20
	lsmGyroOut     = 0x22
	lsmAccelOut    = 0x28
)

// LSM6DSL is an accelerometer and gyroscope. Its FIFO, filters, interrupts, step counter and tap detection are not modelled.
type LSM6DSL struct {
	chip
	accel, gyro sampler
	motion      func(now time.Duration) environment.Motion
	temperature Probe
	held        [2]bool // accelerometer, gyroscope
}

// NewLSM6DSL makes a chip.
func NewLSM6DSL(seed uint64, motion func(now time.Duration) environment.Motion, temperature Probe) *LSM6DSL {
	s := &LSM6DSL{motion: motion, temperature: temperature}
	s.seed = seed
	s.refresh, s.store, s.fetched = s.sample, s.write, s.read
	s.increment = func(sub byte) (uint8, bool) { return sub & 0x7F, s.mem[lsmCtrl3]&4 != 0 }
	s.Reset()
	return s
}

// Reset takes the power away for a moment.
func (s *LSM6DSL) Reset() {
	s.accel, s.gyro, s.held = sampler{}, sampler{}, [2]bool{}
	clear(s.mem[:])
	s.mem[lsmWhoAmI], s.mem[lsmCtrl3] = 0x6A, 0x04
}

var (
	lsmRate = [16]float64{0, 12.5, 26, 52, 104, 208, 416, 833, 1660, 3330, 6660, 1.6}
	lsmG    = [4]float64{0.061, 0.488, 0.122, 0.244} // milli-g for each step, for 2, 16, 4 and 8 g
	lsmDPS  = [4]float64{8.75, 17.5, 35, 70}         // millidegrees per second for each step, for 250 to 2000
)

func (s *LSM6DSL) gyroScale() float64 {
	if s.mem[lsmGyro]&2 != 0 {
		return 4.375 // 125 degrees per second
	}
	return lsmDPS[s.mem[lsmGyro]>>2&3]
}

func (s *LSM6DSL) sample(now time.Duration) {
	if at, n, _ := s.accel.due(now); n > 0 {
		s.samples += uint64(n)
		if !s.held[0] {
			m := s.motion(at)
			for i, g := range m.Acceleration {
				mg := g*1000 + s.offset(uint64(i), 20) + s.noise(uint64(i), 0.8)
				s.put16(lsmAccelOut+uint8(2*i), mg/lsmG[s.mem[lsmAccel]>>2&3])
			}
			s.mem[lsmStatus] |= 1
			s.heat(at)
		}
	}
	if at, n, _ := s.gyro.due(now); n > 0 {
		s.samples += uint64(n)
		if !s.held[1] {
			m := s.motion(at)
			for i, dps := range m.Rotation {
				mdps := dps*1000 + s.offset(4+uint64(i), 1500) + s.noise(4+uint64(i), 75)
				s.put16(lsmGyroOut+uint8(2*i), mdps/s.gyroScale())
			}
			s.mem[lsmStatus] |= 2
			s.heat(at)
		}
	}
}

func (s *LSM6DSL) heat(at time.Duration) {
	s.put16(lsmTemperature, (s.temperature(at)+s.offset(8, 2)-25)*256)
	s.mem[lsmStatus] |= 4
}

func (s *LSM6DSL) write(now time.Duration, reg, v byte) {
	switch reg {
	case lsmAccel:
		s.mem[reg] = v
		s.accel.rate(now, lsmRate[v>>4])
	case lsmGyro:
		s.mem[reg] = v & 0xFE
		hz := lsmRate[v>>4]
		if v>>4 > 10 {
			hz = 0 // only the accelerometer has it
		}
		s.gyro.rate(now, hz)
	case lsmCtrl3:
		if v&1 != 0 { // SW_RESET
			s.Reset()
			return
		}
		s.mem[reg] = v & 0x7C // BOOT has ended by the time it can be read; big-endian output is not modelled
	default:
		if reg > lsmCtrl3 && reg <= lsmCtrl10 {
			s.mem[reg] = v
		}
	}
}

func (s *LSM6DSL) read(reg uint8) {
	bdu := s.mem[lsmCtrl3]&0x40 != 0
	half := func(first uint8, i int, bit byte) {
		if reg&1 == first&1 {
			s.held[i] = bdu
			return
		}
		s.held[i] = false
		s.mem[lsmStatus] &^= bit
	}
	switch {
	case reg == lsmTemperature+1:
		s.mem[lsmStatus] &^= 4
	case reg >= lsmGyroOut && reg < lsmGyroOut+6:
		half(lsmGyroOut, 1, 2)
	case reg >= lsmAccelOut && reg < lsmAccelOut+6:
		half(lsmAccelOut, 0, 1)
	}
}
