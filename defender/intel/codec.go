package intel

import (
	"bufio"
	"compress/flate"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math"
	"net/netip"
)

// codecName begins every encoded block. Another form gets another name; what is unknown is fetched anew.
const codecName = "vauban-intel-1"

// errBlock is what Decode says of bytes that are no block.
var errBlock = errors.New("intel: not a stored block")

// Encode writes b, compressed.
func (b *Block) Encode(w io.Writer) error {
	z, err := flate.NewWriter(w, flate.BestSpeed)
	if err != nil {
		return err
	}
	e := &encoder{w: bufio.NewWriterSize(z, 64<<10)}
	e.text(codecName)
	e.number(uint64(len(b.metas)))
	for i := range b.metas {
		m := &b.metas[i]
		e.number(uint64(m.from))
		e.number(uint64(m.until))
		e.number(uint64(m.port))
		e.number(uint64(m.confidence))
		named := uint64(0)
		if m.named {
			named = 1
		}
		e.number(named)
		e.text(m.labels)
	}
	e.number(uint64(len(b.refs)))
	for _, r := range b.refs {
		e.text(r)
	}
	e.number(uint64(len(b.groups)))
	for k, v := range b.groups {
		e.text(k)
		e.text(v)
	}
	e.number(uint64(len(b.v4)))
	last := uint32(0)
	for _, h := range b.v4 {
		e.number(uint64(h.addr - last))
		e.entry(h.meta, h.ref)
		last = h.addr
	}
	e.number(uint64(len(b.v6)))
	for i := range b.v6 {
		e.bytes(b.v6[i].addr[:])
		e.entry(b.v6[i].meta, b.v6[i].ref)
	}
	e.number(uint64(len(b.prefixes)))
	for _, p := range b.prefixes {
		a := p.prefix.Addr().AsSlice()
		e.number(uint64(len(a)))
		e.bytes(a)
		e.number(uint64(p.prefix.Bits()))
		e.entry(p.meta, p.ref)
	}
	e.number(uint64(len(b.domains)))
	for _, d := range b.domains {
		e.text(d.name)
		e.entry(d.meta, d.ref)
	}
	if e.err == nil {
		e.err = e.w.Flush()
	}
	return errors.Join(e.err, z.Close())
}

type encoder struct {
	w    *bufio.Writer
	err  error
	room [binary.MaxVarintLen64]byte
}

func (e *encoder) bytes(p []byte) {
	if e.err == nil {
		_, e.err = e.w.Write(p)
	}
}
func (e *encoder) number(n uint64) { e.bytes(e.room[:binary.PutUvarint(e.room[:], n)]) }
func (e *encoder) entry(m, r uint32) {
	e.number(uint64(m))
	e.number(uint64(r))
}

func (e *encoder) text(s string) {
	e.number(uint64(len(s)))
	if e.err == nil {
		_, e.err = e.w.WriteString(s)
	}
}

// Decode reads what Encode wrote, as a block of s.
func Decode(s Source, r io.Reader) (*Block, error) {
	z := flate.NewReader(r)
	defer z.Close()
	d := &decoder{r: bufio.NewReaderSize(z, 64<<10)}
	if d.text(64) != codecName {
		return nil, errors.Join(errBlock, d.err)
	}
	b := &Block{Source: s}
	for n := d.count(); n > 0 && d.err == nil; n-- {
		m := meta{block: b}
		m.from, m.until = int64(d.number(math.MaxInt64)), int64(d.number(math.MaxInt64))
		m.port, m.confidence = uint16(d.number(math.MaxUint16)), uint8(d.number(100))
		m.named = d.number(1) == 1
		m.labels = d.text(maxLabels * (8*maxLabel + 1))
		b.metas = append(b.metas, m)
	}
	for n := d.count(); n > 0 && d.err == nil; n-- {
		b.refs = append(b.refs, d.text(2*maxRef))
	}
	if n := d.count(); n > 0 {
		b.groups = make(map[string]string)
		for ; n > 0 && d.err == nil; n-- {
			k := d.text(math.MaxUint16)
			b.groups[k] = d.text(math.MaxUint16)
		}
	}
	if n := d.count(); n > 0 {
		b.v4 = make([]host4, 0, min(n, 1<<16))
		if n > 1<<16 && d.err == nil {
			b.v4 = make([]host4, 0, n) // at most maxIndicators, 400 MB
		}
		last := uint64(0)
		for ; n > 0 && d.err == nil; n-- {
			if last += d.number(math.MaxUint32); last > math.MaxUint32 {
				return nil, errBlock
			}
			m, ref := d.entry(b)
			b.v4 = append(b.v4, host4{uint32(last), m, ref})
		}
	}
	for n := d.count(); n > 0 && d.err == nil; n-- {
		var h host6
		d.bytes(h.addr[:])
		h.meta, h.ref = d.entry(b)
		b.v6 = append(b.v6, h)
	}
	for n := d.count(); n > 0 && d.err == nil; n-- {
		room := make([]byte, d.number(16))
		d.bytes(room)
		a, ok := netip.AddrFromSlice(room)
		p := netip.PrefixFrom(a, int(d.number(128)))
		if !ok || !p.IsValid() || p != p.Masked() {
			return nil, errors.Join(errBlock, d.err)
		}
		m, ref := d.entry(b)
		b.prefixes = append(b.prefixes, prefixEntry{p, m, ref})
	}
	for n := d.count(); n > 0 && d.err == nil; n-- {
		name := d.text(maxDomain)
		m, ref := d.entry(b)
		b.domains = append(b.domains, domainEntry{name, m, ref})
	}
	if d.err == nil { // the end must be there: deflate says only then that nothing is missing
		if _, err := d.r.ReadByte(); !errors.Is(err, io.EOF) {
			d.err = errors.Join(errBlock, err)
		}
	}
	if d.err != nil {
		return nil, fmt.Errorf("%w: %w", errBlock, d.err)
	}
	return b, nil
}

type decoder struct {
	r   *bufio.Reader
	err error
}

func (d *decoder) fail() {
	if d.err == nil {
		d.err = errBlock
	}
}

func (d *decoder) number(most uint64) uint64 {
	if d.err != nil {
		return 0
	}
	n, err := binary.ReadUvarint(d.r)
	if err != nil {
		d.err = err
		return 0
	}
	if n > most {
		d.fail()
		return 0
	}
	return n
}

func (d *decoder) count() int { return int(d.number(maxIndicators)) }

func (d *decoder) bytes(p []byte) {
	if d.err == nil {
		_, d.err = io.ReadFull(d.r, p)
	}
}

func (d *decoder) text(most uint64) string {
	p := make([]byte, d.number(most))
	d.bytes(p)
	if d.err != nil {
		return ""
	}
	return string(p)
}

// entry reads meta and ref, which must exist.
func (d *decoder) entry(b *Block) (m, ref uint32) {
	m, ref = uint32(d.number(math.MaxUint32)), uint32(d.number(math.MaxUint32))
	if int(m) >= len(b.metas) || b.metas[m].named && int(ref) >= len(b.refs) {
		d.fail()
	}
	return m, ref
}
