// Package avrofile delivers routed messages to Avro object container files, in the records of Azure's storage endpoint
// (hub-service §7.1), a file for each batch of messages.
//
// A batch grows in a file that ends in .part and gets its name when it is done: what has a name is whole and does not
// change any more. Every delivery is on disk, as blocks of that file, before it is acknowledged. A crash leaves a .part
// file, maybe with a torn block that nobody was acknowledged; [Recover] cuts that off and gives the rest its name.
package avrofile

import (
	"bytes"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"github.com/twmb/avro"
	"github.com/twmb/avro/ocf"

	"github.com/vauban-iot/vauban/fault"
	"github.com/vauban-iot/vauban/hub/routing"
	"github.com/vauban-iot/vauban/iot"
	"github.com/vauban-iot/vauban/sink/layout"
)

// Schema is what the files hold.
const Schema = `{"type":"record","name":"Message","namespace":"Microsoft.Azure.Devices","fields":[` +
	`{"name":"EnqueuedTimeUtc","type":"string"},` +
	`{"name":"Properties","type":{"type":"map","values":"string"}},` +
	`{"name":"SystemProperties","type":{"type":"map","values":"string"}},` +
	`{"name":"Body","type":["null","bytes"]}]}`

var schema = avro.MustParse(Schema)

// Record is one message.
type Record struct {
	Enqueued   string            `avro:"EnqueuedTimeUtc"`
	Properties map[string]string `avro:"Properties"` // one without a value is empty
	System     map[string]string `avro:"SystemProperties"`
	Body       *[]byte           `avro:"Body"`
}

// Limits of a batch (hub-service §7.1).
const (
	minFrequency, maxFrequency, defaultFrequency = 60, 720, 300
	minChunk, maxChunk, defaultChunk             = 10 << 20, 500 << 20, 300 << 20
)

const (
	partEnding = ".part"
	fileEnding = ".avro"
	blockBytes = 1 << 20
	sealRetry  = 10 * time.Second
)

// Sink writes below one folder. It is for one runner at a time.
type Sink struct {
	layout    layout.Layout
	name      string // of the endpoint
	codec     ocf.Codec
	frequency time.Duration
	chunk     int64

	mu        sync.Mutex
	batch     *batch // nil: none is open
	recovered bool   // parts that a crash left have their names
}

// batch is a file that grows.
type batch struct {
	path  string // with partEnding
	f     *os.File
	size  int64 // of what is whole
	w     *ocf.Writer
	buf   bytes.Buffer // what w writes
	timer *time.Timer
}

var _ routing.Sink = (*Sink)(nil)

// New checks the endpoint; its error is fault.Invalid. root is the folder of all endpoints. Nothing is written before the
// first delivery.
func New(root, hub string, e routing.Endpoint) (*Sink, error) {
	l, err := layout.New(root, hub, e)
	if err != nil {
		return nil, err
	}
	s := &Sink{layout: l, name: e.Name, frequency: defaultFrequency * time.Second, chunk: defaultChunk}
	switch {
	case strings.EqualFold(e.Encoding, "Avro"):
	case strings.EqualFold(e.Encoding, "AvroDeflate"):
		s.codec = ocf.DeflateCodec(-1)
	default:
		return nil, fault.New(fault.Invalid, "endpoint %q: unknown encoding %q", e.Name, e.Encoding)
	}
	if e.BatchFrequency != 0 {
		if e.BatchFrequency < minFrequency || e.BatchFrequency > maxFrequency {
			return nil, fault.New(fault.Invalid, "endpoint %q: batchFrequencyInSeconds must be %d to %d", e.Name, minFrequency, maxFrequency)
		}
		s.frequency = time.Duration(e.BatchFrequency) * time.Second
	}
	if e.MaxChunk != 0 {
		if e.MaxChunk < minChunk || e.MaxChunk > maxChunk {
			return nil, fault.New(fault.Invalid, "endpoint %q: maxChunkSizeInBytes must be %d to %d", e.Name, minChunk, maxChunk)
		}
		s.chunk = e.MaxChunk
	}
	return s, nil
}

// Deliver implements routing.Sink: the messages are on disk when it returns, in a file that gets its name when the batch is done.
func (s *Sink) Deliver(_ context.Context, ms []*iot.Message) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	for len(ms) > 0 {
		if err := s.ready(ms[0].Enqueued); err != nil {
			return err
		}
		n, err := s.batch.append(ms, s.chunk)
		if err != nil {
			return fmt.Errorf("write %s: %w", s.batch.path, errors.Join(err, s.abandon()))
		}
		ms = ms[n:]
	}
	if s.batch.size >= s.chunk {
		return s.seal()
	}
	return nil
}

// ready opens a batch that has room.
func (s *Sink) ready(at time.Time) error {
	if !s.recovered {
		if err := recoverParts(s.layout.Folder, "."+s.name+partEnding); err != nil {
			return err
		}
		s.recovered = true
	}
	if s.batch != nil && s.batch.size >= s.chunk {
		if err := s.seal(); err != nil {
			return err
		}
	}
	if s.batch != nil {
		return nil
	}
	b := &batch{path: s.layout.Path(at) + fileEnding + "." + s.name + partEnding}
	if err := layout.MakeFolder(b.path); err != nil {
		return err
	}
	var err error
	if b.f, err = os.OpenFile(b.path, os.O_CREATE|os.O_EXCL|os.O_RDWR, 0o640); err != nil {
		return err
	}
	var marker [16]byte
	rand.Read(marker[:])
	opts := []ocf.WriterOpt{ocf.WithSyncMarker(marker), ocf.WithSchema(Schema), ocf.WithBlockBytes(blockBytes)}
	if s.codec != nil {
		opts = append(opts, ocf.WithCodec(s.codec))
	}
	if b.w, err = ocf.NewWriter(&b.buf, schema, opts...); err == nil {
		err = layout.SyncFolder(b.path)
	}
	if err != nil {
		return errors.Join(err, b.f.Close(), os.Remove(b.path))
	}
	s.batch = b
	b.timer = time.AfterFunc(s.frequency, func() { s.due(b) })
	return nil
}

// append writes messages until the file has the given size, and returns how many.
func (b *batch) append(ms []*iot.Message, limit int64) (n int, err error) {
	waiting := 0 // bytes of the block that w has not written yet
	for ; n < len(ms) && (n == 0 || b.size+int64(b.buf.Len()+waiting) < limit); n++ {
		written := b.buf.Len()
		if err := b.w.Encode(record(ms[n])); err != nil {
			return 0, err
		}
		if waiting += len(ms[n].Body); b.buf.Len() > written {
			waiting = 0
		}
	}
	if err := b.w.Flush(); err != nil {
		return 0, err
	}
	if _, err := b.f.WriteAt(b.buf.Bytes(), b.size); err != nil {
		return 0, err
	}
	if err := b.f.Sync(); err != nil {
		return 0, err
	}
	b.size += int64(b.buf.Len())
	b.buf.Reset()
	return n, nil
}

func record(m *iot.Message) *Record {
	r := &Record{Enqueued: iot.FormatTime(m.Enqueued), Properties: make(map[string]string, len(m.Properties)), System: routing.SystemProperties(m), Body: &m.Body}
	for _, p := range m.Properties {
		r.Properties[p.Name] = p.Value
	}
	return r
}

// due ends a batch whose time is over.
func (s *Sink) due(b *batch) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.batch != b {
		return
	}
	if s.seal() != nil && s.batch == b {
		b.timer.Reset(sealRetry) // the next delivery says why
	}
}

// seal gives the batch its name.
func (s *Sink) seal() error {
	b := s.batch
	if err := name(b.path); err != nil {
		return err
	}
	b.timer.Stop()
	s.batch = nil
	return b.f.Close()
}

// abandon leaves a batch that cannot be written as a crash does.
func (s *Sink) abandon() error {
	b := s.batch
	b.timer.Stop()
	s.batch, s.recovered = nil, false
	return b.f.Close()
}

// Close ends the batch. The sink may be used again.
func (s *Sink) Close() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.batch != nil && s.seal() != nil {
		_ = s.abandon() // the next start finds it
	}
}

// name gives the file of a batch, which is whole, the first free name.
func name(part string) error {
	whole := strings.TrimSuffix(part, partEnding)
	whole = strings.TrimSuffix(whole, filepath.Ext(whole)) // the endpoint
	base := strings.TrimSuffix(whole, fileEnding)
	for n := 2; ; n++ {
		switch there, err := os.Stat(whole); {
		case errors.Is(err, fs.ErrNotExist):
			if err := os.Rename(part, whole); err != nil { // nobody else names files here
				return err
			}
			return layout.SyncFolder(whole)
		case err != nil:
			return err
		case there != nil:
			whole = fmt.Sprintf("%s-%d%s", base, n, fileEnding)
		}
	}
}

// Recover gives the parts that a crash left below root their names. No sink may be at work there.
func Recover(root string) error { return recoverParts(root, partEnding) }

func recoverParts(root, ending string) error {
	return filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
		switch {
		case errors.Is(err, fs.ErrNotExist):
			return nil
		case err != nil:
			return err
		case d.IsDir() || !strings.HasSuffix(path, ending):
			return nil
		}
		if err := repair(path); err != nil {
			return fmt.Errorf("repair %s: %w", path, err)
		}
		return nil
	})
}

// repair cuts a part behind its last whole block and names it, or removes it when it has none.
func repair(path string) error {
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		return err
	}
	defer f.Close()
	end, err := whole(f)
	switch {
	case err != nil:
		return err
	case end == 0:
		return os.Remove(path)
	}
	if err := f.Truncate(end); err != nil {
		return err
	}
	if err := f.Sync(); err != nil {
		return err
	}
	return name(path)
}

// whole is the length of a container file up to the end of its last block that can be read; 0 when there is none.
func whole(f *os.File) (int64, error) {
	blocks, err := scan(f)
	if err != nil || len(blocks) == 0 {
		return 0, err
	}
	if _, err := f.Seek(0, io.SeekStart); err != nil {
		return 0, err
	}
	// A block may have its frame and not its inside: a file system writes pages in any order.
	r, err := ocf.NewReader(io.LimitReader(f, blocks[len(blocks)-1].end), ocf.WithMaxBlockBytes(maxChunk), ocf.WithMaxDecompressedBlockBytes(maxChunk))
	if err != nil {
		return 0, nil
	}
	defer r.Close()
	end, left := int64(0), blocks[0].records
	for {
		var rec Record
		err := r.Decode(&rec)
		if err != nil {
			return end, nil //nolint:nilerr // what cannot be read is the end
		}
		if left--; left == 0 {
			end, blocks = blocks[0].end, blocks[1:]
			if len(blocks) == 0 {
				return end, nil
			}
			left = blocks[0].records
		}
	}
}
