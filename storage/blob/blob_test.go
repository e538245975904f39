package blob

import (
	"bytes"
	"context"
	"crypto/md5"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/iotest"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/vauban-iot/vauban/fault"
)

// open opens a store with small limits.
func open(t testing.TB) (*Store, string) {
	t.Helper()
	dir := filepath.Join(t.TempDir(), "blobs")
	s, err := Open(Config{Dir: dir, Limits: Limits{Blob: 100, Put: 50, Block: 30, Blocks: 5}})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	return s, dir
}

func read(t testing.TB, s *Store, name string) string {
	t.Helper()
	r, err := s.Read(t.Context(), name, 0, -1)
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	b, err := io.ReadAll(r)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

// objects lists the files below dir, without those that hold attributes.
func objects(t testing.TB, dir string) (all []string) {
	t.Helper()
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err == nil && !d.IsDir() && !strings.HasSuffix(path, ".attrs") {
			rel, _ := filepath.Rel(dir, path)
			all = append(all, rel)
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return all
}

func wantErr(t testing.TB, what string, got, want error) {
	t.Helper()
	if !errors.Is(got, want) {
		t.Errorf("%s: got %v, want %v", what, got, want)
	}
}

func TestPut(t *testing.T) {
	t.Parallel()
	s, dir := open(t)
	ctx := t.Context()
	p := Properties{ContentType: "text/plain", ContentEncoding: "gzip", ContentLanguage: "de", ContentDisposition: "inline", CacheControl: "no-store", Metadata: map[string]string{"a": "1 ü"}}
	body := "hello"
	sum := md5.Sum([]byte(body))
	i, err := s.Put(ctx, "d/a.txt", p, strings.NewReader(body), sum[:])
	if err != nil {
		t.Fatal(err)
	}
	if d := cmp.Diff(p, i.Properties); d != "" || i.Size != 5 || !bytes.Equal(i.MD5, sum[:]) || time.Since(i.Modified) > time.Minute || !strings.HasPrefix(i.ETag, `"`) {
		t.Errorf("got %+v; properties (-want +got):\n%s", i, d)
	}
	if got := read(t, s, "d/a.txt"); got != body {
		t.Errorf("read %q", got)
	}
	r, err := s.Read(ctx, "d/a.txt", 1, 3)
	if err != nil {
		t.Fatal(err)
	}
	part, _ := io.ReadAll(r)
	r.Close()
	if string(part) != "ell" {
		t.Errorf("a part reads %q, want ell", part)
	}

	// What goes wrong leaves what was there.
	_, err = s.Put(ctx, "d/a.txt", p, strings.NewReader(strings.Repeat("x", 51)), nil)
	wantErr(t, "too large", err, ErrTooLarge)
	_, err = s.Put(ctx, "d/a.txt", p, strings.NewReader("other"), sum[:])
	wantErr(t, "another sum", err, ErrChecksum)
	_, err = s.Put(ctx, "d/a.txt", p, io.MultiReader(strings.NewReader("half"), iotest.ErrReader(io.ErrUnexpectedEOF)), nil)
	if !fault.Is(err, fault.Malformed) {
		t.Errorf("a body that breaks off: %v, want malformed", err)
	}
	left, cancel := context.WithCancel(ctx)
	cancel()
	if _, err = s.Put(left, "d/a.txt", p, strings.NewReader("gone"), nil); err == nil {
		t.Error("a caller that left wrote")
	}
	if got := read(t, s, "d/a.txt"); got != body {
		t.Errorf("after failures the blob reads %q", got)
	}
	if got := objects(t, dir); len(got) != 1 {
		t.Errorf("files %q, want one", got)
	}

	if err := s.Delete(ctx, "d/a.txt"); err != nil {
		t.Fatal(err)
	}
	for what, err := range map[string]error{"delete twice": s.Delete(ctx, "d/a.txt"), "look": second(s.Info(ctx, "d/a.txt")), "read": second(s.Read(ctx, "d/a.txt", 0, -1))} {
		if !fault.Is(err, fault.NotFound) {
			t.Errorf("%s: %v, want not found", what, err)
		}
	}
}

func second[T any](_ T, err error) error { return err }

// Names are text and no paths, whatever they look like.
func TestNames(t *testing.T) {
	t.Parallel()
	s, dir := open(t)
	names := []string{
		"d/a", "d/a/b", "d/a/", "d//a", "d/../../etc/passwd", "../x", "/x", "..", ".", "d/..", "d/.", "d/A", "D/a", "d/a.attrs", "d/\x00", "d/a\\b",
		"d/__0x2f__", "d/ü", "d/%2e%2e", strings.Repeat("d", 128) + "/" + strings.Repeat("x", 1000), strings.Repeat("d", 128) + "/" + strings.Repeat("x", 1001),
		"", "d", "d/" + strings.Repeat("a/", 200) + "z", "d/x.tmp", "staged/x", "d/con", "d/a:b", "d/a?b*c",
	}
	for _, n := range names {
		if _, err := s.Put(t.Context(), n, Properties{}, strings.NewReader(fmt.Sprintf("%.20q", n)), nil); err != nil {
			t.Errorf("%q: %v", n, err)
		}
	}
	for _, n := range names {
		if got, want := read(t, s, n), fmt.Sprintf("%.20q", n); got != want {
			t.Errorf("%q reads %q, want %q", n, got, want)
		}
	}
	got := objects(t, dir)
	if len(got) != len(names) {
		t.Errorf("%d files of %d names", len(got), len(names))
	}
	for _, f := range got {
		if strings.Count(f, "/") != 2 || !strings.HasPrefix(f, "files/") {
			t.Errorf("a blob lies at %s", f)
		}
	}
	if up := objects(t, filepath.Dir(dir)); len(up) != len(got) {
		t.Errorf("files beside the store: %q", up)
	}
}

func FuzzKey(f *testing.F) {
	f.Add("d/../a", "d/a")
	f.Fuzz(func(t *testing.T, a, b string) {
		k := key(a)
		if parts := strings.Split(k, "/"); len(parts) != 3 || len(parts[1]) > 255 || len(parts[2]) > 249 || !filepath.IsLocal(k) || strings.ContainsAny(k, "\\\x00%") {
			t.Errorf("%q lies at %q", a, k)
		}
		if a != b && k == key(b) {
			t.Errorf("%q and %q lie at the same place", a, b)
		}
	})
}

func stage(t testing.TB, s *Store, name, id, body string) {
	t.Helper()
	if err := s.Stage(t.Context(), name, id, strings.NewReader(body), int64(len(body)), nil); err != nil {
		t.Fatal(err)
	}
}

func TestBlocks(t *testing.T) {
	t.Parallel()
	s, dir := open(t)
	ctx := t.Context()
	stage(t, s, "d/a", "1", "one")
	stage(t, s, "d/a", "2", "zwei")
	stage(t, s, "d/a", "2", "two") // replaced
	stage(t, s, "d/a", "3", "unused")
	stage(t, s, "d/b", "1", "another's")
	if _, err := s.Info(ctx, "d/a"); !fault.Is(err, fault.NotFound) {
		t.Errorf("a blob stands before its list: %v", err)
	}
	_, err := s.Commit(ctx, "d/a", []string{"1", "9"}, Properties{})
	wantErr(t, "a block that was not put", err, ErrBlockList)
	_, err = s.Commit(ctx, "d/c", []string{"1"}, Properties{})
	wantErr(t, "another blob's block", err, ErrBlockList)
	i, err := s.Commit(ctx, "d/a", []string{"2", "1", "2"}, Properties{ContentType: "a/b"})
	if err != nil {
		t.Fatal(err)
	}
	if got := read(t, s, "d/a"); got != "twoonetwo" || i.Size != 9 || i.ContentType != "a/b" || len(i.Metadata) > 0 {
		t.Errorf("the blob reads %q and is %+v", got, i)
	}
	if got := objects(t, dir); len(got) != 2 { // the blob and the other's block
		t.Errorf("files %q, want two", got)
	}
	// A client whose answer was lost sends the list again.
	again, err := s.Commit(ctx, "d/a", []string{"2", "1", "2"}, Properties{})
	if err != nil || again.ETag != i.ETag {
		t.Errorf("the same list again: %+v, %v; want the blob that stands", again, err)
	}
	_, err = s.Commit(ctx, "d/a", []string{"1", "2"}, Properties{})
	wantErr(t, "another list of blocks that are gone", err, ErrBlockList)
	if i, err := s.Commit(ctx, "d/e", nil, Properties{}); err != nil || i.Size != 0 {
		t.Errorf("an empty list: %+v, %v; want an empty blob", i, err)
	}
}

func TestBlocks_Limits(t *testing.T) {
	t.Parallel()
	s, _ := open(t)
	ctx := t.Context()
	wantErr(t, "a block", s.Stage(ctx, "d/a", "x", strings.NewReader(""), 31, nil), ErrTooLarge)
	wantErr(t, "more than announced", s.Stage(ctx, "d/a", "x", strings.NewReader("1234"), 3, nil), ErrTooLarge)
	sum := md5.Sum([]byte("x"))
	wantErr(t, "another sum", s.Stage(ctx, "d/a", "x", strings.NewReader("123"), 3, sum[:]), ErrChecksum)
	full := strings.Repeat("x", 30)
	for i := range 3 {
		stage(t, s, "d/a", fmt.Sprint(i), full)
	}
	wantErr(t, "all blocks together", s.Stage(ctx, "d/a", "3", strings.NewReader(full), 30, nil), ErrTooLarge)
	stage(t, s, "d/a", "2", "small") // in the place of a large one
	stage(t, s, "d/a", "3", full)
	stage(t, s, "d/b", "0", full) // another blob
	_, err := s.Commit(ctx, "d/a", []string{"0", "0", "0", "0"}, Properties{})
	wantErr(t, "a list that repeats blocks", err, ErrTooLarge)
	_, err = s.Commit(ctx, "d/a", []string{"0", "0", "0", "0", "0", "0"}, Properties{})
	wantErr(t, "a long list", err, ErrTooLarge)
	for i := range 5 {
		stage(t, s, "d/n", fmt.Sprint(i), "x")
	}
	wantErr(t, "too many blocks", s.Stage(ctx, "d/n", "5", strings.NewReader("x"), 1, nil), ErrTooLarge)
}

func TestSweep(t *testing.T) {
	t.Parallel()
	s, dir := open(t)
	stage(t, s, "d/a", "1", "one")
	stage(t, s, "d/a", "2", "two")
	if _, err := s.Put(t.Context(), "d/b", Properties{}, strings.NewReader("x"), nil); err != nil {
		t.Fatal(err)
	}
	half := filepath.Join(dir, "files", "half.18abc.tmp")
	old := time.Now().Add(-3 * time.Hour)
	if err := errors.Join(os.WriteFile(half, nil, 0o600), os.Chtimes(half, old, old)); err != nil {
		t.Fatal(err)
	}
	if n, err := s.sweep(t.Context()); n != 0 || err != nil {
		t.Errorf("%d fresh blocks swept, %v", n, err)
	}
	s.now = func() time.Time { return time.Now().Add(stageLife + time.Minute) }
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error)
	go func() { done <- s.Run(ctx) }()
	for deadline := time.Now().Add(10 * time.Second); len(objects(t, dir)) != 1; time.Sleep(5 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("files %q are left, want the blob alone", objects(t, dir))
		}
	}
	cancel()
	if err := <-done; err != nil {
		t.Error(err)
	}
	if es, err := os.ReadDir(filepath.Join(dir, "staged")); err == nil && len(es) > 0 {
		t.Errorf("folder %s is left", es[0].Name())
	}
	if len(s.staged) > 0 {
		t.Error("swept blocks are still counted")
	}
}
