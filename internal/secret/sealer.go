package secret

import (
	"crypto/aes"
	"crypto/cipher"
	"crypto/rand"
	"errors"
	"fmt"
	"io/fs"
	"os"

	"github.com/vauban-iot/vauban/internal/atomicfile"
)

// Sealer encrypts secrets at rest with a master key (AES-256-GCM). It is safe for concurrent use.
type Sealer struct{ aead cipher.AEAD }

const (
	masterSize = 32
	sealed1    = 1 // version byte of sealed data: nonce, then ciphertext and tag
)

// ErrSealed is returned by Open for data that this key did not seal for this purpose.
var ErrSealed = errors.New("secret: the sealed data does not open with this master key")

// OpenSealer reads the master key at path, or makes one. A key that others may read, or
// that is damaged, is refused: what it sealed would be lost or known.
func OpenSealer(path string) (*Sealer, error) {
	info, err := os.Stat(path)
	if errors.Is(err, fs.ErrNotExist) {
		if err := atomicfile.Write(path, Random(masterSize).Reveal(), 0o600); err != nil {
			return nil, fmt.Errorf("the master key cannot be made: %w", err)
		}
		info, err = os.Stat(path)
	}
	if err != nil {
		return nil, fmt.Errorf("the master key: %w", err)
	}
	if info.Mode().Perm()&0o077 != 0 {
		return nil, fmt.Errorf("the master key %s may be read by others (mode %04o); run: chmod 600 %s", path, info.Mode().Perm(), path)
	}
	key, err := os.ReadFile(path)
	if err != nil {
		return nil, fmt.Errorf("the master key: %w", err)
	}
	if len(key) != masterSize {
		return nil, fmt.Errorf("the master key %s has %d bytes, want %d; restore it from a backup, since nothing it sealed opens without it", path, len(key), masterSize)
	}
	block, err := aes.NewCipher(key)
	if err != nil {
		return nil, err
	}
	aead, err := cipher.NewGCM(block)
	if err != nil {
		return nil, err
	}
	return &Sealer{aead}, nil
}

// Seal encrypts plain for a purpose; Open must name the same one.
func (s *Sealer) Seal(purpose string, plain []byte) []byte {
	out := make([]byte, 1+s.aead.NonceSize(), 1+s.aead.NonceSize()+len(plain)+s.aead.Overhead())
	out[0] = sealed1
	rand.Read(out[1:])
	return s.aead.Seal(out, out[1:], plain, []byte(purpose))
}

// Open decrypts what Seal made; ErrSealed when it was changed, or sealed by another key or for another purpose.
func (s *Sealer) Open(purpose string, sealed []byte) ([]byte, error) {
	n := 1 + s.aead.NonceSize()
	if len(sealed) < n || sealed[0] != sealed1 {
		return nil, ErrSealed
	}
	plain, err := s.aead.Open(nil, sealed[1:n], sealed[n:], []byte(purpose))
	if err != nil {
		return nil, ErrSealed
	}
	return plain, nil
}
