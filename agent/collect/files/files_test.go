package files

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/fsnotify/fsnotify"

	"github.com/vauban-iot/vauban/agent/collect"
	"github.com/vauban-iot/vauban/wire/secmsg"
)

// seen gathers what a watcher tells.
type seen struct {
	t   *testing.T
	w   *Watcher
	mu  sync.Mutex
	all []secmsg.FileChange
}

func watch(t *testing.T, cfg Config) *seen {
	t.Helper()
	s := &seen{t: t, w: New(cfg)}
	ctx, stop := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() {
		done <- s.w.Run(ctx, func(o collect.Observation) {
			s.mu.Lock()
			defer s.mu.Unlock()
			c := o.Item.(secmsg.FileChange)
			if o.Event != "FileSystem" || o.Hits != c.HitCount || o.Hits == 0 || !strings.Contains(o.Key, c.Path) {
				t.Errorf("observation %+v", o)
			}
			s.all = append(s.all, c)
		})
	}()
	t.Cleanup(func() {
		stop()
		if err := <-done; err != nil {
			t.Errorf("Run: %v", err)
		}
	})
	for deadline := time.Now().Add(10 * time.Second); s.w.Source() == "not started"; time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatal("it does not start")
		}
	}
	return s
}

// wait waits for changes, in any order, and for nothing else.
func (s *seen) wait(want ...string) []secmsg.FileChange {
	s.t.Helper()
	for deadline := time.Now().Add(10 * time.Second); ; time.Sleep(5 * time.Millisecond) {
		s.mu.Lock()
		if len(s.all) >= len(want) || time.Now().After(deadline) {
			break
		}
		s.mu.Unlock()
	}
	defer s.mu.Unlock()
	left := map[string]int{}
	for _, c := range s.all {
		left[c.Action+" "+filepath.Base(c.Path)]++
	}
	for _, w := range want {
		left[w]--
	}
	for what, n := range left {
		if n != 0 {
			s.t.Fatalf("%s: %+d, of %+v", what, n, s.all)
		}
	}
	got := s.all
	s.all = nil
	return got
}

func write(t *testing.T, path, text string) {
	t.Helper()
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func TestWatcher(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	sub := filepath.Join(dir, "sub")
	must(t, os.Mkdir(sub, 0o755))
	old := filepath.Join(sub, "old")
	write(t, old, "before")
	s := watch(t, Config{Paths: []string{dir}, Recursive: true, HashUpTo: 10})
	if s.w.Source() != "inotify" {
		t.Errorf("the source is %s", s.w.Source())
	}

	write(t, filepath.Join(dir, "new"), "text")
	sum := sha256.Sum256([]byte("text"))
	if c := s.wait("Created new")[0]; c.Mask&inCreate == 0 || c.SHA256 != hex.EncodeToString(sum[:]) || c.Path != filepath.Join(dir, "new") {
		t.Errorf("created: %+v", c)
	}
	write(t, old, "longer than what is hashed")
	if c := s.wait("Modified old")[0]; c.Mask&inModify == 0 || c.SHA256 != "" {
		t.Errorf("modified: %+v", c)
	}
	write(t, old+".tmp", "x") // as editors do
	must(t, os.Rename(old+".tmp", old))
	s.waitEach("Modified old")
	must(t, os.Chmod(old, 0o644))
	if c := s.wait("Modified old")[0]; c.Mask != inAttrib {
		t.Errorf("its rights: %+v", c)
	}
	must(t, os.Remove(old))
	if c := s.wait("Deleted old")[0]; c.Mask != inDelete || c.SHA256 != "" {
		t.Errorf("deleted: %+v", c)
	}
	deep := filepath.Join(dir, "a", "b")
	must(t, os.MkdirAll(deep, 0o755))
	write(t, filepath.Join(deep, "inside"), "x")
	for _, c := range s.wait("Created a", "Created b", "Created inside") {
		if c.Mask&inIsDir != 0 != (filepath.Base(c.Path) != "inside") {
			t.Errorf("%+v", c)
		}
	}
	write(t, filepath.Join(deep, "later"), "x")
	s.wait("Created later")
	must(t, os.RemoveAll(filepath.Join(dir, "a")))
	s.wait("Deleted a", "Deleted b", "Deleted inside", "Deleted later")
}

// waitEach waits for what must be there; the traces of a file in between may be, too.
func (s *seen) waitEach(want string) {
	s.t.Helper()
	for deadline := time.Now().Add(10 * time.Second); ; time.Sleep(5 * time.Millisecond) {
		s.mu.Lock()
		for _, c := range s.all {
			if c.Action+" "+filepath.Base(c.Path) == want {
				s.mu.Unlock()
				time.Sleep(4 * quiet) // what belongs to it
				s.mu.Lock()
				s.all = nil
				s.mu.Unlock()
				return
			}
		}
		s.mu.Unlock()
		if time.Now().After(deadline) {
			s.t.Fatalf("%s was not seen", want)
		}
	}
}

// A single file is watched through replacement and absence; its neighbours are not told of, nor is what is below when that is not wanted.
func TestWatcher_OneFile(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	file, flat := filepath.Join(dir, "passwd"), filepath.Join(dir, "flat")
	must(t, os.MkdirAll(filepath.Join(flat, "sub"), 0o755))
	s := watch(t, Config{Paths: []string{file, flat}})
	write(t, filepath.Join(dir, "neighbour"), "x")
	write(t, filepath.Join(flat, "sub", "below"), "x")
	write(t, file, "x")
	s.wait("Created passwd")
	must(t, os.Remove(file))
	s.wait("Deleted passwd")
	must(t, os.Symlink("/etc/shadow", file))
	if c := s.wait("Created passwd")[0]; c.SHA256 != "" {
		t.Errorf("a link was followed: %+v", c)
	}
	write(t, filepath.Join(flat, "x"), "x")
	s.wait("Created x")
}

// A file that is there for a moment is told of: it came, and it went.
func TestSettle_CameAndWent(t *testing.T) {
	t.Parallel()
	s := watch(t, Config{Paths: []string{t.TempDir()}})
	path := filepath.Join(s.w.cfg.Paths[0], "brief")
	write(t, path, "x")
	must(t, os.Remove(path))
	s.wait("Created brief", "Deleted brief")
}

// Directories beyond the bound are compared instead.
func TestWatcher_Bounds(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	for i := range 6 {
		must(t, os.Mkdir(filepath.Join(dir, fmt.Sprint(i)), 0o755))
	}
	s := watch(t, Config{Paths: []string{dir}, Recursive: true, MaxWatches: 3, MaxFiles: 9, Rescan: 50 * time.Millisecond})
	if got := s.w.Source(); !strings.HasPrefix(got, "inotify (5 directories are beyond the 3 watches") {
		t.Errorf("the source is %s", got)
	}
	far := filepath.Join(dir, "5", "far")
	write(t, far, "x")
	s.wait("Created far")
	must(t, os.Remove(far))
	s.wait("Deleted far")
	for i := range 4 {
		write(t, filepath.Join(dir, fmt.Sprintf("file%d", i)), "x") // watched, but only two more are known
	}
	s.wait("Created file0", "Created file1", "Created file2", "Created file3")
	if s.w.Unknown() == 0 {
		t.Error("files beyond the bound are not counted")
	}
}

// After an overflow everything is compared with what was known.
func TestScan_FindsWhatWasLost(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	for _, name := range []string{"same", "changed", "deleted"} {
		write(t, filepath.Join(dir, name), "x")
	}
	s := watch(t, Config{Paths: []string{dir}, Rescan: time.Hour})
	r := &run{Watcher: s.w, n: mustNotify(t), watched: map[string]bool{}, left: map[string]bool{}, known: map[string]state{}, pending: map[string]*change{}, emit: func(o collect.Observation) {
		s.mu.Lock()
		defer s.mu.Unlock()
		s.all = append(s.all, o.Item.(secmsg.FileChange))
	}}
	r.scan(false)
	write(t, filepath.Join(dir, "changed"), "xy")
	write(t, filepath.Join(dir, "made"), "x")
	must(t, os.Remove(filepath.Join(dir, "deleted")))
	s.wait("Modified changed", "Created made", "Deleted deleted") // by inotify
	r.scan(true)
	r.flush(true)
	s.wait("Modified changed", "Created made", "Deleted deleted") // without it
	r.scan(true)
	r.flush(true)
	s.wait()
}

func TestRun_NoPaths(t *testing.T) {
	t.Parallel()
	if err := New(Config{}).Run(t.Context(), nil); err == nil || !strings.Contains(err.Error(), "FileSystem_Paths") {
		t.Errorf("got %v", err)
	}
}

func mustNotify(t *testing.T) *fsnotify.Watcher {
	t.Helper()
	n, err := fsnotify.NewWatcher()
	must(t, err)
	t.Cleanup(func() { n.Close() })
	return n
}
