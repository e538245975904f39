package registry

import (
	"context"

	"github.com/vauban-iot/vauban/fault"
	"github.com/vauban-iot/vauban/internal/secret"
	"github.com/vauban-iot/vauban/iot"
)

// RotateKeys gives an identity new symmetric keys; the others stay. Failures are fault.NotFound, and Invalid when it has none.
func (r *Registry) RotateKeys(ctx context.Context, id iot.ID, primary, secondary bool) (Identity, error) {
	first, second := secret.Random(keySize), secret.Random(keySize) // here: a change may run more than once
	return r.store.Update(ctx, id, func(d Identity) (Identity, error) {
		if d.Authentication.Type != SAS {
			return d, fault.New(fault.Invalid, "%s has no symmetric keys", id)
		}
		if primary {
			d.Authentication.PrimaryKey = first
		}
		if secondary {
			d.Authentication.SecondaryKey = second
		}
		d.ETag = nextETag(d.ETag)
		return d, nil
	})
}
