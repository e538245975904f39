// Package bustest is what every bus promises, as tests. Each way of running the
// bus (embedded, external) passes them.
package bustest

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/vauban-iot/vauban/bus"
	"github.com/vauban-iot/vauban/fault"
)

// Open starts or reaches a bus whose logs stay in the test's place, so that opening
// again after Close finds them. handle gets the calls.
type Open func(t testing.TB, handle func(bus.Call)) bus.Bus

// Run checks every promise of package bus.
func Run(t *testing.T, open Open) {
	t.Run("appended entries come back in order", func(t *testing.T) { order(t, open) })
	t.Run("entries survive a restart", func(t *testing.T) { restart(t, open) })
	t.Run("latest skips what is old", func(t *testing.T) { latest(t, open) })
	t.Run("a worker remembers its place", func(t *testing.T) { worker(t, open) })
	t.Run("a worker does several entries at once", func(t *testing.T) { later(t, open) })
	t.Run("a worker gets a failed entry again", func(t *testing.T) { retry(t, open) })
	t.Run("a reader keeps up with what is appended", func(t *testing.T) { keepUp(t, open) })
	t.Run("concurrent appends get distinct places", func(t *testing.T) { concurrent(t, open) })
	t.Run("an oversized entry is refused", func(t *testing.T) { oversized(t, open) })
	t.Run("a request is answered", func(t *testing.T) { request(t, open) })
	t.Run("nobody listening is said at once", func(t *testing.T) { absent(t, open) })
	t.Run("a silent listener times out", func(t *testing.T) { silent(t, open) })
	t.Run("names may hold anything", func(t *testing.T) { names(t, open) })
}

func logOf(t *testing.T, b bus.Bus) bus.Log {
	t.Helper()
	l, err := b.Log(t.Context(), bus.LogConfig{Name: "facts"})
	if err != nil {
		t.Fatalf("open log: %v", err)
	}
	return l
}

func appendAll(t *testing.T, l bus.Log, from, to int) {
	t.Helper()
	for i := from; i < to; i++ {
		if _, err := l.Append(t.Context(), fmt.Appendf(nil, "entry %d", i)); err != nil {
			t.Fatalf("append %d: %v", i, err)
		}
	}
}

var errEnough = errors.New("enough")

// take follows from the start until n entries are read.
func take(t *testing.T, l bus.Log, n int) []string {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	var got []string
	var last uint64
	err := l.Follow(ctx, bus.Earliest, nil, func(e bus.Entry) error {
		if e.Sequence <= last {
			t.Errorf("sequence %d after %d", e.Sequence, last)
		}
		last = e.Sequence
		got = append(got, string(e.Data))
		if len(got) == n {
			return errEnough
		}
		return nil
	})
	if !errors.Is(err, errEnough) {
		t.Fatalf("follow ended with %v after %d of %d entries", err, len(got), n)
	}
	return got
}

func want(from, to int) []string {
	var w []string
	for i := from; i < to; i++ {
		w = append(w, fmt.Sprintf("entry %d", i))
	}
	return w
}

func order(t *testing.T, open Open) {
	b := open(t, nil)
	defer b.Close()
	l := logOf(t, b)
	appendAll(t, l, 0, 200)
	if got := take(t, l, 200); !slices.Equal(got, want(0, 200)) {
		t.Errorf("entries came back changed or out of order: %q", got)
	}
}

func restart(t *testing.T, open Open) {
	b := open(t, nil)
	appendAll(t, logOf(t, b), 0, 10)
	b.Close()
	b = open(t, nil)
	defer b.Close()
	l := logOf(t, b)
	appendAll(t, l, 10, 12)
	if got := take(t, l, 12); !slices.Equal(got, want(0, 12)) {
		t.Errorf("after a restart: %q", got)
	}
}

func latest(t *testing.T, open Open) {
	b := open(t, nil)
	defer b.Close()
	l := logOf(t, b)
	appendAll(t, l, 0, 3)
	ready := make(chan struct{})
	got := make(chan string, 10)
	ctx, cancel := context.WithCancel(t.Context())
	var wg sync.WaitGroup
	wg.Go(func() {
		err := l.Follow(ctx, bus.Latest, func() { close(ready) }, func(e bus.Entry) error {
			got <- string(e.Data)
			return nil
		})
		if err != nil {
			t.Errorf("a cancelled follow returned %v", err)
		}
	})
	<-ready
	appendAll(t, l, 3, 4)
	select {
	case g := <-got:
		if g != "entry 3" {
			t.Errorf("first entry = %q, want entry 3", g)
		}
	case <-time.After(10 * time.Second):
		t.Error("no entry arrived")
	}
	cancel()
	wg.Wait()
}

func work(t *testing.T, l bus.Log, n int, handle func(string) error) []string {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	var got []string
	err := l.Work(ctx, "reader", func(e bus.Entry) error {
		if handle != nil {
			if err := handle(string(e.Data)); err != nil {
				return err
			}
		}
		got = append(got, string(e.Data))
		if len(got) == n {
			cancel()
		}
		return nil
	})
	if err != nil {
		t.Fatalf("work: %v", err)
	}
	return got
}

func worker(t *testing.T, open Open) {
	b := open(t, nil)
	l := logOf(t, b)
	appendAll(t, l, 0, 5)
	if got := work(t, l, 5, nil); !slices.Equal(got, want(0, 5)) {
		t.Fatalf("first run: %q", got)
	}
	appendAll(t, l, 5, 8)
	b.Close()
	b = open(t, nil)
	defer b.Close()
	// The last entry may repeat: its handler had returned, its memory may not have been written.
	got := work(t, logOf(t, b), 3, nil)
	if got[0] == "entry 4" {
		got = append(got[1:], work(t, logOf(t, b), 1, nil)...)
	}
	if !slices.Equal(got, want(5, 8)) {
		t.Errorf("after a restart the worker got %q", got)
	}
}

// later reads entries several at a time, where more are announced: what it did not say it was done with comes again after a restart, in order, and
// what it did say does not.
func later(t *testing.T, open Open) {
	b := open(t, nil)
	l := logOf(t, b)
	appendAll(t, l, 0, 6)
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	var got []string
	done := 0
	err := l.Work(ctx, "reader", func(e bus.Entry) error {
		if ctx.Err() != nil {
			return ctx.Err()
		}
		got = append(got, string(e.Data))
		if len(got) == 5 {
			cancel() // a crash, as it were
		}
		if e.More && len(got) != 3 {
			return bus.ErrLater
		}
		done = len(got)
		return nil
	})
	if err != nil || !slices.Equal(got, want(0, 5)) || done != 3 && done != 5 {
		t.Fatalf("%v, got %q, done with %d", err, got, done)
	}
	b.Close()
	b = open(t, nil)
	defer b.Close()
	again := work(t, logOf(t, b), 6-done, nil)
	if again[0] == fmt.Sprintf("entry %d", done-1) { // see worker
		again = append(again[1:], work(t, logOf(t, b), 1, nil)...)
	}
	if !slices.Equal(again, want(done, 6)) {
		t.Errorf("after the restart the worker got %q, done were %d", again, done)
	}
}

func retry(t *testing.T, open Open) {
	b := open(t, nil)
	defer b.Close()
	l := logOf(t, b)
	appendAll(t, l, 0, 2)
	failed := false
	got := work(t, l, 2, func(string) error {
		if !failed {
			failed = true
			return errors.New("first try fails")
		}
		return nil
	})
	if !failed || !slices.Equal(got, want(0, 2)) {
		t.Errorf("got %q", got)
	}
}

// keepUp reads entries of all sizes while they are appended.
func keepUp(t *testing.T, open Open) {
	b := open(t, nil)
	defer b.Close()
	l := logOf(t, b)
	const n = 300
	size := func(i int) int { return i * i * i % 200_000 }
	var wg sync.WaitGroup
	wg.Go(func() {
		for i := range n {
			if _, err := l.Append(t.Context(), bytes.Repeat([]byte{byte(i)}, size(i))); err != nil {
				t.Errorf("append %d: %v", i, err)
			}
		}
	})
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	i := 0
	err := l.Work(ctx, "reader", func(e bus.Entry) error {
		if !bytes.Equal(e.Data, bytes.Repeat([]byte{byte(i)}, size(i))) {
			t.Errorf("entry %d came back changed: %d bytes", i, len(e.Data))
		}
		if age := time.Since(e.Time); age < 0 || age > time.Minute {
			t.Errorf("entry %d was taken %s ago", i, age)
		}
		if i++; i == n {
			cancel()
		}
		return nil
	})
	wg.Wait()
	if err != nil || i != n {
		t.Errorf("%d of %d entries were read: %v", i, n, err)
	}
}

func concurrent(t *testing.T, open Open) {
	b := open(t, nil)
	defer b.Close()
	l := logOf(t, b)
	var mu sync.Mutex
	seen := map[uint64]bool{}
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			for range 25 {
				seq, err := l.Append(t.Context(), []byte("x"))
				if err != nil {
					t.Errorf("append: %v", err)
					return
				}
				mu.Lock()
				if seen[seq] {
					t.Errorf("place %d given twice", seq)
				}
				seen[seq] = true
				mu.Unlock()
			}
		})
	}
	wg.Wait()
	if len(seen) != 200 {
		t.Errorf("%d places, want 200", len(seen))
	}
}

func oversized(t *testing.T, open Open) {
	b := open(t, nil)
	defer b.Close()
	l := logOf(t, b)
	if _, err := l.Append(t.Context(), make([]byte, 5<<20)); !fault.Is(err, fault.TooLarge) {
		t.Errorf("5 MiB entry: %v, want too large", err)
	}
	if _, err := l.Append(t.Context(), make([]byte, 4<<20)); err != nil {
		t.Errorf("4 MiB entry: %v", err)
	}
}

func request(t *testing.T, open Open) {
	b := open(t, func(c bus.Call) { c.Reply([]byte(c.Name + " got " + string(c.Data))) })
	defer b.Close()
	cancel, err := b.Listen("d1")
	if err != nil {
		t.Fatal(err)
	}
	ctx, done := context.WithTimeout(t.Context(), 10*time.Second)
	defer done()
	got, err := b.Request(ctx, "d1", []byte("hello"))
	if err != nil || string(got) != "d1 got hello" {
		t.Errorf("request = %q, %v", got, err)
	}
	cancel()
	if _, err := b.Request(ctx, "d1", nil); !fault.Is(err, fault.NotOnline) {
		t.Errorf("after cancel: %v, want not online", err)
	}
}

func absent(t *testing.T, open Open) {
	b := open(t, func(bus.Call) {})
	defer b.Close()
	ctx, done := context.WithTimeout(t.Context(), 10*time.Second)
	defer done()
	start := time.Now()
	if _, err := b.Request(ctx, "nobody", nil); !fault.Is(err, fault.NotOnline) {
		t.Errorf("request = %v, want not online", err)
	}
	if d := time.Since(start); d > 5*time.Second {
		t.Errorf("it took %s to learn that nobody listens", d)
	}
	if err := b.Send("nobody", nil); err != nil {
		t.Errorf("send to nobody: %v", err)
	}
}

func silent(t *testing.T, open Open) {
	b := open(t, func(bus.Call) {})
	defer b.Close()
	if _, err := b.Listen("d1"); err != nil {
		t.Fatal(err)
	}
	ctx, done := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer done()
	if _, err := b.Request(ctx, "d1", nil); !fault.Is(err, fault.Timeout) {
		t.Errorf("request = %v, want timeout", err)
	}
}

func names(t *testing.T, open Open) {
	got := make(chan string, 1)
	b := open(t, func(c bus.Call) { got <- c.Name })
	defer b.Close()
	for _, name := range []string{"a.b", "a.*", ">", "d#1!$'(), =@", "é", strings.Repeat("x", 257)} {
		if _, err := b.Listen(name); err != nil {
			t.Fatalf("listen %q: %v", name, err)
		}
		if err := b.Send(name, nil); err != nil {
			t.Fatalf("send %q: %v", name, err)
		}
		select {
		case g := <-got:
			if g != name {
				t.Errorf("call for %q arrived as %q", name, g)
			}
		case <-time.After(10 * time.Second):
			t.Fatalf("call for %q did not arrive", name)
		}
	}
}
