package queue

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"
)

func open(t testing.TB, dir string, limit int64) *Queue {
	t.Helper()
	q, err := Open(dir, limit)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = q.Close() })
	return q
}

func put(t testing.TB, q *Queue, bodies ...string) {
	t.Helper()
	for _, b := range bodies {
		if err := q.Put(Message{Time: time.Unix(1700000000, 0), Label: "l", Body: []byte(b)}); err != nil {
			t.Fatal(err)
		}
	}
}

// take reads n messages.
func take(t testing.TB, q *Queue, n int) (bodies []string) {
	t.Helper()
	for range n {
		m, mark, err := q.Next(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		if m.Label != "l" || m.Time.Unix() != 1700000000 {
			t.Errorf("message %+v", m)
		}
		bodies = append(bodies, string(m.Body))
		if err := q.Done(mark); err != nil {
			t.Fatal(err)
		}
	}
	return bodies
}

func empty(t testing.TB, q *Queue) {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if m, _, err := q.Next(ctx); !errors.Is(err, context.Canceled) {
		t.Fatalf("there is more: %q, %v", m.Body, err)
	}
}

func TestQueue(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	q := open(t, dir, 1<<20)
	empty(t, q)
	put(t, q, "a", "b", "")
	if got := take(t, q, 1); got[0] != "a" {
		t.Fatal(got)
	}
	m, _, err := q.Next(t.Context())
	if err != nil || string(m.Body) != "b" {
		t.Fatal(m, err)
	}
	// Not closed, as after kill -9: what was read and not done with comes again.
	q = open(t, dir, 1<<20)
	if s := q.State(); s.Messages != 2 || s.Dropped != 0 || s.Damaged != 0 {
		t.Errorf("state %+v", s)
	}
	put(t, q, "c")
	if got := take(t, q, 3); !slices.Equal(got, []string{"b", "", "c"}) {
		t.Fatal(got)
	}
	empty(t, q)
	q = open(t, dir, 1<<20)
	empty(t, q)
	put(t, q, "d")
	if got := take(t, q, 1); got[0] != "d" {
		t.Fatal(got)
	}
	if err := q.Put(Message{Body: make([]byte, MaxBody+1)}); !errors.Is(err, ErrTooLarge) {
		t.Errorf("too large: %v", err)
	}
}

func files(t *testing.T, dir string) []string {
	t.Helper()
	names, err := filepath.Glob(filepath.Join(dir, "*"+ext))
	if err != nil {
		t.Fatal(err)
	}
	return names
}

// A full queue loses its oldest messages and counts them; files that were read go.
func TestQueue_IsBounded(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	q := open(t, dir, 3<<20)
	for i := range 40 {
		put(t, q, fmt.Sprintf("%02d", i)+string(make([]byte, 200<<10)))
	}
	s := q.State()
	if s.Bytes > 3<<20 || s.Messages+int(s.Dropped) != 40 || s.Messages < 14 {
		t.Errorf("state %+v", s)
	}
	var size int64
	for _, f := range files(t, dir) {
		info, err := os.Stat(f)
		if err != nil {
			t.Fatal(err)
		}
		size += info.Size()
	}
	if size > 4<<20 {
		t.Errorf("%d bytes on disk", size)
	}
	first := 40 - s.Messages
	for i, body := range take(t, q, s.Messages) {
		if body[:2] != fmt.Sprintf("%02d", first+i) {
			t.Fatalf("message %d is %s", first+i, body[:2])
		}
	}
	if n := len(files(t, dir)); n > 1 {
		t.Errorf("%d files are left", n)
	}
	// One that was dropped while it was being sent is not taken for its successor.
	put(t, q, "x"+string(make([]byte, 250<<10)), "y")
	_, mark, err := q.Next(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	q.SetLimit(0)
	put(t, q, "z"+string(make([]byte, 250<<10)))
	if err := q.Done(mark); err != nil {
		t.Fatal(err)
	}
	if got := take(t, q, 1); got[0] != "y" && got[0][0] != 'z' {
		t.Errorf("got %q", got[0][:1])
	}
}

// Wherever writing stopped, what was put before is there, and putting goes on.
func TestQueue_TornRecord(t *testing.T) {
	t.Parallel()
	whole := t.TempDir()
	q := open(t, whole, 1<<20)
	put(t, q, "first", "second", "third")
	text, err := os.ReadFile(files(t, whole)[0])
	if err != nil {
		t.Fatal(err)
	}
	size := int(int64(headerSize) + 1 + 5)
	for cut := range len(text) {
		dir := t.TempDir()
		if err := os.WriteFile(filepath.Join(dir, filepath.Base(files(t, whole)[0])), text[:cut], 0o600); err != nil {
			t.Fatal(err)
		}
		q := open(t, dir, 1<<20)
		n := q.State().Messages
		if want := max(0, cut-len(magic)) / size; n < min(want, 1) || n > 3 {
			t.Fatalf("cut at %d: %d messages", cut, n)
		}
		put(t, q, "after")
		got := take(t, q, n+1)
		if got[n] != "after" || n > 0 && got[0] != "first" {
			t.Fatalf("cut at %d: %q", cut, got)
		}
		empty(t, q)
		if err := q.Close(); err != nil {
			t.Fatal(err)
		}
	}
}

func FuzzOpen(f *testing.F) {
	dir := f.TempDir()
	q := open(f, dir, 1<<20)
	put(f, q, "first", "second")
	text, err := os.ReadFile(filepath.Join(dir, fmt.Sprintf("%016x%s", 1, ext)))
	if err != nil {
		f.Fatal(err)
	}
	f.Add(text, []byte{})
	f.Add(text[:len(text)-3], bytes.Repeat([]byte{0}, 20))
	f.Add([]byte(magic+"\xff\xff\xff\xff"), []byte("x"))
	f.Fuzz(func(t *testing.T, segment, where []byte) {
		dir := t.TempDir()
		for name, b := range map[string][]byte{fmt.Sprintf("%016x%s", 1, ext): segment, place: where, "0.q": segment, "unrelated": segment} {
			if err := os.WriteFile(filepath.Join(dir, name), b, 0o600); err != nil {
				t.Fatal(err)
			}
		}
		q, err := Open(dir, 1<<20)
		if err != nil {
			t.Fatal(err)
		}
		defer q.Close()
		n := q.State().Messages
		if n*headerSize > len(segment) {
			t.Fatalf("%d messages in %d bytes", n, len(segment))
		}
		put(t, q, "after")
		for i := range n + 1 {
			m, mark, err := q.Next(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			if i == n && string(m.Body) != "after" {
				t.Fatalf("the last is %q", m.Body)
			}
			if err := q.Done(mark); err != nil {
				t.Fatal(err)
			}
		}
		empty(t, q)
	})
}
