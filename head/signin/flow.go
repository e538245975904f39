package signin

import (
	"crypto/aes"
	"crypto/cipher"
	"crypto/rand"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/base64"
	"encoding/json"
	"net/http"
	"time"

	"github.com/vauban-iot/vauban/access/signin"
	"github.com/vauban-iot/vauban/fault"
	"github.com/vauban-iot/vauban/internal/secret"
)

// flow is one way through the pages. It travels sealed, in the forms.
type flow struct {
	// Request and State are of a program that waits at a redirect URI; UserCode and From of one that waits elsewhere.
	Request  signin.AuthorizationRequest `json:"r,omitzero"`
	State    string                      `json:"s,omitempty"`
	UserCode string                      `json:"u,omitempty"`
	From     string                      `json:"f,omitempty"`
	Client   string                      `json:"c"` // its name
	// Who proved itself on this way; zero: nobody yet.
	Who signin.Proof `json:"w,omitzero"`

	Browser []byte    `json:"b"` // hash of the cookie of the browser that goes it
	Until   time.Time `json:"t"`
}

func (f flow) device() bool { return f.UserCode != "" }

// travel is a browser's way to a provider, in a cookie.
type travel struct {
	Provider string      `json:"p"`
	Trip     signin.Trip `json:"t"`
	Flow     flow        `json:"f"`
}

// flowLife is how long somebody may look for the password.
const flowLife = 15 * time.Minute

// Cookies bound to this very host, over TLS, for all paths (RFC 6265bis §4.1.3.2). They come along when a provider
// sends the browser back, so they are lax.
const (
	browserCookie = "__Host-vauban-signin"
	travelCookie  = "__Host-vauban-trip"
)

func setCookie(w http.ResponseWriter, name, value string, maxAge int) {
	http.SetCookie(w, &http.Cookie{Name: name, Value: value, Path: "/", MaxAge: maxAge, Secure: true, HttpOnly: true, SameSite: http.SameSiteLaxMode})
}

// browser returns the hash of the browser's cookie, which it gets when it has none.
func browser(w http.ResponseWriter, r *http.Request) []byte {
	if b := known(r); b != nil {
		return b
	}
	value := rand.Text()
	setCookie(w, browserCookie, value, 0)
	sum := sha256.Sum256([]byte(value))
	return sum[:]
}

// known is browser for a browser that must have a cookie; nil: it has none.
func known(r *http.Request) []byte {
	c, err := r.Cookie(browserCookie)
	if err != nil || len(c.Value) < 16 || len(c.Value) > 64 {
		return nil
	}
	sum := sha256.Sum256([]byte(c.Value))
	return sum[:]
}

// sealer keeps what browsers carry unreadable and unchanged.
type sealer struct{ aead cipher.AEAD }

func newSealer(key secret.Secret) (*sealer, error) {
	block, err := aes.NewCipher(key.Reveal())
	if err != nil {
		return nil, err
	}
	aead, err := cipher.NewGCM(block)
	return &sealer{aead}, err
}

func (s *sealer) seal(purpose string, v any) (string, error) {
	plain, err := json.Marshal(v)
	if err != nil {
		return "", err
	}
	nonce := make([]byte, s.aead.NonceSize())
	rand.Read(nonce)
	return base64.RawURLEncoding.EncodeToString(s.aead.Seal(nonce, nonce, plain, []byte(purpose))), nil
}

// maxSealed is more than a flow or a travel is.
const maxSealed = 4096

func (s *sealer) open(purpose, text string, v any) bool {
	if len(text) > maxSealed {
		return false
	}
	b, err := base64.RawURLEncoding.Strict().DecodeString(text)
	n := s.aead.NonceSize()
	if err != nil || len(b) < n {
		return false
	}
	plain, err := s.aead.Open(nil, b[:n], b[n:], []byte(purpose))
	return err == nil && json.Unmarshal(plain, v) == nil
}

// errFlow is a form that is old, somebody else's, or made up.
var errFlow = fault.New(fault.Invalid, "this page is too old or was opened in another browser; start again from the program that sent you here")

// begin seals a flow for this browser.
func (h *Head) begin(w http.ResponseWriter, r *http.Request, f *flow) (string, error) {
	f.Browser, f.Until = browser(w, r), h.cfg.Now().Add(flowLife)
	return h.sealer.seal("flow", *f)
}

func (h *Head) resume(r *http.Request, sealed string) (flow, error) {
	var f flow
	if !h.sealer.open("flow", sealed, &f) {
		return flow{}, errFlow
	}
	return f, h.fresh(r, f)
}

func (h *Head) fresh(r *http.Request, f flow) error {
	b := known(r)
	if b == nil || subtle.ConstantTimeCompare(b, f.Browser) != 1 || !h.cfg.Now().Before(f.Until) {
		return errFlow
	}
	return nil
}
