package access

import (
	"context"
	"sync"
	"time"

	"github.com/vauban-iot/vauban/fault"
	"github.com/vauban-iot/vauban/internal/secret"
)

// Store keeps the policies of one service.
type Store interface {
	// Policies returns them in the order in which they were made.
	Policies(ctx context.Context) ([]Policy, error)
	// ChangePolicies runs change in one transaction with the read and the write. When it returns without an error, what
	// change returned is on disk.
	ChangePolicies(ctx context.Context, change func([]Policy) ([]Policy, error)) error
}

// Key says which of a policy's two keys is meant.
type Key string

// What can be done to the keys of a policy, in the words of Azure's CLI.
const (
	PrimaryKey   Key = "primary"
	SecondaryKey Key = "secondary"
	SwapKeys     Key = "swap" // the primary becomes the secondary and the other way round; no key is new
)

// Keeper knows the policies in force. It is safe for concurrent use.
type Keeper struct {
	store Store
	now   func() time.Time

	mu       sync.Mutex
	policies []Policy
	read     time.Time // zero: never
}

// NewKeeper returns a keeper of what is in store.
func NewKeeper(store Store, now func() time.Time) *Keeper { return &Keeper{store: store, now: now} }

// keeperAge is how late a change made on another server is seen.
const keeperAge = time.Second

// Policies returns the policies in force. What this keeper changed is in force at once, what another did within a second.
// The slice must not be changed.
func (k *Keeper) Policies(ctx context.Context) ([]Policy, error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	now := k.now()
	if !k.read.IsZero() && now.Sub(k.read) < keeperAge {
		return k.policies, nil
	}
	ps, err := k.store.Policies(ctx)
	if err != nil {
		return nil, err
	}
	k.policies, k.read = ps, now
	return ps, nil
}

// Rotate gives a policy a new key, or swaps its keys. The key that went signs nothing from then on; sessions that
// devices opened with it stay. It fails with fault.NotFound and Invalid.
func (k *Keeper) Rotate(ctx context.Context, name string, which Key) (Policy, error) {
	var rotated Policy
	k.mu.Lock()
	defer k.mu.Unlock()
	fresh := secret.Random(keySize) // one key, however often the change runs
	err := k.store.ChangePolicies(ctx, func(before []Policy) ([]Policy, error) {
		after := append([]Policy(nil), before...)
		for i := range after {
			p := &after[i]
			if p.Name != name {
				continue
			}
			switch which {
			case PrimaryKey:
				p.Primary = fresh
			case SecondaryKey:
				p.Secondary = fresh
			case SwapKeys:
				p.Primary, p.Secondary = p.Secondary, p.Primary
			default:
				return nil, fault.New(fault.Invalid, "key must be %q, %q or %q", PrimaryKey, SecondaryKey, SwapKeys)
			}
			rotated = *p
			return after, nil
		}
		return nil, fault.New(fault.NotFound, "there is no shared access policy %q", name)
	})
	if err != nil {
		return Policy{}, err
	}
	k.read = time.Time{} // whoever asks next reads what is on disk
	return rotated, nil
}
