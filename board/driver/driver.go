// Package driver is how firmware reads the board's sensors: over I2C, register by register, converting by scale and
// calibration into engineering units, set up as ST's board support package does for the B-L475E-IOT01A. It knows nothing of
// the models behind the bus (board/sensor).
package driver

import (
	"errors"
	"fmt"
)

// Bus is what a driver needs: write, then read with a repeated start.
type Bus interface {
	Transfer(address uint8, out, in []byte) error
}

// ErrWrongChip is returned when the chip at an address says it is another one.
var ErrWrongChip = errors.New("driver: another chip answers")

// device is a chip's registers. Its buffer keeps reads free of allocation.
type device struct {
	bus     Bus
	address uint8
	group   byte // what is added to a sub-address for several registers
	buf     [17]byte
}

// get reads n registers; the result holds until the next call.
func (d *device) get(reg byte, n int) ([]byte, error) {
	d.buf[16] = reg
	if n > 1 {
		d.buf[16] |= d.group
	}
	err := d.bus.Transfer(d.address, d.buf[16:17], d.buf[:n])
	return d.buf[:n], err
}

func (d *device) set(reg, v byte) error {
	d.buf[0], d.buf[1] = reg, v
	return d.bus.Transfer(d.address, d.buf[:2], nil)
}

// open checks that it is the chip, and writes registers and values in turn.
func (d *device) open(name string, id byte, set ...byte) error {
	got, err := d.get(0x0F, 1)
	if err != nil {
		return fmt.Errorf("%s: %w", name, err)
	}
	if got[0] != id {
		return fmt.Errorf("%s at address %#02x: %w: it has the identity %#02x, not %#02x", name, d.address, ErrWrongChip, got[0], id)
	}
	for i := 0; i < len(set); i += 2 {
		if err := d.set(set[i], set[i+1]); err != nil {
			return fmt.Errorf("%s: %w", name, err)
		}
	}
	return nil
}

func i16(b []byte) int16 { return int16(uint16(b[0]) | uint16(b[1])<<8) }

// HTS221 reads humidity and temperature.
type HTS221 struct {
	device
	h0, hSlope   float64 // percent, percent for each step
	t0, tSlope   float64
	h0Out, t0Out float64
}

// Open finds the chip, reads its calibration and lets it measure once a second.
func (s *HTS221) Open(bus Bus) error {
	s.device = device{bus: bus, address: 0x5F, group: 0x80}
	if err := s.open("hts221", 0xBC, 0x20, 0x85); err != nil { // on, a value's halves belong together, 1 Hz
		return err
	}
	c, err := s.get(0x30, 16)
	if err != nil {
		return fmt.Errorf("hts221: calibration: %w", err)
	}
	h0, h1 := float64(c[0])/2, float64(c[1])/2
	t0 := float64(uint16(c[2])|uint16(c[5]&3)<<8) / 8
	t1 := float64(uint16(c[3])|uint16(c[5]>>2&3)<<8) / 8
	h0Out, h1Out := float64(i16(c[6:])), float64(i16(c[10:]))
	t0Out, t1Out := float64(i16(c[12:])), float64(i16(c[14:]))
	if h1Out == h0Out || t1Out == t0Out {
		return errors.New("hts221: the chip is not calibrated: its two points are one")
	}
	s.h0, s.h0Out, s.hSlope = h0, h0Out, (h1-h0)/(h1Out-h0Out)
	s.t0, s.t0Out, s.tSlope = t0, t0Out, (t1-t0)/(t1Out-t0Out)
	return nil
}

// Humidity is relative, in percent.
func (s *HTS221) Humidity() (float64, error) {
	b, err := s.get(0x28, 2)
	if err != nil {
		return 0, fmt.Errorf("hts221: %w", err)
	}
	return min(max(s.h0+(float64(i16(b))-s.h0Out)*s.hSlope, 0), 100), nil
}

// Temperature is in degrees Celsius.
func (s *HTS221) Temperature() (float64, error) {
	b, err := s.get(0x2A, 2)
	if err != nil {
		return 0, fmt.Errorf("hts221: %w", err)
	}
	return s.t0 + (float64(i16(b))-s.t0Out)*s.tSlope, nil
}

// Ready reports that there are values which were not read yet.
func (s *HTS221) Ready() (bool, error) {
	b, err := s.get(0x27, 1)
	if err != nil {
		return false, fmt.Errorf("hts221: %w", err)
	}
	return b[0]&3 == 3, nil
}

// LPS22HB reads the pressure of the air.
type LPS22HB struct{ device }

// Open finds the chip and lets it measure 25 times a second.
func (s *LPS22HB) Open(bus Bus) error {
	s.device = device{bus: bus, address: 0x5D}
	return s.open("lps22hb", 0xB1, 0x1A, 0x00, 0x10, 0x32)
}

// Pressure is in hectopascals.
func (s *LPS22HB) Pressure() (float64, error) {
	b, err := s.get(0x28, 3)
	if err != nil {
		return 0, fmt.Errorf("lps22hb: %w", err)
	}
	raw := int32(uint32(b[0])<<8|uint32(b[1])<<16|uint32(b[2])<<24) >> 8
	return float64(raw) / 4096, nil
}

// Temperature is the chip's, in degrees Celsius.
func (s *LPS22HB) Temperature() (float64, error) {
	b, err := s.get(0x2B, 2)
	if err != nil {
		return 0, fmt.Errorf("lps22hb: %w", err)
	}
	return float64(i16(b)) / 100, nil
}

// LIS3MDL reads the magnetic field.
type LIS3MDL struct{ device }

// Open finds the chip and lets it measure 40 times a second, up to 4 gauss.
func (s *LIS3MDL) Open(bus Bus) error {
	s.device = device{bus: bus, address: 0x1E, group: 0x80}
	return s.open("lis3mdl", 0x3D, 0x20, 0x58, 0x21, 0x00, 0x22, 0x00, 0x23, 0x08, 0x24, 0x40)
}

// Field is in milligauss.
func (s *LIS3MDL) Field() (xyz [3]float64, err error) {
	b, err := s.get(0x28, 6)
	if err != nil {
		return xyz, fmt.Errorf("lis3mdl: %w", err)
	}
	for i := range xyz {
		xyz[i] = float64(i16(b[2*i:])) / 6.842
	}
	return xyz, nil
}

// LSM6DSL reads acceleration and rotation.
type LSM6DSL struct{ device }

// Open finds the chip and lets it measure 52 times a second, up to 2 g and 2000 degrees per second.
func (s *LSM6DSL) Open(bus Bus) error {
	s.device = device{bus: bus, address: 0x6A}
	return s.open("lsm6dsl", 0x6A, 0x12, 0x44, 0x10, 0x30, 0x11, 0x3C)
}

func (s *LSM6DSL) axes(reg byte, scale float64) (xyz [3]float64, err error) {
	b, err := s.get(reg, 6)
	if err != nil {
		return xyz, fmt.Errorf("lsm6dsl: %w", err)
	}
	for i := range xyz {
		xyz[i] = float64(i16(b[2*i:])) * scale
	}
	return xyz, nil
}

// Acceleration is in thousandths of g.
func (s *LSM6DSL) Acceleration() ([3]float64, error) { return s.axes(0x28, 0.061) }

// Rotation is in thousandths of a degree per second.
func (s *LSM6DSL) Rotation() ([3]float64, error) { return s.axes(0x22, 70) }

// Temperature is the chip's, in degrees Celsius.
func (s *LSM6DSL) Temperature() (float64, error) {
	b, err := s.get(0x20, 2)
	if err != nil {
		return 0, fmt.Errorf("lsm6dsl: %w", err)
	}
	return 25 + float64(i16(b))/256, nil
}
