package sensor

import (
	"time"

	"github.com/vauban-iot/vauban/board/environment"
)

// Registers of the LIS3MDL.
const (
	lisOffset      = 0x05 // OFFSET_X_REG_L_M to OFFSET_Z_REG_H_M
	lisWhoAmI      = 0x0F
	lisCtrl1       = 0x20
	lisCtrl2       = 0x21
	lisCtrl3       = 0x22
	lisCtrl4       = 0x23
	lisCtrl5       = 0x24
	lisStatus      = 0x27
	lisOut         = 0x28
	lisTemperature = 0x2E
)

// LIS3MDL is a magnetometer. Its interrupt, self-test and big-endian output are not modelled.
type LIS3MDL struct {
	chip
	sampler
	field       func(now time.Duration) environment.Vector // milligauss
	temperature Probe
	held        bool
}

// NewLIS3MDL makes a chip.
func NewLIS3MDL(seed uint64, field func(now time.Duration) environment.Vector, temperature Probe) *LIS3MDL {
	s := &LIS3MDL{field: field, temperature: temperature}
	s.seed = seed
	s.increment, s.refresh, s.store, s.fetched = highBit, s.sample, s.write, s.read
	s.Reset()
	return s
}

// Reset takes the power away for a moment.
func (s *LIS3MDL) Reset() {
	s.sampler, s.held = sampler{}, false
	clear(s.mem[:])
	s.mem[lisWhoAmI], s.mem[lisCtrl1], s.mem[lisCtrl3] = 0x3D, 0x10, 0x03
}

var (
	lisScale = [4]float64{6842, 3421, 2281, 1711} // per gauss, for full scales of 4, 8, 12 and 16 gauss
	lisRate  = [8]float64{0.625, 1.25, 2.5, 5, 10, 20, 40, 80}
	lisFast  = [4]float64{1000, 560, 300, 155} // by operating mode
	lisNoise = [4]float64{10, 7, 5, 3.5}       // milligauss, by operating mode
)

func (s *LIS3MDL) sample(now time.Duration) {
	at, n, single := s.due(now)
	if n == 0 {
		return
	}
	if single {
		s.mem[lisCtrl3] |= 3 // and to sleep again
	}
	s.samples += uint64(n)
	if s.held {
		return
	}
	field := s.field(at)
	scale := lisScale[s.mem[lisCtrl2]>>5&3]
	for i, mg := range field {
		noise := lisNoise[s.mem[lisCtrl1]>>5&3]
		if i == 2 {
			noise = lisNoise[s.mem[lisCtrl4]>>2&3]
		}
		reg := uint8(2 * i)
		mg += s.offset(uint64(i), 20) + s.noise(uint64(i), noise)
		s.put16(lisOut+reg, mg/1000*scale-float64(s.get16(lisOffset+reg)))
	}
	if s.mem[lisCtrl1]&0x80 != 0 {
		s.put16(lisTemperature, (s.temperature(at)+s.offset(4, 1)-25)*8)
	}
	fresh := s.mem[lisStatus] & 0x0F
	if n > 1 {
		fresh = 0x0F
	}
	s.mem[lisStatus] = 0x0F | fresh<<4
}

func (s *LIS3MDL) write(now time.Duration, reg, v byte) {
	switch {
	case reg >= lisOffset && reg < lisOffset+6:
		s.mem[reg] = v
		return
	case reg == lisCtrl2 && v&4 != 0: // SOFT_RST
		s.Reset()
		return
	case reg == lisCtrl2:
		s.mem[reg] = v & 0x60
	case reg == lisCtrl4:
		s.mem[reg] = v & 0x0C
	case reg >= lisCtrl1 && reg <= lisCtrl5:
		s.mem[reg] = v
	default:
		return
	}
	hz := lisRate[s.mem[lisCtrl1]>>2&7]
	if s.mem[lisCtrl1]&2 != 0 {
		hz = lisFast[s.mem[lisCtrl1]>>5&3]
	}
	switch s.mem[lisCtrl3] & 3 {
	case 0:
		s.rate(now, hz)
	case 1:
		s.rate(now, 0)
		if reg == lisCtrl3 {
			s.once(now, time.Duration(float64(time.Second)/hz))
		}
	default:
		s.rate(now, 0)
		s.single = 0
	}
}

func (s *LIS3MDL) read(reg uint8) {
	switch {
	case reg < lisOut || reg > lisOut+5:
	case reg&1 == 0:
		s.held = s.mem[lisCtrl5]&0x40 != 0
	default:
		s.held = false
		bit := byte(1) << ((reg - lisOut) / 2)
		s.mem[lisStatus] &^= bit | bit<<4 | 0x88
	}
}
