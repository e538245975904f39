package login

import (
	"bytes"
	"context"
	"errors"
	"io"
	"os"
	"path/filepath"
	"sync/atomic"
	"time"

	"github.com/fsnotify/fsnotify"
)

const (
	maxLine  = 8 << 10 // bytes of a line; longer ones are left out
	maxChunk = 64 << 10
	settle   = 2 * time.Second // for systems whose file system tells of no changes
)

// follower reads what is added to a file, from where it ends at first. A file that was replaced or cut short is read from its start.
type follower struct {
	path   string
	lines  func(line string) // of a text
	size   int               // of records
	record func(b []byte)
	cut    *atomic.Uint64

	f    *os.File
	at   int64
	rest []byte
	skip bool // what is left of a line that is too long
}

// follow reads the files until ctx ends.
func (w *Watcher) follow(ctx context.Context, source string, files ...*follower) error {
	changes := make(chan fsnotify.Event)
	if n, err := fsnotify.NewWatcher(); err == nil { // without it, the clock does
		defer n.Close()
		for _, f := range files {
			_ = n.Add(filepath.Dir(f.path)) // one that is not there yet: the clock does
		}
		changes = n.Events
	}
	for _, f := range files {
		f.open(io.SeekEnd)
		defer f.close()
	}
	w.source.Store(&source)
	tick := time.NewTicker(settle)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-changes:
		case <-tick.C:
		}
		for _, f := range files {
			f.more()
		}
	}
}

func (f *follower) open(whence int) {
	f.close()
	var err error
	if f.f, err = os.Open(f.path); err != nil {
		f.f = nil
		return
	}
	f.at, _ = f.f.Seek(0, whence)
	f.rest, f.skip = nil, false
}

func (f *follower) close() {
	if f.f != nil {
		f.f.Close()
		f.f = nil
	}
}

// more reads what was added.
func (f *follower) more() {
	if f.f == nil {
		f.open(io.SeekStart) // it was made since
	}
	for range 2 { // the old file to its end, then the new one
		if f.f == nil {
			return
		}
		f.read()
		now, err := os.Stat(f.path)
		if err != nil {
			return // it was taken away; a new one may come
		}
		opened, err := f.f.Stat()
		if err == nil && os.SameFile(now, opened) && now.Size() >= f.at {
			return
		}
		f.open(io.SeekStart)
	}
}

func (f *follower) read() {
	chunk := make([]byte, maxChunk)
	for {
		n, err := f.f.Read(chunk)
		f.at += int64(n)
		if n > 0 {
			f.take(chunk[:n])
		}
		if err != nil || n == 0 {
			if err != nil && !errors.Is(err, io.EOF) {
				f.close()
			}
			return
		}
	}
}

// take splits what was read.
func (f *follower) take(b []byte) {
	b = append(f.rest, b...)
	if f.record != nil {
		for len(b) >= f.size {
			f.record(b[:f.size])
			b = b[f.size:]
		}
		f.rest = bytes.Clone(b)
		return
	}
	for {
		line, rest, ok := bytes.Cut(b, []byte{'\n'})
		if !ok {
			break
		}
		switch {
		case f.skip:
			f.skip = false
		case len(line) > maxLine:
			f.cut.Add(1)
		default:
			f.lines(string(bytes.TrimSuffix(line, []byte{'\r'})))
		}
		b = rest
	}
	if len(b) > maxLine && !f.skip {
		f.cut.Add(1)
		f.skip = true
	}
	if f.skip {
		b = nil
	}
	f.rest = bytes.Clone(b)
}
