package ui

import (
	"crypto/subtle"
	"errors"
	"math"
	"net/http"
	"net/netip"
	"net/url"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/vauban-iot/vauban/fault"
)

const (
	user    = "admin"
	maxForm = 4 << 10
	maxNext = 1 << 10
)

// signInBody is what the sign-in page shows.
type signInBody struct {
	Next    string
	Problem string
}

func (c *Console) signInPage(w http.ResponseWriter, r *http.Request) error {
	next := safeNext(r.URL.Query().Get("next"))
	if c.sessions.of(r) != nil {
		http.Redirect(w, r, next, http.StatusSeeOther)
		return nil
	}
	c.render(w, r, http.StatusOK, "sign-in", frame{Title: "Sign in"}, signInBody{Next: next})
	return nil
}

func (c *Console) signIn(w http.ResponseWriter, r *http.Request) error {
	r.Body = http.MaxBytesReader(w, r.Body, maxForm)
	if err := r.ParseForm(); err != nil {
		if _, ok := errors.AsType[*http.MaxBytesError](err); ok {
			return fault.New(fault.TooLarge, "The form is over %d bytes.", maxForm)
		}
		return fault.Wrap(fault.Malformed, err, "The form cannot be read.")
	}
	body := signInBody{Next: safeNext(r.PostForm.Get("next"))}
	peer := peerOf(r)
	if wait := c.limit.take(peer); wait > 0 {
		seconds := int(math.Ceil(wait.Seconds()))
		w.Header().Set("Retry-After", strconv.Itoa(seconds))
		body.Problem = "Too many attempts. Try again in " + strconv.Itoa(seconds) + " seconds."
		c.render(w, r, http.StatusTooManyRequests, "sign-in", frame{Title: "Sign in"}, body)
		return nil
	}
	known := subtle.ConstantTimeCompare([]byte(strings.TrimSpace(r.PostForm.Get("user"))), []byte(user)) == 1
	proved := c.cfg.Password.Matches([]byte(strings.TrimSpace(r.PostForm.Get("password"))))
	if !known || !proved {
		c.log.Warn("sign-in refused", "audit", true, "from", r.RemoteAddr)
		body.Problem = "That is not the user and password of this installation."
		c.render(w, r, http.StatusUnauthorized, "sign-in", frame{Title: "Sign in"}, body)
		return nil
	}
	c.limit.forget(peer)
	c.sessions.end(r) // a browser has one
	c.sessions.open(w)
	c.log.Info("signed in", "audit", true, "user", user, "from", r.RemoteAddr)
	http.Redirect(w, r, body.Next, http.StatusSeeOther)
	return nil
}

func (c *Console) signOut(w http.ResponseWriter, r *http.Request) error {
	if c.sessions.of(r) != nil {
		c.log.Info("signed out", "audit", true, "user", user, "from", r.RemoteAddr)
	}
	c.sessions.end(r)
	setCookie(w, "", -1)
	http.Redirect(w, r, signInPath, http.StatusSeeOther)
	return nil
}

// safeNext is where to go after signing in: a page of the console, whatever the request says.
func safeNext(next string) string {
	u, err := url.Parse(next)
	if err != nil || len(next) > maxNext || u.Scheme != "" || u.Host != "" || u.User != nil || strings.ContainsAny(next, "\\\r\n") {
		return devicesPath
	}
	switch u.Path {
	case devicesPath, devicePath, alertsPath, alertPath:
		return next
	}
	return devicesPath
}

// peerOf is whom a failed attempt counts against: an IPv4 address, or the /64 that one IPv6
// subscriber has to choose addresses from.
func peerOf(r *http.Request) netip.Prefix {
	ap, err := netip.ParseAddrPort(r.RemoteAddr)
	if err != nil {
		return netip.Prefix{} // all unreadable addresses count as one
	}
	a := ap.Addr().Unmap().WithZone("")
	bits := 32
	if a.Is6() {
		bits = 64
	}
	p, err := a.Prefix(bits)
	if err != nil {
		return netip.Prefix{}
	}
	return p
}

// Limits of sign-in attempts.
const (
	attempts     = 5                // at once
	attemptEvery = 20 * time.Second // and one more after each of these
	maxPeers     = 4096             // remembered; beyond it the one quiet for longest is forgotten
)

// limiter slows guessing down, for each peer by itself. Each attempt moves the moment at which the
// peer is free of debt by attemptEvery; a peer may be as far in debt as a burst of attempts brings it.
type limiter struct {
	now func() time.Time

	mu  sync.Mutex
	due map[netip.Prefix]time.Time
}

func newLimiter(now func() time.Time) *limiter {
	return &limiter{now: now, due: make(map[netip.Prefix]time.Time)}
}

// take counts an attempt, which forget takes back, or says how long to wait. An attempt that is
// made too early does not count.
func (l *limiter) take(p netip.Prefix) (wait time.Duration) {
	now := l.now()
	l.mu.Lock()
	defer l.mu.Unlock()
	due, known := l.due[p]
	if !known && len(l.due) >= maxPeers {
		l.makeRoomLocked(now)
	}
	if due.Before(now) {
		due = now
	}
	due = due.Add(attemptEvery)
	if wait := due.Sub(now.Add(attempts * attemptEvery)); wait > 0 {
		return wait
	}
	l.due[p] = due
	return 0
}

func (l *limiter) makeRoomLocked(now time.Time) {
	var quiet netip.Prefix
	earliest := now.Add(attempts * attemptEvery)
	for p, due := range l.due {
		if !due.After(now) {
			delete(l.due, p)
		} else if !due.After(earliest) {
			quiet, earliest = p, due
		}
	}
	if len(l.due) >= maxPeers {
		delete(l.due, quiet)
	}
}

// forget clears a peer that proved itself.
func (l *limiter) forget(p netip.Prefix) {
	l.mu.Lock()
	defer l.mu.Unlock()
	delete(l.due, p)
}
