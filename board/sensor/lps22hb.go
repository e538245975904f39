package sensor

import (
	"math"
	"time"
)

// Registers of the LPS22HB.
const (
	lpsInterrupt   = 0x0B
	lpsWhoAmI      = 0x0F
	lpsCtrl1       = 0x10
	lpsCtrl2       = 0x11
	lpsCtrl3       = 0x12
	lpsOffset      = 0x18 // RPDS
	lpsResolution  = 0x1A // RES_CONF
	lpsStatus      = 0x27
	lpsPressure    = 0x28
	lpsTemperature = 0x2B
)

// LPS22HB is a barometer. Its FIFO, its thresholds and AUTOZERO are not modelled.
type LPS22HB struct {
	chip
	sampler
	pressure, temperature Probe
	held                  bool
}

// NewLPS22HB makes a chip.
func NewLPS22HB(seed uint64, pressure, temperature Probe) *LPS22HB {
	s := &LPS22HB{pressure: pressure, temperature: temperature}
	s.seed = seed
	s.refresh, s.store, s.fetched = s.sample, s.write, s.read
	s.increment = func(sub byte) (uint8, bool) { return sub & 0x7F, s.mem[lpsCtrl2]&0x10 != 0 }
	s.Reset()
	return s
}

// Reset takes the power away for a moment.
func (s *LPS22HB) Reset() {
	s.sampler, s.held = sampler{}, false
	clear(s.mem[:])
	s.mem[lpsWhoAmI], s.mem[lpsCtrl2] = 0xB1, 0x10
}

const lpsConversion = 14 * time.Millisecond // of a single measurement: an assumption

func (s *LPS22HB) sample(now time.Duration) {
	at, n, single := s.due(now)
	if n == 0 {
		return
	}
	if single {
		s.mem[lpsCtrl2] &^= 1
	}
	s.samples += uint64(n)
	if s.held {
		return
	}
	noise := 0.0075
	if s.mem[lpsResolution]&1 != 0 {
		noise = 0.01 // low current
	}
	hpa := s.pressure(at) + s.offset(1, 0.5) + s.noise(1, noise)
	raw := int32(math.Round(min(max(hpa, 260), 1260)*4096)) - int32(s.get16(lpsOffset))*256
	s.mem[lpsPressure], s.mem[lpsPressure+1], s.mem[lpsPressure+2] = byte(raw), byte(raw>>8), byte(raw>>16)
	s.put16(lpsTemperature, (s.temperature(at)+s.offset(2, 0.8)+s.noise(2, 0.03))*100)
	// What was not read before it was overwritten is an overrun.
	fresh := s.mem[lpsStatus] & 3
	if n > 1 {
		fresh = 3
	}
	s.mem[lpsStatus] = 3 | fresh<<4
}

func (s *LPS22HB) write(now time.Duration, reg, v byte) {
	switch reg {
	case lpsCtrl1:
		s.mem[reg] = v & 0x7F
		hz := [8]float64{0, 1, 10, 25, 50, 75}[v>>4&7]
		s.rate(now, hz)
	case lpsCtrl2:
		if v&4 != 0 { // SWRESET
			s.Reset()
			return
		}
		s.mem[reg] = v & 0x79
		if v&1 != 0 && s.period == 0 {
			s.once(now, lpsConversion)
		}
	case lpsInterrupt, lpsCtrl3, lpsOffset, lpsOffset + 1, lpsResolution:
		s.mem[reg] = v
	}
}

func (s *LPS22HB) read(reg uint8) {
	bdu := s.mem[lpsCtrl1]&2 != 0
	switch reg {
	case lpsPressure:
		s.held = bdu
	case lpsPressure + 2:
		s.held = false
		s.mem[lpsStatus] &^= 0x11
	case lpsTemperature + 1:
		s.mem[lpsStatus] &^= 0x22
	}
}
