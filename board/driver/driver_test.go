package driver

import (
	"errors"
	"math"
	"testing"
	"time"

	"github.com/vauban-iot/vauban/board/environment"
	"github.com/vauban-iot/vauban/board/i2c"
	"github.com/vauban-iot/vauban/board/sensor"
)

// table is a chip that is only registers, to compare conversions with the datasheets' examples.
type table map[byte][]byte

func (r table) Transfer(_ uint8, out, in []byte) error {
	if len(in) == 0 {
		return nil
	}
	if out[0] == 0x0F {
		copy(in, r[0x0F])
		return nil
	}
	copy(in, r[out[0]&0x7F])
	return nil
}

func near(t *testing.T, what string, got, want, tolerance float64) {
	t.Helper()
	if math.Abs(got-want) > tolerance || math.IsNaN(got) {
		t.Errorf("%s: %v, want %v ± %v", what, got, want, tolerance)
	}
}

func must[T any](t *testing.T) func(T, error) T {
	return func(v T, err error) T {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		return v
	}
}

func TestConversions_DatasheetsExamples(t *testing.T) {
	t.Parallel()
	one, three := must[float64](t), must[[3]float64](t)

	hts := table{0x0F: {0xBC}, 0x30: {40, 80, 80, 160, 0, 0, 0xA0, 0x0F, 0, 0, 0x70, 0x17, 0x2C, 1, 0xF4, 1}, 0x28: {0x88, 0x13}, 0x2A: {0x90, 0x01}}
	var h HTS221
	if err := h.Open(hts); err != nil {
		t.Fatal(err)
	}
	near(t, "humidity", one(h.Humidity()), 30, 1e-9)
	near(t, "temperature", one(h.Temperature()), 15, 1e-9)
	hts[0x28] = []byte{0xFF, 0x7F}
	near(t, "humidity is at most 100", one(h.Humidity()), 100, 0)
	hts[0x30] = make([]byte, 16)
	if h.Open(hts) == nil {
		t.Error("a chip without calibration was taken")
	}

	lps := table{0x0F: {0xB1}, 0x28: {0x8D, 0xF5, 0x3F}, 0x2B: {0x9C, 0xFF}}
	var p LPS22HB
	if err := p.Open(lps); err != nil {
		t.Fatal(err)
	}
	near(t, "pressure", one(p.Pressure()), 1023.347, 0.001)
	near(t, "temperature", one(p.Temperature()), -1, 1e-9)

	lis := table{0x0F: {0x3D}, 0x28: {0xBA, 0x1A, 0x46, 0xE5, 0, 0}} // ±6842
	var m LIS3MDL
	if err := m.Open(lis); err != nil {
		t.Fatal(err)
	}
	f := three(m.Field())
	near(t, "field x", f[0], 1000, 1e-9)
	near(t, "field y", f[1], -1000, 1e-9)

	lsm := table{0x0F: {0x6A}, 0x28: {0x69, 0x16, 0x97, 0xE9, 0x09, 0x40}, 0x22: {0xE8, 0x03, 0x18, 0xFC, 0, 0}, 0x20: {0, 1}}
	var a LSM6DSL
	if err := a.Open(lsm); err != nil {
		t.Fatal(err)
	}
	g := three(a.Acceleration())
	near(t, "acceleration x", g[0], 350, 0.05)
	near(t, "acceleration y", g[1], -350, 0.05)
	near(t, "acceleration z", g[2], 1000, 0.05)
	r := three(a.Rotation())
	near(t, "rotation x", r[0], 70_000, 1e-6)
	near(t, "rotation y", r[1], -70_000, 1e-6)
	near(t, "temperature", one(a.Temperature()), 26, 1e-9)
}

type clock struct{ now time.Duration }

func (c *clock) Uptime() time.Duration { return c.now }
func (c *clock) Busy(d time.Duration)  { c.now += d }

func TestDrivers_TellWhatTheWorldIs(t *testing.T) { // not parallel: it counts allocations
	epoch := time.Date(2026, 6, 1, 0, 0, 0, 0, time.UTC)
	for seed := range uint64(20) {
		place := environment.NewPlace(environment.NewSite(1, environment.Temperate()), seed, 0)
		cpu := &clock{}
		bus, err := i2c.New(cpu, 400_000)
		if err != nil {
			t.Fatal(err)
		}
		temperature := func(now time.Duration) float64 { return place.Temperature(epoch.Add(now)) }
		for address, d := range map[uint8]i2c.Device{
			sensor.HTS221Address:  sensor.NewHTS221(seed, func(now time.Duration) float64 { return place.Humidity(epoch.Add(now)) }, temperature),
			sensor.LPS22HBAddress: sensor.NewLPS22HB(seed, func(now time.Duration) float64 { return place.Pressure(epoch.Add(now)) }, temperature),
			sensor.LIS3MDLAddress: sensor.NewLIS3MDL(seed, func(now time.Duration) environment.Vector { return place.Motion(epoch.Add(now)).Magnetic }, temperature),
			sensor.LSM6DSLAddress: sensor.NewLSM6DSL(seed, func(now time.Duration) environment.Motion { return place.Motion(epoch.Add(now)) }, temperature),
		} {
			if err := bus.Attach(address, d); err != nil {
				t.Fatal(err)
			}
		}
		var h HTS221
		var p LPS22HB
		var m LIS3MDL
		var a LSM6DSL
		if err := errors.Join(h.Open(bus), p.Open(bus), m.Open(bus), a.Open(bus)); err != nil {
			t.Fatal(err)
		}
		one, three := must[float64](t), must[[3]float64](t)
		for range 24 {
			cpu.now += time.Hour
			at := epoch.Add(cpu.now)
			if ready, err := h.Ready(); !ready || err != nil {
				t.Fatal("no sample within an hour", err)
			}
			near(t, "humidity", one(h.Humidity()), place.Humidity(at), 3.5) // the datasheets' accuracies
			near(t, "temperature", one(h.Temperature()), place.Temperature(at), 0.5)
			near(t, "pressure", one(p.Pressure()), place.Pressure(at), 1)
			near(t, "barometer's temperature", one(p.Temperature()), place.Temperature(at), 1.5)
			motion := place.Motion(at)
			field, g, turn := three(m.Field()), three(a.Acceleration()), three(a.Rotation())
			for i := range 3 {
				near(t, "field", field[i], motion.Magnetic[i], 40)
				near(t, "acceleration", g[i], 1000*motion.Acceleration[i], 40)
				near(t, "rotation", turn[i], 1000*motion.Rotation[i], 3000)
			}
		}
		if n := testing.AllocsPerRun(10, func() {
			h.Humidity()
			p.Pressure()
			m.Field()
			a.Rotation()
		}); n != 0 {
			t.Errorf("reading all sensors allocates %v times", n)
		}
	}
}

func TestDrivers_SayWhatIsWrong(t *testing.T) {
	t.Parallel()
	bus, err := i2c.New(&clock{}, 400_000)
	if err != nil {
		t.Fatal(err)
	}
	for name, open := range map[string]func(Bus) error{
		"hts221": new(HTS221).Open, "lps22hb": new(LPS22HB).Open, "lis3mdl": new(LIS3MDL).Open, "lsm6dsl": new(LSM6DSL).Open,
	} {
		if err := open(bus); !errors.Is(err, i2c.ErrNoAcknowledge) {
			t.Errorf("%s on an empty bus: %v", name, err)
		}
		if err := open(table{0x0F: {0x42}}); !errors.Is(err, ErrWrongChip) {
			t.Errorf("another chip than a %s: %v", name, err)
		}
	}
}
