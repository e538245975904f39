// Package openid is an OpenID provider at which people prove themselves (OpenID Connect Core 1.0, authorization code
// flow with PKCE). It is found by its issuer's address when it is first needed, and looked for
// again when it did not answer.
package openid

import (
	"context"
	"crypto/subtle"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"net/url"
	"regexp"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/coreos/go-oidc/v3/oidc"
	"golang.org/x/oauth2"

	"github.com/vauban-iot/vauban/access/signin"
	"github.com/vauban-iot/vauban/fault"
	"github.com/vauban-iot/vauban/internal/secret"
)

// Config names a provider. The installation is registered there with the redirect address
// https://HOST/signin/provider/NAME/callback.
type Config struct {
	Name   string // in addresses: lower-case letters, digits and -. Required
	Title  string // for people; empty: Name
	Issuer string // its address, https. Required
	Client string // the installation's client id there. Required
	Secret secret.Secret
	Policy signin.ProviderPolicy

	// HTTP asks the provider; nil: one that waits for 10 seconds and takes the system's CAs.
	HTTP   *http.Client
	Now    func() time.Time // nil: time.Now
	Logger *slog.Logger     // nil: slog.Default()
}

// Provider implements [signin.Provider]. It is safe for concurrent use.
type Provider struct {
	cfg  Config
	http *http.Client

	mu     sync.Mutex // protects what follows
	found  *oidc.Provider
	failed error
	tried  time.Time
}

var _ signin.Provider = (*Provider)(nil)

// GoodName is what a provider may be called.
var GoodName = regexp.MustCompile(`^[a-z0-9]([a-z0-9-]{0,30}[a-z0-9])?$`)

const (
	timeout = 10 * time.Second
	// again is how long a failed search is believed: people must not wait for it one after the other.
	again     = 5 * time.Second
	maxAnswer = 1 << 20
)

// New returns a provider. It asks nothing yet.
func New(cfg Config) (*Provider, error) {
	u, err := url.Parse(cfg.Issuer)
	switch {
	case !GoodName.MatchString(cfg.Name):
		return nil, fmt.Errorf("openid: %q is no name of a provider (want lower-case letters, digits and -)", cfg.Name)
	case cfg.Client == "":
		return nil, fmt.Errorf("openid: provider %s: the client id is required", cfg.Name)
	case err != nil || u.Scheme != "https" || u.Host == "" || u.RawQuery != "" || u.Fragment != "" || u.User != nil:
		return nil, fmt.Errorf("openid: provider %s: the issuer must be an https address", cfg.Name)
	}
	if cfg.Title == "" {
		cfg.Title = cfg.Name
	}
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	if cfg.Logger == nil {
		cfg.Logger = slog.Default()
	}
	p := &Provider{cfg: cfg, http: cfg.HTTP}
	if p.http == nil {
		p.http = &http.Client{Timeout: timeout}
	}
	bounded := *p.http // theirs is not changed
	bounded.Transport = limited{p.http.Transport}
	p.http = &bounded
	return p, nil
}

// limited cuts answers that no provider gives.
type limited struct{ next http.RoundTripper }

func (l limited) RoundTrip(r *http.Request) (*http.Response, error) {
	next := l.next
	if next == nil {
		next = http.DefaultTransport
	}
	res, err := next.RoundTrip(r)
	if err == nil {
		res.Body = http.MaxBytesReader(nil, res.Body, maxAnswer)
	}
	return res, err
}

// Name implements [signin.Provider].
func (p *Provider) Name() string { return p.cfg.Name }

// Title implements [signin.Provider].
func (p *Provider) Title() string { return p.cfg.Title }

// Policy implements [signin.Provider].
func (p *Provider) Policy() signin.ProviderPolicy { return p.cfg.Policy }

// find returns the provider, or fault.Unavailable.
func (p *Provider) find(ctx context.Context) (*oidc.Provider, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.found != nil {
		return p.found, nil
	}
	if p.failed != nil && p.cfg.Now().Sub(p.tried) < again {
		return nil, p.failed
	}
	// Who leaves must not fail the others that wait. The provider keeps the context for its keys, so
	// it must not end.
	ctx = oidc.ClientContext(context.WithoutCancel(ctx), p.http)
	found, err := oidc.NewProvider(ctx, p.cfg.Issuer)
	if err != nil {
		p.failed, p.tried = p.away(bare(err)), p.cfg.Now()
		return nil, p.failed
	}
	p.found, p.failed = found, nil
	return found, nil
}

func (p *Provider) away(err error) error {
	return fault.Wrap(fault.Unavailable, err, "the sign-in provider %s does not answer as it should; try again later, or sign in another way", p.cfg.Title)
}

func (p *Provider) refused(err error) error {
	return fault.Wrap(fault.Unauthorized, err, "the sign-in provider %s did not confirm who you are; try again", p.cfg.Title)
}

func (p *Provider) oauth(found *oidc.Provider, redirect string) *oauth2.Config {
	endpoint := found.Endpoint()
	endpoint.AuthStyle = p.style(found)
	return &oauth2.Config{
		ClientID: p.cfg.Client, ClientSecret: string(p.cfg.Secret.Reveal()), Endpoint: endpoint, RedirectURL: redirect,
		Scopes: []string{oidc.ScopeOpenID, "email"},
	}
}

// style is how the installation proves itself there. Left to find that out, oauth2 would try a code twice, and
// the second time it is used.
func (p *Provider) style(found *oidc.Provider) oauth2.AuthStyle {
	var says struct {
		Methods []string `json:"token_endpoint_auth_methods_supported"`
	}
	err := found.Claims(&says)
	switch {
	case p.cfg.Secret.IsZero(): // a public client has a name only
		return oauth2.AuthStyleInParams
	case err != nil, len(says.Methods) == 0, slices.Contains(says.Methods, "client_secret_basic"): // the default of OpenID Connect Discovery §3
		return oauth2.AuthStyleInHeader
	}
	return oauth2.AuthStyleInParams
}

// Begin implements [signin.Provider].
func (p *Provider) Begin(ctx context.Context, redirect string) (signin.Trip, error) {
	found, err := p.find(ctx)
	if err != nil {
		return signin.Trip{}, err
	}
	t := signin.Trip{
		Redirect: redirect, State: secret.Random(16).Base64(), Nonce: secret.Random(16).Base64(), Verifier: oauth2.GenerateVerifier(),
	}
	t.URL = p.oauth(found, redirect).AuthCodeURL(t.State, oidc.Nonce(t.Nonce), oauth2.S256ChallengeOption(t.Verifier))
	return t, nil
}

// Finish implements [signin.Provider].
func (p *Provider) Finish(ctx context.Context, t signin.Trip, code secret.Secret) (signin.Person, error) {
	found, err := p.find(ctx)
	if err != nil {
		return signin.Person{}, err
	}
	ctx = oidc.ClientContext(ctx, p.http)
	cfg := p.oauth(found, t.Redirect)
	tokens, err := cfg.Exchange(ctx, string(code.Reveal()), oauth2.VerifierOption(t.Verifier))
	if err != nil {
		return signin.Person{}, p.failedExchange(err)
	}
	raw, ok := tokens.Extra("id_token").(string)
	if !ok {
		return signin.Person{}, p.refused(errors.New("openid: there is no ID token"))
	}
	id, err := found.Verifier(&oidc.Config{ClientID: p.cfg.Client, Now: p.cfg.Now}).Verify(ctx, raw)
	if err != nil {
		return signin.Person{}, p.refused(err)
	}
	if subtle.ConstantTimeCompare([]byte(id.Nonce), []byte(t.Nonce)) != 1 || t.Nonce == "" {
		return signin.Person{}, p.refused(errors.New("openid: the nonce of the ID token is another"))
	}
	// An ID token for several parties says which of them asked (Core §3.1.3.7, 4 and 5).
	var said struct {
		Party string `json:"azp"`
		person
	}
	if err := id.Claims(&said); err != nil {
		return signin.Person{}, p.refused(err)
	}
	if said.Party != "" && said.Party != p.cfg.Client || len(id.Audience) > 1 && said.Party == "" || !slices.Contains(id.Audience, p.cfg.Client) {
		return signin.Person{}, p.refused(errors.New("openid: the ID token is another client's"))
	}
	if id.AccessTokenHash != "" {
		if err := id.VerifyAccessToken(tokens.AccessToken); err != nil {
			return signin.Person{}, p.refused(err)
		}
	}
	who := said.person
	if who.Mail == "" && found.UserInfoEndpoint() != "" { // providers may tell it there only (Core §5.4)
		info, err := found.UserInfo(ctx, oauth2.StaticTokenSource(tokens))
		if err != nil {
			return signin.Person{}, p.away(bare(err))
		}
		if info.Subject != id.Subject { // Core §5.3.2
			return signin.Person{}, p.refused(errors.New("openid: the user info is about somebody else"))
		}
		if err := info.Claims(&who); err != nil {
			return signin.Person{}, p.refused(err)
		}
	}
	return signin.Person{
		Identity: signin.Identity{Issuer: id.Issuer, Subject: id.Subject}, Mail: who.Mail, Verified: bool(who.Verified),
	}, nil
}

// person is what a provider tells of somebody.
type person struct {
	Mail     string `json:"email"`
	Verified truth  `json:"email_verified"`
}

// truth is a boolean that some providers write as a text (Amazon Cognito's user info does).
type truth bool

// UnmarshalJSON implements json.Unmarshaler. What is neither true nor "true" is false.
func (t *truth) UnmarshalJSON(b []byte) error {
	var v any
	if err := json.Unmarshal(b, &v); err != nil {
		return err
	}
	*t = v == true || v == "true"
	return nil
}

// failedExchange tells a provider that refused the code from one that is away.
func (p *Provider) failedExchange(err error) error {
	if e, ok := errors.AsType[*oauth2.RetrieveError](err); ok {
		if e.Response != nil && e.Response.StatusCode >= 500 {
			return p.away(bare(err))
		}
		if e.ErrorCode == "invalid_client" || e.ErrorCode == "unauthorized_client" {
			p.cfg.Logger.Error("provider refuses this installation: check client id and secret", "provider", p.cfg.Name, "code", e.ErrorCode)
		}
		return p.refused(bare(err))
	}
	return p.away(bare(err))
}

// bare leaves out what a provider wrote around its refusal: it may hold what was sent.
func bare(err error) error {
	if e, ok := errors.AsType[*oauth2.RetrieveError](err); ok {
		code := e.ErrorCode
		if len(code) > 64 {
			code = code[:64]
		}
		status := 0
		if e.Response != nil {
			status = e.Response.StatusCode
		}
		return fmt.Errorf("openid: the token endpoint answered %d %q", status, code)
	}
	if text := err.Error(); len(text) > 300 { // go-oidc's hold whole answers
		return fmt.Errorf("openid: %s...", strings.ToValidUTF8(text[:300], ""))
	}
	return err
}
