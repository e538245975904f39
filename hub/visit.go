package hub

import (
	"context"
	"slices"
	"sync"
	"time"

	"github.com/vauban-iot/vauban/fault"
	"github.com/vauban-iot/vauban/hub/activity"
	"github.com/vauban-iot/vauban/hub/command"
	"github.com/vauban-iot/vauban/hub/meter"
	"github.com/vauban-iot/vauban/hub/registry"
	"github.com/vauban-iot/vauban/hub/throttle"
	"github.com/vauban-iot/vauban/hub/upload"
	"github.com/vauban-iot/vauban/iot"
)

// visit is one authenticated request of a device without a session.
type visit struct {
	hub        *Hub
	id         iot.ID
	generation string
	authMethod string
	level      registry.Level
}

var _ iot.Visit = (*visit)(nil)

// Visit authenticates a device for one request. Its failures are those of Connect.
func (h *Hub) Visit(ctx context.Context, c iot.Credentials) (iot.Visit, error) {
	p, err := h.authenticate(ctx, c)
	if err != nil {
		return nil, err
	}
	v := &visit{hub: h, id: c.ID, generation: p.identity.Generation, authMethod: p.method, level: p.level}
	h.observed(p.level, c.ID, "calls", "remote", c.Remote)
	h.visited(c.ID)
	h.seen(c, p)
	return v, nil
}

// seen tells of a device that came itself: a gateway's connection says nothing of those behind it.
func (h *Hub) seen(c iot.Credentials, p proof) {
	if h.cfg.Seen != nil && p.above == nil {
		h.cfg.Seen(c)
	}
}

// visited notes that a device was here, for saveActivity. A visit leaves the connection state alone.
func (h *Hub) visited(id iot.ID) {
	now := h.now()
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.visits == nil {
		h.visits = make(map[iot.ID]time.Time)
	}
	h.visits[id] = now
}

// landing collects the outcomes of the messages of one visit.
type landing struct {
	mu   sync.Mutex
	left int
	err  error
	done chan struct{}
}

// Acked implements iot.Acker.
func (l *landing) Acked(_ uint64, err error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if err != nil && l.err == nil {
		l.err = err
	}
	if l.left--; l.left == 0 {
		close(l.done)
	}
}

// Telemetry implements iot.Visit.
func (v *visit) Telemetry(ctx context.Context, ms []iot.Message) error {
	if len(ms) == 0 {
		return nil
	}
	v.hub.cfg.Activity.Add(v.id.Device, activity.HttpD2CMessages, len(ms))
	now := v.hub.now()
	l := &landing{left: len(ms), done: make(chan struct{})}
	for i := range ms {
		m := &ms[i]
		m.Source, m.From, m.Generation, m.AuthMethod, m.Enqueued = iot.Telemetry, v.id, v.generation, v.authMethod, now
		v.hub.submit(m, l, uint64(i))
	}
	select {
	case <-l.done:
		return l.err
	case <-ctx.Done(): // the messages are on their way all the same
		return fault.Wrap(fault.Timeout, context.Cause(ctx), "the device left before its messages were stored")
	}
}

// Receive implements iot.Visit.
func (v *visit) Receive(ctx context.Context, lock time.Duration) (iot.Mail, bool, error) {
	if err := v.barred("asks for a message"); err != nil {
		return iot.Mail{}, false, err
	}
	if err := v.hub.cfg.Throttle.Wait(ctx, throttle.Receives, 1); err != nil {
		return iot.Mail{}, false, err
	}
	now := v.hub.now()
	ms, err := v.hub.cfg.Mailbox.Lock(ctx, v.id, 1, now, now.Add(lock))
	if err != nil || len(ms) == 0 {
		return iot.Mail{}, false, err
	}
	return ms[0], true, nil
}

// Settle implements iot.Visit.
func (v *visit) Settle(ctx context.Context, lockToken string, how iot.Settlement) error {
	if err := v.barred("settles a message"); err != nil {
		return err
	}
	err := v.hub.cfg.Mailbox.Settle(ctx, v.id, lockToken, how, maxDelivery, v.hub.now())
	if err != nil {
		return err
	}
	switch how {
	case iot.Completed:
		v.hub.cfg.Meter.Count(meter.MailCompleted)
		v.hub.cfg.Activity.Add(v.id.Device, activity.HttpC2DMessages, 1)
	case iot.Rejected:
		v.hub.cfg.Meter.Count(meter.MailRejected)
		v.hub.cfg.Activity.Add(v.id.Device, activity.HttpC2DRejectedMessages, 1)
	case iot.Abandoned:
		v.hub.cfg.Meter.Count(meter.MailAbandoned)
		v.hub.cfg.Router.MailWaits(v.id)
	}
	return nil
}

// BeginUpload implements iot.Visit.
func (v *visit) BeginUpload(ctx context.Context, name string) (iot.Upload, error) {
	if err := v.barred("uploads a file"); err != nil {
		return iot.Upload{}, err
	}
	if v.hub.cfg.Uploads == nil {
		return iot.Upload{}, upload.ErrNoStorage
	}
	if err := v.hub.cfg.Throttle.Wait(ctx, throttle.Uploads, 1); err != nil {
		return iot.Upload{}, err
	}
	return v.hub.cfg.Uploads.Begin(ctx, v.id, name)
}

// EndUpload implements iot.Visit.
func (v *visit) EndUpload(ctx context.Context, correlationID string, success bool) error {
	if v.hub.cfg.Uploads == nil {
		return upload.ErrNoStorage
	}
	err := v.hub.cfg.Uploads.End(ctx, v.id, correlationID, success)
	if err == nil && success {
		v.hub.cfg.Activity.Add(v.id.Device, activity.FileUploads, 1)
	}
	return err
}

// InvokeFrom calls a direct method for a module: of its own device and of its device's other modules,
// and of the devices below an edge device. Other targets are fault.NotFound, as if they were not there.
func (h *Hub) InvokeFrom(ctx context.Context, caller, target iot.ID, m command.Method) (command.Result, error) {
	from, err := h.cfg.Registry.Identity(ctx, iot.ID{Device: caller.Device})
	if err != nil {
		return command.Result{}, err
	}
	h.observed(from.Containment, caller, "calls another", "target", target.String(), "refused", held(from.Containment))
	if held(from.Containment) {
		return command.Result{}, errContained
	}
	if target.Device != caller.Device {
		to, err := h.cfg.Registry.Identity(ctx, iot.ID{Device: target.Device})
		if err != nil && !fault.Is(err, fault.NotFound) {
			return command.Result{}, err
		}
		if err != nil || from.Scope == "" || !slices.Contains(to.ParentScopes, from.Scope) || !from.Edge {
			return command.Result{}, fault.New(fault.NotFound, "%s is no device below %s", target.Device, caller.Device)
		}
	}
	if err := h.cfg.Throttle.Wait(ctx, throttle.Methods, throttle.Steps(len(m.Payload))); err != nil {
		return command.Result{}, err
	}
	return h.Invoke(ctx, target, m)
}
