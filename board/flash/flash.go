// Package flash is NOR flash memory as it behaves: erased a page at a time to ones, programmed from ones to zeros only,
// worn out by erasing, and left half done when the power goes in the middle.
package flash

import (
	"errors"
	"fmt"
	"time"

	"github.com/vauban-iot/vauban/board/chance"
)

// ErrPower is returned from the moment that the power went until Restore.
var ErrPower = errors.New("flash: the power is gone")

// ErrNotErased is returned for programming what was programmed before: erase the page first.
var ErrNotErased = errors.New("flash: programmed already")

// Geometry describes a part.
type Geometry struct {
	Name      string
	Size      uint32 // bytes
	Page      uint32 // bytes erased together
	Word      uint32 // bytes programmed at least, at their own alignment
	Burst     uint32 // bytes programmed by one command at most, within one aligned burst
	Once      bool   // a word is programmed once, and then only to zeros (it has a checksum of its own)
	Endurance uint32 // erases that a page survives for sure
	Erase     time.Duration
	Program   time.Duration // of a command
	ReadByte  time.Duration
}

// STM32L4 is the flash of the processor.
func STM32L4() Geometry {
	return Geometry{Name: "STM32L475 internal", Size: 1 << 20, Page: 2048, Word: 8, Burst: 8, Once: true, Endurance: 10_000,
		Erase: 22 * time.Millisecond, Program: 82 * time.Microsecond, ReadByte: 6 * time.Nanosecond}
}

// MX25R6435F is the flash on QSPI.
func MX25R6435F() Geometry {
	return Geometry{Name: "MX25R6435F", Size: 8 << 20, Page: 4096, Word: 1, Burst: 256, Endurance: 100_000,
		Erase: 40 * time.Millisecond, Program: 850 * time.Microsecond, ReadByte: 25 * time.Nanosecond}
}

func (g *Geometry) check() error {
	pow := func(n uint32) bool { return n != 0 && n&(n-1) == 0 }
	switch {
	case !pow(g.Page) || !pow(g.Word) || !pow(g.Burst):
		return fmt.Errorf("flash: %s: page, word and burst are powers of two", g.Name)
	case g.Word > g.Burst || g.Burst > g.Page || g.Size == 0 || g.Size%g.Page != 0:
		return fmt.Errorf("flash: %s: a word fits a burst, a burst a page, and pages the whole", g.Name)
	case g.Endurance == 0:
		return fmt.Errorf("flash: %s: an endurance is needed", g.Name)
	}
	return nil
}

// ErrBusy is returned while a command of somebody else is under way: a driver with several threads guards the chip by a
// mutex.
var ErrBusy = errors.New("flash: a command is under way")

// Processor is what erasing and programming takes time from.
type Processor interface {
	Uptime() time.Duration
	Busy(d time.Duration)
}

// command is under way: its effect comes at its end, or, when the power goes before, half.
type command struct {
	erase bool
	page  uint32
	at    uint32 // within the page
	data  []byte // to be programmed
	until time.Duration
}

// page is kept only when it was ever erased or programmed: a new chip takes no memory.
type page struct {
	data   []byte
	erases uint32
	stuck  []uint32 // bits that stay zero: the page is worn out
	due    uint32   // bits that its next erase costs, by what Wear made of it
}

// Chip is a flash chip. Its contents and wear outlive resets of its board.
type Chip struct {
	g     Geometry
	seed  uint64
	cpu   Processor
	pages map[uint32]*page
	steps uint64
	cut   uint64 // the step in which the power goes; zero: never
	onCut func()
	off   bool
	now   command
	busy  bool // now is under way
}

// New makes a new chip, erased. cpu may be nil: nothing takes time then.
func New(g Geometry, seed uint64, cpu Processor) (*Chip, error) {
	if err := g.check(); err != nil {
		return nil, err
	}
	return &Chip{g: g, seed: seed, cpu: cpu}, nil
}

// Geometry describes the chip.
func (c *Chip) Geometry() Geometry { return c.g }

// Pages is how many there are.
func (c *Chip) Pages() uint32 { return c.g.Size / c.g.Page }

// Erases says how often a page was erased.
func (c *Chip) Erases(n uint32) uint32 {
	if p := c.pages[n]; p != nil {
		return p.erases
	}
	return 0
}

// Steps counts the commands that erased or programmed.
func (c *Chip) Steps() uint64 { return c.steps }

// CutAt lets the power go in the middle of the n-th step from now, 1 being the next; told, if not nil, is called then (a board
// browns out). Zero takes it back.
func (c *Chip) CutAt(n uint64, told func()) {
	c.cut, c.onCut = 0, told
	if n != 0 {
		c.cut = c.steps + n
	}
}

// Restore brings the power back. A command that was under way when it went, as when the board was reset in the middle of it,
// is half done.
func (c *Chip) Restore() {
	c.off, c.cut = false, 0
	if c.busy {
		c.busy = false
		c.apply(c.now, true)
	}
}

// Finish lets a command that is under way come to its end, as a chip does whose processor is reset but which keeps its power.
func (c *Chip) Finish() {
	if c.busy {
		c.busy = false
		c.apply(c.now, false)
	}
}

// ready reports why the chip takes no command.
func (c *Chip) ready() error {
	if c.off {
		return ErrPower
	}
	if c.busy && c.cpu.Uptime() < c.now.until {
		return ErrBusy
	}
	c.Finish() // its caller was ended before it heard of it
	return nil
}

// do carries out a command, which takes its time.
func (c *Chip) do(x command, takes time.Duration) error {
	c.steps++
	cut := c.steps == c.cut
	if c.cpu != nil {
		x.until = c.cpu.Uptime() + takes
		c.now, c.busy = x, true
		c.cpu.Busy(takes)
		c.busy = false
	}
	c.apply(x, cut)
	if !cut {
		return nil
	}
	c.off = true
	if c.onCut != nil {
		c.onCut()
	}
	return ErrPower
}

// apply is what a command does to the chip; half of it when the power goes.
func (c *Chip) apply(x command, half bool) {
	p := c.page(x.page)
	defer p.stick()
	if !x.erase {
		into := p.data[x.at:][:len(x.data)]
		for i, v := range x.data {
			if half {
				v |= c.partial(uint64(i), len(x.data))
			}
			into[i] &= v
		}
		return
	}
	p.erases++
	for i := range p.data {
		if half {
			p.data[i] |= c.erased(uint64(i))
		} else {
			p.data[i] = 0xFF
		}
	}
	for ; p.due > 0; p.due-- {
		c.wearOut(p, chance.Seed(c.seed+uint64(x.page)<<32+uint64(p.erases)+uint64(p.due), "worn"))
	}
	if p.erases > c.g.Endurance {
		// Beyond its endurance each further tenth of it costs a page another bit, on the average.
		odds := chance.Seed(c.seed+uint64(x.page)<<32+uint64(p.erases), "wear")
		if odds%uint64(c.costs()) == 0 {
			c.wearOut(p, odds)
		}
	}
}

// costs is how many erases beyond its endurance cost a page a bit, on the average.
func (c *Chip) costs() uint32 { return max(c.g.Endurance/10, 1) }

// maxStuck bounds the bits of a page that are told apart; by then nothing can be written there.
const maxStuck = 64

func (c *Chip) wearOut(p *page, odds uint64) {
	if len(p.stuck) < maxStuck {
		p.stuck = append(p.stuck, uint32(odds>>32)%(c.g.Page*8))
	}
}

func (c *Chip) inside(address uint32, n int) error {
	if uint64(address)+uint64(n) > uint64(c.g.Size) {
		return fmt.Errorf("flash: %d bytes at %#x are beyond the chip's %d", n, address, c.g.Size)
	}
	return nil
}

func (c *Chip) page(n uint32) *page {
	p := c.pages[n]
	if p == nil {
		p = &page{data: make([]byte, c.g.Page)}
		for i := range p.data {
			p.data[i] = 0xFF
		}
		if c.pages == nil {
			c.pages = make(map[uint32]*page)
		}
		c.pages[n] = p
	}
	return p
}

// Read fills p from an address on.
func (c *Chip) Read(address uint32, p []byte) error {
	if err := errors.Join(c.ready(), c.inside(address, len(p))); err != nil {
		return err
	}
	if c.cpu != nil {
		c.cpu.Busy(time.Duration(len(p)) * c.g.ReadByte)
	}
	for len(p) > 0 {
		at := address % c.g.Page
		n := min(len(p), int(c.g.Page-at))
		if pg := c.pages[address/c.g.Page]; pg != nil {
			copy(p[:n], pg.data[at:])
		} else {
			for i := range p[:n] {
				p[i] = 0xFF
			}
		}
		p = p[n:]
		address += uint32(n)
	}
	return nil
}

// Program writes p at an address, in words: bits go from one to zero, and none back. Where the chip does not allow a
// second programming it is refused with ErrNotErased before anything happened; elsewhere what results is both together.
func (c *Chip) Program(address uint32, p []byte) error {
	if err := errors.Join(c.ready(), c.inside(address, len(p))); err != nil {
		return err
	}
	if address%c.g.Word != 0 || uint32(len(p))%c.g.Word != 0 {
		return fmt.Errorf("flash: %d bytes at %#x are not whole words of %d", len(p), address, c.g.Word)
	}
	if c.g.Once {
		if err := c.fresh(address, p); err != nil {
			return err
		}
	}
	for len(p) > 0 {
		n := min(len(p), int(c.g.Burst-address%c.g.Burst))
		if err := c.do(command{page: address / c.g.Page, at: address % c.g.Page, data: p[:n]}, c.g.Program); err != nil {
			return err
		}
		p = p[n:]
		address += uint32(n)
	}
	return nil
}

func (c *Chip) fresh(address uint32, p []byte) error {
	word := int(c.g.Word)
	for i := 0; i < len(p); i += word {
		zeros, erased := true, true
		pg := c.pages[(address+uint32(i))/c.g.Page]
		for j := range word {
			zeros = zeros && p[i+j] == 0
			erased = erased && (pg == nil || pg.data[(address+uint32(i+j))%c.g.Page] == 0xFF)
		}
		if !zeros && !erased {
			return fmt.Errorf("%w: word at %#x", ErrNotErased, address+uint32(i))
		}
	}
	return nil
}

// partial are the bits of byte i of a command of n bytes that were not programmed yet when the power went: all of them, none, or
// none before a certain byte and all after it.
func (c *Chip) partial(i uint64, n int) byte {
	odds := chance.Seed(c.seed+c.steps, "program")
	switch odds >> 48 % 4 {
	case 0:
		return 0xFF
	case 1:
		return 0
	}
	switch last := odds % uint64(n); {
	case i < last:
		return 0
	case i > last:
		return 0xFF
	}
	return byte(odds >> 32)
}

// erased are the bits of byte i of a page that were erased when the power went: none, all, any, or those of a stretch of the page.
func (c *Chip) erased(i uint64) byte {
	odds := chance.Seed(c.seed+c.steps, "erase")
	switch odds >> 48 % 4 {
	case 0:
		return 0
	case 1:
		return 0xFF
	case 2:
		return byte(chance.Seed(odds, "bits") >> (i % 8 * 8) * (i | 1))
	}
	if from := odds % uint64(c.g.Page); i >= from && i < from+odds>>32%uint64(c.g.Page) {
		return 0xFF
	}
	return 0
}

// Erase sets the bits of a page to one.
func (c *Chip) Erase(n uint32) error {
	if n >= c.Pages() {
		return fmt.Errorf("flash: there is no page %d: the chip has %d", n, c.Pages())
	}
	if err := c.ready(); err != nil {
		return err
	}
	return c.do(command{erase: true, page: n}, c.g.Erase)
}

func (p *page) stick() {
	for _, bit := range p.stuck {
		p.data[bit/8] &^= 1 << (bit % 8)
	}
}

// Wear makes a page as if it had been erased so often, for boards that are not new. The bits that this cost it stick from its next erase on.
func (c *Chip) Wear(n, erases uint32) error {
	if n >= c.Pages() {
		return fmt.Errorf("flash: there is no page %d: the chip has %d", n, c.Pages())
	}
	p := c.page(n)
	if from := max(p.erases, c.g.Endurance); erases > from {
		p.due = min(p.due+(erases-from)/c.costs(), maxStuck)
	}
	p.erases = erases
	return nil
}
