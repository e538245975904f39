package configuration

import (
	"context"
	"encoding/json"
	"log/slog"
	"maps"
	"reflect"
	"time"

	"github.com/vauban-iot/vauban/fault"
	"github.com/vauban-iot/vauban/hub/query"
	"github.com/vauban-iot/vauban/hub/registry"
	"github.com/vauban-iot/vauban/hub/twin"
	"github.com/vauban-iot/vauban/iot"
)

// Hub is what configurations do to devices.
type Hub interface {
	ChangeTwin(ctx context.Context, id iot.ID, change func(twin.Twin) (twin.Twin, json.RawMessage, error)) error
	Device(ctx context.Context, id iot.ID) (registry.Identity, error)
	Modules(ctx context.Context, device string) ([]registry.Identity, error)
	CreateDevice(ctx context.Context, d registry.Identity) (registry.Identity, error)
	DeleteDevice(ctx context.Context, id iot.ID, match *iot.Match) error
}

// Fleet is how configurations look at devices.
type Fleet interface {
	// Each calls visit for every device, or module, with its document; paths says what is read of it.
	Each(ctx context.Context, modules bool, reads []query.Expr, visit func(registry.Identity, twin.Twin, query.Document) error) error
	// Count counts the rows of a query's answer.
	Count(ctx context.Context, text string) (int, error)
}

// Config of a service. Fields are required unless they say otherwise.
type Config struct {
	Store  Store
	Hub    Hub
	Fleet  Fleet
	Now    func() time.Time // nil: time.Now
	Logger *slog.Logger     // nil: slog.Default()
}

// Service keeps configurations and, in Run, applies them. It is safe for concurrent use.
type Service struct {
	cfg  Config
	log  *slog.Logger
	now  func() time.Time
	wake chan struct{}

	warned map[string]bool // devices whose failure is in the log; of Run alone
}

// New returns a service.
func New(cfg Config) *Service {
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	if cfg.Logger == nil {
		cfg.Logger = slog.Default()
	}
	return &Service{cfg: cfg, log: cfg.Logger, now: cfg.Now, wake: make(chan struct{}, 1), warned: make(map[string]bool)}
}

func (s *Service) nudge() {
	select {
	case s.wake <- struct{}{}:
	default:
	}
}

// Configuration returns one; fault.NotFound.
func (s *Service) Configuration(ctx context.Context, id string) (Configuration, error) {
	return s.cfg.Store.Configuration(ctx, id)
}

// Configurations returns at most top; 0 means all.
func (s *Service) Configurations(ctx context.Context, top int) ([]Configuration, error) {
	all, err := s.cfg.Store.Configurations(ctx)
	if top > 0 && top < len(all) {
		all = all[:top]
	}
	return all, err
}

// Create adds a configuration. Failures are fault.AlreadyExists, QueueFull, Invalid and ErrCondition.
func (s *Service) Create(ctx context.Context, ch Change) (Configuration, error) {
	now := s.now()
	c := Configuration{ID: ch.ID, Revision: 1, SchemaVersion: "1.0", Content: ch.Content, Created: now, Updated: now}.merged(ch)
	if len(c.Content) == 0 {
		return c, fault.New(fault.Invalid, "content is missing")
	}
	if err := c.check(); err != nil {
		return c, err
	}
	if err := s.cfg.Store.CreateConfiguration(ctx, c, MaxConfigurations); err != nil {
		return c, err
	}
	s.nudge()
	return c, nil
}

func (c Configuration) check() error {
	content, err := parseContent(c.Content)
	if err != nil {
		return err
	}
	for _, settings := range append([][]setting{content.twin}, values(content.modules)...) {
		whole := tree{}
		for _, st := range settings {
			if len(st.path) == 0 {
				whole = clone(st.value).(tree)
			} else {
				set(whole, st.path, clone(st.value))
			}
		}
		// What breaks the rules of twins would fail on every one of them.
		if _, _, err := twin.New(iot.ID{}).Apply(twin.Patch{Desired: marshal(whole), HasDesired: true}, time.Time{}); err != nil {
			return err
		}
	}
	if _, err := c.target(content.kind); err != nil {
		return fault.Wrap(fault.Invalid, ErrCondition, "%s", fault.Public(err))
	}
	return nil
}

func values(m map[string][]setting) [][]setting {
	var all [][]setting
	for _, v := range m {
		all = append(all, v)
	}
	return all
}

// Update changes a configuration. Failures are fault.NotFound, PreconditionFailed, Invalid, ErrCondition and ErrImmutable.
func (s *Service) Update(ctx context.Context, match *iot.Match, ch Change) (Configuration, error) {
	c, err := s.cfg.Store.UpdateConfiguration(ctx, ch.ID, func(c Configuration) (Configuration, error) {
		if err := match.Check(c.ETag()); err != nil {
			return c, err
		}
		if ch.Content != nil && !sameContent(c.Content, ch.Content) {
			return c, ErrImmutable
		}
		c = c.merged(ch)
		c.Revision++
		c.Updated = s.now()
		return c, c.check()
	})
	if err == nil {
		s.nudge()
	}
	return c, err
}

// sameContent compares contents as clients read them: null members are as none, and 1.50 is 1.5.
func sameContent(a, b json.RawMessage) bool {
	var x, y map[string]any
	if json.Unmarshal(a, &x) != nil || json.Unmarshal(b, &y) != nil {
		return false
	}
	for _, t := range []map[string]any{x, y} {
		maps.DeleteFunc(t, func(_ string, v any) bool { return v == nil })
	}
	return reflect.DeepEqual(x, y)
}

// Delete removes a configuration; fault.NotFound and PreconditionFailed.
func (s *Service) Delete(ctx context.Context, id string, match *iot.Match) error {
	err := s.cfg.Store.DeleteConfiguration(ctx, id, func(c Configuration) error { return match.Check(c.ETag()) })
	if err == nil {
		s.nudge()
	}
	return err
}
