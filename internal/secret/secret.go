// Package secret holds key material that never prints, and seals it at rest.
package secret

import (
	"crypto/rand"
	"crypto/subtle"
	"encoding/base64"
	"fmt"
	"log/slog"
)

// Secret holds key material and never prints: every way of formatting, logging or
// marshalling it gives "[redacted]". Secrets are not comparable with ==.
type Secret struct {
	_ [0]func()
	p *[]byte // behind a pointer: fmt walks unexported fields past every method, but not through pointers
}

const redacted = "[redacted]"

// New returns a secret of b, which it copies.
func New(b []byte) Secret { return own(append([]byte(nil), b...)) }

func own(b []byte) Secret { return Secret{p: &b} }

// FromBase64 reads standard base64. Its error does not hold the text.
func FromBase64(s string) (Secret, error) {
	b, err := base64.StdEncoding.DecodeString(s)
	if err != nil {
		return Secret{}, fmt.Errorf("not base64: %w", err)
	}
	return own(b), nil
}

// Random returns n random bytes.
func Random(n int) Secret {
	b := make([]byte, n)
	rand.Read(b) // never fails (crypto/rand)
	return own(b)
}

// Reveal returns the material itself; search for its callers to audit every use.
func (s Secret) Reveal() []byte {
	if s.p == nil {
		return nil
	}
	return *s.p
}

// Base64 returns the material as standard base64; it is as secret as Reveal.
func (s Secret) Base64() string { return base64.StdEncoding.EncodeToString(s.Reveal()) }

// Matches compares in constant time.
func (s Secret) Matches(candidate []byte) bool {
	return subtle.ConstantTimeCompare(s.Reveal(), candidate) == 1
}

// IsZero reports whether there is no material.
func (s Secret) IsZero() bool { return len(s.Reveal()) == 0 }

// Format implements fmt.Formatter for every verb.
func (Secret) Format(f fmt.State, _ rune) { fmt.Fprint(f, redacted) }

// String implements fmt.Stringer.
func (Secret) String() string { return redacted }

// LogValue implements slog.LogValuer.
func (Secret) LogValue() slog.Value { return slog.StringValue(redacted) }

// MarshalText implements encoding.TextMarshaler.
func (Secret) MarshalText() ([]byte, error) { return []byte(redacted), nil }

// MarshalJSON implements json.Marshaler.
func (Secret) MarshalJSON() ([]byte, error) { return []byte(`"` + redacted + `"`), nil }
