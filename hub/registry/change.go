package registry

import (
	"encoding/json"
	"strings"
	"time"

	"github.com/vauban-iot/vauban/fault"
	"github.com/vauban-iot/vauban/internal/secret"
	"github.com/vauban-iot/vauban/iot"
)

// Change is what a caller writes of an identity. Nil members stay as they are.
type Change struct {
	DeviceID  string // as the caller wrote it; empty when it did not
	ModuleID  string // likewise
	Status    *Status
	Reason    *string
	Edge      *bool
	ManagedBy *string // of a module
	// Authentication replaces type and material; keys it leaves out stay, and so do both thumbprints when it names neither.
	Authentication *Authentication
	Scope          *string
	ParentScopes   *[]string
}

// New is a new identity as c describes it.
func (c Change) New(id iot.ID) Identity {
	if id.Module != "" {
		c = c.forModule()
	}
	d := c.apply(Identity{ID: id, Status: Enabled}, time.Time{})
	d.StatusTime = time.Time{}
	if c.Scope != nil {
		d.Scope = *c.Scope
	}
	if c.ParentScopes != nil {
		d.ParentScopes = *c.ParentScopes
	}
	return d
}

// apply returns d changed, but for its place in the hierarchy.
func (c Change) apply(d Identity, now time.Time) Identity {
	if c.Status != nil && *c.Status != d.Status {
		d.Status, d.StatusTime = *c.Status, now
	}
	if c.Reason != nil {
		d.StatusReason = *c.Reason
	}
	if c.Edge != nil {
		d.Edge = *c.Edge
	}
	if c.ManagedBy != nil && d.ID.Module != "" {
		d.ManagedBy = *c.ManagedBy
	}
	if c.Authentication != nil {
		d.Authentication = d.Authentication.changed(*c.Authentication)
	}
	return d
}

// placement is where d wants to stand after c. Programs that move a device change one of the two
// members and send the other as they read it (hub-service §2.5).
func (c Change) placement(d Identity) placement {
	p := placement{leaf: d.Scope, edge: d.ParentScopes}
	edge := d.Edge
	if c.Edge != nil {
		edge = *c.Edge
	}
	if edge {
		if !d.Edge {
			p.edge = nil // a leaf's mirror of its scope
		}
		if c.ParentScopes != nil {
			p.edge = *c.ParentScopes
		}
		return p
	}
	if d.Edge {
		p.leaf = "" // its own scope as an edge device
	}
	switch {
	case c.Scope != nil && *c.Scope != d.Scope:
		p.leaf = *c.Scope
	case c.ParentScopes != nil && strings.Join(*c.ParentScopes, "\n") != strings.Join(d.ParentScopes, "\n"):
		p.leaf = strings.Join(*c.ParentScopes, "\n") // more than one parent is no scope that exists
	}
	p.edge = nil
	return p
}

func (a Authentication) changed(c Authentication) Authentication {
	if c.Type != a.Type {
		return c
	}
	if c.PrimaryKey.IsZero() {
		c.PrimaryKey = a.PrimaryKey
	}
	if c.SecondaryKey.IsZero() {
		c.SecondaryKey = a.SecondaryKey
	}
	if c.PrimaryThumbprint == "" && c.SecondaryThumbprint == "" {
		c.PrimaryThumbprint, c.SecondaryThumbprint = a.PrimaryThumbprint, a.SecondaryThumbprint
	}
	return c
}

// ParseIdentity reads an identity document as programs send it (hub-service §2.2, §2.3). Member
// names match in any case and read-only members are left aside. Failures are
// fault.Malformed and Invalid.
func ParseIdentity(body []byte) (Change, error) {
	var doc struct {
		DeviceID       string          `json:"deviceId"`
		ModuleID       string          `json:"moduleId"`
		ManagedBy      json.RawMessage `json:"managedBy"`
		Status         *Status         `json:"status"`
		StatusReason   json.RawMessage `json:"statusReason"`
		Authentication *struct {
			Type         *AuthType `json:"type"`
			SymmetricKey struct {
				Primary   string `json:"primaryKey"`
				Secondary string `json:"secondaryKey"`
			} `json:"symmetricKey"`
			Thumbprint struct {
				Primary   string `json:"primaryThumbprint"`
				Secondary string `json:"secondaryThumbprint"`
			} `json:"x509Thumbprint"`
		} `json:"authentication"`
		Capabilities *struct {
			Edge *bool `json:"iotEdge"`
		} `json:"capabilities"`
		DeviceScope  json.RawMessage `json:"deviceScope"`
		ParentScopes json.RawMessage `json:"parentScopes"`
	}
	if err := json.Unmarshal(body, &doc); err != nil {
		return Change{}, fault.Wrap(fault.Malformed, err, "the body is not an identity document")
	}
	c := Change{DeviceID: doc.DeviceID, ModuleID: doc.ModuleID, Status: doc.Status}
	if doc.Capabilities != nil {
		c.Edge = doc.Capabilities.Edge
	}
	var err error
	if c.Reason, err = present[string]("statusReason", doc.StatusReason); err != nil {
		return Change{}, err
	}
	if c.ManagedBy, err = present[string]("managedBy", doc.ManagedBy); err != nil {
		return Change{}, err
	}
	if c.Scope, err = present[string]("deviceScope", doc.DeviceScope); err != nil {
		return Change{}, err
	}
	if c.ParentScopes, err = present[[]string]("parentScopes", doc.ParentScopes); err != nil {
		return Change{}, err
	}
	if a := doc.Authentication; a != nil {
		auth := Authentication{PrimaryThumbprint: plainThumbprint(a.Thumbprint.Primary), SecondaryThumbprint: plainThumbprint(a.Thumbprint.Secondary)}
		switch {
		case a.Type != nil:
			auth.Type = *a.Type
		case auth.PrimaryThumbprint != "" || auth.SecondaryThumbprint != "":
			auth.Type = SelfSigned
		default:
			auth.Type = SAS
		}
		if auth.PrimaryKey, err = key("primaryKey", a.SymmetricKey.Primary); err != nil {
			return Change{}, err
		}
		if auth.SecondaryKey, err = key("secondaryKey", a.SymmetricKey.Secondary); err != nil {
			return Change{}, err
		}
		c.Authentication = &auth
	}
	return c, nil
}

// present is nil for an absent member, and the zero value for null, which clears.
func present[T any](name string, raw json.RawMessage) (*T, error) {
	if raw == nil {
		return nil, nil
	}
	var v T
	if err := json.Unmarshal(raw, &v); err != nil {
		return nil, fault.Wrap(fault.Invalid, err, "%s has the wrong type", name)
	}
	return &v, nil
}

func key(name, text string) (secret.Secret, error) {
	if text == "" {
		return secret.Secret{}, nil
	}
	k, err := secret.FromBase64(text)
	if err != nil {
		return secret.Secret{}, fault.New(fault.Invalid, "%s is not base64", name)
	}
	return k, nil
}

// plainThumbprint is upper-case hex without the colons and spaces that tools print.
func plainThumbprint(s string) string {
	if s == "" {
		return ""
	}
	return strings.ToUpper(separators.Replace(s))
}

var separators = strings.NewReplacer(":", "", " ", "")
