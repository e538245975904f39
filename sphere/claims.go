package sphere

import (
	"context"
	"encoding/hex"
	"slices"
	"strings"

	"github.com/vauban-iot/vauban/fault"
	"github.com/vauban-iot/vauban/sphere/claim"
	"github.com/vauban-iot/vauban/sphere/deviceid"
)

// Claiming. A device goes to one tenant, once and for ever (sphere §4.2): there is no unclaim, and no operation that changes a device's tenant. So
// that nobody takes the devices of another by knowing their ids, or even their public keys, each claim stands on one of three proofs:
//
//   - Claim: whoever has the device in hand lets it sign a challenge made for the tenant.
//   - ClaimKnown with a voucher: the device signed for the tenant when it was made; the tenant's administrator uploaded that with the record.
//   - ClaimKnown with a reservation: an administrator of the installation, who is nobody's rival, uploaded the record for the tenant. A reserved
//     device goes to no other tenant, so a theft on the way claims nothing either.
//
// A tenant's own record without a voucher describes a device and allows nothing.

// ManufactureRecords lists what is known of devices of a tenant, claimed or not, by device.
func (s *Service) ManufactureRecords(ctx context.Context, c Caller, tenant string, p Page) (List[ManufactureRecord], error) {
	id, err := s.allow(ctx, c, tenant, "ManufactureRecords")
	if err != nil {
		return List[ManufactureRecord]{}, err
	}
	return page(p, func(r ManufactureRecord) string { return r.Device }, func(after string, limit int) ([]ManufactureRecord, error) {
		return s.store.ManufactureRecords(ctx, id, after, limit)
	})
}

// maxSKU bounds chip SKUs.
const maxSKU = 50

// UploadManufactureRecords keeps what is known of devices that are made for a tenant, at most MaxPage at once. Of each record PublicKey is
// required; ChipSKU, EndorsementKey and Voucher may be set, and Device, if it is not empty, must be the key's. An administrator of the installation
// thereby reserves the devices for the tenant, unless they are reserved for another or another's already.
//
// The error of each record is at its place: fault.Invalid, fault.Unauthorized for a voucher that is none, fault.AlreadyExists for a device that is
// another's.
func (s *Service) UploadManufactureRecords(ctx context.Context, c Caller, tenant string, records []ManufactureRecord) ([]error, error) {
	id, err := s.allow(ctx, c, tenant, "UploadManufactureRecords")
	if err != nil {
		return nil, err
	}
	if len(records) == 0 || len(records) > MaxPage {
		return nil, fault.New(fault.Invalid, "upload 1 to %d records at once", MaxPage)
	}
	errs := make([]error, len(records))
	var good []ManufactureRecord
	var at []int
	seen := map[string]bool{}
	now := s.now().UTC()
	for i, r := range records {
		if errs[i] = r.check(id); errs[i] != nil {
			continue
		}
		if seen[r.Device] {
			errs[i] = fault.New(fault.Invalid, "the device is there twice")
			continue
		}
		if c.Admin {
			owner, err := s.store.ClaimedDevice(ctx, r.Device, now)
			if err != nil && !fault.Is(err, fault.NotFound) {
				return nil, err
			}
			if err == nil && owner.Tenant != id {
				errs[i] = fault.New(fault.AlreadyExists, "the device is claimed by another tenant")
				continue
			}
		}
		seen[r.Device] = true
		r.Tenant, r.By, r.Created, r.Reserved = id, c.Subject, now, c.Admin
		good, at = append(good, r), append(at, i)
	}
	kept, err := s.store.PutManufactureRecords(ctx, id, good, func(i int, now *ManufactureRecord, reservedFor string) error {
		switch {
		case c.Admin && reservedFor != "" && reservedFor != id:
			return fault.New(fault.AlreadyExists, "the device is reserved for another tenant")
		case !c.Admin && now != nil && now.Reserved:
			return fault.New(fault.Forbidden, "the installation reserved the device for this tenant; only its administrators change the record")
		}
		return nil
	})
	if err != nil {
		return nil, hide(err, tenant)
	}
	for i, err := range kept {
		if errs[at[i]] = err; err == nil {
			s.audit(c, "UploadManufactureRecords", id, good[i].Device, "reserved", c.Admin, "voucher", good[i].Voucher != nil)
		}
	}
	return errs, nil
}

// check refuses what is no record and completes what is.
func (r *ManufactureRecord) check(tenant string) error {
	pub, id, err := deviceid.ParseKey(r.PublicKey)
	if err != nil {
		return err
	}
	if r.Device != "" && Fold(r.Device) != id {
		return fault.New(fault.Invalid, "the device id is not that of the public key")
	}
	r.Device = id
	if err := checkDetails(&r.ChipSKU, &r.EndorsementKey); err != nil {
		return err
	}
	if len(r.Voucher) == 0 {
		r.Voucher = nil
		return nil
	}
	return claim.VerifyVoucher(pub, tenant, r.Voucher)
}

// checkDetails checks what is said of a device beside its key.
func checkDetails(sku, endorsement *string) error {
	if err := checkText("a chip SKU", *sku, maxSKU); err != nil {
		return err
	}
	if *endorsement = strings.ToLower(*endorsement); *endorsement != "" {
		if b, err := hex.DecodeString(*endorsement); err != nil || len(b) != 32 {
			return fault.New(fault.Invalid, "an endorsement key is named by its SHA-256, 64 hex digits")
		}
	}
	return nil
}

// ClaimChallenge makes the text that a device signs (claim.Sign) so that it may be claimed for the tenant. It is good for one
// claim within claim.Life. Nothing is kept of it.
func (s *Service) ClaimChallenge(ctx context.Context, c Caller, tenant string) (string, error) {
	id, err := s.allow(ctx, c, tenant, "ClaimChallenge")
	if err != nil {
		return "", err
	}
	return s.claims.Mint(id, s.now())
}

// Proof is a device's answer to a challenge.
type Proof struct {
	Challenge string
	PublicKey []byte // SubjectPublicKeyInfo, DER
	Signature []byte // claim.Sign
	// What the device says of itself; a manufacture record of the tenant counts more.
	ChipSKU        string
	EndorsementKey string
	State          ManufacturingState // empty: Unknown
}

// Claim makes a device the tenant's, for ever, and puts it into a group, named by its id, or with "" into none. A device that is the tenant's
// already stays where it is, without error; claimed says whether it is new.
//
// Errors: fault.Invalid for a challenge that is none, expired, was used or made for another tenant; fault.Unauthorized for a signature that is not
// the device's; fault.AlreadyExists (409) when it is another tenant's or reserved for one; fault.NotFound for the group.
func (s *Service) Claim(ctx context.Context, c Caller, tenant string, p Proof, group string) (d Device, claimed bool, err error) {
	id, err := s.allow(ctx, c, tenant, "Claim")
	if err != nil {
		return Device{}, false, err
	}
	now := s.now().UTC()
	challenge, err := s.claims.Open(p.Challenge, id, now)
	if err != nil {
		return Device{}, false, err
	}
	pub, device, err := deviceid.ParseKey(p.PublicKey)
	if err != nil {
		return Device{}, false, err
	}
	if err := claim.Verify(pub, p.Challenge, p.Signature); err != nil {
		s.refused(c, "Claim", id, device, "no proof")
		return Device{}, false, err
	}
	switch p.State {
	case "":
		p.State = StateUnknown
	case StateUnknown, StateBlank, StateModule1Complete, StateDeviceComplete:
	default:
		return Device{}, false, fault.New(fault.Invalid, "there is no manufacturing state %q", p.State)
	}
	if err := checkDetails(&p.ChipSKU, &p.EndorsementKey); err != nil {
		return Device{}, false, err
	}
	if err := s.checkTarget(ctx, id, group); err != nil {
		return Device{}, false, err
	}
	// From here on the challenge is used up, whatever becomes of the claim.
	if err := s.store.SpendChallenge(ctx, challenge.Nonce, challenge.Expires, now); err != nil {
		if fault.Is(err, fault.AlreadyExists) {
			err = fault.New(fault.Invalid, "the claim challenge was used already; ask for a new one")
		}
		return Device{}, false, err
	}
	fresh := Device{
		ID: device, Tenant: id, PublicKey: p.PublicKey, ChipSKU: p.ChipSKU, EndorsementKey: p.EndorsementKey, State: p.State,
		Enabled: true, Claimed: now, ClaimedBy: c.Subject, ClaimedHow: ByProof, Updated: now,
	}
	r, err := s.store.ManufactureRecord(ctx, id, device)
	switch {
	case err == nil:
		fresh.ChipSKU, fresh.EndorsementKey = r.ChipSKU, r.EndorsementKey
	case !fault.Is(err, fault.NotFound):
		return Device{}, false, err
	}
	outcome, err := s.claim(ctx, c, "Claim", []Device{fresh}, group)
	if err != nil {
		return Device{}, false, err
	}
	if outcome[0].Err != nil {
		return Device{}, false, outcome[0].Err
	}
	d, err = s.store.TenantDevice(ctx, id, device, s.now())
	return d, outcome[0].Claimed, err
}

// Outcome is what became of one device of many.
type Outcome struct {
	Device  string
	Claimed bool // false: it was the tenant's already
	Err     error
}

// ClaimKnown claims devices by their ids alone, at most MaxPage: those for which the tenant's manufacture record holds a voucher or a reservation. A
// device that is the tenant's already needs neither. Of others it says fault.NotFound, whatever is known of them elsewhere. Otherwise it is Claim.
func (s *Service) ClaimKnown(ctx context.Context, c Caller, tenant string, devices []string, group string) ([]Outcome, error) {
	id, err := s.allow(ctx, c, tenant, "ClaimKnown")
	if err != nil {
		return nil, err
	}
	ids, err := deviceIDs(devices)
	if err != nil {
		return nil, err
	}
	if err := s.checkTarget(ctx, id, group); err != nil {
		return nil, err
	}
	now := s.now().UTC()
	outcomes := make([]Outcome, len(ids))
	var fresh []Device
	var at []int
	for i, device := range ids {
		outcomes[i].Device = device
		r, err := s.store.ManufactureRecord(ctx, id, device)
		switch {
		case fault.Is(err, fault.NotFound) || err == nil && r.Voucher == nil && !r.Reserved:
			_, err := s.store.TenantDevice(ctx, id, device, now)
			if err == nil {
				s.audit(c, "ClaimKnown", id, device, "already", true)
				continue
			}
			if !fault.Is(err, fault.NotFound) {
				return nil, err
			}
			outcomes[i].Err = fault.New(fault.NotFound, "no manufacture record lets this tenant claim device %s by its id; claim it with a proof", device)
			continue
		case err != nil:
			return nil, err
		}
		how := ByVoucher
		if r.Reserved {
			how = ByReservation
		}
		fresh, at = append(fresh, Device{
			ID: device, Tenant: id, PublicKey: r.PublicKey, ChipSKU: r.ChipSKU, EndorsementKey: r.EndorsementKey, State: StateUnknown,
			Enabled: true, Claimed: now, ClaimedBy: c.Subject, ClaimedHow: how, Updated: now,
		}), append(at, i)
	}
	if len(fresh) == 0 {
		return outcomes, nil
	}
	done, err := s.claim(ctx, c, "ClaimKnown", fresh, group)
	if err != nil {
		return nil, err
	}
	for i, o := range done {
		outcomes[at[i]] = o
	}
	return outcomes, nil
}

// checkTarget checks a group before anything is claimed for ever.
func (s *Service) checkTarget(ctx context.Context, tenant, group string) error {
	if group == "" || group == PseudoUnassigned || group == PseudoDefault {
		return nil
	}
	_, err := s.store.DeviceGroup(ctx, tenant, Fold(group))
	return err
}

// claim makes proven devices the tenant's.
func (s *Service) claim(ctx context.Context, c Caller, operation string, fresh []Device, group string) ([]Outcome, error) {
	outcomes := make([]Outcome, len(fresh))
	ids := make([]string, 0, len(fresh))
	at := make([]int, 0, len(fresh))
	for i := range fresh {
		d := &fresh[i]
		outcomes[i].Device = d.ID
		d.ETag = newETag()
		reserved, err := s.store.ReservedFor(ctx, d.ID)
		if err != nil {
			return nil, err
		}
		if reserved != "" && reserved != d.Tenant {
			s.refused(c, operation, d.Tenant, d.ID, "reserved for another tenant")
			outcomes[i].Err = anothers(d.ID)
			continue
		}
		ids, at = append(ids, d.ID), append(at, i)
	}
	isNew := make([]bool, len(ids))
	_, errs, err := s.store.PutClaimedDevices(ctx, ids, func(i int, now *Device) (Device, error) {
		isNew[i] = now == nil
		d := fresh[at[i]]
		switch {
		case now == nil:
			return d, nil
		case now.Tenant != d.Tenant:
			return Device{}, anothers(d.ID)
		}
		return *now, nil
	})
	if err != nil {
		return nil, err
	}
	var assign []string
	for i, err := range errs {
		o, d := &outcomes[at[i]], fresh[at[i]]
		o.Err, o.Claimed = err, err == nil && isNew[i]
		switch {
		case err != nil:
			s.refused(c, operation, d.Tenant, d.ID, "claimed by another tenant")
		case o.Claimed:
			assign = append(assign, d.ID)
			s.audit(c, operation, d.Tenant, d.ID, "how", d.ClaimedHow, "sku", d.ChipSKU)
		default:
			s.audit(c, operation, d.Tenant, d.ID, "how", d.ClaimedHow, "already", true)
		}
	}
	if group != "" && len(assign) > 0 {
		slices.Sort(assign)
		if err := s.assign(ctx, fresh[0].Tenant, assign, group, nil); err != nil {
			return nil, err
		}
	}
	return outcomes, nil
}

// anothers is the refusal of a second claim.
func anothers(id string) error {
	return fault.New(fault.AlreadyExists, "device %s belongs to another tenant; a claim is for ever", id)
}
