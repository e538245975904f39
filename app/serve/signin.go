package serve

import (
	"bytes"
	"fmt"
	"os"

	"github.com/vauban-iot/vauban/access/signin"
	"github.com/vauban-iot/vauban/access/signin/openid"
	"github.com/vauban-iot/vauban/app/node"
	"github.com/vauban-iot/vauban/config"
	"github.com/vauban-iot/vauban/internal/secret"
)

// registrations are the words of signin.registration.
var registrations = map[string]signin.Registration{"invited": signin.Invited, "loopback": signin.FromLoopback, "anyone": signin.Anyone}

// signIn reads the secrets of the providers that the file names.
func signIn(c config.SignIn) (node.SignIn, error) {
	s := node.SignIn{Registration: registrations[c.Registration], AccessLife: c.AccessToken, RefreshLife: c.RefreshToken, SessionLife: c.Session}
	for _, p := range c.Providers {
		o := openid.Config{
			Name: p.Name, Title: p.Title, Issuer: p.Issuer, Client: p.Client,
			Policy: signin.ProviderPolicy{Open: p.Accept == "anyone", Domains: p.DomainList()},
		}
		if p.SecretFile != "" {
			text, err := os.ReadFile(p.SecretFile)
			if err != nil {
				return s, fmt.Errorf("signin.provider.%s.secret_file cannot be read: %w", p.Name, err)
			}
			o.Secret = secret.New(bytes.TrimSpace(text))
		}
		s.Providers = append(s.Providers, o)
	}
	return s, nil
}
