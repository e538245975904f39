package ui

import (
	"crypto/rand"
	"crypto/sha256"
	"net/http"
	"sync"
	"time"
)

// Limits of sessions.
const (
	maxSessions = 64 // beyond it the one unused for longest ends
	// idleLimit ends a session nobody used. A page that is open and live uses it, so that a
	// screen on a wall stays on until lifeLimit.
	idleLimit = time.Hour
	lifeLimit = 12 * time.Hour
)

// cookieName binds the cookie to this very host, over TLS, for all paths (RFC 6265bis §4.1.3.2).
const cookieName = "__Host-vauban-session"

// session is one signed-in browser.
type session struct {
	opened time.Time
	used   time.Time
	ended  chan struct{} // closed when it ends before its time
}

// sessions are kept by the hash of their token, so that neither the memory nor the time of a
// lookup tells anything about a token.
type sessions struct {
	now func() time.Time

	mu  sync.Mutex
	all map[[sha256.Size]byte]*session
}

func newSessions(now func() time.Time) *sessions {
	return &sessions{now: now, all: make(map[[sha256.Size]byte]*session)}
}

// open starts a session and gives its cookie to the browser.
func (s *sessions) open(w http.ResponseWriter) {
	token := rand.Text()
	now := s.now()
	s.mu.Lock()
	s.makeRoomLocked(now)
	s.all[sha256.Sum256([]byte(token))] = &session{opened: now, used: now, ended: make(chan struct{})}
	s.mu.Unlock()
	setCookie(w, token, 0)
}

func setCookie(w http.ResponseWriter, value string, maxAge int) {
	http.SetCookie(w, &http.Cookie{
		Name: cookieName, Value: value, Path: "/", MaxAge: maxAge, Secure: true, HttpOnly: true, SameSite: http.SameSiteStrictMode,
	})
}

func (s *sessions) makeRoomLocked(now time.Time) {
	var oldest [sha256.Size]byte
	var idle time.Duration = -1
	for key, one := range s.all {
		if one.over(now) {
			s.endLocked(key)
		} else if d := now.Sub(one.used); d > idle {
			oldest, idle = key, d
		}
	}
	if len(s.all) >= maxSessions {
		s.endLocked(oldest)
	}
}

func (s *sessions) endLocked(key [sha256.Size]byte) {
	if one, ok := s.all[key]; ok {
		close(one.ended)
		delete(s.all, key)
	}
}

func (one *session) over(now time.Time) bool {
	return now.Sub(one.used) >= idleLimit || now.Sub(one.opened) >= lifeLimit
}

func keyOf(r *http.Request) (key [sha256.Size]byte, ok bool) {
	cookie, err := r.Cookie(cookieName)
	if err != nil || cookie.Value == "" {
		return key, false
	}
	return sha256.Sum256([]byte(cookie.Value)), true
}

// of returns the request's session, which counts as used, or nil.
func (s *sessions) of(r *http.Request) *session {
	key, ok := keyOf(r)
	if !ok {
		return nil
	}
	now := s.now()
	s.mu.Lock()
	defer s.mu.Unlock()
	one := s.all[key]
	if one == nil {
		return nil
	}
	if one.over(now) {
		s.endLocked(key)
		return nil
	}
	one.used = now
	return one
}

// end closes the request's session, in every tab at once.
func (s *sessions) end(r *http.Request) {
	if key, ok := keyOf(r); ok {
		s.mu.Lock()
		defer s.mu.Unlock()
		s.endLocked(key)
	}
}
