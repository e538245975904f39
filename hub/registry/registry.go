// Package registry holds device identities: who may connect, with which
// credentials, and in which state (hub-service §2).
package registry

import (
	"context"
	"encoding/base64"
	"errors"
	"math/rand/v2"
	"strconv"
	"strings"
	"time"

	"github.com/vauban-iot/vauban/fault"
	"github.com/vauban-iot/vauban/hub/twin"
	"github.com/vauban-iot/vauban/internal/secret"
	"github.com/vauban-iot/vauban/iot"
)

// Config of a registry.
type Config struct {
	Store Store            // required
	Now   func() time.Time // nil: time.Now
	// Created and Deleted make what the log is told of identities that come and go; nil: nothing.
	Created, Deleted func(Identity, twin.Twin) []iot.Message
}

// Registry makes and changes identities by the hub's rules. It is safe for concurrent use.
type Registry struct {
	store            Store
	now              func() time.Time
	created, deleted func(Identity, twin.Twin) []iot.Message
}

// New returns a registry on a store.
func New(cfg Config) (*Registry, error) {
	if cfg.Store == nil {
		return nil, errors.New("hub/registry: Store is required")
	}
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	if cfg.Created == nil {
		cfg.Created = func(Identity, twin.Twin) []iot.Message { return nil }
	}
	return &Registry{store: cfg.Store, now: cfg.Now, created: cfg.Created, deleted: cfg.Deleted}, nil
}

// Identity returns one identity; fault.NotFound.
func (r *Registry) Identity(ctx context.Context, id iot.ID) (Identity, error) {
	return r.store.Identity(ctx, id)
}

// MaxList is the most identities one list holds (hub-service §2.1).
const MaxList = 1000

// List returns at most top devices (not modules); 0 and more than MaxList mean MaxList.
func (r *Registry) List(ctx context.Context, top int) ([]Identity, error) {
	if top <= 0 || top > MaxList {
		top = MaxList
	}
	return r.store.List(ctx, "", top)
}

// Statistics counts devices.
func (r *Registry) Statistics(ctx context.Context) (Statistics, error) {
	return r.store.Statistics(ctx)
}

// keySize is that of a generated key, in bytes; Azure's are of this size too.
const keySize = 32

// Create adds an identity with its first twin, or with an empty one when t is nil. Keys that are
// missing are generated. Failures are fault.Invalid, InvalidScope and AlreadyExists.
func (r *Registry) Create(ctx context.Context, d Identity, t *twin.Twin) (Identity, error) {
	if err := iot.ValidateID("deviceId", d.ID.Device); err != nil {
		return Identity{}, err
	}
	if d.ID.Module != "" {
		if err := iot.ValidateID("moduleId", d.ID.Module); err != nil {
			return Identity{}, err
		}
		if err := r.checkReserved(ctx, d.ID); err != nil {
			return Identity{}, err
		}
	}
	now := r.now()
	d.Generation = generation(now)
	d.ETag = nextETag("")
	if d.Status == "" {
		d.Status = Enabled
	}
	d.Authentication = d.Authentication.completed()
	if err := d.check(); err != nil {
		return Identity{}, err
	}
	parent := d.Scope
	d.Scope = ""
	if err := r.place(ctx, &d, placement{leaf: parent, edge: d.ParentScopes}); err != nil {
		return Identity{}, err
	}
	if t == nil {
		fresh := twin.New(d.ID)
		t = &fresh
	}
	var below []Identity
	if d.Edge {
		below = runtime(d.ID.Device, now)
	}
	first := *t
	first.Facts = r.created(d, first)
	for _, m := range below {
		first.Facts = append(first.Facts, r.created(m, twin.New(m.ID))...)
	}
	if err := r.store.Create(ctx, d, first, below...); err != nil {
		return Identity{}, err
	}
	return d, nil
}

// Update changes an identity when match allows it. Failures are fault.NotFound,
// PreconditionFailed, Invalid and InvalidScope.
func (r *Registry) Update(ctx context.Context, id iot.ID, match *iot.Match, c Change) (Identity, error) {
	now := r.now()
	if id.Module != "" {
		c = c.forModule()
	}
	// Parents are looked up before the transaction: a store may not be read inside one.
	var planned Identity
	if c.Scope != nil || c.ParentScopes != nil || c.Edge != nil {
		old, err := r.store.Identity(ctx, id)
		if err != nil {
			return Identity{}, err
		}
		planned = c.apply(old, now)
		if err := r.place(ctx, &planned, c.placement(old)); err != nil {
			return Identity{}, err
		}
	}
	next, err := r.store.Update(ctx, id, func(d Identity) (Identity, error) {
		if err := match.Check(d.ETag); err != nil {
			return d, err
		}
		next := c.apply(d, now)
		next.Scope, next.ParentScopes = d.Scope, d.ParentScopes
		if planned.Generation == d.Generation {
			next.Scope, next.ParentScopes = planned.Scope, planned.ParentScopes
		}
		next.Authentication = next.Authentication.completed()
		next.ETag = nextETag(d.ETag)
		return next, next.check()
	})
	if err == nil && next.Edge && c.Edge != nil {
		err = r.addRuntime(ctx, id.Device, now)
	}
	return next, err
}

// Delete removes an identity with its modules, twins and waiting messages, when match allows
// it; fault.NotFound, PreconditionFailed.
func (r *Registry) Delete(ctx context.Context, id iot.ID, match *iot.Match) error {
	if SystemModule(id.Module) {
		switch d, err := r.store.Identity(ctx, iot.ID{Device: id.Device}); {
		case err != nil:
			return err
		case d.Edge:
			return ErrSystemModule
		}
	}
	return r.store.Delete(ctx, id, func(d Identity) error { return match.Check(d.ETag) }, r.deleted)
}

// scopePrefix starts the scope of every edge device (hub-service §2.5).
const scopePrefix = "ms-azure-iot-edge://"

// placement is where an identity wants to stand: a leaf names its parent in its scope, an edge
// device in its parent scopes.
type placement struct {
	leaf string
	edge []string
}

// place gives d its scope and parents (hub-service §2.5); fault.InvalidScope when the parent is no edge device.
func (r *Registry) place(ctx context.Context, d *Identity, p placement) error {
	if d.Edge {
		d.Scope = scopePrefix + d.ID.Device + "-" + d.Generation
		d.ParentScopes = p.edge
	} else {
		d.Scope, d.ParentScopes = p.leaf, nil
		if d.Scope == "" && len(p.edge) > 0 {
			d.Scope = p.edge[0]
		}
		if d.Scope != "" {
			d.ParentScopes = []string{d.Scope}
		}
	}
	for _, scope := range d.ParentScopes {
		if err := r.checkParent(ctx, d.ID, scope); err != nil {
			return err
		}
	}
	return nil
}

func (r *Registry) checkParent(ctx context.Context, child iot.ID, scope string) error {
	parent, err := r.ofScope(ctx, scope)
	if err == nil && parent.ID.Device == child.Device {
		err = errNoScope(scope)
	}
	return err
}

func errNoScope(scope string) error {
	return fault.New(fault.InvalidScope, "%q is the scope of no edge device", scope)
}

// ofScope returns the edge device that a scope belongs to; fault.InvalidScope.
func (r *Registry) ofScope(ctx context.Context, scope string) (Identity, error) {
	name, ok := strings.CutPrefix(scope, scopePrefix)
	dash := strings.LastIndexByte(name, '-')
	if !ok || dash <= 0 {
		return Identity{}, errNoScope(scope)
	}
	parent, err := r.store.Identity(ctx, iot.ID{Device: name[:dash]})
	switch {
	case fault.Is(err, fault.NotFound), fault.Is(err, fault.Invalid):
		return Identity{}, errNoScope(scope)
	case err != nil:
		return Identity{}, err
	case !parent.Edge || parent.Scope != scope:
		return Identity{}, errNoScope(scope)
	}
	return parent, nil
}

// Parent returns the one of d's parents that has the given device id: the edge device above it, or the device of a
// module. It is fault.NotFound when d has no such parent.
func (r *Registry) Parent(ctx context.Context, d Identity, device string) (Identity, error) {
	if d.ID.Module != "" {
		if d.ID.Device != device {
			return Identity{}, fault.New(fault.NotFound, "%s is not the device of module %s", device, d.ID)
		}
		return r.store.Identity(ctx, iot.ID{Device: device})
	}
	for _, scope := range d.ParentScopes {
		p, err := r.ofScope(ctx, scope)
		if err == nil && p.ID.Device == device {
			return p, nil
		}
		if err != nil && !fault.Is(err, fault.InvalidScope) { // a parent that was deleted is none
			return Identity{}, err
		}
	}
	return Identity{}, fault.New(fault.NotFound, "%s is no parent of %s", device, d.ID)
}

// generation is the time in ticks of 100 ns since the year 1, 18 digits as Azure's: a device that is
// made again gets another one. It must not hold a dash (hub-service §2.5).
func generation(now time.Time) string {
	const unixEpoch = 621355968000000000
	return strconv.FormatInt(unixEpoch+now.Unix()*1e7+int64(now.Nanosecond())/100, 10)
}

// nextETag is the base64 of a decimal number, other than the one before.
func nextETag(old iot.ETag) iot.ETag {
	for {
		n := strconv.FormatUint(uint64(rand.Uint32()), 10)
		if tag := iot.ETag(base64.StdEncoding.EncodeToString([]byte(n))); tag != old {
			return tag
		}
	}
}

const maxReason = 128 // characters of statusReason

// check judges what a caller may set.
func (d *Identity) check() error {
	if d.Status != Enabled && d.Status != Disabled {
		return fault.New(fault.Invalid, "status must be enabled or disabled")
	}
	if len([]rune(d.StatusReason)) > maxReason {
		return fault.New(fault.Invalid, "statusReason has more than %d characters", maxReason)
	}
	return d.Authentication.check()
}

// completed fills in the keys that are missing and drops what does not belong to the type.
func (a Authentication) completed() Authentication {
	if a.Type == "" {
		a.Type = SAS
	}
	switch a.Type {
	case SAS:
		if a.PrimaryKey.IsZero() {
			a.PrimaryKey = secret.Random(keySize)
		}
		if a.SecondaryKey.IsZero() {
			a.SecondaryKey = secret.Random(keySize)
		}
		a.PrimaryThumbprint, a.SecondaryThumbprint = "", ""
	case SelfSigned:
		a.PrimaryKey, a.SecondaryKey = secret.Secret{}, secret.Secret{}
	default:
		a = Authentication{Type: a.Type}
	}
	return a
}

// Sizes of a symmetric key in bytes (hub-service §2.4).
const (
	minKey = 16
	maxKey = 64
)

func (a *Authentication) check() error {
	switch a.Type {
	case SAS:
		for _, k := range []secret.Secret{a.PrimaryKey, a.SecondaryKey} {
			if n := len(k.Reveal()); n < minKey || n > maxKey {
				return fault.New(fault.Invalid, "a symmetric key has %d bytes, %d to %d are allowed", n, minKey, maxKey)
			}
		}
	case SelfSigned:
		if a.PrimaryThumbprint == "" && a.SecondaryThumbprint == "" {
			return fault.New(fault.Invalid, "authentication of type selfSigned needs a thumbprint")
		}
		for _, t := range []string{a.PrimaryThumbprint, a.SecondaryThumbprint} {
			if t != "" && !isThumbprint(t) {
				return fault.New(fault.Invalid, "a thumbprint must be the 40 hexadecimal digits of a SHA-1 or the 64 of a SHA-256")
			}
		}
	case CertificateAuthority, None:
	default:
		return fault.New(fault.Invalid, "authentication.type must be sas, selfSigned, certificateAuthority or none")
	}
	return nil
}

func isThumbprint(s string) bool {
	return (len(s) == 40 || len(s) == 64) && strings.Trim(s, "0123456789ABCDEF") == ""
}
