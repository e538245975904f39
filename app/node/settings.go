package node

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"time"

	"github.com/vauban-iot/vauban/access"
	"github.com/vauban-iot/vauban/fault"
	"github.com/vauban-iot/vauban/internal/secret"
	"github.com/vauban-iot/vauban/pki"
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
	if s.hub, err = loadPolicies(ctx, store, hubPoliciesSetting, access.HubPolicies()); err != nil {
		return s, err
	}
	if s.provisioning, err = loadPolicies(ctx, store, provisioningPoliciesSetting, access.ProvisioningPolicies()); err != nil {
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

// openIssuer makes the authority for certificates that devices ask for, or reads the one that stands. It lies in the store, so that
// all servers of a hub have the same.
func openIssuer(ctx context.Context, store *sqlstore.Store, hub string) (*pki.DeviceAuthority, error) {
	const name = "hub/device-authority"
	material, err := store.Setting(ctx, name)
	if fault.Is(err, fault.NotFound) {
		if material, err = pki.NewDeviceAuthority(hub, time.Now()); err == nil {
			material, err = store.InitSetting(ctx, name, material)
		}
	}
	if err != nil {
		return nil, err
	}
	return pki.OpenDeviceAuthority(material, nil)
}

func loadPolicies(ctx context.Context, store *sqlstore.Store, name string, fresh []access.Policy) ([]access.Policy, error) {
	data, err := writePolicies(fresh)
	if err != nil {
		return nil, err
	}
	if data, err = store.InitSetting(ctx, name, data); err != nil {
		return nil, err
	}
	return readPolicies(name, data)
}

// loadSecret keeps a text that people and headers can carry.
func loadSecret(ctx context.Context, store *sqlstore.Store, name string) (secret.Secret, error) {
	b, err := store.InitSetting(ctx, name, []byte(rand.Text()))
	return secret.New(b), err
}
