// Package stm32l475 is ST's discovery kit B-L475E-IOT01A as a virtual board: an STM32L475VG with 1 MB of flash and
// 96 + 32 KB of RAM at 80 MHz, its pins, a console on USART1, four sensors on I2C2, 8 MB of flash on QSPI, random
// numbers, a real-time clock and an independent watchdog. The kernel's rooms say how it runs (board, rtos).
//
// Peripherals are modelled as a driver library sees them, the sensors register by register. Timings and currents are typical
// values of ST's datasheets; nothing was compared with a board on a desk. docs/board.md says what is not modelled.
package stm32l475

import (
	"encoding/binary"
	"fmt"
	"time"

	"github.com/vauban-iot/vauban/board"
	"github.com/vauban-iot/vauban/board/chance"
	"github.com/vauban-iot/vauban/board/environment"
	"github.com/vauban-iot/vauban/board/flash"
	"github.com/vauban-iot/vauban/board/i2c"
	"github.com/vauban-iot/vauban/board/sensor"
)

// ClockHz is the core clock that the board's firmware sets.
const ClockHz = 80_000_000

// Profile is the board's model.
func Profile() board.Profile {
	return board.Profile{
		Name:           "B-L475E-IOT01A",
		ClockHz:        ClockHz,
		TicksPerSecond: 100,
		RAM:            []board.Memory{{Name: "sram1", Bytes: 96 << 10}, {Name: "sram2", Bytes: 32 << 10}},
		Flash:          1 << 20,
		KernelFlash:    64 << 10,
		Boot:           2 * time.Millisecond,
		// Run at 100 µA for each MHz, Sleep, Stop 2 and Standby with the RTC running.
		Power: board.Currents{board.Run: 8000, board.Sleep: 2900, board.Stop: 1.4, board.Standby: 0.42},
	}
}

// Config describes one board.
type Config struct {
	Board board.Config // Profile: zero means the whole one of this room

	Place *environment.Place // where it is; nil: a place of its own, in a temperate building

	RealEntropy bool    // random numbers come from the machine instead of Seed: needed for keys, and runs do not repeat
	DriftPPM    float64 // by how many millionths the real-time clock is fast
	Fault       i2c.Fault

	Console func(data []byte) // what the firmware sends on USART1; the slice is the board's. nil: nobody reads
}

// Board is a B-L475E-IOT01A.
type Board struct {
	*board.Board
	GPIO     *GPIO
	Console  *UART
	I2C      *i2c.Bus // I2C2, with the sensors
	RNG      *RNG
	RTC      *RTC
	Watchdog *Watchdog
	Internal *flash.Chip // the second half of the processor's flash is free for data
	QSPI     *flash.Chip

	HTS221  *sensor.HTS221
	LPS22HB *sensor.LPS22HB
	LIS3MDL *sensor.LIS3MDL
	LSM6DSL *sensor.LSM6DSL

	place *environment.Place
	id    [12]byte
}

// New makes a board. It reports what is wrong with cfg.
func New(cfg Config) (*Board, error) {
	if cfg.Board.Profile.Name == "" {
		cfg.Board.Profile = Profile()
	}
	if cfg.DriftPPM < -1000 || cfg.DriftPPM > 1000 {
		return nil, fmt.Errorf("stm32l475: DriftPPM: %v is more than a crystal can be off: at most 1000 millionths", cfg.DriftPPM)
	}
	base, err := board.New(cfg.Board)
	if err != nil {
		return nil, err
	}
	seed := cfg.Board.Seed
	b := &Board{Board: base, place: cfg.Place}
	if b.place == nil {
		b.place = environment.NewPlace(environment.NewSite(seed, environment.Temperate()), seed, 0.05)
	}
	binary.LittleEndian.PutUint64(b.id[:], chance.Seed(seed, "id"))
	binary.LittleEndian.PutUint32(b.id[8:], uint32(chance.Seed(seed, "id high")))

	b.GPIO = newGPIO(base)
	b.Console = newUART(base, 115200, cfg.Console)
	b.RNG = newRNG(base, seed, cfg.RealEntropy)
	b.RTC = newRTC(base, cfg.DriftPPM)
	b.Watchdog = newWatchdog(base, seed)
	if b.I2C, err = i2c.New(base, 400_000); err != nil {
		return nil, err
	}
	b.I2C.Break(cfg.Fault)
	if b.Internal, err = flash.New(flash.STM32L4(), chance.Seed(seed, "flash"), base); err != nil {
		return nil, err
	}
	if b.QSPI, err = flash.New(flash.MX25R6435F(), chance.Seed(seed, "qspi"), base); err != nil {
		return nil, err
	}

	at := func(now time.Duration) time.Time { return b.Config().Epoch.Add(now) }
	temperature := func(now time.Duration) float64 { return b.place.Temperature(at(now)) }
	b.HTS221 = sensor.NewHTS221(chance.Seed(seed, "hts221"), func(now time.Duration) float64 { return b.place.Humidity(at(now)) }, temperature)
	b.LPS22HB = sensor.NewLPS22HB(chance.Seed(seed, "lps22hb"), func(now time.Duration) float64 { return b.place.Pressure(at(now)) }, temperature)
	b.LIS3MDL = sensor.NewLIS3MDL(chance.Seed(seed, "lis3mdl"), func(now time.Duration) environment.Vector { return b.place.Motion(at(now)).Magnetic }, temperature)
	b.LSM6DSL = sensor.NewLSM6DSL(chance.Seed(seed, "lsm6dsl"), func(now time.Duration) environment.Motion { return b.place.Motion(at(now)) }, temperature)
	for _, d := range [...]struct {
		address uint8
		device  i2c.Device
	}{{sensor.HTS221Address, b.HTS221}, {sensor.LPS22HBAddress, b.LPS22HB}, {sensor.LIS3MDLAddress, b.LIS3MDL}, {sensor.LSM6DSLAddress, b.LSM6DSL}} {
		if err := b.I2C.Attach(d.address, d.device); err != nil {
			return nil, err
		}
	}
	return b, base.OnReset(b.reset)
}

// reset gives peripherals their first values. Sensors lose theirs only with the power.
func (b *Board) reset() {
	b.GPIO.reset()
	b.Console.reset()
	b.RTC.reset()
	b.Watchdog.reset()
	b.Internal.Restore() // a reset ends what its flash is doing
	if r := b.Reason(); r != board.PowerOnReset && r != board.BrownoutReset {
		b.QSPI.Finish()
	} else {
		b.QSPI.Restore()
		b.HTS221.Reset()
		b.LPS22HB.Reset()
		b.LIS3MDL.Reset()
		b.LSM6DSL.Reset()
	}
}

// UniqueID are the 96 bits that no other chip has.
func (b *Board) UniqueID() [12]byte { return b.id }

// Place is where the board is.
func (b *Board) Place() *environment.Place { return b.place }
