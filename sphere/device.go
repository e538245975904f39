package sphere

import (
	"context"
	"crypto/x509"
	"encoding/hex"
	"slices"
	"strings"
	"time"

	"github.com/vauban-iot/vauban/fault"
	"github.com/vauban-iot/vauban/iot"
	"github.com/vauban-iot/vauban/wire/capability"
)

// Devices lists a tenant's by id, without their capabilities and images.
func (s *Service) Devices(ctx context.Context, c Caller, tenant string, f DeviceFilter, p Page) (List[Device], error) {
	id, err := s.allow(ctx, c, tenant, "Devices")
	if err != nil {
		return List[Device]{}, err
	}
	f.Product, f.Group = Fold(f.Product), Fold(f.Group)
	return page(p, func(d Device) string { return d.ID }, func(after string, limit int) ([]Device, error) {
		return s.store.TenantDevices(ctx, id, f, after, limit)
	})
}

// CountDevices counts them.
func (s *Service) CountDevices(ctx context.Context, c Caller, tenant string, f DeviceFilter) (int64, error) {
	id, err := s.allow(ctx, c, tenant, "CountDevices")
	if err != nil {
		return 0, err
	}
	f.Product, f.Group = Fold(f.Product), Fold(f.Group)
	return s.store.CountTenantDevices(ctx, id, f)
}

// Device returns one with its capabilities in force and what it last measured. Whatever the letters' case.
func (s *Service) Device(ctx context.Context, c Caller, tenant, device string) (Device, error) {
	id, err := s.allow(ctx, c, tenant, "Device")
	if err != nil {
		return Device{}, err
	}
	if device, err = deviceID(device); err != nil {
		return Device{}, err
	}
	return s.store.TenantDevice(ctx, id, device, s.now())
}

// AssignDevices moves devices to a group, named by its id, or with "" or ".unassigned" to none. All of them or, when one is not there, none. At most
// MaxPage at once. match, which is for a single device, may be nil.
func (s *Service) AssignDevices(ctx context.Context, c Caller, tenant string, devices []string, group string, match *iot.Match) error {
	id, err := s.allow(ctx, c, tenant, "AssignDevices")
	if err != nil {
		return err
	}
	ids, err := deviceIDs(devices)
	if err != nil {
		return err
	}
	if match != nil && len(ids) != 1 {
		return fault.New(fault.Invalid, "an ETag goes with one device")
	}
	if err := s.assign(ctx, id, ids, group, match); err != nil {
		return err
	}
	for _, d := range ids {
		s.audit(c, "AssignDevices", id, d, "group", group)
	}
	return nil
}

func (s *Service) assign(ctx context.Context, tenant string, ids []string, group string, match *iot.Match) error {
	if group == PseudoUnassigned || group == PseudoDefault {
		group = ""
	}
	tag, now := newETag(), s.now().UTC()
	return s.store.AssignDevices(ctx, tenant, ids, Fold(group), func(d Device) (Device, error) {
		err := match.Check(d.ETag)
		d.ETag, d.Updated = tag, now
		return d, err
	})
}

// deviceIDs checks a list of ids and leaves out what is there twice.
func deviceIDs(devices []string) ([]string, error) {
	if len(devices) == 0 || len(devices) > MaxPage {
		return nil, fault.New(fault.Invalid, "name 1 to %d devices", MaxPage)
	}
	ids := make([]string, len(devices))
	for i, d := range devices {
		var err error
		if ids[i], err = deviceID(d); err != nil {
			return nil, err
		}
	}
	slices.Sort(ids)
	return slices.Compact(ids), nil
}

// SetManufacturingState moves a device on: to Module1Complete or DeviceComplete, never back. To set what it has does nothing. fault.Invalid for
// another state, fault.AlreadyExists (a conflict) for a way back.
func (s *Service) SetManufacturingState(ctx context.Context, c Caller, tenant, device string, state ManufacturingState, match *iot.Match) (Device, error) {
	return s.change(ctx, c, tenant, device, "SetManufacturingState", match, func(d *Device) error { return d.advance(state) }, "state", state)
}

// advance is sphere §7.2.
func (d *Device) advance(to ManufacturingState) error {
	if to != StateModule1Complete && to != StateDeviceComplete {
		return fault.New(fault.Invalid, "a manufacturing state to set is Module1Complete or DeviceComplete, not %q", to)
	}
	if stage(to) < stage(d.State) {
		return fault.New(fault.AlreadyExists, "the device is %s; manufacturing states go one way", d.State)
	}
	d.State = to
	return nil
}

// stage orders states.
func stage(s ManufacturingState) int {
	switch s {
	case StateBlank:
		return 1
	case StateModule1Complete:
		return 2
	case StateDeviceComplete:
		return 3
	}
	return 0
}

// SetDeviceEnabled says whether a device gets certificates. Those that it has are good until they end, a day at most.
func (s *Service) SetDeviceEnabled(ctx context.Context, c Caller, tenant, device string, enabled bool, match *iot.Match) (Device, error) {
	d, err := s.change(ctx, c, tenant, device, "SetDeviceEnabled", match, func(d *Device) error {
		d.Enabled = enabled
		return nil
	}, "enabled", enabled)
	if err == nil && !enabled && s.cfg.Disabled != nil {
		s.cfg.Disabled(d.ID)
	}
	return d, err
}

// change changes one device of a tenant.
func (s *Service) change(ctx context.Context, c Caller, tenant, device, operation string, match *iot.Match, do func(*Device) error, more ...any) (Device, error) {
	id, err := s.allow(ctx, c, tenant, operation)
	if err != nil {
		return Device{}, err
	}
	if device, err = deviceID(device); err != nil {
		return Device{}, err
	}
	tag, now := newETag(), s.now().UTC()
	if _, err := s.put(ctx, device, func(d *Device) error {
		if d.Tenant != id {
			return noDevice(device)
		}
		if err := match.Check(d.ETag); err != nil {
			return err
		}
		d.ETag, d.Updated = tag, now
		return do(d)
	}); err != nil {
		return Device{}, err
	}
	s.audit(c, operation, id, device, more...)
	return s.store.TenantDevice(ctx, id, device, s.now())
}

func noDevice(id string) error { return fault.New(fault.NotFound, "device %s does not exist", id) }

// put changes one device that stands.
func (s *Service) put(ctx context.Context, device string, do func(*Device) error) (Device, error) {
	ds, errs, err := s.store.PutClaimedDevices(ctx, []string{device}, func(_ int, now *Device) (Device, error) {
		if now == nil {
			return Device{}, noDevice(device)
		}
		next := *now
		err := do(&next)
		return next, err
	})
	if err != nil {
		return Device{}, err
	}
	return ds[0], errs[0]
}

// Lives of capabilities.
const (
	capabilityLife    = 365 * 24 * time.Hour
	maxCapabilityLife = 10 * 365 * 24 * time.Hour
)

// capabilityIDs are the numbers in files.
var capabilityIDs = map[string]capability.ID{CapabilityAppDevelopment: capability.AppDevelopment, CapabilityFieldServicing: capability.FieldServicing}

// GrantCapability makes a capability file for a device (sphere §7.1, wire/capability), which CapabilitySigner's key signs, and keeps a record of
// it, so that the inventory shows it. The file's image id is the record's id. It ends at expires, to the second, within ten years; zero is a year
// from now.
func (s *Service) GrantCapability(ctx context.Context, c Caller, tenant, device string, kinds []string, expires time.Time) (Capability, []byte, error) {
	id, err := s.allow(ctx, c, tenant, "GrantCapability")
	if err != nil {
		return Capability{}, nil, err
	}
	if device, err = deviceID(device); err != nil {
		return Capability{}, nil, err
	}
	now := s.now().UTC()
	if len(kinds) == 0 {
		return Capability{}, nil, fault.New(fault.Invalid, "name capabilities: appDevelopment, fieldServicing")
	}
	file := capability.File{Built: now.Truncate(time.Second)}
	for i, k := range kinds {
		n, known := capabilityIDs[k]
		if !known || slices.Contains(kinds[:i], k) {
			return Capability{}, nil, fault.New(fault.Invalid, "there is no capability %q, or it is there twice; there are appDevelopment and fieldServicing", k)
		}
		file.Capabilities = append(file.Capabilities, n)
	}
	if expires.IsZero() {
		expires = now.Add(capabilityLife)
	}
	expires = expires.UTC().Truncate(time.Second)
	if !expires.After(now) || expires.Sub(now) > maxCapabilityLife {
		return Capability{}, nil, fault.New(fault.Invalid, "a capability ends in the future, within ten years")
	}
	g := Capability{ID: newGUID(), Device: device, Kinds: slices.Clone(kinds), Expires: expires, Granted: now, By: c.Subject}
	file.Expires = expires
	if _, err := hex.Decode(file.DeviceID[:], []byte(device)); err != nil {
		return Capability{}, nil, err
	}
	if _, err := hex.Decode(file.ImageID[:], []byte(strings.ReplaceAll(g.ID, "-", ""))); err != nil {
		return Capability{}, nil, err
	}
	data, err := file.Sign(s.capabilities.Certificate, s.capabilities.Signer())
	if err != nil {
		return Capability{}, nil, err
	}
	if err := s.store.AddCapability(ctx, id, g); err != nil {
		return Capability{}, nil, err
	}
	s.audit(c, "GrantCapability", id, device, "capability", g.ID, "kinds", kinds, "expires", g.Expires)
	return g, data, nil
}

// CapabilitySigner is the certificate whose key signs capability files: what devices of this installation trust.
func (s *Service) CapabilitySigner() *x509.Certificate { return s.capabilities.Certificate }
