package diskbus

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"slices"
	"sync"
	"time"

	"github.com/vauban-iot/vauban/bus"
	"github.com/vauban-iot/vauban/fault"
)

const (
	// segmentBytes is how large a segment grows: old entries go one segment at a time.
	segmentBytes = 64 << 20
	// writeBytes bounds one write to the disk, and so what a crash can tear, unless it is of one entry.
	writeBytes = bus.MaxEntry
	// segmentsPerAge begins a new segment often enough that entries outlive MaxAge by no more than a part of it.
	segmentsPerAge = 8
)

// eventLog is a bus.Log in a folder.
type eventLog struct {
	bus *Bus
	dir string
	cfg bus.LogConfig
	log *slog.Logger

	queueMu sync.Mutex
	waiting []*pending
	leading bool // somebody writes, and will see to those who wait

	// The one who writes holds it, and trim.
	writeMu sync.Mutex
	file    *os.File // the last segment
	buf     []byte
	failed  error // the disk's state is unknown: nothing may be appended until the log is opened again

	mu       sync.Mutex
	segments []segment // the last one is written to
	next     uint64    // sequence number of the entry that comes next
	last     time.Time // when the newest entry was taken
	changed  chan struct{}
	watched  bool            // somebody waits for changed
	working  map[string]bool // readers at Work
}

var _ bus.Log = (*eventLog)(nil)

func openLog(b *Bus, dir string, cfg bus.LogConfig) (*eventLog, error) {
	l := &eventLog{bus: b, dir: dir, cfg: cfg, log: b.cfg.Logger.With("log", cfg.Name), changed: make(chan struct{}), working: make(map[string]bool)}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, err
	}
	names, err := os.ReadDir(dir)
	if err != nil {
		return nil, err
	}
	var firsts []uint64
	for _, n := range names {
		if first, ok := segmentFirst(n.Name()); ok {
			firsts = append(firsts, first)
		}
	}
	slices.Sort(firsts)
	for i, first := range firsts {
		if err := l.openSegment(first, i == len(firsts)-1); err != nil {
			return nil, fmt.Errorf("%s: %w", segmentPath(dir, first), err)
		}
	}
	if l.file == nil {
		l.next = max(l.next, 1)
		if err := l.begin(); err != nil {
			return nil, err
		}
	}
	l.trim()
	return l, nil
}

// openSegment adds an existing segment; the last one is checked, cut behind its last whole entry and written on.
func (l *eventLog) openSegment(first uint64, last bool) error {
	f, err := os.OpenFile(segmentPath(l.dir, first), os.O_RDWR, 0)
	if err != nil {
		return err
	}
	if !last {
		defer f.Close()
	}
	info, err := f.Stat()
	if err != nil {
		return err
	}
	head := make([]byte, segmentHead)
	if _, err := f.ReadAt(head, 0); errors.Is(err, io.EOF) && last {
		// The crash came between making the file and syncing its head: it has no entries.
		f.Close()
		l.next = first
		return os.Remove(segmentPath(l.dir, first))
	} else if err != nil {
		return err
	}
	at, begun, err := parseSegmentHead(head)
	if err != nil {
		return err
	}
	if at != first {
		return fmt.Errorf("its first entry is %d, which is not what its name says", at)
	}
	s := segment{first: first, begun: begun, size: info.Size()}
	if last {
		r := recoverSegment(f, first, info.Size())
		if err := l.cut(f, r.size, info.Size()); err != nil {
			return err
		}
		s.size = r.size
		l.file, l.next, l.last = f, r.next, r.last
	}
	if n := len(l.segments); n > 0 {
		l.segments[n-1].ended = begun
	}
	l.segments = append(l.segments, s)
	return nil
}

// cut removes what a crash left behind the last whole entry. More than one write cannot have been torn: then the
// disk damaged what it had, and the rest is put aside for whoever can make something of it.
func (l *eventLog) cut(f *os.File, whole, size int64) error {
	if whole == size {
		return nil
	}
	if size-whole <= 2*bus.MaxEntry {
		l.log.Info("an unfinished write was removed from the end of the log", "bytes", size-whole)
	} else {
		aside := f.Name() + ".damaged"
		l.log.Error("the log is damaged; what follows the damage was put aside", "file", aside, "offset", whole, "bytes", size-whole)
		out, err := os.OpenFile(aside, os.O_CREATE|os.O_WRONLY|os.O_TRUNC, 0o600)
		if err != nil {
			return err
		}
		_, err = io.Copy(out, io.NewSectionReader(f, whole, size-whole))
		if err := errors.Join(err, out.Sync(), out.Close()); err != nil {
			return err
		}
	}
	if err := f.Truncate(whole); err != nil {
		return err
	}
	return f.Sync()
}

// begin makes the next segment and writes to it from now on.
func (l *eventLog) begin() error {
	begun := l.bus.cfg.Now()
	f, err := os.OpenFile(segmentPath(l.dir, l.next), os.O_CREATE|os.O_TRUNC|os.O_RDWR, 0o600)
	if err != nil {
		return err
	}
	if _, err := f.Write(appendSegmentHead(nil, l.next, begun)); err != nil {
		f.Close()
		return err
	}
	if err := errors.Join(f.Sync(), syncDir(l.dir)); err != nil {
		f.Close()
		return err
	}
	if l.file != nil {
		l.file.Close()
	}
	l.file = f
	l.mu.Lock()
	defer l.mu.Unlock()
	if n := len(l.segments); n > 0 && l.segments[n-1].ended.IsZero() {
		l.segments[n-1].ended = l.last
	}
	l.segments = append(l.segments, segment{first: l.next, begun: begun, size: segmentHead})
	return nil
}

func syncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	defer d.Close()
	return d.Sync()
}

func (l *eventLog) close() {
	l.writeMu.Lock()
	defer l.writeMu.Unlock()
	l.failed = errClosed
	l.file.Close()
}

// pending is one append that waits for the disk.
type pending struct {
	data []byte
	seq  uint64
	err  error
	wake chan bool // true: it is done; false: write for all who wait
}

var pendings = sync.Pool{New: func() any { return &pending{wake: make(chan bool, 1)} }}

// Append implements bus.Log. Appends that come while the disk is busy are written and synced together. Once it
// has begun, an append does not heed ctx: it ends when the disk answers.
func (l *eventLog) Append(ctx context.Context, data []byte) (uint64, error) {
	if len(data) > bus.MaxEntry {
		return 0, fault.New(fault.TooLarge, "an entry of %d bytes is over the log's limit of %d", len(data), bus.MaxEntry)
	}
	if err := ctx.Err(); err != nil {
		return 0, err
	}
	p := pendings.Get().(*pending)
	p.data = data
	l.queueMu.Lock()
	l.waiting = append(l.waiting, p)
	if !l.leading {
		l.leading = true
		p.wake <- false
	}
	l.queueMu.Unlock()
	for !<-p.wake {
		l.write()
	}
	seq, err := p.seq, p.err
	*p = pending{wake: p.wake}
	pendings.Put(p)
	return seq, err
}

// write writes what waits, tells those who wait for it, and passes the duty on to one who came meanwhile.
func (l *eventLog) write() {
	l.queueMu.Lock()
	n, bytes := 0, 0
	for n < len(l.waiting) && (n == 0 || bytes+len(l.waiting[n].data) <= writeBytes) {
		bytes += len(l.waiting[n].data) + entryHead
		n++
	}
	batch := slices.Clone(l.waiting[:n])
	l.waiting = slices.Delete(l.waiting, 0, n)
	l.queueMu.Unlock()

	l.writeMu.Lock()
	err := l.commit(batch, bytes)
	l.writeMu.Unlock()
	for _, p := range batch {
		if err != nil {
			p.err = fault.Wrap(fault.Unavailable, err, "the log cannot be written")
		}
		p.wake <- true
	}

	l.queueMu.Lock()
	defer l.queueMu.Unlock()
	if len(l.waiting) == 0 {
		l.leading = false
		return
	}
	l.waiting[0].wake <- false
}

func (l *eventLog) commit(batch []*pending, bytes int) error {
	if l.failed != nil {
		return l.failed
	}
	now := l.bus.cfg.Now()
	tail := l.segments[len(l.segments)-1]
	old := l.cfg.MaxAge > 0 && now.Sub(tail.begun) > l.cfg.MaxAge/segmentsPerAge
	if tail.size > segmentHead && (old || tail.size+int64(bytes) > segmentBytes) {
		if err := l.begin(); err != nil {
			return err
		}
		l.trimLocked(now)
		tail = l.segments[len(l.segments)-1]
	}
	seq := l.next
	buf := l.buf[:0]
	for _, p := range batch {
		p.seq = seq
		buf = appendEntry(buf, seq, now, p.data)
		seq++
	}
	if cap(buf) <= 2<<20 {
		l.buf = buf
	} else {
		l.buf = nil
	}
	if _, err := l.file.WriteAt(buf, tail.size); err != nil {
		// Nothing was acknowledged; a later append writes over what is there of these.
		return errors.Join(err, l.file.Truncate(tail.size))
	}
	if err := l.file.Sync(); err != nil {
		// After a failed sync nobody knows what the disk holds, and a second one may lie.
		l.failed = fmt.Errorf("the disk failed; restart when it is in order again: %w", err)
		l.log.Error("the log takes no more entries", "err", err)
		return l.failed
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.segments[len(l.segments)-1].size += int64(len(buf))
	l.next, l.last = seq, now
	l.tell()
	return nil
}

// tell wakes readers; l.mu is held.
func (l *eventLog) tell() {
	if l.watched {
		close(l.changed)
		l.changed, l.watched = make(chan struct{}), false
	}
}

// trim removes what is too old or too much.
func (l *eventLog) trim() {
	l.writeMu.Lock()
	defer l.writeMu.Unlock()
	now := l.bus.cfg.Now()
	tail := l.segments[len(l.segments)-1]
	if l.failed == nil && l.cfg.MaxAge > 0 && tail.size > segmentHead && now.Sub(l.last) > l.cfg.MaxAge {
		if err := l.begin(); err != nil {
			l.log.Error("old entries of the log cannot be removed", "err", err)
			return
		}
	}
	l.trimLocked(now)
}

// trimLocked removes whole segments from the front; writeMu is held.
func (l *eventLog) trimLocked(now time.Time) {
	l.mu.Lock()
	defer l.mu.Unlock()
	var total int64
	for _, s := range l.segments {
		total += s.size
	}
	for len(l.segments) > 1 {
		old := l.cfg.MaxAge > 0 && now.Sub(l.segments[0].ended) > l.cfg.MaxAge
		much := l.cfg.MaxBytes > 0 && total > l.cfg.MaxBytes
		if !old && !much {
			return
		}
		if err := os.Remove(segmentPath(l.dir, l.segments[0].first)); err != nil && !errors.Is(err, os.ErrNotExist) {
			l.log.Error("old entries of the log cannot be removed", "err", err)
			return
		}
		total -= l.segments[0].size
		l.segments = slices.Delete(l.segments, 0, 1)
	}
}
