// Package wear makes logical sectors of 512 bytes of a NOR flash, so that a file system can write them over and over: each
// write goes to a fresh place, pages wear evenly, and a power loss at any moment leaves each sector as it was before a
// write or as it is after it (as LevelX does, rtos §23; the layout is our own).
//
// A page of the flash is a header and sectors. The header has the page's mark, how often it was erased, and an entry for each
// sector: which logical sector it holds, a sequence number and checksums, a mark that the write is complete, and one
// that it is obsolete. Bits only go from one to zero, so every step of a write is one that the flash can do.
package wear

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"math"

	"github.com/vauban-iot/vauban/board/flash"
)

// SectorSize is that of a logical sector, in bytes.
const SectorSize = 512

// ErrWorn is returned when too many pages are worn out to go on writing. What is there can still be read.
var ErrWorn = errors.New("wear: too many pages of the flash are worn out")

// ErrCorrupt is returned for a sector whose bits changed after it was written.
var ErrCorrupt = errors.New("wear: a sector does not match its checksum")

// ErrNotFormatted is returned by Mount for a flash without this layout.
var ErrNotFormatted = errors.New("wear: the flash is not formatted")

// Flash is what a volume needs of a chip (flash.Chip).
type Flash interface {
	Geometry() flash.Geometry
	Read(address uint32, p []byte) error
	Program(address uint32, p []byte) error
	Erase(page uint32) error
}

const (
	headSize  = 32 // bytes of a page's own header
	entrySize = 32 // bytes of each sector's entry
	magic     = 0x31544C57
	// The header's words of 8 bytes: magic and its complement, erases and a checksum, sectors in all and a checksum.
	// An entry's: logical sector and sequence, checksums of the data and of the entry, complete, obsolete.

	unmapped = math.MaxUint32
	spread   = 32 // erases between the most and the least worn page before what lies still is moved
)

type page struct {
	erases uint32
	used   uint16 // entries that were begun
	live   uint16 // entries that hold what is current
	state  pageState
}

type pageState uint8

const (
	dirty pageState = iota // to be erased before use
	free
	open // entries are left
	full
	worn // it does not erase any more, or holds what cannot be read
)

// Volume is a mounted flash. It is used by one thread at a time.
type Volume struct {
	chip     Flash
	first    uint32 // page
	pages    []page
	per      uint32 // sectors of a page
	pageSize uint32
	where    []uint32 // physical place of each logical sector: page*per+slot, or unmapped
	sequence uint32
	current  int // the page that is written; -1: none
	buf      [SectorSize]byte
	head     []byte
}

func layout(chip Flash, first, n uint32) (*Volume, error) {
	g := chip.Geometry()
	per := g.Page/SectorSize - 1
	switch {
	case g.Page%SectorSize != 0 || g.Page < 2*SectorSize || headSize+per*entrySize > SectorSize:
		return nil, fmt.Errorf("wear: %s: pages of %d bytes: 1 to 8 KB are possible", g.Name, g.Page)
	case entrySize/4%g.Word != 0:
		return nil, fmt.Errorf("wear: %s: words of %d bytes: up to 8 are possible", g.Name, g.Word)
	case n < 8 || uint64(first)+uint64(n) > uint64(g.Size/g.Page):
		return nil, fmt.Errorf("wear: %s: pages %d to %d: at least 8 that the chip has are needed", g.Name, first, uint64(first)+uint64(n)-1)
	}
	v := &Volume{chip: chip, first: first, pages: make([]page, n), per: per, pageSize: g.Page, current: -1}
	v.head = make([]byte, headSize+per*entrySize)
	return v, nil
}

// spare is how many pages are kept free: for collecting, and for pages that wear out.
func spare(n uint32) uint32 { return max(4, n/16) }

// Format erases n pages of the chip from the first on, and mounts them. Erase counts of an earlier volume are kept.
func Format(chip Flash, first, n uint32) (*Volume, error) {
	v, err := layout(chip, first, n)
	if err != nil {
		return nil, err
	}
	for i := range v.pages {
		if err := v.readHead(uint32(i)); err != nil {
			return nil, err
		}
		v.pages[i].erases, _ = v.headErases()
	}
	v.where = make([]uint32, v.per*(n-spare(n)))
	v.forget()
	for i := range v.pages {
		if err := v.erase(uint32(i)); err != nil {
			return nil, err
		}
	}
	return v, v.enough()
}

func (v *Volume) forget() {
	for i := range v.where {
		v.where[i] = unmapped
	}
}

// Mount reads what Format and writes left on n pages from the first on, and finishes what a power loss interrupted.
func Mount(chip Flash, first, n uint32) (*Volume, error) {
	v, err := layout(chip, first, n)
	if err != nil {
		return nil, err
	}
	v.where = make([]uint32, v.per*(n-spare(n)))
	v.forget()
	sequences := make([]uint32, len(v.where))
	known, sum := uint64(0), uint64(0)
	for i := range v.pages {
		p := &v.pages[i]
		if err := v.readHead(uint32(i)); err != nil {
			return nil, err
		}
		erases, ok := v.headErases()
		if !ok {
			continue // it was being erased, or made a page: dirty
		}
		p.erases = erases
		known++
		sum += uint64(erases)
		p.state = free
		for slot := range v.per {
			e := v.entry(slot)
			if e.fresh() {
				continue
			}
			p.used = uint16(slot + 1)
			p.state = open
			if !e.valid() || e.logical() >= uint32(len(v.where)) {
				continue
			}
			at := uint32(i)*v.per + slot
			v.sequence = max(v.sequence, e.sequence())
			switch old := v.where[e.logical()]; {
			case old == unmapped:
			case sequences[e.logical()] < e.sequence(): // the power went before the older one was marked
				v.pages[old/v.per].live--
			default:
				continue
			}
			v.where[e.logical()], sequences[e.logical()] = at, e.sequence()
			p.live++
		}
		if p.used == uint16(v.per) {
			p.state = full
		}
	}
	if known == 0 {
		return nil, ErrNotFormatted
	}
	for i := range v.pages {
		p := &v.pages[i]
		switch {
		case p.state == dirty:
			p.erases = uint32(sum / known) // its own count is lost
			if err := v.erase(uint32(i)); err != nil {
				return nil, err
			}
		case p.state == open && v.current < 0:
			v.current = i
		case p.state == open:
			p.state = full // one page is written at a time
		}
	}
	return v, nil
}

// Sectors is how many logical sectors there are.
func (v *Volume) Sectors() uint32 { return uint32(len(v.where)) }

// entry is a sector's entry in the header that was read last.
type entry []byte

func (v *Volume) entry(slot uint32) entry { return entry(v.head[headSize+slot*entrySize:][:entrySize]) }

func (e entry) logical() uint32  { return binary.LittleEndian.Uint32(e) }
func (e entry) sequence() uint32 { return binary.LittleEndian.Uint32(e[4:]) }
func (e entry) data() uint32     { return binary.LittleEndian.Uint32(e[8:]) }

func (e entry) fresh() bool {
	for _, b := range e {
		if b != 0xFF {
			return false
		}
	}
	return true
}

// valid: the write was completed, and nothing made it obsolete since. A mark that a power loss left half done counts as
// not there for completeness, and as there for obsolescence.
func (e entry) valid() bool {
	return binary.LittleEndian.Uint64(e[16:]) == 0 && binary.LittleEndian.Uint64(e[24:]) == math.MaxUint64 &&
		binary.LittleEndian.Uint32(e[12:]) == crc32.ChecksumIEEE(e[:12])
}

func (v *Volume) address(n uint32) uint32 { return (v.first + n) * v.pageSize }

func (v *Volume) readHead(n uint32) error { return v.chip.Read(v.address(n), v.head) }

// headErases is what the header that was read last says, and whether it is one.
func (v *Volume) headErases() (uint32, bool) {
	h := v.head
	if binary.LittleEndian.Uint32(h) != magic || binary.LittleEndian.Uint32(h[4:]) != ^uint32(magic) ||
		binary.LittleEndian.Uint32(h[12:]) != crc32.ChecksumIEEE(h[:12]) {
		return 0, false
	}
	return binary.LittleEndian.Uint32(h[8:]), true
}

var zeros [8]byte

// erase makes a page free: first its header is spoiled, so that a page whose erasing was interrupted is not taken for a good one.
// A page that is not erased afterwards is worn out.
func (v *Volume) erase(n uint32) error {
	p := &v.pages[n]
	if err := v.chip.Program(v.address(n), zeros[:]); err != nil {
		return err
	}
	if err := v.chip.Erase(v.first + n); err != nil {
		return err
	}
	*p = page{erases: p.erases + 1, state: worn}
	for at := uint32(0); at < v.pageSize; at += SectorSize {
		if err := v.chip.Read(v.address(n)+at, v.buf[:]); err != nil {
			return err
		}
		for _, b := range v.buf {
			if b != 0xFF {
				return nil
			}
		}
	}
	var h [16]byte
	binary.LittleEndian.PutUint32(h[:], magic)
	binary.LittleEndian.PutUint32(h[4:], ^uint32(magic))
	binary.LittleEndian.PutUint32(h[8:], p.erases)
	binary.LittleEndian.PutUint32(h[12:], crc32.ChecksumIEEE(h[:12]))
	if err := v.chip.Program(v.address(n), h[:]); err != nil {
		return err
	}
	p.state = free
	return nil
}

// Read fills p, of 512 bytes, with a logical sector. One that was never written is all ones.
func (v *Volume) Read(sector uint32, p []byte) error {
	if err := v.check(sector, p); err != nil {
		return err
	}
	at := v.where[sector]
	if at == unmapped {
		for i := range p {
			p[i] = 0xFF
		}
		return nil
	}
	n, slot := at/v.per, at%v.per
	var e [entrySize]byte
	if err := v.chip.Read(v.address(n)+headSize+slot*entrySize, e[:]); err != nil {
		return err
	}
	if err := v.chip.Read(v.address(n)+(slot+1)*SectorSize, p); err != nil {
		return err
	}
	if crc32.ChecksumIEEE(p) != entry(e[:]).data() {
		return fmt.Errorf("%w: sector %d in page %d", ErrCorrupt, sector, v.first+n)
	}
	return nil
}

func (v *Volume) check(sector uint32, p []byte) error {
	if sector >= uint32(len(v.where)) || len(p) != SectorSize {
		return fmt.Errorf("wear: sector %d of %d bytes: there are %d of %d", sector, len(p), len(v.where), SectorSize)
	}
	return nil
}

// Write puts p, of 512 bytes, into a logical sector. When it returns nil the sector survives any power loss.
func (v *Volume) Write(sector uint32, p []byte) error {
	if err := v.check(sector, p); err != nil {
		return err
	}
	for {
		if err := v.room(); err != nil {
			return err
		}
		ok, err := v.put(sector, p)
		if ok || err != nil {
			return err
		}
	}
}

// Release forgets a logical sector, whose place can then be erased.
func (v *Volume) Release(sector uint32) error {
	if sector >= uint32(len(v.where)) {
		return fmt.Errorf("wear: there is no sector %d", sector)
	}
	at := v.where[sector]
	if at == unmapped {
		return nil
	}
	v.where[sector] = unmapped
	v.pages[at/v.per].live--
	return v.obsolete(at)
}

func (v *Volume) obsolete(at uint32) error {
	return v.chip.Program(v.address(at/v.per)+headSize+at%v.per*entrySize+24, zeros[:])
}

// put writes a sector to the next place of the current page. It reports false when that place turned out to be bad.
func (v *Volume) put(sector uint32, data []byte) (bool, error) {
	n := uint32(v.current)
	p := &v.pages[n]
	slot := uint32(p.used)
	p.used++
	if p.used == uint16(v.per) {
		p.state = full
		v.current = -1
	}
	v.sequence++
	var e [16]byte
	binary.LittleEndian.PutUint32(e[:], sector)
	binary.LittleEndian.PutUint32(e[4:], v.sequence)
	binary.LittleEndian.PutUint32(e[8:], crc32.ChecksumIEEE(data))
	binary.LittleEndian.PutUint32(e[12:], crc32.ChecksumIEEE(e[:12]))
	at := v.address(n) + headSize + slot*entrySize
	if err := v.chip.Program(at, e[:]); err != nil {
		return false, err
	}
	if err := v.chip.Program(v.address(n)+(slot+1)*SectorSize, data); err != nil {
		return false, err
	}
	var back [16]byte
	if err := v.chip.Read(at, back[:]); err != nil {
		return false, err
	}
	same := back == e
	if err := v.chip.Read(v.address(n)+(slot+1)*SectorSize, v.buf[:]); err != nil {
		return false, err
	}
	if !same || string(v.buf[:]) != string(data) {
		return false, nil
	}
	if err := v.chip.Program(at+16, zeros[:]); err != nil { // from here on it counts
		return false, err
	}
	old := v.where[sector]
	v.where[sector] = n*v.per + slot
	p.live++
	if old == unmapped {
		return true, nil
	}
	v.pages[old/v.per].live--
	return true, v.obsolete(old)
}

// enough reports ErrWorn when collecting could come to a standstill.
func (v *Volume) enough() error {
	good := uint32(0)
	for i := range v.pages {
		if v.pages[i].state != worn {
			good++
		}
	}
	if good*v.per < uint32(len(v.where))+(reserve+1)*v.per {
		return ErrWorn
	}
	return nil
}

// reserve is how many free pages collecting is begun with: one to move to, and one in case that a page wears out.
const reserve = 2

// room sees to it that there is a current page with a place left, and free ones besides for collecting.
func (v *Volume) room() error {
	for {
		n := v.count(free)
		switch {
		case v.current < 0 && n > reserve:
			v.current = v.least(free)
			v.pages[v.current].state = open
			if still := v.lazy(); still >= 0 {
				if err := v.collect(still); err != nil {
					return err
				}
			}
		case v.current >= 0 && n >= reserve:
			return nil
		default:
			if err := v.enough(); err != nil {
				return err
			}
			if err := v.collect(v.victim()); err != nil {
				return err
			}
		}
	}
}

func (v *Volume) count(s pageState) int {
	n := 0
	for i := range v.pages {
		if v.pages[i].state == s {
			n++
		}
	}
	return n
}

// least is the page in a state that was erased least often, or -1.
func (v *Volume) least(s pageState) int {
	best := -1
	for i := range v.pages {
		if v.pages[i].state == s && (best < 0 || v.pages[i].erases < v.pages[best].erases) {
			best = i
		}
	}
	return best
}

// victim is the page from which the least has to be moved, and of those the least worn.
func (v *Volume) victim() int {
	best := -1
	for i := range v.pages {
		p := &v.pages[i]
		if p.state != full {
			continue
		}
		if b := best; b < 0 || p.live < v.pages[b].live || p.live == v.pages[b].live && p.erases < v.pages[b].erases {
			best = i
		}
	}
	return best
}

// lazy is a page that lies still while others wear, or -1.
func (v *Volume) lazy() int {
	low := v.least(full)
	if low < 0 {
		return -1
	}
	most := uint32(0)
	for i := range v.pages {
		if v.pages[i].state != worn {
			most = max(most, v.pages[i].erases)
		}
	}
	if most-v.pages[low].erases < spread {
		return -1
	}
	return low
}

// collect moves what is current from a page, and erases it.
func (v *Volume) collect(n int) error {
	if n < 0 {
		return ErrWorn
	}
	var data [SectorSize]byte
	from := uint32(n)
	for sector, at := range v.where {
		if v.pages[n].live == 0 {
			break
		}
		if at == unmapped || at/v.per != from {
			continue
		}
		switch err := v.Read(uint32(sector), data[:]); {
		case errors.Is(err, ErrCorrupt):
			v.pages[n].state = worn // what cannot be read is not made to look whole: it stays here
			return nil
		case err != nil:
			return err
		}
		for {
			if v.current < 0 {
				if v.current = v.least(free); v.current < 0 {
					return ErrWorn
				}
				v.pages[v.current].state = open
			}
			ok, err := v.put(uint32(sector), data[:])
			if err != nil {
				return err
			}
			if ok {
				break
			}
		}
	}
	return v.erase(from)
}

// Wear says how often the least and the most worn page were erased, and how many are worn out.
func (v *Volume) Wear() (least, most uint32, out int) {
	least = math.MaxUint32
	for i := range v.pages {
		p := &v.pages[i]
		if p.state == worn {
			out++
			continue
		}
		least, most = min(least, p.erases), max(most, p.erases)
	}
	return least, most, out
}
