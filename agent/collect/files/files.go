// Package files sees files being made, changed and deleted under paths that were chosen, by inotify. What inotify lost, and what is
// in directories beyond the bound of watches, is found by comparing with what was there before.
package files

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"sync/atomic"
	"time"

	"github.com/fsnotify/fsnotify"

	"github.com/vauban-iot/vauban/agent/collect"
	"github.com/vauban-iot/vauban/wire/secmsg"
)

// Config of a Watcher.
type Config struct {
	Paths      []string      // files and directories (the twin's FileSystem_Paths)
	Recursive  bool          // the directories below them, too
	MaxWatches int           // directories that are watched; default 1024
	MaxFiles   int           // files that are known, for comparison; default 16384
	HashUpTo   int64         // bytes; larger files have no hash. Default 1 MiB, negative: none has
	Rescan     time.Duration // between comparisons, where not all directories are watched; default 5 min
}

// quiet is how long a file has to be left alone before its change is told: one writing is many events.
const quiet = 100 * time.Millisecond

// maxPending bounds the files that are being changed.
const maxPending = 4096

// Masks of inotify(7).
const (
	inModify = 0x2
	inAttrib = 0x4
	inMoved  = 0x40
	inCreate = 0x100
	inDelete = 0x200
	inIsDir  = 0x40000000
)

// Watcher sees changes.
type Watcher struct {
	cfg       Config
	source    atomic.Pointer[string]
	overflows atomic.Uint64
	unknown   atomic.Uint64
}

var _ collect.Watcher = (*Watcher)(nil)

// New makes a watcher.
func New(cfg Config) *Watcher {
	if cfg.MaxWatches <= 0 {
		cfg.MaxWatches = 1024
	}
	if cfg.MaxFiles <= 0 {
		cfg.MaxFiles = 16384
	}
	if cfg.HashUpTo == 0 {
		cfg.HashUpTo = 1 << 20
	}
	if cfg.Rescan <= 0 {
		cfg.Rescan = 5 * time.Minute
	}
	paths := make([]string, len(cfg.Paths))
	for i, p := range cfg.Paths {
		paths[i] = filepath.Clean(p)
	}
	cfg.Paths = paths
	return &Watcher{cfg: cfg}
}

// Source says how it watches, and how much of it.
func (w *Watcher) Source() string {
	if s := w.source.Load(); s != nil {
		return *s
	}
	return "not started"
}

// Overflows counts how often the kernel had more events than it kept; Unknown counts files beyond MaxFiles, whose changes inotify alone tells.
func (w *Watcher) Overflows() uint64 { return w.overflows.Load() }

// Unknown counts files that were beyond MaxFiles when they were seen.
func (w *Watcher) Unknown() uint64 { return w.unknown.Load() }

// state is what is compared.
type state struct {
	size  int64
	mod   time.Time
	mode  fs.FileMode
	dir   bool
	inode uint64
}

func stateOf(i fs.FileInfo) state {
	s := state{size: i.Size(), mod: i.ModTime(), mode: i.Mode(), dir: i.IsDir(), inode: inode(i)}
	if s.dir {
		s.size, s.mod = 0, time.Time{} // they change with what is inside
	}
	return s
}

// change is a file that is being changed.
type change struct {
	mask  uint32
	hits  uint32
	since time.Time
	last  time.Time
}

// run is one run of a Watcher; everything in it belongs to its goroutine.
type run struct {
	*Watcher
	n       *fsnotify.Watcher
	watched map[string]bool
	left    map[string]bool // directories that are not watched
	known   map[string]state
	pending map[string]*change
	emit    func(collect.Observation)
}

// Run watches until ctx ends.
func (w *Watcher) Run(ctx context.Context, emit func(collect.Observation)) error {
	if len(w.cfg.Paths) == 0 {
		return errors.New("no file is watched: FileSystem_Paths is empty")
	}
	n, err := fsnotify.NewBufferedWatcher(256)
	if err != nil {
		return fmt.Errorf("files cannot be watched: inotify: %w; raise the sysctl fs.inotify.max_user_instances", err)
	}
	defer n.Close()
	r := &run{Watcher: w, n: n, watched: map[string]bool{}, left: map[string]bool{}, known: map[string]state{}, pending: map[string]*change{}, emit: emit}
	r.scan(false)
	r.tell()
	flush := time.NewTicker(quiet / 2)
	defer flush.Stop()
	rescan := time.NewTicker(w.cfg.Rescan)
	defer rescan.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case e, ok := <-n.Events:
			if !ok {
				return errors.New("inotify ended")
			}
			r.event(e)
		case err, ok := <-n.Errors:
			if !ok {
				return errors.New("inotify ended")
			}
			if errors.Is(err, fsnotify.ErrEventOverflow) {
				w.overflows.Add(1)
			}
			r.scan(true)
		case <-flush.C:
			r.flush(false)
		case <-rescan.C:
			if len(r.left) > 0 || len(r.watched) == 0 {
				r.scan(true)
			}
		}
		r.tell()
	}
}

// tell keeps Source true.
func (r *run) tell() {
	s := "inotify"
	if len(r.left) > 0 {
		s = fmt.Sprintf("inotify (%d directories are beyond the %d watches; they are compared every %v)", len(r.left), len(r.watched), r.cfg.Rescan)
	}
	if old := r.source.Load(); old == nil || *old != s {
		r.source.Store(&s)
	}
}

// chosen reports whether the path is one to tell of.
func (r *run) chosen(path string) bool {
	for _, p := range r.cfg.Paths {
		switch {
		case path == p:
			return true
		case r.cfg.Recursive:
			if rel, err := filepath.Rel(p, path); err == nil && filepath.IsLocal(rel) {
				return true
			}
		case filepath.Dir(path) == p:
			return true
		}
	}
	return false
}

// watch watches a directory, if there is room.
func (r *run) watch(dir string) {
	if r.watched[dir] {
		return
	}
	if len(r.watched) < r.cfg.MaxWatches {
		if err := r.n.Add(dir); err == nil {
			r.watched[dir] = true
			delete(r.left, dir)
			return
		} else if errors.Is(err, fs.ErrNotExist) {
			return
		}
	}
	if len(r.left) < maxPending {
		r.left[dir] = true
	}
}

// scan looks at everything. What differs from what is known is told if compare is set.
func (r *run) scan(compare bool) {
	seen := map[string]bool{}
	visit := func(path string, i fs.FileInfo) {
		seen[path] = true
		now := stateOf(i)
		before, old := r.known[path]
		switch {
		case old && before == now:
			return
		case compare && !old && len(r.known) < r.cfg.MaxFiles:
			r.note(path, inCreate|dirMask(now.dir))
			return // flush makes it known
		case compare && old:
			r.note(path, inModify|dirMask(now.dir))
			return
		}
		r.learn(path, now)
	}
	for _, p := range r.cfg.Paths {
		r.watch(filepath.Dir(p)) // where the path itself comes and goes
		r.walk(p, visit)
	}
	for path, s := range r.known {
		if compare && !seen[path] {
			r.note(path, inDelete|dirMask(s.dir))
		}
	}
}

func dirMask(dir bool) uint32 {
	if dir {
		return inIsDir
	}
	return 0
}

// walk visits path and what is below it, and watches directories.
func (r *run) walk(path string, visit func(string, fs.FileInfo)) {
	top, err := os.Lstat(path)
	if err != nil {
		return
	}
	visit(path, top)
	if !top.IsDir() {
		return
	}
	r.watch(path) // before it is read, so that nothing falls between
	entries, _ := os.ReadDir(path)
	for _, e := range entries {
		name := filepath.Join(path, e.Name())
		if e.IsDir() && r.cfg.Recursive {
			r.walk(name, visit)
			continue
		}
		if i, err := e.Info(); err == nil {
			visit(name, i)
		}
	}
}

func (r *run) learn(path string, s state) {
	if _, old := r.known[path]; !old && len(r.known) >= r.cfg.MaxFiles {
		r.unknown.Add(1)
		return
	}
	r.known[path] = s
}

// event takes what inotify tells.
func (r *run) event(e fsnotify.Event) {
	if !r.chosen(e.Name) {
		return
	}
	var mask uint32
	for op, m := range map[fsnotify.Op]uint32{fsnotify.Create: inCreate, fsnotify.Write: inModify, fsnotify.Remove: inDelete, fsnotify.Rename: inMoved, fsnotify.Chmod: inAttrib} {
		if e.Has(op) {
			mask |= m
		}
	}
	if e.Has(fsnotify.Remove) || e.Has(fsnotify.Rename) {
		delete(r.watched, e.Name) // inotify forgot it, if it was a directory
		delete(r.left, e.Name)
	}
	r.note(e.Name, mask)
	if !e.Has(fsnotify.Create) {
		return
	}
	if i, err := os.Lstat(e.Name); err == nil && i.IsDir() && (r.cfg.Recursive || slices.Contains(r.cfg.Paths, e.Name)) {
		// A new directory may be full before it is watched.
		r.walk(e.Name, func(path string, i fs.FileInfo) {
			if _, old := r.known[path]; !old && path != e.Name {
				r.note(path, inCreate|dirMask(i.IsDir()))
			}
		})
	}
}

func (r *run) note(path string, mask uint32) {
	if len(r.pending) >= maxPending {
		r.flush(true)
	}
	now := time.Now()
	c := r.pending[path]
	if c == nil {
		c = &change{since: now}
		r.pending[path] = c
	}
	c.mask |= mask
	c.hits++
	c.last = now
}

// flush tells of the changes that are over, or that go on for a second.
func (r *run) flush(all bool) {
	now := time.Now()
	for path, c := range r.pending {
		if all || now.Sub(c.last) >= quiet || now.Sub(c.since) >= 10*quiet {
			delete(r.pending, path)
			r.settle(path, c)
		}
	}
}

// settle compares what is there with what was.
func (r *run) settle(path string, c *change) {
	before, old := r.known[path]
	i, err := os.Lstat(path)
	if err != nil {
		delete(r.known, path)
		gone := c.mask&(inDelete|inMoved|inIsDir) | dirMask(before.dir)
		if gone&(inDelete|inMoved) == 0 {
			gone |= inDelete
		}
		if !old && c.mask&inCreate != 0 {
			r.observe(path, secmsg.Created, c.mask&^(inDelete|inMoved), 1, "") // it came and went
		}
		if old || c.mask&inCreate != 0 || len(r.known) >= r.cfg.MaxFiles {
			r.observe(path, secmsg.Deleted, gone, 1, "")
		}
		return
	}
	now := stateOf(i)
	r.learn(path, now)
	mask := c.mask&^(inDelete|inMoved|inIsDir) | dirMask(now.dir)
	if mask&^inIsDir == 0 {
		mask |= inModify
	}
	switch {
	case !old:
		if c.mask&inCreate == 0 && len(r.known) >= r.cfg.MaxFiles {
			r.observe(path, secmsg.Modified, mask, c.hits, r.hash(path, i)) // one of those that are not known
			return
		}
		r.observe(path, secmsg.Created, mask|inCreate, c.hits, r.hash(path, i))
	case before != now || c.mask&inModify != 0 && !now.dir:
		r.observe(path, secmsg.Modified, mask, c.hits, r.hash(path, i))
	}
}

func (r *run) observe(path, action string, mask, hits uint32, hash string) {
	if !r.chosen(path) {
		return
	}
	r.emit(collect.Observation{
		Event: "FileSystem", Key: action + "\x00" + path + "\x00" + hash, Time: time.Now(), Hits: max(hits, 1),
		Item: secmsg.FileChange{Mask: mask, Action: action, Path: path, SHA256: hash, HitCount: max(hits, 1)},
	})
}

// hash is the SHA-256 of a small file, or nothing.
func (r *run) hash(path string, i fs.FileInfo) string {
	if !i.Mode().IsRegular() || i.Size() > r.cfg.HashUpTo {
		return ""
	}
	f, err := openPlain(path)
	if err != nil {
		return ""
	}
	defer f.Close()
	h := sha256.New()
	if n, err := io.Copy(h, io.LimitReader(f, r.cfg.HashUpTo+1)); err != nil || n > r.cfg.HashUpTo {
		return ""
	}
	return hex.EncodeToString(h.Sum(nil))
}
