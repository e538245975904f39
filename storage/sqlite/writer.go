package sqlite

import (
	"context"
	"fmt"
	"runtime/debug"
	"sync"
	"sync/atomic"

	"github.com/vauban-iot/vauban/fault"
	"github.com/vauban-iot/vauban/storage/sqlstore"
)

const (
	// maxGroup bounds the writes of one transaction, and so how long the first waits for the last.
	maxGroup = 500
	// maxWaiting bounds the queue. When it is full, write waits for room or for its context.
	maxWaiting = 4 * maxGroup
)

// writer runs all writes on one goroutine and commits in groups: it takes the
// writes that wait (one is enough, there is no delay), runs each in a savepoint of one
// transaction, commits, and answers all. While it waits for the disk the next group
// gathers. A write sees what earlier ones did, and one that fails is undone alone.
type writer struct {
	tx       *statements // the one connection that writes
	classify func(error) error
	queue    chan *job
	done     chan struct{} // closed when the goroutine has ended
	group    []*job        // being run; of the goroutine

	mu     sync.RWMutex // protects closed and sending on queue
	closed bool
}

// The life of a job: whoever moves it from waiting decides whether it runs.
const (
	waiting int32 = iota
	started
	abandoned
)

type job struct {
	change func(context.Context, sqlstore.Conn) error
	state  atomic.Int32
	err    error         // set before done is closed
	done   chan struct{} // closed when the outcome is known
}

func newWriter(tx *statements, classify func(error) error) *writer {
	w := &writer{tx: tx, classify: classify, queue: make(chan *job, maxWaiting), done: make(chan struct{})}
	go w.loop()
	return w
}

// write implements sqlstore.Backend. When ctx ends before the write has started it does not
// happen; one that has started is waited for.
func (w *writer) write(ctx context.Context, change func(context.Context, sqlstore.Conn) error) error {
	j := &job{change: change, done: make(chan struct{})}
	if err := w.send(ctx, j); err != nil {
		return err
	}
	select {
	case <-j.done:
	case <-ctx.Done():
		if j.state.CompareAndSwap(waiting, abandoned) {
			return fmt.Errorf("store: wait to write: %w", context.Cause(ctx))
		}
		<-j.done
	}
	return j.err
}

func (w *writer) send(ctx context.Context, j *job) error {
	if ctx.Err() != nil {
		return fmt.Errorf("store: wait to write: %w", context.Cause(ctx))
	}
	w.mu.RLock()
	defer w.mu.RUnlock()
	if w.closed {
		return fault.New(fault.Unavailable, "the database is closed")
	}
	select {
	case w.queue <- j:
		return nil
	case <-ctx.Done():
		return fmt.Errorf("store: wait to write: %w", context.Cause(ctx))
	}
}

// close refuses new writes, waits for those that were accepted, and ends the goroutine.
func (w *writer) close() {
	w.mu.Lock()
	if !w.closed {
		w.closed = true
		close(w.queue)
	}
	w.mu.Unlock()
	<-w.done
}

func (w *writer) loop() {
	defer func() {
		if w.group == nil {
			close(w.done)
			return
		}
		// A change panicked, or ended this goroutine (runtime.Goexit, as t.FailNow does).
		// Its group fails; another goroutine goes on.
		err := fmt.Errorf("store: a write of the group ended the writer: %v\n%s", recover(), debug.Stack())
		w.rollback()
		w.answer(err)
		go w.loop()
	}()
	group := make([]*job, 0, maxGroup)
	for j := range w.queue {
		group = append(group[:0], j)
	gather:
		for len(group) < maxGroup {
			select {
			case j, ok := <-w.queue:
				if !ok {
					break gather
				}
				group = append(group, j)
			default:
				break gather
			}
		}
		w.group = group
		err := w.run()
		if err != nil {
			w.rollback()
		}
		w.answer(err)
		clear(group)
	}
}

// run runs and commits the group. An error means that nothing was written.
func (w *writer) run() error {
	ctx := context.Background()
	if _, err := w.tx.Exec(ctx, "BEGIN IMMEDIATE"); err != nil {
		return w.classify(fmt.Errorf("store: begin: %w", err))
	}
	for _, j := range w.group {
		if !j.state.CompareAndSwap(waiting, started) {
			continue
		}
		if _, err := w.tx.Exec(ctx, "SAVEPOINT one"); err != nil {
			return w.classify(fmt.Errorf("store: savepoint: %w", err))
		}
		if j.err = j.change(ctx, w.tx); j.err != nil {
			// After some errors (disk full) SQLite has undone the whole transaction and this fails.
			if _, err := w.tx.Exec(ctx, "ROLLBACK TO one"); err != nil {
				return w.classify(fmt.Errorf("store: undo %w: %w", j.err, err))
			}
		}
		if _, err := w.tx.Exec(ctx, "RELEASE one"); err != nil {
			return w.classify(fmt.Errorf("store: release: %w", err))
		}
	}
	if _, err := w.tx.Exec(ctx, "COMMIT"); err != nil {
		return w.classify(fmt.Errorf("store: commit: %w", err))
	}
	return nil
}

// rollback ends a transaction that may have ended already.
func (w *writer) rollback() { _, _ = w.tx.Exec(context.Background(), "ROLLBACK") }

// answer tells the group's callers: err, or what their own change returned.
func (w *writer) answer(err error) {
	for _, j := range w.group {
		if err != nil && j.err == nil {
			j.err = err
		}
		close(j.done)
	}
	w.group = nil
}
