package hub

import (
	"context"
	"encoding/json"
	"hash/maphash"
	"sync"
	"time"

	"github.com/vauban-iot/vauban/fault"
	"github.com/vauban-iot/vauban/hub/activity"
	"github.com/vauban-iot/vauban/hub/command"
	"github.com/vauban-iot/vauban/hub/digitaltwin"
	"github.com/vauban-iot/vauban/hub/meter"
	"github.com/vauban-iot/vauban/hub/registry"
	"github.com/vauban-iot/vauban/hub/twin"
	"github.com/vauban-iot/vauban/internal/nonce"
	"github.com/vauban-iot/vauban/iot"
	"github.com/vauban-iot/vauban/wire/bag"
)

// Device returns one identity.
func (h *Hub) Device(ctx context.Context, id iot.ID) (registry.Identity, error) {
	return h.cfg.Registry.Identity(ctx, id)
}

// Devices lists at most top identities.
func (h *Hub) Devices(ctx context.Context, top int) ([]registry.Identity, error) {
	return h.cfg.Registry.List(ctx, top)
}

// Statistics counts devices.
func (h *Hub) Statistics(ctx context.Context) (registry.Statistics, error) {
	return h.cfg.Registry.Statistics(ctx)
}

// CreateDevice adds an identity.
func (h *Hub) CreateDevice(ctx context.Context, d registry.Identity) (registry.Identity, error) {
	return h.cfg.Registry.Create(ctx, d, nil)
}

// UpdateDevice changes an identity. A device that may not connect any longer is disconnected, and so are its modules.
func (h *Hub) UpdateDevice(ctx context.Context, id iot.ID, match *iot.Match, c registry.Change) (registry.Identity, error) {
	d, err := h.cfg.Registry.Update(ctx, id, match, c)
	if err != nil {
		return d, err
	}
	if d.Status == registry.Disabled {
		ids, err := h.family(ctx, id)
		if err != nil {
			return d, err
		}
		h.disconnect(ctx, ids, fault.Disabled, "the device was disabled")
	}
	return d, nil
}

// DeleteDevice removes an identity with everything that belongs to it.
func (h *Hub) DeleteDevice(ctx context.Context, id iot.ID, match *iot.Match) error {
	ids, err := h.family(ctx, id) // while they can still be asked for
	if err != nil {
		return err
	}
	if err := h.cfg.Registry.Delete(ctx, id, match); err != nil {
		return err
	}
	h.disconnect(ctx, ids, fault.NotFound, "the device was deleted")
	return nil
}

// Twin returns a twin with the identity it belongs to.
func (h *Hub) Twin(ctx context.Context, id iot.ID) (registry.Identity, twin.Twin, error) {
	d, t, err := h.twin(ctx, id)
	h.twinRead(t, err)
	return d, t, err
}

// twinRead counts a twin that a service read.
func (h *Hub) twinRead(t twin.Twin, err error) {
	h.cfg.Meter.Outcome(err, meter.ServiceTwinReadSuccess, meter.ServiceTwinReadFailure)
	if err == nil {
		h.cfg.Meter.Size(meter.ServiceTwinReadSize, len(t.Tags)+len(t.Desired)+len(t.Reported))
	}
}

// twinUpdated counts an update of a twin by a service, of size bytes.
func (h *Hub) twinUpdated(size int, err error) {
	h.cfg.Meter.Outcome(err, meter.ServiceTwinUpdateSuccess, meter.ServiceTwinUpdateFailure)
	if err == nil {
		h.cfg.Meter.Size(meter.ServiceTwinUpdateSize, size)
	}
}

func (h *Hub) twin(ctx context.Context, id iot.ID) (registry.Identity, twin.Twin, error) {
	d, err := h.cfg.Registry.Identity(ctx, id)
	if err != nil {
		return d, twin.Twin{}, err
	}
	t, err := h.cfg.Twins.Twin(ctx, id)
	return d, t, err
}

// PatchTwin merges tags and desired properties and tells the device.
func (h *Hub) PatchTwin(ctx context.Context, id iot.ID, match *iot.Match, p twin.Patch) (registry.Identity, twin.Twin, error) {
	d, t, err := h.changeTwin(ctx, id, match, p.WrittenTags, func(t twin.Twin) (twin.Twin, json.RawMessage, error) { return t.Apply(p, h.now()) })
	h.twinUpdated(len(p.Tags)+len(p.Desired), err)
	return d, t, err
}

// ReplaceTwin replaces tags and desired properties and tells the device what differs.
func (h *Hub) ReplaceTwin(ctx context.Context, id iot.ID, match *iot.Match, p twin.Patch) (registry.Identity, twin.Twin, error) {
	d, t, err := h.changeTwin(ctx, id, match, nil, func(t twin.Twin) (twin.Twin, json.RawMessage, error) { return t.Replace(p, h.now()) })
	h.twinUpdated(len(p.Tags)+len(p.Desired), err)
	return d, t, err
}

// noTags is for changes of a twin that leave its tags alone.
func noTags(twin.Twin) json.RawMessage { return nil }

// changeTwin carries out a change. tags says what it writes to the tags of a twin; nil: the change replaces the twin.
func (h *Hub) changeTwin(ctx context.Context, id iot.ID, match *iot.Match, tags func(before twin.Twin) json.RawMessage,
	change func(twin.Twin) (twin.Twin, json.RawMessage, error),
) (registry.Identity, twin.Twin, error) {
	// Between the write and the push nobody else may write this twin here, so that
	// patches reach the device in version order.
	lock := h.orderDesired(id)
	lock.Lock()
	defer lock.Unlock()
	var pushed json.RawMessage
	t, err := h.cfg.Twins.UpdateTwin(ctx, id, func(t twin.Twin) (twin.Twin, error) {
		if err := match.Check(t.ETag()); err != nil {
			return t, err
		}
		next, push, err := change(t)
		pushed = push
		if err == nil && h.cfg.Events.TwinWrites() {
			w := twin.Written{Replaced: tags == nil, Desired: push}
			if tags != nil {
				w.Tags = tags(t)
			}
			next.Facts = h.cfg.Events.TwinWritten(t, next, w)
		}
		return next, err
	})
	if err != nil {
		return registry.Identity{}, t, err
	}
	h.cfg.Activity.Add(id.Device, activity.TwinUpdates, 1)
	if pushed != nil {
		h.cfg.Router.Desired(id, t.DesiredVersion, pushed)
	}
	d, err := h.cfg.Registry.Identity(ctx, id)
	return d, t, err
}

// DigitalTwin returns a device's digital twin and the ETag of its twin.
func (h *Hub) DigitalTwin(ctx context.Context, id iot.ID) (json.RawMessage, iot.ETag, error) {
	t, err := h.cfg.Twins.Twin(ctx, id)
	h.twinRead(t, err)
	if err != nil {
		return nil, "", err
	}
	return digitaltwin.Document(t), t.ETag(), nil
}

// PatchDigitalTwin changes desired properties as p says, tells the device, and returns the twin's new ETag.
func (h *Hub) PatchDigitalTwin(ctx context.Context, id iot.ID, match *iot.Match, p digitaltwin.Patch) (iot.ETag, error) {
	size := 0
	_, t, err := h.changeTwin(ctx, id, match, noTags, func(t twin.Twin) (twin.Twin, json.RawMessage, error) {
		patch, err := p.Of(t)
		if err != nil {
			return t, nil, err
		}
		size = len(patch.Desired)
		return t.Apply(patch, h.now())
	})
	h.twinUpdated(size, err)
	return t.ETag(), err
}

// ChangeTwin changes a twin and pushes to the device what change says, unless that is nil.
func (h *Hub) ChangeTwin(ctx context.Context, id iot.ID, change func(twin.Twin) (twin.Twin, json.RawMessage, error)) error {
	_, _, err := h.changeTwin(ctx, id, nil, noTags, change)
	return err
}

func (h *Hub) orderDesired(id iot.ID) *sync.Mutex {
	return &h.locks[maphash.Comparable(h.seed, id)%uint64(len(h.locks))]
}

// Limits of direct methods (hub-service §5.1).
const (
	maxMethodName    = 100
	maxMethodPayload = 128 << 10
	minResponse      = 5 * time.Second
	maxResponse      = 300 * time.Second
)

// Invoke calls a direct method. Beside the failures of command.Router.Invoke
// they are fault.NotFound and Invalid.
func (h *Hub) Invoke(ctx context.Context, id iot.ID, m command.Method) (command.Result, error) {
	res, err := h.invoke(ctx, id, m)
	h.cfg.Meter.Outcome(err, meter.MethodSuccess, meter.MethodFailure)
	if err == nil {
		h.cfg.Meter.Size(meter.MethodRequest, len(m.Payload))
		h.cfg.Meter.Size(meter.MethodResponse, len(res.Payload))
		h.cfg.Meter.Data(len(m.Payload) + len(res.Payload))
	}
	return res, err
}

func (h *Hub) invoke(ctx context.Context, id iot.ID, m command.Method) (command.Result, error) {
	if err := checkMethod(m); err != nil {
		return command.Result{}, err
	}
	// Who is online exists: most calls need not ask the registry.
	now := m
	now.ConnectTimeout = 0
	res, err := h.cfg.Router.Invoke(ctx, id, now)
	if fault.Is(err, fault.NotOnline) {
		switch d, err := h.cfg.Registry.Identity(ctx, id); {
		case err != nil:
			return command.Result{}, err
		case held(d.Containment):
			return command.Result{}, fault.New(fault.NotOnline, "the device is contained (%s): nothing reaches it until its operator releases it", d.Containment)
		}
		if m.ConnectTimeout > 0 {
			res, err = h.cfg.Router.Invoke(ctx, id, m)
		}
	}
	h.cfg.Activity.Add(id.Device, activity.DirectMethodInvokes, 1)
	if err == nil && len(res.Payload) > maxMethodPayload {
		return command.Result{}, fault.New(fault.BadDeviceResponse, "the device answered with %d bytes, %d are allowed", len(res.Payload), maxMethodPayload)
	}
	return res, err
}

// checkMethod judges what a caller asks for, whichever device it is for.
func checkMethod(m command.Method) error {
	switch {
	case m.Name == "" || len(m.Name) > maxMethodName:
		return fault.New(fault.Invalid, "methodName must have 1 to %d characters", maxMethodName)
	case !plainMethodName(m.Name):
		return fault.New(fault.Invalid, "methodName may hold letters, digits and punctuation, but none of / # + and no space")
	case len(m.Payload) > maxMethodPayload:
		return fault.New(fault.TooLarge, "the payload is over %d bytes", maxMethodPayload)
	case m.ResponseTimeout < minResponse || m.ResponseTimeout > maxResponse:
		return fault.New(fault.Invalid, "responseTimeoutInSeconds must be 5 to 300")
	case m.ConnectTimeout < 0 || m.ConnectTimeout > maxResponse:
		return fault.New(fault.Invalid, "connectTimeoutInSeconds must be 0 to 300")
	}
	return nil
}

// plainMethodName refuses what would change the topic a method travels on.
func plainMethodName(s string) bool {
	for i := range len(s) {
		if c := s[i]; c <= ' ' || c >= 0x7f || c == '/' || c == '#' || c == '+' {
			return false
		}
	}
	return true
}

// Limits of cloud-to-device messages (hub-device §7).
const (
	maxMail     = 64 << 10
	maxMailBag  = 60 << 10 // properties as they stand in an MQTT topic, which has 64 KiB less one byte
	maxQueue    = 50
	maxDelivery = 10 // a message abandoned so often is dead
	defaultLife = time.Hour
	maxLife     = 48 * time.Hour
)

// Send queues a cloud-to-device message and returns its message id. Failures are
// fault.NotFound, TooLarge, QueueFull and Invalid.
func (h *Hub) Send(ctx context.Context, m iot.Mail) (string, error) {
	now := h.now()
	if m.To.Module != "" {
		return "", fault.New(fault.Invalid, "modules receive no cloud-to-device messages")
	}
	if size := mailSize(m); size > maxMail {
		return "", fault.New(fault.TooLarge, "the message has %d bytes, %d are allowed", size, maxMail)
	}
	if size := len(bag.Append(bag.Append(nil, m.System), m.Properties)); size > maxMailBag {
		return "", fault.New(fault.TooLarge, "the properties take %d bytes in a topic, %d are allowed", size, maxMailBag)
	}
	switch m.Ack {
	case "":
		m.Ack = "none"
	case "none", "positive", "negative", "full":
	default:
		return "", fault.New(fault.Invalid, "iothub-ack must be none, positive, negative or full")
	}
	switch {
	case m.Expires.IsZero():
		m.Expires = now.Add(defaultLife)
	case !m.Expires.After(now):
		return "", fault.New(fault.Invalid, "the expiry time is past")
	case m.Expires.After(now.Add(maxLife)):
		m.Expires = now.Add(maxLife)
	}
	if m.MessageID == "" {
		m.MessageID = nonce.New()
	}
	m.Enqueued = now
	if err := h.cfg.Throttle.Message(mailSize(m)); err != nil {
		return "", err
	}
	h.cfg.Meter.Data(mailSize(m))
	if _, err := h.cfg.Mailbox.Enqueue(ctx, m, maxQueue, now); err != nil {
		return "", err
	}
	h.cfg.Router.MailWaits(m.To)
	return m.MessageID, nil
}

func mailSize(m iot.Mail) int {
	n := len(m.Body) + len(m.MessageID)
	for _, ps := range [][]bag.Property{m.System, m.Properties} {
		for _, p := range ps {
			n += len(p.Name) + len(p.Value)
		}
	}
	return n
}

// Assignment is what provisioning wants of the hub (dps §9.4).
type Assignment struct {
	ID             iot.ID
	Authentication registry.Authentication
	Edge           bool
	Tags, Desired  json.RawMessage // initial twin; nil: leave
	ResetTwin      bool            // an existing twin starts again from the initial one
}

// Assign creates or updates a device for provisioning. created tells whether it is new.
func (h *Hub) Assign(ctx context.Context, a Assignment) (created bool, err error) {
	initial := twin.Patch{Tags: a.Tags, HasTags: a.Tags != nil, Desired: a.Desired, HasDesired: a.Desired != nil}
	t, _, err := twin.New(a.ID).Apply(initial, h.now())
	if err != nil {
		return false, err
	}
	_, err = h.cfg.Registry.Create(ctx, registry.Identity{
		ID: a.ID, Status: registry.Enabled, Authentication: a.Authentication, Edge: a.Edge,
	}, &t)
	if !fault.Is(err, fault.AlreadyExists) {
		return err == nil, err
	}
	auth := a.Authentication
	if _, err := h.cfg.Registry.Update(ctx, a.ID, nil, registry.Change{Authentication: &auth, Edge: &a.Edge}); err != nil {
		return false, err
	}
	if !a.ResetTwin {
		return false, nil
	}
	initial.HasTags, initial.HasDesired = true, true
	_, _, err = h.ReplaceTwin(ctx, a.ID, nil, initial)
	return false, err
}
