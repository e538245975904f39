package solution

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/vauban-iot/vauban/defender/posture"
	"github.com/vauban-iot/vauban/fault"
)

// Settings keeps the solution in one setting.
type Settings interface {
	Setting(ctx context.Context, name string) ([]byte, error)
	UpdateSetting(ctx context.Context, name string, change func(value []byte) ([]byte, error)) error
}

const setting = "defender/solution"

// Recommendations keeps which types of recommendations are made. [posture.Book] is one.
type Recommendations interface {
	Disabled(ctx context.Context) (posture.Disabled, error)
	Enable(ctx context.Context, enabled bool, at time.Time, names ...string) (resolved int, err error)
}

// Book keeps the solution. It is safe for concurrent use.
type Book struct {
	settings        Settings
	recommendations Recommendations
	now             func() time.Time
}

// NewBook returns the book of a store; now may be nil.
func NewBook(s Settings, r Recommendations, now func() time.Time) (*Book, error) {
	if s == nil || r == nil {
		return nil, errors.New("defender/solution: settings and recommendations are required")
	}
	if now == nil {
		now = time.Now
	}
	return &Book{s, r, now}, nil
}

// read parses what is kept; nil: there is none.
func read(text []byte) (*Solution, error) {
	if len(text) == 0 {
		return nil, nil
	}
	var s *Solution
	if err := json.Unmarshal(text, &s); err != nil {
		return nil, fmt.Errorf("setting %s is damaged: %w", setting, err)
	}
	return s, nil
}

// All returns the solutions there are.
func (b *Book) All(ctx context.Context) ([]Solution, error) {
	text, err := b.settings.Setting(ctx, setting)
	if err != nil && !fault.Is(err, fault.NotFound) {
		return nil, err
	}
	s, err := read(text)
	if err != nil || s == nil {
		return nil, err
	}
	return []Solution{*s}, nil
}

// Solution returns one; fault.NotFound.
func (b *Book) Solution(ctx context.Context, n Name) (Solution, error) {
	all, err := b.All(ctx)
	if err != nil {
		return Solution{}, err
	}
	for _, s := range all {
		if s.Is(n) {
			return s, nil
		}
	}
	return Solution{}, notFound(n)
}

func notFound(n Name) error {
	return fault.New(fault.NotFound, "there is no IoT security solution %q in resource group %q", n.Name, n.ResourceGroup)
}

// Put makes a solution or replaces it; created tells which. fault.AlreadyExists when the hub is in another one.
func (b *Book) Put(ctx context.Context, n Name, c Change) (s Solution, created bool, err error) {
	if err := CheckName(n.Name); err != nil {
		return Solution{}, false, err
	}
	err = b.change(ctx, func(old *Solution) (*Solution, error) {
		if old != nil && !old.Is(n) {
			return nil, fault.New(fault.AlreadyExists, "the hub is in the solution %s of resource group %s and subscription %s already; a hub is in one solution", old.Name.Name, old.ResourceGroup, old.Subscription)
		}
		s = c.solution
		s.Name, s.Created, s.Updated = n, b.now().UTC(), b.now().UTC()
		if created = old == nil; !created {
			s.Name, s.Created = old.Name, old.Created
		}
		return &s, nil
	})
	if err != nil {
		return Solution{}, false, err
	}
	return s, created, b.configure(ctx, c.recommendations)
}

// Patch changes a solution; fault.NotFound.
func (b *Book) Patch(ctx context.Context, n Name, c Change) (s Solution, err error) {
	err = b.change(ctx, func(old *Solution) (*Solution, error) {
		if old == nil || !old.Is(n) {
			return nil, notFound(n)
		}
		s = *old
		if c.tags != nil {
			s.Tags = *c.tags
		}
		if c.defined != nil {
			s.Defined = c.defined
		}
		s.Updated = b.now().UTC()
		return &s, nil
	})
	if err != nil {
		return Solution{}, err
	}
	return s, b.configure(ctx, c.recommendations)
}

// Delete forgets a solution; existed tells whether there was one. Defender goes on: alerts and recommendations are of the hub.
func (b *Book) Delete(ctx context.Context, n Name) (existed bool, err error) {
	err = b.change(ctx, func(old *Solution) (*Solution, error) {
		if existed = old != nil && old.Is(n); existed {
			return nil, nil
		}
		return old, nil
	})
	return existed, err
}

func (b *Book) change(ctx context.Context, change func(old *Solution) (*Solution, error)) error {
	return b.settings.UpdateSetting(ctx, setting, func(text []byte) ([]byte, error) {
		old, err := read(text)
		if err != nil {
			return nil, err
		}
		s, err := change(old)
		if err != nil {
			return nil, err
		}
		return json.Marshal(s)
	})
}

// configure enables and disables the types that a request names; others stay as they are.
func (b *Book) configure(ctx context.Context, wanted []Recommendation) error {
	names := map[Status][]string{}
	for _, r := range wanted {
		names[r.Status] = append(names[r.Status], r.Type)
	}
	for _, status := range []Status{Enabled, Disabled} {
		if len(names[status]) == 0 {
			continue
		}
		if _, err := b.recommendations.Enable(ctx, status == Enabled, b.now(), names[status]...); err != nil {
			return fmt.Errorf("set recommendations: %w", err)
		}
	}
	return nil
}

// Configuration says of every type of recommendation whether it is made.
func (b *Book) Configuration(ctx context.Context) ([]Recommendation, error) {
	disabled, err := b.recommendations.Disabled(ctx)
	if err != nil {
		return nil, err
	}
	var all []Recommendation
	for _, t := range posture.Types() {
		r := Recommendation{Type: t.Name, Title: t.Title, Status: Enabled}
		if disabled.Has(t.Name) {
			r.Status = Disabled
		}
		all = append(all, r)
	}
	return all, nil
}

// HubID reads the id of a hub as Azure Resource Manager spells it, and returns the hub's name.
func HubID(id string) (name string, ok bool) {
	w := strings.Split(strings.Trim(id, "/"), "/")
	if len(id) > maxText || len(w) != 8 || w[1] == "" || w[3] == "" || w[7] == "" ||
		!strings.EqualFold(w[0], "subscriptions") || !strings.EqualFold(w[2], "resourceGroups") || !strings.EqualFold(w[4], "providers") ||
		!strings.EqualFold(w[5], "Microsoft.Devices") || !strings.EqualFold(w[6], "IotHubs") {
		return "", false
	}
	return w[7], true
}
