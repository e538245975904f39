// Package jsonlines delivers routed messages to files of JSON lines, one record (routing.AppendRecord) a line, named by hub and
// time like Azure's storage endpoint does (hub-service §7.1).
package jsonlines

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"time"

	"github.com/vauban-iot/vauban/fault"
	"github.com/vauban-iot/vauban/hub/routing"
	"github.com/vauban-iot/vauban/iot"
	"github.com/vauban-iot/vauban/sink/layout"
)

// Sink writes below one folder. It is for one runner at a time.
type Sink struct {
	layout layout.Layout
	opened map[string]bool // files whose end was looked at
}

var _ routing.Sink = (*Sink)(nil)

// New checks the endpoint; its error is fault.Invalid. root is the folder of all endpoints.
func New(root, hub string, e routing.Endpoint) (*Sink, error) {
	l, err := layout.New(root, hub, e)
	if err != nil {
		return nil, err
	}
	if e.BatchFrequency != 0 || e.MaxChunk != 0 {
		return nil, fault.New(fault.Invalid, "endpoint %q: batchFrequencyInSeconds and maxChunkSizeInBytes are for Avro; lines of JSON are written at once", e.Name)
	}
	return &Sink{layout: l, opened: map[string]bool{}}, nil
}

func (s *Sink) path(at time.Time) string { return s.layout.Path(at) + ".json" }

// Deliver implements routing.Sink: the lines are on disk when it returns.
func (s *Sink) Deliver(_ context.Context, ms []*iot.Message) error {
	for start := 0; start < len(ms); {
		path := s.path(ms[start].Enqueued)
		var lines []byte
		end := start
		for ; end < len(ms) && s.path(ms[end].Enqueued) == path; end++ {
			lines = append(routing.AppendRecord(lines, ms[end]), '\n')
		}
		if err := s.append(path, lines); err != nil {
			return fmt.Errorf("write %s: %w", path, err)
		}
		start = end
	}
	return nil
}

func (s *Sink) append(path string, lines []byte) (err error) {
	if err := layout.MakeFolder(path); err != nil {
		return err
	}
	f, err := os.OpenFile(path, os.O_CREATE|os.O_RDWR, 0o640)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	end, err := f.Seek(0, io.SeekEnd)
	if err != nil {
		return err
	}
	if !s.opened[path] {
		// A crash may have left half a line; its message comes again.
		if end, err = whole(f, end); err != nil {
			return err
		}
		if err := f.Truncate(end); err != nil {
			return err
		}
		if len(s.opened) > 1024 {
			clear(s.opened)
		}
		s.opened[path] = true
	}
	if _, err := f.WriteAt(lines, end); err != nil {
		// What was written of it goes, or the next line would be broken.
		return errors.Join(err, f.Truncate(end))
	}
	if err := f.Sync(); err != nil || end > 0 {
		return err
	}
	return layout.SyncFolder(path) // the file is new
}

// whole is the length of the file up to its last line feed.
func whole(f *os.File, size int64) (int64, error) {
	buf := make([]byte, 64<<10)
	for size > 0 {
		n := min(int64(len(buf)), size)
		if _, err := f.ReadAt(buf[:n], size-n); err != nil {
			return 0, err
		}
		if i := bytes.LastIndexByte(buf[:n], '\n'); i >= 0 {
			return size - n + int64(i) + 1, nil
		}
		size -= n
	}
	return 0, nil
}
