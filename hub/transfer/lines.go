package transfer

import (
	"bufio"
	"bytes"
	"errors"
	"io"

	"github.com/vauban-iot/vauban/fault"
	"github.com/vauban-iot/vauban/hub/registry"
)

// MaxLine bounds a line of a file, in bytes: the largest identity with a full twin has less than half of it.
const MaxLine = 256 << 10

// Line is a line of an import that holds something.
type Line struct {
	Number int // from 1
	Entry  registry.Entry
	Err    error // why it cannot be carried out; fault.Malformed and Invalid
}

// raw is a line that is not parsed yet.
type raw struct {
	number int
	text   []byte
	long   bool // it has more than MaxLine bytes, which are not kept
}

func (r raw) parse() Line {
	l := Line{Number: r.number}
	if r.long {
		l.Err = fault.New(fault.Invalid, "the line has more than %d bytes", MaxLine)
		return l
	}
	l.Entry, l.Err = registry.ParseLine(r.text)
	return l
}

// scanner cuts a file into lines. Blank ones are left out.
type scanner struct {
	r      *bufio.Reader
	number int
	bytes  int64 // read so far
}

func newScanner(r io.Reader) *scanner { return &scanner{r: bufio.NewReaderSize(r, MaxLine+2)} }

var bom = []byte("\ufeff")

// next returns the next line, whose text the caller owns; io.EOF at the end.
func (s *scanner) next() (raw, error) {
	for {
		text, err := s.r.ReadSlice('\n')
		s.number++
		s.bytes += int64(len(text))
		long := errors.Is(err, bufio.ErrBufferFull)
		for errors.Is(err, bufio.ErrBufferFull) {
			var more []byte
			more, err = s.r.ReadSlice('\n')
			s.bytes += int64(len(more))
		}
		if err != nil && !errors.Is(err, io.EOF) {
			return raw{}, err
		}
		if long {
			return raw{number: s.number, long: true}, nil
		}
		if s.number == 1 {
			text = bytes.TrimPrefix(text, bom)
		}
		if text = bytes.TrimSpace(text); len(text) > 0 {
			if len(text) > MaxLine {
				return raw{number: s.number, long: true}, nil
			}
			return raw{number: s.number, text: bytes.Clone(text)}, nil
		}
		if err != nil {
			return raw{}, io.EOF
		}
	}
}

// EachLine parses a file, line by line, for whoever only looks: each is called until it returns an error, which EachLine returns.
func EachLine(r io.Reader, each func(Line) error) error {
	for s := newScanner(r); ; {
		line, err := s.next()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
		if err := each(line.parse()); err != nil {
			return err
		}
	}
}
