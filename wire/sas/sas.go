// Package sas reads, checks and makes shared access signatures, the tokens of IoT Hub, DPS
// and Event Hubs clients (hub-device §6.1 and §6.2, hub-service §1.3, dps §2).
//
// A token is checked in steps that are left to the caller, since they need what only it
// knows: Parse, find the key, Verify, compare Expiry with a clock, ask the Scope what it
// Covers. No error and no printed Token holds a signature or a key.
package sas

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"errors"
	"fmt"
	"log/slog"
	"math"
	"strconv"
	"strings"
	"time"

	"github.com/vauban-iot/vauban/wire/bag"
)

// MaxToken bounds a token in bytes. Real ones stay below 500.
const MaxToken = 4096

// ErrMalformed is returned for text that is no token and for a resource that cannot be decoded.
var ErrMalformed = errors.New("sas: malformed token")

const scheme = "SharedAccessSignature"

// Token is a parsed token. Its signature has not been checked.
type Token struct {
	Resource  string    // sr as received, still percent-encoded
	Signature []byte    // decoded
	Expiry    time.Time // se, between 1970 and the end of 9999
	KeyName   string    // skn, empty for a device's own key
	se        string    // as received, since it is part of what is signed
}

// Parse reads "SharedAccessSignature sr=...&sig=...&se=...[&skn=...]": the fields in any order, their
// names and the scheme word in any case, one space between. Unknown and empty fields are
// skipped; a known field must not come twice. se may have a fraction (hub-device §6.1).
// The error is ErrMalformed.
func Parse(s string) (Token, error) {
	if len(s) > MaxToken {
		return Token{}, malformed("too long")
	}
	word, fields, ok := strings.Cut(s, " ")
	if !ok || !strings.EqualFold(word, scheme) {
		return Token{}, malformed("does not start with " + scheme + " and a space")
	}
	if strings.HasPrefix(fields, " ") {
		return Token{}, malformed("more than one space after the scheme")
	}
	raw, err := splitFields(fields)
	if err != nil {
		return Token{}, err
	}
	if raw.sr == "" || raw.sig == "" || raw.se == "" {
		return Token{}, malformed("sr, sig or se is missing")
	}
	t := Token{Resource: raw.sr, se: raw.se}
	if t.Signature, err = decodeSignature(raw.sig); err != nil {
		return Token{}, err
	}
	if t.Expiry, err = parseExpiry(raw.se); err != nil {
		return Token{}, err
	}
	if t.KeyName, err = bag.Unescape(raw.skn); err != nil {
		return Token{}, malformed("skn cannot be decoded")
	}
	return t, nil
}

type rawFields struct{ sr, sig, se, skn string }

func splitFields(s string) (rawFields, error) {
	var raw rawFields
	var seen [4]bool
	for field := range strings.SplitSeq(s, "&") {
		if field == "" {
			continue
		}
		name, value, ok := strings.Cut(field, "=")
		if !ok {
			return rawFields{}, malformed("field without =")
		}
		var i int
		var dst *string
		switch strings.ToLower(name) {
		case "sr":
			i, dst = 0, &raw.sr
		case "sig":
			i, dst = 1, &raw.sig
		case "se":
			i, dst = 2, &raw.se
		case "skn":
			i, dst = 3, &raw.skn
		default:
			continue
		}
		if seen[i] {
			return rawFields{}, malformed("field given twice")
		}
		seen[i], *dst = true, value
	}
	return raw, nil
}

// decodeSignature takes base64 with or without percent-encoding: neither alphabet uses the
// other's escapes, and '+' is never a space here.
func decodeSignature(s string) ([]byte, error) {
	text, err := bag.Unescape(s)
	if err != nil {
		return nil, malformed("sig cannot be decoded")
	}
	b, err := base64.StdEncoding.DecodeString(text)
	if err != nil || len(b) == 0 {
		return nil, malformed("sig is not base64")
	}
	return b, nil
}

// endOf9999 is the last second most encodings of time can express. Some clients count se in
// milliseconds (dps §2.3), which means "far away" just as well.
const endOf9999 = 253402300799

func parseExpiry(s string) (time.Time, error) {
	if strings.Trim(s, "0123456789.eE+-") != "" {
		return time.Time{}, malformed("se is not a number")
	}
	f, err := strconv.ParseFloat(s, 64)
	if err != nil {
		return time.Time{}, malformed("se is not a number")
	}
	sec, frac := math.Modf(min(max(f, 0), endOf9999))
	return time.Unix(int64(sec), int64(frac*1e9)).UTC(), nil
}

// Verify reports whether the token was signed with key: HMAC-SHA256 over sr, a line feed and
// se exactly as received. The comparison takes the same time whatever the signature. An
// empty key verifies nothing.
func (t Token) Verify(key []byte) bool {
	return len(key) > 0 && hmac.Equal(t.Signature, mac(key, t.Resource+"\n"+t.se))
}

// ResourcePath is sr percent-decoded once, without a trailing '/'. DPS compares it with
// {idScope}/registrations/{registrationId} in any case (dps §2.1).
func (t Token) ResourcePath() (string, error) {
	s, err := bag.Unescape(t.Resource)
	if err != nil {
		return "", malformed("sr cannot be decoded")
	}
	return strings.TrimRight(s, "/"), nil
}

// Sign makes a token for resource, which is given in plain text. The expiry is cut to whole
// seconds; an empty keyName leaves skn out.
func Sign(resource string, key []byte, expiry time.Time, keyName string) string {
	sr := bag.Escape(nil, resource)
	se := strconv.FormatInt(expiry.Unix(), 10)
	sig := base64.StdEncoding.EncodeToString(mac(key, string(sr)+"\n"+se))
	b := make([]byte, 0, len(scheme)+len(sr)+len(sig)+len(se)+len(keyName)+48)
	b = append(b, scheme+" sr="...)
	b = append(b, sr...)
	b = append(b, "&sig="...)
	b = bag.Escape(b, sig)
	b = append(b, "&se="...)
	b = append(b, se...)
	if keyName != "" {
		b = append(b, "&skn="...)
		b = bag.Escape(b, keyName)
	}
	return string(b)
}

// DeriveKey returns a device's key within a DPS enrolment group (dps §2.2): the HMAC-SHA256
// of the registration id as spelt, under the decoded group key.
func DeriveKey(groupKey []byte, registrationID string) []byte {
	return mac(groupKey, registrationID)
}

// String shows what may be logged: everything but the signature.
func (t Token) String() string {
	return fmt.Sprintf("sr=%s&se=%s&skn=%s", t.Resource, t.se, t.KeyName)
}

// Format prints String whatever the verb.
func (t Token) Format(f fmt.State, _ rune) { fmt.Fprint(f, t.String()) }

// LogValue is String.
func (t Token) LogValue() slog.Value { return slog.StringValue(t.String()) }

func mac(key []byte, text string) []byte {
	h := hmac.New(sha256.New, key)
	h.Write([]byte(text))
	return h.Sum(nil)
}

func malformed(why string) error { return fmt.Errorf("%w: %s", ErrMalformed, why) }
