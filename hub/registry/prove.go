package registry

import (
	"crypto/subtle"
	"strings"

	"github.com/vauban-iot/vauban/wire/sas"
)

// VerifyToken reports whether one of the identity's keys signed t. Expiry and resource are
// the caller's to judge.
func (d Identity) VerifyToken(t sas.Token) bool {
	a := d.Authentication
	return a.Type == SAS && (t.Verify(a.PrimaryKey.Reveal()) || t.Verify(a.SecondaryKey.Reveal()))
}

// MatchesThumbprint reports whether any of the given hex thumbprints of one certificate (its SHA-1 and
// SHA-256, in any case) is registered.
func (d Identity) MatchesThumbprint(thumbprints ...string) bool {
	a := d.Authentication
	match := 0
	for _, t := range thumbprints {
		t = strings.ToUpper(t)
		for _, known := range [...]string{a.PrimaryThumbprint, a.SecondaryThumbprint} {
			if known != "" {
				match |= subtle.ConstantTimeCompare([]byte(known), []byte(t))
			}
		}
	}
	return a.Type == SelfSigned && match == 1
}
