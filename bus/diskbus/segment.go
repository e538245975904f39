package diskbus

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/vauban-iot/vauban/bus"
)

const (
	segmentHead = 24
	entryHead   = 16
	suffix      = ".log"
)

var magic = [8]byte{'v', 'b', 'l', 'o', 'g', 0, 0, 1}

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// segment is one file of a log.
type segment struct {
	first uint64    // sequence number of its first entry
	begun time.Time // when it was made: no entry is older
	ended time.Time // when its newest entry was taken, or later; zero for the last segment
	size  int64     // bytes that are on disk and whole
}

func segmentPath(dir string, first uint64) string {
	return filepath.Join(dir, fmt.Sprintf("%020d%s", first, suffix))
}

// segmentFirst reads the first sequence number off a segment's name.
func segmentFirst(name string) (uint64, bool) {
	digits, ok := strings.CutSuffix(name, suffix)
	if !ok || len(digits) != 20 {
		return 0, false
	}
	first, err := strconv.ParseUint(digits, 10, 64)
	return first, err == nil && first > 0
}

func appendSegmentHead(b []byte, first uint64, begun time.Time) []byte {
	b = append(b, magic[:]...)
	b = binary.BigEndian.AppendUint64(b, first)
	return binary.BigEndian.AppendUint64(b, uint64(begun.UnixNano()))
}

// parseSegmentHead reads the first segmentHead bytes of a file.
func parseSegmentHead(b []byte) (first uint64, begun time.Time, err error) {
	if len(b) < segmentHead || !bytes.Equal(b[:8], magic[:]) {
		return 0, time.Time{}, errors.New("it does not begin as a log does")
	}
	return binary.BigEndian.Uint64(b[8:]), time.Unix(0, int64(binary.BigEndian.Uint64(b[16:]))), nil
}

func appendEntry(b []byte, seq uint64, at time.Time, data []byte) []byte {
	b = binary.BigEndian.AppendUint32(b, uint32(len(data)))
	sum := len(b)
	b = append(b, 0, 0, 0, 0)
	b = binary.BigEndian.AppendUint64(b, uint64(at.UnixNano()))
	b = append(b, data...)
	binary.BigEndian.PutUint32(b[sum:], checksum(seq, b[sum+4:]))
	return b
}

// checksum covers an entry's time and data, and its sequence number, so that an entry in another's place is not
// taken for it.
func checksum(seq uint64, timeAndData []byte) uint32 {
	var s [8]byte
	binary.BigEndian.PutUint64(s[:], seq)
	return crc32.Update(crc32.Checksum(s[:], castagnoli), castagnoli, timeAndData)
}

var errDamaged = errors.New("the entry is damaged")

// entryLength returns the size of the entry that head begins, in bytes.
func entryLength(head []byte) (int, error) {
	n := binary.BigEndian.Uint32(head)
	if n > bus.MaxEntry {
		return 0, errDamaged
	}
	return entryHead + int(n), nil
}

// parseEntry reads an entry that fills b. Its data is a part of b.
func parseEntry(b []byte, seq uint64) (bus.Entry, error) {
	if binary.BigEndian.Uint32(b[4:]) != checksum(seq, b[8:]) {
		return bus.Entry{}, errDamaged
	}
	return bus.Entry{Sequence: seq, Time: time.Unix(0, int64(binary.BigEndian.Uint64(b[8:]))), Data: b[entryHead:]}, nil
}

// window reads the entries of one file from front to back, many at a time.
type window struct {
	file io.ReaderAt
	off  int64  // of the next entry
	buf  []byte // bytes of the file from at
	at   int64
}

// windowSize is how much is read at a time; an entry may be larger.
const windowSize = 64 << 10

// bytes returns n bytes of the file at the place of the next entry; they are good until the next call. limit is
// where the file ends for now.
func (w *window) bytes(n int, limit int64) ([]byte, error) {
	if w.off+int64(n) > limit {
		return nil, io.ErrUnexpectedEOF
	}
	if from := w.off - w.at; from < 0 || from+int64(n) > int64(len(w.buf)) {
		size := int(min(limit-w.off, int64(max(n, windowSize))))
		if cap(w.buf) < size || cap(w.buf) > 16*windowSize && size <= windowSize {
			w.buf = make([]byte, max(size, windowSize))
		}
		w.buf, w.at = w.buf[:size], w.off
		if got, err := w.file.ReadAt(w.buf, w.off); err != nil && !(errors.Is(err, io.EOF) && got == size) {
			w.buf = w.buf[:0]
			return nil, err
		}
	}
	from := w.off - w.at
	return w.buf[from : from+int64(n)], nil
}

// next returns the entry with sequence number seq, which must be the next. It fails with io.EOF at limit.
func (w *window) next(seq uint64, limit int64) (bus.Entry, error) {
	if w.off == limit {
		return bus.Entry{}, io.EOF
	}
	head, err := w.bytes(entryHead, limit)
	if err != nil {
		return bus.Entry{}, err
	}
	n, err := entryLength(head)
	if err != nil {
		return bus.Entry{}, err
	}
	b, err := w.bytes(n, limit)
	if err != nil {
		return bus.Entry{}, err
	}
	e, err := parseEntry(b, seq)
	if err != nil {
		return bus.Entry{}, err
	}
	w.off += int64(n)
	return e, nil
}

// recovered is what is whole of the last segment after a crash.
type recovered struct {
	next uint64 // sequence number of the entry that comes next
	last time.Time
	size int64 // where the whole entries end
}

// recoverSegment reads a segment until it ends or is not whole.
func recoverSegment(f *os.File, first uint64, limit int64) recovered {
	w := &window{file: f, off: segmentHead}
	r := recovered{next: first, size: segmentHead}
	for {
		e, err := w.next(r.next, limit)
		if err != nil {
			return r
		}
		r.next, r.last, r.size = r.next+1, e.Time, w.off
	}
}
