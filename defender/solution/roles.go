package solution

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/vauban-iot/vauban/fault"
)

// Role is what somebody may do at the hub's Defender. A greater one may what lesser ones may.
type Role int

// The roles. Those between the first and the last are Azure's built-in Security Reader and Security Admin.
const (
	Nobody        Role = iota
	Reader             // reads
	Administrator      // changes solutions and groups, dismisses alerts
	Operator           // has the operator's token: gives roles
)

// roleIDs are the ids of Azure's role definitions, the same in every subscription.
var roleIDs = map[Role]string{Reader: "39bc4728-0917-49c7-9d2c-d95423bc2eb4", Administrator: "fb1c8493-542b-48eb-b624-b4c8fea62acd"}

// String is what Azure calls it.
func (r Role) String() string {
	return [...]string{"nobody", "Security Reader", "Security Admin", "operator"}[r]
}

// ID is that of Azure's role definition; empty for what nobody can be given.
func (r Role) ID() string { return roleIDs[r] }

// ParseRole reads the id of a role definition, with or without what stands before it.
func ParseRole(id string) (Role, error) {
	last := id[strings.LastIndexByte(id, '/')+1:]
	for r, known := range roleIDs {
		if strings.EqualFold(last, known) {
			return r, nil
		}
	}
	return Nobody, fault.New(fault.Invalid, "properties.roleDefinitionId %.200q is neither that of Security Reader (%s) nor that of Security Admin (%s)", id, roleIDs[Reader], roleIDs[Administrator])
}

// Assignment gives a person a role.
type Assignment struct {
	ID   string    `json:"id"` // a GUID, chosen by who gives it
	Mail string    `json:"mail"`
	Role Role      `json:"role"`
	Time time.Time `json:"time"`
}

// MaxAssignments bounds them.
const MaxAssignments = 500

const rolesSetting = "defender/roles"

// Roles keeps who has which. It is safe for concurrent use.
type Roles struct{ settings Settings }

// NewRoles returns the roles of a store.
func NewRoles(s Settings) *Roles { return &Roles{s} }

func readRoles(text []byte) (all []Assignment, err error) {
	if len(text) == 0 {
		return nil, nil
	}
	if err := json.Unmarshal(text, &all); err != nil {
		return nil, fmt.Errorf("setting %s is damaged: %w", rolesSetting, err)
	}
	return all, nil
}

// All lists the assignments, the first given first.
func (r *Roles) All(ctx context.Context) ([]Assignment, error) {
	text, err := r.settings.Setting(ctx, rolesSetting)
	if err != nil && !fault.Is(err, fault.NotFound) {
		return nil, err
	}
	return readRoles(text)
}

// Of returns the greatest role of a person.
func (r *Roles) Of(ctx context.Context, mail string) (Role, error) {
	all, err := r.All(ctx)
	role := Nobody
	for _, a := range all {
		if strings.EqualFold(a.Mail, mail) {
			role = max(role, a.Role)
		}
	}
	return role, err
}

// Put gives a role. An assignment that stands cannot be changed, as in Azure: fault.AlreadyExists, unless it says the same.
func (r *Roles) Put(ctx context.Context, a Assignment) (stands Assignment, created bool, err error) {
	switch {
	case !guid.MatchString(a.ID):
		return a, false, fault.New(fault.Invalid, "the name of a role assignment is a GUID")
	case len(a.Mail) > 254 || strings.Count(a.Mail, "@") != 1 || strings.ContainsAny(a.Mail, " \t\r\n/"):
		return a, false, fault.New(fault.Invalid, "properties.principalId is the mail address with which somebody signs in")
	case a.Role.ID() == "":
		return a, false, fault.New(fault.Invalid, "properties.roleDefinitionId is required")
	}
	err = r.settings.UpdateSetting(ctx, rolesSetting, func(text []byte) ([]byte, error) {
		all, err := readRoles(text)
		if err != nil {
			return nil, err
		}
		stands, created = a, true
		for _, b := range all {
			same := strings.EqualFold(a.ID, b.ID)
			gives := strings.EqualFold(a.Mail, b.Mail) && a.Role == b.Role
			switch {
			case same && gives:
				stands, created = b, false
				return text, nil
			case same:
				return nil, fault.New(fault.AlreadyExists, "the role assignment %s gives %s the role %s; delete it first", b.ID, b.Mail, b.Role)
			case gives:
				return nil, fault.New(fault.AlreadyExists, "%s has the role %s already, by the role assignment %s", b.Mail, b.Role, b.ID)
			}
		}
		if len(all) >= MaxAssignments {
			return nil, fault.New(fault.QuotaExceeded, "there are %d role assignments already; delete some", MaxAssignments)
		}
		return json.Marshal(append(all, a))
	})
	return stands, created, err
}

// Delete takes a role away; existed tells whether it was there.
func (r *Roles) Delete(ctx context.Context, id string) (a Assignment, existed bool, err error) {
	err = r.settings.UpdateSetting(ctx, rolesSetting, func(text []byte) ([]byte, error) {
		all, err := readRoles(text)
		if err != nil {
			return nil, err
		}
		at := slices.IndexFunc(all, func(b Assignment) bool { return strings.EqualFold(b.ID, id) })
		if existed = at >= 0; !existed {
			return text, nil
		}
		a = all[at]
		return json.Marshal(slices.Delete(all, at, at+1))
	})
	return a, existed, err
}
