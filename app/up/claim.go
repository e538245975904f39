package up

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"syscall"
)

// claim makes the data folder and keeps a second server out of it.
func claim(dir string) (release func(), err error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("cannot create the data folder %s: %w; choose another one with --data", dir, err)
	}
	path := filepath.Join(dir, "lock")
	f, err := os.OpenFile(path, os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, fmt.Errorf("cannot write in the data folder %s: %w; change its owner or choose another one with --data", dir, err)
	}
	if err := syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB); err != nil {
		f.Close()
		if errors.Is(err, syscall.EWOULDBLOCK) {
			return nil, fmt.Errorf("another vauban uses the data folder %s; stop it or choose another one with --data", dir)
		}
		return nil, fmt.Errorf("cannot lock the data folder %s: %w", dir, err)
	}
	return func() { f.Close() }, nil
}
