package access_test

import (
	"context"
	"errors"
	"testing"
	"time"

	"github.com/vauban-iot/vauban/access"
	"github.com/vauban-iot/vauban/fault"
	"github.com/vauban-iot/vauban/wire/sas"
)

// memory is a store of policies; err, when set, is what it fails with.
type memory struct {
	policies []access.Policy
	err      error
}

func (m *memory) Policies(context.Context) ([]access.Policy, error) { return m.policies, m.err }

func (m *memory) ChangePolicies(_ context.Context, change func([]access.Policy) ([]access.Policy, error)) error {
	if m.err != nil {
		return m.err
	}
	ps, err := change(m.policies)
	if err == nil {
		m.policies = ps
	}
	return err
}

func named(t *testing.T, ps []access.Policy, name string) access.Policy {
	t.Helper()
	for _, p := range ps {
		if p.Name == name {
			return p
		}
	}
	t.Fatalf("no policy %q", name)
	return access.Policy{}
}

// Tokens of both keys are good; those of a key that was rotated are refused from the next request on, and no other key is
// touched.
func TestKeeper_Rotate(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		which              access.Key
		primary, secondary bool // still good afterwards
	}{
		{access.PrimaryKey, false, true},
		{access.SecondaryKey, true, false},
		{access.SwapKeys, true, true},
	} {
		clock := now
		m := &memory{policies: access.HubPolicies()}
		k := access.NewKeeper(m, func() time.Time { return clock })
		g := guard(nil)
		g.Follow(k)
		good := func(key []byte, policy string) bool {
			err := g.Authorize(sas.Sign(host, key, clock.Add(time.Hour), policy), access.ServiceConnect|access.DeviceConnect)
			if err != nil && !fault.Is(err, fault.Unauthorized) {
				t.Errorf("%s: %v", c.which, err)
			}
			return err == nil
		}
		before, other := named(t, m.policies, "service"), named(t, m.policies, "device")
		if !good(before.Primary.Reveal(), "service") || !good(before.Secondary.Reveal(), "service") {
			t.Errorf("%s: a key is refused before the rotation", c.which)
		}
		after, err := k.Rotate(t.Context(), "service", c.which)
		if err != nil {
			t.Fatal(err)
		}
		if p, s := good(before.Primary.Reveal(), "service"), good(before.Secondary.Reveal(), "service"); p != c.primary || s != c.secondary {
			t.Errorf("%s: the old primary key is good %v, the old secondary %v; want %v, %v", c.which, p, s, c.primary, c.secondary)
		}
		if !good(after.Primary.Reveal(), "service") || !good(after.Secondary.Reveal(), "service") {
			t.Errorf("%s: a key that was answered is refused", c.which)
		}
		if swapped := after.Primary.Base64() == before.Secondary.Base64() && after.Secondary.Base64() == before.Primary.Base64(); swapped != (c.which == access.SwapKeys) {
			t.Errorf("%s: the keys are swapped: %v", c.which, swapped)
		}
		if !good(other.Primary.Reveal(), "device") || after.Rights != before.Rights {
			t.Errorf("%s: more changed than the keys of one policy", c.which)
		}
	}
}

func TestKeeper_Refusals(t *testing.T) {
	t.Parallel()
	clock := now
	m := &memory{policies: access.HubPolicies()}
	k := access.NewKeeper(m, func() time.Time { return clock })
	if _, err := k.Rotate(t.Context(), "nobody", access.PrimaryKey); !fault.Is(err, fault.NotFound) {
		t.Errorf("an unknown policy: %v", err)
	}
	if _, err := k.Rotate(t.Context(), "service", "third"); !fault.Is(err, fault.Invalid) {
		t.Errorf("an unknown key: %v", err)
	}
	// What another server changed is seen within a second.
	if _, err := k.Policies(t.Context()); err != nil {
		t.Fatal(err)
	}
	m.policies = access.HubPolicies()
	clock = clock.Add(time.Second)
	g := guard(nil)
	g.Follow(k)
	token := sas.Sign(host, named(t, m.policies, "service").Primary.Reveal(), clock.Add(time.Hour), "service")
	if err := g.Authorize(token, access.ServiceConnect); err != nil {
		t.Errorf("a key of another server's rotation: %v", err)
	}
	// While the store cannot be asked nobody is let in, and nobody is told that the credentials are wrong.
	m.err = errors.New("disk")
	clock = clock.Add(time.Second)
	if err := g.Authorize(token, access.ServiceConnect); !fault.Is(err, fault.Unavailable) {
		t.Errorf("without the store: %v", err)
	}
	if _, err := k.Rotate(t.Context(), "service", access.PrimaryKey); !errors.Is(err, m.err) {
		t.Errorf("a rotation without the store: %v", err)
	}
}
