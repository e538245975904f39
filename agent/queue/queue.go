// Package queue keeps messages on disk until they are sent. What Put returned for survives kill -9 and, as far as the disk keeps its
// word, loss of power; a message that was being sent at that moment may be sent again.
//
// The queue is a folder of segment files of records, oldest first, and a file that says how far it was read. A record that was
// only half written when the machine stopped is cut off when the queue is opened; one that is damaged ends its segment. The queue is
// bounded in bytes: when it is full the oldest messages go, and are counted.
package queue

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io/fs"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/vauban-iot/vauban/internal/atomicfile"
)

// Message is one that waits.
type Message struct {
	Time  time.Time // when it was put, to the second
	Label string    // what the sender must know about it; at most 255 bytes
	Body  []byte
}

const (
	magic      = "VQ1\n"
	headerSize = 4 + 4 + 8 + 1 // length, checksum, time, length of the label
	// MaxBody is the longest message (hub-device §7).
	MaxBody = 256 << 10
	// segmentSize is when another file begins. A queue takes so much more than its limit at most.
	segmentSize = 1 << 20
	// MinBytes is the smallest limit: it holds one message.
	MinBytes = MaxBody + headerSize + 255
	ext      = ".q"
	place    = "place"
)

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// ErrTooLarge is returned for a message over MaxBody.
var ErrTooLarge = errors.New("queue: message over 256 KiB")

// Queue is an open queue. One goroutine may read while others put.
type Queue struct {
	dir   string
	limit int64

	mu      sync.Mutex
	segs    []segment
	tail    *os.File // of the last segment; nil: there is none yet
	head    position // in segs[0], the next to read
	length  int      // messages
	dropped uint64   // since it was opened: because it was full
	damaged uint64   // since it was opened: segments that ended early
	more    chan struct{}
}

// segment is a file. Its name is its number.
type segment struct {
	number uint64
	sizes  []int64 // of its records that wait, oldest first
	end    int64   // of the file
}

type position struct {
	number uint64
	offset int64
}

// Open opens the queue in dir, which it makes when it is missing, and bounds it to limit bytes, at least MinBytes.
func Open(dir string, limit int64) (*Queue, error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("the queue cannot be made: %w", err)
	}
	q := &Queue{dir: dir, more: make(chan struct{}, 1)}
	entries, err := os.ReadDir(dir)
	if err != nil {
		return nil, fmt.Errorf("the queue cannot be read: %w", err)
	}
	at := q.readPlace()
	for _, e := range entries { // in order of their names
		name, ok := strings.CutSuffix(e.Name(), ext)
		n, err := strconv.ParseUint(name, 16, 64)
		if !ok || err != nil || len(name) != 16 {
			continue
		}
		if n < at.number {
			if err := os.Remove(q.path(n)); err != nil {
				return nil, err
			}
			continue
		}
		from := int64(len(magic))
		if n == at.number {
			from = max(from, at.offset)
		}
		if err := q.load(n, from); err != nil {
			return nil, err
		}
	}
	if len(q.segs) > 0 {
		first := q.segs[0]
		q.head = position{first.number, first.end}
		for _, n := range first.sizes {
			q.head.offset -= n
		}
		last := &q.segs[len(q.segs)-1]
		if q.tail, err = os.OpenFile(q.path(last.number), os.O_RDWR, 0o600); err != nil {
			return nil, err
		}
		if err := q.tail.Truncate(last.end); err != nil { // what was half written
			return nil, errors.Join(err, q.tail.Close())
		}
	} else {
		q.head = position{number: at.number + 1}
	}
	q.SetLimit(limit)
	q.wake()
	return q, nil
}

func (q *Queue) path(n uint64) string { return filepath.Join(q.dir, fmt.Sprintf("%016x%s", n, ext)) }

// readPlace returns how far the queue was read; zero when that is not known, and then everything that is there is sent.
func (q *Queue) readPlace() position {
	b, err := os.ReadFile(filepath.Join(q.dir, place))
	if err != nil || len(b) != 20 || crc32.Checksum(b[:16], castagnoli) != binary.LittleEndian.Uint32(b[16:]) {
		return position{}
	}
	p := position{binary.LittleEndian.Uint64(b), int64(binary.LittleEndian.Uint64(b[8:16]))}
	if p.offset < 0 || p.number == math.MaxUint64 {
		return position{}
	}
	return p
}

func (q *Queue) savePlace() error {
	b := binary.LittleEndian.AppendUint64(nil, q.head.number)
	b = binary.LittleEndian.AppendUint64(b, uint64(q.head.offset))
	b = binary.LittleEndian.AppendUint32(b, crc32.Checksum(b, castagnoli))
	return atomicfile.Write(filepath.Join(q.dir, place), b, 0o600)
}

// load finds the records of a segment from an offset on.
func (q *Queue) load(n uint64, from int64) error {
	f, err := os.Open(q.path(n))
	if err != nil {
		return err
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return err
	}
	s := segment{number: n, end: from}
	head := make([]byte, len(magic))
	if _, err := f.ReadAt(head, 0); err != nil || string(head) != magic || from > info.Size() {
		// Not even its beginning was written, or it is none of ours.
		q.damaged++
		return os.Remove(q.path(n))
	}
	for s.end < info.Size() && s.end < 2*segmentSize {
		size, err := checkRecord(f, s.end, info.Size())
		if err != nil {
			q.damaged++
			break
		}
		s.sizes = append(s.sizes, size)
		s.end += size
	}
	q.segs = append(q.segs, s)
	q.length += len(s.sizes)
	return nil
}

var errDamaged = errors.New("queue: damaged record")

// header reads a record's head: the length of what follows it, and of the label within.
func header(f *os.File, at, size int64) (b [headerSize]byte, rest int, err error) {
	if size-at < headerSize {
		return b, 0, errDamaged
	}
	if _, err := f.ReadAt(b[:], at); err != nil {
		return b, 0, err
	}
	n := int64(binary.LittleEndian.Uint32(b[:]))
	if n < int64(b[16]) || n > MaxBody+255 || n > size-at-headerSize {
		return b, 0, errDamaged
	}
	return b, int(n), nil
}

// record reads the record at an offset of a file of a size.
func record(f *os.File, at, size int64) (Message, int64, error) {
	b, n, err := header(f, at, size)
	if err != nil {
		return Message{}, 0, err
	}
	rest := make([]byte, n)
	if _, err := f.ReadAt(rest, at+headerSize); err != nil {
		return Message{}, 0, err
	}
	if sum(b[8:], rest) != binary.LittleEndian.Uint32(b[4:]) {
		return Message{}, 0, errDamaged
	}
	label := int(b[16])
	seconds := int64(binary.LittleEndian.Uint64(b[8:]))
	return Message{time.Unix(seconds, 0), string(rest[:label]), rest[label:]}, headerSize + int64(n), nil
}

func checkRecord(f *os.File, at, size int64) (int64, error) {
	_, n, err := record(f, at, size)
	return n, err
}

func sum(head, rest []byte) uint32 {
	return crc32.Update(crc32.Checksum(head, castagnoli), castagnoli, rest)
}

// SetLimit changes the bound; the oldest messages go when it is exceeded.
func (q *Queue) SetLimit(limit int64) {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.limit = max(limit, MinBytes)
	q.shrink(0)
}

// bytes is what waits.
func (q *Queue) bytes() (n int64) {
	for i := range q.segs {
		for _, size := range q.segs[i].sizes {
			n += size
		}
	}
	return n
}

// shrink makes room for so many bytes. q.mu must be held.
func (q *Queue) shrink(room int64) {
	for over := q.bytes() + room - q.limit; over > 0 && q.length > 0; {
		over -= q.advance()
		q.dropped++
	}
}

// advance leaves the oldest message behind and returns its size. q.mu must be held, and there must be one.
func (q *Queue) advance() int64 {
	q.trim()
	s := &q.segs[0]
	n := s.sizes[0]
	s.sizes = s.sizes[1:]
	q.head.offset += n
	q.length--
	q.trim()
	return n
}

// trim lets go of segments that were read, but for the last, which is written to.
func (q *Queue) trim() {
	for len(q.segs) > 1 && len(q.segs[0].sizes) == 0 {
		_ = os.Remove(q.path(q.segs[0].number)) // if it stays, the next Open removes it
		q.segs = slices.Delete(q.segs, 0, 1)
		next := q.segs[0]
		q.head = position{next.number, next.end}
		for _, n := range next.sizes {
			q.head.offset -= n
		}
	}
}

// Put adds a message; when it returns nil the message is on the disk.
func (q *Queue) Put(m Message) error {
	if len(m.Body) > MaxBody || len(m.Label) > math.MaxUint8 {
		return ErrTooLarge
	}
	rest := append([]byte(m.Label), m.Body...)
	b := make([]byte, headerSize, headerSize+len(rest))
	binary.LittleEndian.PutUint32(b, uint32(len(rest)))
	binary.LittleEndian.PutUint64(b[8:], uint64(m.Time.Unix()))
	b[16] = byte(len(m.Label))
	binary.LittleEndian.PutUint32(b[4:], sum(b[8:], rest))
	b = append(b, rest...)

	q.mu.Lock()
	defer q.mu.Unlock()
	q.shrink(int64(len(b)))
	if q.tail == nil || q.segs[len(q.segs)-1].end+int64(len(b)) > segmentSize {
		if err := q.grow(); err != nil {
			return fmt.Errorf("the queue cannot grow: %w", err)
		}
	}
	s := &q.segs[len(q.segs)-1]
	_, err := q.tail.WriteAt(b, s.end) // over what an earlier failure may have left
	if err == nil {
		err = q.tail.Sync()
	}
	if err != nil {
		return fmt.Errorf("the message cannot be kept: %w", err)
	}
	s.end += int64(len(b))
	s.sizes = append(s.sizes, int64(len(b)))
	q.length++
	q.wake()
	return nil
}

// grow begins another segment. q.mu must be held.
func (q *Queue) grow() error {
	n := q.head.number
	if len(q.segs) > 0 {
		n = q.segs[len(q.segs)-1].number + 1
	}
	if err := atomicfile.Write(q.path(n), []byte(magic), 0o600); err != nil {
		return err
	}
	f, err := os.OpenFile(q.path(n), os.O_RDWR, 0o600)
	if err != nil {
		return err
	}
	if q.tail != nil {
		err = q.tail.Close()
	}
	q.tail = f
	q.segs = append(q.segs, segment{number: n, end: int64(len(magic))})
	if len(q.segs) == 1 {
		q.head = position{n, int64(len(magic))}
	}
	q.trim()
	return err
}

func (q *Queue) wake() {
	select {
	case q.more <- struct{}{}:
	default:
	}
}

// Mark names a message that was read.
type Mark struct{ at position }

// Next waits for the oldest message and returns it; it stays until Done.
func (q *Queue) Next(ctx context.Context) (Message, Mark, error) {
	for {
		q.mu.Lock()
		m, mark, ok, err := q.first()
		q.mu.Unlock()
		if ok || err != nil {
			return m, mark, err
		}
		select {
		case <-q.more:
		case <-ctx.Done():
			return Message{}, Mark{}, ctx.Err()
		}
	}
}

// first reads the oldest message; those that the disk has lost since they were written are left behind. q.mu must be held.
func (q *Queue) first() (Message, Mark, bool, error) {
	for q.length > 0 {
		q.trim()
		f, err := os.Open(q.path(q.head.number))
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return Message{}, Mark{}, false, err
		}
		var m Message
		if err == nil {
			m, _, err = record(f, q.head.offset, q.segs[0].end)
			err = errors.Join(err, f.Close())
		}
		if err == nil {
			return m, Mark{q.head}, true, nil
		}
		q.damaged++
		q.advance()
	}
	return Message{}, Mark{}, false, nil
}

// Done lets go of a message that was sent, or is not worth sending. One that was dropped meanwhile is gone already.
func (q *Queue) Done(m Mark) error {
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.length == 0 || q.head != m.at {
		return nil
	}
	q.advance()
	return q.savePlace()
}

// State is what a queue holds, and what it lost since it was opened.
type State struct {
	Messages int
	Bytes    int64
	Dropped  uint64 // because it was full
	Damaged  uint64 // places where what was written cannot be read
}

// State returns it.
func (q *Queue) State() State {
	q.mu.Lock()
	defer q.mu.Unlock()
	return State{q.length, q.bytes(), q.dropped, q.damaged}
}

// Close closes the queue; what waits, waits for the next Open.
func (q *Queue) Close() error {
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.tail == nil {
		return nil
	}
	err := q.tail.Close()
	q.tail = nil
	return err
}
