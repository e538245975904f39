package openid

import (
	"bytes"
	"context"
	"crypto/tls"
	"encoding/json"
	"log/slog"
	"net/http"
	"net/url"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/vauban-iot/vauban/access/signin"
	"github.com/vauban-iot/vauban/access/signin/openid/openidtest"
	"github.com/vauban-iot/vauban/access/signin/signintest"
	"github.com/vauban-iot/vauban/fault"
	"github.com/vauban-iot/vauban/internal/secret"
)

const (
	callback = "https://vauban.test/signin/provider/corp/callback"
)

func TestMain(m *testing.M) {
	slog.SetDefault(slog.New(slog.DiscardHandler)) // the provider logs every request
	os.Exit(m.Run())
}

func provider(t *testing.T, p *openidtest.IDP, change func(*Config)) *Provider {
	t.Helper()
	cfg := Config{Name: "corp", Title: "Plant", Issuer: p.URL, Client: openidtest.ClientID, Secret: secret.New([]byte(openidtest.ClientSecret)), HTTP: p.Client()}
	if change != nil {
		change(&cfg)
	}
	v, err := New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	return v
}

func travel(t *testing.T, p *openidtest.IDP, v *Provider, user string) (signin.Trip, secret.Secret) {
	t.Helper()
	trip, err := v.Begin(t.Context(), callback)
	if err != nil {
		t.Fatal(err)
	}
	q := p.Visit(t, trip.URL, user).Query()
	if q.Get("state") != trip.State || q.Get("code") == "" {
		t.Fatalf("the provider sends back %v", q)
	}
	return trip, secret.New([]byte(q.Get("code")))
}

func TestProvider(t *testing.T) {
	t.Parallel()
	p := openidtest.Start(t, callback)
	v := provider(t, p, nil)
	trip, code := travel(t, p, v, "ada")
	u, err := url.Parse(trip.URL)
	if err != nil {
		t.Fatal(err)
	}
	q := u.Query()
	if q.Get("code_challenge_method") != "S256" || q.Get("nonce") != trip.Nonce || q.Get("redirect_uri") != callback || strings.Contains(trip.URL, trip.Verifier) {
		t.Errorf("the browser is sent to %s", trip.URL)
	}
	who, err := v.Finish(t.Context(), trip, code)
	want := signin.Person{Identity: signin.Identity{Issuer: p.URL, Subject: "id-ada"}, Mail: "Ada@plant.example", Verified: true}
	if err != nil || who != want {
		t.Errorf("%+v, %v; want %+v", who, err, want)
	}
	if _, err := v.Finish(t.Context(), trip, code); !fault.Is(err, fault.Unauthorized) {
		t.Errorf("the same code again: %v", err)
	}
	trip, code = travel(t, p, v, "eve")
	if who, err := v.Finish(t.Context(), trip, code); err != nil || who.Verified || who.Subject != "id-eve" {
		t.Errorf("somebody whose mail address is not verified: %+v, %v", who, err)
	}
}

func TestProvider_Refuses(t *testing.T) {
	t.Parallel()
	p := openidtest.Start(t, callback)
	for name, c := range map[string]struct {
		config func(*Config)
		trip   func(*signin.Trip)
		code   string
		mangle func(path string, body []byte) []byte
		kind   fault.Kind
	}{
		"another nonce":    {trip: func(t *signin.Trip) { t.Nonce = "other" }, kind: fault.Unauthorized},
		"no nonce":         {trip: func(t *signin.Trip) { t.Nonce = "" }, kind: fault.Unauthorized},
		"another verifier": {trip: func(t *signin.Trip) { t.Verifier = strings.Repeat("v", 43) }, kind: fault.Unauthorized},
		"another redirect": {trip: func(t *signin.Trip) { t.Redirect += "2" }, kind: fault.Unauthorized},
		"a made-up code":   {code: "nonsense", kind: fault.Unauthorized},
		"a wrong secret":   {config: func(c *Config) { c.Secret = secret.New([]byte("wrong")) }, kind: fault.Unauthorized},
		"an ID token of yesterday": {config: func(c *Config) {
			c.Now = func() time.Time { return time.Now().Add(48 * time.Hour) }
		}, kind: fault.Unauthorized},
		"a changed ID token": {mangle: inJSON("/oauth/token", func(m map[string]any) {
			id := m["id_token"].(string)
			m["id_token"] = id[:len(id)-8] + "AAAAAAAA"
		}), kind: fault.Unauthorized},
		"no ID token":          {mangle: inJSON("/oauth/token", func(m map[string]any) { delete(m, "id_token") }), kind: fault.Unauthorized},
		"another access token": {mangle: inJSON("/oauth/token", func(m map[string]any) { m["access_token"] = "x" }), kind: fault.Unauthorized},
		"info about others":    {mangle: inJSON("/userinfo", func(m map[string]any) { m["sub"] = "id-mal" }), kind: fault.Unauthorized},
		"no JSON":              {mangle: func(string, []byte) []byte { return []byte("<html>") }, kind: fault.Unavailable},
		"endless":              {mangle: func(string, []byte) []byte { return bytes.Repeat([]byte(" "), 2<<20) }, kind: fault.Unavailable},
	} {
		log := new(bytes.Buffer)
		v := provider(t, p, func(cfg *Config) {
			cfg.Logger = slog.New(slog.NewTextHandler(log, nil))
			if c.config != nil {
				c.config(cfg)
			}
		})
		trip, code := travel(t, p, v, "ada")
		if c.trip != nil {
			c.trip(&trip)
		}
		if c.code != "" {
			code = secret.New([]byte(c.code))
		}
		if c.mangle != nil {
			p.Mangle.Store(&c.mangle)
		}
		who, err := v.Finish(t.Context(), trip, code)
		p.Mangle.Store(nil)
		if !fault.Is(err, c.kind) || who != (signin.Person{}) {
			t.Errorf("%s: %+v, %v; want kind %v", name, who, err, c.kind)
		}
		for _, s := range []string{openidtest.ClientSecret, string(code.Reveal()), trip.Verifier} {
			if strings.Contains(log.String(), s) || err != nil && strings.Contains(err.Error(), s) {
				t.Errorf("%s: a secret is told: %v %s", name, err, log)
			}
		}
	}
	// The example's provider logs in whoever has the password; a token for another client must not do.
	other := provider(t, p, func(c *Config) { c.Client, c.Secret = "other", secret.New([]byte("x")) })
	trip, code := travel(t, p, other, "ada")
	if _, err := provider(t, p, nil).Finish(t.Context(), trip, code); !fault.Is(err, fault.Unauthorized) {
		t.Errorf("a code of another client: %v", err)
	}
}

// inJSON changes the answers at a path.
func inJSON(at string, change func(map[string]any)) func(string, []byte) []byte {
	return func(path string, body []byte) []byte {
		var m map[string]any
		if path != at || json.Unmarshal(body, &m) != nil {
			return body
		}
		change(m)
		b, _ := json.Marshal(m)
		return b
	}
}

// A provider that is away is said to be, is not asked by everybody meanwhile, and is found when it is back.
func TestProvider_Away(t *testing.T) {
	t.Parallel()
	p := openidtest.Start(t, callback)
	now := time.Now()
	v := provider(t, p, func(c *Config) { c.Now = func() time.Time { return now } })
	p.Broken.Store(true)
	_, err := v.Begin(t.Context(), callback)
	if !fault.Is(err, fault.Unavailable) || !strings.Contains(fault.Public(err), "Plant does not answer") {
		t.Errorf("away: %v", err)
	}
	p.Broken.Store(false)
	if _, err := v.Begin(t.Context(), callback); !fault.Is(err, fault.Unavailable) {
		t.Errorf("a moment later it is asked again: %v", err)
	}
	now = now.Add(again)
	trip, code := travel(t, p, v, "ada")
	p.Broken.Store(true)
	if _, err := v.Finish(t.Context(), trip, code); !fault.Is(err, fault.Unavailable) {
		t.Errorf("away on the way back: %v", err)
	}
	closed := provider(t, p, func(c *Config) { c.Issuer = "https://127.0.0.1:1" })
	if _, err := closed.Begin(t.Context(), callback); !fault.Is(err, fault.Unavailable) {
		t.Errorf("nobody there: %v", err)
	}
	p.Broken.Store(false)
	wrong := provider(t, p, func(c *Config) { c.Issuer = p.URL + "/" })
	if _, err := wrong.Begin(t.Context(), callback); !fault.Is(err, fault.Unavailable) {
		t.Errorf("another issuer than it says: %v", err)
	}
	distrusted := provider(t, p, func(c *Config) {
		c.HTTP = &http.Client{Transport: &http.Transport{TLSClientConfig: &tls.Config{}}}
	})
	if _, err := distrusted.Begin(t.Context(), callback); !fault.Is(err, fault.Unavailable) {
		t.Errorf("a certificate nobody trusts: %v", err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	later := provider(t, p, nil)
	if _, err := later.Begin(ctx, callback); err != nil {
		t.Errorf("a peer that left kept the provider from being found: %v", err)
	}
}

// People of the provider get accounts as the policy says, and by who they are there, never by their mail address alone.
func TestSignIn_ByProvider(t *testing.T) {
	t.Parallel()
	p := openidtest.Start(t, callback)
	ctx, admin, home := t.Context(), signin.Peer{Administrator: true}, signin.Peer{}
	world := func(policy signin.ProviderPolicy) (*signin.Service, func(user string) (signin.Proof, error)) {
		v := provider(t, p, func(c *Config) { c.Policy = policy })
		s := signintest.New(t, signin.Config{Providers: []signin.Provider{v}})
		return s, func(user string) (signin.Proof, error) {
			t.Helper()
			trip, err := s.Begin(ctx, "corp", callback)
			if err != nil {
				t.Fatal(err)
			}
			q := p.Visit(t, trip.URL, user).Query()
			return s.Finish(ctx, home, "corp", trip, secret.New([]byte(q.Get("code"))))
		}
	}
	wants := func(what string, err, want error) {
		t.Helper()
		if err != want {
			t.Errorf("%s: %v, want %v", what, err, want)
		}
	}

	s, come := world(signin.ProviderPolicy{})
	_, err := come("ada")
	wants("without an invitation", err, signin.ErrRegistration)
	if _, err := s.Invite(ctx, admin, signin.Invitation{Mail: "ada@PLANT.example", Provider: "corp"}); err != nil {
		t.Fatal(err)
	}
	_, err = come("mal")
	wants("with somebody else's invitation", err, signin.ErrRegistration)
	first, err := come("ada")
	wants("invited", err, nil)
	again, err := come("ada")
	wants("the second time", err, nil)
	if first != again || first.Mail != "Ada@plant.example" {
		t.Errorf("%v came back as %v", first, again)
	}
	if err := s.Disable(ctx, admin, first.Subject); err != nil {
		t.Fatal(err)
	}
	_, err = come("ada")
	wants("disabled", err, signin.ErrDisabled)
	if _, err := s.Authenticate(ctx, home, "ada@plant.example", secret.Secret{}); err != signin.ErrCredentials {
		t.Errorf("by an empty password: %v", err)
	}

	s, come = world(signin.ProviderPolicy{Open: true, Domains: []string{"plant.example"}})
	_, err = come("mal")
	wants("of another domain", err, signin.ErrRegistration)
	_, err = come("eve")
	wants("with a mail address that is not verified", err, signin.ErrNotVerified)
	// A local account with the mail address belongs to who has its password.
	if _, err := s.Register(ctx, admin, signin.NewUser{Mail: "ada@plant.example", Password: secret.New([]byte("correct horse battery"))}); err != nil {
		t.Fatal(err)
	}
	_, err = come("ada")
	wants("with the mail address of a local account", err, signin.ErrMailTaken)

	_, come = world(signin.ProviderPolicy{Open: true})
	first, err = come("ada")
	wants("anyone", err, nil)
	p.People["id-ada"].Email, p.People["id-mal"].Email = "mal@elsewhere.example", "Ada@plant.example"
	again, err = come("ada")
	wants("with a new mail address", err, nil)
	if again != first {
		t.Errorf("%v came back as %v", first, again)
	}
	_, err = come("mal")
	wants("with the mail address that was somebody's", err, signin.ErrMailTaken)
	if _, err := signintest.New(t, signin.Config{}).Begin(ctx, "corp", callback); err != signin.ErrNoProvider {
		t.Errorf("a provider that is not there: %v", err)
	}
}

func TestNew_Refuses(t *testing.T) {
	t.Parallel()
	good := Config{Name: "corp", Issuer: "https://id.example", Client: "c"}
	for name, change := range map[string]func(*Config){
		"no name": func(c *Config) { c.Name = "" }, "a name with a slash": func(c *Config) { c.Name = "a/b" }, "capitals": func(c *Config) { c.Name = "Corp" },
		"no client": func(c *Config) { c.Client = "" }, "no issuer": func(c *Config) { c.Issuer = "" },
		"plain text": func(c *Config) { c.Issuer = "http://id.example" }, "a query": func(c *Config) { c.Issuer = "https://id.example?x" },
	} {
		cfg := good
		change(&cfg)
		if _, err := New(cfg); err == nil {
			t.Errorf("%s is taken", name)
		}
	}
	if p, err := New(good); err != nil || p.Title() != "corp" {
		t.Errorf("%v, %v", p, err)
	}
}

func FuzzClaims(f *testing.F) {
	f.Add([]byte(`{"email":"a@b","email_verified":true}`))
	f.Add([]byte(`{"email":"a@b","email_verified":"true"}`))
	f.Add([]byte(`{"email":1,"email_verified":[]}`))
	f.Fuzz(func(t *testing.T, b []byte) {
		var p person
		if json.Unmarshal(b, &p) == nil && bool(p.Verified) && !bytes.Contains(bytes.ToLower(b), []byte("true")) && !bytes.ContainsRune(b, '\\') {
			t.Errorf("%s is verified", b)
		}
	})
}
