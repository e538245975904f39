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

// WithThumbprint returns d with the thumbprint of a new certificate beside that of the one that was shown, which is given by its SHA-1 and
// SHA-256. ok is false when what was shown is not registered.
func (d Identity) WithThumbprint(fresh string, shown ...string) (_ Identity, ok bool) {
	fresh = strings.ToUpper(fresh)
	a := &d.Authentication
	for _, t := range shown {
		switch strings.ToUpper(t) {
		case "":
		case a.PrimaryThumbprint:
			a.SecondaryThumbprint, ok = fresh, true
		case a.SecondaryThumbprint:
			a.PrimaryThumbprint, ok = fresh, true
		}
		if ok && a.Type == SelfSigned {
			d.ETag = nextETag(d.ETag)
			return d, true
		}
	}
	return d, false
}
