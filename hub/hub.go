// Package hub is the IoT Hub behind the protocol heads: it decides who may
// connect, keeps their sessions, and carries out what devices and services ask
// for. Heads know it through small interfaces of their own.
package hub

import (
	"context"
	"crypto/x509"
	"errors"
	"hash/maphash"
	"log/slog"
	"sync"
	"time"

	"github.com/vauban-iot/vauban/access"
	"github.com/vauban-iot/vauban/hub/command"
	"github.com/vauban-iot/vauban/hub/registry"
	"github.com/vauban-iot/vauban/hub/telemetry"
	"github.com/vauban-iot/vauban/hub/twin"
)

// Config is what a hub stands on. All fields are required unless they say otherwise.
type Config struct {
	Hosts    []string // names clients may call it by; the first is its own
	Guard    *access.Guard
	Registry *registry.Registry
	Presence PresenceStore
	Twins    twin.Store
	Mailbox  command.Mailbox
	Sessions command.Sessions
	Intake   *telemetry.Intake
	Router   *command.Router
	// Authorities returns the CAs whose certificates prove devices of type certificateAuthority.
	Authorities func(ctx context.Context) ([]*x509.Certificate, error)
	Now         func() time.Time // nil: time.Now
	Logger      *slog.Logger     // nil: slog.Default()
}

// PresenceStore records who is connected.
type PresenceStore interface {
	SetPresence(ctx context.Context, ps []registry.Presence) error
	ResetPresence(ctx context.Context, now time.Time) error
}

// Hub is one IoT Hub.
type Hub struct {
	cfg Config
	log *slog.Logger
	now func() time.Time

	seed  maphash.Seed
	locks [256]sync.Mutex // order desired updates of one device: see orderDesired

	mu       sync.Mutex
	sessions map[*session]struct{}
}

// New returns a hub. Run must be called for it to keep presence and expire messages.
func New(cfg Config) (*Hub, error) {
	switch {
	case len(cfg.Hosts) == 0, cfg.Guard == nil, cfg.Registry == nil, cfg.Presence == nil, cfg.Twins == nil,
		cfg.Mailbox == nil, cfg.Sessions == nil, cfg.Intake == nil, cfg.Router == nil, cfg.Authorities == nil:
		return nil, errors.New("hub: incomplete configuration")
	}
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	if cfg.Logger == nil {
		cfg.Logger = slog.Default()
	}
	return &Hub{cfg: cfg, log: cfg.Logger, now: cfg.Now, seed: maphash.MakeSeed(), sessions: make(map[*session]struct{})}, nil
}

// Host is the hub's own name.
func (h *Hub) Host() string { return h.cfg.Hosts[0] }

const (
	activityPeriod = 5 * time.Second // how late lastActivityTime may be
	expiryPeriod   = 30 * time.Second
)

// Run keeps what time changes: last activity and expired messages. Everything that was
// connected when the hub last stopped is marked disconnected first.
func (h *Hub) Run(ctx context.Context) error {
	if err := h.cfg.Presence.ResetPresence(ctx, h.now()); err != nil {
		return err
	}
	activity := time.NewTicker(activityPeriod)
	defer activity.Stop()
	expiry := time.NewTicker(expiryPeriod)
	defer expiry.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-activity.C:
			h.saveActivity(ctx)
		case <-expiry.C:
			if _, err := h.cfg.Mailbox.Expire(ctx, h.now()); err != nil && ctx.Err() == nil {
				h.log.Error("expired messages not removed", "err", err)
			}
		}
	}
}

func (h *Hub) saveActivity(ctx context.Context) {
	h.mu.Lock()
	var ps []registry.Presence
	for s := range h.sessions {
		if at := s.activity.Swap(0); at != 0 {
			ps = append(ps, registry.Presence{ID: s.id, Activity: time.UnixMicro(at).UTC()})
		}
	}
	h.mu.Unlock()
	if len(ps) == 0 {
		return
	}
	if err := h.cfg.Presence.SetPresence(ctx, ps); err != nil && ctx.Err() == nil {
		h.log.Error("activity not saved", "err", err)
	}
}
