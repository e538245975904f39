package sphere

import (
	"context"

	"github.com/vauban-iot/vauban/fault"
)

// right is what an operation asks of its caller.
type right struct {
	// least is the role, in the tenant that the operation names, which is enough. A role includes those below it. Empty: any signed-in caller.
	least Role
	// installation lets an administrator of the installation do it without a role.
	installation bool
}

// rights says who may do what (sphere §13): operations are methods of Service. What deletes, or takes something away for good, is
// for Administrators; so is what decides whom a tenant trusts. What is not here nobody may do.
var rights = map[string]right{
	// Who am I, and what is mine.
	"Me":           {least: ""},
	"Tenants":      {least: ""}, // those that the caller has a role in; all of them for an administrator of the installation
	"CreateTenant": {least: ""}, // within Config.TenantsPerUser

	"Tenant":       {least: Reader, installation: true},
	"UpdateTenant": {least: Administrator},

	"Members":    {least: Reader, installation: true},
	"AddRole":    {least: Administrator, installation: true}, // a tenant whose administrators are gone gets a new one
	"RemoveRole": {least: Administrator, installation: true},

	"Products":      {least: Reader},
	"Product":       {least: Reader},
	"ProductByName": {least: Reader},
	"CreateProduct": {least: Contributor},
	"UpdateProduct": {least: Contributor},
	"DeleteProduct": {least: Administrator},

	"DeviceGroups":          {least: Reader},
	"DeviceGroup":           {least: Reader},
	"DeviceGroupByName":     {least: Reader},
	"CreateDeviceGroup":     {least: Contributor},
	"GenerateDefaultGroups": {least: Contributor},
	"UpdateDeviceGroup":     {least: Contributor},
	"DeleteDeviceGroup":     {least: Administrator},

	"ManufactureRecords":       {least: Reader, installation: true},
	"UploadManufactureRecords": {least: Administrator, installation: true},
	"ClaimChallenge":           {least: Contributor},
	"Claim":                    {least: Contributor},
	"ClaimKnown":               {least: Contributor},

	"Devices":               {least: Reader},
	"Device":                {least: Reader},
	"CountDevices":          {least: Reader},
	"AssignDevices":         {least: Contributor},
	"SetManufacturingState": {least: Contributor},
	"SetDeviceEnabled":      {least: Administrator},
	"GrantCapability":       {least: Contributor},

	// With no tenant these are of the whole installation: anybody may read, its administrators write.
	"Releases":        {least: Reader},
	"PublishRelease":  {least: Contributor},
	"WithdrawRelease": {least: Administrator},
	"Minimums":        {least: Reader},
	"SetMinimum":      {least: Administrator},

	"Deployments":      {least: Reader},
	"Deployment":       {least: Reader},
	"CreateDeployment": {least: Contributor},
	"TargetedImages":   {least: Reader},

	"CAs":        {least: Reader},
	"CA":         {least: Reader},
	"CAChain":    {least: Reader},
	"CAProof":    {least: Contributor}, // whoever holds one can have the CA trusted elsewhere
	"RotateCA":   {least: Administrator},
	"ActivateCA": {least: Administrator},
	"RevokeCA":   {least: Administrator},

	"ErrorReport": {least: Reader},
}

// rank orders roles; no role is 0.
func rank(r Role) int {
	switch r {
	case Administrator:
		return 3
	case Contributor:
		return 2
	case Reader:
		return 1
	}
	return 0
}

// has reports whether a member's roles include one.
func (m Member) has(least Role) bool {
	for _, r := range m.Roles {
		if rank(r) >= rank(least) {
			return true
		}
	}
	return false
}

// noTenant is what is said of a tenant that is not there, and of one that is nothing to the caller.
func noTenant(id string) error { return fault.New(fault.NotFound, "tenant %q does not exist", id) }

// allow is the first thing each method with a tenant asks. It returns the stored form of the tenant's id.
func (s *Service) allow(ctx context.Context, c Caller, tenant, operation string) (string, error) {
	need, known := rights[operation]
	if c.Subject == "" || !known {
		return "", fault.New(fault.Unauthorized, "sign in first")
	}
	id, ok := guid(tenant)
	if !ok {
		return "", noTenant(tenant)
	}
	if need.installation && c.Admin {
		if _, err := s.store.Tenant(ctx, id); err != nil {
			return "", hide(err, tenant)
		}
		return id, nil
	}
	m, err := s.store.Membership(ctx, id, c.Subject)
	if err != nil {
		return "", hide(err, tenant)
	}
	if !m.has(need.least) {
		s.refused(c, operation, id, "", "needs role "+string(need.least))
		return "", fault.New(fault.Forbidden, "this needs the role %s in tenant %s", need.least, id)
	}
	return id, nil
}

// hide replaces what a store says of a tenant that is not there.
func hide(err error, tenant string) error {
	if fault.Is(err, fault.NotFound) {
		return noTenant(tenant)
	}
	return err
}

// signedIn is allow for operations without a tenant.
func (s *Service) signedIn(c Caller) error {
	if c.Subject == "" {
		return fault.New(fault.Unauthorized, "sign in first")
	}
	return checkText("a user's name", c.Subject, maxUser)
}

// audit writes the record of a change that was made.
func (s *Service) audit(c Caller, operation, tenant, target string, more ...any) {
	s.log.Info("change", append([]any{
		"audit", true, "who", c.Subject, "what", "sphere " + operation, "tenant", tenant, "target", target, "outcome", "done",
	}, more...)...)
}

// refused writes the record of a change that was refused.
func (s *Service) refused(c Caller, operation, tenant, target, reason string) {
	s.log.Warn("change", "audit", true, "who", c.Subject, "what", "sphere "+operation, "tenant", tenant, "target", target, "outcome", "refused", "reason", reason)
}
