package vuln

import (
	"bytes"
	"cmp"
	"compress/flate"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"slices"
	"sort"
	"strings"
	"time"

	"github.com/vauban-iot/vauban/defender/vuln/format"
	"github.com/vauban-iot/vauban/defender/vuln/version"
)

// Kind of a source.
type Kind string

// The kinds.
const (
	OSV  Kind = "osv"
	KEV  Kind = "kev"
	EPSS Kind = "epss"
)

// Source is a part of the database: what one file gave.
type Source struct {
	Name       string    `json:"name"`
	Kind       Kind      `json:"kind"`
	Generation int64     `json:"generation"` // grows with each import
	Records    int       `json:"records"`    // that are kept
	Broken     int       `json:"broken"`     // that could not be read
	Left       int       `json:"left"`       // withdrawn, or of ecosystems that no device has software of
	Bytes      int64     `json:"bytes"`      // as it is kept
	Published  time.Time `json:"published,omitzero"`
	Imported   time.Time `json:"imported"`
	Ecosystems []string  `json:"ecosystems,omitempty"` // at most 50
	Origin     string    `json:"origin,omitempty"`     // the file it came from, with its size and time; empty: uploaded
	Problems   []string  `json:"problems,omitempty"`   // the first of what could not be read
}

const maxProblems = 10

func (s *Source) broke(format string, args ...any) {
	s.Broken++
	if len(s.Problems) < maxProblems {
		s.Problems = append(s.Problems, fmt.Sprintf(format, args...))
	}
}

// info is what is told of a vulnerability.
type info struct {
	ID       string            `json:"i"`
	Aliases  []string          `json:"a,omitempty"`
	Summary  string            `json:"s,omitempty"`
	Modified time.Time         `json:"m,omitzero"`
	Severity []format.Severity `json:"v,omitempty"`
}

// A packed source of OSV is: magic; blocks of infos, deflated; the affected packages in order of ecosystem and name; offsets of
// blocks and packages; a trailer. Only what is asked for is unpacked.
const (
	magic     = "vauban-osv-1\n"
	blockSize = 64 // infos of a block
	trailer   = 32
)

// MaxRecords bounds the records of a source.
const MaxRecords = 2_000_000

type affected struct {
	key  string // ecosystem, a zero byte, name
	data []byte // number of the info, ranges, versions
}

// builder packs records.
type builder struct {
	out     bytes.Buffer
	block   []info
	offsets []uint32 // of blocks
	count   int
	all     []affected
	counts  map[string]int // of affected packages, by the ecosystem's first word
	names   map[string]string
}

func newBuilder() *builder {
	b := &builder{counts: make(map[string]int), names: make(map[string]string)}
	b.out.WriteString(magic)
	return b
}

var errTooLarge = errors.New("it is too large: over 3 GiB as it would be kept, or over 2 million records")

// add packs a record; kept is false for one that no device could be affected by.
func (b *builder) add(r *format.Record) (kept bool, err error) {
	if r.Withdrawn {
		return false, nil
	}
	plain := make(map[string]bool)
	for i := range r.Affected {
		if e, pro := ecosystem(r.Affected[i].Ecosystem); !pro {
			plain[e+"\x00"+r.Affected[i].Name] = true
		}
	}
	for i := range r.Affected {
		a := &r.Affected[i]
		e, pro := ecosystem(a.Ecosystem)
		if e == "" || len(a.Ranges)+len(a.Versions) == 0 {
			continue
		}
		name := a.Name
		if e == "PyPI" {
			name = pythonName(name)
		}
		key := e + "\x00" + name
		if pro && plain[key] {
			continue
		}
		if same, ok := b.names[key]; ok {
			key = same // one text for all
		} else {
			b.names[key] = key
		}
		b.all = append(b.all, affected{key, packAffected(b.count, e, a)})
		base, _, _ := strings.Cut(e, ":")
		b.counts[base]++
		kept = true
	}
	if !kept {
		return false, nil
	}
	b.block = append(b.block, info{r.ID, r.Aliases, r.Summary, r.Modified, r.Severity})
	if b.count++; b.count > MaxRecords || b.out.Len() > 3<<30 {
		return false, errTooLarge
	}
	if len(b.block) == blockSize {
		return true, b.flush()
	}
	return true, nil
}

func (b *builder) flush() error {
	b.offsets = append(b.offsets, uint32(b.out.Len()))
	w, err := flate.NewWriter(&b.out, flate.BestSpeed)
	if err != nil {
		return err
	}
	if err := json.NewEncoder(w).Encode(b.block); err != nil {
		return err
	}
	b.block = b.block[:0]
	return w.Close()
}

// The kinds of events, as they are packed.
const (
	introduced = iota
	fixed
	lastAffected
	limit
)

type point struct {
	kind byte
	at   string
}

func packAffected(number int, ecosystem string, a *format.Affected) []byte {
	compare := version.For(ecosystem)
	data := binary.AppendUvarint(nil, uint64(number))
	text := func(s string) {
		data = binary.AppendUvarint(data, uint64(len(s)))
		data = append(data, s...)
	}
	var ranges [][]point
	if compare != nil {
		for _, r := range a.Ranges {
			var points []point
			for _, e := range r.Events {
				switch {
				case e.Introduced != "":
					points = append(points, point{introduced, e.Introduced})
				case e.Fixed != "":
					points = append(points, point{fixed, e.Fixed})
				case e.LastAffected != "":
					points = append(points, point{lastAffected, e.LastAffected})
				case e.Limit != "":
					points = append(points, point{limit, e.Limit})
				}
			}
			slices.SortStableFunc(points, func(a, b point) int { return comparePoints(compare, a, b) })
			ranges = append(ranges, points)
		}
	}
	data = binary.AppendUvarint(data, uint64(len(ranges)))
	for _, points := range ranges {
		data = binary.AppendUvarint(data, uint64(len(points)))
		for _, p := range points {
			data = append(data, p.kind)
			text(p.at)
		}
	}
	// A version that a range holds already need not be listed.
	var versions []string
	for _, v := range a.Versions {
		in := false
		for _, points := range ranges {
			in = in || within(compare, points, v)
		}
		if !in {
			versions = append(versions, v)
		}
	}
	data = binary.AppendUvarint(data, uint64(len(versions)))
	for _, v := range versions {
		text(v)
	}
	return data
}

// comparePoints orders events; 0 as where something was introduced is before every version.
func comparePoints(compare version.Compare, a, b point) int {
	za, zb := a.kind == introduced && a.at == "0", b.kind == introduced && b.at == "0"
	switch {
	case za && zb:
		return 0
	case za:
		return -1
	case zb:
		return 1
	}
	return compare(a.at, b.at)
}

// within evaluates a range as OSV's schema says.
func within(compare version.Compare, points []point, v string) bool {
	in, limits, below := false, false, false
	for _, p := range points {
		switch p.kind {
		case introduced:
			if p.at == "0" || compare(v, p.at) >= 0 {
				in = true
			}
		case fixed:
			if compare(v, p.at) >= 0 {
				in = false
			}
		case lastAffected:
			if compare(v, p.at) > 0 {
				in = false
			}
		case limit:
			limits = true
			below = below || p.at == "*" || compare(v, p.at) < 0
		}
	}
	return in && (!limits || below)
}

// finish returns the packed source.
func (b *builder) finish() ([]byte, error) {
	if len(b.block) > 0 {
		if err := b.flush(); err != nil {
			return nil, err
		}
	}
	slices.SortStableFunc(b.all, func(x, y affected) int { return cmp.Compare(x.key, y.key) })
	var keys []uint32
	var scratch []byte
	for i := 0; i < len(b.all); {
		end := i
		for end < len(b.all) && b.all[end].key == b.all[i].key {
			end++
		}
		if b.out.Len() > 3<<30 {
			return nil, errTooLarge
		}
		keys = append(keys, uint32(b.out.Len()))
		scratch = binary.AppendUvarint(scratch[:0], uint64(len(b.all[i].key)))
		scratch = append(scratch, b.all[i].key...)
		scratch = binary.AppendUvarint(scratch, uint64(end-i))
		b.out.Write(scratch)
		for ; i < end; i++ {
			scratch = binary.AppendUvarint(scratch[:0], uint64(len(b.all[i].data)))
			b.out.Write(append(scratch, b.all[i].data...))
			b.all[i].data = nil
		}
	}
	tail := make([]byte, 0, 4*(len(b.offsets)+len(keys))+trailer)
	at := b.out.Len()
	for _, o := range append(b.offsets, keys...) {
		tail = binary.LittleEndian.AppendUint32(tail, o)
	}
	for _, n := range []int{at, len(b.offsets), len(keys), b.count} {
		tail = binary.LittleEndian.AppendUint64(tail, uint64(n))
	}
	b.out.Write(tail)
	return b.out.Bytes(), nil
}

// packed is a source of OSV in use.
type packed struct {
	data           []byte
	blocks, keys   int
	table          int // where the offsets begin
	count          int
	unpacked       []info // the block that was asked for last
	unpackedNumber int
}

var errDamaged = errors.New("the packed database is damaged; import the file again")

func openPacked(data []byte) (*packed, error) {
	if len(data) < len(magic)+trailer || !bytes.HasPrefix(data, []byte(magic)) {
		return nil, errDamaged
	}
	tail := data[len(data)-trailer:]
	number := func(i int) int { return int(binary.LittleEndian.Uint64(tail[8*i:]) & (1<<40 - 1)) }
	p := &packed{data: data, table: number(0), blocks: number(1), keys: number(2), count: number(3), unpackedNumber: -1}
	if p.table > len(data) || p.table+4*(p.blocks+p.keys)+trailer != len(data) || p.blocks != (p.count+blockSize-1)/blockSize {
		return nil, errDamaged
	}
	return p, nil
}

func (p *packed) offset(i int) int { return int(binary.LittleEndian.Uint32(p.data[p.table+4*i:])) }

// cursor reads packed values; it never reads beyond its end.
type cursor struct {
	rest []byte
	bad  bool
}

func (c *cursor) number() int {
	n, w := binary.Uvarint(c.rest)
	if w <= 0 || n > 1<<31 {
		c.bad, c.rest = true, nil
		return 0
	}
	c.rest = c.rest[w:]
	return int(n)
}

func (c *cursor) bytes() []byte {
	n := c.number()
	if n > len(c.rest) {
		c.bad, c.rest = true, nil
		return nil
	}
	b := c.rest[:n]
	c.rest = c.rest[n:]
	return b
}

func (p *packed) key(i int) (string, *cursor) {
	at := p.offset(p.blocks + i)
	if at > p.table {
		return "", &cursor{bad: true}
	}
	c := &cursor{rest: p.data[at:p.table]}
	return string(c.bytes()), c
}

// hit is a vulnerability that a version has.
type hit struct {
	number int
	fixed  string // the next version without it; empty: none is known
}

// find returns what a version of a package is affected by.
func (p *packed) find(ecosystem, name, v string) ([]hit, error) {
	key := ecosystem + "\x00" + name
	i := sort.Search(p.keys, func(i int) bool {
		k, _ := p.key(i)
		return k >= key
	})
	if i == p.keys {
		return nil, nil
	}
	k, c := p.key(i)
	if k != key {
		return nil, nil
	}
	compare := version.For(ecosystem)
	var hits []hit
	for range c.number() {
		e := &cursor{rest: c.bytes()}
		h := hit{number: e.number()}
		found := false
		for range e.number() {
			var points []point
			for range e.number() {
				if len(e.rest) == 0 {
					return nil, errDamaged
				}
				kind := e.rest[0]
				e.rest = e.rest[1:]
				points = append(points, point{kind, string(e.bytes())})
			}
			if compare == nil || e.bad || !within(compare, points, v) {
				continue
			}
			found = true
			for _, q := range points {
				if q.kind == fixed && compare(q.at, v) > 0 && (h.fixed == "" || compare(q.at, h.fixed) < 0) {
					h.fixed = q.at
				}
			}
		}
		for range e.number() {
			if string(e.bytes()) == v {
				found = true
			}
		}
		if e.bad || c.bad {
			return nil, errDamaged
		}
		if found {
			hits = append(hits, h)
		}
	}
	return hits, nil
}

// info unpacks what is told of a vulnerability.
func (p *packed) info(number int) (*info, error) {
	block := number / blockSize
	if number < 0 || number >= p.count {
		return nil, errDamaged
	}
	if block != p.unpackedNumber {
		if p.offset(block) > p.table {
			return nil, errDamaged
		}
		r := flate.NewReader(bytes.NewReader(p.data[p.offset(block):p.table]))
		var all []info
		if err := json.NewDecoder(io.LimitReader(r, 64<<20)).Decode(&all); err != nil {
			return nil, fmt.Errorf("%w: %w", errDamaged, err)
		}
		p.unpacked, p.unpackedNumber = all, block
	}
	if i := number % blockSize; i < len(p.unpacked) {
		return &p.unpacked[i], nil
	}
	return nil, errDamaged
}
