package intel

import (
	"bytes"
	"context"
	"errors"
	"io/fs"
	"log/slog"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

// logBuffer is a log that may be read while it is written.
type logBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *logBuffer) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *logBuffer) count(s string) int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return strings.Count(l.b.String(), s)
}

func newLibrary(t *testing.T) (*Library, string, *logBuffer) {
	t.Helper()
	dir, log := filepath.Join(t.TempDir(), "intel"), new(logBuffer)
	if err := os.Mkdir(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	l, err := New(Config{Dir: dir, Logger: slog.New(slog.NewTextHandler(log, nil)), Registerer: prometheus.NewRegistry()})
	if err != nil {
		t.Fatal(err)
	}
	return l, dir, log
}

func write(t *testing.T, dir, name, text string) {
	t.Helper()
	if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
}

func listed(l *Library, addr string) bool {
	_, ok := l.Current().Match(netip.AddrPortFrom(netip.MustParseAddr(addr), 0), time.Now())
	return ok
}

// within waits until ok holds, at most the second that a change may take.
func within(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for end := time.Now().Add(time.Second); !ok(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("%s: not after a second", what)
		}
	}
}

func run(t *testing.T, l *Library) {
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- l.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Errorf("Run: %v", err)
		}
	})
}

func TestLibrary_CurrentReadsBeforeRun(t *testing.T) {
	t.Parallel()
	l, dir, _ := newLibrary(t)
	write(t, dir, "a.txt", "192.0.2.1\n")
	if !listed(l, "192.0.2.1") {
		t.Error("the first use found no lists")
	}
	l, dir, _ = newLibrary(t)
	if err := os.Remove(dir); err != nil {
		t.Fatal(err)
	}
	if err := l.Load(); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("Load without a folder: %v", err)
	}
	if l.Current().Len() != 0 {
		t.Error("indicators from nowhere")
	}
}

func TestLibrary_FollowsTheFolder(t *testing.T) {
	t.Parallel()
	l, dir, log := newLibrary(t)
	write(t, dir, "a.txt", "192.0.2.1\n")
	write(t, dir, ".hidden.txt", "192.0.2.200\n")
	write(t, dir, "notes.md", "192.0.2.201\n")
	run(t, l)
	within(t, "the initial load", func() bool { return listed(l, "192.0.2.1") })

	write(t, dir, "b.txt", "192.0.2.2\nrubbish\n")
	within(t, "a new file", func() bool { return listed(l, "192.0.2.2") && listed(l, "192.0.2.1") })
	if n := log.count("at=b.txt:2 text=rubbish"); n == 0 {
		t.Error("a bad line is not logged with its place")
	}

	write(t, dir, "a.txt", "192.0.2.3\n") // as long as before
	within(t, "a changed file", func() bool { return listed(l, "192.0.2.3") && !listed(l, "192.0.2.1") })

	write(t, dir, "x.tmp", "192.0.2.4\n")
	if err := os.Rename(filepath.Join(dir, "x.tmp"), filepath.Join(dir, "a.txt")); err != nil {
		t.Fatal(err)
	}
	within(t, "a file renamed into place", func() bool { return listed(l, "192.0.2.4") && !listed(l, "192.0.2.3") })

	status := l.Status()
	if len(status) != 2 || status[0].Name != "a.txt" || status[1].Name != "b.txt" || status[1].Indicators != 1 || status[1].Warnings != 1 || status[1].ModTime.IsZero() {
		t.Errorf("status %+v", status)
	}
	if listed(l, "192.0.2.200") || listed(l, "192.0.2.201") {
		t.Error("files that are no lists are used")
	}

	if err := os.Remove(filepath.Join(dir, "b.txt")); err != nil {
		t.Fatal(err)
	}
	within(t, "a removed file", func() bool { return !listed(l, "192.0.2.2") })

	// The folder goes and comes back.
	if err := os.Rename(dir, dir+".away"); err != nil {
		t.Fatal(err)
	}
	within(t, "the vanished folder", func() bool { return log.count("folder of indicator lists cannot be read") == 1 })
	if !listed(l, "192.0.2.4") {
		t.Error("the vanished folder took its lists along")
	}
	if err := os.Mkdir(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	write(t, dir, "c.txt", "192.0.2.5\n")
	within(t, "the new folder", func() bool { return listed(l, "192.0.2.5") && !listed(l, "192.0.2.4") })
}

func TestLibrary_PollsWithoutNotices(t *testing.T) {
	t.Parallel()
	l, dir, _ := newLibrary(t)
	if err := l.Load(); err != nil {
		t.Fatal(err)
	}
	if l.changed() {
		t.Error("an empty folder is always new")
	}
	write(t, dir, "a.txt", "192.0.2.1\n")
	if !l.changed() {
		t.Error("a new file is not seen")
	}
	if err := l.Load(); err != nil || !listed(l, "192.0.2.1") || l.changed() {
		t.Errorf("after the load: %v", err)
	}
	if err := os.Chtimes(filepath.Join(dir, "a.txt"), time.Now(), time.Now().Add(time.Second)); err != nil {
		t.Fatal(err)
	}
	if !l.changed() {
		t.Error("a new time is not seen")
	}
	// Neither folders nor pipes by such a name are read.
	if err := os.Mkdir(filepath.Join(dir, "d.txt"), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := l.Load(); err != nil || len(l.Status()) != 1 {
		t.Errorf("%v, status %+v", err, l.Status())
	}
}

func TestLibrary_KeepsWhatCannotBeRead(t *testing.T) {
	t.Parallel()
	l, dir, log := newLibrary(t)
	write(t, dir, "a.txt", "192.0.2.1\n")
	if err := l.Load(); err != nil {
		t.Fatal(err)
	}
	open := l.open
	l.open = func(name string) (file, error) {
		return nil, &fs.PathError{Op: "open", Path: name, Err: fs.ErrPermission}
	}
	write(t, dir, "a.txt", "192.0.2.1\n192.0.2.2\n")
	for range 3 {
		if err := l.Load(); err != nil {
			t.Fatal(err)
		}
	}
	if !listed(l, "192.0.2.1") || listed(l, "192.0.2.2") {
		t.Error("the last good content is not in use")
	}
	if n := log.count("indicator list cannot be read"); n != 1 {
		t.Errorf("logged %d times, want once", n)
	}
	if s := l.Status(); len(s) != 1 || s[0].Indicators != 1 || s[0].Problem == "" {
		t.Errorf("status %+v", s)
	}
	l.open = open
	if !l.changed() {
		t.Error("the file is not tried again")
	}
	if err := l.Load(); err != nil || !listed(l, "192.0.2.2") || l.Status()[0].Problem != "" {
		t.Errorf("after it became readable: %v, %+v", err, l.Status())
	}
}

func TestLibrary_LogIsBounded(t *testing.T) {
	t.Parallel()
	l, dir, log := newLibrary(t)
	write(t, dir, "a.txt", strings.Repeat("rubbish\n", 3000))
	if err := l.Load(); err != nil {
		t.Fatal(err)
	}
	if n := log.count("text=rubbish"); n != maxLogged {
		t.Errorf("%d lines logged, want %d", n, maxLogged)
	}
	if log.count("lines=2980") != 1 || l.Status()[0].Warnings != 3000 {
		t.Error("the others are not counted")
	}
}

// Readers see whole sets while files change under them.
func TestLibrary_ReadersDoNotWait(t *testing.T) {
	t.Parallel()
	l, dir, _ := newLibrary(t)
	write(t, dir, "a.txt", "192.0.2.1\n192.0.2.2\n")
	if err := l.Load(); err != nil {
		t.Fatal(err)
	}
	stop := make(chan struct{})
	var readers sync.WaitGroup
	for range 4 {
		readers.Go(func() {
			for {
				select {
				case <-stop:
					return
				default:
				}
				s := l.Current()
				_, one := s.Match(netip.AddrPortFrom(netip.MustParseAddr("192.0.2.1"), 0), time.Now())
				if _, three := s.Match(netip.AddrPortFrom(netip.MustParseAddr("192.0.2.3"), 0), time.Now()); one == three || s.Len() != 2 {
					t.Error("a set that never was")
					return
				}
			}
		})
	}
	for i := range 50 {
		write(t, dir, "x.tmp", []string{"192.0.2.3\n192.0.2.2\n", "192.0.2.1\n192.0.2.2\n"}[i%2])
		if err := os.Rename(filepath.Join(dir, "x.tmp"), filepath.Join(dir, "a.txt")); err != nil {
			t.Fatal(err)
		}
		if err := l.Load(); err != nil {
			t.Fatal(err)
		}
	}
	close(stop)
	readers.Wait()
}
