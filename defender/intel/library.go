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
	"time"

	"github.com/fsnotify/fsnotify"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promauto"
)

// Config of a Library.
type Config struct {
	Dir        string                // folder whose *.txt files are lists; required
	Engine     *Engine               // where the lists go; nil: one of the library's own
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

// Library brings a folder's lists into an engine. The files are those whose names end in .txt and
// do not begin with a dot. A file that is gone takes its indicators with it; one that cannot be
// read keeps those it had, and so do all when the folder itself is gone.
type Library struct {
	dir    string
	period time.Duration
	log    *slog.Logger
	open   func(name string) (file, error)

	engine *Engine
	first  sync.Once

	reloads  prometheus.Counter
	badLines prometheus.Gauge

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
	block   *Block // nil: nothing yet
	bad     int
	seen    stamp
	problem string // why its present content is not used
}

func (f *loaded) indicators() int {
	if f.block == nil {
		return 0
	}
	return f.block.Len()
}

// stamp tells contents of a file apart.
type stamp struct {
	modified time.Time
	size     int64
}

func (s stamp) String() string { return fmt.Sprintf("%d-%d", s.modified.UnixNano(), s.size) }

// FileStatus is what a list gave.
type FileStatus struct {
	Name       string    `json:"name"`
	Indicators int       `json:"indicators"`
	Warnings   int       `json:"warnings"` // lines left out
	ModTime    time.Time `json:"modTime"`
	Problem    string    `json:"problem,omitempty"` // why an older content is in use
}

// SourceName is that of a file's indicators.
func SourceName(file string) string { return strings.ToValidUTF8(file, "\uFFFD") }

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
	if cfg.Engine == nil {
		cfg.Engine = NewEngine(nil)
	}
	f := promauto.With(cfg.Registerer)
	l := &Library{
		engine: cfg.Engine,
		dir:    cfg.Dir, period: cfg.Period, log: cfg.Logger,
		open:     func(name string) (file, error) { return os.Open(name) },
		reloads:  f.NewCounter(prometheus.CounterOpts{Name: "vauban_intel_reloads_total", Help: "Times that the indicators in use were replaced."}),
		badLines: f.NewGauge(prometheus.GaugeOpts{Name: "vauban_intel_bad_lines", Help: "Lines of the lists in use that could not be read."}),
		files:    make(map[string]*loaded),
		touched:  make(map[string]bool),
	}
	f.NewGaugeFunc(prometheus.GaugeOpts{Name: "vauban_intel_indicators", Help: "Indicators in use, of all lists and feeds."},
		func() float64 { return float64(l.engine.Current().Len()) })
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
	return l.engine.Current()
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
		status = append(status, FileStatus{Name: name, Indicators: f.indicators(), Warnings: f.bad, ModTime: f.seen.modified, Problem: f.problem})
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
	var put []*Block
	var gone []string
	for name := range l.files {
		if _, ok := found[name]; !ok {
			delete(l.files, name)
			l.log.Info("indicator list removed", "file", name)
			gone = append(gone, SourceName(name))
		}
	}
	for name, s := range found {
		if f := l.files[name]; f == nil || f.seen != s || f.problem != "" || l.touched[name] {
			if l.read(name) {
				put = append(put, l.files[name].block)
			}
		}
	}
	clear(l.touched)
	if len(put)+len(gone) > 0 {
		l.engine.Change(ToMatch, put, gone)
		l.count()
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
			old = new(loaded)
			l.files[name] = old
		}
		if old.problem != err.Error() {
			l.log.Warn("indicator list cannot be read; its last content stays in use", "file", name, "indicators", old.indicators(), "err", err)
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
	seen := stamp{info.ModTime(), info.Size()}
	b := NewBuilder(Source{Name: SourceName(name), Own: true, Version: seen.String()})
	if err := ReadList(f, b); err != nil {
		return fail(err)
	}
	l.log.Info("indicator list loaded", "file", name, "indicators", b.Len(), "bad_lines", b.BadLines)
	for i, w := range b.Warnings {
		if i == maxLogged {
			l.log.Warn("more lines of an indicator list were left out", "file", name, "lines", b.BadLines-maxLogged)
			break
		}
		l.log.Warn("line of an indicator list left out", "at", fmt.Sprintf("%s:%d", w.File, w.Line), "text", w.Text, "reason", w.Reason)
	}
	l.files[name] = &loaded{bad: b.BadLines, seen: seen, block: b.Block()}
	return true
}

// count updates the metrics. The caller holds mu.
func (l *Library) count() {
	bad := 0
	for _, f := range l.files {
		bad += f.bad
	}
	l.badLines.Set(float64(bad))
	l.reloads.Inc()
}
