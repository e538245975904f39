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
	"sync/atomic"
	"time"

	"github.com/vauban-iot/vauban/access"
	"github.com/vauban-iot/vauban/hub/activity"
	"github.com/vauban-iot/vauban/hub/command"
	"github.com/vauban-iot/vauban/hub/credential"
	"github.com/vauban-iot/vauban/hub/event"
	"github.com/vauban-iot/vauban/hub/fleet"
	"github.com/vauban-iot/vauban/hub/fleet/configuration"
	"github.com/vauban-iot/vauban/hub/fleet/job"
	"github.com/vauban-iot/vauban/hub/meter"
	"github.com/vauban-iot/vauban/hub/notice"
	"github.com/vauban-iot/vauban/hub/registry"
	"github.com/vauban-iot/vauban/hub/telemetry"
	"github.com/vauban-iot/vauban/hub/throttle"
	"github.com/vauban-iot/vauban/hub/transfer"
	"github.com/vauban-iot/vauban/hub/twin"
	"github.com/vauban-iot/vauban/hub/upload"
	"github.com/vauban-iot/vauban/iot"
)

// Config is what a hub stands on. All fields are required unless they say otherwise.
type Config struct {
	Hosts    []string // names clients may call it by; the first is its own
	Guard    *access.Guard
	Registry *registry.Registry
	Presence PresenceStore
	Twins    twin.Store
	Fleet    *fleet.Fleet
	Jobs     job.Store
	// Transfers keeps imports and exports of identities, and Blobs is where they go; nil: they are refused.
	Transfers transfer.Store
	Blobs     transfer.Blobs
	// Configurations keeps automatic configurations and deployments.
	Configurations configuration.Store
	Mailbox        command.Mailbox
	Notices        notice.Store
	Uploads        *upload.Service // nil: devices may not store files
	Sessions       command.Sessions
	Issuer         Issuer           // nil: no device has a certificate of ours
	Credentials    credential.Store // nil: devices may not renew their certificates
	RenewalPause   time.Duration    // see credential.Config.Pause
	Intake         *telemetry.Intake
	Router         *command.Router
	Events         *event.Maker // nil: the hub tells of nothing
	Node           string       // tells this server from others on the same store; empty when there are none
	// Authorities returns the CAs whose certificates prove devices of type certificateAuthority.
	Authorities func(ctx context.Context) ([]*x509.Certificate, error)
	// Vouch says whether a certificate of one of these CAs, whose chain verified, still counts, when somebody else answers for it
	// (vouched): it is short-lived then, its session ends when it does, and it is not exchanged for another. Nil: nobody is asked.
	// Failures are fault.Unauthorized, Disabled and Unavailable.
	Vouch func(ctx context.Context, chain []*x509.Certificate) (vouched bool, err error)
	// Refused returns the kinds of tokens that prove nobody, whoever signed them; nil: none are.
	Refused func(ctx context.Context) (access.Refused, error)
	// Throttle limits how often things may be asked of the hub; nil: nothing is limited.
	Throttle *throttle.Limiter
	Meter    *meter.Meter // nil: nothing is counted
	// Activity counts what devices do and what is done with them; nil: nobody wants to know.
	Activity *activity.Tally
	// Mask writes over what is not to be kept of a message, before anything else is done with it; nil: nothing is.
	Mask func(m *iot.Message)
	// Rejected hears of a registered device's own credential that proved nothing, and of identities that are not registered; it waits for
	// nothing. Nil: nobody does.
	Rejected func(c iot.Credentials, why Rejection)
	// Connected hears who connected and from where, and waits for nothing; nil: nobody does.
	Connected func(id iot.ID, remote string)
	// Seen hears what a device showed that proved itself for itself, at each connection and request, and waits for nothing; nil: nobody
	// does.
	Seen   func(c iot.Credentials)
	Now    func() time.Time // nil: time.Now
	Logger *slog.Logger     // nil: slog.Default()
}

// PresenceStore records who is connected.
type PresenceStore interface {
	SetPresence(ctx context.Context, ps []registry.Presence) error
	ResetPresence(ctx context.Context, node string, now time.Time, lost func(iot.ID) []iot.Message) error
	KeepNode(ctx context.Context, node string, now, dead time.Time, lost func(iot.ID) []iot.Message) ([]string, error)
}

// Hub is one IoT Hub.
type Hub struct {
	cfg Config
	log *slog.Logger
	now func() time.Time

	paced          pacer
	presence       presenceWriter
	jobs           *job.Service
	transfers      *transfer.Service
	configurations *configuration.Service
	credentials    *credential.Service // nil: devices may not renew their certificates

	seed     maphash.Seed
	locks    [256]sync.Mutex   // order desired updates of one device: see orderDesired
	changing [256]sync.RWMutex // held while one device's session changes hands: see handover

	resetMu sync.Mutex
	reset   atomic.Bool // presence left by an earlier run is gone

	mu       sync.Mutex
	sessions map[*session]struct{}
	visits   map[iot.ID]time.Time // when devices without a session were here since saveActivity ran; nil: none
}

// New returns a hub. Run must be called for it to keep presence and expire messages.
func New(cfg Config) (*Hub, error) {
	switch {
	case len(cfg.Hosts) == 0, cfg.Guard == nil, cfg.Registry == nil, cfg.Presence == nil, cfg.Twins == nil, cfg.Fleet == nil, cfg.Jobs == nil, cfg.Transfers == nil, cfg.Configurations == nil,
		cfg.Mailbox == nil, cfg.Notices == nil, cfg.Sessions == nil, cfg.Intake == nil, cfg.Router == nil, cfg.Authorities == nil:
		return nil, errors.New("hub: incomplete configuration")
	}
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	if cfg.Logger == nil {
		cfg.Logger = slog.Default()
	}
	h := &Hub{cfg: cfg, log: cfg.Logger, now: cfg.Now, seed: maphash.MakeSeed(), sessions: make(map[*session]struct{})}
	h.paced.intake = cfg.Intake
	h.presence.store = cfg.Presence
	h.jobs = job.New(job.Config{Store: cfg.Jobs, Hub: workers{h}, Finder: cfg.Fleet, Tell: cfg.Events.JobDone, Ended: h.jobEnded, Now: cfg.Now, Logger: cfg.Logger})
	h.transfers = transfer.New(transfer.Config{Store: cfg.Transfers, Hub: h, Configurations: carrier{h}, Blobs: cfg.Blobs, Now: cfg.Now, Logger: cfg.Logger})
	h.configurations = configuration.New(configuration.Config{Store: cfg.Configurations, Hub: h, Fleet: cfg.Fleet, Now: cfg.Now, Logger: cfg.Logger})
	if cfg.Issuer != nil && cfg.Credentials != nil {
		var err error
		if h.credentials, err = credential.New(credential.Config{Store: cfg.Credentials, Issuer: cfg.Issuer, Pause: cfg.RenewalPause, Now: cfg.Now, Logger: cfg.Logger}); err != nil {
			return nil, err
		}
	}
	return h, nil
}

// Host is the hub's own name.
func (h *Hub) Host() string { return h.cfg.Hosts[0] }

const (
	activityPeriod = 5 * time.Second // how late lastActivityTime may be
	expiryPeriod   = 30 * time.Second
	beatPeriod     = 5 * time.Second
	deadAfter      = 4 * beatPeriod // a server that pauses for a moment keeps its devices
)

// Run keeps what time changes: last activity and expired messages. Everything that was
// connected when the hub last stopped is marked disconnected first.
func (h *Hub) Run(ctx context.Context) error {
	if err := h.resetPresence(ctx); err != nil {
		return err
	}
	activity := time.NewTicker(activityPeriod)
	defer activity.Stop()
	expiry := time.NewTicker(expiryPeriod)
	defer expiry.Stop()
	beat := time.NewTicker(beatPeriod)
	defer beat.Stop()
	h.keepNode(ctx)
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-beat.C:
			h.keepNode(ctx)
			h.dropOrphans(ctx)
			h.watch(ctx)
		case <-activity.C:
			h.saveActivity(ctx)
		case <-expiry.C:
			h.expire(ctx)
		}
	}
}

// keepNode tells other servers that this one lives, and speaks for those that do not.
func (h *Hub) keepNode(ctx context.Context) {
	now := h.now()
	gone, err := h.cfg.Presence.KeepNode(ctx, h.cfg.Node, now, now.Add(-deadAfter), h.cfg.Events.Lost(now))
	if err != nil && ctx.Err() == nil {
		h.log.Error("this server cannot tell others that it lives", "node", h.cfg.Node, "err", err)
	}
	for _, node := range gone {
		h.log.Warn("a server is gone; its devices count as disconnected", "node", node)
	}
}

// resetPresence runs once, before the first session opens: later it would undo what sessions wrote.
func (h *Hub) resetPresence(ctx context.Context) error {
	if h.reset.Load() {
		return nil
	}
	h.resetMu.Lock()
	defer h.resetMu.Unlock()
	if h.reset.Load() {
		return nil
	}
	now := h.now()
	if err := h.cfg.Presence.ResetPresence(ctx, h.cfg.Node, now, h.cfg.Events.Lost(now)); err != nil {
		return err
	}
	h.reset.Store(true)
	return nil
}

// handover is the lock of id's session: held for writing while one begins or ends, for reading
// while one changes what the next would find.
func (h *Hub) handover(id iot.ID) *sync.RWMutex {
	return &h.changing[maphash.Comparable(h.seed, id)%uint64(len(h.changing))]
}

func (h *Hub) saveActivity(ctx context.Context) {
	h.mu.Lock()
	var ps []registry.Presence
	for s := range h.sessions {
		if at := s.activity.Swap(0); at != 0 {
			ps = append(ps, registry.Presence{ID: s.id, Activity: time.UnixMicro(at).UTC()})
		}
	}
	for id, at := range h.visits {
		ps = append(ps, registry.Presence{ID: id, Activity: at})
	}
	h.visits = nil
	h.mu.Unlock()
	if len(ps) == 0 {
		return
	}
	if err := h.cfg.Presence.SetPresence(ctx, ps); err != nil && ctx.Err() == nil {
		h.log.Error("activity not saved", "err", err)
	}
}
