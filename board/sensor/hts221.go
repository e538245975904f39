package sensor

import "time"

// Addresses on the bus, 7 bits.
const (
	HTS221Address  = 0x5F
	LPS22HBAddress = 0x5D
	LIS3MDLAddress = 0x1E
	LSM6DSLAddress = 0x6A
)

// Registers of the HTS221.
const (
	htsWhoAmI      = 0x0F
	htsAverage     = 0x10 // AV_CONF
	htsCtrl1       = 0x20
	htsCtrl2       = 0x21
	htsCtrl3       = 0x22
	htsStatus      = 0x27
	htsHumidity    = 0x28
	htsTemperature = 0x2A
	htsCalibration = 0x30
)

// Calibration is what the HTS221's maker measured of one chip: its output at two humidities and two temperatures.
type Calibration struct {
	H0, H1       uint8  // half percents
	T0, T1       uint16 // eighths of a degree Celsius, 10 bits
	H0Out, H1Out int16
	T0Out, T1Out int16
}

// HTS221 is a sensor of humidity and temperature.
type HTS221 struct {
	chip
	sampler
	calibration           Calibration
	humidity, temperature Probe
	half                  [2]bool // with BDU, a value whose lower half was read stays
}

// NewHTS221 makes a chip with a calibration of its own.
func NewHTS221(seed uint64, humidity, temperature Probe) *HTS221 {
	s := &HTS221{humidity: humidity, temperature: temperature}
	s.seed = seed
	s.increment, s.refresh, s.store, s.fetched = highBit, s.sample, s.write, s.read
	at := func(n uint64, middle, width float64) float64 { return middle + s.offset(n, width) }
	s.Calibrate(Calibration{
		H0: uint8(at(1, 66, 8)), H1: uint8(at(2, 144, 10)),
		T0: uint16(at(3, 152, 16)), T1: uint16(at(4, 280, 30)),
		H0Out: int16(at(5, 0, 30)), H1Out: int16(at(6, -10500, 2000)),
		T0Out: int16(at(7, 0, 30)), T1Out: int16(at(8, 720, 60)),
	})
	s.Reset()
	return s
}

// Calibrate gives the chip another calibration.
func (s *HTS221) Calibrate(c Calibration) {
	s.calibration = c
	m := s.mem[htsCalibration:]
	m[0], m[1] = c.H0, c.H1
	m[2], m[3] = byte(c.T0), byte(c.T1)
	m[5] = byte(c.T0>>8&3 | c.T1>>8&3<<2)
	for _, x := range [...]struct {
		reg uint8
		out int16
	}{{6, c.H0Out}, {10, c.H1Out}, {12, c.T0Out}, {14, c.T1Out}} {
		m[x.reg], m[x.reg+1] = byte(x.out), byte(uint16(x.out)>>8)
	}
}

// Reset takes the power away for a moment.
func (s *HTS221) Reset() {
	s.sampler = sampler{}
	clear(s.mem[htsAverage:htsCalibration])
	s.mem[htsWhoAmI], s.mem[htsAverage] = 0xBC, 0x1B
	s.half = [2]bool{}
}

// What one measurement may be off by (root mean square) for each value of AV_CONF.
var (
	htsHumidityNoise    = [8]float64{0.4, 0.3, 0.2, 0.15, 0.1, 0.07, 0.05, 0.03}
	htsTemperatureNoise = [8]float64{0.08, 0.05, 0.04, 0.03, 0.02, 0.015, 0.01, 0.007}
)

const htsConversion = 10 * time.Millisecond // of a single measurement: an assumption

func (s *HTS221) sample(now time.Duration) {
	if s.mem[htsCtrl1]&0x80 == 0 {
		return
	}
	at, n, single := s.due(now)
	if n == 0 {
		return
	}
	if single {
		s.mem[htsCtrl2] &^= 1
	}
	s.samples += uint64(n)
	av := s.mem[htsAverage]
	h := min(max(s.humidity(at)+s.offset(11, 1.5)+s.noise(1, htsHumidityNoise[av&7]), 0), 100)
	t := s.temperature(at) + s.offset(12, 0.2) + s.noise(2, htsTemperatureNoise[av>>3&7])
	if s.mem[htsCtrl2]&2 != 0 {
		t += 5 // the heater is on
	}
	c := &s.calibration
	if !s.half[0] {
		h0, h1 := float64(c.H0)/2, float64(c.H1)/2
		s.put16(htsHumidity, float64(c.H0Out)+(h-h0)*(float64(c.H1Out)-float64(c.H0Out))/(h1-h0))
	}
	if !s.half[1] {
		t0, t1 := float64(c.T0)/8, float64(c.T1)/8
		s.put16(htsTemperature, float64(c.T0Out)+(t-t0)*(float64(c.T1Out)-float64(c.T0Out))/(t1-t0))
	}
	s.mem[htsStatus] = 3
}

func (s *HTS221) write(now time.Duration, reg, v byte) {
	switch reg {
	case htsAverage:
		s.mem[reg] = v & 0x3F
	case htsCtrl1:
		s.mem[reg] = v & 0x87
		hz := [4]float64{0, 1, 7, 12.5}[v&3]
		if v&0x80 == 0 {
			hz = 0
			s.single = 0
		}
		s.rate(now, hz)
	case htsCtrl2:
		s.mem[reg] = v & 0x03 // BOOT has ended by the time it can be read
		if v&1 != 0 && s.mem[htsCtrl1]&0x80 != 0 {
			s.once(now, htsConversion)
		}
	case htsCtrl3:
		s.mem[reg] = v & 0xC4
	}
}

func (s *HTS221) read(reg uint8) {
	bdu := s.mem[htsCtrl1]&4 != 0
	switch reg {
	case htsHumidity, htsTemperature:
		s.half[(reg-htsHumidity)/2] = bdu
	case htsHumidity + 1:
		s.half[0] = false
		s.mem[htsStatus] &^= 2
	case htsTemperature + 1:
		s.half[1] = false
		s.mem[htsStatus] &^= 1
	}
}
