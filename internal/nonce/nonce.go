// Package nonce makes short random names: tracking ids, lock tokens, session owners.
package nonce

import (
	"crypto/rand"
	"encoding/hex"
)

// New returns 32 random lower-case hex characters.
func New() string {
	var b [16]byte
	rand.Read(b[:]) // never fails (crypto/rand)
	return hex.EncodeToString(b[:])
}
