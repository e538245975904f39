// Package blob keeps large objects, such as the files that devices upload: whole or in blocks that
// one list puts together, as Azure's block blobs. It stands on gocloud.dev/blob, by default on files
// of a folder.
//
// A blob appears at once and whole, or not at all; in a folder it is on disk when its write returns.
// Names are any text: no name becomes a path. Blocks that no list took are swept away by Run.
//
// A Store is safe for concurrent use.
package blob

import (
	"bytes"
	"context"
	"crypto/md5"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
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

	"gocloud.dev/blob"
	"gocloud.dev/blob/fileblob"
	"gocloud.dev/gcerrors"

	"github.com/vauban-iot/vauban/fault"
)

// Limits of a blob. Zero values are replaced by the defaults.
type Limits struct {
	Blob   int64 // bytes of a blob; default 5 GiB. The blocks that wait for their list count as a second blob.
	Put    int64 // bytes of a blob that comes whole; default 256 MiB
	Block  int64 // bytes of a block; default 100 MiB
	Blocks int   // blocks of a blob; default 50,000
}

// Config of a store.
type Config struct {
	Dir    string // folder of the objects, made when it is missing; required
	Limits Limits
	Now    func() time.Time // nil: time.Now
	Logger *slog.Logger     // nil: slog.Default()
}

// Store keeps blobs.
type Store struct {
	bucket *blob.Bucket
	dir    string
	limits Limits
	now    func() time.Time
	log    *slog.Logger

	mu     sync.Mutex
	staged map[string]*staging // by hash of the blob's name; blobs with blocks that wait for their list
}

// staging counts the blocks of one blob, those of this process only.
type staging struct {
	blocks map[string]int64 // sizes by key, of blocks under way too
	bytes  int64
	used   time.Time
}

// The failures with a word of their own.
var (
	ErrTooLarge  = fault.New(fault.TooLarge, "the blob or block is larger than allowed")
	ErrChecksum  = fault.New(fault.Invalid, "the MD5 of what arrived is not the one that was announced")
	ErrBlockList = fault.New(fault.Invalid, "the list names a block that was not put")
	errNotFound  = fault.New(fault.NotFound, "the blob does not exist")
)

// Open opens the store of a folder.
func Open(cfg Config) (*Store, error) {
	if cfg.Dir == "" {
		return nil, errors.New("blob: no folder")
	}
	l := &cfg.Limits
	for _, d := range []struct{ value, fallback *int64 }{
		{&l.Blob, ptr(5 << 30)}, {&l.Put, ptr(256 << 20)}, {&l.Block, ptr(100 << 20)},
	} {
		if *d.value == 0 {
			*d.value = *d.fallback
		}
	}
	if l.Blocks == 0 {
		l.Blocks = 50_000
	}
	dir, err := filepath.Abs(cfg.Dir)
	if err != nil {
		return nil, fmt.Errorf("blob: %w", err)
	}
	bucket, err := fileblob.OpenBucket(dir, &fileblob.Options{
		CreateDir: true, DirFileMode: 0o700,
		NoTempDir: true, // a rename from another file system would be a copy, or fail
	})
	if err != nil {
		return nil, fmt.Errorf("blob: open %s: %w", dir, err)
	}
	s := &Store{bucket: bucket, dir: dir, limits: cfg.Limits, now: cfg.Now, log: cfg.Logger, staged: make(map[string]*staging)}
	if s.now == nil {
		s.now = time.Now
	}
	if s.log == nil {
		s.log = slog.Default()
	}
	return s, nil
}

func ptr(n int64) *int64 { return &n }

// Close ends the store.
func (s *Store) Close() error { return s.bucket.Close() }

// Limits returns what the store enforces.
func (s *Store) Limits() Limits { return s.limits }

// Properties are what a client says about a blob.
type Properties struct {
	ContentType        string
	ContentEncoding    string
	ContentLanguage    string
	ContentDisposition string
	CacheControl       string
	Metadata           map[string]string // names in lower case
}

// Info describes a blob.
type Info struct {
	Properties
	Size     int64
	Modified time.Time
	MD5      []byte
	ETag     string // quoted
}

// key is where a blob lies: readable for people, unique by its hash.
func key(name string) string {
	device, rest, _ := strings.Cut(name, "/")
	return "files/" + label(device) + "~" + hash(device)[:16] + "/" + label(rest) + "~" + hash(name)
}

// label is what of a text is fit for any file system.
func label(s string) string {
	const most = 100
	b := []byte(s[:min(len(s), most)])
	for i, c := range b {
		switch {
		case 'a' <= c && c <= 'z', 'A' <= c && c <= 'Z', '0' <= c && c <= '9', c == '-', c == '.' && i > 0:
		default:
			b[i] = '_'
		}
	}
	return string(b)
}

func hash(s string) string {
	h := sha256.Sum256([]byte(s))
	return hex.EncodeToString(h[:])
}

func stagedPrefix(name string) string { return "staged/" + hash(name) + "/" }

// blocksTag remembers which list made a blob, so that a list that is sent again succeeds.
const blocksTag = "vauban-blocks"

// nameTag keeps the name of a blob, in base64, which its key does not tell.
const nameTag = "vauban-name"

// named is p with the name of the blob it belongs to.
func (p Properties) named(name string) Properties {
	m := map[string]string{nameTag: base64.RawURLEncoding.EncodeToString([]byte(name))}
	for k, v := range p.Metadata {
		if k != nameTag {
			m[k] = v
		}
	}
	p.Metadata = m
	return p
}

// Put writes a blob whole. sum, when not nil, is the MD5 it must have.
func (s *Store) Put(ctx context.Context, name string, p Properties, r io.Reader, sum []byte) (Info, error) {
	if err := s.write(ctx, key(name), p.named(name), "", io.LimitReader(r, s.limits.Put+1), s.limits.Put, sum); err != nil {
		return Info{}, err
	}
	return s.Info(ctx, name)
}

// write makes an object of r, all of it or nothing.
func (s *Store) write(ctx context.Context, key string, p Properties, tag string, r io.Reader, limit int64, sum []byte) (err error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	metadata := map[string]string{}
	for k, v := range p.Metadata {
		metadata[k] = v
	}
	if tag != "" {
		metadata[blocksTag] = tag
	}
	if p.ContentType == "" {
		p.ContentType = "application/octet-stream"
	}
	w, err := s.bucket.NewWriter(ctx, key, &blob.WriterOptions{
		ContentType: p.ContentType, ContentEncoding: p.ContentEncoding, ContentLanguage: p.ContentLanguage,
		ContentDisposition: p.ContentDisposition, CacheControl: p.CacheControl, Metadata: metadata, DisableContentTypeDetection: true,
	})
	if err != nil {
		return s.fail("write", err)
	}
	abort := func(err error) error {
		cancel() // a writer whose context ended leaves nothing behind
		_ = w.Close()
		return err
	}
	m := md5.New()
	n, err := io.Copy(w, io.TeeReader(r, m))
	switch {
	case err != nil:
		return abort(s.fail("write", err))
	case n > limit:
		return abort(ErrTooLarge)
	case sum != nil && !bytes.Equal(sum, m.Sum(nil)):
		return abort(ErrChecksum)
	}
	if err := w.Close(); err != nil {
		return s.fail("write", err)
	}
	return s.sync(key)
}

// sync makes the file of an object safe from a power cut. Keys of ours are paths as they are.
func (s *Store) sync(key string) error {
	path := filepath.Join(s.dir, filepath.FromSlash(key))
	for _, p := range []string{path, path + ".attrs", filepath.Dir(path), filepath.Dir(filepath.Dir(path))} {
		f, err := os.Open(p)
		if errors.Is(err, os.ErrNotExist) && p != path {
			continue
		}
		if err == nil {
			err = errors.Join(f.Sync(), f.Close())
		}
		if err != nil {
			return s.fail("sync", err)
		}
	}
	return nil
}

// fail gives an error of the bucket its kind. Errors of our own, and those of who sends, stay as they are.
func (s *Store) fail(what string, err error) error {
	if fault.KindOf(err) != fault.Internal {
		return err
	}
	switch {
	case errors.Is(err, context.Canceled), errors.Is(err, io.ErrUnexpectedEOF), errors.Is(err, os.ErrDeadlineExceeded):
		return fault.Wrap(fault.Malformed, err, "the body ended early")
	case gcerrors.Code(err) == gcerrors.NotFound:
		return fmt.Errorf("%w: %w", errNotFound, err)
	}
	return fault.Wrap(fault.Unavailable, fmt.Errorf("blob: %s: %w", what, err), "the blob store is not available")
}

// Stage keeps a block of size bytes until a list takes it. A block of the same id is replaced.
func (s *Store) Stage(ctx context.Context, name, id string, r io.Reader, size int64, sum []byte) error {
	if size > s.limits.Block {
		return ErrTooLarge
	}
	key := stagedPrefix(name) + hash(id)
	undo, err := s.reserve(name, key, size)
	if err != nil {
		return err
	}
	err = s.write(ctx, key, Properties{}, "", io.LimitReader(r, size+1), size, sum)
	if err != nil {
		undo()
	}
	return err
}

// reserve counts a block before it is written; undo takes it back.
func (s *Store) reserve(name, key string, size int64) (undo func(), err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	h := hash(name)
	st := s.staged[h]
	if st == nil {
		st = &staging{blocks: make(map[string]int64)}
		s.staged[h] = st
	}
	st.used = s.now()
	old, again := st.blocks[key]
	if st.bytes-old+size > s.limits.Blob || !again && len(st.blocks) >= s.limits.Blocks {
		return nil, ErrTooLarge
	}
	st.blocks[key] = size
	st.bytes += size - old
	return func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		if st.blocks[key] == size {
			st.bytes -= size
			delete(st.blocks, key)
		}
	}, nil
}

// Commit makes a blob of staged blocks, in the order of ids, and drops the blocks it did not name.
// ErrBlockList when one is missing, unless the very same list made the blob that stands.
func (s *Store) Commit(ctx context.Context, name string, ids []string, p Properties) (Info, error) {
	if len(ids) > s.limits.Blocks {
		return Info{}, ErrTooLarge
	}
	tag := hash(strings.Join(ids, "\x00"))
	// All must be there before the first is copied.
	var total int64
	for _, id := range ids {
		a, err := s.bucket.Attributes(ctx, stagedPrefix(name)+hash(id))
		if gcerrors.Code(err) == gcerrors.NotFound {
			if made, err := s.bucket.Attributes(ctx, key(name)); err == nil && made.Metadata[blocksTag] == tag {
				return s.Info(ctx, name)
			}
			return Info{}, ErrBlockList
		}
		if err != nil {
			return Info{}, s.fail("commit", err)
		}
		if total += a.Size; total > s.limits.Blob {
			return Info{}, ErrTooLarge
		}
	}
	r := &chain{ctx: ctx, store: s, name: name, ids: ids}
	defer r.Close()
	if err := s.write(ctx, key(name), p.named(name), tag, r, s.limits.Blob, nil); err != nil {
		return Info{}, err
	}
	s.discard(ctx, name)
	return s.Info(ctx, name)
}

// chain reads blocks one after the other.
type chain struct {
	ctx   context.Context
	store *Store
	name  string
	ids   []string
	now   *blob.Reader
}

func (c *chain) Read(p []byte) (int, error) {
	for {
		if c.now == nil {
			if len(c.ids) == 0 {
				return 0, io.EOF
			}
			r, err := c.store.bucket.NewReader(c.ctx, stagedPrefix(c.name)+hash(c.ids[0]), nil)
			if err != nil {
				return 0, err
			}
			c.now, c.ids = r, c.ids[1:]
		}
		n, err := c.now.Read(p)
		if errors.Is(err, io.EOF) {
			err = c.now.Close()
			c.now = nil
		}
		if n > 0 || err != nil {
			return n, err
		}
	}
}

func (c *chain) Close() {
	if c.now != nil {
		_ = c.now.Close()
	}
}

// discard drops the staged blocks of a blob. What fails here is swept later.
func (s *Store) discard(ctx context.Context, name string) {
	s.mu.Lock()
	delete(s.staged, hash(name))
	s.mu.Unlock()
	_, err := s.drop(context.WithoutCancel(ctx), stagedPrefix(name), time.Time{})
	if err != nil {
		s.log.Warn("staged blocks not removed; they are tried again later", "err", err)
	}
}

// drop removes objects under prefix that are older than before, or all when it is zero.
func (s *Store) drop(ctx context.Context, prefix string, before time.Time) (int, error) {
	n := 0
	for it := s.bucket.List(&blob.ListOptions{Prefix: prefix}); ; {
		o, err := it.Next(ctx)
		if errors.Is(err, io.EOF) {
			return n, nil
		}
		if err != nil {
			return n, err
		}
		if !before.IsZero() && o.ModTime.After(before) {
			continue
		}
		if err := s.bucket.Delete(ctx, o.Key); err != nil && gcerrors.Code(err) != gcerrors.NotFound {
			return n, err
		}
		n++
		// The folder of a blob's blocks, when this was its last.
		_ = os.Remove(filepath.Dir(filepath.Join(s.dir, filepath.FromSlash(o.Key))))
	}
}

// Info describes a blob; fault.NotFound.
func (s *Store) Info(ctx context.Context, name string) (Info, error) {
	a, err := s.bucket.Attributes(ctx, key(name))
	if err != nil {
		return Info{}, s.fail("look", err)
	}
	i := Info{
		Properties: Properties{
			ContentType: a.ContentType, ContentEncoding: a.ContentEncoding, ContentLanguage: a.ContentLanguage,
			ContentDisposition: a.ContentDisposition, CacheControl: a.CacheControl, Metadata: map[string]string{},
		},
		Size: a.Size, Modified: a.ModTime.UTC(), MD5: a.MD5, ETag: a.ETag,
	}
	for k, v := range a.Metadata {
		if k != blocksTag && k != nameTag {
			i.Metadata[k] = v
		}
	}
	return i, nil
}

// Item is a blob of a list.
type Item struct {
	Name string
	Info
}

// List returns the blobs whose name begins with folder and a slash, and goes on with prefix, in order of their names: those
// behind after, at most limit. It looks at every blob of the folder, so folders should be small.
func (s *Store) List(ctx context.Context, folder, prefix, after string, limit int) ([]Item, error) {
	var names []string
	start := "files/" + label(folder) + "~" + hash(folder)[:16] + "/"
	for it := s.bucket.List(&blob.ListOptions{Prefix: start}); ; {
		o, err := it.Next(ctx)
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return nil, s.fail("list", err)
		}
		a, err := s.bucket.Attributes(ctx, o.Key)
		if gcerrors.Code(err) == gcerrors.NotFound {
			continue // it went meanwhile
		}
		if err != nil {
			return nil, s.fail("list", err)
		}
		raw, err := base64.RawURLEncoding.DecodeString(a.Metadata[nameTag])
		if name := string(raw); err == nil && strings.HasPrefix(name, folder+"/"+prefix) && name > after {
			names = append(names, name)
		}
	}
	slices.Sort(names)
	var items []Item
	for _, name := range names {
		if len(items) == limit {
			break
		}
		i, err := s.Info(ctx, name)
		if fault.Is(err, fault.NotFound) {
			continue
		}
		if err != nil {
			return nil, err
		}
		items = append(items, Item{name, i})
	}
	return items, nil
}

// Stat implements upload.Blobs.
func (s *Store) Stat(ctx context.Context, name string) (size int64, modified time.Time, err error) {
	i, err := s.Info(ctx, name)
	return i.Size, i.Modified, err
}

// Read opens length bytes of a blob from offset on, to its end when length is negative; fault.NotFound.
// The caller closes it.
func (s *Store) Read(ctx context.Context, name string, offset, length int64) (io.ReadCloser, error) {
	r, err := s.bucket.NewRangeReader(ctx, key(name), offset, length, nil)
	if err != nil {
		return nil, s.fail("read", err)
	}
	return r, nil
}

// Delete removes a blob and its staged blocks; fault.NotFound.
func (s *Store) Delete(ctx context.Context, name string) error {
	if err := s.bucket.Delete(ctx, key(name)); err != nil {
		return s.fail("delete", err)
	}
	s.discard(ctx, name)
	return nil
}

// Blocks wait stageLife for their list; grants to put them last an hour.
const (
	stageLife   = 2 * time.Hour
	sweepPeriod = 10 * time.Minute
)

// Run sweeps away blocks whose list never came, until ctx ends.
func (s *Store) Run(ctx context.Context) error {
	s.clean(ctx)
	tick := time.NewTicker(sweepPeriod)
	defer tick.Stop()
	for {
		if n, err := s.sweep(ctx); err != nil && ctx.Err() == nil {
			s.log.Error("staged blocks not swept", "err", err)
		} else if n > 0 {
			s.log.Info("staged blocks swept", "blocks", n)
		}
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
	}
}

// clean removes what writes left half done when the process was killed.
func (s *Store) clean(ctx context.Context) {
	started := s.now()
	_ = filepath.WalkDir(s.dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() || !strings.HasSuffix(path, ".tmp") { // keys of ours end in a hash
			return ctx.Err()
		}
		if fi, err := d.Info(); err == nil && fi.ModTime().Before(started.Add(-stageLife)) {
			_ = os.Remove(path)
		}
		return ctx.Err()
	})
}

func (s *Store) sweep(ctx context.Context) (int, error) {
	old := s.now().Add(-stageLife)
	s.mu.Lock()
	for h, st := range s.staged {
		if st.used.Before(old) {
			delete(s.staged, h)
		}
	}
	s.mu.Unlock()
	return s.drop(ctx, "staged/", old)
}
