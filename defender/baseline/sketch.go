package baseline

import (
	"encoding/json"
	"fmt"
	"math/bits"
	"slices"
)

// crowd counts distinct devices in bounded memory: it keeps the smallest hashes of those it saw. Up to its size it is exact; beyond, the
// largest of the kept hashes tells how dense they lie, and so how many there are, give or take one part in the root of the size.
type crowd struct {
	size   int
	hashes []uint64 // sorted
}

// The sizes of crowds: of an entry (12 % off beyond 64 devices) and of a group (6 % off beyond 256).
const (
	crowdOfEntry = 64
	crowdOfGroup = 256
)

func (c *crowd) add(h uint64) {
	n := len(c.hashes)
	if n == c.size && h >= c.hashes[n-1] {
		return
	}
	at, have := slices.BinarySearch(c.hashes, h)
	if have {
		return
	}
	if n == c.size {
		c.hashes = c.hashes[:n-1]
	}
	c.hashes = slices.Insert(c.hashes, at, h)
}

func (c *crowd) merge(o *crowd) {
	for _, h := range o.hashes {
		c.add(h)
	}
}

func (c *crowd) count() int {
	n := len(c.hashes)
	if n < c.size {
		return n
	}
	// n-1 hashes lie evenly below the largest.
	hi, _ := bits.Div64(uint64(n-1), 0, max(c.hashes[n-1], uint64(n)))
	return max(n, int(hi))
}

// histogram counts values in buckets of an eighth of their size: quantiles are at most 12.5 % too high. The zero value is empty.
type histogram struct {
	n       uint64
	buckets map[uint16]uint64 // at most 8*61+8
}

const finest = 3 // bits of a value that tell buckets of one magnitude apart

func bucketOf(v uint64) uint16 {
	if v < 1<<finest {
		return uint16(v)
	}
	shift := bits.Len64(v) - finest - 1
	return uint16(shift+1)<<finest | uint16(v>>shift)&(1<<finest-1)
}

// largest is the largest value of a bucket.
func largest(b uint16) uint64 {
	if b < 1<<finest {
		return uint64(b)
	}
	shift := int(b>>finest) - 1
	return (uint64(b)&(1<<finest-1)|1<<finest)<<shift + 1<<shift - 1
}

func (h *histogram) add(v uint64) {
	if h.buckets == nil {
		h.buckets = make(map[uint16]uint64)
	}
	h.n++
	h.buckets[bucketOf(v)]++
}

// quantile is a value that the share q of all is not above; 0 when there is none.
func (h *histogram) quantile(q float64) uint64 {
	rest := uint64(q * float64(h.n))
	var last uint64
	for _, b := range h.sorted() {
		last = largest(b)
		if n := h.buckets[b]; n > rest {
			return last
		} else {
			rest -= n
		}
	}
	return last
}

func (h *histogram) sorted() []uint16 {
	all := make([]uint16, 0, len(h.buckets))
	for b := range h.buckets {
		all = append(all, b)
	}
	slices.Sort(all)
	return all
}

// MarshalJSON writes pairs of bucket and count.
func (h histogram) MarshalJSON() ([]byte, error) {
	pairs := make([][2]uint64, 0, len(h.buckets))
	for _, b := range h.sorted() {
		pairs = append(pairs, [2]uint64{uint64(b), h.buckets[b]})
	}
	return json.Marshal(pairs)
}

// UnmarshalJSON undoes MarshalJSON.
func (h *histogram) UnmarshalJSON(text []byte) error {
	var pairs [][2]uint64
	if err := json.Unmarshal(text, &pairs); err != nil {
		return err
	}
	*h = histogram{}
	for _, p := range pairs {
		if p[0] > uint64(bucketOf(1<<64-1)) {
			return fmt.Errorf("baseline: there is no bucket %d", p[0])
		}
		if h.buckets == nil {
			h.buckets = make(map[uint16]uint64, len(pairs))
		}
		h.buckets[uint16(p[0])] += p[1]
		h.n += p[1]
	}
	return nil
}
