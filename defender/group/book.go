package group

import (
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"sync"
	"time"

	"github.com/vauban-iot/vauban/fault"
)

// Store keeps the groups in one setting.
type Store interface {
	Setting(ctx context.Context, name string) ([]byte, error)
	UpdateSetting(ctx context.Context, name string, change func(value []byte) ([]byte, error)) error
}

const setting = "defender/groups"

// freshness is how late a change that another server made is seen.
const freshness = time.Second

// Book keeps the groups that have rules. Changes hold at once on this server, and within a second on others. It is safe for concurrent use.
type Book struct {
	store Store
	alias func(user string) string

	mu       sync.Mutex
	text     []byte
	read     time.Time
	compiled map[string]*Compiled
}

// NewBook returns the groups of a store. alias is as Compile's.
func NewBook(s Store, alias func(user string) string) *Book { return &Book{store: s, alias: alias} }

func parseAll(text []byte) (map[string]Rules, error) {
	all := map[string]Rules{}
	if len(text) == 0 {
		return all, nil
	}
	if err := json.Unmarshal(text, &all); err != nil {
		return nil, fmt.Errorf("setting %s is damaged: %w", setting, err)
	}
	return all, nil
}

func (b *Book) all(ctx context.Context) (map[string]Rules, []byte, error) {
	text, err := b.store.Setting(ctx, setting)
	if err != nil && !fault.Is(err, fault.NotFound) {
		return nil, nil, err
	}
	all, err := parseAll(text)
	return all, text, err
}

// Groups returns all, by name. The group default is always there.
func (b *Book) Groups(ctx context.Context) (names []string, rules map[string]Rules, err error) {
	rules, _, err = b.all(ctx)
	if err != nil {
		return nil, nil, err
	}
	if _, ok := rules[Default]; !ok {
		rules[Default] = Empty()
	}
	return slices.Sorted(maps.Keys(rules)), rules, nil
}

// Group returns one; fault.NotFound.
func (b *Book) Group(ctx context.Context, name string) (Rules, error) {
	_, rules, err := b.Groups(ctx)
	if err != nil {
		return Rules{}, err
	}
	r, ok := rules[name]
	if !ok {
		return r, fault.New(fault.NotFound, "there is no security group %q", name)
	}
	return r, nil
}

// Put keeps the rules of a group, which Parse returned; created tells whether it is new.
func (b *Book) Put(ctx context.Context, name string, r Rules) (created bool, err error) {
	return b.Change(ctx, name, func(Rules) (Rules, error) { return r, nil })
}

// Change is Put of what a function makes of the rules that stand, which are none of a new group, so that no change between is lost. It may run
// more than once; its error is returned, and nothing changes.
func (b *Book) Change(ctx context.Context, name string, change func(Rules) (Rules, error)) (created bool, err error) {
	if err := CheckName(name); err != nil {
		return false, err
	}
	err = b.change(ctx, func(all map[string]Rules) error {
		now, stands := all[name]
		if !stands {
			now = Empty()
		}
		created = !stands && name != Default
		if !stands && len(all) >= MaxGroups {
			return fault.New(fault.QuotaExceeded, "there are %d security groups already", MaxGroups)
		}
		next, err := change(now)
		if err != nil {
			return err
		}
		all[name] = next
		return nil
	})
	return created, err
}

// Delete forgets the rules of a group; existed tells whether there were any. The group default is new again then.
func (b *Book) Delete(ctx context.Context, name string) (existed bool, err error) {
	err = b.change(ctx, func(all map[string]Rules) error {
		_, existed = all[name]
		delete(all, name)
		return nil
	})
	return existed, err
}

func (b *Book) change(ctx context.Context, change func(map[string]Rules) error) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	err := b.store.UpdateSetting(ctx, setting, func(text []byte) ([]byte, error) {
		all, err := parseAll(text)
		if err != nil {
			return nil, err
		}
		if err := change(all); err != nil {
			return nil, err
		}
		return json.Marshal(all)
	})
	b.read = time.Time{} // read again, whatever happened
	return err
}

// Compiled returns the enabled rules of all groups that have some; a group that is not there has none.
func (b *Book) Compiled(ctx context.Context) (map[string]*Compiled, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.compiled != nil && time.Since(b.read) < freshness {
		return b.compiled, nil
	}
	all, text, err := b.all(ctx)
	if err != nil {
		return nil, err
	}
	if b.compiled == nil || string(text) != string(b.text) {
		compiled := make(map[string]*Compiled, len(all))
		for name, r := range all {
			c, err := Compile(r, b.alias)
			if err != nil {
				return nil, fmt.Errorf("security group %s: %w", name, err)
			}
			if c.Judges() || len(c.Windows) > 0 {
				compiled[name] = c
			}
		}
		b.compiled, b.text = compiled, text
	}
	b.read = time.Now()
	return b.compiled, nil
}
