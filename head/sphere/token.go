package sphere

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"strings"

	"github.com/vauban-iot/vauban/fault"
)

const (
	macSize   = 16
	maxSealed = 6 << 10 // of a token: the names of operations that failed carry a text
)

// seal makes a text of payload that open takes back for the same purpose and scope, and for no other. It hides nothing.
func (h *Head) seal(purpose, scope string, payload []byte) string {
	return base64.RawURLEncoding.EncodeToString(append(h.mac(purpose, scope, payload), payload...))
}

// open returns what was sealed; fault.Invalid for whatever was not.
func (h *Head) open(purpose, scope, token string) ([]byte, error) {
	if len(token) <= maxSealed {
		if b, err := base64.RawURLEncoding.Strict().DecodeString(token); err == nil && len(b) > macSize && hmac.Equal(b[:macSize], h.mac(purpose, scope, b[macSize:])) {
			return b[macSize:], nil
		}
	}
	return nil, fault.New(fault.Invalid, "the %s is not one that this list gave", purpose)
}

func (h *Head) mac(purpose, scope string, payload []byte) []byte {
	m := hmac.New(sha256.New, h.cfg.Key.Reveal())
	for _, s := range []string{"vauban head/sphere", purpose, scope} {
		// Lengths before texts: no two scopes are one text.
		m.Write([]byte{byte(len(s) >> 24), byte(len(s) >> 16), byte(len(s) >> 8), byte(len(s))})
		m.Write([]byte(s))
	}
	m.Write(payload)
	return m.Sum(nil)[:macSize]
}

// scopeOf joins what a token belongs to.
func scopeOf(parts ...string) string { return strings.Join(parts, "\x00") }

const pageToken = "continuation token"
