package node

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"encoding/json"
	"fmt"

	"github.com/vauban-iot/vauban/access"
	"github.com/vauban-iot/vauban/internal/secret"
	"github.com/vauban-iot/vauban/storage/sqlstore"
)

// settings are made once, at the first start, and differ between installations.
type settings struct {
	idScope      string
	hub          []access.Policy
	provisioning []access.Policy
	password     secret.Secret // of the console's administrator
	token        secret.Secret // of the operator's API
}

// savedPolicy is a policy as the store keeps it, sealed like every setting.
type savedPolicy struct {
	Name      string `json:"name"`
	Rights    uint16 `json:"rights"`
	Primary   []byte `json:"primary"`
	Secondary []byte `json:"secondary"`
}

func loadSettings(ctx context.Context, store *sqlstore.Store) (settings, error) {
	var s settings
	scope, err := store.InitSetting(ctx, "dps/id-scope", newScope())
	if err != nil {
		return s, err
	}
	s.idScope = string(scope)
	if s.hub, err = loadPolicies(ctx, store, "hub/policies", access.HubPolicies()); err != nil {
		return s, err
	}
	if s.provisioning, err = loadPolicies(ctx, store, "dps/policies", access.ProvisioningPolicies()); err != nil {
		return s, err
	}
	if s.password, err = loadSecret(ctx, store, "console/password"); err != nil {
		return s, err
	}
	s.token, err = loadSecret(ctx, store, "api/token")
	return s, err
}

// newScope looks like Azure's: 0ne and hexadecimal digits (dps §1.2).
func newScope() []byte {
	var b [4]byte
	rand.Read(b[:])
	return []byte("0ne" + hex.EncodeToString(b[:]))
}

func loadPolicies(ctx context.Context, store *sqlstore.Store, name string, fresh []access.Policy) ([]access.Policy, error) {
	var saved []savedPolicy
	for _, p := range fresh {
		saved = append(saved, savedPolicy{p.Name, uint16(p.Rights), p.Primary.Reveal(), p.Secondary.Reveal()})
	}
	data, err := json.Marshal(saved)
	if err != nil {
		return nil, err
	}
	if data, err = store.InitSetting(ctx, name, data); err != nil {
		return nil, err
	}
	saved = nil
	if err := json.Unmarshal(data, &saved); err != nil {
		return nil, fmt.Errorf("setting %s is damaged: %w", name, err)
	}
	var ps []access.Policy
	for _, p := range saved {
		ps = append(ps, access.Policy{
			Name: p.Name, Rights: access.Right(p.Rights), Primary: secret.New(p.Primary), Secondary: secret.New(p.Secondary),
		})
	}
	if len(ps) == 0 {
		return nil, fmt.Errorf("setting %s is damaged: no policy", name)
	}
	return ps, nil
}

// loadSecret keeps a text that people and headers can carry.
func loadSecret(ctx context.Context, store *sqlstore.Store, name string) (secret.Secret, error) {
	b, err := store.InitSetting(ctx, name, []byte(rand.Text()))
	return secret.New(b), err
}
