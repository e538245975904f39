package diskbus

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/vauban-iot/vauban/bus"
	"github.com/vauban-iot/vauban/bus/bustest"
)

func TestBus(t *testing.T) {
	t.Parallel()
	dirs := map[testing.TB]string{}
	bustest.Run(t, func(t testing.TB, handle func(bus.Call)) bus.Bus {
		if dirs[t] == "" {
			dirs[t] = t.TempDir()
		}
		b, err := Open(Config{Dir: dirs[t], Handle: handle})
		if err != nil {
			t.Fatal(err)
		}
		return b
	})
}

// clock is a time that tests move.
type clock struct{ now time.Time }

func (c *clock) read() time.Time { return c.now }

type opened struct {
	*Bus
	*eventLog
	logged *bytes.Buffer
}

func open(t testing.TB, dir string, cfg bus.LogConfig, now func() time.Time) opened {
	t.Helper()
	var logged bytes.Buffer
	b, err := Open(Config{Dir: dir, Now: now, Logger: slog.New(slog.NewTextHandler(&logged, nil))})
	if err != nil {
		t.Fatal(err)
	}
	cfg.Name = "facts"
	l, err := b.Log(t.Context(), cfg)
	if err != nil {
		b.Close()
		t.Fatal(err)
	}
	return opened{b, l.(*eventLog), &logged}
}

func (o opened) put(t testing.TB, data ...string) {
	t.Helper()
	for _, d := range data {
		if _, err := o.Append(t.Context(), []byte(d)); err != nil {
			t.Fatal(err)
		}
	}
}

// all returns what is in the log, as "sequence data".
func (o opened) all(t testing.TB) []string {
	t.Helper()
	o.eventLog.mu.Lock()
	first, next := o.segments[0].first, o.next
	o.eventLog.mu.Unlock()
	r := o.read("test", first)
	defer func() { r.close() }()
	var got []string
	for r.next < next {
		e, err := r.take(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		got = append(got, fmt.Sprintf("%d %.20s", e.Sequence, e.Data))
	}
	return got
}

func (o opened) files(t testing.TB) []string {
	t.Helper()
	names, err := filepath.Glob(filepath.Join(o.dir, "*"+suffix))
	if err != nil {
		t.Fatal(err)
	}
	for i, n := range names {
		names[i] = strings.TrimLeft(strings.TrimSuffix(filepath.Base(n), suffix), "0")
	}
	return names
}

// Whatever a crash leaves of the last write, what was acknowledged is there and new entries follow it.
func TestLog_TornWrite(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	o := open(t, dir, bus.LogConfig{}, nil)
	o.put(t, "one", "two", "three")
	path := segmentPath(o.dir, 1)
	o.Bus.Close()
	whole, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	next := appendEntry(nil, 4, time.Now(), []byte("four"))
	later := appendEntry(nil, 9, time.Now(), []byte("nine")) // whole, but in another's place
	for name, tail := range map[string][]byte{
		"nothing": nil, "a part of the head": next[:5], "the head": next[:entryHead], "all but a byte": next[:len(next)-1],
		"zeros": make([]byte, 4096), "a length without end": bytes.Repeat([]byte{0xff}, 64), "another entry": later,
		"a changed byte": append(slices.Clone(next[:len(next)-1]), 'X'),
	} {
		if err := os.WriteFile(path, append(slices.Clone(whole), tail...), 0o600); err != nil {
			t.Fatal(err)
		}
		o := open(t, dir, bus.LogConfig{}, nil)
		o.put(t, "next")
		if got := o.all(t); !slices.Equal(got, []string{"1 one", "2 two", "3 three", "4 next"}) {
			t.Errorf("%s: %q", name, got)
		}
		o.Bus.Close()
	}
}

// A crash while a segment is begun leaves a file without entries, or no head at all.
func TestLog_TornSegment(t *testing.T) {
	t.Parallel()
	for _, size := range []int{0, 7, segmentHead - 1, segmentHead} {
		dir := t.TempDir()
		o := open(t, dir, bus.LogConfig{}, nil)
		o.put(t, "one", "two")
		o.Bus.Close()
		head := appendSegmentHead(nil, 3, time.Now())
		if err := os.WriteFile(segmentPath(o.dir, 3), head[:size], 0o600); err != nil {
			t.Fatal(err)
		}
		o = open(t, dir, bus.LogConfig{}, nil)
		o.put(t, "three")
		if got := o.all(t); !slices.Equal(got, []string{"1 one", "2 two", "3 three"}) {
			t.Errorf("%d bytes of a head: %q", size, got)
		}
		o.Bus.Close()
	}
}

// Damage that no crash explains is put aside, not thrown away; in an older segment it costs what follows it there.
func TestLog_Damage(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	o := open(t, dir, bus.LogConfig{}, nil)
	big := strings.Repeat("x", bus.MaxEntry)
	o.put(t, "one", "two", big, big, big)
	o.Bus.Close()
	path := segmentPath(o.dir, 1)
	breakAt := func(off int64) {
		t.Helper()
		f, err := os.OpenFile(path, os.O_WRONLY, 0)
		if err != nil {
			t.Fatal(err)
		}
		defer f.Close()
		if _, err := f.WriteAt([]byte("!"), off); err != nil {
			t.Fatal(err)
		}
	}
	second := int64(segmentHead + entryHead + 3)
	breakAt(second + entryHead)
	o = open(t, dir, bus.LogConfig{}, nil)
	o.put(t, "new")
	if got := o.all(t); !slices.Equal(got, []string{"1 one", "2 new"}) {
		t.Errorf("behind the damage: %q", got)
	}
	aside, err := os.ReadFile(path + ".damaged")
	if err != nil || len(aside) < 3*bus.MaxEntry || !strings.Contains(o.logged.String(), "damaged") {
		t.Errorf("put aside: %d bytes, %v; logged %q", len(aside), err, o.logged)
	}
	if err := o.begin(); err != nil {
		t.Fatal(err)
	}
	o.put(t, "three")
	breakAt(second + entryHead)
	for _, from := range []uint64{1, 2} {
		r := o.read("test", from)
		var got []string
		for len(got) == 0 || got[len(got)-1] != "3 three" {
			e, err := r.take(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			got = append(got, fmt.Sprintf("%d %s", e.Sequence, e.Data))
		}
		r.close()
		if want := []string{"1 one", "3 three"}[from-1:]; !slices.Equal(got, want) {
			t.Errorf("from %d with a damaged segment: %q, want %q", from, got, want)
		}
	}
	o.Bus.Close()

	if err := os.WriteFile(path, []byte("not a log at all, though long enough"), 0o600); err != nil {
		t.Fatal(err)
	}
	b, err := Open(Config{Dir: dir})
	if err != nil {
		t.Fatal(err)
	}
	defer b.Close()
	if _, err := b.Log(t.Context(), bus.LogConfig{Name: "facts"}); err == nil || !strings.Contains(err.Error(), path) {
		t.Errorf("a foreign file was taken for a log: %v", err)
	}
}

func TestLog_Retention(t *testing.T) {
	t.Parallel()
	c := &clock{time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)}
	o := open(t, t.TempDir(), bus.LogConfig{MaxAge: 8 * time.Hour}, c.read)
	defer o.Bus.Close()
	for i := range 12 {
		o.put(t, fmt.Sprint(i))
		c.now = c.now.Add(90 * time.Minute)
	}
	// Ten and a half hours ago, nine hours ago, ...: what is older than eight hours may be gone, what is younger may not.
	got := o.all(t)
	if len(got) < 5 || len(got) > 7 || got[len(got)-1] != "12 11" {
		t.Errorf("after 18 hours: %q in %q", got, o.files(t))
	}
	c.now = c.now.Add(24 * time.Hour)
	o.eventLog.trim()
	if got := o.all(t); len(got) != 0 {
		t.Errorf("a day later: %q", got)
	}
	o.put(t, "again")
	if got := o.all(t); !slices.Equal(got, []string{"13 again"}) {
		t.Errorf("sequence numbers do not go on: %q", got)
	}
}

func TestLog_MaxBytes(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	o := open(t, dir, bus.LogConfig{MaxBytes: 2 * segmentBytes}, nil)
	r := o.read("slow", 1)
	if e, err := o.Append(t.Context(), []byte("first")); err != nil || e != 1 {
		t.Fatal(e, err)
	}
	if e, err := r.take(t.Context()); err != nil || string(e.Data) != "first" {
		t.Fatal(e, err)
	}
	big := strings.Repeat("x", bus.MaxEntry)
	for range 4 * segmentBytes / bus.MaxEntry {
		o.put(t, big)
	}
	if n := len(o.files(t)); n < 2 || n > 3 {
		t.Errorf("%d segments are left", n)
	}
	// The slow reader has its file still, and then goes on with what is there.
	last := uint64(1)
	gaps := 0
	for o.next > r.next {
		e, err := r.take(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		if e.Sequence != last+1 {
			gaps++
		}
		last = e.Sequence
	}
	if gaps != 1 || !strings.Contains(o.logged.String(), "removed before they were read") {
		t.Errorf("%d gaps; logged %q", gaps, o.logged)
	}
	r.close()
	o.Bus.Close()
	o = open(t, dir, bus.LogConfig{MaxBytes: segmentBytes}, nil)
	defer o.Bus.Close()
	if n := len(o.files(t)); n != 1 {
		t.Errorf("a smaller bound left %d segments", n)
	}
}

// A log that was put back to an earlier state does not leave its readers waiting for numbers that it has to give again.
func TestWork_LogIsShorter(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	o := open(t, dir, bus.LogConfig{}, nil)
	p, err := openPlace(o.dir, "reader")
	if err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(p.set(70, time.Now()), p.set(71, time.Now())); err != nil {
		t.Fatal(err)
	}
	p.close()
	defer o.Bus.Close()
	o.put(t, "one")
	got := make(chan string)
	go func() {
		_ = o.Work(t.Context(), "reader", func(e bus.Entry) error { got <- string(e.Data); return nil })
	}()
	for { // the reader may begin before or behind this entry
		o.put(t, "two")
		select {
		case <-got:
			return
		case <-time.After(20 * time.Millisecond):
		}
	}
}

func TestPlace(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	now := time.Now()
	for seq := uint64(1); seq < 6; seq++ {
		p, err := openPlace(dir, "a/b")
		if err != nil {
			t.Fatal(err)
		}
		if p.done != seq-1 {
			t.Errorf("the place is %d, want %d", p.done, seq-1)
		}
		if err := p.set(seq, now); err != nil {
			t.Fatal(err)
		}
		// A write that tore leaves the one before it.
		torn := p.slot
		p.close()
		if seq == 5 {
			f, err := os.OpenFile(p.file.Name(), os.O_WRONLY, 0)
			if err != nil {
				t.Fatal(err)
			}
			defer f.Close()
			if _, err := f.WriteAt([]byte{0xff}, torn*slotBytes+3); err != nil {
				t.Fatal(err)
			}
		}
	}
	p, err := openPlace(dir, "a/b")
	if err != nil || p.done != 4 {
		t.Errorf("after a torn write the place is %d, want 4: %v", p.done, err)
	}
	p.close()
}

func TestOpen_Twice(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	o := open(t, dir, bus.LogConfig{}, nil)
	defer o.Bus.Close()
	if _, err := Open(Config{Dir: dir}); err == nil || !strings.Contains(err.Error(), "another server") {
		t.Errorf("a second server opened the same logs: %v", err)
	}
}

func TestWork_Twice(t *testing.T) {
	t.Parallel()
	o := open(t, t.TempDir(), bus.LogConfig{}, nil)
	defer o.Bus.Close()
	o.put(t, "one")
	ctx, cancel := context.WithCancel(t.Context())
	var second error
	if err := o.Work(ctx, "reader", func(bus.Entry) error {
		second = o.Work(ctx, "reader", func(bus.Entry) error { return nil })
		cancel()
		return nil
	}); err != nil {
		t.Fatal(err)
	}
	if second == nil {
		t.Error("two readers shared a name and its place")
	}
}

func FuzzRecover(f *testing.F) {
	one := appendEntry(nil, 1, time.Unix(1, 0), []byte("one"))
	f.Add([]byte{})
	f.Add(one)
	f.Add(append(slices.Clone(one), appendEntry(nil, 2, time.Unix(2, 0), nil)...))
	f.Add(append(slices.Clone(one), 0, 0, 0, 9, 1, 2, 3))
	f.Fuzz(func(t *testing.T, tail []byte) {
		dir := t.TempDir()
		if err := os.Mkdir(filepath.Join(dir, "facts"), 0o700); err != nil {
			t.Fatal(err)
		}
		head := appendSegmentHead(nil, 1, time.Unix(0, 0))
		if err := os.WriteFile(segmentPath(filepath.Join(dir, "facts"), 1), append(head, tail...), 0o600); err != nil {
			t.Fatal(err)
		}
		o := open(t, dir, bus.LogConfig{}, nil)
		before := o.all(t)
		o.put(t, "new")
		o.Bus.Close()
		o = open(t, dir, bus.LogConfig{}, nil)
		defer o.Bus.Close()
		if after := o.all(t); !slices.Equal(after, append(before, fmt.Sprintf("%d new", len(before)+1))) {
			t.Errorf("%q became %q", before, after)
		}
	})
}

func BenchmarkAppend(b *testing.B) {
	o := open(b, b.TempDir(), bus.LogConfig{}, nil)
	defer o.Bus.Close()
	data := make([]byte, 8<<10)
	b.SetBytes(int64(len(data)))
	for b.Loop() {
		if _, err := o.Append(b.Context(), data); err != nil {
			b.Fatal(err)
		}
	}
}
