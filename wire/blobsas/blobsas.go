// Package blobsas reads and writes the tokens that let a storage client at one blob, or at a container of them: the
// query parameters sv, sr, sp, se and sig of Azure's service SAS (hub-device §4.4). The signature is ours,
// as nobody else checks it.
package blobsas

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"errors"
	"net/url"
	"strings"
	"time"
)

// Version is the storage API version we name.
const Version = "2021-08-06"

// Grant is what a token allows.
type Grant struct {
	Container   string
	Blob        string // empty: all blobs of the container
	Permissions string // of r, c, w, d, and l (list) in a container
	Expiry      time.Time
}

// ErrMalformed says that a query holds no readable token.
var ErrMalformed = errors.New("blobsas: malformed token")

// layout is the form of se that every client writes.
const layout = "2006-01-02T15:04:05Z"

// maxQuery bounds what is parsed.
const maxQuery = 8 << 10

// text is what is signed: no field can hold a line feed.
func (g Grant) text(expiry string) []byte {
	resource := "/" + g.Container
	if g.Blob != "" {
		resource += "/" + g.Blob
	}
	return []byte("vauban-blob\n" + g.Permissions + "\n" + expiry + "\n" + resource + "\n" + Version + "\n" + g.kind())
}

// kind is the value of sr.
func (g Grant) kind() string {
	if g.Blob == "" {
		return "c"
	}
	return "b"
}

func sign(key, text []byte) []byte {
	m := hmac.New(sha256.New, key)
	m.Write(text)
	return m.Sum(nil)
}

// Sign returns the token as the query of a URL, without its question mark.
func (g Grant) Sign(key []byte) string {
	expiry := g.Expiry.UTC().Format(layout)
	sig := base64.StdEncoding.EncodeToString(sign(key, g.text(expiry)))
	// The order of Azure's own; clients take the token as it is.
	return "sv=" + Version + "&sr=" + g.kind() + "&sig=" + url.QueryEscape(sig) + "&se=" + url.QueryEscape(expiry) + "&sp=" + g.Permissions
}

// Token is a token read from a query, not yet verified.
type Token struct {
	Permissions string
	Expiry      time.Time
	Whole       bool // for a whole container
	expiry      string
	signature   []byte
}

// Present reports whether a query means to hold a token.
func Present(q url.Values) bool { return q.Has("sig") }

// Parse reads the query of a request. The error is ErrMalformed.
func Parse(q url.Values) (Token, error) {
	var t Token
	size := 0
	for _, name := range []string{"sv", "sr", "sp", "se", "sig"} {
		if len(q[name]) != 1 {
			return Token{}, ErrMalformed
		}
		if size += len(q[name][0]); size > maxQuery {
			return Token{}, ErrMalformed
		}
	}
	t.Permissions, t.expiry = q.Get("sp"), q.Get("se")
	var err error
	if t.Expiry, err = time.Parse(layout, t.expiry); err != nil {
		return Token{}, ErrMalformed
	}
	// A plus that was not escaped reached us as a space.
	sig := strings.ReplaceAll(q.Get("sig"), " ", "+")
	if t.signature, err = base64.StdEncoding.DecodeString(sig); err != nil || len(t.signature) != sha256.Size {
		return Token{}, ErrMalformed
	}
	t.Whole = q.Get("sr") == "c"
	letters := "rcwd"
	if t.Whole {
		letters += "l"
	}
	if q.Get("sv") != Version || !t.Whole && q.Get("sr") != "b" || strings.Trim(t.Permissions, letters) != "" || t.Permissions == "" {
		return Token{}, ErrMalformed
	}
	return t, nil
}

// Verify reports whether the token was made with key for that blob, or for its container; blob is empty when the container
// itself is asked for. It does not look at the clock.
func (t Token) Verify(key []byte, container, blob string) bool {
	if strings.ContainsRune(container+blob, '\n') || strings.Contains(container, "/") || blob == "" && !t.Whole {
		return false
	}
	g := Grant{Container: container, Blob: blob, Permissions: t.Permissions}
	if t.Whole {
		g.Blob = ""
	}
	return hmac.Equal(t.signature, sign(key, g.text(t.expiry)))
}

// Allows reports whether the token holds one of the permissions.
func (t Token) Allows(any string) bool { return strings.ContainsAny(t.Permissions, any) }
