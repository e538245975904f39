package hub

import (
	"context"
	"crypto/x509"
	"encoding/json"
	"sync/atomic"
	"time"

	"github.com/vauban-iot/vauban/fault"
	"github.com/vauban-iot/vauban/hub/activity"
	"github.com/vauban-iot/vauban/hub/command"
	"github.com/vauban-iot/vauban/hub/meter"
	"github.com/vauban-iot/vauban/hub/registry"
	"github.com/vauban-iot/vauban/hub/throttle"
	"github.com/vauban-iot/vauban/hub/twin"
	"github.com/vauban-iot/vauban/iot"
)

// session is one connected device.
type session struct {
	hub        *Hub
	id         iot.ID
	link       iot.Link
	route      *command.Route
	generation string
	authMethod string
	modelID    string
	persistent bool
	above      []iot.ID            // see proof
	own        bool                // see proof
	vouched    bool                // see proof
	shown      []*x509.Certificate // that the connection was made with; nil: a token
	remote     string
	level      atomic.Uint32 // registry.Level, see barred
	expiry     *time.Timer   // closes the link when its token is too old; nil for certificates

	activity atomic.Int64 // microseconds since 1970 of the last message not yet saved; 0: none
}

var _ iot.Session = (*session)(nil)

// tokenGrace is how long a live connection outlives its token (hub-device §2.9, §6.1).
const tokenGrace = 10 * time.Minute

// Connect authenticates a device and opens its session. Its failures are
// fault.Unauthorized, whatever was wrong with the credentials, and fault.Disabled.
func (h *Hub) Connect(ctx context.Context, c iot.Credentials, want iot.Opening, link iot.Link) (iot.Opened, error) {
	if err := h.resetPresence(ctx); err != nil {
		return iot.Opened{}, err
	}
	p, err := h.authenticate(ctx, c)
	if err != nil {
		return iot.Opened{}, err
	}
	if err := h.cfg.Throttle.Wait(ctx, throttle.Connections, 1); err != nil {
		return iot.Opened{}, err
	}
	s := &session{
		hub: h, id: c.ID, link: link, persistent: !want.Clean, modelID: c.ModelID,
		generation: p.identity.Generation, authMethod: p.method, above: p.above, own: p.own, vouched: p.vouched, remote: c.Remote,
	}
	s.level.Store(uint32(p.level))
	if c.Token == "" {
		s.shown = c.Certificates
	}
	h.observed(p.level, c.ID, "connects", "remote", c.Remote)
	if held(p.level) {
		s.modelID = "" // it is written to the twin
	}
	if err := h.announceModel(ctx, s); err != nil {
		return iot.Opened{}, err
	}
	lock := h.handover(c.ID)
	lock.Lock()
	defer lock.Unlock()
	if s.route, err = h.cfg.Router.Attach(c.ID, link); err != nil {
		return iot.Opened{}, err
	}
	opened, err := s.open(ctx, want)
	if err != nil {
		s.route.Detach()
		return iot.Opened{}, err
	}
	if !p.expires.IsZero() {
		s.expiry = time.AfterFunc(p.expires.Add(tokenGrace).Sub(h.now()), func() {
			link.Close(fault.New(fault.Unauthorized, "the token expired"))
		})
	}
	h.mu.Lock()
	h.sessions[s] = struct{}{}
	h.mu.Unlock()
	if h.cfg.Connected != nil {
		h.cfg.Connected(c.ID, c.Remote)
	}
	h.seen(c, p)
	return opened, nil
}

// open prepares what a session that has its route needs. The lock of handover must be held.
func (s *session) open(ctx context.Context, want iot.Opening) (opened iot.Opened, err error) {
	h := s.hub
	// From here on a change of the identity reaches the link. One that came before may have
	// been missed between the proof and the route.
	if err := h.admit(ctx, s.id, registry.Level(s.level.Load())); err != nil {
		return opened, err
	}
	if s.vouched {
		if _, err := h.cfg.Vouch(ctx, s.shown); err != nil {
			return opened, err
		}
	}
	if want.Clean {
		err = h.cfg.Sessions.DropSession(ctx, s.id)
	} else {
		opened.Subscriptions, opened.Present, err = h.cfg.Sessions.Session(ctx, s.id)
		if err == nil && !opened.Present {
			err = h.cfg.Sessions.SaveSession(ctx, s.id, nil)
		}
	}
	if err != nil {
		return opened, err
	}
	// Messages that an earlier session took and did not settle come again, at once: that session
	// was taken over, or the server crashed (hub-device §2.4).
	if err := h.cfg.Mailbox.Release(ctx, s.id); err != nil {
		return opened, err
	}
	connected := true
	now := h.now()
	opened.Session = s
	return opened, h.presence.set(registry.Presence{
		ID: s.id, Node: h.cfg.Node, Connected: &connected, Time: now, Activity: now, Facts: h.cfg.Events.Connection(s.id, true, now),
	})
}

// announceModel writes the plug and play model of the CONNECT to the twin (hub-device §3.11).
func (h *Hub) announceModel(ctx context.Context, s *session) error {
	if s.modelID == "" {
		return nil
	}
	t, err := h.cfg.Twins.Twin(ctx, s.id)
	if err != nil || t.ModelID == s.modelID {
		return err
	}
	_, err = h.cfg.Twins.UpdateTwin(ctx, s.id, func(t twin.Twin) (twin.Twin, error) {
		t.ModelID = s.modelID
		return t, nil
	})
	return err
}

// Telemetry implements iot.Session.
func (s *session) Telemetry(m *iot.Message, ack iot.Acker, token uint64) {
	now := s.hub.now()
	s.activity.Store(now.UnixMicro())
	m.Source = iot.Telemetry
	m.From = s.id
	m.Generation = s.generation
	m.AuthMethod = s.authMethod
	m.ModelID = s.modelID
	m.Enqueued = now
	s.hub.cfg.Activity.Add(s.id.Device, activity.MqttD2CMessages, 1)
	s.hub.submit(m, ack, token)
}

// Twin implements iot.Session.
func (s *session) Twin(ctx context.Context) ([]byte, error) {
	h := s.hub
	s.activity.Store(h.now().UnixMicro())
	if err := s.barred("reads its twin"); err != nil {
		return nil, err
	}
	var t twin.Twin
	err := h.cfg.Throttle.Wait(ctx, throttle.TwinReads, 1)
	if err == nil {
		t, err = h.cfg.Twins.Twin(ctx, s.id)
	}
	h.cfg.Meter.Outcome(err, meter.DeviceTwinReadSuccess, meter.DeviceTwinReadFailure)
	if err != nil {
		return nil, err
	}
	view := t.DeviceView()
	h.cfg.Meter.Size(meter.DeviceTwinReadSize, len(view))
	h.cfg.Meter.Data(len(view))
	return view, nil
}

// PatchReported implements iot.Session.
func (s *session) PatchReported(ctx context.Context, patch []byte, base int64) (int64, error) {
	h := s.hub
	if err := s.barred("writes its twin"); err != nil {
		return 0, err
	}
	var version int64
	err := h.cfg.Throttle.Wait(ctx, throttle.TwinUpdates, 1)
	if err == nil {
		version, err = s.patchReported(ctx, patch, base)
	}
	h.cfg.Meter.Outcome(err, meter.DeviceTwinUpdateSuccess, meter.DeviceTwinUpdateFailure)
	if err == nil {
		h.cfg.Activity.Add(s.id.Device, activity.TwinUpdates, 1)
		h.cfg.Meter.Size(meter.DeviceTwinUpdateSize, len(patch))
		h.cfg.Meter.Data(len(patch))
	}
	return version, err
}

func (s *session) patchReported(ctx context.Context, patch []byte, base int64) (int64, error) {
	now := s.hub.now()
	s.activity.Store(now.UnixMicro())
	t, err := s.hub.cfg.Twins.UpdateTwin(ctx, s.id, func(t twin.Twin) (twin.Twin, error) {
		next, err := t.ApplyReported(patch, base, now)
		if err == nil && s.hub.cfg.Events.TwinWrites() {
			next.Facts = s.hub.cfg.Events.TwinWritten(t, next, twin.Written{Reported: patch})
		}
		return next, err
	})
	return t.ReportedVersion, err
}

// Listen implements iot.Session.
func (s *session) Listen(f iot.Feature) {
	if held(registry.Level(s.level.Load())) {
		f = 0
	}
	s.route.Listen(f)
}

// mailLock is how long an unsettled message stays hidden (hub-device §7). The messages of
// a session that ends are released at once.
const mailLock = time.Minute

// Mail implements iot.Session.
func (s *session) Mail(ctx context.Context, n int) ([]iot.Mail, error) {
	lock := s.hub.handover(s.id)
	lock.RLock()
	defer lock.RUnlock()
	if !s.route.Current() {
		return nil, nil // the messages are for the session that took over
	}
	if held(registry.Level(s.level.Load())) {
		return nil, nil // they wait
	}
	now := s.hub.now()
	return s.hub.cfg.Mailbox.Lock(ctx, s.id, n, now, now.Add(mailLock))
}

// Settle implements iot.Session.
func (s *session) Settle(ctx context.Context, lockToken string) error {
	err := s.hub.cfg.Mailbox.Settle(ctx, s.id, lockToken, iot.Completed, maxDelivery, s.hub.now())
	if err == nil {
		s.hub.cfg.Meter.Count(meter.MailCompleted)
		s.hub.cfg.Activity.Add(s.id.Device, activity.MqttC2DMessages, 1)
	}
	return err
}

// SaveSubscriptions implements iot.Session.
func (s *session) SaveSubscriptions(ctx context.Context, subs []iot.Subscription) error {
	if !s.persistent {
		return nil
	}
	lock := s.hub.handover(s.id)
	lock.RLock()
	defer lock.RUnlock()
	if !s.route.Current() {
		return nil // the session that took over has its own
	}
	return s.hub.cfg.Sessions.SaveSession(ctx, s.id, subs)
}

// End implements iot.Session.
func (s *session) End(ctx context.Context) {
	h := s.hub
	if s.expiry != nil {
		s.expiry.Stop()
	}
	h.mu.Lock()
	delete(h.sessions, s)
	h.mu.Unlock()
	lock := h.handover(s.id)
	lock.Lock()
	defer lock.Unlock()
	if !s.route.Detach() {
		return // the identity has a newer session, whose presence stands
	}
	now := h.now()
	connected := false
	p := registry.Presence{ID: s.id, Node: h.cfg.Node, Connected: &connected, Time: now, Facts: h.cfg.Events.Connection(s.id, false, now)}
	if at := s.activity.Load(); at != 0 {
		p.Activity = time.UnixMicro(at).UTC()
	}
	if err := h.presence.set(p); err != nil {
		h.log.Error("disconnect not recorded", "device", s.id.Device, "module", s.id.Module, "err", err)
	}
	if err := h.cfg.Mailbox.Release(ctx, s.id); err != nil {
		h.log.Error("messages not released", "device", s.id.Device, "err", err)
	}
}

// methodText is the stamp of hub-device §3.3.
func methodText(m iot.AuthMethod) string {
	b, err := json.Marshal(m)
	if err != nil {
		panic(err) // three strings always marshal
	}
	return string(b)
}
