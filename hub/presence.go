package hub

import (
	"context"
	"sync"
	"time"

	"github.com/vauban-iot/vauban/hub/registry"
)

// presenceWriter gathers what sessions say while a write is under way into the next write: a
// fleet that comes back at once costs a transaction for many devices, not one for each.
type presenceWriter struct {
	store PresenceStore

	mu   sync.Mutex
	next *presenceBatch // what waits for the write under way; nil: nothing
	busy bool           // a write is under way
}

// presenceBatch is one write.
type presenceBatch struct {
	ps   []registry.Presence
	done chan struct{} // closed when err is set
	err  error
}

// presenceLimit bounds one write of a database that does not answer.
const presenceLimit = 30 * time.Second

// set writes p. It does not heed the end of a request: whoever left before the write was done would not know
// what is recorded. The identity's handover must be held, so that a batch has one change of each.
func (w *presenceWriter) set(p registry.Presence) error {
	w.mu.Lock()
	if w.next == nil {
		w.next = &presenceBatch{done: make(chan struct{})}
	}
	b := w.next
	b.ps = append(b.ps, p)
	lead := !w.busy
	w.busy = true
	w.mu.Unlock()
	if lead {
		w.write()
	}
	<-b.done
	return b.err
}

// write carries out one batch. When others wait after it, it leaves them to a goroutine: its caller has its answer.
func (w *presenceWriter) write() {
	w.mu.Lock()
	b := w.next
	w.next = nil
	w.mu.Unlock()
	ctx, cancel := context.WithTimeout(context.Background(), presenceLimit)
	defer cancel()
	b.err = w.store.SetPresence(ctx, b.ps)
	close(b.done)
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.busy = w.next != nil; w.busy {
		go w.write()
	}
}
