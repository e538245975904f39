package sphere_test

import (
	"context"
	"slices"
	"sync"
	"testing"

	"github.com/vauban-iot/vauban/fault"
	"github.com/vauban-iot/vauban/sphere"
)

// fakeCAs is as much of a store as looking after CAs takes, without a database, for tests in a bubble of time.
type fakeCAs struct {
	sphere.Store
	mu       sync.Mutex
	settings map[string][]byte
	tenants  []sphere.Tenant
	cas      map[string][]sphere.StoredCA
	away     bool
}

func newFakeCAs(testing.TB) *fakeCAs {
	return &fakeCAs{settings: map[string][]byte{}, cas: map[string][]sphere.StoredCA{}}
}

func (f *fakeCAs) fail(away bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.away = away
}

func (f *fakeCAs) InitSetting(_ context.Context, name string, value []byte) ([]byte, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.settings[name] == nil {
		f.settings[name] = value
	}
	return f.settings[name], nil
}

func (f *fakeCAs) Memberships(context.Context, string) ([]sphere.Member, error) { return nil, nil }

func (f *fakeCAs) CreateTenant(_ context.Context, t sphere.Tenant, _ sphere.Member, ca sphere.StoredCA) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.tenants = append(f.tenants, t)
	f.cas[t.ID] = []sphere.StoredCA{ca}
	return nil
}

func (f *fakeCAs) Tenant(_ context.Context, id string) (sphere.Tenant, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.tenants[slices.IndexFunc(f.tenants, func(t sphere.Tenant) bool { return t.ID == id })], nil
}

func (f *fakeCAs) Tenants(_ context.Context, after string, _ int) ([]sphere.Tenant, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.away {
		return nil, fault.New(fault.Unavailable, "away")
	}
	return f.tenants, nil
}

func (f *fakeCAs) TenantCAs(_ context.Context, tenant string) ([]sphere.StoredCA, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	return slices.Clone(f.cas[tenant]), nil
}

func (f *fakeCAs) ChangeTenantCAs(_ context.Context, tenant string, change func([]sphere.StoredCA) ([]sphere.StoredCA, error)) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	next, err := change(slices.Clone(f.cas[tenant]))
	f.cas[tenant] = append(f.cas[tenant], next...)
	return err
}
