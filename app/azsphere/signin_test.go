package azsphere

import (
	"context"
	"encoding/pem"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/vauban-iot/vauban/access/signin"
	"github.com/vauban-iot/vauban/internal/secret"
)

func (w *world) account() string { return filepath.Join(w.config, "azsphere", "account.json") }

// kept is what the account file holds.
func (w *world) kept() *account {
	w.t.Helper()
	a, err := loadAccount()
	ok(w.t, err)
	return a
}

func TestLogin(t *testing.T) {
	w := newWorld(t)
	w.refuses(exitFailed, "nobody is signed in to "+w.url+"; run: azsphere login", "tenant", "list")
	_, err := w.signIn.Register(t.Context(), signin.Peer{Administrator: true}, signin.NewUser{Mail: ada, Password: secret.New([]byte(password))})
	ok(t, err)

	signedIn := func(how string) {
		t.Helper()
		var me struct{ User, Server string }
		w.json(&me, "show-user")
		if me.User != ada || me.Server != w.url {
			t.Errorf("%s: %+v", how, me)
		}
		info, err := os.Stat(w.account())
		ok(t, err)
		if info.Mode().Perm() != 0o600 {
			t.Errorf("%s: the account file has mode %o", how, info.Mode().Perm())
		}
		if info, err = os.Stat(filepath.Dir(w.account())); err != nil || info.Mode().Perm() != 0o700 {
			t.Errorf("%s: its folder: %v, %v", how, info.Mode(), err)
		}
	}

	t.Run("with a password from standard input", func(t *testing.T) {
		w.stdin = password + "\n"
		w.says("^Signed in to "+w.url+" as "+ada+"$", "login", "--username", ada, "--password-stdin")
		signedIn("password")
		w.stdin = "wrong\n"
		w.refuses(exitFailed, "the mail address or the password is wrong", "login", "--username", ada, "--password-stdin")
		signedIn("after a wrong password")
	})
	t.Run("with a password that is typed", func(t *testing.T) {
		w.stdin, w.typed = "", []string{password}
		w.do("login", "-u", ada)
		signedIn("typed")
	})
	t.Run("in a browser", func(t *testing.T) {
		w.do("logout")
		w.browse = func(ctx context.Context, address string) error {
			s := &server{url: w.url}
			pool, err := os.ReadFile(w.ca)
			ok(t, err)
			s.tls = trusting(t, pool)
			p, err := s.typist(ada, secret.New([]byte(password)))
			ok(t, err)
			return p.show(ctx, address)
		}
		w.do("login", "--use-browser")
		signedIn("browser")
		// Somebody who thinks better of it.
		w.browse = func(ctx context.Context, address string) error {
			back := regexp.MustCompile(`redirect_uri=([^&]+).*state=([^&]+)`).FindStringSubmatch(address)
			to, err := url.QueryUnescape(back[1])
			ok(t, err)
			res, err := http.Get(to + "?error=access_denied&state=" + back[2] + "&iss=" + url.QueryEscape(w.url))
			ok(t, err)
			return res.Body.Close()
		}
		w.refuses(exitFailed, "the sign-in was denied", "login", "--use-browser")
	})
	t.Run("with a code that is typed elsewhere", func(t *testing.T) {
		w.do("logout")
		// Nothing can be typed before the code is shown, so somebody watches what is shown.
		shown, out := io.Pipe()
		go func() {
			b := make([]byte, 4096)
			n, _ := shown.Read(b)
			go io.Copy(io.Discard, shown)
			code := regexp.MustCompile(`(?m)^  (\S+-\S+)$`).FindSubmatch(b[:n])
			if code == nil {
				t.Errorf("no code in %s", b[:n])
				return
			}
			who, err := w.signIn.Authenticate(context.Background(), signin.Peer{}, ada, secret.New([]byte(password)))
			if err == nil {
				err = w.signIn.DecideDevice(context.Background(), signin.Peer{}, who, string(code[1]), true)
			}
			if err != nil {
				t.Error(err)
			}
		}()
		root := (&tool{name: Standalone, now: time.Now}).root()
		root.SetArgs([]string{"login"}) // without a display
		root.SetErr(out)
		root.SetOut(io.Discard)
		err := root.ExecuteContext(t.Context())
		out.Close()
		ok(t, err)
		signedIn("code")
	})
	t.Run("to a server that is named", func(t *testing.T) {
		w.do("logout")
		setenv(t, "VAUBAN_DATA", t.TempDir())
		setenv(t, "XDG_CONFIG_HOME", t.TempDir())
		w.refuses(exitFailed, "which server? run: azsphere login --server https://HOST --ca FILE", "login")
		w.refuses(exitFailed, "shows a certificate of a CA that is not known here; give its CA: azsphere login --server "+w.url+" --ca FILE", "login", "--server", w.url, "--use-device-code")
		w.stdin = password
		w.do("login", "--server", w.url+"/", "--ca", w.ca, "--username", ada, "--password-stdin")
		// Both are remembered.
		w.says("^user +"+ada+"$", "show-user")
		w.says("^user +"+ada+"$", "show-user", "--server", w.url)
		w.refuses(exitFailed, "https://127.0.0.1:1 cannot be reached", "login", "--server", "https://127.0.0.1:1", "--use-device-code")
		w.refuses(exitFailed, "nobody is signed in to https://elsewhere.example", "show-user", "--server", "https://Elsewhere.example:443")
		w.refuses(exitFailed, "start `vauban up` first", "show-user", "--data", t.TempDir())
	})
}

func TestSession(t *testing.T) {
	w := newWorld(t)
	w.person(ada)
	tenant := w.tenant("Contoso")
	first := w.kept().Servers[w.url].Tokens

	t.Run("access tokens are renewed by themselves", func(t *testing.T) {
		w.do("show-user")
		if w.kept().Servers[w.url].Tokens != first {
			t.Error("a token in force was renewed")
		}
		ok(t, changeAccount(func(a *account) error {
			a.session(w.url).Tokens.Expires = time.Now()
			return nil
		}))
		w.do("show-user")
		if now := w.kept().Servers[w.url].Tokens; now.Refresh == first.Refresh || now.Access == first.Access {
			t.Error("an expired token was not renewed")
		}
	})
	t.Run("one copy renews for all", func(t *testing.T) {
		ok(t, changeAccount(func(a *account) error {
			a.session(w.url).Tokens.Expires = time.Now()
			return nil
		}))
		errs := make(chan error, 8)
		for range cap(errs) {
			go func() {
				root := (&tool{name: Standalone, now: time.Now}).root()
				root.SetArgs([]string{"tenant", "list"})
				root.SetOut(io.Discard)
				errs <- root.ExecuteContext(t.Context())
			}()
		}
		for range cap(errs) {
			if err := <-errs; err != nil {
				t.Error(err)
			}
		}
	})
	t.Run("nothing prints a token", func(t *testing.T) {
		k := w.kept().Servers[w.url].Tokens
		for _, args := range []string{"show-user", "tenant list", "tenant show-selected", "setting list", "setting list -o json", "show-user -o json", "get-support-data --destination -"} {
			out, errs, err := w.run(strings.Fields(args)...)
			ok(t, err)
			for _, secret := range []string{k.Access, k.Refresh, adminToken} {
				if strings.Contains(out+errs, secret) {
					t.Errorf("%s prints a token", args)
				}
			}
		}
	})
	t.Run("who signs out is out, and the tenant stays selected for the next time", func(t *testing.T) {
		refresh := w.kept().Servers[w.url].Tokens.Refresh
		w.says("^"+ada+" is signed out of "+w.url+"$", "logout")
		if b, err := os.ReadFile(w.account()); err != nil || strings.Contains(string(b), refresh) || strings.Contains(string(b), first.Access) {
			t.Errorf("the file holds a token still, or %v", err)
		}
		if _, err := w.signIn.Refresh(t.Context(), signin.Peer{}, "azsphere", secret.New([]byte(refresh))); err == nil {
			t.Error("the session did not end at the server")
		}
		w.refuses(exitFailed, "nobody is signed in to", "logout")
		w.login(ada)
		w.says("^id +"+tenant+"$", "tenant", "show-selected")
		w.person(bob)
		w.refuses(exitFailed, "no tenant is selected; run: azsphere tenant select --tenant NAME", "tenant", "show-selected")
	})
	t.Run("a session that an administrator ended", func(t *testing.T) {
		info, err := w.signIn.UserByMail(t.Context(), bob)
		ok(t, err)
		ok(t, w.signIn.RevokeUser(t.Context(), signin.Peer{Administrator: true}, info.Subject))
		w.refuses(exitFailed, "the session at "+w.url+" has ended; run: azsphere login", "tenant", "list")
		ok(t, changeAccount(func(a *account) error {
			a.session(w.url).Tokens.Expires = time.Now()
			return nil
		}))
		w.refuses(exitFailed, "the session at "+w.url+" has ended; run: azsphere login", "tenant", "list")
	})
	t.Run("a file that others may read", func(t *testing.T) {
		ok(t, os.Chmod(w.account(), 0o644))
		w.refuses(exitFailed, "may be read by others (mode 0644); run: chmod 600", "tenant", "list")
		ok(t, os.Chmod(w.account(), 0o600))
	})
	t.Run("a file that is damaged", func(t *testing.T) {
		ok(t, os.WriteFile(w.account(), []byte(`{"servers":{"`), 0o600))
		w.refuses(exitFailed, "is damaged: unexpected end of JSON input; delete it and log in again", "tenant", "list")
	})
}

func TestRegisterUser(t *testing.T) {
	w := newWorld(t)
	t.Run("by who reads the installation's folder", func(t *testing.T) {
		w.stdin = password
		w.says("^"+ada+" has an account at "+w.url+"; sign in with: azsphere login$", "register-user", "--new-user", ada, "--password-stdin")
		w.refuses(exitFailed, "this mail address has an account already", "register-user", "--new-user", ada, "--password-stdin")
		w.login(ada)
		// Also when the server is remembered.
		w.stdin = ""
		w.typed = []string{password, password}
		w.do("register-user", "-u", "carol@plant.example")
		w.typed = []string{password, password + "x"}
		w.refuses(exitFailed, "the two passwords differ", "register-user", "-u", "dave@plant.example")
		w.typed = []string{"short", "short"}
		w.refuses(exitFailed, "password", "register-user", "-u", "dave@plant.example")
		w.refuses(exitMisuse, "--new-user is required", "register-user")
	})
	t.Run("by invitation", func(t *testing.T) {
		var made struct{ Mail, Invitation string }
		w.json(&made, "register-user", "--new-user", bob, "--invite", "--days", "7")
		if made.Mail != bob || made.Invitation == "" {
			t.Fatalf("%+v", made)
		}
		setenv(t, "VAUBAN_DATA", t.TempDir()) // on another machine
		setenv(t, "XDG_CONFIG_HOME", t.TempDir())
		elsewhere := []string{"register-user", "--server", w.url, "--ca", w.ca, "--new-user", bob}
		w.refuses(exitFailed, "only an administrator of the installation invites", append(elsewhere, "--invite")...)
		w.stdin = password
		w.refuses(exitFailed, "accounts are made by invitation here", append(elsewhere, "--password-stdin")...)
		w.do(append(elsewhere, "--password-stdin", "--invitation", made.Invitation)...)
		w.do("login", "--server", w.url, "--ca", w.ca, "--username", bob, "--password-stdin")
		w.says("^user +"+bob+"$", "show-user")
	})
}

func TestKeeper_KeepsNothingAfterAnError(t *testing.T) {
	w := newWorld(t)
	w.person(ada)
	before, err := os.ReadFile(w.account())
	ok(t, err)
	failed := errors.New("it failed")
	if err := changeAccount(func(a *account) error { a.Current = "x"; return failed }); !errors.Is(err, failed) {
		t.Error(err)
	}
	if after, err := os.ReadFile(w.account()); err != nil || string(after) != string(before) {
		t.Errorf("the file changed, or %v", err)
	}
}

// A password goes to the server's own page, and what follows to nowhere but the program that waits.
func TestTypist_StaysWhereItIs(t *testing.T) {
	w := newWorld(t)
	var elsewhere int
	other := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { elsewhere++ }))
	defer other.Close()
	for name, test := range map[string]struct {
		serve http.HandlerFunc
		want  string
	}{
		"the first page leads away": {func(rw http.ResponseWriter, r *http.Request) { http.Redirect(rw, r, other.URL, http.StatusFound) }, "has no page that takes a password (it answered 302 Found)"},
		"the form leads away": {func(rw http.ResponseWriter, r *http.Request) {
			if r.Method == http.MethodPost {
				http.Redirect(rw, r, other.URL+"/?code=x", http.StatusSeeOther)
				return
			}
			io.WriteString(rw, `<input name="flow" value="x">`)
		}, "it answered 303 See Other"},
		"no form at all": {func(rw http.ResponseWriter, _ *http.Request) { http.Error(rw, "gone", http.StatusNotFound) }, "it answered 404 Not Found"},
		"a problem, and when to come back": {func(rw http.ResponseWriter, _ *http.Request) {
			rw.Header().Set("Retry-After", "30")
			io.WriteString(rw, `<p class="problem" role="alert">Too many &amp; too fast.</p>`)
		}, "too many & too fast; try again in 30 s"},
	} {
		t.Run(name, func(t *testing.T) {
			bad := httptest.NewTLSServer(test.serve)
			defer bad.Close()
			ca := filepath.Join(t.TempDir(), "ca.pem")
			ok(t, os.WriteFile(ca, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: bad.Certificate().Raw}), 0o600))
			w.stdin = password
			w.refuses(exitFailed, test.want, "login", "--server", bad.URL, "--ca", ca, "--username", ada, "--password-stdin")
		})
	}
	if elsewhere > 0 {
		t.Errorf("%d requests went elsewhere", elsewhere)
	}
}
