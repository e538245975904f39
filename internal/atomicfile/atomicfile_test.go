package atomicfile

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"testing"
)

func TestWrite(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	path := filepath.Join(dir, "file")
	for i, mode := range []os.FileMode{0o600, 0o644, 0o600} { // new, and in the place of another
		data := bytes.Repeat([]byte{byte('a' + i)}, 1000*(3-i))
		if err := Write(path, data, mode); err != nil {
			t.Fatal(err)
		}
		got, err := os.ReadFile(path)
		info, serr := os.Stat(path)
		if err != nil || serr != nil || !bytes.Equal(got, data) || info.Mode().Perm() != mode {
			t.Errorf("write %d: %d bytes, mode %v, %v", i, len(got), info.Mode(), err)
		}
	}
	if left, _ := os.ReadDir(dir); len(left) != 1 {
		t.Errorf("temporary files are left: %v", left)
	}
}

func TestWrite_FailureLeavesTheOld(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	if err := Write(filepath.Join(dir, "no", "folder"), nil, 0o600); err == nil {
		t.Error("written into a folder that is not there")
	}
	target := filepath.Join(dir, "taken")
	if err := os.MkdirAll(filepath.Join(target, "full"), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := Write(target, []byte("x"), 0o600); err == nil {
		t.Error("a folder was replaced")
	}
	if left, _ := os.ReadDir(dir); len(left) != 1 {
		t.Errorf("temporary files are left: %v", left)
	}
}

// Readers see one whole content or another, whoever writes.
func TestWrite_ReadersSeeWholeFiles(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "file")
	content := func(i int) []byte { return bytes.Repeat(fmt.Append(nil, i), 5000) }
	if err := Write(path, content(0), 0o600); err != nil {
		t.Fatal(err)
	}
	var writers sync.WaitGroup
	for i := range 3 {
		writers.Go(func() {
			for range 10 {
				if err := Write(path, content(i), 0o600); err != nil {
					t.Error(err)
				}
			}
		})
	}
	done := make(chan struct{})
	go func() { writers.Wait(); close(done) }()
	for {
		got, err := os.ReadFile(path)
		if err != nil || len(got) != 5000 || !bytes.Equal(got, bytes.Repeat(got[:1], 5000)) {
			t.Fatalf("read %d bytes, %v", len(got), err)
		}
		select {
		case <-done:
			return
		default:
		}
	}
}
