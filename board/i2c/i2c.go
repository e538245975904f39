// Package i2c is a bus between a board's processor and its chips: transfers take the time that the clock line needs,
// an address at which nobody answers is told as one, and a bus can be broken.
package i2c

import (
	"errors"
	"fmt"
	"time"
)

// ErrNoAcknowledge is returned for an address that no device answers, or when a device does not take a byte. Look at
// the address, and at whether the device has power.
var ErrNoAcknowledge = errors.New("i2c: no acknowledge")

// ErrBus is returned while the bus is stuck, as by a device that holds the data line low. A bus is freed by Recover.
var ErrBus = errors.New("i2c: the bus is stuck")

// Device is a chip on the bus. now is the board's uptime when the transfer begins.
type Device interface {
	Write(now time.Duration, data []byte) error // what follows the address in a write
	Read(now time.Duration, data []byte) error  // fills data
}

// Processor is what a transfer takes time from.
type Processor interface {
	Uptime() time.Duration
	Busy(d time.Duration) // the caller waits for d, as a driver does that polls
}

// Fault makes transfers fail, for tests and for fleets with broken boards. It is asked at each transfer, and answers nil for a good one.
type Fault func(address uint8, now time.Duration) error

// Bus is an I2C bus of one controller. It is used by one thread at a time: firmware with several guards it by a mutex.
type Bus struct {
	cpu     Processor
	hz      uint32
	devices []attached // few: a table of all addresses would be most of a board
	fault   Fault
	stuck   bool
	count   Count
}

// Count is what happened on a bus.
type Count struct {
	Transfers, Bytes, Refused uint64 // Refused: without acknowledge, or on a stuck bus
}

// New makes a bus whose clock line has hz: 100,000 and 400,000 are usual.
func New(cpu Processor, hz uint32) (*Bus, error) {
	if hz < 1000 || hz > 1_000_000 {
		return nil, fmt.Errorf("i2c: a clock of %d Hz: between 1 kHz and 1 MHz is possible", hz)
	}
	return &Bus{cpu: cpu, hz: hz}, nil
}

// Attach puts a device at a 7-bit address.
func (b *Bus) Attach(address uint8, d Device) error {
	if address < 0x08 || address > 0x77 {
		return fmt.Errorf("i2c: address %#02x: devices have addresses from 0x08 to 0x77", address)
	}
	if b.at(address) != nil {
		return fmt.Errorf("i2c: there is a device at address %#02x already", address)
	}
	b.devices = append(b.devices, attached{address, d})
	return nil
}

// attached is a device at its address.
type attached struct {
	address uint8
	device  Device
}

// at is the device at an address; nil: there is none.
func (b *Bus) at(address uint8) Device {
	for _, x := range b.devices {
		if x.address == address {
			return x.device
		}
	}
	return nil
}

// Break makes transfers fail as f says; nil ends it.
func (b *Bus) Break(f Fault) { b.fault = f }

// Recover frees a stuck bus by nine pulses of the clock line.
func (b *Bus) Recover() {
	b.cpu.Busy(b.bits(9))
	b.stuck = false
}

// Count is what happened since the bus was made.
func (b *Bus) Count() Count { return b.count }

func (b *Bus) bits(n int) time.Duration { return time.Duration(n) * time.Second / time.Duration(b.hz) }

// Transfer writes out, and then, after a repeated start, fills in. Either may be empty; with both empty the device is
// only addressed. It takes nine clocks for each byte and address, and two for start and stop.
func (b *Bus) Transfer(address uint8, out, in []byte) error {
	b.count.Transfers++
	now := b.cpu.Uptime()
	if b.stuck {
		b.count.Refused++
		return ErrBus
	}
	if b.fault != nil {
		if err := b.fault(address, now); err != nil {
			b.stuck = errors.Is(err, ErrBus)
			b.count.Refused++
			b.cpu.Busy(b.bits(11))
			return err
		}
	}
	d := b.at(address)
	if d == nil {
		b.count.Refused++
		b.cpu.Busy(b.bits(11))
		return fmt.Errorf("%w from address %#02x", ErrNoAcknowledge, address)
	}
	bits := 2
	if len(out) != 0 || len(in) == 0 {
		bits += 9 + 9*len(out)
	}
	if len(in) != 0 {
		bits += 10 + 9*len(in)
	}
	b.count.Bytes += uint64(len(out) + len(in))
	b.cpu.Busy(b.bits(bits))
	if len(out) != 0 {
		if err := d.Write(now, out); err != nil {
			b.count.Refused++
			return err
		}
	}
	if len(in) != 0 {
		if err := d.Read(now, in); err != nil {
			b.count.Refused++
			return err
		}
	}
	return nil
}
