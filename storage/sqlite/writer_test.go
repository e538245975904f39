package sqlite

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"path/filepath"
	"runtime"
	"sync"
	"testing"
	"time"

	"github.com/vauban-iot/vauban/storage/sqlstore"
)

// backend opens a database without a store on it, so that a test can count transactions.
func backend(t *testing.T) (sqlstore.Backend, *writer) {
	t.Helper()
	b, w, err := open(t.Context(), filepath.Join(t.TempDir(), "state.db"), 1, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { b.Close() })
	return b, w
}

func put(name string) func(context.Context, sqlstore.Conn) error {
	return func(ctx context.Context, c sqlstore.Conn) error {
		_, err := c.Exec(ctx, "INSERT INTO settings (name, value) VALUES ($1, x'00')", name)
		return err
	}
}

func count(t *testing.T, b sqlstore.Backend) (n int) {
	t.Helper()
	rows, err := b.Reader.Query(t.Context(), "SELECT COUNT(*) FROM settings")
	if err != nil {
		t.Fatal(err)
	}
	defer rows.Close()
	for rows.Next() {
		if err := rows.Scan(&n); err != nil {
			t.Fatal(err)
		}
	}
	return n
}

// hold makes the writer wait inside a write until the returned function is called.
func hold(t *testing.T, b sqlstore.Backend) (release func()) {
	t.Helper()
	in, out, done := make(chan struct{}), make(chan struct{}), make(chan struct{})
	go func() {
		defer close(done)
		if err := b.Write(context.Background(), func(context.Context, sqlstore.Conn) error { close(in); <-out; return nil }); err != nil {
			t.Error(err)
		}
	}()
	<-in
	return func() { close(out); <-done }
}

func waitFor(t *testing.T, what string, cond func() bool) {
	t.Helper()
	for deadline := time.Now().Add(10 * time.Second); !cond(); time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("waited too long for %s", what)
		}
	}
}

func TestWriter_CommitsTogetherWhatWaits(t *testing.T) {
	b, w := backend(t)
	release := hold(t, b)
	var wg sync.WaitGroup
	var visible sync.Map
	for i := range 100 {
		wg.Go(func() {
			err := b.Write(t.Context(), func(ctx context.Context, c sqlstore.Conn) error {
				// Committed state as seen when this write runs: the same for a whole group.
				visible.Store(count(t, b), true)
				return put(fmt.Sprint(i))(ctx, c)
			})
			if err != nil {
				t.Error(err)
			}
		})
	}
	waitFor(t, "the queue", func() bool { return len(w.queue) == 100 })
	release()
	wg.Wait()
	if got := count(t, b); got != 100 {
		t.Errorf("%d writes are there, want 100", got)
	}
	n := 0
	visible.Range(func(any, any) bool { n++; return true })
	if n != 1 {
		t.Errorf("100 waiting writes were committed in %d transactions, want 1", n)
	}
}

func TestWriter_AnEndedContextLeavesTheQueue(t *testing.T) {
	b, w := backend(t)
	release := hold(t, b)
	ctx, cancel := context.WithCancel(t.Context())
	result := make(chan error)
	go func() { result <- b.Write(ctx, put("late")) }()
	waitFor(t, "the queue", func() bool { return len(w.queue) == 1 })
	cancel()
	if err := <-result; !errors.Is(err, context.Canceled) {
		t.Errorf("got error %v, want that the context was canceled", err)
	}
	release()
	if got := count(t, b); got != 0 {
		t.Error("the abandoned write happened")
	}
}

func TestWriter_AStartedWriteIsWaitedFor(t *testing.T) {
	b, _ := backend(t)
	ctx, cancel := context.WithCancel(t.Context())
	err := b.Write(ctx, func(ctx context.Context, c sqlstore.Conn) error {
		cancel()
		return put("x")(ctx, c)
	})
	if err != nil || count(t, b) != 1 {
		t.Errorf("got error %v and %d writes, want the write done", err, count(t, b))
	}
}

func TestWriter_FullQueueWaits(t *testing.T) {
	b, w := backend(t)
	release := hold(t, b)
	var wg sync.WaitGroup
	for i := range maxWaiting {
		wg.Go(func() {
			if err := b.Write(t.Context(), put(fmt.Sprint(i))); err != nil {
				t.Error(err)
			}
		})
	}
	waitFor(t, "the queue", func() bool { return len(w.queue) == maxWaiting })
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Millisecond)
	defer cancel()
	if err := b.Write(ctx, put("one too many")); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("a write to the full queue got %v, want that its time is over", err)
	}
	release()
	wg.Wait()
	if got := count(t, b); got != maxWaiting {
		t.Errorf("%d writes are there, want %d", got, maxWaiting)
	}
}

// A change that panics or ends its goroutine loses its group, not the writer.
func TestWriter_Survives(t *testing.T) {
	for name, end := range map[string]func(){"panic": func() { panic("boom") }, "Goexit": runtime.Goexit} {
		t.Run(name, func(t *testing.T) {
			b, _ := backend(t)
			err := b.Write(t.Context(), func(ctx context.Context, c sqlstore.Conn) error {
				if err := put("lost")(ctx, c); err != nil {
					return err
				}
				end()
				return nil
			})
			if err == nil {
				t.Error("the write was acknowledged")
			}
			if err := b.Write(t.Context(), put("next")); err != nil || count(t, b) != 1 {
				t.Errorf("afterwards: error %v and %d writes, want 1", err, count(t, b))
			}
		})
	}
}

// When SQLite has undone a whole transaction, nobody in it is told that all is well.
func TestWriter_LostTransactionFailsItsGroup(t *testing.T) {
	b, w := backend(t)
	release := hold(t, b)
	var wg sync.WaitGroup
	errs := make([]error, 3)
	for i, change := range []func(context.Context, sqlstore.Conn) error{
		put("before"),
		func(ctx context.Context, c sqlstore.Conn) error {
			// As SQLite itself does when the disk is full.
			_, err := c.Exec(ctx, "ROLLBACK")
			return errors.Join(errors.New("disk full"), err)
		},
		put("after"),
	} {
		wg.Go(func() { errs[i] = b.Write(t.Context(), change) })
		waitFor(t, "the queue", func() bool { return len(w.queue) == i+1 })
	}
	release()
	wg.Wait()
	for i, err := range errs {
		if err == nil {
			t.Errorf("write %d was acknowledged", i)
		}
	}
	if got := count(t, b); got != 0 {
		t.Errorf("%d writes are there, want none", got)
	}
	if err := b.Write(t.Context(), put("next")); err != nil {
		t.Error(err)
	}
}

func TestWriter_AFailedWriteIsUndoneAlone(t *testing.T) {
	b, w := backend(t)
	release := hold(t, b)
	no := errors.New("no")
	var wg sync.WaitGroup
	errs := make([]error, 3)
	for i, change := range []func(context.Context, sqlstore.Conn) error{
		put("before"),
		func(ctx context.Context, c sqlstore.Conn) error { return errors.Join(put("undone")(ctx, c), no) },
		put("undone"), // the name is free again
	} {
		wg.Go(func() { errs[i] = b.Write(t.Context(), change) })
		waitFor(t, "the queue", func() bool { return len(w.queue) == i+1 })
	}
	release()
	wg.Wait()
	if errs[0] != nil || !errors.Is(errs[1], no) || errs[2] != nil {
		t.Errorf("got errors %v, want only the second to fail", errs)
	}
	if got := count(t, b); got != 2 {
		t.Errorf("%d writes are there, want 2", got)
	}
}
