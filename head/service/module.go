package service

import (
	"context"
	"errors"
	"net/http"

	"github.com/vauban-iot/vauban/access"
	"github.com/vauban-iot/vauban/fault"
	"github.com/vauban-iot/vauban/head/rest"
	"github.com/vauban-iot/vauban/hub/registry"
	"github.com/vauban-iot/vauban/iot"
)

// modules is what the module routes need of the hub beside what device routes do.
type modules interface {
	Modules(ctx context.Context, device string) ([]registry.Identity, error)
}

// moduleRoutes are the identities of modules (hub-service §2.1); their twins and methods are served as those of devices.
var moduleRoutes = []route{
	{method: "GET", path: []string{"devices", "*", "modules"}, rights: access.RegistryRead, serve: (*Head).listModules},
	{method: "GET", path: []string{"devices", "*", "modules", "*"}, rights: access.RegistryRead, serve: (*Head).get},
	{method: "PUT", path: []string{"devices", "*", "modules", "*"}, rights: access.RegistryWrite, limit: maxIdentity, serve: (*Head).put},
	{method: "DELETE", path: []string{"devices", "*", "modules", "*"}, rights: access.RegistryWrite, serve: (*Head).remove},
}

func (h *Head) listModules(q *request) error {
	ms, err := h.core.Modules(q.Context(), q.segments[1])
	if err != nil {
		return err
	}
	writeIdentities(q, ms)
	return nil
}

// writeIdentities answers with a list.
func writeIdentities(q *request, ds []registry.Identity) {
	body := []byte{'['}
	for i, d := range ds {
		if i > 0 {
			body = append(body, ',')
		}
		body = append(body, d.MarshalDocument()...)
	}
	rest.JSON(q.w, http.StatusOK, "", append(body, ']'))
}

// moduleCode is the code of a refusal that means something else for a module than for a device.
func (h *Head) moduleCode(ctx context.Context, id iot.ID, err error) (code, bool) {
	switch {
	case id.Module == "":
	case errors.Is(err, registry.ErrTooManyModules):
		return code{413, 413003, "TooManyModulesOnDevice"}, true
	case errors.Is(err, registry.ErrSystemModule):
		return code{401, 401100, "SystemModuleModifyUnauthorizedAccess"}, true
	case fault.Is(err, fault.NotFound):
		// A module needs its device: which of the two is missing is for the client to know.
		if _, err := h.core.Device(ctx, iot.ID{Device: id.Device}); !fault.Is(err, fault.NotFound) {
			return code{404, 404010, "ModuleNotFound"}, true
		}
	case fault.Is(err, fault.AlreadyExists):
		return code{409, 409301, "ModuleAlreadyExistsOnDevice"}, true
	}
	return code{}, false
}
