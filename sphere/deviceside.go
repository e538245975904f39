package sphere

import (
	"context"
	"crypto"
	"crypto/x509"
	"fmt"
	"slices"
	"time"

	"github.com/vauban-iot/vauban/fault"
	"github.com/vauban-iot/vauban/pki"
	"github.com/vauban-iot/vauban/sphere/deviceid"
	"github.com/vauban-iot/vauban/sphere/report"
	"github.com/vauban-iot/vauban/sphere/tenantca"
)

// DeviceSide is the Security Service as devices see it, by way of attestation. Its methods trust their caller that the device has proven to be the
// one they name, and ask for no role. Devices name themselves only, so nothing of another is within reach. It is safe for concurrent use.
type DeviceSide struct{ s *Service }

// DeviceSide returns it.
func (s *Service) DeviceSide() DeviceSide { return DeviceSide{s} }

// Device returns a claimed device with its capabilities in force; fault.NotFound, also for one that is not claimed.
func (d DeviceSide) Device(ctx context.Context, device string) (Device, error) {
	id, err := deviceID(device)
	if err != nil {
		return Device{}, err
	}
	return d.s.store.ClaimedDevice(ctx, id, d.s.now())
}

// Policy returns what the device must run now.
func (d DeviceSide) Policy(ctx context.Context, device string) (Policy, error) {
	v, err := d.Device(ctx, device)
	if err != nil {
		return Policy{}, err
	}
	return d.s.policy(ctx, v)
}

// Known is Device, but knows devices that are not claimed yet, too, from their manufacture records: they have no tenant, and attestation can tell
// them so.
func (d DeviceSide) Known(ctx context.Context, device string) (Device, error) {
	v, err := d.Device(ctx, device)
	if !fault.Is(err, fault.NotFound) {
		return v, err
	}
	id, err := deviceID(device)
	if err != nil {
		return Device{}, err
	}
	r, err := d.s.store.AnyManufactureRecord(ctx, id)
	if err != nil {
		return Device{}, err
	}
	return Device{ID: id, PublicKey: r.PublicKey, ChipSKU: r.ChipSKU, EndorsementKey: r.EndorsementKey, State: StateUnknown, Enabled: true}, nil
}

// Issue makes a certificate of about a day for a device and the key it will use for it, which need not be the device's identity. The chain is PEM:
// the leaf, whose common name is the device id in lower case, and its CA. fault.NotFound for a device that is not claimed, fault.Disabled for one
// that is disabled, fault.Invalid for a weak key.
//
// Whether the device deserves the kind is decided before (Policy.Judge).
func (d DeviceSide) Issue(ctx context.Context, device string, pub crypto.PublicKey, kind CertificateKind) (Issued, error) {
	return d.IssueBetween(ctx, device, pub, kind, time.Time{}, time.Time{})
}

// Bounds of certificates that IssueBetween is asked for.
const (
	maxLife     = 7 * 24 * time.Hour
	maxBackdate = time.Hour
)

// IssueBetween is Issue with the times at which the certificate begins and ends; zero times are Issue's. It ends within a week, and may end
// earlier: with its CA. fault.Invalid for other times.
func (d DeviceSide) IssueBetween(ctx context.Context, device string, pub crypto.PublicKey, kind CertificateKind, from, to time.Time) (Issued, error) {
	v, err := d.Device(ctx, device)
	if err != nil {
		return Issued{}, err
	}
	if !v.Enabled {
		return Issued{}, fault.New(fault.Disabled, "the device is disabled")
	}
	if err := deviceid.CheckKey(pub); err != nil {
		return Issued{}, err
	}
	now := d.s.now()
	if !from.IsZero() && (from.After(now) || now.Sub(from) > maxBackdate) || !to.IsZero() && (!to.After(now) || to.Sub(now) > maxLife) {
		return Issued{}, fault.New(fault.Invalid, "a device certificate begins now, or at most %v ago, and ends within %v", maxBackdate, maxLife)
	}
	a := d.s.updates
	switch kind {
	case UpdateCertificate:
	case ClientCertificate:
		if a, err = d.s.issuer(ctx, v.Tenant, now); err != nil {
			return Issued{}, err
		}
	default:
		return Issued{}, fault.New(fault.Invalid, "certificates are of kind client or update, not %q", kind)
	}
	leaf, err := a.Issue(tenantca.Device{ID: v.ID, Tenant: v.Tenant, Kind: string(kind), NotBefore: from, NotAfter: to}, pub, now)
	if err != nil {
		return Issued{}, err
	}
	d.s.log.Info("device certificate issued", "tenant", v.Tenant, "device", v.ID, "kind", string(kind), "serial", tenantca.Serial(leaf), "notAfter", leaf.NotAfter)
	return Issued{Chain: tenantca.PEM(leaf, a.Certificate), Leaf: leaf, NotBefore: leaf.NotBefore, NotAfter: leaf.NotAfter}, nil
}

// issuer opens the CA of a tenant that issues now.
func (s *Service) issuer(ctx context.Context, tenant string, now time.Time) (*tenantca.Authority, error) {
	for try := 0; ; try++ {
		all, err := s.store.TenantCAs(ctx, tenant)
		if err != nil {
			return nil, err
		}
		if at := issuing(all, now); at >= 0 {
			return s.open(all[at])
		}
		if try > 0 {
			return nil, fault.New(fault.Unavailable, "the tenant has no CA that may issue")
		}
		// Nobody looked after it in time.
		if err := s.ensureCA(ctx, tenant); err != nil {
			return nil, err
		}
		now = s.now()
	}
}

// Authenticate verifies the chain that a device presented, leaf first: by its tenant's CAs or by the updates CA, never by a thumbprint. It returns
// the device and the kind of its certificate. fault.Unauthorized for all that is wrong with the chain, fault.Disabled for a device that was
// disabled since.
func (d DeviceSide) Authenticate(ctx context.Context, presented []*x509.Certificate) (Device, CertificateKind, error) {
	refused := func(err error) (Device, CertificateKind, error) {
		return Device{}, "", fault.Wrap(fault.Unauthorized, err, "the device certificate is not one of this service, or not in force")
	}
	if len(presented) == 0 {
		return refused(pki.ErrNoCertificate)
	}
	said, ok := tenantca.DeviceOf(presented[0])
	if !ok {
		return refused(pki.ErrUntrusted)
	}
	id, err := deviceid.Parse(said.ID)
	if err != nil {
		return refused(err)
	}
	v, err := d.s.store.ClaimedDevice(ctx, id, d.s.now())
	if fault.Is(err, fault.NotFound) {
		return refused(err)
	}
	if err != nil {
		return Device{}, "", err
	}
	now := d.s.now()
	var anchors []*x509.Certificate
	switch CertificateKind(said.Kind) {
	case UpdateCertificate:
		anchors = append(anchors, d.s.updates.Certificate)
	case ClientCertificate:
		all, err := d.s.store.TenantCAs(ctx, v.Tenant)
		if err != nil {
			return Device{}, "", err
		}
		for _, c := range all {
			if !c.good(now) {
				continue
			}
			cert, err := x509.ParseCertificate(c.Certificate)
			if err != nil {
				return Device{}, "", fmt.Errorf("sphere: CA %s of tenant %s is damaged: %w", c.Serial, c.Tenant, err)
			}
			anchors = append(anchors, cert)
		}
	}
	if v.Tenant != said.Tenant {
		return refused(pki.ErrUntrusted)
	}
	if _, err := pki.VerifyChain(presented[:1], anchors, now); err != nil {
		return refused(err)
	}
	if !v.Enabled {
		return Device{}, "", fault.New(fault.Disabled, "the device is disabled")
	}
	return v, CertificateKind(said.Kind), nil
}

// Attested is what a device proved of itself.
type Attested struct {
	OSVersion    string
	Installed    []Image
	BootCounter  uint64 // never goes back; 0: the device has none
	HardwareRoot bool   // its key or quote is one of a TPM's
	Client       bool   // it gets a client certificate
}

// maxInstalled bounds the images that a device tells of.
const maxInstalled = 128

// RecordAttested keeps what a device proved, and that it asked for updates. fault.PreconditionFailed, and nothing is kept, when the boot counter
// went back: another copy of the device is, or was, at work.
func (d DeviceSide) RecordAttested(ctx context.Context, device string, a Attested) (Device, error) {
	v, err := d.Device(ctx, device)
	if err != nil {
		return Device{}, err
	}
	if a.OSVersion != "" {
		if err := checkVersion(a.OSVersion); err != nil {
			return Device{}, err
		}
	}
	if len(a.Installed) > maxInstalled {
		return Device{}, fault.New(fault.Invalid, "a device has at most %d images", maxInstalled)
	}
	images := make([]Image, len(a.Installed))
	for i, m := range a.Installed {
		images[i] = m.normal()
		if len(m.Component) > 36 || len(m.ID) > 36 || len(m.SHA256) > 64 {
			return Device{}, fault.New(fault.Invalid, "an image has a component id and an image id, GUIDs, and a SHA-256 of 64 hex digits")
		}
	}
	p, err := d.s.policy(ctx, v)
	if err != nil {
		return Device{}, err
	}
	tag, now := newETag(), d.s.now().UTC()
	if _, err := d.s.put(ctx, v.ID, func(v *Device) error {
		if a.BootCounter < v.BootCounter {
			return fault.New(fault.PreconditionFailed, "the boot counter went back from %d to %d: there is, or was, a copy of this device", v.BootCounter, a.BootCounter)
		}
		if v.LastInstalledOSVersion != a.OSVersion {
			v.LastInstalledOSVersion, v.LastOSUpdate = a.OSVersion, now
		}
		v.LastAvailableOSVersion, v.LastUpdateCheck = p.Latest, now
		v.BootCounter, v.HardwareRoot, v.Installed = a.BootCounter, a.HardwareRoot, slices.Clone(images)
		if a.Client {
			v.LastAttested = now
		}
		v.ETag, v.Updated = tag, now
		return nil
	}); err != nil {
		return Device{}, err
	}
	return d.s.store.ClaimedDevice(ctx, v.ID, d.s.now())
}

// RecordState keeps the manufacturing state that a device tells; one that told none may be Blank, too. fault.AlreadyExists (a conflict) for a way
// back.
func (d DeviceSide) RecordState(ctx context.Context, device string, state ManufacturingState) error {
	id, err := deviceID(device)
	if err != nil {
		return err
	}
	tag, now := newETag(), d.s.now().UTC()
	changed := false
	v, err := d.s.put(ctx, id, func(v *Device) error {
		if changed = v.State != state; !changed {
			return nil
		}
		v.ETag, v.Updated = tag, now
		if state == StateBlank && stage(v.State) == 0 {
			v.State = state
			return nil
		}
		return v.advance(state)
	})
	if err == nil && changed {
		d.s.audit(Caller{Subject: "device"}, "SetManufacturingState", v.Tenant, id, "state", state)
	}
	return err
}

// Report keeps what a device tells of failures, at most report.MaxUpload events at once. fault.Invalid for an event that is none, and then nothing
// is kept.
func (d DeviceSide) Report(ctx context.Context, device string, events []report.Event) error {
	v, err := d.Device(ctx, device)
	if err != nil {
		return err
	}
	if len(events) > report.MaxUpload {
		return fault.New(fault.Invalid, "a device tells at most %d events at once", report.MaxUpload)
	}
	now := d.s.now()
	kept := make([]report.Event, len(events))
	for i, e := range events {
		e.Device = v.ID
		if kept[i], err = e.Check(now); err != nil {
			return err
		}
	}
	if len(kept) == 0 {
		return nil
	}
	return d.s.store.AppendDeviceEvents(ctx, v.Tenant, v.ID, kept, now.Add(-report.Window), report.MaxKept)
}

// ErrorReport returns what a tenant's devices, or those in one of its groups, told of failures: what ended in the last 14 days, at most 1000
// events, the latest first. report.WriteCSV and report.Event.Insight are its forms.
func (s *Service) ErrorReport(ctx context.Context, c Caller, tenant, group string) ([]report.Event, error) {
	id, err := s.allow(ctx, c, tenant, "ErrorReport")
	if err != nil {
		return nil, err
	}
	group = Fold(group)
	if group != "" {
		if _, err := s.store.DeviceGroup(ctx, id, group); err != nil {
			return nil, err
		}
	}
	return s.store.DeviceEvents(ctx, id, group, s.now().Add(-report.Window), report.MaxEvents)
}
