package registry

import (
	"context"
	"slices"
	"time"

	"github.com/vauban-iot/vauban/fault"
	"github.com/vauban-iot/vauban/hub/twin"
	"github.com/vauban-iot/vauban/iot"
)

// EdgeHub and EdgeAgent are the modules of the edge runtime. Every edge device has them (hub-service §2.5).
const (
	EdgeAgent = "$edgeAgent"
	EdgeHub   = "$edgeHub"
)

var systemModules = []string{EdgeAgent, EdgeHub}

// MaxModules is how many modules a device may have beside those of the edge runtime.
const MaxModules = 20

var (
	// ErrTooManyModules refuses a module beyond MaxModules. It is fault.TooLarge.
	ErrTooManyModules = fault.New(fault.TooLarge, "the device has %d modules, and may have no more", MaxModules)
	// ErrSystemModule refuses to make or remove a module whose id is the edge runtime's. It is fault.Forbidden.
	ErrSystemModule = fault.New(fault.Forbidden, "module ids that begin with $ belong to the edge runtime; they come and go with capabilities.iotEdge")
)

// SystemModule reports whether an id is one the edge runtime owns.
func SystemModule(module string) bool { return slices.Contains(systemModules, module) }

// reserved reports whether a module id belongs to the edge runtime, known or not.
func reserved(module string) bool { return module != "" && module[0] == '$' }

// Modules returns the modules of a device, ordered by id; fault.NotFound when there is no such device.
func (r *Registry) Modules(ctx context.Context, device string) ([]Identity, error) {
	if _, err := r.store.Identity(ctx, iot.ID{Device: device}); err != nil {
		return nil, err
	}
	return r.store.Modules(ctx, device)
}

// runtime is what an edge device is born with. Its modules have no credentials until the runtime
// asks for some.
func runtime(device string, now time.Time) []Identity {
	ms := make([]Identity, len(systemModules))
	for i, m := range systemModules {
		ms[i] = Identity{
			ID: iot.ID{Device: device, Module: m}, Generation: generation(now), ETag: nextETag(""), Status: Enabled,
			Authentication: Authentication{Type: None}, ManagedBy: "iotEdge",
		}
	}
	return ms
}

// addRuntime gives a device that became an edge device the modules it lacks.
func (r *Registry) addRuntime(ctx context.Context, device string, now time.Time) error {
	for _, m := range runtime(device, now) {
		t := twin.New(m.ID)
		t.Facts = r.created(m, t)
		if err := r.store.Create(ctx, m, t); err != nil && !fault.Is(err, fault.AlreadyExists) {
			return err
		}
	}
	return nil
}

// checkReserved refuses a new module whose id is not free to choose. Those of an edge device exist already, which
// is for the store to say.
func (r *Registry) checkReserved(ctx context.Context, id iot.ID) error {
	if !reserved(id.Module) {
		return nil
	}
	if _, err := r.store.Identity(ctx, iot.ID{Device: id.Device}); err != nil {
		return err // an unknown device has the first word
	}
	if _, err := r.store.Identity(ctx, id); !fault.Is(err, fault.NotFound) {
		return err
	}
	return ErrSystemModule
}

// forModule is what a change may set of a module: it has neither a status nor a place of its own.
func (c Change) forModule() Change {
	return Change{DeviceID: c.DeviceID, ModuleID: c.ModuleID, ManagedBy: c.ManagedBy, Authentication: c.Authentication}
}

// Documents of modules (hub-service §2.3).

type moduleDocument struct {
	ModuleID             string                 `json:"moduleId"`
	ManagedBy            *string                `json:"managedBy"`
	DeviceID             string                 `json:"deviceId"`
	GenerationID         string                 `json:"generationId"`
	ETag                 iot.ETag               `json:"etag"`
	ConnectionState      string                 `json:"connectionState"`
	ConnectionStateTime  string                 `json:"connectionStateUpdatedTime"`
	LastActivity         string                 `json:"lastActivityTime"`
	CloudToDeviceWaiting int                    `json:"cloudToDeviceMessageCount"`
	Authentication       authenticationDocument `json:"authentication"`
}

func (d Identity) moduleDocument() []byte {
	return marshal(moduleDocument{
		ModuleID: d.ID.Module, ManagedBy: orNull(d.ManagedBy), DeviceID: d.ID.Device, GenerationID: d.Generation, ETag: d.ETag,
		ConnectionState: ConnectionState(d), ConnectionStateTime: iot.FormatTime(d.ConnectionTime), LastActivity: iot.FormatTime(d.LastActivity),
		CloudToDeviceWaiting: d.Pending, Authentication: d.Authentication.document(),
	})
}
