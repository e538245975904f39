package evaluate

import (
	"bufio"
	"cmp"
	"container/heap"
	"encoding/binary"
	"fmt"
	"io"
	"math"
	"net/netip"
	"os"
	"slices"

	"github.com/vauban-iot/vauban/wire/connlog"
)

// A log is in the order in which connections ended. spool brings millions of them into the order in which they began, in bounded memory:
// sorted parts go to a temporary file and are merged.
type spool struct {
	dir    string
	file   *os.File
	parts  []part
	rows   []row
	end    int64
	labels []string
	index  map[string]uint16
}

type part struct{ at, size int64 }

// row is a record as the spool keeps it.
type row struct {
	at         int64 // microseconds
	last       uint32
	label      uint16 // behind the last one: benign
	protocol   uint8
	orig, resp netip.AddrPort
	out, in    uint64 // IP payload of orig and of resp
}

const (
	maxRows   = 256 << 10 // in memory: 30 MB
	maxLabels = 200
	rowSize   = 8 + 4 + 2 + 1 + 2*18 + 16
)

const (
	protoTCP = iota
	protoUDP
	protoICMP
)

var protocols = []string{"TCP", "UDP", "ICMP"}

func newSpool(dir string) *spool { return &spool{dir: dir, index: make(map[string]uint16)} }

func (s *spool) close() {
	if s.file != nil {
		s.file.Close()
		os.Remove(s.file.Name())
	}
}

const benign = math.MaxUint16

// add takes a record; ok is false for a protocol that boards do not count.
func (s *spool) add(r *connlog.Record) (ok bool, err error) {
	v := row{at: r.Start.UnixMicro(), last: uint32(min(r.Duration.Milliseconds(), math.MaxUint32)), label: benign, orig: r.Orig, resp: r.Resp}
	switch r.Protocol {
	case "tcp":
		v.protocol = protoTCP
	case "udp":
		v.protocol = protoUDP
	case "icmp":
		v.protocol = protoICMP
	default:
		return false, nil
	}
	v.out, v.in = r.Bytes()
	if r.Malicious {
		name := r.Label[:min(len(r.Label), 80)]
		n, known := s.index[name]
		if !known {
			if len(s.labels) >= maxLabels {
				name = "other"
			}
			if n, known = s.index[name]; !known {
				n = uint16(len(s.labels))
				s.index[name] = n
				s.labels = append(s.labels, name)
			}
		}
		v.label = n
	}
	s.rows = append(s.rows, v)
	if len(s.rows) < maxRows {
		return true, nil
	}
	return true, s.spill()
}

func (s *spool) sort() {
	slices.SortStableFunc(s.rows, func(a, b row) int { return cmp.Compare(a.at, b.at) })
}

func (s *spool) spill() error {
	s.sort()
	if s.file == nil {
		f, err := os.CreateTemp(s.dir, "vauban-evaluate-*")
		if err != nil {
			return fmt.Errorf("make a temporary file for connections: %w", err)
		}
		s.file = f
	}
	w := bufio.NewWriterSize(s.file, 1<<20)
	buf := make([]byte, 0, rowSize)
	for i := range s.rows {
		if _, err := w.Write(s.rows[i].append(buf)); err != nil {
			return fmt.Errorf("keep connections in %s: %w", s.file.Name(), err)
		}
	}
	if err := w.Flush(); err != nil {
		return fmt.Errorf("keep connections in %s: %w", s.file.Name(), err)
	}
	size := int64(len(s.rows) * rowSize)
	s.parts = append(s.parts, part{s.end, size})
	s.end += size
	s.rows = s.rows[:0]
	return nil
}

func (v *row) append(b []byte) []byte {
	b = binary.LittleEndian.AppendUint64(b, uint64(v.at))
	b = binary.LittleEndian.AppendUint32(b, v.last)
	b = binary.LittleEndian.AppendUint16(b, v.label)
	b = append(b, v.protocol)
	for _, a := range []netip.AddrPort{v.orig, v.resp} {
		x := a.Addr().As16()
		b = append(b, x[:]...)
		b = binary.LittleEndian.AppendUint16(b, a.Port())
	}
	b = binary.LittleEndian.AppendUint64(b, v.out)
	return binary.LittleEndian.AppendUint64(b, v.in)
}

func (v *row) read(b []byte) {
	v.at = int64(binary.LittleEndian.Uint64(b))
	v.last = binary.LittleEndian.Uint32(b[8:])
	v.label = binary.LittleEndian.Uint16(b[12:])
	v.protocol = b[14]
	for i, a := range []*netip.AddrPort{&v.orig, &v.resp} {
		at := 15 + 18*i
		*a = netip.AddrPortFrom(netip.AddrFrom16([16]byte(b[at:at+16])).Unmap(), binary.LittleEndian.Uint16(b[at+16:]))
	}
	v.out = binary.LittleEndian.Uint64(b[51:])
	v.in = binary.LittleEndian.Uint64(b[59:])
}

// cursor reads one sorted part.
type cursor struct {
	r   *bufio.Reader
	now row
	n   int // of the part
	buf [rowSize]byte
}

func (c *cursor) next() (bool, error) {
	if _, err := io.ReadFull(c.r, c.buf[:]); err != nil {
		if err == io.EOF {
			return false, nil
		}
		return false, fmt.Errorf("read connections back: %w", err)
	}
	c.now.read(c.buf[:])
	return true, nil
}

type cursors []*cursor

func (c cursors) Len() int { return len(c) }
func (c cursors) Less(i, j int) bool {
	return c[i].now.at < c[j].now.at || c[i].now.at == c[j].now.at && c[i].n < c[j].n
}
func (c cursors) Swap(i, j int) { c[i], c[j] = c[j], c[i] }
func (c *cursors) Push(x any)   { *c = append(*c, x.(*cursor)) }
func (c *cursors) Pop() any {
	last := (*c)[len(*c)-1]
	*c = (*c)[:len(*c)-1]
	return last
}

// each walks all rows by time.
func (s *spool) each(do func(*row) error) error {
	if s.file == nil {
		s.sort()
		for i := range s.rows {
			if err := do(&s.rows[i]); err != nil {
				return err
			}
		}
		return nil
	}
	if len(s.rows) > 0 {
		if err := s.spill(); err != nil {
			return err
		}
	}
	s.rows = nil
	var q cursors
	for n, p := range s.parts {
		c := &cursor{r: bufio.NewReaderSize(io.NewSectionReader(s.file, p.at, p.size), 64<<10), n: n}
		ok, err := c.next()
		if err != nil {
			return err
		}
		if ok {
			q = append(q, c)
		}
	}
	heap.Init(&q)
	for len(q) > 0 {
		if err := do(&q[0].now); err != nil {
			return err
		}
		ok, err := q[0].next()
		if err != nil {
			return err
		}
		if ok {
			heap.Fix(&q, 0)
		} else {
			heap.Pop(&q)
		}
	}
	return nil
}
