package transfer_test

import (
	"bytes"
	"context"
	"io"
	"sync"

	"github.com/vauban-iot/vauban/fault"
	"github.com/vauban-iot/vauban/hub/transfer"
)

// memory is one container without tokens.
type memory struct {
	mu    sync.Mutex
	files map[string][]byte
	// block, when it is not nil, holds reads until it is closed.
	block chan struct{}
}

func newMemory() *memory { return &memory{files: make(map[string][]byte)} }

func (m *memory) set(name string, data []byte) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.files[name] = data
}

func (m *memory) get(name string) string {
	m.mu.Lock()
	defer m.mu.Unlock()
	return string(m.files[name])
}

// Open implements transfer.Blobs.
func (m *memory) Open(uri string, _ bool) (transfer.Container, error) {
	if uri == "refused" {
		return nil, fault.New(fault.Invalid, "this hub may not go there")
	}
	return m, nil
}

type held struct {
	io.Reader
	ctx  context.Context
	wait chan struct{}
}

func (h held) Read(p []byte) (int, error) {
	if h.wait != nil {
		select {
		case <-h.wait:
		case <-h.ctx.Done():
			return 0, context.Cause(h.ctx)
		}
	}
	return h.Reader.Read(p)
}

// Get implements transfer.Container.
func (m *memory) Get(ctx context.Context, name string) (io.ReadCloser, int64, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	data, ok := m.files[name]
	if !ok {
		return nil, 0, fault.New(fault.NotFound, "%s is not in the container", name)
	}
	return io.NopCloser(held{bytes.NewReader(data), ctx, m.block}), int64(len(data)), nil
}

// Put implements transfer.Container.
func (m *memory) Put(_ context.Context, name string) (transfer.Upload, error) {
	return &writing{m: m, name: name}, nil
}

type writing struct {
	bytes.Buffer
	m    *memory
	name string
}

func (w *writing) Commit() error { w.m.set(w.name, bytes.Clone(w.Bytes())); return nil }
func (w *writing) Abort()        {}
