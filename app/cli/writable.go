package cli

import (
	"fmt"
	"os"
	"path/filepath"
)

// writable says why a file cannot be written, before hours are spent on what it is to hold.
func writable(path string) error {
	if info, err := os.Stat(path); err == nil && info.IsDir() {
		return fmt.Errorf("%s is a folder; name a file", path)
	}
	f, err := os.CreateTemp(filepath.Dir(path), ".vauban-*")
	if err != nil {
		return fmt.Errorf("%s cannot be written: %w", path, err)
	}
	f.Close()
	return os.Remove(f.Name())
}
