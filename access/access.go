// Package access decides what a caller of a service may do: shared access
// policies with their rights and keys, and the tokens signed with them
// (hub-service §1, dps §2.3).
package access

import (
	"context"
	"fmt"
	"strings"
	"time"

	"github.com/vauban-iot/vauban/fault"
	"github.com/vauban-iot/vauban/internal/secret"
	"github.com/vauban-iot/vauban/wire/sas"
)

// Right is one permission; a policy holds a set of them.
type Right uint16

// The rights of a hub, then those of a provisioning service.
const (
	RegistryRead Right = 1 << iota
	RegistryWrite
	ServiceConnect
	DeviceConnect
	ServiceConfig
	EnrollmentRead
	EnrollmentWrite
	RegistrationStatusRead
	RegistrationStatusWrite
)

var rightNames = []string{
	"RegistryRead", "RegistryWrite", "ServiceConnect", "DeviceConnect",
	"ServiceConfig", "EnrollmentRead", "EnrollmentWrite", "RegistrationStatusRead", "RegistrationStatusWrite",
}

// String lists the rights as Azure's management plane does: "RegistryRead, RegistryWrite".
func (r Right) String() string {
	var names []string
	for i, n := range rightNames {
		if r&(1<<i) != 0 {
			names = append(names, n)
		}
	}
	return strings.Join(names, ", ")
}

// Policy is one shared access policy.
type Policy struct {
	Name      string
	Rights    Right
	Primary   secret.Secret
	Secondary secret.Secret
}

// Guard verifies the tokens of one service (a hub or a provisioning service).
type Guard struct {
	hosts    []string
	policies func(ctx context.Context) ([]Policy, error)
	now      func() time.Time
	refuse   func() bool // nil: never
}

// Skew is how long after its expiry a token is still accepted (hub-device §6.1).
const Skew = 5 * time.Minute

// NewGuard guards a service that answers to hosts. Its policies never change; see Follow.
func NewGuard(hosts []string, policies []Policy, now func() time.Time) *Guard {
	return &Guard{hosts: hosts, policies: func(context.Context) ([]Policy, error) { return policies, nil }, now: now}
}

// Follow makes the guard ask k for the policies, whose keys may change. It must be called before the guard is used.
func (g *Guard) Follow(k *Keeper) { g.policies = k.Policies }

// RefuseWhen makes the guard refuse every token while refuse is true. It must be called before the guard is used.
func (g *Guard) RefuseWhen(refuse func() bool) { g.refuse = refuse }

// policy finds a policy by name. When what is in force cannot be known nobody is let in: a key that was
// rotated to keep somebody out must not come back by itself.
func (g *Guard) policy(name string) (Policy, error) {
	ps, err := g.policies(context.Background())
	if err != nil {
		return Policy{}, fault.Wrap(fault.Unavailable, err, "the shared access policies cannot be read")
	}
	for _, p := range ps {
		if p.Name == name {
			return p, nil
		}
	}
	return Policy{}, fault.New(fault.Unauthorized, "the token names no known shared access policy")
}

// Authorize checks that token is signed by a policy that holds at least one of the rights, and
// covers the resource path. Bad credentials are fault.Unauthorized, a missing
// right is fault.Forbidden; fault.Unavailable is a store that cannot be asked.
func (g *Guard) Authorize(token string, need Right, path ...string) error {
	t, err := sas.Parse(token)
	if err != nil {
		return fault.Wrap(fault.Unauthorized, err, "the authorization header holds no readable shared access signature")
	}
	return g.Check(t, need, path...)
}

// Check is Authorize for a parsed token.
func (g *Guard) Check(t sas.Token, need Right, path ...string) error {
	if g.refuse != nil && g.refuse() {
		return fault.New(fault.Unauthorized, "tokens of shared access policies are refused (disableLocalAuth)")
	}
	p, err := g.policy(t.KeyName)
	if err != nil {
		return err
	}
	scope, err := t.Scope()
	if err != nil {
		return fault.Wrap(fault.Unauthorized, err, "the token's resource cannot be read")
	}
	if !scope.Covers(g.hosts, path...) {
		return fault.New(fault.Unauthorized, "the token is for another resource")
	}
	if !t.Verify(p.Primary.Reveal()) && !t.Verify(p.Secondary.Reveal()) {
		return fault.New(fault.Unauthorized, "the token's signature does not verify")
	}
	if g.now().After(t.Expiry.Add(Skew)) {
		return fault.New(fault.Unauthorized, "the token expired at %s", t.Expiry.UTC().Format(time.RFC3339))
	}
	if p.Rights&need == 0 {
		return fault.New(fault.Forbidden, "policy %q lacks the right %s", p.Name, need)
	}
	return nil
}

// HubPolicies returns the default policies of a hub with new keys (hub-service §1.1).
func HubPolicies() []Policy {
	return []Policy{
		fresh("iothubowner", RegistryRead|RegistryWrite|ServiceConnect|DeviceConnect),
		fresh("service", ServiceConnect),
		fresh("device", DeviceConnect),
		fresh("registryRead", RegistryRead),
		fresh("registryReadWrite", RegistryRead|RegistryWrite),
	}
}

// ProvisioningPolicies returns the default policy of a provisioning service with new keys (dps §2.3).
func ProvisioningPolicies() []Policy {
	return []Policy{
		fresh("provisioningserviceowner", ServiceConfig|EnrollmentRead|EnrollmentWrite|RegistrationStatusRead|RegistrationStatusWrite),
	}
}

// keySize is within the 32 to 64 bytes of hub-service §1.1.
const keySize = 32

func fresh(name string, r Right) Policy {
	return Policy{Name: name, Rights: r, Primary: secret.Random(keySize), Secondary: secret.Random(keySize)}
}

// ConnectionString renders what a service program is configured with. It holds the key.
func (p Policy) ConnectionString(host string) string {
	return fmt.Sprintf("HostName=%s;SharedAccessKeyName=%s;SharedAccessKey=%s", host, p.Name, p.Primary.Base64())
}
