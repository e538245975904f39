package intel

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/fsnotify/fsnotify"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promauto"
)

// Config of a Library.
type Config struct {
	Dir        string                // folder whose *.txt files are lists; required
	Logger     *slog.Logger          // nil: slog.Default
	Period     time.Duration         // between looks at the folder where changes are not announced; zero: 500 ms
	Registerer prometheus.Registerer // may be nil
}

const (
	defaultPeriod = 500 * time.Millisecond
	// settle is how long a changed folder must rest before it is read, so that files are
	// whole; a folder that never rests is read after maxSettle.
	settle    = 100 * time.Millisecond
	maxSettle = 400 * time.Millisecond
	// maxLogged is how many bad lines of a file are logged one by one.
	maxLogged = 20
)

// Library keeps the set of a folder's lists. The files are those whose names end in .txt and
// do not begin with a dot. A file that is gone takes its indicators with it; one that cannot be
// read keeps those it had, and so do all when the folder itself is gone.
type Library struct {
	dir    string
	period time.Duration
	log    *slog.Logger
	open   func(name string) (file, error)

	set   atomic.Pointer[Set]
	first sync.Once

	indicators prometheus.Gauge
	reloads    prometheus.Counter
	badLines   prometheus.Gauge

	mu      sync.Mutex // held while lists are read; nothing is taken under it
	files   map[string]*loaded
	touched map[string]bool // files announced as changed, whatever their times say
	missing string          // why the folder cannot be read
}

type file interface {
	io.ReadCloser
	Stat() (fs.FileInfo, error)
}

// loaded is what one file gave.
type loaded struct {
	*list
	seen    stamp
	problem string // why its present content is not used
}

// stamp tells contents of a file apart.
type stamp struct {
	modified time.Time
	size     int64
}

// FileStatus is what a list gave.
type FileStatus struct {
	Name       string    `json:"name"`
	Indicators int       `json:"indicators"`
	Warnings   int       `json:"warnings"` // lines left out
	ModTime    time.Time `json:"modTime"`
	Problem    string    `json:"problem,omitempty"` // why an older content is in use
}

// New makes a library of cfg.Dir. It reads nothing yet.
func New(cfg Config) (*Library, error) {
	if cfg.Dir == "" {
		return nil, errors.New("intel: no folder of indicator lists")
	}
	if cfg.Logger == nil {
		cfg.Logger = slog.Default()
	}
	if cfg.Period == 0 {
		cfg.Period = defaultPeriod
	}
	f := promauto.With(cfg.Registerer)
	l := &Library{
		dir: cfg.Dir, period: cfg.Period, log: cfg.Logger,
		open:       func(name string) (file, error) { return os.Open(name) },
		indicators: f.NewGauge(prometheus.GaugeOpts{Name: "vauban_intel_indicators", Help: "Different indicators in use."}),
		reloads:    f.NewCounter(prometheus.CounterOpts{Name: "vauban_intel_reloads_total", Help: "Times that the indicators in use were replaced."}),
		badLines:   f.NewGauge(prometheus.GaugeOpts{Name: "vauban_intel_bad_lines", Help: "Lines of the lists in use that could not be read."}),
		files:      make(map[string]*loaded),
		touched:    make(map[string]bool),
	}
	l.set.Store(new(Set))
	return l, nil
}

// Current is the set in use. The first call reads the lists, unless Load or Run did;
// afterwards it waits for nothing.
func (l *Library) Current() *Set {
	l.first.Do(func() {
		if err := l.refresh(); err != nil {
			l.log.Warn("indicator lists cannot be read", "err", err)
		}
	})
	return l.set.Load()
}

// Load reads what changed in the folder. Its error says that the folder cannot be read; the
// lists stay as they are then.
func (l *Library) Load() error {
	err := l.refresh()
	l.first.Do(func() {})
	return err
}

// Status lists the files in use, by name.
func (l *Library) Status() []FileStatus {
	l.mu.Lock()
	defer l.mu.Unlock()
	status := make([]FileStatus, 0, len(l.files))
	for name, f := range l.files {
		status = append(status, FileStatus{Name: name, Indicators: len(f.indicators), Warnings: f.bad, ModTime: f.seen.modified, Problem: f.problem})
	}
	slices.SortFunc(status, func(a, b FileStatus) int { return strings.Compare(a.Name, b.Name) })
	return status
}

// Run reads the lists, then follows the folder until ctx ends. A change is in use within a
// second, on filesystems without change notices too.
func (l *Library) Run(ctx context.Context) error {
	// Notices only make it faster; without them (no inotify, no more watches) the ticker does.
	var events chan fsnotify.Event
	var failures chan error
	watcher, err := fsnotify.NewWatcher()
	if err != nil {
		l.log.Warn("changes of indicator lists are not announced; the folder is polled", "err", err)
	} else {
		defer watcher.Close()
		events, failures = watcher.Events, watcher.Errors
		_ = watcher.Add(l.dir) // the ticker tries again
	}
	if err := l.Load(); err != nil {
		l.log.Warn("indicator lists cannot be read", "err", err)
	}
	tick := time.NewTicker(l.period)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case e := <-events:
			if !isList(filepath.Base(e.Name)) || e.Op == fsnotify.Chmod && !l.troubled() {
				continue
			}
			l.touch(filepath.Base(e.Name))
		case err := <-failures: // an overflow of notices: look
			l.log.Debug("notices of list changes were lost", "err", err)
		case <-tick.C:
			if watcher != nil {
				_ = watcher.Add(l.dir) // no effect while it is watched; needed after the folder was replaced
			}
			if !l.changed() {
				continue
			}
		}
		if !l.rest(ctx, events) {
			return nil
		}
		_ = l.Load() // logged when it begins to fail
	}
}

func (l *Library) touch(name string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.touched[name] = true
}

func (l *Library) troubled() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, f := range l.files {
		if f.problem != "" {
			return true
		}
	}
	return false
}

// rest waits until the folder did not change for a while. It is false when ctx ended.
func (l *Library) rest(ctx context.Context, events <-chan fsnotify.Event) bool {
	quiet := time.NewTimer(settle)
	defer quiet.Stop()
	limit := time.NewTimer(maxSettle)
	defer limit.Stop()
	for {
		select {
		case <-ctx.Done():
			return false
		case e := <-events:
			if name := filepath.Base(e.Name); isList(name) {
				l.touch(name)
				quiet.Reset(settle)
			}
		case <-quiet.C:
			return true
		case <-limit.C:
			return true
		}
	}
}

func isList(name string) bool {
	return strings.HasSuffix(name, ".txt") && !strings.HasPrefix(name, ".")
}

// entries is the folder's lists and their stamps.
func (l *Library) entries() (map[string]stamp, error) {
	names, err := os.ReadDir(l.dir)
	if err != nil {
		return nil, err
	}
	found := make(map[string]stamp)
	for _, e := range names {
		if !isList(e.Name()) {
			continue
		}
		info, err := os.Stat(filepath.Join(l.dir, e.Name())) // follows links
		switch {
		case errors.Is(err, fs.ErrNotExist):
		case err != nil:
			found[e.Name()] = stamp{} // opening it will tell
		case info.Mode().IsRegular(): // never a pipe, which could block
			found[e.Name()] = stamp{info.ModTime(), info.Size()}
		}
	}
	return found, nil
}

// changed reports whether the folder differs from what is loaded.
func (l *Library) changed() bool {
	found, err := l.entries()
	l.mu.Lock()
	defer l.mu.Unlock()
	if err != nil {
		return l.missing == ""
	}
	if l.missing != "" || len(found) != len(l.files) {
		return true
	}
	for name, s := range found {
		f := l.files[name]
		if f == nil || f.seen != s || f.problem != "" {
			return true
		}
	}
	return false
}

func (l *Library) refresh() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	found, err := l.entries()
	if err != nil {
		if l.missing == "" {
			l.log.Warn("the folder of indicator lists cannot be read; the last lists stay in use", "dir", l.dir, "err", err)
		}
		l.missing = err.Error()
		return fmt.Errorf("read the folder of indicator lists: %w", err)
	}
	l.missing = ""
	changed := false
	for name := range l.files {
		if _, ok := found[name]; !ok {
			delete(l.files, name)
			l.log.Info("indicator list removed", "file", name)
			changed = true
		}
	}
	for name, s := range found {
		if f := l.files[name]; f == nil || f.seen != s || f.problem != "" || l.touched[name] {
			changed = l.read(name) || changed
		}
	}
	clear(l.touched)
	if changed {
		l.swap()
	}
	return nil
}

// read loads one file. It reports whether the set must be made anew. The caller holds mu.
func (l *Library) read(name string) bool {
	old := l.files[name]
	fail := func(err error) bool {
		if errors.Is(err, fs.ErrNotExist) {
			return false // the next look finds it gone
		}
		if old == nil {
			old = &loaded{list: &list{name: name}}
			l.files[name] = old
		}
		if old.problem != err.Error() {
			l.log.Warn("indicator list cannot be read; its last content stays in use", "file", name, "indicators", len(old.indicators), "err", err)
		}
		old.problem = err.Error()
		return false
	}
	f, err := l.open(filepath.Join(l.dir, name))
	if err != nil {
		return fail(err)
	}
	defer f.Close()
	// The time is taken before reading: what is written meanwhile makes it differ.
	info, err := f.Stat()
	if err != nil {
		return fail(err)
	}
	parsed := parse(name, f)
	if parsed.err != nil {
		return fail(parsed.err)
	}
	l.files[name] = &loaded{list: parsed, seen: stamp{info.ModTime(), info.Size()}}
	l.log.Info("indicator list loaded", "file", name, "indicators", len(parsed.indicators), "bad_lines", parsed.bad)
	for i, w := range parsed.warnings {
		if i == maxLogged {
			l.log.Warn("more lines of an indicator list were left out", "file", name, "lines", parsed.bad-maxLogged)
			break
		}
		l.log.Warn("line of an indicator list left out", "at", fmt.Sprintf("%s:%d", w.File, w.Line), "text", w.Text, "reason", w.Reason)
	}
	parsed.warnings = nil
	return true
}

// swap puts the loaded files into use, in the order of their names. The caller holds mu.
func (l *Library) swap() {
	names := make([]string, 0, len(l.files))
	bad := 0
	for name, f := range l.files {
		names = append(names, name)
		bad += f.bad
	}
	slices.Sort(names)
	lists := make([][]Indicator, len(names))
	for i, name := range names {
		lists[i] = l.files[name].indicators
	}
	set := NewSet(lists...)
	l.set.Store(set)
	l.indicators.Set(float64(set.Len()))
	l.badLines.Set(float64(bad))
	l.reloads.Inc()
}
