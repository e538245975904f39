package node

import (
	"context"
	"encoding/json"
	"fmt"
	"sync"
	"time"

	"github.com/vauban-iot/vauban/access"
	"github.com/vauban-iot/vauban/central/api"
	"github.com/vauban-iot/vauban/fault"
	"github.com/vauban-iot/vauban/internal/secret"
	"github.com/vauban-iot/vauban/storage/sqlstore"
)

// The settings that hold policies.
const (
	hubPoliciesSetting          = "hub/policies"
	provisioningPoliciesSetting = "dps/policies"
)

// policyStore is an access.Store over a setting.
type policyStore struct {
	store *sqlstore.Store
	name  string
}

// Policies implements access.Store.
func (s policyStore) Policies(ctx context.Context) ([]access.Policy, error) {
	text, err := s.store.Setting(ctx, s.name)
	if err != nil {
		return nil, err
	}
	return readPolicies(s.name, text)
}

// ChangePolicies implements access.Store.
func (s policyStore) ChangePolicies(ctx context.Context, change func([]access.Policy) ([]access.Policy, error)) error {
	return s.store.UpdateSetting(ctx, s.name, func(text []byte) ([]byte, error) {
		ps, err := readPolicies(s.name, text)
		if err != nil {
			return nil, err
		}
		if ps, err = change(ps); err != nil {
			return nil, err
		}
		return writePolicies(ps)
	})
}

func readPolicies(name string, text []byte) ([]access.Policy, error) {
	var saved []savedPolicy
	if err := json.Unmarshal(text, &saved); err != nil {
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

func writePolicies(ps []access.Policy) ([]byte, error) {
	var saved []savedPolicy
	for _, p := range ps {
		saved = append(saved, savedPolicy{p.Name, uint16(p.Rights), p.Primary.Reveal(), p.Secondary.Reveal()})
	}
	return json.Marshal(saved)
}

// policies are those of both services, and what connection.json says of them.
type policies struct {
	n                 *Node
	hub, provisioning *access.Keeper

	mu    sync.Mutex
	saved Connection // as it is in the file; zero before the first
}

func newPolicies(n *Node) *policies {
	return &policies{
		n:   n,
		hub: access.NewKeeper(policyStore{n.State, hubPoliciesSetting}, time.Now),
		// The names of both services' policies differ.
		provisioning: access.NewKeeper(policyStore{n.State, provisioningPoliciesSetting}, time.Now),
	}
}

// service is one of the two services with policies.
type policyService struct {
	name   string
	keeper *access.Keeper
}

func (p *policies) services() []policyService {
	return []policyService{{"hub", p.hub}, {"provisioning", p.provisioning}}
}

// find tells whose policy name is; fault.NotFound.
func (p *policies) find(ctx context.Context, name string) (policyService, access.Policy, error) {
	for _, s := range p.services() {
		all, err := s.keeper.Policies(ctx)
		if err != nil {
			return policyService{}, access.Policy{}, err
		}
		for _, policy := range all {
			if policy.Name == name {
				return s, policy, nil
			}
		}
	}
	return policyService{}, access.Policy{}, fault.New(fault.NotFound, "there is no shared access policy %q", name)
}

// view shows a policy with its keys.
func (p *policies) view(s policyService, policy access.Policy) api.Policy {
	swapped := policy
	swapped.Primary = policy.Secondary
	return api.Policy{
		Name: policy.Name, Service: s.name, Rights: policy.Rights.String(),
		PrimaryKey: policy.Primary.Base64(), SecondaryKey: policy.Secondary.Base64(),
		PrimaryConnectionString: policy.ConnectionString(p.n.cfg.Hostname), SecondaryConnectionString: swapped.ConnectionString(p.n.cfg.Hostname),
	}
}

// Policies implements api.PolicyStore.
func (p *policies) Policies(ctx context.Context) ([]api.Policy, error) {
	var list []api.Policy
	for _, s := range p.services() {
		all, err := s.keeper.Policies(ctx)
		if err != nil {
			return nil, err
		}
		for _, policy := range all {
			list = append(list, api.Policy{Name: policy.Name, Service: s.name, Rights: policy.Rights.String()})
		}
	}
	return list, nil
}

// Policy implements api.PolicyStore.
func (p *policies) Policy(ctx context.Context, name string) (api.Policy, error) {
	s, policy, err := p.find(ctx, name)
	if err != nil {
		return api.Policy{}, err
	}
	return p.view(s, policy), nil
}

// RotateKey implements api.PolicyStore. When it returns connection.json is true on this server; on others it is within
// policyPeriod.
func (p *policies) RotateKey(ctx context.Context, name string, key access.Key) (api.Policy, error) {
	s, _, err := p.find(ctx, name)
	if err != nil {
		return api.Policy{}, err
	}
	rotated, err := s.keeper.Rotate(ctx, name, key)
	if err != nil {
		return api.Policy{}, err
	}
	if err := p.save(context.WithoutCancel(ctx)); err != nil {
		// The key is rotated all the same; run tries again.
		p.n.log.Error("the connection file does not have the new keys yet", "file", p.n.cfg.Connection, "err", err)
	}
	return p.view(s, rotated), nil
}

// save brings the connection file up to date.
func (p *policies) save(ctx context.Context) error {
	hub, err := p.hub.Policies(ctx)
	if err != nil {
		return err
	}
	provisioning, err := p.provisioning.Policies(ctx)
	if err != nil {
		return err
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	c := p.n.Connection
	c.Hub.ConnectionString = hub[0].ConnectionString(p.n.cfg.Hostname)
	c.DPS.ConnectionString = provisioning[0].ConnectionString(p.n.cfg.Hostname)
	if c == p.saved {
		return nil
	}
	if err := c.save(p.n.cfg.Connection); err != nil {
		return err
	}
	p.saved = c
	return nil
}

// policyPeriod is how late the connection file follows a change made on another server.
const policyPeriod = 2 * time.Second

func (p *policies) run(ctx context.Context) error {
	tick := time.NewTicker(policyPeriod)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
			if err := p.save(ctx); err != nil && ctx.Err() == nil {
				p.n.log.Error("the connection file is not up to date, trying again", "file", p.n.cfg.Connection, "err", err)
			}
		}
	}
}
