package signin

import (
	"context"
	"crypto/sha256"
	"errors"
	"log/slog"
	"slices"
	"strings"

	"github.com/vauban-iot/vauban/fault"
	"github.com/vauban-iot/vauban/internal/secret"
)

// Provider is an OpenID provider at which people prove themselves. Its errors are fault.Unavailable when it does not
// answer, and Unauthorized when what came back from it proves nobody.
type Provider interface {
	Name() string  // in addresses: letters, digits and -
	Title() string // for people
	Policy() ProviderPolicy
	// Begin returns where to send the browser, which comes back to redirect.
	Begin(ctx context.Context, redirect string) (Trip, error)
	// Finish judges what a browser brought back from that trip.
	Finish(ctx context.Context, t Trip, code secret.Secret) (Person, error)
}

// ProviderPolicy says whom of a provider's people this installation takes.
type ProviderPolicy struct {
	// Open takes everybody whom the provider vouches for; otherwise those who are invited.
	Open bool
	// Domains of mail addresses that are taken, in lower case; nil: all.
	Domains []string
}

// Trip is a browser's way to a provider and back. It is as secret as a session: the head keeps it sealed.
type Trip struct {
	URL      string // to go to
	Redirect string // to come back to
	State    string
	Nonce    string
	Verifier string // PKCE
}

// Person is who a provider says somebody is.
type Person struct {
	Identity
	Mail     string
	Verified bool // the provider knows that the mail address is the person's
}

// Providers lists the providers in the order of the configuration.
func (s *Service) Providers() []Provider { return slices.Clone(s.cfg.Providers) }

// Begin sends somebody to a provider. It fails with ErrNoProvider and what the provider fails with.
func (s *Service) Begin(ctx context.Context, provider, redirect string) (Trip, error) {
	p, ok := s.providers[provider]
	if !ok {
		return Trip{}, ErrNoProvider
	}
	t, err := p.Begin(ctx, redirect)
	if err != nil {
		s.log.Warn("provider failed", "provider", provider, "err", err)
	}
	return t, err
}

// Finish is somebody who comes back from a provider. Whoever comes for the first time gets an account, when the provider's policy
// lets him or an invitation names the provider and the mail address. An account with the same mail address is not his:
// ErrMailTaken. Other failures: ErrNotVerified, ErrRegistration, ErrDisabled, and what the provider fails with.
func (s *Service) Finish(ctx context.Context, peer Peer, provider string, t Trip, code secret.Secret) (Proof, error) {
	p, ok := s.providers[provider]
	if !ok {
		return Proof{}, ErrNoProvider
	}
	user, err := s.finish(ctx, peer, p, t, code)
	if err != nil {
		s.audit(ctx, slog.LevelWarn, peer, "sign-in refused", "provider", provider, "reason", fault.Public(err))
		return Proof{}, err
	}
	s.audit(ctx, slog.LevelInfo, peer, "signed in", "provider", provider, "user", user.Subject, "mail", user.Mail)
	return user, nil
}

func (s *Service) finish(ctx context.Context, peer Peer, p Provider, t Trip, code secret.Secret) (Proof, error) {
	who, err := p.Finish(ctx, t, code)
	if err != nil {
		return Proof{}, err
	}
	if who.Issuer == "" || who.Subject == "" {
		return Proof{}, errors.New("signin: a provider vouched for nobody")
	}
	a, err := s.cfg.Store.AccountByIdentity(ctx, who.Identity)
	switch {
	case err == nil:
		if a.Disabled {
			return Proof{}, ErrDisabled
		}
		// The mail address stays what it was: roles were given to this account, and its new one may have been somebody's.
		return a.proof(), nil
	case !fault.Is(err, fault.NotFound):
		return Proof{}, err
	}
	if !who.Verified {
		return Proof{}, ErrNotVerified
	}
	mail, err := ParseMail(who.Mail)
	if err != nil {
		return Proof{}, err
	}
	if ds := p.Policy().Domains; ds != nil && !slices.Contains(ds, Fold(mail[strings.LastIndexByte(mail, '@')+1:])) {
		return Proof{}, ErrRegistration
	}
	var invitation *Key
	if !p.Policy().Open {
		k := invitedTo(p.Name(), mail)
		invitation = &k
	}
	return s.create(ctx, peer, Account{User: User{Mail: mail}}, p.Name(), &who.Identity, invitation)
}

// invitedTo finds the invitation of a mail address to a provider.
func invitedTo(provider, mail string) Key {
	return sha256.Sum256([]byte("invitation to\x00" + provider + "\x00" + Fold(mail)))
}
