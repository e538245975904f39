package https

import (
	"context"
	"net/http"

	"github.com/vauban-iot/vauban/head/rest"
	"github.com/vauban-iot/vauban/hub/registry"
	"github.com/vauban-iot/vauban/iot"
	"github.com/vauban-iot/vauban/wire/sas"
)

// modules is what a device may ask about its own modules.
type modules interface {
	// ModuleOf returns a module of a device that proves itself for the whole hub. Failures are those of Visit, and fault.NotFound.
	ModuleOf(ctx context.Context, c iot.Credentials, module string) (registry.Identity, error)
}

// OwnsModule reports whether r is a device that asks for the keys of its own module, as security agents do that hold
// nothing but the device's key or certificate (defender §1.5). Programs ask on the same path, with a policy's token.
func OwnsModule(r *http.Request, segments []string) bool {
	if r.Method != http.MethodGet || !rest.Is(segments, "devices", "*", "modules", "*") {
		return false
	}
	text := r.Header.Get("Authorization")
	if text == "" {
		return r.TLS != nil && len(r.TLS.PeerCertificates) > 0
	}
	t, err := sas.Parse(text)
	return err == nil && t.KeyName == ""
}

func (h *Head) module(q *request, segments []string) error {
	q.id = iot.ID{Device: segments[1]}
	c := credentials(q)
	q.id.Module, q.segments = segments[3], segments[2:] // what a refusal is about
	m, err := h.core.ModuleOf(q.Context(), c, segments[3])
	if err != nil {
		return err
	}
	rest.JSON(q.w, http.StatusOK, string(m.ETag), m.MarshalDocument())
	return nil
}
