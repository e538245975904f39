package posture

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/vauban-iot/vauban/fault"
)

// Settings keeps which types are disabled, in one setting.
type Settings interface {
	Setting(ctx context.Context, name string) ([]byte, error)
	UpdateSetting(ctx context.Context, name string, change func(value []byte) ([]byte, error)) error
}

const setting = "defender/recommendations"

// freshness is how late a change that another server made is seen.
const freshness = time.Second

// maxDisabled bounds the types that are disabled: all there are, and checks of the family.
const maxDisabled = 1000

type saved struct {
	Disabled []string `json:"disabled"` // sorted
}

// Disabled are the types and families that are not evaluated. Its zero value: all are.
type Disabled map[string]bool

// Has reports whether a type, or its family, is disabled.
func (d Disabled) Has(name string) bool { return d[name] || d[Family(name)] }

// Book keeps which types are enabled; at first all are. Changes hold at once on this server, and within a second on others. It is
// safe for concurrent use.
type Book struct {
	settings Settings
	store    Store

	mu       sync.Mutex
	read     time.Time
	disabled Disabled // not changed once it is here
}

// NewBook returns the book of a store.
func NewBook(settings Settings, store Store) *Book { return &Book{settings: settings, store: store} }

func parseSaved(text []byte) (saved, error) {
	var s saved
	if len(text) == 0 {
		return s, nil
	}
	if err := json.Unmarshal(text, &s); err != nil {
		return s, fmt.Errorf("setting %s is damaged: %w", setting, err)
	}
	return s, nil
}

// Disabled returns what is not evaluated. The caller does not change it.
func (b *Book) Disabled(ctx context.Context) (Disabled, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.disabled != nil && time.Since(b.read) < freshness {
		return b.disabled, nil
	}
	text, err := b.settings.Setting(ctx, setting)
	if err != nil && !fault.Is(err, fault.NotFound) {
		return nil, err
	}
	s, err := parseSaved(text)
	if err != nil {
		return nil, err
	}
	d := make(Disabled, len(s.Disabled))
	for _, name := range s.Disabled {
		d[name] = true
	}
	b.disabled, b.read = d, time.Now()
	return d, nil
}

// Enable enables or disables types and families. What is disabled is not evaluated from now on, and what was active of it is resolved;
// what is enabled is judged at the next look. fault.Invalid for a type that does not exist.
func (b *Book) Enable(ctx context.Context, enabled bool, at time.Time, names ...string) (resolved int, err error) {
	for _, name := range names {
		if !Known(name) {
			return 0, fault.New(fault.Invalid, "there is no recommendation type %q; see `vauban recommendation types`", name)
		}
	}
	b.mu.Lock()
	err = b.settings.UpdateSetting(ctx, setting, func(text []byte) ([]byte, error) {
		s, err := parseSaved(text)
		if err != nil {
			return nil, err
		}
		s.Disabled = slices.DeleteFunc(s.Disabled, func(name string) bool { return slices.Contains(names, name) })
		if !enabled {
			s.Disabled = append(s.Disabled, names...)
		}
		slices.Sort(s.Disabled)
		s.Disabled = slices.Compact(s.Disabled)
		if len(s.Disabled) > maxDisabled {
			return nil, fault.New(fault.QuotaExceeded, "%d recommendation types are disabled already; disable the family %s as a whole", maxDisabled, CISBenchmarks)
		}
		return json.Marshal(s)
	})
	b.disabled = nil // read again, whatever happened
	b.mu.Unlock()
	if err != nil || enabled {
		return 0, err
	}
	return b.store.ResolveTypes(ctx, names, at)
}
