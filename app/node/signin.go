package node

import (
	"context"
	"crypto/subtle"
	"strings"
	"time"

	"github.com/vauban-iot/vauban/access/signin"
	"github.com/vauban-iot/vauban/access/signin/openid"
	signinhead "github.com/vauban-iot/vauban/head/signin"
	"github.com/vauban-iot/vauban/internal/secret"
)

// SignIn says how people of the Security Service prove who they are. The zero value is for those who were invited, with passwords.
type SignIn struct {
	Registration signin.Registration
	Providers    []openid.Config
	// Lives of what is given out; zero is what package signin says.
	AccessLife  time.Duration
	RefreshLife time.Duration
	SessionLife time.Duration
}

// newSignIn makes sign-in and its head.
func (n *Node) newSignIn(ctx context.Context) (err error) {
	key, err := n.State.InitSetting(ctx, "signin/tokens", secret.Random(keySize).Reveal())
	if err != nil {
		return err
	}
	cfg := signin.Config{
		Store: n.State, Secret: secret.New(key), Issuer: strings.TrimSuffix(n.baseURL(), "/"), Registration: n.cfg.SignIn.Registration,
		AccessLife: n.cfg.SignIn.AccessLife, RefreshLife: n.cfg.SignIn.RefreshLife, SessionLife: n.cfg.SignIn.SessionLife, Logger: n.log,
	}
	for _, c := range n.cfg.SignIn.Providers {
		c.Logger = n.log
		p, err := openid.New(c)
		if err != nil {
			return err
		}
		cfg.Providers = append(cfg.Providers, p)
	}
	if n.people, err = signin.New(cfg); err != nil {
		return err
	}
	n.signin, err = signinhead.New(signinhead.Config{Service: n.people, Administrator: n.isAdministrator, Hostname: n.cfg.Hostname, Logger: n.log})
	return err
}

// isAdministrator reports whether a bearer token is that of the operator's API.
func (n *Node) isAdministrator(token string) bool {
	return subtle.ConstantTimeCompare([]byte(token), n.settings.token.Reveal()) == 1
}
