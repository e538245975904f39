package signin_test

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/base64"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/vauban-iot/vauban/access/signin"
	"github.com/vauban-iot/vauban/access/signin/signintest"
	"github.com/vauban-iot/vauban/fault"
	"github.com/vauban-iot/vauban/internal/secret"
)

const (
	mail     = "ada@plant.example"
	password = "correct horse battery"
	verifier = "a-verifier-of-forty-three-letters-or-more-0123456789"
	redirect = "http://127.0.0.1:40123/cb"
)

var (
	admin = signin.Peer{Administrator: true}
	home  = at("192.0.2.1")
)

func at(addr string) signin.Peer { return signin.Peer{Addr: netip.MustParseAddr(addr)} }

func sec(s string) secret.Secret { return secret.New([]byte(s)) }

// world is a service with one account, and all that was logged.
type world struct {
	*signin.Service
	t     testing.TB
	store *signintest.Store
	log   *bytes.Buffer
	ada   signin.User
}

func newWorld(t testing.TB, cfg signin.Config) *world {
	t.Helper()
	w := &world{t: t, log: new(bytes.Buffer), store: signintest.NewStore()}
	cfg.Store = w.store
	cfg.Logger = slog.New(slog.NewTextHandler(w.log, nil))
	w.Service = signintest.New(t, cfg)
	var err error
	if w.ada, err = w.Register(t.Context(), admin, signin.NewUser{Mail: mail, Password: sec(password)}); err != nil {
		t.Fatal(err)
	}
	return w
}

// beside is another server of the same installation.
func (w *world) beside(cfg signin.Config) *signin.Service {
	cfg.Store = w.store
	return signintest.New(w.t, cfg)
}

func request() signin.AuthorizationRequest {
	sum := sha256.Sum256([]byte(verifier))
	return signin.AuthorizationRequest{Client: "azsphere", Redirect: redirect, Challenge: base64.RawURLEncoding.EncodeToString(sum[:])}
}

func (w *world) code() secret.Secret {
	w.t.Helper()
	who, err := w.Authenticate(w.t.Context(), home, mail, sec(password))
	if err != nil {
		w.t.Fatal(err)
	}
	code, err := w.Grant(w.t.Context(), home, who, request())
	if err != nil {
		w.t.Fatal(err)
	}
	return code
}

func (w *world) tokens() signin.Tokens {
	w.t.Helper()
	t, err := w.Exchange(w.t.Context(), home, "azsphere", redirect, w.code(), sec(verifier))
	if err != nil {
		w.t.Fatal(err)
	}
	return t
}

func (w *world) check(what string, s *signin.Service, t signin.Tokens, want error) {
	w.t.Helper()
	u, err := s.Check(w.t.Context(), string(t.Access.Reveal()))
	if !errors.Is(err, want) || err == nil && u != w.ada || err != nil && u != (signin.User{}) {
		w.t.Errorf("%s: %v, %v; want %v", what, u, err, want)
	}
}

func (w *world) wants(what string, got, want error) {
	w.t.Helper()
	if !errors.Is(got, want) {
		w.t.Errorf("%s: %v, want %v", what, got, want)
	}
}

func wantKind(t testing.TB, what string, err error, k fault.Kind) {
	t.Helper()
	if !fault.Is(err, k) {
		t.Errorf("%s: %v, want kind %v", what, err, k)
	}
}

// From a password to tokens, through a refresh, to the end of the session; nothing that proves anything is logged.
func TestSession(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w, ctx := newWorld(t, signin.Config{}), t.Context()
		first := w.tokens()
		w.check("an access token", w.Service, first, nil)
		second, err := w.Refresh(ctx, home, "azsphere", first.Refresh)
		if err != nil || second.User != w.ada || second.Life != signin.DefaultAccessLife {
			t.Fatalf("refresh: %+v, %v", second, err)
		}
		w.check("the one from before the refresh", w.Service, first, nil)
		w.check("the next", w.Service, second, nil)
		other := w.tokens()
		if err := w.Logout(ctx, home, second.Refresh); err != nil {
			t.Fatal(err)
		}
		w.check("after the end of the session", w.Service, first, signin.ErrRevoked)
		w.check("after the end of the session", w.Service, second, signin.ErrRevoked)
		w.check("of another session", w.Service, other, nil)
		_, err = w.Refresh(ctx, home, "azsphere", second.Refresh)
		w.wants("refresh after the end", err, signin.ErrRevoked)
		if err := w.Logout(ctx, home, other.Access); err != nil {
			t.Fatal(err)
		}
		w.check("ended by its access token", w.Service, other, signin.ErrRevoked)
		if err := w.Logout(ctx, home, sec("nonsense")); err != nil {
			t.Errorf("the end of no session: %v", err)
		}
		log := w.log.String()
		for _, s := range []secret.Secret{first.Access, first.Refresh, second.Access, second.Refresh, sec(password), sec(verifier)} {
			if strings.Contains(log, string(s.Reveal())) || strings.Contains(fmt.Sprintf("%v %+v", first, second), string(s.Reveal())) {
				t.Errorf("a secret is told: %s", log)
			}
		}
		for _, what := range []string{"registered", "signed in", "session began", "session ended"} {
			if !strings.Contains(log, `audit=true what="`+what+`"`) && !strings.Contains(log, `audit=true what=`+what+" ") {
				t.Errorf("no audit record %q in\n%s", what, log)
			}
		}
	})
}

func TestAuthenticate_Refuses(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w, ctx := newWorld(t, signin.Config{}), t.Context()
		for name, c := range map[string]struct{ mail, password string }{
			"a wrong password":   {mail, "wrong horse battery"},
			"a part of it":       {mail, password[:12]},
			"no password":        {mail, ""},
			"a huge password":    {mail, strings.Repeat("x", 1<<20)},
			"an unknown account": {"eve@plant.example", password},
			"no mail address":    {"", password},
			"no address at all":  {"ada", password},
			"control characters": {mail, password + "\x00"},
		} {
			before := signin.Work(w.Service)
			who, err := w.Authenticate(ctx, at("198.51.100.7"), c.mail, sec(c.password))
			w.wants(name, err, signin.ErrCredentials)
			if who != (signin.Proof{}) {
				t.Errorf("%s proved %v", name, who)
			}
			if work := signin.Work(w.Service) - before; work != 1 {
				t.Errorf("%s cost %d hashes, want 1 like every other", name, work)
			}
			time.Sleep(time.Hour)
		}
		if who, err := w.Authenticate(ctx, home, " ADA@Plant.Example ", sec(password)); err != nil || who.User != w.ada {
			t.Errorf("another spelling of the mail address: %v, %v", who, err)
		}
		if strings.Contains(w.log.String(), "eve@") {
			t.Error("what was typed as a mail address is logged")
		}
		if err := w.Disable(ctx, admin, w.ada.Subject); err != nil {
			t.Fatal(err)
		}
		_, err := w.Authenticate(ctx, home, mail, sec(password))
		w.wants("disabled", err, signin.ErrDisabled)
		_, err = w.Authenticate(ctx, home, mail, sec("wrong horse battery"))
		w.wants("disabled, with a wrong password", err, signin.ErrCredentials)
	})
}

// Guessing is slowed down, and keeps nobody else out.
func TestAuthenticate_SlowsDown(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w, ctx := newWorld(t, signin.Config{}), t.Context()
		try := func(p signin.Peer, password string) error {
			_, err := w.Authenticate(ctx, p, mail, sec(password))
			return err
		}
		w.wants("at home", try(home, password), nil)
		evil := at("198.51.100.7")
		for i := range 5 {
			w.wants(fmt.Sprint("guess ", i), try(evil, "a guess of mine"), signin.ErrCredentials)
		}
		err := try(evil, password)
		wantKind(t, "the sixth guess of one place", err, fault.Throttled)
		if f, ok := errors.AsType[*fault.Error](err); !ok || f.RetryAfter != 30*time.Second {
			t.Errorf("it waits %v, want 30s", f.RetryAfter)
		}
		w.wants("at home meanwhile", try(home, password), nil)
		time.Sleep(30 * time.Second)
		w.wants("after the pause", try(evil, "a guess of mine"), signin.ErrCredentials)
		wantKind(t, "and once more", try(evil, "a guess of mine"), fault.Throttled)

		// Many places guess at one account.
		refused := 0
		for i := range 300 {
			if err := try(at(fmt.Sprintf("203.0.113.%d", i%100)), "a guess of mine"); fault.Is(err, fault.Throttled) {
				refused++
			}
		}
		if refused < 100 {
			t.Errorf("of 300 guesses of 100 places %d were refused", refused)
		}
		w.wants("at home meanwhile", try(home, password), nil)
		w.wants("the owner at a new place meanwhile", try(at("2001:db8:77::1"), password), nil)
		wantKind(t, "a place that guessed already", try(at("203.0.113.1"), "a guess of mine"), fault.Throttled)
		time.Sleep(2 * time.Hour)
		w.wants("the owner where others guessed, later", try(at("203.0.113.1"), password), nil)

		// An account that is not there behaves alike.
		for i := range 5 {
			_, err := w.Authenticate(ctx, at("198.51.100.9"), "nobody@plant.example", sec("a guess of mine"))
			w.wants(fmt.Sprint("guess at nobody ", i), err, signin.ErrCredentials)
		}
		_, err = w.Authenticate(ctx, at("198.51.100.9"), "nobody@plant.example", sec("a guess of mine"))
		wantKind(t, "the sixth guess at nobody", err, fault.Throttled)
	})
}

func TestRegister(t *testing.T) {
	t.Parallel()
	ctx := t.Context()
	eve := signin.NewUser{Mail: "eve@plant.example", Password: sec(password)}
	for name, c := range map[string]struct {
		policy signin.Registration
		peer   signin.Peer
		want   error
	}{
		"by default nobody":                 {signin.Invited, at("127.0.0.1"), signin.ErrRegistration},
		"an administrator":                  {signin.Invited, admin, nil},
		"on this machine":                   {signin.FromLoopback, at("127.0.0.1"), nil},
		"on this machine, by IPv6":          {signin.FromLoopback, at("::1"), nil},
		"from elsewhere":                    {signin.FromLoopback, home, signin.ErrRegistration},
		"from nowhere":                      {signin.FromLoopback, signin.Peer{}, signin.ErrRegistration},
		"anyone":                            {signin.Anyone, home, nil},
		"elsewhere, mapped":                 {signin.FromLoopback, at("::ffff:192.0.2.1"), signin.ErrRegistration},
		"an administrator, open to anybody": {signin.Anyone, admin, nil},
	} {
		w := newWorld(t, signin.Config{Registration: c.policy})
		u, err := w.Register(ctx, c.peer, eve)
		w.wants(name, err, c.want)
		if err == nil && (u.Mail != eve.Mail || len(u.Subject) != 36) {
			t.Errorf("%s: %v", name, u)
		}
	}
	w := newWorld(t, signin.Config{})
	for name, c := range map[string]signin.NewUser{
		"short":                    {Mail: "eve@x.example", Password: sec("elevenchars")},
		"of few letters":           {Mail: "eve@x.example", Password: sec("aaaaaaaaaaaabb")},
		"the mail address":         {Mail: "somebody@x.example", Password: sec("Somebody@x.example")},
		"too long":                 {Mail: "eve@x.example", Password: sec(strings.Repeat("abcdefgh", 33))},
		"not text":                 {Mail: "eve@x.example", Password: sec("\xff\xfe and some more text")},
		"a mail address of none":   {Mail: "eve", Password: sec(password)},
		"a mail address of others": {Mail: "Eve <eve@x.example>", Password: sec(password)},
	} {
		_, err := w.Register(ctx, admin, c)
		wantKind(t, name, err, fault.Invalid)
	}
	_, err := w.Register(ctx, admin, signin.NewUser{Mail: strings.ToUpper(mail), Password: sec(password)})
	w.wants("a taken mail address", err, signin.ErrMailTaken)
}

func TestInvitation(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w, ctx := newWorld(t, signin.Config{}), t.Context()
		eve := func(inv secret.Secret, mail string) error {
			_, err := w.Register(ctx, home, signin.NewUser{Mail: mail, Password: sec(password), Invitation: inv})
			return err
		}
		inv, err := w.Invite(ctx, admin, signin.Invitation{Mail: "eve@x.example"})
		if err != nil {
			t.Fatal(err)
		}
		w.wants("for another mail address", eve(inv, "mal@x.example"), signin.ErrRegistration)
		w.wants("made up", eve(sec("vi1_made-up"), "eve@x.example"), signin.ErrRegistration)
		w.wants("right", eve(inv, "EVE@x.example"), nil)
		w.wants("twice", eve(inv, "eve@x.example"), signin.ErrRegistration)
		_, err = w.Invite(ctx, admin, signin.Invitation{Mail: mail})
		w.wants("of somebody with an account", err, signin.ErrMailTaken)
		_, err = w.Invite(ctx, admin, signin.Invitation{Mail: "x@x.example", Provider: "none"})
		w.wants("to a provider that is not there", err, signin.ErrNoProvider)
		late, err := w.Invite(ctx, admin, signin.Invitation{Mail: "late@x.example", Life: time.Hour})
		if err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Hour)
		w.wants("expired", eve(late, "late@x.example"), signin.ErrRegistration)
		for _, s := range []secret.Secret{inv, late} {
			if strings.Contains(w.log.String(), string(s.Reveal())) {
				t.Error("an invitation is logged")
			}
		}
	})
}

// What ends all sessions of a user ends them on every server within a second, and what comes back is new.
func TestUser_SessionsEnd(t *testing.T) {
	for name, end := range map[string]func(w *world) error{
		"disabled": func(w *world) error { return w.Disable(w.t.Context(), admin, w.ada.Subject) },
		"revoked":  func(w *world) error { return w.RevokeUser(w.t.Context(), admin, w.ada.Subject) },
		"new password": func(w *world) error {
			return w.ChangePassword(w.t.Context(), home, w.ada, sec(password), sec("another horse battery"))
		},
		"reset password": func(w *world) error {
			return w.ResetPassword(w.t.Context(), admin, w.ada.Subject, sec("another horse battery"))
		},
	} {
		synctest.Test(t, func(t *testing.T) {
			w, ctx := newWorld(t, signin.Config{}), t.Context()
			beside := w.beside(signin.Config{})
			tokens, code := w.tokens(), w.code()
			who, err := w.Authenticate(ctx, home, mail, sec(password))
			if err != nil {
				t.Fatal(err)
			}
			d, err := w.StartDevice(ctx, home, "azsphere")
			if err != nil {
				t.Fatal(err)
			}
			if err := w.DecideDevice(ctx, home, who, d.UserCode, true); err != nil {
				t.Fatal(err)
			}
			w.check(name+": before", beside, tokens, nil)
			if err := end(w); err != nil {
				t.Fatalf("%s: %v", name, err)
			}
			w.check(name+": here, at once", w.Service, tokens, signin.ErrRevoked)
			time.Sleep(time.Second)
			w.check(name+": there, a second later", beside, tokens, signin.ErrRevoked)
			want := signin.ErrRevoked
			if name == "disabled" {
				want = signin.ErrDisabled
			}
			_, err = beside.Refresh(ctx, home, "azsphere", tokens.Refresh)
			w.wants(name+": refresh", err, want)
			_, err = beside.Exchange(ctx, home, "azsphere", redirect, code, sec(verifier))
			w.wants(name+": code from before", err, want)
			_, err = beside.PollDevice(ctx, home, "azsphere", d.DeviceCode)
			w.wants(name+": device from before", err, want)
			_, err = beside.Grant(ctx, home, who, request())
			w.wants(name+": proof from before", err, want)
			if name == "disabled" {
				if err := w.Enable(ctx, admin, w.ada.Subject); err != nil {
					t.Fatal(err)
				}
				if err := w.Enable(ctx, admin, w.ada.Subject); err != nil {
					t.Errorf("enabled twice: %v", err)
				}
				time.Sleep(time.Second)
				w.check("enabled again: a token from before", beside, tokens, signin.ErrRevoked)
				_, err = beside.Refresh(ctx, home, "azsphere", tokens.Refresh)
				w.wants("enabled again: a refresh token from before", err, signin.ErrRevoked)
			}
			if strings.Contains(name, "password") {
				_, err = w.Authenticate(ctx, home, mail, sec(password))
				w.wants("the old password", err, signin.ErrCredentials)
				_, err = w.Authenticate(ctx, home, mail, sec("another horse battery"))
				w.wants("the new password", err, nil)
				return
			}
			w.check(name+": a new session", beside, w.tokens(), nil)
		})
	}
}

func TestChangePassword_Refuses(t *testing.T) {
	t.Parallel()
	w := newWorld(t, signin.Config{})
	tokens := w.tokens()
	w.wants("a wrong old password", w.ChangePassword(t.Context(), home, w.ada, sec("wrong horse battery"), sec("another horse battery")), signin.ErrCredentials)
	wantKind(t, "a bad new password", w.ChangePassword(t.Context(), home, w.ada, sec(password), sec("short")), fault.Invalid)
	wantKind(t, "nobody", w.ChangePassword(t.Context(), home, signin.User{Subject: "x"}, sec(password), sec("another horse battery")), fault.NotFound)
	w.check("after refusals", w.Service, tokens, nil)
}

func TestCheck_Refuses(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w, ctx := newWorld(t, signin.Config{}), t.Context()
		tokens := w.tokens()
		good := string(tokens.Access.Reveal())
		parts := strings.Split(good, ".")
		none := base64.RawURLEncoding.EncodeToString([]byte(`{"alg":"none","typ":"at+jwt"}`))
		foreign := signintest.New(t, signin.Config{Store: w.store, Secret: sec("the secret of another installation, no less")})
		elsewhere := w.beside(signin.Config{Issuer: "https://other.test"})
		for name, bad := range map[string]string{
			"empty": "", "nonsense": "nonsense", "the refresh token": string(tokens.Refresh.Reveal()),
			"no signature": parts[0] + "." + parts[1] + ".", "unsigned": none + "." + parts[1] + ".",
			"another algorithm": none + "." + parts[1] + "." + parts[2],
			"a changed claim":   parts[0] + "." + parts[1][:len(parts[1])-4] + "AAAA." + parts[2],
			"spaces":            good + " ", "huge": good + strings.Repeat("A", 1<<20),
		} {
			u, err := w.Check(ctx, bad)
			w.wants(name, err, signin.ErrToken)
			if u != (signin.User{}) {
				t.Errorf("%s: %v", name, u)
			}
		}
		_, err := foreign.Check(ctx, good)
		w.wants("at another installation", err, signin.ErrToken)
		_, err = elsewhere.Check(ctx, good)
		w.wants("under another name", err, signin.ErrToken)
		time.Sleep(signin.DefaultAccessLife - time.Second)
		w.check("in its last second", w.Service, tokens, nil)
		time.Sleep(time.Second)
		w.check("expired", w.Service, tokens, signin.ErrExpired)
	})
}

// Checks read once a second at most, and let nobody in when they cannot.
func TestCheck_Reads(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, signin.Config{})
		tokens := w.tokens()
		before := w.store.Reads()
		var wg sync.WaitGroup
		for range 50 {
			wg.Go(func() { w.check("one of many", w.Service, tokens, nil) })
		}
		wg.Wait()
		for range 500 {
			w.check("one of many", w.Service, tokens, nil)
			time.Sleep(10 * time.Millisecond)
		}
		if n := w.store.Reads() - before; n < 4 || n > 7 {
			t.Errorf("550 checks in 5 s read %d times, want about 5", n)
		}
		w.store.Fail(errors.New("the database is away"))
		time.Sleep(time.Second)
		_, err := w.Check(t.Context(), string(tokens.Access.Reveal()))
		wantKind(t, "without a store", err, fault.Unavailable)
		w.store.Fail(nil)
		w.check("with the store back", w.Service, tokens, nil)
	})
}

func TestRefresh_Refuses(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w, ctx := newWorld(t, signin.Config{Clients: []signin.Client{signin.AzureSphere, {ID: "other", Loopback: true}}}), t.Context()
		first := w.tokens()
		_, err := w.Refresh(ctx, home, "other", first.Refresh)
		w.wants("by another client", err, signin.ErrGrant)
		_, err = w.Refresh(ctx, home, "none", first.Refresh)
		w.wants("by a client that is not there", err, signin.ErrClient)
		text := string(first.Refresh.Reveal())
		for name, bad := range map[string]string{
			"empty": "", "an access token": string(first.Access.Reveal()), "cut": text[:len(text)-1], "longer": text + "A", "no prefix": text[4:],
			"changed": text[:30] + flip(text[30]) + text[31:],
		} {
			_, err := w.Refresh(ctx, home, "azsphere", sec(bad))
			w.wants(name, err, signin.ErrGrant)
		}
		second, err := w.Refresh(ctx, home, "azsphere", first.Refresh)
		w.wants("what was refused ended nothing", err, nil)
		_, err = w.Refresh(ctx, home, "azsphere", first.Refresh)
		w.wants("used twice", err, signin.ErrGrant)
		w.check("after a second use", w.Service, second, signin.ErrRevoked)
		_, err = w.Refresh(ctx, home, "azsphere", second.Refresh)
		w.wants("the good one after a second use", err, signin.ErrRevoked)
		if !strings.Contains(w.log.String(), `reason="refresh token used twice"`) {
			t.Error("a second use leaves no audit record")
		}

		// Of many at once one succeeds, and that ends the session.
		race := w.tokens()
		errs := make([]error, 10)
		var wg sync.WaitGroup
		for i := range errs {
			wg.Go(func() { _, errs[i] = w.Refresh(ctx, home, "azsphere", race.Refresh) })
		}
		wg.Wait()
		good := 0
		for _, err := range errs {
			if err == nil {
				good++
			}
		}
		if good != 1 {
			t.Errorf("%d of %d uses at once succeeded", good, len(errs))
		}
		w.check("after the race", w.Service, race, signin.ErrRevoked)

		idle := w.tokens()
		time.Sleep(signin.DefaultRefreshLife)
		_, err = w.Refresh(ctx, home, "azsphere", idle.Refresh)
		w.wants("unused for too long", err, signin.ErrRevoked)
		long := w.tokens()
		for range 100 {
			time.Sleep(24 * time.Hour)
			var next signin.Tokens
			if next, err = w.Refresh(ctx, home, "azsphere", long.Refresh); err != nil {
				break
			}
			long = next
		}
		w.wants("past the life of a session", err, signin.ErrRevoked)
		if err := w.store.SweepSignIn(ctx, time.Now()); err != nil {
			t.Fatal(err)
		}
		_, err = w.Refresh(ctx, home, "azsphere", long.Refresh)
		w.wants("swept", err, signin.ErrGrant)
	})
}

func flip(b byte) string {
	if b == 'A' {
		return "B"
	}
	return "A"
}

func TestExchange_Refuses(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w, ctx := newWorld(t, signin.Config{Clients: []signin.Client{signin.AzureSphere, {ID: "other", Loopback: true}}}), t.Context()
		code := w.code()
		swap := func(client, redirect string, code secret.Secret, v string) error {
			_, err := w.Exchange(ctx, home, client, redirect, code, sec(v))
			return err
		}
		w.wants("a wrong verifier", swap("azsphere", redirect, code, verifier+"x"), signin.ErrGrant)
		w.wants("no verifier", swap("azsphere", redirect, code, ""), signin.ErrGrant)
		w.wants("the challenge as verifier", swap("azsphere", redirect, code, request().Challenge), signin.ErrGrant)
		w.wants("another redirect URI", swap("azsphere", redirect+"2", code, verifier), signin.ErrGrant)
		w.wants("another client", swap("other", redirect, code, verifier), signin.ErrGrant)
		w.wants("a client that is not there", swap("none", redirect, code, verifier), signin.ErrClient)
		w.wants("a made-up code", swap("azsphere", redirect, sec("vc1_x"), verifier), signin.ErrGrant)
		_, err := w.PollDevice(ctx, home, "azsphere", code)
		w.wants("as a device code", err, signin.ErrGrant)
		tokens, err := w.Exchange(ctx, home, "azsphere", redirect, code, sec(verifier))
		w.wants("after all that", err, nil)
		w.check("after all that", w.Service, tokens, nil)
		w.wants("replayed without the verifier", swap("azsphere", redirect, code, strings.Repeat("x", 43)), signin.ErrGrant)
		w.check("after a guess", w.Service, tokens, nil)
		w.wants("replayed", swap("azsphere", redirect, code, verifier), signin.ErrGrant)
		w.check("after a replay", w.Service, tokens, signin.ErrRevoked)
		_, err = w.Refresh(ctx, home, "azsphere", tokens.Refresh)
		w.wants("refresh after a replay", err, signin.ErrRevoked)

		late := w.code()
		time.Sleep(time.Minute)
		w.wants("expired", swap("azsphere", redirect, late, verifier), signin.ErrCodeExpired)
	})
}

func TestCheckRequest(t *testing.T) {
	t.Parallel()
	w := newWorld(t, signin.Config{Clients: []signin.Client{
		signin.AzureSphere, {ID: "web", Redirects: []string{"https://web.example/cb?x=1", ""}},
	}})
	for uri, ok := range map[string]bool{
		"http://127.0.0.1:1/": true, "http://127.0.0.1/": true, "http://127.0.0.1": true, "http://[::1]:65535/a/b-c_d.~": true, redirect: true,
		"": false, "http://localhost:1/": false, "https://127.0.0.1:1/": false, "http://127.0.0.1:1/?a=b": false, "http://127.0.0.1:1/#f": false,
		"http://127.0.0.1.evil.example/": false, "http://127.0.0.1@evil.example/": false, "http://127.0.0.1:1@evil.example/": false, "http://127.0.0.12/": false,
		"http://127.0.0.1\\@evil.example": false, "http://127.0.0.1:1/%0d%0aX": false, "http://127.0.0.1:x/": false, "http://127.0.0.1:1:2/": false,
		"http://[::1]x/": false, "HTTP://127.0.0.1/": false, "http://127.0.0.1:1/" + strings.Repeat("a", 300): false, "https://web.example/cb?x=1": false,
	} {
		r := request()
		r.Redirect = uri
		if _, err := w.CheckRequest(r); (err == nil) != ok || err != nil && !errors.Is(err, signin.ErrRedirect) {
			t.Errorf("%q: %v, want it taken: %v", uri, err, ok)
		}
		r.Client = "web"
		if _, err := w.CheckRequest(r); (err == nil) != (uri == "https://web.example/cb?x=1") {
			t.Errorf("%q by web: %v", uri, err)
		}
	}
	for _, bad := range []string{"", "x", strings.Repeat("A", 42), strings.Repeat("A", 44), strings.Repeat("=", 43), verifier} {
		r := request()
		r.Challenge = bad
		_, err := w.CheckRequest(r)
		w.wants("challenge "+bad, err, signin.ErrChallenge)
		_, err = w.Grant(t.Context(), home, signin.Proof{User: w.ada, Epoch: 1}, r)
		w.wants("grant with challenge "+bad, err, signin.ErrChallenge)
	}
	r := request()
	r.Client = "none"
	_, err := w.CheckRequest(r)
	w.wants("a client that is not there", err, signin.ErrClient)
}

func TestDevice(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w, ctx := newWorld(t, signin.Config{Clients: []signin.Client{signin.AzureSphere, {ID: "other"}}}), t.Context()
		who, err := w.Authenticate(ctx, home, mail, sec(password))
		if err != nil {
			t.Fatal(err)
		}
		start := func() signin.DeviceAuthorization {
			t.Helper()
			time.Sleep(time.Minute)
			d, err := w.StartDevice(ctx, at("198.51.100.1"), "azsphere")
			if err != nil || len(d.UserCode) != 9 || d.Interval != 5*time.Second {
				t.Fatalf("%+v, %v", d, err)
			}
			return d
		}
		poll := func(d signin.DeviceAuthorization) error {
			_, err := w.PollDevice(ctx, home, "azsphere", d.DeviceCode)
			return err
		}
		d := start()
		w.wants("at once", poll(d), signin.ErrPending)
		time.Sleep(4 * time.Second)
		w.wants("too early", poll(d), signin.ErrSlowDown)
		time.Sleep(9 * time.Second)
		w.wants("too early for what it became", poll(d), signin.ErrSlowDown)
		time.Sleep(15 * time.Second)
		w.wants("slowly", poll(d), signin.ErrPending)
		_, err = w.PollDevice(ctx, home, "other", d.DeviceCode)
		w.wants("by another client", err, signin.ErrGrant)
		_, err = w.PollDevice(ctx, home, "azsphere", sec("vd1_x"))
		w.wants("a made-up code", err, signin.ErrGrant)
		q, err := w.DeviceRequest(ctx, home, " "+strings.ToLower(strings.ReplaceAll(d.UserCode, "-", ""))+" ")
		if err != nil || q.Client.ID != "azsphere" || q.From != "198.51.100.1" || signin.ShowUserCode(q.UserCode) != d.UserCode {
			t.Fatalf("%+v, %v", q, err)
		}
		w.wants("allowed", w.DecideDevice(ctx, home, who, d.UserCode, true), nil)
		w.wants("decided twice", w.DecideDevice(ctx, home, who, d.UserCode, false), signin.ErrUserCode)
		time.Sleep(15 * time.Second)
		tokens, err := w.PollDevice(ctx, home, "azsphere", d.DeviceCode)
		w.wants("after it was allowed", err, nil)
		w.check("after it was allowed", w.Service, tokens, nil)
		time.Sleep(15 * time.Second)
		w.wants("again", poll(d), signin.ErrGrant)
		w.check("after it was used twice", w.Service, tokens, signin.ErrRevoked)

		no := start()
		w.wants("denied", w.DecideDevice(ctx, home, who, no.UserCode, false), nil)
		w.wants("poll of what was denied", poll(no), signin.ErrDenied)
		late := start()
		time.Sleep(signin.DeviceLife)
		w.wants("expired", poll(late), signin.ErrCodeExpired)
		w.wants("decision about what expired", w.DecideDevice(ctx, home, who, late.UserCode, true), signin.ErrUserCode)
		_, err = w.StartDevice(ctx, home, "none")
		w.wants("a client that is not there", err, signin.ErrClient)

		gone := start()
		if err := w.Disable(ctx, admin, w.ada.Subject); err != nil {
			t.Fatal(err)
		}
		w.wants("allowed by somebody disabled", w.DecideDevice(ctx, home, who, gone.UserCode, true), signin.ErrDisabled)
	})
}

func TestDevice_IsSlowedDown(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w, ctx := newWorld(t, signin.Config{}), t.Context()
		var err error
		n := 0
		for ; err == nil && n < 100; n++ {
			_, err = w.StartDevice(ctx, home, "azsphere")
		}
		wantKind(t, fmt.Sprint("authorization ", n), err, fault.Throttled)
		if n != 21 {
			t.Errorf("%d authorizations at once", n)
		}
		for range 700 { // more than all have together
			_, err = w.StartDevice(ctx, home, "azsphere")
			wantKind(t, "an authorization more", err, fault.Throttled)
		}
		if _, err := w.StartDevice(ctx, at("192.0.2.2"), "azsphere"); err != nil {
			t.Errorf("from elsewhere: %v", err)
		}
		for i := range 10 {
			_, err := w.DeviceRequest(ctx, home, "BBBB-BBBB")
			w.wants(fmt.Sprint("guess ", i), err, signin.ErrUserCode)
		}
		_, err = w.DeviceRequest(ctx, home, "BBBB-BBBB")
		wantKind(t, "one guess more", err, fault.Throttled)
	})
}

// Passwords wait for their turn, and for no longer than their request.
func TestAuthenticate_BoundsHashing(t *testing.T) {
	t.Parallel()
	w := newWorld(t, signin.Config{Hash: signin.Hash{Memory: 64, Passes: 1, Slots: 1}})
	release := signin.HoldSlot(w.Service)
	ctx, cancel := context.WithCancel(t.Context())
	errs := make(chan error)
	for i := range 64 {
		go func() {
			_, err := w.Authenticate(ctx, at(fmt.Sprintf("203.0.113.%d", i)), mail, sec(password))
			errs <- err
		}()
	}
	for signin.Waiting(w.Service) < 64 {
		time.Sleep(time.Millisecond)
	}
	_, err := w.Authenticate(t.Context(), home, mail, sec(password))
	wantKind(t, "one more than may wait", err, fault.Throttled)
	cancel()
	for range 64 {
		wantKind(t, "who left", <-errs, fault.Timeout)
	}
	release()
	_, err = w.Authenticate(t.Context(), home, mail, sec(password))
	w.wants("with a free slot", err, nil)
}

// A hash of another cost is good, and made anew.
func TestAuthenticate_RenewsHashes(t *testing.T) {
	t.Parallel()
	w := newWorld(t, signin.Config{})
	before, err := w.store.Account(t.Context(), w.ada.Subject)
	if err != nil {
		t.Fatal(err)
	}
	dear := w.beside(signin.Config{Hash: signin.Hash{Memory: 128, Passes: 2}})
	for range 2 {
		if _, err := dear.Authenticate(t.Context(), home, mail, sec(password)); err != nil {
			t.Fatal(err)
		}
	}
	after, err := w.store.Account(t.Context(), w.ada.Subject)
	if err != nil || !strings.HasPrefix(before.Password, "$argon2id$v=19$m=64,t=1,p=1$") || !strings.HasPrefix(after.Password, "$argon2id$v=19$m=128,t=2,p=1$") {
		t.Errorf("%s became %s, %v", before.Password, after.Password, err)
	}
	if after.Epoch != before.Epoch {
		t.Error("a new hash of the same password ended sessions")
	}
}

func TestNew_Refuses(t *testing.T) {
	t.Parallel()
	good := signin.Config{Store: signintest.NewStore(), Issuer: "https://x", Secret: secret.Random(32)}
	for name, change := range map[string]func(*signin.Config){
		"no store":              func(c *signin.Config) { c.Store = nil },
		"no issuer":             func(c *signin.Config) { c.Issuer = "" },
		"plain text":            func(c *signin.Config) { c.Issuer = "http://x" },
		"a short secret":        func(c *signin.Config) { c.Secret = secret.Random(31) },
		"a client twice":        func(c *signin.Config) { c.Clients = []signin.Client{signin.AzureSphere, signin.AzureSphere} },
		"lives upside down":     func(c *signin.Config) { c.AccessLife = 1000 * time.Hour },
		"hashes without memory": func(c *signin.Config) { c.Hash.Memory = 1 },
	} {
		cfg := good
		change(&cfg)
		if _, err := signin.New(cfg); err == nil {
			t.Errorf("%s is taken", name)
		}
	}
	if _, err := signin.New(good); err != nil {
		t.Error(err)
	}
}

func BenchmarkCheck(b *testing.B) {
	w := newWorld(b, signin.Config{})
	text := string(w.tokens().Access.Reveal())
	b.ReportAllocs()
	for b.Loop() {
		if _, err := w.Check(b.Context(), text); err != nil {
			b.Fatal(err)
		}
	}
}
