package ui

import (
	"fmt"
	"net/http"
	"net/url"
	"strings"
	"testing"
	"time"
)

func TestSignIn(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		form     string
		status   int
		location string
	}{
		"right":              {signInForm("admin", password), 303, "/console/devices"},
		"pasted with spaces": {signInForm(" admin", password+"\n"), 303, "/console/devices"},
		"and on":             {signInForm("admin", password) + "&next=" + url.QueryEscape("/console/device?id=a%23b"), 303, "/console/device?id=a%23b"},
		"wrong password":     {signInForm("admin", "guess"), 401, ""},
		"half a password":    {signInForm("admin", password[:8]), 401, ""},
		"no password":        {signInForm("admin", ""), 401, ""},
		"wrong user":         {signInForm("root", password), 401, ""},
		"nothing":            {"", 401, ""},
		"not a form":         {"user=%zz", 400, ""},
		"too much":           {signInForm("admin", strings.Repeat("x", maxForm)), 413, ""},
	} {
		w := newWorld(t)
		rec := w.ask("POST", "/console/sign-in", c.form)
		if rec.Code != c.status || rec.Header().Get("Location") != c.location {
			t.Errorf("%s: %d to %q, want %d to %q", name, rec.Code, rec.Header().Get("Location"), c.status, c.location)
		}
		cookies := rec.Result().Cookies()
		if c.status != 303 {
			if len(cookies) != 0 {
				t.Errorf("%s: a refused stranger got a cookie", name)
			}
			if strings.Contains(rec.Body.String()+w.logged.String(), "guess") {
				t.Errorf("%s: the attempt is repeated", name)
			}
			continue
		}
		if len(cookies) != 1 {
			t.Fatalf("%s: %d cookies, want 1", name, len(cookies))
		}
		k := cookies[0]
		if !strings.HasPrefix(k.Name, "__Host-") || !k.HttpOnly || !k.Secure || k.SameSite != http.SameSiteStrictMode || k.Path != "/" || k.Domain != "" || len(k.Value) < 26 {
			t.Errorf("%s: cookie %+v", name, k)
		}
		if log := w.logged.String(); strings.Contains(log, password) || strings.Contains(log, k.Value) || !strings.Contains(log, "audit=true") {
			t.Errorf("%s: the log is %s; want an audit record without secrets", name, log)
		}
	}
}

func TestSignIn_FromAnotherSiteIsRefused(t *testing.T) {
	t.Parallel()
	for name, change := range map[string]func(*http.Request){
		"by fetch metadata": func(r *http.Request) { r.Header.Set("Sec-Fetch-Site", "cross-site") },
		"by origin":         func(r *http.Request) { r.Header.Set("Origin", "https://evil.example") },
		"by null origin":    func(r *http.Request) { r.Header.Set("Origin", "null") },
	} {
		w := newWorld(t)
		cookie := w.cookie(t)
		for _, target := range []string{"/console/sign-in", "/console/sign-out", "/console/alert"} {
			if rec := w.ask("POST", target, signInForm("admin", password), with(cookie), change); rec.Code != 403 || len(rec.Result().Cookies()) != 0 {
				t.Errorf("%s: %s answered %d, want 403", name, target, rec.Code)
			}
		}
		if rec := w.ask("GET", "/console/devices", "", with(cookie)); rec.Code != 200 {
			t.Errorf("%s: the session did not survive", name)
		}
	}
}

func TestSignIn_IsSlowedDown(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	try := func(address, password string) int {
		return w.ask("POST", "/console/sign-in", signInForm("admin", password), from(address)).Code
	}
	for i := range attempts {
		if got := try(fmt.Sprintf("192.0.2.1:%d", 1000+i), "guess"); got != 401 {
			t.Fatalf("attempt %d: %d, want 401", i+1, got)
		}
	}
	rec := w.ask("POST", "/console/sign-in", signInForm("admin", password), from("192.0.2.1:9"))
	if rec.Code != 429 || rec.Header().Get("Retry-After") != "20" || len(rec.Result().Cookies()) != 0 {
		t.Errorf("after %d failures: %d, retry after %q; want 429, 20", attempts, rec.Code, rec.Header().Get("Retry-After"))
	}
	if got := try("192.0.2.2:1", password); got != 303 {
		t.Errorf("another address: %d, want 303", got)
	}
	w.clock.pass(attemptEvery)
	if got := try("192.0.2.1:9", "guess"); got != 401 {
		t.Errorf("after the pause: %d, want 401", got)
	}
	if got := try("192.0.2.1:9", "guess"); got != 429 {
		t.Errorf("a second attempt after the pause: %d, want 429", got)
	}
	w.clock.pass(attemptEvery)
	if got := try("192.0.2.1:9", password); got != 303 {
		t.Errorf("the right password after the pause: %d, want 303", got)
	}
	for range attempts {
		if got := try("192.0.2.1:9", "guess"); got != 401 {
			t.Errorf("after a success: %d, want 401", got)
		}
	}
}

func TestLimiter_PeersAndMemory(t *testing.T) {
	t.Parallel()
	for a, b := range map[string]string{
		"192.0.2.1:1":        "[::ffff:192.0.2.1]:2",
		"[2001:db8::1]:1":    "[2001:db8::ffff:1]:1",
		"[fe80::1%eth0]:443": "[fe80::2]:1",
		"nonsense":           "@",
	} {
		ra, rb := &http.Request{RemoteAddr: a}, &http.Request{RemoteAddr: b}
		if peerOf(ra) != peerOf(rb) {
			t.Errorf("%s and %s count apart: %v, %v", a, b, peerOf(ra), peerOf(rb))
		}
	}
	now := time.Unix(0, 0)
	l := newLimiter(func() time.Time { return now })
	guesser := peerOf(&http.Request{RemoteAddr: "192.0.2.1:1"})
	for range attempts {
		l.take(guesser)
	}
	for i := range 3 * maxPeers {
		p := peerOf(&http.Request{RemoteAddr: fmt.Sprintf("10.%d.%d.%d:1", i>>16, i>>8&255, i&255)})
		if wait := l.take(p); wait != 0 {
			t.Fatalf("a first attempt waits %v", wait)
		}
	}
	if len(l.due) > maxPeers {
		t.Errorf("%d peers are remembered, want at most %d", len(l.due), maxPeers)
	}
	if l.take(guesser) == 0 {
		t.Error("the most busy guesser was forgotten for the sake of strangers")
	}
	now = now.Add(time.Hour)
	l.take(peerOf(&http.Request{RemoteAddr: "203.0.113.1:1"}))
	if len(l.due) != 1 {
		t.Errorf("%d peers are remembered after an hour, want 1", len(l.due))
	}
}

func TestSafeNext(t *testing.T) {
	t.Parallel()
	for next, want := range map[string]string{
		"":                                   devicesPath,
		"/console/alerts":                    "/console/alerts",
		"/console/device?id=a%2Fb":           "/console/device?id=a%2Fb",
		"//evil.example/console/alerts":      devicesPath,
		"https://evil.example/":              devicesPath,
		"https:/console/alerts":              devicesPath,
		`/\evil.example`:                     devicesPath,
		"/console/alerts\r\nSet-Cookie: a=b": devicesPath,
		"/console/sign-out":                  devicesPath,
		"/console/alerts/../../x":            devicesPath,
		"/console/device?id=" + strings.Repeat("x", maxNext): devicesPath,
		"javascript:alert(1)":                                devicesPath,
	} {
		if got := safeNext(next); got != want {
			t.Errorf("safeNext(%.60q) = %q, want %q", next, got, want)
		}
	}
	w := newWorld(t)
	rec := w.ask("GET", "/console/device?id=a%23b", "")
	if got, want := rec.Header().Get("Location"), "/console/sign-in?next=%2Fconsole%2Fdevice%3Fid%3Da%2523b"; got != want {
		t.Errorf("a stranger is sent to %q, want %q", got, want)
	}
	page := w.ask("GET", rec.Header().Get("Location"), "").Body.String()
	if !strings.Contains(page, `name="next" value="/console/device?id=a%23b"`) {
		t.Error("the sign-in page forgets where the stranger came from")
	}
}

func TestSessions_End(t *testing.T) {
	t.Parallel()
	ask := func(w *world, c *http.Cookie) bool { return w.ask("GET", "/console/alerts", "", with(c)).Code == 200 }
	t.Run("when unused", func(t *testing.T) {
		t.Parallel()
		w := newWorld(t)
		c := w.cookie(t)
		w.clock.pass(idleLimit - time.Second)
		if !ask(w, c) {
			t.Error("it ended early")
		}
		w.clock.pass(idleLimit - time.Second)
		if !ask(w, c) {
			t.Error("use did not prolong it")
		}
		w.clock.pass(idleLimit)
		if ask(w, c) {
			t.Error("it did not end")
		}
	})
	t.Run("after its life, however used", func(t *testing.T) {
		t.Parallel()
		w := newWorld(t)
		c := w.cookie(t)
		for range int(lifeLimit/(idleLimit/2)) - 1 {
			w.clock.pass(idleLimit / 2)
			if !ask(w, c) {
				t.Fatal("it ended early")
			}
		}
		w.clock.pass(idleLimit / 2)
		if ask(w, c) {
			t.Error("it did not end")
		}
	})
	t.Run("by signing out", func(t *testing.T) {
		t.Parallel()
		w := newWorld(t)
		c, other := w.cookie(t), w.cookie(t)
		rec := w.ask("POST", "/console/sign-out", "", with(c))
		if k := rec.Result().Cookies(); rec.Code != 303 || len(k) != 1 || k[0].Value != "" || k[0].MaxAge >= 0 || !k[0].Secure {
			t.Errorf("signing out: %d, cookies %v; want the cookie removed", rec.Code, k)
		}
		if ask(w, c) || !ask(w, other) {
			t.Error("signing out must end this session and no other")
		}
	})
	t.Run("by signing in again", func(t *testing.T) {
		t.Parallel()
		w := newWorld(t)
		c := w.cookie(t)
		w.ask("POST", "/console/sign-in", signInForm("admin", password), with(c))
		if ask(w, c) {
			t.Error("the old session lives on")
		}
	})
	t.Run("when there are too many", func(t *testing.T) {
		t.Parallel()
		w := newWorld(t)
		first := w.cookie(t)
		w.clock.pass(time.Second)
		second := w.cookie(t)
		w.clock.pass(time.Second)
		if !ask(w, first) { // now the second is the one unused for longest
			t.Fatal("it ended early")
		}
		for range maxSessions - 1 {
			w.clock.pass(time.Second)
			w.cookie(t)
		}
		if len(w.sessions.all) != maxSessions || !ask(w, first) || ask(w, second) {
			t.Errorf("of %d sessions the one unused for longest must go", len(w.sessions.all))
		}
	})
}
