// Package fat is the FAT12 and FAT16 file system of small flash volumes, as much of it as a board needs: files in the root
// directory with names of 8 and 3 characters, read and written whole, removed and listed. Images are those of DOS:
// mtools reads them and fsck.fat finds nothing wrong.
//
// A file is replaced as one: its new contents are written to free clusters, and one sector of the directory makes them
// the file. Over a device that keeps what it acknowledged (board/wear) a power loss leaves the old file or the new one;
// clusters that it left without an owner are freed when the volume is mounted.
package fat

import (
	"encoding/binary"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"
)

// SectorSize is that of a device's sectors, in bytes.
const SectorSize = 512

// ErrNotFound is returned for a file that is not there.
var ErrNotFound = errors.New("fat: no such file")

// ErrFull is returned when there is no room for a file, or for another name in the directory.
var ErrFull = errors.New("fat: the volume is full")

// ErrCorrupt is returned for a volume whose structures contradict themselves.
var ErrCorrupt = errors.New("fat: the volume is corrupt")

// Device is what a volume lies on (wear.Volume).
type Device interface {
	Sectors() uint32
	Read(sector uint32, p []byte) error
	Write(sector uint32, p []byte) error
}

// Info is a file.
type Info struct {
	Name     string
	Size     uint32
	Modified time.Time // in steps of two seconds; zero: not known
	ReadOnly bool
}

const (
	entrySize  = 32
	attrRead   = 0x01
	attrVolume = 0x08
	attrFolder = 0x10
	attrLong   = 0x0F // an entry that holds a piece of a long name
	removed    = 0xE5
	maxFAT12   = 4084 // clusters; more are FAT16
	maxFAT16   = 65524
)

// Volume is a mounted file system. It is used by one thread at a time.
type Volume struct {
	dev         Device
	wide        bool   // FAT16
	perCluster  uint32 // sectors
	fatStart    uint32 // sector
	fatSectors  uint32
	fats        uint32
	rootStart   uint32
	rootEntries uint32
	dataStart   uint32
	clusters    uint32
	table       []uint16 // what the first FAT says, by cluster number
	next        uint32   // where the search for free clusters goes on
	long        []place  // the entries of a long name that stand before the file which was found last
}

// Format makes an empty file system on a device, and mounts it. label has up to eleven characters.
func Format(dev Device, label string) (*Volume, error) {
	total := dev.Sectors()
	if total < 64 || total > 4_000_000 {
		return nil, fmt.Errorf("fat: %d sectors: between 64 and 4,000,000 are possible", total)
	}
	name, err := volumeLabel(label)
	if err != nil {
		return nil, err
	}
	v := &Volume{dev: dev, fats: 2, fatStart: 1, rootEntries: 112, perCluster: 1}
	if total >= 4096 {
		v.rootEntries = 512
	}
	rootSectors := v.rootEntries * entrySize / SectorSize
	for {
		v.fatSectors = 1
		for { // the table's size and the number of clusters depend on each other
			v.clusters = (total - 1 - v.fats*v.fatSectors - rootSectors) / v.perCluster
			v.wide = v.clusters > maxFAT12
			if need := (v.tableBytes() + SectorSize - 1) / SectorSize; need > v.fatSectors {
				v.fatSectors = need
				continue
			}
			break
		}
		if v.clusters <= maxFAT16 {
			break
		}
		v.perCluster *= 2
	}
	v.rootStart = v.fatStart + v.fats*v.fatSectors
	v.dataStart = v.rootStart + rootSectors
	v.table = make([]uint16, v.clusters+2)
	v.table[0], v.table[1] = 0xFFF8, 0xFFFF
	var s [SectorSize]byte
	for n := v.rootStart; n < v.dataStart; n++ {
		if n == v.rootStart {
			copy(s[:], name[:])
			s[11] = attrVolume
		}
		if err := dev.Write(n, s[:]); err != nil {
			return nil, err
		}
		clear(s[:])
	}
	for n := range v.fatSectors {
		if err := v.writeTable(n); err != nil {
			return nil, err
		}
	}
	boot(&s, v, total, name)
	if err := dev.Write(0, s[:]); err != nil { // the last: only now it is a file system
		return nil, err
	}
	return v, nil
}

func boot(s *[SectorSize]byte, v *Volume, total uint32, label [11]byte) {
	le := binary.LittleEndian
	copy(s[:], "\xEB\x3C\x90VAUBAN  ")
	le.PutUint16(s[11:], SectorSize)
	s[13] = byte(v.perCluster)
	le.PutUint16(s[14:], uint16(v.fatStart))
	s[16] = byte(v.fats)
	le.PutUint16(s[17:], uint16(v.rootEntries))
	if total < 1<<16 {
		le.PutUint16(s[19:], uint16(total))
	} else {
		le.PutUint32(s[32:], total)
	}
	s[21] = 0xF8 // a fixed disk
	le.PutUint16(s[22:], uint16(v.fatSectors))
	le.PutUint16(s[24:], 32) // sectors of a track and heads, which nobody has
	le.PutUint16(s[26:], 2)
	s[36], s[38] = 0x80, 0x29
	le.PutUint32(s[39:], total*2654435761) // a serial number
	copy(s[43:], label[:])
	copy(s[54:], "FAT12   ")
	if v.wide {
		copy(s[54:], "FAT16   ")
	}
	s[510], s[511] = 0x55, 0xAA
}

// tableBytes is how long a FAT has to be.
func (v *Volume) tableBytes() uint32 {
	if v.wide {
		return (v.clusters + 2) * 2
	}
	return ((v.clusters+2)*3 + 1) / 2
}

// Mount reads the file system of a device, and puts right what a power loss left: clusters without an owner are freed, and
// the second table is made equal to the first.
func Mount(dev Device) (*Volume, error) {
	v, err := open(dev)
	if err != nil {
		return nil, err
	}
	return v, v.repair()
}

// open reads the boot sector and the first table, and believes nothing that does not fit the device.
func open(dev Device) (*Volume, error) {
	var s [SectorSize]byte
	if err := dev.Read(0, s[:]); err != nil {
		return nil, err
	}
	bad := func(format string, args ...any) (*Volume, error) {
		return nil, fmt.Errorf("%w: boot sector: %s", ErrCorrupt, fmt.Sprintf(format, args...))
	}
	le := binary.LittleEndian
	if s[510] != 0x55 || s[511] != 0xAA {
		return bad("no signature")
	}
	if n := le.Uint16(s[11:]); n != SectorSize {
		return bad("sectors of %d bytes", n)
	}
	total := uint32(le.Uint16(s[19:]))
	if total == 0 {
		total = le.Uint32(s[32:])
	}
	v := &Volume{
		dev: dev, perCluster: uint32(s[13]), fatStart: uint32(le.Uint16(s[14:])), fats: uint32(s[16]),
		rootEntries: uint32(le.Uint16(s[17:])), fatSectors: uint32(le.Uint16(s[22:])),
	}
	switch {
	case total > dev.Sectors():
		return bad("%d sectors on a device of %d", total, dev.Sectors())
	case v.perCluster == 0 || v.perCluster&(v.perCluster-1) != 0:
		return bad("clusters of %d sectors", v.perCluster)
	case v.fatStart == 0 || v.fats == 0 || v.fats > 2 || v.fatSectors == 0 || v.rootEntries == 0 || v.rootEntries%(SectorSize/entrySize) != 0:
		return bad("%d tables of %d sectors from sector %d, %d entries in the root directory", v.fats, v.fatSectors, v.fatStart, v.rootEntries)
	}
	v.rootStart = v.fatStart + v.fats*v.fatSectors
	v.dataStart = v.rootStart + v.rootEntries*entrySize/SectorSize
	if v.dataStart >= total {
		return bad("no room for data")
	}
	v.clusters = (total - v.dataStart) / v.perCluster
	v.wide = v.clusters > maxFAT12
	if v.clusters == 0 || v.clusters > maxFAT16 {
		return bad("%d clusters: it is FAT12 or FAT16 up to %d", v.clusters, maxFAT16)
	}
	if v.tableBytes() > v.fatSectors*SectorSize {
		return bad("a table of %d sectors for %d clusters", v.fatSectors, v.clusters)
	}
	raw := make([]byte, (v.tableBytes()+SectorSize-1)/SectorSize*SectorSize)
	for i := range uint32(len(raw)) / SectorSize {
		if err := dev.Read(v.fatStart+i, raw[i*SectorSize:][:SectorSize]); err != nil {
			return nil, err
		}
	}
	v.table = make([]uint16, v.clusters+2)
	for i := range v.table {
		if v.wide {
			v.table[i] = le.Uint16(raw[2*i:])
			continue
		}
		x := le.Uint16(raw[i*3/2:])
		if i&1 != 0 {
			x >>= 4
		}
		if x &= 0xFFF; x >= 0xFF7 {
			x |= 0xF000 // one spelling of ends and bad clusters for both
		}
		v.table[i] = x
	}
	return v, nil
}

// writeTable writes a sector of the table to all FATs.
func (v *Volume) writeTable(n uint32) error {
	s := v.tableSector(n)
	for f := range v.fats {
		if err := v.dev.Write(v.fatStart+f*v.fatSectors+n, s[:]); err != nil {
			return err
		}
	}
	return nil
}

func (v *Volume) tableSector(n uint32) (s [SectorSize]byte) {
	if v.wide {
		for i := range uint32(SectorSize / 2) {
			if at := n*SectorSize/2 + i; at < uint32(len(v.table)) {
				binary.LittleEndian.PutUint16(s[2*i:], v.table[at])
			}
		}
		return s
	}
	for i := range s { // an entry has a byte and a half: byte by byte
		at := n*SectorSize + uint32(i)
		pair := at / 3 * 2
		get := func(c uint32) uint16 {
			if c < uint32(len(v.table)) {
				return v.table[c] & 0xFFF
			}
			return 0
		}
		a, b := get(pair), get(pair+1)
		s[i] = [3]byte{byte(a), byte(a>>8 | b<<4), byte(b >> 4)}[at%3]
	}
	return s
}

// sectorsOf are the sectors of the table that hold a cluster's entry: FAT12 may need two.
func (v *Volume) sectorsOf(cluster uint32) (first, last uint32) {
	if v.wide {
		return cluster * 2 / SectorSize, cluster * 2 / SectorSize
	}
	return cluster * 3 / 2 / SectorSize, (cluster*3/2 + 1) / SectorSize
}

// setChain writes entries of the table, each of its sectors once.
func (v *Volume) setChain(clusters []uint32, value func(i int) uint16) error {
	var touched []uint32
	for i, c := range clusters {
		v.table[c] = value(i)
		first, last := v.sectorsOf(c)
		for n := first; n <= last; n++ {
			if !slices.Contains(touched, n) {
				touched = append(touched, n)
			}
		}
	}
	slices.Sort(touched)
	for _, n := range touched {
		if err := v.writeTable(n); err != nil {
			return err
		}
	}
	return nil
}

const endOfChain = 0xFFFF

// chain follows a file's clusters, and believes no loop.
func (v *Volume) chain(first, size uint32) ([]uint32, error) {
	need := (size + v.clusterSize() - 1) / v.clusterSize()
	if size > 0 && need == 0 || need > v.clusters {
		return nil, fmt.Errorf("%w: a file of %d bytes", ErrCorrupt, size)
	}
	if need == 0 {
		if first != 0 {
			return nil, fmt.Errorf("%w: an empty file has cluster %d", ErrCorrupt, first)
		}
		return nil, nil
	}
	chain := make([]uint32, 0, need)
	for c := first; ; {
		if c < 2 || c >= uint32(len(v.table)) || uint32(len(chain)) == need {
			return nil, fmt.Errorf("%w: the chain of clusters from %d is not as long as its file", ErrCorrupt, first)
		}
		chain = append(chain, c)
		next := v.table[c]
		if next >= 0xFFF8 {
			break
		}
		c = uint32(next)
	}
	if uint32(len(chain)) != need {
		return nil, fmt.Errorf("%w: the chain of clusters from %d is not as long as its file", ErrCorrupt, first)
	}
	return chain, nil
}

func (v *Volume) clusterSize() uint32 { return v.perCluster * SectorSize }

func (v *Volume) sector(cluster uint32) uint32 { return v.dataStart + (cluster-2)*v.perCluster }

// place is where a directory entry stands.
type place struct {
	sector uint32
	offset int
}

// walk looks at the root directory's entries until f says that it has seen enough. The slice is f's during the call.
func (v *Volume) walk(f func(at place, e []byte) bool) error {
	var s [SectorSize]byte
	for n := v.rootStart; n < v.dataStart; n++ {
		if err := v.dev.Read(n, s[:]); err != nil {
			return err
		}
		for o := 0; o < SectorSize; o += entrySize {
			if f(place{n, o}, s[o:o+entrySize]) {
				return nil
			}
			if s[o] == 0 {
				return nil // none after this one was ever used
			}
		}
	}
	return nil
}

func isFile(e []byte) bool {
	return e[0] != 0 && e[0] != removed && e[11]&(attrVolume|attrFolder) == 0
}

func entryName(e []byte) string {
	base, ext := strings.TrimRight(string(e[:8]), " "), strings.TrimRight(string(e[8:11]), " ")
	if ext != "" {
		base += "." + ext
	}
	return base
}

func info(e []byte) Info {
	le := binary.LittleEndian
	i := Info{Name: entryName(e), Size: le.Uint32(e[28:]), ReadOnly: e[11]&attrRead != 0}
	if d, t := le.Uint16(e[24:]), le.Uint16(e[22:]); d != 0 {
		i.Modified = time.Date(1980+int(d>>9), time.Month(d>>5&15), int(d&31), int(t>>11), int(t>>5&63), int(t&31)*2, 0, time.UTC)
	}
	return i
}

const nameCharacters = "ABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789!#$%&'()-@^_`{}~"

// shortName spells a name as directories do. Lower case is made upper case.
func shortName(name string) (n [11]byte, err error) {
	base, ext, _ := strings.Cut(strings.ToUpper(name), ".")
	ok := len(base) >= 1 && len(base) <= 8 && len(ext) <= 3
	for _, c := range []byte(base + ext) {
		ok = ok && strings.IndexByte(nameCharacters, c) >= 0
	}
	if !ok {
		return n, fmt.Errorf("fat: %q: a name has 1 to 8 characters, a dot and up to 3 more, of letters, digits and %s", name, nameCharacters[36:])
	}
	copy(n[:], "           ")
	copy(n[:8], base)
	copy(n[8:], ext)
	return n, nil
}

func volumeLabel(label string) (n [11]byte, err error) {
	copy(n[:], "           ")
	label = strings.ToUpper(label)
	if label == "" {
		label = "NO NAME"
	}
	for _, c := range []byte(label) {
		if strings.IndexByte(nameCharacters+" ", c) < 0 || len(label) > len(n) {
			return n, fmt.Errorf("fat: %q is no label: up to eleven letters, digits and some signs are possible", label)
		}
	}
	copy(n[:], label)
	return n, nil
}

// find looks for a file, and for a place where a new one's entry can stand.
func (v *Volume) find(name [11]byte) (at place, e [entrySize]byte, found bool, room *place, err error) {
	v.long = v.long[:0]
	var folder error
	err = v.walk(func(p place, x []byte) bool {
		if x[0] != 0 && x[0] != removed && x[11] == attrLong {
			v.long = append(v.long, p)
			return false
		}
		switch {
		case isFile(x) && string(x[:11]) == string(name[:]):
			at, found = p, true
			copy(e[:], x)
			return true
		case (x[0] == 0 || x[0] == removed) && room == nil:
			room = &place{p.sector, p.offset}
		case x[0] != 0 && x[0] != removed && string(x[:11]) == string(name[:]) && x[11]&attrFolder != 0:
			folder = fmt.Errorf("fat: %s is a folder", entryName(x))
		}
		v.long = v.long[:0] // they were another's
		return false
	})
	return at, e, found, room, errors.Join(err, folder)
}

func firstCluster(e []byte) uint32 { return uint32(binary.LittleEndian.Uint16(e[26:])) }

// List tells the files of the root directory, in its order. Long names are told by their short form; folders are not.
func (v *Volume) List() ([]Info, error) {
	var list []Info
	err := v.walk(func(_ place, e []byte) bool {
		if isFile(e) {
			list = append(list, info(e))
		}
		return false
	})
	return list, err
}

// Stat tells of one file.
func (v *Volume) Stat(name string) (Info, error) {
	n, err := shortName(name)
	if err != nil {
		return Info{}, err
	}
	_, e, found, _, err := v.find(n)
	if err == nil && !found {
		err = fmt.Errorf("%w: %s", ErrNotFound, name)
	}
	if err != nil {
		return Info{}, err
	}
	return info(e[:]), nil
}

// ReadFile is the contents of a file.
func (v *Volume) ReadFile(name string) ([]byte, error) {
	n, err := shortName(name)
	if err != nil {
		return nil, err
	}
	_, e, found, _, err := v.find(n)
	if err != nil {
		return nil, err
	}
	if !found {
		return nil, fmt.Errorf("%w: %s", ErrNotFound, name)
	}
	size := binary.LittleEndian.Uint32(e[28:])
	chain, err := v.chain(firstCluster(e[:]), size)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", name, err)
	}
	data := make([]byte, uint32(len(chain))*v.clusterSize())
	for i, c := range chain {
		for j := range v.perCluster {
			at := (uint32(i)*v.perCluster + j) * SectorSize
			if at >= size {
				break
			}
			if err := v.dev.Read(v.sector(c)+j, data[at:at+SectorSize]); err != nil {
				return nil, fmt.Errorf("%s: %w", name, err)
			}
		}
	}
	return data[:size], nil
}

// WriteFile makes data the contents of a file, new or old, as of now. When it returns nil the file is there whole, whatever
// happens to the power; when it fails, the old one is.
func (v *Volume) WriteFile(name string, data []byte, now time.Time) error {
	n, err := shortName(name)
	if err != nil {
		return err
	}
	at, e, found, room, err := v.find(n)
	if err != nil {
		return err
	}
	if found && e[11]&attrRead != 0 {
		return fmt.Errorf("fat: %s is read-only", name)
	}
	var old []uint32
	if found {
		if old, err = v.chain(firstCluster(e[:]), binary.LittleEndian.Uint32(e[28:])); err != nil {
			return fmt.Errorf("%s: %w", name, err)
		}
	} else {
		if room == nil {
			return fmt.Errorf("%w: the root directory has %d names", ErrFull, v.rootEntries)
		}
		at = *room
		e = [entrySize]byte{11: 0x20} // to be archived
		copy(e[:], n[:])
	}
	chain, err := v.allocate(uint64(len(data)))
	if err != nil {
		return fmt.Errorf("%s: %w", name, err)
	}
	if err := v.store(chain, data); err != nil {
		return errors.Join(err, v.free(chain))
	}
	first := uint16(0)
	if len(chain) > 0 {
		first = uint16(chain[0])
	}
	binary.LittleEndian.PutUint16(e[26:], first)
	binary.LittleEndian.PutUint32(e[28:], uint32(len(data)))
	binary.LittleEndian.PutUint16(e[22:], dosTime(now))
	binary.LittleEndian.PutUint16(e[24:], dosDate(now))
	if err := v.writeEntry(at, e[:]); err != nil {
		// Nobody knows which of them the directory has now: neither chain is freed before the next Mount.
		return err
	}
	return v.free(old)
}

func dosDate(t time.Time) uint16 {
	t = t.UTC()
	if y := t.Year(); y < 1980 || y > 2107 {
		return 1<<5 | 1 // the first day there is
	}
	return uint16(t.Year()-1980)<<9 | uint16(t.Month())<<5 | uint16(t.Day())
}

func dosTime(t time.Time) uint16 {
	t = t.UTC()
	return uint16(t.Hour())<<11 | uint16(t.Minute())<<5 | uint16(t.Second()/2)
}

func (v *Volume) writeEntry(at place, e []byte) error {
	var s [SectorSize]byte
	if err := v.dev.Read(at.sector, s[:]); err != nil {
		return err
	}
	copy(s[at.offset:], e)
	return v.dev.Write(at.sector, s[:])
}

// allocate finds clusters for size bytes. They are nobody's until they are chained.
func (v *Volume) allocate(size uint64) ([]uint32, error) {
	need := (size + uint64(v.clusterSize()) - 1) / uint64(v.clusterSize())
	if need > uint64(v.clusters) {
		return nil, fmt.Errorf("%w: %d bytes are more than it holds", ErrFull, size)
	}
	chain := make([]uint32, 0, need)
	for i := uint32(0); i < v.clusters && uint64(len(chain)) < need; i++ {
		if c := 2 + (v.next+i)%v.clusters; v.table[c] == 0 {
			chain = append(chain, c)
		}
	}
	if uint64(len(chain)) < need {
		return nil, fmt.Errorf("%w: %d bytes need %d clusters, %d are free", ErrFull, size, need, len(chain))
	}
	if need > 0 {
		v.next = chain[need-1] - 1
	}
	return chain, nil
}

func (v *Volume) store(chain []uint32, data []byte) error {
	for i, c := range chain {
		for j := range v.perCluster {
			at := int((uint32(i)*v.perCluster + j) * SectorSize)
			if at >= len(data) {
				break
			}
			var s [SectorSize]byte
			copy(s[:], data[at:])
			if err := v.dev.Write(v.sector(c)+j, s[:]); err != nil {
				return err
			}
		}
	}
	return v.setChain(chain, func(i int) uint16 {
		if i+1 < len(chain) {
			return uint16(chain[i+1])
		}
		return endOfChain
	})
}

func (v *Volume) free(chain []uint32) error {
	return v.setChain(chain, func(int) uint16 { return 0 })
}

// Remove takes a file away.
func (v *Volume) Remove(name string) error {
	n, err := shortName(name)
	if err != nil {
		return err
	}
	at, e, found, _, err := v.find(n)
	if err != nil {
		return err
	}
	if !found {
		return fmt.Errorf("%w: %s", ErrNotFound, name)
	}
	if e[11]&attrRead != 0 {
		return fmt.Errorf("fat: %s is read-only", name)
	}
	chain, err := v.chain(firstCluster(e[:]), binary.LittleEndian.Uint32(e[28:]))
	if err != nil {
		return fmt.Errorf("%s: %w", name, err)
	}
	if err := v.strike(append(v.long, at)); err != nil {
		return err
	}
	return v.free(chain)
}

// strike marks entries as removed, the last one's sector first: what it leaves, should the power go, is a long name of nobody.
func (v *Volume) strike(entries []place) error {
	var s [SectorSize]byte
	for len(entries) > 0 {
		n := entries[len(entries)-1].sector
		if err := v.dev.Read(n, s[:]); err != nil {
			return err
		}
		for len(entries) > 0 && entries[len(entries)-1].sector == n {
			s[entries[len(entries)-1].offset] = removed
			entries = entries[:len(entries)-1]
		}
		if err := v.dev.Write(n, s[:]); err != nil {
			return err
		}
	}
	return nil
}

// Free is how many bytes new files may have.
func (v *Volume) Free() uint64 {
	n := uint64(0)
	for _, x := range v.table[2:] {
		if x == 0 {
			n++
		}
	}
	return n * uint64(v.clusterSize())
}

// end clears what stands behind the end of the root directory: it would come back with the next name.
func (v *Volume) end() error {
	var s [SectorSize]byte
	ended := false
	for n := v.rootStart; n < v.dataStart; n++ {
		if err := v.dev.Read(n, s[:]); err != nil {
			return err
		}
		stale := false
		for o := 0; o < SectorSize; o += entrySize {
			if ended = ended || s[o] == 0; ended && s[o] != 0 {
				s[o] = 0
				stale = true
			}
		}
		if !stale {
			continue
		}
		if err := v.dev.Write(n, s[:]); err != nil {
			return err
		}
	}
	return nil
}

// repair frees clusters that belong to no file of the root directory, unless there are folders, whose files it does not know,
// and makes the tables equal.
func (v *Volume) repair() error {
	owned := make([]bool, len(v.table))
	folders := false
	var broken error
	err := v.walk(func(_ place, e []byte) bool {
		if e[0] != 0 && e[0] != removed && e[11] != attrLong && e[11]&(attrFolder|attrVolume) == attrFolder {
			folders = true
		}
		if !isFile(e) {
			return false
		}
		chain, err := v.chain(firstCluster(e), binary.LittleEndian.Uint32(e[28:]))
		if err != nil {
			broken = fmt.Errorf("%s: %w", entryName(e), err)
			return true
		}
		for _, c := range chain {
			if owned[c] {
				broken = fmt.Errorf("%w: cluster %d belongs to two files", ErrCorrupt, c)
				return true
			}
			owned[c] = true
		}
		return false
	})
	if err := errors.Join(err, broken); err != nil {
		return err
	}
	if err := v.end(); err != nil {
		return err
	}
	if !folders {
		var lost []uint32
		for c := range uint32(len(v.table)) {
			if x := v.table[c]; c >= 2 && x != 0 && x != 0xFFF7 && !owned[c] {
				lost = append(lost, c)
			}
		}
		if err := v.free(lost); err != nil {
			return err
		}
	}
	for n := range (v.tableBytes() + SectorSize - 1) / SectorSize {
		want := v.tableSector(n)
		for f := uint32(1); f < v.fats; f++ {
			var got [SectorSize]byte
			at := v.fatStart + f*v.fatSectors + n
			if err := v.dev.Read(at, got[:]); err != nil {
				return err
			}
			if got == want {
				continue
			}
			if err := v.dev.Write(at, want[:]); err != nil {
				return err
			}
		}
	}
	return nil
}
