package storagetest

import (
	"os"
	"path/filepath"
	"sync"
	"testing"

	"github.com/vauban-iot/vauban/internal/secret"
)

// sealer is one for all tests of a binary, so that a test can open its database again.
var sealer = sync.OnceValues(func() (*secret.Sealer, error) {
	dir, err := os.MkdirTemp("", "storagetest")
	if err != nil {
		return nil, err
	}
	defer os.RemoveAll(dir)
	return secret.OpenSealer(filepath.Join(dir, "master.key"))
})

// Sealer returns the sealer of this test binary.
func Sealer(t testing.TB) *secret.Sealer {
	t.Helper()
	s, err := sealer()
	if err != nil {
		t.Fatal(err)
	}
	return s
}
