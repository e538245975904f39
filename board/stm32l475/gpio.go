package stm32l475

import (
	"fmt"

	"github.com/vauban-iot/vauban/board"
)

// Pin is a pin of the processor.
type Pin uint8

// Ports of the STM32L475VG. Port H has two pins.
const (
	PA0 Pin = 16 * iota
	PB0
	PC0
	PD0
	PE0
	PF0 // does not exist in this package of the chip
	PG0 // neither
	PH0
	pins
)

// Pins with a duty on this board.
const (
	LED1   = PA0 + 5  // on when high; also SPI1's clock on the Arduino connector
	LED2   = PB0 + 14 // green, on when high: the one of setLedState
	Button = PC0 + 13 // user button B2, low while it is pressed
)

func (p Pin) String() string { return fmt.Sprintf("P%c%d", 'A'+p/16, p%16) }

func (p Pin) exists() bool {
	switch port := p / 16 * 16; port {
	case PF0, PG0:
		return false
	case PH0:
		return p%16 < 2
	}
	return p < pins
}

// Mode is what a pin does.
type Mode uint8

// Modes of pins. After a reset pins are Analog: nothing.
const (
	Analog Mode = iota
	Input
	Output
	OpenDrain // pulls down, or lets go
	Alternate // belongs to a peripheral
)

// Pull is the resistor of a pin.
type Pull uint8

// Resistors.
const (
	NoPull Pull = iota
	PullUp
	PullDown
)

// Edge is a change of level that interrupts.
type Edge uint8

// Edges, which may be added.
const (
	Rising Edge = 1 << iota
	Falling
)

type pin struct {
	mode  Mode
	pull  Pull
	out   bool
	drive drive // from outside
	last  bool
}

type drive uint8

const (
	floating drive = iota
	low
	high
)

const maxWatchers = 32

// GPIO is the board's pins, and the interrupts that they cause.
type GPIO struct {
	board    *board.Board
	pins     [pins]pin
	lines    *[16]line // nil until the firmware wants an interrupt
	watchers []watcher
}

// line is one of the 16 that cause interrupts: pins of one number share it.
type line struct {
	pin   Pin
	edges Edge
	isr   func()
}

type watcher struct {
	pin Pin
	f   func(high bool)
}

func newGPIO(b *board.Board) *GPIO {
	g := &GPIO{board: b}
	g.pins[Button].drive = high // the board has a resistor there
	return g
}

func (g *GPIO) reset() {
	g.lines = nil
	for i := range g.pins {
		p := &g.pins[i]
		p.mode, p.pull, p.out = Analog, NoPull, false
		g.settle(Pin(i))
	}
}

// Configure says what a pin does.
func (g *GPIO) Configure(p Pin, m Mode, r Pull) error {
	if !p.exists() {
		return fmt.Errorf("gpio: this chip has no pin %v", p)
	}
	if m > Alternate || r > PullDown {
		return fmt.Errorf("gpio: %v: unknown mode %d or resistor %d", p, m, r)
	}
	g.pins[p].mode, g.pins[p].pull = m, r
	g.settle(p)
	return nil
}

// level is what a voltmeter would say: high when more than half.
func (g *GPIO) level(n Pin) bool {
	p := &g.pins[n]
	switch {
	case p.mode == Output:
		return p.out
	case p.mode == OpenDrain && !p.out:
		return false
	case p.drive != floating:
		return p.drive == high
	}
	return p.pull == PullUp
}

// settle tells who listens when a pin changed.
func (g *GPIO) settle(n Pin) {
	p := &g.pins[n]
	now := g.level(n)
	if now == p.last {
		return
	}
	p.last = now
	if n == LED1 || n == LED2 {
		microamps := 0.0
		if now {
			microamps = 2000
		}
		_ = g.board.Draw("led "+n.String(), microamps) // the loads of pins are few
	}
	for _, w := range g.watchers {
		if w.pin == n {
			w.f(now)
		}
	}
	if g.lines == nil {
		return
	}
	l := &g.lines[n%16]
	edge := Falling
	if now {
		edge = Rising
	}
	if l.isr != nil && l.pin == n && l.edges&edge != 0 && p.mode == Input {
		l.isr()
	}
}

// Write sets an output.
func (g *GPIO) Write(p Pin, high bool) error {
	if p >= pins || g.pins[p].mode != Output && g.pins[p].mode != OpenDrain {
		return fmt.Errorf("gpio: %v is not an output: Configure it first", p)
	}
	g.pins[p].out = high
	g.settle(p)
	return nil
}

// Toggle turns an output over.
func (g *GPIO) Toggle(p Pin) error { return g.Write(p, p < pins && !g.pins[p].out) }

// Read is what a pin's input says. An analog pin reads low.
func (g *GPIO) Read(p Pin) bool { return p < pins && g.pins[p].mode != Analog && g.level(p) }

// Interrupt registers isr for edges of an input, in the place of what the line had; no edges end it. Pins of one number
// share a line: another one's is refused.
func (g *GPIO) Interrupt(p Pin, edges Edge, isr func()) error {
	if !p.exists() || g.pins[p].mode != Input {
		return fmt.Errorf("gpio: %v is not an input: Configure it first", p)
	}
	if g.lines == nil {
		g.lines = new([16]line)
	}
	l := &g.lines[p%16]
	if l.isr != nil && l.pin != p {
		return fmt.Errorf("gpio: interrupt line %d belongs to %v: %v cannot have it as well", p%16, l.pin, p)
	}
	if edges == 0 || isr == nil {
		*l = line{}
		return nil
	}
	*l = line{p, edges, isr}
	return nil
}

// Drive puts a level on a pin from outside. It is to be called as an interrupt is: by Board.At, Post, or between runs.
func (g *GPIO) Drive(p Pin, level bool) error {
	if !p.exists() {
		return fmt.Errorf("gpio: this chip has no pin %v", p)
	}
	g.pins[p].drive = low
	if level {
		g.pins[p].drive = high
	}
	g.settle(p)
	return nil
}

// Release ends Drive.
func (g *GPIO) Release(p Pin) error {
	if !p.exists() {
		return fmt.Errorf("gpio: this chip has no pin %v", p)
	}
	g.pins[p].drive = floating
	g.settle(p)
	return nil
}

// Level is what a pin's voltage is, whatever its mode: whether an LED is on.
func (g *GPIO) Level(p Pin) bool { return p < pins && g.level(p) }

// Watch tells f of each change of a pin, for who looks at the board. At most 32 watch.
func (g *GPIO) Watch(p Pin, f func(high bool)) error {
	if !p.exists() {
		return fmt.Errorf("gpio: this chip has no pin %v", p)
	}
	if len(g.watchers) == maxWatchers {
		return fmt.Errorf("gpio: %d watch already", maxWatchers)
	}
	g.watchers = append(g.watchers, watcher{p, f})
	return nil
}

// Press holds the user button down, or lets it go. It is to be called as Drive is.
func (g *GPIO) Press(down bool) error { return g.Drive(Button, !down) }
