package node

import (
	"context"
	"crypto/x509"

	"github.com/vauban-iot/vauban/fault"
	attestationhead "github.com/vauban-iot/vauban/head/attestation"
	spherehead "github.com/vauban-iot/vauban/head/sphere"
	"github.com/vauban-iot/vauban/internal/secret"
	"github.com/vauban-iot/vauban/iot"
	"github.com/vauban-iot/vauban/sphere"
	"github.com/vauban-iot/vauban/sphere/attest"
	"github.com/vauban-iot/vauban/sphere/report"
	"github.com/vauban-iot/vauban/sphere/tenantca"
	"github.com/vauban-iot/vauban/wire/attestation"
)

// newSphere makes the Security Service and what devices prove themselves to.
func (n *Node) newSphere(ctx context.Context) (err error) {
	if n.sphere, err = sphere.New(ctx, sphere.Config{
		Store: n.State, Installation: n.cfg.Hostname, Logger: n.log,
		Disabled: func(device string) {
			n.router.Disconnect(iot.ID{Device: device}, fault.Disabled, "the device is disabled")
		},
	}); err != nil {
		return err
	}
	key, err := n.State.InitSetting(ctx, "sphere/nonces", secret.Random(keySize).Reveal())
	if err != nil {
		return err
	}
	side := deviceSide{n, n.sphere.DeviceSide()}
	n.attest, err = attest.New(attest.Config{
		Devices: side, Policy: side, Issuer: side, Inventory: side, Store: n.State, Secret: secret.New(key), Logger: n.log,
	})
	if err != nil {
		return err
	}
	n.attestation, err = attestationhead.New(attestationhead.Config{Service: n.attest, Updates: side, Reports: side, Logger: n.log})
	if err != nil {
		return err
	}
	seal, err := n.State.InitSetting(ctx, "sphere/tokens", secret.Random(keySize).Reveal())
	if err != nil {
		return err
	}
	n.tenants, err = spherehead.New(spherehead.Config{
		Service: n.sphere, SignIn: n.people, Administrator: n.isAdministrator, Key: secret.New(seal), Logger: n.log,
	})
	return err
}

// vouch says of certificates that the Security Service issued whether they still count: the device may have been disabled, or its
// tenant's CA revoked, since.
func (n *Node) vouch(ctx context.Context, chain []*x509.Certificate) (vouched bool, err error) {
	if _, ours := tenantca.DeviceOf(chain[0]); !ours {
		return false, nil
	}
	_, kind, err := n.sphere.DeviceSide().Authenticate(ctx, chain)
	if err == nil && kind != sphere.ClientCertificate {
		err = fault.New(fault.Unauthorized, "the certificate is not one for customers' services")
	}
	return true, err
}

// deviceSide is the Security Service as attestation knows it.
type deviceSide struct {
	n    *Node
	side sphere.DeviceSide
}

var (
	_ attest.Devices          = deviceSide{}
	_ attest.Policy           = deviceSide{}
	_ attest.Issuer           = deviceSide{}
	_ attest.Inventory        = deviceSide{}
	_ attestationhead.Updates = deviceSide{}
	_ attestationhead.Reports = deviceSide{}
)

func (d deviceSide) Device(ctx context.Context, id string) (attest.Device, error) {
	v, err := d.side.Known(ctx, id)
	if err != nil {
		return attest.Device{}, err
	}
	return attest.Device{ID: v.ID, PublicKey: v.PublicKey, EndorsementKey: v.EndorsementKey, Tenant: v.Tenant, Enabled: v.Enabled}, nil
}

func (d deviceSide) Judge(ctx context.Context, v attest.Device, osVersion string, measured []attestation.Image) (attest.Verdict, error) {
	p, err := d.side.Policy(ctx, v.ID)
	if err != nil {
		return attest.Verdict{}, err
	}
	j := p.Judge(osVersion, images(measured))
	return attest.Verdict{Trusted: j.Trusted, Current: j.Current, Reason: j.Reason}, nil
}

func images(measured []attestation.Image) []sphere.Image {
	all := make([]sphere.Image, len(measured))
	for i, m := range measured {
		all[i] = sphere.Image(m)
	}
	return all
}

func (d deviceSide) Issue(ctx context.Context, r attest.Request) (attest.Issued, error) {
	kind := sphere.ClientCertificate
	if r.Kind == attest.Update {
		kind = sphere.UpdateCertificate
	}
	c, err := d.side.IssueBetween(ctx, r.Device.ID, r.Key, kind, r.NotBefore, r.NotAfter)
	return attest.Issued{PEM: c.Chain, NotAfter: c.NotAfter}, err
}

// Attested implements attest.Inventory. Boot counters are attestation's own matter: it keeps and judges them.
func (d deviceSide) Attested(ctx context.Context, v attest.Device, r attest.Record) error {
	if _, err := d.side.RecordAttested(ctx, v.ID, sphere.Attested{
		OSVersion: r.OSVersion, Installed: images(r.Images), HardwareRoot: r.Kind == attestation.TPM, Client: r.Outcome == attest.Full,
	}); err != nil {
		return err
	}
	if r.State == "" {
		return nil
	}
	err := d.side.RecordState(ctx, v.ID, sphere.ManufacturingState(r.State))
	if fault.Is(err, fault.AlreadyExists) {
		// The service knows better: states go one way, whatever a device says of itself.
		d.n.log.Warn("a device tells an earlier manufacturing state than it had", "device", v.ID, "state", r.State)
		return nil
	}
	return err
}

func (d deviceSide) UpdateDevice(ctx context.Context, chain []*x509.Certificate) (string, error) {
	v, kind, err := d.side.Authenticate(ctx, chain)
	if err == nil && kind != sphere.UpdateCertificate {
		err = fault.New(fault.Unauthorized, "the certificate is not one for updates")
	}
	return v.ID, err
}

func (d deviceSide) Report(ctx context.Context, device string, events []attestation.Event) error {
	all := make([]report.Event, len(events))
	for i, e := range events {
		all[i] = report.Event{
			Device: device, Type: e.Type, Class: e.Class, Category: e.Category, Description: e.Description, Count: e.Count, Start: e.Start, End: e.End,
		}
	}
	return d.side.Report(ctx, device, all)
}
