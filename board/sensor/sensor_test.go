package sensor

import (
	"math"
	"testing"
	"time"

	"github.com/vauban-iot/vauban/board/environment"
	"github.com/vauban-iot/vauban/board/i2c"
)

func fixed(v float64) Probe { return func(time.Duration) float64 { return v } }

// regs reads registers as a bus does.
func regs(t *testing.T, d i2c.Device, at time.Duration, sub byte, n int) []byte {
	t.Helper()
	if err := d.Write(at, []byte{sub}); err != nil {
		t.Fatal(err)
	}
	out := make([]byte, n)
	if err := d.Read(at, out); err != nil {
		t.Fatal(err)
	}
	return out
}

func set(t *testing.T, d i2c.Device, at time.Duration, bytes ...byte) {
	t.Helper()
	if err := d.Write(at, bytes); err != nil {
		t.Fatal(err)
	}
}

func s16(b []byte) float64 { return float64(int16(uint16(b[0]) | uint16(b[1])<<8)) }

func near(t *testing.T, what string, got, want, tolerance float64) {
	t.Helper()
	if math.Abs(got-want) > tolerance {
		t.Errorf("%s: %v, want %v ± %v", what, got, want, tolerance)
	}
}

func still(time.Duration) environment.Motion {
	return environment.Motion{Acceleration: environment.Vector{0.35, 0, 1}, Rotation: environment.Vector{100, -100, 0}}
}

func TestChips_FirstValues(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name string
		d    i2c.Device
		want map[byte]byte // register: value, of the datasheets' tables
	}{
		{"HTS221", NewHTS221(1, fixed(40), fixed(20)), map[byte]byte{0x0F: 0xBC, 0x10: 0x1B, 0x20: 0, 0x21: 0, 0x22: 0, 0x27: 0}},
		{"LPS22HB", NewLPS22HB(1, fixed(1000), fixed(20)), map[byte]byte{0x0F: 0xB1, 0x10: 0, 0x11: 0x10, 0x12: 0, 0x1A: 0, 0x27: 0}},
		{"LIS3MDL", NewLIS3MDL(1, func(time.Duration) environment.Vector { return environment.Vector{} }, fixed(20)), map[byte]byte{0x0F: 0x3D, 0x20: 0x10, 0x21: 0, 0x22: 0x03, 0x23: 0, 0x24: 0, 0x27: 0}},
		{"LSM6DSL", NewLSM6DSL(1, still, fixed(20)), map[byte]byte{0x0F: 0x6A, 0x10: 0, 0x11: 0, 0x12: 0x04, 0x13: 0, 0x1E: 0}},
	} {
		for reg, want := range c.want {
			if got := regs(t, c.d, time.Hour, reg, 1)[0]; got != want {
				t.Errorf("%s: register %#02x is %#02x after power on, want %#02x", c.name, reg, got, want)
			}
			set(t, c.d, 0, 0x0F, 0x55)
		}
		if got := regs(t, c.d, 0, 0x0F, 1)[0]; got != c.want[0x0F] {
			t.Errorf("%s: its identity was written over", c.name)
		}
	}
}

// The examples of the HTS221's datasheet: 300 at 10 degrees and 500 at 20 make 400 15 degrees; 4000 at 20 % and 6000 at 40 % make 5000 30 %.
func TestHTS221_DatasheetsInterpolation(t *testing.T) {
	t.Parallel()
	s := NewHTS221(7, fixed(30), fixed(15))
	s.Calibrate(Calibration{H0: 40, H1: 80, H0Out: 4000, H1Out: 6000, T0: 80, T1: 160, T0Out: 300, T1Out: 500})
	if got, want := string(regs(t, s, 0, 0xB0, 16)), "\x28\x50\x50\xA0\x00\x00\xA0\x0F\x00\x00\x70\x17\x2C\x01\xF4\x01"; got != want {
		t.Errorf("calibration % x, want % x", got, want)
	}
	set(t, s, 0, 0x20, 0x81)
	if regs(t, s, 999*time.Millisecond, 0x27, 1)[0] != 0 {
		t.Error("a sample before its time")
	}
	if regs(t, s, time.Second, 0x27, 1)[0] != 3 {
		t.Error("no sample after a second at 1 Hz")
	}
	out := regs(t, s, time.Second, 0xA8, 4)
	near(t, "humidity", s16(out), 5000, 250) // 100 for each percent: the chip is off by 1.5 at most, and has noise
	near(t, "temperature", s16(out[2:]), 400, 6)
	if regs(t, s, time.Second, 0x27, 1)[0] != 0 {
		t.Error("the status still says that there is something to read")
	}
	// A bit more than eight bits: 40 degrees is 320 eighths.
	s.Calibrate(Calibration{T0: 320, T1: 1023, H1: 1, T1Out: 1, H1Out: 1})
	if b := regs(t, s, 0, 0xB2, 4); b[0] != 0x40 || b[1] != 0xFF || b[3] != 0x01|0x03<<2 {
		t.Errorf("ten bits of temperature: % x", b)
	}
}

func TestHTS221_OneShotPowerDownAndSubAddress(t *testing.T) {
	t.Parallel()
	s := NewHTS221(7, fixed(30), fixed(15))
	set(t, s, 0, 0x21, 1)
	if regs(t, s, time.Hour, 0x27, 1)[0] != 0 {
		t.Error("a chip without power measured")
	}
	set(t, s, 0, 0x20, 0x80)
	set(t, s, 0, 0x21, 1)
	if regs(t, s, time.Millisecond, 0x21, 1)[0] != 1 {
		t.Error("ONE_SHOT is over at once")
	}
	if regs(t, s, htsConversion, 0x27, 1)[0] != 3 || regs(t, s, htsConversion, 0x21, 1)[0] != 0 {
		t.Error("no measurement, or ONE_SHOT stays")
	}
	regs(t, s, htsConversion, 0xA8, 4)
	if regs(t, s, time.Hour, 0x27, 1)[0] != 0 {
		t.Error("one shot measured twice")
	}
	if b := regs(t, s, 0, 0x0F, 2); b[0] != 0xBC || b[1] != 0xBC {
		t.Errorf("without the highest bit the sub-address went on: % x", b)
	}
	set(t, s, 0, 0x20|0x80, 0x85, 0x00, 0x04) // three registers at once
	if b := regs(t, s, 0, 0xA0, 3); b[0] != 0x85 || b[1] != 0 || b[2] != 0x04 {
		t.Errorf("three registers: % x", b)
	}
}

func TestHTS221_BlockDataUpdateKeepsHalvesTogether(t *testing.T) {
	t.Parallel()
	for _, bdu := range []byte{0, 4} {
		value := 20.0
		s := NewHTS221(7, fixed(30), func(time.Duration) float64 { return value })
		s.Calibrate(Calibration{H0: 40, H1: 80, H0Out: 4000, H1Out: 6000, T0: 0, T1: 800, T0Out: 0, T1Out: 25600}) // 256 for each degree
		set(t, s, 0, 0x20, 0x81|bdu)
		regs(t, s, time.Second, 0x2A, 1)
		value = 60
		high := regs(t, s, 2*time.Second, 0x2B, 1)[0]
		if held := high < 30; held != (bdu != 0) {
			t.Errorf("BDU %d: the upper half after the next sample is %d", bdu, high)
		}
	}
}

func TestLPS22HB_Registers(t *testing.T) {
	t.Parallel()
	// 3FF58Dh is 1023.3 hPa.
	s := NewLPS22HB(3, fixed(4191629.0/4096), fixed(25))
	set(t, s, 0, 0x10, 0x10)
	out := regs(t, s, time.Second, 0x27, 6)
	if out[0] != 0x03 {
		t.Errorf("status %#x", out[0])
	}
	raw := float64(int32(out[1]) | int32(out[2])<<8 | int32(out[3])<<16)
	near(t, "pressure", raw, 0x3FF58D, 0.6*4096)
	near(t, "temperature", s16(out[4:]), 2500, 95)
	if got := regs(t, s, 2*time.Second, 0x27, 1)[0]; got != 0x03 {
		t.Errorf("status after a reading and a sample: %#x", got)
	}
	if got := regs(t, s, 4*time.Second, 0x27, 1)[0]; got != 0x33 {
		t.Errorf("status after samples that nobody read: %#x, want an overrun", got)
	}
	set(t, s, 4*time.Second, 0x18, 0x10, 0x00) // one hectopascal
	out = regs(t, s, 5*time.Second, 0x28, 3)
	near(t, "with an offset of 1 hPa", raw-float64(int32(out[0])|int32(out[1])<<8|int32(out[2])<<16), 4096, 400)
	set(t, s, 5*time.Second, 0x11, 0x14)
	if b := regs(t, s, 5*time.Second, 0x10, 2); b[0] != 0 || b[1] != 0x10 {
		t.Errorf("after SWRESET: % x", b)
	}
	set(t, s, 6*time.Second, 0x11, 0x11)
	if regs(t, s, 6*time.Second, 0x27, 1)[0] != 0 || regs(t, s, 7*time.Second, 0x27, 1)[0] != 3 || regs(t, s, 7*time.Second, 0x11, 1)[0] != 0x10 {
		t.Error("ONE_SHOT")
	}
	set(t, s, 0, 0x11, 0x00)
	if b := regs(t, s, 7*time.Second, 0x0F, 2); b[1] != 0xB1 {
		t.Error("the sub-address went on without IF_ADD_INC")
	}
}

func TestLIS3MDL_Registers(t *testing.T) {
	t.Parallel()
	s := NewLIS3MDL(3, func(time.Duration) environment.Vector { return environment.Vector{1000, -500, 0} }, fixed(33))
	if regs(t, s, time.Hour, 0x27, 1)[0] != 0 {
		t.Error("it measures in power-down")
	}
	for fs, perGauss := range [4]float64{6842, 3421, 2281, 1711} {
		s.Reset()
		set(t, s, 0, 0xA0, 0xF0, byte(fs)<<5, 0x00, 0x0C) // ultra-high performance, 10 Hz, with temperature
		out := regs(t, s, 100*time.Millisecond, 0xA7, 9)
		if out[0] != 0x0F {
			t.Errorf("status %#x", out[0])
		}
		for i, gauss := range []float64{1, -0.5, 0} {
			near(t, "axis", s16(out[1+2*i:]), gauss*perGauss, 0.035*perGauss)
		}
		near(t, "temperature", s16(out[7:]), 8*8, 9)
	}
	if got := regs(t, s, time.Second, 0x27, 1)[0]; got != 0xFF {
		t.Errorf("status %#x, want an overrun", got)
	}
	set(t, s, time.Second, 0x22, 0x01) // a single one
	regs(t, s, time.Second, 0xA8, 6)
	if regs(t, s, 2*time.Second, 0x27, 1)[0]&0x0F != 0x0F || regs(t, s, 2*time.Second, 0x22, 1)[0]&3 != 3 {
		t.Error("single conversion")
	}
	set(t, s, 0, 0x85, 0x00, 0x10)
	s.mem[lisCtrl3] = 0
	if got := regs(t, s, 0, 0x85, 2); got[1] != 0x10 {
		t.Errorf("offset registers % x", got)
	}
}

// The registers' contents of ST's application note: 1669h is 350 mg at 2 g, 4009h is 1 g; 2CA4h is 100 degrees per second at 250, D35Ch is -100.
func TestLSM6DSL_Registers(t *testing.T) {
	t.Parallel()
	s := NewLSM6DSL(3, still, fixed(30))
	set(t, s, 0, 0x10, 0x40, 0x40) // both 104 Hz, 2 g, 250 degrees per second
	out := regs(t, s, time.Second, 0x1E, 16)
	if out[0] != 0x07 {
		t.Errorf("status %#x", out[0])
	}
	near(t, "temperature", s16(out[2:]), 5*256, 2.1*256)
	signed := func(v uint16) float64 { return float64(int16(v)) }
	near(t, "gyroscope x", s16(out[4:]), signed(0x2CA4), 1800/8.75)
	near(t, "gyroscope y", s16(out[6:]), signed(0xD35C), 1800/8.75)
	near(t, "accelerometer x", s16(out[10:]), signed(0x1669), 24/0.061)
	near(t, "accelerometer z", s16(out[14:]), signed(0x4009), 24/0.061)
	for fs, scale := range [4]float64{0.061, 0.488, 0.122, 0.244} {
		set(t, s, time.Second, 0x10, 0x40|byte(fs)<<2)
		out := regs(t, s, time.Duration(2+fs)*time.Second, 0x2C, 2)
		near(t, "1 g at another full scale", s16(out)*scale, 1000, 24)
	}
	set(t, s, 9*time.Second, 0x11, 0x42) // 125 degrees per second
	near(t, "100 degrees per second at 125", s16(regs(t, s, 10*time.Second, 0x22, 2))*4.375/1000, 100, 1.9)
	set(t, s, 10*time.Second, 0x10, 0x00, 0x00)
	regs(t, s, 10*time.Second, 0x20, 14)
	if got := regs(t, s, time.Hour, 0x1E, 1)[0]; got != 0 {
		t.Errorf("it measures while it is off: status %#x", got)
	}
	set(t, s, 0, 0x12, 0x05)
	if got := regs(t, s, 0, 0x12, 1)[0]; got != 0x04 {
		t.Errorf("CTRL3_C after SW_RESET: %#x", got)
	}
}

func TestChips_RepeatBySeed(t *testing.T) {
	t.Parallel()
	read := func(seed uint64) string {
		s := NewHTS221(seed, fixed(44), fixed(21))
		set(t, s, 0, 0x20, 0x83)
		var all []byte
		for i := range 20 {
			all = append(all, regs(t, s, time.Duration(i)*time.Second, 0xA8, 24)...)
		}
		return string(all)
	}
	if first, again := read(5), read(5); first != again || first == read(6) {
		t.Error("a chip's noise and calibration are not its seed's")
	}
}

// Whatever a firmware writes, a chip stands.
func FuzzChips(f *testing.F) {
	f.Add([]byte{0x20, 0x85, 0xA8, 0, 0x12, 0x05})
	f.Fuzz(func(t *testing.T, data []byte) {
		for _, d := range []i2c.Device{
			NewHTS221(1, fixed(40), fixed(20)), NewLPS22HB(1, fixed(1000), fixed(20)),
			NewLIS3MDL(1, func(time.Duration) environment.Vector { return environment.Vector{1, 2, 3} }, fixed(20)), NewLSM6DSL(1, still, fixed(20)),
		} {
			var at time.Duration
			for i := 0; i+4 < len(data); i += 5 {
				n := min(int(data[i]%8), len(data)-i)
				at += time.Duration(data[i+1]) * 7 * time.Millisecond
				if d.Write(at, data[i:i+n]) != nil || d.Read(at, make([]byte, data[i+2]%32)) != nil {
					t.Fatal("refused")
				}
			}
			d.Write(at, []byte{0x8F})
			id := make([]byte, 1)
			if d.Read(at, id); id[0] == 0 {
				t.Error("no identity")
			}
		}
	})
}
