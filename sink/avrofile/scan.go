package avrofile

import (
	"bufio"
	"encoding/binary"
	"errors"
	"io"
	"os"
)

// block is one block of a container file.
type block struct {
	records int64
	end     int64 // where the next one begins
}

// counter knows how far a file was read.
type counter struct {
	r  *bufio.Reader
	at int64
}

func (c *counter) ReadByte() (byte, error) {
	b, err := c.r.ReadByte()
	if err == nil {
		c.at++
	}
	return b, err
}

func (c *counter) read(b []byte) error {
	n, err := io.ReadFull(c.r, b)
	c.at += int64(n)
	return err
}

func (c *counter) skip(n int64) error {
	if n < 0 {
		return errFrame
	}
	m, err := io.CopyN(io.Discard, c.r, n)
	c.at += m
	return err
}

// long reads a number as Avro writes it, which is a varint of Go.
func (c *counter) long() (int64, error) { return binary.ReadVarint(c) }

var errFrame = errors.New("not a frame of a container file")

const maxRecords = 1 << 32

// scan finds the blocks of a container file by their frames (Avro 1.11, "Object Container Files"), up to the first one that
// is torn. Only I/O fails.
func scan(f *os.File) ([]block, error) {
	if _, err := f.Seek(0, io.SeekStart); err != nil {
		return nil, err
	}
	c := &counter{r: bufio.NewReaderSize(f, 64<<10)}
	var blocks []block
	marker, err := c.header()
	for err == nil {
		var b block
		if b, err = c.block(marker); err == nil {
			blocks = append(blocks, b)
		}
	}
	if _, io := errors.AsType[*os.PathError](err); io {
		return nil, err
	}
	return blocks, nil
}

// header reads magic, metadata and the marker that ends each block.
func (c *counter) header() (marker [16]byte, err error) {
	var magic [4]byte
	if err := c.read(magic[:]); err != nil || magic != [4]byte{'O', 'b', 'j', 1} {
		return marker, errors.Join(err, errFrame)
	}
	for {
		n, err := c.long()
		if err != nil {
			return marker, err
		}
		if n == 0 {
			return marker, c.read(marker[:])
		}
		if n < 0 { // followed by the size of the entries
			n = -n
			if _, err := c.long(); err != nil {
				return marker, err
			}
		}
		for range 2 * n { // keys and values
			size, err := c.long()
			if err != nil {
				return marker, err
			}
			if err := c.skip(size); err != nil {
				return marker, err
			}
		}
	}
}

func (c *counter) block(marker [16]byte) (b block, err error) {
	if b.records, err = c.long(); err != nil {
		return b, err
	}
	size, err := c.long()
	if err != nil {
		return b, err
	}
	if b.records <= 0 || b.records > maxRecords {
		return b, errFrame
	}
	if err := c.skip(size); err != nil {
		return b, err
	}
	var end [16]byte
	if err := c.read(end[:]); err != nil {
		return b, err
	}
	if end != marker {
		return b, errFrame
	}
	b.end = c.at
	return b, nil
}
