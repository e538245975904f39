package intel

import (
	"hash/maphash"
	"math/bits"
	"net/netip"
	"slices"

	"github.com/FastFilter/xorfilter"
	"github.com/gaissmai/bart"
)

// fuse answers "not listed" for nearly every value that is not, in a few nanoseconds: 9 bits a value, wrong for one in 256.
type fuse struct{ xorfilter.BinaryFuse[uint8] }

// unfiltered is the number of entries below which a search alone is as fast.
const unfiltered = 64

func newFuse(keys []uint64, scratch *xorfilter.BinaryFuseBuilder) fuse {
	f, err := xorfilter.BuildBinaryFuse[uint8](scratch, keys)
	if err != nil {
		return fuse{} // keys that no seed suits: the search decides alone
	}
	f.Fingerprints = slices.Clone(f.Fingerprints) // they are scratch's
	return fuse{f}
}

// together puts the fingerprints of filters side by side, where large pages hold them.
func together(fs []fuse) {
	n := 0
	for i := range fs {
		n += len(fs[i].Fingerprints)
	}
	all := make([]uint8, 0, n)
	huge(all[:n])
	for i := range fs {
		if f := &fs[i]; f.Fingerprints != nil {
			at := len(all)
			all = append(all, f.Fingerprints...)
			f.Fingerprints = all[at:len(all):len(all)]
		}
	}
}

// may reports whether key can be there.
func (f *fuse) may(key uint64) bool { return f.Fingerprints == nil || f.Contains(key) }

// table4 finds IPv4 hosts: one filter for each sixteenth of the addresses, which keeps building it cheap, before a sorted array.
type table4 struct {
	hosts   []host4
	bounds  [17]uint32
	filters [16]fuse
	metas   []meta
}

func newTable4(hosts []host4, metas []meta) *table4 {
	t := &table4{hosts: hosts, metas: metas}
	for i := range 16 {
		t.bounds[i+1] = uint32(len(hosts))
		if i < 15 {
			at, _ := slices.BinarySearchFunc(hosts, uint32(i+1)<<28, func(e host4, a uint32) int {
				if e.addr < a {
					return -1
				}
				return 1
			})
			t.bounds[i+1] = uint32(at)
		}
	}
	var keys []uint64
	var scratch xorfilter.BinaryFuseBuilder
	for i := range 16 {
		part := hosts[t.bounds[i]:t.bounds[i+1]]
		if len(part) < unfiltered {
			continue
		}
		keys = keys[:0]
		for j := range part {
			if k := uint64(part[j].addr); len(keys) == 0 || keys[len(keys)-1] != k {
				keys = append(keys, k)
			}
		}
		t.filters[i] = newFuse(keys, &scratch)
	}
	together(t.filters[:])
	return t
}

// find returns the entries of an address.
func (t *table4) find(a uint32) []host4 {
	part := a >> 28
	lo, hi := t.bounds[part], t.bounds[part+1]
	if lo == hi || !t.filters[part].may(uint64(a)) {
		return nil
	}
	return t.search(a, lo, hi)
}

func (t *table4) search(a, lo, hi uint32) []host4 {
	end := hi
	for lo < hi {
		if mid := (lo + hi) / 2; t.hosts[mid].addr < a {
			lo = mid + 1
		} else {
			hi = mid
		}
	}
	hi = lo
	for hi < end && t.hosts[hi].addr == a {
		hi++
	}
	return t.hosts[lo:hi]
}

// hashed finds entries by a 64-bit hash: a filter before sorted hashes. Whoever asks compares the entry itself.
type hashed struct {
	hashes []uint64
	at     []uint32
	filter fuse
}

var seed = maphash.MakeSeed()

func hash6(a [16]byte) uint64     { return maphash.Bytes(seed, a[:]) }
func hashName(name string) uint64 { return maphash.String(seed, name) }
func compareHash(a, b hashAt) int { return compareUint(a.hash, b.hash, a.at, b.at) }
func sameHash(a, b uint64) bool   { return a == b }
func unique(h []uint64) []uint64  { return slices.CompactFunc(slices.Clone(h), sameHash) }

type hashAt struct {
	hash uint64
	at   uint32
}

func compareUint(a, b uint64, c, d uint32) int {
	switch {
	case a < b || a == b && c < d:
		return -1
	case a > b || c > d:
		return 1
	}
	return 0
}

func newHashed(n int, hash func(i int) uint64) *hashed {
	if n == 0 {
		return nil
	}
	all := make([]hashAt, n)
	for i := range all {
		all[i] = hashAt{hash(i), uint32(i)}
	}
	slices.SortFunc(all, compareHash)
	h := &hashed{hashes: make([]uint64, n), at: make([]uint32, n)}
	for i := range all {
		h.hashes[i], h.at[i] = all[i].hash, all[i].at
	}
	if n >= unfiltered {
		var scratch xorfilter.BinaryFuseBuilder
		h.filter = newFuse(unique(h.hashes), &scratch)
	}
	return h
}

// find returns where entries of a hash are.
func (h *hashed) find(hash uint64) []uint32 {
	if h == nil || !h.filter.may(hash) {
		return nil
	}
	lo, ok := slices.BinarySearch(h.hashes, hash)
	if !ok {
		return nil
	}
	hi := lo + 1
	for hi < len(h.hashes) && h.hashes[hi] == hash {
		hi++
	}
	return h.at[lo:hi]
}

// prefixRef is an entry of a prefix.
type prefixRef struct {
	block     *Block
	meta, ref uint32
}

// prefixTable finds the prefixes above an address.
type prefixTable struct {
	table bart.Table[[]prefixRef]
	of    []*Block
	near  near // of the prefixes alone: 128 KB, which spare the neighbours of listed addresses the way down the tree
}

// newPrefixTable makes the table of blocks; old is given back when nothing of it changed.
func newPrefixTable(blocks []*Block, old *prefixTable) *prefixTable {
	var of []*Block
	for _, b := range blocks {
		if len(b.prefixes) > 0 {
			of = append(of, b)
		}
	}
	switch {
	case len(of) == 0:
		return nil
	case old != nil && slices.Equal(of, old.of):
		return old
	}
	t := &prefixTable{of: of}
	for _, b := range of {
		for i := range b.prefixes {
			e := &b.prefixes[i]
			t.table.Modify(e.prefix, func(refs []prefixRef, _ bool) ([]prefixRef, bool) {
				return append(refs, prefixRef{b, e.meta, e.ref}), false
			})
		}
	}
	t.near = near{make([]uint64, 1<<20/64), 12}
	t.near.add(t)
	return t
}

// contains reports whether a prefix holds a.
func (t *prefixTable) contains(a netip.Addr) bool {
	return t != nil && (!a.Is4() || t.near.may(number(a))) && t.table.Contains(a)
}

// near is a bitmap of the neighbourhoods of IPv4 in which something is listed, address or prefix, in any table. It takes one look at memory
// and is the whole answer for most addresses.
type near struct {
	bits  []uint64
	shift uint8 // from an address to its neighbourhood
}

// newNear makes a bitmap for n addresses in tables. Of eight neighbourhoods at most one has an address when they are spread evenly; at ten million these
// are of 64 addresses, in 8 MB.
func newNear(tables []*table4, prefixes *prefixTable) near {
	n := 0
	for _, t := range tables {
		n += len(t.hosts)
	}
	size := min(max(bits.Len(uint(n))+2, 16), 26)
	m := near{make([]uint64, 1<<size/64), uint8(32 - size)}
	huge(m.bits)
	for _, t := range tables {
		for i := range t.hosts {
			at := t.hosts[i].addr >> m.shift
			m.bits[at/64] |= 1 << (at % 64)
		}
	}
	m.add(prefixes)
	return m
}

// add marks prefixes.
func (m *near) add(prefixes *prefixTable) {
	if prefixes == nil {
		return
	}
	for _, b := range prefixes.of {
		for i := range b.prefixes {
			p := b.prefixes[i].prefix
			if !p.Addr().Is4() {
				continue
			}
			first := number(p.Addr()) >> m.shift
			for j := range uint32(1) << max(0, 32-int(m.shift)-p.Bits()) {
				at := first + j
				m.bits[at/64] |= 1 << (at % 64)
			}
		}
	}
}

// may reports whether something can be listed for an address.
func (m *near) may(a uint32) bool {
	at := a >> m.shift
	return m.bits != nil && m.bits[at/64]>>(at%64)&1 != 0
}
